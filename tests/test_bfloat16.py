# SPDX-License-Identifier: BSD-3-Clause
"""precision="bfloat16" from kernels to training, by the CPU's instructions where it has them, and without; the product: test_blas.py."""

import logging

import numpy as np
import pytest

import svdfast as sf
from svdfast import _blas, kernels
from svdfast._process import runtime
from svdfast.training import auto, run, turns


@pytest.fixture(params=["instructions", "emulated"], autouse=True)
def way(request):
    before = _blas.float32_products() == "svdfast"
    _blas.use_own_products(before, bfloat16=request.param == "instructions")
    if _blas.bfloat16_products() != request.param:
        _blas.use_own_products(before)
        pytest.skip("this CPU, or this choice of products, has no instructions for it")
    yield request.param
    _blas.use_own_products(before)


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape, dtype=np.float32)


def samples(n=600, n_in=40):
    X = normal(n, n_in)
    return X, X[:, :3].argmax(axis=1)


def test_the_kernels_round_what_their_products_take(rounded):
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
    # D as float32 has it: its rounding may turn on its last digit.
    D = kernels.dense_forward(dA, np.ascontiguousarray(W1.T), precision="bfloat16")
    np.testing.assert_allclose(D, rounded(dA).astype(np.float64) @ rounded(W1), atol=1e-4)
    np.testing.assert_allclose(dX, rounded(D) @ rounded(W2), atol=1e-4)
    np.testing.assert_allclose(dW1, rounded(dA).T @ rounded(H), atol=1e-4)
    np.testing.assert_allclose(dW2, rounded(D).T @ rounded(X), atol=1e-4)


@pytest.mark.parametrize("n_samples", [300, 1300])  # gradients by rows of weights, and by tiles
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("ranks", [None, [16, None], [8, 12]])
def test_the_gradient_is_that_of_the_kernels(n_samples, n_threads, ranks):
    """Every product of the engine, forward and backward, of operands rounded."""
    X, y = samples(n_samples)
    net = sf.Network([40, 64, 32, 3], seed=0)
    if ranks is not None:
        net.truncate(ranks=ranks)
    acts, hs = [X], []
    for layer, activation in zip(net.layers, ("relu", "relu", "identity"), strict=True):
        if layer.rank is None:
            acts.append(kernels.dense_forward(acts[-1], layer.W, layer.b, activation=activation, precision="bfloat16"))
            hs.append(None)
        else:
            A, H = kernels.factored_forward(acts[-1], layer.W1, layer.W2, layer.b, activation=activation, precision="bfloat16")
            acts.append(A)
            hs.append(H)
    P = np.exp(acts[-1] - acts[-1].max(axis=1, keepdims=True))
    P /= P.sum(axis=1, keepdims=True)
    dA = ((P - np.eye(3)[y]) / n_samples).astype(np.float32)
    laid_out = net.copy()
    laid_out.parameters[:] = 0
    for layer, into, A_in, A, H in reversed(list(zip(net.layers, laid_out.layers, acts, acts[1:], hs, strict=False))):
        activation = "identity" if A is acts[-1] else "relu"
        if H is None:
            dA, into.W[...], into.b[...] = kernels.dense_backward(dA, A_in, layer.W, A, activation=activation, precision="bfloat16")
        else:
            dA, into.W1[...], into.W2[...], into.b[...] = kernels.factored_backward(
                dA, A_in, H, layer.W1, layer.W2, A, activation=activation, precision="bfloat16"
            )
    expected = laid_out.parameters
    loss, gradient = net.loss_and_gradient(X, y, precision="bfloat16", n_threads=n_threads)
    exact_loss, exact = net.loss_and_gradient(X, y, n_threads=n_threads)
    assert loss == pytest.approx(-np.log(P[np.arange(n_samples), y]).mean(), rel=1e-5)
    # A delta may be rounded the other way where its last digit differs: of a few elements, by a 256th.
    error, rounding = abs(gradient - expected), abs(exact - expected)
    for layer_error, layer_rounding in zip(_matrices(net, error), _matrices(net, rounding), strict=True):
        assert np.linalg.norm(layer_error) < 0.02 * np.linalg.norm(layer_rounding)
    assert loss != exact_loss


