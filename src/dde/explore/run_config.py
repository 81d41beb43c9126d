"""The config of a run of a store, with all its keys, flattened, and its command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from dde.entities.catalog import RunCatalog
from dde.printable import printable
from dde.sources.values import as_text, read_object, unwrapped
from dde.sources.wandb.records import config_text

__all__ = ["complete_config", "flat_rows"]

# Longer attributes of W&B repeat the config or the summary as text.
_LONGEST_ATTRIBUTE = 500


def complete_config(catalog: RunCatalog, run_id: str) -> tuple[list[tuple[str, str, str]], str, str]:
    """Return the config of a run of a store with all its keys, its command line, and a remark.

    Parameters
    ----------
    catalog : RunCatalog
    run_id : str

    Returns
    -------
    rows : list of (str, str, str)
        Section (``config``, ``launch``, ``attributes`` or ``sweep``), flattened key, and value.
    command : str
        As for a shell; "" where no source has it.
    remark : str
        Why there is no config, or what it lacks; "" for a complete one.

    Raises
    ------
    SourceError
        When the store is unreachable.

    Examples
    --------
    >>> import dde
    >>> repository = dde.tutorial.open_repository("tiny")
    >>> rows, command, remark = complete_config(repository, next(iter(repository.registry.derived)))
    >>> command.split()[0].endswith("finetune.py"), remark
    (True, '')
    """
    store, runs = catalog.posttraining_source, catalog.suite_runs
    table, row = catalog.table, catalog.row_of(run_id)
    is_stored = not table.is_root[row] if runs is None else bool(runs.made.is_attached[row])
    if not is_stored:
        kind = "tables of checkpoints" if runs is None else "the files of the suite"
        return [], "", f"This run comes from {kind}, which have no config. Its factors are listed above."
    store = store if runs is None or runs.store is None else runs.store
    read = getattr(store, "complete_run", None)
    found: Mapping[str, object] | None = None if read is None else read(run_id)
    if found is not None:
        return _rows_of(found)
    # A source with the methods of the protocol only gives the keys that are named.
    derived = None if runs is not None else catalog.registry.derived.get(run_id)
    if derived is None:
        return [], "", "The store does not give the config of single runs."
    record = derived.evidence.record
    command = shlex.join(filter(None, (record.program, *record.command)))
    return flat_rows("config", record.config), command, "The store gives only the keys that dde reads."


def _rows_of(found: Mapping[str, object]) -> tuple[list[tuple[str, str, str]], str, str]:
    remarks: list[str] = []

    def read(name: str) -> dict[str, Any]:
        values, problem = read_object(found.get(name))
        remarks.extend([f"The column {name} {problem}."] if problem else [])
        return values

    config = read("config") or read("raw_data")
    launch = read("wandb_metadata")
    # Before dr_wandb 0.1, all columns were keys of one object.
    launch = launch or read_object(config.get("wandb_metadata", config.get("metadata")))[0]
    about = [*flat_rows("attributes", read("system_attrs")), *flat_rows("sweep", read("sweep_info"))]
    about = [row for row in about if row[2] not in ("", "null") and len(row[2]) <= _LONGEST_ATTRIBUTE]
    rows = [*flat_rows("config", config), *flat_rows("launch", launch), *about]
    arguments = launch.get("args")
    arguments = [as_text(a) for a in arguments] if isinstance(arguments, list) else []
    command = shlex.join(filter(None, (as_text(launch.get("program")), *arguments)))
    return rows, printable(command), " ".join(remarks)


def flat_rows(section: str, values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """Return nested values as rows of section, dotted key and text; lists are JSON.

    Examples
    --------
    >>> flat_rows("config", {"lr": {"value": 1e-05, "desc": None}, "model": {"layers": 4, "sizes": [1, 2]}})
    [('config', 'lr', '1e-05'), ('config', 'model.layers', '4'), ('config', 'model.sizes', '[1, 2]')]
    """
    rows: list[tuple[str, str, str]] = []
    for key, wrapped in values.items():
        value, name = unwrapped(wrapped), f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            rows += flat_rows(section, value, f"{name}.")
        else:
            rows.append((section, printable(name), "null" if value is None else printable(config_text(value))))
    return rows
