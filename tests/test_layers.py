# SPDX-License-Identifier: BSD-3-Clause
"""Recurrent and convolutional layers, dense and factored: gradients, PyTorch's outputs, training, files, checkpoints, counts."""

import pickle

import numpy as np
import pytest

import svdfast as sf
from svdfast import _engine
from svdfast import layers as L
from svdfast._engine import Engine
from svdfast.data.open import checked_samples
from svdfast.model.evaluation import spec_of
from svdfast.training import auto

RECURRENT = [L.RNN, L.GRU, L.LSTM]


def images(*layers, **options):
    return sf.Network(sf.Input(9, 8, 2), [*layers, L.Linear(3, "softmax")], dtype="float64", seed=0, **options)


def sequences(*layers, steps=6, **options):
    return sf.Network(sf.Input(steps, 3), [*layers, L.Linear(3, "softmax")], dtype="float64", seed=0, **options)


NETWORKS = {
    "relu RNN": lambda: sequences(L.RNN(4, activation="relu")),
    "two GRUs": lambda: sequences(L.GRU(5, return_sequences=True), L.GRU(4)),
    "LSTM after a layer": lambda: sequences(L.Linear(7, "tanh"), L.LSTM(4)),
    "one step": lambda: sequences(L.GRU(4, bidirectional=True), steps=1),
    "both ways, twice": lambda: sequences(L.LSTM(3, return_sequences=True, bidirectional=True), L.RNN(4, bidirectional=True)),
    "normalised": lambda: sequences(L.LayerNorm(), L.LSTM(4, return_sequences=True), L.LayerNorm(), L.GRU(3)),
    "convolution, then recurrence": lambda: sequences(L.Conv1d(4, 3, "tanh", stride=2, padding="same"), L.GRU(3)),
    "recurrence, then convolution": lambda: sequences(
        L.GRU(4, return_sequences=True), L.Conv1d(3, 2, "tanh"), L.Flatten(),
    ),
    "same padding": lambda: images(L.Conv2d(4, 3, "tanh", padding="same"), L.Flatten()),
    "strides": lambda: images(
        L.Conv2d(4, 3, "tanh", padding="same", stride=(2, 3)), L.Conv2d(2, (2, 1), "elu", padding=(1, 0)), L.Flatten(),
    ),
    "one by one": lambda: images(L.Conv2d(4, 1, "tanh"), L.Conv2d(3, 1, "tanh", stride=2), L.Flatten()),
    "the whole image": lambda: images(L.Conv2d(4, (9, 8), "tanh"), L.Flatten()),
    "largest": lambda: images(L.Conv2d(4, 3, "tanh"), L.MaxPool2d(2), L.Conv2d(3, 2, "tanh"), L.Flatten()),
    "largest, with overlap": lambda: images(L.Conv2d(4, 3, "tanh"), L.MaxPool2d(3, 2, padding=1), L.Flatten()),
    "means": lambda: images(L.Conv2d(4, 3, "tanh"), L.AvgPool2d((3, 2), 2, padding=1), L.Flatten()),
    "mean of all": lambda: images(L.Conv2d(4, 3, "tanh"), L.GlobalAvgPool()),
    "an output for each position": lambda: images(L.Conv2d(4, 3, "tanh", stride=(1, 3)), L.MaxPool2d((3, 1))),
    "largest of samples": lambda: images(L.MaxPool2d(2), L.Conv2d(3, 2, "tanh"), L.Flatten()),
    "means of samples": lambda: images(L.AvgPool2d(2, padding=1), L.GlobalAvgPool(), L.Linear(4, "tanh")),
    "of a row, of a column": lambda: images(L.Conv2d(2, (1, 8), "gelu"), L.Conv2d(5, (4, 1), "tanh", (3, 1)), L.Flatten()),
    "steps of samples, flat": lambda: sequences(L.Linear(4, "tanh"), L.LayerNorm(), L.Flatten(), L.Linear(5, "gelu")),
    "convolutions of steps": lambda: sequences(L.Conv1d(4, 2, "tanh", padding=1), L.Conv1d(3, 5, "elu", 2), L.Flatten(), steps=9),
    "tokens": lambda: sf.Network(sf.Input(5), [L.Embedding(6, 4), L.GRU(3, True), L.Linear(3, "softmax")], dtype="float64", seed=0),
    "tokens, flat": lambda: sf.Network(sf.Input(5), [L.Embedding(6, 4), L.Flatten(), L.Linear(3, "softmax")], dtype="float64", seed=0),
    "masked, then twice": lambda: sequences(
        L.Masking(), L.LayerNorm(0.1), L.LSTM(3, return_sequences=True, bidirectional=True), L.RNN(4, return_sequences=True),
    ),
    "positions": lambda: images(L.Linear(5, "tanh"), L.MaxPool2d(2), L.Flatten(), L.LayerNorm()),
}  # fmt: skip
for _layer in RECURRENT:
    for _sequences in (False, True):
        for _both in (False, True):
            for _mask in (False, True):
                name = f"{_layer.__name__}, {'sequences' * _sequences}, {'both ways' * _both}, {'masked' * _mask}"
                NETWORKS[name] = lambda layer=_layer, seq=_sequences, both=_both, mask=_mask: sequences(
                    *([L.Masking()] if mask else []), layer(4, return_sequences=seq, bidirectional=both)
                )


