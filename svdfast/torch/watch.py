# SPDX-License-Identifier: BSD-3-Clause
"""The shapes that layers are called with, seen by hooks for the time until a decision.

Not here: how long layers take with them (timing.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

__all__ = ["Shapes", "unwatch", "watch"]


class _Watch:
    """A forward pre-hook of a layer. It writes where all hooks of a model do."""

    def __init__(self, name: str, shapes: Shapes):
        self.name, self.shapes = name, shapes

    def __call__(self, part: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            self.shapes.inputs[self.name] = tuple(args[0].shape)


@dataclass
class Shapes:
    """Of the last inputs, by the layers' names."""

    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)


def watch(layers: Mapping[nn.Module, str]) -> Shapes:
    """Hooks on these layers, until `unwatch`."""
    shapes = Shapes()
    for part, name in layers.items():
        part.register_forward_pre_hook(_Watch(name, shapes))
    return shapes


def unwatch(module: nn.Module) -> None:
    """Takes the hooks from all layers, also those of a schedule that was given up."""
    for part in module.modules():
        for key, hook in list(part._forward_pre_hooks.items()):
            if isinstance(hook, _Watch):
                del part._forward_pre_hooks[key]
