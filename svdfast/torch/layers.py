# SPDX-License-Identifier: BSD-3-Clause
"""Layers of PyTorch whose weights are two factors: linear, convolutional and recurrent layers.

Elsewhere: attention (attention.py); which factored layer replaces which type, and how it is made
(kinds.py); how a layer is truncated (truncate.py); modules that svdfast's networks need in PyTorch
(modules.py).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from svdfast.torch.products import product

if TYPE_CHECKING:
    from svdfast.torch.kinds import Kind

__all__ = [
    "Factored", "FactoredConv1d", "FactoredConv2d", "FactoredGRU", "FactoredLSTM", "FactoredLinear", "FactoredRNN",
    "FactoredTransposedLinear", "is_channels_last", "like_memory_of", "recurrent",
]  # fmt: skip


class Factored(nn.Module):
    """A layer whose weight W (n_out, n_in) is W1·W2. The base of all factored layers.

    It has the parameters of the layer that it replaces, with `factors` in place of the weight.
    """

    # TorchScript compiles everything that is not named here.
    __jit_unused_properties__: ClassVar = ["factors", "in_features", "kind", "nf", "nx", "out_features", "rank"]

    if TYPE_CHECKING:  # TorchScript would not understand it
        W2: nn.Parameter

    @property
    def factors(self) -> tuple[tuple[nn.Parameter, ...], nn.Parameter]:
        """The parameters that hold the rows of W1, one or more, and the one that holds W2."""
        raise NotImplementedError

    @property
    def rank(self) -> int:
        return self.W2.shape[0]

    @property
    def in_features(self) -> int:
        """The columns of W."""
        return self.W2[0].numel()

    @property
    def out_features(self) -> int:
        """The rows of W."""
        return sum(len(W1) for W1 in self.factors[0])

    @property
    def kind(self) -> Kind:
        """The Kind of this type of layer."""
        from svdfast.torch.kinds import kind_of

        kind = kind_of(self)
        assert kind is not None
        return kind

    def shaped(self, M1: Tensor, M2: Tensor) -> tuple[Tensor, ...]:
        """M1 (n_out, l) and M2 (l, n_in), such as moments, shaped as the factors' parameters.

        The parts of W1 come first.
        """
        W1s, W2 = self.factors
        rows = torch.split(M1, [len(W1) for W1 in W1s])
        return (*(row.contiguous() for row in rows), like_memory_of(W2, M2.reshape(W2.shape)))

    def matrices(self, tensors: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The inverse of `shaped`: two matrices (n_out, l) and (l, n_in).

        Without `tensors` they are W1 and W2, from the factors themselves.
        """
        if tensors is None:
            W1s, W2 = self.factors
            tensors = (*W1s, W2)
        *rows, last = tensors
        return rows[0] if len(rows) == 1 else torch.cat(rows), last.reshape(len(last), -1)

    def dense(self) -> nn.Module:
        """The layer of torch.nn with W = W1·W2. The other parameters are the same objects."""
        raise NotImplementedError

    def _product(self) -> Tensor:
        W1, W2 = self.matrices()
        return product(W1, W2).to(W2.dtype).detach()

    def _trained(self) -> bool:
        W1s, W2 = self.factors
        return any(p.requires_grad for p in (*W1s, W2))


def _check(W1: Any, W2: Any, bias: Any, ndim: int) -> None:
    """Refuses anything but parameters, and shapes that do not fit each other."""
    for name, tensor in {"W1": W1, "W2": W2, "bias": bias}.items():
        if not isinstance(tensor, nn.Parameter) and not (name == "bias" and tensor is None):
            raise TypeError(f"{name}: expected a torch.nn.Parameter, got {type(tensor).__name__}")
    if W1.ndim != 2 or W2.ndim != ndim or W1.shape[1] != W2.shape[0] or 0 in (*W1.shape, *W2.shape):
        columns = {2: "n_in", 3: "channels, k", 4: "channels, kh, kw"}[ndim]
        raise ValueError(
            f"W1, W2: expected shapes (n_out, rank) and (rank, {columns}), got {tuple(W1.shape)} and {tuple(W2.shape)}"
        )
    if bias is not None and bias.shape != W1.shape[:1]:
        raise ValueError(f"bias: expected shape ({len(W1)},), got {tuple(bias.shape)}")


