# SPDX-License-Identifier: BSD-3-Clause
"""Tests of `svdfast reproduce`: that each experiment goes from trainings to tables and figures, goes on where it was interrupted, and says
what is missing.

On made-up data of the real sets' shapes, quickly; what the experiments show is in docs/reproduction.md.
"""

import csv
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the figures need matplotlib")

import svdfast as sf
from svdfast import datasets
from svdfast import layers as L
from svdfast.cli.main import main
from svdfast.reproduce import (
    EXPERIMENTS,
    _layered,
    _records,
    _samples,
    _training,
    cat,
    convolution,
    images,
    mnist,
    recurrent,
    reproduce,
    small,
    study,
)
from svdfast.reproduce._experiment import Plan
from svdfast.reproduce._tables import spread, table
from svdfast.reproduce._time import TimeLeft, duration


def made_up(name):
    if name == "xor":
        return datasets.load("xor")
    n_in, n_classes = {"mnist": (784, 10), "fashion-mnist": (784, 10), "cat": (12288, 2)}[name]
    rng = np.random.default_rng(0)

    def part(n):
        y = np.arange(n) % n_classes
        X = rng.integers(0, 128, (n, n_in), dtype=np.uint8)
        X[np.arange(n), y] = 255
        return X, y

    return datasets.Dataset(name, part(1300 if n_in == 784 else 20), part(50), n_classes)


def made_up_samples(name):
    if name == "adding":
        return _samples.Samples(_samples.adding(80, 0), _samples.adding(20, 1))
    if name == "characters":
        return _samples.characters("All the world's a stage, and all the men and women merely players. " * 90)
    if name == "cifar10-part":
        rng = np.random.default_rng(0)
        return _samples.Samples(*((rng.integers(0, 256, (n, 3072), np.uint8), np.arange(n) % 10) for n in (80, 20)))
    return made_up(name)


# The tasks' own networks would take minutes.
SMALL = {
    "mnist": lambda seed: sf.Network(sf.Input(28, 28), [L.GRU(12), L.Linear(10, "softmax")], seed=seed),
    "fashion-mnist": lambda seed: sf.Network(
        sf.Input(28, 28, 1), [L.Conv2d(8, 5, "relu", stride=3), L.Flatten(), L.Linear(10, "softmax")], seed=seed
    ),
    "adding": lambda seed: sf.Network(sf.Input(100, 2), [L.GRU(12), L.Linear(1)], seed=seed),
    "characters": lambda seed: sf.Network(
        sf.Input(100), [L.Embedding(65, 8), L.LSTM(12, return_sequences=True), L.Linear(65, "softmax")], seed=seed
    ),
    "cifar10-part": lambda seed: sf.Network(
        sf.Input(32, 32, 3), [L.Conv2d(8, 3, "relu", stride=3), L.Flatten(), L.Linear(10, "softmax")], seed=seed
    ),
}


@pytest.fixture
def made_up_data(monkeypatch):
    monkeypatch.setattr(_layered, "load", made_up_samples)
    for tasks in (recurrent.TASKS, convolution.TASKS):
        for name, task in tasks.tasks.items():
            monkeypatch.setitem(tasks.tasks, name, dataclasses.replace(task, network=SMALL[task.data]))
    for module in (_training, cat, mnist, small, study):
        monkeypatch.setattr(module, "load", made_up)
    monkeypatch.setattr(study, "LARGE", {name: [784, *[64] * (len(sizes) - 2), 10] for name, sizes in study.LARGE.items()})


def quick(names, out, **settings):
    said, told = [], []
    left_out = reproduce(names, out, quick=True, say=said.append, tell=told.append, **settings)
    return "\n".join(said), told, left_out


def test_time_left_is_counted_by_forms():
    """After a slow form's run a fast form's runs are no longer expected to be slow."""
    left = TimeLeft(["slow"] * 3 + ["fast"] * 3)
    assert left.after("slow", 100) == 500
    assert left.after("fast", 1) == 2 * 100 + 2 * 1
    assert left.after("fast", 3) == 2 * 100 + 2
    assert [left.after("slow", 100), left.after("slow", 100), left.after("fast", 2)] == [102, 2, 0]


