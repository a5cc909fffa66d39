# SPDX-License-Identifier: BSD-3-Clause
"""One layer, dense or factored, forward and backward, for any NumPy code: checked, with `out=`.

These are the kernels that a `Network` trains with, over all rows at once. Elsewhere: the products
themselves (src/cython_kernels.pyx), networks and training, and the unchecked interface for Cython
code (svdfast/cython_kernels.pxd). ::

    p   samples            X  (p, m)   inputs               dX (p, m)   ∂ loss / ∂X
    m   inputs             W  (n, m)   dense weight         dW (n, m)   ∂ loss / ∂W
    n   outputs            W1 (n, l), W2 (l, m)  factors    dW1, dW2
    l   rank               b  (n,)     bias                 db (n,)
                           H  (p, l)   X·W2ᵀ
                           Z  (p, n)   pre-activation
                           A  (p, n)   f(Z)                 dA (p, n)

These rules hold for all four functions:

- Operands may have any memory layout. An operand is copied unless it is aligned, in C order and of
  the result's type. No operand is modified.
- Results have NumPy's common type of all given operands: float32 or float64; float32 with float64
  makes float64. If NumPy's type is an integer or bool, it is float64; if float16, float32.
- `precision="bfloat16"` is for float32 results. It rounds only the operands of the products to
  bfloat16, with 8 bits of precision and float32's range. Numbers above 3.39e38 become infinity; NaN
  and infinity stay. Denormal operands count as zero. Products and sums are float32. If the CPU has
  bfloat16 instructions, denormal products and sums count as zero, too; the emulation keeps them.
  None and the results' own dtype round nothing.
- `activation`, a name or an Activation, is the function f. At a kink, which is at 0, its derivative
  is that from the left. Backward needs A, as forward returned it, except for the identity and GELU.
  It needs Z, as forward put it into `out_Z`, for GELU only. A missing `b` is zeros. Samples lie in
  rows.
- Any size may be 0. NaN and infinity are computed with as in NumPy, but without warnings.
- An `out` array must have the result's shape and type. It may have any memory layout and overlap an
  operand. Results are computed directly into an `out` that is aligned, in C order and does not
  overlap an operand; others get a copy.
- All checks come before anything is written.

TypeError is raised for an operand that is not an array of real numbers of at most 64 bits (complex,
object, text, sparse, masked, None), and for an `out` that is not an ndarray or not of the result's
type. ValueError is raised for a shape that does not fit, for an `out` that is read-only or overlaps
another `out`, and for an operand or result with more than 2**31 - 1 elements, or as many along one
dimension (BLAS counts in 32 bits). Backward raises TypeError if A or Z is needed and not given, and
ValueError for `out_dX` without `input_gradient`.

The equations are those of S. S. Sarnayak, A. Mohanty, S. Temkar, *Deep Neural Networks and
Accelerating them using Singular Value Decomposition*, 2020 ("the paper"), sections 3.1, 3.1.4 and
3.3.3. Samples are in rows here, and in columns in the paper.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdfast._process.checks import MAX_SIZE, check_out, real_array
from svdfast._process.runtime import resolve_precision
from svdfast.cython_kernels import (
    run_dense_backward,
    run_dense_forward,
    run_factored_backward,
    run_factored_forward,
)
from svdfast.model.activations import Activation, resolve

__all__ = ["dense_backward", "dense_forward", "factored_backward", "factored_forward"]

Array: TypeAlias = NDArray[Any]

_SHAPES = {
    **{"X": "pm", "W": "nm", "W1": "nl", "W2": "lm", "b": "n"},
    **{"H": "pl", "Z": "pn", "A": "pn"},
    **{"dX": "pm", "dW": "nm", "dW1": "nl", "dW2": "lm", "db": "n", "dA": "pn", "D": "pl"},
}


def _check_size(name: str, shape: tuple[int, ...]) -> None:
    if max(*shape, math.prod(shape)) > MAX_SIZE:
        raise ValueError(f"{name}: expected at most {MAX_SIZE} elements, got shape {shape}")


def _check_operand(name: str, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Compares a shape with the sizes known so far, and adds its own sizes."""
    symbols = _SHAPES[name]
    expected = [sizes.get(symbol, symbol) for symbol in symbols]
    columns = zip(symbols, expected, shape, strict=False)
    if len(shape) != len(symbols) or any(size not in (symbol, got) for symbol, size, got in columns):
        text = ", ".join(map(str, expected)) + ("," if len(symbols) == 1 else "")
        raise ValueError(f"{name}: expected shape ({text}), got {shape}")
    _check_size(name, shape)
    sizes.update(zip(symbols, shape, strict=True))


