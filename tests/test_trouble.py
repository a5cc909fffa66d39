# SPDX-License-Identifier: BSD-3-Clause
"""Tests of numerical trouble: numbers that are not finite, decompositions that do not converge, and data and weights at the extremes."""

import itertools
import logging
import os
import pickle

import numpy as np
import pytest
import scipy.linalg
from flat import flat

import svdfast as sf
from svdfast._engine import Engine
from svdfast._process.runtime import single_threaded_blas
from svdfast.data.checks import checked_samples
from svdfast.model import svd
from svdfast.model.evaluation import spec_of
from svdfast.model.structures import LowRank
from svdfast.training import auto
from svdfast.training.run import Run

# Trainings at the extremes, drawn at random from all combinations; thousands of them are a search of some minutes.
N_EXTREME = int(os.environ.get("SVDFAST_EXTREME_TRAININGS", 60))


class Jump:
    """A rate that is good but for one step, from 0."""

    def __init__(self, step, rate=1e30):
        self.step, self.rate = step, rate

    def __call__(self, step, n_steps):
        return self.rate if step == self.step else 0.01


def network(dtype="float32", **arguments):
    return sf.Network([8, 20, 16, 3], **{"dtype": dtype, "seed": 0, **arguments})


def samples(n=400):
    rng = np.random.default_rng(1)
    return rng.standard_normal((n, 8)).astype("float32"), rng.integers(0, 3, n)


def stopped(net, X, y, **settings):
    """The error of a training that stops, by default one that comes to factors."""
    with pytest.raises(sf.NotFinite) as caught:
        sf.train(net, X, y, **flat(**{"batch_size": 16, "epochs": 8, "ranks": 0.25, "force": True, **settings}))
    return caught.value


