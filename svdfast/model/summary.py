# SPDX-License-Identifier: BSD-3-Clause
"""A network in words: a table of its layers, and what is known of the data that it was trained on.

Not here: how multiplications are counted (counting.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from svdfast._process import in_use
from svdfast._process.text import aligned
from svdfast.model.counting import count_multiplications
from svdfast.model.network import Network

__all__ = ["summary"]

_MOST_NAMES = 20  # of features or of classes


def summary(net: Network) -> str:
    """A table of a network's layers, and lines about its data.

    Parameters
    ----------
    net : Network

    Returns
    -------
    str
        Multiplications are for one sample, in prediction and in a training step.

    Examples
    --------
    >>> import svdfast as sf
    >>> from svdfast.model.summary import summary
    >>> net = sf.Network([784, 512, 10], seed=0)
    >>> _ = net.truncate(ranks=[64])
    >>> print(summary(net))
    layer             weight   rank  activation  parameters  prediction  training step
    784-512  512x64 * 64x784     64        relu      83,456      82,944        198,656
    512-10            10x512  dense     softmax       5,130       5,120         15,360
    total                                            88,586      88,064        214,016
    float32
    """
    with in_use.reading(net):
        forward, step = (count_multiplications(net, mode) for mode in ("forward", "step"))
        rows: list[tuple[str, ...]] = [("layer", "weight", "rank", "activation", "parameters", "prediction", "training step")]
        for layer, a, b in zip(net.layers, forward.layers, step.layers, strict=True):
            weight = " * ".join(f"{len(factor)}x{factor.shape[1]}" for factor in reversed(layer.products.values()))
            n_parameters = sum(tensor.size for tensor in layer.tensors.values())
            counts = (f"{n:,}" for n in (n_parameters, a.multiplications, b.multiplications))
            rows.append((f"{layer.n_in}-{layer.n_out}", weight, a.form, layer.activation.name, *counts))
        rows.append(("total", "", "", "", f"{len(net.parameters):,}", f"{forward.total:,}", f"{step.total:,}"))
        return "\n".join([*aligned(rows), str(net.dtype), *_data(net)])


def _data(net: Network) -> list[str]:
    """Lines about the data, as far as they are known."""
    origin, lines = net.origin, []
    if origin.preparation is not None:
        for target in origin.preparation.targets:
            kind = "a number" if target.classes is None else f"classes {_listed(target.classes)}"
            lines.append(f"target {target.name!r}: {kind}")
        columns = [column.name for column in origin.preparation.columns]
        lines.append(f"{net.sizes[0]} features of {len(columns)} columns: {_listed(columns)}")
        return lines
    if origin.classes is not None:
        lines.append(f"classes {_listed(origin.classes)}")
    if origin.feature_names is not None:
        lines.append(f"{net.sizes[0]} features: {_listed(origin.feature_names)}")
    return lines


def _listed(names: Sequence[object]) -> str:
    shown = ", ".join(map(str, names[:_MOST_NAMES]))
    return f"{shown}, ... ({len(names)})" if len(names) > _MOST_NAMES else shown
