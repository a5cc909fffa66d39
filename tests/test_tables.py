# SPDX-License-Identifier: BSD-3-Clause
"""Tables as they come: `svdfast train` on files with text, gaps and other delimiters, and that a preparation is scikit-learn's.

How a network predicts from a table is tested in test_cli_model.py.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

pandas = pytest.importorskip("pandas")
pytest.importorskip("sklearn")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.datasets import load_iris, load_wine  # noqa: E402
from sklearn.impute import SimpleImputer  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: E402

import svdfast as sf  # noqa: E402
from svdfast._process import checks  # noqa: E402
from svdfast.cli import columns, tables  # noqa: E402
from svdfast.cli.data import split_rows  # noqa: E402
from svdfast.cli.errors import Failure  # noqa: E402
from svdfast.cli.main import main  # noqa: E402
from svdfast.data.preparation import GAP, GAPS, Categorical, Numeric, Preparation, Target  # noqa: E402

SUITE = Path(os.environ.get("SVDFAST_DATA", "")) / "suite"
QUICK = ["--epochs", "2", "--threads", "1"]
needs_suite = pytest.mark.skipif(not SUITE.is_dir(), reason="SVDFAST_DATA does not name a folder with the suite")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *argv):
    status = main(["train", *map(str, argv)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def train(capsys, *argv):
    """Output and warnings of a training that succeeds, whatever a few steps taught."""
    status, out, err = run(capsys, *argv)
    lines = [line for line in err.splitlines() if "than a constant answer: " not in line]
    assert status == 0 or len(lines) < len(err.splitlines()), err
    assert all(line.startswith("svdfast: warning: ") for line in lines), err
    return out, [line.removeprefix("svdfast: warning: ") for line in lines]


def fails(capsys, *argv, status=1):
    got, _, err = run(capsys, *argv)
    assert got == status, err
    return err.removeprefix("svdfast: error: ").rstrip("\n")


def kinds(out):
    """What the printed table says of each column."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split() == ["column", "kind", "values"])
    place = lines[start].index("kind"), lines[start].index("values")
    found = {}
    for line in lines[start + 1 :]:
        if not line:
            return found
        found[line[: place[0]].strip()] = (line[place[0] : place[1]].strip(), line[place[1] :])


def people(n=120, seed=0):
    """A table of both kinds with gaps: the target follows from two of the columns."""
    rng = np.random.default_rng(seed)
    age, job = rng.integers(18, 80, n).astype(float), rng.choice(["nurse", "smith", "baker"], n)
    income = np.where((age > 45) ^ (job == "smith"), "high", "low")
    frame = pandas.DataFrame({"age": age, "job": job, "height": rng.normal(170, 9, n).round(1), "income": income}).astype(object)
    frame.loc[frame.index[5:9], "age"] = None
    frame.loc[frame.index[8:20], "job"] = None
    return frame


# Reading


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_delimiters_and_encodings(delimiter, encoding):
    content = delimiter.join(["größe", "b"]) + "\r\n" + "".join(f'{i}.5{delimiter}"x{delimiter} é"\r\n' for i in range(9))
    Path("t.txt").write_bytes(content.encode(encoding))
    reading = tables.Reading(encoding="cp1252" if encoding == "cp1252" else None)
    table = tables.read_table("t.txt", reading)
    assert list(table.frame.columns) == ["größe", "b"]
    assert list(table.frame["größe"]) == [f"{i}.5" for i in range(9)]
    assert set(table.frame["b"]) == {f"x{delimiter} é"}
    assert list(table.frame.index) == list(range(2, 11)) and table.frame.index.name == "line"
    assert ("columns separated by" in " ".join(table.notes)) == (delimiter != ",")


def test_spaces_may_be_between_columns():
    Path("t.data").write_text("  1.0   2 a \n 3.0  4   b\n")
    assert tables.read_table("t.data").frame.to_numpy().tolist() == [["1.0", "2", "a"], ["3.0", "4", "b"]]


def test_decimal_commas_do_not_hide_the_delimiter():
    Path("t.csv").write_text("a;b\n1,5;2,5\n3,5;4,5\n")
    assert list(tables.read_table("t.csv").frame["a"]) == ["1,5", "3,5"]


def test_decimal_commas_are_no_delimiters():
    Path("t.csv").write_text("1,5;2,5;x\n3,5;4,5;y\n")
    assert tables.read_table("t.csv").frame.to_numpy().tolist() == [["1,5", "2,5", "x"], ["3,5", "4,5", "y"]]
    Path("t.csv").write_text("3,x;y,4\n5,z;y,6\n")
    assert tables.read_table("t.csv").frame.to_numpy().tolist() == [["3", "x;y", "4"], ["5", "z;y", "6"]]


@pytest.mark.parametrize("first", ["?,4,setosa", "?,?,rare", "five,four,setosa", "NA,x,rare"])
def test_a_first_row_that_is_no_header(first):
    Path("t.csv").write_text(first + "\n" + "".join(f"{i},{i}.5,{['setosa', 'virginica'][i % 2]}\n" for i in range(20)))
    table = tables.read_table("t.csv")
    assert len(table.frame) == 21
    assert table.notes == ["the first line has no names of columns: they are numbered (--header takes it for names)"]


@pytest.mark.parametrize(
    "first, header",
    [("0,1,2,label", True), ("1,2,3,label", True), ("0,1,2,a", False), ("2,3,4,label", False), ("0,1,2,3", False)],
)
def test_names_that_count(first, header):
    Path("t.csv").write_text(first + "\n" + "".join(f"{i},{i % 7},{i % 3},{'ab'[i % 2]}\n" for i in range(60)))
    assert len(tables.read_table("t.csv").frame) == 61 - header


def test_names_that_are_asked_for_tell_a_header(capsys):
    Path("t.csv").write_text("a,b\n" + "".join(f"{i},{'abc'[i % 3]}\n" for i in range(20)))
    assert fails(capsys, "t.csv", *QUICK).startswith("t.csv: line 1, column 'column 1': expected a number, got 'a' (--header takes ")
    assert "target: b (--target)" in train(capsys, "t.csv", *QUICK, "--target", "b")[0]


