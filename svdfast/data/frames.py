# SPDX-License-Identifier: BSD-3-Clause
"""Tables with named columns (pandas's and polars's DataFrames and Series) as arrays.

No package is imported: any object with `columns` and `dtypes` is a frame. Elsewhere: text, dates
and categories as inputs, which are prepared before (`svdfast train`, scikit-learn's
ColumnTransformer); text as targets (labels.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._process.checks import room

__all__ = ["as_array", "check_names", "column_names", "is_frame", "is_missing", "listed_some", "numbers_of", "only_column"]

# Missing values among objects, by the names of their types, as pandas is not imported.
_MISSING = ("NoneType", "NAType", "NaTType")


def is_frame(value: Any) -> bool:
    """True for a table with named columns."""
    return hasattr(value, "columns") and hasattr(value, "dtypes")


def is_missing(value: Any) -> bool:
    """True for an object that stands for a missing value."""
    return type(value).__name__ in _MISSING or (isinstance(value, float) and value != value)


def listed_some(values: Iterable[Any]) -> str:
    """The first few of some values, as text."""
    values = list(values)
    return ", ".join(repr(value)[:40] for value in values[:5]) + (", ..." if len(values) > 5 else "")


def column_names(X: Any) -> tuple[str, ...] | None:
    """The names of a frame's columns; None if X is not a frame or its names are not text."""
    if not is_frame(X):
        return None
    names = tuple(X.columns)
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(map(str, names))


def check_names(name: str, X: Any, known: tuple[str, ...] | None) -> None:
    """Refuses a frame whose columns have unknown names or another order.

    Columns are not checked if their names are not text.

    Raises
    ------
    ValueError
    """
    if known is None or not is_frame(X):
        return
    names = list(X.columns)
    if names == list(known) or not all(isinstance(name, str) for name in names):
        return
    missing = [name for name in known if name not in names]
    unexpected = [name for name in names if name not in known]
    if missing or unexpected:
        found = "; ".join(f"{what}: {listed_some(some)}" for what, some in (("missing", missing), ("unexpected", unexpected)) if some)
        raise ValueError(f"{name}: expected the columns of net.feature_names, which the network was trained on, got others ({found})")
    if len(names) > len(known):
        twice = [name for name in known if names.count(name) > 1]
        raise ValueError(f"{name}: expected each column once, got more of {listed_some(twice)}")
    raise ValueError(
        f"{name}: expected the columns in the order of net.feature_names, got another one: X[list(net.feature_names)] has it"
    )


def only_column(value: Any) -> Any:
    """The only column of a frame, if it has just one; everything else unchanged."""
    if is_frame(value) and len(value.columns) == 1:
        ((_, column),) = _columns(value)
        return column
    return value


def as_array(name: str, value: Any) -> Any:
    """A frame or a Series as an array; everything else unchanged. A Series of text stays text.

    Raises
    ------
    TypeError
        A frame has columns that are not numbers. The message names them.
    ValueError
        A value is missing. The message names its column and row.
    """
    if is_frame(value):
        return _frame_array(name, value)
    if hasattr(value, "to_numpy") and hasattr(value, "dtype"):
        _refuse_missing(name, value)
        return value.to_numpy()
    return value


def numbers_of(name: str, values: list[Any], place: str = "") -> NDArray[Any] | None:
    """An array from a list of numbers or of bools; None if the list has anything else.

    Raises
    ------
    ValueError
        All are numbers, but some are missing or too large. Messages end in `place`.
    """
    kinds = set(map(type, values))
    missing = {kind for kind in kinds if kind.__name__ in _MISSING}
    if not all(issubclass(kind, Real | np.bool_) for kind in kinds - missing):
        return None
    if missing:
        raise _missing(name, place, next(row for row, value in enumerate(values) if type(value) in missing))
    try:
        array = np.asarray(values)
        plain = array.dtype.kind in "biuf" and array.dtype.itemsize <= 8
        return array if plain else array.astype(np.float64)
    except OverflowError:
        raise ValueError(f"{name}: expected numbers that float64 can hold, got larger ones{place}") from None


def _columns(frame: Any) -> Iterable[tuple[Any, Any]]:
    """Names and columns in order. They are read by position, as a name may come twice."""
    if hasattr(frame, "items"):
        return tuple(frame.items())
    return tuple(zip(frame.columns, frame.iter_columns(), strict=True))


def _frame_array(name: str, frame: Any) -> NDArray[Any]:
    """The numbers of a frame in rows."""
    kinds = set(frame.dtypes)
    if len(kinds) == 1 and _is_real(*kinds):
        whole: NDArray[Any] = frame.to_numpy()  # in its memory order
        return whole
    arrays, refused = [], {}
    for column_name, column in _columns(frame):
        array = _column_numbers(name, column_name, column)
        if array is None:
            refused[column_name] = str(column.dtype)
        else:
            arrays.append(array)
    if refused:
        listed = ", ".join(f"{column!r} ({kind})" for column, kind in list(refused.items())[:5])
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise TypeError(
            f"{name}: expected columns of numbers, got {listed}{more}: prepare text, dates and categories first, "
            "by the command `svdfast train`, or by scikit-learn's ColumnTransformer"
        )
    n_rows = frame.shape[0]
    dtype = np.result_type(*arrays) if arrays else np.dtype(np.float64)
    room(name, n_rows * len(arrays) * dtype.itemsize)
    rows = np.empty((n_rows, len(arrays)), dtype)
    for i, array in enumerate(arrays):
        rows[:, i] = array
    return rows


def _column_numbers(name: str, column_name: Any, column: Any) -> NDArray[Any] | None:
    """A column's numbers; None if it has anything else."""
    if str(column.dtype) == "category":
        return None  # categories are names even if they are numbers
    place = f" for column {column_name!r}"
    array: NDArray[Any] = column.to_numpy()
    if array.dtype.kind == "O":
        found = numbers_of(name, array.tolist(), place)
    else:
        found = array if _is_real(array.dtype) else None
    if found is not None:
        _refuse_missing(name, column, place)
    return found


def _is_real(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "biuf" and dtype.itemsize <= 8


def _refuse_missing(name: str, column: Any, place: str = "") -> None:
    """Refuses a column of a nullable type with a missing value.

    In an array that value would become NaN or an object.
    """
    if isinstance(column.dtype, np.dtype):
        return
    for method in ("isna", "is_null"):  # pandas's, polars's
        if hasattr(column, method):
            missing = np.asarray(getattr(column, method)(), dtype=bool)
            if missing.any():
                raise _missing(name, place, int(missing.argmax()))
            return


def _missing(name: str, place: str, row: int) -> ValueError:
    return ValueError(f"{name}: expected a value in each row, got none{place} in row {row}")
