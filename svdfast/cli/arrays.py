# SPDX-License-Identifier: BSD-3-Clause
"""NPZ and NPY files: arrays of samples and targets, as svdfast, scikit-learn and Keras name them.

Elsewhere: tables (tables.py).
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._process.files import DAMAGED, check_claim
from svdfast.cli.errors import Failure

__all__ = ["check_samples", "read_npy", "read_npz", "read_pairs"]

Array = NDArray[Any]

_PAIRS = (("X", "y"), ("X_train", "y_train"), ("x_train", "y_train"), ("x", "y"))
_TEST_PAIRS = (("X_test", "y_test"), ("x_test", "y_test"))

def read_pairs(name: str, *, test: bool) -> tuple[Array, Array | None, tuple[Array, Array] | None]:
    """Reads samples, targets, and test samples with theirs, if any. Raises Failure, OSError."""
    keys = dict.fromkeys(key for pair in (*_PAIRS, *_TEST_PAIRS) for key in pair)
    arrays, there = read_npz(name, list(keys))
    pair = next((pair for pair in _PAIRS if pair[0] in arrays), None)
    if pair is None or (test and pair[1] not in arrays):
        missing = pair[1] if pair else "X" if "y" in arrays else "X and no y"
        raise Failure(f"expected arrays {' and '.join(pair or _PAIRS[0])}, got no {missing} (there: {', '.join(there[:10]) or 'none'})")
    if not test:
        return arrays[pair[0]], arrays.get(pair[1]), None
    tests = dict.fromkeys(key for each in _TEST_PAIRS for key in each if key in arrays)
    whole = next(((arrays[X], arrays[y]) for X, y in _TEST_PAIRS if X in tests and y in tests), None)
    if whole is None and tests:
        raise Failure(f"expected both X_test and y_test or none of them, got {' and '.join(tests)} alone")
    return arrays[pair[0]], arrays[pair[1]], whole


def read_npz(name: str, keys: Sequence[str]) -> tuple[dict[str, Array], list[str]]:
    """Reads the arrays of a file that have one of these names, and lists the names in the file."""
    try:
        # The file is opened here because NumPy leaves a damaged file open.
        with open(name, "rb") as file, contextlib.ExitStack() as stack, _quiet():
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise Failure("not an .npz file")
            stack.enter_context(archive)
            members = archive.zip
            assert members is not None
            wanted = {name for key in keys for name in (key, f"{key}.npy")}
            for entry in members.infolist():
                if entry.filename in wanted:
                    check_claim(members, entry)
            return {key: archive[key] for key in keys if key in archive}, archive.files
    except OSError:
        raise
    except MemoryError:
        raise Failure("there is not enough memory for its arrays") from None
    except DAMAGED as error:
        # NumPy's error speaks of pickles whenever it does not know the format.
        raise Failure(f"not an .npz file of plain arrays ({error})") from None


def check_samples(X: Array, y: Array, names: tuple[str, str], n_targets: int = 1) -> tuple[Array, Array]:
    """Checks samples in rows and as many targets, all of them finite real numbers."""
    for array, name in zip((X, y), names, strict=True):
        if array.dtype.kind not in "biuf" or array.itemsize > 8:
            raise Failure(f"{name}: expected real numbers of at most 64 bits, got dtype {array.dtype}")
    if X.ndim < 2 or X.size == 0:
        raise Failure(f"{names[0]}: expected samples in rows, got shape {X.shape}")
    if y.shape != (len(X), n_targets) and (n_targets > 1 or y.shape != (len(X),)):
        each = f" of {n_targets}" if n_targets > 1 else ""
        raise Failure(f"{names[1]}: expected {len(X)} targets{each}, got shape {y.shape}")
    X, y = X.reshape(len(X), -1), y.reshape(len(X), *y.shape[1:] if n_targets > 1 else ())
    for array, name in zip((X, y), names, strict=True):
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            raise Failure(
                f"{name}: expected finite numbers, got NaN or infinity in row "
                f"{int(finite.argmin()) + 1} of {len(array)}"
            )
    return X, y


def read_npy(name: str) -> Array:
    """Reads the array of an .npy file. Raises Failure, OSError."""
    try:
        # A memory map can't claim to be larger than the file.
        with _quiet():
            array = np.load(name, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except DAMAGED as error:
        raise Failure(f"not an .npy file of a plain array ({error})") from None
    if not isinstance(array, np.memmap):
        raise Failure("not an .npy file")
    end = array.offset + array.nbytes
    if end != (size := os.path.getsize(name)):
        raise Failure(f"damaged .npy file: expected {end:,} bytes, got {size:,}")
    return np.array(array)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences NumPy's warnings of old or odd headers, which it reads all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
