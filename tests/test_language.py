# SPDX-License-Identifier: BSD-3-Clause
"""Sentences are plain: few begin with Of, What, Whoever, Whether or Not, and those of the pages have at most thirty words.

`python tests/test_language.py` prints the shares and each sentence that breaks a rule. Tables, code, headings and the targets of
links are not looked at; code within a sentence is one word. Elsewhere: what only a reader can tell.
"""

import ast
import inspect
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILT = {"_build", "generated"}
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")]
PAGES += [path for path in sorted(ROOT.glob("docs/**/*.md")) if not BUILT & set(path.relative_to(ROOT).parts)]
MODULES = sorted(ROOT.glob("svdfast/**/*.py"))
INVERTED = re.compile(r"\W*(?:Of|What|Whoever|Whether|Not)\b")
# Shares of sentences with such an opening that are allowed.
LIMIT_OF_PAGES, LIMIT_OF_CODE = 0.03, 0.03
LONGEST = 30

pytestmark = pytest.mark.skipif(not PAGES[0].is_file(), reason="the pages are not beside the tests")


def paragraphs(text):
    """The prose of a Markdown page: paragraphs, items of lists, cells of no table."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^( *)```.*?^\1``` *$", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^ *(?:\||#|!\[|:).*$|<[^<>\n]+>", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^ *(?:[-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]


def sentences(paragraph):
    """Ends are . : ? and !; a formula or a name in code is one word."""
    paragraph = re.sub(r"``?[^`]+``?", "code", paragraph)
    return [part for part in re.split(r"(?<=[.:?!])[*)\"']*\s+", paragraph) if re.search(r"\w\w", part)]


def prose(source):
    """Docstrings, paragraph by paragraph, without examples and the lines of sections; comments, block by block."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
            text = re.sub(r"^.*\n-{3,}$", "\n", text, flags=re.MULTILINE)
            for part in re.split(r"\n\s*\n|^\w[\w, *]*(?: : .*)?\n(?= {4})|\n- ", text, flags=re.MULTILINE):
                if ">>>" not in part:
                    yield " ".join(part.split())
    last, block = None, []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"# (?:SPDX|noqa|type:|fmt:|isort:)", token.string):
            if last is not None and token.start[0] != last + 1:
                yield " ".join(block)
                block = []
            last = token.start[0]
            block.append(token.string.lstrip("# "))
    yield " ".join(block)


def of_pages():
    return {path: [s for p in paragraphs(path.read_text(encoding="utf-8")) for s in sentences(p)] for path in PAGES}


def of_code():
    return {path: [s for p in prose(path.read_text(encoding="utf-8")) for s in sentences(p)] for path in MODULES}


def inverted(found):
    """The share of the sentences that begin so, and those sentences."""
    everything = [(path, sentence) for path, group in found.items() for sentence in group]
    those = [(path.relative_to(ROOT).as_posix(), s) for path, s in everything if INVERTED.match(s)]
    return len(those) / len(everything), those


def too_long(group):
    return [s for s in group if len(re.findall(r"\S*\w\S*", s)) > LONGEST]


def test_rules_find_what_they_forbid():
    page = "# Of it\n\n| Of a | cell |\n\nOf [it](x) `a b`. It is: whole.\n\n- **Not one.** Plain\n```sh\nOf\n```\n"
    assert [s for p in paragraphs(page) for s in sentences(p)] == ["Of it code.", "It is:", "whole.", "**Not one.", "Plain"]
    assert len(too_long(["word " * 30, "word " * 31, "word – " * 30])) == 1
    code = 'def f():\n    """What it is. It is.\n\n    Parameters\n    ----------\n    x : int\n        Of it.\n\n'
    code += '    >>> Of\n    """\n    # Not a\n    # thing.\n'
    found = {ROOT / "a": [s for p in prose(code) for s in sentences(p)]}
    share, those = inverted(found)
    assert share == 3 / 4 and [s for _, s in those] == ["What it is.", "Of it.", "Not a thing."]


def test_sentences_begin_with_their_subject():
    share, those = inverted(of_pages())
    assert share < LIMIT_OF_PAGES, those
    share, those = inverted(of_code())
    assert share < LIMIT_OF_CODE, those


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_sentence_of_a_page_is_long(path):
    assert too_long(of_pages()[path]) == []


if __name__ == "__main__":
    for name, found in (("pages", of_pages()), ("code", of_code())):
        share, those = inverted(found)
        print(f"{name}: {share:.1%} of {sum(map(len, found.values()))} sentences are inverted")
        print(*(f"  {path}: {sentence}" for path, sentence in those), sep="\n")
    print(*(f"long: {path}: {s}" for path, group in of_pages().items() for s in too_long(group)), sep="\n")
