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


def attention(context: Context) -> Work:
    """Attention: S · T · (key size + value size) per query head, T counting past and new keys."""
    query, key, value = (context.input(position) for position in range(3))
    if len(query) == 4:
        heads, rows, size, value_size, new = query[1], query[2], query[3], value[3], key[2]
    else:
        heads = context.number("q_num_heads")
        rows, new = query[1], key[1]
        size = query[2] // heads
        value_size = value[2] // context.number("kv_num_heads")
    keys = new + (context.input(4)[2] if context.has(4) else 0)
    macs, extra = scores(heads, rows, keys, size, value_size)
    work = Work.of(context.used({3: heads * rows * keys}), macs, extra)
    return work.of_rows(context.share(query[0]))


def flexible_attention(context: Context) -> Work:
    """FlexAttention: as Attention; what its subgraphs do to the scores is counted at their
    nodes."""
    query, key, value = (context.input(position) for position in range(3))
    macs, extra = scores(query[1], query[2], key[2], query[3], value[3])
    return Work(macs=macs, extra_flops=extra).of_rows(context.share(query[0]))


def projected_attention(context: Context, past: int = 4, bias: int = 5) -> Work:
    """com.microsoft Attention: one FC from the input to query, key and value, then their
    products."""
    data, weight, node = context.input(0), context.input(1), context.node
    heads, rows, columns = context.number("num_heads"), data[1], weight[1]
    sizes = node.attribute("qkv_hidden_sizes") or (columns // 3,) * 3
    if context.has(past) and node.attribute("past_present_share_buffer", 0):
        raise Unknown  # how much of the buffer is in use is data
    keys = rows + (context.input(past)[3] if context.has(past) else 0)
    macs, extra = scores(heads, rows, keys, sizes[1] // heads, sizes[2] // heads)
    stored = context.weights(1)
    uses = {1: rows * stored, 2: rows * context.weights(2)}
    uses |= context.used({bias: heads * rows * keys})
    projected, sharing = rows * prod(weight), Sharing(token=rows if stored else 1)
    work = Work.of(uses, projected + macs, rows * columns + extra, sharing, unshared=projected)
    return work.of_rows(context.share(data[0]))


def multi_head_attention(context: Context) -> Work:
    """com.microsoft MultiHeadAttention: as Attention, after the bias of each projection is
    added."""
    if context.has(8):
        raise Unknown  # how much of the buffer is in use is data
    heads, query, result = context.number("num_heads"), context.input(0), context.output
    rows = query[1]
    if not context.has(1):  # [batch, steps, heads, 3, size]
        new, hidden = rows, query[2] * query[4]
    else:
        key, hidden = context.input(1), query[2]
        # [batch, heads, steps, size] from an encoder, else steps second
        new = key[2] if len(key) == 4 else key[1]
    keys = new + (context.input(6)[2] if context.has(6) else 0)
    macs, extra = scores(heads, rows, keys, hidden // heads, result[2] // heads)
    biased = rows * hidden + new * (hidden + result[2])
    uses = context.used({5: heads * rows * keys, 3: biased})
    sharing = Sharing(token=rows if 3 in uses else 1)
    return Work.of(uses, macs, extra + uses.get(3, 0), sharing).of_rows(context.share(query[0]))


def group_query_attention(context: Context) -> Work:
    """com.microsoft GroupQueryAttention: as Attention, for `num_heads` query heads. How many keys
    there are is read from the present keys, which are the past and the new ones."""
    heads, groups = context.number("num_heads"), context.number("kv_num_heads")
    result = context.output
    rows, size = result[1], result[2] // heads
    keys = rows if not context.has(3) else context.result(1)[2]
    macs, extra = scores(heads, rows, keys, size, size)
    each = {10: heads * keys, 11: heads, 14: heads * size, 15: groups * size}  # of a row
    for cache in (7, 8):
        if context.constant(cache) is not None:
            each[cache] = (heads + groups) * 2 * context.input(cache)[1]
    uses = context.used({slot: rows * count for slot, count in each.items()})
    turned = rows * (heads + groups) * size  # elements of query and key
    extra += 3 * turned if context.number("do_rotary") else 0
    return Work.of(uses, macs, extra).of_rows(context.share(result[0]))


def rotary_embedding(context: Context, tables: tuple[int, int] = (1, 2)) -> Work:
    """RotaryEmbedding: each turned element uses one cosine and one sine, two products and a sum (Su
    et al., 2021)."""
    elements, data = context.per_sample(context.output), context.input(0)
    size = data[-1]
    if len(data) == 3:
        heads = context.number("num_heads")
        size = size // heads if heads else 2 * context.input(tables[0])[-1]
        size = max(size, context.number("rotary_embedding_dim"))
    turned = elements // size * 2 * context.input(tables[0])[-1]
    return Work.of(context.used(dict.fromkeys(tables, turned)), extra=3 * turned)


def embeddings(context: Context) -> Work:
    """com.microsoft EmbedLayerNormalization: per token a row of each table, their sum, and its
    normalization."""
    elements = context.per_sample(context.output)
    return Work.of(context.used(dict.fromkeys(range(2, 7), elements)), extra=4 * elements)
