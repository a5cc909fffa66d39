# SPDX-License-Identifier: BSD-3-Clause
"""Tests of what svdfast does to its process: the kernels of SciPy's BLAS, BLAS's threads during a training, what is said of both.

A library chooses its kernels once, when it is loaded, so most tests of that run in a process of their own. A narrow choice is had
on any CPU by setting OPENBLAS_CORETYPE=Haswell while one library loads.
"""

import functools
import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import svdfast as sf
from svdfast import _elementwise, _engine
from svdfast._process import runtime

X = np.random.default_rng(0).random((96, 6)).astype(np.float32)
Y = X[:, :3].argmax(axis=1)

# Loads LIBRARY with the kernels for Haswell, then svdfast with the environment as it was.
NARROW_FIRST = """
os.environ["OPENBLAS_CORETYPE"] = "Haswell"
import {library}
del os.environ["OPENBLAS_CORETYPE"]
"""

REPORT = """
before = dict(os.environ)
import svdfast
from svdfast._process import runtime
print(json.dumps({
    "environment": dict(os.environ) == before,
    "scipys": [l.get("architecture") for l in runtime.loaded_blas() if runtime.is_scipys(l)],
    "logged": [r.getMessage() for r in records],
    "levels": [r.levelname for r in records],
    "config": svdfast.show_config(),
}))
"""

RECORD = """
import json, logging, os
records = []
class Keep(logging.Handler):
    def emit(self, record):
        records.append(record)
logging.getLogger("svdfast").addHandler(Keep())
"""