def data(net, n, *, masked=True):
    """Samples, of sequences with steps of zeros at their ends, and targets, for each step where there are such."""
    rng = np.random.default_rng(n)
    X = rng.normal(size=(n, *net.layout.input))
    if net.layout.n_tokens:
        X = rng.integers(0, net.layout.n_tokens, (n, *net.layout.input)).astype("float64")
    if X.ndim == 3 and masked:
        for i in range(n):
            X[i, rng.integers(1, X.shape[1] + 1) :] = 0
    return X, rng.integers(0, 3, (n, *net.layout.output_shape[:-1]))


def loss_and_gradient(net, X, y, key=0, n_threads=1, **settings):
    """As `Network.loss_and_gradient`, with numbers dropped, and an engine's settings."""
    engine = Engine(*net.state, batch_size=len(X), n_threads=n_threads, **settings)
    checked_samples(X, y, None, spec_of(net)).bind(engine)
    engine.set_key(key)
    gradient = np.empty(net.layout.size)
    return engine.gradient(0, len(X), gradient), gradient


def differences(net, X, y, key=0, h=1e-6):
    """The gradient by finite differences."""
    found = np.empty(net.layout.size)
    for i in range(net.layout.size):
        before, losses = net.parameters[i], []
        for place in (before + h, before - h):
            net.parameters[i] = place
            losses.append(loss_and_gradient(net, X, y, key)[0])
        net.parameters[i] = before
        found[i] = (losses[0] - losses[1]) / (2 * h)
    return found


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients(name, factored):
    net = NETWORKS[name]()
    if factored:
        net.truncate(rank_fraction=0.5, force=True)
        assert net.is_factored
    net.parameters[:] += 0.1 * np.random.default_rng(1).normal(size=net.layout.size)
    for n in (1, 7):
        X, y = data(net, n)
        value, gradient = net.loss_and_gradient(X, y)
        assert value == pytest.approx(net.evaluate(X, y).loss, rel=1e-12)
        np.testing.assert_allclose(gradient, differences(net, X, y), atol=1e-8)


@pytest.mark.parametrize(
    "name", ["GRU, sequences, both ways, masked", "LSTM, , , ", "largest, with overlap", "recurrence, then convolution"]
)
@pytest.mark.parametrize("n", [9, 10, 19, 65, 600])
def test_threads_and_tiles(name, n):
    net = NETWORKS[name]()
    X, y = data(net, n)
    value, gradient = loss_and_gradient(net, X, y)
    parts = [loss_and_gradient(net, X[i : i + 1], y[i : i + 1]) for i in range(n)]
    assert value == pytest.approx(np.mean([part[0] for part in parts]), rel=1e-12)
    np.testing.assert_allclose(gradient, np.mean([part[1] for part in parts], axis=0), atol=1e-12)
    for threads in (2, 3):
        again = loss_and_gradient(net, X, y, n_threads=threads)
        assert again[0] == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(again[1], gradient, atol=1e-12)
    for threads in (1, 2):
        np.testing.assert_allclose(net.predict(X, n_threads=threads)[::7], net.predict(X[::7]), atol=1e-14)


