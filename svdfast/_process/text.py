# SPDX-License-Identifier: BSD-3-Clause
"""Plain text: tables, and words of files within a line."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["aligned", "one_line"]


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


def one_line(text: str) -> str:
    """Text of a file as it is shown within a line.

    It has no line breaks, and characters that can't be printed are escaped.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
