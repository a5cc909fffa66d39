# SPDX-License-Identifier: BSD-3-Clause
"""Networks that take any number of steps are, for each number, the networks that take this number alone: to the bit.

Elsewhere: what layers compute (test_layers.py), and padding (test_sequences.py).
"""

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from team import together

import svdfast as sf
from svdfast import layers as L
from svdfast.model.layout import Layout
from svdfast.training import auto

RNG = np.random.default_rng(0)


def tokens(steps=None, **options):
    layers = [L.Embedding(6, 16), L.LSTM(24, return_sequences=True), L.Linear(6, "softmax")]
    return sf.Network(sf.Input(steps, dtype="int32"), layers, seed=0, **options)


def last(steps=None, **options):
    layers = [L.Masking(), L.LayerNorm(), L.GRU(24, bidirectional=True), L.Dropout(0.2), L.Linear(20, "relu"), L.Linear(3, "softmax")]
    return sf.Network(sf.Input(steps, 4), layers, seed=0, **options)


def numbers(steps=None, **options):
    layers = [L.Linear(8, "tanh"), L.RNN(24, return_sequences=True), L.GRU(16, return_sequences=True), L.Linear(2)]
    return sf.Network(sf.Input(steps, 4, dtype="float32"), layers, seed=0, **options)


KINDS = pytest.mark.parametrize("make", [tokens, last, numbers])
STEPS = pytest.mark.parametrize("steps", [5, 9, 1])


def data(make, steps, n=40):
    if make is tokens:
        X = RNG.integers(0, 6, (n, steps + 1))
        return X[:, :-1], X[:, 1:]
    X = RNG.normal(size=(n, steps, 4)).astype("float32")
    return X, RNG.integers(0, 3, n) if make is last else X[..., :2].copy()


@pytest.fixture
def eager(monkeypatch):
    """Lets "auto" look at few samples, after few steps, and take any cut."""
    settings = {"FIRST_LOOK": 4, "LEAST": 8, "LOST": 100.0, "LOOKING": 100.0, "THIN": 0, "WORTH": 2.0, "SHARE": -1.0, "SHARES": -1.0}
    for name, value in settings.items():
        monkeypatch.setattr(auto, name, value)


def same(net, fixed):
    """Whether two networks have the same parameters in the same structures."""
    assert net.layout.structures == fixed.layout.structures
    np.testing.assert_array_equal(net.parameters, fixed.parameters)


# --- The same numbers -----------------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("factored", [False, True])
def test_what_a_network_gives(make, factored):
    net = make()
    if factored:
        net.truncate(rank_fraction=0.25, force=True)
    for steps in (5, 9, 1, 5):
        X, y = data(make, steps)
        fixed = make(steps)
        if factored:
            fixed.truncate(rank_fraction=0.25, force=True)
        same(net, fixed)
        for form in (X, X.reshape(len(X), -1), X.tolist(), np.asfortranarray(X), X[:0], X[:1]):
            np.testing.assert_array_equal(net.predict(form), fixed.predict(form))
        assert net.evaluate(X, y) == fixed.evaluate(X, y)
        assert net.score(X, y) == fixed.score(X, y)
        assert net.loss_and_gradient(X, y)[0] == fixed.loss_and_gradient(X, y)[0]
        np.testing.assert_array_equal(net.loss_and_gradient(X, y)[1], fixed.loss_and_gradient(X, y)[1])
        out = np.empty_like(fixed.predict(X))
        assert net.predict(X, out=out) is out
        np.testing.assert_array_equal(out, fixed.predict(X))


@KINDS
@STEPS
@pytest.mark.parametrize("factoring", [None, sf.Factoring(0.25, pretrain_fraction=0.3, force=True), "auto"])
@pytest.mark.usefixtures("eager")
def test_trainings(make, steps, factoring):
    X, y = data(make, steps)
    ends = []
    for of in (None, steps):
        net = make(of)
        result = sf.train(
            net, X, y, epochs=6, batch_size=16, factoring=factoring, validation=(X[:9], y[:9]), reproducible=True, clip_norm=1.0
        )
        kinds = {event.kind for event in result.events}
        assert kinds >= {None: set(), "auto": {"ranks"}}.get(factoring, {"switch", "recompose"})
        ends.append((net, [(row["loss"], row["val_loss"]) for row in result.history], [p["multiplications"] for p in result.phases]))
    same(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]
    assert ends[0][0].layout.steps == 1