@pytest.mark.parametrize("seconds, text", [(0, "0 s"), (99.4, "99 s"), (99.6, "2 min"), (5940, "99 min"), (6000, "1.7 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_progress_is_told(tmp_path, made_up_data):
    _, told, _ = quick(["xor"], tmp_path)
    n = len(told) - 1
    assert told[0] == f"xor: {n} runs to do"
    for i, line in enumerate(told[1:], 1):
        assert re.fullmatch(rf"xor: {i} of {n}, .*, seed \d+, \d+ s; about \d+ s left", line), line
    assert told[-1].endswith("about 0 s left")
    _, told, _ = quick(["xor"], tmp_path, seeds=3)
    assert told[0] == f"xor: {n} of {n * 3 // 2} runs are there already" and told[1] == f"xor: {n // 2} runs to do"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_experiment_gives_tables_figures_and_runs(name, tmp_path, made_up_data):
    if name == "images":
        pytest.importorskip("sklearn", reason="the picture is scikit-learn's")
    said, _, left_out = quick([name], tmp_path)
    assert left_out == []
    experiment = EXPERIMENTS[name]
    text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    runs = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))["runs"]
    for title, lines in experiment.tables(runs):
        assert f"{title}\n\n{lines}\n" in text and lines in said
    figures = [file.stem for file in tmp_path.glob("*.png")]
    assert sorted(figures) == sorted(file.stem for file in tmp_path.glob("*.svg")) == sorted(experiment.figures(runs))
    assert all(f"![{figure}]({figure}.png)" in text for figure in figures)
    with open(tmp_path / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["form"], row["seed"]) for row in rows] == [(run["form"], str(run["seed"])) for run in runs]
    assert not list(tmp_path.glob(".*"))  # nothing half-written

    # Again: nothing is left to do, and what comes of it is the same to the byte.
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    _, told, _ = quick([name], tmp_path)
    assert all("runs are there already" in line for line in told)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_was_interrupted_goes_on(tmp_path, monkeypatch):
    done = []
    run = EXPERIMENTS["xor"].run

    def interrupted(settings, seed):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((settings, seed))
        return run(settings, seed)

    monkeypatch.setitem(EXPERIMENTS, "xor", _with(EXPERIMENTS["xor"], run=interrupted))
    with pytest.raises(KeyboardInterrupt):
        quick(["xor"], tmp_path)
    kept = json.loads((tmp_path / "xor.json").read_text(encoding="utf-8"))["runs"]
    assert len(kept) == 3 and not (tmp_path / "xor.md").exists()
    done.append(None)
    quick(["xor"], tmp_path)
    jobs = EXPERIMENTS["xor"].stages[0](Plan(range(2), True), [])
    assert [entry for entry in done if entry] == [(job.settings, job.seed) for job in jobs]
    assert json.loads((tmp_path / "xor.json").read_text(encoding="utf-8"))["runs"][:3] == kept
    # More seeds: only those that are new are trained.
    done[:] = [None] * 4
    quick(["xor"], tmp_path, seeds=3)
    assert {entry[1] for entry in done if entry} == {2}


TIMES = ("seconds", "switch_seconds", "dense_step", "factored_step")


def test_what_was_killed_goes_on(tmp_path):
    def ended(run):
        return {key: value for key, value in run.items() if key not in TIMES}

    package, file = str(Path(sf.__file__).parents[1]), tmp_path / "killed" / "xor.json"
    command = [sys.executable, "-P", "-m", "svdfast", "reproduce", "xor", "--seeds", "9", "--quick", "--out", "killed"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path, env=os.environ | {"PYTHONPATH": package}) as process:
        while not file.exists():
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    kept = json.loads(file.read_text(encoding="utf-8"))["runs"]
    (file.parent / ".xor.json.1-1.part").write_text("cut short", encoding="utf-8")
    for folder in ("killed", "whole"):
        quick(["xor"], tmp_path / folder, seeds=9)
    runs, whole = (json.loads((tmp_path / name / "xor.json").read_text(encoding="utf-8"))["runs"] for name in ("killed", "whole"))
    assert 0 < len(kept) < len(runs) and runs[: len(kept)] == kept
    assert [ended(run) for run in runs] == [ended(run) for run in whole]
    assert not list(file.parent.glob(".*"))


