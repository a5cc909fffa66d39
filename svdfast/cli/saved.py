# SPDX-License-Identifier: BSD-3-Clause
"""A saved network and its data: samples as it takes them, numbered answers, labels of its outputs.

Elsewhere: the commands (predict.py, evaluate.py, compress.py, export.py, info.py), and reading
files (tables.py, arrays.py).
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from svdfast.cli.arrays import check_samples, read_npy, read_npz
from svdfast.cli.data import DEFAULTS, is_npz, load_named
from svdfast.cli.errors import Failure, named_errors
from svdfast.cli.tables import is_table, read_table, reading_of
from svdfast.data.checks import check_tokens
from svdfast.data.preparation import Place, read_numbers, read_texts
from svdfast.interop import files as io
from svdfast.model.evaluation import spec_of
from svdfast.model.heads import CLASSES, Head, head_of
from svdfast.model.network import Network
from svdfast.model.origin import Label

__all__ = ["DATA", "MODEL", "AddCommand", "Asked", "head", "labels", "load_model", "named", "outputs", "samples"]

Array = NDArray[Any]

MODEL: dict[str, Any] = {"metavar": "MODEL", "help": "file of a network"}

DATA = f"""\
  FILE           a table: CSV, TSV and other text, also packed (.gz, .bz2, .xz), Parquet, Feather,
                 Excel; - reads text from standard input. Columns are found by their names, in any
                 order; others are left out. A network without names takes columns by their place
  FILE.npz       array X (a sample in a row), and y if there are targets; uint8 is taken for pixels
                 and multiplied by 1/255, as in training (in a table nothing is)
  FILE.npy       X alone
  {", ".join(DEFAULTS)}
