# SPDX-License-Identifier: BSD-3-Clause
"""precision="bfloat16" from kernels to training, by the CPU's instructions where it has them, and without; the product: test_blas.py."""

import logging

import numpy as np
import pytest

import svdfast as sf
from svdfast import _blas, _runtime, auto, kernels


@pytest.fixture(params=["instructions", "emulated"], autouse=True)
def way(request):
    before = _blas.float32_products() == "svdfast"
    _blas.use_own_products(before, bfloat16=request.param == "instructions")
    if _blas.bfloat16_products() != request.param:
        _blas.use_own_products(before)
        pytest.skip("this CPU, or this choice of products, has no instructions for it")
    yield request.param
    _blas.use_own_products(before)


def rounded(x):
    """Normal numbers to the nearest bfloat16, in float64."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape, dtype=np.float32)


def samples(n=600, n_in=40):
    X = normal(n, n_in)
    return X, X[:, :3].argmax(axis=1)


def test_the_kernels_round_what_their_products_take():
    p, m, n, l = 37, 21, 18, 5  # noqa: E741
    X, W, W1, W2, b, dA = normal(p, m), normal(n, m), normal(n, l), normal(l, m), normal(n), normal(p, n)
    A = kernels.dense_forward(X, W, b, activation="relu", precision="bfloat16")
    Z = rounded(X) @ rounded(W).T + b
    np.testing.assert_allclose(A, np.maximum(Z, 0), atol=1e-4)
    assert abs(A - np.maximum(X @ W.T + b, 0)).max() > 1e-3  # not float32's
    dX, dW, db = kernels.dense_backward(dA, X, W, A, activation="relu", precision="bfloat16")
    dZ = dA * (A > 0)
    np.testing.assert_allclose(dX, rounded(dZ) @ rounded(W), atol=1e-4)
    np.testing.assert_allclose(dW, rounded(dZ).T @ rounded(X), atol=1e-4)
    np.testing.assert_allclose(db, dZ.sum(axis=0), atol=1e-4)

    A, H = kernels.factored_forward(X, W1, W2, b, precision="bfloat16")
    np.testing.assert_allclose(H, rounded(X) @ rounded(W2).T, atol=1e-4)
    np.testing.assert_allclose(A, rounded(H) @ rounded(W1).T + b, atol=1e-4)
    dX, dW1, dW2, _ = kernels.factored_backward(dA, X, H, W1, W2, precision="bfloat16")
    # D, of float32, is rounded anew where it is an operand; so a rounding off by one place may show.
    D = rounded(dA) @ rounded(W1)
    np.testing.assert_allclose(dX, rounded(D) @ rounded(W2), atol=0.1)
    np.testing.assert_allclose(dW1, rounded(dA).T @ rounded(H), atol=1e-4)
    np.testing.assert_allclose(dW2, rounded(D).T @ rounded(X), atol=0.1)


@pytest.mark.parametrize("precision", ["float16", "bf16", "", 1, "float64"])
def test_precisions_that_do_not_fit_are_refused(precision):
    net = sf.Network([40, 8, 3], seed=0)
    before = net.parameters.copy()
    for work in (
        lambda: net.predict(samples()[0], precision=precision),
        lambda: sf.train(net, *samples(), precision=precision),
        lambda: kernels.dense_forward(normal(3, 4), normal(2, 4), precision=precision),
    ):
        with pytest.raises(ValueError, match="precision: expected float32 or bfloat16 for float32 arrays, got"):
            work()
    np.testing.assert_array_equal(net.parameters, before)


def test_bfloat16_is_for_float32():
    net = sf.Network([40, 8, 3], dtype="float64", seed=0)
    X, y = samples()
    for work in (
        lambda: net.predict(X, precision="bfloat16"),
        lambda: sf.train(net, X, y, precision="bfloat16"),
        lambda: kernels.dense_forward([[1.0]], [[1.0]], precision="bfloat16"),
        lambda: kernels.dense_forward([[1.0]], [[1.0]], precision="float32"),
    ):
        with pytest.raises(ValueError, match="precision: expected float64 for float64 arrays"):
            work()
    np.testing.assert_array_equal(net.predict(X, precision="float64"), net.predict(X))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_predict(n_threads):
    net = sf.Network([40, 64, 32, 3], seed=0)
    net.truncate(1 / 4)
    X = samples()[0]
    exact, got = net.predict(X), net.predict(X, precision="bfloat16", n_threads=n_threads)
    assert got.dtype == np.float32
    assert 1e-6 < abs(got - exact).max() < 0.05
    np.testing.assert_array_equal(net.predict(X, precision="float32"), exact)
    assert np.isnan(net.predict(np.full((3, 40), np.nan, "float32"), precision="bfloat16")).all()
    assert net.predict(X[:0], precision="bfloat16").shape == (0, 3)


@pytest.mark.parametrize("batch_size", [64, 600])  # gradients by rows of weights, and by tiles
@pytest.mark.parametrize("rank_fraction", [None, 1 / 4])
def test_training_takes_the_same_way(batch_size, rank_fraction):
    """As in float32, within what rounding does; weights and moments stay float32; it repeats bit by bit."""
    X, y = samples()

    def trained(precision, n_threads=2):
        net, optimizer = sf.Network([40, 64, 32, 3], seed=0), sf.Adam(1e-3)
        result = sf.train(
            net, X, y, epochs=8, batch_size=batch_size, optimizer=optimizer, rank_fraction=rank_fraction,
            precision=precision, n_threads=n_threads,
        )  # fmt: skip
        assert net.dtype == np.float32 and all(moment.dtype == np.float32 for moment in optimizer.moments)
        return net, [row["loss"] for row in result.history if row["phase"] != "recomposed"]

    net, losses = trained("bfloat16")
    _, expected = trained("float32")
    np.testing.assert_allclose(losses, expected, rtol=0.03)
    assert losses != expected
    again, _ = trained("bfloat16")
    np.testing.assert_array_equal(net.parameters, again.parameters)
    _, single = trained("bfloat16", n_threads=1)
    np.testing.assert_allclose(single, losses, rtol=0.01)


def test_it_learns():
    data = sf.datasets.load("xor")
    net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
    sf.train(net, *data.train, epochs=800, optimizer=sf.Adam(0.01), rank_fraction=None, precision="bfloat16")
    assert net.score(*data.train) == 1


def test_auto_times_the_form_that_is_trained(monkeypatch):
    seen = []
    engine = auto.Engine
    monkeypatch.setattr(auto, "PROGRESS_KEPT", -np.inf)  # whatever the cut does to the loss
    monkeypatch.setattr(auto, "OVERHEAD", -np.inf)  # and whatever time it takes
    monkeypatch.setattr(auto, "Engine", lambda *a, **k: seen.append(k) or engine(*a, **k))
    X, y = samples()
    sf.train(sf.Network([40, 512, 512, 3], seed=0), X, y, epochs=20, batch_size=60, ranks="auto", precision="bfloat16")
    timed = [k for k in seen if k.get("gradients", True)]
    assert timed and all(k["bfloat16"] for k in timed)


def test_one_warning_where_it_is_emulated(way, monkeypatch, caplog):
    monkeypatch.setattr(_runtime, "_said_emulated", False)
    net = sf.Network([40, 8, 3], seed=0)
    with caplog.at_level(logging.WARNING, logger="svdfast"):
        net.predict(samples()[0])
        assert not caplog.records
        for _ in range(2):
            net.predict(samples()[0], precision="bfloat16")
    assert [record.getMessage()[:30] for record in caplog.records] == (["bfloat16 products are emulated"] if way == "emulated" else [])
