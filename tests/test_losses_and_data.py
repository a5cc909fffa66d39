# SPDX-License-Identifier: BSD-3-Clause
"""Losses by their formulas; what may be given as samples, targets and weights, and what is refused."""

import tracemalloc

import numpy as np
import pytest
import scipy.optimize
import scipy.special

import svdfast as sf
from svdfast import _elementwise
from svdfast.data.checks import checked_samples
from svdfast.model import activations, losses
from svdfast.model.evaluation import spec_of
from svdfast.model.layout import Layout
from svdfast.training import optimizers

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def network(dtype="float64", output="softmax", n_out=3, **settings):
    return sf.Network([6, 10, n_out], output=output, dtype=dtype, seed=0, **settings)


# ---- losses


def test_cross_entropy_by_its_formula():
    net = network()
    X = np.random.default_rng(0).standard_normal((4, 6))
    P = net.predict(X)
    y = [2, 0, 1, 1]
    expected = -np.mean([np.log(P[i, c]) for i, c in enumerate(y)])
    assert net.evaluate(X, y).loss == pytest.approx(expected, rel=1e-14)
    assert net.evaluate(X, y, "cross_entropy").loss == net.evaluate(X, y).loss
    Y = np.random.default_rng(1).dirichlet(np.ones(3), 4)
    assert net.evaluate(X, Y).loss == pytest.approx(-(Y * np.log(P)).sum(1).mean(), rel=1e-14)


def test_binary_cross_entropy_by_its_formula():
    net = network(output="sigmoid")
    X = np.random.default_rng(0).standard_normal((4, 6))
    P = net.predict(X)
    Y = np.random.default_rng(1).random((4, 3))
    expected = -(Y * np.log(P) + (1 - Y) * np.log(1 - P)).mean()
    assert net.evaluate(X, Y).loss == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("output", ["identity", "relu", "tanh", "sigmoid", "softmax"])
def test_mean_squared_error_by_its_formula(output):
    net = network(output=output)
    X = np.random.default_rng(0).standard_normal((4, 6))
    Y = np.random.default_rng(1).standard_normal((4, 3))
    w = np.array([1, 0, 2, 5])
    expected = (w @ ((net.predict(X) - Y) ** 2).mean(1)) / 8
    evaluation = net.evaluate(X, Y, "mean_squared_error", sample_weight=w)
    assert evaluation.loss == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", sf.activations.__all__)