@pytest.mark.parametrize("name", NETWORKS)
def test_heights_of_tiles_and_parts_do_not_matter(name):
    """Batches of one row less than a tile or a part has, of as many, and of one more."""
    net = NETWORKS[name]()
    if len(net.layers) > 2:
        net.truncate(rank_fraction=0.5, force=True)
    net.parameters[:] += 0.1 * np.random.default_rng(1).normal(size=net.layout.size)
    for n in (3, 4, 5, 8, 9):
        X, y = data(net, n)
        value, gradient = loss_and_gradient(net, X, y)
        for height in (1, 4):
            for settings in (dict(tile_rows=height), dict(sum_rows=height), dict(tile_rows=height, sum_rows=4, reproducible=True)):
                again = loss_and_gradient(net, X, y, n_threads=2, **settings)
                assert again[0] == pytest.approx(value, rel=1e-12), settings
                np.testing.assert_allclose(again[1], gradient, atol=1e-12, err_msg=f"{n} {settings}")


@pytest.mark.parametrize("name", ["largest, with overlap", "convolution, then recurrence", "LSTM, sequences, both ways, masked", "tokens"])
def test_of_large_samples_a_tile_has_one(name, monkeypatch):
    net = NETWORKS[name]()
    X, y = data(net, 23)
    expected, outputs = loss_and_gradient(net, X, y), net.predict(X)
    for limit in ("LOOP_BYTES", "TILE_BYTES", "BATCH_BYTES"):
        monkeypatch.setattr(_engine, limit, 1)
    for n_threads in (1, 3):
        engine = Engine(*net.state, batch_size=23, n_threads=n_threads)
        assert engine.tile_rows == 1 and engine.by_tiles
        found = loss_and_gradient(net, X, y, n_threads=n_threads)
        assert found[0] == pytest.approx(expected[0], rel=1e-12)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-12)
        np.testing.assert_allclose(net.predict(X, n_threads=n_threads), outputs, atol=1e-14)
        same = loss_and_gradient(net, X, y, n_threads=n_threads, reproducible=True)
        one = loss_and_gradient(net, X, y, reproducible=True)
        assert same[0] == one[0]
        np.testing.assert_array_equal(same[1], one[1])
        np.testing.assert_allclose(same[1], expected[1], atol=1e-12)


def test_what_comes_after_a_sequence_changes_nothing():
    for layer in RECURRENT:
        net = sequences(L.Masking(), layer(4))
        X = np.random.default_rng(0).normal(size=(5, 6, 3))
        X[:, 4:] = 0
        short = sequences(layer(4), steps=4)
        short.parameters[:] = net.parameters
        np.testing.assert_allclose(net.predict(X), short.predict(X[:, :4]), atol=1e-14)
        # Going back from the last step the padding comes first.
        net, short = sequences(L.Masking(), layer(4, bidirectional=True)), sequences(layer(4, bidirectional=True), steps=4)
        short.parameters[:] = net.parameters
        np.testing.assert_allclose(net.predict(X), short.predict(X[:, :4]), atol=1e-14)


def test_targets_for_each_step_with_weights():
    net = sequences(L.GRU(4, return_sequences=True))
    X, y = data(net, 8)
    assert net.predict(X).shape == (8, 6, 3)
    weight = np.random.default_rng(0).uniform(size=(8, 6))
    P = np.take_along_axis(net.predict(X), y[..., np.newaxis], axis=2)[..., 0]
    assert net.evaluate(X, y, sample_weight=weight).loss == pytest.approx(-np.average(np.log(P), weights=weight), rel=1e-12)
    right = net.predict(X).argmax(axis=2) == y
    assert net.score(X, y) == pytest.approx(right.mean())
    assert net.score(X, y, weight) == pytest.approx(np.average(right, weights=weight))
    assert net.evaluate(X, y, sample_weight=weight[:, 0]).loss == pytest.approx(
        -np.average(np.log(P), weights=np.repeat(weight[:, :1], 6, axis=1)), rel=1e-12
    )
    assert net.evaluate(X, np.eye(3)[y]).loss == pytest.approx(net.evaluate(X, y).loss, rel=1e-12)
    for wrong in (y[:, :5], y[:, 0], np.zeros((8, 6, 2))):
        with pytest.raises(ValueError, match="y: expected"):
            net.evaluate(X, wrong)


