# SPDX-License-Identifier: BSD-3-Clause
"""States carried from batch to batch (`carry_state`), against PyTorch, finite differences, and each other; what they can not go with."""

import itertools

import numpy as np
import pytest

import svdfast as sf
from svdfast import layers as L
from svdfast._engine import Engine
from svdfast.data import rows
from svdfast.data.open import checked_samples
from svdfast.model.evaluation import spec_of
from svdfast.training import checkpoint
from svdfast.training.run import Run

RECURRENT = [L.RNN, L.GRU, L.LSTM]
ROWS, STEPS, WINDOWS = 6, 5, 7
PLAIN = {"optimizer": sf.GradientDescent(0.3), "epochs": 2, "batch_size": ROWS, "carry_state": True}
AS_IT_IS = sf.Factoring(1 / 2, recompose=False, product_decay=0)


def network(*layers, dtype="float64", steps=STEPS):
    return sf.Network(sf.Input(steps, 3), [*layers, L.Linear(4, "softmax")], dtype=dtype, seed=0)


def stacked(layer, dtype="float64"):
    return network(layer(8, return_sequences=True), L.Linear(7, "tanh"), layer(6, return_sequences=True), dtype=dtype)


def stream(rows=ROWS, steps=STEPS, windows=WINDOWS, seed=0):
    """Windows of sequences, and classes for each step that tell of the one before."""
    rng = np.random.default_rng(seed)
    sequences = rng.normal(size=(rows, windows * steps + 1, 3))
    X = np.concatenate([sequences[:, w * steps + 1 : (w + 1) * steps + 1] for w in range(windows)])
    y = np.concatenate([sequences[:, w * steps : (w + 1) * steps].argmax(axis=2) for w in range(windows)])
    return X, y + (X[:, :, 0] > 1)


def losses(result):
    return [row["loss"] for row in result.history]


def in_pytorch(net, X, y, layer, rate):
    """The losses of two epochs of one long run with detached states, and the parameters after it, layer by layer."""
    torch = pytest.importorskip("torch")
    run = {"RNN": torch.rnn_tanh, "GRU": torch.gru, "LSTM": torch.lstm}[layer.__name__]
    parameters = [[torch.tensor(t.copy(), requires_grad=True) for t in (*own.weight_tensors, own.b)] for own in net.layers]
    X, y = torch.tensor(X.astype(net.dtype)), torch.tensor(y)
    optimizer = torch.optim.SGD(itertools.chain(*parameters), lr=rate)
    found = []
    for _ in range(2):
        states = [None, None]
        total = 0.0
        for window in range(WINDOWS):
            weights = [(own[0] if len(own) == 2 else own[0] @ own[1], own[-1]) for own in parameters]
            A, batch = X[window * ROWS : (window + 1) * ROWS], slice(window * ROWS, (window + 1) * ROWS)
            for k, first in enumerate((0, 3)):
                (W, b), (U, c) = weights[first : first + 2]
                zeros = torch.zeros(1, ROWS, U.shape[1], dtype=A.dtype)
                before = states[k] or (zeros, zeros)
                A, *after = run(A, before if layer is L.LSTM else before[0], [W, U, b, c], True, 1, 0.0, False, False, True)
                states[k] = tuple(state.detach() for state in after)
                W, b = weights[first + 2]
                A = A @ W.T + b
                A = torch.tanh(A) if k == 0 else A
            loss = torch.nn.functional.cross_entropy(A.reshape(-1, 4), y[batch].ravel())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        found.append(total / WINDOWS)
    return found, [[tensor.detach().numpy() for tensor in own] for own in parameters]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("layer", RECURRENT)
