"""Shapes of fused layers, packed batches and transforms of ONNX Runtime, as standard operators of
the same shapes (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""

from __future__ import annotations

from collections.abc import Sequence

from onnxshare.shapes.rules import microsoft_attention
from onnxshare.shapes.rules.substitute import Body, NoRule, Rule, applied, same


def _masked_attention(body: Body) -> None:
    """The value's features; keys of an encoder are passed on, a cache grows by a step."""
    if not body.has(1) or not body.has(2):
        raise NoRule
    shared = body.attribute("past_present_share_buffer", 0)
    if body.has(5) or shared:
        body.output(0, body.input(2))
    else:  # [batch, heads, steps, size] of an encoder
        body.output(0, body.input(0))
    for position in (1, 2):
        if not body.has(4 + position):
            body.output(position, body.input(position))
        elif shared:
            body.output(position, body.input(4 + position))
        elif body.wants(position):
            microsoft_attention.grown(body, position, 4 + position)


def _packed_heads(body: Body) -> None:
    """PackedMultiHeadAttention: the value's shape, or [tokens, heads, 3, size] packed."""
    if body.has(2):
        return body.output(0, body.input(2))
    query = body.cut(body.input(0), 0, 1, 2)
    return body.output(0, body.op("Reshape", query, body.integers(0, -1)))


def _of_query(body: Body, *caches: int, axes: int) -> None:
    """The query's shape, of which the first heads are taken where key and value are in it too."""
    query, groups = body.input(0), body.attribute("kv_num_heads", 0)
    if body.attribute("v_head_size", 0) or body.attribute("kv_cache_layout", "SEPARATE") != (
        "SEPARATE"
    ):
        raise NoRule
    if not body.has(1):
        heads = body.attribute("num_heads", 0)
        kept = [0] * (axes - 1)
        split = body.op("Reshape", query, body.integers(*kept, heads + 2 * groups, -1))
        first = body.cut(split, 0, heads, axes - 1)
        query = body.op("Reshape", first, body.integers(*kept, -1))
    body.output(0, query)
    for position, cache in enumerate(caches, start=1):
        if body.has(cache):
            body.output(position, body.input(cache))


def _position_bias(body: Body) -> None:
    """[batch, heads, rows, rows], of a query that is packed where token offsets are given."""
    rows = body.input(6) if body.has(6) else body.sum(body.input(0), -1)
    column = body.op("Unsqueeze", rows, body.integers(1, 3))
    body.output(0, body.op("Add", body.like(column, 2), body.input(2)))


def _reduced_streams(body: Body) -> None:
    count = body.attribute("num_branches", 0)
    if count:
        parts = body.ops(count, "Split", body.input(0), axis=-1, num_outputs=count)
        return body.output(0, parts[0])
    return body.output(0, body.sum(body.input(0), -2))


def _gated_delta(body: Body) -> None:
    if not body.has(2):
        raise NoRule  # the heads stand in the shape of the state
    body.output(0, body.input(2))
    if body.has(6):
        body.output(1, body.input(6))


def _transform(body: Body) -> None:
    if body.attribute("signal_ndim", 1) != 1:
        raise NoRule
    signal = body.op("Unsqueeze", body.input(0), body.integers(-1))
    body.output(0, body.op("DFT", signal, onesided=1, axis=-2))


def _inverse_transform(body: Body) -> None:
    """Of m coefficients, 2 · (m - 1) numbers."""
    if body.attribute("signal_ndim", 1) != 1:
        raise NoRule
    rest = body.sum(body.cut(body.input(0), 1, 2**62, -2), -1)
    body.output(0, body.op("Concat", rest, rest, axis=-1))


def _scaled_product(body: Body) -> None:
    """A weight of [N, …]: the rows of the data, N columns."""
    rows = body.sum(body.input(0), -1, keepdims=1)
    columns = body.op("Flatten", body.like(body.input(1), 0), axis=1)
    body.output(0, body.op("Add", rows, body.sum(columns, 1)))


