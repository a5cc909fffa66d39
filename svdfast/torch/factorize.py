# SPDX-License-Identifier: BSD-3-Clause
"""Truncates all layers of a model that can be factored, and recomposes them.

Elsewhere: layers (layers.py), the truncation of one (truncate.py), which can be replaced (places.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from svdfast._process.checks import count, one_of
from svdfast.model import ranks as rules
from svdfast.model.counting import break_even_rank
from svdfast.model.svd import resolve_rank
from svdfast.torch.kinds import kind_of
from svdfast.torch.layers import Factored
from svdfast.torch.observe import observe
from svdfast.torch.places import (
    Left,
    is_layer,
    left_in,
    own_reason,
    reasons_to_leave,
    replace,
    sides,
    under,
    why_rather_not,
)
from svdfast.torch.truncate import check_weight, ranks_by_rule, truncate

__all__ = ["Truncation", "factorize", "recompose", "recomposed"]


@dataclass(frozen=True)
class Truncation:
    """The result of `factorize` for one layer.

    Attributes
    ----------
    name : str
        The layer's name in ``named_modules``, the first if it is in several places. Weights beside
        the layer's own, such as those of an LSTM's state, have the parameter's name.
    n_in, n_out : int
        The sides of the weight as a matrix; channels·kernel and channels for a convolution.
    requested_rank : int or None
        None if the layer could not be factored at all.
    rank : int or None
        The current l; None if the layer is dense.
    break_even_rank : int
        The largest rank at which the factored layer needs fewer multiplications than a dense one,
        l < mn/(m+n).
    dropped_norm : float
        ‖W − W1·W2‖_F; 0 if the layer was left as it was.
    reason : str or None
        Why it was left as it was.
    """

    name: str
    n_in: int
    n_out: int
    requested_rank: int | None
    rank: int | None
    break_even_rank: int
    dropped_norm: float
    reason: str | None

    @property
    def skipped(self) -> bool:
        """True if the layer was left as it was."""
        return self.reason is not None


@torch.no_grad()
def factorize(
    module: nn.Module,
    *,
    rank_fraction: float | None = None,
    ranks: Mapping[str, int] | str | None = None,
    method: Literal["exact", "randomized"] = "exact",
    force: bool = False,
    skip: Collection[str] = (),
    sample: Iterable[Any] | None = None,
) -> tuple[Truncation, ...]:
    """Truncates the weights of a model's layers by SVD, W ≈ W1·W2, and puts in factored layers.

    These are factored: Linear; Conv2d and Conv1d, as a convolution to l channels and a pointwise
    one; the weight of the first input of LSTM, GRU and RNN; the input projections of
    MultiheadAttention; Conv1D of Hugging Face's transformers. `recompose` restores these types.

    Both factors get the square roots of the singular values. Dtype, device, memory format,
    ``requires_grad`` and training mode stay. All other parameters stay the same objects.

    Other layers are left as they are. The result has the reason for each weight matrix; embeddings
    have none, as they are looked up. A layer is left if factors save no multiplications, or if a
    replacement would change what the model means. That holds for a subclass (such as the output
    projection in MultiheadAttention), a layer with hooks or a forward of its own, a grouped
    convolution, and a weight that is parametrised or shared with another layer. Convolutions that
    are 1×1 or have at most 3 channels, and weights of zeros, need `force` or `ranks` by name. A
    layer in several places stays one layer. A factored layer is truncated again from its product.

    Build a new optimizer afterwards: the old one holds the old weights. In ``state_dict``,
    "<layer>.W1" and "<layer>.W2" replace "<layer>.weight". To load such a state, factor a model to
    the same ranks first (`ranks`). Call this before the model is compiled or distributed.

    Parameters
    ----------
    module : torch.nn.Module
        A model with such layers at any depth. It is changed in place.
    rank_fraction : float
        α: a layer's rank is l = max(1, ⌊α·min(n_in, n_out)⌋).
    ranks : mapping of str to int, or str
        Alternative to `rank_fraction`. A mapping has ranks by the layers' names; other layers are
        left. "energy:E" takes the rank that keeps a share E of each weight's ‖W‖_F². "budget:B"
        takes the directions that are worth most for their multiplications, up to a share B of
        those of all these layers. Multiplications are counted for one token, or one position of a
        convolution, in every layer. With a `sample`, each layer counts as many as it met there.
    method : {"exact", "randomized"}
        As in `svdfast.truncated_svd`; on the weight's device.
    force : bool
        Factor a layer even if that saves nothing.
    skip : collection of str
        Names of layers to leave, or of modules in which all layers are left. Name the output layer
        here. The method leaves it dense, as truncation harms a classifier's scores, and a model
        does not show which layer that is.
    sample : iterable of batches
        With it, truncation preserves the layers' outputs over these batches best, not the weights
        themselves. The model runs over them once in evaluation mode: ``model(x)`` for a tensor,
        ``model(**batch)`` for a mapping. A tuple or list gives as many items as ``forward``
        requires, or all if it requires none, as for `Schedule`. Layers that are not reached are
        truncated as without a sample. A few hundred rows for each layer are enough. The batches
        lie on the model's device.

    Returns
    -------
    tuple of Truncation
        One for each layer in `ranks` by name; otherwise one for each weight matrix.

    Raises
    ------
    TypeError, ValueError
        An argument is out of range, names an unknown layer, or asks by name for a layer that can't
        be replaced; a weight or its norm is not finite; a batch can't be used; `module` is itself
        such a layer. Nothing is changed then.

    References
    ----------
    The paper, section 3.3.2.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch import factorize, recompose
    >>> model = torch.nn.Sequential()
    >>> model.hidden = torch.nn.Linear(784, 512)
    >>> model.activation = torch.nn.ReLU()
    >>> model.output = torch.nn.Linear(512, 10)
    >>> (t,) = factorize(model, rank_fraction=0.25, skip=["output"])
    >>> t.name, t.rank, t.break_even_rank
    ('hidden', 128, 309)
    >>> model
    Sequential(
      (hidden): FactoredLinear(in_features=784, out_features=512, rank=128, bias=True)
      (activation): ReLU()
      (output): Linear(in_features=512, out_features=10, bias=True)
    )
    >>> optimizer = torch.optim.Adam(model.parameters())  # then the training continues
    >>> recompose(model)
    """
    _check_model(module, dense=True)
    one_of("method", method, ("exact", "randomized"))
    if (rank_fraction is None) == (ranks is None):
        raise ValueError("rank_fraction, ranks: expected one of the two")
    if rank_fraction is not None:
        resolve_rank(rank_fraction, 1, 1)
    if isinstance(ranks, str):
        rules.named_rule(ranks)
    elif ranks is not None and not isinstance(ranks, Mapping):
        raise TypeError(f"ranks: expected a mapping of names to ranks or a rule, got {type(ranks).__name__}")
    left = under(module, skip)
    named = module.named_modules(remove_duplicate=False)
    names = {name: part for name, part in named if is_layer(part)}
    places = list(left_in(module, left))
    layers = {place: name for name, place in places if not isinstance(place, Left)}
    given: dict[nn.Module, int] = {}
    if isinstance(ranks, Mapping):
        given = _given(ranks, names, layers)
        layers = {part: layers[part] for part in layers if part in given}
        places = [(name, place) for name, place in places if place in given]
    reasons = reasons_to_leave(module, layers)
    for part in given:
        if part in reasons:
            raise ValueError(f"ranks: {layers[part]!r} can't be factored: {reasons[part]}")
    if not force and not given:
        for part in layers:
            reason = None if part in reasons else why_rather_not(part)
            if reason is not None:
                reasons[part] = reason
    usable = [part for part in layers if part not in reasons]
    for part in usable:
        check_weight(part, layers[part])
    seen = {} if sample is None else observe(module, sample, {part: layers[part] for part in usable})
    if isinstance(ranks, Mapping):
        wanted = given
    elif isinstance(ranks, str):
        rows = None if sample is None else {part: look.rows for part, look in seen.items()}
        wanted = dict(zip(usable, ranks_by_rule(ranks, usable, rows), strict=True))
    else:
        assert rank_fraction is not None
        wanted = {p: resolve_rank(rank_fraction, *sides(p)) for p in usable}

    new: dict[nn.Module, nn.Module] = {}
    done = []
    for name, place in places:
        if isinstance(place, Left):  # its type can't be factored
            limit = break_even_rank(place.n_in, place.n_out) if place.n_in > 0 and place.n_out > 0 else 0
            done.append(Truncation(name, place.n_in, place.n_out, None, None, limit, 0.0, place.reason))
            continue
        part = place
        n_in, n_out = sides(part)
        rank = part.rank if isinstance(part, Factored) else None
        limit = break_even_rank(n_in, n_out) if n_in > 0 and n_out > 0 else 0
        requested = wanted.get(part)
        dropped = 0.0
        reason = reasons.get(part)
        if requested is not None and requested > limit and not force:
            reason = f"rank {requested} is above its break-even rank {limit}"
        elif requested is not None:
            rank = requested
            new[part], dropped = truncate(part, name, rank, method, seen[part].gram if part in seen else None)
        done.append(Truncation(name, n_in, n_out, requested, rank, limit, dropped, reason))
    replace(module, new)
    return tuple(done)


def recompose(module: nn.Module) -> None:
    """Multiplies the factors of all factored layers: W = W1·W2.

    A dense layer of the original type replaces each factored one in place. Settings, dtype,
    device, memory format, ``requires_grad``, training mode and all other parameters stay. Build a
    new optimizer afterwards.

    Parameters
    ----------
    module : torch.nn.Module

    Raises
    ------
    TypeError, ValueError
        `module` is not a module or is itself a factored layer; or a factored layer has hooks or is
        parametrised. Nothing is changed then.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch import factorize, recompose
    >>> model = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.ReLU())
    >>> _ = factorize(model, rank_fraction=0.25)
    >>> recompose(model)
    >>> model
    Sequential(
      (0): Linear(in_features=30, out_features=20, bias=True)
      (1): ReLU()
    )
    """
    _check_model(module, dense=False)
    new, bound = recomposed(module)
    for name, reason in bound.items():
        raise ValueError(f"module: {name!r} can't be replaced: {reason}")
    replace(module, new)


@torch.no_grad()
def recomposed(module: nn.Module) -> tuple[dict[nn.Module, nn.Module], dict[str, str]]:
    """Dense layers for the factored ones that can be replaced, and why others can't, by name."""
    parts = {part: name for name, part in module.named_modules() if isinstance(part, Factored)}
    reasons = {part: own_reason(part) for part in parts}
    bound = {parts[part]: reason for part, reason in reasons.items() if reason is not None}
    return {part: part.dense() for part, reason in reasons.items() if reason is None}, bound


def _check_model(module: Any, *, dense: bool) -> None:
    """Refuses anything that is not a model, or is itself a layer."""
    got = type(module).__name__
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {got}")
    if isinstance(module, Factored) or (dense and (kind_of(module) is not None or isinstance(module, nn.Linear))):
        raise ValueError(
            f"module: expected a model with {'' if dense else 'factored '}layers in it, got a {got}, "
            "which can't be replaced in place"
        )


def _given(
    ranks: Mapping[str, int], names: Mapping[str, nn.Module], layers: Collection[nn.Module]
) -> dict[nn.Module, int]:
    """Turns ranks by name into ranks by layer."""
    given: dict[nn.Module, int] = {}
    for name, rank in ranks.items():
        part = names.get(name)
        if part is None:
            raise ValueError(
                "ranks: expected names of Linear layers or of others that can be factored "
                f"in the model, got {name!r}"
            )
        if part not in layers:
            raise ValueError(f"ranks, skip: expected {name!r} in one of the two")
        number = count(f"ranks[{name!r}]", rank, maximum=max(1, min(sides(part))))
        if given.setdefault(part, number) != number:
            raise ValueError(f"ranks[{name!r}]: expected the rank of its other name, got {number}")
    return given
