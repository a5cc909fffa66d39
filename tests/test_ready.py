# SPDX-License-Identifier: BSD-3-Clause
"""Predictions of few samples, for which a network keeps an engine: the same as those of many, whatever happened in between."""

import copy
import gc
import itertools
import pickle
import threading
import weakref

import numpy as np
import pytest

import svdfast as sf
from svdfast import layers as L
from svdfast._engine import Engine
from svdfast.model.ready import ROWS, Ready


@pytest.fixture
def net():
    return sf.Network([30, 20, 10], seed=0)


def samples(n=3, n_in=30, dtype="float32"):
    return np.random.default_rng(0).random((n, n_in)).astype(dtype)


def plainly(net, X):
    """By another way: a view of every second row is not taken as it lies."""
    return net.predict(np.repeat(X, 2, axis=0)[::2])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 9, ROWS, ROWS + 1])
@pytest.mark.parametrize("n_threads", [None, 1, 2])
def test_same_numbers(dtype, n, n_threads):
    net = sf.Network([30, 20, 10], seed=0, dtype=dtype)
    X = samples(n, dtype=dtype)
    for _ in range(2):
        np.testing.assert_allclose(
            net.predict(X, n_threads=n_threads),
            plainly(net, X),
            rtol=1e-5 if dtype == "float32" else 1e-13,
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes, hidden, output", [
    ([700, 500, 300, 10], "relu", "softmax"),
    ([1001, 257, 33], "gelu", "identity"),
    ([300, 1, 2000, 17], ["tanh", "elu"], "sigmoid"),
    ([520, 1500], "relu", "softmax"),
])  # fmt: skip
@pytest.mark.parametrize("rank", [None, 190])
def test_outputs_shared_by_threads(dtype, sizes, hidden, output, rank):
    """Enough work for several threads: each computes some outputs of all samples."""
    net = sf.Network(sizes, hidden, output, seed=0, dtype=dtype)
    if rank is not None:
        net.truncate(ranks=[min(rank, *pair) for pair in itertools.pairwise(sizes[:-1])], force=True)
    for n in (1, 2, 9, 13, 23, 24, 40):
        X = samples(n, sizes[0], dtype)
        expected = plainly(net, X)
        for n_threads in (None, 1, 2, 3, 7):
            outputs = net.predict(X, n_threads=n_threads)
            np.testing.assert_allclose(outputs, expected, rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-6)
            np.testing.assert_array_equal(net.predict(X, n_threads=n_threads), outputs)


def test_which_networks_have_parts():
    """Those of products and biases alone."""
    def engine(net, **how):
        return Engine(*net.state, gradients=False, batch_size=8, n_threads=2, **how)

    net = sf.Network([30, 20, 10], seed=0)
    assert engine(net, few_rows_apart=True).in_parts and not engine(net).in_parts
    net.truncate(ranks=[5], force=True)
    assert engine(net, few_rows_apart=True).in_parts
    layers = [L.Conv2d(4, 3, "relu"), L.Flatten(), L.Linear(3, "softmax")]
    assert not engine(sf.Network(sf.Input(6, 6, 1), layers, seed=0), few_rows_apart=True).in_parts


def test_an_engine_for_each_number_of_threads(net, monkeypatch):
    made = []
    monkeypatch.setattr("svdfast.model.ready.Engine", lambda *a, **how: made.append(how["n_threads"]) or Engine(*a, **how))
    for _ in range(3):
        for n_threads in (1, 2):
            net.predict(samples(), n_threads=n_threads)
    assert made == [1, 2]


def test_what_is_taken(net, monkeypatch):
    taken = []
    plain = Ready.predict
    monkeypatch.setattr(Ready, "predict", lambda self, *a: taken.append(1) or plain(self, *a))
    X = samples()
    for how in ({}, {"precision": "float32"}, {"n_threads": 1}, {"out": np.empty((3, 10), np.float32)}):
        net.predict(X, **how)
    assert len(taken) == 4
    for other in (X.astype(float), X.tolist(), np.asfortranarray(X), X[::2], np.repeat(X, 40, axis=0)):
        net.predict(other)
    for how in ({"precision": "bfloat16"}, {"reproducible": True}):
        net.predict(X, **how)
    assert len(taken) == 4
    with pytest.raises(TypeError, match=r"^precision: "):
        net.predict(X, precision=["float32"])


def test_follows_every_change(net):
    X = samples()
    net.predict(X)
    net.parameters[:] *= 2
    np.testing.assert_array_equal(net.predict(X), plainly(net, X))
    net.truncate(ranks=[4])
    np.testing.assert_array_equal(net.predict(X), plainly(net, X))
    net.recompose()
    np.testing.assert_array_equal(net.predict(X), plainly(net, X))
    sf.train(net, samples(50), np.arange(50) % 10, epochs=2)
    np.testing.assert_array_equal(net.predict(X), plainly(net, X))


def test_copies_have_their_own(net):
    X = samples()
    before = net.predict(X)
    others = copy.deepcopy(net), pickle.loads(pickle.dumps(net)), net.copy()
    net.parameters[:] = 0
    for other in others:
        np.testing.assert_array_equal(other.predict(X), before)


def test_keeps_no_samples(net):
    X = samples(9)
    gone = weakref.ref(X)
    net.predict(X[:3])
    del X
    gc.collect()
    assert gone() is None


def test_keeps_none_after_an_error(net, monkeypatch):
    X = samples()
    monkeypatch.setattr("svdfast.model.ready.float32_products", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net.predict(X)
    monkeypatch.undo()
    np.testing.assert_array_equal(net.predict(X), plainly(net, X))


def test_out(net):
    X, out = samples(), np.empty((3, 10), np.float32)
    assert net.predict(X, out=out) is out
    np.testing.assert_array_equal(out, net.predict(X))


def test_out_over_samples():
    net = sf.Network([10, 20, 10], seed=0)
    X = samples(n_in=10)
    expected = net.predict(X)
    net.predict(X, out=X)
    np.testing.assert_array_equal(X, expected)


@pytest.mark.parametrize(
    "out",
    [np.empty((3, 9), np.float32), np.empty((3, 10)), np.empty((10, 3), np.float32).T, [0.0]],
    ids=["shape", "dtype", "order", "list"],
)
def test_wrong_out(net, out):
    with pytest.raises((TypeError, ValueError), match=r"^out: "):
        net.predict(samples(), out=out)


def test_read_only_samples_and_nan(net):
    X = samples()
    X[1, 5] = np.nan
    X.flags.writeable = False
    found = net.predict(X)
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()


@pytest.mark.parametrize("n_threads", [0, -1, 1.5, "two", True])
def test_wrong_threads(net, n_threads):
    with pytest.raises((TypeError, ValueError), match=r"^n_threads: "):
        net.predict(samples(), n_threads=n_threads)


def test_threads_at_once(net):
    X = samples(40)
    expected = net.predict(X)
    wrong = []

    def predict():
        for _ in range(300):
            if not np.array_equal(net.predict(X), expected):
                wrong.append(1)

    threads = [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_sequences_and_images():
    L = sf.layers
    recurrent = sf.Network(
        sf.Input(5, 6), [L.GRU(4, return_sequences=True), L.Linear(3, "softmax")], seed=0
    )
    X = samples(3, 30)
    assert recurrent.predict(X).shape == (3, 5, 3)
    np.testing.assert_array_equal(recurrent.predict(X), recurrent.predict(X.reshape(3, 5, 6)))
    tokens = sf.Network(
        sf.Input(4), [L.Embedding(7, 3), L.Flatten(), L.Linear(2, "softmax")], seed=0
    )
    with pytest.raises(ValueError, match=r"^X: expected tokens"):
        tokens.predict(np.full((1, 4), 9, np.float32))


def test_large_values_are_not_kept():
    L = sf.layers
    net = sf.Network(
        sf.Input(64, 64, 3),
        [L.Conv2d(32, 3, "relu", padding="same"), L.GlobalAvgPool(), L.Linear(2, "softmax")],
        seed=0,
    )
    X = samples(2, 64 * 64 * 3)
    np.testing.assert_array_equal(net.predict(X), plainly(net, X))
    assert net._ready.rows < 2
