# SPDX-License-Identifier: BSD-3-Clause
"""The base of both estimators: parameters, `fit` and `partial_fit`, and the checks of arguments.

Elsewhere: training by epochs (descent.py) and by L-BFGS (lbfgs.py), and targets (classifier.py,
regressor.py).
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Number
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from svdfast._process import in_use
from svdfast._process.checks import count, fraction, one_of, positive_number
from svdfast._process.runtime import single_threaded_blas
from svdfast.data.checks import check_sample_weight
from svdfast.data.sparse import is_sparse, with_own_indices
from svdfast.interop.sklearn_networks import origin_of
from svdfast.model import activations
from svdfast.model.activations import FACTS, Activation
from svdfast.model.heads import BITS, Head, head_of
from svdfast.model.layer import Layer
from svdfast.model.network import Network
from svdfast.sklearn import books, descent, lbfgs
from svdfast.sklearn.arrays import Arrays, write
from svdfast.sklearn.descent import Callback, Data
from svdfast.sklearn.rate import Rate
from svdfast.sklearn.stopping import stopping_of
from svdfast.training.factoring import PRETRAIN_FRACTION
from svdfast.training.progress import Wait
from svdfast.training.result import TrainingResult
from svdfast.training.stopping import EarlyStopping
from svdfast.training.team import Team

__all__ = ["SVDMLP", "Callback", "Weigh", "takes_steps"]

# Read in place; everything else becomes float64, as in scikit-learn.
_TYPES = (np.float64, np.float32, np.uint8)

# scikit-learn's words.
_NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)

# Attributes that only the solvers with epochs have, as in scikit-learn.
_OF_EPOCHS = ("loss_curve_", "best_loss_", "validation_scores_", "validation_loss_curve_", "best_validation_score_")

Validation = tuple[ArrayLike | None, ArrayLike | None, ArrayLike | None]  # X, y, weights
Weigh = Callable[[Any, NDArray[Any]], NDArray[Any]]  # from classes and encoded targets to weights


def takes_steps(model: Any) -> bool:
    """True if the solver can continue with other data; else there is no partial_fit."""
    if model.solver == "lbfgs":
        raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
    return True


# The parameters are listed once, here. scikit-learn reads them off the `__init__` that a dataclass
# makes, which stores them unchanged.
@dataclass(repr=False, eq=False)
class SVDMLP(BaseEstimator):  # type: ignore[misc]
    """The base of both estimators."""

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
    early_stopping: bool | EarlyStopping = False
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
    communicator: Any = None
    checkpoint: str | os.PathLike[str] | None = None

    def _encode(
        self, y: Any, first: bool, goes_on: bool, classes: ArrayLike | None
    ) -> tuple[NDArray[Any], int, Head]:
        """Targets as a network takes them, the number of its outputs, and their meaning."""
        raise NotImplementedError

    def _weigh(self, y: Any, targets: NDArray[Any]) -> Weigh | None:
        """Returns the function from targets to weights of samples, by class weights.

        Balanced weights are those of these samples.
        """
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
            A sparse matrix gives the model of its dense rows, up to rounding. Products use its
            stored numbers; see `train`.
        y : array_like (n_samples,) or (n_samples, n_outputs), or sparse matrix (n_samples, n_classes)
            For a classifier: classes, two or more of any kind; or rows of 0 and 1, several of which
            may be 1 (multi-label). Those may be sparse, and `predict` then gives sparse rows.
        sample_weight : array_like (n_samples,) or float, optional
            A single number is the weight of each sample.
        X_val, y_val : array_like, optional
            Validation data. `validation_scores_` gets their score after each epoch, and
            `early_stopping` uses it. "lbfgs" has no epochs and ignores them.
        sample_weight_val : array_like (n_val,) or float, optional
            Weights of the validation score and loss. Class weights multiply them, as they multiply
            `sample_weight`. If a `validation_fraction` is split off, those samples keep their
            weights.
        callbacks : iterable of callable
            Called with an `svdfast.Event` after each epoch, at the switch and after recomposition;
            not with "lbfgs".

        Returns
        -------
        self
        """
        self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), callbacks)
        return self

    @available_if(takes_steps)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, *,
        X_val: ArrayLike | None = None, y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None, callbacks: Iterable[Callback] = (),
    ) -> Self:  # fmt: skip
        """Trains for one more epoch, as `SVDMLPClassifier.partial_fit` does.

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

    # Attributes of scikit-learn

    @property
    def coefs_(self) -> list[NDArray[Any]]:
        """Weights (n_in, n_out) of each layer.

        Dense layers give views; factored layers give products, which are read-only. Assignment, to
        an item or of a whole list, changes the model. Before training it sets the weights that
        `partial_fit`, or `fit` with `warm_start`, begins with.
        """
        if not hasattr(self, "network_"):
            return self._first("coefs_")
        return Arrays("coefs_", [_weight(layer) for layer in self.network_.layers])

    @coefs_.setter
    def coefs_(self, values: Iterable[ArrayLike]) -> None:
        self._set("coefs_", values)

    @property
    def intercepts_(self) -> list[NDArray[Any]]:
        """Biases (n_out,) of each layer, as views. Assignment is as for `coefs_`."""
        if not hasattr(self, "network_"):
            return self._first("intercepts_")
        return Arrays("intercepts_", [layer.b for layer in self.network_.layers])

    @intercepts_.setter
    def intercepts_(self, values: Iterable[ArrayLike]) -> None:
        self._set("intercepts_", values)

    def _first(self, name: str) -> list[Any]:
        """The first arrays that a model was given before training."""
        try:
            given: list[Any] = vars(self)["_given"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name} before fit") from None
        return given

    def _set(self, name: str, values: Iterable[ArrayLike]) -> None:
        if hasattr(self, "network_"):
            with in_use.changing(self.network_):
                write(name, getattr(self, name), values)
        else:
            self._given = vars(self).get("_given", {}) | {name: list(values)}

    # Fitting

    def _check(self) -> None:
        one_of("solver", self.solver, ("adam", "sgd", "lbfgs"))
        one_of("learning_rate", self.learning_rate, ("constant", "invscaling", "adaptive"))
        if self.solver == "lbfgs" and self.communicator is not None:
            raise ValueError("communicator: expected None with lbfgs, which has no mini-batches to share out, got one")
        for name in ("alpha", "learning_rate_init", "power_t", "tol", "epsilon"):
            positive_number(name, getattr(self, name), or_zero=name not in ("learning_rate_init", "epsilon"))
        fraction("validation_fraction", self.validation_fraction, below_one=True)
        if self.rank is not None and isinstance(self.rank_fraction, Number):
            raise ValueError(f"rank, rank_fraction: expected one of the two, got both ({self.rank!r} and {self.rank_fraction!r})")
        self._share()
        count("max_iter", self.max_iter)
        count("max_fun", self.max_fun)
        if self.batch_size != "auto":
            count("batch_size", self.batch_size)
        if not (isinstance(self.n_iter_no_change, float) and self.n_iter_no_change == math.inf):
            count("n_iter_no_change", self.n_iter_no_change)
        for name in ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping"):
            value = getattr(self, name)
            if name == "early_stopping" and isinstance(value, EarlyStopping):
                continue
            if not isinstance(value, bool | np.bool_):
                also = " or an EarlyStopping" if name == "early_stopping" else ""
                raise TypeError(f"{name}: expected True or False{also}, got {value!r}")

    def _ranks(self) -> list[int | None] | float | str | None:
        """How hidden layers are factored, as for `svdfast.train`; None if they are not."""
        if self.rank is None:
            alpha = self.rank_fraction
            if isinstance(alpha, str) and alpha != "auto":
                raise ValueError(f'rank_fraction: expected a number, "auto" or None, got {alpha!r}')
            return alpha if alpha is None or isinstance(alpha, str) else fraction("rank_fraction", alpha, above_zero=True)
        if isinstance(self.rank, str):
            return self.rank
        if not isinstance(self.rank, Iterable):
            rank = count("rank", self.rank)
            # With a rank above the smaller side, factors would save nothing, whatever the side.
            hidden = self.network_.layout.factorable
            return [rank if rank <= min(layer.n_in, layer.n_out) else None for layer in hidden]
        return list(self.rank)

    def _share(self) -> float:
        """φ."""
        return fraction("pretrain_fraction", PRETRAIN_FRACTION if self.pretrain_fraction is None else self.pretrain_fraction)

    def _hidden(self) -> tuple[int, ...]:
        """The hidden layers' neurons."""
        sizes = self.hidden_layer_sizes
        if isinstance(sizes, str):
            raise TypeError(f"hidden_layer_sizes: expected an integer or a sequence of them, got {sizes!r}")
        given = [sizes] if not isinstance(sizes, Iterable) else list(sizes)
        return tuple(count("hidden_layer_sizes", n) for n in given)

    def _hidden_activation(self) -> Activation:
        return activations.resolve("sigmoid" if self.activation == "logistic" else self.activation, "activation")

    def _first_network(self, n_in: int, n_out: int, output: str, dtype: Any) -> Network:
        """Makes the first weights and biases of scikit-learn.

        They are uniform, from the same numbers in the same order.
        """
        activation = self._hidden_activation()
        dtype, sizes = dtype if self.dtype is None else self.dtype, [n_in, *self._hidden(), n_out]
        net = Network(sizes, activation, output, dtype=dtype, seed=0, uint8_scale=1.0)
        for layer in net.layers:
            bound = math.sqrt((2 if activation.name == "sigmoid" else 6) / (layer.n_in + layer.n_out))
            layer.W[...] = self._rng.uniform(-bound, bound, (layer.n_in, layer.n_out)).T
            layer.b[...] = self._rng.uniform(-bound, bound, layer.n_out)
        return net

    def _begin_anew(self, net: Network, from_given: bool) -> None:
        """Takes a first network, and forgets earlier ones."""
        self.network_ = net
        given = self.__dict__.pop("_given", {})
        for name, values in given.items() if from_given else ():
            write(name, getattr(self, name), values)
        self.n_layers_, self.n_outputs_ = len(net.sizes), net.sizes[-1]
        self.out_activation_ = FACTS[net.layers[-1].activation.name].sklearn
        self.t_, self.stopped_ = 0, False
        self._best: Any = None
        self._wait: Wait | None = None
        self._watches = ""  # the quantity that it counts
        self._no_improvement_count = 0
        self._may_switch = True
        self._scales: tuple[float, ...] | None = None
        for name in (*_OF_EPOCHS, "_optimizer"):
            self.__dict__.pop(name, None)
        if self.solver != "lbfgs":
            self._begin_curves()

    def _begin_curves(self) -> None:
        """Resets the records that only the solvers with epochs have."""
        self.loss_curve_: list[float] = []
        self.best_loss_: float | None = math.inf
        self.validation_scores_: list[float] | None = None
        self.validation_loss_curve_: list[float] | None = None
        self.best_validation_score_: float | None = None

    def _begin(self) -> None:
        """Resets the records of a single call."""
        self.n_iter_, self.stopped_ = 0, False
        self.result_: TrainingResult | None = None

    @property
    def _rate(self) -> Rate:
        rate = self._optimizer.schedule
        assert isinstance(rate, Rate)
        return rate

    def _fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None, validation: Validation,
        callbacks: Iterable[Callback], *, goes_on: bool = False, classes: ArrayLike | None = None,
    ) -> None:  # fmt: skip
        """Trains again from the beginning, or by one more epoch (partial_fit).

        If the first epoch fails, nothing changes.
        """
        first = not hasattr(self, "network_") or not (self.warm_start or goes_on)
        before = vars(self).copy()
        try:
            with Team(self.communicator) as team:
                called = team.together(lambda: self._checked(callbacks, goes_on))
                # Several processes all get the first weights, and the validation samples, of
                # process 0.
                rng = team.of_first(team.together(lambda: check_random_state(self.random_state)))
                data = team.together(lambda: self._prepare(X, y, sample_weight, validation, first, goes_on, classes, rng))
                try:
                    # SciPy's L-BFGS multiplies with BLAS, too.
                    with in_use.changing(self.network_), single_threaded_blas.held():
                        if self.solver == "lbfgs":
                            lbfgs.minimise(self, data)
                        else:
                            descent.descend(self, data, called, goes_on, team)
                except FloatingPointError as error:  # it is raised in all processes
                    raise team.known(ValueError(_NOT_FINITE)) from error
                if not np.isfinite(self.network_.parameters).all():
                    raise team.known(ValueError(_NOT_FINITE))
        except BaseException:
            if first:
                self.__dict__ = before
            raise

    def _checked(self, callbacks: Iterable[Callback], goes_on: bool) -> tuple[Callback, ...]:
        """Checks the parameters and the callbacks, and returns the callbacks."""
        self._check()
        if self.checkpoint is not None:
            books.check(self, goes_on)
        called = tuple(callbacks) if isinstance(callbacks, Iterable) else (None,)
        if not all(callable(callback) for callback in called):
            raise TypeError(f"callbacks: expected an iterable of callables, got {callbacks!r}")
        return called

    def _validated(self, X: Any, y: Any, reset: bool) -> tuple[Any, NDArray[Any]]:
        """Checks samples and their targets or classes; a column of these becomes a vector."""
        numeric = isinstance(self, RegressorMixin)
        X, y = validate_data(
            self, _with_valid_indices("X", X), _with_valid_indices("y", y), accept_sparse="csr", multi_output=True,
            y_numeric=numeric, dtype=_TYPES, reset=reset,
        )  # fmt: skip
        column = y.ndim == 2 and y.shape[1] == 1 and isinstance(y, np.ndarray)
        return X, column_or_1d(y, warn=True) if column else y

    def _prepare(
        self, X: Any, y: Any, sample_weight: ArrayLike | None, validation: Validation,
        first: bool, goes_on: bool, classes: ArrayLike | None, rng: np.random.RandomState,
    ) -> Data:  # fmt: skip
        """Prepares the data for training and validation.

        Makes the network, or checks that the data fit the network that continues.
        """
        hidden = self._hidden()
        X_val, y_val, weight_val = validation
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val, y_val: expected both or neither")
        if X_val is None and weight_val is not None:
            raise ValueError("sample_weight_val: expected X_val and y_val with it, got none")
        X, y = self._validated(X, y, first)
        targets, n_out, head = self._encode(y, first, goes_on, classes)
        weigh = self._weigh(y, targets)
        weight = _weights("sample_weight", sample_weight, X.shape[0], weigh, y, targets)

        if first or not goes_on:
            self._rng = rng
        if first:
            dtype = X.dtype if X.dtype.kind == "f" else np.float64
            self._begin_anew(
                self._first_network(X.shape[1], n_out, head.output, dtype), goes_on or self.warm_start
            )
            self.network_.origin = origin_of(self, self.network_)
        self._check_fit(hidden, n_out, head)
        if isinstance(self.early_stopping, EarlyStopping):
            self.early_stopping.check(validated=True, decides=head.decides)

        if X_val is not None:
            X_val, y_val = self._validated(X_val, y_val, False)
            targets_val, n_val, _ = self._encode(y_val, False, True, None)
            if n_val != n_out:
                raise ValueError(f"y_val: expected {n_out} outputs, as y has, got {n_val}")
            weight_val = _weights("sample_weight_val", weight_val, X_val.shape[0], weigh, y_val, targets_val)
        elif stopping_of(self).watches != "loss" and self.solver != "lbfgs":
            if goes_on:
                raise ValueError(
                    "early_stopping: expected X_val and y_val with it in partial_fit, got none: "
                    "partial_fit does not support early_stopping=True without them"
                )
            parts = train_test_split(
                *([X, targets] if weight is None else [X, targets, weight]),
                random_state=self._rng,
                test_size=self.validation_fraction,
                # As in scikit-learn, only if there are two classes.
                stratify=targets.astype(bool) if head is BITS and n_out == 1 else None,
            )
            X, X_val, targets, targets_val = parts[:4]
            weight, weight_val = parts[4:] or (None, None)
            if X_val.shape[0] < 2:
                raise ValueError(
                    f"validation_fraction: expected at least 2 samples to be held out, got {X_val.shape[0]}. "
                    "The validation set is too small"
                )
        else:
            return Data(X, targets, weight)
        held_out = X_val, targets_val, weight_val
        return Data(X, targets, weight, self._evaluation(*held_out), held_out)

    def _check_fit(self, hidden: tuple[int, ...], n_out: int, head: Head) -> None:
        """Refuses parameters, or targets, that do not fit the network."""
        net = self.network_
        if (*hidden, n_out) != net.sizes[1:]:
            raise ValueError(
                f"hidden_layer_sizes, y: expected {net.sizes[1:-1]} and {net.sizes[-1]} outputs, as the model that continues has, "
                f"got {hidden} and {n_out}"
            )
        if hidden and self._hidden_activation() != net.layers[0].activation:
            raise ValueError(
                f"activation: expected {net.layers[0].activation.name}, as the model that continues has, got {self.activation!r}"
            )
        if head is not head_of(net.layers[-1].activation):
            raise ValueError(
                f"loss: expected one of {net.layers[-1].activation.name} outputs, as the model that continues has, got {head.loss}"
            )

    def _evaluation(self, X: Any, targets: NDArray[Any], weight: NDArray[Any] | None) -> descent.Evaluate:
        net = self.network_

        def evaluate() -> tuple[float, float]:
            found = net.evaluate(X, targets, sample_weight=weight, n_threads=self.n_threads)
            score = found.accuracy
            return found.loss, net.score(X, targets, sample_weight=weight) if score is None else score

        return evaluate

    # Prediction

    def __getstate__(self) -> dict[str, Any]:
        # A communicator belongs to running processes; a saved model may be loaded in another job.
        state: dict[str, Any] = super().__getstate__()
        return state | {"communicator": None}

    # Copies share the communicator, which cannot always be copied itself.

    def __copy__(self) -> Self:
        twin = object.__new__(type(self))
        twin.__dict__.update(vars(self))
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self.communicator)] = self.communicator
        twin = memo[id(self)] = object.__new__(type(self))
        twin.__dict__.update(copy.deepcopy(vars(self), memo))
        return twin

    def __sklearn_clone__(self) -> Self:
        alone = copy.copy(self)
        alone.communicator = None
        twin: Self = super(SVDMLP, alone).__sklearn_clone__()
        twin.communicator = self.communicator
        return twin

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _outputs(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self, "network_")
        X = validate_data(self, _with_valid_indices("X", X), accept_sparse="csr", dtype=_TYPES, reset=False)
        return self.network_.predict(X, precision=self.precision, n_threads=self.n_threads)


def _weight(layer: Layer) -> NDArray[Any]:
    """A layer's weight (n_in, n_out): a view, or a read-only product."""
    if layer.rank is None:
        return layer.structure.matrix(layer.weight_tensors).T
    W = layer.weight().T
    W.flags.writeable = False
    return W


def _with_valid_indices(name: str, value: Any) -> Any:
    """A sparse matrix of valid indices, which scikit-learn trusts; other values as they are."""
    return with_own_indices(name, value) if is_sparse(value) else value


def _weights(
    name: str, given: Any, n: int, weigh: Weigh | None, y: Any, targets: NDArray[Any]
) -> NDArray[Any] | None:
    """Weights of samples, times those of their classes. A number counts for all samples."""
    weight = None
    if given is not None:
        each = np.full(n, given) if isinstance(given, Number) else given
        weight = check_sample_weight(each, n, np.dtype(np.float64), name=name)
    if weigh is None:
        return weight
    of_classes = weigh(y, targets)
    return of_classes if weight is None else weight * of_classes
