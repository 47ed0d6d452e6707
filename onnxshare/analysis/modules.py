"""Where in the source program a node was: the module that an exporter wrote down."""

from __future__ import annotations

import re

import onnx

#: What torch's exporter notes of each node: `['', 'layer1', 'layer1.0', 'conv2d']`.
_SCOPES = "pkg.torch.onnx.name_scopes"
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'")


class Modules:
    """The modules of nodes; nodes of one module share the work of telling it."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, node: onnx.NodeProto) -> str:
        """The path of the module that a node came from, such as `layer1/0/conv1`; "" where unknown.

        From the metadata that torch.export leaves, else from a name like
        `/layer1/layer1.0/conv1/Conv` or `block1/conv2/Conv2D`. A part that repeats the one above
        it is cut short, so that both of torch's exporters give the same path.
        """
        for entry in node.metadata_props:
            if entry.key == _SCOPES:
                return _path(_QUOTED.findall(entry.value)[:-1])
        above, slash, _ = node.name.rpartition("/")
        if not slash:
            return ""
        known = self._known.get(above)
        if known is None:
            known = self._known[above] = _path(above.split("/"))
        return known


def _path(parts: list[str]) -> str:
    short = []
    above = ""
    for part in filter(None, parts):
        short.append(part.removeprefix(f"{above}.") if above else part)
        above = part
    return "/".join(short)