@KINDS
def test_a_network_factored_before_its_training_and_looked_at_over_other_sequences(make):
    X, y = data(make, 7)
    inputs = data(make, 9)[0]
    ends = []
    for of, sample in ((None, inputs), (None, inputs[:, :7]), (7, inputs[:, :7])):
        net = make(of)
        net.truncate(ranks=[3] + [None] * (len(net.layers) - 2), force=True, inputs=sample)
        sf.train(net, X, y, epochs=2, batch_size=16)
        ends.append(net)
    same(ends[1], ends[2])
    assert not np.array_equal(ends[0].parameters, ends[1].parameters)


def test_trained_with_one_number_of_steps_after_the_other():
    """The optimizer's moments stay, as of one network."""
    net, adam = tokens(), sf.Adam(0.01)
    for n_updates, steps in enumerate((5, 9, 1), 1):
        X, y = data(tokens, steps)
        sf.train(net, X, y, epochs=1, optimizer=adam, factoring=None)
        assert adam.n_updates == n_updates
    net.predict(X)


def test_validation_with_other_steps():
    X, y = data(tokens, 5)
    many, few = data(tokens, 9), data(tokens, 2)
    net = tokens()
    seen = []
    for validation in (many, [few, many], few):
        pairs = list(validation) if isinstance(validation, list) else [validation]
        batches = validation if not isinstance(validation, list) else Batches(pairs)
        result = sf.train(net, X, y, epochs=1, validation=batches, factoring=None)
        seen.append(result.history[-1]["val_loss"])
        losses = [(net.evaluate(*pair).loss, pair[1].size) for pair in pairs]
        assert seen[-1] == pytest.approx(np.average([a for a, _ in losses], weights=[b for _, b in losses]), rel=1e-6)


