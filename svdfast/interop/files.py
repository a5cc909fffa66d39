# SPDX-License-Identifier: BSD-3-Clause
"""Network files, .npz or .safetensors: plain arrays and a header, a JSON text.

Loading never unpickles and runs no code.

    .npz           NumPy's archive: `header`, and `parameters` as they lie in the network
    .safetensors   tensors layers.0.W (or layers.0.W1 and layers.0.W2), layers.0.b and so on, names
                   by which other libraries find them; the metadata has the header as `svdfast`,
                   and a checksum, which the format lacks

The header has the format and its version, the svdfast that wrote it, each layer's shape, structure
and activation, the scale of uint8 samples, and the network's knowledge of its data (`Origin`).
Elsewhere: data sets (datasets.py).
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from svdfast._process import in_use
from svdfast._process.checks import count, positive_number, room
from svdfast._process.files import DAMAGED, check_claim, written_whole
from svdfast.model.layout import Layout
from svdfast.model.network import Network
from svdfast.model.origin import Origin

__all__ = ["SUFFIXES", "check_name", "load", "save"]

SUFFIXES = (".npz", ".safetensors")

_FORMAT = "svdfast network"
_VERSION = 2


def check_name(path: str | os.PathLike[str]) -> Path:
    """The path, checked: `save` knows its suffix, and the package for it is installed.

    Raises
    ------
    ValueError
        The name has another suffix.
    ImportError
        The suffix is .safetensors, and the package is not installed.
    """
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise ValueError(f"path: expected a name that ends in {' or '.join(SUFFIXES)}, got {target.name!r}")
    if target.suffix == ".safetensors":
        _safetensors()
    return target


def save(net: Network, path: str | os.PathLike[str]) -> None:
    """Writes a network to a file, which `load` reads; factored layers stay factored.

    Parameters
    ----------
    net : Network
    path : path that ends in .npz or .safetensors
        A file of that name is replaced, but only once the new one is complete. A safetensors file
        has tensors layers.0.W (or layers.0.W1 and layers.0.W2), layers.0.b and so on, for readers
        other than svdfast.

    Raises
    ------
    TypeError
        `net` is not a network, or `path` is not a path.
    ValueError
        The name has another suffix.
    ImportError
        The suffix is .safetensors, and the package is not installed:
        pip install "svdfast[safetensors]".
    OSError
        The file can't be written; nothing is left behind.

    Examples
    --------
    >>> import svdfast as sf, tempfile, os
    >>> net = sf.Network([4, 3], seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sf.save(net, os.path.join(folder, "net.npz"))
    ...     again = sf.load(os.path.join(folder, "net.npz"))
    >>> bool((again.parameters == net.parameters).all())
    True
    """
    if not isinstance(net, Network):
        raise TypeError(f"net: expected a Network, got {type(net).__name__}")
    from svdfast._process.version import __version__

    target = check_name(path)
    with in_use.reading(net):
        layout, parameters = net.state
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "svdfast": __version__,
            **layout.header(),
            "uint8_scale": net.uint8_scale,
            "origin": net.origin.header(),
        }
        text = json.dumps(header)
        if target.suffix == ".npz":
            # np.savez, but for closing the archive also where the disk is full, as that of NumPy 1.26 does not.
            with written_whole(target) as file, zipfile.ZipFile(file, "w") as archive:
                for name, array in (("header", np.array(text)), ("parameters", parameters)):
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                        np.lib.format.write_array(part, array, allow_pickle=False)
            return
        tensors = _tensors(layout, parameters)
        metadata = {"svdfast": text, "crc32": _checksum(text, tensors)}
        with written_whole(target) as file:
            file.write(_safetensors().numpy.save(tensors, metadata))


def load(path: str | os.PathLike[str]) -> Network:
    """Reads a network that `save` wrote. The content, not the name, decides the format.

    Parameters
    ----------
    path : path of a file

    Returns
    -------
    Network

    Raises
    ------
    TypeError
        `path` is not a path.
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, was not written by `save`, or was written by a later svdfast in a
        format that this one does not know.
    ImportError
        It is a safetensors file, and the package is not installed:
        pip install "svdfast[safetensors]".
    """
    path = os.fspath(path)  # refuses a number, which `open` would take as an open file
    try:
        with open(path, "rb") as file:
            room("path", os.fstat(file.fileno()).st_size)
            start = file.read(9)
            if start.startswith(b"PK"):
                return _read_npz(file)
        # A safetensors file has its header's length in 8 bytes, then the header.
        if start.endswith(b"{") and len(start) == 9:
            return _read_safetensors(os.fsdecode(path))
        raise ValueError("it is neither an .npz archive nor a safetensors file")
    except (FileNotFoundError, MemoryError):
        raise
    except DAMAGED as error:
        raise ValueError(f"path: {os.fspath(path)!r} is not a network file: {error}") from None


def _read_npz(file: BinaryIO) -> Network:
    # A small file must not claim much memory.
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError("its arrays are compressed")
            check_claim(archive, entry)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        if sorted(arrays.files) != ["header", "parameters"]:
            raise ValueError(f"its arrays are {_listed(arrays.files)}, not header and parameters")
        header = _Header.parse(str(arrays["header"]))
        parameters: NDArray[Any] = arrays["parameters"]
    if parameters.shape != (header.layout.size,):
        raise ValueError(f"it has parameters of shape {parameters.shape}, not ({header.layout.size},)")
    if parameters.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"its parameters are {parameters.dtype}, not float32 or float64")
    return header.network(parameters)


def _read_safetensors(path: str) -> Network:
    package = _safetensors()
    try:
        # safetensors checks a file as it opens it: the tensors fill the file, and none exceeds it.
        with package.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if "svdfast" not in metadata:
                raise ValueError("it is a safetensors file of something else")
            text = metadata["svdfast"]
            header = _Header.parse(text)
            slices = {name: file.get_slice(name) for name in file.keys()}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            expected = {tensor.name: tensor.shape for tensor in header.layout.tensors}
            if shapes != expected:
                other = sorted(name for name in shapes.keys() | expected if shapes.get(name) != expected.get(name))
                raise ValueError(f"its tensors are not those of its header: {_listed(other)}")
            kinds = {part.get_dtype() for part in slices.values()}
            if kinds not in ({"F32"}, {"F64"}):
                raise ValueError(f"its tensors are {_listed(sorted(kinds))}, not all F32 or all F64")
            net = header.network(np.zeros((), np.float32 if kinds == {"F32"} else np.float64))
            tensors = _tensors(*net.state)
            for name, tensor in tensors.items():
                tensor[...] = file.get_tensor(name)
    except package.SafetensorError as error:
        raise ValueError(str(error)) from None
    if metadata.get("crc32") != _checksum(text, tensors):
        raise ValueError("its checksum is not that of its content: it is damaged, or something else changed it")
    return net


@dataclass(frozen=True)
class _Header:
    """The content of a file's header, checked. Nothing in it is trusted."""

    layout: Layout
    uint8_scale: float
    origin: Origin

    @classmethod
    def parse(cls, text: str) -> _Header:
        header = json.loads(text)
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise ValueError("its header is of another format")
        version = count("version", header["version"])
        if version != _VERSION:
            raise ValueError(
                f"it is of format {version}, which svdfast {str(header.get('svdfast'))[:20]!r} wrote; this svdfast reads format {_VERSION}"
            )
        if not isinstance(header["svdfast"], str):
            raise ValueError("its header does not say which svdfast wrote it")
        uint8_scale = positive_number("uint8_scale", header["uint8_scale"])
        layout = Layout.parse(header)
        return cls(layout, uint8_scale, Origin.parse(header["origin"]))

    def network(self, parameters: NDArray[Any]) -> Network:
        return Network.of(self.layout, parameters, self.uint8_scale, self.origin)


def _tensors(layout: Layout, parameters: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The tensors as views. They are C-contiguous: safetensors requires, `set_state` ensures it."""
    return {tensor.name: tensor.of(parameters) for i in range(len(layout.layers)) for tensor in layout.of(i)}


def _checksum(text: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """CRC-32 of the header and of the tensors in the network's order, in hexadecimal."""
    crc = zlib.crc32(text.encode())
    for tensor in tensors.values():
        crc = zlib.crc32(tensor.data, crc)
    return f"{crc:08x}"


def _listed(names: list[str]) -> str:
    """The first few of some names, as text."""
    shown = ", ".join(repr(name)[:40] for name in names[:5])
    return (shown or "none") + (", ..." if len(names) > 5 else "")


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError('safetensors files need a package: pip install "svdfast[safetensors]"') from None
    return safetensors
