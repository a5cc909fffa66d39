# SPDX-License-Identifier: BSD-3-Clause
"""Trainings that go on from a checkpoint end as they would have without a break, to the bit; files that are not whole are refused.

Processes that are killed: kills.py.
"""

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from flat import flat
from scipy.sparse import csr_array

import svdfast as sf
from svdfast import layers as L
from svdfast.model.structures import Dense
from svdfast.training import auto, checkpoint


def samples(n=60, n_in=24, seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n_in)).astype(dtype)
    return X, (X[:, :3].argmax(axis=1)).astype(int)


def network(dtype="float32", width=32, n_in=24):
    return sf.Network([n_in, width, width, 3], seed=0, dtype=dtype)


class Rows:
    """A row source of an array."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows):
        return self.array[rows]


class Batches:
    """Batches that differ from epoch to epoch, as of a loader that shuffles."""

    def __init__(self, n=5, sizes=(7, 12, 9)):
        self.rng, self.n, self.sizes = np.random.default_rng(7), n, sizes

    def __len__(self):
        return self.n

    def __iter__(self):
        for i in range(self.n):
            rows = self.rng.integers(0, 60, self.sizes[i % len(self.sizes)])
            X, y = samples()
            yield X[rows], y[rows]


def state(path):
    """What a checkpoint has, but for seconds."""
    values = checkpoint.read(path)
    now = values["state"]
    put(now, seconds=0.0, seconds_of_form=0.0, seconds_of_source=0.0, seconds_of_training=0.0)
    for row in now.history + now.phases:
        del row["seconds"]
    for event in now.events:
        event.info.pop("seconds")
        event.info.pop("seconds_dense", None)
    return values


def put(record, **values):
    """Puts values into a frozen record, past its checks."""
    for name, value in values.items():
        object.__setattr__(record, name, value)


def same(one, other):
    """Equal, arrays to the bit and of the same type, NaN as itself."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()
    elif hasattr(one, "__dataclass_fields__"):
        same(vars(one), vars(other))
    else:
        assert one == other or (one != one and other != other)


def timeless(result):
    """What a result has, but for seconds."""
    return {
        "history": [{k: v for k, v in row.items() if k != "seconds"} for row in result.history],
        "events": [(e.kind, e.epoch, e.step) for e in result.events],
        "phases": [{k: v for k, v in phase.items() if k != "seconds"} for phase in result.phases],
        "n_steps": result.n_steps,
        "ranks": result.network.layout.ranks,
        "parameters": result.network.parameters,
    }


def every_state(monkeypatch, path, train, every=1):
    """Trains with checkpoints; the result, and the files by their steps."""
    files = {}
    write = checkpoint.Checkpoint.write

    def keep(self, step, values):
        write(self, step, values)
        files.setdefault(step, []).append(self.path.read_bytes())

    monkeypatch.setattr(checkpoint.Checkpoint, "write", keep)
    result = train(checkpoint=path, checkpoint_every=every)
    monkeypatch.setattr(checkpoint.Checkpoint, "write", write)
    return result, files


def check(monkeypatch, tmp_path, make, data, *, first=0, every=1, **settings):
    """Goes on from each step and compares the ends. `make` makes network and settings, `data` the samples, each time anew."""
    whole_path, path = tmp_path / "whole.ckpt", tmp_path / "again.ckpt"
    net = make()
    given = flat(**{"epochs": 4, "batch_size": 12, "ranks": [4, 4], "n_threads": 1, **settings})
    again = {name: given[name] for name in ("validation", "sample_weight", "callbacks") if name in given}
    optimizer = given.pop("optimizer", sf.Adam)

    whole, files = every_state(
        monkeypatch, whole_path, lambda **more: sf.train(net, *data(), optimizer=optimizer(), **given, **more), every
    )
    plain = make()
    sf.train(plain, *data(), optimizer=optimizer(), **given)
    same(plain.parameters, net.parameters)  # to write changes nothing
    end = state(whole_path)
    assert every is None or sorted(files) == list(range(whole.n_steps + 1))
    for step, contents in files.items():
        if step < first:
            continue
        for content in contents:
            path.write_bytes(content)
            result = sf.resume(path, *data(), **again)
            same(timeless(result), timeless(whole))
            same(state(path), end)
    return whole


