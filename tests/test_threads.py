# SPDX-License-Identifier: BSD-3-Clause
"""Threads: results repeat bit for bit, trainings at once do not disturb each other, BLAS's threads are given back."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import svdfast as sf
from svdfast import _blas, _engine
from svdfast._engine import Engine
from svdfast._process.runtime import single_threaded_blas
from svdfast.data.checks import checked_samples
from svdfast.model.evaluation import spec_of

needs_two_threads = pytest.mark.skipif(
    not _engine.HAS_OPENMP, reason="built without OpenMP: one thread"
)
# A batch of 256 is work for two threads, and the SVD of 300×400 more than one thread's for BLAS.
SIZES = [300, 400, 300, 10]


def samples(seed, n=512):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, SIZES[0])), rng.integers(0, SIZES[-1], n)


def trained(seed=0, n_threads=1, dtype="float64", **settings):
    net = sf.Network(SIZES, dtype=dtype, seed=seed)
    X, y = samples(seed)
    given = dict(epochs=3, batch_size=256, factoring=sf.Factoring(0.25, pretrain_fraction=0.4), seed=seed)
    given |= settings
    result = sf.train(net, X, y, n_threads=n_threads, **given)
    assert given["factoring"] is None or {row["phase"] for row in result.history} >= {"dense", "factored"}
    return net.parameters.tobytes()


def at_once(*functions):
    """Runs functions in threads of their own that start together; returns their results in order."""
    barrier = threading.Barrier(len(functions))
    out = [None] * len(functions)

    def run(i):
        barrier.wait()
        try:
            out[i] = functions[i]()
        except BaseException as error:
            out[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    for result in out:
        if isinstance(result, BaseException):
            raise result
    return out


# ---- the same bits


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_threads", [1, pytest.param(2, marks=needs_two_threads)])
def test_results_repeat_bit_for_bit(n_threads, dtype):
    first = trained(n_threads=n_threads, dtype=dtype)
    assert trained(n_threads=n_threads, dtype=dtype) == first
    # Memory laid out otherwise, and another training in between, change nothing.
    kept = [np.empty(n) for n in (100, 10_001, 1_000_003)]
    trained(seed=1)
    assert trained(n_threads=n_threads, dtype=dtype) == first
    del kept
    assert trained(n_threads=n_threads, dtype=dtype, seed=2) != first


def test_results_repeat_in_another_process():
    program = """
