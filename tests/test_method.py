# SPDX-License-Identifier: BSD-3-Clause
"""What happens between steps: the schedule of the four steps, the guard, the choice by measuring, and what is told of them."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from flat import flat

import svdfast as sf
from svdfast.data.checks import checked_samples
from svdfast.model import svd, truncation
from svdfast.model.evaluation import spec_of
from svdfast.model.losses import of_constant
from svdfast.model.structures import low_rank
from svdfast.training import auto
from svdfast.training.run import Run


def samples(n=60, n_in=24, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n_in)).astype("float32")
    return X, (X[:, :3].argmax(axis=1)).astype(int)


def network(width=32, **settings):
    return sf.Network([24, width, width, 3], seed=0, **settings)


def train(net, **settings):
    given = {"epochs": 10, "batch_size": 12, "optimizer": sf.Adam(sf.schedules.Constant(3e-3)), "ranks": [4, 4]}
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


def test_the_guard_raises_the_rank_and_then_undoes_the_truncation():
    """A tolerance that nothing meets: 2, 4, 8, then break-even, so dense, with the weights and moments of the switch."""
    net, optimizer, seen = network(), sf.Adam(sf.schedules.Constant(3e-3)), []

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
    train(before, epochs=5, pretrain_fraction=1.0)
    for _, parameters in seen:
        np.testing.assert_array_equal(parameters, before.parameters)
    assert result.phases[-1]["phase"] == "dense"
    assert "undone" in result.explain()


def test_the_guard_delays_the_truncation():
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


def test_a_delayed_truncation_that_recovers_is_kept():
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


def test_the_guard_undoes_the_truncation_where_it_is_told_to():
    result = train(
        network(), ranks=[2, 2], pretrain_fraction=0.2, validation=samples(seed=1), guard=sf.Guard(0.0, "undo"),
        callbacks=[Worse()],
    )  # fmt: skip
    assert kinds(result) == [("switch", 10), ("guard", 11)]
    assert result.events[-1].info["action"] == "undone"


def test_no_guard_where_nothing_was_truncated():
    """Ranks above break-even: the network stays as it is, and there is nothing to go back to."""
    result = train(network(), ranks=[19, 19], pretrain_fraction=0.2, validation=samples(seed=1), guard=sf.Guard(0.0), force=False)
    assert kinds(result) == [("switch", 10)]
    assert result.phases[-1]["phase"] == "dense"


class Worse:
    """Spoils the network after each truncation, so that its loss cannot be what it was."""

    def __call__(self, event):
        if event.kind == "switch":
            event.network.parameters[:] *= 30


def test_auto_on_a_small_net_stays_dense_and_says_so():
    data = sf.datasets.load("xor")
    net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
    result = sf.train(net, *data.train, epochs=800, optimizer=sf.Adam(0.01))
    assert kinds(result) == [("ranks", 80)]
    assert result.events[0].info["ranks"] == [None, None]
    assert "layer 1 (20-20) stays dense, as factors would save too little time" in result.explain()
    assert "dense throughout" in result.explain()


def test_auto_without_a_layer_that_could_be_factored():
    result = train(sf.Network([24, 3], seed=0), ranks="auto")
    assert result.events[0].info["ranks"] == []
    assert result.explain() == "dense throughout: 50 steps"


WIDE = 256  # neurons of layers that factors make faster


@pytest.fixture
def losses(monkeypatch):
    """Losses on the sample as given, by the ranks of the hidden layers; what the best constant answer has is 2.

    The clock is not asked, and looks may take as long as they do.
    """
    given = {(None, None): 1.0}
    monkeypatch.setattr(Run, "loss", lambda run, net, rows: given[net.layout.ranks[:-1]])
    monkeypatch.setattr(Run, "constant_loss", lambda run, rows: 2.0)
    monkeypatch.setattr(auto, "FASTER", np.inf)
    monkeypatch.setattr(auto, "LOOKING", np.inf)
    monkeypatch.setattr(auto, "LEAST", 1)
    monkeypatch.setattr(auto, "SHORTEST", 5)
    monkeypatch.setattr(auto, "LATEST", 1)
    return given


def chosen(**settings):
    return train(network(width=WIDE), ranks="auto", **{"pretrain_fraction": 0.2, **settings})


@pytest.mark.parametrize(("eighth", "quarter", "rank"), [(1.014, 1.0, 32), (1.016, 1.014, 64), (1.016, 1.016, None)])
def test_auto_takes_the_smallest_rank_that_keeps_what_was_learned(losses, eighth, quarter, rank):
    losses |= {(None, 32): eighth, (None, 64): quarter}
    result = chosen()
    first = result.events[0]
    assert (first.kind, first.step, first.info["ranks"]) == ("ranks", 10, [None, rank])
    assert [layer["rank"] for layer in first.info["layers"]] == [None, rank]
    assert first.info["layers"][0]["why"] == "factors would save too little time"
    if rank is None:
        assert "truncation to rank 64 loses 1.6% of what has been learned" in result.explain()
        assert kinds(result) == [("ranks", 10), ("ranks", 30)]
    else:
        assert first.info["layers"][1]["tried"][rank] == pytest.approx(losses[None, rank] - 1)
        assert 0.2 < first.info["layers"][1]["saved"] < 0.6
        assert [t.rank for t in result.events[1].info["truncations"]] == [rank]
        assert kinds(result) == [("ranks", 10), ("switch", 10), ("guard", 15), ("recompose", 50)]


def test_auto_truncates_later_what_is_not_ready(losses):
    losses |= {(None, 32): 1.5, (None, 64): 1.5}

    def ready(event):
        nonlocal losses
        if event.step == 25 and event.kind == "epoch":
            losses |= {(None, 32): 1.0, (None, 64): 1.0}

    result = chosen(callbacks=[ready])
    assert kinds(result)[:3] == [("ranks", 10), ("ranks", 30), ("switch", 30)]
    assert result.phases[0]["steps"] == 30


def test_auto_waits_until_something_has_been_learned(losses, monkeypatch):
    monkeypatch.setattr(Run, "constant_loss", lambda run, rows: 0.9)
    assert "layer 1 (256-256) stays dense, as nothing has been learned yet" in chosen().explain()


def test_auto_looks_at_all_truncations_together(losses):
    """Each alone is good, both together are not: the layer that loses more gets a higher rank, then none."""
    net = sf.Network([WIDE, WIDE, WIDE, 3], seed=0)
    losses |= {(32, None): 1.01, (None, 32): 1.012, (32, 32): 1.5, (None, 64): 1.005, (32, 64): 1.5, (64, 64): 1.5, (64, None): 1.0}
    X, y = samples(n_in=WIDE)
    settings = {"epochs": 10, "batch_size": 12}
    result = sf.train(net, X, y, factoring=sf.Factoring(pretrain_fraction=0.2), **settings)
    assert result.events[0].info["ranks"] == [None, 64]
    assert "all truncations together lose 50.0% of what has been learned" in result.explain()
    losses[32, 64] = 1.02
    result = sf.train(sf.Network([WIDE, WIDE, WIDE, 3], seed=0), X, y, factoring=sf.Factoring(pretrain_fraction=0.2), **settings)
    assert result.events[0].info["ranks"] == [32, 64]


def test_auto_undoes_a_bad_truncation_for_that_layer_alone(losses):
    """After two checks in a row; a higher rank may come later."""
    net = sf.Network([WIDE, WIDE, WIDE, 3], seed=0)
    losses |= {(32, None): 1.0, (None, 32): 1.01, (32, 32): 1.0, (None, 64): 1.0, (32, 64): 1.0}
    X, y = samples(n_in=WIDE)

    def fails(event):
        if event.kind == "switch" and event.step == 10:
            losses[32, 32] = 1.2

    result = sf.train(
        net, X, y, epochs=20, batch_size=12, factoring=sf.Factoring(pretrain_fraction=0.1), callbacks=[fails]
    )  # fmt: skip
    actions = [(e.step, e.info["action"], e.info["layers"]) for e in result.events if e.kind == "guard"]
    assert actions[:2] == [(15, "watched", []), (20, "undone", [1])]
    assert "step 20: loss 1 before the truncation, 1.2 now: undone for layer 1" in result.explain()
    switch = [e for e in result.events if e.kind == "switch"][1]
    assert (switch.step, [(t.layer, t.rank) for t in switch.info["truncations"]]) == (60, [(1, 64)])
    # The layer that was kept goes on with its learning rate.
    first, second = (e.info["learning_rate_scales"] for e in result.events if e.kind == "switch")
    assert first[0] == second[0] > 1


@pytest.mark.parametrize(("later", "rank"), [(0.2, 32), (1.1, None)])
def test_auto_tries_a_truncation_again_when_much_more_has_been_learned(losses, later, rank):
    """The loss has hardly begun to fall, and its ups and downs undo the largest truncation. Learned is 0.5 then, and 1.8 or 0.9 later."""
    losses |= {(None, None): 1.5, (None, 64): 1.5, (None, 32): 1.6}

    def goes_on(event):
        if event.kind == "switch" and event.step == 10:
            losses[None, 64] = 1.6
        if event.kind == "guard" and event.info["action"] == "undone":
            losses.update({(None, None): later, (None, 32): later, (None, 64): later})

    result = chosen(epochs=20, pretrain_fraction=0.1, callbacks=[goes_on])
    actions = [(e.step, e.info["action"]) for e in result.events if e.kind == "guard"]
    assert actions[:2] == [(15, "watched"), (20, "undone")]
    cuts = [[t.rank for t in e.info["truncations"]] for e in result.events if e.kind == "switch"]
    assert cuts == [[64], *([[rank]] if rank else [])]
    assert ("truncation to rank 64 was undone" in result.explain()) == (rank is None)


def test_auto_with_a_guard(losses):
    """It looks at validation data, with the guard's tolerance; undone for good."""
    losses |= {(None, 32): 1.0, (None, 64): 1.0}
    validation = samples(n=30, seed=1)
    result = chosen(epochs=20, pretrain_fraction=0.1, validation=validation, guard=sf.Guard(1e9))
    kept = next(event.info for event in result.events if event.kind == "guard")
    assert kept["action"] == "kept" and kept["loss_before"] != 1.0
    result = chosen(epochs=20, pretrain_fraction=0.1, validation=validation, guard=sf.Guard(0.0, "undo"), callbacks=[Worse()])
    assert [e.info["action"] for e in result.events if e.kind == "guard"] == ["watched", "undone"]
    assert len([e for e in result.events if e.kind == "switch"]) == 1


