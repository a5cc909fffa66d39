# SPDX-License-Identifier: BSD-3-Clause
"""Writes a network's layers as PyTorch modules in sequence.

Images are (n, channels, height, width) there, sequences (n, steps, features). Elsewhere: the way
back (torch_reading.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdfast.interop.pieces import (
    Convolution,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Normalise,
    Piece,
    Pool,
    Recurrent,
    pieces_of,
)
from svdfast.model.activations import Activation
from svdfast.model.layers.steps import LargestOf, Window
from svdfast.model.network import Network

if TYPE_CHECKING:
    import torch
    from torch import nn

    from svdfast.torch import FactoredLinear

__all__ = ["modules_of"]

Array = NDArray[Any]

_RECURRENT = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "gru": "GRU", "lstm": "LSTM"}


def modules_of(net: Network) -> list[nn.Module]:
    """The modules in order, with copies of the numbers."""
    writer = _Writer(net)
    for piece in pieces_of(net.layout, "PyTorch"):
        writer.add(piece)
    return writer.modules


class _Writer:
    """The modules made so far, and the layout of their output."""

    def __init__(self, net: Network):
        self.layers = net.layers
        self.modules: list[nn.Module] = []
        self.first = len(net.layout.input_shape) == 3  # True: channels come before positions
        self.order: Array | None = None  # of flattened numbers, if PyTorch's differs

    def add(self, piece: Piece) -> None:
        """Appends the modules of a piece."""
        {
            Dense: self._dense, Convolution: self._convolution, Embedding: self._embedding, Recurrent: self._recurrent,
            Pool: self._pool, Flatten: self._flatten, Normalise: self._normalise, Dropout: self._dropout,
        }[type(piece)](piece)  # type: ignore[operator]  # fmt: skip

    def _channels_first(self, first: bool) -> None:
        from svdfast.torch import ChannelsFirst, ChannelsLast

        if self.first != first:
            self.modules.append(ChannelsFirst() if first else ChannelsLast())
            self.first = first

    def _products(self, i: int) -> list[Array]:
        return list(self.layers[i].products.values())

    def _dense(self, piece: Dense) -> None:
        products, b = self._products(piece.layer), self.layers[piece.layer].b
        if len(piece.shape) == 3:
            self._channels_first(True)
            self._append(_convolution, [W[:, :, np.newaxis, np.newaxis] for W in products], b)
        else:
            if len(piece.shape) == 2:
                self._channels_first(False)
            if self.order is not None:
                products[0] = products[0][:, self.order]
                self.order = None
            self._append(_linear, products, b)
        self._activation(piece.layer, len(piece.made))

    def _append(self, make: Callable[[Array, Array | None], nn.Module], weights: Sequence[Array], b: Array) -> None:
        """Appends a module for each weight; the last one has the bias."""
        *first, last = weights
        self.modules += [*(make(W, None) for W in first), make(last, b)]

    def _convolution(self, piece: Convolution) -> None:
        from torch import nn

        self._channels_first(True)
        first, *others = self._products(piece.layer)
        b, window, dims = self.layers[piece.layer].b, piece.window, len(piece.shape) - 1
        kernel = first.reshape(len(first), window.window_height, window.window_width, -1).transpose(0, 3, 1, 2)
        padding = _even(window)
        if padding is None:
            sides = (window.left, window.right, window.top, window.bottom)
            self.modules.append(nn.ZeroPad2d(sides) if dims == 2 else nn.ConstantPad1d(sides[:2], 0.0))
            padding = (0, 0)

        def make(W: Array, b: Array | None) -> nn.Module:
            whole = W is kernel
            places = {"stride": (window.down, window.across)[-dims:], "padding": padding[-dims:]} if whole else {}
            return _convolution(W if dims == 2 else W[:, :, 0], b, **places)

        self._append(make, [kernel, *(W[:, :, np.newaxis, np.newaxis] for W in others)], b)
        self._activation(piece.layer, len(piece.made))

    def _embedding(self, piece: Embedding) -> None:
        from torch import nn

        first, *others = self._products(piece.layer)
        b = self.layers[piece.layer].b
        vectors = first.T if others else (first + b[:, np.newaxis]).T
        self.modules.append(nn.Embedding(vectors.shape[0], vectors.shape[1], _weight=_tensor(vectors)))
        if others:
            self._append(_linear, others, b)
        self._activation(piece.layer, len(piece.made))

    def _recurrent(self, piece: Recurrent) -> None:
        from svdfast import torch as ours

        self._channels_first(False)
        scans = [self._products(i) for i in piece.scans]
        weights, biases = self._products(piece.layer), [self.layers[i].b for i in (piece.layer, *piece.scans)]
        if all(len(products) == 1 for products in scans):
            *first, last = weights
            self.modules += [_linear(W, None) for W in first]
            made = _torch_recurrent(piece.cell, last, [W for (W,) in scans], biases)
            self.modules.append(ours.Recurrent(made, piece.sequences))
        else:
            parts = [_factored(products, b) for products, b in zip([weights, *scans], biases, strict=True)]
            self.modules.append(ours.FactoredRecurrent(piece.cell, *parts, return_sequences=piece.sequences))

    def _pool(self, piece: Pool) -> None:
        from torch import nn

        from svdfast.torch import MeanPool2d

        self._channels_first(True)
        window, padding = piece.window, _even(piece.window)
        size, stride = (window.window_height, window.window_width), (window.down, window.across)
        sides = (window.left, window.right, window.top, window.bottom)
        fits = padding is not None and all(2 * side <= n for side, n in zip(padding, size, strict=True))
        if isinstance(window, LargestOf):
            if not fits:
                self.modules.append(nn.ConstantPad2d(sides, -np.inf))
            self.modules.append(nn.MaxPool2d(size, stride, padding if fits and padding is not None else 0))
        elif size == piece.shape[:2] and not any(sides):
            self.modules.append(nn.AdaptiveAvgPool2d(1))
        elif fits and padding is not None:
            self.modules.append(nn.AvgPool2d(size, stride, padding, count_include_pad=False))
        else:
            self.modules.append(MeanPool2d(size, stride, sides))

    def _flatten(self, piece: Flatten) -> None:
        from torch import nn

        if len(piece.shape) > 1:
            self.modules.append(nn.Flatten())
            if self.first:
                places = np.arange(piece.made[0]).reshape(-1, piece.shape[-1])
                self.order = places.T.ravel()

    def _normalise(self, piece: Normalise) -> None:
        from torch import nn

        if len(piece.shape) > 1:
            self._channels_first(False)
        self.modules.append(nn.LayerNorm(piece.shape[-1], piece.epsilon, elementwise_affine=False))

    def _dropout(self, piece: Dropout) -> None:
        from torch import nn

        self.modules.append(nn.Dropout(piece.rate))

    def _activation(self, i: int, dims: int) -> None:
        """Appends a layer's activation. Its outputs have so many dimensions after the first."""
        from torch import nn

        function = self.layers[i].activation
        if function.name == "softmax" and self.first and dims > 1:
            self.modules.append(nn.Softmax(dim=1))
        elif function.name != "identity":
            self.modules.append(_activation(i, function))


