# SPDX-License-Identifier: BSD-3-Clause
"""Training over several processes: the communicator that `train` takes, and the expected speedup.

The transport is MPI through mpi4py (the extra `mpi`), which is imported only when `mpi` is called.
Elsewhere: the messages between processes (training/team.py), and how a step is shared out
(training/shared.py).
"""

from __future__ import annotations

import os
import stat
import sys
import time
import traceback
from types import TracebackType
from typing import Any, Protocol

from numpy.typing import NDArray

from svdfast._process.checks import count, positive_number
from svdfast.model.counting import count_multiplications
from svdfast.model.network import Network

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None  # type: ignore[assignment]

__all__ = ["Communicator", "expected_speedup", "mpi"]

_INTERRUPTED = 130

# Most errors come in all processes. Process 0 has so many seconds to print them and end the others.
PATIENCE = 3.0

# Seconds that the launcher has to read the output.
READING = 2.0


class Communicator(Protocol):
    """The interface to the processes that train together, as `train` needs it.

    It has two attributes and two collective methods, which all processes call in the same order. A
    communicator may also have `abort(error)`, which ends all processes when this one fails alone,
    and `n_threads`, the threads that this process should use.

    Attributes
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Number of processes.
    """

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...

    def sum(self, buffer: NDArray[Any], /) -> None:
        """Replaces a vector of float32 or float64 by its sum over all processes, in place.

        The result must be bit-identical in all processes.
        """

    def broadcast(self, buffer: NDArray[Any], /) -> None:
        """Replaces a vector by that of process 0, in place."""


