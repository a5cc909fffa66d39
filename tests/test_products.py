# SPDX-License-Identifier: BSD-3-Clause
"""Work shared among threads: right, and the same bits for any number of threads."""

import threading
import tracemalloc
import warnings

import numpy as np
import pytest

import svdfast as sf
from svdfast.model import products
from svdfast.model.evaluation import output_directions
from svdfast.training.moments import carry

pytestmark = pytest.mark.usefixtures("one_blas_thread")

RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((1100, 300)), RNG.standard_normal((300, 500))
SHARED = {
    "product": (lambda dtype: products.product(A.astype(dtype), B.astype(dtype)), A @ B),
    "product of a transposed one": (lambda dtype: products.product(A.astype(dtype).T, A.astype(dtype)), A.T @ A),
    "gram": (lambda dtype: products.gram(A.astype(dtype)), A.T @ A),
    "gram in float32": (lambda dtype: products.gram(A.astype(dtype), dtype=np.float32), A.T @ A),
    "gram of two": (lambda dtype: products.gram(A.astype(dtype), A[:, :40].astype(dtype)), A.T @ A[:, :40]),
    "sum of squares": (lambda dtype: products.sum_of_squares(A.astype(dtype)), (A**2).sum()),
    "largest": (lambda dtype: products.largest(-A.astype(dtype)), abs(A).max()),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHARED)
def test_shared_work_is_right_for_any_number_of_threads(name, dtype, monkeypatch):
    monkeypatch.setattr(products, "_FEW", 1)
    work, expected = SHARED[name]
    found = []
    for n in (1, 2, 5):
        with products.threads(n):
            found.append(np.asarray(work(dtype)))
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-3)
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_outer_block_decides_about_threads(n, monkeypatch):
    used, both = set(), threading.Barrier(n)

    def note(item):
        both.wait(timeout=10)
        used.add(threading.get_ident())

    with products.threads(n), products.threads(7):
        products.each(note, range(n))
    assert len(used) == n
    assert products._block() is None


def test_a_block_that_an_interrupt_left_behind_is_none():
    """A Ctrl-C after the block is known, and before it is to be forgotten."""
    block = products._Block(None)
    token = products._blocks.set(block)
    try:
        block.end()
        with products.threads(2):
            assert products._block() is not block
            assert products.each(abs, [-1, -2, -3]) == [1, 2, 3]
        assert products._block() is None
    finally:
        products._blocks.reset(token)


def test_a_sum_keeps_few_of_its_shares():
    """Where they are many more than one thread computes at a time."""
    ones = np.ones((30_000, 50), "float32")
    tracemalloc.start()
    try:
        products.gram(ones)
        assert tracemalloc.get_traced_memory()[1] < 40 * 50**2 * 8
    finally:
        tracemalloc.stop()


def test_errors_come_out_and_nothing_warns():
    big = np.full((600, 2), 1e38, "float32")
    with warnings.catch_warnings(), products.threads(2):
        warnings.simplefilter("error")
        assert np.isinf(products.product(big, big[:2])).all()
        assert np.isnan(products.largest(np.array([[1.0], [np.nan], [3.0]])))
        with pytest.raises(ZeroDivisionError):
            products.each(lambda item: 1 / item, [1, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank_fraction", [0.5, 0.25])
def test_a_switch_is_the_same_for_any_number_of_threads(dtype, rank_fraction):
    sizes = [200, 1100, 300, 5]
    X = RNG.standard_normal((700, 200))
    found = []
    for n in (1, 2, 3):
        net = sf.Network(sizes, dtype=dtype, seed=0)
        old, M = net.state, np.random.default_rng(0).random(net.parameters.size).astype(dtype)
        directions = output_directions(net, X, None, [50, 60], n_threads=n)
        with products.threads(n):
            net.truncate(rank_fraction, inputs=X)
            carried = carry(("mean", "square"), (M, M), old, net.state)
        found.append([a.tobytes() for a in (*directions.values(), net.parameters, *carried)])
    assert found[0] == found[1] == found[2]
