# SPDX-License-Identifier: BSD-3-Clause
"""Training by the four steps: when the switch comes, what is recorded, how it ends, what is refused, that it learns.

The arithmetic of each step is test_optimizers.py's and test_gradients.py's.
"""

import contextlib
import dataclasses
import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from flat import flat
from threadpoolctl import threadpool_info, threadpool_limits

import svdfast as sf

SIZES = [6, 16, 14, 3]


def network(seed=0, **settings):
    return sf.Network(SIZES, **{"dtype": "float64", "seed": seed, **settings})


def samples(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, SIZES[0])), rng.integers(0, SIZES[-1], n)


class Spy:
    """A callback that keeps what it is told, and a schedule that keeps the form of the network at each step."""

    def __init__(self, net):
        self.net, self.events, self.forms = net, [], []

    def __call__(self, event):
        self.events.append(event)

    def rate(self, step, n_steps):
        self.forms.append("factored" if self.net.is_factored else "dense")
        return 0.01


# ---- the switch


@pytest.mark.parametrize(
    ("epochs", "batch_size", "phi"),
    [
        (4, 10, 0.0),
        (4, 10, 0.03),  # rounds to no step
        (4, 10, 0.1),
        (4, 10, 0.25),  # at the end of an epoch
        (4, 10, 0.3),
        (3, 16, 0.5),  # steps an epoch: 3, the last of 8 rows; 4.5 steps round to 4
        (4, 10, 0.97),
        (4, 10, 1.0),
        (1, 40, 0.5),  # one step: rounds to 0
        (7, 100, 0.5),  # 3.5 steps round to 4
    ],
)
def test_the_switch_comes_after_a_share_of_the_steps(epochs, batch_size, phi):
    net = network()
    X, y = samples()
    spy = Spy(net)
    result = sf.train(
        net, X, y, epochs=epochs, batch_size=batch_size, optimizer=sf.Adam(spy.rate), callbacks=[spy],
        factoring=sf.Factoring(0.25, pretrain_fraction=phi, force=True, recompose=False),
    )  # fmt: skip
    per_epoch = math.ceil(40 / batch_size)
    n_steps = epochs * per_epoch
    switch = round(phi * n_steps)
    # The schedule is asked just before each step, when the switch has been made.
    assert spy.forms == ["dense"] * switch + ["factored"] * (n_steps - switch)
    assert result.n_steps == n_steps
    switches = [event for event in spy.events if event.kind == "switch"]
    if switch == n_steps:
        assert switches == [] and not net.is_factored
    else:
        (event,) = switches
        assert event.step == switch
        assert event.epoch == switch // per_epoch + 1
    assert [row["phase"] for row in result.history] == [
        "factored" if e * per_epoch > switch else "dense" for e in range(1, epochs + 1)
    ]


@pytest.mark.parametrize(
    "factoring", [None, sf.Factoring(0.25, force=True, pretrain_fraction=1), sf.Factoring(pretrain_fraction=1)]
)
def test_dense_training(factoring):
    net, plain = network(), network()
    X, y = samples()
    result = sf.train(net, X, y, epochs=3, batch_size=16, factoring=factoring)
    assert not net.is_factored and result.events == []
    assert [row["phase"] for row in result.history] == ["dense"] * 3
    sf.train(plain, X, y, epochs=3, batch_size=16, factoring=sf.Factoring([None, None]))
    np.testing.assert_array_equal(net.parameters, plain.parameters)


def test_ranks_and_what_the_switch_tells():
    net = network()
    X, y = samples()
    spy = Spy(net)
    result = sf.train(
        net, X, y, epochs=2,
        factoring=sf.Factoring([3, None], force=True, recompose=False, split="left", svd="randomized"), callbacks=[spy],
    )  # fmt: skip
    assert net.layout.ranks == (3, None, None)
    event = spy.events[0]
    assert event.kind == "switch" and event.network is net
    assert [(t.layer, t.rank) for t in event.info["truncations"]] == [(0, 3)]
    assert event.info["seconds"] > 0
    assert result.events == [event]


def test_layers_above_break_even_stay_dense_unless_forced():
    net = network()
    X, y = samples()
    spy = Spy(net)
    sf.train(net, X, y, epochs=2, factoring=sf.Factoring(1.0, recompose=False), callbacks=[spy])
    assert spy.events[0].kind == "switch"
    assert all(t.skipped for t in spy.events[0].info["truncations"])
    assert not net.is_factored


def test_a_switch_that_factors_nothing_changes_nothing():
    X, y = samples()
    net, plain = network(), network()
    sf.train(net, X, y, epochs=3, batch_size=16, factoring=sf.Factoring(1.0, pretrain_fraction=0.5))
    sf.train(plain, X, y, epochs=3, batch_size=16, factoring=None)
    np.testing.assert_array_equal(net.parameters, plain.parameters)


@pytest.mark.parametrize("method", ["exact", "randomized"])
@pytest.mark.parametrize("split", ["balanced", "left", "right"])
@pytest.mark.parametrize("activation_aware", [False, True])
def test_the_switch_is_truncate(method, split, activation_aware):
    X, y = samples()
    net, other = network(), network()
    at_switch = []

    def keep(event):
        if event.kind == "switch":
            at_switch.append(event.network.copy())

    sf.train(
        net, X, y, epochs=2, batch_size=40,
        factoring=sf.Factoring([4, 3], pretrain_fraction=0.5, force=True, svd=method, split=split, activation_aware=activation_aware),
        callbacks=[keep],
    )  # fmt: skip
    sf.train(other, X, y, epochs=1, batch_size=40, factoring=None)
    with threadpool_limits(1, user_api="blas"):
        other.truncate(
            ranks=[4, 3], force=True, method=method, split=split, inputs=X if activation_aware else None
        )
    np.testing.assert_allclose(at_switch[0].parameters, other.parameters, atol=1e-12)


def test_a_factored_network_goes_on_with_its_factors():
    net = network()
    net.truncate(ranks=[4, 3], force=True)
    X, y = samples()
    spy = Spy(net)
    other = net.copy()
    result = sf.train(
        net, X, y, epochs=3, batch_size=16, factoring=sf.Factoring(0.5, pretrain_fraction=0.5, force=True, recompose=False),
        optimizer=sf.Adam(spy.rate), callbacks=[spy],
    )  # fmt: skip
    assert net.layout.ranks == (4, 3, None)
    assert spy.forms == ["factored"] * 9
    assert [event.kind for event in spy.events] == ["epoch"] * 3
    assert [row["phase"] for row in result.history] == ["factored"] * 3
    sf.train(
        other, X, y, epochs=3, batch_size=16, factoring=sf.Factoring(pretrain_fraction=1, recompose=False), optimizer=sf.Adam(0.01),
    )  # fmt: skip
    np.testing.assert_array_equal(net.parameters, other.parameters)


def test_recomposition_at_the_end():
    X, y = samples()
    settings = dict(epochs=3, batch_size=16, validation=(X[:9], y[:9]))
    method = sf.Factoring([4, 3], force=True)
    net, factored = network(), network()
    spy = Spy(net)
    result = sf.train(net, X, y, callbacks=[spy], factoring=method, **settings)
    sf.train(factored, X, y, factoring=dataclasses.replace(method, recompose=False), **settings)
    assert not net.is_factored and factored.is_factored
    np.testing.assert_allclose(net.predict(X), factored.predict(X), atol=1e-12)
    event = spy.events[-1]
    assert event.kind == "recompose" and event.step == 9 and event.epoch == 3
    assert event.info["seconds"] > 0
    assert result.events == [e for e in spy.events if e.kind != "epoch"]
    row = result.history[-1]
    assert row["phase"] == "factored" and row["epoch"] == 3 == len(result.history)
    assert event.info["val_loss"] == pytest.approx(row["val_loss"], rel=1e-10)
    assert event.info["val_accuracy"] == row["val_accuracy"]


# ---- what is recorded


def test_history_and_events():
    net = network()
    X, y = samples()
    V, v = samples(15, seed=9)
    spy = Spy(net)
    told = []

    def evaluate(event):
        if event.kind == "epoch":
            told.append(event.network.evaluate(V, v))

    result = sf.train(
        net, X, y, epochs=5, batch_size=16, validation=(V, v), factoring=sf.Factoring(0.25, pretrain_fraction=0.4, force=True),
        callbacks=[spy, evaluate],
    )  # fmt: skip
    assert result.network is net
    assert [e.kind for e in spy.events] == [
        "epoch", "epoch", "switch", "epoch", "epoch", "epoch", "recompose",
    ]  # fmt: skip
    assert [e.step for e in spy.events] == [3, 6, 6, 9, 12, 15, 15]
    assert [e.epoch for e in spy.events] == [1, 2, 3, 3, 4, 5, 5]
    assert result.n_steps == 15
    epochs = [e for e in spy.events if e.kind == "epoch"]
    assert [e.info for e in epochs] == result.history
    for i, (row, evaluation) in enumerate(zip(result.history, told, strict=True)):
        assert set(row) == {
            "epoch", "step", "phase", "loss", "learning_rate", "seconds", "val_loss", "val_accuracy",
        }  # fmt: skip
        assert row["epoch"] == i + 1
        assert row["step"] == 3 * (i + 1)
        assert row["learning_rate"] == sf.schedules.Cooldown(1e-3)(row["step"] - 1, 15)  # of its last step
        assert row["seconds"] > 0
        assert row["val_loss"] == evaluation.loss
        assert row["val_accuracy"] == evaluation.accuracy
    parts = sum(row["seconds"] for row in result.history) + sum(spy.events[i].info["seconds"] for i in (2, -1))
    assert result.seconds == pytest.approx(parts, rel=1e-9)


def test_without_validation_there_are_no_such_columns():
    X, y = samples()
    result = sf.train(network(), X, y, epochs=1, factoring=None)
    assert set(result.history[0]) == {"epoch", "step", "phase", "loss", "learning_rate", "seconds"}


def test_validation_loss_of_values_has_no_accuracy():
    X, _ = samples()
    Y = np.random.default_rng(3).standard_normal((40, 3))
    net = network(output="identity")
    result = sf.train(net, X, Y, epochs=1, validation=[X, Y], factoring=None)
    row = result.history[0]
    assert row["val_accuracy"] is None
    assert row["val_loss"] == pytest.approx(((net.predict(X) - Y) ** 2).mean(), rel=1e-12)


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples():
    """With a rate of 0, the loss over all samples, whatever the batches; penalties are over the batch's samples."""
    X, y = samples()
    for batch_size in (40, 16, 7, 1, 1000):
        net = network()
        result = sf.train(
            net, X, y, epochs=1, batch_size=batch_size, optimizer=sf.GradientDescent(0.0),
            factoring=None,
        )  # fmt: skip
        assert result.history[0]["loss"] == pytest.approx(net.evaluate(X, y).loss, rel=1e-13)
        assert result.n_steps == math.ceil(40 / min(batch_size, 40))
    result = sf.train(
        net, X, y, epochs=1, batch_size=20, optimizer=sf.GradientDescent(0.0), l1=0.3, l2=0.4,
        factoring=None,
    )  # fmt: skip
    w = net.parameters[: net.layout.n_weights]
    penalty = (0.3 * np.abs(w).sum() + 0.2 * (w @ w)) / 20
    assert result.history[0]["loss"] == pytest.approx(net.evaluate(X, y).loss + penalty, rel=1e-12)


# ---- batches


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize(("n", "batch_size"), [(40, 16), (41, 8), (40, 1), (1, 5), (7, 7), (3, 99)])
def test_batches_are_rows_in_order_without_shuffling(n, batch_size, form):
    """The same as a training for each batch by itself, the last one smaller."""
    X, y = samples(n)
    net = network()
    if form == "factored":
        net.truncate(ranks=[4, 3], force=True)
    apart = net.copy()
    settings = dict(epochs=1, factoring=sf.Factoring(pretrain_fraction=1, recompose=False), n_threads=1)
    sf.train(net, X, y, batch_size=batch_size, shuffle=False, optimizer=sf.Adam(0.01), **settings)
    optimizer = sf.Adam(0.01)
    for start in range(0, n, batch_size):
        rows = slice(start, start + batch_size)
        sf.train(apart, X[rows], y[rows], batch_size=n, optimizer=optimizer, **settings)
    np.testing.assert_allclose(net.parameters, apart.parameters, rtol=0, atol=1e-13)


def test_every_epoch_has_another_order_with_every_row_once():
    """A linear unit with zero weights and rate 0: each step's loss is the mean square of the batch's targets."""
    n = 32
    y = 2.0 ** (np.arange(n) / 2)  # a sum of squares says which rows are in it
    net = sf.Network([1, 1], output="identity", dtype="float64", seed=0)
    net.parameters[:] = 0
    seen = []

    class Watch:
        """Sees a batch by the gradient of its only bias: -2 mean(y)."""

        def __call__(self, step, n_steps):
            seen.append(net.layers[0].b[0])
            net.parameters[:] = 0
            return 1.0

    X = np.zeros((n, 1))
    sf.train(
        net, X, y, epochs=6, batch_size=1, optimizer=sf.GradientDescent(Watch()),
        factoring=None, seed=5,
    )  # fmt: skip
    seen.append(net.layers[0].b[0])
    order = np.log2(np.array(seen[1:]) / 2) * 2
    epochs = np.rint(order).astype(int).reshape(6, n)
    expected = np.random.default_rng(5)
    for rows in epochs:
        np.testing.assert_array_equal(rows, expected.permutation(n))
    assert len({tuple(rows) for rows in epochs}) == 6


def test_a_generator_as_seed_goes_on():
    X, y = samples()
    settings = dict(batch_size=8, factoring=None)
    net, other = network(), network()
    rng = np.random.default_rng(4)
    optimizer = sf.Adam()
    for _ in range(2):
        sf.train(net, X, y, epochs=1, seed=rng, optimizer=optimizer, **settings)
    sf.train(other, X, y, epochs=2, seed=4, optimizer=sf.Adam(), **settings)
    np.testing.assert_array_equal(net.parameters, other.parameters)
    again = network()
    sf.train(again, X, y, epochs=2, seed=5, optimizer=sf.Adam(), **settings)
    assert not np.array_equal(again.parameters, net.parameters)


def test_sample_weights_in_shuffled_batches():
    """Weights belong to their rows, wherever these come in the order: equal to training on the rows kept."""
    X, y = samples(48)
    keep = np.arange(48) % 3 != 1
    nets = network(), network()
    settings = dict(epochs=2, factoring=None, batch_size=48, optimizer=sf.GradientDescent(0.3))
    sf.train(nets[0], X, y, sample_weight=keep, **settings)
    sf.train(nets[1], X[keep], y[keep], **settings)
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, atol=1e-13)
    # and where batches are drawn, a row of weight 0 has no say
    other = network(), network()
    Z = X.copy()
    Z[~keep] = 1e3
    for net, inputs in zip(other, (X, Z), strict=True):
        sf.train(net, inputs, y, sample_weight=keep, **{**settings, "batch_size": 8})
    np.testing.assert_allclose(other[0].parameters, other[1].parameters, atol=1e-12)


