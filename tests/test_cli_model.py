# SPDX-License-Identifier: BSD-3-Clause
"""Tests of `svdfast predict`, `evaluate`, `compress`, `export` and `info`: what they make of a saved network, their output and errors.

The files of networks themselves are tested in test_io.py, the arguments of `train` in test_cli.py.
"""

import csv
import errno
import io as text_io
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import svdfast as sf
from svdfast import datasets
from svdfast.cli import compress
from svdfast.cli.main import main
from svdfast.data.preparation import GAP, Categorical, Numeric, Preparation, Target
from svdfast.interop import files as io
from svdfast.model.origin import Origin

REASON = "safetensors is not installed"
COMMAND = [sys.executable, "-P", "-m", "svdfast"]
QUICK = ["--hidden", "16,16", "--epochs", "20", "--batch-size", "8", "--threads", "1"]


def environment():
    package = Path(sf.__file__).parents[1]
    paths = [str(package), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture
def call(capsys):
    """Runs a command that must succeed; its output and what it said beside it."""

    def run(*argv):
        status = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return captured.out, captured.err

    return run


@pytest.fixture
def complaint(capsys):
    """Runs a command that must fail; its one message."""

    def run(*argv, status):
        got = main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        assert (got, out) == (status, "")
        assert err.startswith("svdfast: error: ")
        lines = err.removesuffix("\n").splitlines()
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("Try 'svdfast "))
        return lines[0].removeprefix("svdfast: error: ")

    return run


def samples(n=40, n_in=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, n_in)).astype("float32")


def network(*sizes, **settings):
    net = sf.Network(sizes or (5, 16, 16, 3), seed=0, **settings)
    rng = np.random.default_rng(1)
    for layer in net.layers:
        layer.b[...] = 0.3 * rng.normal(size=layer.n_out)
    return net


