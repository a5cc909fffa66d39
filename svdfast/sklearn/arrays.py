# SPDX-License-Identifier: BSD-3-Clause
"""The lists behind `coefs_` and `intercepts_`: assigning to an item changes the network.

The network itself is elsewhere (svdfast/model).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdfast._process.checks import real_array

__all__ = ["Arrays", "write"]


def write(name: str, arrays: Sequence[NDArray[Any]], values: Iterable[ArrayLike], first: int = 0) -> None:
    """Writes values to arrays of a network: those of layer `first` and the layers after it.

    All values are checked before one is written.

    Raises
    ------
    TypeError, ValueError
        A value is no array of the same shape, or a layer is factored.
    """
    given = list(islice(values, len(arrays) + 1))
    if len(given) != len(arrays):
        got = "more" if len(given) > len(arrays) else len(given)
        raise ValueError(f"{name}: expected {len(arrays)} arrays, one for each layer, got {got}")
    checked = []
    for i, (array, value) in enumerate(zip(arrays, given, strict=True), first):
        new = real_array(f"{name}[{i}]", value)
        if new.shape != array.shape:
            raise ValueError(f"{name}[{i}]: expected shape {array.shape}, as the layer has, got {new.shape}")
        if not array.flags.writeable:
            raise ValueError(f"{name}[{i}]: expected a dense layer to write to, got a factored one: network_.recompose() makes it dense")
        checked.append(new)
    # Copy first, as a value may be a view of another layer.
    for array, new in zip(arrays, [np.array(new) for new in checked], strict=True):
        array[...] = new


class Arrays(list[NDArray[Any]]):
    """A list of views of a network's arrays, one for each layer.

    Assignment to an item writes to the network. The length cannot change.
    """

    def __init__(self, name: str, arrays: Iterable[NDArray[Any]]):
        super().__init__(arrays)
        self._name = name

    def __setitem__(self, place: Any, value: Any) -> None:
        if isinstance(place, slice):
            write(self._name, self[place], value)
        else:
            write(self._name, [self[place]], [value], first=range(len(self))[place])

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)  # a copy belongs to no network

    def _fixed(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"{self._name}: expected one array for each of the {len(self)} layers: the number of layers cannot change")

    append = extend = insert = pop = remove = clear = sort = reverse = _fixed
    __delitem__ = __iadd__ = __imul__ = _fixed
