"""Runs in other processes: what is sent is where the sources are and how runs lie, not what the sources hold."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from weakref import WeakValueDictionary

from dde.cache.storage import source_storage
from dde.errors import SourceError
from dde.sources.connection import Connection
from dde.sources.protocols import PosttrainingSource
from dde.sources.wandb.store import WandBStore
from dde.suite.datadecide.runs.derived_columns import DerivedColumns
from dde.suite.datadecide.runs.readers import Readers
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.run_index import is_versions_digest
from dde.suite.datadecide.runs.worker_runs import SentRuns, sent_columns
from dde.suite.datadecide.tables.pretraining_tables import DataDecide
from dde.suite.datadecide.tables.table_index import FileKindsCache

__all__ = ["Origin", "origin_of", "resolve_runs"]


@dataclass(frozen=True, eq=False)
class Origin:
    """Description of a registry that is sent to another process, without credentials and values.

    Attributes
    ----------
    key : str
        Digest of the sources and of the options of opening; equal for equal content.
    columns : DerivedColumns
        Positions of the runs, which are needed to read values.
    opened : str
        Fingerprint of the store when its runs were read; "" for a store without fingerprints.
    tables : (str, str, str) or None
        Location, layout and handling of malformed rows.
    tables_fingerprint, store_fingerprint : str
        Fingerprints of the sources, which must be the same in the other process.
    store : PosttrainingSource or None
        The store, without an open connection.
    cache_dir : str
        Folder or URL of the cache.
    """

    key: str
    columns: DerivedColumns
    opened: str
    tables: tuple[str, str, str] | None
    tables_fingerprint: str
    store: PosttrainingSource | None
    store_fingerprint: str
    cache_dir: str


def origin_of(registry: Registry) -> Origin | None:
    """Return how a registry can be opened again; None where another process could not, or not without effort.

    That takes sources that dde opened itself, a cache in which all that opening reads is kept, and no secrets in URLs.
    """
    known = _ORIGINS.get(id(registry))
    if known is not None and _LIVE.get(known.key) is registry:
        return known
    tables, store = registry.tables, registry.store
    if registry.cache_dir is None or (tables is not None and type(tables) is not DataDecide):
        return None
    if store is not None and (type(store) is not WandBStore or not registry.store_fingerprint):
        return None
    if tables is not None and tables.has_secret:
        return None
    place = None if tables is None else (tables.location, tables.layout, tables.on_error)
    tables_fingerprint = "" if tables is None else tables.fingerprint
    if isinstance(registry.cache_dir, Connection):
        return None
    cache_dir = os.fspath(registry.cache_dir)
    if "://" not in cache_dir:
        cache_dir = os.path.abspath(cache_dir)
    facts = (
        place,
        tables_fingerprint,
        "" if store is None else store.description,
        registry.store_fingerprint,
        sorted(registry.parents.items()),
        registry.tokens_per_sequence,
        sorted(registry.extra_config_keys),
        cache_dir,
        registry.all_options,
        list(registry.run_types.items()),
    )
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
    _LIVE[key] = registry
    origin = Origin(
        key,
        sent_columns(registry.columns),
        registry.readers.opened_fingerprint,
        place,
        tables_fingerprint,
        store,
        registry.store_fingerprint,
        cache_dir,
    )
    _ORIGINS[id(registry)] = origin
    weakref.finalize(registry, _ORIGINS.pop, id(registry), None)
    return origin


def resolve_runs(origin: Origin) -> Registry | SentRuns:
    """Return the runs as values are made of them: the registry that is open in this process, else their positions.

    A database is not asked whether it changed: values are kept by the versions of runs that were sent.

    Raises
    ------
    SourceError
        When files are gone, or are not what they were when the Dataset was opened.
    """
    with _LOCK:
        registry = _LIVE.get(origin.key)
        if registry is not None:
            return registry
        sent = _SENT.get(origin.key)
        if sent is None:
            sent = SentRuns(origin.columns, Readers(*_sources(origin), origin.cache_dir, origin.opened))
        _keep(_SENT, origin.key, sent)
        return sent


def _keep(latest: OrderedDict[str, SentRuns], key: str, runs: SentRuns) -> None:
    """Add runs to a cache of the latest ones, and evict the least recently used."""
    latest[key] = runs
    latest.move_to_end(key)
    while len(latest) > _KEPT:
        latest.popitem(last=False)


def _sources(origin: Origin) -> tuple[DataDecide | None, PosttrainingSource | None]:
    tables = None
    if origin.tables is not None:
        location, layout, on_error = origin.tables
        folder = source_storage(origin.cache_dir, "index", location)
        kept = None if folder is None else FileKindsCache(folder)
        tables = DataDecide(location, layout, on_error, kept)  # type: ignore[arg-type]
        _check("tables", tables.description, tables.fingerprint, origin.tables_fingerprint)
    # Of a store that tells it of each run alone, only whoever reads the runs can know.
    if origin.store is not None and not is_versions_digest(origin.store_fingerprint):
        now = getattr(origin.store, "fingerprint", "")
        _check("store", origin.store.description, now, origin.store_fingerprint)
    return tables, origin.store


def _check(what: str, place: str, now: str, then: str) -> None:
    if now != then:
        raise SourceError(
            f"the {what} {place!r} changed since the Dataset was opened that this process was sent a part of, so its "
            "values would be others than those it was opened with. Open the Dataset again and send that."
        )


# Registries that are open in this process, by key.
_LIVE: WeakValueDictionary[str, Registry] = WeakValueDictionary()
# Runs that were sent, by key; and what was sent of the registries that are open here.
_SENT: OrderedDict[str, SentRuns] = OrderedDict()
_ORIGINS: dict[int, Origin] = {}
_KEPT = 8
_LOCK = threading.RLock()
