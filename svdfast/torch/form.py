# SPDX-License-Identifier: BSD-3-Clause
"""A model brought into the form, dense and factored layers, that its saved state has.

Not here: the numbers, which are loaded; the state itself (schedule.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from svdfast._process.checks import count
from svdfast.torch.kinds import kind_of
from svdfast.torch.layers import Factored
from svdfast.torch.optimizers import Change, known_kind
from svdfast.torch.places import replace, sides

__all__ = ["blank", "form", "reform"]


def form(
    module: nn.Module, ranks: Mapping[str, int]
) -> tuple[list[Change], list[Change], dict[str, Factored]]:
    """What brings a model into a form: first layers to multiply together, then layers to factor.

    Returns also the layers that are factored in the end. Factors are NaN: their numbers are loaded.
    """
    there = dict(module.named_modules())
    back, forth, made = [], [], {}
    for name, part in there.items():
        if isinstance(part, Factored) and part.rank != ranks.get(name):
            back.append(Change(part.dense(), part, False))
            there[name] = back[-1].dense
    for name, rank in ranks.items():
        part = there.get(name)
        if part is None or kind_of(part) is None:
            raise ValueError(f"state: expected layers of this model, got {name!r}")
        if not isinstance(part, Factored):
            count(f"ranks[{name!r}]", rank, maximum=min(sides(part)))
            forth.append(Change(part, blank(part, rank), True))
            part = forth[-1].factored
        made[name] = part
    return back, forth, made


def blank(part: nn.Module, rank: int) -> Factored:
    """The factored layer, its factors NaN."""
    kind = known_kind(part)
    n_in, n_out = sides(part)
    like = kind.weights(part)[0].detach()
    W1, W2 = (like.new_full(shape, torch.nan) for shape in ((n_out, rank), (rank, n_in)))
    return kind.factored(part, W1, W2)


def reform(module: nn.Module, ranks: Mapping[str, int]) -> None:
    """Brings a model that no optimizer holds yet into the form."""
    back, forth, _ = form(module, ranks)
    replace(module, {change.factored: change.dense for change in back})
    replace(module, {change.dense: change.factored for change in forth})
