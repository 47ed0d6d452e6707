"""Recurrent cells and states."""

from __future__ import annotations

from math import prod

from onnxshare.analysis.operators.operator import Context, Work
from onnxshare.analysis.results import Sharing


def recurrent(context: Context) -> Work:
    """RNN, GRU, LSTM: every step of a row uses W, R, B and the peepholes once."""
    data = context.input(0)
    batch, steps = data[:2] if context.node.attribute("layout", 0) else (data[1], data[0])
    weights, recurrence = context.input(1), context.input(2)
    peepholes = 7 if context.node.op_type.endswith("LSTM") else 99
    stored = sum(context.weights(position) for position in (1, 2, 3, peepholes))
    # A quantized cell stores W as [directions, features, gates]: the rows are what is left.
    rows = prod(weights) // data[-1]
    work = Work(
        connections=steps * stored,
        sharing=Sharing(temporal=steps if stored else 1),
        macs=steps * (prod(weights) + prod(recurrence)),
        extra_flops=steps * rows * 3,  # bias, activation, gate product
        unshared=steps * (prod(weights) + prod(recurrence)),
    )
    return work.of_rows(context.share(batch))


def linear_attention(context: Context) -> Work:
    """LinearAttention: per step and head, the state of key size · value size is written once and
    read once per query head; a delta rule reads it once more."""
    node, query, value = context.node, context.input(0), context.input(2)
    heads, groups = context.number("q_num_heads"), context.number("kv_num_heads")
    steps = query[1]
    state = (query[2] // heads) * (value[2] // groups)
    rule = str(node.attribute("update_rule", "gated_delta"))
    passes = groups + heads + (groups if "delta" in rule else 0)
    decays = groups * state if "gated" in rule else 0
    work = Work(macs=steps * passes * state, extra_flops=steps * decays)
    return work.of_rows(context.share(query[0]))
