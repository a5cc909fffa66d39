# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the command `svdfast` on networks of images (--model) and of text: what is trained, printed and saved, and what is refused.

How well such a network learns is tested only as far as that it learns at all.
"""

import gzip
import io
import math
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import svdfast as sf
from svdfast.cli import texts
from svdfast.cli.main import main
from svdfast.data.text import decode, number, split

L = sf.layers

needs_signals = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
THREAD = ["--threads", "1"]
SMALL = [*THREAD, "--width", "24", "--steps", "16", "--batch-size", "8"]


def run(capsys, *argv):
    status = main([str(argument) for argument in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def done(capsys, *argv):
    status, out, err = run(capsys, *argv)
    assert (status, err) == (0, "")
    return out


def refused(capsys, *argv, status=2):
    got, out, err = run(capsys, *argv)
    assert (got, out) == (status, "")
    assert err.startswith("svdfast: error: ")
    return err.removeprefix("svdfast: error: ")


def cells(out, title):
    (line,) = [line for line in out.splitlines() if line.startswith(title)]
    return line.removeprefix(title).replace(" %", "").split()


@pytest.fixture
def play(folder):
    """A text of few words."""
    rng = np.random.default_rng(0)
    words = ["the", "cat", "sat", "on", "a", "mat"]
    text = "".join(" ".join(rng.choice(words, 6)) + ".\n" for _ in range(160))
    (folder / "play.txt").write_text(text, newline="")
    return text


# Images


@pytest.mark.parametrize("model", ["gru", "lstm", "rnn", "lenet5"])
def test_digits(model, folder, capsys):
    pytest.importorskip("sklearn")
    width = [] if model == "lenet5" else ["--width", "16"]
    settings = [*width, *THREAD, "--epochs", "4", "--learning-rate", "0.01", "--rank-fraction", "1/2", "--force", "--save", "n.npz"]
    out = done(capsys, "train", "digits", "--model", model, *settings)
    assert "8x8x1" in out if model == "lenet5" else "8 rows of 8 features as steps, a state of 16" in out
    assert "factored" in out
    net = sf.load("n.npz")
    data = sf.datasets.load("digits")
    last = L.Linear(10, "softmax")
    same = {
        "lenet5": lambda: sf.Network(sf.Input(8, 8, 1), [
            L.Conv2d(6, 5, "relu", padding="same"), L.MaxPool2d(2), L.Conv2d(16, 5, "relu", padding="same"), L.MaxPool2d(2),
            L.Flatten(), L.Linear(120, "relu"), L.Linear(84, "relu"), last]),
        "gru": lambda: sf.Network(sf.Input(8, 8), [L.GRU(16), last]),
        "lstm": lambda: sf.Network(sf.Input(8, 8), [L.LSTM(16), last]),
        "rnn": lambda: sf.Network(sf.Input(8, 8), [L.RNN(16), last]),
    }[model]()  # fmt: skip
    assert net.layout == same.layout
    step = sf.count_multiplications(same, "step").total
    assert cells(out, "multiplications a sample, step")[0] == f"{step:,}"
    accuracy = 100 * net.score(*data.test)
    assert accuracy > 30
    assert cells(out, "test accuracy")[2] == f"{accuracy:.2f}"

    predicted = [int(line) for line in done(capsys, "predict", "n.npz", "digits").split()]
    assert predicted == net.predict(data.test[0]).argmax(axis=1).tolist()
    assert f"accuracy     {accuracy:.2f} %" in done(capsys, "evaluate", "n.npz", "digits")
    assert "softmax" in done(capsys, "info", "n.npz")
    done(capsys, "compress", "n.npz", "--rank-fraction", "1/2", "--force", "--data", "digits")
    assert sf.load("n-compressed.npz").is_factored


def test_lenet5_of_large_images_is_lecuns(folder, capsys):
    rng = np.random.default_rng(0)
    np.savez("images.npz", X=rng.integers(0, 255, (40, 28, 28), dtype=np.uint8), y=np.arange(40) % 4)
    run(capsys, "train", "images.npz", "--model", "lenet5", *THREAD, "--epochs", "1", "--save", "n.npz")
    assert sf.load("n.npz").sizes == (784, 6, 16, 120, 84, 4)
    assert sf.load("n.npz").layers[2].n_in == 16 * 5 * 5


@pytest.mark.parametrize("model", ["gru", "lenet5"])
@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 3)])
def test_images_of_a_file_come_back_as_they_were(model, shape, folder, capsys):
    """What a saved network takes are the file's own numbers."""
    rng = np.random.default_rng(1)
    y = np.arange(80) % 2
    X = 100 * rng.normal(size=(80, *shape)) + 500 * y.reshape(-1, *(1 for _ in shape))
    np.savez("images.npz", X=X, y=np.where(y, 7, 3))
    width = [] if model == "lenet5" else ["--width", "16"]
    settings = [*width, *THREAD, "--epochs", "10", "--learning-rate", "0.01", "--save", "n.npz"]
    out = done(capsys, "train", "images.npz", "--model", model, *settings)
    assert "features divided by their root mean square, 36" in out
    assert cells(out, "test accuracy")[0] == "100.00"
    assert sf.load("n.npz").classes == (3, 7)
    channels = shape[2] if len(shape) == 3 else 1
    assert sf.load("n.npz").layout.input_shape == ((12, 10 * channels) if model == "gru" else (12, 10, channels))
    predicted = done(capsys, "predict", "n.npz", "images.npz").split()
    assert predicted == ["7" if each else "3" for each in y]


