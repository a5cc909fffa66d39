# SPDX-License-Identifier: BSD-3-Clause
"""Trainings over processes that mpiexec starts. Not here: everything that threads in place of processes show (test_distributed.py)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mpi4py", reason="mpi4py is not installed")

# That of a wheel lies beside Python.
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec")

START = """
import sys, os, json, time, signal, zlib
import numpy as np
import svdfast as sf
from svdfast import layers as L
c = sf.distributed.mpi()
X = np.random.default_rng(0).standard_normal((500, 24)).astype("float32")
y = X[:, :3].argmax(axis=1)
def network(kind="linear"):
    if kind == "linear":
        return sf.Network([24, 32, 32, 3], seed=c.rank)
    if kind == "gru":
        return sf.Network(sf.Input(6, 4), [L.GRU(8), L.Dropout(0.2), L.Linear(3, "softmax")], seed=c.rank)
    return sf.Network(sf.Input(4, 6, 1), [L.Conv2d(6, 3, "relu"), L.Flatten(), L.Linear(12, "relu"), L.Linear(3, "softmax")], seed=c.rank)
def tell(*what):
    # All processes must say the same.
    from mpi4py import MPI
    found = MPI.COMM_WORLD.gather(what)
    if c.rank == 0:
        assert all(other == found[0] for other in found), found
        print(json.dumps(what), flush=True)
"""


def command(n):
    more = []
    version = subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True).stdout
    if "Open MPI" in version or "OpenRTE" in version:
        more = ["--oversubscribe", *(["--allow-run-as-root"] if os.getuid() == 0 else [])]
    return [MPIEXEC, *more, "-n", str(n), sys.executable]


def environment():
    # In the tests' own place of import, and with threads that do not take the cores from each other.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_WAIT_POLICY": "passive"}


def run(n, code, timeout=60):
    return subprocess.run([*command(n), "-c", START + code], capture_output=True, text=True, timeout=timeout, env=environment())


def told(n, code):
    done = run(n, code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SAME = """
found = []
for kind, ranks in (("linear", [8, 8]), ("gru", [3, 3]), ("conv", [3, 6])):
    for factoring in (None, sf.Factoring(ranks, force=True, pretrain_fraction=0.5)):
        net = network(kind)
        result = sf.train(net, X, y, epochs=3, batch_size=64, factoring=factoring, communicator=c, reproducible=True,
                          validation=(X[:99], y[:99]))
        found.append([zlib.crc32(net.parameters), result.history[-1]["loss"], result.history[-1]["val_loss"]])
tell(found)
"""


def test_the_same_bits_for_any_number_of_processes():
    alone = told(1, SAME)
    assert told(2, SAME) == alone
    assert told(4, SAME) == alone


def test_not_reproducible_is_the_same_to_rounding_and_repeats():
    code = SAME.replace("reproducible=True", "reproducible=False")
    first, again, alone = told(2, code), told(2, code), told(1, code)
    assert first == again
    for (_, *here), (_, *there) in zip(first[0], alone[0], strict=True):
        assert here == pytest.approx(there, rel=1e-3)


def test_threads_are_shared_out():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    (n_threads,) = told(2, "tell(c.n_threads)")
    # Open MPI may have bound each process to a core.
    assert n_threads in {1, max(1, cores // 2)}


FAILING = {
    "raise": "if c.rank == 1 and step == 5: raise OverflowError('a failure of process one')",
    "interrupt": "if c.rank == 1 and step == 5: os.kill(os.getpid(), signal.SIGINT)",
    "kill": "if c.rank == 1 and step == 5: os.kill(os.getpid(), signal.SIGKILL)",
    "kill the first": "if c.rank == 0 and step == 5: os.kill(os.getpid(), signal.SIGKILL)",
}
TRAIN = """
def rate(step, n_steps):
    {failure}
    return 0.01
network = network()
result = sf.train(network, X, y, epochs=20, batch_size=64, communicator=c, optimizer=sf.Adam(rate), checkpoint={path!r}, checkpoint_every=2,
                  factoring=sf.Factoring([8, 8], force=True, pretrain_fraction=0.5), reproducible=True)
