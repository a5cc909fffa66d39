# SPDX-License-Identifier: BSD-3-Clause
"""What happens between steps: the schedule of the four steps, the guard, the choice by measuring, and what is told of them."""

import dataclasses

import numpy as np
import pytest
from flat import flat

import svdfast as sf
from svdfast.data.checks import checked_samples
from svdfast.model import truncation
from svdfast.model.evaluation import spec_of
from svdfast.model.svd import leading_directions
from svdfast.training import auto
from svdfast.training.run import Run


def samples(n=60, n_in=24, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n_in)).astype("float32")
    return X, (X[:, :3].argmax(axis=1)).astype(int)


def network(width=32, **settings):
    return sf.Network([24, width, width, 3], seed=0, **settings)


def train(net, **settings):
    given = {"epochs": 10, "batch_size": 12, "optimizer": sf.Adam(3e-3), "ranks": [4, 4]}
    return sf.train(net, *samples(), **flat(**{**given, **settings}))


def kinds(result):
    return [(event.kind, event.step) for event in result.events]


def test_a_dense_tail():
    net = network()
    result = train(net, pretrain_fraction=0.2, recompose_fraction=0.3)
    assert kinds(result) == [("switch", 10), ("recompose", 35)]
    assert [(p["phase"], p["steps"]) for p in result.phases] == [("dense", 10), ("factored", 25), ("dense", 15)]
    assert result.history[-1]["phase"] == "dense"
    assert not net.is_factored
    # The tail trained more than the factors could have: the weights have a higher rank again.
    assert np.linalg.matrix_rank(net.layers[1].W, tol=1e-4) > 4


def test_the_optimizer_goes_on():
    """Its count of updates with its moments, over the switch and back; restarted otherwise."""
    for moments, expected in (("carry", 50), ("restart", 15)):
        optimizer = sf.Adam(1e-3)
        train(network(), optimizer=optimizer, pretrain_fraction=0.2, recompose_fraction=0.3, moments=moments)
        assert optimizer.n_updates == expected


def test_no_layer_to_factor():
    net = network(width=3)
    result = train(net, ranks=[3, 3], pretrain_fraction=0.2, recompose_fraction=0.3)
    assert not net.is_factored
    assert kinds(result) == [("switch", 10)]


@pytest.mark.parametrize("phi", [0.0, 0.5])
def test_shares_that_leave_no_factored_step(phi):
    result = train(network(), pretrain_fraction=phi, recompose_fraction=1 - phi)
    assert kinds(result) == []
    assert result.explain() == "dense throughout: 50 steps"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recompose_fraction": 1.5}, "recompose_fraction: expected a number from 0 to 1"),
        ({"recompose_fraction": "x"}, "recompose_fraction: expected a number"),
        ({"pretrain_fraction": 0.6, "recompose_fraction": 0.5}, "at most 1 together"),
        ({"moments": "keep"}, "moments: expected carry or restart"),
        ({"learning_rate": 0}, "learning_rate: expected a finite number > 0"),
        ({"learning_rate": "fast"}, "learning_rate: expected a number"),
        ({"learning_rate": [1.0, 0.0, 1.0]}, r"learning_rate\[1\]: expected a finite number > 0"),
        ({"learning_rate": [1.0, 1.0]}, "learning_rate: expected 3 numbers, one for each layer, got 2"),
        ({"guard": sf.Guard(0.1)}, "guard: expected validation data"),
        ({"guard": 0.1}, "guard: expected a Guard, got float"),
        ({"ranks": [4, 99]}, r"ranks\[1\]: expected an integer from 1 to 32"),
        ({"ranks": "most"}, "ranks: expected"),
    ],
)
def test_bad_settings_are_refused_before_anything_changes(settings, message):
    net = network()
    before = net.parameters.copy()
    with pytest.raises((ValueError, TypeError), match=message):
        train(net, **settings)
    np.testing.assert_array_equal(net.parameters, before)


def test_the_guard_keeps_what_recovers():
    result = train(network(), ranks=[8, 8], pretrain_fraction=0.2, validation=samples(seed=1), guard=sf.Guard(1e9))
    assert kinds(result)[:2] == [("switch", 10), ("guard", 11)]
    guard = result.events[1].info
    assert guard["action"] == "kept"
    assert guard["loss_before"] > 0 and guard["loss_after"] > 0 and guard["loss_recovered"] > 0
    assert "kept" in result.explain()