def test_default_losses(name):
    if name == "Activation":
        pytest.skip("the class, not an activation")
    output = getattr(sf.activations, name)()
    expected = {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy", "exp": "poisson"}
    default = losses.resolve(None, output).name
    assert default == expected.get(name, "mean_squared_error")
    assert losses.resolve(default, output).name == default
    for loss, needed in (("cross_entropy", "softmax"), ("binary_cross_entropy", "sigmoid"), ("poisson", "exp")):
        if name != needed:
            with pytest.raises(ValueError, match=needed):
                losses.resolve(loss, output)


@pytest.mark.parametrize("output", ["identity", "relu", "sigmoid", "exp"])
@pytest.mark.parametrize("name", ["mean_absolute_error", "huber"])
def test_robust_losses_by_their_formulas(name, output):
    net = network(output=output)
    X = np.random.default_rng(0).standard_normal((9, 6))
    Y = 3 * np.random.default_rng(1).standard_normal((9, 3))
    Y[0] = net.predict(X[:1])  # met exactly
    w = np.arange(9.0)
    d = abs(net.predict(X) - Y)
    assert (d > 1).any() and (d < 1).any()
    by_sample = d if name == "mean_absolute_error" else scipy.special.huber(1.0, d)
    told = net.evaluate(X, Y, name, sample_weight=w)
    assert told.loss == pytest.approx(np.average(by_sample.mean(1), weights=w), rel=1e-14)
    assert told.accuracy is None if output != "sigmoid" else told.accuracy is not None
    gradient = net.loss_and_gradient(X[:1], Y[:1], name)[1]
    assert not gradient.any()


def test_poisson_by_its_formula():
    """Half the mean deviance, as scikit-learn has it."""
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not there")
    net = network(output="exp", n_out=1)
    X = np.random.default_rng(0).standard_normal((9, 6))
    y = np.random.default_rng(1).poisson(2.0, 9)
    assert (y == 0).any()
    w = np.arange(9.0)
    expected = metrics.mean_poisson_deviance(y, net.predict(X)[:, 0], sample_weight=w) / 2
    assert net.evaluate(X, y, sample_weight=w).loss == pytest.approx(expected, rel=1e-13)
    assert net.score(X, y) == pytest.approx(metrics.r2_score(y, net.predict(X)[:, 0]))
    for loss in ("cross_entropy", "binary_cross_entropy"):
        with pytest.raises(ValueError, match="this network's output is exp"):
            net.evaluate(X, y, loss)


def test_poisson_learns_rates():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2000, 4))
    rate = np.exp(0.5 * X[:, 0] - 0.3 * X[:, 1])
    y = rng.poisson(rate)
    net = sf.Network([4, 16, 1], output="exp", seed=0)
    result = sf.train(net, X, y, epochs=20, optimizer=sf.Adam(0.01), factoring=None)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert np.corrcoef(net.predict(X)[:, 0], rate)[0, 1] > 0.97


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_rates(dtype):
    net = sf.Network([1, 1], output="exp", dtype=dtype, seed=0)
    net.layers[0].W[...] = 1
    # A rate that underflows to 0 costs nothing where nothing came, and what it should where something did.
    assert net.evaluate([[-1000.0]], [0]).loss == 0
    assert net.evaluate([[-1000.0]], [2]).loss == pytest.approx(2 * np.log(2) - 2 + 2000)
    assert net.evaluate([[1000.0]], [2]).loss == np.inf
    with pytest.raises(sf.NotFinite, match="outputs of layer 0 are beyond"):
        sf.train(net, [[1000.0]], [2], epochs=1, factoring=None)
    assert net.layers[0].W[0, 0] == 1


