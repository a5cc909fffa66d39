# SPDX-License-Identifier: BSD-3-Clause
"""Shared code of the benches: imports from this folder, the peak, and figures for each timing.

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


@pytest.fixture
def record_bytes(benchmark: Any) -> Callable[..., None]:
    """Writes bytes moved, GB/s and share of the memory's bandwidth into `extra_info`, after the timing."""

    def write(n_bytes: int, bandwidth: float | None, **more: Any) -> None:
        benchmark.extra_info.update(bytes=n_bytes, **more)
        if benchmark.stats is None:  # --benchmark-disable
            return
        speed = n_bytes / benchmark.stats.stats.median / 1e9
        benchmark.extra_info["gigabytes_per_second"] = round(speed, 3)
        benchmark.extra_info["share_of_bandwidth"] = (
            None if bandwidth is None else round(speed / bandwidth, 4)
        )

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
    for title, count, speed, unit, share, whole in (
        ("multiplications", "multiplications", "gflops", "Gflop/s", "share_of_peak", "peak"),
        ("bytes moved", "bytes", "gigabytes_per_second", "GB/s", "share_of_bandwidth", "a triad's"),
    ):
        rows = [b for b in getattr(session, "benchmarks", []) if speed in b.extra_info]
        if not rows:
            continue
        terminalreporter.section(title)
        width = max(len(b.name) for b in rows)
        for b in rows:
            info = b.extra_info
            terminalreporter.write_line(
                f"{b.name:<{width}}  {info[count]:>15,}  {info[speed]:>8.1f} {unit}"
                + ("" if info[share] is None else f"  {100 * info[share]:>5.1f} % of {whole}")
            )
