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

from svdfast._process.checks import MAX_SIZE, count, finite_number, fraction, positive_number
from svdfast.model.program import Operation, Other, Program, Value
from svdfast.ops.dropout import KIND as DROPOUT
from svdfast.ops.last_step import KIND as LAST_STEP
from svdfast.ops.mask import KIND as MASK
from svdfast.ops.normalise import KIND as NORMALISE
from svdfast.ops.one_hot import KIND as ONE_HOT
from svdfast.ops.pool import KIND as POOL
from svdfast.ops.pool import LARGEST, MEAN
from svdfast.ops.reorder import KIND as REORDER

__all__ = [
    "BySamples", "BySteps", "Dropout", "Flatten", "LargestOf", "LastStep", "Mask", "MeanOf", "Normalise", "OneHot", "Patches", "Rows",
    "Step", "Window", "emit_all", "parse",
]  # fmt: skip


# Tokens of an alphabet at most: so many whole numbers float32 tells apart.
MOST_TOKENS = 2**24
# What messages call the orders of rows.
ORDERS = {True: "step by step", False: "sample by sample"}


@dataclass(frozen=True)
class Step(ABC):
    """One step. Its fields are integers and floats, which files keep; its class's name is its name there.

    Attributes
    ----------
    takes_steps : bool or None
        Whether it takes rows that lie step by step; None: it takes both.
    """

    kinds: ClassVar[dict[str, type[Step]]] = {}
    takes_steps: ClassVar[bool | None] = None

    def __init_subclass__(cls) -> None:
        Step.kinds[cls.__name__] = cls

    @abstractmethod
    def emit(self, program: Program, x: int) -> int:
        """Writes the step; returns the value of its result."""

    def order(self, by_steps: bool) -> bool:
        """Whether rows lie step by step after it, if they do or do not before it.

        Raises
        ------
        ValueError
            It takes them in the other order.
        """
        if self.takes_steps is not None:
            self._expect(self.takes_steps, by_steps)
        return by_steps

    def _expect(self, wanted: bool, by_steps: bool) -> None:
        if wanted != by_steps:
            raise ValueError(f"{type(self).__name__}: expected rows {ORDERS[wanted]}, got rows {ORDERS[by_steps]}")

    def header(self) -> dict[str, Any]:
        """The step as files have it."""
        return {"step": type(self).__name__} | {f.name: getattr(self, f.name) for f in fields(self)}


def parse(values: Mapping[str, Any]) -> Step:
    """What `Step.header` gave, checked; whether it fits what comes before it shows as the program is written."""
    name = values["step"]
    if not isinstance(name, str) or name not in Step.kinds:
        raise ValueError(f"step: expected one of {', '.join(Step.kinds)}, got {name!r:.40}")
    kind = Step.kinds[name]
    types = {field.name: field.type for field in fields(kind)}
    return kind(**{key: _number(key, value, types[key]) for key, value in values.items() if key != "step"})


def _number(name: str, value: Any, kind: Any) -> float:
    return finite_number(name, value) if kind == "float" else count(name, value, minimum=0, maximum=MAX_SIZE)


@dataclass(frozen=True)
class Flatten(Step):
    """All rows of a sample as one."""

    takes_steps = False

    def emit(self, program: Program, x: int) -> int:
        return program.view(x, 1)


@dataclass(frozen=True)
class Rows(Step):
    """The same numbers as so many rows a sample: positions of images, steps of sequences."""

    rows: int

    takes_steps = False

    def emit(self, program: Program, x: int) -> int:
        return program.view(x, count("rows", self.rows))


@dataclass(frozen=True)
class BySteps(Step):
    """Rows step by step, as loops take them, instead of sample by sample."""

    takes_steps = False

    def order(self, by_steps: bool) -> bool:
        return not super().order(by_steps)

    def emit(self, program: Program, x: int) -> int:
        return _reordered(program, x, True)


@dataclass(frozen=True)
class BySamples(Step):
    """Rows sample by sample again."""

    takes_steps = True

    def order(self, by_steps: bool) -> bool:
        return not super().order(by_steps)

    def emit(self, program: Program, x: int) -> int:
        return _reordered(program, x, False)


def _reordered(program: Program, x: int, by_steps: bool) -> int:
    before = program.values[x]
    made = Operation(REORDER, x, len(program.values), sizes=(int(by_steps),), reads_output=False)
    return program.add(made, Value(before.width, before.rows_per_sample))


@dataclass(frozen=True)
class LastStep(Step):
    """The last step's row, of rows step by step; of `reverse` columns, the right ones, the first step's."""

    reverse: int = 0

    takes_steps = True

    def order(self, by_steps: bool) -> bool:
        return not super().order(by_steps)

    def emit(self, program: Program, x: int) -> int:
        width = program.values[x].width
        if not 0 <= self.reverse <= width:
            raise ValueError(f"LastStep: expected at most {width} columns, got {self.reverse}")
        made = Operation(LAST_STEP, x, len(program.values), sizes=(width - self.reverse,), reads_output=False)
        return program.add(made, Value(width))


@dataclass(frozen=True)
class OneHot(Step):
    """Tokens from 0 to n - 1, one a row, as rows with a one."""

    n: int

    def emit(self, program: Program, x: int) -> int:
        before = program.values[x]
        if before.width != 1:
            raise ValueError(f"OneHot: expected a token in each row, got {before.width} numbers")
        made = Operation(ONE_HOT, x, len(program.values), reads_output=False)
        return program.add(made, Value(count("n", self.n, maximum=MOST_TOKENS), before.rows_per_sample))


@dataclass(frozen=True)
class Normalise(Step):
    """Rows of mean 0 and variance 1; ε is added to the variance."""

    epsilon: float = 1e-5

    def emit(self, program: Program, x: int) -> int:
        before, epsilon = program.values[x], positive_number("epsilon", self.epsilon)
        made = Operation(NORMALISE, x, len(program.values), parameter=epsilon)
        return program.add(made, Value(before.width, before.rows_per_sample))


@dataclass(frozen=True)
class Dropout(Step):
    """Numbers are 0 with this probability, in training. `number` tells it from others of the network."""

    rate: float
    by_steps: int = 0
    number: int = 0

    def order(self, by_steps: bool) -> bool:
        self._expect(bool(self.by_steps), by_steps)
        return by_steps

    def emit(self, program: Program, x: int) -> int:
        rate, before = fraction("rate", self.rate, below_one=True), program.values[x]
        sizes = int(self.by_steps > 0), self.number
        made = Operation(DROPOUT, x, len(program.values), parameter=rate, sizes=sizes, reads_output=False)
        return program.add(made, Value(before.width, before.rows_per_sample))


@dataclass(frozen=True)
class Mask(Step):
    """Steps whose numbers are all this value do not count: cells pass them by. Rows lie step by step."""

    value: float = 0.0

    takes_steps = True

    def emit(self, program: Program, x: int) -> int:
        before = program.values[x]
        program.mask = program.scratch(1, before.rows_per_sample)
        made = Operation(MASK, x, len(program.values), parameter=self.value, others=(Other(program.mask),), reads_output=False)
        return program.add(made, Value(before.width, before.rows_per_sample))


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

    takes_steps = False

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
        return program.patches(x, self.checked(program, x))


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