@pytest.mark.parametrize("weights", [None, np.array([1.0, 0.0, 2.0, 0.5, 3.0])])
@pytest.mark.parametrize("name", ["mean_squared_error", "mean_absolute_error", "huber", "poisson"])
def test_the_best_constant(name, weights):
    """No other constant has a smaller loss, and the network of that constant has that loss."""
    rng = np.random.default_rng(3)
    targets = rng.poisson(3.0, (5, 2)) if name == "poisson" else 4 * rng.standard_normal((5, 2))
    best = losses.of_constant(name, targets, 2, weights)
    net = sf.Network([1, 2], output="exp" if name == "poisson" else "identity", dtype="float64", seed=0)
    X = np.zeros((5, 1))

    def loss(constant):
        net.layers[0].b[:] = np.log(constant) if name == "poisson" else constant
        return net.evaluate(X, targets, name, sample_weight=weights).loss

    found = scipy.optimize.minimize(loss, np.ones(2), method="Nelder-Mead", bounds=[(1e-9 if name == "poisson" else None, None)] * 2,
                                    options=dict(xatol=1e-8, fatol=1e-12))  # fmt: skip
    assert best == pytest.approx(found.fun, rel=1e-6)
    assert best <= found.fun * (1 + 1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy", "mean_squared_error", "huber"])
def test_the_best_constant_of_sequences_is_that_of_all_their_steps(name, weighted):
    """And the network that gives it at each step has that loss."""
    rng = np.random.default_rng(5)
    output = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid"}.get(name, "identity")
    weights = rng.random((40, 6)) if weighted else None
    if name == "cross_entropy":
        targets, best = rng.integers(0, 3, (40, 6)), np.zeros(3)
        np.add.at(best, targets, 1 if weights is None else weights)
        best = np.log(best)
    else:
        targets = 0.0 + (rng.random((40, 6, 2)) < 0.3)
        mean = np.average(targets.reshape(-1, 2), axis=0, weights=None if weights is None else weights.reshape(-1))
        best = np.log(mean / (1 - mean)) if output == "sigmoid" else mean
    n_outputs = len(best)
    net = sf.Network(sf.Input(6, 1), [sf.layers.Linear(n_outputs, output)], dtype="float64", seed=0)
    net.layers[0].W[...] = 0
    net.layers[0].b[:] = best
    expected = net.evaluate(np.zeros((40, 6, 1)), targets, name, sample_weight=weights).loss
    found = losses.of_constant(name, targets, n_outputs, weights)
    assert found == pytest.approx(expected, rel=1e-12)
    flat = None if weights is None else weights.reshape(-1)
    rows = targets.reshape(-1) if name == "cross_entropy" else targets.reshape(-1, n_outputs)
    assert found == losses.of_constant(name, rows, n_outputs, flat)


@pytest.mark.parametrize("name", ["mean_squared_error", "mean_absolute_error", "huber", "poisson"])
def test_a_constant_meets_equal_targets(name):
    assert losses.of_constant(name, np.full((7, 2), 3.0), 2) == 0
    assert losses.of_constant(name, np.zeros(1), 1) == 0


def test_certain_and_wrong_predictions():
    """Losses come from pre-activations: no log of 0, however certain the network, right or wrong."""
    for dtype in ("float32", "float64"):
        net = sf.Network([1, 2], dtype=dtype, seed=0)
        net.layers[0].W[...] = [[1000], [-1000]]
        assert net.evaluate([[1.0]], [0]).loss == 0
        assert net.evaluate([[1.0]], [1]).loss == 2000
        # 0 log 0 is 0
        assert net.evaluate([[1.0]], [[1.0, 0.0]]).loss == 0
        net = sf.Network([1, 1], output="sigmoid", dtype=dtype, seed=0)
        net.layers[0].W[...] = 1000
        assert net.evaluate([[1.0]], [1]).loss == 0
        assert net.evaluate([[1.0]], [0]).loss == 1000
        assert net.evaluate([[-1.0]], [1]).loss == 1000


# ---- samples in many forms

PLAIN = np.random.default_rng(0).integers(0, 16, (30, 6))
LABELS = np.random.default_rng(1).integers(0, 3, 30)


def unaligned(a):
    space = np.zeros(a.nbytes + 1, dtype=np.uint8)
    out = space[1:].view(a.dtype).reshape(a.shape)
    out[...] = a
    assert not out.flags.aligned or a.itemsize == 1
    return out


def every_second(a):
    wide = np.full((2 * len(a), 2 * a.shape[1]), 99, dtype=a.dtype)
    wide[::2, ::2] = a
    return wide[::2, ::2]


def every_second_row(a):
    tall = np.full((2 * len(a), a.shape[1] + 3), 99, dtype=a.dtype)
    tall[::2, 1:-2] = a
    return tall[::2, 1:-2]


def read_only(a):
    out = a.copy()
    out.flags.writeable = False
    return out


def record_field(a):
    """Rows that are not a whole number of elements apart."""
    records = np.zeros(len(a), dtype=[("x", a.dtype, a.shape[1]), ("tag", np.uint8)])
    records["x"] = a
    return records["x"]


FORMS = {
    "plain": lambda a: a,
    "list": lambda a: a.tolist(),
    "fortran": np.asfortranarray,
    "rows reversed": lambda a: a[::-1].copy()[::-1],
    "columns reversed": lambda a: a[:, ::-1].copy()[:, ::-1],
    "strided": every_second,
    "strided rows": every_second_row,
    "read-only": read_only,
    "unaligned": unaligned,
    "transposed": lambda a: a.T.copy().T,
    "record field": record_field,
    "swapped bytes": lambda a: a.astype(a.dtype.newbyteorder()),
    "subclass": lambda a: a.view(np.matrix) if hasattr(np, "matrix") else a,
}
KINDS = ["float64", "float32", "float16", "uint8", "int8", "int16", "uint32", "int64", "bool"]


def results(net, X, y, **settings):
    """All that is computed from samples."""
    trained = net.copy()
    sf.train(
        trained, X, y, epochs=2, batch_size=8, factoring=sf.Factoring(1 / 4, force=True, pretrain_fraction=0.5), n_threads=1,
        validation=(X, y), **settings,
    )  # fmt: skip
    gradient = net.loss_and_gradient(X, y, n_threads=1)[1]
    return net.predict(X, n_threads=1), gradient, trained.parameters


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_samples_in_any_form_are_the_same(dtype, kind, form):
    net = network(dtype, uint8_scale=1.0)
    plain = PLAIN if kind != "bool" else PLAIN % 2
    expected = results(net, plain.astype(dtype), LABELS)
    given = FORMS[form](plain.astype(kind))
    kept = np.array(given)
    for ours, theirs in zip(results(net, given, LABELS), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.array(given), kept)


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8"])
def test_samples_from_a_file(kind, tmp_path):
    path = tmp_path / "samples"
    PLAIN.astype(kind).tofile(path)
    mapped = np.memmap(path, dtype=kind, mode="r", shape=PLAIN.shape)
    net = network("float32", uint8_scale=1.0)
    expected = results(net, PLAIN.astype("float32"), LABELS)
    for ours, theirs in zip(results(net, mapped, LABELS), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert path.read_bytes() == PLAIN.astype(kind).tobytes()


def test_one_column_and_one_row():
    column = np.arange(1.0, 9).reshape(8, 1)
    net = sf.Network([1, 4, 2], dtype="float64", seed=0)
    expected = net.predict(column)
    for given in (column[::1], np.repeat(column, 3, axis=0)[::3], np.tile(column, 5)[:, 2:3]):
        np.testing.assert_array_equal(net.predict(given), expected)
    wide = network()
    row = PLAIN[:1].astype(float)
    expected = wide.predict(row)
    np.testing.assert_array_equal(wide.predict(PLAIN.astype(float)[::40]), expected)
    np.testing.assert_array_equal(wide.predict(np.broadcast_to(row, (9, 6)))[8:], expected)


def test_float64_samples_in_a_float32_network_are_rounded_once():
    X = np.random.default_rng(0).standard_normal((30, 6))
    net = network("float32")
    for ours, theirs in zip(
        results(net, X, LABELS), results(net, X.astype("float32"), LABELS), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_large_contiguous_samples_are_not_copied():
    """uint8, float32 and float64 rows are read as they lie: the memory of a training does not grow with them."""
    net = sf.Network([1000, 2], dtype="float32", seed=0)
    # What is needed: a gathered tile, and a check's chunk of 2^20 elements, twice, of 0, 1 and 1 + 4 bytes each.
    for kind, limit in (("uint8", 1e6), ("float32", 3e6), ("float64", 10e6)):
        X = np.full((4000, 1000), 100, dtype=kind)
        y = np.zeros(4000, int)
        for settings in (dict(shuffle=True), dict(shuffle=False)):
            tracemalloc.start()
            sf.train(net, X, y, epochs=1, batch_size=100, factoring=None, n_threads=1,
                     optimizer=sf.GradientDescent(1e-9), **settings)  # fmt: skip
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < limit < X.nbytes, (kind, peak)


# ---- targets in many forms


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "int8", "uint64", ">i4", "bool"])
def test_class_numbers_of_any_integer_type(kind):
    net = network(n_out=2 if kind == "bool" else 3)
    y = LABELS % 2 if kind == "bool" else LABELS
    expected = results(net, PLAIN.astype(float), y)
    for given in (y.astype(kind), np.repeat(y.astype(kind), 2)[::2]):
        for ours, theirs in zip(results(net, PLAIN.astype(float), given), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(results(net, PLAIN.astype(float), y.tolist()), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "uint8", "bool", ">f8"])
@pytest.mark.parametrize(
    ("output", "n_out"), [("sigmoid", 1), ("sigmoid", 3), ("identity", 1), ("softmax", 3)]
)
def test_values_as_targets(output, n_out, kind):
    """uint8 targets are numbers, not pixels: they are not scaled."""
    net = network(output=output, n_out=n_out)
    Y = np.eye(3, dtype=float)[LABELS][:, :n_out]
    X = PLAIN / 16
    expected = results(net, X, Y)
    forms = [Y.astype(kind), np.asfortranarray(Y.astype(kind)), Y.astype(kind)[::-1][::-1]]
    if n_out == 1:
        forms.append(Y.astype(kind)[:, 0])
    for given in forms:
        for ours, theirs in zip(results(net, X, given), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "uint8", "bool"])
