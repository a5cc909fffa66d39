# SPDX-License-Identifier: BSD-3-Clause
"""Seconds until a test accuracy: ours with its own choices, α = 1/8, 1/16 or dense, and dense networks of PyTorch and JAX at their best.

    python bench/to_goal.py [CASE ...] [--systems NAME ...] [--batches N ...] [--epochs N ...] [--seeds N] [--rounds N] [--threads N]
                             [--json FILE] [--quick]

The network is 784-512-256-10, with He's initial weights. Adam's learning rate rises over the first 2 % of the steps and falls to 0 along
half a cosine. For each batch size, with a rate of its own, a system gets the fewest epochs with which its mean accuracy over the seeds is
the goal; its best way is the batch size that takes the least time. All best ways are then timed in alternating rounds, for medians of
seconds and of quotients. A training is timed as a whole, looks and truncations too, from data in memory on; evaluation is not, nor is
compilation by torch.compile and jax.jit. Each training has a process of its own. Needs the data sets.

Elsewhere: time to the accuracy that another one reaches (to_accuracy.py), the time of a step (compare.py), and a chart (chart.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Nothing else is imported here: a worker sees only what its own system needs.

CASES = {"mnist": 98.3, "fashion-mnist": 89.5}
SIZES = (784, 512, 256, 10)
# Batch sizes, with the rates that were best for them of 1, 1.5, 2, 3, 4 and 6 thousandths, in ours and in PyTorch.
BATCHES = {64: 1.5e-3, 128: 3e-3, 256: 4e-3}
EPOCHS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15)
WARMUP = 0.02
OURS = (
    "svdfast auto", "svdfast 1/8", "svdfast 1/16", "svdfast dense", "svdfast auto bfloat16", "svdfast 1/8 bfloat16"
)  # fmt: skip
SYSTEMS = (*OURS, "torch", "torch.compile", "jax")

Row = dict[str, Any]


def data_of(name: str, limit: int) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    import svdfast as sf

    data = sf.datasets.load(name)
    (X, y), test = data.train, data.test
    return (X[:limit], y[:limit]) if limit else (X, y), test


def ours(job: Row) -> Row:
    import svdfast as sf

    (X, y), test = data_of(job["case"], job["limit"])
    net = sf.Network(SIZES, init="he", seed=job["seed"])
    schedule = sf.schedules.Warmup(sf.schedules.Cosine(job["rate"]), WARMUP)
    words = job["system"].split()
    factoring = {"auto": "auto", "dense": None, "1/8": 1 / 8, "1/16": 1 / 16}[words[1]]
    sf.train(sf.Network(SIZES, seed=0), X[:512], y[:512], epochs=1, n_threads=job["threads"])  # wakes everything
    began = time.perf_counter()
    sf.train(
        net, X, y, epochs=job["epochs"], batch_size=job["batch"], optimizer=sf.Adam(schedule), seed=job["seed"],
        factoring=factoring, precision="bfloat16" if "bfloat16" in words else None, n_threads=job["threads"],
    )  # fmt: skip
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "accuracy": 100 * net.score(*test), "told": [str(layer.structure) for layer in net.layers]}


def theirs(job: Row) -> Row:
    import numpy as np
    import torch
    from torch import nn

    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    train, test = data_of(job["case"], job["limit"])
    layers: list[Any] = []
    for m, n in itertools.pairwise(SIZES):
        layers += [nn.Linear(m, n), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)  # better here than PyTorch's own
        nn.init.zeros_(layers[-2].bias)
    net = nn.Sequential(*layers[:-1])

    def loss_of(x: Any, t: Any) -> Any:
        return nn.functional.cross_entropy(net(x), t)

    if job["system"] == "torch.compile":
        loss_of = torch.compile(loss_of, dynamic=False)
        for rows in {min(job["batch"], len(train[0])), len(train[0]) % job["batch"]} - {0}:
            loss_of(torch.zeros(rows, SIZES[0]), torch.zeros(rows, dtype=torch.int64)).backward()
        net.zero_grad()
    wake = torch.optim.Adam([nn.Parameter(torch.zeros(1))], fused=True)
    wake.param_groups[0]["params"][0].grad = torch.zeros(1)
    wake.step()  # the first one loads a lot
    began = time.perf_counter()
    X, y = torch.from_numpy(train[0].astype(np.float32) / 255), torch.from_numpy(train[1].astype(np.int64))
    n_steps = job["epochs"] * math.ceil(len(X) / job["batch"])
    optimizer = torch.optim.Adam(net.parameters(), job["rate"], fused=True)
    warm = max(1, round(WARMUP * n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1, (t + 1) / warm) * (1 + math.cos(math.pi * t / n_steps)) / 2)
    for _ in range(job["epochs"]):
        for rows in torch.randperm(len(X)).split(job["batch"]):
            optimizer.zero_grad()
            loss_of(X[rows], y[rows]).backward()
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - began
    with torch.no_grad():
        right = (net(torch.from_numpy(test[0].astype(np.float32) / 255)).argmax(1).numpy() == test[1]).mean()
    return {"seconds": seconds, "accuracy": 100 * float(right)}


def by_jax(job: Row) -> Row:
    import jax
    import jax.numpy as jnp
    import numpy as np

    train, test = data_of(job["case"], job["limit"])
    keys = jax.random.split(jax.random.key(job["seed"]), len(SIZES))
    start = jax.nn.initializers.he_normal()
    parameters = [(start(key, (m, n)), jnp.zeros(n)) for key, (m, n) in zip(keys, itertools.pairwise(SIZES), strict=False)]

    def scores(parameters: Any, X: Any) -> Any:
        for W, b in parameters[:-1]:
            X = jax.nn.relu(X @ W + b)
        return X @ parameters[-1][0] + parameters[-1][1]

    def loss_of(parameters: Any, X: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(scores(parameters, X)), y[:, None], axis=1).mean()

    def step(state: Any, X: Any, y: Any, rows: Any, rate: Any) -> Any:
        parameters, means, squares, t = state
        X, y = (a.at[rows].get(mode="promise_in_bounds") for a in (X, y))
        gradient, each, t = jax.grad(loss_of)(parameters, X, y), jax.tree.map, t + 1
        means = each(lambda m, g: 0.9 * m + 0.1 * g, means, gradient)
        squares = each(lambda v, g: 0.999 * v + 0.001 * g * g, squares, gradient)
        rate, root = rate / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
        return each(lambda w, m, v: w - rate * m / (jnp.sqrt(v) / root + 1e-8), parameters, means, squares), means, squares, t

    compiled = jax.jit(step, donate_argnums=0)
    zeros = [jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)]
    X, y = jnp.asarray(train[0].astype(np.float32) / 255), jnp.asarray(train[1].astype(np.int32))
    n, batch = len(X), min(job["batch"], len(X))
    for rows in {batch, n % batch} - {0}:
        copied = jax.tree.map(jnp.array, (parameters, *zeros, jnp.zeros(())))
        jax.block_until_ready(compiled(copied, X, y, np.arange(rows, dtype=np.int32), np.float32(0)))
    rng = np.random.default_rng(job["seed"])
    began = time.perf_counter()
    X, y = jnp.asarray(train[0].astype(np.float32) / 255), jnp.asarray(train[1].astype(np.int32))
    n_steps = job["epochs"] * math.ceil(n / batch)
    warm, t, state = max(1, round(WARMUP * n_steps)), 0, (parameters, *zeros, jnp.zeros(()))
    for _ in range(job["epochs"]):
        order = rng.permutation(n).astype(np.int32)
        for first in range(0, n, batch):
            rate = job["rate"] * min(1, (t + 1) / warm) * (1 + math.cos(math.pi * t / n_steps)) / 2
            state, t = compiled(state, X, y, order[first : first + batch], np.float32(rate)), t + 1
    jax.block_until_ready(state)
    seconds = time.perf_counter() - began
    right = (np.asarray(scores(state[0], jnp.asarray(test[0].astype(np.float32) / 255))).argmax(1) == test[1]).mean()
    return {"seconds": seconds, "accuracy": 100 * float(right)}


def run(job: Row) -> Row:
    """A training, in a process of its own."""
    environment = os.environ | {name: str(job["threads"]) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, __file__, "--work", json.dumps(job)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return job | json.loads(done.stdout.splitlines()[-1])


def job_of(case: str, system: str, seed: int, batch: int, epochs: int, common: Row) -> Row:
    return {"case": case, "system": system, "seed": seed, "batch": batch, "rate": BATCHES[batch]} | common | {"epochs": epochs}


def fewest_epochs(
    case: str, goal: float, systems: list[str], batches: list[int], seeds: int, common: Row, note: Callable[[Row], None]
) -> dict[str, Row]:
    """Of each system the best way to the goal: epochs, batch, and the means of its seconds and accuracies."""
    best: dict[str, Row] = {}
    for batch in batches:
        left = list(systems)
        for epochs in common["epochs"]:
            runs: dict[str, list[Row]] = {system: [] for system in left}
            for seed in range(seeds):
                for system in left:
                    row = run(job_of(case, system, seed, batch, epochs, common))
                    runs[system].append(row)
                    note(row)
                    told = f"{case}, {system}, batch {batch}, {epochs} epochs, seed {seed}"
                    print(f"{told}: {row['accuracy']:.2f} % in {row['seconds']:.2f} s", file=sys.stderr, flush=True)
            for system, of in runs.items():
                accuracy = statistics.mean(row["accuracy"] for row in of)
                seconds = statistics.median(row["seconds"] for row in of)
                if accuracy >= goal:
                    left.remove(system)
                    if system not in best or seconds < best[system]["seconds"]:
                        best[system] = {"seconds": seconds, "accuracy": accuracy, "epochs": epochs, "batch": batch}
            if not left:
                break
    return best


def in_turns(case: str, best: dict[str, Row], rounds: int, common: Row, note: Callable[[Row], None]) -> None:
    """Replaces the seconds of each way by the median of alternating rounds, and adds its median quotient with PyTorch's."""
    seconds: dict[str, list[float]] = {system: [] for system in best}
    for i in range(rounds):
        for system, way in best.items():
            row = run(job_of(case, system, i, way["batch"], way["epochs"], common))
            note(row)
            seconds[system].append(row["seconds"])
        print(f"{case}: round {i + 1} of {rounds}", file=sys.stderr, flush=True)
    for system, way in best.items():
        way["seconds"] = statistics.median(seconds[system])
        quotients = [theirs / own for theirs, own in zip(seconds.get("torch", []), seconds[system], strict=False)]
        way["quotient"] = statistics.median(quotients) if quotients else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), metavar="NAME", help=", ".join(SYSTEMS))
    known = ", ".join(map(str, BATCHES))
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), choices=BATCHES, metavar="N", help=known)
    parser.add_argument("--epochs", type=int, nargs="+", default=EPOCHS, metavar="N", help="those that are tried")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5, help="of the best ways")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every training, and the best ways; chart.py draws them")
    parser.add_argument("--quick", action="store_true", help="one epoch of few samples: only a check")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        job = json.loads(arguments.work)
        work = {"torch": theirs, "torch.compile": theirs, "jax": by_jax}.get(job["system"], ours)
        print(json.dumps(work(job)))
        return
    import machine

    import svdfast as sf

    print(machine.describe(["torch", "jax"]), flush=True)
    packages = {system: system.split(".")[0] for system in arguments.systems if not system.startswith("svdfast")}
    missing = {package for package in packages.values() if not importlib.util.find_spec(package)}
    if missing:
        print(f"\nleft out, not installed: {', '.join(sorted(missing))}")
    systems = [system for system in arguments.systems if packages.get(system) not in missing]
    if sf.show_config()["bfloat16_products"] != "instructions":
        print("\nleft out: bfloat16, for which this CPU has no instruction")
        systems = [system for system in systems if "bfloat16" not in system]
    common: Row = {"threads": arguments.threads, "limit": 0, "epochs": tuple(arguments.epochs)}
    batches, seeds, rounds = arguments.batches, arguments.seeds, arguments.rounds
    if arguments.quick:
        common, batches, seeds, rounds = {"threads": 1, "limit": 1000, "epochs": (1,)}, [256], 1, 1
    runs: list[Row] = []
    found: dict[str, Row] = {}
    print(f"\n{common['threads']} threads, float32; means of accuracies over {seeds} seeds, medians of seconds over {rounds} rounds\n")
    print(f"{'case':<15}{'goal':>8}  {'system':<22}{'seconds':>8}{'accuracy':>10}{'epochs':>8}{'batch':>7}{'torch ÷ this':>14}")
    for case in arguments.cases or (["mnist"] if arguments.quick else CASES):
        goal = 0.0 if arguments.quick else CASES[case]
        try:
            best = fewest_epochs(case, goal, systems, batches, seeds, common, runs.append)
            in_turns(case, best, rounds, common, runs.append)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{case}: a training failed: {error}") from None
        found[case] = {"accuracy": goal, "best": best}
        for system in systems:
            row = best.get(system)
            told = f"{case:<15}{goal:>7.1f}%  {system:<22}"
            if row is None:
                print(f"{told}{'not reached':>8}", flush=True)
                continue
            numbers = f"{row['seconds']:>8.2f}{row['accuracy']:>9.2f}%{row['epochs']:>8}{row['batch']:>7}{row['quotient']:>14.2f}"
            print(told + numbers, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine.describe(["torch"]), "goals": found, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
