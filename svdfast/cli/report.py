# SPDX-License-Identifier: BSD-3-Clause
"""The files of `svdfast train` beside the network: a page (--report) and a figure (--plot).

Elsewhere: the printed output (comparison.py), and how a page is made of pieces (page.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import svdfast.plots as plots
from svdfast._process.config import show_config
from svdfast._process.files import written_whole
from svdfast._process.text import one_line
from svdfast.cli import page
from svdfast.cli.data import Data
from svdfast.cli.errors import Failure, named_errors
from svdfast.model.heads import NUMBERS
from svdfast.model.network import Network
from svdfast.plots.figures import new_figure, require_matplotlib
from svdfast.training.result import TrainingResult, saved_in_words

__all__ = ["Trained", "check_extras", "draw", "write_page"]

# Figures of this width in inches have letters that can be read on a phone.
_WIDTH = 5.0
_MOST_PANELS = 12  # weights, or targets, that are drawn


@dataclass(frozen=True)
class Trained:
    """A training, for its report.

    Attributes
    ----------
    data : Data
    network : Network
        As its last step left it: factored, if it was not recomposed in between.
    result : TrainingResult
    dense : TrainingResult or None
        The training that it was compared with.
    samples : str
        A line about the samples.
    settings : sequence of str
        Lines about the network and the training.
    conclusion : str
        The comparison in words; empty if there is none.
    scores : sequence of tuple of str
        Rows of a table, the first one its head.
    made_with : dict
        The threads and the seed.
    """

    data: Data
    network: Network
    result: TrainingResult
    dense: TrainingResult | None
    samples: str
    settings: Sequence[str]
    conclusion: str
    scores: Sequence[tuple[str, ...]]
    made_with: Mapping[str, int]


def check_extras() -> None:
    """Refuses, before the work is done, outputs that could not be drawn after it."""
    try:
        require_matplotlib()
    except ImportError as error:
        raise Failure(str(error)) from None


def draw(result: TrainingResult, path: Path) -> None:
    """The losses of a training as a figure."""
    figure: Any = plots.training(result)
    with named_errors(f"--plot: {path}"), written_whole(path) as file:
        figure.savefig(file, format=path.suffix[1:])


def write_page(trained: Trained, path: Path) -> None:
    """Writes data, network, decisions, figures and scores as a page that needs no other file."""
    data, result = trained.data, trained.result
    columns = [page.table([("column", "kind", "values"), *data.table], n_text=3)] if data.table else []
    saved = f"By the times of its own dense steps: {saved_in_words(result)}."
    body = [
        page.section("Data", page.unordered([trained.samples, *data.notes, *data.warnings]), *columns),
        page.section("Network", page.unordered(trained.settings), page.preformatted(trained.network.summary())),
        page.section("Scores", page.table(trained.scores)),
        page.section("Saved", page.paragraph(trained.conclusion), page.paragraph(saved)),
        page.section("Decisions", page.unordered(result.explain().splitlines()), page.paragraph("Layers are counted from 0.")),
        page.section("Phases", page.table(_phases(result))),
        page.section("Curves", *_curves(trained)),
        page.section("Spectra", _spectra(trained.network)),
        page.section("Predictions of the test samples", *_predictions(trained)),
        page.section("Epochs", page.table(_epochs(result), n_text=0), closed=True),
        page.section("Environment", page.table(_environment(trained), n_text=2)),
    ]
    text = page.made(f"{data.title}: {data.kind}", body)
    with named_errors(f"--report: {path}"), written_whole(path) as file:
        file.write(text)


def _phases(result: TrainingResult) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("phase", "steps", "seconds", "ms a step", "multiplications a sample and step")]
    for phase in result.phases:
        each = 1e3 * phase["seconds"] / max(phase["steps"], 1)
        rows.append((phase["phase"], f"{phase['steps']:,}", f"{phase['seconds']:.3f}", f"{each:.3g}", f"{phase['multiplications']:,}"))
    for event in result.events:
        if event.kind in ("ranks", "switch", "guard", "recompose"):
            rows.append((f"{event.kind}, after step {event.step:,}", "", f"{event.info['seconds']:.3f}", "", ""))
    return rows


def _curves(trained: Trained) -> list[str]:
    result, parts = trained.result, []
    if result.history:
        figure = new_figure(_WIDTH, 7.6 if any("val_accuracy" in row for row in result.history) else 4.8)
        plots.training(result, figure=figure)
        parts.append(page.picture(figure, "The training and its phases"))
    if result.history and trained.dense is not None and trained.dense.history:
        figure = new_figure(_WIDTH, 4.2)
        plots.compare({"dense": trained.dense, "SVD": result}, figure=figure)
        parts.append(page.picture(figure, "Both trainings over their own seconds"))
    return parts


def _spectra(net: Network) -> str:
    n = len(net.layers)
    if n > _MOST_PANELS:
        return page.paragraph(f"The spectra of {n} weights are too many to draw.")
    figure = new_figure(_WIDTH, 3.4 * n + 0.5)
    plots.spectrum(net, figure=figure)
    return page.picture(figure, "Singular values of each weight after the last step, with the ranks that were kept")


def _predictions(trained: Trained) -> list[str]:
    """Confusion matrices of classes, or residuals of numbers."""
    data = trained.data
    outputs, y = trained.network.predict(data.X_test, n_threads=trained.made_with["threads"]), data.y_test
    targets = _targets(data)
    if len(targets) > _MOST_PANELS:
        return [page.paragraph(f"The predictions of {len(targets)} targets are too many to draw.")]
    if data.head is NUMBERS:
        outputs, y = (_original(values.reshape(len(values), -1), data) for values in (outputs, y))
        figure = new_figure(_WIDTH, 3.4 * len(targets) + 0.5)
        plots.residuals(y, outputs, names=[name for name, _ in targets], figure=figure)
        return [page.picture(figure, "True minus predicted numbers")]
    decided, y = (values.reshape(-1, len(targets)) for values in (data.head.decide(outputs), y))
    return [
        page.picture(plots.confusion(y[:, i], decided[:, i], classes=classes), f"True and predicted classes of {name}")
        for i, (name, classes) in enumerate(targets)
    ]


def _targets(data: Data) -> list[tuple[str, list[str]]]:
    """Name of each target, and of its classes."""
    n = data.head.n_targets(data.n_out)
    classes = [data.labels or range(data.head.n_values(data.n_out))] * n
    names = ["the target"] if n == 1 else [f"target {i}" for i in range(1, n + 1)]
    if data.preparation is not None:
        names = [target.name for target in data.preparation.targets]
        classes = [target.classes or () for target in data.preparation.targets]
    return [(one_line(name), _different(labels)) for name, labels in zip(names, classes, strict=True)]


def _different(labels: Iterable[Any]) -> list[str]:
    """Labels as they are shown, or quoted if that would hide them or make them equal."""
    shown, quoted = ([one_line(text(label)) for label in labels] for text in (str, repr))
    return [quote if shown.count(name) > 1 or not name else name for name, quote in zip(shown, quoted, strict=True)]


def _original(values: Any, data: Data) -> Any:
    """Numbers as the file has them."""
    if data.y_scale is None:
        return values.astype(np.float64)
    mean, deviation = data.y_scale
    return values.astype(np.float64) * deviation + mean


def _epochs(result: TrainingResult) -> list[list[str]]:
    names = list(result.history[0]) if result.history else ["epoch"]
    return [names, *([_cell(row.get(name)) for name in names] for row in result.history)]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _environment(trained: Trained) -> list[tuple[str, str]]:
    rows = [("setting", "value"), ("date", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")]
    for name, value in {**show_config(), **trained.made_with}.items():
        if value != []:
            rows.append((name.replace("_", " "), "\n".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows
