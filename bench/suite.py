# SPDX-License-Identifier: BSD-3-Clause
"""What the library chooses by itself, beside dense training and fixed ranks, on many data sets.

    python bench/suite.py --out FILE [--sets ...] [--networks ...] [--ways ...] [--seeds 5]
    python bench/suite.py --out FILE --rates 3e-4 1e-3 3e-3      each way at its own best rate
    python bench/suite.py --out FILE --estimators                the estimators and scikit-learn's
    python bench/suite.py --report FILE ... [--plot FILE]        tables of what was run
    python bench/suite.py --quick                                a check

A seed decides the split, the first weights and the order of samples; ways take turns within it.
Each run adds a line of JSON to FILE, and a run that is there already is skipped. Scores are
accuracy or R² on the test part, in %. A rate is chosen once for a set, network and way, on a fifth
of the training part of a split that is not used again. Not here: the data (suite_data.py), the
time of single steps (compare.py), and PyTorch's accuracy (accuracy.py).
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
import suite_data

import svdfast as sf

BATCH = 256
# The default number of steps, for each network.
NETWORKS = {"64-64": 2000, "512-512": 2000, "1024-1024-1024": 800}
WAYS: dict[str, dict[str, Any]] = {
    "dense": {"factoring": None},
    "default": {},
    "1/4": {"factoring": 1 / 4},
    "1/8": {"factoring": 1 / 8},
}
ESTIMATORS = ("scikit-learn", "svdfast")
BASES = ("dense", "scikit-learn")  # what others are held against
TUNING_SEED = 1000
# A way may lose so many points, or twice the deviation of dense, before it counts as worse.
TOLERANCE = 0.4

# What a run is; everything else in its record is what came of it. "steps" is None for estimators.
KEY = ("part", "set", "network", "way", "seed", "steps", "threads", "rate")

# What `--quick` runs, and the score that each way must reach. They need no files.
QUICK = {"digits": 80.0, "diabetes": 20.0}

Record = dict[str, Any]


def hidden(network: str) -> list[int]:
    return [int(width) for width in network.split("-")]


class Ranks:
    """A callback that keeps the ranks of the network's last factored form; None is a dense layer."""

    last: list[int | None] | None = None

    def __call__(self, event: sf.Event) -> None:
        if event.network.is_factored:
            self.last = [layer.rank for layer in event.network.layers]


def train(job: Record, parts: suite_data.Parts) -> Record:
    sizes = [parts.X.shape[1], *hidden(job["network"]), parts.n_outputs]
    net = sf.Network(sizes, output="softmax" if parts.n_classes else "identity", seed=job["seed"])
    epochs = max(1, round(job["steps"] / math.ceil(len(parts.X) / BATCH)))
    settings = dict(WAYS[job["way"]])
    if job["rate"] is not None:
        settings["optimizer"] = sf.Adam(job["rate"])
    ranks = Ranks()
    began = time.perf_counter()
    result = sf.train(
        net,
        parts.X,
        parts.y,
        epochs=epochs,
        batch_size=BATCH,
        seed=job["seed"],
        n_threads=job["threads"],
        callbacks=[ranks],
        **settings,
    )
    return {
        "wall": time.perf_counter() - began,
        "seconds": result.seconds,
        "score": 100 * net.score(parts.X_test, parts.y_test),
        "epochs": epochs,
        "ranks": ranks.last,
        "explain": result.explain(),
    }


