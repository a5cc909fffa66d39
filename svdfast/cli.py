# SPDX-License-Identifier: BSD-3-Clause
"""The command `svdfast`: train the same network dense and factored, and show what factoring did.

Here are the arguments, the user's own data files (CSV and NPZ) and what is printed. Not here: how
a network is trained (training.py), and the data sets that have a name (datasets.py).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import logging
import math
import os
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np
from numpy.typing import NDArray

from svdfast import __version__, datasets
from svdfast._runtime import resolve_threads
from svdfast.config import show_config
from svdfast.counting import count_multiplications
from svdfast.network import Evaluation, Network, Truncation
from svdfast.optimizers import Adam, AdamW, GradientDescent, Optimizer
from svdfast.svd import resolve_rank
from svdfast.training import Event, TrainingResult, train

__all__ = ["main"]

Array = NDArray[Any]

_INTERRUPTED = 128 + 2  # what shells give for a process that SIGINT ended
_BROKEN_PIPE = 128 + 13  # and for one that SIGPIPE ended
_MOST_CLASSES = 100
_NARROW = 100  # a first layer of so few inputs is left dense
_MOST_LINES = 20


class _UsageError(Exception):
    """The arguments are not right: exit code 2."""


class _Failure(Exception):
    """What was asked for could not be done: exit code 1."""


@dataclass(frozen=True)
class _Defaults:
    """What a data set is trained with where the user does not say."""

    hidden: tuple[int, ...]
    rank_fraction: float
    epochs: int
    batch_size: int
    learning_rate: float
    pretrain_fraction: float = 0.1
    # Hidden layers that stay dense, from 1; None: the first one, if it is narrow.
    keep_dense: tuple[int, ...] | None = ()


_FILE_DEFAULTS = _Defaults((512, 256), 1 / 4, 20, 256, 1e-3, keep_dense=None)
_DEFAULTS = {
    "digits": _Defaults((1024, 1024), 1 / 8, 40, 128, 1e-3, keep_dense=None),
    "xor": _Defaults((20, 20), 1 / 2, 800, 4, 1e-2),
    "mnist": _Defaults((512, 256), 1 / 4, 20, 2048, 3e-4),
    "fashion-mnist": _Defaults((512, 256), 1 / 4, 20, 2048, 3e-4),
    "cat": _Defaults((100,), 1 / 2, 100, 209, 1e-3),
}
_SGD_LEARNING_RATE = 0.1

_DESCRIPTION = """\
Train a fully connected network twice from the same first weights, on the same samples in the same
order: dense throughout, and by the four steps of the method (dense pre-training, truncated SVD of
the hidden weights, training of the factors, recomposition). A table at the end compares them.
"""

_EPILOG = f"""\
data:
  digits         1,797 images of 8x8 that come with scikit-learn (the default)
  xor            four rows
  mnist          60,000 and 10,000 images of 28x28, downloaded once (12 MB)
  fashion-mnist  the same in number and size, downloaded once (31 MB)
  cat            209 and 50 images of 64x64x3; you need to have the two files
  FILE.csv       numbers and commas; the last column is the target; the first line may name columns
  FILE.npz       arrays X (a sample in a row) and y, and X_test and y_test if there is a test set

  A file without a test set has a fifth of its rows held out. A target of at most {_MOST_CLASSES}
  integers is taken for classes (see --task). Features are brought to mean 0 and standard deviation
  1, as is a target that is not classes; uint8 is taken for pixels and divided by 255 instead.
  SVDFAST_DATA may name a folder that has the files of mnist, fashion-mnist and cat.

defaults:
  data           hidden     rank  epochs  batch  learning rate
  digits         1024,1024  1/8   40      128    0.001
  xor            20,20      1/2   800     4      0.01
  mnist          512,256    1/4   20      2048   0.0003
  fashion-mnist  512,256    1/4   20      2048   0.0003
  cat            100        1/2   100     209    0.001
  a file         512,256    1/4   20      256    0.001

examples:
  svdfast train
  svdfast train mnist --rank-fraction 1/8 --learning-rate 0.001
  svdfast train digits --hidden 2048,2048 --epochs 20 --threads 2
  svdfast train measurements.csv --task regression --save network.npz

