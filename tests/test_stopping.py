# SPDX-License-Identifier: BSD-3-Clause
"""Early stopping, and the learning rate that falls on a plateau: when, which network is kept, and from a checkpoint to the bit."""

import dataclasses
import math
import pickle

import numpy as np
import pytest

import svdfast as sf
from svdfast.schedules import Constant, Cooldown, Cosine, ReduceOnPlateau, Warmup

SPE = 4  # steps an epoch


def samples(n=64, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 24))
    return X, X[:, :3].argmax(axis=1)


def network(seed=0):
    return sf.Network([24, 32, 32, 3], seed=seed, dtype="float64")


def train(net, *, early_stopping, epochs=60, optimizer=None, factoring=None, **settings):
    """Of labels that validation data contradict: its loss rises before long."""
    X, y = samples()
    V, v = samples(40, seed=1)
    settings = {"validation": (V, (v + 1) % 3), **settings}
    return sf.train(
        net, X, y, epochs=epochs, batch_size=16, optimizer=sf.Adam(0.01) if optimizer is None else optimizer,
        factoring=factoring, early_stopping=early_stopping, **settings,
    )  # fmt: skip


def expected_end(values, patience, min_delta=0.0):
    """The epoch after which the training ends, by the rule, and the best one."""
    to_beat, waited = math.inf, 0
    for epoch, value in enumerate(values, 1):
        if value < to_beat - min_delta:
            to_beat, waited = value, 0
        else:
            waited += 1
        if waited == patience:
            return epoch
    return len(values)


@pytest.mark.parametrize("min_delta", [0.0, 0.05])
@pytest.mark.parametrize("patience", [1, 3, 7])
@pytest.mark.parametrize("monitor", ["val_loss", "loss"])
def test_the_training_ends_by_the_rule(monitor, patience, min_delta):
    whole = train(network(), early_stopping=None)
    values = [row[monitor] for row in whole.history]
    end = expected_end(values, patience, min_delta)
    net = network()
    stopping = sf.EarlyStopping(patience, min_delta=min_delta, monitor=monitor)
    result = train(net, early_stopping=stopping)
    assert [row[monitor] for row in result.history] == values[:end]
    assert result.n_steps == SPE * end and len(result.history) == end
    best = int(np.argmin(values[:end]))
    kinds = [event.kind for event in result.events]
    assert kinds == ["stop"] * (end < 60) + ["restore"] * (best + 1 < end)
    for event in result.events:
        assert event.info["best"] == values[best] and event.info["best_epoch"] == best + 1
        assert event.info["monitor"] == monitor and event.step == SPE * end
    if end < 60:
        assert result.events[0].info["last_epoch"] == end
        assert f"{monitor} without progress for {patience} epochs" in result.explain()
    if best + 1 < end:
        assert f"the network is that of epoch {best + 1}" in result.explain()
    short = network()
    train(short, early_stopping=None, epochs=best + 1)
    np.testing.assert_array_equal(net.parameters, short.parameters)


def test_an_accuracy_is_watched_from_the_other_side():
    whole = train(network(), early_stopping=None)
    values = [row["val_accuracy"] for row in whole.history]
    net = network()
    result = train(net, early_stopping=sf.EarlyStopping(4, monitor="val_accuracy"))
    assert len(result.history) == expected_end([-value for value in values], 4) < 60
    stop = result.events[0]
    assert stop.info["best"] == max(values[: len(result.history)])
    X, y = samples(40, seed=1)
    assert net.evaluate(X, (y + 1) % 3).accuracy == stop.info["best"]


def test_the_last_network_is_kept_on_request():
    net, short = network(), network()
    optimizer = sf.Adam(0.01)
    result = train(net, early_stopping=sf.EarlyStopping(3, restore_best=False), optimizer=optimizer)
    assert [event.kind for event in result.events] == ["stop"] and "best" not in result.events[0].info
    train(short, early_stopping=None, epochs=len(result.history))
    np.testing.assert_array_equal(net.parameters, short.parameters)
    assert optimizer.n_updates == result.n_steps


def test_the_optimizer_starts_again_where_the_best_epoch_was_not_the_last():
    optimizer = sf.Adam(0.01)
    result = train(network(), early_stopping=sf.EarlyStopping(3), optimizer=optimizer)
    assert result.events[-1].kind == "restore"
    assert optimizer.moments == () and optimizer.n_updates == 0


