# SPDX-License-Identifier: BSD-3-Clause
"""Time of the switch to factors as a share of a dense epoch, and of directions of wide layers.

    python bench/switch.py [--rounds N] [--threads N] [--quick]

The switch is `Network.truncate` with 2,048 samples, which finds directions and factors, and carries
Adam's moments over. It alternates with dense steps, so that a machine that slows down does so for
both; shares are taken round by round. The second part times only the directions of layers with many
inputs and 64 neurons. Samples are random numbers in [0, 1], in float32. The accuracy after
truncation is measured in accuracy.py.
"""

from __future__ import annotations

import argparse
import statistics
import time

import machine
import numpy as np

import svdfast as sf
from svdfast._process.runtime import single_threaded_blas
from svdfast.data.checks import checked_samples
from svdfast.model.evaluation import output_directions, spec_of
from svdfast.model.products import threads
from svdfast.training.moments import carry
from svdfast.training.run import Run
from svdfast.training.switch import DIRECTED

# Sizes, batch, samples of an epoch.
NETWORKS = (((784, 512, 256, 10), 256, 60_000), ((784, 2048, 2048, 10), 1024, 60_000))
WIDE = (12_000, 20_000)


def compare(
    sizes: tuple[int, ...], batch: int, rank_fraction: float, n_rounds: int, n_steps: int, n_threads: int
) -> list[tuple[float, float]]:
    """Seconds of a dense step and of the switch, for each round."""
    rng = np.random.default_rng(0)
    X = rng.random((max(DIRECTED, batch), sizes[0]), dtype=np.float32)
    y = rng.integers(0, sizes[-1], len(X))
    net = sf.Network(sizes, seed=0)
    run = Run(net, checked_samples(X, y, None, spec_of(net)), sf.Adam(), n_threads, batch, 0.0, 0.0)
    run.rebuild()
    found = []
    for _ in range(n_rounds + 1):
        with single_threaded_blas.held():
            start = time.perf_counter()
            for _ in range(n_steps):
                run.step(0, batch, 1e-4)
            step = (time.perf_counter() - start) / n_steps
        cut = net.copy()
        old, moments = cut.state, run.optimizer.moments
        start = time.perf_counter()
        with single_threaded_blas.held(), threads(n_threads):
            cut.truncate(rank_fraction, inputs=X[:DIRECTED])
            carry(run.optimizer.kinds, moments, old, cut.state)
        found.append((step, time.perf_counter() - start))
    return found[1:]  # the first round is for warming up


def directions(n_inputs: int, n_threads: int) -> float:
    """Seconds for the directions of 64 neurons' outputs."""
    net = sf.Network([n_inputs, 64, 10], seed=0)
    X = np.random.default_rng(0).random((DIRECTED, n_inputs), dtype=np.float32)
    start = time.perf_counter()
    output_directions(net, X, None, [16], n_threads=n_threads)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=len(machine.available_cpus()))
    parser.add_argument("--quick", action="store_true", help="one round: only a check")
    arguments = parser.parse_args()
    n_rounds, n_steps = (1, 1) if arguments.quick else (arguments.rounds, 10)
    print(machine.describe(), f"\n\n{arguments.threads} threads, medians of {n_rounds} rounds")
    print(f"{'network':<18} {'α':<5} {'dense epoch, s':>14} {'switch, ms':>11} {'share':>7}")
    for sizes, batch, n_samples in NETWORKS:
        steps = -(-n_samples // batch)
        for rank_fraction in (1 / 4, 1 / 8):
            pairs = compare(sizes, batch, rank_fraction, n_rounds, n_steps, arguments.threads)
            epoch, switch = (statistics.median(column) for column in zip(*pairs, strict=True))
            share = statistics.median(b / (steps * a) for a, b in pairs)
            name = "-".join(map(str, sizes))
            print(f"{name:<18} 1/{round(1 / rank_fraction):<3} {steps * epoch:>14.2f} {1e3 * switch:>11.1f} {share:>7.2%}", flush=True)
    for n_inputs in WIDE:
        taken = [directions(n_inputs, arguments.threads) for _ in range(n_rounds + 1)][1:]
        print(f"directions of {n_inputs} → 64: {1e3 * statistics.median(taken):.0f} ms")


if __name__ == "__main__":
    main()
