"""Shapes of the operators that onnx's shape inference has no rule for."""
