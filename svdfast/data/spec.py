# SPDX-License-Identifier: BSD-3-Clause
"""A network's requirements for data: shapes, types, targets. Elsewhere: the checks (checks.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Spec", "Targets"]


@dataclass(frozen=True)
class Targets:
    """The targets that a loss takes: rows of numbers, and perhaps class numbers.

    Attributes
    ----------
    name : str
        Name of the loss.
    classes : bool
        A class number may stand for a row.
    bounds : tuple of float, optional
        The smallest and the largest value of a row.
    expected : str
        Words for a row within bounds, in messages.
    """

    name: str
    classes: bool = False
    bounds: tuple[float, float] | None = None
    expected: str = "numbers"

    @property
    def code(self) -> int:
        """The code of the loss in the compiled core."""
        raise NotImplementedError


class Spec(NamedTuple):
    """The facts that a source of data needs about a network.

    Attributes
    ----------
    n_inputs, n_outputs : int
    dtype : numpy.dtype
        Dtype that samples are read in.
    uint8_scale : float
        Factor for samples of dtype uint8.
    targets : Targets or None
        None if there are no targets.
    target_dtype : numpy.dtype
        Dtype of targets and weights.
    finite : bool
        There must be a sample, and all samples must be finite.
    shape : tuple of int
        Shape of a sample that may be more than a row: (steps, features), (height, width, channels).
        (None,) and (None, features) allow any number of steps.
    steps : tuple of int
        (steps,) if a sample has a target of `n_outputs` for each step; else empty.
    n_tokens : int
        Samples are integers from 0 to n_tokens − 1; with 0, they are any numbers.
    n_classes : int
        Number of classes that a label may name; 0 unless the target is one class for each sample.
    classes : tuple of bool, int, float or str, optional
        Labels of the classes 0, 1, ...
    feature_names : tuple of str, optional
        Names that the columns of a table must have.
    """

    n_inputs: int
    n_outputs: int
    dtype: np.dtype[Any]
    uint8_scale: float
    targets: Targets | None
    target_dtype: np.dtype[Any]
    finite: bool = True
    shape: tuple[int | None, ...] = ()
    steps: tuple[int, ...] = ()
    n_tokens: int = 0
    n_classes: int = 0
    classes: tuple[Any, ...] | None = None
    feature_names: tuple[str, ...] | None = None

    @property
    def any_steps(self) -> bool:
        """True if samples may have any number of steps.

        `checks.with_steps` must then make a spec for each data set.
        """
        return self.shape[:1] == (None,)

    def per_target(self, n: int) -> tuple[int, ...]:
        """The shape of an array with one number for each target of n samples."""
        return (n, *self.steps)
