# SPDX-License-Identifier: BSD-3-Clause
"""Steps: operations without parameters on a layer's inputs before its weight multiplies them.

They form patches of images, pool, or reorder rows. A convolution is a fully connected layer of
patches, so layers of every kind are `Linear` or `Scan` with steps before them. Steps hold shapes,
no numbers. Users write the layers of svdfast/layers.py. The operations' computations are in
src/ops.
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


# The most tokens of an alphabet: float32 distinguishes so many whole numbers.
MOST_TOKENS = 2**24
# Names of the orders of rows in messages.
ORDERS = {True: "step by step", False: "sample by sample"}


@dataclass(frozen=True)
class Step(ABC):
    """One step. Files keep its fields, integers and floats, and its class's name.

    Attributes
    ----------
    takes_steps : bool or None
        True if it takes rows that lie step by step, False if sample by sample, None if either.
    """

    kinds: ClassVar[dict[str, type[Step]]] = {}
    takes_steps: ClassVar[bool | None] = None

    def __init_subclass__(cls) -> None:
        Step.kinds[cls.__name__] = cls

    @abstractmethod
    def emit(self, program: Program, x: int) -> int:
        """Writes the step. Returns the value of its result."""

    def order(self, by_steps: bool) -> bool:
        """True if rows lie step by step after it. `by_steps` says the same of rows before it.

        Raises
        ------
        ValueError
            The step takes rows in the other order.
        """
        if self.takes_steps is not None:
            self._expect(self.takes_steps, by_steps)
        return by_steps

    def _expect(self, wanted: bool, by_steps: bool) -> None:
        if wanted != by_steps:
            raise ValueError(f"{type(self).__name__}: expected rows {ORDERS[wanted]}, got rows {ORDERS[by_steps]}")

    def header(self) -> dict[str, Any]:
        """The step in plain values, as files keep it."""
        return {"step": type(self).__name__} | {f.name: getattr(self, f.name) for f in fields(self)}


def parse(values: Mapping[str, Any]) -> Step:
    """The step of a `Step.header`, checked.

    An error appears later, when the program is written, if the step does not fit those before it.
    """
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
    """All rows of a sample as one row."""

    takes_steps = False

    def emit(self, program: Program, x: int) -> int:
        return program.view(x, 1)


@dataclass(frozen=True)
class Rows(Step):
    """The same numbers as `rows` rows per sample: positions of images, steps of sequences."""

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
    """The last step's row, for rows that lie step by step.

    The last `reverse` columns are taken from the first step's row instead.
    """

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
    """Tokens from 0 to n - 1, one per row, as one-hot rows."""

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
    """Sets numbers to 0 with this probability in training.

    `number` distinguishes it from the network's other dropouts.
    """

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
    """Marks steps whose numbers are all this value: cells skip them. Rows lie step by step."""

    value: float = 0.0

    takes_steps = True

    def emit(self, program: Program, x: int) -> int:
        before = program.values[x]
        program.mask = program.scratch(1, before.rows_per_sample)
        made = Operation(MASK, x, len(program.values), parameter=self.value, others=(Other(program.mask),), reads_output=False)
        return program.add(made, Value(before.width, before.rows_per_sample))


@dataclass(frozen=True)
class Window(Step):
    """A window that moves over an image of height×width positions.

    Attributes
    ----------
    height, width : int
    window_height, window_width : int
    down, across : int
        Distance from one place of the window to the next.
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
        """Number of places of the window from top to bottom."""
        return (self.height + self.top + self.bottom - self.window_height) // self.down + 1

    @property
    def columns(self) -> int:
        """Number of places of the window from left to right."""
        return (self.width + self.left + self.right - self.window_width) // self.across + 1

    def checked(self, program: Program, x: int) -> tuple[int, ...]:
        """The sizes for the compiled kinds. Raises ValueError if the window does not fit `x`."""
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
    """The numbers under each place of the window, as a row.

    They lie row by row, with all channels of a position together.
    """

    def emit(self, program: Program, x: int) -> int:
        return program.patches(x, self.checked(program, x))


@dataclass(frozen=True)
class LargestOf(Window):
    """The largest value of each channel under the window."""

    def emit(self, program: Program, x: int) -> int:
        return _pooled(self, program, x, LARGEST)


@dataclass(frozen=True)
class MeanOf(Window):
    """The mean of each channel under the window, without the padding."""

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
