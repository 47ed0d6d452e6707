"""Are samples like what the network will see? The evidence against it, as text.

A head that is fitted to samples, and the promise made of it, hold for inputs like these samples
and for no others. Nothing proves that they are real, but much can show that they are not. The
limits below lie between what real images and what random or wrongly scaled ones gave on LeNet-5
and the VGG-style net (Fashion-MNIST) and three MNIST networks of other people, 500 samples each:

|                             | real      | noise     | scaled by 1/255 or 255, other data |
|-----------------------------|-----------|-----------|------------------------------------|
| correlation of neighbours   | 0.83-0.88 | 0.00      | 0.83-0.88                          |
| share of the commonest class| 0.12-0.13 | 0.21-1.00 | 0.12-1.00                          |
| classes named, of 10        | 10        | 1-10      | 1-10                               |
| constant features           | 0.00-0.23 | 0.00-0.54 | 0.00-1.00                          |
| features at both limits     | 0.00-0.04 | 0.00-0.25 | 0.00-0.16                          |

(the last line for features that have two limits, such as those of tanh). Warnings stop nothing;
where a promise would say nothing at all, the head is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np

from onnxshare.analysis.heads.head import Subject
from onnxshare.errors import SamplesError
from onnxshare.io.tensors import Array
from onnxshare.samples.samples import Samples
from onnxshare.support.option_text import option
from onnxshare.support.progress import report
from rewrites.base import Features
from rewrites.refusal import Refusal
from rewrites.small_heads.head_layers import Chain
from rewrites.small_heads.spatial_weighting import extremes
from rewrites.small_heads.sufficient_statistics import blocks
from rewrites.small_heads.training_data import HeadData

#: Is told a warning.
Warn = Callable[[str], None]

#: Samples that are read from their files at once.
_READ_AT_ONCE = 64

#: Correlation of neighbouring pixels below which an image is noise.
_LEAST_CORRELATION = 0.2

#: Images are looked at from this size on, and up to so many channels.
_LEAST_SIDE = 8
_MOST_CHANNELS = 4

#: The share of the commonest class above which it dominates: of two classes, and of more.
_DOMINATES_TWO = 0.95
_DOMINATES = 0.5

#: Fewer classes than this share of those that as many even draws would name are few.
_FEW = 0.5

_MOST_CONSTANT = 0.6
_MOST_SATURATED = 0.2

#: How far the statistics of a BatchNormalization may be from what they meet: the shift in standard
#: deviations, and the ratio of variances; medians over channels.
_MOST_SHIFT = 3.0
_MOST_RATIO = 10.0

#: Right on at least this share of at least so many samples: perhaps those it was trained on.
_TOO_RIGHT = 0.999
_RIGHT_ON = 200


def examine(samples: Samples, warn: Warn) -> Samples:
    """Look at samples before a fit, in one pass over their files, and leave out copies.

    A copy of a sample that is fitted to must not be among those that certify the fit.

    Raises:
        SamplesError: they are random, or all the same.
    """
    if samples.random:
        raise SamplesError(
            f"{samples.origin}: random inputs say nothing of what a network does on real ones",
            f"give real ones with {option('--samples FILE')} or a folder",
        )
    seen: dict[bytes, int] = {}
    pixels = {name: _Neighbours() for name in samples.arrays}
    start = 0
    for part in samples.batches(_READ_AT_ONCE):
        report("reading samples", start, samples.count)
        arrays = {name: np.asarray(values) for name, values in part.arrays.items()}
        if any(v.dtype.kind == "f" and not np.isfinite(v).all() for v in arrays.values()):
            return samples  # the fit will say so
        for row in range(part.count):
            seen.setdefault(_digest([values[row] for values in arrays.values()]), start + row)
        for name, values in arrays.items():
            pixels[name].add(values)
        start += part.count
    for name, item in pixels.items():
        if item.correlation is not None and item.correlation < _LEAST_CORRELATION:
            warn(
                f"{samples.origin}: '{name}' looks like noise, not like images: neighbouring "
                f"pixels correlate by {item.correlation:.2f} (0.8 and more is usual); give inputs "
                "as the network will see them"
            )
    copies = samples.count - len(seen)
    if not copies:
        return samples
    if len(seen) == 1:
        raise SamplesError(f"{samples.origin}: all {samples.count} samples are the same")
    warn(
        f"{samples.origin}: {copies:,} of {samples.count:,} samples are copies of others and are "
        "left out: nothing may be certified on what it was fitted to"
    )
    return samples.take(np.fromiter(seen.values(), np.intp))


def _digest(values: list[Array]) -> bytes:
    from hashlib import blake2b  # takes time to import, and few heads need it

    found = blake2b(digest_size=16)
    for value in values:
        found.update(np.ascontiguousarray(value).tobytes())
    return found.digest()


class _Neighbours:
    """Gathers how neighbouring pixels of images correlate, each image about its own mean."""

    def __init__(self) -> None:
        self._together = self._alone = 0.0

    def add(self, values: Array) -> None:
        """Take in a batch; what does not look like images is left out."""
        if values.dtype.kind not in "fiu" or values.ndim not in (3, 4):
            return
        if values.ndim == 4 and values.shape[1] > _MOST_CHANNELS:
            if values.shape[3] > _MOST_CHANNELS:
                return
            values = values.transpose(0, 3, 1, 2)
        if min(values.shape[-2:]) < _LEAST_SIDE:
            return
        wide = values.astype(np.float64)
        wide -= wide.mean(axis=(-2, -1), keepdims=True)
        power = (wide**2).mean(axis=(-2, -1))
        down = (wide[..., 1:, :] * wide[..., :-1, :]).mean(axis=(-2, -1))
        right = (wide[..., 1:] * wide[..., :-1]).mean(axis=(-2, -1))
        scale = np.where(power > 0, power, 1.0)  # every image counts alike, flat ones not
        self._together += float(((down + right) / 2 / scale).sum())
        self._alone += float((power > 0).sum())

    @property
    def correlation(self) -> float | None:
        """The mean correlation; None where there were no images."""
        return self._together / self._alone if self._alone else None


def check_head(data: HeadData, labels: Array | None, warn: Warn, *, promised: bool) -> None:
    """Look at what a head reads and answers on the samples.

    `warn` is told what makes them doubtful; `promised` is whether agreement of classes is to be.

    Raises:
        Refusal: its answers are such that a promise about classes would say nothing.
    """
    chain, classes = data.chain, data.classes
    _check_features(data, warn)
    for leaf in sorted(classes):
        outputs, name = data.results[leaf], chain.layers[leaf].result
        try:
            _check_embedding(chain, leaf, warn)
            _check_classes(outputs, name, warn)
        except Refusal as refusal:
            if promised:
                raise
            warn(str(refusal))
    if labels is not None and len(classes) == 1:
        (leaf,) = classes
        right = float((data.results[leaf].argmax(axis=1) == labels).mean())
        if right >= _TOO_RIGHT and data.count >= _RIGHT_ON:
            warn(
                f"the network is right on {right:.1%} of the labelled samples: these may be ones "
                "that it was trained on, on which it is surer than on new ones, and the promise "
                "holds for new ones only if it was not"
            )


def _check_classes(outputs: Array, name: str, warn: Warn) -> None:
    samples, size = outputs.shape
    counts = np.bincount(outputs.argmax(axis=1), minlength=size)
    named, top = int(np.count_nonzero(counts)), int(counts.max())
    if named == 1:
        raise Refusal(
            f"on all {samples} samples '{name}' gives the same class, which any head would keep: "
            "give inputs as the network will see them, scaled as it wants them"
        )
    expected = size * (1 - (1 - 1 / size) ** samples)
    if named < _FEW * expected:
        warn(
            f"on {samples} samples '{name}' gives only {named} of {size} classes: the promise "
            "holds for inputs like these, and says nothing of other classes"
        )
    if top / samples > (_DOMINATES if size > 2 else _DOMINATES_TWO):
        warn(
            f"'{name}' gives class {int(counts.argmax())} on {top / samples:.0%} of the samples: "
            "others weigh little in the promise"
        )


def _check_embedding(chain: Chain, leaf: int, warn: Warn) -> None:
    graph, name = chain.subject.graph, chain.layers[leaf].result
    for reader in graph.main.readers(name):
        if reader.op_type in ("LpNormalization", "ReduceL2"):
            raise Refusal(
                f"'{name}' is normalized to a length: an embedding, whose largest element is no "
                f"class; promise {option('--max-error')} instead of {option('--keep')}"
            )
    words = (name, *(item.name for item in graph.proto.graph.output))
    hints = [word for word in words if any(part in word.lower() for part in ("embed", "descript"))]
    if hints:
        warn(
            f"'{hints[0]}' sounds like an embedding: if it is, the largest element is not a class, "
            f"and {option('--max-error')} is what to promise"
        )


def _check_features(data: HeadData, warn: Warn) -> None:
    name = data.chain.head.feature_map
    low, high = extremes(data.maps, np.arange(data.count))
    constant = float((low == high).mean())
    if constant > _MOST_CONSTANT:
        warn(
            f"{constant:.0%} of the features in '{name}' are the same on all {data.count} samples: "
            "these may be unlike real inputs, or scaled otherwise than the network wants them"
        )
        return
    least, most = float(low.min()), float(high.max())
    near = 1e-3 * (most - least)
    saturated = 0.0
    for part in blocks(data.count, low.size):
        block = data.maps[part]
        ends = (block >= most - near).sum()
        if least != 0:  # 0 is where a ReLU rests
            ends += (block <= least + near).sum()
        saturated += float(ends)
    saturated /= max(1, data.maps.size)
    if saturated > _MOST_SATURATED:
        warn(
            f"{saturated:.0%} of the values in '{name}' are at their limits, {least:.3g} and "
            f"{most:.3g}: the samples may be scaled otherwise than the network wants them"
        )


def check_scale(subject: Subject, features: Features, warn: Warn) -> None:
    """Hold what the first BatchNormalization meets on a batch against the statistics it keeps."""
    graph = subject.graph
    for node in graph.main.nodes:
        if node.op_type != "BatchNormalization" or graph.main.producer(node.inputs[0]) is None:
            continue
        kept = [subject.probe.values.get(graph.main, name) for name in node.inputs[3:5]]
        if any(item is None for item in kept):
            return
        mean, variance = (np.asarray(item, np.float64) for item in kept)
        with closing(features(graph.proto, (node.inputs[0],))) as batches:
            values = np.asarray(next(batches)[node.inputs[0]], np.float64)
        axes = tuple(axis for axis in range(values.ndim) if axis != 1)
        deviation = np.sqrt(np.maximum(variance, 1e-12))
        shift = float(np.median(np.abs(values.mean(axis=axes) - mean) / deviation))
        ratio = float(np.median(values.var(axis=axes) / deviation**2))
        if shift > _MOST_SHIFT or not 1 / _MOST_RATIO < ratio < _MOST_RATIO:
            warn(
                f"'{node.name}' was trained on values with other statistics than the samples give: "
                f"half of its channels are {shift:.1f} standard deviations or more off, and vary "
                f"{np.sqrt(ratio):.2g} times as much; check how the inputs are scaled "
                f"({option('--normalize')} for images)"
            )
        return
