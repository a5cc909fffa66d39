# SPDX-License-Identifier: BSD-3-Clause
"""Score and time of `fit`: our estimators and scikit-learn's on five of its data sets, tuned alike.

    python bench/estimators.py [--seeds 5] [--quick] [DATA ...]

Forms are scikit-learn's MLP, ours dense throughout, ours by default, and ours with α = 1/4 and 1/8.
X is float32 for all. Everything that is not tuned has its default. All forms end by the same rule,
except that factors cool down. Learning rate and L2 penalty are chosen for each form from the same
values, by the score on a fifth of the training samples of a split that is not used again. Then each
seed has its own split (a quarter for testing), first weights and order, and forms alternate.
Trainings on images are in accuracy.py.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import machine
import numpy as np
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from svdfast.sklearn import SVDMLPClassifier, SVDMLPRegressor

N, FEATURES = 20_000, 400

# The function for X and y; True if y is classes; hidden layers; the most epochs.
DATA: dict[str, tuple[Callable[[], Any], bool, tuple[int, ...], int]] = {
    "digits": (lambda: datasets.load_digits(return_X_y=True), True, (512, 512), 200),
    "breast cancer": (lambda: datasets.load_breast_cancer(return_X_y=True), True, (512, 512), 200),
    "diabetes": (lambda: datasets.load_diabetes(return_X_y=True), False, (512, 512), 200),
    "made classes": (
        lambda: datasets.make_classification(
            N, FEATURES, n_informative=40, n_redundant=100, n_classes=10, n_clusters_per_class=2, class_sep=2.0, random_state=0
        ),
        True, (512, 512), 30,
    ),
    "made regression": (
        lambda: datasets.make_friedman1(N, FEATURES, noise=1.0, random_state=0), False, (512, 512), 30,
    ),
}  # fmt: skip

RATES = (3e-4, 1e-3, 3e-3)
PENALTIES, FEW = (1e-4, 1e-1), 2000  # at most so many samples: the strongest penalty, too
STRONGEST = 1e1

# The rank fraction of our forms; scikit-learn has none.
FORMS: dict[str, dict[str, Any]] = {
    "scikit-learn": {},
    "dense": {"rank_fraction": None},
    "auto": {"rank_fraction": "auto"},
    "α = 1/4": {"rank_fraction": 1 / 4},
    "α = 1/8": {"rank_fraction": 1 / 8},
}

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def split(X: np.ndarray, y: np.ndarray, classes: bool, seed: int, share: float = 0.25) -> Split:
    """X and y for training, X and y for testing.

    Features, and targets that are not classes, are standardised by the training part.
    """
    X, X_test, y, y_test = train_test_split(X, y, test_size=share, random_state=seed, stratify=y if classes else None)
    scaler = StandardScaler().fit(X)
    if not classes:
        mean, deviation = y.mean(), y.std()
        y, y_test = (y - mean) / deviation, (y_test - mean) / deviation
    return scaler.transform(X).astype("float32"), y, scaler.transform(X_test).astype("float32"), y_test


def fitted(form: str, classes: bool, parts: Split, **settings: Any) -> tuple[Any, float, float]:
    """A fitted estimator, its score and the seconds of the fit."""
    if form == "scikit-learn":
        kinds = MLPClassifier, MLPRegressor
    else:
        kinds = SVDMLPClassifier, SVDMLPRegressor
    model = kinds[not classes](**FORMS[form], **settings)
    X, y, X_test, y_test = parts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        began = time.perf_counter()
        model.fit(X, y)
        seconds = time.perf_counter() - began
    return model, model.score(X_test, y_test), seconds


def compare(name: str, n_seeds: int, quick: bool) -> list[str]:
    """Rows of the table."""
    make, classes, hidden, epochs = DATA[name]
    X, y = make()
    if quick:
        X, y, epochs = X[:300], y[:300], 3
    penalties = PENALTIES if len(X) > FEW else (*PENALTIES, STRONGEST)
    settings: dict[str, Any] = {"hidden_layer_sizes": hidden, "max_iter": epochs}
    X_tune, y_tune, _, _ = split(X, y, classes, 1000)
    tuning = split(X_tune, y_tune, classes, 1000, share=0.2)
    chosen = {}
    for form in FORMS:
        grid = itertools.product(RATES[1:2], PENALTIES[:1]) if quick else itertools.product(RATES, penalties)
        scores = {
            (rate, penalty): fitted(
                form, classes, tuning, **settings, learning_rate_init=rate, alpha=penalty, random_state=1000
            )[1]
            for rate, penalty in grid
        }
        chosen[form] = max(scores, key=scores.__getitem__)
    results: dict[str, list[tuple[float, float, int]]] = {form: [] for form in FORMS}
    for seed in range(n_seeds):
        parts = split(X, y, classes, seed)
        for form, (rate, penalty) in chosen.items():
            model, score, seconds = fitted(
                form, classes, parts, **settings, learning_rate_init=rate, alpha=penalty, random_state=seed
            )
            results[form].append((score, seconds, model.n_iter_))
    rows = []
    theirs = [seconds for _, seconds, _ in results["scikit-learn"]]
    for form, runs in results.items():
        scores, times, n_iter = zip(*runs, strict=True)
        unit = 100 if classes else 1
        digits = 2 if classes else 4
        spread = statistics.stdev(scores) if n_seeds > 1 else 0.0
        ratio = statistics.median(a / b for a, b in zip(theirs, times, strict=True))
        rate, penalty = chosen[form]
        rows.append(
            f"| {name} | {form} | {unit * statistics.mean(scores):.{digits}f} ± {unit * spread:.{digits}f}{' %' if classes else ''} | "
            f"{statistics.median(times):.3g} | {ratio:.2f} | {statistics.median(n_iter):.0f} | {rate:g}, {penalty:g} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", metavar="DATA", help=f"{', '.join(DATA)} (default: all)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few samples and epochs: only a check")
    arguments = parser.parse_args()
    names = arguments.data or list(DATA)
    for name in names:
        if name not in DATA:
            parser.error(f"DATA: expected some of {', '.join(DATA)}, got {name}")
    print(machine.describe(["scikit-learn"]), "\n", flush=True)
    print("| data | form | test accuracy or R² | seconds a fit | scikit-learn's ÷ this | epochs | learning rate, penalty |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in names:
        print("\n".join(compare(name, 2 if arguments.quick else arguments.seeds, arguments.quick)), flush=True)


if __name__ == "__main__":
    main()
