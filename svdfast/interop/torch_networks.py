# SPDX-License-Identifier: BSD-3-Clause
"""Networks from and to PyTorch's own: the numbers are copied, the function stays the same.

Elsewhere: how modules are read and written (torch_reading.py, torch_writing.py); the method on a
PyTorch model itself (torch.py).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdfast._process import in_use
from svdfast._process.checks import positive_number
from svdfast.interop.linears import network_of
from svdfast.interop.torch_parts import check_same, parts_of
from svdfast.interop.torch_reading import Reader, paired
from svdfast.interop.torch_writing import modules_of
from svdfast.model import activations
from svdfast.model.activations import Activation
from svdfast.model.describe import Input
from svdfast.model.heads import head_of
from svdfast.model.network import Network

if TYPE_CHECKING:
    import torch

__all__ = ["from_torch", "to_torch"]

logger = logging.getLogger("svdfast")

def from_torch(
    module: torch.nn.Module, *, input: Input | None = None, output: str | Activation = "identity", uint8_scale: float = 1 / 255
) -> Network:
    """A network that computes what a PyTorch module does.

    Two successive Linear layers become a factored layer, W1·W2, if the first has no bias and is not
    wider than their outer sides. The same holds for a convolution and one of 1×1, an Embedding and
    a Linear, and a Linear and a recurrent layer. So the network behind a module of `to_torch` is
    restored. The last Linear is the output layer and stays dense. Any other Linear without an
    activation after it becomes a layer with the activation "identity".

    Parameters
    ----------
    module : torch.nn.Module
        A Sequential of the modules listed below, or a Linear alone, on any device. The network
        computes what the module does after ``eval()``.
    input : Input, optional
        The shape of a sample in svdfast: (steps,), (steps, features) or (height, width, channels);
        None for any number of steps. Only fully connected networks do without it.
    output : str or Activation
        The activation of the last layer if the module has none there. For a model that computes
        logits, as for torch's CrossEntropyLoss and BCEWithLogitsLoss, use "softmax" or "sigmoid".
    uint8_scale : float
        As for `Network`.

    Returns
    -------
    Network
        A copy with the module's dtype. Weights in float16 or bfloat16 become float32, and a message
        is logged.

    Raises
    ------
    ImportError
        PyTorch is not installed.
    TypeError
        `module` is not a torch module, or `input` is not an Input.
    ValueError
        A part has no counterpart (the message names the part and its place), or the weights are
        neither all float32 nor all float64.

    Notes
    -----
    Images are (n, channels, height, width) for the module and (n, height, width, channels) for the
    network. Weights after a Flatten get their columns in the network's order. Sequences are
    (n, steps, features) for both, but (n, channels, steps) for a module that begins with a Conv1d.

    These modules are taken:

    - Linear and `svdfast.torch.FactoredLinear`. Shared weights are copied and then independent.
    - ReLU, ReLU6, LeakyReLU, ELU, CELU, GELU, SiLU, Softplus, Tanh, Sigmoid, Softmax over the last dimension, and Hardtanh from 0 or
      from −max_val. Softmax of images and after Conv1d is over the channels.
    - SELU, and Softplus with a β. Their scale is folded into the next Linear, so they can't be the last module.
    - BatchNorm1d after ``eval()``. It is folded into the Linear before it, or into the next one if an activation stands between.
    - Dropout, AlphaDropout, Identity and Flatten. Without `input`, further training has no dropout.
    - Sequentials of all these.
    - A module of your own whose forward calls such modules one after the other and does nothing else. This is checked by calling its
      forward, first with a placeholder and then, in inference, with numbers.

    And these with `input`:

    - RNN, GRU and LSTM in `svdfast.torch.Recurrent`, with ``batch_first=True``, of any number of layers; and
      `svdfast.torch.FactoredRecurrent`.
    - Conv1d and Conv2d with ``groups=1`` and ``dilation=1``, and padding with zeros. ZeroPad2d and ConstantPad1d may stand before them.
    - MaxPool2d, AvgPool2d without padding or with ``count_include_pad=False``, AdaptiveAvgPool2d(1), `svdfast.torch.MeanPool2d`.
      A monotone activation may stand behind MaxPool2d.
    - Embedding as the first layer, of integers.
    - LayerNorm over the last dimension. Its scale and shift are folded into the next weight.
    - BatchNorm2d after ``eval()``, folded like BatchNorm1d. A shift is not folded into a convolution with padding.
    - `svdfast.torch.ChannelsFirst` and `ChannelsLast`, between convolutions and recurrent layers.
    - Dropout, which stays a layer for further training. Dropout1d, Dropout2d and AlphaDropout are left out.

    Examples
    --------
    >>> import torch
    >>> import svdfast as sf
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Flatten(), torch.nn.Linear(784, 300), torch.nn.ReLU(),
    ...     torch.nn.Dropout(0.2), torch.nn.Linear(300, 10)
    ... )
    >>> net = sf.from_torch(model, output="softmax")
    >>> net.layers
    (<Layer 784 -> 300, relu, dense>, <Layer 300 -> 10, softmax, dense>)
    >>> x = torch.rand(5, 784)
    >>> with torch.no_grad():
    ...     expected = model.eval()(x).softmax(dim=1)
    >>> bool((abs(net.predict(x) - expected.numpy()) < 1e-5).all())
    True

    A network of images:

    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 6, 5), torch.nn.ReLU(),
    ...     torch.nn.Flatten(), torch.nn.Linear(6 * 24 * 24, 10)
    ... )
    >>> net = sf.from_torch(model, input=sf.Input(28, 28, 1), output="softmax")
    >>> x = torch.rand(5, 1, 28, 28)
    >>> with torch.no_grad():
    ...     expected = model(x).softmax(dim=1)
    >>> bool((abs(net.predict(x.movedim(1, -1).numpy()) - expected.numpy()) < 1e-5).all())
    True
    """
    try:
        import torch
    except ImportError:
        raise ImportError(
            'from_torch needs PyTorch: pip install "svdfast[torch]"', name="torch"
        ) from None
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Sequential, got {type(module).__name__}")
    last = activations.resolve(output, "output")
    uint8_scale = positive_number("uint8_scale", uint8_scale)
    if input is not None and not isinstance(input, Input):
        raise TypeError(f"input: expected an svdfast.Input, got {type(input).__name__}")
    wrapped: list[str] = []  # classes of the modules around the parts
    parts = list(parts_of(module, "module", wrapped))
    reader = Reader(parts, () if input is None else input.shape)
    layers = reader.layers
    if layers[-1].activation is None:
        layers[-1].activation = last
    elif last.name != "identity":
        raise ValueError(
            f"output: expected identity for a module that ends in an activation, got {last.name}"
        )
    net = network_of(paired(layers), uint8_scale, () if input is None else input.shape)
    if input is not None:
        input.check(tokens=net.layout.n_tokens > 0)
    weights = [weight for _, part in parts for weight in part.parameters()]
    if wrapped:
        takes = reader.takes if input is not None else net.sizes[:1]
        check_same(module, [part for _, part in parts], _samples(parts, takes, weights[0]), wrapped)
    for kind in {weight.dtype for weight in weights} & {torch.float16, torch.bfloat16}:
        logger.warning("from_torch: weights in %s become float32, in which the network computes", kind)
    return net


def _samples(parts: Sequence[tuple[str, torch.nn.Module]], shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Three samples for a module, tokens if it begins with an Embedding."""
    import torch
    from torch import nn

    rng = np.random.default_rng(0)
    for _, part in parts:
        if isinstance(part, nn.Embedding):
            return torch.tensor(rng.integers(0, part.num_embeddings, (3, *shape)), device=like.device)
    return torch.tensor(rng.standard_normal((3, *shape)), dtype=like.dtype, device=like.device)


