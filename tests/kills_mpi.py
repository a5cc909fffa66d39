# SPDX-License-Identifier: BSD-3-Clause
"""Trainings over MPI of which a random process is killed at a random moment, and that go on: each ends as it would have without.

    python tests/kills_mpi.py --kills 100        what is recorded in recorded/kills_mpi.json (--record)

A training is a job of two to four processes. One of them gets SIGKILL, from the start of Python on. All others have to be gone within
10 seconds. Then a job of another number of processes goes on, until the training has ended. Elsewhere: kills of one process's training
(kills.py).
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

RECORD = Path(__file__).parent / "recorded" / "kills_mpi.json"
PATIENCE = 10  # seconds for the others to end
LIVES = 15  # of a training at most; then it is let end

# The kind of network of a training, and the ranks of its hidden layers.
TRAININGS = [("linear", [8, 8]), ("linear", None), ("gru", [4, 4]), ("conv", [4, 8])]


def train(folder, number):
    """In the training's processes. Process 0 prints the SHA-256 of the parameters at the end."""
    Path(folder, f"pid-{os.getpid()}").touch()
    import numpy as np

    import svdfast as sf
    from svdfast import layers as L

    kind, ranks = TRAININGS[number]
    communicator = sf.distributed.mpi()
    X = np.random.default_rng(number).standard_normal((1500, 48)).astype("float32")
    y = X[:, :5].argmax(axis=1)
    path = os.path.join(folder, "run.ckpt")
    if os.path.exists(path):
        net = sf.resume(path, X, y, communicator=communicator).network
    else:
        if kind == "linear":
            net = sf.Network([48, 64, 64, 5], seed=number)
        elif kind == "gru":
            net = sf.Network(sf.Input(6, 8), [L.GRU(16), L.Dropout(0.1), L.Linear(5, "softmax")], seed=number)
        else:
            body = [L.Conv2d(8, 3, "relu"), L.MaxPool2d(2), L.Flatten(), L.Linear(32, "relu")]
            net = sf.Network(sf.Input(6, 8, 1), [*body, L.Linear(5, "softmax")], seed=number)
        factoring = None if ranks is None else sf.Factoring(ranks, force=True, pretrain_fraction=0.4, recompose_fraction=0.3)
        sf.train(
            net, X, y, epochs=12, batch_size=64, factoring=factoring, reproducible=True, checkpoint=path, checkpoint_every=3,
            communicator=communicator,
        )  # fmt: skip
    if communicator.rank == 0:
        print(hashlib.sha256(net.parameters.tobytes()).hexdigest(), flush=True)


def mpiexec():
    """The command, that of a wheel if there is one, and what it needs here."""
    path = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    openmpi = "Open MPI" in version or "OpenRTE" in version
    return [path, *(["--oversubscribe"] if openmpi else []), *(["--allow-run-as-root"] if openmpi and os.getuid() == 0 else [])]


def start(folder, number, n):
    for file in folder.glob("pid-*"):
        file.unlink()
    command = [*mpiexec(), "-n", str(n), sys.executable, __file__, "train", str(folder), str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def pids(folder):
    return [int(file.name[4:]) for file in folder.glob("pid-*")]


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def survive(kills, seed):
    """Kills until there were so many, and the training that was begun last has ended. Returns what happened."""
    chance = random.Random(seed)
    happened, expected, seconds, slowest = Counter(), {}, {}, 0.0
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / "run"
        while happened["killed"] < kills:
            number = happened["trainings"] % len(TRAININGS)
            folder.mkdir()
            if number not in expected:
                began = time.monotonic()
                expected[number], errors = start(folder, number, 2).communicate(timeout=300)
                seconds[number] = time.monotonic() - began
                if len(expected[number]) != 65:
                    raise AssertionError(errors.decode())
                (folder / "run.ckpt").unlink()
            for life in range(LIVES + 1):
                n = chance.randint(2, 4)
                process = start(folder, number, n)
                try:
                    output, errors = process.communicate(timeout=300 if life == LIVES else chance.random() * seconds[number])
                    if process.returncode:
                        raise AssertionError(f"training {number} ended with {process.returncode}: {errors.decode()}")
                    break
                except subprocess.TimeoutExpired:
                    victims = pids(folder)
                    if not victims:  # not even Python has started
                        process.kill()
                        process.communicate(timeout=60)
                        continue
                    with contextlib.suppress(ProcessLookupError):  # it has just ended
                        os.kill(chance.choice(victims), signal.SIGKILL)
                    began = time.monotonic()
                    try:
                        output, errors = process.communicate(timeout=PATIENCE)
                    except subprocess.TimeoutExpired:
                        raise AssertionError(f"training {number} of {n} processes hangs; seed {seed}") from None
                    while any(map(runs, pids(folder))) and time.monotonic() - began < PATIENCE:
                        time.sleep(0.05)
                    if any(map(runs, pids(folder))):
                        raise AssertionError(f"processes of training {number} were left; seed {seed}") from None
                    if process.returncode == 0:
                        break  # it ended before
                    slowest = max(slowest, time.monotonic() - began)
                    happened["killed"] += 1
            if output != expected[number]:
                raise AssertionError(f"training {number} ended as {output!r}, not {expected[number]!r}; seed {seed}: {errors.decode()}")
            happened["trainings"] += 1
            shutil.rmtree(folder)
    return {**happened, "slowest_end": round(slowest, 1)}


def main():
    if sys.argv[1:2] == ["train"]:
        train(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    happened = survive(arguments.kills, arguments.seed)
    print(json.dumps(happened))
    if arguments.record:
        command = f"python tests/kills_mpi.py --kills {arguments.kills} --seed {arguments.seed}"
        record = {"command": command, "python": platform.python_version(), "system": platform.system(), **happened}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
