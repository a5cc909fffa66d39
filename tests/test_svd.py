# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the truncated SVD by its laws: orthonormal, ordered, and nearest of its rank.

NumPy's full decomposition in float64 is the reference.
"""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import svdfast as sf
from svdfast.model.svd import leading_directions, resolve_rank

METHODS = ["exact", "randomized"]
DTYPES = [np.float32, np.float64]


def decaying(n, m, dtype, power=1.0, seed=0):
    """A matrix whose singular values are 1, 1/2**power, 1/3**power, ..."""
    rng = np.random.default_rng(seed)
    k = min(n, m)
    U = np.linalg.qr(rng.standard_normal((n, k)))[0]
    V = np.linalg.qr(rng.standard_normal((m, k)))[0]
    return ((U * np.arange(1, k + 1) ** -power) @ V.T).astype(dtype)


def tolerance(W):
    return 20 * max(W.shape) * np.finfo(W.dtype).eps


@st.composite
def matrix_and_rank(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
    width = np.finfo(dtype).bits
    entries = st.floats(-1000, 1000, width=width, allow_subnormal=False)
    W = draw(hnp.arrays(dtype, shape, elements=entries))
    return W, draw(st.integers(1, min(shape)))


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None)  # the first call loads and warms LAPACK
@given(case=matrix_and_rank())
@example(case=(np.zeros((3, 5), np.float32), 2))
@example(case=(np.ones((1, 1)), 1))
def test_best_approximation_of_its_rank(method, case):
    W, rank = case
    U, s, Vt = sf.truncated_svd(W, rank, method)
    n, m = W.shape
    assert (U.shape, s.shape, Vt.shape) == ((n, rank), (rank,), (rank, m))
    for out in (U, s, Vt):
        assert out.dtype == W.dtype
        assert out.flags.c_contiguous and out.flags.owndata and out.flags.writeable
    tol = tolerance(W)
    np.testing.assert_allclose(U.T @ U, np.eye(rank), atol=tol)
    np.testing.assert_allclose(Vt @ Vt.T, np.eye(rank), atol=tol)
    assert (s >= 0).all() and (np.diff(s) <= 0).all()

    # At most ten vectors are missed by twelve columns, so the sketch spans the whole range here
    # and the randomized method owes what the exact one does.
    full = np.linalg.svd(W.astype(np.float64), compute_uv=False)
    largest = full[0] if full[0] > 0 else 1.0
    np.testing.assert_allclose(s, full[:rank], atol=tol * largest)
    error = np.linalg.norm(W.astype(np.float64) - (U * s).astype(np.float64) @ Vt)
    assert error <= np.linalg.norm(full[rank:]) + tol * largest * np.sqrt(rank)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(120, 80), (80, 120)])
def test_randomized_is_close_to_exact(shape, dtype):
    W = decaying(*shape, dtype)
    tail = np.linalg.norm(np.arange(9, 81) ** -1.0)
    U, s, Vt = sf.truncated_svd(W, 8, "randomized")
    assert np.linalg.norm(W - U * s @ Vt) <= 1.001 * tail
    np.testing.assert_allclose(s, np.arange(1, 9) ** -1.0, rtol=1e-3)


def test_randomized_recovers_low_rank():
    rng = np.random.default_rng(1)
    W = rng.standard_normal((60, 5)) @ rng.standard_normal((5, 90))
    W1, W2 = sf.factorize(W, 5, method="randomized")
    np.testing.assert_allclose(W1 @ W2, W, atol=1e-12)


def test_power_iterations_and_oversampling_help():
    W = decaying(100, 100, np.float64, power=0.5)
    errors = []
    for options in ({"n_oversamples": 0, "n_iterations": 0}, {"n_iterations": 0}, {}):
        U, s, Vt = sf.truncated_svd(W, 10, "randomized", **options)
        errors.append(np.linalg.norm(W - U * s @ Vt))
    assert errors[0] > errors[1] > errors[2]


def with_spectrum(n, m, s, seed=0):
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((n, len(s))))[0]
    V = np.linalg.qr(rng.standard_normal((m, len(s))))[0]
    return (U * s) @ V.T


LARGE = {
    "random": lambda n, m: np.random.default_rng(0).standard_normal((n, m)),
    "decaying": lambda n, m: decaying(n, m, np.float64),
    "graded": lambda n, m: with_spectrum(n, m, np.logspace(0, -10, min(n, m))),
    "of low rank": lambda n, m: with_spectrum(n, m, np.ones(5)),
    "ties": lambda n, m: with_spectrum(n, m, np.ones(min(n, m))),
    "one large": lambda n, m: with_spectrum(n, m, np.array([1e4] + [1.0] * 126)),
    "zero": lambda n, m: np.zeros((n, m)),
    "tiny": lambda n, m: 1e-30 * np.random.default_rng(1).standard_normal((n, m)),
    "huge": lambda n, m: 1e30 * np.random.default_rng(1).standard_normal((n, m)),
}


@pytest.mark.parametrize("rank", [1, 40, 80, 81])
@pytest.mark.parametrize("shape", [(160, 230), (230, 160), (160, 160), (300, 128), (127, 500)])
@pytest.mark.parametrize("kind", LARGE)
def test_large_matrices_of_any_spectrum(kind, shape, rank):
    """Exact to float32's rounding: singular values, orthogonality, and what is left of W, which no other of its rank can beat."""
    W = LARGE[kind](*shape).astype(np.float32)
    W = np.asfortranarray(W) if rank == 40 else W
    rank = min(rank, min(shape))
    U, s, Vt = (part.astype(np.float64) for part in sf.truncated_svd(W, rank))
    all_s = np.linalg.svd(W.astype(np.float64), compute_uv=False)
    tol = 30 * np.finfo(np.float32).eps
    np.testing.assert_allclose(s, all_s[:rank], rtol=0, atol=tol * all_s[0])
    np.testing.assert_allclose(U.T @ U, np.eye(rank), atol=tol)
    np.testing.assert_allclose(Vt @ Vt.T, np.eye(rank), atol=tol)
    left = np.linalg.norm(W - (U * s) @ Vt)
    best = np.linalg.norm(all_s[rank:])
    assert left <= best * (1 + tol) + tol * np.linalg.norm(all_s[:rank])


