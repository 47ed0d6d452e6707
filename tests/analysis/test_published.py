"""Networks whose figures are published: the `light_*` models of the onnx wheel, whose weights are
made by ConstantOfShape nodes.

Every figure is derived here, layer by layer, from the papers' descriptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import onnxshare


@dataclass(frozen=True)
class Conv:
    """A convolution with bias: filters, kernel, channels it reads (per group), output positions."""

    filters: int
    kernel: int
    channels: int
    side: int
    bias: bool = True

    @property
    def params(self) -> int:
        return self.filters * (self.kernel**2 * self.channels + self.bias)

    @property
    def macs(self) -> int:
        return self.side**2 * self.filters * self.kernel**2 * self.channels


@dataclass(frozen=True)
class Fc:
    """A fully connected layer with bias."""

    inputs: int
    outputs: int

    @property
    def params(self) -> int:
        return (self.inputs + 1) * self.outputs

    @property
    def macs(self) -> int:
        return self.inputs * self.outputs


Layers = list[Conv | Fc]

# Krizhevsky et al., 2012: 224×224, convolutions 2, 4 and 5 in two groups. Unpadded 11×11 with
# stride 4 gives 54 rows, pooling 3/2 then 26, and 12 (Caffe's 227×227 gives 55, 27 and 13).
ALEXNET: Layers = [
    Conv(96, 11, 3, 54),
    Conv(256, 5, 96 // 2, 26),
    Conv(384, 3, 256, 12),
    Conv(384, 3, 384 // 2, 12),
    Conv(256, 3, 384 // 2, 12),
    Fc(256 * 6 * 6, 4096),
    Fc(4096, 4096),
    Fc(4096, 1000),
]

# Simonyan and Zisserman, 2014, configuration E: 3×3 with padding 1, halved after each block.
VGG_19: Layers = [
    *(Conv(64, 3, channels, 224) for channels in (3, 64)),
    *(Conv(128, 3, channels, 112) for channels in (64, 128)),
    *(Conv(256, 3, channels, 56) for channels in (128, 256, 256, 256)),
    *(Conv(512, 3, channels, 28) for channels in (256, 512, 512, 512)),
    *(Conv(512, 3, 512, 14) for _ in range(4)),
    Fc(512 * 7 * 7, 4096),
    Fc(4096, 4096),
    Fc(4096, 1000),
]


def bottlenecks(width: int, reads: int, side: int, blocks: int, shrinks: bool) -> Layers:
    """A stage of ResNet-50: 1×1, 3×3, 1×1 to four times the width; a 1×1 shortcut in the first.

    The stride is in the 3×3, so the first 1×1 still works at the size before.
    """
    stage: Layers = []
    for block in range(blocks):
        channels = reads if block == 0 else 4 * width
        before = 2 * side if shrinks and block == 0 else side
        stage += [
            Conv(width, 1, channels, before, bias=False),
            Conv(width, 3, width, side, bias=False),
            Conv(4 * width, 1, width, side, bias=False),
        ]
    return [*stage, Conv(4 * width, 1, reads, side, bias=False)]


# He et al., 2015; no convolution has a bias, each is followed by a batch normalisation.
RESNET_50: Layers = [
    Conv(64, 7, 3, 112, bias=False),
    *bottlenecks(64, 64, 56, 3, False),
    *bottlenecks(128, 256, 28, 4, True),
    *bottlenecks(256, 512, 14, 6, True),
    *bottlenecks(512, 1024, 7, 3, True),
    Fc(2048, 1000),
]


def fire(reads: int, squeeze: int, expand: int, side: int) -> Layers:
    """A Fire module: 1×1 squeeze, then 1×1 and 3×3 side by side."""
    return [
        Conv(squeeze, 1, reads, side),
        Conv(expand, 1, squeeze, side),
        Conv(expand, 3, squeeze, side),
    ]


# Iandola et al., 2016, version 1.1: 3×3 with stride 2 first, pooling after it and fires 3 and 5.
SQUEEZENET: Layers = [
    Conv(64, 3, 3, 111),
    *fire(64, 16, 64, 55),
    *fire(128, 16, 64, 55),
    *fire(128, 32, 128, 27),
    *fire(256, 32, 128, 27),
    *fire(256, 48, 192, 13),
    *fire(384, 48, 192, 13),
    *fire(384, 64, 256, 13),
    *fire(512, 64, 256, 13),
    Conv(1000, 1, 512, 13),
]


def params(layers: Layers) -> int:
    return sum(layer.params for layer in layers)


def macs(layers: Layers) -> int:
    return sum(layer.macs for layer in layers)


def normalised_channels(layers: Layers) -> int:
    """Channels that a batch normalisation follows: one scale, shift, mean and variance each."""
    return sum(layer.filters for layer in layers if isinstance(layer, Conv) and not layer.bias)


@dataclass(frozen=True)
class Published:
    """A file, its layers, and the figures that are published for them."""

    file: str
    layers: Layers
    params: int
    macs: int
    fc_params: int
    depth: int
    statistics: int = 0


NETWORKS = {
    "AlexNet": Published("light_bvlc_alexnet", ALEXNET, 60_965_224, 654_560_384, 58_631_144, 8),
    "VGG-19": Published("light_vgg19", VGG_19, 143_667_240, 19_632_062_464, 123_642_856, 19),
    "ResNet-50": Published(
        "light_resnet50", RESNET_50, 25_557_032, 4_089_184_256, 2_049_000, 54, 53_120
    ),
    "SqueezeNet": Published("light_squeezenet", SQUEEZENET, 1_235_496, 349_151_936, 0, 26),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_derivation_gives_the_published_figures(name: str) -> None:
    """The list of layers above is right: it gives the published figures without our analyser."""
    published, layers = NETWORKS[name], NETWORKS[name].layers
    channels = normalised_channels(layers)
    assert params(layers) + 2 * channels == published.params
    assert 2 * channels == published.statistics
    assert macs(layers) == published.macs
    assert sum(layer.params for layer in layers if isinstance(layer, Fc)) == published.fc_params
    assert len(layers) == published.depth


@pytest.mark.parametrize("name", NETWORKS)
def test_published_figures(name: str, onnx_light: Path) -> None:
    published, layers = NETWORKS[name], NETWORKS[name].layers
    totals = onnxshare.inspect(onnx_light / f"{published.file}.onnx").totals
    assert totals.params == published.params
    assert totals.statistics == published.statistics
    assert totals.macs == published.macs
    assert totals.weight_layers == published.depth
    assert totals.fc_params == published.fc_params
    assert totals.fc_after_conv_params == published.fc_params
    assert totals.param_bytes == 4 * published.params
    uses = sum(
        layer.macs + layer.side**2 * layer.filters * layer.bias
        if isinstance(layer, Conv)
        else layer.params
        for layer in layers
    )
    normalised = sum(
        2 * layer.side**2 * layer.filters
        for layer in layers
        if isinstance(layer, Conv) and not layer.bias
    )
    assert totals.connections == uses + normalised


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_one_by_one(name: str, onnx_light: Path) -> None:
    published, layers = NETWORKS[name], NETWORKS[name].layers
    report = onnxshare.inspect(onnx_light / f"{published.file}.onnx")
    found = [(f.params, f.macs) for f in report.nodes if f.op_type in ("Conv", "Gemm")]
    assert sorted(found) == sorted((layer.params, layer.macs) for layer in layers)


@pytest.mark.parametrize(
    ("file", "feature_map", "fcs"),
    [
        pytest.param(
            "light_bvlc_alexnet",
            (256, (6, 6)),
            [(9216, 4096), (4096, 4096), (4096, 1000)],
            id="AlexNet: fc6 is 9216x4096",
        ),
        pytest.param(
            "light_vgg19",
            (512, (7, 7)),
            [(25_088, 4096), (4096, 4096), (4096, 1000)],
            id="VGG-19: fc6 holds 102,764,544",
        ),
    ],
)
def test_heads(
    file: str,
    feature_map: tuple[int, tuple[int, ...]],
    fcs: list[tuple[int, int]],
    onnx_light: Path,
) -> None:
    (head,) = onnxshare.inspect(onnx_light / f"{file}.onnx").heads
    assert (head.channels, head.spatial) == feature_map
    assert [(fc.in_features, fc.out_features) for fc in head.fcs] == fcs
    assert [fc.params for fc in head.fcs] == [(i + 1) * o for i, o in fcs]


@pytest.mark.parametrize(
    "file", ["light_resnet50", "light_inception_v1", "light_inception_v2", "light_shufflenet"]
)
def test_nothing_to_share_after_a_global_pool(file: str, onnx_light: Path) -> None:
    """Their heads average the map first: one position, one FC, no rewrite that saves weights."""
    report = onnxshare.inspect(onnx_light / f"{file}.onnx")
    (head,) = report.heads
    assert head.spatial == (1, 1)
    assert set(head.rewrites) == {"fc-to-conv", "fc-to-gap"}
    assert "refused" in head.rewrites["fc-to-gap"]


@pytest.mark.parametrize("file", ["light_squeezenet", "light_densenet121"])
def test_no_head_where_there_is_no_fc(file: str, onnx_light: Path) -> None:
    report = onnxshare.inspect(onnx_light / f"{file}.onnx")
    assert report.heads == ()
    assert report.totals.fc_params == 0
