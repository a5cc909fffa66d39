# SPDX-License-Identifier: BSD-3-Clause
"""Activation functions by name: what a layer applies to its pre-activation Z = X·Wᵀ + b.

A new activation takes a function here, a row in `FACTS`, and a line in src/loops/activations.h,
which holds the compiled loops and their codes. Conversion of networks is in interop/ and onnx.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from svdfast._elementwise import ACTIVATIONS, BACKWARD_READS
from svdfast._process.checks import known_name, positive_number

__all__ = [
    "Activation",
    "celu",
    "clipped_relu",
    "elu",
    "exp",
    "gelu",
    "gelu_tanh",
    "hardtanh",
    "identity",
    "leaky_relu",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]


@dataclass(frozen=True)
class Activation:
    """An activation function and its parameter. The functions of this module make it.

    Attributes
    ----------
    name : str
    parameter : float
        Slope of leaky ReLU, ceiling of clipped ReLU, limit of hard tanh, or α of ELU and CELU. The
        other activations do not use it.

    Examples
    --------
    >>> import svdfast as sf
    >>> sf.activations.leaky_relu(0.2)
    Activation(name='leaky_relu', parameter=0.2)
    """

    name: str
    parameter: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in FACTS:
            raise ValueError(f"name: expected one of {', '.join(FACTS)}, got {self.name!r}")
        label, or_zero = self.facts.parameter or "parameter", self.facts.or_zero
        parameter = positive_number(label, self.parameter, or_zero=or_zero)
        object.__setattr__(self, "parameter", parameter)

    @property
    def code(self) -> int:
        """Its number in the compiled loops."""
        return ACTIVATIONS[self.name]

    @property
    def backward_reads(self) -> Literal["A", "Z"] | None:
        """The value that the derivative is computed from: A, Z, or None where it is 1."""
        return BACKWARD_READS[self.name]

    @property
    def facts(self) -> Facts:
        """Its row in `FACTS`."""
        return FACTS[self.name]


def identity() -> Activation:
    """f(z) = z."""
    return Activation("identity")


def relu() -> Activation:
    """f(z) = max(z, 0); the derivative at 0 is 0."""
    return Activation("relu")


def clipped_relu(ceiling: float = 6.0) -> Activation:
    """f(z) = min(max(z, 0), ceiling); ceiling > 0. With 6 it is ReLU6; the derivative at both ends is 0."""
    return Activation("clipped_relu", ceiling)


def hardtanh(limit: float = 1.0) -> Activation:
    """f(z) = min(max(z, −limit), limit); limit > 0; the derivative at both ends is 0."""
    return Activation("hardtanh", limit)


def leaky_relu(slope: float = 0.01) -> Activation:
    """f(z) = z for z > 0, slope·z otherwise; slope ≥ 0."""
    return Activation("leaky_relu", slope)


def elu(alpha: float = 1.0) -> Activation:
    """f(z) = z for z > 0, α(eᶻ − 1) otherwise; α > 0 (Clevert et al. 2015)."""
    return Activation("elu", alpha)


def celu(alpha: float = 1.0) -> Activation:
    """f(z) = z for z > 0, α(e^(z/α) − 1) otherwise; α > 0 (Barron 2017)."""
    return Activation("celu", alpha)


def gelu() -> Activation:
    """f(z) = z·Φ(z), Φ the normal distribution function, computed by erfc (Hendrycks & Gimpel 2016)."""
    return Activation("gelu")


def gelu_tanh() -> Activation:
    """f(z) = z·(1 + tanh(√(2/π)·(z + 0.044715·z³)))/2, an approximation of GELU (Hendrycks & Gimpel 2016)."""
    return Activation("gelu_tanh")


def silu() -> Activation:
    """f(z) = z/(1 + e⁻ᶻ), also called swish (Elfwing et al. 2018)."""
    return Activation("silu")


def softplus() -> Activation:
    """f(z) = log(1 + eᶻ) for z ≤ 20, z otherwise, as in PyTorch."""
    return Activation("softplus")


def tanh() -> Activation:
    """f(z) = tanh z."""
    return Activation("tanh")


def sigmoid() -> Activation:
    """f(z) = 1/(1 + e⁻ᶻ)."""
    return Activation("sigmoid")


def exp() -> Activation:
    """f(z) = eᶻ, for an output that is positive: a rate or a count (the loss "poisson")."""
    return Activation("exp")


def softmax() -> Activation:
    """f(z)ⱼ = e^(zⱼ) / Σₖ e^(zₖ), over the outputs of one sample."""
    return Activation("softmax")


class Graph(Protocol):
    """The part of onnx.py's graph that writes activations: each call adds nodes and gives the name of their output."""

    double: bool

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str: ...
    def scalar(self, number: float) -> str: ...
    def erfcx(self, x: str) -> str: ...


