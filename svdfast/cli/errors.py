# SPDX-License-Identifier: BSD-3-Clause
"""Reports of errors on the command line: its two errors, and words that messages share."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator

from svdfast._process import checks

__all__ = ["Failure", "UsageError", "named_errors", "nearest", "short", "tell"]


class UsageError(Exception):
    """The arguments are wrong: exit code 2."""


class Failure(Exception):
    """The command could not do its work: exit code 1."""


@contextlib.contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Puts a file's name before the message of an error in it."""
    name = "standard input" if name == "-" else name
    try:
        yield
    except OSError as error:
        raise Failure(f"{name}: {error.strerror or error}") from None
    except Failure as error:
        raise Failure(f"{name}: {error}") from None


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def nearest(word: str, known: Iterable[str]) -> str:
    """A question after an unknown word; empty if no known word is like it."""
    near = checks.nearest(word, known)
    return "" if near is None else f" (did you mean {near}?)"


def tell(line: str) -> None:
    """Prints a line on standard error, beside the results."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    print(f"svdfast: {line}".encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr, flush=True)
