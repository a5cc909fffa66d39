# SPDX-License-Identifier: BSD-3-Clause
"""`svdfast train --report` and `--plot`: the parts of the page, hostile names in it, and files that can't be written."""

import base64
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import svdfast as sf
from svdfast._process import files
from svdfast.cli.main import main

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")

QUICK = ["--epochs", "3", "--threads", "1"]
TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "section", "p", "ul", "li", "pre", "div", "table", "thead", "tbody",
    "tr", "th", "td", "figure", "img", "figcaption", "details", "summary",
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("folder")


class Page(HTMLParser):
    """The texts of a page by its sections, the rows of its tables, and its images."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.sections, self.images, self.alt = set(), [], {}, [], []
        self.heading = ""
        self.feed(text)
        assert self.open == [], "each element is closed"

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        given = dict(attributes)
        assert not any(name.startswith("on") for name in given) and set(given) <= {
            "lang", "charset", "name", "content", "http-equiv", "class", "alt", "src",
        }  # fmt: skip
        if tag == "img":
            kind, data = given["src"].split(",", 1)
            assert kind == "data:image/svg+xml;base64"
            self.images.append(base64.b64decode(data, validate=True).decode())
            self.alt.append(given["alt"])
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.heading = data
            self.sections[data] = ""
        elif self.heading:
            self.sections[self.heading] += data


def run(capsys, *argv):
    status = main(["train", *map(str, argv)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def page_of(capsys, *argv):
    status, out, err = run(capsys, *argv, *QUICK, "--report", "r.html")
    assert status == 0 or "worse on the test samples than a constant answer" in err, err
    assert "The report is in r.html.\n" in out
    text = Path("r.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags <= TAGS
    for image in page.images:
        assert ElementTree.fromstring(image).tag.endswith("}svg")
    assert not [name for name in os.listdir() if name.endswith(".part")]
    return page, text


def samples(n=60, n_features=6):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, n_features)), rng


def letters(image):
    """All texts of an image."""
    return [part.text for part in ElementTree.fromstring(image).iter() if part.tag.endswith("}text") and part.text]


def test_the_page_of_two_trainings(capsys):
    X, _ = samples(200, 120)
    np.savez("t.npz", X=X, y=(X[:, 0] > 0).astype(int))
    method = ["--rank-fraction", "1/4", "--pretrain-fraction", "0.5", "--force"]
    page, text = page_of(capsys, "t.npz", "--compare", *method, "--hidden", "120,120", "--seed", "7")
    titles = ["Data", "Network", "Scores", "Saved", "Decisions", "Phases", "Curves", "Spectra", "Predictions of the test samples",
              "Epochs", "Environment"]  # fmt: skip
    assert list(page.sections)[1:] == titles
    assert "160 training and 40 test samples" in page.sections["Data"]
    assert "network 120-120-120-1" in page.sections["Network"] and "rank 30" in page.sections["Network"]
    assert "dense : SVD" in page.sections["Scores"] and "test accuracy" in page.sections["Scores"]
    assert "Counted: a dense step takes" in page.sections["Saved"] and "times fewer multiplications" in page.sections["Saved"]
    assert "weights truncated to ranks 30, 30" in page.sections["Decisions"]
    assert "factored" in page.sections["Phases"] and "switch, after step" in page.sections["Phases"]
    assert "val_accuracy" in page.sections["Epochs"]
    environment = page.sections["Environment"]
    assert "numpy " in environment and "seed7" in environment.replace("\n", "") and "processor" in environment
    curves, both, spectra, confusion = page.images
    assert "gap at the SVD" in letters(curves) and "accuracy" in letters(curves)
    assert {"dense", "SVD", "switch to factors"} <= set(letters(both))
    assert sum("120 → 120" in text for text in letters(spectra)) == 2 and "rank" in letters(spectra)
    assert {"0", "1", "true class"} <= set(letters(confusion))
    assert 'name="viewport"' in text and "max-width: 100%" in text and "default-src 'none'" in text


def write_table(path, X, **targets):
    """A table of numbers and targets."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    pandas.DataFrame({f"x{i}": column for i, column in enumerate(X.T)} | targets).to_csv(path, index=False)


def test_a_regression_has_residuals_in_the_units_of_the_file(capsys):
    X, _ = samples()
    write_table("t.csv", X, price=1e4 * X[:, 0] + 1e6, rent=1e4 * X[:, 1])
    page, _ = page_of(capsys, "t.csv", "--target", "price", "rent", "--task", "regression")
    titles = [text for text in letters(page.images[-1]) if "root mean square" in text]
    assert [title.split(",")[0] for title in titles] == ["price", "rent"]
    assert all(1e2 < float(title.split()[-1]) < 1e6 for title in titles)
    assert "R²" in page.sections["Scores"]


def test_several_targets_of_two_values(capsys):
    X, _ = samples()
    write_table("t.csv", X, ripe=np.where(X[:, 0] > 0, "yes", "no"), red=np.where(X[:, 1] > 0, "yes", "no"))
    page, _ = page_of(capsys, "t.csv", "--target", "ripe", "red")
    assert page.alt[-2:] == ["True and predicted classes of ripe", "True and predicted classes of red"]
    assert {"yes", "no"} <= set(letters(page.images[-1]))


