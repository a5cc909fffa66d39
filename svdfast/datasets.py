# SPDX-License-Identifier: BSD-3-Clause
"""Load the data sets of the paper's experiments, and some others, as NumPy arrays; text as tokens.

This file finds, fetches and parses; it does not scale, shuffle into batches or augment. Pixels
stay ``uint8``, as training takes them. data/text.py turns text into tokens.

A file is looked for in the folder that the environment variable ``SVDFAST_DATA`` names, then in
the cache (``svdfast`` under ``$XDG_CACHE_HOME`` or ``~/.cache``; under ``%LOCALAPPDATA%`` on
Windows). If it is in neither, it is downloaded into the cache. Its SHA-256 is always checked before
a byte of it is parsed.
"""

import hashlib
import io
import logging
import math
import os
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from svdfast._process.files import written_whole
from svdfast.data.text import check_split, decode, split

__all__ = ["NAMES", "Dataset", "load", "text"]

NAMES = ("mnist", "fashion-mnist", "cat", "digits", "xor")

Inputs: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.float32] | npt.NDArray[np.int32]
Labels: TypeAlias = npt.NDArray[np.int64]
Split: TypeAlias = tuple[Inputs, Labels]

_logger = logging.getLogger("svdfast")

_TIMEOUT = 60.0  # seconds without a byte
_SCHEME = "https"  # of addresses and of their redirects


class _File(NamedTuple):
    size: int
    sha256: str


class _Folder(NamedTuple):
    url: str | None
    files: dict[str, _File]


