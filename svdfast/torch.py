# SPDX-License-Identifier: BSD-3-Clause
"""The method on any PyTorch model: its Linear layers cut to two factors in place, and multiplied together again.

So a model that trains on a GPU, by PyTorch, gets steps 2 and 4 of the four; the training between is the user's own. Needs PyTorch: the
extra `torch`; `import svdfast` does not import this module.

Not here: svdfast's networks from and to PyTorch (interop/torch_networks.py), and the modules that they need (_torch_modules.py).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdfast._process.checks import count, one_of
from svdfast.model import ranks as rules
from svdfast.model.counting import break_even_rank
from svdfast.model.svd import resolve_rank, shares, singular_values, truncated_svd

try:
    import torch
    from torch import Tensor, nn
except ImportError:
    why = 'svdfast.torch needs PyTorch: pip install "svdfast[torch]"'
    raise ImportError(why, name="torch") from None

from svdfast._torch_modules import (
    ChannelsFirst,
    ChannelsLast,
    FactoredRecurrent,
    MeanPool2d,
    Recurrent,
)

__all__ = [
    "ChannelsFirst", "ChannelsLast", "FactoredLinear", "FactoredRecurrent", "MeanPool2d", "Recurrent", "Truncation",
    "factorize", "recompose",
]  # fmt: skip

logger = logging.getLogger("svdfast")

_NotConverged: type[Exception] = vars(torch.linalg)["LinAlgError"]  # torch's types leave it out


class FactoredLinear(nn.Module):
    """A Linear layer with its weight as two factors: y = x·W2ᵀ·W1ᵀ + b.

    Parameters
    ----------
    W1 : torch.nn.Parameter (n_out, rank)
    W2 : torch.nn.Parameter (rank, n_in)
    bias : torch.nn.Parameter (n_out,), optional
        All three are taken as they are, not copied. In a ``state_dict`` they are "W1", "W2" and "bias".

    Raises
    ------
    TypeError, ValueError
        Something is not a parameter; the shapes do not fit each other.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch import FactoredLinear
    >>> W1, W2 = torch.nn.Parameter(torch.rand(512, 64)), torch.nn.Parameter(torch.rand(64, 784))
    >>> layer = FactoredLinear(W1, W2)
    >>> layer
    FactoredLinear(in_features=784, out_features=512, rank=64, bias=False)
    >>> layer(torch.rand(10, 784)).shape
    torch.Size([10, 512])
    """

    if TYPE_CHECKING:  # TorchScript would not understand it
        bias: nn.Parameter | None

    def __init__(self, W1: nn.Parameter, W2: nn.Parameter, bias: nn.Parameter | None = None):
        super().__init__()
        for name, tensor in {"W1": W1, "W2": W2, "bias": bias}.items():
            if not isinstance(tensor, nn.Parameter) and not (name == "bias" and tensor is None):
                raise TypeError(f"{name}: expected a torch.nn.Parameter, got {type(tensor).__name__}")
        if W1.ndim != 2 or W2.ndim != 2 or W1.shape[1] != W2.shape[0] or 0 in (*W1.shape, *W2.shape):
            raise ValueError(
                f"W1, W2: expected shapes (n_out, rank) and (rank, n_in), got {tuple(W1.shape)} and {tuple(W2.shape)}"
            )
        if bias is not None and bias.shape != W1.shape[:1]:
            raise ValueError(f"bias: expected shape ({len(W1)},), got {tuple(bias.shape)}")
        self.W1 = W1
        self.W2 = W2
        self.register_parameter("bias", bias)

    @property
    def in_features(self) -> int:
        return self.W2.shape[1]

    @property
    def out_features(self) -> int:
        return self.W1.shape[0]

    @property
    def rank(self) -> int:
        return self.W1.shape[1]

    @property
    def weight(self) -> Tensor:
        """W1·W2, for what reads a Linear's weight itself; formed anew each time, and no parameter."""
        return self.W1 @ self.W2

    def forward(self, x: Tensor) -> Tensor:
        """x (..., n_in) to (..., n_out)."""
        return nn.functional.linear(nn.functional.linear(x, self.W2), self.W1, self.bias)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"bias={self.bias is not None}"
        )


Part: TypeAlias = nn.Linear | FactoredLinear


