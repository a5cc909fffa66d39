# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the command `svdfast`: its data sources, settings, output, errors and exit codes.

How well and how fast a network trains is not tested here; most runs are of a few steps.
"""

import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

import svdfast as sf
from svdfast import datasets
from svdfast.cli import comparison as cli_comparison
from svdfast.cli import data as cli_data
from svdfast.cli.main import main
from svdfast.cli.turns import in_turns
from svdfast.training import auto

DATA = os.environ.get("SVDFAST_DATA", "")
QUICK = ["--hidden", "16,16", "--epochs", "2", "--threads", "1"]

needs_data = pytest.mark.skipif(not DATA, reason="SVDFAST_DATA does not name a folder of data sets")
needs_signals = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and pipes")


def environment():
    """That of this process, with the package found from any folder."""
    package = Path(sf.__file__).parents[1]
    paths = [str(package), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


COMMAND = [sys.executable, "-P", "-m", "svdfast"]


def run(argv, capsys):
    status = main([str(argument) for argument in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def train(capsys, *argv):
    """The output of a training that must succeed, without a word on stderr but that a few steps taught less than nothing."""
    status, out, err = run(["train", *argv], capsys)
    worse = status == 1 and err.startswith("svdfast: error: the network is worse on the test samples than a constant answer: ")
    assert worse or (status, err) == (0, "")
    return out


def complaint(capsys, *argv, status):
    """The message of a run that must fail, and not a traceback."""
    got, _, err = run(argv, capsys)
    assert got == status
    assert err.startswith("svdfast: error: ")
    return err.removeprefix("svdfast: error: ")


def cells(out, title):
    """The cells of a row of the table at the end."""
    (line,) = [line for line in out.splitlines() if line.startswith(title)]
    return line.removeprefix(title).replace(" %", "").split()


def epoch_phases(out):
    return re.findall(r"^ +\d+  (dense|factored) ", out, re.MULTILINE)


def classes(n=60, n_features=5, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return rng.normal(size=(n, n_features)) + 3 * y[:, np.newaxis], y


def write_csv(path, X, y, header=""):
    np.savetxt(
        path, np.column_stack([X, y]), delimiter=",", header=header, comments="", fmt="%.9g"
    )


# The whole command


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["info", "--help"]])
def test_help(argv, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    status, out, err = run(argv, capsys)
    assert (status, err) == (0, "")
    assert out.startswith("usage: svdfast")
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= 100


def test_help_tells_the_defaults(capsys):
    out = run(["train", "--help"], capsys)[1]
    for name, defaults in cli_data.DEFAULTS.items():
        hidden = ",".join(map(str, defaults.hidden))
        row = [name, hidden, str(defaults.epochs), str(defaults.batch_size)]
        assert [*row, f"{defaults.learning_rate:g}"] in [line.split() for line in out.splitlines()]


def test_names_are_those_of_datasets():
    assert set(cli_data.DEFAULTS) == set(datasets.NAMES)


def test_version(capsys):
    assert run(["--version"], capsys) == (0, f"svdfast {sf.__version__}\n", "")


def test_info(capsys):
    status, out, err = run(["info"], capsys)
    assert (status, err) == (0, "")
    assert "instruction_set" in out and f"numpy {np.__version__}" in out


def test_from_a_shell(tmp_path):
    done = subprocess.run(
        [*COMMAND, "train", "xor", "--epochs", "30", "--threads", "1", "--save", "net.npz"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "test accuracy" in done.stdout
    assert sf.load(tmp_path / "net.npz").sizes == (2, 20, 20, 1)


def test_a_failure_from_a_shell(tmp_path):
    done = subprocess.run(
        [*COMMAND, "train", "none.csv"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "svdfast: error: none.csv: No such file or directory\n"


@needs_signals
def test_interrupt_leaves_no_file(tmp_path):
    with subprocess.Popen(
        [*COMMAND, "train", "xor", "--epochs", "9999999", "--threads", "1", "--save", "net.npz"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            for line in process.stdout:
                if line.split()[:2] == ["1", "dense"]:
                    break
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (130, "svdfast: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@needs_signals
def test_a_reader_that_goes_away(tmp_path):
    with subprocess.Popen(
        [*COMMAND, "train", "xor", "--threads", "1"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            process.stdout.readline()
            process.stdout.close()
            err = process.stderr.read()
            process.wait(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "info"],
            cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=120,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"svdfast: error: standard output: {os.strerror(errno.ENOSPC)}\n"


# What is printed


def test_digits_are_the_default(capsys):
    pytest.importorskip("sklearn", reason="digits are scikit-learn's")
    out = train(
        capsys, "--epochs", "4", "--hidden", "256,256", "--rank-fraction", "1/8",
        "--pretrain-fraction", "1/4", "--threads", "2",
    )  # fmt: skip
    assert out.startswith("digits: 1,437 training and 360 test samples, 64 features, 10 classes\n")
    assert "network 64-256-256-10, relu and softmax, float32" in out
    assert "SVD of layer 2 (256 to 256) to rank 32" in out
    assert "step 12: layer 1 (64 to 256) stays dense, as a rank of 8 would be a bottleneck for its 64 inputs (--force" in out
    assert epoch_phases(out) == ["dense"] * 3 + ["factored", "dense"] * 2 + ["factored"]
    dense, factored, recomposed = map(float, cells(out, "test accuracy"))
    assert dense > 70 and factored > 70
    assert recomposed == pytest.approx(factored, abs=0.5)


def test_xor_is_the_reports(capsys):
    out = train(capsys, "xor", "--threads", "1", "--rank-fraction", "1/2")
    assert "network 2-20-20-1, relu and sigmoid" in out
    assert "800 epochs, batches of 4, adam, learning rate 0.01" in out
    assert "layer 1 (2 to 20) stays dense, as a rank of 1 would be a bottleneck for its 2 inputs" in out
    assert "layer 2 (20 to 20) stays dense, as a rank of 10 would be a bottleneck for its 20 inputs" in out
    assert "No layer was factored" in out
    assert len(epoch_phases(out)) == 2 * 21
    assert cells(out, "test accuracy")[0] == "100.00"
    out = train(capsys, "xor", "--threads", "1", "--rank-fraction", "1/2", "--force", "--epochs", "40")
    assert "SVD of layer 1 (2 to 20) to rank 1, layer 2 (20 to 20) to rank 10" in out


# As wide as that a look is worth its time.
LOOKS = ["digits", "--hidden", "256,256", "--batch-size", "32", "--threads", "1"]


def test_layers_are_looked_at_unless_ranks_are_given(capsys, monkeypatch):
    monkeypatch.setattr(auto, "FASTER", np.inf)  # another's work must not take the truncation back
    out = train(capsys, *LOOKS, "--epochs", "60")
    assert out.count("layer 1 (64 to 256) stays dense, as factors would save too little time") == 1
    (told,) = re.findall(r"step \d+: layer 2 \(256 to 256\) gets rank \d+, which saves \d+% of a step, as .*\n", out)
    rank = re.search(r"rank (\d+)", told)[1]
    assert f"SVD of layer 2 (256 to 256) to rank {rank}" in out
    assert "factored" in epoch_phases(out)
    net = sf.Network([64, 256, 256, 10], seed=0)
    net.truncate(ranks=[None, int(rank)])
    count = sf.count_multiplications(net, "step")
    assert cells(out, "multiplications a sample, step") == [f"{count.dense_total:,}", f"{count.total:,}", f"{count.ratio:.2f}"]
    assert told in train(capsys, *LOOKS, "--epochs", "60", "--ranks", "auto")


def test_the_table_holds_the_counts(folder, capsys):
    X, y = classes(n_features=40)
    np.savez("data.npz", X=X, y=y)
    out = train(
        capsys, "data.npz", *QUICK, "--compare", "--batch-size", "48", "--rank-fraction", "1/8", "--force",
        "--pretrain-fraction", "0.5",
    )  # fmt: skip
    net = sf.Network([40, 16, 16, 3], seed=0)
    net.truncate(0.125, force=True)
    for mode in ("step", "forward"):
        count = sf.count_multiplications(net, mode)
        shown = cells(out, f"multiplications a sample, {mode}")
        assert shown[0] == f"{count.dense_total:,}" and shown[1] == f"{count.total:,}"
        assert shown[-1] == f"{count.ratio:.2f}"
    step = sf.count_multiplications(net, "step").ratio
    assert f"Counted: a dense step takes {step:.2f} times the multiplications" in out
    assert f"dense training {1 / (0.5 + 0.5 / step):.2f}\ntimes those of all 2 steps" in out


def test_the_numbers_are_those_of_train(folder, capsys):
    X, y = classes()
    X_test, y_test = classes(20, seed=1)
    X, X_test = X.astype("float32"), X_test.astype("float32")
    np.savez("data.npz", X=X, y=y, X_test=X_test, y_test=y_test)
    out = train(
        capsys, "data.npz", *QUICK, "--compare", "--no-standardise", "--optimizer", "sgd", "--momentum", "0.9",
        "--learning-rate", "0.01", "--batch-size", "7", "--seed", "3", "--dtype", "float64",
        "--rank-fraction", "1/8", "--pretrain-fraction", "1/2", "--keep-dense", "1", "--force",
    )  # fmt: skip
    assert "kept dense (--keep-dense): layer 1 (5 to 16)" in out
    first = sf.Network([5, 16, 16, 3], seed=3, dtype="float64")
    losses = []
    for factoring in (None, sf.Factoring([None, 2], pretrain_fraction=0.5, recompose=False)):
        net = first.copy()
        sf.train(
            net, X, y, epochs=2, batch_size=7, factoring=factoring, n_threads=1,
            optimizer=sf.GradientDescent(sf.schedules.Cooldown(0.01), momentum=0.9), seed=3,
        )  # fmt: skip
        losses.append(f"{net.evaluate(X_test, y_test).loss:.4g}")
    assert cells(out, "test loss")[:2] == losses


@pytest.mark.parametrize("pretrain", ["0", "1"])
def test_pretraining_of_nothing_or_all(pretrain, folder, capsys):
    argv = ["xor", *QUICK, "--hidden", "20,20", "--rank-fraction", "1/2", "--force"]
    out = train(capsys, *argv, "--pretrain-fraction", pretrain)
    assert ("No layer was factored" in out) == (pretrain == "1")


def test_force_factors_what_is_left_dense(capsys):
    argv = ["xor", "--epochs", "2", "--threads", "1", "--hidden", "8,8", "--rank-fraction", "1"]
    assert "No layer was factored, so both trainings did the same." in train(capsys, *argv)
    out = train(capsys, *argv, "--force")
    assert "layer 1 (2 to 8) to rank 2, layer 2 (8 to 8) to rank 8" in out
    assert "left dense" not in out


@pytest.mark.parametrize(
    "argv",
    [
        ["--optimizer", "adamw", "--weight-decay", "0.1"],
        ["--optimizer", "adamw"],
        ["--optimizer", "sgd"],
        ["--svd-method", "randomized"],
        ["--dtype", "float64", "--threads", "2"],
        ["--rank-fraction", "0.1", "--pretrain-fraction", "1/3", "--force"],
    ],
)
def test_settings(argv, capsys):
    out = train(capsys, "xor", *QUICK, *argv)
    if argv == ["--optimizer", "sgd"]:
        assert "sgd, learning rate 0.1," in out


@pytest.mark.parametrize("rule", ["energy:0.5", "budget:1/4"])
def test_ranks_by_a_rule(rule, capsys):
    out = train(capsys, "digits", "--hidden", "256,256", "--epochs", "4", "--threads", "1", "--ranks", rule)
    assert "multiplications a sample, step" in out
    assert "factored" in epoch_phases(out)
    dense, factored, _ = cells(out, "multiplications a sample, step")
    assert int(dense.replace(",", "")) > int(factored.replace(",", ""))
    assert "Counted: a dense step takes " in out


def test_a_layer_that_goes_back(capsys, monkeypatch):
    """It is told, and what the table counts is the network as it ended."""
    original = cli_comparison.train

    def tell_of_it(net, X, y, *, factoring, callbacks=(), **settings):
        result = original(net, X, y, factoring=factoring, callbacks=callbacks, **settings)
        if factoring is not None:
            net.recompose()
            info = {"action": "undone", "layers": [1], "loss_before": 0.25, "loss_recovered": 0.5, "seconds": 0.0}
            for clock in ({}, {"seconds_factored": 0.002, "seconds_dense": 0.001}):
                for callback in callbacks:
                    callback(sf.Event("guard", 1, 7, net, info | clock))
        return result

    monkeypatch.setattr(cli_comparison, "train", tell_of_it)
    out = train(capsys, "xor", *QUICK, "--rank-fraction", "1/2", "--force")
    assert "step 7: layer 2 (16 to 16) is recomposed, as the loss is 0.5 and was 0.25 before the truncation\n" in out
    assert "recomposed, as a step takes 2 ms with its factors and took 1 ms without\n" in out
    assert cells(out, "multiplications a sample, step")[2] == "1.00"
    assert "No layer stayed factored." in out


def test_precision(capsys, monkeypatch):
    seen = []
    original = cli_comparison.train
    monkeypatch.setattr(cli_comparison, "train", lambda *a, **k: seen.append(k["precision"]) or original(*a, **k))
    assert "float32, products in bfloat16, " in train(capsys, "xor", *QUICK, "--precision", "bfloat16")
    assert set(seen) == {"bfloat16"}
    status, _, err = run(["train", "xor", *QUICK, "--precision", "bfloat16", "--dtype", "float64"], capsys)
    assert (status, err) == (2, "svdfast: error: --precision: goes with --dtype float32, not float64\n")


def test_early_stopping(folder, capsys, monkeypatch):
    seen = []
    original = cli_comparison.train
    monkeypatch.setattr(cli_comparison, "train", lambda *a, **k: seen.append(original(*a, **k)) or seen[-1])
    X, y = classes(200)
    np.savez("data.npz", X=X, y=np.random.default_rng(1).permutation(y))  # nothing to learn
    out = train(capsys, "data.npz", "--threads", "1", "--validation", "0.2", "--early-stopping", "--epochs", "400")
    result = seen[-1]
    last = len(result.history)
    assert last < 400
    assert "at most 400 epochs" in out
    assert f"no progress of the validation loss for 10 epochs: ends with epoch {last}\n" in out
    best = min(result.history, key=lambda row: row["val_loss"])
    assert f"the network is that of epoch {best['epoch']} again, val loss {best['val_loss']:.4g}\n" in out
    assert re.findall(r"^ +(\d+)  dense", out, re.MULTILINE)[-1] == str(last)
    message = "--early-stopping: expected --validation with it, as the test set would choose the network else\n"
    assert complaint(capsys, "train", "data.npz", "--early-stopping", status=2) == message


def test_two_trainings_take_turns(folder, capsys, monkeypatch):
    order = []
    original = cli_comparison.train

    def noted(net, X, y, *, factoring, callbacks=(), **settings):
        def note(event):
            if event.kind == "epoch":
                order.append("dense" if factoring is None else "SVD")

        return original(net, X, y, factoring=factoring, callbacks=[note, *callbacks], **settings)

    monkeypatch.setattr(cli_comparison, "train", noted)
    X, y = classes(100)
    np.savez("data.npz", X=X, y=y)
    out = train(capsys, "data.npz", "--compare", "--epochs", "5", "--hidden", "16,16", "--threads", "1")
    assert order[2:] == ["dense", "SVD"] * 5  # after those of the warm-up
    assert re.findall(r"  (dense|SVD)$", out, re.MULTILINE)[-10:] == ["dense", "SVD"] * 5
    alone = train(capsys, "data.npz", "--epochs", "5", "--hidden", "16,16", "--threads", "1")
    assert cells(out, "test loss")[1] == cells(alone, "test loss")[0]


class TestTurns:
    @pytest.mark.parametrize("n", [(0, 0), (3, 3), (0, 4), (5, 1)])
    def test_one_at_a_time_until_both_are_done(self, n):
        done = []

        def task(name, n):
            def run(hand_over):
                for i in range(n):
                    done.append((name, i))
                    hand_over()
                return name

            return run

        assert in_turns(task("a", n[0]), task("b", n[1])) == ("a", "b")
        assert done == sorted(((name, i) for name, k in zip("ab", n, strict=True) for i in range(k)), key=lambda each: each[::-1])

    @pytest.mark.parametrize("failing", [0, 1])
    @pytest.mark.parametrize("at", [0, 2])
    @pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
    def test_an_error_of_one_ends_both(self, failing, at, error):
        steps = [0, 0]

        def task(me):
            def run(hand_over):
                for i in range(1000):
                    if (me, i) == (failing, at):
                        raise error
                    steps[me] += 1
                    hand_over()

            return run

        before = set(threading.enumerate())
        with pytest.raises(error):
            in_turns(task(0), task(1))
        for thread in set(threading.enumerate()) - before:
            thread.join(60)
            assert not thread.is_alive()
        assert steps[failing] == at and steps[1 - failing] <= at + 1


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, out, err = run(["train", "xor", *QUICK], capsys)
    assert status == 0
    assert "/2 [" in err
    assert epoch_phases(out) and "/2 [" not in out


def test_two_bars_have_the_names_of_their_networks(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, _, err = run(["train", "xor", "--compare", *QUICK], capsys)
    assert status == 0
    assert "dense: " in err and "SVD: " in err and "loss" in err


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("compare", ["--compare", "--no-compare"])
def test_quiet(terminal, compare, capsys, monkeypatch):
    """Neither a bar nor lines of epochs: the settings before the training, and the results after it."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    status, out, err = run(["train", "xor", *QUICK, compare, "--quiet"], capsys)
    assert status in (0, 1) and "/2 [" not in err
    assert not epoch_phases(out) and "val loss" not in out
    assert "2 epochs, batches of 4" in out and "test accuracy" in out


