# SPDX-License-Identifier: BSD-3-Clause
"""Modules that networks of svdfast need in PyTorch and torch.nn lacks, public in svdfast.torch.

Elsewhere: the factored Linear (layers.py), the method (factorize.py), and how a network is written
with these modules (interop/torch_writing.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from svdfast.torch.layers import FactoredLinear

    Weight: TypeAlias = nn.Linear | FactoredLinear

__all__ = ["ChannelsFirst", "ChannelsLast", "FactoredRecurrent", "MeanPool2d", "Recurrent"]


class ChannelsFirst(nn.Module):
    """(n, ..., channels) to (n, channels, ...), as torch.nn's convolutions and pooling take it.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch import ChannelsFirst
    >>> ChannelsFirst()(torch.zeros(2, 28, 3)).shape
    torch.Size([2, 3, 28])
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (n, ..., channels) to (n, channels, ...)."""
        return x.movedim(-1, 1)


class ChannelsLast(nn.Module):
    """(n, channels, ...) to (n, ..., channels), as torch.nn's recurrent layers, Linear and LayerNorm take it.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch import ChannelsLast
    >>> ChannelsLast()(torch.zeros(2, 3, 28)).shape
    torch.Size([2, 28, 3])
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (n, channels, ...) to (n, ..., channels)."""
        return x.movedim(1, -1)


class MeanPool2d(nn.Module):
    """The mean of each channel under a window that moves over images (n, channels, height, width).

    The padding is left out of the mean. torch.nn.AvgPool2d does the same if the padding is equal on
    both sides and at most half of the window.

    Parameters
    ----------
    kernel_size, stride : (int, int)
    padding : (int, int, int, int)
        Left, right, top, bottom, as for torch.nn.ZeroPad2d.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch import MeanPool2d
    >>> MeanPool2d((2, 2), (2, 2), (0, 1, 0, 1))(torch.ones(1, 1, 3, 3))
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """

    def __init__(self, kernel_size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int] = (0, 0, 0, 0)):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """x (n, channels, height, width) to (n, channels, rows, columns)."""
        pad, pool = nn.functional.pad, nn.functional.avg_pool2d
        within = pool(pad(torch.ones_like(x[:1, :1]), self.padding), self.kernel_size, self.stride)
        return pool(pad(x, self.padding), self.kernel_size, self.stride) / within

    def extra_repr(self) -> str:
        """The settings that `repr` shows."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class Recurrent(nn.Module):
    """A recurrent layer of torch.nn with one output, so that it can stand in a Sequential.

    It takes (n, steps, features). It returns the states after each step, (n, steps, width), or the
    state after the last step, (n, width). To that, a bidirectional layer appends the backward
    direction's state after the first step.

    Parameters
    ----------
    module : torch.nn.RNN, torch.nn.GRU or torch.nn.LSTM
        With batch_first=True.
    return_sequences : bool

    Raises
    ------
    TypeError, ValueError
        `module` is of another type, or lacks batch_first=True.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch import Recurrent
    >>> layer = Recurrent(torch.nn.GRU(28, 64, batch_first=True))
    >>> layer(torch.zeros(5, 10, 28)).shape
    torch.Size([5, 64])
    """

    def __init__(self, module: nn.RNN | nn.GRU | nn.LSTM, return_sequences: bool = False):
        super().__init__()
        if not isinstance(module, nn.RNN | nn.GRU | nn.LSTM):
            raise TypeError(f"module: expected a torch.nn.RNN, GRU or LSTM, got {type(module).__name__}")
        if not module.batch_first:
            raise ValueError("module: expected batch_first=True, got False")
        self.module = module
        self.return_sequences = return_sequences

    def forward(self, x: Tensor) -> Tensor:
        """x (n, steps, n_in) to (n, steps, n_out), or to (n, n_out) of the last step."""
        states: Tensor = self.module(x)[0]
        return states if self.return_sequences else _last(states, self.module.bidirectional)

    def extra_repr(self) -> str:
        """The settings that `repr` shows."""
        return f"return_sequences={self.return_sequences}"


def _last(states: Tensor, both: bool) -> Tensor:
    if not both:
        return states[:, -1]
    n = states.shape[2] // 2
    return torch.cat([states[:, -1, :n], states[:, 0, n:]], dim=1)