def in_new_process(program, **variables):
    """What a program prints as JSON, in a process whose environment says nothing about BLAS but `variables`."""
    env = {
        k: v for k, v in os.environ.items()
        if not k.startswith(("SVDFAST_", "OPENBLAS_", "OMP_"))
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=env | variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def report(before="", **variables):
    return in_new_process(RECORD + before + REPORT, **variables)


@pytest.fixture(scope="module")
def native():
    """What OpenBLAS chooses by itself on this CPU."""
    (architecture,) = report(SVDFAST_KEEP_BLAS="1")["scipys"]
    return architecture


def blas(package):
    """The BLAS of NumPy or SciPy in this process."""
    found = [
        library for library in runtime.loaded_blas()
        if runtime.is_scipys(library) == (package == "scipy")
        and library["internal_api"] == "openblas"
    ]  # fmt: skip
    if not found:
        pytest.skip(f"the BLAS of {package} is not an OpenBLAS of its own")
    return found[0]


@pytest.fixture
def two_openblas():
    blas("numpy")
    blas("scipy")


@pytest.fixture
def avx512(two_openblas):
    if "avx512" not in _elementwise.available_instruction_sets():
        pytest.skip("this CPU has no AVX-512: OpenBLAS's choice is the best there is")


@pytest.fixture
def no_avx512(two_openblas):
    if "avx512" in _elementwise.available_instruction_sets():
        pytest.skip("this CPU has AVX-512")


def test_narrow_kernels_are_replaced_by_wide_ones(avx512):
    found = report(NARROW_FIRST.format(library="numpy"))
    assert found["scipys"] == ["SkylakeX"]
    assert found["environment"]
    assert found["logged"] == []
    assert found["config"]["warnings"] == []


def test_narrow_kernels_stay_on_a_narrow_cpu(no_avx512, native):
    found = report(NARROW_FIRST.format(library="numpy"))
    assert found["scipys"] == [native]
    assert found["environment"]
    assert found["logged"] == found["config"]["warnings"] == []


def test_what_openblas_chooses_well_is_left(two_openblas, native):
    found = report()
    wide = runtime.WIDE_KERNELS if "avx512" in _elementwise.available_instruction_sets() else set()
    assert found["scipys"] == [native] or (native not in wide and found["scipys"] == ["SkylakeX"])
    assert found["environment"]
    assert found["logged"] == found["config"]["warnings"] == []


def test_keep_blas_leaves_the_choice_to_openblas(two_openblas, native):
    found = report(NARROW_FIRST.format(library="numpy"), SVDFAST_KEEP_BLAS="1")
    assert found["scipys"] == [native]
    assert found["environment"]
    assert found["logged"] == []


def test_keep_blas_0_is_as_if_it_were_not_set(avx512):
    found = report(NARROW_FIRST.format(library="numpy"), SVDFAST_KEEP_BLAS="0")
    assert found["scipys"] == ["SkylakeX"]


def test_the_users_choice_is_left_alone(two_openblas):
    found = report(OPENBLAS_CORETYPE="Haswell")
    assert found["scipys"] == ["Haswell"]
    assert found["environment"]
    assert found["logged"] == []


def test_scipy_loaded_before_with_narrow_kernels_is_warned_of_once(avx512):
    found = report(NARROW_FIRST.format(library="scipy.linalg"))
    assert found["scipys"] == ["Haswell"]
    assert found["environment"]
    assert found["levels"] == ["WARNING"]
    (message,) = found["logged"]
    assert "Haswell" in message
    assert "OPENBLAS_CORETYPE=SkylakeX" in message
    assert found["config"]["warnings"] == [message]


def test_keep_blas_keeps_the_warning_to_show_config(avx512):
    found = report(NARROW_FIRST.format(library="scipy.linalg"), SVDFAST_KEEP_BLAS="1")
    assert found["scipys"] == ["Haswell"]
    assert found["logged"] == []
    assert len(found["config"]["warnings"]) == 1


def test_scipy_loaded_before_with_wide_kernels_is_not_warned_of(two_openblas, native):
    if runtime.is_narrow({"internal_api": "openblas", "architecture": native}):
        pytest.skip(f"OpenBLAS chooses {native} on this CPU, which has AVX-512")
    found = report("import scipy.linalg\n")
    assert found["scipys"] == [native]
    assert found["logged"] == found["config"]["warnings"] == []


NUMPYS = {"internal_api": "openblas", "filepath": "/x/numpy.libs/libopenblas.so"}
SCIPYS = {"internal_api": "openblas", "filepath": "/x/scipy.libs/libopenblas.so"}


@pytest.fixture
def loading(monkeypatch):
    """Runs the loading of SciPy's BLAS on made-up libraries; returns OPENBLAS_CORETYPE as it is while it loads."""
    monkeypatch.setattr(_elementwise, "available_instruction_sets", lambda: ("baseline", "avx512"))
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.delenv("SVDFAST_KEEP_BLAS", raising=False)

    def run(libraries, error=None):
        seen = []

        def load(name):
            seen.append(os.environ.get("OPENBLAS_CORETYPE"))
            if error is not None:
                raise error

        with monkeypatch.context() as patch:
            patch.setattr(runtime, "loaded_blas", lambda: libraries)
            patch.setattr(runtime.importlib, "import_module", load)
            runtime._load_scipys_blas()
        (value,) = seen
        return value

    return run


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("Haswell", "SkylakeX"), ("Zen", "SkylakeX"), ("SkylakeX", None), ("SapphireRapids", None)],
)
def test_wide_kernels_are_asked_for_only_where_numpy_shows_narrow_ones(
    loading, architecture, expected
):
    assert loading([NUMPYS | {"architecture": architecture}]) == expected
    assert "OPENBLAS_CORETYPE" not in os.environ


def test_wide_kernels_are_not_asked_for_without_avx512(loading, monkeypatch):
    monkeypatch.setattr(_elementwise, "available_instruction_sets", lambda: ("baseline", "avx2"))
    assert loading([NUMPYS | {"architecture": "Haswell"}]) is None


@pytest.mark.parametrize(
    "libraries", [[], [{"internal_api": "mkl", "filepath": "/x/libmkl_rt.so"}]], ids=["none", "mkl"]
)
def test_nothing_is_asked_of_a_blas_that_is_not_openblas(loading, libraries):
    assert loading(libraries) is None