# ---- a step whose loss is not finite


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("sum_rows, reproducible", [(1, False), (1000, False), (64, True)])
@pytest.mark.parametrize("optimizer", [sf.Adam(), sf.GradientDescent(0.1, momentum=0.9)], ids=["adam", "momentum"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_whose_loss_is_not_finite_changes_nothing(n_threads, sum_rows, reproducible, optimizer, bad):
    net = sf.Network([9, 40, 30, 5], dtype="float64", seed=0)
    rng = np.random.default_rng(1)
    data = checked_samples(rng.standard_normal((1000, 9)), rng.integers(0, 5, 1000), None, spec_of(net))
    # The last row is another thread's than the first.
    engine = Engine(
        net.layout, net.parameters, batch_size=1000, n_threads=n_threads, sum_rows=sum_rows, reproducible=reproducible
    )
    data.bind(engine)
    moments = [np.full(net.layout.size, 0.5) for _ in optimizer.kinds]
    engine.set_update(optimizer.rule, moments)
    before = net.parameters.copy()
    data.inputs.array[-1] = bad
    with single_threaded_blas.held():
        assert not np.isfinite(engine.step(0, 1000, 0.1, 1, 0.0, 0.1))
        np.testing.assert_array_equal(net.parameters, before)
        for moment in moments:
            np.testing.assert_array_equal(moment, 0.5)
        data.inputs.array[-1] = 0
        assert np.isfinite(engine.step(0, 1000, 0.1, 1, 0.0, 0.1))
    assert (net.parameters != before).all()
    assert all((moment != 0.5).all() for moment in moments)


@pytest.mark.parametrize("name, value, told", [
    ("X", np.nan, "X holds NaN or infinity"),
    ("y", np.nan, "y holds NaN or infinity"),
    ("sample_weight", np.nan, "sample_weight holds NaN or infinity"),
    ("y", 3, "y holds what is no class number"),
    ("y", -(2**31), "y holds what is no class number"),
])  # fmt: skip
def test_data_that_go_bad_cost_only_the_step_that_met_them(name, value, told):
    """The network and the optimizer are those of a training that ended before."""
    n = 400
    X, _ = samples(n)
    y = np.ones((n, 3), "float32") if np.isnan(value) else np.ones(n, "int32")
    data = {"X": X, "y": y, "sample_weight": np.ones(n, "float32")}

    def spoil(event):
        if event.kind == "epoch" and event.epoch == 3:
            data[name][5] = value

    settings = dict(output="identity" if np.isnan(value) else "softmax")
    net, optimizer = network(**settings), sf.Adam()
    shorter, before = network(**settings), sf.Adam()
    common = dict(shuffle=False, factoring=None, batch_size=16)
    sf.train(shorter, **data, optimizer=before, epochs=3, **common)
    error = stopped(net, **data, optimizer=optimizer, callbacks=[spoil], **common)
    assert (error.step, error.epoch, error.layer, error.restored) == (76, 4, None, 75)
    assert f"loss became nan at step 76 (epoch 4): {told}" in str(error)
    assert "the network is as step 75 left it" in str(error)
    np.testing.assert_array_equal(net.parameters, shorter.parameters)
    assert optimizer.n_updates == before.n_updates == 75
    for moment, expected in zip(optimizer.moments, before.moments, strict=True):
        np.testing.assert_array_equal(moment, expected)


# ---- weights that go bad


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("phi", "jump", "restored"),
    [
        (1.0, 10, 0),
        (1.0, 110, 100),
        (1.0, 199, 100),  # the very last step
        (0.3, 40, 0),
        (0.3, 65, 60),  # since the switch
        (0.3, 190, 175),  # copies at steps 60 (the switch) and 175
        (0.3, 199, 175),
    ],
)
def test_the_last_good_weights_are_put_back(phi, jump, restored, dtype, n_threads):
    X, y = samples()
    net = network(dtype)
    good = {0: (net.layout, net.parameters.copy())}

    def keep(event):
        good[event.step] = event.network.layout, event.network.parameters.copy()

    # Infinite in float32, and weights are not finite after it. In float64 they are, but for nothing: the next loss shows it.
    optimizer = sf.GradientDescent(Jump(jump, 1e300 if jump < 199 else np.inf), momentum=0.9)
    error = stopped(net, X, y, pretrain_fraction=phi, optimizer=optimizer, callbacks=[keep], n_threads=n_threads)
    assert (error.step, error.restored) == (min(jump + 2, 200), restored)
    assert error.layer in (0, 1, 2)
    layout, parameters = good[restored]
    assert net.layout == layout
    np.testing.assert_array_equal(net.parameters, parameters)
    assert optimizer.moments == () and optimizer.n_updates == 0
    # And it can be trained on.
    sf.train(net, X, y, epochs=1, optimizer=sf.Adam())


def test_views_show_what_was_put_back():
    X, y = samples()
    net = network()
    view, before = net.layers[1].W, net.layers[1].W.copy()
    error = stopped(net, X, y, optimizer=sf.GradientDescent(1e30), factoring=None)
    assert error.restored == 0 and "put back and is as it was before the first step" in str(error)
    np.testing.assert_array_equal(view, before)
    assert view.base is net.layers[1].W.base


@pytest.mark.parametrize("ends", [False, True])
def test_weights_that_no_loss_shows_are_found(ends):
    """ReLU makes 0 of -inf: seen where an epoch ends, and at the training's end."""
    X, y = samples(400)
    net = network()
    seen = {}

    def spoil(event):
        if event.kind == "epoch":
            seen[event.epoch] = event.network.parameters.copy()
            if event.epoch == 3:
                event.network.layers[0].b[2] = -np.inf

    epochs = 3 if ends else 9
    error = stopped(net, X, y, batch_size=4, epochs=epochs, factoring=None, callbacks=[spoil])
    assert (error.step, error.layer, error.restored) == (300 if ends else 400, 0, 300)
    assert "b of layer 0 holds NaN or infinity" in str(error)
    np.testing.assert_array_equal(net.parameters, seen[3])


def test_factors_whose_product_overflows_are_kept():
    X, y = samples()
    net = network()

    def enlarge(event):
        if event.kind == "epoch" and event.epoch == 8:
            for layer in event.network.layers[:2]:
                layer.W1[...] = layer.W2[...] = 1e20

    error = stopped(net, X, y, callbacks=[enlarge])
    assert error.layer == 0 and error.step == error.restored == 200
    assert net.is_factored and np.isfinite(net.parameters).all() and net.layers[0].W1[0, 0] == np.float32(1e20)


def test_moments_that_overflow_are_told():
    """Squares of gradients beyond float32 would keep Adam from ever moving a weight again."""
    X, _ = samples()
    net, optimizer = network(output="identity"), sf.Adam()
    error = stopped(net, X, np.full((400, 3), 1e30), optimizer=optimizer)
    assert error.layer is None and "gradients, or their squares, are beyond float32" in str(error)
    assert "targets are as large as 1e+30: to scale them" in str(error)
    assert np.isfinite(net.parameters).all() and optimizer.moments == ()


# ---- what is told


def test_the_first_bad_layer_is_named():
    X, y = samples()
    net = network()
    net.layers[1].b[3] = np.nan
    net.layers[2].W[0, 0] = np.nan
    error = stopped(net, X, y)
    assert (error.step, error.epoch, error.layer, error.restored) == (0, 1, 1, 0)
    assert "b of layer 1 holds NaN or infinity; so it was before the first step" in str(error)


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("factored", [False, True])
def test_the_first_layer_whose_outputs_overflow_is_named(index, factored):
    X, y = samples()
    net = network()
    if factored:
        net.truncate(ranks=[8, 8], force=True)

    def enlarge(event):
        if event.kind == "epoch" and event.epoch == 2:
            layer = event.network.layers[index]
            (layer.W if layer.rank is None else layer.W1)[...] = 3e38

    error = stopped(net, X, y, factoring=None, callbacks=[enlarge])
    assert (error.step, error.epoch, error.layer, error.restored) == (51, 3, index, 0)
    assert f"the outputs of layer {index} are beyond float32; the largest weight is 3e+38, after step 0" in str(error)
    assert "a smaller learning rate may help" in str(error)


def test_large_inputs_are_told():
    X, y = samples()
    error = stopped(network(), 1e30 * X, y, optimizer=sf.GradientDescent(1.0))
    assert "inputs are as large as" in str(error) and "to scale them" in str(error)


def test_penalties_that_overflow_are_told():
    X, y = np.zeros((400, 8)), samples()[1]
    net = network()
    net.layers[1].W[...] = 1e15
    before = net.parameters.copy()

    def enlarge(event):
        if event.kind == "epoch" and event.epoch == 1:
            event.network.layers[1].W[...] = 3e20

    error = stopped(net, X, y, l2=1e-30, callbacks=[enlarge], optimizer=sf.GradientDescent(0.0), factoring=None)
    assert error.layer == 1 and "the penalties are beyond float32" in str(error)
    np.testing.assert_array_equal(net.parameters, before)


def test_a_gradient_without_a_norm_updates_nothing():
    """The loss is finite, one element of the gradient is not: the step is left out, and its weights are good."""
    net, optimizer = sf.Network([8, 3], output="identity", seed=0), sf.GradientDescent(1e-3)
    X, Y = samples()[0].copy(), np.zeros((400, 3), "float32")
    X[7], Y[7] = 1e30, 1e17
    net.parameters[:] = 0
    error = stopped(net, X, Y, optimizer=optimizer, clip_norm=1.0, shuffle=False)
    assert (error.step, error.restored, optimizer.n_updates) == (1, 0, 0)
    assert "the gradient's norm became inf at step 1" in str(error) and "the gradient is not" in str(error)
    assert not net.parameters.any()


@pytest.mark.parametrize("ranks", [[8, 8], "energy:0.9"])
def test_inputs_too_large_for_a_truncation_are_told_with_the_step(ranks):
    """A sample that no step has met yet."""
    X, y = np.full((400, 8), 3e38, "float32"), samples()[1]
    error = stopped(network(), X, y, pretrain_fraction=0, ranks=ranks)
    assert (error.step, error.layer) == (0, 1)


@pytest.fixture
def looking(monkeypatch):
    """With ranks="auto" all layers are looked at that may be truncated at all, however small they are."""
    bounds = {"LEAST": 1, "WORTH": 1e9, "SHARE": -1e9, "SHARES": -1e9, "LOOKING": np.inf, "SHORTEST": 1, "LATEST": 1.0}
    for name, value in bounds.items():
        monkeypatch.setattr(auto, name, value)
    return monkeypatch


def test_inputs_too_large_for_a_look_are_told_with_the_step(looking):
    """A row among those that directions are taken from, or among those for losses, that no step has met yet."""
    X, y = samples()
    y = X[:, :3].argmax(axis=1)
    order = np.random.default_rng(0).choice(400, 400, replace=False)
    met = 40 * 4
    settings = dict(ranks="auto", pretrain_fraction=0.1, batch_size=4, shuffle=False, epochs=4, optimizer=sf.Adam(0.01))
    late = [row for row in order[:8] if row >= met]
    X[late[0]] = 3e38
    error = stopped(network(), X, y, **settings)
    assert late and (error.step, error.epoch, error.layer) == (40, 1, 1)
    # Where losses are not finite nothing is truncated; the step that meets the row tells.
    X, told = samples()[0], []
    row = next(row for row in order[::-1] if row >= met)
    X[row] = 3e38
    error = stopped(network(), X, y, callbacks=[told.append], **settings)
    assert error.step == row // 4 + 1 and told[0].kind == "ranks" and not any(told[0].info["ranks"])


def test_decay_of_factors_that_are_too_large_is_told():
    W1, W2 = np.full((3, 2), 1e20, "float32"), np.ones((2, 4), "float32")
    with pytest.raises(FloatingPointError, match="too large for their product to decay in float32"):
        LowRank(3, 4, 2).decay([W1, W2], 0.1)
    assert (W1 == np.float32(1e20)).all() and (W2 == 1).all()
    net = network()
    net.truncate(ranks=[2, 2], force=True)
    net.layers[1].W1[...] = 1e20
    error = stopped(net, np.zeros((400, 8)), samples()[1], product_decay=0.1)
    assert "layer 1: the factors are too large" in str(error)


def test_the_error_is_pickled_whole():
    error = pickle.loads(pickle.dumps(sf.NotFinite("gone", 3, 2, 1, 0)))
    assert isinstance(error, FloatingPointError) and str(error) == "gone"
    assert (error.step, error.epoch, error.layer, error.restored) == (3, 2, 1, 0)


# ---- decompositions that do not converge


def failing(monkeypatch, name, fails):
    """Makes a function of scipy.linalg fail where `fails` says so of its keyword arguments and the number of the call, from 0."""
    real, calls = getattr(scipy.linalg, name), []

    def function(A, *args, **kwargs):
        calls.append(kwargs)
        if fails(kwargs, len(calls) - 1):
            raise scipy.linalg.LinAlgError("did not converge")
        return real(A, *args, **kwargs)

    monkeypatch.setattr(scipy.linalg, name, function)
    return calls


FAILURES = {
    "gesdd": (lambda kwargs, n: kwargs["lapack_driver"] == "gesdd", ["gesdd did not converge"]),
    "gesdd, gesvd": (lambda kwargs, n: n < 2, ["gesdd did not", "gesvd did not", "the randomized one is taken instead"]),
}  # fmt: skip


@pytest.mark.parametrize("fails", FAILURES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_an_svd_falls_back_and_says_so(shape, dtype, fails, monkeypatch, caplog):
    rng = np.random.default_rng(0)
    W = (rng.standard_normal((30, 4)) @ rng.standard_normal((4, 20))).reshape(shape).astype(dtype)
    W = W if shape == (30, 20) else np.ascontiguousarray(W.reshape(30, 20).T)
    exact = np.linalg.svd(W.astype(np.float64), compute_uv=False)
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    uses = {
        "cut": lambda: (lambda U, s, Vt: (U * s @ Vt, s))(*sf.truncated_svd(W, 5)),
        "restricted": lambda: (lambda U, s, Vt: (U * s @ Vt, s))(*svd.restricted_svd(W, np.eye(len(W), dtype=dtype))),
        "values": lambda: (W, svd.singular_values(W)),
    }
    for use in uses.values():
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, logger="svdfast"):
            caplog.clear()
            failing(patch, "svd", FAILURES[fails][0])
            product, s = use()
        np.testing.assert_allclose(product, W, atol=tolerance * exact[0])
        np.testing.assert_allclose(s, exact[: len(s)], atol=tolerance * exact[0])
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == len(FAILURES[fails][1])
        for message, expected in zip(messages, FAILURES[fails][1], strict=True):
            assert expected in message and str(W.shape) in message


@pytest.mark.parametrize("name", ["eigh", "cholesky"])
@pytest.mark.parametrize("width", [130, 500])
def test_a_training_goes_on_where_a_shorter_way_fails(name, width, monkeypatch, caplog):
    rng = np.random.default_rng(0)
    net = sf.Network([140, width, 3], seed=0)
    X = rng.standard_normal((400, 140)) * 0.9 ** np.arange(140)
    expected = net.copy()
    expected.truncate(ranks=[20], inputs=X)
    calls = failing(monkeypatch, name, lambda kwargs, n: True)
    with caplog.at_level(logging.WARNING, logger="svdfast"):
        net.truncate(ranks=[20], inputs=X)
    assert len(calls) == len(caplog.records) if name == "eigh" else not caplog.records
    assert calls or (name, width) == ("cholesky", 130)
    for record in caplog.records:
        assert "eigh did not converge" in record.getMessage()
    np.testing.assert_allclose(net.layers[0].weight(), expected.layers[0].weight(), atol=1e-4)


@pytest.mark.parametrize("ranks", [[4, 4], "energy:0.9", "budget:0.5"])
def test_where_nothing_converges_the_layer_is_named(ranks, monkeypatch):
    X, y = samples()
    net, other = network(), network()
    sf.train(other, X, y, epochs=1, batch_size=16, optimizer=sf.Adam(), factoring=None)
    failing(monkeypatch, "svd", lambda kwargs, n: True)
    with pytest.raises(np.linalg.LinAlgError, match=r"layer 0: no SVD of a matrix of shape .* converged"):
        sf.train(
            net, X, y, epochs=2, batch_size=16, optimizer=sf.Adam(),
            factoring=sf.Factoring(ranks, pretrain_fraction=0.5, force=True, activation_aware=False),
        )  # fmt: skip
    np.testing.assert_array_equal(net.parameters, other.parameters)
    failing(monkeypatch, "svd", lambda kwargs, n: False)


@pytest.mark.parametrize("ranks", [[4, 4], "energy:0.9", "budget:0.5"])
@pytest.mark.parametrize(("value", "message"), [(np.nan, "a finite weight"), (np.inf, "a finite weight"), (3e38, "too large")])
@pytest.mark.parametrize("inputs", [None, np.ones((5, 8))])
def test_weights_that_can_not_be_truncated_are_refused_with_the_layer(ranks, value, message, inputs):
    """LAPACK never comes back from some of them."""
    net = network(hidden=["tanh", "tanh"])
    net.layers[1].W[...] = value
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=f"layer 1: .*{message}"):
        net.truncate(ranks=ranks, force=True, inputs=inputs)
    np.testing.assert_array_equal(net.parameters, before)