State: TypeAlias = tuple[Tensor, ...]


def _tanh(z: Tensor, r: Tensor, state: State) -> State:
    return (torch.tanh(z + r),)


def _relu(z: Tensor, r: Tensor, state: State) -> State:
    return (torch.relu(z + r),)


def _gru(z: Tensor, r: Tensor, state: State) -> State:
    (h,) = state
    z_reset, z_keep, z_new = z.chunk(3, dim=1)
    r_reset, r_keep, r_new = r.chunk(3, dim=1)
    keep = torch.sigmoid(z_keep + r_keep)
    new = torch.tanh(z_new + torch.sigmoid(z_reset + r_reset) * r_new)
    return ((1 - keep) * new + keep * h,)


def _lstm(z: Tensor, r: Tensor, state: State) -> State:
    i, f, g, o = (z + r).chunk(4, dim=1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


_CELLS: dict[str, tuple[int, int, Callable[[Tensor, Tensor, State], State]]] = {  # gates, parts of the state
    "rnn_tanh": (1, 1, _tanh), "rnn_relu": (1, 1, _relu), "gru": (3, 1, _gru), "lstm": (4, 2, _lstm),
}  # fmt: skip


class FactoredRecurrent(nn.Module):
    """A recurrent layer whose weights are Linear or FactoredLinear modules; torch.nn's own have no place for factors.

    It computes what `Recurrent` does, step by step in Python. Gates are stacked as in torch.nn.

    Parameters
    ----------
    cell : {"rnn_tanh", "rnn_relu", "gru", "lstm"}
    input : torch.nn.Linear or FactoredLinear
        From features to the gates. A bidirectional layer has the gates of both directions, the
        forward one's first.
    *states : torch.nn.Linear or FactoredLinear
        From the state to the gates; a second module is for the backward direction.
    return_sequences : bool

    Raises
    ------
    TypeError, ValueError
        `cell` is not known, or the sizes do not fit each other.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch import FactoredLinear, FactoredRecurrent
    >>> W1, W2 = torch.nn.Parameter(torch.rand(192, 16)), torch.nn.Parameter(torch.rand(16, 64))
    >>> layer = FactoredRecurrent("gru", torch.nn.Linear(28, 192), FactoredLinear(W1, W2))
    >>> layer(torch.zeros(5, 10, 28)).shape
    torch.Size([5, 64])
    """

    def __init__(self, cell: str, input: Weight, *states: Weight, return_sequences: bool = False):
        super().__init__()
        if cell not in _CELLS:
            raise ValueError(f"cell: expected one of {', '.join(_CELLS)}, got {cell!r}")
        if len(states) not in (1, 2):
            raise TypeError(f"states: expected one or two modules, got {len(states)}")
        n = states[0].in_features
        gates = _CELLS[cell][0] * n
        for state in states:
            if (state.in_features, state.out_features) != (n, gates):
                raise ValueError(f"states: expected {n} inputs and {gates} outputs, got {state}")
        if input.out_features != len(states) * gates:
            raise ValueError(f"input: expected {len(states) * gates} outputs, got {input}")
        self.cell = cell
        self.input = input
        self.states = nn.ModuleList(states)
        self.return_sequences = return_sequences

    def forward(self, x: Tensor) -> Tensor:
        """x (n, steps, n_in) to (n, steps, n_out), or to (n, n_out) of the last step."""
        z = self.input(x).chunk(len(self.states), dim=2)
        sides = [self._scan(z[i], state, reverse=i == 1) for i, state in enumerate(self.states)]
        states = torch.cat(sides, dim=2)
        return states if self.return_sequences else _last(states, len(sides) == 2)

    def _scan(self, z: Tensor, weight: nn.Module, reverse: bool) -> Tensor:
        """The states (n, steps, width) of one direction."""
        gates, parts, cell = _CELLS[self.cell]
        state: State = (z.new_zeros(len(z), z.shape[2] // gates),) * parts
        made = []
        for z_step in reversed(z.unbind(1)) if reverse else z.unbind(1):
            state = cell(z_step, weight(state[0]), state)
            made.append(state[0])
        return torch.stack(made[::-1] if reverse else made, dim=1)

    def extra_repr(self) -> str:
        """The settings that `repr` shows."""
        return f"cell={self.cell!r}, return_sequences={self.return_sequences}"
