# SPDX-License-Identifier: BSD-3-Clause
"""The figures in the README and in docs/ are those of the recorded runs."""

import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README, HOME, HOW_FAST, PRECISION = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/index.md", "docs/how-fast.md", "docs/precision.md")
)
RESULTS = (ROOT / "bench" / "RESULTS.md").read_text(encoding="utf-8")


def rows(text):
    """Cells of every row of every table."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]


def test_milliseconds_a_step():
    section = RESULTS.split("### mnist, 2 threads")[1].split("###")[0]
    recorded = {(row[0], row[1]): float(row[2]) for row in rows(section)[2:]}
    systems = {
        "svdfast": "svdfast",
        "PyTorch 2.13": "torch",
        "JAX 0.10, a step jitted": "jax",
        "NumPy, `out=` everywhere": "numpy",
        "scikit-learn `MLPClassifier`": "sklearn",
    }
    seen = 0
    for name, *cells in rows(HOW_FAST):
        if name in systems:
            for form, cell in zip(("dense", "1/2", "1/4", "1/8"), cells, strict=True):
                if cell:
                    assert abs(float(cell) - recorded[systems[name], form]) <= 0.051, (name, form)
                    seen += 1
    assert seen == 17
    quarter, eighth = re.search(
        r"takes (\d\.\d\d) times as long as α = 1/4 and (\d\.\d\d) times", HOW_FAST
    ).groups()
    ratios = {row[1]: row[7] for row in rows(section) if row[0] == "svdfast"}
    assert (quarter, eighth) == (ratios["1/4"], ratios["1/8"])


def test_times_in_the_documentation():
    section = RESULTS.split("### mnist, 2 threads")[1].split("###")[0]
    ratios = {row[1]: (row[7], row[8]) for row in rows(section) if row[0] == "svdfast"}
    page = " ".join((ROOT / "docs" / "when-factoring-pays.md").read_text(encoding="utf-8").split())
    told = re.search(r"(\d\.\d+) times as fast at α = 1/4 and (\S+) times at α = 1/8, where the counts promise (\S+) and (\S+)\. ", page)
    assert told.groups() == (ratios["1/4"][0], ratios["1/8"][0], ratios["1/4"][1], ratios["1/8"][1])


def test_what_the_library_chooses():
    section = RESULTS.split("## What the library chooses by itself")[1].split("\n## ")[0]
    recorded = {row[0]: row for row in rows(section.split("\nThe default without each")[0])}
    told = re.search(
        r"on (\d+) data sets.* changed by (\S+) points on average\. No set .* took (\S+) of the dense time.* changed by (\S+) points, "
        r"and 500 steps took (\S+) of the dense time", " ".join(HOW_FAST.split())
    ).groups()  # fmt: skip
    narrow, deep = recorded["512-512"], recorded["1024-1024-1024"]
    assert told == (narrow[2], narrow[3], narrow[6], deep[3], deep[6])
    assert narrow[5] == deep[5] == "0"


@pytest.mark.parametrize("page", [README, HOW_FAST], ids=["README", "how-fast"])
def test_accuracy_tuned(page):
    """Each row: data, form, accuracy, difference, time."""
    section = RESULTS.split("## Accuracy, each form")[1].split("\n## ")[0]
    seen = 0
    for row in rows(page.split("Seconds until")[0]):
        if row[0] in ("MNIST", "Fashion-MNIST"):
            for form, cell in zip(("dense", "1/4", "1/8"), row[1:], strict=True):
                accuracy, spread, share = re.fullmatch(r"(\S+) ± (\S+) %, (\S+)", cell).groups()
                best = re.search(
                    rf"^{row[0].lower()} +({form} +rate \S+) +best of its rates: \S+ points, (\S+) of", section, re.M
                )
                mean = re.search(
                    rf"^{row[0].lower()} +{best[1]} +mean .*test_accuracy (\S+) ± (\S+) %", section, re.M
                )
                assert abs(float(accuracy) - float(mean[1])) <= 0.0051
                assert abs(float(spread) - float(mean[2])) <= 0.0051
                assert abs(float(share) - float(best[2])) <= 0.0051
                seen += 1
    assert seen == 6


def test_the_first_sentence():
    """The figures of README and home page are those of the README's table."""
    sentence = r"MNIST takes \*\*(\S+) of the time\*\* of dense training and ends at (\S+) % test accuracy instead of (\S+) %"
    told = {re.search(sentence, " ".join(page.split())).groups() for page in (README, HOME)}
    (cells,) = [row[1:] for row in rows(README) if row[0] == "MNIST"]
    (dense, _), _, (factored, share) = (re.fullmatch(r"(\S+) ± \S+ %, (\S+)", cell).groups() for cell in cells)
    assert told == {(share, factored, dense)}


def test_predictions():
    """Each row: samples, form, time, and the other libraries' times divided by it; two threads, for few samples one."""
    section = RESULTS.split("## Predictions")[1].split("\n## ")[0]
    recorded = {tuple(row[1:3]): row[3:] for row in rows(section) if row[0] == ("1" if row[1] in ("1", "8") else "2")}
    seen = 0
    for row in rows(HOW_FAST.split("## Predictions")[1].split("\n## ")[0])[2:]:
        time, _, torch, onnxruntime, *_ = recorded[row[0], row[1].removeprefix("α = ")]
        (value, unit), (exact, same) = row[2].split(), time.split()
        assert unit == same and abs(float(value) - float(exact)) <= 0.501
        assert abs(float(row[3]) - float(torch)) <= 0.0501 and abs(float(row[4]) - float(onnxruntime)) <= 0.0501
        seen += 1
    assert seen == 9