def test_decimal_commas_are_read():
    Path("t.csv").write_text("a;b;c\n-1,5;,5e3;1,2,3\n2,;7;x,1\n")
    frame = tables.read_table("t.csv", tables.Reading(decimal=",")).frame
    assert frame.to_numpy().tolist() == [["-1.5", ".5e3", "1,2,3"], ["2.", "7", "x,1"]]
    Path("t.csv").write_text("a;b\n1,5;x\n1.500;y\n")
    with pytest.raises(Failure, match=r"^t.csv: line 3: expected numbers with decimal commas \(--decimal\), got '1.500'$"):
        tables.read_table("t.csv", tables.Reading(decimal=","))


@pytest.mark.parametrize("pack", ["gzip", "bz2", "lzma"])
def test_packed_files(pack):
    module = __import__(pack)
    suffix = {"gzip": "gz", "bz2": "bz2", "lzma": "xz"}[pack]
    Path(f"t.csv.{suffix}").write_bytes(module.compress(b"a,b\n1,2\n3,4\n"))
    assert tables.is_table(f"none.csv.{suffix}")
    assert tables.read_table(f"t.csv.{suffix}").frame.to_numpy().tolist() == [["1", "2"], ["3", "4"]]


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, lzma.compress])
def test_a_packed_file_is_unpacked_no_further_than_there_is_memory(pack, monkeypatch):
    """100 MB of one row would be 100 KB, or less; a file may claim any number of them."""
    packed = pack(bytes(2**22)) * 25
    Path("t.csv").write_bytes(packed)
    monkeypatch.setattr(checks, "memory", lambda: 150_000_000)
    message = r"^t.csv: there is not enough memory for it: over (50|67),\d+,\d+ bytes when it is unpacked$"
    tracemalloc.start()
    try:
        with pytest.raises(Failure, match=message):
            tables.read_table("t.csv")
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input(pack, capsys, monkeypatch):
    content = pack(people().to_csv(index=False).encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    out, _ = train(capsys, "-", *QUICK)
    assert out.startswith("standard input: 96 training and 24 test samples, 6 features, 2 classes\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a,b\n1,2\n3\n")))
    assert fails(capsys, "-").startswith("standard input: line 3: expected 2 columns")
    assert fails(capsys, "-", "--test", "-", status=2) == "--test: standard input can be one of the two"


def test_a_pipe_of_a_shell():
    command = [sys.executable, "-P", "-m", "svdfast", "train", "-", *QUICK]
    environment = os.environ | {"PYTHONPATH": str(Path(sf.__file__).parents[1])}
    content = people().to_csv(index=False)
    done = subprocess.run(command, input=content, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("standard input: 96 training and 24 test samples")


@pytest.mark.parametrize("kind", ["parquet", "feather", "xlsx"])
def test_files_of_other_kinds_are_as_the_text(kind, capsys):
    pytest.importorskip("openpyxl" if kind == "xlsx" else "pyarrow")
    frame = people()
    frame["id"] = np.arange(len(frame)) * 2**40
    frame = frame[["id", "age", "job", "height", "income"]]
    frame.to_csv("t.csv", index=False)
    typed = frame.convert_dtypes()
    typed.to_excel("t.xlsx", index=False) if kind == "xlsx" else getattr(typed, f"to_{kind}")(f"t.{kind}")
    preparations = []
    for name in ("t.csv", f"t.{kind}"):
        train(capsys, name, *QUICK, "--save", "net.npz")
        preparations.append(sf.load("net.npz"))
    same = [net.origin.preparation for net in preparations]
    assert same[0] == same[1] and same[0] is not None
    np.testing.assert_array_equal(*(net.parameters for net in preparations))
    table = tables.read_table(f"t.{kind}")
    assert same[0].features(table.frame).tolist() == same[0].features(tables.read_table("t.csv").frame).tolist()


def test_a_named_index_of_parquet_is_a_column():
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"b": [1, 2]}, index=pandas.Index([2**62, 2**62 + 1], name="a")).to_parquet("t.parquet")
    frame = tables.read_table("t.parquet").frame
    assert list(frame.columns) == ["a", "b"] and list(frame["a"]) == [2**62, 2**62 + 1]


@pytest.mark.parametrize(
    "text, header",
    [
        ("a,b\n1,2\n", True),
        ("1,2\n3,4\n", False),
        ("5.1,setosa\n4.9,setosa\n", False),
        ("a,b\n1,x\n2,y\n", True),
        ("p,x\ne,x\np,y\n", False),  # words that come again are no names
        ("kind,shape\ne,x\np,y\n", True),
        ("a,\n1,2\n", True),
        ("?,NA\n1,2\n", False),
        ("0,1,2\n3,4,5\n", False),
        ("a\n", True),
    ],
)
def test_a_header_is_found(text, header):
    Path("t.csv").write_text(text)
    if text == "a\n":
        with pytest.raises(Failure, match=r"^t.csv: expected rows, got none$"):
            tables.read_table("t.csv")
        return
    table = tables.read_table("t.csv")
    assert len(table.frame) == text.count("\n") - header
    assert ("first line taken for the names of the columns" in table.notes) == header
    for said in (True, False):
        table = tables.read_table("t.csv", tables.Reading(header=said))
        assert len(table.frame) == text.count("\n") - said
        assert table.notes == []
    assert list(tables.read_table("t.csv", tables.Reading(header=False)).frame.columns)[:1] == ["column 1"]


def test_known_names_tell_a_header():
    Path("t.csv").write_text("a,b\nx,a\n")
    assert len(tables.read_table("t.csv", known=["a", "b"]).frame) == 1
    Path("t.csv").write_text("2019,2020\n1,2\n")
    assert len(tables.read_table("t.csv").frame) == 2
    assert len(tables.read_table("t.csv", known=["2019", "2020"]).frame) == 1


cells = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5)


@given(
    st.lists(st.lists(cells, min_size=2, max_size=4), min_size=1, max_size=8),
    st.sampled_from(",;\t|"),
)
@settings(max_examples=300, deadline=None)
def test_no_row_is_dropped_padded_or_shifted(rows, delimiter):
    """Whatever text is in the cells: each row comes as it was written, or the line of a wrong one is named."""
    import csv

    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows(rows)
    reading = tables.Reading(delimiter=delimiter, header=False)
    with open("t.csv", "w", encoding="utf-8", newline="") as out:
        out.write(file.getvalue())
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        with pytest.raises(Failure, match=r"^t.csv: line \d+: expected \d columns"):
            tables.read_table("t.csv", reading)
        return
    got = tables.read_table("t.csv", reading).frame.to_numpy().tolist()
    expected = [[cell.strip() for cell in row] for row in rows]
    first = [cell.removeprefix("\ufeff") for cell in expected[0]] if rows[0][0].startswith("\ufeff") else expected[0]
    assert got in (expected, [first, *expected[1:]])


