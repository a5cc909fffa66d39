# SPDX-License-Identifier: BSD-3-Clause
"""The parts of a training step's time, and its distance from the machine's limits.

    python bench/roofline.py [mnist | mnist-small-batch | wide | cat | xor ...] [--threads 1 2] [--rounds N] [--products]
                             [--plot FILE] [--json FILE] [--quick]

Networks, data and rounds are those of compare.py. Each case is timed, dense and factored, with the
clocks of svdfast/_timing.py alternating off and on: off for the time of a step, on for its parts.
The parts are shares of threads × time: products; elementwise kernels (bias, activation, its
derivative, loss); gathering of rows; summing of gradients and updating; and the rest. The rest is
waiting at barriers, threads with too little work to be woken, the clocks, and the own work of the
engine and of Python.

The bound is that of a roofline. A step can't take less time than its products at the FMA peak. It
can't take less than reading and writing w, m and v (Adam) at the bandwidth of a triad over the same
number of bytes. A triad's write fetches a cache line that is not counted, so beyond the caches this
second bound is up to a third too long. The first bound is exact.

--products lists every product of a step on one thread, by itself. Its matrices are packed without
gaps and are in the caches after repetition. In a step they are where the last loop left them, so it
may be slower. The smallest products show the cost of a call from Python.

The peak is the better of one measured before the cases and one after. If others use the machine's
cores, shares of the peak mean little. Other systems are in compare.py, update rules other than Adam
in test_bench_optimizers.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import compare
import machine
import numpy as np

import svdfast as sf
from svdfast import _engine
from svdfast._blas import multiply
from svdfast._process.runtime import single_threaded_blas
from svdfast._process.timing import timed

RANK_FRACTIONS = (None, 1 / 4, 1 / 8)
PARTS = ("products", "elementwise", "gather", "update", "rest")
LABELS = dict(zip(PARTS, ("products", "elementwise", "gather", "gradient sum and update", "waiting and the rest"), strict=True))
WORKING_SETS = {"256 KiB": 256 * 2**10, "4 MiB": 4 * 2**20, "memory": 384 * 2**20}
SQUARES = (512, 1024, 1536)
BLOCK_SIZE = 262_144  # block of a weight's gradient in a small batch, as in _engine.pyx


class Product(NamedTuple):
    """C (m×n) = or += op(A) (m×k) · op(B) (k×n)."""

    what: str
    m: int
    n: int
    k: int
    transpose_A: bool
    transpose_B: bool
    accumulate: bool = False

    @property
    def operations(self) -> int:
        return 2 * self.m * self.n * self.k


def cut(total: int, most: int) -> list[int]:
    """`total` in the fewest parts of nearly equal size, none above `most`.

    The engine divides batches and weights in this way.
    """
    parts = -(-total // most)
    return [(j + 1) * total // parts - j * total // parts for j in range(parts)]


def step_products(net: Any, batch: int) -> Iterator[Product]:
    """Every product of a step on one thread, as in _engine.pyx."""
    by_weights = batch <= _engine.SUM_ROWS
    # Each product of a forward pass: inputs, outputs, its name, True if it has an input gradient.
    maps = []
    for i, layer in enumerate(net.layers):
        m, n, l = layer.n_in, layer.n_out, layer.rank  # noqa: E741
        name = f"layer {i + 1} "
        if l is None:
            maps.append((m, n, name + "W", i > 0))
        else:
            maps += [(m, l, name + "W2", i > 0), (l, n, name + "W1", True)]
    many = net.layout.n_weights >= _engine.MANY_WEIGHTS
    for j, p in enumerate(cut(batch, _engine.TILE_ROWS * (1 + many))):
        for m, n, name, _ in maps:
            yield Product(f"{name} forward", p, n, m, False, True)
        for m, n, name, backward in maps:
            if backward:
                yield Product(f"{name} backward", p, m, n, False, False)
            if not by_weights:
                yield Product(f"{name} gradient", n, m, p, True, False, j > 0)
    if by_weights:
        for m, n, name, _ in maps:
            for rows in cut(n, max(1, BLOCK_SIZE // m)):
                yield Product(f"{name} gradient", rows, m, batch, True, False)


def gflops(product: Product, n_threads: int = 1, repeats: int = 7, seconds: float = 0.005) -> float:
    """The best Gflop/s of a product, when each of n_threads runs it on matrices of its own."""
    rng = np.random.default_rng(0)
    sets = []
    for _ in range(n_threads):
        shapes = [(product.m, product.k), (product.k, product.n), (product.m, product.n)]
        if product.transpose_A:
            shapes[0] = shapes[0][::-1]
        if product.transpose_B:
            shapes[1] = shapes[1][::-1]
        sets.append([rng.standard_normal(shape, dtype=np.float32) for shape in shapes])
    times = 1

    def work(index: int) -> None:
        A, B, C = sets[index]
        for _ in range(times):
            multiply(A, B, C, product.transpose_A, product.transpose_B, product.accumulate)

    with single_threaded_blas.held():
        start = time.perf_counter()
        work(0)
        times = max(1, int(seconds / (time.perf_counter() - start)))
        best = min(machine.together(n_threads, work) for _ in range(repeats))
    return n_threads * times * product.operations / best / 1e9


def limits(n_threads: int, quick: bool) -> dict[str, Any]:
    """The machine's peaks with `n_threads` threads."""
    repeats = 2 if quick else 7
    return {
        "peak": machine.fma_peak(n_threads),
        "bandwidth": {
            name: machine.memory_bandwidth(n_threads, n_bytes=n_bytes, repeats=repeats)
            for name, n_bytes in WORKING_SETS.items()
            if not (quick and name == "memory")
        },
        "best_gemm": max(
            gflops(Product("", n, n, n, False, False), n_threads, repeats=2 if quick else 5)
            for n in (SQUARES[:1] if quick else SQUARES)
        ),
    }


