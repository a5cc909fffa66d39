# SPDX-License-Identifier: BSD-3-Clause
"""Checks samples, targets and weights at the boundary, and brings them to forms that the compiled core reads.

Nothing is copied that can be read as it lies: uint8, float32 and float64 rows are converted tile by tile in the core. Not here: data
that is not in memory, or comes in batches (sources.py); data sets to download (datasets.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdfast._process.checks import real_array, room
from svdfast.model.losses import Loss

if TYPE_CHECKING:
    from svdfast._engine import Engine

__all__ = [
    "CODES",
    "Inputs",
    "Samples",
    "check_inputs",
    "check_inputs_shape",
    "check_sample_weight",
    "check_targets",
    "check_targets_shape",
]

# Types that the compiled core reads, and their codes there.
CODES = {np.dtype(np.uint8): 0, np.dtype(np.float32): 1, np.dtype(np.float64): 2}
_CHUNK = 1 << 20  # elements looked at together, so that a check needs little memory


@dataclass(frozen=True)
class Inputs:
    """Samples in rows (p, m), the code of their element type, and the factor that they are multiplied with."""

    array: NDArray[Any]
    code: int
    scale: float


@dataclass
class Samples:
    """Checked samples with targets and weights, ready for an engine of any layout of the network."""

    inputs: Inputs
    loss: Loss
    targets: NDArray[Any]
    weights: NDArray[Any] | None

    @property
    def n_samples(self) -> int:
        return len(self.inputs.array)

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """Inputs, targets, and weights where there are any."""
        return [self.inputs.array, self.targets, *([] if self.weights is None else [self.weights])]

    def part(self, start: int, stop: int) -> Samples:
        """Samples start .. stop, as views."""
        return Samples(
            replace(self.inputs, array=self.inputs.array[start:stop]),
            self.loss,
            self.targets[start:stop],
            None if self.weights is None else self.weights[start:stop],
        )

    def bind(self, engine: Engine) -> None:
        """Gives an engine the data to take batches from."""
        engine.bind(self.inputs, self.loss, self.targets, self.weights)


def as_read(array: NDArray[Any], dtype: np.dtype[Any] | type[np.generic]) -> NDArray[Any]:
    """An array as the compiled core reads it, copied only where it is not so: of that type, C-contiguous and aligned."""
    return np.require(array, dtype, ["C", "A", "E"])


def _room_for_copy(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Refuses an array that `as_read` would copy to more memory than there is."""
    if array.dtype != dtype or not (array.flags.c_contiguous and array.flags.aligned):
        room(name, array.size * dtype.itemsize)


def _check_finite(name: str, array: NDArray[Any], dtype: np.dtype[Any], first_row: int) -> None:
    """Refuses NaN, Inf and what becomes Inf in the network's dtype. The array begins at `first_row` of the whole."""
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
            place[0] += first_row + start
            raise ValueError(
                f"{name}: expected finite numbers of {dtype}, got {value} at "
                f"{', '.join(str(i) for i in place)}"
            )


def _row(wrong: NDArray[np.bool_], first_row: int) -> tuple[tuple[Any, ...], int]:
    """Where the first wrong element is, and its row in the whole."""
    place = tuple(np.argwhere(wrong)[0])
    return place, first_row + int(place[0])


def check_inputs(
    X: ArrayLike,
    n_in: int,
    dtype: np.dtype[Any],
    uint8_scale: float,
    *,
    finite: bool = True,
    name: str = "X",
    first_row: int = 0,
) -> Inputs:
    """Samples in rows for a network of `n_in` inputs. They begin at `first_row` of the whole, which messages name.

    Raises
    ------
    TypeError
        Not real numbers.
    ValueError
        Not 2-D, not `n_in` columns, or (if `finite`) not finite.
    """
    array = real_array(name, X)
    check_inputs_shape(array.shape, n_in, name)
    kind = array.dtype if array.dtype in CODES else dtype
    itemsize = kind.itemsize
    rows_contiguous = array.shape[1] <= 1 or array.strides[1] == itemsize
    copied = array.dtype != kind or not rows_contiguous or array.strides[0] % itemsize or not array.flags.aligned
    if copied:
        room(name, array.size * itemsize)
    if finite:
        _check_finite(name, array, dtype, first_row)
    if copied:
        array = as_read(array, kind)
    code = CODES[array.dtype]
    return Inputs(array, code, uint8_scale if code == 0 else 1.0)


