# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the row-major product over SciPy's BLAS against NumPy in float64."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import svdfast
from svdfast import _blas


@pytest.fixture(params=["avx512", "avx2", "BLAS"], autouse=True)
def products(request):
    """Every test by our own products of float32, as far as this CPU has them, and by BLAS."""
    before = _blas.float32_products()
    wanted = request.param != "BLAS"
    if _blas.use_own_products(wanted, request.param if wanted else None) != wanted:
        _blas.use_own_products(before == "svdfast")
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    _blas.use_own_products(before == "svdfast")


EPSILON = {np.float32: 2.0**-24, np.float64: 2.0**-53}
SIZES = [0, 1, 2, 3, 7, 16, 33, 65]
SCALARS = [(1.0, 0.0), (1.0, 1.0), (-0.75, 0.0), (2.5, -1.25), (0.0, 0.5), (0.0, 0.0)]

both_types = pytest.mark.parametrize("dtype", [np.float32, np.float64])
all_transposes = pytest.mark.parametrize(
    ("transpose_A", "transpose_B"), list(itertools.product([False, True], repeat=2))
)


def operands(m, n, k, transpose_A, transpose_B, dtype):
    rng = np.random.default_rng([m, n, k])
    A = rng.standard_normal((k, m) if transpose_A else (m, k)).astype(dtype)
    B = rng.standard_normal((n, k) if transpose_B else (k, n)).astype(dtype)
    return A, B, rng.standard_normal((m, n)).astype(dtype)


def reference(A, B, C, transpose_A, transpose_B, alpha, beta):
    """The product in float64, and the sum of its terms' magnitudes, which bounds rounding."""
    A, B, C = (np.asarray(x, dtype=np.float64) for x in (A, B, C))
    A, B = A.T if transpose_A else A, B.T if transpose_B else B
    return (
        alpha * np.einsum("ik,kj->ij", A, B) + beta * C,
        abs(alpha) * np.einsum("ik,kj->ij", abs(A), abs(B)) + abs(beta * C),
    )


@both_types
@all_transposes
@pytest.mark.parametrize(("alpha", "beta"), SCALARS)
def test_multiply(dtype, transpose_A, transpose_B, alpha, beta):
    for m, n, k in itertools.product(SIZES, repeat=3):
        A, B, C = operands(m, n, k, transpose_A, transpose_B, dtype)
        expected, magnitude = reference(A, B, C, transpose_A, transpose_B, alpha, beta)
        _blas.multiply(A, B, C, transpose_A, transpose_B, alpha, beta)
        bound = (k + 4) * EPSILON[dtype] * magnitude
        assert (abs(C - expected) <= bound).all(), (m, n, k)


@both_types
@all_transposes
@pytest.mark.parametrize("garbage", [np.nan, np.inf])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 7, 5), (7, 1, 5), (7, 5, 1), (4, 6, 0), (33, 9, 21)]
)
def test_what_was_there_is_not_read_where_beta_is_0(
    dtype, transpose_A, transpose_B, garbage, shape
):
    A, B, C = operands(*shape, transpose_A, transpose_B, dtype)
    expected = reference(A, B, C, transpose_A, transpose_B, 1, 0)[0]
    C[...] = garbage
    _blas.multiply(A, B, C, transpose_A, transpose_B)
    np.testing.assert_allclose(C, expected, atol=1e-4)


@both_types
@all_transposes
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 5), (7, 1, 5), (7, 5, 1), (33, 9, 21)])
def test_nan_reaches_what_it_touches_and_nothing_else(dtype, transpose_A, transpose_B, shape):
    A, B, C = operands(*shape, transpose_A, transpose_B, dtype)
    B[...] = 0  # 0 * NaN is NaN
    row = A.T if transpose_A else A
    row[0, -1] = np.nan
    _blas.multiply(A, B, C, transpose_A, transpose_B)
    assert np.isnan(C[0]).all()
    assert (C[1:] == 0).all()


@all_transposes
def test_shapes_that_do_not_fit_are_refused(transpose_A, transpose_B):
    A, B, C = operands(3, 4, 5, transpose_A, transpose_B, np.float64)
    for wrong in [(A, B[:-1], C), (A, B, C[:-1]), (A, B, np.ascontiguousarray(C[:, 1:]))]:
        if transpose_B and wrong[1] is not B:
            wrong = A, np.ascontiguousarray(B[:, 1:]), C
        with pytest.raises(ValueError, match="do not fit"):
            _blas.multiply(*wrong, transpose_A, transpose_B)


@both_types
def test_operands_may_be_read_only(dtype):
    A, B, C = operands(3, 4, 5, False, False, dtype)
    A.flags.writeable = B.flags.writeable = False
    _blas.multiply(A, B, C)
    np.testing.assert_allclose(C, A @ B, rtol=1e-5)


@both_types
@all_transposes
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize(
    "shape",
    [(600, 37, 530), (15, 70, 1030), (29, 64, 512), (505, 33, 17), (71, 1024, 9), (3, 513, 513)],
)
def test_sizes_at_which_products_are_cut_into_blocks(dtype, transpose_A, transpose_B, beta, shape):
    A, B, C = operands(*shape, transpose_A, transpose_B, dtype)
    expected, magnitude = reference(A, B, C, transpose_A, transpose_B, 1, beta)
    _blas.multiply(A, B, C, transpose_A, transpose_B, 1.0, beta)
    assert (abs(C - expected) <= (shape[2] + 4) * EPSILON[dtype] * magnitude).all()


@pytest.mark.parametrize(
    ("choice", "expected"), [("blas", "BLAS"), ("", None), ("svdfast", "svdfast"), ("mkl", None)]
)
def test_the_choice_of_products(choice, expected, products):
    code = "from svdfast import _blas; print(_blas.float32_products())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={
            **os.environ,
            "SVDFAST_PRODUCTS": choice,
            "PYTHONPATH": str(Path(svdfast.__file__).parents[1]),
        },
        capture_output=True,
        text=True,
    )
    if choice == "mkl":
        assert "expected blas or svdfast" in done.stderr
    elif choice == "svdfast" and not _blas.use_own_products(True):
        assert "neither AVX2 nor AVX-512" in done.stderr
    else:
        assert done.stdout.strip() in ([expected] if expected else ["svdfast", "BLAS"])
