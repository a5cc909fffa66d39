# SPDX-License-Identifier: BSD-3-Clause
"""Figures of predictions: what is counted, whose names are shown, and labels and numbers that are refused."""

import io

import numpy as np
import pytest

import svdfast as sf

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

TRUE = [0, 0, 0, 1, 1, 2]
PREDICTED = [0, 0, 1, 1, 0, 2]


def drawn(figure):
    figure.savefig(io.BytesIO(), format="svg")
    return figure


def matrix(figure):
    """The classes beside the rows, and the shown cells."""
    axes = drawn(figure).axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == [text.get_text() for text in axes.get_xticklabels()]
    cells = np.full((len(names), len(names)), "", dtype=object)
    for text in axes.texts:
        column, row = text.get_position()
        cells[row, column] = text.get_text()
    return names, cells.tolist()


# ---- a confusion matrix


def test_counts():
    figure = sf.plots.confusion(TRUE, PREDICTED)
    assert matrix(figure) == (["0", "1", "2"], [["2", "1", "0"], ["1", "1", "0"], ["0", "0", "1"]])
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert axes.get_title() == "4 of 6 right, 66.67 %"
    np.testing.assert_allclose(axes.images[0].get_array()[0], [2 / 3, 1 / 3, 0])


def test_shares_are_those_of_the_true_class():
    _, cells = matrix(sf.plots.confusion(TRUE, PREDICTED, shares=True))
    assert cells[0] == ["66.7", "33.3", "0.0"] and cells[2] == ["0.0", "0.0", "100.0"]


def test_counts_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    for labels in (np.array([-3, 7, 2**62]), np.array(["b", "a", "ä"])):
        true, predicted = labels[rng.integers(0, 3, 50)], labels[rng.integers(0, 3, 50)]
        names, cells = matrix(sf.plots.confusion(true, predicted))
        assert names == [str(label) for label in np.unique(labels)]
        assert np.array(cells, dtype=int).tolist() == metrics.confusion_matrix(true, predicted).tolist()


@pytest.mark.parametrize(
    "true, predicted",
    [
        (np.array(TRUE, dtype="uint8"), np.array(PREDICTED, dtype="int16")),
        (np.array(TRUE, dtype=float), PREDICTED),
        (np.array(TRUE)[:, np.newaxis], tuple(PREDICTED)),
        (np.array(TRUE, dtype=np.uint64), PREDICTED),
    ],
)
def test_labels_of_other_types(true, predicted):
    given = np.array(true).copy()
    if isinstance(true, np.ndarray):
        true.flags.writeable = False
    assert matrix(sf.plots.confusion(true, predicted))[1] == matrix(sf.plots.confusion(TRUE, PREDICTED))[1]
    np.testing.assert_array_equal(true, given)


def test_one_long_label_takes_no_room_in_the_others():
    """As an array of str all labels would have its length: 40 GB."""
    labels = np.array(["a"] * 10_000 + ["b" * 1_000_000], dtype=object)
    assert matrix(sf.plots.confusion(labels, labels))[1] == [["10,000", "0"], ["0", "1"]]


def test_truth_values_and_series():
    assert matrix(sf.plots.confusion([True, False], [True, True])) == (["0", "1"], [["0", "1"], ["0", "1"]])
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    names, cells = matrix(sf.plots.confusion(pandas.Series(["b", "a"], index=[5, 9]), pandas.Categorical(["b", "b"])))
    assert (names, cells) == (["a", "b"], [["0", "1"], ["0", "1"]])


def test_names_of_classes():
    """Strings name integers; their order is that of the rows, and a class without a sample has one."""
    names, cells = matrix(sf.plots.confusion(TRUE, PREDICTED, classes=["x", "a", "m", "none"]))
    assert names == ["x", "a", "m", "none"] and cells[0] == ["2", "1", "0", "0"] and cells[3] == ["0"] * 4
    names, cells = matrix(sf.plots.confusion(["b", "a"], ["b", "b"], classes=np.array(["b", "a"])))
    assert names == ["b", "a"] and cells == [["1", "0"], ["1", "0"]]
    names, cells = matrix(sf.plots.confusion([7, 3], [7, 7], classes=(7, 3)))
    assert names == ["7", "3"] and cells == [["1", "0"], ["1", "0"]]


def test_one_class():
    assert matrix(sf.plots.confusion([4], [4])) == (["4"], [["1"]])


def test_names_are_shown_as_they_are():
    classes = ["<script>alert(1)</script>", "$\\frac{", "_a", "b\n\0\udcff", "y" * 1000, ""]
    names, _ = matrix(sf.plots.confusion(range(6), range(6), classes=classes))
    assert names == ["<script>alert(1)</script>", "$\\frac{", "_a", "b \\x00\\udcff", "y" * 27 + "…", ""]


def test_many_classes_have_no_numbers_and_fewer_names():
    labels = np.arange(300)
    figure = sf.plots.confusion(labels, labels[::-1])
    names, _ = matrix(figure)
    assert len(names) <= 40 and not figure.axes[0].texts
    assert max(figure.get_size_inches()) < 20


class Raises:
    def __array__(self, *args, **kwargs):
        raise TypeError("no array")


