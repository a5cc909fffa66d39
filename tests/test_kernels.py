# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the kernels of one layer against a plain model in float64: einsum and scipy.special.

Bounds of a product's error are relative to the sum of its terms' magnitudes, as terms may cancel.
"""

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

import svdfast as sf
from svdfast import _elementwise
from svdfast.model.activations import resolve as resolve_activation

ROOT = Path(sf.__file__).parents[1]
DTYPES = [np.float32, np.float64]
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}

both_types = pytest.mark.parametrize("dtype", DTYPES)


# The model. Activations that are a function of one number: f(z), f'(z), each with the parameter a.


def normal_density(z):
    return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


def gelu_tanh_inner(z):
    """2u and its derivative, of z·σ(2u)."""
    c = 2 * np.sqrt(2 / np.pi)
    return c * (z + 0.044715 * z**3), c * (1 + 3 * 0.044715 * z**2)


def gelu_tanh_slope(z):
    near = np.clip(z, -12, 12)  # beyond, it is 0 or 1
    u, slope = gelu_tanh_inner(near)
    return scipy.special.expit(u) * (1 + near * scipy.special.expit(-u) * slope)


def silu_slope(z):
    return scipy.special.expit(z) * (1 + z * scipy.special.expit(-z))


ELEMENTWISE = {
    "identity": (lambda z, a: z, lambda z, a: np.ones_like(z)),
    "relu": (lambda z, a: np.where(z < 0, 0, z), lambda z, a: np.where(z <= 0, 0.0, 1.0)),
    "clipped_relu": (
        lambda z, a: np.where(z < 0, 0, np.where(z > a, a, z)),
        lambda z, a: np.where((z <= 0) | (z >= a), 0.0, 1.0),
    ),
    "hardtanh": (
        lambda z, a: np.where(z < -a, -a, np.where(z > a, a, z)),
        lambda z, a: np.where(abs(z) >= a, 0.0, 1.0),
    ),
    "leaky_relu": (lambda z, a: np.where(z < 0, a * z, z), lambda z, a: np.where(z <= 0, a, 1.0)),
    "elu": (
        lambda z, a: np.where(z < 0, a * np.expm1(np.minimum(z, 0)), z),
        lambda z, a: np.where(z <= 0, a * np.exp(np.minimum(z, 0)), 1.0),
    ),
    "celu": (
        lambda z, a: np.where(z < 0, a * np.expm1(np.minimum(z, 0) / a), z),
        lambda z, a: np.where(z <= 0, np.exp(np.minimum(z, 0) / a), 1.0),
    ),
    "gelu": (
        lambda z, a: z * scipy.special.ndtr(z),
        lambda z, a: scipy.special.ndtr(z) + z * normal_density(z),
    ),
    "gelu_tanh": (
        lambda z, a: z * scipy.special.expit(gelu_tanh_inner(z)[0]),
        lambda z, a: gelu_tanh_slope(z),
    ),
    "silu": (lambda z, a: z * scipy.special.expit(z), lambda z, a: silu_slope(z)),
    "softplus": (
        lambda z, a: np.where(z > 20, z, np.logaddexp(0, z)),
        lambda z, a: scipy.special.expit(z),
    ),
    "tanh": (lambda z, a: np.tanh(z), lambda z, a: 1 - np.tanh(z) ** 2),
    "sigmoid": (
        lambda z, a: scipy.special.expit(z),
        lambda z, a: scipy.special.expit(z) * scipy.special.expit(-z),
    ),
    "exp": (lambda z, a: np.exp(z), lambda z, a: np.exp(z)),
}
NAMES = [*ELEMENTWISE, "softmax"]
PARAMETRIC = ("clipped_relu", "hardtanh", "leaky_relu", "elu", "celu")
READ_Z = ("gelu", "gelu_tanh", "silu")  # their derivatives
ACTIVATIONS = [
    *NAMES,
    sf.activations.clipped_relu(0.7),
    sf.activations.hardtanh(0.7),
    sf.activations.leaky_relu(0.0),
    sf.activations.leaky_relu(0.3),
    sf.activations.elu(0.5),
    sf.activations.celu(2.0),
]


def parameter_of(activation):
    """The parameter as the kernels have it: in float32 a little off, which is not their error."""
    return resolve_activation(activation).parameter


def f(activation, Z):
    name = resolve_activation(activation).name
    if name == "softmax":
        return scipy.special.softmax(Z, axis=1) if Z.size else Z
    return ELEMENTWISE[name][0](Z, parameter_of(activation))


def times_derivative(activation, Z, dA):
    """dZ = dA through f at Z; for softmax by its Jacobian, diag(a) - a aᵀ."""
    name = resolve_activation(activation).name
    if name == "softmax":
        A = f(activation, Z)
        J = np.einsum("pj,jk->pjk", A, np.eye(A.shape[1])) - np.einsum("pj,pk->pjk", A, A)
        return np.einsum("pk,pjk->pj", dA, J)
    return dA * ELEMENTWISE[name][1](Z, parameter_of(activation))


def f64(*arrays):
    return [np.asarray(array, dtype=np.float64) for array in arrays]


def transposed_product(X, W):
    """X·Wᵀ and the sum of its terms' magnitudes."""
    return np.einsum("pm,nm->pn", X, W), np.einsum("pm,nm->pn", abs(X), abs(W))