def classes(n=60, n_features=5, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return rng.normal(size=(n, n_features)) + 3 * y[:, np.newaxis], y


def write_csv(path, *columns, header=""):
    np.savetxt(path, np.column_stack(columns), delimiter=",", header=header, comments="", fmt="%.17g")


def measure(out, name):
    """What `evaluate` prints of one measure."""
    return re.search(rf"^{re.escape(name)} +(.+?)(?: %)?$", out, re.M)[1]


def numbers(text):
    return np.loadtxt(text.splitlines(), delimiter=",", ndmin=2)


# Help


@pytest.mark.parametrize("command", ["predict", "evaluate", "compress", "export", "info"])
def test_help(command, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "104")
    out, err = call(command, "--help")
    assert err == ""
    assert out.startswith(f"usage: svdfast {command}")
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= 104
    assert "example" in out and "exit status:" in out


# predict: what is printed


@pytest.mark.parametrize("name", ["net.npz", "net.safetensors"])
def test_classes(name, folder, call):
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors", reason=REASON)
    net, X = network(), samples()
    sf.save(net, name)
    np.savez("data.npz", X=X)
    out, err = call("predict", name, "data.npz")
    assert err == ""
    assert out.splitlines() == [str(c) for c in net.predict(X).argmax(axis=1)]
    assert len(set(out.split())) > 1


@pytest.mark.parametrize("n_out", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_are_whole(n_out, dtype, folder, call):
    """Every digit that tells a number from the next one."""
    net, X = network(5, 16, n_out, output="identity", dtype=dtype), samples()
    net.layers[-1].W[...] *= 1e-7
    sf.save(net, "net.npz")
    np.savez("data.npz", X=X)
    out, _ = call("predict", "net.npz", "data.npz")
    np.testing.assert_array_equal(numbers(out).astype(dtype), net.predict(X))


@pytest.mark.parametrize("n_out", [1, 3])
def test_sigmoids(n_out, folder, call):
    net, X = network(5, 16, n_out, output="sigmoid"), samples()
    sf.save(net, "net.npz")
    np.savez("data.npz", X=X)
    expected = net.predict(X)
    out, _ = call("predict", "net.npz", "data.npz")
    assert out.splitlines() == [",".join("1" if p > 0.5 else "0" for p in row) for row in expected]
    assert len(set(out.split())) > 1
    out, _ = call("predict", "net.npz", "data.npz", "--proba")
    np.testing.assert_array_equal(numbers(out).astype("float32"), expected)


def test_probabilities(folder, call, complaint):
    net, X = network(), samples()
    sf.save(net, "net.npz")
    np.savez("data.npz", X=X)
    out, _ = call("predict", "net.npz", "data.npz", "--proba")
    np.testing.assert_array_equal(numbers(out).astype("float32"), net.predict(X))
    sf.save(network(5, 3, output="tanh"), "net.npz")
    message = complaint("predict", "net.npz", "data.npz", "--proba", status=2)
    assert message == "--proba: this network's output is tanh, which gives no probabilities"


@pytest.mark.parametrize("n", [1, 999, 1000, 1001])
def test_a_line_for_each_sample(n, folder, call):
    net, X = network(), samples(n)
    sf.save(net, "net.npz")
    np.savez("data.npz", X=X)
    out, _ = call("predict", "net.npz", "data.npz")
    assert out.count("\n") == n and out.endswith("\n")
    assert out.split() == [str(c) for c in net.predict(X).argmax(axis=1)]


def test_a_factored_network(folder, call):
    net, X = network(), samples()
    net.truncate(0.2, force=True)
    sf.save(net, "net.npz")
    np.savez("data.npz", X=X)
    assert call("predict", "net.npz", "data.npz")[0].split() == [str(c) for c in net.predict(X).argmax(axis=1)]


# predict: data


@pytest.mark.parametrize("header", ["", "a,b,c,d,e"])
def test_csv_with_targets_and_without(header, folder, call):
    net, X = network(), samples()
    sf.save(net, "net.npz")
    expected = [str(c) for c in net.predict(X).argmax(axis=1)]
    write_csv("data.csv", X, header=header)
    assert call("predict", "net.npz", "data.csv") == ("\n".join(expected) + "\n", "")
    y = net.predict(X).argmax(axis=1)
    y[:10] = (y[:10] + 1) % 3
    write_csv("data.csv", X, y, header=header and header + ",y")
    assert call("predict", "net.npz", "data.csv") == ("\n".join(expected) + "\n", "")
    assert measure(call("evaluate", "net.npz", "data.csv")[0], "accuracy") == "75.00"


def test_one_column(folder, call):
    net = network(1, 2, output="identity")
    sf.save(net, "net.npz")
    Path("data.csv").write_text("1.5\n-2\n")
    out, _ = call("predict", "net.npz", "data.csv")
    np.testing.assert_array_equal(numbers(out).astype("float32"), net.predict([[1.5], [-2]]))


@pytest.mark.parametrize("n_out", [1, 2])
def test_numbers_are_scored_as_by_the_network(n_out, folder, call):
    net, X = network(5, 16, n_out, output="identity"), samples()
    sf.save(net, "net.npz")
    y = net.predict(X) + samples(40, n_out, seed=3)
    write_csv("data.csv", X, y)
    out, _ = call("evaluate", "net.npz", "data.csv")
    assert out.startswith("40 samples of data.csv\n")
    table = [line.split() for line in out.splitlines()[2:]]
    assert np.mean([float(row[-3]) for row in table]) == pytest.approx(net.score(X, y), abs=1e-4)
    errors = y - net.predict(X)
    np.testing.assert_allclose([float(row[-2]) for row in table], abs(errors).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose([float(row[-1]) for row in table], np.sqrt((errors**2).mean(axis=0)), rtol=1e-5)
    np.savez("data.npz", X=X, y=y)
    assert call("evaluate", "net.npz", "data.npz")[0].splitlines()[1:] == out.splitlines()[1:]
    np.savez("data.npz", X=X, y=np.ones_like(y))
    assert call("evaluate", "net.npz", "data.npz")[0].count("undefined") == n_out


def test_several_sigmoids_are_scored_together(folder, call):
    net, X = network(5, 16, 3, output="sigmoid"), samples()
    sf.save(net, "net.npz")
    y = net.predict(X) > 0.5
    y[:10, 1] ^= True
    y[:5, 2] ^= True
    np.savez("data.npz", X=X, y=y)
    assert measure(call("evaluate", "net.npz", "data.npz")[0], "all right") == "75.00"
    assert net.score(X, y.astype("float32")) == 0.75


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4", "int8", "bool"])
def test_npz_of_other_types(dtype, folder, call):
    net = network(output="identity")
    sf.save(net, "net.npz")
    X = (3 * samples()).astype(dtype)
    np.savez("data.npz", X=X.reshape(40, 5, 1), X_test=np.zeros((2, 9)), y_test="x")
    out, _ = call("predict", "net.npz", "data.npz")
    np.testing.assert_array_equal(numbers(out).astype("float32"), net.predict(X))


def test_pixels_are_scaled(folder, call):
    net = network(output="identity", uint8_scale=0.1)
    sf.save(net, "net.npz")
    X = np.random.default_rng(0).integers(0, 256, (9, 5), dtype=np.uint8)
    np.savez("data.npz", X=X)
    out, _ = call("predict", "net.npz", "data.npz")
    np.testing.assert_array_equal(numbers(out).astype("float32"), net.predict(X))
    np.testing.assert_allclose(numbers(out), net.predict(X * 0.1), rtol=1e-4, atol=1e-5)


def test_a_named_set_is_its_test_set(folder, call):
    data = datasets.load("xor")
    net = network(2, 8, 1, output="sigmoid")
    sf.save(net, "net.npz")
    assert len(call("predict", "net.npz", "xor")[0].split()) == len(data.test[0])
    assert measure(call("evaluate", "net.npz", "xor")[0], "accuracy") == f"{100 * net.score(*data.test):.2f}"


def test_digits(folder, call):
    pytest.importorskip("sklearn", reason="digits are scikit-learn's")
    call("train", "digits", *QUICK[:2], "--epochs", "2", "--save", "net.npz")
    assert len(call("predict", "net.npz", "digits")[0].split()) == 360
    out, _ = call("evaluate", "net.npz", "digits")
    assert out.startswith("360 samples of digits\n")
    assert measure(out, "accuracy") == f"{100 * sf.load('net.npz').score(*datasets.load('digits').test):.2f}"


# predict: networks of svdfast train


@pytest.mark.parametrize("name", ["net.npz", "net.safetensors"])
def test_a_trained_network_takes_raw_numbers_and_gives_the_files_classes(name, folder, call):
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors", reason=REASON)
    X, y = classes()
    X = 50 + X * np.logspace(-2, 3, 5)
    write_csv("data.csv", X, 10 * y - 5)
    write_csv("new.csv", X)
    shown, _ = call("train", "data.csv", *QUICK, "--save", name)
    out, _ = call("predict", name, "data.csv")
    assert call("predict", name, "new.csv") == (out, "")
    predicted = np.array(out.split(), dtype=int)
    assert set(predicted) <= {-5, 5, 15} and len(set(predicted)) > 1
    # Its accuracy on all rows follows from those of the two parts.
    train, test = (float(re.search(rf"{part} accuracy +([\d.]+) %", shown)[1]) for part in ("train", "test"))
    accuracy = 100 * np.mean(predicted == 10 * y - 5)
    assert accuracy == pytest.approx((48 * train + 12 * test) / 60, abs=0.02)
    assert measure(call("evaluate", name, "data.csv")[0], "accuracy") == f"{accuracy:.2f}"


def test_two_classes_keep_their_names(folder, call):
    X, y = classes(n_classes=2)
    np.savez("data.npz", X=X, y=7 - 14 * y, X_test=X, y_test=7 - 14 * y)
    call("train", "data.npz", *QUICK, "--save", "net.npz")
    out, _ = call("predict", "net.npz", "data.npz")
    predicted = np.array(out.split(), dtype=int)
    assert set(predicted) == {-7, 7}
    assert measure(call("evaluate", "net.npz", "data.npz")[0], "accuracy") == f"{100 * np.mean(predicted == 7 - 14 * y):.2f}"


def test_large_class_numbers_are_exact(folder, call):
    X, y = classes(n_classes=2)
    y = np.array([2**62 + 1, 2**62 + 2])[y]
    np.savez("data.npz", X=X, y=y)
    call("train", "data.npz", *QUICK, "--save", "net.npz")
    assert set(call("predict", "net.npz", "data.npz")[0].split()) <= {str(2**62 + 1), str(2**62 + 2)}


@pytest.mark.parametrize("target", ["classes", "values"])
def test_numbers_that_vary_little_about_a_large_mean(target, folder, call):
    """Such as times: float32 could not tell them apart, so the network is saved as float64."""
    X, y = classes()
    X_raw = 1.7e9 + 100 * X
    y = 5 * y if target == "classes" else 1e6 + X[:, 0]
    np.savez("data.npz", X=X_raw, y=y, X_test=X_raw, y_test=y)
    out, _ = call("train", "data.npz", *QUICK, "--epochs", "40", "--save", "net.npz")
    assert "Saved as float64" in out
    assert sf.load("net.npz").dtype == np.float64
    shown = float(re.search(r"test (?:accuracy|R²) +(-?[\d.]+)", out)[1])
    out, _ = call("evaluate", "net.npz", "data.npz")
    told = float(measure(out, "accuracy") if target == "classes" else out.splitlines()[2].split()[0])
    assert told == pytest.approx(shown, abs=2e-3)
    assert told > (80 if target == "classes" else 0.8)


def test_numbers_of_common_size_stay_float32(folder, call):
    X, y = classes()
    np.savez("data.npz", X=100 + X, y=y)
    assert "float64" not in call("train", "data.npz", *QUICK, "--save", "net.npz")[0]
    assert sf.load("net.npz").dtype == np.float32


def test_a_class_that_training_did_not_see_is_a_mistake(folder, call):
    net, X = network(), samples()
    net.origin = Origin(classes=(4, 5, 6))
    io.save(net, "net.npz")
    y = 4 + net.predict(X).argmax(axis=1)
    y[:10] = 9
    np.savez("data.npz", X=X, y=y)
    out, _ = call("evaluate", "net.npz", "data.npz")
    assert measure(out, "accuracy") == "75.00"
    assert "not seen in training: 10 rows\n" in out
    assert re.search(r"^\(others\)(  +\d+){3}$", out, re.M)


# predict: tables by the names of their columns


COLUMNS = (Numeric("age", 38.0), Categorical("sex", ("f", "m")), Categorical("town", (GAP, "Ulm", "Århus, DK")))
PAY = Target("pay", ("high", 'low, "x"', "none\tyet"))


def of_table(*targets, columns=COLUMNS):
    """A network with the origin that svdfast train gives it."""
    targets = targets or (PAY,)
    preparation, classes = Preparation(columns, targets), targets[0].classes
    output = "identity" if classes is None else "sigmoid" if len(classes) == 2 else "softmax"
    net = network(len(preparation.feature_names), 200, len(classes) if output == "softmax" else len(targets), output=output)
    net.layers[0].W[:, 0] *= 0.02  # ages
    net.origin = Origin(preparation.classes, preparation.feature_names, preparation=preparation)
    return net


ROWS = [
    {"age": "3", "sex": "f", "town": "Ulm", "pay": "high"},
    {"age": "", "sex": "m", "town": "Århus, DK", "pay": 'low, "x"'},
    {"age": "?", "sex": "", "town": "", "pay": "none\tyet"},
    {"age": "80", "sex": "x", "town": "Bonn", "pay": "high"},
    {"age": "1e2", "sex": "m", "town": " Ulm ", "pay": "high"},
]


def write_rows(path, names, rows=ROWS, delimiter=",", encoding="utf-8"):
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(names)
        writer.writerows([row.get(name, "7") for name in names] for row in rows)


def expected_labels(net, rows=ROWS):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    outputs = net.predict(net.origin.preparation.features(pandas.DataFrame(rows)))
    return outputs, [net.classes[i] for i in outputs.argmax(axis=1)]


@pytest.mark.parametrize("names", [*itertools.permutations(["age", "sex", "town"]), ["zip", "town", "pay", "age", "sex", "who"]], ids=str)
def test_columns_are_found_by_their_names(names, folder, call):
    net = of_table()
    sf.save(net, "net.npz")
    write_rows("data.csv", names)
    outputs, labels = expected_labels(net)
    out, err = call("predict", "net.npz", "data.csv")
    assert [row for (row,) in csv.reader(text_io.StringIO(out))] == labels
    assert len(set(labels)) > 1
    assert ("svdfast: left out, as training had no such input: 'zip', 'who'\n" in err) == ("zip" in names)
    assert "svdfast: column 'age': 2 gaps filled with 38\n" in err
    out, _ = call("predict", "net.npz", "data.csv", "--proba")
    np.testing.assert_array_equal(numbers(out).astype("float32"), outputs)


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_missing_column_is_named(command, folder, complaint):
    pytest.importorskip("pandas", reason="pandas is not installed")
    sf.save(of_table(), "net.npz")
    write_rows("data.csv", ["town", "pay", "age"])
    message = complaint(command, "net.npz", "data.csv", status=1)
    assert message == "data.csv: expected column 'sex', as in training, got 'town', 'pay', 'age'"
    Path("data.csv").write_text("town,sex,age\nUlm,m,3\nUlm,m,three\n")
    message = complaint(command, "net.npz", "data.csv", status=1)
    if command == "predict":
        assert message == "data.csv: line 3, column 'age': expected a number, got 'three'"
    Path("data.csv").write_text("town,sex,age,pay\nUlm,m,3,high\n\nUlm,m,-1e99,high\n")
    message = complaint(command, "net.npz", "data.csv", status=1)
    assert message == "data.csv: line 4, column 'age': expected a number that float32 can hold, got -1e+99"


def test_labels_are_quoted_where_that_is_needed(folder, call):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    net = of_table()
    sf.save(net, "net.npz")
    write_rows("data.csv", ["age", "sex", "town"], ROWS * 20)
    _, labels = expected_labels(net, ROWS * 20)
    out, _ = call("predict", "net.npz", "data.csv")
    assert '"low, ""x"""\n' in out
    assert pandas.read_csv(text_io.StringIO(out), header=None)[0].tolist() == labels
    for name in ("p.csv", "p.npy", "p.npz"):
        call("predict", "net.npz", "data.csv", "--output", name)
    assert Path("p.csv").read_text() == out
    assert np.load("p.npy", allow_pickle=False).tolist() == labels
    assert np.load("p.npz", allow_pickle=False)["predictions"].tolist() == labels


@pytest.mark.parametrize("delimiter, encoding", [(";", "utf-8"), ("\t", "utf-16"), ("|", "latin-1")])
def test_a_line_for_each_row_of_text_files_of_all_kinds(delimiter, encoding, folder, call, monkeypatch):
    net = of_table()
    sf.save(net, "net.npz")
    write_rows("data.txt", ["age", "sex", "town"], delimiter=delimiter, encoding=encoding)
    more = ["--encoding", encoding] if encoding == "latin-1" else []
    out, _ = call("predict", "net.npz", "data.txt", *more)
    assert [row for (row,) in csv.reader(text_io.StringIO(out))] == expected_labels(net)[1]
    with open("data.txt", "rb") as file:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
        assert call("predict", "net.npz", "-", *more)[0] == out


def test_several_targets_of_two_classes(folder, call):
    pytest.importorskip("pandas", reason="pandas is not installed")
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    net = of_table(Target("pay", ("low", "high")), Target("own", (3, 4)))
    sf.save(net, "net.npz")
    rows = [row | {"pay": ("low", "high")[i % 2], "own": (4, 3, 3)[i % 3]} for i, row in enumerate(ROWS * 4)]
    write_rows("data.csv", ["own", "age", "pay", "sex", "town"], rows)
    outputs = expected_labels(net.copy(), rows)[0] if net.classes else net.predict(net.origin.preparation.features(frame_of(rows)))
    out, _ = call("predict", "net.npz", "data.csv")
    assert [line.split(",") for line in out.splitlines()] == [
        [("low", "high")[int(a > 0.5)], ("3", "4")[int(b > 0.5)]] for a, b in outputs
    ]
    out, _ = call("evaluate", "net.npz", "data.csv")
    for i, (name, truth) in enumerate((("pay", [r["pay"] == "high" for r in rows]), ("own", [r["own"] == 4 for r in rows]))):
        part = out.split(f"\n{name}\n")[1]
        assert measure(part, "accuracy") == f"{100 * np.mean((outputs[:, i] > 0.5) == truth):.2f}"
        assert measure(part, "ROC AUC") == f"{sklearn.roc_auc_score(truth, outputs[:, i]):.4f}"


def frame_of(rows):
    return pytest.importorskip("pandas").DataFrame(rows)


@pytest.mark.parametrize("names", [["b", "a", "c", "y"], ["y", "c", "b", "a", "more"], ["a", "b", "c"]], ids=str)
def test_a_network_that_knows_only_names_finds_them(names, folder, call, complaint):
    pytest.importorskip("pandas", reason="pandas is not installed")
    net, X = network(3, 8, 2), samples(20, 3)
    net.origin = Origin(classes=("no", "yes"), feature_names=("a", "b", "c"))
    sf.save(net, "net.npz")
    values = dict(zip("abc", X.T, strict=True))
    write_csv("data.csv", *(values.get(name, np.zeros(20)) for name in names), header=",".join(names))
    out, err = call("predict", "net.npz", "data.csv")
    assert out.split() == [("no", "yes")[i] for i in net.predict(X).argmax(axis=1)]
    assert ("left out, as the network has no such input: 'y', 'more'" in err) == ("more" in names)
    Path("data.csv").write_text("a,c,d\n1,2,3\n")
    assert complaint("predict", "net.npz", "data.csv", status=1) == "data.csv: expected columns 'a', 'b', 'c', got no 'b'"


def test_npy(folder, call, complaint):
    net, X = network(), samples()
    sf.save(net, "net.npz")
    np.save("data.npy", X)
    assert call("predict", "net.npz", "data.npy")[0].split() == [str(c) for c in net.predict(X).argmax(axis=1)]
    assert complaint("evaluate", "net.npz", "data.npy", status=1) == "data.npy: expected targets to compare with, got none"
    Path("data.npy").write_bytes(Path("data.npy").read_bytes()[:-3])
    assert complaint("predict", "net.npz", "data.npy", status=1).startswith("data.npy: not an .npy file of a plain array (")
    np.save("data.npy", X)
    size = Path("data.npy").stat().st_size
    Path("data.npy").write_bytes(Path("data.npy").read_bytes() + b"x")
    assert complaint("predict", "net.npz", "data.npy", status=1) == f"data.npy: damaged .npy file: expected {size} bytes, got {size + 1}"
    np.save("data.npy", X)  # NumPy reads such a header with a warning
    Path("data.npy").write_bytes(Path("data.npy").read_bytes().replace(b"'shape': (40, 5), ", b"'shape': (40L,5), "))
    assert call("predict", "net.npz", "data.npy")[0].split() == [str(c) for c in net.predict(X).argmax(axis=1)]
    np.save("data.npy", np.array([None]), allow_pickle=True)
    assert complaint("predict", "net.npz", "data.npy", status=1).startswith("data.npy: not an .npy file of a plain array (")


@pytest.mark.parametrize("names", [("X_test", "y_test"), ("x_test", "y_test"), ("x_train", "y_train"), ("x", "y")], ids="-".join)
def test_arrays_by_their_other_names(names, folder, call):
    net, X = network(), samples()
    sf.save(net, "net.npz")
    others = {"X_train": np.zeros((2, 5)), "y_train": np.zeros(2)} if "test" in names[0] else {}
    np.savez("data.npz", **{names[0]: X, names[1]: net.predict(X).argmax(axis=1)}, **others)
    assert call("predict", "net.npz", "data.npz")[0].split() == [str(c) for c in net.predict(X).argmax(axis=1)]
    assert measure(call("evaluate", "net.npz", "data.npz")[0], "accuracy") == "100.00"


# evaluate


def test_measures_of_classes_are_scikit_learns(folder, call):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    net, rows = of_table(), ROWS * 8
    sf.save(net, "net.npz")
    write_rows("data.csv", ["pay", "town", "age", "sex"], rows)
    outputs, labels = expected_labels(net, rows)
    truth = [row["pay"] for row in rows]
    out, _ = call("evaluate", "net.npz", "data.csv")
    p = outputs.astype("float64") / outputs.astype("float64").sum(axis=1, keepdims=True)
    numbered = [net.classes.index(label) for label in truth]
    assert measure(out, "accuracy") == f"{100 * metrics.accuracy_score(truth, labels):.2f}"
    assert measure(out, "log loss") == f"{metrics.log_loss(numbered, p):.4f}"
    assert measure(out, "ROC AUC") == f"{metrics.roc_auc_score(numbered, p, multi_class='ovr'):.4f}"
    matrix = [[int(cell) for cell in line.split()[-3:]] for line in out.splitlines()[-3:]]
    assert matrix == metrics.confusion_matrix(truth, labels, labels=list(net.classes)).tolist()
    write_rows("data.csv", ["pay", "town", "age", "sex"], [row for row in rows if row["pay"] != "high"])
    assert measure(call("evaluate", "net.npz", "data.csv")[0], "ROC AUC") == "undefined, as the data has no high"


def test_data_without_answers_cannot_be_evaluated(folder, complaint):
    pytest.importorskip("pandas", reason="pandas is not installed")
    sf.save(of_table(), "net.npz")
    write_rows("data.csv", ["town", "age", "sex"])
    message = complaint("evaluate", "net.npz", "data.csv", status=1)
    assert message == ("data.csv: expected column 'pay' to compare with, got none")
    write_rows("data.csv", ["town", "age", "sex", "pay"], [*ROWS, ROWS[0] | {"pay": ""}])
    assert complaint("evaluate", "net.npz", "data.csv", status=1) == "data.csv: line 7, column 'pay': expected a target, got none"


def test_evaluate_needs_scikit_learn(folder, complaint, monkeypatch):
    sf.save(network(), "net.npz")
    np.savez("data.npz", X=samples(), y=np.arange(40) % 3)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    message = complaint("evaluate", "net.npz", "data.npz", status=1)
    assert message == 'evaluate needs scikit-learn: pip install "svdfast[demo]"'


# info


def test_info_of_a_network(folder, call, complaint):
    net = of_table()
    net.truncate(ranks=[2])
    sf.save(net, "net.npz")
    out, err = call("info", "net.npz")
    assert err == ""
    lines = out.splitlines()
    forward, step = (sf.count_multiplications(net, mode) for mode in ("forward", "step"))
    assert lines[1].split() == ["6-200", "relu", "rank", "2", "612", str(forward.layers[0].multiplications),
                                f"{step.layers[0].multiplications:,}"]  # fmt: skip
    assert lines[3].split() == ["total", f"{len(net.parameters):,}", f"{forward.total:,}", f"{step.total:,}"]
    assert lines[4:] == [
        "6 features, 3 classes, float32", "target 'pay': classes high, low, \"x\", none\tyet",
        "6 features of 3 columns: age, sex, town",
    ]  # fmt: skip
    net = network(3, 8, 2)
    net.origin = Origin(classes=("no", "yes"), feature_names=("a", "b", "c"))
    sf.save(net, "net.npz")
    assert call("info", "net.npz")[0].splitlines()[4:] == [
        "3 features, 2 classes, float32", "classes no, yes", "features a, b, c"
    ]  # fmt: skip
    assert complaint("info", "none.npz", status=1) == "none.npz: No such file or directory"
    assert call("info")[0].startswith("processor")


# predict: to a file


@pytest.mark.parametrize("kind", ["classes", "probabilities", "number"])
def test_out(kind, folder, call):
    net = network(5, 16, 1, output="identity") if kind == "number" else network()
    sf.save(net, "net.npz")
    np.savez("data.npz", X=samples(), y=np.arange(40) % 3)
    more = ["--proba"] if kind == "probabilities" else []
    shown, told = call("predict", "net.npz", "data.npz", *more)
    for name in ("p.csv", "p.npy", "p.npz", "p.npy"):
        assert call("predict", "net.npz", "data.npz", *more, "--output", name) == ("", told)
    assert Path("p.csv").read_text() == shown
    array = np.load("p.npy")
    assert array.shape == ((40, 3) if kind == "probabilities" else (40,))
    assert array.dtype == (np.int64 if kind == "classes" else np.float32)
    np.testing.assert_array_equal(array.reshape(40, -1), numbers(shown).astype(array.dtype))
    with np.load("p.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["predictions"], array)
    assert sorted(os.listdir()) == ["data.npz", "net.npz", "p.csv", "p.npy", "p.npz"]


@pytest.mark.parametrize(
    "name, status, message",
    [
        ("p.txt", 2, "--output: expected a name that ends in .csv or .npz or .npy, got 'p.txt'"),
        ("none/p.csv", 1, "--output: none: No such file or directory"),
        ("folder.csv", 1, "--output: folder.csv is a folder"),
    ],
)
def test_an_out_that_could_not_be_written(name, status, message, folder, complaint, monkeypatch):
    Path("folder.csv").mkdir()
    monkeypatch.setattr(io, "load", lambda name: pytest.fail("checked too late"))
    assert complaint("predict", "net.npz", "data.csv", "--output", name, status=status) == message


@pytest.mark.parametrize("name", ["p.csv", "p.npy", "p.npz"])
def test_a_disk_that_fills_up(name, folder, complaint, monkeypatch):
    sf.save(network(), "net.npz")
    np.savez("data.npz", X=samples())

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    message = complaint("predict", "net.npz", "data.npz", "--output", name, status=1)
    assert message == f"--output: {name}: No space left on device"
    assert sorted(os.listdir()) == ["data.npz", "net.npz"]


# predict: settings


def test_precision_and_threads(folder, call, complaint, monkeypatch):
    net, X = network(output="identity"), samples()
    sf.save(net, "net.npz")
    np.savez("data.npz", X=X)
    seen = []
    original = sf.Network.predict
    monkeypatch.setattr(sf.Network, "predict", lambda self, X, **k: seen.append(k) or original(self, X, **k))
    out, _ = call("predict", "net.npz", "data.npz", "--precision", "bfloat16", "--threads", "2")
    assert seen == [{"precision": "bfloat16", "n_threads": 2}]
    rounded = net.predict(X, precision="bfloat16")
    np.testing.assert_array_equal(numbers(out).astype("float32"), rounded)
    assert (rounded != net.predict(X)).any()
    sf.save(network(dtype="float64"), "net.npz")
    message = complaint("predict", "net.npz", "data.npz", "--precision", "bfloat16", status=2)
    assert message == "--precision: goes with a float32 network, this one is float64"


# predict: in a pipe


def test_nothing_but_predictions_goes_to_standard_output(folder):
    net, X = network(), samples()
    sf.save(net, "net.npz")
    np.savez("data.npz", X=X, y=np.arange(40) % 3)
    done = subprocess.run(
        [*COMMAND, "predict", "net.npz", "data.npz"],
        env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.splitlines() == [str(c) for c in net.predict(X).argmax(axis=1)]
    assert done.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")
def test_a_reader_that_goes_away(folder):
    sf.save(network(), "net.npz")
    np.savez("data.npz", X=np.zeros((200_000, 5), "float32"))
    with subprocess.Popen(
        [*COMMAND, "predict", "net.npz", "data.npz"],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() in ("0\n", "1\n", "2\n")
            process.stdout.close()
            err = process.stderr.read()
            process.wait(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written(folder):
    sf.save(network(), "net.npz")
    np.savez("data.npz", X=samples())
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "predict", "net.npz", "data.npz"],
            env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"svdfast: error: standard output: {os.strerror(errno.ENOSPC)}\n"


# Errors of models and data


ALL = [["predict", "MODEL", "data.npz"], ["compress", "MODEL", "--rank-fraction", "1/4"], ["export", "MODEL", "net.onnx"]]


@pytest.mark.parametrize("argv", ALL, ids=lambda argv: argv[0])
@pytest.mark.parametrize(
    "name, message",
    [
        ("none.npz", "none.npz: No such file or directory"),
        ("data.npz", "'data.npz' is not a network file: its arrays are 'X', not header and parameters"),
        ("text.npz", "'text.npz' is not a network file: it is neither an .npz archive nor a safetensors file"),
        ("folder.npz", "'folder.npz' is not a network file: [Errno 21]"),
        ("cut.npz", "'cut.npz' is not a network file: "),
        (".", "'.' is not a network file: [Errno 21]"),
        ("", ": No such file or directory"),
    ],
)
def test_models_that_are_none(argv, name, message, folder, complaint):
    np.savez("data.npz", X=samples())
    Path("text.npz").write_text("1,2\n3,4\n")
    Path("folder.npz").mkdir()
    sf.save(network(), "cut.npz")
    Path("cut.npz").write_bytes(Path("cut.npz").read_bytes()[:-50])
    before = sorted(os.listdir())
    argv = [name if argument == "MODEL" else argument for argument in argv]
    assert complaint(*argv, status=1).startswith(message)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("argv", ALL, ids=lambda argv: argv[0])
def test_without_the_safetensors_package(argv, folder, complaint, monkeypatch):
    pytest.importorskip("safetensors", reason=REASON)
    sf.save(network(), "net.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    argv = ["net.safetensors" if argument == "MODEL" else argument for argument in argv]
    hint = 'safetensors files need a package: pip install "svdfast[safetensors]"'
    assert complaint(*argv, status=1) in (f"net.safetensors: {hint}", f"--output: {hint}")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"X": np.zeros((3, 4))}, "X: expected 5 features, as the network takes, got 4"),
        ({"z": np.zeros((3, 5))}, "expected array X, got no X (there: z)"),
        ({"X": np.zeros(5)}, "X: expected samples in rows, got shape (5,)"),
        ({"X": np.float64(3)}, "X: expected samples in rows, got shape ()"),
        ({"X": np.zeros((0, 5))}, "X: expected samples in rows, got shape (0, 5)"),
        ({"X": np.full((3, 5), "x")}, "X: expected real numbers of at most 64 bits, got dtype <U1"),
        ({"X": np.zeros((3, 5), np.clongdouble)}, "X: expected real numbers of at most 64 bits, got dtype complex256"),
        ({"X": np.array([[0] * 5, [np.nan] * 5])}, "X: expected finite numbers, got NaN or infinity in row 2 of 2"),
        ({"X": np.array([[0] * 5, [-np.inf] * 5])}, "X: expected finite numbers, got NaN or infinity in row 2 of 2"),
        ({"X": np.array([[0] * 5, [1e60] * 5])}, "row 2 of 2, column 1: expected a number that float32 can hold, got 1e+60"),
    ],
)
def test_npz_files_that_do_not_fit(arrays, message, folder, complaint):
    sf.save(network(), "net.npz")
    np.savez("data.npz", **arrays)
    assert complaint("predict", "net.npz", "data.npz", status=1) == f"data.npz: {message}"
    arrays.setdefault("y", np.zeros(arrays["X"].shape[:1]) if "X" in arrays else 0)
    np.savez("data.npz", **arrays)
    assert complaint("evaluate", "net.npz", "data.npz", status=1).startswith(f"data.npz: {message.split(' (there')[0]}")


@pytest.mark.parametrize(
    "y, message",
    [
        (np.zeros(2), "y: expected 3 targets, got shape (2,)"),
        (np.zeros((3, 3)), "y: expected 3 targets, got shape (3, 3)"),
        (np.zeros(3, complex), "y: expected real numbers of at most 64 bits, got dtype complex128"),
        ([0, np.nan, 1], "y: expected finite numbers, got NaN or infinity in row 2 of 3"),
    ],
)
def test_targets_that_do_not_fit_matter_only_to_evaluate(y, message, folder, call, complaint):
    sf.save(network(), "net.npz")
    np.savez("data.npz", X=np.zeros((3, 5)), y=y)
    assert complaint("evaluate", "net.npz", "data.npz", status=1) == f"data.npz: {message}"
    assert len(call("predict", "net.npz", "data.npz")[0].split()) == 3


def test_targets_of_several_outputs_have_their_shape(folder, complaint):
    sf.save(network(5, 2, output="identity"), "net.npz")
    for shape in ((3,), (3, 1), (3, 3), (2, 3)):
        np.savez("data.npz", X=np.zeros((3, 5)), y=np.zeros(shape))
        message = complaint("evaluate", "net.npz", "data.npz", status=1)
        assert message == f"data.npz: y: expected 3 targets of 2, got shape {shape}"


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "expected rows, got none"),
        ("1,2,3,4\n", "expected 5 columns, as the network takes, or 6 with targets, got 4"),
        ("1,2,3,4,5,6,7\n", "expected 5 columns, as the network takes, or 6 with targets, got 7"),
        ("1,2,3,4,5\n1,2,3,4,x\n", "line 2, column 'column 5': expected a number, got 'x'"),
        ("1,2,3,4,nan\n", "line 1, column 'column 5': expected a number, got none"),
        ("a,b,c,d,e\n1,2,3,4,5\n1,inf,3,4,5\n", "line 3, column 'b': expected a finite number, got infinity"),
        ("a,b,c,d,e\n1,2,3,4,5\n\n1,2,3,4\n", "line 4: expected 5 columns, as in line 1 (a, b, c, d, e), got 4"),
    ],
)
def test_csv_files_that_do_not_fit(content, message, folder, complaint):
    sf.save(network(), "net.npz")
    Path("data.csv").write_text(content)
    for argv in (["predict", "net.npz", "data.csv"], ["compress", "net.npz", "--rank-fraction", "1/4", "--data", "data.csv"]):
        assert complaint(*argv, status=1) == f"data.csv: {message}"
    assert sorted(os.listdir()) == ["data.csv", "net.npz"]


