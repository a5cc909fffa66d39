# SPDX-License-Identifier: BSD-3-Clause
"""The machine and its peaks: every bench prints a description and divides by the peaks.

    python bench/machine.py [--threads 1 2]

The peaks come from a few C loops, which are compiled when they are first needed. Without a C
compiler the peaks are None, and the benches omit shares of the peak. The speed of svdfast is
measured in compare.py and test_bench_*.py.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np

import svdfast as sf

# Twelve independent sums of as many floats as a register holds: enough of them that each multiply-add finds its operands ready.
# Each element tends to 1, so nothing overflows, nor is a denormal.
LOOPS = r"""
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define START(i) vector s##i = (vector) {0} + i;
#define STEP(i) s##i = s##i * x + y;
#define ADD(i) x += s##i;

#define VARIANT(name, bytes, target)                                                              \
    target static double fma_##name(long n, float factor) {                                       \
        typedef float vector __attribute__((vector_size(bytes)));                                 \
        vector x = (vector) {0} + factor, y = (vector) {0} + (1 - factor);                        \
        float total = 0;                                                                          \
        EACH(START)                                                                               \
        for (long i = 0; i < n; i++) { EACH(STEP) }                                               \
        EACH(ADD)                                                                                 \
        for (unsigned i = 0; i < bytes / sizeof(float); i++) total += x[i];                       \
        kept = total;                                                                             \
        return 2.0 * 12 * (bytes / sizeof(float)) * n;                                            \
    }                                                                                             \
    target static void triad_##name(long n, long times, float* restrict a,                        \
                                    const float* restrict b, const float* restrict c, float s) {  \
        for (long t = 0; t < times; t++) {                                                        \
            for (long i = 0; i < n; i++) a[i] = b[i] + s * c[i];                                  \
            __asm__ volatile("" ::: "memory");                                                    \
        }                                                                                         \
    }

static volatile float kept;
VARIANT(baseline, 16, )

#if defined(__x86_64__)
VARIANT(avx2, 32, __attribute__((target("avx2,fma"))))
VARIANT(avx512, 64, __attribute__((target("avx512f,fma,prefer-vector-width=512"))))

static int best(void) {
    if (__builtin_cpu_supports("avx512f")) return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
}
#define CHOOSE(f, ...) (best() == 2 ? f##_avx512(__VA_ARGS__) \
                        : best() == 1 ? f##_avx2(__VA_ARGS__) : f##_baseline(__VA_ARGS__))
#else
#define CHOOSE(f, ...) f##_baseline(__VA_ARGS__)
#endif

/* Returns the number of floating point operations done. */
double fma(long n, float factor) { return CHOOSE(fma, n, factor); }

/* The same of two products of bfloat16 at a time, each counted as two operations, added to floats; 0 where the CPU has none. */
#if defined(__x86_64__) && ((defined(__clang__) && __clang_major__ >= 11) || (!defined(__clang__) && __GNUC__ >= 10))
#include <immintrin.h>
#define START_PAIRS(i) __m512 s##i = _mm512_set1_ps(i);
#define STEP_PAIRS(i) s##i = _mm512_dpbf16_ps(s##i, x, y);
#define ADD_PAIRS(i) total = _mm512_add_ps(total, s##i);
__attribute__((target("avx512bf16,avx512f,prefer-vector-width=512"))) static double pairs(long n, float factor) {
    const __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(factor), _mm512_set1_ps(factor)), y = x;
    __m512 total = _mm512_setzero_ps();
    EACH(START_PAIRS)
    for (long i = 0; i < n; i++) { EACH(STEP_PAIRS) }
    EACH(ADD_PAIRS)
    kept = _mm512_reduce_add_ps(total);
    return 4.0 * 12 * 16 * n;
}
double fma_bfloat16(long n, float factor) {
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512f") ? pairs(n, factor) : 0;
}
#else
double fma_bfloat16(long n, float factor) { return 0 * n * factor; }
#endif

void triad(long n, long times, float* a, const float* b, const float* c, float s) {
    CHOOSE(triad, n, times, a, b, c, s);
}
"""

FLAGS = ["-O3", "-shared", "-fPIC", "-fno-math-errno", "-fno-builtin", "-ffp-contract=fast"]


def _compilers() -> list[list[str]]:
    """Commands that may be a C compiler: the user's, the one that built Python, the usual names."""
    named = [os.environ.get("CC", ""), sysconfig.get_config_var("CC") or "", "cc", "gcc", "clang"]
    commands = [shlex.split(name) for name in named]
    return [command for command in commands if command and shutil.which(command[0])]


