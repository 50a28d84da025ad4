"""An ONNX graph: reading its nodes, sizes and ranges, and running it."""