def measure(
    name: str, case: compare.Case, rank_fraction: float | None, n_threads: int, n_rounds: int
) -> dict[str, Any]:
    """Rounds with the clocks alternating off and on. Parts are of the median one with them on."""
    X, y = compare.make_data(case)
    net = compare.svdfast_network(case, rank_fraction)
    plain = compare.svdfast_round(case, net, X, y, n_threads)
    off, on = [], []
    for _ in range(n_rounds):
        off.append(plain()[0] / case.n_steps)
        times: list[Any] = []
        with contextlib.ExitStack() as stack:
            round_ = compare.svdfast_round(
                case, net, X, y, n_threads, lambda: times.append(stack.enter_context(timed()))  # noqa: B023
            )
            seconds, _ = round_()
        on.append((seconds / case.n_steps, times[0]))
    step = statistics.median(off)
    wall, sums = sorted(on, key=lambda pair: pair[0])[(len(on) - 1) // 2]
    parts = {part: getattr(sums, part) / case.n_steps for part in PARTS[:-1]}
    parts["rest"] = n_threads * wall - sum(parts.values())
    operations = sums.operations // case.n_steps
    assert operations == 2 * case.batch * sf.count_multiplications(net).total
    # w, m and v are read and written.
    n_bytes = 3 * 4 * net.parameters.size
    bandwidth = machine.memory_bandwidth(n_threads, n_bytes=max(n_bytes, 2**16), repeats=3)
    return {
        "case": name,
        "threads": n_threads,
        "rank_fraction": rank_fraction,
        "steps": case.n_steps,
        "step": step,
        "steps_off": off,
        "timed_step": wall,
        "seconds": parts,  # seconds of all threads in a step
        "shares": {part: value / (n_threads * wall) for part, value in parts.items()},
        "operations": operations,
        # The speed of all threads if all computed products.
        "gflops_of_products": n_threads * operations / parts["products"] / 1e9,
        "gflops_of_step": operations / step / 1e9,
        "bound_bytes": None if bandwidth is None else 2 * n_bytes / bandwidth / 1e9,
    }


def evaluate(records: list[dict[str, Any]], peak: float | None) -> None:
    """Adds figures to each record, from the peak of its number of threads."""
    for r in records:
        r["bound_operations"] = None if peak is None else r["operations"] / peak / 1e9
        for kind in ("products", "step"):
            r[f"share_of_peak_{kind}"] = None if peak is None else r[f"gflops_of_{kind}"] / peak


def form(rank_fraction: float | None) -> str:
    return "dense" if rank_fraction is None else f"1/{round(1 / rank_fraction)}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{1e6 * seconds:.2f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def aligned(rows: Sequence[Sequence[str]], n_left: int) -> str:
    """Rows as a table; the first n_left columns align left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < n_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def table(records: list[dict[str, Any]]) -> str:
    rows = [
        ("case", "α", "a step", "products", "elementw.", "gather", "update", "rest", "× clocked",
         "Gflop/s products", "of peak", "Gflop/s step", "of peak", "flop bound", "byte bound", "step ÷ bound")
    ]  # fmt: skip
    for r in records:
        bounds = [b for b in (r["bound_operations"], r["bound_bytes"]) if b is not None]
        rows.append(
            (
                r["case"],
                form(r["rank_fraction"]),
                duration(r["step"]),
                *(percent(r["shares"][part]) for part in PARTS),
                f"{r['timed_step'] / r['step']:.2f}",
                f"{r['gflops_of_products']:.3g}",
                percent(r["share_of_peak_products"]),
                f"{r['gflops_of_step']:.3g}",
                percent(r["share_of_peak_step"]),
                duration(r["bound_operations"]),
                duration(r["bound_bytes"]),
                f"{r['step'] / max(bounds):.2f}" if bounds else "-",
            )
        )
    return aligned(rows, 2)


def measure_products(
    name: str, case: compare.Case, rank_fraction: float | None, peak: float | None, quick: bool
) -> dict[str, Any]:
    """Each product of a step by itself, and the sum of all."""
    net = compare.svdfast_network(case, rank_fraction)
    counts = Counter(step_products(net, case.batch))
    total = sum(product.operations * count for product, count in counts.items())
    # Otherwise the engine's products differ from those of step_products.
    assert total == 2 * case.batch * sf.count_multiplications(net).total
    rows = []
    for product, count in counts.items():
        speed = gflops(product, repeats=1 if quick else 7, seconds=0.0 if quick else 0.005)
        rows.append(
            {
                **product._asdict(),
                "count": count,
                "gflops": speed,
                "share_of_peak": None if peak is None else speed / peak,
                "seconds": count * product.operations / speed / 1e9,
            }
        )
    return {"case": name, "rank_fraction": rank_fraction, "products": rows}


def products_table(record: dict[str, Any]) -> str:
    total = sum(r["seconds"] for r in record["products"])
    rows = [("product", "op(A)·op(B)", "m", "n", "k", "a step", "Gflop/s", "of peak", "of the time")]
    for r in record["products"]:
        shape = f"A{'ᵀ' * r['transpose_A']}·B{'ᵀ' * r['transpose_B']}"
        rows.append(
            (
                r["what"],
                f"{'+= ' if r['accumulate'] else '= '}{shape}",
                *(str(r[size]) for size in "mnk"),
                f"{r['count']} ×",
                f"{r['gflops']:.3g}",
                percent(r["share_of_peak"]),
                percent(r["seconds"] / total),
            )
        )
    return f"{aligned(rows, 2)}\nall of them, each by itself: {duration(total)} a step"


def plot(records: list[dict[str, Any]], file: Path) -> None:
    """A stacked bar for each case, form and number of threads.

    It shows the shares of the time, and above them the step's share of the peak.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 + 0.5 * len(records), 5), layout="constrained")
    axes = figure.subplots()
    names = [f"{r['case']}, {form(r['rank_fraction'])}, {r['threads']} thr." for r in records]
    bottom = np.zeros(len(records))
    for part in PARTS:
        shares = np.array([100 * r["shares"][part] for r in records])
        axes.bar(range(len(records)), shares, bottom=bottom, label=LABELS[part])
        bottom += shares
    for i, r in enumerate(records):
        if r["share_of_peak_step"] is not None:
            share = 100 * r["share_of_peak_step"]
            axes.plot([i - 0.4, i + 0.4], [share, share], color="black", label=None if i else "share of the FMA peak")
            axes.annotate(f"{share:.0f} %", (i, share), ha="center", va="bottom", fontsize="small")
    axes.set_xticks(range(len(records)), names, rotation=45, ha="right")
    axes.set_ylabel("% of threads × time of a step")
    figure.legend(loc="outside right upper")
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", default=["mnist"], help=", ".join(compare.CASES))
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 and all CPUs")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--products", action="store_true", help="also every product of a step by itself, on one thread")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the shares (needs matplotlib)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured here")
    parser.add_argument("--quick", action="store_true", help="few samples, one round: only a check")
    arguments = parser.parse_args()
    for name in arguments.case:
        if name not in compare.CASES:
            parser.error(f"case {name!r}: expected one of {', '.join(compare.CASES)}")
    if arguments.plot:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            parser.error('--plot needs matplotlib, which is in the extra "bench": pip install "svdfast[bench]"')
    cases = {
        name: compare.CASES[name].quick() if arguments.quick else compare.CASES[name] for name in arguments.case
    }

    description = machine.describe()
    print(description)
    result: dict[str, Any] = {"machine": description.splitlines(), "limits": {}, "records": [], "products": []}
    for n_threads in arguments.threads or sorted({1, len(machine.available_cpus())}):
        limit = result["limits"][n_threads] = limits(n_threads, arguments.quick)
        records = [
            measure(name, case, rank_fraction, n_threads, 1 if arguments.quick else arguments.rounds)
            for name, case in cases.items()
            for rank_fraction in RANK_FRACTIONS
        ]
        if limit["peak"] is not None:
            limit["peak"] = max(limit["peak"], machine.fma_peak.__wrapped__(n_threads))
        peak = limit["peak"]
        evaluate(records, peak)
        print(f"\n{n_threads} thread(s)")
        if peak is not None:
            print(f"{'FMA peak':<18} {peak:.0f} Gflop/s float32")
            speeds = (f"{speed:.1f} GB/s ({place})" for place, speed in limit["bandwidth"].items())
            print(f"{'triad':<18} {', '.join(speeds)}")
        print(
            f"{'best product':<18} {limit['best_gemm']:.0f} Gflop/s"
            + (f", {percent(limit['best_gemm'] / peak)} of peak" if peak else "")
        )
        print(table(records), flush=True)
        result["records"] += records
    if arguments.products:
        peak = machine.fma_peak(1)
        for name, case in cases.items():
            for rank_fraction in RANK_FRACTIONS:
                record = measure_products(name, case, rank_fraction, peak, arguments.quick)
                print(f"\n{name}, {form(rank_fraction)}, batch {case.batch}, 1 thread")
                print(products_table(record), flush=True)
                result["products"].append(record)
    if arguments.plot:
        plot(result["records"], arguments.plot)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
