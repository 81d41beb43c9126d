"""The application for one Dataset: a page for each browser session that opens it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import panel as pn
import xarray as xr

from dde.errors import DdeError

# Components of tabs are defined before a page is open: Panel sends the definition of a later one only to the page that
# needs it first, and other open pages could not show it.
from dde.explore import enter_key, run_page, table_tab  # noqa: F401
from dde.explore.address import SavedViews
from dde.explore.choices import Choices, Opened, check_dataset
from dde.explore.controls import Controls
from dde.explore.session import Session, served_document

__all__ = ["Explorer", "Source", "explore"]

#: Returns the Dataset as the stores have it now, and where its runs come from.
Source = Callable[[], tuple[xr.Dataset, Any]]


class Explorer(pn.viewable.Viewer):
    """The application for one Dataset; displays itself in a notebook, and ``.servable()`` serves it.

    Parameters
    ----------
    dataset : xarray.Dataset
    opened : Opened, optional
        How it was opened, for the code that opens it again.
    source : callable, optional
        Opens the Dataset again, so that new runs appear.
    repository : RunRepository, optional
        Where the runs come from, for what a Dataset does not have, such as their configs.
    views : path, optional
        JSON file in which views are saved under names.
    initial : mapping
        Initial values of choices.
    """

    def __init__(
        self,
        dataset: xr.Dataset,
        opened: Opened | None = None,
        *,
        source: Source | None = None,
        repository: Any = None,
        views: str | os.PathLike[str] | None = None,
        **initial: Any,
    ) -> None:
        check_dataset(dataset)
        pn.extension("tabulator")
        super().__init__()  # type: ignore[no-untyped-call]
        self._dataset, self._opened, self._initial = dataset, opened, initial
        self._source, self._repository = source, repository
        self._views = None if views is None else SavedViews(Path(views))
        self._pages: WeakKeyDictionary[Any, _Page] = WeakKeyDictionary()
        self._own = _Page(self)
        if (document := served_document()) is not None:
            self._pages[document] = self._own

    @property
    def session(self) -> Session:
        """The page of this process: in a notebook, the one that is displayed."""
        return self._own.session

    @property
    def controls(self) -> Controls:
        """The widgets of the page."""
        return self.session.controls

    @property
    def choices(self) -> Choices:
        """The current choices."""
        return self.session.choices

    @property
    def dataset(self) -> xr.Dataset:
        """The current selection; lazy."""
        return self.session.selected

    @property
    def code(self) -> str:
        """Code for the selection and its picture."""
        return self.session.code

    def __panel__(self) -> Any:
        """Return the layout; each browser session of a server has its own."""
        document = served_document()
        if document is None:
            return self._own.layout
        if document not in self._pages:
            self._pages[document] = _Page(self)
        return self._pages[document].layout

    def _make_session(self, refresh: Callable[[], None] | None, query: str) -> Session:
        return Session(
            self._dataset, self._opened, self._initial, self._repository, self._views, refresh, query
        )  # fmt: skip

    def _reopen(self) -> None:
        assert self._source is not None
        dataset, repository = self._source()
        check_dataset(dataset)
        self._dataset, self._repository = dataset, repository


class _Page:
    """A layout whose content is replaced when the stores are read again."""

    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer
        location = pn.state.location if served_document() is not None else None
        self.session = self._make((location.search or "") if location is not None else "")
        self.layout = pn.Column(self.session.layout, sizing_mode="stretch_width", margin=0)

    def _make(self, query: str) -> Session:
        refresh = self._refresh if self._explorer._source is not None else None
        return self._explorer._make_session(refresh, query)

    def _refresh(self) -> None:
        query = self.session.complete_query
        try:
            self._explorer._reopen()
        except DdeError as error:
            self.session.report(str(error))
            return
        self.session = self._make(query)
        self.layout[:] = [self.session.layout]


def explore(
    dataset: xr.Dataset,
    *,
    opened: Opened | None = None,
    views: str | os.PathLike[str] | None = None,
    **initial: Any,
) -> Explorer:
    """Return the application: curves, the table of runs, each run's page, and the questions of :mod:`dde.analysis`.

    Parameters
    ----------
    dataset : xarray.Dataset
        As returned by :func:`dde.open_lineages`, or a selection with all three dimensions. Metrics are read when
        chosen, for the chosen lineages and runs only.
    opened : Opened, optional
        How it was opened, for the code that opens it again.
    views : path, optional
        JSON file in which views are saved under names; without it, views are not saved.
    **initial
        Initial choices, one value or several: ``params``, ``data``, ``seed``, ``lineage``, ``method``,
        ``learning_rate``, ``budget``, ``run``, ``metrics``, ``x``, ``log_x``, ``grid``, ``points``, ``interp``,
        ``hue_by``, ``style_by``, ``facet_by``, ``band``, ``min_count``, ``smooth``, ``zoom``, ``log_y``,
        ``relative_to``, ``tuned``. In suites other than DataDecide, varying factors of lineages and runs replace
        ``params``, ``data``, ``seed``, ``method``, ``learning_rate`` and ``budget``.

    Returns
    -------
    Explorer
        Displays itself in a notebook. ``.servable()`` serves it, ``.dataset`` is the selection, ``.code`` its code.

    Raises
    ------
    SelectionError
        When the Dataset has no such dimension, or is empty.
    UnknownNameError
        When an initial choice does not exist.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy", "train_loss"])
    >>> page = ds.dde.explore(metrics="arc_easy", params="150M")
    >>> page.choices.metrics
    ('arc_easy',)
    """
    return Explorer(dataset, opened, views=views, **initial)
