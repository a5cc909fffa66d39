# SPDX-License-Identifier: BSD-3-Clause
"""Losses of a short training, for each type of number and each instruction set that this CPU has: what test_losses_recorded.py compares.

    python tests/recorded/losses.py             prints how far they are from those in losses.json, in units of the type's rounding
    python tests/recorded/losses.py --record    writes losses.json; sets that this CPU lacks keep what is there
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

RECORDED = Path(__file__).with_suffix(".json")
UNITS = {"float32": 2.0**-24, "float64": 2.0**-53, "bfloat16": 2.0**-9}
# Units that a loss may be away from the recorded one. Between instruction sets, and orders of sums, up to 20, 26 and 4 were seen:
# what is wrong is away by far more.
ALLOWED = {"float32": 256, "float64": 256, "bfloat16": 8}


def train(number, instruction_set):
    """Losses of the epochs: dense, factored, and recomposed."""
    import numpy as np

    import svdfast as sf
    from svdfast import _blas

    _blas.use_own_products(instruction_set != "baseline", None if instruction_set == "baseline" else instruction_set)
    rng = np.random.default_rng(0)
    X = rng.random((300, 20))
    y = np.argmax(X[:, :5] + 0.3 * X[:, 5:10], axis=1)
    net = sf.Network([20, 40, 30, 5], hidden=["relu", "tanh"], dtype="float64" if number == "float64" else "float32", seed=0)
    result = sf.train(
        net, X, y, epochs=9, batch_size=32, optimizer=sf.Adam(0.01),
        factoring=sf.Factoring(0.4, force=True, pretrain_fraction=1 / 3, recompose_fraction=2 / 3), l2=0.01, n_threads=1, seed=0,
        precision="bfloat16" if number == "bfloat16" else None,
    )  # fmt: skip
    return [row["loss"] for row in result.history]


def trained(instruction_set):
    """The same for all types in a process of that instruction set."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--train", instruction_set],
        env=os.environ | {"SVDFAST_CPU": instruction_set},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def units_apart(number, losses, recorded):
    """The largest distance of two rows of losses, in units of the type's rounding."""
    pairs = zip(losses, recorded, strict=True)
    return max(abs(a - b) / abs(b) for a, b in pairs) / UNITS[number]


def main():
    from svdfast import _elementwise

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name}")
    parser.add_argument("--train", metavar="SET", help="print the losses of this process, as JSON")
    arguments = parser.parse_args()
    if arguments.train:
        print(json.dumps({number: train(number, arguments.train) for number in UNITS}))
        return
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    for name in _elementwise.available_instruction_sets():
        losses = trained(name)
        if arguments.record:
            recorded[name] = losses
        for number, row in losses.items():
            apart = {other: round(units_apart(number, row, rows[number]), 1) for other, rows in recorded.items()}
            print(f"{number:<9} {name:<9} last {row[-1]:.7f}, units from those recorded: {apart}")
    if arguments.record:
        RECORDED.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
