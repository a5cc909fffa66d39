# SPDX-License-Identifier: BSD-3-Clause
"""The notebooks of docs/notebooks run from top to bottom, as plain cells and, where nbclient is installed, in Jupyter.

Elsewhere: whether their outputs are still those that are stored; times and the last digits differ between machines.
"""

import json
import os
import re
from pathlib import Path

import pytest

import svdfast

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs" / "notebooks").glob("*.ipynb"))
# What a notebook imports, and its figures need.
NEEDED = {
    "first-steps": ["sklearn", "matplotlib"],
    "compress-scikit-learn": ["sklearn"],
    "factor-pytorch-cnn": ["sklearn", "torch"],
}

pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="the notebooks are not beside the tests")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request, tmp_path, monkeypatch):
    """A notebook's path; the current folder is an empty one."""
    for module in NEEDED[request.param.stem]:
        pytest.importorskip(module, reason=f"the notebook needs {module}")
    monkeypatch.chdir(tmp_path)
    return request.param


def cells(path, kind):
    return ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]


def test_cells_run(notebook):
    namespace = {"__name__": "__main__"}
    code = cells(notebook, "code")
    assert len(code) >= 4 and any("assert " in cell for cell in code)
    for number, cell in enumerate(code):
        exec(compile(cell, f"{notebook.name}, cell {number}", "exec"), namespace)


def test_runs_in_jupyter(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    # The kernel imports the svdfast that is tested.
    paths = [str(Path(svdfast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    book = nbformat.read(notebook, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=resources).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_what_it_needs(path):
    first = cells(path, "markdown")[0]
    assert re.match(r"# \S", first) and "pip install \".[demo" in first
    book = json.loads(path.read_text(encoding="utf-8"))
    errors = [o for c in book["cells"] for o in c.get("outputs", []) if o["output_type"] == "error"]
    assert errors == [] and path.stat().st_size < 100_000
