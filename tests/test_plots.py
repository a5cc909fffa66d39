# SPDX-License-Identifier: BSD-3-Clause
"""Figures of trainings and of spectra: what is drawn where, odd trainings and networks, and that matplotlib is left as it was."""

import dataclasses
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from flat import flat

import svdfast as sf
from svdfast.layers import GRU, LSTM, Conv2d, Embedding, Flatten, Linear
from svdfast.training import auto
from svdfast.training.run import Run

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")

SIZES = [6, 16, 14, 3]


def samples(n=40):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, SIZES[0])), rng.integers(0, SIZES[-1], n)


def trained(sizes=SIZES, **settings):
    X, y = samples()
    given = {"epochs": 5, "batch_size": 10, "ranks": [3, 4], "force": True, "pretrain_fraction": 0.3, "validation": (X, y)}
    return sf.train(
        sf.Network(sizes, dtype="float64", seed=0), X, y,
        **flat(**given | settings),
    )  # fmt: skip


def line(axes, label):
    (found,) = (one for one in axes.lines if one.get_label() == label)
    return found


def spans(axes):
    """From, to and name of what is shaded."""
    return [(patch.get_x(), patch.get_x() + patch.get_width(), patch.get_label()) for patch in axes.patches]


def drawn(figure):
    figure.savefig("/dev/null" if sys.platform != "win32" else "nul", format="png")
    return figure


# ---- trainings