@pytest.mark.parametrize("steps", [1, 4])
def test_outputs_of_each_step_where_there_are_few(steps):
    layers = [L.GRU(4, return_sequences=True), L.Dropout(0.1)]
    net = sequences(*layers, steps=steps)
    X, y = data(net, 8, masked=False)
    assert net.predict(X).shape == (8, steps, 3)
    assert y.shape == (8, steps)
    weight = np.random.default_rng(0).uniform(size=(8, steps))
    P = np.take_along_axis(net.predict(X), y[..., np.newaxis], axis=2)[..., 0]
    assert net.evaluate(X, y, sample_weight=weight).loss == pytest.approx(-np.average(np.log(P), weights=weight), rel=1e-12)
    assert net.evaluate(X, np.eye(3)[y]).loss == pytest.approx(net.evaluate(X, y).loss, rel=1e-12)
    for wrong in (y[:, 0], y[:, :0], np.zeros((8, 3))):
        with pytest.raises(ValueError, match="y: expected"):
            net.evaluate(X, wrong)
    first = net.evaluate(X, y).loss
    sf.train(net, X, y, sample_weight=weight, validation=(X, y), epochs=20, factoring=None)
    assert net.evaluate(X, y).loss < first
    # And numbers as targets, with the share that they explain.
    net = sf.Network(sf.Input(steps, 3), [*layers, L.Linear(2)], dtype="float64", seed=0)
    Y = np.random.default_rng(1).normal(size=(8, steps, 2))
    residual = (weight[..., np.newaxis] * (net.predict(X) - Y) ** 2).sum(axis=(0, 1))
    mean = (weight[..., np.newaxis] * Y).sum(axis=(0, 1)) / weight.sum()
    spread = (weight[..., np.newaxis] * (Y - mean) ** 2).sum(axis=(0, 1))
    assert net.score(X, Y, weight) == pytest.approx((1 - residual / spread).mean(), rel=1e-12)
    one = sf.Network(sf.Input(steps, 3), [*layers, L.Linear(1)], dtype="float64", seed=0)
    assert one.predict(X).shape == (8, steps, 1)
    assert one.evaluate(X, Y[..., 0]).loss == pytest.approx(((one.predict(X)[..., 0] - Y[..., 0]) ** 2).mean(), rel=1e-12)


def test_one_output_for_a_sample():
    for shape, layers in (
        ((1, 3), [L.GRU(4)]), ((1, 3), [L.GRU(4, return_sequences=True), L.Flatten()]), ((1,), [L.Embedding(5, 2), L.RNN(3)]),
        ((3, 3, 2), [L.Conv2d(4, 3), L.Flatten()]), ((3, 3, 2), [L.GlobalAvgPool()]), ((1, 3), [L.Flatten()]), ((3,), [L.Linear(2)]),
    ):  # fmt: skip
        assert sf.Network(sf.Input(*shape), [*layers, L.Linear(2)]).layout.output_shape == (2,)
    for shape, layers in (((1,), [L.Embedding(5, 2)]), ((3, 3, 2), [L.Conv2d(4, 3)]), ((1, 3), [])):
        assert sf.Network(sf.Input(*shape), [*layers, L.Linear(2)]).layout.output_shape == (1, 2)


@pytest.mark.parametrize("weighted", [False, True])
def test_batches_of_sequences_are_looked_at(weighted):
    net = sf.Network(sf.Input(6, 3), [L.GRU(16, return_sequences=True), L.Linear(3, "softmax")], seed=0)
    X, y = data(net, 64, masked=False)
    weight = np.random.default_rng(0).uniform(size=(64, 6))
    parts = [slice(i, i + 16) for i in range(0, 64, 16)]
    batches = [(X[part], y[part], weight[part]) if weighted else (X[part], y[part]) for part in parts]
    result = sf.train(net, batches, epochs=20)
    (look,) = (event for event in result.events if event.kind == "ranks")
    again = sf.Network(sf.Input(6, 3), [L.GRU(16, return_sequences=True), L.Linear(3, "softmax")], seed=0)
    same = sf.train(again, X, y, sample_weight=weight if weighted else None, shuffle=False, batch_size=16, epochs=20)
    (there,) = (event for event in same.events if event.kind == "ranks")
    assert look.info["layers"] == there.info["layers"]


