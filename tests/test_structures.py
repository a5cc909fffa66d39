# SPDX-License-Identifier: BSD-3-Clause
"""A structure of a user's own, three factors, in everything that structures take part in: no file of the library knows it."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

import svdfast as sf
from svdfast.model.program import Tensor
from svdfast.model.structures import Dense, LowRank, Structure
from svdfast.training import auto
from svdfast.training.moments import carry
from svdfast.training.run import Run


@dataclass(frozen=True)
class Triple(Structure):
    """W ≈ A·B·C."""

    def tensors(self):
        rank = self.rank
        return ("A", (self.n_out, rank)), ("B", (rank, rank)), ("C", (rank, self.n_in))

    def emit(self, program, x, tensors):
        for tensor in reversed(tensors):
            x = program.product(x, tensor)
        return x

    def matrix(self, t):
        A, B, C = t
        return A @ B @ C

    def fit(self, W, **how):
        fit = LowRank(self.n_out, self.n_in, self.rank).fit(W, **how)
        W1, W2 = fit.tensors
        return replace(fit, tensors=(W1, np.eye(self.rank, dtype=W.dtype), W2))

    def pullback(self, M, t):
        A, B, C = t
        return M @ (B @ C).T, A.T @ M @ C.T, (A @ B).T @ M

    def lift(self, kind, moments, t):
        pair = LowRank(self.n_out, self.n_in, self.rank)
        return pair.lift(kind, (moments[0], moments[2]), (t[0], t[2]))


FACTORING = sf.Factoring([6, 5], structure=Triple, pretrain_fraction=0.25, force=True)


def samples(n=90):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 12))
    return X, np.argmax(X[:, :4] + X[:, 4:8], axis=1)


def network(dtype="float64"):
    return sf.Network([12, 20, 16, 4], dtype=dtype, seed=0)


def factored(dtype="float64"):
    net = network(dtype)
    net.truncate(ranks=[6, 5], structure=Triple, force=True)
    rng = np.random.default_rng(1)
    net.parameters[:] += 0.05 * rng.standard_normal(net.parameters.shape)  # B is no identity
    return net


def test_truncation_is_that_of_two_factors():
    net, other = network(), network()
    three = net.truncate(ranks=[6, 5], structure=Triple, force=True)
    two = other.truncate(ranks=[6, 5], force=True)
    assert [t.dropped_norm for t in three] == [t.dropped_norm for t in two]
    for a, b in zip(net.layers, other.layers, strict=True):
        np.testing.assert_allclose(a.weight(), b.weight(), atol=1e-14)
    assert [list(layer.tensors) for layer in net.layers] == [["A", "B", "C", "b"], ["A", "B", "C", "b"], ["W", "b"]]
    assert net.layers[0].A.shape == (20, 6) and np.shares_memory(net.layers[0].C, net.parameters)
    with pytest.raises(AttributeError, match="A, B, C, b, not W1"):
        _ = net.layers[0].W1


@pytest.mark.parametrize("n", [90, 1200])  # gradients by rows of weights, and by tiles
def test_gradients_are_those_of_the_weight_pulled_back(n):
    net = factored()
    dense = net.copy()
    dense.recompose()
    X, y = samples(n)
    value, gradient = net.loss_and_gradient(X, y)
    expected, of_dense = dense.loss_and_gradient(X, y)
    assert value == pytest.approx(expected, rel=1e-12)
    for i, layer in enumerate(net.layers):
        (whole,) = (tensor.of(of_dense) for tensor in dense.layout.weights(i))
        parts = layer.structure.pullback(whole, layer.weight_tensors)
        for tensor, part in zip(net.layout.weights(i), parts, strict=True):
            np.testing.assert_allclose(tensor.of(gradient), part, atol=1e-12)


def test_counts_are_of_its_products():
    # First layer: the product with C forms no delta. l·m + l·l + n·l forward; twice or three times that in a step.
    count = sf.count_multiplications(factored())
    assert [layer.multiplications for layer in count.layers] == [
        2 * 6 * 12 + 3 * (6 * 6 + 20 * 6),
        3 * (5 * 20 + 5 * 5 + 16 * 5),
        3 * 16 * 4,
    ]
    assert sf.count_multiplications(factored(), "forward").total == 6 * (12 + 6 + 20) + 5 * (20 + 5 + 16) + 64


def test_moments_are_carried():
    net = network()
    rng = np.random.default_rng(2)
    mean, square = rng.standard_normal(len(net.parameters)), rng.random(len(net.parameters)) + 10
    old = net.state
    net.truncate(ranks=[6, 5], structure=Triple, force=True)
    carried = carry(("mean", "square"), (mean, square), old, net.state)
    for i, layer in enumerate(net.layers[:2]):
        (M,) = (tensor.of(mean) for tensor in old[0].weights(i))
        (V,) = (tensor.of(square) for tensor in old[0].weights(i))
        t = layer.weight_tensors
        expected = zip(layer.structure.pullback(M, t), layer.structure.pullback(V, [a * a for a in t]), strict=True)
        for tensor, (m, v) in zip(net.layout.weights(i), expected, strict=True):
            np.testing.assert_allclose(tensor.of(carried[1]), v)
            np.testing.assert_allclose(tensor.of(carried[0]), np.clip(m, -np.sqrt(v), np.sqrt(v)))
    np.testing.assert_array_equal(carried[0][-40:], mean[-40:])  # biases


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_trains(dtype):
    net, (X, y) = network(dtype), samples()
    factoring = replace(FACTORING, product_decay=1e-4, guard=sf.Guard(10.0))
    result = sf.train(net, X, y, epochs=40, batch_size=16, optimizer=sf.Adam(0.01), factoring=factoring, validation=(X, y))
    assert [event.kind for event in result.events] == ["switch", "guard", "recompose"]
    assert [phase["phase"] for phase in result.phases] == ["dense", "factored"]
    assert result.history[-1]["val_accuracy"] > 0.9 and not net.is_factored
    assert "ranks 6, 5" in result.explain()


@pytest.mark.parametrize("activation_aware", [False, True])
def test_ranks_by_looking_are_for_the_structure(monkeypatch, activation_aware):
    """Also what they save: three factors take more than two, too much with the larger rank."""
    looked = []
    loss = Run.loss

    def seen(run, net, rows):
        looked.append(net.layout.structures[1])
        return loss(run, net, rows)

    monkeypatch.setattr(Run, "loss", seen)
    for name in ("LOOKING", "LOST", "STILL_LOST", "FASTER"):
        monkeypatch.setattr(auto, name, np.inf)
    monkeypatch.setattr(auto, "LEAST", 1)
    saved = []
    for structure, ranks in ((Triple, [32]), (LowRank, [64, 32])):
        looked.clear()
        net, (X, y) = sf.Network([12, 256, 256, 4], seed=0), samples()
        result = sf.train(
            net, X, y, epochs=10, batch_size=16, optimizer=sf.Adam(1e-3),
            factoring=sf.Factoring(structure=structure, activation_aware=activation_aware, recompose=False),
        )  # fmt: skip
        # Before, to each rank, and at the check.
        assert looked == [Dense(256, 256), *(structure(256, 256, rank) for rank in [*ranks, 32])]
        assert [phase["phase"] for phase in result.phases] == ["dense", "factored"]
        assert net.layout.structures[1] == structure(256, 256, 32)
        saved.append(result.events[0].info["layers"][1]["saved"])
    assert 0 < saved[0] < saved[1]


@pytest.mark.parametrize("name", ["net.npz", "net.safetensors"])
def test_files(name, tmp_path):
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    net = factored("float32")
    sf.save(net, tmp_path / name)
    again = sf.load(tmp_path / name)
    assert again.layout == net.layout and (again.parameters == net.parameters).all()
    assert again.layout.structures == (Triple(20, 12, 6), Triple(16, 20, 5), Dense(4, 16))


@pytest.mark.parametrize("step", [5, 20, 37])
def test_a_training_is_resumed_bit_for_bit(step, tmp_path):
    def stop(event):
        if event.step >= step:
            raise KeyboardInterrupt

    X, y = samples()
    how = {"epochs": 8, "batch_size": 16, "optimizer": sf.Adam(0.01), "factoring": FACTORING}
    whole = sf.train(network(), X, y, **how).network
    path = tmp_path / "run.ckpt"
    with pytest.raises(KeyboardInterrupt):
        sf.train(network(), X, y, checkpoint=path, checkpoint_every=5, callbacks=[stop], **how | {"optimizer": sf.Adam(0.01)})
    result = sf.resume(path, X, y)
    assert result.network.parameters.tobytes() == whole.parameters.tobytes()


def test_other_libraries_models():
    net = factored()
    X, _ = samples()
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        np.testing.assert_allclose(sf.to_torch(net)(torch.tensor(X)).numpy(), net.predict(X), atol=1e-12)


def test_what_is_no_structure_is_refused():
    for wrong in (LowRank(3, 3, 1), "LowRank", int):
        with pytest.raises(TypeError, match="structure: expected a subclass of Structure"):
            network().truncate(ranks=[6, 5], structure=wrong)
        with pytest.raises(TypeError, match="structure: expected a subclass of Structure"):
            sf.Factoring(structure=wrong)


def one_factor(emit):
    """A structure with tensors that not every program has right."""

    class Wrong(Triple):
        pass

    Wrong.emit = emit
    return Wrong


@pytest.mark.parametrize(
    ("emit", "expected"),
    [
        (lambda self, p, x, t: p.product(x, Tensor("W", (20, self.n_in), 0, True, 0)), "layers.0.A: expected an operation with"),
        (lambda self, p, x, t: p.product(p.product(x, t[2]), t[1]), "Wrong.emit: expected Value.width=20.*got Value.width=6"),
        (
            lambda self, p, x, t: p.product(p.product(p.product(p.view(x, 2), Tensor("D", (12, 6), 0, True, 0)), t[2]), t[0]),
            "Wrong.emit: expected Value.*rows_per_sample=1.*got Value.*rows_per_sample=2",
        ),
        (lambda self, p, x, t: p.product(x, t[2]) and p.product(x, t[2]), "input: expected 1, the last value, got 0"),
    ],
)  # fmt: skip
def test_programs_that_would_compute_something_else_are_refused(emit, expected):
    net = network()
    with pytest.raises(ValueError, match=expected):
        net.truncate(ranks=[6, None], structure=one_factor(emit), force=True)
    assert not net.is_factored


@dataclass(frozen=True)
class Offset(Triple):
    """With a field of its own."""

    shift: int = 0


@pytest.mark.parametrize("shift", [-3, 0, 10**6])
def test_fields_of_its_own_are_kept_in_files(shift, tmp_path):
    net = factored()
    layout = net.layout.with_structures([Offset(20, 12, 6, shift), Offset(16, 20, 5, shift)])
    sf.save(sf.Network.of(layout, net.parameters, 1.0), tmp_path / "net.npz")
    assert sf.load(tmp_path / "net.npz").layout == layout