@lru_cache(maxsize=1)
def _loops() -> ctypes.CDLL | None:
    """The compiled loops; None, with one message, if they can't be compiled."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        source, library = Path(folder, "loops.c"), Path(folder, "loops.so")
        source.write_text(LOOPS)
        for command in _compilers():
            done = subprocess.run(
                [*command, *FLAGS, "-o", str(library), str(source)], capture_output=True
            )
            if done.returncode == 0:
                loops = ctypes.CDLL(str(library))
                break
        else:
            print("No C compiler that can build the loops: peaks are not measured.")
            return None
    for loop in (loops.fma, loops.fma_bfloat16):
        loop.restype = ctypes.c_double
        loop.argtypes = [ctypes.c_long, ctypes.c_float]
    loops.triad.restype = None
    loops.triad.argtypes = [ctypes.c_long] * 2 + [ctypes.c_void_p] * 3 + [ctypes.c_float]
    return loops


def together(n_threads: int, work: Callable[[int], None]) -> float:
    """Seconds that work(0) .. work(n_threads - 1) take at the same time, from the first start to the last end."""
    times: list[tuple[float, float]] = []
    barrier = threading.Barrier(n_threads)

    def run(index: int) -> None:
        barrier.wait()
        start = time.perf_counter()
        work(index)
        times.append((start, time.perf_counter()))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(end for _, end in times) - min(start for start, _ in times)


@lru_cache
def fma_peak(
    n_threads: int = 1, *, bfloat16: bool = False, seconds: float = 0.02, repeats: int = 10
) -> float | None:
    """The best Gflop/s of multiply-adds in registers alone, each counted as two.

    Parameters
    ----------
    n_threads : int
    bfloat16 : bool
        If True, multiply bfloat16 numbers and add to float32 ones, by the instruction for it. If
        False, use float32.
    seconds : float
        Approximate time of a run.
    repeats : int
        Number of runs; the fastest counts.

    Returns
    -------
    float or None
        None without a C compiler, or without that instruction.
    """
    loops = _loops()
    loop = loops and (loops.fma_bfloat16 if bfloat16 else loops.fma)
    if loop is None or loop(1, 0.999) == 0:
        return None

    def run(n: int, n_threads: int) -> float:
        return together(n_threads, lambda _: loop(n, 0.999))

    n = 10_000
    while (took := run(n, 1)) < seconds / 4:
        n *= 2
    n = max(1, int(n * seconds / took))
    best = min(run(n, n_threads) for _ in range(repeats))
    return float(n_threads * loop(n, 0.999) / best / 1e9)


@lru_cache
def memory_bandwidth(
    n_threads: int = 1, *, n_bytes: int = 384 * 2**20, repeats: int = 7
) -> float | None:
    """The best GB/s of a triad, a = b + s·c, over float32 arrays: two read, one written.

    As in STREAM, the cache line that a write fetches first is not counted.

    Parameters
    ----------
    n_threads : int
    n_bytes : int
        Size of all threads' three arrays together. The default exceeds most caches; a small size
        measures a cache.
    repeats : int
        Number of runs; the fastest counts.

    Returns
    -------
    float or None
        None without a C compiler.
    """
    loops = _loops()
    if loops is None:
        return None
    n = max(1, n_bytes // (3 * 4 * n_threads))
    # Small arrays are read again until a timer can measure it.
    times = max(1, 100_000_000 // n_bytes)
    arrays = [np.ones((3, n), dtype=np.float32) for _ in range(n_threads)]

    def work(index: int) -> None:
        a, b, c = (row.ctypes.data for row in arrays[index])
        loops.triad(n, times, a, b, c, 0.5)

    best = min(together(n_threads, work) for _ in range(repeats))
    return 12 * n * times * n_threads / best / 1e9


def available_cpus() -> list[int]:
    """The CPUs that this process may run on."""
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows lack it
        return list(range(os.cpu_count() or 1))


def _n_cores() -> int | None:
    """Number of cores; None if the system does not report it.

    Two or more CPUs may be hardware threads of one core.
    """
    folder = Path("/sys/devices/system/cpu")
    try:
        return len({file.read_text() for file in folder.glob("cpu[0-9]*/topology/core_cpus")}) or None
    except OSError:
        return None


def _caches() -> str:
    """The caches that the first CPU sees."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return ", ".join(found) or "unknown"


def version(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe(peers: Sequence[str] = ()) -> str:
    """Lines of text: CPU, cores, caches, svdfast's choices and findings, versions.

    Versions include those of `peers`.
    """
    lines = [str(sf.show_config())]
    for peer in peers:
        lines.append(f"{'':<18} {peer} {version(peer) or '(not installed)'}")
    cores = _n_cores()
    lines.append(
        f"{'cpus':<18} {len(available_cpus())} of {os.cpu_count()} to be used"
        + (f", {cores} cores" if cores else "")
    )
    lines.append(f"{'caches':<18} {_caches()}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="*", default=sorted({1, len(available_cpus())}))
    arguments = parser.parse_args()
    print(describe())
    for n_threads in arguments.threads:
        peak, bandwidth = fma_peak(n_threads), memory_bandwidth(n_threads)
        if peak is not None and bandwidth is not None:
            key = f"{n_threads} thread" + ("s" if n_threads > 1 else "")
            rounded = fma_peak(n_threads, bfloat16=True)
            print(
                f"{key:<18} {peak:.0f} Gflop/s float32, "
                + (f"{rounded:.0f} Gflop/s bfloat16, " if rounded else "")
                + f"{bandwidth:.1f} GB/s"
            )


if __name__ == "__main__":
    main()
