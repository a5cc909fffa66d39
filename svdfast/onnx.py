# SPDX-License-Identifier: BSD-3-Clause
"""Networks as ONNX models for other runtimes; a model can include the preparation of a table.

This module needs onnx: the extra `onnx`. Elsewhere: preparations (data/preparation.py); the
operators of layers (interop/onnx_layers.py) and of activations (model/activations.py); other files
(interop/files.py). svdfast does not read ONNX models.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdfast._process import in_use
from svdfast._process.files import written_whole
from svdfast.data.preparation import GAP, GAPS, Categorical, Numeric, Preparation
from svdfast.interop.onnx_layers import write_layers
from svdfast.model.heads import CLASSES, head_of
from svdfast.model.network import Network
from svdfast.model.origin import Label

if TYPE_CHECKING:
    import onnx

__all__ = ["save", "to_onnx"]

# Old enough for runtimes of some years ago, and it has all operators that are needed.
_OPSET = 17
_ML_OPSET = 2  # of ai.onnx.ml, which has the operator that reads text
_IR_VERSION = 8
_LARGEST = 2**31 - 1  # bytes in a message of Protocol Buffers
_BYTES_PER_LAYER = 10_000  # at most, in addition to the parameters


def to_onnx(net: Network, *, preparation: bool = False) -> onnx.ModelProto:
    """An ONNX model that computes what a network does.

    Its input "X" and its output "y" have the shapes of `Network.predict`, (n_samples, n_inputs) and
    (n_samples, n_outputs) for fully connected layers, and the network's dtype. Tokens are int64.
    The dimension "steps" stands for any number of steps. A dense layer is one Gemm, a factored
    layer is two. The model takes floats: scale uint8 inputs by `uint8_scale` first, as the network
    does. The model's metadata has the scale under "uint8_scale". It has the network's origin as
    JSON: "classes", "feature_names", "preparation".

    Parameters
    ----------
    net : Network
    preparation : bool
        Make a model that takes the columns of the network's training table and returns labels. It
        has an input (n_samples, 1) for each column, by its name: numbers of the network's dtype,
        NaN for a gap; or text without spaces around it, "" for a gap. Its first output is "label"
        (n_samples,), or one for each target, ``label_`` and the target's name. A network that
        predicts numbers has only "y". An output whose name is also a column's name gets a "_" at
        its end.

    Returns
    -------
    onnx.ModelProto
        A checked model of opset 17.

    Raises
    ------
    ImportError
        onnx is not installed.
    TypeError
        `net` is not a network.
    ValueError
        The network is larger than the 2 GB that an ONNX model may have, or has an activation or a
        layer that ONNX lacks, such as Masking. Or `preparation` is True and the network has none.

    Notes
    -----
    Factored layers stay factored. A dense convolution is one Conv; a factored one is two, the
    second of 1×1. A recurrent layer is RNN, GRU or LSTM; all factors of its input's weight but the
    last stand before it. If its state's weight is factored, it is a Scan with two products in it.
    onnxruntime has Conv, AveragePool and recurrent operators for float32 only; a float64 network
    has slower operators in their place. The network refuses a token outside the vocabulary; the
    model returns the bias alone for it. Give a model with recurrent layers at least one sample:
    onnxruntime 1.32 ends the process for none.

    Examples
    --------
    >>> import onnx
    >>> import svdfast as sf
    >>> from svdfast.onnx import to_onnx
    >>> net = sf.Network([784, 512, 10], seed=0)
    >>> _ = net.truncate(rank_fraction=0.25)
    >>> [node.op_type for node in to_onnx(net).graph.node]
    ['Gemm', 'Gemm', 'Relu', 'Gemm', 'Softmax']
    """
    try:
        import onnx
    except ImportError:
        raise ImportError('to_onnx needs onnx: pip install "svdfast[onnx]"', name="onnx") from None
    from svdfast._process.version import __version__

    if not isinstance(net, Network):
        raise TypeError(f"net: expected a Network, got {type(net).__name__}")
    size = net.parameters.nbytes + _BYTES_PER_LAYER * len(net.layers)
    if size > _LARGEST:
        raise ValueError(f"net: expected at most 2 GB, all that an ONNX model holds, got {size:,} bytes")
    if preparation and net.origin.preparation is None:
        raise ValueError("preparation: expected a network that was trained on a table by svdfast train, got another one")
    table = net.origin.preparation if preparation else None
    columns = [] if table is None else [column.name for column in table.columns]
    if "" in columns:
        raise ValueError("preparation: expected names of columns, which are the model's inputs, got an empty one")
    graph = _Graph(net.dtype, columns)
    takes, gives = _shapes(net)
    if table is None:
        inputs, name = [graph.input("X", *takes, integers=net.layout.n_tokens > 0)], "X"
    else:
        inputs, name = _features(graph, table)
    with in_use.reading(net):
        name = write_layers(graph, net, name)
    y = graph.named("y")
    outputs = [graph.output(y, graph.kind, *gives)]
    if table is not None:
        outputs = [*_labels(graph, net, table, y), *outputs]
    opsets = [onnx.helper.make_opsetid("", _OPSET)]
    if table is not None:
        opsets.append(onnx.helper.make_opsetid("ai.onnx.ml", _ML_OPSET))
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "network", inputs, outputs, graph.constants),
        opset_imports=opsets, ir_version=_IR_VERSION, producer_name="svdfast", producer_version=__version__,
    )  # fmt: skip
    onnx.helper.set_model_props(model, _metadata(net))
    onnx.checker.check_model(model, full_check=True)
    return model


def save(net: Network, path: str | os.PathLike[str], *, preparation: bool = False) -> None:
    """Writes a network to an ONNX file, the model of `to_onnx`; factored layers stay factored.

    Parameters
    ----------
    net : Network
    path : path that ends in .onnx
        A file of that name is replaced, but only once the new one is whole.
    preparation : bool
        Make a model that takes a table's columns; see `to_onnx`.

    Raises
    ------
    ImportError, TypeError, ValueError
        As for `to_onnx`; or the name does not end in .onnx.
    OSError
        The file can't be written; nothing is left behind.

    Examples
    --------
    >>> import numpy as np, onnx, onnxruntime, os, tempfile
    >>> import svdfast as sf
    >>> net = sf.Network([4, 20, 3], seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "net.onnx")
    ...     sf.onnx.save(net, path)
    ...     onnx.checker.check_model(path)
    ...     session = onnxruntime.InferenceSession(path)
    >>> X = np.ones((5, 4), dtype="float32")
    >>> (y,) = session.run(None, {"X": X})
    >>> bool((abs(y - net.predict(X)) < 1e-6).all())
    True
    """
    target = Path(path)
    if target.suffix != ".onnx":
        raise ValueError(f"path: expected a name that ends in .onnx, got {target.name!r}")
    content = to_onnx(net, preparation=preparation).SerializeToString()
    with written_whole(target) as file:
        file.write(content)


def _shapes(net: Network) -> tuple[tuple[int | str, ...], tuple[int | str, ...]]:
    """The shapes of a sample and of its outputs. A name stands for any number of steps."""
    takes, gives = net.layout.input_shape, net.layout.output_shape
    if not net.layout.any_steps:
        return takes, gives
    return ("steps", *takes[1:]), ("steps", *gives[1:]) if len(gives) > 1 else gives


def _metadata(net: Network) -> dict[str, str]:
    """The network's knowledge of its data, as text."""
    origin = net.origin.header()
    known = {key: origin[key] for key in ("classes", "feature_names", "preparation") if origin[key] is not None}
    return {"uint8_scale": repr(net.uint8_scale)} | {key: json.dumps(value) for key, value in known.items()}