def _common_type(arrays: list[Array]) -> np.dtype[Any]:
    dtype = np.result_type(*(array.dtype for array in arrays))
    if dtype.kind != "f":
        return np.dtype(np.float64)
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype


def _is_direct(array: Array, dtype: np.dtype[Any]) -> bool:
    """True if kernels can use the array without a copy."""
    flags = array.flags
    return array.dtype == dtype and flags.c_contiguous and flags.aligned


class _Call:
    """The arrays of one call by their symbols, checked and in the form that the kernels take.

    Parameters
    ----------
    operands : dict
        Operands, which are checked in this order.
    results : dict
        The `out` array of each result; None to make one.
    """

    def __init__(self, operands: dict[str, Any], results: dict[str, Any], precision: str | None) -> None:
        given = {name: real_array(name, value) for name, value in operands.items()}
        sizes: dict[str, int] = {}
        for name, array in given.items():
            _check_operand(name, array.shape, sizes)
        dtype = _common_type(list(given.values()))
        self.bfloat16 = resolve_precision(precision, dtype)
        shapes = {name: tuple(sizes[symbol] for symbol in _SHAPES[name]) for name in results}
        for name, shape in shapes.items():
            _check_size(name, shape)
        outs = {name: out for name, out in results.items() if out is not None}
        labels = {name: "out" if name == "A" else f"out_{name}" for name in outs}
        for name, out in outs.items():
            check_out(labels[name], out, shapes[name], dtype)
        for one, other in itertools.combinations(outs, 2):
            if np.shares_memory(outs[one], outs[other]):
                got = f"some of {labels[one]}"
                raise ValueError(f"{labels[other]}: expected memory of its own, got {got}")

        # Nothing is refused after this line.
        arrays = {
            name: array if _is_direct(array, dtype) else np.require(array, dtype, ["C", "A"])
            for name, array in given.items()
        }
        work = {}
        for name, shape in shapes.items():
            out = outs.get(name)
            direct = (
                out is not None
                and _is_direct(out, dtype)
                and not any(np.may_share_memory(out, array) for array in arrays.values())
            )
            work[name] = out if direct else np.empty(shape, dtype)
        self.sizes = sizes
        self.dtype = dtype
        self.arrays: dict[str, Any] = {**arrays, **work}
        self.outs = outs

    def run(self, kernel: Any, symbols: str, activation: Activation) -> None:
        """Calls a compiled kernel with these symbols' arrays, vectors as matrices of one row."""
        arrays = (self.arrays[symbol] for symbol in symbols.split())
        matrices = (a[np.newaxis] if a is not None and a.ndim == 1 else a for a in arrays)
        kernel(*matrices, activation.code, activation.parameter, self.bfloat16)
        for name, out in self.outs.items():
            if out is not self.arrays[name]:
                out[...] = self.arrays[name]
            self.arrays[name] = out


def _forward(
    kernel: Any, symbols: str, operands: dict[str, Any], results: dict[str, Any],
    activation: str | Activation, precision: str | None,
) -> _Call:  # fmt: skip
    f = resolve(activation)
    if operands["b"] is None:
        del operands["b"]
    if results["Z"] is None and f.backward_reads != "Z":
        del results["Z"]
    call = _Call(operands, results, precision)
    call.arrays.setdefault("b", np.zeros(call.sizes["n"], call.dtype))
    call.arrays.setdefault("Z", call.arrays["A"])
    call.run(kernel, symbols, f)
    return call


def _backward(
    kernel: Any, symbols: str, operands: dict[str, Any], results: dict[str, Any],
    activation: str | Activation, input_gradient: bool, precision: str | None,
) -> _Call:  # fmt: skip
    f = resolve(activation)
    for name in ("Z", "A"):
        if operands[name] is None and name != f.backward_reads:
            del operands[name]
    if not input_gradient and results.pop("dX") is not None:
        raise ValueError("out_dX: expected None without input_gradient, got an array")
    call = _Call(operands, results, precision)
    # The kernels turn dA into dZ in place. They do not read A and Z unless they need them.
    dZ = np.array(call.arrays["dA"])
    call.arrays = {"dX": None, "Z": dZ, "A": dZ, "dZ": dZ, **call.arrays}
    call.run(kernel, symbols, f)
    return call


