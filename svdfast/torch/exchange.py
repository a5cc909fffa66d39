# SPDX-License-Identifier: BSD-3-Clause
"""Exchanges layers in a model and in its optimizer: all of them, or none.

Elsewhere: which ones (switch.py), and how moments are carried (optimizers.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from svdfast.torch.optimizers import Change, move_state, swap

__all__ = ["exchange"]


@contextlib.contextmanager
def exchange(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    changes: Collection[Change],
    *,
    carry: bool,
    moments: bool,
) -> Iterator[None]:
    """Puts new layers in place; an error or interruption in the context undoes that.

    Parameters
    ----------
    carry : bool
        Carry gradients over to the new parameters.
    moments : bool
        Carry the optimizer's moments over.
    """
    state = move_state(optimizer, changes, carry=moments)
    gradients: dict[nn.Parameter, Tensor] = {}
    for change in changes:
        old = [p.grad for p in change.old if p.grad is not None]
        if carry and len(old) == len(change.old):
            gradients.update(zip(change.new, change.carry("mean", old), strict=True))
    places = _places(module, changes)
    undo = _Undo(optimizer, changes, places)
    # Only assignments follow.
    try:
        for holder, name, _, new in places:
            holder._modules[name] = new
        swap(optimizer, changes, state)
        for change in changes:
            for parameter in change.old:
                parameter.grad = None
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        yield
    except BaseException:
        undo()
        raise


_Place = tuple[nn.Module, str, nn.Module, nn.Module]


def _places(module: nn.Module, changes: Collection[Change]) -> list[_Place]:
    """The place of each old layer in the model, and the layer that replaces it."""
    new = {c.dense: c.factored for c in changes if c.forward} | {
        c.factored: c.dense for c in changes if not c.forward
    }
    return [
        (holder, name, part, new[part])
        for holder in list(module.modules())
        for name, part in holder._modules.items()
        if part is not None and part in new
    ]


class _Undo:
    """Puts everything back as it was when this was made."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        changes: Collection[Change],
        places: Collection[_Place],
    ):
        self._places, self._optimizer = places, optimizer
        self._groups = [
            (group[key], list(group[key]))
            for group in optimizer.param_groups
            for key in ("params", "param_names")
            if key in group
        ]
        self._state = dict(optimizer.state)
        self._gradients = [(p, p.grad) for change in changes for p in (*change.old, *change.new)]

    def __call__(self) -> None:
        for holder, name, part, _ in self._places:
            holder._modules[name] = part
        for held, before in self._groups:
            held[:] = before
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
