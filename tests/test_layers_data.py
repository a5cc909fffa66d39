# SPDX-License-Identifier: BSD-3-Clause
"""Data for networks of layers: of every kind and shape, tokens, targets and weights of each step, and what is refused.

Elsewhere: data for fully connected networks (test_losses_and_data.py, test_sources.py), what layers compute (test_layers.py).
"""

import copy
import functools
import pickle
import threading

import numpy as np
import pytest

import svdfast as sf
from svdfast import layers as L
from svdfast.data import rows

RNG = np.random.default_rng(0)


def images(output="softmax"):
    return sf.Network(sf.Input(6, 5, 2), [L.Conv2d(3, 3, "tanh"), L.MaxPool2d(2), L.Flatten(), L.Linear(3, output)], seed=0)


def sequences(output="softmax"):
    layers = [L.Masking(), L.LSTM(4, return_sequences=True, bidirectional=True), L.LayerNorm(), L.GRU(5), L.Linear(3, output)]
    return sf.Network(sf.Input(4, 3), layers, seed=0)


def by_steps(output="softmax"):
    return sf.Network(sf.Input(4, 3), [L.GRU(5, return_sequences=True), L.Dropout(0.1), L.Linear(3, output)], seed=0)


def tokens(n=6, **options):
    return sf.Network(sf.Input(5), [L.Embedding(n, 4), L.GRU(3), L.Linear(3, "softmax")], seed=0, **options)


NETWORKS = {"images": images, "sequences": sequences, "steps": by_steps}


class Slices:
    """A row source."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows):
        return self.array[rows]


class Batches:
    """An iterable of batches that is no list."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


@pytest.fixture(params=NETWORKS)
def net(request):
    return NETWORKS[request.param]()


def samples(net, n=9):
    return RNG.standard_normal((n, *net.layout.input)).astype("float32")


def targets(net, n=9):
    return RNG.integers(0, 3, (n, *net.layout.output_shape[:-1]))


def test_samples_come_in_any_form(net, tmp_path):
    X = samples(net)
    expected, flat = net.predict(X), X.reshape(9, -1)
    X.tofile(tmp_path / "X")
    read_only = X.copy()
    read_only.flags.writeable = False
    forms = [
        flat, np.asfortranarray(X), np.asfortranarray(flat), np.repeat(X, 2, axis=0)[::2], X[::-1].copy()[::-1], read_only, X.tolist(),
        X.astype("float64"), X.astype(">f4"), X.astype(object).astype("float32"), np.moveaxis(np.moveaxis(X, 1, -1).copy(), -1, 1),
        np.memmap(tmp_path / "X", "float32", "r", shape=X.shape), np.memmap(tmp_path / "X", "float32", "r", shape=flat.shape),
    ]  # fmt: skip
    for form in forms:
        np.testing.assert_allclose(net.predict(form), expected, atol=1e-6)
    np.testing.assert_allclose(net.predict(X.astype("float16")), expected, atol=2e-3)
    np.testing.assert_allclose(net.predict(np.full(X.shape, 51, "uint8")), net.predict(np.full(X.shape, 0.2)), atol=1e-6)
    assert net.predict(X[:0]).shape == (0, *net.layout.output_shape)
    np.testing.assert_allclose(net.predict(X[:1]), expected[:1], atol=1e-6)
    bad = X.copy()
    bad[1, 0] = np.nan
    found = net.predict(bad)
    assert np.isnan(found[1]).any() and not np.isnan(found[[0, *range(2, 9)]]).any()


def test_sparse_and_frames(net):
    sparse = pytest.importorskip("scipy.sparse")
    X = samples(net) * (RNG.random((9, *net.layout.input)) < 0.3)
    expected, flat = net.predict(X), X.reshape(9, -1)
    for form in (sparse.csr_array, sparse.csc_array, sparse.coo_array):
        np.testing.assert_allclose(net.predict(form(flat)), expected, atol=1e-6)
    y = targets(net)
    assert net.evaluate(sparse.csr_array(flat), y).loss == pytest.approx(net.evaluate(X, y).loss, rel=1e-5)
    pandas = pytest.importorskip("pandas")
    np.testing.assert_allclose(net.predict(pandas.DataFrame(flat)), expected, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", ["fewer", "one axis more", "one axis less", "columns", "number", "none", "text", "objects", "complex", "ragged"]
)
def test_other_samples_are_refused(net, wrong):
    X = samples(net)
    shape = net.layout.input
    given, error, message = {
        "fewer": (X[:, :-1], ValueError, "X: expected shape"),
        "one axis more": (X[..., np.newaxis], ValueError, "X: expected shape"),
        "one axis less": (X[0, 0, 0], ValueError, "X: expected"),
        "columns": (X.reshape(9, -1)[:, :-1], ValueError, f"X: expected {np.prod(shape)} columns"),
        "number": (1.0, ValueError, "X: expected shape"),
        "none": (None, TypeError, "X: expected"),
        "text": (np.full(X.shape, "a"), TypeError, "X: expected real numbers"),
        "objects": (np.full(X.shape, object()), TypeError, "X: expected"),
        "complex": (X.astype(complex), TypeError, "X: expected real numbers"),
        "ragged": ([X[0].tolist(), X[0][:1].tolist()], ValueError, "X: expected an array of numbers"),
    }[wrong]
    y = targets(net)
    for call in (net.predict, lambda X: net.evaluate(X, y), lambda X: net.loss_and_gradient(X, y), lambda X: sf.train(net, X, y, epochs=1)):
        with pytest.raises(error, match=message):
            call(given)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_what_is_not_finite_is_not_trained_on(net, value):
    X, y = samples(net).astype("float64"), targets(net)
    X[(3,) + (0,) * len(net.layout.input)] = value
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=r"X: expected finite numbers of float32, got .* at 3, 0"):
        sf.train(net, X, y, epochs=1)
    np.testing.assert_array_equal(net.parameters, before)


