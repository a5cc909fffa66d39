# SPDX-License-Identifier: BSD-3-Clause
"""Network files: a NumPy .npz archive of plain arrays and one JSON text. Loading never unpickles.

Not here: data sets (datasets.py).
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

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
    layout = net.layout
    header = {
        "format": _FORMAT,
        "sizes": layout.sizes,
        "ranks": layout.ranks,
        "activations": [[s.activation.name, s.activation.parameter] for s in layout.layers],
        "uint8_scale": net.uint8_scale,
    }
    # Written aside in the same folder and renamed, so that no half a file ever has the name.
    handle, aside = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), parameters=net.parameters)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        os.unlink(aside)
        raise


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
        with np.load(path, allow_pickle=False) as archive:
            header: dict[str, Any] = json.loads(str(archive["header"]))
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']!r}")
            sizes = [int(n) for n in header["sizes"]]
            functions = [
                Activation(str(name), float(parameter)) for name, parameter in header["activations"]
            ]
            ranks = [None if rank is None else int(rank) for rank in header["ranks"]]
            parameters = archive["parameters"]
            # The constructor checks what it is given; a layer's rank is checked here.
            net = Network(
                sizes,
                hidden=functions[:-1],
                output=functions[-1],
                dtype=parameters.dtype,
                uint8_scale=header["uint8_scale"],
            )
            layout = Layout.build(sizes, ranks, functions)
            for layer in layout.layers:
                if layer.rank is not None and not 1 <= layer.rank <= min(layer.n_in, layer.n_out):
                    raise ValueError(f"rank {layer.rank} of a {layer.n_in} -> {layer.n_out} layer")
            if parameters.shape != (layout.size,):
                raise ValueError(f"{parameters.shape} parameters, not ({layout.size},)")
    except FileNotFoundError:
        raise
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"path: {os.fspath(path)!r} is not a network file: {error}") from None
    net.__setstate__({"state": (layout, parameters), "uint8_scale": net.uint8_scale})
    return net
