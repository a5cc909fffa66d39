# SPDX-License-Identifier: BSD-3-Clause
"""The command `svdfast`: train a network, use a trained one, repeat the paper's experiments.

The start and the end of the command are here, and the arguments of its commands. Elsewhere: parsing
them (arguments.py), the data (data.py), the trainings and their output (comparison.py, reproduce/),
and the commands that take a saved network (saved.py).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from svdfast._process.version import __version__
from svdfast.cli import arguments as parse
from svdfast.cli import checkpoints, compress, evaluate, export, info, networks, predict, texts
from svdfast.cli.columns import MOST_CLASSES
from svdfast.cli.comparison import SGD_LEARNING_RATE, Comparison, say
from svdfast.cli.data import DEFAULTS, LEAST_STEPS, TEST_SHARE, Data, load
from svdfast.cli.distributed import one_voice
from svdfast.cli.errors import Failure, UsageError, named_errors, nearest, short, tell
from svdfast.cli.report import Trained, check_extras, draw, write_page
from svdfast.cli.scales import with_scales
from svdfast.interop import files as io
from svdfast.model.network import Network
from svdfast.model.ranks import NARROW

__all__ = ["main"]

_INTERRUPTED = 128 + 2  # the exit status that shells give a process that SIGINT ended
_BROKEN_PIPE = 128 + 13  # the same for SIGPIPE


_DESCRIPTION = """\
Train a network, fully connected unless --model names another one, by the four steps of the method:
dense pre-training, truncated SVD of the hidden weights, training of the factors, recomposition.
Trial truncations, and what they cost in loss, decide about the factored layers and their ranks.
With --compare a second network is trained dense throughout, from the same first weights, on the
same samples in the same order. Epochs of the two alternate.
"""

_REPRODUCE = """\
Repeat the paper's experiments and print its tables beside the results here. FOLDER gets every run
(JSON, CSV), the tables (Markdown) and the figures (PNG, SVG). After Ctrl-C the same command
continues.
"""

_REPRODUCE_EPILOG = """\
experiments:
  xor          section 4.1: table 1, figure 3
  cat          section 4.2: table 2, figure 4 (needs its two files)
  mnist        section 4.3: table 3, figure 5
  small        section 4.3: a network with too few neurons
  images       section 3.2.2: pictures compressed and denoised
  study        section 6: rank and pre-training over a grid, two data sets; larger networks
  recurrent    section 6: MNIST by rows, the adding problem, characters (needs a file)
  convolution  section 6: MNIST, Fashion-MNIST, photos (needs a file)
  all          all of these (the default)

Figures need matplotlib and pictures scikit-learn: pip install "svdfast[demo,plot]".

example:
  svdfast reproduce xor small --quick --out trial

exit status:
  0 done; 1 something was left out or failed; 2 the arguments are wrong; 130 ended by Ctrl-C
"""

_TRAINED_WITH = "\n".join(
    f"  {name:13}  {','.join(map(str, d.hidden)):9}  {d.epochs:<6}  {d.batch_size:<5}  {d.learning_rate:g}"
    for name, d in DEFAULTS.items()
)

_BY_MODEL = (
    f"at least {networks.EPOCHS}, and {LEAST_STEPS:,} steps; batches of {networks.BATCHES[0]} to {networks.BATCHES[1]}; "
    f"{networks.RATE:g}, of text {networks.TEXT_RATE:g}"
)

_EPILOG = f"""\
data:
  digits         1,797 images of 8x8 that come with scikit-learn (the default)
  xor            four rows
  mnist          60,000 and 10,000 images of 28x28, downloaded once (12 MB)
  fashion-mnist  the same in number and size, downloaded once (31 MB)
  cat            209 and 50 images of 64x64x3; needs its two files
  FILE           a table: .csv, .tsv, .txt, .data (also .gz, .bz2, .xz), .parquet, .feather, .xlsx,
                 or - for text from standard input
  FILE.npz       arrays X (a sample in a row, or an image) and y, and X_test and y_test if there is
                 a test set; also x_train, y_train, x_test, y_test
  text FILE      a text, to predict each character from those before it: UTF-8, or see
                 --encoding; also .gz, or - for standard input. A table called text is ./text

  The columns of a table are numbers or text, with or without gaps. Delimiter and header are found
  by looking. A missing number becomes the median, text becomes a 0 or 1 for each of its values.
  Columns that do not vary, and texts that rarely repeat, are left out. The target is the last
  column unless --target names others. A target of text has classes, and so has one of at most
  {MOST_CLASSES} integers (see --task). Several targets are all numbers, or have two values each. The saved
  network knows all this, so svdfast predict takes the same table with its columns in any order.

  If a file has no test set, a share of its rows is held out. Features are brought to mean 0 and
  standard deviation 1, and so is a target that is not classes. uint8 is taken for pixels and
  divided by 255 instead. SVDFAST_DATA may name a folder that has the files of mnist, fashion-mnist
  and cat.

  --model takes digits, mnist, fashion-mnist, cat, and a FILE.npz whose X has the shape (samples,
  height, width) or (samples, height, width, channels). gru, lstm and rnn read an image row by row.
  lenet5 is two convolutions of 5x5, each with a pooling, and layers of 120 and 84. Features of a
  file that are not uint8 are divided by their root mean square. A recurrent layer counts as two
  hidden layers: the weights of its inputs, and those of its state.

  A text is divided into windows of --steps characters. After each character the network predicts
  the next one. The end of the text is the test set. Bits a character, the loss over ln 2, replace
  the accuracy. At the end the network writes a sample; svdfast predict writes more from a saved
  network.

