# SPDX-License-Identifier: BSD-3-Clause
"""Python started in a clone that is not compiled imports the installed svdfast, or says what to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import svdfast

INSTALLED = Path(svdfast.__file__).parent
SHOW = "print(sf.__file__, sf.Network([2, 3, 2]))"


@pytest.fixture
def clone(tmp_path):
    """A folder with the package's sources, and nothing compiled."""
    compiled = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(INSTALLED, tmp_path / "clone" / "svdfast", ignore=compiled)
    return tmp_path / "clone"


def python(*arguments, cwd, path):
    """Runs Python as a user does in a folder, with svdfast installed in `path`."""
    # Started so, Python puts the current folder before PYTHONPATH.
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=variables | {"PYTHONPATH": str(path)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    "program",
    [
        "import svdfast as sf",
        "from svdfast._engine import Engine; import svdfast as sf",
        "import svdfast.model.network; import svdfast as sf",
        "import svdfast.ops.dropout; import svdfast as sf",
    ],
)
def test_the_installed_package_is_imported(clone, program):
    done = python("-W", "error", "-c", f"{program}; {SHOW}", cwd=clone, path=INSTALLED.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{INSTALLED / '__init__.py'} <Network 2 -> 3 -> 2, float32>\n"


def test_the_command_runs_in_a_clone(clone):
    done = python("-m", "svdfast", "info", cwd=clone, path=INSTALLED.parent)
    assert done.returncode == 0, done.stderr
    assert "instruction_set" in done.stdout


def test_processes_of_a_pool_import_the_same(clone):
    (clone / "pool.py").write_text(
        "import multiprocessing, svdfast as sf\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply(sf.break_even_rank, (512, 512)))\n"
    )
    done = python("pool.py", cwd=clone, path=INSTALLED.parent)
    assert done.stdout == "255\n", done.stderr


def test_without_an_installed_package_the_error_says_what_to_do(clone, tmp_path):
    # -S: a svdfast in site-packages would be found.
    (tmp_path / "empty").mkdir()
    done = python("-S", "-c", "import svdfast", cwd=clone, path=tmp_path / "empty")
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: svdfast in {clone / 'svdfast'} is not compiled, and none is installed: "
        f"run `pip install .` in {clone}, or start Python in another folder"
    )


@pytest.mark.parametrize("name", ["__init__.py", "_process/version.py"])
def test_another_version_is_refused(clone, name):
    with open(clone / "svdfast" / name, "a") as file:
        file.write("# newer\n")
    done = python("-c", "import svdfast", cwd=clone, path=INSTALLED.parent)
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: svdfast in {clone / 'svdfast'} is not compiled, and {INSTALLED} is of another version: "
        f"run `pip install .` in {clone}, or start Python in another folder"
    )


def test_public_names_alone_are_listed():
    assert dir(svdfast) == sorted([*svdfast.__all__, "__version__"])
