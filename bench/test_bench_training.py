# SPDX-License-Identifier: BSD-3-Clause
"""Timings of an epoch of `sf.train`, dense and factored, beside its multiplications.

Networks are those of the paper and larger ones. Timings are of the whole call, including its checks
of arguments. Other systems, and epochs without work done once per training, are in compare.py;
single layers are in test_bench_kernels.py.
"""

from collections.abc import Callable
from typing import Any

import compare
import machine
import pytest

import svdfast as sf
from svdfast.reproduce import small, study

# Networks of compare.py that are in the paper, and further ones of `svdfast reproduce`.
NETWORKS = {name: compare.CASES[name] for name in ("mnist", "mnist-small-batch", "cat", "xor")}
NETWORKS["small"] = compare.Case(tuple(small.SIZES), batch=2048, n_samples=61_440)
NETWORKS |= {name: compare.Case(tuple(sizes), batch=512, n_samples=4096) for name, sizes in study.LARGE.items()}


@pytest.mark.parametrize("rank_fraction", compare.RANK_FRACTIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_epoch(
    benchmark: Any, record: Callable[..., None], name: str, rank_fraction: float | None
) -> None:
    case = NETWORKS[name]
    if benchmark.disabled:
        case = case.quick()
    n_threads = len(machine.available_cpus())
    benchmark.group = f"an epoch of {name}, {n_threads} threads"
    X, y = compare.make_data(case)
    net = sf.Network(case.sizes, output="softmax" if case.sizes[-1] > 1 else "sigmoid", seed=0)
    if rank_fraction is not None:
        net.truncate(rank_fraction, force=True)
    some = X[:4096], y[:4096]
    before = net.evaluate(*some).loss
    # So small that the loss falls from the first step on, even in the widest network.
    optimizer = sf.Adam(1e-5)

    def epoch() -> sf.TrainingResult:
        return sf.train(
            net,
            X,
            y,
            epochs=case.epochs,
            batch_size=case.batch,
            optimizer=optimizer,
            factoring=sf.Factoring(pretrain_fraction=1, recompose=False),
            n_threads=n_threads,
        )

    result = benchmark.pedantic(epoch, rounds=5, warmup_rounds=1)
    count = sf.count_multiplications(net)
    record(case.epochs * case.n_samples * count.total, n_threads, rank_fraction=rank_fraction, promised=count.ratio)
    assert result.n_steps == case.n_steps
    assert net.evaluate(*some).loss < before


@pytest.mark.parametrize("rank_fraction", [1 / 4, 1 / 8])
@pytest.mark.parametrize("name", ["mnist", "wide"])
def test_switch(benchmark: Any, name: str, rank_fraction: float) -> None:
    """Times truncation and everything that `train` does with it.

    It is compared with a dense epoch of 60,000 samples, of which a few steps are timed.
    """
    case = compare.CASES[name]
    n_threads = len(machine.available_cpus())
    benchmark.group = f"the switch of {name}"
    X, y = compare.make_data(case)
    X, y = X[: 3 * case.batch], y[: 3 * case.batch]

    def switch() -> tuple[float, float]:
        net = sf.Network(case.sizes, seed=0)
        settings = {"batch_size": case.batch, "n_threads": n_threads}
        dense = sf.train(net, X, y, epochs=2, factoring=None, **settings).history[-1]
        start = 0.5  # between the two epochs
        result = sf.train(
            net, X, y, epochs=2, factoring=sf.Factoring(rank_fraction, pretrain_fraction=start), **settings
        )
        assert [len(e.info["truncations"]) for e in result.events if e.kind == "switch"] == [2]
        return result.events[0].info["seconds"], dense["seconds"] / 3 * 60_000 / case.batch

    seconds, epoch = benchmark.pedantic(switch, rounds=1)
    benchmark.extra_info.update(
        seconds_of_the_switch=round(seconds, 4), share_of_dense_epoch=round(seconds / epoch, 4)
    )
    assert seconds > 0 and epoch > 0


@pytest.mark.parametrize("rank_fraction", compare.RANK_FRACTIONS)
@pytest.mark.parametrize(
    "case",
    [
        compare.Case((20, 16, 12, 3), batch=8, n_samples=48),
        compare.Case((20, 16, 12, 1), batch=48, n_samples=48, epochs=5),
    ],
    ids=["shuffled", "one batch"],
)
def test_systems_do_the_same(case: compare.Case, rank_fraction: float | None) -> None:
    """compare.py times the same computation by svdfast and by NumPy.

    Both reach the same losses; in bfloat16 they nearly do.
    """
    losses = {
        name: run()[1]
        for variants in (compare.svdfast_variants, compare.numpy_variants)
        for name, fraction, run in variants(case, 1)
        if fraction == rank_fraction
    }
    assert losses["svdfast"] == pytest.approx(losses["numpy"], rel=1e-5)
    assert all(loss == pytest.approx(losses["numpy"], rel=1e-2) for loss in losses.values())
