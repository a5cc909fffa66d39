# SPDX-License-Identifier: BSD-3-Clause
"""Plain text tables."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["aligned"]


def aligned(rows: Sequence[Sequence[str]], n_left: int = 1) -> list[str]:
    """A table's lines. Columns are as wide as their widest cell.

    The first `n_left` columns are aligned to the left, the others to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(cell.ljust(width) if i < n_left else cell.rjust(width) for i, (cell, width) in enumerate(cells)).rstrip())
    return lines
