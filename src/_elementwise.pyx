# SPDX-License-Identifier: BSD-3-Clause
"""Owns the C loops of elementwise.h: chooses their instruction set at import and hands out their table.

Not here: the loops themselves, and what calls them. This module needs neither NumPy nor SciPy, so that the CPU can be asked
for its features before SciPy's BLAS is loaded.
"""

import os


cdef extern from "elementwise.h" nogil:
    const svdfast_elementwise* svdfast_elementwise_for(int itemsize)
    int svdfast_elementwise_select(const char* name)
    const char* svdfast_elementwise_selected()
    int svdfast_elementwise_available(const char* name)

INSTRUCTION_SETS = ("baseline", "avx2", "avx512")


cdef const svdfast_elementwise* elementwise(int itemsize) noexcept nogil:
    """The table for elements of `itemsize` bytes: 4 (float) or 8 (double)."""
    return svdfast_elementwise_for(itemsize)


def available_instruction_sets():
    """Names of the instruction sets that this CPU and this build have, the plainest first."""
    return tuple(name for name in INSTRUCTION_SETS if svdfast_elementwise_available(name.encode()))


def selected_instruction_set():
    """Name of the instruction set that the loops use."""
    return svdfast_elementwise_selected().decode()


def _select():
    wanted = os.environ.get("SVDFAST_CPU", "")
    if wanted == "":
        svdfast_elementwise_select(NULL)
    elif svdfast_elementwise_select(wanted.encode()) != 0:
        raise ImportError(
            f"SVDFAST_CPU={wanted!r}: expected one of {', '.join(available_instruction_sets())} on this CPU"
        )


_select()
