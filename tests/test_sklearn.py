# SPDX-License-Identifier: BSD-3-Clause
"""The estimators: scikit-learn's own checks, equality with its MLPs where nothing is factored, and what is added to them."""

import copy
import itertools
import pickle
import sys
import warnings
from decimal import Decimal

import numpy as np
import pytest
import scipy.sparse

import svdfast as sf

pytest.importorskip("sklearn", reason="scikit-learn is not there to be compared with")

import joblib
from sklearn.base import clone
from sklearn.datasets import (
    load_digits,
    make_classification,
    make_multilabel_classification,
    make_regression,
)
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import svdfast.sklearn
from svdfast.sklearn import SVDMLPClassifier, SVDMLPRegressor

# What a training that is cut short says; the tests of it ask for it.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FACTORED = {"hidden_layer_sizes": (64, 48), "rank": 6, "max_iter": 60}


CHECKS = parametrize_with_checks(
    [
        SVDMLPClassifier(),
        SVDMLPRegressor(),
        SVDMLPClassifier(**FACTORED, learning_rate_init=0.01),
        SVDMLPRegressor(**FACTORED, learning_rate_init=0.01),
        SVDMLPClassifier((64, 48), rank_fraction=0.25, max_iter=60, learning_rate_init=0.01),
        SVDMLPRegressor((120, 110), rank_fraction=0.25, max_iter=60, learning_rate_init=0.01),
        SVDMLPClassifier(solver="lbfgs", alpha=0.1),
        SVDMLPRegressor(solver="lbfgs"),
        SVDMLPClassifier(solver="sgd", learning_rate_init=0.1, learning_rate="adaptive"),
        SVDMLPRegressor(solver="sgd", learning_rate_init=0.001, nesterovs_momentum=False),
    ]
)


# A list of them: scikit-learn before 1.9 gives an iterator, which pytest takes with a warning.
@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def classes(kind, n=150, n_features=12):
    if kind == "multilabel":
        X, y = make_multilabel_classification(n, n_features, n_classes=4, random_state=0)
        return StandardScaler().fit_transform(X), y
    n_classes = 2 if kind == "binary" else 4
    X, y = make_classification(n, n_features, n_informative=8, n_classes=n_classes, random_state=0)
    return X, np.array(["d", "a", "c", "b"])[y]


def targets(n_outputs, n=150):
    X, y = make_regression(n, 12, n_targets=n_outputs, random_state=0)
    return X, (y - y.mean(axis=0)) / y.std(axis=0)


def pair(kind, **settings):
    """An estimator of ours, dense throughout, and scikit-learn's, with the same settings."""
    settings = {"hidden_layer_sizes": (20, 10), "random_state": 3, "max_iter": 25, "batch_size": 40, "shuffle": False} | settings
    if isinstance(kind, str):
        X, y = classes(kind)
        return X, y, SVDMLPClassifier(rank_fraction=None, **settings), MLPClassifier(**settings)
    X, y = targets(kind)
    return X, y, SVDMLPRegressor(rank_fraction=None, **settings), MLPRegressor(**settings)


def assert_same(ours, theirs, X, tolerance, *, losses=True):
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.t_ == theirs.t_
    assert (ours.n_layers_, ours.n_outputs_, ours.out_activation_) == (
        theirs.n_layers_, theirs.n_outputs_, theirs.out_activation_,
    )  # fmt: skip
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    if losses:
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=tolerance)
        assert ours.loss_ == pytest.approx(theirs.loss_, rel=tolerance)
        assert ours.best_loss_ == (theirs.best_loss_ and pytest.approx(theirs.best_loss_, rel=tolerance))
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=tolerance, atol=tolerance) if isinstance(
        ours, SVDMLPRegressor
    ) else np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


SGD = {"solver": "sgd", "learning_rate_init": 0.05}


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", 1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.0},
        {"nesterovs_momentum": False, "alpha": 0.5},
        {"activation": "logistic", "alpha": 3.0},
        {"activation": "tanh", "batch_size": "auto"},
        {"activation": "identity", "learning_rate_init": 0.01},
        {"learning_rate": "invscaling", "momentum": 0.0},
        {"learning_rate": "invscaling", "power_t": 0.3},
        {"learning_rate": "adaptive", "nesterovs_momentum": False, "tol": 0.05, "n_iter_no_change": 2, "max_iter": 60},
        {"learning_rate": "adaptive", "momentum": 0.0, "tol": 0.05, "n_iter_no_change": 2, "max_iter": 60},
        {"hidden_layer_sizes": 7},
        {"hidden_layer_sizes": []},
    ],
)
def test_gradient_descent_is_that_of_scikit_learn(kind, settings):
    if kind == 3 and "tol" in settings:
        settings = settings | {"tol": 0.0}  # its loss is of another size, see below
    X, y, ours, theirs = pair(kind, **(SGD | settings))
    assert_same(ours.fit(X, y), theirs.fit(X, y), X, 1e-8, losses=kind != 3)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", 1, 3])
def test_adam_is_that_of_scikit_learn_but_for_epsilon(kind):
    """There ε is added before the correction of v, here after it."""
    X, y, ours, theirs = pair(kind, epsilon=1e-12, alpha=0.3)
    assert_same(ours.fit(X, y), theirs.fit(X, y), X, 1e-6, losses=kind != 3)


def test_a_loss_of_several_outputs_is_their_sum():
    """What is minimised. There it is their mean, though the gradient is of the sum."""
    X, y, ours, theirs = pair(3, **SGD, alpha=0.0, max_iter=1)
    assert ours.fit(X, y).loss_ == pytest.approx(3 * theirs.fit(X, y).loss_, rel=1e-10)


@pytest.mark.parametrize("kind", ["binary", "multiclass", 1])
def test_sample_weights_are_those_of_scikit_learn(kind):
    X, y, ours, theirs = pair(kind, **SGD, alpha=0.5)
    weight = np.random.default_rng(0).random(len(X)) + 0.1
    try:
        theirs.fit(X, y, weight)
    except TypeError:
        pytest.skip("this scikit-learn's MLPs take no sample weights")
    plain = clone(ours).fit(X, y)
    assert_same(ours.fit(X, y, weight), theirs, X, 1e-8)
    assert np.abs(ours.coefs_[0] - plain.coefs_[0]).max() > 1e-3


@pytest.mark.parametrize("kind", ["binary", "multiclass", 1])
def test_early_stopping_is_that_of_scikit_learn(kind):
    X, y, ours, theirs = pair(
        kind, **SGD, early_stopping=True, validation_fraction=0.2, n_iter_no_change=3, tol=1e-3, max_iter=200
    )
    if isinstance(kind, str):
        y = np.unique(y, return_inverse=True)[1]  # scikit-learn 1.6 can't stop early with strings
    assert_same(ours.fit(X, y), theirs.fit(X, y), X, 1e-8)
    assert ours.n_iter_ < 200
    np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-9)
    assert ours.best_validation_score_ == pytest.approx(theirs.best_validation_score_)


def test_warm_start_is_that_of_scikit_learn():
    X, y, ours, theirs = pair("multiclass", **SGD, warm_start=True)
    for _ in range(2):
        ours.fit(X, y)
        theirs.fit(X, y)
    assert_same(ours, theirs, X, 1e-8)
    assert len(ours.loss_curve_) == 50
    with pytest.raises(ValueError, match="same classes"):
        ours.fit(X[y != "a"], y[y != "a"])
    with pytest.raises(ValueError, match=r"hidden_layer_sizes, y: expected \(20, 10\)"):
        ours.set_params(hidden_layer_sizes=(20, 11)).fit(X, y)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", 1])
def test_partial_fit_is_that_of_scikit_learn(solver, kind):
    X, y, ours, theirs = pair(kind, solver=solver, learning_rate_init=0.01, epsilon=1e-12)
    for i in range(6):
        rows = slice(None) if i % 2 else slice(0, 100)
        arguments = {"classes": np.unique(y)} if isinstance(kind, str) and i == 0 else {}
        ours.partial_fit(X[rows], y[rows], **arguments)
        theirs.partial_fit(X[rows], y[rows], **arguments)
    assert_same(ours, theirs, X, 1e-8 if solver == "sgd" else 1e-4)


@pytest.mark.parametrize("kind", ["binary", "multiclass", 1])
@pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # of an option that older scikit-learn sets
def test_lbfgs_finds_the_minimum(kind):
    X, y, ours, theirs = pair(kind, solver="lbfgs", alpha=5.0, hidden_layer_sizes=[], max_iter=500)
    ours.fit(X, y)
    theirs.fit(X, y)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-5)
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], atol=1e-2)


def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split((X / 16).astype("float32"), y, random_state=0)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_hidden_layers_are_factored(solver):
    X, X_test, y, y_test = digits()
    n = 60 if solver == "lbfgs" else 30
    model = SVDMLPClassifier(
        (128, 128), rank=np.array([None, 16]), pretrain_fraction=0.2, max_iter=n, solver=solver, random_state=0,
        learning_rate_init=0.1 if solver == "sgd" else 0.003, tol=0,
    )  # fmt: skip
    model.fit(X, y)
    assert model.score(X_test, y_test) > 0.95
    # Recomposed: dense, of the rank that was trained.
    assert not model.network_.is_factored
    assert np.linalg.matrix_rank(model.coefs_[1], tol=1e-4) == 16
    assert np.linalg.matrix_rank(model.coefs_[0], tol=1e-4) > 50
    if solver != "lbfgs":
        (switch,) = (e for e in model.result_.events if e.kind == "switch")
        assert switch.step == round(0.2 * n * -(-len(X) // 200))


def test_layers_of_few_inputs_stay_dense_unless_a_rank_is_given():
    X, y = make_classification(300, 20, n_informative=10, random_state=0)
    ranks = []
    ways = [{"rank_fraction": 0.25}, {"rank": 4}, {"rank": [3, None]}, {"rank": 50}, {"rank": "budget:0.3"}, {"rank_fraction": None}]
    for settings in ways:
        model = SVDMLPClassifier((120, 110), max_iter=10, random_state=0, **settings).fit(X, y)
        switches = [e for e in model.result_.events if e.kind == "switch"]
        ranks.append([t.rank for e in switches for t in e.info["truncations"]])
    assert ranks[:4] == [[27], [4, 4], [3], [50]]
    assert len(ranks[4]) == 2 and any(ranks[4])
    assert ranks[5] == []


def test_progress_is_counted_anew_after_the_switch():
    """The loss rises with a hard truncation: that is no want of progress."""
    X, _, y, _ = digits()
    settings = {"pretrain_fraction": 0.5, "max_iter": 60, "n_iter_no_change": 3, "tol": 1e-3, "random_state": 0}
    model = SVDMLPClassifier((128, 128), rank=3, **settings)
    model.fit(X, y)
    (switch,) = (e for e in model.result_.events if e.kind == "switch")
    before, after = model.loss_curve_[switch.epoch - 2], model.loss_curve_[switch.epoch - 1 :]
    assert after[0] > 2 * before
    assert len(after) > 10
    assert model.loss_ < after[0] / 2


# So wide, and with so many steps, that a look is worth its time.
LOOKS = {"hidden_layer_sizes": (256, 256), "batch_size": 50, "random_state": 0}


def cuts(model):
    """The layers that were truncated at each switch, and their ranks."""
    switches = (e for e in model.result_.events if e.kind == "switch")
    return [{t.layer: t.rank for t in e.info["truncations"] if not t.skipped} for e in switches]


def test_layers_are_looked_at_by_default():
    X, X_test, y, y_test = digits()
    model = SVDMLPClassifier(**LOOKS).fit(X, y)
    (look, *_) = (e for e in model.result_.events if e.kind == "ranks")
    assert look.step == 100
    assert cuts(model) == [{1: look.info["ranks"][1]}] and look.info["ranks"][0] is None
    assert not model.network_.is_factored and model.score(X_test, y_test) > 0.95
    # By nothing but the loss, so that the same seed gives the same model.
    np.testing.assert_array_equal(clone(model).fit(X, y).network_.parameters, model.network_.parameters)
    same = clone(model).set_params(rank_fraction=None, rank="auto").fit(X, y)
    np.testing.assert_array_equal(same.network_.parameters, model.network_.parameters)
    later = clone(model).set_params(pretrain_fraction=0.05).fit(X, y)
    assert next(e for e in later.result_.events if e.kind == "ranks").step == round(0.05 * 200 * -(-len(X) // 50))


def test_each_call_of_partial_fit_looks_by_itself_until_one_truncates(monkeypatch):
    """A call has few steps: they allow a look of many multiplications only where looks may take more of them."""
    X, X_test, y, y_test = digits()
    model = SVDMLPClassifier(**LOOKS, pretrain_fraction=0.02, max_iter=100)
    for _ in range(4):
        model.partial_fit(X, y, classes=range(10))
    assert [e.kind for e in model.result_.events] == ["ranks"] * len(model.result_.events) != []
    assert not model.network_.is_factored
    monkeypatch.setattr("svdfast.training.auto.LOOKING", 1.0)
    model.partial_fit(X, y)
    assert model.network_.is_factored and cuts(model)
    rank = model.network_.layers[1].rank
    for _ in range(5):
        model.partial_fit(X, y)
        assert model.result_.events == [] and model.network_.layers[1].rank == rank
    assert model.score(X_test, y_test) > 0.9


def test_partial_fit_after_a_fit_that_looked_stays_dense(monkeypatch):
    X, _, y, _ = digits()
    model = SVDMLPClassifier(**LOOKS, max_iter=20).fit(X, y)
    monkeypatch.setattr("svdfast.training.auto.LOOKING", 1.0)
    model.partial_fit(X, y)
    assert not model.network_.is_factored and model.result_.events == []


def rates(model):
    return [row["learning_rate"] for row in model.result_.history]


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_training_of_factors_ends_with_a_cooldown(solver):
    """A tenth of the epochs before, after the last progress."""
    X, _, y, _ = digits()
    first = 0.003 if solver == "adam" else 0.02
    settings = {"solver": solver, "learning_rate_init": first, "tol": 0.01, "n_iter_no_change": 3, "random_state": 0}
    model = SVDMLPClassifier((128, 128), rank=16, pretrain_fraction=0.02, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model.fit(X, y)
    assert model.stopped_
    scale = rates(model)[0]
    before = rates(model).count(scale)
    n = -(-before // 10)
    assert n > 1 and model.n_iter_ == before + n
    np.testing.assert_allclose(rates(model)[before:], scale * np.arange(n, 0, -1) / (n + 1))
    # What goes on from there goes on at the rate that was asked for.
    model.partial_fit(X, y)
    assert rates(model) == [scale]
    model.set_params(warm_start=True, max_iter=3).fit(X, y)
    assert rates(model)[0] == scale
    # A dense training is scikit-learn's: it ends at once.
    dense = SVDMLPClassifier((128, 128), rank_fraction=None, **settings).fit(X, y)
    assert set(rates(dense)) == {scale}


STUCK = {"n_iter_no_change": 5, "tol": 10.0, "pretrain_fraction": 0.0}


@pytest.mark.parametrize("settings", [{}, STUCK | {"max_iter": 7}, STUCK | {"max_iter": 8}])
def test_the_cooldown_ends_with_max_iter(settings):
    """It begins before, where the loss still falls; else it is shorter."""
    X, _, y, _ = digits()
    model = SVDMLPClassifier((128, 128), rank=16, random_state=0, **({"max_iter": 22, "tol": 0.0} | settings))
    if settings:  # no progress in the six epochs after the first
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            model.fit(X, y)
        expected = [1, 1 / 2]
    else:
        with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
            model.fit(X, y)
        expected = [1, 2 / 3, 1 / 3]
    assert model.n_iter_ == model.max_iter and model.stopped_ == bool(settings)
    np.testing.assert_allclose(np.divide(rates(model), 0.001)[-len(expected) :], expected)


def test_a_search_over_how_ranks_are_chosen():
    X, X_test, y, y_test = digits()
    model = SVDMLPClassifier((128, 128), max_iter=10, random_state=0)
    search = GridSearchCV(model, {"rank_fraction": ["auto", None, 0.25]}, cv=2).fit(X, y)
    assert search.score(X_test, y_test) > 0.9
    for value in ("auto", None, 0.25, np.float32(0.25)):
        copied = clone(model.set_params(rank_fraction=value))
        copy = copied.get_params()["rank_fraction"]
        assert copy == value and type(copy) is type(value)
        assert len(cuts(copied.fit(X, y))) == (value not in ("auto", None))


def test_validation_data_of_ones_own():
    X, X_test, y, y_test = digits()
    weight = np.linspace(0, 1, len(X_test))
    model = SVDMLPClassifier((32,), max_iter=8, random_state=0)
    model.fit(X, y, X_val=X_test, y_val=y_test, sample_weight_val=weight)
    assert len(model.validation_scores_) == len(model.validation_loss_curve_) == 8
    assert model.validation_scores_[-1] == pytest.approx(accuracy_score(y_test, model.predict(X_test), sample_weight=weight))
    p = model.predict_proba(X_test)[np.arange(len(y_test)), y_test]
    assert model.validation_loss_curve_[-1] == pytest.approx(np.average(-np.log(p), weights=weight), rel=1e-4)
    assert model.result_.history[-1]["val_accuracy"] == model.validation_scores_[-1]
    assert model.result_.history[-1]["val_loss"] == pytest.approx(model.validation_loss_curve_[-1])
    # Without them all samples are trained on, as with them.
    plain = clone(model).fit(X, y)
    np.testing.assert_array_equal(plain.coefs_[0], model.coefs_[0])
    assert plain.validation_scores_ is None and plain.best_validation_score_ is None


def test_validation_of_a_regressor():
    X, y = targets(2)
    model = SVDMLPRegressor((32,), max_iter=8, random_state=0)
    model.fit(X[:100], y[:100], X_val=X[100:], y_val=y[100:])
    assert model.validation_scores_[-1] == pytest.approx(r2_score(y[100:], model.predict(X[100:])))
    squares = 0.5 * ((model.predict(X[100:]) - y[100:]) ** 2).sum(axis=1).mean()
    assert model.validation_loss_curve_[-1] == pytest.approx(squares)
    row = model.result_.history[-1]
    assert row["val_score"] == model.validation_scores_[-1] and "val_accuracy" not in row
    # In the history losses are the library's own: the mean of squares.
    assert row["val_loss"] == pytest.approx(squares)
    assert row["loss"] == pytest.approx(model.loss_)


@pytest.mark.parametrize("kind", [scipy.sparse.csr_array, scipy.sparse.csc_matrix])
def test_sparse_samples_are_their_dense_rows(kind, monkeypatch):
    X, X_test, y, y_test = digits()
    settings = {"hidden_layer_sizes": (32,), "rank": 8, "max_iter": 5, "random_state": 0}
    dense = SVDMLPClassifier(**settings).fit(X, y, X_val=X_test, y_val=y_test)
    sparse = SVDMLPClassifier(**settings).fit(kind(X), y, X_val=kind(X_test), y_val=y_test)
    np.testing.assert_array_equal(sparse.coefs_[0], dense.coefs_[0])
    assert sparse.validation_scores_ == dense.validation_scores_
    np.testing.assert_array_equal(sparse.predict_proba(kind(X_test)), dense.predict_proba(X_test))
    early = SVDMLPClassifier(**settings, early_stopping=True)
    np.testing.assert_array_equal(clone(early).fit(kind(X), y).coefs_[0], early.fit(X, y).coefs_[0])
    # Multiplied by entries, all solvers give the same but for rounding.
    monkeypatch.setattr("svdfast.data.sparse.FEW", 1)
    X, X_test = X.astype("float64"), X_test.astype("float64")
    for solver in ("adam", "sgd", "lbfgs"):
        model = SVDMLPClassifier(**settings, solver=solver)
        expected = clone(model).fit(X, y)
        np.testing.assert_allclose(model.fit(kind(X), y).coefs_[0], expected.coefs_[0], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(model.predict_proba(kind(X_test)), expected.predict_proba(X_test), rtol=1e-6, atol=1e-9)
    part, of_dense = (SVDMLPClassifier(**settings) for _ in range(2))
    for _ in range(3):
        part.partial_fit(kind(X), y, classes=np.unique(y))
        of_dense.partial_fit(X, y, classes=np.unique(y))
    np.testing.assert_allclose(part.coefs_[0], of_dense.coefs_[0], rtol=1e-6, atol=1e-8)


def test_sparse_samples_sorted_by_class_are_shuffled_one_by_one():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 250)
    X = scipy.sparse.random_array((1000, 300), density=0.05, random_state=rng, format="csr") + scipy.sparse.csr_array(
        np.eye(4)[y] @ (rng.random((4, 300)) < 0.03)
    )
    settings = {"hidden_layer_sizes": (30,), "max_iter": 8, "random_state": 0}
    ours = SVDMLPClassifier(**settings).fit(X, y).score(X, y)
    assert ours > MLPClassifier(**settings).fit(X, y).score(X, y) - 0.05 > 0.7


@pytest.mark.parametrize("factored", [False, True])
def test_early_stopping_takes_the_best_weights(factored):
    X, X_test, y, y_test = digits()
    last_is_best = []
    for seed in range(4):
        model = SVDMLPClassifier(
            (64, 64), rank=8 if factored else None, rank_fraction=None, max_iter=60, early_stopping=True, random_state=seed,
            n_iter_no_change=5, pretrain_fraction=0.0, learning_rate_init=0.02,
        )  # fmt: skip
        seen = []
        model.fit(X, y, X_val=X_test, y_val=y_test, callbacks=[lambda e, seen=seen: seen.append((e.kind, e.network.copy()))])
        assert model.n_iter_ < 60
        scores = model.validation_scores_
        last_is_best.append(scores[-1] == max(scores))
        assert max(scores) == model.best_validation_score_
        assert model.score(X_test, y_test) == pytest.approx(max(scores), abs=1 / len(y_test))
        best = [net for kind, net in seen if kind == "epoch"][int(np.argmax(scores))]
        assert best.is_factored == factored
        best.recompose()
        np.testing.assert_array_equal(best.parameters, model.network_.parameters)
    assert not all(last_is_best)


def test_the_best_weights_are_those_of_this_early_stopping():
    X, X_test, y, y_test = digits()
    held_out = {"X_val": X_test, "y_val": y_test}
    model = SVDMLPClassifier((16,), warm_start=True, early_stopping=True, max_iter=3, random_state=0).fit(X, y, **held_out)
    before = model.loss_
    model.set_params(early_stopping=False, max_iter=30).fit(X, y, **held_out)
    p = model.predict_proba(X)[np.arange(len(y)), y]
    assert -np.log(p).mean() < before / 2
    # A score reached before, whose weights were not kept, is not one to go back to.
    model.set_params(early_stopping=True, max_iter=5, solver="sgd", learning_rate_init=1.0).fit(X, y, **held_out)
    assert max(model.validation_scores_[33:]) < model.best_validation_score_
    assert model.score(X_test, y_test) == pytest.approx(max(model.validation_scores_[33:]), abs=1e-12)


def test_names_of_features_are_kept_with_early_stopping():
    pandas = pytest.importorskip("pandas", reason="pandas is not there to name features")
    X, _, y, _ = digits()
    X = pandas.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = SVDMLPClassifier((8,), max_iter=2, early_stopping=True).fit(X, y)
        model.fit(X, y, X_val=X, y_val=y).predict(X)
    assert list(model.feature_names_in_) == list(X.columns)
    with pytest.warns(UserWarning, match="valid feature names"):
        model.predict(X.to_numpy())


@pytest.mark.parametrize("settings", [{}, {"rank_fraction": 0.5}, {"rank": "auto"}])
def test_lbfgs_with_nothing_to_truncate_is_not_begun_anew(settings):
    """It takes no steps after which "auto" could look, and 64 inputs are few."""
    X, _, y, _ = digits()
    model = SVDMLPClassifier((16,), solver="lbfgs", max_iter=40, random_state=0, **settings).fit(X, y)
    dense = clone(model).set_params(rank_fraction=None, rank=None).fit(X, y)
    np.testing.assert_array_equal(model.network_.parameters, dense.network_.parameters)
    # It has no epochs to tell of, nor those of another solver.
    model.set_params(solver="adam", warm_start=True, max_iter=2).fit(X, y)
    assert model.result_ is not None
    assert model.set_params(solver="lbfgs").fit(X, y).result_ is None and dense.result_ is None


def test_progress_goes_on_over_a_switch_that_truncates_nothing():
    X, _, y, _ = digits()
    settings = {"hidden_layer_sizes": (16,), "max_iter": 60, "tol": 10.0, "n_iter_no_change": 5, "pretrain_fraction": 0.05}
    model = SVDMLPClassifier(**settings, random_state=0).fit(X, y)
    dense = SVDMLPClassifier(**(settings | {"rank_fraction": None}), random_state=0).fit(X, y)
    assert model.n_iter_ == dense.n_iter_ == 7


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_copy_made_between_calls_goes_on_alike(solver):
    X, _, y, _ = digits()
    model = SVDMLPClassifier(
        (128, 128), rank=8, max_iter=40, solver=solver, random_state=np.random.RandomState(0), learning_rate="adaptive"
    )
    for _ in range(4):
        model.partial_fit(X, y, classes=range(10))
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        model.partial_fit(X, y)
        for again in copies:
            np.testing.assert_array_equal(again.partial_fit(X, y).network_.parameters, model.network_.parameters)
            assert again.result_.network is again.network_


def test_partial_fit_factors_after_its_share_of_calls():
    X, X_test, y, y_test = digits()
    model = SVDMLPClassifier((128, 128), rank=[None, 16], pretrain_fraction=0.2, max_iter=30, random_state=0)
    forms = []
    for _ in range(30):
        model.partial_fit(X, y, classes=range(10))
        forms.append(model.network_.is_factored)
    assert forms == [False] * 6 + [True] * 24
    assert [c.shape for c in model.coefs_] == [(64, 128), (128, 128), (128, 10)]
    assert model.score(X_test, y_test) > 0.95
    # As in one go: the same moments and rates of the factors. The samples' orders differ.
    whole = clone(model).set_params(tol=0).fit(X, y)
    assert model.loss_curve_[-1] == pytest.approx(whole.loss_curve_[-1], rel=0.5)


def test_partial_fit_after_fit_stays_dense():
    X, _, y, _ = digits()
    model = SVDMLPClassifier((128, 128), rank=16, max_iter=5, random_state=0).fit(X, y)
    model.partial_fit(X, y)
    assert not model.network_.is_factored
    assert len(model.loss_curve_) == 6


def test_partial_fit_with_early_stopping():
    X, X_test, y, y_test = digits()
    model = SVDMLPClassifier(
        (64, 64), rank=8, max_iter=40, early_stopping=True, n_iter_no_change=3, random_state=0, learning_rate_init=0.02
    )
    with pytest.raises(ValueError, match=r"partial_fit does not support early_stopping=True without them"):
        model.partial_fit(X, y, classes=range(10))
    for _ in range(60):
        model.partial_fit(X, y, classes=range(10), X_val=X_test, y_val=y_test)
    assert model.stopped_
    n_calls = len(model.validation_scores_)
    assert n_calls < 60
    assert model.score(X_test, y_test) == pytest.approx(max(model.validation_scores_), abs=1e-12)
    before = model.network_.parameters.copy()
    model.partial_fit(X, y, X_val=X_test, y_val=y_test)
    np.testing.assert_array_equal(model.network_.parameters, before)
    # A fit begins anew.
    model.fit(X, y, X_val=X_test, y_val=y_test)
    assert not model.network_.is_factored and len(model.loss_curve_) == model.n_iter_


def test_partial_fit_asks_for_classes():
    X, _, y, _ = digits()
    model = SVDMLPClassifier((8,))
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X, y)
    model.partial_fit(X[:5], y[:5], classes=range(10))
    assert model.predict_proba(X[:2]).shape == (2, 10)
    with pytest.raises(ValueError, match="has classes not in"):
        model.partial_fit(X[:5], y[:5] + 100)
    with pytest.raises(ValueError, match="classes: expected"):
        model.partial_fit(X[:5], y[:5], classes=range(9))


def test_class_weights():
    X, y = make_classification(400, 10, weights=[0.95], flip_y=0.1, random_state=0)
    settings = {"hidden_layer_sizes": (8,), "max_iter": 100, "random_state": 0, "learning_rate_init": 0.01}
    rare = y == 1
    plain = SVDMLPClassifier(**settings).fit(X, y)
    balanced = SVDMLPClassifier(**settings, class_weight="balanced").fit(X, y)
    assert (balanced.predict(X)[rare] == 1).mean() > (plain.predict(X)[rare] == 1).mean() + 0.2
    # They multiply sample weights.
    weight = np.where(rare, 3.0, 1.0)
    by_class = SVDMLPClassifier(**settings, class_weight={0: 1, 1: 3}).fit(X, y, weight)
    by_sample = SVDMLPClassifier(**settings).fit(X, y, weight**2)
    np.testing.assert_array_equal(by_class.coefs_[0], by_sample.coefs_[0])
    # A call need not have every class.
    one, other = (SVDMLPClassifier(**settings, class_weight=w).partial_fit(X, y, classes=[0, 1]) for w in ({1: 3}, {0: 1, 1: 3}))
    for model in (one, other):
        model.partial_fit(X[~rare], y[~rare])
    np.testing.assert_array_equal(one.coefs_[0], other.coefs_[0])
    with pytest.raises(ValueError, match="class_weight: expected a dict or None in partial_fit"):
        SVDMLPClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1])


def test_callbacks_see_epochs_and_may_end_the_training():
    X, _, y, _ = digits()
    kinds = []

    def stop(event):
        kinds.append(event.kind)
        if kinds.count("epoch") == 4:
            raise sf.StopTraining

    model = SVDMLPClassifier((128, 128), rank=16, max_iter=20, random_state=0, pretrain_fraction=0.1)
    model.fit(X, y, callbacks=[stop])
    assert kinds == ["epoch", "epoch", "switch", "epoch", "epoch", "recompose"]
    assert model.n_iter_ == len(model.loss_curve_) == 4
    assert "recomposed" in model.result_.explain()


def test_an_interrupted_fit_is_usable():
    X, _, y, _ = digits()

    def interrupt(event):
        if event.kind == "epoch" and event.epoch == 3:
            raise KeyboardInterrupt

    model = SVDMLPClassifier((128, 128), rank=16, max_iter=20, random_state=0, pretrain_fraction=0.05)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(X, y, callbacks=[interrupt])
    assert not model.network_.is_factored and model.n_iter_ == 3
    assert model.predict(X).shape == y.shape


@pytest.mark.parametrize(
    ("X_type", "dtype", "expected"),
    [
        ("float32", None, "float32"),
        ("float64", None, "float64"),
        ("int64", None, "float64"),
        ("uint8", None, "float64"),
        ("float64", "float32", "float32"),
        ("float32", "float64", "float64"),
    ],
)
def test_dtype_follows_X_unless_it_is_given(X_type, dtype, expected):
    X, y = load_digits(return_X_y=True)
    X = X.astype(X_type)
    model = SVDMLPClassifier((16,), max_iter=3, random_state=0, dtype=dtype).fit(X, y)
    assert model.network_.dtype == model.coefs_[0].dtype == model.predict_proba(X).dtype == expected
    # uint8 is no pixel here: as if it were converted.
    same = SVDMLPClassifier((16,), max_iter=3, random_state=0, dtype=expected).fit(X.astype("float64"), y)
    np.testing.assert_allclose(same.coefs_[0], model.coefs_[0], rtol=1e-5, atol=1e-6)


def test_it_lives_in_scikit_learns_world():
    X, X_test, y, y_test = digits()
    model = make_pipeline(StandardScaler(), SVDMLPClassifier((128, 128), max_iter=10, random_state=0))
    grid = {"svdmlpclassifier__rank": [8, 32], "svdmlpclassifier__alpha": [1e-4, 1e-2]}
    search = GridSearchCV(model, grid, n_jobs=2, cv=2).fit(X, y)
    assert search.score(X_test, y_test) > 0.9
    scores = cross_val_score(model, X, y, cv=2, n_jobs=2)
    assert scores.shape == (2,) and scores.min() > 0.85
    # The same in another process, and with one job.
    np.testing.assert_array_equal(cross_val_score(model, X, y, cv=2), scores)


def test_pickles_and_clones(tmp_path):
    X, X_test, y, y_test = digits()
    model = SVDMLPClassifier((64,), rank=8, max_iter=5, random_state=0).fit(X, y, X_val=X_test, y_val=y_test)
    joblib.dump(model, tmp_path / "model.joblib")
    for again in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")):
        np.testing.assert_array_equal(again.predict_proba(X_test), model.predict_proba(X_test))
        again.partial_fit(X, y)
    assert len(again.loss_curve_) == 6 and len(model.loss_curve_) == 5
    fresh = clone(model)
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    assert not hasattr(fresh, "coefs_")


def test_coefs_and_intercepts_can_be_set():
    X, X_test, y, _ = digits()
    model = SVDMLPClassifier((8, 6), max_iter=2, random_state=0).fit(X, y)
    for array in model.coefs_ + model.intercepts_:
        array[...] = 0
    np.testing.assert_allclose(model.predict_proba(X[:3]), 0.1, rtol=1e-6)
    other = MLPClassifier((8, 6), max_iter=30, random_state=1).fit(X, y)
    # As whole lists, item by item, by slices, and in place.
    model.coefs_, model.intercepts_ = other.coefs_, other.intercepts_
    np.testing.assert_allclose(model.predict_proba(X_test), other.predict_proba(X_test), rtol=1e-4)
    model.coefs_[0] = np.zeros((64, 8))
    model.intercepts_[-1] = np.arange(10)
    model.coefs_[1:] = [2 * W for W in other.coefs_[1:]]
    model.intercepts_[0] += 1
    other.coefs_[0] = np.zeros((64, 8), "float32")
    other.intercepts_[-1] = np.arange(10, dtype="float32")
    other.coefs_[1:] = [2 * W for W in other.coefs_[1:]]
    other.intercepts_[0] += 1
    np.testing.assert_allclose(model.predict_proba(X_test), other.predict_proba(X_test), rtol=1e-4)
    # What goes on goes on from there.
    model.set_params(warm_start=True, max_iter=1, solver="sgd", learning_rate_init=1e-12).fit(X, y)
    np.testing.assert_allclose(model.coefs_[1], other.coefs_[1], rtol=1e-5, atol=1e-8)
    assert isinstance(model.coefs_, list) and len(model.coefs_ + model.intercepts_) == 6
    for copied in (copy.deepcopy(model.coefs_), copy.copy(model.coefs_), pickle.loads(pickle.dumps(model.coefs_))):
        assert type(copied) is list
        np.testing.assert_array_equal(copied[1], model.coefs_[1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: m.coefs_.__setitem__(0, np.zeros((8, 64))), ValueError, r"coefs_\[0\]: expected shape \(64, 8\)"),
        (lambda m: m.coefs_.__setitem__(-1, 3.0), ValueError, r"coefs_\[1\]: expected shape"),
        (lambda m: m.intercepts_.__setitem__(0, np.array(["a"] * 8)), TypeError, r"intercepts_\[0\]: expected real numbers"),
        (lambda m: setattr(m, "coefs_", [m.coefs_[0] + 1]), ValueError, "coefs_: expected 2 arrays"),
        (lambda m: setattr(m, "coefs_", [m.coefs_[0] + 1, np.zeros(3)]), ValueError, r"coefs_\[1\]: expected shape"),
        (lambda m: m.coefs_.append(0), TypeError, "coefs_: expected one array for each of the 2 layers"),
        (lambda m: m.coefs_.pop(), TypeError, "coefs_: expected one array"),
        (lambda m: m.coefs_.__delitem__(0), TypeError, "coefs_: expected one array"),
        (lambda m: m.coefs_.__setitem__(2, 0), IndexError, "out of range"),
    ],
)
def test_what_cannot_be_set_is_refused_and_changes_nothing(change, error, message):
    X, _, y, _ = digits()
    model = SVDMLPClassifier((8,), max_iter=2, random_state=0).fit(X, y)
    before = model.network_.parameters.copy()
    with pytest.raises(error, match=message):
        change(model)
    np.testing.assert_array_equal(model.network_.parameters, before)


def test_coefs_of_factored_layers_are_products_that_cannot_be_set():
    X, _, y, _ = digits()
    model = SVDMLPClassifier((128, 128), rank=8, pretrain_fraction=0.0).partial_fit(X, y, classes=range(10))
    assert model.network_.is_factored
    layer = model.network_.layers[1]
    np.testing.assert_allclose(model.coefs_[1], (layer.W1 @ layer.W2).T, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="read-only"):
        model.coefs_[1][...] = 0
    with pytest.raises(ValueError, match=r"coefs_\[1\]: expected a dense layer to write to, got a factored one"):
        model.coefs_[1] = np.zeros((128, 128))
    model.coefs_[2] = np.zeros((128, 10))
    assert not model.network_.layers[2].W.any()


@pytest.mark.parametrize("way", ["partial_fit", "warm_start", "fit"])
def test_first_weights_can_be_given(way):
    X, _, y, _ = digits()
    settings = {"hidden_layer_sizes": (8,), "solver": "sgd", "learning_rate_init": 1e-12, "random_state": 0, "max_iter": 1}
    model = SVDMLPClassifier(**settings, warm_start=way == "warm_start")
    assert not hasattr(model, "coefs_") and not hasattr(model, "intercepts_")
    W = [np.full((64, 8), 0.1), np.full((8, 10), 0.2)]
    model.coefs_ = [0, 0]
    model.coefs_[:] = W
    assert not hasattr(clone(model), "coefs_")
    with pytest.raises(NotFittedError):
        model.predict(X)
    model.partial_fit(X, y, classes=range(10)) if way == "partial_fit" else model.fit(X, y)
    plain = SVDMLPClassifier(**settings).fit(X, y)
    expected = plain.coefs_ if way == "fit" else W
    for ours, theirs in zip(model.coefs_, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(model.intercepts_[0], plain.intercepts_[0], rtol=1e-5)
    wrong = SVDMLPClassifier(**settings)
    wrong.coefs_ = W[:1]
    with pytest.raises(ValueError, match="coefs_: expected 2 arrays"):
        wrong.partial_fit(X, y, classes=range(10))
    assert not hasattr(wrong, "network_")


def test_multilabel_and_several_outputs():
    X, y = classes("multilabel", n=300)
    model = SVDMLPClassifier((64, 64), rank=8, max_iter=200, random_state=0, learning_rate_init=0.01).fit(X, y)
    assert model.predict(X).shape == model.predict_proba(X).shape == y.shape
    assert set(np.unique(model.predict(X))) == {0, 1}
    assert (model.predict(X) == y).mean() > 0.9
    X, y = targets(3)
    regressor = SVDMLPRegressor((64, 64), rank=8, max_iter=100, random_state=0).fit(X, y)
    assert regressor.predict(X).shape == y.shape and regressor.score(X, y) > 0.9
    assert regressor.fit(X, y[:, 0]).predict(X).shape == (150,)


def test_one_class_alone():
    X = np.random.default_rng(0).standard_normal((20, 3))
    model = SVDMLPClassifier((4,), max_iter=3).fit(X, ["only"] * 20)
    assert set(model.predict(X)) == {"only"}
    np.testing.assert_array_equal(model.predict_proba(X), np.ones((20, 1)))


def test_the_user_is_told():
    X, _, y, _ = digits()
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        SVDMLPClassifier((8,), max_iter=2).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge after 2 iterations"):
        SVDMLPClassifier((8,), max_iter=2, solver="lbfgs", rank_fraction=None).fit(X, y)
    with pytest.warns(UserWarning, match="Got `batch_size` less than 1 or larger"):
        SVDMLPClassifier((8,), max_iter=2, batch_size=5000).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SVDMLPClassifier((8,), max_iter=200, tol=0.1).fit(X, y)


def test_it_is_quiet_unless_verbose(capsys):
    X, _, y, _ = digits()
    SVDMLPClassifier((8,), max_iter=2).fit(X, y)
    assert capsys.readouterr() == ("", "")
    SVDMLPClassifier((8,), max_iter=2, verbose=True, early_stopping=True).fit(X, y)
    out, err = capsys.readouterr()
    assert out.startswith("Iteration 1, loss = ") and out.count("Validation score: ") == 2 and err == ""


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"solver": "newton"}, ValueError, "solver: expected adam or sgd or lbfgs"),
        ({"activation": "step"}, ValueError, "activation: expected"),
        ({"alpha": -1}, ValueError, "alpha: expected"),
        ({"alpha": "x"}, TypeError, "alpha: expected a number"),
        ({"batch_size": 0}, ValueError, "batch_size: expected"),
        ({"batch_size": "all"}, TypeError, "batch_size: expected an integer"),
        ({"learning_rate": "fast"}, ValueError, "learning_rate: expected"),
        ({"learning_rate_init": 0}, ValueError, "learning_rate_init: expected"),
        ({"max_iter": 0}, ValueError, "max_iter: expected"),
        ({"momentum": 1.0, "solver": "sgd"}, ValueError, "momentum: expected"),
        ({"beta_1": 1.0}, ValueError, "beta1: expected"),
        ({"hidden_layer_sizes": (3, 0)}, ValueError, "hidden_layer_sizes: expected"),
        ({"hidden_layer_sizes": "poisson"}, TypeError, "hidden_layer_sizes: expected an integer or a sequence"),
        ({"hidden_layer_sizes": (3, 1.5)}, TypeError, "hidden_layer_sizes: expected an integer"),
        ({"rank_fraction": 0.0}, ValueError, "rank_fraction: expected a number above 0"),
        ({"rank_fraction": 2}, ValueError, "rank_fraction: expected a number above 0"),
        ({"rank_fraction": -1.0, "solver": "lbfgs"}, ValueError, "rank_fraction: expected a number above 0"),
        ({"rank_fraction": True}, TypeError, "rank_fraction: expected a number"),
        ({"rank_fraction": [0.5]}, TypeError, "rank_fraction: expected a number"),
        ({"rank_fraction": "energy:0.5"}, ValueError, 'rank_fraction: expected a number, "auto" or None, got .energy:0.5.'),
        ({"rank_fraction": "most", "solver": "lbfgs"}, ValueError, 'rank_fraction: expected a number, "auto" or None'),
        ({"rank": 0}, ValueError, "rank: expected"),
        ({"rank": 2.5}, TypeError, "rank: expected an integer"),
        ({"rank": [1, 2, 3]}, ValueError, "ranks: expected"),
        ({"rank": [None], "solver": "lbfgs"}, ValueError, "ranks: expected"),
        ({"rank": "most"}, ValueError, "ranks: expected"),
        ({"rank": 4, "rank_fraction": 0.5}, ValueError, r"rank, rank_fraction: expected one of the two, got both \(4 and 0\.5\)"),
        ({"rank": "energy:0.9", "rank_fraction": 0.5, "solver": "lbfgs"}, ValueError, "rank, rank_fraction: expected one of the two"),
        ({"pretrain_fraction": 2}, ValueError, "pretrain_fraction: expected"),
        ({"pretrain_fraction": 2, "solver": "lbfgs"}, ValueError, "pretrain_fraction: expected"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction: expected"),
        ({"validation_fraction": 0.0001, "early_stopping": True}, ValueError, "expected at least 2 .* The validation set is too small"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change: expected"),
        ({"n_iter_no_change": Decimal("sNaN")}, TypeError, "n_iter_no_change: expected an integer"),
        ({"epsilon": 0.0}, ValueError, "epsilon: expected a finite number > 0"),
        ({"epsilon": 10**400, "solver": "sgd"}, ValueError, "epsilon: expected a finite number > 0"),
        ({"shuffle": "no"}, TypeError, "shuffle: expected True or False"),
        ({"early_stopping": "no"}, TypeError, "early_stopping: expected True or False"),
        ({"dtype": "float16"}, ValueError, "dtype: expected"),
        ({"n_threads": 0}, ValueError, "n_threads: expected"),
        ({"precision": "half"}, ValueError, "precision: expected"),
        ({"learning_rate_init": 1e30, "solver": "sgd"}, ValueError, "non-finite parameter weights"),
    ],
)
def test_bad_parameters_are_refused_at_fit(settings, error, message):
    X, _, y, _ = digits()
    model = SVDMLPClassifier(**({"hidden_layer_sizes": (120, 110), "max_iter": 3} | settings))
    with pytest.raises(error, match=message):
        model.fit(X, y)
    assert not hasattr(model, "network_") and not hasattr(model, "n_features_in_")


@pytest.mark.parametrize(
    "broken",
    [
        {"sample_weight": -np.ones(150)},
        {"callbacks": [lambda event: 1 // 0]},
        {"X_val": np.zeros((2, 12)), "y_val": ["a", "z"]},
    ],
)
def test_a_fit_that_fails_leaves_the_model_as_it_was(broken):
    X, y = classes("multiclass")
    model = SVDMLPClassifier((8,), max_iter=3, random_state=0).fit(X[:, :5], np.where(y == "a", "b", "c"))
    before = model.predict_proba(X[:, :5])
    with pytest.raises((ValueError, ZeroDivisionError)):
        model.fit(X, y, **broken)
    np.testing.assert_array_equal(model.predict_proba(X[:, :5]), before)
    assert set(model.predict(X[:, :5])) <= set(model.classes_) == {"b", "c"}
    assert len(model.loss_curve_) == model.n_iter_ == 3


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ({"y_val": np.zeros(149)}, "inconsistent numbers of samples"),
        ({"y_val": np.full(150, np.nan)}, "contains NaN"),
        ({"y_val": np.zeros((150, 2))}, "y_val: expected 1 outputs"),
        ({"sample_weight_val": -np.ones(150)}, "sample_weight_val: expected weights"),
        ({"sample_weight_val": np.ones(149)}, "sample_weight_val: expected shape"),
        ({"X_val": None, "y_val": None, "sample_weight_val": np.ones(150)}, "sample_weight_val: expected X_val and y_val"),
    ],
)
def test_bad_validation_data_are_refused_before_the_first_step(validation, message):
    X, y = targets(1)
    seen = []
    with pytest.raises(ValueError, match=message):
        SVDMLPRegressor((8,), max_iter=2).fit(X, y, **({"X_val": X, "y_val": y} | validation), callbacks=[seen.append])
    assert seen == []


def test_a_model_that_goes_on_is_of_one_kind():
    X, y = classes("multilabel")
    rows, codes = y[:, :3], np.arange(len(y)) % 3
    for first, other in ((rows, codes), (codes, rows)):
        model = SVDMLPClassifier((8,), max_iter=2).fit(X, first)
        with pytest.raises(ValueError, match="y: expected multi"):
            model.partial_fit(X, other)
    with pytest.raises(ValueError, match="activation: expected relu, as the model that continues has"):
        model.set_params(activation="tanh", warm_start=True).fit(X, codes)


def test_a_switch_call_that_fails_is_made_good():
    X, _, y, _ = digits()
    model = SVDMLPClassifier((128, 128), rank=8, pretrain_fraction=0.0).partial_fit(X, y, classes=range(10))
    assert model.network_.is_factored
    model = clone(model).set_params(pretrain_fraction=0.01, max_iter=100).partial_fit(X, y, classes=range(10))
    with pytest.raises(ValueError, match="n_threads"):
        model.set_params(n_threads=0).partial_fit(X, y)
    assert model.set_params(n_threads=1).partial_fit(X, y).network_.is_factored


def test_bad_data_are_refused():
    X, X_test, y, y_test = digits()
    model = SVDMLPClassifier((8,), max_iter=2)
    with pytest.raises(ValueError, match="X_val, y_val: expected both or neither"):
        model.fit(X, y, X_val=X_test)
    for callbacks in ([3], print):
        with pytest.raises(TypeError, match="callbacks: expected an iterable of callables"):
            model.fit(X, y, callbacks=callbacks)
    with pytest.raises(ValueError, match="has classes not in"):
        model.fit(X, y, X_val=X_test, y_val=y_test + 1)
    with pytest.raises(ValueError, match="features"):
        model.fit(X, y, X_val=X_test[:, :5], y_val=y_test)
    with pytest.raises(ValueError, match="sample_weight: expected"):
        model.fit(X, y, sample_weight=-np.ones(len(X)))
    with pytest.raises(AttributeError, match=r"has no attribute .partial_fit."):
        SVDMLPClassifier(solver="lbfgs").partial_fit(X, y, classes=range(10))


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    for name in [n for n in sys.modules if n == "sklearn" or n.startswith("sklearn.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "svdfast.sklearn")
    with pytest.raises(ImportError, match=r'pip install "svdfast\[sklearn\]"'):
        import svdfast.sklearn  # noqa: F401


def test_parameters_of_scikit_learns_mlps_are_taken():
    X, y = targets(1)
    for ours, theirs in ((SVDMLPClassifier, MLPClassifier()), (SVDMLPRegressor, MLPRegressor())):
        model = ours(**theirs.get_params())
        assert model.get_params().items() >= theirs.get_params().items()
        assert ours().get_params() == model.get_params()
    model.set_params(max_iter=5, random_state=0).fit(X, y)
    assert model.loss == "squared_error" and model.out_activation_ == "identity"
    with pytest.raises(TypeError, match="loss"):
        SVDMLPClassifier(loss="squared_error")


def counts(n_outputs):
    X, y = targets(n_outputs)
    return X, np.random.default_rng(0).poisson(np.exp(y))


POISSON = {"loss": "poisson", "hidden_layer_sizes": (20, 10), "random_state": 3, "max_iter": 25, "batch_size": 40, "shuffle": False}


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("settings", [{"solver": "sgd", "alpha": 0.5}, {"epsilon": 1e-12}, {"solver": "sgd", "early_stopping": True}])
def test_the_poisson_loss_is_that_of_scikit_learn(n_outputs, settings):
    try:
        theirs = MLPRegressor(**POISSON, **settings)
    except TypeError:
        pytest.skip("this scikit-learn's MLPRegressor has no loss")
    X, y = counts(n_outputs)
    weight = np.random.default_rng(1).random(len(X)) + 0.5
    ours = SVDMLPRegressor(rank_fraction=None, **POISSON, **settings).fit(X, y, weight)
    assert_same(ours, theirs.fit(X, y, weight), X, 1e-5 if "epsilon" in settings else 1e-8)
    assert ours.out_activation_ == "exp" and ours.predict(X).min() > 0


def test_the_poisson_loss_with_factors_and_what_it_refuses():
    X, y = counts(1)
    model = SVDMLPRegressor((64, 48), loss="poisson", rank=6, max_iter=80, random_state=0, learning_rate_init=0.005).fit(X, y)
    assert model.score(X, y) > 0.8 and cuts(model)
    # As good by L-BFGS; and the validation loss is half the deviance.
    fast = clone(model).set_params(solver="lbfgs").fit(X, y)
    assert fast.score(X, y) > 0.8
    model.fit(X, y, X_val=X, y_val=y)
    p = model.predict(X)
    deviance = np.mean(np.where(y > 0, y * np.log(np.maximum(y, 1) / p), 0) - y + p)
    assert model.validation_loss_curve_[-1] == pytest.approx(deviance, rel=0.05)
    with pytest.raises(ValueError, match=r'y: expected counts or rates ≥ 0 .*, got -5.*; loss="squared_error" takes any'):
        SVDMLPRegressor(loss="poisson").fit(X, y - 5)
    with pytest.raises(ValueError, match="loss: expected squared_error or poisson, got 'gamma'"):
        SVDMLPRegressor(loss="gamma").fit(X, y)
    with pytest.raises(ValueError, match="loss: expected one of exp outputs, as the model that continues has"):
        model.set_params(loss="squared_error").partial_fit(X, y)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", 1, 3])
def test_a_number_is_the_weight_of_each_sample(kind):
    X, y, ours, theirs = pair(kind, **SGD, alpha=2.0)
    by_number = clone(ours).fit(X, y, 3.0, X_val=X, y_val=y, sample_weight_val=2)
    each = clone(ours).fit(X, y, np.full(len(X), 3.0), X_val=X, y_val=y)
    np.testing.assert_array_equal(by_number.network_.parameters, each.network_.parameters)
    assert by_number.validation_scores_ == each.validation_scores_
    assert np.abs(by_number.coefs_[0] - ours.fit(X, y).coefs_[0]).max() > 1e-4  # the penalty is shared by more
    for weight in (0, -1.0, np.nan):
        with pytest.raises(ValueError, match="sample_weight: expected"):
            ours.fit(X, y, weight)
    try:
        theirs.fit(X, y, 3.0)
    except TypeError:
        return  # this scikit-learn's MLPs take no sample weights
    assert_same(by_number, theirs, X, 1e-8, losses=kind != 3)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1, 1: 5}])
@pytest.mark.parametrize("multilabel", [False, True])
def test_class_weights_count_in_the_validation_score_of_either_kind(class_weight, multilabel):
    X, y = make_classification(400, 10, weights=[0.9], flip_y=0.1, random_state=0)
    if multilabel:
        y = np.column_stack([y, X[:, 0] > 0]).astype(int)
        class_weight = class_weight if class_weight == "balanced" else [class_weight, {0: 1, 1: 1}]
    weight = np.random.default_rng(0).random(400) + 0.5
    model = SVDMLPClassifier((8,), class_weight=class_weight, early_stopping=True, max_iter=4, random_state=0, shuffle=False)
    inner = clone(model).fit(X, y, weight)
    # The same samples, given. Their class weights are those of the samples trained on.
    rng = np.random.RandomState(0)
    rng.uniform(size=10 * 8 + 8 + 8 * inner.n_outputs_ + inner.n_outputs_)
    stratify = None if multilabel else y
    rows, rows_val = train_test_split(np.arange(400), random_state=rng, test_size=0.1, stratify=stratify)
    if class_weight != "balanced":
        given = clone(model).fit(
            X[rows], y[rows], weight[rows], X_val=X[rows_val], y_val=y[rows_val], sample_weight_val=weight[rows_val]
        )
        np.testing.assert_allclose(given.validation_scores_, inner.validation_scores_, rtol=1e-6)
    given = clone(model).fit(X, y, weight, X_val=X[rows_val], y_val=y[rows_val], sample_weight_val=weight[rows_val])
    from sklearn.utils.class_weight import compute_sample_weight

    total = compute_sample_weight(class_weight, y)[rows_val] * weight[rows_val]
    best = accuracy_score(y[rows_val], given.predict(X[rows_val]), sample_weight=total)
    assert given.best_validation_score_ == pytest.approx(best, rel=1e-6)
    plain = accuracy_score(y[rows_val], given.predict(X[rows_val]), sample_weight=weight[rows_val])
    assert abs(plain - best) > 1e-3


@pytest.mark.parametrize("kind", [scipy.sparse.csr_array, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix])
def test_sparse_labels_come_back_sparse(kind):
    X, y = classes("multilabel")
    settings = {"hidden_layer_sizes": (20,), "max_iter": 25, "random_state": 0, "early_stopping": True}
    dense = SVDMLPClassifier(**settings).fit(X, y)
    model = SVDMLPClassifier(**settings).fit(X, kind(y))
    np.testing.assert_array_equal(model.coefs_[0], dense.coefs_[0])
    assert isinstance(dense.predict(X), np.ndarray)
    found = model.predict(X)
    theirs = MLPClassifier(**(settings | {"early_stopping": False}))  # scikit-learn 1.8 can't stop early with them
    expected = theirs.fit(X, kind(y)).predict(X)
    assert scipy.sparse.issparse(found) and type(found) is type(expected) and found.dtype == expected.dtype
    np.testing.assert_array_equal(found.toarray(), dense.predict(X))
    assert model.score(X, kind(y)) == dense.score(X, y)
    assert isinstance(model.predict_proba(X), np.ndarray)
    model.set_params(class_weight=[{0: 1, 1: 2}] * 4).fit(kind(X), kind(y), X_val=X, y_val=kind(y))
    assert scipy.sparse.issparse(model.predict(X))
    model.partial_fit(X, kind(y), X_val=X, y_val=kind(y))


def test_a_pipeline_transforms_the_validation_data_too():
    import sklearn
    from sklearn.pipeline import Pipeline

    X, X_test, y, y_test = digits()
    X, X_test = 16 * X, 16 * X_test
    model = SVDMLPClassifier((32,), max_iter=8, early_stopping=True, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = clone(model).set_fit_request(X_val=True, y_val=True)
        pipeline = Pipeline([("scale", StandardScaler()), ("mlp", routed)], transform_input=["X_val"])
        pipeline.fit(X, y, X_val=X_test, y_val=y_test)
    scaler = StandardScaler().fit(X)
    by_hand = model.fit(scaler.transform(X), y, X_val=scaler.transform(X_test), y_val=y_test)
    assert pipeline[-1].validation_scores_ == by_hand.validation_scores_


def test_a_training_that_diverges_keeps_the_best_weights():
    X, y = targets(1)
    settings = {"solver": "sgd", "learning_rate_init": 3.0, "activation": "identity", "early_stopping": True, "max_iter": 40}
    for kind in ({"rank": 3}, {"rank_fraction": None}):
        model = SVDMLPRegressor((40, 30), random_state=0, pretrain_fraction=0.0, **settings, **kind)
        with pytest.warns(ConvergenceWarning, match=r"Training diverged in iteration \d+: the weights are those of the best"):
            model.fit(X, y, X_val=X, y_val=y)
        n = model.n_iter_
        assert len(model.loss_curve_) == len(model.validation_scores_) == len(model.validation_loss_curve_) == n < 40
        assert np.isnan([model.loss_, model.loss_curve_[-1], model.validation_scores_[-1]]).all()
        assert model.t_ == n * len(X) and model.stopped_ and model.result_ is None
        assert model.score(X, y) == pytest.approx(model.best_validation_score_)
        assert not model.network_.is_factored
    # There is nothing to go back to without a score, or before the first.
    for change in ({"early_stopping": False}, {"learning_rate_init": 1e200}):
        model = SVDMLPRegressor((40, 30), random_state=0, **(settings | change))
        with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
            model.fit(X, y)
        assert not hasattr(model, "network_")


OF_EPOCHS = ["loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"]


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # of an option that older scikit-learn sets
def test_attributes_are_those_of_scikit_learn(solver, early_stopping):
    X, y, ours, theirs = pair("multiclass", solver=solver, early_stopping=early_stopping)
    y = np.unique(y, return_inverse=True)[1]
    ours.fit(X, y)
    theirs.fit(X, y)
    public = {name for name in vars(theirs) if name.endswith("_")} | {"coefs_", "intercepts_"}
    for name in public:
        assert isinstance(getattr(theirs, name), type(getattr(ours, name))) or name in ("coefs_", "intercepts_")
    for name in OF_EPOCHS:
        assert hasattr(ours, name) == hasattr(theirs, name) == (solver != "lbfgs")
    # Another solver begins them.
    n_before = 0 if solver == "lbfgs" else ours.n_iter_
    ours.set_params(solver="adam", warm_start=True).fit(X, y)
    assert len(ours.loss_curve_) == n_before + ours.n_iter_ and (ours.best_loss_ is None) == early_stopping
    ours.set_params(early_stopping=not early_stopping).fit(X, y)
    assert (ours.best_loss_ is None) != early_stopping
    ours.set_params(solver="lbfgs", warm_start=False).fit(X, y)
    assert not any(hasattr(ours, name) for name in OF_EPOCHS)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"early_stopping": True},
        {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 1e-5},
        {"solver": "sgd", "learning_rate": "invscaling", "early_stopping": True},
    ],
)
def test_verbose_prints_the_words_of_scikit_learn(settings, capsys):
    X, y, ours, theirs = pair(1, **({"tol": 10.0, "n_iter_no_change": 2, "verbose": 10, "max_iter": 60} | settings))
    theirs.fit(X, y)
    expected = capsys.readouterr().out
    ours.fit(X, y)
    found = capsys.readouterr().out

    def words(text):
        return [line.split(" = ")[0].split(" score: ")[0] for line in text.splitlines()]

    assert words(found) == words(expected) and "did not improve more than tol=10.000000 for 2 consecutive epochs." in found


@pytest.mark.parametrize("learning_rate", ["constant", "invscaling", "adaptive"])
def test_the_rate_of_warm_starts_is_that_of_scikit_learn(learning_rate):
    X, y, ours, theirs = pair(
        "multiclass", **SGD, warm_start=True, learning_rate=learning_rate, tol=0.05, n_iter_no_change=2, max_iter=20
    )
    for _ in range(3):
        ours.fit(X, y)
        theirs.fit(X, y)
        assert ours._optimizer.learning_rate == theirs._optimizer.learning_rate
        assert ours._no_improvement_count == theirs._no_improvement_count
        assert_same(ours, theirs, X, 1e-8)


def ends_after(values, patience, min_delta):
    """The epochs of a training that ends by early stopping, from the values of a longer one; and the best of them."""
    best, epochs = np.inf, 0
    for i, value in enumerate(values, 1):
        best, epochs = (value, 0) if value < best - min_delta else (best, epochs + 1)
        if epochs == patience:
            return i, int(np.argmin(values[:i]))
    return len(values), int(np.argmin(values))


@pytest.mark.parametrize("monitor", ["loss", "val_loss", "val_accuracy"])
@pytest.mark.parametrize("restore_best", [False, True])
def test_early_stopping_of_the_library_is_taken(monitor, restore_best):
    X, X_test, y, y_test = digits()
    held_out = {"X_val": X_test, "y_val": y_test}
    settings = {"hidden_layer_sizes": (40,), "random_state": 0, "rank_fraction": None, "solver": "sgd", "learning_rate_init": 0.5}
    whole = SVDMLPClassifier(**settings, max_iter=60, tol=0.0, n_iter_no_change=np.inf).fit(X, y, **held_out)
    of_epochs = {
        "loss": np.array(whole.loss_curve_),
        "val_loss": np.array(whole.validation_loss_curve_),
        "val_accuracy": -np.array(whole.validation_scores_),
    }
    # As `sf.train` counts.
    n, best = ends_after(of_epochs[monitor], 4, 0.003)
    assert 5 < n < 60
    stopping = sf.EarlyStopping(4, min_delta=0.003, monitor=monitor, restore_best=restore_best)
    model = SVDMLPClassifier(**settings, max_iter=60, early_stopping=stopping)
    assert clone(model).early_stopping == stopping
    nets = []
    model.fit(X, y, **held_out, callbacks=[lambda e: nets.append(e.network.copy())])
    assert model.n_iter_ == n and model.stopped_
    np.testing.assert_array_equal(model.network_.parameters, nets[best if restore_best else n - 1].parameters)
    assert (model.best_loss_ is None) == (monitor != "loss")
    # The samples to validate with are split off where they are needed.
    alone = clone(model).fit(X, y)
    assert (alone.validation_scores_ is None) == (monitor == "loss")


def test_early_stopping_of_the_library_with_factors_and_in_calls():
    X, _, y, _ = digits()
    stopping = sf.EarlyStopping(3, min_delta=0.01, monitor="loss")
    model = SVDMLPClassifier((128, 128), rank=16, random_state=0, early_stopping=stopping, pretrain_fraction=0.02)
    model.fit(X, y)
    n = model.n_iter_
    before = rates(model).count(rates(model)[0])
    assert n < 200 and n == before + -(-before // 10)  # with its cooldown
    calls = clone(model).set_params(pretrain_fraction=1.0, learning_rate_init=0.01)
    for _ in range(80):
        calls.partial_fit(X, y, classes=range(10))
    assert calls.stopped_ and len(calls.loss_curve_) < 80
    with pytest.raises(ValueError, match="early_stopping: expected X_val and y_val"):
        calls.set_params(early_stopping=sf.EarlyStopping()).partial_fit(X, y)
    X, y = targets(1)
    with pytest.raises(ValueError, match="network without an accuracy"):
        SVDMLPRegressor(early_stopping=sf.EarlyStopping(monitor="val_accuracy")).fit(X, y)
    search = GridSearchCV(SVDMLPRegressor((8,), max_iter=20), {"early_stopping": [True, False, sf.EarlyStopping(2)]}, cv=2)
    assert search.fit(X, y).best_estimator_ is not None
    SVDMLPRegressor((8,), solver="lbfgs", max_iter=5, early_stopping=sf.EarlyStopping()).fit(X, y)


def test_validation_data_without_early_stopping_do_not_end_a_training():
    X, X_test, y, y_test = digits()
    settings = {"hidden_layer_sizes": (16,), "max_iter": 60, "tol": 1e-2, "n_iter_no_change": 3, "random_state": 0}
    plain = SVDMLPClassifier(**settings).fit(X, y)
    model = SVDMLPClassifier(**settings).fit(X, y, X_val=X_test, y_val=y_test)
    assert model.n_iter_ == plain.n_iter_ and model.best_loss_ == plain.best_loss_


def test_the_network_of_an_estimator_knows_classes_and_features():
    pd = pytest.importorskip("pandas")
    X, y = targets(1)
    table = pd.DataFrame(X, columns=[f"column {i}" for i in range(X.shape[1])])
    names = tuple(table.columns)
    labels = np.where(y > 0, "high", "low")
    model = SVDMLPClassifier((8,), max_iter=2).fit(table, labels)
    assert model.network_.classes == ("high", "low") and model.network_.feature_names == names
    model.partial_fit(table, labels)
    assert model.network_.classes == ("high", "low")
    numbers = SVDMLPClassifier((8,), max_iter=2).fit(X, np.digitize(y, [-0.5, 0.5]) + 4).network_
    assert numbers.classes == (4, 5, 6) and numbers.feature_names is None
    several = SVDMLPClassifier((8,), max_iter=2).fit(table, np.column_stack([y > 0, y < 1]).astype(int)).network_
    assert several.classes is None and several.feature_names == names
    assert SVDMLPRegressor((8,), max_iter=2).fit(table, y).network_.classes is None


def test_weights_without_an_end_are_refused():
    X, y = targets(1)
    model = SVDMLPRegressor((8,), max_iter=2).fit(X, y)
    with pytest.raises(ValueError, match="coefs_: expected 2 arrays, one for each layer, got more"):
        model.coefs_ = itertools.repeat(np.zeros((1, 8)))
