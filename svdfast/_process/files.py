# SPDX-License-Identifier: BSD-3-Clause
"""Writing a file so that nobody, at any moment, sees a part of it under its name; and archives of arrays that may be damaged or hostile.

Elsewhere: what is written and read.
"""

from __future__ import annotations

import glob
import math
import os
import struct
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

try:
    from lzma import LZMAError
except ImportError:  # Python was built without it, and zipfile refuses such archives

    class LZMAError(Exception):  # type: ignore[no-redef]
        """Never raised."""


# What is raised over files that are damaged, or made to be: by zipfile and NumPy over archives, and by what takes values from them.
DAMAGED = (
    ArithmeticError, AttributeError, EOFError, LookupError, LZMAError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError,
    ValueError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write in; it gets its name, replacing what had it, when the block ends without an error, else it is removed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def remove_parts(path: Path) -> None:
    """Removes what processes that were killed as they wrote this file have left beside it."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        part.unlink(missing_ok=True)


def check_claim(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Refuses an array of which its own header claims more than is there: NumPy takes so much memory before it reads."""
    with archive.open(entry) as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(member)
        else:
            raise ValueError(f"it has an array of format {version}")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize > entry.file_size:
        raise ValueError(f"its array {entry.filename[:40]!r} claims to be larger than it is")