# --- Tokens ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "float32", "float64", "bool"])
def test_tokens_are_numbers_of_any_type(kind):
    net = tokens(2 if kind == "bool" else 6)
    T = RNG.integers(0, 2 if kind == "bool" else 6, (9, 5))
    np.testing.assert_array_equal(net.predict(T.astype(kind)), net.predict(T))
    assert len(np.unique(net.predict(T.astype(kind)), axis=0)) > 1


@pytest.mark.parametrize("wrong", [-1, 6, 255, 2**40, 0.5, np.nan, np.inf])
def test_other_tokens_are_refused(wrong):
    sparse = pytest.importorskip("scipy.sparse")
    net, y = tokens(), np.arange(9) % 3
    T = RNG.integers(0, 6, (9, 5)).astype("float64" if isinstance(wrong, float) else "int64")
    T[7, 2] = wrong
    before = net.parameters.copy()
    message = "expected tokens, whole numbers from 0 to 5, got .* at 7, 2"
    for form in (T, T.tolist(), np.asfortranarray(T), Slices(T)):
        for call in (net.predict, lambda X: net.evaluate(X, y), lambda X: sf.train(net, X, y, epochs=1)):
            finite = not isinstance(wrong, float) or np.isfinite(wrong) or call == net.predict
            with pytest.raises(ValueError, match="X: " + (message if finite else "expected finite numbers")):
                call(form)
    with pytest.raises(ValueError, match="X: expected"):
        net.predict(sparse.csr_array(T))
    with pytest.raises(ValueError, match="of batch 1: expected"):
        sf.train(net, [(T, y)], epochs=1)
    np.testing.assert_array_equal(net.parameters, before)


def test_tokens_are_no_pixels(recwarn):
    net, T = tokens(), RNG.integers(0, 6, (9, 5)).astype("uint8")
    sf.train(net, T, np.arange(9) % 3, epochs=1)
    assert not recwarn.list


@pytest.mark.parametrize("before", [L.Dropout(0.5), L.LayerNorm(), L.Linear(5)])
def test_an_embedding_comes_first(before):
    """What another layer gives are no tokens, and nothing could tell."""
    with pytest.raises(ValueError, match=r"layers\[1\]: Embedding: expected it as the first layer, got it after another one"):
        sf.Network(sf.Input(5), [before, L.Embedding(3, 4), L.GRU(3), L.Linear(2)])


def test_layers_have_their_own_activations():
    with pytest.raises(ValueError, match="output: expected none with layers, the last of which has its own activation, got 'sigmoid'"):
        sf.Network(sf.Input(5, 3), [L.GRU(4), L.Linear(1)], output="sigmoid")


def test_a_layer_for_sequences_after_one_that_gives_the_last_state():
    expected = r"layers\[1\]: GRU: expected inputs of shape \(steps, features\), got \(4,\); return_sequences=True gives the state"
    with pytest.raises(ValueError, match=expected):
        sf.Network(sf.Input(5, 3), [L.GRU(4), L.GRU(4), L.Linear(1)])
    with pytest.raises(ValueError, match=r"got \(15,\)$"):
        sf.Network(sf.Input(5, 3), [L.Flatten(), L.GRU(4), L.Linear(1)])


def test_text_is_no_target_of_steps():
    """There are no labels for them, and none may be told to ravel what has a row for each sample."""
    net = sf.Network(sf.Input(5, 3), [L.GRU(4, return_sequences=True), L.Linear(2, "softmax")], seed=0)
    with pytest.raises(TypeError, match=r"y: expected class numbers from 0 to 1 for the steps of each sample, got text \('a'\)"):
        sf.train(net, RNG.normal(size=(3, 5, 3)), np.array([["a", "b", "a", "b", "a"]] * 3))


def test_there_are_no_more_tokens_than_float32_tells_apart():
    with pytest.raises(ValueError, match=r"layers\[0\]: n_tokens: expected an integer from 1 to 16777216, got 16777217"):
        tokens(2**24 + 1)


