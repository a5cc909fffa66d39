# SPDX-License-Identifier: BSD-3-Clause
"""A factored layer's compiled kernels beside plain BLAS products of the same shapes, alternating.

    python bench/pairs.py [--rounds N] [--quick]

Shapes are those of the grid of test_bench_kernels.py. Forward is two products with bias and ReLU;
backward is four products with ReLU's derivative and the bias's gradient. The other side is only
`sgemm` of scipy.linalg.cython_blas at the same shapes. A ratio below 1 means that the kernel, with
everything else that it does, takes less time. Both sides are called as compiled functions with
arrays. The time of the checks in `svdfast.kernels`, which does not depend on size, is printed at
the end. One thread is used. Shares of the peak and dense kernels are in test_bench_kernels.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import machine
from test_bench_kernels import LAYERS, Arrays, P, ranks

import svdfast as sf
from svdfast import _blas, cython_kernels
from svdfast._process.runtime import single_threaded_blas


def seconds(work: Callable[[], None], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times


def compare_pair(kernel: Callable[[], None], products: Callable[[], None], n_rounds: int, times: int) -> tuple[float, float, float]:
    """Median seconds of both, and the median of their ratio round by round."""
    ours, plain = [], []
    own = _blas.float32_products() == "svdfast"
    try:
        for _ in range(n_rounds + 1):
            _blas.use_own_products(own)
            ours.append(seconds(kernel, times))
            _blas.use_own_products(False)
            plain.append(seconds(products, times))
    finally:
        _blas.use_own_products(own)
    ours, plain = ours[1:], plain[1:]  # the first round is for warm-up
    ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
    return statistics.median(ours), statistics.median(plain), ratio


def compiled(a: Arrays) -> tuple[Callable[[], None], Callable[[], None]]:
    """The layer's kernels without the checks of `svdfast.kernels`."""
    relu = sf.activations.relu()
    f = relu.code, relu.parameter, False
    b, db = a.b[None], a.db[None]
    dZ = a.dA.copy()

    def forward() -> None:
        cython_kernels.run_factored_forward(a.X, a.W1, a.W2, b, a.H, a.A, a.A, *f)

    def backward() -> None:
        cython_kernels.run_factored_backward(a.X, a.H, a.W1, a.W2, a.A, a.A, dZ, a.D, a.dW1, a.dW2, db, a.dX, *f)

    forward()
    return forward, backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="one round: only a check")
    arguments = parser.parse_args()
    n_rounds, times = (1, 1) if arguments.quick else (arguments.rounds, 10)
    print(machine.describe(), f"\n\n{P} rows, float32, one thread; seconds in µs")
    print(f"{'layer':<10} {'rank':>5} {'break-even':>10} {'pass':<9} {'kernel':>8} {'products':>9} {'ratio':>6}")
    worst = 0.0
    with single_threaded_blas.held():
        for m, n in LAYERS:
            for l in ranks(m, n):  # noqa: E741
                if l is None:
                    continue
                arrays = Arrays(m, n, l)
                forward, backward = compiled(arrays)
                for name, kernel, products in (
                    ("forward", forward, arrays.forward_products),
                    ("backward", backward, arrays.backward_products),
                ):
                    ours, plain, ratio = compare_pair(kernel, products, n_rounds, times)
                    worst = max(worst, ratio)
                    print(
                        f"{m}-{n:<6} {l:>5} {sf.break_even_rank(m, n):>10} {name:<9} {1e6 * ours:>8.0f} {1e6 * plain:>9.0f} {ratio:>6.2f}",
                        flush=True,
                    )
        arrays = Arrays(4, 4, 1)
        checked = compare_pair(arrays.forward, compiled(arrays)[0], n_rounds, 100 * times)
    print(f"largest ratio {worst:.2f}; a call of svdfast.kernels.factored_forward takes {1e6 * (checked[0] - checked[1]):.0f} µs more")


if __name__ == "__main__":
    main()
