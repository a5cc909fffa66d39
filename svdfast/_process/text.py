# SPDX-License-Identifier: BSD-3-Clause
"""Plain text tables. Not here: what stands in them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["aligned"]


def aligned(rows: Sequence[Sequence[str]], *, left: bool = False) -> list[str]:
    """A table's lines: columns as wide as their widest cell, the first to the left, the others to the right unless all are left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) if left else cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return lines