def test_the_guard_raises_the_rank_and_then_undoes_the_cut():
    """A tolerance that nothing meets: 2, 4, 8, then break-even, so dense, with the weights and moments of the switch."""
    net, optimizer, seen = network(), sf.Adam(3e-3), []

    def look(event):
        if event.kind == "guard":
            seen.append((event.info["action"], event.network.parameters.copy()))

    result = train(
        net, ranks=[2, 2], pretrain_fraction=0.5, validation=samples(seed=1), guard=sf.Guard(0.0),
        optimizer=optimizer, callbacks=[look, Worse()],
    )  # fmt: skip
    actions = [event.info["action"] for event in result.events if event.kind == "guard"]
    assert actions == ["raised"] * (len(actions) - 1) + ["undone"]
    ranks = [[t.rank for t in e.info["truncations"]] for e in result.events if e.kind == "switch"]
    assert ranks[:2] == [[2, 2], [4, 4]]
    # Back at the switch each time.
    before = network()
    sf.train(before, *samples(), epochs=5, batch_size=12, optimizer=sf.Adam(3e-3), factoring=None)
    for _, parameters in seen:
        np.testing.assert_array_equal(parameters, before.parameters)
    assert result.phases[-1]["phase"] == "dense"
    assert "undone" in result.explain()


def test_the_guard_delays_the_cut():
    """Each time by another share φ of dense steps, until no steps are left for factors."""
    result = train(
        network(), ranks=[2, 2], pretrain_fraction=0.2, validation=samples(seed=1), guard=sf.Guard(0.0, "delay"),
        callbacks=[Worse()],
    )  # fmt: skip
    assert kinds(result) == [
        ("switch", 10), ("guard", 11), ("switch", 21), ("guard", 22), ("switch", 32), ("guard", 33), ("switch", 43), ("guard", 44),
    ]  # fmt: skip
    guards = [event.info for event in result.events if event.kind == "guard"]
    assert [guard["action"] for guard in guards] == ["delayed", "delayed", "delayed", "undone"]
    ranks = [[t.rank for t in e.info["truncations"]] for e in result.events if e.kind == "switch"]
    assert ranks == [[2, 2]] * 4
    losses = [guard["loss_before"] for guard in guards]
    assert losses == sorted(losses, reverse=True)
    assert result.phases[-1]["phase"] == "dense"


def test_a_delayed_cut_that_recovers_is_kept():
    def spoil(event):
        if event.kind == "switch" and event.step == 10:
            event.network.parameters[:] *= 30

    result = train(
        network(), ranks=[8, 8], pretrain_fraction=0.2, validation=samples(seed=1), guard=sf.Guard(1.0, "delay"),
        callbacks=[spoil],
    )  # fmt: skip
    assert [event.info["action"] for event in result.events if event.kind == "guard"] == ["delayed", "kept"], result.explain()
    assert kinds(result)[2] == ("switch", 21)
    assert result.phases[-1]["phase"] == "factored"


def test_the_guard_undoes_the_cut_where_it_is_told_to():
    result = train(
        network(), ranks=[2, 2], pretrain_fraction=0.2, validation=samples(seed=1), guard=sf.Guard(0.0, "undo"),
        callbacks=[Worse()],
    )  # fmt: skip
    assert kinds(result) == [("switch", 10), ("guard", 11)]
    assert result.events[-1].info["action"] == "undone"


def test_no_guard_where_nothing_was_cut():
    """Ranks above break-even: the network stays as it is, and there is nothing to go back to."""
    result = train(network(), ranks=[19, 19], pretrain_fraction=0.2, validation=samples(seed=1), guard=sf.Guard(0.0), force=False)
    assert kinds(result) == [("switch", 10)]
    assert result.phases[-1]["phase"] == "dense"


class Worse:
    """Spoils the network after each cut, so that its loss cannot be what it was."""

    def __call__(self, event):
        if event.kind == "switch":
            event.network.parameters[:] *= 30


def test_auto_on_a_small_net_stays_dense_and_says_so():
    data = sf.datasets.load("xor")
    net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
    result = sf.train(net, *data.train, epochs=800, optimizer=sf.Adam(0.01), factoring="auto")
    assert [event.kind for event in result.events] == ["ranks"]
    assert result.events[0].info["ranks"] is None
    assert "; dense, as " in result.explain() and "dense throughout" in result.explain()


def test_auto_without_a_layer_that_could_be_factored():
    result = train(sf.Network([24, 3], seed=0), ranks="auto")
    assert result.events[0].info["ranks"] is None
    assert "no layer is large enough" in result.explain()


@pytest.fixture
def times(monkeypatch):
    """Times as given instead of measured: seconds of a step by how many layers are factored."""
    given = {0: 1.0, 1: 0.7, 2: 0.5}
    monkeypatch.setattr(
        auto, "_step_seconds", lambda run, net: given[sum(layer.rank is not None for layer in net.layers)]
    )
    decide = auto.Auto.decide
    monkeypatch.setattr(auto.Auto, "decide", lambda self, run, _, *rest: decide(self, run, given[0], *rest))
    return given


