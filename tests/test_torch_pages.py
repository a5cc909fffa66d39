# SPDX-License-Identifier: BSD-3-Clause
"""The scripts of docs/how-to/pytorch.md, as a user runs them, on a few samples: they end well, and layers are factored.

Elsewhere: the page's examples (test_docs.py), and how fast or good the trained models are.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import svdfast as sf

pytest.importorskip("torch", reason="PyTorch is not there")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "how-to" / "pytorch.md"
DATA = os.environ.get("SVDFAST_DATA")
pytestmark = [
    pytest.mark.skipif(not PAGE.is_file(), reason="docs/ is not beside the tests"),
    pytest.mark.skipif(not DATA, reason="SVDFAST_DATA names no folder of data sets"),
]


def run(name, folder, *arguments):
    """What the page's script of this name prints."""
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(rf"^<!-- file: {name} -->\n```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (folder / name).write_text(code, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(Path(sf.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", name, *map(str, arguments)],
        cwd=folder, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def check(lines, ranks, result):
    """One line of the dense training; the switch, the recomposition and one line of the factored one."""
    dense, switch, recompose, factored = lines
    assert re.fullmatch(rf"factoring=None: \d+ s, {result}", dense), dense
    assert re.fullmatch(rf"factoring=0.25: \d+ s, {result}", factored), factored
    n_steps = re.fullmatch(r"step (\d+) of \1: recompose ", recompose)[1]
    assert switch == f"step 1 of {n_steps}: switch {ranks}"


def test_cnn(tmp_path):
    # The first convolution has one channel only.
    ranks = {"2": 16, "5": 32, "7": 32, "11": 64}
    check(run("cnn.py", tmp_path, 256), ranks, r"test accuracy \d+\.\d\d %")


def test_gpt(tmp_path):
    layers = ("attend", "project", "up", "down")
    ranks = {f"blocks.{i}.{name}": 64 for i in range(4) for name in layers}
    check(run("gpt.py", tmp_path, Path(DATA) / "suite" / "tinyshakespeare.txt.gz", 64), ranks, r"\d\.\d{3} test bits")
