# SPDX-License-Identifier: BSD-3-Clause
"""Trainings over several processes, with threads in place of processes (team.py). Elsewhere: MPI itself (test_mpi.py)."""

import copy
import importlib
import math
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import team
import workers
from hypothesis import given
from hypothesis import strategies as st

import svdfast as sf
from svdfast import layers as L
from svdfast.data.shared import Share, cut
from svdfast.training import auto
from svdfast.training.run import Run
from svdfast.training.shared import SharedRun

SIZES = (1, 2, 3, 4)


def networks(kind, dtype="float64", seed=0):
    if kind == "linear":
        return sf.Network([24, 16, 16, 3], seed=seed, dtype=dtype)
    if kind == "gru":
        body = [L.Masking(), L.GRU(8, return_sequences=True, bidirectional=True), L.Dropout(0.2), L.LSTM(8)]
        return sf.Network(sf.Input(6, 4), [*body, L.Linear(3, "softmax")], seed=seed, dtype=dtype)
    body = [L.Conv2d(6, 3, "relu", padding="same"), L.MaxPool2d(2), L.Flatten(), L.Dropout(0.3), L.Linear(12, "relu")]
    return sf.Network(sf.Input(4, 6, 1), [*body, L.Linear(3, "softmax")], seed=seed, dtype=dtype)


def samples(n=70, dtype="float64", seed=1):
    X = np.random.default_rng(seed).standard_normal((n, 24)).astype(dtype)
    return X, X[:, :3].argmax(axis=1)


def method(form, kind):
    """Dense, factored from the first step on, and across switch and recomposition."""
    if form == "dense":
        return None
    n_weights = {"linear": 2, "gru": 5, "conv": 2}[kind]
    phi = {"factored": 0.0, "across": 0.4}[form]
    return sf.Factoring([3] * n_weights, force=True, pretrain_fraction=phi, recompose_fraction=0.3 if form == "across" else None)


def one(net, X, y, **settings):
    return sf.train(net, X, y, **settings)


def all_of(size, work, *, mixed=True):
    """What each process returns; all have to."""
    found, group = team.together(size, work, mixed=mixed)
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return found, group


def trained(size, X, y, *, kind="linear", dtype="float64", mixed=True, truncated=None, **settings):
    """Parameters and result of process 0, once all processes were seen to have the same."""

    def work(communicator):
        net = networks(kind, dtype, seed=communicator.rank)  # that of process 0 counts
        given = {name: value() if callable(value) else value for name, value in settings.items()}
        return sf.train(net, X, y, n_threads=1 + communicator.rank % 2, communicator=communicator, **given)

    results, group = all_of(size, work, mixed=mixed)
    first = results[0]
    for other in results[1:]:
        np.testing.assert_array_equal(other.network.parameters, first.network.parameters)
        assert other.network.layout == first.network.layout
        assert other.history == first.history
        assert [(e.kind, e.step) for e in other.events] == [(e.kind, e.step) for e in first.events]
        assert other.n_steps == first.n_steps
    return first, group


def assert_near(result, expected, rtol=1e-9):
    assert [(e.kind, e.step) for e in result.events] == [(e.kind, e.step) for e in expected.events]
    for name in ("loss", "val_loss", "val_accuracy", "learning_rate"):
        here, there = ([row.get(name) for row in each.history] for each in (result, expected))
        if any(value is not None for value in there):
            np.testing.assert_allclose(here, there, rtol=rtol)
    np.testing.assert_allclose(result.network.parameters, expected.network.parameters, rtol=rtol * 100, atol=rtol)


# Shares


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 40), st.booleans())
def test_shares_cover_a_batch_once(n, size, batch_size, reproducible):
    n = min(n, batch_size)
    shares = [Share(rank, size, batch_size, reproducible=reproducible) for rank in range(size)]
    places = [place for share in shares for place in range(*share.rows(n))]
    assert places == list(range(n))
    assert n == 0 or shares[0].rows(n)[1] > 0  # process 0 adds the penalties
    lanes = [lane for share in shares for lane in share.lanes]
    assert lanes == list(range(shares[0].n_lanes))
    for share in shares:  # a lane is of one process
        begin, stop = share.rows(n)
        if share.lanes:
            assert begin == cut(share.lanes[0], n, share.n_lanes)
            assert stop == cut(share.lanes[-1] + 1, n, share.n_lanes)
        most = max((cut(i + 1, n, share.n_parts) - cut(i, n, share.n_parts) for i in range(share.n_parts)), default=stop - begin)
        assert most <= share.height


@given(st.integers(1, 6000), st.sampled_from([1, 2, 4]))
def test_parts_do_not_depend_on_the_number_of_processes(batch_size, size):
    alone, share = (Share(0, n, batch_size, reproducible=True) for n in (1, size))
    assert share.n_parts == alone.n_parts and share.height == alone.height and share.n_lanes == alone.n_lanes
    assert share.active == size and share.height <= 256


# The same as one process, to rounding


@pytest.mark.parametrize("form", ["dense", "factored", "across"])
@pytest.mark.parametrize("kind", ["linear", "gru", "conv"])
def test_as_one_process(kind, form):
    X, y = samples()
    settings = {"epochs": 4, "batch_size": 32, "factoring": method(form, kind), "validation": samples(40, seed=2)}
    expected = one(networks(kind), X, y, **settings)
    for size in SIZES:
        result, _ = trained(size, X, y, kind=kind, **settings)
        assert_near(result, expected)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 33])
def test_fewer_rows_than_processes_and_small_tails(n):
    X, y = samples(n)
    settings = {"epochs": 3, "batch_size": 4, "factoring": None}
    expected = one(networks("linear"), X, y, **settings)
    for size in (2, 3, 4, 6):
        result, _ = trained(size, X, y, **settings)
        assert_near(result, expected)


