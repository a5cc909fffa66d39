# SPDX-License-Identifier: BSD-3-Clause
"""How a model is called with a batch of a user's sample; one rule for all of svdfast.torch.

- A tensor x: ``model(x)``.
- A mapping: ``model(**batch)``.
- A tuple or list: as many items as ``forward`` requires, in order. Items for the loss alone are
  left out so. If ``forward`` requires none, it gets all items.

Elsewhere: losses (sample.py), and what layers get (observe.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["call", "given", "halves", "is_batch", "size"]

# Rows of the smallest part of a batch.
SMALLEST = 16


def is_batch(batch: Any) -> bool:
    return isinstance(batch, Tensor | Mapping | tuple | list)


def given(model: nn.Module, batch: Any) -> tuple[Any, ...] | Mapping[str, Any]:
    """The model's arguments: positional ones as a tuple, keywords as a mapping."""
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, Tensor):
        return (batch,)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [p for p in parameters if p.kind in kinds and p.default is p.empty]
    return tuple(batch)[: len(needed) or None]


def call(model: nn.Module, batch: Any) -> Any:
    """The model's output."""
    inputs = given(model, batch)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def size(values: Iterable[Any]) -> int:
    """The number of elements of the first tensor, by which the sizes of batches are compared."""
    return next((x.numel() for x in values if isinstance(x, Tensor) and x.ndim), 1)


def halves(batch: Any) -> list[tuple[Any, float]]:
    """Parts of a batch, each as large as all before it, and their shares of its rows.

    A batch stays one part if it can't be split safely, as when its tensors differ in rows.
    """
    items = _items(batch)
    tensors = [x for x in items if isinstance(x, Tensor) and x.ndim]
    others = (x for x in items if not (isinstance(x, Tensor) and not x.is_nested))
    if not tensors or any(x is not None and not isinstance(x, bool) for x in others):
        return [(batch, 1.0)]
    n = len(tensors[0])
    if n < 2 * SMALLEST or any(len(x) != n for x in tensors):
        return [(batch, 1.0)]
    ends = [n]
    while ends[0] >= 2 * SMALLEST:
        ends.insert(0, ends[0] // 2)
    return [
        (_rows(batch, start, end), (end - start) / n)
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def _items(batch: Any) -> list[Any]:
    if isinstance(batch, Tensor):
        return [batch]
    return list(batch.values() if isinstance(batch, Mapping) else batch)


def _rows(batch: Any, start: int, end: int) -> Any:
    def some(x: Any) -> Any:
        return x[start:end] if isinstance(x, Tensor) and x.ndim else x

    if isinstance(batch, Tensor):
        return some(batch)
    if isinstance(batch, Mapping):
        return {name: some(x) for name, x in batch.items()}
    return tuple(map(some, batch))
