# SPDX-License-Identifier: BSD-3-Clause
"""The files of `svdfast train` beside the network: a page (--report) and a figure (--plot).

Elsewhere: the printed output (comparison.py).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import svdfast.plots as plots
from svdfast._process.files import written_whole
from svdfast.cli.data import Data
from svdfast.cli.errors import Failure, named_errors
from svdfast.training.result import TrainingResult

__all__ = ["check_extras", "draw", "write_page"]

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; max-width: 60em; margin: 2em auto; }}
table {{ border-collapse: collapse; }}
td, th {{ border: 1px solid #ccc; padding: 0.2em 0.6em; text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }}
</style>
<h1>{title}</h1>
<ul>
{notes}
</ul>
{body}
</html>
"""


def check_extras(*, page: bool, figure: bool) -> None:
    """Refuses, before the work is done, outputs that could not be written after it."""
    try:
        if page:
            import pandas  # noqa: F401
        if figure:
            plots.require_matplotlib()
    except ImportError as error:
        missing = 'pages need pandas: pip install "svdfast[demo]"' if error.name == "pandas" else str(error)
        raise Failure(missing) from None


def draw(result: TrainingResult, path: Path) -> None:
    """The losses of a training as a figure."""
    figure: Any = plots.training(result)
    with named_errors(f"--plot: {path}"), written_whole(path) as file:
        figure.savefig(file, format=path.suffix[1:])


def write_page(data: Data, scores: Sequence[tuple[str, ...]], result: TrainingResult, path: Path) -> None:
    """Writes the columns, the scores and the history as a page that needs no other file."""
    from pandas import DataFrame

    tables = [("Scores", DataFrame(scores[1:], columns=list(scores[0])))]
    if data.table:
        tables.append(("Columns", DataFrame(data.table, columns=["column", "kind", "values"])))
    tables.append(("Epochs", DataFrame(result.history)))
    body = "\n".join(f"<h2>{title}</h2>\n{frame.to_html(index=False, border=0, na_rep='')}" for title, frame in tables)
    notes = "\n".join(f"<li>{html.escape(note)}</li>" for note in (*data.notes, *data.warnings))
    title = html.escape(f"{data.title}: {data.kind}")
    text = _PAGE.format(title=title, notes=notes, body=body)
    with named_errors(f"--report: {path}"), written_whole(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
