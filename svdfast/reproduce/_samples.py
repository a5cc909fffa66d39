# SPDX-License-Identifier: BSD-3-Clause
"""The samples of recurrent.py and convolution.py by name: text cut into sequences, a generated task, photos, and what
svdfast.datasets loads by itself.

Not here: networks and trainings (_layered.py).
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
    """Raises ImportError, OSError or ValueError where something is missing or damaged."""
    if name == "adding":
        return Samples(adding(20_000, 0), adding(2_000, 1))
    if name == "characters":
        return characters(datasets.tinyshakespeare())
    data = datasets.cifar10_part() if name == "cifar10-part" else datasets.load(name)
    return Samples(data.train, data.test)


def adding(n: int, seed: int) -> Part:
    """The adding problem (Hochreiter & Schmidhuber 1997): at each step a number from 0 to 1 and a mark. One step of each half is marked;
    the target is the sum of these two numbers. The answer 1 has a squared error of 1/6."""
    rng = np.random.default_rng(seed)
    X = np.zeros((n, STEPS, 2), np.float32)
    X[:, :, 0] = rng.random((n, STEPS), dtype=np.float32)
    rows = np.arange(n)
    first, second = rng.integers(0, STEPS // 2, n), rng.integers(STEPS // 2, STEPS, n)
    X[rows, first, 1] = X[rows, second, 1] = 1
    return X, X[rows, first, 0] + X[rows, second, 0]


def characters(text: str) -> Samples:
    """Sequences of characters, and for each the next one. The last tenth of the text is held back."""
    tokens, _ = number(text)
    kept = len(tokens) * 9 // 10
    return Samples(*(streams(part, STEPS, batch_size=1) for part in (tokens[:kept], tokens[kept:])))