@dataclass(frozen=True)
class Truncation:
    """What `factorize` did with a layer.

    Attributes
    ----------
    name : str
        As ``named_modules`` has it; of a layer in several places, the first.
    n_in, n_out : int
    requested_rank : int or None
        None where the layer could not be factored at all.
    rank : int or None
        l as it is now; None where the layer is dense.
    break_even_rank : int
        The largest rank at which the factored layer needs fewer multiplications than a dense one, l < mn/(m+n).
    dropped_norm : float
        ‖W − W1·W2‖_F; 0 where the layer was left as it was.
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
        """Whether the layer was left as it was."""
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
) -> tuple[Truncation, ...]:
    """Cuts the weights of a model's Linear layers by truncated SVD: W ≈ W1·W2, each layer replaced in place by a `FactoredLinear`.

    Singular values go into both factors by their square roots. Dtype, device, ``requires_grad``, training mode and the bias, the same
    parameter, stay. Layers that would save no multiplications, or that can't be replaced without changing what the model means, are left,
    and the reason is told: those of a subclass of Linear (as the output projection in MultiheadAttention), with hooks, with a forward of
    their own, with a weight that is parametrised or shared with another layer. A layer in several places stays one layer.
    One that is a FactoredLinear already is cut anew from its product.

    Make the optimizer anew after it: the old one holds the old weights. In ``state_dict`` "<layer>.weight" gives way to "<layer>.W1"
    and "<layer>.W2"; to load such a state, factor a model to the same ranks first (`ranks`). Do it before the model is compiled or
    distributed.

    Parameters
    ----------
    module : torch.nn.Module
        With Linear layers in it, anywhere. Changed in place.
    rank_fraction : float
        α: a layer's rank is l = max(1, ⌊α·min(n_in, n_out)⌋).
    ranks : mapping of str to int, or str
        Instead: ranks by the layers' names, the other layers are left; or "energy:E", the rank that keeps a share E of each weight's
        ‖W‖_F²; or "budget:B", the directions that are worth most for their multiplications, up to a share B of all these layers'.
    method : {"exact", "randomized"}
        As in `svdfast.truncated_svd`; on the weight's device.
    force : bool
        Factor even where it saves nothing.
    skip : collection of str
        Layers to leave, by name, or modules in which all are left. The method leaves the output layer dense, as a classifier's scores
        hardly bear a cut; which layer that is can't be seen in a model: name it here.

    Returns
    -------
    tuple of Truncation
        One for each layer that was asked for.

    Raises
    ------
    TypeError, ValueError
        An argument is out of range, names something that is not there, or asks by name for a layer that can't be replaced; a weight is not
        finite, or its norm is not; `module` is itself a Linear. Nothing is changed then.

    References
    ----------
    The report, section 3.3.2.

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
    >>> optimizer = torch.optim.Adam(model.parameters())  # and the training goes on, then
    >>> recompose(model)
    """
    _check_model(module, Part, "Linear")
    one_of("method", method, ("exact", "randomized"))
    if (rank_fraction is None) == (ranks is None):
        raise ValueError("rank_fraction, ranks: expected one of the two")
    if rank_fraction is not None:
        resolve_rank(rank_fraction, 1, 1)
    if isinstance(ranks, str):
        rules.named_rule(ranks)
    elif ranks is not None and not isinstance(ranks, Mapping):
        raise TypeError(f"ranks: expected a mapping of names to ranks or a rule, got {type(ranks).__name__}")
    left = _left(module, skip)
    named = module.named_modules(remove_duplicate=False)
    names = {name: part for name, part in named if isinstance(part, Part)}
    layers: dict[Part, str] = {}
    for name, part in names.items():
        if part not in left:
            layers.setdefault(part, name)
    given: dict[Part, int] = {}
    if isinstance(ranks, Mapping):
        given = _given(ranks, names, layers)
        layers = {part: layers[part] for part in layers if part in given}
    reasons = _reasons(module, layers)
    for part in given:
        if part in reasons:
            raise ValueError(f"ranks: {layers[part]!r} can't be factored: {reasons[part]}")
    usable = [part for part in layers if part not in reasons]
    for part in usable:
        _check_weight(part, layers[part])
    if isinstance(ranks, Mapping):
        wanted = given
    elif isinstance(ranks, str):
        wanted = dict(zip(usable, _ranks_by_rule(ranks, usable), strict=True))
    else:
        assert rank_fraction is not None
        wanted = {p: resolve_rank(rank_fraction, p.in_features, p.out_features) for p in usable}

    new: dict[nn.Module, nn.Module] = {}
    done = []
    for part, name in layers.items():
        n_in, n_out = part.in_features, part.out_features
        rank = part.rank if isinstance(part, FactoredLinear) else None
        limit = break_even_rank(n_in, n_out) if n_in > 0 and n_out > 0 else 0
        requested = wanted.get(part)
        dropped = 0.0
        reason: str | None = reasons.get(part)
        if requested is not None and requested > limit and not force:
            reason = f"rank {requested} is above its break-even rank {limit}"
        elif requested is not None:
            rank = requested
            new[part], dropped = _cut(part, name, rank, method)
        done.append(Truncation(name, n_in, n_out, requested, rank, limit, dropped, reason))
    _replace(module, new)
    return tuple(done)


@torch.no_grad()
def recompose(module: nn.Module) -> None:
    """Multiplies the factors of all `FactoredLinear` layers together: each replaced in place by a Linear, W = W1·W2.

    Dtype, device, ``requires_grad``, training mode and the bias stay. Make the optimizer anew after it.

    Parameters
    ----------
    module : torch.nn.Module

    Raises
    ------
    TypeError, ValueError
        `module` is no module or itself a FactoredLinear; or a FactoredLinear has hooks or is parametrised. Nothing is changed then.

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
    _check_model(module, FactoredLinear, "FactoredLinear")
    new: dict[nn.Module, nn.Module] = {}
    for name, part in module.named_modules():
        if not isinstance(part, FactoredLinear):
            continue
        reason = _own_reason(part)
        if reason is not None:
            raise ValueError(f"module: {name!r} can't be replaced: {reason}")
        W = _product(part.W1, part.W2).to(part.W1.dtype)
        # On the device meta, as first weights would draw from torch's own generator.
        made = nn.Linear(part.in_features, part.out_features, bias=False, device="meta")
        made.weight = nn.Parameter(W, _is_trained(part))
        made.register_parameter("bias", part.bias)
        new[part] = made.train(part.training)
    _replace(module, new)


