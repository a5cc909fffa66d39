# SPDX-License-Identifier: BSD-3-Clause
"""Separate learning rates for factors, without separate groups, which would break schedulers.

Adam's steps have the size of the learning rate for any gradient, but factors are larger than the
weight they stand for. So the same rate changes them too little (docs, `svdfast.Factoring`,
`learning_rate`). Hooks before and after the optimizer's step lengthen its changes of factors.

Elsewhere: when that is (schedule.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from svdfast.torch.layers import Factored
from svdfast.torch.products import computed_in, without_autocast
from svdfast.training.switch import LARGEST_SCALE

__all__ = ["ADAMS", "Rates", "relative_scale"]

ADAMS = tuple(getattr(torch.optim, name) for name in ("Adam", "AdamW", "NAdam", "RAdam"))


@torch.no_grad()
def relative_scale(made: Factored) -> float:
    """How much larger the factors' elements are than those of their product, within bounds."""
    W1, W2 = (factor.to(computed_in(factor.dtype)) for factor in made.matrices())
    with without_autocast(W1.device):
        # ‖W1·W2‖² is the sum of (W1ᵀ·W1)∘(W2·W2ᵀ).
        product = float(((W1.T @ W1) * (W2 @ W2.T)).sum()) / (len(W1) * W2.shape[1])
        both = float((W1.square().mean() * W2.square().mean()).sqrt())
    scale = (both / product) ** 0.5 if product > 0 else 1.0
    return min(max(scale, 1 / LARGEST_SCALE), LARGEST_SCALE)


class Rates:
    """The factors that the learning rates of factored layers are multiplied with.

    Attributes
    ----------
    scales : dict of str to float
        Scales by the layers' names.
    fade : float
        The remaining share of the scales' difference from 1.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        self.scales: dict[str, float] = {}
        self.fade = 1.0
        self._layers: dict[str, Factored] = {}
        self._before: list[tuple[Tensor, Tensor, float]] = []
        self._hooks: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_hooks": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copies of an optimizer have no hooks.
        vars(self).update(state)
        self.follow(self._layers)

    def follow(self, layers: Mapping[str, Factored]) -> None:
        """Sets the layers that are factored."""
        self._layers = dict(layers)
        self.scales = {name: self.scales[name] for name in layers if name in self.scales}
        needed = any(scale != 1 for scale in self.scales.values())
        if needed and not self._hooks:
            self._hooks = [
                self.optimizer.register_step_pre_hook(self._keep),
                self.optimizer.register_step_post_hook(self._lengthen),
            ]
        elif not needed:
            for hook in self._hooks:
                hook.remove()
            self._hooks = []

    def _keep(self, *_: Any) -> None:
        """Keeps the factors before a step."""
        self._before = []
        for name, scale in self.scales.items():
            scale = 1 + (scale - 1) * self.fade
            left, right = self._layers[name].factors
            if scale != 1:
                self._before += [(p, p.detach().clone(), scale) for p in (*left, right)]

    @torch.no_grad()
    def _lengthen(self, *_: Any) -> None:
        """Lengthens the step that the factors have made."""
        for parameter, before, scale in self._before:
            parameter.lerp_(before, 1 - scale)
        self._before = []
