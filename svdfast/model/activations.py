# SPDX-License-Identifier: BSD-3-Clause
"""Activation functions by name: what a layer applies to its pre-activation Z = X·Wᵀ + b.

Only names, codes and parameters stand here; the loops that compute them are compiled (src/elementwise_loops.h).
"""

from __future__ import annotations

from dataclasses import dataclass

from svdfast._process.checks import positive_number

__all__ = [
    "Activation",
    "celu",
    "elu",
    "gelu",
    "identity",
    "leaky_relu",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]

_CODES = (
    "identity",
    "relu",
    "leaky_relu",
    "elu",
    "celu",
    "gelu",
    "tanh",
    "sigmoid",
    "softmax",
)


@dataclass(frozen=True)
class Activation:
    """An activation function and its parameter. Made by the functions of this module.

    Attributes
    ----------
    name : str
    parameter : float
        Slope of leaky ReLU, α of ELU and CELU; not used by the others.

    Examples
    --------
    >>> import svdfast as sf
    >>> sf.activations.leaky_relu(0.2)
    Activation(name='leaky_relu', parameter=0.2)
    """

    name: str
    parameter: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in _CODES:
            raise ValueError(f"name: expected one of {', '.join(_CODES)}, got {self.name!r}")
        positive_number("parameter", self.parameter, or_zero=self.name == "leaky_relu")

    @property
    def code(self) -> int:
        """The number that the compiled loops know it by."""
        return _CODES.index(self.name)

    @property
    def backward_reads(self) -> str:
        return "Z" if self.name == "gelu" else "A"


def identity() -> Activation:
    """f(z) = z."""
    return Activation("identity")


def relu() -> Activation:
    """f(z) = max(z, 0); the derivative at 0 is 0."""
    return Activation("relu")


def leaky_relu(slope: float = 0.01) -> Activation:
    """f(z) = z for z > 0, slope·z otherwise; slope ≥ 0."""
    return Activation("leaky_relu", positive_number("slope", slope, or_zero=True))


def elu(alpha: float = 1.0) -> Activation:
    """f(z) = z for z > 0, α(eᶻ − 1) otherwise; α > 0 (Clevert et al. 2015)."""
    return Activation("elu", positive_number("alpha", alpha))


def celu(alpha: float = 1.0) -> Activation:
    """f(z) = z for z > 0, α(e^(z/α) − 1) otherwise; α > 0 (Barron 2017)."""
    return Activation("celu", positive_number("alpha", alpha))


def gelu() -> Activation:
    """f(z) = z·Φ(z), Φ the normal distribution function, computed by erfc (Hendrycks & Gimpel 2016)."""
    return Activation("gelu")


def tanh() -> Activation:
    """f(z) = tanh z."""
    return Activation("tanh")


def sigmoid() -> Activation:
    """f(z) = 1/(1 + e⁻ᶻ)."""
    return Activation("sigmoid")


def softmax() -> Activation:
    """f(z)ⱼ = e^(zⱼ) / Σₖ e^(zₖ), over the outputs of one sample."""
    return Activation("softmax")


_BY_NAME = {
    f.__name__: f
    for f in (identity, relu, leaky_relu, elu, celu, gelu, tanh, sigmoid, softmax)
}


def resolve(activation: str | Activation, argument: str = "activation") -> Activation:
    """The activation of a name (with its default parameter); an `Activation` is returned as it is.

    Raises
    ------
    ValueError
        The name is not known.
    TypeError
        Neither a name nor an `Activation`.
    """
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        raise TypeError(
            f"{argument}: expected a name or an Activation, got {type(activation).__name__}"
        )
    if activation not in _BY_NAME:
        raise ValueError(f"{argument}: expected one of {', '.join(_BY_NAME)}, got {activation!r}")
    return _BY_NAME[activation]()
