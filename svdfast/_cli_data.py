# SPDX-License-Identifier: BSD-3-Clause
"""What the command line trains on: sets that have a name, CSV and NPZ files of the user's, and what is taken where the user does not say.

Not here: where the named sets come from (datasets.py).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import logging
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from svdfast import datasets
from svdfast.network import Network

__all__ = ["DEFAULTS", "FILE_DEFAULTS", "MOST_CLASSES", "Data", "Failure", "UsageError", "load", "short", "with_scales"]

Array = NDArray[Any]

MOST_CLASSES = 100


class UsageError(Exception):
    """The arguments are not right: exit code 2."""


class Failure(Exception):
    """What was asked for could not be done: exit code 1."""


@dataclass(frozen=True)
class Defaults:
    """What a data set is trained with where the user does not say."""

    hidden: tuple[int, ...]
    rank_fraction: float
    epochs: int
    batch_size: int
    learning_rate: float
    # Hidden layers that stay dense, from 1; None: the first one, if it is narrow.
    keep_dense: tuple[int, ...] | None = ()


FILE_DEFAULTS = Defaults((512, 256), 1 / 4, 20, 256, 1e-3, keep_dense=None)
DEFAULTS = {
    "digits": Defaults((1024, 1024), 1 / 8, 40, 128, 1e-3, keep_dense=None),
    "xor": Defaults((20, 20), 1 / 2, 800, 4, 1e-2),
    "mnist": Defaults((512, 256), 1 / 4, 20, 2048, 3e-4),
    "fashion-mnist": Defaults((512, 256), 1 / 4, 20, 2048, 3e-4),
    "cat": Defaults((100,), 1 / 2, 100, 209, 1e-3),
}


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class Data:
    """Samples for training and testing, as the network takes them."""

    title: str
    X: Array
    y: Array
    X_test: Array
    y_test: Array
    n_classes: int | None  # None: regression
    notes: tuple[str, ...] = ()
    # Mean and standard deviation that features and targets were standardised with.
    X_scale: tuple[Array, Array] | None = None
    y_scale: tuple[Array, Array] | None = None

    @property
    def n_out(self) -> int:
        return 1 if self.n_classes in (None, 2) else int(self.n_classes or 0)

    @property
    def output(self) -> str:
        return {None: "identity", 2: "sigmoid"}.get(self.n_classes, "softmax")


def load(arguments: argparse.Namespace) -> Data:
    name = arguments.data
    if name in DEFAULTS:
        return _load_named(name)
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in (".csv", ".npz"):
        raise UsageError(
            f"expected one of {', '.join(DEFAULTS)} or a file that ends in .csv or .npz, "
            f"got {short(name)}\nTry 'svdfast train --help'."
        )
    notes: list[str] = []
    try:
        if suffix == ".csv":
            X, y, test = _read_csv(name, notes)
        else:
            X, y, test = _read_npz(name)
        return _prepare(arguments, X, y, test, notes)
    except OSError as error:
        raise Failure(f"{name}: {error.strerror or error}") from None
    except Failure as error:
        raise Failure(f"{name}: {error}") from None


def _load_named(name: str) -> Data:
    try:
        with _log_on_stderr():
            data = datasets.load(name)
    except (ImportError, OSError, ValueError) as error:
        raise Failure(f"{name}: {error}") from None
    return Data(name, *data.train, *data.test, data.n_classes)


@contextlib.contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Shows the library's log, which tells of downloads."""
    logger = logging.getLogger("svdfast")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("svdfast: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _read_csv(name: str, notes: list[str]) -> tuple[Array, Array, None]:
    try:
        with open(name, encoding="utf-8-sig", newline="") as file:
            first = next(csv.reader(file), [])
            header = any(field.strip() and not _is_number(field) for field in first)
            file.seek(0)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of no data, which is an error below
                    table = np.loadtxt(
                        file, delimiter=",", comments=None, quotechar='"', ndmin=2,
                        skiprows=int(header),
                    )  # fmt: skip
            except ValueError as error:
                raise Failure(_find_csv_error(file, header) or str(error)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise Failure(f"not a text file with commas: {error}") from None
    if table.size == 0:
        raise Failure("expected rows of numbers, got none")
    if table.shape[1] < 2:
        raise Failure("expected at least two columns, with commas between them, got one")
    if header:
        notes.append("first line taken for the names of the columns")
    return table[:, :-1], table[:, -1], None


def _find_csv_error(file: TextIO, header: bool) -> str | None:
    """Says where a CSV file is wrong: NumPy's own message counts rows without the header."""
    file.seek(0)
    rows = csv.reader(file)
    if header:
        next(rows)
    n_columns = 0
    for row in rows:
        if not row:
            continue
        n_columns = n_columns or len(row)
        if len(row) != n_columns:
            return f"line {rows.line_num}: expected {n_columns} columns, got {len(row)}"
        for column, field in enumerate(row, 1):
            if not _is_number(field):
                return (
                    f"line {rows.line_num}, column {column}: expected a number, got {short(field)}"
                )
    return None


def _read_npz(name: str) -> tuple[Array, Array, tuple[Array, Array] | None]:
    try:
        # Opened here, for NumPy leaves a damaged file open.
        with open(name, "rb") as file, contextlib.ExitStack() as stack:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise Failure("not an .npz file")
            stack.enter_context(archive)
            missing = [key for key in ("X", "y") if key not in archive]
            if missing:
                there = ", ".join(archive.files[:10]) or "none"
                raise Failure(
                    f"expected arrays X and y, got no {' and no '.join(missing)} (there: {there})"
                )
            if ("X_test" in archive) != ("y_test" in archive):
                raise Failure("expected both X_test and y_test or none of them, got one")
            test = (archive["X_test"], archive["y_test"]) if "X_test" in archive else None
            return archive["X"], archive["y"], test
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        # NumPy tells of pickles wherever it does not know the format.
        raise Failure(f"not an .npz file of plain arrays ({error})") from None


def _check_samples(X: Array, y: Array, names: tuple[str, str]) -> tuple[Array, Array]:
    """Samples in rows and as many single targets, all of them finite real numbers."""
    for array, name in zip((X, y), names, strict=True):
        if array.dtype.kind not in "biuf":
            raise Failure(f"{name}: expected real numbers, got dtype {array.dtype}")
    if X.ndim < 2 or X.size == 0:
        raise Failure(f"{names[0]}: expected samples in rows, got shape {X.shape}")
    if y.shape not in ((len(X),), (len(X), 1)):
        raise Failure(f"{names[1]}: expected {len(X)} targets, got shape {y.shape}")
    X, y = X.reshape(len(X), -1), y.reshape(len(X))
    for array, name in zip((X, y), names, strict=True):
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            raise Failure(
                f"{name}: expected finite numbers, got NaN or infinity in row "
                f"{int(finite.argmin()) + 1} of {len(array)}"
            )
    return X, y


def _prepare(
    arguments: argparse.Namespace,
    X: Array,
    y: Array,
    test: tuple[Array, Array] | None,
    notes: list[str],
) -> Data:
    """Checks samples, holds some out for the test, names the classes and standardises."""
    X, y = _check_samples(X, y, ("X", "y"))
    if test is None:
        if len(X) < 2:
            raise Failure("expected at least 2 samples, got 1")
        order = np.random.default_rng(arguments.seed).permutation(len(X))
        n_test = max(1, round(0.2 * len(X)))
        held_out, kept = order[:n_test], order[n_test:]
        X, X_test, y, y_test = X[kept], X[held_out], y[kept], y[held_out]
        notes.append(f"a fifth of the rows held out as the test set (seed {arguments.seed})")
    else:
        X_test, y_test = _check_samples(*test, ("X_test", "y_test"))
        if X_test.shape[1] != X.shape[1]:
            raise Failure(f"X_test: expected {X.shape[1]} features, got {X_test.shape[1]}")

    labels = np.unique(np.concatenate([y, y_test]))
    if len(labels) == 1:
        raise Failure(f"y: expected different targets, got {labels[0]} alone")
    integers = bool((labels == np.floor(labels)).all())
    task = arguments.task
    if task == "auto":
        few = len(labels) <= min(MOST_CLASSES, max(2, len(y) // 2))
        task = "classification" if integers and few else "regression"
    n_classes, y_scale, X_scale = None, None, None
    standardise = not arguments.no_standardise
    if task == "classification":
        if not integers:
            raise Failure("y: expected integers for classification, got other numbers")
        n_classes = len(labels)
        y, y_test = np.searchsorted(labels, y), np.searchsorted(labels, y_test)
        if (labels != np.arange(n_classes)).any():
            shown = ", ".join(f"{label:g}" for label in labels[:10].astype(float))
            more = ", ..." if n_classes > 10 else ""
            notes.append(f"classes {shown}{more} numbered from 0")
    elif standardise:
        y_scale = _scale(y[:, np.newaxis], "y")
        y, y_test = ((part - y_scale[0]) / y_scale[1] for part in (y, y_test))
        notes.append("target brought to mean 0 and standard deviation 1, and the loss with it")
    if X.dtype == np.uint8 and X_test.dtype == np.uint8:
        notes.append("features are uint8: taken for pixels and divided by 255")
    elif standardise:
        X_scale = _scale(X, "X")
        X, X_test = (((part - X_scale[0]) / X_scale[1]) for part in (X, X_test))
        notes.append(
            "features brought to mean 0 and standard deviation 1 of the training samples"
        )
    # The test samples may lie far outside of the training's range.
    for part, name in ((X, "X"), (X_test, "X_test"), (y, "y"), (y_test, "y_test")):
        with np.errstate(over="ignore"):
            if not np.isfinite(part.astype(arguments.dtype, copy=False)).all():
                raise Failure(f"{name}: expected numbers that {arguments.dtype} can hold")
    title = os.path.basename(arguments.data)
    return Data(title, X, y, X_test, y_test, n_classes, tuple(notes), X_scale, y_scale)


def _scale(values: Array, name: str) -> tuple[Array, Array]:
    """Mean and standard deviation of each column, 1 where a column does not vary."""
    with np.errstate(all="ignore"):
        mean = values.mean(axis=0, dtype=np.float64)
        deviation = values.std(axis=0, dtype=np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise Failure(f"{name}: the numbers are too large to standardise")
    return mean, np.where(deviation == 0, 1.0, deviation)


def with_scales(net: Network, data: Data) -> Network:
    """A network that takes the file's own features and, in a regression, gives its own targets.

    Standardising is linear, so the first layer and the last one can take it in.
    """
    net = net.copy()
    if data.X_scale is not None:
        mean, deviation = data.X_scale
        layer = net.layers[0]
        W = layer.W / deviation
        layer.b[...] = layer.b - W @ mean
        layer.W[...] = W
    if data.y_scale is not None:
        mean, deviation = data.y_scale
        layer = net.layers[-1]
        layer.W[...] = layer.W * deviation
        layer.b[...] = layer.b * deviation + mean
    return net
