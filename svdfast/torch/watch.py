# SPDX-License-Identifier: BSD-3-Clause
"""What layers are called with while a model trains, seen by hooks for the time until a decision.

Not here: a look over a sample (observe.py), and how long layers take (timing.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from svdfast.torch.kinds import kind_of
from svdfast.torch.observe import Seen, described

__all__ = ["unwatch", "watch"]


class _Watch:
    """A forward pre-hook of a layer, known by its type, so that it is found again."""

    def __init__(self, name: str, seen: dict[str, Seen]):
        self.name, self.seen = name, seen

    def __call__(self, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kind = kind_of(part)
        if torch.compiler.is_compiling() or kind is None or not part.training:
            return
        inputs = kind.inputs(part, args, kwargs)
        if any(x.is_nested for x in inputs):
            return
        device = inputs[0].device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        self.seen[self.name] = Seen(inputs=tuple(map(described, inputs)), autocast=autocast)


def watch(layers: Mapping[nn.Module, str]) -> dict[str, Seen]:
    """Hooks on these layers, until `unwatch`; where they write, by the layers' names.

    Within a compiled graph they see nothing.
    """
    seen: dict[str, Seen] = {}
    for part, name in layers.items():
        part.register_forward_pre_hook(_Watch(name, seen), with_kwargs=True)
    return seen


def unwatch(module: nn.Module) -> None:
    """Takes the hooks from all layers, also those of a schedule that was given up."""
    for part in module.modules():
        for key, hook in list(part._forward_pre_hooks.items()):
            if isinstance(hook, _Watch):
                del part._forward_pre_hooks[key]
                part._forward_pre_hooks_with_kwargs.pop(key, None)
