# SPDX-License-Identifier: BSD-3-Clause
"""The entry point for data: samples for training, for validation, and for inspecting a network.

All data from users come in here and are checked by a `Spec`. They go out as Samples: at once if
they are in memory, else in blocks or in batches. Elsewhere: how each kind is read (arrays.py,
sparse.py, rows.py, batches.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np

from svdfast._process.checks import count
from svdfast.data.arrays import ArraySource, Source
from svdfast.data.batches import BatchSource, is_iterable_of_batches, validation_batches
from svdfast.data.checks import CODES, NAMES, Samples, checked_samples, with_steps
from svdfast.data.frames import column_names
from svdfast.data.labels import classes_of
from svdfast.data.rows import FEWEST_BLOCKS, Reader, RowSource, is_row_source, read_if_small
from svdfast.data.shared import Share, SharedRows, Sharing, cut
from svdfast.data.sparse import is_sparse, sparse_samples
from svdfast.data.spec import Spec

__all__ = ["BATCH_SIZE", "Pieces", "checked_samples", "in_memory", "learned", "open_data", "open_source", "open_validation"]

# The default number of samples in a mini-batch.
BATCH_SIZE = 256
# Several processes split validation data into so many pieces, of at least so many rows.
N_PIECES, PIECE_ROWS = 64, 256


def learned(spec: Spec, X: Any, y: Any) -> Spec:
    """The spec with the names of a table's columns and the classes of labels, unless it has them.

    Raises
    ------
    TypeError, ValueError
        The labels are of several kinds, or their number of classes is not the network's.
    """
    names, classes = spec.feature_names, spec.classes
    if names is None:
        names = column_names(X)
    if names is not None and (len(names) != spec.n_inputs or spec.any_steps):
        # The check of X reports it. With another number of steps, columns have other names.
        names = None
    if classes is None and spec.n_classes > 0 and y is not None and not is_row_source(y):
        classes = classes_of("y", y, spec)
    return spec._replace(feature_names=names, classes=classes)


def in_memory(X: Any, y: Any, sample_weight: Any, spec: Spec, *, names: tuple[str, str, str] = NAMES) -> Samples:
    """Samples in memory, dense or sparse.

    Raises
    ------
    TypeError, ValueError
        The data do not fit `spec`.
    """
    if is_sparse(X):
        return sparse_samples(X, y, sample_weight, spec, names)
    return checked_samples(X, y, sample_weight, spec, names=names)


def open_data(
    X: Any, y: Any, sample_weight: Any, spec: Spec, *, names: tuple[str, str, str] = NAMES
) -> Samples | Reader:
    """Samples with `blocks`: one block if they are in memory or small, else blocks read each time.

    Raises
    ------
    TypeError, ValueError
        The data do not fit `spec`. For data on disk, this may show only while they are read.
    """
    spec = with_steps(spec, X, names[0])
    parts = X, y, sample_weight
    direct: tuple[Collection[Any], ...] = CODES, (spec.target_dtype,), (spec.target_dtype,)
    if not is_sparse(X) and any(map(is_row_source, parts, direct)):
        X, y, sample_weight = parts = tuple(map(read_if_small, names, parts, direct))
        if any(map(is_row_source, parts, direct)):
            return Reader(X, y, sample_weight, spec, names)
    return in_memory(X, y, sample_weight, spec, names=names)


def open_source(
    X: Any,
    y: Any,
    sample_weight: Any,
    spec: Spec,
    rng: np.random.Generator,
    *,
    batch_size: int | None,
    shuffle: bool | None,
    steps_per_epoch: int | None,
    n_sampled: int,
    equal: bool = False,
    sharing: Sharing | None = None,
) -> tuple[Source, Share | None]:
    """The source of a training's batches.

    Parameters
    ----------
    X, y, sample_weight, batch_size, shuffle, steps_per_epoch
        As for `train`.
    spec : Spec
    rng : numpy.random.Generator
        Generator for the order of samples.
    n_sampled : int
        The most samples that a look at the data takes; so many of an iterable's are kept.
    equal : bool
        All batches must have the same number of samples, in order, as each row continues the same
        row of the batch before.
    sharing : Sharing, optional
        Given if several processes train; each takes a share of a batch.

    Returns
    -------
    Source
    Share or None
        This process's rows of a batch; None without `sharing`, and for ready-made batches.

    Raises
    ------
    TypeError, ValueError
        An argument does not go with this kind of data, or the data do not fit `spec`.
    """
    if y is None and is_iterable_of_batches(X):
        given = {"batch_size": batch_size, "shuffle": shuffle, "sample_weight": sample_weight}
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{name}: expected None with an iterable of batches, got {value!r}"
                )
        if sharing is not None and sharing.size > 1:
            for name, value in {"reproducible": sharing.reproducible, "carry_state": equal}.items():
                if value:
                    raise ValueError(
                        f"{name}: expected False with an iterable of batches in several processes, as each brings its own, got True"
                    )
        return BatchSource(X, spec, steps_per_epoch, n_sampled, equal), None
    if steps_per_epoch is not None:
        raise ValueError(
            "steps_per_epoch: expected None with samples that are not an iterable of batches, "
            f"got {steps_per_epoch!r}"
        )
    batch_size = BATCH_SIZE if batch_size is None else count("batch_size", batch_size)
    shuffled = not equal if shuffle is None else bool(shuffle)
    if equal and shuffled:
        raise ValueError("shuffle: expected None or False with carry_state, as each row of a batch continues in the next, got True")
    data = open_data(X, y, sample_weight, spec)
    if equal and data.n_samples % min(batch_size, data.n_samples):
        raise ValueError(
            f"batch_size: expected a divisor of the {data.n_samples} samples with carry_state, as all batches have to be of one size, "
            f"got {batch_size}"
        )
    share = None if sharing is None else sharing.of(min(batch_size, data.n_samples))
    if isinstance(data, Reader):
        return RowSource(data, batch_size, shuffled, rng) if share is None else SharedRows(data, share, shuffled, rng), share
    return ArraySource(data, batch_size, shuffled, rng), share


def open_validation(validation: Any, spec: Spec, sharing: Sharing | None = None) -> tuple[Callable[[], Iterable[Samples]], Pieces | None]:
    """A function that returns the samples of (X, y), or of an iterable of batches, block by block.

    The second result has them in pieces that several processes share.

    Raises
    ------
    TypeError, ValueError
        As for `train`.
    """
    if not isinstance(validation, tuple | list):
        batches = validation_batches(validation, spec)
        return batches, None if sharing is None else Pieces(batches, sharing)
    if len(validation) != 2:
        raise TypeError(
            "validation: expected a pair (X, y), or an iterable of batches that is no tuple or list"
        )
    X, y = validation
    data = open_data(X, y, None, spec, names=("validation X", "validation y", NAMES[2]))
    return data.blocks, None if sharing is None else Pieces(data, sharing)


class Pieces:
    """Validation data in pieces that do not depend on the number of processes.

    Each piece belongs to one process. An iterable of batches is one piece for each process, as each
    brings its own.

    Attributes
    ----------
    n : int
        Number of pieces of all processes.
    n_samples : int or None
        None for batches, as their number is not known before they are read.
    """

    def __init__(self, data: Samples | Reader | Callable[[], Iterable[Samples]], sharing: Sharing):
        self._data, self._sharing = data, sharing
        self.n = sharing.size
        self.n_samples: int | None = None
        if not callable(data):
            self.n_samples = n = data.n_samples
            if isinstance(data, Reader):
                self._height = min(data.blocks_of_pool(FEWEST_BLOCKS)[0], max(PIECE_ROWS, -(-n // N_PIECES)))
            else:
                self._height = max(PIECE_ROWS, -(-n // N_PIECES))
            self.n = -(-n // self._height)

    def own(self) -> Iterator[tuple[int, Iterable[Samples]]]:
        """The index of each piece of this process, and its samples."""
        data, rank, size = self._data, self._sharing.rank, self._sharing.size
        if callable(data):
            yield rank, data()
            return
        for i in range(cut(rank, self.n, size), cut(rank + 1, self.n, size)):
            start, stop = i * self._height, min((i + 1) * self._height, data.n_samples)
            if isinstance(data, Reader):
                yield i, (data.read(start, stop),)
            else:
                yield i, (data.part(start, stop),)
