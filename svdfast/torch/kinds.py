# SPDX-License-Identifier: BSD-3-Clause
"""The types of layers that can be factored: their weights as matrices, their factored layers. ::

    type                   W (n_out, n_in)                          factored
    Linear                 weight                                   FactoredLinear
    Conv2d, Conv1d         weight, (c_out, c_in·k·k)                k×k to l channels, then 1×1
    LSTM, GRU, RNN         weight_ih_l0, both directions' as rows   a product before the layer of torch.nn
    MultiheadAttention     in_proj_weight, (3e, e)                  one W2 for queries, keys and values
    transformers' Conv1D   weightᵀ                                  FactoredTransposedLinear

A new type is a class here and a factored layer. Elsewhere: the factored layers (layers.py,
attention.py), and which layers their place in a model excludes (places.py).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from svdfast.torch import layers as made
from svdfast.torch.attention import FactoredMultiheadAttention, attention
from svdfast.torch.layers import Factored, is_channels_last, like_memory_of, recurrent

__all__ = ["Convolution", "Kind", "kind_of", "own_parameters"]


class Kind:
    """The knowledge about one type of layer. This base class describes Linear.

    Methods take a layer of torch.nn (or transformers), not a factored one.
    """

    name: ClassVar[str] = "linear"

    def names(self, layer: Any) -> tuple[str, ...]:
        """The attributes that hold the weight: one, or two for two directions."""
        return ("weight",)

    def weights(self, layer: Any) -> tuple[nn.Parameter, ...]:
        """The parameters that hold the weight."""
        return tuple(getattr(layer, name) for name in self.names(layer))

    def others(self, layer: Any) -> frozenset[str]:
        """The attributes that may hold other parameters."""
        return frozenset({"bias"})

    def matrix(self, layer: Any, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors shaped as `weights`, such as gradients or moments, as one matrix (n_out, n_in)."""
        (tensor,) = tensors
        return tensor.reshape(len(tensor), -1)

    def tensors(self, layer: Any, M: Tensor) -> tuple[Tensor, ...]:
        """The inverse of `matrix`."""
        (weight,) = self.weights(layer)
        return (like_memory_of(weight, M.reshape(weight.shape)),)

    def sides(self, layer: Any) -> tuple[int, int]:
        """n_in and n_out of the matrix; weights without numbers (device meta) will do."""
        n_out, n_in = self.matrix(layer, [torch.empty(w.shape, device="meta") for w in self.weights(layer)]).shape
        return n_in, n_out

    def factored(self, layer: Any, W1: Tensor, W2: Tensor) -> Factored:
        """The layer with the factors W1 (n_out, l) and W2 (l, n_in).

        The other parameters are the same objects.
        """
        weights = self.weights(layer)
        trained = any(weight.requires_grad for weight in weights)

        def parameter(tensor: Tensor) -> nn.Parameter:
            return nn.Parameter(tensor.to(weights[0].device, weights[0].dtype).contiguous(), trained)

        made = self._factored(layer, parameter(W1), parameter(W2))
        _order(made, layer, self.names(layer))
        return made

    def _factored(self, layer: Any, W1: nn.Parameter, W2: nn.Parameter) -> Factored:
        return made.FactoredLinear(W1, W2, layer.bias).train(layer.training)

    def inputs(self, layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """The arguments of a call that the weight is multiplied with. The layer may be factored."""
        return _tensors(args[0] if args else kwargs.get("input", kwargs.get("x")))

    def rows(self, layer: Any, inputs: Sequence[Tensor], limit: int, generator: torch.Generator) -> tuple[Tensor, int]:
        """A random choice of at most `limit` vectors that the weight is multiplied with.

        Returns them, (rows, n_in), and the number of all such vectors.
        """
        n_in = self.columns(layer)
        found = [x.detach().reshape(-1, n_in) for x in inputs]
        n = sum(len(x) for x in found)
        share = max(1, limit // len(found))
        some = [x if len(x) <= share else x[chosen(len(x), share, generator).to(x.device)] for x in found]
        return some[0] if len(some) == 1 else torch.cat(some), n

    def count(self, layer: Any, shapes: Sequence[Sequence[int]]) -> int:
        """The number of vectors that the weight is multiplied with, from the inputs' shapes."""
        return sum(math.prod(shape[:-1]) for shape in shapes)

    def batch_axis(self, layer: Any, ndim: int) -> int | None:
        """The axis of an input along which it may be split into samples; None without one."""
        return 0 if ndim > 1 else None

    def call(self, layer: Any, inputs: Sequence[Tensor]) -> Tensor:
        """The layer's main output for such inputs as `inputs` gives."""
        return layer(*inputs)

    def columns(self, layer: Any) -> int:
        """n_in of a dense or a factored layer."""
        return layer.in_features if isinstance(layer, Factored) else self.sides(layer)[0]

    def why_not(self, layer: Any) -> str | None:
        """The reason in a layer's settings why it can't be factored, if any."""
        return None

    def why_rather_not(self, layer: Any) -> str | None:
        """The reason in a layer's settings to leave it unless its user insists, if any."""
        return None

    def left(self, layer: Any) -> Mapping[str, str]:
        """Other matrices of the layer, by their parameters' names, and why they are left."""
        return {}


def _tensors(*inputs: Any) -> tuple[Tensor, ...]:
    for x in inputs:
        if not isinstance(x, Tensor):
            raise TypeError(f"expected a tensor as a layer's input, got {type(x).__name__}")
    return inputs


def _order(made: Factored, layer: nn.Module, weights: Sequence[str]) -> None:
    """Puts parameters in the layer's order: W1 in the place of W, and W2 behind it.

    A new optimizer then holds them in the same order as one that went through a switch.
    """
    left, right = made.factors
    names = {id(p): name for name, p in made._parameters.items()}
    factors = {name: [names[id(W1)]] for name, W1 in zip(weights, left, strict=True)}
    factors[weights[0]].append(names[id(right)])
    order = [name for old in layer._parameters for name in factors.get(old, [old])]
    order += [name for name in made._parameters if name not in order]
    for name in order:
        if name in made._parameters:
            made._parameters[name] = made._parameters.pop(name)


class TransposedLinear(Kind):
    """Conv1D of transformers."""

    name = "transposed linear"

    def matrix(self, layer: Any, tensors: Sequence[Tensor]) -> Tensor:
        (tensor,) = tensors
        return tensor.T

    def tensors(self, layer: Any, M: Tensor) -> tuple[Tensor, ...]:
        return (M.T.contiguous(),)

    def _factored(self, layer: Any, W1: nn.Parameter, W2: nn.Parameter) -> Factored:
        return made.FactoredTransposedLinear(W1, W2, layer.bias).train(layer.training)


# With so few channels a rank below n_in is hardly smaller, and a first layer's input has no
# gradient to save.
_FEW_CHANNELS = 3


class Convolution(Kind):
    """Conv1d and Conv2d."""

    name = "convolution"

    def why_not(self, layer: Any) -> str | None:
        if layer.groups == 1:
            return None
        return "it is depthwise" if layer.groups == layer.in_channels else f"it is grouped, into {layer.groups}"

    def why_rather_not(self, layer: Any) -> str | None:
        if all(size == 1 for size in layer.kernel_size):
            return "it is a 1×1 convolution, whose factors would be two of these"
        if layer.in_channels <= _FEW_CHANNELS:
            return f"it has {layer.in_channels} input channels only, as a first convolution has"
        return None

    def rows(self, layer: Any, inputs: Sequence[Tensor], limit: int, generator: torch.Generator) -> tuple[Tensor, int]:
        x = inputs[0].detach()
        n_positions = len(layer.kernel_size)
        if x.ndim == n_positions + 1:
            x = x.unsqueeze(0)
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = nn.functional.pad(x, around(layer), mode=mode)
        counts = [
            (size - d * (k - 1) - 1) // s + 1
            for size, k, s, d in zip(x.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
        ]
        n = math.prod([len(x), *counts])
        if min(counts, default=1) < 1 or n == 0:  # the layer's own error follows, or there is nothing
            return x.new_empty(0, self.columns(layer)), 0
        places = chosen(n, limit, generator) if n > limit else torch.arange(n)
        where: list[Tensor] = []
        for count, k, s, d in reversed(list(zip(counts, layer.kernel_size, layer.stride, layer.dilation, strict=True))):
            # (places, k) of this axis; the last axis varies fastest
            where.insert(0, (places % count * s)[:, None] + torch.arange(k) * d)
            places = places // count
        if n_positions == 2:
            where = [where[0][:, :, None], where[1][:, None, :]]
            places = places[:, None]
        index = [part.to(x.device) for part in (places[:, None], *where)]
        patches = x.movedim(1, -1)[tuple(index)]  # (places, k..., channels)
        return patches.movedim(-1, 1).reshape(len(patches), -1), n

    def count(self, layer: Any, shapes: Sequence[Sequence[int]]) -> int:
        (shape,) = shapes
        n_positions = len(layer.kernel_size)
        n = math.prod(shape[: len(shape) - n_positions - 1])
        return n * math.prod(size // s for size, s in zip(shape[-n_positions:], layer.stride, strict=True))

    def batch_axis(self, layer: Any, ndim: int) -> int | None:
        return 0 if ndim == len(layer.kernel_size) + 2 else None

    def _factored(self, layer: Any, W1: nn.Parameter, W2: nn.Parameter) -> Factored:
        type_ = made.FactoredConv1d if isinstance(layer, nn.Conv1d) else made.FactoredConv2d
        shape = (len(W2), *layer.weight.shape[1:])
        data = W2.detach().reshape(shape)
        if is_channels_last(layer.weight):
            data = torch.empty_like(data, memory_format=torch.channels_last).copy_(data)
        new = type_(
            W1, nn.Parameter(data, W2.requires_grad), layer.bias, stride=layer.stride, padding=layer.padding,
            dilation=layer.dilation, padding_mode=layer.padding_mode,
        )  # fmt: skip
        return new.train(layer.training)


class Recurrent(Kind):
    """The first input's weight of LSTM, GRU and RNN."""

    name = "recurrent"
    _types: ClassVar[Mapping[type, type]] = {
        nn.LSTM: made.FactoredLSTM, nn.GRU: made.FactoredGRU, nn.RNN: made.FactoredRNN,
    }  # fmt: skip

    def names(self, layer: Any) -> tuple[str, ...]:
        return ("weight_ih_l0", "weight_ih_l0_reverse") if layer.bidirectional else ("weight_ih_l0",)

    def others(self, layer: Any) -> frozenset[str]:
        return frozenset(layer._flat_weights_names) - set(self.names(layer))

    def matrix(self, layer: Any, tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))

    def tensors(self, layer: Any, M: Tensor) -> tuple[Tensor, ...]:
        return tuple(rows.contiguous() for rows in torch.split(M, [len(w) for w in self.weights(layer)]))

    def _factored(self, layer: Any, W1: nn.Parameter, W2: nn.Parameter) -> Factored:
        new: Any = recurrent(self._types[type(layer)], layer, len(W2))
        rows = self.tensors(layer, W1.detach())
        for name, row in zip(self.names(layer), rows, strict=True):
            setattr(new, name, nn.Parameter(row, W1.requires_grad))
        new.W2 = W2
        new._init_flat_weights()
        made: Factored = new
        return made

    def inputs(self, layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        x = args[0] if args else kwargs["input"]
        if isinstance(x, PackedSequence):
            # Taken as sequences of the mean length; the few remaining rows are left out.
            steps, (rows, n_in) = len(x.batch_sizes), x.data.shape
            n = rows // steps
            x = x.data[: n * steps].reshape((n, steps, n_in) if layer.batch_first else (steps, n, n_in))
        return _tensors(x)

    def batch_axis(self, layer: Any, ndim: int) -> int | None:
        return 1 if ndim == 3 and not layer.batch_first else 0

    def call(self, layer: Any, inputs: Sequence[Tensor]) -> Tensor:
        return layer(*inputs)[0]

    def left(self, layer: Any) -> Mapping[str, str]:
        reason = "its fused kernel takes one weight"
        return {name: reason for name in layer._flat_weights_names if name.startswith("weight") and not name.startswith("weight_ih_l0")}


class Attention(Kind):
    """The three input projections of MultiheadAttention."""

    name = "attention"

    def names(self, layer: Any) -> tuple[str, ...]:
        if layer.in_proj_weight is None:
            return ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        return ("in_proj_weight",)

    def others(self, layer: Any) -> frozenset[str]:
        return frozenset({"in_proj_bias", "bias_k", "bias_v"})

    def inputs(self, layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        given = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs)
        query, key, value = given["query"], given["key"], given["value"]
        # Self-attention multiplies one input; an input that is given twice counts twice.
        return _tensors(query) if query is key and key is value else _tensors(query, key, value)

    def batch_axis(self, layer: Any, ndim: int) -> int | None:
        return 1 if ndim == 3 and not layer.batch_first else 0

    def call(self, layer: Any, inputs: Sequence[Tensor]) -> Tensor:
        query, key, value = inputs if len(inputs) == 3 else (inputs[0],) * 3
        return layer(query, key, value, need_weights=False)[0]

    def sides(self, layer: Any) -> tuple[int, int]:
        return layer.embed_dim, 3 * layer.embed_dim

    def _factored(self, layer: Any, W1: nn.Parameter, W2: nn.Parameter) -> Factored:
        new = attention(FactoredMultiheadAttention, layer)
        new.W1, new.W2 = W1, W2
        return new

    def why_not(self, layer: Any) -> str | None:
        if layer.in_proj_weight is None:
            return "its keys or values have a size of their own, so that its projections have no factor in common"
        return None


_LINEAR, _TRANSPOSED, _CONVOLUTION, _RECURRENT, _ATTENTION = Kind(), TransposedLinear(), Convolution(), Recurrent(), Attention()
_KINDS: dict[type, Kind] = {
    nn.Linear: _LINEAR, nn.Conv1d: _CONVOLUTION, nn.Conv2d: _CONVOLUTION, nn.LSTM: _RECURRENT, nn.GRU: _RECURRENT,
    nn.RNN: _RECURRENT, nn.MultiheadAttention: _ATTENTION,
    made.FactoredLinear: _LINEAR, made.FactoredConv1d: _CONVOLUTION, made.FactoredConv2d: _CONVOLUTION,
    made.FactoredLSTM: _RECURRENT, made.FactoredGRU: _RECURRENT, made.FactoredRNN: _RECURRENT,
    FactoredMultiheadAttention: _ATTENTION, made.FactoredTransposedLinear: _TRANSPOSED,
}  # fmt: skip


def kind_of(layer: nn.Module) -> Kind | None:
    """The Kind of a layer, dense or factored; None if its type is unknown.

    Subclasses are unknown, as they may compute something else.
    """
    kind = _KINDS.get(type(layer))
    if kind is None and type(layer) is _conv1d_of_transformers():
        return _TRANSPOSED
    return kind


def chosen(n: int, some: int, generator: torch.Generator) -> Tensor:
    """`some` random numbers below n, with repetition, which needs no list of all."""
    return torch.randint(n, (some,), generator=generator)


def around(layer: Any) -> tuple[int, ...]:
    """The padding of a convolution's input, last axis first, as for torch.nn.functional.pad."""
    if layer.padding == "valid":
        return (0, 0) * len(layer.kernel_size)
    if layer.padding == "same":
        sides: list[int] = []
        for k, d in zip(reversed(layer.kernel_size), reversed(layer.dilation), strict=True):
            before = d * (k - 1) // 2
            sides += [before, d * (k - 1) - before]
        return tuple(sides)
    return tuple(side for p in reversed(layer.padding) for side in (p, p))


def _conv1d_of_transformers() -> Any:
    """transformers' Conv1D; None while transformers is not imported, as no layer is one then."""
    return getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)


def own_parameters(layer: nn.Module, kind: Kind) -> tuple[set[str], set[str]]:
    """The names of parameters that a layer must have, and of those that it may have besides."""
    if not isinstance(layer, Factored):
        return set(kind.names(layer)), set(kind.others(layer))
    factors = {id(p) for p in (*layer.factors[0], layer.factors[1])}
    must = {name for name, p in layer.named_parameters(recurse=False) if id(p) in factors}
    return must, set(kind.others(layer)) - must