def test_auto_takes_back_what_the_clock_finds_no_faster(losses, monkeypatch):
    losses |= {(None, 32): 1.0, (None, 64): 1.0}
    monkeypatch.setattr(auto, "FASTER", 0.0)
    result = chosen()
    actions = [(e.step, e.info["action"]) for e in result.events if e.kind == "guard"]
    assert actions == [(15, "watched"), (20, "undone")] and "a step takes" in result.explain()
    assert len([e for e in result.events if e.kind == "switch"]) == 1
    assert ("guard", "kept") in [(e.kind, e.info.get("action")) for e in chosen_reproducibly().events]


@pytest.mark.parametrize(("by_turns", "action"), [([1.0, 0.9], "kept"), ([1.0, 0.99], "watched")])
def test_a_machine_that_got_slower_takes_nothing_back(monkeypatch, by_turns, action):
    """Where steps seem no faster than dense ones were, both forms are timed by turns."""
    net = network(width=WIDE)
    net.truncate(ranks=[None, 32])
    decider, timed = auto.Auto(net.layout, 100, 1, 100), []
    decider.limit = np.inf
    monkeypatch.setattr(auto, "by_turns", lambda run, networks: timed.extend(networks) or by_turns)
    _, info = decider.check(SimpleNamespace(net=net, reproducible=False), 50, 1.0, [1.0, 2.0], for_good=False)
    assert info["action"] == action
    dense, now = timed
    assert not dense.is_factored and now is net and net.is_factored
    assert not decider.check(SimpleNamespace(net=net, reproducible=False), 60, 1.0, [1.0, 0.5], for_good=False)[0]
    assert len(timed) == 2


