# SPDX-License-Identifier: BSD-3-Clause
"""Sparse samples: what dense ones give, in batches, looks and checkpoints; and what is refused.

As rows that the engine makes dense they give the same bits; multiplied by their entries, the same but for rounding.

Elsewhere: the estimators on sparse samples (test_sklearn.py).
"""

import copy
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

import svdfast as sf
from svdfast import _engine
from svdfast.data import sparse as module
from svdfast.data.open import in_memory
from svdfast.model.evaluation import spec_of

KINDS = [sp.csr_array, sp.csr_matrix, sp.csc_array, sp.coo_matrix, sp.lil_array]


@pytest.fixture(params=["rows", "entries"], autouse=True)
def way(request, monkeypatch):
    """How samples are multiplied, whatever their density."""
    monkeypatch.setattr(module, "FEW", -1 if request.param == "rows" else 1)
    return request.param


def data(n=600, n_in=40, n_classes=3, dtype="float32", seed=0):
    """Sparse rows, as a dense array, and their classes, which come sorted."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n_in)) * (rng.random((n, n_in)) < 0.2)
    y = np.sort((X[:, 0] - X[:, 1] > 0).astype(int) + (X[:, 2] > 0))
    X[:, :n_classes] += np.eye(n_classes)[y]
    X = np.clip(X * 60, 0, 255).astype(dtype) if dtype == "uint8" else X.astype(dtype)
    return X, y


def trained(X, y, *, dtype="float64", validation=None, **settings):
    net = sf.Network([X.shape[1], 64, 48, 3], seed=1, dtype=dtype)
    settings = {"epochs": 6, "batch_size": 32, "factoring": 0.25, "seed": 3} | settings
    settings["optimizer"] = copy.deepcopy(settings.get("optimizer"))  # each training begins with a new one
    return sf.train(net, X, y, validation=validation, **settings)


def assert_same(a, b, way, *, rtol=1e-9):
    if way == "rows":
        np.testing.assert_array_equal(a, b)
    else:
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-10)


def assert_same_training(a, b, way):
    assert_same(a.network.parameters, b.network.parameters, way)
    assert_same([row["loss"] for row in a.history], [row["loss"] for row in b.history], way)
    ranks = [[[t.rank for t in e.info.get("truncations", ())] for e in result.events] for result in (a, b)]
    assert ranks[0] == ranks[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int64", "bool"])
def test_training_gives_what_dense_samples_give(kind, dtype, way):
    X, y = data(dtype=dtype)
    assert_same_training(trained(kind(X), y), trained(X, y), way)


@pytest.mark.parametrize(
    "settings",
    [
        {"shuffle": False},
        {"batch_size": 600},
        {"batch_size": 7},
        {"batch_size": 10_000},
        {"factoring": "auto", "reproducible": True},
        {"factoring": None, "sample_weight": np.linspace(0, 2, 600)},
        {"factoring": sf.Factoring(0.25, pretrain_fraction=0.5), "sample_weight": np.arange(600) % 2},
        {"n_threads": 2, "batch_size": 512},
        {"clip_norm": 0.1},
        {"l1": 0.1, "l2": 0.1},
        {"l1": 0.1, "batch_size": 600, "reproducible": True},
        {"optimizer": "sgd"},
        {"optimizer": sf.GradientDescent(0.1)},
        {"optimizer": sf.GradientDescent(0.1, momentum=0.9, nesterov=True)},
        {"optimizer": sf.GradientDescent(0.1), "l2": 0.3},
        {"optimizer": sf.AdamW(1e-2), "factoring": sf.Factoring(0.25, pretrain_fraction=0.0)},
    ],
)
def test_the_same_whatever_the_settings(settings, way):
    X, y = data()
    assert_same_training(trained(sp.csr_array(X), y, **settings), trained(X, y, **settings), way)


SHAPES = {
    "one column": sp.csr_array(np.ones((5, 1))),
    "one row": sp.csr_array(np.eye(1, 9, 4)),
    "no entries": sp.csr_array((7, 12)),
    "an empty row": sp.csr_array(np.diag([0.0, 1, 2, 0, 3])),
    "full": sp.csr_array(np.arange(1.0, 61).reshape(6, 10) / 60),
    "wider than a block of columns": sp.csr_array(
        (np.arange(1.0, 61) / 60, np.arange(60) * 211 % 12_345, np.arange(0, 61, 3)), shape=(20, 12_345)
    ),
    "long columns": sp.csr_array(np.random.default_rng(0).random((900, 3)) < 0.7).astype(float),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 2e-6)])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("chunk", [None, 8])
def test_losses_and_gradients_are_those_of_dense_samples(shape, dtype, rtol, factored, chunk, monkeypatch):
    if chunk is not None:
        monkeypatch.setattr(_engine, "ENTRY_ROWS", chunk)
        monkeypatch.setattr(_engine, "SUM_ROWS", chunk)
    S = SHAPES[shape]
    X = S.toarray()
    net = sf.Network([X.shape[1], 13, 9, 3], seed=0, dtype=dtype)
    if factored:
        net.truncate(ranks=[min(5, X.shape[1]), None], force=True)
    y, weight = np.arange(len(X)) % 3, np.arange(1.0, len(X) + 1)
    for given in ({}, {"l1": 0.1, "l2": 0.2, "sample_weight": weight}, {"n_threads": 2}):
        loss, gradient = net.loss_and_gradient(S, y, **given)
        expected_loss, expected = net.loss_and_gradient(X, y, **given)
        assert loss == pytest.approx(expected_loss, rel=min(rtol, 1e-6))
        np.testing.assert_allclose(gradient, expected, atol=rtol * np.abs(expected).max())
    np.testing.assert_allclose(net.predict(S), net.predict(X), rtol=2 * rtol)


@pytest.mark.parametrize("settings", [{}, {"batch_size": 600}, {"optimizer": "sgd", "l1": 0.01}, {"clip_norm": 0.1}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_threads(settings, dtype, monkeypatch):
    monkeypatch.setattr(_engine, "ENTRY_ROWS", 256)
    X, y = data()
    one, two = (
        trained(sp.csr_array(X), y, reproducible=True, n_threads=n, dtype=dtype, epochs=2, **settings).network.parameters
        for n in (1, 2)
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("index", ["int32", "int64"])
def test_columns_in_any_order_and_of_any_type(index, way):
    X, y = data()
    S = sp.csr_array(X)
    S.indices, S.indptr = S.indices.astype(index), S.indptr.astype(index)
    for start, stop in zip(S.indptr[:-1], S.indptr[1:], strict=True):
        S.indices[start:stop], S.data[start:stop] = S.indices[start:stop][::-1].copy(), S.data[start:stop][::-1].copy()
    S.has_sorted_indices = S.has_canonical_format = False
    assert_same_training(trained(S, y, epochs=1), trained(X, y, epochs=1), way)


def test_columns_without_entries_stay_as_they_are():
    S = sp.csr_array(np.eye(10, 5000)[:, ::-1])
    net = sf.Network([5000, 6, 3], seed=0)
    before = net.layers[0].weight_tensors[0].copy()
    sf.train(net, S, np.arange(10) % 3, epochs=3, batch_size=5, optimizer=sf.GradientDescent(0.5), factoring=None)
    after = net.layers[0].weight_tensors[0]
    np.testing.assert_array_equal(after[:, :-10], before[:, :-10])
    assert (after[:, -10:] != before[:, -10:]).mean() > 0.5


def test_the_engine_goes_by_entries_where_a_product_alone_reads_them(way):
    S = sp.csr_array(np.eye(6, 30))

    def by_entries(net, **settings):
        inputs = in_memory(S, None, None, spec_of(net)._replace(targets=None)).inputs
        return _engine.Engine(*net.state, batch_size=6, n_threads=1, by_entries=inputs.by_entries, **settings).by_entries

    dense = sf.Network([30, 5, 2], seed=0)
    assert by_entries(dense) == (way == "entries")
    assert not by_entries(dense, bfloat16=True)
    recurrent = sf.Network(sf.Input(10, 3), [sf.layers.GRU(4), sf.layers.Linear(2)], seed=0)
    assert not by_entries(recurrent)
    engine = _engine.Engine(*dense.state, batch_size=6, n_threads=1, by_entries=True)
    with pytest.raises(ValueError, match="inputs: expected sparse ones"):
        in_memory(S.toarray(), None, None, spec_of(dense)._replace(targets=None)).bind(engine)


@pytest.mark.parametrize("factoring", [None, 0.5, "auto"])
def test_rows_are_never_dense(factoring, monkeypatch):
    monkeypatch.setattr(module, "FEW", 1)
    n, n_columns = 10_000, 100_000
    rng = np.random.default_rng(0)
    S = sp.csr_array((np.ones(5 * n, np.float32), rng.integers(0, n_columns, 5 * n), 5 * np.arange(n + 1)), shape=(n, n_columns))
    S.sum_duplicates()
    y = rng.integers(0, 3, n)
    net = sf.Network([n_columns, 4, 4, 3], seed=0)
    tracemalloc.start()
    try:
        sf.train(net, S, y, epochs=4, batch_size=256, factoring=factoring, validation=(S[:1000], y[:1000]))
        net.predict(S)
        net.loss_and_gradient(S, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The weights are 1.6 MB and the entries 0.4 MB; a dense batch would be 102 MB.
    assert peak < 30e6


def test_rows_sorted_by_class_are_shuffled_one_by_one():
    X, y = data(n=3000)[0], np.arange(3000) // 1000
    seen = []

    class Order(np.random.Generator):
        def permutation(self, x):
            order = super().permutation(x)
            seen.append(order)
            return order

    trained(sp.csr_array(X), y, epochs=2, seed=Order(np.random.PCG64(0)), factoring=None)
    assert [sorted(order) for order in seen] == [list(range(3000))] * 2
    for order in seen:
        # Any 200 in a row have every class of the three.
        assert all(len(np.unique(y[order[i : i + 200]])) == 3 for i in range(0, 3000, 200))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_looks_at_a_network_takes_sparse_samples(way, dtype):
    X, y = data()
    S, rtol = sp.csr_array(X), 1e-9 if dtype == "float64" else 1e-5
    net = trained(X, y, factoring=None, dtype=dtype).network
    if way == "rows":
        np.testing.assert_array_equal(net.predict(S), net.predict(X))
    np.testing.assert_allclose(net.predict(S), net.predict(X), rtol=rtol)
    for weight in None, np.arange(600.0):
        assert_same(net.evaluate(S, y, sample_weight=weight).loss, net.evaluate(X, y, sample_weight=weight).loss, way, rtol=rtol)
        assert net.score(S, y, sample_weight=weight) == pytest.approx(net.score(X, y, sample_weight=weight), abs=0.002)
    dense = trained(X, y, validation=(X, y)).history
    sparse = trained(S, y, validation=(S, y)).history
    assert_same([row["val_loss"] for row in sparse], [row["val_loss"] for row in dense], way)
    numbers = sf.Network([40, 8, 2], output="identity", seed=0)
    Y = np.random.default_rng(0).standard_normal((600, 2))
    assert numbers.score(S, Y) == pytest.approx(numbers.score(X, Y), rel=1e-5)


def test_an_out_that_shares_memory_with_the_samples():
    X = np.eye(4, 3, dtype="float32") + 1
    net = sf.Network([3, 5, 3], seed=0)
    expected = net.predict(X)
    S = sp.csr_array(X)
    out = S.data.reshape(4, 3)
    assert net.predict(S, out=out) is out
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_none_and_one_sample():
    net = sf.Network([3, 5, 3], seed=0)
    assert net.predict(sp.csr_array((0, 3))).shape == (0, 3)
    np.testing.assert_allclose(net.predict(sp.csr_array((1, 3))), net.predict(np.zeros((1, 3))), rtol=1e-6)
    with pytest.raises(ValueError, match="X: expected at least one sample, got none"):
        sf.train(net, sp.csr_array((0, 3)), np.zeros(0, int))
    one = sf.train(net, sp.csr_array([[0.0, 1.0, 0.0]]), [1], epochs=2)
    assert one.n_steps == 2


@pytest.mark.filterwarnings("ignore:Changing the sparsity")
def test_duplicates_and_explicit_zeros_are_what_they_sum_to(way):
    X, y = data()
    coo = sp.coo_array(X)
    order = np.random.default_rng(0).permutation(coo.nnz)
    rows, columns, values = (a[order] for a in (*coo.coords, coo.data))
    csr = sp.csr_array(X)
    half = sp.csr_array(
        (np.repeat(csr.data / 2, 2), np.repeat(csr.indices, 2), 2 * csr.indptr), shape=csr.shape
    )
    zeros = sp.coo_array((np.append(values, 0), (np.append(rows, 5), np.append(columns, 7))), shape=X.shape)
    dense = trained(X, y)
    before = half.data.copy()
    for same in (half, zeros, zeros.tocsr()):
        assert_same_training(trained(same, y), dense, way)
    np.testing.assert_array_equal(half.data, before)  # the caller's matrix is as it was


def test_read_only_memory_is_read(way):
    X, y = data()
    S = sp.csr_array(X)
    for array in (S.data, S.indices, S.indptr):
        array.flags.writeable = False
    assert_same_training(trained(S, y), trained(X, y), way)


def test_a_checkpoint_knows_the_samples(tmp_path):
    X, y = data()
    S, path = sp.csr_array(X), tmp_path / "run.ckpt"
    whole = trained(S, y)

    def stop(event):
        if event.kind == "epoch" and event.epoch == 4:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        trained(S, y, checkpoint=path, checkpoint_every=5, callbacks=[stop])
    other = S.copy()
    other.data[3] += 1
    with pytest.raises(ValueError, match="expected the data that"):
        sf.resume(path, other, y)
    moved = S.copy()
    moved.indices[0] += 1 if moved.indices[1] != moved.indices[0] + 1 else 0
    if not np.array_equal(moved.indices, S.indices):
        with pytest.raises(ValueError, match="expected the data that"):
            sf.resume(path, moved, y)
    np.testing.assert_array_equal(sf.resume(path, S, y).network.parameters, whole.network.parameters)


def broken(change, kind=sp.csr_array):
    S = kind(np.eye(5, dtype="float32"))
    change(S)
    return S


def set_item(array, place, value):
    array[place] = value


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (sp.csr_array((5, 4)), ValueError, r"X: expected 5 columns, got shape \(5, 4\)"),
        (sp.coo_array(np.ones(5)), ValueError, "X: expected samples in the rows"),
        (sp.csr_array(np.eye(5) * 1j), TypeError, "X: expected real numbers"),
        (sp.csr_array(np.eye(5).astype("longdouble")), TypeError, "X: expected real numbers"),
        (broken(lambda S: set_item(S.data, 2, np.nan)), ValueError, "X: expected finite numbers of float32, got nan at 2, 2"),
        (sp.csr_array(np.diag([1, 1, 1, 1, 1e300])), ValueError, r"got 1e\+300 at 4, 4"),
        (broken(lambda S: set_item(S.indices, 1, 99)), ValueError, "X: expected a valid sparse matrix"),
        (broken(lambda S: set_item(S.indices, 1, -1)), ValueError, "X: expected a valid sparse matrix"),
        (broken(lambda S: set_item(S.indices, 1, 99), sp.csc_matrix), ValueError, "X: expected a valid sparse matrix"),
        (broken(lambda S: set_item(S.indptr, 2, 5)), ValueError, "X: expected a valid sparse matrix"),
        (broken(lambda S: set_item(S.coords[1], 1, 99), sp.coo_array), ValueError, "X: expected a valid sparse matrix"),
        (broken(lambda S: set_item(S.coords[0], 1, -1), sp.coo_matrix), ValueError, "X: expected a valid sparse matrix"),
        (broken(lambda S: set_item(S.indices, 1, 99), sp.bsr_array), ValueError, "X: expected a valid sparse matrix"),
        # SciPy's own check looks at no more where the last is 0.
        (broken(lambda S: set_item(S.indptr, slice(1, None), [2**30, 0, 0, 0, 0])), ValueError, "X: expected a valid sparse matrix"),
        (broken(lambda S: setattr(S, "data", None)), ValueError, "X: expected a valid sparse matrix"),
        (broken(lambda S: setattr(S, "indices", S.indices.astype("f8"))), ValueError, "matrix: indices should be integers"),
    ],
)
def test_bad_samples_are_refused_before_the_first_step(X, error, message):
    net = sf.Network([5, 4, 3], seed=0)
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        sf.train(net, X, np.zeros(X.shape[0], int))
    np.testing.assert_array_equal(net.parameters, before)


def test_bad_targets_and_weights_are_refused():
    net, S = sf.Network([5, 4, 3], seed=0), sp.csr_array(np.eye(5))
    with pytest.raises(ValueError, match="y: expected 5 targets"):
        sf.train(net, S, [0, 1])
    with pytest.raises(ValueError, match="y: expected class numbers"):
        sf.train(net, S, [0, 1, 2, 3, 4])
    with pytest.raises(ValueError, match="sample_weight: expected weights ≥ 0, not all zero"):
        sf.train(net, S, [0, 1, 2, 0, 1], sample_weight=np.zeros(5))
    with pytest.raises(TypeError, match="y: expected a dense array, got a sparse"):
        sf.train(net, S, S)
    with pytest.raises(ValueError, match="y: expected 5 targets"):
        net.loss_and_gradient(S, [0, 1])
    with pytest.raises(ValueError, match="validation X: expected 5 columns"):
        sf.train(net, S, [0] * 5, validation=(sp.csr_array((2, 3)), [0, 1]))


def test_a_network_with_infinite_weights_says_so_on_sparse_samples():
    X, y = data()
    net = sf.Network([40, 8, 3], seed=0)
    with warnings.catch_warnings(), pytest.raises(FloatingPointError, match="epoch"):
        sf.train(net, sp.csr_array(X), y, optimizer=sf.GradientDescent(1e30))


@pytest.mark.filterwarnings("ignore:Changing the sparsity")
def test_indices_that_change_during_a_training(way):
    X, y = data()
    S = sp.csr_array(X)

    def spoil(event):
        S.indices[:] = 2**30
        S.indptr[1:] = 2**30

    assert_same_training(trained(S, y, callbacks=[spoil]), trained(X, y), way)
    assert S.indices[0] == S.indptr[1] == 2**30


@pytest.mark.parametrize("form", [sp.csr_array, sp.csc_array, sp.coo_array])
def test_estimators_refuse_indices_that_do_not_fit(form):
    pytest.importorskip("sklearn")
    from svdfast.sklearn import SVDMLPClassifier

    X, y = data()
    S = form(X)
    model = SVDMLPClassifier((5,), max_iter=1, tol=0.0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        model.fit(S, y)
    (S.coords[0] if form is sp.coo_array else S.indices)[1] = 2**30
    for call in (lambda: model.fit(S, y), lambda: model.predict(S)):
        with pytest.raises(ValueError, match="X: expected a valid sparse matrix"):
            call()


def test_several_processes_and_few_stored_numbers():
    class Alone:
        rank, size = 0, 1

        def sum(self, buffer): ...
        def broadcast(self, buffer): ...

    X, y = np.zeros((20, 4), "float32"), np.arange(20) % 3
    for stored in (0, 3):
        X.flat[:stored] = 1
        net = sf.Network([4, 5, 3], seed=0)
        sf.train(net, sp.csr_array(X), y, epochs=1, factoring=None, communicator=Alone())