def test_blank_lines_are_no_rows():
    Path("t.csv").write_text("\n  \na,b\n\n1,2\n\n3,4\n \n\n")
    table = tables.read_table("t.csv")
    assert table.frame.to_numpy().tolist() == [["1", "2"], ["3", "4"]] and list(table.frame.index) == [5, 7]
    Path("t.csv").write_text("a\n1\n\n3\n\n")
    table = tables.read_table("t.csv")  # of one column a blank line is a gap, unless it comes at the end
    assert table.frame.to_numpy().tolist() == [["1"], [""], ["3"]] and list(table.frame.index) == [2, 3, 4]


def test_decimal_commas_are_told(capsys):
    Path("t.csv").write_text("a;b;y\n" + "".join(f"{i},5;{i};{i % 2}\n" for i in range(20)))
    _, warnings = train(capsys, "t.csv", *QUICK)
    about = "20 different texts, numbers with decimal commas (--decimal , reads them)"
    assert warnings == [f"column 'a' looks like an identifier ({about}): left out; --categorical takes it"]


def test_lines_of_cells_with_line_breaks():
    Path("t.csv").write_text('a,b\n"1\n\n2",x\n\n3,y\n4\n')
    with pytest.raises(Failure, match=r"^t.csv: line 7: expected 2 columns, as in line 1 \(a, b\), got 1$"):
        tables.read_table("t.csv")
    Path("t.csv").write_text('a,b\n"1\n\n2",x\n\n3,y\n')
    assert list(tables.read_table("t.csv").frame.index) == [2, 6]


def test_mutated_files_are_read_or_refused():
    """Of a file with a few bytes changed: an error with the file's name, or as many rows as there are lines with something in them."""
    rng = np.random.default_rng(0)
    content = people(12).to_csv(index=False).encode()
    for _ in range(500):
        changed = bytearray(content)
        for place in rng.integers(0, len(changed), rng.integers(1, 4)):
            changed[place] = rng.choice(list(b',;\n"\t\r x7\x00\xe9?'))
        Path("t.csv").write_bytes(bytes(changed))
        try:
            frame = tables.read_table("t.csv", tables.Reading(delimiter=",")).frame
        except Failure as error:
            assert str(error).startswith("t.csv: ") and len(str(error)) < 400
            continue
        lines = io.StringIO(changed.decode(), newline=None).read().split("\n")
        if b'"' not in changed:
            assert len(frame) + frame.index[0] - 1 >= sum(map(bool, (line.strip() for line in lines))) - 1
            for row, line in zip(frame.itertuples(), frame.index, strict=True):
                assert [cell.strip() for cell in lines[line - 1].split(",")][-frame.shape[1] :] == list(row[1:])


@pytest.mark.parametrize("kind", ["parquet", "feather", "xlsx"])
def test_damaged_files_of_other_kinds(kind):
    pytest.importorskip("openpyxl" if kind == "xlsx" else "pyarrow")
    frame = people(40)
    frame.to_excel("t.xlsx", index=False) if kind == "xlsx" else getattr(frame, f"to_{kind}")(f"t.{kind}")
    content = Path(f"t.{kind}").read_bytes()
    rng = np.random.default_rng(0)
    for i in range(60):
        changed = bytearray(content[: rng.integers(len(content))] if i % 2 else content)
        for place in rng.integers(0, max(1, len(changed)), 8 if changed else 0):
            changed[place] ^= int(rng.integers(1, 256))
        Path(f"t.{kind}").write_bytes(bytes(changed))
        try:
            assert len(tables.read_table(f"t.{kind}").frame) == 40
        except Failure as error:
            assert str(error).startswith(f"t.{kind}: ")


def test_a_reader_that_is_missing(capsys, monkeypatch):
    people().to_csv("t.csv", index=False)
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert fails(capsys, "t.csv") == 't.csv: tables need pandas: pip install "svdfast[demo]"'


# Columns


def test_decimal_commas_give_the_network_of_points(capsys):
    frame = people()
    frame.to_csv("point.csv", index=False)
    frame.to_csv("comma.csv", index=False, sep=";", decimal=",")
    train(capsys, "point.csv", *QUICK, "--save", "point.npz")
    text = frame.to_csv(index=False, sep=";").replace(".", ",")
    Path("comma.csv").write_text(text)
    train(capsys, "comma.csv", *QUICK, "--decimal", ",", "--save", "comma.npz")
    point, comma = sf.load("point.npz"), sf.load("comma.npz")
    assert point.origin.preparation == comma.origin.preparation
    assert np.array_equal(point.parameters, comma.parameters)
    assert main(["predict", "point.npz", "comma.csv", "--decimal", ",", "--output", "a.csv"]) == 0
    assert main(["predict", "point.npz", "point.csv", "--output", "b.csv"]) == 0
    assert Path("a.csv").read_text() == Path("b.csv").read_text()


@pytest.mark.parametrize("header", ["a,b,y,\n", ""])
def test_delimiters_at_the_ends_of_lines(header, capsys):
    Path("t.csv").write_text(header + "".join(f"{i % 7},{i * i % 5},{'pq'[i % 2]},\n" for i in range(40)))
    out, _ = train(capsys, "t.csv", *QUICK)
    assert f"target: {'y' if header else 'column 3'} (last column that has a name or values)" in out
    assert kinds(out)["column 4"] == ("empty (left out)", "no values, 40 missing")


def test_the_last_column_that_is_not_dropped_is_the_target(capsys):
    people()[["age", "job", "income", "height"]].to_csv("t.csv", index=False)
    out, _ = train(capsys, "t.csv", *QUICK, "--drop", "height")
    assert "target: income (last column that is not dropped)" in out


def test_integers_beyond_floats_are_no_targets_of_a_regression(capsys):
    Path("t.csv").write_text("a,id\n" + "".join(f"{i},{2**63 + 5 + i % 3}\n" for i in range(40)))
    expected = "expected numbers that float64 tells apart, got 9223372036854775813 and 9223372036854775815"
    assert fails(capsys, "t.csv", *QUICK) == f"t.csv: column 'id': {expected}"


def test_targets_that_are_all_different(capsys):
    Path("t.csv").write_text("a,day\n" + "".join(f"{i % 9},2020-01-{i + 1}\n" for i in range(30)))
    expected = "expected classes or numbers, got 30 different texts in 30 rows; --target names another column"
    assert fails(capsys, "t.csv", *QUICK) == f"t.csv: column 'day': {expected}"


def test_why_there_is_no_input(capsys):
    Path("t.csv").write_text("a,b,y\n" + "".join(f"1.5,,{i % 2}\n" for i in range(30)))
    assert fails(capsys, "t.csv", *QUICK) == "t.csv: expected a column that is an input, got none: 'a' is constant, 'b' is empty"


def test_a_number_that_is_too_large_is_named(capsys):
    for row in range(30):  # whether it trains or tests
        Path("t.csv").write_text("a,y\n" + "".join(f"{'1e308' if i == row else i},{i % 2}\n" for i in range(30)))
        expected = f"t.csv: line {row + 2}, column 'a': expected a number of at most 3.4e+38 in size for float32, got 1e+308"
        assert fails(capsys, "t.csv", *QUICK) == expected
    Path("t.csv").write_text("a,y\n8e307,0\n" + "9e307,1\n9e307,0\n" * 9)  # of which the median would be infinite
    expected = "t.csv: line 2, column 'a': expected a number of at most 1e+150 in size for float64, got 8e+307"
    assert fails(capsys, "t.csv", *QUICK, "--dtype", "float64") == expected
    Path("u.csv").write_text("a,y\n1,0\n-1e39,1\n")
    Path("t.csv").write_text("a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(30)))
    expected = "u.csv: line 3, column 'a': expected a number of at most 3.4e+38 in size for float32, got -1e+39"
    assert fails(capsys, "t.csv", *QUICK, "--test", "u.csv") == expected


@pytest.mark.parametrize("ids", [[*range(60)], [(7 * i) % 60 for i in range(60)], [2**53 + 7919 * i for i in range(60)]])
def test_integers_that_may_be_identifiers(ids, capsys):
    pandas.DataFrame({"id": ids, "a": [i % 7 for i in range(60)], "y": [i % 2 for i in range(60)]}).to_csv("t.csv", index=False)
    _, warnings = train(capsys, "t.csv", *QUICK)
    assert warnings == ["column 'id' has a different integer in each row, as identifiers do; --drop leaves it out"]


def test_text_with_line_breaks_is_shown_in_one_line(capsys):
    rows = "".join(f'"a\nb{i % 2}",{i},"p\x1b[{i % 2}\nq"\n' for i in range(40))
    Path("t.csv").write_text('"x\n1",n,y\n' + rows, newline="")
    out, _ = train(capsys, "t.csv", *QUICK)
    assert kinds(out)["x 1"] == ("categorical", "2: a b0, a b1")
    assert kinds(out)["y"] == ("target", r"2 classes: p\x1b[0 q, p\x1b[1 q")
    assert "\x1b" not in out


@pytest.mark.parametrize("value, name", [([1, 2], "a list"), ({"k": 1}, "fields"), (b"x", "bytes")])
def test_columns_of_lists_are_refused(value, name, capsys):
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"l": [value] * 20, "a": range(20), "y": [0, 1] * 10})
    frame.to_parquet("t.parquet")
    message = "t.parquet: row 1, column 'l': expected a number or text, got {} (--drop leaves the column out)"
    assert fails(capsys, "t.parquet", *QUICK) == message.format(name)
    train(capsys, "t.parquet", *QUICK, "--drop", "l")


def test_what_columns_are(capsys):
    frame = people()
    frame.insert(0, "ticket", [f"T{i}" for i in range(len(frame))])
    frame.insert(1, "number", np.arange(len(frame)))
    frame.insert(2, "tenth", 0.1)
    frame.insert(3, "country", "Chad")
    frame.insert(4, "nothing", None)
    frame.insert(5, "code", np.arange(len(frame)) % 3)
    frame.to_csv("t.csv", index=False)
    out, warnings = train(capsys, "t.csv", *QUICK, "--categorical", "code", "--drop", "height")
    found = kinds(out)
    assert {name: kind for name, (kind, _) in found.items()} == {
        "income": "target", "ticket": "identifier (left out)", "number": "numeric", "tenth": "constant (left out)",
        "country": "constant (left out)", "nothing": "empty (left out)", "code": "categorical", "age": "numeric", "job": "categorical",
        "height": "dropped (left out)",
    }  # fmt: skip
    assert found["income"][1] == "2 classes: high, low"
    assert found["job"][1].startswith("3: ") and found["job"][1].endswith(", 12 missing")
    assert found["code"][1] == "3: 0, 1, 2"
    assert warnings == [
        "column 'ticket' looks like an identifier (120 different texts, such as 'T0'): left out; --categorical takes it",
        "column 'number' has a different integer in each row, as identifiers do; --drop leaves it out",
    ]
    assert "target: income (last column)\n" in out
    assert "missing values: age 4, job 12; numbers become the median of the training rows, text a category of its own" in out
    assert out.isascii()


def test_many_columns_are_shown_together(capsys):
    X = np.random.default_rng(0).normal(size=(40, 60))
    frame = pandas.DataFrame(X, columns=[f"x{i}" for i in range(60)])
    frame["x7"] = 1
    frame["y"] = X[:, 0]
    frame.to_csv("t.csv", index=False)
    assert list(kinds(train(capsys, "t.csv", *QUICK)[0])) == ["y", "x7", "59 columns"]


@pytest.mark.parametrize("start", [0, 1])
def test_an_index_is_left_out(start, capsys):
    frame = people()
    frame.index = np.arange(len(frame)) + start
    frame.to_csv("t.csv")
    out, warnings = train(capsys, "t.csv", *QUICK)
    assert warnings == ["the first column has no name and numbers the rows: taken for an index and left out"]
    assert "age" in kinds(out) and "column 1" not in kinds(out)


