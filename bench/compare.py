# SPDX-License-Identifier: BSD-3-Clause
"""Seconds of training by svdfast and by other systems: the same networks, batches and threads, dense and factored.

    python bench/compare.py [mnist | mnist-small-batch | wide | many-inputs | many-outputs | large | cat | xor ...]
                            [--peers torch,jax | none] [--threads 1 2] [--rounds N] [--json FILE] [--quick]

Each system runs in a process of its own. Its threads and CPUs are set before it starts. It trains
for one round when asked; the others sleep in the meantime. Rounds alternate (A B C A B C), so that
a machine that slows down does so for all. A round is a number of epochs of Adam in float32, some
with products in bfloat16. The loss is reported. If there is more than one batch, each epoch has a
new order of samples. All systems but scikit-learn begin with the same weights and the same order,
and the losses of their first rounds are compared. Work done once per training (checks of
arguments, compiling) is not counted, except in scikit-learn, where it can't be separated. Each
counted round follows an uncounted epoch, so that all systems are warmed up.

Accuracy is measured in accuracy.py; single layers and functions in test_bench_*.py.

A new system takes a function from a case and a number of threads to its rounds, and a line in
SYSTEMS.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Nothing else is imported here: a worker sees only what its own system needs.

LEARNING_RATE, BETA1, BETA2, EPSILON = 3e-4, 0.9, 0.999, 1e-8
RANK_FRACTIONS = (None, 1 / 2, 1 / 4, 1 / 8)
PAUSE = 0.1  # seconds between rounds: threads that spin after work go to sleep


@dataclass(frozen=True)
class Case:
    """A network and its training. A round is `epochs` passes over `n_samples`.

    `n_samples` is a multiple of the batch. One output stands for sigmoid and binary cross-entropy,
    more outputs for softmax and cross-entropy. Hidden layers are ReLU. `bfloat16` adds a variant
    with products in bfloat16, which are faster only on CPUs with an instruction for it.
    """

    sizes: tuple[int, ...]
    batch: int
    n_samples: int
    epochs: int = 1
    bfloat16: bool = True

    @property
    def n_steps(self) -> int:
        return self.epochs * (self.n_samples // self.batch)

    @property
    def one_batch(self) -> bool:
        """True if one batch holds all samples. It is then used in its own order."""
        return self.batch == self.n_samples

    def quick(self) -> Case:
        """The same network on the fewest samples that still run every path."""
        if self.one_batch:
            return dataclasses.replace(self, epochs=2)
        return dataclasses.replace(self, n_samples=2 * self.batch)


CASES = {
    "mnist": Case((784, 512, 256, 10), 2048, 61_440),
    "mnist-small-batch": Case((784, 512, 256, 10), 128, 15_360),
    "wide": Case((784, 2048, 2048, 10), 1024, 10_240),
    "many-inputs": Case((5000, 2048, 1024, 10), 512, 4096),
    "many-outputs": Case((1000, 1024, 1024, 2000), 256, 2048),
    "large": Case((2000, 4096, 2048, 100), 2048, 6144),
    "cat": Case((12_288, 100, 1), 209, 209, epochs=50),
    "xor": Case((2, 20, 20, 1), 4, 4, epochs=2000),
}

# A round trains and returns its seconds and the mean loss over its last epoch.
Round = Callable[[], tuple[float, float]]
# The name of a variant of a system, its rank_fraction (None: dense), its round.
Variants = Iterator[tuple[str, float | None, Round]]


def make_data(case: Case) -> tuple[Any, Any]:
    """Samples in [0, 1] as float32, and class numbers that can be learned from them."""
    import numpy as np

    if case.n_samples == 4:
        X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
        return X, np.array([0, 1, 1, 0], dtype=np.int32)
    rng = np.random.default_rng(0)
    X = rng.random((case.n_samples, case.sizes[0]), dtype=np.float32)
    scores = (X - 0.5) @ rng.standard_normal((case.sizes[0], case.sizes[-1]), dtype=np.float32)
    y = scores.argmax(axis=1) if case.sizes[-1] > 1 else scores[:, 0] > 0
    return X, y.astype(np.int32)


def rank(rank_fraction: float, n_in: int, n_out: int) -> int:
    return max(1, int(rank_fraction * min(n_in, n_out)))


def linear_maps(case: Case, rank_fraction: float | None) -> list[tuple[int, int, bool]]:
    """The network as a chain of products: inputs, outputs, and True if the product ends a layer.

    A product that does not end a layer is W2 of a factored one.
    """
    maps = []
    n_layers = len(case.sizes) - 1
    for i, (m, n) in enumerate(zip(case.sizes, case.sizes[1:], strict=False)):
        if rank_fraction is not None and i < n_layers - 1:
            l = rank(rank_fraction, m, n)  # noqa: E741
            maps += [(m, l, False), (l, n, True)]
        else:
            maps.append((m, n, True))
    return maps


def initial_weights(case: Case, rank_fraction: float | None) -> list[Any]:
    """A weight (n_out, n_in) for each linear map, the same in all systems. Biases begin with 0."""
    import numpy as np

    rng = np.random.default_rng(1)
    return [
        rng.standard_normal((n, m), dtype=np.float32) * np.float32(m**-0.5)
        for m, n, _ in linear_maps(case, rank_fraction)
    ]


def new_rng() -> Any:
    """The random generator for the order of samples, the same in all systems."""
    import numpy as np

    return np.random.default_rng(0)


def svdfast_network(case: Case, rank_fraction: float | None) -> Any:
    """The case's network, with the weights that all systems begin with."""
    import svdfast as sf

    net = sf.Network(case.sizes, output="softmax" if case.sizes[-1] > 1 else "sigmoid", seed=0)
    if rank_fraction is not None:
        net.truncate(rank_fraction, force=True, method="randomized")
    weights = iter(initial_weights(case, rank_fraction))
    for layer in net.layers:
        if layer.rank is None:
            layer.W[...] = next(weights)
        else:
            layer.W2[...], layer.W1[...] = next(weights), next(weights)
    return net


