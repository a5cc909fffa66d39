# SPDX-License-Identifier: BSD-3-Clause
"""Timings of an epoch of `sf.train`, dense and factored: the whole call, its checks of arguments included.

Not here: other systems, and an epoch without what is done once for a training (compare.py); a layer alone
(test_bench_kernels.py).
"""

from collections.abc import Callable
from typing import Any

import compare
import machine
import pytest

import svdfast as sf


@pytest.mark.parametrize("rank_fraction", compare.RANK_FRACTIONS)
@pytest.mark.parametrize("name", ["mnist", "mnist-small-batch"])
def test_epoch(
    benchmark: Any, record: Callable[..., None], name: str, rank_fraction: float | None
) -> None:
    case = compare.CASES[name]
    n_threads = len(machine.available_cpus())
    benchmark.group = f"an epoch of {name}, {n_threads} threads"
    X, y = compare.make_data(case)
    net = sf.Network(case.sizes, seed=0)
    if rank_fraction is not None:
        net.truncate(rank_fraction, force=True)
    some = X[:4096], y[:4096]
    before = net.evaluate(*some).loss
    optimizer = sf.Adam(compare.LEARNING_RATE)

    def epoch() -> sf.TrainingResult:
        return sf.train(
            net,
            X,
            y,
            epochs=1,
            batch_size=case.batch,
            optimizer=optimizer,
            rank_fraction=None,
            recompose=False,
            n_threads=n_threads,
        )

    result = benchmark.pedantic(epoch, rounds=5, warmup_rounds=1)
    count = sf.count_multiplications(net)
    record(case.n_samples * count.total, n_threads, rank_fraction=rank_fraction, promised=count.ratio)
    assert result.n_steps == case.n_steps
    assert net.evaluate(*some).loss < before


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
    """What compare.py times as svdfast and as NumPy is one computation: they come to the same losses."""
    losses = []
    for variants in (compare.svdfast_variants, compare.numpy_variants):
        run = {fraction: run for _, fraction, run in variants(case, 1)}[rank_fraction]
        losses.append(run()[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
