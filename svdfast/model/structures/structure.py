# SPDX-License-Identifier: BSD-3-Clause
"""Structure: a way to represent a weight W (n_out, n_in) by tensors.

A structure knows shapes and owns no numbers. A new one is a file in this folder, which is found
automatically, or a class anywhere in a user's code. The existing structures are in dense.py and
low_rank.py; the places of tensors are in layout.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdfast.model.program import Program, Tensor
from svdfast.model.svd import singular_values

__all__ = ["Array", "Fit", "Moment", "Structure"]

Array: TypeAlias = NDArray[Any]
Moment: TypeAlias = Literal["mean", "square"]


@dataclass(frozen=True)
class Fit:
    """Tensors that represent a weight as well as they can, and the error of that.

    Attributes
    ----------
    tensors : tuple of ndarray
    singular_values : ndarray
        The values kept.
    dropped_norm : float
        ‖W − Ŵ‖_F, where Ŵ is the weight that the tensors represent.
    """

    tensors: tuple[Array, ...]
    singular_values: Array
    dropped_norm: float


@dataclass(frozen=True)
class Structure(ABC):
    """A way to represent a weight.

    Further fields of a class must be plain integers, which files keep. Files also keep the name of
    the class, so a class of that name must be defined when a file is read.

    Attributes
    ----------
    n_out, n_in : int
        Shape of the weight.
    rank : int or None
        The rank that `ranks` requests; None if a structure has none.
    factored : bool
        False only for the weight itself.
    """

    n_out: int
    n_in: int
    rank: int | None = None

    factored: ClassVar[bool] = True
    kinds: ClassVar[dict[str, type[Structure]]] = {}

    def __init_subclass__(cls) -> None:
        known = Structure.kinds.get(cls.__name__)
        if known is not None and known.__module__.startswith("svdfast.") and known.__module__ != cls.__module__:
            raise TypeError(f"structure: expected a name other than svdfast's own, got {cls.__name__}")
        Structure.kinds[cls.__name__] = cls

    @abstractmethod
    def tensors(self) -> tuple[tuple[str, tuple[int, int]], ...]:
        """Names and shapes of the tensors, in their order in the vector."""

    @abstractmethod
    def emit(self, program: Program, x: int, tensors: Sequence[Tensor]) -> int:
        """Writes the products X·Wᵀ. Returns the value of the result."""

    @abstractmethod
    def matrix(self, t: Sequence[Array]) -> Array:
        """W (n_out, n_in). It may be a view of the tensors."""

    @abstractmethod
    def fit(
        self, W: Array, *, directions: Array | None = None, svd: Literal["exact", "randomized"] = "exact",
        split: str = "balanced",
    ) -> Fit:  # fmt: skip
        """Tensors for a weight.

        Parameters
        ----------
        W : ndarray (n_out, n_in)
        directions : ndarray (n_out, rank or more), optional
            Orthonormal directions of the outputs to keep, by default the weight's own: see
            `svdfast.model.svd.leading_directions`.
        svd : {"exact", "randomized"}
            The method that finds the weight's own directions.
        split : {"balanced", "left", "right"}
        """

    @abstractmethod
    def pullback(self, M: Array, t: Sequence[Array]) -> tuple[Array, ...]:
        """The gradients of the tensors for a gradient M of W.

        For a structure that is linear in each tensor, the squares of the tensors pull back the mean
        of squared gradients, too.
        """

    def lift(self, kind: Moment, moments: Sequence[Array], t: Sequence[Array]) -> Array:
        """A moment of W from those of its tensors; zeros for a structure that cannot lift them."""
        return np.zeros((self.n_out, self.n_in), moments[0].dtype)

    def decay(self, t: Sequence[Array], amount: float) -> None:
        """A step against (λ/2)·‖W‖_F², in place: `amount` times W pulled back is subtracted."""
        gradients = self.pullback(self.matrix(t), t)
        for tensor, gradient in zip(t, gradients, strict=True):
            tensor -= amount * gradient

    @property
    def decay_multiplications(self) -> int:
        """Multiplications of `decay`. The default is three products of full size."""
        return 3 * self.n_out * self.n_in * min(self.n_out, self.n_in)

    def relative_scale(self, t: Sequence[Array]) -> float:
        """Ratio of the size of the tensors' elements to that of W's elements.

        Sizes are root mean squares; the geometric mean over the tensors is divided by the size of
        W. The ratio is 1 if W is zero.

        Adam's steps have the size of the learning rate for any size of the gradient. A rate
        multiplied with this ratio therefore changes the tensors by the same share of their size as
        the rate changed W. For balanced factors of a flat spectrum the ratio is near
        (max(m, n)/(l·σ))^½, that is α^-½.
        """
        squares = [float(np.square(tensor, dtype=np.float64).mean()) for tensor in t]
        product = float(np.square(self.matrix(t), dtype=np.float64).mean())
        return float(np.sqrt(np.prod(squares) ** (1 / len(squares)) / product)) if product > 0 else 1.0

    def singular_values(self, t: Sequence[Array]) -> Array:
        """Singular values of W that are not zero by construction, largest first, in float64."""
        return singular_values(self.matrix(t)).astype(np.float64)

    def __str__(self) -> str:
        return f"rank {self.rank}"

    @property
    def note(self) -> str:
        """The note beside a layer's outputs in the network's repr."""
        return f" ({self})"

    def header(self) -> dict[str, Any]:
        """The structure in plain values, as files keep it."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("n_out", "n_in")}
        return {"structure": type(self).__name__} | {name: value for name, value in own.items() if value is not None}