def test_the_users_coretype_stays_while_scipy_loads(loading, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Zen")
    assert loading([NUMPYS | {"architecture": "Zen"}]) == "Zen"
    assert os.environ["OPENBLAS_CORETYPE"] == "Zen"


def test_keep_blas_asks_for_nothing(loading, monkeypatch):
    monkeypatch.setenv("SVDFAST_KEEP_BLAS", "1")
    assert loading([NUMPYS | {"architecture": "Haswell"}]) is None


def test_the_environment_is_put_back_when_scipy_does_not_load(loading):
    with pytest.raises(ImportError, match="broken"):
        loading([NUMPYS | {"architecture": "Haswell"}], error=ImportError("broken"))
    assert "OPENBLAS_CORETYPE" not in os.environ


def test_a_library_loaded_before_is_warned_of_not_asked_of(loading, caplog):
    libraries = [lib | {"architecture": "Haswell"} for lib in (NUMPYS, SCIPYS)]
    with caplog.at_level(logging.WARNING, logger="svdfast"):
        assert loading(libraries) is None
    assert [record.name for record in caplog.records] == ["svdfast"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/env/lib/python3.11/site-packages/scipy.libs/libscipy_openblas.so", True),
        ("/env/lib/python3.11/site-packages/scipy/.dylibs/libscipy_openblas.dylib", True),
        (r"C:\env\Lib\site-packages\scipy.libs\libscipy_openblas.dll", True),
        ("/env/lib/python3.11/site-packages/numpy.libs/libscipy_openblas64_.so", False),
        ("/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblasp-r0.3.21.so", False),
    ],
)
def test_scipys_library_is_known_by_its_path(path, expected):
    assert runtime.is_scipys({"filepath": path}) is expected


def blas_threads():
    """Threads of each BLAS, as threadpoolctl sees them."""
    found = {
        library["filepath"]: library["num_threads"]
        for library in threadpool_info()
        if library["user_api"] == "blas"
    }
    if not found:
        pytest.skip("threadpoolctl knows none of the BLAS here")
    return found


@pytest.fixture
def three_threads():
    """BLAS at three threads, a number that nothing sets by itself; returns the counts."""
    with threadpool_limits(limits=3, user_api="blas"):
        counts = blas_threads()
        if set(counts.values()) != {3}:
            pytest.skip("BLAS does not take three threads here")
        yield counts


def network(**arguments):
    return sf.Network([6, 30, 20, 3], seed=0, **arguments)


CALLS = {
    "predict": lambda: network().predict(X),
    "evaluate": lambda: network().evaluate(X, Y),
    "score": lambda: network().score(X, Y),
    "loss_and_gradient": lambda: network().loss_and_gradient(X, Y),
    "train": lambda: sf.train(network(), X, Y, epochs=2, batch_size=32, validation=(X, Y)),
    "train_dense": lambda: sf.train(network(), X, Y, epochs=1, factoring=None),
}


@pytest.mark.parametrize("name", CALLS)
def test_blas_has_its_threads_back_after(three_threads, name):
    CALLS[name]()
    assert blas_threads() == three_threads


def test_blas_has_one_thread_within_a_training(three_threads):
    seen = []
    result = sf.train(
        network(), X, Y, epochs=4, batch_size=32, factoring=sf.Factoring(1 / 4, force=True, pretrain_fraction=0.5),
        callbacks=[lambda event: seen.append((event.kind, set(blas_threads().values())))],
    )  # fmt: skip
    assert [kind for kind, _ in seen].count("epoch") == 4
    assert [counts for kind, counts in seen if kind in ("epoch", "switch")] == [{1}] * 5
    assert [event.kind for event in result.events] == ["switch", "recompose"]
    assert blas_threads() == three_threads


@pytest.mark.parametrize("n_threads", [1, 2])
def test_blas_has_one_thread_while_weights_are_decomposed(
    three_threads, monkeypatch, n_threads
):
    seen = []
    truncate = sf.Network.truncate

    def spy(self, *args, **kwargs):
        seen.append(set(blas_threads().values()))
        return truncate(self, *args, **kwargs)

    monkeypatch.setattr(sf.Network, "truncate", spy)
    sf.train(network(), X, Y, epochs=2, n_threads=n_threads, factoring=sf.Factoring(1 / 4, force=True))
    assert seen == [{1}]
    assert blas_threads() == three_threads


class Broken(Exception):
    pass


