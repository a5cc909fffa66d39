# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the clocks in products and loops: all operations counted, all kinds of work seen, nothing left on.

Elsewhere: how long anything takes (bench/roofline.py).
"""

import time

import numpy as np
import pytest

import svdfast as sf
from svdfast import _blas, _elementwise
from svdfast._engine import SUM_ROWS
from svdfast._process.timing import timed

SIZES = (40, 32, 24, 5)
BATCHES = (1, 50, SUM_ROWS, 2 * SUM_ROWS + 3)  # by weights and by tiles, the last in tiles of two heights


def trained(net, batch, n_threads, steps=2, **settings):
    rng = np.random.default_rng(0)
    X = rng.random((batch, SIZES[0]), dtype=np.float32)
    y = rng.integers(0, SIZES[-1], batch)
    settings = {"epochs": steps, "factoring": sf.Factoring(pretrain_fraction=1, recompose=False), **settings}
    return sf.train(net, X, y, batch_size=batch, n_threads=n_threads, **settings)


def measured():
    return _blas.measured(), _elementwise.measured()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("rank_fraction", [None, 1 / 4])
def test_all_multiplications_are_counted(rank_fraction, batch, n_threads, dtype):
    net = sf.Network(SIZES, seed=0, dtype=dtype)
    if rank_fraction is not None:
        net.truncate(rank_fraction, force=True)
    with timed() as times:
        trained(net, batch, n_threads)
    assert times.operations == 2 * 2 * batch * sf.count_multiplications(net).total


def test_every_kind_of_work_is_seen_and_no_more_than_there_is():
    net = sf.Network((200, 100, 5), seed=0)
    X = np.random.default_rng(0).integers(0, 256, (512, 200), dtype=np.uint8)  # to be gathered, and scaled
    y = np.zeros(512, dtype=np.int32)
    start = time.perf_counter()
    with timed() as times:
        sf.train(net, X, y, epochs=2, batch_size=128, factoring=None, n_threads=1)
    wall = time.perf_counter() - start
    parts = times.products, times.elementwise, times.gather, times.update
    assert min(parts) > 0
    assert sum(parts) < wall


def test_timing_changes_no_result():
    results = []
    for _ in range(2):
        net = sf.Network(SIZES, seed=0)
        trained(net, 50, 2)
        results.append(net.parameters.copy())
        with timed():
            net = sf.Network(SIZES, seed=0)
            trained(net, 50, 2)
        results.append(net.parameters.copy())
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_nothing_is_left_on():
    net = sf.Network(SIZES, seed=0)

    def fail(event):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), timed() as times:
        trained(net, 50, 2, callbacks=[fail])
    assert times.operations == 2 * 50 * sf.count_multiplications(net).total  # of the step before
    before = measured()
    trained(net, 50, 2)
    assert measured() == before
    with timed() as times:
        pass
    assert measured() == ((0, 0), (0, 0, 0))
    assert times.products == times.operations == 0


def test_one_at_a_time():
    with timed() as times:
        with pytest.raises(RuntimeError, match="already"), timed():
            pass
        trained(sf.Network(SIZES, seed=0), 50, 1)
    assert times.operations > 0


RULES = {
    "descent": (sf.GradientDescent(), 0),
    "momentum": (sf.GradientDescent(momentum=0.9), 1),
    "adam": (sf.Adam(), 2),
}


@pytest.mark.parametrize("name", RULES)
def test_update_refuses_what_does_not_fit(name):
    optimizer, n_moments = RULES[name]
    g, w, m, v = np.ones((4, 8), dtype=np.float32)
    moments = (m, v)[:n_moments]
    assert _elementwise.update(optimizer.rule, 0.1, 1, g, w, *moments) == 0
    for wrong in range(3):
        if wrong != n_moments:
            with pytest.raises(ValueError, match="moments"):
                _elementwise.update(optimizer.rule, 0.1, 1, g, w, *(m, v)[:wrong])
    with pytest.raises(ValueError, match="lengths"):
        _elementwise.update(optimizer.rule, 0.1, 1, g[1:], w, *moments)
    with pytest.raises(ValueError, match="t: "):
        _elementwise.update(optimizer.rule, 0.1, 0, g, w, *moments)
    with pytest.raises(ValueError, match="at least one"):
        _elementwise.update(optimizer.rule, 0.1, 1, g[:0], w[:0], *(x[:0] for x in moments))
    assert _elementwise.update(optimizer.rule, 0.1, 1, g, w, *moments, l1=1.0) > 0
