# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the data sets: finding, checking, downloading and parsing their files.

No test needs the network: downloads come from a server on this machine, with tiny files and
addresses put in place of the published ones. The published files are read only where
SVDFAST_DATA names a folder that has them.
"""

import gzip
import hashlib
import http.server
import io
import logging
import os
import socket
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import svdfast as sf
from svdfast import datasets

DATA = os.environ.get("SVDFAST_DATA", "")
IDX_FILES = [
    f"{prefix}-{kind}-ubyte.gz"
    for prefix in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


def published(folder, *files):
    missing = [file for file in files if not (Path(DATA) / folder / file).is_file()]
    return pytest.mark.skipif(
        not DATA or bool(missing),
        reason=f"SVDFAST_DATA does not name a folder with {folder}/{' and '.join(files)}",
    )


def to_idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


# ---------------------------------------------------------------------------------- small sets


def test_xor():
    xor = sf.datasets.load("xor")
    X, y = xor.train
    assert (X.dtype, y.dtype, xor.n_classes, xor.name) == (np.float32, np.int64, 2, "xor")
    np.testing.assert_array_equal(X, [[0, 0], [0, 1], [1, 0], [1, 1]])
    np.testing.assert_array_equal(y, X[:, 0] != X[:, 1])
    for ours, theirs in zip(xor.train, xor.test, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert not np.shares_memory(ours, theirs)


def test_digits():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    digits = sf.datasets.load("digits")
    (X, y), (X_test, y_test) = digits.train, digits.test
    assert (X.shape, X_test.shape, digits.n_classes) == ((1437, 64), (360, 64), 10)
    for part in (X, X_test):
        assert part.dtype == np.float32 and part.flags.c_contiguous
        assert part.min() == 0 and part.max() == 1
    assert y.dtype == y_test.dtype == np.int64
    share = np.bincount(y_test) / (np.bincount(y) + np.bincount(y_test))
    assert (abs(share - 0.2) < 0.01).all()

    # Every sample is there once, and none in both parts.
    pixels, classes = sklearn_datasets.load_digits(return_X_y=True)
    there = np.column_stack([np.vstack([X, X_test]) * 16, np.concatenate([y, y_test])])
    source = np.column_stack([pixels, classes])
    np.testing.assert_array_equal(
        there[np.lexsort(there.T[::-1])], source[np.lexsort(source.T[::-1])]
    )
    # The split is shuffled, and the same with every version of NumPy.
    assert y[:10].tolist() == [6, 3, 8, 1, 8, 1, 5, 9, 7, 5]
    again = sf.datasets.load("digits")
    np.testing.assert_array_equal(again.train[0], X)
    np.testing.assert_array_equal(again.test[1], y_test)


@pytest.mark.parametrize("name", ["iris", "MNIST", "", None, ["xor"]])
def test_unknown_name(name):
    names = "'mnist', 'fashion-mnist', 'cat', 'digits', 'xor'"
    with pytest.raises(ValueError, match=f"name must be one of {names}, got "):
        sf.datasets.load(name)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("cat", "h5py", "h5py"), ("digits", "sklearn.datasets", "scikit-learn")],
)
def test_missing_package_names_the_extra(monkeypatch, name, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'needs {package}: pip install "svdfast\[demo\]"'):
        sf.datasets.load(name)


def test_repr_is_short():
    assert repr(sf.datasets.load("xor")) == (
        "Dataset(name='xor', train=(4, 2), test=(4, 2), dtype=float32, n_classes=2)"
    )


# --------------------------------------------------------------------------------- IDX and gzip


@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=5, min_side=0)))
def test_idx_round_trip(array):
    data = to_idx(array)
    parsed = datasets._parse_idx(data, "a")
    np.testing.assert_array_equal(parsed, array)
    assert parsed.flags.writeable and parsed.flags.c_contiguous
    with pytest.raises(ValueError, match="a: expected"):
        datasets._parse_idx(data + b"\0", "a")
    with pytest.raises(ValueError, match="a: "):
        datasets._parse_idx(data[:-1], "a")


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: b"\0\0\x08" + tail))
def test_idx_of_any_bytes_is_parsed_or_refused(data):
    try:
        parsed = datasets._parse_idx(data, "a")
    except ValueError as error:
        assert str(error).startswith("a: ")
    else:
        assert to_idx(parsed) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (b"\x1f\x8b\x08\0", "expected two zero bytes"),
        (b"\0\0\x0d\x01\0\0\0\0", r"expected the IDX type 8 \(uint8\), got 13"),
        (b"\0\0\x08\0", "0 dimensions"),
        (b"\0\0\x08\x02\0\0\0\x01", "2 dimensions and ends too early"),
        (b"\0\0\x08\xff", "255 dimensions and ends too early"),
        # 2**32 · 2**32 values is 0 modulo 2**64; and a size that no machine could allocate.
        (b"\0\0\x08\x04" + b"\0\1\0\0" * 4, "expected 18446744073709551616 values"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "expected 79228162458924105385300197375 values"),
    ],
)
def test_malformed_idx(data, message):
    with pytest.raises(ValueError, match=message):
        datasets._parse_idx(data, "file")


def test_gunzip():
    content = gzip.compress(b"x" * 1000)
    assert datasets._gunzip(content, 1000, "a") == b"x" * 1000
    with pytest.raises(ValueError, match="expected at most 999 bytes"):
        datasets._gunzip(content, 999, "a")
    with pytest.raises(ValueError, match="ends too early"):
        datasets._gunzip(content[:-1], 1000, "a")
    with pytest.raises(ValueError, match="ends too early"):
        datasets._gunzip(b"", 1000, "a")
    with pytest.raises(ValueError, match="not a gzip file"):
        datasets._gunzip(b"plain text", 1000, "a")
    with pytest.raises(ValueError, match="not a gzip file"):
        datasets._gunzip(content[:-8] + bytes(8), 1000, "a")  # its own CRC-32 is wrong
    with pytest.raises(ValueError, match="nothing after the gzip data, got 3 bytes"):
        datasets._gunzip(content + b"abc", 1000, "a")


# -------------------------------------------------------------------------- finding, downloading


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Tiny files in place of MNIST's, with no address yet; and a cache of the test's own."""
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 256, (6, 28, 28), np.uint8),
        np.array([0, 1, 9, 3, 4, 5], np.uint8),
        rng.integers(0, 256, (2, 28, 28), np.uint8),
        np.array([7, 8], np.uint8),
    ]
    contents = {
        file: gzip.compress(to_idx(array)) for file, array in zip(IDX_FILES, arrays, strict=True)
    }
    table = {
        file: datasets._File(len(content), hashlib.sha256(content).hexdigest())
        for file, content in contents.items()
    }
    monkeypatch.setitem(datasets._FOLDERS, "mnist", datasets._Folder(None, table))
    monkeypatch.delenv("SVDFAST_DATA", raising=False)
    cache = tmp_path / "cache"
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", str(cache))
    return arrays, contents, cache / "svdfast" / "mnist"


