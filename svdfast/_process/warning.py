# SPDX-License-Identifier: BSD-3-Clause
"""Warnings that point at the user's line, however deep in the package their cause is found."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection

__all__ = ["warn"]


def warn(message: str, through: Collection[str] = ()) -> None:
    """Warns at the line that called svdfast.

    Frames of svdfast are passed over, and those of the packages `through`, which call it for the user.
    """
    inner = {"svdfast", *through}
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in inner:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
