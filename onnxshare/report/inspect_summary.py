"""As text: where the weights are that are used once or stored twice, and what changes that."""

from __future__ import annotations

import glob
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from rich.text import Text

from onnxshare.analysis.results import HeadFacts, HeadOffer, Inspection, WeightFacts
from onnxshare.errors import printable
from onnxshare.report import text_tools as numbers

#: So many heads are described; of more, those that a rewrite fits come first.
_HEADS = 5


def describe(report: Inspection, sizes: Sequence[str] = (), *, every: bool = True) -> list[Text]:
    """A few sentences and commands, ready to print.

    Args:
        report: what was found.
        sizes: what stands for each of several sizes.
        every: describe all heads, each of those that are alike too.
    """
    lines = [where(report), *traffic(report), memory(report)]
    lines += [
        Text(printable(f"For {label}: {_peak(case)}."))
        for case, label in zip(report.sizes, sizes, strict=True)
    ][1:]
    groups = [[head] for head in report.heads] if every else alike(report.heads)
    shown = groups if every else groups[:_HEADS]
    for group in shown:
        lines += _head(group, report)
    left = len(report.heads) - sum(map(len, shown))
    if left:
        lines.append(Text(f"{left} more heads: --all shows them.", "dim"))
    return lines


_QUOTED = re.compile("'[^']*'")


def alike(heads: Sequence[HeadFacts]) -> list[list[HeadFacts]]:
    """The heads, those together that differ in names alone: the steps of an unrolled cell do."""
    groups: dict[object, list[HeadFacts]] = {}
    for head in heads:
        chain = tuple((layer.in_features, layer.out_features) for layer in head.fcs)
        offers = _QUOTED.sub("''", repr(head.rewrites))
        kind = head.channels, head.spatial, head.layout, chain, offers
        groups.setdefault(kind, []).append(head)
    return list(groups.values())


def where(report: Inspection) -> Text:
    """One sentence: where the parameters are, and how often each is used."""
    totals = report.totals
    if not totals.params:
        return Text("This model stores no parameters.")
    fcs = [node for node in report.nodes if node.kind == "fc" and node.params]
    convolutions = [node for node in report.nodes if node.kind == "conv" and node.params]
    parts = []
    if fcs:
        once = all(node.sharing_ratio is not None and node.sharing_ratio == 1 for node in fcs)
        parts.append(
            f"{_count(len(fcs), 'fully connected layer')} "
            f"{_verb(fcs, 'holds', 'hold')} {numbers.share(totals.fc_params, totals.params)} of "
            f"the {numbers.exact(totals.params)} parameters"
            + (" and uses each once per inference" if once and len(fcs) == 1 else "")
            + (" and use each once per inference" if once and len(fcs) > 1 else "")
        )
    if convolutions:
        ratios = [node.sharing_ratio for node in convolutions]
        held = sum(node.params_new for node in convolutions)
        span = ""
        known = [ratio for ratio in ratios if ratio is not None]
        if len(known) == len(ratios):  # the range of some is not that of all
            low, high = numbers.times(min(known)), numbers.times(max(known))
            span = f" and {_verb(convolutions, 'uses', 'use')} each {low}"
            span += "" if low == high else f" to {high}"
        parts.append(
            f"{_count(len(convolutions), 'convolution')} "
            f"{_verb(convolutions, 'holds', 'hold')} {numbers.share(held, totals.params)}"
            + ("" if fcs else f" of the {numbers.exact(totals.params)} parameters")
            + span
        )
    if not parts:
        return Text(f"{numbers.exact(totals.params)} parameters, none in FCs or convolutions.")
    return Text("; ".join(parts) + ".")


#: Layers that are named; the rest is counted.
_NAMED = 3


