# SPDX-License-Identifier: BSD-3-Clause
"""`svdfast train --checkpoint` and `--resume`: the state files, one a network, and their refusals.

Elsewhere: the contents of such a file, and how a training continues from it (svdfast/training).
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from svdfast.cli.errors import Failure, UsageError, named_errors, tell
from svdfast.training.continuing import Continuing

__all__ = ["check_files", "continuing", "file_of", "named_refusals", "told_how_to_resume"]

# Arguments that decide about a training. Others, such as columns, show in the data.
_SETTINGS = (
    "seed", "compare", "model", "width", "hidden", "dtype", "optimizer", "momentum", "weight_decay", "ranks", "rank_fraction",
    "pretrain_fraction", "svd_method", "plain_svd", "product_decay", "keep_dense", "force", "precision", "early_stopping",
    "validation", "test_size", "steps",
)  # fmt: skip


class _File(Continuing):
    """A file whose errors name it as the user did."""

    def __init__(self, option: str, path: Path, settings: Mapping[str, Any], *, looks: bool):
        super().__init__(path, settings, looks=looks)
        self._place = f"{option}: {path}"

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        with named_errors(self._place):
            super().write(step, values)

    def read(self) -> dict[str, Any] | None:
        with named_errors(self._place):
            return super().read()


def file_of(arguments: argparse.Namespace, name: str) -> Path | None:
    """The file of a network's training, or None; the dense one of two has its own ending."""
    path: Path | None = arguments.checkpoint if arguments.resume is None else arguments.resume
    return path if path is None or name != "dense" else path.with_name(f"{path.name}.dense")


def check_files(arguments: argparse.Namespace, communicator: Any) -> None:
    """Refuses, before any training, files that exist, are missing, or can't be written."""
    if arguments.checkpoint is not None and arguments.resume is not None:
        raise UsageError("--resume: expected no --checkpoint with it, as the file is written on")
    path = file_of(arguments, "")
    if path is None or getattr(communicator, "rank", 0) > 0:  # process 0 alone has the files
        return
    option, files = _option(arguments), [path]
    if arguments.compare:
        files.append(path.with_name(f"{path.name}.dense"))
    for file in files:
        if file.is_dir():
            raise Failure(f"{option}: {file} is a folder")
    there = [file for file in files if file.exists()]
    if arguments.checkpoint is not None and there:
        raise Failure(f"{option}: {there[0]} is there already; --resume {path} continues from it")
    if arguments.resume is not None and not there:
        raise Failure(f"{option}: {path}: No such file or directory")
    with named_errors(f"{option}: {path.parent}"), tempfile.TemporaryFile(dir=path.parent):
        pass


def continuing(arguments: argparse.Namespace, name: str, resolved: dict[str, Any], communicator: Any) -> Continuing | None:
    """The file that a network's training is written to and continues from.

    Parameters
    ----------
    arguments : Namespace
    name : str
        Name of the network.
    resolved : dict
        Settings that depend on the data if the user does not give them.
    communicator : Communicator or None
    """
    path = file_of(arguments, name)
    if path is None:
        return None
    settings = resolved | {name: getattr(arguments, name) for name in _SETTINGS}
    return _File(_option(arguments), path, settings, looks=getattr(communicator, "rank", 0) == 0)


@contextlib.contextmanager
def named_refusals(arguments: argparse.Namespace) -> Iterator[None]:
    """Names the option if a training can't be continued."""
    try:
        yield
    except ValueError as error:  # also an SVD of weights that are no longer finite
        text = str(error)
        if text.startswith("checkpoint: "):
            text = text.replace("checkpoint", _option(arguments), 1)
        raise Failure(text) from None


@contextlib.contextmanager
def told_how_to_resume(arguments: argparse.Namespace) -> Iterator[None]:
    """After Ctrl-C, prints how to continue the training if its state was written."""
    try:
        yield
    except KeyboardInterrupt:
        path = file_of(arguments, "")
        if path is not None:
            tell(f"the training's state is kept: the same command with --resume {path} continues")
        raise


def _option(arguments: argparse.Namespace) -> str:
    return "--checkpoint" if arguments.resume is None else "--resume"
