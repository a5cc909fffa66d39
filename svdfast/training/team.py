# SPDX-License-Identifier: BSD-3-Clause
"""The messages between the processes of a training, beside the gradients of its steps.

Everything is built on two calls of a communicator, a sum and a broadcast, and so is in the same
order everywhere. An error that all processes know of is raised by all of them. An error that only
one process has ends them all, as the others would wait for it for ever. Elsewhere: the sums of
gradients (shared.py), and the communicator of MPI (svdfast/distributed.py).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from numbers import Integral
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from svdfast._process.checks import count
from svdfast.distributed import Communicator

__all__ = ["Team"]

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

# An attribute of the errors that all processes know of.
_KNOWN = "_svdfast_known"


class Team:
    """The processes of a training; without a communicator this process alone.

    A training lies within `with team:`.

    Attributes
    ----------
    rank, size : int
    first : bool
        True in process 0, which decides, prints and writes.

    Raises
    ------
    TypeError, ValueError
        `communicator` is not a communicator.
    """

    def __init__(self, communicator: Communicator | None = None):
        self._communicator = communicator
        self.rank, self.size = 0, 1
        if communicator is not None:
            self.rank, self.size = _checked(communicator)
        self.first = self.rank == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """An error that not all processes have ends them all."""
        if error is not None:
            self.fail(error)

    @property
    def n_threads(self) -> int | None:
        """The threads that this process should have, if the communicator knows."""
        found = getattr(self._communicator, "n_threads", None)
        return None if found is None else count("communicator.n_threads", found)

    def __bool__(self) -> bool:
        """True if there is a communicator."""
        return self._communicator is not None

    def sum(self, buffer: NDArray[Any]) -> None:
        """Replaces a vector by its sum over all processes."""
        if self._communicator is not None:
            self._communicator.sum(buffer)

    def broadcast(self, *arrays: NDArray[Any]) -> None:
        """Replaces contiguous vectors by those of process 0."""
        if self.size > 1:
            assert self._communicator is not None
            for array in arrays:
                self._communicator.broadcast(array)

    def of_first(self, value: T) -> T:
        """Process 0's value, which may be anything that can be pickled, in all processes."""
        if self.size == 1:
            return value
        text = np.frombuffer(pickle.dumps(value) if self.first else b"", np.uint8).copy()
        length = np.array([len(text)], np.int64)
        self.broadcast(length)
        if not self.first:
            text = np.empty(length[0], np.uint8)
        self.broadcast(text)
        found: T = value if self.first else pickle.loads(text.tobytes())
        return found

    def flags(self, flag: bool) -> list[int]:
        """The processes in which this is true."""
        found = np.zeros(self.size)
        found[self.rank] = flag
        self.sum(found)
        return [int(rank) for rank in np.flatnonzero(found)]

    def of(self, rank: int, value: T) -> T:
        """The value of one process in all of them. Use it rarely, as it is a sum."""
        if self.size == 1:
            return value
        own = np.frombuffer(pickle.dumps(value) if self.rank == rank else b"", np.uint8)
        length = np.array([float(len(own))])
        self.sum(length)
        text = np.zeros(int(length[0]))
        text[: len(own)] = own
        self.sum(text)
        found: T = value if self.rank == rank else pickle.loads(text.astype(np.uint8).tobytes())
        return found

    def agree(self, error: BaseException | None) -> None:
        """Raises in all processes if some have an error: their own, or the first one's."""
        if self.size > 1:
            failed = self.flags(error is not None)
            if not failed:
                return
            text = self.of(failed[0], _as_bytes(error, self.rank))
            if error is None:
                error = pickle.loads(text)
                error.add_note(f"(raised by process {failed[0]} of {self.size})")
        if error is not None:
            raise self.known(error)

    def together(self, work: Callable[[], T]) -> T:
        """Does work that may fail, in all processes; if it fails in some, it fails in all."""
        result: T
        if self.size == 1:
            return work()
        error: Exception | None = None
        try:
            result = work()
        except Exception as caught:
            error = caught
        self.agree(error)
        return result

    def known(self, error: E) -> E:
        """Marks an error that all processes are about to raise. Returns it."""
        error.__dict__[_KNOWN] = True
        return error

    def fail(self, error: BaseException) -> None:
        """Ends all processes before an error is raised in this one, unless all know of it."""
        abort = getattr(self._communicator, "abort", None)
        if self.size > 1 and _KNOWN not in error.__dict__ and abort is not None:
            self.known(error)  # now they do, and it is reported once
            abort(error)


def _checked(communicator: Any) -> tuple[int, int]:
    """Rank and size."""
    rank, size = getattr(communicator, "rank", None), getattr(communicator, "size", None)
    calls = (getattr(communicator, name, None) for name in ("sum", "broadcast"))
    numbers = all(isinstance(value, Integral) and not isinstance(value, bool) for value in (rank, size))
    # A class has its objects' methods but cannot call them.
    if isinstance(communicator, type) or not (numbers and all(map(callable, calls))):
        raise TypeError(
            "communicator: expected svdfast.distributed.mpi(), or an object with rank, size, sum and broadcast, "
            f"got {f'the class {communicator.__name__}' if isinstance(communicator, type) else type(communicator).__name__}"
        )
    assert rank is not None and size is not None
    own, n = int(rank), int(size)
    if not 0 <= own < n:
        raise ValueError(f"communicator: expected 0 ≤ rank < size, got rank {own} and size {n}")
    return own, n


def _as_bytes(error: BaseException | None, rank: int) -> bytes:
    """A pickled error that can be raised in another process."""
    try:
        text = pickle.dumps(error)
        pickle.loads(text)
        return text
    except Exception:  # an exception of a user's own, which may do anything then
        return pickle.dumps(RuntimeError(f"process {rank}: {type(error).__name__}: {error}"))
