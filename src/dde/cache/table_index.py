"""Which rows tables hold, kept: opening them again reads neither their keys nor their footers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from dde.cache.places import Place
from dde.cache.whole_arrays import UNREADABLE, checked, write_array
from dde.names import Base, find_base_by_label
from dde.sources.datadecide import Catalog
from dde.sources.row_index import IndexHead, RowIndex

__all__ = ["TableIndexCache"]

#: Raised whenever what is stored, or how, changes its meaning.
_FORMAT = 1
_ROWS = ("base", "step", "task", "group_starts", "group_files")


@dataclass(frozen=True)
class TableIndexCache:
    """The row indexes of one folder of tables, by the fingerprint of its files.

    Parameters
    ----------
    folder : Place
        Holds one Zarr group: a catalog of checkpoints, and the index of each table.
    """

    folder: Place

    def _open(self, fingerprint: str) -> zarr.Group:
        place = self.folder / f"{fingerprint}.zarr"
        with place.scrubbed():
            return zarr.open_group(place.store(), mode="r")

    def load_catalog(self, fingerprint: str) -> tuple[Catalog, list[IndexHead]] | None:
        """Return the catalog and what is known of each table without its rows; None where nothing whole is kept."""
        try:
            group = self._open(fingerprint)
            told: Any = group.attrs.asdict()
            if told.get("dde_index_format") != _FORMAT:
                return None
            catalog = Catalog(_bases(told["bases"]), checked(group["catalog/base"]), checked(group["catalog/step"]))
            heads = [
                IndexHead(_bases(table["bases"]), tuple(table["tasks"]), {k: int(n) for k, n in table["left_out"]})
                for table in told["tables"]
            ]
        except UNREADABLE:
            return None
        return catalog, heads

    def load_rows(self, fingerprint: str, table: int) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays of a table's index, by name; None where they are not whole."""
        try:
            group = self._open(fingerprint)
            return {name: checked(group[f"table_{table}/{name}"]) for name in _ROWS}
        except UNREADABLE:
            return None

    def save(self, fingerprint: str, catalog: Catalog, indexes: list[RowIndex]) -> None:
        """Keep the indexes of all tables; raises OSError where they can't be written."""
        told = {
            "dde_index_format": _FORMAT,
            "title": "rows of pretraining tables",
            "bases": [b.label for b in catalog.bases],
            "tables": [
                {
                    "bases": [b.label for b in index.bases],
                    "tasks": list(index.tasks),
                    "left_out": [[reason, count] for reason, count in index.left_out.items()],
                }
                for index in indexes
            ],
        }
        name = f"{fingerprint}.zarr"
        try:
            with self.folder.making(name) as made:
                store = made.store(read_only=False)
                write_array(store, "catalog/base", catalog.base, ("checkpoint",), {})
                write_array(store, "catalog/step", catalog.step, ("checkpoint",), {})
                for k, index in enumerate(indexes):
                    for array in _ROWS:
                        values = np.asarray(getattr(index, array))
                        write_array(store, f"table_{k}/{array}", values, (_DIMS.get(array, "row"),), {})
                # Last: in an object store this is what makes it whole.
                zarr.open_group(store, mode="a", zarr_format=3).update_attributes(told)
        except OSError:
            # Another process has kept the same, or what is there is damaged and gets out of the way in time.
            if name not in self.folder.names():
                raise
            (self.folder / name).remove_if_old()
        for entry in self.folder.names():
            if entry != name:
                (self.folder / entry).remove_if_old()


_DIMS = {"group_starts": "row_group_bound", "group_files": "row_group"}


def _bases(labels: list[str]) -> tuple[Base, ...]:
    found = tuple(b for b in map(find_base_by_label, labels) if b is not None)
    if len(found) != len(labels):
        # Written when the suite had other names.
        raise KeyError("base")
    return found