def test_no_bar_without_tqdm(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert epoch_phases(train(capsys, "xor", *QUICK))


@pytest.mark.skipif(os.name != "posix", reason="such names are POSIX's")
def test_a_name_that_the_terminal_cannot_show(folder, capsys):
    name = os.fsdecode(b"\xff\xe9.csv")
    try:
        write_csv(name, *classes())
    except OSError:
        pytest.skip("the file system takes no such names")
    assert train(capsys, name, *QUICK).startswith(r"\udcff\udce9.csv: 48 training")


# Data by name


@needs_data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist(name, capsys):
    out = train(capsys, name, "--epochs", "1", "--hidden", "16,16", "--rank-fraction", "1/4")
    assert out.startswith(f"{name}: 60,000 training and 10,000 test samples, 784 features")


@needs_data
def test_cat(capsys):
    pytest.importorskip("h5py", reason="the files of cat are HDF5")
    out = train(capsys, "cat", "--epochs", "2", "--rank-fraction", "1/2")
    assert out.startswith("cat: 209 training and 50 test samples, 12,288 features, 2 classes")
    assert "network 12288-100-1, relu and sigmoid" in out
    assert "SVD of layer 1 (12288 to 100) to rank 50" in out


@pytest.mark.parametrize(
    "error", [FileNotFoundError("put it there"), ImportError("get h5py"), ValueError("damaged")]
)
def test_a_data_set_that_cannot_be_loaded(error, capsys, monkeypatch):
    def load(name):
        raise error

    monkeypatch.setattr(datasets, "load", load)
    assert complaint(capsys, "train", "cat", status=1) == f"cat: {error}\n"


def test_a_download_is_told(capsys, monkeypatch):
    xor = datasets.load("xor")

    def load(name):
        datasets._logger.info("downloading it")
        return xor

    monkeypatch.setattr(datasets, "load", load)
    assert run(["train", "xor", *QUICK], capsys)[2] == "svdfast: downloading it\n"
    assert datasets._logger.handlers == []


# Files


@pytest.mark.parametrize("header", ["", "a,b,c,d,e,target"])
def test_csv_of_classes(header, folder, capsys):
    X, y = classes()
    write_csv("data.csv", X, 10 * y - 5, header)
    out = train(capsys, "data.csv", *QUICK, "--epochs", "60", "--batch-size", "8")
    assert out.startswith("data.csv: 48 training and 12 test samples, 5 features, 3 classes\n")
    assert ("first line taken for the names of the columns" in out) == bool(header)
    assert "20 % of the rows held out as the test set, the same share of each class (seed 0)" in out
    assert "classes: -5 33.3 %, 5 33.3 %, 15 33.3 %\n" in out
    assert "standard deviation 1" in out
    assert "relu and softmax" in out
    assert float(cells(out, "train accuracy")[0]) > 90


def test_csv_with_a_byte_order_mark_and_quotes(folder, capsys):
    X, y = classes(10, 2, 2)
    rows = "".join(f'"{a}",{b},{c}\r\n' for (a, b), c in zip(X, y, strict=True))
    Path("data.csv").write_text(rows, encoding="utf-8-sig", newline="")
    out = train(capsys, "data.csv", *QUICK)
    assert "8 training and 2 test samples, 2 features, 2 classes" in out
    assert "the first line has no names of columns: they are numbered (--header takes it for names)" in out
    assert "relu and sigmoid" in out


def test_csv_of_values(folder, capsys):
    X, _ = classes(200)
    write_csv("data.csv", X, 1e6 + 1e3 * X[:, 0] - 500 * X[:, 1])
    out = train(capsys, "data.csv", *QUICK, "--epochs", "100", "--batch-size", "16")
    assert "5 features, regression" in out
    assert "relu and identity" in out
    assert "val R²" in out
    assert float(cells(out, "test R²")[0]) > 0.9


def test_few_integers_are_classes_unless_told(folder, capsys):
    X, y = classes()
    write_csv("data.csv", X, y)
    assert "regression" in train(capsys, "data.csv", *QUICK, "--task", "regression")
    assert "60 classes" not in train(capsys, "data.csv", *QUICK)
    write_csv("data.csv", X, np.arange(60) // 2)
    assert "30 classes" in train(capsys, "data.csv", *QUICK)
    write_csv("data.csv", X, np.arange(60) // 2 * 2 + np.array([0, 1] * 30) * (np.arange(60) > 50))
    assert "regression" in train(capsys, "data.csv", *QUICK)
    assert "35 classes" in train(capsys, "data.csv", *QUICK, "--task", "classification")


@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", "bool"])
def test_npz(dtype, folder, capsys):
    X, y = classes()
    np.savez("data.npz", X=X.astype(dtype), y=y, X_test=X[:9].astype(dtype), y_test=y[:9, None])
    out = train(capsys, "data.npz", *QUICK)
    assert out.startswith("data.npz: 60 training and 9 test samples, 5 features, 3 classes\n")
    assert "held out" not in out
    assert "standard deviation" not in train(capsys, "data.npz", *QUICK, "--no-standardise")


def test_npz_of_images(folder, capsys):
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8)
    np.savez("data.npz", X=images, y=np.arange(30) % 2 == 0)
    out = train(capsys, "data.npz", *QUICK)
    assert "24 training and 6 test samples, 16 features, 2 classes" in out
    assert "uint8: taken for pixels and divided by 255" in out
    assert "standard deviation" not in out


def test_the_seed_chooses_the_test_set(folder, capsys):
    write_csv("data.csv", *classes())
    outs = [
        cells(train(capsys, "data.csv", *QUICK, "--seed", seed), "test loss") for seed in "001"
    ]
    assert outs[0] == outs[1] != outs[2]


def test_features_that_do_not_vary(folder, capsys):
    X, y = classes()
    X[:, 2] = 7
    write_csv("data.csv", X, y)
    assert "nan" not in train(capsys, "data.csv", *QUICK)


def test_targets_that_do_not_vary_in_the_test_set(folder, capsys):
    X, _ = classes()
    np.savez("data.npz", X=X, y=X[:, 0], X_test=X[:2], y_test=np.ones(2))
    out = train(capsys, "data.npz", *QUICK)
    assert cells(out, "test R²") == ["undefined"] * 2


# Saving


@pytest.mark.parametrize("name", ["xor", "data.csv"])
def test_the_saved_network_takes_the_files_own_numbers(name, folder, capsys):
    X, y = classes()
    X = 50 + 10 * X.astype("float32")
    write_csv("data.csv", X, y)
    if name == "xor":
        X, y = datasets.load("xor").train
    out = train(capsys, name, *QUICK, "--epochs", "20", "--batch-size", "8", "--save", "net.npz")
    assert out.endswith("The recomposed network is in net.npz.\n")
    net = sf.load("net.npz")
    assert not net.is_factored
    assert sorted(os.listdir()) == ["data.csv", "net.npz"]
    # Its accuracy on all rows follows from those of the two parts.
    place = 2 if name == "xor" else 0
    shown = [float(cells(out, f"{part} accuracy")[place]) / 100 for part in ("train", "test")]
    n_test = round(0.2 * len(X))
    both = shown[0] if name == "xor" else (shown[0] * (len(X) - n_test) + shown[1] * n_test) / 60
    assert net.score(X, y) == pytest.approx(both, abs=1e-3)


def test_the_saved_network_gives_the_files_own_targets(folder, capsys):
    X, _ = classes(200)
    y = 1000 + 10 * X[:, 0]
    np.savez("data.npz", X=X, y=y, X_test=X, y_test=y)
    out = train(
        capsys, "data.npz", *QUICK, "--epochs", "40", "--batch-size", "16", "--save", "net.npz",
    )  # fmt: skip
    score = sf.load("net.npz").score(X, y)
    assert score > 0.9
    assert float(cells(out, "train R²")[0]) == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize(
    "name, status, message",
    [
        ("net.txt", 2, "--save: expected a name that ends in .npz or .safetensors, got 'net.txt'"),
        (".npz", 2, "--save: expected a name that ends in .npz"),
        ("none/net.npz", 1, "--save: none: No such file or directory"),
        ("file/net.npz", 1, "--save: file: Not a directory"),
        ("folder.npz", 1, "--save: folder.npz is a folder"),
    ],
)
def test_a_file_that_could_not_be_written(name, status, message, folder, capsys, monkeypatch):
    Path("file").touch()
    Path("folder.npz").mkdir()
    monkeypatch.setattr(datasets, "load", lambda name: pytest.fail("checked too late"))
    assert complaint(capsys, "train", "--save", name, status=status).startswith(message)


def test_a_folder_without_permission(folder, capsys, monkeypatch):
    def refuse(**arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    message = complaint(capsys, "train", "xor", "--save", "net.npz", status=1)
    assert message == "--save: .: Permission denied\n"


def test_a_disk_that_fills_up(folder, capsys, monkeypatch):
    def write_array(file, array, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", write_array)
    message = complaint(capsys, "train", "xor", *QUICK, "--save", "net.npz", status=1)
    assert message == "--save: net.npz: No space left on device\n"
    assert os.listdir() == []


# Errors


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "argument COMMAND: invalid choice: 'fly'"),
        (["train", "cats"], "expected one of digits, xor, mnist, fashion-mnist, cat or a file"),
        (["train", "xor", "more"], "unrecognized arguments: more"),
        (["train", "--epoch", "3"], "unrecognized arguments: --epoch"),
        (["train", "--hidden", "3,,4"], "argument --hidden: expected an integer from 1"),
        (["train", "--hidden", "0"], "argument --hidden: expected an integer from 1"),
        (["train", "--hidden", "999999,999999"], "--hidden: sizes: expected at most"),
        (["train", "--hidden", "9" * 99], "argument --hidden: expected an integer"),
        (["train", "--rank-fraction", "0"], "argument --rank-fraction: expected a number above 0"),
        (["train", "--rank-fraction", "3/2"], "argument --rank-fraction: expected a number above"),
        (["train", "--rank-fraction", "1/0"], "argument --rank-fraction: expected a number above"),
        (["train", "--rank-fraction", "nan"], "argument --rank-fraction: expected a number above"),
        (["train", "--pretrain-fraction", "2"], "argument --pretrain-fraction: expected a number"),
        (["train", "--ranks", "best"], "argument --ranks: expected auto, energy:E or budget:B"),
        (["train", "--ranks", "energy:2"], "argument --ranks: expected auto, energy:E or budget:B"),
        (["train", "--ranks", "auto", "--rank-fraction", "0.1"], "--ranks: expected no --rank-fraction"),
        (["train", "--ranks", "auto", "--keep-dense", "1"], "--keep-dense: expected --rank-fraction"),
        (["train", "--keep-dense", "1"], "--keep-dense: expected --rank-fraction"),
        (["train", "--force"], "--force: expected --rank-fraction or another --ranks than auto with it"),
        (["train", "--ranks", "auto", "--force"], "--force: expected --rank-fraction or another --ranks"),
        (["train", "--keep-dense", "0"], "argument --keep-dense: expected an integer"),
        (["train", "--keep-dense", "none"], "argument --keep-dense: expected an integer"),
        (["train", "xor", "--rank-fraction", "1/2", "--keep-dense", "1,3"], "--keep-dense: expected numbers from 1 to 2"),
        (["train", "--epochs", "1.5"], "argument --epochs: expected an integer from 1"),
        (["train", "--epochs", "x" * 999], "argument --epochs: expected an integer from 1"),
        (["train", "--batch-size", "0"], "argument --batch-size: expected an integer"),
        (["train", "--optimizer", "best"], "argument --optimizer: invalid choice: 'best'"),
        (["train", "--learning-rate", "0"], "argument --learning-rate: expected a number above 0"),
        (["train", "--learning-rate", "inf"], "argument --learning-rate: expected a number above"),
        (["train", "--momentum", "0.9"], "--momentum: adam has none"),
        (["train", "--optimizer", "sgd", "--momentum", "1"], "argument --momentum: expected"),
        (["train", "--weight-decay", "0.1"], "--weight-decay: adam has none"),
        (["train", "--dtype", "float16"], "argument --dtype: invalid choice"),
        (["train", "--threads", "0"], "argument --threads: expected an integer from 1 to 1024"),
        (["train", "--threads", "1025"], "argument --threads: expected an integer from 1 to 1024"),
        (["train", "--seed", "-1"], "argument --seed: expected an integer from 0"),
        (["train", "--svd-method", "fast"], "argument --svd-method: invalid choice"),
        (["train", "--task", "guess"], "argument --task: invalid choice"),
        (["info", "net.npz", "more"], "unrecognized arguments: more"),
    ],
)
def test_wrong_arguments(argv, message, capsys):
    got = complaint(capsys, *argv, status=2)
    assert got.startswith(message)
    assert len(got) < 300


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "expected rows, got none"),
        (b"\n\n", "expected rows, got none"),
        (b"a,b,c\n", "expected rows, got none"),
        (b"1\n2\n", "expected at least two columns, got one"),
        (b"1,2\n3,4\n5\n", r"line 3: expected 2 columns, as in line 1 \(1, 2\), got 1"),
        (b"1,2\n3,4,5\n", r"line 2: expected 2 columns, as in line 1 \(1, 2\), got 3"),
        (b"a,b\n1,2\n3,4,5\n", r"line 3: expected 2 columns, as in line 1 \(a, b\), got 3"),
        (b"a,b\n1,2\n\n3,x\n", "line 4, column 'b': expected a number, got 'x'"),
        (b"a,b\nx,2\n3,3\n4,4\n5,7\n", "line 2, column 'a': expected a number, got 'x'"),
        (b"1,x,0\n1,3,1\n4,4,2\n5,7,3\n", "line 1, column 'column 2': expected a number, got 'x'"),
        (b"1,2\n3,\n", "line 2, column 'column 2': expected a target, got none"),
        (b"1,\n3,\n2,1\n", "line 1, column 'column 2': expected a target, got none, and in 1 more row"),
        (b"1,2\n2,5\n3," + b"x" * 999, "line 3, column 'column 2': expected a number, got 'xxx"),
        (b"1,2\n" + b"3," + b"x" * 200_000, "line 2: field larger than field limit"),
        (b'a,b\n1,2\n"3,4\n', "line 3: unexpected end of data"),
        (b'a,b\n1,2\n"3"4,5\n', "line 3: ',' expected after '\"'"),
        (b"1,2\n3,nan\n", "line 2, column 'column 2': expected a target, got none"),
        (b"1,2\ninf,3\n2,4\n", "line 2, column 'column 1': expected a finite number, got infinity"),
        (b"1,2\n1e999,3\n2,4\n", "line 2, column 'column 1': expected a finite number, got infinity"),
        (b"1,2\n", "column 'column 2': expected different targets, got '2' alone"),
        (b"1,2\n3,2\n4,2\n", "column 'column 2': expected different targets, got '2' alone"),
        (b"1,2\n3,4\xff\n", r"line 2: expected text in UTF-8, got other bytes \(--encoding"),
        (b"\xff\xfe1,2", "line 1: expected text in utf-16, got other bytes"),
        (b"1,2\n3\x00,4\n", "line 2: expected text, got a zero byte"),
        (b"a,b,a\n1,2,3\n", "line 1: expected columns of different names, got 'a' more than once"),
        (b"1,x\n1,y\n1,x\n", "expected a column that is an input, got none"),
        (b"a,1\nb,0\nc,1\nd,0\n", "expected a column that is an input, got none"),
        (b"1e300,1\n-1e300,0\n1,1\n2,0\n", r"line 1, column 'column 1': expected a number of at most 3.4e\+38 in size "),
        (b"\x1f\x8b\x08\x00no", "damaged compressed file: "),
        (b"PAR1 no", "not a Parquet file: "),
        (b"ARROW1 no", "not a Feather file: "),
    ],
)
def test_csv_files_that_are_wrong(content, message, folder, capsys):
    Path("data.csv").write_bytes(content)
    got = complaint(capsys, "train", "data.csv", *QUICK, status=1)
    assert re.match(f"data.csv: ({message})", got)
    assert len(got) < 300


