# SPDX-License-Identifier: BSD-3-Clause
"""The network: construction, views, prediction, evaluation, truncation, recomposition, copies."""

import copy
import dataclasses
import itertools
import pickle
import tracemalloc

import numpy as np
import pytest

import svdfast as sf
from svdfast.model import activations, svd, truncation
from svdfast.model.evaluation import output_directions
from svdfast.model.losses import of_constant
from svdfast.model.svd import RIDGE, leading_directions

pytestmark = pytest.mark.usefixtures("one_blas_thread")

SIZES = [30, 24, 18, 5]


def network(dtype="float64", seed=0, **settings):
    net = sf.Network(SIZES, dtype=dtype, seed=seed, **settings)
    rng = np.random.default_rng([seed, 1])
    for layer in net.layers:
        layer.b[...] = 0.3 * rng.standard_normal(layer.n_out)
    return net


def samples(n=50, seed=0):
    return np.random.default_rng(seed).standard_normal((n, SIZES[0]))


# ---- construction


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(sizes=3), TypeError, "sizes"),
        (dict(sizes=None), TypeError, "sizes"),
        (dict(sizes="123"), TypeError, r"sizes\[0\]"),
        (dict(sizes=[]), ValueError, "sizes"),
        (dict(sizes=[3]), ValueError, "sizes"),
        (dict(sizes=[3, 0]), ValueError, r"sizes\[1\]"),
        (dict(sizes=[-3, 2]), ValueError, r"sizes\[0\]"),
        (dict(sizes=[3, 2.0]), TypeError, r"sizes\[1\]"),
        (dict(sizes=[3, True]), TypeError, r"sizes\[1\]"),
        (dict(sizes=[2**31, 2]), ValueError, r"sizes\[0\]"),
        (dict(sizes=[2**31 - 1, 2**31 - 1]), ValueError, "parameters"),
        (dict(hidden="swish"), ValueError, "hidden"),
        (dict(hidden=["relu"]), ValueError, "hidden"),
        (dict(hidden=["relu"] * 3), ValueError, "hidden"),
        (dict(hidden=["relu", 3]), TypeError, "hidden"),
        (dict(output="swish"), ValueError, "output"),
        (dict(output=None), TypeError, "output"),
        (dict(init="xavier"), ValueError, "init"),
        (dict(init=None), ValueError, "init"),
        (dict(dtype="float16"), ValueError, "dtype"),
        (dict(dtype="int32"), ValueError, "dtype"),
        (dict(dtype=">f4"), ValueError, "dtype"),
        (dict(dtype="nonsense"), TypeError, "dtype"),
        (dict(seed=-1), ValueError, "integer"),
        (dict(seed="a"), TypeError, "int"),
        (dict(uint8_scale=0), ValueError, "uint8_scale"),
        (dict(uint8_scale=np.nan), ValueError, "uint8_scale"),
        (dict(uint8_scale="1"), TypeError, "uint8_scale"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        sf.Network(**{"sizes": [4, 3, 3, 2], **arguments})


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (activations.leaky_relu, -0.1),
        (activations.leaky_relu, np.inf),
        (activations.elu, 0),
        (activations.elu, -1),
        (activations.celu, np.nan),
    ],
)
def test_bad_activation_parameters_are_refused(make, value):
    with pytest.raises(ValueError, match=r"slope|alpha"):
        make(value)
    with pytest.raises(TypeError, match=r"slope|alpha"):
        make("1")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_construction(dtype):
    net = sf.Network([4, 3, 2], hidden="tanh", output="sigmoid", dtype=dtype, seed=0)
    assert net.sizes == (4, 3, 2)
    assert net.dtype == dtype and net.parameters.dtype == dtype
    assert net.parameters.shape == (4 * 3 + 3 * 2 + 3 + 2,)
    assert net.parameters.ctypes.data % 64 == 0
    assert [layer.activation.name for layer in net.layers] == ["tanh", "sigmoid"]
    assert [(layer.n_in, layer.n_out, layer.rank) for layer in net.layers] == [
        (4, 3, None),
        (3, 2, None),
    ]
    assert not net.is_factored
    assert all((layer.b == 0).all() for layer in net.layers)


def test_layout_is_all_weights_then_all_biases(reference):
    net = network()
    net.truncate(ranks=[4, None], force=True)
    weights, biases, n_weights = reference.unpack(net.parameters, net.sizes, net.layout.ranks)
    np.testing.assert_array_equal(weights[0][0], net.layers[0].W1)
    np.testing.assert_array_equal(weights[0][1], net.layers[0].W2)
    np.testing.assert_array_equal(weights[1][0], net.layers[1].W)
    np.testing.assert_array_equal(weights[2][0], net.layers[2].W)
    for b, layer in zip(biases, net.layers, strict=True):
        np.testing.assert_array_equal(b, layer.b)
    assert net.layout.n_weights == n_weights
    assert net.layout.size == len(net.parameters)


