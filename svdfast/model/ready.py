# SPDX-License-Identifier: BSD-3-Clause
"""Engines that a network keeps for predictions of few samples: to make one takes longer than such a prediction.

Not here: what a prediction is, and samples that are many, of other types, or not in one plain array (evaluation.py).
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from svdfast._blas import float32_products
from svdfast._engine import Engine
from svdfast._process.runtime import resolve_threads, single_threaded_blas
from svdfast.data.checks import CODES, Inputs
from svdfast.model.counting import count_multiplications
from svdfast.model.layout import Layout

__all__ = ["Ready"]

# Samples that a kept engine takes at most, and numbers that it may hold for them.
ROWS, NUMBERS = 64, 1 << 18
# Engines that are kept, one for each thread that predicts at the same time.
MOST = 8
# Multiplications, as an engine counts them, up to which it uses one thread whatever number it was made for.
ONE_THREAD = 666_666


class Ready:
    """Of one state of a network.

    Parameters
    ----------
    state : tuple
        `Network.state`. An engine reads its parameters in place, so a change of them needs no other.
    """

    def __init__(self, state: tuple[Layout, NDArray[Any]]):
        self.state = state
        layout, parameters = state
        self.dtype, self.n_in, self.shape = parameters.dtype, layout.sizes[0], layout.output_shape
        self.precisions = None, self.dtype.name
        n_numbers = sum(value.size for value in layout.program.values)
        self.rows = 0 if layout.n_tokens or layout.any_steps else min(ROWS, NUMBERS // n_numbers)
        self.alone = ONE_THREAD // max(1, count_multiplications(layout, "forward").total)
        self._engines: list[tuple[int, Engine]] = []

    def takes(self, X: Any, out: Any) -> TypeGuard[NDArray[Any]]:
        """Whether these samples are predicted here, to this array, or to a new one."""
        fits: bool = (
            type(X) is np.ndarray
            and X.dtype == self.dtype
            and X.ndim == 2
            and 0 < X.shape[0] <= self.rows
            and X.shape[1] == self.n_in
            and X.flags.c_contiguous
            and X.flags.aligned
        )
        if out is None or not fits:
            return fits
        return (
            type(out) is np.ndarray
            and out.dtype == self.dtype
            and out.shape == (len(X), *self.shape)
            and out.flags.carray
            and not np.may_share_memory(out, X)
            and not np.may_share_memory(out, self.state[1])
        )

    def predict(self, X: NDArray[Any], out: NDArray[Any] | None, n_threads: int | None) -> NDArray[Any]:
        """The outputs of samples, as `Network.predict` gives them."""
        if out is None:
            out = np.empty((len(X), *self.shape), self.dtype)
        n_threads = 1 if n_threads is None and len(X) <= self.alone else resolve_threads(n_threads)
        # A thread that comes meanwhile finds another engine, or makes its own.
        try:
            made_for, engine = self._engines.pop()
        except IndexError:
            made_for = 0
        if made_for != n_threads:
            layout, parameters = self.state
            engine = Engine(layout, parameters, gradients=False, batch_size=self.rows, n_threads=n_threads)
        try:
            engine.bind(Inputs(X, CODES[self.dtype], 1.0))
            if self.dtype.itemsize == 8 or float32_products() == "BLAS":
                with single_threaded_blas.held():
                    engine.predict(out)
            else:
                engine.predict(out)
        finally:
            engine.release()
        if len(self._engines) < MOST:
            self._engines.append((n_threads, engine))
        return out
