# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoint files: the state that a training continues from, as plain values and arrays.

Files are written completely or not at all, and are checked when they are read.

    svdfast checkpoint 4\\n       what it is, and the format's version
    length                       of the next part in bytes, in 8 bytes, lowest first
    JSON                         the values; an array is its dtype and shape
    arrays                       their bytes, one after the other, in the order in which the values name them
    SHA-256                      of all before it, 32 bytes

Reading makes numbers, texts, lists, tuples, dicts, arrays and the few classes of `_RECORDS`,
nothing else, and runs nothing. Elsewhere: the meaning of the values (state.py), and the files of
networks (files.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._process.checks import count
from svdfast._process.files import DAMAGED, remove_parts, written_whole
from svdfast.model.network import Truncation
from svdfast.model.ranks import Budget, Energy, Fraction, Given
from svdfast.model.structures import Structure, kind_named
from svdfast.training import state
from svdfast.training.factoring import Factoring, Guard
from svdfast.training.optimizers import BY_NAME, Optimizer
from svdfast.training.schedules import (
    Constant,
    Cooldown,
    Cosine,
    ReduceOnPlateau,
    StepDecay,
    Warmup,
    is_known,
)
from svdfast.training.stopping import EarlyStopping

__all__ = [
    "GENERATORS", "Checkpoint", "factoring_header", "fingerprint", "optimizer_header", "parse_factoring", "parse_optimizer", "plain",
    "read", "write",
]  # fmt: skip

_MAGIC = b"svdfast checkpoint "
_VERSION = 4
_START = _MAGIC + b"%d\n" % _VERSION
_RULES = (Budget, Energy, Fraction, Given)
_STATES = tuple(getattr(state, name) for name in state.__all__)
_RECORDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *_RULES, *_STATES, Constant, Cooldown, Cosine, EarlyStopping, Factoring, Guard, ReduceOnPlateau, StepDecay, Truncation, Warmup,
    )
}
# The random generators that a file can have.
GENERATORS: dict[str, Callable[[], Any]] = {
    kind.__name__: kind
    for kind in (np.random.MT19937, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64)
}
_OWN = "of the user's own"  # in place of values that a file does not have
_KINDS = "biuf"  # of arrays: real numbers
_CHUNK = 1 << 24  # bytes hashed together


class Checkpoint:
    """The place and the times of a training's checkpoints.

    Parameters
    ----------
    path : path
        Path of a file that does not exist yet, unless the training continues from it.
    every : int, optional
        Steps from one checkpoint to the next; by default it is written at the end of each epoch.
    resumed : bool
        True if the file is the training's own.
    looks : bool
        True if the file's place is checked now. With several processes only the one that writes
        checks it.

    Attributes
    ----------
    next_step : int
        The step before which the file is to be written next. If epochs decide, no step reaches it.

    Raises
    ------
    FileExistsError, IsADirectoryError
        The file would replace one that is not its own.
    TypeError, ValueError
        An argument is of the wrong kind.
    """

    def __init__(self, path: str | os.PathLike[str], every: int | None = None, *, resumed: bool = False, looks: bool = True):
        try:
            self.path = Path(path)
        except TypeError:
            raise TypeError(f"checkpoint: expected a path, got {type(path).__name__}") from None
        self.every = None if every is None else count("checkpoint_every", every)
        self.path = self.path.absolute()  # because a callback may change the folder
        self.next_step = sys.maxsize
        if not looks:
            return
        if self.path.is_dir():
            raise IsADirectoryError(f"checkpoint: expected the path of a file, got the folder {os.fspath(path)!r}")
        if not resumed and self.path.exists():
            raise FileExistsError(
                f"checkpoint: {os.fspath(path)!r} is there already: go on from it with svdfast.resume, or remove it"
            )
        remove_parts(self.path)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the values of the state before this step."""
        write(self.path, values)
        self.plan(step)

    def plan(self, step: int) -> None:
        """Sets next_step to the next one after this step."""
        if self.every is not None:
            self.next_step = step - step % self.every + self.every


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a file completely; an older file of that name stays until then.

    Raises
    ------
    TypeError
        A value is not plain.
    OSError
        The file can't be written.
    """
    arrays: list[NDArray[Any]] = []
    text = json.dumps(_plain(values, arrays)).encode()
    parts: list[bytes | memoryview] = [_START, len(text).to_bytes(8, "little"), text, *(_bytes(array) for array in arrays)]
    digest = hashlib.sha256()
    with written_whole(path) as file:
        for part in parts:
            digest.update(part)
            file.write(part)
        file.write(digest.digest())


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the values that `write` wrote.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no checkpoint, is of another version, or is damaged.
    """
    try:
        path = Path(path)
    except TypeError:
        raise TypeError(f"path: expected a path, got {type(path).__name__}") from None
    with open(path, "rb") as file:
        start = file.read(len(_START))
        if not start.startswith(_MAGIC):
            raise ValueError(f"path: {os.fspath(path)!r} is not a checkpoint")
        if start != _START:
            version = start[len(_MAGIC) :].decode("ascii", "replace").strip()
            raise ValueError(
                f"path: {os.fspath(path)!r} is a checkpoint of format {version!r}; this svdfast reads format {_VERSION}"
            )
        rest = file.read()
    content, digest = memoryview(rest)[:-32], rest[-32:]
    found = hashlib.sha256(start)
    found.update(content)
    if found.digest() != digest:
        raise ValueError(
            f"path: {os.fspath(path)!r} is damaged: it was cut short, or changed since it was written (its checksum is not that of "
            "its content)"
        )
    try:
        place = 8 + int.from_bytes(content[:8], "little")
        values = json.loads(bytes(content[8:place]))
        return dict(_value(values, content[place:]))
    except DAMAGED as error:
        raise ValueError(f"path: {os.fspath(path)!r} is not a checkpoint: {error}") from None


def optimizer_header(optimizer: Optimizer) -> dict[str, Any] | None:
    """An optimizer in the form of a file, without its state.

    None if the optimizer, or its schedule, is of a user's own class or function.
    """
    name = type(optimizer).__name__
    if BY_NAME.get(name) is not type(optimizer) or not is_known(optimizer.schedule):
        return None
    return {"name": name, "settings": optimizer.settings | {"learning_rate": optimizer.schedule}}


def parse_optimizer(values: Mapping[str, Any]) -> Optimizer:
    """Makes the optimizer of a header that `optimizer_header` returned."""
    return BY_NAME[values["name"]](**values["settings"])


def factoring_header(factoring: Factoring) -> Factoring | str:
    """A training's method in the form of a file; a marker if its rank rule is the user's own."""
    known = type(factoring) is Factoring and type(factoring.ranks) in (float, tuple, str, *_RULES)
    return factoring if known else _OWN


def parse_factoring(value: Any) -> Factoring | None:
    """Checks the method that `factoring_header` stored; None if the file does not have it."""
    if value == _OWN:
        return None
    if not isinstance(value, Factoring):
        raise TypeError(f"it has a {type(value).__name__} in place of a Factoring")
    return value


def fingerprint(arrays: Iterable[NDArray[Any]]) -> str:
    """A SHA-256 of arrays: of their numbers, shapes and types."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        rows = max(1, _CHUNK // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            digest.update(_bytes(array[start : start + rows]))
    return digest.hexdigest()


