# SPDX-License-Identifier: BSD-3-Clause
"""What data must be for a network: shapes, types, and what the targets are. Elsewhere: the checks (checks.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Spec", "Targets"]


@dataclass(frozen=True)
class Targets:
    """What a loss takes as targets: rows of numbers, or class numbers too.

    Attributes
    ----------
    name : str
        The loss's.
    classes : bool
        Whether a class number may stand for a row.
    bounds : tuple of float, optional
        The smallest and the largest value of a row.
    expected : str
        What a row within bounds is called in messages.
    """

    name: str
    classes: bool = False
    bounds: tuple[float, float] | None = None
    expected: str = "numbers"

    @property
    def code(self) -> int:
        """The code that the compiled core knows the loss by."""
        raise NotImplementedError


class Spec(NamedTuple):
    """What a source of data needs to know of a network.

    Attributes
    ----------
    n_inputs, n_outputs : int
    dtype : numpy.dtype
        Dtype that samples are read in.
    uint8_scale : float
        Factor of samples of dtype uint8.
    targets : Targets or None
        None: there are no targets.
    target_dtype : numpy.dtype
        Dtype of targets and weights.
    finite : bool
        Whether there must be a sample, and all samples be finite.
    shape : tuple of int
        Of a sample that may come as more than a row: (steps, features), (height, width, channels). (None,) and (None, features): of any
        number of steps.
    steps : tuple of int
        (steps,) where a sample has a target of `n_outputs` for each step; else empty.
    n_tokens : int
        Samples are whole numbers from 0 on, so many of them; 0: any numbers.
    n_classes : int
        Classes that a label may name: 0 where targets are other things than a class for each sample.
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
        """Whether samples may have any number of steps; then `checks.with_steps` is to make a spec of it for each data set."""
        return self.shape[:1] == (None,)

    def per_target(self, n: int) -> tuple[int, ...]:
        """Shape of an array with one number for each target of n samples."""
        return (n, *self.steps)
