# SPDX-License-Identifier: BSD-3-Clause
"""Which settings of a `svdfast.Factoring` hold for a torch model, and the ranks it gives to layers.

Not here: ranks="auto" (auto.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from svdfast.model.counting import break_even_rank
from svdfast.model.ranks import NARROW
from svdfast.model.svd import resolve_rank
from svdfast.torch.cut import check_weight, ranks_by_rule
from svdfast.torch.places import sides
from svdfast.training.factoring import Factoring

__all__ = ["check_number", "ranks_by", "supported"]


def supported(factoring: Factoring) -> Factoring:
    """Refuses settings that have no meaning here."""
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


def check_number(factoring: Factoring, n_layers: int) -> None:
    """Refuses a sequence of ranks that is not one for each layer."""
    ranks = factoring.ranks
    if isinstance(ranks, tuple) and len(ranks) != n_layers:
        got = f"{len(ranks)} for {n_layers}"
        raise ValueError(f"ranks: expected one for each layer that can be factored, got {got}")


def ranks_by(
    factoring: Factoring, layers: Mapping[nn.Module, str], rows: Mapping[nn.Module, int] | None
) -> tuple[dict[str, int], dict[str, str]]:
    """Ranks by name, and why layers have them or are left.

    Parameters
    ----------
    rows : mapping of Module to int, optional
        How often a layer's weight is multiplied with a vector, for rules that weigh layers by that.
    """
    given, force = factoring.ranks, factoring.force
    shapes = {name: sides(part) for part, name in layers.items()}
    wanted: dict[str, int | None]
    for part, name in layers.items():
        check_weight(part, name)
    if isinstance(given, float):
        wanted = {name: resolve_rank(given, *both) for name, both in shapes.items()}
    elif isinstance(given, str):
        wanted = dict(zip(shapes, ranks_by_rule(given, list(layers), rows), strict=True))
    else:
        assert isinstance(given, tuple)
        wanted = dict(zip(shapes, given, strict=True))
    ranks, notes = {}, {}
    for name, rank in wanted.items():
        n_in, n_out = shapes[name]
        limit = break_even_rank(n_in, n_out)
        if rank is None:
            notes[name] = "no rank was given"
        elif rank > min(n_in, n_out):
            raise ValueError(f"ranks: expected at most {min(n_in, n_out)} for {name!r}, got {rank}")
        elif rank > limit and not force:
            notes[name] = f"rank {rank} is above its break-even rank {limit}, counted"
        elif isinstance(given, float) and rank < n_in <= NARROW and not force:
            notes[name] = (
                f"a rank of {rank} would be a bottleneck for its {n_in} inputs (force=True cuts it)"
            )
        else:
            ranks[name] = rank
            notes[name] = "as asked for" if force else f"below its break-even rank {limit}, counted"
    return ranks, notes
