# SPDX-License-Identifier: BSD-3-Clause
"""Alternating training steps of two builds of svdfast: has a change made a step slower?

    python bench/builds.py OLD NEW [mnist ...] [--rounds N] [--pairs N] [--precision float32 bfloat16]

OLD and NEW are Python interpreters, each with a svdfast installed. One process of each waits. In
every round one runs a case's steps, then the other, so that both find the machine in the same
state. After some rounds, new processes take over. The ratio new ÷ old is the median over these
pairs. Other libraries are in compare.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys

FORMS = {"dense": None, "1/4": 1 / 4, "1/8": 1 / 8}
SECONDS = 0.2  # approximate time of the steps in a turn


def work() -> None:
    """Answers each case, which is a line of JSON, with the seconds of a step."""
    import inspect

    import compare
    import numpy as np

    import svdfast as sf

    known: dict[tuple[str, ...], tuple[sf.Network, np.ndarray, np.ndarray, int]] = {}
    for line in sys.stdin:
        name, form, precision, threads = json.loads(line)
        key = name, form, precision
        case = compare.CASES[name]
        if key not in known:
            rng = np.random.default_rng(0)
            X = rng.random((case.batch, case.sizes[0]), dtype=np.float32)
            y = rng.integers(0, max(case.sizes[-1], 2), case.batch)
            output = "softmax" if case.sizes[-1] > 1 else "sigmoid"
            net = sf.Network(case.sizes, output=output, seed=0)
            if FORMS[form] is not None:
                net.truncate(FORMS[form], force=True)
            known[key] = net, X, y, 0
        net, X, y, epochs = known[key]
        # A build from before `factoring` has other names for the same.
        if "factoring" in inspect.signature(sf.train).parameters:
            how = {"factoring": sf.Factoring(pretrain_fraction=1, recompose=False)}
        else:
            how = {"rank_fraction": None, "recompose": False}
        how |= {"precision": precision, "n_threads": threads, "batch_size": case.batch}
        if epochs == 0:
            once = sf.train(net, X, y, epochs=3, **how)
            epochs = max(3, round(SECONDS / (once.seconds / once.n_steps)))
            known[key] = net, X, y, epochs
        result = sf.train(net, X, y, epochs=epochs, **how)
        print(result.seconds / result.n_steps, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs=2, metavar="PYTHON")
    parser.add_argument("cases", nargs="*", default=["mnist", "mnist-small-batch", "wide", "cat", "xor"])
    parser.add_argument("--rounds", type=int, default=4, help="of each pair of processes, after one to warm up")
    parser.add_argument("--pairs", type=int, default=8, help="of processes: where their memory lies, makes a tenth and more")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", nargs="+", default=["float32"])
    arguments = parser.parse_args()
    import machine

    print(machine.describe(), "\n")
    print(f"{'case':<18} {'form':<6} {'precision':<9} {'old ms':>8} {'new ms':>8} {'new ÷ old':>10} {'quartiles':>14}")
    for name in arguments.cases:
        for precision in arguments.precision:
            for form in FORMS:
                case = [name, form, precision, arguments.threads]
                pairs = [one_pair(arguments.pythons, case, arguments.rounds, pair % 2 == 1) for pair in range(arguments.pairs)]
                low, middle, high = statistics.quantiles([new / old for old, new in pairs], n=4)
                old, new = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
                print(
                    f"{name:<18} {form:<6} {precision:<9} {old:>8.4g} {new:>8.4g} {middle:>10.3f} {low:>6.3f}–{high:.3f}",
                    flush=True,
                )


def one_pair(pythons: list[str], case: list[object], rounds: int, turned: bool) -> list[float]:
    """Median seconds of a step of the old and of the new build, in two alternating processes.

    The new build begins if `turned`.
    """
    environment = os.environ | {"SVDFAST_BUILDS_WORKER": "1"}
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen([python, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            )
            for python in pythons
        ]
        seconds: list[list[float]] = [[], []]
        for _ in range(rounds + 1):
            for which in (1, 0) if turned else (0, 1):
                worker = workers[which]
                assert worker.stdin is not None and worker.stdout is not None
                worker.stdin.write(json.dumps(case) + "\n")
                worker.stdin.flush()
                seconds[which].append(float(worker.stdout.readline()))
    return [statistics.median(one[1:]) for one in seconds]


if __name__ == "__main__":
    if os.environ.get("SVDFAST_BUILDS_WORKER"):
        work()
    else:
        main()