"""


class AddCommand(Protocol):
    def __call__(
        self, name: str, run: Callable[[argparse.Namespace], None], **texts: Any
    ) -> argparse.ArgumentParser: ...


@dataclass(frozen=True)
class Asked:
    """Samples for a network.

    Attributes
    ----------
    X : ndarray (n_samples, n_inputs)
    y : ndarray, optional
        The right answers: class numbers (n_samples,) for softmax; bits or numbers (n_samples,
        n_outputs). -1 is a class that the network does not know. None if the data has no answers.
    notes : tuple of str
        Remarks about rows left out and gaps filled.
    lines : ndarray of int, optional
        The line of a text file that each row begins in.
    """

    X: Array
    y: Array | None
    notes: tuple[str, ...] = ()
    lines: Array | None = None

    def row(self, number: int) -> str:
        """The place of a row, in words."""
        return f"row {number + 1} of {len(self.X)}" if self.lines is None else f"line {self.lines[number]}"


def load_model(name: str) -> Network:
    try:
        with named_errors(name):
            return io.load(name)
    except ImportError as error:
        raise Failure(f"{name}: {error}") from None
    except ValueError as error:
        raise Failure(" ".join(str(error).removeprefix("path: ").split())) from None


def head(net: Network) -> Head:
    return head_of(net.layers[-1].activation)


def named(net: Network) -> list[tuple[str, tuple[Label, ...] | None]]:
    """Name and classes of each target of a network; "" if the name is not known."""
    preparation, kind = net.origin.preparation, head(net)
    if preparation is not None:
        return [(target.name, target.classes) for target in preparation.targets]
    n_targets = kind.n_targets(net.sizes[-1])
    if n_targets == 1:
        numbered = tuple(range(kind.n_values(net.sizes[-1]))) if kind.decides else None
        return [("", net.classes or numbered)]
    return [(f"output {i}", (0, 1) if kind.decides else None) for i in range(1, n_targets + 1)]


def samples(net: Network, command: str, arguments: argparse.Namespace, *, answers: bool, training: bool = False) -> Asked:
    """The samples of a file or a named data set, and their answers if wanted and available.

    Raises
    ------
    Failure
        The file can't be read, or does not fit the network.
    """
    asked = _samples(net, command, arguments, answers, training)
    try:
        check_tokens("X", asked.X, spec_of(net))
    except ValueError as error:
        raise Failure(f"{arguments.data}: {error}") from None
    return asked


def _samples(net: Network, command: str, arguments: argparse.Namespace, answers: bool, training: bool) -> Asked:
    name, n_in, n_targets = arguments.data, net.sizes[0], len(named(net))
    if len(net.layout.output_shape) > 1:
        steps = "any number of" if net.layout.any_steps else net.layout.output_shape[0]
        got = f"one with an output for each of {steps} steps"
        raise Failure(f"{arguments.model}: expected a network with one output for a sample, got {got}")
    if is_table(name):
        preparation = net.origin.preparation
        known = net.feature_names or ()
        if preparation is not None:
            known = tuple(column.name for column in (*preparation.columns, *preparation.targets))
        table = read_table(name, reading_of(arguments), known)
        with named_errors(name):
            try:
                asked = _of_table(net, table.frame, answers)
            except ValueError as error:
                raise Failure(error) from None
        lines = table.frame.index.to_numpy() if table.frame.index.name == "line" else None
        return Asked(asked.X, asked.y, (*table.warnings, *asked.notes), lines)
    if name not in DEFAULTS and not name.lower().endswith(".npy"):
        is_npz(name, command)  # or a UsageError
    with named_errors(name):
        X, y = _named_set(name, training) if name in DEFAULTS else _arrays(name, training)
        if y is None or not answers:
            X, _ = check_samples(X, np.zeros(len(X) if X.ndim else 0), ("X", "y"))
            y = None
        elif y.dtype.kind in "US":
            X, _ = check_samples(X, np.zeros(len(y)), ("X", "y"))
        else:
            X, y = check_samples(X, y, ("X", "y"), n_targets)
        if X.shape[1] != n_in and not (net.layout.any_steps and X.shape[1] and X.shape[1] % n_in == 0):
            raise Failure(f"X: expected {n_in} features, as the network takes, got {X.shape[1]}")
        return Asked(X, None if y is None else _numbered(net, [y] if y.ndim == 1 else list(y.T)))


def _named_set(name: str, training: bool) -> tuple[Array, Array]:
    data = load_named(name)
    return (data.X, data.y) if training else (data.X_test, data.y_test)


def _arrays(name: str, training: bool) -> tuple[Array, Array | None]:
    """X, and y if available: those for training, or those for a test if there are both."""
    if os.path.splitext(name)[1].lower() == ".npy":
        return read_npy(name), None
    parts = ("", "_train", "_test") if training else ("", "_test", "_train")
    pairs = [(X + part, y + part) for part in parts for X, y in (("X", "y"), ("x", "y"))]
    arrays, there = read_npz(name, list(dict.fromkeys(itertools.chain.from_iterable(pairs))))
    for X, y in pairs:
        if X in arrays:
            return arrays[X], arrays.get(y)
    raise Failure(f"expected array X, got no X (there: {', '.join(there[:10]) or 'none'})")


def _of_table(net: Network, frame: Any, answers: bool) -> Asked:
    preparation = net.origin.preparation
    if preparation is not None:
        y = preparation.answers(frame) if answers else None
        if y is not None and head(net) is not CLASSES:
            y = y.reshape(len(frame), -1)
        return Asked(preparation.features(frame), y, tuple(preparation.notes(frame)))
    names = [str(name) for name in frame.columns]
    n_in, n_targets = net.sizes[0], len(named(net))
    notes = []
    if net.feature_names is not None and set(net.feature_names) & set(names):
        missing = [name for name in net.feature_names if name not in names]
        if missing:
            raise Failure(f"expected columns {_listed(net.feature_names)}, got no {_listed(missing)}")
        inputs, others = [names.index(name) for name in net.feature_names], []
        others = [i for i, name in enumerate(names) if name not in net.feature_names]
        if len(others) != n_targets:
            if others:
                notes.append(f"left out, as the network has no such input: {_listed([names[i] for i in others])}")
            others = []
    else:
        if len(names) not in (n_in, n_in + n_targets):
            raise Failure(f"expected {n_in} columns, as the network takes, or {n_in + n_targets} with targets, got {len(names)}")
        inputs, others = list(range(n_in)), list(range(n_in, len(names)))
    X = np.column_stack([_numbers(frame, i) for i in inputs])
    return Asked(X, _numbered(net, [frame.iloc[:, i] for i in others]) if answers and others else None, tuple(notes))


def _numbers(frame: Any, column: int) -> Array:
    """A column that must have a number in each row."""
    place = Place(frame, frame.columns[column])
    numbers = read_numbers(frame.iloc[:, column], place)
    gaps = np.flatnonzero(np.isnan(numbers))
    if gaps.size:
        raise ValueError(f"{place(int(gaps[0]))}: expected a number, got none")
    return numbers


def _numbered(net: Network, targets: Sequence[Any]) -> Array:
    """Answers as the network numbers them, from the data's own values of each target."""
    columns: list[Array] = []
    for values, (_, classes) in zip(targets, named(net), strict=True):
        texts = read_texts(values)
        if "" in texts:
            raise Failure(f"y: expected a target in each row, got none in row {texts.index('') + 1}")
        if classes is None:
            columns.append(np.array([float(text) for text in texts]))
        else:
            known = {text: number for number, text in enumerate(read_texts(np.array(classes, dtype=object)))}
            if known == {"0": 0, "1": 1}:
                known |= {"False": 0, "True": 1}
            columns.append(np.array([known.get(text, -1) for text in texts], dtype=np.int64))
    return columns[0] if head(net) is CLASSES else np.column_stack(columns)


def outputs(net: Network, asked: Asked, name: str, **settings: Any) -> Array:
    """Outputs (n_samples, n_outputs), all of them numbers."""
    X = asked.X
    if X.dtype.kind == "f":
        with np.errstate(over="ignore"):
            held = np.isfinite(X.astype(net.dtype, copy=False))
        if not held.all():
            row, column = np.argwhere(~held)[0]
            which = repr(net.feature_names[column]) if net.feature_names else column + 1
            raise Failure(
                f"{name}: {asked.row(row)}, column {which}: expected a number that {net.dtype} can hold, got {X[row, column]:.6g}"
            )
    found = net.predict(X, **settings)
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        raise Failure(f"{name}: the network's outputs for {asked.row(int(finite.argmin()))} are not finite")
    return found


def labels(net: Network, found: Array) -> Array:
    """The answers that outputs stand for.

    They are labels (n_samples,) or (n_samples, n_targets), or the numbers themselves.
    """
    kind = head(net)
    if not kind.decides:
        return found
    numbers = kind.decide(found).astype(np.int64).reshape(len(found), -1)
    columns = [np.array(classes)[numbers[:, i]] for i, (_, classes) in enumerate(named(net))]
    return columns[0] if len(columns) == 1 else np.column_stack(columns)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name)[:60] for name in names[:10])
    return f"{shown}, ..." if len(names) > 10 else shown
