# SPDX-License-Identifier: BSD-3-Clause
"""`svdfast train`: one training, or two from the same first weights, their output and the table.

Elsewhere: the arguments (main.py), the data (data.py, texts.py), the first network (networks.py),
scores (scores.py), pages and figures (report.py), and training itself (svdfast/training).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from svdfast._process.runtime import resolve_threads
from svdfast._process.text import aligned
from svdfast.cli.checkpoints import continuing, file_of, named_refusals
from svdfast.cli.data import Data, hold_out
from svdfast.cli.errors import UsageError
from svdfast.cli.networks import describe, first_network, settings_of
from svdfast.cli.scores import balanced_accuracy, constant, score, score_name, worse
from svdfast.cli.turns import HandOver, in_turns
from svdfast.model.counting import count_multiplications
from svdfast.model.evaluation import Evaluation
from svdfast.model.heads import NUMBERS
from svdfast.model.layout import Weight
from svdfast.model.network import Network, Truncation
from svdfast.model.ranks import Fraction
from svdfast.training.events import Event
from svdfast.training.factoring import Factoring
from svdfast.training.optimizers import Adam, AdamW, GradientDescent, Optimizer
from svdfast.training.result import TrainingResult
from svdfast.training.schedules import Cooldown
from svdfast.training.train import train

__all__ = ["SGD_LEARNING_RATE", "Comparison", "FractionExcept", "say"]

Array = NDArray[Any]

SGD_LEARNING_RATE = 0.1
_MOST_LINES = 20


def say(text: str = "") -> None:
    """Prints a line at once, also to a terminal that lacks some of its characters."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


@dataclass(frozen=True)
class FractionExcept(Fraction):
    """α of the smaller side, except for layers that stay dense."""

    dense: tuple[int, ...] = ()

    def __call__(self, layers: Sequence[Weight], weights: Sequence[Array]) -> list[int | None]:
        ranks = super().__call__(layers, weights)
        return [None if i in self.dense else rank for i, rank in enumerate(ranks)]


