# SPDX-License-Identifier: BSD-3-Clause
"""Reads PyTorch modules in sequence as the layers of a network.

Between two modules, a reader knows the shape of a sample in svdfast, and the order of its numbers
in PyTorch. Scales and shifts wait for the next weight. Elsewhere: single modules
(torch_numbers.py), the opposite direction (torch_writing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from svdfast.interop.linears import Affine, Linear
from svdfast.interop.torch_numbers import (
    activation_of,
    batch_norm_of,
    linear_of,
    numbers_of,
    weight_names,
)
from svdfast.interop.torch_parts import refuse
from svdfast.model import activations, describe
from svdfast.model.describe import Plan
from svdfast.model.layers import Scan
from svdfast.model.layers import steps as step

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Reader", "paired"]

Array = NDArray[Any]
Parts = Sequence[tuple[str, "torch.nn.Module"]]

# They never reverse the order of two numbers, so they can also come before a maximum.
_RISING = ("identity", "relu", "clipped_relu", "hardtanh", "leaky_relu", "elu", "celu", "softplus", "tanh", "sigmoid")

_NO_BATCH_NORM = "svdfast has no batch normalisation of its own, as samples would depend on each other"


class Reader:
    """The layers that are read so far.

    Attributes
    ----------
    layers : list of Linear
        Layers so far. An activation of None is not read yet.
    """

    def __init__(self, parts: Parts, shape: tuple[int | None, ...]):
        from torch import nn

        self.layers: list[Linear] = []
        self._parts = dict(parts)
        self._layered = bool(shape)  # False: fully connected layers only
        self._plan = Plan(shape or (1,))
        self._pending: Affine | None = None  # to apply to the next weight's inputs
        self._order: Array | None = None  # of flattened numbers, if PyTorch's differs
        self._padding: tuple[str, tuple[int, ...], float] | None = None  # not yet used
        kinds = [type(part) for _, part in parts if type(part) not in (nn.Dropout, nn.Identity)]
        self._first = len(shape) == 3 or (len(shape) == 2 and kinds[:1] in ([nn.Conv1d], [nn.ConstantPad1d]))
        positions, channels = self._shape[:-1], self._shape[-1:]
        self.takes = (*channels, *positions) if self._first else self._shape
        self._readers: dict[type[nn.Module], Callable[[str, Any], None]] = {}
        for read, modules in self._modules().items():
            self._readers |= dict.fromkeys(modules, read)
        for place, part in parts:
            self._read(place, part)
        self._finish()

    def _modules(self) -> dict[Callable[[str, Any], None], tuple[type[nn.Module], ...]]:
        """The modules that need a known shape of a sample, by the methods that read them."""
        from torch import nn

        from svdfast import torch as ours

        return {
            self._convolution: (nn.Conv1d, nn.Conv2d),
            self._pad: (nn.ZeroPad2d, nn.ConstantPad2d, nn.ConstantPad1d),
            self._largest: (nn.MaxPool2d,),
            self._mean: (nn.AvgPool2d, nn.AdaptiveAvgPool2d, ours.MeanPool2d),
            self._turn: (ours.ChannelsFirst, ours.ChannelsLast),
            self._embedding: (nn.Embedding,),
            self._recurrent: (ours.Recurrent,),
            self._factored_recurrent: (ours.FactoredRecurrent,),
            self._normalise: (nn.LayerNorm,),
            self._norm2d: (nn.BatchNorm2d,),
            self._ignore: (nn.Dropout1d, nn.Dropout2d),
        }

    @property
    def _shape(self) -> tuple[int, ...]:
        return self._plan.shape

    @property
    def _by_channels(self) -> bool:
        """True if there are positions and PyTorch has the channels before them."""
        return self._first and len(self._shape) > 1

    def _read(self, place: str, part: nn.Module) -> None:
        from torch import nn

        kind = type(part)
        if self._padding is not None and kind not in (nn.Conv1d, nn.Conv2d, nn.MaxPool2d):
            raise ValueError(f"{self._padding[0]}: expected a convolution or MaxPool2d after padding, got {part}")
        read = self._readers.get(kind)
        if read is not None and self._layered:
            read(place, part)
        elif read is not None:
            refuse(place, part, "pass input=svdfast.Input(...), the shape of a sample, for layers of sequences and images")
        elif weight_names(part):
            self._linear(place, part)
        elif kind is nn.BatchNorm1d:
            self._batch_norm(place, part)
        elif kind is nn.Dropout and self._layered:
            dropout: Any = part
            self._step(place, describe.Dropout(float(dropout.p)))
        elif kind is nn.Flatten and self._layered:
            self._flatten(place, part)
        else:
            self._activation(place, part)

    def _finish(self) -> None:
        """Raises ValueError if something still waits for a layer."""
        if not self.layers:
            raise ValueError("module: expected at least one Linear in it, got none")
        if self._pending is not None:
            self._no_place()
        if self._padding is not None:
            raise ValueError(f"{self._padding[0]}: expected a convolution or MaxPool2d after padding, got none")
        last, waiting = self.layers[-1], [each for each in self._plan.steps if not isinstance(each, step.Dropout)]
        if last.steps and _is_one_by_one(last.steps[-1]):
            last.steps = last.steps[:-1]
        if last.scan is not None or waiting or any(isinstance(each, step.Patches) for each in last.steps):
            raise ValueError(f"{last.place}: expected a Linear as the last layer, got {self._parts.get(last.place, last.place)} as such")
        if self._plan.by_steps:
            last.steps = (*last.steps, step.BySamples())

    def _no_place(self) -> NoReturn:
        assert self._pending is not None
        place = self._pending.place
        part = self._parts[place]
        why = f"; {_NO_BATCH_NORM}" if self._layered and "BatchNorm" in type(part).__name__ else ""
        raise ValueError(f"{place}: expected a Linear after {part}, to fold its scale into, got none{why}")

    # ---- between weights

    def _step(self, place: str, layer: describe.Layer) -> None:
        """Adds a layer without weights."""
        try:
            self._plan.take(layer)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place}: {error}") from None

    def _carry(self, repeats: int = 1, *, unless: bool = False) -> None:
        """Repeats the waiting scale and shift, which now apply to so many times as many numbers.

        ValueError is raised if they can't move behind the next module.
        """
        if self._pending is None:
            return
        if unless:
            self._no_place()
        scale, shift = (np.tile(x, repeats) if np.ndim(x) else x for x in (self._pending.scale, self._pending.shift))
        self._pending = replace(self._pending, scale=scale, shift=shift)

    def _scale(self, affine: Affine) -> None:
        """Folds a scale and shift into the weight before it, or the next one."""
        if self._order is not None:
            n = len(self._order)
            scale, shift = (x[self._order] if isinstance(x, np.ndarray) and len(x) == n else x for x in (affine.scale, affine.shift))
            affine = replace(affine, scale=scale, shift=shift)
        waiting = [each for each in self._plan.steps if not isinstance(each, step.Dropout)]
        if self._pending is None and self.layers and self.layers[-1].activation is None and not waiting:
            steps = self.layers[-1].steps
            self.layers[-1] = replace(self.layers[-1].then(affine), steps=steps)
        else:
            self._pending = affine if self._pending is None else self._pending.then(affine)

    def _ignore(self, place: str, part: nn.Module) -> None:
        """Skips a module that does nothing in inference."""

    def _flatten(self, place: str, part: nn.Module) -> None:
        activation_of(place, part)
        if len(self._shape) == 1:
            return
        channels = self._shape[-1]
        positions = int(np.prod(self._shape[:-1]))
        if self._first:
            self._order = np.arange(channels * positions).reshape(channels, positions).T.ravel()
        self._carry(positions)
        self._step(place, describe.Flatten())
        self._first = False

    def _turn(self, place: str, part: nn.Module) -> None:
        from svdfast import torch as ours

        first = type(part) is ours.ChannelsFirst
        if len(self._shape) == 1 or self._first == first:
            raise ValueError(f"{place}: expected {'features' if first else 'channels'} {'last' if first else 'first'} before {part}")
        self._first = first

    def _normalise(self, place: str, part: nn.LayerNorm) -> None:
        n = self._shape[-1]
        if tuple(part.normalized_shape) != (n,) or self._by_channels:
            raise ValueError(
                f"{place}: expected LayerNorm over the last dimension, which has {n} features and no positions, got {part}; "
                "svdfast.torch.ChannelsLast puts features last"
            )
        self._carry(unless=True)
        self._step(place, describe.LayerNorm(part.eps))
        arrays = [None if x is None else numbers_of(f"{place}.{name}", x) for name, x in (("weight", part.weight), ("bias", part.bias))]
        scale, shift = (None if x is None else x.astype(np.float64) for x in arrays)
        if scale is not None or shift is not None:
            kind = next(str(x.dtype) for x in arrays if x is not None)
            self._scale(Affine(place, 1.0 if scale is None else scale, 0.0 if shift is None else shift, kind))

    def _norm2d(self, place: str, part: nn.BatchNorm2d) -> None:
        if len(self._shape) != 3 or not self._first:
            refuse(place, part)
        self._batch_norm(place, part)

    def _batch_norm(self, place: str, part: nn.Module) -> None:
        from torch import nn

        if type(part) is nn.BatchNorm1d and self._layered and (len(self._shape) > 2 or (len(self._shape) == 2 and not self._first)):
            raise ValueError(f"{place}: expected inputs (n, features) or (n, channels, steps) for {part}; {_NO_BATCH_NORM}")
        affine = batch_norm_of(place, part)
        assert affine is not None
        self._scale(affine)

    def _activation(self, place: str, part: nn.Module) -> None:
        from torch import nn

        ndim, axis = len(self._shape) + 1, 1 if self._by_channels else len(self._shape)
        if type(part) is nn.Softmax and ndim > 2 and self._layered:
            if part.dim not in (axis, axis - ndim):
                raise ValueError(f"{place}: expected Softmax(dim={axis}) or Softmax(dim={axis - ndim}), got {part}")
            function, before, after = activations.softmax(), 1.0, 1.0
        else:
            found, before, after = activation_of(place, part)
            if found is None:
                return
            function = found
        if not self.layers:
            raise ValueError(f"{place}: expected a Linear before the first activation, got {part}")
        last = self.layers[-1]
        if last.activation is not None:
            raise ValueError(f"{place}: expected one activation after a Linear, got {part} as another")
        if self._pending is not None:
            self._no_place()
        for each in self._plan.steps:
            # It can move before these without changing the result.
            moves = isinstance(each, step.Dropout) or (isinstance(each, step.Flatten) and function.name != "softmax")
            if not (moves or (isinstance(each, step.LargestOf) and function.name in _RISING)):
                raise ValueError(f"{place}: expected an activation right after a Linear or a convolution, got {part} after {each}")
        if before != 1:
            last = last.then(Affine(place, before))
        self.layers[-1] = replace(last, activation=function)
        if after != 1:
            self._scale(Affine(place, after))

    # ---- windows

    def _pad(self, place: str, part: Any) -> None:
        if len(self._shape) != len(part.padding) // 2 + 1 or not self._first:
            raise ValueError(f"{place}: expected channels before {len(part.padding) // 2} positions for {part}, got inputs {self._shape}")
        if min(part.padding) < 0:
            raise ValueError(f"{place}: expected padding ≥ 0, got {part}")
        self._padding = place, tuple(part.padding), float(part.value) if hasattr(part, "value") else 0.0

    def _window(
        self, kind: type[step.Window], place: str, part: nn.Module, size: Any, stride: Any, sides: Sequence[int], fill: float
    ) -> step.Window:
        """The window over the image, or over one row for sequences.

        `sides` are left, right, top, bottom.
        """
        dims = len(self._shape) - 1
        if not self._by_channels or (dims != 2 and type(part).__name__ != "Conv1d") or (dims == 2 and type(part).__name__ == "Conv1d"):
            raise ValueError(f"{place}: expected channels before positions for {part}, got inputs of shape {self._shape}")
        if self._padding is not None:
            made, more, value = self._padding
            if value != fill:
                raise ValueError(f"{made}: expected padding with {fill} before {part}, got {value}")
            sides = [a + b for a, b in zip(sides, (*more, 0, 0), strict=False)]
            self._padding = None
        (tall, wide), (down, across) = (_pair(x, 1) for x in (size, stride))
        left, right, top, bottom = sides
        height, width = self._shape[:-1] if dims == 2 else (1, *self._shape[:-1])
        window = kind(height, width, tall, wide, down, across, top, left, bottom, right)
        if max(top, bottom) >= tall or max(left, right) >= wide:
            raise ValueError(f"{place}: expected padding smaller than the window, got {part}")
        if height + top + bottom < tall or width + left + right < wide:
            raise ValueError(f"{place}: expected a window of at most the image's size, got {part} for {self._shape}")
        return window

    def _place(self, window: step.Window, channels: int) -> None:
        made = (window.rows, window.columns) if len(self._shape) == 3 else (window.columns,)
        self._plan.shape = (*made, channels)

    def _largest(self, place: str, part: nn.MaxPool2d) -> None:
        _expect(place, part, ceil_mode=(False,), dilation=(1, (1, 1)), return_indices=(False,))
        v, h = _pair(part.padding)
        window = self._window(step.LargestOf, place, part, part.kernel_size, part.stride, (h, h, v, v), -np.inf)
        self._carry(unless=self._pending is not None and bool(np.min(self._pending.scale) < 0))
        self._plan.steps.append(window)
        self._place(window, self._shape[-1])

    def _mean(self, place: str, part: Any) -> None:
        from torch import nn

        if type(part) is nn.AdaptiveAvgPool2d:
            _expect(place, part, output_size=(1, (1, 1)))
            size: Any = self._shape[:2]
            stride: Any = 1
            sides: Sequence[int] = (0, 0, 0, 0)
        elif type(part) is nn.AvgPool2d:
            _expect(place, part, ceil_mode=(False,), divisor_override=(None,))
            v, h = _pair(part.padding)
            if v or h:
                _expect(place, part, count_include_pad=(False,))
            size, stride, sides = part.kernel_size, part.stride, (h, h, v, v)
        else:
            size, stride, sides = part.kernel_size, part.stride, part.padding
        window = self._window(step.MeanOf, place, part, size, stride, sides, 0.0)
        self._carry()
        self._plan.steps.append(window)
        self._place(window, self._shape[-1])

    # ---- weights

    def _append(self, place: str, part: nn.Module, layer: describe.Layer, found: Linear, *states: Linear) -> None:
        """Adds a layer with weights: its description, and the numbers of each of its weights."""
        before = len(self._plan.layers)
        self._step(place, layer)
        made = self._plan.layers[before:]
        found = replace(found, steps=made[0].steps)
        if self._pending is not None:
            found, self._pending = found.after(self._pending), None
        self.layers.append(found)
        for state, scan in zip(states, made[1:], strict=True):
            assert isinstance(scan, Scan)
            self.layers.append(replace(state, scan=scan, activation=scan.activation))

    def _inputs(self, place: str, n: int) -> None:
        if n != self._shape[-1]:
            raise ValueError(f"{place}: expected {self._shape[-1]} inputs, as many as come from before it, got {n}")

    def _linear(self, place: str, part: nn.Module) -> None:
        found = linear_of(place, part)
        assert found is not None
        if not self._layered:
            self.layers.append(found if self._pending is None else found.after(self._pending))
            self._pending = None
            return
        if self._by_channels:
            raise ValueError(f"{place}: expected Flatten, or svdfast.torch.ChannelsLast, between channels before positions and {part}")
        self._inputs(place, found.n_in)
        if self._order is not None:
            *others, right = found.factors
            found = replace(found, factors=(*others, right[:, self._order]))
            self._order = None
        self._append(place, part, describe.Linear(found.n_out), found)

    def _convolution(self, place: str, part: Any) -> None:
        _expect(place, part, groups=(1,), dilation=((1,), (1, 1)), padding_mode=("zeros",))
        size, stride = part.kernel_size, part.stride
        if part.padding == "same":
            sides = [side for n in reversed(size) for side in ((n - 1) // 2, n // 2)]
        else:
            sides = [n for n in reversed((0, 0) if part.padding == "valid" else part.padding) for _ in range(2)]
        window = self._window(step.Patches, place, part, size, stride, (*sides, 0, 0)[:4], 0.0)
        self._inputs(place, part.in_channels)
        # The zeros of padding are not shifted, so a shift can't be folded.
        padded = any((window.top, window.left, window.bottom, window.right))
        shifted = self._pending is not None and bool(np.any(self._pending.shift))
        self._carry(window.window_height * window.window_width, unless=padded and shifted)
        kernel = numbers_of(f"{place}.weight", part.weight)
        W = np.moveaxis(kernel, 1, -1).reshape(len(kernel), -1)
        b = None if part.bias is None else numbers_of(f"{place}.bias", part.bias)
        if len(self._shape) == 2:
            self._plan.order(False)
        self._plan.steps.append(window)
        self._place(window, W.shape[1])
        self._append(place, part, describe.Linear(len(W)), Linear(place, (W,), b))

    def _embedding(self, place: str, part: nn.Embedding) -> None:
        if self.layers or len(self._shape) != 1:
            raise ValueError(f"{place}: expected an Embedding as the first layer, of inputs (steps,), got it for {self._shape}")
        _expect(place, part, max_norm=(None,))
        W = numbers_of(f"{place}.weight", part.weight).T
        self._append(place, part, describe.Embedding(W.shape[1], len(W)), Linear(place, (W,), None))

    def _sequences(self, place: str, part: nn.Module) -> None:
        if len(self._shape) != 2 or self._first:
            raise ValueError(
                f"{place}: expected inputs (n, steps, features) for {part}, got others; svdfast.torch.ChannelsLast puts features last"
            )

    def _recurrent(self, place: str, part: Any) -> None:
        from torch import nn

        inner, kinds = part.module, {nn.RNN: describe.RNN, nn.GRU: describe.GRU, nn.LSTM: describe.LSTM}
        if type(inner) not in kinds or inner._forward_hooks or inner._forward_pre_hooks or "forward" in vars(inner):
            raise ValueError(f"{place}: expected torch.nn's own RNN, GRU or LSTM without hooks, got {inner}")
        _expect(place, inner, batch_first=(True,), proj_size=(0,))
        self._sequences(place, part)
        more = {"activation": inner.nonlinearity} if type(inner) is nn.RNN else {}
        both = bool(inner.bidirectional)
        for k in range(inner.num_layers):
            if k and inner.dropout:
                self._step(place, describe.Dropout(float(inner.dropout)))
            ends = [f"_l{k}{end}" for end in ("", "_reverse")[: 1 + both]]

            def read(name: str, ends: Sequence[str] = ends) -> list[Array | None]:
                if name.startswith("bias") and not inner.bias:
                    return [None] * len(ends)
                return [numbers_of(f"{place}.module.{name}{end}", getattr(inner, name + end)) for end in ends]

            weight, bias = (_stacked(read(name)) for name in ("weight_ih", "bias_ih"))
            assert weight is not None
            found = Linear(place, (weight,), bias, activations.identity())
            self._inputs(place, found.n_in)
            states = [Linear(place, (W,), b) for W, b in zip(read("weight_hh"), read("bias_hh"), strict=True) if W is not None]
            sequences = part.return_sequences or k + 1 < inner.num_layers
            layer = kinds[type(inner)](inner.hidden_size, sequences, both, **more)
            self._append(place, part, layer, found, *states)

    def _factored_recurrent(self, place: str, part: Any) -> None:
        self._sequences(place, part)
        read = [linear_of(f"{place}.{name}", each) for name, each in (("input", part.input), *(("states", each) for each in part.states))]
        for found, each in zip(read, (part.input, *part.states), strict=True):
            if found is None:
                raise ValueError(f"{place}: expected Linear and FactoredLinear in it, got {type(each).__name__}")
        first, *states = (found for found in read if found is not None)
        self._inputs(place, first.n_in)
        kinds = {"gru": describe.GRU, "lstm": describe.LSTM}
        more = {} if part.cell in kinds else {"activation": part.cell.removeprefix("rnn_")}
        layer = kinds.get(part.cell, describe.RNN)(states[0].n_in, part.return_sequences, len(states) == 2, **more)
        self._append(place, part, layer, replace(first, activation=activations.identity()), *states)


def _stacked(arrays: Sequence[Array | None]) -> Array | None:
    given = [array for array in arrays if array is not None]
    return np.concatenate(given) if given else None


def _pair(value: Any, missing: int = 0) -> tuple[int, int]:
    """Two sizes: down and across for an image, `missing` and the value for a sequence."""
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[1])) if len(value) == 2 else (missing, int(value[0]))


def _expect(place: str, part: nn.Module, **values: tuple[Any, ...]) -> None:
    """Raises ValueError if an attribute of a module is none of these values."""
    for name, taken in values.items():
        got = getattr(part, name)
        if got not in taken:
            raise ValueError(f"{place}: expected {type(part).__name__} with {name}={taken[0]!r}, got {got!r}")


def _is_one_by_one(each: step.Step) -> bool:
    """True for patches that are the positions themselves."""
    return isinstance(each, step.Patches) and each == step.Patches(each.height, each.width, 1, 1)


def paired(layers: Sequence[Linear]) -> list[Linear]:
    """The layers of a network.

    Pairs that form a factored layer are joined. A factored layer that a network can't have is
    split.
    """
    parts: list[Linear] = []
    for layer in layers:
        *W1, right = layer.factors
        if W1 and (layer is layers[-1] or len(right) > min(layer.n_in, layer.n_out)):
            if layer.scan is not None:
                layer = replace(layer, factors=(W1[0] @ right,))
            else:
                parts.append(Linear(layer.place, (right,), None, steps=layer.steps))
                layer = replace(layer, factors=tuple(W1), steps=())
        parts.append(layer)
    joined: list[Linear] = []
    for i, layer in enumerate(parts):
        before = joined[-1] if joined else None
        if before is not None and layer is not parts[-1] and _are_factors(before, layer, parts[i + 1]):
            between = tuple(each for each in layer.steps if not _is_one_by_one(each))
            joined[-1] = replace(layer, factors=layer.factors + before.factors, steps=before.steps + between)
        else:
            joined.append(layer)
    return joined


def _are_factors(before: Linear, layer: Linear, after: Linear) -> bool:
    """True if two layers form a factored one. `after` is the next layer."""
    return (
        len(before.factors) == len(layer.factors) == 1
        and before.b is None
        and before.activation is None
        and layer.scan is None
        and before.n_out == layer.n_in <= min(before.n_in, layer.n_out)
        and all(isinstance(each, step.BySteps | step.BySamples) or _is_one_by_one(each) for each in layer.steps)
        # The token vectors before a recurrent layer are a separate layer.
        and not (after.scan is not None and any(isinstance(each, step.OneHot) for each in before.steps))
    )