# ---- gradients are clipped


def test_a_clipped_step_is_that_of_the_shorter_gradient():
    """The norm is of the whole objective, penalties too; a step of gradient descent is as long as it may be."""
    X, y = samples()
    net = network()
    net.truncate(ranks=[4, 3], force=True)
    _, gradient = net.loss_and_gradient(X, y, l1=0.2, l2=0.3)
    norm = np.linalg.norm(gradient)
    for clip_norm in (0.1 * norm, 0.9 * norm, 1.1 * norm):
        for n_threads in (1, 2):
            other = net.copy()
            sf.train(
                other, X, y, epochs=1, batch_size=40, optimizer=sf.GradientDescent(0.5), l1=0.2, l2=0.3, clip_norm=clip_norm,
                factoring=sf.Factoring(recompose=False), n_threads=n_threads,
            )  # fmt: skip
            expected = net.parameters - 0.5 * min(1, clip_norm / norm) * gradient
            np.testing.assert_allclose(other.parameters, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("optimizer", [sf.Adam, sf.AdamW, lambda rate: sf.GradientDescent(rate, momentum=0.9)])
def test_a_norm_that_is_never_reached_changes_nothing(optimizer):
    X, y = samples()
    net, plain = network(), network()
    method = sf.Factoring(0.25, force=True, pretrain_fraction=0.4, product_decay=0.1)
    settings = dict(epochs=6, batch_size=16, l2=0.1, factoring=method)
    used, unused = optimizer(0.01), optimizer(0.01)
    sf.train(plain, X, y, optimizer=unused, **settings)
    result = sf.train(net, X, y, optimizer=used, clip_norm=1e9, **settings)
    np.testing.assert_allclose(net.parameters, plain.parameters, rtol=0, atol=1e-12)
    assert used.n_updates == unused.n_updates == result.n_steps == 18


def test_clipped_trainings_are_reproducible():
    X, y = samples(300)
    trained = []
    for n_threads in (1, 2, 3):
        net = network()
        sf.train(net, X, y, epochs=2, batch_size=100, clip_norm=0.1, reproducible=True, n_threads=n_threads)
        trained.append(net.parameters.tobytes())
    assert len(set(trained)) == 1


# ---- how it ends


def test_stop_training_from_an_epoch():
    X, y = samples()
    for stop_at in (1, 3):

        def stop(event, stop_at=stop_at):
            if event.kind == "epoch" and event.epoch == stop_at:
                raise sf.StopTraining

        net = network()
        result = sf.train(
            net, X, y, epochs=9, batch_size=16, optimizer=sf.Adam(), callbacks=[stop],
            factoring=sf.Factoring(0.25, force=True, pretrain_fraction=0.2, learning_rate=2.0),  # which does not fade
        )  # fmt: skip
        dense = stop_at == 1
        assert result.n_steps == 3 * stop_at
        phases = [row["phase"] for row in result.history]
        assert phases == (["dense"] if dense else ["dense", "factored", "factored"])
        assert not net.is_factored
        short = network()
        sf.train(
            short, X, y, epochs=stop_at, batch_size=16, optimizer=sf.Adam(),
            factoring=sf.Factoring(0.25, force=True, pretrain_fraction=min(1, 5 / (3 * stop_at)), learning_rate=2.0),
        )  # fmt: skip
        np.testing.assert_array_equal(net.parameters, short.parameters)


def test_stop_training_at_the_switch():
    def stop(event):
        if event.kind == "switch":
            raise sf.StopTraining

    X, y = samples()
    for recompose in (True, False):
        net = network()
        result = sf.train(
            net, X, y, epochs=2, batch_size=4, callbacks=[stop],
            factoring=sf.Factoring(0.25, force=True, pretrain_fraction=0.3, recompose=recompose),
        )  # fmt: skip
        assert result.n_steps == 6
        assert net.is_factored != recompose
        # The six steps took time, though their epoch has no row.
        told = result.events[0].info["seconds"] + sum(row["seconds"] for row in result.history)
        assert result.seconds - told > 1e-6


def test_stop_training_at_the_recomposition():
    def stop(event):
        if event.kind == "recompose":
            raise sf.StopTraining

    X, y = samples()
    net = network()
    assert sf.train(net, X, y, epochs=2, callbacks=[stop], factoring=sf.Factoring(0.25, force=True)).n_steps == 2
    assert not net.is_factored


def blas_threads():
    return [
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    ]


class Boom(Exception):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, Boom])
@pytest.mark.parametrize("kind", ["switch", "epoch", "rate", "recompose"])
def test_an_interruption_leaves_the_network_usable(kind, error):
    net = network()
    X, y = samples()
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        assert set(before) == {2}
        inside = []

        def interrupt(event):
            if event.kind == kind:
                inside.append(blas_threads())
                raise error

        def rate(step, n_steps):
            if kind == "rate" and step == 7:
                inside.append(blas_threads())
                raise error
            return 0.01

        with pytest.raises(error):
            sf.train(
                net, X, y, epochs=4, batch_size=16, factoring=sf.Factoring(0.25, force=True, pretrain_fraction=0.5),
                callbacks=[interrupt], optimizer=sf.Adam(rate),
            )  # fmt: skip
        assert blas_threads() == before
        if kind in ("epoch", "rate"):
            assert set(inside[0]) == {1}  # held at one during training
    assert net.is_factored == (kind in ("switch", "rate"))
    assert np.isfinite(net.predict(X)).all()
    result = sf.train(net, X, y, epochs=1)
    assert result.n_steps == 1 and not net.is_factored


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to itself")
@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals need the main thread"
)
def test_ctrl_c_ends_between_two_steps():
    net = network()
    X, y = samples()
    steps = []

    def rate(step, n_steps):
        steps.append(step)
        if step == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return 0.01

    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with pytest.raises(KeyboardInterrupt):
            sf.train(
                net, X, y, epochs=100_000, batch_size=16, optimizer=sf.Adam(rate),
                factoring=sf.Factoring(0.25, force=True, pretrain_fraction=0),
            )  # fmt: skip
        assert blas_threads() == before
    assert 20 <= steps[-1] <= 22
    assert net.is_factored and np.isfinite(net.predict(X)).all()
    net.recompose()


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_exploding_rate_is_told(dtype, form):
    net = network(dtype=dtype, output="identity")
    X, _ = samples()
    Y = np.ones((40, 3))
    phi = 1.0 if form == "dense" else 0.0
    with threadpool_limits(2, user_api="blas"):
        with pytest.raises(FloatingPointError, match=r"loss became (nan|inf) at step \d+"):
            sf.train(
                net, X, Y, epochs=50, optimizer=sf.GradientDescent(1e30),
                factoring=sf.Factoring(0.25, force=True, pretrain_fraction=phi),
            )  # fmt: skip
        assert set(blas_threads()) == {2}


