# SPDX-License-Identifier: BSD-3-Clause
"""The common properties of everything with one weight.

Layers are in linear.py and scan.py; the place of a weight in a network is in layout.py.
"""

from __future__ import annotations

from svdfast.model.structures import Structure

__all__ = ["Weighted"]


class Weighted:
    """The sizes and the rank of a weight, from its structure."""

    structure: Structure

    @property
    def n_in(self) -> int:
        return self.structure.n_in

    @property
    def n_out(self) -> int:
        return self.structure.n_out

    @property
    def rank(self) -> int | None:
        return self.structure.rank
