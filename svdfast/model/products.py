# SPDX-License-Identifier: BSD-3-Clause
"""Work on large matrices shared among threads, bit-identical for any number of threads.

The shares depend on the work alone. svd.py and truncation.py call these functions. The products of
training steps are in src/products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from svdfast._engine import is_forked
from svdfast._process.runtime import resolve_threads

__all__ = ["each", "gram", "largest", "product", "sum_of_squares", "threads"]

Array: TypeAlias = NDArray[Any]
Item = TypeVar("Item")
Made = TypeVar("Made")

# Rows of a result, and rows of a sum, that one thread computes at a time.
_ROWS = 256
_SUMMED = 512
# Number of such shares that are kept at a time.
_TOGETHER = 16
# Multiplications below which a thread costs more than it saves.
_FEW = 1 << 22


@dataclass
class _Block:
    """A block of `threads`: its pool, None for one thread, and True once the block has ended."""

    pool: ThreadPoolExecutor | None
    ended: bool = False

    def end(self) -> None:
        self.ended = True


# The innermost block. A Ctrl-C may keep one that has ended here.
_blocks: ContextVar[_Block | None] = ContextVar("_blocks", default=None)


def _block() -> _Block | None:
    block = _blocks.get()
    return None if block is None or block.ended else block



@contextmanager
def threads(n: int | None = None) -> Iterator[None]:
    """Shares the work of the block among `n` threads, by default svdfast's usual number.

    Inside another such block, the outer one's threads are used. A forked process computes in one
    thread.
    """
    if _block() is not None:
        yield
        return
    with ExitStack() as stack:
        n_threads = 1 if is_forked() else resolve_threads(n)
        block = _Block(stack.enter_context(ThreadPoolExecutor(n_threads, "svdfast")) if n_threads > 1 else None)
        stack.callback(block.end)
        token = _blocks.set(block)
        try:
            yield
        finally:
            _blocks.reset(token)


def each(function: Callable[[Item], Made], items: Sequence[Item], cost: float = np.inf) -> list[Made]:
    """The function's results for all items, computed in parallel if that pays.

    Floating point errors in the function are ignored.
    """

    def quiet(item: Item) -> Made:
        with np.errstate(all="ignore"):  # each thread has its own state
            return function(item)

    block = _block()
    # A process that was forked inside a block has none of the block's threads.
    if block is None or block.pool is None or len(items) < 2 or cost < _FEW or is_forked():
        return list(map(quiet, items))
    return list(block.pool.map(quiet, items))


def product(A: Array, B: Array) -> Array:
    """A·B.

    Examples
    --------
    >>> import numpy as np
    >>> from svdfast.model.products import product
    >>> product(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]))
    array([[11.]])
    """
    out = np.empty((len(A), B.shape[1]), A.dtype)

    def rows(start: int) -> None:
        part = slice(start, start + _ROWS)
        np.matmul(A[part], B, out=out[part])

    each(rows, range(0, len(A), _ROWS), A.size * B.shape[1])
    return out


def gram(A: Array, B: Array | None = None, dtype: DTypeLike = np.float64) -> Array:
    """Aᵀ·B, by default Aᵀ·A, computed in `dtype`.

    Examples
    --------
    >>> import numpy as np
    >>> from svdfast.model.products import gram
    >>> gram(np.array([[1.0, 2.0]]))
    array([[1., 2.],
           [2., 4.]])
    """

    def share(start: int) -> Array:
        rows = slice(start, start + _SUMMED)
        left = A[rows].astype(dtype, copy=False)
        made: Array = left.T @ (left if B is None else B[rows].astype(dtype, copy=False))
        return made

    total, at_once = None, _SUMMED * _TOGETHER
    for first in range(0, len(A), at_once):
        for part in each(share, range(first, min(first + at_once, len(A)), _SUMMED), A.size * A.shape[1]):
            total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total


def largest(A: Array) -> float:
    """The largest absolute value of the elements; NaN if any of them is NaN."""

    def rows(start: int) -> Any:
        part = A[start : start + _ROWS]
        return np.maximum(part.max(), -part.min())

    return float(np.max(each(rows, range(0, len(A), _ROWS), A.size)))


def sum_of_squares(A: Array) -> float:
    """‖A‖_F², summed over blocks of rows; the sums of blocks are added in float64."""

    def rows(start: int) -> float:
        part = A[start : start + _ROWS].ravel()
        return float(part @ part)

    return sum(each(rows, range(0, len(A), _ROWS), A.size))