def test_a_rate_that_explodes_just_before_the_switch_is_told():
    net = network(output="identity")
    X, _ = samples()
    with pytest.raises(FloatingPointError):
        sf.train(
            net, 1e10 * X, np.full((40, 3), 1e10), epochs=4, batch_size=10,
            factoring=sf.Factoring(0.25, force=True, pretrain_fraction=1 / 16), optimizer=sf.GradientDescent(1e300),
        )  # fmt: skip


def test_a_callback_may_change_the_form():
    """Truncating or recomposing within a training: the steps that follow train the new parameters."""
    X, y = samples()
    net = network()
    seen = []

    def change(event):
        if event.kind == "epoch":
            seen.append(event.network.parameters.copy())
            if event.epoch == 2:
                event.network.truncate(ranks=[4, 3], force=True)
            if event.epoch == 4:
                event.network.recompose()

    sf.train(net, X, y, epochs=6, batch_size=16, factoring=None, callbacks=[change])
    assert len(seen[2]) == len(seen[3]) != len(seen[1]) == len(seen[4])
    assert not np.array_equal(seen[2], seen[3])
    assert not np.array_equal(seen[4], seen[5])
    np.testing.assert_array_equal(net.parameters, seen[5])


def test_a_callback_may_predict_train_and_copy():
    X, y = samples()
    plain, net = network(), network()

    def use(event):
        event.network.predict(X)
        event.network.evaluate(X, y)
        sf.train(event.network.copy(), X, y, epochs=1)

    settings = dict(epochs=3, batch_size=16, factoring=sf.Factoring(0.25, force=True))
    sf.train(plain, X, y, **settings)
    sf.train(net, X, y, callbacks=[use], **settings)
    np.testing.assert_array_equal(net.parameters, plain.parameters)


def test_parameters_written_by_a_callback_are_trained_on():
    X, y = samples()
    net = network()

    def zero(event):
        if event.kind == "epoch" and event.epoch == 1:
            event.network.parameters[:] = 0

    sf.train(net, X, y, epochs=2, factoring=None, callbacks=[zero], optimizer=sf.Adam(0.01))
    assert 0 < np.abs(net.parameters).max() <= 0.02


def test_progress_bar(capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    X, y = samples()
    plain, net = network(), network()
    settings = dict(epochs=3, batch_size=16, factoring=sf.Factoring(0.25, pretrain_fraction=0.5, force=True))
    sf.train(plain, X, y, **settings)
    assert capsys.readouterr().err == ""
    sf.train(net, X, y, **settings, progress=True)
    shown = capsys.readouterr()
    assert "/9" in shown.err and "step" in shown.err and shown.out == ""
    np.testing.assert_array_equal(net.parameters, plain.parameters)
    assert "dense, loss" in shown.err and "factored, loss" in shown.err


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt, sf.StopTraining])
def test_progress_bar_is_closed_when_a_training_breaks_off(error, capsys):
    tqdm = pytest.importorskip("tqdm.auto", reason="tqdm is not installed").tqdm

    def stop(event):
        if event.kind == "epoch":
            assert len(tqdm._instances) == 1
            raise error

    # The error is kept, so that nothing but closing makes the bar go.
    with contextlib.nullcontext() if error is sf.StopTraining else pytest.raises(error) as first:
        sf.train(network(), *samples(), epochs=3, progress=True, callbacks=[stop])
    assert len(tqdm._instances) == 0
    with pytest.raises(FloatingPointError) as second:
        sf.train(network(), *samples(), epochs=300, progress=True, optimizer=sf.GradientDescent(1e200))
    assert len(tqdm._instances) == 0
    del first, second
    assert capsys.readouterr().out == ""


