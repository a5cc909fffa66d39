# SPDX-License-Identifier: BSD-3-Clause
"""Moments carried over the switch and back: the laws that moments.py states."""

import numpy as np
import pytest

import svdfast as sf
from svdfast import _engine
from svdfast.data.checks import checked_samples
from svdfast.model.evaluation import spec_of
from svdfast.model.structures import LowRank
from svdfast.training.moments import carry
from svdfast.training.run import Run


def low_rank(W1, W2):
    return LowRank(len(W1), W2.shape[1], len(W2))


def project(kind, M, W1, W2):
    return low_rank(W1, W2).pullback(M, [W1, W2] if kind == "mean" else [W1 * W1, W2 * W2])


def recompose(kind, M1, M2, W1, W2):
    return low_rank(W1, W2).lift(kind, (M1, M2), (W1, W2))


def relative_scale(W1, W2):
    return low_rank(W1, W2).relative_scale([W1, W2])


def networks(rank=3, dtype="float64"):
    """A network as it is dense, and truncated; the dense one has the weights of the truncated one."""
    cut = sf.Network([7, 5, 6, 3], hidden="tanh", dtype=dtype, seed=0)
    cut.truncate(ranks=[rank, rank], force=True)
    dense = cut.copy()
    dense.recompose()
    return dense, cut


def data():
    rng = np.random.default_rng(1)
    return rng.standard_normal((11, 7)), rng.integers(0, 3, 11)


def test_a_gradient_carried_is_the_gradient_of_the_factors():
    dense, cut = networks()
    X, y = data()
    _, G = dense.loss_and_gradient(X, y)
    _, expected = cut.loss_and_gradient(X, y)
    (carried,) = carry(["mean"], [G], dense.state, cut.state)
    np.testing.assert_allclose(carried, expected, atol=1e-12)


