# SPDX-License-Identifier: BSD-3-Clause
"""What a structure is: a way to represent a weight W (n_out, n_in) by tensors.

A structure knows shapes and owns no numbers. A new one is a file beside this, which is found by itself, or a class anywhere in
a user's code. Not here: the structures there are (dense.py, low_rank.py), and where tensors lie (layout.py).
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
    """Tensors that represent a weight as well as they can, and what they leave of it.

    Attributes
    ----------
    tensors : tuple of ndarray
    singular_values : ndarray
        Those kept.
    dropped_norm : float
        ‖W − Ŵ‖_F, Ŵ the weight that the tensors represent.
    """

    tensors: tuple[Array, ...]
    singular_values: Array
    dropped_norm: float


@dataclass(frozen=True)
class Structure(ABC):
    """A way to represent a weight.

    A class with other fields than these gives them plain integers, which files keep. Its name is its name in files, so reading a
    file takes a class of that name that is there.

    Attributes
    ----------
    n_out, n_in : int
        Shape of the weight.
    rank : int or None
        What `ranks` asks for; None where a structure has none.
    factored : bool
        Whether it is another form than the weight itself.
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
        """Names and shapes, in the order in which they lie."""

    @abstractmethod
    def emit(self, program: Program, x: int, tensors: Sequence[Tensor]) -> int:
        """Writes the products X·Wᵀ; returns the value of the result."""

    @abstractmethod
    def matrix(self, t: Sequence[Array]) -> Array:
        """W (n_out, n_in); may be a view of the tensors."""

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
            How the weight's own are found.
        split : {"balanced", "left", "right"}
        """

    @abstractmethod
    def pullback(self, M: Array, t: Sequence[Array]) -> tuple[Array, ...]:
        """What a gradient M of W is of the tensors.

        A structure that is linear in each tensor carries the mean of squared gradients, too: by the squares of the tensors.
        """

    def lift(self, kind: Moment, moments: Sequence[Array], t: Sequence[Array]) -> Array:
        """A moment of W from those of its tensors: of a structure without a way back, none."""
        return np.zeros((self.n_out, self.n_in), moments[0].dtype)

    def decay(self, t: Sequence[Array], amount: float) -> None:
        """A step, in place, against (λ/2)·‖W‖_F², `amount` times λ·W pulled back."""
        gradients = self.pullback(self.matrix(t), t)
        for tensor, gradient in zip(t, gradients, strict=True):
            tensor -= amount * gradient

    @property
    def decay_multiplications(self) -> int:
        """What `decay` takes, for a structure without better knowledge: three products of full size."""
        return 3 * self.n_out * self.n_in * min(self.n_out, self.n_in)

    def relative_scale(self, t: Sequence[Array]) -> float:
        """How much larger the tensors' elements are than those of W: root mean squares, the geometric mean of the tensors'
        over W's; 1 where W is zero.

        Adam's steps have the size of the learning rate whatever the gradient's, so a rate multiplied with this changes the tensors
        by as much of their size as it changed W. Of balanced factors of a flat spectrum it is near (max(m, n)/(l·σ))^½, that is α^-½.
        """
        squares = [float(np.square(tensor, dtype=np.float64).mean()) for tensor in t]
        product = float(np.square(self.matrix(t), dtype=np.float64).mean())
        return float(np.sqrt(np.prod(squares) ** (1 / len(squares)) / product)) if product > 0 else 1.0

    def singular_values(self, t: Sequence[Array]) -> Array:
        """Those of W that are not zero by construction, largest first, in float64."""
        return singular_values(self.matrix(t)).astype(np.float64)

    def __str__(self) -> str:
        return f"rank {self.rank}"

    @property
    def note(self) -> str:
        """What the network says of a layer beside its outputs."""
        return f" ({self})"

    def header(self) -> dict[str, Any]:
        """The structure as files have it."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("n_out", "n_in")}
        return {"structure": type(self).__name__} | {name: value for name, value in own.items() if value is not None}
