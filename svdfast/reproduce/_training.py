# SPDX-License-Identifier: BSD-3-Clause
"""One training of an experiment, from settings to figures, both in JSON values.

The experiments choose their trainings.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np

import svdfast.datasets as datasets
from svdfast._process.config import show_config
from svdfast.model.counting import count_multiplications
from svdfast.model.heads import head_of
from svdfast.model.network import Network
from svdfast.training.factoring import Factoring
from svdfast.training.optimizers import Adam, GradientDescent
from svdfast.training.result import TrainingResult
from svdfast.training.schedules import Constant, Cooldown, Cosine
from svdfast.training.train import train

load = lru_cache(maxsize=2)(datasets.load)


@lru_cache(maxsize=1)
def _warm_up() -> None:
    """A small training with a switch, so that timed trainings exclude costs of a first use."""
    X = np.random.default_rng(0).random((512, 200), dtype=np.float32)
    train(Network([200, 150, 2], seed=0), X, (X[:, 0] > 0.5).astype(int), epochs=2, factoring=Factoring(1 / 4, pretrain_fraction=0.5))


def described(factoring: Factoring | None) -> dict[str, Any] | None:
    """A method in JSON values: its ranks, and every setting that is not the default.

    None is dense training.
    """
    if factoring is None:
        return None
    given = {field.name: getattr(factoring, field.name) for field in fields(factoring)}
    default = vars(Factoring())
    return {name: value for name, value in given.items() if name == "ranks" or value != default[name]}


def run_training(settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Trains a new fully connected network.

    Parameters
    ----------
    settings : dict
        `data` (a name); `samples` (number of training samples, all if absent); `hold_out` (number
        of last training samples that replace the test set); `curve` (True to compute the test
        accuracy after each epoch); `sizes`; `output`; and the settings of `trained`.
    seed : int
        Seed for weight initialisation and for the order of samples.

    Returns
    -------
    dict
        `train_accuracy` and `test_accuracy` (in %), `test_accuracies` by epoch, `test_right` ("1"
        or "0" for each test sample, if there are at most 100), and the results of `trained`.
    """
    data = load(settings["data"])
    (X, y), test, n = data.train, data.test, settings.get("samples")
    X, y = X[:n], y[:n]
    if held := settings.get("hold_out"):
        X, y, test = X[:-held], y[:-held], (X[-held:], y[-held:])
    net = Network(settings["sizes"], output=settings["output"], init="glorot", seed=seed)
    result, figures = trained(net, X, y, settings, seed, test if settings.get("curve", True) else None)
    return {
        "train_accuracy": rounded(100 * net.score(X, y)),
        "test_accuracy": rounded(100 * net.score(*test)),
        **figures,
        "test_accuracies": [rounded(100 * row["val_accuracy"], 4) for row in result.history if "val_accuracy" in row],
        "test_right": _right(net, *test) if len(test[0]) <= 100 else None,
    }


def trained(
    net: Network, X: Any, y: Any, settings: dict[str, Any], seed: int, validation: tuple[Any, Any] | None = None
) -> tuple[TrainingResult, dict[str, Any]]:
    """Trains a network. It is dense afterwards.

    Parameters
    ----------
    net, X, y, validation
        As for `train`.
    settings : dict
        `optimizer` ("adam" or "sgd"); `learning_rate`; `falling` (the rate falls along half a
        cosine if true, over the last 30 % of the steps if "cooldown"; else it is constant);
        `clip_norm` (no clipping if absent); `epochs`; `batch_size`; and `factoring` (see
        `described`).
    seed : int
        Seed for the order of samples.

    Returns
    -------
    TrainingResult
    dict
        `cost` (mean over the batches of the last epoch), `costs` by epoch, `seconds` (of the whole
        training: steps, switch, recomposition), `switch_seconds`, `switch_step`, `steps_an_epoch`,
        `dense_step` and `factored_step` (median seconds of a step in epochs of one form, None
        without such an epoch), `ranks`, `machine` (in words), and multiplications for a sample:
        `forward`, `forward_dense`, `step`, `step_dense`.
    """
    _warm_up()
    make = {"adam": Adam, "sgd": GradientDescent}[settings["optimizer"]]
    falling = settings.get("falling")
    schedule = (Cooldown if falling == "cooldown" else Cosine if falling else Constant)(settings["learning_rate"])
    method = settings["factoring"]
    result = train(
        net, X, y, epochs=settings["epochs"], batch_size=settings["batch_size"], clip_norm=settings.get("clip_norm"),
        optimizer=make(schedule), validation=validation,
        factoring=None if method is None else Factoring(**method, recompose=False), seed=seed,
    )  # fmt: skip
    step, forward = count_multiplications(net, "step"), count_multiplications(net, "forward")
    ranks = net.layout.ranks[: len(net.layout.factorable)]
    began = time.perf_counter()
    net.recompose()
    recompose_seconds = time.perf_counter() - began
    steps = -(-len(X) // settings["batch_size"])
    switch = next((event for event in result.events if event.kind == "switch"), None)
    rows = result.history
    # An epoch has one form if the switch is not within it. Its phase is the one at its end.
    whole = [row for row in rows if switch is None or not (row["epoch"] - 1) * steps < switch.step < row["epoch"] * steps]

    def seconds_a_step(phase: str) -> float | None:
        seconds = [row["seconds"] / steps for row in whole if row["phase"] == phase]
        return rounded(statistics.median(seconds)) if seconds else None

    return result, {
        "cost": rounded(rows[-1]["loss"]),
        "seconds": rounded(result.seconds + recompose_seconds),
        "switch_seconds": 0.0 if switch is None else rounded(switch.info["seconds"]),
        "switch_step": None if switch is None else switch.step,
        "steps_an_epoch": steps,
        "dense_step": seconds_a_step("dense"),
        "factored_step": seconds_a_step("factored"),
        "ranks": ranks,
        "forward": forward.total, "forward_dense": forward.dense_total,
        "step": step.total, "step_dense": step.dense_total,
        "machine": machine(),
        "costs": [rounded(row["loss"], 4) for row in rows],
    }


def _right(net: Network, X: Any, y: Any) -> str:
    """A digit for each sample: 1 if the network has it right, else 0."""
    right = head_of(net.layers[-1].activation).right(net.predict(X), np.asarray(y))
    return "".join("01"[int(one)] for one in right)


@lru_cache(maxsize=1)
def machine() -> str:
    """The machine and the versions of a run. Times are compared only if both are equal."""
    config = show_config()
    return ", ".join([config["processor"], f"{config['threads']} threads", *config["versions"]])


def rounded(x: float, digits: int = 6) -> float:
    """Rounds a figure, to keep files small.

    NaN and infinity raise FloatingPointError: JSON has neither, and neither is a result.
    """
    if not math.isfinite(x):
        raise FloatingPointError(f"expected a finite figure, got {x}")
    return float(f"{x:.{digits}g}")