def _features(graph: _Graph, table: Preparation) -> tuple[list[Any], str]:
    """Adds an input for each column. Returns them, and the network's inputs made of them."""
    inputs, parts = [], []
    for i, column in enumerate(table.columns):
        if isinstance(column, Numeric):
            inputs.append(graph.input(column.name, 1))
            gaps = graph.node("IsNaN", column.name)
            parts.append(graph.node("Where", gaps, graph.scalar(column.fill), column.name))
        else:
            inputs.append(graph.input(column.name, 1, text=True))
            parts.append(_one_hot(graph, column, f"categories_{i}"))
    return inputs, graph.node("Concat", *parts, axis=1)


def _one_hot(graph: _Graph, column: Categorical, name: str) -> str:
    """Zeros and ones (n_samples, n_categories)."""
    import onnx

    numbers = {category: number for number, category in enumerate(column.categories)}
    if GAP in numbers:
        numbers |= dict.fromkeys(sorted(GAPS), numbers[GAP])
    number = graph.node(
        "LabelEncoder", column.name, domain="ai.onnx.ml",
        keys_strings=list(numbers), values_int64s=list(numbers.values()), default_int64=-1,
    )  # fmt: skip
    columns = graph.constant(name, np.arange(len(column.categories))[np.newaxis])
    return graph.node("Cast", graph.node("Equal", number, columns), to=onnx.helper.np_dtype_to_tensor_dtype(graph.dtype))


