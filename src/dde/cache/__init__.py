"""What was parsed from a source, kept as Zarr: any array of it opens with plain xarray."""

from dde.cache.maintenance import CacheEntry, cache_size, clear_cache
from dde.cache.ragged import RaggedCache

__all__ = ["CacheEntry", "RaggedCache", "cache_size", "clear_cache"]