def test_curves_over_epochs_are_the_historys():
    result = trained()
    loss, accuracy = drawn(sf.plots.training(result, "epochs")).axes
    rows = result.history
    np.testing.assert_array_equal(line(loss, "training").get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(line(loss, "training").get_ydata(), [row["loss"] for row in rows])
    for axes, name in ((loss, "val_loss"), (accuracy, "val_accuracy")):
        np.testing.assert_array_equal(line(axes, "validation").get_xdata(), [1, 2, 3, 4, 5, 5])
        np.testing.assert_array_equal(line(axes, "validation").get_ydata(), [*(row[name] for row in rows), result.events[-1].info[name]])


def test_the_switch_within_an_epoch_is_marked_there():
    """After 6 of 20 steps, 4 to an epoch."""
    result = trained()
    for axes in sf.plots.training(result, "epochs").axes:
        assert set(line(axes, "switch to ranks 3, 4").get_xdata()) == {1.5}
        assert set(line(axes, "recomposition").get_xdata()) == {5}
        assert spans(axes) == [(0, 1.5, "dense"), (1.5, 5, "factored")]


def test_seconds_are_those_of_training():
    """To the end of the last event all of `seconds`, each event as long as it says, and rows where their steps end."""
    result = trained()
    loss = sf.plots.training(result).axes[0]
    (_, dense_end, _), (factored_start, factored_end, _) = spans(loss)
    switch, recomposition = result.events
    assert set(line(loss, "switch to ranks 3, 4").get_xdata()) == {dense_end}
    assert dense_end == pytest.approx(result.phases[0]["seconds"])
    assert factored_start - dense_end == pytest.approx(switch.info["seconds"])
    assert factored_end + recomposition.info["seconds"] == pytest.approx(result.seconds)
    x = line(loss, "training").get_xdata()
    assert x[0] == pytest.approx(result.history[0]["seconds"])
    assert x[1] - x[0] == pytest.approx(result.history[1]["seconds"] + switch.info["seconds"])
    assert x[-1] == pytest.approx(factored_end)
    assert line(loss, "validation").get_xdata()[-1] == pytest.approx(result.seconds)


def test_guard_and_a_dense_end_are_marked():
    result = trained(epochs=50, ranks=[1, 1], recompose_fraction=0.2, guard=sf.Guard(0.0), activation_aware=False)
    assert [e.kind for e in result.events[:3]] == ["switch", "guard", "switch"] and result.events[1].info["action"] == "raised"
    axes = drawn(sf.plots.training(result, "epochs")).axes[0]
    marked = [one.get_xdata()[0] for one in axes.lines if one.get_label() == "guard: raised"]
    assert marked[0] == result.events[1].step / 4
    assert spans(axes)[-1] == (40, 50, "recomposed")
    seconds = [x for span in spans(sf.plots.training(result).axes[0]) for x in span[:2]]
    assert seconds == sorted(seconds)


def test_truncations_that_auto_undoes_are_marked(monkeypatch):
    """All layers may be truncated, and no check is good enough: dense, factored, partly dense and recomposed, by turns."""
    bounds = {"LEAST": 1, "THIN": 0, "WORTH": 1, "SHARE": 0, "SHARES": 0, "LOOKING": 1e9, "LOST": 1e9, "STILL_LOST": -1e9, "SHORTEST": 5}
    bounds |= {"LATEST": 1}
    for name, value in bounds.items():
        monkeypatch.setattr(auto, name, value)
    monkeypatch.setattr(Run, "constant_loss", lambda run, rows: 100.0)
    result = trained(epochs=50, ranks="auto", force=False, pretrain_fraction=0.1, reproducible=True)
    told = [f"guard: {event.info['action']}" for event in result.events if event.kind == "guard"]
    assert told[:4] == ["guard: watched", "guard: undone"] * 2
    axes = drawn(sf.plots.training(result, "epochs")).axes[0]
    marked = [(one.get_label(), one.get_xdata()[0]) for one in axes.lines if one.get_label().startswith("guard")]
    assert marked == [(label, event.step / 4) for label, event in zip(told, (e for e in result.events if e.kind == "guard"), strict=True)]
    assert {"switch to ranks 1, 1", "switch to rank 3"} <= {one.get_label() for one in axes.lines}
    assert [name for _, _, name in spans(axes)] == [phase["phase"] for phase in result.phases]
    seconds = [x for span in spans(sf.plots.training(result).axes[0]) for x in span[:2]]
    assert seconds == sorted(seconds) and seconds[-1] <= result.seconds


def test_without_classes_or_validation_there_is_one_panel():
    X, y = samples()
    net = sf.Network([6, 8, 1], output="identity", seed=0)
    with_validation = sf.plots.training(sf.train(net, X, y, epochs=2, validation=(X, y)))
    (axes,) = drawn(with_validation).axes
    assert line(axes, "validation")
    (axes,) = drawn(sf.plots.training(trained(validation=None))).axes
    assert not any(one.get_label() == "validation" for one in axes.lines)


@pytest.mark.parametrize("against", ["seconds", "epochs"])
def test_one_epoch(against):
    loss, _ = drawn(sf.plots.training(trained(epochs=1, recompose=False), against)).axes
    assert len(line(loss, "training").get_xdata()) == 1
    assert line(loss, "training").get_marker() == "o"  # without which it would not be seen


def test_a_dense_training():
    for axes in drawn(sf.plots.training(trained(factoring=None), "epochs")).axes:
        assert spans(axes) == [(0, 5, "dense")]
    for axes in drawn(sf.plots.training(trained([6, 3], ranks=[]), "epochs")).axes:
        assert {name for _, _, name in spans(axes)} == {"dense"}


def test_a_factored_network_trained_on():
    net = trained(recompose=False).network
    result = sf.train(net, *samples(), epochs=2)
    (axes,) = drawn(sf.plots.training(result, "epochs")).axes
    assert spans(axes) == [(0, 2, "factored")]


def test_a_training_that_was_stopped_within_an_epoch():
    def stop(event):
        if event.kind == "switch":
            raise sf.StopTraining

    loss, _ = drawn(sf.plots.training(trained(callbacks=[stop], recompose=False), "epochs")).axes
    np.testing.assert_array_equal(line(loss, "training").get_xdata(), [1])
    assert spans(loss) == [(0, 1.5, "dense")]
    with pytest.raises(ValueError, match=r"history: expected at least one finished epoch"):
        sf.plots.training(trained(callbacks=[stop], epochs=1))


def test_losses_that_overflow_in_validation_are_drawn():
    """A validation that is infinite leaves a gap, no warning."""
    result = trained()
    result.history[1]["val_loss"] = np.inf
    drawn(sf.plots.training(result))


# ---- the gap at the SVD, and what was saved


def gap(axes):
    """Place and both values of what is marked."""
    marked = line(axes, "gap at the SVD")
    (x, also), values = marked.get_xdata(), marked.get_ydata()
    assert x == also
    return x, tuple(values)


def test_the_gap_is_the_guards_where_there_is_one():
    result = trained(epochs=50, recompose_fraction=0.2, guard=sf.Guard(1e9))
    (event,) = [event for event in result.events if event.kind == "guard"]
    loss, accuracy = sf.plots.training(result, "epochs").axes
    before, after = event.info["loss_before"], event.info["loss_after"]
    assert gap(loss) == (result.events[0].step / 4, (before, after))
    assert loss.get_title() == f"gap at the SVD: loss {before:.3g} → {after:.3g}, right before and after"
    rows = result.history
    assert gap(accuracy)[1] == (rows[14]["val_accuracy"], rows[15]["val_accuracy"])
    assert accuracy.get_title().endswith(", epochs 15 and 16")


def test_without_a_guard_the_gap_is_that_of_the_epochs_around_it():
    result = trained()
    before, after = (row["val_loss"] for row in result.history[:2])
    loss, accuracy = drawn(sf.plots.training(result, "epochs")).axes
    assert gap(loss) == (1.5, (before, after))
    assert loss.get_title() == f"gap at the SVD: loss {before:.3g} → {after:.3g}, epochs 1 and 2"
    before, after = (row["val_accuracy"] for row in result.history[:2])
    assert accuracy.get_title() == f"gap at the SVD: accuracy {100 * before:.2f} % → {100 * after:.2f} %, epochs 1 and 2"
    without = trained(validation=None)
    (axes,) = sf.plots.training(without, "epochs").axes
    assert gap(axes)[1] == (without.history[0]["loss"], without.history[1]["loss"])


@pytest.mark.parametrize("settings", [{"factoring": None}, {"pretrain_fraction": 0.05}, {"epochs": 1}, {"pretrain_fraction": 0}])
def test_no_gap_where_there_is_no_epoch_on_both_sides(settings):
    result = trained(**settings)
    for axes, name in zip(drawn(sf.plots.training(result)).axes, ("loss", "accuracy"), strict=True):
        expected = f"gap of the {name} at the SVD: not measured" if any(e.kind == "switch" for e in result.events) else ""
        assert axes.get_title() == expected and not any("gap" in one.get_label() for one in axes.lines)


def test_a_gap_of_a_loss_that_is_not_finite_is_left_out():
    result = trained()
    broken = sf.TrainingResult(result.network, [row | {"val_loss": np.nan} for row in result.history], result.events)
    broken.phases, broken.seconds, broken.n_steps = result.phases, result.seconds, result.n_steps
    assert drawn(sf.plots.training(broken)).axes[0].get_title() == "gap of the loss at the SVD: not measured"


def test_many_gaps_are_all_marked_and_two_are_named():
    result = trained()
    switch = result.events[0]
    result.events[:1] = [dataclasses.replace(switch, step=step) for step in (5, 6, 7, 9)]
    axes = drawn(sf.plots.training(result, "epochs")).axes[0]
    assert sum(one.get_label() == "gap at the SVD" for one in axes.lines) == 4
    assert axes.get_title().count("gap at the SVD") == 2 and axes.get_title().endswith("\nand 2 more")


def phases(*given, seconds):
    """A result with such phases: name, steps, multiplications, seconds."""
    result = trained(epochs=1, recompose=False)
    result.events.clear()
    result.seconds = seconds
    result.phases = [dict(zip(("phase", "steps", "multiplications", "seconds"), one, strict=True)) for one in given]
    return sf.plots.training(result)


@pytest.mark.parametrize(
    "factored, seconds, title",
    [
        ((90, 100, 1.0), 4.0, "3.08 times fewer multiplications, 5.00 times faster, against dense steps throughout"),
        ((90, 100, 1.0), 40.0, "3.08 times fewer multiplications, 2.00 times slower, against dense steps throughout"),
        ((90, 400, 18.0), 20.0, "nothing was saved, as many multiplications, as fast, against dense steps throughout"),
        ((90, 800, 38.0), 40.0, "nothing was saved, 1.90 times more multiplications, 2.00 times slower, against dense steps throughout"),
    ],
)
def test_the_title_counts_what_was_saved(factored, seconds, title):
    """100 dense steps would take 20 seconds, and 40,000 multiplications a sample."""
    steps, multiplications, time = factored
    figure = phases(("dense", 10, 400, 2.0), ("factored", steps, multiplications, time), seconds=seconds)
    assert figure.get_suptitle().replace("\n", " ") == title


def test_titles_where_nothing_can_be_compared():
    assert sf.plots.training(trained(factoring=None)).get_suptitle() == "dense throughout, nothing was saved"
    net = trained(recompose=False).network
    title = sf.plots.training(sf.train(net, *samples(), epochs=2)).get_suptitle()
    assert title.replace("\n", " ") == "factored throughout, no dense steps to compare with"
    assert phases(("dense", 1, 2, 0.0), ("factored", 1, 1, 0.0), seconds=0.0).get_suptitle().startswith("factored throughout")


def test_a_training_that_ends_early_is_drawn_in_seconds():
    X, y = samples()
    result = sf.train(
        sf.Network(SIZES, seed=0), X, y, epochs=60, batch_size=10, validation=(X, -y % 3), optimizer=sf.Adam(sf.schedules.Cooldown(0.01)),
        early_stopping=sf.EarlyStopping(patience=2),
    )  # fmt: skip
    assert any(event.kind == "stop" and event.step < result.n_steps for event in result.events)
    x = line(drawn(sf.plots.training(result)).axes[0], "training").get_xdata()
    assert list(x) == sorted(x)


# ---- spectra


def test_spectra_are_the_weights():
    net = sf.Network(SIZES, dtype="float64", seed=0)
    figure = drawn(sf.plots.spectrum(net, ranks=[4, None]))
    for index, layer in enumerate(net.layers):
        axes, energy = figure.axes[index], figure.axes[3 + index]
        s = np.linalg.svd(layer.W, compute_uv=False)
        np.testing.assert_array_equal(line(axes, "singular value").get_xdata(), np.arange(1, len(s) + 1))
        np.testing.assert_allclose(line(axes, "singular value").get_ydata(), s)
        np.testing.assert_allclose(line(energy, "energy of the first i").get_ydata(), (s**2).cumsum() / (s**2).sum())
        assert axes.get_yscale() == "log"
        if index < 2:
            limit = sf.break_even_rank(layer.n_in, layer.n_out, first_layer=index == 0)
            assert set(line(axes, "break-even rank").get_xdata()) == {limit}
    assert set(line(figure.axes[0], "rank").get_xdata()) == {4}
    assert not any(one.get_label() == "rank" for axes in figure.axes[1:] for one in axes.lines)
    assert not any("break-even" in one.get_label() for one in figure.axes[2].lines)
    assert "output layer, never truncated" in figure.axes[2].get_title()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_factored_layer_has_its_products_spectrum_and_its_rank(dtype):
    net = sf.Network(SIZES, dtype=dtype, seed=0)
    net.truncate(ranks=[3, None], force=True)
    axes = drawn(sf.plots.spectrum(net)).axes[0]
    s = np.linalg.svd(net.layers[0].weight().astype("float64"), compute_uv=False)[:3]
    np.testing.assert_allclose(line(axes, "singular value").get_ydata(), s, rtol=1e-6)
    assert set(line(axes, "rank").get_xdata()) == {3}


@pytest.mark.parametrize(
    "asked", [{"rank_fraction": 0.5}, {"ranks": "energy:0.8"}, {"ranks": "budget:0.5"}, {"ranks": [2, 3]}]
)
def test_ranks_are_those_of_truncate(asked):
    net = sf.Network(SIZES, seed=0)
    figure = sf.plots.spectrum(net, **asked)
    for axes, truncation in zip(figure.axes, net.truncate(**asked, force=True), strict=False):
        assert set(line(axes, "rank").get_xdata()) == {truncation.rank}


def test_odd_layers_have_panels():
    """Of one neuron, with a weight of zeros, of very large and very small ones, and more layers than a row has room for."""
    net = sf.Network([3, 1, 7, 20, 30, 2], dtype="float64", seed=0)
    net.layers[1].W[:] = 0
    net.layers[2].W[:] *= 1e200
    net.layers[3].W[:] *= 1e-200
    figure = drawn(sf.plots.spectrum(net, rank_fraction=0.5))
    assert len(figure.axes) == 10
    for energy in figure.axes[5:]:
        assert line(energy, "energy of the first i").get_ydata()[-1] == pytest.approx(1)


@pytest.mark.parametrize(
    "shape, layers",
    [
        ([8], [Embedding(30, 6), LSTM(5, return_sequences=True), Linear(30, "softmax")]),
        ([6, 6, 2], [Conv2d(4, 3, "relu"), Flatten(), Linear(9, "relu"), Linear(3, "softmax")]),
        ([None, 3], [GRU(4), Linear(2, "softmax")]),
        ([3], [Linear(2, "softmax")]),
    ],
)
def test_each_weight_of_any_kind_of_layer_has_a_panel(shape, layers):
    net = sf.Network(sf.Input(*shape), layers, dtype="float64", seed=0)
    figure = drawn(sf.plots.spectrum(net))
    assert len(figure.axes) == 2 * len(net.layers)
    for layer, axes in zip(net.layers, figure.axes, strict=False):
        assert f"{layer.n_in} → {layer.n_out}" in axes.get_title()
        np.testing.assert_allclose(line(axes, "singular value").get_ydata(), np.linalg.svd(layer.weight(), compute_uv=False))
        low, high = axes.get_ylim()
        assert high > 3 * low  # so that equal values have ticks of different labels


def test_spectra_that_are_not_finite():
    for value in (np.nan, np.inf):
        for factored in (False, True):
            net = sf.Network(SIZES, seed=0)
            if factored:
                net.truncate(ranks=[None, 2], force=True)
            net.layers[1].weight_tensors[0][0, 1] = value
            for asked in ({}, {"rank_fraction": 0.5}, {"ranks": "energy:0.5"}):
                with pytest.raises(ValueError, match="layer 1: expected finite weights"):
                    sf.plots.spectrum(net, **asked)


# ---- both


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: sf.plots.training(trained(), "steps"), ValueError, "against: expected seconds or epochs, got 'steps'"),
        (lambda: sf.plots.training(trained(), figure=3), TypeError, "figure: expected a matplotlib Figure or SubFigure, got int"),
        (lambda: sf.plots.spectrum(sf.Network(SIZES), figure=[]), TypeError, "figure: expected"),
        (lambda: sf.plots.spectrum(sf.Network(SIZES), 0.5, ranks=[1, 1]), ValueError, "rank_fraction, ranks"),
        (lambda: sf.plots.spectrum(sf.Network(SIZES), 1.5), ValueError, "rank_fraction"),
        (lambda: sf.plots.spectrum(sf.Network(SIZES), ranks=[1]), ValueError, "ranks: expected 2"),
        (lambda: sf.plots.spectrum(sf.Network(SIZES), ranks="auto"), ValueError, "ranks: expected"),
    ],
)
def test_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("layout", [None, "constrained", "tight"])
def test_a_figure_that_is_given(layout):
    """Or a part of one; the layout stays the user's."""
    from matplotlib.figure import Figure

    result = trained()
    for draw in (partial(sf.plots.training, result), partial(sf.plots.spectrum, result.network)):
        figure = Figure(layout=layout)
        engine = figure.get_layout_engine()
        assert draw(figure=figure) is figure
        assert figure.get_layout_engine() is engine
        legends = figure.legends + [axes.get_legend() for axes in figure.axes if axes.get_legend()]
        assert len(legends) == 1
        drawn(figure)
    if layout == "constrained":
        figure = Figure(figsize=(16, 5), layout=layout)
        left, right = figure.subfigures(1, 2)
        assert sf.plots.training(result, figure=left) is left and sf.plots.spectrum(result.network, figure=right) is right
        drawn(figure)


def test_a_notebook_gets_a_picture():
    """Also of a figure that was pickled."""
    figure = sf.plots.training(trained())
    for one in (figure, pickle.loads(pickle.dumps(figure))):
        assert one._repr_png_().startswith(b"\x89PNG")


def test_matplotlib_is_left_as_it_was():
    program = """
import sys
import matplotlib
import svdfast as sf
def settings():  # but for the one that loads pyplot when it is looked at
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
data = sf.datasets.load("xor")
net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
sf.plots.training(sf.train(net, *data.train, epochs=2))
result = sf.train(net, *data.train, epochs=2)
sf.plots.spectrum(net)
sf.plots.compare([result])
sf.plots.confusion([0, 1], [1, 1])
sf.plots.residuals([0, 1], [1, 1])
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-P", "-W", "error", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


def test_without_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    calls = [partial(sf.plots.training, trained()), partial(sf.plots.spectrum, sf.Network(SIZES)), partial(sf.plots.compare, [trained()])]
    for draw in [*calls, partial(sf.plots.confusion, [0], [0]), partial(sf.plots.residuals, [0], [0])]:
        with pytest.raises(ImportError, match=r"svdfast\[plot\]"):
            draw()
