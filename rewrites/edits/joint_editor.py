"""Makes the edits of several sites in one go, so that the model is copied and studied once.

Every site leaves the tensors at its borders under their names and with their values. So sites that
take out different nodes can be made together: what one of them reads is there, whichever of the
others makes it.
"""

from __future__ import annotations

import onnx

from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.editor import Editor
from onnxshare.graph.index import Node


class JointEditor(Editor):
    """An editor for the sites of one rewrite, one after the other: `begin`, edits, `keep`."""

    def __init__(self, subject: Subject, rewrite: str) -> None:
        super().__init__(subject.graph.proto, rewrite, subject.graph.model.payloads)
        self._nodes = subject.graph.main.nodes
        self._model = onnx.ModelProto()
        self._gone: set[str] = set()  # outputs of nodes that were taken out, made by no new one
        self._made: set[str] = set()  # outputs of new nodes
        self._read: set[str] = set()  # inputs of new nodes
        self.begin()

    def begin(self) -> None:
        """Start with the next site."""
        self._new: list[tuple[int, onnx.NodeProto]] = []
        self._out: set[int] = set()
        self._stored = len(self._initializers)

    def _place(self, node: onnx.NodeProto, origin: Node) -> None:
        super()._place(node, origin)
        self._new.append((origin.position, node))

    def remove(self, node: Node) -> None:
        """Take out a node of the original graph."""
        self._out.add(node.position)

    def rename(self, name: str, wanted: str) -> None:
        """Give a tensor made by this site's new nodes another name, everywhere in them."""
        for _, node in self._new:
            for names in (node.input, node.output):
                for place, found in enumerate(names):
                    if found == name:
                        names[place] = wanted

    @property
    def added(self) -> tuple[str, ...]:
        """Names of this site's new nodes, in graph order."""
        return tuple(node.name for _, node in sorted(self._new, key=lambda item: item[0]))

    def apply(self) -> onnx.ModelProto:
        """Return the model that `finish` fills in."""
        return self._model

    def keep(self) -> bool:
        """Take this site's edits over; False, and none of them, if they meet another site's."""
        made = {name for _, node in self._new for name in node.output if name}
        read = {name for _, node in self._new for name in node.input}
        gone = {name for position in self._out for name in self._nodes[position].outputs} - made
        lost = any(name in self._gone and name not in made for name in read)
        taken = any(name in self._read and name not in self._made for name in gone)
        if not self._out.isdisjoint(self._removed) or lost or taken or made & self._made:
            self.drop()
            return False
        self._removed |= self._out
        self._gone |= gone
        self._gone -= made
        self._made |= made
        self._read |= read
        return True

    def drop(self) -> None:
        """Forget this site's edits."""
        for position, node in self._new:
            kept = [item for item in self._emitted[position] if item is not node]
            self._emitted[position] = kept
        del self._initializers[self._stored :]

    def finish(self) -> None:
        """Make all edits that were kept."""
        self._model.CopyFrom(super().apply())