def test_data_that_is_not_there(folder, complaint):
    sf.save(network(), "net.npz")
    assert complaint("predict", "net.npz", "none.csv", status=1) == "none.csv: No such file or directory"
    assert complaint("predict", "net.npz", "data", status=2).startswith("expected one of digits, xor, ")
    assert complaint("predict", "net.npz", "xor", status=1) == "xor: X: expected 5 features, as the network takes, got 2"


def test_outputs_that_are_not_finite(folder, complaint):
    """They have no largest one."""
    net = network()
    net.layers[1].b[0] = np.nan
    sf.save(net, "net.npz")
    np.savez("data.npz", X=samples())
    assert complaint("predict", "net.npz", "data.npz", status=1) == (
        "data.npz: the network's outputs for row 1 of 40 are not finite"
    )


@pytest.mark.parametrize(
    "argv, message",
    [
        (["predict"], "the following arguments are required: MODEL, DATA"),
        (["predict", "net.npz"], "the following arguments are required: DATA"),
        (["predict", "net.npz", "xor", "--precision", "float16"], "argument --precision: invalid choice"),
        (["predict", "net.npz", "xor", "--threads", "0"], "argument --threads: expected an integer from 1 to 1024"),
        (["predict", "net.npz", "xor", "--prob"], "unrecognized arguments: --prob"),
        (["compress", "net.npz"], "one of the arguments --rank-fraction --ranks is required"),
        (["compress", "net.npz", "--rank-fraction", "2"], "argument --rank-fraction: expected a number above 0"),
        (["compress", "net.npz", "--ranks", "auto"], "argument --ranks: expected energy:E or budget:B; auto looks"),
        (["compress", "net.npz", "--ranks", "3"], "argument --ranks: expected energy:E or budget:B, got '3'"),
        (["compress", "net.npz", "--ranks", "energy:1", "--rank-fraction", "1"], "argument --rank-fraction: not allowed with"),
        (["compress", "net.npz", "--ranks", "budget:0.5", "--keep-dense", "1"], "--keep-dense: budget:B shares"),
        (["compress", "net.npz", "--rank-fraction", "1/4", "--keep-dense", "1,3"], "--keep-dense: expected numbers from 1 to 2"),
        (["compress", "net.npz", "--rank-fraction", "1/4", "--output", "net"], "--output: expected a name that ends in .npz or .safe"),
        (["compress", "net.npz", "--rank-fraction", "1/4", "--data", "x.what"], "expected one of digits, xor, "),
        (["export", "net.npz"], "the following arguments are required: FILE.onnx"),
        (["export", "net.npz", "net.npz"], "FILE.onnx: expected a name that ends in .onnx, got 'net.npz'"),
    ],
)
def test_wrong_arguments(argv, message, folder, complaint):
    sf.save(network(), "net.npz")
    assert complaint(*argv, status=2).startswith(message)
    assert os.listdir() == ["net.npz"]


