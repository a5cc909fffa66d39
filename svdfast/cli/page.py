# SPDX-License-Identifier: BSD-3-Clause
"""Pieces of an HTML page that needs no other file: tables, lists, pictures, and the page itself.

All texts are escaped. The page forbids itself scripts and the network. Elsewhere: the contents
of the report (report.py).
"""

from __future__ import annotations

import base64
import html
import io
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["made", "paragraph", "picture", "preformatted", "section", "table", "unordered"]

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; line-height: 1.4; color: #111; background: #fff; max-width: 66rem; margin: 0 auto; padding: 1rem;
  overflow-wrap: anywhere; }}
h1 {{ font-size: 1.5rem; }}
h2 {{ font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid #bbb; }}
.wide {{ overflow-x: auto; overflow-wrap: normal; }}
table {{ border-collapse: collapse; font-size: 0.9rem; }}
td, th {{ border: 1px solid #bbb; padding: 0.2rem 0.6rem; text-align: right; white-space: nowrap; }}
.text {{ text-align: left; }}
td.text {{ white-space: pre-wrap; max-width: 30rem; }}
pre {{ font-size: 0.85rem; }}
figure {{ display: inline-block; vertical-align: top; margin: 1rem 1rem 1rem 0; max-width: 100%; }}
figcaption {{ font-size: 0.9rem; }}
img {{ max-width: 100%; height: auto; }}
summary {{ cursor: pointer; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def made(title: str, body: Iterable[str]) -> bytes:
    """The page."""
    return _PAGE.format(title=_escaped(title), body="\n".join(body)).encode("utf-8")


def section(title: str, *parts: str, closed: bool = False) -> str:
    """A titled section; a closed one shows its parts only when it is opened."""
    body = "\n".join(part for part in parts if part)
    if not body:
        return ""
    if closed:
        body = f"<details>\n<summary>Show</summary>\n{body}\n</details>"
    return f"<section>\n<h2>{_escaped(title)}</h2>\n{body}\n</section>"


def paragraph(text: str) -> str:
    return f"<p>{_escaped(text)}</p>" if text else ""


def unordered(lines: Iterable[str]) -> str:
    """A list without numbers; nothing for no lines."""
    items = "\n".join(f"<li>{_escaped(line)}</li>" for line in lines)
    return f"<ul>\n{items}\n</ul>" if items else ""


def preformatted(text: str) -> str:
    return f'<div class="wide"><pre>{_escaped(text)}</pre></div>'


def table(rows: Sequence[Sequence[str]], n_text: int = 1) -> str:
    """A table whose first row is its head. The first `n_text` columns are texts, the others numbers."""

    def row(cells: Sequence[str], tag: str) -> str:
        made = (f'<{tag}{" class=text" * (i < n_text)}>{_escaped(cell)}</{tag}>' for i, cell in enumerate(cells))
        return f"<tr>{''.join(made)}</tr>"

    head, body = row(rows[0], "th"), "\n".join(row(cells, "td") for cells in rows[1:])
    return f'<div class="wide"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def picture(figure: Any, about: str) -> str:
    """A figure as an image within the page, an SVG that scales. Its letters are the browser's."""
    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        # Letters that matplotlib's fonts lack are drawn by the browser, which has others.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(content, format="svg", metadata={"Date": None})
    data = base64.b64encode(content.getvalue()).decode()
    image = f'<img alt="{_escaped(about)}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>\n{image}\n<figcaption>{_escaped(about)}</figcaption>\n</figure>"


def _escaped(text: str) -> str:
    """Text of a page. Halves of characters, which names of files may hold, have no UTF-8."""
    return html.escape(text.encode("utf-8", "backslashreplace").decode("utf-8"))