def test_ctrl_c(tmp_path, capsys, monkeypatch):
    def interrupted(settings, seed):
        raise KeyboardInterrupt

    monkeypatch.setitem(EXPERIMENTS, "xor", _with(EXPERIMENTS["xor"], run=interrupted))
    assert main(["reproduce", "xor", "--out", str(tmp_path / "out")]) == 130
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith(" runs to do") and rest == ["The runs that were done are kept: the same command goes on.", "svdfast: interrupted"]
    assert list((tmp_path / "out").iterdir()) == []


def _with(experiment, **changes):
    return type(experiment)(**(vars(experiment) | changes))


def test_the_same_seed_gives_the_same_runs(tmp_path):
    for folder in ("a", "b"):
        quick(["xor"], tmp_path / folder, seeds=1)
    a, b = (json.loads((tmp_path / folder / "xor.json").read_text(encoding="utf-8"))["runs"] for folder in "ab")
    assert [run["costs"] for run in a] == [run["costs"] for run in b]


def test_missing_data_is_told_and_the_others_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SVDFAST_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _training.load.cache_clear()
    assert main(["reproduce", "cat", "xor", "--quick", "--seeds", "1"]) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.out.splitlines() if "left out" in line]
    assert line.startswith("cat was left out: ")
    if "h5py" not in line:
        assert "put them into" in line and "SVDFAST_DATA" in line
    assert captured.err.splitlines()[-1] == f"svdfast: error: {line}"
    assert (tmp_path / "reproduction-quick" / "xor.md").exists()
    assert not (tmp_path / "reproduction-quick" / "cat.md").exists()


def test_missing_packages(tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sklearn.datasets", None)
        _, _, left_out = quick(["images"], tmp_path / "pictures")
    assert left_out == [
        'images was left out: the pictures need scikit-learn and matplotlib: pip install "svdfast[demo,plot]"'
    ]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["reproduce", "xor", "--out", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == 'svdfast: error: figures need matplotlib: pip install "svdfast[plot]"\n'
    assert not (tmp_path / "none").exists()


def test_a_part_without_data_is_told_and_the_others_run(tmp_path, made_up_data, monkeypatch):
    def load(name):
        if name in missing:
            raise FileNotFoundError(f"no {name}")
        return made_up_samples(name)

    monkeypatch.setattr(_layered, "load", load)
    missing = {"characters"}
    _, _, left_out = quick(["recurrent"], tmp_path)
    assert left_out == ["of recurrent a part was left out: characters, LSTM 256: no characters"]
    runs = json.loads((tmp_path / "recurrent.json").read_text(encoding="utf-8"))["runs"]
    assert len(runs) == 2 * (len(_layered.METHODS) + 1) and not any("characters" in run["form"] for run in runs)
    # They are there again, and so is what is left to do.
    missing = set()
    _, _, left_out = quick(["recurrent"], tmp_path)
    assert left_out == [] and len(recurrent.EXPERIMENT.tables(runs)) == 2
    missing = {"characters", "adding", "mnist"}
    _, _, (line,) = quick(["recurrent"], tmp_path)
    assert line.startswith("recurrent was left out: ") and "no mnist" in line


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["mnits"], 2, "EXPERIMENT: expected one of xor, cat, mnist, small, images, study, recurrent, convolution or all, got 'mnits'"),
        (["xor", "--seeds", "0"], 2, "argument --seeds: expected an integer from 1 to 1000, got '0'"),
        (["xor", "--out", "file"], 1, "svdfast: error: file: File exists"),
        (["xor", "--out", "broken"], 1, "xor.json: not a file of runs; rename or delete it"),
    ],
)
def test_errors(argv, status, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "xor.json").write_text('{"runs": [{"form": 1}]}')
    assert main(["reproduce", *argv]) == status
    assert message in capsys.readouterr().err
    assert (tmp_path / "broken" / "xor.json").read_text() == '{"runs": [{"form": 1}]}'


def test_disagreement():
    assert cat.disagreement("1100", "1010")[:2] == (1, 1)
    assert cat.disagreement("11", "11") == (0, 0, 1.0)
    only_first, only_second, p = cat.disagreement("1" * 6 + "0", "0" * 6 + "0")
    assert (only_first, only_second) == (6, 0) and p == pytest.approx(2 * 0.5**6)


