# SPDX-License-Identifier: BSD-3-Clause
"""What the command line trains on and predicts from: sets that have a name, CSV and NPZ files of the user's, and what is taken where the
user does not say.

Not here: where the named sets come from (datasets.py).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

import svdfast.datasets as datasets
from svdfast._process.files import DAMAGED, check_claim
from svdfast._process.runtime import single_threaded_blas
from svdfast.model.heads import CLASSES, Head, head_for
from svdfast.model.network import Layer, Network
from svdfast.model.origin import Origin

__all__ = [
    "DEFAULTS", "FILE_DEFAULTS", "MOST_CLASSES", "Data", "Failure", "Scale", "UsageError", "load",
    "load_samples", "named_errors", "scale_of", "short", "take_in", "take_out", "with_scales",
]  # fmt: skip

Array = NDArray[Any]
Scale: TypeAlias = tuple[Array, Array]  # mean and standard deviation of each column

MOST_CLASSES = 100
_MOST_DEVIATIONS = 1000


class UsageError(Exception):
    """The arguments are not right: exit code 2."""


class Failure(Exception):
    """What was asked for could not be done: exit code 1."""


@dataclass(frozen=True)
class Defaults:
    """What a data set is trained with where the user does not say."""

    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    learning_rate: float


FILE_DEFAULTS = Defaults((512, 256), 20, 256, 1e-3)
DEFAULTS = {
    "digits": Defaults((1024, 1024), 100, 128, 1e-3),
    "xor": Defaults((20, 20), 800, 4, 1e-2),
    "mnist": Defaults((512, 256), 20, 2048, 3e-4),
    "fashion-mnist": Defaults((512, 256), 20, 2048, 3e-4),
    "cat": Defaults((100,), 100, 209, 1e-3),
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
    labels: tuple[int, ...] | None = None  # of the classes, where they are not 0, 1, ...
    # Mean and standard deviation that features and targets were standardised with.
    X_scale: Scale | None = None
    y_scale: Scale | None = None

    @property
    def origin(self) -> Origin:
        """What a file of a network has of the data."""
        if self.X_scale is None:
            return Origin(self.labels)
        mean, deviation = self.X_scale
        return Origin(self.labels, None, tuple(mean.tolist()), tuple(deviation.tolist()))

    @property
    def n_out(self) -> int:
        return int(self.n_classes or 0) if self.head is CLASSES else 1

    @property
    def head(self) -> Head:
        return head_for(self.n_classes)


def load(arguments: argparse.Namespace) -> Data:
    """What `svdfast train` trains on."""
    name = arguments.data
    if name in DEFAULTS:
        return _load_named(name)
    suffix = _suffix(name, "train")
    notes: list[str] = []
    with named_errors(name):
        test = None
        if suffix == ".csv":
            table, header = _read_csv(name)
            if table.shape[1] < 2:
                raise Failure("expected at least two columns, with commas between them, got one")
            if header:
                notes.append("first line taken for the names of the columns")
            X, y = table[:, :-1], table[:, -1]
        else:
            arrays = _read_npz(name, ("X", "y"), ("X_test", "y_test"))
            if ("X_test" in arrays) != ("y_test" in arrays):
                raise Failure("expected both X_test and y_test or none of them, got one")
            X, y = arrays["X"], arrays["y"]
            if "X_test" in arrays:
                test = arrays["X_test"], arrays["y_test"]
        return _prepare(arguments, X, y, test, notes)


def load_samples(name: str, command: str, n_in: int, n_targets: int, *, training: bool = False) -> tuple[Array, Array | None]:
    """Samples (p, n_in) for a network that is trained, and targets (p,) or (p, n_targets) where they are there.

    Of a set that has a name, its test samples or those for training; of a CSV file, columns after the first `n_in` are targets; of an
    NPZ file, X and y. Numbers are as they were stored.
    """
    if name in DEFAULTS:
        data = _load_named(name)
        X, y = (data.X, data.y) if training else (data.X_test, data.y_test)
        if X.shape[1] != n_in:
            raise Failure(f"{name}: expected {n_in} features, as the network takes, got {X.shape[1]}")
        return X, y
    suffix = _suffix(name, command)
    with named_errors(name):
        targets: Array | None
        if suffix == ".csv":
            table, _ = _read_csv(name)
            if table.shape[1] not in (n_in, n_in + n_targets):
                known = f"{n_in} columns, as the network takes, or {n_in + n_targets} with targets"
                raise Failure(f"expected {known}, got {table.shape[1]}")
            X, targets = table[:, :n_in], (table[:, n_in:] if table.shape[1] > n_in else None)
        else:
            arrays = _read_npz(name, ("X",), ("y",))
            X, targets = arrays["X"], arrays.get("y")
        if targets is None:
            X, _ = _check_samples(X, np.zeros(len(X) if X.ndim else 0), ("X", "y"))
        else:
            X, targets = _check_samples(X, targets, ("X", "y"), n_targets)
        if X.shape[1] != n_in:
            raise Failure(f"X: expected {n_in} features, as the network takes, got {X.shape[1]}")
        return X, targets


def _suffix(name: str, command: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in (".csv", ".npz"):
        raise UsageError(
            f"expected one of {', '.join(DEFAULTS)} or a file that ends in .csv or .npz, "
            f"got {short(name)}\nTry 'svdfast {command} --help'."
        )
    return suffix


@contextlib.contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Puts a file's name before what was wrong with it."""
    try:
        yield
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