def test_as_one_long_run_of_pytorch(layer, factored, dtype):
    net = stacked(layer, dtype)
    if factored:
        net.truncate(rank_fraction=0.5, force=True)
        assert len(net.layout.factored) == 5
    X, y = stream()
    expected, parameters = in_pytorch(net, X, y, layer, 0.3)
    close = {"float32": 1e-5, "float64": 1e-10}[dtype]
    factoring = AS_IT_IS if factored else None
    apart = losses(sf.train(net.copy(), X, y, factoring=factoring, **PLAIN | {"carry_state": False, "shuffle": False}))
    assert abs(apart[1] - expected[1]) > 10 * close
    clipped = net.copy()
    for trained, clip_norm in ((net, None), (clipped, 1e6)):
        result = sf.train(trained, X, y, factoring=factoring, clip_norm=clip_norm, **PLAIN)
        np.testing.assert_allclose(losses(result), expected, atol=close)
        for own, theirs in zip(trained.layers, parameters, strict=True):
            for tensor, their in zip((*own.weight_tensors, own.b), theirs, strict=True):
                np.testing.assert_allclose(tensor, their, atol=10 * close)


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layer", [*RECURRENT, lambda n, **options: L.RNN(n, activation="relu", **options)])
def test_gradient_with_a_state_before(layer, masked, factored):
    net = network(*([L.Masking()] if masked else []), layer(5, return_sequences=True), layer(4))
    if factored:
        net.truncate(rank_fraction=0.5, force=True)
    rng = np.random.default_rng(0)
    net.parameters[:] += 0.1 * rng.normal(size=net.layout.size)
    n = 7
    X, y = rng.normal(size=(n, STEPS, 3)), rng.integers(0, 4, n)
    X[3, 2:] = X[5, 0:] = 0
    gradients = []
    for tile_rows, sum_rows in ((None, None), (3, None), (3, 2)):
        engine = Engine(*net.state, batch_size=n, n_threads=1, carries=True, tile_rows=tile_rows, sum_rows=sum_rows)
        assert engine.by_tiles == (sum_rows is not None)
        checked_samples(X, y, None, spec_of(net)).bind(engine)
        engine.carried[:] = np.random.default_rng(1).normal(size=len(engine.carried))
        gradient = np.empty(net.layout.size)
        engine.gradient(0, n, gradient)
        gradients.append(gradient)
    differences, unused = np.empty_like(gradient), np.empty_like(gradient)
    for i in range(net.layout.size):
        before, found = net.parameters[i], []
        for place in (before + 1e-6, before - 1e-6):
            net.parameters[i] = place
            found.append(engine.gradient(0, n, unused))
        net.parameters[i] = before
        differences[i] = (found[0] - found[1]) / 2e-6
    for gradient in gradients:
        np.testing.assert_allclose(gradient, differences, atol=1e-8)


@pytest.mark.parametrize("layer", RECURRENT)
def test_two_windows_are_one(layer):
    net = network(layer(5, return_sequences=True), layer(4, return_sequences=True), steps=6)
    short = network(layer(5, return_sequences=True), layer(4, return_sequences=True), steps=3)
    short.parameters[:] = net.parameters
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(8, 6, 3)), rng.integers(0, 4, (8, 6))
    engine = Engine(*short.state, batch_size=8, n_threads=1, carries=True)
    gradient, found = np.empty(short.layout.size), []
    for window in (slice(0, 3), slice(3, 6)):
        checked_samples(X[:, window], y[:, window], None, spec_of(short)).bind(engine)
        value = engine.gradient(0, 8, gradient)
        assert engine.gradient(0, 8, gradient) == value  # until it is told to go on
        engine.carry()
        found.append(value)
    assert np.mean(found) == pytest.approx(net.evaluate(X, y).loss, rel=1e-12)
    # What only looks begins with zeros.
    assert engine.evaluate(8) == pytest.approx(short.evaluate(X[:, 3:], y[:, 3:]).loss, rel=1e-12)


def test_padding_leaves_the_state_of_the_last_real_step():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, STEPS + 1, (WINDOWS, ROWS))
    X, y = stream()
    real = (np.arange(STEPS) < lengths[..., np.newaxis]).reshape(-1, STEPS)
    X[~real] = 0
    for layer in RECURRENT:
        net = network(L.Masking(), layer(8, return_sequences=True))
        # Each row's real steps alone, one after the other, as one long sequence; the rate is too small to change anything.
        still = PLAIN | {"epochs": 1, "optimizer": sf.GradientDescent(1e-30)}
        found = losses(sf.train(net.copy(), X, y, sample_weight=real, factoring=None, **still))
        expected = []
        for row in range(ROWS):
            of_row = np.concatenate([X[w * ROWS + row][real[w * ROWS + row]] for w in range(WINDOWS)])
            one = network(layer(8, return_sequences=True), steps=len(of_row))
            one.parameters[:] = net.parameters
            P = one.predict(of_row[np.newaxis])[0]
            labels = np.concatenate([y[w * ROWS + row][real[w * ROWS + row]] for w in range(WINDOWS)])
            expected.append(-np.log(P[np.arange(len(labels)), labels]))
        places = [np.repeat(range(WINDOWS), lengths[:, row]) for row in range(ROWS)]
        means = [np.concatenate([e[p == w] for e, p in zip(expected, places, strict=True)]).mean() for w in range(WINDOWS)]
        assert found[0] == pytest.approx(np.mean(means), rel=1e-12)


