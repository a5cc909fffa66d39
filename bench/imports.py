# SPDX-License-Identifier: BSD-3-Clause
"""Time of `import svdfast` beyond the parts of NumPy, SciPy and threadpoolctl that it needs.

    python bench/imports.py [--rounds N]

New processes alternate: one imports the parts of the three packages that svdfast uses, the other
imports svdfast. The median of the rounds' differences is svdfast's own time: for its modules, its
compiled modules, and its check of the process's BLAS. The exit status is 1 if that is
longer than the other imports of the same rounds take: a ratio, so that a slow machine passes, too.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

import machine

# Of svdfast's own time, as a share of the time of what it needs.
LIMIT = 1.0
NEEDED = "import numpy, scipy.linalg, scipy.linalg.cython_blas, threadpoolctl"
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(statement: str) -> float:
    """Seconds of a statement in a new process, without the interpreter's own start."""
    done = subprocess.run([sys.executable, "-P", "-c", TIMED.format(statement)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    n_rounds = parser.parse_args().rounds
    print(machine.describe())
    # The first loads the files.
    both = [(seconds(NEEDED), seconds("import svdfast")) for _ in range(n_rounds + 1)][1:]
    needed, whole = (statistics.median(times) for times in zip(*both, strict=True))
    own = statistics.median(b - a for a, b in both)
    print(f"\n{n_rounds} rounds, medians: {NEEDED} {needed:.3f} s; import svdfast {whole:.3f} s")
    share = statistics.median((b - a) / a for a, b in both)
    print(f"svdfast's own part: {own:.3f} s, {share:.2f} of what it needs, of at most {LIMIT}")
    if share >= LIMIT:
        print(f"! importing svdfast takes {own:.3f} s beyond what it needs")
        sys.exit(1)


if __name__ == "__main__":
    main()