def test_large_and_full_agree():
    W = decaying(200, 150, np.float32)
    small = sf.truncated_svd(W, 60)
    full = sf.truncated_svd(W, 76)  # more than half: LAPACK's
    for a, b, axis in ((small[0], full[0][:, :60], 0), (small[2], full[2][:60], 1)):
        np.testing.assert_allclose(abs((a * b).sum(axis)), 1, atol=1e-5)


def test_large_falls_back_when_eigenvectors_fail(monkeypatch):
    def fail(*arguments, **more):
        raise scipy.linalg.LinAlgError

    W = decaying(150, 150, np.float32)
    expected = sf.truncated_svd(W, 76)[1][:20]
    monkeypatch.setattr(scipy.linalg, "eigh", fail)
    np.testing.assert_allclose(sf.truncated_svd(W, 20)[1], expected, rtol=1e-5)


def test_randomized_is_repeatable():
    W = decaying(50, 40, np.float64)
    first = sf.truncated_svd(W, 5, "randomized", n_iterations=0)
    again = sf.truncated_svd(W, 5, "randomized", n_iterations=0)
    other = sf.truncated_svd(W, 5, "randomized", n_iterations=0, seed=1)
    generator = sf.truncated_svd(W, 5, "randomized", n_iterations=0, seed=np.random.default_rng(0))
    for a, b, c in zip(first, again, generator, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_layouts(dtype, method):
    W = decaying(30, 20, dtype, power=2.0)
    padded = np.zeros((60, 40), dtype)
    padded[::2, ::2] = W
    read_only = W.copy()
    read_only.flags.writeable = False
    layouts = {
        "C": W.copy(),
        "Fortran": np.asfortranarray(W),
        "strided": padded[::2, ::2],
        "reversed": np.ascontiguousarray(W[::-1, ::-1])[::-1, ::-1],
        "read-only": read_only,
        "other byte order": W.astype(W.dtype.newbyteorder()),
    }
    for name, layout in layouts.items():
        W1, W2 = sf.factorize(layout, 20, method=method)
        assert (W1.dtype, W2.dtype) == (dtype, dtype), name
        assert W1.dtype.isnative and W2.dtype.isnative, name
        np.testing.assert_allclose(W1 @ W2, W, atol=tolerance(W), err_msg=name)
        np.testing.assert_array_equal(layout, W, err_msg=f"{name} was modified")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, np.bool_])
