# SPDX-License-Identifier: BSD-3-Clause
"""Refuses a CPython without its global lock before compiled code loads. It is not tested there."""

import sys

if not getattr(sys, "_is_gil_enabled", lambda: True)():
    raise ImportError(
        "svdfast needs Python's global interpreter lock (GIL), and this free-threaded Python runs without it: "
        "start it with PYTHON_GIL=1, or take another build"
    )
