# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures for several test modules."""

import importlib.util
import signal
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from svdfast import _blas


def _load(name):
    # The tests are no package: a module beside them is loaded by its place.
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """A job in a script's background ignores SIGINT, and so would every process that tests begin and interrupt."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def reference():
    """tests/reference.py: a network in plain NumPy."""
    return _load("reference")


@pytest.fixture(scope="session")
def kills():
    """tests/kills.py: trainings that are killed and go on."""
    return _load("kills")


@pytest.fixture(scope="session")
def rounded(reference):
    """Float32 arrays rounded to bfloat16."""
    return reference.rounded_to_bfloat16


@pytest.fixture
def one_blas_thread():
    """For tests full of small products in NumPy: BLAS's waiting threads would take the cores from the test."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(params=["avx512", "avx2", "BLAS"])
def products(request):
    """Every test by our own products of float32, as far as this CPU has them, and by BLAS."""
    before = _blas.float32_products()
    wanted = request.param != "BLAS"
    if _blas.use_own_products(wanted, request.param if wanted else None) != wanted:
        _blas.use_own_products(before == "svdfast")
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    _blas.use_own_products(before == "svdfast")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make_data():
    """Samples and targets for a network and a loss, reproducible."""

    def make(net, loss, n_samples, seed=0, dtype=None):
        rng = np.random.default_rng(seed)
        n_in, n_out = net.sizes[0], net.sizes[-1]
        X = rng.standard_normal((n_samples, n_in)).astype(dtype or net.dtype)
        if loss == "cross_entropy":
            return X, rng.integers(0, n_out, n_samples)
        if loss == "binary_cross_entropy":
            return X, rng.random((n_samples, n_out)).astype(net.dtype)
        if loss == "poisson":
            return X, rng.poisson(1.5, (n_samples, n_out)).astype(net.dtype)
        return X, rng.standard_normal((n_samples, n_out)).astype(net.dtype)

    return make