def svdfast_variants(case: Case, n_threads: int) -> Variants:
    """Epochs of `sf.train`, from the end of the first one, which includes checks of arguments."""
    X, y = make_data(case)
    for precision in ["float32", "bfloat16"] if case.bfloat16 and not case.one_batch else ["float32"]:
        for rank_fraction in RANK_FRACTIONS:
            net = svdfast_network(case, rank_fraction)
            name = "svdfast" if precision == "float32" else f"svdfast {precision}"
            yield name, rank_fraction, svdfast_round(case, net, X, y, n_threads, precision=precision)


def svdfast_round(
    case: Case,
    net: Any,
    X: Any,
    y: Any,
    n_threads: int,
    begin: Callable[[], object] | None = None,
    precision: str = "float32",
) -> Round:
    """A round whose first epoch is not counted, because it includes the checks of arguments.

    `begin` is called at the end of that epoch. If an epoch is one step, a callback at each step
    would cost too much. Everything is counted then, the checks too.
    """
    import svdfast as sf

    rng = new_rng()
    optimizer = sf.Adam(LEARNING_RATE, beta1=BETA1, beta2=BETA2, epsilon=EPSILON)

    def run() -> tuple[float, float]:
        whole = case.one_batch and begin is None
        start = time.perf_counter()

        def at_epoch(event: sf.Event) -> None:
            nonlocal start
            if event.epoch == 1:
                if begin is not None:
                    begin()
                start = time.perf_counter()

        result = sf.train(
            net,
            X,
            y,
            epochs=case.epochs + (not whole),
            batch_size=case.batch,
            optimizer=optimizer,
            factoring=sf.Factoring(pretrain_fraction=1, recompose=False),
            precision=precision,
            n_threads=n_threads,
            seed=rng,
            callbacks=[] if whole else [at_epoch],
        )
        # The loss of the epoch that the others end with: this round has one more.
        return time.perf_counter() - start, result.history[case.epochs - 1]["loss"]

    return run


