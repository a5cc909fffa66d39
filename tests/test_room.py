# SPDX-License-Identifier: BSD-3-Clause
"""What there is no memory for is refused before it is allocated, with the argument's name and the number of bytes."""

import os
import tracemalloc

import numpy as np
import pytest

import svdfast as sf
from svdfast._process import checks
from svdfast.data.checks import checked_samples
from svdfast.model.evaluation import spec_of


@pytest.fixture
def little(monkeypatch):
    """A machine that has 100 KB left, and says so even where little is asked for."""
    monkeypatch.setattr(checks, "_SMALL", 0)

    def leave(n_bytes):
        monkeypatch.setattr(checks, "memory", lambda: n_bytes)

    leave(100_000)
    return leave


def refused(argument, n_bytes, function, *args, **kwargs):
    """That many bytes are refused, and no array is taken first."""
    tracemalloc.start()
    try:
        with pytest.raises(MemoryError, match=rf"^{argument}: expected .* got {n_bytes:,}$"):
            function(*args, **kwargs)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_what_is_left_is_a_number_of_bytes_or_not_known():
    left = checks.memory()
    if os.path.exists("/proc/meminfo"):
        assert left is not None
    assert left is None or 0 < left < 2**60
    checks.room("x", 0)
    with pytest.raises(MemoryError, match=r"x: expected .* got 1,152,921,504,606,846,976"):
        checks.room("x", 2**60)


def test_where_nobody_says_what_is_left_only_the_impossible_is_refused(monkeypatch):
    monkeypatch.setattr(checks, "memory", lambda: None)
    checks.room("x", 2**62)
    with pytest.raises(MemoryError, match="x: expected"):
        checks.room("x", 2**63)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float64", 8)])
def test_the_parameters_of_a_network(little, dtype, size):
    refused("sizes", (300 * 100 + 100) * size, sf.Network, [300, 100], dtype=dtype)
    little((300 * 100 + 100) * size)
    sf.Network([300, 100], dtype=dtype)


def test_what_threads_need(little):
    """Gradients of each, beside the activations."""
    net = sf.Network([10, 1000, 2], seed=0)
    X, y = np.zeros((2000, 10), np.float32), np.zeros(2000, int)
    with pytest.raises(MemoryError, match="n_threads: expected"):
        sf.train(net, X, y, epochs=1, n_threads=100, optimizer=sf.GradientDescent(0.1))
    with pytest.raises(MemoryError, match="sizes: expected"):
        net.loss_and_gradient(X, y, n_threads=1)


def test_moments(little):
    net = sf.Network([300, 10], seed=0)
    little(4 * net.layout.size)
    refused("optimizer", 2 * 4 * net.layout.size, sf.Adam().begin, "here", net.layout.size, "float32")


def test_predictions(little):
    net = sf.Network([1, 10], seed=0)
    X = np.broadcast_to(np.zeros((1, 1), np.float32), (2**40, 1))
    little(2**40)
    refused("X", 2**40 * 40, net.predict, X)


def test_copies_of_data(little):
    """Such as these views of one number are, if what is copied need not be looked through first."""
    net = sf.Network([1, 2], seed=0)
    n = 2**40
    zeros = {kind: np.broadcast_to(np.zeros((), kind), (n,)) for kind in ("float16", "int64")}
    refused("X", 4 * n, net.predict, zeros["float16"][:, np.newaxis])
    refused("X", 4 * n, checked_samples, zeros["float16"][:, np.newaxis], zeros["int64"], None, spec_of(net))
    few = np.zeros((30_000, 1), np.float32)
    refused("y", 120_000, checked_samples, few, np.broadcast_to(np.int64(0), 30_000), None, spec_of(net))
    y = np.zeros(30_000, np.int32)
    refused("sample_weight", 120_000, checked_samples, few, y, np.broadcast_to(1.0, 30_000), spec_of(net))


class Rows:
    """A row source that would give any rows, if it were asked."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __getitem__(self, key):
        raise AssertionError("read before there was room")


def test_a_pool_of_rows(little):
    net = sf.Network([1, 2], seed=0)
    little(2**30)
    with pytest.raises(MemoryError, match="batch_size: expected"):
        sf.train(net, Rows((2**40, 1), np.float32), Rows((2**40,), np.int32), batch_size=2**35, epochs=1)


def test_a_file(little, tmp_path):
    net = sf.Network([200, 100], seed=0)
    for suffix in ("npz", "safetensors"):
        if suffix == "safetensors":
            pytest.importorskip("safetensors")
        path = tmp_path / f"net.{suffix}"
        sf.save(net, path)
        little(80_000)
        refused("path", path.stat().st_size, sf.load, path)