defaults:
  data           hidden     epochs  batch  learning rate
{_TRAINED_WITH}
  a file         512,256    at least 20, and {LEAST_STEPS:,} steps; batches of 32 to 256; 0.001
  few rows       100        the same, of a file of less than 1,000 training rows
  --model, text  {networks.WIDTH}        {_BY_MODEL}

examples:
  svdfast train
  svdfast train mnist --rank-fraction 1/8 --learning-rate 0.001
  svdfast train digits --hidden 2048,2048 --epochs 20 --threads 2
  svdfast train people.csv --target income --drop id --test later.csv --save network.npz
  svdfast train mnist --model gru --epochs 2
  svdfast train mnist --checkpoint run.ckpt
  svdfast train mnist --resume run.ckpt
  svdfast train text shakespeare.txt --model gru --steps 50 --save shakespeare.npz
  svdfast predict network.npz new.csv

exit status:
  0 done; 1 it failed: data not found or not usable, training diverged, file not written, or the
  network is worse than a constant answer; 2 the arguments are wrong; 130 ended by Ctrl-C
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command `svdfast`.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; by default those of the process.

    Returns
    -------
    int
        The exit status: 0 done, 1 failed, 2 wrong arguments, 130 ended by Ctrl-C, 141 the reader of
        the output has closed it.

    Examples
    --------
    >>> from svdfast.cli.main import main
    >>> main(["--version"])
    svdfast 0.1.0
    0
    """
    try:
        status = _run(argv)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as error:
        return _complain_of(error)
    except OSError as error:  # of standard output; all others were handled
        # Python flushes it again at exit, which would fail again.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _BROKEN_PIPE
        return _complain(f"standard output: {error.strerror or error}", 1)


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments, unknown = _parser().parse_known_args(argv)
        if arguments.run is _train:
            unknown = texts.take_file(arguments, unknown)
        if unknown:
            arguments.parser.refuse(unknown)
        arguments.run(arguments)
    except SystemExit as end:  # of --help and --version
        return int(end.code or 0)
    except _EXPECTED as error:
        return _complain_of(error)
    return 0


_EXPECTED = (UsageError, Failure, FloatingPointError, np.linalg.LinAlgError, MemoryError)


def _complain_of(error: BaseException) -> int:
    """Prints the message of an error, and returns the exit status."""
    if isinstance(error, KeyboardInterrupt):
        print("svdfast: interrupted", file=sys.stderr)
        return _INTERRUPTED
    if isinstance(error, MemoryError):
        return _complain(f"out of memory{f': {error}' if str(error) else ''}", 1)
    if isinstance(error, _EXPECTED):
        return _complain(error, 2 if isinstance(error, UsageError) else 1)
    traceback.print_exception(error)
    return 1


def _complain(message: object, status: int) -> int:
    print(f"svdfast: error: {message}", file=sys.stderr)
    return status


# Arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\nTry '{self.prog} --help'.")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Refuses unknown arguments, and names the option that is most like the first one."""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        like = nearest(unknown[0].partition("=")[0], options) if unknown[0].startswith("-") else ""
        self.error(f"unrecognized arguments: {' '.join(map(_short_word, unknown))}{like}")


def _short_word(word: str) -> str:
    return word if len(word) <= 60 else f"{word[:57]}..."


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="svdfast",
        description="Train neural networks faster by factoring their weights.",
        epilog="'svdfast train' needs no arguments; 'svdfast COMMAND --help' shows those of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"svdfast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], **texts: Any) -> argparse.ArgumentParser:
        form = argparse.RawDescriptionHelpFormatter
        added = commands.add_parser(name, formatter_class=form, allow_abbrev=False, **texts)
        added.set_defaults(run=run, parser=added)
        return added

    # fmt: off
    add = command(
        "reproduce", _reproduce, help="repeat the paper's experiments",
        description=_REPRODUCE, epilog=_REPRODUCE_EPILOG,
    ).add_argument
    add("experiments", nargs="*", metavar="EXPERIMENT", help="see below (default: all)")
    add("--seeds", type=parse.integer(1, 1000), metavar="N",
        help="trainings of each kind (default: 20 of xor, 10 of cat, 5 of mnist, small and images, else 3)")
    add("--quick", action="store_true",
        help="a few samples and epochs, to see that everything works")
    add("--out", type=Path, metavar="FOLDER",
        help="default: reproduction, and reproduction-quick with --quick")
    _add_training(command(
        "train", _train, help="train a network on a file or a named data set",
        description=_DESCRIPTION, epilog=_EPILOG,
    ))
    # fmt: on
    for each in (predict, evaluate, compress, export, info):
        each.add(command)
    return parser


def _add_training(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `svdfast train`."""
    # fmt: off
    parser.add_argument("data", nargs="?", default="digits", metavar="DATA",
                        help=f"{', '.join(DEFAULTS)}, a file or -, or text, see below")
    parser.add_argument("file", nargs="?", metavar="FILE", help="after text: a file of text, or -")
    add = parser.add_argument_group("network").add_argument
    add("--model", choices=networks.MODELS,
        help=f"instead of fully connected layers, for images: recurrent ones over an image's rows ({', '.join(networks.CELLS)}), or "
        "convolutions (lenet5); for text: recurrent ones (default lstm)")
    add("--width", type=parse.integer(1), metavar="N", help=f"numbers of a recurrent layer's state (default {networks.WIDTH})")
    add("--hidden", type=parse.whole_numbers, metavar="N,N",
        help="neurons of each hidden layer: 1024,1024")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--save", type=Path, metavar="FILE",
        help="write the recomposed network to FILE.npz or FILE.safetensors, for svdfast predict, "
        "compress, export and svdfast.load; it takes DATA's own numbers, not "
        "standardised ones")

    add("--report", type=Path, metavar="FILE",
        help="write data, network, decisions, figures and scores to FILE.html, a page that needs no other file; needs matplotlib")
    add("--plot", type=Path, metavar="FILE", help="draw losses, accuracy and phases to FILE.png or FILE.svg; needs matplotlib")
    add("--quiet", action="store_true", help="show neither the progress bar nor the lines of epochs, only the results")

    add = parser.add_argument_group("factoring").add_argument
    add("--compare", action=argparse.BooleanOptionalAction,
        help="train a dense network beside it, in alternating epochs (default: for a named data set)")
    add("--ranks", type=parse.rank_rule_or_auto, metavar="RULE",
        help="auto (the default), a rank for each layer, or none, by what truncation costs in loss; "
        f"{parse.RULES}")
    add("--rank-fraction", **parse.RANK_FRACTION | {
        "help": f"instead: {parse.RANK_FRACTION['help']}; "
        f"a layer of at most {NARROW} inputs stays dense if its rank would be less than their number"})
    add("--pretrain-fraction", type=parse.pretrain_fraction, metavar="P",
        help="share of the steps before the SVD, dense (default 0.05); with --ranks auto, before "
        "the first trial truncations (default 100 steps, at most 0.1)")
    add("--svd-method", choices=("exact", "randomized"), default="exact",
        help="default exact; randomized may be faster for small ranks of large weights")
    add("--plain-svd", action="store_true",
        help="truncate so that the weights change least, instead of the layers' outputs over a sample")
    add("--product-decay", type=parse.not_negative, default=0.0, metavar="D",
        help="weight decay of the factors' product (default 0)")
    add("--keep-dense", type=parse.whole_numbers, metavar="I,I",
        help="hidden layers that stay dense, counted from 1; goes with --rank-fraction")
    add("--force", action="store_true",
        help="also factor layers whose factors save no multiplications, and those of few inputs; "
        "not with --ranks auto")

    add = parser.add_argument_group("training").add_argument
    add("--precision", choices=("float32", "bfloat16"),
        help="precision of the products of a float32 network; bfloat16 is faster if the CPU has it, "
        "see svdfast info")
    add("--epochs", type=parse.integer(1), metavar="N", help="passes over the data")
    add("--batch-size", type=parse.integer(1), metavar="N", help="samples in a mini-batch")
    add("--optimizer", choices=("adam", "adamw", "sgd"), default="adam",
        help="default adam; sgd is gradient descent")
    add("--learning-rate", type=parse.positive, metavar="R",
        help="first rate; it falls to 0 over the last 30 %% of the steps; default: see below, "
        f"and {SGD_LEARNING_RATE} for sgd")
    add("--momentum", type=parse.momentum, metavar="M", help="momentum for sgd (default 0)")
    add("--weight-decay", type=parse.not_negative, metavar="D", help="weight decay for adamw (default 0.01)")
    add("--threads", **parse.THREADS)
    add("--distributed", action="store_true",
        help="train with all processes that mpiexec has started: mpiexec -n 4 svdfast train ... --distributed; needs mpi4py")
    add("--seed", type=parse.integer(0), default=0, metavar="N",
        help="seed for the first weights, the order of the samples and the test set (default 0)")
    add("--checkpoint", type=Path, metavar="FILE",
        help="write the training's state to FILE after each epoch, and that of the dense network beside it to FILE.dense")
    add("--resume", type=Path, metavar="FILE",
        help="continue from the state that --checkpoint FILE wrote, with the same other arguments; the result is that of a run "
        "without a break")

    add = parser.add_argument_group("data files").add_argument
    add("--test", metavar="FILE", help="a table of test samples, with the same columns")
    add("--test-size", type=parse.share, metavar="S",
        help=f"share of the rows held out if there is no test set (default {TEST_SHARE}), or of a text's end "
        f"(default {texts.TEST_SHARE})")
    add("--validation", type=parse.share, metavar="S",
        help="share of the training rows to validate epochs with (default: the test set is used)")
    add("--early-stopping", action="store_true",
        help="end when the loss on these rows no longer falls, with the network of the best epoch")
    add("--task", choices=("auto", "classification", "regression"), default="auto",
        help="kind of the target (default: classes if it has text or few integers)")
    add("--no-standardise", action="store_true", help="do not standardise features and targets")

    add = parser.add_argument_group("text").add_argument
    add("--steps", type=parse.integer(1), metavar="N", help=f"characters in a window (default {texts.STEPS})")
    add("--sample", type=parse.integer(0), metavar="N",
        help=f"characters that the network writes at the end (default {texts.SAMPLE})")

    tables = parser.add_argument_group("tables")
    add = tables.add_argument
    add("--target", nargs="+", metavar="COLUMN", help="columns to predict (default: the last column that is not dropped)")
    add("--drop", nargs="+", metavar="COLUMN", help="columns to leave out")
    add("--categorical", nargs="+", metavar="COLUMN", help="columns of numbers to take for text, such as codes")
    parse.add_reading(tables)
    # fmt: on


# Commands


def _reproduce(arguments: argparse.Namespace) -> None:
    # Imported here because it takes long and nothing else needs it.
    from svdfast.reproduce import EXPERIMENTS, reproduce

    names = list(dict.fromkeys(arguments.experiments or ["all"]))
    for name in names:
        if name not in ("all", *EXPERIMENTS):
            raise UsageError(f"EXPERIMENT: expected one of {', '.join(EXPERIMENTS)} or all, got {short(name)}")
    if "all" in names:
        names = list(EXPERIMENTS)
    out = arguments.out or Path("reproduction-quick" if arguments.quick else "reproduction")

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        left_out = reproduce(names, out, seeds=arguments.seeds, quick=arguments.quick, say=say, tell=tell)
    except (ImportError, ValueError) as error:
        raise Failure(error) from None
    except BrokenPipeError:  # of standard output, which main handles
        raise
    except OSError as error:
        raise Failure(f"{error.filename or out}: {error.strerror or error}") from None
    except KeyboardInterrupt:
        tell("The runs that were done are kept: the same command goes on.")
        raise
    if left_out:
        raise Failure("\n".join(left_out))


def _train(arguments: argparse.Namespace) -> None:
    if not arguments.distributed:
        _train_with(arguments, None)
        return
    if "-" in (arguments.data, arguments.file):
        raise UsageError("--distributed: expected a file, as standard input is that of one process, got -")
    with one_voice(_complain_of) as communicator:
        _train_with(arguments, communicator)


def _train_with(arguments: argparse.Namespace, communicator: Any) -> None:
    """Trains, alone or with the other processes of a communicator."""
    if arguments.save is not None:
        parse.check_writable("--save", arguments.save, io.SUFFIXES)
    if arguments.ranks is not None and arguments.rank_fraction is not None:
        raise UsageError("--ranks: expected no --rank-fraction with it")
    if arguments.keep_dense is not None and arguments.rank_fraction is None:
        raise UsageError("--keep-dense: expected --rank-fraction with it")
    if arguments.force and arguments.rank_fraction is None and arguments.ranks in (None, "auto"):
        raise UsageError("--force: expected --rank-fraction or another --ranks than auto with it")
    if arguments.momentum is not None and arguments.optimizer != "sgd":
        raise UsageError(f"--momentum: {arguments.optimizer} has none; it goes with sgd")
    if arguments.weight_decay is not None and arguments.optimizer != "adamw":
        raise UsageError(f"--weight-decay: {arguments.optimizer} has none; it goes with adamw")
    if arguments.precision is not None and arguments.dtype != "float32":
        raise UsageError(f"--precision: goes with --dtype float32, not {arguments.dtype}")
    if arguments.early_stopping and arguments.validation is None:
        raise UsageError("--early-stopping: expected --validation with it, as the test set would choose the network else")
    if arguments.report is not None:
        parse.check_writable("--report", arguments.report, (".html",))
    if arguments.plot is not None:
        parse.check_writable("--plot", arguments.plot, (".png", ".svg"))
    texts.check_text(arguments)
    networks.check_model(arguments)
    if arguments.plot is not None or arguments.report is not None:
        check_extras()
    if arguments.compare is None:
        arguments.compare = arguments.data in (*DEFAULTS, "text")
    checkpoints.check_files(arguments, communicator)
    data = texts.load_text(arguments) if arguments.data == "text" else load(arguments)
    for warning in data.warnings:
        tell(f"warning: {warning}")
    comparison = Comparison(arguments, data, communicator)
    comparison.introduce()
    with checkpoints.told_how_to_resume(arguments):
        if arguments.compare:
            (dense, dense_result), (net, result) = comparison.train_both()
        else:
            net, result = comparison.train_one()
            dense_result = None
    if communicator is not None and communicator.rank > 0:
        arguments.plot = arguments.report = arguments.save = None  # process 0 writes
    as_trained = net if arguments.report is None else net.copy()  # tables are of the recomposed network, spectra of this one
    conclusion = ""
    if dense_result is not None:
        rows, conclusion = comparison.report(dense, dense_result, net, result)
    else:
        rows = comparison.report_one(net, result)
    if data.is_text:
        _show_sample(net, data, texts.SAMPLE if arguments.sample is None else arguments.sample, arguments.seed)
    complaint = comparison.judge(net)
    if arguments.save is not None:
        _save(net, data, arguments.save)
    if arguments.plot is not None:
        draw(result, arguments.plot)
        say(f"The losses are drawn in {arguments.plot}.")
    if arguments.report is not None:
        made = {"threads": comparison.threads, "seed": arguments.seed}
        about = Trained(data, as_trained, result, dense_result, comparison.samples(), comparison.settings(), conclusion, rows, made)
        write_page(about, arguments.report)
        say(f"The report is in {arguments.report}.")
    if complaint is not None:
        raise Failure(complaint)


def _show_sample(net: Network, data: Data, n: int, seed: int) -> None:
    if n:
        say(f"\n{n:,} character{'s' * (n > 1)} that the network writes:")
        say(texts.shown(texts.made_by(net, data.labels or (), n, seed)))
        say()


def _save(net: Network, data: Data, path: Path) -> None:
    saved = with_scales(net, data.X_scale, data.y_scale, data.untrained)
    saved.origin = data.origin
    with named_errors(f"--save: {path}"):
        io.save(saved, path)
    if saved.dtype != net.dtype:
        say(f"Saved as {saved.dtype}, for the file's numbers vary so little about their mean that {net.dtype} would blur them.")
    say(f"The recomposed network is in {path}.")