@pytest.fixture
def losses(monkeypatch):
    """Losses on the sample as given: of the dense network at first and later, and with ranks of an eighth and a quarter."""
    given = {"first": 2.0, "before": 1.0, 8: 1.05, 16: 1.02}

    def loss(run, net):
        rank = net.layers[1].rank
        return given[rank] if rank else given["before" if run.optimizer.n_updates else "first"]

    monkeypatch.setattr(auto, "_sample_loss", loss)
    return given


@pytest.mark.parametrize(("eighth", "quarter", "expected"), [(1.09, 1.02, [3, 8]), (1.11, 1.09, [6, 16]), (1.2, 1.11, None)])
def test_auto_takes_the_smallest_rank_that_keeps_what_was_learned(times, losses, eighth, quarter, expected):
    losses[8], losses[16] = eighth, quarter
    result = train(network(width=64), ranks="auto", pretrain_fraction=0.2)
    assert result.events[0].info["ranks"] == expected
    if expected is None:
        assert "raises the loss" in result.explain()
        assert kinds(result)[1:] == []
    else:
        assert result.events[0].info["losses"][{8: 1 / 8, 16: 1 / 4}[expected[1]]] <= 1.1
        switch, tail = result.events[1:3]
        assert [t.rank for t in switch.info["truncations"]] == expected
        assert (tail.kind, tail.step) == ("recompose", 45)


def test_auto_leaves_dense_what_is_slower_factored(times, losses):
    times[1] = 0.3
    result = train(network(width=64), ranks="auto", pretrain_fraction=0.2)
    ranks = result.events[0].info["ranks"]
    assert sum(rank is not None for rank in ranks) == 1
    times[1] = times[2] = 0.99
    result = train(network(width=64), ranks="auto", pretrain_fraction=0.2)
    assert result.events[0].info["ranks"] is None
    assert "with factors" in result.explain()


def test_auto_switches_when_stable_ranks_level_off(times, losses):
    """A rate of almost nothing changes no spectrum: the second look, one step after half of φ, is enough."""
    result = train(network(width=64), ranks="auto", pretrain_fraction=0.8, optimizer=sf.Adam(1e-9))
    assert result.events[0].info["reason"] == "the stable ranks had levelled off"
    assert result.events[0].step == 21
    result = train(network(width=64), ranks="auto", pretrain_fraction=0.02)
    assert result.events[0].step == 1


def test_the_stable_rank():
    net = network(width=64)
    run = Run(net, checked_samples(*samples(), None, spec_of(net)), sf.Adam(), 1, 12, 0.0, 0.0)
    run.rebuild()
    watch = auto.Auto(100, 50, 100)
    for step in range(30):
        watch.levelled(run, step)
    for layer, stable in zip(net.layers, watch.stable, strict=False):
        s = np.linalg.svd(layer.W, compute_uv=False)
        assert stable == pytest.approx((s**2).sum() / s[0] ** 2, rel=1e-3)


def test_auto_leaves_the_choice_to_a_callback_that_truncates(times, losses):
    def cut(event):
        if event.kind == "epoch" and event.epoch == 1:
            event.network.truncate(ranks=[5, 5], force=True)

    result = train(network(width=64), ranks="auto", pretrain_fraction=0.5, callbacks=[cut], recompose=False, recompose_fraction=0)
    assert kinds(result) == []
    assert result.network.layout.ranks == (5, 5, None)


@pytest.mark.parametrize("activation_aware", [False, True])
def test_auto_decomposes_once(times, losses, monkeypatch, activation_aware):
    """The cut takes what the choice has computed, unless a callback has changed the weights in between."""
    calls = []

    def counted(find):
        def found(*args, **how):
            made = find(*args, **how)
            calls.extend([(*args, *how.values())] * (len(made) if isinstance(made, dict) else 1))
            return made

        return found

    for module in (auto, "svdfast.model.structures.low_rank"):
        name = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{name}.leading_directions", counted(leading_directions))
    monkeypatch.setattr(truncation, "output_directions", counted(truncation.output_directions))

    def halve(event):
        if event.kind == "ranks":
            event.network.layers[0].W[...] /= 2

    def cut(callbacks):
        calls.clear()
        result = train(
            network(width=64), ranks="auto", pretrain_fraction=0.2, callbacks=callbacks, activation_aware=activation_aware,
            svd="randomized",
        )  # fmt: skip
        return result.events[1].info["truncations"][0].singular_values, len(calls)

    once, n_once = cut([])
    halved, n_halved = cut([halve])
    assert (n_once, n_halved) == (2, 4)
    np.testing.assert_allclose(halved, once / 2, rtol=0.1)
    assert {method for *_, method in calls} == {"randomized"}


