# SPDX-License-Identifier: BSD-3-Clause
"""The checkpoint of an estimator's `fit`: whose fit it is, and the estimator's own state.

Elsewhere: the records of each epoch (descent.py), and the file (training/checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdfast.training.checkpoint import fingerprint
from svdfast.training.continuing import Continuing
from svdfast.training.state import WaitState

if TYPE_CHECKING:
    from svdfast.sklearn.descent import Data
    from svdfast.sklearn.estimator import SVDMLP
    from svdfast.training.loop import Loop
    from svdfast.training.progress import Wait

__all__ = ["check", "continuing"]

# Parameters that decide about a fit. Others, such as the layers, show in the network, in the method
# or in the weights of the samples.
_SETTINGS = (
    "solver", "alpha", "batch_size", "learning_rate", "learning_rate_init", "power_t", "max_iter", "shuffle", "random_state", "tol",
    "momentum", "nesterovs_momentum", "early_stopping", "validation_fraction", "beta_1", "beta_2", "epsilon", "n_iter_no_change",
    "pretrain_fraction",
)  # fmt: skip

_COUNTS = ("n_iter_", "t_", "_no_improvement_count")
_NUMBERS = ("best_loss_", "best_validation_score_")
_CURVES = ("loss_curve_", "validation_scores_", "validation_loss_curve_")


def check(model: SVDMLP, goes_on: bool) -> None:
    """Refuses a checkpoint if the same call in another process could not begin as this one does."""
    if model.solver == "lbfgs":
        raise ValueError('checkpoint: expected None with solver="lbfgs", whose state SciPy keeps, got a file')
    if model.warm_start or goes_on:
        place = "in partial_fit" if goes_on else "with warm_start"
        raise ValueError(f"checkpoint: expected None {place}, which begins with the weights in memory, got a file")
    if not isinstance(model.random_state, Integral) or isinstance(model.random_state, bool):
        raise ValueError(f"random_state: expected an integer with a checkpoint, got {model.random_state!r}")


def continuing(model: SVDMLP, data: Data, wait: Wait, *, looks: bool) -> Continuing | None:
    """The file that the model's fit is written to and continues from; None without a checkpoint."""
    if model.checkpoint is None:
        return None
    known = {"X_val, y_val, sample_weight_val": fingerprint(_arrays(data.held_out)) if data.held_out else None}
    return Continuing(
        model.checkpoint, {name: getattr(model, name) for name in _SETTINGS}, known, state=lambda: _state(model, wait),
        restore=lambda values, loop: _restore(model, wait, values, loop), looks=looks,
    )  # fmt: skip


def _arrays(given: tuple[Any, ...]) -> Iterator[NDArray[Any]]:
    for each in given:
        if hasattr(each, "indptr"):
            yield from (each.data, each.indices, each.indptr)
        elif each is not None:
            yield np.asarray(each)


def _state(model: SVDMLP, wait: Wait) -> dict[str, Any]:
    """The model's records as plain values."""
    rate, best = model._rate, model._best
    return {
        **{name: getattr(model, name) for name in (*_COUNTS, *_NUMBERS, *_CURVES)},
        "stopped_": model.stopped_,
        "scales": model._scales,
        "rate": (rate.rate, rate.cooling, rate.left),
        "wait": wait.state(),
        "best": None if best is None else (best[0], best[1].header(), best[2]),
    }


def _restore(model: SVDMLP, wait: Wait, values: dict[str, Any], loop: Loop) -> None:
    """Takes the values that `_state` returned."""
    for name in _COUNTS:
        setattr(model, name, int(values[name]))
    for name in _NUMBERS:
        setattr(model, name, None if values[name] is None else float(values[name]))
    for name in _CURVES:
        setattr(model, name, None if values[name] is None else [float(value) for value in values[name]])
    if model.loss_curve_:
        model.loss_ = model.loss_curve_[-1]
    model.stopped_ = bool(values["stopped_"])
    model._scales = None if values["scales"] is None else tuple(float(scale) for scale in values["scales"])
    rate = model._rate
    rate.rate, rate.cooling, rate.left = float(values["rate"][0]), int(values["rate"][1]), int(values["rate"][2])
    model._optimizer.learning_rate = rate.rate
    if not isinstance(values["wait"], WaitState):
        raise TypeError("it does not know how many epochs had no progress")
    wait.restore(values["wait"])
    model._best = None
    if values["best"] is not None:
        value, header, parameters = values["best"]
        model._best = float(value), *loop.run.checked_network(header, parameters)