def test_interrupt(folder, capsys, monkeypatch):
    def read(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(io, "load", read)
    assert main(["predict", "net.npz", "xor"]) == 130
    assert capsys.readouterr() == ("", "svdfast: interrupted\n")


# compress


def wide():
    """A network in which factors of low rank save something."""
    return network(20, 30, 24, 3)


def rows(out):
    """The table's cells by layer."""
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if re.match(r"\d+-\d+|total", line)}


@pytest.mark.parametrize("argv", [["--rank-fraction", "1/8", "--force"], ["--ranks", "energy:0.5"], ["--ranks", "budget:1/4"]])
def test_the_truncation_is_the_networks(argv, folder, call):
    net = wide()
    sf.save(net, "net.npz")
    content = Path("net.npz").read_bytes()
    out, err = call("compress", "net.npz", *argv)
    assert err == ""
    assert Path("net.npz").read_bytes() == content
    again = sf.load("net-compressed.npz")
    text = argv[1].replace("1/4", "0.25")
    net.truncate(0.125, force=True) if argv[0] == "--rank-fraction" else net.truncate(ranks=text)
    assert again.layout == net.layout and again.is_factored
    np.testing.assert_array_equal(again.parameters, net.parameters)
    assert f"The factored network is in net-compressed.npz: {len(net.parameters):,} parameters" in out