@pytest.mark.parametrize("layer", RECURRENT)
def test_threads_and_tiles(layer):
    X, y = stream(700, 3, 3)
    found = {}
    for reproducible, threads in itertools.product((False, True), (1, 2, 3)):
        net = network(layer(16, return_sequences=True), layer(12, return_sequences=True), steps=3)
        engine = Engine(*net.state, batch_size=700, n_threads=threads, reproducible=reproducible)
        assert engine.by_tiles != reproducible
        settings = PLAIN | {"batch_size": 700, "n_threads": threads, "reproducible": reproducible}
        found[reproducible, threads] = sf.train(net, X, y, factoring=None, **settings).network.parameters
        np.testing.assert_allclose(found[reproducible, threads], found[False, 1], atol=1e-12)
        if reproducible:
            np.testing.assert_array_equal(found[reproducible, threads], found[True, 1])


def test_a_truncation_keeps_the_states():
    X, y = stream()
    # Of full rank, a truncation changes no output; plain descent with a rate too small to change anything shows the states alone.
    still = PLAIN | {"optimizer": sf.GradientDescent(1e-30)}
    cut = sf.Factoring(1.0, pretrain_fraction=0.3, force=True, product_decay=0)
    dense, factored = (sf.train(stacked(L.LSTM), X, y, factoring=factoring, **still) for factoring in (None, cut))
    (switch,) = (event for event in factored.events if event.kind == "switch")
    assert switch.step % WINDOWS != 0
    np.testing.assert_allclose(losses(factored), losses(dense), rtol=1e-10)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_state_helps(precision):
    # Which of two symbols there are is only known from the sequence's beginning, long before a window's.
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 16)
    X = np.zeros((4, 16, 5, 3), "float32")
    X[0, :, 0, 0] = 2 * kinds - 1
    y = np.broadcast_to(kinds[np.newaxis, :, np.newaxis], (4, 16, 5)).reshape(64, 5)
    found = []
    for carry_state in (True, False):
        net = sf.Network(sf.Input(5, 3), [L.GRU(8, return_sequences=True), L.Linear(2, "softmax")], seed=0)
        settings = {"epochs": 60, "batch_size": 16, "optimizer": sf.Adam(0.01), "precision": precision, "factoring": None}
        found.append(losses(sf.train(net, X.reshape(64, 5, 3), y, carry_state=carry_state, shuffle=False, **settings))[-1])
    assert found[0] < 0.1 < 0.4 < found[1]


def test_evaluation_begins_with_zeros():
    X, y = stream()
    for factoring in (None, "auto", sf.Factoring(1 / 2, guard=sf.Guard(0.1), force=True)):
        net = stacked(L.GRU, "float32")
        result = sf.train(net, X, y, validation=(X[:ROWS], y[:ROWS]), factoring=factoring, **PLAIN | {"epochs": 3})
        assert result.history[-1]["val_loss"] == pytest.approx(net.evaluate(X[:ROWS], y[:ROWS]).loss, rel=1e-6)


class Batches:
    """What gives batches of these sizes, again and again."""

    def __init__(self, X, y, sizes):
        self.X, self.y, self.sizes = X, y, sizes

    def __len__(self):
        return len(self.sizes)

    def __iter__(self):
        stops = np.cumsum(self.sizes)
        return iter([(self.X[stop - size : stop], self.y[stop - size : stop]) for size, stop in zip(self.sizes, stops, strict=True)])


@pytest.mark.parametrize("iterable", [False, True])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_resumed_in_an_epoch_to_the_bit(tmp_path, iterable, clip_norm):
    X, y = stream()
    given = (Batches(X, y, [ROWS] * WINDOWS),) if iterable else (X, y)
    settings = PLAIN | {
        "epochs": 3, "batch_size": None if iterable else ROWS, "optimizer": "adam", "clip_norm": clip_norm,
        "factoring": sf.Factoring(1 / 2, pretrain_fraction=0.2, force=True), "checkpoint_every": 5,
    }  # fmt: skip
    whole = stacked(L.LSTM)
    sf.train(whole, *given, checkpoint=tmp_path / "whole", **settings)

    def end(event):
        if event.kind == "epoch" and event.epoch == 2:
            raise KeyboardInterrupt

    path = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        sf.train(stacked(L.LSTM), *given, checkpoint=path, callbacks=[end], **settings)
    state = checkpoint.read(path)["state"]
    assert state.n_steps == 10
    assert state.run.carried.any()
    np.testing.assert_array_equal(sf.resume(path, *given).network.parameters, whole.parameters)