exit status:
  0 done; 1 it failed: data not found or not usable, training diverged, file not written;
  2 the arguments are wrong; 130 ended by Ctrl-C
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command `svdfast`.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; by default those of the process.

    Returns
    -------
    int
        The exit status: 0 done, 1 failed, 2 wrong arguments, 130 ended by Ctrl-C, 141 the reader of
        the output is gone.

    Examples
    --------
    >>> from svdfast.cli import main
    >>> main(["--version"])
    svdfast 0.1.0
    0
    """
    try:
        status = _run(argv)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("svdfast: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except OSError as error:  # of standard output: all others were handled
        # Python flushes it once more as it ends, which would fail again.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _BROKEN_PIPE
        return _complain(f"standard output: {error.strerror or error}", 1)


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = _parser().parse_args(argv)
        arguments.run(arguments)
    except SystemExit as end:  # of --help and --version
        return int(end.code or 0)
    except _UsageError as error:
        return _complain(error, 2)
    except (_Failure, FloatingPointError) as error:
        return _complain(error, 1)
    except MemoryError as error:
        return _complain(f"out of memory{f': {error}' if str(error) else ''}", 1)
    return 0


def _complain(message: object, status: int) -> int:
    print(f"svdfast: error: {message}", file=sys.stderr)
    return status


# Arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}\nTry '{self.prog} --help'.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="svdfast",
        description="Train fully connected networks faster by factoring their weights.",
        epilog="'svdfast train' needs no arguments; 'svdfast train --help' tells which it takes.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"svdfast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    info = commands.add_parser(
        "info",
        help="show the CPU, BLAS, threads and versions in use",
        description="Show the CPU's features, BLAS, threads and versions in use.",
    )
    info.set_defaults(run=_info)

    add = commands.add_parser(
        "train",
        help="train a network dense and factored, and compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add.set_defaults(run=_train)
    names = ", ".join(_DEFAULTS)
    add.add_argument(
        "data", nargs="?", default="digits", metavar="DATA", help=f"{names}, FILE.csv or FILE.npz"
    )

    group = add.add_argument_group("network")
    group.add_argument(
        "--hidden", type=_widths, metavar="N,N", help="neurons of each hidden layer: 1024,1024"
    )
    group.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    group.add_argument("--save", type=Path, metavar="FILE", help="write the recomposed network "
                       "to FILE.npz; svdfast.load reads it")  # fmt: skip

    group = add.add_argument_group("factoring")
    group.add_argument(
        "--rank-fraction",
        type=_rank_fraction,
        metavar="A",
        help="keep A times the smaller side of a weight as its rank: 1/4 or 0.25",
    )
    group.add_argument(
        "--ranks",
        type=_ranks,
        metavar="RULE",
        help="instead: auto, which measures; energy:E, the rank that keeps a share E of a weight's energy; budget:B, the directions "
        "that are worth most for a share B of the multiplications",
    )
    group.add_argument(
        "--pretrain-fraction",
        type=_pretrain_fraction,
        metavar="P",
        help="share of the steps before the SVD, dense (default 0.1; with --ranks auto the latest)",
    )
    group.add_argument(
        "--svd-method",
        choices=("exact", "randomized"),
        default="exact",
        help="default exact; randomized may be faster for small ranks of large weights",
    )
    group.add_argument(
        "--plain-svd",
        action="store_true",
        help="cut so that the weights change least, instead of the layers' outputs over a sample",
    )
    group.add_argument(
        "--product-decay", type=_not_negative, default=0.0, metavar="D", help="of the factors' product (default 0)"
    )
    group.add_argument(
        "--keep-dense",
        type=_layer_numbers,
        metavar="I,I",
        help="hidden layers that stay dense, counted from 1, or 'none' (for digits and files the "
        f"default is 1 if there are at most {_NARROW} features, for there a low rank costs "
        "accuracy and saves little; else none)",
    )
    group.add_argument(
        "--force",
        action="store_true",
        help="factor also layers in which that saves no multiplications",
    )

    group = add.add_argument_group("training")
    group.add_argument("--epochs", type=_integer(1), metavar="N", help="passes over the data")
    group.add_argument(
        "--batch-size", type=_integer(1), metavar="N", help="samples in a mini-batch"
    )
    group.add_argument(
        "--optimizer",
        choices=("adam", "adamw", "sgd"),
        default="adam",
        help="default adam; sgd is gradient descent",
    )
    group.add_argument(
        "--learning-rate",
        type=_positive,
        metavar="R",
        help=f"constant; default: see below, and {_SGD_LEARNING_RATE} for sgd",
    )
    group.add_argument("--momentum", type=_momentum, metavar="M", help="of sgd (default 0)")
    group.add_argument(
        "--weight-decay", type=_not_negative, metavar="D", help="of adamw (default 0.01)"
    )
    group.add_argument(
        "--threads",
        type=_integer(1, 1024),
        metavar="N",
        help="default: as many as the process may run on",
    )
    group.add_argument(
        "--seed",
        type=_integer(0),
        default=0,
        metavar="N",
        help="of the first weights, the order of the samples and the test set (default 0)",
    )

    group = add.add_argument_group("data files")
    group.add_argument(
        "--task",
        choices=("auto", "classification", "regression"),
        default="auto",
        help="what the target is (default: classes if it has few integers)",
    )
    group.add_argument(
        "--no-standardise", action="store_true", help="take features and targets as they are"
    )
    return parser


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
            raise argparse.ArgumentTypeError(f"expected {expected}, got {_short(text)}")
        return value

    return parse


def _ranks(text: str) -> str:
    word, _, share = text.partition(":")
    if text == "auto" or (word in ("energy", "budget") and 0 < _number(share) <= 1):
        return text if text == "auto" else f"{word}:{_number(share)!r}"
    raise argparse.ArgumentTypeError(f"expected auto, energy:E or budget:B, got {_short(text)}")


_rank_fraction = _checked(lambda x: 0 < x <= 1, "a number above 0 and at most 1")
_pretrain_fraction = _checked(lambda x: 0 <= x <= 1, "a number from 0 to 1")
_momentum = _checked(lambda x: 0 <= x < 1, "a number from 0 to below 1")
_positive = _checked(lambda x: x > 0, "a number above 0")
_not_negative = _checked(lambda x: x >= 0, "a number that is not negative")


def _integer(minimum: int, maximum: int = 2**31 - 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(
                f"expected an integer from {minimum} to {maximum}, got {_short(text)}"
            )
        return value

    return parse


def _widths(text: str) -> tuple[int, ...]:
    return tuple(_integer(1)(item) for item in text.split(","))


def _layer_numbers(text: str) -> tuple[int, ...]:
    return () if text == "none" else _widths(text)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_save(path: Path) -> None:
    """Refuses, before the work is done, a file that could not be written after it."""
    if path.suffix != ".npz":
        raise _UsageError(f"--save: expected a name that ends in .npz, got {_short(str(path))}")
    if path.is_dir():
        raise _Failure(f"--save: {path} is a folder")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _Failure(f"--save: {path.parent}: {error.strerror or error}") from None


# Data


@dataclass(frozen=True)
class _Data:
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


def _load(arguments: argparse.Namespace) -> _Data:
    name = arguments.data
    if name in _DEFAULTS:
        return _load_named(name)
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in (".csv", ".npz"):
        raise _UsageError(
            f"expected one of {', '.join(_DEFAULTS)} or a file that ends in .csv or .npz, "
            f"got {_short(name)}\nTry 'svdfast train --help'."
        )
    notes: list[str] = []
    try:
        if suffix == ".csv":
            X, y, test = _read_csv(name, notes)
        else:
            X, y, test = _read_npz(name)
        return _prepare(arguments, X, y, test, notes)
    except OSError as error:
        raise _Failure(f"{name}: {error.strerror or error}") from None
    except _Failure as error:
        raise _Failure(f"{name}: {error}") from None


def _load_named(name: str) -> _Data:
    try:
        with _log_on_stderr():
            data = datasets.load(name)
    except (ImportError, OSError, ValueError) as error:
        raise _Failure(f"{name}: {error}") from None
    return _Data(name, *data.train, *data.test, data.n_classes)


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
                raise _Failure(_find_csv_error(file, header) or str(error)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise _Failure(f"not a text file with commas: {error}") from None
    if table.size == 0:
        raise _Failure("expected rows of numbers, got none")
    if table.shape[1] < 2:
        raise _Failure("expected at least two columns, with commas between them, got one")
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
                    f"line {rows.line_num}, column {column}: expected a number, got {_short(field)}"
                )
    return None


def _read_npz(name: str) -> tuple[Array, Array, tuple[Array, Array] | None]:
    try:
        # Opened here, for NumPy leaves a damaged file open.
        with open(name, "rb") as file, contextlib.ExitStack() as stack:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise _Failure("not an .npz file")
            stack.enter_context(archive)
            missing = [key for key in ("X", "y") if key not in archive]
            if missing:
                there = ", ".join(archive.files[:10]) or "none"
                raise _Failure(
                    f"expected arrays X and y, got no {' and no '.join(missing)} (there: {there})"
                )
            if ("X_test" in archive) != ("y_test" in archive):
                raise _Failure("expected both X_test and y_test or none of them, got one")
            test = (archive["X_test"], archive["y_test"]) if "X_test" in archive else None
            return archive["X"], archive["y"], test
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        # NumPy tells of pickles wherever it does not know the format.
        raise _Failure(f"not an .npz file of plain arrays ({error})") from None


def _check_samples(X: Array, y: Array, names: tuple[str, str]) -> tuple[Array, Array]:
    """Samples in rows and as many single targets, all of them finite real numbers."""
    for array, name in zip((X, y), names, strict=True):
        if array.dtype.kind not in "biuf":
            raise _Failure(f"{name}: expected real numbers, got dtype {array.dtype}")
    if X.ndim < 2 or X.size == 0:
        raise _Failure(f"{names[0]}: expected samples in rows, got shape {X.shape}")
    if y.shape not in ((len(X),), (len(X), 1)):
        raise _Failure(f"{names[1]}: expected {len(X)} targets, got shape {y.shape}")
    X, y = X.reshape(len(X), -1), y.reshape(len(X))
    for array, name in zip((X, y), names, strict=True):
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            raise _Failure(
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
) -> _Data:
    """Checks samples, holds some out for the test, names the classes and standardises."""
    X, y = _check_samples(X, y, ("X", "y"))
    if test is None:
        if len(X) < 2:
            raise _Failure("expected at least 2 samples, got 1")
        order = np.random.default_rng(arguments.seed).permutation(len(X))
        n_test = max(1, round(0.2 * len(X)))
        held_out, kept = order[:n_test], order[n_test:]
        X, X_test, y, y_test = X[kept], X[held_out], y[kept], y[held_out]
        notes.append(f"a fifth of the rows held out as the test set (seed {arguments.seed})")
    else:
        X_test, y_test = _check_samples(*test, ("X_test", "y_test"))
        if X_test.shape[1] != X.shape[1]:
            raise _Failure(f"X_test: expected {X.shape[1]} features, got {X_test.shape[1]}")

    labels = np.unique(np.concatenate([y, y_test]))
    if len(labels) == 1:
        raise _Failure(f"y: expected different targets, got {labels[0]} alone")
    integers = bool((labels == np.floor(labels)).all())
    task = arguments.task
    if task == "auto":
        few = len(labels) <= min(_MOST_CLASSES, max(2, len(y) // 2))
        task = "classification" if integers and few else "regression"
    n_classes, y_scale, X_scale = None, None, None
    standardise = not arguments.no_standardise
    if task == "classification":
        if not integers:
            raise _Failure("y: expected integers for classification, got other numbers")
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
                raise _Failure(f"{name}: expected numbers that {arguments.dtype} can hold")
    title = os.path.basename(arguments.data)
    return _Data(title, X, y, X_test, y_test, n_classes, tuple(notes), X_scale, y_scale)


def _scale(values: Array, name: str) -> tuple[Array, Array]:
    """Mean and standard deviation of each column, 1 where a column does not vary."""
    with np.errstate(all="ignore"):
        mean = values.mean(axis=0, dtype=np.float64)
        deviation = values.std(axis=0, dtype=np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise _Failure(f"{name}: the numbers are too large to standardise")
    return mean, np.where(deviation == 0, 1.0, deviation)


def _with_scales(net: Network, data: _Data) -> Network:
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


# Commands


def _info(arguments: argparse.Namespace) -> None:
    _say(str(show_config()))


def _say(text: str = "") -> None:
    """Prints a line at once, also to a terminal that lacks some of its characters."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _train(arguments: argparse.Namespace) -> None:
    if arguments.save is not None:
        _check_save(arguments.save)
    if arguments.ranks is not None and not (arguments.rank_fraction is arguments.keep_dense is None):
        raise _UsageError("--ranks: expected neither --rank-fraction nor --keep-dense with it")
    if arguments.momentum is not None and arguments.optimizer != "sgd":
        raise _UsageError(f"--momentum: {arguments.optimizer} has none; it goes with sgd")
    if arguments.weight_decay is not None and arguments.optimizer != "adamw":
        raise _UsageError(f"--weight-decay: {arguments.optimizer} has none; it goes with adamw")
    data = _load(arguments)
    comparison = _Comparison(arguments, data)
    comparison.introduce()
    dense, dense_result = comparison.train("dense", None)
    net, result = comparison.train("SVD", comparison.ranks)
    comparison.report(dense, dense_result, net, result)
    if arguments.save is not None:
        try:
            _with_scales(net, data).save(arguments.save)
        except OSError as error:
            raise _Failure(f"--save: {arguments.save}: {error.strerror or error}") from None
        _say(f"The recomposed network is in {arguments.save}.")


