# SPDX-License-Identifier: BSD-3-Clause
"""The samples of recurrent.py and convolution.py by name.

They are sequences of a text, a generated task, photos, and data sets of svdfast.datasets. Networks
and trainings are in _layered.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from svdfast import datasets
from svdfast.data.text import number
from svdfast.sequences import streams

STEPS = 100

Part = tuple[NDArray[Any], NDArray[Any]]


class Samples(NamedTuple):
    train: Part
    test: Part


@lru_cache(maxsize=4)
def load(name: str) -> Samples:
    """The samples. Raises ImportError, OSError or ValueError if data is missing or damaged."""
    if name == "adding":
        return Samples(adding(20_000, 0), adding(2_000, 1))
    if name == "characters":
        return characters(datasets.tinyshakespeare())
    data = datasets.cifar10_part() if name == "cifar10-part" else datasets.load(name)
    return Samples(data.train, data.test)


def adding(n: int, seed: int) -> Part:
    """The adding problem (Hochreiter & Schmidhuber 1997).

    Each step has a number from 0 to 1 and a mark. One step of each half is marked; the target is
    the sum of the two marked numbers. The constant answer 1 has a squared error of 1/6.
    """
    rng = np.random.default_rng(seed)
    X = np.zeros((n, STEPS, 2), np.float32)
    X[:, :, 0] = rng.random((n, STEPS), dtype=np.float32)
    rows = np.arange(n)
    first, second = rng.integers(0, STEPS // 2, n), rng.integers(STEPS // 2, STEPS, n)
    X[rows, first, 1] = X[rows, second, 1] = 1
    return X, X[rows, first, 0] + X[rows, second, 0]


def characters(text: str) -> Samples:
    """Sequences of characters, with the next character as target. The last tenth is for testing."""
    tokens, _ = number(text)
    kept = len(tokens) * 9 // 10
    return Samples(*(streams(part, STEPS, batch_size=1) for part in (tokens[:kept], tokens[kept:])))
