"""Random networks and files, and what every one of them must keep.

Each is either refused with a reason, or its bundle answers as torch or ONNX Runtime does on inputs
drawn over its whole stated domain.
"""
