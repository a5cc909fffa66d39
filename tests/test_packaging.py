# SPDX-License-Identifier: BSD-3-Clause
"""Tests of what is shipped: the wheel's and the sdist's contents, what an import costs others, docstrings and their examples.

The tests named `test_built_` build the sdist and, from it, the wheel, offline: they need the sources beside tests/, a compiler,
and what builds need. The others look at the package that is installed, whatever it was installed from.
"""

import ast
import contextlib
import doctest
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import types
import typing
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import svdfast as sf

ROOT = Path(__file__).resolve().parent.parent
COMPILED = (
    "_blas", "_elementwise", "_engine", "cython_kernels",
    *(f"ops.{path.stem}" for path in sorted((ROOT / "src" / "ops").glob("*.pyx"))),
)  # fmt: skip
OPTIONAL = (
    "dask", "distributed", "h5py", "lightning", "matplotlib", "mpi4py", "onnx", "onnxruntime", "safetensors", "sklearn",
    "tensorboardX", "torch", "tqdm", "transformers", "zarr",
)  # fmt: skip
EPOCH = 1_000_000_000  # in 2001
REQUIRED = ["numpy", "scipy", "threadpoolctl"]
PAPERS = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md")

needs_sources = pytest.mark.skipif(
    not (ROOT / "setup.py").is_file(), reason="the sources are not beside the tests"
)


def command(*arguments, cwd, **variables):
    """Runs Python on arguments, without the environment's say in how svdfast is built or imported."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("SVDFAST_")} | variables
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


def shipped(folder, *patterns):
    """Names, relative to the sources, of a folder's files; caches, generated C and built documentation are not shipped."""
    return {
        path.relative_to(ROOT).as_posix()
        for pattern in patterns
        for path in (ROOT / folder).rglob(pattern)
        if path.is_file()
        and not {"__pycache__", "_build", "generated"} & set(path.parts)
        and path.suffix not in (".so", ".pyd")
        and not (path.suffix == ".c" and path.with_suffix(".pyx").exists())
    }


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The sdist, built from a copy that holds no products of earlier builds."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools", minversion="77")
    if command("-m", "pip", "--version", cwd=ROOT).returncode != 0:
        pytest.skip("pip is not there to build with")
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cl").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"the compiler {compiler} is not there")
    folder = tmp_path_factory.mktemp("packaging")
    copy = folder / "copy"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", *PAPERS):
        shutil.copy(ROOT / name, copy)
    products = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", ".*")
    for name in ("src", "svdfast", "tests", "bench", "docs"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=products)
    for built in ("docs/_build/index.html", "docs/reference/generated/train.rst"):
        (copy / built).parent.mkdir(parents=True, exist_ok=True)
        (copy / built).touch()
    for path in copy.glob("src/**/*.c"):
        if path.with_suffix(".pyx").exists():
            path.unlink()
    build = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    done = command("-c", build, cwd=copy, SOURCE_DATE_EPOCH=str(EPOCH))
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(sdist):
    """The wheel, built from the sdist alone. Unoptimised, with bounds checks: half the time, the same files."""
    done = command(
        "-m", "pip", "wheel", "--no-index", "--no-build-isolation", "--no-deps", "-w", ".", sdist.name,
        cwd=sdist.parent, SVDFAST_DEBUG="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = sdist.parent.glob("*.whl")
    return archive


@needs_sources
def test_built_sdist_holds_all_that_builds_and_tests(sdist):
    with tarfile.open(sdist) as archive:
        names = {"/".join(m.name.split("/")[1:]) for m in archive.getmembers() if m.isfile()}
    wanted = {*PAPERS, "pyproject.toml", "setup.py", "PKG-INFO"}
    wanted |= shipped("src", "*.pyx", "*.pxd", "*.h", "*.c")
    wanted |= shipped("svdfast", "*.py", "*.pyi", "*.pxd", "py.typed")
    wanted |= shipped("tests", "*.*") | shipped("bench", "*.*") | shipped("docs", "*.*")
    assert wanted - names == set()
    assert [n for n in names if n.endswith((".so", ".pyd", ".pyc"))] == []
    assert {n for n in names if n.endswith(".c")} == shipped("src", "*.c")
    assert [n for n in names if "_build" in n or "generated" in n] == []


@needs_sources
def test_built_sdist_depends_on_no_clock_and_no_user(sdist):
    """CI builds twice and compares; this shows what would differ."""
    assert sdist.read_bytes()[4:8] == EPOCH.to_bytes(4, "little")  # gzip's own time
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(EPOCH, 0, 0, "", "")}
    assert {m.mode for m in members} <= {0o644, 0o755}


@needs_sources
def test_built_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    package = shipped("svdfast", "*.py", "*.pyi", "*.pxd", "py.typed")
    assert {"svdfast/__init__.py", "svdfast/py.typed", "svdfast/cython_kernels.pxd"} <= package
    package |= {f"svdfast/{name.replace('.', '/')}{suffix}" for name in COMPILED}
    info = {name for name in names if re.fullmatch(r"svdfast-[^/]+\.dist-info/.*", name)}
    assert names - info == package
    assert any(name.endswith("/LICENSE") for name in info)


