# SPDX-License-Identifier: BSD-3-Clause
"""A training step of 2 processes with 1 thread each, against 1 process with 2 threads.

    python bench/distributed.py [--batch 2048 256] [--rounds N] [--peers torch | none] [--json FILE] [--quick]

PyTorch does the same; DistributedDataParallel over gloo joins its processes. Each round is a job of
its own. Rounds alternate, so that a machine that slows down does so for all. A row gives the
speed-up of two processes over two threads: 1 if the sum over processes costs nothing. Bytes per
step are counted. The exit status is 1 if they differ from the formula, 4·(present parameters) + 12.

Then the law is compared with the measurement. Latency and bandwidth come from sums over two
processes, operations per second from one process with one thread. `expected_speedup` computes the
speed-up of two such processes from these, and last that of larger clusters. A single process is
measured in compare.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Nothing else is imported here: a worker sees only what its own system needs.

SIZES = (784, 512, 256, 10)
SHARES: tuple[float | None, ...] = (None, 1 / 4, 1 / 8)
RATE = 3e-4
STEPS = {2048: 30, 256: 120}
# Assumed operations per second of a cluster's machine; for networks, bytes per second and seconds
# of a short message.
FLOPS = 180e9
NETWORKS = {"1 Gbit/s": (125e6, 50e-6), "10 Gbit/s": (1.25e9, 20e-6), "100 Gbit/s": (12.5e9, 2e-6)}
MACHINES = (2, 4, 16, 64, 256, 1024)


def samples(n: int) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.random((n, SIZES[0]), dtype=np.float32), rng.integers(0, SIZES[-1], n)


def ours(batch: int, share: float | None, n_threads: int, n_steps: int) -> None:
    """One process of our job. It trains; process 0 prints the seconds and bytes of a step."""
    import numpy as np

    import svdfast as sf

    communicator: Any = sf.distributed.mpi() if "MPI" in os.environ["BENCH"] else None
    lengths: list[int] = []

    class Counting:
        """Counts the bytes that are sent."""

        def __init__(self, inner: Any):
            self.rank, self.size, self.broadcast, self.abort = inner.rank, inner.size, inner.broadcast, inner.abort
            self._sum = inner.sum

        def sum(self, buffer: Any) -> None:
            lengths.append(buffer.nbytes)
            self._sum(buffer)

    net = made(share)
    X, y = samples(batch)
    X, y = np.concatenate([X] * n_steps), np.concatenate([y] * n_steps)
    optimizer = sf.Adam(RATE)
    times = []
    for epochs in (1, 3):  # the first is for warming up
        result = sf.train(
            net, X, y, epochs=epochs, batch_size=batch, optimizer=optimizer, n_threads=n_threads, shuffle=False,
            communicator=None if communicator is None else Counting(communicator),
            factoring=sf.Factoring(recompose=False) if share is not None else None,
        )  # fmt: skip
        times = [row["seconds"] / n_steps for row in result.history]
    if communicator is None or communicator.rank == 0:
        expected = net.parameters.nbytes + 12
        n_bytes = expected if communicator is None else statistics.mode(lengths)
        print(json.dumps({"seconds": min(times), "bytes": n_bytes, "formula": expected}), flush=True)


def network(n_bytes: int, n_sums: int) -> None:
    """One of two processes that sum. Process 0 prints the latency and the bandwidth for the law.

    By the law, the sum of B bytes over two processes takes B / bandwidth + 2·latency seconds.
    """
    import numpy as np

    import svdfast as sf

    communicator: Any = sf.distributed.mpi()
    times = []
    for length in (3, n_bytes // 4):
        buffer, found = np.zeros(length, np.float32), []
        for _ in range(n_sums):
            communicator.sum(np.zeros(1, np.float32))  # both begin at the same time
            began = time.perf_counter()
            communicator.sum(buffer)
            found.append(time.perf_counter() - began)
        times.append(statistics.median(found))
    short, long = times
    if communicator.rank == 0:
        print(json.dumps({"latency": short / 2, "bandwidth": n_bytes / max(long - short, 1e-9)}), flush=True)


def theirs(batch: int, share: float | None, n_threads: int, n_steps: int) -> None:
    """The same for PyTorch; rank and size are in the environment, as its own launcher sets them."""
    import torch
    from torch import nn

    torch.set_num_threads(n_threads)
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, (m, n) in enumerate(itertools.pairwise(SIZES)):
        last = i == len(SIZES) - 2
        if share is None or last:
            layers.append(nn.Linear(m, n))
        else:
            rank = round(share * min(m, n))
            layers += [nn.Linear(m, rank, bias=False), nn.Linear(rank, n)]
        if not last:
            layers.append(nn.ReLU())
    net: Any = nn.Sequential(*layers)
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if size > 1:
        torch.distributed.init_process_group("gloo")
        net = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    X, y = (torch.from_numpy(part)[rank * batch // size : (rank + 1) * batch // size] for part in samples(batch))
    times = []
    for _ in range(4):
        began = time.perf_counter()
        for _ in range(n_steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(X), y).backward()
            optimizer.step()
        times.append((time.perf_counter() - began) / n_steps)
    if rank == 0:
        print(json.dumps({"seconds": min(times[1:])}), flush=True)
    if size > 1:
        # Else the first process to end would close the others' connections.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def mpiexec() -> list[str] | None:
    """The command, from a wheel if one is installed; None if there is none."""
    path = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if path is None:
        return None
    version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    if "Open MPI" not in version and "OpenRTE" not in version:
        return [path]
    return [path, "--bind-to", "core", *(["--allow-run-as-root"] if os.getuid() == 0 else [])]


def job(system: str, processes: int, n_threads: int, batch: int, share: float | None, n_steps: int) -> dict[str, Any]:
    """The output of a job."""
    command = [sys.executable, __file__, "--worker", system, str(batch), str(share or 0), str(n_threads), str(n_steps)]
    environment = {**os.environ, "BENCH": "", "OMP_NUM_THREADS": str(n_threads)}
    if system != "torch":
        if processes > 1:
            environment["BENCH"] = "MPI"
            command = [*(mpiexec() or []), "-n", str(processes), *command]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return dict(json.loads(done.stdout.splitlines()[-1]))
    port = 29000 + os.getpid() % 1000
    running = []
    for rank in range(processes):
        own = {**environment, "RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own))
    outputs = [process.communicate(timeout=600) for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError(outputs[0][1] + outputs[-1][1])
    return dict(json.loads(outputs[0][0].splitlines()[-1]))


def installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def measure(systems: list[str], batches: list[int], n_rounds: int, quick: bool) -> list[dict[str, Any]]:
    rows = []
    for batch in batches:
        for share in SHARES:
            # Systems, processes, and threads of each.
            times: dict[tuple[str, int, int], list[float]] = {(system, *form): [] for system in systems for form in ((1, 2), (2, 1))}
            times["ours", 1, 1] = []
            n_bytes = formula = 0
            for _ in range(n_rounds):
                for (system, processes, n_threads), found in times.items():
                    told = job(system, processes, n_threads, batch, share, 4 if quick else STEPS.get(batch, 60))
                    found.append(told["seconds"])
                    if system == "ours" and processes == 2:
                        n_bytes, formula = told["bytes"], told["formula"]
            row: dict[str, Any] = {"batch": batch, "share": share, "bytes": n_bytes, "formula": formula}
            row["alone_ms"] = 1e3 * statistics.median(times["ours", 1, 1])
            for system in systems:
                threads, processes = (statistics.median(times[system, *form]) for form in ((1, 2), (2, 1)))
                row[system] = {"threads_ms": 1e3 * threads, "processes_ms": 1e3 * processes, "ratio": threads / processes}
            rows.append(row)
            parts = [
                f"{system}: 1×2 {row[system]['threads_ms']:.2f} ms, 2×1 {row[system]['processes_ms']:.2f} ms, {row[system]['ratio']:.2f}"
                for system in systems
            ]
            print(f"batch {batch:5}  {form_of(share):6}  {n_bytes:,} bytes a step  {'; '.join(parts)}", flush=True)
    return rows


def form_of(share: float | None) -> str:
    return "dense" if share is None else f"α 1/{round(1 / share)}"


def made(share: float | None) -> Any:
    import svdfast as sf

    net = sf.Network(SIZES, seed=0)
    if share is not None:
        net.truncate(share, force=True, method="randomized")
    return net


def compare(rows: list[dict[str, Any]], n_rounds: int, quick: bool) -> dict[str, float]:
    """Compares the law with the measurement and adds both to the rows.

    They are for two processes with one thread each, against one process.
    """
    import svdfast as sf

    n_bytes = made(None).parameters.nbytes
    found = [job("network", 2, 1, n_bytes, None, 20 if quick else 300) for _ in range(n_rounds)]
    latency, bandwidth = (statistics.median(each[name] for each in found) for name in ("latency", "bandwidth"))
    print(f"\nlaw and measurement: two processes against one, sums with {1e6 * latency:.0f} µs and {bandwidth / 1e9:.2f} GB/s\n")
    print("| batch | weights | one process | operations a second | law | measured |\n| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        net, seconds = made(row["share"]), row["alone_ms"] / 1e3
        flops = 2 * sf.count_multiplications(net).total * row["batch"] / seconds
        row["flops"], row["measured"] = flops, row["alone_ms"] / row["ours"]["processes_ms"]
        row["law"] = sf.distributed.expected_speedup(net, row["batch"], 2, flops=flops, bandwidth=bandwidth, latency=latency)
        print(
            f"| {row['batch']:,} | {form_of(row['share'])} | {row['alone_ms']:.2f} ms | {flops / 1e9:.0f} Gflop/s | {row['law']:.2f} | "
            f"{row['measured']:.2f} |"
        )
    return {"latency": latency, "bandwidth": bandwidth}


def predict() -> None:
    """The law's speed-ups for larger clusters."""
    import svdfast as sf

    dense, factored = made(None), made(1 / 8)
    for rows in (256, 4096):
        print(f"\nexpected speed-up, {FLOPS / 1e9:.0f} Gflop/s a machine, {rows} rows on each")
        print(f"{'network':12} {'':6} " + " ".join(f"{n:>7,}" for n in MACHINES) + "   machines")
        for name, (bandwidth, latency) in NETWORKS.items():
            for text, net in (("dense", dense), ("α 1/8", factored)):
                found = (
                    sf.distributed.expected_speedup(net, rows * n, n, flops=FLOPS, bandwidth=bandwidth, latency=latency) for n in MACHINES
                )
                print(f"{name:12} {text:6} " + " ".join(f"{value:7.1f}" for value in found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[2048, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", choices=("torch", "none"), default="torch")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one round of a few steps at the last batch: only whether it works")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        system, batch, share, n_threads, n_steps = given.worker
        if system == "network":
            network(int(batch), int(n_steps))
            return
        run = ours if system == "ours" else theirs
        run(int(batch), float(share) or None, int(n_threads), int(n_steps))
        return
    missing = [what for what, there in (("mpi4py", installed("mpi4py")), ("mpiexec", mpiexec() is not None)) if not there]
    rows: list[dict[str, Any]] = []
    link: dict[str, float] = {}
    if missing:
        print(f"not measured: {' and '.join(missing)} not installed")
    else:
        import machine

        print(machine.describe(["mpi4py", "mpich", "openmpi", "torch"]), flush=True)
        systems = ["ours", *(["torch"] if given.peers == "torch" and installed("torch") else [])]
        n_rounds = 1 if given.quick else given.rounds
        rows = measure(systems, given.batch[-1:] if given.quick else given.batch, n_rounds, given.quick)
        link = compare(rows, n_rounds, given.quick)
    predict()
    if given.json:
        given.json.write_text(json.dumps({"network": link, "rows": rows}, indent=1) + "\n")
    wrong = [row for row in rows if row["bytes"] != row["formula"]]
    for row in wrong:
        print(f"! {row['bytes']} bytes a step at batch {row['batch']}, the formula says {row['formula']}")
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