def test_the_table_holds_the_counts_and_the_energy(folder, call):
    net = wide()
    sf.save(net, "net.npz")
    table = rows(call("compress", "net.npz", "--rank-fraction", "1/8", "--force")[0])
    before = [sf.count_multiplications(net, mode) for mode in ("forward", "step")]
    weights = [layer.weight() for layer in net.layers]
    net.truncate(0.125, force=True)
    after = [sf.count_multiplications(net, mode) for mode in ("forward", "step")]
    for i, layer in enumerate(net.layers[:2]):
        s = np.linalg.svd(weights[i].astype("float64"), compute_uv=False)
        energy = 100 * (s[: layer.rank] ** 2).sum() / (s**2).sum()
        counts = [f"{count.layers[i].multiplications:,}" for pair in zip(before, after, strict=True) for count in pair]
        limit = sf.break_even_rank(layer.n_in, layer.n_out, first_layer=i == 0)
        assert table[f"{layer.n_in}-{layer.n_out}"] == [str(layer.rank), str(limit), f"{energy:.2f}", "%", *counts]
    assert table["24-3"] == ["dense", "72", "72", "216", "216"]
    assert table["total"] == [f"{count.total:,}" for pair in zip(before, after, strict=True) for count in pair]


def test_layers_that_are_kept_and_layers_that_are_left(folder, call, complaint):
    net = wide()
    sf.save(net, "net.npz")
    call("compress", "net.npz", "--rank-fraction", "1/8", "--keep-dense", "2", "--force")
    again = sf.load("net-compressed.npz")
    assert again.layout.ranks == (2, None, None)
    np.testing.assert_array_equal(again.layers[1].W, net.layers[1].W)
    out, _ = call("compress", "net.npz", "--rank-fraction", "0.5", "--output", "half.npz", "--force")
    assert sf.load("half.npz").layout.ranks == (10, 12, None)
    assert "is left" not in out
    left = (
        "layer 1 (20 to 30) is left as it is: a rank of 10 would be a bottleneck for its 20 inputs (--force truncates it)",
        "layer 2 (30 to 24) is left as it is: a rank of 12 would be a bottleneck for its 30 inputs (--force truncates it)",
    )
    message = complaint("compress", "net.npz", "--rank-fraction", "0.5", "--output", "none.npz", status=1)
    assert message == f"net.npz: no layer was truncated: {'; '.join(left)}"
    message = complaint("compress", "net.npz", "--ranks", "energy:0.99", "--output", "none.npz", status=1)
    assert re.search(r"; layer 2 .* rank \d+ would save no multiplications, the break-even rank is 13 \(--force truncates it\)$", message)
    message = complaint("compress", "net.npz", "--rank-fraction", "0.1", "--keep-dense", "1,2", "--output", "none.npz", status=1)
    assert message == "net.npz: no layer was truncated: --keep-dense leaves all out"
    assert not Path("none.npz").exists()
    sf.save(network(5, 3), "flat.npz")
    message = complaint("compress", "flat.npz", "--rank-fraction", "0.1", status=1)
    assert message == "flat.npz: the network has no hidden layer, and others are not truncated"


