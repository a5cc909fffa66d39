# SPDX-License-Identifier: BSD-3-Clause
"""The built site: links lead somewhere, pages have titles, pictures and the search work, in a browser too.

The environment variable SVDFAST_SITE names the folder of a built site. Without it, Sphinx builds one if it is installed. The tests
in a browser need Playwright and Chromium; they read the site over the loopback interface, from a server of their own.
Elsewhere: what the pages say (test_docs.py, test_language.py).
"""

import contextlib
import functools
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import deque
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import svdfast

ROOT = Path(__file__).resolve().parents[1]
BUILDERS = ("sphinx", "furo", "myst_parser", "numpydoc", "sphinx_copybutton", "sphinx_design")
WIDEST_CODE = 92
# The search box leads here; a script writes the heading.
SEARCH = {"search.html"}
WIDTHS = {"desktop": (1280, 800), "phone": (390, 844)}
LOOKED_AT = {
    "home": "index.html",
    "how-to": "how-to/pytorch.html",
    "API": "reference/generated/svdfast.Network.html",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a built site."""
    if "SVDFAST_SITE" in os.environ:
        folder = Path(os.environ["SVDFAST_SITE"]).resolve()
        assert (folder / "index.html").is_file(), f"SVDFAST_SITE: {folder} has no index.html"
        return folder
    if not (ROOT / "docs" / "conf.py").is_file():
        pytest.skip("the pages are not beside the tests")
    missing = [name for name in BUILDERS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; and SVDFAST_SITE names no built site")
    # A copy, as autosummary writes into the folder of the sources.
    folder = tmp_path_factory.mktemp("site").resolve()
    for name in ("docs", "bench", "svdfast"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "_build", "generated"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    path = os.pathsep.join(filter(None, [str(Path(svdfast.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", "built"],
        cwd=folder, env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "built"


# ---- without a browser


class Page(HTMLParser):
    """The facts about one page that the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.title, self.n_headings, self.fits_phones = "", 0, False
        self.anchors, self.links, self.files, self.pictures, self.code = set(), [], [], [], []
        self._open, self._language = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        match tag:
            case "a" if given.get("href"):
                self.links.append(given["href"])
            case "link" if given.get("href"):
                self.files.append(given["href"])
            case "script" if given.get("src"):
                self.files.append(given["src"])
            case "img":
                self.pictures.append((given.get("src", ""), given.get("alt") or ""))
            case "meta" if given.get("name") == "viewport":
                self.fits_phones |= "width=device-width" in given.get("content", "")
            case "h1":
                self.n_headings += 1
            case "div" if "highlight-" in (given.get("class") or ""):
                self._language = given["class"].split()[0].removeprefix("highlight-")
            case "pre":
                self.code.append((self._language, ""))
        # Icons of the theme have titles, too.
        if tag in ("title", "svg", "pre"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            self._open.remove(tag)

    def handle_data(self, data):
        if self._open == ["title"]:
            self.title += data
        elif "pre" in self._open:
            language, text = self.code[-1]
            self.code[-1] = language, text + data


@pytest.fixture(scope="module")
def pages(site):
    """The pages of the site, by their paths in it."""
    return {
        path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.relative_to(site).parts
    }


def target(page, link):
    """The path in the site and the anchor that a link of a page leads to, or None for one to elsewhere."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = os.path.normpath(os.path.join(os.path.dirname(page), unquote(parts.path))) if parts.path else page
    return Path(path).as_posix(), unquote(parts.fragment)


def test_a_page_is_read():
    page = Page(
        '<title>A</title><meta name="viewport" content="width=device-width"><svg><title>B</title></svg><h1 id="a">C</h1>'
        '<a href="x.html#b">D</a><img src="e.png"><div class="highlight-sh notranslate"><pre>ls <span>&lt;a\nb</span></pre></div>'
    )
    assert (page.title, page.n_headings, page.fits_phones, page.anchors) == ("A", 1, True, {"a", "viewport"})
    assert (page.links, page.pictures, page.code) == (["x.html#b"], [("e.png", "")], [("sh", "ls <a\nb")])
    assert target("a/b.html", "../c.html#d%20e") == ("c.html", "d e") and target("a/b.html", "#d") == ("a/b.html", "d")
    assert target("a/b.html", "https://c.org") is None and target("b.html", "../c.html")[0] == "../c.html"


def test_pages_have_a_title_and_one_heading(pages):
    assert len(pages) > 50 and {"index.html", *LOOKED_AT.values()} <= pages.keys()
    assert [name for name, page in pages.items() if "svdfast" not in page.title] == []
    assert [name for name, page in pages.items() if page.n_headings != 1 and name not in SEARCH] == []
    titles = [page.title for page in pages.values()]
    assert sorted(title for title in set(titles) if titles.count(title) > 1) == []


def test_pages_fit_phones(pages):
    assert [name for name, page in pages.items() if not page.fits_phones] == []


def test_links_and_anchors_lead_somewhere(site, pages):
    wrong = []
    for name, page in pages.items():
        for link in [*page.links, *page.files]:
            found = target(name, link)
            if found is None:
                continue
            path, anchor = found
            if path.startswith("..") or not (site / path).is_file():
                wrong.append((name, link))
            elif anchor and path in pages and anchor not in pages[path].anchors:
                wrong.append((name, link))
    assert wrong == []


def test_pictures_exist_and_say_what_they_show(site, pages):
    found = [(name, *picture) for name, page in pages.items() for picture in page.pictures]
    assert any(len(says.split()) > 2 for _, _, says in found)
    assert [one for one in found if not one[2].strip()] == []
    assert [one for one in found if not (site / target(one[0], one[1])[0]).is_file()] == []


def test_every_page_is_reached_from_the_home_page(pages):
    reached, waiting = {"index.html"}, deque(["index.html"])
    while waiting:
        name = waiting.popleft()
        for link in pages[name].links:
            path = (target(name, link) or ("",))[0]
            if path in pages and path not in reached:
                reached.add(path)
                waiting.append(path)
    assert pages.keys() - reached - SEARCH == set()


def test_code_fits_the_page(pages):
    """Code that a reader would write: no printed text, and no lines of the library as a patch shows them."""
    wide = []
    for name, page in pages.items():
        for language, text in page.code:
            lines = text.splitlines() if language not in ("text", "diff") else []
            if any(line.startswith(">>> ") for line in lines):  # the others are outputs
                lines = [line for line in lines if line.startswith((">>>", "..."))]
            wide += [(name, line) for line in lines if len(line) > WIDEST_CODE]
    assert any(page.code for page in pages.values()) and wide == []


def test_the_search_knows_words_and_names(site):
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").rstrip().removesuffix(")"))
    # The index has stems.
    assert {"truncat", "recompos", "checkpoint", "pytorch", "bfloat16"} <= index["terms"].keys()
    assert {"Glossary", "Tutorial", "Architecture"} <= index["alltitles"].keys()
    names = {entry[4] for entries in index["objects"].values() for entry in entries}
    assert {"Network", "train"} <= names
    assert "index" in index["docnames"]


# ---- in a browser


@pytest.fixture(scope="module")
def address(site):
    """Where a server of this process shows the site."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def chromium():
    """A Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as running:
        if path is None and not Path(running.chromium.executable_path).is_file():
            pytest.skip("Chromium is not installed")
        # Chromium has no sandbox for root, as in a container.
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def window(chromium, address):
    """Opens windows of a width and a colour scheme; an error in one fails the test."""
    errors = []

    @contextlib.contextmanager
    def opened(width, scheme="light", scripts=True):
        across, down = WIDTHS[width]
        size = {"width": across, "height": down}
        context = chromium.new_context(viewport=size, color_scheme=scheme, java_script_enabled=scripts)
        try:
            page = context.new_page()
            page.set_default_timeout(20_000)
            page.on("console", lambda said: errors.append(f"{said.text} {said.location}") if said.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: errors.append(str(error)))
            # The site needs nothing from elsewhere.
            page.on("request", lambda request: None if request.url.startswith((address, "data:")) else errors.append(request.url))
            page.on("response", lambda response: errors.append(response.url) if response.status >= 400 else None)
            yield page
        finally:
            context.close()

    yield opened
    assert errors == []


def check_width(page):
    """Nothing is wider than the window."""
    wider = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wider <= 0, f"{page.url} is {wider} pixels wider than its window"


# The colours of the text and of what is behind it, as lightness from 0 to 255.
LIGHTNESS = """() => [["color", ".content p"], ["backgroundColor", "body"]].map(([name, where]) => {
    const numbers = getComputedStyle(document.querySelector(where))[name].match(/[\\d.]+/g).map(Number);
    return 0.2126 * numbers[0] + 0.7152 * numbers[1] + 0.0722 * numbers[2];
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_page_is_shown(name, width, scheme, window, address):
    with window(width, scheme) as page:
        page.goto(address + LOOKED_AT[name])
        assert "svdfast" in page.title() and page.locator("h1").is_visible()
        assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        text, behind = page.evaluate(LIGHTNESS)
        assert (behind - text if scheme == "light" else text - behind) > 120
        check_width(page)


def test_no_page_is_wider_than_a_phone(window, address, pages):
    """Those that someone wrote; those that are made of docstrings are alike."""
    with window("phone", scripts=False) as page:
        for name in pages:
            if "generated" not in name:
                page.goto(address + name, wait_until="domcontentloaded")
                check_width(page)


def test_the_search_finds_pages(window, address):
    with window("desktop") as page:
        page.goto(address)
        page.locator("input.sidebar-search").fill("recompose")
        page.keyboard.press("Enter")
        found = page.locator("#search-results ul.search li a")
        found.nth(2).wait_for()  # they are added one by one
        found.first.click()
        page.wait_for_url(lambda url: "search.html" not in url)
        assert "recompose" in page.locator("article").inner_text().lower()


def test_a_reader_gets_about(window, address):
    with window("desktop") as page:
        page.goto(address)
        page.locator(".sidebar-tree").get_by_role("link", name="Tutorial", exact=True).click()
        assert page.locator("h1").inner_text().startswith("Tutorial")
        page.locator("a.next-page").click()
        page.wait_for_url(lambda url: "tutorial" not in url)
        assert page.locator("h1").is_visible()


def test_a_reader_gets_about_on_a_phone(window, address):
    with window("phone") as page:
        page.goto(address)
        link = page.locator(".sidebar-tree").get_by_role("link", name="Glossary", exact=True)
        assert not link.is_visible() or link.bounding_box()["x"] < 0
        page.locator("label.nav-overlay-icon").first.click()
        link.click()
        assert page.locator("h1").inner_text().startswith("Glossary")
        check_width(page)


def test_tabs_show_their_commands(window, address):
    with window("desktop") as page:
        page.goto(address)
        command = page.get_by_text('pip install ".[torch]"')
        assert not command.is_visible()
        page.locator("label.sd-tab-label", has_text="PyTorch").click()
        assert command.is_visible()