OPTIONS = {
    "sgd": {"optimizer": lambda: sf.GradientDescent(0.1, momentum=0.9, nesterov=True)},
    "adamw": {"optimizer": lambda: sf.AdamW(0.01, weight_decay=0.1)},
    "penalties": {"l1": 0.1, "l2": 0.2},
    "clipped": {"clip_norm": 0.05, "l2": 0.1},
    "weights": {"sample_weight": np.arange(70.0) % 4, "l1": 0.1},
    "weights, clipped": {"sample_weight": np.arange(70.0) % 4, "clip_norm": 0.1},
    "in order": {"shuffle": False},
    "one batch": {"batch_size": 100},
    "plateau": {"optimizer": lambda: sf.Adam(sf.schedules.ReduceOnPlateau(0.5, patience=1)), "epochs": 8},
    "stopping": {"early_stopping": lambda: sf.EarlyStopping(patience=1), "epochs": 12, "optimizer": lambda: sf.Adam(0.3)},
    "guard": {"factoring": lambda: sf.Factoring([2, 2], force=True, guard=sf.Guard(0.0, "delay"), pretrain_fraction=0.2)},
    "guard, raise": {"factoring": lambda: sf.Factoring([2, 2], force=True, guard=sf.Guard(0.0, "raise"), pretrain_fraction=0.2)},
    "decay": {"factoring": lambda: sf.Factoring([2, 2], force=True, pretrain_fraction=0.2, product_decay=0.3)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_as_in_one_process(name):
    X, y = samples()
    settings = {"epochs": 4, "batch_size": 32, "factoring": None, "validation": samples(40, seed=2)} | OPTIONS[name]
    expected = one(networks("linear"), X, y, **{k: v() if callable(v) else v for k, v in settings.items()})
    for size in (2, 3):
        result, _ = trained(size, X, y, **settings)
        assert_near(result, expected)


def test_float32_and_bfloat16():
    X, y = samples(dtype="float32")
    for precision in ("float32", "bfloat16"):
        settings = {"epochs": 3, "batch_size": 32, "factoring": None, "precision": precision}
        expected = one(networks("linear", "float32"), X, y, **settings)
        result, _ = trained(2, X, y, dtype="float32", **settings)
        assert_near(result, expected, rtol=1e-5 if precision == "float32" else 1e-2)


@pytest.mark.parametrize("few", [-1, 1])
def test_sparse_samples(few, monkeypatch):
    monkeypatch.setattr("svdfast.data.sparse.FEW", few)
    X, y = samples()
    X = scipy.sparse.csr_array(np.where(X > 0.5, X, 0))
    settings = {"epochs": 3, "batch_size": 16, "factoring": None}
    expected = one(networks("linear"), X, y, **settings)
    for size in SIZES:
        result, _ = trained(size, X, y, **settings)
        assert_near(result, expected)


def test_the_same_run_twice_gives_the_same_bits():
    X, y = samples()
    first, again = (trained(3, X, y, mixed=False, epochs=3, batch_size=16)[0] for _ in range(2))
    np.testing.assert_array_equal(first.network.parameters, again.network.parameters)


# Bytes


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bytes_of_a_step_follow_the_formula(form, dtype):
    X, y = samples(64, dtype)
    n_parameters = []

    def run(epochs):
        result, group = trained(
            2, X, y, dtype=dtype, epochs=epochs, batch_size=16, factoring=None if form == "dense" else
            sf.Factoring([3, 3], force=True, pretrain_fraction=0.0, recompose=False),
        )  # fmt: skip
        n_parameters.append(result.network.parameters.size)
        return group.lengths

    itemsize = np.dtype(dtype).itemsize
    lengths = run(3)
    of_steps = [(length, size) for length, size in lengths if length == n_parameters[0] + 3]
    assert len(of_steps) == 3 * 4
    assert {length * size for length, size in of_steps} == {itemsize * n_parameters[0] + 3 * itemsize}
    # Everything else is small: agreements, checksums, events.
    assert max([length for length, _ in lengths if length != n_parameters[0] + 3], default=0) <= 8


# The same bits


@pytest.mark.parametrize("form", ["dense", "factored", "across"])
@pytest.mark.parametrize("kind", ["linear", "gru", "conv"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reproducible_over_processes(kind, form, dtype):
    X, y = samples(dtype=dtype)
    settings = {"epochs": 3, "batch_size": 32, "factoring": method(form, kind), "validation": samples(40, dtype, seed=2)}
    alone, _ = trained(1, X, y, kind=kind, dtype=dtype, reproducible=True, **settings)
    for size in (2, 3, 4):
        result, _ = trained(size, X, y, kind=kind, dtype=dtype, reproducible=True, **settings)
        np.testing.assert_array_equal(result.network.parameters, alone.network.parameters)
        for name in ("loss", "val_loss", "val_accuracy"):
            assert [row[name] for row in result.history] == [row[name] for row in alone.history]
    # As in a training without a communicator, to rounding.
    expected = one(networks(kind, dtype), X, y, reproducible=True, **settings)
    assert_near(alone, expected, rtol=1e-9 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("name", ["sgd", "penalties", "clipped", "weights", "weights, clipped", "one batch", "stopping", "guard"])
def test_options_reproducible(name):
    X, y = samples(dtype="float32")
    settings = {"epochs": 3, "batch_size": 32, "factoring": None, "validation": samples(40, "float32", seed=2)} | OPTIONS[name]
    alone, *others = (trained(size, X, y, dtype="float32", reproducible=True, **settings)[0] for size in (1, 2, 4, 7))
    for other in others:
        np.testing.assert_array_equal(other.network.parameters, alone.network.parameters)


def test_large_batches_reproducible():
    """With several parts in each process, and more than a tile of rows."""
    X, y = samples(2500, "float32")
    settings = {"epochs": 2, "batch_size": 2048, "factoring": None, "reproducible": True}
    alone, *others = (trained(size, X, y, dtype="float32", **settings)[0] for size in (1, 2, 4))
    for other in others:
        np.testing.assert_array_equal(other.network.parameters, alone.network.parameters)


def test_reproducible_costs_bytes_beyond_two_processes():
    X, y = samples(32, "float32")
    n = networks("linear").parameters.size + 3
    for size, pairs in ((2, 1), (4, 2)):
        _, group = trained(size, X, y, dtype="float32", epochs=1, batch_size=32, factoring=None, reproducible=True)
        assert max(length for length, _ in group.lengths) == pairs * n


# "auto"


@pytest.fixture
def eager(monkeypatch):
    """As `workers.eager`, for a test."""
    for name in ("LEAST", "THIN", "WORTH", "SHARE", "SHARES", "LOOKING", "LOST", "SHORTEST", "LATEST"):
        monkeypatch.setattr(auto, name, getattr(auto, name))
    monkeypatch.setattr(Run, "constant_loss", Run.constant_loss)
    workers.eager()


def test_auto(eager):
    X, y = samples(600)
    factoring = sf.Factoring(pretrain_fraction=0.2)
    settings = {"epochs": 6, "batch_size": 64, "factoring": factoring, "reproducible": True}
    alone, *others = (trained(size, X, y, **settings)[0] for size in (1, 2, 4))
    assert {"ranks", "switch"} <= {event.kind for event in alone.events}
    for other in others:
        np.testing.assert_array_equal(other.network.parameters, alone.network.parameters)
        assert [event.kind for event in other.events] == [event.kind for event in alone.events]


# Carried states


def streams(dtype="float64"):
    X = np.random.default_rng(3).standard_normal((24, 5, 4)).astype(dtype)
    return X, X[:, :, 0].argmax(axis=1) % 3


def recurrent(dtype="float64", seed=0):
    return sf.Network(sf.Input(5, 4), [L.LSTM(6, return_sequences=True), L.GRU(5), L.Linear(3, "softmax")], seed=seed, dtype=dtype)


def test_carried_states():
    X, y = streams()
    settings = {"epochs": 3, "batch_size": 8, "factoring": None, "carry_state": True}
    expected = sf.train(recurrent(), X, y, **settings)
    for size in SIZES:
        results, _ = all_of(size, lambda c: sf.train(recurrent(), X, y, communicator=c, **settings))
        assert_near(results[0], expected)
    alone, *others = (
        all_of(size, lambda c: sf.train(recurrent(), X, y, communicator=c, reproducible=True, **settings))[0][0] for size in (1, 2, 4)
    )
    for other in others:
        np.testing.assert_array_equal(other.network.parameters, alone.network.parameters)


# Checkpoints


@pytest.mark.parametrize("form", ["dense", "factored", "across"])
@pytest.mark.parametrize("kind", ["linear", "gru", "conv"])
def test_resume_with_another_number_of_processes(folder, kind, form):
    X, y = samples(dtype="float32")
    validation = samples(40, "float32", seed=2)
    settings = {"epochs": 4, "batch_size": 16, "factoring": method(form, kind), "reproducible": True, "validation": validation}
    whole, _ = trained(1, X, y, kind=kind, dtype="float32", **settings)

    def broken(size, stop):
        def power_cut(event):
            if event.step >= stop:
                raise OSError("power cut")

        def work(communicator):
            net = networks(kind, "float32", seed=communicator.rank)
            return sf.train(
                net, X, y, communicator=communicator, checkpoint="run.ckpt", checkpoint_every=3,
                callbacks=[power_cut] if communicator.rank == 0 else [], **settings,
            )  # fmt: skip

        found, _ = team.together(size, work, mixed=True)
        assert all(isinstance(error, OSError) for error in found)

    def resumed(size):
        return all_of(size, lambda c: sf.resume("run.ckpt", X, y, validation=settings["validation"], communicator=c))[0]

    for first, then in ((2, 4), (4, 1), (1, 3)):
        broken(first, 7)
        for result in resumed(then):
            np.testing.assert_array_equal(result.network.parameters, whole.network.parameters)
            assert [row["loss"] for row in result.history] == [row["loss"] for row in whole.history]
        os.remove("run.ckpt")
    # And in a process of its own.
    broken(2, 7)
    result = sf.resume("run.ckpt", X, y, validation=settings["validation"])
    np.testing.assert_allclose(result.network.parameters, whole.network.parameters, rtol=1e-3, atol=1e-4)


def test_resume_with_carried_states(folder):
    X, y = streams("float32")
    settings = {"epochs": 3, "batch_size": 8, "factoring": None, "carry_state": True, "reproducible": True}

    def work(communicator):
        def rate(step, n_steps):
            if step == 4:
                raise OSError("power cut")
            return 1e-3

        return sf.train(
            recurrent("float32"), X, y, communicator=communicator, optimizer=sf.Adam(rate), checkpoint="run.ckpt", checkpoint_every=2,
            **settings,
        )  # fmt: skip

    def constant(step, n_steps):
        return 1e-3

    def undisturbed(communicator):
        return sf.train(recurrent("float32"), X, y, communicator=communicator, optimizer=sf.Adam(constant), **settings)

    whole = all_of(1, undisturbed)[0][0]
    found, _ = team.together(2, work)
    assert all(isinstance(error, OSError | team.Broken) for error in found)
    results, _ = all_of(4, lambda c: sf.resume("run.ckpt", X, y, optimizer=sf.Adam(constant), communicator=c))
    np.testing.assert_array_equal(results[0].network.parameters, whole.network.parameters)


def test_only_process_0_writes(folder):
    X, y = samples()
    trained(3, X, y, epochs=2, batch_size=16, factoring=None, checkpoint="run.ckpt")
    assert os.listdir() == ["run.ckpt"]
    found, _ = team.together(2, lambda c: sf.train(networks("linear"), X, y, communicator=c, checkpoint="run.ckpt"))
    assert all(isinstance(error, FileExistsError) for error in found)


# Callbacks


def test_callbacks_are_called_in_process_0():
    X, y = samples()
    calls = []

    def work(communicator):
        def note(event):
            calls.append((communicator.rank, "first", event.kind))

        def everywhere(event):
            calls.append((communicator.rank, "all", event.kind))

        everywhere.everywhere = True
        factoring = sf.Factoring([3, 3], force=True, pretrain_fraction=0.5)
        return sf.train(networks("linear"), X, y, epochs=2, communicator=communicator, factoring=factoring, callbacks=[note, everywhere])

    all_of(3, work)
    kinds = ["switch", "epoch", "epoch", "recompose"] if calls[0][2] == "switch" else ["epoch", "switch", "epoch", "recompose"]
    assert [kind for rank, which, kind in calls if which == "first"] == kinds
    assert {rank for rank, which, _ in calls if which == "first"} == {0}
    for rank in range(3):
        assert [kind for r, which, kind in calls if which == "all" and r == rank] == kinds


@pytest.mark.parametrize("rank", [0, 1, None])
def test_an_exception_of_a_callback_in_all_is_raised_by_all(rank):
    X, y = samples()

    def work(communicator):
        def note(event):
            if rank in (None, communicator.rank):
                raise OSError("no disk")
            raise sf.StopTraining

        note.everywhere = True
        return sf.train(networks("linear"), X, y, epochs=3, factoring=None, communicator=communicator, callbacks=[note])

    found, group = team.together(3, work)
    assert all(isinstance(error, OSError) and "no disk" in str(error) for error in found), found
    assert not group.barrier.broken


def test_an_exception_of_a_callback_of_an_estimator_is_raised_by_all():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    sklearn = importlib.import_module("svdfast.sklearn")
    X, y = samples()

    def fail(event):
        raise OSError("no disk")

    found, group = team.together(2, lambda c: sklearn.SVDMLPClassifier((8,), communicator=c).fit(X, y, callbacks=[fail]))
    assert all(isinstance(error, OSError) and "no disk" in str(error) for error in found), found
    assert not group.barrier.broken


@pytest.mark.parametrize("where", [[0], [0, 1, 2]])
def test_a_callback_stops_all(where):
    X, y = samples()

    def stop(event):
        if event.kind == "epoch" and event.epoch == 2:
            raise sf.StopTraining

    def work(communicator):
        callbacks = [stop] if communicator.rank in where else []
        return sf.train(networks("linear"), X, y, epochs=5, factoring=None, communicator=communicator, callbacks=callbacks)

    results, _ = all_of(3, work)
    assert [len(result.history) for result in results] == [2, 2, 2]


def test_what_a_callback_changes_reaches_all():
    X, y = samples()

    def change(event):
        if event.kind == "epoch" and event.epoch == 1:
            event.network.truncate(ranks=[3, 3], force=True)
        elif event.kind == "epoch" and event.epoch == 2:
            event.network.parameters[:] *= 0.5

    def work(communicator):
        optimizer = sf.Adam(0.01)

        def rate(event):
            if event.epoch == 2:
                optimizer.learning_rate, optimizer.schedule = 0.5, sf.Adam(0.5).schedule

        callbacks = [change, rate] if communicator is None or communicator.rank == 0 else []
        return sf.train(
            networks("linear"), X, y, epochs=4, batch_size=16, factoring=sf.Factoring(pretrain_fraction=1.0, recompose=False),
            optimizer=optimizer, communicator=communicator, callbacks=callbacks,
        )  # fmt: skip

    expected = work(None)
    results, _ = all_of(3, work)
    for result in results:
        assert tuple(result.network.layout.ranks) == (3, 3, None)
        assert [row["learning_rate"] for row in result.history] == [row["learning_rate"] for row in expected.history]
        # Directions of an SVD may have either sign.
        np.testing.assert_allclose(result.network.predict(X), expected.network.predict(X), rtol=1e-6)


# Failures


def test_nan_in_one_process_ends_all_with_its_message():
    X, y = samples()

    def work(communicator):
        own = X.copy()

        def spoil(event):
            if communicator.rank == 2 and event.kind == "epoch" and event.epoch == 1:
                own[:] = np.nan

        spoil.everywhere = True
        return sf.train(networks("linear"), own, y, epochs=3, batch_size=16, factoring=None, communicator=communicator, callbacks=[spoil])

    found, group = team.together(3, work)
    assert all(isinstance(error, sf.NotFinite) for error in found)
    assert len({str(error) for error in found}) == 1
    assert "X holds NaN" in str(found[0]) and found[0].step == found[2].step
    assert not group.barrier.broken  # nobody was left waiting


def test_weights_that_blow_up_are_put_back_everywhere():
    X, _ = samples(dtype="float32")
    nets = [sf.Network([24, 16, 3], output="identity", seed=0) for _ in range(3)]

    def work(communicator):
        net = nets[communicator.rank]
        optimizer = sf.GradientDescent(1e30)
        return sf.train(net, X, X[:, :3], epochs=30, batch_size=16, factoring=None, optimizer=optimizer, communicator=communicator)

    found, _ = team.together(3, work)
    assert all(isinstance(error, sf.NotFinite) for error in found)
    assert np.isfinite(nets[0].parameters).all()
    for net in nets[1:]:
        np.testing.assert_array_equal(net.parameters, nets[0].parameters)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_of_one_process_ends_all(rank):
    X, y = samples()
    aborted = {}

    def work(communicator):
        def rate(step, n_steps):
            if step == 3 and communicator.rank == rank:
                raise OverflowError("of one process")
            return 0.01

        try:
            return sf.train(networks("linear"), X, y, epochs=3, batch_size=16, optimizer=sf.Adam(rate), communicator=communicator)
        finally:
            aborted[communicator.rank] = communicator.aborted

    found, _ = team.together(3, work)
    assert isinstance(found[rank], OverflowError) and found[rank] is aborted[rank]
    assert all(isinstance(found[other], team.Broken) for other in range(3) if other != rank)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("n", [0, 1, 5, 20])
def test_a_sum_that_raises_ends_all(n, rank):
    """From the first sum on, in which processes tell each other of wrong arguments."""
    X, y = samples()

    class Lost(team.Communicator):
        n_left = n

        def sum(self, buffer):
            self.n_left -= 1
            if self.rank == rank and self.n_left < 0:
                raise ConnectionError("the network is down")
            super().sum(buffer)

    aborted = {}

    def work(c):
        communicator = Lost(c._group, c.rank)
        try:
            return sf.train(networks("linear"), X, y, epochs=3, batch_size=16, communicator=communicator)
        finally:
            aborted[c.rank] = communicator.aborted

    found, _ = team.together(3, work)
    assert isinstance(found[rank], ConnectionError) and aborted[rank] is found[rank]
    assert all(isinstance(found[other], team.Broken) for other in range(3) if other != rank)


def test_threads_of_one_communicator_that_are_no_number_are_refused_everywhere():
    X, y = samples()

    def work(c):
        if c.rank == 1:
            c.n_threads = "two"
        return sf.train(networks("linear"), X, y, communicator=c)

    found, group = team.together(2, work)
    assert all(isinstance(error, TypeError) and "communicator.n_threads: expected" in str(error) for error in found), found
    assert not group.barrier.broken


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_an_error_of_an_estimator_in_one_process_ends_all():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    sklearn = importlib.import_module("svdfast.sklearn")
    X, y = samples()
    aborted = {}

    def work(c):
        model = sklearn.SVDMLPClassifier((8,), max_iter=2, communicator=c)
        if c.rank == 1:
            model.rank = "small"  # what only the training itself finds
        try:
            return model.fit(X, y)
        finally:
            aborted[c.rank] = c.aborted

    found, _ = team.together(2, work)
    assert isinstance(found[1], ValueError) and "'small'" in str(found[1]) and aborted[1] is found[1]
    assert isinstance(found[0], team.Broken)


def test_a_network_that_is_in_use_in_one_process_ends_all():
    X, y = samples()
    net = networks("linear")
    found, _ = team.together(2, lambda c: sf.train(net, X, y, epochs=1, communicator=c))  # one network for both
    assert {type(error) for error in found} <= {RuntimeError, team.Broken}
    assert any("another thread" in str(error) for error in found)


def test_an_error_in_the_arguments_of_one_process_is_raised_by_all():
    X, y = samples()
    found, group = team.together(
        3, lambda c: sf.train(networks("linear"), X, y, epochs=-1 if c.rank == 1 else 1, communicator=c)
    )
    assert all(isinstance(error, ValueError) and "epochs" in str(error) for error in found)
    assert "process 1 of 3" in found[0].__notes__[0]
    assert not group.barrier.broken


class OfOurOwn(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} {b}")


def test_an_error_that_cannot_be_pickled_is_told_as_text():
    class Bad:
        shape, dtype = (70, 24), np.dtype("float64")

        def __getitem__(self, rows):
            raise OfOurOwn("no", "disk")

    X, y = samples()
    found, _ = team.together(2, lambda c: sf.train(networks("linear"), Bad() if c.rank else X, y, communicator=c))
    assert isinstance(found[1], OfOurOwn)
    assert isinstance(found[0], RuntimeError) and "process 1: OfOurOwn: no disk" in str(found[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 3), ("batch_size", 8), ("l1", 0.5), ("optimizer", "sgd"), ("factoring", 0.5), ("shuffle", False), ("reproducible", True)],
)
def test_different_arguments_are_refused_everywhere(name, value):
    X, y = samples()
    found, group = team.together(
        3, lambda c: sf.train(networks("linear"), X, y, communicator=c, **({"epochs": 2} | ({name: value} if c.rank == 1 else {})))
    )
    assert all(isinstance(error, ValueError) and f"{name}: expected" in str(error) for error in found), found
    assert not group.barrier.broken


def test_other_data_or_networks_are_refused_everywhere():
    X, y = samples()
    found, _ = team.together(2, lambda c: sf.train(networks("linear"), X[: 60 + c.rank], y[: 60 + c.rank], communicator=c))
    assert all(isinstance(error, ValueError) and "X: expected 60 samples" in str(error) for error in found)
    for rows, labels in ((X[::-1], y), (X, y[::-1]), (X.astype("float32"), y)):  # as many, but others
        given = (X, y), (rows, labels)
        found, _ = team.together(2, lambda c, given=given: sf.train(networks("linear"), *given[c.rank], communicator=c))
        assert all(isinstance(error, ValueError) and "X, y, sample_weight: expected samples with" in str(error) for error in found), found
    found, _ = team.together(2, lambda c: sf.train(networks("linear"), X, y, validation=samples(30 + c.rank), communicator=c))
    assert all(isinstance(error, ValueError) and "validation: expected 30 samples" in str(error) for error in found)
    found, _ = team.together(2, lambda c: sf.train(sf.Network([24, 8 + c.rank, 3]), X, y, communicator=c))
    assert all(isinstance(error, ValueError) and "net: expected the layers" in str(error) for error in found)


def test_parameters_that_differ_are_found_at_the_end_of_an_epoch():
    X, y = samples()

    class Faulty(team.Communicator):
        """A sum with other bits in one process, as MPI libraries had."""

        def sum(self, buffer):
            super().sum(buffer)
            if self.rank == 1 and buffer.size > 100:
                buffer[7] += 1

    found, _ = team.together(
        3, lambda c: sf.train(networks("linear"), X, y, epochs=3, factoring=None, communicator=Faulty(c._group, c.rank))
    )
    assert all(isinstance(error, RuntimeError) and "parameters of process 1 differ" in str(error) for error in found), found


# Rows that are not in memory


class Rows:
    """A row source that notes what is read."""

    def __init__(self, array, chunk=None):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        if chunk:
            self.chunks = (chunk, *array.shape[1:])
        self.read = np.zeros(len(array), int)

    def __getitem__(self, rows):
        self.read[rows] += 1
        return self.array[rows]


@pytest.fixture
def small_pool(monkeypatch):
    """Pools of a few rows, so that no source is read as a whole."""
    from svdfast.data import rows

    monkeypatch.setattr(rows, "POOL_BYTES", 400 * 24 * 8)


@pytest.mark.parametrize("n", [4001, 4096])
def test_row_sources_in_order_are_as_arrays(small_pool, n):
    X, y = samples(n)
    settings = {"epochs": 2, "batch_size": 64, "shuffle": False, "factoring": None}
    expected = one(networks("linear"), X, y, **settings)
    for size in SIZES:
        sources = [Rows(X) for _ in range(size)]

        def work(c, sources=sources):
            return sf.train(networks("linear"), sources[c.rank], y, communicator=c, **settings)

        results, _ = all_of(size, work)
        assert_near(results[0], expected)
        read = np.array([source.read for source in sources])
        assert (read.sum(axis=0) == 2).all()  # each row by one process, each epoch
        if size > 1:
            assert read.sum(axis=1).max() <= 2 * math.ceil(n / size) + 64 * 2


@pytest.mark.parametrize("n", [4001, 4096])
@pytest.mark.parametrize("chunk", [None, 16])
def test_shuffled_row_sources_are_the_same_for_all_numbers_of_processes(small_pool, n, chunk):
    X, y = samples(n, "float32")
    settings = {"epochs": 2, "batch_size": 64, "factoring": sf.Factoring([3, 3], force=True, pretrain_fraction=0.5), "reproducible": True}
    found = {}
    for size in (1, 2, 3, 4):
        sources = [Rows(X, chunk) for _ in range(size)]

        def work(c, sources=sources):
            return sf.train(networks("linear", "float32"), sources[c.rank], y, communicator=c, validation=(sources[c.rank], y), **settings)

        results, _ = all_of(size, work)
        found[size] = results[0].network.parameters
        read = np.array([source.read for source in sources])
        # Two epochs and three looks at them as validation: each row by one process.
        assert (read.sum(axis=0) == 5).all()
    for size in (2, 3, 4):
        np.testing.assert_array_equal(found[size], found[1])


def test_shuffled_row_sources_take_each_row_once(small_pool, monkeypatch):
    X, y = samples(4001)
    taken, form = [], SharedRun._form

    def noted(run, out, first, n, *args, **kwargs):
        taken.append(run.data.inputs.array[run.engine.order[first : first + n], 0].copy())
        form(run, out, first, n, *args, **kwargs)

    monkeypatch.setattr(SharedRun, "_form", noted)
    for reproducible in (False, True):
        for size in (2, 3, 4):
            taken.clear()
            all_of(size, lambda c, r=reproducible: sf.train(networks("linear"), Rows(X), y, epochs=1, batch_size=64, factoring=None,
                                                            reproducible=r, communicator=c))  # fmt: skip
            np.testing.assert_array_equal(np.sort(np.concatenate(taken)), np.sort(X[:, 0]))


def test_weights_of_row_sources(small_pool, monkeypatch):
    monkeypatch.setattr("svdfast.data.open.read_if_small", lambda name, rows, as_they_lie: rows)
    X, y = samples(4001)
    weight = np.arange(4001.0) % 3
    settings = {"epochs": 2, "batch_size": 64, "shuffle": False, "factoring": None}
    expected = one(networks("linear"), X, y, sample_weight=weight, **settings)
    results, _ = all_of(3, lambda c: sf.train(networks("linear"), Rows(X), y, sample_weight=Rows(weight), communicator=c, **settings))
    assert_near(results[0], expected)
    zero = np.zeros(4001)
    found, _ = team.together(3, lambda c: sf.train(networks("linear"), Rows(X), y, sample_weight=Rows(zero), communicator=c, **settings))
    assert all(isinstance(error, ValueError) and "not all 0" in str(error) for error in found), found


def test_a_row_that_is_no_number_ends_all(small_pool):
    X, y = samples(4001)
    X[3000] = np.nan
    found, _ = team.together(2, lambda c: sf.train(networks("linear"), Rows(X), y, epochs=1, batch_size=64, communicator=c))
    kinds = {type(error) for error in found}
    assert kinds == {ValueError, team.Broken}


@pytest.mark.parametrize("shuffle", [True, False])
def test_row_sources_go_on_in_the_midst_of_an_epoch(small_pool, folder, shuffle):
    X, y = samples(1001, "float32")
    settings = {"epochs": 3, "batch_size": 64, "factoring": None, "reproducible": True, "shuffle": shuffle}

    def work(communicator, stop=None, **more):
        def rate(step, n_steps):
            if step == stop:
                raise OSError("power cut")
            return 1e-2

        net = networks("linear", "float32")
        return sf.train(net, Rows(X), y, optimizer=sf.Adam(rate), communicator=communicator, **settings, **more)

    whole = all_of(1, work)[0][0]
    found, _ = team.together(2, lambda c: work(c, 25, checkpoint="run.ckpt", checkpoint_every=7))
    assert all(isinstance(error, OSError | team.Broken) for error in found)
    results, _ = all_of(4, lambda c: sf.resume("run.ckpt", Rows(X), y, optimizer=sf.Adam(lambda s, n: 1e-2), communicator=c))
    np.testing.assert_array_equal(results[0].network.parameters, whole.network.parameters)
    assert [row["loss"] for row in results[0].history] == [row["loss"] for row in whole.history]


def test_memmap(folder):
    X, y = samples(200, "float32")
    X.tofile("X.bin")
    mapped = np.memmap("X.bin", np.float32, "r", shape=X.shape)
    settings = {"epochs": 2, "batch_size": 32, "factoring": None}
    expected, _ = trained(2, X, y, dtype="float32", **settings)
    result, _ = trained(2, mapped, y, dtype="float32", **settings)
    np.testing.assert_array_equal(result.network.parameters, expected.network.parameters)


# Iterables of batches


class Again:
    """An iterable that is no list."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def batches_of(X, y, batch_size, rank=0, size=1):
    """This process's part of each batch."""
    return [(X[k : k + batch_size][rank::size], y[k : k + batch_size][rank::size]) for k in range(0, len(X), batch_size)]


def test_each_process_brings_its_own_batches():
    X, y = samples(70)
    settings = {"epochs": 3, "factoring": None}
    expected = sf.train(networks("linear"), batches_of(X, y, 16), validation=(X, y), **settings)
    for size in SIZES:

        def work(c):
            validation = Again(batches_of(X, y, 30, c.rank, c.size))
            return sf.train(networks("linear"), batches_of(X, y, 16, c.rank, c.size), validation=validation, communicator=c, **settings)

        results, _ = all_of(size, work)
        assert_near(results[0], expected)
        assert results[-1].history == results[0].history


def test_unequal_numbers_of_batches_are_an_error_everywhere():
    X, y = samples(64)
    found, _ = team.together(2, lambda c: sf.train(networks("linear"), batches_of(X, y, 16 >> c.rank), epochs=2, communicator=c))
    assert all(isinstance(error, ValueError) and "steps_per_epoch" in str(error) for error in found)

    def work(c):
        return sf.train(networks("linear"), iter(batches_of(X, y, 16)[: 4 - c.rank]), epochs=1, steps_per_epoch=4, communicator=c)

    found, _ = team.together(2, work)
    assert isinstance(found[1], ValueError) and "expected 4 batches" in str(found[1])
    assert isinstance(found[0], team.Broken)


@pytest.mark.parametrize("name", ["reproducible", "carry_state"])
def test_what_cannot_be_with_own_batches_is_refused_by_name(name):
    X, y = streams()
    found, _ = team.together(2, lambda c: sf.train(recurrent(), batches_of(X, y, 8), communicator=c, **{name: True}))
    assert all(isinstance(error, ValueError) and str(error).startswith(name) for error in found)


# The communicator


def test_what_is_no_communicator_is_refused():
    X, y = samples()
    net = networks("linear")
    before = net.parameters.copy()
    with pytest.raises(TypeError, match="communicator: expected svdfast"):
        sf.train(net, X, y, communicator=3)

    class Wrong(team.Communicator):
        def __init__(self):
            super().__init__(team.Threads(2), 2)

    class AsClass(team.Communicator):
        rank, size = 0, 1

    with pytest.raises(TypeError, match=r"communicator: expected svdfast.* got the class AsClass"):
        sf.train(net, X, y, communicator=AsClass)
    for name, value, message in (
        ("rank", False, "communicator: expected"), ("size", True, "communicator: expected"),
        ("n_threads", "two", "communicator.n_threads: expected"),
    ):  # fmt: skip
        alone = team.Communicator(team.Threads(1), 0)
        setattr(alone, name, value)
        with pytest.raises(TypeError, match=message):
            sf.train(net, X, y, communicator=alone)

    with pytest.raises(ValueError, match="0 ≤ rank < size, got rank 2 and size 2"):
        sf.train(net, X, y, communicator=Wrong())
    np.testing.assert_array_equal(net.parameters, before)


def test_threads_of_the_communicator():
    class Few(team.Communicator):
        n_threads = 1

    X, y = samples()
    seen = []

    def work(c):
        net = networks("linear")
        from svdfast.training import prepare

        original = prepare.SharedRun

        class Noting(original):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                seen.append(self.n_threads)

        prepare.SharedRun = Noting
        try:
            return sf.train(net, X, y, epochs=1, communicator=Few(c._group, c.rank))
        finally:
            prepare.SharedRun = original

    all_of(1, work)
    assert seen == [1]


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(sf.__file__).parents[1])}


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_message_is_read_before_the_launcher_is_told_to_abort(tmp_path):
    code = (
        "import sys, svdfast as sf\n"
        "class Comm:\n    def Abort(self, status): open('aborted', 'w').close()\n"
        "communicator = object.__new__(sf.distributed._Mpi)\n"
        "communicator._comm = Comm()\n"
        "print('ready', flush=True)\n"
        "print('a message', file=sys.stderr)\n"
        "communicator.end(3)\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes, env=environment(), cwd=tmp_path) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.5)
        assert not (tmp_path / "aborted").exists()
        assert process.stderr.read() == b"a message\n"
        assert process.wait(30) == 3
    assert (tmp_path / "aborted").exists()


def test_mpi4py_is_imported_only_when_asked_for(tmp_path):
    code = (
        "import sys, svdfast as sf\n"
        "assert 'mpi4py' not in sys.modules\n"
        "sys.modules['mpi4py'] = None\n"
        "try:\n    sf.distributed.mpi()\n"
        "except ImportError as error:\n    assert 'svdfast[mpi]' in str(error), error\n"
        "else:\n    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), cwd=tmp_path)


def test_expected_speedup():
    net = sf.Network([784, 512, 256, 10], seed=0)
    settings = {"flops": 1e11, "bandwidth": 1e9, "latency": 1e-5}
    speedup = sf.distributed.expected_speedup
    assert speedup(net, 1024, 1, **settings) == 1
    # The law by hand.
    operations = 2 * sf.count_multiplications(net).total
    computing, summing = operations * 1024 / 1e11, 2 * 3 / 4 * (4 * net.parameters.size + 12) / 1e9 + 2 * 2 * 1e-5
    assert math.isclose(speedup(net, 1024, 4, **settings), computing / (computing / 4 + summing))
    # Larger batches, faster networks: better; never more than linear.
    assert speedup(net, 1024, 8, **settings) < speedup(net, 65536, 8, **settings) < 8
    assert math.isclose(speedup(net, 1024, 8, flops=1e11, bandwidth=1e30, latency=0), 8)
    # A batch of one row is no faster.
    assert speedup(net, 1, 8, flops=1e11, bandwidth=1e30, latency=0) == pytest.approx(1)
    # Nor does it depend on how large a number a float can be.
    for flops in (5e-324, 1e308):
        assert speedup(net, 1024, 1, flops=flops, bandwidth=1e308, latency=0) == 1
    assert speedup(net, 1024, 4, flops=5e-324, bandwidth=1e9, latency=0) == 4
    assert speedup(net, 2**53, 2**53, flops=1e11, bandwidth=1e9, latency=1) > 0
    with pytest.raises(ValueError, match="n_processes"):
        speedup(net, 1024, 2**53 + 1, **settings)
    # Factoring makes both smaller alike.
    factored = net.copy()
    factored.truncate(rank_fraction=1 / 4)
    ratio = speedup(factored, 1 << 20, 64, **settings) / speedup(net, 1 << 20, 64, **settings)
    assert 0.8 < ratio < 1.25
    with pytest.raises(ValueError, match="bandwidth"):
        speedup(net, 1024, 4, flops=1e11, bandwidth=0, latency=0)
    with pytest.raises(TypeError, match="net"):
        speedup(3, 1024, 4, **settings)


# The estimators


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_estimators(solver, early_stopping):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    sklearn = importlib.import_module("svdfast.sklearn")
    X, y = samples(200)
    kept = {
        "hidden_layer_sizes": (32, 16), "solver": solver, "max_iter": 6, "random_state": 0, "early_stopping": early_stopping,
        "rank_fraction": 0.25, "batch_size": 32,
    }  # fmt: skip

    def fitted(communicator):
        return sklearn.SVDMLPClassifier(**kept, communicator=communicator).fit(X, y)

    alone = fitted(None)
    models, _ = all_of(3, fitted)
    for model in models:
        np.testing.assert_array_equal(model.network_.parameters, models[0].network_.parameters)
        np.testing.assert_allclose(model.loss_curve_, alone.loss_curve_, rtol=1e-8)
        assert model.validation_scores_ == alone.validation_scores_
        np.testing.assert_array_equal(model.predict(X), alone.predict(X))


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_estimators_with_other_random_states_and_callbacks():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    sklearn = importlib.import_module("svdfast.sklearn")
    X, y = samples(100)
    calls = []

    def work(communicator):
        def note(event):
            calls.append(communicator.rank)
            if event.epoch == 3:
                raise sf.StopTraining

        model = sklearn.SVDMLPRegressor((8,), max_iter=9, random_state=communicator.rank, communicator=communicator)
        return model.fit(X, X[:, 0], callbacks=[note])

    models, _ = all_of(2, work)
    assert set(calls) == {0}
    assert models[0].n_iter_ == models[1].n_iter_ == 3
    np.testing.assert_array_equal(models[0].network_.parameters, models[1].network_.parameters)
    found, _ = team.together(2, lambda c: sklearn.SVDMLPRegressor((8,), solver="lbfgs", communicator=c).fit(X, y))
    assert all(isinstance(error, ValueError) and str(error).startswith("communicator") for error in found)


def test_a_communicator_is_copied_but_not_pickled():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    sklearn = importlib.import_module("svdfast.sklearn")
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    communicator = object.__new__(sf.distributed._Mpi)  # without MPI
    communicator.rank, communicator.size = 0, 1
    assert copy.copy(communicator) is copy.deepcopy(communicator) is communicator
    with pytest.raises(TypeError, match="communicator: expected none in what is pickled"):
        pickle.dumps(communicator)
    # Threads have locks, which cannot be copied.
    for shared in (communicator, team.Communicator(team.Threads(1), 0)):
        model = sklearn.SVDMLPClassifier((8,), max_iter=3, communicator=shared)
        nested = make_pipeline(StandardScaler(), model)
        for twin in (clone(model), copy.copy(model), copy.deepcopy(model), clone(nested)[-1], copy.deepcopy(nested)[-1]):
            assert twin is not model and twin.communicator is shared and twin.get_params() == model.get_params()
        loaded = pickle.loads(pickle.dumps(model))
        assert loaded.communicator is None and loaded.hidden_layer_sizes == (8,)
        assert model.communicator is shared


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_copies_of_a_fitted_estimator_are_fitted():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    sklearn = importlib.import_module("svdfast.sklearn")
    from sklearn.base import clone

    X, y = samples()

    def work(communicator):
        model = sklearn.SVDMLPClassifier((8,), max_iter=2, random_state=0, communicator=communicator).fit(X, y)
        twin = copy.deepcopy(model)
        before = model.network_.parameters.copy()
        assert twin.network_ is not model.network_
        twin.partial_fit(X, y)  # by all processes: the copy has their communicator
        np.testing.assert_array_equal(model.network_.parameters, before)
        assert not hasattr(clone(model), "network_")
        return twin

    twins, _ = all_of(2, work)
    np.testing.assert_array_equal(twins[0].network_.parameters, twins[1].network_.parameters)


@pytest.mark.parametrize("wrong", [{"alpha": -1}, {"callbacks": 3}])
def test_a_wrong_parameter_of_an_estimator_in_one_process_is_raised_by_all(wrong):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    sklearn = importlib.import_module("svdfast.sklearn")
    X, y = samples()

    def work(c):
        given = wrong if c.rank == 1 else {}
        model = sklearn.SVDMLPClassifier((8,), communicator=c, alpha=given.get("alpha", 1e-4))
        return model.fit(X, y, callbacks=given.get("callbacks", ()))

    found, group = team.together(2, work)
    assert all(next(iter(wrong)) in str(error) for error in found), found
    assert not group.barrier.broken


def refused(name, work):
    """Whether all processes refuse other arguments of this name."""
    found, group = team.together(2, work)
    assert all(isinstance(error, ValueError) and f"{name}: expected" in str(error) for error in found), found
    return not group.barrier.broken


def test_other_labels_are_refused_everywhere():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    sklearn = importlib.import_module("svdfast.sklearn")
    X, y = samples()
    labels = [np.array(names)[y] for names in (["a", "b", "c"], ["b", "c", "d"])]
    assert refused("classes", lambda c: sf.train(networks("linear"), X, labels[c.rank], epochs=1, communicator=c))
    assert refused("classes", lambda c: sklearn.SVDMLPClassifier((8,), max_iter=1, communicator=c).fit(X, labels[c.rank]))
    # Class numbers are known by no names.
    all_of(2, lambda c: sf.train(networks("linear"), X, [labels[0], y][c.rank], epochs=1, communicator=c))


def test_other_columns_are_refused_everywhere():
    pandas = pytest.importorskip("pandas")
    X, y = samples()
    tables = [pandas.DataFrame(X, columns=[f"{name}{i}" for i in range(24)]) for name in "pq"]
    assert refused("feature_names", lambda c: sf.train(networks("linear"), tables[c.rank], y, epochs=1, communicator=c))
    all_of(2, lambda c: sf.train(networks("linear"), [X, tables[0]][c.rank], y, epochs=1, communicator=c))
