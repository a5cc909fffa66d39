# SPDX-License-Identifier: BSD-3-Clause
"""Losses and times of PyTorch trainings that svdfast.torch.Schedule factors, beside dense ones.

    python bench/torch_training.py [CASE ...] [--factoring auto 0.25] [--pretrain φ] [--seeds N] [--first-seed N]
                                   [--threads N] [--json FILE] [--quick]

Both have the same first weights, order of samples, optimizer and learning rate, which falls to 0
over the last 30 % of the steps. A seed's trainings run one after the other, so their times are
comparable only on a quiet machine; torch_device.py alternates steps. The time includes the work of
the schedule: truncation, looks at ranks, recomposition. The bench needs the data sets and PyTorch.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from torch import Tensor, nn
from torch_models import CONTEXT, MODELS, SKIP

import svdfast as sf
from svdfast.torch import Schedule


@dataclass(frozen=True)
class Case:
    """A model on a data set, with the settings of its dense training."""

    model: str
    data: str
    rate: float
    batch: int
    epochs: int


CASES = {
    "mlp-fashion": Case("mlp", "fashion-mnist", 1e-3, 128, 10),
    "vgg-cifar": Case("vgg", "cifar10-part", 5e-4, 64, 6),
    "gpt-characters": Case("gpt", "characters", 1e-3, 16, 2),
}


def samples(case: Case, quick: bool) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(X, y) for training and for testing."""
    if case.data == "characters":
        text = sf.datasets.tinyshakespeare()
        places = {character: i for i, character in enumerate(sorted(set(text)))}
        codes = np.array([places[character] for character in text])
        rows = torch.from_numpy(codes[: len(codes) // (CONTEXT + 1) * (CONTEXT + 1)]).reshape(-1, CONTEXT + 1)
        stop = len(rows) * 9 // 10
        parts = [(rows[:stop, :-1], rows[:stop, 1:]), (rows[stop:, :-1], rows[stop:, 1:])]
    else:
        data = sf.datasets.cifar10_part() if case.data == "cifar10-part" else sf.datasets.load(case.data)
        parts = []
        for X, y in (data.train, data.test):
            inputs = torch.from_numpy(np.asarray(X, dtype=np.float32) / 255)
            if case.model == "vgg":
                inputs = inputs.reshape(-1, 32, 32, 3).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
            parts.append((inputs, torch.from_numpy(np.asarray(y, dtype=np.int64))))
    if quick:
        parts = [(X[: 4 * case.batch], y[: 4 * case.batch]) for X, y in parts]
    return parts[0], parts[1]


def batches(X: Tensor, y: Tensor, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
    for rows in order.split(size):
        yield X[rows], y[rows]


def train(case: Case, data: Any, seed: int, factoring: sf.Factoring | str | None) -> dict[str, Any]:
    """Seconds, loss and accuracy on the test samples, and the schedule's report on its layers."""
    (X, y), (X_test, y_test) = data
    torch.manual_seed(seed)
    model = MODELS[case.model]()
    if case.model == "vgg":
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), case.rate, weight_decay=0.0)
    n_steps = case.epochs * -(-len(X) // case.batch)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, (n_steps - t) / (0.3 * n_steps)))
    began = time.perf_counter()
    schedule = None
    if factoring is not None:
        rows = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))[:512]
        sample = list(zip(X[rows].split(case.batch), y[rows].split(case.batch), strict=True))
        schedule = Schedule(model, optimizer, n_steps=n_steps, factoring=factoring, skip=SKIP, sample=sample, loss=loss_of)
    for epoch in range(case.epochs):
        for x, t in batches(X, y, case.batch, 1000 * seed + epoch):
            loss = nn.functional.cross_entropy(model(x), t)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            rates.step()
            if schedule is not None:
                schedule.step(float(loss.detach()))
    seconds = time.perf_counter() - began
    losses, right = 0.0, 0
    with torch.no_grad():
        for x, t in zip(X_test.split(500), y_test.split(500), strict=True):
            scores = model(x)
            losses += float(nn.functional.cross_entropy(scores, t, reduction="sum"))
            right += int((scores.argmax(1) == t).sum())
    return {
        "seconds": seconds, "loss": losses / y_test.numel(), "accuracy": 100 * right / y_test.numel(),
        "told": "" if schedule is None else schedule.explain(),
    }  # fmt: skip


def loss_of(scores: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(scores, batch[1])


def shown(case: Case, run: dict[str, Any]) -> float:
    """Accuracy in %, or bits per character."""
    return float(run["loss"] / math.log(2) if case.data == "characters" else run["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--factoring", nargs="+", default=["auto", "0.25"], metavar="WAY", help='"auto" or α')
    parser.add_argument("--pretrain", type=float, metavar="φ", help="share of the steps before the switch, for α (default: svdfast's own)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="every run, written as it ends")
    parser.add_argument("--quick", action="store_true", help="one case, four steps, one thread: only a check")
    arguments = parser.parse_args()
    threads = 1 if arguments.quick else arguments.threads
    torch.set_num_threads(threads)
    print(machine.describe(["torch"]))
    seeds = 1 if arguments.quick else arguments.seeds
    print(f"\n{threads} threads, float32; mean and standard deviation, seeds: {seeds}\n")
    print(f"{'case':<16}{'':<8}{'accuracy, % or bits':>20}  {'− dense':>14}  {'seconds':>8}  {'× faster':>8}")
    runs = []
    for name in arguments.cases or (["mlp-fashion"] if arguments.quick else CASES):
        case = replace(CASES[name], epochs=1) if arguments.quick else CASES[name]
        try:
            data = samples(case, arguments.quick)
        except (ImportError, OSError) as error:
            print(f"{name:<16}left out: {error}")
            continue
        found: dict[str, list[dict[str, Any]]] = {}
        for seed in range(arguments.first_seed, arguments.first_seed + seeds):
            for way in ("dense", *arguments.factoring):
                factoring: Any = None if way == "dense" else way
                if way not in ("dense", "auto"):
                    factoring = sf.Factoring(float(way), pretrain_fraction=arguments.pretrain)
                run = train(case, data, seed, factoring)
                found.setdefault(way, []).append(run)
                runs.append({"case": name, "way": way, "seed": seed} | run)
                print(f"{name}, seed {seed}, {way}: {shown(case, run):.3f} in {run['seconds']:.0f} s", file=sys.stderr, flush=True)
                if arguments.json:
                    write(arguments.json, runs)
        for way, of in found.items():
            values = [shown(case, run) for run in of]
            lost = [value - shown(case, dense) for value, dense in zip(values, found["dense"], strict=True)]
            faster = statistics.median(dense["seconds"] / run["seconds"] for run, dense in zip(of, found["dense"], strict=True))
            print(
                f"{name:<16}{way:<8}{spread(values):>20}  {spread(lost):>14}  {statistics.median(run['seconds'] for run in of):>8.1f}"
                f"  {faster:>8.2f}", flush=True,
            )  # fmt: skip
        for way, of in found.items():
            if of[-1]["told"]:
                print(f"\n{name}, {way}, the last seed:\n{of[-1]['told']}\n", flush=True)


def write(path: Path, runs: list[dict[str, Any]]) -> None:
    """The runs so far, written aside and renamed: hours of training are not lost with the last run."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps({"machine": machine.describe(["torch"]), "runs": runs}, indent=1) + "\n")
    aside.replace(path)


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


if __name__ == "__main__":
    main()
