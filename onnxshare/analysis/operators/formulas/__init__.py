"""One small function per kind of operator: uses of weights and arithmetic for one sample.

Connections follow LeCun et al., "Gradient-based learning applied to document recognition", 1998:
one per use of a weight or bias in one output element. MACs count multiply-accumulates without
the bias; whatever else computes is counted in FLOPs only. What operators compute is specified at
https://onnx.ai/onnx/operators/, and of those in the domain com.microsoft at
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""