def check_inputs_shape(shape: tuple[int, ...], n_in: int, name: str = "X") -> None:
    """Refuses what is not (n_samples, n_in)."""
    if len(shape) != 2:
        hint = "; use X.reshape(len(X), -1)" if len(shape) > 2 else "; use X.reshape(1, -1) for one"
        raise ValueError(
            f"{name}: expected samples in the rows of a 2-D array, got shape {shape}" + (hint if shape else "")
        )
    if shape[1] != n_in:
        raise ValueError(f"{name}: expected {n_in} columns, got shape {shape}")


def check_targets_shape(
    shape: tuple[int, ...],
    kind: np.dtype[Any],
    loss: Loss,
    n_samples: int,
    n_out: int,
    name: str = "y",
) -> bool:
    """Refuses a shape or type that does not fit the loss. Returns whether these are class numbers."""
    if len(shape) == 0 or shape[0] != n_samples:
        got = "a single number" if len(shape) == 0 else f"shape {shape}"
        raise ValueError(f"{name}: expected {n_samples} targets, one for each sample, got {got}")
    if loss.name == "cross_entropy" and len(shape) == 1:
        if kind.kind not in "iub":
            raise TypeError(
                f"{name}: expected integer class numbers (or one-hot rows), got dtype {kind}"
            )
        return True
    if shape != (n_samples, n_out) and (len(shape) > 1 or n_out > 1):
        raise ValueError(f"{name}: expected shape {(n_samples, n_out)} for {loss.name}, got {shape}")
    return False


def check_targets(
    y: ArrayLike,
    loss: Loss,
    n_samples: int,
    n_out: int,
    dtype: np.dtype[Any],
    *,
    name: str = "y",
    first_row: int = 0,
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
    if check_targets_shape(array.shape, array.dtype, loss, n_samples, n_out, name):
        _room_for_copy(name, array, np.dtype(np.int32))
        if array.size and (array.min() < 0 or array.max() >= n_out):
            place, row = _row((array < 0) | (array >= n_out), first_row)
            raise ValueError(
                f"{name}: expected class numbers from 0 to {n_out - 1}, got {array[place]} in row {row}"
            )
        return as_read(array, np.int32)
    array = array.reshape(n_samples, n_out)  # from (n_samples,), where there is one output
    _room_for_copy(name, array, dtype)
    _check_finite(name, array, dtype, first_row)
    if array.size and loss.name == "binary_cross_entropy" and (array.min() < 0 or array.max() > 1):
        place, row = _row((array < 0) | (array > 1), first_row)
        raise ValueError(
            f"{name}: expected values from 0 to 1 for {loss.name}, got {array[place]} in row {row}"
        )
    if array.size and loss.name == "cross_entropy" and array.min() < 0:
        place, row = _row(array < 0, first_row)
        raise ValueError(f"{name}: expected one-hot rows or shares ≥ 0, got {array[place]} in row {row}")
    return as_read(array, dtype)


def check_sample_weight(
    sample_weight: ArrayLike | None,
    n_samples: int,
    dtype: np.dtype[Any],
    *,
    name: str = "sample_weight",
    first_row: int = 0,
    part: bool = False,
) -> NDArray[Any] | None:
    """Weights (p,) ≥ 0 of the network's dtype, or None. Those of a part of the data may all be 0.

    Raises
    ------
    TypeError
        Not real numbers.
    ValueError
        Another shape, a weight below 0 or not finite, or all of them 0.
    """
    if sample_weight is None:
        return None
    array = real_array(name, sample_weight)
    if array.shape != (n_samples,):
        raise ValueError(f"{name}: expected shape {(n_samples,)}, got {array.shape}")
    _room_for_copy(name, array, dtype)
    _check_finite(name, array, dtype, first_row)
    array = as_read(array, dtype)
    if array.size and array.min() < 0:
        place, row = _row(array < 0, first_row)
        raise ValueError(f"{name}: expected weights ≥ 0, got {array[place]} in row {row}")
    if array.size and array.max() == 0 and not part:
        raise ValueError(f"{name}: expected weights ≥ 0, not all zero in {dtype}")
    return array
