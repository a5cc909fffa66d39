# SPDX-License-Identifier: BSD-3-Clause
"""Trainings of the command line and fits of the estimators that end too soon, are called again, and end as others do.

Elsewhere: `svdfast.resume` and the form of checkpoints (test_checkpoint.py), and experiments (test_reproduce.py).
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from team import together

import svdfast as sf
from svdfast.cli.main import main
from svdfast.training import checkpoint

sklearn = pytest.importorskip("sklearn", reason="needs scikit-learn")
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402

from svdfast.sklearn import SVDMLPClassifier, SVDMLPRegressor  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}"
)


class Cut(Exception):
    """Ends a training in place of a power cut."""


def environment():
    """That of this process, with the package found from any folder."""
    paths = [str(Path(sf.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


def kill_after(command, paths, folder):
    """Runs a command and kills it once each file is that of a training that has begun and has not ended."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while not all(path.exists() and checkpoint.read(path)["state"].n_steps for path in paths):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode != 0
    states = [checkpoint.read(path)["state"] for path in paths]
    assert all(state.epoch <= state.epochs for state in states)


# The command


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 30)).astype("float32")
    np.savez("data.npz", X=X, y=X[:, :3].argmax(axis=1))
    np.savez("other.npz", X=X + 1, y=X[:, :3].argmax(axis=1))


TRAIN = [
    "train",
    "data.npz",
    "--hidden",
    "64,64",
    "--rank-fraction",
    "1/4",
    "--force",
    "--threads",
    "1",
    "--epochs",
]
KINDS = [
    ["--compare"],
    ["--no-compare"],
    ["--compare", "--validation", "0.2", "--early-stopping", "--optimizer", "sgd"],
]


