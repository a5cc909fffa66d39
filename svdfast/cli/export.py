# SPDX-License-Identifier: BSD-3-Clause
"""`svdfast export`: a saved network as an ONNX file, which svdfast/onnx.py writes."""

from __future__ import annotations

import argparse
from pathlib import Path

import svdfast.onnx as onnx
from svdfast._process.text import one_line
from svdfast.cli import arguments as parse
from svdfast.cli import saved
from svdfast.cli.comparison import say
from svdfast.cli.errors import Failure, named_errors

__all__ = ["add"]

_MOST_CLASSES = 200  # the most classes that are listed

_DESCRIPTION = """\
Write a saved network as an ONNX file, for other programs to predict with. Factored layers stay
factored. Needs onnx: pip install "svdfast[onnx]".
"""

_EPILOG = """\
The file's input is X, a sample in a row, and its output y has a probability for each class, in the
order of the classes. Its metadata has the classes, the names of the features, and how a table's
columns become features. An existing FILE.onnx is replaced.

--with-preparation needs a network that svdfast train saved from a table. The file then has an input
(rows, 1) for each column of that table, with its name: numbers, NaN for a gap; or text, "" for a
gap. It fills gaps, makes features of text, and gives labels beside y.

examples:
  svdfast train iris.csv --target species --save iris.npz
  svdfast export iris.npz iris.onnx
  svdfast export iris.npz iris.onnx --with-preparation

exit status:
  0 done; 1 it failed: a file not found, damaged or not written, onnx not installed;
  2 the arguments are wrong; 130 ended by Ctrl-C
"""


def add(command: saved.AddCommand) -> None:
    """Adds the command and its arguments."""
    parser = command("export", _run, help="write a saved network as ONNX", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("model", **saved.MODEL)
    parser.add_argument("file", type=Path, metavar="FILE.onnx", help="file to write")
    parser.add_argument("--with-preparation", action="store_true", help="take a table's columns and give labels")


def _run(arguments: argparse.Namespace) -> None:
    parse.check_writable("FILE.onnx", arguments.file, (".onnx",))
    net = saved.load_model(arguments.model)
    if arguments.with_preparation and net.origin.preparation is None:
        raise Failure(f"{arguments.model}: --with-preparation: svdfast train did not save it from a table")
    try:
        with named_errors(str(arguments.file)):
            onnx.save(net, arguments.file, preparation=arguments.with_preparation)
    except (ImportError, ValueError) as error:
        raise Failure(f"{arguments.file}: {error}") from None
    say(f"The network is in {arguments.file}.")
    if net.classes is not None:
        shown = [name if (name := one_line(str(label))) else repr(label) for label in net.classes[:_MOST_CLASSES]]
        if len(net.classes) > _MOST_CLASSES:
            shown.append(f"... ({len(net.classes):,})")
        say(f"Its outputs are of the classes {', '.join(shown)}, in this order.")
