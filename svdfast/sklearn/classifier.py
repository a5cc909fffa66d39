# SPDX-License-Identifier: BSD-3-Clause
"""SVDMLPClassifier: classes, bits and several labels as targets.

Elsewhere: the parts that both estimators share (estimator.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

from svdfast.model.heads import BITS, CLASSES, Head
from svdfast.sklearn.estimator import SVDMLP, Callback, Weigh, takes_steps

__all__ = ["SVDMLPClassifier"]


@dataclass(repr=False, eq=False)
class SVDMLPClassifier(ClassifierMixin, SVDMLP):  # type: ignore[misc]
    """A classifier whose hidden layers are factored while it trains.

    It replaces scikit-learn's MLPClassifier. A share φ of the epochs trains dense weights. Then
    each hidden weight is truncated by SVD, W ≈ W1·W2, and the factors are trained. At the end the
    network is recomposed. Layers whose factors would save no multiplications stay dense.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int
        Neurons of the hidden layers.
    activation : {"identity", "logistic", "tanh", "relu"}, or another name or Activation of svdfast.activations
        Activation of the hidden layers.
    solver : {"adam", "sgd", "lbfgs"}
    alpha : float
        The L2 penalty, (alpha/2)·Σw²/p, p the sum of the sample weights of a mini-batch; for
        factored layers over the factors' elements. (The α of the paper is `rank_fraction`.)
    batch_size : int or "auto"
        "auto": min(200, n_samples). With "lbfgs" all samples are taken at once.
    learning_rate : {"constant", "invscaling", "adaptive"}
        How the rate of "sgd" changes after epochs. "constant" does not change it. "invscaling" is η
        = η₀/(t + 1)^power_t, t the samples seen. "adaptive" divides it by 5 when the training would
        otherwise end for lack of progress.
    learning_rate_init : float
        η₀, for "adam" and "sgd".
    power_t : float
    max_iter : int
        The most epochs; with "lbfgs" the most iterations.
    shuffle : bool
        Take samples in a new order each epoch.
    random_state : int, RandomState or None
        Seed for first weights, the split of validation data, and the order of samples.
    tol : float
        The progress that counts: an epoch's loss below the best one by this, or with
        `early_stopping` a score above the best one.
    verbose : bool
        Print loss (and score) after each epoch.
    warm_start : bool
        Make `fit` continue from the weights that an earlier one left.
    momentum : float
        Momentum for "sgd", 0 ≤ momentum < 1.
    nesterovs_momentum : bool
    early_stopping : bool or EarlyStopping
        End the training when the validation score makes no progress, and take the weights of the
        best epoch. The validation data are X_val and y_val of `fit`, else a `validation_fraction`
        of the samples. An `svdfast.EarlyStopping` replaces `tol` and `n_iter_no_change`: it says
        what is watched, for how long and by how much it has to improve. With `monitor="loss"`
        nothing is split off.
    validation_fraction : float
    beta_1, beta_2, epsilon : float
        Settings of "adam".
    n_iter_no_change : int or numpy.inf
        Training ends after more epochs without progress than these; the count starts again at the
        switch to factors. Before `fit` ends a training of factors, the learning rate falls for some
        epochs, a tenth of those before; `max_iter` counts them, too.
    max_fun : int
        The most evaluations of the loss, with "lbfgs".
    rank_fraction : float, "auto" or None
        α of the paper: a layer's rank is l = max(1, ⌊α·min(n_in, n_out)⌋). A layer of at most 100
        inputs stays dense if l is less than their number: that costs accuracy and saves little.
        "auto" decides about each layer by trying a truncation and computing the loss, see
        `svdfast.train`; with "lbfgs" it factors nothing. With None (and no `rank`) nothing is
        factored.
    rank : int, sequence of int or None, or str, optional
        Replaces a number as `rank_fraction`: the rank of all hidden layers, or of each; or a rule,
        see `ranks` of `svdfast.Factoring`.
    pretrain_fraction : float, optional
        φ: the switch comes after this share of `max_iter`, by default 0.05. With "auto" the first
        look comes then, by default after 100 steps or a tenth of `max_iter`, whichever is earlier.
    dtype : {"float32", "float64"}, optional
        Precision of weights and arithmetic; by default that of X if it is one of these, else
        float64. float32 takes half the time.
    precision : {"float32", "float64", "bfloat16"}, optional
        Precision of the matrix products, see `svdfast.train`.
    n_threads : int, optional
    communicator : svdfast.distributed.Communicator, optional
        The processes that fit together, each with all samples. All make the same calls, and get the
        same model. "lbfgs" takes no communicator. Only process 0 calls callbacks, which must not
        change the network.
    checkpoint : path, optional
        File to which `fit` writes its state after each epoch. If the file exists, `fit` continues
        from it. A fit that was killed, and is called again with the same parameters and data, ends
        as it would have without the break, bit-identical. A fit that had ended gives its model
        again. A file of other parameters or other data is refused. It needs an integer
        `random_state`, and takes neither "lbfgs", `warm_start` nor `partial_fit`.
    class_weight : dict, "balanced" or None
        Multiplier of sample weights, by class; also for validation data.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
    network_ : Network
        The trained network; its outputs are in the order of `classes_`. It keeps the classes, and
        the names of the features, if there are any.
    result_ : TrainingResult or None
        The result of the last call: history, events, `explain()`. None with "lbfgs", after Ctrl-C,
        and if a training has diverged.
    coefs_, intercepts_ : list of ndarray
        Weights (n_in, n_out) and biases (n_out,) of each layer. Assignment to an item or to the
        whole list changes the model.
    n_features_in_ : int
        Columns of X.
    n_outputs_, n_layers_ : int
        Outputs of the network, and its layers, including that of the inputs.
    n_iter_ : int
        Epochs of the last call; with "lbfgs" iterations.
    t_ : int
        Samples seen.
    feature_names_in_ : ndarray of str
        Names of the columns, if X had names.
    out_activation_ : str
    loss_ : float
        Loss of the last epoch, penalty included.
    best_loss_ : float or None
        The smallest loss of an epoch. None if `early_stopping` watches validation data. "lbfgs" has
        no epochs, and so neither this attribute nor the four that follow.
    loss_curve_ : list of float
        Loss of each epoch.
    validation_scores_, validation_loss_curve_ : list of float or None
        Accuracy and loss after each epoch, if there are validation data.
    best_validation_score_ : float or None
    stopped_ : bool
        True if `early_stopping` has ended a training: further calls of `partial_fit` change
        nothing.

    Raises
    ------
    TypeError, ValueError
        In `fit`, if a parameter or the data do not fit, or weights are no longer finite.

    References
    ----------
    The paper, sections 3.3.2 and 3.3.3.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import train_test_split
    >>> from svdfast.sklearn import SVDMLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    >>> model = SVDMLPClassifier((256, 256), rank=32, tol=1e-3, random_state=0, dtype="float32")
    >>> model.fit(X_train, y_train, X_val=X_test, y_val=y_test).score(X_test, y_test) > 0.95
    True
    >>> [t.rank for t in model.result_.events[0].info["truncations"]]
    [32, 32]
    >>> model.coefs_[1].shape, len(model.validation_scores_) == model.n_iter_
    ((256, 256), True)
    """

    class_weight: Any = field(default=None, kw_only=True)

    @available_if(takes_steps)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None, *, X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None, sample_weight_val: ArrayLike | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> Self:  # fmt: skip
        """Trains for one more epoch.

        The call after the first φ·max_iter truncates to factors, which stay (`coefs_` are their
        products). With "auto" that call and those after it each look, as `fit` does, until one of
        them has truncated a layer. A look may take two hundredths of a call's time. If calls have
        few samples, no look is worth it, and all layers stay dense.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array_like (n_classes,)
            All classes that will come, in the first call; y need not have them all.
        X_val, y_val, sample_weight_val, callbacks
            As for `fit`. `early_stopping` needs validation data. The call that ends the training
            (`stopped_`) restores the best weights, and further calls change nothing.

        Returns
        -------
        self
        """
        if self.class_weight == "balanced":
            raise ValueError("class_weight: expected a dict or None in partial_fit, which does not see all samples, got 'balanced'")
        self._fit(
            X, y, sample_weight, (X_val, y_val, sample_weight_val), callbacks, goes_on=True, classes=classes
        )
        return self

    def _encode(
        self, y: Any, first: bool, goes_on: bool, classes: ArrayLike | None
    ) -> tuple[NDArray[Any], int, Head]:
        check_classification_targets(y)
        if first:
            if goes_on and classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            multilabel = type_of_target(y).startswith("multilabel")
            self._binarizer = LabelBinarizer().fit(y if classes is None or multilabel else classes)
            self.classes_ = self._binarizer.classes_
        elif classes is not None and not np.array_equal(unique_labels(classes), self.classes_):
            raise ValueError(f"classes: expected {self.classes_} as in the first call, got {classes!r}")
        if (y.ndim == 2) != self._multilabel:
            raise ValueError(
                f"y: expected {self._binarizer.y_type_} targets, as the model that continues has, got {type_of_target(y)}"
            )
        given = unique_labels(y)
        if not first and not goes_on and set(given) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {given}"
            )
        if len(np.setdiff1d(given, self.classes_)):
            raise ValueError(f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {given}.")
        kind = self._binarizer.y_type_
        if kind == "multiclass":
            return np.searchsorted(self.classes_, y), len(self.classes_), CLASSES
        rows = self._binarizer.transform(y)
        return rows, rows.shape[1], BITS

    @property
    def _multilabel(self) -> bool:
        """True if targets are rows of 0 and 1."""
        return bool(self._binarizer.y_type_.startswith("multilabel"))

    def _weigh(self, y: Any, targets: NDArray[Any]) -> Weigh | None:
        if self.class_weight is None:
            return None
        if self._multilabel:
            weights = self.class_weight
            if isinstance(weights, str):
                weights = [_of_column(weights, column) for column in targets.T]
            return lambda _, targets: compute_sample_weight(weights, targets)
        # All classes count: a call of partial_fit need not have each of them.
        by_class = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        return lambda y, _: by_class[np.searchsorted(self.classes_, y)]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most likely class of each sample.

        For multi-label they are rows of 0 and 1, sparse if those of `fit` were.

        Parameters
        ----------
        X : array_like or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples,) or (n_samples, n_classes), or sparse matrix (n_samples, n_classes)
        """
        out = self._outputs(X)
        classes: NDArray[Any] = self._binarizer.inverse_transform(out if out.shape[1] > 1 else out[:, 0])
        return classes

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Probabilities of the classes, in the order of `classes_`.

        Parameters
        ----------
        X : array_like or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples, n_classes)
            The network's dtype. Rows sum to 1, except for multi-label.
        """
        out = self._outputs(X)
        if self._binarizer.y_type_ != "binary":
            return out
        return np.column_stack([1 - out, out]) if len(self.classes_) == 2 else np.ones_like(out)

    def predict_log_proba(self, X: ArrayLike) -> NDArray[Any]:
        """The logarithm of `predict_proba`.

        Parameters
        ----------
        X : array_like or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples, n_classes)
        """
        logarithms = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            np.log(logarithms, out=logarithms)
        return logarithms

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _of_column(weights: str, column: NDArray[Any]) -> dict[Any, float]:
    """The weights of the values of one label."""
    values = np.unique(column)
    return dict(zip(values, compute_class_weight(weights, classes=values, y=column), strict=True))
