# SPDX-License-Identifier: BSD-3-Clause
"""Programs: the operations from a sample to the network's output, in order, and their values.

Layers and structures write programs (layers/, structures/). The compiled engine runs them, forward
and backward. Multiplications are counted from them (counting.py). A program knows shapes and
tensors, no numbers. The operations' computations are in src/ops.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from svdfast.model.activations import Activation
from svdfast.ops.bias_activation import KIND as BIAS_ACTIVATION
from svdfast.ops.convolution import KIND as CONVOLUTION
from svdfast.ops.convolution import MOST
from svdfast.ops.product import KIND as PRODUCT

__all__ = ["Operation", "Program", "Tensor", "Value"]


@dataclass(frozen=True)
class Tensor:
    """A named stretch of the flat vector of parameters.

    Attributes
    ----------
    name : str
        Such as "layers.0.W1"; also its name in a safetensors file.
    shape : tuple of int
        Two sizes if it decays, else one.
    place : int
        Index of its first element in the vector.
    decays : bool
        True if penalties and weight decay apply to it.
    layer : int
    """

    name: str
    shape: tuple[int, ...]
    place: int
    decays: bool
    layer: int

    def __post_init__(self) -> None:
        if len(self.shape) != 1 + self.decays:
            raise ValueError(f"{self.name}: expected {'two sizes' if self.decays else 'one size'}, got shape {self.shape}")

    @property
    def stop(self) -> int:
        return self.place + math.prod(self.shape)

    def of(self, vector: Any) -> Any:
        """The tensor as a view of a vector with this layout."""
        return vector[self.place : self.stop].reshape(self.shape)


@dataclass(frozen=True)
class Value:
    """A matrix of `rows_per_sample` rows per sample and `width` columns.

    Attributes
    ----------
    width, rows_per_sample : int
    view_of : int or None
        The value whose memory this one uses.
    delta_of : int or None
        The value whose delta this one shares.
    patches : tuple of int
        Sizes of the patches of images under a kernel, as in src/ops/convolution.pyx, if the value
        is a view of patches. Such a view is never formed as a whole. Only a product takes it.
    """

    width: int
    rows_per_sample: int = 1
    view_of: int | None = None
    delta_of: int | None = None
    patches: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Elements per sample."""
        return self.width * self.rows_per_sample


@dataclass(frozen=True, eq=False)
class Loop:
    """Operations that follow each other and run once for each step.

    A value with one row for each step of a sample then gives them the row of that step.

    Attributes
    ----------
    steps : int
    reverse : bool
        True if the last step comes first.
    """

    steps: int
    reverse: bool = False


@dataclass(frozen=True)
class Other:
    """A value, or its delta, that an operation uses in addition to its input and its output."""

    value: int
    delta: bool = False


@dataclass(frozen=True)
class Operation:
    """One operation: its compiled kind, the indices of its values, and its parameters.

    Attributes
    ----------
    kind : capsule
        `KIND` of a module of svdfast.ops, or of any module with the same interface
        (svdfast/ops/operation.pxd).
    input, output : int
    tensor : Tensor or None
        Its parameters. No other operation uses them; this one computes their gradient.
    code : int
    parameter : float
        Meaning depends on the kind.
    overwrites : bool
        True if the output may overwrite the input, because the backward pass does not read it.
    reads_output : bool
        True if the backward pass reads the output. No later operation may then overwrite it.
    overwrites_delta : bool
        True if the input's delta overwrites the output's.
    multiplications : int
        Multiplications of the forward pass for a sample. Each of the two products of the backward
        pass takes the same number.
    sizes : tuple of int
        At most 12 sizes, whose meaning depends on the kind.
    others : tuple of Other
        At most 8.
    loop : Loop or None
        The loop that contains it.
    carried : tuple of int
        Indices of at most 2 states that it begins a batch with, or ends one with.
    """

    kind: Any
    input: int
    output: int
    tensor: Tensor | None = None
    code: int = 0
    parameter: float = 0.0
    overwrites: bool = False
    reads_output: bool = True
    overwrites_delta: bool = False
    multiplications: int = 0
    sizes: tuple[int, ...] = ()
    others: tuple[Other, ...] = ()
    loop: Loop | None = None
    carried: tuple[int, ...] = ()


