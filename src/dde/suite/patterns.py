"""Patterns that extract fields from a text, and templates that format fields as a text.

A pattern describes the fields in the path of a file, the name of a run or the key of a metric:

=====================  =============================================================
``{name}``             text, one character or more, without ``/``
``{name:int}``         a whole number
``{name:float}``       a number
``{name:a|b|}``        one of these texts; one may be empty
``*``                  any text without ``/``, or none
``**``                 any folders, or none; a complete component of a path
``{{`` and ``}}``      a brace
=====================  =============================================================

Every other character matches itself. From left to right, a text field takes the shortest text, and a number or one of
several texts takes the longest, with which the complete pattern matches. If the text fields could be split in another
way, the match is ambiguous and raises an error.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterator, Mapping

from dde.errors import FormatError, UnknownNameError, near_names
from dde.suite.pattern_search import FieldKind, FieldValue, Part, Search, as_number, compile_parts

__all__ = ["FieldKind", "Pattern", "Template", "field_text"]

# Above this number of splits, a search replaces the regular expression.
_MOST_QUICK_STEPS = 1_000_000
_NO_TYPES = {"integer": "int", "number": "float", "double": "float", "str": "", "string": "", "text": "", "bool": ""}


class Pattern:
    """A text with fields, matched against paths, names of runs and keys of metrics.

    Parameters
    ----------
    text : str
        The pattern; see :mod:`dde.suite.patterns` for its syntax.
    what : str
        Name of the pattern in errors (``"tables[2].files"``).
    types : mapping of str to str, optional
        Types of fields that have none in the pattern.

    Raises
    ------
    FormatError
        When the pattern is malformed: an unbalanced brace, a field without a name, two adjacent text fields.

    Examples
    --------
    >>> Pattern("cosine/{size}-{budget:float}xC{rerun:|-rerun}.csv").match("cosine/190M-0.5xC-rerun.csv")
    {'size': '190M', 'budget': 0.5, 'rerun': '-rerun'}
    >>> Pattern("{task}_{metric:len_norm|acc}").match("arc_easy_len_norm")
    {'task': 'arc_easy', 'metric': 'len_norm'}
    >>> Pattern("runs/{size}-{seed:int}/**/log.csv").glob()
    'runs/*-*/**/log.csv'
    """

    __slots__ = (
        "_ends",
        "_free",
        "_longest",
        "_parts",
        "_repeated",
        "_shortest",
        "fields",
        "kinds",
        "specs",
        "text",
        "what",
    )

    text: str
    what: str
    #: Names of the fields, in order.
    fields: tuple[str, ...]
    #: Text after the colon of each field, "" without a colon.
    specs: dict[str, str]
    #: Kind of each field: text, a number, or one of several texts.
    kinds: dict[str, FieldKind]

    def __init__(self, text: str, what: str = "pattern", types: Mapping[str, str] | None = None) -> None:
        if not isinstance(text, str) or not text:
            raise FormatError(f"{what}: a pattern is a text, not {text!r}.")
        self.text, self.what = text, what
        parts: list[Part] = []
        kinds: dict[str, FieldKind] = {}
        repeated: list[str] = []
        specs: dict[str, str] = {}
        for position, part, spec in _split_pattern(text, what, types or {}):
            new = part
            if spec is not None:
                specs.setdefault(part.text, spec)
            if part.kind in ("text", "int", "float", "choice"):
                if part.text in kinds:
                    if kinds[part.text] != part.kind:
                        raise _error(text, what, position, f"the field {part.text!r} occurs twice with two types")
                    new = Part("same", part.text, part.choices, kinds[part.text])
                    repeated.append(part.text)
                else:
                    kinds[part.text] = part.kind
            if parts:
                _check_neighbours(parts[-1], part, text, what, position)
            parts.append(new)
        self._parts = tuple(parts)
        self._repeated = tuple(dict.fromkeys(repeated))
        self._free = sum(p.is_free for p in parts)
        self._ends = math.prod(3 if p.kind == "float" else max(len(p.choices), 1) for p in parts)
        self._shortest = compile_parts(self._parts, longest=False)
        self._longest = compile_parts(self._parts, longest=True)
        self.kinds, self.specs = kinds, specs
        self.fields = tuple(kinds)

    def match(self, text: str) -> dict[str, FieldValue] | None:
        """Return the fields of a complete text, or None where the pattern does not match it.

        Raises
        ------
        FormatError
            When the text fields can be split in two ways.

        Examples
        --------
        >>> Pattern("{corpus}-{size}").match("c4-150M")
        {'corpus': 'c4', 'size': '150M'}
        >>> Pattern("{corpus}-{size}").match("c4_150M") is None
        True
        >>> Pattern("{corpus}-{size}").match("dolma-v1-150M")
        Traceback (most recent call last):
        ...
        dde.errors.FormatError: pattern '{corpus}-{size}' splits 'dolma-v1-150M' in two ways: corpus='dolma',
        size='v1-150M' or corpus='dolma-v1', size='150M', so the match is ambiguous. List the texts of one field, as
        in {corpus:a|b}.
        """
        if self._shortest is None or self._longest is None or self._most_steps(len(text)) > _MOST_QUICK_STEPS:
            return self._search(text)
        found = self._shortest.fullmatch(text)
        if found is None:
            return None
        if self._free > 1:
            other = self._longest.fullmatch(text)
            if other is None or other.regs != found.regs:
                # The search tells a difference in a number or a listed text from one in free text, which is ambiguous.
                return self._search(text)
        return self._as_values([found[f"part{i}"] if p.is_field else "" for i, p in enumerate(self._parts)])

    def _most_steps(self, length: int) -> float:
        """Return how many splits a regular expression may have to try."""
        return math.comb(length + 1, self._free) * self._ends

    def _search(self, text: str) -> dict[str, FieldValue] | None:
        search = Search(self._parts, text, longest=False, repeated=self._repeated)
        if not search.run(0, 0):
            return None
        values = self._values(search)
        if values is not None and self._free > 1:
            self._refuse_two_ways(text, search, values)
        return values

    def _values(self, search: Search) -> dict[str, FieldValue] | None:
        return self._as_values([search.text[slice(*search.ends[index])] for index in range(len(self._parts))])

    def _as_values(self, texts: list[str]) -> dict[str, FieldValue] | None:
        values: dict[str, FieldValue] = {}
        for part, found in zip(self._parts, texts, strict=True):
            if part.kind in ("int", "float"):
                number = as_number(part.kind, found)
                if not math.isfinite(number):
                    return None
                values[part.text] = number
            elif part.kind in ("text", "choice"):
                values[part.text] = found
        return values

    def _refuse_two_ways(self, text: str, search: Search, values: dict[str, FieldValue]) -> None:
        """Raise FormatError if a text matches the pattern in two ways that give different values."""
        pins = {
            index: text[slice(*search.ends[index])]
            for index, part in enumerate(self._parts)
            if part.kind in ("int", "float", "choice")
        }
        other = Search(self._parts, text, longest=True, pins=pins, repeated=self._repeated)
        other.run(0, 0)
        others = self._values(other)
        if others == values and other.ends != search.ends:
            # Only wildcards differ so far; another split between these two may differ in a field.
            for index, part in enumerate(self._parts):
                if part.kind == "text":
                    unlike = {index: text[slice(*search.ends[index])]}
                    other = Search(self._parts, text, True, pins, unlike, repeated=self._repeated)
                    if other.run(0, 0):
                        others = self._values(other)
                        break
        if others is None or others == values:
            return
        ways = [", ".join(f"{n}={v!r}" for n, v in way.items()) for way in (values, others)]
        first = next(name for name in self.fields if values[name] != others[name])
        raise FormatError(
            f"{self.what} {self.text!r} splits {_shortened(text)} in two ways: {ways[0]} or {ways[1]}, so the match is "
            f"ambiguous. List the texts of one field, as in {{{first}:a|b}}."
        )

    def glob(self) -> str:
        """Return a glob that matches at least the files of the pattern: ``*`` for every field.

        Examples
        --------
        >>> Pattern("pythia-{size}{data:|-deduped}/{name}_step{step:int}.json").glob()
        'pythia-*/*_step*.json'
        """
        made: list[str] = []
        for part in self._parts:
            if part.kind == "literal":
                made.append(re.sub(r"[?\[]", r"[\g<0>]", part.text))
            elif part.kind == "folders":
                made.append("**/")
            elif part.kind == "rest":
                made.append("**")
            elif not made or made[-1] != "*":
                made.append("*")
        return "".join(made)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


class Template:
    """A text with fields, from which labels and ids are formatted.

    Parameters
    ----------
    text : str
        The template: ``{name}`` for a field, ``{{`` and ``}}`` for braces. A name is any text without braces, so that
        columns of files can be named too.
    what : str
        Name of the template in errors.

    Raises
    ------
    FormatError
        When the template is malformed: an unbalanced brace, a field without a name or with a type.

    Examples
    --------
    >>> Template("{size}-{budget}xC{rerun}").format({"size": "190M", "budget": 10.0, "rerun": None})
    '190M-10xC'
    >>> Template("lr={lr}").fields
    ('lr',)
    """

    __slots__ = ("_parts", "fields", "text", "what")

    text: str
    what: str
    #: Names of the fields, in order.
    fields: tuple[str, ...]

    def __init__(self, text: str, what: str = "template") -> None:
        if not isinstance(text, str) or not text:
            raise FormatError(f"{what}: a template is a text, not {text!r}.")
        self.text, self.what = text, what
        parts: list[tuple[bool, str]] = []
        for position, is_field, piece in _split_braces(text, what):
            if is_field and ":" in piece:
                name = piece.partition(":")[0]
                raise _error(text, what, position, f"fields of a template have no types; write {{{name}}}")
            parts.append((is_field, piece))
        self._parts = tuple(parts)
        self.fields = tuple(dict.fromkeys(piece for is_field, piece in parts if is_field))

    def format(self, values: Mapping[str, object]) -> str:
        """Return the template with its fields filled in.

        Parameters
        ----------
        values : mapping of str to object
            Value of every field. Numbers are written in their shortest exact form; None, NaN and "" become "".

        Raises
        ------
        UnknownNameError
            When a field has no value.
        """
        made: list[str] = []
        for is_field, piece in self._parts:
            if not is_field:
                made.append(piece)
                continue
            if piece not in values:
                raise UnknownNameError(
                    f"{self.what} {self.text!r}: there is no field {piece!r}, so the text can't be formatted. Fields: "
                    f"{', '.join(map(str, values)) or 'none'}.{near_names(piece, map(str, values))}"
                )
            made.append(field_text(values[piece]))
        return "".join(made)

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def field_text(value: object) -> str:
    """Return a field's value as text: a number in its shortest exact form, "" for None and NaN.

    Examples
    --------
    >>> [field_text(v) for v in (10.0, 0.5, 1e-5, 3, None, float("nan"), "c4")]
    ['10', '0.5', '1e-05', '3', '', '', 'c4']
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, (bool, numbers.Integral)):
        return str(value)
    if isinstance(value, numbers.Real):
        # str() of a float32 is its shortest exact form; float() of it would show the digits of the double.
        number = float(str(value)) if type(value).__module__ == "numpy" else float(value)
        if math.isnan(number):
            return ""
        return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
    # Missing values of pandas: NaT differs from itself, and comparing NA gives NA.
    return "" if str(value) in ("<NA>", "NaT") else str(value)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _error(text: str, what: str, position: int, cause: str) -> FormatError:
    return FormatError(f"{what} {_shortened(text)}, character {position + 1}: {cause}.")