def test_what_is_dropped_depends_on_the_seed(tmp_path):
    X, y = data(sequences(L.Flatten()), 20)

    def trained(seed, rate=0.5, **settings):
        net = sequences(L.Flatten(), L.Dropout(rate), L.Linear(8, "tanh"))
        settings = {"epochs": 2, "batch_size": 5, "shuffle": False, "factoring": None} | settings
        return sf.train(net, X, y, seed=seed, **settings).network.parameters

    zero, one, of_generator = trained(0), trained(1), trained(np.random.default_rng(0))
    assert (zero != one).any()
    np.testing.assert_array_equal(trained(0), zero)
    np.testing.assert_array_equal(of_generator, zero)
    np.testing.assert_array_equal(trained(0, 0.0), trained(1, 0.0))

    # Of a training that ended before its first step was kept, too.
    def end(event):
        raise KeyboardInterrupt

    for shuffle in (False, True):
        path = tmp_path / f"{shuffle}"
        with pytest.raises(KeyboardInterrupt):
            trained(3, shuffle=shuffle, checkpoint=path, checkpoint_every=1000, callbacks=[end])
        again = sf.resume(path, X, y).network.parameters
        np.testing.assert_array_equal(again, trained(3, shuffle=shuffle))


def test_numbers_are_dropped_in_training_alone():
    layers = [L.Dropout(0.25), L.Linear(200, "identity"), L.Dropout(0.5), L.GRU(3, return_sequences=True), L.Dropout(0.1)]
    net = sequences(*layers)
    X, y = data(net, 20, masked=False)
    plain = loss_and_gradient(net, X, y)
    assert plain[0] == pytest.approx(net.evaluate(X, y).loss, rel=1e-12)
    dropped = [loss_and_gradient(net, X, y, key) for key in (1, 2)]
    assert len({plain[0], dropped[0][0], dropped[1][0]}) == 3
    for threads in (2, 3):
        again = loss_and_gradient(net, X, y, 1, threads)
        np.testing.assert_allclose(again[1], dropped[0][1], atol=1e-12)
    np.testing.assert_allclose(dropped[0][1], differences(net, X, y, 1), atol=1e-7)


def test_how_many_are_dropped():
    net = sf.Network(sf.Input(1000), [L.Dropout(0.3), L.Linear(1, "identity")], dtype="float64", seed=0)
    net.parameters[:] = 0
    # The loss is mean((0 - 1)²), so the gradient is -2 mean(x) for each input: x is 0 or 1/0.7.
    gradient = loss_and_gradient(net, np.ones((200, 1000)), np.ones((200, 1)), 7)[1][:1000]
    kept = -gradient / 2 * 0.7
    assert kept.mean() == pytest.approx(0.7, abs=0.005)
    assert kept.std() == pytest.approx(np.sqrt(0.3 * 0.7 / 200), rel=0.1)


