# SPDX-License-Identifier: BSD-3-Clause
"""Networks as ONNX models: onnxruntime computes what the network does, and the file is written whole or not at all."""

import dataclasses
import json
import os
import sys

import numpy as np
import pytest

import svdfast as sf
from svdfast.data.preparation import GAP, Categorical, Numeric, Preparation, Target
from svdfast.interop.linears import Linear, network_of
from svdfast.model import activations
from svdfast.model.layout import Layout
from svdfast.model.origin import Origin

ACTIVATIONS = [
    activations.identity(),
    activations.relu(),
    activations.clipped_relu(0.5),
    activations.clipped_relu(),
    activations.hardtanh(),
    activations.hardtanh(0.5),
    activations.leaky_relu(0.3),
    activations.leaky_relu(0.0),
    activations.elu(0.7),
    activations.celu(1.7),
    activations.gelu(),
    activations.gelu_tanh(),
    activations.silu(),
    activations.softplus(),
    activations.tanh(),
    activations.sigmoid(),
    activations.exp(),
    activations.softmax(),
]


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx", reason="onnx is not there")


@pytest.fixture
def run(onnx, tmp_path):
    """What onnxruntime gives for a network's file and samples."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not there")

    def run(net, *batches):
        sf.onnx.save(net, tmp_path / "net.onnx")
        session = onnxruntime.InferenceSession(
            tmp_path / "net.onnx", providers=["CPUExecutionProvider"]
        )
        (given,), (returned,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.shape[1:]) == ("X", [net.sizes[0]])
        assert (returned.name, returned.shape[1:]) == ("y", [net.sizes[-1]])
        return [session.run(["y"], {"X": X})[0] for X in batches]

    return run


def network(function, form, dtype):
    net = sf.Network([5, 8, 6, 4], hidden=[function, "tanh"], output=function, dtype=dtype, seed=0)
    net.parameters[:] += np.random.default_rng(1).standard_normal(net.parameters.shape)
    if form == "factored":
        net.truncate(ranks=[3, None], force=True)
    return net


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("function", ACTIVATIONS, ids=str)
def test_onnxruntime_computes_the_same(run, function, form, dtype):
    net = network(function, form, dtype)
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((n, 5)).astype(dtype) for n in (0, 1, 100)]
    for y, X in zip(run(net, *batches), batches, strict=True):
        expected = net.predict(X)
        assert y.shape == expected.shape and y.dtype == expected.dtype
        tolerance = 1e-5 if dtype == "float32" else 1e-13
        np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", ACTIVATIONS, ids=str)
def test_activations_far_from_zero_and_of_nan(run, function, dtype):
    """A network that is its activation alone."""
    outputs = 2 if function.name == "softmax" else 1
    net = network_of([Linear("layer", (np.ones((outputs, 1), dtype),), None, function)], uint8_scale=1.0)
    z = np.concatenate([[-1e30, -100], np.linspace(-40, 40, 801), [100, 1e30, np.nan, 0, -0.0]])
    X = z[:, np.newaxis].astype(dtype)
    (y,) = run(net, X)
    expected = net.predict(X)
    np.testing.assert_allclose(y, expected, rtol=1e-6 if dtype == "float32" else 1e-14, atol=3e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("form", ["dense", "factored"])
def test_weights_are_stored_once_and_read_as_they_lie(onnx, form):
    from svdfast.onnx import to_onnx

    net = network(activations.relu(), form, "float32")
    model = to_onnx(net)
    kinds = [node.op_type for node in model.graph.node]
    first = ["Gemm", "Gemm"] if form == "factored" else ["Gemm"]
    assert kinds == [*first, "Relu", "Gemm", "Tanh", "Gemm", "Relu"]
    stored = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
    assert sum(array.size for array in stored) == len(net.parameters)
    assert len(model.SerializeToString()) < net.parameters.nbytes + 2000


def test_the_model_tells_of_itself(onnx):
    from svdfast.onnx import to_onnx

    model = to_onnx(sf.Network([4, 3], uint8_scale=0.1))
    assert (model.producer_name, model.producer_version) == ("svdfast", sf.__version__)
    (scale,) = model.metadata_props
    assert (scale.key, float(scale.value)) == ("uint8_scale", 0.1)
    (dimension, _) = model.graph.input[0].type.tensor_type.shape.dim
    assert dimension.dim_param == "n_samples"
    onnx.checker.check_model(model, full_check=True)


def test_pixels_are_scaled_by_the_user(run):
    net = sf.Network([4, 6, 3], seed=0)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4), dtype="uint8")
    (y,) = run(net, pixels.astype("float32") * np.float32(net.uint8_scale))
    np.testing.assert_allclose(y, net.predict(pixels), rtol=1e-5)


def test_the_model_is_a_copy(onnx):
    from svdfast.onnx import to_onnx

    net = sf.Network([4, 3], seed=0)
    model = to_onnx(net)
    before = model.SerializeToString(deterministic=True)
    net.parameters[:] = 7
    assert model.SerializeToString(deterministic=True) == before


def test_a_network_that_is_no_network(onnx):
    from svdfast.onnx import to_onnx

    with pytest.raises(TypeError, match="net: expected a Network, got list"):
        to_onnx([])


def test_more_than_a_model_holds(onnx, tmp_path):
    """The parameters are zeros that nobody has touched, so they take no memory."""
    layout = Layout.dense([2**15, 2**14, 1], [activations.relu()] * 2)
    net = sf.Network([1, 1], output="identity")
    net.set_state(layout, np.zeros(layout.size, "float32"))
    with pytest.raises(ValueError, match=r"net: expected at most 2 GB, .* got 2,147,"):
        sf.onnx.save(net, tmp_path / "net.onnx")
    assert os.listdir(tmp_path) == []


# ---- what the network knows of its data


AGE, SEX, TOWN = Numeric("age", 38.0), Categorical("sex", ("f", "m")), Categorical("town", (GAP, "Ulm", "Århus, DK", "a=b"))
COLUMNS = (AGE, SEX, TOWN)
PAY = Target("pay", ("high", "low", "no \"pay\""))


def of_table(targets=(PAY,), columns=COLUMNS, dtype="float32"):
    """A network with the origin that svdfast train gives it."""
    preparation = Preparation(columns, targets)
    one, n_in = targets[0].classes, len(preparation.feature_names)
    output = "identity" if one is None else "sigmoid" if len(one) == 2 else "softmax"
    n_out = len(targets) if output != "softmax" else len(one)
    net = sf.Network([n_in, 8, n_out], output=output, dtype=dtype, seed=0)
    net.parameters[:] += np.random.default_rng(1).standard_normal(net.parameters.shape)
    net.layers[0].W[:, 0] *= 0.02  # ages
    net.origin = Origin(preparation.classes, preparation.feature_names, preparation=preparation)
    return net


def table(pandas):
    """Of each kind of value: known, a gap, not seen in training."""
    return pandas.DataFrame(
        {
            "town": ["Ulm", "", "Århus, DK", "a=b", "Bonn", "?", "Ulm"] * 5,
            "age": np.where(np.arange(35) % 4 == 0, np.nan, np.arange(35) - 7.5),
            "other": 1,
            "sex": ["f", "m", "x", "", "f", "m", "f"] * 5,
        }
    )


def column_inputs(preparation, frame, dtype):
    return {
        column.name: frame[[column.name]].to_numpy(dtype if isinstance(column, Numeric) else object)
        for column in preparation.columns
    }


@pytest.fixture
def session(onnx, tmp_path):
    """A network's file with the preparation, opened by onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not there")

    def session(net):
        sf.onnx.save(net, tmp_path / "net.onnx", preparation=True)
        return onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])

    return session


