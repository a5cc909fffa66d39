# SPDX-License-Identifier: BSD-3-Clause
"""Matrix products at the shapes of a tile: float32 by BLAS and by svdfast, and bfloat16.

    python bench/products.py [--rows 256] [--rounds N] [--quick]

The products alternate and use one thread. Operands are float32 in all cases, so the time includes
rounding and packing. Speeds are Gflop/s; ratios are taken round by round. Whole layers are in
pairs.py, and the products of a step in roofline.py --products.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import machine
import numpy as np

from svdfast import _blas
from svdfast._process.runtime import single_threaded_blas

# Inputs and outputs of layers, and of the two products of a factored layer of rank 128.
LAYERS = [(784, 512), (512, 256), (784, 128), (128, 512), (128, 128), (1024, 1024), (2048, 2048)]


def works(m: int, n: int, rows: int) -> list[tuple[str, Callable[[bool], None]]]:
    """The three products of a dense layer from m to n."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    X, W, Z, dX, dW = normal(rows, m), normal(n, m), normal(rows, n), normal(rows, m), normal(n, m)
    return [
        ("X·Wᵀ", lambda bfloat16: _blas.multiply(X, W, Z, False, True, False, bfloat16)),
        ("∂Z·W", lambda bfloat16: _blas.multiply(Z, W, dX, False, False, False, bfloat16)),
        ("+= ∂Zᵀ·X", lambda bfloat16: _blas.multiply(Z, X, dW, True, False, True, bfloat16)),
    ]


def seconds(work: Callable[[bool], None], bfloat16: bool, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        work(bfloat16)
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="one round: only a check")
    arguments = parser.parse_args()
    n_rounds = 1 if arguments.quick else arguments.rounds
    own = _blas.float32_products() == "svdfast"
    print(machine.describe(), f"\n\n{arguments.rows} rows, one thread; bfloat16 by {_blas.bfloat16_products()}; Gflop/s")
    print(f"{'layer':<10} {'product':<9} {'BLAS':>6} {'svdfast':>8} {'bfloat16':>9} {'ratio':>6}")
    with single_threaded_blas.held():
        for m, n in LAYERS:
            for what, work in works(m, n, arguments.rows):
                flops = 2.0 * arguments.rows * m * n
                times = 1 if arguments.quick else max(1, int(2e8 / flops))
                taken: dict[str, list[float]] = {"BLAS": [], "svdfast": [], "bfloat16": []}
                try:
                    for _ in range(n_rounds + 1):
                        _blas.use_own_products(False)
                        taken["BLAS"].append(seconds(work, False, times))
                        _blas.use_own_products(own)
                        taken["svdfast"].append(seconds(work, False, times))
                        taken["bfloat16"].append(seconds(work, True, times))
                finally:
                    _blas.use_own_products(own)
                # The first round is for warming up.
                speed = {name: flops / statistics.median(values[1:]) / 1e9 for name, values in taken.items()}
                ratio = statistics.median(
                    min(a, b) / c for a, b, c in zip(taken["BLAS"][1:], taken["svdfast"][1:], taken["bfloat16"][1:], strict=True)
                )
                print(
                    f"{f'{m}-{n}':<10} {what:<9} {speed['BLAS']:>6.0f} {speed['svdfast']:>8.0f} {speed['bfloat16']:>9.0f} {ratio:>6.2f}",
                    flush=True,
                )
    print("ratio: bfloat16 against the faster of the two of float32, in the same round")
    for precision in ("float32", "bfloat16"):
        peak = machine.fma_peak(1, bfloat16=precision == "bfloat16")
        if peak is not None:
            print(f"peak of {precision}: {peak:.0f} Gflop/s")


if __name__ == "__main__":
    main()
