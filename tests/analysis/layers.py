"""Layers of a network as a paper describes them: parameters, products and uses by hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conv:
    """A convolution: filters, kernel, channels it reads (per group), rows of its square output."""

    filters: int
    kernel: int
    channels: int
    side: int
    bias: bool = True

    @property
    def params(self) -> int:
        return self.filters * (self.kernel**2 * self.channels + self.bias)

    @property
    def macs(self) -> int:
        return self.side**2 * self.filters * self.kernel**2 * self.channels

    @property
    def uses(self) -> int:
        """Each position uses every weight and bias once."""
        return self.side**2 * self.params


@dataclass(frozen=True)
class Fc:
    """A fully connected layer with bias."""

    inputs: int
    outputs: int

    @property
    def params(self) -> int:
        return (self.inputs + 1) * self.outputs

    @property
    def macs(self) -> int:
        return self.inputs * self.outputs

    @property
    def uses(self) -> int:
        return self.params


@dataclass(frozen=True)
class Norm:
    """A batch normalization; `pairs` of scale and shift: Caffe stores its own and a layer's."""

    channels: int
    side: int
    pairs: int = 1

    @property
    def params(self) -> int:
        return 2 * self.pairs * self.channels

    @property
    def statistics(self) -> int:
        """A running mean and variance per channel."""
        return 2 * self.channels

    @property
    def uses(self) -> int:
        return self.side**2 * self.params


Layers = list[Conv | Fc | Norm]


def normalized(conv: Conv, pairs: int = 1) -> Layers:
    """A convolution without bias, and the normalization of its result."""
    return [conv, Norm(conv.filters, conv.side, pairs)]
