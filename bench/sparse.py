# SPDX-License-Identifier: BSD-3-Clause
"""An epoch of sparse samples: by their entries, made dense, and by scikit-learn's MLPClassifier.

    python bench/sparse.py [--columns 60000] [--entries 115] [--samples 10000] [--hidden 100] [--batch 200] [--rounds 3] [--quick]

The engine multiplies by entries, or makes samples dense; a third form has them dense in memory.
Samples are random float32 numbers, with the given number of columns and of entries per row, and ten
classes. The optimizer is Adam, and the first weight is dense. Forms alternate; a round's epoch is
half of a call of `train` or `fit` with two epochs, including its checks. Last comes the
cross-entropy of one network on all samples, by entries and dense. Accuracy is measured in
accuracy.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import machine
import numpy as np
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import svdfast as sf
from svdfast.data import sparse

EPOCHS = 2
CLASSES = 10


def samples(n: int, n_columns: int, n_entries: int) -> tuple[Any, np.ndarray]:
    """Rows whose columns are as frequent as words: few occur often. A few decide classes."""
    rng = np.random.default_rng(0)
    columns = np.minimum((n_columns * rng.random((n, n_entries)) ** 2).astype(np.int64), n_columns - 1)
    begins = np.arange(n + 1) * n_entries
    X = sp.csr_array((rng.random(n * n_entries, np.float32), columns.ravel(), begins), shape=(n, n_columns))
    X.sum_duplicates()
    return X, np.argmax(X[:, :CLASSES].toarray() + 0.1 * rng.random((n, CLASSES)), axis=1)


def ours(X: Any, y: np.ndarray, hidden: int, batch: int, n_threads: int, few: float) -> float:
    """Seconds of an epoch. Samples with at most this share of entries are multiplied by entries."""
    sparse.FEW = few
    net = sf.Network([X.shape[1], hidden, CLASSES], seed=0)
    began = time.perf_counter()
    sf.train(net, X, y, epochs=EPOCHS, batch_size=batch, factoring=None, n_threads=n_threads, optimizer="adam", seed=0)
    return (time.perf_counter() - began) / EPOCHS


def theirs(X: Any, y: np.ndarray, hidden: int, batch: int) -> float:
    """The same by scikit-learn."""
    model = MLPClassifier((hidden,), batch_size=batch, max_iter=EPOCHS, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        began = time.perf_counter()
        model.fit(X, y)
    return (time.perf_counter() - began) / EPOCHS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--columns", type=int, default=60_000)
    parser.add_argument("--entries", type=int, default=115)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--hidden", type=int, default=100)
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few samples and columns: only a check")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.columns, arguments.samples, arguments.rounds = 2000, 600, 1
    hidden, batch = arguments.hidden, arguments.batch
    print(machine.describe(["scikit-learn"]), "\n", flush=True)
    X, y = samples(arguments.samples, arguments.columns, arguments.entries)
    dense = X.toarray()
    forms: dict[str, Callable[[], float]] = {"scikit-learn": lambda: theirs(X, y, hidden, batch)}
    for n_threads in (1, 2):
        forms |= {
            f"by entries, {n_threads} threads": lambda n=n_threads: ours(X, y, hidden, batch, n, 1),
            f"made dense, {n_threads} threads": lambda n=n_threads: ours(X, y, hidden, batch, n, -1),
            f"dense in memory, {n_threads} threads": lambda n=n_threads: ours(dense, y, hidden, batch, n, -1),
        }
    times: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(arguments.rounds):
        for form, epoch in forms.items():
            times[form].append(epoch())
    few = X.nnz / len(y)
    print(f"{len(y)} samples of {arguments.columns} columns with {few:.0f} entries, {hidden} hidden neurons, batches of {batch}\n")
    print("| form | seconds an epoch | spread | scikit-learn's ÷ this |\n| --- | --- | --- | --- |")
    for form, own in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["scikit-learn"], own, strict=True))
        print(f"| {form} | {statistics.median(own):.3g} | {min(own):.3g} … {max(own):.3g} | {ratio:.2f} |")
    net = sf.Network([arguments.columns, hidden, CLASSES], seed=0)
    sparse.FEW = 1
    a, b = net.evaluate(X, y).loss, net.evaluate(dense, y).loss
    print(f"\ncross-entropy by entries {a:.9f}, dense {b:.9f}: they differ by {abs(a - b) / b:.1e} of it")


if __name__ == "__main__":
    main()
