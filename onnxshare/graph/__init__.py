"""The index over a model: nodes, constants, edits; calls into onnx made safe."""