class NumpyNetwork:
    """A network in plain NumPy. Every operation has its `out`, so a step only allocates views."""

    def __init__(self, case: Case, rank_fraction: float | None):
        import numpy as np

        self.maps = linear_maps(case, rank_fraction)
        p = case.batch
        size = sum(m * n + n * ends for m, n, ends in self.maps)
        self.w, self.g, self.m, self.v, self.t = np.zeros((5, size), dtype=np.float32)
        self.W, self.b, self.dW, self.db = [], [], [], []
        place = 0
        for (m, n, ends), W in zip(
            self.maps, initial_weights(case, rank_fraction), strict=True
        ):
            for flat, views in ((self.w, self.W), (self.g, self.dW)):
                views.append(flat[place : place + m * n].reshape(n, m))
            self.W[-1][...] = W
            place += m * n
            for flat, views in ((self.w, self.b), (self.g, self.db)):
                views.append(flat[place : place + n] if ends else None)
            place += n * ends
        self.A = [np.empty((p, n), dtype=np.float32) for _, n, _ in self.maps]
        self.delta = [np.empty((p, n), dtype=np.float32) for _, n, _ in self.maps]
        self.positive = [np.empty((p, n), dtype=bool) for _, n, _ in self.maps]
        self.X = np.empty((p, case.sizes[0]), dtype=np.float32)
        self.rows = np.arange(p)
        self.column = np.empty((p, 1), dtype=np.float32)
        self.n_updates = 0

    def step(self, X: Any, y: Any) -> float:
        """One update. Returns the batch's mean loss before it."""
        import numpy as np

        below = X
        for W, b, (_, _, ends), A in zip(self.W, self.b, self.maps, self.A, strict=True):
            np.matmul(below, W.T, out=A)
            if ends:
                np.add(A, b, out=A)
                if A is not self.A[-1]:
                    np.maximum(A, 0, out=A)
            below = A
        loss = self.loss(y)
        for i in reversed(range(len(self.maps))):
            delta = self.delta[i]
            np.matmul(delta.T, self.A[i - 1] if i > 0 else X, out=self.dW[i])
            if self.db[i] is not None:
                np.sum(delta, axis=0, out=self.db[i])
            if i > 0:
                np.matmul(delta, self.W[i], out=self.delta[i - 1])
                if self.maps[i - 1][2]:
                    np.greater(self.A[i - 1], 0, out=self.positive[i - 1])
                    np.multiply(self.delta[i - 1], self.positive[i - 1], out=self.delta[i - 1])
        self.adam()
        return loss

    def loss(self, y: Any) -> float:
        """The mean loss. Its gradient is written to the last delta."""
        import numpy as np

        Z, delta, column = self.A[-1], self.delta[-1], self.column
        p, n = Z.shape
        if n == 1:
            target = y.reshape(p, 1)
            np.logaddexp(0, Z, out=column)
            np.multiply(Z, target, out=delta)
            np.subtract(column, delta, out=delta)
            loss = float(delta.sum()) / p
            np.negative(Z, out=delta)
            np.exp(delta, out=delta)
            np.add(delta, 1, out=delta)
            np.reciprocal(delta, out=delta)
            np.subtract(delta, target, out=delta)
        else:
            np.max(Z, axis=1, keepdims=True, out=column)
            np.subtract(Z, column, out=Z)
            np.exp(Z, out=delta)
            np.sum(delta, axis=1, keepdims=True, out=column)
            np.divide(delta, column, out=delta)
            np.log(column, out=column)
            loss = float(column.sum() - Z[self.rows, y].sum()) / p
            delta[self.rows, y] -= 1
        np.multiply(delta, 1 / p, out=delta)
        return loss

    def adam(self) -> None:
        import numpy as np

        g, m, v, t = self.g, self.m, self.v, self.t
        self.n_updates += 1
        np.multiply(m, BETA1, out=m)
        np.multiply(g, 1 - BETA1, out=t)
        np.add(m, t, out=m)
        np.multiply(v, BETA2, out=v)
        np.multiply(g, g, out=t)
        np.multiply(t, 1 - BETA2, out=t)
        np.add(v, t, out=v)
        np.sqrt(v, out=t)
        np.multiply(t, (1 - BETA2**self.n_updates) ** -0.5, out=t)
        np.add(t, EPSILON, out=t)
        np.divide(m, t, out=t)
        np.multiply(t, LEARNING_RATE / (1 - BETA1**self.n_updates), out=t)
        np.subtract(self.w, t, out=self.w)

    def epoch(self, X: Any, y: Any, rng: Any) -> float:
        import numpy as np

        p, n_samples = len(self.X), len(X)
        if p == n_samples:
            return self.step(X, y)
        order = rng.permutation(n_samples)
        total = 0.0
        for start in range(0, n_samples, p):
            rows = order[start : start + p]
            np.take(X, rows, axis=0, out=self.X, mode="clip")  # "raise" would copy again
            total += self.step(self.X, y[rows])
        return total * p / n_samples


