# SPDX-License-Identifier: BSD-3-Clause
"""Single PyTorch modules: their numbers, their function, and the scale and shift of normalisations.

Elsewhere: modules in sequence (torch_reading.py).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdfast._process.checks import positive_number
from svdfast.interop.linears import Affine, Linear
from svdfast.interop.torch_parts import refuse
from svdfast.model import activations
from svdfast.model.activations import Activation

if TYPE_CHECKING:
    import torch

__all__ = ["activation_of", "batch_norm_of", "linear_of", "numbers_of", "weight_names"]

# SELU(z) = scale·ELU(z) with this α (Klambauer et al. 2017).
_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717


def numbers_of(place: str, tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor as an array in float32 or float64. Half precision becomes float32."""
    import torch

    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(f"{place}: expected float32 or float64, got {kind}")
    if tensor.device.type == "meta":
        raise ValueError(f"{place}: expected numbers, got a tensor on the device meta")
    if tensor.layout != torch.strided:
        raise ValueError(f"{place}: expected a dense tensor, got {tensor.layout}")
    tensor = tensor.detach().cpu()
    numbers: NDArray[Any] = (tensor if kind == "float64" else tensor.float()).numpy()
    return numbers


def weight_names(part: torch.nn.Module) -> tuple[str, ...]:
    """The names of a Linear's or a FactoredLinear's weights.

    Subclasses have none, as they may compute something else.
    """
    from torch import nn

    from svdfast.torch import FactoredLinear

    return {nn.Linear: ("weight",), FactoredLinear: ("W1", "W2")}.get(type(part), ())


def linear_of(place: str, part: torch.nn.Module) -> Linear | None:
    """The numbers of a Linear or a FactoredLinear."""
    names = weight_names(part)
    if not names:
        return None
    factors = tuple(numbers_of(f"{place}.{name}", getattr(part, name)) for name in names)
    b: Any = part.bias
    return Linear(place, factors, None if b is None else numbers_of(f"{place}.bias", b))


def batch_norm_of(place: str, part: Any) -> Affine | None:
    """A BatchNorm1d or BatchNorm2d after eval(), as Affine: (x − mean)/√(var + ε)·weight + bias."""
    from torch import nn

    if type(part) not in (nn.BatchNorm1d, nn.BatchNorm2d):
        return None
    if part.running_mean is None or part.running_var is None:
        raise ValueError(
            f"{place}: expected a {type(part).__name__} with running statistics, got {part}, which takes each batch's own; set "
            "track_running_stats=True, running_mean and running_var"
        )
    if part.training:
        raise ValueError(
            f"{place}: expected {part} after eval(), got one in training mode; call module.eval() first"
        )

    def array(name: str) -> NDArray[Any]:
        return numbers_of(f"{place}.{name}", getattr(part, name))

    mean, var = array("running_mean").astype(np.float64), array("running_var").astype(np.float64)
    with np.errstate(all="ignore"):  # folding finds numbers that are not finite
        scale = 1 / np.sqrt(var + part.eps)
        if part.weight is not None:
            scale *= array("weight")
        shift = -mean * scale
        if part.bias is not None:
            shift += array("bias")
    return Affine(place, scale, shift, str(array("running_mean").dtype))


def activation_of(
    place: str, part: torch.nn.Module
) -> tuple[Activation | None, float, float]:
    """The activation f, b and a of a module that computes a·f(b·z).

    None for a module that does nothing in inference.
    """
    from torch import nn

    kind = type(part)  # a subclass may compute something else
    if kind in (nn.Dropout, nn.AlphaDropout, nn.Identity):
        return None, 1, 1
    if kind is nn.Flatten:
        if part.start_dim != 1 or part.end_dim not in (1, -1):
            raise ValueError(f"{place}: expected Flatten(start_dim=1, end_dim=-1), got {part}")
        return None, 1, 1
    if kind is nn.SELU:
        return activations.elu(_SELU_ALPHA), 1, _SELU_SCALE
    if kind is nn.ReLU6:
        return activations.clipped_relu(6), 1, 1
    if kind is nn.Softplus and part.threshold == 20 and part.beta != 1:
        beta = positive_number(f"{place}: {part}: beta", part.beta)
        return activations.softplus(), beta, 1 / beta
    expected = []
    for ours, facts in activations.FACTS.items():
        known = facts.torch
        if known is None or kind is not getattr(nn, known.name):
            continue
        try:
            function = activations.resolve(ours)
            if known.parameter is not None:
                function = Activation(ours, getattr(part, known.parameter))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place}: {part}: {error}") from None
        others = known.others(function.parameter)
        if all(getattr(part, name) in values for name, values in others.items()):
            return function, 1, 1
        for values in itertools.product(*others.values()):
            arguments = ", ".join(f"{name}={v!r}" for name, v in zip(others, values, strict=True))
            expected.append(f"{known.name}({arguments})")
    if expected:
        raise ValueError(f"{place}: expected {' or '.join(expected)}, got {part}")
    refuse(place, part)
