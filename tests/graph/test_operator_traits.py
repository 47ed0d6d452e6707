"""The table of operators, held against the operators that there are and against what they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxshare.analysis.operators.table import TABLE
from onnxshare.graph.operator_traits import TRAITS, UNKNOWN, Effect, Traits, traits_of
from tests.builders import Array, run

MICROSOFT = "com.microsoft"

#: What the data of an operator looks like, as [N, C, H, W].
SHAPE = (2, 4, 6, 6)

RANDOM = np.random.default_rng(14)


def data(kind: Any = np.float32, shape: tuple[int, ...] = SHAPE) -> Array:
    """Numbers between 0 and 1, all different; integers and booleans for operators of these."""
    if kind is np.bool_:
        return RANDOM.integers(0, 2, shape).astype(bool)
    if np.issubdtype(kind, np.integer):
        return RANDOM.integers(1, 100, shape).astype(kind)
    return (RANDOM.permutation(int(np.prod(shape))).reshape(shape) / np.prod(shape)).astype(kind)


ONES, HALVES = np.ones(4, np.float32), np.full(4, 0.5, np.float32)
SCALE, ZERO = np.array(0.01, np.float32), np.array(3, np.uint8)

#: By operator: the type of its data, what else it reads, and its attributes; where there are any.
WITH: dict[str, dict[str, Any]] = {
    "Acosh": {"shift": 1.5},
    "Not": {"kind": np.bool_},
    "BitwiseNot": {"kind": np.int32},
    "BitCast": {"attributes": {"to": TensorProto.INT32}},
    "Cast": {"attributes": {"to": TensorProto.INT32}, "shift": 5.0, "scale": 100.0},
    "Clip": {"others": [np.array(0.2, np.float32), np.array(0.8, np.float32)]},
    "EyeLike": {"shape": (4, 6)},
    "CastLike": {"others": [np.zeros(1, np.float64)]},
    "BatchNormalization": {"others": [ONES, HALVES, HALVES, ONES]},
    "QuantizeLinear": {"others": [SCALE, ZERO]},
    "DequantizeLinear": {"kind": np.uint8, "others": [SCALE, ZERO]},
    "QLinearSigmoid": {"kind": np.uint8, "others": [SCALE, ZERO, SCALE, ZERO]},
    "QLinearLeakyRelu": {
        "kind": np.uint8,
        "others": [SCALE, ZERO, SCALE, ZERO],
        "attributes": {"alpha": 0.1},
    },
    "QLinearAdd": {"kind": np.uint8, "others": [SCALE, ZERO, None, SCALE, ZERO, SCALE, ZERO]},
    "QLinearMul": {"kind": np.uint8, "others": [SCALE, ZERO, None, SCALE, ZERO, SCALE, ZERO]},
    **{name: {"kind": np.int32, "others": [None]} for name in ("BitwiseAnd", "BitwiseOr")},
    "BitwiseXor": {"kind": np.int32, "others": [None]},
    "BitShift": {"kind": np.uint8, "others": [None], "attributes": {"direction": "RIGHT"}},
    **{name: {"kind": np.bool_, "others": [None]} for name in ("And", "Or", "Xor")},
    "Mod": {"others": [None], "attributes": {"fmod": 1}},
    "Where": {"kind": np.bool_, "others": [data(), data()]},
    "BiasGelu": {"others": [data(shape=(6,))]},
    "ReverseSequence": {"others": [np.array([3, 1], np.int64)], "attributes": {"batch_axis": 0,
                                                                              "time_axis": 1}},
    "Reshape": {"others": [np.array([0, -1, 4], np.int64)]},
    "Squeeze": {"shape": (2, 1, 4, 6)},
    "Unsqueeze": {"others": [np.array([1], np.int64)]},
    "ExpandDims": {"others": [np.array(1, np.int32)]},
    "Transpose": {"attributes": {"perm": [0, 2, 3, 1]}},
    "DepthToSpace": {"attributes": {"blocksize": 2}},
    "SpaceToDepth": {"attributes": {"blocksize": 2}},
    "Compress": {"others": [np.array([True, False])], "attributes": {"axis": 0}},
    "Slice": {"others": [np.array([1]), np.array([5]), np.array([2])]},
    "Split": {"others": [np.array([1, 3])], "attributes": {"axis": 1}, "outputs": 2},
    "Gather": {"others": [np.array([1, 1, 0])]},
    "GatherElements": {"others": [np.zeros((1, 4, 6, 6), np.int64)]},
    "GatherND": {"others": [np.array([[1, 2]])]},
    "Expand": {"others": [np.array([3, 2, 4, 6, 6])]},
    "Tile": {"others": [np.array([1, 2, 1, 1])]},
    "Pad": {"others": [np.array([0, 0, 1, 1, 0, 0, 1, 1])]},
    "CenterCropPad": {"others": [np.array([2, 8, 4, 4])]},
    "MaxUnpool": {
        "others": [np.arange(288).reshape(SHAPE)],
        "attributes": {"kernel_shape": [2, 2], "strides": [2, 2]},
    },
    "Concat": {"others": [None], "attributes": {"axis": 1}},
}  # fmt: skip

#: Operators of ONNX Runtime that its processor build has no kernel for, or that need packed inputs.
NOT_RUN = frozenset(
    (MICROSOFT, name)
    for name in (
        "BiasAdd BiasDropout BitmaskBiasDropout BitmaskDropout GatedAdd MulInteger QOrderedGelu "
        "QuantizeBFP DequantizeBFP QuantizeWithOrder DequantizeWithOrder QLinearWhere ScaledSiLU "
        "Trilu RemovePadding RestorePadding UnfoldTensor Pad GatherND Unique TorchEmbedding "
        "RelativePositionBias GatherBlockQuantized QLinearConcat"
    ).split()
)


def known(name: str) -> bool:
    """Whether ONNX itself has the operator."""
    return onnx.defs.has(name)


def named(*effects: Effect) -> list[tuple[str, str]]:
    """The operators of these effects that a small model can hold: not those that ONNX Runtime
    keeps in the standard's domain, which it has no kernels for."""
    skipped = {"NonZero", "Unique", "OneHot"}
    skipped |= {key[1] for key in TRAITS if key[0] == "" and not known(key[1])}
    return [
        key
        for key, traits in TRAITS.items()
        if traits.effect in effects
        and key[0] in ("", MICROSOFT)
        and key not in NOT_RUN
        and key[1] not in skipped
    ]


