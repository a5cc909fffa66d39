# SPDX-License-Identifier: BSD-3-Clause
"""What layers are called with while a model trains, seen by hooks for the time until a decision.

Not here: a look over a sample (observe.py), and how long layers take (timing.py).
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
    """What was seen.

    Attributes
    ----------
    layers : dict of str to Seen
        By the layers' names.
    size : int
        Of all that the model was called with in the first step (`svdfast.torch.batches.size`).
    n_calls : int
        How often that was.
    first : bool
        Whether the training is in its first step.
    began : float or None
        When that began, by ``time.perf_counter``.
    """

    layers: dict[str, Seen] = field(default_factory=dict)
    size: int = 0
    n_calls: int = 0
    first: bool = True
    began: float | None = None


class _Watch(OwnHook):
    """A forward pre-hook of a layer, known by its type, so that it is found again.

    It removes itself once nobody holds what it writes to. Copies of a model, such as an average of
    its weights, get one that does so when it is called.
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
    """Hooks on a model and these layers, until `unwatch`, or until what it returns is gone.

    Within a compiled graph they see nothing.
    """
    seen = Watched()
    for part, name in {module: "", **layers}.items():
        part.register_forward_pre_hook(_Watch(name, seen), with_kwargs=True)
    return seen


def unwatch(module: nn.Module) -> None:
    """Takes the hooks from all layers, also those of a schedule that was given up."""
    for part in module.modules():
        for hook in list(part._forward_pre_hooks.values()):
            if isinstance(hook, _Watch):
                _remove(part, hook)


def _remove(part: nn.Module, hook: _Watch) -> None:
    for key in [key for key, one in part._forward_pre_hooks.items() if one is hook]:
        del part._forward_pre_hooks[key]
        part._forward_pre_hooks_with_kwargs.pop(key, None)
