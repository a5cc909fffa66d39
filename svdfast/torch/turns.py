# SPDX-License-Identifier: BSD-3-Clause
"""How long a dense step would take now, where a training's own dense steps were timed long ago.

Since then the machine may have got other work, which slows the factored steps alone. Passes of both
forms of each layer alternate, so other work slows both alike.

Elsewhere: the passes (timing.py), a training's own steps (clock.py), the decision (auto.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from svdfast.torch.layers import Factored
from svdfast.torch.observe import Seen
from svdfast.torch.timing import both_forms

__all__ = ["dense_step_now"]


def dense_step_now(
    step: float, layers: Mapping[str, Factored], seen: Mapping[str, Seen], calls: int, seconds: float
) -> float | None:
    """Seconds of a dense step: those of a current step, with the layers' passes exchanged.

    Parameters
    ----------
    step : float
        Seconds of a current step.
    layers : mapping of str to Factored
        The factored layers by name.
    seen : mapping of str to Seen
        Their inputs in one call of the model.
    calls : int
        Calls of the model in a step.
    seconds : float
        Approximate time limit for all layers together.

    Returns
    -------
    float or None
        None if the inputs of a layer are not known.
    """
    if not layers or any(name not in seen or not seen[name].inputs for name in layers):
        return None
    for name, layer in layers.items():
        dense, factored = both_forms(layer, seen[name], seconds=seconds / len(layers))
        step += calls * (dense - factored)
    return step