def test_sample_weights_of_any_type(kind):
    net = network()
    w = LABELS % 2
    expected = net.loss_and_gradient(PLAIN, LABELS, sample_weight=w.astype(float))
    for given in (w.astype(kind), np.repeat(w.astype(kind), 2)[::2], w.astype(kind).tolist()):
        value, gradient = net.loss_and_gradient(PLAIN, LABELS, sample_weight=given)
        assert value == expected[0]
        np.testing.assert_array_equal(gradient, expected[1])


# ---- what is refused


def calls(net):
    """Everything that takes X and y."""
    y = LABELS[: len(PLAIN)]
    return {
        "train": lambda X, y=y, **k: sf.train(net, X, y, epochs=1, **k),
        "loss_and_gradient": lambda X, y=y, **k: net.loss_and_gradient(X, y, **k),
        "evaluate": lambda X, y=y, **k: net.evaluate(X, y, **k),
        "score": lambda X, y=y, **k: net.score(X, y, **k),
        "validation": lambda X, y=y: sf.train(net, PLAIN, LABELS, epochs=1, validation=(X, y)),
    }


def sparse():
    return pytest.importorskip("scipy.sparse").csr_matrix(PLAIN * 1j)


def with_value(value, place=(3, 2), dtype=float):
    X = PLAIN.astype(dtype)
    X[place] = value
    return X


