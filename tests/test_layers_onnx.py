# SPDX-License-Identifier: BSD-3-Clause
"""Recurrent and convolutional networks as ONNX models: onnxruntime computes what they do, and factored layers stay factored.

Elsewhere: fully connected networks, and the file (test_onnx.py).
"""

import numpy as np
import pytest
from hypothesis import given, settings
from test_layers_torch import networks, samples

import svdfast as sf
from svdfast import layers as L
from svdfast._engine import Engine
from svdfast.data.open import checked_samples
from svdfast.model.evaluation import spec_of

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def operators(net):
    from svdfast.onnx import to_onnx

    return [node.op_type for node in to_onnx(net).graph.node]


def computed(net, X):
    from svdfast.onnx import to_onnx

    session = onnxruntime.InferenceSession(to_onnx(net).SerializeToString(), providers=["CPUExecutionProvider"])
    (given_to,), (returned,) = session.get_inputs(), session.get_outputs()
    assert given_to.shape == ["n_samples", *net.layout.input_shape]
    assert returned.shape == ["n_samples", *net.layout.output_shape]
    (y,) = session.run(["y"], {"X": X})
    return y


def close(net, X, atol):
    y, expected = computed(net, X), net.predict(X)
    assert y.dtype == net.dtype and y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=0, atol=atol)


@given(networks())
@settings(max_examples=100, deadline=None)
def test_onnxruntime_gives_the_same_in_float64(net):
    close(net, samples(net), 1e-10)


@given(networks(dtype="float32"))
@settings(max_examples=100, deadline=None)
def test_onnxruntime_gives_the_same_in_float32(net):
    close(net, samples(net), 1e-5)


NETWORKS = {
    "lenet": (sf.Input(9, 8, 2), [L.Conv2d(4, 3, "relu", padding="same"), L.MaxPool2d(2), L.Conv2d(5, 3, "tanh"), L.Flatten()]),
    "means": (sf.Input(9, 8, 2), [L.AvgPool2d(3, 2, padding="same"), L.Conv2d(5, (2, 3), "gelu", stride=(1, 2)), L.GlobalAvgPool()]),
    "gru": (sf.Input(7, 3), [L.GRU(5, return_sequences=True, bidirectional=True), L.GRU(4)]),
    "lstm": (sf.Input(7, 3), [L.LSTM(5, return_sequences=True), L.LSTM(4, bidirectional=True)]),
    "rnn": (sf.Input(7, 3), [L.RNN(5, return_sequences=True, activation="relu"), L.LayerNorm(), L.RNN(4, return_sequences=True)]),
    "tokens": (sf.Input(7), [L.Embedding(9, 4), L.Conv1d(5, 3, "elu", padding="same"), L.LSTM(6, return_sequences=True)]),
}


def network(name, form, dtype):
    shape, layers = NETWORKS[name]
    net = sf.Network(shape, [*layers, L.Linear(3, "softmax")], dtype=dtype, seed=0)
    net.parameters[:] += 0.2 * np.random.default_rng(1).standard_normal(net.layout.size)
    if form == "factored":
        net.truncate(ranks=[2] * (len(net.layers) - 1), force=True)
    return net


@DTYPES
@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("n", [1, 33])
def test_any_number_of_samples(name, form, dtype, n):
    net = network(name, form, dtype)
    close(net, samples(net, n), 1e-5 if dtype == "float32" else 1e-10)


def test_factored_layers_stay_factored():
    found = {(name, form): operators(network(name, form, "float32")) for name in NETWORKS for form in ("dense", "factored")}
    for name, operator, n in [("gru", "GRU", 2), ("lstm", "LSTM", 2), ("rnn", "RNN", 2), ("tokens", "LSTM", 1)]:
        assert found[name, "dense"].count(operator) == n and "Scan" not in found[name, "dense"]
        assert operator not in found[name, "factored"]
    assert found["gru", "factored"].count("Scan") == 3  # one for each direction
    assert [found["lenet", form].count("Conv") for form in ("dense", "factored")] == [2, 4]
    net = network("gru", "dense", "float32")
    net.truncate(ranks=[2, None, None, 2, None], force=True)  # the inputs' weights alone
    assert operators(net).count("GRU") == 2 and "Scan" not in operators(net)
    assert operators(net).count("MatMul") == 2
    close(net, samples(net), 1e-5)


@DTYPES
@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_stored_once(name, form, dtype):
    from svdfast.onnx import to_onnx

    net = network(name, form, dtype)
    stored = [onnx.numpy_helper.to_array(t) for t in to_onnx(net).graph.initializer]
    # Beside them an Embedding's row for what is no token, and what built operators and LayerNorm read.
    more = sum(array.size for array in stored if array.dtype == net.dtype) - len(net.parameters)
    assert 0 <= more <= 60


@DTYPES
@pytest.mark.parametrize("form", ["dense", "factored"])
def test_what_is_no_token(form, dtype):
    """The model can't refuse it: there it is the bias alone, as the core has it."""
    net = network("tokens", form, dtype)
    X = np.array([[-1, 0, 8, 9, 2**40, -(2**40), 3]])
    with pytest.raises(ValueError, match="X: expected tokens"):
        net.predict(X)
    data = checked_samples(X, None, None, spec_of(net)._replace(targets=None, n_tokens=0))
    engine, expected = Engine(*net.state, batch_size=1, n_threads=1, gradients=False), np.empty((1, *net.layout.output_shape), dtype)
    data.bind(engine)
    engine.predict(expected)
    np.testing.assert_allclose(computed(net, X), expected, rtol=0, atol=1e-5 if dtype == "float32" else 1e-10)


def test_each_position_of_an_image():
    net = sf.Network(sf.Input(4, 5, 2), [L.Conv2d(3, 3, "relu", padding="same"), L.Linear(3, "softmax")], seed=0)
    close(net, samples(net), 1e-5)
    assert computed(net, samples(net)).shape == (4, 20, 3)


def test_a_small_variance_in_float64():
    net = sf.Network(sf.Input(6), [L.LayerNorm(1e-5), L.Linear(2, "identity")], dtype="float64", seed=0)
    close(net, 1e-4 * np.random.default_rng(0).standard_normal((5, 6)), 1e-10)


def test_nan_is_given_on():
    net = network("gru", "factored", "float64")
    X = samples(net)
    X[1, 3, 0] = np.nan
    y = computed(net, X)
    assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2, 3]]).all()


def test_the_file_has_such_networks_too(tmp_path):
    net = network("lenet", "factored", "float32")
    sf.onnx.save(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    X = samples(net)
    np.testing.assert_allclose(session.run(["y"], {"X": X})[0], net.predict(X), rtol=0, atol=1e-5)


def test_masks_are_refused(tmp_path):
    net = sf.Network(sf.Input(4, 3), [L.Masking(), L.GRU(4), L.Linear(2)])
    with pytest.raises(ValueError, match="net: layer 0: expected layers that ONNX has, got Masking"):
        sf.onnx.save(net, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_activation_that_onnx_lacks(monkeypatch):
    import dataclasses

    from svdfast.model import activations

    monkeypatch.setitem(activations.FACTS, "tanh", dataclasses.replace(activations.FACTS["tanh"], onnx=None))
    with pytest.raises(ValueError, match=r"net: layer 1: expected an activation that ONNX has, got tanh"):
        operators(network("lenet", "dense", "float32"))
