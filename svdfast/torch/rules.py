# SPDX-License-Identifier: BSD-3-Clause
"""The settings of a `svdfast.Factoring` that a torch model supports, and its ranks for layers.

Elsewhere: ranks="auto" (auto.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from svdfast.model.counting import break_even_rank
from svdfast.model.ranks import NARROW
from svdfast.model.svd import resolve_rank
from svdfast.torch.places import sides
from svdfast.torch.truncate import check_weight, ranks_by_rule
from svdfast.training.factoring import Factoring

__all__ = ["paired", "ranks_by", "supported"]


def supported(factoring: Factoring) -> Factoring:
    """Refuses settings that are not supported here."""
    for name in ("product_decay", "structure", "split"):
        default = getattr(Factoring, name)
        if getattr(factoring, name) != default:
            raise ValueError(
                f"factoring: expected {name}={default!r}, nothing else is supported for torch"
            )
    if not isinstance(factoring.ranks, str | float | tuple):
        raise TypeError("factoring: expected ranks as a number, a rule's name or a sequence")
    if isinstance(factoring.learning_rate, tuple):
        raise ValueError(
            "factoring: expected learning_rate='auto' or a number, got one for each layer"
        )
    guard = factoring.guard
    if guard is not None and guard.action == "raise" and not factoring.automatic:
        raise ValueError('factoring: expected a guard with action "delay" or "undo", got "raise"')
    return factoring


def paired(factoring: Factoring, layers: Mapping[nn.Module, str]) -> dict[str, int | None]:
    """A sequence of ranks, by the layers' names; empty for ranks by a number or a rule.

    Raises
    ------
    ValueError
        There is not one rank for each layer, or one exceeds the smaller side of the layer's weight.
    """
    ranks = factoring.ranks
    if not isinstance(ranks, tuple):
        return {}
    if len(ranks) != len(layers):
        got = f"{len(ranks)} for {len(layers)}"
        raise ValueError(f"ranks: expected one for each layer that can be factored, got {got}")
    for (part, name), rank in zip(layers.items(), ranks, strict=True):
        if rank is not None and rank > min(sides(part)):
            raise ValueError(f"ranks: expected at most {min(sides(part))} for {name!r}, got {rank}")
    return dict(zip(layers.values(), ranks, strict=True))


def ranks_by(
    factoring: Factoring,
    layers: Mapping[nn.Module, str],
    given: Mapping[str, int | None],
    rows: Mapping[nn.Module, int] | None,
) -> tuple[dict[str, int], dict[str, str]]:
    """Ranks by name, and why layers have them or are left.

    Parameters
    ----------
    given : mapping of str to int or None
        The result of `paired`.
    rows : mapping of Module to int, optional
        How often a layer's weight is multiplied with a vector, for rules that weight layers by it.
    """
    rule, force = factoring.ranks, factoring.force
    shapes = {name: sides(part) for part, name in layers.items()}
    wanted: dict[str, int | None]
    for part, name in layers.items():
        check_weight(part, name)
    if isinstance(rule, float):
        wanted = {name: resolve_rank(rule, *both) for name, both in shapes.items()}
    elif isinstance(rule, str):
        wanted = dict(zip(shapes, ranks_by_rule(rule, list(layers), rows), strict=True))
    else:
        wanted = {name: given.get(name) for name in shapes}
    ranks, notes = {}, {}
    for name, rank in wanted.items():
        n_in, n_out = shapes[name]
        limit = break_even_rank(n_in, n_out)
        if rank is None:
            notes[name] = "no rank was given"
        elif rank > limit and (not force or rank > min(n_in, n_out)):
            notes[name] = f"rank {rank} is above its break-even rank {limit}, counted"
        elif isinstance(rule, float) and rank < n_in <= NARROW and not force:
            notes[name] = (
                f"a rank of {rank} would be a bottleneck for its {n_in} inputs (force=True truncates it)"
            )
        else:
            ranks[name] = rank
            notes[name] = "as asked for" if force else f"below its break-even rank {limit}, counted"
    return ranks, notes