def _check_model(module: Any, layer: Any, name: str) -> None:
    """Refuses what is no model, or itself such a layer."""
    got = type(module).__name__
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {got}")
    if isinstance(module, layer):
        raise ValueError(
            f"module: expected a model with {name} layers in it, got a {got}, "
            "which can't be replaced in place"
        )


def _tensors(part: Part) -> tuple[Tensor, ...]:
    """Those of the weight."""
    return (part.W1, part.W2) if isinstance(part, FactoredLinear) else (part.weight,)


def _is_trained(part: Part) -> bool:
    return any(tensor.requires_grad for tensor in _tensors(part))


def _left(module: nn.Module, skip: Collection[str]) -> set[nn.Module]:
    """The modules that `skip` names, and all that are in them."""
    if isinstance(skip, str) or not isinstance(skip, Collection):
        raise TypeError(f"skip: expected a collection of names, got {skip!r}")
    every = dict(module.named_modules(remove_duplicate=False))
    left: set[nn.Module] = set()
    for name in skip:
        if name not in every or name == "":
            raise ValueError(f"skip: expected names of modules in the model, got {name!r}")
        left.update(every[name].modules())
    return left


def _given(
    ranks: Mapping[str, int], names: Mapping[str, Part], layers: Collection[Part]
) -> dict[Part, int]:
    """Ranks by layer of ranks by name."""
    given: dict[Part, int] = {}
    for name, rank in ranks.items():
        part = names.get(name)
        if part is None:
            raise ValueError(f"ranks: expected names of Linear layers in the model, got {name!r}")
        if part not in layers:
            raise ValueError(f"ranks, skip: expected {name!r} in one of the two")
        number = count(f"ranks[{name!r}]", rank, maximum=min(part.in_features, part.out_features))
        if given.setdefault(part, number) != number:
            raise ValueError(f"ranks[{name!r}]: expected the rank of its other name, got {number}")
    return given


def _reasons(module: nn.Module, layers: Collection[Part]) -> dict[Part, str]:
    """Why some layers can't be replaced."""
    owners: dict[Tensor, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owners.setdefault(parameter, []).append(name)
    holders: dict[Tensor, set[nn.Module]] = {}
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            holders.setdefault(parameter, set()).add(part)
    reasons: dict[Part, str] = {}
    for part in layers:
        reason = _own_reason(part)
        if reason is None:
            if any(len(holders[weight]) > 1 for weight in _tensors(part)):
                shared = sorted({name for weight in _tensors(part) for name in owners[weight]})
                reason = f"its weight is shared: {', '.join(shared)}"
        if reason is not None:
            reasons[part] = reason
    return reasons


def _own_reason(part: Part) -> str | None:
    """Why a layer can't be replaced, as far as itself shows it."""
    if type(part) not in (nn.Linear, FactoredLinear):
        return f"it is a {type(part).__name__}, a subclass, which may mean more than its weight"
    if "forward" in vars(part):
        return "it has a forward of its own"
    if (
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
        or any(p._backward_hooks or p._post_accumulate_grad_hooks for p in part.parameters())
    ):
        return "it has hooks"
    names = ("W1", "W2") if isinstance(part, FactoredLinear) else ("weight",)
    own = dict(part.named_parameters(recurse=False))
    if own.keys() != {*names, "bias"} - ({"bias"} if part.bias is None else set()):
        return "its weight is computed from other parameters"
    weight = own[names[0]]
    if 0 in weight.shape:
        return "its weight is empty"
    if not weight.is_floating_point():
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}"
    return None


