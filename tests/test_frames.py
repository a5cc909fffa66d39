# SPDX-License-Identifier: BSD-3-Clause
"""Tables with named columns and labels that are text: the same results as arrays of numbers give, names and classes kept, and a clear
error for what is neither. Arrays are test_losses_and_data.py's; files of tables are the command's.
"""

import dataclasses
import datetime

import numpy as np
import pytest
import scipy.sparse

import svdfast as sf
from svdfast.data.frames import column_names

pd = pytest.importorskip("pandas")

N = 60
NAMES = ("real", "small", "whole", "flag", "nullable", "nullable real", "nullable flag")


def table(n=N, seed=0):
    """A column of each kind of number."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "real": rng.standard_normal(n),
        "small": rng.standard_normal(n).astype("float32"),
        "whole": rng.integers(-5, 5, n),
        "flag": rng.random(n) > 0.5,
        "nullable": pd.array(rng.integers(0, 9, n), dtype="Int64"),
        "nullable real": pd.array(rng.standard_normal(n), dtype="Float64"),
        "nullable flag": pd.array(rng.random(n) > 0.5, dtype="boolean"),
    })  # fmt: skip


def numbers(frame):
    return np.column_stack([frame.iloc[:, i].to_numpy(dtype=float) for i in range(frame.shape[1])])


def labels(frame):
    return pd.Series(np.select([frame["real"] > 0.5, frame["real"] < -0.5], ["high", "low"], "middle"), name="level")


CLASSES = ("high", "low", "middle")


def places(y):
    return np.searchsorted(np.array(CLASSES), y.to_numpy(dtype=str))


def network(n_out=3, sizes=(7, 9), **settings):
    return sf.Network([*sizes, n_out], **{"dtype": "float64", "seed": 0, **settings})


def train(net, X, y, **settings):
    return sf.train(net, X, y, **{"epochs": 3, "batch_size": 16, "factoring": None, **settings})


# ---- tables are arrays with names


def test_a_table_gives_what_its_numbers_give():
    X, y = table(), labels(table())
    net, other = network(), network()
    ours = train(net, X, y, validation=(X, y), sample_weight=pd.Series(np.arange(N), dtype="Float64"))
    theirs = train(other, numbers(X), places(y), validation=(numbers(X), places(y)), sample_weight=np.arange(N))
    np.testing.assert_array_equal(net.parameters, other.parameters)
    assert [row["val_accuracy"] for row in ours.history] == [row["val_accuracy"] for row in theirs.history]
    assert net.feature_names == NAMES and net.classes == CLASSES
    assert other.feature_names is None and other.classes is None
    np.testing.assert_array_equal(net.predict(X), other.predict(numbers(X)))
    assert net.evaluate(X, y) == other.evaluate(numbers(X), places(y))
    assert net.score(X, y) == other.score(numbers(X), places(y))
    assert net.loss_and_gradient(X, y)[0] == other.loss_and_gradient(numbers(X), places(y))[0]


def test_targets_may_be_a_table():
    X = table()
    Y = X[["real", "nullable real"]]
    net, other = network(2, output="identity"), network(2, output="identity")
    train(net, X, Y)
    train(other, numbers(X), numbers(Y))
    np.testing.assert_array_equal(net.parameters, other.parameters)
    assert net.score(X, Y) == other.score(numbers(X), numbers(Y))
    one, other = network(1, output="identity"), network(1, output="identity")
    train(one, X, X[["nullable"]])  # a table of one column is a column
    train(other, numbers(X), numbers(X)[:, 4])
    np.testing.assert_array_equal(one.parameters, other.parameters)


def test_truncation_looks_at_a_table():
    X = table()
    net, other = network(sizes=(len(NAMES), 30, 20)), network(sizes=(len(NAMES), 30, 20))
    net.truncate(ranks=[2, 3], inputs=X, sample_weight=X["nullable"], force=True)
    other.truncate(ranks=[2, 3], inputs=numbers(X), sample_weight=numbers(X)[:, 4], force=True)
    np.testing.assert_array_equal(net.parameters, other.parameters)


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "int64", "bool"])
def test_tables_of_one_type_in_any_order_of_memory(kind):
    numbers = (np.random.default_rng(0).random((N, 4)) * 200).astype(kind)
    net = network(sizes=(4,))
    expected = net.predict(numbers)
    read_only = numbers.copy()
    read_only.flags.writeable = False
    for array in (numbers, np.asfortranarray(numbers), np.repeat(numbers, 2, axis=1)[:, ::2], read_only):
        np.testing.assert_array_equal(net.predict(pd.DataFrame(array)), expected)
    columns = pd.DataFrame({name: numbers[:, i] for i, name in enumerate("abcd")})
    np.testing.assert_array_equal(net.predict(columns), expected)


def test_a_table_of_floats_is_read_where_it_lies():
    array = np.random.default_rng(0).random((N, 4))
    from svdfast.data.checks import check_inputs
    from svdfast.model.evaluation import spec_of

    inputs = check_inputs(pd.DataFrame(array, columns=list("abcd")), spec_of(network(sizes=(4,))))
    assert np.shares_memory(inputs.array, array) or not np.shares_memory(pd.DataFrame(array).to_numpy(), array)


def test_objects_that_are_numbers():
    X = table()
    mixed = X.assign(whole=X["whole"].astype(object), flag=[True, 2, 3.5] * (N // 3))
    expected = numbers(X)
    expected[:, 3] = [1, 2, 3.5] * (N // 3)
    np.testing.assert_array_equal(network().predict(mixed), network().predict(expected))
    large = X.assign(whole=[2**70, 2**63 + 5] * (N // 2))
    expected = numbers(X)
    expected[:, 2] = [2.0**70, 2.0**63] * (N // 2)
    np.testing.assert_array_equal(network().predict(large), network().predict(expected))
    with pytest.raises(ValueError, match="X: expected numbers that float64 can hold, got larger ones for column 'whole'"):
        network().predict(X.assign(whole=[10**400] * N))


def test_empty_tables():
    X = table()
    net = network()
    assert net.predict(X[:0]).shape == (0, 3)
    assert net.predict(pd.DataFrame(columns=list(NAMES))).shape == (0, 3)  # of objects
    with pytest.raises(ValueError, match="X: expected at least one sample"):
        train(net, X[:0], labels(X)[:0].astype(float))
    for call in (lambda: net.predict(X[[]]), lambda: train(net, X[[]], labels(X))):
        with pytest.raises(ValueError, match=rf"X: expected 7 columns, got shape \({N}, 0\)"):
            call()
    assert net.origin == type(net.origin)()


def calls(net):
    y = labels(table())
    return {
        "train": lambda X: train(net, X, y),
        "validation": lambda X: train(net, table(), y, validation=(X, y)),
        "batches": lambda X: train(net, [(X, places(y))], None, batch_size=None),
        "predict": net.predict,
        "evaluate": lambda X: net.evaluate(X, places(y)),
        "score": lambda X: net.score(X, places(y)),
        "loss_and_gradient": lambda X: net.loss_and_gradient(X, places(y)),
        "truncate": lambda X: net.truncate(ranks=[2], force=True, inputs=X),
    }


CALLS = list(calls(network()))


@pytest.mark.parametrize("call", CALLS)
def test_columns_that_are_no_numbers_are_named(call):
    net = network()
    before = net.parameters.copy()
    X = table().assign(
        real="text", whole=pd.Timestamp("2020-02-02"), flag=pd.Categorical([1, 2] * (N // 2)), nullable=[None, "a"] * (N // 2)
    )
    with pytest.raises(
        TypeError,
        match=r"X( of batch 1)?: expected columns of numbers, got 'real' \((str|object)\), 'whole' \(datetime64.*\), 'flag' \(category\), "
        r"'nullable' \((str|object)\): prepare .* `svdfast train`, .* ColumnTransformer",
    ):
        calls(net)[call](X)
    np.testing.assert_array_equal(net.parameters, before)
    assert net.origin == type(net.origin)()


@pytest.mark.parametrize("value", [1j, datetime.date(2020, 2, 2), datetime.timedelta(1), "1", b"1", [1], np.longdouble(1)])
def test_other_columns_are_no_numbers(value):
    X = table().assign(real=pd.Series([value] * N))
    with pytest.raises(TypeError, match="X: expected columns of numbers, got 'real'"):
        network().predict(X)


def test_many_columns_of_text_are_counted():
    X = pd.DataFrame("x", range(3), [f"c{i}" for i in range(9)])
    with pytest.raises(TypeError, match=r"'c4' \(\w+\) and 4 more: prepare"):
        network(sizes=(9,)).predict(X)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("column", ["nullable", "nullable real", "nullable flag", "object"])
def test_a_missing_value_is_named_by_column_and_row(call, column):
    X = table()
    if column == "object":
        X["real"] = X["real"].astype(object)
        column = "real"
    X.loc[7, column] = pd.NA
    with pytest.raises(ValueError, match=rf"X( of batch 1)?: expected a value in each row, got none for column '{column}' in row 7"):
        calls(network())[call](X)


def test_nan_is_named_by_its_column():
    X = table()
    X.loc[7, "real"] = np.nan
    with pytest.raises(ValueError, match=r"X: expected finite numbers of float64, got nan at 7, 0 \(column 'real'\)"):
        network().evaluate(X, places(labels(table())))
    assert np.isnan(network().predict(X)[7]).all()  # as of arrays


# ---- names


def test_other_names_are_refused():
    X = table()
    net = network()
    train(net, X, labels(X))
    again = calls(net)
    for other, message in (
        (X[list(NAMES[::-1])], r"expected the columns in the order of net.feature_names, got another one: X\[list"),
        (X.rename(columns={"flag": "flags"}), r"got others \(missing: 'flag'; unexpected: 'flags'\)"),
        (X.drop(columns="whole"), r"got others \(missing: 'whole'\)"),
        (X.assign(more=1, yet=2), r"got others \(unexpected: 'more', 'yet'\)"),
        (X.drop(columns="whole").assign(more=1), r"got others \(missing: 'whole'; unexpected: 'more'\)"),
        (X[["real", *NAMES]], r"expected each column once, got more of 'real'"),
    ):
        for name in CALLS:
            with pytest.raises(ValueError, match=message):
                again[name](other)
    assert net.feature_names == NAMES
    # Without names there is nothing to compare.
    expected = net.predict(X)
    np.testing.assert_array_equal(net.predict(numbers(X)), expected)
    np.testing.assert_array_equal(net.predict(X.set_axis(range(7), axis=1)), expected)
    train(net, numbers(X), labels(X))
    assert net.feature_names == NAMES


@pytest.mark.parametrize(
    "columns",
    [
        range(7),
        list("aabcdef"),
        ["a", "b", "c", "d", "e", "f", 7],
        pd.MultiIndex.from_tuples([("a", str(i)) for i in range(7)]),
        pd.date_range("2020", periods=7),
    ],
)
def test_columns_without_a_text_each_have_no_names(columns):
    X = table().set_axis(columns, axis=1)
    assert column_names(X) is None
    net = network()
    train(net, X, labels(table()))
    assert net.feature_names is None and net.classes == CLASSES
    np.testing.assert_array_equal(net.predict(X), net.predict(numbers(X)))


# ---- labels


FORMS = {
    "list": lambda y: y.tolist(),
    "array": lambda y: y.to_numpy(dtype=str),
    "objects": lambda y: y.to_numpy(dtype=object),
    "texts of NumPy": lambda y: y.to_numpy(dtype=np.dtypes.StringDType()),
    "series": lambda y: y,
    "nullable": lambda y: y.astype("string"),
    "categories": lambda y: y.astype("category"),
    "ordered": lambda y: pd.Series(pd.Categorical(y, categories=["low", "middle", "high"], ordered=True)),
    "frame": lambda y: y.to_frame(),
    "index": lambda y: pd.Index(y),
    "every other": lambda y: np.repeat(y.to_numpy(dtype=str), 2)[::2],
}


@pytest.mark.parametrize("form", FORMS)
def test_text_stands_for_classes(form):
    X, y = numbers(table()), labels(table())
    given = FORMS[form](y)
    net, other = network(), network()
    result = train(net, X, given, validation=(X, given))
    train(other, X, places(y))
    np.testing.assert_array_equal(net.parameters, other.parameters)
    assert net.classes == CLASSES and all(type(label) is str for label in net.classes)
    assert net.score(X, given) == other.score(X, places(y)) == result.history[-1]["val_accuracy"]
    assert net.evaluate(X, places(y)) == net.evaluate(X, given)  # class numbers are taken, too
    assert net.evaluate(X[:5], ["low"] * 5) == other.evaluate(X[:5], [1] * 5)


@pytest.mark.parametrize("loss", [None, "mean_squared_error"])
def test_one_sigmoid_tells_two_labels_apart(loss):
    X = numbers(table())
    bits = X[:, 0] > 0
    y = np.where(bits, "yes", "no")
    net, other = network(1, output="sigmoid"), network(1, output="sigmoid")
    train(net, X, y, loss=loss)
    train(other, X, bits.astype(int), loss=loss)
    np.testing.assert_array_equal(net.parameters, other.parameters)
    assert net.classes == ("no", "yes") and other.classes is None
    assert net.score(X, y) == other.score(X, bits)


@pytest.mark.parametrize(("output", "n_out"), [("softmax", 2), ("sigmoid", 1)])
@pytest.mark.parametrize("form", [list, np.array, pd.Series, lambda y: pd.array(y, dtype="boolean"), lambda y: np.array(y, dtype=object)])
def test_bools_are_two_classes(output, n_out, form):
    X = numbers(table())
    y = (X[:, 0] > 0).tolist()
    net, other = network(n_out, output=output), network(n_out, output=output)
    train(net, X, form(y))
    train(other, X, np.array(y, dtype=int))
    np.testing.assert_array_equal(net.parameters, other.parameters)
    assert net.classes == (False, True)
    assert net.score(X, form(y)) == other.score(X, np.array(y, dtype=int))
    train(network(n_out, output=output), X, form([True] * N))  # a class may be missing, as both are known


def test_classes_are_as_many_as_the_network_has():
    X, y = numbers(table()), labels(table())
    for net, given, message in (
        (network(4), y, "y: expected labels of 4 classes, as many as the network has, got 3: 'high', 'low', 'middle'"),
        (network(2), y, "y: expected labels of 2 classes, .* got 3"),
        (network(1, output="sigmoid"), y, "y: expected labels of 2 classes, .* got 3"),
        (network(1, output="sigmoid"), ["x"] * N, "y: expected labels of 2 classes, .* got 1: 'x'"),
        (network(3), [True, False] * (N // 2), "y: expected labels of 3 classes, .* got 2: False, True"),
        (network(3), [f"c{i}" for i in range(N)], r"got 60: 'c0', 'c1', 'c10', 'c11', 'c12', \.\.\."),
    ):
        before = net.parameters.copy()
        with pytest.raises(ValueError, match=message):
            train(net, X, given)
        np.testing.assert_array_equal(net.parameters, before)
        assert net.classes is None


def test_other_labels_are_named():
    X, y = numbers(table()), labels(table())
    net = network()
    train(net, X, y)
    other = y.copy()
    other[[5, 9]] = "highest"
    other[7] = "none"
    message = r"expected labels of the network's classes \('high', 'low', 'middle'\), got 'highest' in row 5, 'none' in row 7$"
    for call in (
        lambda: train(net, X, other), lambda: net.evaluate(X, other), lambda: net.score(X, other), lambda: net.loss_and_gradient(X, other),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^y: {message}"):
            call()
    with pytest.raises(ValueError, match=f"^validation y: {message}"):
        train(net, X, y, validation=(X, other))
    assert net.classes == CLASSES
    train(net, X[:9], y[:9])  # some of the classes
    assert net.classes == CLASSES


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT])
@pytest.mark.parametrize("form", [list, lambda y: np.array(y, dtype=object), lambda y: pd.Series(y, dtype=object)])
def test_a_missing_label_is_named_by_its_row(form, missing):
    X, y = numbers(table()), labels(table()).tolist()
    y[7] = missing
    with pytest.raises(ValueError, match="y: expected a value in each row, got none in row 7"):
        train(network(), X, form(y))


@pytest.mark.parametrize("kind", ["string", "category", "str"])
def test_a_missing_label_of_a_nullable_type(kind):
    y = labels(table())
    y[7] = None
    with pytest.raises(ValueError, match="y: expected a value in each row, got none in row 7"):
        train(network(), numbers(table()), y.astype(kind))


@pytest.mark.parametrize("kind", ["Int64", "boolean", "Float64", "category"])
def test_a_missing_number_among_targets(kind):
    y = pd.Series([0, 1, None] * (N // 3)).astype(kind)
    for net in (network(2), network(1, output="identity")):
        with pytest.raises(ValueError, match="y: expected a value in each row, got none in row 2"):
            train(net, numbers(table()), y)


def test_labels_of_several_kinds():
    X = numbers(table())
    for y in (["a", 1] * (N // 2), [b"a", "b"] * (N // 2), [datetime.date(2020, 2, 2), "b"] * (N // 2), [(1, 2), "a"] * (N // 2)):
        with pytest.raises((TypeError, ValueError), match="y: expected"):
            train(network(2), X, y)
    with pytest.raises(TypeError, match="y: expected numbers, or labels that are all text, got 'int', 'str'"):
        train(network(2), X, ["a", 1] * (N // 2))


def test_integers_are_class_numbers():
    X = numbers(table())
    for y in ([1, 2] * (N // 2), pd.Series([1, 2] * (N // 2), dtype="Int64"), np.array([1, 2] * (N // 2), dtype=object)):
        with pytest.raises(ValueError, match=r"y: expected class numbers from 0 to 1, got 2 in row 1; number .* numpy\.unique"):
            train(network(2), X, y)
        with pytest.raises(ValueError, match=r"y: expected values from 0 to 1 for binary.* got 2.* in row 1; number .* numpy\.unique"):
            train(network(1, output="sigmoid"), X, y)
        net, other = network(3), network(3)
        train(net, X, y)
        train(other, X, np.array(y, dtype=int))
        np.testing.assert_array_equal(net.parameters, other.parameters)
        assert net.classes is None
    net = network(2)
    net.origin = dataclasses.replace(net.origin, classes=(5, 7))
    assert net.score(X, [0, 1] * (N // 2)) + net.score(X, [1, 0] * (N // 2)) == 1  # places in net.classes, always
    with pytest.raises(ValueError, match=r"classes \(5, 7\), got '5' in row 0"):
        net.score(X, ["5", "7"] * (N // 2))


def test_bools_for_a_network_whose_classes_are_text():
    X, y = numbers(table()), labels(table())
    net = network(2)
    train(net, X, np.where(y == y[0], "yes", "no"))
    before = net.parameters.copy()
    for call in (lambda: train(net, X, y == y[0]), lambda: net.score(X, y == y[0])):
        with pytest.raises(ValueError, match=r"y: expected labels of the network's classes \('no', 'yes'\), or class numbers, got bools"):
            call()
    with pytest.raises(ValueError, match=r"validation y: .* got bools"):
        train(net, X, (y == y[0]).astype(int), validation=(X, y == y[0]))
    np.testing.assert_array_equal(net.parameters, before)


def test_text_for_a_network_of_numbers():
    X, y = numbers(table()), labels(table())
    for net, loss in (
        (network(output="identity"), None), (network(1, output="identity"), None), (network(output="sigmoid"), None),
        (network(), "mean_squared_error"),
    ):  # fmt: skip
        message = r"y: expected numbers for \w+, got text \('\w+'\); .*output=\"softmax\".* and loss=\"cross_entropy\""
        for call in (lambda net=net, loss=loss: train(net, X, y, loss=loss), lambda net=net, loss=loss: net.evaluate(X, y, loss)):
            with pytest.raises(TypeError, match=message):
                call()
    with pytest.raises(ValueError, match=r"y: expected a label for each sample, got shape \(60, 1\); use y.ravel\(\)"):
        train(network(), X, y.to_numpy(dtype=str)[:, np.newaxis])


def test_labels_come_in_batches_where_they_are_known():
    X, y = numbers(table()), labels(table())
    batches = [(X[i : i + 1], y[i : i + 1]) for i in range(N)]
    with pytest.raises(TypeError, match=r"y of batch 1: expected class numbers from 0 to 2, got text .* the network knows no classes"):
        train(network(), batches, None, batch_size=None)
    with pytest.raises(TypeError, match=r"y: expected class numbers .* the network knows no classes"):
        network().evaluate(X, y)
    net, other = network(), network()
    net.origin = dataclasses.replace(net.origin, classes=CLASSES)
    train(net, batches, None, batch_size=None)
    train(other, [(x, places(label)) for x, label in batches], None, batch_size=None)
    np.testing.assert_array_equal(net.parameters, other.parameters)
    with pytest.raises(ValueError, match=r"y of batch 2: expected labels .* got 'lower' in row 0"):
        train(net, [batches[0], (X[:1], ["lower"])], None, batch_size=None)


@pytest.mark.parametrize("every", [None, 1])
def test_a_checkpoint_keeps_names_and_classes(tmp_path, every):
    X, y = table(), labels(table())
    whole = network()
    expected = train(whole, X, y, validation=(X, y))
    path = tmp_path / "run.ckpt"

    def stop(event):
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(network(), X, y, validation=(X, y), callbacks=[stop], checkpoint=path, checkpoint_every=every)
    with pytest.raises(ValueError, match="y: expected labels of the network's classes"):
        sf.resume(path, X, y.replace("high", "higher"), validation=(X, y))
    with pytest.raises(ValueError, match="expected the data that"):
        sf.resume(path, X, y.iloc[::-1], validation=(X, y))
    result = sf.resume(path, X, y, validation=(X, y))
    np.testing.assert_array_equal(result.network.parameters, whole.parameters)
    assert result.network.origin == whole.origin and whole.classes == CLASSES and whole.feature_names == NAMES
    assert len(result.history) == len(expected.history)


def test_a_training_that_does_not_begin_leaves_the_origin(tmp_path):
    X, y = table(), labels(table())
    net = network()
    with pytest.raises(ValueError, match="batch_size"):
        train(net, X, y, batch_size=0)
    with pytest.raises(ValueError, match="validation X"):
        train(net, X, y, validation=(X[["real"]], y))
    assert net.origin == type(net.origin)()
    train(net, X, y)
    sf.save(net, tmp_path / "net.npz")
    assert sf.load(tmp_path / "net.npz").score(X, y) == net.score(X, y)


# ---- polars


def test_tables_of_polars():
    pl = pytest.importorskip("polars")
    plain = table()
    X = pl.DataFrame({name: plain[name].to_numpy() for name in NAMES})
    y = pl.Series("level", labels(plain).tolist())
    net, other = network(), network()
    train(net, X, y, validation=(X, y))
    train(other, numbers(plain), places(labels(plain)))
    np.testing.assert_array_equal(net.parameters, other.parameters)
    assert net.feature_names == NAMES and net.classes == CLASSES
    assert net.score(X, y) == net.score(X, y.to_frame()) == net.score(X, y.cast(pl.Categorical))
    with pytest.raises(ValueError, match="expected the columns in the order"):
        net.predict(X[list(NAMES[::-1])])
    with pytest.raises(ValueError, match="X: expected a value in each row, got none for column 'whole' in row 1"):
        net.predict(X.with_columns(whole=pl.Series([1, None] * (N // 2))))
    with pytest.raises(ValueError, match="y: expected a value in each row, got none in row 1"):
        net.evaluate(X, pl.Series(["low", None] * (N // 2)))
    with pytest.raises(TypeError, match=r"got 'whole' \(String\), 'flag' \(Date\): prepare"):
        net.predict(X.with_columns(whole=pl.lit("x"), flag=pl.lit(datetime.date(2020, 2, 2))))


# ---- uint8


def pixels(high, n=N):
    return np.random.default_rng(0).integers(0, high, (n, 6), dtype=np.uint8)


@pytest.mark.parametrize(
    "form",
    [
        np.asarray, np.asfortranarray, pd.DataFrame, lambda X: pd.DataFrame(X).astype("UInt8"), scipy.sparse.csr_array,
        scipy.sparse.lil_matrix,
    ],
)  # fmt: skip
def test_small_uint8_is_no_picture(form):
    X, y = form(pixels(16)), np.arange(N) % 3
    message = r"^X: uint8 .* multiplied by 1/255, but no number of X is above 15\. .*uint8_scale=1\.0.*astype"
    with pytest.warns(UserWarning, match=message) as seen:
        train(network(sizes=(6,)), X, y)
    assert [warning.filename for warning in seen] == [train.__code__.co_filename]  # the line that calls svdfast
    with pytest.warns(UserWarning, match=r"^X and validation X: .* no number of validation X is above 15"):
        train(network(sizes=(6,)), pixels(256), y, validation=(form(pixels(16)), y))
    # Nothing is said where somebody chose the scale, of pictures, and of darkness.
    train(network(sizes=(6,), uint8_scale=1.0), X, y)
    train(network(sizes=(6,), uint8_scale=1 / 15), X, y)
    train(network(sizes=(6,)), form(pixels(17)), y)
    train(network(sizes=(6,)), form(pixels(1)), y)
    train(network(sizes=(6,)), form(pixels(16)).astype("float32"), y)
    network(sizes=(6,)).predict(X)


def test_pixels_beside_numbers_that_are_not_scaled():
    X, y = pixels(256), np.arange(N) % 3
    with pytest.warns(UserWarning, match="^X: uint8 .*, but validation X has float64 numbers above 1"):
        train(network(sizes=(6,)), X, y, validation=(X.astype(float), y))
    with pytest.warns(UserWarning, match="^validation X: uint8 .*, but X has int64 numbers above 1"):
        train(network(sizes=(6,)), X.astype(int), y, validation=(X, y))
    train(network(sizes=(6,)), X, y, validation=(X / 255, y))
    train(network(sizes=(6,)), X / 255, y, validation=(X, y))
    train(network(sizes=(6,)), X.astype(float), y, validation=(X.astype(float), y))
    with pytest.warns(UserWarning, match="^X: uint8 .*, but validation X has float64 numbers above 1"):
        train(network(sizes=(6,)), scipy.sparse.csr_array(X), y, validation=(X.astype(float), y))
    with pytest.warns(UserWarning, match="^X: uint8 .*, but validation X has float64 numbers above 1"):
        train(network(sizes=(6,)), X, y, validation=(scipy.sparse.csr_array(X.astype(float)), y))
    train(network(sizes=(6,)), X, y, validation=[(X.tolist(), y)][0])  # a list is not looked at
