# SPDX-License-Identifier: BSD-3-Clause
"""Network files: a NumPy .npz archive of plain arrays and one JSON text. Loading never unpickles.

Not here: data sets (datasets.py).
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._checks import count, positive_number
from svdfast._files import written_whole
from svdfast.activations import Activation
from svdfast.layout import Layout
from svdfast.network import Network

__all__ = ["load", "save"]

_FORMAT = "svdfast network 1"


def save(net: Network, path: str | os.PathLike[str]) -> None:
    """Writes a network to an .npz file; factored layers stay factored. See `Network.save`."""
    target = Path(path)
    if target.suffix != ".npz":
        raise ValueError(f"path: expected a name that ends in .npz, got {target.name!r}")
    layout, parameters = net.state
    header = {
        "format": _FORMAT,
        "sizes": layout.sizes,
        "ranks": layout.ranks,
        "activations": [[s.activation.name, s.activation.parameter] for s in layout.layers],
        "uint8_scale": net.uint8_scale,
    }
    with written_whole(target) as file:
        np.savez(file, header=np.array(json.dumps(header)), parameters=parameters)


def load(path: str | os.PathLike[str]) -> Network:
    """Reads a network that `Network.save` wrote.

    Parameters
    ----------
    path : path of an .npz file

    Returns
    -------
    Network

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged or was not written by `Network.save`.

    Examples
    --------
    >>> import svdfast as sf, tempfile, os
    >>> net = sf.Network([4, 3], seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     net.save(os.path.join(folder, "net.npz"))
    ...     again = sf.load(os.path.join(folder, "net.npz"))
    >>> bool((again.parameters == net.parameters).all())
    True
    """
    try:
        with open(path, "rb") as file:
            # Arrays that are not compressed are no larger than the file: no small file can ask for much memory.
            with zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("its arrays are compressed")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return _network(json.loads(str(arrays["header"])), arrays["parameters"])
    except FileNotFoundError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(f"path: {os.fspath(path)!r} is not a network file: {error}") from None


def _network(header: Any, parameters: NDArray[Any]) -> Network:
    """The network of a header and its parameters; nothing in either is trusted."""
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise ValueError("its header is of another format")
    sizes = [count("sizes", n) for n in header["sizes"]]
    ranks = [None if rank is None else count("ranks", rank) for rank in header["ranks"]]
    functions = [Activation(name, parameter) for name, parameter in header["activations"]]
    uint8_scale = positive_number("uint8_scale", header["uint8_scale"])
    layout = Layout.build(sizes, ranks, functions)
    if not layout.layers or ranks[-1] is not None:
        raise ValueError("it has no dense output layer")
    for layer in layout.layers:
        if layer.rank is not None and layer.rank > min(layer.n_in, layer.n_out):
            raise ValueError(f"rank {layer.rank} of a {layer.n_in} -> {layer.n_out} layer")
    if parameters.shape != (layout.size,):
        raise ValueError(f"it has parameters of shape {parameters.shape}, not ({layout.size},)")
    if parameters.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"its parameters are {parameters.dtype}, not float32 or float64")
    net = Network.__new__(Network)
    net.__setstate__({"state": (layout, parameters), "uint8_scale": uint8_scale})
    return net
