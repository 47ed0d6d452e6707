"""The rounding noise of one model: how far its outputs move when nothing that matters changes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxshare.comparison.tensor_statistics import is_float
from onnxshare.errors import RuntimeFailure
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.io.load import Model, all_tensors
from onnxshare.io.tensors import Array
from onnxshare.runtime.provider_table import REFERENCE
from onnxshare.runtime.session import Session

#: Runs with inputs (or weights) moved by one rounding error.
DRAWS = 2

#: Runs of a second look, where inputs may be few or all alike.
DEEPER_DRAWS = 8

#: How far inputs are moved, relatively, to see whether the outputs answer: just under 1 %.
VISIBLE = 2.0**-7

#: How far inputs of a quantized model are moved at a second look: a quarter of an 8-bit step.
QUANTIZED = 2.0**-10

#: The most bytes of weights that are moved: what is moved is held in memory.
MOST_MOVED = 2**29

#: Spacing of numbers at 1, by ONNX's number of the type.
EPSILON: dict[int, float] = {
    TensorProto.DOUBLE: 2.0**-52,
    TensorProto.FLOAT: 2.0**-23,
    TensorProto.FLOAT16: 2.0**-10,
    TensorProto.BFLOAT16: 2.0**-7,
}


class NoiseMeter:
    """Runs a model again in ways that only rounding should tell apart.

    The ways: without ONNX Runtime's graph optimisations (other kernels, another order of sums),
    and `DRAWS` times on x·(1 + u·r), where r is ±1 at random and u the unit of the coarsest
    float type that the model computes in: this shakes up every rounding that follows. Where it
    cannot (inputs that are zero or tiny next to a bias, integer inputs), `deeper` moves the
    weights by u instead; that takes a copy of the model, so it is done only when needed.
    """

    def __init__(
        self,
        model: Model,
        session: Session,
        *,
        seed: int,
    ) -> None:
        """Prepare the runs; `session` is the model as it is compared."""
        self._session = session
        proto = model.skeleton
        self._unit = working_epsilon(proto)
        self.quantized = any(rounds_data(node) for node in proto.graph.node)
        self._random = np.random.default_rng([seed, 1])
        self._model = model
        self._plain: Session | None = None

    def runs(self, inputs: Mapping[str, Array], batch: int) -> list[dict[str, Array]]:
        """Return the outputs of every way to run these inputs."""
        if any(is_float(array) for array in inputs.values()):
            results = []
            for _ in range(DRAWS):
                with contextlib.suppress(RuntimeFailure):
                    results.append(self._session.run(self._moved(inputs, self._unit), batch))
        else:
            results = self.deeper(inputs, batch)
        if self._session.provider.name == REFERENCE:
            return results  # which optimises nothing
        # Last, because where memory is short it takes the place of the other session. Some models
        # load only when they are optimised: then the draws must do.
        with contextlib.suppress(RuntimeFailure):
            if self._plain is None:
                self._plain = self._session.variant(optimise=False)
            results.append(self._plain.run(inputs, batch))
        return results

    def deeper(self, inputs: Mapping[str, Array], batch: int) -> list[dict[str, Array]]:
        """Return the outputs with weights and biases moved by one rounding error.

        A quantized model jumps by whole steps where a value crosses the middle between two, which
        one rounding error seldom makes happen: its inputs move by a fraction of a step, too.
        """
        results = []
        for _ in range(DEEPER_DRAWS):
            if self.quantized and any(is_float(array) for array in inputs.values()):
                results.append(self._session.run(self._moved(inputs, QUANTIZED), batch))
            with contextlib.suppress(RuntimeFailure):
                moved = _moved_weights(self._model, self._unit, self._random)
                results.append(self._session.variant(moved).run(inputs, batch))
        return results

    def response(self, inputs: Mapping[str, Array], batch: int) -> dict[str, Array] | None:
        """Return the outputs when float inputs move by `VISIBLE`; None if none can move."""
        if not any(is_float(array) for array in inputs.values()):
            return None
        with contextlib.suppress(RuntimeFailure):
            return self._session.run(self._moved(inputs, VISIBLE), batch)
        return None

    def _moved(self, inputs: Mapping[str, Array], step: float) -> dict[str, Array]:
        return {
            name: move(array, step, self._random) if is_float(array) else array
            for name, array in inputs.items()
        }


def rounds_data(node: onnx.NodeProto) -> bool:
    """Whether a node rounds data to whole steps; weights stored so and dequantized do not."""
    return traits_of(node).rounds or node.op_type.startswith("QLinear")


def working_epsilon(proto: onnx.ModelProto) -> float:
    """Return the spacing of numbers at 1 in the coarsest float type the model computes in.

    Weights that are only stored in a short type, and cast before they are used, do not count; nor
    where they are looked up or moved in between.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    cast = {name for name in readers if _is_cast(name, readers)}
    kinds = {
        tensor.data_type
        for tensor in (*proto.graph.initializer, *all_tensors(proto))
        if tensor.name not in cast
    }
    values = (*proto.graph.input, *proto.graph.output)
    kinds.update(value.type.tensor_type.elem_type for value in values)
    return max((EPSILON[kind] for kind in kinds if kind in EPSILON), default=2.0**-23)


def _is_cast(name: str, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> bool:
    """Whether all that is done with a tensor before it is cast rounds nothing."""
    left, seen = [name], {name}
    while left:
        after = readers.get(left.pop(), ())
        if not after:
            return False
        for node in after:
            if node.op_type in ("Cast", "DequantizeLinear"):
                continue
            if not traits_of(node).exact:
                return False
            left += [value for value in node.output if value not in seen]
            seen.update(node.output)
    return True


def move(array: Array, step: float, random: np.random.Generator) -> Array:
    """x·(1 + step·r), where r is ±1 at random."""
    signs = random.integers(0, 2, array.shape) * 2 - 1
    return (array.astype(np.float64) * (1.0 + step * signs)).astype(array.dtype)


def _takes_no_weights(node: onnx.NodeProto) -> bool:
    traits = traits_of(node)
    resizes = traits.effect is Effect.INTERPOLATION and bool(traits.shape_inputs)
    return resizes or (traits.elementwise and traits.quantized)


def _moved_weights(model: Model, step: float, random: np.random.Generator) -> Model:
    changed = onnx.ModelProto()
    changed.CopyFrom(model.skeleton)
    # Sizes and steps, which happen to be floats, are not weights.
    fixed = {name for node in changed.graph.node if _takes_no_weights(node) for name in node.input}
    stored = [(tensor.name, tensor) for tensor in changed.graph.initializer]
    for node in changed.graph.node:
        if node.op_type == "Constant":
            stored.extend((node.output[0], a.t) for a in node.attribute if a.HasField("t"))
    left = MOST_MOVED
    for name, tensor in stored:
        if name in fixed or tensor.data_type not in EPSILON or max(tensor.dims, default=1) == 1:
            continue
        values = model.read(tensor)
        left -= values.nbytes
        if left >= 0:
            moved = move(values, step, random)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    return replace(model, skeleton=changed)
