# SPDX-License-Identifier: BSD-3-Clause
"""Where in a model layers lie, which of them can be replaced, and why others are left.

Not here: how a layer is cut (cut.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from svdfast.torch.layers import FactoredLinear, Part

__all__ = ["is_trained", "own_reason", "reasons_to_leave", "replace", "tensors", "under"]


def tensors(part: Part) -> tuple[Tensor, ...]:
    """Those of the weight."""
    return (part.W1, part.W2) if isinstance(part, FactoredLinear) else (part.weight,)


def is_trained(part: Part) -> bool:
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


def reasons_to_leave(module: nn.Module, layers: Collection[Part]) -> dict[Part, str]:
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
        reason = own_reason(part)
        if reason is None:
            if any(len(holders[weight]) > 1 for weight in tensors(part)):
                shared = sorted({name for weight in tensors(part) for name in owners[weight]})
                reason = f"its weight is shared: {', '.join(shared)}"
        if reason is not None:
            reasons[part] = reason
    return reasons


def own_reason(part: Part) -> str | None:
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


def replace(module: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Puts new layers in all places of the old ones."""
    for holder in list(module.modules()):
        for name, part in list(holder._modules.items()):
            if part is not None and part in new:
                holder.register_module(name, new[part])
