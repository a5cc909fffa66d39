# SPDX-License-Identifier: BSD-3-Clause
"""Checks samples, targets and weights at the boundary, and brings them to forms that the compiled core reads.

Nothing is copied that can be read as it lies: uint8, float32 and float64 rows are converted tile by tile in the core. Not here: where
data comes from (datasets.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdfast._checks import real_array
from svdfast.losses import Loss

__all__ = ["Inputs", "check_inputs", "check_sample_weight", "check_targets"]

_CODES = {np.dtype(np.uint8): 0, np.dtype(np.float32): 1, np.dtype(np.float64): 2}
_CHUNK = 1 << 20  # elements looked at together, so that a check needs little memory


@dataclass(frozen=True)
class Inputs:
    """Samples in rows (p, m), the code of their element type, and the factor that they are multiplied with."""

    array: NDArray[Any]
    code: int
    scale: float


def _check_finite(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Refuses NaN, Inf and what becomes Inf in the network's dtype."""
    if array.dtype.kind != "f" or array.size == 0:
        return
    rows = max(1, _CHUNK // max(1, array[0].size))
    for start in range(0, len(array), rows):
        chunk = array[start : start + rows]
        with np.errstate(over="ignore"):
            finite = np.isfinite(chunk.astype(dtype, copy=False))
        if not finite.all():
            place = np.argwhere(~finite)[0]
            value = chunk[tuple(place)]
            place[0] += start
            raise ValueError(
                f"{name}: expected finite numbers of {dtype}, got {value} at "
                f"{', '.join(str(i) for i in place)}"
            )


def check_inputs(
    X: ArrayLike,
    n_in: int,
    dtype: np.dtype[Any],
    uint8_scale: float,
    *,
    finite: bool = True,
    name: str = "X",
) -> Inputs:
    """Samples in rows for a network of `n_in` inputs.

    Raises
    ------
    TypeError
        Not real numbers.
    ValueError
        Not 2-D, not `n_in` columns, or (if `finite`) not finite.
    """
    array = real_array(name, X)
    if array.ndim != 2:
        hint = "; use X.reshape(len(X), -1)" if array.ndim > 2 else "; use X.reshape(1, -1) for one"
        raise ValueError(
            f"{name}: expected samples in the rows of a 2-D array, got shape {array.shape}"
            + (hint if array.ndim else "")
        )
    if array.shape[1] != n_in:
        raise ValueError(f"{name}: expected {n_in} columns, got shape {array.shape}")
    if finite:
        _check_finite(name, array, dtype)
    if array.dtype not in _CODES:
        array = array.astype(dtype)
    itemsize = array.itemsize
    rows_contiguous = array.shape[1] <= 1 or array.strides[1] == itemsize
    if not rows_contiguous or array.strides[0] % itemsize or not array.flags.aligned:
        array = np.ascontiguousarray(array)
    code = _CODES[array.dtype]
    return Inputs(array, code, uint8_scale if code == 0 else 1.0)


def check_targets(
    y: ArrayLike,
    loss: Loss,
    n_samples: int,
    n_out: int,
    dtype: np.dtype[Any],
    *,
    name: str = "y",
) -> NDArray[Any]:
    """Targets as int32 class numbers (p,), or as values (p, n_out) of the network's dtype, C-contiguous.

    Raises
    ------
    TypeError
        Not real numbers, or class numbers that are not integers.
    ValueError
        A shape, length or value that does not fit the loss.
    """
    array = real_array(name, y)
    if array.ndim == 0 or len(array) != n_samples:
        got = "a single number" if array.ndim == 0 else f"shape {array.shape}"
        raise ValueError(f"{name}: expected {n_samples} targets, one for each sample, got {got}")
    if loss.name == "cross_entropy" and array.ndim == 1:
        if array.dtype.kind not in "iub":
            raise TypeError(
                f"{name}: expected integer class numbers (or one-hot rows), got dtype {array.dtype}"
            )
        if array.size and (array.min() < 0 or array.max() >= n_out):
            raise ValueError(
                f"{name}: expected class numbers from 0 to {n_out - 1}, "
                f"got {array.min()} to {array.max()}"
            )
        return np.ascontiguousarray(array, dtype=np.int32)
    if array.ndim == 1 and n_out == 1:
        array = array[:, np.newaxis]
    if array.shape != (n_samples, n_out):
        raise ValueError(
            f"{name}: expected shape {(n_samples, n_out)} for {loss.name}, got {array.shape}"
        )
    _check_finite(name, array, dtype)
    if array.size and loss.name == "binary_cross_entropy" and (array.min() < 0 or array.max() > 1):
        raise ValueError(
            f"{name}: expected values from 0 to 1 for {loss.name}, "
            f"got {array.min()} to {array.max()}"
        )
    if array.size and loss.name == "cross_entropy" and array.min() < 0:
        raise ValueError(f"{name}: expected one-hot rows or shares ≥ 0, got {array.min()}")
    return np.ascontiguousarray(array, dtype=dtype)


def check_sample_weight(
    sample_weight: ArrayLike | None, n_samples: int, dtype: np.dtype[Any]
) -> NDArray[Any] | None:
    """Weights (p,) ≥ 0 of the network's dtype, or None.

    Raises
    ------
    TypeError
        Not real numbers.
    ValueError
        Another shape, a weight below 0 or not finite, or all of them 0.
    """
    if sample_weight is None:
        return None
    array = real_array("sample_weight", sample_weight)
    if array.shape != (n_samples,):
        raise ValueError(f"sample_weight: expected shape {(n_samples,)}, got {array.shape}")
    _check_finite("sample_weight", array, dtype)
    array = np.ascontiguousarray(array, dtype=dtype)
    if array.size and (array.min() < 0 or array.max() == 0):
        raise ValueError(
            f"sample_weight: expected weights ≥ 0, not all zero in {dtype}, "
            f"got {array.min()} to {array.max()}"
        )
    return array