def traffic(report: Inspection) -> list[Text]:
    """Which layers take the time that their weights take to be read (`NodeFacts.bound_by`)."""
    totals = report.totals
    names = [node.path for node in report.nodes if node.bound_by == "weights"]
    if not totals.weight_bound_layers:
        return []
    shown = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    held = numbers.share(totals.weight_bound_bytes, totals.param_bytes)
    words = (
        f"Bound by reading weights at batch 1: {shown}{more}, with {held} of the weight bytes: "
        "larger batches, smaller layers or fewer bits help."
    )
    return [Text(printable(words))]


def memory(report: Inspection) -> Text:
    """What the weights and the activations take."""
    totals = report.totals
    held = totals.param_bytes_by_dtype
    types = ", ".join(
        f"{numbers.size(count)} {name}" if len(held) > 1 else name for name, count in held.items()
    )
    weights = f"{numbers.size(totals.param_bytes)} of weights" + (f" ({types})" if types else "")
    if totals.peak_activation_bytes is None:
        return Text(f"Memory: {weights}; activations unknown, because sizes are.")
    return Text(printable(f"Memory: {weights}; {_peak(report)}, without reuse in place."))


def _peak(report: Inspection) -> str:
    place, found = report.totals.peak_activation_node, report.totals.peak_activation_bytes
    if found is None:
        return "activations unknown"
    at = f" at '{place}'" if place is not None else ""
    return f"activations peak at {numbers.size(found)} per sample{at}"


#: FCs of a head that are listed, and maps of heads that are alike; the rest is counted.
_FCS, _MAPS = 6, 3


def _head(heads: Sequence[HeadFacts], report: Inspection) -> list[Text]:
    """What is said of heads that are alike, or of one."""
    head = heads[0]
    sizes = "×".join(map(str, (head.channels, *head.spatial)))
    maps = list(dict.fromkeys(f"'{one.feature_map}'" for one in heads))
    after = ", ".join(maps[:_MAPS])
    if len(maps) > _MAPS:
        after += f" and {len(maps) - _MAPS} more"
    words = printable(f"after {after} ({sizes}, {head.layout}): FC {_chain(head)}")
    many = f"{len(heads)} heads alike " if len(heads) > 1 else "Head "
    lines = [Text.assemble((many, "bold"), words)]
    for name, facts in head.rewrites.items():
        command = rewrite_command(name, facts, heads, report)
        lines += _rewrite(name, facts, command)
        if len(heads) > 1 and " --node " in command and "refused" not in facts:
            lines.append(Text("      and so for the others: --all shows each command", "dim"))
    return lines


def _chain(head: HeadFacts) -> str:
    """The FCs of a head: one after the other, or side by side, equal ones counted."""
    shown = head.fcs[:_FCS]
    more = len(head.fcs) - len(shown)
    if all(b.in_features == a.out_features for a, b in pairwise(shown)):
        chain = " → ".join(
            [str(shown[0].in_features), *(str(layer.out_features) for layer in shown)]
        )
    else:
        pairs = Counter(f"{layer.in_features} → {layer.out_features}" for layer in head.fcs)
        counted = [f"{count}× {pair}" if count > 1 else pair for pair, count in pairs.items()]
        chain, more = ", ".join(counted[:_FCS]), sum(list(pairs.values())[_FCS:])
    return f"{chain} and {more} more" if more else chain


def rewrite_command(
    name: str, facts: HeadOffer, heads: Sequence[HeadFacts], report: Inspection
) -> str:
    """The command that makes a rewrite which heads offer that are alike, or one."""
    command = f"onnxshare rewrite {shlex.quote(report.model.path or 'MODEL')} --{name}"
    extra = "" if facts.get("exact") else " --method auto --keep 99% --samples FILE"
    return command + _only(heads, name, report.heads) + extra


def _only(chosen: Sequence[HeadFacts], rewrite: str, heads: Sequence[HeadFacts]) -> str:
    """What keeps a rewrite to some heads, where it would change others too: to the first of these,
    as a pattern says no list of names."""
    others = (
        other.rewrites.get(rewrite, {"refused"})
        for other in heads
        if not any(other is head for head in chosen)
    )
    if all("refused" in offer for offer in others):
        return ""
    return f" --node {shlex.quote(glob.escape(chosen[0].fcs[0].node))}"


def _rewrite(name: str, facts: HeadOffer, command: str) -> list[Text]:
    reason = facts.get("refused")
    if reason is not None:
        words = "nothing to do" if facts.get("nothing_to_do") else "not here"
        return [Text(printable(f"  --{name}: {words}, {reason}"), "dim")]
    before, after = facts.get("params_before"), facts.get("params_after")
    kind = "exact" if facts.get("exact") else "approximate"
    change = "the same weights, free of the fixed input size"
    if before is not None and after is not None and after < before:
        change = (
            f"{numbers.exact(before)} → {numbers.exact(after)} parameters, ÷{before / after:.3g}"
        )
        if kind == "approximate":
            change = f"the smallest head that keeps 99 % of the answers; pooling alone: {change}"
    return [
        Text.assemble("  ", (printable(command), "cyan")),
        Text(f"      {kind}: {change}", "dim"),
    ]


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _verb(items: Sequence[object], one: str, many: str) -> str:
    return one if len(items) == 1 else many


#: So many equal tensors are named one by one.
_EQUAL_NAMED = 5

#: Fewer elements are equal for no deep reason.
_LEAST = 2


def describe_equal(report: Inspection) -> list[Text]:
    """What the hashes say; nothing where none were requested."""
    hashed = report.hashed
    if not hashed:
        return []
    equal = [item for item in hashed if item.same_as or item.transposed_of]
    trivial = [item for item in equal if item.uniform or item.params < _LEAST]
    telling = [item for item in equal if item not in trivial]
    lines = [_sentence(item) for item in telling[:_EQUAL_NAMED]]
    if len(telling) > _EQUAL_NAMED:
        more = len(telling) - _EQUAL_NAMED
        lines.append(Text(f"  and {more} more: --by weight shows all", "dim"))
    if not telling:
        lines.append(Text(f"Of the {len(hashed)} parameter tensors no two hold the same."))
    if trivial:
        what = "1 tensor equals" if len(trivial) == 1 else f"{len(trivial)} tensors equal"
        why = "another only because all elements are alike, such as zeros."
        lines.append(Text(f"Not counted: {what} {why}", "dim"))
    return lines + _savings(report, telling)


def _sentence(item: WeightFacts) -> Text:
    size = "×".join(map(str, item.shape)) or "1"
    what = f"'{item.name}' ({size} {item.dtype}, {numbers.size(item.bytes)})"
    if item.same_as:
        how = f"equals '{item.same_as}'"
    else:
        order = ", ".join(map(str, item.permutation or ()))
        how = f"is '{item.transposed_of}' transposed ({order})"
    if item.same_after:
        how += " once what is quantized is dequantized"
    elif item.same_as:
        how += " bit for bit"
    return Text.assemble(("Equal ", "bold"), printable(f"{what} {how}"))


def _savings(report: Inspection, telling: Sequence[WeightFacts]) -> list[Text]:
    """What `--share` merges: what is equal bit for bit, and transposed matrices."""
    merged = [
        item
        for item in telling
        if item.same_after is None
        and (item.same_as or (item.transposed_of and len(item.shape) == 2))
    ]
    if not merged:
        return []
    saved = sum(item.bytes for item in merged)
    path = shlex.quote(report.model.path or "MODEL")
    return [
        Text.assemble("  ", (printable(f"onnxshare rewrite {path} --share"), "cyan")),
        Text(
            f"      exact: saves up to {numbers.size(saved)} of "
            f"{numbers.size(report.totals.param_bytes)}, "
            f"{numbers.exact(sum(item.params for item in merged))} parameters",
            "dim",
        ),
    ]
