"""Passes over an onnx-ir model, one a file."""
