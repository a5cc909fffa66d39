# SPDX-License-Identifier: BSD-3-Clause
"""Trainings over processes that mpiexec starts. Elsewhere: everything that threads in place of processes show (test_distributed.py)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
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


def failed(n, code, tmp_path):
    """What a job said that fails once a process has called `now`. It has to end within 10 seconds from then on."""
    moment = tmp_path / "moment"
    done = run(n, f"now = lambda: open({str(moment)!r}, 'w').close()\n{code}")
    ended = time.time()
    assert done.returncode != 0 and moment.exists(), done.stderr
    assert ended - moment.stat().st_mtime < 10
    return done.stderr


FAILING = {
    "raise": "if c.rank == 1 and step == 5: now(); raise OverflowError('a failure of process one')",
    "interrupt": "if c.rank == 1 and step == 5: now(); os.kill(os.getpid(), signal.SIGINT)",
    "kill": "if c.rank == 1 and step == 5: now(); os.kill(os.getpid(), signal.SIGKILL)",
    "kill the first": "if c.rank == 0 and step == 5: now(); os.kill(os.getpid(), signal.SIGKILL)",
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
    said = failed(3, TRAIN.format(failure=FAILING[how], path=path), tmp_path)
    if how == "raise":
        assert said.count("OverflowError: a failure of process one") == 1
    expected = told(1, TRAIN.format(failure="pass", path=str(tmp_path / "whole.ckpt")))
    assert told(2, RESUME.format(path=path)) == expected


# A training in which something is wrong in process 1 alone, or in all; and what is said of it, once.
WRONG = {
    "communicator": ("now(); train(communicator=3 if c.rank == 1 else c)", "TypeError: communicator: expected"),
    "argument": ("now(); train(epochs=-1 if c.rank == 1 else 1)", "ValueError: epochs"),
    "argument of all": ("now(); train(epochs=-1)", "ValueError: epochs"),
    "unknown argument": ("now(); train(**({'epoch': 1} if c.rank == 1 else {}))", "TypeError: train() got"),
    "before": ("now(); assert c.rank != 1, 'an error before the training'; train()", "an error before the training"),
    "after": ("train(); now(); assert c.rank != 1, 'an error after the training'; train()", "an error after the training"),
    "interrupt": ("if c.rank == 1: now(); raise KeyboardInterrupt\ntrain()", "KeyboardInterrupt"),
    "callback": ("train(callbacks=[callback])", "OSError: an error of a callback"),
    "callback of all": ("callback.everywhere = True; train(callbacks=[callback])", "OSError: an error of a callback"),
    "sum": ("train(communicator=Lost())", "ConnectionError: an error of a sum"),
    "first sum": ("Lost.n = 0; train(communicator=Lost())", "ConnectionError: an error of a sum"),
    "batches": ("train(X=batches(), y=None, batch_size=None, steps_per_epoch=9)", "ArithmeticError: an error of batches"),
    "estimator": ("model = fit()\nmodel.alpha = -1.0 if c.rank == 1 else 1e-4; now(); model.fit(X, y)", "ValueError: alpha"),
    "network in use": ("fit(in_use=c.rank == 1)", "RuntimeError: network"),
}
WRONG_START = """
import threading
def train(**more):
    given = {"X": X, "y": y, "epochs": 3, "batch_size": 64, "communicator": c, **more}
    sf.train(network(), given.pop("X"), given.pop("y"), **given)
def callback(event):
    if c.rank == (1 if hasattr(callback, "everywhere") else 0):
        now()
        raise OSError("an error of a callback")
class Lost:
    # A communicator that loses the others, and cannot end them.
    rank, size, broadcast, n = c.rank, c.size, c.broadcast, 20
    def sum(self, buffer):
        Lost.n -= 1
        if c.rank == 1 and Lost.n <= 0:
            now()
            raise ConnectionError("an error of a sum")
        c.sum(buffer)
def batches():
    for i in range(9):
        if c.rank == 1 and i == 5:
            now()
            raise ArithmeticError("an error of batches")
        yield X[:40], y[:40]
def fit(in_use=False):
    import warnings
    from svdfast._process import in_use as uses
    from svdfast.sklearn import SVDMLPClassifier
    warnings.simplefilter("ignore")
    model = SVDMLPClassifier((8,), max_iter=2, warm_start=True, communicator=c).fit(X, y)
    if in_use:
        holding = threading.Event()
        def hold():
            with uses.changing(model.network_):
                holding.set()
                time.sleep(60)
        threading.Thread(target=hold, daemon=True).start()
        holding.wait()
        now()
        model.fit(X, y)
    return model.fit(X, y)
"""


@pytest.mark.parametrize("what", WRONG)
def test_an_error_ends_all_and_is_said_once(what, tmp_path):
    code, message = WRONG[what]
    if "fit(" in code:
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    said = failed(2, WRONG_START + code, tmp_path)
    assert said.count(message) == 1, said


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
    done = run(2, code)
    assert done.returncode != 0 and done.stderr.count("expected 3 batches in an epoch") == 1


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
def source(kind):
    if kind == "memmap":
        return np.memmap({path!r}, np.uint8, "r", shape=File.shape)
    if kind == "h5py":
        import h5py
        return h5py.File({path!r} + ".h5", "r")["X"]
    if kind == "zarr":
        import zarr
        return zarr.open({path!r} + ".zarr", mode="r")
    return File()
X, target = source({kind!r}), np.arange({rows}) % 3
def train():
    net = sf.Network([784, 16, 3], seed=0)
    return sf.train(net, X, target, epochs=1, batch_size=2048, factoring=None, communicator=c, n_threads=1, reproducible=True)
if {limit}:
    status = Path("/proc/self/status").read_text()
    used = 1024 * int(status.partition("VmData:")[2].split()[0])
    resource.setrlimit(resource.RLIMIT_DATA, (used + {limit}, used + {limit}))
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


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="/proc is not there")
@pytest.mark.parametrize("kind", ["file", "memmap", "h5py", "zarr"])
def test_data_larger_than_memory(kind, tmp_path):
    """Each of two processes may use less memory than the data have bytes."""
    rows = 240_000  # 188 MB
    path = tmp_path / "X.bin"
    bits = np.random.default_rng(0)
    if kind == "h5py":
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        with h5py.File(f"{path}.h5", "w") as file:
            data = file.create_dataset("X", (rows, 784), "uint8", chunks=(1000, 784))
            for k in range(0, rows, 8000):
                data[k : k + 8000] = bits.integers(0, 256, (8000, 784), np.uint8)
    elif kind == "zarr":
        zarr = pytest.importorskip("zarr", reason="zarr is not installed")
        data = zarr.open(f"{path}.zarr", mode="w", shape=(rows, 784), dtype="uint8", chunks=(8000, 784))
        for k in range(0, rows, 8000):
            data[k : k + 8000] = bits.integers(0, 256, (8000, 784), np.uint8)
    else:
        with open(path, "wb") as file:
            for _ in range(rows // 8000):
                file.write(bits.bytes(8000 * 784))
    expected, loss, read, _ = told(1, LARGE.format(kind=kind, rows=rows, path=str(path), limit=0))
    found = told(2, LARGE.format(kind=kind, rows=rows, path=str(path), limit=140 * 2**20))
    assert found[:2] == [expected, loss]
    if kind == "file":
        assert read == found[2] == rows
        assert found[3] <= rows // 2 + 2048
