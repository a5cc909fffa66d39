# SPDX-License-Identifier: BSD-3-Clause
"""The figure of several trainings: their measure, names, order and switches, and refusals."""

import io

import numpy as np
import pytest

import svdfast as sf
from svdfast.plots.figures import STYLES

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def run(epochs=4, output="softmax", validation=True, factoring=None):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 6))
    y = rng.standard_normal((40, 1)) if output == "identity" else (X[:, :1] > 0).astype(int)
    y = y[:, 0] if output == "softmax" else y
    net = sf.Network([6, 16, 14, 2 if output == "softmax" else 1], output=output, seed=0)
    return sf.train(net, X, y, epochs=epochs, batch_size=10, validation=(X, y) if validation else None, factoring=factoring)


def curves(figure):
    figure.savefig(io.BytesIO(), format="svg")
    (axes,) = figure.axes
    return axes, [one for one in axes.lines if one.get_label() != "switch to factors"]


def test_accuracies_over_the_seconds():
    runs = {"dense": run(), "cut": run(6, factoring=sf.Factoring([3, 4], pretrain_fraction=0.4, force=True))}
    axes, lines = curves(sf.plots.compare(runs))
    assert [one.get_label() for one in lines] == list(runs)
    for one, result in zip(lines, runs.values(), strict=True):
        np.testing.assert_array_equal(one.get_ydata(), [row["val_accuracy"] for row in result.history])
    np.testing.assert_allclose(lines[0].get_xdata(), np.cumsum([row["seconds"] for row in runs["dense"].history]))
    assert axes.get_ylabel() == "validation accuracy" and axes.get_xlabel() == "seconds of training"
    (star,) = [one for one in axes.lines if one.get_label() == "switch to factors"]
    assert star.get_xdata()[0] == pytest.approx(runs["cut"].phases[0]["seconds"])


def test_epochs():
    _, (one,) = curves(sf.plots.compare([run(3)], "epochs"))
    np.testing.assert_array_equal(one.get_xdata(), [1, 2, 3])
    assert one.get_label() == "1"


@pytest.mark.parametrize(
    "settings, column, label",
    [
        ({"output": "identity"}, "val_loss", "validation loss, mean squared error"),
        ({"validation": False}, "loss", "training loss, cross entropy"),
        ({"output": "sigmoid", "validation": False}, "loss", "training loss, binary cross entropy"),
    ],
)
def test_losses_where_there_is_no_accuracy(settings, column, label):
    result = run(**settings)
    axes, (one,) = curves(sf.plots.compare((result,)))
    assert axes.get_ylabel() == label
    np.testing.assert_array_equal(one.get_ydata(), [row[column] for row in result.history])


@pytest.mark.parametrize("other", [{"validation": False}, {"output": "identity"}, {"output": "sigmoid", "validation": False}])
def test_different_measures_are_refused(other):
    first = run(validation=other.get("output") != "sigmoid")
    with pytest.raises(ValueError, match=r"results: expected trainings with the same measure, got different ones: a has .*, b has "):
        sf.plots.compare({"a": first, "b": run(**other)})


def test_lines_differ_without_colour_and_all_are_named():
    result = run(1)
    _, lines = curves(sf.plots.compare([result] * 30))
    assert len({one.get_marker() for one in lines[:7]}) == 7
    assert len({(one.get_color(), one.get_marker()) for one in lines}) == 30  # each colour has its own dashes
    assert len({style["color"] for style in STYLES}) == len({str(style["linestyle"]) for style in STYLES}) == len(STYLES)


def test_names_are_shown_as_they_are():
    """No mathematics, no name hidden by its underscore, and nothing that a file or a page would take for its own."""
    names = ["_first", "$\\frac{", "<script>", "a\nb\udcff", "x" * 500, 0.25]
    figure = sf.plots.compare(dict.fromkeys(names, run(1)))
    curves(figure)
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["_first", "$\\frac{", "<script>", "a b\\udcff", "x" * 27 + "…", "0.25"]


def unfinished():
    return sf.TrainingResult(run(1).network)


@pytest.mark.parametrize(
    "results, error, match",
    [
        (lambda: {}, ValueError, "results: expected at least one TrainingResult, got none"),
        (lambda: [], ValueError, "results: expected at least one TrainingResult, got none"),
        (lambda: run(1), TypeError, "results: expected a dict or a sequence of TrainingResult, got TrainingResult"),
        (lambda: None, TypeError, "results: expected a dict or a sequence of TrainingResult, got NoneType"),
        (lambda: "ab", TypeError, "results: expected a dict or a sequence of TrainingResult, got str"),
        (lambda: [run(1), 3], TypeError, "results: expected a TrainingResult for 2, got int"),
        (lambda: {"a": run(1).history}, TypeError, "results: expected a TrainingResult for a, got History"),
        (lambda: {"a": unfinished()}, ValueError, "results: expected at least one finished epoch of a, got none"),
        (lambda: {1: run(1), "1": run(1)}, ValueError, "results: expected 2 different names, got 1"),
    ],
)
def test_refused(results, error, match):
    with pytest.raises(error, match=match):
        sf.plots.compare(results())


def test_a_wrong_axis_or_figure():
    with pytest.raises(ValueError, match="against: expected seconds or epochs, got 'steps'"):
        sf.plots.compare([run(1)], "steps")
    with pytest.raises(TypeError, match="figure: expected a matplotlib Figure or SubFigure, got int"):
        sf.plots.compare([run(1)], figure=3)
