"""A cache of what was parsed from sources, as Zarr: any array of it opens with plain xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dde.cache.maintenance import CacheEntry, cache_size, clear_cache, compact_cache

if TYPE_CHECKING:
    from dde.cache.ragged import RaggedCache as RaggedCache

__all__ = ["CacheEntry", "RaggedCache", "cache_size", "clear_cache", "compact_cache"]


def __getattr__(name: str) -> Any:
    # Zarr takes as long to import as an opening that does not need it.
    if name == "RaggedCache":
        from dde.cache.ragged import RaggedCache

        return RaggedCache
    raise AttributeError(f"module 'dde.cache' has no attribute {name!r}")