def test_seconds_to_an_accuracy():
    seen = 0
    for name, accuracy, *cells in rows(HOW_FAST.split("Seconds until")[1].split("The same for a higher goal")[0])[2:]:
        for form, cell in zip(("dense", "1/8", "torch"), cells, strict=True):
            place = rf"^{name.lower()} +{form} +rate \S+ +first of its rates at (\S+) %: median (\S+) s"
            at, recorded = re.search(place, RESULTS, re.M).groups()
            assert float(accuracy.removesuffix(" %")) == float(at)
            seconds = cell.removesuffix(" s")
            assert abs(float(seconds) - float(recorded)) <= 0.0501, (name, form)
            seen += 1
    assert seen == 6


def test_seconds_with_the_fewest_epochs():
    seen = 0
    for name, accuracy, *cells in rows(HOW_FAST.split("The same for a higher goal")[1].split("\n## ")[0])[2:]:
        for system, cell in zip(("svdfast auto", "svdfast 1/8 bfloat16", "jax", "torch"), cells, strict=True):
            place = rf"^{name.lower()} +{accuracy.replace(' ', '')} +{system} +([\d.]+) +[\d.]+% +(\d+) "
            seconds, epochs = re.search(place, RESULTS, re.M).groups()
            shown, shown_epochs = re.fullmatch(r"([\d.]+) s, (\d+) epochs", cell).groups()
            assert abs(float(shown) - float(seconds)) <= 0.0501 and shown_epochs == epochs, (name, system)
            seen += 1
    assert seen == 8


def test_milliseconds_a_step_in_bfloat16():
    section = RESULTS.split("## bfloat16")[1].split("\n## ")[0].split("mnist: 784")[1].split("\n\n")[0]
    seen = 0
    for name, system in (
        ("svdfast, float32", "svdfast"),
        ("svdfast, bfloat16", "svdfast bfloat16"),
        ("PyTorch 2.13, bfloat16 autocast", "torch bfloat16"),
    ):
        (cells,) = [row[1:] for row in rows(PRECISION) if row[0] == name]
        for form, cell in zip(("dense", "0.5", "0.25", "0.125"), cells, strict=True):
            recorded = re.search(rf"^{system} +{form} .* (\S+) ms ", section, re.M)
            assert cell == recorded[1], (name, form)
            seen += 1
    assert seen == 12


def test_accuracy_in_bfloat16():
    section = RESULTS.split("## bfloat16")[1].split("\n## ")[0]
    seen = 0
    for row in rows(PRECISION):
        if ", float32" in row[0] or ", bfloat16" in row[0]:
            data, precision = row[0].lower().split(", ")
            if "mnist" not in data:
                continue
            for form, cell in zip(("dense", "1/4", "1/8"), row[1:], strict=True):
                recorded = re.search(rf"^{data} +{form} +{precision} +mean .*test_accuracy (\S+) ± (\S+) %", section, re.M)
                assert cell == f"{float(recorded[1]):.2f} ± {float(recorded[2]):.2f} %"
                seen += 1
    assert seen == 12


def test_the_experiments_tables():
    """docs/reproduction.md has the tables that the recorded runs give."""
    from svdfast.reproduce import EXPERIMENTS

    text = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    for name, experiment in EXPERIMENTS.items():
        runs = json.loads((ROOT / "docs" / "reproduction" / f"{name}.json").read_text(encoding="utf-8"))["runs"]
        for title, lines in experiment.tables(runs):
            assert f"**{title}**\n\n{lines}\n" in text
    for picture in re.findall(r"\]\((reproduction/[^)]+\.png)\)", text):
        assert (ROOT / "docs" / picture).exists()


def test_accuracy_with_the_papers_settings():
    runs = json.loads((ROOT / "docs" / "reproduction" / "mnist.json").read_text(encoding="utf-8"))["runs"]
    for kind, form in (("dense", "DNN, φ 100 %"), ("with α = 1/2", "α 1/2, φ 10 %")):
        mean, spread = re.search(rf"(\d+\.\d+) ± (\d\.\d+) % {kind}", " ".join(HOW_FAST.split())).groups()
        values = [run["test_accuracy"] for run in runs if run["form"] == form]
        assert f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" == f"{mean} ± {spread}"


def test_reliability():
    """The table of recorded runs is that of the records; each run is as large as it has to be."""
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    runs = {row[0]: row[1:] for row in rows(page.split("## Recorded runs")[1])}
    kills, hostile, mutants, soak = (
        json.loads((ROOT / "tests" / "recorded" / f"{name}.json").read_text()) for name in ("kills", "hostile", "mutants", "soak")
    )
    whole = soak["whole"]

    def numbers(text):
        return [int(number.replace(",", "")) for number in re.findall(r"[0-9][0-9,]*", text)]

    names = ("killed", "left in the midst of writing", "interrupted", "full", "read-only", "trainings")
    assert numbers(runs["Kills"][1]) == [kills[name] for name in names]
    assert numbers(runs["Calls"][1]) == [hostile["tries"], hostile["n_faults"]]
    assert numbers(runs["Mutants"][1]) == [mutants["tries"], mutants["n_faults"]]
    first, last, _ = whole["mebibytes"]
    assert numbers(runs["Soak"][1]) == [whole["steps"], round(soak["minutes"]), soak["killed"], round(first), round(last)]

    assert kills["killed"] >= 300 and kills["left in the midst of writing"] > 0
    assert hostile["tries"] >= 200_000 and mutants["tries"] >= 100_000
    assert hostile["n_faults"] == mutants["n_faults"] == 0
    assert soak["minutes"] >= 30 and whole["steps"] >= 2_000_000
    assert whole["sha256"] == soak["pieces"]["sha256"] and whole["finite"] and soak["pieces"]["finite"]