@needs_sources
def test_built_wheel_needs_three_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    required = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", text, flags=re.MULTILINE)
    assert sorted(required) == REQUIRED


@needs_sources
def test_built_wheel_trains_with_bounds_checks(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import numpy as np
import svdfast as sf
assert sf.__file__.startswith({str(tmp_path)!r}), sf.__file__
X = np.random.default_rng(0).random((300, 7))
net = sf.Network([7, 30, 20, 3], seed=0)
first = net.evaluate(X, X[:, :3].argmax(axis=1)).loss
method = sf.Factoring(1 / 4, force=True)
result = sf.train(net, X, X[:, :3].argmax(axis=1), epochs=60, batch_size=32, n_threads=2, factoring=method)
assert result.history[-1]["phase"] == "factored"
assert result.history[-1]["loss"] < first
"""
    done = command("-c", program, cwd=tmp_path, PYTHONPATH="")
    assert done.returncode == 0, done.stderr


def test_installed_package_needs_three_packages():
    try:
        required = metadata.requires("svdfast")
    except metadata.PackageNotFoundError:
        pytest.skip("svdfast is imported without being installed")
    plain = [re.match(r"[\w-]+", r)[0] for r in required if "extra ==" not in r]
    assert sorted(plain) == REQUIRED


def test_version_is_the_metadatas():
    try:
        assert sf.__version__ == metadata.version("svdfast")
    except metadata.PackageNotFoundError:
        pytest.skip("svdfast is imported without being installed")


def test_import_leaves_the_process_as_it_was():
    program = f"""
import json, os, sys
import numpy
from threadpoolctl import threadpool_info
optional = {OPTIONAL!r}
def numpys_threads():
    return {{l["filepath"]: l["num_threads"] for l in threadpool_info() if l["user_api"] == "blas"}}
before, threads, loaded = dict(os.environ), numpys_threads(), set(sys.modules)
import svdfast
after = numpys_threads()
print(json.dumps({{
    "optional": [m for m in optional if m in sys.modules and m not in loaded],
    "environment": before == dict(os.environ),
    "threads": all(after[path] == n for path, n in threads.items()),
}}))
"""
    done = command("-W", "error", "-c", program, cwd=None)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert json.loads(line) == {"optional": [], "environment": True, "threads": True}


def public_objects():
    """Each name of `svdfast.__all__` and of the modules that are imported by name alone, and those of its modules."""
    found = {name: getattr(sf, name) for name in sf.__all__}
    for name in ("onnx", "torch"):
        with contextlib.suppress(ImportError):  # of an optional package
            found[name] = importlib.import_module(f"svdfast.{name}")
    for name, value in found.items():
        yield name, value
        if isinstance(value, types.ModuleType):
            for inner in value.__all__:
                yield f"{name}.{inner}", getattr(value, inner)


def test_all_public_names_have_docstrings():
    missing = []
    for name, value in public_objects():
        if typing.get_origin(value) is not None:  # an alias of a type, for annotations
            continue
        if isinstance(value, type | types.ModuleType) or callable(value):
            if not inspect.getdoc(value):
                missing.append(name)
        if isinstance(value, type):
            missing += [
                f"{name}.{key}"
                for key, method in vars(value).items()
                if inspect.isfunction(method) and key[0] != "_" and not inspect.getdoc(method)
            ]
    assert missing == []


def test_public_names_are_sorted_out():
    assert len(set(sf.__all__)) == len(sf.__all__)
    assert [name for name in sf.__all__ if not hasattr(sf, name)] == []


def test_private_modules_are_not_public():
    assert [name for name in sf.__all__ if name.startswith("_")] == []


MODULES = ["svdfast"]
MODULES += sorted(info.name for info in pkgutil.walk_packages(sf.__path__, "svdfast."))
if "svdfast.__main__" in MODULES:
    MODULES.remove("svdfast.__main__")


def absent_packages(test):
    """Optional packages that a docstring's examples import and that are not there."""
    nodes = [node for e in test.examples for node in ast.walk(ast.parse(e.source))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    roots = {name.split(".")[0] for name in names}
    return {name for name in roots & set(OPTIONAL) if importlib.util.find_spec(name) is None}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not there")
    runner = doctest.DocTestRunner()
    absent = set()
    for test in doctest.DocTestFinder().find(module):
        missing = absent_packages(test)
        if not missing:
            runner.run(test)
        absent |= missing
    assert runner.failures == 0
    if absent:
        pytest.skip(f"some examples need what is not there: {', '.join(sorted(absent))}")


def test_the_compiled_modules_are_there():
    assert {f"svdfast.{name}" for name in COMPILED} <= set(MODULES)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for name in COMPILED:
        assert importlib.import_module(f"svdfast.{name}").__file__.endswith(suffix)
