# SPDX-License-Identifier: BSD-3-Clause
"""Test accuracy of dense and factored training on real data, over several seeds.

    python bench/accuracy.py [mnist | fashion-mnist | xor | cat ...] [--seeds N] [--json FILE]

The report's networks and settings: for each seed a dense training and one with SVD from the same first weights and the same order
of samples. Prints a line for each run, then mean ± standard deviation. Not here: how fast it is (compare.py).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import svdfast as sf

# The report, section 4. It leaves open the optimizer of cat and xor, and cat's batch: gradient descent, which it describes, sample
# by sample, comes to its cost on cat; Adam is used on xor.
SETTINGS: dict[str, dict[str, Any]] = {
    "mnist": {"hidden": [512, 256], "epochs": 20, "batch_size": 2048, "optimizer": (sf.Adam, 3e-4)},
    "cat": {"hidden": [100], "epochs": 100, "batch_size": 1, "optimizer": (sf.GradientDescent, 1e-3)},
    "xor": {"hidden": [20, 20], "epochs": 800, "batch_size": 4, "optimizer": (sf.Adam, 0.01)},
}
SETTINGS["fashion-mnist"] = SETTINGS["mnist"]


def run(name: str, seed: int, rank_fraction: float | None) -> dict[str, Any]:
    """One training; its cost and accuracies at the end, after recomposition."""
    settings = SETTINGS[name]
    data = sf.datasets.load(name)
    binary = data.n_classes == 2
    net = sf.Network(
        [data.train[0].shape[1], *settings["hidden"], 1 if binary else data.n_classes],
        output="sigmoid" if binary else "softmax",
        seed=seed,
    )
    optimizer, rate = settings["optimizer"]
    result = sf.train(
        net,
        *data.train,
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        optimizer=optimizer(rate),
        rank_fraction=rank_fraction,
        pretrain_fraction=0.1,
        force=True,
        seed=seed,
    )
    cost = [row["loss"] for row in result.history if row["phase"] != "recomposed"][-1]
    return {
        "data": name,
        "seed": seed,
        "rank_fraction": rank_fraction,
        "cost": cost,
        "train_accuracy": 100 * net.score(*data.train),
        "test_accuracy": 100 * net.score(*data.test),
        "seconds": result.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", default=["mnist"], help=", ".join(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rank-fraction", type=float, nargs="*", default=[0.5])
    parser.add_argument("--json", type=Path, help="write every run here")
    arguments = parser.parse_args()
    print(sf.show_config(), "\n")
    runs = []
    for name in arguments.data:
        for rank_fraction in [None, *arguments.rank_fraction]:
            of_kind = []
            for seed in range(arguments.seeds):
                of_kind.append(run(name, seed, rank_fraction))
                print(
                    "{data:<14} rank_fraction {rank_fraction!s:<6} seed {seed}  cost {cost:.5f}  train "
                    "{train_accuracy:.3f} %  test {test_accuracy:.3f} %  {seconds:.2f} s".format(
                        **of_kind[-1]
                    ),
                    flush=True,
                )
            parts = []
            for key, unit in (("cost", ""), ("train_accuracy", " %"), ("test_accuracy", " %")):
                values = [r[key] for r in of_kind]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                parts.append(f"{key} {statistics.mean(values):.5g} ± {spread:.2g}{unit}")
            print(f"{name:<14} rank_fraction {rank_fraction!s:<6} mean    {'  '.join(parts)}\n")
            runs += of_kind
    if arguments.json:
        arguments.json.write_text(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()