class FactoredLinear(Factored):
    """A Linear layer with its weight as two factors: y = x·W2ᵀ·W1ᵀ + b.

    Parameters
    ----------
    W1 : torch.nn.Parameter (n_out, rank)
    W2 : torch.nn.Parameter (rank, n_in)
    bias : torch.nn.Parameter (n_out,), optional
        All three are used without a copy. In a ``state_dict`` they are "W1", "W2" and "bias".

    Raises
    ------
    TypeError, ValueError
        Something is not a parameter; the shapes do not fit each other.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch import FactoredLinear
    >>> W1 = torch.nn.Parameter(torch.rand(512, 64))
    >>> W2 = torch.nn.Parameter(torch.rand(64, 784))
    >>> layer = FactoredLinear(W1, W2)
    >>> layer
    FactoredLinear(in_features=784, out_features=512, rank=64, bias=False)
    >>> layer(torch.rand(10, 784)).shape
    torch.Size([10, 512])
    """

    if TYPE_CHECKING:
        W1: nn.Parameter
        bias: nn.Parameter | None

    def __init__(self, W1: nn.Parameter, W2: nn.Parameter, bias: nn.Parameter | None = None):
        super().__init__()
        _check(W1, W2, bias, 2)
        self.W1 = W1
        self.W2 = W2
        self.register_parameter("bias", bias)

    @property
    def factors(self) -> tuple[tuple[nn.Parameter, ...], nn.Parameter]:
        return (self.W1,), self.W2

    @property
    def in_features(self) -> int:
        return self.W2.shape[1]

    @property
    def out_features(self) -> int:
        return self.W1.shape[0]

    @property
    def rank(self) -> int:
        return self.W1.shape[1]

    @property
    def weight(self) -> Tensor:
        """W1·W2, for code that reads a Linear's weight. It is computed at each access."""
        return self.W1 @ self.W2

    def forward(self, x: Tensor) -> Tensor:
        """x (..., n_in) to (..., n_out)."""
        return nn.functional.linear(nn.functional.linear(x, self.W2), self.W1, self.bias)

    def dense(self) -> nn.Module:
        # On the device meta, as initial weights would draw from torch's own generator.
        made = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        made.weight = nn.Parameter(self._product(), self._trained())
        made.register_parameter("bias", self.bias)
        return made.train(self.training)

    def extra_repr(self) -> str:
        """The settings that `repr` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"bias={self.bias is not None}"
        )


class FactoredTransposedLinear(FactoredLinear):
    """Conv1D of Hugging Face's transformers, a Linear with weight (n_in, n_out), as two factors.

    `factorize` makes it. Its factors are those of the transposed weight, as in `FactoredLinear`.
    """

    @property
    def weight(self) -> Tensor:
        """(W1·W2)ᵀ, for code that reads a Conv1D's weight."""
        return (self.W1 @ self.W2).T

    @property
    def nf(self) -> int:
        return self.out_features

    @property
    def nx(self) -> int:
        return self.in_features

    def dense(self) -> nn.Module:
        type_: Any = importlib.import_module("transformers.pytorch_utils").Conv1D
        with torch.device("meta"):  # no initial weights are drawn
            made: nn.Module = type_(self.out_features, self.in_features)
        made.weight = nn.Parameter(self._product().T.contiguous(), self._trained())
        made.register_parameter("bias", self.bias)
        return made.train(self.training)


# ---- convolutions


def is_channels_last(tensor: Tensor) -> bool:
    """True if the channels of an image's or a convolution's tensor lie side by side."""
    if tensor.ndim != 4 or tensor.shape[1] == 1:
        return False
    # A single position fits every memory format; the strides tell which one was meant.
    return tensor.stride(3) == tensor.shape[1] and tensor.is_contiguous(memory_format=torch.channels_last)


def like_memory_of(model: Tensor, tensor: Tensor) -> Tensor:
    """The tensor made contiguous, with its channels side by side if those of `model` are."""
    if not is_channels_last(model):
        return tensor.contiguous()
    if is_channels_last(tensor):
        return tensor
    return torch.empty_like(tensor, memory_format=torch.channels_last).copy_(tensor)


