# SPDX-License-Identifier: BSD-3-Clause
"""Moments carried over the switch and back: the laws that moments.py states."""

import numpy as np
import pytest

import svdfast as sf
from svdfast.moments import carry, project, recompose, update_ratio


def networks(rank=3, dtype="float64"):
    """A network as it is dense, and cut; the dense one has the cut one's weights."""
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
        last = dense.layout.layers[-1].W1, cut.layout.layers[-1].W1
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


def test_the_ratio_of_updates():
    """Of orthonormal factors of full rank the product moves twice as far: once through each."""
    net = sf.Network([4, 4, 2], dtype="float64", seed=0)
    net.layers[0].W[...] = np.linalg.qr(net.layers[0].W)[0]
    old = net.state
    net.truncate(ranks=[4], force=True)
    direction = np.random.default_rng(0).standard_normal(old[0].size)
    (carried,) = carry(["mean"], [direction], old, net.state)
    assert update_ratio((direction, carried), old, net.state, 0) == pytest.approx(0.5)
    assert update_ratio((0 * direction, 0 * carried), old, net.state, 0) == 1