def chosen_reproducibly():
    X, y = samples()
    return sf.train(
        network(width=WIDE), X, y, epochs=10, batch_size=12, factoring=sf.Factoring(pretrain_fraction=0.2), reproducible=True
    )


def test_a_few_samples_do_not_tell(losses, monkeypatch):
    monkeypatch.setattr(auto, "LEAST", 31)
    assert "layer 1 (256-256) stays dense, as 60 samples are too few to tell what truncation costs" in chosen().explain()


def test_the_clock_compares_with_dense_steps(losses, monkeypatch):
    """Also where a part of the layers has been truncated, or undone, since."""
    losses |= {(32, None): 1.0, (None, 32): 1.01, (32, 32): 1.0, (64, None): 1.0, (None, 64): 1.0, (32, 64): 1.0}
    asked, check = [], auto.Auto.check

    def checks(self, run, step, loss, times, **how):
        asked.append(times)
        return check(self, run, step, loss, times, **how)

    def fails(event):
        if event.kind == "switch":
            losses[32, 32] = 1.2

    monkeypatch.setattr(auto.Auto, "check", checks)
    X, y = samples(n_in=WIDE)
    method = sf.Factoring(pretrain_fraction=0.2)
    result = sf.train(
        sf.Network([WIDE, WIDE, WIDE, 3], seed=0), X, y, epochs=10, batch_size=12, factoring=method, callbacks=[fails], reproducible=True
    )  # fmt: skip
    assert [p["steps"] for p in result.phases[:2]] == [10, 10] and len(asked) == 3
    assert all(before == result.phases[0]["seconds"] / 10 for before, _ in asked)