def test_the_target_by_name(capsys):
    frame = people()
    frame["job"] = frame["job"].fillna("none at all")
    frame.to_csv("t.csv", index=False)
    out, _ = train(capsys, "t.csv", *QUICK, "--target", "job", "--drop", "age")
    assert "  target: job (--target)\n" in out
    assert "96 training and 24 test samples, 3 features, 4 classes" in out


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--target", "incom"], "t.csv: --target: no column 'incom' (did you mean income?); there: 'age', 'job', 'height', 'income'"),
        (["--drop", "x"], "t.csv: --drop: no column 'x'; there: 'age', 'job', 'height', 'income'"),
        (["--categorical", "x"], "t.csv: --categorical: no column 'x'; there: 'age', 'job', 'height', 'income'"),
        (["--target", "income", "--drop", "income"], "t.csv: column 'income': named by two of --target, --categorical and --drop"),
        (["--drop", "age", "job", "height", "income"], "t.csv: --drop: expected some columns to be left, got all of them"),
        (["--drop", "age", "--categorical", "age"], "t.csv: column 'age': named by two of --target, --categorical and --drop"),
        (["--target", "job"], "t.csv: line 10, column 'job': expected a target, got none, and in 11 more rows"),
        (["--target", "income", "height"], "t.csv: line 2, column 'income': expected a number, got 'low'"),
        (["--task", "regression"], "t.csv: line 2, column 'income': expected a number, got 'low'"),
        (["--encoding", "utf-99"], "t.csv: --encoding: Python knows no 'utf-99'"),
        (["--test", "none.csv"], f"none.csv: {os.strerror(2)}"),
    ],
)
def test_what_is_not_there(argv, message, capsys):
    people().to_csv("t.csv", index=False)
    assert fails(capsys, "t.csv", *argv) == message


def test_options_that_do_not_go_with_the_data(capsys):
    np.savez("t.npz", X=np.eye(4), y=[0, 1, 0, 1])
    for name, option in (("xor", "--test"), ("xor", "--target"), ("t.npz", "--drop"), ("t.npz", "--categorical")):
        assert fails(capsys, name, option, "a", status=2).startswith(f"{option}: goes with a ")


def test_columns_of_any_name(capsys):
    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(40, 4)), columns=["self", "0", "a b=c", "index"])
    frame.to_csv("t.csv", index=False)
    hint = "(--header takes the first line for the names of the columns)"
    assert fails(capsys, "t.csv", *QUICK) == f"t.csv: line 1, column 'column 4': expected a number, got 'index' {hint}"
    train(capsys, "t.csv", *QUICK, "--header", "--save", "net.npz")
    assert sf.load("net.npz").feature_names == ("self", "0", "a b=c")


def test_several_targets(capsys):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    frame["sum"], frame["difference"] = 1000 + X.sum(axis=1), X[:, 0] - X[:, 1]
    frame["warm"], frame["wet"] = np.where(X[:, 0] > 0, "yes", "no"), (X[:, 1] > 0).astype(int)
    frame.to_csv("t.csv", index=False)
    out, _ = train(capsys, "t.csv", "--target", "sum", "difference", "--drop", "warm", "wet", "--threads", "1", "--save", "net.npz")
    assert "3 features, regression of 2 targets" in out
    net = sf.load("net.npz")
    assert net.score(X, frame[["sum", "difference"]].to_numpy()) > 0.9
    assert [target.name for target in net.origin.preparation.targets] == ["sum", "difference"]
    out, _ = train(capsys, "t.csv", "--target", "warm", "wet", "--drop", "sum", "difference", "--threads", "1", "--save", "net.npz")
    assert "3 features, 2 targets of two classes" in out
    net = sf.load("net.npz")
    assert net.origin.preparation.targets == (Target("warm", ("no", "yes")), Target("wet", (0, 1)))
    assert net.classes is None
    assert net.score(X, net.origin.preparation.answers(frame)) > 0.8
    out, _ = train(capsys, "t.csv", *QUICK, "--target", "sum", "wet")
    assert "regression of 2 targets" in out


def test_integers_keep_their_64_bits(capsys):
    labels = [2**63 - 1, 2**63 - 2, -(2**63)]
    frame = pandas.DataFrame({"x": np.arange(60) % 3 + np.linspace(0, 0.1, 60), "y": [labels[i % 3] for i in range(60)]})
    frame.to_csv("t.csv", index=False)
    train(capsys, "t.csv", *QUICK, "--save", "net.npz")
    assert sf.load("net.npz").classes == tuple(sorted(labels))


def test_codes_keep_their_zeros(capsys):
    frame = pandas.DataFrame({"code": ["007", "7", "07"] * 20, "y": [0, 1, 2] * 20})
    frame.to_csv("t.csv", index=False)
    train(capsys, "t.csv", *QUICK, "--categorical", "code", "--save", "net.npz")
    assert sf.load("net.npz").feature_names == ("code=007", "code=07", "code=7")


def test_numbers_with_words_that_come_often_are_text(capsys):
    """As the doors of UCI's cars: 2, 3, 4, 5more."""
    frame = pandas.DataFrame({"doors": ["2", "3", "4", "5more"] * 15, "y": [0, 1, 1, 0] * 15})
    frame.to_csv("t.csv", index=False)
    assert kinds(train(capsys, "t.csv", *QUICK)[0])["doors"] == ("categorical", "4: 2, 3, 4, 5more")
    frame.loc[7, "doors"] = "many"
    frame.loc[frame["doors"] == "5more", "doors"] = "5"
    frame.to_csv("t.csv", index=False)
    message = "t.csv: line 9, column 'doors': expected a number, got 'many' (--categorical 'doors' takes the column for text)"
    assert fails(capsys, "t.csv", *QUICK) == message


@pytest.mark.parametrize("value", [0.1, 14.62, 1e-300, -7, 2**53])
@pytest.mark.parametrize("name", ["t.csv", "t.npz"])
def test_a_constant_column_changes_nothing(name, value, capsys):
    X = np.random.default_rng(0).normal(size=(150, 3))
    X[:, 1] = value
    y = X[:, 0] - X[:, 2]
    if name == "t.csv":
        pandas.DataFrame(np.column_stack([X, y]), columns=["a", "b", "c", "y"]).to_csv(name, index=False)
    else:
        np.savez(name, X=X, y=y)
    train(capsys, name, "--threads", "1", "--save", "net.npz")
    net = sf.load("net.npz")
    assert abs(net.parameters).max() < 100
    inputs = X[:, [0, 2]] if name == "t.csv" else X
    assert net.score(inputs, y) > 0.9
    if name == "t.npz":
        before = net.predict(X)
        X[:, 1] = value + 1e6
        np.testing.assert_array_equal(net.predict(X), before)