Onnx = Callable[[Graph, str, float], str]  # takes a graph, z and the parameter; gives f(z)'s name


def _operator(name: str, **attributes: Any) -> Onnx:
    """An ONNX operator without a parameter."""
    return lambda graph, z, parameter: graph.node(name, z, **attributes)


# onnxruntime lacks LeakyRelu, Elu, Celu and Erf for float64. We build these from other operators.


def _onnx_leaky_relu(graph: Graph, z: str, slope: float) -> str:
    if graph.double:
        return graph.node("PRelu", z, graph.scalar(slope))
    return graph.node("LeakyRelu", z, alpha=slope)


def _onnx_elu(graph: Graph, z: str, alpha: float, scale: float = 1.0) -> str:
    """max(z, 0) + α·(e^(min(z, 0)/scale) − 1)."""
    node, scalar = graph.node, graph.scalar
    if not graph.double:
        return node("Elu", z, alpha=alpha)
    below = node("Min", z, scalar(0.0))
    if scale != 1:
        below = node("Div", below, scalar(scale))
    below = node("Sub", node("Exp", below), scalar(1.0))
    return node("Add", node("Max", z, scalar(0.0)), node("Mul", below, scalar(alpha)))


def _onnx_celu(graph: Graph, z: str, alpha: float) -> str:
    return _onnx_elu(graph, z, alpha, alpha) if graph.double else graph.node("Celu", z, alpha=alpha)


def _onnx_gelu(graph: Graph, z: str, parameter: float) -> str:
    node, scalar = graph.node, graph.scalar
    x = node("Div", z, scalar(math.sqrt(2)))
    if not graph.double:
        # z·(1 + erf(z/√2))/2
        return node("Mul", node("Mul", z, node("Add", node("Erf", x), scalar(1.0))), scalar(0.5))
    # max(z, 0) − x·e^(−x²)·erfcx(x)/√2, x = |z|/√2, which is z·Φ(z) for either sign of z
    x = node("Abs", x)
    tail = node("Mul", node("Exp", node("Neg", node("Mul", x, x))), graph.erfcx(x))
    tail = node("Mul", node("Mul", x, tail), scalar(math.sqrt(0.5)))
    return node("Sub", node("Max", z, scalar(0.0)), tail)


def _onnx_clipped_relu(graph: Graph, z: str, ceiling: float) -> str:
    return graph.node("Min", graph.node("Relu", z), graph.scalar(ceiling))


def _onnx_hardtanh(graph: Graph, z: str, limit: float) -> str:
    return graph.node("Max", graph.node("Min", z, graph.scalar(limit)), graph.scalar(-limit))


def _onnx_gelu_tanh(graph: Graph, z: str, parameter: float) -> str:
    """z·σ(2u), u = √(2/π)·(z + 0.044715·z³)."""
    node, scalar = graph.node, graph.scalar
    cubic = node("Mul", node("Mul", node("Mul", z, z), z), scalar(0.044715))
    twice = node("Mul", node("Add", z, cubic), scalar(2 * math.sqrt(2 / math.pi)))
    return node("Mul", z, node("Sigmoid", twice))


def _onnx_softplus(graph: Graph, z: str, parameter: float) -> str:
    node, scalar = graph.node, graph.scalar
    below = node("Log", node("Add", node("Exp", node("Min", z, scalar(20.0))), scalar(1.0)))
    return node("Where", node("Greater", z, scalar(20.0)), z, below)


