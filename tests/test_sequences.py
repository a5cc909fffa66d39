# SPDX-License-Identifier: BSD-3-Clause
"""Sequences as arrays: windows of a long one, and padding."""

import numpy as np
import pytest

from svdfast.sequences import padded, streams


@pytest.mark.parametrize("n", [25, 26, 36])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_windows_continue_each_other(n, shape):
    sequence = np.random.default_rng(0).normal(size=(n, *shape))
    X, y = streams(sequence, steps=4, batch_size=3)
    assert X.shape == y.shape == (6, 4, *shape)
    for row in range(3):
        np.testing.assert_array_equal(np.concatenate(X[row::3]), sequence[row * 8 : row * 8 + 8])
        np.testing.assert_array_equal(np.concatenate(y[row::3]), sequence[row * 8 + 1 : row * 8 + 9])
    X[:] = 0
    assert sequence.all()


def test_types_stay():
    X, y = streams(np.arange(9, dtype="uint8"), 4, 2)
    assert X.dtype == y.dtype == np.uint8
    array, weights = padded([np.zeros((2, 3), "float32"), np.ones((0, 3), "float32")], steps=4)
    assert (array.shape, array.dtype, weights.tolist()) == ((2, 4, 3), np.float32, [[1, 1, 0, 0], [0, 0, 0, 0]])
    assert padded([[1], [0.5, 2]])[0].tolist() == [[1, 0], [0.5, 2]]


WRONG = [
    (lambda: streams(np.zeros(24), 4, 6), ValueError, "sequence: expected at least 25 elements for 6 rows of 4 steps, got 24"),
    (lambda: streams([], 1, 1), ValueError, "sequence: expected at least 2 elements"),
    (lambda: streams(np.zeros((9, 1, 1)), 1, 1), ValueError, r"sequence: expected shape \(n,\) or \(n, n_features\), got \(9, 1, 1\)"),
    (lambda: streams("text", 1, 1), TypeError, "sequence: expected real numbers"),
    (lambda: streams(np.zeros(9), 0, 1), ValueError, "steps: expected an integer ≥ 1, got 0"),
    (lambda: streams(np.zeros(9), 1, 1.5), TypeError, "batch_size: expected an integer, got float"),
    (lambda: padded([]), ValueError, "sequences: expected at least one, got none"),
    (lambda: padded(5), TypeError, "sequences: expected a list of arrays, got int"),
    (lambda: padded([5, 6]), ValueError, r"sequences\[0\]: expected shape \(n,\) or \(n, n_features\), got \(\)"),
    (lambda: padded({0: [5]}), ValueError, r"sequences\[0\]: expected shape \(n,\) or \(n, n_features\), got \(\)"),
    (lambda: padded([[1, 2], [[1, 2]]]), ValueError, r"sequences\[1\]: expected shape \(n,\), got \(1, 2\)"),
    (lambda: padded([np.zeros((2, 3)), np.zeros((2, 4))]), ValueError, r"sequences\[1\]: expected shape \(n, 3\), got \(2, 4\)"),
    (lambda: padded([np.zeros((2, 3, 4))]), ValueError, r"sequences\[0\]: expected shape \(n,\) or \(n, n_features\), got \(2, 3, 4\)"),
    (lambda: padded([1] for _ in range(2)), TypeError, "sequences: expected a list of arrays, got generator"),
    (lambda: padded([[1, 2]], steps=10**14), MemoryError, "steps"),
    (lambda: padded([[1, 2], [1]], steps=1), ValueError, "steps: expected at least 2, the length of the longest sequence, got 1"),
]


@pytest.mark.parametrize("i", range(len(WRONG)))
def test_what_can_not_be(i):
    make, error, message = WRONG[i]
    with pytest.raises(error, match=message):
        make()
