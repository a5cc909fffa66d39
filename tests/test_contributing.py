# SPDX-License-Identifier: BSD-3-Clause
"""The pages of docs/contributing do what they say: their edits are applied to a copy of the sources, which is built, and their
scripts run with it.

A page shows edits as blocks of `diff`, new files and scripts as blocks after a comment `<!-- file: PATH -->`. Needs the sources
beside tests/, Cython and a compiler. Elsewhere: the pages' examples, which need no edits (test_docs.py).
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import svdfast as sf

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "contributing").glob("*.md"))
BLOCK = re.compile(r"^(?:<!-- file: (\S+) -->\n)?```(\w+)\n((?:.*\n)*?)```$", re.MULTILINE)
# The modules that the edits change; the others are those that the installed svdfast has.
REBUILT = ("svdfast._elementwise", "svdfast.ops.scale")
# Files of the library that a page says it takes.
FILES = {
    "activation": 2,
    "optimizer": 2,
    "rank-rule": 1,
    "structure": 0,
    "operation": 2,
    "index": 0,
}

BUILD = f"""
import runpy
import Cython.Build
cythonize = Cython.Build.cythonize
Cython.Build.cythonize = lambda all, **how: cythonize([one for one in all if one.name in {REBUILT}], **how)
runpy.run_path("setup.py", run_name="__main__")
"""

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").is_file(), reason="the sources are not beside the tests"
)


def edits(page):
    """(files that are new, edits of files that are there) of a page: contents, and lists of (before, after), by path."""
    new, changed = {}, {}
    for path, language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if path:
            new[path] = code
        elif language == "diff":
            head, *hunks = re.split(r"^@@\n", code, flags=re.MULTILINE)
            (path,) = re.findall(r"^\+\+\+ b/(\S+)$", head, re.MULTILINE)
            changed.setdefault(path, []).extend(
                tuple(
                    "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[:1] != left)
                    for left in "+-"
                )
                for hunk in hunks
            )
    return new, changed


def run(*arguments, folder, cwd):
    """Python with the copy in `folder`, without the environment's say in how svdfast is built or imported."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SVDFAST_", "PYTHON"))
    }
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=variables | {"PYTHONPATH": str(folder), "SVDFAST_DEBUG": "1"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The sources with all pages' edits, built as far as these go."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools", minversion="77")
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cl").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"the compiler {compiler} is not there")
    folder = tmp_path_factory.mktemp("contributing").resolve()
    products = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
    for name in ("src", "svdfast"):
        shutil.copytree(ROOT / name, folder / name, ignore=products)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    installed = Path(sf.__file__).resolve().parent
    for suffix in ("*.so", "*.pyd"):
        for path in installed.rglob(suffix):
            if "_elementwise" not in path.name:
                shutil.copy2(path, folder / "svdfast" / path.relative_to(installed))
    for page in PAGES:
        new, changed = edits(page)
        for path, code in new.items():
            assert not (folder / path).exists(), path
            (folder / path).write_text(code, encoding="utf-8")
        for path, pairs in changed.items():
            text = (folder / path).read_text(encoding="utf-8")
            for before, after in pairs:
                assert text.count(before) == 1, (
                    f"{page.name}: {path} has this {text.count(before)} times:\n{before}"
                )
                text = text.replace(before, after)
            (folder / path).write_text(text, encoding="utf-8")
    for path in (folder / "src" / "loops").glob("_elementwise.c"):
        path.unlink()
    run("-c", BUILD, "-q", "build_ext", "--inplace", folder=folder, cwd=folder)
    return folder


SCRIPTS = {path: page for page in PAGES for path in edits(page)[0] if path.startswith("check_")}


def test_pages_are_found():
    assert {page.stem for page in PAGES} == set(FILES)
    assert len(SCRIPTS) == 4


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_takes_the_files_that_it_says(page):
    new, changed = edits(page)
    touched = {path for path in new if path not in SCRIPTS} | set(changed)
    assert len(touched) == FILES[page.stem]
    text = page.read_text(encoding="utf-8")
    assert all(f"`{path}`" in text for path in changed)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts(script, copy, tmp_path):
    run(str(copy / script), folder=copy, cwd=tmp_path)
