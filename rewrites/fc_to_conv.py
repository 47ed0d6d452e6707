"""FC after a feature map → convolution over the whole map; FC after FC → 1×1 convolution. Exact.

The algebra is in `head_as_maps/head_builder.py`. The number of weights stays; what goes is the
fixed input size: with `--fully-convolutional` the network slides over larger inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxshare.analysis.heads.head import ONE_POSITION, Head, Subject
from onnxshare.graph.editor import Editor
from onnxshare.graph.index import Node
from onnxshare.support.option_text import option
from rewrites.base import Change, Fitting, Options, Rewrite, Site, head_params
from rewrites.refusal import Refusal

if TYPE_CHECKING:  # `inspect` asks about heads, few of which are built
    from rewrites.head_as_maps.head_builder import HeadBuilder


@dataclass(frozen=True)
class FcToConv(Rewrite):
    """Turns the FCs of a head into convolutions that compute the same.

    Attributes:
        fully_convolutional: whether outputs become maps and spatial input sizes dynamic; None
            leaves it to the call.
        pool_outputs: whether those maps are averaged to one answer again.
    """

    fully_convolutional: bool | None = None
    pool_outputs: bool | None = None

    name = "fc-to-conv"
    together = True
    in_bodies = True

    def sites(self, subject: Subject, options: Options) -> list[Site]:
        """One site per head; where the network should slide, one for all heads that can."""
        able = tuple(head for head in subject.heads if _why_not(head, options) is None)
        if not (options.fully_convolutional and able):
            return [self._site(subject, (head,), options)[0] for head in subject.heads]
        together, taken = self._site(subject, _first(subject, able), options)
        rest = [head for head in subject.heads if _why_not(head, options) is not None]
        left = [head for head in rest if any(layer.node not in taken for layer in head.layers)]
        return [*(self._site(subject, (head,), options)[0] for head in left), together]

    def _site(
        self, subject: Subject, heads: tuple[Head, ...], options: Options
    ) -> tuple[Site, set[Node]]:
        """A site, and the nodes that would go."""
        before = sum(head_params(subject.graph, head) for head in heads)
        reason, taken = _why_not(heads[0], options), set[Node]()
        nothing = reason is not None and heads[0].shared
        if reason is None:
            try:
                taken = self._plan(subject, heads, None, options).replaced
            except Refusal as refusal:
                reason = str(refusal)
        first = heads[0].layers[0].node.name
        if reason is not None:
            site = Site(self.name, first, None, reason, before, None, target=heads)
            return replace(site, nothing_to_do=nothing), taken
        words = "; ".join(map(_describe, heads))
        return Site(self.name, first, True, None, before, before, words, heads), taken

    def apply(self, subject: Subject, site: Site, options: Options, fitting: Fitting) -> Change:
        """Make the change; samples are not needed."""
        editor = subject.editor(self.name)
        builder = self._plan(subject, site.target, editor, options)
        notes = [*builder.notes, *builder.copies()]
        if options.fully_convolutional:
            from rewrites.head_as_maps.sliding import free_sizes
            from rewrites.head_as_maps.trunk import Trunk

            trunk = Trunk(subject, builder.replaced)
            trunk.free(builder.out)
            model = editor.apply()
            notes += free_sizes(subject, model, builder, trunk, pooled=options.pool_outputs)
        else:
            model = editor.apply()
        return Change(
            site,
            model,
            builder.removed,
            editor.added,
            builder.evidence,
            tuple(notes),
            moved=tuple(builder.out.moved),
        )

    def _plan(
        self, subject: Subject, heads: tuple[Head, ...], editor: Editor | None, options: Options
    ) -> HeadBuilder:
        from rewrites.head_as_maps.head_builder import HeadBuilder

        builder = HeadBuilder.of(subject, editor, heads)
        layers = {layer.node: layer for head in heads for layer in head.layers}
        nodes = {node.position: node for head in heads for node in head.nodes}
        for _, node in sorted(nodes.items()):
            if node in layers:
                builder.connect(layers[node])
            elif node not in builder.replaced:  # an Add may have become the bias already
                builder.carry(node)
        if options.fully_convolutional:
            from rewrites.head_as_maps.sliding import slide

            slide(subject, builder, pool=options.pool_outputs)
        else:
            builder.finish()
        return builder


def _first(subject: Subject, heads: tuple[Head, ...]) -> tuple[Head, ...]:
    """The heads whose map is not made of another head's result, as rows of classes are: such FCs
    are carried along with the head that they come from."""
    layers = {layer.node for head in heads for layer in head.layers}
    after: set[str] = set()
    for node in subject.graph.main.nodes:
        if node in layers or not after.isdisjoint(node.inputs):
            after.update(node.outputs)
    return tuple(head for head in heads if not head.spatial or head.feature_map not in after)


def _why_not(head: Head, options: Options) -> str | None:
    """Why a head is not a site."""
    if head.refused is None and head.shared:
        if head.pooled:
            return ONE_POSITION
        if not options.fully_convolutional:
            way = option("--fully-convolutional")
            return f"{ONE_POSITION}; {way} writes it as one, which slides"
    if head.refused is None and any(layer.alpha == 0 for layer in head.layers):
        return "its alpha is 0, so its result does not depend on the features"
    return head.refused


def _describe(head: Head) -> str:
    size = "×".join(str(length) for length in head.spatial)
    count = len(head.layers)
    if head.joined:
        one = "one FC becomes" if count == 1 else f"{_word(count)} FCs become"
        return f"{one} convolutions, split by the {_word(1 + len(head.joined))} tensors it reads"
    if count == 1:
        return f"one FC becomes a {size} convolution"
    first, later = len(head.roots), count - len(head.roots)
    ones = "×".join("1" for _ in head.spatial)
    parts = [f"{_word(number)} {what}" for number, what in ((first, size), (later, ones)) if number]
    return f"{_word(count)} FCs become {' and '.join(parts)} convolutions"


def _word(number: int) -> str:
    words = "no one two three four five six seven eight nine".split()
    return words[number] if number < len(words) else str(number)