def _labels(graph: _Graph, net: Network, table: Preparation, y: str) -> list[Any]:
    """Adds an output for each target of classes."""
    import onnx

    head, outputs = head_of(net.layers[-1].activation), []
    for i, target in enumerate(table.targets):
        if target.classes is None:
            continue
        if head is CLASSES:
            number = graph.node("ArgMax", y, axis=1, keepdims=0)
        else:
            probability = graph.node("Gather", y, graph.constant(f"target_{i}", np.array(i)), axis=1)
            second = graph.node("Greater", probability, graph.scalar(0.5))
            number = graph.node("Cast", second, to=onnx.TensorProto.INT64)
        classes = graph.labels(f"classes_{i}", target.classes)
        graph.node("Gather", classes, number)
        name = graph.named("label" if len(table.targets) == 1 else f"label_{target.name}")
        text = isinstance(target.classes[0], str)
        outputs.append(graph.output(name, onnx.TensorProto.STRING if text else onnx.TensorProto.INT64))
    return outputs


class _Graph:
    """Nodes in their order and the constants that they read. A node's output has the node's name.

    Names in `taken`, which a table's columns have, are avoided.
    """

    def __init__(self, dtype: np.dtype[Any], taken: Collection[str] = ()):
        import onnx

        self.dtype = dtype
        self.kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        self.double = dtype == np.float64
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._scalars: dict[float, str] = {}
        self._taken = set(taken)

    def _free(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def input(self, name: str, *sizes: int | str, text: bool = False, integers: bool = False) -> Any:
        """An input (n_samples, ...) of the model, of numbers of its dtype, of text or of integers."""
        import onnx

        kind = onnx.TensorProto.STRING if text else onnx.TensorProto.INT64 if integers else self.kind
        return onnx.helper.make_tensor_value_info(name, kind, ["n_samples", *sizes])

    def output(self, name: str, kind: Any, *sizes: int | str) -> Any:
        """An output (n_samples, ...) of the model."""
        import onnx

        return onnx.helper.make_tensor_value_info(name, kind, ["n_samples", *sizes])

    def named(self, name: str) -> str:
        """Renames the last node's output to this name, or a similar free one."""
        self.nodes[-1].output[0] = name = self._free(name)
        return name

    def labels(self, name: str, classes: Collection[Label]) -> str:
        """Adds labels of one type and gives their name."""
        import onnx

        array = np.array(classes, dtype=object if isinstance(next(iter(classes)), str) else np.int64)
        self.constants.append(onnx.numpy_helper.from_array(array, name := self._free(name)))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of one output and gives the output's name."""
        import onnx

        name = self._free(f"{operator}_{len(self.nodes)}")
        self.nodes.append(
            onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes)
        )
        return name

    def constant(self, name: str, numbers: NDArray[Any]) -> str:
        """Adds an array and gives its name."""
        import onnx

        self.constants.append(onnx.numpy_helper.from_array(numbers, name := self._free(name)))
        return name

    def scalar(self, number: float) -> str:
        """The name of a number, which is stored once."""
        if number not in self._scalars:
            name = f"scalar_{len(self._scalars)}"
            self._scalars[number] = self.constant(name, np.array(number, dtype=self.dtype))
        return self._scalars[number]

    def product(
        self, name: str, of_weight: str, W: NDArray[Any],
        of_bias: str | None = None, b: NDArray[Any] | None = None,
    ) -> str:  # fmt: skip
        """X·Wᵀ + b. The runtime reads W (n_out, n_in) without transposing it."""
        inputs = [name, self.constant(of_weight, W)]
        if of_bias is not None and b is not None:
            inputs.append(self.constant(of_bias, b))
        return self.node("Gemm", *inputs, transB=1)

    def erfcx(self, x: str) -> str:
        """erfcx(x) = e^(x²)·erfc(x) for x ≥ 0: a polynomial in u = 6/(x + 3) − 1, −1 to 1.

        It is evaluated by Horner's rule. It interpolates in Chebyshev's points; at this degree, its
        error is smaller than rounding in float64.
        """
        from scipy.special import erfcx

        with np.errstate(divide="ignore"):  # x is infinite at u = −1
            chebyshev = np.polynomial.chebyshev.chebinterpolate(lambda u: erfcx(6 / (u + 1) - 3), 20)
        coefficients = np.polynomial.chebyshev.cheb2poly(chebyshev)[::-1]
        node, scalar = self.node, self.scalar
        u = node("Sub", node("Div", scalar(6.0), node("Add", x, scalar(3.0))), scalar(1.0))
        value = scalar(float(coefficients[0]))
        for coefficient in coefficients[1:]:
            value = node("Add", node("Mul", value, u), scalar(float(coefficient)))
        return value
