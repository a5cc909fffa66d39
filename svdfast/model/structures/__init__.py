# SPDX-License-Identifier: BSD-3-Clause
"""Forms of weights: `Dense`, `LowRank`, and those that others add.

Only this folder and src/ops know the form of a weight.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from svdfast._process.checks import MAX_SIZE, count
from svdfast.model.structures.dense import Dense
from svdfast.model.structures.low_rank import LowRank
from svdfast.model.structures.structure import Array, Fit, Moment, Structure

__all__ = ["Array", "Dense", "Fit", "LowRank", "Moment", "Structure", "check_kind", "kind_named", "of_rank", "parse"]

# Each structure is a file of this folder. A class is registered when it is defined.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def of_rank(n_out: int, n_in: int, rank: Any, name: str = "rank") -> Structure:
    """Two factors of a given rank, which is checked. None gives the weight as it is."""
    return Dense(n_out, n_in) if rank is None else LowRank(n_out, n_in, count(name, rank))


def check_kind(structure: Any) -> None:
    """Raises TypeError unless an argument `structure` is a class of structures with a rank."""
    if not (isinstance(structure, type) and issubclass(structure, Structure)):
        raise TypeError(f"structure: expected a subclass of Structure, got {structure!r:.100}")
    if inspect.isabstract(structure) or not structure.factored:
        raise TypeError(f"structure: expected a class with all methods of a structure, and with a rank, got {structure.__name__}")


def kind_named(name: str) -> type[Structure]:
    """The class whose name a file contains."""
    if name not in Structure.kinds:
        raise ValueError(f"structure {str(name)[:40]!r}: expected one of {', '.join(Structure.kinds)}")
    return Structure.kinds[name]


def parse(n_out: int, n_in: int, values: Mapping[str, Any]) -> Structure:
    """The structure of a `Structure.header`, checked.

    Raises
    ------
    TypeError, ValueError
        There is no class of that name, or its fields are out of range.
    """
    kind, own = kind_named(values["structure"]), {key: value for key, value in values.items() if key != "structure"}
    # Other fields get wide limits: a structure checks its own.
    limits = {"rank": (1, min(n_out, n_in))}
    fields = {}
    for key, value in own.items():
        minimum, maximum = limits.get(key, (-MAX_SIZE, MAX_SIZE))
        fields[key] = count(key, value, minimum=minimum, maximum=maximum)
    return kind(n_out, n_in, **fields)