def assert_close(got, expected, magnitude, dtype):
    assert got.dtype == dtype
    assert got.shape == expected.shape
    error = abs(got - expected)
    bound = TOLERANCE[dtype] * (abs(expected) + magnitude)
    assert (error <= bound).all(), (error - bound).max()


# Ways for an array to lie in memory.


def shuffled_offsets(a):
    """The same values from an address that no element of the type may have."""
    raw = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    raw[...] = a
    return raw


def every_other(a):
    wide = np.full([2 * n + 1 for n in a.shape], np.nan, a.dtype)
    view = wide[tuple(slice(1, 2 * n, 2) for n in a.shape)]
    view[...] = a
    return view


def reversed_(a):
    backwards = tuple(slice(None, None, -1) for _ in a.shape)
    return np.ascontiguousarray(a[backwards])[backwards]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "C": np.copy,
    "Fortran": np.asfortranarray,
    "strided": every_other,
    "reversed": reversed_,
    "unaligned": shuffled_offsets,
    "swapped bytes": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": read_only,
}
OUT_LAYOUTS = ["C", "Fortran", "strided", "reversed", "unaligned"]


class Case:
    """Random operands of one layer, with Z and A that the backward pass starts from."""

    def __init__(self, p, m, n, rank, dtype, activation, bias, layouts, seed=0):
        rng = np.random.default_rng(seed)
        self.sizes = {"p": p, "m": m, "n": n, "l": rank}
        self.dtype, self.activation = dtype, activation
        name = resolve_activation(activation).name
        self.needs = () if name == "identity" else ("Z",) if name in READ_Z else ("A",)

        def array(*shape):
            return LAYOUTS[layouts[rng.integers(len(layouts))]](
                rng.standard_normal(shape).astype(dtype)
            )

        self.X, self.W, self.W1, self.W2 = array(p, m), array(n, m), array(n, rank), array(rank, m)
        self.b = array(n) if bias else None
        self.H, self.dA, self.Z = array(p, rank), array(p, n), array(p, n)
        self.A = LAYOUTS[layouts[0]](f(activation, self.Z.astype(np.float64)).astype(dtype))

    def forward(self, factored, **outs):
        if factored:
            return sf.kernels.factored_forward(
                self.X, self.W1, self.W2, self.b, activation=self.activation, **outs
            )
        A = sf.kernels.dense_forward(self.X, self.W, self.b, activation=self.activation, **outs)
        return (A,)

    def backward(self, factored, **options):
        options |= {name: getattr(self, name) for name in self.needs}
        options["activation"] = self.activation
        if factored:
            return sf.kernels.factored_backward(
                self.dA, self.X, self.H, self.W1, self.W2, **options
            )
        return sf.kernels.dense_backward(self.dA, self.X, self.W, **options)

    def expected_forward(self, factored):
        """(A, H or nothing), Z; and the magnitudes that bound the errors of A, H and Z."""
        X, W, W1, W2 = f64(self.X, self.W, self.W1, self.W2)
        b = np.zeros(len(W)) if self.b is None else self.b.astype(np.float64)
        if not factored:
            Z, magnitude = transposed_product(X, W)
            return [f(self.activation, Z + b)], Z + b, [magnitude + abs(b)], magnitude + abs(b)
        H, magnitude_H = transposed_product(X, W2)
        Z = transposed_product(H, W1)[0] + b
        magnitude = transposed_product(magnitude_H, W1)[1] + abs(b)
        return [f(self.activation, Z), H], Z, [magnitude, magnitude_H], magnitude

    def expected_backward(self, factored):
        """(dX, dW.., db) and the magnitudes that bound their errors."""
        X, H, W, W1, W2, Z, dA = f64(self.X, self.H, self.W, self.W1, self.W2, self.Z, self.dA)
        dZ = times_derivative(self.activation, Z, dA)
        # What dZ's own rounding is relative to: a softmax row's terms cancel, 1 - a does.
        large = abs(dZ) + abs(dA)
        if resolve_activation(self.activation).name == "softmax":
            large = large + abs(dA).sum(axis=1, keepdims=True)
        sides = []
        for g, x, h, w, w1, w2 in [(dZ, X, H, W, W1, W2), map(abs, (large, X, H, W, W1, W2))]:
            db = g.sum(axis=0)
            if factored:
                D = np.einsum("pn,nl->pl", g, w1)
                dX, dW1 = np.einsum("pl,lm->pm", D, w2), np.einsum("pn,pl->nl", g, h)
                sides.append([dX, dW1, np.einsum("pl,pm->lm", D, x), db])
            else:
                dX = np.einsum("pn,nm->pm", g, w)
                sides.append([dX, np.einsum("pn,pm->nm", g, x), db])
        return sides

    def copies(self):
        return {
            name: np.array(value)
            for name, value in vars(self).items()
            if isinstance(value, np.ndarray)
        }


FORWARD = {False: ("out", "out_Z"), True: ("out", "out_H", "out_Z")}
BACKWARD = {False: ("dX", "dW", "db"), True: ("dX", "dW1", "dW2", "db")}