def dense_forward(
    X: ArrayLike, W: ArrayLike, b: ArrayLike | None = None, *,
    activation: str | Activation = "identity", precision: str | None = None,
    out: Array | None = None, out_Z: Array | None = None,
) -> Array:  # fmt: skip
    """A = f(Z) with Z = X·Wᵀ + b: the outputs of a dense layer.

    Parameters
    ----------
    X : array_like (p, m)
    W : array_like (n, m)
    b : array_like (n,), optional
    activation : str or Activation
    precision : {"float32", "float64", "bfloat16"}, optional
    out : ndarray (p, n), optional
        Where to put A.
    out_Z : ndarray (p, n), optional
        Where to put Z, which `dense_backward` needs for GELU. Z is not kept without it.

    Returns
    -------
    A : ndarray (p, n), float32 or float64
        `out` if given.

    Examples
    --------
    >>> import svdfast as sf
    >>> W, b = [[1.0, -1.0], [2.0, 0.5]], [0.0, -3.0]
    >>> sf.kernels.dense_forward([[3.0, 1.0]], W, b, activation="relu")
    array([[2. , 3.5]])
    """
    operands, results = {"X": X, "W": W, "b": b}, {"A": out, "Z": out_Z}
    call = _forward(run_dense_forward, "X W b Z A", operands, results, activation, precision)
    A: Array = call.arrays["A"]
    return A


