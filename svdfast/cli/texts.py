# SPDX-License-Identifier: BSD-3-Clause
"""Text for networks of characters: the windows of `svdfast train text FILE`, new text, and scores.

Elsewhere: the tokens of a text (data/text.py), and the network (networks.py).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast.cli.data import Data
from svdfast.cli.errors import Failure, UsageError, named_errors, short
from svdfast.data.text import decode, number, split
from svdfast.model.heads import CLASSES
from svdfast.model.network import Network
from svdfast.model.origin import Label
from svdfast.sequences import padded

__all__ = [
    "SAMPLE", "STEPS", "TEST_SHARE", "characters_of", "check_text", "continued", "foretold", "load_text", "made_by", "shown",
    "take_file",
]  # fmt: skip

STEPS = 100
SAMPLE = 300
TEST_SHARE = 0.1

# Options of other data, and their values if they are not given.
_OTHERS = {
    "test": None, "task": "auto", "no_standardise": False, "target": None, "drop": None, "categorical": None, "header": None,
    "delimiter": None, "decimal": ".",
}  # fmt: skip


def take_file(arguments: argparse.Namespace, unknown: list[str]) -> list[str]:
    """Takes the FILE of "text --epochs 1 FILE" from the remaining arguments.

    argparse may end positional arguments at an option.
    """
    if arguments.data == "text" and arguments.file is None and unknown and (unknown[0] == "-" or not unknown[0].startswith("-")):
        arguments.file, *unknown = unknown
    return unknown


def check_text(arguments: argparse.Namespace) -> None:
    """Refuses options that do not go with text, or only go with it."""
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
    _refuse_others(arguments)


def _refuse_others(arguments: argparse.Namespace) -> None:
    for option, absent in _OTHERS.items():
        if getattr(arguments, option, absent) != absent:
            raise UsageError(f"--{option.replace('_', '-')}: goes with tables and arrays, not with text")


def load_text(arguments: argparse.Namespace) -> Data:
    """Loads the windows of a file, its last tenth as test samples."""
    name = arguments.file
    text = _read(name, arguments)
    with named_errors(name):
        steps = STEPS if arguments.steps is None else arguments.steps
        share = TEST_SHARE if arguments.test_size is None else arguments.test_size
        try:
            (X, y), (X_test, y_test), characters = split(text, steps, share)
        except ValueError as error:
            hint = " (--steps takes shorter windows)" if " steps " in str(error) else ""
            raise Failure(f"{error}{hint}") from None
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


def _read(name: str, arguments: argparse.Namespace) -> str:
    with named_errors(name):
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        try:
            return decode(content, arguments.encoding or "utf-8")
        except ValueError as error:
            message = str(error)
            if message.startswith("encoding: "):
                raise UsageError(f"--{message}") from None
            hint = " (--encoding names another one, such as cp1252)" if " at byte " in message else ""
            raise Failure(f"{message}{hint}") from None


def characters_of(net: Network) -> tuple[str, ...] | None:
    """The characters of a network that takes and predicts them; None for any other network."""
    layout, classes = net.layout, net.classes or ()
    texts = tuple(label for label in classes if isinstance(label, str) and len(label) == 1)
    of_text = len(texts) == len(classes) == layout.n_tokens > 0 and len(layout.output_shape) == 2
    return texts if of_text else None


def _steps(net: Network) -> int:
    """Steps of a window."""
    return STEPS if net.layout.any_steps else net.layout.input_shape[0]


def _tokens(text: str, characters: Sequence[str]) -> tuple[NDArray[Any], int]:
    """A text as a network's tokens, without unknown characters, and the number of these."""
    numbered = {character: i for i, character in enumerate(characters)}
    own, different = number(text)
    tokens = np.array([numbered.get(character, -1) for character in different], dtype=np.int32)[own]
    known: NDArray[Any] = tokens[tokens >= 0]
    return known, len(tokens) - len(known)


def foretold(net: Network, characters: Sequence[str], arguments: argparse.Namespace) -> list[str]:
    """Lines about how well a network predicts each character of a file.

    It sees the characters before it in its window.
    """
    _refuse_others(arguments)
    text, steps = _read(arguments.data, arguments), _steps(net)
    if len(text) < 2:
        raise Failure(f"{arguments.data}: expected at least two characters, got {len(text)}")
    tokens, unknown = _tokens(text, characters)
    if len(tokens) < 2:
        raise Failure(f"{arguments.data}: expected at least two characters that the network knows, got {len(tokens) or 'none'}")
    starts = range(0, len(tokens) - 1, steps)
    X, _ = padded([tokens[start : start + steps] for start in starts], steps)
    y, weights = padded([tokens[start + 1 : start + steps + 1] for start in starts], steps)
    found = net.evaluate(X, y, sample_weight=weights, n_threads=arguments.threads)
    lines = [
        f"{len(text):,} characters of {arguments.data}, in windows of {steps:,}",
        f"bits a character {found.loss / math.log(2):.4f}",
        f"accuracy         {100 * (found.accuracy or 0):.2f} %",
    ]
    return [*lines, f"not seen in training, and left out: {unknown:,} character{'s' * (unknown > 1)}"] if unknown else lines


def continued(net: Network, characters: Sequence[str], arguments: argparse.Namespace) -> tuple[str, int]:
    """A network's continuation of a file, and the number of unknown characters at its end."""
    _refuse_others(arguments)
    text = _read(arguments.data, arguments)[-_steps(net) :]
    tokens, unknown = _tokens(text, characters)
    n = SAMPLE if arguments.sample is None else arguments.sample
    return made_by(net, characters, n, arguments.seed or 0, tokens.tolist()), unknown


def made_by(net: Network, characters: Sequence[Label], n: int, seed: int, start: Sequence[int] = ()) -> str:
    """Text that a network writes after these tokens, drawn by its probabilities.

    Without tokens it begins after a line break, if the network knows one.


    Each character follows from those before it, at most as many as the network has steps.
    """
    steps, rng = _steps(net), np.random.default_rng(seed)
    tokens = list(start) or [characters.index("\n") if "\n" in characters else 0]
    n_given = len(tokens)
    window = np.zeros((1, steps), dtype=np.int32)
    for _ in range(n):
        last = tokens[-steps:]
        window[0, : len(last)] = last  # later tokens do not affect earlier ones
        total = np.cumsum(net.predict(window)[0, len(last) - 1], dtype=np.float64)
        tokens.append(min(int(np.searchsorted(total, rng.random() * total[-1], side="right")), len(characters) - 1))
    return "".join(str(characters[token]) for token in tokens[n_given:])


def shown(text: str) -> str:
    """Text for a terminal: line breaks stay, everything else that can't be printed is escaped."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text.replace("\r\n", "\n"))
