# SPDX-License-Identifier: BSD-3-Clause
"""Time of training to the final test accuracy of another system: networks of layers, and PyTorch's.

    python bench/to_accuracy.py [CASE ...] [--threads N] [--epochs N] [--seeds N] [--quick]

Ours trains with its defaults, and also dense; PyTorch trains dense. The optimizer is the same: Adam
at 1e-3, whose rate falls to 0 over the last 30 % of the steps, with batches of 256. Each system
runs in a process of its own, and they alternate after each epoch. The time includes all of
training, even truncation and looks at ranks, but not evaluation on the test set. The goal is the
lowest of the systems' final accuracies. A system reaches it at the end of the first epoch with at
least that accuracy. The bench needs MNIST. Without PyTorch, the table contains only our systems.

The time of a step is measured in layers.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import layers

# Nothing else is imported here: a worker sees only what its own system needs.

RATE, BATCH = 1e-3, 256
CASES = {
    "gru-256": layers.Case("gru", (28, 28), (256,), BATCH, 1),
    "lenet-32-64": layers.Case("lenet", (28, 28, 1), (32, 64), BATCH, 1),
    "lenet-5": layers.Case("lenet", (28, 28, 1), (6, 16), BATCH, 1),
}
SYSTEMS = ("svdfast auto", "svdfast dense", "torch")


def images(limit: int) -> tuple[Any, Any]:
    """(X, y) of MNIST for training and for testing; with a limit, so many random samples."""
    if limit == 0:
        import svdfast as sf

        data = sf.datasets.load("mnist")
        return data.train, data.test
    import numpy as np

    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (limit, 784), dtype=np.uint8), rng.integers(0, 10, limit)
    return (X, y), (X, y)


def ours(case: layers.Case, factoring: str | None, seed: int, epochs: int, n_threads: int, limit: int, tell: Callable[..., None]) -> None:
    import svdfast as sf

    (X, y), (X_test, y_test) = images(limit)
    X = X.reshape(-1, *case.shape)
    net = layers.our_network(case, seed)

    start = time.perf_counter()

    def after(event: sf.Event) -> None:
        nonlocal start
        if event.kind == "epoch":
            seconds = time.perf_counter() - start
            tell(seconds, net.score(X_test.reshape(-1, *case.shape), y_test))
            start = time.perf_counter()

    sf.train(net, X, y, epochs=epochs, batch_size=BATCH, factoring=factoring, n_threads=n_threads, seed=seed, callbacks=[after])


def theirs(case: layers.Case, seed: int, epochs: int, n_threads: int, limit: int, tell: Callable[..., None]) -> None:
    import numpy as np
    import torch
    from torch import nn

    torch.set_num_threads(n_threads)
    torch.manual_seed(seed)
    train, test = images(limit)

    def tensor(X: Any) -> Any:
        made = torch.from_numpy(X.astype(np.float32) / 255).reshape(-1, *case.shape)
        return made if len(case.shape) == 2 else made.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    X, y = tensor(train[0]), torch.from_numpy(train[1].astype(np.int64))
    X_test, y_test = tensor(test[0]), torch.from_numpy(test[1].astype(np.int64))
    module = layers.their_network(case)
    if len(case.shape) == 3:
        module = module.to(memory_format=torch.channels_last)
    n_steps = epochs * -(-len(X) // BATCH)
    optimizer = torch.optim.Adam(module.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, (n_steps - t) / (0.3 * n_steps)))
    for _ in range(epochs):
        start = time.perf_counter()
        order = torch.randperm(len(X))
        for rows in order.split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(X[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
        seconds = time.perf_counter() - start
        with torch.no_grad():
            right = sum(int((module(x).argmax(1) == t).sum()) for x, t in zip(X_test.split(1000), y_test.split(1000), strict=True))
        tell(seconds, right / len(y_test))


def work(system: str, case_name: str, seed: int, epochs: int, n_threads: int, limit: int) -> None:
    """A worker. It trains one epoch for each input line."""

    def tell(seconds: float, accuracy: float) -> None:
        print(json.dumps([seconds, accuracy]), flush=True)
        sys.stdin.readline()

    sys.stdin.readline()
    if system == "torch":
        theirs(CASES[case_name], seed, epochs, n_threads, limit, tell)
    else:
        ours(CASES[case_name], None if system.endswith("dense") else "auto", seed, epochs, n_threads, limit, tell)


def measure(case_name: str, seed: int, epochs: int, n_threads: int, limit: int) -> dict[str, list[tuple[float, float]]]:
    """For each system, (seconds so far, test accuracy) at the end of each epoch."""
    environment = os.environ | {name: str(n_threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    workers = {
        system: subprocess.Popen(
            [sys.executable, __file__, "--work", system, case_name, *map(str, (seed, epochs, n_threads, limit))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for system in SYSTEMS
        if system != "torch" or importlib.util.find_spec("torch")
    }  # fmt: skip
    found: dict[str, list[tuple[float, float]]] = {system: [] for system in workers}
    for _ in range(epochs):
        for system, worker in workers.items():
            assert worker.stdin is not None and worker.stdout is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            seconds, accuracy = json.loads(worker.stdout.readline())
            found[system].append((seconds + (found[system][-1][0] if found[system] else 0), accuracy))
    for worker in workers.values():
        worker.communicate("\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="an epoch of few random samples: only a check")
    parser.add_argument("--work", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        system, case_name, *numbers = arguments.work
        work(system, case_name, *map(int, numbers))
        return
    import machine

    epochs, limit = (1, 512) if arguments.quick else (arguments.epochs, 0)
    print(machine.describe(["torch"]))
    print(f"\n{arguments.threads} threads, float32, {epochs} epochs; seconds until the lowest of the last accuracies\n")
    print(f"{'case':<12} {'seed':>4} {'accuracy':>9}  " + "  ".join(f"{system:>22}" for system in SYSTEMS))
    for name in arguments.cases or CASES:
        ratios = []
        for seed in range(arguments.seeds):
            found = measure(name, seed, epochs, arguments.threads, limit)
            goal = min(rows[-1][1] for rows in found.values())
            reached = {system: next(seconds for seconds, accuracy in rows if accuracy >= goal) for system, rows in found.items()}
            ratios.append(reached.get("torch", math.nan) / reached["svdfast auto"])
            columns = (f"{reached[system]:>8.1f} s, {100 * rows[-1][1]:6.2f} % last" for system, rows in found.items())
            print(f"{name:<12} {seed:>4} {100 * goal:>7.2f} %  " + "  ".join(f"{column:>22}" for column in columns), flush=True)
        print(f"{name:<12} PyTorch ÷ auto: {statistics.median(ratios):.2f}", flush=True)


if __name__ == "__main__":
    main()