def test_numbers_of_images(folder, capsys):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(100, 6, 5))
    y = 1000 + 50 * X[:, -1].mean(axis=1)
    np.savez("images.npz", X=X, y=y)
    out = done(capsys, "train", "images.npz", "--model", "rnn", "--width", "16", *THREAD, "--epochs", "80", "--save", "n.npz")
    assert float(cells(out, "test R²")[0]) > 0.3
    predicted = np.array(done(capsys, "predict", "n.npz", "images.npz").split(), dtype=float)
    assert np.mean((predicted - y) ** 2) < 0.5 * np.var(y)


@pytest.mark.parametrize(("argv", "expected"), [
    (["digits", "--model", "gru", "--hidden", "10"], "--hidden: goes with fully connected networks, not with --model gru"),
    (["digits", "--model", "lenet5", "--width", "10"], "--width: goes with --model gru, lstm, rnn"),
    (["digits", "--width", "10"], "--width: goes with --model gru, lstm, rnn"),
    (["digits", "--model", "alexnet"], "argument --model: invalid choice: 'alexnet'"),
    (["xor", "--model", "gru"], "--model: goes with images, not with xor"),
    (["table.csv", "--model", "gru"], "--model: goes with images, not with a table such as 'table.csv'"),
    (["digits", "--model", "gru", "--width", "4", "--rank-fraction", "1/2", "--keep-dense", "3"],
     "--keep-dense: expected numbers from 1 to 2, got 3"),
    (["digits", "--steps", "10"], "--steps: goes with svdfast train text FILE"),
    (["digits", "--sample", "10"], "--sample: goes with svdfast train text FILE"),
    (["digits", "more.csv"], "unrecognized arguments: more.csv (a FILE goes after text alone)"),
])  # fmt: skip
def test_what_does_not_go_with_a_model(argv, expected, folder, capsys):
    (folder / "table.csv").write_text("a,b\n1,2\n")
    assert refused(capsys, "train", *argv).startswith(expected)


def test_a_file_that_has_no_images(folder, capsys):
    np.savez("rows.npz", X=np.ones((20, 8)), y=np.arange(20) % 2)
    message = refused(capsys, "train", "rows.npz", "--model", "gru", status=1)
    assert message.startswith("rows.npz: --model: expected images, X of shape (samples, height, width) or ")
    np.savez("thin.npz", X=np.random.default_rng(0).normal(size=(20, 3, 8)), y=np.arange(20) % 2)
    message = refused(capsys, "train", "thin.npz", "--model", "lenet5")
    assert message == "--model lenet5: expected images of at least 4x4, got 3x8x1 (height, width, channels)\n"


# Text


