"""Dict texts by the million, read by the kernels, by the grammar in Python and by Python itself.

``python tests/faults/dict_texts.py`` reads 10,000,000 of them in some ten minutes, prints what differs, and fails where
anything does. ``--sanitize`` does it with kernels that watch every access to memory, three times as slowly.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import random
import re
import struct
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from dde import native
from dde.suite.datadecide.tables.dict_text import parse_dict_row, parse_dicts

KEYS = ("acc_raw", "acc_per_char", "primary_metric", "sum_logits_corr", "logits_per_byte_corr", "no_answer", "é", "")
WANTED = ("acc_raw", "primary_metric", "no_answer", "é", "absent")
BATCH = 2_000

# At the edge of what a number can be, or beyond it.
_NUMBERS = [
    *"1e400 -1e400 1e-400 4.9e-324 2.5e-324 2.4703282292062328e-324 1.7976931348623159e308".split(),
    *"9007199254740993 9007199254740993.0000000000000000001 1e99999999999 1e-9999999999999999999 0x1p3 1_0".split(),
    *"1e 1e+ 1.e5 .5 5. . - + nan -nan NaNs inf infinity Infinit -Infinity None Non null nul".split(),
    *("2.2250738585072011e-308", "True", "'1'", "[1]", "{}", "- 1", "1 2", "1" * 400, "1" * 5_000, "0" * 30 + "1"),
    *("0." + "0" * 400 + "1e401", "0.1" + "0" * 700 + "1"),
]
# Texts that end in the middle of something, or hold too much of it.
_BROKEN = r"""
{ | } | {} | { } | {'acc_raw' | {'acc_raw': | {'acc_raw': 1 | {'acc_raw': 1, | {'acc_raw': 1,} | {' | {"a\
{'acc_raw": 1} | {'acc_raw': 1}} | {'acc_raw': 1} x | {'acc_raw': 1, 'acc_raw': 2} | {'\x61cc_raw': 1}
{"\u0061cc_raw": 1} | {'a\d': 1}
"""
CORPUS = (
    *(f"{{'acc_raw': {number}}}" for number in _NUMBERS),
    *(text.strip() for line in _BROKEN.splitlines() for text in line.split("|")),
    *(" {'acc_raw' : 1 } ", "\t{\n'acc_raw'\r:1}\n", "{'acc_raw\x00': 1}", "{'acc_raw\n': 1}"),
    *("{" + ", ".join(f"'k{i}': {i}" for i in range(n)) + ", 'acc_raw': 7}" for n in (255, 300)),
    *("{'" + "k" * 70_000 + "': 1, 'acc_raw': 2}", "[" * 100_000, '{"acc_raw": ' * 10_000),
)

_NAMES = {"inf": "1e999", "Infinity": "1e999", "null": "None"}
_NAME = re.compile(r"(?<![\w'\"])(?:[-+]?(?:nan|NaN)|inf|Infinity|null)(?![\w'\"])")


@dataclass
class Outcome:
    """What came of some texts."""

    texts: int = 0
    malformed: int = 0
    refused_by_python: int = 0
    differences: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.texts += other.texts
        self.malformed += other.malformed
        self.refused_by_python += other.refused_by_python
        self.differences += other.differences


def number_text(draw: random.Random) -> str:
    """Return a number as programs write it: any double, single precision, many digits, halves of the last place."""
    kind = draw.randrange(8)
    if kind == 0:
        return repr(struct.unpack("<d", draw.getrandbits(64).to_bytes(8, "little"))[0])
    if kind == 1:
        return repr(struct.unpack("<f", draw.getrandbits(32).to_bytes(4, "little"))[0])
    if kind == 2:
        middle = (2 * (draw.getrandbits(53) | 1 << 52) + 1) << draw.randrange(11) >> 1
        return str(middle + draw.randrange(-1, 2))
    if kind == 3:
        digits = str(draw.getrandbits(draw.randrange(1, 90)))
        point = draw.randrange(len(digits) + 1)
        return f"{digits[:point]}.{digits[point:]}e{draw.randrange(-345, 312)}"
    if kind == 4:
        return draw.choice(("None", "null", "nan", "NaN", "inf", "-inf", "Infinity", "-Infinity", "-0.0", "0", "1e22"))
    if kind == 5:
        return f"{draw.choice('+-')}{draw.random():.{draw.randrange(25)}e}"
    return repr(draw.random() * 10.0 ** draw.randrange(-12, 12))


def dict_text(draw: random.Random) -> str:
    """Return a well-formed text of some keys."""
    keys = list(KEYS[: draw.randrange(1, len(KEYS) + 1)])
    if draw.random() < 0.3:
        draw.shuffle(keys)
    if draw.random() < 0.1:
        keys.insert(draw.randrange(len(keys) + 1), f"k{draw.randrange(10**6)}")
    quote, colon, comma = draw.choice(("''", '""')), draw.choice((": ", ":", " : ")), draw.choice((", ", ",", " ,\n"))
    pairs = [f"{quote[0]}{k}{quote[1]}{colon}{number_text(draw)}" for k in dict.fromkeys(keys)]
    return "{" + comma.join(pairs) + "}"


def damage(text: str, draw: random.Random) -> str:
    """Return a text with a few characters changed, moved, doubled or cut off."""
    for _ in range(draw.randrange(1, 4)):
        at, to = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        choice = draw.randrange(5)
        if choice == 0:
            text = text[:at] + text[at + 1 :]
        elif choice == 1:
            text = text[:at] + draw.choice("0123456789+-.eE'\"{}:, nNif\\\n\u0663é") + text[at:]
        elif choice == 2:
            text = text[:at] + text[to:]
        elif choice == 3:
            text = text[:to] + text[at:]
        else:
            text = text[:at]
    return text


def as_python_reads(text: str) -> dict[str, float | None] | None:
    """Return the numbers of a text as ``ast.literal_eval`` reads them; None where it holds no dict of numbers."""
    source = _NAME.sub(lambda name: _NAMES.get(name.group(), "1j"), text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = ast.literal_eval(source.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    if not isinstance(read, dict):
        return None
    found: dict[str, float | None] = {}
    for key, value in read.items():
        # The sign for nan, which Python's source has no literal of.
        if value == 1j:
            value = math.nan
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))) or not isinstance(key, str):
            return None
        try:
            found[key] = None if value is None else float(value)
        except OverflowError:
            found[key] = math.inf if value > 0 else -math.inf
    return found


def bits(value: float | None) -> bytes:
    return b"nan" if value is None or math.isnan(value) else struct.pack("<d", value)


def compare(texts: list[str], well_formed: list[bool]) -> Outcome:
    """Read texts in all ways and return where the results differ."""
    outcome = Outcome(len(texts))
    parsed = parse_dicts(pa.array(texts), list(WANTED))
    for row, text in enumerate(texts):
        kernel = [bits(v) for v in parsed.values[row].tolist()]
        reason = parsed.malformed.get(row)
        try:
            slow = parse_dict_row(text)
            grammar, slow_reason = [bits(slow.get(k)) for k in WANTED], None
        except ValueError as error:
            grammar, slow_reason = [b"nan"] * len(WANTED), str(error)
        if kernel != grammar or reason != slow_reason:
            outcome.differences.append(f"kernel and grammar: {text[:300]!r}")
        outcome.malformed += reason is not None
        if reason is not None:
            if well_formed[row]:
                outcome.differences.append(f"refused ({reason}): {text[:300]!r}")
            continue
        python = as_python_reads(text)
        if python is None:
            # Leading zeros, which Python refuses, mean nothing; a key may be a number's text in JSON's way.
            outcome.refused_by_python += 1
            python = as_python_reads(re.sub(r"(?<![\w.'\"])([-+]?)0+(?=\d)", r"\1", text)) or _as_numbers(text)
        if python is None or kernel != [bits(python.get(k)) for k in WANTED]:
            outcome.differences.append(f"kernel and Python: {text[:300]!r}")
    return outcome


def _as_numbers(text: str) -> dict[str, float | None] | None:
    """Return the numbers of a text that Python's source can't hold: by JSON, or as ``float`` reads a single one."""
    try:
        return {k: None if v is None else float(v) for k, v in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        single = re.fullmatch(r"\{'([^'\\]*)': ([^,}'_]*)\}", text)
    try:
        return single and {single[1]: float(single[2])}
    except ValueError:
        return None


def fuzz(seed: int, n: int) -> Outcome:
    """Compare `n` texts, three in ten of them damaged."""
    draw, outcome = random.Random(seed), Outcome()
    for start in range(0, n, BATCH):
        damaged = [draw.random() < 0.3 for _ in range(min(BATCH, n - start))]
        texts = [damage(dict_text(draw), draw) if d else dict_text(draw) for d in damaged]
        outcome.add(compare(texts, [not d for d in damaged]))
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--sanitize", action="store_true", help="with kernels that watch every access to memory")
    asked = parser.parse_args()
    if asked.sanitize:
        from sanitized import run_sanitized

        return run_sanitized([__file__, f"--texts={asked.texts}", f"--seed={asked.seed}"])
    assert native.is_compiled(), "the kernels are not compiled: run python -m pip install -e . again"
    total = compare(list(CORPUS), [False] * len(CORPUS))
    each = 20_000
    parts = [(asked.seed + i, min(each, asked.texts - i * each)) for i in range(-(-asked.texts // each))]
    began = time.monotonic()
    with ProcessPoolExecutor(native.processors()) as processes:
        for done, outcome in enumerate(processes.map(fuzz, *zip(*parts, strict=True)), 1):
            total.add(outcome)
            if done % 25 == 0 or done == len(parts):
                print(f"{total.texts:,} texts, {len(total.differences)} differences", flush=True)
    print(f"seed {asked.seed}, {time.monotonic() - began:.0f} s: {total.malformed:,} refused by name,")
    print(f"{total.refused_by_python:,} read that ast.literal_eval refuses, {len(total.differences)} differences")
    print(*total.differences[:20], sep="\n")
    return 1 if total.differences else 0


if __name__ == "__main__":
    sys.path.insert(0, os.fspath(Path(__file__).parent))
    sys.exit(main())