def _read_csv(name: str) -> tuple[Array, bool]:
    """Rows of numbers, and whether names of the columns came first."""
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
    return table, header


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
                place = f"line {rows.line_num}, column {column}"
                return f"{place}: expected a number, got {short(field)}"
    return None


def _read_npz(name: str, needed: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, Array]:
    try:
        # Opened here, for NumPy leaves a damaged file open.
        with open(name, "rb") as file, contextlib.ExitStack() as stack:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise Failure("not an .npz file")
            stack.enter_context(archive)
            missing = [key for key in needed if key not in archive]
            if missing:
                there = ", ".join(archive.files[:10]) or "none"
                raise Failure(
                    f"expected array{'s' * (len(needed) > 1)} {' and '.join(needed)}, "
                    f"got no {' and no '.join(missing)} (there: {there})"
                )
            members = archive.zip
            assert members is not None
            wanted = {name for key in (*needed, *optional) for name in (key, f"{key}.npy")}
            for entry in members.infolist():
                if entry.filename in wanted:
                    check_claim(members, entry)
            return {key: archive[key] for key in (*needed, *optional) if key in archive}
    except OSError:
        raise
    except MemoryError:
        raise Failure("there is not enough memory for its arrays") from None
    except DAMAGED as error:
        # NumPy tells of pickles wherever it does not know the format.
        raise Failure(f"not an .npz file of plain arrays ({error})") from None


def _check_samples(X: Array, y: Array, names: tuple[str, str], n_targets: int = 1) -> tuple[Array, Array]:
    """Samples in rows and as many targets, all of them finite real numbers."""
    for array, name in zip((X, y), names, strict=True):
        if array.dtype.kind not in "biuf" or array.itemsize > 8:
            raise Failure(f"{name}: expected real numbers of at most 64 bits, got dtype {array.dtype}")
    if X.ndim < 2 or X.size == 0:
        raise Failure(f"{names[0]}: expected samples in rows, got shape {X.shape}")
    if y.shape != (len(X), n_targets) and (n_targets > 1 or y.shape != (len(X),)):
        each = f" of {n_targets}" if n_targets > 1 else ""
        raise Failure(f"{names[1]}: expected {len(X)} targets{each}, got shape {y.shape}")
    X, y = X.reshape(len(X), -1), y.reshape(len(X), *y.shape[1:] if n_targets > 1 else ())
    for array, name in zip((X, y), names, strict=True):
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            raise Failure(
                f"{name}: expected finite numbers, got NaN or infinity in row "
                f"{int(finite.argmin()) + 1} of {len(array)}"
            )
    return X, y


