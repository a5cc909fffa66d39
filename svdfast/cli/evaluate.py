# SPDX-License-Identifier: BSD-3-Clause
"""`svdfast evaluate`: how well a saved network predicts data that has the answers.

The measures are scikit-learn's. Elsewhere: the predictions themselves (predict.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._process.text import aligned, one_line
from svdfast.cli import arguments as parse
from svdfast.cli import saved, texts
from svdfast.cli.comparison import say
from svdfast.cli.errors import Failure, tell
from svdfast.model.heads import CLASSES
from svdfast.model.origin import Label

__all__ = ["add"]

Array = NDArray[Any]

_MOST_CLASSES = 20  # the most classes of a printed confusion matrix

_DESCRIPTION = """\
Print how well a saved network predicts data that has the answers. For classes: accuracy, log loss,
area under the ROC curve, and the confusion matrix. For numbers: R^2, the mean absolute error and
the root of the mean squared error. These need scikit-learn: pip install "svdfast[demo]". For a
network of characters, DATA is a file of text, and the measure is bits a character.
"""

_EPILOG = f"""\
A row whose class training did not see counts as wrong, and is left out of log loss and ROC AUC. The
ROC AUC of several classes is the mean over each class against all others.

data:
{saved.DATA.rstrip()}: their test samples

examples:
  svdfast train iris.csv --target species --save iris.npz
  svdfast evaluate iris.npz more-irises.csv
  svdfast evaluate shakespeare.npz another-play.txt

exit status:
  0 done; 1 it failed: a file not found or damaged, data that does not fit the network or has no
  answers; 2 the arguments are wrong; 130 ended by Ctrl-C
"""


def add(command: saved.AddCommand) -> None:
    """Adds the command and its arguments."""
    parser = command(
        "evaluate", _run, help="measure how well a saved network predicts", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("model", **saved.MODEL)
    parser.add_argument("data", metavar="DATA", help="a table, arrays, or a data set's name, with answers, see below")
    parser.add_argument("--threads", **parse.THREADS)
    parse.add_reading(parser.add_argument_group("tables"))


def _run(arguments: argparse.Namespace) -> None:
    net = saved.load_model(arguments.model)
    characters = texts.characters_of(net)
    if characters is not None:
        for line in texts.foretold(net, characters, arguments):
            say(line)
        return
    asked = saved.samples(net, "evaluate", arguments, answers=True)
    if asked.y is None:
        names = [name for name, _ in saved.named(net) if name]
        wanted = f"column{'s' * (len(names) > 1)} {', '.join(map(repr, names))}" if names else "targets"
        raise Failure(f"{arguments.data}: expected {wanted} to compare with, got none")
    for note in asked.notes:
        tell(note)
    outputs = saved.outputs(net, asked, arguments.data, n_threads=arguments.threads)
    try:
        lines = _classes(net, outputs, asked.y) if saved.head(net).decides else _numbers(net, outputs, asked.y)
    except ImportError:
        raise Failure('evaluate needs scikit-learn: pip install "svdfast[demo]"') from None
    n = len(asked.X)
    for line in [f"{n:,} sample{'s' * (n > 1)} of {arguments.data}", *lines]:
        say(line)


def _classes(net: Any, outputs: Array, y: Array) -> list[str]:
    """Accuracy and other measures of each target; for several also the share with all right."""
    if saved.head(net) is CLASSES:
        ((_, classes),) = saved.named(net)
        return _target(classes or (), y, outputs)
    lines = []
    targets = saved.named(net)
    if len(targets) > 1:
        right = ((outputs > 0.5) == (y == 1)) & (y >= 0)
        lines.append(f"all right    {100 * right.all(axis=1).mean():.2f} %")
    for i, (name, classes) in enumerate(targets):
        second = outputs[:, i]
        lines += ["", name] if len(targets) > 1 else []
        lines += _target(classes or (), y[:, i], np.column_stack([1 - second, second]), decided=(second > 0.5).astype(np.int64))
    return lines


def _target(classes: Sequence[Label], y: Array, outputs: Array, decided: Array | None = None) -> list[str]:
    """The measures of one target, from the probability of each of its classes."""
    from sklearn import metrics

    decided = outputs.argmax(axis=1) if decided is None else decided
    numbers, seen = np.arange(len(classes)), y >= 0
    rows = [("accuracy", f"{100 * metrics.accuracy_score(y, decided):.2f} %")]
    if seen.any():
        # scikit-learn expects sums of 1 to the last digit.
        p = outputs[seen].astype(np.float64)
        p /= p.sum(axis=1, keepdims=True)
        rows.append(("log loss", f"{metrics.log_loss(y[seen], p, labels=numbers):.4f}"))
        absent = np.setdiff1d(numbers, y)
        if absent.size:
            rows.append(("ROC AUC", f"undefined, as the data has no {classes[absent[0]]}"))
        else:
            score = p[:, 1] if len(classes) == 2 else p
            rows.append(("ROC AUC", f"{metrics.roc_auc_score(y[seen], score, multi_class='ovr', labels=numbers):.4f}"))
    if not seen.all():
        n = int((~seen).sum())
        rows.append(("not seen in training", f"{n:,} row{'s' * (n > 1)}"))
    lines = [f"{name:<12} {value}" if len(name) < 12 else f"{name}: {value}" for name, value in rows]
    return lines + _confusion(metrics, classes, y, decided)


def _confusion(metrics: Any, classes: Sequence[Label], y: Array, decided: Array) -> list[str]:
    if len(classes) > _MOST_CLASSES:
        return []
    shown, numbers = [one_line(str(label)) for label in classes], list(range(len(classes)))
    truth = [*numbers, -1] if (y < 0).any() else numbers
    matrix = metrics.confusion_matrix(y, decided, labels=truth)
    names = [*shown, "(others)"]
    table = [("", *shown), *((names[i], *(str(matrix[row, j]) for j in numbers)) for row, i in enumerate(truth))]
    return ["", "confusion matrix: a row for each class of the data, a column for each predicted", *aligned(table)]


def _numbers(net: Any, outputs: Array, y: Array) -> list[str]:
    """The measures of each number."""
    from sklearn import metrics

    def measured(y: Array, outputs: Array) -> tuple[str, str, str]:
        r2 = f"{metrics.r2_score(y, outputs):.4f}" if (y != y[0]).any() else "undefined"
        error = metrics.mean_squared_error(y, outputs) ** 0.5
        return r2, f"{metrics.mean_absolute_error(y, outputs):.6g}", f"{error:.6g}"

    names = [name for name, _ in saved.named(net)]
    rows = [(one_line(name), *measured(y[:, i], outputs[:, i].astype(np.float64))) for i, name in enumerate(names)]
    return aligned([("", "R^2", "mean absolute error", "root mean squared error"), *rows])