def test_patience_that_lasts_changes_nothing_but_what_is_kept():
    net, plain = network(), network()
    result, whole = train(net, early_stopping=sf.EarlyStopping(100)), train(plain, early_stopping=None)
    assert [row["loss"] for row in result.history] == [row["loss"] for row in whole.history]
    assert [event.kind for event in result.events] == ["restore"]


def test_the_default_schedule_cools_down_first():
    """The share of the cooldown is that of the shorter training, and the rate is 0 after it, not before."""
    rate = 0.01
    plain = train(network(), early_stopping=sf.EarlyStopping(3), optimizer=sf.Adam(Constant(rate)))
    stuck = len(plain.history)
    result = train(network(), early_stopping=sf.EarlyStopping(3), optimizer=sf.Adam(Cooldown(rate)))
    last = math.ceil(stuck / 0.7)
    assert len(result.history) == last and result.n_steps == SPE * last
    assert result.events[0].kind == "stop" and result.events[0].info["last_epoch"] == last
    assert result.events[0].step == SPE * stuck
    expected = [Cooldown(rate)(SPE * epoch - 1, SPE * last) for epoch in range(1, last + 1)]
    assert [row["learning_rate"] for row in result.history] == expected
    assert expected[stuck - 1] == rate and expected[-1] < rate / 4


def test_within_the_cooldown_the_training_goes_on_to_its_end():
    result = train(network(), early_stopping=sf.EarlyStopping(3), optimizer=sf.Adam(Cooldown(0.01, 1.0)), epochs=20)
    assert len(result.history) == 20
    assert [event.info["last_epoch"] for event in result.events if event.kind == "stop"] == [20]


@pytest.mark.parametrize("schedule", [Constant(0.01), Cosine(0.01), Warmup(Cooldown(0.01)), lambda step, n_steps: 0.01])
def test_other_schedules_end_at_once(schedule):
    result = train(network(), early_stopping=sf.EarlyStopping(2), optimizer=sf.Adam(schedule))
    assert result.events[0].info["last_epoch"] == result.events[0].epoch == len(result.history) < 60


def test_the_count_starts_again_with_another_form():
    """No epoch after the truncation is as good as those before it, but the training goes on, as the loss falls again."""
    method = sf.Factoring([1, 1], force=True, pretrain_fraction=10 / 60, activation_aware=False)
    net = network()
    result = train(net, early_stopping=sf.EarlyStopping(3, monitor="loss"), factoring=method)
    losses = [row["loss"] for row in result.history]
    assert min(losses[10:]) > losses[9] and len(losses) > 13
    assert result.events[0].kind == "switch" and result.events[0].step == 10 * SPE


def test_the_form_of_the_best_epoch_comes_back():
    """Of a dense one, the network is dense and nothing is left to recompose; of a factored one it is recomposed."""
    method = sf.Factoring([1, 1], force=True, pretrain_fraction=10 / 60, activation_aware=False, recompose=False)
    net = network()
    result = train(net, early_stopping=sf.EarlyStopping(5, monitor="loss"), factoring=method)
    best = min(result.history, key=lambda row: row["loss"])
    assert best["phase"] == "dense" and result.history[-1]["phase"] == "factored"
    assert not net.is_factored
    short = network()
    train(short, early_stopping=None, epochs=best["epoch"])
    np.testing.assert_array_equal(net.parameters, short.parameters)

    net = network()
    method = sf.Factoring([8, 8], force=True, pretrain_fraction=0.0)
    result = train(net, early_stopping=sf.EarlyStopping(3), factoring=method)
    assert [event.kind for event in result.events] == ["switch", "stop", "restore", "recompose"]
    assert not net.is_factored
    best = min(row["val_loss"] for row in result.history)
    assert result.events[-1].info["val_loss"] == pytest.approx(best, rel=1e-9)


def test_the_dense_steps_at_the_end_keep_their_share():
    method = sf.Factoring([8, 8], force=True, pretrain_fraction=0.0, recompose_fraction=0.25)
    result = train(network(), early_stopping=sf.EarlyStopping(3, restore_best=False), factoring=method, optimizer=sf.Adam(Cooldown(0.01)))
    stop = next(event for event in result.events if event.kind == "stop")
    n_steps = SPE * stop.info["last_epoch"]
    assert result.n_steps == n_steps < 60 * SPE
    assert [event.step for event in result.events if event.kind == "recompose"] == [max(stop.step, n_steps - round(n_steps / 4))]
    assert [phase["phase"] for phase in result.phases] == ["factored", "dense"]


