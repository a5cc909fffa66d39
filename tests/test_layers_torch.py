# SPDX-License-Identifier: BSD-3-Clause
"""Recurrent and convolutional networks from and to PyTorch: the same outputs and gradients there, the same layers after a round trip,
and an error that names what has no counterpart.

Not here: fully connected networks (test_convert.py, test_from_torch.py).
"""

import copy

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import svdfast as sf
from svdfast import layers as L
from svdfast.model import activations
from svdfast.model.layers import Scan

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn  # noqa: E402

from svdfast.torch import ChannelsFirst, ChannelsLast, FactoredLinear, FactoredRecurrent, MeanPool2d, Recurrent  # noqa: E402

FUNCTIONS = ["identity", "relu", "tanh", "elu", "gelu", "softmax"]
sizes = st.integers(1, 5)


# ---- networks of any layers


@st.composite
def recurrent(draw):
    kind = draw(st.sampled_from([L.RNN, L.GRU, L.LSTM]))
    more = {"activation": draw(st.sampled_from(["tanh", "relu"]))} if kind is L.RNN else {}
    return kind(draw(sizes), draw(st.booleans()), draw(st.booleans()), **more)


@st.composite
def between(draw):
    return draw(st.sampled_from([L.Dropout(0.3), L.LayerNorm(), L.LayerNorm(0.1), None, None, None]))


