"""A head that was fitted: its layers, what they cost, and what they predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.small_heads.head_layers import Chain, ChainLayer
from rewrites.small_heads.int8_activations import Steps, read
from rewrites.small_heads.methods import Method
from rewrites.small_heads.spatial_weighting import Separable, Weighting
from rewrites.small_heads.sufficient_statistics import Floats, blocks


@dataclass(frozen=True)
class FittedLayer:
    """A layer that takes the place of one or more FCs.

    Attributes:
        target: the layer of the chain whose outputs it gives.
        source: the layer whose outputs it reads through what is between; -1 for the features.
        factors: its weight as one matrix `[F, D]`, or as two, `[r, D]` and `[F, r]`.
        bias: `[F]`.
        ridge: λ of the fit.
        error: leave-one-out squared error as a share of the targets' variance.
        refined: whether it was refined for classes.
        steps: how each factor is stored in 8 bits; empty in floats.
        reads: the outputs of its source that it reads, which are all that a fitted source gives;
            None for all.
    """

    target: int
    source: int
    factors: tuple[Array, ...] = field(repr=False)
    bias: Floats = field(repr=False)
    ridge: float = 0.0
    error: float = 0.0
    refined: bool = False
    steps: tuple[Steps, ...] = ()
    reads: Array | None = field(default=None, repr=False)

    @property
    def params(self) -> int:
        """Weights and biases."""
        return self.bias.size + self.macs

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample."""
        return sum(factor.size for factor in self.factors)

    def apply(self, features: Floats) -> Floats:
        """Its outputs `[N, F]` for features `[N, D]`."""
        for place, factor in enumerate(self.factors):
            features = read(self.steps, place, features)
            parts = blocks(len(factor), factor.shape[1])
            given = [features @ factor[part].T.astype(np.float64) for part in parts]
            features = np.concatenate(given, axis=1)
        return features + self.bias


@dataclass(frozen=True)
class Hidden:
    """A layer between the features and the outputs, max(0, H z + h), in no place of the chain, with
    weight H `[units, D]` and bias h, and how it is stored in 8 bits; empty in floats."""

    weight: Floats = field(repr=False)
    bias: Floats = field(repr=False)
    steps: tuple[Steps, ...] = ()

    @property
    def params(self) -> int:
        """Weights and biases."""
        return self.weight.size + self.bias.size

    def apply(self, features: Floats) -> Floats:
        """Its outputs `[N, units]` for features `[N, D]`."""
        return np.maximum(read(self.steps, 0, features) @ self.weight.T + self.bias, 0)


def weighting_matrices(weighting: Weighting | Separable) -> tuple[Array, ...]:
    """The stored weights of a weighting, a row per output channel."""
    if isinstance(weighting, Separable):
        return weighting.channels, weighting.rows
    return (weighting.rows,) if weighting.params and weighting.rows is not None else ()


@dataclass(frozen=True)
class SmallHead:
    """A head fitted by one method.

    Attributes:
        chain: the head as it was.
        method: the method.
        weighting: what is left of space.
        layers: the fitted layers; FCs that none of them stands for stay as they are, unless
            nothing reads them any more.
        hidden: what stands between the features and the layers that read them; mostly nothing.
    """

    chain: Chain = field(repr=False)
    method: Method
    weighting: Weighting | Separable
    layers: Sequence[FittedLayer]
    hidden: Hidden | None = None

    @property
    def kept(self) -> list[ChainLayer]:
        """The FCs that stay as they are and are read."""
        fitted = {layer.target for layer in self.layers}
        layers = () if self.method.whole else enumerate(self.chain.layers)
        return [layer for place, layer in layers if place not in fitted]

    @property
    def params(self) -> int:
        """Weights and biases of everything that takes the place of the head's FCs."""
        parts = (self.weighting, *self.layers, *self.kept, *filter(None, (self.hidden,)))
        return sum(part.params for part in parts)

    @property
    def bytes(self) -> int:
        """What storing all that takes; in 8 bits with a scale in single precision per row, and with
        activations in 8 bits a zero point too, a scale per bias, and both per tensor."""
        size = self.chain.itemsize
        if not self.method.int8:
            return self.params * size
        hidden = () if self.hidden is None else (self.hidden,)
        biases = sum(part.bias.size for part in (*self.layers, *hidden))
        parts = (self.weighting, *self.layers, *hidden)
        steps = [item for part in parts for item in part.steps]
        rows = sum(item.scale.size for item in steps)
        if not self.method.int8_activations:
            return int(self.params - biases + size * biases + 4 * rows)
        ranges = {item.reads for item in steps}
        return int(self.params - biases + 8 * biases + 5 * rows + 5 * len(ranges))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all that, per sample."""
        own = self.weighting.macs(self.chain.head.channels)
        own += 0 if self.hidden is None else self.hidden.weight.size
        own += sum(layer.macs for layer in self.layers)
        return own + sum(layer.macs for layer in self.kept)

    def _read(self, layer: FittedLayer, given: Floats) -> Floats:
        """What a layer after the first reads of what its source gives."""
        step = self.chain.step(layer.target)
        if layer.reads is None:
            return step.value(given)
        outputs = np.zeros((len(given), self.chain.layers[layer.source].fc.out_features))
        outputs[:, layer.reads] = given
        return np.asarray(step.value(outputs)[:, layer.reads])

    def predict(self, maps: Array) -> dict[int, Floats]:
        """Per leaf its outputs for maps `[n, C, S]`."""
        features = self.weighting.apply(maps)
        if self.hidden is not None:
            features = self.hidden.apply(features)
        known: dict[int, Floats] = {}
        for layer in self.layers:
            if layer.source < 0:
                known[layer.target] = layer.apply(features)
            else:
                known[layer.target] = layer.apply(self._read(layer, known[layer.source]))
        found = known if self.method.whole else self.chain.forward(known)
        return {leaf: found[leaf] for leaf in self.chain.leaves}