def test_text(play, capsys):
    out = done(capsys, "train", "text", "play.txt", *SMALL, "--epochs", "6", "--save", "n.npz")
    n = len(play)
    assert f"{n:,} characters, {len(set(play))} different ones; the last 10 % are the test set" in out
    data = sf.datasets.text("play.txt", steps=16)
    assert f"{len(data.train[0]):,} training and {len(data.test[0]):,} test windows, 16 steps" in out
    net = sf.load("n.npz")
    assert net.classes == data.classes == tuple(sorted(set(play)))
    n_out = len(data.classes)
    same = sf.Network(sf.Input(16), [L.Embedding(n_out, 64), L.LSTM(24, return_sequences=True), L.Linear(n_out, "softmax")])
    assert net.layout == same.layout
    bits = net.evaluate(*data.test).loss / math.log(2)
    assert cells(out, "test bits a character")[2] == f"{bits:.4f}"
    assert bits < 2.5  # of about 3.5 that the shares of the characters give
    assert out.count("\n    6  dense") == 2
    assert "accuracy" not in out

    written = out.partition("300 characters that the network writes:\n")[2][:300]
    assert len(written) == 300
    assert set(written) <= set(play)


def test_settings_of_text(play, capsys):
    argv = ["train", "text", "play.txt", *SMALL, "--epochs", "2", "--rank-fraction", "1/4", "--force", "--sample", "50"]
    for model in ("gru", "rnn"):
        out = done(capsys, *argv, "--model", model, "--no-compare", "--validation", "0.2", "--save", "n.safetensors")
        assert f"network {model}: 16 steps, characters as 64 numbers, a state of 24" in out
        assert "of the training samples held out for validation" in out
        assert "constant answer" in out
        assert sf.load("n.safetensors").classes == tuple(sorted(set(play)))
    outs = [done(capsys, *argv, "--seed", seed).partition("50 characters that the network writes:\n")[2] for seed in (1, 1, 2)]
    assert outs[0] == outs[1] != outs[2]
    assert "that the network writes" not in done(capsys, *argv, "--sample", "0")


def test_a_constant_answer_for_text(play, capsys):
    """Its loss is the entropy of the training part, measured on the test part."""
    out = done(capsys, "train", "text", "play.txt", *SMALL, "--epochs", "3", "--no-compare")
    data = sf.datasets.text("play.txt", steps=16)
    share = np.bincount(data.train[1].ravel(), minlength=data.n_classes) / data.train[1].size
    assert cells(out, "test bits a character")[1] == f"{-np.log2(share[data.test[1]]).mean():.4f}"


@pytest.mark.parametrize("packed", [False, True])
def test_the_file_after_options_packed_or_from_standard_input(packed, play, folder, capsys, monkeypatch):
    content = play.encode()
    if packed:
        content = gzip.compress(content)
    (folder / "text").write_bytes(content)
    out = done(capsys, "train", "text", "--epochs", "2", *SMALL, "text")
    assert out.startswith("text: ")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
    assert done(capsys, "train", "text", "-", "--epochs", "2", *SMALL).startswith("standard input: ")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
    assert done(capsys, "train", "--epochs", "2", "text", *SMALL, "-").startswith("standard input: ")