def test_a_gradient_comes_back_as_far_as_the_factors_know_it():
    rng = np.random.default_rng(0)
    W1, W2 = rng.standard_normal((8, 3)), rng.standard_normal((3, 10))
    M = rng.standard_normal((8, 3)) @ W2 + W1 @ rng.standard_normal((3, 10))
    np.testing.assert_allclose(recompose("mean", *project("mean", M, W1, W2), W1, W2), M, atol=1e-4)
    # Of any other: the nearest to nothing that has the same factors' moments.
    other = rng.standard_normal((8, 10))
    back = recompose("mean", *project("mean", other, W1, W2), W1, W2)
    for one, two in zip(project("mean", back, W1, W2), project("mean", other, W1, W2), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
    assert np.linalg.norm(back) < np.linalg.norm(other)


def test_squares_of_independent_gradients():
    """V1 is the mean of (G·W2ᵀ)² where the elements of G are independent with variances V."""
    rng = np.random.default_rng(0)
    W1, W2 = rng.standard_normal((4, 2)), rng.standard_normal((2, 5))
    V = rng.uniform(0.1, 2, (4, 5))
    G = rng.standard_normal((100_000, 4, 5)) * np.sqrt(V)
    V1, V2 = project("square", V, W1, W2)
    np.testing.assert_allclose(((G @ W2.T) ** 2).mean(axis=0), V1, rtol=0.05)
    np.testing.assert_allclose(((W1.T @ G) ** 2).mean(axis=0), V2, rtol=0.05)


def test_squares_come_back_where_they_are_a_product():
    rng = np.random.default_rng(0)
    W1, W2 = np.ones((4, 2)), np.ones((2, 5))
    V = np.outer(rng.uniform(0.1, 2, 4), rng.uniform(0.1, 2, 5))
    np.testing.assert_allclose(recompose("square", *project("square", V, W1, W2), W1, W2), V)
    assert (recompose("square", np.zeros((4, 2)), np.zeros((2, 5)), W1, W2) == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_stays_as_it_is(dtype):
    """Output layer and biases are copied; the type is kept; nothing is negative under the root."""
    dense, cut = networks(dtype=dtype)
    rng = np.random.default_rng(0)
    moments = [rng.random(dense.layout.size).astype(dtype) for _ in range(2)]
    carried = carry(["mean", "square"], moments, dense.state, cut.state)
    for before, after in zip(moments, carried, strict=True):
        assert after.dtype == dtype and after.shape == (cut.layout.size,)
        last = dense.layout.groups[-1][0], cut.layout.groups[-1][0]
        np.testing.assert_array_equal(before[last[0] :], after[last[1] :])
    assert (carried[1] >= 0).all()
    back = carry(["mean", "square"], carried, cut.state, dense.state)
    assert (back[1] >= 0).all() and all(np.isfinite(b).all() for b in back)


def test_factors_of_no_norm():
    dense, cut = networks()
    cut.parameters[:] = 0
    dense.parameters[:] = 0
    moments = [np.ones(cut.layout.size)] * 2
    for moment in carry(["mean", "square"], moments, cut.state, dense.state):
        assert np.isfinite(moment).all()


def test_the_scale_of_relative_steps():
    """A flat spectrum σ, split evenly: elements √(σ/n), √(σ/m) of the factors, σ·√l/√(n·m) of the product."""
    rng = np.random.default_rng(0)
    n, m, l, sigma = 30, 50, 4, 1.7  # noqa: E741
    U = np.linalg.qr(rng.standard_normal((n, l)))[0]
    V = np.linalg.qr(rng.standard_normal((m, l)))[0]
    expected = (n * m) ** 0.25 / (l * sigma) ** 0.5
    for split in (0.5, 0.1):  # however it is split
        scale = relative_scale(U * sigma**split, sigma ** (1 - split) * V.T)
        assert scale == pytest.approx(expected)
    assert relative_scale(0 * U, V.T) == 1


@pytest.mark.parametrize(
    ("optimizer", "factor", "rank", "expected"),
    [
        (sf.Adam, "auto", 4, None),
        (sf.AdamW, "auto", 4, None),
        (sf.Adam, "auto", 2, 1.5),  # at most
        (sf.GradientDescent, "auto", 2, 1.0),
        (sf.Adam, 3.0, 2, 3.0),
        (sf.GradientDescent, 0.5, 2, 0.5),
    ],
)
def test_the_learning_rates_of_factors(optimizer, factor, rank, expected):
    X, y = data()
    net = sf.Network([7, 5, 6, 3], dtype="float64", seed=0)
    method = sf.Factoring(
        [rank, None], force=True, pretrain_fraction=0.5, learning_rate=factor, activation_aware=False, recompose=False
    )
    result = sf.train(net, X, y, epochs=4, optimizer=optimizer(1e-3), factoring=method)
    scales = next(e for e in result.events if e.kind == "switch").info["learning_rate_scales"]
    if expected is None:
        cut = sf.Network([7, 5, 6, 3], dtype="float64", seed=0)
        sf.train(cut, X, y, epochs=2, optimizer=optimizer(1e-3), factoring=None)
        cut.truncate(ranks=[rank, None], force=True)
        expected = relative_scale(cut.layers[0].W1, cut.layers[0].W2)
        assert 1 < expected < 1.5
    assert scales == (pytest.approx(expected), 1.0, 1.0)


@pytest.mark.parametrize("batch_size", [11, 4])
@pytest.mark.parametrize("sum_rows", [512, 3])
def test_a_scale_is_of_a_layers_weights_alone(batch_size, sum_rows, monkeypatch):
    """Plain descent by a scaled rate is a step by the rate along a gradient that is scaled where the layer's weights are."""
    monkeypatch.setattr(_engine, "SUM_ROWS", sum_rows)
    X, y = data()
    X, y = X[:batch_size], y[:batch_size]
    net = networks()[1]
    _, gradient = net.loss_and_gradient(X, y)
    expected = net.parameters.copy()
    gradient[slice(*net.layout.groups[1])] *= 3
    expected -= 0.1 * gradient
    run = Run(net, checked_samples(X, y, None, spec_of(net)), sf.GradientDescent(0.1), 2, batch_size, 0.0, 0.0)
    run.scales = [1.0, 3.0, 1.0]
    run.rebuild()
    run.step(0, batch_size, 0.1)
    np.testing.assert_allclose(net.parameters, expected, atol=1e-12)


@pytest.mark.parametrize("way", ["cut", "recompose"])
def test_no_carried_step_is_larger_than_the_rate(way):
    """|M| ≤ √V for weights, where correlated gradients or V = 0 would have it otherwise; layers that stay dense are as they were."""
    rng = np.random.default_rng(0)
    dense = sf.Network([7, 5, 6, 3], dtype="float64", seed=0)
    factored = dense.copy()
    factored.truncate(ranks=[2, 2], force=True)
    old, new = (dense.state, factored.state) if way == "cut" else (factored.state, dense.state)
    size, n_weights = old[0].size, old[0].n_weights
    output = new[0].groups[-1][0]
    M = rng.standard_normal(size)
    V = M**2
    V[:n_weights:3] = 0
    mean, square = carry(("mean", "square"), (M, V), old, new)
    assert (square >= 0).all()
    assert (abs(mean[:output]) <= np.sqrt(square[:output])).all()
    np.testing.assert_array_equal(mean[output:], M[old[0].groups[-1][0] :])
    # A mean alone, momentum, is carried as it is.
    (alone,) = carry(("mean",), (M,), old, new)
    assert (abs(alone[:output]) > np.sqrt(square[:output])).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_dense_tail_goes_on_from_where_the_factors_were(seed):
    """Digits have pixels that are always zero: in their columns V is zero, and the mean that is recomposed need not be."""
    pytest.importorskip("sklearn")
    X, y = sf.datasets.load("digits").train
    net = sf.Network([64, 512, 256, 10], seed=seed)
    result = sf.train(net, X, y, epochs=20, factoring=sf.Factoring([8, 32], pretrain_fraction=0.06, recompose_fraction=0.1), seed=seed)
    losses = [row["loss"] for row in result.history]
    assert max(losses[18:]) < 1.1 * losses[17]