@pytest.mark.parametrize(
    ("init", "variance"),
    [("glorot", 1 / 300), ("glorot_uniform", 2 / 500), ("he", 2 / 300)],
)
def test_initializers(init, variance):
    W = sf.Network([300, 200], init=init, dtype="float64", seed=0).layers[0].W
    # The sample variance of 60,000 numbers is within 2 % of theirs (three and a half times its own deviation).
    assert W.var() == pytest.approx(variance, rel=0.02)
    assert abs(W.mean()) < 4 * np.sqrt(variance / W.size)
    bound = np.sqrt(6 / 500)
    assert (np.abs(W).max() <= bound) == (init == "glorot_uniform")


def test_seed_decides_the_weights_in_both_dtypes():
    a, b = network(seed=3), network(seed=3)
    np.testing.assert_array_equal(a.parameters, b.parameters)
    assert not np.array_equal(a.parameters, network(seed=4).parameters)
    single = network("float32", seed=3)
    np.testing.assert_array_equal(single.parameters, a.parameters.astype("float32"))
    drawn = sf.Network(SIZES, seed=np.random.default_rng(3), dtype="float64")
    np.testing.assert_array_equal(drawn.layers[1].W, a.layers[1].W)
    fresh = [sf.Network([50, 50], seed=None).parameters for _ in range(2)]
    assert not np.array_equal(*fresh)


def test_views_write_through():
    net = network()
    X = samples()
    before = net.predict(X)
    net.layers[0].W[3, 5] += 1
    net.layers[2].b[1] = 9
    assert not np.array_equal(net.predict(X), before)
    assert net.parameters[3 * SIZES[0] + 5] == net.layers[0].W[3, 5]
    assert 9 in net.parameters
    net.truncate(ranks=[4, 3], force=True)
    for name in ("W1", "W2", "b"):
        view = getattr(net.layers[1], name)
        view[...] = 0.125
        assert np.shares_memory(view, net.parameters)
        np.testing.assert_array_equal(getattr(net.layers[1], name), np.full_like(view, 0.125))
    weight = net.layers[1].weight()
    np.testing.assert_allclose(weight, np.full((18, 24), 3 * 0.125**2))
    weight[...] = 7  # a copy
    assert not np.shares_memory(weight, net.parameters)
    dense = net.layers[2].weight()
    assert not np.shares_memory(dense, net.parameters)


def test_views_of_another_form_are_refused():
    net = network()
    for name in ("W1", "W2"):
        with pytest.raises(AttributeError, match="dense"):
            getattr(net.layers[0], name)
    net.truncate(ranks=[4, 3], force=True)
    with pytest.raises(AttributeError, match=r"rank 4.*not W"):
        _ = net.layers[0].W
    assert net.layers[2].W.shape == (5, 18)


def test_directions_that_are_no_mapping_are_refused():
    """A sequence without an end, say."""
    class Endless:
        def __getitem__(self, i):
            return i

    with pytest.raises(TypeError, match="directions: expected a mapping of int to ndarray, got Endless"):
        sf.Network([4, 3, 2], seed=0).truncate(ranks=[1], force=True, directions=Endless())


def test_truncation_from_directions_that_are_known():
    """One decomposition serves every rank up to its own."""
    net = sf.Network([30, 24, 20, 3], seed=0)
    known = {i: leading_directions(layer.W, 12) for i, layer in enumerate(net.layers[:-1])}
    for ranks in ([12, 12], [5, None], [3, 4]):
        one, other = net.copy(), net.copy()
        done = one.truncate(ranks=ranks, force=True, directions=known)
        expected = other.truncate(ranks=ranks, force=True)
        for a, b in zip(one.layers, other.layers, strict=True):
            np.testing.assert_allclose(a.weight(), b.weight(), rtol=1e-4, atol=1e-6)
        assert [(t.layer, t.rank) for t in done] == [(t.layer, t.rank) for t in expected]


@pytest.mark.parametrize("bad", [lambda U: U[:, :3], lambda U: U[:-1], lambda U: U.astype(float), lambda U: U[:, 0]])
def test_directions_that_do_not_fit_are_refused(bad):
    net = sf.Network([30, 24, 20, 3], seed=0)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=r"directions\[0\]: expected an array of shape \(24, 4 or more\) and dtype float32"):
        net.truncate(ranks=[4, 4], force=True, directions={0: bad(leading_directions(net.layers[0].W, 6))})
    np.testing.assert_array_equal(net.parameters, before)
    assert net.layout.ranks == (None, None, None)


def inputs_of_low_rank(n=200, n_in=30, dtype="float32"):
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n, 6)) @ rng.standard_normal((6, n_in))).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [[30, 24, 20, 3], [30, 80, 90, 3]])
def test_an_activation_aware_truncation_changes_the_outputs_less(dtype, sizes):
    X = inputs_of_low_rank(dtype=dtype)
    net = sf.Network(sizes, dtype=dtype, seed=0)
    plain, aware = net.copy(), net.copy()
    plain.truncate(ranks=[5, None], force=True)
    done = aware.truncate(ranks=[5, None], force=True, inputs=X)
    W, b = net.layers[0].W, net.layers[0].b
    outputs = X @ W.T + b
    errors = [np.linalg.norm(X @ cut.layers[0].weight().T + b - outputs) for cut in (plain, aware)]
    # Rank 5 of 6 that the inputs have: little is lost, where the plain truncation knows nothing of them.
    assert errors[1] < 0.5 * errors[0]
    # By the best truncation of the outputs themselves: least for rank 5.
    s = np.linalg.svd(X @ W.T, compute_uv=False)
    assert s[5] <= errors[1] * 1.001 and errors[1] <= 1.1 * s[5]
    # Balanced: both factors have the same singular values.
    layer = aware.layers[0]
    np.testing.assert_allclose(layer.W1.T @ layer.W1, layer.W2 @ layer.W2.T, atol=1e-5)
    assert done[0].dropped_norm == pytest.approx(np.linalg.norm(W - layer.weight()), rel=1e-4)