@dataclass(frozen=True)
class Torch:
    """An activation's module in torch.nn.

    `name` is its class. `parameter` is the argument that takes our parameter. `others` gives, for a
    parameter, the values that each other argument may have; `to_torch` writes the first one.
    """

    name: str
    parameter: str | None = None
    others: Callable[[float], Mapping[str, tuple[Any, ...]]] = lambda parameter: {}


@dataclass(frozen=True)
class Facts:
    """An activation's facts; `torch`, `onnx` and `sklearn` are None where a library lacks it.

    Attributes
    ----------
    make : function
        Gives the activation with its default parameter. The function has the activation's name.
    parameter : str or None
        The parameter's name; None if it has no parameter.
    or_zero : bool
        True if the parameter may be 0.
    torch : Torch or None
        None for the identity, too: no module follows the layer.
    onnx : function or None
        Writes the activation to a `Graph`.
    sklearn : str or None
        Its name in scikit-learn's multi-layer perceptrons.
    """

    make: Callable[[], Activation]
    parameter: str | None = None
    or_zero: bool = False
    torch: Torch | None = None
    onnx: Onnx | None = None
    sklearn: str | None = None


FACTS = {
    facts.make.__name__: facts
    for facts in (
        Facts(identity, onnx=lambda graph, z, _: z, sklearn="identity"),
        Facts(relu, torch=Torch("ReLU"), onnx=_operator("Relu"), sklearn="relu"),
        Facts(
            clipped_relu, "ceiling",
            torch=Torch("Hardtanh", "max_val", lambda _: {"min_val": (0.0,)}), onnx=_onnx_clipped_relu,
        ),
        Facts(
            hardtanh, "limit",
            torch=Torch("Hardtanh", "max_val", lambda limit: {"min_val": (-limit,)}),
            onnx=_onnx_hardtanh,
        ),
        Facts(
            leaky_relu, "slope", or_zero=True,
            torch=Torch("LeakyReLU", "negative_slope"), onnx=_onnx_leaky_relu,
        ),
        Facts(elu, "alpha", torch=Torch("ELU", "alpha"), onnx=_onnx_elu),
        Facts(celu, "alpha", torch=Torch("CELU", "alpha"), onnx=_onnx_celu),
        Facts(gelu, torch=Torch("GELU", others=lambda _: {"approximate": ("none",)}), onnx=_onnx_gelu),
        Facts(
            gelu_tanh, torch=Torch("GELU", others=lambda _: {"approximate": ("tanh",)}), onnx=_onnx_gelu_tanh
        ),
        Facts(
            silu, torch=Torch("SiLU"),
            onnx=lambda graph, z, _: graph.node("Mul", z, graph.node("Sigmoid", z)),
        ),
        Facts(
            softplus, torch=Torch("Softplus", others=lambda _: {"beta": (1.0,), "threshold": (20.0,)}),
            onnx=_onnx_softplus,
        ),
        Facts(tanh, torch=Torch("Tanh"), onnx=_operator("Tanh"), sklearn="tanh"),
        Facts(sigmoid, torch=Torch("Sigmoid"), onnx=_operator("Sigmoid"), sklearn="logistic"),
        Facts(exp, onnx=_operator("Exp"), sklearn="exp"),
        Facts(
            softmax, torch=Torch("Softmax", others=lambda _: {"dim": (-1, 1)}),
            onnx=_operator("Softmax", axis=-1), sklearn="softmax",
        ),
    )
}  # fmt: skip

# Names in other libraries.
_ELSEWHERE = {
    "exponential": "exp",
    "leaky": "leaky_relu",
    "leakyrelu": "leaky_relu",
    "linear": "identity",
    "logistic": "sigmoid",
    "none": "identity",
    "swish": "silu",
}


def resolve(activation: str | Activation, argument: str = "activation") -> Activation:
    """The activation of a name (with its default parameter); an `Activation` is returned as it is.

    Raises
    ------
    ValueError
        The name is not known.
    TypeError
        It is neither a name nor an `Activation`.
    """
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        raise TypeError(
            f"{argument}: expected a name or an Activation, got {type(activation).__name__}"
        )
    known_name(argument, activation, FACTS, _ELSEWHERE)
    return FACTS[activation].make()
