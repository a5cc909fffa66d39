# SPDX-License-Identifier: BSD-3-Clause
"""Optimizers: how a gradient g becomes an update of the parameters w, with settings and moments.

A new optimizer is a class here, named in `__all__`, and a loop over the flat vectors in src/loops/updates.h.
Elsewhere: the rate η at each step (schedules.py), and L1 and L2 penalties, which are arguments of
`train`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from svdfast._elementwise import UPDATES
from svdfast._engine import aligned_zeros
from svdfast._process.checks import (
    MAX_SIZE,
    count,
    float_dtype,
    fraction,
    known_name,
    positive_number,
    room,
)
from svdfast.model.structures import Moment
from svdfast.training import schedules

__all__ = ["Adam", "AdamW", "GradientDescent"]


@dataclass(frozen=True)
class Rule:
    """An optimizer's compiled update: its name in src/loops/updates.h, the kinds of its moments, and its constants."""

    name: str
    kinds: tuple[Moment, ...]
    beta1: float = 0.0
    beta2: float = 0.0
    epsilon: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    @property
    def code(self) -> int:
        """The number of the rule in the compiled loops."""
        return UPDATES[self.name]


class Optimizer:
    """Base of the optimizers: a rate, a rule, and the state that one training leaves to the next.

    Attributes
    ----------
    learning_rate : float or Schedule
    n_updates : int
        Updates since the moments were zero (t in Adam's correction).
    moments : tuple of ndarray
        Vectors with the layout of the network's parameters; none before the first training.
    kinds : tuple of {"mean", "square"}
        For each moment, whether it is a running mean of gradients or of their squares.
    """

    def __init__(self, learning_rate: float | schedules.Schedule, rule: Rule):
        self.learning_rate = learning_rate
        self.schedule = schedules.resolve(learning_rate)
        self.rule = rule
        self.n_updates = 0
        self.moments: tuple[NDArray[Any], ...] = ()
        self.kinds = rule.kinds
        self._key: Hashable = None

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that make such an optimizer, without its state."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self.settings.items())})"

    def begin(self, key: Hashable, size: int, dtype: DTypeLike) -> None:
        """Keeps the moments if their parameters are laid out as `key` says, else zeroes them."""
        size = count("size", size, maximum=MAX_SIZE)
        dtype = float_dtype("dtype", dtype)
        if self._key != key:
            self._key = None
            room("optimizer", len(self.kinds) * size * np.dtype(dtype).itemsize)
            self.moments = tuple(aligned_zeros(size, dtype) for _ in self.kinds)
            self.n_updates = 0
            self._key = key
        # Compiled loops write to them.
        if len(self.moments) != len(self.kinds) or any(
            m.shape != (size,) or m.dtype != dtype or not (m.flags.c_contiguous and m.flags.aligned and m.flags.writeable)
            for m in self.moments
        ):
            raise ValueError(f"moments: expected {len(self.kinds)} vectors of {size} elements and dtype {dtype}, got others")

    def adopt(self, key: Hashable, moments: tuple[NDArray[Any], ...]) -> None:
        """Continues with these moments, which belong to parameters laid out as `key` says."""
        if not isinstance(moments, tuple) or not all(isinstance(m, np.ndarray) for m in moments):
            raise TypeError(f"moments: expected a tuple of arrays, got {type(moments).__name__}")
        if len(moments) != len(self.kinds):
            raise ValueError(f"moments: expected {len(self.kinds)} of them, got {len(moments)}")
        self.moments = moments
        self._key = key

    def reset(self) -> None:
        """Forgets the moments."""
        self.moments = ()
        self.n_updates = 0
        self._key = None