def test_saved_networks_of_text(play, folder, capsys):
    done(capsys, "train", "text", "play.txt", *SMALL, "--epochs", "4", "--save", "n.npz")
    net, text = sf.load("n.npz"), play[:100]
    (folder / "new.txt").write_text(text + "Q\u00e9", newline="", encoding="utf-8")
    out = done(capsys, "evaluate", "n.npz", "new.txt")
    tokens = [net.classes.index(c) for c in text]
    wanted = 0.0
    for start in range(0, 99, 16):
        window = np.zeros((1, 16), dtype=np.int32)
        part = tokens[start : start + 16]
        window[0, : len(part)] = part
        p = net.predict(window)[0]
        wanted -= sum(math.log2(p[i, token]) for i, token in enumerate(tokens[start + 1 : start + 17]))
    assert f"bits a character {wanted / 99:.4f}\n" in out
    assert "not seen in training, and left out: 2 characters" in out
    (folder / "between.txt").write_text(f"{text[:50]}Q{text[50:]}\u00e9", newline="", encoding="utf-8")
    between = done(capsys, "evaluate", "n.npz", "between.txt")
    assert between.replace("between.txt", "new.txt") == out

    status, written, err = run(capsys, "predict", "n.npz", "new.txt", "--sample", "40")
    assert status == 0 and "2 of the last characters" in err
    assert len(written) == 41
    assert run(capsys, "predict", "n.npz", "new.txt", "--sample", "40", "--seed", "1")[1] != written
    assert "classes '\\n', ' ', ., a, " in done(capsys, "info", "n.npz")
    done(capsys, "compress", "n.npz", "--rank-fraction", "1/2", "--force")
    for option in ("--proba", "--output=n.csv", "--precision=bfloat16", "--delimiter=,"):
        assert refused(capsys, "predict", "n.npz", "new.txt", option).startswith(option.partition("=")[0] + ": ")
    assert "at least two characters, got 1" in refused(capsys, "evaluate", "n.npz", _written(folder, "short", b"a"), status=1)
    assert "got none" in refused(capsys, "evaluate", "n.npz", _written(folder, "others", b"XXXX"), status=1)


def test_export_of_text(play, folder, capsys):
    pytest.importorskip("onnx")
    done(capsys, "train", "text", "play.txt", *SMALL, "--epochs", "2", "--save", "n.npz")
    out = done(capsys, "export", "n.npz", "n.onnx")
    assert "the classes '\\n', ' ', ., a, " in out


def test_sample_and_seed_go_with_text(folder, capsys):
    sf.save(sf.Network([2, 3], seed=0), "n.npz")
    for option in ("--sample", "--seed"):
        assert refused(capsys, "predict", "n.npz", "xor", option, "3").startswith(f"{option}: goes with a network of characters")


@pytest.mark.parametrize("command", [["predict"], ["evaluate"], ["compress", "--rank-fraction", "1/2", "--force", "--data"]])
def test_other_tokens_are_told_with_the_name_of_their_file(command, folder, capsys):
    sf.save(sf.Network(sf.Input(5), [L.Embedding(3, 8), L.GRU(16), L.Linear(2, "softmax")], seed=0), "n.npz")
    X = np.random.default_rng(0).integers(0, 3, (6, 5))
    X[2, 3] = 7
    np.savez("tokens.npz", X=X, y=[0, 1] * 3)
    name, *options = command
    message = refused(capsys, name, "n.npz", *options, "tokens.npz", status=1)
    assert message == "tokens.npz: X: expected tokens, whole numbers from 0 to 2, got 7 at 2, 3\n"


def _written(folder, name, content):
    (folder / name).write_bytes(content)
    return name


@pytest.mark.parametrize(("content", "expected"), [
    (b"", "expected text, got an empty file"),
    (b"\xef\xbb\xbf", "expected text, got an empty file"),
    (gzip.compress(b"", mtime=0), "expected text, got an empty file"),
    (b"a" * 500, "expected at least two different characters, got 'a' alone"),
    (b"ab" * 500, "expected at least 101 characters for a window of 100 steps in the test part, got 100 (--steps takes shorter windows)"),
    (b"abc\xff" * 500, "expected text in UTF-8, got 0xff at byte 3 (--encoding names another one, such as cp1252)"),
    (b"ab" * 500 + b"\xc3", "expected text in UTF-8, got 0xc3 at byte 1,000 (--encoding names another one, such as cp1252)"),
    (gzip.compress(b"abc\xff", mtime=0), "expected text in UTF-8, got 0xff at byte 3 of the unpacked file (--encoding names "),
    (gzip.compress(b"ab" * 500, mtime=0)[:-9], "damaged gzip file: "),
])  # fmt: skip
def test_files_that_are_no_text(content, expected, folder, capsys):
    message = refused(capsys, "train", "text", _written(folder, "file.txt", content), status=1)
    assert message.startswith(f"file.txt: {expected}")


def test_a_file_that_is_not_there(folder, capsys):
    assert refused(capsys, "train", "text", "none.txt", status=1) == "none.txt: No such file or directory\n"
    assert "directory" in refused(capsys, "train", "text", ".", status=1) or os.name != "posix"