def run(capsys, *argv):
    status = main([str(argument) for argument in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def table(out):
    """The rows at the end that say nothing about time."""
    return re.findall(
        r"^(?:multiplications|train|test).*",
        re.sub(r"^training time.*\n", "", out, flags=re.MULTILINE),
        re.MULTILINE,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_written", [1, 2, 3, 8])
def test_a_command_that_ended_too_soon_ends_as_others(data, capsys, monkeypatch, kind, n_written):
    status, whole, _ = run(capsys, *TRAIN, 6, *kind, "--save", "whole.npz")
    assert status == 0 and len(table(whole)) >= 5
    write, left = checkpoint.write, [n_written]

    def interrupted(path, values):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(path, values)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", interrupted)
        status, _, err = run(capsys, *TRAIN, 6, *kind, "--checkpoint", "run.ckpt")
    if status == 130:
        assert err.startswith(
            "svdfast: the training's state is kept: the same command with --resume run.ckpt continues\n"
        )
    for _ in range(2):  # the second time all has ended, and the result is there at once
        status, out, err = run(
            capsys, *TRAIN, 6, *kind, "--resume", "run.ckpt", "--save", "again.npz"
        )
        assert (status, err) == (0, "") and "continues from run.ckpt" in out
        assert table(out) == table(whole)
        assert Path("again.npz").read_bytes() == Path("whole.npz").read_bytes()


def test_a_command_that_was_killed_ends_as_others(data, tmp_path, capsys):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((8000, 30)).astype("float32")
    np.savez("data.npz", X=X, y=X[:, :3].argmax(axis=1))
    command = [*TRAIN, "30", "--compare"]
    _, whole, _ = run(capsys, *command, "--save", "whole.npz")
    files = [tmp_path / "run.ckpt", tmp_path / "run.ckpt.dense"]
    kill_after(
        [sys.executable, "-P", "-m", "svdfast", *command, "--checkpoint", "run.ckpt"],
        files,
        tmp_path,
    )
    status, out, _ = run(capsys, *command, "--resume", "run.ckpt", "--save", "again.npz")
    assert status == 0 and table(out) == table(whole)
    assert Path("again.npz").read_bytes() == Path("whole.npz").read_bytes()


@pytest.mark.parametrize("missing", ["run.ckpt", "run.ckpt.dense"])
def test_a_training_of_two_without_a_file_begins_again(data, capsys, missing):
    _, whole, _ = run(capsys, *TRAIN, 4, "--compare", "--checkpoint", "run.ckpt")
    os.remove(missing)
    status, out, _ = run(capsys, *TRAIN, 4, "--compare", "--resume", "run.ckpt")
    assert status == 0 and f"begins again, without {missing}\n" in out
    assert table(out) == table(whole) and os.path.exists(missing)


def test_what_fails_in_one_training_is_not_the_end_of_the_other(data, capsys, monkeypatch):
    write = checkpoint.write

    def full(path, values):
        if path.name == "run.ckpt" and values["state"].n_steps:
            raise OSError(28, "No space left on device")
        write(path, values)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", full)
        status, _, err = run(capsys, *TRAIN, 4, "--compare", "--checkpoint", "run.ckpt")
    assert (status, err) == (1, "svdfast: error: --checkpoint: run.ckpt: No space left on device\n")
    assert not checkpoint.read("run.ckpt.dense")["state"].stopped
    _, whole, _ = run(capsys, *TRAIN, 4, "--compare")
    status, out, _ = run(capsys, *TRAIN, 4, "--compare", "--resume", "run.ckpt")
    assert status == 0 and table(out) == table(whole)


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        (["--checkpoint", "run.ckpt"], 1, "--checkpoint: run.ckpt is there already; --resume run.ckpt continues from it"),
        (["--checkpoint", "new.ckpt", "--compare"], 1, "--checkpoint: new.ckpt.dense is there already; "),
        (["--checkpoint", "."], 1, "--checkpoint: . is a folder"),
        (["--checkpoint", "nowhere/run.ckpt"], 1, "--checkpoint: nowhere: No such file or directory"),
        (["--resume", "none.ckpt"], 1, "--resume: none.ckpt: No such file or directory"),
        (["--resume", "run.ckpt", "--checkpoint", "new.ckpt"], 2, "--resume: expected no --checkpoint with it"),
        (["--resume", "data.npz"], 1, "--resume: 'data.npz' is not a checkpoint"),
        (["--resume", "short.ckpt"], 1, "--resume: 'short.ckpt' is damaged"),
        (["--resume", "library.ckpt"], 1, "--resume: 'library.ckpt' was not made by this command"),
        (["--resume", "run.ckpt", "--epochs", "4"], 1, "--resume: 'run.ckpt' is of a training with epochs 3, not 4"),
        (["--resume", "run.ckpt", "--seed", "1"], 1, "--resume: 'run.ckpt' is of a training with seed 0, not 1"),
        (["--resume", "run.ckpt", "--compare"], 1, "--resume: 'run.ckpt' is of a training with compare False, not True"),
        (["--resume", "run.ckpt", "--hidden", "64,32"], 1, "--resume: 'run.ckpt' is of a training with hidden (64, 64), not (64, 32)"),
    ],
)  # fmt: skip
def test_files_that_are_refused(data, capsys, changes, status, message):
    assert run(capsys, *TRAIN, 3, "--no-compare", "--checkpoint", "run.ckpt")[0] == 0
    content = Path("run.ckpt").read_bytes()
    Path("short.ckpt").write_bytes(content[:-1])
    Path("new.ckpt.dense").write_bytes(content)
    with np.load("data.npz") as arrays:
        sf.train(
            sf.Network([30, 8, 3], seed=0),
            arrays["X"],
            arrays["y"],
            epochs=1,
            checkpoint="library.ckpt",
        )
    got, _, err = run(capsys, *TRAIN, 3, "--no-compare", *changes)
    assert got == status
    assert err.startswith(f"svdfast: error: {message}")
    assert Path("run.ckpt").read_bytes() == content


def test_a_file_of_other_data_is_refused(data, capsys):
    run(capsys, *TRAIN, 3, "--checkpoint", "run.ckpt")
    status, _, err = run(
        capsys, "train", "other.npz", *TRAIN[2:], 3, "--resume", "run.ckpt", "--no-standardise"
    )
    assert status == 1
    assert (
        err
        == "svdfast: error: --resume: 'run.ckpt' is of a training on other data (X, y, sample_weight)\n"
    )


# The estimators

ESTIMATORS = [SVDMLPClassifier, SVDMLPRegressor]
PARAMETERS = {"hidden_layer_sizes": (120, 110), "max_iter": 15, "random_state": 3}
FITS = {
    "auto": {},
    "early stopping": {"early_stopping": True, "tol": 1e-2, "n_iter_no_change": 3},
    "the library's": {
        "early_stopping": sf.EarlyStopping(2, monitor="loss"),
        "learning_rate_init": 0.01,
    },
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 1e-2, "n_iter_no_change": 2},
    "factored": {"rank_fraction": 0.25, "dtype": "float32"},
    "invscaling": {
        "rank_fraction": 0.25,
        "solver": "sgd",
        "learning_rate": "invscaling",
        "shuffle": False,
    },
}
BOOKS = (
    "n_iter_", "t_", "loss_", "loss_curve_", "best_loss_", "validation_scores_", "validation_loss_curve_", "best_validation_score_",
    "stopped_", "_no_improvement_count",
)  # fmt: skip


def samples(n=400):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 120))
    return X, X[:, :3].argmax(axis=1)


def cut_after(epoch):
    def callback(event):
        if event.kind == "epoch" and event.epoch == epoch:
            raise Cut

    return callback


def check_alike(model, other):
    assert np.array_equal(model.network_.parameters, other.network_.parameters)
    for name in BOOKS:
        assert getattr(model, name) == getattr(other, name), name
    rows = [[{**row, "seconds": 0} for row in each.result_.history] for each in (model, other)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("name", FITS)
def test_a_fit_that_ended_too_soon_ends_as_others(kind, name, tmp_path):
    X, y = samples()
    settings = PARAMETERS | FITS[name]
    whole = kind(**settings).fit(X, y)
    for epoch in {1, 2, whole.n_iter_ // 2, whole.n_iter_ - 1, whole.n_iter_}:
        model = kind(**settings, checkpoint=tmp_path / f"{epoch}.ckpt")
        with pytest.raises(Cut):
            model.fit(X, y, callbacks=[cut_after(epoch)])
        assert not hasattr(model, "network_")
        done = []
        model = clone(model).fit(X, y, callbacks=[done.append])
        assert sum(event.kind == "epoch" for event in done) == whole.n_iter_ - epoch + 1
        check_alike(model, whole)
        check_alike(clone(model).fit(X, y), whole)  # the file gives the result at once


FIT = """
import numpy as np
from svdfast.sklearn import SVDMLPClassifier
X = np.random.default_rng(0).standard_normal((8000, 120))
SVDMLPClassifier({settings}, checkpoint="run.ckpt").fit(X, X[:, :3].argmax(axis=1))
"""


def test_a_fit_that_was_killed_ends_as_others(tmp_path):
    X, y = samples(8000)
    settings = {
        "hidden_layer_sizes": (64, 64),
        "max_iter": 30,
        "tol": 0.0,
        "random_state": 0,
        "rank_fraction": 0.25,
        "n_threads": 1,
    }
    program = FIT.format(
        settings=", ".join(f"{name}={value!r}" for name, value in settings.items())
    )
    kill_after([sys.executable, "-P", "-c", program], [tmp_path / "run.ckpt"], tmp_path)
    check_alike(
        SVDMLPClassifier(**settings, checkpoint=tmp_path / "run.ckpt").fit(X, y),
        SVDMLPClassifier(**settings).fit(X, y),
    )


def test_a_fit_after_ctrl_c_continues(tmp_path):
    X, y = samples()

    def interrupt(event):
        if event.kind == "epoch" and event.epoch == 4:
            raise KeyboardInterrupt

    model = SVDMLPClassifier(**PARAMETERS, checkpoint=tmp_path / "run.ckpt")
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(X, y, callbacks=[interrupt])
    check_alike(model.fit(X, y), SVDMLPClassifier(**PARAMETERS).fit(X, y))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_iter": 16}, "max_iter 15, not 16"),
        ({"random_state": 4}, "random_state 3, not 4"),
        ({"tol": 0.1}, "tol 0.0001, not 0.1"),
        ({"hidden_layer_sizes": (64,)}, "another network"),
        ({"rank": 8}, "factoring "),
        ({"dtype": "float32"}, "another network"),
    ],
)
def test_a_file_of_another_fit_is_refused(changes, message, tmp_path):
    X, y = samples()
    path = tmp_path / "run.ckpt"
    SVDMLPClassifier(**PARAMETERS, checkpoint=path).fit(X, y)
    before = path.read_bytes()
    other = SVDMLPClassifier(**PARAMETERS | changes, checkpoint=path)
    with pytest.raises(
        ValueError, match=rf"^checkpoint: .* is of a training with {re.escape(message)}"
    ):
        other.fit(X, y)
    assert not hasattr(other, "network_") and path.read_bytes() == before


def test_a_file_of_other_data_is_no_fit_of_these(tmp_path):
    X, y = samples()
    model = SVDMLPClassifier(**PARAMETERS, checkpoint=tmp_path / "run.ckpt").fit(
        X, y, X_val=X[:50], y_val=y[:50]
    )
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    for given, name in [
        ({"X": X + 1, "X_val": X[:50]}, "X, y, sample_weight"),
        ({"X": X, "X_val": X[1:51]}, "X_val, y_val, sample_weight_val"),
        ({"X": X, "X_val": X[:50], "sample_weight": 2.0}, "X, y, sample_weight"),
    ]:
        with pytest.raises(ValueError, match=rf"on other data \({name}\)"):
            twin.fit(y=y, y_val=y[:50], **given)
    with pytest.raises(ValueError, match=r"on other data \(X_val"):
        twin.fit(X, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "lbfgs"}, 'checkpoint: expected None with solver="lbfgs"'),
        ({"warm_start": True}, "checkpoint: expected None with warm_start"),
        ({"random_state": None}, "random_state: expected an integer with a checkpoint, got None"),
        (
            {"random_state": np.random.RandomState(0)},
            "random_state: expected an integer with a checkpoint",
        ),
        ({"checkpoint": "."}, "checkpoint: expected the path of a file, got the folder"),
        ({"checkpoint": 3}, "checkpoint: expected a path, got int"),
        ({"checkpoint": "text.ckpt"}, "checkpoint: 'text.ckpt' is not a checkpoint"),
        (
            {"checkpoint": "library.ckpt"},
            "checkpoint: 'library.ckpt' was not made by this command or class",
        ),
    ],
)
def test_checkpoints_that_are_refused(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = samples()
    Path("text.ckpt").write_text("text", encoding="utf-8")
    sf.train(
        sf.Network([120, 8, 3], seed=0), X.astype("float32"), y, epochs=1, checkpoint="library.ckpt"
    )
    model = SVDMLPClassifier(**PARAMETERS | {"checkpoint": "run.ckpt"} | settings)
    with pytest.raises((TypeError, ValueError, OSError), match=re.escape(message)):
        model.fit(X, y)
    assert not hasattr(model, "network_") and not Path("run.ckpt").exists()


def test_partial_fit_has_no_checkpoint(tmp_path):
    X, y = samples()
    model = SVDMLPClassifier(**PARAMETERS, checkpoint=tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match="checkpoint: expected None in partial_fit"):
        model.partial_fit(X, y, classes=[0, 1, 2])


@pytest.mark.parametrize("name", ["rate", "wait", "best", "loss_curve_", "n_iter_"])
def test_books_that_are_not_as_they_should_be_are_refused(name, tmp_path):
    X, y = samples()
    path = tmp_path / "run.ckpt"
    model = SVDMLPClassifier(**PARAMETERS, early_stopping=True, checkpoint=path)
    with contextlib.suppress(Cut):
        model.fit(X, y, callbacks=[cut_after(3)])
    values = checkpoint.read(path)
    values["caller"]["state"][name] = "hostile"
    checkpoint.write(path, values)
    with pytest.raises(ValueError, match=r"checkpoint: .* is not a checkpoint of a training"):
        model.fit(X, y)
    assert not hasattr(model, "network_")


def test_processes_that_fit_together_continue_together(tmp_path):
    X, y = samples()

    def fit(communicator, path=tmp_path / "run.ckpt", **given):
        model = SVDMLPClassifier(
            **PARAMETERS, n_threads=1, checkpoint=path, communicator=communicator
        )
        return model.fit(X, y, **given)

    whole, _ = together(2, lambda communicator: fit(communicator, None))
    broken, _ = together(2, lambda communicator: fit(communicator, callbacks=[cut_after(4)]))
    assert all(isinstance(error, Cut) for error in broken)
    continued, _ = together(2, fit)
    for model, other in zip(continued, whole, strict=True):
        check_alike(model, other)
