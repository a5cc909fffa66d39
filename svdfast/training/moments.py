# SPDX-License-Identifier: BSD-3-Clause
"""An optimizer's moments carried from one layout of a network to another.

The structure of a weight W pulls W's gradient back to the tensors that represent W. With W = W1·W2,
a gradient G becomes G·W2ᵀ for W1 and W1ᵀ·G for W2. So the mean of gradients, which is linear in
them, is carried exactly, here as

    M1 = M·W2ᵀ      M2 = W1ᵀ·M

and the mean of their squares as if the elements of G were uncorrelated, by the squares of the
tensors:

    V1 = V·(W2∘W2)ᵀ      V2 = (W1∘W1)ᵀ·V

The way back is the structure's own, `lift` (svdfast/model/structures).

The absolute value of a mean is at most the root of the mean of squares. After carrying, V may be
far too small for M if gradients are correlated, or zero where M is not. Adam's step M/√V could then
be of any size. So M is clipped to ±√V: no step is larger than the learning rate.

Elsewhere: the use of the moments (optimizers.py), and when a layout changes (switch.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from svdfast._engine import aligned_zeros
from svdfast.model.products import each
from svdfast.model.structures import Array, Moment
from svdfast.model.truncation import State

__all__ = ["carry"]


def carry(kinds: Sequence[Moment], moments: Sequence[Array], old: State, new: State) -> tuple[Array, ...]:
    """Carries moments from the layout `old` to the layout `new`.

    Parameters
    ----------
    kinds : sequence of {"mean", "square"}
        For each moment, whether it is a mean of gradients or of their squares.
    moments : sequence of ndarray
    old, new : (Layout, ndarray)
        Layouts, and their parameters.

    Returns
    -------
    tuple of ndarray
    """
    old_layout, new_layout = old[0], new[0]
    result = tuple(aligned_zeros(new_layout.size, moment.dtype) for moment in moments)
    for carried, moment in zip(result, moments, strict=True):
        carried[new_layout.n_weights :] = moment[old_layout.n_weights :]
    old_t, new_t = ([[t.of(p) for t in la.weights(i)] for i in range(len(la.layers))] for la, p in (old, new))
    same = [
        before == after and all(map(np.array_equal, old_t[i], new_t[i]))
        for i, (before, after) in enumerate(zip(old_layout.structures, new_layout.structures, strict=True))
    ]

    def carry_layer(which: tuple[int, int]) -> None:
        i, k = which
        own = [tensor.of(moments[k]) for tensor in old_layout.weights(i)]
        if not same[i]:
            by = new_t[i] if kinds[k] == "mean" else [t * t for t in new_t[i]]
            own = list(new_layout.structures[i].pullback(old_layout.structures[i].lift(kinds[k], own, old_t[i]), by))
        for tensor, numbers in zip(new_layout.weights(i), own, strict=True):
            tensor.of(result[k])[...] = numbers

    each(carry_layer, [(i, k) for i in range(len(same)) for k in range(len(kinds))])
    for i, unchanged in enumerate(same):
        if not unchanged and tuple(kinds) == ("mean", "square"):
            mean, square = (moment[slice(*new_layout.groups[i])] for moment in result)
            largest = np.sqrt(square)
            np.clip(mean, -largest, largest, out=mean)
    return result