@pytest.mark.parametrize("kind", ["epoch", "switch", "recompose"])
@pytest.mark.parametrize("error", [Broken, sf.StopTraining, KeyboardInterrupt])
def test_blas_has_its_threads_back_after_a_callback_that_raises(three_threads, kind, error):
    def callback(event):
        if event.kind == kind:
            raise error

    def training():
        sf.train(network(), X, Y, epochs=2, factoring=sf.Factoring(1 / 4, force=True), callbacks=[callback])

    if error is sf.StopTraining:
        training()
    else:
        with pytest.raises(error):
            training()
    assert blas_threads() == three_threads


def test_blas_has_its_threads_back_after_a_loss_that_is_not_finite(three_threads):
    net = network()
    net.parameters[:] = np.float32(3e38)
    with pytest.raises(FloatingPointError):
        sf.train(net, X, Y, epochs=1)
    assert blas_threads() == three_threads


def test_blas_has_its_threads_back_after_arguments_that_are_refused(three_threads):
    for refused in (
        lambda: network().predict(X[:, :5]),
        lambda: network().loss_and_gradient(X, Y[:5]),
        lambda: sf.train(network(), X, Y, n_threads=0),
    ):
        with pytest.raises(ValueError):
            refused()
        assert blas_threads() == three_threads


def test_blas_has_its_threads_back_after_a_training_within_a_training(three_threads):
    seen = []

    def callback(event):
        if event.kind == "epoch":
            sf.train(network(), X, Y, epochs=1)
            network().predict(X)
            seen.append(set(blas_threads().values()))

    sf.train(network(), X, Y, epochs=2, callbacks=[callback])
    assert seen == [{1}, {1}]
    assert blas_threads() == three_threads


def in_thread(function):
    """Starts a thread; returns what waits for it and gives back its result or error."""
    one = ThreadPoolExecutor(1)
    future = one.submit(function)
    one.shutdown(wait=False)
    return functools.partial(future.result, 120)


def test_blas_has_one_thread_within_a_training_that_is_not_in_the_main_thread(three_threads):
    seen = []

    def callback(event):
        if event.kind == "epoch":
            seen.append(set(blas_threads().values()))

    in_thread(lambda: sf.train(network(), X, Y, epochs=2, callbacks=[callback]))()
    assert seen == [{1}, {1}]
    assert blas_threads() == three_threads


def test_blas_has_its_threads_back_after_the_last_of_two_at_once(three_threads):
    started, finish = threading.Event(), threading.Event()

    def callback(event):
        started.set()
        assert finish.wait(60)

    result = in_thread(
        lambda: sf.train(network(), X, Y, epochs=1, factoring=None, callbacks=[callback])
    )
    try:
        assert started.wait(60)
        sf.train(network(), X, Y, epochs=2, factoring=sf.Factoring(1 / 4, force=True))
        network().predict(X)
        assert set(blas_threads().values()) == {1}
    finally:
        finish.set()
        result()
    assert blas_threads() == three_threads


def test_blas_has_its_threads_back_when_another_thread_is_the_last(three_threads):
    started, finish = threading.Event(), threading.Event()
    waiting = []

    def wait(event):
        started.set()
        assert finish.wait(60)

    def start_another(event):
        waiting.append(in_thread(
            lambda: sf.train(network(), X, Y, epochs=1, factoring=None, callbacks=[wait])
        ))  # fmt: skip
        assert started.wait(60)

    try:
        sf.train(network(), X, Y, epochs=1, factoring=None, callbacks=[start_another])
        assert set(blas_threads().values()) == {1}
    finally:
        finish.set()
        waiting[0]()
    assert blas_threads() == three_threads


def test_a_training_does_not_keep_other_threads_from_limiting_blas():
    before = blas_threads()
    network().predict(X)

    def limited():
        with threadpool_limits(limits=3, user_api="blas"):
            return set(blas_threads().values())

    # threadpoolctl from 3.8 on obeys one thread only, as long as that has not given control back.
    assert in_thread(limited)() == {3}
    assert blas_threads() == before


def test_many_at_once_leave_blas_as_it_was(three_threads):
    expected = network().predict(X, n_threads=1)

    def work():
        for _ in range(50):
            assert np.array_equal(network().predict(X, n_threads=1), expected)

    for result in [in_thread(work) for _ in range(4)]:
        result()
    assert blas_threads() == three_threads


needs_openmp = pytest.mark.skipif(not _engine.HAS_OPENMP, reason="built without OpenMP")