def test_the_metadata_has_the_classes_the_features_and_the_preparation(onnx):
    from svdfast.onnx import to_onnx

    net = of_table()
    found = {p.key: p.value for p in to_onnx(net).metadata_props}
    assert float(found.pop("uint8_scale")) == net.uint8_scale
    known = {key: json.loads(value) for key, value in found.items()}
    assert known.keys() == {"classes", "feature_names", "preparation"}
    assert tuple(known["classes"]) == PAY.classes
    assert tuple(known["feature_names"]) == net.feature_names
    assert Preparation.parse(known["preparation"]) == net.origin.preparation


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "targets, labels",
    [
        ((PAY,), ["label"]),
        ((Target("pay", (-(2**40), 5, 7)),), ["label"]),
        ((Target("pay", ("no", "yes")),), ["label"]),
        ((Target("pay", ("no", "yes")), Target("own", (3, 4))), ["label_pay", "label_own"]),
        ((Target("pay"),), []),
        ((Target("pay"), Target("own")), []),
    ],
    ids=["text", "integers", "two", "several of two", "number", "numbers"],
)
def test_a_model_with_the_preparation_takes_columns_and_gives_labels(session, targets, labels, dtype):
    pandas = pytest.importorskip("pandas", reason="pandas is not there")
    net, frame = of_table(targets, dtype=dtype), table(pandas)
    run, preparation = session(net), net.origin.preparation
    assert [i.name for i in run.get_inputs()] == ["age", "sex", "town"]
    assert [o.name for o in run.get_outputs()] == [*labels, "y"]
    for rows in (frame, frame[:1], frame[:0]):
        *told, y = run.run(None, column_inputs(preparation, rows, dtype))
        expected = net.predict(preparation.features(rows))
        tolerance = 1e-5 if dtype == "float32" else 1e-13
        np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
        assert y.dtype == expected.dtype
        for i, (label, target) in enumerate(zip(told, [t for t in targets if t.classes], strict=True)):
            numbers = expected.argmax(axis=1) if len(target.classes) > 2 else (expected[:, i] > 0.5).astype(int)
            assert label.tolist() == [target.classes[number] for number in numbers]
            assert len(rows) < 35 or len(set(numbers)) > 1