def test_a_run_that_diverges(tmp_path, monkeypatch):
    def diverges(settings, seed):
        raise FloatingPointError("the loss became nan at step 1")

    monkeypatch.setattr(study, "run_training", diverges)
    assert study.run({"hold_out": 10}, 0)["test_accuracy"] == 0
    with pytest.raises(FloatingPointError):
        study.run({}, 0)
    monkeypatch.setitem(EXPERIMENTS, "xor", _with(EXPERIMENTS["xor"], run=diverges))
    with pytest.raises(FloatingPointError, match="xor, Adam, DNN, seed 0: the loss became nan"):
        quick(["xor"], tmp_path)


def test_runs_of_another_machine_are_done_anew(tmp_path, monkeypatch):
    quick(["xor"], tmp_path, seeds=1)
    before = json.loads((tmp_path / "xor.json").read_text(encoding="utf-8"))["runs"]
    monkeypatch.setattr(_records, "machine", lambda: "another")
    monkeypatch.setattr(_training, "machine", lambda: "another")
    quick(["xor"], tmp_path, seeds=1)
    after = json.loads((tmp_path / "xor.json").read_text(encoding="utf-8"))["runs"]
    assert len(after) == len(before) and {run["machine"] for run in after} == {"another"}
    assert [run["costs"] for run in after] == [run["costs"] for run in before]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and pipes")
def test_a_reader_that_went_away(tmp_path):
    package = str(Path(sf.__file__).parents[1])
    command = [sys.executable, "-P", "-m", "svdfast", "reproduce", "xor", "--quick", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": package}
    ) as process:
        process.stdout.close()
        assert b"Broken pipe" not in process.stderr.read()
        assert process.wait() == 141


