"""WS: where the weights sit and how often each is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from onnxshare.checks.limits import show
from onnxshare.checks.rule import (
    Figure,
    Problem,
    Rule,
    Subject,
    advice,
    command,
    replace_head,
    unknown,
)

if TYPE_CHECKING:
    from onnxshare.analysis.results import HeadFacts, Inspection, Totals, WeightFacts
    from onnxshare.checks.results import ModelReport
    from onnxshare.io.load import Model


def fc_share(totals: Totals) -> float:
    """The parameters that fully connected layers use, as a share of all; 0 without any."""
    return totals.fc_params / totals.params if totals.params else 0.0


def single_use_share(weights: tuple[WeightFacts, ...]) -> tuple[float, float]:
    """The parameters that are used at most once per sample, as a share of all: the least and the
    most that it can be, which differ where uses are unknown; 0 without any."""
    total = sum(weight.params for weight in weights) or 1
    least = sum(weight.params for weight in weights if _single_use(weight))
    unknown = sum(weight.params for weight in weights if weight.connections is None)
    return least / total, (least + unknown) / total


def _single_use(weight: WeightFacts) -> bool:
    return weight.connections is not None and weight.connections <= weight.params


def _max_single_use(subject: Subject, limit: float) -> Iterator[Problem]:
    weights = subject.inspection.weights
    least, most = single_use_share(weights)
    if least > limit:
        largest = max(filter(_single_use, weights), key=lambda weight: weight.params)
        at_least = "at least " if most > least else ""
        yield Problem(
            f"{at_least}{show(least, 'share', near=limit)} of the parameters are used at most "
            f"once per sample, most of them in '{largest.name}'",
            least,
            replace_head(subject),
        )
    elif most > limit:
        yield unknown(subject, "how often some weights are used is unknown")


def equal_copies(weights: tuple[WeightFacts, ...]) -> list[WeightFacts]:
    """The tensors that are stored a second time; those filled with one number may be equal by
    chance, or take no room at all."""
    # What is equal only once dequantized is stored in another form: no merge gives that back.
    return [w for w in weights if w.same_as and w.same_after is None and not w.uniform]


def transposed_copies(weights: tuple[WeightFacts, ...]) -> list[WeightFacts]:
    """The tensors that are stored a second time, transposed."""
    return [w for w in weights if w.transposed_of and w.same_after is None and not w.uniform]


def quantized_copies(weights: tuple[WeightFacts, ...]) -> list[WeightFacts]:
    """The tensors that stand for the same numbers as another, in another quantized form."""
    return [weight for weight in weights if weight.same_after and not weight.uniform]


def _copied_bytes(
    find: Callable[[tuple[WeightFacts, ...]], list[WeightFacts]], words: str, remedy: str
) -> Figure:
    """The bytes of the copies that `find` finds; `words` say what they are and what the largest is
    to another, with `{}` for their number and the name of the largest."""

    def say(subject: Subject, size: str) -> str:
        copies = find(subject.inspection.weights)
        largest = max(copies, key=lambda weight: weight.bytes)
        count = f"{len(copies)} {'copy' if len(copies) == 1 else 'copies'}"
        named = f"{count}, the largest '{largest.name}'"
        return (
            f"{size} of weights {words.format(named)} '{largest.same_as or largest.transposed_of}'"
        )

    return Figure(
        lambda subject: sum(weight.bytes for weight in find(subject.inspection.weights)),
        say,
        advice(*remedy.split()),
    )


#: The option of the rule that judges several models together.
REPEATED = "max-repeated-bytes"


def stored_tensors(model: Model, inspection: Inspection) -> dict[str, tuple[int, str]]:
    """The parameter tensors of a model, as `ModelReport.tensors`; those filled with one number are
    left out."""
    places: dict[str, str] = {}
    for tensor in model.skeleton.graph.initializer if model.external_files() else ():
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = (model.folder or Path()) / entries.get("location", "")
        if tensor.data_location == tensor.EXTERNAL and file.is_file():
            places[tensor.name] = f"{file.resolve()}:{entries.get('offset', 0)}"
    return {
        weight.hash: (weight.bytes, places.get(weight.name, ""))
        for weight in inspection.weights
        if weight.hash and not weight.uniform
    }


def repeated(reports: Iterable[ModelReport]) -> Iterator[Problem | None]:
    """For each model what is wrong with it where earlier ones store the same tensors elsewhere."""
    seen: dict[str, tuple[str, set[str]]] = {}
    for report in reports:
        copies: dict[str, int] = {}
        for key, (size, place) in report.tensors.items():
            first, places = seen.setdefault(key, (report.path, set()))
            if first != report.path and (not place or place not in places):
                copies[first] = copies.get(first, 0) + size
            places.add(place)
        limit, total = report.limits.get(REPEATED), sum(copies.values())
        if not isinstance(limit, (int, float)) or not copies or total <= limit:
            yield None
            continue
        other = max(copies, key=lambda name: copies[name])
        yield Problem(
            f"{show(total, 'bytes', near=limit)} of weights are stored in other models too, most "
            f"of them in '{other}'",
            total,
            command("family", report.path, "--write", "FOLDER", "--", other),
        )


def _convolution_form(subject: Subject, limit: bool) -> Iterator[Problem]:
    for head in subject.inspection.heads:
        offer = head.rewrites.get("fc-to-conv", {})
        if offer.get("exact"):
            node = _first_fc(head)
            yield Problem(
                f"this fully connected layer behind a {_size(head)} map has an exact form as a "
                "convolution",
                None,
                command("rewrite", subject.name, "--fc-to-conv"),
                node,
            )


def _gap_is_exact(subject: Subject, limit: bool) -> Iterator[Problem]:
    for head in subject.inspection.heads:
        offer = head.rewrites.get("fc-to-gap", {})
        if offer.get("exact"):
            node, before, after = _first_fc(head), offer["params_before"], offer["params_after"]
            yield Problem(
                f"the weights behind the {_size(head)} map are constant over space: global average "
                f"pooling does the same with {after:,} parameters instead of {before:,}",
                before - after,
                command("rewrite", subject.name, "--fc-to-gap"),
                node,
            )


def _size_locked(subject: Subject, limit: bool) -> Iterator[Problem]:
    for head in subject.inspection.heads:
        if any(size != 1 for size in head.spatial):
            node = _first_fc(head)
            offer = head.rewrites.get("fc-to-conv", {})
            fix = command("inspect", subject.name)
            if offer.get("exact"):
                fix = command("rewrite", subject.name, "--fc-to-conv", "--fully-convolutional")
            yield Problem(
                f"only inputs that give a {_size(head)} map here are accepted", None, fix, node
            )


def _first_fc(head: HeadFacts) -> str | None:
    return head.fcs[0].node if head.fcs else None


def _size(head: HeadFacts) -> str:
    return "×".join(map(str, (head.channels, *head.spatial)))


RULES: tuple[Rule, ...] = (
    Rule(
        "WS101",
        "fc-dominates",
        "max-fc-share",
        "share",
        0.5,
        "parameters that fully connected layers use (totals.fc_params) / all parameters "
        "(totals.params), each stored tensor counted once",
        "A fully connected layer uses each weight once per sample. At batch 1 such a layer costs "
        "what it costs to read its weights, and it is most of what is shipped.",
        "Rewrite the head with `onnxshare rewrite --fc-to-gap`, which keeps a small one.",
        Figure(
            lambda subject: fc_share(subject.inspection.totals),
            lambda subject, share: (
                f"{share} of the parameters ({subject.inspection.totals.fc_params:,} of "
                f"{subject.inspection.totals.params:,}) sit in fully connected layers"
            ),
            replace_head,
        ),
        help="The largest share of the parameters in fully connected layers: 0.5 or 50%.",
        metric="fc_share",
        short="Fully connected layers hold most parameters",
    ),
    Rule(
        "WS102",
        "low-reuse",
        "min-sharing-ratio",
        "ratio",
        10.0,
        "connections / parameters per sample: how often the average parameter is used",
        "The fewer times a weight is used once it is read, the more the speed of the model is that "
        "of memory and not of arithmetic.",
        "Share weights over positions: convolutions and pooling instead of fully connected layers.",
        Figure(
            lambda subject: subject.inspection.totals.sharing_ratio,
            lambda subject, times: f"a parameter is used {times} times per sample on average",
            replace_head,
            lambda subject: (
                "the number of connections is unknown"
                if subject.inspection.totals.params
                else "the model holds no parameters"
            ),
        ),
        help="How often a parameter must be used per sample, on average.",
        metric="sharing_ratio",
        short="The average parameter is used rarely",
    ),
    Rule(
        "WS103",
        "single-use-weights",
        "max-single-use-share",
        "share",
        0.9,
        "parameters of tensors that are used at most once per sample / all parameters; embeddings "
        "and locally connected layers count, not only fully connected ones",
        "A weight that is read for one multiplication makes the model wait for memory.",
        "See `onnxshare inspect --by weight` for the tensors, and share them or make them smaller.",
        _max_single_use,
        short="Most parameters are used once per sample",
    ),
    Rule(
        "WS104",
        "convolution-form",
        "convolution-form",
        "flag",
        True,
        "heads whose first fully connected layer has an exact form as a convolution over the whole "
        "feature map",
        "As a convolution the layer takes larger inputs and gives a map of answers, and compilers "
        "for accelerators that know convolutions only can take it.",
        "`onnxshare rewrite --fc-to-conv` makes it; the number of weights stays.",
        _convolution_form,
        short="A fully connected head could be a convolution",
    ),
    Rule(
        "WS105",
        "gap-is-exact",
        "gap-is-exact",
        "flag",
        True,
        "heads whose weights are constant over space, so that global average pooling before a "
        "smaller layer computes the same",
        "The weights are stored once per position for nothing.",
        "`onnxshare rewrite --fc-to-gap` removes them and changes nothing but rounding.",
        _gap_is_exact,
        short="A head's weights are constant over space",
    ),
    Rule(
        "WS106",
        "duplicate-weights",
        "max-duplicate-bytes",
        "bytes",
        65536,
        "bytes of parameter tensors that equal an earlier one byte for byte; "
        "tensors filled with one number are left out",
        "Each copy is shipped, loaded and cached apart.",
        "`onnxshare rewrite --share` keeps one of each.",
        _copied_bytes(equal_copies, "are stored more than once: {}, equal to", "rewrite --share"),
        frozenset({"hashes"}),
        short="A weight is stored twice",
    ),
    Rule(
        "WS107",
        "transposed-duplicate",
        "max-transposed-bytes",
        "bytes",
        65536,
        "bytes of parameter tensors that are a transpose of an earlier one; "
        "tensors filled with one number are left out",
        "Tied weights, such as those of an embedding and the output layer, are often exported "
        "twice, once transposed.",
        "`onnxshare rewrite --share` keeps one of each and transposes it where needed.",
        _copied_bytes(
            transposed_copies, "are transposed copies of others: {}, of", "rewrite --share"
        ),
        frozenset({"hashes"}),
        short="A weight is stored again as its transpose",
    ),
    Rule(
        "WS108",
        "size-locked",
        "size-locked",
        "flag",
        True,
        "heads whose fully connected layer accepts one size of feature map only, and so the model "
        "one size of input",
        "Larger inputs have to be cut or scaled, where the convolutions alone would take any size.",
        "`onnxshare rewrite --fc-to-conv --fully-convolutional` lets the model take larger inputs.",
        _size_locked,
        short="A fully connected head accepts one input size only",
    ),
    Rule(
        "WS109",
        "dequantized-duplicate",
        "max-dequantized-bytes",
        "bytes",
        65536,
        "bytes of parameter tensors that equal an earlier one, or are its transpose, only as the "
        "numbers that quantized ones stand for; tensors filled with one number are left out",
        "One weight is shipped twice, such as an embedding in 8 bits whose transpose is kept in "
        "float32 for the output layer.",
        "Quantize all layers that share the weight alike, so that one tensor serves them all; "
        "`onnxshare inspect --hash --by weight` names the pairs.",
        _copied_bytes(
            quantized_copies,
            "stand for the same numbers as others once quantized ones are dequantized: {}, equal "
            "to",
            "inspect --hash --by weight",
        ),
        frozenset({"hashes"}),
        short="A weight is stored again in another quantized form",
    ),
    Rule(
        "WS110",
        "repeated-in-models",
        REPEATED,
        "bytes",
        65536,
        "bytes of parameter tensors that an earlier model of the same check stores too, byte for "
        "byte; tensors filled with one number, and models that refer to one place in a data file, "
        "are left out",
        "Models that share weights are shipped, loaded and cached as many times as there are.",
        "`onnxshare family --write FOLDER` stores what several models hold once, and "
        "`onnxshare.family_sessions` loads it once.",
        lambda subject, limit: (),  # one model alone shows nothing: `repeated` judges them together
        frozenset({"hashes"}),
        short="Several models store the same weights",
    ),
)