# Training


@pytest.mark.parametrize("load", [load_iris, load_wine])
def test_flowers_and_wines_by_name(load, capsys):
    data = load(as_frame=True)
    frame = data.data.copy()
    frame["kind"] = data.target_names[data.target]
    frame.to_csv("t.csv", index=False)
    out, warnings = train(capsys, "t.csv", "--threads", "1", "--save", "net.npz")
    assert warnings == []
    assert float(out.split("test accuracy")[1].split()[0]) >= 93
    net = sf.load("net.npz")
    assert net.classes == tuple(sorted(data.target_names)) and net.feature_names == tuple(data.data.columns)
    assert net.score(data.data.to_numpy(), data.target) >= 0.95
    assert "no layer was factored" not in out.lower() and "SVD, factored" not in out
    assert "3 classes" in out


@needs_suite
def test_adult_as_it_is_published(capsys):
    """With text, "?" for gaps, and its own test set."""
    argv = [SUITE / "adult-train.csv.gz", "--test", SUITE / "adult-test.csv.gz", "--epochs", "1", "--hidden", "32", "--threads", "1"]
    out, warnings = train(capsys, *argv, "--save", "net.npz")
    assert warnings == []
    assert out.startswith("adult-train.csv.gz: 32,561 training and 16,281 test samples, 108 features, 2 classes\n")
    assert "missing values: workclass 1,836, occupation 1,843, native-country 583;" in out
    assert "classes: <=50K 75.9 %, >50K 24.1 %" in out
    assert float(out.split("test accuracy")[1].split()[0]) > 83
    net = sf.load("net.npz")
    assert net.classes == ("<=50K", ">50K")
    assert net.origin.preparation.columns[1].categories[0] == GAP
    frame = tables.read_table(str(SUITE / "adult-test.csv.gz")).frame
    preparation = net.origin.preparation
    score = net.score(preparation.features(frame), preparation.answers(frame))
    assert 100 * score == pytest.approx(float(out.split("test accuracy")[1].split()[0]), abs=0.01)


@needs_suite
@pytest.mark.parametrize("name, target, kind", [("california", "median_house_value", "regression"), ("bike", "cnt", "regression")])
def test_values_of_the_suite(name, target, kind, capsys):
    out, _ = train(capsys, SUITE / f"{name}.csv.gz", "--epochs", "1", "--hidden", "32", "--threads", "1")
    assert f"target: {target} (last column)" in out and kind in out


def test_a_network_worse_than_a_constant_answer(capsys):
    rng = np.random.default_rng(0)
    np.savez("t.npz", X=rng.normal(size=(200, 5)), y=rng.normal(size=200))
    status, out, err = run(capsys, "t.npz", "--epochs", "60", "--threads", "1", "--save", "net.npz")
    assert status == 1
    assert err.startswith("svdfast: error: the network is worse on the test samples than a constant answer: R² -")
    assert Path("net.npz").exists() and "constant answer" in out
    X = rng.normal(size=(200, 5))
    right = (X[:, 0] > 0.5).astype(int)
    np.savez("t.npz", X=X, y=right, X_test=X, y_test=1 - right)
    status, _, err = run(capsys, "t.npz", "--epochs", "60", "--threads", "1")
    assert status == 1 and "than a constant answer: accuracy " in err


def test_large_inputs_that_stay_as_they_are(capsys):
    X = np.random.default_rng(0).normal(size=(60, 2))
    np.savez("t.npz", X=X * 1e6, y=X[:, 0])
    warning = "inputs as large as 2.3e+06 are hard to learn from; without --no-standardise they are standardised"
    assert train(capsys, "t.npz", *QUICK, "--no-standardise")[1] == [warning]
    assert train(capsys, "t.npz", *QUICK)[1] == []


def test_epochs_follow_from_steps(capsys):
    for n, said in ((50, "500 epochs, batches of 32"), (5000, "58 epochs, batches of 200"), (60_000, "20 epochs, batches of 256")):
        X = np.random.default_rng(0).normal(size=(n, 1)).astype("float32")
        np.savez("t.npz", X=X, y=X[:, 0], X_test=X[:2], y_test=X[:2, 0])
        argv = ["t.npz", "--hidden", "1", "--threads", "1"]
        said = said.replace("58 epochs, batches of 200", "50 epochs, batches of 250")
        assert said in run(capsys, *argv)[1]


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.floats(0.05, 0.95), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_the_split_keeps_the_shares(strata, share, seed):
    strata = np.array(strata)
    if len(set(strata.tolist())) == len(strata):
        with pytest.raises(Failure, match="expected more rows than classes"):
            split_rows(strata, share, seed)
        return
    kept, held_out = split_rows(strata, share, seed)
    assert sorted([*kept, *held_out]) == list(range(len(strata)))
    assert set(strata[kept]) == set(strata.tolist()) and len(held_out) >= 1
    counts = np.bincount(strata)
    actual = len(held_out) / (len(strata) - np.count_nonzero(counts))
    for number, count in enumerate(counts):
        assert abs(np.count_nonzero(strata[held_out] == number) - actual * max(0, count - 1)) <= 1


def test_test_size_and_validation(capsys):
    people().to_csv("t.csv", index=False)
    out, _ = train(capsys, "t.csv", *QUICK, "--test-size", "1/3", "--validation", "0.25")
    assert out.startswith("t.csv: 80 training and 40 test samples")
    assert "33.3333 % of the rows held out" in out
    assert "20 of the training samples held out for validation" in out


def test_a_class_that_training_does_not_have(capsys):
    frame = people()
    frame.to_csv("t.csv", index=False)
    frame.loc[3, "income"] = "none at all"
    frame.to_csv("test.csv", index=False)
    message = "test.csv: line 5, column 'income': expected a class that the training rows have, got 'none at all'"
    assert fails(capsys, "t.csv", "--test", "test.csv") == message
    frame.drop(columns="job").to_csv("test.csv", index=False)
    assert fails(capsys, "t.csv", "--test", "test.csv") == "test.csv: expected column 'job', as in training, got 'age', 'height', 'income'"
    frame.drop(columns="income").to_csv("test.csv", index=False)
    assert fails(capsys, "t.csv", "--test", "test.csv") == "test.csv: expected the target income, got no such column, or an empty one"