sizes = st.integers(0, 9)
cases = st.builds(
    Case,
    p=sizes,
    m=sizes,
    n=sizes,
    rank=sizes,
    dtype=st.sampled_from(DTYPES),
    activation=st.sampled_from(ACTIVATIONS),
    bias=st.booleans(),
    layouts=st.lists(st.sampled_from(list(LAYOUTS)), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
out_layouts = st.sampled_from([None, *OUT_LAYOUTS])
laws = settings(deadline=None, max_examples=300)


def make_out(layout, shape, dtype):
    """Filled with NaN, which must not be left, nor mixed into the result."""
    return LAYOUTS[layout](np.full(shape, np.nan, dtype))


def assert_forward(case, factored, layout):
    before = case.copies()
    expected, Z, magnitudes, magnitude_Z = case.expected_forward(factored)
    outs = {}
    if layout is not None:
        shapes = [expected[0].shape, *(a.shape for a in expected[1:]), Z.shape]
        outs = {
            name: make_out(layout, shape, case.dtype)
            for name, shape in zip(FORWARD[factored], shapes, strict=True)
        }
    got = case.forward(factored, **outs)
    for array, wanted, magnitude in zip(got, expected, magnitudes, strict=True):
        assert_close(array, wanted, magnitude, case.dtype)
        assert array.flags.writeable
    if layout is not None:
        assert got[0] is outs["out"]
        assert not factored or got[1] is outs["out_H"]
        assert_close(outs["out_Z"], Z, magnitude_Z, case.dtype)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(case, name), value)


def assert_backward(case, factored, layout, input_gradient):
    before = case.copies()
    expected, magnitudes = case.expected_backward(factored)
    names = BACKWARD[factored]
    outs = {}
    if layout is not None:
        outs = {
            f"out_{name}": make_out(layout, wanted.shape, case.dtype)
            for name, wanted in zip(names, expected, strict=True)
            if input_gradient or name != "dX"
        }
    got = case.backward(factored, input_gradient=input_gradient, **outs)
    for name, array, wanted, magnitude in zip(names, got, expected, magnitudes, strict=True):
        if name == "dX" and not input_gradient:
            assert array is None
            continue
        assert_close(array, wanted, magnitude, case.dtype)
        assert array is outs.get(f"out_{name}", array)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(case, name), value)


@pytest.mark.parametrize("factored", [False, True])
@laws
@given(case=cases, layout=out_layouts)
def test_forward_is_the_models(factored, case, layout):
    assert_forward(case, factored, layout)


@pytest.mark.parametrize("factored", [False, True])
@laws
@given(case=cases, layout=out_layouts, input_gradient=st.booleans())
def test_backward_is_the_models(factored, case, layout, input_gradient):
    assert_backward(case, factored, layout, input_gradient)


@pytest.mark.parametrize("factored", [False, True])
@both_types
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("shape", [(257, 65, 33, 16), (1, 100, 50, 7), (64, 1, 300, 1)])
def test_larger_layers(factored, dtype, activation, shape):
    case = Case(*shape, dtype, activation, True, ["C"])
    if activation == "exp":
        case.X = (case.X / case.sizes["m"]).astype(dtype)  # else it overflows
    assert_forward(case, factored, None)
    assert_backward(case, factored, None, True)


@both_types
@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("empty", ["p", "m", "n", "l", "pn", "ml", "pmnl"])
@pytest.mark.parametrize("factored", [False, True])
def test_sizes_of_0(factored, empty, activation, dtype):
    sizes = [0 if symbol in empty else 3 for symbol in "pmnl"]
    case = Case(*sizes, dtype, activation, True, ["C"])
    for layout in (None, "C", "Fortran"):
        assert_forward(case, factored, layout)
        assert_backward(case, factored, layout, True)


def test_one_row_and_one_column_with_strides_of_any_size():
    # NumPy calls such arrays C-contiguous whatever the stride of a dimension of size 1.
    for shape, strides in [((1, 4), (24, 8)), ((4, 1), (8, 40)), ((1, 1), (3, 5))]:
        memory = np.arange(16.0)
        X = np.lib.stride_tricks.as_strided(memory, shape, strides)
        A = sf.kernels.dense_forward(X, np.eye(shape[1]))
        np.testing.assert_array_equal(A, X)
        dX, dW, db = sf.kernels.dense_backward(X, X, np.eye(shape[1]))
        np.testing.assert_array_equal(dX, X)
        np.testing.assert_allclose(dW, X.T @ X)
        np.testing.assert_allclose(db, X.sum(axis=0))


# Types.


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (("f4", "f4"), "f4"),
        (("f4", "f8"), "f8"),
        (("f8", "f4"), "f8"),
        (("i8", "i8"), "f8"),
        (("u1", "u1"), "f8"),
        (("?", "?"), "f8"),
        (("i8", "f4"), "f8"),
        (("u1", "f4"), "f4"),
        (("?", "f4"), "f4"),
        (("f2", "f2"), "f4"),
        (("f2", "f4"), "f4"),
        (("f2", "f8"), "f8"),
        ((">f4", "<f4"), "f4"),
        (("u8", "i8"), "f8"),
    ],
)
def test_type_of_results(types, expected):
    X = np.array([[0, 1, 1]]).astype(types[0])
    W = np.array([[1, 0, 1], [1, 1, 1]]).astype(types[1])
    A = sf.kernels.dense_forward(X, W)
    assert A.dtype == np.dtype(expected)
    np.testing.assert_array_equal(A, [[1, 2]])
    for array in sf.kernels.dense_backward(A, X, W):
        assert array.dtype == np.dtype(expected)


