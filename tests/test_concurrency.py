# SPDX-License-Identifier: BSD-3-Clause
"""One network or optimizer used at once is refused; forked processes never hang; BLAS's threads are nothing to the results.

That trainings at once give what they give alone is in test_threads.py. What may hang runs in a process of its own, with a limit.
"""

import contextlib
import copy
import functools
import hashlib
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from flat import flat
from threadpoolctl import threadpool_limits

import svdfast as sf
from svdfast._process import in_use, runtime
from svdfast.model.evaluation import output_directions
from svdfast.model.svd import leading_directions, restricted_svd

# More of the same, for a longer search: how many interrupts, and how many forks.
N_INTERRUPTS = int(os.environ.get("SVDFAST_TEST_INTERRUPTS", "1000"))
N_FORKS = int(os.environ.get("SVDFAST_TEST_FORKS", "4"))

RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 8)).astype("float32")
Y = RNG.integers(0, 3, 64)


def network(seed=0):
    return sf.Network([8, 12, 10, 3], seed=seed)


def recurrent():
    layers = [sf.layers.LSTM(12, return_sequences=True), sf.layers.Dropout(0.1), sf.layers.GRU(10), sf.layers.Linear(3, "softmax")]
    return sf.Network(sf.Input(4, 2), layers, seed=0)


def in_thread(function):
    """Starts a thread; returns what waits for it and gives back its result or error."""
    one = ThreadPoolExecutor(1)
    future = one.submit(function)
    one.shutdown(wait=False)
    return functools.partial(future.result, 120)


class Held:
    """A `with` block within which another thread is in the midst of something with a network."""

    def __init__(self, work):
        self.work, self.reached, self.go_on = work, threading.Event(), threading.Event()

    def wait(self, *_):
        self.reached.set()
        assert self.go_on.wait(60)

    def __enter__(self):
        self.result = in_thread(lambda: self.work(self.wait))
        assert self.reached.wait(60)
        return self

    def __exit__(self, *_):
        self.go_on.set()
        self.result()


def once(wait):
    """A callback that waits at the end of the first epoch."""
    return lambda event: wait() if event.kind == "epoch" and event.epoch == 1 else None


def in_training(net, optimizer=None):
    return Held(lambda wait: sf.train(
        net, X, Y, epochs=3, batch_size=16, factoring=sf.Factoring(0.3, force=True), optimizer=optimizer, callbacks=[once(wait)]
    ))  # fmt: skip


class Rows:
    """A source of rows that waits where they are read."""

    shape, dtype = X.shape, X.dtype

    def __init__(self, wait):
        self.wait = wait

    def __getitem__(self, rows):
        self.wait()
        return X[rows]


# ---- one network in two threads

READS = {
    "predict": lambda net, path: net.predict(X),
    "evaluate": lambda net, path: net.evaluate(X, Y),
    "score": lambda net, path: net.score(X, Y),
    "loss_and_gradient": lambda net, path: net.loss_and_gradient(X, Y),
    "output_directions": lambda net, path: output_directions(net, X, None, [1] * (len(net.layers) - 1)),
    "copy": lambda net, path: net.copy(),
    "deepcopy": lambda net, path: copy.deepcopy(net),
    "pickle": lambda net, path: pickle.dumps(net),
    "save": lambda net, path: sf.save(net, path / "net.npz"),
    "export": lambda net, path: sf.onnx.save(net, path / "net.onnx"),
    "to_torch": lambda net, path: sf.to_torch(net),
    "plot_spectrum": lambda net, path: sf.plots.spectrum(net),
    "parameters": lambda net, path: net.parameters,
    "state": lambda net, path: net.state,
    "view": lambda net, path: net.layers[-1].W,
    "weight": lambda net, path: net.layers[0].weight(),
}
CHANGES = {
    "truncate": lambda net, path: net.truncate(ranks=[2, 2]),
    "recompose": lambda net, path: net.recompose(),
    "set_state": lambda net, path: net.set_state(*network().state),
    "train": lambda net, path: sf.train(net, X, Y, epochs=1),
    "train by name": lambda net, path: sf.train(net=net, X=X, y=Y, epochs=1, factoring=None),
}


@pytest.mark.parametrize("name", READS | CHANGES)
def test_another_threads_training_has_its_network_for_itself(name, tmp_path):
    if name == "to_torch":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    alone = network()
    sf.train(alone, X, Y, epochs=3, batch_size=16, factoring=sf.Factoring(0.3, force=True))
    net = network()
    with in_training(net), pytest.raises(RuntimeError, match="network: another thread is training"):
        (READS | CHANGES)[name](net, tmp_path)
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(net.parameters, alone.parameters)


def test_what_does_not_look_at_parameters_works_during_a_training():
    net = network()
    with in_training(net):
        assert net.sizes == (8, 12, 10, 3) and net.dtype == "float32" and net.is_factored
        assert repr(net) == "<Network 8 -> 12 (rank 2) -> 10 (rank 3) -> 3, float32>"
        assert repr(net.layers[-1]) == "<Layer 10 -> 3, softmax, dense>"


@pytest.mark.parametrize("name", CHANGES)
def test_what_another_thread_reads_is_not_changed(name, tmp_path):
    net = network()
    before = net.copy()
    with Held(lambda wait: net.predict(Rows(wait))) as held:
        with pytest.raises(RuntimeError, match="network: another thread is reading it"):
            CHANGES[name](net, tmp_path)
        assert net.parameters.tobytes() == before.parameters.tobytes()
        np.testing.assert_array_equal(net.predict(X), before.predict(X))  # as reading goes on
    np.testing.assert_array_equal(held.result(), before.predict(X))
    CHANGES[name](net, tmp_path)


def test_a_trainings_own_thread_may_do_all_of_it(tmp_path):
    done = []

    def callback(event):
        if event.kind == "epoch":
            for name, use in (READS | CHANGES).items():
                if name not in ("export", "to_torch", "plot_spectrum"):  # which need extras
                    use(event.network, tmp_path)
                    done.append(name)

    sf.train(network(), X, Y, epochs=2, factoring=sf.Factoring(0.3, force=True), callbacks=[callback])
    assert len(done) == 2 * (len(READS | CHANGES) - 3)


def test_a_copy_made_in_a_callback_is_free():
    copies, predicted = [], []
    net = network()

    def callback(event):
        copies.append(pickle.loads(pickle.dumps(event.network)))
        copies.append(event.network.copy())
        predicted.append(event.network.predict(X))
        for made in copies[-2:]:
            np.testing.assert_array_equal(in_thread(lambda made=made: made.predict(X))(), predicted[-1])
        in_thread(lambda: sf.train(copies[-1], X, Y, epochs=1))()

    sf.train(net, X, Y, epochs=2, callbacks=[callback], factoring=None)
    assert len(predicted) == 2


def fails(kind):
    def callback(event):
        raise kind

    return {"callbacks": [callback]}


@pytest.mark.parametrize(
    "settings",
    [{}, {"factoring": "auto"}, fails(sf.StopTraining), fails(KeyboardInterrupt), fails(ValueError), {"epochs": 0},
     {"n_threads": 0}, {"loss": "none"}, {"l2": 1e30}],
)  # fmt: skip
def test_network_and_optimizer_are_free_after_whatever_ended_a_training(settings):
    net, optimizer = network(), sf.GradientDescent()
    before = net.copy()
    with contextlib.suppress(ValueError, KeyboardInterrupt, FloatingPointError):
        sf.train(net, X, Y, optimizer=optimizer, **({"epochs": 2, "factoring": sf.Factoring(0.3, force=True)} | settings))
    assert not in_use._uses
    net.set_state(*before.state)
    in_thread(lambda: sf.train(net, X, Y, epochs=1, optimizer=optimizer))()


def test_networks_are_free_after_a_call_that_was_refused():
    net = network()
    with pytest.raises(ValueError, match="X"):
        net.predict(X[:, :3])
    with pytest.raises(ValueError, match="ranks"):
        net.truncate(ranks=[1])
    assert not in_use._uses
    in_thread(net.recompose)()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers that send signals")
@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
@pytest.mark.parametrize(("made", "interrupts"), [(network, N_INTERRUPTS), (recurrent, N_INTERRUPTS // 10)])
def test_interrupts_at_any_moment_leave_nothing_held(monkeypatch, made, interrupts):
    # Python drops an interrupt that comes while it finalizes an object: the next one ends the call then.
    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", lambda about: dropped.append(about.exc_type))
    net, rng, seen = made(), random.Random(0), 0
    net.predict(X)  # BLAS's libraries are looked for once

    def interrupt(*_):
        raise KeyboardInterrupt

    # NumPy's errstate is Python code, so an interrupt may come within it and leave it as it was inside: no call here can prevent that.
    errors = np.geterr()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with threadpool_limits(2, user_api="blas"):
            while seen < interrupts:
                try:
                    # Of short calls most, where more of the time goes to what is to be whole.
                    short = rng.random() < 0.9
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(5e-5, 3e-4 if short else 6e-3), 2)
                    while True:
                        net.predict(X[:1], n_threads=1)
                        if not short:
                            net.truncate(0.5, force=True)
                            sf.train(net, X, Y, epochs=1, batch_size=32)
                except KeyboardInterrupt:
                    seen += 1
                assert not in_use._uses
                guard = runtime.single_threaded_blas
                assert not guard._users
                assert {library.get_num_threads() for library in guard._libraries or ()} <= {2}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        np.seterr(**errors)
    assert set(dropped) <= {KeyboardInterrupt}


# ---- optimizers


def test_an_optimizer_is_of_one_training_at_a_time():
    optimizer = sf.Adam()
    first, second = network(), network(1)
    before = second.copy()
    with in_training(first, optimizer):
        moments = [m.tobytes() for m in optimizer.moments]
        with pytest.raises(RuntimeError, match="optimizer: in use"):
            sf.train(second, X, Y, epochs=1, optimizer=optimizer)
        assert [m.tobytes() for m in optimizer.moments] == moments
        assert second.parameters.tobytes() == before.parameters.tobytes()
        # The network was not taken, either.
        in_thread(lambda: second.truncate(0.5))()
    alone = network()
    sf.train(alone, X, Y, epochs=3, batch_size=16, factoring=sf.Factoring(0.3, force=True), optimizer=sf.Adam())
    np.testing.assert_array_equal(first.parameters, alone.parameters)
    sf.train(second, X, Y, epochs=1, optimizer=optimizer)


def test_an_optimizer_is_of_one_training_at_a_time_within_a_callback_too():
    optimizer = sf.Adam()
    seen = []

    def callback(event):
        with pytest.raises(RuntimeError, match="optimizer: in use"):
            sf.train(network(1), X, Y, epochs=1, optimizer=optimizer)
        sf.train(network(1), X, Y, epochs=1, optimizer=copy.deepcopy(optimizer))
        seen.append(event)

    sf.train(network(), X, Y, epochs=1, optimizer=optimizer, callbacks=[callback], factoring=None)
    assert len(seen) == 1


# ---- estimators


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # that so few epochs are too few
def test_an_estimator_that_is_fitted_by_another_thread(solver, monkeypatch):
    sklearn = pytest.importorskip("sklearn")
    from svdfast.sklearn import SVDMLPRegressor

    model = SVDMLPRegressor((12,), random_state=0, max_iter=3, solver=solver, warm_start=True)
    model.fit(X, X[:, 0])

    def fit(wait):
        if solver == "adam":
            return model.fit(X, X[:, 0], callbacks=[once(wait)])
        real = sf.Network.loss_and_gradient

        def slow(net, *args, **kwargs):
            if net is model.network_:
                wait()
            return real(net, *args, **kwargs)

        monkeypatch.setattr(sf.Network, "loss_and_gradient", slow)
        return model.fit(X, X[:, 0])

    with Held(fit):
        for use in (lambda: model.predict(X), lambda: copy.deepcopy(model), lambda: pickle.dumps(model)):
            with pytest.raises(RuntimeError, match="network: another thread"):
                use()
        sklearn.base.clone(model).fit(X, X[:, 0])
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


@pytest.mark.parametrize("backend", ["threading", "loky"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_searches_in_threads_and_processes_find_the_same(backend, monkeypatch):
    pytest.importorskip("sklearn")
    import joblib
    from sklearn.model_selection import cross_val_score

    from svdfast.sklearn import SVDMLPClassifier

    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # of the processes
    model = SVDMLPClassifier((40,), random_state=0, max_iter=5, tol=0, n_iter_no_change=50)
    settings = {"cv": 4, "scoring": "neg_log_loss"}
    expected = cross_val_score(model, X, Y, **settings)
    with joblib.parallel_backend(backend):
        np.testing.assert_array_equal(cross_val_score(model, X, Y, n_jobs=2, **settings), expected)


# ---- many threads


def test_predictions_in_eight_threads_while_another_trains_its_own():
    def trained():
        net = network()
        sf.train(net, X, Y, epochs=60, batch_size=16, factoring=sf.Factoring(0.3, force=True), n_threads=2)
        return net.parameters.tobytes()

    alone = trained()
    net = network(5)
    net.truncate(ranks=[3, None], force=True)
    expected = net.predict(X).tobytes()
    done = threading.Event()

    def predict():
        n = 0
        while not done.is_set() or n == 0:
            assert net.predict(X).tobytes() == expected
            n += 1
        return n

    results = [in_thread(predict) for _ in range(8)]
    try:
        assert [trained() for _ in range(5)] == [alone] * 5
    finally:
        done.set()
    assert sum(result() for result in results) > 8


# ---- BLAS's threads

needs_two_cpus = pytest.mark.skipif(os.cpu_count() == 1, reason="BLAS takes one thread on one CPU")
SIZES = [300, 400, 300, 10]
BIG = RNG.standard_normal((1000, 300))
CLASSES = RNG.integers(0, 10, 1000)


def digest(*arrays):
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def large(dtype, **settings):
    return sf.Network(SIZES, dtype=dtype, seed=0, **settings)


def cut(dtype, recompose=False, **settings):
    net = large(dtype)
    done = net.truncate(force=True, **settings)
    values = [(t.dropped_norm, *t.singular_values) for t in done]
    if recompose:
        net.recompose()
    return digest(net.parameters, net.layers[0].weight(), *values)


def trained(dtype, **settings):
    net = large(dtype)
    settings = flat(**{"ranks": 0.25, "pretrain_fraction": 0.4} | settings)
    result = sf.train(net, BIG, CLASSES, epochs=3, batch_size=250, n_threads=2, **settings)
    assert [event.kind for event in result.events] == ["switch", "recompose"]
    return digest(net.parameters, [row["loss"] for row in result.history])


def chosen(dtype):
    """What ranks="auto" finds by looking, and what it truncates by that."""
    found = []

    def look(event):
        if event.kind == "ranks":
            found.append([event.info[name] for name in ("loss", "learned", "ranks", "layers")])
        elif event.kind == "switch":
            found.append(digest(event.network.parameters))
            raise sf.StopTraining

    sf.train(
        large(dtype), np.tile(BIG, (4, 1)), np.tile(BIG[:, :10].argmax(axis=1), 4), epochs=40, batch_size=64,
        factoring=sf.Factoring("auto", pretrain_fraction=0.08),
        callbacks=[look], n_threads=1,
    )  # fmt: skip
    assert len(found) == 2 and any(found[0][2])
    return repr(found)


def scored(dtype):
    net, samples = sf.Network([3, 4, 1], output="identity", dtype=dtype, seed=0), BIG.reshape(-1, 3)
    return [net.score(samples, samples[:, :1] * a) for a in range(1, 20)]


def fitted(dtype):
    pytest.importorskip("sklearn")
    import warnings

    from svdfast.sklearn import SVDMLPRegressor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SVDMLPRegressor((200,), solver="lbfgs", max_iter=5, random_state=0).fit(BIG.astype(dtype), BIG[:, 0])
    return digest(model.network_.parameters, model.predict(BIG))


def weight(dtype):
    return np.random.default_rng(1).standard_normal((400, 300)).astype(dtype)


# Computed once, as what NumPy makes of it may depend on BLAS's threads.
OUTPUTS = BIG[:, :300].astype("float64") @ weight("float64").T

RESULTS = {
    "truncated_svd": lambda dtype: digest(*sf.truncated_svd(weight(dtype), 250), *sf.truncated_svd(weight(dtype), 40)),
    "randomized": lambda dtype: digest(*sf.truncated_svd(weight(dtype), 40, "randomized")),
    "factorize": lambda dtype: digest(*sf.factorize(weight(dtype), 40)),
    "leading_directions": lambda dtype: digest(leading_directions(weight(dtype), 40, OUTPUTS.astype(dtype), 0.1)),
    "restricted_svd": lambda dtype: digest(*restricted_svd(weight(dtype), np.eye(400, 250, dtype=dtype))),
    "truncate": lambda dtype: cut(dtype, rank_fraction=0.25),
    "truncate by energy": lambda dtype: cut(dtype, ranks="energy:0.7"),
    "truncate by budget": lambda dtype: cut(dtype, ranks="budget:0.4"),
    "truncate over inputs": lambda dtype: cut(dtype, rank_fraction=0.25, inputs=BIG),
    "recompose": lambda dtype: cut(dtype, recompose=True, rank_fraction=0.25),
    "output_directions": lambda dtype: digest(*output_directions(large(dtype), BIG, None, [40, 30]).values()),
    "predict": lambda dtype: digest(large(dtype).predict(BIG)),
    "evaluate": lambda dtype: repr(large(dtype).evaluate(BIG, CLASSES)),
    "score": scored,
    "train by energy": lambda dtype: trained(dtype, ranks="energy:0.7"),
    "train auto": chosen,
    "train with decay": lambda dtype: trained(dtype, product_decay=0.1),
    "lbfgs": fitted,
}


@needs_two_cpus
@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float64") for name in RESULTS), ("truncate over inputs", "float32"), ("lbfgs", "float32")]
)
def test_results_do_not_depend_on_blas_threads(name, dtype):
    found = []
    for n in (1, 2):
        with threadpool_limits(n, user_api="blas"):
            found.append(RESULTS[name](dtype))
            assert {library["num_threads"] for library in runtime.loaded_blas()} == {n}
    assert found[0] == found[1]


@needs_two_cpus
def test_results_do_not_depend_on_the_environments_blas_threads():
    program = """
import hashlib, numpy as np, svdfast as sf
rng = np.random.default_rng(0)
X, y = rng.standard_normal((500, 300)), rng.integers(0, 10, 500)
net = sf.Network([300, 400, 300, 10], dtype="float64", seed=0)
sf.train(net, X, y, epochs=2, batch_size=250, n_threads=2, factoring=sf.Factoring(0.25, recompose=False))
assert net.is_factored
found = [net.parameters, net.predict(X), *sf.truncated_svd(net.layers[0].weight(), 200)]
print([hashlib.sha256(a).hexdigest() for a in found])
"""
    found = [output(program, OPENBLAS_NUM_THREADS=n) for n in ("1", "2")]
    assert found[0] == found[1] and len(found[0]) > 5 * 64


# ---- processes


def output(program, *, timeout=60, **environment):
    """Runs Python code in a new process, and ends it with all its children where it does not end by itself."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | environment, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"it hung, after {out!r} and {err!r}")
    assert process.returncode == 0, err
    return out


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

BEGIN = """
import hashlib, logging, os, sys, threading, numpy as np, svdfast as sf
from threadpoolctl import threadpool_info, threadpool_limits
logged = []
handler = logging.Handler()
handler.emit = lambda record: logged.append(record.getMessage())
logging.getLogger("svdfast").addHandler(handler)
rng = np.random.default_rng(0)
X, y = rng.standard_normal((512, 200)).astype("float32"), rng.integers(0, 10, 512)

def network(seed=0):
    return sf.Network([200, 300, 200, 10], seed=seed)

def bits(net):
    return hashlib.sha256(net.parameters).hexdigest() + hashlib.sha256(net.predict(X, n_threads=1)).hexdigest()

def trained(**settings):
    net = network()
    method = sf.Factoring(0.25, pretrain_fraction=0.5)
    sf.train(net, X, y, **({"epochs": 2, "batch_size": 256, "factoring": method, "n_threads": 2} | settings))
    return bits(net)

def blas():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

def child(function):
    # What a function returns in a forked process.
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(w, repr(function()).encode())
        finally:
            os._exit(0)
    os.close(w)
    with os.fdopen(r) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return eval(text)
"""


@needs_fork
def test_a_forked_process_works_after_the_import():
    output(BEGIN + """
first = child(trained)
assert first == trained() == child(trained)
""")


@needs_fork
def test_a_process_forked_while_work_is_shared_does_it_alone():
    """As in a rule or a structure of the user's own: there the threads are not."""
    output(BEGIN + """
from svdfast.model import products
with products.threads(2):
    products.each(str, range(9))
    assert child(lambda: products.each(str, range(3))) == ["0", "1", "2"]
""")


@needs_fork
def test_a_forked_process_works_after_a_training_with_two_threads():
    """GNU's OpenMP alone would wait for threads that are not there."""
    output(BEGIN + """
expected = trained()
net = network()

def work():
    predicted = net.predict(X, n_threads=2).tobytes()
    return trained(), predicted, len([m for m in logged if "forked" in m])

assert child(work) == (expected, net.predict(X, n_threads=2).tobytes(), 1)
assert child(lambda: child(work)) == child(work)  # a grandchild
assert child(lambda: (trained(n_threads=1), logged)) == (trained(n_threads=1), [])
assert trained() == expected and not logged
""")


@needs_fork
def test_a_process_forked_in_a_callback_goes_on_with_the_training():
    output(BEGIN + """
from svdfast._process import timing
expected = trained()
answers = []
with threadpool_limits(2, user_api="blas"):
    def callback(event):
        if event.kind == "epoch" and event.epoch == 1:
            r, w = os.pipe()
            if os.fork() == 0:
                answers.append(w)
            else:
                os.close(w)
                with os.fdopen(r) as pipe:
                    assert pipe.read() == expected + str({2})
                os.wait()
    with timing.timed() as times:
        found = trained(callbacks=[callback])
    assert times.products > 0
    if answers:
        os.write(answers[0], (found + str(blas())).encode())
        os._exit(0)
    assert found == expected
    assert blas() == {2}
""")


@needs_fork
def test_a_process_forked_while_another_thread_trains():
    output(BEGIN + f"""
from svdfast._process import timing
n_forks = {N_FORKS}
own, other, stop, begun = network(1), network(), threading.Event(), threading.Event()
expected = own.predict(X, n_threads=2).tobytes()
alone = trained()

def train():
    def callback(event):
        begun.set()
        if stop.is_set():
            raise sf.StopTraining
    with timing.timed():
        sf.train(other, X, y, epochs=100000, batch_size=64, n_threads=2, factoring=None, callbacks=[callback])

def work():
    assert blas() == {{2}}
    assert own.predict(X, n_threads=2).tobytes() == expected
    assert trained() == alone
    with timing.timed() as times:
        trained()
    assert times.products > 0
    try:
        other.predict(X)
    except RuntimeError as error:
        return str(error)

with threadpool_limits(2, user_api="blas"):
    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    begun.wait()
    for i in range(n_forks):
        assert "when this process was forked" in child(work)
    stop.set()
    thread.join()
    assert blas() == {{2}}
other.predict(X)
""", timeout=60 + N_FORKS)


@needs_fork
def test_a_process_forked_while_another_thread_predicts_may_train_the_network():
    output(BEGIN + """
net, go_on, reached = network(), threading.Event(), threading.Event()

class Rows:
    shape, dtype = X.shape, X.dtype
    def __getitem__(self, rows):
        reached.set()
        go_on.wait()
        return X[rows]

with threadpool_limits(2, user_api="blas"):
    thread = threading.Thread(target=lambda: net.predict(Rows()), daemon=True)
    thread.start()
    reached.wait()
    def work():
        threads = blas()
        sf.train(net, X, y, epochs=1)
        return threads, blas()
    assert child(work) == ({2}, {2})
    go_on.set()
    thread.join()
""")


@needs_fork
def test_a_pool_of_forked_processes():
    output(BEGIN + """
import multiprocessing
def work(seed):
    net = network(seed)
    sf.train(net, X, y, epochs=1, batch_size=256, factoring=sf.Factoring(0.25, pretrain_fraction=0.5), n_threads=2)
    return bits(net)
expected = [work(seed) for seed in range(4)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(work, range(4)) == expected
""")


# ---- Python without its global lock


def test_a_python_without_the_gil_is_refused():
    out = output("""
import sys
sys._is_gil_enabled = lambda: False
try:
    import svdfast
except ImportError as error:
    print(error, [name for name in sys.modules if name.startswith(("svdfast._", "numpy", "scipy")) and name != "svdfast._process"])
sys._is_gil_enabled = lambda: True
import svdfast
""")
    assert out.startswith("svdfast needs Python's global interpreter lock") and out.endswith(" []\n")