class _FactoredConv(Factored):
    """A k×k convolution from c_in to l channels, then a 1×1 convolution from l to c_out.

    The first one has the layer's stride, padding and dilation.
    """

    _type: Any  # of torch.nn
    _ndim: int  # of positions

    if TYPE_CHECKING:
        W1: nn.Parameter
        bias: nn.Parameter | None

    def __init__(
        self,
        W1: nn.Parameter,
        W2: nn.Parameter,
        bias: nn.Parameter | None = None,
        *,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        padding_mode: str = "zeros",
    ):
        super().__init__()
        _check(W1, W2, bias, 2 + self._ndim)
        # Taken from torch.nn's own layer, which checks the settings and knows its padding.
        like = self._type(W2.shape[1], len(W1), tuple(W2.shape[2:]), stride, padding, dilation, 1, False, padding_mode, device="meta")
        self.in_channels, self.out_channels = like.in_channels, like.out_channels
        self.kernel_size, self.stride, self.padding, self.dilation = like.kernel_size, like.stride, like.padding, like.dilation
        self.groups, self.padding_mode = 1, padding_mode
        self._around = tuple(like._reversed_padding_repeated_twice)
        self.W1 = W1
        self.W2 = W2
        self.register_parameter("bias", bias)

    @property
    def factors(self) -> tuple[tuple[nn.Parameter, ...], nn.Parameter]:
        return (self.W1,), self.W2

    @property
    def weight(self) -> Tensor:
        """W1·W2, for code that reads a convolution's weight.

        Each access computes it; it is no parameter.
        """
        return torch.tensordot(self.W1, self.W2, 1)

    def _convolved(self, x: Tensor, convolution: Callable[..., Tensor]) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = nn.functional.pad(x, self._around, mode=self.padding_mode), (0,) * self._ndim
        within = convolution(x, self.W2, None, self.stride, padding, self.dilation)
        return convolution(within, self.W1[(..., *[None] * self._ndim)], self.bias)

    def dense(self) -> nn.Module:
        made = self._type(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation, 1, False,
            self.padding_mode, device="meta",
        )  # fmt: skip
        weight = like_memory_of(self.W2, self._product().reshape(-1, *self.W2.shape[1:]))
        made.weight = nn.Parameter(weight, self._trained())
        made.register_parameter("bias", self.bias)
        return made.train(self.training)

    def extra_repr(self) -> str:
        """The settings that `repr` shows."""
        shown = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, rank={self.rank}, stride={self.stride}"
        for name, default in (("padding", (0,) * self._ndim), ("dilation", (1,) * self._ndim), ("padding_mode", "zeros")):
            value = getattr(self, name)
            shown += "" if value == default else f", {name}={value!r}"
        return f"{shown}, bias={self.bias is not None}"


class FactoredConv1d(_FactoredConv):
    """A Conv1d with its weight as two factors: a convolution to `rank` channels, then a pointwise one.

    Parameters
    ----------
    W1, W2, bias, stride, padding, dilation, padding_mode
        As for `FactoredConv2d`, but W2 has the shape (rank, in_channels, kernel).

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch import FactoredConv1d
    >>> W1 = torch.nn.Parameter(torch.rand(64, 16))
    >>> W2 = torch.nn.Parameter(torch.rand(16, 32, 5))
    >>> layer = FactoredConv1d(W1, W2, padding="same")
    >>> layer(torch.rand(10, 32, 100)).shape
    torch.Size([10, 64, 100])
    """

    _type, _ndim = nn.Conv1d, 1

    def forward(self, x: Tensor) -> Tensor:
        """x (n, in_channels, length), or without the n, to (n, out_channels, positions)."""
        return self._convolved(x, nn.functional.conv1d)