def test_a_factored_network_is_truncated_again(folder, call):
    net = wide()
    net.truncate(0.25, force=True)
    sf.save(net, "net.npz")
    call("compress", "net.npz", "--rank-fraction", "0.1", "--force")
    net.truncate(0.1, force=True)
    np.testing.assert_array_equal(sf.load("net-compressed.npz").parameters, net.parameters)


@pytest.mark.parametrize(
    "model, out, written",
    [
        ("net.npz", None, "net-compressed.npz"),
        ("net.npz", "net.npz", "net.npz"),
        ("net.npz", "sub/a.safetensors", "sub/a.safetensors"),
        ("net.safetensors", None, "net-compressed.safetensors"),
        ("sub/net.model", None, "sub/net-compressed.npz"),
    ],
)
def test_where_it_is_written(model, out, written, folder, call):
    if "safetensors" in model + written:
        pytest.importorskip("safetensors", reason=REASON)
    Path("sub").mkdir()
    suffix = ".safetensors" if model.endswith("tensors") else ".npz"
    origin = Origin(classes=(3, 2, 1), mean=(0.0,) * 20, deviation=(2.0,) * 20)
    net = wide()
    net.origin = origin
    io.save(net, f"first{suffix}")
    Path(f"first{suffix}").rename(model)
    for _ in range(2):  # what is there is replaced
        call("compress", model, "--rank-fraction", "1/8", "--force", *(["--output", out] if out else []))
    again = io.load(written)
    assert again.layout.ranks == (2, 3, None)
    assert again.origin == origin
    assert len(os.listdir()) + len(os.listdir("sub")) == (2 if written == model else 3)


def scaled(factor, offset):
    """A network of inputs of other scales that does the same as `wide`, and those inputs."""
    net, X = wide(), samples(300, 20)
    X[:, 3] = 0.5 * X[:, 7]
    net.layers[0].b[...] -= net.layers[0].W @ (offset / factor).astype("float32")
    net.layers[0].W[...] /= factor
    return net, (X * factor + offset).astype("float32")


