# SPDX-License-Identifier: BSD-3-Clause
"""Convolutions and pools of any shape against plain ones: by our own products, which read patches where they lie, and by BLAS, for which
patches are formed."""

import itertools

import numpy as np
import pytest

import svdfast as sf
from svdfast import _blas
from svdfast import layers as L


def shapes():
    """(height, width, channels), channels out, kernel, stride, padding, images"""
    rng = np.random.default_rng(0)
    for _ in range(24):
        height, width = int(rng.integers(1, 36)), int(rng.integers(1, 36))
        kernel = int(rng.integers(1, min(height, 6) + 1)), int(rng.integers(1, min(width, 6) + 1))
        padding = [(int(rng.integers(kernel[0])), int(rng.integers(kernel[1]))), "same", "valid"][rng.integers(3)]
        stride = (1, 1) if rng.random() < 0.5 else (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        channels, n = int(rng.choice([1, 2, 3, 5, 16, 20, 66])), int(rng.choice([1, 6, 8, 9, 16, 17, 40]))
        yield (height, width, channels), n, kernel, stride, padding, 3
    yield (150, 150, 4), 9, (3, 3), (1, 1), "same", 2  # an image that does not stay in the cache
    yield (150, 150, 4), 9, (5, 4), (3, 2), "valid", 2
    yield (4, 6000, 4), 3, (3, 3), (1, 1), "same", 1  # nor three lines of it
    yield (5, 5, 130), 130, (5, 5), (1, 1), "same", 2  # rows of the kernel that are deeper than a panel
    yield (3, 900, 1), 2, (1, 3), (1, 1), "same", 2  # more places in a row than that
    yield (60, 1, 8), 9, (3, 1), (2, 1), "same", 3  # a column of positions
    yield (60, 1, 8), 9, (3, 1), (1, 1), (2, 0), 3
    yield (60, 1, 8), 9, (2, 2), (1, 1), (1, 1), 3  # and a kernel that is wider
    yield (2, 2, 20), 9, (3, 3), (1, 1), "same", 3  # few places


CASES = list(shapes())


def network(case, dtype):
    shape, n, kernel, stride, padding, _ = case
    # The one before makes the way back go through the convolution.
    made = [L.Conv2d(shape[2], 1, "tanh"), L.Conv2d(n, kernel, "tanh", stride=stride, padding=padding), L.GlobalAvgPool(), L.Linear(3)]
    return sf.Network(sf.Input(*shape), made, seed=1, dtype=dtype)


@pytest.mark.parametrize("i", range(len(CASES)))
def test_convolutions(i, products):
    case, rng = CASES[i], np.random.default_rng(i)
    exact, net = network(case, "float64"), network(case, "float32")
    net.parameters[:] = exact.parameters
    X, y = rng.standard_normal((case[-1], *case[0])).astype("float32"), rng.standard_normal((case[-1], 3)).astype("float32")
    np.testing.assert_allclose(net.predict(X), exact.predict(X), rtol=1e-4, atol=1e-5)
    found, expected = net.loss_and_gradient(X, y)[1], exact.loss_and_gradient(X, y)[1]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * max(1, np.abs(expected).max()))


def test_an_image_gives_the_same_bits_whatever_is_beside_it(products):
    if _blas.float32_products() == "BLAS":
        pytest.skip("what BLAS gives depends on how many rows there are")
    # Of 42,000 numbers a patch: three at a time are formed, of 49 places.
    net = sf.Network(sf.Input(12, 13, 1000), [L.Conv2d(3, (6, 7)), L.Flatten(), L.Linear(3)], seed=0)
    X = np.random.default_rng(0).standard_normal((6, 12, 13, 1000)).astype("float32")
    found = [net.predict(X[:n], n_threads=1)[:5] for n in (5, 6)]
    np.testing.assert_array_equal(*found)


KINDS = [(L.MaxPool2d, np.nanmax), (L.AvgPool2d, np.nanmean)]
POOLS = list(itertools.product(KINDS, [1, 3, 6, 8, 17, 70], [(2, None, "valid"), (3, 2, "same")]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("i", range(len(POOLS)))
def test_pools(i, dtype):
    (pool, largest_or_mean), c, (size, stride, padding) = POOLS[i]
    X = np.random.default_rng(i).integers(0, 4, (2, 7, 9, c)).astype(dtype)  # has many that are the largest
    net = sf.Network(sf.Input(7, 9, c), [pool(size, stride, padding), L.Flatten(), L.Linear(1)], seed=0, dtype=dtype)
    stride, before = stride or size, (size - 1) // 2 if padding == "same" else 0
    rows, columns = (-(-7 // stride), -(-9 // stride)) if padding == "same" else (7 // size, 9 // size)
    under = np.full((2, rows, columns, size, size, c), np.nan)
    for row, column, k, j in itertools.product(range(rows), range(columns), range(size), range(size)):
        y, x = row * stride - before + k, column * stride - before + j
        if 0 <= y < 7 and 0 <= x < 9:
            under[:, row, column, k, j] = X[:, y, x]
    expected = largest_or_mean(under.reshape(2, rows, columns, -1, c), axis=3).reshape(2, -1)
    np.testing.assert_allclose(net.predict(X), expected @ net.layers[0].W.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("c", [1, 6, 8])
@pytest.mark.parametrize("pool", [L.MaxPool2d, L.AvgPool2d])
def test_not_a_number_comes_through(c, pool):
    net = sf.Network(sf.Input(4, 4, c), [L.Conv2d(c, 1), pool(2), L.Flatten(), L.Linear(1)], seed=0)
    net.layers[0].b[0] = np.nan
    assert np.isnan(net.predict(np.ones((1, 4, 4, c), "float32"))).all()