def numpy_variants(case: Case, n_threads: int) -> Variants:
    """The fastest code by hand in NumPy alone: products into `out`, one flat vector for Adam."""
    X, y = make_data(case)
    if case.sizes[-1] == 1:
        y = y.astype(X.dtype)
    for rank_fraction in RANK_FRACTIONS:
        net = NumpyNetwork(case, rank_fraction)

        def run(net: NumpyNetwork = net, rng: Any = new_rng()) -> tuple[float, float]:  # noqa: B008
            start = time.perf_counter()
            for _ in range(case.epochs):
                loss = net.epoch(X, y, rng)
            return time.perf_counter() - start, loss

        yield "numpy", rank_fraction, run


def torch_variants(case: Case, n_threads: int) -> Variants:
    """Eager mode with fused Adam, in float32 and bfloat16.

    bfloat16 is by autocast over the forward pass, as in PyTorch's documentation.
    """
    import torch

    torch.set_num_threads(n_threads)
    binary = case.sizes[-1] == 1
    X, y = (torch.from_numpy(array) for array in make_data(case))
    y = y.float().reshape(-1, 1) if binary else y.long()
    loss_of = torch.nn.BCEWithLogitsLoss() if binary else torch.nn.CrossEntropyLoss()
    for kind in [torch.float32, torch.bfloat16] if case.bfloat16 else [torch.float32]:
        for rank_fraction in RANK_FRACTIONS:
            modules: list[torch.nn.Module] = []
            for (m, n, ends), W in zip(
                linear_maps(case, rank_fraction), initial_weights(case, rank_fraction), strict=True
            ):
                linear = torch.nn.Linear(m, n, bias=ends)
                with torch.no_grad():
                    linear.weight.copy_(torch.from_numpy(W))
                    if ends:
                        linear.bias.zero_()
                modules += [linear, torch.nn.ReLU()] if ends else [linear]
            model = torch.nn.Sequential(*modules[:-1])  # no ReLU at the end
            optimizer = torch.optim.Adam(
                model.parameters(), LEARNING_RATE, (BETA1, BETA2), EPSILON, fused=True
            )

            def step(
                X: Any, y: Any, model: Any = model, optimizer: Any = optimizer, kind: Any = kind
            ) -> float:
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind is torch.bfloat16):
                    loss = loss_of(model(X), y)
                loss.backward()
                optimizer.step()
                return float(loss.item())

            def run(
                step: Callable[[Any, Any], float] = step, rng: Any = new_rng()  # noqa: B008
            ) -> tuple[float, float]:
                start = time.perf_counter()
                for _ in range(case.epochs):
                    if case.one_batch:
                        total = step(X, y)
                    else:
                        order = torch.from_numpy(rng.permutation(case.n_samples))
                        batches = order.split(case.batch)
                        total = sum(step(X[rows], y[rows]) for rows in batches)
                return time.perf_counter() - start, total * case.batch / case.n_samples

            yield ("torch" if kind is torch.float32 else "torch bfloat16"), rank_fraction, run


