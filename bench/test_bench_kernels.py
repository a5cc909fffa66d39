# SPDX-License-Identifier: BSD-3-Clause
"""Timings of one layer's kernels beside their plain products, and of truncation. One thread.

Ranks lie on both sides of the break-even rank, so that the table of a group shows at which ranks
factoring saves time. Whole networks are in test_bench_training.py, other systems in compare.py.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import svdfast as sf
from svdfast import kernels
from svdfast._blas import multiply

P = 256  # rows of a tile
LAYERS = [(784, 512), (512, 256), (1024, 1024)]

pytestmark = pytest.mark.usefixtures("single_threaded")


def ranks(m: int, n: int) -> list[int | None]:
    """None (dense), then ranks below, at and above the break-even one."""
    smaller = min(m, n)
    fractions = [smaller // 16, smaller // 8, smaller // 4, smaller // 2, 3 * smaller // 4]
    return [None, *sorted({*fractions, sf.break_even_rank(m, n)})]


GRID = [
    pytest.param(m, n, l, id=f"{m}-{n}-" + ("dense" if l is None else f"rank{l}"))
    for m, n in LAYERS
    for l in ranks(m, n)  # noqa: E741
]


class Arrays:
    """A layer's operands, by the names of kernels.py, and memory for its results."""

    def __init__(self, m: int, n: int, l: int | None):  # noqa: E741
        rng = np.random.default_rng(0)

        def normal(*shape: int, scale: float = 1.0) -> Any:
            return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)

        self.l = l
        self.X, self.dA, self.b = normal(P, m), normal(P, n), normal(n)
        if l is None:
            self.W = normal(n, m, scale=m**-0.5)
        else:
            self.W1, self.W2 = normal(n, l, scale=l**-0.5), normal(l, m, scale=m**-0.5)
        self.multiplications = P * (m * n if l is None else l * (m + n))

        def empty(*shape: int) -> Any:
            return np.empty(shape, dtype=np.float32)

        self.A, self.dX, self.db = empty(P, n), empty(P, m), empty(n)
        if l is None:
            self.dW = empty(n, m)
        else:
            self.H, self.D = empty(P, l), empty(P, l)
            self.dW1, self.dW2 = empty(n, l), empty(l, m)

    def forward(self) -> None:
        if self.l is None:
            kernels.dense_forward(self.X, self.W, self.b, activation="relu", out=self.A)
        else:
            kernels.factored_forward(
                self.X, self.W1, self.W2, self.b, activation="relu", out=self.A, out_H=self.H
            )

    def backward(self) -> None:
        if self.l is None:
            kernels.dense_backward(
                self.dA, self.X, self.W, self.A, activation="relu",
                out_dX=self.dX, out_dW=self.dW, out_db=self.db,
            )  # fmt: skip
        else:
            kernels.factored_backward(
                self.dA, self.X, self.H, self.W1, self.W2, self.A, activation="relu",
                out_dX=self.dX, out_dW1=self.dW1, out_dW2=self.dW2, out_db=self.db,
            )  # fmt: skip

    def forward_products(self) -> None:
        if self.l is None:
            multiply(self.X, self.W, self.A, transpose_B=True)
        else:
            multiply(self.X, self.W2, self.H, transpose_B=True)
            multiply(self.H, self.W1, self.A, transpose_B=True)

    def backward_products(self) -> None:
        if self.l is None:
            multiply(self.dA, self.X, self.dW, transpose_A=True)
            multiply(self.dA, self.W, self.dX)
        else:
            multiply(self.dA, self.H, self.dW1, transpose_A=True)
            multiply(self.dA, self.W1, self.D)
            multiply(self.D, self.X, self.dW2, transpose_A=True)
            multiply(self.D, self.W2, self.dX)

    def expected(self, bias: Any, relu: bool) -> dict[str, Any]:
        """The expected results, by NumPy in float64. Gradients use the A of this object."""
        X, dZ = self.X.astype(np.float64), self.dA.astype(np.float64)
        if relu:
            dZ = dZ * (self.A > 0)
        if self.l is None:
            W, gradients = self.W.astype(np.float64), {"dW": dZ.T @ X}
        else:
            W1, W2 = self.W1.astype(np.float64), self.W2.astype(np.float64)
            W = W1 @ W2
            gradients = {"dW1": dZ.T @ (X @ W2.T), "dW2": (dZ @ W1).T @ X}
        Z = X @ W.T + bias
        return {"A": np.maximum(Z, 0) if relu else Z, "dX": dZ @ W, "db": dZ.sum(0), **gradients}

    def check(self, names: list[str], bias: Any = 0.0, relu: bool = False) -> None:
        expected = self.expected(bias, relu)
        for name in names:
            result = expected[name]
            np.testing.assert_allclose(
                getattr(self, name), result, rtol=0, atol=1e-5 * np.abs(result).max(), err_msg=name
            )

    @property
    def gradients(self) -> list[str]:
        return ["dX", "dW"] if self.l is None else ["dX", "dW1", "dW2"]


@pytest.mark.parametrize("m, n, l", GRID)
def test_forward_kernel(benchmark: Any, record: Callable[..., None], m: int, n: int, l: Any) -> None:  # noqa: E741
    benchmark.group = f"forward {m}-{n}, {P} rows"
    arrays = Arrays(m, n, l)
    benchmark(arrays.forward)
    record(arrays.multiplications, rank=l)
    arrays.check(["A"], arrays.b, relu=True)


@pytest.mark.parametrize("m, n, l", GRID)
def test_forward_products(benchmark: Any, record: Callable[..., None], m: int, n: int, l: Any) -> None:  # noqa: E741
    benchmark.group = f"forward {m}-{n}, {P} rows"
    arrays = Arrays(m, n, l)
    benchmark(arrays.forward_products)
    record(arrays.multiplications, rank=l)
    arrays.check(["A"])


@pytest.mark.parametrize("m, n, l", GRID)
def test_backward_kernel(benchmark: Any, record: Callable[..., None], m: int, n: int, l: Any) -> None:  # noqa: E741
    benchmark.group = f"backward {m}-{n}, {P} rows"
    arrays = Arrays(m, n, l)
    arrays.forward()
    benchmark(arrays.backward)
    record(2 * arrays.multiplications, rank=l)
    arrays.check([*arrays.gradients, "db"], relu=True)


@pytest.mark.parametrize("m, n, l", GRID)
def test_backward_products(benchmark: Any, record: Callable[..., None], m: int, n: int, l: Any) -> None:  # noqa: E741
    benchmark.group = f"backward {m}-{n}, {P} rows"
    arrays = Arrays(m, n, l)
    arrays.forward_products()
    benchmark(arrays.backward_products)
    record(2 * arrays.multiplications, rank=l)
    arrays.check(arrays.gradients)


@pytest.mark.parametrize("method", ["exact", "randomized"])
@pytest.mark.parametrize("n, m", [(512, 784), (1024, 1024), (2048, 2048)])
def test_truncation(benchmark: Any, n: int, m: int, method: str) -> None:
    benchmark.group = f"truncation {n}×{m}, rank {min(n, m) // 8}"
    W = np.random.default_rng(0).standard_normal((n, m), dtype=np.float32)
    U, s, Vt = benchmark.pedantic(
        sf.truncated_svd, (W, min(n, m) // 8, method), rounds=3, warmup_rounds=0
    )
    assert np.allclose(U.T @ U, np.eye(len(s)), atol=1e-4)
    # U·diag(s)·Vt is U·Uᵀ·W, so the dropped part is the difference of the sums of squares.
    assert ((W - U * s @ Vt) ** 2).sum() == pytest.approx((W**2).sum() - (s**2).sum(), rel=1e-3)
