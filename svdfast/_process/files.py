# SPDX-License-Identifier: BSD-3-Clause
"""Writes files atomically, and checks archives of arrays that may be damaged or hostile.

Nobody ever sees a part of a file under its name. Elsewhere: the contents of files
(interop/files.py, training/checkpoint.py).
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


# Errors over damaged or hostile files: from zipfile and NumPy, and from the code that takes values
# from archives.
DAMAGED = (
    ArithmeticError, AttributeError, EOFError, LookupError, LZMAError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError,
    ValueError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A context with a file to write in.

    If the block ends without an error, the file gets its name and replaces any other of that name.
    Otherwise it is removed.
    """
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
    """Removes the parts that killed processes have left beside this file."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        part.unlink(missing_ok=True)


def check_claim(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Refuses an array whose header claims more than the archive holds.

    NumPy would allocate the claimed size before it reads.
    """
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
