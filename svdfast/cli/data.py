# SPDX-License-Identifier: BSD-3-Clause
"""The data of the command line: named data sets, and the user's tables and NPZ files.

Settings that the user does not give are chosen here, too. Elsewhere: the origin of the named data
sets (datasets.py), reading files (tables.py, arrays.py), and the meaning of columns (columns.py).
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import svdfast.datasets as datasets
from svdfast._process.text import one_line
from svdfast.cli.arrays import check_samples, read_pairs
from svdfast.cli.columns import (
    MOST_CLASSES,
    Column,
    Targets,
    find_columns,
    find_targets,
    lay_out,
    learn,
    typed,
)
from svdfast.cli.errors import Failure, UsageError, named_errors, nearest, short
from svdfast.cli.scales import Scale, scale_of, standardise, unit_of
from svdfast.cli.tables import is_table, read_table, reading_of
from svdfast.data.preparation import Place, Preparation, read_numbers, read_texts
from svdfast.model.heads import BITS, CLASSES, NUMBERS, Head, head_for
from svdfast.model.origin import Label, Origin

__all__ = ["DEFAULTS", "LEAST_STEPS", "TEST_SHARE", "Data", "Defaults", "defaults_of", "hold_out", "is_npz", "load", "load_named"]

Array = NDArray[Any]

LEAST_STEPS = 1000  # of a training on a file
TEST_SHARE = 0.2  # of the rows of a file
_FEW_ROWS = 1000  # with fewer rows, more neurons would learn the noise
_LARGE = 1e4  # inputs of this size make a network learn badly
_LARGEST = 1e150  # its square is still a float64
_RARE = 0.2  # a class of less than this share of an equal one is rare


@dataclass(frozen=True)
class Defaults:
    """The settings for a data set that the user does not give."""

    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    learning_rate: float


DEFAULTS = {
    "digits": Defaults((1024, 1024), 100, 128, 1e-3),
    "xor": Defaults((20, 20), 800, 4, 1e-2),
    "mnist": Defaults((512, 256), 20, 2048, 3e-4),
    "fashion-mnist": Defaults((512, 256), 20, 2048, 3e-4),
    "cat": Defaults((100,), 100, 209, 1e-3),
}

_IMAGES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "fashion-mnist": (28, 28, 1), "cat": (64, 64, 3)}


def defaults_of(name: str, n: int, batch_size: int | None = None) -> Defaults:
    """The defaults of a named data set or of a file of n training rows.

    A file of few rows gets few neurons. Its batches are a twentieth of the rows, and its epochs
    follow from the number of steps.
    """
    if name in DEFAULTS:
        return DEFAULTS[name]
    batch_size = batch_size or int(np.clip(n // 20, 32, 256))
    steps = -(-n // batch_size)
    return Defaults((100,) if n < _FEW_ROWS else (512, 256), max(20, -(-LEAST_STEPS // steps)), batch_size, 1e-3)


@dataclass(frozen=True)
class Data:
    """Samples for training and testing, as the network takes them.

    Attributes
    ----------
    title : str
    X, y, X_test, y_test : ndarray
        Class numbers, or bits or numbers in columns, one for each output.
    head : Head
    n_out : int
        Outputs of the network.
    labels : tuple, optional
        Names of the classes, if they are not 0, 1, ...
    notes, warnings : tuple of str
    table : tuple of tuple of str
        Rows of the columns' table: name, kind, values.
    X_scale, y_scale : tuple of two ndarrays, optional
        Mean and standard deviation used to standardise features and targets.
    preparation : Preparation, optional
    image : tuple of int
        Height, width and channels of a sample that is an image.
    is_text : bool
        True if samples are windows of characters, and the targets are the characters that follow.
    """

    title: str
    X: Array
    y: Array
    X_test: Array
    y_test: Array
    head: Head
    n_out: int
    labels: tuple[Label, ...] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    table: tuple[tuple[str, str, str], ...] = ()
    X_scale: Scale | None = None
    y_scale: Scale | None = None
    preparation: Preparation | None = None
    image: tuple[int, ...] = ()
    is_text: bool = False

    @property
    def origin(self) -> Origin:
        """The part of a network's file that describes the data."""
        mean, deviation = None, None
        if self.X_scale is not None and self.X_scale[0].ndim:  # of each column
            mean, deviation = (tuple(part.tolist()) for part in self.X_scale)
        names = None if self.preparation is None else self.preparation.feature_names
        return Origin(self.labels, names, mean, deviation, self.preparation)

    @property
    def untrained(self) -> NDArray[np.bool_]:
        """Which inputs are 0 in all training rows, as constant ones are when they are standardised."""
        untrained: NDArray[np.bool_] = ~np.any(self.X, axis=0)
        return untrained

    @property
    def n_classes(self) -> int | None:
        """None: numbers, several bits, or a class after each step."""
        if self.is_text:
            return None
        return None if not self.head.decides or (self.head is BITS and self.n_out > 1) else self.head.n_values(self.n_out)

    @property
    def kind(self) -> str:
        if self.is_text:
            return f"{self.n_out:,} different characters"
        if self.head is NUMBERS:
            return "regression" if self.n_out == 1 else f"regression of {self.n_out} targets"
        return f"{self.n_out} targets of two classes" if self.n_classes is None else f"{self.n_classes} classes"