def test_names_of_columns_may_be_those_of_the_models_own(session):
    pandas = pytest.importorskip("pandas", reason="pandas is not there")
    names = ["X", "y", "label", "Gemm_0", "W_0", "scalar_0", "Concat_4", "b_1", "classes_0"]
    net = of_table((Target("label_", ("a", "b")),), tuple(Numeric(name, 0.5) for name in names))
    run = session(net)
    assert [i.name for i in run.get_inputs()] == names
    assert [o.name for o in run.get_outputs()] == ["label_", "y_"]
    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(20, 9)), columns=names)
    _, y = run.run(None, column_inputs(net.origin.preparation, frame, "float32"))
    np.testing.assert_allclose(y, net.predict(net.origin.preparation.features(frame)), rtol=1e-5, atol=1e-6)


def test_a_preparation_that_is_not_known_or_not_expressible_is_refused(onnx, tmp_path):
    with pytest.raises(ValueError, match="preparation: expected a network that was trained on a table"):
        sf.onnx.save(sf.Network([4, 3]), tmp_path / "net.onnx", preparation=True)
    with pytest.raises(ValueError, match="preparation: expected names of columns"):
        sf.onnx.save(of_table(columns=(Numeric("", 0.0),)), tmp_path / "net.onnx", preparation=True)
    assert os.listdir(tmp_path) == []


# ---- the file


@pytest.mark.parametrize("name", ["net", "net.npz", "net.onnx.gz", ".onnx", ""])
def test_other_names_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a name that ends in \.onnx"):
        sf.onnx.save(sf.Network([4, 3]), tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("as_text", [True, False])
def test_exporting_again_replaces_the_file(onnx, as_text, tmp_path):
    path = tmp_path / "net.onnx"
    sf.onnx.save(sf.Network([4, 3]), path)
    sf.onnx.save(sf.Network([5, 3]), str(path) if as_text else path)
    (given,) = onnx.load(path).graph.input
    assert given.type.tensor_type.shape.dim[1].dim_value == 5
    assert os.listdir(tmp_path) == ["net.onnx"]


def test_a_failed_export_leaves_the_old_file_and_nothing_else(onnx, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    sf.onnx.save(sf.Network([4, 3]), path)
    old = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        sf.onnx.save(sf.Network([5, 3]), path)
    assert os.listdir(tmp_path) == ["net.onnx"]
    assert path.read_bytes() == old


def test_an_absent_onnx_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'pip install "svdfast\[onnx\]"'):
        sf.onnx.save(sf.Network([4, 3]), tmp_path / "net.onnx")
    assert os.listdir(tmp_path) == []


def test_an_activation_that_onnx_lacks_is_refused(onnx, monkeypatch):
    from svdfast.onnx import to_onnx

    without = dataclasses.replace(activations.FACTS["tanh"], onnx=None)
    monkeypatch.setitem(activations.FACTS, "tanh", without)
    with pytest.raises(ValueError, match=r"net: layer 1: expected .* ONNX has, got tanh"):
        to_onnx(sf.Network([4, 3, 2, 1], hidden=["relu", "tanh"], output="sigmoid"))
