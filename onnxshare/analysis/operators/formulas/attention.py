"""Attention: products of data with data, and in some forms the layers before them."""

from __future__ import annotations

from math import prod

from onnxshare.analysis.operators.operator import Context, Unknown, Work
from onnxshare.analysis.results import Sharing


def scores(heads: int, rows: int, keys: int, size: int, value_size: int) -> tuple[int, int]:
    """MACs of the products with keys and values, and the operations of scaling and softmax.

    heads · rows · keys · (size + value size): none is left out for a causal mask, as is usual.
    """
    scores = heads * rows * keys
    return scores * (size + value_size), 4 * scores


def _added(context: Context, position: int, elements: int) -> dict[int, int]:
    """Uses of a stored bias or mask that is added to every score."""
    return {position: elements} if context.constant(position) is not None else {}


def attention(context: Context) -> Work:
    """Attention: S · T · (key size + value size) per query head, T counting past and new keys
    (https://onnx.ai/onnx/operators/onnx__Attention.html)."""
    query, key, value = (context.input(position) for position in range(3))
    node = context.node
    if len(query) == 4:
        heads, rows, size, value_size, new = query[1], query[2], query[3], value[3], key[2]
    else:
        heads = int(node.attribute("q_num_heads", 0))
        rows, new = query[1], key[1]
        size = query[2] // heads
        value_size = value[2] // int(node.attribute("kv_num_heads", 0))
    keys = new + (context.input(4)[2] if context.has(4) else 0)
    macs, extra = scores(heads, rows, keys, size, value_size)
    uses = _added(context, 3, heads * rows * keys)
    return Work(connections=sum(uses.values()), uses=uses, macs=macs, extra_flops=extra)


def flexible_attention(context: Context) -> Work:
    """FlexAttention: as Attention; what its subgraphs do to the scores is counted at their nodes
    (https://onnx.ai/onnx/operators/onnx_aionnxpreview_FlexAttention.html)."""
    query, key, value = (context.input(position) for position in range(3))
    macs, extra = scores(query[1], query[2], key[2], query[3], value[3])
    return Work(macs=macs, extra_flops=extra)


def projected_attention(context: Context, past: int = 4, bias: int = 5) -> Work:
    """com.microsoft Attention: one FC from the input to query, key and value, then their products
    (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""
    data, weight, node = context.input(0), context.input(1), context.node
    heads, rows, columns = int(node.attribute("num_heads", 0)), data[1], weight[1]
    sizes = node.attribute("qkv_hidden_sizes") or (columns // 3,) * 3
    if context.has(past) and node.attribute("past_present_share_buffer", 0):
        raise Unknown  # how much of the buffer is in use is data
    keys = rows + (context.input(past)[3] if context.has(past) else 0)
    macs, extra = scores(heads, rows, keys, sizes[1] // heads, sizes[2] // heads)
    stored = context.weights(1)
    uses = {1: rows * stored, 2: rows * context.weights(2)}
    uses |= _added(context, bias, heads * rows * keys)
    return Work(
        connections=sum(uses.values()),
        uses=uses,
        sharing=Sharing(token=rows if stored else 1),
        macs=rows * prod(weight) + macs,
        extra_flops=rows * columns + extra,
        unshared=rows * prod(weight),
    )


def quantised_attention(context: Context) -> Work:
    """com.microsoft QAttention: as its Attention, with the past as input 8."""
    return projected_attention(context, past=8, bias=99)


def multi_head_attention(context: Context) -> Work:
    """com.microsoft MultiHeadAttention: as Attention, after the bias of each projection is added
    (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""
    if context.has(8):
        raise Unknown  # how much of the buffer is in use is data
    heads = int(context.node.attribute("num_heads", 0))
    query, result = context.input(0), context.output
    rows = query[1]
    if not context.has(1):  # [batch, steps, heads, 3, size]
        new, hidden = rows, query[2] * query[4]
    else:
        key, hidden = context.input(1), query[2]
        # [batch, heads, steps, size] from an encoder, else steps second
        new = key[2] if len(key) == 4 else key[1]
    keys = new + (context.input(6)[2] if context.has(6) else 0)
    macs, extra = scores(heads, rows, keys, hidden // heads, result[2] // heads)
    uses = _added(context, 5, heads * rows * keys)
    if context.constant(3) is not None:
        uses[3] = rows * hidden + new * (hidden + result[2])
    return Work(
        connections=sum(uses.values()),
        uses=uses,
        sharing=Sharing(token=rows if 3 in uses else 1),
        macs=macs,
        extra_flops=extra + uses.get(3, 0),
    )


def group_query_attention(context: Context) -> Work:
    """com.microsoft GroupQueryAttention: as Attention, for `num_heads` query heads. How many keys
    there are is read from the present keys: it depends on data if there is a past
    (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""
    heads, result = int(context.node.attribute("num_heads", 0)), context.output
    groups = int(context.node.attribute("kv_num_heads", 0))
    rows, size = result[1], result[2] // heads
    keys = rows if not context.has(3) else context.result(1)[2]
    macs, extra = scores(heads, rows, keys, size, size)
    uses = _added(context, 10, heads * rows * keys)
    turned = rows * (heads + groups) * size  # elements of query and key
    for cache in (7, 8):
        if context.constant(cache) is not None:
            rotated = 2 * context.input(cache)[1]
            uses[cache] = rows * (heads + groups) * rotated
    if context.constant(11) is not None:
        uses[11] = heads * rows
    for norm, count in ((14, heads), (15, groups)):
        if context.constant(norm) is not None:
            uses[norm] = rows * count * size
    rotary = 3 * turned if context.node.attribute("do_rotary", 0) else 0
    return Work(connections=sum(uses.values()), uses=uses, macs=macs, extra_flops=extra + rotary)


def rotary_embedding(context: Context, tables: tuple[int, int] = (1, 2)) -> Work:
    """RotaryEmbedding: each turned element uses one cosine and one sine, two products and a sum
    (https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html; Su et al., 2021)."""
    elements, data = context.per_sample(context.output), context.input(0)
    size = data[-1]
    if len(data) == 3:
        heads = int(context.node.attribute("num_heads", 0))
        width = int(context.node.attribute("rotary_embedding_dim", 0))
        size = size // heads if heads else 2 * context.input(tables[0])[-1]
        size = max(size, width)
    turned = elements // size * 2 * context.input(tables[0])[-1]
    uses = {table: turned for table in tables if context.constant(table) is not None}
    return Work(connections=sum(uses.values()), uses=uses, extra_flops=3 * turned)


def contrib_rotary_embedding(context: Context) -> Work:
    """com.microsoft RotaryEmbedding: the tables are inputs 2 and 3."""
    return rotary_embedding(context, tables=(2, 3))


def embeddings(context: Context) -> Work:
    """com.microsoft EmbedLayerNormalization: per token a row of each table, their sum, and its
    normalisation (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""
    elements = context.per_sample(context.output)
    uses = {slot: elements for slot in range(2, 7) if context.constant(slot) is not None}
    return Work(connections=sum(uses.values()), uses=uses, extra_flops=4 * elements)
