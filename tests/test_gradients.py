# SPDX-License-Identifier: BSD-3-Clause
"""Gradients of whole networks: against central finite differences, plain NumPy, and PyTorch's autograd.

Every activation in the first, a middle and the last layer, with every loss that it goes with, dense and factored, for
batches of one row up to several tiles, on one thread and on two.
"""

import subprocess
import sys

import numpy as np
import pytest

import svdfast as sf
from svdfast import _engine
from svdfast.model import activations

ACTIVATIONS = {
    "identity": activations.identity(),
    "relu": activations.relu(),
    "clipped_relu": activations.clipped_relu(0.5),
    "hardtanh": activations.hardtanh(0.5),
    "leaky_relu": activations.leaky_relu(0.1),
    "elu": activations.elu(0.7),
    "celu": activations.celu(1.5),
    "gelu": activations.gelu(),
    "gelu_tanh": activations.gelu_tanh(),
    "silu": activations.silu(),
    "softplus": activations.softplus(),
    "tanh": activations.tanh(),
    "sigmoid": activations.sigmoid(),
    "exp": activations.exp(),
    "softmax": activations.softmax(),
}
OUTPUT = {
    "cross_entropy": "softmax",
    "binary_cross_entropy": "sigmoid",
    "mean_squared_error": "identity",
    "mean_absolute_error": "identity",
    "huber": "identity",
    "poisson": "exp",
}
ANY_OUTPUT = ("mean_squared_error", "mean_absolute_error", "huber")
KINKED = {"relu", "clipped_relu", "hardtanh", "leaky_relu", "elu"}  # elu with alpha other than 1

CASES = [
    (name, position, loss, form)
    for name in ACTIVATIONS
    for position in ("first", "middle", "last")
    for loss in OUTPUT
    for form in ("dense", "factored")
    if position != "last" or loss in ANY_OUTPUT or OUTPUT[loss] == name
    # How hidden layers go with a loss is the same for those that give the same kind of delta.
    if position == "last" or name == "gelu" or loss not in ("mean_absolute_error", "huber", "poisson")
    if position == "last" or name != "exp"  # which overflows in the larger networks
]
SMALL = (3, 5, 4, 3), (2, 3)
# Large enough that 255 rows are work for two threads, dense and factored.
LARGE = (24, 64, 48, 10), (16, 24)

pytestmark = pytest.mark.usefixtures("one_blas_thread")
needs_two_threads = pytest.mark.skipif(
    not _engine.HAS_OPENMP, reason="built without OpenMP: one thread"
)


def build(case, shape, dtype="float64", seed=0):
    """A network with the case's activation in the case's position, tanh in the other hidden layers."""
    name, position, loss, form = case
    sizes, ranks = shape
    hidden = ["tanh", "tanh"]
    output = OUTPUT[loss]
    if position == "last":
        output = ACTIVATIONS[name]
    else:
        hidden[("first", "middle").index(position)] = ACTIVATIONS[name]
    net = sf.Network(sizes, hidden=hidden, output=output, dtype=dtype, seed=seed)
    if form == "factored":
        net.truncate(ranks=ranks, force=True)
        assert net.layout.ranks == (*ranks, None)
    rng = np.random.default_rng([seed, 1])
    for layer in net.layers:
        layer.b[...] = 0.3 * rng.standard_normal(layer.n_out)
    return net


def away_from_kinks(reference, make_data, case, shape, n_samples, margin, dtype="float64"):
    """The first seed's network and data in which no kinked activation is nearer to its kink than `margin`."""
    for seed in range(200):
        net = build(case, shape, dtype, seed)
        X, y = make_data(net, case[2], n_samples, seed)
        passed = reference.forward(net, net.parameters, X)
        near = min(
            (np.abs(Z).min() for (_, _, Z, _), spec
             in zip(passed, net.layout.layers, strict=True)
             if spec.activation.name in KINKED),
            default=np.inf,
        )  # fmt: skip
        if case[2] == "mean_absolute_error":
            near = min(near, np.abs(passed[-1][3] - y).min())
        if near > margin:
            return net, X, y
    raise AssertionError("no seed keeps away from the kinks")


def central_differences(net, value, h=1e-5):
    """d value() / d parameters, one parameter after the other."""
    w = net.parameters
    gradient = np.empty_like(w)
    for i in range(len(w)):
        kept = w[i]
        w[i] = kept + h
        above = value()
        w[i] = kept - h
        below = value()
        w[i] = kept
        gradient[i] = (above - below) / (2 * h)
    return gradient


def difference(a, b):
    """Largest difference, relative to the largest element."""
    return np.abs(np.asarray(a, float) - b).max() / np.abs(b).max()


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_finite_differences(case, reference, make_data, monkeypatch):
    # Tiles of 8 rows, so that a few rows are less than, about and more than a tile.
    monkeypatch.setattr(_engine, "TILE_ROWS", 8)
    net, all_X, all_y = away_from_kinks(reference, make_data, case, SMALL, 30, 1e-3)
    for n_samples in (1, 3, 7, 9, 30):
        X, y = all_X[:n_samples], all_y[:n_samples]
        value, gradient = net.loss_and_gradient(X, y, case[2], n_threads=1)
        expected = central_differences(
            net,
            lambda: net.loss_and_gradient(X, y, case[2], n_threads=1)[0],  # noqa: B023
        )
        assert difference(gradient, expected) < 1e-6
        expected_value, _ = reference.loss_and_gradient(net, X, y, case[2])
        assert value == pytest.approx(expected_value, rel=1e-13)


@pytest.mark.parametrize("n_threads", [1, pytest.param(2, marks=needs_two_threads)])
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_against_plain_numpy(case, n_threads, reference, make_data):
    tile = _engine.TILE_ROWS
    n_samples = 2 * tile + 88
    for dtype, bound, margin in (("float64", 1e-12, 0), ("float32", 1e-5, 1e-6)):
        net, all_X, all_y = away_from_kinks(
            reference, make_data, case, LARGE, n_samples, margin, dtype
        )
        for n in (1, 3, tile - 1, tile + 1, n_samples):
            X, y = all_X[:n], all_y[:n]
            value, gradient = net.loss_and_gradient(X, y, case[2], n_threads=n_threads)
            expected_value, expected = reference.loss_and_gradient(net, X, y, case[2])
            assert gradient.dtype == net.dtype and gradient.shape == net.parameters.shape
            assert value == pytest.approx(expected_value, rel=bound)
            assert difference(gradient, expected) < bound, (n, dtype)


@needs_two_threads
@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("loss", OUTPUT)
def test_finite_differences_along_lines_on_two_threads(loss, form, make_data):
    """Networks too large for a difference in each parameter: derivatives along the gradient and random directions."""
    case = ("gelu", "middle", loss, form)
    net = build(case, LARGE)
    X, y = make_data(net, loss, 600)
    _, gradient = net.loss_and_gradient(X, y, loss, n_threads=2)
    start = net.parameters.copy()
    rng = np.random.default_rng(7)
    h = 1e-5
    for k in range(12):
        direction = rng.standard_normal(len(start))
        direction /= np.linalg.norm(direction)
        # A random direction alone is nearly at right angles to the gradient.
        direction += gradient / np.linalg.norm(gradient) * (0 if k > 8 else 1)
        net.parameters[:] = start + h * direction
        above = net.loss_and_gradient(X, y, loss, n_threads=2)[0]
        net.parameters[:] = start - h * direction
        below = net.loss_and_gradient(X, y, loss, n_threads=2)[0]
        slope = (above - below) / (2 * h)
        bound = 1e-6 * (np.linalg.norm(gradient) if k > 8 else abs(slope))
        assert abs(gradient @ direction - slope) < bound


def torch_loss_and_gradient(torch, net, X, y, loss, sample_weight=None, dtype=None):
    """The same network by PyTorch's operations and autograd; the gradient laid out as net.parameters is."""
    F = torch.nn.functional
    dtype = dtype or torch.float64
    functions = {
        "identity": lambda z, a: z,
        "relu": lambda z, a: F.relu(z),
        "clipped_relu": lambda z, a: F.hardtanh(z, 0.0, a),
        "hardtanh": lambda z, a: F.hardtanh(z, -a, a),
        "leaky_relu": F.leaky_relu,
        "elu": F.elu,
        "celu": F.celu,
        "gelu": lambda z, a: F.gelu(z),
        "gelu_tanh": lambda z, a: F.gelu(z, approximate="tanh"),
        "silu": lambda z, a: F.silu(z),
        "softplus": lambda z, a: F.softplus(z),
        "tanh": lambda z, a: torch.tanh(z),
        "sigmoid": lambda z, a: torch.sigmoid(z),
        "exp": lambda z, a: torch.exp(z),
        "softmax": lambda z, a: torch.softmax(z, dim=1),
    }

    def tensor(a):
        return torch.tensor(np.asarray(a), dtype=dtype)

    weights, biases = [], []
    for layer in net.layers:
        matrices = [layer.W] if layer.rank is None else [layer.W1, layer.W2]
        weights.append([tensor(M).requires_grad_() for M in matrices])
        biases.append(tensor(layer.b).requires_grad_())
    A = tensor(X)
    for matrices, b, layer in zip(weights, biases, net.layers, strict=True):
        for M in reversed(matrices):
            A = A @ M.T
        Z = A + b
        A = functions[layer.activation.name](Z, layer.activation.parameter)
    if loss == "cross_entropy":
        target = torch.tensor(y) if np.ndim(y) == 1 else tensor(y)
        losses = F.cross_entropy(Z, target, reduction="none")
    elif loss == "binary_cross_entropy":
        losses = F.binary_cross_entropy_with_logits(Z, tensor(y), reduction="none").mean(1)
    elif loss == "poisson":
        Y = tensor(y)
        losses = (F.poisson_nll_loss(Z, Y, log_input=True, reduction="none") + torch.xlogy(Y, Y) - Y).mean(1)
    else:
        of_A = {"mean_squared_error": F.mse_loss, "mean_absolute_error": F.l1_loss, "huber": F.huber_loss}[loss]
        losses = of_A(A, tensor(y), reduction="none").mean(1)
    w = torch.ones(len(losses), dtype=dtype) if sample_weight is None else tensor(sample_weight)
    value = (w * losses).sum() / w.sum()
    value.backward()
    flat = [M.grad.numpy().ravel() for matrices in weights for M in matrices]
    flat += [b.grad.numpy() for b in biases]
    return value.item(), np.concatenate(flat)


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch", reason="PyTorch is not installed")
    # Its threads and ours would wait for each other's turn on every small product.
    before = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(before)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_against_pytorch(case, torch, reference, make_data):
    tile = _engine.TILE_ROWS
    n_samples = 2 * tile + 88
    for dtype, bound, margin in (("float64", 1e-10, 0), ("float32", 1e-4, 1e-6)):
        net, all_X, all_y = away_from_kinks(
            reference, make_data, case, LARGE, n_samples, margin, dtype
        )
        for n in (1, 3, tile - 1, tile + 1, n_samples):
            X, y = all_X[:n], all_y[:n]
            value, gradient = net.loss_and_gradient(X, y, case[2], n_threads=2)
            expected_value, expected = torch_loss_and_gradient(
                torch, net, X, y, case[2], dtype=getattr(torch, dtype)
            )
            assert value == pytest.approx(expected_value, rel=bound)
            assert difference(gradient, expected) < bound


@pytest.mark.parametrize("loss", OUTPUT)
def test_sample_weights_against_pytorch(loss, torch, make_data):
    net = build(("tanh", "first", loss, "factored"), LARGE)
    X, y = make_data(net, loss, 600)
    weight = np.random.default_rng(3).random(600)
    weight[::7] = 0
    value, gradient = net.loss_and_gradient(X, y, loss, sample_weight=weight)
    expected_value, expected = torch_loss_and_gradient(torch, net, X, y, loss, weight)
    assert value == pytest.approx(expected_value, rel=1e-12)
    assert difference(gradient, expected) < 1e-10


@needs_two_threads
@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("n_samples", [600, 1001])
def test_two_shares_ran(n_samples, form, make_data):
    """Large batches that ask for two threads got two shares: other sums, so other last bits."""
    net = build(("relu", "first", "cross_entropy", form), LARGE)
    X, y = make_data(net, "cross_entropy", n_samples)
    one = net.loss_and_gradient(X, y, n_threads=1)[1]
    two = net.loss_and_gradient(X, y, n_threads=2)[1]
    again = net.loss_and_gradient(X, y, n_threads=2)[1]
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(two, again)
    # The shares are halves of the rows: each half's own gradient, one thread each, weighted by its rows.
    half = n_samples // 2
    first = net.loss_and_gradient(X[:half], y[:half], n_threads=1)[1]
    second = net.loss_and_gradient(X[half:], y[half:], n_threads=1)[1]
    expected = (half * first + (n_samples - half) * second) / n_samples
    assert difference(two, expected) < 1e-14


@needs_two_threads
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_second_thread_starts_for_much_work_only():
    program = """
import os, numpy as np, svdfast as sf
net = sf.Network([24, 64, 48, 10], seed=0)
X, y = np.zeros((256, 24)), np.zeros(256, int)
count = lambda: len(os.listdir("/proc/self/task"))
start = count()
net.loss_and_gradient(X[:8], y[:8], n_threads=2)
few = count()
net.loss_and_gradient(X, y, n_threads=1)
one = count()
net.loss_and_gradient(X, y, n_threads=2)
print(few - start, one - start, count() - start)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["0", "0", "1"]


@pytest.mark.parametrize("loss", OUTPUT)
def test_sample_weights(loss, reference, make_data):
    net = build(("tanh", "first", loss, "dense"), SMALL)
    X, y = make_data(net, loss, 12)
    weight = np.random.default_rng(2).random(12) * 5
    value, gradient = net.loss_and_gradient(X, y, loss, sample_weight=weight)
    expected_value, expected = reference.loss_and_gradient(net, X, y, loss, sample_weight=weight)
    assert value == pytest.approx(expected_value, rel=1e-13)
    assert difference(gradient, expected) < 1e-12
    differences = central_differences(
        net, lambda: net.loss_and_gradient(X, y, loss, sample_weight=weight)[0]
    )
    assert difference(gradient, differences) < 1e-6


@pytest.mark.parametrize("loss", OUTPUT)
def test_whole_weights_are_repeated_samples(loss, make_data):
    net = build(("tanh", "first", loss, "factored"), SMALL)
    X, y = make_data(net, loss, 6)
    times = np.array([3, 0, 1, 2, 0, 4])
    value, gradient = net.loss_and_gradient(X, y, loss, sample_weight=times)
    repeated = net.loss_and_gradient(X.repeat(times, 0), y.repeat(times, 0), loss)
    assert value == pytest.approx(repeated[0], rel=1e-13)
    assert difference(gradient, repeated[1]) < 1e-13
    # Only their proportions matter.
    scaled = net.loss_and_gradient(X, y, loss, sample_weight=times * 8)
    assert scaled[0] == pytest.approx(value, rel=1e-14)
    assert difference(scaled[1], gradient) < 1e-14


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0), (0, 0.7), (0.3, 0.7)])
def test_penalties(l1, l2, form, n_threads, make_data):
    net = build(("tanh", "first", "cross_entropy", form), LARGE)
    net.parameters[5:9] = 0  # where |w| has no derivative, none is added
    X, y = make_data(net, "cross_entropy", 300)
    plain_value, plain = net.loss_and_gradient(X, y, n_threads=n_threads)
    value, gradient = net.loss_and_gradient(X, y, l1=l1, l2=l2, n_threads=n_threads)
    n_biases = sum(net.sizes[1:])
    w = net.parameters[:-n_biases]
    penalty = (l1 * np.abs(w).sum() + l2 / 2 * (w @ w)) / 300
    assert value - plain_value == pytest.approx(penalty, rel=1e-12)
    added = gradient - plain
    np.testing.assert_allclose(added[:-n_biases], (l1 * np.sign(w) + l2 * w) / 300, atol=1e-16)
    assert (added[-n_biases:] == 0).all()


@pytest.mark.parametrize("form", ["dense", "factored"])
def test_penalties_of_whole_weights_are_those_of_repeated_samples(form, make_data):
    net = build(("tanh", "first", "cross_entropy", form), SMALL)
    X, y = make_data(net, "cross_entropy", 20)
    times = np.arange(20) % 4
    value, gradient = net.loss_and_gradient(X, y, sample_weight=times, l1=0.3, l2=0.7)
    repeated = net.loss_and_gradient(X.repeat(times, axis=0), y.repeat(times), l1=0.3, l2=0.7)
    assert value == pytest.approx(repeated[0], rel=1e-13)
    assert difference(gradient, repeated[1]) < 1e-13


@pytest.mark.parametrize("form", ["dense", "factored"])
def test_finite_differences_with_penalties(form, make_data):
    net = build(("tanh", "first", "cross_entropy", form), SMALL)
    assert np.abs(net.parameters).min() > 1e-4  # |w| has a kink at 0
    X, y = make_data(net, "cross_entropy", 5)

    def value_and_gradient():
        return net.loss_and_gradient(X, y, l1=0.5, l2=0.9)

    differences = central_differences(net, lambda: value_and_gradient()[0])
    assert difference(value_and_gradient()[1], differences) < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_hot_and_class_numbers_are_the_same(dtype, make_data):
    net = build(("relu", "first", "cross_entropy", "dense"), LARGE, dtype)
    X, y = make_data(net, "cross_entropy", 300)
    value, gradient = net.loss_and_gradient(X, y)
    eps = float(np.finfo(dtype).eps)
    one_hot = np.eye(10, dtype=int)[y]
    for rows in (one_hot, one_hot.astype(bool), one_hot.astype("float32")):
        hot_value, hot_gradient = net.loss_and_gradient(X, rows)
        assert hot_value == pytest.approx(value, rel=4 * eps)
        assert difference(hot_gradient, gradient) < 8 * eps


def test_soft_labels(reference, make_data):
    net = build(("relu", "first", "cross_entropy", "factored"), SMALL)
    X, _ = make_data(net, "cross_entropy", 9)
    y = np.random.default_rng(1).dirichlet(np.ones(3), 9)
    y[0] = [0, 0, 0]  # no share for any class: no loss
    y[1] = [1, 2, 0]  # shares that are not a distribution still have the right gradient
    value, gradient = net.loss_and_gradient(X, y)
    expected_value, expected = reference.loss_and_gradient(net, X, y, "cross_entropy")
    assert value == pytest.approx(expected_value, rel=1e-13)
    assert difference(gradient, expected) < 1e-12


@pytest.mark.parametrize("scale", [1 / 255, 1.0, 0.02])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uint8_samples_are_scaled(dtype, scale, make_data):
    net = sf.Network([24, 64, 10], dtype=dtype, seed=0, uint8_scale=scale)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (300, 24), dtype=np.uint8)
    y = rng.integers(0, 10, 300)
    value, gradient = net.loss_and_gradient(pixels, y)
    kind = np.dtype(dtype).type
    same = net.loss_and_gradient(pixels.astype(dtype) * kind(scale), y)
    assert value == same[0]
    np.testing.assert_array_equal(gradient, same[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_pre_activations_stay_finite(dtype):
    for output, y, expected in (("softmax", [1, 0], 1e4), ("sigmoid", [[0, 1], [1, 1]], 5e3)):
        net = sf.Network([2, 2], output=output, dtype=dtype, seed=0)
        net.layers[0].W[...] = [[1e4, 0], [0, 0]]
        value, gradient = net.loss_and_gradient([[1.0, 0.0], [1.0, 0.0]], y)
        # softmax: one sample right, one wrong by 1e4; sigmoid: one of four outputs wrong by 1e4, and log 2 for two
        if output == "softmax":
            assert value == pytest.approx(expected / 2)
        else:
            assert value == pytest.approx((1e4 + 2 * np.log(2)) / 4)
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0.1


def test_nothing_is_changed_by_looking(make_data):
    net = build(("relu", "first", "cross_entropy", "factored"), SMALL)
    X, y = make_data(net, "cross_entropy", 9)
    X_before, y_before, before = X.copy(), y.copy(), net.parameters.copy()
    _, first = net.loss_and_gradient(X, y, l1=0.1)
    kept = first.copy()
    _, second = net.loss_and_gradient(2 * X, y)
    assert not np.shares_memory(first, second)
    for now, then in ((net.parameters, before), (X, X_before), (y, y_before), (first, kept)):
        np.testing.assert_array_equal(now, then)


def test_gradient_is_zero_where_all_weights_of_a_batch_are_zero():
    """Only a mini-batch can have that, not a whole data set: it then moves nothing."""
    net = sf.Network([3, 4, 2], dtype="float64", seed=0)
    before = net.parameters.copy()
    X = np.random.default_rng(0).standard_normal((4, 3))
    sf.train(
        net, X, [0, 1, 0, 1], epochs=1, batch_size=2, shuffle=False, factoring=None,
        sample_weight=[0, 0, 1, 0], optimizer=sf.GradientDescent(0.1),
    )  # fmt: skip
    other = sf.Network([3, 4, 2], dtype="float64", seed=0)
    np.testing.assert_array_equal(other.parameters, before)
    sf.train(other, X[2:3], [0], epochs=1, factoring=None, optimizer=sf.GradientDescent(0.1))
    np.testing.assert_allclose(net.parameters, other.parameters, rtol=0, atol=1e-15)
