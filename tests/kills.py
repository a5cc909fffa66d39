# SPDX-License-Identifier: BSD-3-Clause
"""Training processes that are killed at random moments, and go on from their checkpoints: each ends as it would have without.

    python tests/kills.py --kills 300            what is recorded in recorded/kills.json (--record)
    python tests/kills.py --kills 300 --disk F   F on a small file system, which is then filled up to the last bytes

A training is a process. It ends by SIGKILL or Ctrl-C (SIGINT) at a random moment, from the start of Python on, or, now and then, because
its disk is full or its folder can't be written to. Then the same command goes on with it, until it has ended. Elsewhere: states that are
damaged, and each state that a training can be in (test_checkpoint.py).
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

RECORD = Path(__file__).parent / "recorded" / "kills.json"
INTERRUPTED, BROKEN_OFF = 10, 11  # how a training ends by Ctrl-C, and where a file can't be written
NOBODY = 65534
LIVES = 20  # of a training at most; then it is let end

# What a training is: its network's dtype and the arguments of `train`; of its Factoring by themselves, as this process has no svdfast.
TRAININGS = [
    ("float32", {"epochs": 12, "batch_size": 50, "checkpoint_every": 1, "reproducible": True}, {"ranks": "auto", "pretrain_fraction": 0.1}),
    ("float32", {"epochs": 12, "batch_size": 50, "checkpoint_every": 1}, {}),
    ("float64", {"epochs": 12, "batch_size": 50, "checkpoint_every": 3}, {"recompose_fraction": 0.3, "pretrain_fraction": 0.4}),
    ("float32", {"epochs": 40, "batch_size": 600, "n_threads": 2, "l2": 1e-3}, {"product_decay": 0.1}),
    ("float32", {"epochs": 12, "batch_size": 64, "checkpoint_every": 2}, {"guard": (0.0, "delay")}),
    ("float32", {"epochs": 12, "batch_size": 50, "checkpoint_every": 5, "precision": "bfloat16"}, {}),
    ("float32", {"epochs": 12, "batch_size": 50, "checkpoint_every": 2}, {"guard": (0.0, "undo"), "without validation": True}),
    ("float32", {"epochs": 8, "batch_size": 50, "checkpoint_every": 2}, {"layers": "images", "ranks": [4, 8], "force": True}),
    ("float32", {"epochs": 8, "batch_size": 50, "checkpoint_every": 2, "reproducible": True, "n_threads": 2},
     {"layers": "sequences", "ranks": [4, 8, 8, 8, 8], "force": True}),
    ("float32", {"epochs": 8, "batch_size": 50, "checkpoint_every": 3}, {"layers": "any steps", "ranks": [4, 8, 8, 8], "force": True}),
    ("float64", {"epochs": 8, "batch_size": 50, "checkpoint_every": 3, "carry_state": True},
     {"layers": "tokens", "ranks": [4, 8, 8, 8, 8], "force": True}),
    ("float32", {"epochs": 12, "batch_size": 50, "checkpoint_every": 2}, {"sparse": True}),
]  # fmt: skip
LAYERED = [7, 8, 9, 10, 11]  # those of layers, and of sparse samples


def layered(name):
    """Input and layers of a network of 48 numbers, or of 6 tokens and of 6 · 8 numbers as they come."""
    import svdfast as sf
    from svdfast import layers as L

    if name == "images":
        body = [L.Conv2d(8, 3, "relu", padding="same"), L.MaxPool2d(2), L.Flatten(), L.Linear(32, "relu"), L.Dropout(0.1)]
        return sf.Input(6, 8, 1), [*body, L.Linear(5, "softmax")]
    if name == "any steps":
        return sf.Input(None, 8), [L.GRU(16, return_sequences=True), L.LayerNorm(), L.LSTM(16), L.Linear(5, "softmax")]
    if name == "tokens":
        return sf.Input(None, dtype="int32"), [L.Embedding(5, 8), L.RNN(16, True), L.GRU(16, True), L.Linear(5, "softmax")]
    body = [L.Masking(), L.LSTM(16, return_sequences=True, bidirectional=True), L.Dropout(0.1), L.GRU(16)]
    return sf.Input(6, 8), [*body, L.Linear(5, "softmax")]


def train(folder, number, how):
    """In the training's process. Prints the SHA-256 of the parameters at the end."""
    import numpy as np
    import workers
    from scipy.sparse import csr_array

    import svdfast as sf

    workers.eager()
    dtype, settings, method = TRAININGS[number]
    rng = np.random.default_rng(number)
    X = rng.standard_normal((1500, 48)).astype(dtype)
    y = X[:, :5].argmax(axis=1)
    given = {}
    method = dict(method)
    name = method.pop("layers", None)
    if name == "any steps":
        X = X.reshape(-1, 6, 8)
    elif name == "tokens":
        X = rng.integers(0, 5, (1500, 7))
        X, y = X[:, :-1], X[:, 1:]
    elif method.pop("sparse", False):
        X = csr_array(X * (rng.random(X.shape) < 0.1))
    if "guard" in method:
        given = {} if method.get("without validation") else {"validation": (X[:200], y[:200])}
        method = {"guard": sf.Guard(*method["guard"])}
    os.chdir(folder)
    print("begun", flush=True)
    if how == "read-only" and os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    elif how.startswith("limit "):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(how[6:]), resource.RLIM_INFINITY))
    net = sf.Network(*([[48, 64, 64, 5]] if name is None else layered(name)), seed=number, dtype=dtype)
    try:
        if os.path.exists("run.ckpt"):
            net = sf.resume("run.ckpt", X, y, **given).network
        else:
            rate = (sf.schedules.Cooldown, sf.schedules.Cosine)[number % 2](2e-3)
            optimizer = (sf.Adam, sf.AdamW, sf.GradientDescent)[number % 3](rate)
            factoring = sf.Factoring(**{"ranks": [8, 8]} | method)
            sf.train(net, X, y, optimizer=optimizer, factoring=factoring, checkpoint="run.ckpt", **settings, **given)
    except KeyboardInterrupt:
        assert np.isfinite(net.predict(X)).all()
        sys.exit(INTERRUPTED)
    except OSError as error:
        print(error, file=sys.stderr)
        assert np.isfinite(net.predict(X)).all()
        sys.exit(BROKEN_OFF)
    print(hashlib.sha256(net.parameters.tobytes()).hexdigest(), net.layout.ranks, flush=True)


