# SPDX-License-Identifier: BSD-3-Clause
"""What the TensorBoard callback writes, read back from its files, and how it is opened and closed."""

import struct
import sys
import time

import numpy as np
import pytest
from flat import flat

import svdfast as sf

SIZES = [6, 16, 14, 3]


def samples(n=40):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, SIZES[0])), rng.integers(0, SIZES[-1], n)


def trained(board, **settings):
    X, y = samples()
    given = {"epochs": 5, "batch_size": 10, "ranks": [3, 4], "force": True, "pretrain_fraction": 0.3, "validation": (X, y)}
    return sf.train(
        sf.Network(SIZES, seed=0), X, y, callbacks=[board],
        **flat(**given | settings),
    )  # fmt: skip


def read(folder):
    """Each tag's steps and values, in the order in which they were written."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while len(content) >= 8:
            # A record: its length, a checksum of that, itself, a checksum. The last may not be whole yet.
            (length,) = struct.unpack("<Q", content[:8])
            if len(content) < 16 + length:
                break
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                text = value.tensor.string_val
                found.setdefault(value.tag, []).append((event.step, text[0].decode() if text else value.simple_value))
    return found


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    return tmp_path / "runs" / "one"


def test_files_hold_the_history_and_the_events(folder):
    with sf.callbacks.TensorBoard(folder) as board:
        result = trained(board)
    found = read(folder)
    rows = result.history
    for name in ("loss", "learning_rate", "seconds", "val_loss", "val_accuracy"):
        assert found.pop(name) == [(row["step"], np.float32(row[name])) for row in rows]
    assert found == {
        "rank/layer_0": [(6, 3)],
        "rank/layer_1": [(6, 4)],
        "phase/text_summary": [(6, "factored"), (20, "dense")],
    }


def test_what_the_guard_saw(folder):
    with sf.callbacks.TensorBoard(folder) as board:
        result = trained(board, epochs=50, ranks=[1, 1], guard=sf.Guard(0.0), activation_aware=False)
    guards = [event for event in result.events if event.kind == "guard"]
    assert guards
    found = read(folder)
    for name in ("loss_before", "loss_after", "loss_recovered"):
        assert found[f"guard/{name}"] == [(event.step, np.float32(event.info[name])) for event in guards]
    assert found["guard/text_summary"] == [(event.step, event.info["action"]) for event in guards]


def test_a_switch_that_the_guard_undoes(folder):
    with sf.callbacks.TensorBoard(folder) as board:
        trained(board, epochs=50, ranks=[1, 1], guard=sf.Guard(0.0, "undo"), activation_aware=False)
    assert [text for _, text in read(folder)["phase/text_summary"]] == ["factored", "dense"]


def test_ranks_that_are_chosen_and_no_accuracy(folder):
    X, y = samples()
    net = sf.Network([6, 16, 14, 1], output="identity", seed=0)
    with sf.callbacks.TensorBoard(folder) as board:
        sf.train(net, X, y, epochs=3, factoring="auto", validation=(X, y), callbacks=[board])
    found = read(folder)
    assert len(found["val_loss"]) == 3 and "val_accuracy" not in found


def test_each_epoch_can_be_seen_soon(folder):
    """tensorboardX writes in a thread of its own: what must come, comes without a further event."""
    seen = []

    def look(event):
        board(event)
        deadline = time.monotonic() + 30
        while len(read(folder).get("val_accuracy", [])) < event.epoch and time.monotonic() < deadline:
            time.sleep(0.02)
        seen.append(len(read(folder)["val_accuracy"]))

    with sf.callbacks.TensorBoard(str(folder)) as board:
        trained(look, epochs=3, factoring=None)
    assert seen == [1, 2, 3]


class Boom(Exception):
    pass


def test_it_is_closed_whatever_happens(folder):
    with pytest.raises(Boom), sf.callbacks.TensorBoard(folder) as board:
        trained(board, epochs=1)
        raise Boom
    assert len(read(folder)["loss"]) == 1
    board.close()
    board.close()
    board.flush()
    with pytest.raises(ValueError, match="closed"):
        trained(board)
    sf.callbacks.TensorBoard(folder).close()  # and where nothing was written


def test_a_given_writer_is_flushed_and_left_open(folder):
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder))
    with sf.callbacks.TensorBoard(writer) as board:
        trained(board, epochs=2, factoring=None)
    writer.add_scalar("mine", 1.0, 7)
    writer.close()
    found = read(folder)
    assert len(found["loss"]) == 2 and found["mine"] == [(7, 1.0)]


class Writer:
    """What the callback asks of a writer."""

    def __init__(self):
        self.calls = []

    def add_scalar(self, name, value, step):
        self.calls.append(name)

    def add_text(self, name, text, step):
        self.calls.append(name)

    def flush(self):
        self.calls.append("flush")


def test_a_writer_is_flushed_after_each_epoch():
    writer = Writer()
    board = sf.callbacks.TensorBoard(writer)
    trained(board, epochs=2, factoring=None)
    assert writer.calls == 2 * ["loss", "learning_rate", "seconds", "val_loss", "val_accuracy", "flush"]
    board.flush()
    board.close()
    board.close()
    assert writer.calls[10:] == ["val_accuracy", "flush", "flush", "flush"]


def test_torchs_writer(folder):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    torchs = pytest.importorskip("torch.utils.tensorboard", reason="PyTorch is not installed")
    with torchs.SummaryWriter(str(folder)) as writer, sf.callbacks.TensorBoard(writer) as board:
        trained(board)
    found = read(folder)
    assert found["rank/layer_0"] == [(6, 3)] and len(found["loss"]) == 5
    assert found["phase/text_summary"] == [(6, "factored"), (20, "dense")]


@pytest.mark.parametrize("bad", [None, 3, object(), []])
def test_what_is_no_folder_and_no_writer(bad):
    with pytest.raises(TypeError, match="log_dir: expected a path or a SummaryWriter"):
        sf.callbacks.TensorBoard(bad)


def test_without_tensorboardx(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"svdfast\[tensorboard\]"):
        sf.callbacks.TensorBoard(tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []
