# SPDX-License-Identifier: BSD-3-Clause
"""A communicator over threads in place of processes, for tests. No tests here.

Sums are in the order of the ranks, unless `mixed`: then in another order for each call, as an MPI library may have it.
"""

import random
import threading

import numpy as np


class Broken(RuntimeError):
    """Another thread has failed."""


class Threads:
    """What the communicators of one group share."""

    def __init__(self, size, mixed=False):
        self.size, self.mixed = size, mixed
        self.barrier = threading.Barrier(size, timeout=60)
        self.buffers = [None] * size
        self.result = None
        self.order = random.Random(0)
        self.lengths = []  # of the vectors that were summed, and bytes of a number

    def turn(self, rank, buffer, work):
        """Work is done by one thread once all buffers are there."""
        self.buffers[rank] = buffer
        try:
            if self.barrier.wait() == 0:
                self.result = work()
            self.barrier.wait()
            result = self.result
            self.barrier.wait()
        except threading.BrokenBarrierError:
            raise Broken("another process has failed") from None
        return result


class Communicator:
    def __init__(self, group, rank):
        self._group, self.rank, self.size = group, rank, group.size
        self.aborted = None

    def sum(self, buffer):
        group = self._group

        def work():
            kinds = {(b.shape, b.dtype) for b in group.buffers}
            assert len(kinds) == 1, f"processes sum other things: {kinds}"
            ranks = list(range(group.size))
            if group.mixed:
                group.order.shuffle(ranks)
            total = group.buffers[ranks[0]].copy()
            for rank in ranks[1:]:
                total += group.buffers[rank]
            return total

        assert buffer.dtype in (np.float32, np.float64) and buffer.flags.c_contiguous
        if self.rank == 0:
            group.lengths.append((buffer.size, buffer.itemsize))
        buffer[...] = group.turn(self.rank, buffer, work)

    def broadcast(self, buffer):
        group = self._group

        def work():
            kinds = {(b.shape, b.dtype) for b in group.buffers}
            assert len(kinds) == 1, f"processes broadcast other things: {kinds}"
            return group.buffers[0].copy()

        buffer[...] = group.turn(self.rank, buffer, work)

    def abort(self, error):
        self.aborted = error
        self._group.barrier.abort()


def together(size, work, *, mixed=False):
    """work(communicator) in `size` threads at once. Returns what each returned, or raised, and the group."""
    group = Threads(size, mixed)
    found = [None] * size

    def run(rank):
        try:
            found[rank] = work(Communicator(group, rank))
        except BaseException as error:
            found[rank] = error
            if not isinstance(error, Exception):
                raise

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive(), "a process hangs"
    return found, group
