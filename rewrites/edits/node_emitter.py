"""Makes new nodes and constants, or only pretends to, to see whether a rewrite would fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxshare.graph.editor import Editor
from onnxshare.graph.index import Node
from onnxshare.io.tensors import Array
from rewrites.moved_weights import Moved

#: Since this opset the axes of Squeeze and Unsqueeze are an input.
_AXES_AS_INPUT = 13


class Emitter:
    """Passes nodes and constants on to an editor; without one it only hands out names, to check
    without reading any weight."""

    def __init__(self, editor: Editor | None) -> None:
        self.editor = editor
        self.moved: list[Moved] = []

    @property
    def pretends(self) -> bool:
        """Whether nothing is made."""
        return self.editor is None

    def reads(self) -> set[str]:
        """The names that the new nodes read."""
        return set() if self.editor is None else self.editor.reads()

    def constant(self, values: Array, wanted: str) -> str:
        """Add a constant; returns the name it got."""
        return wanted if self.editor is None else self.editor.constant(values, wanted)

    def move(
        self,
        values: Array,
        wanted: str,
        source: str,
        *,
        transposed: bool = False,
        columns: Array | None = None,
        order: Array | None = None,
    ) -> str:
        """Add a constant that holds an old one, `source`, or some of its columns, bit for bit; see
        `Moved` for the order. Returns the name it got."""
        name = self.constant(values, wanted)
        if self.editor is not None:
            self.moved.append(Moved(source, name, transposed, order, columns=columns))
        return name

    def emit(
        self,
        node: Node,
        op_type: str,
        inputs: list[str],
        wanted: str,
        attributes: dict[str, object] | None = None,
        *,
        domain: str = "",
    ) -> str:
        """Emit a node at the place of an old one; returns the name its output got."""
        if self.editor is None:
            return wanted
        output = self.editor.new_name(wanted)
        return self.editor.emit(node, op_type, inputs, output, attributes, domain=domain)

    def emit_several(
        self, node: Node, op_type: str, inputs: list[str], wanted: list[str]
    ) -> list[str]:
        """Emit a node of several outputs at the place of an old one; returns their names."""
        if self.editor is None:
            return wanted
        first, *others = (self.editor.new_name(name) for name in wanted)
        self.editor.emit(node, op_type, inputs, first, others=others)
        return [first, *others]

    def emit_as(
        self,
        node: Node,
        op_type: str,
        inputs: list[str],
        output: str,
        attributes: dict[str, object] | None = None,
    ) -> None:
        """Emit a node whose output takes over a name that an old node gives up."""
        if self.editor is not None:
            self.editor.emit(node, op_type, inputs, output, attributes)

    def emit_axes(
        self, node: Node, op_type: str, data: str, axes: Sequence[int], output: str
    ) -> str:
        """Emit a Squeeze or Unsqueeze, whose axes are an attribute or an input, under a name that
        is free or that an old node gives up; returns it."""
        if self.editor is not None and self.editor.opset >= _AXES_AS_INPUT:
            values = self.constant(np.array(axes, np.int64), f"{output}_axes")
            self.emit_as(node, op_type, [data, values], output)
        else:
            self.emit_as(node, op_type, [data], output, {"axes": list(axes)})
        return output

    def copy(
        self,
        node: Node,
        inputs: list[str],
        wanted: str,
        attributes: dict[str, object] | None = None,
        *,
        others: tuple[str, ...] = (),
    ) -> str:
        """Emit a copy of a node with other inputs and other values of some attributes, and with
        `others` as its outputs after the first; returns the name its output got."""
        if self.editor is None:
            return wanted
        output = self.editor.new_name(wanted)
        return self.editor.emit_copy(node, inputs, output, attributes, others=others)

    def new_name(self, wanted: str) -> str:
        """A name for an output that a copy should get."""
        return wanted if self.editor is None else self.editor.new_name(wanted)

    def rename(self, name: str, wanted: str) -> None:
        """Give the output of a new node another name."""
        if self.editor is not None:
            self.editor.rename(name, wanted)

    def remove(self, node: Node) -> None:
        """Take an old node out."""
        if self.editor is not None:
            self.editor.remove(node)
