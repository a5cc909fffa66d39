# SPDX-License-Identifier: BSD-3-Clause
"""The places of layers in a model: which layers can be replaced, and why others are left.

Elsewhere: the knowledge about a type of layer (kinds.py), and how a layer is truncated (truncate.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svdfast.torch.kinds import Kind, kind_of, own_parameters
from svdfast.torch.layers import Factored

__all__ = [
    "Left", "OwnHook", "is_layer", "is_trained", "left_in", "own_reason", "reasons_to_leave", "replace", "sides", "tensors", "under",
    "why_rather_not",
]  # fmt: skip

# Types of torch.nn whose subclasses are listed, too, with the reason why they are left.
_NEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.RNNBase, nn.MultiheadAttention, Factored)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Their parameters are looked up or multiplied elementwise: there is no product to save.
_NO_PRODUCT = (
    nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.PReLU, nn.modules.batchnorm._NormBase,
)  # fmt: skip
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class OwnHook:
    """A hook that svdfast puts on layers for a time. A layer with it can still be replaced."""


@dataclass(frozen=True)
class Left:
    """A weight that belongs to no layer that can be factored."""

    name: str
    n_in: int
    n_out: int
    reason: str


def is_layer(part: nn.Module) -> bool:
    """True for a type that can be factored, or a subclass of one."""
    return kind_of(part) is not None or isinstance(part, _NEAR)


def _kind(part: nn.Module) -> Kind:
    kind = kind_of(part)
    assert kind is not None
    return kind


def tensors(part: nn.Module) -> tuple[Tensor, ...]:
    """The tensors of the weight."""
    if isinstance(part, Factored):
        return (*part.factors[0], part.factors[1])
    return _kind(part).weights(part)


def sides(part: nn.Module) -> tuple[int, int]:
    """n_in and n_out of a layer's weight."""
    if isinstance(part, Factored):
        return part.in_features, part.out_features
    kind = kind_of(part)
    if kind is not None:
        return kind.sides(part)
    if isinstance(part, nn.Linear):
        return part.in_features, part.out_features
    if isinstance(part, nn.Conv1d | nn.Conv2d):
        n_in = part.in_channels // part.groups
        for size in part.kernel_size:
            n_in *= size
        return n_in, part.out_channels
    if isinstance(part, nn.RNNBase):
        gates = {"LSTM": 4, "GRU": 3}.get(part.mode, 1)
        return part.input_size, gates * part.hidden_size * (2 if part.bidirectional else 1)
    assert isinstance(part, nn.MultiheadAttention)
    return part.embed_dim, 3 * part.embed_dim


def is_trained(part: nn.Module) -> bool:
    return any(tensor.requires_grad for tensor in tensors(part))


def under(module: nn.Module, skip: Collection[str]) -> set[nn.Module]:
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