def _activation(i: int, function: Activation) -> nn.Module:
    from torch import nn

    known = function.facts.torch
    if known is None:
        raise ValueError(f"net: layer {i}: expected an activation of torch.nn, got {function.name}")
    others = known.others(function.parameter)
    arguments = {name: values[0] for name, values in others.items()}
    if known.parameter is not None:
        arguments[known.parameter] = function.parameter
    made: nn.Module = getattr(nn, known.name)(**arguments)
    return made


def _even(window: Window) -> tuple[int, int] | None:
    """The padding, if it is the same on both sides; else None."""
    same = (window.top, window.left) == (window.bottom, window.right)
    return (window.top, window.left) if same else None


def _tensor(numbers: Array) -> torch.Tensor:
    import torch

    return torch.tensor(np.ascontiguousarray(numbers))


def _with(module: nn.Module, **numbers: Array | None) -> Any:
    """Sets these parameters of a module that was made on the device meta.

    Making it there does not draw from torch's own generator.
    """
    from torch import nn

    for name, array in numbers.items():
        if array is not None:
            setattr(module, name, nn.Parameter(_tensor(array)))
    return module


def _linear(W: Array, b: Array | None) -> nn.Linear:
    from torch import nn

    made: nn.Linear = _with(nn.Linear(W.shape[1], W.shape[0], bias=b is not None, device="meta"), weight=W, bias=b)
    return made


def _convolution(W: Array, b: Array | None, **places: Any) -> nn.Module:
    """A convolution with W (n_out, channels, height, width), or without the height."""
    from torch import nn

    kind = nn.Conv2d if W.ndim == 4 else nn.Conv1d
    made: nn.Module = _with(kind(W.shape[1], W.shape[0], W.shape[2:], bias=b is not None, device="meta", **places), weight=W, bias=b)
    return made


def _factored(products: Sequence[Array], b: Array) -> nn.Linear | FactoredLinear:
    """A Linear or a FactoredLinear."""
    from torch import nn

    from svdfast.torch import FactoredLinear

    if len(products) == 1:
        return _linear(products[0], b)
    if len(products) > 2:
        raise ValueError(f"net: expected at most two factors for a weight of a recurrent layer, got {len(products)}")
    W2, W1 = (nn.Parameter(_tensor(W)) for W in products)
    return FactoredLinear(W1, W2, nn.Parameter(_tensor(b)))


def _torch_recurrent(cell: str, weight: Array, states: Sequence[Array], biases: Sequence[Array]) -> nn.RNN | nn.GRU | nn.LSTM:
    """A recurrent layer of torch.nn. The weight and first bias are stacked over the directions."""
    from torch import nn

    n = len(states)
    more = {"nonlinearity": cell.removeprefix("rnn_")} if cell.startswith("rnn") else {}
    made = getattr(nn, _RECURRENT[cell])(
        weight.shape[1], states[0].shape[1], batch_first=True, bidirectional=n == 2, device="meta", **more
    )
    numbers: dict[str, Array] = {}
    for i, end in enumerate(("", "_reverse")[:n]):
        numbers |= {
            f"weight_ih_l0{end}": np.split(weight, n)[i], f"weight_hh_l0{end}": states[i],
            f"bias_ih_l0{end}": np.split(biases[0], n)[i], f"bias_hh_l0{end}": biases[1 + i],
        }  # fmt: skip
    recurrent: nn.RNN | nn.GRU | nn.LSTM = _with(made, **numbers)
    return recurrent