class FactoredConv2d(_FactoredConv):
    """A Conv2d with its weight as two factors: a convolution to `rank` channels, then a pointwise one.

    Parameters
    ----------
    W1 : torch.nn.Parameter (out_channels, rank)
    W2 : torch.nn.Parameter (rank, in_channels, height, width)
    bias : torch.nn.Parameter (out_channels,), optional
        All three are used without a copy.
    stride, padding, dilation, padding_mode
        As for torch.nn.Conv2d; they apply to the first convolution.

    Raises
    ------
    TypeError, ValueError
        Something is not a parameter; the shapes do not fit each other.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch import FactoredConv2d
    >>> W1 = torch.nn.Parameter(torch.rand(64, 16))
    >>> W2 = torch.nn.Parameter(torch.rand(16, 32, 3, 3))
    >>> layer = FactoredConv2d(W1, W2, stride=2, padding=1)
    >>> layer
    FactoredConv2d(32, 64, kernel_size=(3, 3), rank=16, stride=(2, 2), padding=(1, 1), bias=False)
    >>> layer(torch.rand(10, 32, 28, 28)).shape
    torch.Size([10, 64, 14, 14])
    """

    _type, _ndim = nn.Conv2d, 2

    def forward(self, x: Tensor) -> Tensor:
        """x (n, in_channels, height, width), or without the n, to (n, out_channels, rows, columns)."""
        return self._convolved(x, nn.functional.conv2d)


# ---- recurrent layers


def recurrent(type_: Any, like: nn.RNNBase, input_size: int) -> Any:
    """A recurrent layer of this type with the settings of another.

    It shares the other's parameters, except those of the first input.
    """
    settings: dict[str, Any] = dict(
        num_layers=like.num_layers, bias=like.bias, batch_first=like.batch_first, bidirectional=like.bidirectional,
    )  # fmt: skip
    if like.mode == "LSTM":
        settings["proj_size"] = like.proj_size
    elif like.mode != "GRU":
        settings["nonlinearity"] = like.nonlinearity
    made = type_(input_size, like.hidden_size, device="meta", **settings)
    made.dropout = like.dropout  # set afterwards, as the constructor would warn of it again
    for name in like._flat_weights_names:
        if not name.startswith("weight_ih_l0"):
            setattr(made, name, getattr(like, name))
    return made.train(like.training)


class _FactoredRecurrent(Factored):
    """A product with W2 for all steps at once, then the layer of torch.nn.

    The rows of W1 are the first weights of that layer. The state's weight stays dense, as the
    kernel of torch.nn takes one tensor for it. ``input_size`` is the rank.
    """

    _type: Any  # of torch.nn

    @property
    def factors(self) -> tuple[tuple[nn.Parameter, ...], nn.Parameter]:
        names = ["weight_ih_l0", "weight_ih_l0_reverse"][: 2 if self.bidirectional else 1]
        return tuple(getattr(self, name) for name in names), self.W2

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> Any:
        """Same as the layer of torch.nn, packed sequences included."""
        data = input.data if isinstance(input, PackedSequence) else input
        # Autocast returns the product in its own type, but may run the layer in the input's.
        within: Any = nn.functional.linear(data, self.W2).to(data.dtype)
        if isinstance(input, PackedSequence):
            within = input._replace(data=within)
        return self._type.forward(self, within, hx)

    def dense(self) -> nn.Module:
        like: Any = self  # one of torch.nn's, too
        made = recurrent(self._type, like, self.in_features)
        rows = torch.split(self._product(), [len(W1) for W1 in self.factors[0]])
        for name, row in zip(("weight_ih_l0", "weight_ih_l0_reverse"), rows, strict=False):
            setattr(made, name, nn.Parameter(row.contiguous(), self._trained()))
        made._init_flat_weights()
        return made

    def extra_repr(self) -> str:
        """The settings that `repr` shows."""
        return f"in_features={self.in_features}, rank={self._type.extra_repr(self)}"


class FactoredLSTM(_FactoredRecurrent, nn.LSTM):
    """A torch.nn.LSTM with the weight of its first input as two factors; `factorize` makes it.

    Both directions share W2. The arguments are those of the LSTM behind the product with W2:
    ``input_size`` is the rank.
    """

    _type = nn.LSTM


class FactoredGRU(_FactoredRecurrent, nn.GRU):
    """A torch.nn.GRU with the weight of its first input as two factors; `factorize` makes it.

    Both directions share W2. The arguments are those of the GRU behind the product with W2:
    ``input_size`` is the rank.
    """

    _type = nn.GRU


class FactoredRNN(_FactoredRecurrent, nn.RNN):
    """A torch.nn.RNN with the weight of its first input as two factors; `factorize` makes it.

    Both directions share W2. The arguments are those of the RNN behind the product with W2:
    ``input_size`` is the rank.
    """

    _type = nn.RNN