def test_a_file_without_its_states_is_refused(tmp_path):
    X, y = stream()
    path = tmp_path / "part"
    sf.train(stacked(L.LSTM), X, y, checkpoint=path, **PLAIN)
    values = checkpoint.read(path)
    right = values["state"].run.carried
    assert right.shape == (ROWS * 2 * (8 + 6),)
    for wrong in (None, right[:-1], right.astype("float32"), 1.0):
        object.__setattr__(values["state"].run, "carried", wrong)
        checkpoint.write(path, values)
        with pytest.raises(ValueError, match="is not a checkpoint of a training"):
            sf.resume(path, X, y)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_step_without_a_finite_loss_leaves_the_states(clip_norm):
    X, y = stream()
    net = stacked(L.LSTM)
    samples = checked_samples(X, y, None, spec_of(net))
    run = Run(net, samples, sf.GradientDescent(0.1), 1, ROWS, 0.0, 0.0, clip_norm=clip_norm, carry_state=True)
    run.rebuild()
    run.step(0, ROWS, 0.1)
    before = run.engine.carried.copy()
    assert before.all()
    X[ROWS] = np.nan
    assert np.isnan(run.step(ROWS, 2 * ROWS, 0.1))
    np.testing.assert_array_equal(run.engine.carried, before)
    run.step(2 * ROWS, 3 * ROWS, 0.1)
    assert np.isfinite(run.engine.carried).all() and (run.engine.carried != before).all()
    run.clear_states()
    assert not run.engine.carried.any()


def test_what_can_not_be():
    X, y = stream()
    net = stacked(L.GRU)
    parameters = net.parameters.copy()
    for settings, message in (
        ({"shuffle": True}, "shuffle: expected None or False with carry_state, .*, got True"),
        ({"batch_size": 10}, "batch_size: expected a divisor of the 42 samples with carry_state, .*, got 10"),
    ):
        with pytest.raises(ValueError, match=message):
            sf.train(net, X, y, **PLAIN | settings)
    both = network(L.GRU(3, return_sequences=True), L.LSTM(3, bidirectional=True, return_sequences=True))
    flat = network(L.Linear(3))
    for wrong, got in ((both, "one that is bidirectional"), (flat, "none")):
        with pytest.raises(ValueError, match=f"carry_state: expected a network with recurrent layers that go .*, got {got}"):
            sf.train(wrong, X, y, **PLAIN)
    np.testing.assert_array_equal(net.parameters, parameters)
    for sizes, got in (([6, 6, 5], "5 in batch 3"), ([6, 7, 6], "7 in batch 2")):
        with pytest.raises(ValueError, match=f"X: expected 6 samples in each batch with carry_state, as in the first, got {got}"):
            sf.train(net, Batches(X, y, sizes), **PLAIN | {"batch_size": None})


class Rows:
    """Rows that are not in memory."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows):
        return self.array[rows].copy()


@pytest.mark.parametrize("carry_state", [False, True])
def test_rows_that_are_not_in_memory(carry_state, monkeypatch):
    monkeypatch.setattr(rows, "POOL_BYTES", 2000)
    X, y = stream()
    weight = np.random.default_rng(0).uniform(size=y.shape)
    settings = PLAIN | {"carry_state": carry_state, "shuffle": False, "factoring": None}
    for network_of, targets in ((lambda: stacked(L.GRU), y), (lambda: stacked(L.GRU), np.eye(4)[y])):
        expected = sf.train(network_of(), X, targets, sample_weight=weight, **settings).network
        for W in (Rows(weight), weight):
            found = sf.train(network_of(), Rows(X), Rows(targets), sample_weight=W, **settings).network
            np.testing.assert_array_equal(found.parameters, expected.parameters)
        assert expected.evaluate(Rows(X), Rows(targets)).loss == pytest.approx(expected.evaluate(X, targets).loss, rel=1e-12)
    for wrong in (y[:, :4], np.zeros((42, 4)), y[:, 0]):
        with pytest.raises(ValueError, match="y: expected 5 targets for each of 42 samples, got"):
            sf.train(stacked(L.GRU), Rows(X), Rows(wrong), **settings)
    with pytest.raises(ValueError, match=r"sample_weight: expected shape \(42,\) or \(42, 5\), got \(42, 4\)"):
        sf.train(stacked(L.GRU), Rows(X), Rows(y), sample_weight=Rows(weight[:, :4]), **settings)
    with pytest.raises(ValueError, match=r"X: expected shape \(n_samples, 5, 3\) or \(n_samples, 15\), got \(42, 4, 3\)"):
        sf.train(stacked(L.GRU), Rows(X[:, :4]), Rows(y), **settings)