def start(folder, number, how="as it should"):
    command = [sys.executable, __file__, "train", str(folder), str(number), how]
    # Not buffered, so that to read a line takes no more than it.
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)


class Ballast:
    """Fills a file system but for some bytes."""

    def __init__(self, folder, free):
        self.path = folder / "ballast"
        with open(self.path, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        os.truncate(self.path, max(0, self.path.stat().st_size - free))

    def remove(self):
        self.path.unlink()


def survive(kills, seed, disk=None, first=0, ends=lambda: False):
    """Kills until there were so many or `ends` says so, and all trainings that were begun, from the `first` on, have ended.

    Returns what happened.
    """
    chance = random.Random(seed)
    happened = Counter()
    expected, seconds = {}, {}
    with tempfile.TemporaryDirectory(dir=disk) as base:
        folder = Path(base) / "run"
        while happened["killed"] < kills and not ends():
            number = (first + happened["trainings"]) % len(TRAININGS)
            if number not in expected:
                folder.mkdir()
                process = start(folder, number)
                process.stdout.readline()  # "begun"
                began = time.monotonic()
                expected[number], errors = process.communicate(timeout=300)
                seconds[number] = time.monotonic() - began
                if process.returncode:
                    raise AssertionError(errors.decode())
                shutil.rmtree(folder)
            folder.mkdir()
            if os.getuid() == 0:
                os.chown(folder, NOBODY, NOBODY)
            for life in itertools.count():
                how = chance.choices(["as it should", "read-only", "full"], [8, 1, 1])[0]
                file = folder / "run.ckpt"
                ballast = None
                if how == "full":
                    room = chance.randrange(file.stat().st_size if file.exists() else 20000)
                    if disk is None:
                        how = f"limit {room}"
                    else:
                        ballast = Ballast(folder, room)
                elif how == "read-only":
                    folder.chmod(0o555)
                process = start(folder, number, how)
                sent = None
                # Some are killed as Python starts, most as they train.
                begun = chance.random() < 0.9 and process.stdout.readline() == b"begun\n"
                try:
                    longest = 0.4 * seconds[number] if begun else 0.5
                    output, errors = process.communicate(timeout=chance.random() * longest if life < LIVES and not ends() else 300)
                except subprocess.TimeoutExpired:
                    sent = chance.choice([signal.SIGKILL] * 4 + [signal.SIGINT])
                    process.send_signal(sent)
                    output, errors = process.communicate(timeout=60)
                folder.chmod(0o755)
                if ballast is not None:
                    ballast.remove()
                happened["left in the midst of writing"] += len(list(folder.glob(".*.part")))
                code = process.returncode
                # Before it had begun an import may have made another error of the KeyboardInterrupt; and it may come as Python ends.
                expected_codes = (INTERRUPTED, -signal.SIGINT) if begun or b"begun" in output else (code,)
                by_ctrl_c = sent == signal.SIGINT and code in expected_codes
                if code == 0:
                    break
                if code == -signal.SIGKILL:
                    happened["killed"] += 1
                elif by_ctrl_c:
                    happened["interrupted"] += 1
                elif code == BROKEN_OFF and how != "as it should":
                    happened["read-only" if how == "read-only" else "full"] += 1
                else:
                    raise AssertionError(f"training {number} ({how}) ended with {code}: {errors.decode()}")
            if output.removeprefix(b"begun\n") != expected[number]:
                raise AssertionError(f"training {number} ended as {output!r}, not {expected[number]!r}; seed {seed}")
            happened["trainings"] += 1
            shutil.rmtree(folder)
    return dict(happened)


def main():
    if sys.argv[1:2] == ["train"]:
        train(sys.argv[2], int(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disk", type=Path, help="a folder on a small file system")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    told = []  # SIGTERM ends it with the present training
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a script's background; its processes would inherit that
        signal.signal(signal.SIGINT, signal.default_int_handler)
    happened = survive(arguments.kills, arguments.seed, arguments.disk, ends=lambda: bool(told))
    print(json.dumps(happened))
    if arguments.record:
        command = f"python tests/kills.py --kills {arguments.kills} --seed {arguments.seed}" + " --disk F" * (arguments.disk is not None)
        record = {"command": command, "python": platform.python_version(), "system": platform.system(), **happened}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
