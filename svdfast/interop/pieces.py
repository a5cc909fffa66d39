# SPDX-License-Identifier: BSD-3-Clause
"""Splits a layout into pieces that other libraries have.

A recurrent layer is one piece, and so is each step without weights. Elsewhere: how a piece is
written for a library (torch_writing.py, onnx_layers.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from svdfast.model.layers import Scan, Step, WeightLayer
from svdfast.model.layers import steps as step
from svdfast.model.layout import Layout

__all__ = ["Convolution", "Dense", "Dropout", "Embedding", "Flatten", "Normalise", "Piece", "Pool", "Recurrent", "pieces_of"]

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class _Shaped:
    """A piece's input and output shapes of a sample.

    They are (features,), (steps, features) or (height, width, channels).
    """

    shape: Shape
    made: Shape


@dataclass(frozen=True)
class Dense(_Shaped):
    """The layer of this index, at each step or position."""

    layer: int


@dataclass(frozen=True)
class Convolution(_Shaped):
    """The layer of this index, over patches; over sequences if the shape has two sizes."""

    layer: int
    window: step.Window


@dataclass(frozen=True)
class Embedding(_Shaped):
    """The layer of this index, for tokens (steps,)."""

    layer: int
    n_tokens: int


@dataclass(frozen=True)
class Recurrent(_Shaped):
    """A recurrent layer. `layer` has the input's weight; `scans` have the state's, by direction."""

    layer: int
    cell: str
    scans: tuple[int, ...]
    n: int
    sequences: bool = True


@dataclass(frozen=True)
class Pool(_Shaped):
    window: step.LargestOf | step.MeanOf


@dataclass(frozen=True)
class Flatten(_Shaped):
    pass


@dataclass(frozen=True)
class Normalise(_Shaped):
    """Normalises the last dimension."""

    epsilon: float


@dataclass(frozen=True)
class Dropout(_Shaped):
    rate: float


Piece: TypeAlias = Dense | Convolution | Embedding | Recurrent | Pool | Flatten | Normalise | Dropout


def pieces_of(layout: Layout, library: str) -> tuple[Piece, ...]:
    """The layers in order.

    Raises
    ------
    ValueError
        A step has no counterpart in other libraries, or none in its place. The message names
        `library`.
    """
    pieces: list[Piece] = []
    shape, i = layout.input_shape, 0
    while i < len(layout.layers):
        layer = layout.layers[i]
        try:
            steps = list(layer.steps)
            last = steps.pop() if steps and isinstance(steps[-1], step.Patches | step.OneHot) else None
            if isinstance(last, step.OneHot):
                steps = steps if layout.any_steps else _without_rows(steps, shape)
            for each in steps:
                shape = _add(pieces, each, shape)
            piece: Piece = _weighted(layout, i, shape, last, pieces)
        except _NoCounterpart as error:
            raise ValueError(f"net: layer {i}: expected layers that {library} has, got {error}") from None
        pieces.append(piece)
        shape = piece.made
        i += 1 + (len(piece.scans) if isinstance(piece, Recurrent) else 0)
    return tuple(pieces)


class _NoCounterpart(Exception):
    """A step has no counterpart. The text names the step."""


def _without_rows(steps: list[Step], shape: Shape) -> list[Step]:
    if len(shape) != 1 or not steps or steps[-1] != step.Rows(shape[0]):
        raise _NoCounterpart(f"an Embedding of inputs of shape {shape}")
    return steps[:-1]


def _add(pieces: list[Piece], each: Step, shape: Shape) -> Shape:
    """Appends a step without weights; returns the shape after it."""
    if isinstance(each, step.BySteps | step.BySamples):
        return shape  # only the shape changes, the numbers stay
    if isinstance(each, step.Dropout):
        pieces.append(Dropout(shape, shape, each.rate))
    elif isinstance(each, step.Normalise):
        pieces.append(Normalise(shape, shape, each.epsilon))
    elif isinstance(each, step.Flatten):
        pieces.append(Flatten(shape, (math.prod(shape),)))
    elif isinstance(each, step.LargestOf | step.MeanOf) and shape[:-1] == (each.height, each.width):
        pieces.append(Pool(shape, (each.rows, each.columns, shape[-1]), each))
    elif isinstance(each, step.LastStep) and pieces and isinstance(before := pieces[-1], Recurrent):
        if each.reverse != (before.n if len(before.scans) == 2 else 0):
            raise _NoCounterpart(f"{each}")
        pieces[-1] = replace(before, sequences=False, made=shape[-1:])
    elif isinstance(each, step.Mask):
        raise _NoCounterpart("Masking, which passes by steps wherever they are")
    else:
        raise _NoCounterpart(f"{each}")
    return pieces[-1].made


def _weighted(layout: Layout, i: int, shape: Shape, last: Any, pieces: list[Piece]) -> Piece:
    """The piece of a layer, whose steps without weights are pieces already."""
    layer, after = layout.layers[i], layout.layers[i + 1 : i + 3]
    if isinstance(last, step.OneHot):
        if not all(isinstance(piece, Dropout) for piece in pieces):
            raise _NoCounterpart("an Embedding after other layers")
        return Embedding(shape, (*shape, layer.n_out), i, last.n)
    if isinstance(last, step.Patches):
        if shape[:-1] == (last.height, last.width):
            return Convolution(shape, (last.rows, last.columns, layer.n_out), i, last)
        if shape[:-1] == (last.width,) and last.height == last.window_height == 1:
            return Convolution(shape, (last.columns, layer.n_out), i, last)
        raise _NoCounterpart(f"{last} of inputs of shape {shape}")
    scans = _scans(after)
    if not isinstance(layer, Scan) and not scans:
        return Dense(shape, (*shape[:-1], layer.n_out), i)
    if isinstance(layer, Scan) or layer.activation.name != "identity" or len(shape) != 2:
        raise _NoCounterpart("a Scan without a Linear of the activation identity before it")
    n = scans[0].n_in
    made = (shape[0], n * len(scans))
    return Recurrent(shape, made, i, scans[0].cell, tuple(range(i + 1, i + 1 + len(scans))), n)


def _scans(after: tuple[WeightLayer, ...]) -> list[Scan]:
    """The Scans, among the next two layers, that take the output of a recurrent layer's input."""
    scans = [layer for layer in after if isinstance(layer, Scan) and not layer.steps]
    if len(scans) == 2 and [scan.half for scan in scans] == [1, 2] and scans[0].cell == scans[1].cell:
        return scans
    return scans[:1] if after and scans[:1] == list(after[:1]) and scans[0].half == 0 else []