class Batches:
    """An iterable that is no list."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def test_sources(tmp_path):
    h5py = pytest.importorskip("h5py")
    X, y = data(numbers, 5)
    expected = numbers(5)
    sf.train(expected, X, y, epochs=2, batch_size=10, shuffle=False, factoring=None)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["X"], file["y"] = X, y
        net = numbers()
        np.testing.assert_array_equal(net.predict(file["X"]), net.predict(X))
        sf.train(net, file["X"], file["y"], epochs=2, batch_size=10, shuffle=False, factoring=None)
    same(net, expected)
    net = numbers()
    sf.train(net, [(X[i : i + 10], y[i : i + 10]) for i in range(0, 40, 10)], epochs=2, factoring=None)
    same(net, expected)
    sparse, pandas = pytest.importorskip("scipy.sparse"), pytest.importorskip("pandas")
    for form in (sparse.csr_array, pandas.DataFrame):
        net = numbers()
        sf.train(net, form(X.reshape(40, -1)), y, epochs=2, batch_size=10, shuffle=False, factoring=None)
        same(net, expected)
    frame = pandas.DataFrame(X.reshape(40, -1), columns=[f"x{i}" for i in range(20)])
    sf.train(net, frame, y, epochs=1)
    assert net.feature_names is None
    assert net.predict(frame.iloc[:, :8]).shape == (40, 2, 2)


def test_streams():
    sequence = RNG.integers(0, 6, 400)
    X, y = sf.sequences.streams(sequence, steps=7, batch_size=8)
    ends = []
    for steps in (None, 7):
        net = tokens(steps)
        sf.train(net, X, y, epochs=3, batch_size=8, carry_state=True, factoring=0.5)
        ends.append(net)
    same(*ends)


def test_several_processes():
    X, y = data(numbers, 5)

    def run(communicator):
        net = numbers()
        sf.train(net, X, y, epochs=2, batch_size=16, factoring=0.25, communicator=communicator, reproducible=True)
        return net

    alone, *others = [net for size in (1, 2) for net in together(size, run)[0]]
    for net in others:
        same(net, alone)


def test_readers_with_different_steps_at_once():
    net, failed = tokens(), []
    cases = {steps: data(tokens, steps)[0] for steps in range(1, 20)}
    expected = {steps: tokens(steps).predict(X) for steps, X in cases.items()}

    def read(seed):
        try:
            for steps in np.random.default_rng(seed).choice(list(cases), 100):
                np.testing.assert_array_equal(net.predict(cases[steps], n_threads=1), expected[steps])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


# --- Kept -----------------------------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("kind", [".npz", ".safetensors", "pickle", "copy", "deepcopy"])
def test_copies_and_files(make, kind, tmp_path):
    net = make()
    net.truncate(rank_fraction=0.25, force=True)
    X, y = data(make, 5)
    sf.train(net, X, y, epochs=1, factoring=sf.Factoring(0.25, recompose=False))
    if kind.startswith("."):
        if kind == ".safetensors":
            pytest.importorskip("safetensors")
        sf.save(net, tmp_path / f"net{kind}")
        other = sf.load(tmp_path / f"net{kind}")
    else:
        other = {"pickle": lambda net: pickle.loads(pickle.dumps(net)), "copy": sf.Network.copy, "deepcopy": copy.deepcopy}[kind](net)
    assert other.layout == net.layout and other.layout.any_steps
    assert repr(other) == repr(net) and other.summary() == net.summary()
    for steps in (5, 9, 1):
        X, _ = data(make, steps)
        np.testing.assert_array_equal(other.predict(X), net.predict(X))


def test_how_it_prints():
    assert repr(tokens()) == "<Network any steps -> 16 -> 96 -> 96 -> 6, float32>"
    assert repr(numbers()) == "<Network any steps × 4 -> 8 -> 24 -> 24 -> 48 -> 48 -> 2, float32>"
    assert tokens().summary().splitlines()[-1] == "any steps, 6 outputs, float32"
    assert numbers().summary().splitlines()[-1] == "any steps × 4, 2 outputs, float32"
    table = [tokens(steps).summary().splitlines()[:-1] for steps in (None, 1)]
    assert table[0] == table[1]
    for given in ("Input(None)", "Input(None, 3)", "Input(None, dtype='int32')", "Input(None, 4, dtype='float32')"):
        assert repr(eval(given, {"Input": sf.Input})) == given


@KINDS
@pytest.mark.parametrize("factoring", [0.25, "auto"])
@pytest.mark.usefixtures("eager")
def test_a_training_that_is_resumed(make, factoring, tmp_path):
    X, y = data(make, 6)
    path = tmp_path / "run.ckpt"
    settings = {"epochs": 6, "batch_size": 16, "factoring": factoring, "validation": data(make, 3), "reproducible": True}
    settings["early_stopping"] = sf.EarlyStopping(patience=4)
    whole = make()
    sf.train(whole, X, y, **settings)
    for at in (2, 4):
        def stop(event, at=at):
            if event.kind == "epoch" and event.epoch == at:
                raise RuntimeError("power cut")

        path.unlink(missing_ok=True)
        with pytest.raises(RuntimeError, match="power cut"):
            sf.train(make(), X, y, checkpoint=path, checkpoint_every=5, callbacks=[stop], **settings)
        result = sf.resume(path, X, y, validation=settings["validation"])
        same(result.network, whole)
        assert result.network.layout.any_steps
        assert result.network.predict(data(make, 11)[0]).shape[0] == 40
    with pytest.raises(ValueError, match="expected the data that"):
        sf.resume(path, *data(make, 5), validation=settings["validation"])


def test_callbacks_may_look_and_truncate():
    X, y = data(tokens, 5)
    other = data(tokens, 9)[0]
    net = tokens()

    def look(event):
        assert event.network.predict(other).shape == (40, 9, 6)
        if event.kind == "epoch" and event.epoch == 1:
            event.network.truncate(rank_fraction=0.25, force=True)

    result = sf.train(net, X, y, epochs=3, factoring=None, callbacks=[look])
    assert [phase["phase"] for phase in result.phases] == ["dense", "factored"]
    assert net.layout.steps == 1


def test_a_training_that_fails_leaves_the_network_for_any_steps():
    net = numbers()
    X, y = data(numbers, 5)

    def fail(event):
        assert event.network.layout.steps == 5
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sf.train(net, X, y, epochs=2, callbacks=[fail])
    assert net.layout.steps == 1
    with pytest.raises(sf.NotFinite, match="layer"):
        sf.train(net, X * 1e30, y, epochs=50, optimizer=sf.GradientDescent(1e30), factoring=None)
    assert net.layout.steps == 1
    assert np.isfinite(net.predict(X)).all()


def test_another_process_reads_the_file(tmp_path):
    net = tokens()
    X, _ = data(tokens, 8)
    sf.save(net, tmp_path / "net.npz")
    np.save(tmp_path / "X.npy", X)
    code = "import numpy as np, svdfast as sf; np.save('y.npy', sf.load('net.npz').predict(np.load('X.npy')))"
    environment = {**os.environ, "PYTHONPATH": str(Path(sf.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), net.predict(X))


# --- Other libraries ------------------------------------------------------------------------------------------------------------------


def unmasked(steps=None, **options):
    layers = [L.LayerNorm(), L.GRU(24, bidirectional=True), L.Dropout(0.2), L.Linear(20, "relu"), L.Linear(3, "softmax")]
    return sf.Network(sf.Input(steps, 4), layers, seed=0, **options)


@pytest.mark.parametrize("make", [tokens, unmasked, numbers])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_onnx(make, factored, dtype):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from svdfast.onnx import to_onnx

    net = make(dtype=dtype)
    if factored:
        net.truncate(rank_fraction=0.25, force=True)
    session = onnxruntime.InferenceSession(to_onnx(net).SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[:2] == ["n_samples", "steps"]
    for steps in (5, 9, 1):
        X, _ = data(make, steps)
        X = X if make is tokens else X.astype(dtype)
        np.testing.assert_allclose(session.run(["y"], {"X": X})[0], net.predict(X), atol=1e-5)


@pytest.mark.parametrize("make", [tokens, unmasked, numbers])
@pytest.mark.parametrize("factored", [False, True])
def test_pytorch_and_back(make, factored):
    torch = pytest.importorskip("torch")
    net = make(dtype="float64")
    if factored:
        net.truncate(rank_fraction=0.25, force=True)
    module = sf.to_torch(net).eval()
    back = sf.from_torch(module, input=sf.Input(*net.layout.input))
    assert back.layout == net.layout
    for steps in (5, 9, 1):
        X, _ = data(make, steps)
        X = X if make is tokens else X.astype("float64")
        with torch.no_grad():
            np.testing.assert_allclose(module(torch.tensor(X)).numpy(), net.predict(X), atol=1e-10)
        np.testing.assert_allclose(back.predict(X), net.predict(X), atol=1e-10)


def test_modules_that_take_no_other_number():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    from svdfast.torch import ChannelsLast, Recurrent

    flat = nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"Flatten: expected a number of steps"):
        sf.from_torch(flat, input=sf.Input(None, 4))
    convolution = nn.Sequential(nn.Conv1d(4, 3, 1), ChannelsLast(), Recurrent(nn.GRU(3, 3, batch_first=True)), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="expected what takes any number of steps, got Patches"):
        sf.from_torch(convolution, input=sf.Input(None, 4))
    with pytest.raises(ValueError, match="expected tokens where a sample is any number of them"):
        sf.from_torch(nn.Sequential(nn.Linear(1, 2)), input=sf.Input(None))
    with pytest.raises(ValueError, match="dtype: expected float32 or float64 without an Embedding first, got int32"):
        sf.from_torch(nn.Sequential(nn.Linear(4, 2)), input=sf.Input(None, 4, dtype="int32"))


# --- Errors ---------------------------------------------------------------------------------------------------------------------------

GRU = L.GRU(4, return_sequences=True)
END = L.Linear(2, "softmax")
EMBEDDING = L.Embedding(6, 4)
REFUSED = [
    (lambda: sf.Input(3, None), TypeError, r"shape\[1\]: expected an integer"),
    (lambda: sf.Input(None, None), TypeError, r"shape\[1\]: expected an integer"),
    (lambda: sf.Input(None, 3, 1), TypeError, r"shape\[0\]: expected an integer"),
    (lambda: sf.Input(None, 2**32), ValueError, r"shape\[1\]"),
    (lambda: sf.Input(None, dtype="int64"), ValueError, "dtype: expected int32 for tokens, float32 or float64, got int64"),
    (lambda: sf.Input(None, dtype="words"), ValueError, "dtype: expected int32 for tokens, float32 or float64, got 'words'"),
    (lambda: sf.Network(sf.Input(None, 3, dtype="int32"), [GRU, END]), ValueError, "dtype: expected float32 or float64 without"),
    (lambda: sf.Network(sf.Input(5, dtype="int32"), [END]), ValueError, "dtype: expected float32 or float64 without an Embedding first"),
    (lambda: sf.Network(sf.Input(None, dtype="float32"), [EMBEDDING, END]), ValueError, "dtype: expected int32 for tokens, as layers"),
    (lambda: sf.Network(sf.Input(None), [GRU, END]), ValueError, r"layers\[0\]: expected an Embedding for Input\(None\), or"),
    (lambda: sf.Network(sf.Input(None), [END]), ValueError, r"layers\[0\]: expected an Embedding for Input\(None\), or"),
    (lambda: sf.Network(sf.Input(None, 3), [EMBEDDING, END]), ValueError, r"Embedding: expected .* \(steps\), got \(any, 3\)"),
    (lambda: sf.Network(sf.Input(None, 3), [GRU, L.Flatten(), END]), ValueError, r"layers\[1\]: Flatten: expected a number of steps"),
    (lambda: sf.Network(sf.Input(None, 3), [L.Conv1d(3, 2), END]), ValueError, r"layers\[0\]: Conv1d: expected a number of steps"),
    (lambda: sf.Network(sf.Input(None, 3), [L.MaxPool2d(2), END]), ValueError, r"layers\[0\]: MaxPool2d: .* got \(any, 3\)"),
    (lambda: tokens().predict(np.zeros(5)), ValueError, r"X: expected shape \(n_samples, steps\) with one step or more, got \(5,\)"),
    (lambda: tokens().predict(np.zeros((5, 0))), ValueError, r"X: expected shape \(n_samples, steps\) with one step or more, got \(5, 0\)"),
    (lambda: tokens().predict(np.zeros((5, 3, 1))), ValueError, r"X: expected shape \(n_samples, steps\)"),
    (lambda: tokens().predict([[1, 2], [3]]), ValueError, "X: expected an array of numbers"),
    (lambda: tokens().predict(None), TypeError, "X: expected an array of numbers, got None"),
    (lambda: tokens().predict(np.full((5, 3), 0.5)), ValueError, "X: expected tokens, whole numbers from 0 to 5, got 0.5"),
    (lambda: last().predict(np.zeros((5, 6))), ValueError, r"X: expected shape \(n_samples, steps, 4\) or \(n_samples, steps · 4\) with"),
    (lambda: last().predict(np.zeros((5, 6, 3))), ValueError, r"X: expected shape \(n_samples, steps, 4\) .* got \(5, 6, 3\)"),
    (lambda: last().predict(np.zeros((5, 0, 4))), ValueError, r"X: expected shape \(n_samples, steps, 4\)"),
    (lambda: tokens().evaluate(np.zeros((5, 3)), np.zeros((5, 2), int)), ValueError, "y: expected 3 targets for each of 5 samples"),
    (lambda: sf.train(tokens(), np.zeros((5, 3)), np.zeros((5, 2), int)), ValueError, "y: expected 3 targets for each of 5 samples"),
    (
        lambda: sf.train(tokens(), np.zeros((5, 3)), np.zeros((5, 3), int), validation=(np.zeros((5, 2, 2)), np.zeros((5, 2), int))),
        ValueError, r"validation X: expected shape \(n_samples, steps\)",
    ),
    (
        lambda: sf.train(tokens(), [data(tokens, 5), data(tokens, 9)], epochs=1), ValueError,
        "X: expected 5 steps in each batch, as in the first, got 9 in batch 2",
    ),
    (
        lambda: sf.train(last(), [data(last, 2), data(last, 3)], epochs=1), ValueError,
        "X: expected 2 steps in each batch, as in the first, got 3 in batch 2",
    ),
    (lambda: setattr(last(), "origin", sf.Network([4, 3]).origin.__class__(feature_names=tuple("abcd"))), ValueError, "feature_names: "),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(REFUSED)))
def test_what_is_refused(i):
    call, error, message = REFUSED[i]
    with pytest.raises(error, match=message):
        call()


HEADERS = [
    (tokens, lambda header: header["layers"][0]["steps"].insert(0, {"step": "Rows", "rows": 1}), "any number of steps, got Rows"),
    (tokens, lambda header: header["layers"][0].pop("steps"), "expected tokens where a sample is any number of them"),
    (numbers, lambda header: header["layers"][0].update(steps=[{"step": "Flatten"}]), "any number of steps, got Flatten"),
    (numbers, lambda header: header.update(input=[4, None]), "input: expected an integer"),
    (numbers, lambda header: header.update(input=[None, None]), "input: expected an integer"),
    (numbers, lambda header: header.update(input=[None, 4, 4]), "input: expected an integer"),
    (numbers, lambda header: header.update(input=[None, 5]), "expected 5 columns"),
]


@pytest.mark.parametrize("i", range(len(HEADERS)))
def test_headers_that_can_not_be(i):
    make, change, message = HEADERS[i]
    header = make().layout.header()
    assert Layout.parse(header) == make().layout
    change(header)
    with pytest.raises((TypeError, ValueError), match=message):
        Layout.parse(header)
