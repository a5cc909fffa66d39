# SPDX-License-Identifier: BSD-3-Clause
"""A network's layers as ONNX operators; factored layers stay factored.

onnxruntime lacks Conv, AveragePool, RNN, GRU and LSTM for float64, so float64 networks get other
operators. Elsewhere: the model around them (onnx.py), the operators of activations
(model/activations.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from svdfast.interop.pieces import (
    Convolution,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Normalise,
    Piece,
    Pool,
    Recurrent,
    pieces_of,
)
from svdfast.model.layers.steps import LargestOf, Window
from svdfast.model.network import Network

__all__ = ["write_layers"]

Array = NDArray[Any]

# The order of ONNX's gates, as indices of svdfast's gates.
_ORDER = {"rnn_tanh": (0,), "rnn_relu": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
_OPERATOR = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "gru": "GRU", "lstm": "LSTM"}


class Graph(Protocol):
    """The part of onnx.py's graph that writes layers.

    Its methods add nodes and constants, and return their names.
    """

    dtype: np.dtype[Any]
    double: bool
    nodes: list[Any]

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str: ...
    def constant(self, name: str, numbers: Array) -> str: ...
    def scalar(self, number: float) -> str: ...
    def product(self, name: str, of_weight: str, W: Array, of_bias: str | None = None, b: Array | None = None) -> str: ...
    def erfcx(self, x: str) -> str: ...


def write_layers(graph: Graph, net: Network, name: str) -> str:
    """Writes a network with the input `name`. Returns the name of its output.

    Both have the shapes of `Network.predict`.

    Raises
    ------
    ValueError
        A layer or an activation has no counterpart.
    """
    writer = _Writer(graph, net, name)
    for piece in pieces_of(net.layout, "ONNX"):
        writer.add(piece)
    return writer.finish()


class _Writer:
    """The state of writing: the name of the last value, and its layout."""

    def __init__(self, graph: Graph, net: Network, name: str):
        self.graph, self.net, self.name = graph, net, name
        self.layers = net.layers
        self.shape = net.layout.input_shape
        self.first = False  # True: channels come before positions
        self._known: dict[tuple[int, ...], str] = {}

    def add(self, piece: Piece) -> None:
        """Writes a piece."""
        write: Any = {
            Dense: self._dense, Convolution: self._convolution, Embedding: self._embedding, Recurrent: self._recurrent,
            Pool: self._pool, Flatten: self._flatten, Normalise: self._normalise, Dropout: self._nothing,
        }[type(piece)]  # fmt: skip
        write(piece)
        self.shape = piece.made

    def finish(self) -> str:
        """The name of the output, with channels last and positions in one row."""
        self._channels_first(False)
        made = self.net.layout.output_shape
        if self.shape != made:
            self._apply("Reshape", self._integers(0, *made))
        return self.name

    # ---- shared parts

    def _apply(self, operator: str, *inputs: str, **attributes: Any) -> None:
        """Adds a node on the last value."""
        self.name = self.graph.node(operator, self.name, *inputs, **attributes)

    def _integers(self, *numbers: int) -> str:
        if numbers not in self._known:
            self._known[numbers] = self.graph.constant(f"integers_{len(self._known)}", np.array(numbers, np.int64))
        return self._known[numbers]

    def _channels_first(self, first: bool) -> None:
        if self.first != first:
            self.first = first
            last = len(self.shape)
            self._apply("Transpose", perm=[0, last, *range(1, last)] if first else [0, *range(2, last + 1), 1])

    def _products(self, i: int) -> list[tuple[str, Array]]:
        return [(f"{name}_{i}", W) for name, W in self.layers[i].products.items()]

    def _multiply(self, i: int, products: Sequence[tuple[str, Array]], *, bias: bool = True) -> None:
        """Multiplies by one weight after the other, over the last of any number of dimensions."""
        for name, W in products:
            self._apply("MatMul", self.graph.constant(name, np.ascontiguousarray(W.T)))
        if bias:
            self._apply("Add", self.graph.constant(f"b_{i}", self.layers[i].b))

    def _activation(self, piece: Dense | Convolution | Embedding) -> None:
        function = self.layers[piece.layer].activation
        if function.facts.onnx is None:
            raise ValueError(f"net: layer {piece.layer}: expected an activation that ONNX has, got {function.name}")
        self.shape = piece.made
        if function.name == "softmax":
            self._channels_first(False)
        self.name = function.facts.onnx(self.graph, self.name, function.parameter)

    # ---- pieces

    def _dense(self, piece: Dense) -> None:
        i, products = piece.layer, self._products(piece.layer)
        self._channels_first(False)
        if len(piece.shape) > 1:
            self._multiply(i, products)
        else:
            *first, (name, W) = products
            for of_weight, factor in first:
                self.name = self.graph.product(self.name, of_weight, factor)
            self.name = self.graph.product(self.name, name, W, f"b_{i}", self.layers[i].b)
        self._activation(piece)

    def _convolution(self, piece: Convolution) -> None:
        (name, W), *others = self._products(piece.layer)
        window, i = piece.window, piece.layer
        if self.graph.double:
            self._channels_first(False)
            if len(piece.shape) == 2:
                self._apply("Unsqueeze", self._integers(1))
            views = self._views(window, piece.shape[-1], 0.0)
            self.name = views[0] if len(views) == 1 else self.graph.node("Concat", *views, axis=-1)
            self._multiply(i, [(name, W), *others])
            if len(piece.shape) == 2:
                self._apply("Squeeze", self._integers(1))
        else:
            self._channels_first(True)
            dims = len(piece.shape) - 1
            kernel = np.moveaxis(W.reshape(len(W), window.window_height, window.window_width, -1), -1, 1)
            kernels = [(name, kernel), *((other, V[:, :, np.newaxis, np.newaxis]) for other, V in others)]
            for j, (of_weight, V) in enumerate(kernels):
                V = np.ascontiguousarray(V if dims == 2 else V[:, :, 0])
                biases = [self.graph.constant(f"b_{i}", self.layers[i].b)] if j == len(others) else []
                places = {} if j else {"strides": [window.down, window.across][-dims:], "pads": _pads(window, dims)}
                self._apply("Conv", self.graph.constant(of_weight, V), *biases, kernel_shape=V.shape[2:], **places)
        self._activation(piece)

    def _views(self, window: Window, channels: int, fill: float) -> list[str]:
        """For each element of the window, the positions under it, (n, rows, columns, channels)."""
        if any((window.top, window.left, window.bottom, window.right)):
            sides = self._integers(0, window.top, window.left, 0, 0, window.bottom, window.right, 0)
            self._apply("Pad", sides, self.graph.scalar(fill))
        if (window.window_height, window.window_width, window.down, window.across) == (1, 1, 1, 1):
            return [self.name]
        views = []
        for y, x in itertools.product(range(window.window_height), range(window.window_width)):
            ends = self._integers(y + (window.rows - 1) * window.down + 1, x + (window.columns - 1) * window.across + 1)
            places = self._integers(y, x), ends, self._integers(1, 2), self._integers(window.down, window.across)
            views.append(self.graph.node("Slice", self.name, *places))
        return views

    def _pool(self, piece: Pool) -> None:
        window = piece.window
        size = (window.window_height, window.window_width)
        places = {"kernel_shape": size, "strides": [window.down, window.across], "pads": _pads(window, 2)}
        if isinstance(window, LargestOf):
            self._channels_first(True)
            self._apply("MaxPool", **places)
        elif size == piece.shape[:2] and not any(_pads(window, 2)):
            self._channels_first(True)
            self._apply("ReduceMean", axes=[2, 3], keepdims=1)
        elif not self.graph.double:
            self._channels_first(True)
            self._apply("AveragePool", count_include_pad=0, **places)
        else:
            self._channels_first(False)
            self.name = self.graph.node("Sum", *self._views(window, piece.shape[-1], 0.0))
            within = _within(window).astype(self.graph.dtype)
            self._apply("Div", self.graph.constant(f"within_{len(self.graph.nodes)}", within))

    def _embedding(self, piece: Embedding) -> None:
        (name, W), *others = self._products(piece.layer)
        # The last row, of zeros, is for numbers that are not tokens.
        vectors = np.concatenate([W.T, np.zeros((1, len(W)), W.dtype)])
        node, none, n = self.graph.node, self._integers(0), self._integers(piece.n_tokens)
        known = node("And", node("GreaterOrEqual", self.name, none), node("Less", self.name, n))
        tokens = node("Where", known, self.name, n)
        self.name = node("Gather", self.graph.constant(name, vectors), tokens, axis=0)
        self._multiply(piece.layer, others)
        self._activation(piece)

    def _recurrent(self, piece: Recurrent) -> None:
        self._channels_first(False)
        if not self.graph.double and all(len(self._products(i)) == 1 for i in piece.scans):
            self._operator(piece)
        else:
            self._loops(piece)

    def _operator(self, piece: Recurrent) -> None:
        """Writes ONNX's recurrent operator, behind all factors of the input but the last."""
        i, n = piece.layer, len(piece.scans)
        *first, (name, weight) = self._products(i)
        self._multiply(i, first, bias=False)
        order, cell = _ORDER[piece.cell], piece.cell

        def sorted_gates(numbers: Array) -> Array:
            gates = np.split(numbers, len(order))
            return np.concatenate([gates[gate] for gate in order])

        W = np.stack([sorted_gates(half) for half in np.split(weight, n)])
        R = np.stack([sorted_gates(self._products(scan)[0][1]) for scan in piece.scans])
        halves = zip(np.split(self.layers[i].b, n), piece.scans, strict=True)
        b = np.stack([np.concatenate([sorted_gates(half), sorted_gates(self.layers[scan].b)]) for half, scan in halves])
        constant = self.graph.constant
        numbers = constant(name, W), constant(f"W_{piece.scans[0]}", R), constant(f"b_{i}", b)
        more: dict[str, Any] = {"linear_before_reset": 1} if cell == "gru" else {}
        if cell.startswith("rnn"):
            more = {"activations": [cell.removeprefix("rnn_").capitalize()] * n}
        self._apply("Transpose", perm=[1, 0, 2])
        direction = "bidirectional" if n == 2 else "forward"
        self._apply(_OPERATOR[cell], *numbers, hidden_size=piece.n, direction=direction, **more)
        if piece.sequences:  # (steps, directions, n_samples, states)
            self._apply("Transpose", perm=[2, 0, 1, 3])
            self._apply("Reshape", self._integers(0, 0, piece.made[-1]))
        else:
            outputs = self.graph.nodes[-1].output
            outputs.insert(0, "")  # the second output, (directions, n_samples, states)
            self._apply("Transpose", perm=[1, 0, 2])
            self._apply("Reshape", self._integers(0, *piece.made))

    def _loops(self, piece: Recurrent) -> None:
        """Writes ONNX's Scan over the steps. Its body has two products for the state's factors."""
        self._multiply(piece.layer, self._products(piece.layer))
        z, n = self.name, len(piece.scans)
        halves = [z]
        if n == 2:
            node = self.graph.node("Split", z, axis=-1)
            halves = [node, f"{node}_second"]
            self.graph.nodes[-1].output.append(halves[1])
        sides = [self._loop(piece, scan, half, backward=k == 1) for k, (scan, half) in enumerate(zip(piece.scans, halves, strict=True))]
        self.name = sides[0] if n == 1 else self.graph.node("Concat", *sides, axis=-1)

    def _loop(self, piece: Recurrent, scan: int, z: str, *, backward: bool) -> str:
        """The states (n_samples, steps, n) of a direction, or the last one (n_samples, n)."""
        import onnx

        graph, kind = self.graph, onnx.helper.np_dtype_to_tensor_dtype(self.graph.dtype)
        samples = graph.node("Shape", z, start=0, end=1)
        zero = onnx.numpy_helper.from_array(np.zeros(1, graph.dtype))
        state = graph.node("ConstantOfShape", graph.node("Concat", samples, self._integers(piece.n), axis=0), value=zero)
        body = _Body(graph, f"scan_{scan}_")
        h, c, x = body.prefix + "h", body.prefix + "c", body.prefix + "z"
        r = h
        for name, W in self._products(scan):
            r = body.node("MatMul", r, graph.constant(name, np.ascontiguousarray(W.T)))
        r = body.node("Add", r, graph.constant(f"b_{scan}", self.layers[scan].b))
        made = _cell(body, piece.cell, x, r, h, c)
        # The state is an output twice: for the next step, and of each step.
        made.append(body.node("Identity", made[0]))
        states = [h, c][: len(made) - 1]
        value = onnx.helper.make_tensor_value_info
        inputs = [value(name, kind, None) for name in (*states, x)]
        subgraph = onnx.helper.make_graph(body.nodes, f"scan_{scan}", inputs, [value(name, kind, None) for name in made])
        way = int(backward)
        last = graph.node(
            "Scan", *[state] * len(states), z, body=subgraph, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1],
            scan_input_directions=[way], scan_output_directions=[way],
        )  # fmt: skip
        names = [last, *(f"{last}_{k}" for k in range(len(states)))]
        graph.nodes[-1].output.extend(names[1:])
        return names[-1] if piece.sequences else last

    def _flatten(self, piece: Flatten) -> None:
        if len(piece.shape) > 1:
            self._channels_first(False)
            self._apply("Reshape", self._integers(0, *piece.made))

    def _normalise(self, piece: Normalise) -> None:
        self._channels_first(False)
        if self.graph.double:  # LayerNormalization would round epsilon to float32
            self._apply("Sub", self.graph.node("ReduceMean", self.name, axes=[-1]))
            variance = self.graph.node("ReduceMean", self.graph.node("Mul", self.name, self.name), axes=[-1])
            self._apply("Div", self.graph.node("Sqrt", self.graph.node("Add", variance, self.graph.scalar(piece.epsilon))))
        else:
            ones = self.graph.constant(f"ones_{len(self.graph.nodes)}", np.ones(piece.shape[-1], self.graph.dtype))
            self._apply("LayerNormalization", ones, axis=-1, epsilon=piece.epsilon)

    def _nothing(self, piece: Dropout) -> None:
        """Writes nothing, as inference drops nothing."""


