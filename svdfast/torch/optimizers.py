# SPDX-License-Identifier: BSD-3-Clause
"""Adapts a torch optimizer when weights are factored or recomposed.

Parameters are replaced in their places in ``param_groups``. The groups stay the same dicts, so
learning rate schedulers keep working. Moments are carried as in svdfast/training/moments.py. With
W = W1·W2, a gradient G of W is G·W2ᵀ for W1 and W1ᵀ·G for W2. The same holds for a mean of
gradients. A mean of squares is carried with the squares of the factors. The way back is that of
`svdfast.model.structures.LowRank.lift`.

Elsewhere: when layers change (schedule.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from svdfast._process.warning import warn
from svdfast.torch.events import THROUGH
from svdfast.torch.kinds import Kind, kind_of
from svdfast.torch.layers import Factored
from svdfast.torch.products import computed_in, without_autocast

__all__ = ["Change", "check_held", "checked", "known_kind", "move_state", "swap"]

Moment = Literal["mean", "square"]

# The optimizers whose state is known, and the quantity that each entry is a mean of.
KNOWN = tuple(getattr(torch.optim, name) for name in ("SGD", "Adam", "AdamW", "NAdam", "RAdam"))
MOMENTS: dict[str, Moment] = {
    "momentum_buffer": "mean",
    "exp_avg": "mean",
    "exp_avg_sq": "square",
    "max_exp_avg_sq": "square",
}
COUNTERS = ("step", "mu_product")


@dataclass(frozen=True)
class Change:
    """A dense layer and its factored form, one of which replaces the other.

    Attributes
    ----------
    dense : torch.nn.Module
    factored : Factored
    forward : bool
        True if the factored layer replaces the dense one.
    """

    dense: nn.Module
    factored: Factored
    forward: bool

    @property
    def places(self) -> dict[nn.Parameter, tuple[nn.Parameter, ...]]:
        """The new parameters in each old one's place: W1 in the place of W, W2 right behind it."""
        left, right = self.factored.factors
        pairs = list(zip(self._kind.weights(self.dense), left, strict=True))
        if self.forward:
            return {W: (W1, right) if i == 0 else (W1,) for i, (W, W1) in enumerate(pairs)}
        return {W1: (W,) for W, W1 in pairs} | {right: ()}

    def names(self, parameter: nn.Parameter, name: str) -> list[str]:
        """The names of the parameters that `places` puts in this parameter's place."""
        own = {p: n for n, p in (self.factored if self.forward else self.dense).named_parameters()}
        prefix = name.rpartition(".")[0]
        new = self.places.get(parameter)
        return [name] if new is None else [f"{prefix}.{own[p]}".lstrip(".") for p in new]

    @property
    def old(self) -> tuple[nn.Parameter, ...]:
        return self._weights if self.forward else self._factors

    @property
    def new(self) -> tuple[nn.Parameter, ...]:
        return self._factors if self.forward else self._weights

    @property
    def _kind(self) -> Kind:
        return known_kind(self.dense)

    @property
    def _weights(self) -> tuple[nn.Parameter, ...]:
        return tuple(self._kind.weights(self.dense))

    @property
    def _factors(self) -> tuple[nn.Parameter, ...]:
        left, right = self.factored.factors
        return (*left, right)

    @torch.no_grad()
    def carry(self, moment: Moment, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Turns a moment of the old parameters into one of the new ones."""
        W1, W2 = (wide(factor) for factor in self.factored.matrices(self._factors))
        wider = [wide(tensor) for tensor in tensors]
        with without_autocast(W1.device):
            if self.forward:
                M = self._kind.matrix(self.dense, wider)
                if moment == "square":
                    W1, W2 = W1.square(), W2.square()
                result = self.factored.shaped(M @ W2.T, W1.T @ M)
            else:
                lift = lift_mean if moment == "mean" else lift_square
                M = lift(*self.factored.matrices(wider), W1, W2)
                result = self._kind.tensors(self.dense, M)
        # Fused steps require the memory layout of the parameter.
        dtype = tensors[0].dtype
        pairs = zip(self.new, result, strict=True)
        return [torch.empty_like(p, dtype=dtype, requires_grad=False).copy_(m) for p, m in pairs]


def known_kind(layer: nn.Module) -> Kind:
    """The Kind of a layer that can be factored."""
    kind = kind_of(layer)
    assert kind is not None
    return kind


def wide(tensor: Tensor) -> Tensor:
    """The tensor in at least float32."""
    return tensor.detach().to(computed_in(tensor.dtype))


def lift_mean(M1: Tensor, M2: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
    """The matrix of least norm whose moments for the factors are M1 and M2."""
    PM = W1 @ _solve(W1.T @ W1, M2)
    return PM + _solve(W2 @ W2.T, (M1 - PM @ W2.T).T).T @ W2


def lift_square(V1: Tensor, V2: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
    """The product of the row means and column means, all that V1 and V2 determine."""
    tiny = torch.finfo(V1.dtype).tiny
    rows = V1.sum(1) / W2.square().sum().clamp(min=tiny)
    columns = V2.sum(0) / W1.square().sum().clamp(min=tiny)
    whole = (rows.mean() * columns.mean()).sqrt()
    return torch.outer(rows, columns / whole.clamp(min=tiny))


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    """Solves a system with a Gram matrix, which may be nearly singular."""
    G = gram.double()
    jitter = 1e-6 * (G.trace() / len(G)).clamp(min=torch.finfo(torch.float32).tiny)
    G = G + jitter * torch.eye(len(G), dtype=G.dtype, device=G.device)
    return torch.linalg.solve(G, right.double()).to(gram.dtype)


def move_state(
    optimizer: torch.optim.Optimizer, changes: Iterable[Change], *, carry: bool
) -> dict[nn.Parameter, dict[str, Any]]:
    """The optimizer's state for the new parameters. Nothing is changed.

    Parameters
    ----------
    carry : bool
        Carry moments over; otherwise they restart from zero, silently.
    """
    moved: dict[nn.Parameter, dict[str, Any]] = {}
    unknown = False
    for change in changes:
        states = [optimizer.state.get(p, {}) for p in change.old]
        if not carry or not any(states):
            continue
        keys = set().union(*states)
        if not isinstance(optimizer, KNOWN) or not keys <= {*MOMENTS, *COUNTERS}:
            unknown = True
            continue
        made: list[dict[str, Any]] = [{} for _ in change.new]
        for key in (key for key in (*COUNTERS, *MOMENTS) if key in keys):
            values = [state.get(key) for state in states]
            if any(value is None for value in values):
                continue  # the optimizer has not begun with one of them
            if key in MOMENTS:
                new: Sequence[Any] = change.carry(MOMENTS[key], values)
            else:
                new = [_copied(values[0]) for _ in made]
            for state, value in zip(made, new, strict=True):
                state[key] = value
        for state in made:
            if "exp_avg" in state and "exp_avg_sq" in state:
                # The carried squares may be far too small for the mean.
                largest = state["exp_avg_sq"].sqrt()
                state["exp_avg"].clamp_(-largest, largest)
        moved.update({p: s for p, s in zip(change.new, made, strict=True) if s})
    if unknown:
        warn(
            f"the state of {type(optimizer).__name__} can't be carried over a switch: "
            "for the layers that change it starts again",
            THROUGH,
        )
    return moved


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def swap(
    optimizer: torch.optim.Optimizer,
    changes: Iterable[Change],
    state: dict[nn.Parameter, dict[str, Any]],
) -> None:
    """Replaces the old parameters in the groups by the new ones, with this state."""
    for change in changes:
        places = change.places
        for group in optimizer.param_groups:
            if "param_names" in group:  # it was made of named_parameters()
                named = zip(group["params"], group["param_names"], strict=True)
                group["param_names"][:] = [new for p, n in named for new in change.names(p, n)]
            group["params"][:] = [new for p in group["params"] for new in places.get(p, (p,))]
        for parameter in change.old:
            optimizer.state.pop(parameter, None)
    for parameter, own in state.items():
        optimizer.state[parameter] = own


def checked(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer itself, unwrapped if Accelerate or Lightning have wrapped it.

    Raises
    ------
    TypeError
        It is not an optimizer, or does not keep a state for each parameter.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    got = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer: expected a torch.optim.Optimizer, got {got}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError(
            f"optimizer: expected one that keeps a state for each parameter, got {got}, "
            "whose history is of all parameters in one vector"
        )
    return optimizer


def check_held(optimizer: torch.optim.Optimizer, named: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Refuses trainable parameters that the optimizer does not hold, as it would not train them."""
    held: Collection[nn.Parameter] = {
        p for group in optimizer.param_groups for p in group["params"]
    }
    missing = [name for name, p in named if p.requires_grad and p not in held]
    if missing:
        raise ValueError(
            f"optimizer: expected it to hold all weights that are to be factored, "
            f"it lacks {', '.join(missing)}; name their layers in skip to leave them"
        )
