# SPDX-License-Identifier: BSD-3-Clause
"""Recurrent and convolutional networks from and to PyTorch: the same outputs and gradients there, the same layers after a round trip,
and an error that names what has no counterpart.

Elsewhere: fully connected networks (test_convert.py, test_from_torch.py).
"""

import copy

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import svdfast as sf
from svdfast import layers as L
from svdfast.model import activations

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn  # noqa: E402

from svdfast.torch import (  # noqa: E402
    ChannelsFirst,
    ChannelsLast,
    FactoredLinear,
    FactoredRecurrent,
    MeanPool2d,
    Recurrent,
)

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
    same_gradients(net.copy(), 1e-10)


@given(networks(dtype="float32"))
@settings(max_examples=30, deadline=None)
def test_gradients_in_float32(net):
    same_gradients(net.copy(), 1e-4)


def same_gradients(net, atol):
    for layer, of in zip(net.layers, net.layout.layers, strict=True):
        if any(type(each).__name__ == "OneHot" for each in of.steps):
            layer.b[:] = 0  # which PyTorch has in the vectors
    X = samples(net)
    y = np.random.default_rng(3).standard_normal((len(X), *net.layout.output_shape)).astype(net.dtype)
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
            np.testing.assert_allclose(tensor.of(back.parameters), expected[tensor.name], rtol=0, atol=atol, err_msg=tensor.name)


# ---- networks that PyTorch has and svdfast reads