def jax_variants(case: Case, n_threads: int) -> Variants:
    """A jitted whole step, including the gathering of its samples; also a jitted whole epoch.

    The epoch uses `lax.scan`. With one batch, a whole round is jitted instead.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    binary = case.sizes[-1] == 1
    X, y = (jnp.asarray(array) for array in make_data(case))

    def loss_of(parameters: Any, X: Any, y: Any) -> Any:
        A = X
        for W, b in parameters[:-1]:
            A = A @ W if b is None else jax.nn.relu(A @ W + b)
        W, b = parameters[-1]
        Z = A @ W + b
        if binary:
            return (jnp.logaddexp(0, Z[:, 0]) - y * Z[:, 0]).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(Z), y[:, None], axis=1).mean()

    def step(state: Any, X: Any, y: Any, rows: Any) -> tuple[Any, Any]:
        parameters, means, squares, t = state
        if rows is not None:
            X, y = (a.at[rows].get(mode="promise_in_bounds") for a in (X, y))
        loss, gradient = jax.value_and_grad(loss_of)(parameters, X, y)
        t = t + 1
        each = jax.tree.map
        means = each(lambda m, g: BETA1 * m + (1 - BETA1) * g, means, gradient)
        squares = each(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, squares, gradient)
        rate, root = LEARNING_RATE / (1 - BETA1**t), jnp.sqrt(1 - BETA2**t)
        parameters = each(
            lambda w, m, v: w - rate * m / (jnp.sqrt(v) / root + EPSILON),
            parameters, means, squares,
        )  # fmt: skip
        return (parameters, means, squares, t), loss

    def scan(state: Any, X: Any, y: Any, order: Any) -> tuple[Any, Any]:
        length = case.epochs if order is None else None
        return jax.lax.scan(lambda s, rows: step(s, X, y, rows), state, order, length)

    compiled_step = jax.jit(step, donate_argnums=0)
    compiled_scan = jax.jit(scan, donate_argnums=0)

    def by_steps(state: Any, rng: Any) -> tuple[Any, Any]:
        for _ in range(case.epochs):
            losses = []
            batches = [None] if case.one_batch else new_order(rng)
            for rows in batches:
                state, loss = compiled_step(state, X, y, rows)
                losses.append(loss)
        return state, sum(map(float, losses)) / len(losses)

    def by_scan(state: Any, rng: Any) -> tuple[Any, Any]:
        if case.one_batch:
            state, losses = compiled_scan(state, X, y, None)
            return state, float(losses[-1])
        for _ in range(case.epochs):
            state, losses = compiled_scan(state, X, y, new_order(rng))
        return state, float(losses.mean())

    def new_order(rng: Any) -> Any:
        return rng.permutation(case.n_samples).astype(np.int32).reshape(-1, case.batch)

    for name, work in (("jax", by_steps), ("jax scan", by_scan)):
        for rank_fraction in RANK_FRACTIONS:
            weights = initial_weights(case, rank_fraction)
            parameters = [
                (jnp.asarray(W.T), jnp.zeros(n, dtype=jnp.float32) if ends else None)
                for (_, n, ends), W in zip(
                    linear_maps(case, rank_fraction), weights, strict=True
                )
            ]
            zeros = [jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)]
            box = [(parameters, *zeros, jnp.zeros((), dtype=jnp.float32))]

            def run(
                box: Any = box, work: Any = work, rng: Any = new_rng()  # noqa: B008
            ) -> tuple[float, float]:
                start = time.perf_counter()
                state, loss = work(box.pop(), rng)
                box.append(jax.block_until_ready(state))
                return time.perf_counter() - start, loss

            yield name, rank_fraction, run


def sklearn_variants(case: Case, n_threads: int) -> Variants:
    """MLPClassifier, which has only dense layers.

    Each round is a `fit` that continues from the last (`warm_start`).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y = make_data(case)
    model = MLPClassifier(
        case.sizes[1:-1],
        solver="adam",
        alpha=0,
        batch_size=case.batch,
        learning_rate_init=LEARNING_RATE,
        max_iter=case.epochs,
        shuffle=not case.one_batch,
        tol=0,
        n_iter_no_change=sys.maxsize,
        warm_start=True,
        random_state=0,
    )

    def run() -> tuple[float, float]:
        start = time.perf_counter()
        model.fit(X, y)
        return time.perf_counter() - start, float(model.loss_)

    yield "sklearn", None, run