# ---- extremes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("size", [1e4, -1e4, 3e-39, 5e-324])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_of_extreme_pre_activations(dtype, output, size, weighted, reference):
    """Saturated on the right side, on the wrong side, between two, and denormal; against float64."""
    signs = np.array(list(itertools.product([-1.0, 0.0, 1.0, 0.999], repeat=4)))
    X = (size * signs).astype(dtype)
    net = sf.Network([4, 4], output=output, dtype=dtype, seed=0)
    net.layers[0].W[...] = np.eye(4)
    if output == "softmax":
        loss, y = "cross_entropy", np.arange(len(X)) % 4
        rows = np.where(np.eye(4)[y] == 1, 0.7, 0.1).astype(dtype)
    else:
        loss, y = "binary_cross_entropy", (np.arange(4 * len(X)).reshape(-1, 4) % 3 == 0).astype(dtype)
        rows = (0.2 + 0.5 * y).astype(dtype)
    weight = np.linspace(0, 2, len(X)).astype(dtype) if weighted else None
    # In float64 it is the reference that rounds: its logarithm of a sum of exponentials by 1e4·ε.
    tolerance = 3e-6 if dtype == "float32" else 2e-12
    for targets in (y, rows):
        value, gradient = net.loss_and_gradient(X, targets, sample_weight=weight)
        expected, by_weight = reference.loss_and_gradient(net, X, targets, loss, sample_weight=weight)
        assert value == pytest.approx(expected, rel=tolerance)
        # Of a bias, sums of terms up to 1; of a weight, of terms up to the inputs.
        largest = np.append(np.full(16, abs(size)), np.ones(4))
        np.testing.assert_array_less(np.abs(gradient - by_weight), tolerance * largest + np.finfo(dtype).tiny)
        assert net.evaluate(X, targets, sample_weight=weight).loss == pytest.approx(expected, rel=tolerance)
    np.testing.assert_allclose(net.predict(X), reference.predict(net, X), rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-37)


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_denormal_inputs_and_weights_count_as_zero_at_most(dtype, form, reference):
    """No farther from float64 NumPy than the smallest normal number is from zero."""
    tiny = float(np.finfo(dtype).tiny)
    X, y = samples(50)
    for scale_X, scale_W in ((tiny / 8, 1), (1, tiny / 8), (tiny / 8, tiny / 8), (tiny**0.5, tiny**0.5)):
        net = network(dtype, hidden=["tanh", "tanh"])  # no kink at zero
        if form == "factored":
            net.truncate(ranks=[4, 4], force=True)
        net.parameters[...] *= np.asarray(scale_W, dtype)
        Xs = (X * scale_X).astype(dtype)
        value, gradient = net.loss_and_gradient(Xs, y)
        expected, by_weight = reference.loss_and_gradient(net, Xs, y, "cross_entropy")
        assert value == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(gradient, by_weight, rtol=1e-4, atol=max(1e-7 if dtype == "float32" else 1e-15, 100 * tiny))


