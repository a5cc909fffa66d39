# SPDX-License-Identifier: BSD-3-Clause
"""Decay of the product of two factors, by itself and in a training."""

import numpy as np
import pytest

import svdfast as sf
from svdfast.model.structures import LowRank
from svdfast.model.svd import factorize
from svdfast.training import switch


def samples(n=60, n_in=24):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, n_in)).astype("float32")
    return X, (X[:, :3].argmax(axis=1)).astype(int)


def decay_product(W1, W2, amount):
    LowRank(len(W1), W2.shape[1], len(W2)).decay([W1, W2], amount)


def penalty(W1, W2):
    return 0.5 * ((W1 @ W2) ** 2).sum()


@pytest.mark.parametrize("shape", [(7, 3, 5), (3, 3, 3), (6, 1, 1), (1, 1, 9), (2, 5, 2)])
def test_a_small_step_goes_along_the_gradient(shape):
    n, rank, m = shape
    rng = np.random.default_rng(1)
    W1, W2 = rng.standard_normal((n, rank)), rng.standard_normal((rank, m))
    moved1, moved2 = W1.copy(), W2.copy()
    decay_product(moved1, moved2, 1e-7)
    for W, moved, other in ((W1, moved1, 0), (W2, moved2, 1)):
        gradient = np.empty_like(W)
        for at in np.ndindex(W.shape):
            up, down = W.copy(), W.copy()
            up[at] += 1e-6
            down[at] -= 1e-6
            pair = [(up, W2), (down, W2)] if other == 0 else [(W1, up), (W1, down)]
            gradient[at] = (penalty(*pair[0]) - penalty(*pair[1])) / 2e-6
        np.testing.assert_allclose((W - moved) / 1e-7, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("amount", [0.0, 1e-3, 1.0, 1e6])
def test_no_amount_overshoots(amount):
    W1, W2 = factorize(np.random.default_rng(0).standard_normal((20, 30)).astype("float32"), 6)
    before = np.linalg.svd(W1 @ W2, compute_uv=False)[:6]
    decay_product(W1, W2, amount)
    after = np.linalg.svd(W1 @ W2, compute_uv=False)[:6]
    # Of balanced factors each singular value goes its own way: σ / (1 + c·σ)².
    expected = np.sort(before / (1 + amount * before) ** 2)[::-1]
    np.testing.assert_allclose(after, expected, rtol=1e-3, atol=1e-5)
    assert W1.dtype == W2.dtype == np.float32


def test_a_training_with_decay():
    def norm(product_decay, **settings):
        net = sf.Network([24, 32, 32, 3], seed=0)
        result = sf.train(
            net, *samples(), epochs=10, batch_size=12, optimizer=sf.Adam(3e-3),
            factoring=sf.Factoring([4, 4], product_decay=product_decay, recompose=False, **settings),
        )  # fmt: skip
        assert net.is_factored
        return [float(np.linalg.norm(layer.weight())) for layer in net.layers], result

    (plain, _), (decayed, result) = norm(0.0), norm(3.0)
    assert all(a < 0.9 * b for a, b in zip(decayed[:-1], plain[:-1], strict=True))
    assert result.seconds > sum(p["seconds"] for p in result.phases)
    # Dense steps, before the switch or throughout, know nothing of it.
    np.testing.assert_array_equal(norm(3.0, pretrain_fraction=0.05)[0], decayed)


def test_decay_every_few_steps_is_decay_at_each(monkeypatch):
    """With k times the rate: near to it where rates are small; the last five of a hundred steps have none."""

    def trained(every):
        monkeypatch.setattr(switch, "_decay_interval", lambda layout, batch_size: every)
        net = sf.Network([24, 32, 32, 3], dtype="float64", seed=0)
        net.truncate(ranks=[4, 4])
        method = sf.Factoring(product_decay=1.0, recompose=False)
        sf.train(net, *samples(), epochs=20, batch_size=12, optimizer=sf.GradientDescent(1e-3), factoring=method)
        return net.parameters

    net = sf.Network([24, 32, 32, 3], dtype="float64", seed=0)
    net.truncate(ranks=[4, 4])
    one, five = trained(1), trained(5)
    assert np.abs(five - one).max() < 0.05 * np.abs(one - net.parameters).max()


def test_decay_costs_little():
    for sizes, rank_fraction, batch in (([784, 512, 256, 10], 1 / 4, 2048), ([784, 512, 256, 10], 1 / 8, 256), ([40, 30, 3], 1 / 4, 16)):
        net = sf.Network(sizes, seed=0)
        net.truncate(rank_fraction, force=True)
        every = switch._decay_interval(net.layout, batch)
        assert 1 <= every <= switch.DECAY_LONGEST
        cost = sum(2 * a.rank**2 * (a.n_in + a.n_out) + a.rank**3 for a in net.layers if a.rank)
        assert cost <= 1.5 * switch.DECAY_SHARE * every * batch * sf.count_multiplications(net).total


def test_bad_decay_is_refused():
    for bad in (-1, np.nan, np.inf, "x"):
        with pytest.raises((ValueError, TypeError), match="product_decay: expected a"):
            sf.train(sf.Network([24, 3], seed=0), *samples(), factoring=sf.Factoring(product_decay=bad))
