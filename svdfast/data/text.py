# SPDX-License-Identifier: BSD-3-Clause
"""Text as tokens: each character is a number, and a window's targets are the next characters.

Elsewhere: networks (model/), and text as the labels of classes (labels.py).
"""

from __future__ import annotations

import gzip
import zlib
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdfast._process.checks import MAX_SIZE, count, fraction
from svdfast.sequences import streams

__all__ = ["Windows", "check_split", "decode", "number", "split"]

Windows: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int64]]

_GZIP = b"\x1f\x8b"
_CODES = 0x110000  # code points of Unicode


def decode(data: bytes, encoding: str = "utf-8") -> str:
    """The text of a file's bytes, without a byte order mark. The bytes may be gzip data.

    Line ends stay as they are. ValueError is raised if the bytes are not text in this encoding.
    """
    unpacked = data.startswith(_GZIP)
    if unpacked:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"damaged gzip file: {error}") from None
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding == "utf-8" else encoding
        of = " of the unpacked file" if unpacked else ""
        wrong = f"0x{data[error.start]:02x}" if error.start < len(data) else "its end"
        raise ValueError(f"expected text in {name}, got {wrong} at byte {error.start:,}{of}") from None
    except (LookupError, ValueError):
        raise ValueError(f"encoding: expected one that Python knows, got {encoding!r}") from None
    return text.removeprefix("\ufeff")


def number(text: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """The characters of a text as numbers from 0, and the different characters in order."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    there = np.zeros(_CODES, dtype=np.bool_)
    there[codes] = True
    token_of = np.cumsum(there, dtype=np.int32) - np.int32(1)
    return token_of[codes], tuple(map(chr, np.flatnonzero(there).tolist()))


def check_split(steps: int, test: float) -> None:
    """Refuses impossible windows and shares, with TypeError or ValueError."""
    count("steps", steps, maximum=MAX_SIZE)
    fraction("test", test, below_one=True, above_zero=True)


def split(text: str, steps: int, test: float) -> tuple[Windows, Windows, tuple[str, ...]]:
    """Windows of a text for training, those of its last share `test`, and its different characters.

    ValueError is raised if the text is too short, or has only one different character.
    """
    if not text:
        raise ValueError("expected text, got an empty file")
    tokens, characters = number(text)
    if len(characters) == 1:
        raise ValueError(f"expected at least two different characters, got {characters[0]!r} alone")
    n_test = round(len(tokens) * test)

    def cut(part: NDArray[np.int32], name: str) -> Windows:
        n = len(part)
        if n <= steps:
            raise ValueError(f"expected at least {steps + 1:,} characters for a window of {steps:,} steps in the {name} part, got {n:,}")
        X, y = streams(part, steps, batch_size=1)
        return X, y.astype(np.int64)

    return cut(tokens[: len(tokens) - n_test], "training"), cut(tokens[len(tokens) - n_test :], "test"), characters
