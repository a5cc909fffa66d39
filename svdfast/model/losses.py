# SPDX-License-Identifier: BSD-3-Clause
"""Loss functions by name, and what each asks of the network's output.

Only names and rules stand here; targets are checked in data.py and the sums are compiled (src/elementwise_loops.h).

With samples i, outputs j and sample weights wᵢ (1 by default), a loss is Σᵢ wᵢ·lossᵢ / Σᵢ wᵢ, where lossᵢ is

- cross_entropy: −Σⱼ yⱼ log ŷⱼ, ŷ = softmax(z), computed from z; y a class number or a distribution (one-hot);
- binary_cross_entropy: mean over j of −(yⱼ log ŷⱼ + (1 − yⱼ) log(1 − ŷⱼ)), ŷ = sigmoid(z), computed from z;
- mean_squared_error: mean over j of (ŷⱼ − yⱼ)², for any output activation.

The report, section 3.1.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from svdfast.model.activations import Activation

__all__ = ["Loss"]


@dataclass(frozen=True)
class Loss:
    """A loss, its compiled code, and the output activation that it includes (None: any)."""

    name: str
    code: int
    output: str | None


_LOSSES = {
    "binary_cross_entropy": Loss("binary_cross_entropy", 0, "sigmoid"),
    "cross_entropy": Loss("cross_entropy", 1, "softmax"),
    "mean_squared_error": Loss("mean_squared_error", 2, None),
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
    """The loss that goes with an output: a cross-entropy for softmax and sigmoid, else mean squared error."""
    return {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy"}.get(
        output.name, "mean_squared_error"
    )