def _split_braces(text: str, what: str) -> Iterator[tuple[int, bool, str]]:
    """Yield position, whether it is a field, and text of each piece; adjacent literals are joined."""
    literal, begin, position = "", 0, 0
    while position < len(text):
        sign = text[position]
        if sign not in "{}":
            end = next((p for p in range(position, len(text)) if text[p] in "{}"), len(text))
            literal += text[position:end]
            position = end
        elif text.startswith(sign * 2, position):
            literal += sign
            position += 2
        elif sign == "}":
            raise _error(text, what, position, "a closing brace has no opening brace; write }} for a brace")
        else:
            end = text.find("}", position)
            inside = text[position + 1 : end] if end >= 0 else ""
            if end < 0 or "{" in inside:
                raise _error(text, what, position, "an opening brace has no closing brace; write {{ for a brace")
            if not inside.partition(":")[0].strip():
                raise _error(text, what, position, "a field has no name")
            if literal:
                yield begin, False, literal
            yield position, True, inside
            literal, begin = "", end + 1
            position = end + 1
    if literal:
        yield begin, False, literal


def _split_pattern(text: str, what: str, types: Mapping[str, str]) -> Iterator[tuple[int, Part, str | None]]:
    for position, is_field, piece in _split_braces(text, what):
        if not is_field:
            yield from ((at, part, None) for at, part in _split_wildcards(piece, text, what, position))
            continue
        name, colon, spec = piece.partition(":")
        if not colon and types.get(name):
            colon, spec = ":", types[name]
        yield position, _field_part(name, colon, spec, text, what, position), spec


