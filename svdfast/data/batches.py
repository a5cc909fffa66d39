# SPDX-License-Identifier: BSD-3-Clause
"""Batches from an iterable, for training and for validation.

Elsewhere: batches that are taken from data (arrays.py, rows.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdfast._process.checks import count
from svdfast.data.arrays import Stretch
from svdfast.data.checks import CODES, Inputs, Samples, checked_samples
from svdfast.data.spec import Spec

__all__ = ["Batch", "BatchSource", "is_iterable_of_batches", "validation_batches"]

Batch: TypeAlias = tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike]

# The most bytes of inputs in a sample that is kept of batches.
SAMPLE_BYTES = 32 * 2**20


def is_iterable_of_batches(value: Any) -> bool:
    """True if this may be an iterable of batches and is not an array."""
    return (
        isinstance(value, Iterable)
        and not isinstance(value, str | bytes | bytearray | Mapping | set | frozenset)
        and not hasattr(value, "dtype")
        and not hasattr(value, "__array__")
    )


def _check_batch(batch: Any, spec: Spec, number: int, name: str = "X") -> Samples:
    """The samples of the batch of this number, from 1.

    Raises
    ------
    TypeError, ValueError
        The batch is not (X, y) or (X, y, sample_weight), or one of these does not fit the network.
    """
    parts: tuple[Any, ...] = tuple(batch) if isinstance(batch, tuple | list) else ()
    # If y was forgotten, a row of samples may have two or three numbers, too.
    numbers = len(parts) > 0 and all(isinstance(part, Real) for part in parts)
    if len(parts) not in (2, 3) or numbers:
        length = f" of {len(parts)}" + " numbers" * numbers if isinstance(batch, tuple | list) else ""
        raise TypeError(
            f"{name}: expected samples with y, or an iterable of batches (X, y) or (X, y, sample_weight), "
            f"got a {type(batch).__name__}{length} as batch {number}"
        )
    X, y, weight = (*parts, None)[:3]
    place = f" of batch {number}" if name == "X" else f" of {name}, batch {number}"
    names = (f"X{place}", f"y{place}", f"sample_weight{place}")
    return checked_samples(X, y, weight, spec, names=names, part=True)


def validation_batches(batches: Any, spec: Spec) -> Callable[[], Iterator[Samples]]:
    """A function that returns an iterator over validation batches, a new one at each call.

    Raises
    ------
    TypeError
        `batches` is not an iterable, or can be iterated only once.
    """
    if not is_iterable_of_batches(batches) or isinstance(batches, Iterator):
        raise TypeError(
            "validation: expected a pair (X, y), or an iterable of batches (X, y) or (X, y, sample_weight) that can be iterated "
            f"again and again, got {type(batches).__name__}"
        )

    def samples() -> Iterator[Samples]:
        number = 0
        for number, batch in enumerate(batches, 1):
            yield _check_batch(batch, spec, number, "validation")
        if number == 0:
            raise ValueError("validation: expected batches each time that it is iterated, got none")

    return samples


class BatchSource:
    """Batches from an iterable.

    Parameters
    ----------
    batches : iterable of (X, y) or (X, y, sample_weight)
        It is iterated again in each epoch. An iterator can't be; it continues instead.
    spec : Spec
    steps_per_epoch : int, optional
        By default the iterable's length.
    n_sampled : int
        Samples of the first batches that are copied to `sampled`.
    equal : bool
        All batches must have the same number of samples.

    Raises
    ------
    TypeError, ValueError
        The number of batches is not known, there is none, or the first one is not valid.
    """

    replayed = True

    def __init__(
        self, batches: Iterable[Batch], spec: Spec, steps_per_epoch: int | None, n_sampled: int, equal: bool = False
    ):
        self._spec, self._equal = spec, equal
        dtype = spec.dtype
        if steps_per_epoch is None:
            try:
                steps_per_epoch = len(batches)  # type: ignore[arg-type]
            except TypeError:
                raise ValueError(
                    "steps_per_epoch: expected the number of batches in an epoch with an iterable that has no length, got None"
                ) from None
            if steps_per_epoch == 0:
                raise ValueError("X: expected at least one batch, got none")
        self.steps_per_epoch = count("steps_per_epoch", steps_per_epoch)
        self.seconds = 0.0
        self.n_samples = self._n_taken = 0
        self._batches = batches
        self._iterator = iter(batches)
        self._one_shot = self._iterator is batches
        self._first: Samples | None = self._next()
        n_in = self._n_inputs = self._first.inputs.n_columns
        self.data = self._first
        self.batch_size = self.data.n_samples
        self.sampled: Samples | None = None
        self._sample: Samples | None = None
        self._n_kept, self._room = 0, 0
        if n_sampled > 0:
            self._room = max(1, min(n_sampled, SAMPLE_BYTES // (n_in * dtype.itemsize)))
            targets = self.data.targets
            self._sample = Samples(
                Inputs(np.empty((self._room, n_in), dtype), CODES[dtype], 1.0),
                spec.targets,
                np.empty((self._room, *targets.shape[1:]), targets.dtype),
                np.ones(spec.per_target(self._room), dtype),
            )

    def _next(self) -> Samples:
        """The next batch, checked."""
        try:
            batch = next(self._iterator)
        except StopIteration:
            raise ValueError(
                f"X: expected {self.steps_per_epoch} batches in an epoch, got no more after "
                f"{self._n_taken} step{'s' * (self._n_taken != 1)}"
            ) from None
        self._n_taken += 1
        return _check_batch(batch, self._spec, self._n_taken)

    def _keep(self, samples: Samples) -> None:
        """Copies rows to the sample while there is room."""
        sample, start = self._sample, self._n_kept
        n = min(samples.n_samples, self._room - start)
        if sample is None or n == 0 or samples.targets.dtype != sample.targets.dtype:
            return
        part = sample.part(start, start + n)
        assert part.weights is not None
        np.multiply(
            samples.inputs.dense()[:n],
            self._spec.dtype.type(samples.inputs.scale),
            out=part.inputs.dense(),
            casting="same_kind",
        )
        part.targets[...] = samples.targets[:n]
        if samples.weights is not None:
            part.weights[...] = samples.weights[:n]
        self._n_kept += n
        self.sampled = sample.part(0, self._n_kept)

    def batches(self) -> Iterator[Stretch]:
        """See `Source`."""
        samples, self._first = self._first, None
        n_samples = 0
        for step in range(self.steps_per_epoch):
            began = time.perf_counter()
            if step == 0 and samples is None and not self._one_shot:
                self._iterator = iter(self._batches)
            if samples is None:
                samples = self._next()
            n, n_in = samples.n_samples, samples.inputs.n_columns
            if n_in != self._n_inputs:  # the network takes any number of steps
                features = self._spec.shape[1:] or (1,)
                steps, got = (m // (features[0] or 1) for m in (self._n_inputs, n_in))
                raise ValueError(f"X: expected {steps} steps in each batch, as in the first, got {got} in batch {self._n_taken}")
            if self._equal and n != self.batch_size:
                expected = f"{self.batch_size} samples in each batch with carry_state, as in the first"
                raise ValueError(f"X: expected {expected}, got {n} in batch {self._n_taken}")
            self._keep(samples)
            self.batch_size = max(self.batch_size, n)
            self.seconds += time.perf_counter() - began
            n_samples += n
            yield samples, None, ((0, n),)
            samples = None
        self.n_samples = n_samples

    def known_by(self) -> Iterable[NDArray[Any]]:
        """The first batch, before it is taken."""
        assert self._first is not None
        return self._first.arrays