def test_classes_that_are_no_integers(folder, capsys):
    write_csv("data.csv", [[1], [2], [3]], [0.5, 1, 2])
    got = complaint(capsys, "train", "data.csv", "--task", "classification", status=1)
    assert got == "data.csv: target: expected integers or text for classification, got 0.5\n"


X4, Y4 = np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({}, r"expected arrays X and y, got no X and no y \(there: none\)"),
        ({"X": X4, "labels": Y4}, r"expected arrays X and y, got no y \(there: X, labels\)"),
        ({"X": X4, "y": Y4, "X_test": X4}, "expected both X_test and y_test or none of them"),
        ({"X": X4, "y": Y4[:3]}, r"y: expected 4 targets, got shape \(3,\)"),
        ({"X": X4, "y": X4}, r"y: expected 4 targets, got shape \(4, 2\)"),
        ({"X": X4[:, 0], "y": Y4}, r"X: expected samples in rows, got shape \(4,\)"),
        ({"X": X4[:0], "y": Y4[:0]}, r"X: expected samples in rows, got shape \(0, 2\)"),
        ({"X": X4[:, :0], "y": Y4}, r"X: expected samples in rows, got shape \(4, 0\)"),
        ({"X": X4 * 1j, "y": Y4}, "X: expected real numbers of at most 64 bits, got dtype complex128"),
        ({"X": X4, "y": [b"a", b"b"] * 2}, "y: expected real numbers of at most 64 bits, got dtype .S1"),
        ({"X": X4, "y": np.array([1, None] * 2)}, "not an .npz file of plain arrays"),
        ({"X": np.where(X4 == 3, np.nan, X4), "y": Y4}, "X: expected finite .* row 2 of 4"),
        ({"X": X4, "y": Y4, "X_test": X4[:, :1], "y_test": Y4}, "X_test: expected 2 features"),
        ({"X": X4, "y": Y4, "X_test": X4, "y_test": Y4[:1]}, "y_test: expected 4 targets"),
        (
            {"X": X4, "y": Y4, "X_test": X4 * np.nan, "y_test": Y4},
            "X_test: expected finite numbers, got NaN or infinity in row 1 of 4",
        ),
        (
            {"X": X4, "y": Y4, "X_test": X4 * 1e60, "y_test": Y4},
            "X_test: expected numbers that float32 can hold",
        ),
    ],
)
def test_npz_files_that_are_wrong(arrays, message, folder, capsys):
    np.savez("data.npz", **arrays)
    got = complaint(capsys, "train", "data.npz", *QUICK, status=1)
    assert re.match(f"data.npz: {message}", got)


