# SPDX-License-Identifier: BSD-3-Clause
"""Time of predictions of 1 to 60,000 samples by svdfast and by other systems, dense and factored.

    python bench/prediction.py [--peers torch,onnxruntime | none] [--batches 1 32 ...] [--threads 1 2] [--rounds N] [--json FILE] [--quick]

The network is 784-512-256-10. A prediction is a user's call, with samples in a float32 array and
probabilities in a new one: `Network.predict`, a torch.nn.Sequential in inference mode, or an ONNX
model in onnxruntime. Each system runs in a process of its own, with its threads and CPUs set before
it starts. All have the same weights. In bfloat16, svdfast rounds the weights again in each call;
PyTorch's model is converted once, and its samples in each call. Rounds alternate (A B C A B C). A
round makes enough calls to take some time, and its result is the mean of a call. The probabilities
of the first rows are compared. If they differ, a line that begins with "!" is printed, and the exit
status is 1.

Training is measured in compare.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Nothing else is imported here: a worker sees only what its own system needs.
import compare

CASE = compare.CASES["mnist"]
RANK_FRACTIONS = (None, 1 / 4, 1 / 8)
BATCHES = (1, 32, 256, 2048, 60_000)
ROUND = 0.1  # approximate seconds of a round
COMPARED = 32  # rows whose probabilities are compared
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}

Predict = Callable[[], Any]
# The name of a variant of a system, its rank_fraction (None: dense), and a function that predicts
# once and returns an array.
Variants = Iterator[tuple[str, float | None, Predict]]


def samples(n: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).random((n, CASE.sizes[0]), dtype=np.float32)


def svdfast_variants(X: Any, n_threads: int) -> Variants:
    from svdfast import show_config

    fast = show_config()["bfloat16_products"] == "instructions"
    for precision in ["float32", "bfloat16"] if fast else ["float32"]:
        for rank_fraction in RANK_FRACTIONS:
            net = compare.svdfast_network(CASE, rank_fraction)

            def predict(net: Any = net, precision: str = precision) -> Any:
                return net.predict(X, precision=precision, n_threads=n_threads)

            yield "svdfast" if precision == "float32" else f"svdfast {precision}", rank_fraction, predict


def torch_variants(X: Any, n_threads: int) -> Variants:
    import torch

    torch.set_num_threads(n_threads)
    for kind in (torch.float32, torch.bfloat16):
        for rank_fraction in RANK_FRACTIONS:
            modules: list[torch.nn.Module] = []
            for (m, n, ends), W in zip(
                compare.linear_maps(CASE, rank_fraction),
                compare.initial_weights(CASE, rank_fraction),
                strict=True,
            ):
                linear = torch.nn.Linear(m, n, bias=ends)
                with torch.no_grad():
                    linear.weight.copy_(torch.from_numpy(W))
                    if ends:
                        linear.bias.zero_()
                modules += [linear, torch.nn.ReLU()] if ends else [linear]
            modules[-1] = torch.nn.Softmax(dim=1)
            model = torch.nn.Sequential(*modules).eval().to(kind)

            def predict(model: Any = model, kind: Any = kind) -> Any:
                with torch.inference_mode():
                    return model(torch.from_numpy(X).to(kind)).float().numpy()

            yield "torch" if kind is torch.float32 else "torch bfloat16", rank_fraction, predict


def onnxruntime_variants(X: Any, n_threads: int) -> Variants:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    for rank_fraction in RANK_FRACTIONS:
        model = onnx_model(rank_fraction)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        def predict(session: Any = session) -> Any:
            return session.run(None, {"X": X})[0]

        yield "onnxruntime", rank_fraction, predict


def onnx_model(rank_fraction: float | None) -> bytes:
    """The network as an ONNX model.

    A Gemm with a bias ends a layer; a MatMul is the first half of a factored one.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []
    below = "X"
    maps = compare.linear_maps(CASE, rank_fraction)
    for i, ((_, n, ends), W) in enumerate(
        zip(maps, compare.initial_weights(CASE, rank_fraction), strict=True)
    ):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(W.T), f"W{i}"))
        if ends:
            constants.append(numpy_helper.from_array(np.zeros(n, dtype=np.float32), f"b{i}"))
            last = i == len(maps) - 1
            nodes.append(helper.make_node("Gemm", [below, f"W{i}", f"b{i}"], [f"Z{i}"]))
            below = "Y" if last else f"A{i}"
            activation = helper.make_node("Softmax", [f"Z{i}"], [below], axis=1)
            nodes.append(activation if last else helper.make_node("Relu", [f"Z{i}"], [below]))
        else:
            nodes.append(helper.make_node("MatMul", [below, f"W{i}"], [f"H{i}"]))
            below = f"H{i}"
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", CASE.sizes[0]])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["n", CASE.sizes[-1]])],
        constants,
    )
    # This opset and version of the format also work with older runtimes.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


