# SPDX-License-Identifier: BSD-3-Clause
"""What the benches share: imports from this folder, the peak, and what is written beside each timing.

    pytest bench                        timings, in groups
    pytest bench --benchmark-disable    only the checks of results, each once
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parent))

import machine


@pytest.fixture
def single_threaded() -> Iterator[None]:
    """BLAS at one thread."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture
def record(benchmark: Any) -> Callable[..., None]:
    """Writes multiplications, Gflop/s and share of the peak into `extra_info`, after the timing."""

    def write(multiplications: int, n_threads: int = 1, **more: Any) -> None:
        benchmark.extra_info.update(multiplications=multiplications, threads=n_threads, **more)
        if benchmark.stats is None:  # --benchmark-disable
            return
        gflops = 2 * multiplications / benchmark.stats.stats.median / 1e9
        peak = machine.fma_peak(n_threads)
        benchmark.extra_info["gflops"] = round(gflops, 3)
        benchmark.extra_info["share_of_peak"] = None if peak is None else round(gflops / peak, 4)

    return write


def pytest_report_header() -> list[str]:
    return machine.describe().splitlines()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """pytest-benchmark's table has no column for `extra_info`."""
    session = getattr(config, "_benchmarksession", None)
    for b in getattr(session, "benchmarks", []):
        if "share_of_dense_epoch" in b.extra_info:
            terminalreporter.write_line(
                f"{b.name}: {b.extra_info['seconds_of_the_switch']:.3f} s, "
                f"{100 * b.extra_info['share_of_dense_epoch']:.1f} % of a dense epoch"
            )
    rows = [b for b in getattr(session, "benchmarks", []) if "gflops" in b.extra_info]
    if not rows:
        return
    terminalreporter.section("multiplications")
    width = max(len(b.name) for b in rows)
    for b in rows:
        info = b.extra_info
        share = info["share_of_peak"]
        terminalreporter.write_line(
            f"{b.name:<{width}}  {info['multiplications']:>15,}  {info['gflops']:>8.1f} Gflop/s"
            + ("" if share is None else f"  {100 * share:>5.1f} % of peak")
        )
