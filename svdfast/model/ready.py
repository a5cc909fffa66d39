# SPDX-License-Identifier: BSD-3-Clause
"""Engines that a network keeps for predictions of few samples.

Making an engine takes longer than such a prediction. Outputs may differ in their last bits from
those of the same samples among others. evaluation.py predicts samples that are many, of other
types, or not in one plain array.
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

# The most samples that a kept engine takes, and the most numbers that it may hold for them.
ROWS, NUMBERS = 64, 1 << 18
# The most engines that are kept; each thread that predicts at the same time uses its own.
MOST = 8
# By default up to so many multiplications, or fewer than so many samples, use one thread: who
# predicts few samples at a time often does so in several threads, which would wait for each other.
ONE_THREAD, SEVERAL = 666_666, 10


class Ready:
    """The engines kept for one state of a network.

    Parameters
    ----------
    state : tuple
        `Network.state`. An engine reads the parameters in place, so it stays valid when they
        change.
    """

    def __init__(self, state: tuple[Layout, NDArray[Any]]):
        self.state = state
        layout, parameters = state
        self.dtype, self.n_in, self.shape = parameters.dtype, layout.sizes[0], layout.output_shape
        self.precision = self.dtype.name
        n_numbers = sum(value.size for value in layout.program.values)
        self.rows = 0 if layout.n_tokens or layout.any_steps else min(ROWS, NUMBERS // n_numbers)
        self.alone = max(SEVERAL - 1, ONE_THREAD // max(1, count_multiplications(layout, "forward").total))
        self._engines: dict[int, list[Engine]] = {}  # by their number of threads

    def is_own(self, precision: Any) -> bool:
        """Whether this, None or a name, is the precision of the parameters."""
        return precision is None or (type(precision) is str and precision == self.precision)

    def takes(self, X: Any, out: Any) -> TypeGuard[NDArray[Any]]:
        """True if `predict` can take these samples and this array for the outputs."""
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
        # A thread that comes in the meantime finds another engine, or makes its own.
        kept = self._engines.setdefault(n_threads, [])
        try:
            engine = kept.pop()
        except IndexError:
            layout, parameters = self.state
            engine = Engine(
                layout, parameters, gradients=False, batch_size=self.rows, n_threads=n_threads, few_rows_apart=True
            )
        try:
            engine.bind(Inputs(X, CODES[self.dtype], 1.0))
            if self.dtype.itemsize == 8 or float32_products() == "BLAS":
                with single_threaded_blas.held():
                    engine.predict(out)
            else:
                engine.predict(out)
        finally:
            engine.release()
        if sum(map(len, list(self._engines.values()))) < MOST:
            kept.append(engine)
        return out