OPTIMIZERS = [
    lambda: sf.GradientDescent(0.05),
    lambda: sf.GradientDescent(sf.schedules.StepDecay(0.05), momentum=0.9, nesterov=True),
    lambda: sf.Adam(sf.schedules.Warmup(sf.schedules.Cosine(3e-3), 0.2)),
    lambda: sf.AdamW(3e-3, weight_decay=0.1),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_optimizer_over_all_phases(monkeypatch, tmp_path, optimizer, dtype):
    """Switch within an epoch, decay of the product, penalties, weights, and a dense tail."""
    whole = check(
        monkeypatch, tmp_path, lambda: network(dtype), lambda: samples(dtype=dtype), optimizer=optimizer,
        pretrain_fraction=0.35, recompose_fraction=0.3, product_decay=0.1, l1=1e-4, l2=1e-3,
        sample_weight=np.linspace(0.5, 2, 60), validation=samples(30, seed=1, dtype=dtype),
    )  # fmt: skip
    assert [(e.kind, e.step) for e in whole.events] == [("switch", 7), ("recompose", 14)]


@pytest.mark.parametrize("settings", [
    {"pretrain_fraction": 0.5, "moments": "restart", "activation_aware": False},
    {"pretrain_fraction": 0.0, "recompose": False, "learning_rate": 2.0},
    {"factoring": None},
    {"ranks": "energy:0.9", "svd": "randomized"},
    {"batch_size": 60},
    {"clip_norm": 0.5},
    {"shuffle": False},
    {"precision": "bfloat16"},
    {"seed": np.random.Generator(np.random.MT19937(3))},
    {"seed": np.random.Generator(np.random.Philox(3))},
])  # fmt: skip
def test_each_setting(monkeypatch, tmp_path, settings):
    settings = dict(settings)
    seed = settings.pop("seed", None)
    if seed is not None:
        start = seed.bit_generator.state
        Kind = type(seed.bit_generator)

        def make_seed():
            generator = np.random.Generator(Kind())
            generator.bit_generator.state = start
            return generator

        real = sf.train
        monkeypatch.setattr(sf, "train", lambda *a, **k: real(*a, seed=make_seed(), **k))
    check(monkeypatch, tmp_path, network, samples, **settings)


@pytest.mark.parametrize("action, expected", [
    ("raise", ["raised", "raised", "raised", "kept"]), ("delay", ["delayed", "undone"]), ("undo", ["undone"]),
])  # fmt: skip
def test_the_guard(monkeypatch, tmp_path, action, expected):
    whole = check(
        monkeypatch, tmp_path, network, samples, ranks=[1, 1], optimizer=lambda: sf.Adam(0.01), epochs=10, pretrain_fraction=0.35,
        recompose_fraction=0.2, product_decay=0.1, validation=samples(200, seed=1), guard=sf.Guard(0.0, action),
    )  # fmt: skip
    assert [e.info["action"] for e in whole.events if e.kind == "guard"] == expected


LAYERED = {
    "images": (
        sf.Input(6, 4, 1), [L.Conv2d(4, 3, "relu", padding="same"), L.Dropout(0.2), L.MaxPool2d(2), L.Flatten(), L.Linear(8, "tanh")],
    ),
    "sequences": (sf.Input(4, 6), [L.Masking(), L.LSTM(4, bidirectional=True), L.Dropout(0.2)]),
    "states": (sf.Input(4, 6), [L.LayerNorm(), L.GRU(5, return_sequences=True), L.Conv1d(3, 2), L.Flatten()]),
}  # fmt: skip


def layered(name):
    given, layers = LAYERED[name]
    return sf.Network(given, [*layers, L.Linear(3, "softmax")], seed=0)


@pytest.mark.parametrize("settings", [{}, {"reproducible": True, "n_threads": 2}])
@pytest.mark.parametrize("name", LAYERED)
def test_layers_go_on_from_each_step(monkeypatch, tmp_path, name, settings):
    ranks = [2] * (len(layered(name).layers) - 1)
    whole = check(monkeypatch, tmp_path, lambda: layered(name), samples, ranks=ranks, force=True, pretrain_fraction=0.35, **settings)
    assert "factored" in {phase["phase"] for phase in whole.phases}


def any_steps():
    layers = [L.Linear(5, "tanh"), L.GRU(5, return_sequences=True), L.LayerNorm(), L.LSTM(4), L.Dropout(0.2), L.Linear(3, "softmax")]
    return sf.Network(sf.Input(None, 6), layers, seed=0)


def any_tokens():
    return sf.Network(sf.Input(None, dtype="int32"), [L.Embedding(5, 4), L.RNN(5, return_sequences=True), L.Linear(5, "softmax")], seed=0)


def words():
    tokens = np.random.default_rng(0).integers(0, 5, (60, 5))
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("settings", [{}, {"reproducible": True, "n_threads": 2}, {"carry_state": True, "clip_norm": 0.5}])
@pytest.mark.parametrize(
    ("make", "data"), [(any_steps, lambda: (samples()[0].reshape(60, 4, 6), samples()[1])), (any_tokens, words)]
)
def test_any_number_of_steps_goes_on_from_each(monkeypatch, tmp_path, make, data, settings):
    ranks = [2] * (len(make().layers) - 1)
    whole = check(monkeypatch, tmp_path, make, data, ranks=ranks, force=True, pretrain_fraction=0.35, recompose_fraction=0.2, **settings)
    assert "factored" in {phase["phase"] for phase in whole.phases}


@pytest.mark.parametrize("optimizer", [sf.Adam, lambda: sf.GradientDescent(0.05)])  # of which the second updates some columns
@pytest.mark.parametrize("share", [0.1, 0.5])  # products by entries, and with dense rows
def test_sparse_samples_go_on_from_each_step(monkeypatch, tmp_path, share, optimizer):
    X, y = samples()
    X = X * (np.random.default_rng(0).random(X.shape) < share)
    settings = {"pretrain_fraction": 0.35, "recompose_fraction": 0.3, "product_decay": 0.0}
    whole = check(monkeypatch, tmp_path, network, lambda: (csr_array(X), y), optimizer=optimizer, **settings)
    assert [e.kind for e in whole.events] == ["switch", "recompose"]


@pytest.mark.parametrize("change", [
    lambda layers: layers[1].update(half=2),
    lambda layers: layers[0]["steps"].pop(0),
    lambda layers: layers[2].update(cell="rnn_tanh", n_in=16),
    lambda layers: layers[-1]["steps"].insert(0, {"step": "LastStep", "reverse": 0}),
    lambda layers: layers[-1]["steps"].append({"step": "OneHot", "n": 2**31 - 1}),
    lambda layers: layers.pop(0),
])  # fmt: skip
@pytest.mark.parametrize("place", ["first", "now"])
def test_layers_that_can_not_be_are_refused(tmp_path, change, place):
    path = tmp_path / "training.ckpt"
    sf.train(layered("sequences"), *samples(), epochs=1, factoring=None, checkpoint=path)
    rewritten(path, lambda v: change((v["network"] if place == "first" else v["state"].run.network.layout)["layers"]))
    with pytest.raises(ValueError, match="is not a checkpoint of a training"):
        sf.resume(path, *samples())


@pytest.mark.parametrize("change", [
    lambda phase: phase.pop("seconds"), lambda phase: phase.update(steps="9"), lambda phase: phase.update(more=1),
    lambda phase: phase.update(phase="other"), lambda phase: phase.update(seconds=None), lambda phase: phase.update(multiplications=-1),
])  # fmt: skip
def test_phases_that_can_not_be_are_refused(tmp_path, change):
    path = tmp_path / "training.ckpt"
    sf.train(network(), *samples(), epochs=1, factoring=None, checkpoint=path)
    rewritten(path, lambda v: v["state"].phases.append({"phase": "dense", "multiplications": 9, "steps": 1, "seconds": 0.1}))
    sf.resume(path, *samples())
    rewritten(path, lambda v: change(v["state"].phases[-1]))
    with pytest.raises(ValueError, match="is not a checkpoint of a training"):
        sf.resume(path, *samples())


def test_many_rows_and_two_threads(monkeypatch, tmp_path):
    check(monkeypatch, tmp_path, network, lambda: samples(1300), batch_size=600, n_threads=2)


def test_a_network_that_was_factored_before(monkeypatch, tmp_path):
    def make():
        net = network()
        net.truncate(ranks=[3, None])
        return net

    check(monkeypatch, tmp_path, make, samples, product_decay=0.1, learning_rate=[2.0, 1.0, 1.0])


def test_ranks_that_are_chosen(monkeypatch, tmp_path):
    """With a clock that is not asked, as what is chosen depends on it; a layer is truncated, recomposed, and truncated once more."""
    monkeypatch.setattr(auto, "LOOKING", np.inf)
    monkeypatch.setattr(auto, "LEAST", 1)
    monkeypatch.setattr(auto, "FASTER", np.inf)
    monkeypatch.setattr(auto, "SHORTEST", 2)
    monkeypatch.setattr(auto, "LATER", 2)
    monkeypatch.setattr(auto, "LATEST", 1)
    monkeypatch.setattr(auto, "STILL_LOST", -1e9)
    monkeypatch.setattr(auto, "LOST", 0.5)
    whole = check(
        monkeypatch, tmp_path, lambda: network(width=256), samples, ranks="auto", pretrain_fraction=0.2, epochs=8
    )
    kinds = [(e.kind, e.info.get("action")) for e in whole.events]
    assert kinds[:5] == [("ranks", None), ("switch", None), ("guard", "watched"), ("guard", "undone"), ("ranks", None)]
    assert kinds.count(("switch", None)) == 2


def test_row_sources(monkeypatch, tmp_path):
    """That are read in several pools of several blocks."""
    monkeypatch.setattr("svdfast.data.rows.POOL_BYTES", 2048)
    for shuffle in (True, False):
        check(monkeypatch, tmp_path / str(shuffle), network, lambda: (Rows(samples()[0]), samples()[1]), shuffle=shuffle)


def test_iterables_and_iterators(monkeypatch, tmp_path):
    """Of batches that are never the same again."""

    def generator():
        while True:
            yield from Batches()

    given = {"batch_size": None, "pretrain_fraction": 0.6}
    check(monkeypatch, tmp_path / "iterable", network, lambda: (Batches(),), **given)
    real = sf.train
    monkeypatch.setattr(sf, "train", lambda *a, **k: real(*a, steps_per_epoch=4, **k))
    check(monkeypatch, tmp_path / "iterator", network, lambda: (generator(),), **given)


@pytest.mark.parametrize("every", [None, 1])
@pytest.mark.parametrize("last", [2, 3, 4])
def test_callbacks_that_change_the_network_or_stop(monkeypatch, tmp_path, every, last):
    """What they do at the end of an epoch, the last one too, is in the checkpoint of that end."""

    def change(event):
        if event.kind == "epoch" and event.epoch == 2:
            event.network.truncate(ranks=[5, None])
        if event.kind == "epoch" and event.epoch == 4:
            event.network.truncate(ranks=[None, 3], force=True) if not event.network.is_factored else event.network.recompose()
        if event.kind == "epoch" and event.epoch == last:
            raise sf.StopTraining

    whole = check(
        monkeypatch, tmp_path, network, samples, pretrain_fraction=1, callbacks=[change], recompose=False, every=every
    )
    assert whole.n_steps == 5 * last


def test_a_callback_that_changes_the_schedule(monkeypatch, tmp_path):
    made = []

    def optimizer():
        made.append(sf.Adam(0.01))
        return made[-1]

    def slower(event):
        if event.epoch == 2:
            for optimizer in made:
                optimizer.schedule = sf.schedules.Constant(1e-4)

    whole = check(monkeypatch, tmp_path, network, samples, optimizer=optimizer, callbacks=[slower], first=10)
    assert [row["learning_rate"] for row in whole.history[:4]] == [0.01, 0.01, 1e-4, 1e-4]


def test_a_rate_in_another_type(monkeypatch, tmp_path):
    rate = np.float32(1e-3)
    for schedule in (rate, sf.schedules.Cosine(rate), sf.schedules.StepDecay(rate, np.float32(0.3), [0.5])):
        folder = tmp_path / type(schedule).__name__
        folder.mkdir()
        check(monkeypatch, folder, network, samples, optimizer=lambda: sf.Adam(schedule))  # noqa: B023


def test_a_learning_rate_that_stops(monkeypatch, tmp_path):
    """The steps before it are counted."""

    def rate(step, n_steps):
        if step == 7:
            raise sf.StopTraining
        return 0.01

    path, net = tmp_path / "run.ckpt", network()
    result = sf.train(net, *samples(), batch_size=12, optimizer=sf.Adam(rate), checkpoint=path)
    assert result.n_steps == sum(phase["steps"] for phase in result.phases) == 7
    again = sf.resume(path, *samples(), optimizer=sf.Adam(rate))
    same(timeless(again), timeless(result))


@pytest.fixture(autouse=True)
def folders(tmp_path):
    for name in ("True", "False", "iterable", "iterator"):
        (tmp_path / name).mkdir()


def test_the_network_and_the_optimizer_go_on_in_a_new_process(monkeypatch, tmp_path):
    net, path = network(), tmp_path / "run.ckpt"
    _, files = every_state(
        monkeypatch, path, lambda **more: sf.train(net, *samples(), epochs=4, batch_size=12, factoring=sf.Factoring([4, 4]), **more)
    )
    path.write_bytes(files[9][0])
    np.savez(tmp_path / "data.npz", X=samples()[0], y=samples()[1])
    program = (
        "import sys, numpy as np, svdfast as sf\n"
        "data = np.load('data.npz')\n"
        "sf.save(sf.resume('run.ckpt', data['X'], data['y']).network, 'net.npz')\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    same(sf.load(tmp_path / "net.npz").parameters, net.parameters)


def test_when_it_is_written(monkeypatch, tmp_path):
    """Before the first step, each so many steps or at the ends of epochs, and after the last."""
    whole = network()
    sf.train(whole, *samples(), epochs=2, batch_size=12)
    for every, expected in ((None, [0, 5, 10]), (3, [0, 3, 6, 9, 10]), (5, [0, 5, 10]), (100, [0, 10])):
        steps = []
        write = checkpoint.Checkpoint.write
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.Checkpoint, "write", lambda s, n, v: (steps.append(n), write(s, n, v))[1])  # noqa: B023
            net = network()
            path = tmp_path / f"{every}.ckpt"
            sf.train(net, *samples(), epochs=2, batch_size=12, checkpoint=path, checkpoint_every=every)
        assert steps == expected
        same(net.parameters, whole.parameters)


@pytest.fixture
def whole(tmp_path):
    """A checkpoint in the midst of a training."""
    path = tmp_path / "run.ckpt"

    def stop(event):
        if event.kind == "epoch" and event.epoch == 2:
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        sf.train(
            sf.Network([24, 6, 3], seed=0), *samples(), batch_size=12, callbacks=[stop], checkpoint=path, checkpoint_every=3,
            validation=samples(30, seed=1),
        )  # fmt: skip
    return path


def resume(path, data=None, **settings):
    return sf.resume(path, *(data or samples()), **{"validation": samples(30, seed=1), **settings})


def test_a_file_that_is_cut_short_is_refused(whole):
    content = whole.read_bytes()
    for length in [*range(60), *range(60, len(content), 97), len(content) - 1]:
        whole.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"run\.ckpt' is (damaged|not a checkpoint|a checkpoint of format)"):
            checkpoint.read(whole)
    whole.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match=r"run\.ckpt' is damaged"):
        checkpoint.read(whole)


