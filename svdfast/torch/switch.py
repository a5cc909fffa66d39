# SPDX-License-Identifier: BSD-3-Clause
"""Truncates and recomposes the layers of a model in training, and adapts its optimizer.

Elsewhere: when (schedule.py), which layers (rules.py, looks.py), the truncation itself (truncate.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from svdfast._process.warning import warn
from svdfast.torch.distributed import Team
from svdfast.torch.events import THROUGH
from svdfast.torch.exchange import exchange
from svdfast.torch.form import blank, form
from svdfast.torch.kinds import kind_of
from svdfast.torch.layers import Factored
from svdfast.torch.observe import observe
from svdfast.torch.optimizers import Change, known_kind
from svdfast.torch.places import is_trained, own_reason, reasons_to_leave, why_rather_not
from svdfast.torch.rates import ADAMS, Rates, relative_scale
from svdfast.torch.truncate import truncate
from svdfast.training.factoring import Factoring

__all__ = ["Switch", "Truncated", "grams_of", "weights"]

Truncated = tuple[Factored, float]


class Switch:
    """A model, its optimizer, and the layers that are factored.

    Attributes
    ----------
    own : dict of str to Factored
        Layers that this switch has factored, by name.
    notes, left : dict of str to str
        Reasons by the layers' names: the decisions about layers, and why others could not be
        factored at the last look.
    skip : collection of Module
        Layers that are left.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        team: Team,
        factoring: Factoring,
        skip: Collection[nn.Module],
    ):
        self.module, self.optimizer, self.team = module, optimizer, team
        self.factoring, self.skip = factoring, skip
        self.own: dict[str, Factored] = {}
        self.rates = Rates(optimizer)
        self.notes: dict[str, str] = {}
        self.left: dict[str, str] = {}

    @property
    def reasons(self) -> dict[str, str]:
        """The reason for each layer's form, by name."""
        return self.left | self.notes

    def usable(self, *, held: bool = True) -> dict[nn.Module, str]:
        """The layers that can be factored now; notes why others can't."""
        trained = {p for group in self.optimizer.param_groups for p in group["params"]}
        layers = {
            part: name
            for name, part in self.module.named_modules()
            if name and part not in self.skip and not isinstance(part, Factored) and kind_of(part)
        }
        reasons = reasons_to_leave(self.module, layers)
        for part in layers:
            if part not in reasons and not self.factoring.force:
                reason = why_rather_not(part)
                if reason is not None:
                    reasons[part] = reason
            if not is_trained(part):
                reasons.setdefault(part, "its weight is frozen")
            elif held and any(w.requires_grad and w not in trained for w in known_kind(part).weights(part)):
                reasons.setdefault(part, "the optimizer does not hold its weight")
        self.left = {layers[part]: reason for part, reason in reasons.items()}
        return {part: name for part, name in layers.items() if part not in reasons}

    def forget_others(self) -> None:
        """Drops layers that someone else has replaced."""
        if self.own:
            there = dict(self.module.named_modules())
            self.own = {name: made for name, made in self.own.items() if there.get(name) is made}
            self.rates.follow(self.own)

    def truncate(self, ranks: Mapping[str, int], make: Callable[[], dict[str, Truncated]]) -> dict[str, Any]:
        """Truncates layers. Returns the info of the event.

        Parameters
        ----------
        make : callable
            Returns the truncated layers by name. Only rank 0 calls it.
        """
        there = dict(self.module.named_modules())
        made: dict[str, Truncated] = {}

        def dropped() -> dict[str, float]:
            made.update(make())
            return {name: one[1] for name, one in made.items()}

        norms = self.team.decide(dropped)
        if not self.team.leads:
            made = {name: (blank(there[name], rank), 0.0) for name, rank in ranks.items()}
        changes = [Change(there[name], made[name][0], True) for name in ranks]
        scales = self.team.agree({name: self._scale(made[name][0]) for name in ranks})
        own = self.own | {name: made[name][0] for name in ranks}
        self._exchange(changes, own, self.rates.scales | scales)
        return {"ranks": dict(ranks), "dropped": norms, "learning_rate_scales": scales}

    def bound(self) -> dict[str, str]:
        """Reasons by name why factored layers can't be recomposed, as hooks would be lost."""
        reasons = {name: own_reason(made) for name, made in self.own.items()}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def recompose(self, names: Collection[str]) -> list[str]:
        """Recomposes layers, except those that are `bound`. Returns the recomposed names."""
        bound = self.team.decide(self.bound)
        for name in bound.keys() & set(names):
            self.notes[name] = f"it stays factored: {bound[name]}"
            warn(f"{name!r} stays factored: {bound[name]}", THROUGH)
        names = [name for name in names if name not in bound]
        with torch.no_grad():
            changes = [Change(self.own[name].dense(), self.own[name], False) for name in names]
        own = {name: made for name, made in self.own.items() if name not in names}
        self._exchange(changes, own, self.rates.scales)
        return names

    def take_form(self, ranks: Mapping[str, int], scales: Mapping[str, float]) -> None:
        """Brings the model into the form of a saved one."""
        back, forth, made = form(self.module, ranks, list(self.own.values()))
        self._exchange(back, {}, {}, carry=False)
        self._exchange(forth, made, scales, carry=False)

    def _exchange(
        self,
        changes: Collection[Change],
        own: dict[str, Factored],
        scales: Mapping[str, float],
        *,
        carry: bool = True,
    ) -> None:
        """Exchanges layers, and sets `own` to the ones that are factored."""
        self.team.share(p for change in changes for p in change.new)
        before = self.own, self.rates.scales
        moments = carry and self.factoring.moments == "carry"
        try:
            with exchange(self.module, self.optimizer, changes, carry=carry, moments=moments):
                self.own, self.rates.scales = own, dict(scales)
                self.rates.follow(own)
        except BaseException:
            self.own, self.rates.scales = before
            self.rates.follow(self.own)
            raise
        for change in changes:
            (change.dense if change.forward else change.factored).register_forward_pre_hook(_replaced)
        if changes:
            self.team.rebuild()

    def _scale(self, made: Factored) -> float:
        """The factor for the learning rate of a factored layer."""
        given = self.factoring.learning_rate
        if isinstance(given, float):
            return given
        return relative_scale(made) if isinstance(self.optimizer, ADAMS) else 1.0

    def truncated(
        self, ranks: Mapping[str, int], batches: Iterable[Any] | None
    ) -> Callable[[], dict[str, Truncated]]:
        """Truncates each layer by a decomposition, with its inputs over these batches."""
        there = dict(self.module.named_modules())

        def make() -> dict[str, Truncated]:
            layers = {there[name]: name for name in ranks}
            grams = {} if batches is None else grams_of(self.module, batches, layers)
            method = self.factoring.svd
            with torch.no_grad():
                return {
                    name: truncate(there[name], name, rank, method, grams.get(there[name]))
                    for name, rank in ranks.items()
                }

        return make


def grams_of(
    module: nn.Module, batches: Iterable[Any], layers: Mapping[nn.Module, str]
) -> dict[nn.Module, Tensor]:
    """Gram matrices of these layers' inputs."""
    seen = observe(module, batches, layers)
    return {part: look.gram for part, look in seen.items() if look.gram is not None}


def weights(layers: Mapping[nn.Module, str]) -> Iterable[tuple[str, nn.Parameter]]:
    """The weights of layers, and their names."""
    for part, name in layers.items():
        kind = known_kind(part)
        for own, weight in zip(kind.names(part), kind.weights(part), strict=True):
            yield f"{name}.{own}", weight


def _replaced(part: nn.Module, _: Any) -> None:
    """Refuses a forward pass through a replaced layer, whose parameters no optimizer holds."""
    raise RuntimeError(
        f"a {type(part).__name__} was called that a Schedule has replaced: "
        "the model holds it outside of its modules, as in a list"
    )