class Comparison:
    """One training or two from one network: their settings, their output, and the table."""

    def __init__(self, arguments: argparse.Namespace, data: Data, communicator: Any = None):
        self.X, self.y, self.X_val, self.y_val = data.X, data.y, data.X_test, data.y_test
        if arguments.validation is not None:
            kept, held_out = hold_out(data, arguments.validation, arguments.seed)
            self.X, self.y, self.X_val, self.y_val = data.X[kept], data.y[kept], data.X[held_out], data.y[held_out]
        defaults = settings_of(arguments, len(self.X))

        def setting(name: str) -> Any:
            value = getattr(arguments, name)
            return getattr(defaults, name) if value is None else value

        self.arguments, self.data = arguments, data
        self.epochs: int = setting("epochs")
        self.batch_size = min(setting("batch_size"), len(self.X))
        self.learning_rate: float = setting("learning_rate")
        if arguments.learning_rate is None and arguments.optimizer == "sgd":
            self.learning_rate = SGD_LEARNING_RATE
        self.resolved = {"epochs": self.epochs, "batch_size": self.batch_size, "learning_rate": self.learning_rate}
        self.communicator = communicator
        self.threads = resolve_threads(arguments.threads, getattr(communicator, "n_threads", None))

        self.first = first_network(arguments, data, setting("hidden"))
        keep, n_hidden = arguments.keep_dense or (), len(self.first.layout.factorable)
        if keep and max(keep) > n_hidden:
            raise UsageError(f"--keep-dense: expected numbers from 1 to {n_hidden}, got {max(keep)}")
        self.kept = tuple(sorted({number - 1 for number in keep}))
        self.told: dict[int, str] = {}  # the reason for each layer that stays dense
        self._warm_up()

    def optimizer(self) -> Optimizer:
        """A new optimizer, because its state belongs to one training."""
        arguments, rate = self.arguments, Cooldown(self.learning_rate)
        if arguments.optimizer == "sgd":
            return GradientDescent(rate, momentum=arguments.momentum or 0.0)
        if arguments.optimizer == "adamw":
            decay = 0.01 if arguments.weight_decay is None else arguments.weight_decay
            return AdamW(rate, weight_decay=decay)
        return Adam(rate)

    def _warm_up(self) -> None:
        """Does a dense step, an SVD and a factored step on a copy to warm everything up."""
        n, factoring = self.batch_size, self.factoring()
        if factoring.automatic:  # it looks, and truncates nothing so early
            factoring = replace(factoring, ranks=1 / 4, force=True)
        factoring = replace(factoring, pretrain_fraction=0.5)
        self._fit(self.first.copy(), factoring, self.X[:n], self.y[:n], epochs=2, communicator=None)

    def factoring(self) -> Factoring:
        """The factoring of the second training."""
        arguments = self.arguments
        ranks = arguments.ranks or "auto"
        if arguments.rank_fraction is not None:
            ranks = FractionExcept(arguments.rank_fraction, self.kept)
        return Factoring(
            ranks, pretrain_fraction=arguments.pretrain_fraction, recompose=False, force=arguments.force,
            svd=arguments.svd_method, activation_aware=not arguments.plain_svd,
            product_decay=arguments.product_decay,
        )  # fmt: skip

    def _fit(
        self, net: Network, factoring: Factoring | None, X: Array, y: Array, **settings: Any
    ) -> TrainingResult:
        arguments = self.arguments
        with named_refusals(arguments):
            return train(
                net, X, y, batch_size=self.batch_size, optimizer=self.optimizer(),
                factoring=factoring, precision=arguments.precision, n_threads=self.threads,
                seed=arguments.seed, **({"communicator": self.communicator} | settings),
            )  # fmt: skip

    def introduce(self) -> None:
        """Prints the network, the data and the settings of the training."""
        data, arguments = self.data, self.arguments
        say(self.samples())
        for note in data.notes:
            say(f"  {note}")
        if arguments.validation is not None:
            say(f"  {len(self.X_val):,} of the training samples held out for validation (--validation)")
        if data.table:
            say()
            for line in aligned([("column", "kind", "values"), *data.table], n_left=3):
                say(f"  {line}")
            say()
        for line in self.settings():
            say(line)

    def samples(self) -> str:
        """A line about the samples."""
        data = self.data
        what, each = ("windows", "step") if data.is_text else ("samples", "feature")
        return (
            f"{data.title}: {len(data.X):,} training and {len(data.X_test):,} test {what}, "
            f"{data.X.shape[1]:,} {each}{'s' * (data.X.shape[1] > 1)}, {data.kind}"
        )

    def settings(self) -> list[str]:
        """Lines about the network and the training."""
        data, net, arguments = self.data, self.first, self.arguments
        n_processes = 1 if self.communicator is None else self.communicator.size
        of_each = f" in each of {n_processes} processes" if n_processes > 1 else ""
        return [
            f"{describe(arguments, data, net)}, {net.dtype}"
            f"{', products in bfloat16' if arguments.precision == 'bfloat16' else ''}, "
            f"{len(net.parameters):,} parameters",
            f"{'at most ' if arguments.early_stopping else ''}{self.epochs} epochs, batches of {self.batch_size}, {arguments.optimizer}, "
            f"learning rate {self.learning_rate:g}, {self.threads} "
            f"{'thread' if self.threads == 1 else 'threads'}{of_each}, seed {arguments.seed}",
        ]

    def train_one(self) -> tuple[Network, TrainingResult]:
        """Trains a copy of the first network."""
        self._head("")
        return self._train("", self.factoring(), lambda: None)

    def train_both(self) -> tuple[tuple[Network, TrainingResult], tuple[Network, TrainingResult]]:
        """Trains two copies, dense throughout and by SVD, an epoch of each alternately."""
        self._head("network")
        return in_turns(
            lambda hand_over: self._train("dense", None, hand_over),
            lambda hand_over: self._train("SVD", self.factoring(), hand_over),
        )

    def _head(self, name: str) -> None:
        column = f"val {score_name(self.data).removesuffix(' a character')}"
        if not self.arguments.quiet:
            say()
            say(f"epoch  phase          loss   val loss  {column:>12}   seconds  {name}".rstrip())

    def _train(self, name: str, factoring: Factoring | None, hand_over: HandOver) -> tuple[Network, TrainingResult]:
        """Trains a copy of the first network.

        Prints a line an epoch, or every few epochs, with the network's name if it has one. A bar
        on standard error shows its steps. With --quiet there is neither.
        """
        bar = None if self.arguments.quiet else _bar_class()
        write_line: Callable[[str], object] = say if bar is None else bar.write
        if self.arguments.quiet:
            write_line = _nothing
        every = -(-self.epochs // _MOST_LINES)
        shown = 0

        def show(row: dict[str, Any]) -> None:
            nonlocal shown
            shown = row["epoch"]
            reached = score(self.data, Evaluation(row["val_loss"], row["val_accuracy"]), self.y_val)
            write_line(
                f"{row['epoch']:5}  {row['phase']:8}  {row['loss']:9.4g}  "
                f"{row['val_loss']:9.4g}  {reached:>12}  {row['seconds']:8.3f}  {name}".rstrip()
            )

        def tell(event: Event) -> None:
            for line in self._describe(event):
                write_line(f"       {name + ', ' if name else ''}{line}")
            if event.kind == "epoch":
                if event.epoch % every == 0 or event.epoch in (1, self.epochs):
                    show(event.info)
                hand_over()

        tell.everywhere = True  # type: ignore[attr-defined]  # as trainings take turns in all processes
        net = self.first.copy()
        path = file_of(self.arguments, name)
        if path is not None and self.arguments.resume is not None:
            write_line(f"       {name + ', ' if name else ''}{'continues from' if path.exists() else 'begins again, without'} {path}")
        result = self._fit(
            net, factoring, self.X, self.y, epochs=self.epochs, early_stopping=self.arguments.early_stopping,
            validation=(self.X_val, self.y_val), callbacks=[tell], progress=bar is not None and (name or True),
            checkpoint=continuing(self.arguments, name, self.resolved, self.communicator),
        )  # fmt: skip
        if result.history and result.history[-1]["epoch"] != shown:
            show(result.history[-1])
        return net, result

    def _describe(self, event: Event) -> list[str]:
        """Lines about a look, a truncation, recomposed layers, or an early end."""
        info, when = event.info, f"step {event.step}"
        layers = event.network.layers

        def sizes(index: int) -> str:
            return f"layer {index + 1} ({layers[index].n_in} to {layers[index].n_out})"

        def stays(layer: dict[str, Any]) -> str:
            return f"{when}: {sizes(layer['layer'])} stays dense, as {layer['why']}"

        if event.kind == "ranks":
            looked_at = [layer for layer in info["layers"] if not layers[layer["layer"]].structure.factored]
            lines = [
                f"{when}: {sizes(layer['layer'])} gets rank {layer['rank']}, which saves "
                f"{layer['saved']:.0%} of a step, as {layer['why']}"
                if layer["rank"]
                else stays(layer)
                for layer in looked_at
                if layer["why"] != self.told.get(layer["layer"])
            ]
            self.told = {layer["layer"]: layer["why"] for layer in looked_at}
            return lines
        if event.kind == "guard" and info["action"] == "undone":
            return [f"{when}: {sizes(i)} is recomposed, as {_why_back(info)}" for i in info["layers"]]
        if event.kind == "stop":
            return [f"{when}: no progress of the validation loss for {info['patience']} epochs: ends with epoch {info['last_epoch']}"]
        if event.kind == "restore":
            return [f"{when}: the network is that of epoch {info['best_epoch']} again, val loss {info['best']:.4g}"]
        if event.kind != "switch":
            return []
        truncations: tuple[Truncation, ...] = info["truncations"]
        lines = []
        done = [f"{sizes(t.layer)} to rank {t.rank}" for t in truncations if not t.skipped]
        if done:
            lines.append(f"{when}, {info['seconds']:.2f} s: SVD of {', '.join(done)}")
        if self.kept:
            lines.append(f"kept dense (--keep-dense): {', '.join(map(sizes, self.kept))}")
        lines += [stays(layer).replace("force=True", "--force") for layer in info["kept_dense"]]
        skipped = [
            f"{sizes(t.layer)}, rank {t.requested_rank}, break-even rank {t.break_even_rank}"
            for t in truncations
            if t.skipped
        ]
        if skipped:
            why = "left dense, as factoring saves no multiplications (--force factors them)"
            lines.append(f"{why}: {'; '.join(skipped)}")
        return lines

    def report(
        self, dense: Network, dense_result: TrainingResult, net: Network, result: TrainingResult
    ) -> tuple[list[tuple[str, ...]], str]:
        """Prints the table and what it means. Returns its rows, and that text.

        The factored network is evaluated, recomposed and evaluated again.
        """
        step, forward = count_multiplications(net, "step"), count_multiplications(net, "forward")
        networks = [self._evaluate(dense), self._evaluate(net)]
        factored = net.is_factored
        began = time.perf_counter()
        net.recompose()
        recompose_seconds = time.perf_counter() - began
        networks.append(self._evaluate(net))

        seconds = result.seconds + recompose_seconds
        # Looks and checks within epochs count, too.
        switch_seconds = sum(event.info["seconds"] for event in result.events)
        measured = dense_result.seconds / seconds
        dense_forward = f"{forward.dense_total:,}"
        rows: list[tuple[str, ...]] = [
            ("", "dense", "SVD, factored", "SVD, recomposed", "dense : SVD"),
            ("training time, s", f"{dense_result.seconds:.3f}", f"{result.seconds:.3f}",
             f"{seconds:.3f}", f"{measured:.2f}"),
            ("  of it SVD, recomposition", "", f"{switch_seconds:.3f}",
             f"{recompose_seconds:.3f}", ""),
            ("multiplications a sample, step", f"{step.dense_total:,}", f"{step.total:,}", "",
             f"{step.ratio:.2f}"),
            ("multiplications a sample, forward", dense_forward, f"{forward.total:,}",
             dense_forward, f"{forward.ratio:.2f}"),
        ]  # fmt: skip
        rows += self._score_rows(networks, "")
        say()
        for line in aligned(rows):
            say(line)
        say()
        phases = [phase for phase in result.phases if phase["steps"]]
        if factored:
            done = sum(phase["steps"] * phase["multiplications"] for phase in phases)
            overall = result.n_steps * step.dense_total / done
            text = (
                f"Counted: a dense step takes {step.ratio:.2f} times the multiplications of a "
                f"factored one, dense training {overall:.2f}\n"
                f"times those of all {result.n_steps:,} steps. Measured: {measured:.2f} times the "
                "time, SVD and recomposition included,\nvalidation not."
            )
        elif any(phase["phase"] == "factored" for phase in phases):
            text = "No layer stayed factored."
        else:
            text = "No layer was factored, so both trainings did the same."
        say(text)
        return rows, text

    def report_one(self, net: Network, result: TrainingResult) -> list[tuple[str, ...]]:
        """Prints the table of a single network and returns its rows.

        The network is recomposed. The best constant answer is beside it.
        """
        step = count_multiplications(net, "step")
        net.recompose()
        networks = [self._evaluate(net), self._evaluate(constant(self.data))]
        rows: list[tuple[str, ...]] = [
            ("", "network", "constant answer"),
            ("training time, s", f"{result.seconds:.3f}", ""),
            ("multiplications a sample, step", f"{step.total:,}", ""),
        ]
        rows += self._score_rows(networks)
        if self.data.head is not NUMBERS and self.data.n_classes is not None:
            shares = (balanced_accuracy(each, self.data) for each in (net, constant(self.data)))
            rows.append(("test balanced accuracy", *(f"{100 * share:.2f} %" for share in shares)))
        say()
        for line in aligned(rows):
            say(line)
        say()
        return rows

    def _score_rows(self, networks: Sequence[tuple[Evaluation, Evaluation]], *others: str) -> list[tuple[str, ...]]:
        """Loss and score of networks on the training and the test samples."""
        rows: list[tuple[str, ...]] = []
        for index, (part, y) in enumerate((("train", self.data.y), ("test", self.data.y_test))):
            rows.append((f"{part} loss", *(f"{e[index].loss:.4g}" for e in networks), *others))
            rows.append((f"{part} {score_name(self.data)}", *(score(self.data, e[index], y) for e in networks), *others))
        return rows

    def judge(self, net: Network) -> str | None:
        """A message if a network is worse than a constant answer on the test samples, else None."""
        here, other = self._evaluate(net)[1], self._evaluate(constant(self.data))[1]
        if not worse(self.data, here, other):
            return None
        scores = [score(self.data, each, self.data.y_test) for each in (here, other)]
        name = score_name(self.data)
        return f"the network is worse on the test samples than a constant answer: {name} {scores[0]}, and {scores[1]} of the constant"

    def _evaluate(self, net: Network) -> tuple[Evaluation, Evaluation]:
        data = self.data
        return (
            net.evaluate(data.X, data.y, n_threads=self.threads),
            net.evaluate(data.X_test, data.y_test, n_threads=self.threads),
        )


def _nothing(line: str) -> None:
    """Shows no line."""


def _why_back(info: dict[str, Any]) -> str:
    """The reason why a check has recomposed a layer."""
    if "seconds_factored" in info:
        factored, dense = 1e3 * info["seconds_factored"], 1e3 * info["seconds_dense"]
        return f"a step takes {factored:.3g} ms with its factors and took {dense:.3g} ms without"
    return f"the loss is {info['loss_recovered']:.4g} and was {info['loss_before']:.4g} before the truncation"


def _bar_class() -> Any:
    """tqdm if it is installed and standard error is a terminal; else None."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm
