# SPDX-License-Identifier: BSD-3-Clause
"""Brings a model into the form of its saved state: the same layers are dense and factored.

Elsewhere: the numbers, which are loaded; the state itself (schedule.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from svdfast._process.checks import count
from svdfast.torch.kinds import kind_of
from svdfast.torch.layers import Factored
from svdfast.torch.optimizers import Change, known_kind
from svdfast.torch.places import own_reason, replace, sides

__all__ = ["blank", "follow", "form", "reform"]


def form(
    module: nn.Module, ranks: Mapping[str, int], own: Collection[nn.Module] | None = None
) -> tuple[list[Change], list[Change], dict[str, Factored]]:
    """The changes that bring a model into a form: first layers to recompose, then layers to factor.

    Factored layers that `ranks` does not name are recomposed only if they are in `own`; by default
    all of them are. The result also has the layers that are factored in the end. Factors are NaN:
    their numbers are loaded.

    Raises
    ------
    ValueError
        The form is not of this model; a layer has hooks, which would be lost.
    """
    there = dict(module.named_modules())
    back, forth, made = [], [], {}
    for name, part in there.items():
        named = own is None or name in ranks or part in own
        if isinstance(part, Factored) and named and part.rank != ranks.get(name):
            _check(name, part)
            back.append(Change(part.dense(), part, False))
            there[name] = back[-1].dense
    for name, rank in ranks.items():
        part = there.get(name)
        if part is None or kind_of(part) is None:
            raise ValueError(f"state: expected layers of this model, got {name!r}")
        if not isinstance(part, Factored):
            count(f"ranks[{name!r}]", rank, maximum=min(sides(part)))
            _check(name, part)
            forth.append(Change(part, blank(part, rank), True))
            part = forth[-1].factored
        made[name] = part
    return back, forth, made


def _check(name: str, part: nn.Module) -> None:
    reason = own_reason(part)
    if reason is not None:
        raise ValueError(f"state: {name!r} can't take the form that was saved: {reason}")


def blank(part: nn.Module, rank: int) -> Factored:
    """The factored layer, with factors of NaN."""
    kind = known_kind(part)
    n_in, n_out = sides(part)
    like = kind.weights(part)[0].detach()
    W1, W2 = (like.new_full(shape, torch.nan) for shape in ((n_out, rank), (rank, n_in)))
    return kind.factored(part, W1, W2)


def reform(module: nn.Module, ranks: Mapping[str, int]) -> None:
    """Brings a model that no optimizer holds yet into the form of these ranks."""
    back, forth, _ = form(module, ranks)
    replace(module, {change.factored: change.dense for change in back})
    replace(module, {change.dense: change.factored for change in forth})


def follow(module: nn.Module) -> None:
    """Lets a model take the form of each state dict that it loads, before numbers are loaded.

    Trainers need this, as they load weights before they call callbacks. The optimizer must be made
    after that. Layers that a state dict does not mention are left.
    """
    before_2_5 = partial(module._register_load_state_dict_pre_hook, with_module=True)
    getattr(module, "register_load_state_dict_pre_hook", before_2_5)(_follow)


def _follow(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
    there = dict(module.named_modules())
    ranks = {name: part.rank for name, part in there.items() if isinstance(part, Factored)}
    for name, part in there.items():
        kind = kind_of(part)
        if kind is None or not name:
            continue
        W2 = state.get(f"{prefix}{name}.W2")
        if W2 is not None:
            ranks[name] = len(W2)
        elif any(key.startswith(f"{prefix}{name}.") for key in state):
            ranks.pop(name, None)
    reform(module, ranks)