def test_imbalance_is_told(capsys):
    frame = people(400)
    frame["income"] = ["low"] * 388 + ["high"] * 12
    frame.to_csv("t.csv", index=False)
    out, _ = train(capsys, "t.csv", *QUICK)
    assert "classes: low 96.9 %, high 3.1 % (imbalanced: see the balanced accuracy)\n" in out
    assert out.split("test balanced accuracy")[1].split()[0] == "50.00"


def test_comparing(capsys):
    people().to_csv("t.csv", index=False)
    assert "dense : SVD" not in train(capsys, "t.csv", *QUICK)[0]
    assert "dense : SVD" in train(capsys, "t.csv", *QUICK, "--compare")[0]
    assert "dense : SVD" in train(capsys, "xor", *QUICK)[0]
    assert "dense : SVD" not in train(capsys, "xor", *QUICK, "--no-compare")[0]


@pytest.mark.parametrize("pair", [("X", "y"), ("X_train", "y_train"), ("x_train", "y_train"), ("x", "y")])
@pytest.mark.parametrize("test", [None, ("X_test", "y_test"), ("x_test", "y_test")])
def test_arrays_by_keras_names(pair, test, capsys):
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    arrays = dict(zip(pair, (images, np.arange(30) % 3), strict=True))
    if test is not None:
        arrays |= dict(zip(test, (images[:9], np.arange(9) % 3), strict=True))
    np.savez("t.npz", **arrays)
    out, _ = train(capsys, "t.npz", *QUICK)
    assert f"{24 if test is None else 30} training and {6 if test is None else 9} test samples, 48 features, 3 classes" in out


def test_arrays_with_text_labels(capsys):
    X = np.random.default_rng(0).normal(size=(60, 2))
    np.savez("t.npz", X=X, y=np.where(X[:, 0] > 0, "right", "left"))
    train(capsys, "t.npz", *QUICK, "--save", "net.npz")
    assert sf.load("net.npz").classes == ("left", "right")


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--epoch", "3"], "unrecognized arguments: --epoch 3 (did you mean --epochs?)\nTry 'svdfast train --help'."),
        (["--tests=x.csv"], "unrecognized arguments: --tests=x.csv (did you mean --test?)\nTry 'svdfast train --help'."),
        (["--qqq"], "unrecognized arguments: --qqq\nTry 'svdfast train --help'."),
        (["--delimiter", "ab"], "argument --delimiter: expected a character, or tab, comma, semicolon or space, got 'ab'"),
        (["--test-size", "1"], "argument --test-size: expected a number above 0 and below 1, got '1'"),
    ],
)
def test_wrong_options(argv, message, capsys):
    assert fails(capsys, "xor", *argv, status=2).startswith(message)


# The preparation


def fitted(frame, numeric, categorical):
    """scikit-learn's own pipeline of the same preparation; a column that has gaps alone is kept by both."""
    fill = SimpleImputer(strategy="constant", fill_value=GAP, missing_values=None, keep_empty_features=True)
    parts = [
        ("numeric", SimpleImputer(strategy="median", keep_empty_features=True), numeric),
        ("categorical", make_pipeline(fill, OneHotEncoder(handle_unknown="ignore")), categorical),
    ]
    return ColumnTransformer(parts, sparse_threshold=0).fit(frame)


numbers = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(-1e150, 1e150))
words = st.one_of(st.none(), st.sampled_from(["a", "B", "née", "x y", "1", "01", 'quote"', "semi;colon", "comma,", "line\nbreak"]))
names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=6)


@st.composite
def random_tables(draw):
    """Training and new rows of the same columns: some of numbers, some of words."""
    columns = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    n, n_new = draw(st.integers(2, 12)), draw(st.integers(1, 8))
    kinds = [draw(st.booleans()) for _ in columns]
    values = [draw(st.lists(numbers if kind else words, min_size=n + n_new, max_size=n + n_new)) for kind in kinds]
    frame = pandas.DataFrame({name: pandas.Series(each, dtype=object) for name, each in zip(columns, values, strict=True)})
    numeric = [name for name, kind in zip(columns, kinds, strict=True) if kind]
    return frame[:n], frame[n:], numeric, [name for name in columns if name not in numeric]


@given(random_tables(), st.randoms(use_true_random=False), st.sampled_from(",;\t|"), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
@settings(max_examples=150, deadline=None)
def test_a_preparation_is_scikit_learns(table, random, delimiter, encoding):
    """Also of a file of the table, with its columns in another order and others between them; also after it was stored."""
    frame, new, numeric, categorical = table
    found = [columns.Column(name, "numeric" if name in numeric else "categorical", "") for name in frame.columns]
    answer = "the target of all"
    preparation = columns.learn(frame, found, (Target(answer),))
    preparation = Preparation.parse(json.loads(json.dumps(preparation.header())))
    assert [column.name for column in preparation.columns] == list(frame.columns)

    plain = frame.astype(dict.fromkeys(numeric, float)).astype(object).where(frame.notna(), None)
    pipeline = fitted(plain.astype(dict.fromkeys(numeric, float)), numeric, categorical)
    expected = pipeline.transform(new.astype(dict.fromkeys(numeric, float)).astype(dict.fromkeys(categorical, object)))
    order = [list(preparation.feature_names).index(name) for name in feature_names(pipeline, numeric, categorical)]
    np.testing.assert_array_equal(preparation.features(new)[:, order], expected)

    shuffled = list(new.columns)
    random.shuffle(shuffled)
    other = new[shuffled].copy()
    other.insert(random.randint(0, len(shuffled)), answer, 7)
    other.insert(random.randint(0, len(shuffled)), "one more column", "?")
    np.testing.assert_array_equal(preparation.features(other), preparation.features(new))
    texts = other.apply(lambda column: column.map(lambda value: "?" if value is None or value != value else value))
    texts.to_csv("t.csv", index=False, sep=delimiter, encoding=encoding)
    read = tables.read_table("t.csv", tables.Reading(delimiter=delimiter, header=True)).frame
    np.testing.assert_array_equal(preparation.features(read), preparation.features(new))
    assert preparation.answers(read).tolist() == [7.0] * len(new)


def feature_names(pipeline, numeric, categorical):
    """As a preparation calls them, in scikit-learn's order."""
    learned = pipeline.named_transformers_["categorical"][-1].categories_ if categorical else []
    return [*numeric, *(f"{name}={each}" for name, kinds in zip(categorical, learned, strict=True) for each in kinds)]


def test_a_saved_network_does_as_the_pipeline(capsys):
    """The whole of it: scikit-learn's scaling, too, is in the saved network's first layer."""
    frame = people(200)
    train_rows, new = frame[:160], frame[160:]
    train_rows.to_csv("t.csv", index=False)
    new.to_csv("new.csv", index=False)
    train(capsys, "t.csv", "--test", "new.csv", *QUICK, "--dtype", "float64", "--save", "net.npz")
    net = sf.load("net.npz")
    preparation = net.origin.preparation
    pipeline = ColumnTransformer(
        [
            ("numeric", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), ["age", "height"]),
            ("job", make_pipeline(SimpleImputer(strategy="constant", fill_value=GAP, missing_values=None), OneHotEncoder()), ["job"]),
        ]
    ).fit(train_rows.astype({"age": float, "height": float}))
    X = preparation.features(train_rows)
    scaled = (X - net.origin.mean) / net.origin.deviation
    expected = pipeline.transform(train_rows.astype({"age": float, "height": float}))
    order = [preparation.feature_names.index(name) for name in ("age", "height", "job=(missing)", "job=baker", "job=nurse", "job=smith")]
    np.testing.assert_allclose(scaled[:, order], expected, rtol=0, atol=1e-12)
    assert net.feature_names == preparation.feature_names