def test_classes_of_arrays_have_their_numbers(capsys):
    X, _ = samples()
    np.savez("t.npz", X=X, y=np.arange(60) % 3 * 5 - 5)
    page, _ = page_of(capsys, "t.npz")
    assert {"-5", "0", "5"} <= set(letters(page.images[-1])) and "3" not in letters(page.images[-1])


def test_text_has_a_confusion_matrix_of_its_characters(capsys):
    Path("t.txt").write_text("to be or not to be\n" * 60)
    page, _ = page_of(capsys, "text", "t.txt", "--steps", "10", "--width", "8", "--sample", "0", "--no-compare")
    assert {"b", "' '", "'\\n'"} <= set(letters(page.images[-1]))
    assert "Spectra" in page.sections and sum("layers[" in text for text in letters(page.images[-2])) == 4


HOSTILE = ["<script>alert(1)</script>", "$\\frac{", "a&b", "中文 _x", "x" * 2000, "]]>\"'"]


def test_hostile_names_of_files_columns_and_classes(capsys):
    """They are shown as text, and no warning of a font is printed."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, rng = samples(120)
    frame = pandas.DataFrame(X, columns=[f"<img src=x onerror=alert({i})>" for i in range(X.shape[1])])
    frame["<b>job"] = rng.choice(["<iframe>", "</table>", "&lt;"], len(X))
    frame["y"] = [HOSTILE[i % len(HOSTILE)] for i in range(len(X))]
    name = "<script src=evil.js>.csv" if os.name == "posix" else "evil.csv"
    frame.to_csv(name, index=False)
    page, text = page_of(capsys, name)
    assert capsys.readouterr().err == ""
    assert page.sections["Data"].count("<img src=x onerror=alert(") == X.shape[1] and "<iframe>" in page.sections["Data"]
    assert not re.search(r"<(?:script|iframe|img src=x|b>)", text)
    shown = letters(page.images[-1])
    assert {"<script>alert(1)</script>", "$\\frac{", "a&b", "中文 _x", "]]>\"'"} <= set(shown)
    assert f"{'x' * 27}…" in shown


@pytest.mark.skipif(os.name != "posix", reason="such names are POSIX's")
def test_a_name_that_is_no_unicode(capsys):
    name = os.fsdecode(b"\xff<i>.npz")
    X, _ = samples()
    try:
        np.savez(name, X=X, y=np.arange(60) % 2)
    except OSError:
        pytest.skip("the file system takes no such names")
    page, _ = page_of(capsys, name)
    assert "\\udcff<i>.npz" in page.sections["Data"]


def test_nothing_is_fetched_and_nothing_of_matplotlib_changes(capsys):
    before = {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
    page, text = page_of(capsys, "xor")
    assert {name: matplotlib.rcParams[name] for name in before} == before
    assert "http" not in text.replace("http-equiv", "")
    for image in page.images:
        assert not re.search(r"(?:href|src)=\"(?!#|data:)", image) and "@import" not in image


def test_training_validation_and_early_stopping(capsys):
    X, _ = samples(200)
    np.savez("t.npz", X=X, y=(X[:, 0] > 0).astype(int))
    page, _ = page_of(capsys, "t.npz", "--validation", "0.2", "--early-stopping")
    assert "Curves" in page.sections


@pytest.mark.parametrize("name, start", [("p.png", b"\x89PNG"), ("p.svg", b"<?xml")])
def test_a_figure(name, start, capsys):
    status, out, _ = run(capsys, "xor", *QUICK, "--plot", name)
    assert status in (0, 1) and f"The losses are drawn in {name}.\n" in out
    assert Path(name).read_bytes().startswith(start)
    assert os.listdir() == [name]


@pytest.mark.parametrize(
    "argv, status, message",
    [
        (["--plot", "p.bmp"], 2, "--plot: expected a name that ends in .png or .svg, got 'p.bmp'"),
        (["--report", "r.htm"], 2, "--report: expected a name that ends in .html, got 'r.htm'"),
        (["--report", "none/r.html"], 1, "--report: none: "),
        (["--plot", "none/p.png"], 1, "--plot: none: "),
    ],
)
def test_files_that_cannot_be_written_are_refused_at_once(argv, status, message, capsys):
    got, out, err = run(capsys, "xor", *argv)
    assert (got, out) == (status, "") and err.startswith(f"svdfast: error: {message}")


@pytest.mark.parametrize("argv", [["--report", "r.html"], ["--plot", "p.png"]])
def test_without_matplotlib(argv, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    got, out, err = run(capsys, "xor", *argv)
    assert (got, out, err) == (1, "", 'svdfast: error: figures need matplotlib: pip install "svdfast[plot]"\n')


def test_a_page_needs_no_pandas(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    page_of(capsys, "xor")


def test_a_full_disk_leaves_the_old_page_and_the_network(capsys, monkeypatch):
    """The network is saved before anything is drawn."""
    Path("r.html").write_text("old")

    def full(file):
        raise OSError(28, "No space left on device")

    def replace(source, target, replace=os.replace):
        full(source) if str(target).endswith(".html") else replace(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    status, _, err = run(capsys, "xor", *QUICK, "--report", "r.html", "--save", "net.npz")
    assert (status, err) == (1, "svdfast: error: --report: r.html: No space left on device\n")
    assert Path("r.html").read_text() == "old" and sorted(os.listdir()) == ["net.npz", "r.html"]
    sf.load("net.npz")