class Example:
    """A model of one operator, whose first input is fed."""

    def __init__(self, domain: str, name: str) -> None:
        how = WITH.get(name, {})
        self.kind = how.get("kind", np.float32)
        self.input = data(self.kind, how.get("shape", SHAPE))
        if self.kind is np.float32:
            self.input = self.input * np.float32(how.get("scale", 1)) + np.float32(
                how.get("shift", 0)
            )
        others = how.get("others")
        if others is None:
            needed = 1 if domain else onnx.defs.get_schema(name).min_input if known(name) else 1
            others = [None] * (needed - 1)
        values = [data(self.kind) if other is None else other for other in others]
        self.constants = [numpy_helper.from_array(np.asarray(v), f"c{i}") for i, v in
                          enumerate(values)]  # fmt: skip
        outputs = [f"y{place}" for place in range(how.get("outputs", 1))]
        names = ["x", *(tensor.name for tensor in self.constants)]
        node = helper.make_node(name, names, outputs, domain=domain, **how.get("attributes", {}))
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.kind))
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info("x", kind, self.input.shape)],
            [helper.make_tensor_value_info(output, TensorProto.UNDEFINED, None)
             for output in outputs],
            self.constants,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
        self.model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        if not domain and known(name) and onnx.defs.get_schema(name).since_version > 21:
            self.model.opset_import[0].version = onnx.defs.get_schema(name).since_version
        self.traits = TRAITS[domain, name]

    def run(self, value: Array) -> list[Array]:
        """What ONNX Runtime makes of an input; ONNX's reference, where that has no kernel."""
        try:
            return run(self.model, x=value)
        except Exception:
            return [np.asarray(y) for y in ReferenceEvaluator(self.model).run(None, {"x": value})]

    def constant_values(self) -> list[Array]:
        """The values of its other inputs."""
        return [numpy_helper.to_array(tensor) for tensor in self.constants]


def test_every_operator_of_onnx_has_a_row() -> None:
    wanted = {(s.domain, s.name) for s in onnx.defs.get_all_schemas_with_history()}
    assert len(wanted) > 200
    assert wanted - TRAITS.keys() == set()


def test_every_operator_of_onnx_runtime_has_a_row() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    wanted = {(s.domain, s.name) for s in get_all_operator_schema()}
    assert len(wanted) > 300
    assert wanted - TRAITS.keys() == set()


def test_every_operator_whose_work_is_known_has_a_row() -> None:
    assert TABLE.keys() - TRAITS.keys() == set()


def test_a_custom_operator_is_unknown_and_answers_no() -> None:
    asked = traits_of(helper.make_node("Sin", ["x"], ["y"], domain="custom"))
    assert asked is UNKNOWN
    assert not any((asked.elementwise, asked.moves, asked.slides, asked.along_axis))


def test_the_standard_has_two_names() -> None:
    asked = traits_of(helper.make_node("Sin", ["x"], ["y"], domain="ai.onnx"))
    assert asked is TRAITS["", "Sin"]


def test_rows_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRAITS["", "Sin"] = Traits(Effect.OTHER)  # type: ignore[index]


