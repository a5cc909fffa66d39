# SPDX-License-Identifier: BSD-3-Clause
"""Savings of factoring in PyTorch on any device: layers, whole steps, and time to an equal loss.

    python bench/torch_device.py [--device cpu|cuda] [--threads N] [--part layers steps loss] [--out FILE] [--quick]

- Layers: Linear n×n and Conv2d of c channels, forward and backward, in float32, TF32 (CUDA) and
  bfloat16 by autocast, at α = 1/4 and 1/8.
- Steps: forward, backward and Adam of the models of torch_models.py, dense and at α = 1/4.
- Loss: an MLP learns classes of many clusters in 600 steps. The goal is the dense model's mean loss
  of 20 steps after 400 steps.

Dense and factored alternate, and times are medians. The bench takes about six minutes on two cores,
less on a GPU. The device is printed above the table. Accuracies on data are in torch_training.py,
svdfast's own products in layers.py and compare.py.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import machine
import torch
from torch import Tensor, nn
from torch_models import MODELS, SKIP, random_batch

from svdfast.torch import Schedule, factorize

FRACTIONS = (1 / 4, 1 / 8)
# Rows of inputs, number of photos and their side, by device.
ROWS = {"cpu": 256, "cuda": 8192}
PHOTOS = {"cpu": (16, 16), "cuda": (256, 32)}
BATCHES = {"cpu": {"mlp": 128, "vgg": 16, "gpt": 8}, "cuda": {"mlp": 8192, "vgg": 512, "gpt": 256}}
WIDTHS = (1024, 2048, 4096, 8192)
CHANNELS = (64, 128, 256)
# Deviation of the clusters' samples; their centres are about 11 apart.
NOISE = 1.5


class Clock:
    """Seconds of alternating calls. Each call waits for the device."""

    def __init__(self, device: torch.device, seconds: float):
        self.device, self.seconds = device, seconds

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def by_turns(self, calls: list[Callable[[], object]]) -> list[float]:
        """The median of each call, after one that is not counted.

        There are at least three rounds, and more if there is time.
        """
        found: list[list[float]] = [[] for _ in calls]
        for call in calls:
            call()
        began = time.perf_counter()
        while len(found[0]) < 3 or (len(found[0]) < 50 and time.perf_counter() - began < self.seconds):
            for call, times in zip(calls, found, strict=True):
                self._wait()
                start = time.perf_counter()
                call()
                self._wait()
                times.append(time.perf_counter() - start)
        return [statistics.median(times) for times in found]


def precisions(device: torch.device) -> list[str]:
    return ["float32", "TF32", "bfloat16"] if device.type == "cuda" else ["float32", "bfloat16"]


@contextlib.contextmanager
def computed_in(precision: str, device: torch.device) -> Iterator[None]:
    """A context with products in this precision. The former one is restored at its end."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "TF32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def factored(make: Callable[[], nn.Module], fraction: float | None) -> nn.Module:
    """A layer in a model of its own, dense or truncated."""
    torch.manual_seed(0)
    model = nn.Sequential(make())
    if fraction is not None:
        factorize(model, rank_fraction=fraction, method="randomized", force=True)
    return model


def layer_table(device: torch.device, clock: Clock, quick: bool) -> Iterator[str]:
    yield f"{'layer':<16}{'':<10}{'dense, ms':>10}" + "".join(f"{f'α = 1/{round(1 / f)}, ×':>12}" for f in FRACTIONS)
    photos, side = PHOTOS[device.type]
    cases: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = []
    for n in WIDTHS[:1] if quick else WIDTHS:
        cases.append((f"Linear {n}", lambda n=n: nn.Linear(n, n, device=device), (ROWS[device.type], n)))
    for c in CHANNELS[:1] if quick else CHANNELS:
        shape = (photos, c, side, side)
        cases.append((f"Conv2d {c}, 3×3", lambda c=c: nn.Conv2d(c, c, 3, padding=1, device=device), shape))
    for name, make, shape in cases:
        models = [factored(make, fraction) for fraction in (None, *FRACTIONS)]
        x = torch.rand(shape, device=device, requires_grad=True)
        if len(shape) == 4:
            models = [model.to(memory_format=torch.channels_last) for model in models]
            x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
        for precision in precisions(device):
            with computed_in(precision, device):
                dense, *other = clock.by_turns([partial(backward, model, x) for model in models])
            yield f"{name:<16}{precision:<10}{1e3 * dense:>10.3f}" + "".join(f"{dense / one:>12.2f}" for one in other)