def put(folder, contents):
    folder.mkdir(parents=True)
    for file, content in contents.items():
        (folder / file).write_bytes(content)


def check_tiny(arrays):
    mnist = sf.datasets.load("mnist")
    for (X, y), images, labels in (
        (mnist.train, arrays[0], arrays[1]),
        (mnist.test, arrays[2], arrays[3]),
    ):
        assert (X.dtype, y.dtype) == (np.uint8, np.int64)
        assert X.flags.c_contiguous and X.flags.writeable
        np.testing.assert_array_equal(X, images.reshape(-1, 784))
        np.testing.assert_array_equal(y, labels)


def files_under(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_found_in_cache(tiny):
    arrays, contents, cache = tiny
    put(cache, contents)
    check_tiny(arrays)


def test_found_in_own_folder(tiny, tmp_path, monkeypatch):
    arrays, contents, cache = tiny
    put(cache, {file: b"not looked at" for file in contents})
    put(tmp_path / "own" / "mnist", contents)
    monkeypatch.setenv("SVDFAST_DATA", str(tmp_path / "own"))
    check_tiny(arrays)


def test_own_folder_may_hold_some_of_the_files(tiny, tmp_path, monkeypatch):
    arrays, contents, cache = tiny
    put(cache, dict(list(contents.items())[:2]))
    put(tmp_path / "own" / "mnist", dict(list(contents.items())[2:]))
    monkeypatch.setenv("SVDFAST_DATA", str(tmp_path / "own"))
    check_tiny(arrays)


@pytest.mark.parametrize("place", ["own", "cache"])
def test_a_file_that_is_not_the_published_one(tiny, tmp_path, monkeypatch, place):
    _, contents, cache = tiny
    folder = cache if place == "cache" else tmp_path / "own" / "mnist"
    if place == "own":
        monkeypatch.setenv("SVDFAST_DATA", str(tmp_path / "own"))
    put(folder, contents)
    path = folder / IDX_FILES[0]
    good = contents[IDX_FILES[0]]
    wrong = good[:-1] + bytes([good[-1] ^ 1])
    path.write_bytes(wrong)
    with pytest.raises(ValueError) as caught:
        sf.datasets.load("mnist")
    message = str(caught.value)
    assert str(path) in message and "replace or delete the file" in message
    assert f"SHA-256 {hashlib.sha256(good).hexdigest()}" in message  # expected
    assert hashlib.sha256(wrong).hexdigest() in message  # got
    path.write_bytes(good[:10])
    with pytest.raises(ValueError, match=f"expected {len(good)} bytes .* got 10 bytes"):
        sf.datasets.load("mnist")
    path.write_bytes(good + b"more")
    with pytest.raises(ValueError, match=f"expected {len(good)} bytes, got more"):
        sf.datasets.load("mnist")


def test_cat_is_not_downloaded(tmp_path, monkeypatch, tiny):
    pytest.importorskip("h5py")
    _, _, cache = tiny
    with pytest.raises(FileNotFoundError) as caught:
        sf.datasets.load("cat")
    message = str(caught.value)
    for part in (
        "train_catvnoncat.h5, test_catvnoncat.h5",
        str(cache.parent / "catvnoncat"),
        "SVDFAST_DATA",
    ):
        assert part in message


def test_text_and_photos(tmp_path, monkeypatch):
    """Labels are those of the folders; the text ends where it should."""
    Image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    photos = io.BytesIO()
    with zipfile.ZipFile(photos, "w") as archive:
        for name in ("train/frog/0.jpg", "test/cat/0.jpg", "train/cat/0.jpg", "test/frog/0.jpg"):
            content = io.BytesIO()
            level = 200 if "frog" in name else 50
            pixels = rng.integers(level, level + 5, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(content, "JPEG")
            archive.writestr(name, content.getvalue())
        archive.writestr("README", b"not a photo")
    contents = {
        "cifar10-part.zip": photos.getvalue(),
        "tinyshakespeare.txt.gz": gzip.compress(b"First Citizen:\n"),
    }
    table = {
        file: datasets._File(len(content), hashlib.sha256(content).hexdigest())
        for file, content in contents.items()
    }
    monkeypatch.setitem(datasets._FOLDERS, "suite", datasets._Folder(None, table))
    put(tmp_path / "suite", contents)
    monkeypatch.setenv("SVDFAST_DATA", str(tmp_path))
    assert datasets.tinyshakespeare() == "First Citizen:\n"
    data = datasets.cifar10_part()
    assert (data.n_classes, data.name) == (2, "cifar10-part")
    for X, y in (data.train, data.test):
        assert (X.shape, X.dtype, y.dtype) == ((2, 3072), np.uint8, np.int64)
        assert y.tolist() == [0, 1] and X[0].max() < 100 < X[1].min()
        assert X.flags.c_contiguous and X.flags.writeable
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'need Pillow: pip install "svdfast\[plot\]"'):
        datasets.cifar10_part()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no XDG_CACHE_HOME")
def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert datasets._cache_folder() == tmp_path / ".cache" / "svdfast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert datasets._cache_folder() == tmp_path / ".cache" / "svdfast"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert datasets._cache_folder() == tmp_path / "elsewhere" / "svdfast"


class Server(http.server.ThreadingHTTPServer):
    """Serves `contents`; announces `announced` bytes of each, where that is given."""

    daemon_threads = False  # so that closing waits for the threads, and leaves no socket open

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents = {}
        self.announced = None
        self.asked = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        file = self.path.rsplit("/", 1)[-1]
        self.server.asked.append(file)
        content = self.server.contents.get(file)
        if content is None:
            self.send_error(404)
            return
        if isinstance(content, str):
            self.send_response(302)
            self.send_header("Location", content)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        if self.server.announced != "nothing":
            self.send_header("Content-Length", str(self.server.announced or len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tiny, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(datasets, "_SCHEME", "http")
    with Server() as server:
        url = f"http://127.0.0.1:{server.server_port}/files/"
        folder = datasets._FOLDERS["mnist"]._replace(url=url)
        monkeypatch.setitem(datasets._FOLDERS, "mnist", folder)
        server.contents = dict(tiny[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_download(tiny, server, caplog, capfd):
    arrays, contents, cache = tiny
    with caplog.at_level(logging.INFO, logger="svdfast"):
        check_tiny(arrays)
    assert server.asked == IDX_FILES
    assert files_under(cache.parent) == sorted(contents)
    for file, content in contents.items():
        assert (cache / file).read_bytes() == content
    assert [record.name for record in caplog.records] == ["svdfast"] * 4
    assert capfd.readouterr() == ("", "")
    check_tiny(arrays)
    assert server.asked == IDX_FILES  # once


def test_download_without_announced_length(tiny, server):
    server.announced = "nothing"
    check_tiny(tiny[0])


def test_download_leaves_the_users_folder_alone(tiny, server, tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("SVDFAST_DATA", str(own))
    check_tiny(tiny[0])
    assert files_under(own) == []


@pytest.mark.parametrize("how", ["changed", "longer"])
def test_download_of_something_else(tiny, server, how):
    _, contents, cache = tiny
    good = contents[IDX_FILES[0]]
    server.contents[IDX_FILES[0]] = bytes(len(good)) if how == "changed" else good * 100
    with pytest.raises(ValueError, match=rf"127.0.0.1.*{IDX_FILES[0]}: expected {len(good)} bytes"):
        sf.datasets.load("mnist")
    assert files_under(cache.parent) == []


@pytest.mark.parametrize("announced", [None, "nothing", "all"])
def test_download_that_breaks_off(tiny, server, announced):
    arrays, contents, cache = tiny
    good = contents[IDX_FILES[0]]
    server.contents[IDX_FILES[0]] = good[: len(good) // 2]
    server.announced = len(good) if announced == "all" else announced
    with pytest.raises(FileNotFoundError, match="could not be downloaded") as caught:
        sf.datasets.load("mnist")
    assert str(cache) in str(caught.value) and "SVDFAST_DATA" in str(caught.value)
    assert files_under(cache.parent) == []
    server.contents, server.announced = dict(contents), None
    check_tiny(arrays)  # and the next attempt starts clean


def test_interrupted_by_the_user(tiny, server, monkeypatch):
    cache = tiny[2]

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sf.datasets.load("mnist")
    assert files_under(cache.parent) == []


def test_not_on_the_server(tiny, server):
    cache = tiny[2]
    server.contents = {}
    with pytest.raises(FileNotFoundError, match=r"404.*SVDFAST_DATA"):
        sf.datasets.load("mnist")
    assert files_under(cache.parent) == []


def test_unreachable(tiny, monkeypatch):
    cache = tiny[2]
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(datasets, "_SCHEME", "http")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: it refuses
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        folder = datasets._FOLDERS["mnist"]._replace(url=url)
        monkeypatch.setitem(datasets._FOLDERS, "mnist", folder)
        with pytest.raises(FileNotFoundError) as caught:
            sf.datasets.load("mnist")
    message = str(caught.value)
    for part in (IDX_FILES[0], url, str(cache), "SVDFAST_DATA"):
        assert part in message


def test_cache_that_cannot_be_written(tiny, server):
    cache = tiny[2]
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_bytes(b"a file where the folder should be")
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded.*SVDFAST_DATA"):
        sf.datasets.load("mnist")


def test_a_redirect(tiny, server):
    """To an address of the same kind it is followed, to any other not."""
    arrays, contents, cache = tiny
    first = IDX_FILES[0]
    server.contents[first] = "/moved"
    server.contents["moved"] = contents[first]
    check_tiny(arrays)
    (cache / first).unlink()
    for where in ("https://127.0.0.1:1/x", "ftp://127.0.0.1/x"):
        server.contents[first] = where
        with pytest.raises(FileNotFoundError, match=f"expected an address of http, got {where}"):
            sf.datasets.load("mnist")
        assert not (cache / first).exists()


def test_plain_http_is_not_asked(tiny, server, monkeypatch):
    monkeypatch.setattr(datasets, "_SCHEME", "https")
    with pytest.raises(FileNotFoundError, match="expected an address of https, got http://127"):
        sf.datasets.load("mnist")
    assert server.asked == []


def test_addresses_are_https():
    assert datasets._SCHEME == "https"
    for folder in datasets._FOLDERS.values():
        assert folder.url is None or (folder.url.startswith("https://") and folder.url[-1] == "/")


# ------------------------------------------------------------------------- the published files


@pytest.mark.parametrize(
    ("name", "means", "counts"),
    [
        pytest.param(
            "mnist",
            (0.1307, 0.3081),
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            marks=published("mnist", *IDX_FILES),
        ),
        pytest.param(
            "fashion-mnist",
            (0.2860, 0.3530),
            [6000] * 10,
            marks=published("fashion-mnist", *IDX_FILES),
        ),
    ],
)
def test_published_idx(name, means, counts):
    data = sf.datasets.load(name)
    (X, y), (X_test, y_test) = data.train, data.test
    assert (X.shape, X_test.shape) == ((60000, 784), (10000, 784))
    assert X.dtype == X_test.dtype == np.uint8 and y.dtype == y_test.dtype == np.int64
    assert data.n_classes == 10
    assert np.bincount(y).tolist() == counts
    assert len(y_test) == 10000 and set(y_test.tolist()) == set(range(10))
    share = np.bincount(X.ravel(), minlength=256) / X.size
    grey = np.arange(256) / 255
    mean = share @ grey
    assert round(mean, 4) == means[0]
    assert round(np.sqrt(share @ (grey - mean) ** 2), 4) == means[1]


@published("catvnoncat", "train_catvnoncat.h5", "test_catvnoncat.h5")
def test_published_cat():
    pytest.importorskip("h5py")
    cat = sf.datasets.load("cat")
    (X, y), (X_test, y_test) = cat.train, cat.test
    assert (X.shape, X_test.shape) == ((209, 12288), (50, 12288))
    assert X.dtype == np.uint8 and y.dtype == np.int64 and cat.n_classes == 2
    assert X.flags.c_contiguous and X.flags.writeable
    assert np.bincount(y).tolist() == [137, 72]
    assert np.bincount(y_test).tolist() == [17, 33]
