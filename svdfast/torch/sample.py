# SPDX-License-Identifier: BSD-3-Clause
"""A few batches that cuts and their losses are looked at on.

They come in pieces, so that a look that has little time takes the first ones only. Not here: how a
model is called with a batch (batches.py), what layers get as inputs (observe.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from svdfast.torch.batches import call, given, halves, is_batch, size
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

    Attributes
    ----------
    pieces : list
        Batches or parts of them; the first batch's are in halves.
    n_first : int
        The pieces of the first batch.
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
            if not is_batch(batch):
                got = type(batch).__name__
                raise TypeError(f"sample: expected tensors, tuples or mappings, got {got}")
        first, *others = self.batches
        parts = [*halves(first), *((batch, 1.0) for batch in others)]
        self.n_first = len(parts) - len(others)
        self.pieces = [piece for piece, _ in parts]
        self._shares = [share for _, share in parts]
        self._loss = loss

    def sizes(self, model: nn.Module) -> list[int]:
        """Of the pieces, see `svdfast.torch.batches.size`."""
        inputs = [given(model, piece) for piece in self.pieces]
        return [size(x.values() if isinstance(x, Mapping) else x) for x in inputs]

    def piece_loss(self, model: nn.Module, index: int) -> float | None:
        """Of one piece; None where nothing says what the loss is."""
        with unchanged(model):
            return self._of(model, self.pieces[index])

    def mean(self, losses: Sequence[float]) -> float:
        """Of the first pieces, by their shares of batches."""
        pairs = list(zip(losses, self._shares, strict=False))
        return sum(loss * share for loss, share in pairs) / sum(share for _, share in pairs)

    def loss(self, model: nn.Module, n_pieces: int | None = None) -> float | None:
        """The mean over the first pieces, or over the batches; None where nothing tells it."""
        losses = []
        with unchanged(model):
            for batch in self.batches if n_pieces is None else self.pieces[:n_pieces]:
                value = self._of(model, batch)
                if value is None:
                    return None
                losses.append(value)
        return sum(losses) / len(losses) if n_pieces is None else self.mean(losses)

    def _of(self, model: nn.Module, batch: Any) -> float | None:
        output = call(model, batch)
        value = self._loss(output, batch) if self._loss else getattr(output, "loss", None)
        return None if value is None else float(value)
