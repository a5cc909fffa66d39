# SPDX-License-Identifier: BSD-3-Clause
"""The columns of a training table: targets, numbers, categories, and columns that are no input.

scikit-learn learns their preparation. Elsewhere: reading a table (tables.py), and applying a
preparation (data/preparation.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._process.text import one_line
from svdfast.cli.errors import Failure, nearest, short
from svdfast.cli.tables import DECIMAL_COMMA
from svdfast.data.preparation import (
    GAP,
    Categorical,
    Class,
    Numeric,
    Place,
    Preparation,
    Target,
    read_integer,
    read_numbers,
    read_texts,
)

__all__ = ["MOST_CLASSES", "Column", "Targets", "find_columns", "find_targets", "lay_out", "learn", "typed"]

MOST_CLASSES = 100
_MOST_CATEGORIES = 500
_MOST_SHOWN = 20  # columns that are shown one by one
_RARE = 0.05  # share of texts that may be mistakes in a column of numbers
# Values that Parquet files may have, and tables may not.
_NESTED = {list: "a list", tuple: "a list", np.ndarray: "a list", dict: "fields", bytes: "bytes"}
_MANY = 50  # rows from which integers that count up are worth a word


@dataclass(frozen=True)
class Column:
    """A column, as it was found.

    Attributes
    ----------
    name : str
    kind : str
        "numeric" and "categorical" are inputs; "constant", "empty", "identifier" and "dropped" are not.
    about : str
        Its values in a few words.
    gaps : int
        Rows without a value.
    """

    name: str
    kind: str
    about: str
    gaps: int = 0


@dataclass(frozen=True)
class Targets:
    """The targets that a network of a table learns, and the reason.

    Attributes
    ----------
    targets : tuple of Target
    reason : str
    """

    targets: tuple[Target, ...]
    reason: str

    @property
    def names(self) -> list[str]:
        return [target.name for target in self.targets]


def find_targets(frame: Any, names: Sequence[str] | None, task: str, drop: Collection[str]) -> Targets:
    """Finds the targets by name, or the last column.

    Raises Failure if a value is missing or is no target.
    """
    reason = "--target"
    if not names:
        names, reason = _last_column(frame, drop)
    names = list(dict.fromkeys(names))
    check_known(frame, names, "--target")
    kinds = [_classes(frame, name, task, alone=len(names) == 1) for name in names]
    if any(kinds) and not all(kinds):  # all become numbers then; some may have two values
        kinds = [_classes(frame, name, "regression", alone=False) for name in names]
    return Targets(tuple(map(Target, names, kinds)), reason)


def _last_column(frame: Any, drop: Collection[str]) -> tuple[list[str], str]:
    """Finds the last column that is not dropped, and says why it is that one.

    A column without a name or values is skipped, as delimiters at the ends of lines make such
    columns.
    """
    check_known(frame, drop, "--drop")
    kept = [name for name in frame.columns if name not in drop]
    if not kept:
        raise Failure("--drop: expected some columns to be left, got all of them")
    last = frame.columns[-1]
    if kept[-1] == last == f"column {frame.shape[1]}" and kept[:-1] and not any(read_texts(frame[last])):
        return kept[-2:-1], "last column that has a name or values"
    return kept[-1:], "last column" if kept[-1] == last else "last column that is not dropped"


def check_known(frame: Any, names: Collection[str], option: str) -> None:
    """Refuses the name of an unknown column."""
    for name in names:
        if name not in frame.columns:
            there = ", ".join(map(short, frame.columns[:10])) + (", ..." if len(frame.columns) > 10 else "")
            raise Failure(f"{option}: no column {short(name)}{nearest(name, frame.columns)}; there: {there}")


def _classes(frame: Any, name: str, task: str, *, alone: bool) -> tuple[Class, ...] | None:
    """The names of a target's classes; None if it has numbers."""
    values, line = frame[name], Place(frame, name)
    _refuse_nested(values, line)
    texts = read_texts(values)
    gaps = [i for i, text in enumerate(texts) if not text]
    if gaps:
        more = f", and in {len(gaps) - 1:,} more rows" if len(gaps) > 1 else ""
        raise Failure(f"{line(gaps[0])}: expected a target, got none{more}")
    distinct = sorted(set(texts))
    if len(distinct) == 1:
        raise Failure(f"column {name!r}: expected different targets, got {short(distinct[0])} alone")
    kind = _kind_of_texts(texts)
    if kind == "numbers" and (task == "regression" or not _are_classes(distinct, len(texts), task, alone)):
        if np.ptp(_numbers(values, line)) == 0:
            raise Failure(f"column {name!r}: expected numbers that float64 tells apart, got {distinct[0]} and {distinct[-1]}")
        return None
    if task == "regression" or (kind == "mistakes" and task == "auto"):
        _numbers(values, line)
        return None
    many = len(distinct) == len(texts) or (len(distinct) > MOST_CLASSES and len(distinct) * 2 > len(texts))
    if alone and many and kind != "numbers":
        found = f"{len(distinct):,} different texts in {len(texts):,} rows{_decimals(distinct)}"
        raise Failure(f"column {name!r}: expected classes or numbers, got {found}; --target names another column")
    if not alone and len(distinct) != 2:
        raise Failure(f"column {name!r}: expected numbers, or two values as one of several targets, got {len(distinct):,} texts")
    integers = [read_integer(text) for text in distinct]
    if None in integers:
        return tuple(distinct)
    return tuple(sorted({number for number in integers if number is not None}))


