# SPDX-License-Identifier: BSD-3-Clause
"""Test accuracy and training time of dense and factored training on real data, over several seeds.

    python bench/accuracy.py tuned [DATA ...]       dense, α = 1/4, 1/8, auto, PyTorch, each at its
                                                    own best rate
    python bench/accuracy.py ablation [DATA ...]    α = 1/8 with one changed ingredient
    python bench/accuracy.py precision [DATA ...]   products in float32 and in bfloat16
    python bench/accuracy.py few [DATA ...]         a tenth of the samples: the value of decay
    python bench/accuracy.py auto [DATA ...]        factoring="auto" and dense, everything else by
                                                    default
    ... [--seeds N] [--json FILE] [--plot FILE]

DATA is mnist or fashion-mnist; for auto it may be wide, digits or xor, too. A seed decides the
first weights and the order of samples; forms alternate seed by seed. The script prints a line for
each run, then mean ± standard deviation. --plot draws the test accuracy over seconds (tuned; needs
matplotlib). PyTorch takes part if it is installed. The time of a step is measured in compare.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine

import svdfast as sf
from svdfast.training.moments import carry

# Adam with half a cosine from these rates down to 0, the same grid for each form.
RATES = (1e-3, 3e-3, 9e-3)
TUNED = {"hidden": [512, 256], "epochs": 20, "batch_size": 2048}
FORMS: dict[str, sf.Factoring | None] = {
    "dense": None,
    "1/4": sf.Factoring(1 / 4, pretrain_fraction=0.05),
    "1/8": sf.Factoring(1 / 8, pretrain_fraction=0.05),
    "auto": sf.Factoring("auto"),
}
# Test accuracies; the time until each is printed.
TARGETS = {"mnist": 98.0, "fashion-mnist": 88.5}
ABLATION_RATE = 3e-3
# Changes of the form 1/8, and of the training.
ABLATION: dict[str, dict[str, Any]] = {
    "as by default": {},
    "moments restarted": {"moments": "restart"},
    "factors' rate × 1": {"learning_rate": 1.0},
    "no pre-training": {"pretrain_fraction": 0.0},
    "Σ all in W1": {"split": "left"},
    "plain truncation": {"activation_aware": False},
    "φ 2 %": {"pretrain_fraction": 0.02},
    "φ 2 %, plain truncation": {"pretrain_fraction": 0.02, "activation_aware": False},
    "α 1/16": {"ranks": 1 / 16},
    "α 1/16, plain truncation": {"ranks": 1 / 16, "activation_aware": False},
    "product decay 0.1": {"product_decay": 0.1},
    "factored anew every 5 epochs": {"anew": 5},
    "dense tail of 10 %": {"recompose_fraction": 0.1},
    "constant rate 1e-3": {"constant": 1e-3},
    "constant rate 1e-3, dense tail of 10 %": {"constant": 1e-3, "recompose_fraction": 0.1},
}
# Few samples, so that memorising them hurts. λ of the decay is from the same grid for each kind.
FEW = {"samples": 6000, "hidden": [512, 256], "epochs": 40, "batch_size": 128}
FEW_RATE = 1e-3
DECAYS = (0.1, 0.3, 1.0)
HIDDEN = {"mnist": [512, 256], "fashion-mnist": [512, 256], "wide": [2048, 2048], "digits": [512, 256], "xor": [20, 20]}


def factor_anew(every: int, optimizer: sf.Optimizer) -> Callable[[Any], None]:
    """A callback that truncates the product again every `every` epochs and carries the moments."""

    def call(event: Any) -> None:
        net = event.network
        if event.kind == "epoch" and net.is_factored and event.epoch % every == 0:
            old, moments = net.state, optimizer.moments
            net.truncate(ranks=net.layout.ranks[: len(net.layout.factorable)], force=True)
            optimizer.adopt((net.layout, net.dtype), carry(optimizer.kinds, moments, old, net.state))

    return call


def train(
    name: str, seed: int, hidden: list[int], *, samples: int | None = None, anew: int | None = None, **settings: Any
) -> dict[str, Any]:
    """One training: its cost, accuracies and seconds, and the test accuracy after each epoch."""
    data = sf.datasets.load("mnist" if name == "wide" else name)
    X, y = (array[:samples] for array in data.train)
    binary = data.n_classes == 2
    net = sf.Network(
        [data.train[0].shape[1], *hidden, 1 if binary else data.n_classes],
        output="sigmoid" if binary else "softmax",
        seed=seed,
    )
    if anew is not None:
        settings["callbacks"] = [factor_anew(anew, settings["optimizer"])]
    result = sf.train(net, X, y, validation=data.test, seed=seed, **settings)
    rows = result.history
    return {
        "data": name,
        "seed": seed,
        "cost": rows[-1]["loss"],
        "train_accuracy": 100 * net.score(X, y),
        "test_accuracy": 100 * net.score(*data.test),
        "seconds": result.seconds,
        "steps_seconds": [row["seconds"] for row in rows],
        "curve": [100 * row["val_accuracy"] for row in rows],
        "explain": result.explain(),
    }


def train_torch(name: str, seed: int, rate: float, hidden: list[int], epochs: int, batch_size: int) -> dict[str, Any]:
    """The same training by PyTorch, float32 and dense.

    It runs in eager mode with fused Adam; the learning rate falls along half a cosine.
    """
    import numpy as np
    import torch

    data = sf.datasets.load(name)
    n_threads = sf.show_config()["threads"]
    torch.set_num_threads(n_threads)

    def tensors(part: Any) -> tuple[Any, Any]:
        return torch.from_numpy(part[0].astype("float32") / np.float32(255)), torch.from_numpy(part[1].astype("int64"))

    train, test = tensors(data.train), tensors(data.test)
    net = sf.Network([data.train[0].shape[1], *hidden, data.n_classes], seed=seed)
    modules: list[Any] = []
    for layer in net.layers:
        linear = torch.nn.Linear(layer.n_in, layer.n_out)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(layer.W))
            linear.bias.zero_()
        modules += [linear, torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules[:-1])
    optimizer = torch.optim.Adam(model.parameters(), rate, fused=True)
    loss_of = torch.nn.CrossEntropyLoss()
    rng = np.random.default_rng(seed)
    n_samples = len(train[0])
    n_steps = epochs * -(-n_samples // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)

    def accuracy(part: tuple[Any, Any]) -> float:
        with torch.no_grad():
            return 100 * float((model(part[0]).argmax(1) == part[1]).float().mean())

    seconds, curve = [], []
    for _ in range(epochs):
        total = 0.0
        began = time.perf_counter()
        for rows in torch.from_numpy(rng.permutation(n_samples)).split(batch_size):
            optimizer.zero_grad()
            loss = loss_of(model(train[0][rows]), train[1][rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.item()) * len(rows)
        seconds.append(time.perf_counter() - began)
        curve.append(accuracy(test))
    return {
        "data": name,
        "seed": seed,
        "cost": total / n_samples,
        "train_accuracy": accuracy(train),
        "test_accuracy": curve[-1],
        "seconds": sum(seconds),
        "steps_seconds": seconds,
        "curve": curve,
        "explain": f"PyTorch {torch.__version__}, {n_threads} threads",
    }


Job = tuple[str, Callable[[int], dict[str, Any]]]


def tuned_jobs(name: str) -> Iterator[Job]:
    for form, how in FORMS.items():
        for rate in RATES:
            yield (
                f"{form:<6} rate {rate:<6g}",
                lambda seed, how=how, rate=rate: train(
                    name, seed, optimizer=sf.Adam(sf.schedules.Cosine(rate)), factoring=how, **TUNED
                ),
            )

    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: left out\n")
        return
    for rate in RATES:
        yield f"{'torch':<6} rate {rate:<6g}", lambda seed, rate=rate: train_torch(name, seed, rate, **TUNED)


def precision_jobs(name: str) -> Iterator[Job]:
    for form in ("dense", "1/4", "1/8"):
        for precision in ("float32", "bfloat16"):
            how: dict[str, Any] = {"factoring": FORMS[form], "precision": precision}
            yield (
                f"{form:<6} {precision:<8}",
                lambda seed, how=how: train(name, seed, optimizer=sf.Adam(sf.schedules.Cosine(ABLATION_RATE)), **TUNED, **how),
            )


def few_jobs(name: str) -> Iterator[Job]:
    rate = sf.schedules.Cosine(FEW_RATE)

    def job(title: str, optimizer: Any, factoring: sf.Factoring | None) -> Job:
        return f"{title:<32}", lambda seed: train(name, seed, optimizer=optimizer(), factoring=factoring, **FEW)

    for form in ("dense", "1/8"):
        yield job(form, lambda: sf.Adam(rate), FORMS[form])
        for decay in DECAYS:
            yield job(f"{form}, AdamW's decay {decay}", lambda d=decay: sf.AdamW(rate, weight_decay=d), FORMS[form])
    for decay in DECAYS:
        yield job(f"1/8, product decay {decay}", lambda: sf.Adam(rate), replace(FORMS["1/8"], product_decay=decay))


def ablation_jobs(name: str) -> Iterator[Job]:
    for what, change in ABLATION.items():
        change = change.copy()
        how = {"anew": change.pop("anew", None)}
        rate = change.pop("constant", sf.schedules.Cosine(ABLATION_RATE))
        how["factoring"] = replace(FORMS["1/8"], **change)
        yield f"{what:<40}", lambda seed, how=how, rate=rate: train(name, seed, optimizer=sf.Adam(rate), **TUNED, **how)


def auto_jobs(name: str) -> Iterator[Job]:
    for form in ("dense", "auto"):
        yield f"{form:<6}", lambda seed, how=FORMS[form]: train(name, seed, HIDDEN[name], factoring=how)


MODES = {
    "tuned": tuned_jobs,
    "precision": precision_jobs,
    "few": few_jobs,
    "ablation": ablation_jobs,
    "auto": auto_jobs,
}


def summary(runs: list[dict[str, Any]]) -> str:
    parts = []
    for key, unit in (("cost", ""), ("train_accuracy", " %"), ("test_accuracy", " %"), ("seconds", " s")):
        values = [r[key] for r in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        parts.append(f"{key} {statistics.mean(values):.5g} ± {spread:.2g}{unit}")
    return "  ".join(parts)


def elapsed(run: dict[str, Any]) -> list[float]:
    """Seconds of training until the end of each epoch.

    Everything but steps, mainly the switch, counts as if it came first.
    """
    other = run["seconds"] - sum(run["steps_seconds"])
    return [other + seconds for seconds in itertools.accumulate(run["steps_seconds"])]


def seconds_to(target: float, run: dict[str, Any]) -> float:
    """Seconds until the first epoch with the target test accuracy or more; infinite without one."""
    return next((s for s, accuracy in zip(elapsed(run), run["curve"], strict=True) if accuracy >= target), math.inf)


def compare_tuned(name: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Prints each form at its best rate beside dense. Returns the titles of those rates."""
    best = {}
    for form in [*FORMS, "torch"]:
        titles = [title for title in runs if title.startswith(f"{form:<6}")]
        if titles:
            best[form] = max(titles, key=lambda t: statistics.mean(r["test_accuracy"] for r in runs[t]))

    def ratio(title: str, other: str) -> float:
        return statistics.median(a["seconds"] / b["seconds"] for a, b in zip(runs[title], runs[other], strict=True))

    def mean(title: str) -> float:
        return statistics.mean(r["test_accuracy"] for r in runs[title])

    for title in best.values():
        line = f"{name:<14} {title} best of its rates: {mean(title) - mean(best['dense']):+.3f} points, "
        line += f"{ratio(title, best['dense']):.3f} of dense's time"
        if "torch" in best:
            line += f", {ratio(title, best['torch']):.3f} of PyTorch's"
        print(line)
    target = TARGETS[name]
    for form in best:
        times = {
            title: statistics.median(seconds_to(target, run) for run in runs[title])
            for title in runs
            if title.startswith(f"{form:<6}")
        }
        title = min(times, key=lambda t: times[t])
        print(f"{name:<14} {title} first of its rates at {target} %: median {times[title]:.2f} s")
    print()
    return best


def plot(curves: dict[str, dict[str, list[dict[str, Any]]]], file: Path) -> None:
    """Draws mean test accuracy after each epoch over mean seconds of training until then."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(curves), 4), layout="constrained")
    for axes, (name, forms) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for title, runs in forms.items():
            axes.plot(np.mean([elapsed(r) for r in runs], axis=0), np.mean([r["curve"] for r in runs], axis=0), marker=".", label=title)
        axes.set(title=name, xlabel="seconds of training", ylabel="test accuracy, %")
        best = max(max(np.mean([r["curve"] for r in runs], axis=0)) for runs in forms.values())
        axes.set_ylim(best - 4, best + 0.3)
        axes.axhline(TARGETS[name], color="grey", linewidth=0.8)
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
