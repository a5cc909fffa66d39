# SPDX-License-Identifier: BSD-3-Clause
"""The command in several processes that mpiexec starts: one prints, and one that fails ends all.

Elsewhere: how they train together (svdfast/training/shared.py), and the texts of messages
(main.py).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from svdfast.cli.errors import Failure
from svdfast.distributed import PATIENCE, mpi

__all__ = ["one_voice"]


@contextlib.contextmanager
def one_voice(complain: Callable[[BaseException], int]) -> Iterator[Any]:
    """Gives the communicator; inside, only process 0 prints, and an error of any process ends all.

    Parameters
    ----------
    complain : callable
        Prints the message for an error, and returns the exit status.

    Raises
    ------
    Failure
        MPI is not available.
    """
    try:
        communicator = mpi()
    except ImportError as error:
        raise Failure(f"--distributed: {error}") from None
    try:
        with contextlib.ExitStack() as quiet:
            if communicator.rank > 0:
                nowhere = quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))
                quiet.enter_context(contextlib.redirect_stdout(nowhere))
                quiet.enter_context(contextlib.redirect_stderr(nowhere))
            yield communicator
    except BaseException as error:
        if communicator.size == 1:
            raise
        if communicator.rank > 0:
            time.sleep(PATIENCE)
        communicator.end(complain(error))
