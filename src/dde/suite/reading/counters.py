"""Steps and tokens of rows, and numbers of runs, from a declaration: column, rule, tokens per step, or lookup."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dde.array_types import Float64, Int64
from dde.errors import FormatError, UnknownNameError, near_names
from dde.sources.arrow_columns import WholeNumbers
from dde.suite.patterns import field_text
from dde.suite.reading.fields import Field
from dde.suite.reading.row_values import RowValues, whole_numbers_of_rule
from dde.suite.rules import Rule

__all__ = ["count_rows", "factor_of_lookup", "look_up_numbers", "names_of_rule", "numbers_of_rows", "tokens_at_steps"]


_MAX_INT64 = 2**63 - 1


def count_rows(declared: Any, rows: RowValues, step: Int64, what: str) -> WholeNumbers:
    """Return the tokens at each row.

    Parameters
    ----------
    declared : str, number, callable or mapping
        A column, a rule, or ``{"per_step": n}``, ``{"per_step": [[step, n], ...]}``, ``{"per_step": {factor: {value:
        n}}}``.
    rows : RowValues
    step : (row,) int64 array
        Steps of the rows.
    what : str
        Name of the declaration in errors.

    Raises
    ------
    FormatError
        When a rule gives a number that is not whole, is below 0 or above 2**53, or the declaration has another form.
    UnknownNameError
        When a name is unknown, or a value of the factor has no entry.
    """
    if not isinstance(declared, Mapping):
        return numbers_of_rows(declared, rows, what)
    if set(declared) != {"per_step"}:
        raise UnknownNameError(
            f"{what} has the keys {', '.join(map(repr, declared)) or 'none'}, which do not say how to count tokens. "
            "Name a column, a rule, or {'per_step': ...}."
        )
    per_step = declared["per_step"]
    if not isinstance(per_step, Mapping):
        return WholeNumbers(tokens_at_steps(per_step, step, what), {})
    factor = factor_of_lookup(per_step, what)
    field = rows.field(factor)
    entries = _entries(per_step[factor], field, f"{what}.per_step[{factor!r}]")
    tokens = np.full(len(step), -1, np.int64)
    for code, value in enumerate([*field.values, ""]):
        of_value = np.flatnonzero(field.codes == (code if code < len(field.values) else -1))
        if not len(of_value):
            continue
        if code not in entries:
            known = [field_text(key) for key in per_step[factor]]
            raise UnknownNameError(
                f"{what}: {factor}={value!r} has no tokens per step, as in {rows.describe_row(int(of_value[0]))}, "
                f"so {len(of_value)} rows have no tokens.{near_names(value, known)} "
                f"Add an entry to per_step[{factor!r}], which has {', '.join(map(repr, known))}."
            )
        tokens[of_value] = tokens_at_steps(entries[code], step[of_value], what)
    return WholeNumbers(tokens, {})


def numbers_of_rows(declared: Any, rows: RowValues, what: str) -> WholeNumbers:
    """Return the whole numbers of a column or rule at each row.

    Parameters
    ----------
    declared : str, number or callable
    rows : RowValues
    what : str
        Name of the declaration in errors.

    Raises
    ------
    FormatError
        When a file has no such column, or a rule gives a number that is not whole, is below 0 or above 2**53.
    UnknownNameError
        When a name is unknown.
    """
    rows.require_all(names_of_rule(declared), what)
    if isinstance(declared, str) and declared in rows:
        return rows.whole_numbers(declared)
    return whole_numbers_of_rule(rows.evaluate(declared, what), rows.n_rows, str(declared), rows)


def tokens_at_steps(per_step: Any, step: Int64, what: str) -> Int64:
    """Return the tokens after each step, from constant or piecewise constant tokens per step.

    Parameters
    ----------
    per_step : int or sequence of (step, int)
        Tokens per step; or pairs of a first step and the tokens per step from there on.
    step : (row,) int64 array
    what : str
        Name of the declaration in errors.

    Raises
    ------
    FormatError
        When a number is not whole or is below 0, pieces are out of order, or the tokens exceed int64.

    Examples
    --------
    >>> tokens_at_steps([[0, 4], [20, 8]], np.array([10, 20, 25]), "tokens").tolist()
    [40, 80, 120]
    """
    pieces = per_step if isinstance(per_step, Sequence) and not isinstance(per_step, str) else [[0, per_step]]
    starts: list[int] = []
    rates: list[int] = []
    for piece in pieces:
        if not isinstance(piece, Sequence) or isinstance(piece, str) or len(piece) != 2:
            raise FormatError(f"{what}: {piece!r} is not a piece of tokens per step. Write [step, tokens per step].")
        start, rate = (_whole(number, what) for number in piece)
        starts.append(start)
        rates.append(rate)
    if not starts or starts[0] != 0 or any(a >= b for a, b in itertools.pairwise(starts)):
        raise FormatError(
            f"{what}: the pieces of tokens per step begin at {', '.join(map(str, starts)) or 'nothing'}, so some steps "
            "have no tokens or several. Begin with step 0, and list later steps in ascending order."
        )
    if len(step):
        last, at_start = int(step.max()), [0]
        for start, end, rate in zip(starts, starts[1:], rates, strict=False):
            at_start.append(at_start[-1] + (end - start) * rate)
        if max(*at_start, at_start[-1] + max(last - starts[-1], 0) * rates[-1], 0) > _MAX_INT64:
            raise FormatError(
                f"{what}: step {last:,} is at more tokens than int64 holds, so its token position is unknown. "
                "Correct the tokens per step, or the column of the step."
            )
        number = np.searchsorted(np.array(starts, np.int64), step, side="right") - 1
        begun, rate_of = np.array(at_start, np.int64)[number], np.array(rates, np.int64)[number]
        return np.asarray(begun + (step - np.array(starts, np.int64)[number]) * rate_of, np.int64)
    return np.empty(0, np.int64)


def factor_of_lookup(declared: Mapping[str, Any], what: str) -> str:
    """Return the factor whose values a lookup ``{factor: {value: n}}`` lists."""
    if len(declared) != 1 or not isinstance(next(iter(declared.values())), Mapping):
        raise FormatError(
            f"{what}: {dict(declared)!r} is not a lookup by one factor, so its numbers can't be assigned. "
            "Write {factor: {value: number, ...}}."
        )
    return str(next(iter(declared)))


def look_up_numbers(declared: Mapping[str, Any], field: Field, what: str) -> tuple[Float64, list[str]]:
    """Return the number for each row or run, NaN where the lookup has no entry, and the values without an entry.

    Raises
    ------
    FormatError
        When an entry is not a number.
    """
    entries = _entries(declared, field, what)
    numbers = np.full(len(field.values) + 1, np.nan)
    for code, number in entries.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise FormatError(f"{what}: {number!r} is not a number. Give a number for each value of the factor.")
        numbers[code] = number
    missing = [field_text(value) for code, value in enumerate(field.values) if code not in entries]
    return numbers[field.codes], missing


def names_of_rule(declared: Any) -> frozenset[str]:
    """Return the names that a declared counter or number may read, including the text itself as a column name."""
    if isinstance(declared, Mapping):
        per_step = declared.get("per_step", declared)
        return frozenset(map(str, per_step)) if isinstance(per_step, Mapping) else frozenset()
    if not isinstance(declared, str):
        return frozenset()
    return frozenset((declared, declared.strip(), *Rule(declared).names))


def _entries(declared: Mapping[Any, Any], field: Field, what: str) -> dict[int, Any]:
    """Return the entry of a lookup for each code of a field; ``len(field.values)`` is the code of no value."""
    by_text: dict[str, Any] = {}
    for key, entry in declared.items():
        if field_text(key) in by_text:
            raise FormatError(f"{what} has two entries for {field_text(key)!r}. Remove one.")
        by_text[field_text(key)] = entry
    texts = [*(field_text(value) for value in field.values), ""]
    codes = [*range(len(field.values)), len(field.values)]
    return {code: by_text[text] for code, text in zip(codes, texts, strict=True) if text in by_text}


def _whole(number: Any, what: str) -> int:
    is_number = isinstance(number, (int, float, np.integer, np.floating)) and not isinstance(number, bool)
    if not is_number or number != number or number < 0 or number > _MAX_INT64 or int(number) != number:
        raise FormatError(
            f"{what}: {number!r} is not a whole number of at least 0, so the tokens of a step are unknown. "
            "Write steps and tokens as whole numbers."
        )
    return int(number)
