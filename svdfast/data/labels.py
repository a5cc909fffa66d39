# SPDX-License-Identifier: BSD-3-Clause
"""Labels: targets that are text or bools become class numbers. Integers are class numbers already.

Elsewhere: the numbers that a loss accepts (checks.py); tables (frames.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast.data.frames import as_array, is_missing, listed_some, numbers_of, only_column
from svdfast.data.spec import Spec

__all__ = ["classes_of", "numbered", "refuse_bools", "target_array"]


def target_array(name: str, y: Any) -> Any:
    """Targets as an array.

    Text becomes an array of objects that are all str. Objects that are all numbers, or all bools,
    become an array of these. Everything else is left unchanged, for other checks.

    Raises
    ------
    TypeError
        There are objects of several kinds, or of another kind.
    ValueError
        A target is missing. The message names its row.
    """
    y = as_array(name, only_column(y))
    if hasattr(y, "toarray") or isinstance(y, np.ma.MaskedArray):
        return y
    try:
        array = np.asarray(y)
        if array.dtype.kind == "U" and not hasattr(y, "dtype"):
            array = np.asarray(y, dtype=object)  # keeps numbers and NaN beside text
    except (TypeError, ValueError):
        return y
    if array.dtype.kind not in "OUT" or array.ndim == 0:
        return array
    values = array.reshape(-1).tolist()
    if values and all(isinstance(value, str) for value in values):
        return np.array([str(value) for value in values], dtype=object).reshape(array.shape)
    numbers = numbers_of(name, values)
    if numbers is not None:
        return numbers.reshape(array.shape)
    for place, value in enumerate(values):
        if is_missing(value):
            row = place // max(1, array[0].size if array.ndim > 1 else 1)
            raise ValueError(f"{name}: expected a value in each row, got none in row {row}")
    kinds = sorted({type(value).__name__ for value in values})
    raise TypeError(f"{name}: expected numbers, or labels that are all text, got {listed_some(kinds)}")


def classes_of(name: str, y: Any, spec: Spec) -> tuple[Any, ...] | None:
    """The classes of labels, in their order; None if y has no labels.

    Raises
    ------
    ValueError
        Their number is not the network's number of classes.
    """
    array = target_array(name, y)
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray) or array.ndim != 1:
        return None
    if array.dtype == np.bool_:
        found: list[Any] = [False, True]
    elif array.dtype.kind == "O":
        found = sorted(set(array.tolist()))
    else:
        return None
    if len(found) != spec.n_classes:
        raise ValueError(
            f"{name}: expected labels of {spec.n_classes} classes, as many as the network has, got {len(found)}: {listed_some(found)}"
        )
    return tuple(found)


def refuse_bools(name: str, spec: Spec) -> None:
    """Refuses bools with ValueError if the network's classes are text.

    It is not known which class True stands for.
    """
    if spec.classes is not None and isinstance(spec.classes[0], str):
        raise ValueError(f"{name}: expected labels of the network's classes ({listed_some(spec.classes)}), or class numbers, got bools")


def numbered(name: str, text: NDArray[Any], spec: Spec, first_row: int = 0) -> NDArray[np.int32]:
    """Class numbers (p,) for text (p,), by the network's classes.

    Raises
    ------
    TypeError
        The network or the loss has no classes, or they are not known.
    ValueError
        A label is not one of the classes, or a sample has several labels.
    """
    assert spec.targets is not None
    first = text.flat[0]
    if spec.n_classes == 0:
        raise TypeError(
            f"{name}: expected numbers for {spec.targets.name}, got text ({first!r}); a network for classes has "
            'output="softmax", one output for each, and loss="cross_entropy", or output="sigmoid" and one output for two'
        )
    if spec.steps:
        raise TypeError(f"{name}: expected class numbers from 0 to {spec.n_classes - 1} for the steps of each sample, got text ({first!r})")
    if text.ndim != 1:
        raise ValueError(f"{name}: expected a label for each sample, got shape {text.shape}; use {name}.ravel() for one column")
    if spec.classes is None:
        raise TypeError(
            f"{name}: expected class numbers from 0 to {spec.n_classes - 1}, got text ({first!r}): the network knows no classes. "
            "It learns them where `train` gets all labels at once; else set "
            "net.origin = dataclasses.replace(net.origin, classes=(...))"
        )
    numbers = {label: number for number, label in enumerate(spec.classes)}
    try:
        return np.fromiter(map(numbers.__getitem__, text.tolist()), np.int32, len(text))
    except KeyError:
        unknown: dict[str, int] = {}
        for row, label in enumerate(text.tolist(), first_row):
            if label not in numbers:
                unknown.setdefault(label, row)
        places = ", ".join(f"{label!r} in row {row}" for label, row in list(unknown.items())[:5])
        more = ", ..." if len(unknown) > 5 else ""
        raise ValueError(
            f"{name}: expected labels of the network's classes ({listed_some(spec.classes)}), got {places}{more}"
        ) from None