class GradientDescent(Optimizer):
    """Gradient descent: w ← w − η·g, optionally with momentum μ.

    With momentum v ← μ·v + g and w ← w − η·v; with Nesterov's w ← w − η·(g + μ·v).

    Parameters
    ----------
    learning_rate : float or Schedule
        η ≥ 0.
    momentum : float
        μ, 0 ≤ μ < 1.
    nesterov : bool
        Needs momentum > 0.

    Raises
    ------
    TypeError, ValueError
        A setting has the wrong type or is out of its range.

    References
    ----------
    The paper, section 3.1.5.

    Examples
    --------
    >>> import svdfast as sf
    >>> sf.GradientDescent(0.1, momentum=0.9)
    GradientDescent(learning_rate=0.1, momentum=0.9, nesterov=False)
    """

    def __init__(
        self,
        learning_rate: float | schedules.Schedule = 0.01,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
    ):
        momentum = fraction("momentum", momentum, below_one=True)
        if nesterov and momentum == 0:
            raise ValueError("nesterov: expected momentum > 0 with it, got momentum = 0")
        kinds: tuple[Moment, ...] = ("mean",) if momentum > 0 else ()
        rule = Rule("gradient_descent", kinds, beta1=momentum, nesterov=bool(nesterov))
        super().__init__(learning_rate, rule)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that make such an optimizer, without its state."""
        rule = self.rule
        return {"learning_rate": self.learning_rate, "momentum": rule.beta1, "nesterov": rule.nesterov}


def _adam(beta1: float, beta2: float, epsilon: float, weight_decay: float = 0.0) -> Rule:
    """The checked rule of Adam and AdamW."""
    return Rule(
        "adam",
        ("mean", "square"),
        beta1=fraction("beta1", beta1, below_one=True),
        beta2=fraction("beta2", beta2, below_one=True),
        epsilon=positive_number("epsilon", epsilon),
        weight_decay=weight_decay,
    )


class Adam(Optimizer):
    """Adam: steps scaled by running means m of the gradient and v of its square.

    m ← β₁·m + (1 − β₁)·g, v ← β₂·v + (1 − β₂)·g², w ← w − η·m̂/(√v̂ + ε) with m̂ = m/(1 − β₁ᵗ) and v̂ = v/(1 − β₂ᵗ).

    Parameters
    ----------
    learning_rate : float or Schedule
        η ≥ 0.
    beta1, beta2 : float
        β₁ and β₂, from 0 to below 1.
    epsilon : float
        ε > 0.

    Raises
    ------
    TypeError, ValueError
        A setting has the wrong type or is out of its range.

    References
    ----------
    D. P. Kingma and J. Ba, Adam: a method for stochastic optimization, 2015. (The svdfast paper,
    section 3.1.5, divides the stored moments by 1 − βᵗ. Here they are stored undivided, as Kingma
    and Ba do.)

    Examples
    --------
    >>> import svdfast as sf
    >>> sf.Adam(3e-4)
    Adam(learning_rate=0.0003, beta1=0.9, beta2=0.999, epsilon=1e-08)
    """

    def __init__(
        self,
        learning_rate: float | schedules.Schedule = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ):
        super().__init__(learning_rate, _adam(beta1, beta2, epsilon))

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that make such an optimizer, without its state."""
        rule = self.rule
        return {"learning_rate": self.learning_rate, "beta1": rule.beta1, "beta2": rule.beta2, "epsilon": rule.epsilon}


class AdamW(Adam):
    """Adam with weight decay apart from the gradient: w ← (1 − η·λ)·w − η·m̂/(√v̂ + ε).

    Biases do not decay.

    Parameters
    ----------
    learning_rate : float or Schedule
        η ≥ 0.
    weight_decay : float
        λ ≥ 0.
    beta1, beta2, epsilon : float
        As in `Adam`.

    Raises
    ------
    TypeError, ValueError
        A setting has the wrong type or is out of its range.

    References
    ----------
    I. Loshchilov and F. Hutter, Decoupled weight decay regularization, 2019.

    Examples
    --------
    >>> import svdfast as sf
    >>> sf.AdamW(3e-4, weight_decay=0.1).rule.weight_decay
    0.1
    """

    def __init__(
        self,
        learning_rate: float | schedules.Schedule = 1e-3,
        *,
        weight_decay: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ):
        decay = positive_number("weight_decay", weight_decay, or_zero=True)
        Optimizer.__init__(self, learning_rate, _adam(beta1, beta2, epsilon, decay))

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that make such an optimizer, without its state."""
        return super().settings | {"weight_decay": self.rule.weight_decay}


_TAKEN: dict[str, Callable[[], Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": GradientDescent}
# Other names of the optimizers.
_ELSEWHERE = {"gd": "sgd", "gradient_descent": "sgd", "gradientdescent": "sgd", "momentum": "sgd", "nesterov": "sgd"}


def optimizer_of(given: Optimizer | str | None) -> Optimizer:
    """Converts the argument of `train` to an object.

    A name, or None for "adam", has the settings of its class, but a rate that falls at the end.

    Raises
    ------
    TypeError, ValueError
        Something else, or another name.
    """
    name = "adam" if given is None else given
    if isinstance(name, Optimizer):
        return name
    if not isinstance(name, str):
        raise TypeError(f"optimizer: expected an Optimizer or its name, got {type(name).__name__}")
    known_name("optimizer", name, _TAKEN, _ELSEWHERE)
    made = _TAKEN[name]()
    made.learning_rate = made.schedule = schedules.Cooldown(made.schedule(0, 1))
    return made


# The optimizers that files may name. Classes of the user's own are not among them.
BY_NAME: dict[str, type[Optimizer]] = {name: globals()[name] for name in __all__}
