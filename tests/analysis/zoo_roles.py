"""What every stored tensor of the zoo's models is, written by hand, and the sums that follow: with
onnx and a list of names only.

`python -m tests.analysis.zoo_roles FOLDER` prints the sums of the models in a folder.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path

import onnx

PARAMS, STATISTICS, CONSTANTS, QUANTIZATION, STRUCTURE = (
    "params",
    "statistics",
    "constants",
    "quantization",
    "structure",
)

#: Names, with * for any text, and what a tensor of such a name is; the first that fits counts.
ROLES: dict[str, dict[str, str]] = {
    "mnist8_cntk": {
        "Parameter193_reshape1_shape": STRUCTURE,
        "*_reshape0_shape": STRUCTURE,
        "Parameter5": PARAMS,  # two convolutions, their biases, the FC and its bias
        "Parameter6": PARAMS,
        "Parameter87": PARAMS,
        "Parameter88": PARAMS,
        "Parameter193": PARAMS,
        "Parameter194": PARAMS,
    },
    "winml_imageclassifier_cifar10": {
        "4[89]": PARAMS,  # four convolutions with batch normalization folded into them
        "5[124578]": PARAMS,
        "fc1.*": PARAMS,
        "44": STRUCTURE,  # sizes of the Reshape
    },
    "marabou_mnist_maxpool2": {"*/kernel:0": PARAMS, "*/bias:0": PARAMS},
    "marabou_traffic64": {
        "const_fold_opt__15": STRUCTURE,
        "*/rescaling/Cast*": CONSTANTS,  # one factor and one offset for all pixels
        "*/ReadVariableOp:0": PARAMS,
    },
    "cifar_base_kw_dynreshape": {"[1-8]": PARAMS, "13": STRUCTURE, "16": STRUCTURE},
    "mesonet_deepfake": {
        "const_fold_opt__55": STRUCTURE,
        "*/FusedBatchNormV3/*": STATISTICS,  # running mean and variance
        "*/batch_normalization*": PARAMS,  # scale and shift
        "*/conv2d*": PARAMS,
        "*/dense*": PARAMS,
    },
    "mtcnn_rnet": {
        "*/kernel:0": PARAMS,
        "*/bias:0": PARAMS,
        "slope": PARAMS,  # a learned slope per feature, and per channel
        "p_re_lu_*": PARAMS,
    },
    "zkml_lenet_small": {"*.weight": PARAMS, "*.bias": PARAMS},
    "derived_mnist8_qdq": {
        "*_reshape0_shape": STRUCTURE,
        "*_zero_point": QUANTIZATION,
        "*_scale": QUANTIZATION,
        "*_quantized": PARAMS,
    },
    "silero_vad_half": {
        "stft.forward_basis_buffer": PARAMS,  # a Fourier basis, multiplied as a kernel
        "encoder.*": PARAMS,
        "decoder.*": PARAMS,
        "/stft/Constant_2[23]_output_0": CONSTANTS,  # the exponents of two Pow
        "*": STRUCTURE,  # sizes, axes, pads and indices, all of them integers
    },
}


def tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every tensor that a graph stores, in subgraphs too."""
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield node.output[0], attribute.t
            if attribute.HasField("g"):
                yield from tensors(attribute.g)


def role(model: str, name: str) -> str:
    """What a tensor is.

    Raises:
        KeyError: nobody wrote it down.
    """
    for pattern, written in ROLES[model].items():
        if fnmatchcase(name, pattern):
            return written
    raise KeyError(f"{model}: {name}")


def sums(path: Path) -> Counter[str]:
    """Elements by role."""
    found: Counter[str] = Counter()
    for name, tensor in tensors(onnx.load(path).graph):
        written = role(path.stem, name)
        assert written != STRUCTURE or tensor.data_type == onnx.TensorProto.INT64, name
        found[written] += prod(tensor.dims)
    return found


def parameters(path: Path) -> dict[str, int]:
    """Elements of each tensor that holds parameters."""
    return {
        name: prod(tensor.dims)
        for name, tensor in tensors(onnx.load(path).graph)
        if role(path.stem, name) == PARAMS
    }


if __name__ == "__main__":
    for file in sorted(Path(sys.argv[1]).glob("*.onnx")):
        print(file.stem, dict(sums(file)))
