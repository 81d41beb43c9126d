"""Register ``ds.dde`` with xarray: at once if xarray is imported already, else when it is imported.

Importing xarray takes half a second, which ``dde --help`` and ``dde.__version__`` should not take. A Dataset exists
only after xarray is imported, so ``ds.dde`` is available whichever of the two packages is imported first.
"""

from __future__ import annotations

import importlib
import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["register_accessors_with_xarray"]


def register_accessors_with_xarray() -> None:
    """Make ``dde`` an accessor of Datasets and DataArrays, now or when xarray is imported."""
    if "xarray" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _XarrayFinder())


def _register() -> None:
    # Its classes register themselves. It may be the module that imports xarray first, and registers them at its end.
    importlib.import_module("dde.accessor")


class _XarrayFinder(importlib.abc.MetaPathFinder):
    """Find xarray with the other finders, and give it a loader that registers the accessors after the import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "xarray":
            return None
        for finder in sys.meta_path:
            if not isinstance(finder, _XarrayFinder) and (spec := finder.find_spec(fullname, path, target)):
                if spec.loader is not None:
                    spec.loader = _XarrayLoader(spec.loader, self)
                return spec
        return None


class _XarrayLoader(importlib.abc.Loader):
    """Load a module with another loader, then register the accessors."""

    def __init__(self, loader: importlib.abc.Loader, finder: _XarrayFinder) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        # Tools that inspect a package without importing it ask its loader for sources or resources.
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Restored, so that the module looks as if it had been imported without this loader.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        # After the import: when it fails, the next attempt needs the finder again.
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
            _register()