@pytest.mark.parametrize(("argv", "expected"), [
    (["text"], "text: expected a FILE of text after it (a table of that name is ./text)"),
    (["text", "a", "b"], "unrecognized arguments: b"),
    (["text", "--epochs", "1", "a", "b"], "unrecognized arguments: b"),
    (["text", "--epoch", "1", "a"], "unrecognized arguments: --epoch"), (["text", "--epochs", "1", "-a"], "unrecognized arguments: -a"),
    (["text", "a", "--hidden", "10"], "--hidden: goes with fully connected networks, not with text"),
    (["text", "a", "--model", "lenet5"], "--model: expected one of gru, lstm, rnn for text, got lenet5"),
    (["text", "a", "--test", "b"], "--test: "), (["text", "a", "--task", "regression"], "--task: "),
    (["text", "a", "--no-standardise"], "--no-standardise: "), (["text", "a", "--target", "b"], "--target: "),
    (["text", "a", "--drop", "b"], "--drop: "), (["text", "a", "--categorical", "b"], "--categorical: "),
    (["text", "a", "--no-header"], "--header: "), (["text", "a", "--delimiter", ","], "--delimiter: "),
    (["text", "a", "--decimal", ","], "--decimal: "), (["text", "a", "--encoding", "klingon"], "--encoding: "),
    (["text", "a", "--width", "1000000000"], "--width: "),
])  # fmt: skip
def test_what_does_not_go_with_text(argv, expected, folder, capsys):
    _written(folder, "a", b"some text " * 200)
    assert refused(capsys, "train", *argv).startswith(expected)


def test_a_character_of_the_test_part_alone(folder, capsys):
    (folder / "a.txt").write_text("ab" * 450 + "ab\u00e9" * 33, encoding="utf-8")
    _, out, _ = run(capsys, "train", "text", "a.txt", *SMALL, "--epochs", "1", "--save", "n.npz")
    assert "in the test set alone: '\u00e9'" in out
    assert sf.load("n.npz").classes == ("a", "b", "\u00e9")


def test_odd_characters(folder, capsys):
    """Line ends stay, and a sample can't take over a terminal."""
    text = "\x1b[31m\0\r\n\U0001f600\u202e" * 60
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    _, out, err = run(capsys, "train", "text", "a.txt", *SMALL, "--epochs", "1", "--save", "n.npz")
    assert "\ufeff" not in sf.load("n.npz").classes and set(sf.load("n.npz").classes) == set(text)
    assert not set("\x1b\0\r\u202e") & set(out + err)
    assert not set("\x1b\0\r\u202e") & set(done(capsys, "info", "n.npz"))
    assert texts.shown("a\tb\r\nc\r\x1b") == "a\tb\nc\\r\\x1b"


def test_what_a_network_writes_follows_from_its_window():
    """The draws are those of the probabilities after the last characters, as many as there are steps."""
    net = sf.Network(sf.Input(4), [L.Embedding(3, 5), L.GRU(6, return_sequences=True), L.Linear(3, "softmax")], seed=0)
    written = texts.made_by(net, "abc", 9, seed=5, start=[1])
    tokens, rng = [1], np.random.default_rng(5)
    for _ in range(9):
        last = tokens[-4:]
        p = net.predict(np.array([last + [0] * (4 - len(last))]))[0, len(last) - 1].astype(np.float64)
        tokens.append(int(np.searchsorted(np.cumsum(p), rng.random() * p.sum(), side="right")))
    assert written == "".join("abc"[token] for token in tokens[1:])