def test_the_sample_is_from_all_over_the_data():
    """Also where it is sorted and is not shuffled."""
    net = network()
    X, y = samples(n=5000)
    run = Run(net, checked_samples(X, np.sort(y), None, spec_of(net)), sf.Adam(), 1, 12, 0.0, 0.0)
    run.rebuild()
    rows = run.sample_rows()
    assert len(rows) == len(set(rows)) == 2048
    assert rows[0] == 0 and rows[-1] >= 4990
    order = np.random.default_rng(0).permutation(5000)
    run.engine.set_order(order)
    np.testing.assert_array_equal(run.sample_rows(), order[rows])
    inputs, weights = run.sample()
    np.testing.assert_array_equal(inputs, X[order[rows]])
    assert weights is None


def test_a_training_in_two_parts_is_that_in_one():
    """Moments, factors and their learning rates go on from call to call."""
    X, y = samples()
    settings = {"batch_size": 60, "shuffle": False}
    method = sf.Factoring([4, 4], recompose=False, pretrain_fraction=0.2)
    whole, parts = network(), network()
    sf.train(whole, X, y, epochs=20, factoring=method, optimizer=sf.Adam(3e-3), **settings)
    optimizer = sf.Adam(3e-3)
    half = dataclasses.replace(method, pretrain_fraction=0.4)
    first = sf.train(parts, X, y, epochs=10, factoring=half, optimizer=optimizer, **settings)
    (switch,) = first.events
    scales = switch.info["learning_rate_scales"]
    plain = parts.copy()
    sf.train(parts, X, y, epochs=10, optimizer=optimizer, factoring=dataclasses.replace(method, learning_rate=scales), **settings)
    np.testing.assert_array_equal(parts.parameters, whole.parameters)
    assert scales[0] > 1.5 and scales[2] == 1
    sf.train(plain, X, y, epochs=10, factoring=method, optimizer=sf.Adam(3e-3), **settings)
    assert np.abs(plain.parameters - whole.parameters).max() > 1e-3


def test_whole_sample_weights_are_repeated_samples_over_the_whole_training():
    """Loss, penalties, the cut by the layers' outputs, and the carried moments."""
    X, y = samples(n=60)
    times = np.arange(60) % 3

    def trained(X, y, **arguments):
        net = network(dtype="float64")
        sf.train(
            net, X, y, epochs=20, batch_size=200, l2=0.1,
            factoring=sf.Factoring(0.2, force=True, pretrain_fraction=0.3, recompose=False), **arguments,
        )  # fmt: skip
        assert net.is_factored
        return net.predict(X)

    weighted = trained(X, y, sample_weight=times)
    repeated = trained(X.repeat(times, axis=0), y.repeat(times))
    np.testing.assert_allclose(weighted.repeat(times, axis=0), repeated, atol=1e-8)
    assert np.abs(trained(X, y) - weighted).max() > 1e-3


def test_auto_disturbs_nothing(times, monkeypatch):
    """Until the decision the training is the dense one, to the bit: what is timed are copies."""
    monkeypatch.setattr(auto, "LEVEL", -1.0)  # the switch comes as late as it may
    seen = []

    def look(event):
        if event.kind == "ranks":
            seen.append(event.network.parameters.copy())

    train(network(width=64), ranks="auto", pretrain_fraction=0.2, callbacks=[look], optimizer=sf.Adam(0.1))
    dense = network(width=64)
    sf.train(dense, *samples(), epochs=2, batch_size=12, optimizer=sf.Adam(0.1), factoring=None)
    np.testing.assert_array_equal(seen[0], dense.parameters)


def test_seconds_are_those_of_steps_and_events():
    result = train(network(), pretrain_fraction=0.2, recompose_fraction=0.3, validation=samples(seed=1), guard=sf.Guard(1e9))
    steps = sum(p["seconds"] for p in result.phases)
    events = sum(event.info["seconds"] for event in result.events)
    assert result.seconds == pytest.approx(steps + events, rel=1e-9)


@pytest.mark.parametrize(("ranks", "step"), [([4, 4], 2), ("auto", 4)])
def test_the_switch_where_nothing_is_said(ranks, step):
    """After 5 % of the steps; with "auto" the choice comes after 10 % at the latest."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 24), dtype=np.float32)
    net = sf.Network([24, 32, 32, 3], seed=0)
    events = sf.train(net, X, X[:, :3].argmax(axis=1), epochs=10, batch_size=10, factoring=sf.Factoring(ranks)).events
    assert next(event.step for event in events if event.kind in ("switch", "ranks")) <= step
    if ranks != "auto":
        assert events[0].step == step