def same_span(U, V, atol):
    """Column by column, but for signs."""
    np.testing.assert_allclose(abs((U * V).sum(axis=0)), 1, atol=atol)


def test_an_activation_aware_truncation_looks_at_each_layers_own_outputs():
    X = inputs_of_low_rank(dtype="float64")
    net = sf.Network([30, 24, 20, 3], hidden="tanh", dtype="float64", seed=0)
    net.layers[0].b[:] = np.linspace(-1, 1, 24)

    def expected(inputs, W, rank):
        ridge = RIDGE * (inputs**2).sum() / W.shape[1]
        return np.linalg.eigh(W @ inputs.T @ inputs @ W.T + ridge * W @ W.T)[1][:, ::-1][:, :rank]

    def check(layers):
        A = np.tanh(X @ layers[0].weight().T + layers[0].b)
        found = output_directions(net, X, None, [5, 4])
        assert list(found) == [0, 1] and found[1].shape == (20, 4)
        same_span(found[0], expected(X, layers[0].weight(), 5), 1e-12)
        same_span(found[1], expected(A, layers[1].weight(), 4), 1e-12)
        assert list(output_directions(net, X, None, [None, 4])) == [1]

    check(net.layers)
    # Factored already: the product's outputs.
    net.truncate(ranks=[6, None], force=True)
    check(net.layers)


@pytest.mark.parametrize("together", [4096, 70])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_directions_of_samples_part_by_part(dtype, together, monkeypatch):
    """The same whether a layer's Gram matrix is decomposed, or formed, or not, and in how many parts the samples come."""
    monkeypatch.setattr(truncation, "_SAMPLES_TOGETHER", together)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 40)) * 0.8 ** np.arange(40)
    net = sf.Network([40, 60, 50, 3], dtype=dtype, seed=0)
    reference = output_directions(net, X, None, [8, 8])
    for few, many in ((16, 1000), (16, 20)):
        monkeypatch.setattr(svd, "_FEW_OUTPUTS", few)
        monkeypatch.setattr(svd, "_MANY_OUTPUTS", many)
        for method in ("exact", "randomized"):
            for i, U in output_directions(net, X, None, [8, 8], method).items():
                assert U.dtype == dtype
                np.testing.assert_allclose(U.T @ U, np.eye(8), atol=1e-5)
                same_span(U, reference[i], 1e-6)


def test_directions_of_many_inputs_take_no_matrix_of_them():
    X = np.random.default_rng(0).standard_normal((50, 3000), dtype=np.float32)
    net = sf.Network([3000, 8, 3], seed=0)
    output_directions(net, X, None, [2])
    tracemalloc.start()
    output_directions(net, X, None, [2])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 3000 * 4 / 8


