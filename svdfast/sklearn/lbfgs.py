# SPDX-License-Identifier: BSD-3-Clause
"""The solver "lbfgs": L-BFGS over all samples at once, dense for a share φ, then factored.

Elsewhere: training by epochs (descent.py), and L-BFGS itself, which is SciPy's.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from svdfast.model.ranks import Fraction, without_bottlenecks
from svdfast.sklearn.scale import loss_scale

if TYPE_CHECKING:
    from svdfast.sklearn.descent import Data
    from svdfast.sklearn.estimator import SVDMLP

__all__ = ["minimise"]


def minimise(model: SVDMLP, data: Data) -> None:
    """Trains the model's network, and records `n_iter_` and `loss_`."""
    net = model.network_
    c = loss_scale(net)
    X = data.X

    def loss_and_gradient(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        net.parameters[:] = w
        value, gradient = net.loss_and_gradient(
            X, data.targets, sample_weight=data.weight, l2=c * model.alpha, precision=model.precision, n_threads=model.n_threads
        )
        return value / c, gradient.astype(np.float64) / c

    def run(max_iter: int, max_fun: int) -> Any:
        found = scipy.optimize.minimize(
            loss_and_gradient,
            net.parameters.astype(np.float64),
            method="L-BFGS-B",
            jac=True,
            options={"maxiter": max_iter, "maxfun": max_fun, "gtol": model.tol},
        )
        net.parameters[:] = found.x
        model.n_iter_ += found.nit
        model.loss_ = float(found.fun)
        return found

    ranks, hidden = model._ranks(), net.layout.factorable
    if ranks == "auto":
        ranks = None
    elif isinstance(ranks, float):
        ranks = without_bottlenecks(Fraction(ranks)(hidden, ()), hidden)
    model._begin()
    # With nothing to factor, a second start would only lose the curvature found so far.
    whole = ranks in (None, [None] * len(hidden))
    dense = model.max_iter if whole else round(model._share() * model.max_iter)
    found = run(dense, model.max_fun) if dense > 0 else None
    if dense < model.max_iter and (found is None or found.status == 1):
        net.truncate(ranks=ranks, inputs=X, sample_weight=data.weight)
        found = run(model.max_iter - dense, max(model.max_fun - (0 if found is None else found.nfev), 1))
        net.recompose()
    if found is not None and found.status == 1:
        warnings.warn(
            f"lbfgs failed to converge after {model.n_iter_} iterations: {found.message}", ConvergenceWarning, stacklevel=4
        )
