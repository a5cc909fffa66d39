# SPDX-License-Identifier: BSD-3-Clause
"""The process around the core: the kernels of SciPy's BLAS, and the number of threads.

Every change made here is undone: an environment variable is set only while a library loads, and
BLAS's number of threads only while a training runs. config.py shows the findings.

The reason: OpenBLAS chooses its kernels once, when it is loaded. On some CPUs with AVX-512 (AMD's
Zen 5) it chooses its AVX2 kernels, at half the speed (OpenMathLib/OpenBLAS#6029). NumPy's copy,
which is loaded before, shows the kernels that SciPy's copy would choose.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np  # loads NumPy's BLAS, which is inspected, too
from numpy.typing import DTypeLike
from threadpoolctl import ThreadpoolController

logger = logging.getLogger("svdfast")

# OpenBLAS's names for its AVX-512 kernels.
WIDE_KERNELS = frozenset({"SkylakeX", "Cooperlake", "SapphireRapids"})
ADVICE = (
    "SciPy's OpenBLAS runs its {architecture} kernels although this CPU has AVX-512, at about half the speed. "
    "Import svdfast before scipy, or set OPENBLAS_CORETYPE=SkylakeX before Python starts."
)


def loaded_blas() -> list[dict[str, Any]]:
    """The info of threadpoolctl about each BLAS in the process."""
    return list(ThreadpoolController().select(user_api="blas").info())


def is_scipys(library: Mapping[str, Any]) -> bool:
    """True if a library of `loaded_blas` belongs to SciPy, not to NumPy."""
    path = str(library.get("filepath", "")).replace("\\", "/")
    return "/scipy.libs/" in path or "/scipy/" in path


def is_narrow(library: Mapping[str, Any]) -> bool:
    """True for an OpenBLAS without AVX-512 kernels on a CPU with AVX-512."""
    from svdfast._elementwise import available_instruction_sets

    return (
        library.get("internal_api") == "openblas"
        and "avx512" in available_instruction_sets()
        and library.get("architecture") not in WIDE_KERNELS
    )


def _load_scipys_blas() -> None:
    before = loaded_blas()
    already = any(is_scipys(library) for library in before)
    ask = (
        not already
        and os.environ.get("SVDFAST_KEEP_BLAS", "") in ("", "0")
        and "OPENBLAS_CORETYPE" not in os.environ
        and any(is_narrow(library) for library in before)
    )
    if ask:
        os.environ["OPENBLAS_CORETYPE"] = "SkylakeX"
    try:
        importlib.import_module("scipy.linalg.cython_blas")
    finally:
        if ask:
            del os.environ["OPENBLAS_CORETYPE"]
    if already and os.environ.get("SVDFAST_KEEP_BLAS", "") in ("", "0"):
        for library in before:
            if is_scipys(library) and is_narrow(library):
                logger.warning(ADVICE.format(architecture=library.get("architecture")))


_load_scipys_blas()


class _SingleThreadedBlas:
    """Holds BLAS at one thread while any training or prediction runs, then restores its threads.

    threadpoolctl lets only one Python thread at a time set OpenBLAS's threads. That suits a limit
    that a `with` block ends, but here the last thread to leave may not be the first that came. So
    OpenBLAS's threads are set directly.
    """

    def __init__(self) -> None:
        # The lock is held while the process forks, so that a child finds it free. It is reentrant,
        # as a signal's handler may train.
        self._lock = threading.RLock()
        self._users: dict[object, int] = {}  # the thread of each `with` block that holds it
        self._libraries: list[Any] | None = None
        self._before: list[int] | None = None  # the numbers of threads to restore

    def _set(self, numbers: list[int]) -> None:
        assert self._libraries is not None
        for library, number in zip(self._libraries, numbers, strict=True):
            getattr(library, "_real_set_num_threads", library.set_num_threads)(number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A context with BLAS at one thread."""
        user = object()
        try:
            self._enter(user)
            yield
        finally:
            try:
                self._leave(user)
            except KeyboardInterrupt:  # it came just then
                self._leave(user)
                raise

    def _enter(self, user: object) -> None:
        with self._lock:
            if self._libraries is None:
                # Libraries are looked up once, which takes 1 ms; setting their threads takes 10 µs.
                self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
            self._users[user] = threading.get_ident()
            if self._before is None:
                before = [library.get_num_threads() for library in self._libraries]
                self._before = before
                self._set([1] * len(before))

    def _leave(self, user: object) -> None:
        with self._lock:
            self._users.pop(user, None)
            self._give_back()

    def _give_back(self) -> None:
        if not self._users and self._before is not None:
            self._set(self._before)
            self._before = None

    def register_at_fork(self) -> None:
        """Keeps a child of this process from waiting for threads that it does not have."""
        if hasattr(os, "register_at_fork"):  # not on Windows
            lock = self._lock
            os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=self._in_child)

    def _in_child(self) -> None:
        try:
            me = threading.get_ident()
            self._users = {user: thread for user, thread in self._users.items() if thread == me}
            self._give_back()
        finally:
            self._lock.release()


single_threaded_blas: _SingleThreadedBlas = _SingleThreadedBlas()
single_threaded_blas.register_at_fork()


_said_emulated = False
_said_forked = False


def resolve_precision(precision: str | None, dtype: DTypeLike) -> bool:
    """True if operands of products are to be rounded to bfloat16; None is the dtype itself.

    If the CPU has no instructions for it, a warning is logged the first time.
    """
    from svdfast._blas import bfloat16_products

    global _said_emulated
    own = np.dtype(dtype).name
    if precision is None:
        return False
    if not isinstance(precision, str):
        raise TypeError(f"precision: expected a name or None, got {precision!r}")
    if precision == own:
        return False
    if precision != "bfloat16":
        names = f"{own} or bfloat16" if own == "float32" else own
        raise ValueError(f"precision: expected {names} for {own} arrays, got {precision!r}")
    if own != "float32":
        raise ValueError(f"precision: bfloat16 is for arrays and networks of float32, these are {own}")
    if bfloat16_products() == "emulated" and not _said_emulated:
        _said_emulated = True
        logger.warning(
            "bfloat16 products are emulated, which is slower than float32: this CPU or this build has no instructions for them, or "
            "SVDFAST_PRODUCTS gives all products to BLAS"
        )
    return True


def resolve_threads(n_threads: int | None, most: int | None = None) -> int:
    """The number of threads: the requested one, or OpenMP's within this process's CPUs and `most`.

    A forked process has one thread, which does the shares of all threads one after the other; a
    warning is logged once.
    """
    from svdfast._engine import HAS_OPENMP, is_forked, max_threads
    from svdfast._process.checks import count

    global _said_forked
    if not HAS_OPENMP:
        if n_threads is not None:
            count("n_threads", n_threads, maximum=1024)
        return 1
    if n_threads is None:
        try:
            available = len(os.sched_getaffinity(0))
        except AttributeError:  # not on macOS, nor Windows
            available = os.cpu_count() or 1
        n_threads = max(1, min(int(max_threads()), available, available if most is None else most))
    else:
        n_threads = count("n_threads", n_threads, maximum=1024)
    if n_threads > 1 and is_forked() and not _said_forked:
        _said_forked = True
        logger.warning(
            "this process was forked from one that had svdfast loaded, and so runs in one thread, with the results of %d: "
            "start processes by spawn or forkserver for more, or ask for n_threads=1",
            n_threads,
        )
    return n_threads
