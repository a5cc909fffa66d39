# SPDX-License-Identifier: BSD-3-Clause
"""Optimizers: each step of a training against plain NumPy and torch.optim; settings; the state between trainings."""

import copy
import pickle

import numpy as np
import pytest

import svdfast as sf

pytestmark = pytest.mark.usefixtures("one_blas_thread")

# Names, ours, the reference's.
RULES = {
    "sgd": (lambda r: sf.GradientDescent(r), dict(kind="gradient_descent")),
    "momentum": (
        lambda r: sf.GradientDescent(r, momentum=0.8),
        dict(kind="gradient_descent", momentum=0.8),
    ),
    "nesterov": (
        lambda r: sf.GradientDescent(r, momentum=0.7, nesterov=True),
        dict(kind="gradient_descent", momentum=0.7, nesterov=True),
    ),
    "adam": (lambda r: sf.Adam(r), dict(kind="adam")),
    "adam-settings": (
        lambda r: sf.Adam(r, beta1=0.5, beta2=0.9, epsilon=1e-3),
        dict(kind="adam", beta1=0.5, beta2=0.9, epsilon=1e-3),
    ),
    "adam-no-memory": (
        lambda r: sf.Adam(r, beta1=0.0, beta2=0.0, epsilon=0.1),
        dict(kind="adam", beta1=0.0, beta2=0.0, epsilon=0.1),
    ),
    "adamw": (
        lambda r: sf.AdamW(r, weight_decay=0.3),
        dict(kind="adam", weight_decay=0.3),
    ),
}
# tanh, so that no unit's gradient is rounding noise around 0, which Adam would blow up.
SETTINGS = dict(hidden="tanh", dtype="float64", seed=0)
# Large enough that a batch of 128 is work for two threads.
SIZES = [24, 96, 64, 4]
RANKS = [24, 24]


class Recorder:
    """A schedule that keeps a copy of the parameters before each step."""

    def __init__(self, net, rates):
        self.net, self.rates, self.seen = net, rates, []

    def __call__(self, step, n_steps):
        self.seen.append(self.net.parameters.copy())
        return self.rates(step)


def rates(step):
    return 0.02 / (1 + 0.05 * step)


def close(a, b):
    assert a.shape == b.shape
    return np.abs(a - b).max() <= 1e-10 * np.abs(b).max()


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(("l1", "l2"), [(0, 0), (0.2, 0), (0, 0.5), (0.1, 0.4)])
@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("rule", RULES)
def test_each_step_against_plain_numpy(rule, form, l1, l2, n_threads, reference, make_data):
    net = sf.Network(SIZES, **SETTINGS)
    if form == "factored":
        net.truncate(ranks=RANKS, force=True)
    X, y = make_data(net, "cross_entropy", 300)
    weight = np.random.default_rng(5).random(300)
    make, settings = RULES[rule]
    recorder = Recorder(net, rates)
    start = net.parameters.copy()
    result = sf.train(
        net, X, y, epochs=4, batch_size=128, optimizer=make(recorder),
        factoring=sf.Factoring(pretrain_fraction=1, recompose=False), l1=l1, l2=l2, sample_weight=weight, seed=11, n_threads=n_threads,
    )  # fmt: skip
    states = [*recorder.seen[1:], net.parameters]
    assert result.n_steps == len(states) == 12

    update = reference.Updates(**settings)
    w = start
    losses = []
    for step, rows in enumerate(reference.batches(300, 128, 4, seed=11)):
        value, g = reference.loss_and_gradient(
            net, X[rows], y[rows], "cross_entropy", vector=w, sample_weight=weight[rows],
            l1=l1, l2=l2,
        )  # fmt: skip
        losses.append(value * len(rows))
        w = update(w, g, rates(step), net.layout.n_weights)
        assert close(states[step], w), step
    for epoch, row in enumerate(result.history):
        assert row["loss"] == pytest.approx(sum(losses[3 * epoch : 3 * epoch + 3]) / 300, 1e-11)
    assert np.abs(w - start).max() > 1e-3  # it moved


@pytest.mark.parametrize("rule", RULES)
def test_each_step_with_the_switch_against_plain_numpy(rule, reference, make_data):
    """Dense steps, the switch within an epoch, steps on the factors with a fresh state, recomposition."""
    net = sf.Network(SIZES, **SETTINGS)
    X, y = make_data(net, "cross_entropy", 100)
    make, settings = RULES[rule]
    recorder = Recorder(net, rates)
    start, dense_layout = net.parameters.copy(), net.copy()
    factored = []

    def keep(event):
        if event.kind == "switch":
            factored.append(event.network.copy())

    sf.train(
        net, X, y, epochs=4, batch_size=16, optimizer=make(recorder),
        factoring=sf.Factoring([7, 6], pretrain_fraction=0.4, force=True, moments="restart", learning_rate=1.0, activation_aware=False),
        seed=3, callbacks=[keep],
    )  # fmt: skip
    (at_switch,) = factored
    update = reference.Updates(**settings)
    w, view = start, dense_layout
    for step, rows in enumerate(reference.batches(100, 16, 4, seed=3)):
        if step == 11:  # round(0.4 * 28)
            dense_layout.parameters[:] = w
            for i, rank in enumerate((7, 6)):
                W = dense_layout.layers[i].W
                U, s, Vt = np.linalg.svd(W)
                expected = (U[:, :rank] * s[:rank]) @ Vt[:rank]
                assert close(at_switch.layers[i].weight(), expected)
            # Singular vectors have two signs each: go on from the factors as they were chosen.
            w, view = at_switch.parameters.copy(), at_switch
            update.restart()
        assert close(recorder.seen[step], w) or step == 11
        _, g = reference.loss_and_gradient(view, X[rows], y[rows], "cross_entropy", vector=w)
        w = update(w, g, rates(step), view.layout.n_weights)
    at_switch.parameters[:] = w
    at_switch.recompose()
    assert close(net.parameters, at_switch.parameters)


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("rule", ["sgd", "momentum", "nesterov", "adam", "adam-settings", "adamw"])
def test_against_torch_optim(rule, form, reference, make_data):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = sf.Network(SIZES, **SETTINGS)
    if form == "factored":
        net.truncate(ranks=RANKS, force=True)
    X, y = make_data(net, "cross_entropy", 60)
    n_weights, l2 = net.layout.n_weights, 0.6
    parts = [
        torch.tensor(net.parameters[:n_weights].copy(), requires_grad=True),
        torch.tensor(net.parameters[n_weights:].copy(), requires_grad=True),
    ]
    make, settings = RULES[rule]
    rate = 0.03
    if settings["kind"] == "adam":
        cls = torch.optim.AdamW if rule == "adamw" else torch.optim.Adam
        options = dict(
            betas=(settings.get("beta1", 0.9), settings.get("beta2", 0.999)),
            eps=settings.get("epsilon", 1e-8),
        )
    else:
        cls = torch.optim.SGD
        options = dict(
            momentum=settings.get("momentum", 0), nesterov=settings.get("nesterov", False)
        )
    # What we call l2 (of the sum over p samples) is torch's weight decay in the gradient; AdamW's is apart from it.
    decay = 0.3 if rule == "adamw" else l2 / 20
    theirs = cls(
        [{"params": [parts[0]], "weight_decay": decay}, {"params": [parts[1]]}],
        lr=rate,
        **({"weight_decay": 0} | options),
    )
    sf.train(
        net, X, y, epochs=10, batch_size=20, optimizer=make(rate),
        factoring=sf.Factoring(pretrain_fraction=1, recompose=False), shuffle=False, l2=0 if rule == "adamw" else l2,
    )  # fmt: skip
    for rows in reference.batches(60, 20, 10, shuffle=False):
        w = np.concatenate([p.detach().numpy() for p in parts])
        _, g = reference.loss_and_gradient(net, X[rows], y[rows], "cross_entropy", vector=w)
        parts[0].grad = torch.tensor(g[:n_weights])
        parts[1].grad = torch.tensor(g[n_weights:])
        theirs.step()
    w = np.concatenate([p.detach().numpy() for p in parts])
    assert close(net.parameters, w)


@pytest.mark.parametrize("rule", RULES)
def test_float32_follows_float64(rule, make_data):
    trained = []
    for dtype in ("float64", "float32"):
        net = sf.Network(SIZES, **{**SETTINGS, "dtype": dtype})
        X, y = make_data(net, "cross_entropy", 100)
        sf.train(
            net, X, y, epochs=3, batch_size=32, optimizer=RULES[rule][0](0.01), l1=0.1, l2=0.1,
            factoring=None,
        )  # fmt: skip
        assert net.dtype == dtype
        trained.append(net.parameters)
    assert np.abs(trained[0] - trained[1]).max() < 2e-4


def test_moments_are_kept_as_they_are():
    """The report divides the stored moments by 1 - beta^t; they are to be m and v themselves."""
    net = sf.Network([3, 2], **SETTINGS)
    X, y = np.array([[1.0, 2.0, 3.0]]), [1]
    optimizer = sf.Adam(1e-3)
    _, g = net.loss_and_gradient(X, y)
    sf.train(net, X, y, epochs=1, optimizer=optimizer, factoring=None)
    np.testing.assert_allclose(optimizer.moments[0], 0.1 * g, rtol=1e-12)
    np.testing.assert_allclose(optimizer.moments[1], 0.001 * g**2, rtol=1e-12)
    assert optimizer.n_updates == 1


# ---- the state between trainings


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("rule", RULES)
def test_two_trainings_are_one_long_one(rule, form, make_data):
    make, _ = RULES[rule]
    trained = []
    for epochs in ([8], [3, 5]):
        net = sf.Network(SIZES, **SETTINGS)
        if form == "factored":
            net.truncate(ranks=RANKS, force=True)
        X, y = make_data(net, "cross_entropy", 70)
        optimizer = make(0.01)
        for n in epochs:
            sf.train(
                net, X, y, epochs=n, batch_size=32, optimizer=optimizer,
                factoring=sf.Factoring(pretrain_fraction=1, recompose=False), shuffle=False,
            )  # fmt: skip
        assert optimizer.n_updates == 24
        trained.append(net.parameters)
    np.testing.assert_array_equal(*trained)


def test_the_state_starts_anew_for_another_layout(make_data):
    net = sf.Network(SIZES, **SETTINGS)
    X, y = make_data(net, "cross_entropy", 64)
    settings = dict(epochs=1, batch_size=32, factoring=sf.Factoring(pretrain_fraction=1, recompose=False))
    optimizer = sf.Adam(0.01)
    sf.train(net, X, y, optimizer=optimizer, **settings)
    assert optimizer.n_updates == 2
    assert [m.shape for m in optimizer.moments] == [net.parameters.shape] * 2
    net.truncate(ranks=RANKS, force=True)
    other = net.copy()
    sf.train(net, X, y, optimizer=optimizer, **settings)
    assert optimizer.n_updates == 2
    assert [m.shape for m in optimizer.moments] == [net.parameters.shape] * 2
    sf.train(other, X, y, optimizer=sf.Adam(0.01), **settings)
    np.testing.assert_array_equal(net.parameters, other.parameters)
    # Another dtype is another layout, too.
    single = sf.Network(SIZES, **{**SETTINGS, "dtype": "float32"})
    single.truncate(ranks=RANKS, force=True)
    sf.train(single, X, y, optimizer=optimizer, **settings)
    assert optimizer.n_updates == 2 and optimizer.moments[0].dtype == np.float32


def test_reset_forgets(make_data):
    net = sf.Network(SIZES, **SETTINGS)
    X, y = make_data(net, "cross_entropy", 64)
    settings = dict(epochs=2, batch_size=32, factoring=None)
    optimizer = sf.Adam(0.01)
    sf.train(net, X, y, optimizer=optimizer, **settings)
    other = net.copy()
    optimizer.reset()
    assert optimizer.moments == () and optimizer.n_updates == 0
    sf.train(net, X, y, optimizer=optimizer, **settings)
    sf.train(other, X, y, optimizer=sf.Adam(0.01), **settings)
    np.testing.assert_array_equal(net.parameters, other.parameters)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("rule", ["momentum", "adamw"])
def test_copies_carry_the_state(rule, copied, make_data):
    # The lambdas of RULES are not part of the optimizer.
    optimizer = RULES[rule][0](0.01)
    net = sf.Network(SIZES, **SETTINGS)
    X, y = make_data(net, "cross_entropy", 64)
    settings = dict(epochs=2, batch_size=32, factoring=None)
    sf.train(net, X, y, optimizer=optimizer, **settings)
    other_net, other = net.copy(), copied(optimizer)
    sf.train(net, X, y, optimizer=optimizer, **settings)
    sf.train(other_net, X, y, optimizer=other, **settings)
    np.testing.assert_array_equal(net.parameters, other_net.parameters)
    assert other.n_updates == optimizer.n_updates == 8


# ---- settings


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sf.GradientDescent(0.1, momentum=1.0), ValueError, "momentum"),
        (lambda: sf.GradientDescent(0.1, momentum=-0.1), ValueError, "momentum"),
        (lambda: sf.GradientDescent(0.1, momentum="0.9"), TypeError, "momentum"),
        (lambda: sf.GradientDescent(0.1, nesterov=True), ValueError, "nesterov"),
        (lambda: sf.GradientDescent(-0.1), ValueError, "learning_rate"),
        (lambda: sf.GradientDescent(np.inf), ValueError, "learning_rate"),
        (lambda: sf.Adam(beta1=1.0), ValueError, "beta1"),
        (lambda: sf.Adam(beta2=-0.1), ValueError, "beta2"),
        (lambda: sf.Adam(beta2=np.nan), ValueError, "beta2"),
        (lambda: sf.Adam(epsilon=0), ValueError, "epsilon"),
        (lambda: sf.Adam(True), TypeError, "learning_rate"),
        (lambda: sf.AdamW(weight_decay=-1), ValueError, "weight_decay"),
        (lambda: sf.AdamW(weight_decay=None), TypeError, "weight_decay"),
    ],
)
def test_bad_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_repr_is_how_it_was_made():
    for optimizer in (
        sf.GradientDescent(0.5, momentum=0.9, nesterov=True),
        sf.Adam(0.1, beta1=0.5),
        sf.AdamW(0.1, weight_decay=0.2, epsilon=1e-6),
    ):
        again = eval(repr(optimizer), vars(sf).copy())  # of our own text
        assert type(again) is type(optimizer)
        assert again.rule == optimizer.rule
        assert again.learning_rate == optimizer.learning_rate


def test_moments_that_do_not_fit(make_data):
    """A loop writes to them: what is too short, of another type or missing is refused before it."""
    net = sf.Network([4, 6, 3], seed=0)
    X, y = make_data(net, "cross_entropy", 8)
    optimizer = sf.Adam()
    options = {"epochs": 1, "optimizer": optimizer, "factoring": None}
    sf.train(net, X, y, **options)
    good, before = optimizer.moments, net.parameters.copy()
    for wrong in ((), good[:1], (good[0], good[1][:-1]), (good[0], good[1].astype("f8")), (good[0], good[1][::-1])):
        optimizer.moments = wrong
        with pytest.raises(ValueError, match="moments: expected 2"):
            sf.train(net, X, y, **options)
    with pytest.raises(TypeError, match="moments"):
        optimizer.adopt("key", [1, 2])
    optimizer.moments = good
    assert np.array_equal(net.parameters, before)
    sf.train(net, X, y, **options)


def test_numbers_larger_than_a_float():
    for number in (10**400, -(10**400)):
        with pytest.raises(ValueError, match="learning_rate: expected a finite number"):
            sf.Adam(number)
        with pytest.raises(ValueError, match="beta1"):
            sf.Adam(beta1=number)