def _matrices(net, vector):
    """The parts of a vector that are weights or factors of a network."""
    other = net.copy()
    other.parameters[:] = vector
    return [matrix for layer in other.layers for matrix in ([layer.W] if layer.rank is None else [layer.W1, layer.W2])]


def test_every_engine_of_a_training_rounds(monkeypatch):
    seen = []
    engine = run.Engine
    monkeypatch.setattr(run, "Engine", lambda layout, *a, **k: seen.append((layout.ranks, k)) or engine(layout, *a, **k))
    sf.train(
        sf.Network([40, 64, 32, 3], seed=0), *samples(), epochs=4, batch_size=100, precision="bfloat16",
        factoring=sf.Factoring([10, 8], recompose_fraction=0.25),
    )
    assert [ranks for ranks, _ in seen] == [(None, None, None), (10, 8, None), (None, None, None)]
    assert all(k["bfloat16"] for _, k in seen)


def test_evaluate_and_score_are_of_the_network_as_it_predicts():
    net = sf.Network([40, 64, 32, 3], seed=0)
    X, y = samples()
    P = net.predict(X, precision="bfloat16").astype(np.float64)
    evaluation = net.evaluate(X, y, precision="bfloat16")
    assert evaluation.loss == pytest.approx(-np.log(P[np.arange(len(y)), y]).mean(), rel=1e-6)
    assert evaluation.loss != net.evaluate(X, y).loss
    assert evaluation.accuracy == (P.argmax(axis=1) == y).mean() == net.score(X, y, precision="bfloat16")
    plain = sf.Network([40, 3], output="identity", seed=0)
    assert plain.score(X, X[:, :3], precision="bfloat16") != plain.score(X, X[:, :3])


@pytest.mark.parametrize("precision", ["float16", "bf16", "", "float64", 1, np.float32, ["bfloat16"], np.array(["bfloat16", "x"])])
def test_precisions_that_do_not_fit_are_refused(precision):
    net = sf.Network([40, 8, 3], seed=0)
    before = net.parameters.copy()
    for work in (
        lambda: net.predict(samples()[0], precision=precision),
        lambda: sf.train(net, *samples(), precision=precision),
        lambda: net.evaluate(*samples(), precision=precision),
        lambda: net.score(*samples(), precision=precision),
        lambda: net.loss_and_gradient(*samples(), precision=precision),
        lambda: kernels.dense_forward(normal(3, 4), normal(2, 4), precision=precision),
    ):
        if isinstance(precision, str):
            with pytest.raises(ValueError, match="precision: expected float32 or bfloat16 for float32 arrays, got"):
                work()
        else:
            with pytest.raises(TypeError, match="precision: expected a name or None, got"):
                work()
    np.testing.assert_array_equal(net.parameters, before)


def test_bfloat16_is_for_float32():
    net = sf.Network([40, 8, 3], dtype="float64", seed=0)
    X, y = samples()
    for work in (
        lambda: net.predict(X, precision="bfloat16"),
        lambda: sf.train(net, X, y, precision="bfloat16"),
        lambda: kernels.dense_forward([[1.0]], [[1.0]], precision="bfloat16"),
    ):
        with pytest.raises(ValueError, match="precision: bfloat16 is for arrays and networks of float32, these are float64"):
            work()
    with pytest.raises(ValueError, match="precision: expected float64 for float64 arrays, got 'float32'"):
        kernels.dense_forward([[1.0]], [[1.0]], precision="float32")
    with pytest.raises(ValueError, match="bfloat16 is for float32"):
        _blas.multiply(np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2)), bfloat16=True)
    np.testing.assert_array_equal(net.predict(X, precision="float64"), net.predict(X))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_predict(n_threads):
    net = sf.Network([40, 64, 32, 3], seed=0)
    net.truncate(1 / 4, force=True)
    X = samples()[0]
    exact, got = net.predict(X), net.predict(X, precision="bfloat16", n_threads=n_threads)
    assert got.dtype == np.float32
    assert 1e-6 < abs(got - exact).max() < 0.05
    np.testing.assert_array_equal(net.predict(X, precision="float32"), exact)
    assert np.isnan(net.predict(np.full((3, 40), np.nan, "float32"), precision="bfloat16")).all()
    assert net.predict(X[:0], precision="bfloat16").shape == (0, 3)