# --- Targets and weights of each step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["softmax", "identity", "sigmoid"])
def test_targets_and_weights_of_steps_from_any_source(output, monkeypatch):
    """In memory, sparse, from rows that are read, and in batches: the same loss, score and training."""
    sparse = pytest.importorskip("scipy.sparse")
    net = by_steps(output)
    X, weight = samples(net, 40), RNG.random((40, 4)).astype("float32")
    y = targets(net, 40) if output == "softmax" else RNG.random((40, 4, 3)).astype("float32")
    expected, score = net.evaluate(X, y, sample_weight=weight), net.score(X, y, weight)
    assert expected.loss > 0
    flat = sparse.csr_array(X.reshape(40, -1))
    monkeypatch.setattr(rows, "POOL_BYTES", 3000)
    sources = [
        (X.reshape(40, 12), y.copy(), weight.astype("float64")), (flat, y, weight), (Slices(X), Slices(y), Slices(weight)),
        (Slices(X.reshape(40, 12)), y, weight), (X, Slices(y), weight), (X, y, Slices(weight)),
    ]  # fmt: skip
    for a, b, w in sources:
        assert net.evaluate(a, b, sample_weight=w).loss == pytest.approx(expected.loss, rel=1e-5)
        assert net.score(a, b, w) == pytest.approx(score, rel=1e-4)
    settings = dict(epochs=2, shuffle=False, n_threads=1)
    trained = []
    for a, b, w in sources:
        trained.append(net.copy())
        sf.train(trained[-1], a, b, sample_weight=w, batch_size=8, **settings)
        np.testing.assert_allclose(trained[-1].parameters, trained[0].parameters, atol=1e-5)
    batches = [(X[i : i + 8], y[i : i + 8], weight[i : i + 8]) for i in range(0, 40, 8)]
    again = net.copy()
    sf.train(again, batches, epochs=2, n_threads=1)
    np.testing.assert_allclose(again.parameters, trained[0].parameters, atol=1e-5)
    # What "auto" looks at is kept of the batches, with their weights.
    sf.train(net, Batches(batches), epochs=8, factoring="auto", validation=Batches(batches))


@pytest.mark.parametrize(("shape", "kind"), [
    ((9,), "int"), ((9, 3), "int"), ((9, 5), "int"), ((8, 4), "int"), ((9, 4, 2), "float"), ((36,), "int"), ((9, 4, 3, 1), "float"),
    ((), "int"), ((4, 9), "int"),
])  # fmt: skip
def test_other_targets_of_steps_are_refused(shape, kind):
    net = by_steps()
    X, y = samples(net), np.zeros(shape, kind)
    calls = [lambda: net.evaluate(X, y), lambda: net.loss_and_gradient(X, y), lambda: sf.train(net, X, y, epochs=1)]
    for call in calls + ([lambda: sf.train(net, X, Slices(y), epochs=1)] if shape else []):
        with pytest.raises(ValueError, match="y: expected"):
            call()


def test_classes_of_steps_are_class_numbers():
    net = by_steps()
    X, y = samples(net), targets(net)
    y[3, 2] = 3
    for given in (y, Slices(y)):
        with pytest.raises(ValueError, match="y: expected class numbers from 0 to 2, got 3 in row 3;"):
            sf.train(net, X, given, epochs=1)
    with pytest.raises(TypeError, match="y: expected integer class numbers"):
        net.evaluate(X, np.full((9, 4), 0.5))


@pytest.mark.parametrize("shape", [(8,), (9, 3), (4, 9), (36,), (9, 4, 1), ()])
def test_other_weights_of_steps_are_refused(shape):
    net = by_steps()
    X, y = samples(net), targets(net)
    for call in (net.evaluate, net.loss_and_gradient, functools.partial(sf.train, net, epochs=1)):
        with pytest.raises(ValueError, match="sample_weight: expected shape"):
            call(X, y, sample_weight=np.ones(shape))
    with pytest.raises(ValueError, match="sample_weight: expected"):
        net.evaluate(X, y, sample_weight=np.zeros((9, 4)))


# --- Copies and threads -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factored", [False, True])
def test_copies_are_networks_of_their_own(net, factored):
    if factored:
        net.truncate(rank_fraction=0.5, force=True)
    X = samples(net)
    expected = net.predict(X)
    pickled = [pickle.loads(pickle.dumps(net, protocol)) for protocol in (2, pickle.HIGHEST_PROTOCOL)]
    for again in (copy.copy(net), copy.deepcopy(net), net.copy(), *pickled):
        assert again.layout == net.layout
        np.testing.assert_array_equal(again.predict(X), expected)
        sf.train(again, X, targets(net), epochs=1)
        np.testing.assert_array_equal(net.predict(X), expected)


def test_threads_may_predict_at_once(net):
    X = samples(net, 300)
    expected, wrong = net.predict(X), []

    def work():
        for _ in range(30):
            if not np.array_equal(net.predict(X), expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- Layers that there are not ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d", "BatchNormalization"])
def test_batch_normalisation_is_refused_with_the_reason(name):
    with pytest.raises(AttributeError, match=f"no {name}: a sample's output would depend on the other samples.* use LayerNorm"):
        getattr(L, name)
    with pytest.raises(AttributeError, match="has no attribute 'Other'"):
        _ = L.Other
