# SPDX-License-Identifier: BSD-3-Clause
"""Training steps of two builds of svdfast by turns: has a change made a step slower?

    python bench/builds.py OLD NEW [mnist ...] [--rounds N] [--threads N] [--precision float32 bfloat16]

OLD and NEW are Pythons, each with a svdfast installed. A process of each waits; in every round one runs a case's steps, then
the other, so that both meet the machine in the same state. The ratio is the median over rounds of new ÷ old. Not here: other
libraries (compare.py).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

FORMS = {"dense": None, "1/4": 1 / 4, "1/8": 1 / 8}
SECONDS = 0.4  # of steps a turn, about


def work() -> None:
    """Answers each case, a line of JSON, with the seconds of a step."""
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
        # A build from before `factoring` says the same by other names.
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
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", nargs="+", default=["float32"])
    arguments = parser.parse_args()
    import machine

    print(machine.describe(), "\n")
    environment = os.environ | {"SVDFAST_BUILDS_WORKER": "1"}
    processes = [
        subprocess.Popen(
            [python, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for python in arguments.pythons
    ]

    def turn(process: subprocess.Popen[str], case: list[object]) -> float:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(case) + "\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    print(f"{'case':<18} {'form':<6} {'precision':<9} {'old ms':>8} {'new ms':>8} {'new ÷ old':>10} {'quartiles':>14}")
    for name in arguments.cases:
        for precision in arguments.precision:
            for form in FORMS:
                case: list[object] = [name, form, precision, arguments.threads]
                rounds = [[turn(process, case) for process in processes] for _ in range(arguments.rounds + 1)][1:]
                ratios = [new / old for old, new in rounds]
                low, middle, high = statistics.quantiles(ratios, n=4)
                old, new = (1e3 * statistics.median(column) for column in zip(*rounds, strict=True))
                print(
                    f"{name:<18} {form:<6} {precision:<9} {old:>8.4g} {new:>8.4g} {middle:>10.3f} {low:>6.3f}–{high:.3f}",
                    flush=True,
                )
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    if os.environ.get("SVDFAST_BUILDS_WORKER"):
        work()
    else:
        main()
