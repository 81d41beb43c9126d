"""Where knowledge of DataDecide lies: recipes, sizes and seeds in its package alone, and what may import it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dde
from dde.names import RECIPES, SEEDS, SIZES

SOURCE = Path(dde.__file__).parent
DATADECIDE = "dde.suite.datadecide"
#: Old import paths, and the one module of `dataset` that asks the suite of an object for names.
MAY_IMPORT = {
    "dde.names": f"{DATADECIDE}.names",
    "dde.sources.datadecide": f"{DATADECIDE}.tables.pretraining_tables",
    "dde.dataset.naming": f"{DATADECIDE}.naming",
}
#: Floors that serve every suite.
GENERIC = ("sources", "cache", "lineage", "curves", "dataset", "plots", "explore", "cli", "native")


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("floor", GENERIC)
def test_floors_of_every_suite_import_nothing_of_datadecide(floor: str) -> None:
    seen = 0
    for module, path in modules():
        if not is_in(module, f"dde.{floor}"):
            continue
        seen += 1
        allowed = MAY_IMPORT.get(module)
        wrong = [
            name for name in imports_of(path) if is_in(name, DATADECIDE) and not (allowed and is_in(name, allowed))
        ]
        assert not wrong, f"{module} imports {wrong}"
    assert seen


def test_names_of_datadecide_are_imported_by_its_package_alone() -> None:
    for module, path in modules():
        if is_in(module, DATADECIDE) or is_in(module, "dde.tutorial") or module in MAY_IMPORT:
            continue
        names = {n.removeprefix(f"{DATADECIDE}.names.") for n in imports_of(path) if is_in(n, f"{DATADECIDE}.names")}
        # A store of post-training runs may belong to any suite: it says where inside a run another one starts, and
        # has logs and evaluations that are metrics.
        assert names <= {"RunCheckpoint", "parse_run_checkpoint", "log_metric", "task_metric"}, module


def test_no_module_outside_writes_a_recipe_a_size_or_a_seed() -> None:
    words = {s.name for s in SIZES} | {name for r in RECIPES for name in (r.name, r.slug)} | {s.name for s in SEEDS}
    words -= {"default"}
    pattern = re.compile("|".join(rf"(?<![\w.]){re.escape(w)}(?![\w.])" for w in sorted(words, key=len, reverse=True)))
    assert pattern.findall("the size 150M on Dolma1.7, not 1150M") == ["150M", "Dolma1.7"]
    found = []
    for module, path in modules():
        # The demo is of the tutorial's suite; the ladder has sizes of its own.
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


def test_old_import_paths_still_lead_to_the_same_objects() -> None:
    from dde.sources.datadecide import DataDecide

    assert DataDecide is dde.DataDecide
    assert dde.names.resolve_size("150m").name == "150M"