def test_integers_become_float64(dtype, method):
    W = np.array([[1, 0, 1], [0, 1, 1]], dtype=dtype)
    W1, W2 = sf.factorize(W, 2, method=method)
    assert W1.dtype == W2.dtype == np.float64
    np.testing.assert_allclose(W1 @ W2, W, atol=1e-14)


def test_nested_lists_are_taken():
    W1, W2 = sf.factorize([[1, 2], [2, 4]], np.int64(1))
    np.testing.assert_allclose(W1 @ W2, [[1, 2], [2, 4]], atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_sizes_of_entries(dtype, method):
    for scale in (np.finfo(dtype).max / 1e3, np.finfo(dtype).tiny * 1e3):
        W = np.outer(np.ones(20), np.linspace(0.1, 1, 30)).astype(dtype) * dtype(scale)
        W1, W2 = sf.factorize(W, 1, method=method)
        np.testing.assert_allclose(W1 @ W2, W, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "m", "n_samples", "rank"),
    [(20, 30, 50, 5), (64, 3000, 100, 16), (150, 80, 400, 20), (150, 80, 400, 70), (400, 300, 200, 60), (500, 40, 60, 10)],
)
def test_leading_directions_of_outputs(n, m, n_samples, rank, dtype, method):
    """Those of the squares in float64, whichever way is taken: few outputs, many, more than samples and inputs."""
    rng = np.random.default_rng(0)
    decay = 0.9 ** np.minimum(np.arange(min(n, m)), 90)
    W = decaying(n, m, np.float64, power=0.2)
    X = (rng.standard_normal((n_samples, len(decay))) * decay) @ rng.standard_normal((len(decay), m))
    ridge = 1e-2 * (X**2).sum() / m
    values, V = np.linalg.eigh(W @ X.T @ X @ W.T + ridge * W @ W.T)
    values, V = values[::-1], V[:, ::-1][:, :rank]
    U = leading_directions(W.astype(dtype), rank, (X @ W.T).astype(dtype), ridge, method)
    assert U.dtype == dtype and U.flags.c_contiguous
    np.testing.assert_allclose(U.T @ U, np.eye(rank), atol=1e-5 if dtype == np.float32 else 1e-12)
    error = np.linalg.norm(U - V * (U * V).sum(axis=0), axis=0)
    gap = np.minimum(1 - values[1 : rank + 1] / values[:rank], np.r_[1, 1 - values[1:rank] / values[: rank - 1]])
    assert (gap > 0.2).sum() >= 3
    exact = dtype == np.float64 and method == "exact"
    assert (error[gap > 0.2] < (1e-9 if exact else 1e-4)).all()
    Z = X @ W.T
    rest = [np.linalg.norm(Z - Z @ P @ P.T) for P in (U.astype(np.float64), V)]
    assert rest[0] < rest[1] * (1 + 1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e18])
