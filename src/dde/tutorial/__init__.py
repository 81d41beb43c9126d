"""Generate seeded tutorial data in the real raw formats, including their irregularities, together with its truth.

For demonstrations without a network, and for tests, also of users: every reader of the real tables can be tested on
a suite whose true content is known.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dde.atomic_files import removed_if_ended
from dde.errors import DdeError
from dde.tutorial.base_values import checkpoints_in_tables, stops_early
from dde.tutorial.posttraining_plan import plan_posttraining
from dde.tutorial.pretraining_tables import (
    ROW_GROUP_ROWS,
    write_evaluation_tables,
    write_parsed_tables,
    write_perplexity_table,
)
from dde.tutorial.suite import PRESETS, Suite, SuiteSpec, suite_spec
from dde.tutorial.wandb_runs import truth_of_runs, write_wandb_export

if TYPE_CHECKING:
    import xarray as xr

    from dde.entities.repository import RunRepository

__all__ = ["PRESETS", "Suite", "SuiteSpec", "make_suite", "open_lineages", "open_repository", "suite_spec"]

#: Incremented whenever the same seed gives other values than before, so that suites generated earlier are not used.
GENERATION = 1


def make_suite(
    path: str | os.PathLike[str],
    size: str | SuiteSpec = "small",
    *,
    seed: int = 0,
    formats: Sequence[str] = ("raw",),
    progress: Callable[[str, int, int], None] | None = None,
    workers: int = 1,
    row_group_rows: int = ROW_GROUP_ROWS,
) -> Suite:
    """Write a suite of pretraining tables and post-training runs, and return its paths and its truth.

    Parameters
    ----------
    path : path-like
        Folder to write to; created if it does not exist.
    size : str or SuiteSpec
        ``"tiny"`` (a few runs, under a second), ``"small"`` (for demonstrations), ``"full"`` (the complete
        suite: 1,410,750 raw rows and 341 post-training runs), ``"scale:<K>"``, or a `SuiteSpec`.
    seed : int
        The same seed gives the same values. The values of a run do not depend on the other runs in the suite.
    formats : sequence of {"raw", "parsed"}
        ``"raw"`` writes the tables of the two Hub repositories, ``"parsed"`` the wide table that `datadec`
        writes. A folder should have one of them, as real ones do.
    progress : callable, optional
        Called with the name of the step, the amount done and the total amount.
    workers : int
        Number of processes for the raw evaluations. With more than one, a script needs the usual
        ``if __name__ == "__main__":`` guard.
    row_group_rows : int
        Rows in a row group of the raw evaluations.

    Returns
    -------
    Suite
        Paths for ``dde.open_lineages(suite.data, suite.wandb)``, and two frames with the truth, which are also
        written to ``<path>/truth``.

    Raises
    ------
    UnknownNameError
        If there is no such size.
    DdeError
        If a format is unknown.

    Examples
    --------
    >>> import tempfile
    >>> suite = make_suite(tempfile.mkdtemp(), "tiny")
    >>> suite.runs["run_type"].value_counts()["dpo"]
    np.int64(2)
    """
    spec = suite_spec(size)
    unknown = set(formats) - {"raw", "parsed"}
    if unknown:
        raise DdeError(
            f"{', '.join(map(repr, sorted(unknown)))} is not a format of the pretraining tables, so nothing was "
            "generated. Formats are 'raw' and 'parsed'."
        )
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    bases = spec.bases()
    if "raw" in formats:
        write_evaluation_tables(
            folder,
            seed,
            bases,
            shards=spec.shards,
            workers=workers,
            row_group_rows=row_group_rows,
            progress=progress,
        )
        write_perplexity_table(folder, seed, bases)
    if "parsed" in formats:
        write_parsed_tables(folder, seed, bases)
    plans = plan_posttraining(spec, seed)
    write_wandb_export(folder, seed, plans, progress=progress)
    suite = Suite(
        path=folder,
        data=str(folder / "datadecide"),
        wandb=str(folder / "wandb"),
        bases=_truth_of_bases(seed, spec),
        runs=truth_of_runs(seed, plans),
    )
    truth = folder / "truth"
    truth.mkdir(exist_ok=True)
    suite.bases.to_parquet(truth / "bases.parquet", index=False)
    suite.runs.to_parquet(truth / "runs.parquet", index=False)
    return suite


def _truth_of_bases(seed: int, spec: SuiteSpec) -> pd.DataFrame:
    rows = []
    for base in spec.bases():
        checkpoints = checkpoints_in_tables(seed, base)
        last = max(int(checkpoints.evaluated[-1]), int(checkpoints.perplexity.max()))
        quirks = (*checkpoints.quirks, *(["stopped_early"] if stops_early(base) else []))
        rows.append(
            {
                "lineage": base.label,
                "params": base.size.name,
                "data": base.recipe.name,
                "seed": base.seed.index,
                "evaluated_checkpoints": len(checkpoints.evaluated),
                "perplexity_rows": len(checkpoints.perplexity),
                "last_step": last,
                "last_tokens": base.size.tokens_at(last),
                "overruns": base.size.overruns(last),
                "quirks": ",".join(quirks),
            }
        )
    return pd.DataFrame(rows)


def open_lineages(
    size: str | SuiteSpec = "small",
    *,
    suite_seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = "data_cache",
    **kwargs: Any,
) -> xr.Dataset:
    """Open the lineages of the tutorial suite as a Dataset; the suite is generated first if necessary.

    Parameters
    ----------
    size : str or SuiteSpec
        See `make_suite`.
    suite_seed : int
        `seed` of `make_suite`, from which the values of the suite are drawn.
    cache_dir : path-like or None
        Folder that stores the suite, under ``tutorial/``, and the cache of its parsed tables. None stores the suite
        in the system's temporary folder, without a cache.
    **kwargs
        For ``dde.open_lineages``: filters (including ``seed=``), metrics, grid and so on.

    Returns
    -------
    xarray.Dataset
        The result of ``dde.open_lineages``.
    """
    # Imported here, so that generating test data does not depend on the readers.
    from dde.opening import open_lineages as open_stores

    target = _stored_suite(size, suite_seed, cache_dir)
    return open_stores(str(target / "datadecide"), str(target / "wandb"), cache_dir=cache_dir, **kwargs)


def open_repository(
    size: str | SuiteSpec = "small",
    *,
    suite_seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = "data_cache",
    **kwargs: Any,
) -> RunRepository:
    """Open the runs of the tutorial suite as a repository of entities; parameters as in :func:`open_lineages`.

    Returns
    -------
    RunRepository
        The repository of ``dde.DataDecideEvolved(...)``.
    """
    from dde.entities.repository import DataDecideEvolved

    target = _stored_suite(size, suite_seed, cache_dir)
    suite = DataDecideEvolved(str(target / "datadecide"), str(target / "wandb"), cache_dir=cache_dir, **kwargs)
    return suite.repository


def _stored_suite(size: str | SuiteSpec, seed: int, cache_dir: str | os.PathLike[str] | None) -> Path:
    """Return the folder of a stored suite, which is generated first if necessary."""
    spec = suite_spec(size)
    root = _own_temporary_folder() if cache_dir is None else Path(cache_dir)
    key = hashlib.sha256(f"{GENERATION}|{seed}|{spec!r}".encode()).hexdigest()[:12]
    target = root / "tutorial" / f"{spec.name.replace(':', '-')}-{seed}-{key}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when complete, so that readers and concurrent writers never see part of the suite.
        fresh = target.with_name(f".making-{os.getpid()}-{secrets.token_hex(4)}")
        with removed_if_ended(fresh):
            try:
                make_suite(fresh, spec, seed=seed)
                try:
                    fresh.rename(target)
                except OSError:
                    if not target.exists():
                        raise
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    return target


def _own_temporary_folder() -> Path:
    """Return a private folder of this user; other users can also write to the system's temporary folder."""
    root = Path(tempfile.gettempdir())
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = root / f"dde-{user}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != user):
        raise DdeError(
            f"{str(folder)!r} belongs to another user or is not a folder, so no suite was stored in it. Remove it, or "
            "pass a folder as cache_dir=."
        )
    return folder