def _check_weight(part: Part, name: str) -> None:
    """Refuses a weight that can't be decomposed."""
    if next(part.parameters()).device.type == "meta":
        raise ValueError(f"module: {name!r}: expected a weight with numbers, got one on the device meta")
    if not bool(torch.isfinite(_weight(part)).all()):
        raise ValueError(f"module: {name!r}: expected a finite weight, got NaN or infinity in it")


def _weight(part: Part) -> Tensor:
    """W (n_out, n_in), in at least float32."""
    if isinstance(part, FactoredLinear):
        return _product(part.W1, part.W2)
    return part.weight.to(_computed_in(part.weight.dtype))


def _product(W1: Tensor, W2: Tensor) -> Tensor:
    """W1·W2, in at least float32."""
    dtype = _computed_in(W1.dtype)
    with _without_autocast(W1.device):
        return W1.to(dtype) @ W2.to(dtype)


def _computed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _without_autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Autocast, where the caller has it on, would round a product's operands."""
    if device.type == "meta":
        return contextlib.nullcontext()
    off: contextlib.AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
    return off


def _ranks_by_rule(ranks: str, parts: Collection[Part]) -> list[int]:
    """The rank of each layer by "energy:E" or "budget:B"."""
    if not parts:
        return []
    rule = rules.named_rule(ranks)
    squares = [np.square(_singular_values(_weight(part)), dtype=np.float64) for part in parts]
    # A rank costs m + n for a product with W's m·n, forward and backward alike.
    costs = [part.in_features + part.out_features for part in parts]
    whole = sum(part.in_features * part.out_features for part in parts)
    return rule.of_squares(squares, costs, whole)


def _cut(part: Part, name: str, rank: int, method: str) -> tuple[FactoredLinear, float]:
    """The factored layer and ‖W − W1·W2‖_F."""
    W = _weight(part)
    try:
        U, s, Vh = _svd(W) if method == "exact" else _randomized_svd(W, rank)
    except np.linalg.LinAlgError as error:
        raise np.linalg.LinAlgError(f"module: {name!r}: {error}") from error
    if not bool(torch.isfinite(s).all()):
        raise ValueError(f"module: {name!r}: its norm is too large for {W.dtype}")
    left, right = (torch.from_numpy(side).to(W.device) for side in shares(s[:rank].numpy(force=True), W.shape, "balanced"))
    dtype = _tensors(part)[0].dtype
    W1 = (U[:, :rank] * left).to(dtype).contiguous()
    W2 = (right[:, None] * Vh[:rank]).to(dtype).contiguous()
    # Scaled, so that no square overflows.
    scale = float(W.abs().max()) or 1.0
    dropped = scale * float(torch.linalg.norm((W - _product(W1, W2)) / scale))
    trained = _is_trained(part)
    made = FactoredLinear(nn.Parameter(W1, trained), nn.Parameter(W2, trained), part.bias)
    return made.train(part.training), dropped


def _svd(W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The whole SVD; where torch's does not converge, by the ways of `svdfast.svd`."""
    try:
        U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    except _NotConverged:
        logger.warning("torch.linalg.svd did not converge on a matrix of shape %s: SciPy's is taken instead", tuple(W.shape))
        found = truncated_svd(W.numpy(force=True), min(W.shape))
        U, s, Vh = (torch.from_numpy(part).to(W.device) for part in found)
    return U, s, Vh


def _singular_values(W: Tensor) -> NDArray[Any]:
    """All, largest first; falling back as `_svd` does."""
    try:
        values: NDArray[Any] = torch.linalg.svdvals(W).numpy(force=True)
    except _NotConverged:
        logger.warning("torch.linalg.svdvals did not converge on a matrix of shape %s: SciPy's is taken instead", tuple(W.shape))
        values = singular_values(W.numpy(force=True))
    return values


def _randomized_svd(W: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `svdfast.svd` has it: 10 vectors more than the rank, 4 power iterations; torch's own generator is left alone."""
    n, m = W.shape
    k = min(rank + 10, n, m)
    scale = float(W.abs().max()) or 1.0
    W = W / scale
    generator = torch.Generator(W.device).manual_seed(0)
    sketch = torch.randn(m, k, generator=generator, dtype=W.dtype, device=W.device)
    with _without_autocast(W.device):
        Q, _ = torch.linalg.qr(W @ sketch)
        for _ in range(4):
            # Without the QR in between, every column would turn to the first singular vector.
            Q, _ = torch.linalg.qr(W.T @ Q)
            Q, _ = torch.linalg.qr(W @ Q)
        U, s, Vh = _svd(Q.T @ W)
        return Q @ U, s * scale, Vh


def _replace(module: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Puts new layers in all places of the old ones."""
    for holder in list(module.modules()):
        for name, part in list(holder._modules.items()):
            if part is not None and part in new:
                holder.register_module(name, new[part])