def test_every_operand_counts_for_the_type():
    X, W1, W2 = np.ones((2, 3), "f4"), np.ones((4, 2), "f4"), np.ones((2, 3), "f4")
    assert sf.kernels.factored_forward(X, W1, W2)[0].dtype == np.float32
    for A in sf.kernels.factored_forward(X, W1, W2, np.ones(4)):
        assert A.dtype == np.float64
    A, H = sf.kernels.factored_forward(X, W1, W2)
    got = sf.kernels.factored_backward(A, X, H.astype("f8"), W1, W2)
    assert {array.dtype for array in got} == {np.dtype("f8")}


def test_lists_are_arrays():
    A, H = sf.kernels.factored_forward([[1, 2]], [[3], [1]], [[1, 1]], [0.5, 0])
    assert A.tolist() == [[9.5, 3.0]] and H.tolist() == [[3.0]]


class HasToarray:
    def __repr__(self):
        return "HasToarray()"  # the same in each process, as the tests' names are

    def toarray(self):
        raise AssertionError("densified without being asked")


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "abc",
        [["a", "b", "c"]],
        np.ones((2, 3), complex),
        np.ones((2, 3), object),
        np.ones((2, 3), "m8[s]"),
        np.ones((2, 3), "M8[s]"),
        np.ones((2, 3), [("x", float)]),
        np.ma.masked_array(np.ones((2, 3))),
        [[10**30, 1, 2]],
        HasToarray(),
        pytest.param(
            np.ones((2, 3), np.longdouble),
            marks=pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="is float64"),
        ),
    ],
    ids=repr,
)
def test_what_is_not_real_numbers_is_refused(wrong):
    W = np.ones((4, 3))
    with pytest.raises(TypeError, match=r"^X: expected"):
        sf.kernels.dense_forward(wrong, W)
    with pytest.raises(TypeError, match=r"^X: expected"):
        sf.kernels.dense_backward(np.ones((2, 4)), wrong, W)
    with pytest.raises(TypeError, match=r"^W2: expected"):
        sf.kernels.factored_forward(np.ones((5, 3)), np.ones((4, 2)), wrong)


