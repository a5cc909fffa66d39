# SPDX-License-Identifier: BSD-3-Clause
"""Test accuracy and training time of dense and factored training on real data, over several seeds.

    python bench/accuracy.py report [mnist | fashion-mnist | xor | cat ...]   the report's settings, α = 1/2, and dense
    python bench/accuracy.py tuned [mnist | fashion-mnist ...]                dense, α = 1/4, 1/8, each with its own best rate
    python bench/accuracy.py ablation [mnist | fashion-mnist ...]             α = 1/8 with one ingredient other than by default
    python bench/accuracy.py auto [mnist | fashion-mnist | wide ...]          ranks="auto" and dense, all else by default
    ... [--seeds N] [--json FILE] [--plot FILE]

Each seed is one of first weights and of the order of samples; forms take turns seed by seed. Prints a line for each run, then mean ±
standard deviation. --plot draws the test accuracy over seconds (tuned; needs matplotlib). Not here: how fast a step is (compare.py).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine

import svdfast as sf

# The report, section 4. It leaves open the optimizer of cat and xor, and cat's batch: gradient descent, which it describes, sample
# by sample, comes to its cost on cat; Adam is used on xor.
REPORT: dict[str, dict[str, Any]] = {
    "mnist": {"hidden": [512, 256], "epochs": 20, "batch_size": 2048, "optimizer": (sf.Adam, 3e-4)},
    "cat": {"hidden": [100], "epochs": 100, "batch_size": 1, "optimizer": (sf.GradientDescent, 1e-3)},
    "xor": {"hidden": [20, 20], "epochs": 800, "batch_size": 4, "optimizer": (sf.Adam, 0.01)},
}
REPORT["fashion-mnist"] = REPORT["mnist"]
AS_REPORTED = {"pretrain_fraction": 0.1, "force": True, "moments": "restart", "factor_learning_rate": 1.0}

# Adam with half a cosine from these rates down to 0, the same grid for each form.
RATES = (1e-3, 3e-3, 9e-3)
TUNED = {"hidden": [512, 256], "epochs": 20, "batch_size": 2048}
FORMS: dict[str, dict[str, Any]] = {
    "dense": {"rank_fraction": None},
    "1/4": {"rank_fraction": 1 / 4, "pretrain_fraction": 0.05},
    "1/8": {"rank_fraction": 1 / 8, "pretrain_fraction": 0.05},
}
ABLATION_RATE = 3e-3
ABLATION: dict[str, dict[str, Any]] = {
    "as by default": {},
    "moments restarted": {"moments": "restart"},
    "factors' rate × 1": {"factor_learning_rate": 1.0},
    "no pre-training": {"pretrain_fraction": 0.0},
    "Σ all in W1": {"split": "left"},
    "dense tail of 10 %": {"recompose_fraction": 0.1},
    "constant rate 1e-3": {"learning_rate": 1e-3},
    "constant rate 1e-3, dense tail of 10 %": {"learning_rate": 1e-3, "recompose_fraction": 0.1},
}
HIDDEN = {"mnist": [512, 256], "fashion-mnist": [512, 256], "wide": [2048, 2048]}


def train(name: str, seed: int, hidden: list[int], **settings: Any) -> dict[str, Any]:
    """One training; its cost, accuracies and seconds, and the test accuracy after each epoch."""
    data = sf.datasets.load("mnist" if name == "wide" else name)
    binary = data.n_classes == 2
    net = sf.Network(
        [data.train[0].shape[1], *hidden, 1 if binary else data.n_classes],
        output="sigmoid" if binary else "softmax",
        seed=seed,
    )
    result = sf.train(net, *data.train, validation=data.test, seed=seed, **settings)
    rows = [row for row in result.history if row["phase"] != "recomposed"]
    return {
        "data": name,
        "seed": seed,
        "cost": rows[-1]["loss"],
        "train_accuracy": 100 * net.score(*data.train),
        "test_accuracy": 100 * net.score(*data.test),
        "seconds": result.seconds,
        "steps_seconds": [row["seconds"] for row in rows],
        "curve": [100 * row["val_accuracy"] for row in rows],
        "explain": result.explain(),
    }


Job = tuple[str, Callable[[int], dict[str, Any]]]


def report_jobs(name: str) -> Iterator[Job]:
    settings = dict(REPORT[name])
    optimizer, rate = settings.pop("optimizer")
    for rank_fraction in (None, 1 / 2):
        yield (
            f"rank_fraction {rank_fraction!s:<6}",
            lambda seed, r=rank_fraction: train(
                name, seed, rank_fraction=r, optimizer=optimizer(rate), **settings, **AS_REPORTED
            ),
        )


def tuned_jobs(name: str) -> Iterator[Job]:
    for form, how in FORMS.items():
        for rate in RATES:
            yield (
                f"{form:<6} rate {rate:<6g}",
                lambda seed, how=how, rate=rate: train(
                    name, seed, optimizer=sf.Adam(sf.schedules.Cosine(rate)), **TUNED, **how
                ),
            )


def ablation_jobs(name: str) -> Iterator[Job]:
    for what, change in ABLATION.items():
        how = FORMS["1/8"] | change
        constant = how.pop("learning_rate", None)
        rate = sf.schedules.Cosine(ABLATION_RATE) if constant is None else constant
        yield f"{what:<40}", lambda seed, how=how, rate=rate: train(name, seed, optimizer=sf.Adam(rate), **TUNED, **how)


def auto_jobs(name: str) -> Iterator[Job]:
    for form, how in (("dense", {"rank_fraction": None}), ("auto", {"ranks": "auto"})):
        yield f"{form:<6}", lambda seed, how=how: train(name, seed, HIDDEN[name], **how)


MODES = {"report": report_jobs, "tuned": tuned_jobs, "ablation": ablation_jobs, "auto": auto_jobs}


def summary(runs: list[dict[str, Any]]) -> str:
    parts = []
    for key, unit in (("cost", ""), ("train_accuracy", " %"), ("test_accuracy", " %"), ("seconds", " s")):
        values = [r[key] for r in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        parts.append(f"{key} {statistics.mean(values):.5g} ± {spread:.2g}{unit}")
    return "  ".join(parts)


def compare_tuned(name: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Prints each form at its best rate beside dense; returns those rates' titles."""
    best = {}
    for form in FORMS:
        titles = [title for title in runs if title.startswith(f"{form:<6}")]
        best[form] = max(titles, key=lambda t: statistics.mean(r["test_accuracy"] for r in runs[t]))
    dense = runs[best["dense"]]
    for title in best.values():
        difference = statistics.mean(r["test_accuracy"] for r in runs[title]) - statistics.mean(
            r["test_accuracy"] for r in dense
        )
        ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(runs[title], dense, strict=True))
        print(f"{name:<14} {title} best of its rates: {difference:+.3f} points, {ratio:.3f} of dense's time")
    print()
    return best