def load(arguments: argparse.Namespace) -> Data:
    """Loads the training data of `svdfast train`."""
    name = arguments.data
    if name in DEFAULTS:
        for option in ("test", "target", "drop", "categorical"):
            if getattr(arguments, option):
                raise UsageError(f"--{option}: goes with a file, not with {name}")
        if arguments.model is not None and name not in _IMAGES:
            raise UsageError(f"--model: goes with images, not with {name}")
        return load_named(name)
    if is_npz(name, "train"):
        for option in ("test", "target", "drop", "categorical"):
            if getattr(arguments, option):
                raise UsageError(f"--{option}: goes with a table, not with {short(name)}")
        with named_errors(name):
            X, y, test = read_pairs(name, test=True)
            assert y is not None
            image = X.shape[1:] if X.ndim == 4 else (*X.shape[1:], 1) if X.ndim == 3 else ()
            if arguments.model is not None and not image:
                raise Failure(
                    f"--model: expected images, X of shape (samples, height, width) or (samples, height, width, channels), got {X.shape}"
                )
            return replace(_standardised(arguments, _of_arrays(arguments, X, y, test)), image=image)
    if arguments.model is not None:
        raise UsageError(f"--model: goes with images, not with a table such as {short(name)}")
    return _of_table(arguments)


def is_npz(name: str, command: str) -> bool:
    """True if a file holds arrays; a UsageError if its name is neither of arrays nor of a table."""
    if os.path.splitext(name)[1].lower() == ".npz":
        return True
    if is_table(name):
        return False
    raise UsageError(
        f"expected one of {', '.join(DEFAULTS)} or a file (.csv, .tsv, .parquet, .feather, .xlsx, .npz), "
        f"got {short(name)}{nearest(name, DEFAULTS)}\nTry 'svdfast {command} --help'."
    )


def load_named(name: str) -> Data:
    try:
        with _log_on_stderr():
            data = datasets.load(name)
    except (ImportError, OSError, ValueError) as error:
        raise Failure(f"{name}: {error}") from None
    head = head_for(data.n_classes)
    n_out = data.n_classes if head is CLASSES and data.n_classes else 1
    return Data(name, *data.train, *data.test, head, n_out, image=_IMAGES.get(name, ()))


@contextlib.contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Shows the library's log, which reports downloads."""
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


