"""Search for a split of a text into the parts of a pattern, in a number of steps linear in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dde.errors import FormatError

__all__ = ["FieldKind", "FieldValue", "Part", "Search", "as_number", "compile_parts"]

FieldKind = Literal["text", "int", "float", "choice"]
FieldValue = str | int | float

# Numbers of more digits may exceed int64; longer runs of digits are hashes and dates.
_MOST_DIGITS = 18
# The number of steps is linear in the length of the text, except for repeated fields; this limits those.
_MOST_STEPS = 2_000_000
_DIGITS = tuple("0123456789")
_INT_TEXT = rf"[0-9]{{1,{_MOST_DIGITS}}}(?![0-9])"
_FLOAT_TEXT = r"[0-9]{1,400}(?![0-9])(?:\.[0-9]{1,400}(?![0-9]))?(?:[eE][+-]?[0-9]{1,3}(?![0-9]))?"
_INT = re.compile(rf"(-?)({_INT_TEXT})")
_FLOAT = re.compile(r"(-?)([0-9]{1,400})(?![0-9])(\.[0-9]{1,400}(?![0-9]))?([eE][+-]?[0-9]{1,3}(?![0-9]))?")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a pattern: a literal text, a field, the same field again, or a wildcard."""

    kind: Literal["literal", "text", "int", "float", "choice", "same", "star", "folders", "rest"]
    text: str  # the literal text, or the name of the field
    choices: tuple[str, ...] = ()
    of: FieldKind = "text"  # kind of the repeated field

    @property
    def is_free(self) -> bool:
        """Whether the part may end at any position."""
        return self.kind in ("text", "star", "folders", "rest")

    @property
    def is_field(self) -> bool:
        """Whether the part has a value."""
        return self.kind in ("text", "int", "float", "choice")

    @property
    def is_open(self) -> bool:
        """Whether nothing marks the end of the part; folders end with a slash."""
        return self.kind in ("text", "star")


