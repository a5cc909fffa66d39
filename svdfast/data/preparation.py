# SPDX-License-Identifier: BSD-3-Clause
"""Turns a table with text and gaps into a network's inputs and targets.

Columns are found by their names, gaps are filled, and text becomes one-hot. A preparation consists
of plain values, which files of networks store. A table is a pandas.DataFrame, but pandas is not
imported. Elsewhere: the types of a training table's columns (cli/columns.py), the reading of files,
and scaling (the first layer does that).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["GAP", "GAPS", "Categorical", "Class", "Numeric", "Place", "Preparation", "Target", "read_numbers", "read_texts"]

Array = NDArray[Any]
Class: TypeAlias = int | str

# Texts that stand for a missing value.
GAPS = frozenset(
    [
        "", "?", "NA", "N/A", "n/a", "#NA", "#N/A", "#N/A N/A", "<NA>", "NaN", "nan", "-NaN", "-nan", "NaT", "NULL", "null", "None",
        "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN",
    ]
)  # fmt: skip
GAP = "(missing)"  # the category of gaps in a training table

_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Numeric:
    """A column of numbers: one input.

    Attributes
    ----------
    name : str
    fill : float
        The value for gaps: the median of the training rows.
    """

    name: str
    fill: float

    def __post_init__(self) -> None:
        _check_name(self.name)
        if isinstance(self.fill, bool) or not isinstance(self.fill, int | float) or not math.isfinite(self.fill):
            raise ValueError(f"fill: expected a finite number, got {self.fill!r:.60}")

    @property
    def feature_names(self) -> tuple[str, ...]:
        return (self.name,)

    def features(self, values: Any, place: Place) -> Array:
        """Numbers (n, 1)."""
        column = read_numbers(values, place)
        column[np.isnan(column)] = self.fill
        return column[:, np.newaxis]

    def header(self) -> dict[str, Any]:
        return {"kind": "numeric", "name": self.name, "fill": float(self.fill)}


@dataclass(frozen=True)
class Categorical:
    """A column of words: an input for each of its categories, 1 where a row has it.

    Attributes
    ----------
    name : str
    categories : tuple of str
        Categories of the training rows. A row of another category is 0 in all inputs. If the
        training rows had gaps, `GAP` is among them.
    """

    name: str
    categories: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not self.categories or len(set(self.categories)) != len(self.categories):
            raise ValueError(f"categories: expected different ones, got {self.categories!r:.60}")
        for category in self.categories:
            if not isinstance(category, str):
                raise TypeError(f"categories: expected text, got {type(category).__name__}")

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}={category}" for category in self.categories)

    def features(self, values: Any, place: Place) -> Array:
        """Zeros and ones (n, n_categories)."""
        numbers = self.numbers(values)
        hot: Array = (numbers[:, np.newaxis] == np.arange(len(self.categories))).astype(np.float64)
        return hot

    def numbers(self, values: Any) -> Array:
        """Each row's category as a number; -1 for a category that training did not see."""
        known = {category: number for number, category in enumerate(self.categories)}
        return np.array([known.get(text or GAP, -1) for text in read_texts(values)], dtype=np.int64)

    def header(self) -> dict[str, Any]:
        return {"kind": "categorical", "name": self.name, "categories": list(self.categories)}


@dataclass(frozen=True)
class Target:
    """A column that a network learns to predict.

    Attributes
    ----------
    name : str
    classes : tuple of int or of str, optional
        Labels of the classes 0, 1, ...; None if the column has numbers.
    """

    name: str
    classes: tuple[Class, ...] | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.classes is None:
            return
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes: expected at least two different ones, got {self.classes!r:.60}")
        if {type(label) for label in self.classes} not in ({int}, {str}):
            raise TypeError(f"classes: expected integers or text, got {self.classes!r:.60}")
        if any(isinstance(label, int) and not -_LARGEST - 1 <= label <= _LARGEST for label in self.classes):
            raise ValueError("classes: expected integers of at most 64 bits")

    def read(self, values: Any, place: Place) -> Array:
        """Class numbers, or the column's own numbers. A gap raises ValueError.

        The class number is -1 for a class that training did not see.
        """
        texts = read_texts(values)
        if "" in texts:
            raise ValueError(f"{place(texts.index(''))}: expected a target, got none")
        if self.classes is None:
            return read_numbers(values, place)
        known: dict[Any, int] = {label: number for number, label in enumerate(self.classes)}
        if isinstance(self.classes[0], int):
            return np.array([known.get(read_integer(text), -1) for text in texts], dtype=np.int64)
        return np.array([known.get(text, -1) for text in texts], dtype=np.int64)

    def header(self) -> dict[str, Any]:
        return {"name": self.name, "classes": None if self.classes is None else list(self.classes)}