class _Mpi:
    """The processes of an MPI communicator."""

    def __init__(self, comm: Any, constants: Any):
        self._comm, self._mpi, self._in_place = comm, constants, constants.IN_PLACE
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        node = comm.Split_type(constants.COMM_TYPE_SHARED)
        try:
            own = _cpus()
            others = node.allgather(own)
        finally:
            node.Free()
        # Processes that the launcher has bound to separate CPUs do not share them.
        sharing = sum(bool(own & other) for other in others)
        self.n_threads = max(1, len(own) // max(1, sharing))

    def sum(self, buffer: NDArray[Any]) -> None:
        self._comm.Allreduce(self._in_place, buffer)

    def broadcast(self, buffer: NDArray[Any]) -> None:
        self._comm.Bcast(buffer)

    def abort(self, error: BaseException) -> None:
        """Prints the error, which no caller can handle any more, and ends all processes."""
        if isinstance(error, KeyboardInterrupt):
            print("KeyboardInterrupt", file=sys.stderr, flush=True)
            self.end(_INTERRUPTED)
        print(f"Process {self.rank} of {self.size} failed:", file=sys.stderr)
        traceback.print_exception(error)
        self.end(1)

    def end(self, status: int) -> None:
        """Ends all processes with this exit status and no message."""
        sys.stdout.flush()
        sys.stderr.flush()
        _let_launcher_read()
        self._comm.Abort(status)
        os._exit(status)  # MPICH's Abort returns

    def end_with_errors(self) -> None:
        """Makes an exception that ends this process end the others, too.

        They would wait for it for ever.
        """
        if self.size == 1 or getattr(sys.excepthook, "ends_all", False):
            return
        before = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            if self._mpi.Is_finalized():
                before(kind, error, trace)
                return
            if self.rank > 0:
                time.sleep(PATIENCE)
            before(kind, error, trace)
            self.end(_INTERRUPTED if issubclass(kind, KeyboardInterrupt) else 1)

        hook.ends_all = True  # type: ignore[attr-defined]
        sys.excepthook = hook

    def __repr__(self) -> str:
        return f"<MPI, process {self.rank} of {self.size}>"

    # scikit-learn copies the parameters of its estimators.
    def __copy__(self) -> _Mpi:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Mpi:
        return self

    def __reduce__(self) -> Any:
        # All processes would have to call the constructor, but only one may load it.
        raise TypeError("communicator: expected none in what is pickled, as its processes end with their job")


def _let_launcher_read() -> None:
    """Waits until the launcher has read the output.

    An aborting launcher reads nothing more, and the message of the error would be lost.
    """
    if fcntl is None:
        time.sleep(0.1)
        return
    deadline = time.monotonic() + READING
    for descriptor in (1, 2):
        try:
            while _unread(descriptor) and time.monotonic() < deadline:
                time.sleep(0.005)
        except OSError:  # it is closed
            continue


def _unread(descriptor: int) -> int:
    """The number of bytes in a pipe that its reader has not read."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return 0
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


def _cpus() -> set[int]:
    """The CPUs that this process may run on."""
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # not on macOS, nor Windows
        return set(range(os.cpu_count() or 1))


def mpi(comm: Any = None) -> _Mpi:
    """The processes that `mpiexec` has started, as a communicator for `train`.

    All processes of `comm` must call this. From then on an exception that one process does not handle
    ends all of them, within seconds.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        The processes; by default all of them, `MPI.COMM_WORLD`.

    Returns
    -------
    Communicator
        Its `n_threads` is the number of CPUs that this process may use, divided by the number of
        processes on the node that share them.

    Raises
    ------
    ImportError
        mpi4py is not installed, or finds no MPI library.
    TypeError
        `comm` is not a communicator of mpi4py.

    Examples
    --------
    >>> import svdfast as sf
    >>> communicator = sf.distributed.mpi()  # doctest: +SKIP
    >>> result = sf.train(net, X, y, communicator=communicator)  # doctest: +SKIP
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: it found no MPI library
        raise ImportError(
            f'svdfast.distributed.mpi needs mpi4py and an MPI library ({error}): pip install "svdfast[mpi]" mpich'
        ) from None
    if comm is None:
        comm = MPI.COMM_WORLD
    if not isinstance(comm, MPI.Intracomm):
        raise TypeError(f"comm: expected an mpi4py.MPI.Intracomm or None, got {type(comm).__name__}")
    communicator = _Mpi(comm, MPI)
    communicator.end_with_errors()
    return communicator


def expected_speedup(
    net: Network, batch_size: int, n_processes: int, flops: float, bandwidth: float, latency: float
) -> float:
    """The expected speedup of a step with so many processes over one process.

    A step of b rows takes 2·M·b / flops seconds, where M is the multiplications of a step for one
    row. Each of P processes has ⌈b/P⌉ rows. The sum of a gradient of B bytes then takes
    2·(P−1)/P·B / bandwidth + 2·⌈log₂ P⌉·latency seconds.

    Parameters
    ----------
    net : Network
        Network in its current form, dense or factored.
    batch_size : int
        Rows of a batch, of all processes together.
    n_processes : int
        P, one process on each node.
    flops : float
        Operations a second of one process; a multiplication and an addition are two.
    bandwidth : float
        Bytes a second that a node can send and receive at the same time.
    latency : float
        Seconds that a short message takes.

    Returns
    -------
    float
        At most `n_processes`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of its range.

    Notes
    -----
    The formula leaves out the time of the update, of reading, and of waiting for slower processes.
    It assumes that the sum overlaps with nothing, as in `train`.

    Examples
    --------
    >>> import svdfast as sf
    >>> net = sf.Network([784, 512, 256, 10], seed=0)
    >>> gigabit = dict(flops=180e9, bandwidth=125e6, latency=50e-6)
    >>> round(sf.distributed.expected_speedup(net, 65536, 16, **gigabit), 1)
    10.0
    """
    if not isinstance(net, Network):
        raise TypeError(f"net: expected a Network, got {type(net).__name__}")
    # Integers up to here are floats without rounding.
    batch_size, n = (
        count(name, value, maximum=2**53) for name, value in (("batch_size", batch_size), ("n_processes", n_processes))
    )
    flops = positive_number("flops", flops)
    bandwidth = positive_number("bandwidth", bandwidth)
    latency = positive_number("latency", latency, or_zero=True)
    n_bytes = net.parameters.nbytes + 3 * net.dtype.itemsize
    summing = 2 * (n - 1) / n * n_bytes / bandwidth + 2 * (n - 1).bit_length() * latency
    # The unit is the time of a row, as seconds may be too small or too large for a float.
    summing_rows = summing / (2 * count_multiplications(net).total) * flops
    return batch_size / (-(-batch_size // n) + summing_rows)