def test_auto():
    """A truncation by looking, then the end: the count started again with the factors."""
    X, y = samples(4000)
    V, v = samples(500, seed=1)
    net = sf.Network([24, 256, 256, 3], seed=0)
    result = sf.train(net, X, y, epochs=60, batch_size=100, validation=(V, v), early_stopping=sf.EarlyStopping(3), reproducible=True)
    kinds = [event.kind for event in result.events]
    assert "switch" in kinds and "stop" in kinds and kinds[-1] == "recompose"
    assert len(result.history) < 60 and not net.is_factored
    best = min(row["val_loss"] for row in result.history)
    assert net.evaluate(V, v).loss == pytest.approx(best, rel=1e-3)


def test_a_callback_that_stops_leaves_the_best():
    def stop(event):
        if event.kind == "epoch" and event.epoch == 12:
            raise sf.StopTraining

    net = network()
    result = train(net, early_stopping=sf.EarlyStopping(50), callbacks=[stop])
    assert len(result.history) == 12 and result.events[-1].kind == "restore"
    X, y = samples(40, seed=1)
    assert net.evaluate(X, (y + 1) % 3).loss == min(row["val_loss"] for row in result.history)


def test_a_loss_that_is_never_a_number_keeps_the_last_network():
    """Validation outputs overflow: no epoch is a best one."""
    X, y = samples()
    net = sf.Network([24, 8, 1], output="identity", seed=0)
    V = np.full((2, 24), 3e38)
    result = sf.train(net, X, y / 3, epochs=30, batch_size=16, factoring=None, optimizer=sf.Adam(Constant(1e-3)),
                      validation=(V, np.zeros(2)), early_stopping=sf.EarlyStopping(4))  # fmt: skip
    assert len(result.history) == 4 and [event.kind for event in result.events] == ["stop"]
    assert "best" not in result.events[0].info and "without progress" in result.explain()


# ---- settings