@pytest.mark.parametrize("layer", RECURRENT)
@pytest.mark.parametrize("both", [False, True])
def test_pytorch_gives_the_same(layer, both):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, layer.__name__)(3, 4, batch_first=True, bidirectional=both, dtype=torch.float64)
    net = sequences(layer(4, return_sequences=True, bidirectional=both))
    n = 2 if both else 1
    stacked = {
        name: np.concatenate([getattr(theirs, f"{name}_l0{end}").detach().numpy() for end in ("", "_reverse")[:n]])
        for name in ("weight_ih", "bias_ih")
    }
    net.layers[0].W[...], net.layers[0].b[...] = stacked["weight_ih"], stacked["bias_ih"]
    for i, end in enumerate(("", "_reverse")[:n]):
        net.layers[1 + i].W[...] = getattr(theirs, f"weight_hh_l0{end}").detach().numpy()
        net.layers[1 + i].b[...] = getattr(theirs, f"bias_hh_l0{end}").detach().numpy()
    X = np.random.default_rng(0).normal(size=(7, 6, 3))
    outputs, _ = theirs(torch.from_numpy(X))
    W, b = net.layers[-1].W, net.layers[-1].b
    expected = torch.softmax(outputs @ torch.from_numpy(W.T.copy()) + torch.from_numpy(b.copy()), dim=2)
    np.testing.assert_allclose(net.predict(X), expected.detach().numpy(), atol=1e-12)
    # And the gradient of the input's and the state's weights.
    y = np.random.default_rng(1).integers(0, 3, (7, 6))
    loss = torch.nn.functional.nll_loss(torch.log(expected).reshape(-1, 3), torch.from_numpy(y.ravel()))
    loss.backward()
    value, gradient = net.loss_and_gradient(X, y)
    assert value == pytest.approx(loss.item(), rel=1e-12)
    ours = {tensor.name: tensor.of(gradient) for tensor in net.layout.tensors}
    np.testing.assert_allclose(ours["layers.1.W"], theirs.weight_hh_l0.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(ours["layers.0.W"][: len(theirs.weight_ih_l0)], theirs.weight_ih_l0.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("padding", "stride", "kernel"), [(0, 1, 3), (1, 2, 3), (2, (2, 1), 5), ((0, 1), 1, (1, 3)), ("same", 1, 3), ("same", 1, (2, 4))]
)
@pytest.mark.filterwarnings("ignore:Using padding")
def test_pytorch_convolves_so(padding, stride, kernel):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Conv2d(2, 5, kernel, stride, padding, dtype=torch.float64)
    net = images(L.Conv2d(5, kernel, "tanh", stride, padding), L.MaxPool2d(2), L.Flatten())
    net.layers[0].W[...] = theirs.weight.detach().numpy().transpose(0, 2, 3, 1).reshape(5, -1)
    net.layers[0].b[...] = theirs.bias.detach().numpy()
    X = np.random.default_rng(0).normal(size=(4, 9, 8, 2))
    A = torch.nn.functional.max_pool2d(torch.tanh(theirs(torch.from_numpy(X.transpose(0, 3, 1, 2).copy()))), 2)
    A = A.permute(0, 2, 3, 1).reshape(4, -1).detach().numpy()
    Z = A @ net.layers[1].W.T + net.layers[1].b
    expected = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(net.predict(X), expected, atol=1e-12)


def training_of(name):
    """A network to train in float32, and samples of it."""
    if name == "images":
        net = sf.Network(
            sf.Input(8, 8, 1),
            [L.Conv2d(8, 3, "relu", padding="same"), L.MaxPool2d(2), L.Conv2d(24, 3, "relu"), L.Flatten(), L.Linear(120, "relu"),
             L.Dropout(0.1), L.Linear(10, "softmax")],
            seed=0,
        )  # fmt: skip
    else:
        recurrent = [L.GRU(40, return_sequences=True), L.LSTM(32, bidirectional=True)]
        net = sf.Network(sf.Input(8, 8), [*recurrent, L.Linear(10, "softmax")], seed=0)
    (X, y), _ = sf.datasets.load("digits").train, None
    return net, X.astype("float32").reshape(-1, *net.layout.input)[:600], y[:600]


TRAININGS = ("images", "sequences")
HALF = sf.Factoring(1 / 2, pretrain_fraction=0.2, force=True, recompose=False)


@pytest.fixture(scope="module", autouse=True)
def _digits():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


@pytest.mark.parametrize("name", TRAININGS)
def test_files_and_pickles(name, tmp_path):
    net, X, _ = training_of(name)
    net.truncate(rank_fraction=0.5, force=True)
    sf.save(net, tmp_path / "net.npz")
    for again in (sf.load(tmp_path / "net.npz"), net.copy(), pickle.loads(pickle.dumps(net))):
        assert again.layout == net.layout
        np.testing.assert_array_equal(again.predict(X), net.predict(X))


@pytest.mark.parametrize("name", TRAININGS)
def test_factored_training_learns(name):
    net, X, y = training_of(name)
    result = sf.train(net, X, y, epochs=12, batch_size=50, optimizer=sf.Adam(3e-3), factoring=HALF, seed=0)
    assert [phase["phase"] for phase in result.phases] == ["dense", "factored"]
    assert net.score(X, y) > 0.95
    before = net.predict(X)
    net.recompose()
    assert not net.is_factored
    np.testing.assert_allclose(net.predict(X), before, atol=1e-4)


@pytest.mark.parametrize("name", TRAININGS)
def test_auto_decides_and_tells(name):
    net, X, y = training_of(name)
    result = sf.train(net, X, y, epochs=8, batch_size=50, optimizer=sf.Adam(3e-3))
    looked = [event for event in result.events if event.kind == "ranks"]
    assert len(looked[0].info["layers"]) == len(net.layers) - 1
    assert "layer 0" in result.explain()


@pytest.mark.parametrize(("of_kernel", "of_others"), [(np.inf, -np.inf), (-np.inf, np.inf)])
def test_convolutions_have_a_limit_of_their_own(monkeypatch, of_kernel, of_others):
    for name, value in (("LOST_OF_KERNEL", of_kernel), ("LOST", of_others), ("LOOKING", np.inf), ("LEAST", 1), ("FASTER", np.inf)):
        monkeypatch.setattr(auto, name, value)
    net = sf.Network(
        sf.Input(8, 8, 1),
        [
            L.Conv2d(64, 3, "relu", padding="same"), L.Conv2d(64, 3, "relu", padding="same"), L.Flatten(),
            L.Linear(256, "relu"), L.Linear(3, "softmax"),
        ],
        seed=0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    X = rng.random((200, 8, 8, 1), dtype=np.float32)
    y = (X[:, :4].mean((1, 2, 3)) > X[:, 4:].mean((1, 2, 3))).astype(int)
    result = sf.train(net, X, y, epochs=30, batch_size=50, optimizer=sf.Adam(1e-3))
    (look, *_) = (event for event in result.events if event.kind == "ranks")
    assert look.info["learned"] > 0
    assert [rank is not None for rank in look.info["ranks"]] == [False, of_kernel > 0, of_others > 0]


@pytest.mark.parametrize("name", TRAININGS)
def test_resumed_to_the_bit(name, tmp_path):
    settings = dict(epochs=3, batch_size=50, factoring=HALF, checkpoint_every=5)
    whole, X, y = training_of(name)
    sf.train(whole, X, y, checkpoint=tmp_path / "whole", **settings)

    def end(event):
        if event.kind == "epoch" and event.epoch == 2:
            raise KeyboardInterrupt

    net, X, y = training_of(name)
    with pytest.raises(KeyboardInterrupt):
        sf.train(net, X, y, checkpoint=tmp_path / "part", callbacks=[end], **settings)
    again = sf.resume(tmp_path / "part", X, y).network
    assert again.layout == whole.layout
    np.testing.assert_array_equal(again.parameters, whole.parameters)


@pytest.mark.parametrize("name", TRAININGS)
def test_threads_do_not_matter_where_it_is_asked_for(name):
    found = []
    for threads in (1, 2, 3):
        net, X, y = training_of(name)
        sf.train(net, X[:200], y[:200], epochs=2, batch_size=90, factoring=HALF, reproducible=True, n_threads=threads)
        found.append(net.parameters.copy())
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


@pytest.mark.parametrize("name", TRAININGS)
def test_bfloat16(name):
    net, X, y = training_of(name)
    losses = [row["loss"] for row in sf.train(net, X, y, epochs=8, batch_size=50, factoring=HALF, precision="bfloat16").history]
    assert losses[-2] < losses[0] / 2


def test_counts_go_by_steps_and_positions():
    net = sf.Network(sf.Input(28, 28), [L.GRU(256), L.Linear(10, "softmax")], seed=0)
    count = sf.count_multiplications(net, "forward")
    assert [layer.multiplications for layer in count.layers] == [28 * 28 * 768, 28 * 256 * 768, 2560]
    step = sf.count_multiplications(net)
    assert [layer.multiplications for layer in step.layers] == [2 * 28 * 28 * 768, 3 * 28 * 256 * 768, 3 * 2560]
    net.truncate(ranks=[None, 64])
    assert sf.count_multiplications(net).layers[1].multiplications == 3 * 28 * 64 * (256 + 768)
    # Of a square state of G gates factors pay below G/(G + 1) of it, less one.
    assert [sf.break_even_rank(256, 256 * gates) for gates in (1, 3, 4)] == [127, 191, 204]
    net = sf.Network(sf.Input(8, 8, 3), [L.Conv2d(16, 3, "relu", padding="same", stride=2), L.Flatten(), L.Linear(2, "softmax")], seed=0)
    assert [layer.multiplications for layer in sf.count_multiplications(net, "forward").layers] == [16 * 16 * 27, 2 * 256]


def test_truncations_go_by_what_weights_meet():
    net, X, y = training_of("sequences")
    sf.train(net, X, y, epochs=3, batch_size=50, factoring=None)
    lost = []
    for inputs in (None, X):
        cut = net.copy()
        cut.truncate(ranks=[4, 12, 12, 8, 8], inputs=inputs, force=True)
        lost.append(cut.evaluate(X, y).loss)
    assert lost[1] < lost[0]


WRONG = [
    (lambda: sf.Input(), "shape: expected 1 to 3 sizes, got 0"),
    (lambda: sf.Input(3, 0), r"shape\[1\]: expected"),
    (lambda: sf.Network(sf.Input(4, 3), []), "layers: expected"),
    (lambda: sf.Network(sf.Input(4, 3), [L.GRU(3)]), "layers: expected a Linear as the last one, got GRU"),
    (lambda: sf.Network(sf.Input(4), [L.GRU(3), L.Linear(2)]), r"0\]: GRU: expected inputs of shape \(steps, features\), got \(4,\)"),
    (lambda: sf.Network(sf.Input(4, 3), [L.Conv2d(3, 3), L.Linear(2)]), r"layers\[0\]: Conv2d: expected inputs of shape"),
    (lambda: sf.Network(sf.Input(4, 3, 1), [L.Conv2d(3, 5), L.Flatten(), L.Linear(2)]), "kernel_size: expected at most the image's size"),
    (lambda: sf.Network(sf.Input(4, 3, 1), [L.Conv2d(3, 3, padding="full"), L.Flatten(), L.Linear(2)]), "padding: expected same, valid"),
    (lambda: sf.Network(sf.Input(4, 3), [L.RNN(3, activation="gelu"), L.Linear(2)]), "activation: expected tanh or relu, got 'gelu'"),
    (lambda: sf.Network(sf.Input(4, 3), [L.Dropout(1.0), L.Flatten(), L.Linear(2)]), "rate: expected a number from 0 to below 1"),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(WRONG)))
def test_what_can_not_be(i):
    make, message = WRONG[i]
    with pytest.raises(ValueError, match=message):
        make()


def test_samples_have_the_input_s_shape():
    net = sequences(L.GRU(4))
    X = np.random.default_rng(0).normal(size=(5, 6, 3))
    expected = net.predict(X)
    for same in (X.reshape(5, 18), np.asfortranarray(X), X.astype("float32").astype("float64"), X.tolist(), X[::-1][::-1]):
        np.testing.assert_allclose(net.predict(same), expected, atol=1e-6)
    assert net.predict(X[:0]).shape == (0, 3)
    for wrong in (X[:, :5], X[..., np.newaxis], X[0, 0], np.float64(1)):
        with pytest.raises(ValueError, match=r"X: expected shape \(n_samples, 6, 3\) or \(n_samples, 18\), got"):
            net.predict(wrong)
    with pytest.raises(ValueError, match="X: expected 18 columns, got shape"):
        net.predict(X[:, 0])


def test_layers_are_layers():
    with pytest.raises(TypeError, match=r"layers\[0\]: expected a layer of svdfast.layers, got int"):
        sf.Network(sf.Input(4, 3), [5, L.Linear(2)])
    with pytest.raises(TypeError, match="layers"):
        sf.Network(sf.Input(4, 3), 5)
