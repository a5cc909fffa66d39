# SPDX-License-Identifier: BSD-3-Clause
"""What layers are called with while a model trains, seen by hooks for the time until a decision.

Not here: a look over a sample (observe.py), and how long layers take (timing.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from svdfast.torch.batches import size
from svdfast.torch.kinds import kind_of
from svdfast.torch.observe import Seen, described

__all__ = ["Watched", "unwatch", "watch", "watching"]


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


class _Watch:
    """A forward pre-hook of a layer, known by its type, so that it is found again."""

    def __init__(self, name: str, seen: Watched):
        self.name, self.seen = name, seen

    def __call__(self, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling() or not part.training:
            return
        if not self.name:
            if self.seen.began is None:
                self.seen.began = time.perf_counter()
            if self.seen.first:
                self.seen.size += size([*args, *kwargs.values()])
                self.seen.n_calls += 1
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
        self.seen.layers[self.name] = Seen(
            rows=rows, inputs=tuple(map(described, inputs)), autocast=autocast
        )


def watch(module: nn.Module, layers: Mapping[nn.Module, str]) -> Watched:
    """Hooks on a model and these layers, until `unwatch`; where they write.

    Within a compiled graph they see nothing.
    """
    seen = Watched()
    for part, name in {module: "", **layers}.items():
        part.register_forward_pre_hook(_Watch(name, seen), with_kwargs=True)
    return seen


def watching(module: nn.Module) -> list[str]:
    """The names of the layers with such hooks."""
    hooks = [hook for part in module.modules() for hook in part._forward_pre_hooks.values()]
    return [hook.name for hook in hooks if isinstance(hook, _Watch) and hook.name]


def unwatch(module: nn.Module) -> None:
    """Takes the hooks from all layers, also those of a schedule that was given up."""
    for part in module.modules():
        for key, hook in list(part._forward_pre_hooks.items()):
            if isinstance(hook, _Watch):
                del part._forward_pre_hooks[key]
                part._forward_pre_hooks_with_kwargs.pop(key, None)