def _field_part(name: str, colon: str, spec: str, text: str, what: str, position: int) -> Part:
    if not name.isidentifier():
        raise _error(text, what, position, f"{name!r} can't name a field; use letters, digits and _")
    if not colon:
        return Part("text", name)
    if spec == "int":
        return Part("int", name)
    if spec == "float":
        return Part("float", name)
    if not spec:
        raise _error(text, what, position, f"the field {name!r} has an empty type; write int, float or a|b")
    if spec in _NO_TYPES:
        better = f"{{{name}:{_NO_TYPES[spec]}}}" if _NO_TYPES[spec] else f"{{{name}}}"
        raise _error(text, what, position, f"{spec!r} is not a type (int, float or a|b are); write {better}")
    choices = spec.split("|")
    if len(set(choices)) < len(choices):
        raise _error(text, what, position, f"the field {name!r} lists one text twice")
    if any("/" in choice for choice in choices):
        raise _error(text, what, position, f"a text of the field {name!r} holds a '/', which ends a field")
    return Part("choice", name, tuple(sorted(choices, key=len, reverse=True)))


def _split_wildcards(piece: str, text: str, what: str, position: int) -> Iterator[tuple[int, Part]]:
    for match in re.finditer(r"\*\*/|\*+|[^*]+", piece):
        token, at = match[0], position + match.start()
        if not token.startswith("*"):
            yield at, Part("literal", token)
        elif token == "*":
            yield at, Part("star", "")
        else:
            before = text[at - 1] if at else "/"
            if token.rstrip("/") != "**" or before != "/" or not (token.endswith("/") or at + 2 == len(text)):
                raise _error(text, what, at, "** is a complete component of a path; write * inside a component")
            yield at, Part("folders" if token.endswith("/") else "rest", "")


def _check_neighbours(left: Part, right: Part, text: str, what: str, position: int) -> None:
    if left.is_open and right.is_free and "text" in (left.kind, right.kind):
        names = [f"{{{p.text}}}" if p.text else "*" for p in (left, right)]
        raise _error(
            text,
            what,
            position,
            f"{names[0]} and {names[1]} are side by side, so the end of the first is ambiguous; put a text between "
            "them or list their texts, as in {name:a|b}",
        )
    if left.kind in ("int", "float") and right.kind in ("int", "float"):
        raise _error(
            text,
            what,
            position,
            f"the numbers {{{left.text}}} and {{{right.text}}} are side by side, so the end of the first is ambiguous; "
            "put a text between them",
        )