def test_progress_bar_in_a_notebook_without_widgets():
    """What tqdm asks for is Jupyter's kernel; the bar is then one of text, on stderr, also where warnings are errors."""
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    program = """
import sys, types
shell = types.SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
sys.modules["ipywidgets"] = None
import svdfast as sf
data = sf.datasets.load("xor")
net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
sf.train(net, *data.train, epochs=3, progress=True)
from tqdm.autonotebook import tqdm
assert tqdm.__module__ == "tqdm.std", tqdm.__module__
"""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "3/3" in done.stderr and done.stdout == ""


def test_progress_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    net = network()
    before = net.parameters.copy()
    with pytest.raises(ImportError, match=r"svdfast\[progress\]"):
        sf.train(net, *samples(), progress=True)
    np.testing.assert_array_equal(net.parameters, before)


# ---- what is refused


BAD = [
    (dict(net=None), TypeError, "net"),
    (dict(net=np.zeros(3)), TypeError, "net"),
    (dict(epochs=0), ValueError, "epochs"),
    (dict(epochs=-1), ValueError, "epochs"),
    (dict(epochs=2.0), TypeError, "epochs"),
    (dict(epochs=True), TypeError, "epochs"),
    (dict(epochs=None), TypeError, "epochs"),
    (dict(batch_size=0), ValueError, "batch_size"),
    (dict(batch_size="8"), TypeError, "batch_size"),
    (dict(optimizer="rmsprop"), ValueError, "optimizer"),
    (dict(optimizer=sf.Adam), TypeError, "optimizer"),
    (dict(loss="hinge"), ValueError, "loss"),
    (dict(loss=3), TypeError, "loss"),
    (dict(loss="binary_cross_entropy"), ValueError, "sigmoid"),
    (dict(factoring=0), ValueError, "ranks: expected a number above 0 and at most 1, got 0"),
    (dict(factoring=1.1), ValueError, "ranks"),
    (dict(factoring=np.nan), ValueError, "ranks"),
    (dict(factoring=True), TypeError, "ranks: expected a number"),
    (dict(factoring="1/4"), ValueError, "ranks"),
    (dict(factoring=[4, 4]), TypeError, "factoring: expected None, a number"),
    (dict(rank_fraction=0.5), TypeError, "rank_fraction"),
    (dict(clip_norm=0), ValueError, "clip_norm: expected a finite number > 0, got 0"),
    (dict(clip_norm=-1.0), ValueError, "clip_norm"),
    (dict(clip_norm=np.inf), ValueError, "clip_norm"),
    (dict(clip_norm="1"), TypeError, "clip_norm"),
    (dict(ranks=[4]), ValueError, "ranks"),
    (dict(ranks=[0, 4]), ValueError, r"ranks\[0\]"),
    (dict(ranks=[4, 15]), ValueError, r"ranks\[1\]"),
    (dict(ranks=[4, 4.0]), TypeError, r"ranks\[1\]"),
    (dict(ranks=4), ValueError, "ranks"),
    (dict(pretrain_fraction=-0.1), ValueError, "pretrain_fraction"),
    (dict(pretrain_fraction=1.1), ValueError, "pretrain_fraction"),
    (dict(pretrain_fraction=np.nan), ValueError, "pretrain_fraction"),
    (dict(pretrain_fraction="0.1"), TypeError, "pretrain_fraction"),
    (dict(svd="fast"), ValueError, "svd"),
    (dict(split="even"), ValueError, "split"),
    (dict(l1=-1), ValueError, "l1"),
    (dict(l1=np.inf), ValueError, "l1"),
    (dict(l2=np.nan), ValueError, "l2"),
    (dict(l2="1"), TypeError, "l2"),
    (dict(sample_weight=np.ones(39)), ValueError, "sample_weight"),
    (dict(sample_weight=np.ones((40, 1))), ValueError, "sample_weight"),
    (dict(sample_weight=-np.ones(40)), ValueError, "sample_weight"),
    (dict(sample_weight=np.zeros(40)), ValueError, "sample_weight"),
    (dict(sample_weight=np.full(40, np.nan)), ValueError, "sample_weight"),
    (dict(sample_weight=["1"] * 40), TypeError, "sample_weight"),
    (dict(validation=3), TypeError, "validation"),
    (dict(validation=(np.zeros((2, 6)),)), TypeError, "validation"),
    (dict(validation=(np.zeros((2, 5)), [0, 1])), ValueError, "validation X"),
    (dict(validation=(np.zeros((2, 6)), [0, 3])), ValueError, "validation y"),
    (dict(validation=(np.full((2, 6), np.nan), [0, 1])), ValueError, "validation X"),
    (dict(validation=(np.zeros((0, 6)), [])), (TypeError, ValueError), "sample|validation"),
    (dict(n_threads=0), ValueError, "n_threads"),
    (dict(n_threads=1.0), TypeError, "n_threads"),
    (dict(seed=-1), ValueError, "integer"),
    (dict(seed="a"), TypeError, "int"),
    (dict(callbacks=None), TypeError, "callbacks|iterable"),
    (dict(callbacks=print), TypeError, "callbacks|iterable"),
    (dict(callbacks=[None]), TypeError, "callbacks|callable"),
    (dict(callbacks=[print, 3]), TypeError, "callbacks|callable"),
    (dict(X=None), TypeError, "X"),
    (dict(X=np.zeros((40, 5))), ValueError, "X"),
    (dict(X=np.zeros((0, 6)), y=np.zeros(0, int)), ValueError, "X"),
    (dict(y=None), TypeError, "y"),
    (dict(y=np.zeros(39, int)), ValueError, "y"),
    (dict(y=np.zeros(40)), TypeError, "y"),
    (dict(y=np.full(40, 3)), ValueError, "y"),
    (dict(nonsense=1), TypeError, "nonsense"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=lambda a: str(a)[:60])
@pytest.mark.filterwarnings("error")
def test_bad_arguments_are_refused_and_nothing_is_changed(arguments, error, message):
    X, y = samples()
    net = network()
    vector, before = net.parameters, net.parameters.copy()
    optimizer = sf.Adam()
    events = []
    given = {
        "net": net, "X": X, "y": y, "epochs": 2, "optimizer": optimizer,
        "callbacks": [events.append], **arguments,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        sf.train(given.pop("net"), given.pop("X"), given.pop("y"), **flat(**given))
    assert net.parameters is vector
    np.testing.assert_array_equal(net.parameters, before)
    assert optimizer.n_updates == 0 and optimizer.moments == ()
    assert events == []


def test_a_generator_is_not_drawn_from_for_a_refused_training():
    rng = np.random.default_rng(0)
    state = rng.bit_generator.state
    with pytest.raises(ValueError, match="y"):
        sf.train(network(), samples()[0], np.full(40, 7), seed=rng)
    assert rng.bit_generator.state == state


# ---- that it learns


XOR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype="float32")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("form", ["dense", "factored"])
def test_xor_as_in_the_report(form, seed):
    """The report, section 4.1: 2-20-20-1, rate 0.01, 800 epochs, alpha 1/2, phi 10 %."""
    net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=seed)
    method = sf.Factoring(0.5, pretrain_fraction=0.1, force=True) if form == "factored" else None
    result = sf.train(net, XOR, [0, 1, 1, 0], epochs=800, optimizer=sf.Adam(0.01), factoring=method)
    if form == "factored":
        (event,) = [e for e in result.events if e.kind == "switch"]
        assert event.step == 80
        assert [t.rank for t in event.info["truncations"]] == [1, 10]
    assert net.evaluate(XOR, [0, 1, 1, 0]).loss < 0.05
    assert net.score(XOR, [0, 1, 1, 0]) == 1


