"""Layers of language models and signals that ONNX Runtime fuses into one operator
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""

from __future__ import annotations

from math import ceil, log2, prod

from onnxshare.analysis.operators.formulas import attention, elementwise
from onnxshare.analysis.operators.operator import Context, Unknown, Work
from onnxshare.analysis.results import Sharing


def depends_on_data(context: Context) -> Work:
    """Work that the shapes do not tell: it follows from lengths, flags or choices that are data.

    Raises:
        Unknown: always, so that the node is reported as unknown with what it holds.
    """
    raise Unknown


def attention_lstm(context: Context) -> Work:
    """AttnLSTM: per step the matrices of an LSTM cell, those of its query and attention layer, and
    per step and row of the memory one product with `V`, and one with the row itself; the memory
    layer turns each row once."""
    steps, memory = context.input(0)[0], context.input(11)
    kept, attended = memory[1], context.input(9)[2]
    directions = context.input(1)[0]
    cell = sum(context.weights(slot) or prod(context.input(slot)) for slot in (1, 2))
    query, layer = (prod(context.input(s)) if context.has(s) else 0 for s in (8, 13))
    rows = prod(context.input(9))
    scores = steps * directions * kept
    uses = {slot: steps * context.weights(slot) for slot in (1, 2, 3, 7, 8, 13)}
    uses |= {9: kept * context.weights(9), 10: steps * kept * context.weights(10)}
    macs = steps * (cell + query + layer) + scores * (attended + memory[2]) + kept * rows
    gates = steps * 3 * prod(context.input(1)[:2])
    work = Work.of(context.used(uses), macs, gates + scores * (2 * attended + 3))
    return work.of_rows(context.share(context.input(0)[1]))


def gated_normalization(context: Context) -> Work:
    """GatedRMSNorm: as RMSNormalization, times the activation of a gate."""
    work = elementwise.normalization(context, (1,))
    gates = 2 * context.per_sample(context.output)
    return Work.of(work.uses or {}, 0, (work.extra_flops or 0) + gates, sharing=work.sharing)


def crop_and_resize(context: Context) -> Work:
    """CropAndResize: a weighted sum of 4 elements, unless the nearest is taken."""
    nearest = context.node.attribute("mode", "bilinear") == "nearest"
    return Work(extra_flops=0 if nearest else 8 * context.per_sample(context.output))


def masked_attention(context: Context) -> Work:
    """DecoderMaskedMultiHeadAttention: one query row with the past keys and its own, after the bias
    of each projection is added; keys of an encoder come as [batch, heads, steps, size]."""
    if context.node.attribute("past_present_share_buffer", 0) or not context.has(1):
        raise Unknown  # how much of the buffer is in use is data
    query, key, result = context.input(0), context.input(1), context.output
    heads, rows = context.number("num_heads"), query[1]
    past = context.input(5)[2] if context.has(5) else 0
    keys = key[2] if len(key) == 4 else key[1] + past
    macs, extra = attention.scores(heads, rows, keys, query[2] // heads, result[2] // heads)
    added = {10: context.weights(10), 4: heads * rows * keys}
    uses = context.used(added)
    return Work.of(uses, macs, extra + uses.get(10, 0)).of_rows(context.share(query[0]))


def ordered_attention(context: Context) -> Work:
    """QOrderedAttention: three FCs in 8 bits, then as Attention; the past is input 18."""
    data, heads = context.input(0), context.number("num_heads")
    rows = data[1]
    keys = rows + (context.input(18)[3] if context.has(18) else 0)
    columns = [context.input(slot)[1] for slot in (5, 6, 7)]
    macs, extra = attention.scores(heads, rows, keys, columns[0] // heads, columns[2] // heads)
    weights = {slot: rows * context.weights(slot) for slot in (5, 6, 7, 11, 12, 13)}
    projected = rows * sum(prod(context.input(slot)) for slot in (5, 6, 7))
    uses, extra = context.used(weights | {19: heads * rows * keys}), extra + rows * sum(columns)
    work = Work.of(uses, projected + macs, extra, sharing=Sharing(token=max(1, rows)))
    return work.of_rows(context.share(data[0]))


def time_warping(context: Context) -> Work:
    """DynamicTimeWarping: per cell of the cost matrix the least of three, and a sum (Sakoe and
    Chiba, "Dynamic Programming Algorithm Optimization for Spoken Word Recognition", 1978)."""
    return Work(extra_flops=3 * prod(context.input(0)))


def engram_gate(context: Context) -> Work:
    """EngramGate: keys and queries are normalized and multiplied; the gate scales the values, which
    may be normalized again."""
    elements = context.per_sample(context.input(0))
    norms = 3 if context.has(5) else 2
    uses = context.used(dict.fromkeys((3, 4, 5), elements))
    return Work.of(uses, elements, (2 * norms + 1) * elements)


def gated_delta(context: Context) -> Work:
    """GatedDeltaNet: per token and value head, the state of key size · value size is written once
    and read once; a delta rule reads it once more, and a gate scales it (Yang et al., "Gated Delta
    Networks", 2025)."""
    if context.has(1):
        key, value = context.input(1), context.input(2)
        heads, state = value[-2], key[-1] * value[-1]
        tokens = context.per_sample(value) // (heads * value[-1])
    else:  # query, key and value side by side; the state says how many heads there are
        shape, query = context.input(6), context.input(0)
        heads, state = shape[1], shape[2] * shape[3]
        tokens = context.per_sample(query) // query[-1]
    rule = str(context.node.attribute("update_rule", "gated_delta"))
    passes = 3 if "delta" in rule else 2
    gated = tokens * heads
    uses = context.used({6: context.weights(6), 7: gated, 8: gated})
    return Work.of(uses, gated * passes * state, gated * state if "gated" in rule else 0)


def relative_position(context: Context) -> Work:
    """GatedRelativePositionBias: per token and head an FC of the query to D gates, D additions for
    their two sums, then a product with each position's bias."""
    query, weight, output = context.input(0), context.input(3), context.output
    elements = context.per_sample(query)
    rows = elements // weight[0]
    biased = context.per_sample(output)
    uses = {1: elements, 2: biased, 3: rows * prod(weight), 4: rows * weight[1], 5: rows}
    extra = elements + rows * (2 * weight[1] + 5) + biased
    return Work.of(context.used(uses), rows * prod(weight), extra)


def two_rotary_embeddings(context: Context) -> Work:
    """GemmaRotaryEmbedding: sine and cosine of each angle, then two products and a sum for each
    element of query and key."""
    turned = sum(context.per_sample(context.input(slot)) for slot in (1, 3))
    return Work(extra_flops=2 * context.per_sample(context.input(0)) + 3 * turned)


def mix_streams(context: Context) -> Work:
    """HyperConnectionPostMix: each of C streams is a sum of all, and of the gated result of a
    block."""
    streams = context.input(0)
    elements = context.per_sample(streams)
    count = context.number("num_branches") or streams[-2]
    mixed = elements * count if context.has(3) else 0
    uses = context.used({2: elements, 3: mixed})
    return Work.of(uses, mixed, 2 * elements)


def reduce_streams(context: Context) -> Work:
    """HyperConnectionPreMix: a weighted sum of all streams, and its scale."""
    elements = context.per_sample(context.input(0))
    uses = context.used({1: elements})
    return Work.of(uses, elements, context.per_sample(context.output))


def real_transform(context: Context) -> Work:
    """Rfft, Irfft: a fast Fourier transform along the last axes, 5 n log₂ n operations for n points
    in all (Cooley and Tukey, 1965; http://www.fftw.org/speed)."""
    real = context.input(0) if context.node.op_type == "Rfft" else context.output
    points = prod(real[len(real) - context.number("signal_ndim", 1) :])
    if points < 1:
        return Work()
    return Work(extra_flops=context.per_sample(real) // points * 5 * points * ceil(log2(points)))


def decay_gate(context: Context) -> Work:
    """LinearAttentionGate: a bias, a softplus and a factor for each decay, a sigmoid for each
    rate."""
    elements = context.per_sample(context.input(0))
    uses = context.used({1: elements, 2: elements})
    return Work.of(uses, 0, elements * (4 if context.has(3) else 3))


def projections(context: Context) -> Work:
    """MatMulNBitsMlp, MatMulNBitsQkv: RMS normalization, where there is a scale, after the sum with
    the skipped input; then FCs of the same rows, one after another in the inputs: weight, scales
    and bias. The gate of the former is activated and multiplied."""
    data = context.input(0)
    elements = context.per_sample(data)
    rows = elements // data[-1]
    layers = range(3, 9 if context.node.op_type == "MatMulNBitsMlp" else 12, 3)
    uses, macs, extra = {2: elements}, 0, elements * (2 * context.has(2) + context.has(1))
    for weight in layers:
        outputs = rows * _columns(context, weight)
        uses |= {weight: outputs * data[-1], weight + 2: outputs}
        macs += outputs * data[-1]
        extra += outputs * context.has(weight + 2)
    if context.node.op_type == "MatMulNBitsMlp":
        extra += 2 * rows * _columns(context, 3)
    return Work.of(context.used(uses), macs, extra, sharing=Sharing(token=max(1, rows)))


def _columns(context: Context, weight: int) -> int:
    name = "N" if context.node.op_type == "MatMulNBitsMlp" else "Nq" if weight == 3 else "Nkv"
    return int(context.node.attribute(name, 0))


def packed_convolution(context: Context) -> Work:
    """VarlenCausalConvWithState: each token uses the K weights and the bias of each channel; the
    sequences stand behind one another."""
    tokens = context.input(0)[0]
    uses = {slot: tokens * context.weights(slot) for slot in (1, 3)}
    macs, biased = tokens * prod(context.input(1)), prod(context.output)
    return Work.of(
        context.used(uses),
        macs,
        biased if context.has(3) else 0,
        sharing=Sharing(temporal=max(1, tokens)),
    )


def scaled_image(context: Context) -> Work:
    """ImageScaler, of before ONNX 1.0: a factor, and the bias of each channel."""
    elements = context.per_sample(context.output)
    uses = context.used({-1: elements})
    return Work.of(uses, 0, 2 * elements)