WRONG_KIND = {
    "none": lambda: None,
    "text": lambda: PLAIN.astype(str),
    "one text": lambda: "samples",
    "object": lambda: PLAIN.astype(object),
    "complex": lambda: PLAIN.astype(complex),
    "masked": lambda: np.ma.masked_array(PLAIN, mask=PLAIN > 9),
    "sparse complex": sparse,
    "dates": lambda: PLAIN.astype("datetime64[s]"),
    "records": lambda: np.zeros(30, dtype=[("a", float)]),
    "set": lambda: {1, 2},
}
WRONG_VALUE = {
    "1-D": lambda: PLAIN[0].astype(float),
    "0-D": lambda: 3.0,
    "3-D": lambda: PLAIN.reshape(30, 2, 3),
    "columns": lambda: PLAIN[:, :5],
    "no columns": lambda: PLAIN[:, :0],
    "ragged": lambda: [[1, 2, 3, 4, 5, 6], [1, 2]],
}
NOT_FINITE = {
    "nan": lambda: with_value(np.nan),
    "inf": lambda: with_value(np.inf),
    "-inf": lambda: with_value(-np.inf),
    "last": lambda: with_value(np.nan, (29, 5)),
    "float32": lambda: with_value(np.nan, dtype="float32"),
    "fortran": lambda: np.asfortranarray(with_value(np.nan)),
}


@pytest.mark.parametrize("call", ["train", "loss_and_gradient", "evaluate", "score", "validation"])
@pytest.mark.parametrize("what", [*WRONG_KIND, *WRONG_VALUE, *NOT_FINITE])
def test_bad_samples_are_refused(what, call):
    net = network()
    before = net.parameters.copy()
    if what in WRONG_KIND:
        with pytest.raises(TypeError, match="X: expected"):
            calls(net)[call](WRONG_KIND[what]())
    else:
        X = (WRONG_VALUE | NOT_FINITE)[what]()
        with pytest.raises(ValueError, match="X: expected"):
            calls(net)[call](X)
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("what", [*WRONG_KIND, *WRONG_VALUE])
def test_bad_samples_are_refused_by_predict(what):
    error = TypeError if what in WRONG_KIND else ValueError
    with pytest.raises(error, match="X: expected"):
        network().predict((WRONG_KIND | WRONG_VALUE)[what]())


def test_the_message_says_where_and_what():
    with pytest.raises(ValueError, match=r"got nan at 3, 2"):
        network().evaluate(with_value(np.nan), LABELS)
    big = np.zeros((300_000, 6))
    big[299_999, 1] = np.inf
    with pytest.raises(ValueError, match=r"got inf at 299999, 1"):
        network().evaluate(big, np.zeros(300_000, int))
    with pytest.raises(ValueError, match="reshape"):
        network().predict(np.zeros((30, 2, 3)))
    with pytest.raises(ValueError, match="reshape"):
        network().predict(np.zeros(6))