WAYS = {
    "dense": lambda net, X, cut: None,
    "truncate": lambda net, X, cut: net.truncate(ranks=cut.ranks, force=True),
    "left": lambda net, X, cut: net.truncate(ranks=cut.ranks, force=True, split="left"),
    "right": lambda net, X, cut: net.truncate(ranks=cut.ranks, force=True, split="right"),
    "randomized": lambda net, X, cut: net.truncate(ranks=cut.ranks, force=True, method="randomized"),
    "over inputs": lambda net, X, cut: net.truncate(ranks=cut.ranks, force=True, inputs=X),
    "from the start": lambda net, X, cut: cut,
    "from the start, plain": lambda net, X, cut: dataclasses.replace(cut, activation_aware=False),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_weight_of_zeros_is_trained_when_factored(way, rank, dtype):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((64, 12))
    Y = np.tanh(X @ rng.standard_normal((12, 3)))
    net = sf.Network([12, 20, 20, 3], hidden="tanh", output="identity", dtype=dtype, seed=0)
    W = net.layers[0].W
    W[...] = np.outer(W[:, 0], W[0]) if rank else 0
    before = net.predict(X)
    cut = sf.Factoring([8, None], pretrain_fraction=0, force=True, recompose=False)
    how = WAYS[way](net, X, cut)
    if net.is_factored:
        np.testing.assert_allclose(net.predict(X), before, atol=1e-5 if dtype == "float32" else 1e-12)
    sf.train(
        net, X, Y, epochs=300, batch_size=64, optimizer=sf.Adam(0.01),
        factoring=how if isinstance(how, sf.Factoring) else cut if net.is_factored else None,
    )  # fmt: skip
    assert net.is_factored == (way != "dense")
    assert net.evaluate(X, Y).loss < 1e-3


def test_whole_weights_of_a_truncations_sample_are_repeated_samples():
    X = np.random.default_rng(0).standard_normal((50, 30))
    times = np.arange(50) % 3
    net = sf.Network([30, 24, 20, 3], dtype="float64", seed=0)
    weighted, repeated, plain = net.copy(), net.copy(), net.copy()
    weighted.truncate(ranks=[6, 6], force=True, inputs=X, sample_weight=1e300 * times)
    repeated.truncate(ranks=[6, 6], force=True, inputs=X.repeat(times, axis=0))
    plain.truncate(ranks=[6, 6], force=True, inputs=X)
    for i in (0, 1):
        W = repeated.layers[i].weight()
        np.testing.assert_allclose(weighted.layers[i].weight(), W, atol=1e-10)
        assert np.abs(plain.layers[i].weight() - W).max() > 1e-3
    with pytest.raises(ValueError, match="sample_weight: expected inputs with it"):
        net.truncate(ranks=[6, 6], force=True, sample_weight=times)
    with pytest.raises(ValueError, match="sample_weight: expected shape"):
        net.truncate(ranks=[6, 6], force=True, inputs=X, sample_weight=times[:-1])
    assert not net.is_factored


def test_activation_aware_truncations_of_odd_samples():
    """uint8, one sample, zeros, huge values: no worse than a plain truncation is possible."""
    net = sf.Network([30, 24, 20, 3], seed=0)
    rng = np.random.default_rng(0)
    for X in (
        rng.integers(0, 256, (50, 30), dtype=np.uint8),
        np.ones((1, 30)),
        np.zeros((7, 30), "float32"),
        np.asfortranarray(rng.standard_normal((40, 30)))[::-1],
        1e30 * rng.standard_normal((40, 30)).astype("float32"),
    ):
        cut = net.copy()
        cut.truncate(ranks=[6, 6], force=True, inputs=X)
        assert np.isfinite(cut.parameters).all()
        assert cut.layout.ranks == (6, 6, None)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (np.ones((5, 29)), ValueError, "X: expected"),
        (np.ones(30), ValueError, "X: expected"),
        (np.full((5, 30), np.nan), ValueError, "X: expected finite"),
        (np.empty((0, 30)), ValueError, "X: expected at least one sample"),
        ([["a"] * 30], TypeError, "X: expected real numbers"),
        (np.full((5, 30), 3e38, "float32"), FloatingPointError, "the inputs of layer 1 are too large for float32"),
    ],
)
def test_bad_samples_for_a_truncation_are_refused(inputs, error, message):
    net = sf.Network([30, 24, 20, 3], seed=0)
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        net.truncate(ranks=[6, 6], force=True, inputs=inputs)
    np.testing.assert_array_equal(net.parameters, before)


def test_samples_far_larger_than_the_first_ones_are_refused():
    """Beyond the 4096 that go forward together."""
    X = np.random.default_rng(0).standard_normal((5000, 30)).astype("float32")
    X[4500] = 1e30
    net = sf.Network([30, 24, 20, 3], seed=0)
    with pytest.raises(FloatingPointError, match="the inputs of layer 0 are too large for float32, next to"):
        net.truncate(ranks=[6, 6], force=True, inputs=X)
    net.truncate(ranks=[6, 6], force=True, inputs=X[::-1])
    assert np.isfinite(net.parameters).all()


def test_views_from_before_a_truncation_show_the_former_parameters():
    net = network()
    old = net.layers[2].b
    net.truncate(ranks=[4, 3], force=True)
    old[...] = 99
    assert 99 not in net.parameters


def test_repr_says_the_form():
    net = network("float32")
    assert repr(net) == "<Network 30 -> 24 -> 18 -> 5, float32>"
    net.truncate(ranks=[4, None], force=True)
    assert repr(net) == "<Network 30 -> 24 (rank 4) -> 18 -> 5, float32>"
    assert repr(net.layers[0]) == "<Layer 30 -> 24, relu, rank 4>"
    assert repr(net.layers[2]) == "<Layer 18 -> 5, softmax, dense>"


# ---- prediction and evaluation


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity", "gelu"])
@pytest.mark.parametrize("n", [1, 3, 255, 256, 257, 700])
def test_predict_against_plain_numpy(n, output, form, reference):
    net = network(output=output, hidden=["celu", "leaky_relu"])
    if form == "factored":
        net.truncate(ranks=[6, 5], force=True)
    X = samples(n)
    expected = reference.predict(net, X)
    for n_threads in (None, 1, 2, 5):
        out = net.predict(X, n_threads=n_threads)
        assert out.shape == (n, 5) and out.dtype == np.float64 and out.flags.c_contiguous
        np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-14)
    single = sf.Network(SIZES, output=output, hidden=["celu", "leaky_relu"], dtype="float32")
    if form == "factored":
        single.truncate(ranks=[6, 5], force=True)
    single.parameters[:] = net.parameters
    assert single.predict(X).dtype == np.float32
    np.testing.assert_allclose(single.predict(X), expected, rtol=1e-4, atol=1e-5)


def test_predict_nothing():
    assert network().predict(np.empty((0, 30))).shape == (0, 5)


