# SPDX-License-Identifier: BSD-3-Clause
"""A training step beside other programs that keep CPUs busy: two ways in which OpenMP's threads wait, and one thread.

    python bench/busy.py [--busy N ...] [--batches N ...] [--rounds N] [--quick]

Steps are those of MNIST's network at α = 1/8, on random samples. A thread that waits at a barrier tries again for a while before it sleeps.
Meanwhile it holds a CPU that the thread it waits for may need. GNU's OpenMP reads GOMP_SPINCOUNT when it is loaded, so each round has a
process of its own, and ways take turns. The busy processes count in a loop. Elsewhere: steps on a machine with nothing else to do
(compare.py).
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys

# Nothing else is imported here: a process reads the variables when it loads OpenMP.

WAYS = {
    "as it is": ({}, None),
    "GOMP_SPINCOUNT=1000": ({"GOMP_SPINCOUNT": "1000"}, None),
    "n_threads=1": ({}, 1),
}  # fmt: skip
SAMPLES = 12_288


def work(batch: int, n_threads: int | None, n_samples: int) -> None:
    """Prints the milliseconds of a step, the mean of an epoch after a first one."""
    import numpy as np

    import svdfast as sf

    rng = np.random.default_rng(0)
    X, y = rng.random((n_samples, 784), dtype=np.float32), rng.integers(0, 10, n_samples)
    net = sf.Network([784, 512, 256, 10], seed=0)
    net.truncate(1 / 8)
    result = sf.train(net, X, y, epochs=2, batch_size=batch, factoring=sf.Factoring(recompose=False), n_threads=n_threads)
    print(1000 * result.history[-1]["seconds"] * batch / n_samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="busy processes beside it")
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 2048], metavar="N")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="few samples, one round: only a check")
    parser.add_argument("--work", nargs=3, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        batch, n_threads, n_samples = arguments.work
        work(batch, n_threads or None, n_samples)
        return
    import machine

    print(machine.describe([]), "\n")
    rounds, samples = (1, 2048) if arguments.quick else (arguments.rounds, SAMPLES)
    print(f"{'busy':>4}{'batch':>7}  {'way':<22}{'ms a step':>10}{'min':>9}{'max':>9}")
    for busy, batch in itertools.product(arguments.busy, arguments.batches):
        others: list[subprocess.Popen[bytes]] = []
        try:
            others += [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(rounds):
                for way, (variables, n_threads) in WAYS.items():
                    command = [sys.executable, __file__, "--work", str(batch), str(n_threads or 0), str(samples)]
                    done = subprocess.run(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True)
                    found[way].append(float(done.stdout))
        finally:
            for other in others:
                other.kill()
                other.wait()
        for way, times in found.items():
            print(f"{busy:>4}{batch:>7}  {way:<22}{statistics.median(times):>10.3g}{min(times):>9.3g}{max(times):>9.3g}", flush=True)


if __name__ == "__main__":
    main()
