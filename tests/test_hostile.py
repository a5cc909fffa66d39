# SPDX-License-Identifier: BSD-3-Clause
"""A few of the calls of hostile.py and of the files of mutants.py; and that these see what they are for.

The large searches are commands, see there; tests/recorded/ has what they counted.
"""

import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

import svdfast as sf

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")


@pytest.fixture(scope="module")
def scripts():
    """hostile.py and mutants.py as modules."""
    modules = {}
    for name in ("workers", "hostile_areas", "hostile", "mutants"):
        spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
        modules[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    yield modules
    for name in modules:
        del sys.modules[name]


def run(script, *arguments):
    ended = subprocess.run([sys.executable, HERE / script, *arguments], capture_output=True, text=True)
    record = json.loads(ended.stdout)
    assert record["faults"] == [] and ended.returncode == 0
    return record["outcomes"]


def test_hostile_arguments():
    outcomes = run("hostile.py", "--calls", "600", "--light")
    assert sum(outcomes.values()) == 600
    assert outcomes["TypeError"] > 100 and outcomes["ValueError"] > 50 and outcomes["result"] > 50


def test_damaged_files():
    outcomes = run("mutants.py", "--mutants", "200")
    assert sum(outcomes.values()) == 200 and outcomes["refused"] > 100 and outcomes["read"] > 10


def test_all_that_is_public_is_called(scripts):
    found = scripts["hostile"].targets()
    names = ("kernels.dense_forward", "activations.elu", "schedules.Cosine.__call__", "Factoring", "layers.LSTM", "cli.train")
    of_kinds = [f"{name} ({kind})" for name in ("train", "load", "resume", "Network.truncate") for kind in scripts["hostile"].NETWORKS]
    assert {*names, *of_kinds} <= set(found) and len(found) >= 150


@pytest.mark.parametrize(
    ("package", "name"), [("sklearn", "sklearn.SVDMLPClassifier.fit checkpoint"), ("torch", "torch.Schedule.load_state_dict")]
)
def test_other_packages_are_called(scripts, package, name):
    pytest.importorskip(package)
    assert name in scripts["hostile"].targets()


def test_faults_are_seen(scripts, tmp_path):
    hostile = scripts["hostile"]
    world = hostile.World(hostile.random.Random(0), tmp_path)

    def outcome(function, **arguments):
        return hostile.outcome("f", function, arguments, world)[0]

    def index_error(x):
        return [][0]

    def warns(x):
        return np.float64(1) / np.float64(0)

    def half_changed(x):
        x[0] = 1
        raise ValueError

    def changes_the_network(x):
        world.net.parameters[:] = 0
        raise ValueError

    def refuses(x):
        raise ValueError

    S = csr_array(np.eye(3))

    def changes_indices(x):
        x.indices[0] = 2
        raise ValueError

    assert outcome(changes_indices, x=S) == "FAULT"
    area = scripts["hostile_areas"].Call

    def fails(result):
        raise ValueError

    def theirs(x):
        raise RuntimeError

    assert outcome(area(lambda x: None, {}, after=fails), x=1) == "FAULT"
    assert outcome(area(refuses, {}, state=iter([1, 2]).__next__), x=1) == "FAULT"
    assert outcome(area(theirs, {"x": 0}, theirs=("x",), raised=(RuntimeError,)), x=1) == "theirs"
    assert outcome(area(theirs, {"x": 0}), x=1) == "FAULT"
    assert outcome(refuses, x=np.zeros(3)) == "ValueError"
    assert outcome(lambda x: None, x=1) == "result"
    for function in (index_error, warns, half_changed, changes_the_network):
        assert outcome(function, x=np.zeros(3)) == "FAULT", function


def test_faults_of_files_are_seen(scripts, tmp_path):
    mutants = scripts["mutants"]
    path = tmp_path / "net.npz"
    sf.save(sf.Network([2, 3], seed=0), path)

    def outcome(reader, expected=None):
        case = mutants.Case(".npz", None, reader, (ValueError,), True, "zip")
        return mutants.read(case, path, expected)[0]

    def too_much(path):
        try:
            np.zeros(2**50)
        except MemoryError:
            raise ValueError("damaged") from None

    assert outcome(mutants.network_content) == "read"
    assert outcome(mutants.network_content, expected="something else") == "FAULT"
    assert outcome(lambda path: {}["a"]) == "FAULT"
    assert outcome(too_much) == "FAULT"


def test_no_pickle_is_executed(scripts, tmp_path, monkeypatch):
    """As the file itself, and as each of its arrays."""
    mutants = scripts["mutants"]
    monkeypatch.chdir(tmp_path)
    trap = np.empty(6, dtype=object)
    trap[:] = mutants.Trap()
    for name, case in mutants.CASES.items():
        path = tmp_path / f"s{case.suffix}"
        path.write_bytes(pickle.dumps(mutants.Trap()))
        assert mutants.read(case, path, None) == ("refused", ""), name
        if case.form != "zip":
            continue
        case.write(path)
        with np.load(path) as file:
            arrays = dict(file)
        for key in arrays:
            np.savez(path, **{**arrays, key: trap})
            assert mutants.read(case, path, None) == ("refused", ""), (name, key)
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(mutants.Trap())).close()
    assert (tmp_path / "executed").exists()  # so it would have been seen


@pytest.mark.parametrize("how", ["os.abort()", "time.sleep(60)", "while_true()"])
def test_crashes_and_hangs_are_seen(scripts, tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys, time, signal\n"
        "def while_true():\n"
        "    signal.setitimer(signal.ITIMER_PROF, 0.1)\n"
        "    while True: pass\n"
        "for i in range(int(sys.argv[2]), int(sys.argv[3])):\n"
        f"    if i == 3: {how}\n"
        "    print(json.dumps([i, 'f', 'result', '']), flush=True)\n"
    )
    workers = scripts["workers"]
    found = workers.search(script, 6, 0, lambda i: "f", chunk=10, limit=2 / workers.PATIENCE)
    assert found["outcomes"] == {"FAULT": 1, "result": 5} and found["faults"][0][0] == 3