import sys, hashlib, numpy as np, svdfast as sf
rng = np.random.default_rng(0)
X, y = rng.standard_normal((512, 300)), rng.integers(0, 10, 512)
net = sf.Network([300, 400, 300, 10], seed=0)
sf.train(net, X, y, epochs=3, batch_size=256, factoring=sf.Factoring(0.25, pretrain_fraction=0.4), n_threads=2)
print(hashlib.sha256(net.parameters).hexdigest())
"""
    runs = [
        subprocess.run(
            [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 65


SETTINGS = {
    "float32": dict(dtype="float32"),
    "float64": dict(dtype="float64"),
    "bfloat16": dict(dtype="float32", precision="bfloat16"),
}


@needs_two_threads
@pytest.mark.parametrize("batch_size", [64, 1100])
@pytest.mark.parametrize(
    ("kind", "products"),
    [
        ("float32", None), ("float32", "avx2"), ("float32", "blas"), ("float64", None),
        ("bfloat16", None), ("bfloat16", "emulated"), ("bfloat16", "blas"),
    ],
)  # fmt: skip
def test_the_number_of_threads_changes_no_bit(kind, products, batch_size):
    """Of the parameters after a reproducible training with a switch and penalties, its losses, and what is measured on the way."""
    settings = {**SETTINGS[kind], "n_epochs": 2}
    _blas.use_own_products(products != "blas", products if products == "avx2" else None, products != "emulated")
    try:
        if products in ("avx2", "emulated") and _blas.float32_products() != "svdfast":
            pytest.skip("this CPU has neither AVX2 nor AVX-512")
        first = everything(batch_size, 1, **settings)
        for n_threads in (2, 3, 4):
            assert everything(batch_size, n_threads, **settings) == first
    finally:
        _blas._choose()


def everything(batch_size, n_threads, dtype, n_epochs, **settings):
    X, y = samples(0, 1200)
    net = sf.Network([300, 200, 100, 10], dtype=dtype, seed=0)
    result = sf.train(
        net, X, y, epochs=n_epochs, batch_size=batch_size, factoring=sf.Factoring(0.25, pretrain_fraction=0.5), l1=1e-3, l2=1e-2,
        validation=(X[:700], y[:700]), sample_weight=np.linspace(0.5, 2, len(X)), n_threads=n_threads, reproducible=True, **settings,
    )  # fmt: skip
    return [net.parameters.tobytes(), [(row["loss"], row["val_loss"]) for row in result.history]]


@needs_two_threads
@pytest.mark.skipif(_blas.float32_products() != "svdfast", reason="BLAS's products depend on how many rows they have")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_number_of_threads_changes_no_bit_of_a_prediction(precision):
    X, y = samples(0, 700)
    net = sf.Network([300, 200, 100, 10], seed=0)
    net.truncate(ranks=[None, 30])
    for n in (1, 2, 5, 11, 700):
        found = {
            (
                net.predict(X[:n], n_threads=n_threads, precision=precision).tobytes(),
                net.evaluate(X[:n], y[:n], n_threads=n_threads, precision=precision).loss,
            )
            for n_threads in (1, 2, 3, 4)
        }
        assert len(found) == 1


@needs_two_threads
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [4, 9, 64, 130, 513, 2100])
def test_the_number_of_threads_changes_no_bit_of_a_step(n, dtype):
    """Of layers that no tile and no block divides evenly, dense and factored."""
    X, y = samples(1, n)
    ends = set()
    for n_threads in (1, 2, 3, 4):
        net = sf.Network([300, 77, 210, 10], hidden=["gelu", "tanh"], dtype=dtype, seed=0)
        net.truncate(ranks=[None, 5], force=True)
        data = checked_samples(X, y, None, spec_of(net))
        engine = Engine(net.layout, net.parameters, batch_size=n, n_threads=n_threads, reproducible=True)
        data.bind(engine)
        adam = sf.Adam(0.01)
        adam.begin("here", net.layout.size, dtype)
        engine.set_update(adam.rule, adam.moments)
        with single_threaded_blas.held():
            losses = [engine.step(0, n, 0.01, t, 0.01, 0.1) for t in (1, 2)]
        ends.add((tuple(losses), net.parameters.tobytes()))
    assert len(ends) == 1


@needs_two_threads
def test_no_thread_gets_few_rows_of_a_short_chunk():
    """Of 121 rows in 11 sums four threads take two at a time, so one is left over. Very few rows would be multiplied in another way."""
    X, y = samples(1, 121)
    ends = set()
    for n_threads in (1, 4):
        net = sf.Network([300, 200, 10], seed=0)
        engine = Engine(net.layout, net.parameters, batch_size=121, n_threads=n_threads, reproducible=True, tile_rows=6, sum_rows=11)
        checked_samples(X, y, None, spec_of(net)).bind(engine)
        gradient = np.empty(net.layout.size, "float32")
        with single_threaded_blas.held():
            ends.add((engine.gradient(0, 121, gradient), gradient.tobytes()))
    assert len(ends) == 1


@needs_two_threads
def test_two_threads_share_the_steps_of_these_trainings():
    """The last bits may differ from one thread's, and no more than these."""
    one, two = (
        np.frombuffer(trained(n_threads=n, factoring=None, optimizer=sf.GradientDescent(0.1)))
        for n in (1, 2)
    )
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-13)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_users_blas_threads_do_not_change_the_result(dtype, n_threads):
    """The same seed and n_threads are enough; how many threads BLAS has by itself is no matter, nor to the switch."""
    results = []
    for blas_threads in (1, 2):
        with threadpool_limits(blas_threads, user_api="blas"):
            results.append(trained(n_threads=n_threads, dtype=dtype))
    assert results[0] == results[1]


# ---- at once


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_trainings_at_once_equal_trainings_one_after_the_other(n_threads, dtype):
    seeds = 1, 2
    expected = [trained(seed, n_threads, dtype) for seed in seeds]
    for _ in range(2):
        got = at_once(*(lambda s=s: trained(s, n_threads, dtype) for s in seeds))
        assert got == expected


def test_trainings_at_once_really_overlap():
    """Neither runs to its end first: they wait for each other before each step."""
    meeting = threading.Barrier(2, timeout=60)

    def rate(step, n_steps):
        meeting.wait()
        return 0.01

    X, y = samples(0, 64)

    def run():
        net = sf.Network(SIZES, seed=0)
        sf.train(net, X, y, epochs=20, optimizer=sf.Adam(rate), factoring=None, n_threads=1)
        return net.parameters.tobytes()

    first, second = at_once(run, run)
    assert first == second


def test_a_step_lets_other_threads_run():
    X, y = samples(0)
    X, y = np.tile(X, (16, 1)), np.tile(y, 16)
    net = sf.Network([300, 1200, 1200, 10], dtype="float64", seed=0)
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        while not ticks:
            time.sleep(0.001)
        start = time.perf_counter()
        net.loss_and_gradient(X, y, n_threads=1)  # about 40 Gflop
        end = time.perf_counter()
    finally:
        stop.set()
        thread.join()
    within = sum(start < t < end for t in ticks)
    assert end - start > 0.05
    assert within >= 5


