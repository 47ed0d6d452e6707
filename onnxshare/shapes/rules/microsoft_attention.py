"""Shapes of ONNX Runtime's attention and embedding operators, as standard operators of the same
shapes (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""

from __future__ import annotations

from onnx import TensorProto

from onnxshare.shapes.rules.substitute import Body, NoRule


def attention(body: Body, past: int = 4, like: int | None = None) -> None:
    """Attention, QAttention: the weight holds the columns of query, key and value side by side."""
    sizes = body.attribute("qkv_hidden_sizes", [])
    if len(sizes) == 3:
        value = body.cut(body.input(1), sizes[0] + sizes[1], sum(sizes), 1)
        key = body.cut(body.input(1), sizes[0], sizes[0] + sizes[1], 1)
    else:
        _, key, value = body.ops(3, "Split", body.input(1), axis=1, num_outputs=3)
    result = body.op("MatMul", body.input(0), value)
    body.output(0, result if like is None else body.like(result, like))
    if body.attribute("past_present_share_buffer", 0):
        return body.output(1, body.input(past))
    if not body.wants(1):
        return None
    new = split_heads(body, body.op("MatMul", body.input(0), key), body.attribute("num_heads", 0))
    new = body.op("Unsqueeze", new, body.integers(0))
    present = body.op("Concat", new, new, axis=0)
    if like is not None:
        present = body.like(present, like)
    if body.has(past):
        present = body.op("Concat", body.input(past), present, axis=3)
    return body.output(1, present)


def split_heads(body: Body, rows: str, heads: int) -> str:
    """[batch, steps, heads · size] as [batch, heads, steps, size]."""
    if heads < 1:
        raise NoRule
    split = body.op("Reshape", rows, body.integers(0, 0, heads, -1))
    return body.op("Transpose", split, perm=[0, 2, 1, 3])


def grown(body: Body, position: int, past: int) -> None:
    """An output: the cache that is an input, with the steps of key or value behind it."""
    new = split_heads(body, body.input(position), body.attribute("num_heads", 0))
    body.output(position, body.op("Concat", body.input(past), new, axis=2))


def multi_head_attention(body: Body) -> None:
    """Without a key, all three are packed in the query as [batch, steps, heads, 3, size]; without
    a value, key and value are packed in the key. A value may be [batch, heads, steps, size]."""
    if not body.has(1):
        query = body.cut(body.input(0), 0, 1, 3)
        return body.output(0, body.op("Reshape", query, body.integers(0, 0, -1)))
    if not body.has(2):
        return body.output(0, body.input(0))
    value = body.op("Reshape", body.cut(body.input(2), 0, 1, 0, -2), body.integers(1, 1, -1))
    rows = body.op("ReduceSum", body.input(0), body.integers(-1))
    body.output(0, body.op("Add", rows, value))
    for position in (1, 2):
        if body.wants(position) and body.has(5 + position):
            grown(body, position, 5 + position)
    return None


def group_query_attention(body: Body) -> None:
    """Without a key, the query holds the heads of all three. How long the present keys are is
    worked out once sizes are known (`computed_sizes`), unless there is no past."""
    heads, groups = body.attribute("num_heads", 0), body.attribute("kv_num_heads", 0)
    if body.has(1):
        body.output(0, body.input(0))
        new = [split_heads(body, body.input(position), groups) for position in (1, 2)]
    else:
        split = body.op("Reshape", body.input(0), body.integers(0, 0, heads + 2 * groups, -1))
        query = body.cut(split, 0, heads, 2)
        body.output(0, body.op("Reshape", query, body.integers(0, 0, -1)))
        key = body.cut(split, heads, heads + groups, 2)
        new = [body.op("Transpose", key, perm=[0, 2, 1, 3])] * 2
    for position in (1, 2):
        if not body.has(2 + position):
            body.output(position, new[position - 1])
        else:  # as the past, but for the steps: as many as something unknown has
            past = body.sum(body.input(2 + position), 2, keepdims=1)
            steps = body.op("Reshape", body.op("NonZero", past), body.integers(1, 1, -1, 1))
            body.output(position, body.op("Add", past, body.op("CastLike", steps, past)))


def embeddings(body: Body, like: int | None = None) -> None:
    """EmbedLayerNormalization: the rows of the words; the mask has one number per sample."""
    rows = body.op("Gather", body.input(2), body.input(0))
    rows = rows if like is None else body.like(rows, like)
    body.output(0, rows)
    body.output(2, rows)
    if body.attribute("mask_index_type", 1) == 1:
        mask = body.op("ReduceMax", body.input(0), body.integers(1), keepdims=0)
        body.output(1, body.op("Cast", mask, to=TensorProto.INT32))
