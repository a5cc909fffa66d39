# SPDX-License-Identifier: BSD-3-Clause
"""The layers that a user writes a network with, in order, and its input.

They are a description. `Network` turns them into the layers that it computes with. A recurrent
layer becomes two of `Network.layers`: its input's weight and its state's weight, which are
truncated separately. A layer without weights becomes a step before the next layer with weights.
Users find these layers in svdfast/layers.py. The library's own layers are in svdfast/model/layers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from svdfast._process.checks import MAX_SIZE, count, finite_number, fraction, positive_number
from svdfast.model import activations
from svdfast.model.activations import Activation
from svdfast.model.layers import Linear as LinearLayer
from svdfast.model.layers import Scan, Step, WeightLayer
from svdfast.model.layers import steps as step
from svdfast.model.layers.scan import GATES
from svdfast.model.structures import Dense

__all__ = [
    "GRU", "LSTM", "RNN", "AvgPool2d", "Conv1d", "Conv2d", "Dropout", "Embedding", "Flatten", "GlobalAvgPool", "Input", "LayerNorm",
    "Linear", "Masking", "MaxPool2d",
]  # fmt: skip


class Input:
    """The shape of a sample: (features,), (steps, features), or (height, width, channels); of tokens (steps,).

    Parameters
    ----------
    *shape : int, or None for the steps
        None stands for any number of steps. Each call of the network takes the number from its
        data, so all samples of one call have the same number of steps.
    dtype : {"int32", "float32", "float64"}, optional
        Kind of a sample's numbers. "int32" stands for tokens, whose first layer is an `Embedding`;
        the others stand for any numbers. It is only checked against the layers: the data may be of
        any type that can be converted to it. By default the first layer decides.

    Examples
    --------
    >>> import numpy as np
    >>> import svdfast as sf
    >>> from svdfast import layers as L
    >>> sf.Input(28, 28, 1)
    Input(28, 28, 1)

    Texts of any length:

    >>> lstm = L.LSTM(256, return_sequences=True)
    >>> layers = [L.Embedding(65, 64), lstm, L.Linear(65, "softmax")]
    >>> net = sf.Network(sf.Input(None, dtype="int32"), layers, seed=0)
    >>> net.predict(np.zeros((2, 5))).shape, net.predict(np.zeros((1, 9))).shape
    ((2, 5, 65), (1, 9, 65))
    """

    def __init__(self, *shape: int | None, dtype: DTypeLike | None = None):
        if not 1 <= len(shape) <= 3:
            raise ValueError(f"shape: expected 1 to 3 sizes, got {len(shape)}")
        self.shape = tuple(
            None if n is None and i == 0 and len(shape) < 3 else count(f"shape[{i}]", n, maximum=MAX_SIZE) for i, n in enumerate(shape)
        )
        if math.prod(n or 1 for n in self.shape) > MAX_SIZE:
            raise ValueError(f"shape: expected at most {MAX_SIZE} numbers, got {' x '.join(map(str, self.shape))}")
        self.dtype = None if dtype is None else _kind(dtype)

    def check(self, *, tokens: bool) -> None:
        """Raises ValueError unless layers and samples agree on whether numbers are tokens."""
        if self.dtype is not None and (self.dtype == "int32") != tokens:
            expected = "int32 for tokens, as layers begin with an Embedding" if tokens else "float32 or float64 without an Embedding first"
            raise ValueError(f"dtype: expected {expected}, got {self.dtype}")

    def __repr__(self) -> str:
        kind = () if self.dtype is None else (f"dtype={self.dtype!r}",)
        return f"Input({', '.join((*map(str, self.shape), *kind))})"


def _kind(dtype: DTypeLike) -> str:
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = repr(dtype)
    if name not in ("int32", "float32", "float64"):
        raise ValueError(f"dtype: expected int32 for tokens, float32 or float64, got {name}")
    return name


@dataclass
class Plan:
    """The layers made so far, and the shape of their output.

    Attributes
    ----------
    given : tuple of int
        Shape of a sample; the steps may be None, for any number of them.
    shape : tuple of int
        Shape of the output for a sample; one step stands for any number of them.
    """

    given: InitVar[tuple[int | None, ...]]
    shape: tuple[int, ...] = field(init=False)
    any_steps: bool = field(init=False)
    by_steps: bool = False  # True if rows lie step by step
    steps: list[Step] = field(default_factory=list)  # steps that wait for the next layer
    layers: list[WeightLayer] = field(default_factory=list)
    n_dropouts: int = 0

    def __post_init__(self, given: tuple[int | None, ...]) -> None:
        self.shape = tuple(1 if n is None else n for n in given)
        self.any_steps = given[0] is None

    @property
    def told(self) -> str:
        """The shape in messages."""
        if not self.any_steps:
            return str(self.shape)
        features = [str(n) for n in self.shape[1:]]
        return f"({', '.join(['any', *features])}{',' * (not features)})"

    def take(self, layer: Layer) -> None:
        """Appends the layers and steps that a layer of the description becomes."""
        if self.any_steps and not layer.takes_any_steps:
            raise ValueError(f"{type(layer).__name__}: expected a number of steps, as in Input(100, ...), got Input(None, ...)")
        layer._add(self)
        if math.prod(self.shape) > MAX_SIZE:
            raise ValueError(f"{type(layer).__name__}: expected outputs of at most {MAX_SIZE} numbers, got shape {self.shape}")

    def append(self, layer: WeightLayer) -> None:
        self.layers.append(layer)
        self.steps = []

    def order(self, by_steps: bool) -> None:
        """Appends a step that reorders rows, if they do not lie so already."""
        if self.by_steps != by_steps:
            self.steps.append(step.BySteps() if by_steps else step.BySamples())
            self.by_steps = by_steps

    def expect(self, layer: object, n: int, what: str) -> None:
        if len(self.shape) != n:
            ended = bool(self.steps) and isinstance(self.steps[-1], step.LastStep)
            hint = "; return_sequences=True gives the state after each step" if ended else ""
            raise ValueError(f"{type(layer).__name__}: expected inputs of shape ({what}), got {self.told}{hint}")


class Layer(ABC):
    """A layer of the description.

    Attributes
    ----------
    takes_any_steps : bool
        True if the layer is the same for any number of steps.
    """

    takes_any_steps: ClassVar[bool] = True

    @abstractmethod
    def _add(self, plan: Plan) -> None:
        """Appends the layers and steps that it becomes."""


@dataclass(frozen=True)
class Linear(Layer):
    """A fully connected layer, f(X·Wᵀ + b), at each step of sequences or position of images.

    Parameters
    ----------
    n_out : int
    activation : str or Activation
    """

    n_out: int
    activation: str | Activation = "identity"

    def _add(self, plan: Plan) -> None:
        n_out = count("n_out", self.n_out, maximum=MAX_SIZE)
        f = activations.resolve(self.activation, "activation")
        plan.append(LinearLayer(Dense(n_out, plan.shape[-1]), f, tuple(plan.steps)))
        plan.shape = (*plan.shape[:-1], n_out)


@dataclass(frozen=True)
class _Recurrent(Layer):
    n_out: int
    return_sequences: bool = False
    bidirectional: bool = False

    @property
    def cell(self) -> str:
        raise NotImplementedError

    def _add(self, plan: Plan) -> None:
        plan.expect(self, 2, "steps, features")
        n = count("n_out", self.n_out, maximum=MAX_SIZE)
        (steps, m), gates = plan.shape, GATES[self.cell] * n
        plan.order(True)
        halves = (1, 2) if self.bidirectional else (0,)
        plan.append(LinearLayer(Dense(len(halves) * gates, m), activations.identity(), tuple(plan.steps)))
        for half in halves:
            plan.append(Scan(Dense(gates, n), self.cell, half))
        width = n * len(halves)
        plan.shape = (steps, width)
        if not self.return_sequences:
            plan.steps.append(step.LastStep(n if self.bidirectional else 0))
            plan.shape, plan.by_steps, plan.any_steps = (width,), False, False


@dataclass(frozen=True)
class RNN(_Recurrent):
    """Elman's recurrent layer: hₜ = f(W·xₜ + b + U·hₜ₋₁ + c), h₀ = 0.

    Parameters
    ----------
    n_out : int
        Size of the state.
    return_sequences : bool
        If True, output the state after each step, (steps, n_out). If False, output the state after
        the last step, (n_out,).
    bidirectional : bool
        If True, add a second layer that runs from the last step to the first. Its output, the state
        after each step or after the first one, follows that of the first layer: 2·n_out numbers.
    activation : {"tanh", "relu"}

    References
    ----------
    Elman (1990), Finding structure in time.
    """

    activation: str = "tanh"

    @property
    def cell(self) -> str:
        if self.activation not in ("tanh", "relu"):
            raise ValueError(f"activation: expected tanh or relu, got {self.activation!r}")
        return f"rnn_{self.activation}"


@dataclass(frozen=True)
class GRU(_Recurrent):
    """Gated recurrent unit, in PyTorch's form, with the reset gate after the product.

        r = σ(W_r·x + b_r + U_r·h + c_r)      z = σ(W_z·x + b_z + U_z·h + c_z)
        n = tanh(W_n·x + b_n + r∘(U_n·h + c_n))      h' = (1 − z)∘n + z∘h

    Parameters
    ----------
    n_out : int
        Size of the state.
    return_sequences : bool
        If True, output the state after each step, (steps, n_out). If False, output the state after
        the last step, (n_out,).
    bidirectional : bool
        If True, add a second layer that runs from the last step to the first. Its output, the state
        after each step or after the first one, follows that of the first layer: 2·n_out numbers.

    References
    ----------
    Cho et al. (2014), arXiv:1406.1078.
    """

    @property
    def cell(self) -> str:
        return "gru"


@dataclass(frozen=True)
class LSTM(_Recurrent):
    """Long short-term memory.

        i, f, o = σ(W·x + b + U·h + c) of each      g = tanh(W_g·x + b_g + U_g·h + c_g)
        c' = f∘c + i∘g      h' = o∘tanh(c')

    Parameters
    ----------
    n_out : int
        Size of the state.
    return_sequences : bool
        If True, output the state after each step, (steps, n_out). If False, output the state after
        the last step, (n_out,).
    bidirectional : bool
        If True, add a second layer that runs from the last step to the first. Its output, the state
        after each step or after the first one, follows that of the first layer: 2·n_out numbers.

    References
    ----------
    Hochreiter & Schmidhuber (1997); Gers et al. (2000).
    """

    @property
    def cell(self) -> str:
        return "lstm"


@dataclass(frozen=True)
class Embedding(Layer):
    """Tokens, numbers from 0 to n_tokens - 1, as vectors: (steps,) becomes (steps, n_out).

    Its weight (n_out, n_tokens) multiplies one-hot rows, so a token takes n_tokens·n_out
    multiplications. It can be truncated like any other weight. It must be the first layer. Samples
    with other numbers raise an error. Tokens of dtype uint8 are not scaled.

    Parameters
    ----------
    n_tokens, n_out : int
        `n_tokens` is at most 2²⁴.
    """

    n_tokens: int
    n_out: int

    def _add(self, plan: Plan) -> None:
        plan.expect(self, 1, "steps")
        if plan.layers or plan.steps:
            raise ValueError("Embedding: expected it as the first layer, got it after another one, whose outputs are no tokens")
        n, n_out = count("n_tokens", self.n_tokens, maximum=step.MOST_TOKENS), count("n_out", self.n_out, maximum=MAX_SIZE)
        (steps,) = plan.shape
        plan.steps += [step.OneHot(n)] if plan.any_steps else [step.Rows(steps), step.OneHot(n)]
        plan.append(LinearLayer(Dense(n_out, n), activations.identity(), tuple(plan.steps)))
        plan.shape = (steps, n_out)


@dataclass(frozen=True)
class Masking(Layer):
    """Marks steps whose features are all `value` as padding, which recurrent layers after it skip.

    A skipped step leaves the state unchanged. Sequences of several lengths are padded at their
    ends; the state after the last step is then the state after a sequence's own last step.

    Parameters
    ----------
    value : float
    """

    value: float = 0.0

    def _add(self, plan: Plan) -> None:
        plan.expect(self, 2, "steps, features")
        plan.order(True)
        plan.steps.append(step.Mask(finite_number("value", self.value)))


@dataclass(frozen=True)
class Dropout(Layer):
    """During training, each number is set to 0 with probability `rate`, else divided by 1 - rate.

    The dropped numbers depend only on the training's seed, the step, and the sample's place in its
    batch. They do not depend on the number of threads or on a training being resumed.

    Parameters
    ----------
    rate : float
        From 0 to below 1.

    References
    ----------
    Srivastava et al. (2014), Dropout.
    """

    rate: float

    def _add(self, plan: Plan) -> None:
        rate = fraction("rate", self.rate, below_one=True)
        plan.n_dropouts += 1
        plan.steps.append(step.Dropout(rate, int(plan.by_steps), plan.n_dropouts))


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Normalises each sample, or each step or position, to mean 0 and variance 1.

    It has no scale and shift of its own: the weight and the bias of the next layer replace them.

    Parameters
    ----------
    epsilon : float
        Added to the variance.

    References
    ----------
    Ba, Kiros & Hinton (2016), arXiv:1607.06450.
    """

    epsilon: float = 1e-5

    def _add(self, plan: Plan) -> None:
        plan.steps.append(step.Normalise(positive_number("epsilon", self.epsilon)))


def _pair(name: str, value: Any, minimum: int = 1) -> tuple[int, int]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise ValueError(f"{name}: expected a number or two, got {value!r}")
        down, across = value
    else:
        down = across = value
    return count(name, down, minimum=minimum, maximum=MAX_SIZE), count(name, across, minimum=minimum, maximum=MAX_SIZE)


def _window(plan: Plan, window: Any, stride: Any, padding: Any) -> tuple[int, ...]:
    """Fields of a Window: sizes of the image, the window, the stride, and padding on four sides."""
    height, width, _ = plan.shape
    tall, wide = _pair("kernel_size", window)
    down, across = _pair("stride", stride)
    if padding == "valid":
        sides = (0, 0, 0, 0)
    elif padding == "same":
        # As many positions as strides fit in; an odd row or column goes below or to the right.
        vertical = max(0, (-(-height // down) - 1) * down + tall - height)
        horizontal = max(0, (-(-width // across) - 1) * across + wide - width)
        sides = (vertical // 2, horizontal // 2, vertical - vertical // 2, horizontal - horizontal // 2)
    elif isinstance(padding, str):
        raise ValueError(f"padding: expected same, valid or a number, got {padding!r}")
    else:
        v, h = _pair("padding", padding, minimum=0)
        sides = (v, h, v, h)
        if v >= tall or h >= wide:
            raise ValueError(f"padding: expected less than the kernel's size, {tall}×{wide}, got {padding!r}")
    return (height, width, tall, wide, down, across, *sides)


def _place(plan: Plan, made: step.Window, channels: int) -> None:
    if made.height + made.top + made.bottom < made.window_height or made.width + made.left + made.right < made.window_width:
        raise ValueError(f"kernel_size: expected at most the image's size, got {made.window_height}×{made.window_width} for {plan.shape}")
    plan.shape = (made.rows, made.columns, channels)


@dataclass(frozen=True)
class Conv2d(Layer):
    """A convolution over images (height, width, channels): at each position f(W·patch + b).

    Its weight is a matrix (n_out, kernel height · kernel width · channels). Truncated to rank l, it
    is a convolution to l channels, followed by a 1×1 convolution.

    Parameters
    ----------
    n_out : int
        Output channels.
    kernel_size : int or (int, int)
    activation : str or Activation
    stride : int or (int, int)
    padding : {"valid", "same"} or int or (int, int)
        Zeros around the image. "valid" adds none; "same" adds enough for an output at each stride;
        numbers are rows and columns added on each side.
    """

    n_out: int
    kernel_size: int | tuple[int, int]
    activation: str | Activation = "identity"
    stride: int | tuple[int, int] = 1
    padding: str | int | tuple[int, int] = "valid"

    def _add(self, plan: Plan) -> None:
        plan.expect(self, 3, "height, width, channels")
        n_out, channels = count("n_out", self.n_out, maximum=MAX_SIZE), plan.shape[-1]
        patches = step.Patches(*_window(plan, self.kernel_size, self.stride, self.padding))
        _place(plan, patches, n_out)
        f = activations.resolve(self.activation, "activation")
        plan.append(LinearLayer(Dense(n_out, patches.window_height * patches.window_width * channels), f, (*plan.steps, patches)))


@dataclass(frozen=True)
class Conv1d(Layer):
    """A convolution over sequences (steps, channels): `Conv2d` over images with one row."""

    n_out: int
    kernel_size: int
    activation: str | Activation = "identity"
    stride: int = 1
    padding: str | int = "valid"

    takes_any_steps: ClassVar[bool] = False

    def _add(self, plan: Plan) -> None:
        plan.expect(self, 2, "steps, channels")
        plan.order(False)
        padding = self.padding if isinstance(self.padding, str) else (0, self.padding)
        plan.shape = (1, *plan.shape)
        Conv2d(self.n_out, (1, self.kernel_size), self.activation, (1, self.stride), padding)._add(plan)
        plan.shape = plan.shape[1:]


@dataclass(frozen=True)
class _Pool(Layer):
    kernel_size: int | tuple[int, int]
    stride: int | tuple[int, int] | None = None
    padding: str | int | tuple[int, int] = "valid"

    kind: ClassVar[type[step.Window]] = step.LargestOf

    def _add(self, plan: Plan) -> None:
        plan.expect(self, 3, "height, width, channels")
        stride = self.kernel_size if self.stride is None else self.stride
        made = self.kind(*_window(plan, self.kernel_size, stride, self.padding))
        _place(plan, made, plan.shape[-1])
        plan.steps.append(made)


@dataclass(frozen=True)
class MaxPool2d(_Pool):
    """The largest value of each channel under a window that moves over an image.

    Images have shape (height, width, channels).

    Parameters
    ----------
    kernel_size : int or (int, int)
    stride : int or (int, int), optional
        By default the kernel's size.
    padding : {"valid", "same"} or int or (int, int)
    """


@dataclass(frozen=True)
class AvgPool2d(_Pool):
    """The mean of each channel under such a window, without the padding.

    Parameters are those of `MaxPool2d`.
    """

    kind: ClassVar[type[step.Window]] = step.MeanOf


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """The mean of each channel over an image, (channels,)."""

    def _add(self, plan: Plan) -> None:
        plan.expect(self, 3, "height, width, channels")
        height, width, channels = plan.shape
        plan.steps += [step.MeanOf(height, width, height, width), step.Flatten()]
        plan.shape = (channels,)


@dataclass(frozen=True)
class Flatten(Layer):
    """All numbers of a sample as one row."""

    takes_any_steps: ClassVar[bool] = False

    def _add(self, plan: Plan) -> None:
        plan.order(False)
        plan.steps.append(step.Flatten())
        plan.shape = (math.prod(plan.shape),)


def build(given: Input, layers: Sequence[Layer]) -> tuple[WeightLayer, ...]:
    """The library's layers for a description, in order."""
    if not layers:
        raise ValueError("layers: expected at least a Linear, got none")
    plan = Plan(given.shape)
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"layers[{i}]: expected a layer of svdfast.layers, got {type(layer).__name__}")
        if i == 0:
            tokens = isinstance(layer, Embedding)
            given.check(tokens=tokens)
            if given.shape == (None,) and not tokens:
                raise ValueError(f"layers[0]: expected an Embedding for Input(None), or Input(None, features), got {type(layer).__name__}")
        if i == len(layers) - 1:
            if not isinstance(layer, Linear):
                raise ValueError(f"layers: expected a Linear as the last one, got {type(layer).__name__}")
            plan.order(False)
        try:
            plan.take(layer)
        except (TypeError, ValueError) as error:
            raise type(error)(f"layers[{i}]: {error}") from None
    return tuple(plan.layers)
