# SPDX-License-Identifier: BSD-3-Clause
"""Count the multiplications that factoring saves, exactly and for one sample.

Counts are integers computed from the sizes of the layers. Nothing here is timed: the speed of a
product depends on the machine, and small products run slower than their count suggests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, SupportsIndex, TypeAlias, get_args

from svdfast._process.checks import count, one_of
from svdfast._process.text import aligned
from svdfast.model.program import Program, Tensor
from svdfast.model.structures import Dense, LowRank, Structure, of_rank

__all__ = ["LayerCount", "MultiplicationCount", "break_even_rank", "count_multiplications"]

Mode: TypeAlias = Literal["forward", "step"]


class _Layer(Protocol):
    @property
    def n_in(self) -> int: ...
    @property
    def n_out(self) -> int: ...
    @property
    def rank(self) -> int | None: ...


class _Network(Protocol):
    @property
    def layers(self) -> Sequence[_Layer]: ...


@dataclass(frozen=True)
class LayerCount:
    """Multiplications of one layer for one sample.

    Attributes
    ----------
    n_in, n_out : int
        Inputs m and outputs n.
    rank : int or None
        The l-value, None for a layer without one.
    multiplications : int
        Multiplications of the layer as it is.
    dense : int
        Multiplications of the same layer when dense.
    form : str
        Its entry in the table: the rank, or "dense".
    """

    n_in: int
    n_out: int
    rank: int | None
    multiplications: int
    dense: int
    form: str


@dataclass(frozen=True)
class MultiplicationCount:
    """Multiplications of a network for one sample, by layer and in total.

    ``str()`` gives a plain text table.

    Attributes
    ----------
    mode : {"forward", "step"}
        The pass that was counted.
    layers : tuple of LayerCount
        The layers, first to last.
    """

    mode: Mode
    layers: tuple[LayerCount, ...]

    @property
    def total(self) -> int:
        """Multiplications of the network as it is."""
        return sum(layer.multiplications for layer in self.layers)

    @property
    def dense_total(self) -> int:
        """Multiplications of the same network with every layer dense."""
        return sum(layer.dense for layer in self.layers)

    @property
    def ratio(self) -> float:
        """Dense over factored: above 1 where factoring saves."""
        return self.dense_total / self.total

    def __str__(self) -> str:
        header = ("layer", "rank", "dense", self.mode, "ratio")
        rows = [
            (
                f"{layer.n_in}-{layer.n_out}",
                layer.form,
                f"{layer.dense:,}",
                f"{layer.multiplications:,}",
                f"{layer.dense / layer.multiplications:.2f}",
            )
            for layer in self.layers
        ]
        rows.append(("total", "", f"{self.dense_total:,}", f"{self.total:,}", f"{self.ratio:.2f}"))
        return "\n".join(aligned([header, *rows]))


def count_multiplications(net: _Network, mode: Mode = "step") -> MultiplicationCount:
    """Count the multiplications of a network's matrix products for one sample.

    Only matrix products are counted, as in the paper, section 3.3.4. Biases and activations grow
    only with the number of neurons, and the optimizer's update is done once a batch. The paper
    counts l·(m+n) for the backward pass too; here a step is counted product by product:

    ==================  =======  ==============
    .                   dense    factored
    ==================  =======  ==============
    forward             m·n      l·(m+n)
    step                3·m·n    3·l·(m+n)
    step, first layer   2·m·n    2·l·m + 3·l·n
    ==================  =======  ==============

    The first layer has no input gradient to compute. That saves m·n if it is dense. It saves only
    l·m if it is factored, because ∂W2 still needs W1ᵀ·∂Z.

    Parameters
    ----------
    net : Network
        Or any object with a sequence ``layers`` of objects that have ``n_in``, ``n_out`` and
        ``rank`` (None for a dense layer).
    mode : {"step", "forward"}, default "step"
        A whole training step (forward and backward), or the forward pass alone.

    Returns
    -------
    MultiplicationCount

    Raises
    ------
    TypeError
        `net` has no attribute `layers`, or a size or a rank is not an integer.
    ValueError
        `mode` is unknown, there are no layers, or a size or a rank is below 1.

    Examples
    --------
    >>> from types import SimpleNamespace as Layer
    >>> from svdfast.model.counting import count_multiplications
    >>> layers = [Layer(n_in=784, n_out=512, rank=128), Layer(n_in=512, n_out=256, rank=64),
    ...           Layer(n_in=256, n_out=10, rank=None)]
    >>> print(count_multiplications(Layer(layers=layers)))
    layer     rank      dense     step  ratio
    784-512    128    802,816  397,312   2.02
    512-256     64    393,216  147,456   2.67
    256-10   dense      7,680    7,680   1.00
    total           1,203,712  552,448   2.18
    """
    one_of("mode", mode, get_args(Mode))
    if not hasattr(net, "layers"):
        raise TypeError(f"net: expected a Network or another object with layers, got {type(net).__name__}")
    if len(net.layers) == 0:
        raise ValueError("net: expected at least one layer, got none")
    layers = []
    # Networks and layouts know the rows that a weight meets. Elsewhere it meets one row a sample.
    placed = getattr(getattr(net, "layout", net), "placed", None)
    places = [(1, index == 0) for index in range(len(net.layers))] if placed is None else [(w.rows, w.first) for w in placed]
    for index, layer in enumerate(net.layers):
        m = count(f"n_in of layer {index}", layer.n_in)
        n = count(f"n_out of layer {index}", layer.n_out)
        structure = getattr(layer, "structure", None) or of_rank(n, m, layer.rank, f"rank of layer {index}")
        rows, first = places[index]
        dense, own = (rows * weight_multiplications(s, mode, first_layer=first) for s in (Dense(n, m), structure))
        layers.append(LayerCount(m, n, structure.rank, own, dense, str(structure).removeprefix("rank ")))
    return MultiplicationCount(mode, tuple(layers))


def break_even_rank(n_in: SupportsIndex, n_out: SupportsIndex, first_layer: bool = False) -> int:
    """Give the largest rank at which training a factored layer multiplies less than a dense one.

    A hidden layer saves multiplications if l < mn/(m+n) (the paper, section 3.3.4), both forward
    and backward. The first layer has no input gradient; it saves over a whole step only if
    l < 2mn/(2m+3n).

    Parameters
    ----------
    n_in, n_out : int
        Inputs m and outputs n, each at least 1.
    first_layer : bool, default False
        True for the first layer of a network.

    Returns
    -------
    int
        The rank l, or 0 if no rank saves anything.

    Raises
    ------
    TypeError
        `n_in` or `n_out` is not an integer.
    ValueError
        `n_in` or `n_out` is below 1.

    Examples
    --------
    So α = 1/2 saves nothing on a square layer:

    >>> from svdfast.model.counting import break_even_rank
    >>> break_even_rank(512, 512)
    255
    >>> break_even_rank(784, 512, first_layer=True)
    258
    """
    m = count("n_in", n_in)
    n = count("n_out", n_out)
    # The count of two factors is linear in the rank.
    dense, by_rank = (weight_multiplications(s, first_layer=first_layer) for s in (Dense(n, m), LowRank(n, m, 1)))
    return (dense - 1) // by_rank


def weight_multiplications(structure: Structure, mode: Mode = "step", *, first_layer: bool = False) -> int:
    """Count the multiplications of the products that a weight's structure emits, for one sample."""
    return weight_program(structure, first_layer=first_layer).multiplications(mode)


def weight_program(structure: Structure, *, first_layer: bool = False) -> Program:
    """Write the products of a weight's structure alone."""
    program = Program(structure.n_in, input_delta=not first_layer)
    structure.emit(program, 0, [Tensor(name, shape, 0, True, 0) for name, shape in structure.tensors()])
    return program
