# SPDX-License-Identifier: BSD-3-Clause
"""The place of each tensor in a network's one flat vector, and the program that computes with it.

All weights come first, layer by layer, then all biases, without gaps. So penalties apply to one
stretch of the vector, and gradients and moments share the layout. A layout holds places, no
numbers; the vector itself belongs to `Network`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from svdfast._process.checks import MAX_SIZE, count
from svdfast.model.activations import Activation
from svdfast.model.layers import Linear, Scan, WeightLayer
from svdfast.model.layers import steps as step
from svdfast.model.layers.weighted import Weighted
from svdfast.model.program import Operation, Program, Tensor
from svdfast.model.structures import Dense, Structure, parse

__all__ = ["Layout", "Weight", "check_state"]


# Layouts that are kept, each written for a number of steps, by a layout for any number of steps.
_MOST_WRITTEN = 16


@dataclass(frozen=True)
class Weight(Weighted):
    """A layer's weight, and its place in the network.

    Attributes
    ----------
    structure : Structure
    rows : int
        Input rows per sample: steps of sequences, positions in images.
    first : bool
        True if no one needs the delta of its inputs, as in the first layer.
    """

    structure: Structure
    rows: int = 1
    first: bool = False


@dataclass(frozen=True)
class Layout:
    """The layers in order, and their tensors.

    Attributes
    ----------
    layers : tuple of Linear or Scan
    input : tuple of int
        Shape of a sample. Empty stands for the number of inputs of the first layer. (None,) and
        (None, features) stand for any number of steps.
    steps : int
        Number of steps that it is written for, if it takes any number. Layouts that differ only in
        this are equal: weights do not depend on it.
    tensors : tuple of Tensor
        In their order in the vector: weights, then biases.
    """

    layers: tuple[WeightLayer, ...]
    input: tuple[int | None, ...] = ()
    steps: int = field(default=1, compare=False)

    @classmethod
    def dense(cls, sizes: Sequence[int], activations: Sequence[Activation]) -> Layout:
        """Fully connected layers, dense: sizes[0] inputs, and a layer for each further size."""
        shapes = zip(sizes[:-1], sizes[1:], activations, strict=True)
        return cls(tuple(Linear(Dense(n_out, n_in), activation) for n_in, n_out, activation in shapes))

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        placed: list[Tensor] = []
        for decays in (True, False):
            for i, layer in enumerate(self.layers):
                for name, shape in layer.structure.tensors() if decays else (("b", (layer.n_out,)),):
                    place = placed[-1].stop if placed else 0
                    placed.append(Tensor(f"layers.{i}.{name}", shape, place, decays, i))
        return tuple(placed)

    @cached_property
    def _by_layer(self) -> tuple[tuple[Tensor, ...], ...]:
        owned: list[list[Tensor]] = [[] for _ in self.layers]
        for tensor in self.tensors:
            owned[tensor.layer].append(tensor)
        return tuple(map(tuple, owned))

    @cached_property
    def program(self) -> Program:
        """The operations from a sample to the output."""
        shape = (*self.input_shape, 1) if self.input == (None,) else self.input_shape
        program, x, size = Program(shape[-1], math.prod(shape[:-1])), 0, math.prod(shape)
        for i, layer in enumerate(self.layers):
            made = len(program.values)
            x = layer.emit(program, x, self.weights(i), self.of(i)[-1])
            size += sum(value.size for value in program.values[made:] if value.view_of is None)
            if size > MAX_SIZE:
                raise ValueError(f"layers.{i}: expected at most {MAX_SIZE} numbers of a sample, up to here, got {size}")
        unused = {tensor.name for tensor in self.tensors} - {o.tensor.name for o in program.operations if o.tensor is not None}
        if unused:
            raise ValueError(f"{min(unused)}: expected an operation with this tensor, got none")
        return program

    @property
    def any_steps(self) -> bool:
        """True if a sample may have any number of steps."""
        return self.input[:1] == (None,)

    def of_steps(self, steps: int) -> Layout:
        """This layout written for so many steps, if it takes any number of them."""
        if not self.any_steps or steps == self.steps:
            return self
        known = self._written.get(steps)
        if known is None:
            if len(self._written) >= _MOST_WRITTEN:
                self._written.clear()
            known = self._written[steps] = replace(self, steps=steps)
        return known

    @cached_property
    def _written(self) -> dict[int, Layout]:
        """Layouts that are kept, because writing a program takes about a millisecond."""
        return {}

    def of_columns(self, n_columns: int) -> Layout:
        """This layout written for samples of so many numbers, if it takes any number of steps."""
        return self.of_steps(n_columns // math.prod(self.input_shape[1:])) if self.any_steps else self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a sample."""
        return tuple(self.steps if n is None else n for n in self.input) or (self.layers[0].n_in,)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of a sample's output: (n_outputs,), or (steps, n_outputs), even for one step."""
        last = self.program.values[-1]
        in_rows = self.any_steps or len(self.input_shape) > 1
        for each in (each for layer in self.layers for each in layer.steps):
            in_rows = isinstance(each, step.Rows) or (in_rows and not isinstance(each, step.Flatten | step.LastStep))
        return (last.rows_per_sample, last.width) if in_rows or last.rows_per_sample > 1 else (last.width,)

    @cached_property
    def placed(self) -> tuple[Weight, ...]:
        """Each layer's weight and its place."""
        program, first = self.program, self.first_products
        return tuple(
            Weight(layer.structure, program.values[first[i].output].rows_per_sample, not program.needs_delta(first[i].input))
            for i, layer in enumerate(self.layers)
        )

    @cached_property
    def first_products(self) -> tuple[Operation, ...]:
        """The operation that multiplies each layer's inputs."""
        found = dict[int, Operation]()
        for operation in self.program.operations:
            if operation.tensor is not None and operation.tensor.decays:
                found.setdefault(operation.tensor.layer, operation)
        return tuple(found[i] for i in range(len(self.layers)))

    @property
    def rows(self) -> tuple[int, ...]:
        """Input rows per sample of each layer's weight."""
        return tuple(weight.rows for weight in self.placed)

    @property
    def by_rows(self) -> bool:
        """True if all layers are fully connected.

        Each one then takes the outputs of the layer before it as they are, one row per sample.
        """
        return not self.input and all(isinstance(layer, Linear) and not layer.steps for layer in self.layers)

    @cached_property
    def by_steps(self) -> tuple[bool, ...]:
        """For each layer, True if its input rows lie step by step."""
        found, now = [], False
        for layer in self.layers:
            for each in layer.steps:
                now = each.order(now)
            found.append(now)
        return tuple(found)

    @cached_property
    def n_tokens(self) -> int:
        """Number of tokens, if a sample's numbers are tokens (0, 1, ...); else 0."""
        for each in self.layers[0].steps:
            if isinstance(each, step.OneHot):
                return each.n
            if not isinstance(each, step.Rows | step.BySteps | step.BySamples):
                break
        return 0

    @cached_property
    def size(self) -> int:
        """Length of the vector."""
        return self.tensors[-1].stop if self.tensors else 0

    @cached_property
    def n_weights(self) -> int:
        """Number of its elements that decay. They come first."""
        return max((tensor.stop for tensor in self.tensors if tensor.decays), default=0)

    @cached_property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """Start and end of each layer's weights, which share a learning rate."""
        weights = [self.weights(i) for i in range(len(self.layers))]
        return tuple((tensors[0].place, tensors[-1].stop) for tensors in weights)

    def of(self, layer: int) -> tuple[Tensor, ...]:
        """A layer's tensors, those of its weight first."""
        return self._by_layer[layer]

    def weights(self, layer: int) -> tuple[Tensor, ...]:
        """The tensors of a layer's weight."""
        return tuple(tensor for tensor in self.of(layer) if tensor.decays)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of a sample, then outputs of each layer per step or position."""
        return (math.prod(self.input_shape), *(layer.width for layer in self.layers))

    @property
    def structures(self) -> tuple[Structure, ...]:
        """Structure of each layer's weight."""
        return tuple(layer.structure for layer in self.layers)

    @property
    def ranks(self) -> tuple[int | None, ...]:
        """Rank of each layer; None if its structure has none."""
        return tuple(layer.rank for layer in self.layers)

    @property
    def factored(self) -> tuple[int, ...]:
        """The layers whose weights are factored."""
        return tuple(i for i, structure in enumerate(self.structures) if structure.factored)

    @property
    def factorable(self) -> tuple[Weight, ...]:
        """The weights that may be factored: those of all layers but the output layer."""
        return self.placed[:-1]

    def with_structures(self, structures: Iterable[Structure]) -> Layout:
        """The same layers, the first ones with these structures."""
        given = tuple(structures)
        changed = (replace(layer, structure=new) for layer, new in zip(self.layers, given, strict=False))
        return replace(self, layers=(*changed, *self.layers[len(given) :]))

    def recomposed(self) -> Layout:
        """The same layers, all dense."""
        return self.with_structures(Dense(layer.n_out, layer.n_in) for layer in self.layers)

    def checked(self) -> Layout:
        """This layout, if it can be used.

        Its parameters must not be too many to count, and its program must be possible to write.

        Raises
        ------
        TypeError, ValueError
            It can't be used. With svdfast's own structures, only its size can be the reason.
        """
        names = {tensor.name for tensor in self.tensors}
        if self.size > MAX_SIZE or len(names) < len(self.tensors):
            raise ValueError(f"layout: expected at most {MAX_SIZE} parameters in tensors of different names, got {self.size}")
        if min(min(tensor.shape, default=0) for tensor in self.tensors) < 1:
            raise ValueError("layout: expected tensors of sizes ≥ 1, got others")
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Scan):
                layer.check(self.layers[i - 1] if i > 0 else None, self.layers[i + 1 :])
                if not self.by_steps[i]:
                    raise ValueError(f"layers.{i}: expected rows {step.ORDERS[True]}, got rows {step.ORDERS[False]}")
        if self.by_steps[-1]:
            raise ValueError(f"layers.{len(self.layers) - 1}: expected rows {step.ORDERS[False]}, got rows {step.ORDERS[True]}")
        if self.any_steps:
            self._check_any_steps()
        _ = self.program
        return self

    def _check_any_steps(self) -> None:
        if len(self.input) == 1 and self.n_tokens == 0:
            raise ValueError("input: expected tokens where a sample is any number of them, got other numbers")
        for i, each in ((i, each) for i, layer in enumerate(self.layers) for each in layer.steps):
            if isinstance(each, step.LastStep):
                break
            if isinstance(each, step.Rows | step.Flatten | step.Window):
                raise ValueError(f"layers.{i}: expected what takes any number of steps, got {type(each).__name__}")

    def header(self) -> dict[str, Any]:
        """The layout in plain values, as files keep it."""
        layers = []
        for layer in self.layers:
            values = {"n_in": layer.n_in, "n_out": layer.n_out, "weight": layer.structure.header()}
            if isinstance(layer, Scan):
                values |= {"cell": layer.cell, "half": layer.half}
            else:
                values["activation"] = [layer.activation.name, layer.activation.parameter]
            if layer.steps:
                values["steps"] = [each.header() for each in layer.steps]
            layers.append(values)
        return {"layers": layers} | ({"input": list(self.input)} if self.input else {})

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Layout:
        """The layout of a `header`. Every value is checked; nothing in it is trusted."""
        layers: list[WeightLayer] = []
        given: tuple[Any, ...] = tuple(values.get("input", ()))
        shape = tuple(
            None if n is None and i == 0 and len(given) < 3 else count("input", n, maximum=MAX_SIZE) for i, n in enumerate(given)
        )
        if len(shape) > 3 or math.prod(n or 1 for n in shape) > MAX_SIZE:
            raise ValueError("its input is not of 1 to 3 sizes")
        for layer in values["layers"]:
            n_in, n_out = (count(name, layer[name], maximum=MAX_SIZE) for name in ("n_in", "n_out"))
            steps = tuple(step.parse(each) for each in layer.get("steps", ()))
            structure = parse(n_out, n_in, layer["weight"])
            if "cell" in layer:
                layers.append(Scan(structure, layer["cell"], count("half", layer["half"], minimum=0, maximum=2), steps))
            else:
                name, parameter = layer["activation"]
                layers.append(Linear(structure, Activation(name, parameter), steps))
        if not layers or len(layers) - 1 in cls(tuple(layers)).factored or not isinstance(layers[-1], Linear):
            raise ValueError("it has no dense output layer")
        return cls(tuple(layers), shape).checked()

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}  # a program is no plain value


def check_state(layout: Any, parameters: Any, *, or_one: bool = False) -> None:
    """Raises an error unless `layout` is a Layout and `parameters` are an array that fits it.

    With `or_one`, one number for all parameters is accepted, too.
    """
    if not isinstance(layout, Layout):
        raise TypeError(f"layout: expected a Layout, got {type(layout).__name__}")
    if not isinstance(parameters, np.ndarray) or isinstance(parameters, np.ma.MaskedArray):
        raise TypeError(f"parameters: expected an ndarray, got {type(parameters).__name__}")
    shapes = ((layout.size,), ()) if or_one else ((layout.size,),)
    if parameters.shape not in shapes or parameters.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"parameters: expected shape ({layout.size},) and dtype float32 or float64, "
            f"got shape {parameters.shape} and dtype {parameters.dtype}"
        )