def test_a_file_with_a_bit_flipped_is_refused(whole):
    content = whole.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(len(content)):
        if place > 200 and place % 5:
            continue
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        whole.write_bytes(changed)
        with pytest.raises(ValueError, match=r"run\.ckpt' is (damaged|not a checkpoint|a checkpoint of format)"):
            checkpoint.read(whole)


def test_other_data_are_refused(whole):
    X, y = samples()
    for data in [(X + 1e-6, y), (X, 2 - y), (X[:-1], y[:-1]), (X.astype("float64"), y), (X[::-1], y[::-1])]:
        with pytest.raises(ValueError, match="X, y, sample_weight: expected the data that"):
            resume(whole, data)
    with pytest.raises(ValueError, match="X, y, sample_weight: expected the data that"):
        resume(whole, sample_weight=np.ones(60))
    with pytest.raises(ValueError, match="validation: expected the data that"):
        resume(whole, validation=samples(31, seed=1))
    with pytest.raises(ValueError, match="validation: expected those that the training had, got none"):
        resume(whole, validation=None)
    with pytest.raises(ValueError, match="24 columns"):
        resume(whole, samples(n_in=23))
    resume(whole)


def test_row_sources_are_told_apart_by_some_of_their_rows(monkeypatch, tmp_path):
    monkeypatch.setattr("svdfast.data.rows.POOL_BYTES", 2048)
    path, (X, y) = tmp_path / "run.ckpt", samples()
    sf.train(network(), Rows(X), y, epochs=1, checkpoint=path)
    with pytest.raises(ValueError, match="X, y, sample_weight: expected the data that"):
        sf.resume(path, Rows(X[:-1]), y[:-1])
    other = X.copy()
    other[-1, -1] += 1
    with pytest.raises(ValueError, match="X, y, sample_weight: expected the data that"):
        sf.resume(path, Rows(other), y)
    other_y = y.copy()
    other_y[7] = (y[7] + 1) % 3
    with pytest.raises(ValueError, match="X, y, sample_weight: expected the data that"):
        sf.resume(path, Rows(X), other_y)
    sf.resume(path, Rows(X), y)


def test_other_versions_are_refused(whole, monkeypatch):
    content = whole.read_bytes()
    for other in (b"3", b"5"):
        whole.write_bytes(content.replace(b"checkpoint 4", b"checkpoint " + other, 1))
        with pytest.raises(ValueError, match=f"is a checkpoint of format '{other.decode()}'; this svdfast reads format 4"):
            resume(whole)


def rewritten(path, change):
    """A file with the right checksum and another content, as somebody with bad intent would make it."""
    values = checkpoint.read(path)
    change(values)
    checkpoint.write(path, values)


@pytest.mark.parametrize("change", [
    lambda v: put(v["state"], n_steps=10**9),
    lambda v: put(v["state"], epoch=0),
    lambda v: put(v["state"], total="x"),
    lambda v: put(v["state"].run.network, parameters=np.zeros(3, "float32")),
    lambda v: put(v["state"].run.network, moments=()),
    lambda v: put(v["state"].run, network=None),
    lambda v: v["state"].run.network.layout["layers"][0].update(n_out=2**31),
    *(lambda v, n=n: v["state"].run.network.layout["layers"][0].update(n_in=n) for n in (0, -1, None, 2.0, float("nan"), 10**30, [])),
    *(lambda v, w=w: v["state"].run.network.layout["layers"][0].update(weight=w) for w in (
        None, [], {}, "LowRank", {"structure": "LowRank"}, {"structure": "LowRank", "rank": -1}, {"structure": "LowRank", "rank": 10**9},
        {"structure": "Dense", "rank": 2}, {"structure": "Other"}, {"structure": ["Dense"]},
    )),
    lambda v: v["state"].run.network.layout["layers"][-1].update(weight={"structure": "LowRank", "rank": 2}),
    lambda v: v["state"].run.network.layout["layers"].pop(),
    lambda v: v["state"].run.network.layout.update(layers=None),
    lambda v: v["state"].run.network.layout.clear(),
    lambda v: v["network"]["layers"][0].update(activation=["tanh", 1.0]),
    lambda v: v["network"]["layers"][0].update(activation=["relu"]),
    lambda v: v["network"]["layers"][0].pop("weight"),
    lambda v: v["network"].pop("layers"),
    lambda v: put(v["factoring"], structure=None),
    lambda v: put(v["factoring"], structure=Dense),
    lambda v: put(v["factoring"], structure="LowRank"),
    lambda v: put(v["state"].run, scales=[1.0]),
    lambda v: put(v["state"].switch, switch_step=-1),
    lambda v: put(v["state"].switch, guard_step=10**30),
    lambda v: put(v["state"].switch, ranks="junk"),
    lambda v: put(v["state"].switch, ranks=[0]),
    lambda v: put(v["state"], switch=v["state"].run),
    lambda v: put(v["state"], events=[v["state"].run]),
    lambda v: v["state"].generator.update(bit_generator="os.system"),
    lambda v: put(v["state"], generator=np.random.MT19937(0).state | {"state": {"key": np.zeros(624, "u4"), "pos": 2**30}}),
    lambda v: put(v["state"], generator=np.random.Philox(0).state | {"buffer_pos": -(2**30)}),
    lambda v: put(v["state"], seconds="x"),
    lambda v: put(v["state"].run.network, n_updates=10**30),
    lambda v: v.update(state=v["factoring"]),
    lambda v: v.update(factoring=None),
    lambda v: v.update(factoring="auto"),
    lambda v: v.update(factoring=v["state"]),
    lambda v: put(v["factoring"], ranks=(4, 4)),
    lambda v: put(v["factoring"], ranks="most"),
    lambda v: put(v["factoring"], ranks=None),
    lambda v: put(v["factoring"], learning_rate=(1.0,)),
    lambda v: put(v["factoring"], guard=sf.Guard(0.1)) or v["data"].update(validation=None),
    lambda v: put(v["factoring"], guard=1.0),
    lambda v: put(v["factoring"], svd="none"),
    lambda v: v["arguments"].update(clip_norm=-1.0),
    lambda v: v["arguments"].pop("l2"),
    lambda v: v["arguments"].update(n_threads=10**30),
    lambda v: v["data"].pop("training"),
    lambda v: v["network"].update(dtype="O"),
    lambda v: v["state"].optimizer.update(name="Evil"),
    lambda v: v["arguments"].update(evil=1),
    *(lambda v, value=value: v["arguments"].update(early_stopping=value) for value in (True, [], {"patience": 3}, 1.0)),
    lambda v: v["arguments"].update(epochs="many"),
    lambda v: v.clear(),
])  # fmt: skip
def test_a_content_that_makes_no_sense_is_refused(whole, change):
    rewritten(whole, change)
    with pytest.raises((ValueError, TypeError)):
        resume(whole)


