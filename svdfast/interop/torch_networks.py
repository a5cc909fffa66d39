# SPDX-License-Identifier: BSD-3-Clause
"""Networks from and to PyTorch's own: the numbers are copied, the function stays the same.

Not here: the method on a PyTorch model itself (torch.py); which module an activation is (model/activations.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from svdfast._process import in_use
from svdfast._process.checks import positive_number
from svdfast.interop.linears import Linear, network_of
from svdfast.model import activations
from svdfast.model.activations import Activation
from svdfast.model.heads import head_of
from svdfast.model.network import Network

if TYPE_CHECKING:
    import torch

__all__ = ["from_torch", "to_torch"]


def from_torch(
    module: torch.nn.Module, *, output: str | Activation = "identity", uint8_scale: float = 1 / 255
) -> Network:
    """A network that computes what a `torch.nn.Sequential` of Linear layers and activations does.

    Two successive Linear layers become a factored layer, W1·W2, if the first has no bias and is not wider than their outer sides. So a
    network that `to_torch` made comes back unchanged. The last Linear is the output layer and stays dense. Any other Linear
    without an activation after it becomes a layer with the activation "identity".

    Parameters
    ----------
    module : torch.nn.Sequential
        Of Linear, `svdfast.torch.FactoredLinear`, ReLU, LeakyReLU, ELU, CELU, GELU (its exact form), Tanh, Sigmoid, Softmax over
        the last dimension, and Sequentials of these; or a Linear alone. On any device. The network computes what the module does
        after ``eval()`` for inputs (n_samples, n_inputs). Dropout, AlphaDropout, Identity and Flatten do nothing then and are left
        out, so further training is without dropout.
    output : str or Activation
        The activation of the last layer where the module has none there. For a model that computes logits, as for torch's
        CrossEntropyLoss and BCEWithLogitsLoss, use "softmax" or "sigmoid".
    uint8_scale : float
        As for `Network`.

    Returns
    -------
    Network
        A copy, with the module's dtype.

    Raises
    ------
    ImportError
        PyTorch is not installed.
    TypeError
        `module` is not a torch module.
    ValueError
        A part has no counterpart (the message says which, and where), or the weights are not all float32 or all float64.

    Examples
    --------
    >>> import torch
    >>> import svdfast as sf
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Flatten(), torch.nn.Linear(784, 300), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(300, 10)
    ... )
    >>> net = sf.from_torch(model, output="softmax")
    >>> net.layers
    (<Layer 784 -> 300, relu, dense>, <Layer 300 -> 10, softmax, dense>)
    >>> x = torch.rand(5, 784)
    >>> with torch.no_grad():
    ...     expected = model.eval()(x).softmax(dim=1)
    >>> bool((abs(net.predict(x) - expected.numpy()) < 1e-5).all())
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
    layers: list[Linear] = []
    for place, part in _flattened(module, "module"):
        linear = _torch_linear(place, part)
        if linear is not None:
            layers.append(linear)
            continue
        function = _torch_activation(place, part)
        if function is None:
            continue
        if not layers:
            raise ValueError(f"{place}: expected a Linear before the first activation, got {part}")
        if layers[-1].activation is not None:
            raise ValueError(
                f"{place}: expected one activation after a Linear, got {part} as another"
            )
        layers[-1].activation = function
    if not layers:
        raise ValueError("module: expected at least one Linear in it, got none")
    if layers[-1].activation is None:
        layers[-1].activation = last
    elif last.name != "identity":
        raise ValueError(
            f"output: expected identity for a module that ends in an activation, got {last.name}"
        )
    return network_of(_paired(layers), uint8_scale)


