# SPDX-License-Identifier: BSD-3-Clause
"""The quality of a network: accuracy, R², or bits a character; and the best constant answer.

Elsewhere: the output of `svdfast evaluate` (evaluate.py).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast.cli.data import Data
from svdfast.model.describe import Embedding, Input, Linear
from svdfast.model.evaluation import Evaluation
from svdfast.model.heads import CLASSES, NUMBERS
from svdfast.model.network import Network

__all__ = ["balanced_accuracy", "constant", "score", "score_name", "worse"]

Array = NDArray[Any]


def score_name(data: Data) -> str:
    if data.is_text:
        return "bits a character"
    return "accuracy" if data.head.decides else "R²"


def score(data: Data, evaluation: Evaluation, y: Array) -> str:
    """Bits a character, accuracy, or R² as 1 - loss/variance.

    Several targets count by their mean variance.
    """
    if data.is_text:
        return f"{evaluation.loss / math.log(2):.4f}"
    if evaluation.accuracy is not None:
        return f"{100 * evaluation.accuracy:.2f} %"
    variance = float(np.var(y.reshape(len(y), -1), axis=0, dtype=np.float64).mean())
    return f"{1 - evaluation.loss / variance:.4f}" if variance else "undefined"


def constant(data: Data) -> Network:
    """The best network that ignores its inputs: shares of classes and bits, means of numbers."""
    if data.is_text:
        steps = data.X.shape[1]
        net = Network(Input(steps), [Embedding(data.n_out, 1), Linear(data.n_out, data.head.output)], dtype="float64", seed=0)
    else:
        net = Network([data.X.shape[1], data.n_out], output=data.head.output, dtype="float64", seed=0)
    net.parameters[:] = 0
    if data.head is CLASSES:
        answer = np.bincount(data.y.ravel(), minlength=data.n_out) / data.y.size
    else:
        answer = data.y.reshape(len(data.y), -1).mean(axis=0, dtype=np.float64)
    if data.head is not NUMBERS:
        answer = np.clip(answer, 1e-12, 1 - 1e-12)
        answer = np.log(answer) if data.head is CLASSES else np.log(answer / (1 - answer))
    net.layers[-1].b[...] = answer
    return net


def worse(data: Data, here: Evaluation, constant: Evaluation) -> bool:
    """True if a network is worse on the test samples than the constant answer."""
    if data.is_text or here.accuracy is None or constant.accuracy is None:
        return here.loss > constant.loss and bool(np.ptp(data.y_test))
    return here.accuracy < constant.accuracy and here.loss > constant.loss


def balanced_accuracy(net: Network, data: Data) -> float:
    """The mean over classes of the share of their test samples that are predicted right."""
    decided = data.head.decide(net.predict(data.X_test)).reshape(-1)
    y = data.y_test.reshape(-1)
    return float(np.mean([np.mean(decided[y == number] == number) for number in np.unique(y)]))