def test_ragged_lists_are_refused():
    with pytest.raises(ValueError, match=r"^W: expected an array of numbers"):
        sf.kernels.dense_forward([[1.0, 2.0]], [[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("activation", [None, 3, np.tanh])
def test_activation_of_a_wrong_type(activation):
    with pytest.raises(TypeError, match=r"^activation: "):
        sf.kernels.dense_forward([[1.0]], [[1.0]], activation=activation)


def test_unknown_activation():
    with pytest.raises(ValueError, match=r"^activation: expected one of identity, .* got 'swish'"):
        sf.kernels.dense_backward([[1.0]], [[1.0]], [[1.0]], activation="swish")


# Shapes.

OPERANDS = {
    "dense_forward": {"X": (5, 3), "W": (4, 3), "b": (4,)},
    "factored_forward": {"X": (5, 3), "W1": (4, 2), "W2": (2, 3), "b": (4,)},
    "dense_backward": {"dA": (5, 4), "X": (5, 3), "W": (4, 3), "A": (5, 4), "Z": (5, 4)},
    "factored_backward": {
        **{"dA": (5, 4), "X": (5, 3), "H": (5, 2), "W1": (4, 2), "W2": (2, 3)},
        **{"A": (5, 4), "Z": (5, 4)},
    },
}
OUTS = {
    "dense_forward": {"out": (5, 4), "out_Z": (5, 4)},
    "factored_forward": {"out": (5, 4), "out_H": (5, 2), "out_Z": (5, 4)},
    "dense_backward": {"out_dX": (5, 3), "out_dW": (4, 3), "out_db": (4,)},
    "factored_backward": {
        **{"out_dX": (5, 3), "out_dW1": (4, 2), "out_dW2": (2, 3), "out_db": (4,)},
    },
}


def fresh(shapes, dtype=np.float64):
    return {name: np.ones(shape, dtype) for name, shape in shapes.items()}


def expect_refusal(function, arguments, error, match):
    """Raised, and nothing changed."""
    before = {name: np.array(a) for name, a in arguments.items() if isinstance(a, np.ndarray)}
    with pytest.raises(error, match=match):
        getattr(sf.kernels, function)(**arguments)
    for name, value in before.items():
        np.testing.assert_array_equal(arguments[name], value)


@pytest.mark.parametrize("function", OPERANDS)
def test_operands_of_a_wrong_shape(function):
    for name, shape in OPERANDS[function].items():
        wrong_shapes = [(), (3,) if len(shape) == 2 else (1, 3), (1, *shape), (0, 0, 0)]
        for axis in range(len(shape)):
            wrong = list(shape)
            wrong[axis] += 1
            wrong_shapes.append(tuple(wrong))
        for wrong in wrong_shapes:
            arguments = fresh(OPERANDS[function]) | fresh(OUTS[function])
            arguments[name] = np.ones(wrong)
            # A size is only known to be wrong by a second operand, whose name the message then has.
            blamed = name if len(wrong) != len(shape) else r"\w+"
            expect_refusal(
                function, arguments, ValueError, rf"^{blamed}: expected shape \(.*\), got \("
            )


def test_message_of_a_wrong_shape():
    with pytest.raises(ValueError) as caught:
        sf.kernels.dense_forward(np.ones((5, 3)), np.ones((4, 2)))
    assert str(caught.value) == "W: expected shape (n, 3), got (4, 2)"
    with pytest.raises(ValueError) as caught:
        sf.kernels.dense_forward(np.ones((5, 3)), np.ones((4, 3)), np.ones((4, 1)))
    assert str(caught.value) == "b: expected shape (4,), got (4, 1)"


@pytest.mark.parametrize("function", OUTS)
def test_outs_that_are_refused(function):
    for name, shape in OUTS[function].items():
        wider = (*shape[:-1], shape[-1] + 1)
        locked = np.ones(shape)
        locked.flags.writeable = False
        refused = [
            (np.ones(wider), ValueError, rf"^{name}: expected shape "),
            (np.ones((1, *shape)), ValueError, rf"^{name}: expected shape "),
            (
                np.ones(shape, np.float32),
                TypeError,
                rf"^{name}: expected dtype float64, got float32",
            ),
            (np.ones(shape, ">f8"), TypeError, rf"^{name}: expected dtype float64"),
            (np.ones(shape, int), TypeError, rf"^{name}: expected dtype float64, got int"),
            (locked, ValueError, rf"^{name}: expected .* read-only"),
            (np.broadcast_to(1.0, shape), ValueError, rf"^{name}: expected .* read-only"),
            (np.ones(shape).tolist(), TypeError, rf"^{name}: expected an ndarray, got list"),
            (np.ma.ones(shape), TypeError, rf"^{name}: expected an ndarray, got MaskedArray"),
        ]
        for out, error, match in refused:
            arguments = fresh(OPERANDS[function]) | fresh(OUTS[function]) | {name: out}
            expect_refusal(function, arguments, error, match)


@pytest.mark.parametrize("function", OUTS)
def test_outs_that_overlap_are_refused(function):
    for (one, shape), (other, other_shape) in itertools.combinations(OUTS[function].items(), 2):
        memory = np.ones(100)
        start = np.prod(shape) - 1  # one element is shared
        arguments = fresh(OPERANDS[function]) | fresh(OUTS[function])
        arguments[one] = memory[: start + 1].reshape(shape)
        arguments[other] = memory[start : start + np.prod(other_shape)].reshape(other_shape)
        expect_refusal(function, arguments, ValueError, rf"^{other}: .* {one}")


def test_outs_may_interleave():
    X, W1, W2 = np.ones((5, 3)), np.ones((4, 2)), np.ones((2, 3))
    memory = np.full((5, 10), np.nan)
    out, out_H, out_Z = memory[:, 0:8:2], memory[:, 8:], memory[:, 1:8:2]
    A, H = sf.kernels.factored_forward(
        X, W1, W2, activation="tanh", out=out, out_H=out_H, out_Z=out_Z
    )
    np.testing.assert_allclose(A, np.tanh(6))
    np.testing.assert_array_equal(H, np.full((5, 2), 3.0))
    np.testing.assert_array_equal(out_Z, np.full((5, 4), 6.0))


def test_out_dX_without_input_gradient_is_refused():
    arguments = fresh(OPERANDS["dense_backward"]) | {"input_gradient": False}
    arguments["out_dX"] = np.ones((5, 3))
    expect_refusal("dense_backward", arguments, ValueError, "^out_dX: ")


@pytest.mark.parametrize("activation", [name for name in NAMES if name != "identity"])
def test_derivative_without_what_it_is_computed_from(activation):
    needed = "Z" if activation in READ_Z else "A"
    for function in ("dense_backward", "factored_backward"):
        arguments = fresh(OPERANDS[function]) | {"activation": activation}
        arguments[needed] = None
        expect_refusal(function, arguments, TypeError, f"^{needed}: ")
        arguments = fresh(OPERANDS[function]) | {"activation": activation}
        arguments["A" if needed == "Z" else "Z"] = None  # the other is not needed
        getattr(sf.kernels, function)(**arguments)


# `out` over an operand.


@both_types
@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("function", OPERANDS)
def test_out_over_an_operand(function, activation, dtype):
    rng = np.random.default_rng(0)
    shapes = OPERANDS[function]
    memory = {name: rng.uniform(0.1, 0.9, 100).astype(dtype) for name in shapes}

    def operands():
        return {
            name: memory[name].copy()[20 : 20 + np.prod(shape)].reshape(shape)
            for name, shape in shapes.items()
        }

    plain = getattr(sf.kernels, function)(**operands(), activation=activation)
    plain = plain if isinstance(plain, tuple) else (plain,)
    place = {
        "out": 0,
        "out_H": 1,
        "out_dX": 0,
        "out_dW": 1,
        "out_dW1": 1,
        "out_dW2": 2,
        "out_db": -1,
    }
    for out_name, name in itertools.product(OUTS[function], shapes):
        if out_name == "out_Z":
            continue
        size = np.prod(OUTS[function][out_name])
        for offset in (18, 20, 23):
            arguments = operands()
            out = arguments[name].base[offset : offset + size].reshape(OUTS[function][out_name])
            got = getattr(sf.kernels, function)(
                **arguments, activation=activation, **{out_name: out}
            )
            got = got if isinstance(got, tuple) else (got,)
            assert got[place[out_name]] is out
            for array, expected in zip(got, plain, strict=True):
                np.testing.assert_array_equal(array, expected)


def test_out_may_be_the_input_itself():
    X = np.arange(6.0).reshape(2, 3)
    W = np.arange(9.0).reshape(3, 3)
    expected = np.tanh(X @ W.T)
    assert sf.kernels.dense_forward(X, W, activation="tanh", out=X) is X
    np.testing.assert_allclose(X, expected)
    dA = np.ones((2, 3))
    dX, _, _ = sf.kernels.dense_backward(dA, np.ones((2, 3)), W, out_dX=dA)
    assert dX is dA
    np.testing.assert_allclose(dA, np.ones((2, 3)) @ W)


# Sizes beyond BLAS's. All of these are views of one number: a copy of one would be of gigabytes.


def huge(*shape):
    return np.broadcast_to(np.float32(0), shape)


@pytest.mark.parametrize(
    ("function", "operands", "match"),
    [
        ("dense_forward", [huge(2**31, 1), huge(1, 1)], r"^X: .*2147483647"),
        ("dense_forward", [huge(2**31, 0), huge(1, 0)], r"^X: "),
        ("dense_forward", [huge(0, 2**31), huge(1, 2**31)], r"^X: "),
        ("dense_forward", [huge(2**16, 2**15), huge(1, 2**15)], r"^X: "),
        ("dense_forward", [huge(2**16, 1), huge(2**15, 1)], r"^A: "),
        ("dense_forward", [huge(1, 2**16), huge(2**15, 2**16)], r"^W: "),
        ("factored_forward", [huge(2**16, 1), huge(1, 2**15), huge(2**15, 1)], r"^H: "),
        ("factored_forward", [huge(2**16, 1), huge(2**15, 1), huge(1, 1)], r"^A: "),
        ("dense_backward", [huge(1, 2**16), huge(1, 2**15), huge(2**16, 2**15)], r"^W: "),
        ("dense_backward", [huge(2**16, 0), huge(2**16, 2**15), huge(0, 2**15)], r"^X: "),
        (
            "factored_backward",
            [huge(1, 2**16), huge(1, 1), huge(1, 2**15), huge(2**16, 2**15), huge(2**15, 1)],
            r"^W1: ",
        ),
    ],
)
def test_sizes_beyond_32_bits_are_refused(function, operands, match):
    with pytest.raises(ValueError, match=match + r".*got shape"):
        getattr(sf.kernels, function)(*operands)


# NaN, infinities and other extreme values.


def through(activation, z, dtype):
    """f(z) and f'(z) of numbers as one sample of a layer without inputs: Z = b, ∂b = ∂Z."""
    z = np.array(z, dtype)
    X, W, dA = np.empty((1, 0), dtype), np.empty((len(z), 0), dtype), np.ones((1, len(z)), dtype)
    A = sf.kernels.dense_forward(X, W, z, activation=activation)
    Z = np.empty_like(A)
    np.testing.assert_array_equal(
        sf.kernels.dense_forward(X, W, z, activation=activation, out_Z=Z), A
    )
    np.testing.assert_array_equal(Z[0], z)
    return A[0], sf.kernels.dense_backward(dA, X, W, A, Z=Z, activation=activation)[2]


def extremes(dtype):
    info = np.finfo(dtype)
    positive = [
        *(0.0, info.smallest_subnormal, 10 * info.smallest_subnormal, info.tiny, 1e-30, 1e-10),
        *(info.eps, 1e-3, 0.1, 0.5, 1, 2, 5, 10, 20, 50, 80, 87, 87.5, 88, 88.5, 89, 100, 103, 104),
        *(500, 700, 708, 708.5, 709, 709.5, 710, 744, 745, 746, 1e4, 1e30, info.max),
    ]
    return np.array([-x for x in positive] + positive, dtype)


@both_types
@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a != "softmax"], ids=str)
def test_extreme_values(activation, dtype):
    z = extremes(dtype)
    A, derivative = through(activation, z, dtype)
    name, parameter = resolve_activation(activation).name, parameter_of(activation)
    tiny, eps = np.finfo(dtype).tiny, np.finfo(dtype).eps
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        expected, slope = (g(z.astype(np.float64), parameter) for g in ELEMENTWISE[name])
        # Of the size of the smallest normal number, results may be rounded to it or to 0.
        relative, absolute = 8 * eps, tiny
        if name in READ_Z:  # a product with a number of that size, e^(-z²/2) or σ(2u)
            exponent = {"gelu": lambda z: z**2, "gelu_tanh": lambda z: 4 * abs(gelu_tanh_inner(z)[0])}
            relative = eps * np.clip(exponent.get(name, abs)(z.astype(np.float64)), 8, 1e4)
            absolute = tiny * np.maximum(abs(z.astype(np.float64)), 1)
        infinite = name == "exp" and z > {np.float32: 88, np.float64: 709}[dtype]
        assert (np.where(infinite, A, np.inf) == np.inf).all()
        assert (np.where(infinite, 0, abs(A - expected)) <= relative * abs(expected) + absolute).all()
        # Derivatives come from A, so their errors are relative to 1 where they cancel.
        bound = 8 * eps * np.maximum(1, abs(slope) if name == "exp" else parameter)
        assert (np.where(infinite, derivative, np.inf) == np.inf).all()
        assert (np.where(infinite, 0, abs(derivative - slope)) <= bound).all()


@both_types
@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a != "softmax"], ids=str)
def test_infinities(activation, dtype):
    name, parameter = resolve_activation(activation).name, parameter_of(activation)
    A, derivative = through(activation, [-np.inf, np.inf], dtype)
    left = {"identity": -np.inf, "relu": 0, "elu": -parameter, "celu": -parameter}
    left |= {"leaky_relu": -np.inf if parameter else np.nan, "tanh": -1, "sigmoid": 0}
    left |= dict.fromkeys(READ_Z, np.nan)  # -inf * 0, as in NumPy
    left |= {"clipped_relu": 0, "softplus": 0, "hardtanh": -parameter, "exp": 0}
    right = {"tanh": 1, "sigmoid": 1, "clipped_relu": parameter, "hardtanh": parameter}.get(name, np.inf)
    np.testing.assert_allclose(A, [left[name], right], rtol=1e-6, atol=np.finfo(dtype).tiny)
    if name not in ("identity", *READ_Z) and (name != "leaky_relu" or parameter > 0):
        slope = {"leaky_relu": parameter}.get(name, 0)
        bounded = ("tanh", "sigmoid", "clipped_relu", "hardtanh")
        expected = [slope, 0 if name in bounded else np.inf if name == "exp" else 1]
        np.testing.assert_allclose(derivative, expected, rtol=1e-6, atol=np.finfo(dtype).tiny)