def test_settings_check_and_show_themselves():
    assert repr(sf.EarlyStopping()) == "EarlyStopping()"
    assert repr(sf.EarlyStopping(3, restore_best=False)) == "EarlyStopping(3, restore_best=False)"
    assert sf.EarlyStopping(np.int64(3)) == sf.EarlyStopping(3) == pickle.loads(pickle.dumps(sf.EarlyStopping(3)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        sf.EarlyStopping().patience = 3
    for wrong, error in [
        (dict(patience=0), ValueError), (dict(patience=1.5), TypeError), (dict(patience=True), TypeError),
        (dict(min_delta=-1e-9), ValueError), (dict(min_delta=math.nan), ValueError), (dict(min_delta="0"), TypeError),
        (dict(restore_best=1), TypeError), (dict(monitor="accuracy"), ValueError), (dict(monitor=None), ValueError),
    ]:  # fmt: skip
        with pytest.raises(error, match=f"{next(iter(wrong))}: expected"):
            sf.EarlyStopping(**wrong)


@pytest.mark.parametrize("wrong", [3, "val_loss", sf.EarlyStopping, np.True_])
def test_other_kinds_are_refused(wrong):
    net = network()
    before = net.parameters.copy()
    with pytest.raises(TypeError, match="early_stopping: expected an EarlyStopping"):
        train(net, early_stopping=wrong)
    np.testing.assert_array_equal(net.parameters, before)


def test_what_is_watched_has_to_be_recorded():
    net = network()
    for early_stopping in (True, sf.EarlyStopping(monitor="val_accuracy")):
        with pytest.raises(ValueError, match="early_stopping: expected validation data"):
            train(net, early_stopping=early_stopping, validation=None)
    train(net, early_stopping=sf.EarlyStopping(monitor="loss"), validation=None, epochs=2)
    X, y = samples()
    net = sf.Network([24, 8, 1], output="identity", seed=0)
    with pytest.raises(ValueError, match='early_stopping: expected monitor="val_loss"'):
        sf.train(net, X, y, validation=(X, y), early_stopping=sf.EarlyStopping(monitor="val_accuracy"))


def test_true_and_false():
    first = train(network(), early_stopping=True, optimizer=sf.Adam(Constant(0.01)))
    second = train(network(), early_stopping=sf.EarlyStopping(), optimizer=sf.Adam(Constant(0.01)))
    assert [row["loss"] for row in first.history] == [row["loss"] for row in second.history]
    assert len(first.history) < 60 == len(train(network(), early_stopping=False).history)


# ---- the rate on a plateau


@pytest.mark.parametrize("validated", [True, False])
def test_the_rate_falls_by_the_rule(validated):
    schedule = ReduceOnPlateau(0.02, factor=0.5, patience=2, min_delta=1e-3, minimum=0.004)
    settings = {} if validated else {"validation": None}
    result = train(network(), early_stopping=None, optimizer=sf.GradientDescent(schedule), **settings)
    to_beat, waited, rate = math.inf, 0, 0.02
    for row in result.history:
        assert row["learning_rate"] == rate
        value = row["val_loss" if validated else "loss"]
        if value < to_beat - 1e-3:
            to_beat, waited = value, 0
        else:
            waited += 1
        if waited == 2:
            waited, rate = 0, max(rate * 0.5, 0.004)
    if validated:
        assert result.history[-1]["learning_rate"] == 0.004


def test_each_training_starts_with_the_full_rate():
    optimizer = sf.GradientDescent(ReduceOnPlateau(0.02, factor=0.5, patience=1))
    for _ in range(2):
        result = train(network(), early_stopping=None, optimizer=optimizer)
        assert result.history[0]["learning_rate"] == 0.02 > result.history[-1]["learning_rate"]


def test_a_plateaus_settings():
    assert ReduceOnPlateau(np.float32(0.5)) == ReduceOnPlateau(0.5) and ReduceOnPlateau(0.5)(7, 10) == 0.5
    assert ReduceOnPlateau(0.001, minimum=0.1).reduced(3) == 0.001
    for wrong, error in [
        (dict(factor=0), ValueError), (dict(factor=1), ValueError), (dict(factor="a"), TypeError), (dict(patience=0), ValueError),
        (dict(min_delta=-1), ValueError), (dict(minimum=-1), ValueError), (dict(minimum=math.inf), ValueError),
    ]:  # fmt: skip
        with pytest.raises(error, match=f"{next(iter(wrong))}: expected"):
            ReduceOnPlateau(0.1, **wrong)
    with pytest.raises(TypeError, match="schedule: expected a schedule of steps alone, got ReduceOnPlateau"):
        Warmup(ReduceOnPlateau(0.1))


def test_a_callback_may_take_another_schedule():
    optimizer = sf.GradientDescent(ReduceOnPlateau(0.02, factor=0.5, patience=1))

    def change(event):
        if event.epoch == 3:
            optimizer.schedule = Constant(0.5)

    result = train(network(), early_stopping=None, optimizer=optimizer, callbacks=[change], epochs=5)
    assert [row["learning_rate"] for row in result.history[3:]] == [0.5, 0.5]


# ---- checkpoints


def told(result):
    """All of a result but the seconds."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]
    events = [(e.kind, e.epoch, e.step, {k: repr(v) for k, v in e.info.items() if not k.startswith("seconds")}) for e in result.events]
    return rows, events, result.n_steps, result.network.parameters.tobytes()


@pytest.mark.parametrize("every", [None, 3, 7])
@pytest.mark.parametrize("rate", [Cooldown(0.01), ReduceOnPlateau(0.01, factor=0.5, patience=2)])
@pytest.mark.parametrize("factoring", [None, sf.Factoring([8, 8], force=True, pretrain_fraction=0.05, recompose_fraction=0.2)])
def test_from_a_checkpoint_to_the_bit(factoring, rate, every, tmp_path):
    stopping = sf.EarlyStopping(3)
    X, y = samples()
    V, v = samples(40, seed=1)
    data = dict(validation=(V, (v + 1) % 3))
    whole = train(network(), early_stopping=stopping, factoring=factoring, optimizer=sf.Adam(rate))
    assert any(event.kind == "stop" for event in whole.events) and whole.events[-1].kind in ("restore", "recompose")
    for last in range(1, len(whole.history), 2):

        def power_cut(event):
            if event.kind == "epoch" and event.epoch == last:  # noqa: B023
                raise RuntimeError("power cut")

        path = tmp_path / f"{last}.ckpt"
        with pytest.raises(RuntimeError, match="power cut"):
            train(network(), early_stopping=stopping, factoring=factoring, optimizer=sf.Adam(rate), checkpoint=path,
                  checkpoint_every=every, callbacks=[power_cut])  # fmt: skip
        assert told(sf.resume(path, X, y, **data)) == told(whole)
        assert told(sf.resume(path, X, y, **data)) == told(whole)  # of a training that had ended