def test_predictions_at_once():
    net = sf.Network(SIZES, dtype="float64", seed=0)
    X, _ = samples(0, 2000)
    expected = [net.predict(X, n_threads=n) for n in (1, 2)]

    def predict(n):
        return lambda: [net.predict(X, n_threads=n) for _ in range(5)]

    for i, results in enumerate(at_once(predict(1), predict(2), predict(1), predict(2))):
        for result in results:
            np.testing.assert_array_equal(result, expected[i % 2])


# ---- BLAS's threads


def blas_threads():
    return [
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    ]


@pytest.mark.parametrize("before", [1, 2])
def test_blas_threads_are_given_back(before):
    X, y = samples(0)
    net = sf.Network(SIZES, seed=0)
    with threadpool_limits(before, user_api="blas"):
        assert set(blas_threads()) == {before}
        inside = []

        def look(event):
            if event.kind == "epoch":
                inside.extend(blas_threads())

        result = sf.train(net, X, y, epochs=2, factoring=0.25, callbacks=[look])
        assert [event.kind for event in result.events] == ["switch", "recompose"]
        assert set(inside) == {1}
        for call in (
            lambda: net.predict(X),
            lambda: net.evaluate(X, y),
            lambda: net.loss_and_gradient(X, y),
            lambda: net.truncate(0.2),
            net.recompose,
        ):
            call()
            assert set(blas_threads()) == {before}


def test_blas_threads_are_given_back_after_the_last_of_several():
    X, y = samples(0)
    seen = []

    def run(epochs):
        def train():
            net = sf.Network(SIZES, seed=0)
            sf.train(
                net, X, y, epochs=epochs, batch_size=64, factoring=None,
                callbacks=[lambda event: seen.extend(blas_threads())],
            )  # fmt: skip

        return train

    with threadpool_limits(2, user_api="blas"):
        at_once(run(1), run(8), run(3), run(2))
        assert set(seen) == {1}
        assert set(blas_threads()) == {2}


def test_a_training_within_a_callback_keeps_them_held():
    X, y = samples(0, 64)
    seen = []

    def callback(event):
        other = event.network.copy()
        sf.train(other, X, y, epochs=1, factoring=0.25)
        other.predict(X)
        seen.append(blas_threads())

    with threadpool_limits(2, user_api="blas"):
        net = sf.Network(SIZES, seed=0)
        sf.train(net, X, y, epochs=2, callbacks=[callback], factoring=None)
        assert set(blas_threads()) == {2}
    assert all(set(threads) == {1} for threads in seen)


# ---- many threads


@pytest.mark.parametrize("n_threads", [3, 7, 16])
def test_more_threads_than_cores_or_rows(n_threads, reference):
    net = sf.Network(SIZES, dtype="float64", seed=0)
    for n in (1, 2, 5, 300):
        X, y = samples(0, n)
        value, gradient = net.loss_and_gradient(X, y, n_threads=n_threads)
        expected_value, expected = reference.loss_and_gradient(net, X, y, "cross_entropy")
        assert value == pytest.approx(expected_value, rel=1e-12)
        np.testing.assert_allclose(gradient, expected, atol=1e-12 * np.abs(expected).max())
        again = net.loss_and_gradient(X, y, n_threads=n_threads)[1]
        np.testing.assert_array_equal(again, gradient)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("products", ["svdfast", "BLAS"])
@pytest.mark.parametrize("rank_fraction", [None, 0.25])
def test_reproducible_readings(dtype, products, rank_fraction):
    """Outputs, losses and gradients are the same with any number of threads."""
    if _blas.use_own_products(products == "svdfast") != (products == "svdfast"):
        pytest.skip("this CPU has neither AVX2 nor AVX-512")
    try:
        net = sf.Network([97, 211, 83, 7], seed=0, dtype=dtype)
        if rank_fraction is not None:
            net.truncate(rank_fraction, force=True)
        rng = np.random.default_rng(0)
        X, y = rng.random((1501, 97)).astype(dtype), rng.integers(0, 7, 1501)
        found = []
        for n_threads in (1, 2, 3, 7):
            how = {"n_threads": n_threads, "reproducible": True}
            loss, gradient = net.loss_and_gradient(X, y, l2=0.1, **how)
            assert net.evaluate(X, y, **how).loss == pytest.approx(net.evaluate(X, y).loss)
            outputs = net.predict(X, **how).tobytes(), net.predict(X[:9], **how).tobytes()
            found.append((*outputs, net.evaluate(X, y, **how), loss, gradient.tobytes()))
        assert all(each == found[0] for each in found)
        np.testing.assert_allclose(net.predict(X, reproducible=True), net.predict(X), rtol=1e-4)
    finally:
        _blas.use_own_products(True)
