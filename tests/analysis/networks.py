"""Published networks, layer by layer, as the papers describe them.

No figure here comes from our analyser: sizes follow from the papers' tables, and where the file in
the onnx wheel differs (it floors where Caffe rounds up), the difference is said.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.analysis.layers import Conv, Fc, Layers, Norm, normalized

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

# Zeiler and Fergus, 2013, the wider variant: convolutions 3 to 5 of 512, and 1,024 in fc7. Unpadded
# 7×7 with stride 2 gives 109 rows, pooling 54; 5×5 with stride 2 gives 25, pooling 12, then 6.
ZFNET_512: Layers = [
    Conv(96, 7, 3, 109),
    Conv(256, 5, 96, 25),
    Conv(512, 3, 256, 12),
    Conv(512, 3, 512, 12),
    Conv(512, 3, 512, 12),
    Fc(512 * 6 * 6, 4096),
    Fc(4096, 1024),
    Fc(1024, 1000),
]


def bottlenecks(width: int, reads: int, side: int, blocks: int, shrinks: bool) -> Layers:
    """A stage of ResNet-50: 1×1, 3×3, 1×1 to four times the width; a 1×1 shortcut in the first.

    The stride is in the 3×3, so the first 1×1 still works at the size before.
    """
    stage: Layers = []
    for block in range(blocks):
        channels = reads if block == 0 else 4 * width
        before = 2 * side if shrinks and block == 0 else side
        stage += normalized(Conv(width, 1, channels, before, bias=False))
        stage += normalized(Conv(width, 3, width, side, bias=False))
        stage += normalized(Conv(4 * width, 1, width, side, bias=False))
    return [*stage, *normalized(Conv(4 * width, 1, reads, side, bias=False))]


# He et al., 2015; no convolution has a bias, each is followed by a batch normalization.
RESNET_50: Layers = [
    *normalized(Conv(64, 7, 3, 112, bias=False)),
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


def inception(reads: int, side: int, widths: tuple[int, int, int, int, int, int]) -> Layers:
    """A module of GoogLeNet: 1×1, 3×3 and 5×5 after their reductions, and the projection."""
    one, reduce_three, three, reduce_five, five, projection = widths
    return [
        Conv(one, 1, reads, side),
        Conv(reduce_three, 1, reads, side),
        Conv(three, 3, reduce_three, side),
        Conv(reduce_five, 1, reads, side),
        Conv(five, 5, reduce_five, side),
        Conv(projection, 1, reads, side),
    ]


# Szegedy et al., 2014, table 1, without the auxiliary classifiers. The file's pools floor without
# padding: 112, 55, 27, 13 and 6 rows where the paper has 112, 56, 28, 14 and 7.
GOOGLENET: Layers = [
    Conv(64, 7, 3, 112),
    Conv(64, 1, 64, 55),
    Conv(192, 3, 64, 55),
    *inception(192, 27, (64, 96, 128, 16, 32, 32)),
    *inception(256, 27, (128, 128, 192, 32, 96, 64)),
    *inception(480, 13, (192, 96, 208, 16, 48, 64)),
    *inception(512, 13, (160, 112, 224, 24, 64, 64)),
    *inception(512, 13, (128, 128, 256, 24, 64, 64)),
    *inception(512, 13, (112, 144, 288, 32, 64, 64)),
    *inception(528, 13, (256, 160, 320, 32, 128, 128)),
    *inception(832, 6, (256, 160, 320, 32, 128, 128)),
    *inception(832, 6, (384, 192, 384, 48, 128, 128)),
    Fc(1024, 1000),
]


def double_inception(
    reads: int, side: int, one: int, three: tuple[int, int], double: tuple[int, int], pool: int
) -> Layers:
    """A module with batch normalization: 1×1; 3×3; two 3×3; a projection after the pool. Without
    the first and the last (0) it has stride 2, and its reductions work at twice the size."""
    before = side if one else 2 * side
    convs = [
        *([Conv(one, 1, reads, side, bias=False)] if one else []),
        Conv(three[0], 1, reads, before, bias=False),
        Conv(three[1], 3, three[0], side, bias=False),
        Conv(double[0], 1, reads, before, bias=False),
        Conv(double[1], 3, double[0], before, bias=False),
        Conv(double[1], 3, double[1], side, bias=False),
        *([Conv(pool, 1, reads, side, bias=False)] if pool else []),
    ]
    return [layer for conv in convs for layer in normalized(conv, pairs=2)]


# Ioffe and Szegedy, 2015, figure 5; as trained in Caffe, where 4c has a double branch of 160 and 4d
# a projection of 96 and a first branch of 96. A normalization stores two pairs of scale and shift.
INCEPTION_V2: Layers = [
    *normalized(Conv(64, 7, 3, 112, bias=False), pairs=2),
    *normalized(Conv(64, 1, 64, 56, bias=False), pairs=2),
    *normalized(Conv(192, 3, 64, 56, bias=False), pairs=2),
    *double_inception(192, 28, 64, (64, 64), (64, 96), 32),
    *double_inception(256, 28, 64, (64, 96), (64, 96), 64),
    *double_inception(320, 14, 0, (128, 160), (64, 96), 0),
    *double_inception(576, 14, 224, (64, 96), (96, 128), 128),
    *double_inception(576, 14, 192, (96, 128), (96, 128), 128),
    *double_inception(576, 14, 160, (128, 160), (128, 160), 96),
    *double_inception(576, 14, 96, (128, 192), (160, 192), 96),
    *double_inception(576, 7, 0, (128, 192), (192, 256), 0),
    *double_inception(1024, 7, 352, (192, 320), (160, 224), 128),
    *double_inception(1024, 7, 352, (192, 320), (192, 224), 128),
    Fc(1024, 1000),
]


def dense_block(reads: int, side: int, layers: int) -> Layers:
    """Each layer reads all before it: normalized 1×1 to 128, normalized 3×3 to 32 more channels."""
    block: Layers = []
    for layer in range(layers):
        channels = reads + 32 * layer
        block += [
            Norm(channels, side, 2),
            Conv(128, 1, channels, side, bias=False),
            Norm(128, side, 2),
            Conv(32, 3, 128, side, bias=False),
        ]
    return block


# Huang et al., 2016, growth 32: blocks of 6, 12, 24 and 16, and between them a normalized 1×1 to
# half the channels. As trained in Caffe: two pairs of scale and shift, and the FC a convolution.
DENSENET_121: Layers = [
    *normalized(Conv(64, 7, 3, 112, bias=False), pairs=2),
    *dense_block(64, 56, 6),
    Norm(256, 56, 2),
    Conv(128, 1, 256, 56, bias=False),
    *dense_block(128, 28, 12),
    Norm(512, 28, 2),
    Conv(256, 1, 512, 28, bias=False),
    *dense_block(256, 14, 24),
    Norm(1024, 14, 2),
    Conv(512, 1, 1024, 14, bias=False),
    *dense_block(512, 7, 16),
    Norm(1024, 7, 2),
    Conv(1000, 1, 1024, 1),
]


def shuffle_units(reads: int, writes: int, side: int, units: int) -> Layers:
    """A stage of ShuffleNet in 4 groups: 1×1, 3×3 per channel, 1×1. The first unit has stride 2
    and is joined with what it reads, so it makes the channels that are missing."""
    stage: Layers = []
    for unit in range(units):
        channels, made = (reads, writes - reads) if unit == 0 else (writes, writes)
        before = 2 * side if unit == 0 else side
        stage += normalized(Conv(made, 1, channels // 4, before, bias=False))
        stage += normalized(Conv(made, 3, 1, side, bias=False))
        stage += normalized(Conv(made, 1, made // 4, side, bias=False))
    return stage


# Zhang et al., 2017, table 1: four groups, half the channels (136, 272, 544). In the file the
# layers inside a unit are as wide as its result, not a quarter, and the first 3×3 has a bias.
SHUFFLENET: Layers = [
    *normalized(Conv(24, 3, 3, 112)),
    *shuffle_units(24, 136, 28, 4),
    *shuffle_units(136, 272, 14, 8),
    *shuffle_units(272, 544, 7, 4),
    Fc(544, 1000),
]


@dataclass(frozen=True)
class Published:
    """A file, its layers, and the figures that are published for them.

    Attributes:
        params: as stored in the file.
        macs: for its input of 224×224.
        fc_params: of fully connected layers.
        depth: convolutions and FCs with weights.
        statistics: running means and variances.
    """

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
    "ZFNet-512": Published(
        "light_zfnet512", ZFNET_512, 87_250_536, 1_481_727_008, 80_721_896, 8
    ),
    "ResNet-50": Published(
        "light_resnet50", RESNET_50, 25_557_032, 4_089_184_256, 2_049_000, 54, 53_120
    ),
    "SqueezeNet": Published("light_squeezenet", SQUEEZENET, 1_235_496, 349_151_936, 0, 26),
    # BVLC's GoogLeNet: 6,998,552 without the auxiliary classifiers.
    "GoogLeNet": Published(
        "light_inception_v1", GOOGLENET, 6_998_552, 1_431_556_352, 1_025_000, 58
    ),
    "Inception v2": Published(
        "light_inception_v2", INCEPTION_V2, 11_214_888, 2_018_851_840, 1_025_000, 70, 19_904
    ),
    # 7,978,856 trainable ones are published; Caffe stores 83,648 scales and shifts twice.
    "DenseNet-121": Published(
        "light_densenet121", DENSENET_121, 7_978_856 + 83_648, 2_834_161_664, 0, 121, 83_648
    ),
    "ShuffleNet": Published(
        "light_shufflenet", SHUFFLENET, 1_393_320, 124_664_528, 545_000, 50, 26_832
    ),
}  # fmt: skip
