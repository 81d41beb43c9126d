"""Check which module may import which: layers from errors to the command line, no cycles, DataDecide in one package."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import dde
from dde.names import RECIPES, SEEDS, SIZES

SOURCE = Path(dde.__file__).parent
DATADECIDE = "dde.suite.datadecide"
#: Modules and packages of dde, lowest layer first; each imports only layers before it, or modules inside it. The
#: longest name that matches a module is its layer.
LAYERS = (
    "errors",
    "schema",
    "array_types",
    "printable",
    "atomic_files",
    "native",
    "sources",
    "cache",
    "lineage",
    "curves",
    "dataset",
    "analysis",
    "plots",
    "html_parts",
    "doctor.examined_runs",
    "suite.datadecide",
    "names",
    "suite",
    "doctor",
    "entities",
    "opening",
    "tutorial",
    "explore",
    "accessor",
    "registration",
    "cli",
    "__main__",
)
#: Allowed imports of higher layers, with the reason.
EXCEPTIONS = {
    # The former import path of `DataDecide`; it only re-exports.
    "dde.sources.datadecide": (f"{DATADECIDE}.tables.pretraining_tables",),
    # Names of recipes and sizes in a Dataset's labels: the only module of `dataset` that depends on the suite.
    "dde.dataset.naming": (f"{DATADECIDE}.naming",),
    # Types only: what a source of a declared suite returns.
    "dde.sources.protocols": ("dde.suite.reading.declared_runs", "dde.suite.reading.metric_keys"),
}
#: Modules outside the package of DataDecide, in layers that serve every suite, that may import a part of it.
MAY_IMPORT = {
    "dde.names": f"{DATADECIDE}.names",
    "dde.sources.datadecide": f"{DATADECIDE}.tables.pretraining_tables",
    "dde.dataset.naming": f"{DATADECIDE}.naming",
}
#: Layers that serve every suite.
GENERIC = ("sources", "cache", "lineage", "curves", "dataset", "analysis", "plots", "explore", "cli", "native")


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports_in(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def imports_of(path: Path) -> set[str]:
    """Return the names that a module imports anywhere, including in functions and for type checkers."""
    return imports_in(parsed(path))


def imports_at_start(path: Path) -> set[str]:
    """Return the names that are imported when a module is imported."""
    is_later = (ast.FunctionDef, ast.ClassDef)
    body = [node for node in parsed(path).body if not isinstance(node, is_later)]
    body = [n for n in body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    return imports_in(ast.Module(body, []))


def module_of(name: str, known: Collection[str]) -> str | None:
    """Return the module that an imported name is, or is in; None for a module outside `known`."""
    module = name.rpartition(".")[0]
    return name if name in known else module if module in known else None


def import_graph() -> dict[str, set[str]]:
    """Return the modules that each module imports anywhere."""
    known = dict(modules())
    return {m: {t for name in imports_of(path) if (t := module_of(name, known))} for m, path in known.items()}


def start_graph() -> dict[str, set[str]]:
    """Return the modules that are imported when each module is imported, with the packages that contain them."""
    known = dict(modules())
    graph: dict[str, set[str]] = {}
    for module, path in known.items():
        imported = {t for name in imports_at_start(path) if (t := module_of(name, known))}
        packages = {p for t in imported for p in known if t.startswith(f"{p}.")}
        # Inside a package, the package is already being imported.
        graph[module] = imported | {p for p in packages if not is_in(module, p)}
    return graph


def cycle_in(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as found:
        cycle: list[str] = found.args[1]
        return cycle
    return []


def layer_of(module: str) -> int:
    """Return the position of a module's layer, from 0; the package itself is above all layers."""
    matches = [layer for layer in LAYERS if is_in(module, f"dde.{layer}")]
    if module == "dde":
        return len(LAYERS)
    assert matches, f"{module} is in no layer: name it in LAYERS"
    return LAYERS.index(max(matches, key=len))


