# SPDX-License-Identifier: BSD-3-Clause
"""What is done to a layer's inputs before its weight meets them, without parameters: patches of images, pooling, order of rows.

A convolution is a fully connected layer of patches; so layers of every kind are `Linear` or `Scan` with steps before them. Shapes
only, no numbers. Not here: what users write (svdfast/layers.py), what an operation computes (src/ops).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, ClassVar

from svdfast._process.checks import MAX_SIZE, count
from svdfast.model.program import Operation, Program, Value
from svdfast.ops.last_step import KIND as LAST_STEP
from svdfast.ops.patches import KIND as PATCHES
from svdfast.ops.pool import KIND as POOL
from svdfast.ops.pool import LARGEST, MEAN
from svdfast.ops.reorder import KIND as REORDER

__all__ = ["BySamples", "BySteps", "Flatten", "LargestOf", "LastStep", "MeanOf", "Patches", "Step", "Window", "parse"]


@dataclass(frozen=True)
class Step(ABC):
    """One step. Its fields are integers, which files keep; its class's name is its name there."""

    kinds: ClassVar[dict[str, type[Step]]] = {}

    def __init_subclass__(cls) -> None:
        Step.kinds[cls.__name__] = cls

    @abstractmethod
    def emit(self, program: Program, x: int) -> int:
        """Writes the step; returns the value of its result."""

    def header(self) -> dict[str, Any]:
        """The step as files have it."""
        return {"step": type(self).__name__} | {f.name: getattr(self, f.name) for f in fields(self)}


def parse(values: Mapping[str, Any]) -> Step:
    """What `Step.header` gave, checked; whether it fits what comes before it shows as the program is written."""
    kind = Step.kinds[values["step"]]
    given = {key: count(key, value, minimum=0, maximum=MAX_SIZE) for key, value in values.items() if key != "step"}
    return kind(**given)


@dataclass(frozen=True)
class Flatten(Step):
    """All rows of a sample as one."""

    def emit(self, program: Program, x: int) -> int:
        return program.view(x, 1)


@dataclass(frozen=True)
class Rows(Step):
    """The same numbers as so many rows a sample: positions of images, steps of sequences."""

    rows: int

    def emit(self, program: Program, x: int) -> int:
        return program.view(x, count("rows", self.rows))


@dataclass(frozen=True)
class BySteps(Step):
    """Rows step by step, as loops take them, instead of sample by sample."""

    def emit(self, program: Program, x: int) -> int:
        return _reordered(program, x, True)


@dataclass(frozen=True)
class BySamples(Step):
    """Rows sample by sample again."""

    def emit(self, program: Program, x: int) -> int:
        return _reordered(program, x, False)


def _reordered(program: Program, x: int, by_steps: bool) -> int:
    before = program.values[x]
    made = Operation(REORDER, x, len(program.values), sizes=(int(by_steps),), reads_output=False)
    return program.add(made, Value(before.width, before.rows_per_sample))


@dataclass(frozen=True)
class LastStep(Step):
    """The last step's row, of rows step by step."""

    reverse: int = 0

    def emit(self, program: Program, x: int) -> int:
        made = Operation(LAST_STEP, x, len(program.values), sizes=(int(self.reverse > 0),), reads_output=False)
        return program.add(made, Value(program.values[x].width))


@dataclass(frozen=True)
class Window(Step):
    """A window that goes over an image of height×width positions.

    Attributes
    ----------
    height, width : int
    window_height, window_width : int
    down, across : int
        From one place of the window to the next.
    top, left, bottom, right : int
        Padding.
    """

    height: int
    width: int
    window_height: int
    window_width: int
    down: int = 1
    across: int = 1
    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0

    @property
    def rows(self) -> int:
        """Places of the window, down."""
        return (self.height + self.top + self.bottom - self.window_height) // self.down + 1

    @property
    def columns(self) -> int:
        """Places of the window, across."""
        return (self.width + self.left + self.right - self.window_width) // self.across + 1

    def checked(self, program: Program, x: int) -> tuple[int, ...]:
        """What the compiled kinds take as sizes, if it goes with a value."""
        given, name = astuple(self), type(self).__name__
        if min(given) < 0 or min(given[:6]) < 1:
            raise ValueError(f"{name}: expected sizes ≥ 1 and padding ≥ 0, got {given}")
        if self.height * self.width != program.values[x].rows_per_sample:
            raise ValueError(f"{name}: expected {self.height}×{self.width} positions, got {program.values[x].rows_per_sample}")
        if max(self.top, self.bottom) >= self.window_height or max(self.left, self.right) >= self.window_width:
            raise ValueError(f"{name}: expected padding smaller than the window, got {given}")
        if self.rows < 1 or self.columns < 1 or self.height + self.top + self.bottom < self.window_height:
            raise ValueError(f"{name}: expected an image as large as the window, got {given}")
        return (*given[:8], self.rows, self.columns)


@dataclass(frozen=True)
class Patches(Window):
    """For each place of the window what lies under it, as a row: row by row, all channels of a position together."""

    def emit(self, program: Program, x: int) -> int:
        sizes, c = self.checked(program, x), program.values[x].width
        made = Operation(PATCHES, x, len(program.values), sizes=sizes, reads_output=False)
        return program.add(made, Value(self.window_height * self.window_width * c, self.rows * self.columns))


@dataclass(frozen=True)
class LargestOf(Window):
    """The largest value of each channel under the window."""

    def emit(self, program: Program, x: int) -> int:
        return _pooled(self, program, x, LARGEST)


@dataclass(frozen=True)
class MeanOf(Window):
    """The mean of each channel under the window, of what lies within the image."""

    def emit(self, program: Program, x: int) -> int:
        return _pooled(self, program, x, MEAN)


def _pooled(window: Window, program: Program, x: int, code: int) -> int:
    sizes = window.checked(program, x)
    made = Operation(POOL, x, len(program.values), code=code, sizes=sizes)
    return program.add(made, Value(program.values[x].width, window.rows * window.columns))


def emit_all(steps: Sequence[Step], program: Program, x: int) -> int:
    """Writes steps one after the other."""
    for step in steps:
        x = step.emit(program, x)
    return x