@pytest.mark.parametrize("factoring", [None, sf.Factoring(0.25, force=True)])
def test_digits_are_learnt(factoring):
    pytest.importorskip("sklearn", reason="scikit-learn, which has the digits, is not installed")
    data = sf.datasets.load("digits")
    net = sf.Network([64, 64, 48, 10], seed=0, uint8_scale=1 / 16)
    X, y = data.train
    assert net.score(*data.test) < 0.3  # not known before
    result = sf.train(net, X, y, epochs=15, batch_size=64, optimizer=sf.Adam(2e-3), factoring=factoring)
    phases = {row["phase"] for row in result.history}
    assert ("factored" in phases) == (factoring is not None)
    assert net.score(*data.test) > 0.9


def test_a_switch_callback_may_change_the_form():
    """The steps that follow in the same epoch train the new parameters."""
    X, y = samples()
    nets = []
    for callbacks in ([], [lambda e: e.network.recompose() if e.kind == "switch" else None]):
        nets.append(network())
        sf.train(
            nets[-1], X, y, epochs=1, batch_size=4,
            factoring=sf.Factoring(0.25, force=True, pretrain_fraction=0.3, recompose=False), callbacks=callbacks,
        )  # fmt: skip
        if callbacks:
            left = nets[-1].parameters.copy()
    assert nets[0].is_factored and not nets[1].is_factored
    at_the_switch = network()
    sf.train(
        at_the_switch, X, y, epochs=1, batch_size=4, factoring=sf.Factoring(0.25, force=True, pretrain_fraction=0.3),
        callbacks=[stop_at_the_switch],
    )  # fmt: skip
    assert not np.allclose(left, at_the_switch.parameters)


def stop_at_the_switch(event):
    if event.kind == "switch":
        raise sf.StopTraining


# ---- what a result shows


