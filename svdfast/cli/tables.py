# SPDX-License-Identifier: BSD-3-Clause
"""Tables from files (delimited text, Parquet, Feather, Excel) as a pandas.DataFrame of every row.

Python's csv module splits text, because pandas pads short lines and skips blank ones silently.
Cells of text files stay text. Elsewhere: the meaning of columns (columns.py), and NPZ and NPY files
(arrays.py).
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import io
import itertools
import lzma
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svdfast._process.checks import room
from svdfast._process.text import one_line
from svdfast.cli.errors import Failure, named_errors, short
from svdfast.data.preparation import GAPS, read_integer

__all__ = ["DECIMAL_COMMA", "Reading", "Table", "is_table", "read_table", "reading_of"]

_PACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_PIECE = 1 << 24  # bytes unpacked at a time
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_DELIMITERS = ",;\t|"
_SUFFIXES = (".csv", ".tsv", ".txt", ".data", ".parquet", ".pq", ".feather", ".arrow", ".xlsx", ".xls", ".ods")
_PACKED_SUFFIXES = (".gz", ".bz2", ".xz")
_SAMPLE = 50  # rows that delimiter and header are guessed from
# A number with a comma before its decimals.
DECIMAL_COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?")
_UNNAMED = ("", "Unnamed: 0", "__index_level_0__")


@dataclass(frozen=True)
class Reading:
    """The format of text files. None: found by looking at the file.

    Attributes
    ----------
    delimiter : str, optional
        A character.
    encoding : str, optional
        By default UTF-8, or UTF-16 if a byte order mark says so.
    header : bool, optional
        True if the first line has the names of the columns.
    decimal : {".", ","}
        The character before the decimals of a number.
    """

    delimiter: str | None = None
    encoding: str | None = None
    header: bool | None = None
    decimal: str = "."


def reading_of(arguments: argparse.Namespace) -> Reading:
    """The format that the arguments of a command give (arguments.add_reading)."""
    return Reading(arguments.delimiter, arguments.encoding, arguments.header, arguments.decimal)


@dataclass(frozen=True)
class Table:
    """A table as it was read.

    Attributes
    ----------
    frame : pandas.DataFrame
        Column names are text and differ. With a text file, the index has the line that each row
        begins in.
    notes, warnings : list of str
        Remarks about what was found by looking, and what was left out.
    """

    frame: Any
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def is_table(name: str) -> bool:
    """True if this names a table: by its ending, as an existing file, or as standard input."""
    stem, suffix = os.path.splitext(name.lower())
    if suffix in _PACKED_SUFFIXES:
        suffix = os.path.splitext(stem)[1]
    return name == "-" or suffix in _SUFFIXES or (suffix not in (".npz", ".npy") and os.path.exists(name))


def read_table(name: str, reading: Reading = Reading(), known: Collection[str] = ()) -> Table:
    """Reads every row of a file. Raises Failure.

    `known` are names that columns may have. They help to tell a header from a row.
    """
    try:
        import pandas
    except ImportError:
        raise Failure(f'{name}: tables need pandas: pip install "svdfast[demo]"') from None
    with named_errors(name):
        data = sys.stdin.buffer.read() if name == "-" else _content(name)
        try:
            table = _read(pandas, data, os.path.splitext(name.lower())[1], reading, known)
        except ImportError as error:
            raise Failure(f'{error} (pip install "svdfast[demo]" brings what Parquet and Feather need)') from None
        if table.frame.shape[0] == 0 or table.frame.shape[1] == 0:
            raise Failure("expected rows, got none")
        return table


def _content(name: str) -> bytes:
    with open(name, "rb") as file:
        return file.read()


def _read(pandas: Any, data: bytes, suffix: str, reading: Reading, known: Collection[str]) -> Table:
    for mark, opened in _PACKED.items():
        if data.startswith(mark):
            try:
                with opened(io.BytesIO(data)) as file:
                    data = _unpacked(file)
            except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
                raise Failure(f"damaged compressed file: {error}") from None
            break
    if data.startswith(b"PAR1") or suffix in (".parquet", ".pq"):
        return _columnar(pandas, pandas.read_parquet, data, "Parquet")
    if data.startswith((b"ARROW1", b"FEA1")) or suffix in (".feather", ".arrow"):
        return _columnar(pandas, pandas.read_feather, data, "Feather")
    if suffix in (".xlsx", ".xls", ".ods"):
        return _spreadsheet(pandas, data, reading, known)
    text = _decode(data, reading.encoding)
    delimiter = reading.delimiter or _guess_delimiter(text)
    rows, lines = _split(text, delimiter)
    notes = []
    if reading.delimiter is None and delimiter != ",":
        notes.append(f"columns separated by {short(delimiter)}")
    if reading.decimal == ",":
        rows = [[_with_point(cell, line) for cell in row] for row, line in zip(rows, lines, strict=True)]
    table = _with_header(pandas, rows, lines, reading.header, known)
    table.notes[:0] = notes
    return table


def _unpacked(file: Any) -> bytes:
    """The whole of a compressed file, if there is memory for it, which its size does not tell. Raises Failure."""
    content = bytearray()
    while piece := file.read(_PIECE):
        content += piece
        try:
            room("file", 3 * len(content))  # to grow, as bytes, and as text
        except MemoryError:
            raise Failure(f"there is not enough memory for it: over {len(content):,} bytes when it is unpacked") from None
    return bytes(content)


def _with_point(cell: str, line: int) -> str:
    """A cell of a file with decimal commas; one with a point could be a number of thousands."""
    if DECIMAL_COMMA.fullmatch(cell):
        return cell.replace(",", ".")
    if "." in cell and _is_number(cell):
        raise Failure(f"line {line}: expected numbers with decimal commas (--decimal), got {short(cell)}")
    return cell


def _columnar(pandas: Any, read: Any, data: bytes, kind: str) -> Table:
    try:
        frame = read(io.BytesIO(data), dtype_backend="numpy_nullable")
    except ImportError:
        raise
    except Exception as error:  # pyarrow has many kinds of errors for a damaged file, also for memory that it claims to need
        raise Failure(f"not a {kind} file: {' '.join(str(error).split())[:200]}") from None
    if frame.index.names != [None]:
        frame = frame.reset_index()
    frame = frame.reset_index(drop=True)
    return _named(frame, [str(name) for name in frame.columns], "")


def _spreadsheet(pandas: Any, data: bytes, reading: Reading, known: Collection[str]) -> Table:
    try:
        frame = pandas.read_excel(io.BytesIO(data), header=None, dtype=object, na_filter=False)
    except ImportError as error:
        raise Failure(f"Excel files need an engine of pandas: {error}") from None
    except Exception as error:  # any engine's
        raise Failure(f"not an Excel file: {' '.join(str(error).split())[:200]}") from None
    rows = [list(row) for row in frame.itertuples(index=False, name=None)]
    return _with_header(pandas, rows, range(1, len(rows) + 1), reading.header, known)


def _decode(data: bytes, encoding: str | None) -> str:
    known = encoding or next((code for mark, code in _MARKS.items() if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(known)
    except LookupError:
        raise Failure(f"--encoding: Python knows no {short(encoding)}") from None
    except UnicodeError as error:
        line = data.count(b"\n", 0, getattr(error, "start", 0)) + 1
        name = "UTF-8" if known == "utf-8-sig" else known
        hint = "" if encoding else " (--encoding names another one, such as cp1252)"
        raise Failure(f"line {line}: expected text in {name}, got other bytes{hint}") from None
    if "\0" in text:
        raise Failure(f"line {text.count(chr(10), 0, text.index(chr(0))) + 1}: expected text, got a zero byte")
    return text.removeprefix("\ufeff")


def _split(text: str, delimiter: str) -> tuple[list[list[Any]], list[int]]:
    """Rows of equally many cells, and the lines that they begin in.

    A blank line is a row only in a table of one column.
    """
    rows, lines = [], []
    for row, line in _records(text, delimiter):
        rows.append(row)
        lines.append(line)
    there = [i for i, row in enumerate(rows) if row != [""]]
    if not there:
        return [], []
    n_columns = len(rows[there[0]])
    if n_columns == 1:
        there = list(range(there[0], there[-1] + 1))
    rows, lines = [rows[i] for i in there], [lines[i] for i in there]
    for row, line in zip(rows, lines, strict=True):
        if len(row) != n_columns:
            names = one_line(", ".join(rows[0]))
            raise Failure(f"line {line}: expected {n_columns} columns, as in line {lines[0]} ({names:.120}), got {len(row)}")
    return rows, lines


def _records(text: str, delimiter: str) -> Any:
    """Each row with its line; a blank one is [""]."""
    source: Any = io.StringIO(text, newline="")
    if delimiter == " ":  # any number of them
        source = (line.strip() + "\n" for line in source)
    line = 1
    try:
        reader = csv.reader(source, delimiter=delimiter, skipinitialspace=True, strict=True)
        for row in reader:
            yield [cell.strip() for cell in row] or [""], line
            line = reader.line_num + 1
    except (csv.Error, TypeError, ValueError) as error:
        raise Failure(f"line {line}: {error}") from None


def _guess_delimiter(text: str) -> str:
    """Guesses the delimiter from the first rows.

    It gives most rows the same number of cells; then more numbers count, then more cells. Spaces are taken only if no other delimiter fits.
    """
    found: list[tuple[bool, float, float, int, str]] = []
    for delimiter in _DELIMITERS + " ":
        try:
            rows = list(itertools.islice((row for row, _ in _records(text, delimiter) if row != [""]), _SAMPLE))
        except Failure:
            continue
        width, count = max(Counter(map(len, rows)).items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        if width > 1:
            cells = [cell for row in rows for cell in row if cell not in GAPS]
            numbers = sum(_is_number(cell) or (delimiter != "," and bool(DECIMAL_COMMA.fullmatch(cell))) for cell in cells)
            found.append((delimiter != " ", count / len(rows), numbers / max(len(cells), 1), width, delimiter))
    return max(found, key=lambda each: each[:4])[4] if found else ","


def _with_header(pandas: Any, rows: Sequence[list[Any]], lines: Sequence[int], header: bool | None, known: Collection[str]) -> Table:
    if not rows:
        raise Failure("expected rows, got none")
    guessed = _is_header(rows[0], rows[1 : 1 + _SAMPLE], known) if header is None else header
    names = [str(cell).strip() for cell in rows[0]] if guessed else [f"column {i}" for i in range(1, len(rows[0]) + 1)]
    if guessed:
        rows, lines = rows[1:], lines[1:]
    columns = {i: np.array(column, dtype=object) for i, column in enumerate(zip(*rows, strict=True))}
    frame = pandas.DataFrame(columns, index=pandas.Index(list(lines), name="line"), columns=range(len(names)), dtype=object)
    table = _named(frame, names, f"line {lines[0] - 1}: " if guessed and rows else "")
    if header is None:
        no_names = "the first line has no names of columns: they are numbered (--header takes it for names)"
        table.notes.append("first line taken for the names of the columns" if guessed else no_names)
    return table


def _is_header(first: list[Any], rest: Sequence[list[Any]], known: Collection[str]) -> bool:
    """True if a row has names.

    Names are words that do not come again below and are above a column of numbers or all different.
    Words and 0, 1, 2, ... are names, too.
    """
    cells = [str(cell).strip() for cell in first]
    if known and (set(known) <= set(cells) or len(set(known) & set(cells)) * 2 > len(cells)):
        return True
    numbers = [cell for cell in cells if _is_number(cell) or DECIMAL_COMMA.fullmatch(cell)]
    # pandas numbers the columns of an array; a target with a name may have been added.
    counted = len(numbers) > 2 and numbers in ([str(i) for i in range(start, start + len(numbers))] for start in (0, 1))
    if (numbers and not counted) or len(numbers) == len(cells) or any(cell and cell in GAPS for cell in cells) or not any(cells):
        return False
    below = [[str(cell).strip() for cell in column] for column in zip(*rest, strict=True)]
    filled = [[cell for cell in column if cell not in GAPS] for column in below]
    numeric = any(column and sum(map(_is_number, column)) * 2 > len(column) for column in filled)
    again = any(cell in column for cell, column in zip(cells, filled, strict=False) if cell and cell not in numbers)
    return not again and (numeric or not rest or len(set(cells)) == len(cells))


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def _named(frame: Any, names: list[str], place: str) -> Table:
    """Names the columns, and leaves out an index.

    An index is a first column without a name that has a different integer in each row.
    """
    warnings = []
    if len(names) > 1 and names[0] in _UNNAMED and len(frame):
        numbers = [read_integer(str(value)) for value in frame.iloc[:, 0]]
        if None not in numbers and len(set(numbers)) == len(numbers):
            warnings.append("the first column has no name and numbers the rows: taken for an index and left out")
            frame, names = frame.iloc[:, 1:], names[1:]
            frame.columns = names
            offset = 2
        else:
            offset = 1
    else:
        offset = 1
    names = [name or f"column {i}" for i, name in enumerate(names, offset)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise Failure(f"{place}expected columns of different names, got {', '.join(map(short, twice[:5]))} more than once")
    frame = frame.copy(deep=False)
    frame.columns = names
    return Table(frame, [], warnings)
