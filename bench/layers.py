# SPDX-License-Identifier: BSD-3-Clause
"""Training steps of recurrent and convolutional networks: dense, factored, in bfloat16, and PyTorch's dense.

    python bench/layers.py [CASE ...] [--threads N] [--rounds N] [--json FILE] [--quick]

Each system runs in a process of its own, with its threads set before it starts. Systems alternate;
the others sleep in the meantime. A round is some steps of Adam in float32 on the same random
samples, after one that is not counted. PyTorch's convolutions run in both of its memory formats;
the table has the better one. Steps in bfloat16 take part where the CPU has the instruction; their
columns are float32's time divided by theirs, dense and at 1/4. The share of the peak compares the counted operations of the products
with the speed of a register-only loop.

Networks of fully connected layers are in compare.py, and time to an accuracy in to_accuracy.py.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Nothing else is imported here: a worker sees only what its own system needs.

RATE = 1e-3
RANK_FRACTIONS = (None, 1 / 4, 1 / 8)


@dataclass(frozen=True)
class Case:
    """A network: "gru", "lstm" or "rnn" with a width, or channels of convolutions and a name."""

    kind: str
    shape: tuple[int, ...]
    widths: tuple[int, ...]
    batch: int
    steps: int


CASES = {
    "gru-128": Case("gru", (28, 28), (128,), 128, 20),
    "gru-512": Case("gru", (28, 28), (512,), 128, 4),
    "lstm-512": Case("lstm", (28, 28), (512,), 128, 4),
    "rnn-512": Case("rnn", (28, 28), (512,), 128, 8),
    "lstm-256": Case("lstm", (100, 64), (256,), 64, 4),
    "lenet-5": Case("lenet", (28, 28, 1), (6, 16), 128, 10),
    "lenet-32-64": Case("lenet", (28, 28, 1), (32, 64), 128, 4),
    "vgg": Case("vgg", (32, 32, 3), (64, 64, 128, 128, 256, 256), 64, 1),
}


def samples(case: Case) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.random((case.batch, *case.shape), dtype=np.float32), rng.integers(0, 10, case.batch)


def our_network(case: Case, seed: int = 0) -> Any:
    import svdfast as sf
    from svdfast import layers as L

    if case.kind in ("gru", "lstm", "rnn"):
        layer = {"gru": L.GRU, "lstm": L.LSTM, "rnn": L.RNN}[case.kind](case.widths[0])
        return sf.Network(sf.Input(*case.shape), [layer, L.Linear(10, "softmax")], seed=seed)
    made: list[Any] = []
    if case.kind == "lenet":
        for i, n in enumerate(case.widths):
            made += [L.Conv2d(n, 5, "relu", padding="same" if i == 0 else "valid"), L.MaxPool2d(2)]
        made += [L.Flatten(), L.Linear(120, "relu"), L.Linear(84, "relu")]
    else:
        for i, n in enumerate(case.widths):
            made += [L.Conv2d(n, 3, "relu", padding="same"), *([L.MaxPool2d(2)] if i % 2 else [])]
        made += [L.Flatten(), L.Linear(256, "relu")]
    return sf.Network(sf.Input(*case.shape), [*made, L.Linear(10, "softmax")], seed=seed)


def our_rounds(case: Case, rank_fraction: float | None, precision: str | None, n_threads: int) -> tuple[Callable[[], float], int]:
    """Seconds of our step, and its operations."""
    import numpy as np

    import svdfast as sf

    net = our_network(case)
    if rank_fraction is not None:
        net.truncate(rank_fraction, force=True, method="randomized")
    X, y = samples(case)
    X, y = np.concatenate([X] * case.steps), np.concatenate([y] * case.steps)
    optimizer = sf.Adam(RATE)

    def run() -> float:
        result = sf.train(
            net, X, y, epochs=1, batch_size=case.batch, optimizer=optimizer, n_threads=n_threads, shuffle=False, precision=precision,
            factoring=sf.Factoring(recompose=False) if net.is_factored else None,
        )  # fmt: skip
        return result.history[0]["seconds"] / case.steps

    return run, 2 * case.batch * sf.count_multiplications(net).total


def their_network(case: Case) -> Any:
    """PyTorch's network, which takes (n, steps, features) or (n, channels, height, width)."""
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[case.kind]
            self.layer = kind(case.shape[1], case.widths[0], batch_first=True)
            self.out = nn.Linear(case.widths[0], 10)

        def forward(self, x: Any) -> Any:
            return self.out(self.layer(x)[0][:, -1])

    if case.kind in ("gru", "lstm", "rnn"):
        return Recurrent()
    height, width, channels = case.shape
    parts: list[nn.Module] = []
    for i, n in enumerate(case.widths):
        if case.kind == "lenet":
            parts += [nn.Conv2d(channels, n, 5, padding=2 if i == 0 else 0), nn.ReLU(), nn.MaxPool2d(2)]
        else:
            parts += [nn.Conv2d(channels, n, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if i % 2 else [])]
        channels = n
    parts.append(nn.Flatten())
    flat = nn.Sequential(*parts)(torch.zeros(1, case.shape[2], height, width)).shape[1]
    if case.kind == "lenet":
        return nn.Sequential(*parts, nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))
    return nn.Sequential(*parts, nn.Linear(flat, 256), nn.ReLU(), nn.Linear(256, 10))