def test_a_result_is_one_line_and_a_table():
    X, y = samples()
    result = sf.train(network(), X, y, epochs=14, batch_size=16, validation=(X, y), factoring=sf.Factoring([4, 3], force=True))
    line = repr(result)
    assert "\n" not in line and len(line) < 140
    assert line.startswith("<TrainingResult 14 epochs, 42 steps in ") and f"val_loss {result.history[-1]['val_loss']:.4g}" in line
    html = result._repr_html_()
    assert html.count("<tr>") == 1 + 5 + 1 + 5 and html.count("<th>") == 8
    assert "&lt;TrainingResult 14 epochs" in html and "nan" not in html
    assert f"<td>{result.history[0]['loss']:.4g}</td>" in html and f"<td>{result.history[-1]['loss']:.4g}</td>" in html


def test_no_row_of_the_history_is_of_no_epoch():
    X, y = samples()
    result = sf.train(network(), X, y, epochs=4, batch_size=16, validation=(X, y), factoring=sf.Factoring([4, 3], force=True))
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4] and result.events[-1].kind == "recompose"
    assert all(math.isfinite(row[name]) for row in result.history for name in ("loss", "learning_rate", "val_loss"))


def test_a_result_as_a_frame():
    pytest.importorskip("pandas", reason="pandas is not there")
    X, y = samples()
    result = sf.train(network(), X, y, epochs=3, batch_size=16, validation=(X, y), factoring=None)
    frame = result.to_frame()
    assert list(frame.index) == [1, 2, 3] and frame.index.name == "epoch"
    assert list(frame.columns) == list(result.history[0])[1:]
    assert frame["val_loss"].tolist() == [row["val_loss"] for row in result.history]
    empty = sf.TrainingResult(network())
    assert len(empty.to_frame()) == 0 and empty.to_frame().index.name == "epoch"
    assert repr(empty) == "<TrainingResult 0 epochs, 0 steps in 0 s>"
    assert empty._repr_html_() == "<p>&lt;TrainingResult 0 epochs, 0 steps in 0 s&gt;</p>"


def test_a_frame_needs_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'to_frame needs pandas: pip install "svdfast\[demo\]"'):
        sf.TrainingResult(network()).to_frame()


# ---- names


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("adam", sf.Adam(sf.schedules.Cooldown(1e-3))),
        ("adamw", sf.AdamW(sf.schedules.Cooldown(1e-3))),
        ("sgd", sf.GradientDescent(sf.schedules.Cooldown(1e-2))),
    ],
)
def test_optimizers_by_name(name, own):
    X, y = samples()
    by_name, by_object = network(), network()
    result = sf.train(by_name, X, y, epochs=4, batch_size=16, optimizer=name)
    sf.train(by_object, X, y, epochs=4, batch_size=16, optimizer=own)
    np.testing.assert_array_equal(by_name.parameters, by_object.parameters)
    assert result.history[-1]["learning_rate"] == own.schedule(11, 12)


def test_a_training_by_name_goes_on_from_its_checkpoint(tmp_path):
    X, y = samples()
    path = tmp_path / "run.ckpt"
    net = network()
    sf.train(net, X, y, epochs=2, batch_size=16, optimizer="adamw", checkpoint=path)
    np.testing.assert_array_equal(sf.resume(path, X, y).network.parameters, net.parameters)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (dict(optimizer="Adam"), ValueError, "optimizer: expected one of adam, adamw, sgd, got 'Adam'; write 'adam'"),
        (dict(optimizer="gradient_descent"), ValueError, "got 'gradient_descent'; write 'sgd'"),
        (dict(optimizer="rmsprop"), ValueError, "optimizer: expected one of adam, adamw, sgd, got 'rmsprop'$"),
        (dict(optimizer=sf.Adam), TypeError, "optimizer: expected an Optimizer or its name, got type"),
        (dict(loss="mse"), ValueError, "loss: expected one of .*, got 'mse'; write 'mean_squared_error'"),
        (dict(loss="ce"), ValueError, "got 'ce'; write 'cross_entropy'"),
        (dict(loss="poisson"), ValueError, 'loss: poisson needs a network with output="exp"'),
        (dict(loss="MAE"), ValueError, "got 'MAE'; write 'mean_absolute_error'"),
        (dict(loss="sparse_categorical_crossentropy"), ValueError, "write 'cross_entropy'"),
        (dict(loss="mean_squard_error"), ValueError, "got 'mean_squard_error'; write 'mean_squared_error'"),
        (dict(loss="hinge"), ValueError, "got 'hinge'$"),
        (dict(loss="x" * 10**6), ValueError, "loss: expected one of "),
    ],
)
def test_other_names_are_answered_with_what_to_write(given, error, message):
    X, y = samples()
    with pytest.raises(error, match=message) as raised:
        sf.train(network(), X, y, **given)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(hidden="linear"), "hidden: expected one of .*, got 'linear'; write 'identity'"),
        (dict(hidden=["relu", "LeakyReLU"]), "got 'LeakyReLU'; write 'leaky_relu'"),
        (dict(output="logistic"), "output: expected one of .*, got 'logistic'; write 'sigmoid'"),
        (dict(output="sofmax"), "got 'sofmax'; write 'softmax'"),
        (dict(output="maxout"), "got 'maxout'$"),
    ],
)
def test_other_names_of_activations_too(given, message):
    with pytest.raises(ValueError, match=message):
        network(**given)
