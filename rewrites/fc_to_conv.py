"""FC after a feature map → convolution over the whole map; FC after FC → 1×1 convolution. Exact.

The algebra is in `mirror.py`. The number of weights stays; what goes is the fixed input size:
with `--fully-convolutional` the network slides over larger inputs.
"""

from __future__ import annotations

from onnxshare.analysis.heads import Head, Subject
from onnxshare.edit import Editor
from rewrites.base import Change, Fitting, Options, Refusal, Site, head_params
from rewrites.free_sizes import free_sizes
from rewrites.fully_convolutional import slide
from rewrites.mirror import Mirror


class FcToConv:
    """Turns the FCs of a head into convolutions that compute the same."""

    name = "fc-to-conv"
    together = True

    def sites(self, subject: Subject, options: Options) -> list[Site]:
        """One site per head."""
        return [self._site(subject, head, options) for head in subject.heads]

    def _site(self, subject: Subject, head: Head, options: Options) -> Site:
        before = head_params(subject.graph, head)
        reason = head.refused
        if reason is None and head.shared:
            reason = "its feature map has one position: the FC already is a 1×1 convolution"
        if reason is None and any(layer.alpha == 0 for layer in head.layers):
            reason = "its alpha is 0, so its result does not depend on the features"
        if reason is None:
            try:
                self._plan(subject, head, None, options)
            except Refusal as refusal:
                reason = str(refusal)
        first = head.layers[0].node.name
        if reason is not None:
            return Site(self.name, first, None, reason, before, None, target=head)
        return Site(self.name, first, True, None, before, before, _describe(head), head)

    def apply(self, subject: Subject, site: Site, options: Options, samples: Fitting) -> Change:
        """Make the change; `samples` are not needed."""
        head: Head = site.target
        editor = subject.editor(self.name)
        mirror = self._plan(subject, head, editor, options)
        model = editor.apply()
        notes = [*mirror.notes, *mirror.copies()]
        if options.fully_convolutional:
            notes += free_sizes(subject, model, mirror, pooled=options.pool_outputs)
        removed = tuple(
            node.name for node in sorted(mirror.replaced, key=lambda item: item.position)
        )
        return Change(
            site,
            model,
            removed,
            editor.added,
            mirror.evidence,
            tuple(notes),
            moved=tuple(mirror.out.moved),
        )

    def _plan(
        self, subject: Subject, head: Head, editor: Editor | None, options: Options
    ) -> Mirror:
        sizes = subject.probe.shapes.sizes(subject.graph.main, head.feature_map)
        if sizes is None:
            raise Refusal("the sizes of its feature map are unknown: give --input-shape")
        mirror = Mirror(subject, editor, head.feature_map, sizes)
        for name in head.joined:
            more = subject.probe.shapes.sizes(subject.graph.main, name)
            if more is None:
                raise Refusal(f"the sizes of '{name}' are unknown: give --input-shape")
            reader = next(node for node in head.nodes if name in node.inputs)
            mirror.also(reader, name, more)
        layers = {layer.node: layer for layer in head.layers}
        for node in head.nodes:
            if node in layers:
                mirror.connect(layers[node])
            elif node not in mirror.replaced:  # an Add may have become the bias already
                mirror.carry(node)
        if options.fully_convolutional:
            slide(subject, mirror, pool=options.pool_outputs)
        else:
            mirror.finish()
        return mirror


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
