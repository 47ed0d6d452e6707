"""The index over a model: nodes, constants, edits, and calls into onnx made safe."""
