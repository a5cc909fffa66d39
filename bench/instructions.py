# SPDX-License-Identifier: BSD-3-Clause
"""Instructions of one training step, counted by valgrind's callgrind.

    python bench/instructions.py             counts, and fails if a step takes over 3 % more than
                                             the number in instructions.json
    python bench/instructions.py --record    writes instructions.json

Other programs on the machine do not affect this count. Instructions depend on the compiler and on
Python, so counts are compared only if both have the recorded versions. OpenBLAS computes products
in float64, so these counts also need the recorded version of SciPy. Other counts are only printed.
Steps use AVX2, because valgrind does not know AVX-512, and one thread. The other benches measure
seconds.
"""

import argparse
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RECORDED = Path(__file__).with_suffix(".json")
TOLERANCE = 0.03
STEPS = 2  # steps of each case; the last is counted, after all memory has been touched
CASES = list(
    itertools.product(("dense", "factored"), ("float32", "float64"), (32, 600), ("Adam", "GradientDescent"))
) + list(itertools.product(("xor",), ("float32", "float64"), (4,), ("Adam", "GradientDescent")))
ENVIRONMENT = {
    "SVDFAST_CPU": "avx2",
    "OPENBLAS_CORETYPE": "Haswell",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}


def name(case):
    return " ".join(str(part) for part in case)


def steps():
    """Runs the steps, case by case."""
    import numpy as np

    import svdfast as sf
    from svdfast._engine import Engine
    from svdfast._process.runtime import single_threaded_blas
    from svdfast.data.checks import checked_samples
    from svdfast.model.evaluation import spec_of

    rng = np.random.default_rng(0)
    with single_threaded_blas.held():
        for kind, dtype, batch_size, optimizer in CASES:
            sizes, output = ([2, 20, 20, 1], "sigmoid") if kind == "xor" else ([64, 100, 50, 10], "softmax")
            net = sf.Network(sizes, output=output, dtype=dtype, seed=0)
            if kind == "factored":
                net.truncate(ranks=[16, 12], force=True)
            X, y = rng.random((batch_size, sizes[0])).astype(dtype), rng.integers(0, max(sizes[-1], 2), batch_size)
            data = checked_samples(X, y, None, spec_of(net))
            engine = Engine(net.layout, net.parameters, batch_size=batch_size, n_threads=1)
            data.bind(engine)
            rule = getattr(sf, optimizer)(0.01)
            rule.begin("here", net.layout.size, dtype)
            engine.set_update(rule.rule, rule.moments)
            engine.set_order(rng.permutation(batch_size))
            for t in range(STEPS):
                engine.step(0, batch_size, 0.01, t + 1, 0.0, 0.01)


def step_symbol():
    """The name of Engine.step in Cython's code."""
    from svdfast import _engine

    found = re.search(rb"__pyx_pw_7svdfast_7_engine_6Engine_[0-9]+step(?![a-z])", Path(_engine.__file__).read_bytes())
    if found is None:
        sys.exit("svdfast's _engine has no symbols: was it stripped?")
    return found[0].decode()


def counted(valgrind):
    """Instructions of a step by case.

    callgrind counts only within calls of the engine's step, and writes a file after each call.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            valgrind, "--tool=callgrind", "--collect-atstart=no", f"--toggle-collect={step_symbol()}",
            f"--dump-after={step_symbol()}", f"--callgrind-out-file={folder}/out", sys.executable, __file__, "--steps",
        ]  # fmt: skip
        done = subprocess.run(command, env=os.environ | ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"valgrind ended with {done.returncode}:\n{done.stderr[-3000:]}")
        totals = {}
        for file in Path(folder).glob("out*"):
            text = file.read_text()
            part, total = (re.search(rf"^{key}: (\d+)", text, re.M) for key in ("part", "totals"))
            if part and total and int(total[1]) > 0:
                totals[int(part[1])] = int(total[1])
    in_order = [totals[part] for part in sorted(totals)]
    if len(in_order) != STEPS * len(CASES):
        sys.exit(f"callgrind wrote {len(in_order)} counts, not {STEPS * len(CASES)}")
    return {name(case): in_order[STEPS * i + STEPS - 1] for i, case in enumerate(CASES)}


def versions():
    """Versions that the counts depend on. The compiler is the one that is found now."""
    import scipy

    compiler = shutil.which("gcc")
    gcc = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True).stdout.strip() if compiler else "none"
    return {"gcc": gcc, "python": ".".join(platform.python_version_tuple()[:2]), "scipy": scipy.__version__}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name}")
    parser.add_argument("--steps", action="store_true", help="only the steps, without valgrind")
    arguments = parser.parse_args()
    if arguments.steps:
        steps()
        return
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        sys.exit("valgrind is not here")
    counts, here = counted(valgrind), versions()
    if arguments.record:
        RECORDED.write_text(json.dumps({"versions": here, "instructions": counts}, indent=1) + "\n", encoding="utf-8")
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    other = [key for key in here if recorded["versions"][key] != here[key]]
    worse = []
    for case, count in counts.items():
        before = recorded["instructions"].get(case)
        compared = before is not None and not set(other) & ({"gcc", "python", "scipy"} if "float64" in case else {"gcc", "python"})
        change = f"{100 * (count / before - 1):+7.2f} %" if compared else "  not compared"
        print(f"{case:<44} {count:>12,} {change}")
        if compared and count > (1 + TOLERANCE) * before:
            worse.append(case)
    for key in other:
        print(f"{key} is {here[key]} here and was {recorded['versions'][key]} when counts were recorded")
    if worse:
        sys.exit(f"over {TOLERANCE:.0%} more instructions than recorded: {'; '.join(worse)}")


if __name__ == "__main__":
    main()