def trained(module):
    """With numbers in all its parameters and statistics, in inference."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) - 0.4)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_var.uniform_(0.3, 3, generator=generator)
    return module.double().eval()


def conv(*sizes, **more):
    return nn.Conv2d(*sizes, **more)


def states(kind, *sizes, sequences=False, **more):
    return Recurrent(getattr(nn, kind)(*sizes, batch_first=True, **more), sequences)


IMAGES = {  # of images 7×6 with two channels
    "lenet": lambda: [conv(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), conv(4, 5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)],
    "pooled before it is rectified": lambda: [conv(2, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)],
    "flattened before it is rectified": lambda: [conv(2, 4, 3), nn.Flatten(), nn.GELU(), nn.Linear(80, 3)],
    "flattened first": lambda: [nn.Flatten(), nn.Linear(84, 3)],
    "no bias": lambda: [conv(2, 4, 3, bias=False), nn.Tanh(), conv(4, 3, 2, bias=False), nn.Flatten(), nn.Linear(36, 2, bias=False)],
    "normed": lambda: [conv(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(36, 2)],
    "normed without scale": lambda: [conv(2, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(80, 2)],
    "normed after": lambda: [conv(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), conv(4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)],
    "normed, then flattened": lambda: [conv(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(80, 2)],
    "flattened, then normed": lambda: [conv(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(80), nn.Linear(80, 2)],
    "normed, then the mean": lambda: [conv(2, 4, 3), nn.ELU(), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)],
    "normed first": lambda: [nn.BatchNorm2d(2), conv(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)],
    "selu": lambda: [conv(2, 4, 3), nn.SELU(), nn.MaxPool2d(2), conv(4, 3, 2, padding=1), nn.SELU(), nn.Flatten(), nn.Linear(27, 2)],
    "softplus after a maximum": lambda: [conv(2, 4, 3), nn.MaxPool2d(2), nn.Softplus(2), nn.Flatten(), nn.Linear(16, 2)],
    "layer norm of all": lambda: [conv(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.LayerNorm(80), nn.Dropout(0.1), nn.Linear(80, 2)],
    "layer norm of channels": lambda: [ChannelsLast(), nn.LayerNorm(2), nn.Linear(2, 5), nn.ReLU(), ChannelsFirst(), conv(5, 3, 2),
        nn.Flatten(), nn.Linear(90, 2)],
    "softmax of channels": lambda: [conv(2, 4, 3), nn.Softmax(1), nn.Flatten(), nn.Linear(80, 2)],
    "windows": lambda: [nn.ZeroPad2d((1, 0, 1, 1)), conv(2, 4, (3, 3), stride=(2, 1), padding=(1, 0)), nn.ReLU(), nn.AvgPool2d(2, 1,
        1, count_include_pad=False), nn.ConstantPad2d((1, 0, 0, 1), -np.inf), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)],
    "means": lambda: [MeanPool2d((2, 3), (2, 2), (1, 0, 0, 1)), conv(2, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)],
    "factored": lambda: [conv(2, 3, 3, bias=False, padding="same"), conv(3, 8, 1), nn.ReLU(), nn.Dropout2d(), nn.Flatten(),
        nn.Linear(336, 4, bias=False), nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)],
    "one by one at the end": lambda: [conv(2, 4, 3), nn.ReLU(), conv(4, 3, 1)],
}  # fmt: skip
SEQUENCES = {  # of five steps with three features
    "two RNNs": lambda: [states("RNN", 3, 4, 2, nonlinearity="relu"), nn.Linear(4, 2)],
    "LSTMs both ways": lambda: [states("LSTM", 3, 4, 3, bidirectional=True, dropout=0.2), nn.Linear(8, 2)],
    "without biases": lambda: [states("GRU", 3, 4, 2, bias=False, bidirectional=True, sequences=True), nn.Linear(8, 2)],
    "normed steps": lambda: [nn.LayerNorm(3), states("GRU", 3, 4, sequences=True), nn.LayerNorm(4), states("GRU", 4, 5),
        nn.BatchNorm1d(5), nn.Linear(5, 2)],
    "factored input": lambda: [nn.Linear(3, 2, bias=False), states("LSTM", 2, 4), nn.Linear(4, 2)],
    "convolutions": lambda: [nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 3, 3, padding="same"), nn.Flatten(),
        nn.Linear(12, 2)],
    "turned": lambda: [states("GRU", 3, 4, sequences=True), ChannelsFirst(), nn.Conv1d(4, 3, 2), nn.ReLU(), ChannelsLast(),
        states("RNN", 3, 2), nn.Linear(2, 2)],
    "padded": lambda: [nn.ConstantPad1d((1, 0), 0.0), nn.Conv1d(3, 4, 3), nn.ReLU(), ChannelsLast(), nn.Linear(4, 2), nn.Softmax(-1)],
}  # fmt: skip


@pytest.mark.parametrize("name", [*IMAGES, *SEQUENCES])
def test_modules_of_pytorch(name):
    of_images = name in IMAGES
    module = trained(nn.Sequential(*({**IMAGES, **SEQUENCES}[name]())))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    net = sf.from_torch(module, input=sf.Input(7, 6, 2) if of_images else sf.Input(5, 3))
    first = isinstance(module[0], nn.Conv1d | nn.ConstantPad1d)
    x = torch.tensor(np.random.default_rng(0).standard_normal((6, 2, 7, 6) if of_images else (6, 3, 5) if first else (6, 5, 3)))
    with torch.no_grad():
        expected = module(x)
    expected = np.moveaxis(expected.numpy(), 1, -1) if expected.ndim == 4 else expected.numpy()
    got = net.predict(x.movedim(1, -1).numpy() if of_images or first else x.numpy())
    np.testing.assert_allclose(got, expected.reshape(got.shape), rtol=0, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert net.is_factored == ("factored" in name)
    close(sf.to_torch(net), net)


def test_tokens():
    module = trained(nn.Sequential(nn.Embedding(9, 4), states("LSTM", 4, 6, sequences=True), nn.Linear(6, 9)))
    net = sf.from_torch(module, input=sf.Input(5), output="softmax")
    x = torch.randint(0, 9, (3, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(x).softmax(dim=2)
    np.testing.assert_allclose(net.predict(x.numpy()), expected, rtol=0, atol=1e-10)
    assert not net.is_factored
    factored = trained(nn.Sequential(nn.Embedding(9, 2), nn.Linear(2, 7), states("LSTM", 7, 6), nn.Linear(6, 9)))
    net = sf.from_torch(factored, input=sf.Input(5))
    assert net.layout.ranks == (2, None, None, None)
    with torch.no_grad():
        np.testing.assert_allclose(net.predict(x.numpy()), factored(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "gru", "lstm"])
def test_factored_states(cell):
    gates = {"gru": 3, "lstm": 4}.get(cell, 1)

    def factored(n_out, n_in, rank):
        return FactoredLinear(nn.Parameter(torch.rand(n_out, rank)), nn.Parameter(torch.rand(rank, n_in)), nn.Parameter(torch.rand(n_out)))

    n = 5
    layer = FactoredRecurrent(cell, nn.Linear(3, 2 * gates * n), factored(gates * n, n, 2), nn.Linear(n, gates * n))
    module = trained(nn.Sequential(layer, nn.Linear(2 * n, 2)))
    net = sf.from_torch(module, input=sf.Input(4, 3))
    assert net.layout.ranks == (None, 2, None, None)
    close(module, net)
    # A rank that saves nothing in a Linear has no place in a weight of a state: it is dense.
    wide = FactoredRecurrent(cell, nn.Linear(3, gates * n), factored(gates * n, n, n + 1))
    module = trained(nn.Sequential(wide, nn.Linear(n, 2)))
    net = sf.from_torch(module, input=sf.Input(4, 3))
    assert not net.is_factored
    close(module, net)


def test_recurrent_layers_are_dense_or_factored_where_the_state_is():
    net = sf.Network(sf.Input(4, 3), [L.GRU(8, bidirectional=True), L.Linear(2)], seed=0)
    assert [type(part) for part in sf.to_torch(net)] == [Recurrent, nn.Linear]
    net.truncate(ranks=[2, None, None], force=True)
    assert [type(part) for part in sf.to_torch(net)] == [nn.Linear, Recurrent, nn.Linear]
    net.truncate(ranks=[None, 2, None], force=True)
    assert type(sf.to_torch(net)[0]) is FactoredRecurrent or type(sf.to_torch(net)[1]) is FactoredRecurrent


def test_to_torch_draws_from_no_generator():
    net = sf.Network(sf.Input(6), [L.Embedding(9, 4), L.LSTM(5, True), L.Conv1d(3, 2), L.Flatten(), L.Linear(2)], seed=0)
    state = torch.get_rng_state()
    sf.to_torch(net)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_module_is_trained_on_in_pytorch():
    net = sf.Network(sf.Input(6, 6, 1), [L.Conv2d(8, 3, "relu"), L.MaxPool2d(2), L.Flatten(), L.Dropout(0.2), L.Linear(3,
        "softmax")], seed=0)
    module = sf.to_torch(net, logits=True).train()
    x = torch.rand(30, 1, 6, 6)
    y = (x.mean(dim=(1, 2, 3)) * 3).long()
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    again = sf.from_torch(module, input=sf.Input(6, 6, 1), output="softmax")
    assert again.layout == net.layout
    close(nn.Sequential(module, nn.Softmax(1)), again, atol=1e-5)


def test_modules_of_ones_own():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(conv(2, 4, 3), nn.ReLU())
            self.flat, self.out = nn.Flatten(), nn.Linear(80, 3)

        def forward(self, x):
            return self.out(self.flat(self.body(x)))

    class Scaled(Own):
        def forward(self, x):
            return self.out(self.flat(self.body(x))) * 2

    module = trained(Own())
    close(module, sf.from_torch(module, input=sf.Input(7, 6, 2)))
    with pytest.raises(ValueError, match="module: expected a forward that calls the module's own modules"):
        sf.from_torch(trained(Scaled()), input=sf.Input(7, 6, 2))

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.rnn(x)[0][:, -1])

    with pytest.raises(ValueError,
        match=r"got that of Last, where GRU has two outputs and svdfast\.torch\.Recurrent one; pass a Sequential"):
        sf.from_torch(Last(), input=sf.Input(5, 3))


# ---- what is refused


def image(*parts):
    return lambda: (nn.Sequential(*parts), sf.Input(7, 6, 2))


def sequence(*parts):
    return lambda: (nn.Sequential(*parts), sf.Input(5, 3))


END = nn.Flatten(), nn.Linear(4, 2)


@pytest.mark.parametrize("make, match", [
    (lambda: (nn.Sequential(conv(2, 4, 3), *END), None), r"module\[0\]: expected Linear, .* got Conv2d; pass input=svdfast\.Input"),
    (lambda: (nn.Sequential(nn.Embedding(5, 4), *END), None), r"module\[0\]: .* got Embedding; pass input="),
    (image(conv(2, 4, 3, groups=2), *END), r"module\[0\]: expected Conv2d with groups=1, got 2"),
    (image(conv(2, 4, 3, dilation=2), *END), r"module\[0\]: expected Conv2d with dilation="),
    (image(conv(2, 4, 3, padding=1, padding_mode="reflect"), *END),
        r"module\[0\]: expected Conv2d with padding_mode='zeros', got 'reflect'"),
    (image(conv(2, 4, 3, padding=3), *END), r"module\[0\]: expected padding smaller than the window"),
    (image(conv(2, 4, 8), *END), r"module\[0\]: expected a window of at most the image's size, got Conv2d"),
    (image(conv(3, 4, 3), *END), r"module\[0\]: expected 2 inputs, as many as come from before it, got 3"),
    (image(nn.ConvTranspose2d(2, 4, 3), *END), r"module\[0\]: .* got ConvTranspose2d;"),
    (image(nn.Conv1d(2, 4, 3), *END), r"module\[0\]: expected channels before positions for Conv1d"),
    (image(conv(2, 4, 3), nn.MaxPool2d(2, ceil_mode=True), *END), r"module\[1\]: expected MaxPool2d with ceil_mode=False, got True"),
    (image(conv(2, 4, 3), nn.MaxPool2d(2, dilation=2), *END), r"module\[1\]: expected MaxPool2d with dilation=1"),
    (image(conv(2, 4, 3), nn.AvgPool2d(2, padding=1), *END), r"module\[1\]: expected AvgPool2d with count_include_pad=False, got True"),
    (image(conv(2, 4, 3), nn.AvgPool2d(2, divisor_override=3), *END), r"module\[1\]: expected AvgPool2d with divisor_override=None"),
    (image(conv(2, 4, 3), nn.AdaptiveAvgPool2d(2), *END), r"module\[1\]: expected AdaptiveAvgPool2d with output_size=1, got 2"),
    (image(conv(2, 4, 3), nn.AvgPool2d(2), nn.ReLU(), *END),
        r"module\[2\]: expected an activation right after .* got ReLU\(\) after MeanOf"),
    (image(conv(2, 4, 3), nn.MaxPool2d(2), nn.GELU(), *END), r"module\[2\]: expected an activation right after"),
    (image(conv(2, 4, 3), nn.Linear(4, 2)), r"module\[1\]: expected Flatten, or svdfast\.torch\.ChannelsLast"),
    (image(conv(2, 4, 3), nn.Softmax(-1), *END), r"module\[1\]: expected Softmax\(dim=1\) or Softmax\(dim=-3\)"),
    (image(conv(2, 4, 3), nn.LayerNorm([4, 5, 4]), *END), r"module\[1\]: expected LayerNorm over the last dimension"),
    (image(conv(2, 4, 3), nn.LayerNorm(4), *END), r"module\[1\]: expected LayerNorm over the last dimension"),
    (image(conv(2, 4, 3), nn.GroupNorm(1, 4), *END), r"module\[1\]: .* got GroupNorm;"),
    (image(conv(2, 4, 3), nn.ZeroPad2d(1), nn.AvgPool2d(2), *END), r"module\[1\]: expected a convolution or MaxPool2d after padding"),
    (image(conv(2, 4, 3), nn.ZeroPad2d(1), nn.MaxPool2d(2), *END), r"module\[1\]: expected padding with -inf before MaxPool2d"),
    (image(conv(2, 4, 3), nn.ReLU(), nn.ZeroPad2d(1)), r"module\[2\]: expected a convolution or MaxPool2d after padding, got none"),
    (image(nn.LazyConv2d(4, 3), *END), r"module\[0\]: .* got LazyConv2d; run the module on a batch once"),
    (image(nn.utils.parametrizations.weight_norm(conv(2, 4, 3)), *END), r"module\[0\]: .* got ParametrizedConv2d; .*remove_param"),
    (image(conv(2, 4, 3), nn.ReLU()), r"module\[0\]: expected a Linear as the last layer, got Conv2d"),
    (image(conv(2, 4, 3), nn.Flatten()), r"module\[0\]: expected a Linear as the last layer"),
    (image(nn.Flatten(), nn.Linear(84, 3), ChannelsLast()), r"module\[2\]: expected channels first before ChannelsLast"),
    (image(conv(2, 4, 3), ChannelsFirst(), *END), r"module\[1\]: expected features last before ChannelsFirst"),
    (image(nn.Dropout(1.0), *END), r"module\[0\]: rate: expected a number from 0 to below 1"),
    (image(conv(2, 4, 3).double(), nn.Flatten(), nn.Linear(80, 2)), r"module\[2\]: expected float64, as in the first layer, got float32"),
    (sequence(nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)), r"module\[0\]: .* got GRU; put it into svdfast\.torch\.Recurrent"),
    (sequence(states("GRU", 4, 4), nn.Linear(4, 2)), r"module\[0\]: expected 3 inputs, as many as come from before it, got 4"),
    (sequence(states("LSTM", 3, 4, proj_size=2), nn.Linear(2, 2)), r"module\[0\]: expected LSTM with proj_size=0, got 2"),
    (sequence(states("GRU", 3, 4), nn.ReLU(), nn.Linear(4, 2)), r"module\[1\]: expected one activation after a Linear, got ReLU"),
    (sequence(states("GRU", 3, 4), states("GRU", 4, 4), nn.Linear(4, 2)), r"module\[1\]: expected inputs \(n, steps, features\)"),
    (sequence(nn.Conv1d(3, 4, 2), nn.ReLU(), states("GRU", 4, 4), nn.Linear(4, 2)), r"(?s)module\[2\]: .* svdfast\.torch\.ChannelsLast"),
    (sequence(states("GRU", 3, 4)), r"module\[0\]: expected a Linear as the last layer, got Recurrent"),
    (sequence(states("GRU", 3, 4, sequences=True), nn.Conv1d(4, 3, 2), *END), r"module\[1\]: expected channels before positions"),
    (sequence(nn.Embedding(5, 4), *END), r"module\[0\]: expected an Embedding as the first layer"),
    (lambda: (nn.Sequential(nn.Embedding(5, 4, max_norm=1.0), *END), sf.Input(5)), r"module\[0\]: expected Embedding with max_norm=None"),
    (sequence(states("GRU", 3, 4, sequences=True), nn.BatchNorm1d(5).eval(), nn.Linear(4, 2)),
        r"module\[1\]: .* samples would depend on each other"),
    (image(conv(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4).eval(), conv(4, 4, 3, padding=1), *END),
        r"module\[2\]: expected a Linear after BatchNorm2d.*\n?.*depend"),
    (image(conv(2, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4).eval(), nn.ReLU(), *END), r"module\[2\]: expected a Linear after BatchNorm2d"),
    (image(conv(2, 4, 3), nn.BatchNorm2d(4), *END), r"module\[1\]: expected BatchNorm2d.* after eval"),
    (image(conv(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False).eval(), *END), r"module\[1\]: expected a BatchNorm2d with running"),
    (image(conv(2, 4, 3), nn.BatchNorm2d(5).eval(), *END), r"module\[1\]: expected 4 features, as in module\[0\], got 5"),
])  # fmt: skip
def test_what_has_no_counterpart_is_named(make, match):
    module, given_as = make()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
                part.running_mean.fill_(1)
    with pytest.raises(ValueError, match=match):
        sf.from_torch(module, input=given_as)


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"input: expected an svdfast\.Input, got tuple"):
        sf.from_torch(nn.Linear(3, 2), input=(5, 3))
    with pytest.raises(ValueError, match="module: expected batch_first=True, got False"):
        Recurrent(nn.GRU(3, 4))
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.RNN, GRU or LSTM, got Linear"):
        Recurrent(nn.Linear(3, 4))
    with pytest.raises(ValueError, match="cell: expected one of rnn_tanh, rnn_relu, gru, lstm, got 'GRU'"):
        FactoredRecurrent("GRU", nn.Linear(3, 12), nn.Linear(4, 12))
    with pytest.raises(ValueError, match="states: expected 4 inputs and 16 outputs, got Linear"):
        FactoredRecurrent("lstm", nn.Linear(3, 16), nn.Linear(4, 12))
    with pytest.raises(ValueError, match="input: expected 32 outputs, got Linear"):
        FactoredRecurrent("lstm", nn.Linear(3, 16), nn.Linear(4, 16), nn.Linear(4, 16))
    with pytest.raises(TypeError, match="states: expected one or two modules, got 0"):
        FactoredRecurrent("lstm", nn.Linear(3, 16))


def test_masks_are_refused():
    net = sf.Network(sf.Input(4, 3), [L.Masking(), L.GRU(4), L.Linear(2)])
    with pytest.raises(ValueError, match="net: layer 0: expected layers that PyTorch has, got Masking"):
        sf.to_torch(net)


def test_an_activation_that_pytorch_lacks(monkeypatch):
    import dataclasses

    monkeypatch.setitem(activations.FACTS, "tanh", dataclasses.replace(activations.FACTS["tanh"], torch=None))
    net = sf.Network(sf.Input(4, 4, 1), [L.Conv2d(3, 2, "tanh"), L.Flatten(), L.Linear(2)])
    with pytest.raises(ValueError, match=r"net: layer 0: expected an activation of torch\.nn, got tanh"):
        sf.to_torch(net)
