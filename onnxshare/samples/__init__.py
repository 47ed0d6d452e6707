"""Sample inputs: read from NumPy files, ONNX test data or images, given in Python, or random."""