def test_a_small_file_takes_little_memory(whole):
    """However many weights the network was said to begin with."""

    def change(values):
        for layout in (values["network"], values["state"].run.network.layout):
            layout["layers"][0]["n_out"] = layout["layers"][1]["n_in"] = 3_000_000

    rewritten(whole, change)
    tracemalloc.start()
    with pytest.raises(ValueError, match="not a checkpoint of a training"):
        resume(whole)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_arrays_of_objects_and_texts_that_are_no_values_are_refused(whole):
    for text in (
        '{"array": ["O", [1]]}', '{"array": ["(9,)f8", [1]]}', '{"array": ["f8", [-1]]}', '{"system": ["ls"]}', "{}", "[" * 99999,
        '{"structure": "os"}', '{"structure": "Structure"}', '{"structure": ["Dense"]}', '{"structure": null}', '{"structure": {}}',
    ):  # fmt: skip
        whole.unlink()
        part = len(text).to_bytes(8, "little") + text.encode()
        start = b"svdfast checkpoint 4\n" + part
        whole.write_bytes(start + __import__("hashlib").sha256(start).digest())
        with pytest.raises(ValueError, match="not a checkpoint"):
            checkpoint.read(whole)


def test_a_learning_rate_of_the_users_own(tmp_path):
    """Is no part of a file, so it has to be given again."""
    path = tmp_path / "run.ckpt"

    def rate(step, n_steps):
        return 0.01 / (1 + step)

    def interrupt(event):
        if event.epoch == 2:
            raise KeyboardInterrupt

    given = {"epochs": 4, "batch_size": 12}
    for learning_rate in (rate, sf.schedules.Warmup(rate)):
        path.unlink(missing_ok=True)
        net = network()
        with pytest.raises(KeyboardInterrupt):
            sf.train(net, *samples(), optimizer=sf.Adam(learning_rate), callbacks=[interrupt], checkpoint=path, **given)
        with pytest.raises(ValueError, match="optimizer: expected the one that the training had"):
            sf.resume(path, *samples())
        with pytest.raises(TypeError, match="optimizer: expected an Optimizer, got float"):
            sf.resume(path, *samples(), optimizer=0.1)
        with pytest.raises(ValueError, match="optimizer: expected one of 2 moments"):
            sf.resume(path, *samples(), optimizer=sf.GradientDescent(rate))
        whole = network()
        sf.train(whole, *samples(), optimizer=sf.Adam(learning_rate), **given)
        result = sf.resume(path, *samples(), optimizer=sf.Adam(learning_rate))
        same(result.network.parameters, whole.parameters)