# Name: the package that must be installed, and the function.
SYSTEMS: dict[str, tuple[str, Callable[[Case, int], Variants]]] = {
    "svdfast": ("svdfast", svdfast_variants),
    "numpy": ("numpy", numpy_variants),
    "torch": ("torch", torch_variants),
    "jax": ("jax", jax_variants),
    "sklearn": ("sklearn", sklearn_variants),
}
DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def serve(system: str, n_threads: int) -> None:
    """The work of a worker: it answers the lines on stdin.

    Each line is a case to prepare, or the number of a variant to run.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n_threads])
    # Output of libraries goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    rounds: list[Round] = []
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any
        if isinstance(request, dict):
            rounds.clear()
            variants = list(SYSTEMS[system][1](Case(**request), n_threads))
            rounds += [run for _, _, run in variants]
            answer = [(name, rank_fraction) for name, rank_fraction, _ in variants]
        else:
            answer = rounds[request]()
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """The process of one system, which runs `script`."""

    def __init__(
        self, system: str, n_threads: int, environment: dict[str, str], script: str = __file__
    ):
        self.system = system
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(n_threads)
        )
        # Peers on a machine with a GPU are compared on its CPU.
        devices = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [sys.executable, script, "--worker", system, "--threads", str(n_threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, **devices, **environment},
        )

    def ask(self, request: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.system}: its process ended (status {self.process.wait()})")
        return json.loads(answer)

    def close(self) -> None:
        self.process.communicate()  # closes its stdin, so that it ends


def measure(
    name: str, case: Case, n_threads: int, workers: dict[str, Worker], n_rounds: int
) -> list[dict[str, Any]]:
    """A record for each variant of each system. Its rounds alternate with those of all others."""
    import svdfast as sf

    records = []
    for worker in workers.values():
        for index, (variant, rank_fraction) in enumerate(worker.ask(dataclasses.asdict(case))):
            _, first_loss = worker.ask(index)
            layers = []
            for i, (m, n) in enumerate(zip(case.sizes, case.sizes[1:], strict=False)):
                dense = rank_fraction is None or i == len(case.sizes) - 2
                layers.append(
                    SimpleNamespace(n_in=m, n_out=n, rank=None if dense else rank(rank_fraction, m, n))
                )
            count = sf.count_multiplications(SimpleNamespace(layers=layers))
            records.append(
                {
                    "case": name,
                    "threads": n_threads,
                    "system": worker.system,
                    "variant": variant,
                    "rank_fraction": rank_fraction,
                    "ranks": [layer.rank for layer in layers],
                    "multiplications_per_sample": count.total,
                    "promised_speedup": count.ratio,
                    "samples": case.n_samples * case.epochs,
                    "steps": case.n_steps,
                    "first_loss": first_loss,
                    "seconds": [],
                    "index": index,
                }
            )
    began = time.monotonic()
    for i in range(n_rounds):
        if i > 0:
            left = (time.monotonic() - began) * (n_rounds - i) / i
            print(f"{name}, {n_threads} thread(s): round {i + 1} of {n_rounds}, {left:.0f} s left", file=sys.stderr, flush=True)
        for record in records:
            worker = workers[record["system"]]
            time.sleep(PAUSE)
            if case.epochs == 1 and worker.system != "svdfast":
                worker.ask(record["index"])  # svdfast's rounds have their uncounted epoch in them
            seconds, _ = worker.ask(record["index"])
            record["seconds"].append(seconds)
    return records


def evaluate(records: list[dict[str, Any]], peaks: dict[str, float | None]) -> None:
    """Adds figures to each record of one case, from its seconds and from the others'.

    `peaks` has the peak of each precision.
    """
    medians = {
        (r["variant"], r["rank_fraction"]): statistics.median(r["seconds"]) for r in records
    }
    for record in records:
        del record["index"]
        variant, rank_fraction = record["variant"], record["rank_fraction"]
        median = record["median"] = medians[variant, rank_fraction]
        flops = 2 * record["multiplications_per_sample"] * record["samples"]
        record["gflops"] = flops / median / 1e9
        peak = peaks["bfloat16" if "bfloat16" in variant else "float32"]
        record["share_of_peak"] = None if peak is None else record["gflops"] / peak
        record["times_svdfast"] = median / medians["svdfast", rank_fraction]
        record["dense_over_this"] = medians[variant, None] / median


def check(records: list[dict[str, Any]]) -> None:
    """Prints systems whose loss from the same weights differs from svdfast's."""
    expected = {r["rank_fraction"]: r["first_loss"] for r in records if r["variant"] == "svdfast"}
    for record in records:
        if record["system"] == "sklearn":  # its weights are its own
            continue
        difference = abs(record["first_loss"] / expected[record["rank_fraction"]] - 1)
        if not difference < (0.05 if "bfloat16" in record["variant"] else 0.01):
            print(
                "! {variant}, rank_fraction {rank_fraction}: loss {first_loss:.4g} after the first round, "
                "svdfast's was {expected:.4g}".format(
                    **record, expected=expected[record["rank_fraction"]]
                )
            )


