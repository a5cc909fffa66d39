# SPDX-License-Identifier: BSD-3-Clause
"""Tables through the whole command line: trained on, saved, predicted from; and damaged tables, which give a right answer or an error.

Single cases of reading and of the commands are in test_cli.py and test_cli_model.py.
"""

import contextlib
import csv
import io
import os
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import svdfast as sf
from svdfast.cli.main import main
from svdfast.data.preparation import GAP, GAPS, Categorical, Numeric, Preparation, Target
from svdfast.model.origin import Origin

pandas = pytest.importorskip("pandas", reason="pandas is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

# Damaged files, drawn at random; tens of thousands are a search of some minutes.
N_DAMAGED = int(os.environ.get("SVDFAST_DAMAGED_TABLES", 300))
N_TABLES = int(os.environ.get("SVDFAST_RANDOM_TABLES", 30))


def call(*argv):
    """Exit status and what went to both outputs."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in argv])
    return status, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def folder():
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            yield
        finally:
            os.chdir(before)


# ---- train, save, predict

PLAIN = "abcdefgxyz"
WILD = PLAIN + " ,;|\"'äß€=:#0.5-"


def texts(alphabet):
    return st.text(alphabet, min_size=1, max_size=6).map(str.strip).filter(lambda text: text and text not in GAPS)


@st.composite
def tables(draw):
    """Columns by name, as text, the target last; and how the file is written."""
    explicit = draw(st.booleans())  # else delimiter and header are to be found by looking
    words = texts(WILD if explicit else PLAIN).filter(lambda text: not text.startswith("#"))
    n = draw(st.integers(24, 40))
    kinds = draw(st.lists(st.sampled_from(["float", "integer", "text", "few"]), max_size=4))
    targets = draw(st.sampled_from(["text", "two", "integer", "number"]))
    names = draw(st.lists(words, min_size=len(kinds) + 2, max_size=len(kinds) + 2, unique_by=str.casefold))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    base = rng.normal(size=n)
    columns = {names[0]: [f"{x:.4f}" for x in base]}
    for name, kind in zip(names[1:-1], kinds, strict=True):
        known = draw(st.lists(words, min_size=2, max_size=4, unique=True))
        values = {
            "float": lambda: [f"{x:.3g}" for x in 100 * rng.normal(size=n) + 5],
            "integer": lambda: [str(x) for x in rng.integers(-3, 300, n)],
            "text": lambda known=known: [str(x) for x in rng.choice(known, n)],
            "few": lambda: [str(x) for x in rng.choice(["yes", "no"], n)],
        }[kind]()
        if draw(st.booleans()):
            gaps = rng.random(n) < 0.2
            values = [draw(st.sampled_from(["", "NA", "?"])) if gap else value for gap, value in zip(gaps, values, strict=True)]
        columns[name] = values
    number = (base > -0.4).astype(int) + (base > 0.4)
    labels = draw(st.lists(words.filter(re.compile("[a-z]").search), min_size=3, max_size=3, unique=True))
    columns[names[-1]] = {
        "text": lambda: [labels[i] for i in number],
        "two": lambda: [("no", "yes")[int(i > 0)] for i in number],
        "integer": lambda: [str((-7, 2**40, 12)[i]) for i in number],
        "number": lambda: [f"{x:.5f}" for x in 1000 + base**2],
    }[targets]()
    how = {
        "delimiter": draw(st.sampled_from([",", ";", "\t", "|"])),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"])),
        "lineterminator": draw(st.sampled_from(["\n", "\r\n"])),
        "explicit": explicit,
    }
    return columns, how, draw(st.permutations(range(len(columns) - 1))), draw(st.booleans())


def write(path, columns, how):
    with open(path, "w", encoding=how["encoding"], newline="") as file:
        writer = csv.writer(file, delimiter=how["delimiter"], lineterminator=how["lineterminator"])
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def options(how):
    found = ["--encoding", how["encoding"]] if how["encoding"] == "cp1252" else []
    return [*found, "--delimiter", how["delimiter"], "--header"] if how["explicit"] else found


def of_pipeline(preparation, frame):
    """The features by scikit-learn, from the values in memory."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame = frame.mask(frame.isin(list(GAPS)), np.nan)
    parts = []
    for i, column in enumerate(preparation.columns):
        if isinstance(column, Numeric):
            frame[column.name] = frame[column.name].astype(float)
            part = SimpleImputer(strategy="constant", fill_value=column.fill)
        else:
            part = make_pipeline(
                SimpleImputer(strategy="constant", fill_value=GAP),
                OneHotEncoder(categories=[list(column.categories)], handle_unknown="ignore", sparse_output=False),
            )
        parts.append((str(i), part, [column.name]))
    return ColumnTransformer(parts, sparse_threshold=0).fit_transform(frame)


def answers(net, X):
    """What `predict` is to print."""
    outputs = net.predict(X)
    if net.classes is None:
        return [str(value) for value in outputs[:, 0]]
    numbers = outputs.argmax(axis=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0.5).astype(int)
    return [str(net.classes[number]) for number in numbers]


@pytest.mark.filterwarnings("ignore:.*unknown categories")
@settings(max_examples=N_TABLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables())
def test_a_saved_network_predicts_as_a_pipeline_of_scikit_learn(drawn):
    columns, how, order, more = drawn
    names, target = list(columns), list(columns)[-1]
    quick = ["--hidden", "4", "--epochs", "1", "--batch-size", "8", "--threads", "1"]
    with folder():
        write("train.csv", columns, how)
        status, _, err = call("train", "train.csv", *options(how), f"--target={target}", "--save", "net.npz", *quick)
        assert status == 0 or (status == 1 and "constant" in err), err  # after an epoch it may still be worse than that
        net = sf.load("net.npz")
        preparation = net.origin.preparation
        assert {column.name for column in preparation.columns} <= set(names[:-1])
        assert names[0] in [column.name for column in preparation.columns]
        expected = answers(net, of_pipeline(preparation, pandas.DataFrame(columns)))

        def predicted(table, how):
            write("new.csv", table, how)
            status, out, err = call("predict", "net.npz", "new.csv", *options(how))
            assert status == 0, err
            return [row for (row,) in csv.reader(io.StringIO(out))], err

        assert predicted(columns, how)[0] == expected
        # In another order, of another kind, without the target, with a column that training did not have.
        other = how | {"delimiter": ";", "encoding": "utf-16", "explicit": True}
        table = {names[i]: columns[names[i]] for i in order}
        if more:
            table["another column"] = [str(i) for i in range(len(columns[target]))]
        found, err = predicted(table, other)
        assert found == expected
        assert ("left out, as training had no such input: 'another column'" in err) == more


# ---- damaged files

KNOWN = Preparation(
    (Numeric("age", 38.0), Categorical("sex", ("f", "m")), Numeric("pay", 12.5), Categorical("town", (GAP, "Ulm", "Bonn"))),
    (Target("class", ("low", "mid", "high")),),
)


def network():
    net = sf.Network([len(KNOWN.feature_names), 6, 3], seed=0)
    net.layers[0].W[:, [0, 3]] *= 0.03
    net.origin = Origin(KNOWN.classes, KNOWN.feature_names, preparation=KNOWN)
    return net


def rows(rng, n):
    return [
        [str(rng.integers(1, 99)) if rng.random() > 0.1 else "", str(rng.choice(["f", "m", "x", ""])),
         f"{rng.normal():.2f}", str(rng.choice(["Ulm", "Bonn", "Rom", ""])), str(rng.choice(["low", "mid", "high"]))]
        for _ in range(n)
    ]  # fmt: skip


HEADER = ["age", "sex", "pay", "town", "class"]


def damaged(rng, data, others=b"\n\r,;\"'\t\0 \xff\xc3-.eE0123456789abfmx"):
    """A few bytes or stretches changed, lost, doubled, moved."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if not data:
            break
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
        match int(rng.integers(6)):
            case 0:
                data[at] = others[rng.integers(len(others))]
            case 1:
                data[at:at] = bytes(others[i] for i in rng.integers(len(others), size=rng.integers(1, 4)))
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at] = int(rng.integers(256))
            case 5:
                del data[at:]
    return bytes(data)


def check(net, name, expected):
    """An error in a line, or the expected answers; None where there is no right answer."""
    status, out, err = call("predict", "net.npz", name)
    assert status in (0, 1), err
    assert ("svdfast: error: " in err) == (status == 1)
    if status == 1:
        assert out == ""
        assert re.fullmatch(r"(svdfast: .*\n)+", err), err
        return False
    found = out.splitlines()
    assert expected is not None, f"a table was read that is none: {found}"
    assert found == expected
    return True


def told(net, records, header):
    """The answers to records of text, by names."""
    frame = pandas.DataFrame([dict(zip(header, record, strict=True)) for record in records], columns=header)
    return answers(net, KNOWN.features(frame))


def records_of(text):
    """Rows of a text with commas, as RFC 4180 has them; blank lines are none. ValueError where quotes do not fit."""
    cells, records, cell, state = [], [], "", "begin"

    def end_cell():
        nonlocal cell, state
        cells.append(cell.strip())
        cell, state = "", "begin"

    for character in text.replace("\r\n", "\n") + ("" if text.endswith(("\n", "\r")) else "\n"):
        if state == "quoted":
            state = "quote" if character == '"' else state
            cell += character if state == "quoted" else ""
        elif state == "quote" and character == '"':
            cell, state = cell + '"', "quoted"
        elif character == ",":
            end_cell()
        elif character in "\r\n":
            end_cell()
            if cells != [""]:
                records.append(cells)
            cells = []
        elif state == "quote":
            raise ValueError("something after a quote")
        elif state == "begin" and character == '"':
            cell, state = "", "quoted"
        elif state != "begin" or character != " ":
            cell, state = cell + character, "plain"
    if state != "begin":
        raise ValueError("a quote that does not end")
    return records


def of_text(net, data):
    """The answers to a text that has commas; None where it is no table of these columns."""
    try:
        header, *records = records_of(data.decode("utf-8-sig"))
        if not {"age", "sex", "pay", "town"} <= set(header) or any(len(record) != len(header) for record in records):
            return None
        return told(net, records, header)
    except ValueError:
        return None


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = network()
    sf.save(net, "net.npz")
    return net


def test_damaged_text_gives_an_error_or_the_right_answer(here):
    rng = np.random.default_rng(int(os.environ.get("SVDFAST_DAMAGED_SEED", 0)))
    n_read = 0
    for _ in range(N_DAMAGED):
        table = rows(rng, int(rng.integers(1, 7)))
        order = rng.permutation(5)
        lines = [",".join(record[i] for i in order) for record in (HEADER, *table)]
        data = damaged(rng, "\n".join(lines).encode() + b"\n" * int(rng.integers(3)))
        Path("data.csv").write_bytes(data)
        try:
            n_read += check(here, "data.csv", of_text(here, data))
        except BaseException as error:
            raise AssertionError(f"of {data!r}") from error
    assert 0.05 * N_DAMAGED < n_read < 0.95 * N_DAMAGED


def test_damaged_arrays_give_an_error_or_the_right_answer(here):
    rng = np.random.default_rng(int(os.environ.get("SVDFAST_DAMAGED_SEED", 0)))
    n_read = 0
    for _ in range(N_DAMAGED):
        X = rng.normal(size=(rng.integers(1, 7), 7)).astype(rng.choice(["<f4", "<f8", ">f8", "<i2"]))
        buffer, name = io.BytesIO(), str(rng.choice(["data.npz", "data.npy"]))
        if name == "data.npy":
            np.save(buffer, X)
        else:
            np.savez(buffer, X=X, y=np.zeros(len(X), int))
        data = damaged(rng, buffer.getvalue())
        Path(name).write_bytes(data)
        expected = None
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd headers, which NumPy reads
            array = np.load(io.BytesIO(data), allow_pickle=False)
            array = array if name == "data.npy" else array["X" if "X" in array else "x"]
            if array.ndim >= 2 and array.dtype.kind in "biuf" and np.isfinite(array.astype("float32")).all():
                expected = answers(here, array.reshape(len(array), -1))
        try:
            n_read += check(here, name, expected)
        except BaseException as error:
            raise AssertionError(f"of {data!r}") from error
    assert n_read > 0


def test_damaged_parquet_gives_an_error_or_the_right_answer(here):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    rng = np.random.default_rng(int(os.environ.get("SVDFAST_DAMAGED_SEED", 0)))
    n_read = 0
    for _ in range(N_DAMAGED):
        frame = pandas.DataFrame(rows(rng, int(rng.integers(1, 7))), columns=HEADER)
        frame["age"], frame["pay"] = pandas.to_numeric(frame["age"]), frame["pay"].astype(float)
        data = damaged(rng, frame.iloc[:, rng.permutation(5)].to_parquet(index=False))
        Path("data.parquet").write_bytes(data)
        expected = None
        with contextlib.suppress(Exception):
            expected = answers(here, KNOWN.features(pandas.read_parquet(io.BytesIO(data), dtype_backend="numpy_nullable")))
        try:
            n_read += check(here, "data.parquet", expected)
        except BaseException as error:
            raise AssertionError(f"of {data!r}") from error
    assert n_read > 0
