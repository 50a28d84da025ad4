"""Where a model comes from: a factory's torch module, or an ONNX file."""