def _of_arrays(arguments: argparse.Namespace, X: Array, y: Array, test: tuple[Array, Array] | None) -> Data:
    """Checks samples, names the classes, and holds some out for the test."""
    texts = y.dtype.kind == "U" and (test is None or test[1].dtype.kind == "U")
    if texts:
        words = np.unique(y if test is None else np.concatenate([y.ravel(), test[1].ravel()]))
        y = np.searchsorted(words, y)
        test = None if test is None else (test[0], np.searchsorted(words, test[1]))
    X, y = check_samples(X, y, ("X", "y"))
    if test is not None:
        test = check_samples(*test, ("X_test", "y_test"))
        if test[0].shape[1] != X.shape[1]:
            raise Failure(f"X_test: expected {X.shape[1]} features, got {test[0].shape[1]}")

    labels = np.unique(y if test is None else np.concatenate([y, test[1]]))
    if len(labels) == 1:
        raise Failure(f"y: expected different targets, got {words[0] if texts else labels[0]} alone")
    integers = bool((labels == np.floor(labels)).all())
    integers = integers and -(2**63) <= int(labels[0]) and int(labels[-1]) < 2**63
    task = "classification" if texts else arguments.task
    if task == "auto":
        few = len(labels) <= min(MOST_CLASSES, max(2, len(y) // 2))
        task = "classification" if integers and few else "regression"
    head, n_out, own, notes = NUMBERS, 1, None, []
    if task == "classification":
        if not integers:
            raise Failure("y: expected integers for classification, got other numbers")
        head = head_for(len(labels))
        n_out = len(labels) if head is CLASSES else 1
        y = np.searchsorted(labels, y)
        test = None if test is None else (test[0], np.searchsorted(labels, test[1]))
        own = tuple(words.tolist()) if texts else tuple(int(label) for label in labels)
        if own == tuple(range(len(own))):
            own = None
        else:
            notes.append(_about_classes(own))
    title = os.path.basename(arguments.data)
    if test is not None:
        return Data(title, X, y, test[0], test[1], head, n_out, own, tuple(notes))
    kept, held_out = _split(arguments, y if head.decides else np.zeros(len(y)))
    notes.insert(0, _about_split(arguments, head))
    return Data(title, X[kept], y[kept], X[held_out], y[held_out], head, n_out, own, tuple(notes))


def _about_classes(labels: Sequence[Label]) -> str:
    shown = ", ".join(map(str, labels[:10]))
    return f"classes {shown:.200}{', ...' if len(labels) > 10 else ''} numbered from 0"


def _test_share(arguments: argparse.Namespace) -> float:
    return TEST_SHARE if arguments.test_size is None else float(arguments.test_size)


def _split(arguments: argparse.Namespace, strata: Array) -> tuple[Array, Array]:
    """Divides the rows into those for training and those for the test."""
    return split_rows(strata, _test_share(arguments), arguments.seed)


def hold_out(data: Data, share: float, seed: int) -> tuple[Array, Array]:
    """Divides the training rows into those that stay and those for validation.

    Both have the same share of each class, or combination of bits.
    """
    by_class = data.head.decides and not data.is_text
    strata = np.unique(data.y, axis=0, return_inverse=True)[1].reshape(-1) if by_class else np.zeros(len(data.y))
    return split_rows(strata, share, seed + 1)


def split_rows(strata: Array, share: float, seed: int) -> tuple[Array, Array]:
    """Divides the rows into two parts.

    The second part has a share of each stratum, as far as rows can be shared. The first part has at
    least one row.
    """
    n = len(strata)
    if n < 2:
        raise Failure(f"expected at least 2 samples, got {n}")
    order = np.random.default_rng(seed).permutation(n)
    _, first = np.unique(strata[order], return_index=True)
    others = np.delete(order, first)
    others = others[np.argsort(strata[others], kind="stable")]
    n_second = min(max(1, round(share * n)), len(others))
    if n_second == 0:
        raise Failure(f"expected more rows than classes, got {n} of both")
    # The choice is as even over the sorted rows as a line drawn with pixels.
    chosen = np.diff(np.arange(len(others) + 1) * n_second // len(others)) > 0
    second = others[chosen]
    return order[~np.isin(order, second)], np.random.default_rng(seed).permutation(second)


def _about_split(arguments: argparse.Namespace, head: Head) -> str:
    each = ", the same share of each class" if head.decides else ""
    return f"{100 * _test_share(arguments):g} % of the rows held out as the test set{each} (seed {arguments.seed})"


def _of_table(arguments: argparse.Namespace) -> Data:
    """Finds the kinds of a table's columns, holds rows out, and prepares both parts."""
    name = arguments.data
    reading = reading_of(arguments)
    if arguments.test == "-" == name:
        raise UsageError("--test: standard input can be one of the two")
    named = [*(arguments.target or ()), *(arguments.drop or ()), *(arguments.categorical or ())]
    table = read_table(name, reading, named)
    with named_errors(name):
        frame = table.frame
        if frame.shape[1] < 2:
            raise Failure("expected at least two columns, got one (--delimiter C tells what is between them)")
        targets = find_targets(frame, arguments.target, arguments.task, arguments.drop or ())
        columns = find_columns(frame, targets.names, arguments.categorical or (), arguments.drop or ())
        frame = typed(frame, columns)
        numeric = [column.name for column in columns if column.kind == "numeric"]
        numeric += [target.name for target in targets.targets if target.classes is None]
        _check_size(frame, numeric, arguments.dtype)
        train = test = frame
        if arguments.test is None:
            kept, held_out = _split(arguments, _strata(frame, targets))
            train, test = frame.iloc[kept], frame.iloc[held_out]
        preparation = learn(train, columns, targets.targets)
        X, y = _prepared(preparation, train)
    warnings = [*table.warnings, *_warnings(columns)]
    if arguments.test is None:
        with named_errors(name):
            X_test, y_test = _prepared(preparation, test)
    else:
        names = [column.name for column in (*preparation.columns, *preparation.targets)]
        other = read_table(arguments.test, reading, names)
        with named_errors(arguments.test):
            X_test, y_test = _prepared(preparation, other.frame)
            _check_size(other.frame, numeric, arguments.dtype)
            warnings += [f"{arguments.test}: {note}" for note in preparation.notes(other.frame) if "training did not see" in note]
    head = NUMBERS if targets.targets[0].classes is None else BITS if y.ndim > 1 else head_for(len(targets.targets[0].classes))
    n_out = len(preparation.classes or ()) if head is CLASSES else len(targets.targets)
    notes = [*table.notes, f"target: {', '.join(targets.names)} ({targets.reason})", *_about_gaps(columns)]
    if arguments.test is None:
        notes.append(_about_split(arguments, head))
    if preparation.classes is not None:
        notes.append(_about_shares(preparation, y))
    data = Data(
        "standard input" if name == "-" else os.path.basename(name), X, y, X_test, y_test, head, n_out, preparation.classes,
        tuple(map(one_line, notes)), tuple(map(one_line, warnings)), tuple(lay_out(columns, targets)), preparation=preparation,
    )  # fmt: skip
    with named_errors(name):
        return _standardised(arguments, data)


def _strata(frame: Any, targets: Targets) -> Array:
    """A number for each combination of classes; 0 where targets are numbers."""
    if targets.targets[0].classes is None:
        return np.zeros(len(frame))
    labels = ["\n".join(each) for each in zip(*(read_texts(frame[name]) for name in targets.names), strict=True)]
    return np.unique(labels, return_inverse=True)[1]


def _check_size(frame: Any, names: Iterable[str], dtype: str) -> None:
    """Refuses numbers that are too large for the network, or for means and medians."""
    largest = min(float(np.finfo(dtype).max), _LARGEST)
    for name in names:
        numbers, place = read_numbers(frame[name], Place(frame, name)), Place(frame, name)
        large = np.flatnonzero(np.abs(numbers) > largest)
        if large.size:
            row = int(large[0])
            raise Failure(f"{place(row)}: expected a number of at most {largest:.2g} in size for {dtype}, got {numbers[row]:g}")


def _prepared(preparation: Preparation, frame: Any) -> tuple[Array, Array]:
    """Inputs and targets of rows that must have both."""
    try:
        X, y = preparation.features(frame), preparation.answers(frame)
    except ValueError as error:
        raise Failure(error) from None
    names = [target.name for target in preparation.targets]
    if y is None:
        raise Failure(f"expected the target {', '.join(names)}, got no such column, or an empty one")
    if y.dtype.kind == "i" and (y < 0).any():
        row = int((y.reshape(len(y), -1) < 0).any(axis=1).argmax())
        shown = ", ".join(short(str(frame[name].iloc[row])) for name in names)
        raise Failure(f"{Place(frame, ', '.join(names))(row)}: expected a class that the training rows have, got {shown}")
    return X, y


def _warnings(columns: Sequence[Column]) -> list[str]:
    lines = [
        f"column {column.name!r} looks like an identifier ({column.about}): left out; --categorical takes it"
        for column in columns
        if column.kind == "identifier"
    ]
    return lines + [
        f"column {column.name!r} has a different integer in each row, as identifiers do; --drop leaves it out"
        for column in columns
        if column.kind == "numeric" and column.about.endswith("in each row")
    ]


def _about_gaps(columns: Sequence[Column]) -> list[str]:
    gaps = [column for column in columns if column.gaps and column.kind in ("numeric", "categorical")]
    if not gaps:
        return []
    shown = ", ".join(f"{column.name} {column.gaps:,}" for column in gaps[:8]) + (", ..." if len(gaps) > 8 else "")
    return [f"missing values: {shown}; numbers become the median of the training rows, text a category of its own"]


def _about_shares(preparation: Preparation, y: Array) -> str:
    """Describes the classes and their shares; reports a rare one as imbalance."""
    labels = preparation.classes or ()
    counts = Counter(y.tolist())
    order = sorted(range(len(labels)), key=lambda number: -counts[number])
    shares = [f"{labels[number]} {100 * counts[number] / len(y):.1f} %" for number in order]
    shown = ", ".join(shares if len(shares) <= 6 else [*shares[:3], "...", *shares[-2:]])
    rare = counts[order[-1]] * len(labels) < _RARE * len(y)
    return f"classes: {shown}" + (" (imbalanced: see the balanced accuracy)" if rare else "")


def _standardised(arguments: argparse.Namespace, data: Data) -> Data:
    """Standardises features and numeric targets to mean 0 and deviation 1, unless told not to."""
    X, y, X_test, y_test = data.X, data.y, data.X_test, data.y_test
    notes, warnings = list(data.notes), list(data.warnings)
    X_scale, y_scale = None, None
    pixels = X.dtype == np.uint8 and X_test.dtype == np.uint8
    if data.head is NUMBERS and not arguments.no_standardise:
        y_scale = scale_of(y.reshape(len(y), -1), "y")
        y, y_test = (standardise(part.reshape(len(part), -1), y_scale).reshape(part.shape) for part in (y, y_test))
        notes.append("target brought to mean 0 and standard deviation 1, and the loss with it")
    if pixels:
        notes.append("features are uint8: taken for pixels and divided by 255")
    elif arguments.no_standardise:
        largest = float(abs(X.astype(np.float64)).max())
        if largest > _LARGE:
            warnings.append(f"inputs as large as {largest:.2g} are hard to learn from; without --no-standardise they are standardised")
    elif arguments.model is not None:
        # Positions of an image share weights, and padding must stay 0.
        X_scale = unit_of(X, "X")
        X, X_test = (standardise(part, X_scale) for part in (X, X_test))
        notes.append(f"features divided by their root mean square, {float(X_scale[1]):.4g}")
    else:
        X_scale = _scale_of_inputs(X, data.preparation)
        X, X_test = (standardise(part, X_scale) for part in (X, X_test))
        notes.append("features brought to mean 0 and standard deviation 1 of the training samples")
    # The test samples may lie far outside the training's range.
    for part, name in ((X, "X"), (X_test, "X_test"), (y, "y"), (y_test, "y_test")):
        with np.errstate(over="ignore"):
            if not np.isfinite(part.astype(arguments.dtype, copy=False)).all():
                raise Failure(f"{name}: expected numbers that {arguments.dtype} can hold")
    return replace(
        data, X=X, y=y, X_test=X_test, y_test=y_test, X_scale=X_scale, y_scale=y_scale, notes=tuple(notes), warnings=tuple(warnings)
    )


def _scale_of_inputs(X: Array, preparation: Preparation | None) -> Scale:
    """Mean and deviation of the inputs; 0 and 1 for those that stand for a category."""
    mean, deviation = scale_of(X, "X")
    if preparation is not None:
        hot = np.concatenate([np.full(len(column.feature_names), hasattr(column, "categories")) for column in preparation.columns])
        mean, deviation = np.where(hot, 0.0, mean), np.where(hot, 1.0, deviation)
    return mean, deviation
