# SPDX-License-Identifier: BSD-3-Clause
"""What each choice is worth in a training of few epochs: test accuracy and counted work with one choice changed at a time.

    python bench/few_epochs.py [mnist | fashion-mnist ...] [--epochs N] [--seeds N] [--quick]

The base is to_goal.py's: 784-512-256-10 with He's initial weights, α = 1/8 after φ = 5 % of the steps, batches of 128, Adam at 0.003, a
warm-up of 2 % and half a cosine. Rows with "then" are two trainings in a row, the first over half of the epochs, rounded up; the rate
goes on, moments start again, and "1/8, then 1/8" shows what that alone costs. Work is multiplications of all steps, those of dense steps
throughout being 100. Needs the data sets.

Elsewhere: times (to_goal.py), and what the method's ingredients are worth in 20 epochs (accuracy.py).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import svdfast as sf

SIZES = (784, 512, 256, 10)
EPOCHS = {"mnist": 3, "fashion-mnist": 7}
BASE: dict[str, Any] = {
    "factoring": 1 / 8, "phi": 0.05, "batch": 128, "rate": 3e-3, "warmup": 0.02, "fall": "cosine", "beta1": 0.9, "beta2": 0.999,
    "init": "he",
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "as to_goal.py": {},
    '"auto"': {"factoring": "auto"},
    "dense": {"factoring": None},
    "α 1/4": {"factoring": 1 / 4},
    "α 1/16": {"factoring": 1 / 16},
    "α 1/16, φ 10 %": {"factoring": 1 / 16, "phi": 0.1},
    "φ 2 %": {"phi": 0.02},
    "φ 10 %": {"phi": 0.1},
    "batch 64, rate 0.0015": {"batch": 64, "rate": 1.5e-3},
    "batch 256, rate 0.004": {"batch": 256, "rate": 4e-3},
    "batch 512, rate 0.006": {"batch": 512, "rate": 6e-3},
    "rate 0.002": {"rate": 2e-3},
    "rate 0.004": {"rate": 4e-3},
    "init glorot": {"init": "glorot"},
    "warm-up 5 %": {"warmup": 0.05},
    "warm-up 20 %": {"warmup": 0.2},
    "linear fall": {"fall": "linear"},
    "fall by a square root": {"fall": "root"},
    "β₁ 0.95": {"beta1": 0.95},
    "β₂ 0.99": {"beta2": 0.99},
    "β₂ 0.95": {"beta2": 0.95},
    "1/8, then 1/8": {"second": {}},
    "1/4, then 1/8": {"factoring": 1 / 4, "second": {"factoring": 1 / 8}},
    "1/8, then 1/16": {"second": {"factoring": 1 / 16}},
    "batch 64, then 256": {"batch": 64, "rate": 1.5e-3, "second": {"batch": 256, "rate": 4e-3}},
}


class Stretch:
    """A learning rate over the part `begin` .. `end` of a whole training, 0 .. 1."""

    def __init__(self, choice: dict[str, Any], begin: float, end: float):
        rate, warmup = choice["rate"], choice["warmup"]
        falls: dict[str, Callable[[int, int], float]] = {
            "cosine": sf.schedules.Cosine(rate),
            "linear": sf.schedules.Cooldown(rate, cooldown_fraction=1.0),
            "root": lambda step, n_steps: rate * (1 - step / n_steps) ** 0.5,
        }
        self.whole = sf.schedules.Warmup(falls[choice["fall"]], warmup)
        self.begin, self.end = begin, end

    def __call__(self, step: int, n_steps: int) -> float:
        of_whole = round(n_steps / (self.end - self.begin))
        return self.whole(round(self.begin * of_whole) + step, of_whole)


def trained(choice: dict[str, Any], epochs: int, seed: int, X: Any, y: Any) -> tuple[sf.Network, float]:
    """The network, and the work of its training."""
    net = sf.Network(SIZES, init=choice["init"], seed=seed)
    second = choice.get("second")
    dense = sf.count_multiplications(net).dense_total
    half = (epochs + 1) // 2 / epochs
    parts = [(choice, 0.0, 1.0)] if second is None else [(choice, 0.0, half), (choice | second, half, 1.0)]
    work = 0.0
    for part, begin, end in parts:
        fraction = part["factoring"]
        factoring = fraction
        if isinstance(fraction, float):
            factoring = sf.Factoring(fraction, pretrain_fraction=part["phi"] / (end - begin) if begin == 0 else 0.0, recompose=end == 1)
            if begin > 0:
                net.truncate(fraction, inputs=X[:2048])
        result = sf.train(
            net, X, y, epochs=round(epochs * (end - begin)), batch_size=part["batch"], seed=seed + (begin > 0), n_threads=1,
            optimizer=sf.Adam(Stretch(part, begin, end), beta1=part["beta1"], beta2=part["beta2"]), factoring=factoring,
        )  # fmt: skip
        work += sum(phase["steps"] * part["batch"] * phase["multiplications"] for phase in result.phases)
    return net, work / (dense * len(X) * epochs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(EPOCHS))
    parser.add_argument("--epochs", type=int, help="default: 3 of mnist, 7 of fashion-mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two epochs of few samples: only a check")
    arguments = parser.parse_args()
    for case in arguments.cases or (["mnist"] if arguments.quick else EPOCHS):
        data = sf.datasets.load(case)
        limit, epochs, seeds = None, arguments.epochs or EPOCHS[case], arguments.seeds
        if arguments.quick:
            limit, epochs, seeds = 2048, 2, 1
        X, y = (array[:limit] for array in data.train)
        print(f"\n{case}, {epochs} epochs, {seeds} seed(s)\n{'':<24}{'test accuracy':>22}{'work':>8}", flush=True)
        for name, change in CHANGES.items():
            nets, works = zip(*(trained(BASE | change, epochs, seed, X, y) for seed in range(seeds)), strict=True)
            scores = [100 * net.score(*data.test) for net in nets]
            spread = f" ± {statistics.stdev(scores):.2f} %" if seeds > 1 else " %"
            print(f"{name:<24}{statistics.mean(scores):>12.2f}{spread:>10}{100 * statistics.mean(works):>8.1f}", flush=True)


if __name__ == "__main__":
    main()
