"""Readers of sample files: NumPy's formats, ONNX test data, images; batch by batch where large."""