@pytest.mark.parametrize("n", [20, 200])
def test_leading_directions_of_outputs_of_any_size(n, scale):
    rng = np.random.default_rng(0)
    W = decaying(n, 30, np.float32, power=1.0)
    Z = (rng.standard_normal((300, 30)) @ W.T).astype(np.float32)
    U, V = leading_directions(W, 4, Z, 0.1), leading_directions(W * np.float32(scale), 4, Z * np.float32(scale), 0.1)
    np.testing.assert_allclose(abs((U * V).sum(axis=0)), 1, atol=1e-5)
    with pytest.raises(np.linalg.LinAlgError, match="too large for float32"):
        leading_directions(W, 4, Z * np.float32(np.inf), 0.1)


@pytest.mark.parametrize("split", ["balanced", "left", "right"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_directions_without_a_singular_value_can_be_trained(dtype, method, split):
    """One of the two factors is not zero in them, and no larger than elsewhere; the product is that of the others."""
    one = np.zeros((30, 20), dtype)
    one[3, 5] = 4
    low = (decaying(30, 2, np.float64) @ decaying(2, 20, np.float64)).astype(dtype)
    for W, rank in ((np.zeros((4, 3), dtype), 0), (one, 1), (low, 2)):
        W1, W2 = sf.factorize(W, 3, split, method=method)
        np.testing.assert_allclose(W1 @ W2, W, atol=tolerance(W) if W.any() else 0)
        sizes1, sizes2 = np.linalg.norm(W1, axis=0), np.linalg.norm(W2, axis=1)
        largest = max(1, np.linalg.norm(W, 2))
        assert (np.maximum(sizes1, sizes2) > 1e-2 * largest**0.5).all()
        assert (np.maximum(sizes1, sizes2) < 1.01 * largest).all()
        if split == "balanced":
            assert (W1[:, rank:] == 0).all()
            typical = sizes1[:rank].mean() if rank == 1 else (sizes1[:rank] ** 2).mean() ** 0.5 if rank else 1
            np.testing.assert_allclose(sizes2[rank:], typical, rtol=1e-4)


def test_factors_own_their_memory():
    for split in ("balanced", "left", "right"):
        for factor in sf.factorize(decaying(6, 5, np.float32), 3, split):
            assert factor.flags.c_contiguous and factor.flags.owndata
            assert factor.dtype == np.float32


def test_splits():
    W = decaying(6, 9, np.float64)
    _, s, _ = sf.truncated_svd(W, 4)
    grams = {}
    for split in ("balanced", "left", "right"):
        W1, W2 = sf.factorize(W, 4, split)
        grams[split] = (W1.T @ W1, W2 @ W2.T)
    one = np.ones(4)
    for split, (left, right) in {
        "balanced": (s, s),
        "left": (s**2, one),
        "right": (one, s**2),
    }.items():
        np.testing.assert_allclose(grams[split][0], np.diag(left), atol=1e-13)
        np.testing.assert_allclose(grams[split][1], np.diag(right), atol=1e-13)


def test_falls_back_when_divide_and_conquer_fails(monkeypatch):
    real = scipy.linalg.svd
    drivers = []

    def fails_on_gesdd(*args, lapack_driver="gesdd", **kwargs):
        drivers.append(lapack_driver)
        if lapack_driver == "gesdd":
            raise scipy.linalg.LinAlgError("SVD did not converge")
        return real(*args, lapack_driver=lapack_driver, **kwargs)

    monkeypatch.setattr(scipy.linalg, "svd", fails_on_gesdd)
    W = decaying(5, 4, np.float32)
    W1, W2 = sf.factorize(W, 4)
    np.testing.assert_allclose(W1 @ W2, W, atol=1e-5)
    assert drivers == ["gesdd", "gesvd"]


@pytest.mark.parametrize(
    "W",
    [
        np.ones((2, 2), complex),
        np.ones((2, 2), object),
        np.array([["a", "b"]]),
        np.ones((2, 2), np.float16),
        None,
    ],
)
def test_other_dtypes_are_refused(W):
    with pytest.raises(TypeError, match="W: expected float32, float64, integer or boolean, got"):
        sf.truncated_svd(W, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(bad, method):
    W = np.ones((3, 3), np.float32)
    W[1, 2] = bad
    with pytest.raises(ValueError, match="W: expected finite numbers, got"):
        sf.truncated_svd(W, 1, method)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 2), (0, 3), (3, 0)])
