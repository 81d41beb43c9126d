"""Rules: arithmetic over the names of columns and factors, parsed and interpreted, never run as code.

A rule may contain numbers, texts in quotes, names, ``+ - * / // % **``, comparisons, ``and``, ``or``, ``not``,
parentheses and the functions of `FUNCTIONS`. If the complete rule is the name of a column, it means that column,
whatever characters the name contains (``throughput/total_tokens``, ``Tokens Seen``); within a rule such a name is
written in backquotes.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dde.errors import FormatError, UnknownNameError, list_names, near_names

__all__ = ["FUNCTIONS", "Rule", "RuleSource"]

RuleSource = str | int | float | Callable[[Mapping[str, npt.NDArray[Any]]], Any]
Values = npt.NDArray[Any] | np.generic | str | float

#: Functions that a rule may call.
FUNCTIONS = ("abs", "floor", "log10", "max", "min", "round")

#: Largest range in which every whole number is a float64.
MOST_EXACT = 2**53
_MOST_CHARACTERS, _MOST_DEPTH = 1000, 50
# Added to errors on default columns, whose names the user may never have written.
_DEFAULT_COLUMNS = {
    "tokens": " By default, tokens are the column 'tokens'; declare tokens= as a column, a rule, or {'per_step': n}.",
    "step": " By default, steps are the column 'step'; declare step= as a column or rule.",
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}
_QUOTED = re.compile(r"`([^`]+)`|('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")


class Rule:
    """A number, a column, arithmetic over columns, or a function of the columns.

    Parameters
    ----------
    source : str, int, float or callable
        The rule. A callable takes a mapping of names to arrays and returns an array.
    columns : collection of str, optional
        Names that the rule may use. If given, a rule with other names raises at once; if not, `bind` checks the names
        later.
    what : str
        Name of the rule in errors (``"tables[1].tokens"``).

    Raises
    ------
    FormatError
        When the rule does not parse, or contains anything but arithmetic.
    UnknownNameError
        When the rule names an unknown function, or a column that is not among `columns`.

    Examples
    --------
    >>> import numpy as np
    >>> Rule("10 * round(tokens / 1e10)").evaluate({"tokens": np.array([99_614_720_000, 4_194_304_000])})
    array([100.,   0.])
    >>> Rule("throughput/total_tokens", columns=["throughput/total_tokens"]).names
    frozenset({'throughput/total_tokens'})
    >>> Rule("split == 'val' and step >= 10").evaluate({"split": np.array(["val", "test"]), "step": np.array([10, 20])})
    array([ True, False])
    """

    __slots__ = ("_column", "_problem", "_quoted", "_tree", "source", "what")

    source: RuleSource
    what: str

    def __init__(self, source: RuleSource, columns: Collection[str] | None = None, what: str = "rule") -> None:
        self.source, self.what = source, what
        self._tree: ast.expr | None = None
        self._column: str | None = None
        self._problem = ""
        self._quoted: dict[str, str] = {}
        if isinstance(source, str):
            self._parse(source)
        elif isinstance(source, bool) or not (isinstance(source, (int, float)) or callable(source)):
            raise FormatError(f"{what}: a rule is a text, a number or a function, not {source!r}.")
        elif isinstance(source, (int, float)) and not abs(source) <= MOST_EXACT:
            raise FormatError(f"{what}: {source!r} is beyond 2**53, where numbers are not exact.")
        if columns is not None:
            bound = self.bind(columns)
            self._column, self._tree, self._problem = bound._column, bound._tree, bound._problem

    @property
    def is_function(self) -> bool:
        """Whether the rule is a Python function, which can't be written to a file."""
        return callable(self.source)

    @property
    def is_name(self) -> bool:
        """Whether the rule is a single name, as far as is known without the columns."""
        return self._column is not None or (
            isinstance(self.source, str) and (self._tree is None or isinstance(self._tree, ast.Name))
        )

    @property
    def names(self) -> frozenset[str]:
        """Names that the rule reads; empty for a function, whose names are unknown."""
        if not isinstance(self.source, str):
            return frozenset()
        if self._column is not None:
            return frozenset((self._column,))
        if self._tree is None:
            return frozenset((self.source.strip(),))
        nodes = list(ast.walk(self._tree))
        functions = {id(n.func) for n in nodes if isinstance(n, ast.Call)}
        return frozenset(self._name(n) for n in nodes if isinstance(n, ast.Name) and id(n) not in functions)

    def bind(self, columns: Collection[str]) -> Rule:
        """Resolve the names of the rule against the columns of a table.

        Parameters
        ----------
        columns : collection of str
            Names that the rule may use: columns of the table and factors.

        Raises
        ------
        UnknownNameError
            When the rule uses another name.

        Examples
        --------
        >>> Rule("Tokens Seen").bind(["Step", "Tokens Seen"]).names
        frozenset({'Tokens Seen'})
        """
        if not isinstance(self.source, str):
            return self
        bound = object.__new__(Rule)
        bound.source, bound.what, bound._quoted = self.source, self.what, self._quoted
        bound._tree, bound._column, bound._problem = self._tree, None, self._problem
        if self.source in columns or self.source.strip() in columns:
            bound._column = self.source if self.source in columns else self.source.strip()
            return bound
        if self._tree is None:
            self._refuse_unparsed(columns)
        unknown = sorted(self.names.difference(columns))
        if unknown:
            raise UnknownNameError(
                f"{self.what}: the rule {self.source!r} names {unknown[0]!r}, which does not exist here. Names: "
                f"{list_names(columns, 8)}.{near_names(unknown[0], columns)}{_DEFAULT_COLUMNS.get(self.source, '')}"
            )
        return bound

    def evaluate(self, values: Mapping[str, Any]) -> npt.NDArray[Any] | np.generic | str:
        """Return the result of the rule: an array where it names arrays, else a scalar.

        Parameters
        ----------
        values : mapping of str to array_like
            Value of each name. Arithmetic is in float64, so whole numbers are exact up to 2**53; a rule that is a
            single name returns its values unchanged.

        Raises
        ------
        UnknownNameError
            When a name has no value.
        FormatError
            When texts are used as numbers, numbers as texts, or ``//`` or ``%`` gets a number beyond 2**53.
        """
        if callable(self.source):
            return np.asarray(self.source(values))
        if not isinstance(self.source, str):
            return np.float64(self.source)
        if self._column is None and self.source in values:
            return _as_values(values[self.source])
        rule = self if self._column is not None or self._tree is not None else self.bind(list(values))
        if rule._column is not None:
            return _as_values(self._value(rule._column, values))
        assert rule._tree is not None
        if isinstance(rule._tree, ast.Name):
            return _as_values(self._value(self._name(rule._tree), values))
        with np.errstate(all="ignore"):
            result = self._walk(rule._tree, values)
        return result if isinstance(result, (np.ndarray, np.generic, str)) else np.float64(result)

    def __repr__(self) -> str:
        return f"Rule({self.source!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and (self.source, self._column) == (other.source, other._column)

    def __hash__(self) -> int:
        return hash(self.source)

    def _parse(self, source: str) -> None:
        """Parse the text of a rule; a text that is not a rule may still be the name of a column."""
        text = source.strip()
        if not text or len(text) > _MOST_CHARACTERS:
            raise FormatError(
                f"{self.what}: a rule has 1 to {_MOST_CHARACTERS:,} characters, and this one has {len(text):,}."
            )
        try:
            with warnings.catch_warnings():
                # Python's warnings on code do not apply: a rule is never run.
                warnings.simplefilter("ignore")
                tree = ast.parse(self._without_backquotes(text), mode="eval").body
        except SyntaxError as error:
            reason = f", character {error.offset}" if error.offset else ""
            self._problem = f"{source!r} is not a rule{reason}: {error.msg}"
        except (ValueError, RecursionError, MemoryError) as error:
            self._problem = f"{source!r} is not a rule: {str(error) or 'too deep'}"
        else:
            foreign = self._foreign_part(tree, 0)
            if foreign is None:
                self._tree = tree
                return
            self._problem = f"{foreign!r} in {source!r} is not arithmetic"
        # A text without these characters may still be the name of a column, which `bind` decides.
        if re.search(r"[()\[\]{}'\"`=;,\n]|\blambda\b|__", text):
            raise FormatError(f"{self.what}: {self._problem}.{_ALLOWED}")

    def _without_backquotes(self, text: str) -> str:
        def name(match: re.Match[str]) -> str:
            if match[2] is not None:
                return match[2]
            stand_in = f"_quoted{len(self._quoted)}_"
            while stand_in in text:
                stand_in += "_"
            self._quoted[stand_in] = match[1]
            return f" {stand_in} "

        return _QUOTED.sub(name, text).strip()

    def _foreign_part(self, node: ast.expr, depth: int) -> str | None:
        """Return the first part of a rule that is not arithmetic; raise where the arithmetic is wrong."""
        if depth > _MOST_DEPTH:
            raise FormatError(f"{self.what}: the rule {self.source!r} is nested more than {_MOST_DEPTH} deep.")
        below: Iterable[ast.expr] = ()
        if isinstance(node, ast.Constant) and type(node.value) in (int, float, str):
            if isinstance(node.value, int) and abs(node.value) > MOST_EXACT:
                raise FormatError(f"{self.what}: {node.value} in {self.source!r} is beyond 2**53 and not exact.")
        elif isinstance(node, ast.Name):
            pass
        elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            below = (node.left, node.right)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd, ast.Not)):
            below = (node.operand,)
        elif isinstance(node, ast.BoolOp):
            below = node.values
        elif isinstance(node, ast.Compare) and all(type(op) in _COMPARISONS for op in node.ops):
            below = (node.left, *node.comparators)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            self._check_call(node, node.func)
            below = node.args
        else:
            return _source_of(node, str(self.source))
        return next((part for child in below if (part := self._foreign_part(child, depth + 1)) is not None), None)

    def _check_call(self, node: ast.Call, function: ast.Name) -> None:
        if function.id not in FUNCTIONS:
            raise UnknownNameError(
                f"{self.what}: the rule {self.source!r} calls {function.id!r}, and rules have no such function. "
                f"Functions: {', '.join(FUNCTIONS)}.{near_names(function.id, FUNCTIONS)}"
            )
        least, most = (2, 20) if function.id in ("min", "max") else (1, 2 if function.id == "round" else 1)
        if not least <= len(node.args) <= most:
            raise FormatError(
                f"{self.what}: {function.id} in {self.source!r} takes {least}{f' to {most}' * (most > least)} values, "
                f"not {len(node.args)}; it works row by row."
            )
        if function.id == "round" and len(node.args) == 2 and not _is_whole(node.args[1]):
            raise FormatError(
                f"{self.what}: the digits of round in {self.source!r} must be a whole number from 0 to 15."
            )

    def _name(self, node: ast.Name) -> str:
        return self._quoted.get(node.id, node.id)

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        if name not in values:
            raise UnknownNameError(
                f"{self.what}: the rule {self.source!r} names {name!r}, which does not exist here. Names: "
                f"{list_names(values, 8)}.{near_names(name, values)}"
            )
        return values[name]

    def _as_operand(self, name: str, value: Any) -> Any:
        """Return values as numbers if all are numbers, else as texts with None for missing values."""
        if isinstance(value, str):
            return value
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            return array[()]
        if array.dtype.kind in "OU":
            if array.dtype.kind == "U":
                return array[()]
            flat = array.ravel()
            gaps = pd.isna(flat)
            if not any(isinstance(v, str) for v in flat[~gaps]):
                numbers = np.full(flat.shape, np.nan)
                numbers[~gaps] = [self._as_float(name, v) for v in flat[~gaps]]
                return numbers.reshape(array.shape)[()]
            texts = flat.copy()
            texts[gaps] = None
            return texts.reshape(array.shape)[()]
        raise FormatError(
            f"{self.what}: the rule {self.source!r} takes numbers and texts, and {name!r} has the type {array.dtype}."
        )

    def _as_float(self, name: str, value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise FormatError(
                f"{self.what}: the rule {self.source!r} takes numbers and texts, and {name!r} holds {value!r}."
            ) from error

    def _refuse_unparsed(self, columns: Collection[str]) -> None:
        text = str(self.source)
        raise UnknownNameError(
            f"{self.what}: {text!r} is neither a column nor a rule: {self._problem}. Columns: "
            f"{list_names(columns, 8)}.{near_names(text, columns)}"
        )

    def _walk(self, node: ast.expr, values: Mapping[str, Any]) -> Any:
        """Return the value of a node of a rule; it is never run as code."""
        if isinstance(node, ast.Constant):
            constant: Any = node.value
            return constant if isinstance(constant, str) else np.float64(constant)
        if isinstance(node, ast.Name):
            return self._as_operand(self._name(node), self._value(self._name(node), values))
        if isinstance(node, ast.Compare):
            operands = [self._walk(n, values) for n in (node.left, *node.comparators)]
            pairs = zip(operands, node.ops, operands[1:], strict=False)
            return _all_of([self._compare(a, op, b) for a, op, b in pairs])
        if isinstance(node, ast.BoolOp):
            parts = [
                self._flags(self._walk(n, values), "and" if isinstance(node.op, ast.And) else "or") for n in node.values
            ]
            return _all_of(parts) if isinstance(node.op, ast.And) else np.logical_or.reduce(np.broadcast_arrays(*parts))
        if isinstance(node, ast.UnaryOp):
            operand = self._walk(node.operand, values)
            if isinstance(node.op, ast.Not):
                return np.logical_not(self._flags(operand, "not"))
            number = self._number(operand)
            return -number if isinstance(node.op, ast.USub) else number
        if isinstance(node, ast.BinOp):
            left, right = (self._number(self._walk(n, values)) for n in (node.left, node.right))
            if isinstance(node.op, (ast.Mod, ast.FloorDiv)):
                self._refuse_inexact(left, right)
            return _ARITHMETIC[type(node.op)](left, right)
        assert isinstance(node, ast.Call)
        assert isinstance(node.func, ast.Name)
        return self._call(node.func.id, node.args, values)

    def _call(self, function: str, nodes: list[ast.expr], values: Mapping[str, Any]) -> Any:
        arguments = [self._number(self._walk(n, values)) for n in nodes]
        if function in ("min", "max"):
            combine = np.minimum if function == "min" else np.maximum
            result = arguments[0]
            for argument in arguments[1:]:
                result = combine(result, argument)
            return result
        if function == "round":
            return np.round(arguments[0], int(arguments[1]) if len(arguments) == 2 else 0)
        return {"abs": np.abs, "floor": np.floor, "log10": np.log10}[function](arguments[0])

    def _compare(self, left: Any, op: ast.cmpop, right: Any) -> Any:
        texts = [_is_text(left), _is_text(right)]
        if texts[0] != texts[1] and _is_empty(right if texts[0] else left):
            # A column without any value is read as numbers, and equals no text.
            none = np.broadcast_to(np.False_, np.broadcast_shapes(np.shape(left), np.shape(right)))
            return none if isinstance(op, ast.Eq) else ~none
        if texts[0] != texts[1]:
            raise FormatError(
                f"{self.what}: the rule {self.source!r} compares texts with numbers. Write texts with quotes, and "
                "numbers without."
            )
        if not texts[0]:
            return _COMPARISONS[type(op)](self._number(left), self._number(right))
        if not isinstance(op, (ast.Eq, ast.NotEq)):
            raise FormatError(f"{self.what}: the rule {self.source!r} orders texts, which only == and != can compare.")
        same = np.asarray(np.asarray(left, dtype=object) == np.asarray(right, dtype=object), dtype=bool)
        return same if isinstance(op, ast.Eq) else ~same

    def _number(self, value: Any) -> Any:
        if _is_text(value):
            raise FormatError(
                f"{self.what}: the rule {self.source!r} computes with texts such as {_first_text(value)!r}. Only == "
                "and != take texts."
            )
        array = np.asarray(value)
        if array.dtype.kind in "iu" and array.size and max(abs(int(array.min())), int(array.max())) > MOST_EXACT:
            raise FormatError(
                f"{self.what}: the rule {self.source!r} meets a number beyond 2**53, where rules are not exact. A rule "
                "that is only the name of a column uses its numbers unchanged."
            )
        return array.astype(np.float64, copy=False)[()]

    def _flags(self, value: Any, word: str) -> Any:
        if np.asarray(value).dtype != np.bool_:
            raise FormatError(f"{self.what}: {word!r} in {self.source!r} joins comparisons, not numbers.")
        return value

    def _refuse_inexact(self, *operands: Any) -> None:
        for operand in operands:
            if np.any(np.abs(operand) > MOST_EXACT):
                raise FormatError(
                    f"{self.what}: // or % in {self.source!r} meets a number beyond 2**53, where it is not exact."
                )


_ALLOWED = (
    " A rule contains numbers, names, texts in quotes, + - * / // % **, comparisons, and, or, not, parentheses and "
    f"{', '.join(FUNCTIONS)}; write a column whose name has other characters in backquotes."
)


def _source_of(node: ast.expr, source: str) -> str:
    try:
        return ast.unparse(node)
    except RecursionError:
        return source


def _is_whole(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value <= 15


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "OUS")


def _first_text(value: Any) -> Any:
    return value if isinstance(value, str) else next((v for v in np.atleast_1d(value) if isinstance(v, str)), "")


def _as_values(value: Any) -> npt.NDArray[Any] | np.generic | str:
    return value if isinstance(value, str) else np.asarray(value)[()]


def _is_empty(value: Any) -> bool:
    array = np.asarray(value)
    return array.dtype.kind == "f" and bool(np.isnan(array).all())


def _all_of(parts: list[Any]) -> Any:
    return np.logical_and.reduce(np.broadcast_arrays(*parts)) if len(parts) > 1 else parts[0]
