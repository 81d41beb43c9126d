"""``dde ask``: answer a question of runs, as a table, a file or a picture."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
import xarray as xr

from dde.analysis.option_texts import parse_conditions, parse_place, parse_target
from dde.cli.options import (
    CacheDir,
    Data,
    Db,
    ExactText,
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
from dde.cli.output import busy, note, print_table, say
from dde.cli.writing import check_target, write_frame
from dde.errors import UnknownNameError

__all__ = ["app"]

_PICTURES = (".png", ".svg", ".pdf", ".html")
_SUFFIXES = (".csv", ".parquet", *_PICTURES)

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Answer a question of runs.")

Metrics = Annotated[
    list[str], typer.Option("--metric", metavar="METRIC", help="Metric, by its name or an alias. Repeatable.")
]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="PLACE",
        help="Where runs are compared: schedule, last, common, a number of tokens, or AXIS=POSITION such as "
        "fraction_of_training=0.5. By default the planned end where it is known, else the last observation.",
    ),
]
To = Annotated[
    Path | None,
    typer.Option("--to", metavar="FILE", help="Write a table (.csv, .parquet) or a picture (.png, .svg, .pdf, .html)."),
]

#: Question of a command: the Dataset of its runs, the metrics, the place, and the command's own options.
Question = Callable[..., xr.Dataset]


def _command(name: str) -> Callable[[Question], Question]:
    """Make a command of a question: add the arguments that select runs, and print or write its answer."""

    def register(question: Question) -> Question:
        hints = get_type_hints(question, include_extras=True)
        own = [p.replace(annotation=hints[p.name]) for p in list(inspect.signature(question).parameters.values())[3:]]

        @wraps(question)
        def command(**given: Any) -> None:
            options = {p.name: given[p.name] for p in own}
            _answer(question, given, options)

        common = inspect.signature(_common, eval_str=True).parameters
        last = ("to", "overwrite", "exact_text", "cache_dir", "no_cache")
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            *(p.replace(kind=keyword) for n, p in common.items() if n not in last),
            *(p.replace(kind=keyword) for p in own),
            *(common[n].replace(kind=keyword) for n in last),
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name)(command)
        return question

    return register


def _common(
    ctx: typer.Context,
    data: Data,
    metric: Metrics,
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
    at: At = None,
    to: To = None,
    overwrite: Overwrite = False,
    exact_text: ExactText = False,
    cache_dir: CacheDir = "data_cache",
    no_cache: NoCache = False,
) -> None:
    """Declare the arguments that all questions have."""


def _answer(question: Question, given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Open the selected runs, answer the question, and print or write the answer."""
    from dde.analysis.answers import answer_frame

    filters = selection(*(given[n] for n in ("params", "recipe", "seed", "method", "learning_rate", "state", "where")))
    to: Path | None = given["to"]
    if to is not None:
        check_target(to, _SUFFIXES, given["overwrite"])
    place = parse_place(given["at"])
    with busy("reading the registry of runs"):
        repository = repository_of_arguments(
            given["ctx"], given["data"], given["db"], given["cache_dir"], given["no_cache"], given["schema"],
            given["suite"], given["run_type"],
        )  # fmt: skip
        dataset = repository.to_dataset(metrics=[*given["metric"], *_other_metrics(options)], **filters)
    with busy("answering"):
        names = _named_metrics(dataset, given["metric"])
        answer = question(dataset, names[0] if len(names) == 1 else names, place, **options)
    if to is not None and to.suffix in _PICTURES:
        _write_picture(answer, to)
    elif to is not None:
        write_frame([answer_frame(answer)], to, given["exact_text"])
    else:
        frame = answer_frame(answer)
        dims = map(str, answer[next(iter(answer.data_vars))].dims)
        print_table(frame, [n for n in (*dims, *map(str, answer.data_vars)) if n in frame])
    if to is not None:
        say(f"wrote {to}")
    for name, label in (("at", "compared at"), ("interval_method", "interval"), ("left_out", "left out")):
        if text := str(answer.attrs.get(name, "")):
            note(f"{label}: {text}")


def _named_metrics(dataset: xr.Dataset, requested: Sequence[str]) -> list[str]:
    """Return the variables of the metrics of a question, which may be globs."""
    from dde.dataset.provenance import metric_named

    names: dict[str, None] = {}
    for text in requested:
        is_glob = any(sign in text for sign in "*?[")
        matched = [str(n) for n in dataset.data_vars if is_glob and fnmatchcase(str(n), text)]
        names |= dict.fromkeys(matched if is_glob else [metric_named(dataset, text)])
    return list(names)


def _other_metrics(options: Mapping[str, Any]) -> list[str]:
    """Return the metrics that options name besides those of the question."""
    return [options[name] for name in ("proxy", "loss") if options.get(name)]


def _write_picture(answer: xr.Dataset, path: Path) -> None:
    from dde.plots.files import backend_of, save

    save(answer.dde.plot(backend=backend_of(path)), path, title=str(answer.attrs["answer"]).replace("_", " "))


def _conditions(texts: Sequence[str] | None, option: str) -> dict[str, Any]:
    """Convert texts NAME=VALUE, where a repeated name collects its values."""
    try:
        return parse_conditions(texts or (), option)
    except UnknownNameError as error:
        raise typer.BadParameter(str(error)) from error


@_command("reach")
def _reach(
    dataset: xr.Dataset,
    metric: Any,
    at: Any,
    target: Annotated[
        list[str],
        typer.Option(
            metavar="TARGET",
            help="A number, a run label such as pretraining, or NAME=VALUE of the runs to reach, such as params=1B. "
            "Repeat for several numbers.",
        ),
    ],
    rule: Annotated[
        str, typer.Option(metavar="RULE", help="Which crossing counts: first, sustained or monotone.")
    ] = "first",
    direction: Annotated[
        str | None, typer.Option(metavar="WORD", help="higher or lower, where the metric does not state it.")
    ] = None,
) -> xr.Dataset:
    """Show the tokens and compute at which runs reach a target.

    \b
    Examples:
      dde ask reach data ./wandb_export --metric arc_easy --target 0.6
      dde ask reach data ./wandb_export --metric arc_easy --target pretraining --method supervised_ft
      dde ask reach data --metric hellaswag --target params=150M --rule sustained --to reached.png
    """
    answer: xr.Dataset = dataset.dde.reach(metric, _target(target), rule=rule, direction=direction, at=at)
    return answer


def _target(texts: Sequence[str]) -> Any:
    """Convert values of ``--target``: numbers, one label, or conditions."""
    try:
        return parse_target(texts, "--target")
    except UnknownNameError as error:
        raise typer.BadParameter(str(error)) from error


@_command("best")
def _best(
    dataset: xr.Dataset,
    metric: Any,
    at: Any,
    over: Annotated[str, typer.Option(metavar="FACTOR", help="Hyperparameter or factor to choose.")] = "learning_rate",
    direction: Annotated[
        str | None, typer.Option(metavar="WORD", help="higher or lower, where the metric does not state it.")
    ] = None,
) -> xr.Dataset:
    """Show the best value of a hyperparameter, its margin, and whether it is at the edge of the sweep.

    \b
    Examples:
      dde ask best data ./wandb_export --metric arc_easy --over learning_rate
      dde ask best data ./wandb_export --metric arc_easy --over learning_rate --params 150M --to best.png
    """
    answer: xr.Dataset = dataset.dde.best(metric, over, at=at, direction=direction)
    return answer


@_command("effect")
def _effect(
    dataset: xr.Dataset,
    metric: Any,
    at: Any,
    over: Annotated[
        list[str] | None, typer.Option(metavar="FACTOR", help="Average over it, such as seed. Repeatable.")
    ] = None,
    max_distance: Annotated[
        float, typer.Option(metavar="SHARE", min=0, help="Largest distance of the base's last evaluation.")
    ] = 0.05,
) -> xr.Dataset:
    """Show what post-training changed: gain over the base at the branch, per token and FLOP, and forgetting.

    \b
    Examples:
      dde ask effect data ./wandb_export --metric arc_easy --method supervised_ft
      dde ask effect data ./wandb_export --metric arc_easy --over seed --to effect.csv
    """
    answer: xr.Dataset = dataset.dde.effect(metric, at=at, over=over or None, max_distance=max_distance)
    return answer


@_command("fit")
def _fit(
    dataset: xr.Dataset,
    metric: Any,
    at: Any,
    law: Annotated[str, typer.Option(metavar="LAW", help="power, chinchilla, loss_to_accuracy or two_step.")] = "power",
    x: Annotated[str | None, typer.Option(metavar="QUANTITY", help="compute or tokens, for power.")] = None,
    loss: Annotated[str | None, typer.Option(metavar="METRIC", help="Loss that accuracy follows from.")] = None,
    by: Annotated[
        list[str] | None, typer.Option(metavar="FACTOR", help="One fit for each value, such as data. Repeatable.")
    ] = None,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Runs to predict, such as params=1B. Repeatable."),
    ] = None,
    derived: Annotated[bool, typer.Option("--derived", help="Fit all runs, not only the pretraining runs.")] = False,
) -> xr.Dataset:
    """Fit a scaling law, and show its coefficients with their intervals.

    \b
    Examples:
      dde ask fit data --metric pile_valppl --by data
      dde ask fit data --metric pile_valppl --law chinchilla --hold-out params=1B --to fit.png
    """
    runs = dataset if derived else dataset.dde.base_curves()
    answer: xr.Dataset = runs.dde.fit(
        metric, law=law, x=x, loss=loss, at=at, by=by or None, hold_out=_conditions(hold_out, "--hold-out") or None
    )
    return answer


@_command("decide")
def _decide(
    dataset: xr.Dataset,
    metric: Any,
    at: Any,
    target: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="Target scale, such as params=1B. Repeatable.")
    ],
    small: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Small scales; all smaller ones by default. Repeatable."),
    ] = None,
    over: Annotated[str, typer.Option(metavar="FACTOR", help="Factor that is decided.")] = "data",
    seeds: Annotated[str, typer.Option(metavar="HOW", help="mean, or each: every seed by itself.")] = "mean",
    checkpoints: Annotated[str, typer.Option(metavar="WHICH", help="last, or all checkpoints.")] = "last",
    proxy: Annotated[str | None, typer.Option(metavar="METRIC", help="Metric that orders at the small scales.")] = None,
    ties: Annotated[str, typer.Option(metavar="HOW", help="How ties count: sign, half or exclude.")] = "sign",
    derived: Annotated[bool, typer.Option("--derived", help="Compare derived runs, not the pretraining runs.")] = False,
) -> xr.Dataset:
    """Show how often small scales order recipes as the target scale does: decision accuracy.

    \b
    Examples:
      dde ask decide data --metric arc_easy --target params=1B
      dde ask decide data --metric arc_easy --metric piqa --target params=1B --seeds each --to accuracy.csv
      dde ask decide data --metric hellaswag --target params=1B --checkpoints all --to accuracy.png
    """
    from dde.analysis import decision_accuracy

    runs = dataset if derived else dataset.dde.base_curves()
    answer: xr.Dataset = decision_accuracy(
        runs, metric, over=over, target=_conditions(target, "--target"), small=_conditions(small, "--small") or None,
        checkpoints=checkpoints, proxy=proxy, at=at, seeds=seeds, ties=ties,
    )  # fmt: skip
    return answer