def _prepare(
    arguments: argparse.Namespace, X: Array, y: Array, test: tuple[Array, Array] | None,
    notes: list[str],
) -> Data:  # fmt: skip
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
    integers = integers and -(2**63) <= int(labels[0]) and int(labels[-1]) < 2**63
    task = arguments.task
    if task == "auto":
        few = len(labels) <= min(MOST_CLASSES, max(2, len(y) // 2))
        task = "classification" if integers and few else "regression"
    n_classes, y_scale, X_scale, own = None, None, None, None
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
            own = tuple(int(label) for label in labels)
    elif standardise:
        y_scale = scale_of(y[:, np.newaxis], "y")
        y, y_test = ((part - y_scale[0]) / y_scale[1] for part in (y, y_test))
        notes.append("target brought to mean 0 and standard deviation 1, and the loss with it")
    if X.dtype == np.uint8 and X_test.dtype == np.uint8:
        notes.append("features are uint8: taken for pixels and divided by 255")
    elif standardise:
        X_scale = scale_of(X, "X")
        X, X_test = (((part - X_scale[0]) / X_scale[1]) for part in (X, X_test))
        notes.append("features brought to mean 0 and standard deviation 1 of the training samples")
    # The test samples may lie far outside of the training's range.
    for part, name in ((X, "X"), (X_test, "X_test"), (y, "y"), (y_test, "y_test")):
        with np.errstate(over="ignore"):
            if not np.isfinite(part.astype(arguments.dtype, copy=False)).all():
                raise Failure(f"{name}: expected numbers that {arguments.dtype} can hold")
    title = os.path.basename(arguments.data)
    return Data(title, X, y, X_test, y_test, n_classes, tuple(notes), own, X_scale, y_scale)


def scale_of(values: Array, name: str) -> Scale:
    """Mean and standard deviation of each column, 1 where a column does not vary."""
    with np.errstate(all="ignore"):
        mean = values.mean(axis=0, dtype=np.float64)
        deviation = values.std(axis=0, dtype=np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise Failure(f"{name}: the numbers are too large to standardise")
    return mean, np.where(deviation == 0, 1.0, deviation)


def with_scales(net: Network, data: Data) -> Network:
    """A network that takes the file's own features and, in a regression, gives its own targets.

    Standardising is linear, so the first layer and the last one can take it in. Where that would cost digits the network becomes float64.
    """
    scales = [scale for scale in (data.X_scale, data.y_scale) if scale is not None]
    # Of a float32 x, the rounding weighs |mean|/deviation times as much in (x - mean)/deviation.
    wide = any((abs(mean) > _MOST_DEVIATIONS * deviation).any() for mean, deviation in scales)
    net = _in_float64(net) if wide else net.copy()
    if data.X_scale is not None:
        take_in(net, data.X_scale)
    if data.y_scale is not None:
        mean, deviation = data.y_scale
        layer = net.layers[-1]
        layer.W[...] = layer.W * deviation
        layer.b[...] = layer.b * deviation + mean
    return net


@single_threaded_blas.held()
def take_in(net: Network, scale: Scale) -> None:
    """Changes a network of standardised inputs to one of the inputs as they were, x: W·(x - mean)/deviation + b."""
    mean, deviation = scale
    layer = net.layers[0]
    right = next(iter(layer.products.values()))  # what the inputs meet first
    right[...] = right / deviation
    layer.b[...] = layer.b - _times(layer, mean)  # by the weights as they are rounded


@single_threaded_blas.held()
def take_out(net: Network, scale: Scale) -> None:
    """The way back: u = (x - mean)/deviation are the inputs, W·(deviation·u + mean) + b."""
    mean, deviation = scale
    layer = net.layers[0]
    right = next(iter(layer.products.values()))
    layer.b[...] = layer.b + _times(layer, mean)
    right[...] = right * deviation


def _times(layer: Layer, x: Array) -> Array:
    """W·x."""
    for factor in layer.products.values():
        x = factor @ x
    return x


def _in_float64(net: Network) -> Network:
    functions = [layer.activation for layer in net.layers]
    wide = Network(
        net.sizes, hidden=functions[:-1], output=functions[-1], dtype="float64", seed=0, uint8_scale=net.uint8_scale
    )
    wide.parameters[:] = net.parameters  # which are dense, too
    return wide
