# SPDX-License-Identifier: BSD-3-Clause
"""Checks of plain arguments: numbers, counts, arrays of numbers, and available memory.

Each error names the argument, the expected and the given value. `of_layer` adds the layer to an
error of linear algebra. Further requirements for arrays are checked where these are used: data/
(samples and targets), kernels.py, svd.py.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import math
import numbers
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALL = 1 << 26  # bytes that are assumed to be available
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

_MOST_ITEMS = 100_000

# The most elements of an array, and along one dimension, that the compiled core and BLAS can count.
MAX_SIZE = 2**31 - 1


def positive_number(name: str, value: Any, *, or_zero: bool = False) -> float:
    """A finite number > 0 (or ≥ 0) as a float."""
    number = _number(name, value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not or_zero):
        bound = "≥ 0" if or_zero else "> 0"
        raise ValueError(f"{name}: expected a finite number {bound}, got {value!r:.100}")
    return number


def finite_number(name: str, value: Any) -> float:
    """A finite number of any sign as a float."""
    number = _number(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {value!r:.100}")
    return number


def _number(name: str, value: Any, expected: str = "a number") -> float:
    """The nearest float; infinity of the same sign if the number is too large."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    return _as_float(value)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def fraction(name: str, value: Any, *, below_one: bool = False, above_zero: bool = False) -> float:
    """A number from 0 to 1 (or below 1, or above 0, or both) as a float."""
    number = _number(name, value, "a number from 0 to 1")
    if not 0 <= number <= 1 or (below_one and number == 1) or (above_zero and number == 0):
        least = "above 0 and" if above_zero else "from 0 to"
        most = "below 1" if below_one else "at most 1" if above_zero else "1"
        raise ValueError(f"{name}: expected a number {least} {most}, got {value!r}")
    return number


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuses a value that is not one of some words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected {' or '.join(choices)}, got {value!r}")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most similar to another; None if none is similar."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def known_name(name: str, value: str, known: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> None:
    """Refuses an unknown name, and suggests a known one if possible.

    Parameters
    ----------
    name : str
        Name of the argument.
    value : str
    known : iterable of str
    elsewhere : mapping of str to str, optional
        Names that other libraries have for some of them, in lower case.
    """
    names = list(known)
    if value in names:
        return
    small = value.lower()
    meant = (elsewhere or {}).get(small)
    near = meant if meant in names else nearest(small, names)
    hint = "" if near is None else f"; write {near!r}"
    raise ValueError(f"{name}: expected one of {', '.join(names)}, got {value!r:.100}{hint}")


def count(name: str, value: Any, *, minimum: int = 1, maximum: int | None = None) -> int:
    """An integer within bounds, of any integer type, as an int."""
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if number < minimum or (maximum is not None and number > maximum):
        bound = f"≥ {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"{name}: expected an integer {bound}, got {number}")
    return number


def float_dtype(name: str, value: Any) -> np.dtype[Any]:
    """float32 or float64."""
    try:
        dtype = np.dtype("O" if value is None else value)  # None would be float64
    except TypeError:
        raise TypeError(f"{name}: expected float32 or float64, got {value!r}") from None
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"{name}: expected float32 or float64, got {dtype}")
    return dtype


def listed(name: str, value: Any, of: str) -> list[Any]:
    """The items of a short sequence. An endless one is refused."""
    try:
        items = iter(value)
    except TypeError:
        raise TypeError(f"{name}: expected a sequence of {of}, got {type(value).__name__}") from None
    given = list(itertools.islice(items, _MOST_ITEMS + 1))
    if len(given) > _MOST_ITEMS:
        raise ValueError(f"{name}: expected at most {_MOST_ITEMS} {of}, got more")
    return given


def real_array(name: str, value: Any) -> NDArray[Any]:
    """Real numbers of at most 64 bits as an array.

    Sparse and masked arrays are refused, as a plain array would not show their numbers.
    """
    if value is None:
        raise TypeError(f"{name}: expected an array of numbers, got None")
    if hasattr(value, "toarray"):
        raise TypeError(f"{name}: expected a dense array, got a sparse {type(value).__name__}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array without a mask, got a masked array")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array of numbers: {error}") from None
    except TypeError as error:
        raise TypeError(f"{name}: expected an array of numbers: {error}") from None
    real_dtype(name, array.dtype)
    return array


def real_dtype(name: str, dtype: np.dtype[Any]) -> None:
    """Refuses a dtype other than real numbers of at most 64 bits."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise TypeError(f"{name}: expected real numbers of at most 64 bits, got dtype {dtype}")


def check_out(
    name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], *, direct: bool = False
) -> None:
    """Refuses an `out` that results can't be written to.

    With `direct`, it also refuses one that compiled code can't use without a copy.
    """
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an ndarray, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError(f"{name}: expected an array to write to, got a read-only one")
    if direct and not (out.flags.c_contiguous and out.flags.aligned):
        raise ValueError(
            f"{name}: expected a C-contiguous and aligned array, got one that is not"
        )


@contextlib.contextmanager
def of_layer(index: int) -> Iterator[None]:
    """Puts the layer's index in front of the message of a linear algebra error."""
    try:
        yield
    except np.linalg.LinAlgError as error:
        raise np.linalg.LinAlgError(f"layer {index}: {error}") from error


def memory() -> int | None:
    """Bytes that this process can still allocate; None if unknown.

    That is the memory that Linux reports as available, at most a container's limit.
    """
    found = []
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        kibibytes = [int(fields[key].split()[0]) for key in ("MemAvailable", "SwapFree")]
        found.append(1024 * sum(kibibytes))
    except (OSError, LookupError, ValueError):
        pass
    for limit in _LIMITS:
        try:
            found.append(int(Path(limit).read_text(encoding="ascii")))
        except (OSError, ValueError):  # not this kind of container, or "max"
            continue
    return min(found, default=None)


def room(name: str, n_bytes: int) -> None:
    """Refuses a request that exceeds the available memory, before anything is allocated.

    Linux would grant it, and end the process when it uses the memory.
    """
    if n_bytes <= _SMALL:
        return
    free = memory()
    most = sys.maxsize if free is None else free
    if n_bytes > most:
        raise MemoryError(f"{name}: expected to need at most the {most:,} available bytes, got {n_bytes:,}")
