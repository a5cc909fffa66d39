# SPDX-License-Identifier: BSD-3-Clause
"""The cost of some settings in a training step: steps with and without them, alternating.

    python bench/settings.py [mnist | mnist-small-batch | wide ...] [--rounds N] [--threads N] [--precision float64]

Settings are L1 and L2 penalties, and `reproducible`. The paper gave up penalties because they
slowed its training; here they are added to a gradient in the pass that updates. With
`reproducible`, results do not depend on the number of threads.
"""

from __future__ import annotations

import argparse
import statistics

import compare
import machine

import svdfast as sf

SETTINGS = {
    "none": {},
    "L2": {"l2": 1e-4},
    "L1": {"l1": 1e-6},
    "L1 and L2": {"l1": 1e-6, "l2": 1e-4},
    "reproducible": {"reproducible": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=["mnist", "mnist-small-batch"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=len(machine.available_cpus()))
    parser.add_argument("--precision", choices=["float32", "float64", "bfloat16"], default="float32")
    parser.add_argument("--only", choices=list(SETTINGS)[1:], help="this setting alone")
    arguments = parser.parse_args()
    tried = {name: SETTINGS[name] for name in SETTINGS if arguments.only in (None, name) or name == "none"}
    dtype = "float64" if arguments.precision == "float64" else "float32"
    print(machine.describe(), "\n")
    print(f"{'case':<18} {'α':<6} {'setting':<12} {'ms a step':>9} {'÷ none':>7}")
    for name in arguments.cases:
        case = compare.CASES[name]
        X, y = compare.make_data(case)
        for rank_fraction in (None, 1 / 4, 1 / 8):
            nets = {}
            for setting in tried:
                nets[setting] = sf.Network(case.sizes, seed=0, dtype=dtype)
                if rank_fraction is not None:
                    nets[setting].truncate(rank_fraction, force=True)
            seconds: dict[str, list[float]] = {setting: [] for setting in tried}
            for _ in range(arguments.rounds + 1):
                for setting, given in tried.items():
                    result = sf.train(
                        nets[setting],
                        X,
                        y,
                        epochs=1,
                        batch_size=case.batch,
                        factoring=sf.Factoring(pretrain_fraction=1, recompose=False),
                        n_threads=arguments.threads,
                        precision=arguments.precision,
                        **given,
                    )
                    seconds[setting].append(result.seconds / result.n_steps)
            # The first round of each is for warm-up. Ratios are taken round by round, because the
            # machine's speed drifts.
            for setting in tried:
                ms = 1e3 * statistics.median(seconds[setting][1:])
                ratio = statistics.median(
                    one / none
                    for one, none in zip(seconds[setting][1:], seconds["none"][1:], strict=True)
                )
                form = "dense" if rank_fraction is None else f"1/{round(1 / rank_fraction)}"
                print(f"{name:<18} {form:<6} {setting:<12} {ms:>9.3f} {ratio:>7.3f}", flush=True)


if __name__ == "__main__":
    main()