def _flattened(module: torch.nn.Module, place: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules of nested Sequentials in the order in which they compute, each with its place."""
    from torch import nn

    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"{place}: expected a module without forward hooks, got {module}")
    if "forward" in vars(module):
        raise ValueError(f"{place}: expected a module with the forward of its class, got {module}")
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for i, part in enumerate(module):
            yield from _flattened(part, f"{place}[{i}]")
    else:
        yield place, module


def _torch_linear(place: str, part: torch.nn.Module) -> Linear | None:
    """The numbers of a Linear or a FactoredLinear; not of subclasses, which may compute something else."""
    from torch import nn

    from svdfast.torch import FactoredLinear

    def array(name: str) -> NDArray[Any]:
        tensor: torch.Tensor = getattr(part, name)
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in ("float32", "float64"):
            raise ValueError(f"{place}.{name}: expected float32 or float64, got {kind}")
        if tensor.device.type == "meta":
            raise ValueError(f"{place}.{name}: expected numbers, got a tensor on the device meta")
        numbers: NDArray[Any] = tensor.detach().cpu().numpy()
        return numbers

    names = {nn.Linear: ("weight",), FactoredLinear: ("W1", "W2")}.get(type(part))
    if names is None:
        return None
    factors = tuple(array(name) for name in names)
    return Linear(place, factors, None if part.bias is None else array("bias"))


def _torch_activation(place: str, part: torch.nn.Module) -> Activation | None:
    """The activation that a module computes, None for a module that does nothing in inference."""
    from torch import nn

    kind = type(part)  # a subclass may compute something else
    if kind in (nn.Dropout, nn.AlphaDropout, nn.Identity):
        return None
    if kind is nn.Flatten:
        if part.start_dim != 1 or part.end_dim not in (1, -1):
            raise ValueError(f"{place}: expected Flatten(start_dim=1, end_dim=-1), got {part}")
        return None
    for ours, facts in activations.FACTS.items():
        if facts.torch is None or kind is not getattr(nn, facts.torch.name):
            continue
        for name, values in facts.torch.others.items():
            if getattr(part, name) not in values:
                expected = " or ".join(f"{facts.torch.name}({name}={value!r})" for value in values)
                raise ValueError(f"{place}: expected {expected}, got {part}")
        if facts.torch.parameter is None:
            return activations.resolve(ours)
        try:
            return Activation(ours, getattr(part, facts.torch.parameter))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place}: {part}: {error}") from None
    raise ValueError(
        f"{place}: expected Linear, an activation of svdfast.activations, Dropout, Flatten, Identity or "
        f"Sequential, got {kind.__name__}"
    )


def _paired(layers: list[Linear]) -> list[Linear]:
    """The layers of a network: joins a pair that is a factored layer, splits a factored layer that a network can't have."""
    parts: list[Linear] = []
    for layer in layers:
        *W1, right = layer.factors
        if W1 and (layer is layers[-1] or len(right) > min(layer.n_in, layer.n_out)):
            parts.append(Linear(layer.place, (right,), None))
            layer = replace(layer, factors=tuple(W1))
        parts.append(layer)
    paired: list[Linear] = []
    for layer in parts:
        before = paired[-1] if paired else None
        if (
            before is not None
            and layer is not parts[-1]  # the output layer is dense
            and len(before.factors) == len(layer.factors) == 1
            and before.b is None
            and before.activation is None
            and before.n_out == layer.n_in <= min(before.n_in, layer.n_out)
        ):
            paired[-1] = replace(layer, factors=layer.factors + before.factors)
        else:
            paired.append(layer)
    return paired


def to_torch(net: Network, *, logits: bool = False) -> torch.nn.Sequential:
    """A `torch.nn.Sequential` that computes what a network does, as a copy.

    A factored layer becomes two Linear layers, W2 without a bias and then W1 with it. `from_torch` is the way back.
    The module takes floats: scale uint8 inputs by `uint8_scale` first, as the network does. Needs PyTorch: the extra `torch`.

    Parameters
    ----------
    net : Network
    logits : bool
        Leave out a last softmax or sigmoid, as torch's CrossEntropyLoss and BCEWithLogitsLoss want it.

    Returns
    -------
    torch.nn.Sequential
        With the network's dtype.

    Raises
    ------
    ImportError
        PyTorch is not installed.
    TypeError
        `net` is not a network, or `logits` is not True or False.
    ValueError
        PyTorch lacks an activation of the network.

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
        import torch
    except ImportError:
        raise ImportError(
            'to_torch needs PyTorch: pip install "svdfast[torch]"', name="torch"
        ) from None
    from torch import nn

    if not isinstance(net, Network):
        raise TypeError(f"net: expected a Network, got {type(net).__name__}")
    if not isinstance(logits, bool):
        raise TypeError(f"logits: expected True or False, got {type(logits).__name__}")

    def linear(W: NDArray[Any], b: NDArray[Any] | None) -> nn.Linear:
        # Without first weights, which would draw from torch's own generator.
        made = nn.Linear(W.shape[1], W.shape[0], bias=b is not None, device="meta")
        made.weight = nn.Parameter(torch.tensor(W))
        if b is not None:
            made.bias = nn.Parameter(torch.tensor(b))
        return made

    def activation(i: int, function: Activation) -> nn.Module:
        known = function.facts.torch
        if known is None:
            raise ValueError(f"net: layer {i}: expected an activation of torch.nn, got {function.name}")
        arguments = {name: values[0] for name, values in known.others.items()}
        if known.parameter is not None:
            arguments[known.parameter] = function.parameter
        made: nn.Module = getattr(nn, known.name)(**arguments)
        return made

    parts: list[nn.Module] = []
    with in_use.reading(net):
        for i, layer in enumerate(net.layers):
            *first, last = layer.products.values()
            parts += [*(linear(W, None) for W in first), linear(last, layer.b)]
            if layer.activation.name != "identity":
                parts.append(activation(i, layer.activation))
    if logits and head_of(net.layers[-1].activation).decides:
        parts.pop()
    return nn.Sequential(*parts)
