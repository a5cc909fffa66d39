# SPDX-License-Identifier: BSD-3-Clause
"""Loss functions by name, and the output activation that each needs.

A new loss is an entry here and a line and a function in src/loops/losses.h. Not here: checks of targets (data/checks.py).

With samples i, outputs j and sample weights wᵢ (1 by default), a loss is Σᵢ wᵢ·lossᵢ / Σᵢ wᵢ, where lossᵢ is

- cross_entropy: −Σⱼ yⱼ log ŷⱼ, ŷ = softmax(z), computed from z; y a class number or a distribution (one-hot);
- binary_cross_entropy: mean over j of −(yⱼ log ŷⱼ + (1 − yⱼ) log(1 − ŷⱼ)), ŷ = sigmoid(z), computed from z;
- mean_squared_error: mean over j of (ŷⱼ − yⱼ)², for any output activation.

The report, section 3.1.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from svdfast import _elementwise
from svdfast.model.activations import Activation

__all__ = ["Loss"]


@dataclass(frozen=True)
class Loss:
    """A loss and the output activation that it includes (None: any)."""

    name: str
    output: str | None

    @property
    def code(self) -> int:
        """The number that the compiled loops know it by."""
        return _elementwise.LOSSES[self.name]


_LOSSES = {
    loss.name: loss
    for loss in (
        Loss("binary_cross_entropy", "sigmoid"),
        Loss("cross_entropy", "softmax"),
        Loss("mean_squared_error", None),
    )
}


def resolve(name: str, output: Activation) -> Loss:
    """The loss of a name, for a network with this output activation.

    Raises
    ------
    ValueError
        The name is not known, or the loss needs another output activation.
    TypeError
        Not a name.
    """
    if not isinstance(name, str):
        raise TypeError(f"loss: expected a name, got {type(name).__name__}")
    if name not in _LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(_LOSSES)}, got {name!r}")
    loss = _LOSSES[name]
    if loss.output is not None and loss.output != output.name:
        raise ValueError(
            f"loss: {name} is computed from the pre-activation of a {loss.output} output; "
            f"this network's output is {output.name}"
        )
    return loss


def default_for(output: Activation) -> str:
    """The loss that goes with an output: a cross-entropy for softmax and sigmoid, else mean squared error.

    That is the first of the list that fits.
    """
    return next(loss.name for loss in _LOSSES.values() if loss.output in (output.name, None))