def test_numbers_too_large_for_float32():
    X = with_value(1e300)
    with pytest.raises(ValueError, match="float32"):
        network("float32").loss_and_gradient(X, LABELS)
    assert np.isfinite(network("float64").loss_and_gradient(X, LABELS)[0])
    Y = np.full((30, 3), 1e300)
    with pytest.raises(ValueError, match="float32"):
        network("float32", output="identity").loss_and_gradient(PLAIN, Y)
    w = np.full(30, 1e300)
    with pytest.raises(ValueError, match="float32"):
        network("float32").loss_and_gradient(PLAIN, LABELS, sample_weight=w)


BAD_TARGETS = [
    ("softmax", None, TypeError),
    ("softmax", "abc", TypeError),
    ("softmax", LABELS.astype(str).astype(bytes), TypeError),
    ("softmax", np.where(LABELS > 0, LABELS.astype(object), "a"), TypeError),
    ("softmax", np.where(LABELS > 0, LABELS.astype(object), None), ValueError),
    ("softmax", LABELS.astype(complex), TypeError),
    ("softmax", np.ma.masked_array(LABELS), TypeError),
    ("softmax", LABELS.astype(float), TypeError),  # class numbers are integers
    ("softmax", 1, ValueError),
    ("softmax", LABELS[:-1], ValueError),
    ("softmax", np.append(LABELS, 0), ValueError),
    ("softmax", LABELS - 1, ValueError),
    ("softmax", LABELS + 1, ValueError),
    ("softmax", LABELS + 2**32, ValueError),  # is the label itself, once narrowed to 32 bits
    ("softmax", LABELS.astype(np.uint64) + np.uint64(2**63), ValueError),
    ("softmax", LABELS[:, None], ValueError),
    ("softmax", np.eye(4)[LABELS], ValueError),
    ("softmax", -np.eye(3)[LABELS], ValueError),
    ("softmax", np.full((30, 3), np.nan), ValueError),
    ("softmax", np.zeros((30, 3, 1)), ValueError),
    ("sigmoid", LABELS, ValueError),  # three outputs, one column
    ("sigmoid", np.full((30, 3), 1.5), ValueError),
    ("sigmoid", np.full((30, 3), -0.1), ValueError),
    ("sigmoid", np.full((30, 3), np.nan), ValueError),
    ("exp", np.append(np.zeros(89), -1e-9).reshape(30, 3), ValueError),
    ("exp", np.full((30, 3), np.inf), ValueError),
    ("identity", np.zeros((30, 2)), ValueError),
    ("identity", np.zeros(30), ValueError),
    ("identity", np.full((30, 3), np.inf), ValueError),
    ("identity", np.zeros((30, 3), complex), TypeError),
]


@pytest.mark.parametrize("call", ["train", "loss_and_gradient", "evaluate", "score", "validation"])
@pytest.mark.parametrize(("output", "y", "error"), BAD_TARGETS)
def test_bad_targets_are_refused(output, y, error, call):
    net = network(output=output)
    if call == "validation" and output != "softmax":
        pytest.skip("the training data of this call are class numbers")
    before = net.parameters.copy()
    with pytest.raises(error, match="y: expected"):
        calls(net)[call](PLAIN, y)
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("call", ["train", "loss_and_gradient", "evaluate", "score", "validation"])
def test_real_targets_of_a_network_for_classes(call):
    """The message says which network takes them, and what to do about classes that are floats."""
    for y in (LABELS.astype(float), LABELS + 0.5, LABELS.astype("float32")):
        with pytest.raises(TypeError, match=r'got dtype float(32|64); for classes use \.astype\(int\), .* output="identity"'):
            calls(network())[call](PLAIN, y)
    with pytest.raises(ValueError, match=r'got -0\.5 in row 0; for real numbers .* output="identity"'):
        calls(network())[call](PLAIN, np.full((30, 3), -0.5))
    with pytest.raises(ValueError, match=r'got \(30, 1\); for real numbers .* output="identity"'):
        calls(network())[call](PLAIN, np.full((30, 1), -0.5))
    with pytest.raises(ValueError, match=r"got \(30, 1\); use (validation )?y\.ravel\(\) for one column of class numbers"):
        calls(network())[call](PLAIN, LABELS[:, np.newaxis])