@both_types
def test_extreme_softmax(dtype):
    Z = np.array(
        [
            [0, 1e4, -1e4, 1],
            [-1e4, -1e4, -1e4, -1e4],
            [1e4, 1e4, 1e4, 1e4],
            [-np.inf, 0, 1, -np.inf],
            [80, -80, 0, 1],
            [np.finfo(dtype).max, np.finfo(dtype).min, 0, 1],
            [1e-40, 0, -1e-40, 0],
        ],
        dtype,
    )
    with np.errstate(over="ignore"):
        expected = scipy.special.softmax(Z.astype(np.float64), axis=1)
    A = [through("softmax", z, dtype)[0] for z in Z]
    tiny, eps = np.finfo(dtype).tiny, np.finfo(dtype).eps
    np.testing.assert_allclose(A, expected, rtol=8 * eps, atol=tiny)


@both_types
@pytest.mark.parametrize("z", [[np.nan, 0, 1], [0, np.nan, 1], [0, 1, np.nan], [0, np.inf, 1]])
def test_softmax_of_nan_is_nan_for_the_whole_sample(dtype, z):
    X, W = np.zeros((2, 1), dtype), np.zeros((3, 1), dtype)
    b = np.array(z, dtype)
    A = sf.kernels.dense_forward(X, W, b, activation="softmax")
    assert np.isnan(A).all()


