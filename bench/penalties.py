# SPDX-License-Identifier: BSD-3-Clause
"""What L1 and L2 penalties cost a training step: with and without them, in turns.

    python bench/penalties.py [mnist | mnist-small-batch | wide ...] [--rounds N] [--threads N]

The report gave L2 up since it slowed its training. Here penalties are added to a gradient in the pass that updates, so they
should cost next to nothing. Not here: what they do for accuracy.
"""

from __future__ import annotations

import argparse
import statistics

import compare
import machine

import svdfast as sf

PENALTIES = {"none": {}, "L2": {"l2": 1e-4}, "L1": {"l1": 1e-6}, "L1 and L2": {"l1": 1e-6, "l2": 1e-4}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=["mnist", "mnist-small-batch"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=len(machine.available_cpus()))
    arguments = parser.parse_args()
    print(machine.describe(), "\n")
    print(f"{'case':<18} {'α':<6} {'penalty':<10} {'ms a step':>9} {'÷ none':>7}")
    for name in arguments.cases:
        case = compare.CASES[name]
        X, y = compare.make_data(case)
        for rank_fraction in (None, 1 / 4):
            nets = {}
            for penalty in PENALTIES:
                nets[penalty] = sf.Network(case.sizes, seed=0)
                if rank_fraction is not None:
                    nets[penalty].truncate(rank_fraction, force=True)
            seconds: dict[str, list[float]] = {penalty: [] for penalty in PENALTIES}
            for _ in range(arguments.rounds + 1):
                for penalty, settings in PENALTIES.items():
                    result = sf.train(
                        nets[penalty],
                        X,
                        y,
                        epochs=1,
                        batch_size=case.batch,
                        rank_fraction=None,
                        recompose=False,
                        n_threads=arguments.threads,
                        **settings,
                    )
                    seconds[penalty].append(result.seconds / result.n_steps)
            # The first round of each is for warming up. Ratios round by round, for the machine's speed drifts.
            for penalty in PENALTIES:
                ms = 1e3 * statistics.median(seconds[penalty][1:])
                ratio = statistics.median(
                    one / none
                    for one, none in zip(seconds[penalty][1:], seconds["none"][1:], strict=True)
                )
                form = "dense" if rank_fraction is None else f"1/{round(1 / rank_fraction)}"
                print(f"{name:<18} {form:<6} {penalty:<10} {ms:>9.3f} {ratio:>7.3f}", flush=True)


if __name__ == "__main__":
    main()
