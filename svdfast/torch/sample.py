# SPDX-License-Identifier: BSD-3-Clause
"""A few batches on which truncations and their losses are evaluated.

They come in pieces; a look with little time takes only the first ones. Elsewhere: how a model is
called with a batch (batches.py), and the inputs of layers (observe.py).
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
        Tensors, tuples or mappings. They are kept.
    loss : callable, optional
        ``loss(output, batch)``; by default the output's own ``.loss``, if it has one.

    Attributes
    ----------
    pieces : list
        Batches or parts of them. The first batch is split, as `halves` does it.
    n_first : int
        Number of pieces of the first batch.
    """

    def __init__(self, batches: Iterable[Any], loss: Loss | None):
        if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
            raise TypeError(
                f"sample: expected an iterable of batches, got {type(batches).__name__}"
            )
        if loss is not None and not callable(loss):
            raise TypeError(f"loss: expected a function of output and batch, got {type(loss).__name__}")
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
        """Sizes of the pieces; see `svdfast.torch.batches.size`."""
        inputs = [given(model, piece) for piece in self.pieces]
        return [size(x.values() if isinstance(x, Mapping) else x) for x in inputs]

    def piece_loss(self, model: nn.Module, index: int) -> float | None:
        """The loss on one piece; None if no loss is available."""
        with unchanged(model):
            return self._of(model, self.pieces[index])

    def mean(self, losses: Sequence[float]) -> float:
        """The mean of the first pieces' losses, weighted by their shares of batches."""
        pairs = list(zip(losses, self._shares, strict=False))
        return sum(loss * share for loss, share in pairs) / sum(share for _, share in pairs)

    def loss(self, model: nn.Module, n_pieces: int | None = None) -> float | None:
        """The mean loss over the first pieces, or over the batches; None if none is available."""
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
