# SPDX-License-Identifier: BSD-3-Clause
"""Facts that a network keeps about its training data.

Predictions do not need them, but users of predictions may. They are plain values, and files of
networks contain them (interop/files.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from svdfast._process.checks import positive_number
from svdfast.data.preparation import Preparation
from svdfast.model.heads import head_of
from svdfast.model.layout import Layout

__all__ = ["Label", "Origin"]

Label: TypeAlias = bool | int | float | str

_LARGEST = 2**63 - 1
_MOST_NAMES = 20  # names of features or of classes that are shown


@dataclass(frozen=True)
class Origin:
    """Facts about a network's training data.

    Attributes
    ----------
    classes : tuple of int, of float, of bool or of str, optional
        Names of the classes 0, 1, ... in the data.
    feature_names : tuple of str, optional
        Names of the inputs in the data.
    mean, deviation : tuple of float, optional
        Mean and deviation of each feature, if the network was trained on standardised features. Its
        first layer takes features that are not standardised.
    preparation : Preparation, optional
        The steps from a table to the network's inputs, if it was trained on a table.
    """

    classes: tuple[Label, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    preparation: Preparation | None = None

    def told(self) -> list[str]:
        """Lines about the data, as far as it is known."""
        if self.preparation is not None:
            columns = [column.name for column in self.preparation.columns]
            features = f"{len(self.preparation.feature_names)} features of {len(columns)} columns: {_listed(columns)}"
            return [*(f"target {target.name!r}: {_kind(target.classes)}" for target in self.preparation.targets), features]
        lines = [] if self.classes is None else [f"classes {_listed(self.classes)}"]
        return lines if self.feature_names is None else [*lines, f"features {_listed(self.feature_names)}"]

    def check(self, layout: Layout) -> None:
        """Raises ValueError if something does not fit a network."""
        n_in, n_out = layout.sizes[0], layout.sizes[-1]
        if self.classes is not None:
            head = head_of(layout.layers[-1].activation)
            n_classes = head.n_values(n_out) if head.n_targets(n_out) == 1 else 0
            if len(self.classes) != n_classes or len(set(self.classes)) != n_classes:
                raise ValueError(f"classes: expected {n_classes} different ones, as the network tells apart, got {len(self.classes)}")
            if len({type(label) for label in self.classes}) > 1:
                raise ValueError(f"classes: expected labels of one type, got {self.classes}")
        if layout.any_steps:
            for name in ("feature_names", "mean", "deviation", "preparation"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: expected None for a network that takes any number of steps")
        for name in ("feature_names", "mean", "deviation"):
            values = getattr(self, name)
            if values is not None and len(values) != n_in:
                raise ValueError(f"{name}: expected {n_in}, as the network has inputs, got {len(values)}")
        if (self.mean is None) != (self.deviation is None):
            raise ValueError("mean: expected both means and deviations or none of them")
        if self.preparation is not None:
            self._check_preparation(self.preparation, layout)

    def _check_preparation(self, preparation: Preparation, layout: Layout) -> None:
        n_in, n_out = layout.sizes[0], layout.sizes[-1]
        n_features, n_targets = len(preparation.feature_names), len(preparation.targets)
        head = head_of(layout.layers[-1].activation)
        if n_features != n_in:
            raise ValueError(f"preparation: expected {n_in} features, as the network has inputs, got {n_features}")
        if n_targets != head.n_targets(n_out):
            raise ValueError(f"preparation: expected {head.n_targets(n_out)} targets, as the network has, got {n_targets}")
        for target in preparation.targets:
            n_classes = 0 if target.classes is None else len(target.classes)
            if n_classes != head.n_values(n_out):
                raise ValueError(f"preparation: expected {head.n_values(n_out)} classes of each target, got {n_classes}")
        if self.feature_names != preparation.feature_names or self.classes != preparation.classes:
            raise ValueError("preparation: expected the classes and the features that the network has, got others")

    def header(self) -> dict[str, Any]:
        """The origin in values that JSON can hold."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"preparation": self.preparation and self.preparation.header()}

    @classmethod
    def parse(cls, values: Any) -> Origin:
        """The origin of a `header`. Every value is checked; nothing in it is trusted."""
        mean, deviation = values["mean"], values["deviation"]
        if mean is not None:
            mean = tuple(math.copysign(positive_number("mean", abs(x), or_zero=True), x) for x in mean)
        if deviation is not None:
            deviation = tuple(positive_number("deviation", x) for x in deviation)
        preparation = None if values["preparation"] is None else Preparation.parse(values["preparation"])
        return cls(_each(values["classes"], _label), _each(values["feature_names"], _name), mean, deviation, preparation)


def _kind(classes: Sequence[Label] | None) -> str:
    return "a number" if classes is None else f"classes {_listed(classes)}"


def _listed(names: Sequence[object]) -> str:
    shown = ", ".join(map(_shown, names[:_MOST_NAMES]))
    return f"{shown}, ... ({len(names)})" if len(names) > _MOST_NAMES else shown


def _shown(name: object) -> str:
    """A name as it is; with quotes and escapes if it is blank or not printable on one line."""
    text = str(name)
    return text if text.replace("\t", " ").isprintable() and text.strip() else repr(text)


def _each(values: Any, parse: Any) -> Any:
    if values is None:
        return None
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(f"expected a list, got {type(values).__name__}")
    return tuple(parse(value) for value in values)


def _label(value: Any) -> Label:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int) and -_LARGEST - 1 <= value <= _LARGEST:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(f"classes: expected text, or numbers of at most 64 bits, got {value!r}")


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"feature_names: expected text, got {type(value).__name__}")
    return value