def test_features_of_every_type():
    preparation = Preparation((Numeric("a", 7.0), Categorical("b", (GAP, "1", "True"))), (Target("y"),))
    expected = [[1, 0, 1, 0], [7, 1, 0, 0], [3, 0, 0, 0]]
    for a in (
        pandas.Series([1, None, 3]), pandas.Series([1, None, 3], dtype="Int64"), pandas.Series(["1", " NA", "3.0 "]),
        pandas.Series([1, pandas.NA, "3"], dtype=object), pandas.Series(["1", None, "3"], dtype="string"),
        pandas.Series(["1", None, "3"], dtype="category"), pandas.Series([1, None, 3], dtype="float32"),
    ):  # fmt: skip
        for b in (pandas.Series([1, None, 3]), pandas.Series(["1", "?", "3"]), pandas.Series([1.0, np.nan, 2.5])):
            assert preparation.features(pandas.DataFrame({"b": b, "a": a})).tolist() == expected
    bools = pandas.DataFrame({"a": pandas.Series([True, None, False], dtype="boolean"), "b": [True, False, True]})
    assert preparation.features(bools).tolist() == [[1, 0, 0, 1], [7, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("gap", sorted(GAPS))
def test_gaps(gap):
    preparation = Preparation((Numeric("a", 7.0), Categorical("b", (GAP, "x"))), (Target("y", ("p", "q")),))
    frame = pandas.DataFrame({"a": [gap], "b": [f" {gap}"], "y": [gap]})
    assert preparation.features(frame).tolist() == [[7, 1, 0]]
    assert preparation.answers(frame) is None


@pytest.mark.parametrize(
    "frame, message",
    [
        ({"b": ["x"]}, "expected column 'a', as in training, got 'b'"),
        ({}, "expected columns 'a', 'b', as in training, got "),
        ({"a": [1, "x"], "b": ["x", "x"]}, "row 2, column 'a': expected a number, got 'x'"),
        ({"a": ["1_0"], "b": ["x"]}, "row 1, column 'a': expected a number, got '1_0'"),
        ({"a": [1, np.inf], "b": ["x", "x"]}, "row 2, column 'a': expected a finite number, got infinity"),
        ({"a": ["-1e999"], "b": ["x"]}, "row 1, column 'a': expected a finite number, got infinity"),
    ],
)
def test_tables_that_do_not_fit(frame, message):
    preparation = Preparation((Numeric("a", 7.0), Categorical("b", ("x",))), (Target("y"),))
    with pytest.raises(ValueError) as caught:
        preparation.features(pandas.DataFrame(frame))
    assert str(caught.value) == message


def test_columns_of_one_name():
    preparation = Preparation((Numeric("a", 7.0),), (Target("y"),))
    with pytest.raises(ValueError, match="expected columns of different names, got 'a' more than once"):
        preparation.features(pandas.DataFrame([[1, 2]], columns=["a", "a"]))


def test_answers():
    frame = pandas.DataFrame({"n": ["3", "5.0", "4"], "w": ["x", "y", "z"], "f": [1.5, 2, 3], "g": [1, None, 2]})

    def answers(*targets):
        return Preparation((Numeric("a", 0.0),), targets).answers(frame)

    assert answers(Target("n", (3, 5))).tolist() == [0, 1, -1]
    assert answers(Target("w", ("x", "y", "z"))).tolist() == [0, 1, 2]
    assert answers(Target("f")).tolist() == [1.5, 2, 3]
    assert answers(Target("f"), Target("n")).tolist() == [[1.5, 3], [2, 5], [3, 4]]
    assert answers(Target("f"), Target("none")) is None
    with pytest.raises(ValueError, match="row 2, column 'g': expected a target, got none"):
        answers(Target("g"))
    with pytest.raises(ValueError, match="row 1, column 'w': expected a number, got 'x'"):
        answers(Target("w"))


def test_notes():
    preparation = Preparation((Numeric("a", 7.5), Categorical("b", ("x",)), Categorical("c", (GAP, "x"))), (Target("y"),))
    frame = pandas.DataFrame({"a": [1, None, None], "b": ["x", "q", None], "c": ["x", None, "x"], "d": 1})
    assert preparation.notes(frame) == [
        "left out, as training had no such input: 'd'",
        "column 'a': 2 gaps filled with 7.5",
        "column 'b': training did not see 'q', '(missing)'",
    ]
    assert preparation.notes(frame[["a", "b", "c"]][:1]) == []


def test_an_empty_table():
    preparation = Preparation((Numeric("a", 7.0), Categorical("b", ("x", "y"))), (Target("y"),))
    assert preparation.features(pandas.DataFrame({"a": [], "b": []})).shape == (0, 3)