tell(zlib.crc32(network.parameters))
"""
RESUME = """
result = sf.resume({path!r}, X, y, communicator=c, optimizer=sf.Adam(lambda step, n_steps: 0.01))
tell(zlib.crc32(result.network.parameters))
"""


@pytest.mark.parametrize("how", FAILING)
def test_a_process_that_fails_takes_all_down_and_resume_goes_on(how, tmp_path):
    path = str(tmp_path / "run.ckpt")
    began = time.monotonic()
    done = run(3, TRAIN.format(failure=FAILING[how], path=path))
    assert time.monotonic() - began < 20  # 10 of them for the start
    assert done.returncode != 0
    if how == "raise":
        assert done.stderr.count("OverflowError: a failure of process one") == 1
    expected = told(1, TRAIN.format(failure="pass", path=str(tmp_path / "whole.ckpt")))
    assert told(2, RESUME.format(path=path)) == expected


def test_an_error_of_all_is_no_abort():
    code = """
try:
    sf.train(network(), X, y, epochs=0, communicator=c)
except ValueError as error:
    tell(str(error))
"""
    assert "epochs" in told(2, code)[0]


def test_unequal_batches_do_not_hang():
    code = """
batches = [(X[:40], y[:40])] * (3 - c.rank)
sf.train(network(), iter(batches), steps_per_epoch=3, epochs=1, communicator=c)
"""
    done = run(2, code, timeout=30)
    assert done.returncode != 0 and "expected 3 batches in an epoch" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c(tmp_path):
    path = str(tmp_path / "run.ckpt")
    code = TRAIN.format(failure="time.sleep(0.02)", path=path).replace("epochs=20", "epochs=4000")
    process = subprocess.Popen(
        [*command(2), "-c", START + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), start_new_session=True
    )
    try:
        deadline = time.monotonic() + 30
        while not os.path.exists(path) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        process.communicate(timeout=15)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert os.path.exists(path)


def test_command(tmp_path):
    saved = tmp_path / "net.npz"
    arguments = ["-m", "svdfast", "train", "xor", "--distributed", "--no-compare", "--epochs", "100", "--save", str(saved)]
    done = subprocess.run([*command(2), *arguments], capture_output=True, text=True, timeout=90, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("in each of 2 processes") == 1
    assert done.stdout.count("in each") == 1 and saved.exists()
    again = subprocess.run([*command(2), *arguments[:-1], str(tmp_path / "no" / "net.npz")], capture_output=True, text=True, timeout=90,
                           env=environment())  # fmt: skip
    assert again.returncode != 0
    assert again.stderr.count("svdfast: error:") == 1


LARGE = """
import resource
from pathlib import Path
class File:
    # Rows of a file that is read where it is asked for.
    shape, dtype = ({rows}, 784), np.dtype("uint8")
    n_read = 0
    def __getitem__(self, rows):
        File.n_read += rows.stop - rows.start
        with open({path!r}, "rb") as file:
            file.seek(rows.start * 784)
            return np.fromfile(file, np.uint8, (rows.stop - rows.start) * 784).reshape(-1, 784)
target = np.arange({rows}) % 3
def train():
    net = sf.Network([784, 16, 3], seed=0)
    return sf.train(net, File(), target, epochs=1, batch_size=2048, factoring=None, communicator=c, n_threads=1, reproducible=True)
if {limit}:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + {limit}, used + {limit}))
    try:
        np.ones({rows} * 784, np.uint8)
    except MemoryError:
        pass
    else:
        raise AssertionError("the file would fit into memory")
result = train()
from mpi4py import MPI
read = MPI.COMM_WORLD.allgather(File.n_read)
tell(zlib.crc32(result.network.parameters), result.history[0]["loss"], sum(read), max(read))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="/proc is not there")
def test_a_file_larger_than_memory(tmp_path):
    rows = 240_000  # 188 MB
    path = tmp_path / "X.bin"
    with open(path, "wb") as file:
        for _ in range(rows // 8000):
            file.write(os.urandom(8000 * 784))
    expected, loss, read, _ = told(1, LARGE.format(rows=rows, path=str(path), limit=0))
    assert read == rows
    found = told(2, LARGE.format(rows=rows, path=str(path), limit=140 * 2**20))
    assert found[:3] == [expected, loss, rows]
    assert found[3] <= rows // 2 + 2048
