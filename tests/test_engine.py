# SPDX-License-Identifier: BSD-3-Clause
"""Tests of what only the engine's own arguments reach: chunks, tiles and threads of any size give the same numbers."""

import platform

import numpy as np
import pytest

import svdfast as sf
from svdfast import _engine
from svdfast._engine import Engine
from svdfast._process.runtime import single_threaded_blas
from svdfast.data.checks import checked_samples
from svdfast.model.evaluation import spec_of


def network(dtype):
    net = sf.Network([9, 40, 30, 5], hidden=["gelu", "tanh"], dtype=dtype, seed=0)
    net.truncate(ranks=[4, None], force=True)
    return net


def samples(n):
    rng = np.random.default_rng(1)
    return rng.standard_normal((n, 9)), rng.integers(0, 5, n)




@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("n_samples", [1, 2, 7, 65])
@pytest.mark.parametrize("sum_rows", [1, 3, 64, 1000])
@pytest.mark.parametrize("tile_rows", [1, 5, 64])
def test_chunks_and_tiles_give_the_same_gradient(n_samples, sum_rows, tile_rows, reproducible):
    net = network("float64")
    X, y = samples(n_samples)
    expected_value, expected = net.loss_and_gradient(X, y, l2=0.1, n_threads=1)
    data = checked_samples(X, y, None, spec_of(net))
    engine = Engine(
        net.layout,
        net.parameters,
        batch_size=n_samples,
        n_threads=1,
        tile_rows=tile_rows,
        sum_rows=sum_rows,
        reproducible=reproducible,
    )
    data.bind(engine)
    gradient = np.full(net.layout.size, np.nan)
    with single_threaded_blas.held():
        value = engine.gradient(0, n_samples, gradient, 0.0, 0.1)
    assert value == pytest.approx(expected_value, rel=1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.skipif(not _engine.HAS_OPENMP, reason="built without OpenMP: one thread")
@pytest.mark.parametrize("n_threads", [2, 3])
@pytest.mark.parametrize("sum_rows", [150, 1000])
@pytest.mark.parametrize("optimizer", [sf.Adam, sf.GradientDescent])
@pytest.mark.parametrize("reproducible", [False, True])
def test_chunks_and_threads_give_the_same_update(n_threads, sum_rows, optimizer, reproducible):
    X, y = samples(1000)
    ends = []
    for threads, chunk in ((1, 1000), (n_threads, sum_rows)):
        net = sf.Network([9, 400, 300, 5], dtype="float64", seed=0)
        net.truncate(ranks=[None, 20])
        data = checked_samples(X, y, None, spec_of(net))
        engine = Engine(
            net.layout, net.parameters, batch_size=1000, n_threads=threads, sum_rows=chunk, reproducible=reproducible
        )
        data.bind(engine)
        rule = optimizer(0.01)
        rule.begin("here", net.layout.size, "float64")
        engine.set_update(rule.rule, rule.moments)
        engine.set_order(np.random.default_rng(2).permutation(1000))
        with single_threaded_blas.held():
            losses = [engine.step(0, 1000, 0.01, t + 1, 0.01, 0.1) for t in range(3)]
        ends.append((losses, net.parameters.copy()))
    np.testing.assert_allclose(ends[1][0], ends[0][0], rtol=1e-10)
    np.testing.assert_allclose(ends[1][1], ends[0][1], rtol=1e-6, atol=1e-9)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only done on x86")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_samples", [10, _engine.SUM_ROWS + 1])
def test_moments_do_not_stay_below_the_normal_numbers(dtype, n_samples):
    """Inputs that are zero: no gradient for the first weight, whose moments shrink to zero, not to a denormal number."""
    net = sf.Network([3, 20, 2], dtype=dtype, seed=0)
    X, y = np.zeros((n_samples, 3)), np.arange(n_samples) % 2
    adam = sf.Adam(1e-3)
    sf.train(net, X, y, epochs=1, factoring=None, optimizer=adam)
    size = net.layers[0].W.size
    tiny = np.finfo(dtype).smallest_normal
    for moment in adam.moments:
        moment[:size] = tiny / 4
    sf.train(net, X, y, epochs=1, factoring=None, optimizer=adam)
    for moment in adam.moments:
        np.testing.assert_array_equal(moment[:size], 0)
    # Outside nothing has changed.
    assert np.asarray(tiny, dtype) / 4 > 0


def test_more_rows_than_the_engine_was_made_for_are_refused():
    net = network("float32")
    X, y = samples(20)
    data = checked_samples(X, y, None, spec_of(net))
    for gradients, rows in ((True, 11), (False, 1)):
        engine = Engine(
            net.layout, net.parameters, batch_size=10, n_threads=2, gradients=gradients
        )
        data.bind(engine)
        with pytest.raises(ValueError, match="expected at most"):
            engine.gradient(0, rows, np.zeros(net.layout.size, np.float32))
