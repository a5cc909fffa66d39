# SPDX-License-Identifier: BSD-3-Clause
"""A network in any order of truncation, training, recomposition, files, copies and refusals, against a plain NumPy float64 model.

SVDFAST_EXAMPLES=N tries N sequences of steps instead of a few. Elsewhere: each operation on its own, in all its options.
"""

import copy
import os
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import svdfast as sf
from svdfast.model.activations import resolve as resolve_activation

try:
    import safetensors  # noqa: F401
except ImportError:
    SUFFIXES = (".npz",)
else:
    SUFFIXES = (".npz", ".safetensors")

# A kink where rounding decides on which side a number lies would be a difference as large as a gradient: only in float64, where it is
# never seen.
SMOOTH = ["tanh", "gelu", "sigmoid", "identity", sf.activations.celu(1.0), sf.activations.elu(1.0)]
KINKED = ["relu", sf.activations.leaky_relu(0.1)]
OFTEN = st.sampled_from([True, True, False])  # small layers save nothing
LOSSES = {
    "softmax": "cross_entropy",
    "sigmoid": "binary_cross_entropy",
    "identity": "mean_squared_error",
}

# At most 12 steps at rates of at most 0.1, gradients of some units: what rounding (6e-8, 1e-16) may grow to, with room.
TOLERANCE = {"float32": 2e-4, "float64": 1e-10}


def machine(reference, folder):
    """The state machine; a class made here, so that it has the fixtures."""

    class Machine(RuleBasedStateMachine):
        @initialize(
            sizes=st.one_of(
                [st.lists(st.integers(1, 12), min_size=n, max_size=n) for n in (3, 4, 4, 2)]
            ),
            output=st.sampled_from(sorted(LOSSES)),
            dtype=st.sampled_from(sorted(TOLERANCE)),
            adam=st.booleans(),
            seed=st.integers(0, 99),
            data=st.data(),
        )
        def begin(self, sizes, output, dtype, adam, seed, data):
            if output == "softmax":
                sizes[-1] += 1
            choices = SMOOTH + KINKED if dtype == "float64" else SMOOTH
            hidden = [data.draw(st.sampled_from(choices)) for _ in sizes[1:-1]]
            self.net = sf.Network(sizes, hidden, output, dtype=dtype, seed=seed)
            self.tolerance, self.loss = TOLERANCE[dtype], LOSSES[output]
            # What the model knows of the network it knows from these arguments.
            functions = [resolve_activation(f) for f in [*hidden, output]]
            layers = [SimpleNamespace(activation=f) for f in functions]
            self.model = SimpleNamespace(
                sizes=tuple(sizes),
                layout=SimpleNamespace(ranks=(None,) * len(functions), layers=layers),
                parameters=None,
            )
            self.take_bits()
            rng = np.random.default_rng(seed)
            self.X = rng.standard_normal((7, sizes[0])).astype(dtype)
            if output == "softmax":
                self.y = rng.integers(0, sizes[-1], 7)
            else:
                self.y = rng.random((7, sizes[-1])).astype(dtype)
            # Where a gradient is all but zero Adam divides by epsilon; a large one keeps rounding small.
            if adam:
                self.optimizer = sf.Adam(0.01, epsilon=0.05)
                self.updates = reference.Updates("adam", epsilon=0.05)
            else:
                self.optimizer = sf.GradientDescent(0.05, momentum=0.5)
                self.updates = reference.Updates("gradient_descent", momentum=0.5)
            self.moments_of = None  # the ranks of the last training
            self.serial = 0

        def take_bits(self):
            """The model goes on from the network's own numbers, which were compared or are new."""
            self.bits = self.net.parameters.copy()
            self.model.parameters = self.bits.astype(np.float64)

        def close(self, got, expected, factor=1.0):
            got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
            assert got.shape == expected.shape
            bound = factor * self.tolerance * max(1.0, abs(expected).max(initial=0))
            assert abs(got - expected).max(initial=0) <= bound

        def weights(self):
            """Each layer's weight, multiplied together, by the model."""
            matrices, _, _ = reference.unpack(
                self.model.parameters, self.model.sizes, self.model.layout.ranks
            )
            return [m[0] if len(m) == 1 else m[0] @ m[1] for m in matrices]

        def break_even(self, i):
            m, n = self.model.sizes[i], self.model.sizes[i + 1]
            # Multiplications of a step, dense and for each rank: forward, ∂W, and ∂X but in the first layer.
            dense, each = (2 * m * n, 2 * m + 3 * n) if i == 0 else (3 * m * n, 3 * m + 3 * n)
            return max(rank for rank in range(min(m, n) + 1) if rank == 0 or rank * each < dense)

        def compare_cut(self, asked, done, force, left, narrow=False):
            """Against Eckart and Young: no better truncation, and the factors share the singular values as asked."""
            weights, ranks = self.weights(), list(self.model.layout.ranks)
            biases = reference.unpack(self.model.parameters, self.model.sizes, ranks)[1]
            told = {t.layer: t for t in done}
            assert sorted(told) == [i for i, rank in enumerate(asked) if rank is not None]
            for i, rank in enumerate(asked):
                layer = self.net.layers[i]
                bottleneck = narrow and rank is not None and rank < self.model.sizes[i]
                if rank is None or not (force or (rank <= self.break_even(i) and not bottleneck)):
                    assert layer.rank == ranks[i]
                    assert rank is None or told[i].skipped
                    continue
                ranks[i] = rank
                assert layer.rank == told[i].rank == rank
                W1, W2 = layer.W1.astype(np.float64), layer.W2.astype(np.float64)
                s = np.linalg.svd(weights[i], compute_uv=False)
                size = 1 + s[0]
                best = np.linalg.norm(s[rank:])
                assert np.linalg.norm(weights[i] - W1 @ W2) <= best + self.tolerance * size
                assert abs(told[i].dropped_norm - best) <= self.tolerance * size
                self.close(told[i].singular_values, s[:rank], size)
                shares = {"balanced": (s, s), "left": (s**2, s**0), "right": (s**0, s**2)}[left]
                if (
                    s[rank - 1] > 1e-3 * s[0]
                ):  # of what is all but zero the directions are anybody's
                    self.close(W1.T @ W1, np.diag(shares[0][:rank]), size**2)
                    self.close(W2 @ W2.T, np.diag(shares[1][:rank]), size**2)
            self.model.layout.ranks = tuple(ranks)
            for layer, b in zip(self.net.layers, biases, strict=True):
                assert np.array_equal(layer.b, b)
            self.take_bits()

        @rule(
            alpha=st.floats(0.01, 1),
            force=OFTEN,
            split=st.sampled_from(["balanced", "left", "right"]),
        )
        def truncate_by_a_share(self, alpha, force, split):
            sizes = self.model.sizes
            least = [min(sizes[i], sizes[i + 1]) for i in range(len(sizes) - 2)]
            asked = [max(1, int(alpha * n + 1e-9)) for n in least]
            done = self.net.truncate(alpha, force=force, split=split)
            self.compare_cut(asked, done, force, split, narrow=True)

        @rule(data=st.data(), force=OFTEN)
        def truncate_to_ranks(self, data, force):
            sizes = self.model.sizes
            asked = [
                data.draw(st.sampled_from([*range(1, min(sizes[i], sizes[i + 1]) + 1), None]))
                for i in range(len(sizes) - 2)
            ]
            done = self.net.truncate(ranks=asked, force=force)
            self.compare_cut(asked, done, force, "balanced")

        @rule()
        def recompose(self):
            before = self.model.layout.ranks
            weights, biases = (
                self.weights(),
                reference.unpack(self.model.parameters, self.model.sizes, before)[1],
            )
            self.net.recompose()
            self.model.layout.ranks = (None,) * len(before)
            for layer, W, b, rank in zip(self.net.layers, weights, biases, before, strict=True):
                if rank is None:
                    assert np.array_equal(layer.W, W)
                self.close(layer.W, W)
                assert np.array_equal(layer.b, b)
            self.take_bits()

        @rule(
            epochs=st.integers(1, 3), batch_size=st.sampled_from([2, 5, 7, 100]),
            l2=st.sampled_from([0.0, 0.1]), weighted=st.booleans(),
        )  # fmt: skip
        def train(self, epochs, batch_size, l2, weighted):
            weight = np.arange(1, 8).astype(self.net.dtype) if weighted else None
            sf.train(
                self.net, self.X, self.y, epochs=epochs, batch_size=batch_size, optimizer=self.optimizer,
                factoring=sf.Factoring(pretrain_fraction=1, recompose=False), shuffle=False, l2=l2, sample_weight=weight, n_threads=1,
            )  # fmt: skip
            if self.moments_of != self.model.layout.ranks:
                self.updates.restart()
                self.moments_of = self.model.layout.ranks
            vector = self.model.parameters
            n_weights = reference.unpack(vector, self.model.sizes, self.model.layout.ranks)[2]
            for rows in reference.batches(7, batch_size, epochs, shuffle=False):
                _, gradient = reference.loss_and_gradient(
                    self.model, self.X[rows], self.y[rows], self.loss, vector=vector,
                    sample_weight=None if weight is None else weight[rows], l2=l2,
                )  # fmt: skip
                vector = self.updates(vector, gradient, self.optimizer.learning_rate, n_weights)
            self.close(self.net.parameters, vector)
            self.take_bits()

        @rule(alpha=st.floats(0.1, 1), fraction=st.floats(0, 1), force=OFTEN)
        def train_by_the_method(self, alpha, fraction, force):
            """Within one call; what it computes is compared elsewhere, here that it ends dense, finite and whole."""
            sf.train(
                self.net, self.X, self.y, epochs=2, batch_size=3, optimizer=sf.Adam(0.01),
                factoring=sf.Factoring(alpha, pretrain_fraction=fraction, force=force), n_threads=1,
            )  # fmt: skip
            self.model.layout.ranks = (None,) * len(self.model.layout.ranks)
            assert np.isfinite(self.net.parameters).all()
            self.take_bits()

        @rule(suffix=st.sampled_from(SUFFIXES))
        def save_and_load(self, suffix):
            self.serial += 1
            path = folder / f"{self.serial % 2}{suffix}"  # every other time a file is replaced
            sf.save(self.net, path)
            before, self.net = self.net, sf.load(path)
            before.parameters[:] = np.nan

        @rule(
            how=st.sampled_from(
                [
                    sf.Network.copy,
                    copy.copy,
                    copy.deepcopy,
                    lambda net: pickle.loads(pickle.dumps(net)),
                ]
            )
        )
        def copied(self, how):
            before, self.net = self.net, how(self.net)
            before.parameters[:] = np.nan  # which the copy must not see

        @rule(data=st.data())
        def refused(self, data):
            """A call that fails changes nothing, which the invariants see."""
            n_hidden, n_in = len(self.model.sizes) - 2, self.model.sizes[0]
            wrong = np.full((7, n_in), np.nan)
            arguments = {"factoring": None, "epochs": 1}
            calls = [
                lambda: self.net.truncate(0.0),
                lambda: self.net.truncate(ranks=[None] * n_hidden + [1]),
                lambda: self.net.truncate(ranks=[99] * n_hidden + [None] * (n_hidden == 0)),
                lambda: self.net.truncate(0.5, inputs=wrong),
                lambda: self.net.predict(self.X[:, :-1]),
                lambda: self.net.predict(self.X, out=np.empty((7, 99), self.net.dtype)),
                lambda: sf.save(self.net, folder / "network.pickle"),
                lambda: sf.train(self.net, wrong, self.y, **arguments),
                lambda: sf.train(self.net, self.X, self.y[:-1], **arguments),
                lambda: sf.train(
                    self.net, self.X, self.y, optimizer=self.optimizer, l2=-1.0, **arguments
                ),
            ]
            with pytest.raises((TypeError, ValueError)):
                data.draw(st.sampled_from(calls))()

        @precondition(lambda self: len(self.model.sizes) > 2)
        @rule(i=st.integers(0, 9), value=st.floats(-1, 1, width=32))
        def written_to(self, i, value):
            """Parameters are the user's to write to."""
            self.net.parameters[i % len(self.net.parameters)] = value
            self.take_bits()

        @invariant()
        def form(self):
            if not hasattr(self, "net"):
                return
            assert np.array_equal(self.net.parameters, self.bits)
            assert self.net.sizes == self.model.sizes
            assert self.net.layout.ranks == self.model.layout.ranks
            assert self.net.is_factored == any(r is not None for r in self.model.layout.ranks)
            assert self.net.dtype == self.X.dtype

        @invariant()
        def outputs(self):
            if not hasattr(self, "net"):
                return
            predicted = self.net.predict(self.X)
            expected = reference.predict(self.model, self.X)
            self.close(predicted, expected)
            told = self.net.evaluate(self.X, self.y)
            loss = reference.loss_and_gradient(self.model, self.X, self.y, self.loss)[0]
            self.close(told.loss, loss)
            if self.loss == "cross_entropy":
                assert told.accuracy == np.mean(predicted.argmax(axis=1) == self.y)

    return Machine


def test_any_order(reference, tmp_path, one_blas_thread):
    run_state_machine_as_test(
        machine(reference, tmp_path),
        settings=settings(
            max_examples=int(os.environ.get("SVDFAST_EXAMPLES", "120")), stateful_step_count=15, deadline=None,
            suppress_health_check=list(HealthCheck), derandomize="SVDFAST_EXAMPLES" not in os.environ, database=None,
        ),
    )  # fmt: skip
