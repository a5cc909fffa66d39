# SPDX-License-Identifier: BSD-3-Clause
"""Standardises features and targets, and folds the scales into a network.

Standardised columns have mean 0 and standard deviation 1. The network then takes and gives the
original values. Elsewhere: the data themselves (data.py).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdfast._process.runtime import single_threaded_blas
from svdfast.cli.errors import Failure
from svdfast.model.network import Layer, Network

__all__ = ["Scale", "scale_of", "standardise", "take_in", "take_out", "unit_of", "with_scales"]

Array = NDArray[Any]
Scale: TypeAlias = tuple[Array, Array]  # mean and standard deviation of each column; without dimensions, of all columns

_MOST_DEVIATIONS = 1000


def scale_of(values: Array, name: str) -> Scale:
    """Mean and standard deviation of each column.

    A column that does not vary gets its value and 1, so that it becomes 0.
    """
    with np.errstate(all="ignore"):
        mean = values.mean(axis=0, dtype=np.float64)
        deviation = values.std(axis=0, dtype=np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise Failure(f"{name}: the numbers are too large to standardise")
    # The rounded sum of equal numbers gives another mean, and a deviation above 0.
    constant = values.max(axis=0) == values.min(axis=0)
    return np.where(constant, values[0], mean), np.where(constant | (deviation == 0), 1.0, deviation)


def unit_of(values: Array, name: str) -> Scale:
    """0 and the root mean square of all numbers; 1 if they are all 0."""
    with np.errstate(all="ignore"):
        square = np.square(values, dtype=np.float64).mean()
    if not np.isfinite(square):
        raise Failure(f"{name}: the numbers are too large to standardise")
    return np.zeros(()), np.sqrt(square) if square > 0 else np.ones(())


def standardise(values: Array, scale: Scale) -> Array:
    mean, deviation = scale
    return (values - mean) / deviation


def with_scales(net: Network, X_scale: Scale | None, y_scale: Scale | None, untrained: NDArray[np.bool_]) -> Network:
    """A network that takes the file's own features and, in a regression, gives its own targets.

    Standardising is linear, so the first layer and the last one can absorb it. If that would cost
    digits, the network becomes float64. Untrained inputs, which were 0 in all training rows, get
    weights of 0 if each input has weights of its own.
    """
    by_column = net.layout.by_rows
    # A float32 x has a rounding error that weighs |mean|/deviation times as much in (x -
    # mean)/deviation.
    blurred = [abs(mean) > _MOST_DEVIATIONS * deviation for mean, deviation in filter(None, (X_scale, y_scale))]
    if X_scale is not None and by_column:
        blurred[0] &= ~untrained
    net = _in_float64(net) if any(map(np.any, blurred)) else net.copy()
    if X_scale is not None:
        if by_column:
            next(iter(net.layers[0].products.values()))[:, untrained] = 0
        take_in(net, X_scale)
    if y_scale is not None:
        mean, deviation = y_scale
        layer = net.layers[-1]
        layer.W[...] = layer.W * deviation[:, np.newaxis]
        layer.b[...] = layer.b * deviation + mean
    return net


@single_threaded_blas.held()
def take_in(net: Network, scale: Scale) -> None:
    """Changes a network of standardised inputs to one of the original inputs x.

    W·(x - mean)/deviation + b.
    """
    mean, deviation = scale
    layer = net.layers[0]
    right = next(iter(layer.products.values()))  # the first weight that inputs meet
    right[...] = right / deviation
    layer.b[...] = layer.b - _times(layer, mean)  # by the rounded weights


@single_threaded_blas.held()
def take_out(net: Network, scale: Scale) -> None:
    """Reverses `take_in`: u = (x - mean)/deviation are the inputs, W·(deviation·u + mean) + b."""
    mean, deviation = scale
    layer = net.layers[0]
    right = next(iter(layer.products.values()))
    layer.b[...] = layer.b + _times(layer, mean)
    right[...] = right * deviation


def _times(layer: Layer, x: Array) -> Array:
    """W·x."""
    x = np.broadcast_to(x, layer.n_in)
    for factor in layer.products.values():
        x = factor @ x
    return x


def _in_float64(net: Network) -> Network:
    return Network.of(net.layout, net.parameters.astype(np.float64), net.uint8_scale)
