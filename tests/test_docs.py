# SPDX-License-Identifier: BSD-3-Clause
"""The pages of docs/ hold what they show: their examples are run and compared, their commands and files exist.

A page is run from top to bottom in a namespace and a folder of its own. Two comments in a page are for this file:

    <!-- needs: sklearn, torch -->    at its top: what must be importable for its examples, else they are skipped
    <!-- file: setup.py -->           before a block: the block is written to that file before the examples are run

Pages of docs/contributing have edits of the library, too, which tests/test_contributing.py applies.

What else stands in an HTML comment is not looked at. Elsewhere: whether Sphinx builds the pages without warnings (.ci/run).
"""

import contextlib
import doctest
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
import warnings
from pathlib import Path

import pytest

import svdfast as sf
from svdfast.cli import main as cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BUILT = {"_build", "generated"}
PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if not BUILT & set(path.relative_to(DOCS).parts)
}
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
BLOCK = re.compile(r"^(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>.*)\n(?P<code>(?:.*\n)*?)```$", re.MULTILINE)
# Packages that warn of what is theirs, such as what PyTorch has deprecated.
TRAINERS = {"transformers", "lightning"}
# Languages of blocks that show no code of Python or a shell.
OTHER = {"diff", "text", "{eval-rst}", "{toctree}", "{include}", "{literalinclude}"}


def blocks(text):
    """(language, file or None, code) of each block, those in comments left out."""
    # The one comment that stays is part of a block.
    kept = COMMENT.sub(lambda match: match[0] if match[0].startswith("<!-- file: ") else "", text)
    return [(match["language"].split(" ")[0], match["file"], match["code"]) for match in BLOCK.finditer(kept)]


def examples(text):
    """The page with empty lines in place of all that is not in a block of Python, so that lines keep their numbers."""
    lines, language = [], None
    for line in COMMENT.sub(lambda match: "\n" * match[0].count("\n"), text).splitlines():
        fence = line.startswith("```")
        if fence:
            language = line[3:] if language is None else None
        lines.append(line if language == "python" and not fence else "")
    return "\n".join(lines) + "\n"


def pages_with(language):
    return [name for name, text in PAGES.items() if any(block[0] == language for block in blocks(text))]


def test_pages_are_found():
    assert {"index.md", "tutorial.md", "reference/index.md", "how-to/cimport.md"} <= set(PAGES)
    assert len(pages_with("python")) >= 7


def test_comments_hide_blocks_and_files_are_named():
    text = "<!-- a\n```python\n>>> 1\n```\n-->\n<!-- file: a.py -->\n```python\nx\n```\n```sh\nls\n```\n"
    assert blocks(text) == [("python", "a.py", "x\n"), ("sh", None, "ls\n")]
    assert examples("<!-- a\n```python\n>>> 1\n```\n-->\nb\n```python\n>>> 2\n2\n```\n") == "\n" * 7 + ">>> 2\n2\n\n"


@pytest.mark.parametrize("name", PAGES)
def test_blocks_say_what_they_are(name):
    """So that none is missed: each block has a language, and what is Python is an example or a file."""
    text = PAGES[name]
    visible = COMMENT.sub("", text)
    assert len(re.findall(r"^ *```", visible, re.MULTILINE)) == 2 * len(blocks(text)), "a block that is not understood"
    for language, file, code in blocks(text):
        if language == "python":
            assert file or code.startswith(">>> "), code
        elif language == "cython":
            assert file, code
        else:
            assert language in OTHER | {"sh"}, language


@pytest.mark.parametrize("name", PAGES)
def test_code_fits_the_page(name):
    """A reader need not scroll: 92 characters; what code prints is as wide as it is."""
    for language, file, code in blocks(PAGES[name]):
        if language in ("python", "cython", "sh"):
            lines = code.splitlines() if file or language == "sh" else re.findall(r"^(?:>>>|\.\.\.).*$", code, re.MULTILINE)
            assert [line for line in lines if len(line) > 92] == []


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if ">>> " in examples(text)])
def test_examples(name, tmp_path, monkeypatch):
    text = PAGES[name]
    needed = re.findall(r"[\w.]+", "".join(re.findall(r"\A<!-- needs: (.*) -->$", text, re.MULTILINE)))
    for module in needed:
        pytest.importorskip(module, reason=f"the page's examples need {module}")
    if TRAINERS & set(needed):
        warnings.simplefilter("ignore")  # until this test ends
    files = {file: code for _, file, code in blocks(text) if file}
    for file, code in files.items():
        (tmp_path / file).write_text(code, encoding="utf-8")
    if "setup.py" in files:
        build(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    loaded = set(sys.modules)
    example = doctest.DocTestParser().get_doctest(examples(text), {"__name__": "__main__"}, name, str(DOCS / name), 0)
    output = io.StringIO()
    results = doctest.DocTestRunner(verbose=False).run(example, out=output.write)
    for module in set(sys.modules) - loaded:
        if str(tmp_path) in (getattr(sys.modules[module], "__file__", None) or ""):
            del sys.modules[module]
    assert results.attempted >= sum(code.startswith(">>> ") for language, _, code in blocks(text) if language == "python")
    assert results.failed == 0, output.getvalue()


def build(folder):
    """Builds the extension of the page's files, unoptimised."""
    path = os.pathsep.join(filter(None, [str(Path(sf.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder, env=os.environ | {"PYTHONPATH": path, "CFLAGS": "-O0"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", pages_with("sh"))
def test_commands_exist(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    seen = 0
    for language, _, code in blocks(PAGES[name]):
        if language != "sh":
            continue
        for line in code.splitlines():
            for command in line.split("&&"):
                check_command(shlex.split(command, comments=True), project, DOCS / name)
                seen += 1
    assert seen > 0


def check_command(words, project, page):
    match words:
        case ["mpiexec", "-n", _, *command]:
            check_command(command, project, page)
        case ["pip", "install", target]:
            extras = re.fullmatch(r"(?:\.|svdfast)(?:\[([\w,]+)\])?", target)[1]
            assert set((extras or "").split(",")) - {""} <= project["optional-dependencies"].keys(), target
        case ["svdfast", *arguments]:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
                cli._parser().parse_args(arguments)  # raises for what it does not know
        case ["python", file, *arguments] if not file.startswith("-"):
            own = any(block[1] == file for block in blocks(PAGES[page.relative_to(DOCS).as_posix()]))
            if own or file == "setup.py":
                assert own, "the page has no such file"
                return
            text = (ROOT / file).read_text(encoding="utf-8")
            for argument in arguments:
                if argument.startswith("--"):
                    assert f'"{argument}"' in text, argument
        case ["python", "-m", "sphinx", *_] | ["pytest"] | ["cd", _]:
            pass
        case _:
            pytest.fail(f"not a command that this test knows: {words}")


def test_usage_is_the_commands(monkeypatch):
    """Blocks of command-line.md begin with the command whose output follows; line breaks may differ between versions of Python."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    shown = {}
    for language, _, code in blocks(PAGES["command-line.md"]):
        if language == "text":
            command, _, output = code.partition("\n")
            shown[command] = output.split()
    subcommands = re.findall(r"\n    ([a-z]+)\b", cli._parser().format_help())
    assert len(subcommands) >= 3
    assert set(shown) == {"$ svdfast --help", *(f"$ svdfast {name} --help" for name in subcommands)}
    for command, output in shown.items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
            cli._parser().parse_args(command.split()[2:])
        assert output == printed.getvalue().split(), f"COLUMNS=80 {command[2:]} prints something else by now"


def test_reference_has_all_public_names():
    text = COMMENT.sub("", PAGES["reference/index.md"])
    names = set(re.findall(r"^   ([\w.]+)$", text, re.MULTILINE))
    missing = []
    for name in sf.__all__:
        value = getattr(sf, name)
        if not isinstance(value, types.ModuleType):
            missing += [name] * (name not in names)
        elif f"svdfast.{name}" not in text:
            missing.append(name)
        else:
            missing += [
                f"{name}.{inner}"
                for inner in value.__all__
                if (inspect.isfunction(getattr(value, inner)) or inspect.isclass(getattr(value, inner)))
                and f"{name}.{inner}" not in names
            ]
    assert missing == []


# ---- pages for those who change the library

INNER = [name for name in PAGES if name == "architecture.md" or name.startswith("contributing/")]
PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|pyx|pxd|pyi|h|c|md|toml)")


def picture(text):
    """The paths of the tree at the top of architecture.md; folders end with a slash."""
    tree, folders = next(code for language, _, code in blocks(text) if language == "text"), {}
    for line in tree.splitlines():
        names = re.match(r" *(\S+(?: \S+)*)", line)[1].split()
        depth = len(line) - len(line.lstrip())
        folder = folders.get(depth - 2, "")
        folders[depth] = folder + names[0]
        yield from (folder + name for name in names)


def exists(path, new=()):
    """In the repository, from its root; a bare file name, anywhere."""
    if path in new or (ROOT / path).exists():
        return True
    return "/" not in path and any(any((ROOT / top).rglob(path)) for top in ("src", "svdfast", "tests", "docs"))


@pytest.mark.skipif(not (ROOT / "src").is_dir(), reason="the sources are not beside the tests")
def test_the_picture_is_of_the_repository():
    paths = set(picture(PAGES["architecture.md"]))
    assert [path for path in paths if not (ROOT / path).exists()] == []
    roots = {"src/", "svdfast/"}
    sources = [
        path.relative_to(ROOT).as_posix()
        for root in roots
        for path in (ROOT / root).rglob("*")
        if path.suffix in {".py", ".pyx", ".pxd", ".pyi", ".h"} and "__pycache__" not in path.parts
    ]
    assert len(sources) > 100
    # A file stands there by its name or by its folder's; svdfast/model/ and svdfast/training/ have each file.
    whole = paths - roots - {"svdfast/model/", "svdfast/training/"}
    missing = [
        path for path in sources
        if path not in whole and not any(f"{folder}/" in whole for folder in map(str, Path(path).parents))
        and not path.endswith("/__init__.py")
    ]  # fmt: skip
    assert missing == []


@pytest.mark.skipif(not (ROOT / "src").is_dir(), reason="the sources are not beside the tests")
@pytest.mark.parametrize("name", INNER)
def test_paths_exist(name):
    text = PAGES[name]
    new = {file for _, file, _ in blocks(text) if file}
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", COMMENT.sub("", text), flags=re.DOTALL))
    paths = [span for span in spans if PATH.fullmatch(span)]
    assert [path for path in paths if not exists(path, new)] == []


@pytest.mark.parametrize("name", INNER)
def test_sentences_are_plain(name):
    """Subject, verb, object; at most thirty words."""
    text = re.sub(r"^(?:```.*?^```|\|.*?)$", "", COMMENT.sub("", PAGES[name]), flags=re.DOTALL | re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n|\n- |\n\d\. |\n#+ .*", text):
        for sentence in re.split(r"(?<=[.:?!])\*{0,2}\s+", " ".join(paragraph.split())):
            assert not re.match(r"\W*(?:Of|What|Whoever|Whether|Not)\b", sentence), sentence
            assert len(sentence.split()) <= 30, sentence


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    """Those between files; what is elsewhere is not asked for."""
    text = COMMENT.sub("", PAGES[name])
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?:|#", target):
            assert (DOCS / name).parent.joinpath(target.split("#")[0]).exists(), target
