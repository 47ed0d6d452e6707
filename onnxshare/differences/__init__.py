"""What changed between two models: `onnxshare diff`."""
