"""`inspect(hashes=True)`: tensors that quantized operators read with scales of their own, and their
float twins, which are worked out by the formulas of the operators or by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import onnxshare
from onnxshare.analysis.results import WeightFacts
from tests.builders import Array, node, random_array, run
from tests.shapes.rules.test_microsoft import MICROSOFT, bytes_

F = np.float32
CODES = np.arange(-12, 12, dtype=np.int8).reshape(4, 6)
KERNEL = np.arange(-27, 27, dtype=np.int8).reshape(2, 3, 3, 3)
ZERO = np.array(3, np.int8)
SIX = (np.arange(1, 7) / 7).astype(F)
SIX_ZEROS = np.arange(6, dtype=np.int8)

#: What a float layer reads: the twin of each rank.
_READS = {1: ("Mul", "u {}"), 2: ("MatMul", "m {}"), 3: ("MatMul", "m {}"), 4: ("Conv", "c {}")}


def built(
    nodes: list[onnx.NodeProto], stored: dict[str, Array], head_map: Array, opset: int = 21
) -> onnx.ModelProto:
    """The nodes, whose results all are outputs, and a float layer that reads the twin `f`."""
    op_type, inputs = _READS[head_map.ndim]
    nodes = [*nodes, node(op_type, inputs.format("f"), "g")]
    given = {**stored, "f": head_map}
    made = {name for item in nodes for name in item.output if name}
    read = {name for item in nodes for name in item.input if name} - set(given) - made
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info(name, *_type(name, head_map)) for name in sorted(read)],
        [onnx.helper.make_empty_tensor_value_info(name) for name in sorted(made)],
        [
            numpy_helper.from_array(np.ascontiguousarray(array), name)
            for name, array in given.items()
        ],
    )
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(MICROSOFT, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _type(name: str, head_map: Array) -> tuple[int, list[Any]]:
    sizes: dict[str, list[Any]] = {
        "c": ["n", 3, 8, 8],
        "m": ["n", head_map.shape[-2] if head_map.ndim > 1 else 1],
        "u": ["n", head_map.shape[-1]],
        "q": ["n", 4],
        "image": ["n", 3, 8, 8],
        "i": ["n"],
        "steps": [7, 2, 3],
        "tokens": ["n", 5, 4],
    }
    kinds = {"q": TensorProto.UINT8, "image": TensorProto.UINT8, "i": TensorProto.INT64}
    return kinds.get(name, TensorProto.FLOAT), sizes.get(name, ["n", "k"])


def one(number: float) -> Array:
    return np.array(number, F)


DATA = {"sx": one(0.5), "zx": np.array(7, np.uint8), "sy": one(0.25), "zy": np.array(9, np.uint8)}


def by_column(codes: Array = CODES) -> Array:
    return (codes - SIX_ZEROS).astype(F) * SIX


def convolution(scale: Array, zero: Array, domain: str = "") -> onnx.ModelProto:
    shape = (-1, 1, 1, 1) if scale.size > 1 else ()
    head_map = (KERNEL - zero.reshape(shape)).astype(F) * scale.reshape(shape)
    conv = node("QLinearConv", "image sx zx w s z sy zy", "y", domain=domain)
    return built([conv], {**DATA, "w": KERNEL, "s": scale, "z": zero}, head_map)


def convolution_bias() -> onnx.ModelProto:
    bias = np.array([100, -3], np.int32)
    scale = np.array([0.1, 0.3], F)
    conv = node("QLinearConv", "image sx zx k s z sy zy w", "y")
    given = {**DATA, "k": KERNEL, "w": bias, "s": scale, "z": np.zeros(2, np.int8)}
    return built([conv], given, bias.astype(F) * (F(0.5) * scale))


def product(
    op_type: str,
    inputs: str,
    head_map: Array | None = None,
    codes: Array = CODES,
    domain: str = MICROSOFT,
    data: dict[str, Array] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """A product with one scale and zero point per column."""
    head_map = by_column() if head_map is None else head_map
    layer = node(op_type, inputs, "y", domain=domain, **attributes)
    given = {**(DATA if data is None else data), "w": codes, "s": SIX, "z": SIX_ZEROS}
    return built([layer], given, head_map)


def dynamic(op_type: str = "MatMulInteger") -> onnx.ModelProto:
    """Dynamic quantization as ONNX Runtime's tool writes it."""
    codes, scale, x = (CODES, SIX, "x") if op_type == "MatMulInteger" else (KERNEL, one(0.1), "c")
    zero = SIX_ZEROS if op_type == "MatMulInteger" else ZERO
    nodes = [
        node("DynamicQuantizeLinear", x, "xq xs xz"),
        node(op_type, "xq w xz z", "sums"),
        node("Cast", "sums", "floats", to=TensorProto.FLOAT),
        node("Mul", "xs s", "scales"),
        node("Mul", "floats scales", "y"),
    ]
    return built(nodes, {"w": codes, "s": scale, "z": zero}, (codes - zero).astype(F) * scale)