def projections(body: Body, columns: Sequence[str], residual: int | None = None) -> None:
    """Products with weights stored in blocks, whose sizes are attributes, and the sum with the
    skipped input."""
    inner = body.attribute("K", 0)
    for position, name in enumerate(columns):
        count = body.attribute(name, 0)
        if min(inner, count) < 1:
            raise NoRule
        weight = body.like(body.op("ConstantOfShape", body.integers(inner, count)), 0)
        body.output(position, body.op("MatMul", body.input(0), weight))
    if residual is not None:
        body.output(residual, body.input(0))


def _restored(body: Body) -> None:
    """[batch, steps] of the offsets, and the features of the rows."""
    places = body.op("Unsqueeze", body.like(body.input(1), 0), body.integers(-1))
    body.output(0, body.op("Add", places, body.sum(body.input(0), 0)))


def _word_embedding(body: Body) -> None:
    """[words, characters] as [words, filters]."""
    rows = body.sum(body.like(body.input(0), 1), -1, keepdims=1)
    body.output(0, body.op("Add", rows, body.sum(body.input(1), 1, 2, 3)))


def _blocked(body: Body) -> None:
    """ReorderInput: the channels are padded to whole blocks, whose size is not told."""
    data = body.input(0)
    if body.attribute("channels_last", 0):
        data = body.op("Transpose", data, perm=[0, 3, 1, 2])
    unknown = body.op("Reshape", body.op("NonZero", data), body.integers(1, -1, 1, 1))
    channels = body.op("CastLike", unknown, data)
    body.output(0, body.op("Add", body.cut(data, 0, 1, 1), channels))


def _unblocked(body: Body) -> None:
    count = body.attribute("channels", 0)
    if count < 1:
        raise NoRule
    channels = body.op("ConstantOfShape", body.integers(1, count, 1, 1))
    first = body.cut(body.input(0), 0, 1, 1)
    result = body.op("Add", first, body.op("CastLike", channels, first))
    if body.attribute("channels_last", 0):
        result = body.op("Transpose", result, perm=[0, 2, 3, 1])
    body.output(0, result)


_RULES: dict[Rule, str] = {
    same(0): "BranchwiseRMSNorm GatedRMSNorm GatedAdd ScaledSiLU SampleOp "
    "MRotaryEmbedding HyperConnectionPostMix LongformerAttention QOrderedLongformerAttention "
    "DecoderAttention",
    # The scores of a decoder, from which some are taken out.
    same(1): "NGramRepeatBlock",
    same(0, 0): "EngramGate LinearAttentionGate",
    same(1, 3): "GemmaRotaryEmbedding",
    same(0, 4): "VarlenCausalConvWithState",
    microsoft_attention.attention: "DecoderMaskedSelfAttention PackedAttention",
    _masked_attention: "DecoderMaskedMultiHeadAttention",
    applied("MatMul", 0, 7, like=0): "QOrderedAttention",
    _packed_heads: "PackedMultiHeadAttention",
    lambda body: _of_query(body, 3, 4, axes=2): "PagedAttention SparsePagedAttention",
    lambda body: _of_query(body, 3, 4, axes=3): "SparseAttention",
    lambda body: _of_query(body, axes=3): "DynamicSparseAttention",
    _position_bias: "GatedRelativePositionBias",
    _reduced_streams: "HyperConnectionPreMix",
    _gated_delta: "GatedDeltaNet",
    _transform: "Rfft",
    _inverse_transform: "Irfft",
    _scaled_product: "MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight",
    lambda body: projections(body, ("N",), residual=1): "MatMulNBitsMlp",
    lambda body: projections(body, ("Nq", "Nkv", "Nkv"), residual=3): "MatMulNBitsQkv",
    _restored: "RestorePadding",
    _word_embedding: "WordConvEmbedding",
}

RULES: dict[tuple[str, str], Rule] = {
    **{("com.microsoft", name): rule for rule, names in _RULES.items() for name in names.split()},
    ("com.microsoft.nchwc", "ReorderInput"): _blocked,
    ("com.microsoft.nchwc", "ReorderOutput"): _unblocked,
}
