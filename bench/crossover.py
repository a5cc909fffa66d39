# SPDX-License-Identifier: BSD-3-Clause
"""The largest rank at which factored training steps are faster, beside the break-even rank.

    python bench/crossover.py [--threads N] [--rounds N] [--record FILE] [--quick]

The compiled engine runs steps (forward, backward, Adam) in float32 of a network whose work is one
square layer n → n with ReLU. "first" is the first layer of its network, which forms no gradient for
its inputs; "later" has a layer 1 → n before it. A layer n → 1 follows both. Factored steps of each
rank alternate with dense steps, so that a machine that slows down does so for both. The ratio is
taken round by round. The output is Markdown; --record writes it to a file, such as
docs/measured/crossover.md.

Whole networks and other systems are in compare.py, single products in products.py, accuracy in
accuracy.py.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import machine
import numpy as np

import svdfast as sf
from svdfast._process import runtime
from svdfast.data.checks import checked_samples
from svdfast.model.evaluation import spec_of
from svdfast.model.structures import LowRank
from svdfast.model.truncation import rebuilt
from svdfast.training.run import Run

WIDTHS = (64, 128, 256, 512, 1024, 2048)
BATCHES = (32, 256, 2048)
RANK_FRACTIONS = tuple(Fraction(k, 16) for k in range(1, 17))
SHOWN = (Fraction(1, 8), Fraction(1, 4), Fraction(1, 2))
# The least work of a measurement, in multiplications of dense steps: about ten milliseconds.
WORK = 3e8

Step = Callable[[int], float]  # seconds of so many steps


def step_of(n: int, rank: int | None, batch: int, n_threads: int, *, first: bool) -> Step:
    """Steps of a network whose one large layer is n → n, of this rank."""
    net = sf.Network([n, n, 1] if first else [1, n, n, 1], output="identity", seed=0)
    rng = np.random.default_rng(0)
    if rank is not None:
        # No step's time depends on the numbers, and an SVD would take longer than the steps.
        W1, W2 = (rng.standard_normal(shape, dtype=np.float32) * np.float32(n * rank) ** -0.25 for shape in ((n, rank), (rank, n)))
        index, structures = 0 if first else 1, list(net.layout.structures)
        structures[index] = LowRank(n, n, rank)
        net = sf.Network.of(*rebuilt(net.state, structures, {index: (W1, W2)}), net.uint8_scale)
    X = rng.standard_normal((batch, net.sizes[0]), dtype=np.float32)
    y = rng.standard_normal(batch, dtype=np.float32)
    run = Run(net, checked_samples(X, y, None, spec_of(net)), sf.Adam(), n_threads, batch, 0.0, 0.0)
    run.rebuild()

    def seconds(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            run.step(0, batch, 1e-6)  # a rate so small that nothing grows
        return time.perf_counter() - start

    return seconds


def measure(
    n: int, batch: int, n_threads: int, fractions: tuple[Fraction, ...], n_rounds: int, *, first: bool
) -> tuple[float, dict[Fraction, float]]:
    """Median seconds of a dense step, and for each α the median of dense ÷ factored by round."""
    times = 1 if n_rounds == 1 else max(1, round(WORK / (3 * n * n * batch)))
    dense = step_of(n, None, batch, n_threads, first=first)
    taken, ratios = [], {}
    for fraction in fractions:
        factored = step_of(n, int(fraction * n), batch, n_threads, first=first)
        dense(1), factored(1)  # to warm up
        pairs = [(dense(times), factored(times)) for _ in range(n_rounds)]
        ratios[fraction] = statistics.median(a / b for a, b in pairs)
        taken += [a / times for a, _ in pairs]
    return statistics.median(taken), ratios


def crossover(ratios: dict[Fraction, float]) -> Fraction | None:
    """The largest α up to which factored steps were faster, for it and all smaller α.

    None if they were not faster for the smallest one.
    """
    found = None
    for fraction in sorted(ratios):
        if ratios[fraction] <= 1:
            break
        found = fraction
    return found


def table(n_threads: int, widths: tuple[int, ...], fractions: tuple[Fraction, ...], n_rounds: int) -> list[str]:
    """Lines of a Markdown table."""
    shown = " | ".join(f"α = {fraction}" for fraction in SHOWN)
    lines = [
        f"| layer | n | batch | counted | measured | dense step | {shown} |",
        "| --- " * (6 + len(SHOWN)) + "|",
    ]
    for first in (True, False):
        for n in widths:
            even = sf.break_even_rank(n, n, first_layer=first) / n
            for batch in BATCHES:
                dense, ratios = measure(n, batch, n_threads, fractions, n_rounds, first=first)
                found = crossover(ratios)
                cells = ["first" if first else "later", str(n), str(batch), f"{even:.2f}"]
                cells.append("none" if found is None else f"{float(found):.2f}")
                cells.append(f"{1e6 * dense:.0f} µs" if dense < 1e-3 else f"{1e3 * dense:.3g} ms")
                cells += [f"{ratios[f]:.2f}" for f in SHOWN]
                lines.append(f"| {' | '.join(cells)} |")
                print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=len(machine.available_cpus()), help="default: all CPUs")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write what is printed there, too")
    parser.add_argument("--quick", action="store_true", help="narrow layers, a few ranks, one round: only a check")
    arguments = parser.parse_args()
    widths, fractions, n_rounds = WIDTHS, RANK_FRACTIONS, arguments.rounds
    if arguments.quick:
        widths, fractions, n_rounds = WIDTHS[:3], SHOWN, 1
    command = shlex.join(["python", "bench/crossover.py", *sys.argv[1:]])
    with runtime.single_threaded_blas.held():
        lines = table(arguments.threads, widths, fractions, n_rounds)
    threads = f"{arguments.threads} thread{'s' * (arguments.threads != 1)}"
    text = "\n".join(
        [
            *(["**Made with `--quick`: one round of one step. These numbers are a check of the program, not a measurement.**", ""]
              if arguments.quick else []),
            f"float32, Adam, {threads}, medians of {n_rounds} round{'s' * (n_rounds != 1)} in turns. *counted*: the largest α at which a "
            "factored step needs fewer multiplications; *measured*: the largest α up to which it was faster, of those that were timed "
            f"({', '.join(map(str, fractions))}). Under each α: the time of a dense step divided by that of a factored one.",
            "", *lines,
            "", "```text", f"$ {command}", machine.describe(), "```", "",
        ]
    )  # fmt: skip
    print(text, end="")
    if arguments.record is not None:
        arguments.record.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
