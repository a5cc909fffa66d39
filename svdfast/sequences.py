# SPDX-License-Identifier: BSD-3-Clause
"""Turns sequences into arrays for training: a long one into windows, several into a padded array.

Elsewhere: the layers that take them (layers.py), and the training that carries their state from
window to window (`train`).
"""

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdfast._process.checks import count, real_array, room

__all__ = ["padded", "streams"]


def streams(sequence: ArrayLike, steps: int, batch_size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Splits a long sequence into windows for `train` with `batch_size` and `carry_state=True`.

    The sequence is split into `batch_size` stretches of equal length, and each stretch into
    windows. Batch k has the k-th window of each stretch, so each row of a batch continues the same
    row of the batch before. The remainder at the sequence's end, fewer than batch_size · steps + 1
    elements, is dropped.

    Parameters
    ----------
    sequence : array_like (n,) or (n, n_features)
        Tokens for an `Embedding`, or features.
    steps : int
        Length of a window.
    batch_size : int
        Number of stretches.

    Returns
    -------
    X : ndarray (n_windows, steps) or (n_windows, steps, n_features)
        New memory; n_windows is a multiple of batch_size.
    y : ndarray
        Same as X, with each element replaced by the next one.

    Raises
    ------
    TypeError, ValueError
        The sequence is of another shape, or has fewer than batch_size · steps + 1 elements.

    Examples
    --------
    >>> import numpy as np
    >>> from svdfast.sequences import streams
    >>> X, y = streams(np.arange(14), steps=3, batch_size=2)
    >>> X
    array([[ 0,  1,  2],
           [ 6,  7,  8],
           [ 3,  4,  5],
           [ 9, 10, 11]])
    >>> y[:2]
    array([[1, 2, 3],
           [7, 8, 9]])
    """
    array = real_array("sequence", sequence)
    steps, rows = count("steps", steps), count("batch_size", batch_size)
    if array.ndim not in (1, 2):
        raise ValueError(f"sequence: expected shape (n,) or (n, n_features), got {array.shape}")
    windows = (len(array) - 1) // (rows * steps)
    if windows < 1:
        raise ValueError(f"sequence: expected at least {rows * steps + 1} elements for {rows} rows of {steps} steps, got {len(array)}")

    def cut(part: NDArray[Any]) -> NDArray[Any]:
        by_row = part[: rows * windows * steps].reshape(rows, windows, steps, *part.shape[1:])
        return by_row.swapaxes(0, 1).reshape(windows * rows, steps, *part.shape[1:])

    return cut(array[:-1]), cut(array[1:])


def padded(sequences: Collection[ArrayLike], steps: int | None = None) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Sequences of several lengths as one array, with zeros at their ends, and weights that are 0 there.

    The weights are the `sample_weight` of a network with an output after each step. With
    `layers.Masking` as the first layer, recurrent layers skip the padding. A step whose features
    are all 0 then counts as padding.

    Parameters
    ----------
    sequences : list of array_like (n,) or (n, n_features)
        Inputs, or targets of each step.
    steps : int, optional
        Length of the padded sequences, by default that of the longest.

    Returns
    -------
    padded : ndarray (n_sequences, steps) or (n_sequences, steps, n_features)
    weights : ndarray (n_sequences, steps), float32
        1 for the steps of a sequence, 0 after its end.

    Raises
    ------
    TypeError, ValueError
        There is no sequence, one is longer than `steps`, or they differ in more than their lengths.

    Examples
    --------
    >>> from svdfast.sequences import padded
    >>> y, weights = padded([[1, 2, 3], [4]])
    >>> y
    array([[1, 2, 3],
           [4, 0, 0]])
    >>> weights
    array([[1., 1., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    if not isinstance(sequences, Collection):
        raise TypeError(f"sequences: expected a list of arrays, got {type(sequences).__name__}")
    arrays = [real_array(f"sequences[{i}]", sequence) for i, sequence in enumerate(sequences)]
    if not arrays:
        raise ValueError("sequences: expected at least one, got none")
    features = ", ".join(map(str, arrays[0].shape[1:]))
    wanted = {1: "(n,)", 2: f"(n, {features})"}.get(arrays[0].ndim)
    for i, array in enumerate(arrays):
        if wanted is None or array.ndim != arrays[0].ndim or array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(f"sequences[{i}]: expected shape {wanted or '(n,) or (n, n_features)'}, got {array.shape}")
    longest = max(map(len, arrays))
    steps = longest if steps is None else count("steps", steps)
    if longest > steps:
        raise ValueError(f"steps: expected at least {longest}, the length of the longest sequence, got {steps}")
    room("steps", len(arrays) * steps * (4 + 8 * math.prod(arrays[0].shape[1:])))
    result = np.zeros((len(arrays), steps, *arrays[0].shape[1:]), np.result_type(*arrays))
    weights = np.zeros((len(arrays), steps), np.float32)
    for i, array in enumerate(arrays):
        result[i, : len(array)] = array
        weights[i, : len(array)] = 1
    return result, weights