class _Body:
    """Nodes of a Scan's body. Constants belong to the graph around it."""

    def __init__(self, graph: Graph, prefix: str):
        self.graph, self.prefix = graph, prefix
        self.nodes: list[Any] = []

    def node(self, operator: str, *inputs: str, n_outputs: int = 1, **attributes: Any) -> str:
        """Adds a node. Returns its first output's name; further names end in a number."""
        import onnx

        name = f"{self.prefix}{operator}_{len(self.nodes)}"
        outputs = [name, *(f"{name}_{k}" for k in range(1, n_outputs))]
        self.nodes.append(onnx.helper.make_node(operator, list(inputs), outputs, name=name, **attributes))
        return name

    def split(self, name: str, n: int) -> list[str]:
        """Splits a value into n gates, which lie side by side."""
        first = self.node("Split", name, n_outputs=n, axis=-1)
        return [first, *(f"{first}_{k}" for k in range(1, n))]


def _cell(body: _Body, cell: str, z: str, r: str, h: str, c: str) -> list[str]:
    """The next state, and the memory of an LSTM. The formulas are those of svdfast.layers."""
    node = body.node
    if cell == "gru":
        (z_reset, z_keep, z_new), (r_reset, r_keep, r_new) = body.split(z, 3), body.split(r, 3)
        reset, keep = node("Sigmoid", node("Add", z_reset, r_reset)), node("Sigmoid", node("Add", z_keep, r_keep))
        new = node("Tanh", node("Add", z_new, node("Mul", reset, r_new)))
        return [node("Add", new, node("Mul", keep, node("Sub", h, new)))]
    total = node("Add", z, r)
    if cell == "lstm":
        i, f, g, o = body.split(total, 4)
        kept = node("Mul", node("Sigmoid", f), c)
        memory = node("Add", kept, node("Mul", node("Sigmoid", i), node("Tanh", g)))
        return [node("Mul", node("Sigmoid", o), node("Tanh", memory)), memory]
    return [node("Tanh" if cell == "rnn_tanh" else "Relu", total)]


def _pads(window: Window, dims: int) -> list[int]:
    """The padding of the last dimensions: before each, then after each."""
    return [*(window.top, window.left)[-dims:], *(window.bottom, window.right)[-dims:]]


def _within(window: Window) -> Array:
    """The number of the image's positions under the window, (rows, columns, 1)."""
    def along(n: int, size: int, stride: int, before: int, places: int) -> Array:
        starts = np.arange(places) * stride - before
        counted: Array = np.minimum(starts + size, n) - np.maximum(starts, 0)
        return counted

    down = along(window.height, window.window_height, window.down, window.top, window.rows)
    across = along(window.width, window.window_width, window.across, window.left, window.columns)
    return (down[:, np.newaxis] * across)[..., np.newaxis]