def fit(job: Record, parts: suite_data.Parts) -> Record:
    """An estimator's run, everything but layers, seed and threads by default."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from threadpoolctl import threadpool_limits

    from svdfast.sklearn import SVDMLPClassifier, SVDMLPRegressor

    X, X_test = (
        part.astype(np.float32) / np.float32(255) if part.dtype == np.uint8 else part
        for part in (parts.X, parts.X_test)
    )
    settings: dict[str, Any] = {
        "hidden_layer_sizes": hidden(job["network"]),
        "random_state": job["seed"],
    }
    ranks = Ranks()
    given: dict[str, Any] = {}
    if job["way"] == "svdfast":
        kind = SVDMLPClassifier if parts.n_classes else SVDMLPRegressor
        settings["n_threads"] = job["threads"]
        given["callbacks"] = [ranks]
    else:
        kind = MLPClassifier if parts.n_classes else MLPRegressor
    model = kind(**settings)
    with threadpool_limits(job["threads"], user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        began = time.perf_counter()
        model.fit(X, parts.y, **given)
        wall = time.perf_counter() - began
    score = 100 * float(model.score(X_test, parts.y_test))
    return {
        "wall": wall,
        "seconds": wall,
        "score": score,
        "epochs": int(model.n_iter_),
        "ranks": ranks.last,
    }


def key(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in KEY)


def read(files: Iterable[Path]) -> Iterator[Record]:
    """The lines of result files, without one that a killed run left unfinished."""
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


class Results:
    """The runs of a file, and those that are added to it."""

    def __init__(self, file: Path):
        self.file = file
        self.runs: dict[tuple[Any, ...], Record] = {}
        if file.exists():
            self.runs = {key(r): r for r in read([file]) if "set" in r}
            if (text := file.read_bytes()) and not text.endswith(b"\n"):
                file.write_bytes(text + b"\n")
        self.add({"machine": machine.describe(["scikit-learn"]), "command": shlex.join(sys.argv)})

    def add(self, record: Record) -> None:
        with self.file.open("a", encoding="utf-8") as stream:
            print(json.dumps(record), file=stream)

    def run(self, job: Record, tuning: bool = False) -> Record:
        """The record of a run: from the file, or made now."""
        if key(job) in self.runs:
            return self.runs[key(job)]
        parts = suite_data.parts(job["set"], job["seed"], tuning)
        shape = {"n": len(parts.X), "inputs": parts.X.shape[1], "outputs": parts.n_outputs}
        record = {**job, **shape, "classes": parts.n_classes > 0}
        try:
            record |= (fit if job["part"] == "estimators" else train)(job, parts)
        except FloatingPointError as error:
            record |= {"score": None, "error": str(error)}
        self.runs[key(job)] = record
        self.add(record)
        outcome = record.get("error") or f"{record['score']:7.2f} %  {record['seconds']:8.3f} s"
        rate = "" if job["rate"] is None else f"rate {job['rate']:<7g}"
        print(
            f"{job['part']:<10} {job['set']:<17} {job['network']:<15} {job['way']:<12} {rate}"
            f"seed {job['seed']:<5} {outcome}",
            flush=True,
        )
        return record


def best_rates(results: Results, job: Record, ways: list[str], rates: list[float]) -> Record:
    """The rate of each way that scored best on the validation part."""
    scores: dict[str, dict[float, float]] = {way: {} for way in ways}
    for rate in rates:
        for way in ways:
            tried = job | {"part": "tuning", "way": way, "seed": TUNING_SEED, "rate": rate}
            score = results.run(tried, tuning=True)["score"]
            scores[way][rate] = -math.inf if score is None else score
    return {way: max(scores[way], key=scores[way].__getitem__) for way in ways}


def run(options: argparse.Namespace) -> None:
    results = Results(options.out)
    warm_up(options.threads)
    part = "estimators" if options.estimators else "tuned" if options.rates else "default"
    for name in options.sets:
        try:
            suite_data.raw(name)
        except suite_data.Absent as reason:
            print(f"{name} is left out: {reason}", flush=True)
            continue
        for network in options.networks:
            steps = None if options.estimators else options.steps or NETWORKS.get(network, 2000)
            job = {"part": part, "set": name, "network": network, "steps": steps}
            job |= {"threads": options.threads, "rate": None}
            ways = list(ESTIMATORS) if options.estimators else options.ways
            rates = best_rates(results, job, ways, options.rates) if part == "tuned" else {}
            for seed in range(options.seeds):
                first = seed % len(ways)  # so that no way is always the first
                for way in ways[first:] + ways[:first]:
                    results.run(job | {"way": way, "seed": seed, "rate": rates.get(way)})


def warm_up(n_threads: int) -> None:
    """Trainings that nobody times, for the first of a process is slower."""
    X, y = np.zeros((BATCH, 64), np.float32), np.zeros(BATCH, int)
    for settings in WAYS.values():
        net = sf.Network([64, 64, 64, 2], seed=0)
        sf.train(net, X, y, epochs=20, n_threads=n_threads, **settings)


@dataclass
class Cell:
    """A way on a set with a network, against the base: means over seeds that both have."""

    difference: float
    deviation: float
    time: float
    rate: float | None
    ranks: str


@dataclass
class Row:
    set: str
    network: str
    n: int
    inputs: int
    score: float
    deviation: float
    base_rate: float | None
    cells: dict[str, Cell]

    @property
    def limit(self) -> float:
        return -max(TOLERANCE, 2 * self.deviation)


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def ranks_of(runs: list[Record]) -> str:
    """The ranks that most seeds got, and of how many seeds where not of all."""

    def text(ranks: list[int | None] | None) -> str:
        return " ".join("–" if rank is None else str(rank) for rank in ranks) if ranks else "dense"

    found, times = Counter(text(r["ranks"]) for r in runs).most_common(1)[0]
    return found if times == len(runs) else f"{found} ({times} of {len(runs)})"


def rows_of(runs: list[Record]) -> list[Row]:
    """Rows in the order of the sets; without those that have no base."""
    grouped: dict[tuple[str, str], dict[str, dict[int, Record]]] = defaultdict(dict)
    for r in runs:
        if r["score"] is not None:
            grouped[r["set"], r["network"]].setdefault(r["way"], {})[r["seed"]] = r
    order = list(suite_data.SETS)
    rows = []
    for (name, network), ways in sorted(grouped.items(), key=lambda item: order.index(item[0][0])):
        base = next((ways[b] for b in BASES if b in ways), None)
        if base is None:
            continue
        cells = {}
        for way in ways:
            pairs = [(r, base[seed]) for seed, r in ways[way].items() if seed in base]
            if way in BASES or not pairs:
                continue
            differences = [r["score"] - b["score"] for r, b in pairs]
            cells[way] = Cell(
                statistics.mean(differences),
                spread(differences),
                statistics.median(r["seconds"] / b["seconds"] for r, b in pairs),
                pairs[0][0]["rate"],
                ranks_of([r for r, _ in pairs]),
            )
        scores = [b["score"] for b in base.values()]
        one = next(iter(base.values()))
        mean, deviation = statistics.mean(scores), spread(scores)
        rows.append(
            Row(name, network, one["n"], one["inputs"], mean, deviation, one["rate"], cells)
        )
    return rows


def ways_of(rows: list[Row]) -> list[str]:
    return [way for way in [*WAYS, *ESTIMATORS] if any(way in row.cells for row in rows)]


def table(rows: list[Row], base: str) -> Iterator[str]:
    ways = ways_of(rows)
    tuned = any(row.base_rate is not None for row in rows)
    heads = ["set", "samples", "inputs", f"{base}, %"]
    for way in ways:
        heads += [f"{way}: difference", "time"]
    shown = [way for way in ways if way in ("default", "svdfast")]
    heads += [f"{way}: ranks" for way in shown] + ["learning rates"] * tuned
    yield f"| {' | '.join(heads)} |"
    yield "| --- " * len(heads) + "|"
    for row in rows:
        line = [row.set, f"{row.n:,}", f"{row.inputs:,}", f"{row.score:.2f} ± {row.deviation:.2f}"]
        for way in ways:
            cell = row.cells.get(way)
            text = "" if cell is None else f"{cell.difference:+.2f} ± {cell.deviation:.2f}"
            worse = cell is not None and cell.difference < row.limit
            line += [f"**{text}**" if worse else text, "" if cell is None else f"{cell.time:.2f}"]
        line += [row.cells[way].ranks if way in row.cells else "" for way in shown]
        if tuned:
            rates = [row.base_rate, *(row.cells[way].rate for way in ways if way in row.cells)]
            line.append(", ".join(f"{rate:g}" for rate in rates))
        yield f"| {' | '.join(line)} |"


def summary(rows: list[Row]) -> Iterator[str]:
    yield (
        "| network | way | sets | mean difference | worst against its limit | below the limit "
        "| geometric mean of time | largest time |"
    )
    yield "| --- " * 8 + "|"
    networks = list(dict.fromkeys(row.network for row in rows))
    for network in [*networks, "all"] if len(networks) > 1 else networks:
        for way in ways_of(rows):
            of_way = [
                (row, row.cells[way])
                for row in rows
                if way in row.cells and network in (row.network, "all")
            ]
            if not of_way:
                continue
            mean = statistics.mean(cell.difference for _, cell in of_way)
            row, worst = min(of_way, key=lambda pair: pair[1].difference - pair[0].limit)
            below = sum(cell.difference < row.limit for row, cell in of_way)
            time_mean = statistics.geometric_mean(cell.time for _, cell in of_way)
            slow, slowest = max(of_way, key=lambda pair: pair[1].time)
            yield (
                f"| {network} | {way} | {len(of_way)} | {mean:+.2f} | {worst.difference:+.2f} "
                f"({row.set}, {row.network}; {row.limit:.2f}) | {below} | {time_mean:.3f} "
                f"| {slowest.time:.2f} ({slow.set}, {slow.network}) |"
            )


def report(files: list[Path], plot_file: Path | None = None) -> None:
    records = list(read(files))
    for text in dict.fromkeys(r["machine"] for r in records if "machine" in r):
        print(f"```text\n{text}\n```\n")
    runs = list({key(r): r for r in records if "set" in r}.values())
    parts: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for r in runs:
        if r["part"] != "tuning":
            parts[r["part"], r["threads"]].append(r)
    for number, ((part, threads), of_part) in enumerate(parts.items()):
        rows = []
        base = BASES[part == "estimators"]
        for network, steps in dict.fromkeys((r["network"], r["steps"]) for r in of_part):
            chosen = [r for r in of_part if (r["network"], r["steps"]) == (network, steps)]
            seeds = len({r["seed"] for r in chosen})
            about = f"{threads} threads, at most {seeds} seeds" + (f", {steps} steps" * bool(steps))
            print(f"## {part}, {network}: {about}\n")
            found = rows_of(chosen)
            print("\n".join(table(found, base)), "\n")
            rows += found
        print(f"## {part}: summary\n")
        print("\n".join(summary(rows)), "\n")
        for r in of_part:
            if r["score"] is None:
                print(f"failed: {' '.join(map(str, key(r)))}: {r['error']}")
        if plot_file is not None:
            name = plot_file if number == 0 else plot_file.with_stem(f"{plot_file.stem}-{part}")
            plot(rows, base, name)


def plot(rows: list[Row], base: str, file: Path) -> None:
    """The difference in score over the ratio of times: a panel for a way, a mark for a set."""
    from matplotlib.figure import Figure

    ways = ways_of(rows)
    networks = list(dict.fromkeys(row.network for row in rows))
    figure = Figure(figsize=(5 * len(ways), 4.5), layout="constrained")
    panels = figure.subplots(1, len(ways), squeeze=False, sharex=True, sharey=True)[0]
    for axes, way in zip(panels, ways, strict=True):
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.axvline(1, color="grey", linewidth=0.8)
        for network, marker in zip(networks, "os^Dv*XP<>" * len(networks), strict=False):
            shown = [row for row in rows if row.network == network and way in row.cells]
            points = [(row.cells[way].time, row.cells[way].difference) for row in shown]
            if points:
                axes.plot(*zip(*points, strict=True), marker, alpha=0.7, label=network)
            for row, point in zip(shown, points, strict=True):
                if point[1] < row.limit:
                    axes.annotate(row.set, point, fontsize=7)
        axes.set_xscale("log")
        axes.set_yscale("symlog", linthresh=1)
        axes.set(title=way, xlabel=f"time ÷ {base}'s", ylabel=f"score − {base}'s, points")
    panels[0].legend()
    figure.savefig(file, dpi=150)


def quick(options: argparse.Namespace) -> None:
    """Every kind of run once, and whether the scores can be right."""
    options.sets, options.networks, options.seeds, options.steps = list(QUICK), ["64-64"], 1, 200
    options.threads = 1  # two would wait for each other on a busy machine
    for options.rates, options.estimators in ((None, False), ([1e-3, 3e-3], False), (None, True)):
        run(options)
    for r in read([options.out]):
        if "set" in r and not (r["score"] or 0.0) > QUICK[r["set"]]:
            raise SystemExit(f"expected a score above {QUICK[r['set']]} %, got {r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="FILE", help="runs are added to it, and read")
    parser.add_argument("--sets", nargs="+", choices=suite_data.SETS, default=[*suite_data.SETS])
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS], help="hidden layers: 512-512")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help=f"default: {NETWORKS}")
    parser.add_argument("--rates", type=float, nargs="+", help="each way at the best of these")
    parser.add_argument("--estimators", action="store_true", help="svdfast's and scikit-learn's")
    parser.add_argument("--threads", type=int, default=len(machine.available_cpus()))
    parser.add_argument("--report", type=Path, nargs="+", metavar="FILE", help="only report these")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the report's differences")
    parser.add_argument("--quick", action="store_true", help="two small sets: only a check")
    options = parser.parse_args()
    if options.report:
        report(options.report, options.plot)
        return
    if options.out is None and not options.quick:
        parser.error("--out: expected a file for the results")
    print(machine.describe(["scikit-learn"]), "\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        options.out = options.out or Path(folder, "quick.jsonl")
        (quick if options.quick else run)(options)
        print()
        report([options.out], options.plot)


if __name__ == "__main__":
    main()