@pytest.mark.parametrize("given", [1, 2, np.int64(2), np.uint8(1)])
def test_resolve_threads_takes_integers(given, monkeypatch):
    monkeypatch.setattr(_engine, "HAS_OPENMP", True)
    found = runtime.resolve_threads(given)
    assert found == given
    assert type(found) is int


@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize(
    ("given", "error"),
    [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError), ("2", TypeError)],
)
def test_resolve_threads_refuses(given, error, openmp, monkeypatch):
    monkeypatch.setattr(_engine, "HAS_OPENMP", openmp)
    with pytest.raises(error, match="n_threads: expected"):
        runtime.resolve_threads(given)


@needs_openmp
def test_resolve_threads_refuses_more_than_are_sensible():
    with pytest.raises(ValueError, match="n_threads: expected"):
        runtime.resolve_threads(1025)


@pytest.mark.parametrize(("openmps", "cpus", "expected"), [(8, 2, 2), (2, 8, 2), (0, 4, 1)])
def test_resolve_threads_by_default(openmps, cpus, expected, monkeypatch):
    monkeypatch.setattr(_engine, "HAS_OPENMP", True)
    monkeypatch.setattr(_engine, "max_threads", lambda: openmps)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(cpus), raising=False)
    assert runtime.resolve_threads(None) == expected
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    assert runtime.resolve_threads(None) == expected
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert runtime.resolve_threads(None) == 1


@needs_openmp
@pytest.mark.parametrize("n", [1, 2])
def test_resolve_threads_follows_openmps_variable(n):
    program = "import svdfast; print(svdfast._runtime.resolve_threads(None))"
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert in_new_process(program, OMP_NUM_THREADS=str(n)) == min(n, available)


def test_without_openmp_there_is_one_thread(monkeypatch):
    monkeypatch.setattr(_engine, "HAS_OPENMP", False)
    assert runtime.resolve_threads(None) == 1
    assert runtime.resolve_threads(8) == 1
    config = sf.show_config()
    assert config["openmp"] is False
    assert config["threads"] == 1


def test_show_config_has_what_was_promised():
    config = sf.show_config()
    assert list(config) == [
        "processor", "instruction_set", "instruction_sets", "float32_products", "bfloat16_products", "threads",
        "openmp", "blas", "warnings", "versions",
    ]  # fmt: skip
    assert config["processor"]
    assert config["instruction_set"] in config["instruction_sets"]
    assert config["threads"] >= 1
    assert config["openmp"] is bool(_engine.HAS_OPENMP)
    assert len(config["blas"]) == len(runtime.loaded_blas())
    assert [v.split()[0] for v in config["versions"]] == [
        "python", "svdfast", "numpy", "scipy", "threadpoolctl",
    ]  # fmt: skip
    assert f"numpy {np.__version__}" in config["versions"]
    json.dumps(config)


def test_show_config_is_a_table():
    config = sf.show_config()
    lines = str(config).splitlines()
    rows = sum(max(len(v), 1) if isinstance(v, list) else 1 for v in config.values())
    assert len(lines) == rows
    assert [line[:18].strip() for line in lines if line[:18].strip()] == list(config)
    assert all(line[18] == " " and line[19:].strip() for line in lines)
    assert repr(config) == str(config)


def test_show_config_says_none_where_there_is_nothing(monkeypatch):
    monkeypatch.setattr(runtime, "loaded_blas", list)
    config = sf.show_config()
    assert config["blas"] == config["warnings"] == []
    lines = [line.split() for line in str(config).splitlines()]
    assert ["blas", "none"] in lines
    assert ["warnings", "none"] in lines


def test_show_config_warns_of_scipys_narrow_kernels_only(monkeypatch):
    monkeypatch.setattr(_elementwise, "available_instruction_sets", lambda: ("baseline", "avx512"))
    libraries = [lib | {"architecture": "Zen"} for lib in (NUMPYS, SCIPYS)]
    monkeypatch.setattr(runtime, "loaded_blas", lambda: libraries)
    (warning,) = sf.show_config()["warnings"]
    assert "Zen" in warning
    assert "OPENBLAS_CORETYPE=SkylakeX" in warning
