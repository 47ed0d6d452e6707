"""Tests of onnxshare; what several of them build with is in `builders`."""
