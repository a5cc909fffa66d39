# SPDX-License-Identifier: BSD-3-Clause
"""A training step allocates nothing: memory is flat over 10,000 steps.

Measured between steps, from within the learning-rate schedule, which is asked before each. Three measures:
what Python's allocators hold (tracemalloc, which NumPy reports to as well), what malloc has handed out (glibc's
mallinfo2), and the resident set. Each is shown to see a leak of 100 bytes a step, made by the test itself.
"""

import ctypes
import gc
import mmap
import sys
import tracemalloc

import numpy as np
import pytest

import svdfast as sf
from svdfast import layers as L
from svdfast._engine import Engine
from svdfast._process import checks

resource = pytest.importorskip("resource", reason="the resident set is measured on POSIX only")

STEPS = {1: 10_000, 2: 2_000}  # by threads: two that wait for each other are slow on a busy machine
LEAK = 100  # bytes a step


class Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def glibc():
    library = ctypes.CDLL(None)
    if sys.platform != "linux" or not hasattr(library, "mallinfo2"):
        pytest.skip("glibc's mallinfo2 is not here")
    library.mallinfo2.restype = Mallinfo2
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    return library


class Growth:
    """A schedule that measures after a tenth of the steps and at the last, and leaks at each step if it is told to.

    By a tenth of the steps, every buffer that is made once has been made.
    """

    def __init__(self, measure, leak=None):
        self.measure, self.leak = measure, leak
        self.at = []

    def __call__(self, step, n_steps):
        if self.leak is not None:
            self.leak(step)
        if step in (n_steps // 10, n_steps - 1):
            self.at.append(self.measure())
            self.n_steps = n_steps
        return 1e-4

    @property
    def bytes(self):
        first, last = self.at
        return last - first

    @property
    def limit(self):
        """A tenth of what the leak makes."""
        return self.n_steps * 9 // 10 * LEAK // 10


LAYERED = {
    "convolution": lambda: sf.Network(
        sf.Input(4, 4, 1), [L.Conv2d(3, 3, "relu", padding="same"), L.MaxPool2d(2), L.Flatten(), L.Dropout(0.1), L.Linear(3, "softmax")]
    ),
    "recurrent": lambda: sf.Network(
        sf.Input(4, 4), [L.Masking(), L.LSTM(4, return_sequences=True, bidirectional=True), L.LayerNorm(), L.GRU(3), L.Linear(3, "softmax")]
    ),
}


def train(growth, form, n_threads, optimizer=sf.Adam, **settings):
    """One epoch of all STEPS: between its first and last step nothing but steps."""
    if n_threads == 1:
        sizes, batch_size, distinct = [5, 8, 6, 3], 2, None
    else:
        sizes, batch_size, distinct = [16, 128, 128, 3], 48, 4_800  # work for two threads
    net = LAYERED[form]() if form in LAYERED else sf.Network(sizes, seed=0)
    sizes = net.sizes
    if form == "factored":
        net.truncate(rank_fraction=0.4, force=True)
    rng = np.random.default_rng(0)
    n = STEPS[n_threads] * batch_size
    if distinct is None:
        X = rng.standard_normal((n, sizes[0]))
    else:  # rows on top of each other: as many samples without as much memory
        X = np.lib.stride_tricks.as_strided(
            rng.standard_normal(distinct + n).astype("float32"), (n, sizes[0]), (4, 4)
        )
        X = X[:, :16]
    y = rng.integers(0, 3, n)
    gc.collect()
    sf.train(
        net, X, y, epochs=1, batch_size=batch_size, optimizer=optimizer(growth),
        factoring=sf.Factoring(pretrain_fraction=1, recompose=False), n_threads=n_threads, **settings,
    )  # fmt: skip


CASES = [*((form, n_threads) for form in ("dense", "factored") for n_threads in (1, 2)), ("convolution", 1), ("recurrent", 1)]


@pytest.mark.parametrize("form", ["dense", "factored", *LAYERED])
def test_python_memory_is_flat(form):
    growth = Growth(lambda: tracemalloc.get_traced_memory()[0])
    tracemalloc.start()
    try:
        train(growth, form, 1, l1=1e-5, l2=1e-5)
    finally:
        tracemalloc.stop()
    assert abs(growth.bytes) < growth.limit


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(("form", "n_threads"), CASES)
def test_c_memory_is_flat(form, n_threads):
    library = glibc()

    def handed_out():
        info = library.mallinfo2()
        return np.array([info.uordblks + info.hblkhd, resident()], dtype=np.int64)

    for _ in range(3):
        growth = Growth(handed_out)
        train(growth, form, n_threads, l1=1e-5, l2=1e-5)
        handed, in_memory = growth.bytes
        if handed > -growth.limit:
            break  # else what other tests left was freed meanwhile
    assert abs(handed) < growth.limit
    # Whole pages, of which the interpreter takes one now and then: coarser, and still below that leak.
    assert in_memory < 5 * growth.limit


def test_a_leak_of_python_memory_is_seen():
    kept = []
    growth = Growth(
        lambda: tracemalloc.get_traced_memory()[0],
        lambda step: kept.append(bytes(LEAK - sys.getsizeof(b""))),
    )
    tracemalloc.start()
    try:
        train(growth, "dense", 1)
    finally:
        tracemalloc.stop()
    assert growth.bytes > 9 * growth.limit


def test_a_leak_of_c_memory_is_seen():
    library = glibc()
    kept = np.zeros(STEPS[1], dtype=np.uintp)

    def handed_out():
        info = library.mallinfo2()
        return info.uordblks + info.hblkhd

    def leak(step):
        kept[step] = library.malloc(LEAK)

    growth = Growth(handed_out, leak)
    try:
        train(growth, "dense", 1)
        assert growth.bytes > 9 * growth.limit
    finally:
        for place in kept:
            library.free(int(place))


def test_a_leak_is_seen_in_the_resident_set():
    """Of as many bytes a step, in new pages: malloc may have room in pages that are there already."""
    kept = []

    def leak(step):
        if step % (mmap.PAGESIZE // LEAK) == 0:
            page = mmap.mmap(-1, mmap.PAGESIZE)
            page[0] = 1
            kept.append(page)

    growth = Growth(resident, leak)
    try:
        train(growth, "dense", 1)
        assert growth.bytes > 5 * growth.limit
    finally:
        for page in kept:
            page.close()


def test_engines_give_their_memory_back():
    """Each prediction and each training makes an engine: over many, memory is flat as well."""
    library = glibc()
    net = sf.Network([5, 8, 6, 3], seed=0)
    X, y = np.zeros((4, 5)), np.zeros(4, int)

    def use(times):
        for _ in range(times):
            net.predict(X)
            net.loss_and_gradient(X, y)
            sf.train(net, X, y, epochs=2, factoring=sf.Factoring(0.25, force=True))
            sf.train(net, X, y, epochs=2, factoring="auto")
        gc.collect()
        return library.mallinfo2().uordblks

    before = use(50)
    assert use(1000) - before < 1000 * 64  # the plan of an engine's layers alone is larger


# Numbers of a sample that an engine for steps keeps, layer by layer: values, and deltas where somebody needs them.
COUNTS = [
    (sf.Input(64, 64, 3), [L.Conv2d(8, 3, "relu", padding="same"), L.MaxPool2d(2), L.Flatten(), L.Linear(10, "softmax")],
     64 * 64 * 3 + 2 * 64 * 64 * 8 + 2 * 32 * 32 * 8 + 3 * 10),
    (sf.Input(50, 8), [L.LSTM(32), L.Linear(10, "softmax")],
     2 * 50 * 8  # as they come, and step by step
     + 2 * 50 * 128 + 50 * 128  # what the input gives, what the state gives, and the delta, which is one for both
     + 2 * 50 * 32 + 50 * 32 + 32  # states before, memory, and what goes back past the product
     + 2 * 50 * 32 + 2 * 32 + 3 * 10),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(COUNTS)))
@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_engine_takes_what_is_counted(i, n_threads):
    shape, layers, of_sample = COUNTS[i]
    net = sf.Network(shape, layers, seed=0)
    for batch_size in (9 * n_threads, 1000):
        tracemalloc.start()
        engine = Engine(net.layout, net.parameters, batch_size=batch_size, n_threads=n_threads)
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        vectors = n_threads * net.parameters.nbytes if engine.by_tiles else net.parameters.nbytes
        counted = 4 * n_threads * engine.tile_rows * of_sample
        assert counted < taken < counted + vectors + 8 * batch_size + 32_768


@pytest.mark.parametrize("size", [512, 1024])
@pytest.mark.parametrize("options", [{}, {"gradients": False}, {"reproducible": True}, {"dtype": "float64", "reproducible": True}])
def test_memory_grows_with_an_image_not_with_the_batch(size, options):
    options = dict(options)
    dtype = options.pop("dtype", "float32")
    layers = [L.Conv2d(8, 3, "relu", padding="same"), L.MaxPool2d(2), L.GlobalAvgPool(), L.Linear(3, "softmax")]
    net = sf.Network(sf.Input(size, size, 3), layers, dtype=dtype, seed=0)
    one = net.layout.program.tall_size * net.dtype.itemsize * (2 if options.get("gradients", True) else 1)
    for batch_size in (2, 9, 1000):
        tracemalloc.start()
        Engine(net.layout, net.parameters, batch_size=batch_size, n_threads=2, **options)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * max(one, 128 << 20) + (1 << 20)


def test_more_than_there_is_is_refused_with_its_size(monkeypatch):
    monkeypatch.setattr(checks, "memory", lambda: 70 << 20)
    net = sf.Network(sf.Input(1024, 1024, 3), [L.Conv2d(8, 3, "relu"), L.GlobalAvgPool(), L.Linear(3, "softmax")], seed=0)
    X, y = np.zeros((1, 1024, 1024, 3), "uint8"), [0]
    for call in (lambda: net.loss_and_gradient(X, y), lambda: sf.train(net, X, y, epochs=1)):
        with pytest.raises(MemoryError, match=r"(layers|n_threads): expected to need at most the 73,400,320 available bytes"):
            call()


def test_recomposition_holds_one_weight_at_a_time():
    net = sf.Network([300, 400, 500, 300, 2], seed=0)
    net.truncate(0.1)
    tracemalloc.start()
    net.recompose()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < net.parameters.nbytes + 1.2 * net.layers[1].W.nbytes