def plot(curves: dict[str, dict[str, list[dict[str, Any]]]], file: Path) -> None:
    """Mean test accuracy after each epoch over mean seconds of training by then."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(curves), 4), layout="constrained")
    for axes, (name, forms) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for title, runs in forms.items():
            steps = np.mean([r["steps_seconds"] for r in runs], axis=0).cumsum()
            other = np.mean([r["seconds"] - sum(r["steps_seconds"]) for r in runs])  # the switch, early on
            axes.plot(steps + other, np.mean([r["curve"] for r in runs], axis=0), marker=".", label=title)
        axes.set(title=name, xlabel="seconds of training", ylabel="test accuracy, %")
        best = max(max(np.mean([r["curve"] for r in runs], axis=0)) for runs in forms.values())
        axes.set_ylim(best - 4, best + 0.3)
        axes.legend()
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("data", nargs="*", default=["mnist"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy over seconds (tuned; needs matplotlib)")
    arguments = parser.parse_args()
    print(machine.describe(), "\n")
    everything, curves = [], {}
    for name in arguments.data:
        jobs = list(MODES[arguments.mode](name))
        runs: dict[str, list[dict[str, Any]]] = {title: [] for title, _ in jobs}
        for seed in range(arguments.seeds):
            for title, job in jobs:
                run = job(seed)
                runs[title].append(run)
                everything.append(run | {"form": title.strip()})
                print(
                    f"{name:<14} {title} seed {seed}  cost {run['cost']:.5f}  train {run['train_accuracy']:.3f} %  "
                    f"test {run['test_accuracy']:.3f} %  {run['seconds']:.2f} s",
                    flush=True,
                )
        for title, of_kind in runs.items():
            print(f"{name:<14} {title} mean    {summary(of_kind)}")
        print()
        if arguments.mode == "auto":
            print(runs[jobs[-1][0]][0]["explain"] + "\n", flush=True)
        if arguments.mode == "tuned":
            best = compare_tuned(name, runs)
            curves[name] = {title: runs[title] for title in best.values()}
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1))
    if arguments.plot and curves:
        plot(curves, arguments.plot)


if __name__ == "__main__":
    main()
