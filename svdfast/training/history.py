# SPDX-License-Identifier: BSD-3-Clause
"""The history of a training: a row for each epoch, stored by columns, about 50 bytes a row.

Elsewhere: the contents of a row (loop.py), and how a history is shown (result.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from typing import Any, overload

__all__ = ["History"]

# Types that have compact columns, and their codes in `array`.
_CODES = {int: "q", float: "d"}
# Stands for a value that a row does not have.
_ABSENT = object()


class History(Sequence[dict[str, Any]]):
    """Rows, most of which have the same names. Each access returns a new dict.

    Examples
    --------
    >>> from svdfast.training.history import History
    >>> history = History([{"epoch": 1, "loss": 0.5}])
    >>> history.append({"epoch": 2, "loss": 0.25})
    >>> len(history), history[-1]
    (2, {'epoch': 2, 'loss': 0.25})
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()):
        self._columns: dict[str, MutableSequence[Any]] = {}
        self._length = 0
        for row in rows:
            self.append(row)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row."""
        self.extend({name: [value] for name, value in row.items()})

    def extend(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Adds rows by their columns, all of one length."""
        n_rows = len(next(iter(columns.values())))
        for name, values in columns.items():
            if name not in self._columns:
                self._columns[name] = _column(values) if self._length == 0 else [_ABSENT] * self._length
        for name, column in self._columns.items():
            values = columns.get(name) or [_ABSENT] * n_rows
            if isinstance(column, array) and not _fits(column, values):
                column = self._columns[name] = list(column)
            column.extend(values)
        self._length += n_rows

    def replace_last(self, row: Mapping[str, Any]) -> None:
        """Replaces the last row by another."""
        for column in self._columns.values():
            column.pop()
        self._length -= 1
        self.append(row)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if not -self._length <= index < self._length:
            raise IndexError(f"history index: expected one of {self._length} rows, got {index}")
        return {name: column[index] for name, column in self._columns.items() if column[index] is not _ABSENT}

    def __eq__(self, other: object) -> bool:
        if isinstance(other, History | list):
            return len(self) == len(other) and all(map(dict.__eq__, self, other))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


def _column(values: Sequence[Any]) -> MutableSequence[Any]:
    """An empty column for such values."""
    code = _CODES.get(type(values[0])) if values else None
    return [] if code is None else array(code)


def _fits(column: array[Any], values: Sequence[Any]) -> bool:
    if isinstance(values, array):
        return values.typecode == column.typecode
    kind = int if column.typecode == "q" else float
    return all(type(value) is kind for value in values)
