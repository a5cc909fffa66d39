# SPDX-License-Identifier: BSD-3-Clause
"""Loss functions by name, and the output activation that each needs.

A new loss takes an entry here, and a line and a function in src/loops/losses.h. Targets are checked
in data/checks.py.

With samples i, outputs j and sample weights wᵢ (1 by default), a loss is Σᵢ wᵢ·lossᵢ / Σᵢ wᵢ, where
lossᵢ is

- cross_entropy: −Σⱼ yⱼ log ŷⱼ, ŷ = softmax(z), computed from z; y a class number or a distribution (one-hot);
- binary_cross_entropy: mean over j of −(yⱼ log ŷⱼ + (1 − yⱼ) log(1 − ŷⱼ)), ŷ = sigmoid(z), computed from z;
- mean_squared_error: mean over j of (ŷⱼ − yⱼ)², for any output activation;
- mean_absolute_error: mean over j of |ŷⱼ − yⱼ|, for any output activation; its gradient at 0 is 0;
- huber: mean over j of h(ŷⱼ − yⱼ), for any output activation, h(d) = d²/2 if |d| ≤ 1, else
  |d| − 1/2;
- poisson: half the Poisson deviance, mean over j of yⱼ log(yⱼ/ŷⱼ) − yⱼ + ŷⱼ, ŷ = exp(z), computed
  from z. For one output it equals scikit-learn's `MLPRegressor(loss="poisson")`.

The first three are in the paper, section 3.1.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import huber, kl_div

from svdfast._elementwise import LOSSES
from svdfast._process.checks import known_name
from svdfast.data.spec import Targets
from svdfast.model.activations import Activation
from svdfast.model.heads import head_of

__all__ = ["Loss", "of_constant", "resolve"]


@dataclass(frozen=True)
class Loss(Targets):
    """A loss: its targets, and the output activation that it includes (None: any)."""

    output: str | None = None

    @property
    def code(self) -> int:
        return LOSSES[self.name]


_LOSSES = {
    loss.name: loss
    for loss in (
        Loss(
            "binary_cross_entropy", bounds=(0, 1), output="sigmoid",
            expected="values from 0 to 1 for binary_cross_entropy",
        ),
        Loss(
            "cross_entropy", classes=True, bounds=(0, math.inf), output="softmax",
            expected="one-hot rows or shares ≥ 0",
        ),
        Loss("huber"),
        Loss("mean_absolute_error"),
        Loss("mean_squared_error"),
        Loss("poisson", bounds=(0, math.inf), output="exp", expected="counts or rates ≥ 0 for poisson"),
    )
}  # fmt: skip

# Names in other libraries.
_ELSEWHERE = {
    "bce": "binary_cross_entropy",
    "ce": "cross_entropy",
    "binary_crossentropy": "binary_cross_entropy",
    "binary_log_loss": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy",
    "crossentropy": "cross_entropy",
    "categorical_crossentropy": "cross_entropy",
    "sparse_categorical_crossentropy": "cross_entropy",
    "log_loss": "cross_entropy",
    "nll": "cross_entropy",
    "nll_loss": "cross_entropy",
    "absolute_error": "mean_absolute_error",
    "l1": "mean_absolute_error",
    "l1_loss": "mean_absolute_error",
    "mae": "mean_absolute_error",
    "l2": "mean_squared_error",
    "mse": "mean_squared_error",
    "mse_loss": "mean_squared_error",
    "squared_error": "mean_squared_error",
    "huber_loss": "huber",
    "smooth_l1": "huber",
    "smooth_l1_loss": "huber",
    "poisson_nll": "poisson",
    "poisson_nll_loss": "poisson",
}


def resolve(name: str | None, output: Activation) -> Loss:
    """The loss of this name, for a network with this output activation.

    The default is the loss of the network's head.

    Raises
    ------
    ValueError
        The name is not known, or the loss needs another output activation.
    TypeError
        `name` is not a string.
    """
    name = head_of(output).loss if name is None else name
    if not isinstance(name, str):
        raise TypeError(f"loss: expected a name, got {type(name).__name__}")
    known_name("loss", name, _LOSSES, _ELSEWHERE)
    loss = _LOSSES[name]
    if loss.output is not None and loss.output != output.name:
        raise ValueError(
            f'loss: {name} needs a network with output="{loss.output}", as it is computed from the pre-activation; '
            f"this network's output is {output.name}"
        )
    return loss


def of_constant(name: str, targets: NDArray[Any], n_outputs: int, weights: NDArray[Any] | None = None) -> float:
    """The loss of the best constant answer, the same for all samples and steps.

    A network that has learned something has a smaller loss.

    Parameters
    ----------
    name : str
        Name of the loss.
    targets : ndarray (n_samples, [steps,] [n_outputs])
        Targets in the loss's own form: classes as integers, or an array of numbers.
    n_outputs : int
    weights : ndarray (n_samples, [steps]), optional

    Returns
    -------
    float

    Examples
    --------
    >>> import numpy as np
    >>> from svdfast.model.losses import of_constant
    >>> of_constant("mean_squared_error", np.array([[0.0], [2.0]]), 1)
    1.0
    """
    weights = None if weights is None else weights.reshape(-1)
    if _LOSSES[name].classes and targets.dtype.kind in "iu":
        counts = np.bincount(targets.reshape(-1), weights, n_outputs)
        mean = counts / counts.sum()
    else:
        rows = np.asarray(targets, dtype=np.float64).reshape(-1, n_outputs)
        mean = np.average(rows, axis=0, weights=weights)
    if name == "cross_entropy":
        total = float(mean.sum())
        return float(_entropy(mean / total).sum()) * total if total > 0 else 0.0
    if name == "binary_cross_entropy":
        return float((_entropy(mean) + _entropy(1 - mean)).mean())
    if name == "mean_absolute_error":
        losses = np.abs(rows - _medians(rows, weights))
    elif name == "huber":
        losses = huber(1.0, rows - _huber_centers(rows, weights))
    elif name == "poisson":
        losses = kl_div(rows, mean)
    else:
        losses = np.square(rows - mean)
    return float(np.average(losses, axis=0, weights=weights).mean())


def _entropy(p: NDArray[Any]) -> NDArray[Any]:
    return -p * np.log(np.where(p > 0, p, 1))


def _medians(rows: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[Any]:
    """A weighted median of each column, which minimises its mean absolute error."""
    order = np.argsort(rows, axis=0)
    up_to = np.cumsum(np.ones(rows.shape) if weights is None else np.asarray(weights, np.float64)[order], axis=0)
    first = (up_to >= up_to[-1] / 2).argmax(axis=0)
    return np.take_along_axis(np.take_along_axis(rows, order, axis=0), first[None], axis=0)


def _huber_centers(rows: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[Any]:
    """The value that minimises each column's Huber loss: the increasing mean slope is 0 there."""
    from scipy.optimize import brentq  # takes longer to import than all of svdfast

    def center(column: NDArray[Any]) -> float:
        def slope(c: float) -> float:
            return float(np.average(np.clip(c - column, -1, 1), weights=weights))

        return float(brentq(slope, column.min(), column.max()))

    return np.apply_along_axis(center, 0, rows)
