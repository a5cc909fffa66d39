# SPDX-License-Identifier: BSD-3-Clause
"""Observes the inputs of layers over a sample: for activation-aware truncation, ranks and timing.

The model is left as it was: its hooks, modes, buffers and random numbers are restored, even after
an error. Elsewhere: the truncation (truncate.py), and the timing (timing.py).
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from svdfast.torch.batches import call, is_batch
from svdfast.torch.kinds import Kind, kind_of
from svdfast.torch.products import computed_in, without_autocast

__all__ = ["Inputs", "Seen", "described", "observe", "unchanged"]

# The most rows of a call for a Gram matrix; more would take longer than the model itself.
_ROWS = 2048

# Random numbers and the fast path's switch belong to the process, so two observations at once could
# not restore them. The lock is reentrant, as a model may observe its own parts.
_alone = threading.RLock()


@dataclass(frozen=True)
class Inputs:
    """The properties of an input tensor that affect a layer's time."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool


@dataclass
class Seen:
    """The inputs of a layer over the sample.

    Attributes
    ----------
    rows : int
        Number of vectors that its weight was multiplied with: tokens, positions of a convolution.
    gram : Tensor (n_in, n_in) or None
        C = XᵀX / scale² over some of these vectors, in at least float32; None if not requested.
    inputs : tuple of Inputs
        Inputs of the last call.
    autocast : torch.dtype or None
        The type of autocast in the last call; None if it was off.
    """

    rows: int = 0
    gram: Tensor | None = None
    inputs: tuple[Inputs, ...] = ()
    autocast: torch.dtype | None = None
    scale: float = 0.0


def observe(
    model: nn.Module, sample: Iterable[Any], layers: Mapping[nn.Module, str], *, gram: bool = True, seed: int = 0
) -> dict[nn.Module, Seen]:
    """Runs the model over a sample in evaluation mode, and observes the inputs of some layers.

    Parameters
    ----------
    model : torch.nn.Module
    sample : iterable
        Batches on the model's device. `svdfast.torch.batches` says how the model is called.
    layers : mapping of torch.nn.Module to str
        Layers of a kind that can be factored, dense or factored, and their names.
    gram : bool
        Form Gram matrices.
    seed : int
        Seed for the choice of rows, if there are many.

    Returns
    -------
    dict of torch.nn.Module to Seen
        One entry for each layer that was reached.

    Raises
    ------
    TypeError, ValueError
        A batch can't be used, there is none, or a layer's input is not finite.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch.observe import observe
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.ReLU())
    >>> seen = observe(model, [torch.rand(2, 4, 10, 10)], {model[0]: "0"})
    >>> seen[model[0]].rows, seen[model[0]].gram.shape
    (128, torch.Size([36, 36]))
    """
    if isinstance(sample, Tensor | str | Mapping) or not isinstance(sample, Iterable):
        raise TypeError(f"sample: expected an iterable of batches, got {type(sample).__name__}")
    seen: dict[nn.Module, Seen] = {}
    handles = []
    with unchanged(model):
        try:
            generator = torch.Generator().manual_seed(seed)
            for layer, name in layers.items():
                kind = kind_of(layer)
                if kind is None:
                    raise TypeError(f"layers: expected layers that can be factored, got a {type(layer).__name__}")
                hook = _hook(kind, name, seen, gram, generator)
                handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
            n = 0
            for n, batch in enumerate(sample, 1):
                _run(model, batch, n - 1)
        finally:
            for handle in handles:
                handle.remove()
    if not n:
        raise ValueError("sample: expected at least one batch, got none")
    return seen


def _run(model: nn.Module, batch: Any, index: int) -> None:
    if not is_batch(batch):
        raise TypeError(f"sample[{index}]: expected a tensor, a tuple or a mapping, got {type(batch).__name__}")
    call(model, batch)


def _hook(
    kind: Kind, name: str, seen: dict[nn.Module, Seen], gram: bool, generator: torch.Generator
) -> Callable[[nn.Module, Any, Any], None]:
    def look(layer: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = kind.inputs(layer, args, kwargs)
        if any(x.is_nested for x in inputs):
            return  # rows of several lengths form no matrix
        rows, n = kind.rows(layer, inputs, _ROWS, generator)
        found = seen.setdefault(layer, Seen())
        found.rows += n
        found.inputs = tuple(described(x) for x in inputs)
        device = inputs[0].device.type
        found.autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        if gram and len(rows):
            _add(found, rows.to(computed_in(rows.dtype)), name)

    return look


def described(x: Tensor) -> Inputs:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return Inputs(tuple(x.shape), x.dtype, last)


def _add(found: Seen, rows: Tensor, name: str) -> None:
    largest = float(rows.abs().max())
    if not math.isfinite(largest):
        raise ValueError(f"sample: the inputs of {name!r} are not finite")
    if found.scale == 0:
        # A power of two near the first inputs' size, so that no square overflows or vanishes.
        found.scale = 2.0 ** math.frexp(largest)[1] if largest > 0 else 0.0
    with without_autocast(rows.device):
        if found.scale:
            rows = rows / found.scale
        here = rows.T @ rows
    found.gram = here if found.gram is None else found.gram.add_(here)
    if not bool(torch.isfinite(here).all()):
        raise ValueError(f"sample: the inputs of {name!r} are too large next to those of the first batch")


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """A context with evaluation mode, without gradients and the fast path, which skips hooks.

    Everything is restored afterwards.
    """
    modes = {part: part.training for part in model.modules()}
    buffers = [
        (part, name, buffer, buffer.detach().clone())
        for part in model.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None and buffer.device.type != "meta"
    ]
    devices = {p.device for p in model.parameters()} | {b.device for b in model.buffers()}
    gpus = sorted({device.index for device in devices if device.type == "cuda"})
    with _alone, torch.random.fork_rng(gpus), torch.no_grad():
        fast = torch.backends.mha.get_fastpath_enabled()
        try:
            # Encoder layers with hooks refuse nested tensors, which their fast path would give
            # them.
            torch.backends.mha.set_fastpath_enabled(False)
            model.eval()
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            model.train(modes[model])  # this also undoes what parts do in a train() of their own
            for part, mode in modes.items():
                part.training = mode
            for part, name, buffer, before in buffers:
                part._buffers[name] = buffer
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
