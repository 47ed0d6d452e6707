"""The rules of the house that CONTRIBUTING describes, held against the code itself.

Everything is read from the syntax trees: imports inside of functions count, imports for types only
(`if TYPE_CHECKING:`) do not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx
import pytest

ROOT = Path(__file__).resolve().parents[1]

#: The rooms from the ground up. A module imports from its own room and from lower lines only.
ORDER = """
    errors version
    support
    io
    graph samples
    shapes weights runtime
    analysis
    comparison differences
    checks rewrites model_scan model_family
    report api __init__
    cli
    __main__
"""

#: Rooms of one line of which one imports the other, and why.
SIDEWAYS: dict[tuple[str, str], str] = {
    ("model_scan", "checks"): "finds models in folders as check does",
    ("samples", "graph"): "asks what the operators that read an input do",
    ("api", "report"): "tells reports how notebooks show them",
}

LONGEST_FILE = 500
LONGEST_FUNCTION = 60

#: Functions that may be longer, and why. The list may only shrink.
LONG_FUNCTIONS = {
    "onnxshare/api.py:check": "every limit is a keyword with a line in its docstring",
    "onnxshare/comparison/compare.py:compare": "every option is a keyword, with its docstring",
    "rewrites/run.py:rewrite": "every option is a keyword with lines in its docstring",
}

#: How many modules lie directly in a package.
FLAT = {"onnxshare": 8, "rewrites": 18}

#: How many sets of four and more operators' names there are outside of the tables. May only shrink.
OPERATOR_SETS = 3
TABLES = (
    "onnxshare/graph/operator_traits",
    "onnxshare/analysis/operators/",
    "onnxshare/shapes/rules/",
)

#: Metaphors, and words for how special something is: no part of a file's name.
METAPHORS = set(
    "bounded census cores held lone mirror misfits ordinary places plain sides slim sniff sound "
    "survey twins unrounded".split()
)
#: Words that name nothing when they stand alone.
PARTICIPLES = set(
    "confined dequantized distilled fitted fused joined learned mapped mixing moved rearranging "
    "resampling silence stored".split()
)


#: Test files that are not named after one module, and what they test instead.
ACROSS = {
    "analysis/accounting": "every stored number of every model is accounted for",
    "analysis/computed_weights": "weights that are computed from stored ones",
    "analysis/heads/behind_operators": "heads behind every operator of the table",
    "analysis/measured_uses": "the analysis against what moves when a weight is moved",
    "analysis/measured_uses_of_networks": "the same on random networks",
    "analysis/models_of_known_counts": "the analysis on models that mislead counters",
    "analysis/node_models": "the analysis on the node tests of onnx",
    "analysis/operators/formulas/uses_and_work": "all formulas, by hand",
    "analysis/published_networks": "the analysis against published figures",
    "analysis/quantized_weights": "the analysis on quantized operators",
    "analysis/caches": "keys and values of past steps, across operators and formulas",
    "analysis/rows_per_sample": "several rows of axis 0 in one sample, across all formulas",
    "analysis/worked_networks": "the analysis on networks worked out by hand",
    "analysis/worked_numbers": "the analysis on layers worked out by hand",
    "analysis/worked_recurrence": "the analysis on weights shared over time",
    "analysis/zoo": "the analysis on other people's models",
    "checks/rules/breaking_and_keeping_models": "every rule, both ways",
    "checks/team": "a team's two weeks with the gate",
    "checks/zoo": "the policy of docs/how-to/gate-a-repository.md on other people's models",
    "ci_files": "workflows, the GitLab component and the container",
    "cli/determinism": "every command, twice",
    "cli/without_runtime": "every command without ONNX Runtime",
    "comparison/made_up_inputs": "inputs that only some sizes and values tell apart",
    "comparison/mutants": "compare on rewrites that are right and wrong",
    "comparison/odd_models": "compare on models without inputs, outputs or numbers",
    "differences/written_out": "defaults written out and equal constants",
    "environments": "installations with every ONNX Runtime",
    "fuzz/fuzz": "everything, on damaged files",
    "house": "this file",
    "io/bad_files": "every command on files that are not models",
    "io/changed_files": "models whose files change after they were read",
    "io/fault_injection": "saving while the disk or the process fails",
    "io/malformed_models": "models that contradict themselves",
    "known_limits": "a page of docs/",
    "packaging": "what an installation brings",
    "readme": "the code in pages",
    "report/page/browser": "every page in a real browser",
    "rewrites/element_types": "fc-to-conv in every float type",
    "rewrites/forms": "every rewrite on every form and model",
    "rewrites/head_as_maps/joined_maps": "heads that read several maps",
    "rewrites/overridable": "every rewrite on constants that a caller may override",
    "rewrites/plugins": "rewrites of other packages",
    "rewrites/proof/single_breaks": "the proof, with one thing wrong",
    "rewrites/fold_products": "products and sums that --fold-batchnorm takes along",
    "rewrites/properties": "every rewrite on random nets",
    "rewrites/zoo": "every rewrite on other people's models",
    "runtime/gpu": "what only a GPU can show",
    "words": "the language of messages and pages",
    "shapes/declared_shapes": "shapes that a file declares, against what follows",
}


@cache
def python_files(*folders: str) -> tuple[Path, ...]:
    """The Python files below folders of the repository, relative to it."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return tuple(sorted(path.relative_to(ROOT) for path in found))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text("utf-8"))


