# SPDX-License-Identifier: BSD-3-Clause
"""What all that has one weight tells of it. Not here: the layers (linear.py, scan.py), and where a weight stands (layout.py)."""

from __future__ import annotations

from svdfast.model.structures import Structure

__all__ = ["Weighted"]


class Weighted:
    """A weight's sides and its rank, by its structure."""

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
