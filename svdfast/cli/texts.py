# SPDX-License-Identifier: BSD-3-Clause
"""`svdfast train text FILE`: the file as windows of characters, and a sample that a network makes.

Not here: how text becomes tokens (data/text.py), and the network (networks.py).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from svdfast.cli.data import Data
from svdfast.cli.errors import Failure, UsageError, named_errors, short
from svdfast.data.text import decode, split
from svdfast.model.heads import CLASSES
from svdfast.model.network import Network
from svdfast.model.origin import Label

__all__ = ["SAMPLE", "STEPS", "TEST_SHARE", "check_text", "load_text", "made_by", "shown"]

STEPS = 100
SAMPLE = 300
TEST_SHARE = 0.1

# Options of other data, and what they are where they are not given.
_OTHERS = {
    "test": None, "task": "auto", "no_standardise": False, "target": None, "drop": None, "categorical": None, "header": None,
    "delimiter": None, "decimal": ".",
}  # fmt: skip


def check_text(arguments: argparse.Namespace) -> None:
    """Refuses options that do not go with text, or that go with it alone."""
    if arguments.data != "text":
        if arguments.file is not None:
            raise UsageError(
                f"unrecognized arguments: {short(arguments.file)[1:-1]} (a FILE goes after text alone)\nTry 'svdfast train --help'."
            )
        for option in ("steps", "sample"):
            if getattr(arguments, option) is not None:
                raise UsageError(f"--{option}: goes with svdfast train text FILE")
        return
    if arguments.file is None:
        raise UsageError("text: expected a FILE of text after it (a table of that name is ./text)\nTry 'svdfast train --help'.")
    for option, absent in _OTHERS.items():
        if getattr(arguments, option) != absent:
            raise UsageError(f"--{option.replace('_', '-')}: goes with tables and arrays, not with text")


def load_text(arguments: argparse.Namespace) -> Data:
    """The windows of a file, its last tenth as test samples."""
    name = arguments.file
    with named_errors(name):
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        steps = STEPS if arguments.steps is None else arguments.steps
        share = TEST_SHARE if arguments.test_size is None else arguments.test_size
        try:
            text = decode(content, arguments.encoding or "utf-8")
            (X, y), (X_test, y_test), characters = split(text, steps, share)
        except ValueError as error:
            raise Failure(_with_hints(str(error))) from None
    n_left = len(text) - X.size - X_test.size
    notes = [f"{len(text):,} characters, {len(characters):,} different ones; the last {100 * share:g} % are the test set"]
    if n_left:
        notes.append(f"left out, as they fill no window of {steps}: {n_left:,} character{'s' * (n_left > 1)}")
    unseen = np.setdiff1d(X_test, np.append(X.ravel(), y.ravel()))
    if unseen.size:
        listed = " ".join(repr(characters[i]) for i in unseen[:10])
        notes.append(f"in the test set alone: {listed}{' ...' if unseen.size > 10 else ''}")
    title = "standard input" if name == "-" else os.path.basename(name)
    return Data(title, X, y, X_test, y_test, CLASSES, len(characters), characters, tuple(notes), is_text=True)


def _with_hints(message: str) -> str:
    """The options that a message of the library is about."""
    if message.startswith("encoding: "):
        return f"--{message}"
    if " at byte " in message:
        return f"{message} (--encoding names another one, such as cp1252)"
    return f"{message} (--steps takes shorter windows)" if " steps " in message else message


def made_by(net: Network, characters: Sequence[Label], n: int, seed: int) -> str:
    """Text that a network makes, drawn by its probabilities, after a line break if it knows one.

    Each character follows from those before it, at most as many as the network has steps.
    """
    (steps,), rng = net.layout.input_shape, np.random.default_rng(seed)
    tokens = [characters.index("\n") if "\n" in characters else 0]
    window = np.zeros((1, steps), dtype=np.int32)
    for _ in range(n):
        last = tokens[-steps:]
        window[0, : len(last)] = last  # what is after them changes nothing before
        total = np.cumsum(net.predict(window)[0, len(last) - 1], dtype=np.float64)
        tokens.append(min(int(np.searchsorted(total, rng.random() * total[-1], side="right")), len(characters) - 1))
    return "".join(str(characters[token]) for token in tokens[1:])


def shown(text: str) -> str:
    """Text as a terminal may show it: line breaks as they are, escapes for all else that can't be printed."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text.replace("\r\n", "\n"))
