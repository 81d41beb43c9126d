"""xarray's way in: ``xr.open_dataset(..., engine="dde")``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, ClassVar

import xarray as xr
from xarray.backends import BackendEntrypoint

from dde.opening import Store, Tables, open_repository, repository_of
from dde.repository import RunRepository
from dde.sources.connection import redact

__all__ = ["DdeBackendEntrypoint"]


class DdeBackendEntrypoint(BackendEntrypoint):
    """Opens lineages of two stores; options as for :func:`dde.open_lineages`."""

    description: ClassVar[str] = "Lineages of pretraining and post-training runs"
    open_dataset_parameters: ClassVar[tuple[str, ...]] = ("filename_or_obj", "drop_variables", "db")
    url: ClassVar[str] = ""

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: Tables,
        *,
        drop_variables: str | Iterable[str] | None = None,
        db: Store = None,
        **options: Any,
    ) -> xr.Dataset:
        """Return the lazy Dataset; `filename_or_obj` and `db` are the two stores."""
        repository = repository_of(filename_or_obj, db, options)
        dataset = open_repository(repository, **options)
        if drop_variables is not None:
            names = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables)
            dataset = dataset.drop_vars(names, errors="ignore")
        # xarray records its first argument here unless something stands there already.
        dataset.encoding["source"] = (
            redact(os.fspath(filename_or_obj))
            if isinstance(filename_or_obj, (str, os.PathLike))
            else _described(repository)
        )
        return dataset

    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Return False: a folder of tables looks like many other things."""
        return False


def _described(repository: RunRepository) -> str:
    if repository.suite_runs is not None:
        return repository.suite_runs.tables.description
    sources = (repository.pretraining_source, repository.posttraining_source)
    return " + ".join(s.description for s in sources if s is not None)
