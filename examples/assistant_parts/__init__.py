"""The parts of the assistant example: networks, answers, sensors, page."""
