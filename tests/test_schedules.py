# SPDX-License-Identifier: BSD-3-Clause
"""Learning-rate schedules: their values, what is refused, and that training asks for each step's rate once."""

import math

import numpy as np
import pytest

import svdfast as sf
from svdfast.training.schedules import Constant, Cooldown, Cosine, StepDecay, Warmup, resolve


def test_constant():
    assert [Constant(0.3)(s, 10) for s in range(10)] == [0.3] * 10
    assert Constant(0)(0, 1) == 0


def test_step_decay():
    rate = StepDecay(2.0, factor=0.1, at=(0.5, 0.75))
    values = [rate(s, 8) for s in range(8)]
    assert values == pytest.approx([2, 2, 2, 2, 0.2, 0.2, 0.02, 0.02])
    assert StepDecay(1.0, at=())(99, 100) == 1
    # An order of the shares is not asked for, and a share of 0 counts from the first step.
    assert StepDecay(1.0, factor=0.5, at=(0.75, 0.5))(6, 8) == 0.25
    assert StepDecay(1.0, factor=0.5, at=(0.0,))(0, 8) == 0.5


def test_cosine():
    rate = Cosine(3.0, final=1.0)
    for s in range(101):
        expected = 1 + (3 - 1) * (1 + math.cos(math.pi * s / 100)) / 2
        assert rate(s, 100) == pytest.approx(expected, rel=1e-15)
    values = [rate(s, 100) for s in range(101)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 3 and values[-1] == 1
    assert Cosine(1.0)(0, 0) == 1  # no steps: no division by zero


def test_warmup():
    rate = Warmup(2.0, warmup_fraction=0.25)
    assert [rate(s, 16) for s in range(6)] == pytest.approx([0.5, 1, 1.5, 2, 2, 2])
    inner = Cosine(2.0)
    rate = Warmup(inner, warmup_fraction=0.5)
    for s in range(10):
        assert rate(s, 10) == pytest.approx(inner(s, 10) * min(1, (s + 1) / 5), rel=1e-15)
    assert Warmup(1.0, warmup_fraction=0)(0, 10) == 1
    assert Warmup(1.0, warmup_fraction=0.01)(0, 10) == 1  # rounds to no steps


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Constant(-1), ValueError),
        (lambda: Constant(np.nan), ValueError),
        (lambda: Constant("1"), TypeError),
        (lambda: Constant(True), TypeError),
        (lambda: StepDecay(-1.0), ValueError),
        (lambda: StepDecay(1.0, factor=0), ValueError),
        (lambda: StepDecay(1.0, factor=np.inf), ValueError),
        (lambda: StepDecay(1.0, at=(0.5, 1.5)), ValueError),
        (lambda: StepDecay(1.0, at=0.5), TypeError),
        (lambda: Cosine(np.inf), ValueError),
        (lambda: Cosine(1.0, final=-0.1), ValueError),
        (lambda: Warmup(-1.0), ValueError),
        (lambda: Warmup("fast"), TypeError),
        (lambda: Warmup(1.0, warmup_fraction=2), ValueError),
        (lambda: sf.schedules.ReduceOnPlateau(1.0).reduced(-1), ValueError),
        (lambda: sf.schedules.ReduceOnPlateau(1.0).reduced(0.5), TypeError),
        (lambda: resolve(-0.5), ValueError),
        (lambda: resolve(None), TypeError),
        (lambda: sf.Adam(-1.0), ValueError),
        (lambda: sf.GradientDescent("a"), TypeError),
    ],
)
def test_bad_settings_are_refused(make, error):
    with pytest.raises(error):
        make()


def test_schedules_are_values():
    assert Cosine(0.1) == Cosine(0.1) != Cosine(0.2)
    assert len({Warmup(Cosine(0.1)), Warmup(Cosine(0.1))}) == 1
    with pytest.raises(AttributeError):
        Constant(0.1).learning_rate = 0.2


def test_training_asks_for_the_rate_of_each_step():
    asked = []

    def rate(step, n_steps):
        asked.append((step, n_steps))
        return 0.01 * (step + 1)

    net = sf.Network([3, 12, 2], seed=0)
    X = np.random.default_rng(0).standard_normal((10, 3))
    result = sf.train(
        net, X, np.arange(10) % 2, epochs=3, batch_size=4, optimizer=sf.Adam(rate), factoring=sf.Factoring(1 / 4, force=True)
    )
    assert asked == [(s, 9) for s in range(9)]  # 3 batches an epoch, the last of 2 rows
    rates = [row["learning_rate"] for row in result.history]
    assert rates == pytest.approx([0.03, 0.06, 0.09])  # of the last step of each epoch


@pytest.mark.parametrize("kind", [Constant, Cooldown])
def test_a_schedule_of_the_users_own_is_asked(kind):
    """Though it is a kind of one that is constant."""

    class Own(kind):
        def __call__(self, step, n_steps):
            return 0.01 * (step + 1)

    net = sf.Network([3, 4, 2], seed=0)
    X = np.random.default_rng(0).standard_normal((10, 3))
    result = sf.train(net, X, np.arange(10) % 2, epochs=4, batch_size=4, optimizer=sf.Adam(Own(0.1)), factoring=None)
    assert [row["learning_rate"] for row in result.history] == pytest.approx([0.03, 0.06, 0.09, 0.12])


def test_a_rate_of_zero_changes_nothing():
    X = np.random.default_rng(0).standard_normal((10, 3))
    optimizers = (
        sf.GradientDescent(0.0, momentum=0.9),
        sf.Adam(0.0),
        sf.AdamW(0.0, weight_decay=0.5),
    )
    for optimizer in optimizers:
        net = sf.Network([3, 4, 2], seed=0)
        before = net.parameters.copy()
        sf.train(net, X, np.arange(10) % 2, epochs=2, factoring=None, optimizer=optimizer)
        np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("make", [sf.schedules.Cooldown, sf.schedules.StepDecay, sf.schedules.Cosine, sf.schedules.Warmup])
def test_steps_are_integers(make):
    make(0.1)(-1, -10)  # is no step, and no division by zero
    assert make(0.1)(np.int64(3), 10) == make(0.1)(3, 10)
    for wrong in (1.5, "1", None, np.ones(2)):
        with pytest.raises(TypeError):
            make(0.1)(wrong, 10)
        with pytest.raises(TypeError):
            make(0.1)(1, wrong)


@pytest.mark.parametrize(("fraction", "after"), [(0.0, 1.0), (0.3, 0.0)])
def test_a_cooldown_after_the_last_step(fraction, after):
    """Is no step, and no division by zero."""
    rate = sf.schedules.Cooldown(1.0, cooldown_fraction=fraction)
    assert (rate(11, 10), rate(1, 0)) == (after, 1.0)