class Program:
    """Operations in order, written by calling the methods.

    Parameters
    ----------
    width, rows_per_sample : int
        Shape of a sample, value 0.
    input_delta : bool
        True if the delta of value 0 is needed, as in a part of a network that is not its first.

    Examples
    --------
    >>> from svdfast.model.program import Program, Tensor
    >>> program = Program(4)
    >>> z = program.product(0, Tensor("layers.0.W", (3, 4), 0, True, 0))
    >>> program.values[z]
    Value(width=3, rows_per_sample=1, view_of=None, delta_of=None, patches=())
    >>> program.multiplications("forward"), program.multiplications("step")
    (12, 24)
    """

    def __init__(self, width: int, rows_per_sample: int = 1, *, input_delta: bool = False):
        self.values = [Value(width, rows_per_sample)]
        self.operations: list[Operation] = []
        self._deltas = [input_delta]
        self._loop: Loop | None = None
        self._last = 0  # the value that the next operation takes
        self.carried: list[int] = []  # widths of the states that one batch may leave to the next
        self.mask: int | None = None  # a value that marks, step by step, the rows that count

    def add(self, operation: Operation, value: Value) -> int:
        """Appends an operation, which takes the last value. Returns the index of its output.

        Raises
        ------
        ValueError
            The backward pass would be wrong: two operations would compute the delta of one value,
            or the gradient of one tensor.
        """
        last, tensor = self._last, operation.tensor
        if operation.output != len(self.values):
            raise ValueError(f"output: expected {len(self.values)}, the next value, got {operation.output}")
        if self.values[operation.input].patches:
            raise ValueError(f"input: expected a value that is formed, got the patches {operation.input}, which only a product takes")
        if self._memory(operation.input) != self._memory(last):
            raise ValueError(f"input: expected {last}, the last value, got {operation.input}, which has been read already")
        if tensor is not None and any(o.tensor and o.tensor.name == tensor.name for o in self.operations):
            raise ValueError(f"{tensor.name}: expected a tensor that no other operation has")
        if operation.overwrites and not self._may_be_overwritten(operation.input):
            operation = replace(operation, overwrites=False)
        self.operations.append(replace(operation, loop=self._loop))
        self.values.append(value)
        self._deltas.append(operation.tensor is not None or self._deltas[operation.input])
        self._last = operation.output
        return operation.output

    def product(self, x: int, tensor: Tensor) -> int:
        """X·Wᵀ, row by row."""
        n, m = tensor.shape
        before, output = self.values[x], len(self.values)
        if before.width != m:
            raise ValueError(f"{tensor.name}: expected {before.width} columns, got {m}")
        count = n * m * before.rows_per_sample
        made = Operation(PRODUCT, x, output, tensor, reads_output=False, multiplications=count)
        if before.patches:
            made = replace(made, kind=CONVOLUTION, input=self._memory(x), sizes=before.patches)
        return self.add(made, Value(n, before.rows_per_sample))

    def bias_activation(self, z: int, tensor: Tensor, activation: Activation) -> int:
        """f(Z + b). Z + b overwrites Z.

        So Z may not be the sample, and the backward pass of its operation may not read it.
        """
        if not self._may_be_overwritten(z):
            raise ValueError("z: expected the output of an operation that does not read it on the way back (reads_output=False)")
        before = self.values[z]
        if tensor.shape != (before.width,):
            raise ValueError(f"{tensor.name}: expected shape ({before.width},), got {tensor.shape}")
        made = Operation(
            BIAS_ACTIVATION, z, len(self.values), tensor, activation.code, activation.parameter,
            overwrites=activation.backward_reads != "Z", reads_output=activation.backward_reads is not None, overwrites_delta=True,
        )  # fmt: skip
        return self.add(made, Value(before.width, before.rows_per_sample))

    def patches(self, x: int, sizes: tuple[int, ...]) -> int:
        """The patches of images under a kernel, one row for each place of the kernel.

        `sizes` are those of src/ops/convolution.pyx, without the channels.
        """
        channels = self.values[x].width
        width = sizes[2] * sizes[3] * channels
        if width > MOST:
            raise ValueError(f"kernel_size: expected at most {MOST} numbers under it, got {width}: a Flatten and a Linear do the same")
        self.values.append(Value(width, sizes[8] * sizes[9], self._memory(x), patches=(*sizes, channels)))
        self._deltas.append(self._deltas[x])
        self._last = len(self.values) - 1
        return self._last

    def view(self, x: int, rows_per_sample: int) -> int:
        """The same numbers with another number of rows per sample."""
        before = self.values[x]
        width, rest = divmod(before.size, rows_per_sample)
        if rest:
            raise ValueError(f"rows_per_sample: expected a divisor of {before.size}, got {rows_per_sample}")
        self.values.append(Value(width, rows_per_sample, self._memory(x)))
        self._deltas.append(self._deltas[x])
        self._last = len(self.values) - 1
        return self._last

    @contextlib.contextmanager
    def loop(self, steps: int, *, reverse: bool = False) -> Iterator[None]:
        """Operations added within this context run once for each step."""
        self._loop = Loop(steps, reverse)
        try:
            yield
        finally:
            self._loop = None

    def scratch(self, width: int, rows_per_sample: int = 1) -> int:
        """A value that is no operation's output, for an operation's own use."""
        self.values.append(Value(width, rows_per_sample))
        self._deltas.append(False)
        return len(self.values) - 1

    def carried_state(self, width: int) -> int:
        """Adds a state of `width` numbers per sample that one batch may leave to the next.

        Returns its index.
        """
        self.carried.append(width)
        return len(self.carried) - 1

    def share_delta(self, value: int, other: int) -> None:
        """Makes a value share another value's delta."""
        self.values[value] = replace(self.values[value], delta_of=other)

    def _memory(self, value: int) -> int:
        """The value whose memory this one uses."""
        view_of = self.values[value].view_of
        return value if view_of is None else view_of

    def _may_be_overwritten(self, value: int) -> bool:
        """True if nothing reads the value after the next operation.

        The samples never qualify: they belong to the caller. Nor does an operation's output that
        its own backward pass reads.
        """
        return any(o.output == self._memory(value) and not o.reads_output for o in self.operations)

    def needs_delta(self, value: int) -> bool:
        """True if the backward pass must reach a value: parameters come before it."""
        return self._deltas[value]

    @property
    def tall_size(self) -> int:
        """Elements per sample of the values that have several rows per sample."""
        return sum(value.size for value in self.values if value.rows_per_sample > 1 and value.view_of is None)

    @property
    def takes_entries(self) -> bool:
        """True if a single product reads the samples, with one row per sample.

        That product can take the stored entries of sparse samples.
        """
        first, *later = self.operations
        read = [x for o in later for x in (o.input, *(other.value for other in o.others))]
        alone = all(self._memory(x) != 0 for x in read) and not any(value.view_of == 0 for value in self.values)
        return first.kind is PRODUCT and first.loop is None and self.values[0].rows_per_sample == 1 and alone and not self.needs_delta(0)

    @property
    def has_loop(self) -> bool:
        """True if some operations run step by step."""
        return any(operation.loop is not None for operation in self.operations)

    def multiplications(self, mode: str = "step", layer: int | None = None) -> int:
        """Multiplications of the products for one sample, in a "forward" pass or a whole "step".

        A step takes the same number again for each product's gradient, and again for its input's
        delta if that is needed.
        """
        return sum(
            operation.multiplications * (1 if mode == "forward" else 2 + self.needs_delta(operation.input))
            for operation in self.operations
            if layer is None or (operation.tensor is not None and operation.tensor.layer == layer)
        )
