# SPDX-License-Identifier: BSD-3-Clause
"""A search in processes of their own, which may crash, hang or run out of memory. For hostile.py and mutants.py; no tests here.

The script is called anew with --worker START STOP --seed SEED and prints a line [index, name, kind, what] of JSON for each try.
"""

import argparse
import collections
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

SHOWN = 40  # faults in a record
PATIENCE = 15  # seconds of the clock, for one of CPU time: what waits for ever is seen by the first, and the machine may be busy


def limit_memory(extra):
    """This process may have so many bytes of address space more than it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, used + extra))


def limit_time(seconds):
    """This process is ended unless this is called again before it, with its threads, has computed for so long."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def eager():
    """In this process ranks="auto" looks at layers of any size, and truncates them by nearly any loss: else none of small networks."""
    from svdfast.training import auto
    from svdfast.training.run import Run

    auto.LEAST, auto.THIN, auto.WORTH, auto.SHARE, auto.SHARES = 1, 0, 1, 0, 0
    auto.LOOKING, auto.SHORTEST, auto.LATEST = 1e9, 1, 1
    auto.LOST = auto.LOST_OF_KERNEL = 0.5
    constant_loss = Run.constant_loss
    # Few steps learn little: so that they seem to have learned something.
    Run.constant_loss = lambda run, rows: 2 * constant_loss(run, rows)


def stops_when_told():
    """SIGTERM is as Ctrl-C."""

    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def search(script, tries, seed, name_of, *, chunk, limit, more=()):
    """Makes the tries; returns counts by name, faults, and seconds. A crash or a hang is a fault of the try at which it came.

    Ctrl-C, or SIGTERM where `stops_when_told` was called, ends it: the tries that were made are counted.
    """
    counts = collections.defaultdict(collections.Counter)
    faults, began, slowest, index = [], time.monotonic(), (0.0, 0), 0
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "passive",
        "MPLBACKEND": "agg",
    }
    while index < tries:
        stop = min(index + chunk, tries)
        command = [sys.executable, script, "--worker", str(index), str(stop), "--seed", str(seed), *more]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        lines = queue.Queue()
        reader = threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True)
        reader.start()
        ended, stopped, at = None, False, time.monotonic()
        while True:
            try:
                line = lines.get(timeout=PATIENCE * limit)
            except KeyboardInterrupt:
                process.kill()
                stopped = True
                break
            except queue.Empty:
                process.kill()
                ended = f"no answer in {PATIENCE * limit} s"
                break
            if line is None:
                break
            if not line.startswith("["):
                continue  # what a third library prints
            done, name, kind, what = json.loads(line)
            slowest = max(slowest, (time.monotonic() - at, done))
            at = time.monotonic()
            counts[name][kind] += 1
            if kind == "FAULT":
                faults.append([done, name, what])
            index = done + 1
        code = process.wait()
        reader.join()
        process.stdout.close()
        if stopped:
            break
        if index < stop or code != 0:
            last = min(index, stop - 1)
            counts[name_of(last)]["FAULT"] += 1
            faults.append([last, name_of(last), ended or f"the process ended with {code}"])
            index = max(index, last + 1)
    total = collections.Counter()
    for counter in counts.values():
        total.update(counter)
    return {
        "tries": sum(total.values()), "seed": seed, "seconds": round(time.monotonic() - began, 1), "slowest_seconds": round(slowest[0], 2),
        "slowest": slowest[1], "outcomes": dict(sorted(total.items())), "n_faults": len(faults), "faults": faults[:SHOWN],
        "by_name": {name: dict(sorted(counts[name].items())) for name in sorted(counts)},
    }  # fmt: skip


def _pass_on(stream, lines):
    for line in stream:
        lines.put(line)
    lines.put(None)


def write_record(record, path):
    """Prints a record in short, and writes it where a path is given. Gives the exit status."""
    print(json.dumps({key: value for key, value in record.items() if key != "by_name"}, indent=1))
    if path:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if record["n_faults"] else 0


def main(script, doc, tries, kinds, work, turn, *, chunk, limit, light=None):
    """The command: searches, or does a worker's part, or makes one try again in this process. Gives the exit status.

    work(start, stop, seed, show) makes tries, turn() gives the names that they have by turns; both take `light` where there is such an
    option, whose help is `light`. `tries` and `kinds` are what the numbers of tries and of names are called.
    """
    import numpy as np

    import svdfast as sf

    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(f"--{tries}", type=int, default=1000, dest="tries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    if light is not None:
        parser.add_argument("--light", action="store_true", help=light)
    given = parser.parse_args()
    options = {} if light is None else {"light": given.light}
    if given.worker:
        work(*given.worker, given.seed, **options)
        return 0
    if given.only is not None:
        work(given.only, given.only + 1, given.seed, show=True, **options)
        return 0
    stops_when_told()
    names = turn(**options)
    more = ["--light"] if options.get("light") else []
    found = search(script, given.tries, given.seed, lambda i: names[i % len(names)], chunk=chunk, limit=limit, more=more)
    versions = {"numpy": np.__version__, "svdfast": sf.__version__}
    return write_record({kinds: len(found["by_name"]), **versions, **found}, given.record)