DATA = {
    "normal": lambda X: X,
    "constant": lambda X: np.ones_like(X),
    "zero": lambda X: np.zeros_like(X),
    "no variance in some": lambda X: np.where(np.arange(X.shape[1]) < 4, X, 3),
    "one that varies": lambda X: np.where(np.arange(X.shape[1]) < 1, X, 0),
    "denormal": lambda X: 1e-310 * X,
    "denormal in float32": lambda X: 1e-42 * X,
    "tiny": lambda X: 1e-25 * X,
}
WEIGHTS = ["usual", "zero", "dead", "denormal", "rank 1"]
SIZES = {(12, 16, 14): (12, 14), (12, 1, 14): (1, 1), (1, 1, 1): (1, 1)}
RANKS = [None, "auto", "energy:0.9", "energy:1", "budget:0.5", "budget:0.01", "full", "one"]
TARGETS = {
    "softmax": lambda n: np.zeros(n, int),
    "sigmoid": lambda n: np.ones((n, 1)),
    "identity": lambda n: np.full((n, 1), 2.0),
}
SETTINGS = {
    "data": list(DATA),
    "weights": WEIGHTS,
    "sizes": list(SIZES),
    "ranks": RANKS,
    "output": list(TARGETS),
    "hidden": ["relu", "tanh"],
    "dtype": ["float32", "float64"],
    "activation_aware": [True, False],
    "optimizer": ["adam", "momentum"],
    "svd": ["exact", "randomized"],
    "product_decay": [0.0, 1.0],
    "guard_action": [None, "raise", "undo"],
}