@pytest.mark.parametrize(("seeds", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_numbers_of_seeds_are_checked(seeds, error, tmp_path):
    with pytest.raises(error, match="seeds: expected"):
        reproduce(["xor"], tmp_path / "out", seeds=seeds)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"names: expected some of xor, cat, .*, got XOR"):
        reproduce(["xor", "XOR"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_counts_are_those_of_the_equations(tmp_path, made_up_data):
    """784-512-256-10 at α = 1/2, 1/4, 1/8: what the method's counts say."""
    quick(["mnist"], tmp_path, seeds=1)
    runs = {run["form"]: run for run in json.loads((tmp_path / "mnist.json").read_text(encoding="utf-8"))["runs"]}
    for form, forward, step in (("1/2", 1.24, 1.10), ("1/4", 2.46, 2.18), ("1/8", 4.86, 4.30)):
        run = runs[f"α {form}, φ 10 %"]
        assert run["forward_dense"] / run["forward"] == pytest.approx(forward, abs=0.005)
        assert run["step_dense"] / run["step"] == pytest.approx(step, abs=0.005)
    assert set(runs) == set(mnist.METHODS)


@pytest.mark.parametrize("reading", ["Adam", "gradient descent"])
def test_the_report_factors_layers_of_few_inputs_at_a_constant_rate(reading, monkeypatch):
    """Its method is not ours: by default α leaves layers of few inputs dense, and a rate falls at the end."""
    results = []
    train = _training.train
    monkeypatch.setattr(_training, "train", lambda *a, **k: results.append(train(*a, **k)) or results[-1])
    (job,) = (job for job in EXPERIMENTS["xor"].stages[0](Plan(range(1), True), []) if job.form == f"{reading}, SVD-DNN")
    assert _training.run_training(job.settings, job.seed)["ranks"] == (1, 10)
    assert {row["learning_rate"] for row in results[-1].history} == {0.01}
    (switch,) = (event for event in results[-1].events if event.kind == "switch")
    assert set(switch.info["learning_rate_scales"]) == {1.0}


def test_the_pareto_line_and_the_recommendation():
    found = [("1/2", 0.1, 0.3, 1.0), ("1/4", 0.1, 0.3, 2.0), ("1/8", 0.0, -0.4, 4.0), ("1/8", 0.1, 0.1, 3.0), ("1/16", 0.1, -0.5, 3.9)]
    assert study.pareto(found) == [found[1], found[3], found[2]]
    # Nothing is faster than dense, nor more accurate.
    assert study.pareto([("1/2", 0.1, -0.3, 0.9)]) == [study.DENSE]

    def run(form, accuracy, seconds=10.0):
        return {"form": form, "seed": 0, "test_accuracy": accuracy, "seconds": seconds}

    runs = []
    for data in study.DATA:
        runs.append(run(study.form(data, "784-512-256-10", None, None), 90.0, 10.0))
        for alpha in study.FRACTIONS:
            for share in study.SHARES:
                good = alpha == "1/8" and share in (0.05, 0.1)
                # One of the two is good on one data set only.
                lower = share == 0.05 and data == "mnist"
                runs.append(run(study.form(data, "784-512-256-10", alpha, share), 90.2 - 0.5 * (not good or lower), 5.0))
    assert [(alpha, share) for alpha, share, _, _ in study.recommended(runs)] == [("1/8", 0.1)]


def test_the_best_rate_is_chosen_on_held_out_samples():
    plan = Plan(range(3))
    for job in study.tuning(plan, []):
        assert job.settings["hold_out"] == study.HELD_OUT and job.seed == study.TUNING_SEED
    runs = [
        {"form": job.form, "seed": job.seed, "settings": job.settings, "test_accuracy": -abs(job.settings["learning_rate"] - 3e-3)}
        for job in study.tuning(plan, [])
    ]
    jobs = study.grid(plan, runs)
    assert {job.settings["learning_rate"] for job in jobs} == {3e-3}
    assert all("hold_out" not in job.settings for job in jobs)
    assert len({(job.form, job.seed) for job in jobs}) == len(jobs) == 3 * (2 * (1 + 4 * 7) + 2 * 5)


def test_runs_of_some_seeds_and_forms_have_a_table():
    """Differences are between the same seeds; multiplications are those of the phases."""

    def run(method, seed, loss, factored):
        return {
            "form": f"characters, LSTM 256, {method}", "seed": seed, "settings": {"epochs": 1, "batch_size": 4, "learning_rate": 0.1},
            "test_loss": loss * math.log(2), "ranks": [None, 8 if factored else None], "step": 50 if factored else 100, "step_dense": 100,
            "phases": [{"steps": 10, "multiplications": 100}, {"steps": 30, "multiplications": 50 if factored else 100}],
        }  # fmt: skip

    runs = [run("dense", 0, 2.0, False), run("auto", 0, 2.1, True), run("dense", 1, 3.0, False)]
    ((title, text),) = recurrent.EXPERIMENT.tables(runs)
    assert title == "characters, LSTM 256: 1 epoch, batch 4, rate 0.1"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert cells == [
        ["dense", "–, –", "2.500 ± 0.707", "–", "–", "1.00", "–", "100", "2"],
        ["auto", "–, 8", "2.100", "+0.100", "–", "2.00", "–", "62", "1"],
    ]


def test_the_adding_problem_and_characters():
    X, y = _samples.adding(50, 0)
    assert X.shape == (50, 100, 2) and (X[:, :50, 1].sum(axis=1) == 1).all() and (X[:, 50:, 1].sum(axis=1) == 1).all()
    np.testing.assert_allclose((X[:, :, 0] * X[:, :, 1]).sum(axis=1), y, rtol=1e-6)
    text = "".join(chr(32 + i * i % 90) for i in range(3005))
    (X, y), (X_test, _) = _samples.characters(text)
    kinds = sorted(set(text))
    assert X.shape == y.shape == (27, 100) and X_test.shape == (3, 100)
    assert "".join(kinds[i] for i in X.ravel()) == text[:2700] and "".join(kinds[i] for i in y.ravel()) == text[1:2701]
    assert "".join(kinds[i] for i in X_test.ravel()) == text[2704:3004]


def test_a_picture_of_full_rank_is_the_picture():
    pytest.importorskip("sklearn", reason="the picture is scikit-learn's")
    clean = images.picture()
    assert clean.shape == (427, 640) and 0 <= clean.min() < clean.max() <= 1
    low, whole = images.kept(clean, [3, 427])
    np.testing.assert_allclose(whole, clean, atol=1e-10)
    assert np.linalg.matrix_rank(low) == 3
    assert images.psnr(clean + 0.1, clean) == pytest.approx(20)


def test_tables():
    assert table(["", "a"], [["x", "1.5"], ["long", "–"]]) == (
        "|      |   a |\n| ---- | --: |\n| x    | 1.5 |\n| long |   – |"
    )
    assert spread([1.0, 2.0, 3.0], 1) == "2.0 ± 1.0"
    assert spread([1.25], 2) == "1.25"