def backward(model: nn.Module, x: Tensor) -> None:
    model.zero_grad()
    x.grad = None
    model(x).float().sum().backward()


def step_of(name: str, fraction: float | None, batch: tuple[Tensor, Tensor], device: torch.device) -> Callable[[], None]:
    torch.manual_seed(0)
    model = MODELS[name]().to(device)
    if name == "vgg":
        model = model.to(memory_format=torch.channels_last)
    if fraction is not None:
        factorize(model, rank_fraction=fraction, method="randomized", skip=SKIP)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    x, y = batch

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def step_table(device: torch.device, clock: Clock, quick: bool) -> Iterator[str]:
    yield f"{'step':<16}{'':<10}{'dense, ms':>10}{'α = 1/4, ×':>12}"
    for name in ("mlp",) if quick else MODELS:
        batch = random_batch(name, BATCHES[device.type][name], device)
        if name == "vgg":
            batch = batch[0].to(memory_format=torch.channels_last), batch[1]
        for precision in precisions(device):
            with computed_in(precision, device):
                dense, other = clock.by_turns([step_of(name, fraction, batch, device) for fraction in (None, 1 / 4)])
            yield f"{name:<16}{precision:<10}{1e3 * dense:>10.3f}{dense / other:>12.2f}"


def clusters(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ten classes of 30 clusters each.

    No linear model separates them; an MLP learns them in about a hundred steps.
    """
    generator = torch.Generator().manual_seed(1)
    centres = torch.rand(300, 784, generator=generator)
    which = torch.randint(300, (n,), generator=generator)
    X = centres[which] + NOISE * torch.randn(n, 784, generator=generator)
    return X.to(device), (which % 10).to(device)


def loss_table(device: torch.device, quick: bool) -> Iterator[str]:
    """Seconds to the loss that dense training reaches after two thirds of its steps."""
    n_steps, rows = (30, 64) if quick else (600, 256 if device.type == "cpu" else 4096)
    X, y = clusters(64 * rows, device)
    reached: dict[str, tuple[float, int, float]] = {}
    goal = float("nan")
    for way in ("dense", "α = 1/4"):
        torch.manual_seed(0)
        model = MODELS["mlp"]().to(device)
        optimizer = torch.optim.Adam(model.parameters(), 3e-4)
        schedule = None if way == "dense" else Schedule(model, optimizer, n_steps=n_steps, factoring=1 / 4, skip=SKIP)
        losses: list[float] = []
        times: list[float] = []
        began = time.perf_counter()
        for step in range(n_steps):
            rows_of = slice(step % 64 * rows, (step % 64 + 1) * rows)
            loss = nn.functional.cross_entropy(model(X[rows_of]), y[rows_of])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            if schedule is not None:
                schedule.step(losses[-1])
            times.append(time.perf_counter() - began)
        means = [statistics.mean(losses[max(0, i - 19) : i + 1]) for i in range(n_steps)]
        goal = means[n_steps * 2 // 3 - 1] if way == "dense" else goal
        first = next((i for i, mean in enumerate(means) if i >= 19 and mean <= goal), None)
        reached[way] = (float("nan"), 0, means[-1]) if first is None else (times[first], first + 1, means[-1])
    yield f"{f'an MLP to {goal:.4f}':<26}{'seconds':>10}{'steps':>12}{'last loss':>12}"
    for way, (seconds, steps, last) in reached.items():
        yield f"{way:<26}{seconds:>10.2f}{steps or 'not reached':>12}{last:>12.4f}"


def name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--part", nargs="+", default=["layers", "steps", "loss"], choices=["layers", "steps", "loss"])
    parser.add_argument("--out", type=Path, metavar="FILE", help="the table, as text")
    parser.add_argument("--quick", action="store_true", help="the smallest of each, one thread: only a check")
    arguments = parser.parse_args()
    torch.set_num_threads(1 if arguments.quick else arguments.threads)
    device = torch.device(arguments.device)
    clock = Clock(device, 0.1 if arguments.quick else 5)
    lines = [machine.describe(["torch"]), f"device: {name_of(device)}"]
    print("\n".join(lines), flush=True)
    if device.type == "cpu" and not torch.cuda.is_available():
        lines.append("no GPU was at hand: what follows is of the CPU alone")
        print(lines[-1])
    tables = {
        "layers": lambda: layer_table(device, clock, arguments.quick),
        "steps": lambda: step_table(device, clock, arguments.quick),
        "loss": lambda: loss_table(device, arguments.quick),
    }
    for part in arguments.part:
        lines.append("")
        print(flush=True)
        for line in tables[part]():
            lines.append(line)
            print(line, flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
