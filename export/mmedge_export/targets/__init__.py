"""Variants for other engines than ONNX Runtime."""