def thirds(layers, weights):
    return [min(layer.n_in, layer.n_out) // 3 for layer in layers]


def test_a_rule_of_the_users_own(tmp_path):
    """Is no part of a file, so the method has to be given again, before the switch and after it."""
    path, method = tmp_path / "run.ckpt", sf.Factoring(thirds, pretrain_fraction=0.5, product_decay=0.1)
    given = {"epochs": 4, "batch_size": 12}
    for last in (1, 3):

        def interrupt(event, last=last):
            if event.epoch == last:
                raise KeyboardInterrupt

        path.unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            sf.train(network(), *samples(), factoring=method, callbacks=[interrupt], checkpoint=path, checkpoint_every=4, **given)
        with pytest.raises(ValueError, match=r"factoring: expected the one that the training had, got None: .* rule of ranks is your own"):
            sf.resume(path, *samples())
        with pytest.raises(TypeError, match="factoring: expected a Factoring, got float"):
            sf.resume(path, *samples(), factoring=0.25)
        whole = network()
        sf.train(whole, *samples(), factoring=method, **given)
        same(sf.resume(path, *samples(), factoring=method).network.parameters, whole.parameters)


def test_a_method_given_again_may_have_no_guard(tmp_path):
    path, method = tmp_path / "run.ckpt", sf.Factoring(thirds, pretrain_fraction=0.25, force=True)

    def interrupt(event):
        if event.kind == "epoch" and event.network.is_factored:
            raise KeyboardInterrupt

    given = {"epochs": 60, "batch_size": 12, "validation": samples(), "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        sf.train(network(), *samples(), factoring=replace(method, guard=sf.Guard(0.0)), callbacks=[interrupt], checkpoint_every=1, **given)
    state = checkpoint.read(path)["state"]
    assert state.switch.before is not None and state.n_steps < state.switch.guard_step
    result = sf.resume(path, *samples(), validation=samples(), factoring=method)
    assert [event.kind for event in result.events] == ["switch", "recompose"]


@pytest.mark.parametrize("method", [
    sf.Factoring(sf.ranks.Energy(0.5), svd="randomized"), sf.Factoring("budget:0.2", learning_rate=[1.0, 2.0, 1.0]),
    sf.Factoring((None, 4), guard=sf.Guard(1.0, "delay")), sf.Factoring.as_reported(),
], ids=repr)  # fmt: skip
def test_a_method_is_kept(tmp_path, method):
    path = tmp_path / "run.ckpt"
    sf.train(network(), *samples(), epochs=1, factoring=method, validation=samples(), checkpoint=path)
    assert checkpoint.read(path)["factoring"] == method
    assert sf.resume(path, *samples(), validation=samples()).n_steps == 1


def test_no_file_is_replaced_that_is_not_the_trainings_own(whole):
    content, net = whole.read_bytes(), network()
    before = net.parameters.copy()
    with pytest.raises(FileExistsError, match=r"checkpoint: '.*run.ckpt' is there already"):
        sf.train(net, *samples(), checkpoint=whole)
    assert whole.read_bytes() == content
    same(net.parameters, before)


@pytest.mark.parametrize("arguments, error, message", [
    ({"checkpoint": 3}, TypeError, "checkpoint: expected a path, got int"),
    ({"checkpoint_every": 3}, ValueError, "checkpoint_every: expected None without a checkpoint, got 3"),
    ({"checkpoint": "run.ckpt", "checkpoint_every": 0}, ValueError, "checkpoint_every: expected an integer ≥ 1, got 0"),
    ({"checkpoint": "."}, IsADirectoryError, "checkpoint: expected the path of a file, got the folder"),
    ({"checkpoint": "nowhere/run.ckpt"}, FileNotFoundError, "nowhere"),
])  # fmt: skip
def test_bad_arguments(monkeypatch, tmp_path, arguments, error, message):
    monkeypatch.chdir(tmp_path)
    net = network()
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        sf.train(net, *samples(), **arguments)
    same(net.parameters, before)
    assert not (tmp_path / "run.ckpt").exists()


def test_a_checkpoint_that_cannot_be_written_changes_nothing(tmp_path):
    optimizer, net = sf.Adam(), network()
    sf.train(network(width=8), *samples(), epochs=2, optimizer=optimizer)
    moments, n_updates = optimizer.moments, optimizer.n_updates
    with pytest.raises(FileNotFoundError):
        sf.train(net, *samples(), optimizer=optimizer, checkpoint=tmp_path / "nowhere" / "run.ckpt")
    assert optimizer.n_updates == n_updates == 2
    assert all(one is other for one, other in zip(optimizer.moments, moments, strict=True))


def test_no_file(tmp_path):
    with pytest.raises(TypeError, match="path: expected a path, got NoneType"):
        sf.resume(None, *samples())
    with pytest.raises(FileNotFoundError):
        sf.resume(tmp_path / "run.ckpt", *samples())


def test_what_callbacks_leave_in_rows(tmp_path):
    """Plain values are kept, others refused with their type."""
    path = tmp_path / "run.ckpt"

    def note(value):
        return lambda event: event.info.update(mine=value)

    sf.train(network(), *samples(), epochs=1, callbacks=[note({"a": (1, None), 2.5: np.arange(3)})], checkpoint=path)
    row = sf.resume(path, *samples()).history[0]
    assert row["mine"]["a"] == (1, None)
    assert row["mine"][2.5].tolist() == [0, 1, 2]
    path.unlink()
    for value in (object(), b"x", np.array(["x"]), np.array([1j]), np.ma.array([1.0]), np.longdouble(1), range(3)):
        path.unlink(missing_ok=True)
        with pytest.raises(TypeError, match=f"numbers in state history mine, got {type(value).__name__}"):
            sf.train(network(), *samples(), epochs=1, callbacks=[note({"a": 1}), note(value)], checkpoint=path)
        assert sf.resume(path, *samples()).n_steps == 1  # from the file before


def test_a_full_disk(tmp_path):
    """The error goes through, and the file is as it was before; the network is as the last step left it."""
    resource = pytest.importorskip("resource")  # not on Windows
    path = tmp_path / "run.ckpt"
    size = []

    def fill(event):
        if event.epoch == 2:
            size.append(path.read_bytes())
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    net = network()
    try:
        with pytest.raises(OSError, match="File too large"):
            sf.train(net, *samples(), epochs=3, callbacks=[fill], checkpoint=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == size[0]
    assert [name for name in os.listdir(tmp_path) if "part" in name] == []
    result, whole = sf.resume(path, *samples()), network()
    sf.train(whole, *samples(), epochs=3)
    same(result.network.parameters, whole.parameters)
    assert np.isfinite(net.predict(samples()[0])).all()


def test_what_killed_processes_have_left_is_removed(tmp_path, whole):
    left, other = tmp_path / ".run.ckpt.123-456.part", tmp_path / ".other.ckpt.123-456.part"
    left.write_bytes(b"x")
    other.write_bytes(b"x")
    resume(whole)
    assert not left.exists()
    assert other.exists()


def test_the_form_of_the_file(whole):
    """As checkpoint.py describes it."""
    content = whole.read_bytes()
    start = len(b"svdfast checkpoint 4\n")
    length = int.from_bytes(content[start : start + 8], "little")
    values = json.loads(content[start + 8 : start + 8 + length])
    assert next(iter(values)) == "dict"
