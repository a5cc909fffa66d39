# SPDX-License-Identifier: BSD-3-Clause
"""The library's own choice of ranks, beside dense training and fixed ranks, on many data sets.

    python bench/suite.py --out FILE [--sets ...] [--networks ...] [--ways ...] [--seeds 5]
    python bench/suite.py --out FILE --rates 3e-4 1e-3 3e-3      each way at its own best rate
    python bench/suite.py --out FILE --estimators                the estimators and scikit-learn's
    python bench/suite.py --out FILE --ablation                  the default without each ingredient
    python bench/suite.py --report FILE ... [--plot FILE]        tables of the runs
    python bench/suite.py --quick                                a check

A seed decides the split, the first weights and the order of samples; ways alternate within it. Each
run adds a line of JSON to FILE. Runs that FILE already contains are skipped. Scores are accuracy or
R² on the test part, in %. A rate is chosen once for a set, network and way, on a fifth of the
training part of a split that is not used again. Data are in suite_data.py, the time of single steps
in compare.py, and PyTorch's accuracy in accuracy.py.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
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
from unittest import mock

import machine
import numpy as np
import suite_data

import svdfast as sf
from svdfast.training import auto

BATCH = 256
# The default number of steps, for each network.
NETWORKS = {"64-64": 2000, "512-512": 2000, "1024-1024-1024": 800}
WAYS: dict[str, dict[str, Any]] = {
    "dense": {"factoring": None},
    "default": {},
    "1/4": {"factoring": 1 / 4},
    "1/8": {"factoring": 1 / 8},
}
# The default without one of its ingredients. For `auto`, constants switch an ingredient off.
CONSTANT = {"optimizer": lambda: sf.Adam(sf.schedules.Constant(1e-3))}
ABLATION: dict[str, dict[str, Any]] = {
    "without a cooldown": CONSTANT,
    "dense, without a cooldown": {"factoring": None, **CONSTANT},
    "without the factors' rate": {"factoring": sf.Factoring(learning_rate=1.0)},
    "without outputs": {"factoring": sf.Factoring(activation_aware=False)},
    "without moments": {"factoring": sf.Factoring(moments="restart")},
    "without later looks": {"auto": {"LATER": math.inf}},
    "without checks": {"auto": {"FASTER": math.inf, "STILL_LOST": math.inf}},
    "with a dense tail": {"factoring": sf.Factoring(recompose_fraction=0.1)},
}
ESTIMATORS = ("scikit-learn", "svdfast")
BASES = ("dense", "scikit-learn")  # ways that others are compared with
TUNING_SEED = 1000
# A way counts as worse if it loses more points than this and than twice the deviation of dense.
TOLERANCE = 0.4

# The fields that define a run; all others in its record are results. Estimators have no "steps".
KEY = ("part", "set", "network", "way", "seed", "steps", "threads", "rate")

# The runs of `--quick`, and the score that each way must reach. They need no files.
QUICK = {"digits": 80.0, "diabetes": 20.0}

Record = dict[str, Any]


def hidden(network: str) -> list[int]:
    return [int(width) for width in network.split("-")]


class Ranks:
    """A callback that keeps the ranks of the last factored form; None is a dense layer."""

    last: list[int | None] | None = None

    def __call__(self, event: sf.Event) -> None:
        if event.network.is_factored:
            self.last = [layer.rank for layer in event.network.layers]


def train(job: Record, parts: suite_data.Parts) -> Record:
    sizes = [parts.X.shape[1], *hidden(job["network"]), parts.n_outputs]
    net = sf.Network(sizes, output="softmax" if parts.n_classes else "identity", seed=job["seed"])
    ranks = Ranks()
    way = {**WAYS, **ABLATION}[job["way"]]
    settings = {**way, "seed": job["seed"], "n_threads": job["threads"]}
    constants = settings.pop("auto", {})
    if "optimizer" in settings:
        settings["optimizer"] = settings["optimizer"]()
    if job["rate"] is not None:
        settings["optimizer"] = sf.Adam(sf.schedules.Cooldown(job["rate"]))
    epochs = max(1, round(job["steps"] / math.ceil(len(parts.X) / BATCH)))
    began = time.perf_counter()
    with mock.patch.multiple(auto, **constants) if constants else contextlib.nullcontext():
        result = sf.train(
            net, parts.X, parts.y, epochs=epochs, batch_size=BATCH, callbacks=[ranks], **settings
        )
    wall = time.perf_counter() - began
    score = 100 * net.score(parts.X_test, parts.y_test)
    found = {"epochs": epochs, "ranks": ranks.last, "explain": result.explain()}
    return {"wall": wall, "seconds": result.seconds, "score": score, **found}


def fit(job: Record, parts: suite_data.Parts) -> Record:
    """An estimator's run: everything but layers, seed and threads is left at its default."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from threadpoolctl import threadpool_limits

    from svdfast.sklearn import SVDMLPClassifier, SVDMLPRegressor

    def floats(X: np.ndarray) -> np.ndarray:
        return X.astype(np.float32) / np.float32(255) if X.dtype == np.uint8 else X

    ranks = Ranks()
    ours = job["way"] == "svdfast"
    kinds = (MLPRegressor, MLPClassifier), (SVDMLPRegressor, SVDMLPClassifier)
    own = {"n_threads": job["threads"]} if ours else {}
    model = kinds[ours][parts.n_classes > 0](
        hidden_layer_sizes=hidden(job["network"]), random_state=job["seed"], **own
    )
    X = floats(parts.X)
    with threadpool_limits(job["threads"], user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        began = time.perf_counter()
        model.fit(X, parts.y, **({"callbacks": [ranks]} if ours else {}))
        wall = time.perf_counter() - began
    score = 100 * float(model.score(floats(parts.X_test), parts.y_test))
    found = {"epochs": int(model.n_iter_), "ranks": ranks.last}
    return {"wall": wall, "seconds": wall, "score": score, **found}


def key(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in KEY)


def read(files: Iterable[Path]) -> Iterator[Record]:
    """The lines of result files, without lines that a killed run left unfinished."""
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


class Results:
    """The runs of a file, and those added to it."""

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
    """Runs trainings that are not timed, because the first ones of a process are slower."""
    X, y = np.zeros((BATCH, 64), np.float32), np.zeros(BATCH, int)
    for settings in WAYS.values():
        net = sf.Network([64, 64, 64, 2], seed=0)
        sf.train(net, X, y, epochs=20, n_threads=n_threads, **settings)


@dataclass
class Comparison:
    """The runs of a way on a set with a network, beside the base's of the same seeds."""

    set: str
    network: str
    way: str
    runs: list[Record]
    base: list[Record]

    def __post_init__(self) -> None:
        pairs = list(zip(self.runs, self.base, strict=True))
        self.differences = [r["score"] - b["score"] for r, b in pairs]
        self.difference = statistics.mean(self.differences)
        self.time = statistics.median(r["seconds"] / b["seconds"] for r, b in pairs)
        self.limit = -max(TOLERANCE, 2 * spread([b["score"] for b in self.base]))
        self.is_worse = self.difference < self.limit

    @property
    def ranks(self) -> str:
        """The ranks that most seeds got, and the number of these seeds unless it is all."""

        def text(ranks: list[int | None] | None) -> str:
            return " ".join("–" if r is None else str(r) for r in ranks) if ranks else "dense"

        found, times = Counter(text(r["ranks"]) for r in self.runs).most_common(1)[0]
        return found + f" ({times} of {len(self.runs)})" * (times < len(self.runs))


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def compare(runs: Iterable[Record]) -> list[Comparison]:
    """Comparisons in the order of sets and ways.

    A way is left out if none of its seeds has a base.
    """
    grouped: dict[tuple[str, str], dict[str, dict[int, Record]]] = defaultdict(dict)
    for r in runs:
        if r["score"] is not None:
            grouped[r["set"], r["network"]].setdefault(r["way"], {})[r["seed"]] = r
    found = []
    for name, network in sorted(grouped, key=lambda group: [*suite_data.SETS].index(group[0])):
        ways = grouped[name, network]
        base = next((ways.pop(b) for b in BASES if b in ways), {})
        for way in sorted(ways, key=[*WAYS, *ABLATION, *ESTIMATORS].index):
            if seeds := sorted(ways[way].keys() & base.keys()):
                both = ([of_way[seed] for seed in seeds] for of_way in (ways[way], base))
                found.append(Comparison(name, network, way, *both))
    return found


def mean_of(values: list[float], sign: str = "") -> str:
    return f"{statistics.mean(values):{sign}.2f} ± {spread(values):.2f}"


def table(found: list[Comparison], base: str) -> Iterator[str]:
    """A line for each set of one network. Losses above the limit are bold."""
    ways = list(dict.fromkeys(c.way for c in found))
    shown = [way for way in ways if way in ("default", "svdfast")]
    is_tuned = any(c.runs[0]["rate"] is not None for c in found)
    heads = ["set", "samples", "inputs", f"{base}, %"]
    heads += [head for way in ways for head in (f"{way}: difference", "time")]
    heads += [f"{way}: ranks" for way in shown] + ["learning rates"] * is_tuned
    yield f"| {' | '.join(heads)} |"
    yield "| --- " * len(heads) + "|"
    for name in dict.fromkeys(c.set for c in found):
        of_set = {c.way: c for c in found if c.set == name}
        base_runs = next(iter(of_set.values())).base
        cells = [name, f"{base_runs[0]['n']:,}", f"{base_runs[0]['inputs']:,}"]
        cells.append(mean_of([b["score"] for b in base_runs]))
        for c in map(of_set.get, ways):
            bold = "**" * (c is not None and c.is_worse)
            cells += [bold + mean_of(c.differences, "+") + bold, f"{c.time:.2f}"] if c else ["", ""]
        cells += [of_set[way].ranks if way in of_set else "" for way in shown]
        if is_tuned:
            rates = [base_runs[0]["rate"], *(c.runs[0]["rate"] for c in of_set.values())]
            cells.append(", ".join(map("{:g}".format, rates)))
        yield f"| {' | '.join(cells)} |"


def summary(found: list[Comparison]) -> Iterator[str]:
    heads = ["network", "way", "sets", "mean difference", "worst against its limit"]
    heads += ["worse than the limit", "geometric mean of time", "largest time"]
    yield f"| {' | '.join(heads)} |"
    yield "| --- " * len(heads) + "|"
    groups: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    networks = list(dict.fromkeys(c.network for c in found))
    for network in [*networks, "all"] if len(networks) > 1 else networks:
        for c in found:
            if network in (c.network, "all"):
                groups[network, c.way].append(c)
    for (network, way), group in groups.items():
        worst = min(group, key=lambda c: c.difference - c.limit)
        slowest = max(group, key=lambda c: c.time)
        cells = [network, way, str(len(group))]
        cells.append(f"{statistics.mean(c.difference for c in group):+.2f}")
        cells.append(f"{worst.difference:+.2f} ({worst.set}, {worst.network}; {worst.limit:.2f})")
        cells.append(str(sum(c.is_worse for c in group)))
        cells.append(f"{statistics.geometric_mean(c.time for c in group):.3f}")
        cells.append(f"{slowest.time:.2f} ({slowest.set}, {slowest.network})")
        yield f"| {' | '.join(cells)} |"


def report(files: list[Path], plot_file: Path | None = None) -> None:
    records = list(read(files))
    for text in dict.fromkeys(r["machine"] for r in records if "machine" in r):
        print(f"```text\n{text}\n```\n")
    parts: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for r in {key(r): r for r in records if "set" in r and r["part"] != "tuning"}.values():
        parts[r["part"], r["threads"]].append(r)
    for (part, threads), runs in parts.items():
        found = []
        base = BASES[part == "estimators"]
        for network, steps in dict.fromkeys((r["network"], r["steps"]) for r in runs):
            of_table = [r for r in runs if (r["network"], r["steps"]) == (network, steps)]
            found += (compared := compare(of_table))
            about = f"{len({r['seed'] for r in of_table})} seeds, {threads} threads"
            print(f"## {part}, {network}: {about}" + f", {steps} steps" * bool(steps) + "\n")
            print("\n".join(table(compared, base)), "\n")
        print(f"## {part}: summary\n")
        print("\n".join(summary(found)), "\n")
        for r in runs:
            if r["score"] is None:
                print(f"failed: {' '.join(map(str, key(r)))}: {r['error']}")
        if plot_file is not None and found:
            suffix = f"-{part}-{threads}" * (len(parts) > 1)
            plot(found, base, plot_file.with_stem(plot_file.stem + suffix))


def plot(found: list[Comparison], base: str, file: Path) -> None:
    """Plots the difference in score over the ratio of times: a panel per way, a mark per set."""
    from matplotlib.figure import Figure

    ways, networks = (list(dict.fromkeys(getattr(c, x) for c in found)) for x in ("way", "network"))
    figure = Figure(figsize=(5 * len(ways), 4.5), layout="constrained")
    panels = figure.subplots(1, len(ways), squeeze=False, sharex=True, sharey=True)[0]
    for axes, way in zip(panels, ways, strict=True):
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.axvline(1, color="grey", linewidth=0.8)
        for network, marker in zip(networks, itertools.cycle("os^Dv*XP"), strict=False):
            shown = [c for c in found if (c.way, c.network) == (way, network)]
            points = [c.time for c in shown], [c.difference for c in shown]
            axes.plot(*points, marker, alpha=0.7, label=network)
        for c in found:
            if c.way == way and c.is_worse:
                axes.annotate(c.set, (c.time, c.difference), fontsize=7)
        axes.set_yscale("symlog", linthresh=1)
        axes.set(title=way, xlabel=f"time ÷ {base}'s", ylabel=f"score − {base}'s, points")
    panels[0].legend()
    figure.savefig(file, dpi=150)


def quick(options: argparse.Namespace) -> None:
    """Runs every kind of run once, and checks that the scores can be right."""
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
    sets = [*suite_data.SETS]
    help = f"of {', '.join(sets)}"
    parser.add_argument("--sets", nargs="+", choices=sets, default=sets, metavar="SET", help=help)
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS], help="hidden layers: 512-512")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help=f"default: {NETWORKS}")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--rates", type=float, nargs="+", help="each way at the best of these")
    kind.add_argument("--estimators", action="store_true", help="svdfast's and scikit-learn's")
    kind.add_argument("--ablation", action="store_true", help="the default without ingredients")
    parser.add_argument("--threads", type=int, default=len(machine.available_cpus()))
    parser.add_argument("--report", type=Path, nargs="+", metavar="FILE", help="only report these")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the report's differences")
    parser.add_argument("--quick", action="store_true", help="two small sets: only a check")
    options = parser.parse_args()
    if options.ablation:
        options.ways = ["dense", "default", *ABLATION]
    if options.report:
        report(options.report, options.plot)
        return
    if options.out is None and not options.quick:
        parser.error("--out: expected a file for the results")
    print(machine.describe(["scikit-learn"]), "\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            options.out = Path(folder, "quick.jsonl")
        (quick if options.quick else run)(options)
        print()
        report([options.out], options.plot)


if __name__ == "__main__":
    main()