def _bytes(array: NDArray[Any]) -> memoryview:
    """An array's numbers in order, as bytes."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def plain(value: Any) -> Any:
    """A value as JSON has it, to compare it with a file's. Arrays show types and shapes only."""
    return _plain(value, [])


class _NotPlain(TypeError):
    """A value that no file can have, and where it is."""

    def __init__(self, value: Any):
        self.kind, self.place = type(value).__name__, ""

    def __str__(self) -> str:
        return f"checkpoint: expected numbers, texts, lists, tuples, dicts and arrays of numbers in{self.place}, got {self.kind}"


def _plain(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """A value as JSON has it; its arrays are appended to `arrays`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.bool_ | np.integer | np.floating) and value.dtype.itemsize <= 8:
        return value.item()
    if type(value) is np.ndarray and value.dtype.kind in _KINDS:
        arrays.append(value)
        return {"array": [value.dtype.str, list(value.shape)]}
    if isinstance(value, tuple):
        return {"tuple": [_plain(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_plain(item, arrays) for item in value]
    if isinstance(value, Mapping):
        return {"dict": [[_plain(key, arrays), _item(key, item, arrays)] for key, item in value.items()]}
    if isinstance(value, type) and issubclass(value, Structure):
        return {"structure": value.__name__}
    name = type(value).__name__
    if _RECORDS.get(name) is type(value):
        return {name: [_item(field.name, getattr(value, field.name), arrays) for field in fields(value)]}
    raise _NotPlain(value)


def _item(key: Any, item: Any, arrays: list[NDArray[Any]]) -> Any:
    """The plain form of an item of a dict; an error names its key."""
    try:
        return _plain(item, arrays)
    except _NotPlain as error:
        error.place = f" {key}{error.place}"
        raise


def _value(plain: Any, content: memoryview) -> Any:
    """The value that `_plain` was given. `content` consists of its arrays."""
    place = 0

    def made(plain: Any) -> Any:
        nonlocal place
        if isinstance(plain, list):
            return [made(item) for item in plain]
        if not isinstance(plain, dict):
            return plain
        ((kind, items),) = plain.items()
        if kind == "array":
            dtype, shape = np.dtype(items[0]), tuple(count("shape", n, minimum=0) for n in items[1])
            if dtype.kind not in _KINDS:
                raise ValueError(f"it has an array of {dtype}")
            start, place = place, place + math.prod(shape) * dtype.itemsize
            return np.frombuffer(content[start:place], dtype).reshape(shape)
        if kind == "tuple":
            return tuple(made(item) for item in items)
        if kind == "structure":
            return kind_named(items)
        if kind == "dict":
            return {made(key): made(item) for key, item in items}
        names = [field.name for field in fields(_RECORDS[kind])]
        return _RECORDS[kind](**{name: made(item) for name, item in zip(names, items, strict=True)})

    value = made(plain)
    if place != len(content):
        raise ValueError(f"it has {len(content)} bytes of arrays, not {place}")
    return value