@dataclass(frozen=True)
class Preparation:
    """Turns a table into inputs and targets.

    Attributes
    ----------
    columns : tuple of Numeric or Categorical
        The columns that are inputs, in this order.
    targets : tuple of Target
        The columns that the network predicts: one, or several of numbers, or several of two classes
        each.

    Examples
    --------
    >>> import pandas
    >>> from svdfast.data.preparation import Categorical, Numeric, Preparation, Target
    >>> preparation = Preparation((Numeric("age", 38.0), Categorical("sex", ("f", "m"))), (Target("pay", ("high", "low")),))
    >>> preparation.feature_names
    ('age', 'sex=f', 'sex=m')
    >>> table = pandas.DataFrame({"sex": ["m", "f", "x"], "age": [20, None, 60], "pay": ["low", "low", "high"]})
    >>> preparation.features(table)
    array([[20.,  0.,  1.],
           [38.,  1.,  0.],
           [60.,  0.,  0.]])
    >>> preparation.answers(table)
    array([1, 1, 0])
    """

    columns: tuple[Numeric | Categorical, ...]
    targets: tuple[Target, ...]

    def __post_init__(self) -> None:
        names = [column.name for column in (*self.columns, *self.targets)]
        if not self.columns or not self.targets or len(set(names)) != len(names):
            raise ValueError("preparation: expected columns and targets of different names")
        kinds = {target.classes is None for target in self.targets}
        if len(self.targets) > 1 and (len(kinds) > 1 or any(len(target.classes or "ab") != 2 for target in self.targets)):
            raise ValueError("targets: expected one, or several of numbers, or several of two classes each")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the network's inputs: "age", "sex=f"."""
        return tuple(itertools.chain.from_iterable(column.feature_names for column in self.columns))

    @property
    def classes(self) -> tuple[Class, ...] | None:
        """The classes of a single target; None for several targets or for numbers."""
        return self.targets[0].classes if len(self.targets) == 1 else None

    def features(self, frame: Any) -> Array:
        """A table's inputs.

        Parameters
        ----------
        frame : pandas.DataFrame
            A table with the columns of the training table, in any order. Others are ignored (see
            `notes`).

        Returns
        -------
        ndarray, shape (n_rows, n_features), float64

        Raises
        ------
        ValueError
            A column is missing or comes twice, or a value that must be a finite number is not one.
        """
        there = _positions(frame)
        missing = [column.name for column in self.columns if column.name not in there]
        if missing:
            raise ValueError(f"expected column{'s' * (len(missing) > 1)} {_listed(missing)}, as in training, got {_listed(list(there))}")
        X = np.empty((len(frame), len(self.feature_names)))
        start = 0
        for column in self.columns:
            end = start + len(column.feature_names)
            X[:, start:end] = column.features(frame.iloc[:, there[column.name]], Place(frame, column.name))
            start = end
        return X

    def answers(self, frame: Any) -> Array | None:
        """A table's targets; None if a target column is missing or empty.

        Returns
        -------
        ndarray, shape (n_rows,) or (n_rows, n_targets), or None
            float64, or int64 for class numbers. -1 is a class that training did not see.

        Raises
        ------
        ValueError
            A target is missing in some of the rows, or must be a finite number and is not one.
        """
        there = _positions(frame)
        found = []
        for target in self.targets:
            if target.name not in there:
                return None
            values = frame.iloc[:, there[target.name]]
            if not any(read_texts(values)):
                return None
            found.append(target.read(values, Place(frame, target.name)))
        return found[0] if len(found) == 1 else np.column_stack(found)

    def notes(self, frame: Any) -> list[str]:
        """A line for each column, category or gap of a table that training did not see."""
        there = _positions(frame)
        used = {column.name for column in (*self.columns, *self.targets)}
        extra = [name for name in there if name not in used]
        lines = [f"left out, as training had no such input: {_listed(extra)}"] if extra else []
        for column in self.columns:
            if column.name not in there:
                continue
            texts = read_texts(frame.iloc[:, there[column.name]])
            gaps = texts.count("")
            if isinstance(column, Numeric):
                if gaps:
                    lines.append(f"column {column.name!r}: {_many(gaps, 'gap')} filled with {column.fill:g}")
                continue
            unknown = sorted({text for text in texts if text and text not in column.categories})
            if gaps and GAP not in column.categories:
                unknown.append(GAP)
            if unknown:
                lines.append(f"column {column.name!r}: training did not see {_listed(unknown)}")
        return lines

    def header(self) -> dict[str, Any]:
        """The preparation as values that JSON can hold."""
        return {"columns": [column.header() for column in self.columns], "targets": [target.header() for target in self.targets]}

    @classmethod
    def parse(cls, values: Any) -> Preparation:
        """Reads the result of `header`. Nothing in it is trusted."""
        return cls(
            tuple(_parse_column(each) for each in _list(values["columns"])),
            tuple(
                Target(each["name"], None if each["classes"] is None else tuple(_list(each["classes"])))
                for each in _list(values["targets"])
            ),
        )


