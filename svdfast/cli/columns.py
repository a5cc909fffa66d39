# SPDX-License-Identifier: BSD-3-Clause
"""What the columns of a training table are: targets, numbers, categories, and what is no input. scikit-learn learns their preparation.

Not here: how a table is read (tables.py), and how a preparation is applied (data/preparation.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast.cli.errors import Failure, nearest, short
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
_MANY = 50  # rows from which integers that count up are worth a word


@dataclass(frozen=True)
class Column:
    """What a column was found to be.

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
    """What a network of a table learns to tell, and why.

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


def find_targets(frame: Any, names: Sequence[str] | None, task: str) -> Targets:
    """The targets by name, or the last column. Raises Failure where a value is missing or no target."""
    reason = "--target" if names else "last column"
    names = list(dict.fromkeys(names or [str(frame.columns[-1])]))
    check_known(frame, names, "--target")
    kinds = [_classes(frame, name, task, alone=len(names) == 1) for name in names]
    if any(kinds) and not all(kinds):  # of several: numbers then, which some of them may have two of
        kinds = [_classes(frame, name, "regression", alone=False) for name in names]
    return Targets(tuple(map(Target, names, kinds)), reason)


def check_known(frame: Any, names: Collection[str], option: str) -> None:
    """Refuses the name of a column that is not there."""
    for name in names:
        if name not in frame.columns:
            there = ", ".join(map(short, frame.columns[:10])) + (", ..." if len(frame.columns) > 10 else "")
            raise Failure(f"{option}: no column {short(name)}{nearest(name, frame.columns)}; there: {there}")


def _classes(frame: Any, name: str, task: str, *, alone: bool) -> tuple[Class, ...] | None:
    """What the classes of a target are called; None where it has numbers."""
    values, line = frame[name], Place(frame, name)
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
        _numbers(values, line)
        return None
    if task == "regression" or (kind == "mistakes" and task == "auto"):
        _numbers(values, line)
        return None
    if alone and len(distinct) > MOST_CLASSES and len(distinct) * 2 > len(texts) and kind != "numbers":
        raise Failure(
            f"column {name!r}: expected classes or numbers, got {len(distinct):,} different texts in {len(texts):,} rows; "
            "--target names another column"
        )
    if not alone and len(distinct) != 2:
        raise Failure(f"column {name!r}: expected numbers, or two values as one of several targets, got {len(distinct):,} texts")
    integers = [read_integer(text) for text in distinct]
    if None in integers:
        return tuple(distinct)
    return tuple(sorted({number for number in integers if number is not None}))


def _are_classes(distinct: Sequence[str], n: int, task: str, alone: bool) -> bool:
    """Whether numbers are taken for classes: two of several targets, or a few integers."""
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
    """The table with its columns of numbers as float64, NaN for gaps, so that their text is read once."""
    frame = frame.copy(deep=False)
    for column in columns:
        if column.kind == "numeric":
            frame[column.name] = read_numbers(frame[column.name])
    return frame


def find_columns(frame: Any, targets: Collection[str], categorical: Collection[str], drop: Collection[str]) -> list[Column]:
    """What each column but the targets is. Raises Failure where a column of numbers has something else."""
    check_known(frame, categorical, "--categorical")
    check_known(frame, drop, "--drop")
    both = [name for name in (*categorical, *drop) if name in targets] + [name for name in drop if name in categorical]
    if both:
        raise Failure(f"column {both[0]!r}: named by two of --target, --categorical and --drop")
    return [
        Column(name, "dropped", "--drop") if name in drop else _find(frame, name, name in categorical)
        for name in frame.columns
        if name not in targets
    ]


def _find(frame: Any, name: str, forced: bool) -> Column:
    values, line = frame[name], Place(frame, name)
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
            return Column(name, "constant", f"{low:g}", gaps)
        counts = len(numbers) >= _MANY and gaps == 0 and bool((np.diff(numbers) == 1).all())
        return Column(name, "numeric", f"{low:g} to {high:g}" + (", counts the rows" if counts else ""), gaps)
    if len(distinct) + (gaps > 0) == 1:
        return Column(name, "constant", short(filled[0]), gaps)
    if not forced and (len(distinct) * 2 > len(filled) or len(distinct) > _MOST_CATEGORIES):
        commas = ", numbers with decimal commas" if all(_is_number(text.replace(",", ".")) for text in distinct) else ""
        return Column(name, "identifier", f"{len(distinct):,} different texts{commas}", gaps)
    common = [text for text, _ in Counter(filled).most_common()]
    shown = ", ".join(common[:4])
    return Column(name, "categorical", f"{len(distinct)}: {shown:.60}{', ...' if len(common) > 4 else ''}", gaps)


def _kind_of_texts(texts: Sequence[str]) -> str:
    """Whether filled cells are "numbers", "text", or numbers with a few "mistakes" among them."""
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
    """The preparation of the training rows."""
    import pandas
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    numeric = [column.name for column in columns if column.kind == "numeric"]
    categorical = [column.name for column in columns if column.kind == "categorical"]
    if not numeric and not categorical:
        raise Failure("expected a column that is an input, got none")
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
    return rows


def _about_target(target: Target) -> str:
    if target.classes is None:
        return "numbers"
    shown = ", ".join(map(str, target.classes[:6])) + (", ..." if len(target.classes) > 6 else "")
    return f"{len(target.classes)} classes: {shown:.60}"