@needs_signals
def test_an_interrupt_leaves_no_broken_file(play, folder):
    package = str(Path(sf.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", ""))))}
    (folder / "n.npz").write_bytes(b"as it was")
    argv = [sys.executable, "-P", "-m", "svdfast", "train", "text", "play.txt", *SMALL, "--epochs", "100000", "--save", "n.npz"]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "dense" in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "svdfast: interrupted\n"
    assert sorted(path.name for path in folder.iterdir()) == ["n.npz", "play.txt"]
    assert (folder / "n.npz").read_bytes() == b"as it was"


# The library


def test_windows_of_both_parts():
    tokens, characters = number("abcabcab")
    assert tokens.tolist() == [0, 1, 2, 0, 1, 2, 0, 1] and characters == ("a", "b", "c")
    (X, y), (X_test, y_test), characters = split("abcabcab" + "cbab", 3, 1 / 3)
    assert X.tolist() == [[0, 1, 2], [0, 1, 2]] and y.tolist() == [[1, 2, 0], [1, 2, 0]]
    assert X_test.tolist() == [[2, 1, 0]] and y_test.tolist() == [[1, 0, 1]]
    assert (X.dtype, y.dtype) == (np.int32, np.int64) and characters == ("a", "b", "c")


def test_characters_beyond_16_bits_and_marks():
    assert number("\U0001f600a\uffff")[1] == ("a", "\uffff", "\U0001f600")
    assert decode(b"\xef\xbb\xbfa\r\n") == "a\r\n"
    assert decode("\u00e9".encode("cp1252"), "cp1252") == "\u00e9"


@pytest.mark.parametrize(("settings", "error", "expected"), [
    ({"steps": 0}, ValueError, "steps: expected an integer ≥ 1|steps: expected an integer from 1"), ({"steps": 1.5}, TypeError, "steps: "),
    ({"test": 0}, ValueError, "test: expected a number above 0"), ({"test": 1.0}, ValueError, "test: expected .* below 1"),
    ({"test": "x"}, TypeError, "test: expected a number from 0 to 1, got str"), ({"test": True}, TypeError, "test: "),
    ({"encoding": "klingon"}, ValueError, "a.txt: encoding: expected one that Python knows, got 'klingon'"),
    ({"steps": 500}, ValueError, "a.txt: expected at least 501 characters"),
])  # fmt: skip
def test_datasets_text_names_what_is_wrong(settings, error, expected, folder):
    (folder / "a.txt").write_text("ab" * 300)
    with pytest.raises(error, match=expected):
        sf.datasets.text("a.txt", **{"steps": 10} | settings)
    with pytest.raises(FileNotFoundError):
        sf.datasets.text("none.txt")


# --- Any number of steps --------------------------------------------------------------------------------------------------------------


def test_saved_networks_that_take_any_number_of_steps(folder, capsys):
    rng = np.random.default_rng(0)
    net = sf.Network(sf.Input(None, 4), [sf.layers.GRU(8), sf.layers.Linear(3, "softmax")], seed=0)
    sf.save(net, "n.npz")
    for steps in (5, 2):
        X, y = rng.normal(size=(20, steps, 4)).astype("float32"), rng.integers(0, 3, 20)
        np.savez("data.npz", X=X, y=y)
        assert f"{100 * net.score(X, y):.2f} %" in done(capsys, "evaluate", "n.npz", "data.npz")
        assert done(capsys, "predict", "n.npz", "data.npz").split() == [str(i) for i in net.predict(X).argmax(axis=1)]
    np.savez("data.npz", X=X.reshape(20, -1)[:, :7], y=y)
    assert "X: expected 4 features" in refused(capsys, "predict", "n.npz", "data.npz", status=1)


def test_a_network_of_text_that_takes_any_number_of_steps(folder, capsys):
    text = "abcd\n" * 50
    Path("a.txt").write_text(text)
    layers = [sf.layers.Embedding(5, 4), sf.layers.GRU(16, return_sequences=True), sf.layers.Linear(5, "softmax")]
    net = sf.Network(sf.Input(None), layers, seed=0)
    characters = sorted(set(text))
    X, y = sf.sequences.streams([characters.index(c) for c in text], steps=10, batch_size=1)
    sf.train(net, X, y, epochs=60, batch_size=8, optimizer=sf.Adam(0.01))
    net.origin = type(net.origin)(classes=tuple(characters))
    sf.save(net, "n.npz")
    out = done(capsys, "evaluate", "n.npz", "a.txt")
    assert "250 characters of a.txt, in windows of 100" in out
    made = done(capsys, "predict", "n.npz", "a.txt", "--sample", "20")
    assert "abcd" in made
    assert done(capsys, "predict", "n.npz", "a.txt", "--sample", "20", "--seed", "0") == made