def test_predict_lets_nan_through():
    """Each row by itself, and never hidden by an activation's comparison or a softmax's largest value."""
    X = samples(6)
    X[2, 3] = np.nan
    for hidden in activations.__all__:
        if hidden in ("Activation",):
            continue
        if hidden == "exp":
            X = X / 100  # else it overflows
        for output in ("softmax", "sigmoid", "identity", "relu", "elu", "tanh"):
            for dtype in ("float32", "float64"):
                out = network(dtype, hidden=hidden, output=output).predict(X)
                assert np.isnan(out[2]).all(), (hidden, output, dtype)
                assert np.isfinite(np.delete(out, 2, axis=0)).all()


def test_predict_of_rows_does_not_depend_on_the_other_rows(reference):
    net = network()
    X = samples(300)
    whole = net.predict(X)
    apart = np.concatenate([net.predict(X[i : i + 1]) for i in range(300)])
    np.testing.assert_allclose(apart, whole, rtol=1e-12)


def test_evaluate_and_score_of_classes(reference):
    net = network()
    X = samples(60)
    y = np.random.default_rng(1).integers(0, 5, 60)
    w = np.random.default_rng(2).random(60)
    evaluation = net.evaluate(X, y, sample_weight=w)
    expected, _ = reference.loss_and_gradient(net, X, y, "cross_entropy", sample_weight=w)
    assert evaluation.loss == pytest.approx(expected, rel=1e-13)
    right = reference.predict(net, X).argmax(1) == y
    assert 0 < right.sum() < 60
    assert evaluation.accuracy == pytest.approx((w @ right) / w.sum(), rel=1e-13)
    assert net.score(X, y, w) == evaluation.accuracy
    assert net.score(X, y) == pytest.approx(right.mean())
    assert net.score(X, np.eye(5)[y]) == net.score(X, y)
    squared = net.evaluate(X, np.eye(5)[y], "mean_squared_error")
    assert squared.loss == pytest.approx(
        ((reference.predict(net, X) - np.eye(5)[y]) ** 2).mean(), rel=1e-13
    )
    assert squared.accuracy == pytest.approx(right.mean())


def test_evaluate_of_a_sigmoid_output(reference):
    net = network(output="sigmoid")
    X = samples(60)
    predicted = reference.predict(net, X)
    y = (predicted > 0.5).astype(float)
    y[:20, 3] = 1 - y[:20, 3]  # one output wrong: the sample is wrong
    evaluation = net.evaluate(X, y)
    assert evaluation.accuracy == pytest.approx(40 / 60)
    assert evaluation.loss == pytest.approx(
        -(y * np.log(predicted) + (1 - y) * np.log(1 - predicted)).mean(), rel=1e-12
    )


def test_score_of_values_is_r2(reference):
    net = network(output="identity")
    X = samples(60)
    y = reference.predict(net, X) + np.random.default_rng(1).standard_normal((60, 5))
    w = np.random.default_rng(2).random(60)
    assert net.evaluate(X, y).accuracy is None
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    for weight in (None, w):
        expected = metrics.r2_score(y, net.predict(X), sample_weight=weight)
        assert net.score(X, y, weight) == pytest.approx(expected, rel=1e-12)
    y[:, 2] = 4.0  # constant, not met: 0 for that output
    assert net.score(X, y) == pytest.approx(metrics.r2_score(y, net.predict(X)), rel=1e-12)
    net.layers[2].W[2] = 0
    net.layers[2].b[2] = 4.0  # constant and met: 1
    assert net.score(X, y) == pytest.approx(metrics.r2_score(y, net.predict(X)), rel=1e-12)


def test_evaluation_of_nothing_is_refused():
    net = network()
    for call in (net.evaluate, net.score, net.loss_and_gradient):
        with pytest.raises(ValueError, match="sample"):
            call(np.empty((0, 30)), np.empty(0, int))
    with pytest.raises(ValueError, match="sample"):
        network(output="identity").score(np.empty((0, 30)), np.empty((0, 5)))


@pytest.mark.parametrize("n_threads", [0, -1, 1.5, "2", True, 10**6])
def test_bad_thread_numbers_are_refused(n_threads):
    net = network()
    with pytest.raises((TypeError, ValueError), match="n_threads"):
        net.predict(samples(), n_threads=n_threads)


# ---- truncation


@pytest.mark.parametrize("split", ["balanced", "left", "right"])
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-5)])
def test_full_rank_leaves_predictions_unchanged(dtype, bound, split):
    net = network(dtype)
    X = samples()
    before = net.predict(X)
    assert before.std() > 0.05  # not all alike
    done = net.truncate(rank_fraction=1.0, force=True, split=split)
    assert [t.rank for t in done] == [24, 18]
    assert net.layout.ranks == (24, 18, None)
    assert np.abs(net.predict(X) - before).max() < bound
    net.recompose()
    assert np.abs(net.predict(X) - before).max() < bound


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-5)])
def test_recomposition_leaves_predictions_unchanged(dtype, bound):
    net = network(dtype)
    X = samples()
    net.truncate(ranks=[5, 4], force=True)
    assert net.is_factored
    before = net.predict(X)
    products = [layer.weight() for layer in net.layers]
    biases = [layer.b.copy() for layer in net.layers]
    net.recompose()
    assert not net.is_factored and net.layout.ranks == (None, None, None)
    assert np.abs(net.predict(X) - before).max() < bound
    for layer, W, b in zip(net.layers, products, biases, strict=True):
        np.testing.assert_array_equal(layer.W, W)
        np.testing.assert_array_equal(layer.b, b)
    # A dense network is left as it is.
    parameters = net.parameters
    net.recompose()
    assert net.parameters is parameters


@pytest.mark.parametrize("split", ["balanced", "left", "right"])
@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_truncation_keeps_the_largest_singular_values(method, split):
    net = network()
    W = [layer.W.copy() for layer in net.layers]
    rest = [layer.b.copy() for layer in net.layers]
    done = net.truncate(ranks=[7, 3], method=method, split=split, force=True)
    assert [(t.layer, t.rank, t.requested_rank, t.skipped) for t in done] == [
        (0, 7, 7, False),
        (1, 3, 3, False),
    ]
    for t in done:
        layer = net.layers[t.layer]
        assert (layer.W1.shape, layer.W2.shape) == (
            (layer.n_out, t.rank),
            (t.rank, layer.n_in),
        )
        sigma = np.linalg.svd(W[t.layer], compute_uv=False)
        dropped = np.linalg.norm(sigma[t.rank :])
        distance = np.linalg.norm(W[t.layer] - layer.W1 @ layer.W2)
        assert t.dropped_norm == pytest.approx(distance, rel=1e-10)
        if method == "exact":
            np.testing.assert_allclose(t.singular_values, sigma[: t.rank], rtol=1e-12)
            assert t.dropped_norm == pytest.approx(dropped, rel=1e-10)
        else:
            # Never better than the best; four power iterations bring these flat spectra within 1 %.
            assert dropped * (1 - 1e-10) <= t.dropped_norm <= 1.01 * dropped
        # How the singular values are shared: columns of W1 and rows of W2 are orthogonal with these norms.
        power = {"balanced": 0.5, "left": 1, "right": 0}[split]
        np.testing.assert_allclose(
            np.linalg.norm(layer.W1, axis=0), t.singular_values**power, rtol=1e-10
        )
        np.testing.assert_allclose(
            np.linalg.norm(layer.W2, axis=1), t.singular_values ** (1 - power), rtol=1e-10
        )
    np.testing.assert_array_equal(net.layers[2].W, W[2])
    for layer, b in zip(net.layers, rest, strict=True):
        np.testing.assert_array_equal(layer.b, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropped_norm_where_little_is_dropped(dtype):
    """Full rank, or a weight of exactly the rank kept: what is dropped is rounding, and is said to be."""
    net = sf.Network([300, 200, 100, 10], dtype=dtype, seed=0)
    rng = np.random.default_rng(0)
    net.layers[1].W[...] = rng.standard_normal((100, 8)) @ rng.standard_normal((8, 200))
    W = [layer.W.astype(float) for layer in net.layers]
    for t in net.truncate(ranks=[200, 8], force=True):
        layer = net.layers[t.layer]
        distance = np.linalg.norm(W[t.layer] - layer.W1.astype(float) @ layer.W2.astype(float))
        rounding = 300 * np.finfo(dtype).eps * np.linalg.norm(W[t.layer])  # LAPACK: max(n, m) eps
        assert distance < rounding
        assert t.dropped_norm < rounding


def test_dropped_norm_in_float32():
    net = sf.Network([300, 200, 10], seed=0)
    W = net.layers[0].W.astype(float)
    (t,) = net.truncate(ranks=[190], force=True)
    layer = net.layers[0]
    distance = np.linalg.norm(W - layer.W1.astype(float) @ layer.W2.astype(float))
    assert t.dropped_norm == pytest.approx(distance, rel=1e-4)


def test_break_even_decides_unless_forced():
    net = sf.Network([784, 512, 256, 10], seed=0)
    limits = [
        sf.break_even_rank(784, 512, first_layer=True),
        sf.break_even_rank(512, 256, first_layer=False),
    ]
    before = net.parameters.copy()
    done = net.truncate(ranks=[limits[0] + 1, limits[1] + 1])
    assert [t.rank for t in done] == [None, None]
    assert all(t.skipped and t.dropped_norm == 0 and t.singular_values.size == 0 for t in done)
    assert [t.requested_rank for t in done] == [limits[0] + 1, limits[1] + 1]
    assert [t.break_even_rank for t in done] == limits
    assert not net.is_factored
    np.testing.assert_array_equal(net.parameters, before)
    done = net.truncate(ranks=[limits[0] + 1, limits[1]])
    assert [t.rank for t in done] == [None, limits[1]]
    assert [t.skipped for t in done] == [True, False]
    assert net.layout.ranks == (None, limits[1], None)
    done = net.truncate(ranks=[limits[0] + 1, None], force=True)
    assert [(t.layer, t.rank, t.skipped) for t in done] == [(0, limits[0] + 1, False)]
    assert net.layout.ranks == (limits[0] + 1, limits[1], None)


def test_layers_that_stay_as_they_are_say_why():
    net = sf.Network([784, 512, 256, 10], seed=0)
    first, second = net.truncate(ranks=[300, 20])
    assert first.reason == "rank 300 would save no multiplications, the break-even rank is 258 (force=True truncates it)"
    assert second.reason is None and not second.skipped


@pytest.mark.parametrize("how", [{"rank_fraction": 1 / 8}, {"ranks": sf.ranks.Fraction(1 / 8)}], ids=["argument", "rule"])
@pytest.mark.parametrize("n_in, cut", [(13, False), (100, False), (101, True)])
def test_a_fraction_makes_no_bottleneck_unless_forced(how, n_in, cut):
    net = sf.Network([n_in, 400, 300, 1], output="identity", seed=0)
    before = net.parameters.copy()
    rank = n_in // 8
    first, second = net.copy().truncate(**how)
    assert (first.skipped, first.rank, first.requested_rank) == ((False, rank, rank) if cut else (True, None, rank))
    if not cut:
        assert first.reason == f"a rank of {rank} would be a bottleneck for its {n_in} inputs (force=True truncates it)"
        assert first.singular_values.size == first.dropped_norm == 0
    assert second.rank == 37
    assert [t.rank for t in net.copy().truncate(**how, force=True)] == [rank, 37]
    assert [t.rank for t in net.copy().truncate(ranks=[rank, 37])] == [rank, 37], "explicit ranks are taken as asked"
    np.testing.assert_array_equal(net.parameters, before)


def test_all_inputs_of_a_few_are_no_bottleneck():
    net = sf.Network([20, 400, 1], output="identity", seed=0)
    assert net.truncate(1.0)[0].reason.startswith("rank 20 would save no multiplications")
    assert net.truncate(1.0, force=True)[0].rank == 20


def test_a_factored_layer_that_is_skipped_keeps_its_factors():
    net = network()
    net.truncate(ranks=[4, 3], force=True)
    before = net.parameters.copy()
    (t,) = net.truncate(ranks=[24, None])
    assert net.layout.ranks == (4, 3, None)
    np.testing.assert_array_equal(net.parameters, before)
    assert t.requested_rank == 24 and t.singular_values.size == 0
    assert t.skipped, "`skipped`: whether factoring was asked for and not done"


def test_rank_fraction():
    net = network()
    done = net.truncate(rank_fraction=0.25, force=True)
    assert [t.rank for t in done] == [6, 4]  # floor(24/4), floor(18/4)
    net = network()
    assert [t.rank for t in net.truncate(rank_fraction=1e-9, force=True)] == [1, 1]


def test_none_in_ranks_leaves_the_layer():
    net = network()
    before = net.layers[1].W.copy()
    done = net.truncate(ranks=[4, None], force=True)
    assert [t.layer for t in done] == [0]
    np.testing.assert_array_equal(net.layers[1].W, before)
    assert net.layout.ranks == (4, None, None)
    assert net.truncate(ranks=[None, None]) == ()
    assert net.layout.ranks == (4, None, None)


def test_truncating_again_truncates_the_product():
    net = network()
    net.truncate(ranks=[10, 9], force=True)
    product = net.layers[0].weight()
    sigma = np.linalg.svd(product, compute_uv=False)
    W1, W2 = net.layers[1].W1.copy(), net.layers[1].W2.copy()
    (t,) = net.truncate(ranks=[4, None], force=True)
    assert net.layout.ranks == (4, 9, None)
    np.testing.assert_allclose(t.singular_values, sigma[:4], rtol=1e-12)
    assert t.dropped_norm == pytest.approx(np.linalg.norm(sigma[4:]), rel=1e-10)
    np.testing.assert_array_equal(net.layers[1].W1, W1)
    np.testing.assert_array_equal(net.layers[1].W2, W2)
    # The same rank again changes nothing but rounding.
    product = net.layers[0].weight()
    net.truncate(ranks=[4, None], force=True)
    np.testing.assert_allclose(net.layers[0].weight(), product, atol=1e-14)


def test_a_network_without_hidden_layers_stays_dense():
    net = sf.Network([4, 3], seed=0)
    assert net.truncate(rank_fraction=0.5, force=True) == ()
    assert not net.is_factored


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (dict(), ValueError),
        (dict(rank_fraction=0.5, ranks=[4, 4]), ValueError),
        (dict(rank_fraction=0), ValueError),
        (dict(rank_fraction=-0.5), ValueError),
        (dict(rank_fraction=1.5), ValueError),
        (dict(rank_fraction=np.nan), ValueError),
        (dict(rank_fraction="0.5"), TypeError),
        (dict(ranks=4), TypeError),
        (dict(ranks=[4]), ValueError),
        (dict(ranks=[4, 4, 4]), ValueError),
        (dict(ranks=[0, 4]), ValueError),
        (dict(ranks=[4, 19]), ValueError),
        (dict(ranks=[25, 4]), ValueError),
        (dict(ranks=[4, 2.0]), TypeError),
        (dict(ranks=[4, True]), TypeError),
        (dict(ranks=[4, 3], split="even"), ValueError),
        (dict(ranks=[4, 3], split=None), ValueError),
        (dict(ranks=[4, 3], method="fast"), ValueError),
        (dict(ranks=[4, 3], method="fast", force=False), ValueError),
        (dict(ranks=[24, 18], method="fast", force=False), ValueError),
    ],
    ids=str,
)
def test_bad_truncations_are_refused(arguments, error):
    net = network()
    parameters, before = net.parameters, net.parameters.copy()
    with pytest.raises(error):
        net.truncate(**{"force": True, **arguments})
    assert net.parameters is parameters and not net.is_factored
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused(bad):
    net = network()
    net.layers[1].W[2, 2] = bad
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="finite"):
        net.truncate(ranks=[4, 3], force=True)
    assert not net.is_factored
    np.testing.assert_array_equal(net.parameters, before)


