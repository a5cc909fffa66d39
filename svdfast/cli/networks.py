# SPDX-License-Identifier: BSD-3-Clause
"""The networks that `svdfast train` begins with: by --hidden (fully connected) or by --model.

--model has networks for images and text. Their default settings are here, too. Elsewhere: the
layers (model/describe.py), and the defaults of fully connected networks (data.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import prod

import numpy as np

from svdfast.cli.data import LEAST_STEPS, Data, Defaults, defaults_of
from svdfast.cli.errors import UsageError
from svdfast.model.describe import (
    GRU,
    LSTM,
    RNN,
    Conv2d,
    Embedding,
    Flatten,
    Input,
    Layer,
    Linear,
    MaxPool2d,
)
from svdfast.model.network import Network

__all__ = [
    "BATCHES", "CELLS", "EPOCHS", "MODELS", "RATE", "TEXT_RATE", "WIDTH", "check_model", "describe", "first_network", "model_of",
    "settings_of",
]  # fmt: skip

CELLS = {"gru": GRU, "lstm": LSTM, "rnn": RNN}
MODELS = (*CELLS, "lenet5")
EMBEDDED = 64  # size of the vector of a character
WIDTH = 256
EPOCHS = 5  # of a training at least, or as many as LEAST_STEPS take
BATCHES = (16, 128)
RATE, TEXT_RATE = 1e-3, 2e-3

_KERNEL = 5
_LEAST_SIDE = 4  # the smallest side that two poolings leave a position of
_VALID_SIDE = 12  # from this side on the second convolution may do without padding


def model_of(arguments: argparse.Namespace) -> str | None:
    """The name in `MODELS`; None for fully connected layers."""
    model: str | None = arguments.model
    return "lstm" if model is None and arguments.data == "text" else model


def check_model(arguments: argparse.Namespace) -> None:
    """Refuses options that contradict --model or its absence."""
    model, of_text = model_of(arguments), arguments.data == "text"
    if model is not None and arguments.hidden is not None:
        other = "text" if arguments.model is None else f"--model {model}"
        raise UsageError(f"--hidden: goes with fully connected networks, not with {other}")
    if of_text and model not in CELLS:
        raise UsageError(f"--model: expected one of {', '.join(CELLS)} for text, got {model}")
    if arguments.width is not None and model not in CELLS:
        raise UsageError(f"--width: goes with --model {', '.join(CELLS)}")


def settings_of(arguments: argparse.Namespace, n: int) -> Defaults:
    """The settings for a network of n training samples that the user does not give."""
    if model_of(arguments) is None:
        return defaults_of(arguments.data, n, arguments.batch_size)
    batch_size = arguments.batch_size or int(np.clip(n // 20, *BATCHES))
    steps = -(-n // batch_size)
    rate = TEXT_RATE if arguments.data == "text" else RATE
    return Defaults((), max(EPOCHS, -(-LEAST_STEPS // steps)), batch_size, rate)


def first_network(arguments: argparse.Namespace, data: Data, hidden: Sequence[int]) -> Network:
    """The network that every training starts from a copy of."""
    model = model_of(arguments)
    if model is None:
        try:
            sizes = [data.X.shape[1], *hidden, data.n_out]
            return Network(sizes, output=data.head.output, dtype=arguments.dtype, seed=arguments.seed)
        except ValueError as error:
            raise UsageError(f"--hidden: {error}") from None
    last = Linear(data.n_out, data.head.output)
    layers: list[Layer]
    if model == "lenet5":
        given, layers = Input(*data.image), [*_lenet5(data.image), last]
    elif data.is_text:
        given = Input(data.X.shape[1])
        layers = [Embedding(data.n_out, EMBEDDED), CELLS[model](_width(arguments), return_sequences=True), last]
    else:
        given, layers = Input(*_rows(data.image)), [CELLS[model](_width(arguments)), last]
    try:
        return Network(given, layers, dtype=arguments.dtype, seed=arguments.seed)
    except ValueError as error:
        option = "--width" if model in CELLS else f"--model {model}"
        raise UsageError(f"{option}: {str(error).removeprefix('sizes: ')}") from None


def _width(arguments: argparse.Namespace) -> int:
    return WIDTH if arguments.width is None else int(arguments.width)


def _rows(image: tuple[int, ...]) -> tuple[int, int]:
    """Steps and features of an image whose rows are read one after the other."""
    return image[0], prod(image[1:])


def _lenet5(image: tuple[int, ...]) -> list[Layer]:
    """LeCun et al. (1998), with ReLU and maxima.

    For a small image the second convolution is padded, too.
    """
    side = min(image[:2])
    if side < _LEAST_SIDE:
        shown = "x".join(map(str, image))
        raise UsageError(
            f"--model lenet5: expected images of at least {_LEAST_SIDE}x{_LEAST_SIDE}, got {shown} (height, width, channels)"
        )
    padding = "valid" if side >= _VALID_SIDE else "same"
    return [
        Conv2d(6, _KERNEL, "relu", padding="same"), MaxPool2d(2), Conv2d(16, _KERNEL, "relu", padding=padding), MaxPool2d(2),
        Flatten(), Linear(120, "relu"), Linear(84, "relu"),
    ]  # fmt: skip


def describe(arguments: argparse.Namespace, data: Data, net: Network) -> str:
    """The network in a few words."""
    model, output = model_of(arguments), data.head.output
    if model is None:
        return f"network {'-'.join(map(str, net.sizes))}, relu and {output}"
    if model == "lenet5":
        return f"network lenet5: images of {'x'.join(map(str, data.image))}, 6 and 16 channels, 120-84-{data.n_out}, relu and {output}"
    if data.is_text:
        return (
            f"network {model}: {data.X.shape[1]} steps, characters as {EMBEDDED} numbers, a state of {_width(arguments)}, "
            f"{output} of {data.n_out} characters after each step"
        )
    steps, features = _rows(data.image)
    return f"network {model}: {steps} rows of {features} features as steps, a state of {_width(arguments)}, {output} of {data.n_out}"