def their_rounds(case: Case, memory_format: str, n_threads: int) -> Callable[[], float]:
    import torch
    from torch import nn

    torch.set_num_threads(n_threads)
    torch.manual_seed(0)
    X, y = samples(case)
    inputs, targets, module = torch.from_numpy(X), torch.from_numpy(y), their_network(case)
    if len(case.shape) == 3:
        inputs = inputs.permute(0, 3, 1, 2).contiguous()
    if memory_format == "channels_last":
        module, inputs = module.to(memory_format=torch.channels_last), inputs.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(module.parameters(), RATE)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(case.steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(inputs), targets).backward()
            optimizer.step()
        return (time.perf_counter() - start) / case.steps

    return run


def work(system: str, case_name: str, n_threads: int) -> None:
    """A worker. It answers each line with the seconds of a step of each variant."""
    case, operations = CASES[case_name], {}
    rounds: dict[str, Callable[[], float]] = {}
    if system == "svdfast":
        import svdfast as sf

        precisions = (None, "bfloat16") if sf.show_config()["bfloat16_products"] == "instructions" else (None,)
        for rank_fraction in RANK_FRACTIONS:
            for precision in precisions:
                name = "dense" if rank_fraction is None else f"1/{round(1 / rank_fraction)}"
                name = name if precision is None else f"{name} {precision}"
                rounds[name], operations[name] = our_rounds(case, rank_fraction, precision, n_threads)
    else:
        formats = ("contiguous", "channels_last") if case.kind in ("lenet", "vgg") else ("contiguous",)
        rounds = {name: their_rounds(case, name, n_threads) for name in formats}
    print(json.dumps(operations), flush=True)
    for _ in sys.stdin:
        print(json.dumps({name: run() for name, run in rounds.items()}), flush=True)


def measure(case_name: str, n_threads: int, n_rounds: int) -> dict[str, Any]:
    """Medians over alternating rounds, and medians of ratios round by round."""
    environment = os.environ | {name: str(n_threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    workers = {
        system: subprocess.Popen(
            [sys.executable, __file__, "--work", system, case_name, str(n_threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for system in ("svdfast", *(["torch"] if importlib.util.find_spec("torch") else []))
    }  # fmt: skip
    operations = {system: json.loads(worker.stdout.readline()) for system, worker in workers.items()}["svdfast"]
    found: list[dict[str, float]] = []
    for _ in range(n_rounds + 1):
        row = {}
        for system, worker in workers.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            row |= {f"{system} {name}": value for name, value in json.loads(worker.stdout.readline()).items()}
        found.append(row)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    found = found[1:]
    medians = {name: statistics.median(row[name] for row in found) for name in found[0]}
    theirs = min((name for name in medians if name.startswith("torch")), key=medians.__getitem__, default=None)
    ratio = {name: statistics.median(row[theirs] / row[name] for row in found) if theirs else math.nan for name in medians}
    gain = {name: statistics.median(row["svdfast dense"] / row[name] for row in found) for name in found[0]}
    for form in ("dense", "1/4"):
        name = f"svdfast {form} bfloat16"
        gain[f"bfloat16 {form}"] = statistics.median(row[f"svdfast {form}"] / row.get(name, math.nan) for row in found)
    return {
        "case": case_name, "threads": n_threads, "rounds": n_rounds, "theirs": theirs, "ratio": ratio, "gain": gain,
        "seconds": medians, "operations": operations,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one round: only a check")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work[0], arguments.work[1], int(arguments.work[2]))
        return
    import machine

    peak = machine.fma_peak(arguments.threads) or float("nan")
    print(machine.describe(["torch"]))
    print(f"\n{arguments.threads} threads, float32, FMA peak {peak:.0f} Gflop/s; medians of {arguments.rounds} rounds by turns\n")
    heads = f"{'case':<12} {'ms':>8} {'PyTorch ms':>11} {'× PyTorch':>10} {'of peak':>8}"
    print(f"{heads} {'÷ 1/4':>7} {'÷ 1/8':>7} {'bf16':>6} {'1/4':>6}  PyTorch's format")
    records = []
    for name in arguments.cases or CASES:
        record = measure(name, arguments.threads, 1 if arguments.quick else arguments.rounds)
        records.append(record)
        seconds, dense = record["seconds"], record["seconds"]["svdfast dense"]
        share = record["operations"]["dense"] / dense / peak / 1e9
        print(
            f"{name:<12} {1e3 * dense:>8.2f} {1e3 * seconds.get(record['theirs'], math.nan):>11.2f} "
            f"{record['ratio']['svdfast dense']:>10.2f} {share:>8.2f} {record['gain']['svdfast 1/4']:>7.2f} "
            f"{record['gain']['svdfast 1/8']:>7.2f} {record['gain']['bfloat16 dense']:>6.2f} {record['gain']['bfloat16 1/4']:>6.2f}"
            f"  {(record['theirs'] or '').removeprefix('torch ')}",
            flush=True,
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": machine.describe(["torch"]), "peak": peak, "records": records}, indent=1))


if __name__ == "__main__":
    main()
