"""Open a store of post-training runs: a database, an export, or an object with the methods of the protocol."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dde.errors import SourceError
from dde.sources.connection import Connection, redact
from dde.sources.protocols import History, PosttrainingSource, RunRecord
from dde.sources.wandb.export_files import find_export

__all__ = ["WandBStore"]


class WandBStore:
    """W&B runs, read only as far as requested.

    Parameters
    ----------
    db_connection : str, path, Connection or PosttrainingSource
        A PostgreSQL DSN (``postgresql://``, an SQLAlchemy URL, a libpq string), a folder of exported parquet
        or JSON-lines files, an fsspec URL of one, or any object with the methods of `PosttrainingSource`.
    schema : str, optional
        Schema of the tables in PostgreSQL; by default the one in the DSN, else those on the server's search path.

    Raises
    ------
    SourceError
        If `db_connection` is not a store that dde can read, or a schema is given for a store without schemas.
        A database is contacted only when data is requested.

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
        """Name of the store, without credentials."""
        return redact(self._source.description)

    @property
    def location(self) -> str:
        """Absolute path or URL of the store, without credentials."""
        return redact(getattr(self._source, "location", "") or self._source.description)

    @property
    def fingerprint(self) -> str:
        """Text that changes with the content of the store; "" where that is unknown without reading it."""
        return str(getattr(self._source, "fingerprint", ""))

    @property
    def conflicts(self) -> list[str]:
        """Sentences on contradictory entries of runs."""
        return list(getattr(self._source, "conflicts", ()))

    def runs(self, extra_config_keys: Iterable[str] = ()) -> list[RunRecord]:
        """Return a record of every run, ordered by run_id, in one pass over the store. Reads no metrics.

        Parameters
        ----------
        extra_config_keys : iterable of str
            Config keys to return in addition to ``CONFIG_KEYS``.
        """
        return self._source.runs(extra_config_keys)

    def history(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        """Return the logged rows of the runs with the given keys, in one pass over the store.

        Parameters
        ----------
        run_ids : sequence of str
            Runs; unknown ones have no rows.
        keys : sequence of str
            Keys of the training log; unknown ones are NaN. Without keys, only run and step.
        """
        return self._source.history(run_ids, keys)

    def evaluations(
        self, run_ids: Sequence[str], names: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        """Return final evaluations: a (run,) array per (task, entry), NaN where absent.

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

    def complete_run(self, run_id: str) -> Mapping[str, object] | None:
        """Return the complete row of a run by column, such as ``config``; reads the file of runs at worst to its end.

        Parameters
        ----------
        run_id : str

        Returns
        -------
        mapping of str to object, or None
            JSON objects or their text; None where there is no such run, or the source only gives chosen keys.

        Raises
        ------
        SourceError
            When the store is unreachable.
        """
        read = getattr(self._source, "complete_run", None)
        row: Mapping[str, object] | None = None if read is None else read(run_id)
        return row


def _source(db_connection: object, schema: str | None) -> PosttrainingSource:
    """Return the source of a store, URL or folder; SourceError for anything else."""
    if isinstance(db_connection, PosttrainingSource):
        if schema is not None:
            raise SourceError(
                f"The schema {schema!r} was given for a store that is already open ({redact(db_connection)}), so it "
                "would be ignored. Pass it where that store is created, or leave it out."
            )
        return db_connection._source if isinstance(db_connection, WandBStore) else db_connection
    if not isinstance(db_connection, (str, os.PathLike, Connection)):
        raise SourceError(
            f"An object of type {type(db_connection).__name__} is not a store of post-training runs. "
            "Methods of dde.sources.protocols.PosttrainingSource are missing, so runs can't be read from it. "
            "Give a postgresql:// URL, a folder of exported files, or an object with these methods."
        )
    if not isinstance(db_connection, Connection) or schema is not None:
        db_connection = Connection(_revealed(db_connection), schema)
    connection = db_connection
    # Import only the store that is used: importing the PostgreSQL driver takes as long as opening.
    if connection.kind == "postgres":
        from dde.sources.postgres.store import PostgresStore

        return PostgresStore(connection)
    if find_export(connection).form == "parquet":
        from dde.sources.wandb.parquet_export import ExportStore

        return ExportStore(connection)
    from dde.sources.wandb.jsonl_export import JsonlStore

    return JsonlStore(connection)


def _revealed(connection: str | os.PathLike[str] | Connection) -> str | os.PathLike[str]:
    return connection.reveal() if isinstance(connection, Connection) else connection