@both_types
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("factored", [False, True])
def test_nan_reaches_what_it_touches_and_nothing_else(factored, activation, dtype):
    case = Case(6, 5, 4, 3, dtype, activation, True, ["C"])
    case.X[2, 1] = np.nan
    for array in case.forward(factored):
        assert np.isnan(array[2]).all()
        assert not np.isnan(np.delete(array, 2, axis=0)).any()
    dX, *dW, db = case.backward(factored)
    assert not np.isnan(dX).any() and not np.isnan(db).any()
    assert np.isnan(dW[-1][:, 1]).all()
    assert not np.isnan(np.delete(dW[-1], 1, axis=1)).any()

    case = Case(6, 5, 4, 3, dtype, activation, True, ["C"])
    case.A[2, :] = case.Z[2, :] = 0.5  # where every derivative is something else than 0
    case.dA[2, 1] = np.nan
    dX, *dW, db = case.backward(factored)
    assert np.isnan(dX[2]).all() and not np.isnan(np.delete(dX, 2, axis=0)).any()
    touched = slice(None) if activation == "softmax" else 1
    assert np.isnan(db[touched]).all() and np.isnan(dW[0][touched]).all()
    if activation != "softmax":
        assert not np.isnan(np.delete(db, 1)).any()


def test_no_warnings_and_no_error_state_is_left():
    with np.errstate(all="raise"):
        for activation in NAMES:
            z = [-np.inf, -1e300, 0, 1e300, np.inf, np.nan]
            through(activation, z, np.float64)
            assert (np.ones(3) / 2 == 0.5).all()


# Accuracy on ordinary ranges.