_IDX = (
    "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz",
)  # fmt: skip
_MNIST = (
    _File(9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    _File(28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    _File(1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    _File(4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
)
_FASHION_MNIST = (
    _File(26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    _File(29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    _File(4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    _File(5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
)
_FOLDERS = {
    "mnist": _Folder(
        "https://ossci-datasets.s3.amazonaws.com/mnist/", dict(zip(_IDX, _MNIST, strict=True))
    ),
    "fashion-mnist": _Folder(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        dict(zip(_IDX, _FASHION_MNIST, strict=True)),
    ),
    # Course material without a stated licence or a publisher's address: not downloaded.
    "catvnoncat": _Folder(
        None,
        {
            "train_catvnoncat.h5": _File(
                2_572_022, "fbe56ab67c3ae28d564e3a644189117976d6b31af0a3ce9bb17dbf22908af242"
            ),
            "test_catvnoncat.h5": _File(
                616_958, "6a9d39ce52fa85953c5834695b8534a30ed8cfd54971fb2f080b5a24d002b951"
            ),
        },
    ),
    # Parts put together for this project; they are not published.
    "suite": _Folder(
        None,
        {
            "cifar10-part.zip": _File(
                25_918_592, "0f49d2f6ec2c3984c15a69a9aede9300ad29e45299cb4de0893a2ca3c4a2f797"
            ),
            "tinyshakespeare.txt.gz": _File(
                433_884, "13125fe8f49092165d7d489e3944db52d1ba546e64a60080cc9523bcd0c5e46a"
            ),
        },
    ),
}

# Decompressed size of the largest IDX file: 60,000 images of 28×28 and a header.
_LARGEST_IDX = 16 + 60_000 * 28 * 28
_SHAKESPEARE = 1_115_394  # characters


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Training and test samples of one data set.

    Attributes
    ----------
    name : str
        One of `NAMES`, or a file's name.
    train, test : tuple of ndarray
        (X, y): X of shape (n_samples, n_features), ``uint8`` or ``float32``; y of shape
        (n_samples,), ``int64``, the class from 0 to n_classes − 1. C-contiguous and writeable.
        For text, both are (n_windows, steps), ``int32``: the tokens, and the token after each.
    n_classes : int
        Number of classes.
    classes : tuple of str, optional
        Labels of the classes 0, 1, ...: the characters of a text.
    """

    name: str
    train: Split
    test: Split
    n_classes: int
    classes: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        X, X_test = self.train[0], self.test[0]
        return (
            f"Dataset(name={self.name!r}, train={X.shape}, test={X_test.shape}, "
            f"dtype={X.dtype}, n_classes={self.n_classes})"
        )


def load(name: str) -> Dataset:
    """Load a data set by name.

    ===============  =============  ===============================  =========  ===============
    name             train / test   X                                n_classes  the paper
    ===============  =============  ===============================  =========  ===============
    "mnist"          60000 / 10000  (n, 784) uint8                   10         section 4.3
    "fashion-mnist"  60000 / 10000  (n, 784) uint8                   10
    "cat"            209 / 50       (n, 12288) uint8, 64×64 RGB      2          section 4.2
    "digits"         1437 / 360     (n, 64) float32, 8×8, in [0, 1]  10
    "xor"            4 / the same   (4, 2) float32                   2          section 4.1
    ===============  =============  ===============================  =========  ===============

    "mnist" and "fashion-mnist" are downloaded once (12 and 31 MB) if they are not found. The two
    files of "cat" have no publisher to download from: put them where the error says. "cat" needs
    h5py and "digits" scikit-learn, both in the extra ``svdfast[demo]``. "digits" is scikit-learn's
    ``load_digits``; its test part is a fixed fifth of each class.

    Parameters
    ----------
    name : {"mnist", "fashion-mnist", "cat", "digits", "xor"}
        Which data set.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        `name` is unknown; or a file differs from the published one.
    ImportError
        The package that reads it is not installed.
    FileNotFoundError
        A file was not found and could not be downloaded. The message says where to put it.

    Examples
    --------
    >>> from svdfast import datasets
    >>> xor = datasets.load("xor")
    >>> xor
    Dataset(name='xor', train=(4, 2), test=(4, 2), dtype=float32, n_classes=2)
    >>> X, y = xor.train
    >>> y
    array([0, 1, 1, 0])
    """
    if name in ("mnist", "fashion-mnist"):
        return Dataset(name, _idx_split(name, "train"), _idx_split(name, "t10k"), 10)
    if name == "cat":
        return Dataset(name, _cat_split("train"), _cat_split("test"), 2)
    if name == "digits":
        return _digits()
    if name == "xor":
        return Dataset(name, _xor(), _xor(), 2)
    raise ValueError(f"name must be one of {', '.join(map(repr, NAMES))}, got {name!r}")


def text(path: str | os.PathLike[str], *, steps: int = 100, test: float = 0.1, encoding: str = "utf-8") -> Dataset:
    """Load a text file as windows of characters, each with the characters that follow.

    The classes are the different characters of the whole file, in order. So a character that only
    the test part has is a class, too.

    Parameters
    ----------
    path : str or PathLike
        A text file; it may be a gzip file. Line ends stay as they are, and a byte order mark is
        left out.
    steps : int
        Characters in a window. Windows do not overlap, and a rest that fills no window is left out.
    test : float
        Share of the text for the test part, which is its end.
    encoding : str
        Encoding of the file.

    Returns
    -------
    Dataset
        X and y are (n_windows, steps). `Dataset.classes` has the characters.

    Raises
    ------
    OSError
        The file can't be read.
    TypeError, ValueError
        The file is empty, too short, has only one different character, or is not text in this
        encoding; or an argument is out of its range.

    Examples
    --------
    >>> import gzip
    >>> import svdfast as sf
    >>> with gzip.open("abc.txt.gz", "wt") as file:
    ...     _ = file.write("abcd" * 50)
    >>> data = sf.datasets.text("abc.txt.gz", steps=10)
    >>> data
    Dataset(name='abc.txt.gz', train=(17, 10), test=(1, 10), dtype=int32, n_classes=4)
    >>> X, y = data.train
    >>> "".join(data.classes[i] for i in X[0]), "".join(data.classes[i] for i in y[0])
    ('abcdabcdab', 'bcdabcdabc')
    """
    check_split(steps, test)
    place = Path(path)
    content = place.read_bytes()
    try:
        train, held_back, classes = split(decode(content, encoding), steps, test)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    return Dataset(place.name, train, held_back, len(classes), classes)


def cifar10_part() -> Dataset:
    """A third of CIFAR-10, kept as JPEG: 20,000 + 5,000 photos, (n, 3072) uint8, 32×32 RGB.

    It is not in `NAMES`, since its file can't be downloaded. Errors are those of `load`.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('the photos need Pillow: pip install "svdfast[plot]"') from error
    parts: dict[str, list[tuple[npt.NDArray[np.uint8], str]]] = {"train": [], "test": []}
    with zipfile.ZipFile(io.BytesIO(_fetch("suite", "cifar10-part.zip"))) as archive:
        # Files are named train/airplane/0000.jpg and the like.
        for name in sorted(name for name in archive.namelist() if name.endswith(".jpg")):
            part, label, _ = name.split("/")
            with Image.open(io.BytesIO(archive.read(name))) as image:
                pixels = np.asarray(image.convert("RGB"), np.uint8)
            parts[part].append((pixels.reshape(-1), label))
    labels = sorted({label for _, label in parts["train"]})

    def split(part: str) -> Split:
        y = [labels.index(label) for _, label in parts[part]]
        return np.array([pixels for pixels, _ in parts[part]]), np.array(y, np.int64)

    return Dataset("cifar10-part", split("train"), split("test"), len(labels))


def tinyshakespeare() -> str:
    """Shakespeare's plays, 1,115,394 characters of 65 kinds (A. Karpathy, char-rnn).

    It is not in `NAMES`, since it is text. Errors are those of `load`.
    """
    file = "tinyshakespeare.txt.gz"
    return _gunzip(_fetch("suite", file), _SHAKESPEARE, file).decode("ascii")


def _idx_split(folder: str, prefix: str) -> Split:
    images = _load_idx(folder, f"{prefix}-images-idx3-ubyte.gz")
    labels = _load_idx(folder, f"{prefix}-labels-idx1-ubyte.gz")
    return images.reshape(len(images), -1), labels.astype(np.int64)


def _cat_split(which: str) -> Split:
    try:
        import h5py
    except ImportError as error:
        raise ImportError('the data set "cat" needs h5py: pip install "svdfast[demo]"') from error
    content = _fetch("catvnoncat", f"{which}_catvnoncat.h5")
    with h5py.File(io.BytesIO(content), "r") as file:
        X: npt.NDArray[np.uint8] = file[f"{which}_set_x"][()]
        y: Labels = file[f"{which}_set_y"][()]
    return X.reshape(len(X), -1), y.astype(np.int64)


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'the data set "digits" needs scikit-learn: pip install "svdfast[demo]"'
        ) from error
    pixels, classes = load_digits(return_X_y=True)
    X = np.ascontiguousarray(pixels, dtype=np.float32) / np.float32(16)
    y = classes.astype(np.int64)
    # NumPy guarantees the raw stream of a bit generator for all versions, but not permutation().
    order = np.argsort(np.random.PCG64(0).random_raw(len(y)), kind="stable")
    by_class = order[np.argsort(y[order], kind="stable")]
    held_out = np.zeros(len(y), dtype=np.bool_)
    held_out[by_class[::5]] = True
    train, test = order[~held_out[order]], order[held_out[order]]
    return Dataset("digits", (X[train], y[train]), (X[test], y[test]), 10)


def _xor() -> Split:
    X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
    return X, np.array([0, 1, 1, 0], dtype=np.int64)


def _load_idx(folder: str, file: str) -> npt.NDArray[np.uint8]:
    return _parse_idx(_gunzip(_fetch(folder, file), _LARGEST_IDX, file), file)


def _gunzip(content: bytes, limit: int, file: str) -> bytes:
    """Decompress one gzip member of at most `limit` bytes, which bounds the memory."""
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        data = decompressor.decompress(content, limit + 1)
    except zlib.error as error:
        raise ValueError(f"{file}: not a gzip file: {error}") from error
    if len(data) > limit:
        raise ValueError(f"{file}: expected at most {limit} bytes decompressed, got more")
    if not decompressor.eof:
        raise ValueError(f"{file}: the gzip data ends too early")
    if decompressor.unused_data:
        raise ValueError(
            f"{file}: expected nothing after the gzip data, "
            f"got {len(decompressor.unused_data)} bytes"
        )
    return data


def _parse_idx(data: bytes, file: str) -> npt.NDArray[np.uint8]:
    """Parse an IDX file of bytes.

    Two zero bytes, a type byte (8 for uint8), the number of dimensions, one big-endian 32-bit
    size for each; then the values in C order (Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST
    database of handwritten digits").
    """
    if len(data) < 4 or data[:2] != b"\0\0":
        raise ValueError(f"{file}: not an IDX file: expected two zero bytes, got {data[:2]!r}")
    kind, ndim = data[2], data[3]
    if kind != 8:
        raise ValueError(f"{file}: expected the IDX type 8 (uint8), got {kind}")
    start = 4 + 4 * ndim
    if ndim == 0 or len(data) < start:
        raise ValueError(f"{file}: the IDX header names {ndim} dimensions and ends too early")
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4))
    # Python's integers: sizes whose product overflows 64 bits must not pass for small ones.
    if math.prod(shape) != len(data) - start:
        raise ValueError(
            f"{file}: expected {math.prod(shape)} values for shape {shape}, got {len(data) - start}"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape).copy()


def _fetch(folder: str, file: str) -> bytes:
    """Give the content of a data file, checked, from the first place that has it."""
    for place in _places(folder):
        try:
            return _read_checked(place / file, _FOLDERS[folder].files[file])
        except (FileNotFoundError, NotADirectoryError):
            continue
    return _download(folder, file)


def _places(folder: str) -> list[Path]:
    """Folders that may hold the files: the user's own if named, then the cache."""
    own = os.environ.get("SVDFAST_DATA")
    return ([Path(own) / folder] if own else []) + [_cache_folder() / folder]


def _cache_folder() -> Path:
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    # The XDG base directory specification says to ignore a relative path.
    if base and Path(base).is_absolute():
        return Path(base) / "svdfast"
    return Path.home() / ".cache" / "svdfast"


def _read_checked(path: Path, expected: _File) -> bytes:
    with path.open("rb") as file:
        # One byte more than expected shows a longer file without reading all of it.
        content = file.read(expected.size + 1)
    try:
        _check(content, expected, str(path))
    except ValueError as error:
        raise ValueError(f"{error}; replace or delete the file") from None
    return content


def _check(content: bytes, expected: _File, where: str) -> None:
    if len(content) > expected.size:
        raise ValueError(f"{where}: expected {expected.size} bytes, got more")
    got = hashlib.sha256(content).hexdigest()
    if got != expected.sha256:
        raise ValueError(
            f"{where}: expected {expected.size} bytes with SHA-256 {expected.sha256}, "
            f"got {len(content)} bytes with {got}"
        )


def _download(folder: str, file: str) -> bytes:
    # Imported here, as they take longer to import than everything else in this package.
    import http.client
    import urllib.error
    import urllib.request

    url, files = _FOLDERS[folder]
    cache = _places(folder)[-1]
    how = (
        f"get the files {', '.join(files)} and put them into {cache}, or into a folder {folder} "
        "inside the folder that the environment variable SVDFAST_DATA names"
    )
    if url is None:
        raise FileNotFoundError(f"{file} was not found and has no address to download from: {how}")
    _logger.info("downloading %s (%d bytes) to %s", url + file, files[file].size, cache)
    try:
        with _opener(url + file).open(url + file, timeout=_TIMEOUT) as response:
            content = _read_at_most(response, files[file].size + 1)
        if len(content) < files[file].size:
            raise ConnectionError(f"it broke off after {len(content)} of {files[file].size} bytes")
        _check(content, files[file], url + file)
        cache.mkdir(parents=True, exist_ok=True)
        with written_whole(cache / file) as target:
            target.write(content)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is also the server's answer, and holds the connection
        raise FileNotFoundError(
            f"{file} was not found and could not be downloaded from {url + file} "
            f"({error or type(error).__name__}): {how}"
        ) from error
    return content


def _opener(url: str) -> Any:
    """An opener for HTTPS only. urllib's own follows redirects to HTTP and FTP."""
    import urllib.error
    import urllib.request

    def check(url: str) -> None:
        if not url.lower().startswith(_SCHEME + "://"):
            raise urllib.error.URLError(f"expected an address of {_SCHEME}, got {url[:200]}")

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
            check(newurl)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    check(url)
    return urllib.request.build_opener(Redirects)


def _read_at_most(response: Any, limit: int) -> bytes:
    # A single read(limit) may return less than is available.
    chunks = []
    while limit > 0 and (chunk := response.read(min(limit, 1 << 20))):
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)
