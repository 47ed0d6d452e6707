"""The GPU providers of ONNX Runtime: what brings each, and under which settings its results compare
with those of others.

Settings that no machine at hand could try are those of ONNX Runtime's documentation
(https://onnxruntime.ai/docs/execution-providers/): no reduced precision behind the user's back, the
layout of the model, deterministic kernels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
SUFFIX = "ExecutionProvider"

#: No provider of ONNX Runtime's: onnx's own evaluator, slow and in double precision if asked.
REFERENCE = "ReferenceEvaluator"

#: Settings under which CUDA's results compare with the CPU's: no TensorFloat-32 (10 bits of
#: mantissa), and no search that picks another kernel, with another rounding, on every run.
CUDA_OPTIONS: Mapping[str, str] = {
    "use_tf32": "0",
    "cudnn_conv_algo_search": "HEURISTIC",
    "prefer_nhwc": "0",
}

#: NVIDIA's own switch, for libraries that have no option of theirs.
_NO_TF32 = {"NVIDIA_TF32_OVERRIDE": "0"}


@dataclass(frozen=True)
class Way:
    """One way to start a provider: its options, variables that its process gets, and whether it
    computes on a GPU."""

    options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    hardware: bool = True


@dataclass(frozen=True, eq=False)
class GpuProvider:
    """A provider that computes on a GPU.

    Attributes:
        name: ONNX Runtime's.
        title: what its makers call it.
        package: the distribution of ONNX Runtime that has it; plug-ins say what they add.
        ways: how to start it; those on hardware first.
        systems: where it exists, as `sys.platform`.
        install: how to install it.
        caveat: what cannot be switched off and may move results, as text.
        nvidia: whether it needs NVIDIA's driver.
    """

    name: str
    title: str
    package: str
    ways: tuple[Way, ...]
    systems: tuple[str, ...]
    install: str
    caveat: str = ""
    nvidia: bool = False


#: A provider as it is.
PLAIN = Way()

#: In the order in which `--provider auto` tries them.
GPU_PROVIDERS = (
    GpuProvider(
        CUDA,
        "CUDA",
        "onnxruntime-gpu",
        (Way(CUDA_OPTIONS),),
        ("linux", "win32"),
        "pip install 'onnxshare[gpu]'",
        nvidia=True,
    ),
    GpuProvider(
        "NvTensorRTRTXExecutionProvider",
        "TensorRT-RTX",
        "onnxruntime-trt-rtx",
        (Way(environment=_NO_TF32),),
        ("linux", "win32"),
        "pip install onnxruntime-ep-nv-tensorrt-rtx next to an ONNX Runtime",
        caveat="TensorRT chooses its kernels by timing them",
        nvidia=True,
    ),
    GpuProvider(
        "MIGraphXExecutionProvider",
        "MIGraphX",
        "onnxruntime-migraphx",
        (Way(),),
        ("linux",),
        "pip install onnxruntime-migraphx",
    ),
    GpuProvider(
        "ROCMExecutionProvider",
        "ROCm",
        "onnxruntime-rocm",
        (Way({"tunable_op_enable": "0"}),),
        ("linux",),
        "pip install onnxruntime-rocm",
    ),
    GpuProvider(
        "CoreMLExecutionProvider",
        "CoreML",
        "onnxruntime",
        (Way({"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU"}),),
        ("darwin",),
        "pip install 'onnxshare[cpu]'",
        caveat="Core ML chooses between GPU and CPU for each layer",
    ),
    GpuProvider(
        "DmlExecutionProvider",
        "DirectML",
        "onnxruntime-directml",
        (Way({"disable_metacommands": "true"}),),
        ("win32",),
        "pip install onnxruntime-directml",
    ),
    GpuProvider(
        "OpenVINOExecutionProvider",
        "OpenVINO",
        "onnxruntime-openvino",
        (
            Way({"device_type": "GPU", "precision": "FP32"}),
            Way({"device_type": "CPU", "precision": "FP32"}, hardware=False),
        ),
        ("linux", "win32"),
        "pip install onnxruntime-ep-openvino next to an ONNX Runtime",
    ),
    GpuProvider(
        "WebGpuExecutionProvider",
        "WebGPU",
        "onnxruntime-webgpu",
        (
            # Vulkan's loader hides the drivers that run in software, so none can be taken for a
            # GPU: https://github.com/KhronosGroup/Vulkan-Loader/blob/main/docs/LoaderInterfaceArchitecture.md
            Way(
                {"preferredLayout": "NCHW", "powerPreference": "high-performance"},
                {"VK_LOADER_DRIVERS_DISABLE": "*lvp*,*swiftshader*"},
            ),
            Way(
                {"preferredLayout": "NCHW"},
                {"ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1"},
                hardware=False,
            ),
        ),
        ("linux", "win32", "darwin"),
        "pip install 'onnxshare[webgpu]'",
        caveat="WebGPU's shaders may approximate division, exp and tanh",
    ),
)


def gpu_provider(request: str) -> GpuProvider | None:
    """The provider of this name: ONNX Runtime's, with or without its ending, or its makers', in
    any case and with or without hyphens; None if it is not one of these."""
    wanted = _plain(request)
    for known in GPU_PROVIDERS:
        if wanted in (_plain(known.name), _plain(known.title)):
            return known
    return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().removesuffix(SUFFIX.lower()))