@pytest.mark.parametrize("known", ["data", "origin"])
def test_the_features_scales_do_not_matter(known, folder, call):
    """Powers of two and an offset: the same cut, up to rounding."""
    rng = np.random.default_rng(5)
    outputs = []
    for factor, offset in ((np.ones(20), np.zeros(20)), (2.0 ** rng.integers(-9, 9, 20), rng.normal(size=20))):
        net, X = scaled(factor, offset)
        np.savez("data.npz", X=X)
        origin = Origin(mean=tuple(offset.tolist()), deviation=tuple(factor.tolist())) if known == "origin" else Origin()
        net.origin = origin
        io.save(net, "net.npz")
        call("compress", "net.npz", "--rank-fraction", "1/8", "--force", *(["--data", "data.npz"] if known == "data" else []))
        outputs.append(sf.load("net-compressed.npz").predict(X))
        assert abs(outputs[-1] - net.predict(X)).max() > 0.01  # it is truncated
    np.testing.assert_allclose(outputs[1], outputs[0], atol=2e-3)


def test_data_lets_the_outputs_change_less(folder, call):
    net, X = scaled(2.0 ** np.arange(-10, 10), np.full(20, 3.0))
    sf.save(net, "net.npz")
    np.savez("data.npz", X=X)
    call("compress", "net.npz", "--rank-fraction", "0.2", "--force", "--output", "plain.npz")
    out, _ = call("compress", "net.npz", "--rank-fraction", "0.2", "--force", "--data", "data.npz")
    outputs = net.predict(X)
    plain, aware = (
        np.linalg.norm(sf.load(name).predict(X) - outputs) / np.linalg.norm(outputs) for name in ("plain.npz", "net-compressed.npz")
    )
    assert aware < plain / 2
    assert "\non 300 samples of data.npz; its own outputs before stand for targets" in out


def test_a_first_layer_that_is_not_truncated_stays_to_the_last_digit(folder, call):
    net, X = scaled(3.0 ** np.arange(-10, 10), np.full(20, 3.0))
    for rank in (None, 4):
        net.truncate(ranks=[rank, None])
        sf.save(net, "net.npz")
        np.savez("data.npz", X=X)
        call("compress", "net.npz", "--rank-fraction", "0.2", "--force", "--data", "data.npz", "--keep-dense", "1")
        again = sf.load("net-compressed.npz")
        assert again.layout.ranks == (rank, 4, None)
        for part in ("b", "W") if rank is None else ("b", "W1", "W2"):
            np.testing.assert_array_equal(getattr(again.layers[0], part), getattr(net.layers[0], part))


def test_scores_before_and_after(folder, call):
    X, y = classes(n_features=20)
    write_csv("data.csv", X * np.logspace(-3, 3, 20), 10 * y - 5)
    call("train", "data.csv", *QUICK, "--save", "net.npz")
    out, _ = call("compress", "net.npz", "--rank-fraction", "1/8", "--force", "--data", "data.csv")
    assert "\non 60 samples of data.csv\n" in out
    loss, accuracy = (next(line.split() for line in out.splitlines() if line.startswith(name)) for name in ("loss", "accuracy"))
    for i, name in enumerate(("net.npz", "net-compressed.npz")):
        assert float(loss[1 + i]) == pytest.approx(sf.load(name).evaluate(X * np.logspace(-3, 3, 20), y).loss, rel=1e-3)
        assert accuracy[1 + 2 * i] == measure(call("evaluate", name, "data.csv")[0], "accuracy")


def test_pixels_are_truncated_as_in_training(folder, call):
    net = wide()
    sf.save(net, "net.npz")
    X = np.random.default_rng(0).integers(0, 256, (50, 20), dtype=np.uint8)
    np.savez("data.npz", X=X)
    call("compress", "net.npz", "--rank-fraction", "1/8", "--force", "--data", "data.npz")
    net.truncate(0.125, inputs=X, force=True)
    np.testing.assert_array_equal(sf.load("net-compressed.npz").parameters, net.parameters)


def test_no_more_rows_than_needed(folder, call, monkeypatch):
    """From all over the data."""
    net = wide()
    sf.save(net, "net.npz")
    X = np.random.default_rng(0).integers(0, 256, (50, 20), dtype=np.uint8)
    np.savez("data.npz", X=X)
    monkeypatch.setattr(compress, "_MOST_ROWS", 5)
    call("compress", "net.npz", "--rank-fraction", "1/8", "--force", "--data", "data.npz")
    net.truncate(0.125, inputs=X[::10], force=True)
    np.testing.assert_array_equal(sf.load("net-compressed.npz").parameters, net.parameters)