@pytest.mark.parametrize(("domain", "name"), named(Effect.ELEMENTWISE))
def test_elementwise_changes_only_the_place_that_changed(domain: str, name: str) -> None:
    example = Example(domain, name)
    before, place = example.run(example.input)[0], (1, 2, 3, 4)
    assert before.shape == example.input.shape
    for replacement in RANDOM.permutation(example.input.reshape(-1))[:20]:
        changed = example.input.copy()
        changed[place] = replacement
        after = example.run(changed)[0]
        elsewhere = np.ones(after.shape, bool)
        elsewhere[place] = False
        np.testing.assert_array_equal(after[elsewhere], before[elsewhere])


@pytest.mark.parametrize(("domain", "name"), named(Effect.RESHAPE, Effect.PERMUTATION))
def test_moves_pass_on_every_element_once(domain: str, name: str) -> None:
    example = Example(domain, name)
    (after,) = example.run(example.input)
    flat = example.input.reshape(-1)
    np.testing.assert_array_equal(np.sort(after.reshape(-1)), np.sort(flat))
    in_order = np.array_equal(after.reshape(-1), flat)
    assert in_order == (example.traits.effect is Effect.RESHAPE)


@pytest.mark.parametrize(
    ("domain", "name"), named(Effect.CUT, Effect.LOOKUP, Effect.REPEAT, Effect.JOIN)
)
def test_cuts_lookups_repeats_and_joins_compute_nothing(domain: str, name: str) -> None:
    example = Example(domain, name)
    after = np.concatenate([y.reshape(-1) for y in example.run(example.input)])
    given = [example.input, *example.constant_values(), np.zeros(1)]
    assert np.isin(after, np.concatenate([item.reshape(-1) for item in given])).all()
    if example.traits.effect is Effect.JOIN:
        assert after.size == 2 * example.input.size


@pytest.mark.parametrize(
    ("domain", "name"),
    [key for key in named(*Effect) if TRAITS[key].carries and key[1] != "DequantizeLinear"],
)
def test_what_carries_a_weight_keeps_its_numbers(domain: str, name: str) -> None:
    example = Example(domain, name)
    whole = np.round(example.input * 100).astype(np.float32)
    (after,) = example.run(whole)
    np.testing.assert_array_equal(np.sort(after.reshape(-1)), np.sort(whole.reshape(-1)))


@pytest.mark.parametrize(
    ("domain", "name"),
    [key for key in named(*Effect) if TRAITS[key].shape_only and key[1] != "ConstantOfShape"],
)
def test_shape_only_takes_no_notice_of_elements(domain: str, name: str) -> None:
    example = Example(domain, name)
    first, second = example.run(example.input)[0], example.run(example.input + 1)[0]
    assert first.shape == second.shape
    if TRAITS[domain, name].effect is not Effect.RANDOM:
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", "Softmax LogSoftmax Hardmax ArgMax ArgMin".split())
def test_ignores_shift_of_all_data(name: str) -> None:
    example = Example("", name)
    assert example.traits.ignores_shift
    np.testing.assert_allclose(
        example.run(example.input)[0], example.run(example.input + 1)[0], atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("LayerNormalization", [np.ones(6, np.float32)]),
        ("InstanceNormalization", [ONES, HALVES]),
        ("GroupNormalization", [ONES, HALVES]),
        ("MeanVarianceNormalization", []),
        ("RMSNormalization", [np.ones(6, np.float32)]),
        ("LpNormalization", []),
    ],
)
def test_norms_ignore_a_shift_where_they_take_the_mean_off(name: str, others: list[Array]) -> None:
    how: dict[str, Any] = {"num_groups": 2} if name == "GroupNormalization" else {}
    names = ["x", *(f"c{place}" for place in range(len(others)))]
    graph = helper.make_graph(
        [helper.make_node(name, names, ["y"], **how)],
        "norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(v, n) for v, n in zip(others, names[1:], strict=True)],
    )
    version = max(21, onnx.defs.get_schema(name).since_version)
    built = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", version)], ir_version=11
    )
    evaluator: Any = ReferenceEvaluator(built)
    x = data()
    first, second = (evaluator.run(None, {"x": value})[0] for value in (x, x + np.float32(1)))
    assert np.allclose(first, second, atol=1e-3) == TRAITS["", name].ignores_shift


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        key
        for key in named(Effect.ELEMENTWISE)
        if TRAITS[key].hides
        and WITH.get(key[1], {}).get("kind", np.float32) is np.float32
        and key[1] != "LeakyRelu"  # it hides only what its slope makes small beside the rest
    ],
)
def test_what_hides_makes_fewer_numbers_than_it_reads(domain: str, name: str) -> None:
    example = Example(domain, name)
    far = np.geomspace(1, 1e9, example.input.size // 2, dtype=np.float32)
    wide = np.concatenate([-far, far]).reshape(SHAPE)
    after = example.run(wide)[0]
    assert np.unique(after).size < np.unique(wide).size


def test_arithmetic_is_what_it_says() -> None:
    found = {name for (domain, name), traits in TRAITS.items() if traits.arithmetic}
    expected = "Add Sub Mul Div Pow Max Min QLinearAdd QLinearMul"
    assert found == set(expected.split())