# Name: the packages that must be installed, and the function.
SYSTEMS: dict[str, tuple[tuple[str, ...], Callable[[Any, int], Variants]]] = {
    "svdfast": (("svdfast",), svdfast_variants),
    "torch": (("torch",), torch_variants),
    "onnxruntime": (("onnx", "onnxruntime"), onnxruntime_variants),
}


def serve(system: str, n_threads: int) -> None:
    """The work of a worker: it answers the lines on stdin.

    Each line is a batch to prepare for, or the number of a variant and of calls.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n_threads])
    # Output of libraries goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    variants: list[tuple[str, float | None, Predict]] = []
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any
        if "batch" in request:
            variants = list(SYSTEMS[system][1](samples(request["batch"]), n_threads))
            answer = []
            for name, rank_fraction, predict in variants:
                first = predict()[:COMPARED].tolist()
                start = time.perf_counter()
                predict()
                answer.append((name, rank_fraction, first, time.perf_counter() - start))
        else:
            predict = variants[request["variant"]][2]
            start = time.perf_counter()
            for _ in range(request["calls"]):
                predict()
            answer = (time.perf_counter() - start) / request["calls"]
        print(json.dumps(answer), file=answers, flush=True)


def multiplications(rank_fraction: float | None) -> int:
    """Multiplications of a prediction of one sample."""
    return sum(m * n for m, n, _ in compare.linear_maps(CASE, rank_fraction))


def measure(
    batch: int, n_threads: int, workers: dict[str, compare.Worker], n_rounds: int, round_seconds: float
) -> list[dict[str, Any]]:
    """A record for each variant of each system. Its rounds alternate with those of all others."""
    records = []
    for worker in workers.values():
        for index, (variant, rank_fraction, first, once) in enumerate(worker.ask({"batch": batch})):
            records.append(
                {
                    "batch": batch,
                    "threads": n_threads,
                    "system": worker.system,
                    "variant": variant,
                    "rank_fraction": rank_fraction,
                    "multiplications_per_sample": multiplications(rank_fraction),
                    "first": first,
                    "seconds": [],
                    "request": {"variant": index, "calls": max(1, round(round_seconds / once))},
                }
            )
    for number in range(n_rounds + 1):
        for record in records:
            time.sleep(compare.PAUSE)
            seconds = workers[record["system"]].ask(record["request"])
            if number > 0:  # the first round is for warming up
                record["seconds"].append(seconds)
    return records


def check(records: list[dict[str, Any]]) -> list[str]:
    """Lines on results that do not agree with svdfast's float32 probabilities."""
    expected = {r["rank_fraction"]: r["first"] for r in records if r["variant"] == "svdfast"}
    failures = []
    for record in records:
        differences = [
            abs(a - b)
            for ours, theirs in zip(record.pop("first"), expected[record["rank_fraction"]], strict=True)
            for a, b in zip(ours, theirs, strict=True)
        ]
        # max would skip a NaN.
        wrong = record["difference"] = math.nan if any(map(math.isnan, differences)) else max(differences)
        if not wrong <= TOLERANCES["bfloat16" if "bfloat16" in record["variant"] else "float32"]:
            failures.append(
                "{variant}, rank_fraction {rank_fraction}, batch {batch}: probabilities differ from svdfast's by {difference:.2g}".format(
                    **record
                )
            )
    return failures


