# SPDX-License-Identifier: BSD-3-Clause
"""Millions of steps of one training: memory stays flat, losses finite, restarts give the same end.

    python bench/soak.py [--minutes 30] [--pieces 6] [--out FILE]

A small network is trained on MNIST, by all four steps of the method, for so many minutes without a
break. Its checkpoint after three quarters is kept. The last quarter is trained again from there, in
processes that are killed and continue. If MNIST is not available, random numbers of its shape are
used. Kills at each moment of a training are in tests/kills.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np

import svdfast as sf

BATCH, EVERY = 24, 20_000
HISTORY = 2048  # the most bytes of an epoch's row, in the history and in the checkpoint's text
SHORTEST = 20.0  # seconds of a piece: starting and reaching a checkpoint takes some
PAGE = os.sysconf("SC_PAGE_SIZE")
METHOD = sf.Factoring([8, 8], force=True, pretrain_fraction=0.3, recompose_fraction=0.2, product_decay=1e-3)


def data() -> tuple[Any, Any]:
    try:
        X, y = sf.datasets.load("mnist").train
    except FileNotFoundError:
        rng = np.random.default_rng(0)
        X = rng.integers(0, 256, (60_000, 784), dtype=np.uint8)
        y = rng.integers(0, 10, 60_000)
    return X, y


class Watch:
    """A callback that records resident memory and loss at the end of each epoch.

    It copies the checkpoint after three quarters of the epochs.
    """

    def __init__(self, path: Path, epochs: int) -> None:
        self.path, self.copied_after = path, 3 * epochs // 4
        self.mebibytes: list[float] = []
        self.finite = True

    def __call__(self, event: sf.Event) -> None:
        if event.kind == "epoch":
            if event.epoch == self.copied_after:
                shutil.copy(self.path, self.path.with_suffix(".later"))
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.mebibytes.append(pages * PAGE / 2**20)
            self.finite = self.finite and math.isfinite(event.info["loss"])


def work(folder: Path, epochs: int) -> dict[str, Any]:
    """The training to its end, from its checkpoint if there is one."""
    path = folder / "run.ckpt"
    watch = Watch(path, epochs)
    X, y = data()
    if path.exists():
        result = sf.resume(path, X, y, callbacks=[watch])
    else:
        net = sf.Network([784, 32, 32, 10], seed=0)
        result = sf.train(
            net, X, y, epochs=epochs, batch_size=BATCH, optimizer=sf.AdamW(sf.schedules.Cosine(1e-3), weight_decay=0.1),
            factoring=METHOD, n_threads=1,
            checkpoint=path, checkpoint_every=EVERY, callbacks=[watch],
        )  # fmt: skip
    after = watch.mebibytes[len(watch.mebibytes) // 10 :]  # memory of the first epochs stays
    return {
        "steps": result.n_steps,
        "loss": result.history[-1]["loss"],
        "finite": watch.finite,
        "accuracy": result.network.evaluate(X, y).accuracy,
        "sha256": hashlib.sha256(result.network.parameters.tobytes()).hexdigest(),
        "mebibytes": [after[0], after[-1], max(after)],
    }


def in_pieces(folder: Path, epochs: int, seconds: float | None) -> tuple[dict[str, Any], int]:
    """The training in processes that are killed after `seconds`, unless None.

    Also returns the number of killed processes.
    """
    command = [sys.executable, __file__, "--work", str(folder), "--epochs", str(epochs)]
    killed = 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            continue
        if process.returncode:
            raise SystemExit(f"! it ended with {process.returncode}")
        return json.loads(output), killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--pieces", type=int, default=6)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        print(json.dumps(work(arguments.work, arguments.epochs)))
        return
    print(machine.describe(), "\n")
    X, y = data()
    began = time.perf_counter()
    trial = sf.train(sf.Network([784, 32, 32, 10], seed=0), X, y, epochs=2, batch_size=BATCH, factoring=METHOD, n_threads=1)
    seconds = arguments.minutes * 60
    epochs = max(4, round(seconds / (trial.seconds / 2)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pieces").mkdir()
        whole, _ = in_pieces(folder, epochs, None)
        minutes = (time.perf_counter() - began) / 60
        shutil.move(folder / "run.later", folder / "pieces" / "run.ckpt")
        pieces, killed = in_pieces(folder / "pieces", epochs, max(SHORTEST, seconds / 4 / arguments.pieces))
    first, last, largest = whole["mebibytes"]
    print(f"{whole['steps']:,} steps at a stretch: {minutes:.1f} minutes")
    print(f"the last quarter again, in {killed + 1} processes, {killed} of them killed")
    print(f"resident memory {first:.1f} MiB after a tenth of the epochs, {last:.1f} at the end, {largest:.1f} at most")
    print(f"loss {whole['loss']:.3g}, accuracy {whole['accuracy']:.4f}, all losses finite: {whole['finite'] and pieces['finite']}")
    same = whole["sha256"] == pieces["sha256"]
    print(f"the same parameters, to the bit: {same}")
    if arguments.out is not None:
        record = {"command": f"python bench/soak.py --minutes {arguments.minutes:g} --pieces {arguments.pieces}", "minutes": minutes}
        record |= {"killed": killed, "whole": whole, "pieces": pieces}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    if not (same and whole["finite"] and pieces["finite"] and killed > 0 and last < first + 8 + epochs * HISTORY / 2**20):
        raise SystemExit("! it did not hold")


if __name__ == "__main__":
    main()