def test_a_truncation_is_checked_by_what_was_before_it(losses, monkeypatch):
    """Whatever a look that finds no other truncation has seen since."""
    monkeypatch.setattr(auto, "SHORTEST", 30)
    losses |= {(None, 32): 1.0, (None, 64): 1.0, (32, None): 1.5, (32, 32): 2.0}

    def fails(event):
        if event.kind == "switch":
            losses[None, 32] = 1.2

    X, y = samples(n_in=WIDE)
    method = sf.Factoring(pretrain_fraction=0.2)
    result = sf.train(
        sf.Network([WIDE, WIDE, WIDE, 3], seed=0), X, y, epochs=10, batch_size=12, factoring=method, callbacks=[fails]
    )  # fmt: skip
    assert kinds(result)[:4] == [("ranks", 10), ("switch", 10), ("ranks", 30), ("guard", 40)]
    info = result.events[3].info
    assert (info["loss_before"], info["loss_recovered"], info["action"]) == (1.0, 1.2, "watched")


def test_auto_leaves_a_layer_dense_whose_truncation_has_no_loss(losses):
    losses |= {(None, 32): np.nan, (None, 64): np.nan}
    assert kinds(chosen()) == [("ranks", 10), ("ranks", 30)]


def test_looking_takes_its_share_of_the_steps(monkeypatch):
    """Of 50 steps a look would take more than its share: none is done, and it says so."""
    monkeypatch.setattr(auto, "LEAST", 1)
    assert "a look would take longer than its share of the training" in chosen().explain()


def test_auto_leaves_the_choice_to_a_callback_that_truncates(losses):
    def cut(event):
        if event.kind == "epoch" and event.epoch == 1:
            event.network.truncate(ranks=[5, 5], force=True)

    result = chosen(pretrain_fraction=0.5, callbacks=[cut], recompose=False)
    assert kinds(result) == []
    assert result.network.layout.ranks == (5, 5, None)


@pytest.mark.parametrize("activation_aware", [False, True])
def test_auto_decomposes_once(losses, monkeypatch, activation_aware):
    """The truncation takes what the look has computed, unless a callback has changed the weights in between."""
    losses |= {(None, 32): 1.0, (None, 64): 1.0}
    calls = []

    def counted(find):
        return lambda *args, **how: calls.append((*args, *how.values())) or find(*args, **how)

    for module in (auto, low_rank):
        monkeypatch.setattr(module, "leading_directions", counted(svd.leading_directions))
    monkeypatch.setattr(truncation, "output_directions", counted(truncation.output_directions))

    def halve(event):
        if event.kind == "ranks":
            event.network.layers[1].W[...] /= 2

    def cut(callbacks):
        calls.clear()
        result = chosen(callbacks=callbacks, activation_aware=activation_aware, svd="randomized")
        return result.events[1].info["truncations"][0].singular_values, len(calls)

    once, n_once = cut([])
    halved, n_halved = cut([halve])
    assert (n_once, n_halved) == (1, 2)
    np.testing.assert_allclose(halved, once / 2, rtol=0.1)
    assert calls[0][-1] == "randomized"


@pytest.mark.parametrize("learning_rate", ["auto", 2.0])
def test_the_factors_rates_come_down_to_the_optimizers(learning_rate, monkeypatch):
    """Over the last part of the steps, unless the user has given them."""
    given = []
    set_fade = Run.set_fade
    monkeypatch.setattr(Run, "set_fade", lambda run, fade: given.append(fade) or set_fade(run, fade))
    train(network(), epochs=20, learning_rate=learning_rate, optimizer=sf.Adam(sf.schedules.Constant(1e-3)))
    if learning_rate == "auto":
        assert given[0] == 1 and given[-1] == pytest.approx(1 / 30, abs=0.01) and given == sorted(given, reverse=True)
    else:
        assert set(given) == {1.0}
        train(network(), epochs=20, learning_rate=learning_rate, pretrain_fraction=0.9)
        assert set(given) == {1.0}


