# SPDX-License-Identifier: BSD-3-Clause
"""What `import svdfast` takes beyond what it needs from NumPy, SciPy and threadpoolctl.

    python bench/imports.py [--rounds N]

New processes by turns: one imports those parts of the three packages that svdfast uses, the other svdfast. The median of the rounds'
differences is svdfast's own part: its modules, its compiled ones, and the look at the process's BLAS. The exit status is 1 where that is
0.3 s or more. Where it goes, `python -X importtime -c "import svdfast"` says. Not here: what svdfast costs once it is there.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

import machine

LIMIT = 0.3
NEEDED = "import numpy, scipy.linalg, scipy.linalg.cython_blas, threadpoolctl"
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(statement: str) -> float:
    """In a new process, without the interpreter's own start."""
    done = subprocess.run([sys.executable, "-P", "-c", TIMED.format(statement)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    n_rounds = parser.parse_args().rounds
    print(machine.describe())
    both = [(seconds(NEEDED), seconds("import svdfast")) for _ in range(n_rounds + 1)][1:]  # the first brings the files to memory
    needed, whole = (statistics.median(times) for times in zip(*both, strict=True))
    own = statistics.median(b - a for a, b in both)
    print(f"\n{n_rounds} rounds, medians: {NEEDED} {needed:.3f} s; import svdfast {whole:.3f} s")
    print(f"svdfast's own part: {own:.3f} s, of at most {LIMIT} s")
    if own >= LIMIT:
        print(f"! importing svdfast takes {own:.3f} s beyond what it needs")
        sys.exit(1)


if __name__ == "__main__":
    main()
