# SPDX-License-Identifier: BSD-3-Clause
"""SVDMLPRegressor: numbers or counts as targets.

Elsewhere: the parts that both estimators share (estimator.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin

from svdfast._process.checks import one_of
from svdfast.model.heads import COUNTS, NUMBERS, Head
from svdfast.sklearn.estimator import SVDMLP

__all__ = ["SVDMLPRegressor"]

_HEADS = {"squared_error": NUMBERS, "poisson": COUNTS}


@dataclass(repr=False, eq=False)
class SVDMLPRegressor(RegressorMixin, SVDMLP):  # type: ignore[misc]
    """A regressor whose hidden layers are factored while it trains.

    It replaces scikit-learn's MLPRegressor. The validation score is R². Parameters, attributes and
    errors are those of `SVDMLPClassifier`, with `loss` and without `class_weight` and `classes_`.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}
        Half the squared error, or half the Poisson deviance, summed over outputs. "poisson" takes
        targets ≥ 0, and the output's activation is then exp. scikit-learn has this parameter since
        1.7, as its first; here it is a keyword.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from svdfast.sklearn import SVDMLPRegressor
    >>> X, y = make_regression(n_samples=500, n_features=40, random_state=0)
    >>> y = (y - y.mean()) / y.std()
    >>> model = SVDMLPRegressor((200, 200), rank_fraction=0.25, random_state=0)
    >>> model = model.fit(X[:400], y[:400])
    >>> model.score(X[400:], y[400:]) > 0.9
    True
    """

    loss: str = field(default="squared_error", kw_only=True)

    def _check(self) -> None:
        super()._check()
        one_of("loss", self.loss, tuple(_HEADS))

    def _encode(
        self, y: Any, first: bool, goes_on: bool, classes: ArrayLike | None
    ) -> tuple[NDArray[Any], int, Head]:
        if self.loss == "poisson" and y.min() < 0:
            raise ValueError(f'y: expected counts or rates ≥ 0 for loss="poisson", got {y.min()}; loss="squared_error" takes any numbers')
        return y, 1 if y.ndim == 1 else y.shape[1], _HEADS[self.loss]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predicts the targets.

        Parameters
        ----------
        X : array_like or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples,) or (n_samples, n_outputs)
            The network's dtype.
        """
        out = self._outputs(X)
        return out if out.shape[1] > 1 else out[:, 0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
