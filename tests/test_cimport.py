# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the C-level interface: its signatures, and another package's extension that uses it.

The extension, tests/cimport_example, is built with the setuptools and Cython that are installed;
nothing is downloaded.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special

import svdfast as sf
from svdfast import cython_kernels
from svdfast.model import activations

EXAMPLE = Path(__file__).with_name("cimport_example")
ROOT = Path(sf.__file__).parents[1]

# What code built against this version looks for at import, letter by letter: a change breaks
# every extension that cimports the kernels until it is built again. T is float or double.
IN, OUT, SIZE = "T const *", "T *", "Py_ssize_t"
SIGNATURES = {
    "dense_forward": [IN] * 3 + [OUT] * 2 + [SIZE] * 3 + ["int", "double", "int"],
    "dense_backward": [IN] * 4 + [OUT] * 4 + [SIZE] * 3 + ["int", "double", "int", "int"],
    "factored_forward": [IN] * 4 + [OUT] * 3 + [SIZE] * 4 + ["int", "double", "int"],
    "factored_backward": [IN] * 6 + [OUT] * 6 + [SIZE] * 4 + ["int", "double", "int", "int"],
}

PROGRAM = """
import sys
import numpy as np
import layer
operands = np.load(sys.argv[1])
results = {"codes": np.array([layer.code(name) for name in sys.argv[3:]])}
try:
    layer.code("nothing")
except ValueError as error:
    results["refused"] = np.array(str(error))
for dtype in ("f4", "f8"):
    X, W, W1, W2, b, dA = (operands[k].astype(dtype) for k in ("X", "W", "W1", "W2", "b", "dA"))
    for name, array in zip(["A", "dX", "dW", "db"], layer.dense(X, W, b, dA)):
        results[f"dense {name} {dtype}"] = array
    for name, array in zip(["A", "dW1", "dW2", "db"], layer.factored(X, W1, W2, b, dA)):
        results[f"factored {name} {dtype}"] = array
np.savez(sys.argv[2], **results)
"""


def test_signatures():
    expected = {
        f"__pyx_fuse_{i}{name}": f"void ({', '.join(arguments)})".replace("T ", f"{c_type} ")
        for i, c_type in enumerate(["float", "double"])
        for name, arguments in SIGNATURES.items()
    }
    # A capsule's name is its signature. Cython has longer names, too, for the same functions.
    got = {
        name: re.fullmatch(r'<capsule object "(.*)" at \w+>', repr(capsule)).group(1)
        for name, capsule in cython_kernels.__pyx_capi__.items()
        if name.startswith("__pyx_")
    }
    assert got == expected
    assert "int (PyObject *)" in repr(cython_kernels.__pyx_capi__["activation_code"])
    others = {name.split("[")[0] for name in cython_kernels.__pyx_capi__ if name not in got}
    assert others <= SIGNATURES.keys() | {"activation_code"}


def run(*arguments, folder, **variables):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the example computes from `OPERANDS`."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("cimport") / "example"
    shutil.copytree(EXAMPLE, folder)
    run("setup.py", "-q", "build_ext", "--inplace", folder=folder, CFLAGS="-O0")
    np.savez(folder / "operands.npz", **OPERANDS)
    run("-c", PROGRAM, "operands.npz", "results.npz", *activations.FACTS, folder=folder)
    with np.load(folder / "results.npz") as arrays:
        return dict(arrays)


rng = np.random.default_rng(0)
p, m, n, l = 7, 5, 4, 3  # noqa: E741
SHAPES = {"X": (p, m), "W": (n, m), "W1": (n, l), "W2": (l, m), "b": (n,), "dA": (p, n)}
OPERANDS = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


def assert_close(results, layer, expected):
    for dtype, tolerance in [("f4", 1e-5), ("f8", 1e-13)]:
        for name, array in expected.items():
            got = results[f"{layer} {name} {dtype}"]
            assert got.dtype == dtype
            np.testing.assert_allclose(got, array, rtol=tolerance, atol=tolerance)


def test_dense_layer_from_cython(results):
    X, W, b, dA = (OPERANDS[name] for name in ("X", "W", "b", "dA"))
    A = np.tanh(X @ W.T + b)
    dZ = dA * (1 - A**2)
    assert_close(results, "dense", {"A": A, "dX": dZ @ W, "dW": dZ.T @ X, "db": dZ.sum(axis=0)})


def test_factored_layer_from_cython(results):
    X, W1, W2, b, dA = (OPERANDS[name] for name in ("X", "W1", "W2", "b", "dA"))
    H = X @ W2.T
    Z = H @ W1.T + b
    A = Z * scipy.special.ndtr(Z)
    density = np.exp(-0.5 * Z**2) / np.sqrt(2 * np.pi)
    dZ = 2 * dA * (scipy.special.ndtr(Z) + Z * density)  # twice: the example accumulates
    expected = {"A": A, "dW1": dZ.T @ H, "dW2": (dZ @ W1).T @ X, "db": dZ.sum(axis=0)}
    assert_close(results, "factored", expected)


def test_activation_codes_are_those_of_the_names(results):
    expected = [activations.resolve(name).code for name in activations.FACTS]
    assert list(results["codes"]) == expected
    assert str(results["refused"]).startswith("name: expected one of identity, relu, ")
