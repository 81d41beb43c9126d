"""``dde plot``: draw curves to picture files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dde.cli.options import (
    CacheDir,
    Data,
    Db,
    LearningRates,
    Methods,
    NoCache,
    Overwrite,
    Params,
    Recipes,
    RunTypeTexts,
    Schema,
    Seeds,
    States,
    SuiteName,
    Where,
    repository_of_arguments,
    selection,
)
from dde.cli.output import busy, note, say
from dde.cli.writing import check_target
from dde.errors import DdeWarning

__all__ = ["plot"]

_SUFFIXES = (".png", ".svg", ".pdf", ".html")
# Longest name of a file that is named after its metrics.
_LONGEST = 60


def plot(
    ctx: typer.Context,
    data: Data,
    db: Db = None,
    schema: Schema = None,
    run_type: RunTypeTexts = None,
    suite: SuiteName = None,
    params: Params = None,
    recipe: Recipes = None,
    seed: Seeds = None,
    method: Methods = None,
    learning_rate: LearningRates = None,
    state: States = None,
    where: Where = None,
    y: Annotated[
        list[str] | None,
        typer.Option(
            "--y",
            metavar="METRIC",
            help="Metric with a column of panels: name, or glob such as 'mmlu_*'. Repeatable. By default the first.",
        ),
    ] = None,
    x: Annotated[
        str | None,
        typer.Option(
            "--x",
            metavar="AXIS",
            help="Horizontal axis: cumulative_tokens (the default), cumulative_compute, tokens_per_parameter, "
            "fraction_of_training or post_tokens.",
        ),
    ] = None,
    hue_by: Annotated[
        str, typer.Option(metavar="NAME", help="Coordinate that gives runs their colour; none for one colour.")
    ] = "auto",
    style_by: Annotated[
        str, typer.Option(metavar="NAME", help="Coordinate that gives observations their marker; none for one marker.")
    ] = "checkpoint_type",
    facet_by: Annotated[
        str, typer.Option(metavar="NAME", help="Coordinate with a panel for each value; none for a single panel.")
    ] = "lineage",
    group_by: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Draw the mean and range of all runs with the same value of a coordinate."),
    ] = None,
    band: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Draw means over it, such as seed, with their 95 % interval. Repeatable."),
    ] = None,
    min_count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Runs that a mean needs; all of them by default.")
    ] = None,
    relative_to: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="base: draw the change from the base at the branch; or the id of a run: draw the difference to it.",
        ),
    ] = None,
    smooth: Annotated[
        float | None, typer.Option(metavar="TOKENS", help="Smooth curves over this number of tokens, such as 2e9.")
    ] = None,
    clip_outliers: Annotated[bool, typer.Option("--clip-outliers", help="Limit y to values without outliers.")] = False,
    highlight: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="Run or lineage that stands out from the others. Repeatable."),
    ] = None,
    log_x: Annotated[bool, typer.Option("--log-x", help="Logarithmic horizontal axis.")] = False,
    log_y: Annotated[bool, typer.Option("--log-y", help="Logarithmic vertical axis.")] = False,
    zoom: Annotated[
        bool | None,
        typer.Option("--zoom/--no-zoom", help="Panels that enlarge the part after the branch. By default for few."),
    ] = None,
    branches: Annotated[
        bool, typer.Option("--branches/--no-branches", help="Mark the points at which runs branch off.")
    ] = True,
    columns: Annotated[int | None, typer.Option(metavar="N", min=1, help="Largest number of panels in a row.")] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Title of the picture.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT",
            help="Label of a metric, coordinate or value: learning_rate='peak LR', 5e-06='5e-6'. Repeatable.",
        ),
    ] = None,
    palette: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Palette of Matplotlib or Bokeh, such as viridis; or, repeated, colours, or VALUE=COLOUR for values.",
        ),
    ] = None,
    order: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VALUES",
            help="All values of the hue in order, separated by commas; or NAME=VALUES for a coordinate. Repeatable.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHxHEIGHT", help="Size of the picture: inches up to 40, such as 6.5x3, else pixels: 900x500."
        ),
    ] = None,
    font_size: Annotated[float | None, typer.Option(metavar="POINTS", help="Size of text; usually 8.5.")] = None,
    xlim: Annotated[
        str | None, typer.Option(metavar="LOW:HIGH", help="Limits of the horizontal axis; either may be missing.")
    ] = None,
    ylim: Annotated[
        str | None, typer.Option(metavar="LOW:HIGH", help="Limits of the vertical axis; either may be missing.")
    ] = None,
    legend: Annotated[str, typer.Option(metavar="PLACE", help="right, bottom, top or off.")] = "right",
    caption: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Caption, in place of what the picture shows.")
    ] = None,
    no_caption: Annotated[bool, typer.Option("--no-caption", help="Leave out the caption.")] = False,
    dpi: Annotated[float | None, typer.Option(metavar="N", min=1, help="Pixels per inch of a .png.")] = None,
    to: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Write the picture to a .png, .svg, .pdf or .html. Repeatable. By default to METRIC.png here.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    cache_dir: CacheDir = "data_cache",
    no_cache: NoCache = False,
) -> None:
    """Draw curves of lineages, pretraining and post-training joined, to files.

    A .pdf and .svg consist of vectors and text, and a .html is a page to explore that needs no network. The options are
    those of ds.dde.plot in Python.

    \b
    Examples:
      dde plot data ./wandb_export --y arc_easy --hue-by learning_rate --to fig.pdf
      dde plot data ./wandb_export --y arc_easy --y train_loss --params 150M --to sweep.html --to sweep.png
      dde plot data postgresql://localhost/wandb --y piqa --x post_tokens --relative-to base --size 6.5x3 --to gain.pdf
      dde plot data ./wandb_export --y arc_easy --band seed --facet-by data --palette Colorblind --legend bottom
    """
    by = {"hue_by": hue_by, "style_by": style_by, "facet_by": facet_by}
    options: dict[str, Any] = {
        **{name: None if coordinate == "none" else coordinate for name, coordinate in by.items()},
        "x": x, "band": band or None, "min_count": min_count, "relative_to": relative_to, "log_x": log_x,
        "log_y": log_y, "zoom": zoom, "mark_branches": branches, "columns": columns, "title": title,
        "labels": _texts(label, "--label"), "palette": _palette(palette), "order": _order(order), "size": _size(size),
        "font_size": font_size, "xlim": _limits(xlim, "--xlim"), "ylim": _limits(ylim, "--ylim"), "legend": legend,
        "caption": not no_caption if caption is None else caption,
    }  # fmt: skip
    given = {
        "group_by": group_by, "smooth": smooth, "clip_outliers": clip_outliers or None, "highlight": highlight or None
    }  # fmt: skip
    options |= {name: value for name, value in given.items() if value is not None}
    if caption is not None and no_caption:
        raise typer.BadParameter("--caption gives the text that --no-caption leaves out. Pass one of them.")
    opened: dict[str, Any] = selection(params, recipe, seed, method, learning_rate, state, where)
    opened |= {"metrics": list(y)} if y else {}
    for path in to or ():
        check_target(path, _SUFFIXES, overwrite)
    with busy("reading the registry of runs"):
        repository = repository_of_arguments(ctx, data, db, cache_dir, no_cache, schema, suite, run_type)
        dataset = repository.to_dataset(**opened)
    names = list(y) if y else [str(name) for name in dataset.data_vars][:1]
    paths = list(to or [Path(_file_name(names))])
    if not to:
        check_target(paths[0], _SUFFIXES, overwrite)
    with busy("drawing"):
        # Imported late, so that errors in options appear at once.
        from dde.plots.files import backend_of, save

        drawn: dict[str, Any] = {}
        for path in paths:
            backend = backend_of(path)
            if backend not in drawn:
                with warnings.catch_warnings():
                    if drawn:
                        # The picture of the other backend warned of the same.
                        warnings.simplefilter("ignore", DdeWarning)
                    drawn[backend] = dataset.dde.plot(names, backend=backend, **options)
            save(drawn[backend], path, dpi=dpi)
    for path in paths:
        say(f"wrote {path}")
    if dataset.attrs["left_out"]:
        note(f"left out: {dataset.attrs['left_out']} (dde coverage says which)")


def _file_name(metrics: Sequence[str]) -> str:
    """Return the name of a file for a picture of some metrics.

    Examples
    --------
    >>> _file_name(["arc_easy", "eval/loss"])
    'arc_easy_eval_loss.png'
    """
    name = re.sub(r"[^\w.-]+", "_", "_".join(metrics)).strip("_.")[:_LONGEST]
    return f"{name or 'picture'}.png"


def _size(text: str | None) -> tuple[float, float] | None:
    """Convert a value of ``--size``.

    Examples
    --------
    >>> _size("6.5x3")
    (6.5, 3.0)
    """
    if text is None:
        return None
    width, _, height = text.partition("x")
    try:
        return float(width), float(height)
    except ValueError:
        raise typer.BadParameter(
            f"--size {text!r} is not WIDTHxHEIGHT. Write it as in 6.5x3 (inches) or 900x500 (pixels)."
        ) from None


def _limits(text: str | None, option: str) -> tuple[float | None, float | None] | None:
    """Convert a value of ``--xlim`` or ``--ylim``.

    Examples
    --------
    >>> _limits("0.2:0.8", "--ylim"), _limits("1e9:", "--xlim")
    ((0.2, 0.8), (1000000000.0, None))
    """
    if text is None:
        return None
    low, colon, high = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return float(low) if low else None, float(high) if high else None
    except ValueError:
        raise typer.BadParameter(f"{option} {text!r} is not LOW:HIGH, such as 0.2:0.8, 0.2: or :0.8.") from None


def _texts(texts: Sequence[str] | None, option: str) -> dict[str, str] | None:
    """Convert texts NAME=TEXT; a name may have equals signs, as labels of runs do.

    Examples
    --------
    >>> _texts(["learning_rate=peak LR", "sft_lr=5e-06=low"], "--label")
    {'learning_rate': 'peak LR', 'sft_lr=5e-06': 'low'}
    """
    found = {}
    for text in texts or ():
        name, _, value = text.rpartition("=")
        if not name or not value:
            raise typer.BadParameter(f"{option} {text!r} is not NAME=TEXT, such as learning_rate='peak LR'.")
        found[name] = value
    return found or None


def _palette(texts: Sequence[str] | None) -> str | list[str] | dict[str, str] | None:
    """Convert values of ``--palette``: a name, colours, or colours of values.

    Examples
    --------
    >>> _palette(["viridis"]), _palette(["red", "#0072B2"]), _palette(["5e-06=red"])
    ('viridis', ['red', '#0072B2'], {'5e-06': 'red'})
    """
    if not texts:
        return None
    if any("=" in text for text in texts):
        return _texts(texts, "--palette")
    return texts[0] if len(texts) == 1 and not texts[0].startswith("#") else list(texts)


def _order(texts: Sequence[str] | None) -> list[str] | dict[str, list[str]] | None:
    """Convert values of ``--order``: values of the hue, or of coordinates by their names.

    Examples
    --------
    >>> _order(["C4,Dolma1.7"]), _order(["data=C4,Dolma1.7", "method=dpo,supervised_ft"])
    (['C4', 'Dolma1.7'], {'data': ['C4', 'Dolma1.7'], 'method': ['dpo', 'supervised_ft']})
    """
    if not texts:
        return None
    named = {name: values.split(",") for name, equals, values in (text.partition("=") for text in texts) if equals}
    if not named and len(texts) == 1:
        return texts[0].split(",")
    if len(named) < len(texts):
        raise typer.BadParameter(
            "--order: several orders need the names of their coordinates, as in method=dpo,supervised_ft."
        )
    return named
