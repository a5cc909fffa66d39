# SPDX-License-Identifier: BSD-3-Clause
"""The seam of a step, between gradient and update; and values with several rows for a sample."""

import ctypes
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import svdfast as sf
from svdfast._engine import Engine
from svdfast._process.runtime import single_threaded_blas
from svdfast.data.checks import checked_samples
from svdfast.model.evaluation import spec_of
from svdfast.model.layout import Layout
from svdfast.model.program import Operation, Program, Tensor, Value

# ---- gradient and update


def bound(net, X, y, optimizer, n_threads, *, scales=(2.0, 0.5, 1.0), **settings):
    engine = Engine(*net.state, batch_size=len(X), n_threads=n_threads, **settings)
    checked_samples(X, y, None, spec_of(net)).bind(engine)
    optimizer.begin("here", net.layout.size, net.dtype)
    engine.set_update(optimizer.rule, optimizer.moments)
    engine.set_rate_scales(scales)
    return engine


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("n", [5, 100, 700])
@pytest.mark.parametrize("optimizer", [sf.Adam, sf.AdamW, sf.GradientDescent, lambda: sf.GradientDescent(0.1, momentum=0.9)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradient_and_update_are_a_step(dtype, optimizer, n, n_threads, reproducible):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((n, 30)).astype(dtype), rng.integers(0, 5, n)
    ends = []
    for parts in (False, True):
        net = sf.Network([30, 150, 70, 5], dtype=dtype, seed=0)
        net.truncate(ranks=[9, None], force=True)
        used = optimizer()
        with single_threaded_blas.held():
            engine = bound(net, X, y, used, n_threads, reproducible=reproducible)
            gradient = np.empty_like(net.parameters)
            losses = []
            for t in range(1, 4):
                if parts:
                    losses.append(engine.gradient(0, n, gradient, 1e-3, 1e-2))
                    engine.update(gradient, 0.01, t)
                else:
                    losses.append(engine.step(0, n, 0.01, t, 1e-3, 1e-2))
        ends.append((losses, net.parameters.tobytes(), [m.tobytes() for m in used.moments]))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("n", [60, 900])
def test_parts_of_a_batch_add_up(n):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((n, 30)), rng.integers(0, 5, n)
    net = sf.Network([30, 20, 10, 5], dtype="float64", seed=0)
    engine = bound(net, X, y, sf.Adam(), 2)
    whole, parts = (np.empty_like(net.parameters) for _ in range(2))
    loss = engine.gradient(0, n, whole)
    total, value = np.zeros_like(whole), 0.0
    for start, stop in ((0, n // 3), (n // 3, n)):
        value += engine.gradient(start, stop, parts, total=n)
        total += parts
    assert value == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(total, whole, atol=1e-14)


def test_an_update_is_scaled():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((10, 30)), rng.integers(0, 5, 10)
    ends = []
    for scale in (1.0, 0.25):
        net = sf.Network([30, 20, 10, 5], dtype="float64", seed=0)
        engine = bound(net, X, y, sf.GradientDescent(), 1)
        gradient = np.arange(len(net.parameters)) / len(net.parameters)
        before = net.parameters.copy()
        engine.update(gradient / scale, 0.1, 1, scale)
        ends.append(net.parameters - before)
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norm(dtype):
    net = sf.Network([30, 21, 10, 5], dtype=dtype, seed=0)
    gradient = np.random.default_rng(0).standard_normal(len(net.parameters)).astype(dtype)
    for n_threads in (1, 2):
        engine = Engine(*net.state, batch_size=3, n_threads=n_threads)
        assert engine.norm(gradient) == pytest.approx(np.linalg.norm(gradient.astype(np.float64)), rel=1e-12)
    gradient[7] = np.inf
    assert engine.norm(gradient) == np.inf
    gradient[7] = np.nan
    assert np.isnan(engine.norm(gradient))


# ---- several rows for a sample


def tall_layout(steps, width, hidden, outputs):
    """X (steps·width) -> for each step the same layer -> all steps' outputs together -> outputs."""
    relu, softmax = sf.activations.relu(), sf.activations.softmax()
    shapes = [("V", (hidden, width), True, 0), ("W", (outputs, steps * hidden), True, 1)]
    shapes += [("c", (hidden,), False, 0), ("b", (outputs,), False, 1)]
    tensors = []
    for name, shape, decays, layer in shapes:
        tensors.append(Tensor(name, shape, tensors[-1].stop if tensors else 0, decays, layer))
    V, W, c, b = tensors
    program = Program(steps * width)
    x = program.view(0, steps)
    h = program.bias_activation(program.product(x, V), c, relu)
    program.bias_activation(program.product(program.view(h, 1), W), b, softmax)
    groups = ((V.place, V.stop), (W.place, W.stop))
    return SimpleNamespace(program=program, size=b.stop, n_weights=W.stop, groups=groups, tensors=tensors)


def expected(layout, parameters, X, y, steps):
    V, W, c, b = (tensor.of(parameters) for tensor in layout.tensors)
    n = len(X)
    rows = X.reshape(n * steps, -1)
    H = np.maximum(rows @ V.T + c, 0)
    Z = H.reshape(n, -1) @ W.T + b
    P = np.exp(Z - Z.max(axis=1, keepdims=True))
    P /= P.sum(axis=1, keepdims=True)
    loss = -np.log(P[np.arange(n), y]).mean()
    dZ = P.copy()
    dZ[np.arange(n), y] -= 1
    dZ /= n
    dH = (dZ @ W).reshape(n * steps, -1) * (H > 0)
    parts = [dH.T @ rows, dZ.T @ H.reshape(n, -1), dH.sum(axis=0), dZ.sum(axis=0)]
    return loss, np.concatenate([part.ravel() for part in parts]), P


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(("n", "sum_rows"), [(1, None), (37, None), (300, None), (300, 64), (1100, None)])
@pytest.mark.parametrize(("steps", "width", "hidden"), [(1, 6, 5), (7, 6, 5), (28, 28, 64)])
def test_rows_of_a_sample(steps, width, hidden, n, sum_rows, n_threads, reproducible):
    rng = np.random.default_rng(0)
    layout = tall_layout(steps, width, hidden, 4)
    parameters = rng.standard_normal(layout.size) / 8
    X, y = rng.standard_normal((n, steps * width)), rng.integers(0, 4, n)
    net = sf.Network([steps * width, 4], dtype="float64")  # what the data are checked by
    data = checked_samples(X, y, None, spec_of(net))
    engine = Engine(
        layout, parameters, batch_size=n, n_threads=n_threads, reproducible=reproducible, sum_rows=sum_rows
    )
    data.bind(engine)
    order = rng.permutation(n)
    for rows in (None, order):
        engine.set_order(rows)
        gradient, out = np.empty(layout.size), np.empty((n, 4))
        with single_threaded_blas.held():
            value = engine.gradient(0, n, gradient)
            engine.predict(out)
        loss, whole, P = expected(layout, parameters, X, y, steps)
        assert value == pytest.approx(loss, rel=1e-12)
        np.testing.assert_allclose(gradient, whole, atol=1e-13)
        np.testing.assert_allclose(out, P if rows is None else P[order], atol=1e-13)


# ---- heights of tiles


@pytest.mark.parametrize(
    ("sizes", "batch_size", "tile_rows", "by_tiles"),
    [
        ([2, 20, 20, 1], 4, 9, False),
        ([64, 512, 512, 10], 128, 64, False),
        ([784, 512, 256, 10], 2048, 256, True),
        ([784, 512, 256, 10], 512, 256, False),
        ([784, 512, 256, 10], 513, 256, True),
        ([784, 2048, 2048, 10], 1024, 512, True),
        ([12288, 20, 7, 5, 1], 209, 105, False),
    ],
)
def test_networks_with_one_row_for_a_sample_keep_their_heights(sizes, batch_size, tile_rows, by_tiles):
    layout = Layout.dense(sizes, [sf.activations.relu()] * (len(sizes) - 1))
    engine = Engine(layout, np.zeros(layout.size, np.float32), batch_size=batch_size, n_threads=2)
    assert (engine.tile_rows, engine.by_tiles) == (tile_rows, by_tiles)


def test_tall_values_are_kept_in_cache():
    layout = tall_layout(28 * 28, 1, 64, 10)  # 64 channels of an image
    parameters = np.zeros(layout.size, np.float32)
    engine = Engine(layout, parameters, batch_size=256, n_threads=2)
    assert engine.tile_rows == 9 and engine.by_tiles
    engine = Engine(layout, parameters, batch_size=256, n_threads=2, reproducible=True)
    assert not engine.by_tiles
    short = tall_layout(7, 1, 8, 10)
    assert Engine(short, np.zeros(short.size, np.float32), batch_size=2048, n_threads=2).tile_rows == 256


# ---- programs


def test_what_does_not_fit_is_refused():
    program = Program(6)
    V = Tensor("V", (4, 5), 0, True, 0)
    with pytest.raises(ValueError, match="V: expected 6 columns, got 5"):
        program.product(0, V)
    with pytest.raises(ValueError, match="rows_per_sample: expected a divisor of 6, got 4"):
        program.view(0, 4)
    with pytest.raises(ValueError, match="z: expected the output of an operation"):
        program.bias_activation(0, Tensor("b", (6,), 0, False, 0), sf.activations.relu())


def test_a_way_back_that_would_be_wrong_is_refused():
    relu = sf.activations.relu()
    V, W, b, c = (
        Tensor("V", (6, 6), 0, True, 0), Tensor("W", (6, 6), 36, True, 0), Tensor("b", (6,), 72, False, 0),
        Tensor("c", (6,), 78, False, 0),
    )  # fmt: skip
    program = Program(6)
    h = program.product(0, V)
    with pytest.raises(ValueError, match="input: expected 1, the last value, got 0"):
        program.product(0, W)
    with pytest.raises(ValueError, match="V: expected a tensor that no other operation has"):
        program.product(h, V)
    a = program.bias_activation(program.view(h, 1), b, relu)
    with pytest.raises(ValueError, match="z: expected the output of an operation that does not read it"):
        program.bias_activation(program.view(a, 1), c, relu)
    # Nor is it written over by what might be.
    d = program.add(Operation(None, a, len(program.values), overwrites=True), Value(6))
    assert [operation.overwrites for operation in program.operations] == [False, True, False]
    program.product(d, W)


@pytest.mark.parametrize("shape", [(4,), (4, 5, 6), ()])
def test_shapes_of_tensors(shape):
    with pytest.raises(ValueError, match="T: expected two sizes, got shape"):
        Tensor("T", shape, 0, True, 0)
    if len(shape) != 1:
        with pytest.raises(ValueError, match="T: expected one size, got shape"):
            Tensor("T", shape, 0, False, 0)


def test_tensors_are_where_gradients_are():
    nothing = (ctypes.c_void_p * 10)()
    made = ctypes.pythonapi.PyCapsule_New
    made.restype, made.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    without = made(ctypes.addressof(nothing), b"svdfast.ops.kinds", None)
    for i, change in ((0, {"kind": without}), (1, {"tensor": None})):
        layout = tall_layout(2, 3, 4, 5)
        layout.program.operations[i] = replace(layout.program.operations[i], **change)
        with pytest.raises(ValueError, match=f"operation {i}: expected a tensor where its kind has a gradient, and only there"):
            Engine(layout, np.zeros(layout.size), batch_size=4, n_threads=1)


# ---- ends of the seam


def test_no_rows_have_no_gradient():
    X, y = np.ones((10, 30)), np.zeros(10, int)
    net = sf.Network([30, 20, 10, 5], dtype="float64", seed=0)
    engine = bound(net, X, y, sf.Adam(), 2)
    gradient = np.full_like(net.parameters, 7)
    assert engine.gradient(4, 4, gradient, 0.1, 0.1, total=10) == 0
    assert not gradient.any()


def test_a_scale_may_be_smaller_than_a_float():
    net = sf.Network([3, 2], seed=0)
    net.parameters[:] = 0
    engine = bound(net, np.ones((4, 3)), np.zeros(4, int), sf.GradientDescent(), 1, scales=[1.0])
    engine.update(np.full_like(net.parameters, 1e38), 1.0, 1, scale=1e-39)
    np.testing.assert_allclose(net.parameters, -0.1, rtol=1e-6)


def test_an_update_takes_an_engine_for_gradients():
    net = sf.Network([3, 2], seed=0)
    engine = Engine(*net.state, batch_size=3, n_threads=1, gradients=False)
    with pytest.raises(ValueError, match="gradients: expected an Engine that was made for them"):
        engine.update(np.zeros_like(net.parameters), 0.1, 1)
