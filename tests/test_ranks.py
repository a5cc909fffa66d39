# SPDX-License-Identifier: BSD-3-Clause
"""Rules that choose ranks: what each keeps, and what is refused."""

import itertools

import numpy as np
import pytest

import svdfast as sf
from svdfast.model.ranks import Budget, Energy, resolve_rule


def with_spectra(net, *spectra):
    """The network with weights of these singular values."""
    rng = np.random.default_rng(0)
    for layer, s in zip(net.layers, spectra, strict=False):
        U = np.linalg.qr(rng.standard_normal((layer.n_out, len(s))))[0]
        V = np.linalg.qr(rng.standard_normal((layer.n_in, len(s))))[0]
        layer.W[...] = U * s @ V.T
    return net


def apply(rule, net):
    return rule(net.layout.factorable, [layer.weight() for layer in net.layers[:-1]])


# 16 : 9 : 4 of 29.
@pytest.mark.parametrize(("share", "rank"), [(0.1, 1), (0.55, 1), (0.56, 2), (0.86, 2), (0.87, 3)])
def test_energy_keeps_the_least_rank_that_has_the_share(share, rank):
    net = with_spectra(sf.Network([9, 8, 2], dtype="float64"), [4.0, 3.0, 2.0])
    assert apply(Energy(share), net) == [rank]


def test_energy_of_a_zero_weight():
    net = sf.Network([9, 8, 2])
    net.parameters[:] = 0
    assert apply(Energy(0.9), net) == [1]


def test_budget_is_the_best_within_the_budget():
    """Greedy takes σ² by cost; with equal costs no other choice of the same cost keeps more."""
    s = [[5.0, 2.0, 1.0], [4.0, 3.0, 0.5]]
    net = with_spectra(sf.Network([6, 6, 6, 2], dtype="float64"), *s)
    costs = [2 * 6 + 3 * 6, 3 * 12]
    whole = 2 * 36 + 3 * 36
    for share in (0.4, 0.6, 0.8, 1.0):
        ranks = apply(Budget(share), net)
        spent = sum(r * c for r, c in zip(ranks, costs, strict=True))
        assert spent <= share * whole or ranks == [1, 1]
        kept = sum(sum(np.square(s[i][:r])) for i, r in enumerate(ranks))
        # Within one direction of the best of all choices.
        best = max(
            sum(sum(np.square(s[i][:r])) for i, r in enumerate(choice))
            for choice in itertools.product(range(1, 4), repeat=2)
            if sum(r * c for r, c in zip(choice, costs, strict=True)) <= max(spent, sum(costs))
        )
        assert kept == pytest.approx(best)


def test_a_budget_for_less_than_one_each_keeps_one_each():
    assert apply(Budget(1e-6), sf.Network([6, 6, 6, 2])) == [1, 1]


@pytest.mark.parametrize(
    "ranks", ["energy", "energy:", "energy:0", "energy:1.1", "energy:x", "energy:nan", "budget:-1", "best", "", "Auto"]
)
def test_unknown_rules_are_refused(ranks):
    net = sf.Network([6, 6, 2], seed=0)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="ranks: expected"):
        net.truncate(ranks=ranks)
    with pytest.raises(ValueError, match="ranks: expected"):
        sf.train(net, np.zeros((4, 6)), [0, 1, 0, 1], factoring=sf.Factoring(ranks))
    np.testing.assert_array_equal(net.parameters, before)


def test_truncate_by_a_rule():
    net = with_spectra(sf.Network([64, 64, 2], dtype="float64"), np.r_[10.0, 10, np.full(62, 0.1)])
    assert [t.rank for t in net.truncate(ranks="energy:0.9")] == [2]
    assert net.layers[0].W1.shape == (64, 2)


def test_both_or_neither_are_refused():
    layout = sf.Network([6, 6, 2]).layout
    for arguments in ((None, None), (0.5, [1])):
        with pytest.raises(ValueError, match=r"expected one of the two, got (both|neither)"):
            resolve_rule(layout, *arguments)


class Thirds:
    """A rule of a user's own: it may be any object that can be called."""

    def __init__(self, ranks=None):
        self.ranks = ranks

    def __call__(self, layers, weights):
        assert [W.shape for W in weights] == [(layer.n_out, layer.n_in) for layer in layers]
        return [min(layer.n_in, layer.n_out) // 3 for layer in layers] if self.ranks is None else self.ranks


def test_a_rule_of_the_users_own():
    for rule in (Thirds(), lambda layers, weights: np.array([6, 4]), Thirds(iter([6, 4]))):
        net = sf.Network([20, 18, 12, 3], seed=0)
        assert [t.rank for t in net.truncate(ranks=rule, force=True)] == [6, 4]
    net, X = sf.Network([20, 18, 12, 3], seed=0), np.random.default_rng(0).random((30, 20), dtype=np.float32)
    method = sf.Factoring(Thirds(), force=True, recompose=False)
    sf.train(net, X, np.arange(30) % 3, epochs=2, factoring=method)
    assert net.layout.ranks == (6, 4, None)


@pytest.mark.parametrize(("given", "error", "message"), [
    ([6], ValueError, "ranks by Thirds: expected 2 ranks, one for each hidden layer, got 1"),
    (6, TypeError, "ranks by Thirds: expected a sequence of integers, got int"),
    ([6, 4.0], TypeError, r"ranks\[1\] by Thirds: expected an integer, got float"),
    ([0, 4], ValueError, r"ranks\[0\] by Thirds: expected an integer from 1 to 18, got 0"),
    ([6, 13], ValueError, r"ranks\[1\] by Thirds: expected an integer from 1 to 12, got 13"),
])  # fmt: skip
def test_what_a_rule_gives_is_checked(given, error, message):
    net = sf.Network([20, 18, 12, 3], seed=0)
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        net.truncate(ranks=Thirds(given))
    np.testing.assert_array_equal(net.parameters, before)
    with pytest.raises(error, match=message):
        sf.train(net, np.ones((4, 20)), [0, 1, 2, 0], epochs=1, factoring=sf.Factoring(Thirds(given)))
    assert not net.is_factored


def test_an_error_of_a_rule_goes_through():
    def broken(layers, weights):
        raise KeyError("mine")

    net = sf.Network([20, 18, 12, 3], seed=0)
    for call in (net.truncate, lambda ranks: sf.train(net, np.ones((4, 20)), [0, 1, 2, 0], factoring=sf.Factoring(ranks))):
        with pytest.raises(KeyError, match="mine"):
            call(ranks=broken)