@pytest.mark.parametrize("rank_fraction", [None, 1 / 4])
def test_packed_weights_change_nothing(rank_fraction):
    """Few rows are one tile, for which weights are not packed; each row's outputs are the same sums."""
    net = sf.Network([40, 64, 50, 3], seed=0)
    if rank_fraction is not None:
        net.truncate(rank_fraction, force=True)
    X = samples(1300)[0]
    few = np.concatenate([net.predict(X[i : i + 100], precision="bfloat16", n_threads=1) for i in range(0, len(X), 100)])
    for n_threads in (1, 2):
        np.testing.assert_array_equal(net.predict(X, precision="bfloat16", n_threads=n_threads), few)


@pytest.mark.parametrize("batch_size", [64, 600])  # gradients by rows of weights, and by tiles
@pytest.mark.parametrize("factoring", [None, sf.Factoring([10, 8])])
def test_training_takes_the_same_way(batch_size, factoring):
    """As in float32, within what rounding does; weights and moments stay float32; it repeats bit by bit."""
    X, y = samples()

    def trained(precision, n_threads=2):
        net, optimizer = sf.Network([40, 64, 32, 3], seed=0), sf.Adam(1e-3)
        result = sf.train(
            net, X, y, epochs=8, batch_size=batch_size, optimizer=optimizer, factoring=factoring,
            precision=precision, n_threads=n_threads,
        )  # fmt: skip
        assert result.phases[-1]["phase"] == ("dense" if factoring is None else "factored")
        assert net.dtype == np.float32 and all(moment.dtype == np.float32 for moment in optimizer.moments)
        return net, [row["loss"] for row in result.history]

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
    sf.train(net, *data.train, epochs=800, optimizer=sf.Adam(0.01), factoring=None, precision="bfloat16")
    assert net.score(*data.train) == 1


def test_auto_times_the_form_that_is_trained(monkeypatch):
    """Its check compares the training's own steps before and after the truncation, and then gradients by turns: all round, and what looks
    does not."""
    seen, by_turns = [], []
    engine = run.Engine
    for name in ("LOOKING", "LOST", "STILL_LOST"):  # whatever the truncation does to the loss, and whatever time the look takes
        monkeypatch.setattr(auto, name, np.inf)
    for name, value in (("FASTER", 0.0), ("LEAST", 1), ("SHORTEST", 3)):
        monkeypatch.setattr(auto, name, value)
    monkeypatch.setattr(run, "Engine", lambda layout, *a, **k: seen.append((layout.ranks, k)) or engine(layout, *a, **k))
    monkeypatch.setattr(turns, "Engine", lambda layout, *a, **k: by_turns.append((layout.ranks, k["bfloat16"])) or engine(layout, *a, **k))
    X, y = samples()
    result = sf.train(
        sf.Network([40, 512, 512, 3], seed=0), X, y, epochs=20, batch_size=60, optimizer=sf.Adam(1e-3), factoring="auto",
        precision="bfloat16",
    )  # fmt: skip
    _, check = [event for event in result.events if event.kind == "guard"]
    assert check.info["action"] == "undone" and check.info["seconds_dense"] > 0 and check.info["seconds_factored"] > 0
    assert by_turns == 2 * [((None, None, None), True), ((None, 64, None), True)]
    trained = [(ranks, k["bfloat16"]) for ranks, k in seen if k.get("gradients", True)]
    assert trained == [((None, None, None), True), ((None, 64, None), True), ((None, None, None), True)]
    looked = [k for _, k in seen if not k.get("gradients", True)]
    assert looked and not any(k.get("bfloat16") for k in looked)


def test_one_warning_where_it_is_emulated(way, monkeypatch, caplog):
    monkeypatch.setattr(runtime, "_said_emulated", False)
    net = sf.Network([40, 8, 3], seed=0)
    with caplog.at_level(logging.WARNING, logger="svdfast"):
        net.predict(samples()[0])
        assert not caplog.records
        for _ in range(2):
            net.predict(samples()[0], precision="bfloat16")
    assert [record.getMessage()[:30] for record in caplog.records] == (["bfloat16 products are emulated"] if way == "emulated" else [])