def read_numbers(values: Any, place: Place | None = None) -> Array:
    """A column as float64, with NaN for gaps. Text and infinity raise ValueError."""
    kind = getattr(values.dtype, "kind", "O")
    if kind in "biuf":
        numbers: Array = values.to_numpy(dtype=np.float64, na_value=np.nan).copy()
    else:
        texts = read_texts(values)
        numbers = np.array([_number(text) for text in texts], dtype=np.float64)
        wrong = [int(i) for i in np.flatnonzero(np.isnan(numbers)) if texts[i]]
        if wrong:
            raise ValueError(_at(place, wrong[0], f"expected a number, got {texts[wrong[0]]!r:.60}"))
    infinite = np.flatnonzero(np.isinf(numbers))
    if infinite.size:
        raise ValueError(_at(place, int(infinite[0]), "expected a finite number, got infinity"))
    return numbers


def read_texts(values: Any) -> list[str]:
    """A column as text without spaces around it, "" for gaps.

    A number is written as in text files: 5, not 5.0.
    """
    return [_text(value) for value in np.asarray(values, dtype=object)]


def read_integer(text: str) -> int | None:
    """The text as an integer of 64 bits; None if it is not one. 5.0 is one, too."""
    try:
        number = int(text)
    except ValueError:
        value = _number(text)
        if not (math.isfinite(value) and value == math.floor(value)):
            return None
        number = int(value)
    return number if -_LARGEST - 1 <= number <= _LARGEST and "_" not in text else None


def _text(value: Any) -> str:
    if type(value) is str:  # the most common case comes first
        text = value.strip()
        return "" if text in GAPS else text
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float | np.floating):
        number = float(value)
        return "" if math.isnan(number) else str(int(number)) if number.is_integer() else repr(number)
    text = "" if value is None else str(value).strip()  # True, dates; pandas' own gaps are <NA> and NaT
    return "" if text in GAPS else text


def _number(text: str) -> float:
    """The number, or NaN if the text is not one. In a table, unlike in Python, 1_000 is not one."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


class Place:
    """The place of a value, in words. A table from a text file has the lines as its index."""

    def __init__(self, frame: Any, column: str):
        self.index, self.column = frame.index, column

    def __call__(self, row: int) -> str:
        line = f"line {self.index[row]}" if self.index.name == "line" else f"row {row + 1}"
        return f"{line}, column {self.column!r}"


def _at(place: Place | None, row: int, message: str) -> str:
    return f"row {row + 1}: {message}" if place is None else f"{place(row)}: {message}"


def _positions(frame: Any) -> dict[str, int]:
    """The columns' positions by name. ValueError is raised if two have the same name."""
    names = [str(name) for name in frame.columns]
    found = {name: position for position, name in enumerate(names)}
    if len(found) < len(names):
        twice = [name for name in found if names.count(name) > 1]
        raise ValueError(f"expected columns of different names, got {_listed(twice)} more than once")
    return found


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)})" if len(names) > 8 else ""
    return ", ".join(f"{name!r:.40}" for name in names[:8]) + more


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name: expected text, got {type(name).__name__}")


def _list(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise TypeError(f"expected a list, got {type(values).__name__}")
    return values


def _parse_column(values: Any) -> Numeric | Categorical:
    kind = values["kind"]
    if kind == "numeric":
        return Numeric(values["name"], values["fill"])
    if kind == "categorical":
        return Categorical(values["name"], tuple(_list(values["categories"])))
    raise ValueError(f"kind: expected numeric or categorical, got {kind!r:.60}")