@pytest.mark.parametrize(
    "true, predicted, settings, error, match",
    [
        ([], [], {}, ValueError, "y_true: expected at least one label, got none"),
        ([0], [0, 1], {}, ValueError, "y_true, y_predicted: expected as many labels of each, got 1 and 2"),
        ([0], [[0.2, 0.8]], {}, ValueError, r"y_predicted: expected labels of shape \(n_samples,\), got shape \(1, 2\); .*argmax"),
        (3, [0], {}, ValueError, r"y_true: expected labels of shape \(n_samples,\), got shape \(\)"),
        ([0.5], [0], {}, ValueError, "y_true: expected integers or strings, got 0.5"),
        ([np.nan], [0], {}, ValueError, "y_true: expected integers or strings, got nan"),
        (np.array([0.5], dtype="float16"), [0], {}, ValueError, "y_true: expected integers or strings, got 0.5"),
        (np.array([1], dtype=np.longdouble), [0], {}, TypeError, "y_true: expected integers or strings, got dtype"),
        ([np.inf], [0], {}, ValueError, "y_true: expected integers or strings, got inf"),
        (["a"], [0], {}, TypeError, "y_true, y_predicted: expected labels of one kind, got strings and integers"),
        ([None], [0], {}, TypeError, "y_true: expected integers or strings, got NoneType"),
        (None, [0], {}, ValueError, "y_true: expected labels"),
        (["a", None], ["a", "a"], {}, TypeError, "y_true: expected integers or strings, got NoneType, str"),
        ([b"a"], ["a"], {}, TypeError, "y_true: expected integers or strings, got dtype"),
        ([1j], [0], {}, TypeError, "y_true: expected integers or strings, got dtype complex128"),
        ([[0], [1, 2]], [0], {}, TypeError, "y_true: expected integers or strings, got list"),
        (Raises(), [0], {}, TypeError, "y_true: expected integers or strings, got Raises"),
        (np.array([2**64 - 1]), [0], {}, ValueError, r"y_true: expected integers below 2\*\*63"),
        ([10**30], [0], {}, TypeError, "y_true: expected integers or strings, got int"),
        (range(3000), range(3000), {}, ValueError, "y_true: expected at most 2,000 classes, got 3,000"),
        ([0], [5], {"classes": ["a", "b"]}, ValueError, "classes: expected labels from 0 to 1, got 5"),
        ([0], [-1], {"classes": ["a", "b"]}, ValueError, "classes: expected labels from 0 to 1, got -1"),
        (["a"], ["c"], {"classes": ["a", "b"]}, ValueError, "classes: expected labels that are all among them, got 'c'"),
        ([0], [0], {"classes": "ab"}, TypeError, "classes: expected a sequence, got str"),
        ([0], [0], {"classes": 3}, TypeError, "classes: expected a sequence, got int"),
        ([0], [0], {"classes": []}, TypeError, "classes: expected strings or integers, got none"),
        ([0], [0], {"classes": [1.5]}, TypeError, "classes: expected strings or integers, got float"),
        ([0], [0], {"classes": ["a", "a"]}, ValueError, "classes: expected 2 different ones, got 1"),
        ([0], [0], {"shares": "yes"}, TypeError, "shares: expected True or False, got str"),
        ([0], [0], {"figure": 3}, TypeError, "figure: expected a matplotlib Figure or SubFigure, got int"),
    ],
)
def test_refused_labels(true, predicted, settings, error, match):
    with pytest.raises(error, match=match):
        sf.plots.confusion(true, predicted, **settings)


# ---- residuals


def points(axes):
    (one,) = [line for line in axes.lines if line.get_marker() == "o"]
    return one.get_xdata(), one.get_ydata()


def test_residuals_over_the_predictions():
    figure = drawn(sf.plots.residuals([1, 2, 4], [1.5, 2, 3]))
    (axes,) = figure.axes
    x, y = points(axes)
    np.testing.assert_array_equal(x, [1.5, 2, 3])
    np.testing.assert_array_equal(y, [-0.5, 0, 1])
    assert axes.get_title() == f"root mean square {np.sqrt(1.25 / 3):.4g}"


def test_each_target_has_a_panel():
    y = np.random.default_rng(0).normal(size=(9, 4))
    figure = drawn(sf.plots.residuals(y, y + 1))
    assert [axes.get_title() for axes in figure.axes] == [f"target {i}, root mean square 1" for i in range(1, 5)]
    figure = drawn(sf.plots.residuals(y[:, :2], y[:, :2], names=["$\\frac{", "<b>"]))
    assert [axes.get_title() for axes in figure.axes] == ["$\\frac{, root mean square 0", "<b>, root mean square 0"]


@pytest.mark.filterwarnings("error")
def test_large_and_small_numbers_and_many_points():
    for scale in (1e-300, 1e150):
        drawn(sf.plots.residuals([0, scale], [scale, 0]))
    content = io.BytesIO()
    y = np.random.default_rng(0).normal(size=20_000)
    sf.plots.residuals(y, 0.5 * y).savefig(content, format="svg")
    assert len(content.getvalue()) < 300_000  # points are one picture
    drawn(sf.plots.residuals([3], [3]))


@pytest.mark.parametrize(
    "true, predicted, settings, error, match",
    [
        ([], [], {}, ValueError, "y_true: expected numbers of shape"),
        ([1], [1, 2], {}, ValueError, "y_true, y_predicted: expected the same shape"),
        ([np.nan], [1], {}, ValueError, "y_true: expected finite numbers, got NaN or infinity"),
        ([1], [np.inf], {}, ValueError, "y_predicted: expected finite numbers"),
        (["a"], [1], {}, TypeError, "y_true: expected real numbers"),
        (None, [1], {}, TypeError, "y_true: expected an array of numbers, got None"),
        ([[[1]]], [1], {}, ValueError, r"y_true: .* got shape \(1, 1, 1\)"),
        ([1e308], [-1e308], {}, ValueError, "y_true, y_predicted: expected differences that are finite"),
        ([1], [1], {"names": ["a", "b"]}, ValueError, "names: expected 1, got 2"),
        ([1], [1], {"names": "a"}, TypeError, "names: expected a sequence, got str"),
    ],
)
def test_refused_numbers(true, predicted, settings, error, match):
    with pytest.raises(error, match=match):
        sf.plots.residuals(true, predicted, **settings)
