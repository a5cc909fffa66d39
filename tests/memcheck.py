# SPDX-License-Identifier: BSD-3-Clause
"""A small training under valgrind's memcheck: no use of memory that is not svdfast's, nor of what was never written.

Run as `python tests/memcheck.py`; it fails, with valgrind's report, where an error has a compiled module of svdfast in its stack, and
says what it counted. What sanitizers see of a build of their own is .ci/run's matter; memcheck sees the build as it is installed, masked
loads and values that were never set among the rest.

valgrind knows no AVX-512, so the loops and products are AVX2's. What the interpreter, NumPy and OpenBLAS do by themselves is not looked at.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

# One thread: valgrind runs no two at once, and OpenMP's waiting ones would take all the time.
ENVIRONMENT = {
    "PYTHONMALLOC": "malloc",
    "SVDFAST_CPU": "avx2",
    "OPENBLAS_CORETYPE": "Haswell",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def training():
    """Each kind of layer and step once, of odd sizes, so that no row, tile or block is a whole number of vectors."""
    import numpy as np

    import svdfast as sf

    rng = np.random.default_rng(0)
    for dtype, precision in (("float32", None), ("float64", None), ("float32", "bfloat16")):
        for p, batch_size in ((37, 13), (531, 530)):  # weights' gradients by weights, and by tiles
            X = rng.integers(0, 256, (p, 19)).astype("uint8") if batch_size == 13 else rng.random((p, 19)).astype(dtype)
            y = rng.integers(0, 3, p)
            net = sf.Network([19, 23, 17, 3], hidden=["gelu", "tanh"], dtype=dtype, seed=0)
            optimizer = sf.Adam(0.01) if batch_size == 13 else sf.GradientDescent(0.01, momentum=0.9)
            sf.train(
                net, X, y, epochs=3, batch_size=batch_size, optimizer=optimizer, precision=precision, l2=0.01,
                factoring=sf.Factoring(0.3, force=True, pretrain_fraction=1 / 3, recompose_fraction=2 / 3), seed=0,
                sample_weight=rng.random(p), n_threads=1,
            )  # fmt: skip
            net.truncate(ranks=[4, 3], force=True)
            net.predict(X, n_threads=1)
            net.evaluate(X, y, n_threads=1)
    net = sf.Network([5, 7, 2], hidden="relu", output="identity", seed=0)
    sf.train(net, rng.random((9, 5)), rng.random((9, 2)), epochs=1, batch_size=4, factoring=None)


def errors(report):
    """Of valgrind's report those with svdfast in their stack: a line for each."""
    for error in ET.parse(report).getroot().iter("error"):
        if error.findtext("kind", "").startswith("Leak_"):  # what lives as long as the process; test_memory.py looks for leaks
            continue
        frames = [
            (frame.findtext("obj", ""), frame.findtext("fn", "?"), frame.findtext("file", ""), frame.findtext("line", ""))
            for frame in error.iter("frame")
        ]
        if any(Path(obj).parent.name == "svdfast" for obj, *_ in frames):
            what = error.findtext("what") or error.findtext("xwhat/text")
            place = " < ".join(f"{fn} ({file}:{line})" for _, fn, file, line in frames[:6])
            yield f"{error.findtext('kind')}: {what}: {place}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training", action="store_true", help="only the training, without valgrind")
    if parser.parse_args().training:
        training()
        return
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        sys.exit("valgrind is not here")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [
            valgrind, "--tool=memcheck", "--leak-check=no", "--error-limit=no", "--num-callers=30", "--xml=yes",
            f"--xml-file={report}", sys.executable, "-P", __file__, "--training",
        ]  # fmt: skip
        done = subprocess.run(command, env=os.environ | ENVIRONMENT)
        found = list(errors(report)) if done.returncode == 0 else []
    for line in found:
        print(line)
    if done.returncode != 0:
        sys.exit(f"the training ended with {done.returncode}")
    print(f"memcheck: {len(found)} errors in svdfast")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
