# SPDX-License-Identifier: BSD-3-Clause
"""Parses the arguments of the command line: numbers, fractions, rank rules, names of output files.

Arguments that several commands share are here, too. Elsewhere: those of one command (main.py,
predict.py and its neighbours).
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from svdfast._process.checks import MAX_SIZE
from svdfast.cli.errors import Failure, UsageError, named_errors, short
from svdfast.interop import files as io
from svdfast.model.ranks import NAMED

__all__ = [
    "RANK_FRACTION", "RULES", "THREADS", "add_reading", "check_writable", "delimiter", "integer", "momentum", "not_negative",
    "positive", "pretrain_fraction", "rank_rule", "rank_rule_or_auto", "share", "whole_numbers",
]  # fmt: skip


def _number(text: str) -> float:
    """A number, also as a fraction: 1/4. Anything else gives NaN, which no range contains."""
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        return math.nan


def _checked(condition: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = _number(text)
        if not (math.isfinite(value) and condition(value)):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {short(text)}")
        return value

    return parse


_rank_fraction = _checked(lambda x: 0 < x <= 1, "a number above 0 and at most 1")
pretrain_fraction = _checked(lambda x: 0 <= x <= 1, "a number from 0 to 1")
momentum = _checked(lambda x: 0 <= x < 1, "a number from 0 to below 1")
positive = _checked(lambda x: x > 0, "a number above 0")
share = _checked(lambda x: 0 < x < 1, "a number above 0 and below 1")
not_negative = _checked(lambda x: x >= 0, "a number that is not negative")


def _rule(text: str, expected: str) -> str:
    word, _, share = text.partition(":")
    if word in NAMED and 0 < _number(share) <= 1:
        return f"{word}:{_number(share)!r}"
    raise argparse.ArgumentTypeError(f"expected {expected}, got {short(text)}")


_RULES = " or ".join(f"{word}:{word[0].upper()}" for word in NAMED)


def rank_rule_or_auto(text: str) -> str:
    return text if text == "auto" else _rule(text, f"auto, {_RULES}")


def rank_rule(text: str) -> str:
    if text == "auto":
        why = "auto looks at the loss of a training, and there is none here"
        raise argparse.ArgumentTypeError(f"expected {_RULES}; {why}")
    return _rule(text, _RULES)


def integer(minimum: int, maximum: int = MAX_SIZE) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if not minimum <= value <= maximum:
            expected = f"an integer from {minimum} to {maximum}"
            raise argparse.ArgumentTypeError(f"expected {expected}, got {short(text)}")
        return value

    return parse


RANK_FRACTION: dict[str, Any] = {
    "type": _rank_fraction, "metavar": "A",
    "help": "keep A times the smaller side of a weight as its rank: 1/4 or 0.25",
}  # fmt: skip
THREADS: dict[str, Any] = {
    "type": integer(1, 1024), "metavar": "N", "help": "default: as many as the process may run on"
}  # fmt: skip
RULES = (
    "energy:E, the rank that keeps a share E of a weight's energy; "
    "budget:B, the most valuable directions for a share B of the multiplications"
)


def whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(integer(1)(item) for item in text.split(","))


def add_reading(group: Any) -> None:
    """Adds the arguments for reading text files to a group of a parser."""
    add = group.add_argument
    add("--header", action=argparse.BooleanOptionalAction,
        help="the first line has the names of the columns (default: found by looking)")  # fmt: skip
    add("--delimiter", type=delimiter, metavar="C",
        help="separator of columns: a character, or tab, comma, semicolon, space (default: found by looking)")  # fmt: skip
    add("--decimal", choices=(".", ","), default=".",
        help="character before the decimals of a number (default: a point)")  # fmt: skip
    add("--encoding", metavar="E", help="encoding of text: cp1252, latin-1, ... (default: UTF-8)")


def delimiter(text: str) -> str:
    """A character, or its name."""
    named = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " "}.get(text, text)
    if len(named) != 1 or named in '"\r\n\0':
        raise argparse.ArgumentTypeError(f"expected a character, or tab, comma, semicolon or space, got {short(text)}")
    return named


def check_writable(option: str, path: Path, suffixes: tuple[str, ...]) -> None:
    """Refuses, before the work is done, a file that could not be written after it."""
    if path.suffix not in suffixes:
        raise UsageError(f"{option}: expected a name that ends in {' or '.join(suffixes)}, got {short(str(path))}")
    if path.suffix == ".safetensors":
        try:
            io.check_name(path)
        except ImportError as error:
            raise Failure(f"{option}: {error}") from None
    if path.is_dir():
        raise Failure(f"{option}: {path} is a folder")
    with named_errors(f"{option}: {path.parent}"), tempfile.TemporaryFile(dir=path.parent):
        pass