def _are_classes(distinct: Sequence[str], n: int, task: str, alone: bool) -> bool:
    """True if numbers are taken for classes: two of several targets, or a few integers."""
    integers = {read_integer(text) for text in distinct}
    if not alone:
        return len(integers) == 2 and None not in integers
    if task == "classification":
        if None in integers:
            wrong = next(text for text in distinct if read_integer(text) is None)
            raise Failure(f"target: expected integers or text for classification, got {wrong}")
        return True
    return None not in integers and len(integers) <= min(MOST_CLASSES, max(2, n // 2))


def _numbers(values: Any, line: Place) -> NDArray[np.float64]:
    try:
        return read_numbers(values, line)
    except ValueError as error:
        hint = " (--header takes the first line for the names of the columns)" if str(error).startswith("line 1,") else ""
        raise Failure(f"{error}{hint}") from None


def typed(frame: Any, columns: Sequence[Column]) -> Any:
    """The table with its columns of numbers as float64, NaN for gaps, so that text is read once."""
    frame = frame.copy(deep=False)
    for column in columns:
        if column.kind == "numeric":
            frame[column.name] = read_numbers(frame[column.name])
    return frame


def find_columns(frame: Any, targets: Collection[str], categorical: Collection[str], drop: Collection[str]) -> list[Column]:
    """Finds the kind of each column but the targets.

    Raises Failure if a column of numbers has something else.
    """
    check_known(frame, categorical, "--categorical")
    both = [name for name in (*categorical, *drop) if name in targets] + [name for name in drop if name in categorical]
    if both:
        raise Failure(f"column {both[0]!r}: named by two of --target, --categorical and --drop")
    return [
        Column(name, "dropped", "--drop") if name in drop else _find(frame, name, name in categorical)
        for name in frame.columns
        if name not in targets
    ]


def _refuse_nested(values: Any, line: Place) -> None:
    for row, value in enumerate(values if values.dtype == object else ()):
        if type(value) in _NESTED:
            raise Failure(f"{line(row)}: expected a number or text, got {_NESTED[type(value)]} (--drop leaves the column out)")


def _decimals(distinct: Collection[str]) -> str:
    return ", numbers with decimal commas (--decimal , reads them)" if all(map(DECIMAL_COMMA.fullmatch, distinct)) else ""


def _find(frame: Any, name: str, forced: bool) -> Column:
    values, line = frame[name], Place(frame, name)
    _refuse_nested(values, line)
    texts = read_texts(values)
    filled = [text for text in texts if text]
    gaps, distinct = len(texts) - len(filled), set(filled)
    if not filled:
        return Column(name, "empty", "no values", gaps)
    kind = "text" if forced else _kind_of_texts(filled)
    if kind == "mistakes":
        try:
            _numbers(values, line)
        except Failure as error:
            raise Failure(f"{error} (--categorical {short(name)} takes the column for text)") from None
    if kind == "numbers":
        numbers = _numbers(values, line)
        low, high = np.nanmin(numbers), np.nanmax(numbers)
        if low == high:
            return Column(name, "constant", filled[0], gaps)
        counts = ", a different integer in each row" if gaps == 0 and _are_identifiers(texts) else ""
        return Column(name, "numeric", f"{_shown(low)} to {_shown(high)}{counts}", gaps)
    if len(distinct) + (gaps > 0) == 1:
        return Column(name, "constant", short(filled[0]), gaps)
    if not forced and (len(distinct) * 2 > len(filled) or len(distinct) > _MOST_CATEGORIES):
        alike = _decimals(distinct) or f", such as {short(filled[0])}"
        return Column(name, "identifier", f"{len(distinct):,} different texts{alike}", gaps)
    common = [text for text, _ in Counter(filled).most_common()]
    shown = ", ".join(common[:4])
    return Column(name, "categorical", f"{len(distinct)}: {shown:.60}{', ...' if len(common) > 4 else ''}", gaps)


def _are_identifiers(texts: Sequence[str]) -> bool:
    """True if each row has another integer.

    These integers must leave few out, or be larger than those that float64 tells apart.
    """
    numbers = {number for number in map(read_integer, texts) if number is not None}
    if len(texts) < _MANY or len(numbers) < len(texts):
        return False
    return max(numbers) - min(numbers) < 2 * len(numbers) or min(map(abs, numbers)) >= 2**53


def _shown(number: float) -> str:
    return f"{number:.0f}" if number == round(number) and abs(number) < 1e15 else f"{number:g}"


def _kind_of_texts(texts: Sequence[str]) -> str:
    """The kind of filled cells: "numbers", "text", or numbers with a few "mistakes" among them."""
    others = [text for text in texts if not _is_number(text)]
    if not others:
        return "numbers"
    rare = len(others) < _RARE * len(texts) or len(set(others)) == len(others)
    return "mistakes" if len(others) * 2 <= len(texts) and rare else "text"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def learn(frame: Any, columns: Sequence[Column], targets: tuple[Target, ...]) -> Preparation:
    """Learns the preparation from the training rows."""
    import pandas
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    numeric = [column.name for column in columns if column.kind == "numeric"]
    categorical = [column.name for column in columns if column.kind == "categorical"]
    if not numeric and not categorical:
        others = ", ".join(f"{short(column.name)} is {column.kind}" for column in columns[:8]) or "only the target is there"
        raise Failure(f"expected a column that is an input, got none: {others}{', ...' if len(columns) > 8 else ''}")
    values: dict[str, Any] = {name: read_numbers(frame[name]) for name in numeric}
    values |= {name: [text or GAP for text in read_texts(frame[name])] for name in categorical}
    transformer = ColumnTransformer(
        [
            ("numeric", SimpleImputer(strategy="median", keep_empty_features=True), numeric),
            ("categorical", OneHotEncoder(handle_unknown="ignore"), categorical),
        ]
    )
    transformer.fit(pandas.DataFrame(values).astype(dict.fromkeys(categorical, object)))
    fitted = transformer.named_transformers_
    inputs: dict[str, Numeric | Categorical] = {}
    if numeric:
        inputs |= {name: Numeric(name, float(fill)) for name, fill in zip(numeric, fitted["numeric"].statistics_, strict=True)}
    if categorical:
        learned = zip(categorical, fitted["categorical"].categories_, strict=True)
        inputs |= {name: Categorical(name, tuple(map(str, categories))) for name, categories in learned}
    return Preparation(tuple(inputs[column.name] for column in columns if column.name in inputs), targets)


def lay_out(columns: Sequence[Column], targets: Targets) -> list[tuple[str, str, str]]:
    """Rows of a short table: name, kind, values."""
    rows = [(target.name, "target", _about_target(target)) for target in targets.targets]
    shown = columns if len(columns) <= _MOST_SHOWN else [column for column in columns if column.kind != "numeric"][:_MOST_SHOWN]
    for column in shown:
        gaps = f", {column.gaps:,} missing" if column.gaps else ""
        left_out = "" if column.kind in ("numeric", "categorical") else " (left out)"
        rows.append((column.name, column.kind + left_out, column.about + gaps))
    others = [column for column in columns if column not in shown]
    for kind in dict.fromkeys(column.kind for column in others):
        alike = [column for column in others if column.kind == kind]
        rows.append((f"{len(alike):,} columns", kind, f"{short(alike[0].name)} to {short(alike[-1].name)}"))
    return [(one_line(name), kind, one_line(about)) for name, kind, about in rows]


def _about_target(target: Target) -> str:
    if target.classes is None:
        return "numbers"
    shown = ", ".join(map(str, target.classes[:6])) + (", ..." if len(target.classes) > 6 else "")
    return f"{len(target.classes)} classes: {shown:.60}"
