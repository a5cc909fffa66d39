# SPDX-License-Identifier: BSD-3-Clause
"""Times the parts of training steps for the benches: products, loops, gather, update.

It is private, and does not measure wall time: the caller works out the rest (waiting, the engine's
own work, Python's). The clocks are in src/platform/timing.h. Outside `timed` they cost a branch for
each product, and nothing in the loops.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from svdfast._blas import measure as measure_products
from svdfast._blas import measured as measured_products
from svdfast._elementwise import measure as measure_loops
from svdfast._elementwise import measured as measured_loops

__all__ = ["Times", "timed"]

_one_at_a_time = threading.Lock()
_timing_thread = 0


@dataclass
class Times:
    """Seconds summed over threads, and floating point operations of products, 2·m·n·k each.

    `timed` fills it when it ends.
    """

    products: float = 0.0
    elementwise: float = 0.0
    gather: float = 0.0
    update: float = 0.0
    operations: int = 0


@contextmanager
def timed() -> Iterator[Times]:
    """A context that times this process's training. Only one training may run at a time.

    The sums are by a thread's number in its team.

    Raises
    ------
    RuntimeError
        Another `timed` is active.
    """
    if not _one_at_a_time.acquire(blocking=False):
        raise RuntimeError("timed: something is being timed already")
    global _timing_thread
    _timing_thread = threading.get_ident()
    try:
        times = Times()
        measure_products(True)
        measure_loops(True)
        try:
            yield times
        finally:
            measure_products(False)
            measure_loops(False)
            times.products, times.operations = measured_products()
            times.elementwise, times.gather, times.update = measured_loops()
    finally:
        _one_at_a_time.release()


def _in_child() -> None:
    """Resets the timing, as a timing of another thread does not end in a child."""
    if _one_at_a_time.locked() and _timing_thread != threading.get_ident():
        measure_products(False)
        measure_loops(False)
        _one_at_a_time.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_in_child)
