"""Shapes of operators that onnx does not infer."""