class _Comparison:
    """The two trainings from one network: their settings, what each prints, and the table."""

    def __init__(self, arguments: argparse.Namespace, data: _Data):
        defaults = _DEFAULTS.get(arguments.data, _FILE_DEFAULTS)

        def setting(name: str) -> Any:
            value = getattr(arguments, name)
            return getattr(defaults, name) if value is None else value

        self.arguments, self.data = arguments, data
        self.alpha: float = setting("rank_fraction")
        self.pretrain_fraction: float = setting("pretrain_fraction")
        self.epochs: int = setting("epochs")
        self.batch_size = min(setting("batch_size"), len(data.X))
        self.learning_rate: float = setting("learning_rate")
        if arguments.learning_rate is None and arguments.optimizer == "sgd":
            self.learning_rate = _SGD_LEARNING_RATE
        self.threads = resolve_threads(arguments.threads)

        n_in = data.X.shape[1]
        hidden = setting("hidden")
        try:
            self.first = Network(
                [n_in, *hidden, data.n_out],
                output=data.output,
                dtype=arguments.dtype,
                seed=arguments.seed,
            )
        except ValueError as error:
            raise _UsageError(f"--hidden: {error}") from None
        keep = setting("keep_dense")
        if keep is None:
            keep = (1,) if n_in <= _NARROW and len(hidden) > 1 else ()
        if keep and max(keep) > len(hidden):
            raise _UsageError(
                f"--keep-dense: expected numbers from 1 to {len(hidden)}, got {max(keep)}"
            )
        self.kept = [] if arguments.ranks else sorted({number - 1 for number in keep})
        self.ranks: str | list[int | None] = arguments.ranks or [
            None if i in self.kept else resolve_rank(self.alpha, layer.n_in, layer.n_out)
            for i, layer in enumerate(self.first.layers[:-1])
        ]
        self._warm_up()

    def optimizer(self) -> Optimizer:
        """A new one, for its state belongs to one training."""
        arguments = self.arguments
        if arguments.optimizer == "sgd":
            return GradientDescent(self.learning_rate, momentum=arguments.momentum or 0.0)
        if arguments.optimizer == "adamw":
            decay = 0.01 if arguments.weight_decay is None else arguments.weight_decay
            return AdamW(self.learning_rate, weight_decay=decay)
        return Adam(self.learning_rate)

    def _warm_up(self) -> None:
        """A dense step, an SVD and a factored step on a copy, so that none is measured cold."""
        n = self.batch_size
        self._fit(
            self.first.copy(), self.ranks, self.data.X[:n], self.data.y[:n], epochs=2,
            pretrain_fraction=0.5,
        )  # fmt: skip

    def _fit(
        self, net: Network, ranks: Sequence[int | None] | str | None, X: Array, y: Array, **settings: Any
    ) -> TrainingResult:
        arguments = self.arguments
        try:
            return train(
                net,
                X,
                y,
                batch_size=self.batch_size,
                optimizer=self.optimizer(),
                rank_fraction=None,
                ranks=ranks,
                recompose=False,
                force=arguments.force,
                svd_method=arguments.svd_method,
                activation_aware=not arguments.plain_svd,
                product_decay=arguments.product_decay,
                n_threads=self.threads,
                seed=arguments.seed,
                **settings,
            )
        except ValueError as error:  # an SVD of weights that are no longer finite
            raise _Failure(error) from None

    def introduce(self) -> None:
        """Prints what is trained, on what, and how."""
        data, net, arguments = self.data, self.first, self.arguments
        kind = "regression" if data.n_classes is None else f"{data.n_classes} classes"
        _say(
            f"{data.title}: {len(data.X):,} training and {len(data.X_test):,} test samples, "
            f"{data.X.shape[1]:,} features, {kind}"
        )
        for note in data.notes:
            _say(f"  {note}")
        _say(
            f"network {'-'.join(map(str, net.sizes))}, relu and {data.output}, {net.dtype}, "
            f"{len(net.parameters):,} parameters"
        )
        _say(
            f"{self.epochs} epochs, batches of {self.batch_size}, {arguments.optimizer}, "
            f"learning rate {self.learning_rate:g}, {self.threads} "
            f"{'thread' if self.threads == 1 else 'threads'}, seed {arguments.seed}"
        )

    def train(
        self, title: str, ranks: Sequence[int | None] | str | None
    ) -> tuple[Network, TrainingResult]:
        """Trains a copy of the first network and prints a line an epoch, or every few epochs."""
        bar = _bar_class()
        say: Callable[[str], object] = _say if bar is None else bar.write
        every = -(-self.epochs // _MOST_LINES)
        score_name = "val R²" if self.data.n_classes is None else "val accuracy"

        def tell(event: Event) -> None:
            if event.kind == "switch":
                for line in self._describe_switch(event):
                    say(line)
            elif event.kind == "ranks":
                say(f"       step {event.step}: {event.info['reason']}; {event.info['why']}")
            elif event.epoch % every == 0 or event.epoch in (1, self.epochs):
                row = event.info
                score = self._score(Evaluation(row["val_loss"], row["val_accuracy"]))
                say(
                    f"{row['epoch']:5}  {row['phase']:8}  {row['loss']:9.4g}  "
                    f"{row['val_loss']:9.4g}  {score:>12}  {row['seconds']:8.3f}"
                )

        _say()
        _say(title)
        _say(f"epoch  phase          loss   val loss  {score_name:>12}   seconds")
        net = self.first.copy()
        result = self._fit(
            net,
            ranks,
            self.data.X,
            self.data.y,
            epochs=self.epochs,
            pretrain_fraction=self.pretrain_fraction,
            validation=(self.data.X_test, self.data.y_test),
            callbacks=[tell],
            progress=bar is not None,
        )
        return net, result

    def _describe_switch(self, event: Event) -> list[str]:
        truncations: tuple[Truncation, ...] = event.info["truncations"]
        layers = event.network.layers

        def sizes(index: int) -> str:
            return f"layer {index + 1} ({layers[index].n_in} to {layers[index].n_out})"

        lines = []
        done = [f"{sizes(t.layer)} to rank {t.rank}" for t in truncations if not t.skipped]
        if done:
            lines.append(
                f"       step {event.step}, {event.info['seconds']:.2f} s: SVD of {', '.join(done)}"
            )
        if self.kept:
            names = ", ".join(sizes(i) for i in self.kept)
            lines.append(f"       kept dense (--keep-dense): {names}")
        skipped = [
            f"{sizes(t.layer)}, rank {t.requested_rank}, break-even rank {t.break_even_rank}"
            for t in truncations
            if t.skipped
        ]
        if skipped:
            lines.append(
                "       left dense, as factoring saves no multiplications (--force factors them): "
                + "; ".join(skipped)
            )
        return lines

    def _score(self, evaluation: Evaluation) -> str:
        """Accuracy, or R² of a single output: 1 - loss/variance, on the test or validation set."""
        return self._format_score(evaluation, self.data.y_test)

    def _format_score(self, evaluation: Evaluation, y: Array) -> str:
        if evaluation.accuracy is not None:
            return f"{100 * evaluation.accuracy:.2f} %"
        variance = float(np.var(y, dtype=np.float64))
        return f"{1 - evaluation.loss / variance:.4f}" if variance else "undefined"

    def report(
        self, dense: Network, dense_result: TrainingResult, net: Network, result: TrainingResult
    ) -> None:
        """Prints the table, with the factored network evaluated, recomposed and evaluated again."""
        # As it was while it was factored: a dense tail may have followed.
        switch = next((e for e in reversed(result.events) if e.kind == "switch"), None)
        cut = net
        if switch is not None and not net.is_factored:
            ranks = {t.layer: t.rank for t in switch.info["truncations"]}
            cut = net.shaped([ranks.get(i) for i in range(len(net.layers) - 1)])
        step, forward = count_multiplications(cut, "step"), count_multiplications(cut, "forward")
        networks = [self._evaluate(dense), self._evaluate(net)]
        factored = net.is_factored
        began = time.perf_counter()
        net.recompose()
        recompose_seconds = time.perf_counter() - began
        networks.append(self._evaluate(net))

        seconds = result.seconds + recompose_seconds
        switch_seconds = 0.0 if switch is None else switch.info["seconds"]
        measured = dense_result.seconds / seconds
        dense_forward = f"{forward.dense_total:,}"
        rows: list[tuple[str, ...]] = [
            ("", "dense", "SVD, factored", "SVD, recomposed", "dense : SVD"),
            (
                "training time, s",
                f"{dense_result.seconds:.3f}",
                f"{result.seconds:.3f}",
                f"{seconds:.3f}",
                f"{measured:.2f}",
            ),
            (
                "  of it SVD, recomposition",
                "",
                f"{switch_seconds:.3f}",
                f"{recompose_seconds:.3f}",
                "",
            ),
            (
                "multiplications a sample, step",
                f"{step.dense_total:,}",
                f"{step.total:,}",
                "",
                f"{step.ratio:.2f}",
            ),
            (
                "multiplications a sample, forward",
                dense_forward,
                f"{forward.total:,}",
                dense_forward,
                f"{forward.ratio:.2f}",
            ),
        ]
        score = "R²" if self.data.n_classes is None else "accuracy"
        for index, (part, y) in enumerate((("train", self.data.y), ("test", self.data.y_test))):
            rows.append((f"{part} loss", *(f"{e[index].loss:.4g}" for e in networks), ""))
            rows.append(
                (f"{part} {score}", *(self._format_score(e[index], y) for e in networks), "")
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        _say()
        for row in rows:
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            _say("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
        _say()
        if self.arguments.ranks is not None:
            _say(result.explain())
        elif factored:
            share = 1.0 if switch is None else switch.step / result.n_steps
            overall = 1 / (share + (1 - share) / step.ratio)
            _say(
                f"Counted: a dense step takes {step.ratio:.2f} times the multiplications of a "
                f"factored one, dense training {overall:.2f}\n"
                f"times those of all {result.n_steps:,} steps. Measured: {measured:.2f} times the "
                "time, SVD and recomposition included,\nvalidation not."
            )
        else:
            _say("No layer was factored, so both trainings did the same.")

    def _evaluate(self, net: Network) -> tuple[Evaluation, Evaluation]:
        data = self.data
        return (
            net.evaluate(data.X, data.y, n_threads=self.threads),
            net.evaluate(data.X_test, data.y_test, n_threads=self.threads),
        )


def _bar_class() -> Any:
    """tqdm where it can be shown: it is installed and standard error is a terminal; else None."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm
