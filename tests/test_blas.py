# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the row-major products, BLAS's and our own, against NumPy in float64."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import svdfast
from svdfast import _blas

pytestmark = pytest.mark.usefixtures("products")

SIZES = [0, 1, 2, 3, 7, 16, 33, 65]

# How a product is taken: its arrays' type, whether its operands are rounded to bfloat16, and how precise its sums are.
KINDS = {
    "float32": (np.float32, False, 2.0**-24),
    "float64": (np.float64, False, 2.0**-53),
    "bfloat16": (np.float32, True, 2.0**-24),
}
all_kinds = pytest.mark.parametrize("kind", KINDS)
all_transposes = pytest.mark.parametrize(
    ("transpose_A", "transpose_B"), list(itertools.product([False, True], repeat=2))
)


def operands(m, n, k, transpose_A, transpose_B, kind):
    dtype = KINDS[kind][0]
    rng = np.random.default_rng([m, n, k])
    A = rng.standard_normal((k, m) if transpose_A else (m, k)).astype(dtype)
    B = rng.standard_normal((n, k) if transpose_B else (k, n)).astype(dtype)
    return A, B, rng.standard_normal((m, n)).astype(dtype)


def expected_product(rounded, A, B, C, transpose_A, transpose_B, accumulate, kind):
    """The product in float64, and what rounding its sums in the kind's precision may add."""
    _, bfloat16, epsilon = KINDS[kind]
    if bfloat16:
        A, B = rounded(A), rounded(B)
    A, B, C = (np.asarray(x, dtype=np.float64) for x in (A, B, C))
    A, B = A.T if transpose_A else A, B.T if transpose_B else B
    magnitude = np.einsum("ik,kj->ij", abs(A), abs(B)) + accumulate * abs(C)
    return np.einsum("ik,kj->ij", A, B) + accumulate * C, (A.shape[1] + 4) * epsilon * magnitude


def multiply(A, B, C, transpose_A, transpose_B, accumulate, kind):
    _blas.multiply(A, B, C, transpose_A, transpose_B, accumulate, KINDS[kind][1])


@all_kinds
@all_transposes
@pytest.mark.parametrize("accumulate", [False, True])
def test_multiply(rounded, kind, transpose_A, transpose_B, accumulate):
    for m, n, k in itertools.product(SIZES, repeat=3):
        A, B, C = operands(m, n, k, transpose_A, transpose_B, kind)
        expected, bound = expected_product(rounded, A, B, C, transpose_A, transpose_B, accumulate, kind)
        multiply(A, B, C, transpose_A, transpose_B, accumulate, kind)
        assert (abs(C - expected) <= bound).all(), (m, n, k)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
def test_few_rows_times_a_long_transpose(rounded, accumulate, apart):
    """As of a few samples to predict: by sums of vectors, whose ends and lengths are met here, also for the last rows of more.

    Rows of 1024 elements alias.
    """
    rows = [*range(1, 18), 20, 23, 24, 29, 31, 33, 39, 62]
    for m, n, k in itertools.product(rows, [1, 3, 4, 5, 30, 203], [31, 32, 63, 64, 71, 79, 96, 1024]):
        A, B, C = operands(m, n, k, False, True, "float32")
        expected, bound = expected_product(rounded, A, B, C, False, True, accumulate, "float32")
        _blas.multiply(A, B, C, False, True, accumulate, apart=apart)
        assert (abs(C - expected) <= bound).all(), (m, n, k)


def test_a_row_is_the_same_whatever_others_there_are():
    """But for the very few rows that no thread gets a share of: this is what `reproducible` relies on."""
    A, B, _ = operands(65, 203, 96, False, True, "float32")
    whole = np.empty((65, 203), np.float32)
    _blas.multiply(A, B, whole, False, True)
    for m in range(5, 65):
        part = np.empty((m, 203), np.float32)
        _blas.multiply(A[:m], B, part, False, True)
        if _blas.float32_products() == "svdfast":
            np.testing.assert_array_equal(part, whole[:m])


@all_kinds
@all_transposes
@pytest.mark.parametrize("garbage", [np.nan, np.inf])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 7, 5), (7, 1, 5), (7, 5, 1), (4, 6, 0), (33, 9, 21)]
)
def test_what_was_there_is_not_read_unless_added_to(
    rounded, kind, transpose_A, transpose_B, garbage, shape
):
    A, B, C = operands(*shape, transpose_A, transpose_B, kind)
    expected = expected_product(rounded, A, B, C, transpose_A, transpose_B, False, kind)[0]
    C[...] = garbage
    multiply(A, B, C, transpose_A, transpose_B, False, kind)
    np.testing.assert_allclose(C, expected, atol=1e-4)


@all_kinds
@all_transposes
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 5), (7, 1, 5), (7, 5, 1), (33, 9, 21)])
def test_nan_reaches_what_it_touches_and_nothing_else(kind, transpose_A, transpose_B, bad, shape):
    A, B, C = operands(*shape, transpose_A, transpose_B, kind)
    B[...] = 0  # 0 * NaN is NaN, and 0 * Inf
    row = A.T if transpose_A else A
    row[0, -1] = bad
    multiply(A, B, C, transpose_A, transpose_B, False, kind)
    assert np.isnan(C[0]).all()
    assert (C[1:] == 0).all()


@all_transposes
def test_shapes_that_do_not_fit_are_refused(transpose_A, transpose_B):
    A, B, C = operands(3, 4, 5, transpose_A, transpose_B, "float64")
    for wrong in [(A, B[:-1], C), (A, B, C[:-1]), (A, B, np.ascontiguousarray(C[:, 1:]))]:
        if transpose_B and wrong[1] is not B:
            wrong = A, np.ascontiguousarray(B[:, 1:]), C
        with pytest.raises(ValueError, match="do not fit"):
            _blas.multiply(*wrong, transpose_A, transpose_B)


@all_kinds
def test_operands_may_be_read_only(kind):
    A, B, C = operands(3, 4, 5, False, False, kind)
    A.flags.writeable = B.flags.writeable = False
    multiply(A, B, C, False, False, False, kind)
    np.testing.assert_allclose(C, A @ B, rtol=0.1 if kind == "bfloat16" else 1e-5)


@all_kinds
@all_transposes
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        (600, 37, 530), (15, 70, 1030), (29, 64, 512), (505, 33, 17), (71, 1024, 9), (3, 513, 513),
        (9, 40, 2051), (360, 33, 1025), (257, 257, 257),
    ],
)  # fmt: skip
def test_sizes_at_which_products_are_cut_into_blocks(rounded, kind, transpose_A, transpose_B, accumulate, shape):
    A, B, C = operands(*shape, transpose_A, transpose_B, kind)
    expected, bound = expected_product(rounded, A, B, C, transpose_A, transpose_B, accumulate, kind)
    multiply(A, B, C, transpose_A, transpose_B, accumulate, kind)
    assert (abs(C - expected) <= bound).all()


@all_transposes
@pytest.mark.parametrize("n_parts", [1, 2, 3])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 16, 2), (15, 17, 33), (64, 32, 64), (20, 70, 1030), (360, 33, 1025), (30, 300, 2051), (4, 48, 0)]
)
def test_a_packed_operand_gives_the_same_bits(transpose_A, transpose_B, n_parts, shape):
    A, B, C = operands(*shape, transpose_A, transpose_B, "bfloat16")
    expected = C.copy()
    _blas.multiply(A, B, expected, transpose_A, transpose_B, True, True)
    _blas.multiply(A, B, C, transpose_A, transpose_B, True, True, n_parts)
    np.testing.assert_array_equal(C, expected)


@all_transposes
def test_operands_are_rounded_to_the_nearest_bfloat16(rounded, transpose_A, transpose_B):
    """One of the operands is 1: what is left of the other is seen. Ties go to even; denormal operands are zero."""
    values = np.array(
        [1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8, 3.4e38, 1e-39, -1e-39, 0.0, 65535.0, 2.0**-126], np.float32
    )
    expected = np.array([1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -1.0, np.inf, 0.0, 0.0, 0.0, 65536.0, 2.0**-126], np.float32)
    np.testing.assert_array_equal(rounded(values), expected)
    one = np.ones((1, 1), np.float32)
    for row in (True, False):
        A, B = (one, values[np.newaxis]) if row else (values[:, np.newaxis], one)
        C = np.empty((len(A), B.shape[1]), np.float32)
        A, B = np.ascontiguousarray(A.T if transpose_A else A), np.ascontiguousarray(B.T if transpose_B else B)
        multiply(A, B, C, transpose_A, transpose_B, False, "bfloat16")
        np.testing.assert_array_equal(C.ravel(), expected)


@all_transposes
def test_each_element_has_its_place(transpose_A, transpose_B):
    """Of integers that bfloat16 holds every sum is exact."""
    rng = np.random.default_rng(0)
    for m, n, k in [(14, 32, 2), (15, 33, 3), (28, 16, 31), (5, 47, 64), (100, 100, 101), (3, 5, 1)]:
        A, B = rng.integers(-8, 9, (m, k)).astype(np.float32), rng.integers(-8, 9, (k, n)).astype(np.float32)
        C = np.empty((m, n), np.float32)
        a, b = np.ascontiguousarray(A.T if transpose_A else A), np.ascontiguousarray(B.T if transpose_B else B)
        multiply(a, b, C, transpose_A, transpose_B, False, "bfloat16")
        np.testing.assert_array_equal(C, A @ B)


def test_bfloat16_by_instructions_and_without(products):
    """Where the CPU has them; not with AVX2 alone, nor where all products are BLAS's, nor where they are not wanted."""
    if products != "avx512":
        assert _blas.bfloat16_products() == "emulated"
        return
    by_default = _blas.bfloat16_products()
    A, B, C = operands(50, 60, 71, False, False, "bfloat16")
    D = C.copy()
    multiply(A, B, C, False, False, True, "bfloat16")
    _blas.use_own_products(True, "avx512", bfloat16=False)
    assert _blas.bfloat16_products() == "emulated"
    multiply(A, B, D, False, False, True, "bfloat16")
    np.testing.assert_allclose(C, D, atol=1e-5)
    if by_default == "instructions":
        assert (C != D).any()  # sums in another order


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