def to_torch(net: Network, *, logits: bool = False) -> torch.nn.Sequential:
    """A `torch.nn.Sequential` that computes what a network does, as a copy.

    A factored layer becomes two Linear layers, W2 without a bias and then W1 with it. A factored
    convolution becomes a convolution and one of 1×1. `from_torch` is the way back. Images are
    (n, channels, height, width) at the input and at the output, as in PyTorch. Sequences are
    (n, steps, features). Tokens are integers (n, steps); all other inputs are floats. Scale uint8
    inputs by `uint8_scale` first, as the network does. This needs PyTorch: the extra `torch`.

    Parameters
    ----------
    net : Network
    logits : bool
        Leave out a last softmax or sigmoid, as torch's CrossEntropyLoss and BCEWithLogitsLoss
        require.

    Returns
    -------
    torch.nn.Sequential
        A module with the network's dtype.

    Raises
    ------
    ImportError
        PyTorch is not installed.
    TypeError
        `net` is not a network, or `logits` is not True or False.
    ValueError
        PyTorch lacks an activation or a layer of the network, such as Masking.

    Notes
    -----
    Recurrent layers are wrapped in `svdfast.torch.Recurrent`. If the state's weight is factored,
    the layer is a `svdfast.torch.FactoredRecurrent`, a loop in Python. Its gradients are the same,
    but it is slower. An Embedding's bias is added to its vectors, and PyTorch raises an error for a
    number that is not a token. Padding that differs between the two sides is a separate module.

    Examples
    --------
    >>> import torch
    >>> import svdfast as sf
    >>> net = sf.Network([784, 512, 10], seed=0)
    >>> _ = net.truncate(rank_fraction=0.25)
    >>> sf.to_torch(net)
    Sequential(
      (0): Linear(in_features=784, out_features=128, bias=False)
      (1): Linear(in_features=128, out_features=512, bias=True)
      (2): ReLU()
      (3): Linear(in_features=512, out_features=10, bias=True)
      (4): Softmax(dim=-1)
    )
    """
    try:
        from torch import nn
    except ImportError:
        raise ImportError(
            'to_torch needs PyTorch: pip install "svdfast[torch]"', name="torch"
        ) from None

    if not isinstance(net, Network):
        raise TypeError(f"net: expected a Network, got {type(net).__name__}")
    if not isinstance(logits, bool):
        raise TypeError(f"logits: expected True or False, got {type(logits).__name__}")

    with in_use.reading(net):
        modules = modules_of(net)
    if logits and head_of(net.layers[-1].activation).decides:
        modules.pop()
    return nn.Sequential(*modules)
