# SPDX-License-Identifier: BSD-3-Clause
"""What the command line's arguments are parsed by: numbers, fractions, rules for ranks, names of files to be written.

Not here: which arguments there are (main.py, model.py).
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

from svdfast._process.checks import MAX_SIZE
from svdfast.cli.data import Failure, UsageError, short
from svdfast.interop import files as io
from svdfast.model.ranks import NAMED

__all__ = [
    "check_writable",
    "integer",
    "layer_numbers",
    "momentum",
    "not_negative",
    "positive",
    "pretrain_fraction",
    "rank_fraction",
    "rank_rule",
    "rank_rule_or_auto",
    "threads",
    "widths",
]


def _number(text: str) -> float:
    """A number, also as a fraction: 1/4. NaN where it is none, which no range contains."""
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        return math.nan


def _checked(
    condition: Callable[[float], bool], expected: str
) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = _number(text)
        if not (math.isfinite(value) and condition(value)):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {short(text)}")
        return value

    return parse


rank_fraction = _checked(lambda x: 0 < x <= 1, "a number above 0 and at most 1")
pretrain_fraction = _checked(lambda x: 0 <= x <= 1, "a number from 0 to 1")
momentum = _checked(lambda x: 0 <= x < 1, "a number from 0 to below 1")
positive = _checked(lambda x: x > 0, "a number above 0")
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
        raise argparse.ArgumentTypeError(
            f"expected {_RULES}; auto measures steps of a training, and here is none"
        )
    return _rule(text, _RULES)


def integer(minimum: int, maximum: int = MAX_SIZE) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(
                f"expected an integer from {minimum} to {maximum}, got {short(text)}"
            )
        return value

    return parse


threads = integer(1, 1024)


def widths(text: str) -> tuple[int, ...]:
    return tuple(integer(1)(item) for item in text.split(","))


def layer_numbers(text: str) -> tuple[int, ...]:
    return () if text == "none" else widths(text)


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
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise Failure(f"{option}: {path.parent}: {error.strerror or error}") from None
