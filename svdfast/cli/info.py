# SPDX-License-Identifier: BSD-3-Clause
"""`svdfast info`: this machine, or a saved network.

Elsewhere: the facts about them (_process/config.py, model/network.py).
"""

from __future__ import annotations

import argparse

from svdfast._process.config import show_config
from svdfast.cli import saved
from svdfast.cli.comparison import say

__all__ = ["add"]

_DESCRIPTION = """\
Without MODEL: show the CPU's features, BLAS, threads and versions in use. With MODEL: show a saved
network's layers, their shapes, ranks, parameters and multiplications for a sample, and its training
data.
"""

_EPILOG = """\
examples:
  svdfast info
  svdfast info network.npz

exit status:
  0 done; 1 it failed: a file not found or damaged; 2 the arguments are wrong
"""


def add(command: saved.AddCommand) -> None:
    """Adds the command and its arguments."""
    parser = command(
        "info", _run, help="show this machine, or a saved network", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="file of a network")


def _run(arguments: argparse.Namespace) -> None:
    say(str(show_config()) if arguments.model is None else saved.load_model(arguments.model).summary())