@both_types
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("sigmoid", -80, 80),
        ("tanh", -20, 20),
        ("elu", -80, 2),
        ("celu", -80, 2),
        ("gelu", -5, 5),
        ("gelu_tanh", -1, 5),  # further left the rounding of its exponent counts
        ("silu", -80, 80),
        ("softplus", -80, 80),
        ("exp", -80, 80),
    ],
)
def test_accuracy(name, low, high, dtype):
    rng = np.random.default_rng(0)
    near_0 = 10.0 ** rng.uniform(-30, 0, 20_000) * rng.choice([-1, 1], 20_000)
    z = np.concatenate([rng.uniform(low, high, 100_000), near_0]).astype(dtype)
    expected = ELEMENTWISE[name][0](z.astype(np.float64), 1.0)
    error = abs(through(name, z, dtype)[0] - expected) / abs(expected)
    assert error.max() <= {np.float32: 4e-7, np.float64: 8e-15}[dtype]


@both_types
@pytest.mark.parametrize("n", [1, 2, 10, 33])
def test_accuracy_of_softmax(n, dtype):
    rng = np.random.default_rng(0)
    Z = rng.uniform(-30, 30, (2000, n)).astype(dtype)
    A = sf.kernels.dense_forward(Z, np.eye(n, dtype=dtype), activation="softmax")
    expected = scipy.special.softmax(Z.astype(np.float64), axis=1)
    # Rounding z - max z moves e^(z - max z) by as much relative to itself.
    moved = np.finfo(dtype).eps / 2 * (Z.max(axis=1, keepdims=True) - Z)
    bound = {np.float32: 4e-7, np.float64: 2e-15}[dtype]
    assert (abs(A - expected) <= (bound + moved) * expected).all()


# The loops, in every instruction set.

PROGRAM = """
import sys
import numpy as np
import svdfast as sf
from svdfast.model.activations import resolve as resolve_activation
from svdfast import _elementwise
results = {"set": _elementwise.selected_instruction_set()}
for dtype in ("f4", "f8"):
    for name in sys.argv[2:]:
        rng = np.random.default_rng(0)
        for p, n in [(1, 1), (5, 7), (3, 64), (40, 33)]:
            Z, dA = rng.normal(0, 5, (2, p, n))
            Z *= 10.0 ** rng.choice([0, 0, 0, 3, -20, -39], Z.shape)
            Z, dA = Z.astype(dtype), dA.astype(dtype)
            out_Z = np.empty_like(Z)
            W = np.eye(n, dtype=dtype)
            A = sf.kernels.dense_forward(Z, W, activation=name, out_Z=out_Z)
            A_over_Z = sf.kernels.dense_forward(Z, W, activation=name)
            dX, _, db = sf.kernels.dense_backward(dA, Z, W, A, Z=Z, activation=name)
            for key, value in dict(A=A, A_over_Z=A_over_Z, Z=out_Z, dX=dX, db=db).items():
                results[f"{dtype} {name} {p} {n} {key}"] = value
np.savez(sys.argv[1], **results)
"""


def python(program, *arguments, **variables):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path} | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def results_with(instruction_set, folder):
    path = folder / f"{instruction_set}.npz"
    done = python(PROGRAM, path, *NAMES, SVDFAST_CPU=instruction_set)
    assert done.returncode == 0, done.stderr
    with np.load(path) as results:
        assert str(results["set"]) == instruction_set
        return {name: results[name] for name in results if name != "set"}


def test_instruction_sets_agree(tmp_path):
    available = _elementwise.available_instruction_sets()
    assert available[0] == "baseline"
    assert set(available) <= set(_elementwise.INSTRUCTION_SETS)
    if len(available) == 1:
        pytest.skip("this CPU has no other than the baseline")
    expected = results_with("baseline", tmp_path)
    for instruction_set in available[1:]:
        results = results_with(instruction_set, tmp_path)
        assert results.keys() == expected.keys()
        for name, value in results.items():
            wanted = expected[name]
            eps = np.finfo(value.dtype).eps
            # Sums of a column's or a row's terms may cancel: relative to the largest there.
            atol = 16 * eps * abs(wanted[np.isfinite(wanted)]).max(initial=0)
            np.testing.assert_allclose(value, wanted, rtol=16 * eps, atol=atol, err_msg=name)


def test_the_best_instruction_set_is_the_default():
    program = "import svdfast._elementwise as e; print(e.selected_instruction_set())"
    done = python(program, SVDFAST_CPU="")
    assert done.stdout.strip() == _elementwise.available_instruction_sets()[-1]


@pytest.mark.parametrize("wrong", ["nonsense", "AVX2", "sse9"])
def test_unknown_instruction_set_fails_the_import(wrong):
    done = python("import svdfast", SVDFAST_CPU=wrong)
    assert done.returncode != 0
    assert f"ImportError: SVDFAST_CPU={wrong!r}: expected one of baseline" in done.stderr


# Threads.


def test_many_threads_at_once():
    case = Case(64, 32, 16, 8, np.float64, "tanh", True, ["C"])
    expected = case.forward(True), case.backward(True)
    failures = []

    def work():
        for _ in range(50):
            got = case.forward(True), case.backward(True)
            for one, other in zip(itertools.chain(*got), itertools.chain(*expected), strict=True):
                if not np.array_equal(one, other):
                    failures.append(abs(one - other).max())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