def upward_imports(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the imports of higher layers that no exception allows."""
    return [
        f"{module} imports {target}"
        for module, targets in graph.items()
        for target in sorted(targets)
        if layer_of(target) > layer_of(module) and target not in EXCEPTIONS.get(module, ())
    ]


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_no_import_cycle() -> None:
    graph = import_graph()
    assert graph["dde.opening"] >= {"dde.entities.repository", "dde.curves.grids"}
    # An import in a function, and one for type checkers.
    assert "dde.cli.app" in graph["dde.cli"]
    assert "dde.tutorial" in graph["dde"]
    assert cycle_in(graph) == []


def test_every_module_can_be_imported_first() -> None:
    graph = start_graph()
    assert "dde.cli.app" not in graph["dde.cli"]
    assert "dde.tutorial" not in graph["dde"]
    # Importing a module of a package runs the package.
    assert "dde.doctor" in graph["dde.suite.datadecide.examined_stores"]
    assert cycle_in(graph) == []


def test_each_layer_imports_only_lower_ones() -> None:
    graph = import_graph()
    assert upward_imports(graph) == []
    assert {layer_of(module) for module in graph} == set(range(len(LAYERS) + 1))
    for module, targets in EXCEPTIONS.items():
        assert graph[module] >= set(targets), f"{module} needs no exception"


@pytest.mark.parametrize(
    "text",
    [
        "from dde.entities.repository import RunRepository",
        "def f():\n    import dde.opening",
        "def f():\n    from dde import opening",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dde.opening import open_lineages",
    ],
)
def test_a_wrong_import_is_found(text: str) -> None:
    graph = import_graph()
    wrong = {module_of(name, graph) for name in imports_in(ast.parse(text))} & set(graph)
    graph["dde.entities.catalog"] |= wrong
    cycle = cycle_in(graph)
    assert "dde.entities.catalog" in cycle
    assert cycle[0] == cycle[-1]
    if "opening" in text:
        assert upward_imports(graph) == ["dde.entities.catalog imports dde.opening"]


@pytest.mark.parametrize("layer", GENERIC)
def test_generic_layers_import_nothing_of_datadecide(layer: str) -> None:
    seen = 0
    for module, path in modules():
        if not is_in(module, f"dde.{layer}"):
            continue
        seen += 1
        allowed = MAY_IMPORT.get(module)
        wrong = [
            name for name in imports_of(path) if is_in(name, DATADECIDE) and not (allowed and is_in(name, allowed))
        ]
        assert not wrong, f"{module} imports {wrong}"
    assert seen


def test_only_the_package_of_datadecide_imports_its_names() -> None:
    for module, path in modules():
        if is_in(module, DATADECIDE) or is_in(module, "dde.tutorial") or module in MAY_IMPORT:
            continue
        names = {n.removeprefix(f"{DATADECIDE}.names.") for n in imports_of(path) if is_in(n, f"{DATADECIDE}.names")}
        # A store of post-training runs may belong to any suite: it states the checkpoint that a run starts from, and
        # its logs and evaluations are metrics.
        assert names <= {"RunCheckpoint", "parse_run_checkpoint", "log_metric", "task_metric"}, module


def test_no_other_module_names_a_recipe_a_size_or_a_seed() -> None:
    words = {s.name for s in SIZES} | {name for r in RECIPES for name in (r.name, r.slug)} | {s.name for s in SEEDS}
    words -= {"default"}
    pattern = re.compile("|".join(rf"(?<![\w.]){re.escape(w)}(?![\w.])" for w in sorted(words, key=len, reverse=True)))
    assert pattern.findall("the size 150M on Dolma1.7, not 1150M") == ["150M", "Dolma1.7"]
    found = []
    for module, path in modules():
        # The demo uses the tutorial's suite; the built-in OLMo ladder has sizes of its own.
        if any(is_in(module, package) for package in (DATADECIDE, "dde.tutorial", "dde.cli.demo", "dde.suite.builtin")):
            continue
        tree = ast.parse(path.read_text())
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found += [(module, node.lineno, m[0]) for m in pattern.finditer(node.value)]
    assert found == []


def test_former_import_paths_give_the_same_objects() -> None:
    from dde.sources.datadecide import DataDecide

    assert DataDecide is dde.DataDecide
    assert dde.names.resolve_size("150m").name == "150M"