@st.composite
def of_sequences(draw, steps):
    """Layers of sequences, up to one that ends them or to Flatten; or none that does."""
    layers = []
    for _ in range(draw(st.integers(0, 3))):
        layers.append(draw(between()))
        kind = draw(st.sampled_from(["recurrent", "linear", "convolution"]))
        if kind == "recurrent":
            layers.append(draw(recurrent()))
            if not layers[-1].return_sequences:
                return layers
        elif kind == "linear":
            layers.append(L.Linear(draw(sizes), draw(st.sampled_from(FUNCTIONS))))
        else:
            size = draw(st.integers(1, min(3, steps)))
            padding = draw(st.sampled_from(["same", "valid", *range(size)]))
            stride = draw(st.integers(1, 2))
            steps = -(-steps // stride) if padding == "same" else (steps + 2 * (0 if padding == "valid" else padding) - size) // stride + 1
            layers.append(L.Conv1d(draw(sizes), size, draw(st.sampled_from(FUNCTIONS)), stride, padding))
    if draw(st.booleans()):
        layers.append(L.Flatten())
    return layers


@st.composite
def of_images(draw, height, width):
    layers = []
    for _ in range(draw(st.integers(0, 4))):
        layers.append(draw(between()))
        kind = draw(st.sampled_from(["convolution", "convolution", "largest", "mean", "linear"]))
        if kind == "linear":
            layers.append(L.Linear(draw(sizes), draw(st.sampled_from(FUNCTIONS))))
            continue
        size = draw(st.integers(1, min(4, height))), draw(st.integers(1, min(4, width)))
        stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        padding = draw(st.sampled_from(["same", "valid", "numbers"]))
        if padding == "numbers":
            padding = tuple(draw(st.integers(0, n - 1)) for n in size)
        window = size, stride, padding
        if kind == "convolution":
            layers.append(L.Conv2d(draw(sizes), size, draw(st.sampled_from(FUNCTIONS)), stride, padding))
        else:
            layers.append({"largest": L.MaxPool2d, "mean": L.AvgPool2d}[kind](*window))
        if padding == "same":
            height, width = -(-height // stride[0]), -(-width // stride[1])
        else:
            more = (0, 0) if padding == "valid" else padding
            height, width = ((n + 2 * p - k) // s + 1 for n, p, k, s in zip((height, width), more, size, stride, strict=True))
    end = draw(st.sampled_from([L.Flatten(), L.GlobalAvgPool(), None]))
    return [*layers, end]


@st.composite
def networks(draw, dtype="float64"):
    kind = draw(st.sampled_from(["sequences", "images", "tokens"]))
    if kind == "images":
        shape = draw(st.integers(1, 8)), draw(st.integers(1, 8)), draw(st.integers(1, 3))
        layers = draw(of_images(*shape[:2]))
    elif kind == "sequences":
        shape = draw(st.integers(1, 6)), draw(sizes)
        layers = draw(of_sequences(shape[0]))
    else:
        shape = (draw(st.integers(1, 6)),)
        layers = [L.Embedding(draw(st.integers(1, 9)), draw(sizes)), *draw(of_sequences(shape[0]))]
    layers = [layer for layer in layers if layer is not None]
    net = sf.Network(sf.Input(*shape), [*layers, L.Linear(3, draw(st.sampled_from(["softmax", "identity"])))], dtype=dtype, seed=0)
    net.parameters[:] += 0.3 * np.random.default_rng(1).standard_normal(net.layout.size)
    if draw(st.booleans()):
        ranks = [draw(st.sampled_from([None, 1, 2])) for _ in net.layers[:-1]]
        net.truncate(ranks=[rank and min(rank, w.n_in, w.n_out) for rank, w in zip(ranks, net.layers, strict=False)], force=True)
    return net


def samples(net, n=4):
    shape, first = net.layout.input_shape, net.layout.layers[0]
    rng = np.random.default_rng(2)
    if any(type(each).__name__ == "OneHot" for each in first.steps):
        return rng.integers(0, first.n_in, (n, *shape))
    return rng.standard_normal((n, *shape)).astype(net.dtype)


def given_to(module_input):
    """An array as PyTorch has it: channels before the positions of images."""
    return torch.tensor(np.moveaxis(module_input, -1, 1) if module_input.ndim == 4 else module_input)


def computed(module, X):
    """What a module gives in inference, with rows as svdfast has them."""
    training = module.training
    with torch.no_grad():
        y = module.eval()(given_to(X)).numpy()
    module.train(training)
    return np.moveaxis(y, 1, -1).reshape(len(y), -1, y.shape[1]) if y.ndim == 4 else y


def close(module, net, X=None, atol=1e-10):
    X = samples(net) if X is None else X
    expected = net.predict(X)
    np.testing.assert_allclose(computed(module, X).reshape(expected.shape), expected, rtol=0, atol=atol)


@given(networks())
@settings(max_examples=150, deadline=None)
def test_pytorch_gives_the_same_and_so_does_what_comes_back(net):
    module = sf.to_torch(net)
    close(module, net)
    again = sf.from_torch(module, input=sf.Input(*net.layout.input_shape))
    assert again.dtype == net.dtype
    close(module, again)
    np.testing.assert_allclose(again.predict(samples(net)), net.predict(samples(net)), rtol=0, atol=1e-10)


@given(networks(dtype="float32"))
@settings(max_examples=40, deadline=None)
def test_in_float32(net):
    module = sf.to_torch(net)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    close(module, net, atol=2e-5)


@given(networks())
@settings(max_examples=60, deadline=None)
def test_gradients_are_the_same(net):
    net = net.copy()
    for layer, of in zip(net.layers, net.layout.layers, strict=True):
        if any(type(each).__name__ == "OneHot" for each in of.steps):
            layer.b[:] = 0  # which PyTorch has in the vectors
    X = samples(net)
    y = np.random.default_rng(3).standard_normal((len(X), *net.layout.output_shape))
    module = sf.to_torch(net).eval()
    out = module(given_to(X))
    target = torch.tensor(y)
    if out.ndim == 4:
        target = target.movedim(-1, 1).reshape(out.shape)
    ((out.reshape(target.shape) - target) ** 2).mean().backward()
    _, gradient = net.loss_and_gradient(X, y, "mean_squared_error")
    # The way back copies numbers, so it brings gradients to their places, too.
    of_gradients = copy.deepcopy(module)
    for to, p in zip(of_gradients.parameters(), module.parameters(), strict=True):
        to.data = p.grad
    back = sf.from_torch(of_gradients, input=sf.Input(*net.layout.input_shape))
    assume(back.layout == net.layout)  # else two layers are a factored one there, or a pool is written otherwise
    expected = {tensor.name: tensor.of(gradient) for tensor in net.layout.tensors}
    for tensor in net.layout.tensors:
        embeds = any(type(each).__name__ == "OneHot" for each in net.layout.layers[tensor.layer].steps)
        if not (embeds and tensor.name.endswith(".b")):
            np.testing.assert_allclose(tensor.of(back.parameters), expected[tensor.name], rtol=0, atol=1e-10, err_msg=tensor.name)