def test_extreme_weights_factor():
    for scale in (0.0, 1e-30, 1e30):
        net = sf.Network([20, 16, 4], dtype="float32", seed=0)
        net.layers[0].W[...] *= np.float32(scale)
        (t,) = net.truncate(ranks=[16], force=True)
        assert np.isfinite(net.parameters).all() and np.isfinite(t.dropped_norm)
        W = sf.Network([20, 16, 4], dtype="float32", seed=0).layers[0].W * np.float32(scale)
        np.testing.assert_allclose(net.layers[0].weight(), W, atol=1e-5 * scale)


# ---- copies


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        sf.Network.copy,
        lambda net: pickle.loads(pickle.dumps(net)),
        lambda net: pickle.loads(pickle.dumps(net, protocol=2)),
    ],
    ids=["copy", "deepcopy", "method", "pickle", "pickle2"],
)
def test_copies_are_equal_and_independent(copied, form):
    net = network(hidden=[activations.elu(0.5), activations.leaky_relu(0.2)], uint8_scale=0.5)
    if form == "factored":
        net.truncate(ranks=[4, 3], force=True)
    other = copied(net)
    assert type(other) is sf.Network
    assert other.layout == net.layout and other.uint8_scale == 0.5 and other.dtype == net.dtype
    np.testing.assert_array_equal(other.parameters, net.parameters)
    assert other.parameters.ctypes.data % 64 == 0
    assert not np.shares_memory(other.parameters, net.parameters)
    X = np.random.default_rng(0).integers(0, 9, (7, 30), dtype=np.uint8)
    np.testing.assert_array_equal(other.predict(X), net.predict(X))
    before = net.predict(X)
    sf.train(other, X, np.zeros(7, int), epochs=2, factoring=sf.Factoring(recompose=False))
    other.recompose()
    np.testing.assert_array_equal(net.predict(X), before)
    assert net.is_factored == (form == "factored")


