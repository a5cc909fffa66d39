# SPDX-License-Identifier: BSD-3-Clause
"""Warns of uint8 samples that are scaled like pixels but do not look like pixels.

Elsewhere: the scaling, which the engine does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._process.warning import warn
from svdfast.data.frames import as_array, is_frame
from svdfast.data.sparse import is_sparse
from svdfast.data.spec import Spec

__all__ = ["warn_of_pixels"]

# Pixels usually exceed this value somewhere.
_DARK = 15
_CHUNK = 1 << 20  # elements checked together


def warn_of_pixels(X: Any, validation: Any, spec: Spec) -> None:
    """Warns if samples in memory are uint8 and never above 15.

    It also warns if only one of X and validation is uint8 and the other is not scaled like pixels,
    to 0 … 1. A user's own scale causes no warning.
    """
    if spec.uint8_scale != 1 / 255:
        return
    given = {"X": X, "validation X": validation[0] if isinstance(validation, tuple | list) and len(validation) == 2 else None}
    given = {name: part for name, part in given.items() if isinstance(part, np.ndarray) or is_frame(part) or is_sparse(part)}
    pixels = [name for name, part in given.items() if _is_uint8(part)]
    if not pixels:
        return
    parts = {name: _numbers(name, part) for name, part in given.items()}
    why = ""
    for name, array in parts.items():
        if array.dtype == np.uint8:
            if array.any() and not _exceeds(array, _DARK):
                why = f"no number of {name} is above {_DARK}"
        elif _exceeds(array, 1):
            why = f"{name} has {array.dtype} numbers above 1"
    if why:
        warn(
            f"{' and '.join(pixels)}: uint8 is taken for pixels and multiplied by 1/255, but {why}. If these are no pixels, use "
            'Network(..., uint8_scale=1.0) or .astype("float32")'
        )


def _numbers(name: str, part: Any) -> NDArray[Any]:
    """The numbers of samples in memory; the stored ones of sparse samples."""
    array: NDArray[Any] = part.tocsr().data if is_sparse(part) else as_array(name, part)
    return array


def _is_uint8(part: Any) -> bool:
    """True if an array, or each column of a frame, is uint8, the nullable type included."""
    kinds = part.dtypes if is_frame(part) else [part.dtype]
    return all(str(kind).lower() == "uint8" for kind in kinds)


def _exceeds(array: NDArray[Any], limit: float) -> bool:
    """True if any number is above a limit. It stops at the first chunk that has one."""
    if array.size == 0 or array.dtype.kind not in "biuf":
        return False
    rows = max(1, _CHUNK // max(1, array[:1].size))
    return any(bool(array[start : start + rows].max() > limit) for start in range(0, len(array), rows))