def in_blocks(bits: int, zeros: bool, turned: bool = False) -> onnx.ModelProto:
    """A [7, 80] matrix in blocks of 32, the last one half empty; ONNX Runtime says what it is."""
    given: dict[str, Array] = {"w": bytes_(7, 3, 32 * bits // 8), "s": np.abs(random_array(21))}
    if zeros:
        given["z"] = bytes_(7 * -(-3 * bits // 8))
    layer = node(
        "MatMulNBits",
        "x w s z" if zeros else "x w s",
        "y",
        domain=MICROSOFT,
        K=80,
        N=7,
        bits=bits,
        block_size=32,
    )
    matrix = product_with_identity(layer, given, 80)
    return built([layer], given, matrix if turned else np.ascontiguousarray(matrix.T))


def fused_projection() -> onnx.ModelProto:
    """Queries of 7 × 32: what a MatMulNBits of the same bytes multiplies with; keys of others."""
    given: dict[str, Array] = {"w": bytes_(7, 1, 16), "s": np.abs(random_array(7))}
    sizes = {"domain": MICROSOFT, "K": 32, "bits": 4, "block_size": 32}
    alone = node("MatMulNBits", "x w s", "y", N=7, **sizes)
    head_map = product_with_identity(alone, given, 32)
    given |= {"n": random_array(32), "v": bytes_(4, 1, 16) + np.uint8(1), "t": random_array(4)}
    layer = node("MatMulNBitsQkv", "x", "y k l", Nq=7, Nkv=4, **sizes)
    layer.input.extend(["", "n", "w", "s", "", "v", "t", "", "v", "t"])
    return built([layer], given, np.ascontiguousarray(head_map.T))


def float8() -> onnx.ModelProto:
    """[3, 256] 8-bit floats, two blocks of 128 in a row."""
    codes = random_array(3, 256).astype(onnx.helper.tensor_dtype_to_np_dtype(17))
    scale = np.abs(random_array(3, 2))
    layer = node("MatMulBlockQuantizedFp8Weight", "x w s", "y", domain=MICROSOFT)
    head_map = codes.astype(F) * np.repeat(scale, 128, axis=1)
    return built([layer], {"w": codes, "s": scale}, head_map)


def in_table(quant_type: int) -> onnx.ModelProto:
    """Without the code of -0.0, which a product makes 0.0."""
    halves = [np.where(half == 8, 9, half) for half in np.divmod(bytes_(7 * 16), 16)]
    packed = (16 * halves[0] + halves[1]).astype(np.uint8)
    given: dict[str, Array] = {"w": packed, "s": np.abs(random_array(14))}
    layer = node(
        "MatMulBnb4",
        "x w s",
        "y",
        domain=MICROSOFT,
        K=32,
        N=7,
        block_size=16,
        quant_type=quant_type,
    )
    return built([layer], given, product_with_identity(layer, given, 32).T)


def product_with_identity(layer: onnx.NodeProto, given: dict[str, Array], size: int) -> Array:
    """The matrix of a layer, as ONNX Runtime reads it."""
    alone = built([layer], given, np.ones((1, 1), F))
    (result,) = run(only_output(alone, "y"), x=np.eye(size, dtype=F))
    return result


def rows(bits: int) -> onnx.ModelProto:
    given: dict[str, Array] = {"w": bytes_(6, 32 * bits // 8), "s": random_array(6, 2)}
    layer = node(
        "GatherBlockQuantized",
        "w i s",
        "y",
        domain=MICROSOFT,
        bits=bits,
        block_size=16,
        gather_axis=0,
        quantize_axis=1,
    )
    alone = only_output(built([layer], given, np.ones((1, 1), F)), "y")
    (table,) = run(alone, i=np.arange(6))
    return built([layer], given, table)


def only_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Without the float layer, which reads an input of its own."""
    kept = [item for item in model.graph.node if name in item.output]
    read = {value for item in kept for value in item.input}
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for field in (model.graph.input, model.graph.output):
        values = [value for value in field if value.name in {*read, name}]
        del field[:]
        field.extend(values)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return model


def lstm() -> onnx.ModelProto:
    """W is [directions, features, 4 · units], where LSTM has [directions, 4 · units, features]."""
    weight, recurrence = (
        np.arange(-12, 12, dtype=np.int8).reshape(1, 3, 8),
        np.arange(-8, 8, dtype=np.int8).reshape(1, 2, 8),
    )
    scale = (np.arange(1, 9) / 9).astype(F).reshape(1, 8)
    layer = node("DynamicQuantizeLSTM", "steps", "y", domain=MICROSOFT, hidden_size=2)
    layer.input.extend(["w", "r", "", "", "", "", "", "s", "z", "rs", "rz"])
    given: dict[str, Array] = {
        "w": weight,
        "r": recurrence,
        "s": scale,
        "z": np.zeros((1, 8), np.int8),
        "rs": np.full((1, 8), 0.1, F),
        "rz": np.zeros((1, 8), np.int8),
    }
    head_map = (weight.astype(F) * scale[:, None]).transpose(0, 2, 1)
    return built([layer], given, np.ascontiguousarray(head_map))


def operand(op_type: str) -> onnx.ModelProto:
    layer = node(op_type, "q sx zx w s z sy zy", "y", domain=MICROSOFT)
    codes = CODES[0, :4]
    given = {**DATA, "w": codes, "s": one(0.1), "z": ZERO}
    return built([layer], given, (codes - ZERO).astype(F) * F(0.1))


def behind_dequantize_of_microsoft() -> onnx.ModelProto:
    layer = node("DequantizeLinear", "w s z", "d", domain=MICROSOFT, axis=1)
    return built([layer, node("MatMul", "x d", "y")], product_parts(), by_column())


def product_parts() -> dict[str, Array]:
    return {"w": CODES, "s": SIX, "z": SIX_ZEROS}


EQUAL: tuple[Any, ...] = ("w", "dequantize", None, None)


def turned(*order: int) -> tuple[Any, ...]:
    return None, "dequantize", "w", order


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[Any, ...]]] = {
    "QLinearConv": (lambda: convolution(one(0.1), ZERO), EQUAL),
    "QLinearConv, per channel": (
        lambda: convolution(np.array([0.1, 0.3], F), np.array([0, 5], np.int8)),
        EQUAL,
    ),
    "QLinearConv of ONNX Runtime": (lambda: convolution(one(0.1), ZERO, MICROSOFT), EQUAL),
    "bias of QLinearConv": (convolution_bias, EQUAL),
    "QLinearMatMul": (
        lambda: product("QLinearMatMul", "q sx zx w s z sy zy", domain=""),
        EQUAL,
    ),
    "QGemm": (lambda: product("QGemm", "q sx zx w s z"), EQUAL),
    "QGemm, turned": (
        lambda: product("QGemm", "q sx zx w s z", codes=CODES.T.copy(), transB=1),
        turned(1, 0),
    ),
    "MatMulIntegerToFloat": (lambda: product("MatMulIntegerToFloat", "q w sx s zx z"), EQUAL),
    "DynamicQuantizeMatMul": (lambda: product("DynamicQuantizeMatMul", "x w s z"), EQUAL),
    "QAttention": (
        lambda: product("QAttention", "tokens w b sx s mask zx z", num_heads=1),
        EQUAL,
    ),
    "MatMulInteger": (dynamic, EQUAL),
    "ConvInteger": (lambda: dynamic("ConvInteger"), EQUAL),
    "MatMulNBits, 4 bits": (lambda: in_blocks(4, zeros=True), EQUAL),
    "MatMulNBits, default zero point": (lambda: in_blocks(4, zeros=False), EQUAL),
    "MatMulNBits, 8 bits": (lambda: in_blocks(8, zeros=True), EQUAL),
    "MatMulNBits, of a MatMul": (lambda: in_blocks(4, zeros=True, turned=True), turned(1, 0)),
    "MatMulNBitsQkv": (fused_projection, EQUAL),
    "MatMulBlockQuantizedFp8Weight": (float8, EQUAL),
    "MatMulBnb4, floats": (lambda: in_table(0), EQUAL),
    "MatMulBnb4, normal floats": (lambda: in_table(1), EQUAL),
    "GatherBlockQuantized, 4 bits": (lambda: rows(4), EQUAL),
    "GatherBlockQuantized, 8 bits": (lambda: rows(8), EQUAL),
    "DynamicQuantizeLSTM": (lstm, turned(0, 2, 1)),
    "QLinearAdd": (lambda: operand("QLinearAdd"), EQUAL),
    "QLinearMul": (lambda: operand("QLinearMul"), EQUAL),
    "DequantizeLinear of ONNX Runtime": (behind_dequantize_of_microsoft, EQUAL),
}


def weights(model: onnx.ModelProto) -> dict[str, WeightFacts]:
    return {item.name: item for item in onnxshare.inspect(model, hashes=True).weights}


def said(facts: WeightFacts) -> tuple[Any, ...]:
    return facts.same_as, facts.same_after, facts.transposed_of, facts.permutation


@pytest.mark.parametrize("name", CASES)
def test_a_quantized_weight_equals_its_float_twin(name: str) -> None:
    model, expected = CASES[name][0](), CASES[name][1]
    found = weights(model)
    assert said(found["w"]) == (None, None, None, None)
    assert said(found["f"]) == expected


@pytest.mark.parametrize("name", CASES)
def test_another_scale_makes_another_weight(name: str) -> None:
    model = CASES[name][0]()
    (scale,) = [item for item in model.graph.initializer if item.name == "s"]
    values = numpy_helper.to_array(scale).copy()
    values.reshape(-1)[-1] *= 2
    scale.CopyFrom(numpy_helper.from_array(values, "s"))
    assert said(weights(model)["f"]) == (None, None, None, None)


def test_the_scale_behind_integers_counts_only_where_all_sums_get_it() -> None:
    """The sums of a MatMulInteger that two nodes read, one of them without a scale."""
    model = dynamic()
    model.graph.node.append(node("Cast", "sums", "other", to=TensorProto.FLOAT))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("other"))
    assert said(weights(model)["f"]) == (None, None, None, None)


def test_two_quantized_forms_of_one_weight() -> None:
    """QDQ and QLinearMatMul side by side, with other zero points."""
    model = product("QLinearMatMul", "q sx zx w s z sy zy", domain="")
    shifted = (CODES + np.int8(4)).astype(np.int8)
    for name, array in (("w2", shifted), ("z2", SIX_ZEROS + np.int8(4))):
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.int8), name))
    model.graph.node.append(node("DequantizeLinear", "w2 s z2", "d2", axis=1))
    model.graph.node.append(node("MatMul", "m d2", "y2"))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("y2"))
    found = weights(model)
    assert said(found["w2"]) == EQUAL
    assert found["w2"].dtype == found["w"].dtype == "int8"


def test_progress_reaches_the_end_with_what_is_dequantized() -> None:
    seen: list[tuple[int, int]] = []
    onnxshare.inspect(
        dynamic(), hashes=True, progress=lambda done, total: seen.append((done, total))
    )
    # 24 codes, 24 floats of the twin, 24 floats that are made; the scales are no parameters.
    assert seen[-1] == (24 + 96 + 96, 24 + 96 + 96)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_quantized_table_whose_rows_are_looked_up_first() -> None:
    """As ONNX Runtime's tool quantizes an embedding: the rows are dequantized, not the table."""
    nodes = [node("Gather", "w i", "rows"), node("DequantizeLinear", "rows s z", "d")]
    given = {"w": CODES, "s": one(0.1), "z": ZERO}
    model = built(nodes, given, (CODES - ZERO).astype(F) * F(0.1))
    report = onnxshare.inspect(model, hashes=True)
    facts = report.nodes[0]
    assert (facts.kind, facts.params, facts.connections) == ("embedding", 24, 6)
    assert {item.name: said(item) for item in report.weights}["f"] == EQUAL
    assert report.totals.quantization == 2