def test_a_named_set_is_truncated_by_its_training_samples(folder, call):
    pytest.importorskip("sklearn", reason="digits are scikit-learn's")
    sf.save(network(64, 40, 40, 10), "net.npz")
    out, _ = call("compress", "net.npz", "--rank-fraction", "1/8", "--force", "--data", "digits")
    assert "\non 360 samples of digits\n" in out
    data = datasets.load("digits")
    np.savez("data.npz", X=data.train[0])
    call("compress", "net.npz", "--rank-fraction", "1/8", "--force", "--data", "data.npz", "--output", "other.npz")
    np.testing.assert_array_equal(sf.load("other.npz").parameters, sf.load("net-compressed.npz").parameters)
    shown = re.search(r"^accuracy +(\S+) % +(\S+) %$", out, re.M).groups()
    assert shown == tuple(f"{100 * sf.load(name).score(*data.test):.2f}" for name in ("net.npz", "net-compressed.npz"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_cannot_be_truncated(value, folder, complaint):
    net = wide()
    net.layers[1].W[0, 0] = value
    sf.save(net, "net.npz")
    message = complaint("compress", "net.npz", "--rank-fraction", "1/8", "--force", status=1)
    assert message.startswith("net.npz: layer 1: expected a finite weight, got NaN or infinity")
    assert os.listdir() == ["net.npz"]


def test_a_compressed_file_that_cannot_be_written(folder, complaint, monkeypatch):
    sf.save(wide(), "net.npz")

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    message = complaint("compress", "net.npz", "--rank-fraction", "1/8", "--force", "--output", "net.npz", status=1)
    assert message == "--output: net.npz: No space left on device"
    assert os.listdir() == ["net.npz"]
    assert not sf.load("net.npz").is_factored


def test_the_file_is_written_even_if_nobody_reads_the_table(folder):
    sf.save(wide(), "net.npz")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        done = subprocess.run(
            [*COMMAND, "compress", "net.npz", "--rank-fraction", "1/8", "--force"],
            env=environment(), stdout=out, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, "")
    assert sf.load("net-compressed.npz").is_factored


@pytest.fixture
def thirteen(folder):
    """Numbers that 13 inputs make, and a network that has learned them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 13)).astype("float32")
    y = np.tanh(X @ rng.normal(size=(13, 4))).sum(axis=1)
    net = sf.Network([13, 128, 128, 1], output="identity", seed=0)
    sf.train(net, X, y, epochs=30, batch_size=50, factoring=None, seed=0, reproducible=True)
    sf.save(net, "net.npz")
    np.savez("data.npz", X=X, y=y)
    np.savez("alone.npz", X=X)
    return net, X, y


def test_a_fraction_makes_no_bottleneck(thirteen, call):
    out, _ = call("compress", "net.npz", "--rank-fraction", "1/8")
    again = sf.load("net-compressed.npz")
    assert again.layout.ranks == (None, 16, None)
    assert "layer 1 (13 to 128) is left as it is: a rank of 1 would be a bottleneck for its 13 inputs (--force truncates it)\n" in out
    np.testing.assert_array_equal(again.layers[0].W, thirteen[0].layers[0].W)


@pytest.mark.parametrize("data", ["data.npz", "alone.npz"])
def test_a_truncation_that_ruins_the_network_needs_force(data, thirteen, call, complaint):
    net, X, y = thirteen
    ruin = ["compress", "net.npz", "--ranks", "budget:0.001", "--data", data]
    message = complaint(*ruin, status=1)
    start = r"net.npz: the truncation loses \d\d+% of what the network has learned: loss "
    assert re.match(rf"{start}\S+ before and \S+ after, R\^2 ", message) or (
        data == "alone.npz" and re.match(start, message)
    )
    assert not Path("net-compressed.npz").exists()
    out, _ = call(*ruin, "--force")
    assert sf.load("net-compressed.npz").layout.ranks == (1, 1, None)
    shown = re.search(r"^loss +(\S+) +(\S+)$", out, re.M).groups()
    answers = y if data == "data.npz" else net.predict(X)
    losses = [sf.load(name).evaluate(X, answers).loss for name in ("net.npz", "net-compressed.npz")]
    assert [float(value) for value in shown] == pytest.approx(losses, rel=1e-3, abs=1e-6)
    lost = (losses[1] - losses[0]) / (np.var(answers) - losses[0])
    assert lost > 0.5
    assert float(re.search(r"^lost (\S+)% of what", out, re.M)[1]) == pytest.approx(100 * lost, abs=0.2)


def test_a_truncation_that_loses_little_is_written(thirteen, call):
    out, _ = call("compress", "net.npz", "--rank-fraction", "1/4", "--data", "data.npz")
    assert float(re.search(r"^lost (\S+)% of what", out, re.M)[1]) < 20
    assert sf.load("net-compressed.npz").layout.ranks == (None, 32, None)


def test_a_truncation_that_gives_numbers_out_of_range_is_ruin(thirteen, complaint, monkeypatch):
    """NaN is no loss that is small."""
    evaluate = sf.Network.evaluate
    monkeypatch.setattr(
        sf.Network, "evaluate",
        lambda self, *a: evaluate(self, *a) if not self.is_factored else SimpleNamespace(loss=np.nan),
    )  # fmt: skip
    assert "loses nan% of what" in complaint("compress", "net.npz", "--rank-fraction", "1/4", "--data", "data.npz", status=1)


def test_classes_that_training_did_not_see_are_not_in_the_loss(folder, call, complaint):
    pytest.importorskip("pandas", reason="pandas is not installed")
    sf.save(of_table(), "net.npz")
    write_rows("data.csv", ["age", "sex", "town", "pay"], ROWS * 4 + [ROWS[0] | {"pay": "huge"}])
    out, err = call("compress", "net.npz", "--ranks", "energy:0.4", "--data", "data.csv", "--force")
    assert "\non 20 samples of data.csv\n" in out
    assert "svdfast: left out, as training did not see their classes: 1 of 21 rows\n" in err
    write_rows("data.csv", ["age", "sex", "town", "pay"], [ROWS[0] | {"pay": "huge"}] * 3)
    message = complaint("compress", "net.npz", "--ranks", "energy:0.4", "--data", "data.csv", status=1)
    assert message == "data.csv: expected targets that the network tells apart, got others in all rows"


# train --save


def test_a_missing_package_is_told_before_the_work(folder, complaint, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setattr(datasets, "load", lambda name: pytest.fail("checked too late"))
    message = complaint("train", "xor", "--save", "net.safetensors", status=1)
    assert message == '--save: safetensors files need a package: pip install "svdfast[safetensors]"'
    assert os.listdir() == []


# networks of other layers


def test_networks_of_images_and_sequences(folder, call, complaint):
    pytest.importorskip("sklearn", reason=REASON)
    from svdfast import layers as L

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 6, 5, 2)).astype("float32"), rng.integers(0, 3, 40)
    np.savez("data.npz", X=X, y=y)
    images = [L.Conv2d(12, 3, "relu", padding="same"), L.Conv2d(16, 3, "relu"), L.Flatten(), L.Linear(3, "softmax")]
    sequences = [L.GRU(24), L.Linear(3, "softmax")]
    for net in (sf.Network(sf.Input(6, 5, 2), images, seed=0), sf.Network(sf.Input(6, 10), sequences, seed=0)):
        sf.save(net, "net.npz")
        expected = net.predict(X.reshape(40, 60)).argmax(axis=1)
        assert call("predict", "net.npz", "data.npz")[0].split() == [str(label) for label in expected]
        assert f"accuracy     {100 * (expected == y).mean():.2f} %" in call("evaluate", "net.npz", "data.npz")[0]
        call("compress", "net.npz", "--rank-fraction", "1/2", "--data", "data.npz", "--force")
        assert sf.load("net-compressed.npz").is_factored
    net = sf.Network(sf.Input(6, 10), [L.GRU(4, return_sequences=True), L.Linear(3, "softmax")], seed=0)
    sf.save(net, "net.npz")
    for command in ("predict", "evaluate"):
        told = complaint(command, "net.npz", "data.npz", status=1)
        assert told == "net.npz: expected a network with one output for a sample, got one with an output for each of 6 steps"


# export


def test_export_calls_the_network(folder, call, monkeypatch):
    net = wide()
    net.origin = Origin(classes=(7, -1, 3))
    io.save(net, "net.npz")
    seen = []
    monkeypatch.setattr(sf.onnx, "save", lambda net, path, *, preparation: seen.append((net, path, preparation)))
    out, err = call("export", "net.npz", "net.onnx")
    assert err == ""
    assert out == "The network is in net.onnx.\nIts outputs are of the classes 7, -1, 3, in this order.\n"
    ((exported, path, preparation),) = seen
    assert (path, preparation) == (Path("net.onnx"), False)
    np.testing.assert_array_equal(exported.parameters, net.parameters)


@pytest.mark.parametrize(
    "error, message",
    [
        (ImportError('this needs onnx: pip install "svdfast[onnx]"'), 'this needs onnx: pip install "svdfast[onnx]"'),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (ValueError("too large"), "too large"),
    ],
)
def test_an_export_that_fails(error, message, folder, complaint, monkeypatch):
    def export(net, path, *, preparation):
        raise error

    sf.save(wide(), "net.npz")
    monkeypatch.setattr(sf.onnx, "save", export)
    assert complaint("export", "net.npz", "net.onnx", status=1) == f"net.onnx: {message}"


@pytest.mark.parametrize("name", ["none/net.onnx", "folder.onnx"])
def test_an_export_that_could_not_be_written(name, folder, complaint, monkeypatch):
    Path("folder.onnx").mkdir()
    monkeypatch.setattr(io, "load", lambda name: pytest.fail("checked too late"))
    assert complaint("export", "net.npz", name, status=1).startswith("FILE.onnx: ")


def test_a_preparation_that_is_not_there_is_not_exported(folder, complaint):
    sf.save(wide(), "net.npz")
    message = complaint("export", "net.npz", "net.onnx", "--with-preparation", status=1)
    assert message == "net.npz: --with-preparation: svdfast train did not save it from a table"
    assert os.listdir() == ["net.npz"]


def test_the_exported_preparation_predicts_the_same(folder, call):
    pytest.importorskip("onnx", reason="onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    net = of_table()
    sf.save(net, "net.npz")
    write_rows("data.csv", ["town", "sex", "age"], ROWS * 3)
    call("export", "net.npz", "net.onnx", "--with-preparation")
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    ages = [float("nan" if row["age"] in ("", "?") else row["age"]) for row in ROWS * 3]
    inputs = {"age": np.array(ages, "float32")[:, np.newaxis]}
    inputs |= {name: np.array([[row[name].strip()] for row in ROWS * 3], object) for name in ("sex", "town")}
    labels, outputs = session.run(None, inputs)
    printed, _ = call("predict", "net.npz", "data.csv")
    assert labels.tolist() == [row for (row,) in csv.reader(text_io.StringIO(printed))]
    printed, _ = call("predict", "net.npz", "data.csv", "--proba")
    np.testing.assert_allclose(outputs, numbers(printed), rtol=1e-4, atol=1e-6)


def test_the_exported_file_predicts_the_same(folder, call):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx.reference import ReferenceEvaluator

    net, X = wide(), samples(7, 20)
    net.truncate(0.125, force=True)
    sf.save(net, "net.npz")
    call("export", "net.npz", "net.onnx")
    model = ReferenceEvaluator(onnx.load("net.onnx"))
    (outputs,) = model.run(None, {model.input_names[0]: X})
    np.testing.assert_allclose(outputs, net.predict(X), rtol=1e-4, atol=1e-5)