def test_score_of_constant_targets():
    """Their mean rounds, so their spread is not exactly zero."""
    net = sf.Network([2, 1], output="identity", dtype="float64", seed=0)
    net.parameters[:] = 0
    X = np.zeros((3, 2))
    assert net.score(X, np.full(3, 0.1)) == 0
    net.layers[0].b[:] = 0.1
    assert net.score(X, np.full(3, 0.1)) == 1


def test_states_that_do_not_belong_together():
    """What the compiled core would read or write beyond its end."""
    net = sf.Network([4, 6, 3], seed=0)
    layout, parameters = net.state
    other = sf.Network([4, 7, 3]).layout
    wrong = [
        (other, parameters, ValueError),
        (None, parameters, TypeError),
        (layout, parameters[:-1], ValueError),
        (layout, parameters.astype(">f4"), ValueError),
        (layout, np.repeat(parameters, 3)[::3], ValueError),
        (layout, np.frombuffer(parameters.tobytes(), np.float32), ValueError),
        (layout, parameters.tolist(), TypeError),
    ]
    for state, vector, error in wrong:
        with pytest.raises(error):
            net.set_state(state, vector)
        assert net.state[0] is layout and net.state[1] is parameters


def test_sequences_without_an_end():
    for arguments in ({"sizes": itertools.count(1)}, {"sizes": [2, 2, 2], "hidden": itertools.repeat("relu")}):
        with pytest.raises(ValueError, match="at most 100000"):
            sf.Network(**arguments)
    with pytest.raises(ValueError, match="at most 100000"):
        sf.Network([4, 6, 3]).truncate(ranks=itertools.count(1))


def test_score_of_targets_whose_squares_are_infinite():
    """Without a warning, and without a number that looks like one."""
    net = sf.Network([2, 1], output="identity", dtype="float64", seed=0)
    assert not np.isfinite(net.score(np.ones((2, 2)), [1e300, -1e300]))


def test_directions_that_are_no_arrays():
    net = sf.Network([4, 6, 3], seed=0)
    with pytest.raises(TypeError, match=r"directions\[0\]: expected an ndarray, got int"):
        net.truncate(ranks=[2], force=True, directions={0: 1})


@pytest.mark.parametrize("weights", [None, np.array([1.0, 0.5, 2.0, 0.0])])
def test_the_loss_of_a_constant_of_class_numbers_is_that_of_one_hot_rows(weights):
    """And takes no memory for the rows: of many classes there would be much."""
    targets = np.array([0, 2, 2, 1], np.int32)
    expected = of_constant("cross_entropy", np.eye(3)[targets], 3, weights)
    assert of_constant("cross_entropy", targets, 3, weights) == pytest.approx(expected)
    tracemalloc.start()
    try:
        of_constant("cross_entropy", targets, 10_000, weights)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
