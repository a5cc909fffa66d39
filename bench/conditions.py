# SPDX-License-Identifier: BSD-3-Clause
"""Training after `import torch`, two trainings at once, and the memory of a training.

    python bench/conditions.py [--rounds N] [--json FILE] [--quick]

1. PyTorch, which has an OpenMP of its own, is imported before svdfast. New processes with and
   without it alternate (A B A B). The time of a step must not be longer, and the parameters reached
   must be bit-identical.
2. Two trainings at once, in two Python threads, are compared with the same trainings one after the
   other. Results must be bit-identical; times are compared.
3. The peak of resident memory while training, without program code, is compared with the counted
   size of data, parameters, moments and scratch. It may be at most 1.3 times that size.

Networks and random data are those of compare.py. Failures are lines that begin with "!"; the exit
status is then 1. With --quick, times are too short to be judged. tests/test_memory.py checks that
memory does not grow from step to step.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

# Nothing else is imported here: a worker decides the order of imports.

SLOWER = 1.1  # one median may be at most this many times the other
MEMORY = 1.3
SIZES, BATCH = (784, 512, 256, 10), 2048
MIB = 2**20


def samples(n: int, seed: int = 0) -> tuple[Any, Any]:
    """Pixels and class numbers."""
    import numpy as np

    rng = np.random.default_rng(seed)
    X = rng.integers(0, 256, (n, SIZES[0]), dtype=np.uint8)
    return X, rng.integers(0, SIZES[-1], n)


def trained(X: Any, y: Any, epochs: int, n_threads: int, seed: int = 0) -> tuple[Any, Any]:
    """Trains dense for the first third of the steps, then factored.

    Returns the result, and a hash of the parameters.
    """
    import svdfast as sf

    net = sf.Network(SIZES, seed=seed)
    result = sf.train(
        net,
        X,
        y,
        epochs=epochs,
        batch_size=BATCH,
        factoring=sf.Factoring(1 / 4, pretrain_fraction=1 / 3),
        n_threads=n_threads,
        seed=seed,
    )
    return result, hashlib.sha256(net.parameters).hexdigest()


# ---- workers: each runs in a new process and prints its answer


def one_training(torch_first: bool, n_threads: int, n_samples: int) -> dict[str, Any]:
    if torch_first:
        import torch  # noqa: F401
    result, digest = trained(*samples(n_samples), 6, n_threads)
    # The second of two epochs in each form, after warming up.
    rows = {row["epoch"]: row["seconds"] for row in result.history}
    steps = n_samples // BATCH
    return {"dense": rows[2] / steps, "factored": rows[6] / steps, "digest": digest}


def peak_memory(n_threads: int, n_samples: int) -> dict[str, Any]:
    import svdfast as sf

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

    layout = sf.Network(SIZES).layout
    # Rows of a tile in each thread: the input, activations and deltas, and the output before its activation.
    row = SIZES[0] + 2 * sum(SIZES[1:]) + SIZES[-1]
    counted = {
        "data": n_samples * (SIZES[0] + 8),  # uint8 rows; class numbers
        "labels and order": n_samples * (4 + 2 * 8),  # int32; orders of this epoch and the last
        "parameters, their last good copy, and moments": 4 * 4 * layout.size,
        "scratch": 4 * n_threads * (256 * row + layout.size),
    }
    before, code_before = status("VmRSS"), status("RssFile")
    trained(*samples(n_samples), 3, n_threads)
    # A process inherits ru_maxrss from its parent, so it is not used. Pages of programs that were
    # loaded when first executed (about 6 MiB for LAPACK) are subtracted: they stay, are shared with
    # other processes and do not grow with the network.
    code = status("RssFile") - code_before
    return {"growth": status("VmHWM") - before - code, "counted": counted}


def ask(*arguments: Any) -> dict[str, Any]:
    """The answer of a worker in a new process."""
    command = [sys.executable, __file__, "--worker", json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


WORKERS = {"one_training": one_training, "peak_memory": peak_memory}


# ---- the three measurements: their results and their failures


def after_torch(n_threads: int, n_rounds: int, n_samples: int, judge: bool) -> dict[str, Any]:
    failures = []
    answers: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for _ in range(n_rounds):
        for torch_first in answers:
            answers[torch_first].append(ask("one_training", torch_first, n_threads, n_samples))
    if len({answer["digest"] for both in answers.values() for answer in both}) > 1:
        failures.append(f"{n_threads} thread(s): after import torch the parameters differ")
    record: dict[str, Any] = {"threads": n_threads}
    for form in ("dense", "factored"):
        alone, after = ([answer[form] for answer in answers[first]] for first in (False, True))
        ratio = statistics.median(after) / statistics.median(alone)
        record[form] = {"alone": alone, "after torch": after, "ratio": ratio}
        print(
            f"import torch first, {n_threads} thread(s), {form}: {1e3 * statistics.median(after):.2f} ms a step, "
            f"alone {1e3 * statistics.median(alone):.2f} ms: ratio {ratio:.3f}",
            flush=True,
        )
        if judge and ratio > SLOWER:
            failures.append(f"{n_threads} thread(s): after import torch a step takes {ratio:.2f} times as long")
    return {**record, "failures": failures}


def two_at_once(n_threads: int, n_rounds: int, n_samples: int) -> dict[str, Any]:
    failures = []
    data = [samples(n_samples, seed) for seed in (0, 1)]

    def run(index: int) -> str:
        return str(trained(*data[index], 3, n_threads, seed=index)[1])

    def together() -> list[str]:
        found = ["", ""]

        def keep(index: int) -> None:
            found[index] = run(index)

        threads = [threading.Thread(target=keep, args=(i,)) for i in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    expected = [run(0), run(1)]  # not timed: these runs warm up
    seconds: dict[str, list[float]] = {"one after the other": [], "at once": []}
    for _ in range(n_rounds):
        start = time.perf_counter()
        again = [run(0), run(1)]
        middle = time.perf_counter()
        at_once = together()
        seconds["one after the other"].append(middle - start)
        seconds["at once"].append(time.perf_counter() - middle)
        if at_once != expected or again != expected:
            failures.append(f"two trainings at once, {n_threads} thread(s) each: parameters differ")
    ratio = statistics.median(seconds["at once"]) / statistics.median(seconds["one after the other"])
    print(
        f"two trainings at once, {n_threads} thread(s) each: {'the same bits' if not failures else 'OTHER BITS'}, "
        f"time of both at once ÷ one after the other {ratio:.2f}",
        flush=True,
    )
    return {"threads": n_threads, "seconds": seconds, "ratio": ratio, "failures": failures}


def memory(n_threads: int, n_samples: int) -> dict[str, Any]:
    record = ask("peak_memory", n_threads, n_samples)
    total = sum(record["counted"].values())
    ratio = record["growth"] / total
    print(
        f"memory of training, {n_threads} thread(s): peak grew by {record['growth'] / MIB:.1f} MiB, by count "
        f"{total / MIB:.1f} MiB: ratio {ratio:.2f}",
        flush=True,
    )
    failures = []
    if not ratio <= MEMORY:
        failures.append(f"memory, {n_threads} thread(s): {ratio:.2f} times what was counted")
    return {"threads": n_threads, **record, "ratio": ratio, "failures": failures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all that was measured here")
    parser.add_argument("--quick", action="store_true", help="few samples, one round: only a check")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, *values = json.loads(arguments.worker)
        print(json.dumps(WORKERS[name](*values)))
        return

    import machine

    torch_is_here = importlib.util.find_spec("torch") is not None
    description = machine.describe(["torch"])
    print(description, "\n")
    n_rounds, n_samples = (1, 2 * BATCH) if arguments.quick else (arguments.rounds, 8 * BATCH)
    result: dict[str, Any] = {"machine": description.splitlines()}
    threads = (1, 2)
    result["after torch"] = []
    if torch_is_here:
        result["after torch"] += [
            after_torch(n, n_rounds, n_samples, not arguments.quick) for n in threads
        ]
    else:
        print("torch: not installed, what it does to a training is left out")
    result["two at once"] = [two_at_once(n, n_rounds, n_samples) for n in threads]
    result["memory"] = []
    if Path("/proc/self/status").exists():
        # As many samples as MNIST, also with --quick: fewer would take less memory than an
        # interpreter's own fluctuations.
        result["memory"] += [memory(n, 60_000) for n in threads]
    else:
        print("memory: left out, for there is no /proc/self/status")

    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
    failures = [
        failure
        for records in (result["after torch"], result["two at once"], result["memory"])
        for record in records
        for failure in record["failures"]
    ]
    for failure in failures:
        print(f"! {failure}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