def damaged(content):
    middle = len(content) // 2
    return content[:middle] + bytes(b ^ 0xFF for b in content[middle : middle + 8]) + content[
        middle + 8 :
    ]  # fmt: skip


@pytest.mark.parametrize("change", [lambda c: b"", lambda c: b"no", lambda c: c[:200], damaged])
def test_npz_files_that_are_damaged(change, folder, capsys):
    np.savez_compressed("data.npz", X=np.random.default_rng(0).normal(size=(50, 9)), y=[0, 1] * 25)
    content = Path("data.npz").read_bytes()
    Path("data.npz").write_bytes(change(content))
    got = complaint(capsys, "train", "data.npz", *QUICK, status=1)
    assert got.startswith("data.npz: not an .npz file of plain arrays (")


def test_one_array_is_no_npz(folder, capsys):
    with open("data.npz", "wb") as file:
        np.save(file, X4)
    assert complaint(capsys, "train", "data.npz", status=1) == "data.npz: not an .npz file\n"


@pytest.mark.parametrize("name", ["data.csv", "data.npz"])
def test_files_that_cannot_be_read(name, folder, capsys):
    message = complaint(capsys, "train", name, status=1)
    assert message == f"{name}: {os.strerror(errno.ENOENT)}\n"
    Path(name).mkdir()
    message = complaint(capsys, "train", name, status=1)
    assert message == f"{name}: {os.strerror(errno.EISDIR)}\n"


def test_a_training_that_diverges(folder, capsys):
    X, _ = classes(200)
    np.savez("data.npz", X=X, y=1e6 * X[:, 0])
    got = complaint(
        capsys, "train", "data.npz", *QUICK, "--optimizer", "sgd", "--learning-rate", "1e9",
        "--epochs", "50", "--batch-size", "10", "--no-standardise", "--save", "net.npz", status=1,
    )  # fmt: skip
    assert "loss became" in got and "a smaller learning rate may help" in got
    assert os.listdir() == ["data.npz"]


def test_too_little_memory(capsys, monkeypatch):
    def load(name):
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr(datasets, "load", load)
    message = complaint(capsys, "train", "xor", status=1)
    assert message == "out of memory: Unable to allocate 3 TiB\n"


def test_interrupt(capsys, monkeypatch):
    def load(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "load", load)
    status, _, err = run(["train", "xor"], capsys)
    assert (status, err) == (130, "svdfast: interrupted\n")
