# SPDX-License-Identifier: BSD-3-Clause
"""Tests of splits, scaling, results files and comparisons of suite.py."""

import numpy as np
import pytest
import suite
import suite_data
from suite_data import Raw


def made(n: int = 1000, **changes: object) -> Raw:
    rng = np.random.default_rng(0)
    X = np.column_stack([np.arange(n), np.full(n, 7.0), rng.normal(5, 3, n)])
    return Raw(X, np.repeat(np.arange(10), n // 10), 10)._replace(**changes)


def record(way: str, seed: int, score: float | None, seconds: float = 1.0) -> suite.Record:
    job = {"part": "default", "set": "wine", "network": "8", "way": way, "seed": seed, "steps": 9}
    job |= {"threads": 1, "rate": None, "n": 3, "inputs": 2, "score": score, "seconds": seconds}
    return job | {"ranks": [4, None] if way == "default" else None, "error": "it diverged"}


def test_a_fifth_is_held_out_and_rows_keep_their_order():
    parts = suite_data.split(made(), 0)
    assert (len(parts.X), len(parts.X_test)) == (800, 200)
    assert (np.diff(parts.X[:, 0]) > 0).all() and (np.diff(parts.y) >= 0).all()
    assert len(np.unique(np.concatenate([parts.X[:, 0], parts.X_test[:, 0]]))) == 1000
    other = suite_data.split(made(), 1)
    assert not np.array_equal(parts.y_test, other.y_test)


def test_scaling_is_by_the_training_part_and_constant_columns_become_0():
    parts = suite_data.split(made(), 0)
    assert parts.X.dtype == parts.X_test.dtype == np.float32
    np.testing.assert_allclose(parts.X[:, [0, 2]].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(parts.X[:, [0, 2]].std(axis=0), 1, rtol=1e-5)
    assert not parts.X[:, 1].any() and not parts.X_test[:, 1].any()
    assert abs(parts.X_test[:, 0].mean()) > 1e-4


def test_tuning_never_sees_the_test_part():
    test = np.full((5, 3), 1e9), np.zeros(5, int)
    parts = suite_data.split(made(test=test), 0, tuning=True)
    assert (len(parts.X), len(parts.X_test)) == (800, 200)
    assert np.abs(parts.X_test).max() < 10


def test_noise_is_in_the_training_labels_alone():
    clean, noisy = (suite_data.split(made(noise=noise), 0) for noise in (0.0, 0.5))
    np.testing.assert_array_equal(clean.y_test, noisy.y_test)
    assert 0.35 < (clean.y != noisy.y).mean() < 0.55


def test_ways_are_compared_seed_by_seed():
    runs = [record("dense", 0, 90.0, 2.0), record("dense", 1, 80.0, 4.0)]
    runs += [record("default", 0, 89.0, 1.0), record("default", 1, 81.0, 3.0)]
    runs += [record("1/4", 1, 60.0), record("1/8", 0, None), record("default", 2, 1.0)]
    default, quarter = suite.compare(runs)
    assert (default.differences, default.time) == ([-1.0, 1.0], 0.625)
    assert default.limit == pytest.approx(-2 * 50**0.5) and not default.is_worse
    assert (quarter.way, quarter.difference, quarter.is_worse) == ("1/4", -20.0, True)
    assert quarter.limit == -suite.TOLERANCE
    assert (default.ranks, quarter.ranks) == ("4 –", "dense")


def test_a_results_file_is_continued_past_an_unfinished_line(tmp_path, monkeypatch, capsys):
    file = tmp_path / "runs.jsonl"
    results = suite.Results(file)
    results.add(record("dense", 0, 90.0))
    results.add(record("default", 0, None))
    with file.open("a") as stream:
        stream.write('{"part": "def')
    monkeypatch.setattr(suite, "train", lambda job, parts: {"score": 50.0, "seconds": 1.0})
    monkeypatch.setattr(suite_data, "parts", lambda *_: suite_data.split(made(), 0))
    results = suite.Results(file)
    for way, score in (("dense", 90.0), ("1/4", 50.0)):
        job = {name: record(way, 0, 0.0)[name] for name in suite.KEY}
        assert results.run(job)["score"] == score
    assert [r["score"] for r in suite.read([file]) if "set" in r] == [90.0, None, 50.0]
    suite.report([file])
    assert "failed: default wine 8 default 0" in capsys.readouterr().out