def test_not_a_matrix_is_refused(shape):
    with pytest.raises(ValueError, match="W: expected a matrix with at least one entry, got shape"):
        sf.truncated_svd(np.ones(shape), 1)


@pytest.mark.parametrize("rank", [0, -1, 3])
def test_rank_out_of_range(rank):
    with pytest.raises(ValueError, match=f"rank: expected an integer from 1 to 2, got {rank}"):
        sf.truncated_svd(np.ones((2, 3)), rank)


@pytest.mark.parametrize("rank", [1.0, "1", None, True, np.True_, np.float64(1)])
def test_rank_not_an_integer(rank):
    with pytest.raises(TypeError, match="rank: expected an integer, got"):
        sf.factorize(np.ones((2, 3)), rank)


def test_bad_options():
    W = np.ones((2, 3))
    with pytest.raises(ValueError, match="method: expected exact or randomized, got 'fast'"):
        sf.truncated_svd(W, 1, "fast")
    with pytest.raises(ValueError, match="split: expected balanced or left or right, got 'both'"):
        sf.factorize(W, 1, "both")
    with pytest.raises(ValueError, match="n_oversamples: expected an integer ≥ 0, got -1"):
        sf.truncated_svd(W, 1, "randomized", n_oversamples=-1)
    with pytest.raises(ValueError, match="n_iterations: expected an integer ≥ 0, got -2"):
        sf.truncated_svd(W, 1, "randomized", n_iterations=-2)
    with pytest.raises(TypeError, match="n_iterations: expected an integer, got float"):
        sf.truncated_svd(W, 1, "randomized", n_iterations=1.5)


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 1000))
def test_resolve_rank_on_whole_shares(percent_of, n_in, n_out):
    # A share k/size means k, whatever the division rounds to.
    size = min(n_in, n_out)
    rank = 1 + percent_of % size
    assert resolve_rank(rank / size, n_in, n_out) == rank


@given(st.floats(0, 1, exclude_min=True), st.integers(1, 5000), st.integers(1, 5000))
def test_resolve_rank_is_a_rank(rank_fraction, n_in, n_out):
    rank = resolve_rank(rank_fraction, n_in, n_out)
    assert isinstance(rank, int)
    assert 1 <= rank <= min(n_in, n_out)
    assert rank == 1 or abs(rank_fraction * min(n_in, n_out) - rank) < 1


def test_resolve_rank_examples():
    assert resolve_rank(0.5, 784, 512) == 256
    assert resolve_rank(0.5, 2, 20) == 1
    assert resolve_rank(0.29, 100, 300) == 29
    assert resolve_rank(1, 7, 3) == 3
    assert resolve_rank(1e-300, 7, 3) == 1


@pytest.mark.parametrize("fraction", [0, -0.5, 1.0000001, float("nan"), float("inf")])
def test_resolve_rank_out_of_range(fraction):
    with pytest.raises(ValueError, match="rank_fraction: expected a number above 0 and at most 1, got"):
        resolve_rank(fraction, 10, 10)


def test_resolve_rank_bad_arguments():
    with pytest.raises(TypeError, match="rank_fraction: expected a number, got NoneType"):
        resolve_rank(None, 10, 10)
    with pytest.raises(TypeError, match="rank_fraction: expected a number, got str"):
        resolve_rank("half", 10, 10)
    with pytest.raises(ValueError, match="n_out: expected an integer ≥ 1, got 0"):
        resolve_rank(0.5, 10, 0)
    with pytest.raises(TypeError, match="n_in: expected an integer, got float"):
        resolve_rank(0.5, 2.5, 10)
