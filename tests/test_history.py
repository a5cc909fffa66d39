# SPDX-License-Identifier: BSD-3-Clause
"""A history's rows are what was appended, in little memory; epochs of one batch are the same done one by one or by one call."""

import tracemalloc
from array import array

import numpy as np
import pytest

import svdfast as sf
from svdfast.training import loop
from svdfast.training.history import History

ROWS = [{"epoch": i, "phase": "dense", "loss": 1 / i, "val_accuracy": None} for i in range(1, 6)]


def test_rows():
    history = History(ROWS)
    assert len(history) == 5 and list(history) == ROWS == history
    assert history[1] == history[-4] == ROWS[1] and history[1:4:2] == ROWS[1:4:2]
    assert history != ROWS[:4] and history != History(ROWS[:4]) and history != 5
    assert repr(history) == repr(ROWS) and ROWS[2] in history
    assert isinstance(history[0]["epoch"], int) and isinstance(history[0]["loss"], float)


def test_no_rows():
    history = History()
    assert len(history) == 0 and list(history) == [] and not history and history[:3] == []
    with pytest.raises(IndexError):
        history[0]


def test_rows_with_names_of_their_own():
    rows = [*ROWS, {"epoch": 6, "mine": {"a": 1}}, {**ROWS[0], "mine": None}, ROWS[1]]
    history = History(rows)
    assert history == rows and list(history[5]) == ["epoch", "mine"] and len(history) == 8


def test_the_last_row_replaced():
    history = History(ROWS)
    history.replace_last({**ROWS[-1], "mine": [1, 2]})
    assert history == [*ROWS[:-1], {**ROWS[-1], "mine": [1, 2]}]
    history.replace_last(ROWS[-1])
    assert history == ROWS


def test_arrays_of_callbacks():
    """They do not compare as other values."""
    history = History(ROWS)
    for _ in range(2):
        history.replace_last({**ROWS[-1], "mine": np.arange(3)})
    assert history[-1]["mine"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [None, "text", 7, np.float32(0.5), True])
def test_values_of_another_type_stay_what_they_are(value):
    history = History(ROWS)
    history.append({**ROWS[0], "loss": value})
    assert history[-1]["loss"] is value and history[:5] == ROWS


def test_rows_take_little_memory():
    tracemalloc.start()
    net = sf.Network([2, 3, 1], output="sigmoid", seed=0)
    X, y = sf.datasets.load("xor").train
    before = tracemalloc.get_traced_memory()[0]
    result = sf.train(net, X, y, epochs=20_000, factoring=None)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(result.history) == 20_000 and taken < 100 * 20_000


@pytest.mark.parametrize(
    "schedule",
    [0.01, sf.schedules.Cooldown(0.01), sf.schedules.Cosine(0.01), sf.schedules.StepDecay(0.01)],
)
@pytest.mark.parametrize("optimizer", [sf.Adam, sf.GradientDescent])
@pytest.mark.parametrize("factoring", [None, 0.5])
def test_epochs_by_one_call(monkeypatch, schedule, optimizer, factoring):
    def train():
        rng = np.random.default_rng(0)
        net = sf.Network([8, 12, 12, 3], seed=0)
        return sf.train(
            net,
            rng.random((20, 8)),
            rng.integers(0, 3, 20),
            epochs=333,
            optimizer=optimizer(schedule),
            factoring=factoring,
            l2=1e-3,
        )

    at_once = train()
    calls = []
    monkeypatch.setattr(loop.Loop, "_at_once", lambda *_: calls.append(1) or 0)
    one_by_one = train()
    assert len(calls) == 333 and at_once.n_steps == one_by_one.n_steps == 333
    np.testing.assert_array_equal(at_once.network.parameters, one_by_one.network.parameters)
    for a, b in zip(at_once.history, one_by_one.history, strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}
    assert [phase["steps"] for phase in at_once.phases] == [
        phase["steps"] for phase in one_by_one.phases
    ]
    assert at_once.seconds >= 0.99 * sum(row["seconds"] for row in at_once.history) > 0


def test_a_loss_that_blows_up(monkeypatch):
    X, y = np.full((4, 2), 1e20), np.full((4, 1), 1e30)

    def train():
        net = sf.Network([2, 3, 1], output="identity", seed=0)
        with pytest.raises(sf.NotFinite) as error:
            sf.train(net, X, y, epochs=500, optimizer=sf.GradientDescent(1e-3), factoring=None)
        return str(error.value), error.value.step, net.parameters.copy()

    at_once = train()
    monkeypatch.setattr(loop.Loop, "_at_once", lambda *_: 0)
    one_by_one = train()
    assert at_once[:2] == one_by_one[:2]
    np.testing.assert_array_equal(at_once[2], one_by_one[2])


def test_the_engine_ends_after_a_loss_that_is_not_finite():
    net = sf.Network([2, 3, 1], output="identity", seed=0, dtype="float64")
    run = []
    plain = loop.Run.steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loop.Run,
            "steps",
            lambda self, stop, rates: run.append((self, plain(self, stop, rates))) or run[-1][1],
        )
        with pytest.raises(sf.NotFinite):
            sf.train(
                net,
                np.full((4, 2), 1e3),
                np.ones((4, 1)),
                epochs=300,
                optimizer=sf.GradientDescent(1e3),
                factoring=None,
            )
    losses = run[-1][1]
    assert (
        isinstance(losses, array) and not np.isfinite(losses[-1]) and np.isfinite(losses[:-1]).all()
    )
