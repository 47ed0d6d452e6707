"""Networks that must be understood whole: weights shared between branches and by ties, layers that
look shared and are not, one and three dimensions, several heads. Each figure is written out from
the network's own description.

LeNet-5 and the layers stand in test_seeds.py, recurrence in test_seed_recurrence.py, published
networks in test_published.py, families in tests/differences/test_family.py, sliding networks in
tests/rewrites/head_as_maps/test_sliding.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

import onnxshare
from onnxshare.analysis.results import Inspection
from tests.builders import (
    constant,
    fc,
    info,
    model,
    node,
    only,
    random_array,
    run,
    tensor,
)

# Siamese and tied.


def siamese(*, copied: bool = False) -> onnx.ModelProto:
    """Two images through one encoder of a 3×3 convolution, then their distance."""
    second = "v" if copied else "w"
    weights = [tensor("w", 4, 1, 3, 3)]
    if copied:
        weights.append(tensor("v", 4, 1, 3, 3))
    return model(
        [
            node("Conv", "left w", "a"),
            node("Conv", f"right {second}", "b"),
            node("Sub", "a b", "d"),
            node("Abs", "d", "y"),
        ],
        {"left": ["n", 1, 6, 6], "right": ["n", 1, 6, 6]},
        ["y"],
        weights,
    )


def test_siamese_branches() -> None:
    """One initializer, two users: 36 weights at 16 positions of two images."""
    report = onnxshare.inspect(siamese())
    assert (report.totals.params, report.totals.connections) == (36, 2 * 16 * 36)
    assert report.totals.sharing_ratio == 32
    (weight,) = report.weights
    assert weight.used_by == ("Conv:a", "Conv:b")
    first, second = (facts for facts in report.nodes if facts.params)
    assert (first.params_new, second.params_new) == (36, 0)
    assert first.sharing.spatial * first.sharing.tied == 32


def test_siamese_branches_with_a_copy_each() -> None:
    """Equal bytes under two names: stored twice, and said so where hashes are asked for."""
    report = onnxshare.inspect(siamese(copied=True), hashes=True)
    assert (report.totals.params, report.totals.sharing_ratio) == (72, 16)
    assert [weight.same_as for weight in report.weights] == [None, "w"]


def tied_language_model(*, copied: bool) -> onnx.ModelProto:
    """An embedding of 10 words in 4 features, and its transpose as the output layer."""
    table = tensor("table", 10, 4)
    nodes = [node("Gather", "table words", "e")]
    stored = [table]
    if copied:
        turned = np.ascontiguousarray(onnx.numpy_helper.to_array(table).T)
        stored.append(onnx.numpy_helper.from_array(turned, "out"))
    else:
        nodes.append(node("Transpose", "table", "out", perm=[1, 0]))
    nodes.append(node("MatMul", "e out", "y"))
    return model(nodes, [info("words", ["n", 3], TensorProto.INT64)], ["y"], stored)


def test_an_embedding_tied_to_the_output_layer() -> None:
    """3 rows of 4 are looked up, and all 40 numbers used at each of the 3 words."""
    report = onnxshare.inspect(tied_language_model(copied=False))
    assert (report.totals.params, report.totals.connections) == (40, 3 * 4 + 3 * 40)
    (weight,) = report.weights
    assert weight.used_by == ("Gather:e", "MatMul:y")


def test_a_transposed_copy_of_an_embedding() -> None:
    report = onnxshare.inspect(tied_language_model(copied=True), hashes=True)
    assert report.totals.params == 80
    assert [weight.transposed_of for weight in report.weights] == [None, "table"]


# Local and unshared; computed kernels.


def test_a_locally_connected_layer() -> None:
    """3×3×3 patches of a 32×32 image at 30·30 positions, each with 27 weights of its own: what one
    filter would hold if no position shared it, and each used once."""
    positions, patch = 30 * 30, 27
    built = model(
        [node("MatMul", "patches w", "y")],
        {"patches": ["n", positions, 1, patch]},
        ["y"],
        [tensor("w", positions, patch, 1)],
    )
    report = onnxshare.inspect(built)
    facts = only(report, "MatMul")
    assert (facts.params, facts.connections, facts.sharing_ratio) == (24_300, 24_300, 1)
    assert vars(facts.sharing) == {"spatial": 1, "temporal": 1, "token": 1, "tied": 1}
    assert facts.kind == "other"  # neither an FC nor a convolution
    assert facts.unshared_params == 24_300
    assert report.totals.fc_params == 0


def test_a_locally_connected_layer_of_one_convolution_per_position() -> None:
    """The same in 2×2 positions, each a convolution of its own crop: local, and used once."""
    nodes, crops = [], []
    for row in range(2):
        for column in range(2):
            at = f"{row}{column}"
            nodes.append(node("Slice", f"x from{at} to{at} axes", f"c{at}"))
            nodes.append(node("Conv", f"c{at} w{at}", f"o{at}"))
            crops += [
                constant(f"from{at}", [row, column]),
                constant(f"to{at}", [row + 3, column + 3]),
                tensor(f"w{at}", 1, 2, 3, 3, seed=row * 2 + column),
            ]
    nodes.append(node("Concat", "o00 o01 o10 o11", "y", axis=1))
    built = model(nodes, {"x": ["n", 2, 4, 4]}, ["y"], [*crops, constant("axes", [2, 3])])
    totals = onnxshare.inspect(built).totals
    assert (totals.params, totals.connections, totals.sharing_ratio) == (4 * 18, 4 * 18, 1)


def dynamic() -> onnx.ModelProto:
    """A net whose question makes the kernel of a convolution over its image."""
    return model(
        [
            node("Gemm", "question w", "k", transB=1),
            node("Reshape", "k shape", "kernel"),
            node("Conv", "image kernel b", "y"),
        ],
        {"image": [1, 1, 6, 6], "question": [1, 5]},
        ["y"],
        [tensor("w", 18, 5), constant("shape", [2, 1, 3, 3]), tensor("b", 2)],
    )


def test_a_dynamic_parameter_network() -> None:
    """The convolution stores its bias only: its kernel is data. What makes the kernel is an FC."""
    report = onnxshare.inspect(dynamic())
    convolution = only(report, "Conv")
    assert (convolution.params, convolution.weights) == (2, ("b",))
    assert (convolution.macs, convolution.connections) == (16 * 18, 16 * 2)
    assert only(report, "Gemm").params == 90
    assert report.totals.params == 92
    assert [line for line in report.warnings if "computed by the model" in line] == [
        "the weights of Conv:y are computed by the model, not stored: they are not parameters"
    ]


def test_a_stored_kernel_is_not_said_to_be_computed() -> None:
    assert not any("computed" in line for line in onnxshare.inspect(fc([1, 4], 4, 3)).warnings)
    assert not any("computed" in line for line in onnxshare.inspect(siamese()).warnings)


# Nets in one and three dimensions, and several heads on one trunk.


def test_a_text_classifier_in_one_dimension() -> None:
    """Kim, 2014: filters of 3, 4 and 5 words over embeddings of 6, max over time, one FC."""
    nodes = [node("Gather", "table words", "e"), node("Transpose", "e", "x", perm=[0, 2, 1])]
    stored = [tensor("table", 20, 6), tensor("wf", 12, 2), tensor("bf", 2)]
    for width in (3, 4, 5):
        nodes += [
            node("Conv", f"x w{width} b{width}", f"c{width}"),
            node("GlobalMaxPool", f"c{width}", f"p{width}"),
        ]
        stored += [tensor(f"w{width}", 4, 6, width), tensor(f"b{width}", 4)]
    nodes += [
        node("Concat", "p3 p4 p5", "p", axis=1),
        node("Flatten", "p", "f"),
        node("Gemm", "f wf bf", "y"),
    ]
    built = model(nodes, [info("words", ["n", 9], TensorProto.INT64)], ["y"], stored)
    totals = onnxshare.inspect(built).totals
    filters = {width: 4 * (6 * width + 1) for width in (3, 4, 5)}
    assert totals.params == 120 + sum(filters.values()) + 26
    positions = {width: 9 - width + 1 for width in (3, 4, 5)}
    assert totals.connections == 9 * 6 + sum(positions[w] * filters[w] for w in filters) + 26
    assert totals.macs == sum(positions[w] * 4 * 6 * w for w in filters) + 24
    assert totals.weight_layers == 4


def test_a_volume_classifier_in_three_dimensions() -> None:
    """3×3×3 filters over a volume of 8³, pooled to 2³, and an FC on the flattened map."""
    built = model(
        [
            node("Conv", "x w b", "c", pads=[1] * 6),
            node("Relu", "c", "r"),
            node("MaxPool", "r", "p", kernel_shape=[4] * 3, strides=[4] * 3),
            node("Flatten", "p", "f"),
            node("Gemm", "f wf bf", "y"),
        ],
        {"x": ["n", 1, 8, 8, 8]},
        ["y"],
        [tensor("w", 5, 1, 3, 3, 3), tensor("b", 5), tensor("wf", 40, 3), tensor("bf", 3)],
    )
    report = onnxshare.inspect(built)
    assert report.totals.params == 5 * 28 + 123
    assert report.totals.connections == 512 * 140 + 123
    (head,) = report.heads
    assert (head.channels, head.spatial) == (5, (2, 2, 2))


def test_policy_and_value_heads() -> None:
    """AlphaGo Zero's ends, small (Silver et al., 2017): a trunk over a 5×5 board; the policy reads
    two 1×1 filters, the value one, each with its own FCs."""
    board, trunk = 25, 8
    nodes = [
        node("Conv", "x wt bt", "t", pads=[1] * 4),
        node("Relu", "t", "tr"),
        node("Conv", "tr wp bp", "p"),
        node("Relu", "p", "pr"),
        node("Flatten", "pr", "pf"),
        node("Gemm", "pf wpf bpf", "policy"),
        node("Conv", "tr wv bv", "v"),
        node("Relu", "v", "vr"),
        node("Flatten", "vr", "vf"),
        node("Gemm", "vf wv1 bv1", "vh"),
        node("Relu", "vh", "vhr"),
        node("Gemm", "vhr wv2 bv2", "vo"),
        node("Tanh", "vo", "value"),
    ]
    shapes = {
        "wt": (trunk, 3, 3, 3), "bt": (trunk,), "wp": (2, trunk, 1, 1), "bp": (2,),
        "wpf": (2 * board, board + 1), "bpf": (board + 1,), "wv": (1, trunk, 1, 1), "bv": (1,),
        "wv1": (board, 16), "bv1": (16,), "wv2": (16, 1), "bv2": (1,),
    }  # fmt: skip
    built = model(
        nodes,
        {"x": ["n", 3, 5, 5]},
        ["policy", "value"],
        [tensor(name, *shape) for name, shape in shapes.items()],
    )
    report = onnxshare.inspect(built)
    policy, value = sorted(report.heads, key=lambda head: -head.channels)
    assert [(f.in_features, f.out_features) for f in policy.fcs] == [(50, 26)]
    assert [(f.in_features, f.out_features) for f in value.fcs] == [(25, 16), (16, 1)]
    trunk_params, ends = trunk * 28, 2 * 9 + 9
    fcs = 51 * 26 + 26 * 16 + 17
    assert report.totals.params == trunk_params + ends + fcs
    assert report.totals.fc_after_conv_params == fcs
    assert report.totals.connections == board * (trunk_params + ends) + fcs
    assert report.totals.weight_layers == 6


# A 1×1 convolution to one map per class, averaged.


def class_maps(*, pooled_first: bool) -> onnx.ModelProto:
    """512 maps of 7×7 to 10 classes (Lin et al., "Network In Network", 2013)."""
    if pooled_first:
        nodes = [node("GlobalAveragePool", "x", "p"), node("Conv", "p w b", "c")]
    else:
        nodes = [node("Conv", "x w b", "p"), node("GlobalAveragePool", "p", "c")]
    return model(
        [*nodes, node("Flatten", "c", "f"), node("Softmax", "f", "y", axis=1)],
        {"x": ["n", 512, 7, 7]},
        ["y"],
        [tensor("w", 10, 512, 1, 1), tensor("b", 10)],
    )


def work(report: Inspection) -> tuple[int, int | None]:
    return report.totals.params, report.totals.macs


def test_a_pooled_head_of_class_maps() -> None:
    """Averaging and a 1×1 convolution commute: the same 5,130 weights, 49 times fewer products."""
    late, early = class_maps(pooled_first=False), class_maps(pooled_first=True)
    assert work(onnxshare.inspect(late)) == (5_130, 49 * 5_120)
    assert work(onnxshare.inspect(early)) == (5_130, 5_120)
    data = random_array(2, 512, 7, 7)
    np.testing.assert_allclose(run(late, x=data)[0], run(early, x=data)[0], rtol=1e-4)
    changed = onnxshare.rewrite(late, ["pool-first"], validate=False).model
    assert work(onnxshare.inspect(changed)) == (5_130, 5_120)
    np.testing.assert_allclose(run(changed, x=data)[0], run(late, x=data)[0], rtol=1e-4)


def test_the_trained_net_with_such_a_head(bundled: Path) -> None:
    report = onnxshare.inspect(bundled / "gap_net.onnx")
    assert report.totals.fc_params == 0
    assert report.heads == ()
