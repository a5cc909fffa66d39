# SPDX-License-Identifier: BSD-3-Clause
"""The data sets of suite.py: tables, images and generated sets, split and scaled for a seed.

Files are looked for in the folder `suite` under $SVDFAST_DATA. A set whose file or package is
missing raises `Absent`. Trainings are in suite.py; svdfast.datasets loads further sets.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from svdfast import datasets

N = 20_000  # default number of samples of a generated set


class Absent(Exception):
    """A data set can't be loaded here; the message says why."""


class Raw(NamedTuple):
    """A data set that is neither split nor scaled.

    X is uint8 for images. y holds class numbers, or numbers to regress if n_classes is 0.
    `noise` is the share of training labels that are drawn at random.
    """

    X: np.ndarray
    y: np.ndarray
    n_classes: int
    test: tuple[np.ndarray, np.ndarray] | None = None
    noise: float = 0.0


class Parts(NamedTuple):
    """The parts for training and for scoring: standardised float32 inputs, or uint8 images."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    n_classes: int

    @property
    def n_outputs(self) -> int:
        return self.n_classes or (1 if self.y.ndim == 1 else self.y.shape[1])


def suite_file(name: str) -> Path:
    folder = os.environ.get("SVDFAST_DATA")
    if not folder:
        raise Absent("SVDFAST_DATA is not set")
    file = Path(folder, "suite", name)
    if not file.exists():
        raise Absent(f"{file} was not found")
    return file


def classes(X: np.ndarray, y: np.ndarray) -> Raw:
    kinds, numbers = np.unique(y, return_inverse=True)
    return Raw(X, numbers, len(kinds))


def table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and the target from the last column."""
    import pandas as pd

    rows = pd.read_csv(suite_file(f"{name}.csv.gz")).to_numpy(dtype=np.float64)
    return rows[:, :-1], rows[:, -1]


def bike() -> Raw:
    X, counts = table("bike")
    return Raw(X, np.log1p(counts), 0)


def adult() -> Raw:
    """Text columns are one-hot with the training part's categories; '?' is one of them."""
    import pandas as pd

    train, test = (pd.read_csv(suite_file(f"adult-{part}.csv.gz")) for part in ("train", "test"))
    inputs: list[list[np.ndarray]] = [[], []]
    for name in train.columns[:-1]:
        is_number = pd.api.types.is_numeric_dtype(train[name])
        kinds = None if is_number else np.unique(train[name].to_numpy())
        for columns, frame in zip(inputs, (train, test), strict=True):
            values = frame[name].to_numpy()[:, None]
            columns.append(np.asarray(values if kinds is None else values == kinds, np.float64))
    X, X_test = (np.hstack(columns) for columns in inputs)
    y, y_test = ((frame["income"] == ">50K").to_numpy().astype(int) for frame in (train, test))
    return Raw(X, y, 2, (X_test, y_test))


def images(load: Callable[[], datasets.Dataset]) -> Raw:
    try:
        data = load()
    except OSError as error:
        raise Absent(str(error)) from error
    return Raw(*data.train, data.n_classes, data.test)


def from_sklearn(name: str) -> tuple[np.ndarray, np.ndarray]:
    import sklearn.datasets

    return getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)


def made(n: int = N, inputs: int = 50, n_classes: int = 10, separation: float = 1.5) -> Raw:
    """Classes of two clusters each, at corners of a cube in some of the inputs."""
    from sklearn.datasets import make_classification

    informative = min(inputs, 20)
    redundant = min(inputs - informative, 20)
    X, y = make_classification(
        n, inputs, n_informative=informative, n_redundant=redundant, n_classes=n_classes,
        n_clusters_per_class=2, class_sep=separation, flip_y=0.0, random_state=0,
    )  # fmt: skip
    return Raw(X, y, n_classes)


def in_order(data: Raw) -> Raw:
    order = np.argsort(data.y, kind="stable")
    return data._replace(X=data.X[order], y=data.y[order])


def made_outputs() -> Raw:
    """Many outputs that share 32 hidden units, with noise of a tenth of their deviation."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, 50))
    H = np.tanh(X @ rng.standard_normal((50, 32)) / 5)
    y = H @ rng.standard_normal((32, 100))
    return Raw(X, y + 0.1 * y.std() * rng.standard_normal(y.shape), 0)


SETS: dict[str, Callable[[], Raw]] = {
    "letter": lambda: classes(*table("letter")),
    "pendigits": lambda: classes(*table("pendigits")),
    "satimage": lambda: classes(*table("satimage")),
    "spambase": lambda: classes(*table("spambase")),
    "waveform": lambda: classes(*table("waveform")),
    "adult": adult,
    "bike": bike,
    "california": lambda: Raw(*table("california"), 0),
    "digits": lambda: classes(*from_sklearn("digits")),
    "breast-cancer": lambda: classes(*from_sklearn("breast_cancer")),
    "wine": lambda: classes(*from_sklearn("wine")),
    "diabetes": lambda: Raw(*from_sklearn("diabetes"), 0),
    "mnist": lambda: images(lambda: datasets.load("mnist")),
    "fashion-mnist": lambda: images(lambda: datasets.load("fashion-mnist")),
    "cifar10": lambda: images(datasets.cifar10_part),
    "few-samples": lambda: made(500, n_classes=3),
    "many-samples": lambda: made(200_000),
    "few-inputs": lambda: made(inputs=5, n_classes=4),
    "many-inputs": lambda: made(5_000, inputs=2_000, n_classes=4),
    "classes-in-order": lambda: in_order(made()),
    "noisy-labels": lambda: made()._replace(noise=0.2),
    "two-classes": lambda: made(n_classes=2),
    "hundred-classes": lambda: made(n_classes=100, separation=3.0),
    "many-outputs": made_outputs,
}


@lru_cache(maxsize=1)  # runs go set by set, and seed by seed
def raw(name: str) -> Raw:
    try:
        return SETS[name]()
    except ImportError as error:
        raise Absent(str(error)) from error


def held_out(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows to keep and a fifth to hold out, both in the order of the data."""
    order = rng.permutation(n)
    return np.sort(order[n // 5 :]), np.sort(order[: n // 5])


def standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by the training part's mean and deviation, as float32. Constant columns become 0."""
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    constant = deviation <= 1e-12 * np.abs(mean)
    scale = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    first, second = (((part - mean) * scale).astype(np.float32) for part in (train, test))
    return first, second


def split(data: Raw, seed: int, *, tuning: bool = False) -> Parts:
    """The parts of a run. For tuning, a fifth of the training part stands for the test part."""
    rng = np.random.default_rng(seed)
    X, y = data.X, data.y
    if data.test is None:
        rows, others = held_out(len(X), rng)
        X, y, X_test, y_test = X[rows], y[rows], X[others], y[others]
    else:
        X_test, y_test = data.test
    if data.noise:
        noisy = rng.random(len(y)) < data.noise
        y = np.where(noisy, rng.integers(data.n_classes, size=len(y)), y)
    if tuning:
        rows, others = held_out(len(X), rng)
        X, y, X_test, y_test = X[rows], y[rows], X[others], y[others]
    if X.dtype != np.uint8:
        X, X_test = standardised(X, X_test)
    if not data.n_classes:
        y, y_test = standardised(y, y_test)
    return Parts(X, y, X_test, y_test, data.n_classes)


@lru_cache(maxsize=1)
def parts(name: str, seed: int, tuning: bool) -> Parts:
    return split(raw(name), seed, tuning=tuning)