def evaluate(records: list[dict[str, Any]]) -> None:
    """Adds figures to each record of one batch, from its seconds and from the others'."""
    medians = {
        (r["variant"], r["rank_fraction"]): statistics.median(r["seconds"]) for r in records
    }
    for record in records:
        del record["request"]
        variant, rank_fraction = record["variant"], record["rank_fraction"]
        median = record["median"] = medians[variant, rank_fraction]
        record["gflops"] = 2e-9 * record["multiplications_per_sample"] * record["batch"] / median
        record["times_svdfast"] = median / medians["svdfast", rank_fraction]
        record["dense_over_this"] = medians[variant, None] / median


def table(records: list[dict[str, Any]]) -> str:
    def duration(seconds: float) -> str:
        return f"{1e6 * seconds:.1f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"

    rows = [
        ("system", "α", "a call", "min", "max", "samples/s", "Gflop/s", "× svdfast", "dense ÷ this", "promised")
    ]  # fmt: skip
    for r in records:
        dense = r["rank_fraction"] is None
        rows.append(
            (
                r["variant"],
                "dense" if dense else f"{r['rank_fraction']:g}",
                duration(r["median"]),
                duration(min(r["seconds"])),
                duration(max(r["seconds"])),
                f"{r['batch'] / r['median']:,.0f}",
                f"{r['gflops']:.3g}",
                f"{r['times_svdfast']:.2f}",
                "" if dense else f"{r['dense_over_this']:.2f}",
                "" if dense else f"{multiplications(None) / r['multiplications_per_sample']:.2f}",
            )
        )
    return compare.aligned(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peers",
        default=",".join(list(SYSTEMS)[1:]),
        help="systems beside svdfast, with commas between; or none (default: %(default)s)",
    )
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help=f"default: {' '.join(map(str, BATCHES))}")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 and all CPUs")
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all that was measured here")
    parser.add_argument("--quick", action="store_true", help="few samples, one round: only a check")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(arguments.worker, arguments.threads[0])
        return
    peers = [] if arguments.peers == "none" else arguments.peers.split(",")
    for peer in peers:
        if peer not in SYSTEMS:
            parser.error(f"peer {peer!r}: expected one of {', '.join(SYSTEMS)}")
    if min(arguments.batches) < 1:
        parser.error("--batches: expected numbers of samples from 1 on")

    import machine

    description = machine.describe(peers)
    print(description)
    systems = ["svdfast"]
    for peer in peers:
        missing = [name for name in SYSTEMS[peer][0] if importlib.util.find_spec(name) is None]
        if missing:
            print(f"{peer}: {', '.join(missing)} not installed, left out")
        else:
            systems.append(peer)
    environments = {system: compare.worker_environment(system) for system in systems}
    for system, environment in environments.items():
        if environment:
            print(f"{system}: runs with {environment}")

    result: dict[str, Any] = {"machine": description.splitlines(), "records": []}
    failures = []
    batches = [n for n in arguments.batches if n <= 256] if arguments.quick else arguments.batches
    for n_threads in arguments.threads or sorted({1, len(machine.available_cpus())}):
        workers: dict[str, compare.Worker] = {}
        try:
            for system in dict.fromkeys(systems):
                workers[system] = compare.Worker(system, n_threads, environments[system], __file__)
            for batch in batches:
                rounds = (1, 0.0) if arguments.quick else (arguments.rounds, ROUND)
                records = measure(batch, n_threads, workers, *rounds)
                failures += check(records)
                evaluate(records)
                print(f"\n{'-'.join(map(str, CASE.sizes))}, {batch:,} sample(s) a call, {n_threads} thread(s)")
                print(table(records), flush=True)
                result["records"] += records
        finally:
            for worker in workers.values():
                worker.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
    for failure in failures:
        print(f"! {failure}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
