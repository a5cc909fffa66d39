# SPDX-License-Identifier: BSD-3-Clause
"""Watches the inputs of layers while a model trains, by hooks, until a decision is made.

Elsewhere: observation over a sample (observe.py), and how long layers take (timing.py).
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from svdfast.torch.batches import size
from svdfast.torch.kinds import kind_of
from svdfast.torch.observe import Seen, described
from svdfast.torch.places import OwnHook

__all__ = ["Watched", "unwatch", "watch"]


@dataclass
class Watched:
    """The record of a watched training.

    Attributes
    ----------
    layers : dict of str to Seen
        Inputs by the layers' names.
    size : int
        Total size of the model's inputs in the first step (`svdfast.torch.batches.size`).
    n_calls : int
        Number of the model's calls in the first step.
    first : bool
        True while the training is in its first step.
    began : float or None
        Start of the first step, by ``time.perf_counter``.
    """

    layers: dict[str, Seen] = field(default_factory=dict)
    size: int = 0
    n_calls: int = 0
    first: bool = True
    began: float | None = None


class _Watch(OwnHook):
    """A forward pre-hook of a layer. Its type identifies it, so that it can be found again.

    It removes itself once nobody holds the record that it writes to. In a copy of a model, such as
    an average of its weights, it removes itself at the first call.
    """

    def __init__(self, name: str, seen: Watched | None):
        self.name = name
        self._seen = None if seen is None else weakref.ref(seen)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Watch, (self.name, None)

    def __call__(self, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling() or not part.training:
            return
        seen = None if self._seen is None else self._seen()
        if seen is None:
            _remove(part, self)
            return
        if not self.name:
            if seen.began is None:
                seen.began = time.perf_counter()
            if seen.first:
                seen.size += size([*args, *kwargs.values()])
                seen.n_calls += 1
            return
        kind = kind_of(part)
        if kind is None:
            return
        inputs = kind.inputs(part, args, kwargs)
        if any(x.is_nested for x in inputs):
            return
        device = inputs[0].device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        rows = kind.count(part, [x.shape for x in inputs])
        seen.layers[self.name] = Seen(
            rows=rows, inputs=tuple(map(described, inputs)), autocast=autocast
        )


def watch(module: nn.Module, layers: Mapping[nn.Module, str]) -> Watched:
    """Puts hooks on a model and these layers, until `unwatch` or until the result is deleted.

    They see nothing within a compiled graph.
    """
    seen = Watched()
    for part, name in {module: "", **layers}.items():
        part.register_forward_pre_hook(_Watch(name, seen), with_kwargs=True)
    return seen


def unwatch(module: nn.Module) -> None:
    """Removes the hooks from all layers, also those of an abandoned schedule."""
    for part in module.modules():
        for hook in list(part._forward_pre_hooks.values()):
            if isinstance(hook, _Watch):
                _remove(part, hook)


def _remove(part: nn.Module, hook: _Watch) -> None:
    for key in [key for key, one in part._forward_pre_hooks.items() if one is hook]:
        del part._forward_pre_hooks[key]
        part._forward_pre_hooks_with_kwargs.pop(key, None)