def reasons_to_leave(module: nn.Module, layers: Collection[nn.Module]) -> dict[nn.Module, str]:
    """Why some layers can't be replaced."""
    owners: dict[Tensor, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owners.setdefault(parameter, []).append(name)
    holders: dict[Tensor, set[tuple[nn.Module, str]]] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            holders.setdefault(parameter, set()).add((part, name))
    reasons: dict[nn.Module, str] = {}
    for part in layers:
        reason = own_reason(part)
        if reason is None:
            # A layer may have two weights, for two directions, and may hold one of them twice.
            if any(len(holders[weight]) > 1 for weight in tensors(part)):
                shared = sorted({name for weight in tensors(part) for name in owners[weight]})
                reason = f"its weight is shared: {', '.join(shared)}"
        if reason is not None:
            reasons[part] = reason
    return reasons


def own_reason(part: nn.Module) -> str | None:
    """Why a layer can't be replaced, as far as the layer itself shows it."""
    kind = kind_of(part)
    if kind is None:
        return f"it is a {type(part).__name__}, a subclass, which may mean more than its weight"
    if "forward" in vars(part):
        return "it has a forward of its own"
    if (
        part._forward_hooks
        or any(not isinstance(hook, OwnHook) for hook in part._forward_pre_hooks.values())
        or part._backward_hooks
        or part._backward_pre_hooks
        or any(p._backward_hooks or p._post_accumulate_grad_hooks for p in part.parameters())
    ):
        return "it has hooks"
    must, may = own_parameters(part, kind)
    own = dict(part.named_parameters(recurse=False, remove_duplicate=False))
    if not must or not must <= own.keys() <= must | may:
        return "its weight is computed from other parameters"
    if not isinstance(part, Factored):
        reason = kind.why_not(part)
        if reason is not None:
            return reason
    if part._buffers:
        return f"it has buffers: {', '.join(part._buffers)}"
    weights = tensors(part)
    if any(0 in weight.shape for weight in weights):
        return "its weight is empty"
    dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in weights})
    if any(weight.dtype not in _DTYPES for weight in weights):
        return f"its weight is {', '.join(dtypes)}"
    if len(dtypes) > 1 or len({weight.device for weight in weights}) > 1:
        return "its weights are of several types or on several devices"
    if any(weight.is_sparse or weight.layout != torch.strided for weight in weights):
        return "its weight is sparse"
    if len({weight.requires_grad for weight in weights}) > 1 and not isinstance(part, Factored):
        return "only one of its weights is trained"
    return None


def why_rather_not(part: nn.Module) -> str | None:
    """Why a layer that can be replaced is left unless its user insists."""
    if not isinstance(part, Factored):
        reason = _kind(part).why_rather_not(part)
        if reason is not None:
            return reason
    first = tensors(part)[:-1] if isinstance(part, Factored) else tensors(part)
    if first[0].device.type != "meta" and not any(bool(weight.any()) for weight in first):
        return "its weight is zero"
    return None


def left_in(module: nn.Module, left: Collection[nn.Module]) -> Iterator[tuple[str, nn.Module | Left]]:
    """All layers, by their first names, and between them the weights that no kind of layer covers.

    Modules in `left` are skipped.
    """
    inside: set[nn.Module] = set()
    seen: set[Tensor] = set()
    for name, part in module.named_modules():
        if part in left:
            continue
        if is_layer(part):
            yield name, part
            kind = kind_of(part)
            if kind is not None:
                for own, reason in kind.left(part).items():
                    weight = getattr(part, own)
                    full = f"{name}.{own}"
                    yield full, Left(full, weight[0].numel(), len(weight), reason)
            inside.update(part.modules())
        elif part not in inside and not isinstance(part, _NO_PRODUCT):
            yield from _others(name, part, seen)


def _others(name: str, part: nn.Module, seen: set[Tensor]) -> Iterator[tuple[str, Left]]:
    type_ = type(part)
    if ".quantized" in type_.__module__ and callable(getattr(part, "weight", None)):
        n_in, n_out = (
            max(getattr(part, f"{side}_{what}", 0) for what in ("features", "channels")) for side in ("in", "out")
        )
        yield name, Left(name, n_in, n_out, "it is quantised")
        return
    for own, weight in part.named_parameters(recurse=False):
        if weight in seen or nn.parameter.is_lazy(weight) or weight.ndim < 2 or 0 in weight.shape:
            continue
        seen.add(weight)
        columns = weight[0].numel()
        if len(weight) == 1 or columns == 1:
            continue
        if isinstance(part, _TRANSPOSED):
            reason = "it is a transposed convolution, for which there is no factored layer"
        else:
            reason = f"it is a {type_.__name__}, for which there is no factored layer"
        full = name if own == "weight" else f"{name}.{own}".lstrip(".")
        yield full, Left(full, columns, len(weight), reason)


def replace(module: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Puts the new layers in all places of the old ones."""
    for holder in list(module.modules()):
        for name, part in list(holder._modules.items()):
            if part is not None and part in new:
                holder.register_module(name, new[part])