def test_trainings_at_the_extremes(one_blas_thread, looking):
    """One class or one value only, inputs without variance, dead or zero layers, full rank: finite, and better than before."""
    rng = np.random.default_rng(len(SETTINGS))
    base, looked_and_cut = rng.standard_normal((50, 12)), 0
    # Where the best answer is the same for all nothing can have been learned, and nothing would be truncated.
    looking.setattr(Run, "constant_loss", lambda run, rows: 1e9)
    for _ in range(N_EXTREME):
        case = {name: values[rng.integers(len(values))] for name, values in SETTINGS.items()}
        output = case["output"]
        n_in, *hidden = case["sizes"]
        X, y = DATA[case["data"]](base[:, :n_in]), TARGETS[output](len(base))
        n_out = 3 if output == "softmax" else 1
        net = sf.Network(
            [n_in, *hidden, n_out], hidden=[case["hidden"]] * 2, output=output, dtype=case["dtype"], seed=0
        )
        for layer in net.layers[:-1]:
            if case["weights"] == "rank 1":
                layer.W[...] = np.outer(layer.W[:, 0], layer.W[0])
            else:
                layer.W[...] *= np.asarray({"zero": 0, "denormal": 1e-42}.get(case["weights"], 1), case["dtype"])
        if case["weights"] == "dead":
            net.layers[0].b[...] = -1e9
        ranks = {"full": SIZES[case["sizes"]], "one": (1, 1)}.get(case["ranks"], case["ranks"])
        action = case["guard_action"]
        method = sf.Factoring(
            0.25 if ranks is None else ranks, pretrain_fraction=0.3, recompose_fraction=0.2, force=True,
            activation_aware=case["activation_aware"], svd=case["svd"], product_decay=case["product_decay"],
            guard=None if action is None else sf.Guard(0.0, action),
        )  # fmt: skip
        before = net.evaluate(X, y).loss
        result = sf.train(
            net, X, y, epochs=5, batch_size=16, factoring=method, n_threads=1, validation=None if action is None else (X, y),
            optimizer=sf.Adam(0.01) if case["optimizer"] == "adam" else sf.GradientDescent(0.01, momentum=0.5),
        )  # fmt: skip
        looked_and_cut += case["ranks"] == "auto" and any(event.kind == "switch" for event in result.events)
        assert np.isfinite(net.parameters).all(), case
        after = net.evaluate(X, y).loss
        assert np.isfinite(after), case
        if case["ranks"] in ("full", "energy:1"):  # nothing was truncated away
            assert after < before, case
        assert np.isfinite(net.score(X, y)), case
        if case["data"] in ("constant", "zero"):
            out = net.predict(X)
            np.testing.assert_allclose(out, out[:1].repeat(len(out), axis=0), rtol=1e-5, err_msg=str(case))
    assert looked_and_cut