PRODUCT = python_files("onnxshare", "rewrites")


def name_of(path: Path) -> str:
    """A file's name as a module."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in PRODUCT}


def imported(path: Path) -> Iterator[str]:
    """The full names that a file imports, wherever it does so; `from a import b` gives `a.b`."""
    left: list[ast.AST] = [tree(path)]
    while left:
        node = left.pop()
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            left += node.orelse
        else:
            left += ast.iter_child_nodes(node)


def module_of(name: str) -> str | None:
    """The module that a full name lies in, if it is one of ours."""
    return next((m for m in (name, name.rpartition(".")[0]) if m in MODULES), None)


@cache
def imports() -> dict[str, set[str]]:
    """Module → the modules of ours that it imports."""
    return {
        module: {found for name in imported(path) if (found := module_of(name))} - {module}
        for module, path in MODULES.items()
    }


def room(module: str) -> str:
    """A folder of `onnxshare` with all below it, a file that lies flat in it, or `rewrites`."""
    first, *rest = MODULES[module].with_suffix("").parts
    return first if first == "rewrites" else rest[0]


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_imports_go_down_only() -> None:
    """So there is no circle between rooms either."""
    levels = {name: level for level, line in enumerate(ORDER.split("\n")) for name in line.split()}
    crossing = {
        (room(module), room(target)): f"{module} imports {target}"
        for module, targets in imports().items()
        for target in targets
        if room(module) != room(target)
    }
    up = {pair for pair in crossing if levels[pair[0]] <= levels[pair[1]]}
    assert not sorted(crossing[pair] for pair in up - SIDEWAYS.keys())
    assert SIDEWAYS.keys() <= up, "no longer needed"
    assert all(levels[a] == levels[b] and (b, a) not in SIDEWAYS for a, b in SIDEWAYS)


def test_the_order_names_the_rooms_that_there_are() -> None:
    assert sorted(ORDER.split()) == sorted({room(module) for module in MODULES})


def test_only_runtime_imports_onnx_runtime() -> None:
    users = {
        room(module)
        for module, path in MODULES.items()
        if any(name.partition(".")[0] == "onnxruntime" for name in imported(path))
    }
    assert users == {"runtime"}


def test_benchmarks_import_nothing_from_the_tests() -> None:
    files = python_files("benchmarks")
    assert files
    assert not [str(p) for p in files if any(n.split(".")[0] == "tests" for n in imported(p))]


def test_files_are_short() -> None:
    lengths = {str(path): len((ROOT / path).read_text("utf-8").splitlines()) for path in PRODUCT}
    assert not {path: length for path, length in lengths.items() if length > LONGEST_FILE}


def test_functions_are_short() -> None:
    long = {
        f"{path}:{node.name}"
        for path in PRODUCT
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert not sorted(long - LONG_FUNCTIONS.keys())
    assert not sorted(LONG_FUNCTIONS.keys() - long), "no longer needed"


@pytest.mark.parametrize("package", FLAT)
def test_few_files_lie_flat(package: str) -> None:
    assert len(list((ROOT / package).glob("*.py"))) <= FLAT[package]


def texts(node: ast.AST) -> list[str]:
    """The strings of a set, tuple or list, the keys of a dict, or the words of a split text."""
    items: list[ast.expr] = []
    if isinstance(node, ast.Set | ast.Tuple | ast.List):
        items = node.elts
    elif isinstance(node, ast.Dict):
        items = [key for key in node.keys if key]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".split"):
        text = getattr(getattr(node.func, "value", None), "value", None)
        return text.split() if isinstance(text, str) else []
    return [i.value for i in items if isinstance(i, ast.Constant) and isinstance(i.value, str)]


def test_what_is_known_of_operators_stands_in_the_tables() -> None:
    """A list of operators somewhere else is a second opinion on them: ask the table instead."""
    operators = {schema.name for schema in onnx.defs.get_all_schemas()}
    sets = [
        f"{path}:{node.lineno}"
        for path in PRODUCT
        if not path.as_posix().startswith(TABLES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.expr) and len(operators.intersection(texts(node))) >= 4
    ]
    assert len(sets) <= OPERATOR_SETS, sets


def test_every_folder_says_in_one_sentence_what_it_is() -> None:
    for folder in {path.parent for path in PRODUCT}:
        init = folder / "__init__.py"
        assert init in PRODUCT, folder
        sentence = (ast.get_docstring(tree(init)) or "").partition("\n\n")[0]
        assert re.fullmatch(r"[A-Z`].*[^.]\.", sentence, re.DOTALL), init
        assert ". " not in sentence, init


def test_files_are_named_by_nouns_of_the_field() -> None:
    for path in PRODUCT:
        assert not METAPHORS.intersection(path.stem.split("_")), path
        assert path.stem not in PARTICIPLES, path


def test_a_test_file_is_named_after_the_module_it_tests() -> None:
    """`tests/io/test_save.py` tests `onnxshare/io/save.py`."""
    names = {
        path.relative_to("tests").with_name(path.stem.removeprefix("test_")).as_posix()
        for path in python_files("tests")
        if path.stem.startswith("test_")
    }
    places = [ROOT / "onnxshare", ROOT]
    without = {
        name
        for name in names
        if not any((p / f"{name}.py").exists() or (p / name).is_dir() for p in places)
        if not any((p / name).with_name(f"__{Path(name).name}__.py").exists() for p in places)
    }
    assert not sorted(without - ACROSS.keys())
    assert not sorted(ACROSS.keys() - without), "no longer needed"


def prose(path: Path) -> Iterator[str]:
    """The text of a page; the docstrings and comments of a Python file."""
    text = (ROOT / path).read_text("utf-8")
    if path.suffix == ".md":
        yield text
        return
    yield from re.findall(r"#[:!]? (.*)", text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    yield from (
        ast.get_docstring(node) or ""
        for node in ast.walk(tree(path))
        if isinstance(node, documented)
    )


PAGES = [
    path.relative_to(ROOT)
    for place in ("*.md", "docs/**/*.md", "models/*.md")
    for path in sorted(ROOT.glob(place))
    if path.name != "CHANGELOG.md"  # tells what was
]
OURS = python_files("onnxshare", "rewrites", "tests", "benchmarks", "models", "action")


def exists(name: str, reader: Path) -> bool:
    """Whether a file that is named in `reader` is there: below a package, beside the reader or
    above, or, where a page names it, anywhere."""
    places = [ROOT / "onnxshare", ROOT / "rewrites", *(ROOT / above for above in reader.parents)]
    if any((place / name).exists() for place in places):
        return True
    return reader.suffix == ".md" and any(path.name == name for path in OURS)


def known(module: str) -> bool:
    """Whether a dotted name below a folder of ours is a module or something that one defines."""
    if module in MODULES:
        return True
    inside, _, attribute = module.rpartition(".")
    return inside in MODULES and attribute in (ROOT / MODULES[inside]).read_text("utf-8")


def test_files_and_modules_that_are_named_exist() -> None:
    rooms = "|".join(sorted({p.parts[1] for p in PRODUCT if len(p.parts) > 2}))
    missing = []
    for path in (*PAGES, *OURS):
        for text in prose(path):
            for quoted in re.findall(r"`([^`\n]+)`", text):
                for name in re.findall(r"(?<![\w/.<*-])[\w./-]*\w\.py\b", quoted):
                    missing += [] if exists(name, path) else [f"{path}: {name}"]
                for name in re.findall(rf"\b((?:onnxshare|rewrites)\.(?:{rooms})[\w.]*)", quoted):
                    missing += [] if known(name.rstrip(".")) else [f"{path}: {name}"]
    assert not missing, "\n".join(missing)
