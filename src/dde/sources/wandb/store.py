"""The store of post-training runs, whatever it is: a database, an export, or an object with the methods."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from dde.errors import SourceError
from dde.sources.connection import Connection, redact
from dde.sources.protocols import History, PosttrainingSource, RunRecord
from dde.sources.wandb.export_files import find_export

__all__ = ["WandBStore"]


class WandBStore:
    """W&B runs, read only as far as they are asked for.

    Parameters
    ----------
    db_connection : str, path, Connection or PosttrainingSource
        A PostgreSQL DSN (``postgresql://``, an SQLAlchemy URL, a libpq string), a folder of exported parquet
        or JSON-lines files, an fsspec URL of one, or any object with the methods of `PosttrainingSource`.
    schema : str, optional
        Schema of the tables in PostgreSQL; by default that which the DSN names, else what the server searches.

    Raises
    ------
    SourceError
        Where `db_connection` names no store that dde reads, or a schema is given for one that has none.
        A database is not asked before it must be.

    Examples
    --------
    >>> WandBStore("postgresql://ada:secret@localhost/wandb")
    WandBStore('postgresql://ada@localhost/wandb')
    """

    def __init__(
        self, db_connection: str | os.PathLike[str] | Connection | PosttrainingSource, *, schema: str | None = None
    ) -> None:
        self._source = _source(db_connection, schema)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.description!r})"

    @property
    def description(self) -> str:
        """What the store is, without credentials."""
        return redact(self._source.description)

    @property
    def location(self) -> str:
        """Where the store is, without credentials, also for a process with another working directory."""
        return redact(getattr(self._source, "location", "") or self._source.description)

    @property
    def fingerprint(self) -> str:
        """What the store says of all its content, changing with it; "" where it can't tell without being read."""
        return str(getattr(self._source, "fingerprint", ""))

    @property
    def conflicts(self) -> list[str]:
        """What is contradictory about the runs, as sentences."""
        return list(getattr(self._source, "conflicts", ()))

    def runs(self, extra_config_keys: Iterable[str] = ()) -> list[RunRecord]:
        """Return a record of every run, ordered by run_id. One pass over the store; no metrics.

        Parameters
        ----------
        extra_config_keys : iterable of str
            Keys of config to return beside ``CONFIG_KEYS``.
        """
        return self._source.runs(extra_config_keys)

    def history(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        """Return the logged rows of the runs, with those keys alone. One pass over the store.

        Parameters
        ----------
        run_ids : sequence of str
            Runs; unknown ones have no rows.
        keys : sequence of str
            Keys of the training log; unknown ones are NaN. With none, run and step alone.
        """
        return self._source.history(run_ids, keys)

    def evaluations(
        self, run_ids: Sequence[str], names: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        """Return final evaluations: per (task, entry), a (run,) array; NaN where absent.

        Parameters
        ----------
        run_ids : sequence of str
            Runs.
        names : sequence of (str, str)
            Task and entry of each evaluation; the entry ``primary_metric`` is the task's primary score.
        """
        return self._source.evaluations(run_ids, names)

    def metric_names(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return the keys of all histories and the (task, entry) of all evaluations."""
        return self._source.metric_names()


def _source(db_connection: object, schema: str | None) -> PosttrainingSource:
    if isinstance(db_connection, PosttrainingSource):
        if schema is not None:
            raise SourceError(
                f"The schema {schema!r} was given for a store that is open already ({redact(db_connection)}), so it "
                "would not count. Give it where that store is made, or leave it out."
            )
        return db_connection._source if isinstance(db_connection, WandBStore) else db_connection
    if not isinstance(db_connection, (str, os.PathLike, Connection)):
        raise SourceError(
            f"An object of type {type(db_connection).__name__} is no store of post-training runs. "
            "It lacks methods of dde.sources.protocols.PosttrainingSource, so it can't be asked for runs. "
            "Give a postgresql:// URL, a folder of exported files, or an object with these methods."
        )
    if not isinstance(db_connection, Connection) or schema is not None:
        db_connection = Connection(_revealed(db_connection), schema)
    connection = db_connection
    # Each kind of store is imported where it is meant: the driver of a database alone takes as long as opening.
    if connection.kind == "postgres":
        from dde.sources.postgres.store import PostgresStore

        return PostgresStore(connection)
    if find_export(connection).form == "parquet":
        from dde.sources.wandb.parquet_export import ExportStore

        return ExportStore(connection)
    from dde.sources.wandb.jsonl_export import JsonlStore

    return JsonlStore(connection)


def _revealed(place: str | os.PathLike[str] | Connection) -> str | os.PathLike[str]:
    return place.reveal() if isinstance(place, Connection) else place