def table(records: list[dict[str, Any]]) -> str:
    rows = [
        ("system", "α", "s", "min", "max", "a step", "mult/sample", "Gflop/s", "of peak",
         "× svdfast", "dense ÷ this", "promised")
    ]  # fmt: skip
    for r in records:
        step = r["median"] / r["steps"]
        share = r["share_of_peak"]
        dense = r["rank_fraction"] is None
        rows.append(
            (
                r["variant"],
                "dense" if dense else f"{r['rank_fraction']:g}",
                f"{r['median']:#.4g}",
                f"{min(r['seconds']):#.4g}",
                f"{max(r['seconds']):#.4g}",
                f"{1e6 * step:.1f} µs" if step < 1e-3 else f"{1e3 * step:.2f} ms",
                f"{r['multiplications_per_sample']:,}",
                f"{r['gflops']:.3g}",
                "-" if share is None else f"{100 * share:.1f} %",
                f"{r['times_svdfast']:.2f}",
                "" if dense else f"{r['dense_over_this']:.2f}",
                "" if dense else f"{r['promised_speedup']:.2f}",
            )
        )
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table in columns. The first two cells of a row align left, numbers align right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def worker_environment(system: str) -> dict[str, str]:
    """The environment of a worker.

    svdfast chooses the kernels of its OpenBLAS itself. A peer gets the same kernels; otherwise it
    could run at half its speed.
    """
    from svdfast._process import runtime

    narrow = any(runtime.is_narrow(b) for b in runtime.loaded_blas() if not runtime.is_scipys(b))
    if system == "svdfast" or not narrow or "OPENBLAS_CORETYPE" in os.environ:
        return {}
    return {"OPENBLAS_CORETYPE": "SkylakeX"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", default=["mnist"], help=", ".join(CASES))
    parser.add_argument(
        "--peers",
        default=",".join(list(SYSTEMS)[1:]),
        help="systems beside svdfast, with commas between; or none (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 and all CPUs")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all that was measured here")
    parser.add_argument("--quick", action="store_true", help="few samples, one round: only a check")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(arguments.worker, arguments.threads[0])
        return
    peers = [] if arguments.peers == "none" else arguments.peers.split(",")
    for kind, names, known in (("case", arguments.case, CASES), ("peer", peers, SYSTEMS)):
        for name in names:
            if name not in known:
                parser.error(f"{kind} {name!r}: expected one of {', '.join(known)}")

    import machine

    from svdfast import show_config

    description = machine.describe([DISTRIBUTIONS.get(peer, peer) for peer in peers])
    print(description)
    systems = ["svdfast"]
    for peer in peers:
        if importlib.util.find_spec(SYSTEMS[peer][0]) is None:
            print(f"{peer}: not installed, left out")
        else:
            systems.append(peer)
    bfloat16 = show_config()["bfloat16_products"] == "instructions"
    if not bfloat16:
        print("bfloat16: this CPU has no instruction for it, left out")
    environments = {system: worker_environment(system) for system in systems}
    for system, environment in environments.items():
        if environment:
            print(f"{system}: runs with {environment}")

    result: dict[str, Any] = {"machine": description.splitlines(), "peaks": {}, "records": []}
    for n_threads in arguments.threads or sorted({1, len(machine.available_cpus())}):
        peaks = {"float32": machine.fma_peak(n_threads), "bfloat16": machine.fma_peak(n_threads, bfloat16=True)}
        result["peaks"][n_threads] = peaks
        workers: dict[str, Worker] = {}
        try:
            for system in dict.fromkeys(systems):
                workers[system] = Worker(system, n_threads, environments[system])
            for name in arguments.case:
                case = dataclasses.replace(CASES[name].quick() if arguments.quick else CASES[name], bfloat16=bfloat16)
                records = measure(
                    name, case, n_threads, workers, 1 if arguments.quick else arguments.rounds
                )
                evaluate(records, peaks)
                print(
                    f"\n{name}: {'-'.join(map(str, case.sizes))}, batch {case.batch}, "
                    f"{case.n_samples * case.epochs:,} samples a round, {n_threads} thread(s)"
                    + "".join(f", peak {peak:.0f} Gflop/s {precision}" for precision, peak in peaks.items() if peak)
                )
                print(table(records), flush=True)
                check(records)
                result["records"] += records
        finally:
            for worker in workers.values():
                worker.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
