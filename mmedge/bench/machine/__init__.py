"""The machine around a measurement: processor, clocks, power, load."""
