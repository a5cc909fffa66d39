# SPDX-License-Identifier: BSD-3-Clause
"""Checks samples, targets and weights at the boundary, in forms that the compiled core reads.

Arrays that the core can read are not copied: it converts uint8, float32 and float64 rows tile by
tile. Elsewhere: data on disk (rows.py) or in batches (batches.py); data sets to download
(datasets.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdfast._elementwise import ELEMENT_TYPES
from svdfast._process.checks import real_array, room
from svdfast.data.frames import as_array, check_names, column_names
from svdfast.data.labels import numbered, refuse_bools, target_array
from svdfast.data.spec import Spec, Targets

if TYPE_CHECKING:
    from svdfast._engine import Engine
    from svdfast.data.sparse import SparseInputs

__all__ = [
    "CODES",
    "NAMES",
    "Inputs",
    "Samples",
    "check_inputs",
    "check_inputs_shape",
    "check_sample_weight",
    "check_samples_shape",
    "check_targets",
    "check_targets_shape",
    "check_tokens",
    "checked_samples",
    "with_steps",
]

# Types that the compiled core reads, and their codes there.
CODES = {np.dtype(name): code for name, code in ELEMENT_TYPES.items()}
# The names of the three parts of data in messages.
NAMES = ("X", "y", "sample_weight")
_CHUNK = 1 << 20  # elements checked together, so that a check needs little memory
# Advice for targets that do not fit.
_RENUMBER = "; number other labels by classes, y = numpy.unique(y, return_inverse=True)"
_REAL = '; for real numbers as targets use a network with output="identity"'


@dataclass(frozen=True)
class Inputs:
    """Samples in rows (p, m), the code of their element type, and the factor that scales them."""

    array: NDArray[Any]
    code: int
    scale: float

    is_sparse = by_entries = False

    @property
    def n_samples(self) -> int:
        return len(self.array)

    @property
    def n_columns(self) -> int:
        """Number of values in a sample."""
        return int(self.array.shape[1])

    @property
    def n_stored(self) -> int:
        """Number of stored values."""
        return self.array.size

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """The arrays that identify the inputs."""
        return [self.array]

    def take(self, rows: Any) -> Inputs:
        """Copies of these rows."""
        return replace(self, array=self.array[rows])

    def part(self, start: int, stop: int) -> Inputs:
        """Rows start .. stop, as a view."""
        return replace(self, array=self.array[start:stop])

    def rows(self, rows: Any) -> Any:
        """These rows, as an array."""
        return self.array[rows]

    def dense(self) -> NDArray[Any]:
        """All rows as an array."""
        return self.array


@dataclass
class Samples:
    """Checked samples, dense or sparse, with targets and weights if there are any.

    They are ready for an engine of any layout of the network.
    """

    inputs: Inputs | SparseInputs
    loss: Targets | None
    targets: Any  # an array, unless `loss` is None
    weights: NDArray[Any] | None

    @property
    def n_samples(self) -> int:
        return self.inputs.n_samples

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """Inputs, and targets and weights if there are any."""
        return [a for a in (*self.inputs.arrays, self.targets, self.weights) if a is not None]

    def part(self, start: int, stop: int) -> Samples:
        """Samples start .. stop, as views if they are dense."""
        return Samples(
            self.inputs.part(start, stop),
            self.loss,
            None if self.targets is None else self.targets[start:stop],
            None if self.weights is None else self.weights[start:stop],
        )

    def blocks(self) -> Iterator[Samples]:
        """All samples as one block. A Reader has several blocks."""
        yield self

    def take(self, rows: NDArray[np.int64]) -> Samples:
        """Copies of the samples of these rows."""
        return Samples(
            self.inputs.take(rows),
            self.loss,
            None if self.targets is None else self.targets[rows],
            None if self.weights is None else self.weights[rows],
        )

    def bind(self, engine: Engine) -> None:
        """Binds an engine to these data, from which it takes batches."""
        engine.bind(self.inputs, self.loss, self.targets, self.weights)

    def bind_rows(self, engine: Engine, rows: NDArray[np.int64]) -> None:
        """Gives an engine the samples of these rows, in their order."""
        self.bind(engine)
        engine.set_order(rows)


def checked_samples(
    X: ArrayLike,
    y: ArrayLike | None,
    sample_weight: ArrayLike | None,
    spec: Spec,
    *,
    names: tuple[str, str, str] = NAMES,
    part: bool = False,
) -> Samples:
    """Data in memory, checked as a whole. Weights of a part of the data may all be 0.

    Raises
    ------
    TypeError, ValueError
        The data do not fit `spec`, or there is no sample.
    """
    spec = with_steps(spec, X, names[0])
    inputs = check_inputs(X, spec, name=names[0])
    n_samples = len(inputs.array)
    check_some(n_samples, spec, names[0])
    targets = None if spec.targets is None else check_targets(y, spec, n_samples, name=names[1])
    weights = check_sample_weight(
        sample_weight, n_samples, spec.target_dtype, name=names[2], part=part, steps=spec.steps
    )
    return Samples(inputs, spec.targets, targets, weights)


def check_some(n_samples: int, spec: Spec, name: str) -> None:
    """Refuses data without a sample."""
    if n_samples == 0 and spec.finite:
        raise ValueError(f"{name}: expected at least one sample, got none")


def as_read(array: NDArray[Any], dtype: np.dtype[Any] | type[np.generic]) -> NDArray[Any]:
    """The array in this type, C-contiguous and aligned, as the compiled core reads it.

    It is copied only if it is not so already.
    """
    return np.require(array, dtype, ["C", "A", "E"])


def _room_for_copy(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Refuses an array if memory lacks room for the copy that `as_read` would make."""
    if array.dtype != dtype or not (array.flags.c_contiguous and array.flags.aligned):
        room(name, array.size * dtype.itemsize)


