# SPDX-License-Identifier: BSD-3-Clause
"""What says how wheels are built, and what is said of the project: that these texts can be read, and agree with each other.

They lie with the sources; the wheels and the sdist themselves are test_packaging.py's.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import svdfast as sf

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="the sources are not beside the tests")


def text(name):
    path = ROOT / name
    if not path.is_file():
        pytest.skip(f"{name} is not beside the tests")
    return path.read_text(encoding="utf-8")


def project():
    return tomllib.loads(text("pyproject.toml"))


def yaml(name):
    return pytest.importorskip("yaml", reason="PyYAML is not installed").safe_load(text(name))


def pythons():
    """Those that the classifiers name, as 3.11."""
    named = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", c) for c in project()["project"]["classifiers"])
    return [match[1] for match in named if match]


def test_wheels_are_for_the_pythons_that_are_named():
    build = project()["tool"]["cibuildwheel"]["build"]
    assert build == [f"cp{version.replace('.', '')}-*" for version in pythons()]
    assert project()["project"]["requires-python"] == f">={pythons()[0]}"


@pytest.mark.parametrize(
    "arguments, kinds",
    [
        (["linux", "--archs", "x86_64"], {"manylinux_x86_64", "musllinux_x86_64"}),
        (["linux", "--archs", "aarch64"], {"manylinux_aarch64", "musllinux_aarch64"}),
        (["macos", "--archs", "arm64,x86_64"], {"macosx_arm64", "macosx_x86_64"}),
        (["windows"], {"win_amd64"}),
    ],
)
def test_cibuildwheel_knows_what_to_build(arguments, kinds):
    pytest.importorskip("cibuildwheel", reason="cibuildwheel is not installed")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cibuildwheel", "--print-build-identifiers", "--platform", *arguments, str(ROOT)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wanted = {f"cp{version.replace('.', '')}-{kind}" for version in pythons() for kind in kinds}
    assert set(done.stdout.split()) == wanted


def test_each_wheel_is_tested_for_what_it_must_have():
    """OpenMP is left out without a word where a compiler lacks it; a wheel must not be."""
    settings = project()["tool"]["cibuildwheel"]
    for platform in (settings, settings["macos"]):
        threads, tests = platform["test-command"]
        without = platform.get("environment", {}).get("SVDFAST_OPENMP") == "0"
        assert ("assert not svdfast" if without else "assert svdfast") in threads
        named = re.findall(r"\{project\}/([\w./]+)", tests)
        assert "tests" in named and all((ROOT / name).exists() for name in named)


def test_the_workflows_build_on_each_platform():
    workflow = yaml(".github/workflows/wheels.yml")
    runners = workflow["jobs"]["wheels"]["strategy"]["matrix"]["os"]
    assert len(runners) == len(set(runners)) == 5
    assert {name.split("-")[0] for name in runners} == {"ubuntu", "macos", "windows"}
    assert "ubuntu-24.04-arm" in runners and "macos-15-intel" in runners
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = "\n".join(step.get("run", "") for step in steps)
    assert "python -m cibuildwheel" in commands and "python -m build --sdist" in commands
    uploads = [step["with"]["name"] for step in steps if step.get("uses", "").startswith("actions/upload-artifact")]
    assert len(uploads) == 2  # a name for each job, of which the wheels' tells the runner
    assert any("${{ matrix.os }}" in name for name in uploads)
    run = yaml(".github/workflows/ci.yml")["jobs"]["run"]["steps"][-1]["run"]
    assert (ROOT / run.split()[-1]).is_file()


def test_wheels_run_on_any_cpu_and_change_no_results():
    for name in ("setup.py", "pyproject.toml", ".github/workflows/wheels.yml"):
        flags = re.findall(r"""(?<=["'\s=])[-/](?:march|mcpu|mtune|arch|mavx|Ofast|fp:fast)[\w:=+-]*""", text(name))
        assert flags == [], name
    assert re.findall(r"""["']-ffast-math""", text("setup.py")) == []


def test_version_is_said_the_same_everywhere():
    version = project()["project"]["version"]
    assert sf.__version__ == version
    assert f"\n## [{version}] - " in text("CHANGELOG.md")
    citation = yaml("CITATION.cff")
    assert str(citation["version"]) == version
    assert citation["cff-version"] == "1.2.0" and citation["license"] == project()["project"]["license"]
    assert "PRICAI 2014" in text("README.md") and len(citation["references"]) == 2
    for reference in citation["references"]:
        for author in reference["authors"]:
            assert author["family-names"] in text("README.md")


def test_every_extra_that_tests_need_is_theirs_too():
    """`pip install ".[test]"` brings what the other extras would, but PyTorch and what only builds the documentation."""
    extras = project()["project"]["optional-dependencies"]
    for name in ("sklearn", "onnx", "safetensors", "plot", "progress", "tensorboard", "demo"):
        assert set(extras[name]) <= set(extras["test"]), name


def test_the_extra_all_has_every_feature():
    """Left out: what needs more than pip, what holds much else at certain versions, and what is for developers."""
    extras = project()["project"]["optional-dependencies"]
    named = re.fullmatch(r"svdfast\[([\w,]+)\]", *extras["all"])[1].split(",")
    others = {"all", "mpi", "lightning", "transformers", "test", "bench", "docs", "lint"}
    assert set(named) == set(extras) - others


@pytest.mark.skipif(os.name != "posix", reason="on Windows setuptools looks for the compiler")
@pytest.mark.parametrize(
    "compiler, include, message",
    [
        ("no-such-cc -pthread", None, "svdfast needs a C compiler, and 'no-such-cc' was not found: apt install build-essential"),
        (sys.executable, "empty", "svdfast needs the headers of Python, and Python.h was not found: apt install build-essential"),
    ],
)  # fmt: skip
def test_what_a_build_lacks_is_said_in_one_line(compiler, include, message):
    pytest.importorskip("Cython", reason="Cython is not installed")
    program = "import runpy, sys, sysconfig\n"
    if include:
        program += f"sysconfig.get_path = lambda name: {include!r}\n"
    program += "sys.argv = ['setup.py', '--version']\nrunpy.run_path('setup.py')\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, env=os.environ | {"CC": compiler}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)


@pytest.mark.skipif(os.name != "posix", reason="CI's scripts are bash's")
@pytest.mark.parametrize("last, status, line", [("true", 0, "s   all of them"), ("false", 1, "s   FAILED in the last one, with status 1")])
def test_ci_ends_with_a_table_of_its_stages(tmp_path, last, status, line):
    text(".ci/stages")
    script = f"""
set -euo pipefail
temp=$(mktemp -d -p .)
source "{ROOT / ".ci" / "stages"}"
heading "lint"
heading "valgrind"
skipped "valgrind is not installed"
heading "tests"
{last}
"""
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (status, "")
    table = done.stdout.split("==== stages\n")[1].splitlines()
    names = [row.split("s   ")[-1].strip() for row in table[:-1]]
    assert names == ["lint", "valgrind", "! valgrind is not installed", "tests"]
    assert table[-1].endswith(line)
    assert list(tmp_path.iterdir()) == []