def test_a_fraction_leaves_bottlenecks_dense():
    """A rank below what few inputs span; not where the rank is the layer's own, or force says so."""
    X, y = samples()
    settings = {"epochs": 2, "batch_size": 12}
    result = sf.train(network(width=128), X, y, factoring=0.25, **settings)
    assert [(t.layer, t.rank) for t in result.events[0].info["truncations"]] == [(1, 32)]
    assert "layer 0 (24-128) stays dense, as a rank of 6 would be a bottleneck for its 24 inputs" in result.explain()
    for method in (sf.Factoring(0.25, force=True), sf.Factoring([6, 32])):
        result = sf.train(network(width=128), X, y, factoring=method, **settings)
        assert [t.rank for t in result.events[0].info["truncations"]] == [6, 32]
        assert result.events[0].info["kept_dense"] == []


def test_a_guard_without_validation_data_looks_at_a_sample():
    result = train(network(), guard=sf.Guard(1e9))
    event = next(event for event in result.events if event.kind == "guard")
    assert event.info["action"] == "kept" and event.info["loss_after"] > 0


def test_the_sample_is_from_all_over_the_data():
    """Also where it is sorted and is not shuffled."""
    net = network()
    X, y = samples(n=5000)
    run = Run(net, checked_samples(X, np.sort(y), None, spec_of(net)), sf.Adam(), 1, 12, 0.0, 0.0)
    run.rebuild()
    rows = run.sample_rows()
    assert len(rows) == len(set(rows)) == 4096
    for part in (rows[:512], rows[-512:]):
        assert part.min() < 100 and part.max() >= 4900 and abs((part % 2).mean() - 0.5) < 0.1
    run.engine.set_order(np.random.default_rng(0).permutation(5000))
    np.testing.assert_array_equal(run.sample_rows(), rows)
    inputs, weights = run.sample(rows)
    np.testing.assert_array_equal(inputs, X[rows])
    assert weights is None


def test_the_sample_is_of_rows_that_have_a_weight():
    """Over others nothing has a loss; nor has a constant there."""
    net = network()
    X, y = samples()
    weight = np.zeros(60)
    weight[[3, 17, 40]] = 1
    run = Run(net, checked_samples(X, y, weight, spec_of(net)), sf.Adam(), 1, 12, 0.0, 0.0)
    run.rebuild()
    assert sorted(run.sample_rows()) == [3, 17, 40]
    without = np.array([0, 1, 2])
    assert run.constant_loss(without) == run.loss(net, without) == 0
    assert run.constant_loss(np.array([3, 40, 0])) == of_constant("cross_entropy", y[[3, 40]], 3)


def test_a_training_in_two_parts_is_that_in_one():
    """Moments, factors and their learning rates go on from call to call."""
    X, y = samples()
    settings = {"batch_size": 60, "shuffle": False}
    method = sf.Factoring([4, 4], recompose=False, pretrain_fraction=0.2, learning_rate=[2.0, 1.5, 1.0])
    rate = sf.schedules.Constant(3e-3)
    whole, parts = network(), network()
    sf.train(whole, X, y, epochs=20, factoring=method, optimizer=sf.Adam(rate), **settings)
    optimizer = sf.Adam(rate)
    half = dataclasses.replace(method, pretrain_fraction=0.4)
    first = sf.train(parts, X, y, epochs=10, factoring=half, optimizer=optimizer, **settings)
    (switch,) = first.events
    assert switch.info["learning_rate_scales"] == (2.0, 1.5, 1.0)
    plain = parts.copy()
    sf.train(parts, X, y, epochs=10, optimizer=optimizer, factoring=method, **settings)
    np.testing.assert_array_equal(parts.parameters, whole.parameters)
    sf.train(plain, X, y, epochs=10, factoring=method, optimizer=sf.Adam(rate), **settings)
    assert np.abs(plain.parameters - whole.parameters).max() > 1e-3


def test_whole_sample_weights_are_repeated_samples_over_the_whole_training():
    """Loss, penalties, the truncation by the layers' outputs, and the carried moments."""
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


def test_auto_disturbs_nothing(losses):
    """Until a truncation the training is the dense one, to the bit: what is looked at are copies."""
    losses |= {(None, 32): 1.5, (None, 64): 1.5}
    seen = []
    net = chosen(callbacks=[lambda event: seen.append(event.kind)]).network
    assert seen.count("ranks") == 2
    dense = network(width=WIDE)
    train(dense, pretrain_fraction=1.0)
    np.testing.assert_array_equal(net.parameters, dense.parameters)


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
