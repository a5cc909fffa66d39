# SPDX-License-Identifier: BSD-3-Clause
"""Estimators in the manner of scikit-learn's MLPClassifier and MLPRegressor, trained by the four steps of the method.

Names, defaults, first weights and stopping rules are those of scikit-learn, so that one stands in for the other; what is added has names
of its own. Not here: the training itself (svdfast/training), and scikit-learn's own models as networks (interop/sklearn_networks.py).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from svdfast._process import in_use
from svdfast._process.checks import count, fraction, one_of, positive_number
from svdfast._process.runtime import single_threaded_blas
from svdfast.data.checks import check_sample_weight
from svdfast.model import activations
from svdfast.model.activations import Activation
from svdfast.model.heads import BITS, CLASSES, NUMBERS, Head, head_of
from svdfast.model.network import Network
from svdfast.model.ranks import Fraction, without_bottlenecks
from svdfast.training.events import Event, StopTraining
from svdfast.training.factoring import PRETRAIN_FRACTION, Factoring
from svdfast.training.optimizers import Adam, GradientDescent, Optimizer
from svdfast.training.result import TrainingResult
from svdfast.training.train import train

try:
    import scipy.optimize
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import LabelBinarizer
    from sklearn.utils import check_random_state, column_or_1d
    from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise ImportError('svdfast.sklearn needs scikit-learn: pip install "svdfast[sklearn]"') from None

__all__ = ["SVDMLPClassifier", "SVDMLPRegressor"]

# Read as they lie; all else becomes float64, as there.
_TYPES = (np.float64, np.float32, np.uint8)

_SMALLEST_RATE = 1e-6  # where learning_rate="adaptive" ends
COOLDOWN = 0.1  # epochs at the end of a training of factors over which the rate falls, as a share of those before

# The words of scikit-learn.
_NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)

Callback = Callable[[Event], None]
Evaluate = Callable[[], tuple[float, float]]  # loss and score on validation data
Validation = tuple[ArrayLike | None, ArrayLike | None, ArrayLike | None]  # X, y, weights


class _Rate:
    """The learning rate, as it is changed after epochs. Called as a schedule is.

    Before a training of factors ends it cools down: it falls to 0 over some epochs more, so that the noise of large steps leaves the
    weights.
    """

    def __init__(self, rate: float, kind: str, power: float, scale: float):
        self.first = self.rate = rate
        self.kind, self.power, self.scale = kind, power, scale
        self.cool(0)

    def __call__(self, step: int, n_steps: int) -> float:
        return self.rate * self.scale * (self.left / (self.cooling + 1) if self.cooling else 1)

    def epoch_ends(self, n_seen: int) -> None:
        if self.kind == "invscaling":
            self.rate = self.first / (n_seen + 1) ** self.power
        self.left -= bool(self.cooling)

    def cool(self, n_epochs: int) -> None:
        """Lets the rate fall over so many epochs; with 0 it is as it was."""
        self.cooling = self.left = n_epochs  # those of the cooldown, and those that are left of it

    def fall(self) -> bool:
        """Divides the rate by 5, if it may; whether it did."""
        if self.kind != "adaptive" or self.rate <= _SMALLEST_RATE:
            return False
        self.rate /= 5
        return True


class _DenseRows:
    """A sparse matrix as a row source, of which blocks are made dense as they are read."""

    def __init__(self, X: Any):
        self.X = X
        self.shape: tuple[int, int] = X.shape
        self.dtype: np.dtype[Any] = X.dtype

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        dense: NDArray[Any] = self.X[rows].toarray()
        return dense


def _takes_steps(model: Any) -> bool:
    """Whether the solver can go on with other data: else there is no partial_fit."""
    if model.solver == "lbfgs":
        raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
    return True


# The parameters stand here once: scikit-learn reads them off the `__init__` that a dataclass makes, which stores them as they are given.
@dataclass(repr=False, eq=False)
class _SVDMLP(BaseEstimator):  # type: ignore[misc]
    """What both estimators do."""

    hidden_layer_sizes: int | Sequence[int] = (100,)
    activation: str | Activation = "relu"
    _: KW_ONLY
    solver: str = "adam"
    alpha: float = 0.0001
    batch_size: int | str = "auto"
    learning_rate: str = "constant"
    learning_rate_init: float = 0.001
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool = True
    random_state: Any = None
    tol: float = 1e-4
    verbose: bool = False
    warm_start: bool = False
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: float = 10
    max_fun: int = 15000
    rank_fraction: float | str | None = "auto"
    rank: int | Sequence[int | None] | str | None = None
    pretrain_fraction: float | None = None
    dtype: DTypeLike | None = None
    precision: str | None = None
    n_threads: int | None = None

    def _encode(
        self, y: NDArray[Any], first: bool, goes_on: bool, classes: ArrayLike | None
    ) -> tuple[NDArray[Any], int, Head]:
        """Targets as a network takes them, how many outputs it has, and what they mean."""
        raise NotImplementedError

    def _weight_of_classes(self, y: NDArray[Any]) -> NDArray[Any] | None:
        """What class weights give each sample."""
        return None

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, *,
        X_val: ArrayLike | None = None, y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None, callbacks: Iterable[Callback] = (),
    ) -> Self:  # fmt: skip
        """Trains on samples and their targets.

        Parameters
        ----------
        X : array_like or sparse matrix (n_samples, n_features)
            Of a sparse matrix blocks of rows are made dense as they are needed; with "lbfgs" all of it.
        y : array_like (n_samples,) or (n_samples, n_outputs)
            Of a classifier: classes, two or more of any kind; or rows of 0 and 1, several of which may be 1 (multi-label).
        sample_weight : array_like (n_samples,), optional
        X_val, y_val : array_like, optional
            Validation data: `validation_scores_` after each epoch, and with `early_stopping` the end; not with "lbfgs".
        sample_weight_val : array_like, optional
        callbacks : iterable of callable
            Called with an `svdfast.Event` after each epoch, at the switch and after recomposition; not with "lbfgs".

        Returns
        -------
        self
        """
        self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), callbacks)
        return self

    @available_if(_takes_steps)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, *,
        X_val: ArrayLike | None = None, y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None, callbacks: Iterable[Callback] = (),
    ) -> Self:  # fmt: skip
        """Trains for one epoch more, as `SVDMLPClassifier.partial_fit` does.

        Parameters
        ----------
        X, y, sample_weight, X_val, y_val, sample_weight_val, callbacks
            As for `fit`.

        Returns
        -------
        self
        """
        self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), callbacks, goes_on=True)
        return self

    # What is there as in scikit-learn

    @property
    def coefs_(self) -> list[NDArray[Any]]:
        """Weights (n_in, n_out) of each layer; of a dense layer views, so that writing to them changes the model."""
        return [a.structure.matrix(a.weight_tensors).T for a in self.network_.layers]

    @property
    def intercepts_(self) -> list[NDArray[Any]]:
        """Biases (n_out,) of each layer, as views."""
        return [layer.b for layer in self.network_.layers]

    @property
    def n_layers_(self) -> int:
        """Layers, that of the inputs among them."""
        return len(self.network_.sizes)

    @property
    def n_outputs_(self) -> int:
        """Outputs of the network."""
        return self.network_.sizes[-1]

    @property
    def out_activation_(self) -> str:
        """Of the last layer: "softmax", "logistic" or "identity"."""
        name = self.network_.layers[-1].activation.name
        return "logistic" if name == "sigmoid" else name

    # Fitting

    def _check(self) -> None:
        one_of("solver", self.solver, ("adam", "sgd", "lbfgs"))
        one_of("learning_rate", self.learning_rate, ("constant", "invscaling", "adaptive"))
        for name in ("alpha", "learning_rate_init", "power_t", "tol"):
            positive_number(name, getattr(self, name), or_zero=name != "learning_rate_init")
        fraction("validation_fraction", self.validation_fraction, below_one=True)
        self._share()
        count("max_iter", self.max_iter)
        count("max_fun", self.max_fun)
        if self.batch_size != "auto":
            count("batch_size", self.batch_size)
        if self.n_iter_no_change != math.inf:
            count("n_iter_no_change", self.n_iter_no_change)
        for name in ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping"):
            value = getattr(self, name)
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"{name}: expected True or False, got {value!r}")

    def _ranks(self) -> list[int | None] | float | str | None:
        """How hidden layers are factored, as for `svdfast.train`; None where they are not."""
        if self.rank is None:
            alpha = self.rank_fraction
            if isinstance(alpha, str) and alpha != "auto":
                raise ValueError(f'rank_fraction: expected a number, "auto" or None, got {alpha!r}')
            return alpha if alpha is None or isinstance(alpha, str) else fraction("rank_fraction", alpha, above_zero=True)
        if isinstance(self.rank, str):
            return self.rank
        if not isinstance(self.rank, Iterable):
            rank = count("rank", self.rank)
            # Where it is above the smaller side factors would save nothing, whatever the side.
            hidden = self.network_.layout.factorable
            return [rank if rank <= min(layer.n_in, layer.n_out) else None for layer in hidden]
        return list(self.rank)

    def _share(self) -> float:
        """φ."""
        return fraction("pretrain_fraction", PRETRAIN_FRACTION if self.pretrain_fraction is None else self.pretrain_fraction)

    def _hidden(self) -> tuple[int, ...]:
        """The hidden layers' neurons."""
        sizes = self.hidden_layer_sizes
        given = [sizes] if not isinstance(sizes, Iterable) else list(sizes)
        return tuple(count("hidden_layer_sizes", n) for n in given)

    def _hidden_activation(self) -> Activation:
        return activations.resolve("sigmoid" if self.activation == "logistic" else self.activation, "activation")

    def _first_network(self, n_in: int, n_out: int, output: str, dtype: Any) -> Network:
        """The first weights and biases of scikit-learn: uniform, from the same numbers in the same order."""
        activation = self._hidden_activation()
        dtype, sizes = dtype if self.dtype is None else self.dtype, [n_in, *self._hidden(), n_out]
        net = Network(sizes, activation, output, dtype=dtype, seed=0, uint8_scale=1.0)
        for layer in net.layers:
            bound = math.sqrt((2 if activation.name == "sigmoid" else 6) / (layer.n_in + layer.n_out))
            layer.W[...] = self._rng.uniform(-bound, bound, (layer.n_in, layer.n_out)).T
            layer.b[...] = self._rng.uniform(-bound, bound, layer.n_out)
        return net

    def _optimizer_for(self, net: Network) -> Optimizer:
        c = _loss_scale(net)
        if self.solver == "sgd":
            rate = _Rate(self.learning_rate_init, self.learning_rate, self.power_t, 1 / c)
            nesterov = bool(self.nesterovs_momentum) and self.momentum > 0
            return GradientDescent(rate, momentum=self.momentum, nesterov=nesterov)
        rate = _Rate(self.learning_rate_init, "constant", self.power_t, 1.0)
        return Adam(rate, beta1=self.beta_1, beta2=self.beta_2, epsilon=self.epsilon * c)

    @property
    def _rate(self) -> _Rate:
        rate = self._optimizer.schedule
        assert isinstance(rate, _Rate)
        return rate

    def _fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None, validation: Validation,
        callbacks: Iterable[Callback], *, goes_on: bool = False, classes: ArrayLike | None = None,
    ) -> None:  # fmt: skip
        """Trains anew, or, if it `goes_on` (partial_fit), for one epoch more. Where training anew fails, all is as it was before."""
        self._check()
        called = tuple(callbacks) if isinstance(callbacks, Iterable) else (None,)
        if not all(callable(callback) for callback in called):
            raise TypeError(f"callbacks: expected an iterable of callables, got {callbacks!r}")
        first = not hasattr(self, "network_") or not (self.warm_start or goes_on)
        before = vars(self).copy()
        try:
            X, targets, weight, evaluate = self._prepare(
                X, y, sample_weight, validation, first, goes_on, classes
            )
            try:
                # SciPy's L-BFGS multiplies with BLAS, too.
                with in_use.changing(self.network_), single_threaded_blas.held():
                    if self.solver == "lbfgs":
                        self._minimise(X, targets, weight)
                    else:
                        self._descend(X, targets, weight, evaluate, called, goes_on)
            except FloatingPointError as error:
                raise ValueError(_NOT_FINITE) from error
            if not np.isfinite(self.network_.parameters).all():
                raise ValueError(_NOT_FINITE)
        except BaseException:
            if first:
                self.__dict__ = before
            raise

    def _validated(self, X: Any, y: Any, reset: bool) -> tuple[Any, NDArray[Any]]:
        """Samples and their targets or classes; a column of these as a vector."""
        numeric = isinstance(self, RegressorMixin)
        X, y = validate_data(
            self, X, y, accept_sparse="csr", multi_output=True, y_numeric=numeric, dtype=_TYPES,
            reset=reset,
        )  # fmt: skip
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _prepare(
        self, X: Any, y: Any, sample_weight: ArrayLike | None, validation: Validation,
        first: bool, goes_on: bool, classes: ArrayLike | None,
    ) -> tuple[Any, NDArray[Any], NDArray[Any] | None, Evaluate | None]:  # fmt: skip
        """Samples, targets and weights to train on, and validation; and makes the network, or looks whether it fits."""
        hidden = self._hidden()
        X_val, y_val, weight_val = validation
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val, y_val: expected both or neither")
        if X_val is None and weight_val is not None:
            raise ValueError("sample_weight_val: expected X_val and y_val with it, got none")
        X, y = self._validated(X, y, first)
        targets, n_out, head = self._encode(y, first, goes_on, classes)
        weight = check_sample_weight(sample_weight, X.shape[0], np.dtype(np.float64))
        of_classes = self._weight_of_classes(y)
        if of_classes is not None:
            weight = of_classes if weight is None else weight * of_classes

        if first or not goes_on:
            self._rng = check_random_state(self.random_state)
        if first:
            dtype = X.dtype if X.dtype.kind == "f" else np.float64
            self.network_ = self._first_network(X.shape[1], n_out, head.output, dtype)
            self._forget()
        net = self.network_
        if (*hidden, n_out) != net.sizes[1:]:
            raise ValueError(
                f"hidden_layer_sizes, y: expected {net.sizes[1:-1]} and {net.sizes[-1]} outputs, as the model that goes on has, "
                f"got {hidden} and {n_out}"
            )
        if hidden and self._hidden_activation() != net.layers[0].activation:
            raise ValueError(
                f"activation: expected {net.layers[0].activation.name}, as the model that goes on has, got {self.activation!r}"
            )

        targets_val = None
        if X_val is not None:
            X_val, y_val = self._validated(X_val, y_val, False)
            targets_val, n_val, _ = self._encode(y_val, False, True, None)
            if n_val != n_out:
                raise ValueError(f"y_val: expected {n_out} outputs, as y has, got {n_val}")
            weight_val = check_sample_weight(weight_val, X_val.shape[0], net.dtype, name="sample_weight_val")
        elif self.early_stopping and self.solver != "lbfgs":
            if goes_on:
                raise ValueError("early_stopping: expected X_val and y_val with it in partial_fit, got none")
            parts = train_test_split(
                *([X, targets] if weight is None else [X, targets, weight]),
                random_state=self._rng,
                test_size=self.validation_fraction,
                # As there, where it is of two classes only.
                stratify=targets if head is BITS and n_out == 1 else None,
            )
            X, X_val, targets, targets_val = parts[:4]
            weight, weight_val = parts[4:] or (None, None)
            if X_val.shape[0] < 2:
                raise ValueError(
                    f"validation_fraction: expected at least 2 samples to be held out, got {X_val.shape[0]}"
                )
        if targets_val is None:
            return X, targets, weight, None
        return X, targets, weight, self._evaluation(X_val, targets_val, weight_val)

    def _forget(self) -> None:
        """What earlier epochs left."""
        self.t_ = 0
        self.loss_curve_: list[float] = []
        self.best_loss_ = math.inf
        self.validation_scores_: list[float] | None = None
        self.validation_loss_curve_: list[float] | None = None
        self.best_validation_score_: float | None = None
        self.stopped_ = False
        self._best: Any = None
        self._to_beat = math.inf
        self._no_improvement_count = 0
        self._may_switch = True
        self._scales: tuple[float, ...] | None = None
        if hasattr(self, "_optimizer"):
            del self._optimizer

    def _begin(self) -> None:
        """What each call says of itself."""
        self.n_iter_, self.stopped_ = 0, False
        self.result_: TrainingResult | None = None

    def _evaluation(self, X: Any, targets: NDArray[Any], weight: Any) -> Evaluate:
        net, rows = self.network_, _rows(X)

        def evaluate() -> tuple[float, float]:
            found = net.evaluate(rows, targets, sample_weight=weight, n_threads=self.n_threads)
            score = found.accuracy
            return found.loss, net.score(rows, targets, sample_weight=weight) if score is None else score

        return evaluate

    def _descend(
        self, X: Any, targets: NDArray[Any], weight: NDArray[Any] | None, evaluate: Evaluate | None,
        callbacks: tuple[Callback, ...], goes_on: bool,
    ) -> None:  # fmt: skip
        """Adam or gradient descent, until the loss or the validation score no longer improves."""
        if goes_on and self.early_stopping and self.stopped_:
            return
        net, n_samples = self.network_, X.shape[0]
        batch_size = min(200, n_samples) if self.batch_size == "auto" else int(self.batch_size)
        if batch_size > n_samples:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=4
            )
        if not self.early_stopping:
            self._best = None
        if not (goes_on and hasattr(self, "_optimizer")):
            self._optimizer = self._optimizer_for(net)
        self._rate.cool(0)
        if evaluate is not None and self.validation_scores_ is None:
            self.validation_scores_, self.validation_loss_curve_ = [], []
            self.best_validation_score_ = -math.inf

        ranks, share, switch = self._ranks(), self.pretrain_fraction, True
        if goes_on:
            switch = self._may_switch and len(self.loss_curve_) >= round(self._share() * self.max_iter)
            share = None if ranks == "auto" else 0.0
        factoring = Factoring(
            0.25 if ranks is None else ranks,
            pretrain_fraction=share if switch and ranks is not None else 1.0,
            recompose=not goes_on,
            learning_rate=self._scales if net.is_factored and self._scales is not None else "auto",
        )
        self._begin()

        def tell(event: Event) -> None:
            stop = self._watch(event, n_samples, evaluate, ends=not goes_on)
            for callback in callbacks:
                callback(event)
            if stop:
                raise StopTraining

        try:
            self.result_ = train(
                net,
                _rows(X),
                targets,
                epochs=1 if goes_on else self.max_iter,
                batch_size=batch_size,
                optimizer=self._optimizer,
                l2=self.alpha * _loss_scale(net),
                sample_weight=weight,
                precision=self.precision,
                n_threads=self.n_threads,
                seed=np.random.default_rng(self._rng.randint(2**31 - 1)),
                shuffle=self.shuffle,
                factoring=factoring,
                # Else the clock has a say in what "auto" does, and the same random_state may give another model.
                reproducible=ranks == "auto" and self.random_state is not None,
                callbacks=[tell],
            )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        if not goes_on or net.is_factored or ranks != "auto":  # else the next call looks again
            self._may_switch = self._may_switch and not switch
        if self._best is not None and (self.stopped_ or not goes_on):
            _, layout, parameters = self._best
            net.set_state(layout, parameters.copy())
        if not goes_on:
            net.recompose()
            if not self.warm_start:
                self._best = None
            if self.n_iter_ == self.max_iter and not self.stopped_:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                    "converged yet.",
                    ConvergenceWarning,
                    stacklevel=4,
                )

    def _watch(self, event: Event, n_samples: int, evaluate: Evaluate | None, ends: bool) -> bool:
        """Notes what an epoch gave. Whether it was one too many without progress, and the rate of factors has come down."""
        if event.kind in ("switch", "recompose"):
            if event.kind == "recompose" or any(not t.skipped for t in event.info["truncations"]):
                # The loss may have risen with the change of form: progress is counted anew.
                self._to_beat, self._no_improvement_count = math.inf, 0
            self._scales = event.info.get("learning_rate_scales")
        if event.kind != "epoch":
            return False
        self.n_iter_ += 1
        self.t_ += n_samples
        self.loss_ = event.info["loss"] / _loss_scale(event.network)
        self.loss_curve_.append(self.loss_)
        self.best_loss_ = min(self.best_loss_, self.loss_)
        progress = self.loss_ <= self._to_beat - self.tol
        self._to_beat = min(self._to_beat, self.loss_)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
        if evaluate is not None:
            loss, score = evaluate()
            event.info["val_loss"] = loss
            event.info["val_score" if isinstance(self, RegressorMixin) else "val_accuracy"] = score
            self.validation_loss_curve_.append(loss / _loss_scale(event.network))  # type: ignore[union-attr]
            self.validation_scores_.append(score)  # type: ignore[union-attr]
            self.best_validation_score_ = max(self.best_validation_score_, score)  # type: ignore[type-var]
            if self.verbose:
                print(f"Validation score: {score:f}")
            if self.early_stopping:
                best = -math.inf if self._best is None else self._best[0]
                progress = score >= best + self.tol
                if score > best:
                    layout, parameters = event.network.state
                    self._best = score, layout, parameters.copy()
        self._no_improvement_count = 0 if progress else self._no_improvement_count + 1
        rate = self._rate
        rate.epoch_ends(self.t_)
        stuck = self._no_improvement_count > self.n_iter_no_change
        if rate.cooling:
            self.stopped_ = self.stopped_ or stuck
            return rate.left == 0
        left, cooldown = self.max_iter - self.n_iter_, 0
        if ends and event.network.is_factored:
            cooldown = min(math.ceil(COOLDOWN * self.n_iter_), left)
        if stuck:
            if rate.fall():
                self._no_improvement_count = 0
            else:
                self.stopped_ = True
                rate.cool(cooldown)
                return cooldown == 0
        elif cooldown == left:
            rate.cool(cooldown)
        return False

    def _minimise(self, X: Any, targets: NDArray[Any], weight: NDArray[Any] | None) -> None:
        """L-BFGS over all samples at once: a share φ of the iterations dense, then the factors."""
        net = self.network_
        c = _loss_scale(net)
        X = X.toarray() if hasattr(X, "toarray") else X

        def loss_and_gradient(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            net.parameters[:] = w
            value, gradient = net.loss_and_gradient(
                X, targets, sample_weight=weight, l2=c * self.alpha, precision=self.precision, n_threads=self.n_threads
            )
            return value / c, gradient.astype(np.float64) / c

        def minimise(max_iter: int, max_fun: int) -> Any:
            found = scipy.optimize.minimize(
                loss_and_gradient,
                net.parameters.astype(np.float64),
                method="L-BFGS-B",
                jac=True,
                options={"maxiter": max_iter, "maxfun": max_fun, "gtol": self.tol},
            )
            net.parameters[:] = found.x
            self.n_iter_ += found.nit
            self.loss_ = self.best_loss_ = float(found.fun)
            return found

        ranks, hidden = self._ranks(), net.layout.factorable
        if ranks == "auto":
            ranks = None
        elif isinstance(ranks, float):
            ranks = without_bottlenecks(Fraction(ranks)(hidden, ()), hidden)
        self._begin()
        # With nothing to cut there is no reason to begin anew, without the curvature found so far.
        whole = ranks in (None, [None] * len(hidden))
        dense = self.max_iter if whole else round(self._share() * self.max_iter)
        found = minimise(dense, self.max_fun) if dense > 0 else None
        if dense < self.max_iter and (found is None or found.status == 1):
            net.truncate(ranks=ranks, inputs=X, sample_weight=weight)
            found = minimise(self.max_iter - dense, max(self.max_fun - (0 if found is None else found.nfev), 1))
            net.recompose()
        if found is not None and found.status == 1:
            warnings.warn(
                f"lbfgs failed to converge after {self.n_iter_} iterations: {found.message}",
                ConvergenceWarning, stacklevel=4,
            )  # fmt: skip

    # Prediction

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _outputs(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self, "network_")
        X = validate_data(self, X, accept_sparse="csr", dtype=_TYPES, reset=False)
        return self.network_.predict(_rows(X), precision=self.precision, n_threads=self.n_threads)


def _loss_scale(net: Network) -> float:
    """c: the library's loss is c times scikit-learn's, which halves squares and sums over outputs."""
    head, n_out = head_of(net.layers[-1].activation), net.sizes[-1]
    return 1.0 if head is CLASSES else (1 if head is BITS else 2) / n_out


def _rows(X: Any) -> Any:
    """Samples as the library reads them."""
    return _DenseRows(X) if hasattr(X, "toarray") else X


@dataclass(repr=False, eq=False)
class SVDMLPClassifier(ClassifierMixin, _SVDMLP):  # type: ignore[misc]
    """A classifier with hidden layers that are factored while it trains; it stands in for scikit-learn's MLPClassifier.

    A share φ of the epochs trains dense weights; each hidden weight is then cut by truncated SVD, W ≈ W1·W2, the factors are
    trained, and at the end multiplied together again. Layers where factors would save no multiplications stay dense.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int
        Neurons of the hidden layers.
    activation : {"identity", "logistic", "tanh", "relu"}, or another name or Activation of svdfast.activations
        Of the hidden layers.
    solver : {"adam", "sgd", "lbfgs"}
    alpha : float
        The L2 penalty, (alpha/2)·Σw²/p, p the sum of the sample weights of a mini-batch; of the factors' elements while there are
        factors. (The α of the report is `rank_fraction`.)
    batch_size : int or "auto"
        "auto": min(200, n_samples). With "lbfgs" all samples are taken at once.
    learning_rate : {"constant", "invscaling", "adaptive"}
        How the rate of "sgd" changes after epochs: not; η = η₀/(t + 1)^power_t, t the samples seen; or divided by 5 where else the
        training would end for want of progress.
    learning_rate_init : float
        η₀, of "adam" and "sgd".
    power_t : float
    max_iter : int
        Epochs, at most; with "lbfgs" iterations.
    shuffle : bool
        Whether samples are taken in a new order each epoch.
    random_state : int, RandomState or None
        For first weights, the split of validation data, and the order of samples.
    tol : float
        The progress that counts: an epoch's loss below the best one by this, or with `early_stopping` a score above it.
    verbose : bool
        Print loss (and score) after each epoch.
    warm_start : bool
        Whether `fit` goes on from the weights that an earlier one left.
    momentum : float
        Of "sgd", from 0 to below 1.
    nesterovs_momentum : bool
    early_stopping : bool
        End where the validation score makes no progress, and take the weights of the best epoch. The validation data are X_val and
        y_val of `fit`, else a `validation_fraction` of the samples.
    validation_fraction : float
    beta_1, beta_2, epsilon : float
        Of "adam".
    n_iter_no_change : int or numpy.inf
        Training ends after more epochs without progress than these; the switch to factors begins the count again. Before `fit` ends
        a training of factors, the learning rate falls for some epochs, a tenth of those before; `max_iter` counts them, too.
    max_fun : int
        Evaluations of the loss, at most, with "lbfgs".
    rank_fraction : float, "auto" or None
        α of the report: a layer's rank is l = max(1, ⌊α·min(n_in, n_out)⌋). A layer of at most 100 inputs stays dense where l
        is less than them: that costs accuracy and saves little. "auto" decides about each layer by looking at what a cut does to the
        loss, see `svdfast.train`; with "lbfgs" it factors nothing. With None (and no `rank`) nothing is factored.
    rank : int, sequence of int or None, or str, optional
        Instead: the rank of all hidden layers, or of each; or a rule, see `ranks` of `svdfast.train`.
    pretrain_fraction : float, optional
        φ: the switch comes after this share of `max_iter`, by default 0.05. With "auto" the first look comes then, by default after 100
        steps or a tenth of `max_iter`, whichever is earlier.
    dtype : {"float32", "float64"}, optional
        Of weights and arithmetic; by default that of X where it is one of these, else float64. float32 takes half the time.
    precision : {"float32", "float64", "bfloat16"}, optional
        Of the products, see `svdfast.train`.
    n_threads : int, optional
    class_weight : dict, "balanced" or None
        What sample weights are multiplied with, by class.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
    network_ : Network
        The trained network; its outputs are in the order of `classes_`.
    result_ : TrainingResult or None
        Of the last call: history, events, `explain()`. None with "lbfgs" or after Ctrl-C.
    coefs_, intercepts_ : list of ndarray
        Of each layer, (n_in, n_out) and (n_out,).
    n_features_in_ : int
        Columns of X.
    n_outputs_, n_layers_ : int
        Outputs of the network, and its layers, that of the inputs among them.
    n_iter_ : int
        Epochs of the last call; with "lbfgs" iterations.
    t_ : int
        Samples seen.
    feature_names_in_ : ndarray of str
        Where X had names.
    out_activation_ : str
    loss_, best_loss_ : float
        Of the last epoch and of the best, penalty included.
    loss_curve_ : list of float
    validation_scores_, validation_loss_curve_ : list of float or None
        Accuracy and loss after each epoch, where there are validation data.
    best_validation_score_ : float or None
    stopped_ : bool
        Whether `early_stopping` has ended a training: further calls of `partial_fit` change nothing.

    Raises
    ------
    TypeError, ValueError
        In `fit`, where a parameter or the data do not fit, or weights are no longer finite.

    References
    ----------
    The report, sections 3.3.2 and 3.3.3.

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

    @available_if(_takes_steps)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None, *, X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None, sample_weight_val: ArrayLike | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> Self:  # fmt: skip
        """Trains for one epoch more. The call after the first φ·max_iter cuts to factors, which stay (`coefs_` are their products).

        With "auto" that call and those after it each look, as `fit` does, until one of them has cut a layer. A look may take two
        hundredths of a call's time: where calls have few samples, none is worth it, and all layers stay dense.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array_like (n_classes,)
            All classes that will come, in the first call; y need not have them all.
        X_val, y_val, sample_weight_val, callbacks
            As for `fit`. With `early_stopping` validation data are needed: the call that ends the training (`stopped_`) puts the best
            weights back, and further ones change nothing.

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
        self, y: NDArray[Any], first: bool, goes_on: bool, classes: ArrayLike | None
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
        if (y.ndim == 2) != self._binarizer.y_type_.startswith("multilabel"):
            raise ValueError(
                f"y: expected {self._binarizer.y_type_} targets, as the model that goes on has, got {type_of_target(y)}"
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
        rows = rows.toarray() if hasattr(rows, "toarray") else rows
        return rows, rows.shape[1], BITS

    def _weight_of_classes(self, y: NDArray[Any]) -> NDArray[Any] | None:
        weight: NDArray[Any] | None = None
        if self.class_weight is not None and y.ndim == 2:
            weight = compute_sample_weight(self.class_weight, y)
        elif self.class_weight is not None:
            # Of all classes: a call of partial_fit need not have each of them.
            by_class = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
            weight = by_class[np.searchsorted(self.classes_, y)]
        return weight

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most likely class of each sample; rows of 0 and 1 for multi-label.

        Parameters
        ----------
        X : array_like or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples,) or (n_samples, n_classes)
        """
        out = self._outputs(X)
        if self._binarizer.y_type_ not in ("multiclass", "binary"):
            return (out > 0.5).astype(int)
        if out.shape[1] > 1:
            places = out.argmax(axis=1)
        else:
            places = np.minimum(out[:, 0] > 0.5, len(self.classes_) - 1)
        chosen: NDArray[Any] = self.classes_[places]
        return chosen

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Probabilities of the classes, in the order of `classes_`.

        Parameters
        ----------
        X : array_like or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples, n_classes)
            Of the network's dtype. Rows sum to 1, but for multi-label.
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


class SVDMLPRegressor(RegressorMixin, _SVDMLP):  # type: ignore[misc]
    """A regressor with hidden layers that are factored while it trains; it stands in for scikit-learn's MLPRegressor.

    It minimises half the squared error, summed over outputs, and the validation score is R². Parameters, attributes and errors are those of
    `SVDMLPClassifier`, without `class_weight` and `classes_`.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from svdfast.sklearn import SVDMLPRegressor
    >>> X, y = make_regression(n_samples=500, n_features=40, random_state=0)
    >>> y = (y - y.mean()) / y.std()
    >>> model = SVDMLPRegressor((200, 200), rank_fraction=0.25, random_state=0).fit(X[:400], y[:400])
    >>> model.score(X[400:], y[400:]) > 0.9
    True
    """

    def _encode(
        self, y: NDArray[Any], first: bool, goes_on: bool, classes: ArrayLike | None
    ) -> tuple[NDArray[Any], int, Head]:
        return y, 1 if y.ndim == 1 else y.shape[1], NUMBERS

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predictions.

        Parameters
        ----------
        X : array_like or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples,) or (n_samples, n_outputs)
            Of the network's dtype.
        """
        out = self._outputs(X)
        return out if out.shape[1] > 1 else out[:, 0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