@dataclass(slots=True)
class Search:
    """One search for a split of a text into the parts of a pattern."""

    parts: tuple[Part, ...]
    text: str
    longest: bool
    pins: Mapping[int, str] = field(default_factory=dict)
    unlike: Mapping[int, str] = field(default_factory=dict)
    bound: dict[str, FieldValue] = field(default_factory=dict)
    ends: dict[int, tuple[int, int]] = field(default_factory=dict)
    failed: set[tuple[object, ...]] = field(default_factory=set)
    bounds: dict[tuple[object, ...], int] = field(default_factory=dict)
    repeated: tuple[str, ...] = ()
    steps: int = 0

    def run(self, index: int, start: int) -> bool:
        """Return whether the parts from `index` on match the text from `start` on."""
        if index == len(self.parts):
            return start == len(self.text)
        # The result for the rest depends on the values of repeated fields so far.
        state = tuple(self.bound.get(name) for name in self.repeated)
        part = self.parts[index]
        if part.is_free:
            return self._run_free(index, start, state)
        if (index, start, state) in self.failed:
            return False
        for end in self._ends(part, index, start):
            if index in self.pins and self.text[start:end] != self.pins[index]:
                continue
            if self._try(index, start, end):
                return True
        self.failed.add((index, start, state))
        return False

    def _run_free(self, index: int, start: int, state: tuple[object, ...]) -> bool:
        part = self.parts[index]
        stop = len(self.text)
        if part.kind in ("text", "star"):
            slash = self.text.find("/", start)
            stop = slash if slash >= 0 else stop
        first = start + 1 if part.kind == "text" else start
        if part.text in self.repeated or index in self.unlike:
            # For a repeated field, or one with an excluded text, the result depends on the start as well as the end.
            if (index, start, state) not in self.failed:
                if any(self._try(index, start, end) for end in self._free_ends(part, index, first, stop, stop)):
                    return True
                self.failed.add((index, start, state))
            return False
        # Ends after an earlier start that failed have been tried with it.
        key = (index, stop, state)
        last = self.bounds.get(key, stop)
        for end in self._free_ends(part, index, first, min(stop, last), stop):
            if self._try(index, start, end):
                return True
        self.bounds[key] = min(last, first - 1)
        return False

    def _free_ends(self, part: Part, index: int, first: int, last: int, stop: int) -> Iterator[int]:
        """Yield the ends that a part without a fixed text may have, in the order in which they are tried."""
        if part.kind == "folders":
            ends = [p for p in range(first, last + 1) if p == first or self.text[p - 1] == "/"]
            self._count(len(ends))
            yield from reversed(ends) if self.longest else ends
            return
        follows = self.parts[index + 1] if index + 1 < len(self.parts) else None
        if follows is None:
            # The last part must end with the text.
            if first <= stop == len(self.text) and last == stop:
                yield stop
            return
        if follows.kind != "literal":
            yield from range(last, first - 1, -1) if self.longest else range(first, last + 1)
            return
        literal = follows.text
        if self.longest:
            end = self.text.rfind(literal, first, last + len(literal))
            while end >= first:
                yield end
                end = self.text.rfind(literal, first, end - 1 + len(literal))
        else:
            end = self.text.find(literal, first, last + len(literal))
            while 0 <= end <= last:
                yield end
                end = self.text.find(literal, end + 1, last + len(literal))

    def _ends(self, part: Part, index: int, start: int) -> Iterator[int]:
        """Yield the possible ends of a part that is not free, the longest first."""
        if part.kind == "literal":
            if self.text.startswith(part.text, start):
                yield start + len(part.text)
        elif part.kind == "choice":
            yield from (start + len(c) for c in part.choices if self.text.startswith(c, start))
        elif part.kind == "same":
            value = self.bound[part.text]
            if part.of in ("int", "float"):
                yield from (
                    end
                    for end in self._number_ends(part.of, index, start)
                    if as_number(part.of, self.text[start:end]) == value
                )
            elif self.text.startswith(str(value), start):
                yield start + len(str(value))
        else:
            yield from self._number_ends(part.kind, index, start)

    def _number_ends(self, kind: str, index: int, start: int) -> Iterator[int]:
        match = (_INT if kind == "int" else _FLOAT).match(self.text, start)
        if match is None:
            return
        if index and self.parts[index - 1].is_open and (match[1] or self.text[start - 1 : start] in _DIGITS):
            # After free text, a sign belongs to the text, and a number does not begin inside another number.
            return
        groups = (4, 3, 2) if kind == "float" else (2,)
        ends = {match.end(g) for g in groups if match[g] is not None}
        yield from sorted(ends, reverse=True)

    def _try(self, index: int, start: int, end: int) -> bool:
        self._count(1)
        part = self.parts[index]
        if index in self.unlike and self.text[start:end] == self.unlike[index]:
            return False
        self.ends[index] = (start, end)
        if part.text not in self.repeated or part.kind in ("same", "literal"):
            return self.run(index + 1, end)
        value: FieldValue = self.text[start:end]
        if part.kind in ("int", "float"):
            value = as_number(part.kind, self.text[start:end])
        self.bound[part.text] = value
        if self.run(index + 1, end):
            return True
        del self.bound[part.text]
        return False

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > _MOST_STEPS:
            raise FormatError(
                f"A text of {len(self.text):,} characters can be split in too many ways: {self.text[:60]!r}... "
                "Patterns with a repeated field are for short texts; name the field once."
            )


def as_number(kind: str, text: str) -> int | float:
    """Return the number that the text of a number field represents."""
    return int(text) if kind == "int" else float(text)


def compile_parts(parts: tuple[Part, ...], longest: bool) -> re.Pattern[str] | None:
    """Return a regular expression that splits a text as `Search` does; None where a number is repeated.

    It is much faster for short texts, and exponentially slower for long adversarial ones.
    """
    made: list[str] = []
    names: dict[str, str] = {}
    lazy = "" if longest else "?"
    for index, part in enumerate(parts):
        follows_open = index > 0 and parts[index - 1].is_open
        if part.kind == "literal":
            made.append(re.escape(part.text))
            continue
        if part.kind == "same":
            if part.of in ("int", "float"):
                return None
            made.append(f"(?P={names[part.text]})")
            continue
        if part.kind in ("int", "float"):
            number = _INT_TEXT if part.kind == "int" else _FLOAT_TEXT
            inside = f"(?<![0-9]){number}" if follows_open else f"-?{number}"
        elif part.kind == "choice":
            inside = "|".join(map(re.escape, part.choices))
        else:
            inside = {"text": "[^/]+", "star": "[^/]*", "folders": "(?:[^/]*/)*", "rest": ".*"}[part.kind] + lazy
        names.setdefault(part.text, f"part{index}")
        made.append(f"(?P<part{index}>{inside})")
    return re.compile("".join(made), re.DOTALL)