@pytest.mark.parametrize("hidden", [(), (16,)])
def test_a_softmax_of_one_output_is_refused(hidden):
    with pytest.raises(ValueError, match=r'output: expected "sigmoid" .* or "identity" .* got "softmax", which is always 1'):
        sf.Network([5, *hidden, 1])
    for output in ("sigmoid", "identity", activations.tanh()):
        assert sf.Network([5, *hidden, 1], output=output).sizes[-1] == 1


def test_a_softmax_of_one_output_that_is_no_new_network_is_refused():
    """As of a file, or of another library's model."""
    layout = Layout.dense([5, 4, 1], [activations.relu(), activations.softmax()])
    with pytest.raises(ValueError, match='got "softmax", which is always 1'):
        sf.Network.of(layout, np.zeros(layout.size), 1.0)


@pytest.mark.parametrize(
    ("weight", "error"),
    [
        (np.ones(29), ValueError),
        (np.ones((30, 1)), ValueError),
        (1.0, ValueError),
        (np.zeros(30), ValueError),
        (-np.ones(30), ValueError),
        (np.append(np.ones(29), -1e-9), ValueError),
        (np.append(np.ones(29), np.nan), ValueError),
        (np.append(np.ones(29), np.inf), ValueError),
        (["a"] * 30, TypeError),
        (np.ones(30, complex), TypeError),
    ],
)
@pytest.mark.parametrize("call", ["train", "loss_and_gradient", "evaluate", "score"])
def test_bad_weights_are_refused(weight, error, call):
    net = network()
    before = net.parameters.copy()
    with pytest.raises(error, match="sample_weight: expected"):
        calls(net)[call](PLAIN, sample_weight=weight)
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_aligned_is_copied(dtype):
    """The compiled core reads whole numbers at their own addresses."""

    def shifted(array):
        space = np.zeros(array.nbytes + 1, np.uint8)
        moved = space[1:].view(array.dtype).reshape(array.shape)
        moved[...] = array
        assert not moved.flags.aligned
        return moved

    rng = np.random.default_rng(0)
    dtype = np.dtype(dtype)
    X, values, weights = (rng.random(shape).astype(dtype) for shape in ((50, 3), (50, 2), 50))
    labels = rng.integers(0, 2, 50).astype(np.int32)
    net = sf.Network([3, 2], seed=0, dtype=dtype)
    for y, loss in ((labels, "cross_entropy"), (values, "cross_entropy")):
        given = checked_samples(shifted(X), shifted(y), shifted(weights), spec_of(net, loss))
        assert all(array.flags.aligned for array in given.arrays)
        for array, plain in zip(given.arrays, (X, y, weights), strict=True):
            np.testing.assert_array_equal(array, plain)
    np.testing.assert_array_equal(net.predict(shifted(X)), net.predict(X))


def test_names_are_those_of_the_compiled_lists():
    assert list(activations.FACTS) == list(_elementwise.ACTIVATIONS)
    assert sorted(losses._LOSSES) == sorted(_elementwise.LOSSES)
    optimizer_rules = {kind().rule.name for kind in optimizers.BY_NAME.values()}
    assert optimizer_rules == set(_elementwise.UPDATES)


@pytest.mark.parametrize("rows", [0, 4])
def test_masked_targets_of_objects_are_refused(rows):
    y = np.ma.masked_array(np.full((rows, 2), 0.5, dtype=object))
    net = sf.Network([3, 2], output="sigmoid", seed=0)
    with pytest.raises(TypeError, match="y: expected an array without a mask, got a masked array"):
        net.evaluate(np.zeros((4, 3)), y)
    with pytest.raises(TypeError, match="y: expected an array without a mask, got a masked array"):
        sf.train(net, np.zeros((4, 3)), y)
