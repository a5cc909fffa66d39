# SPDX-License-Identifier: BSD-3-Clause
"""A few batches that cuts and their losses are looked at on.

Not here: what layers get as inputs (observe.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from svdfast.torch.observe import unchanged

__all__ = ["Loss", "Sample"]

Loss: TypeAlias = Callable[[Any, Any], Tensor]


class Sample:
    """Batches, and the loss of a model's outputs.

    Parameters
    ----------
    batches : iterable
        Tensors, tuples or mappings; kept.
    loss : callable, optional
        ``loss(output, batch)``; by default the output's own ``.loss``, where it has one.
    """

    def __init__(self, batches: Iterable[Any], loss: Loss | None):
        if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
            raise TypeError(
                f"sample: expected an iterable of batches, got {type(batches).__name__}"
            )
        self.batches = list(batches)
        if not self.batches:
            raise ValueError("sample: expected at least one batch, got none")
        for batch in self.batches:
            if not isinstance(batch, Tensor | Mapping | tuple | list):
                got = type(batch).__name__
                raise TypeError(f"sample: expected tensors, tuples or mappings, got {got}")
        self._loss = loss

    def inputs(self, model: nn.Module) -> Iterator[Any]:
        """Of each batch what the model is called with: a tuple or a mapping."""
        for batch in self.batches:
            yield batch if isinstance(batch, Mapping) else _inputs(model, batch)

    def loss(self, model: nn.Module) -> float | None:
        """The mean over the batches; None where nothing says what the loss is."""
        losses = []
        with unchanged(model):
            for batch, given in zip(self.batches, self.inputs(model), strict=True):
                output = model(**given) if isinstance(given, Mapping) else model(*given)
                value = self._loss(output, batch) if self._loss else getattr(output, "loss", None)
                if value is None:
                    return None
                losses.append(float(value))
        return sum(losses) / len(losses)


def _inputs(model: nn.Module, batch: Any) -> tuple[Any, ...]:
    """Of a tuple the items that ``forward`` must be given, or all where it must be given none."""
    if isinstance(batch, Tensor):
        return (batch,)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        p
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in kinds and p.default is p.empty
    ]
    return tuple(batch)[: len(needed) or None]