def factored_forward(
    X: ArrayLike, W1: ArrayLike, W2: ArrayLike, b: ArrayLike | None = None, *,
    activation: str | Activation = "identity", precision: str | None = None,
    out: Array | None = None, out_H: Array | None = None, out_Z: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """A = f(Z) with H = X·W2ᵀ and Z = H·W1ᵀ + b: the outputs of a factored layer.

    Parameters
    ----------
    X : array_like (p, m)
    W1 : array_like (n, l)
    W2 : array_like (l, m)
    b : array_like (n,), optional
    activation : str or Activation
    precision : {"float32", "float64", "bfloat16"}, optional
    out : ndarray (p, n), optional
        Where to put A.
    out_H : ndarray (p, l), optional
        Where to put H.
    out_Z : ndarray (p, n), optional
        Where to put Z, which `factored_backward` needs for GELU. Z is not kept without it.

    Returns
    -------
    A : ndarray (p, n), float32 or float64
        `out` if given.
    H : ndarray (p, l)
        X·W2ᵀ, for `factored_backward`; `out_H` if given.

    Notes
    -----
    The paper has Z = W1·(W2·X + b), which adds b, of n entries, to a vector of l entries. The
    correct equation is Z = W1·(W2·X) + b.

    Examples
    --------
    >>> import svdfast as sf
    >>> X, W1, W2, b = [[3.0, 1.0]], [[1.0], [2.0]], [[1.0, -1.0]], [0.0, -3.0]
    >>> A, H = sf.kernels.factored_forward(X, W1, W2, b)
    >>> A
    array([[2., 1.]])
    >>> H
    array([[2.]])
    """
    operands = {"X": X, "W1": W1, "W2": W2, "b": b}
    results = {"A": out, "H": out_H, "Z": out_Z}
    symbols = "X W1 W2 b H Z A"
    call = _forward(run_factored_forward, symbols, operands, results, activation, precision)
    return call.arrays["A"], call.arrays["H"]


def dense_backward(
    dA: ArrayLike, X: ArrayLike, W: ArrayLike, A: ArrayLike | None = None, *,
    Z: ArrayLike | None = None, activation: str | Activation = "identity",
    input_gradient: bool = True, precision: str | None = None,
    out_dX: Array | None = None, out_dW: Array | None = None, out_db: Array | None = None,
) -> tuple[Array | None, Array, Array]:  # fmt: skip
    """The gradients of a dense layer.

    With ∂Z = ∂A∘f'(Z): ∂X = ∂Z·W, ∂W = ∂Zᵀ·X, ∂b = Σ ∂Z over samples.

    Parameters
    ----------
    dA : array_like (p, n)
        ∂ loss / ∂A. It is not modified.
    X : array_like (p, m)
        Inputs of `dense_forward`.
    W : array_like (n, m)
    A : array_like (p, n)
        Outputs of `dense_forward`; the top of this module says when they are needed.
    Z : array_like (p, n), optional
        Pre-activations that `dense_forward` put into `out_Z`, for GELU.
    activation : str or Activation
    input_gradient : bool
        Form ∂X, which a network's first layer does not need.
    precision : {"float32", "float64", "bfloat16"}, optional
    out_dX, out_dW, out_db : ndarray (p, m), (n, m), (n,), optional
        Where to put the results.

    Returns
    -------
    dX : ndarray (p, m), float32 or float64, or None
        None without `input_gradient`.
    dW : ndarray (n, m)
    db : ndarray (n,)

    Notes
    -----
    ∂W and ∂b are sums over samples. The paper has means: divide dA by p for them.

    Examples
    --------
    >>> import svdfast as sf
    >>> X, W = [[3.0, 1.0]], [[1.0, -1.0], [2.0, 0.5]]
    >>> A = sf.kernels.dense_forward(X, W, [0.0, -9.0], activation="relu")
    >>> dX, dW, db = sf.kernels.dense_backward([[1.0, 1.0]], X, W, A, activation="relu")
    >>> dX
    array([[ 1., -1.]])
    >>> dW
    array([[3., 1.],
           [0., 0.]])
    >>> db
    array([1., 0.])
    """
    call = _backward(
        run_dense_backward, "X W Z A dZ dW db dX", {"dA": dA, "X": X, "W": W, "A": A, "Z": Z},
        {"dX": out_dX, "dW": out_dW, "db": out_db}, activation, input_gradient, precision,
    )  # fmt: skip
    return call.arrays["dX"], call.arrays["dW"], call.arrays["db"]


def factored_backward(
    dA: ArrayLike, X: ArrayLike, H: ArrayLike, W1: ArrayLike, W2: ArrayLike,
    A: ArrayLike | None = None, *, Z: ArrayLike | None = None,
    activation: str | Activation = "identity", input_gradient: bool = True,
    precision: str | None = None, out_dX: Array | None = None,
    out_dW1: Array | None = None, out_dW2: Array | None = None, out_db: Array | None = None,
) -> tuple[Array | None, Array, Array, Array]:  # fmt: skip
    """The gradients of a factored layer, whose weight is W1·W2.

    With ∂Z = ∂A∘f'(Z) and D = ∂Z·W1, formed once: ∂X = D·W2, ∂W1 = ∂Zᵀ·H, ∂W2 = Dᵀ·X,
    ∂b = Σ ∂Z over samples.

    Parameters
    ----------
    dA : array_like (p, n)
        ∂ loss / ∂A. It is not modified.
    X : array_like (p, m)
        Inputs of `factored_forward`.
    H : array_like (p, l)
        H that `factored_forward` returned.
    W1 : array_like (n, l)
    W2 : array_like (l, m)
    A : array_like (p, n)
        Outputs of `factored_forward`; the top of this module says when they are needed.
    Z : array_like (p, n), optional
        Pre-activations that `factored_forward` put into `out_Z`, for GELU.
    activation : str or Activation
    input_gradient : bool
        Form ∂X, which a network's first layer does not need.
    precision : {"float32", "float64", "bfloat16"}, optional
    out_dX, out_dW1, out_dW2, out_db : ndarray (p, m), (n, l), (l, m), (n,), optional
        Where to put the results.

    Returns
    -------
    dX : ndarray (p, m), float32 or float64, or None
        None without `input_gradient`.
    dW1 : ndarray (n, l)
    dW2 : ndarray (l, m)
    db : ndarray (n,)

    Notes
    -----
    The paper has W1·∂Z in ∂X. The correct term is W1ᵀ·∂Z: D above.

    Examples
    --------
    >>> import svdfast as sf
    >>> X, W1, W2 = [[3.0, 1.0]], [[1.0], [2.0]], [[1.0, -1.0]]
    >>> A, H = sf.kernels.factored_forward(X, W1, W2)
    >>> dX, dW1, dW2, db = sf.kernels.factored_backward([[1.0, 1.0]], X, H, W1, W2)
    >>> dX
    array([[ 3., -3.]])
    >>> dW1
    array([[2.],
           [2.]])
    >>> dW2
    array([[9., 3.]])
    """
    call = _backward(
        run_factored_backward, "X H W1 W2 Z A dZ D dW1 dW2 db dX",
        {"dA": dA, "X": X, "H": H, "W1": W1, "W2": W2, "A": A, "Z": Z},
        {"dX": out_dX, "dW1": out_dW1, "dW2": out_dW2, "db": out_db, "D": None},
        activation, input_gradient, precision,
    )  # fmt: skip
    return call.arrays["dX"], call.arrays["dW1"], call.arrays["dW2"], call.arrays["db"]