def _check_finite(
    name: str, array: NDArray[Any], dtype: np.dtype[Any], first_row: int, columns: tuple[str, ...] | None = None
) -> None:
    """Refuses NaN, Inf and numbers that become Inf in the network's dtype.

    The array begins at `first_row` of the whole, and its columns may have names.
    """
    if array.dtype.kind != "f":
        return

    def wrong(chunk: NDArray[Any]) -> NDArray[np.bool_]:
        with np.errstate(over="ignore"):
            finite: NDArray[np.bool_] = np.isfinite(chunk.astype(dtype, copy=False))
        return np.logical_not(finite, out=finite)

    found = _first(array, wrong, first_row)
    if found is not None:
        value, place = found
        column = "" if columns is None else f" (column {columns[place[1]]!r})"
        raise ValueError(f"{name}: expected finite numbers of {dtype}, got {value} at {', '.join(map(str, place))}{column}")


def _first(array: NDArray[Any], wrong: Callable[[NDArray[Any]], NDArray[np.bool_]], first_row: int) -> tuple[Any, list[int]] | None:
    """The first wrong number of an array, and its place. The array begins at `first_row`."""
    rows = max(1, _CHUNK // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        chunk = array[start : start + rows]
        places = wrong(chunk)
        if places.any():
            row, *others = np.argwhere(places)[0].tolist()
            return chunk[row, *others], [first_row + start + row, *others]
    return None


def check_inputs(X: ArrayLike, spec: Spec, *, name: str = "X", first_row: int = 0) -> Inputs:
    """Checked samples in rows. They begin at `first_row` of the whole; messages count from there.

    Raises
    ------
    TypeError
        The samples are not real numbers.
    ValueError
        The array is not 2-D, the number or the names of its columns differ from the network's, or
        (if the spec says so) a number is not finite.
    """
    check_names(name, X, spec.feature_names)
    array = real_array(name, as_array(name, X))
    check_samples_shape(array.shape, spec, name)
    if array.ndim > 2:
        array = array.reshape(len(array), spec.n_inputs)
    kind = array.dtype if array.dtype in CODES else spec.dtype
    itemsize = kind.itemsize
    rows_contiguous = array.shape[1] <= 1 or array.strides[1] == itemsize
    copied = array.dtype != kind or not rows_contiguous or array.strides[0] % itemsize or not array.flags.aligned
    if copied:
        room(name, array.size * itemsize)
    if spec.finite:
        _check_finite(name, array, spec.dtype, first_row, column_names(X))
    check_tokens(name, array, spec, first_row)
    if copied:
        array = as_read(array, kind)
    scale = spec.uint8_scale if array.dtype == np.uint8 else 1.0
    return Inputs(array, CODES[array.dtype], scale)


def check_tokens(name: str, array: NDArray[Any], spec: Spec, first_row: int = 0) -> None:
    """Refuses numbers that are not tokens, if the spec requires tokens."""
    if spec.n_tokens == 0:
        return

    def wrong(chunk: NDArray[Any]) -> NDArray[np.bool_]:
        outside: NDArray[np.bool_] = ~((chunk >= 0) & (chunk < spec.n_tokens))
        return outside if chunk.dtype.kind != "f" else outside | (chunk != np.floor(chunk))

    found = _first(array, wrong, first_row)
    if found is not None:
        value, place = found
        expected = f"tokens, whole numbers from 0 to {spec.n_tokens - 1}"
        raise ValueError(f"{name}: expected {expected}, got {value} at {', '.join(map(str, place))}")


def with_steps(spec: Spec, X: Any, name: str = "X") -> Spec:
    """A spec for the samples' number of steps, if it takes any number; else the spec itself.

    Raises
    ------
    TypeError, ValueError
        The samples are not sequences of the spec's features.
    """
    if not spec.any_steps:
        return spec
    shape = tuple(X.shape) if hasattr(X, "shape") else real_array(name, as_array(name, X)).shape
    features = tuple(n for n in spec.shape[1:] if n is not None)
    if len(shape) == 2:
        steps, rest = divmod(shape[1], math.prod(features))
    else:
        steps, rest = (shape[1], 0) if features and len(shape) == 3 and shape[2:] == features else (0, 1)
    if rest or steps == 0:
        of_sample = ", ".join(map(str, ("steps", *features)))
        flat = f" or (n_samples, steps · {features[0]})" if features else ""
        raise ValueError(f"{name}: expected shape (n_samples, {of_sample}){flat} with one step or more, got {shape}")
    return spec._replace(n_inputs=steps * math.prod(features), shape=(steps, *features), steps=(steps,) if spec.steps else ())


def check_inputs_shape(shape: tuple[int, ...], n_in: int, name: str = "X") -> None:
    """Refuses any shape but (n_samples, n_in)."""
    if len(shape) != 2:
        hint = "; use X.reshape(len(X), -1)" if len(shape) > 2 else "; use X.reshape(1, -1) for one"
        raise ValueError(
            f"{name}: expected samples in the rows of a 2-D array, got shape {shape}" + (hint if shape else "")
        )
    if shape[1] != n_in:
        raise ValueError(f"{name}: expected {n_in} columns, got shape {shape}")


def check_samples_shape(shape: tuple[int, ...], spec: Spec, name: str = "X") -> None:
    """Refuses any shape but (n_samples, n_in) and samples of the spec's shape."""
    if len(spec.shape) > 1 and len(shape) != 2:
        if shape[1:] != spec.shape:
            of_sample = ", ".join(map(str, spec.shape))
            raise ValueError(f"{name}: expected shape (n_samples, {of_sample}) or (n_samples, {spec.n_inputs}), got {shape}")
        return
    check_inputs_shape(shape, spec.n_inputs, name)


def _flat_shape(shape: tuple[int, ...], spec: Spec, n_samples: int, name: str) -> tuple[int, ...]:
    """The shape of targets for each step, with the steps of all samples as rows."""
    (steps,) = spec.steps
    if shape[:2] != (n_samples, steps):
        raise ValueError(f"{name}: expected {steps} target{'s' * (steps != 1)} for each of {n_samples} samples, got shape {shape}")
    return (n_samples * steps, *shape[2:])


def check_targets_shape(
    shape: tuple[int, ...], kind: np.dtype[Any], spec: Spec, n_samples: int, name: str = "y"
) -> bool:
    """Refuses a shape or type that does not fit the targets. Returns True for class numbers."""
    assert spec.targets is not None
    n_out = spec.n_outputs
    if spec.steps:
        shape = _flat_shape(shape, spec, n_samples, name)
        return check_targets_shape(shape, kind, spec._replace(steps=()), shape[0], name)
    if len(shape) == 0 or shape[0] != n_samples:
        got = "a single number" if len(shape) == 0 else f"shape {shape}"
        raise ValueError(f"{name}: expected {n_samples} targets, one for each sample, got {got}")
    if spec.targets.classes and len(shape) == 1:
        if kind.kind not in "iub":
            raise TypeError(
                f"{name}: expected integer class numbers (or one-hot rows), got dtype {kind}; "
                'for classes use .astype(int), for real numbers a network with output="identity"'
            )
        return True
    if shape != (n_samples, n_out) and (len(shape) > 1 or n_out > 1):
        hint = ""
        if spec.targets.classes and shape == (n_samples, 1):
            hint = f"; use {name}.ravel() for one column of class numbers" if kind.kind in "iub" else _REAL
        raise ValueError(
            f"{name}: expected shape {(n_samples, n_out)} for {spec.targets.name}, got {shape}{hint}"
        )
    return False


def check_targets(
    y: Any, spec: Spec, n_samples: int, *, name: str = "y", first_row: int = 0
) -> NDArray[Any]:
    """Targets as int32 class numbers (p,), or as values (p, n_outputs) of the targets' dtype.

    Both are C-contiguous. Targets of steps are (p, steps) or (p, steps, n_outputs).

    Raises
    ------
    TypeError
        The targets are neither real numbers nor labels, or class numbers are not integers.
    ValueError
        A shape, length, value or label does not fit the loss or the network's classes.
    """
    assert spec.targets is not None
    given = target_array(name, y)
    masked = isinstance(given, np.ma.MaskedArray)  # refused below
    if isinstance(given, np.ndarray) and not masked and given.dtype.kind == "O" and given.ndim > 0:
        given = numbered(name, given, spec, first_row)
    elif isinstance(given, np.ndarray) and given.dtype == np.bool_ and given.ndim == 1 + len(spec.steps):
        refuse_bools(name, spec)
    array, n_out = real_array(name, given), spec.n_outputs
    if check_targets_shape(array.shape, array.dtype, spec, n_samples, name):
        _room_for_copy(name, array, np.dtype(np.int32))
        _check_bounds(name, array, 0, n_out - 1, f"class numbers from 0 to {n_out - 1}", first_row, _RENUMBER)
        return as_read(array, np.int32)
    hint = _RENUMBER if spec.n_classes and array.dtype.kind in "iu" else _REAL
    array = array.reshape(*spec.per_target(n_samples), n_out)  # one output may lack its dimension
    _room_for_copy(name, array, spec.target_dtype)
    _check_finite(name, array, spec.target_dtype, first_row)
    if spec.targets.bounds is not None:
        _check_bounds(name, array, *spec.targets.bounds, spec.targets.expected, first_row, hint)
    return as_read(array, spec.target_dtype)


def _check_bounds(
    name: str, array: NDArray[Any], low: float, high: float, expected: str, first_row: int, hint: str = ""
) -> None:
    """Refuses elements out of bounds, and names the row of the first."""
    if array.size and (array.min() < low or array.max() > high):
        place = tuple(np.argwhere((array < low) | (array > high))[0])
        row = first_row + int(place[0])
        raise ValueError(f"{name}: expected {expected}, got {array[place]} in row {row}{hint}")


def check_sample_weight(
    sample_weight: ArrayLike | None,
    n_samples: int,
    dtype: np.dtype[Any],
    *,
    name: str = "sample_weight",
    first_row: int = 0,
    part: bool = False,
    steps: tuple[int, ...] = (),
) -> NDArray[Any] | None:
    """Weights (p,) ≥ 0 of the network's dtype, or None. Sequences may have (p, steps), too.

    Weights of a part of the data may all be 0.

    Raises
    ------
    TypeError
        The weights are not real numbers.
    ValueError
        The shape does not fit, a weight is below 0 or not finite, or all weights are 0.
    """
    if sample_weight is None:
        return None
    array = real_array(name, target_array(name, sample_weight))
    if steps:
        if array.shape == (n_samples,):
            array = np.repeat(array[:, np.newaxis], steps[0], axis=1)
        if array.shape != (n_samples, *steps):
            raise ValueError(f"{name}: expected shape {(n_samples,)} or {(n_samples, *steps)}, got {array.shape}")
    elif array.shape != (n_samples,):
        raise ValueError(f"{name}: expected shape {(n_samples,)}, got {array.shape}")
    _room_for_copy(name, array, dtype)
    _check_finite(name, array, dtype, first_row)
    array = as_read(array, dtype)
    _check_bounds(name, array, 0, np.inf, "weights ≥ 0", first_row)
    if array.size and array.max() == 0 and not part:
        raise ValueError(f"{name}: expected weights ≥ 0, not all zero in {dtype}")
    return array
