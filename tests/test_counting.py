# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the counted multiplications: the published table, and the law behind each formula.

Counts are of stand-ins for layers, with three attributes; summaries of networks.
"""

from dataclasses import FrozenInstanceError, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import svdfast as sf
from svdfast.model.origin import Origin


@dataclass
class Layer:
    n_in: Any
    n_out: Any
    rank: Any


@dataclass
class Net:
    layers: list[Layer]


def chain(sizes: list[int], rank_fraction: float | None) -> Net:
    """A network with its hidden layers factored and its last layer dense."""
    layers = [Layer(m, n, None) for m, n in pairwise(sizes)]
    if rank_fraction is not None:
        for layer in layers[:-1]:
            layer.rank = max(1, int(rank_fraction * min(layer.n_in, layer.n_out)))
    return Net(layers)


def products(layer: Layer, mode: str, first: bool) -> int:
    """Multiplications of a layer for one sample, summed over the products it really does."""
    m, n, k = layer.n_in, layer.n_out, layer.rank
    if k is None:
        shapes = [(n, m)]  # W·X
        if mode == "step":
            shapes += [(n, m)]  # ∂Z·Xᵀ
            shapes += [] if first else [(m, n)]  # Wᵀ·∂Z
    else:
        shapes = [(k, m), (n, k)]  # H = W2·X, W1·H
        if mode == "step":
            shapes += [(n, k), (k, n), (k, m)]  # ∂Z·Hᵀ, D = W1ᵀ·∂Z, D·Xᵀ
            shapes += [] if first else [(m, k)]  # W2ᵀ·D
    return sum(a * b for a, b in shapes)


XOR = [2, 20, 20, 1]
CAT = [12288, 100, 1]
MNIST = [784, 512, 256, 10]


@pytest.mark.parametrize(
    ("sizes", "rank_fraction", "mode", "ratio"),
    [
        (XOR, 1 / 2, "forward", 1.04),
        (CAT, 1 / 2, "forward", 1.98),
        (CAT, 1 / 2, "step", 1.98),
        (MNIST, 1 / 2, "forward", 1.24),
        (MNIST, 1 / 2, "step", 1.10),
        (MNIST, 1 / 4, "forward", 2.46),
        (MNIST, 1 / 4, "step", 2.18),
        (MNIST, 1 / 8, "forward", 4.86),
        (MNIST, 1 / 8, "step", 4.30),
    ],
)
def test_ratios_of_the_reports_networks(sizes, rank_fraction, mode, ratio):
    assert round(sf.count_multiplications(chain(sizes, rank_fraction), mode).ratio, 2) == ratio


def test_xor_counts():
    count = sf.count_multiplications(chain(XOR, 1 / 2), "forward")
    assert (count.dense_total, count.total) == (460, 442)
    assert [layer.multiplications for layer in count.layers] == [22, 400, 20]
    assert [layer.dense for layer in count.layers] == [40, 400, 20]
    assert [layer.rank for layer in count.layers] == [1, 10, None]


sizes_and_ranks = st.tuples(
    st.integers(1, 500), st.integers(1, 500), st.none() | st.integers(1, 500)
)


@given(st.lists(sizes_and_ranks, min_size=1, max_size=5), st.sampled_from(["forward", "step"]))
def test_counts_are_the_sum_of_the_products(layers, mode):
    net = Net([Layer(*layer) for layer in layers])
    count = sf.count_multiplications(net, mode)
    assert count.mode == mode
    assert [layer.multiplications for layer in count.layers] == [
        products(layer, mode, first=index == 0) for index, layer in enumerate(net.layers)
    ]
    dense = [Layer(layer.n_in, layer.n_out, None) for layer in net.layers]
    assert [layer.dense for layer in count.layers] == [
        products(layer, mode, first=index == 0) for index, layer in enumerate(dense)
    ]
    assert count.total == sum(layer.multiplications for layer in count.layers)
    assert count.ratio == count.dense_total / count.total


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.booleans())
def test_break_even_rank_is_the_last_one_that_saves(n_in, n_out, first_layer):
    rank = sf.break_even_rank(n_in, n_out, first_layer)
    assert 0 <= rank < max(2, min(n_in, n_out))
    dense = products(Layer(n_in, n_out, None), "step", first_layer)
    if rank:
        assert products(Layer(n_in, n_out, rank), "step", first_layer) < dense
    assert products(Layer(n_in, n_out, rank + 1), "step", first_layer) >= dense


def test_break_even_rank_examples():
    assert sf.break_even_rank(512, 512) == 255  # 256 is exactly even, and so saves nothing
    assert sf.break_even_rank(784, 512, first_layer=True) == 258
    assert sf.break_even_rank(2, 20, first_layer=True) == 1
    assert sf.break_even_rank(1, 1) == 0


def test_exact_beyond_64_bits():
    huge = np.int64(2**40)
    assert sf.break_even_rank(huge, huge) == 2**39 - 1
    net = Net([Layer(huge, huge, None)])
    assert sf.count_multiplications(net, "forward").total == 2**80


def test_default_mode_is_a_step():
    assert sf.count_multiplications(chain(MNIST, 1 / 4)).mode == "step"


def test_table():
    lines = str(sf.count_multiplications(chain(XOR, 1 / 2), "forward")).splitlines()
    assert lines == [
        "layer   rank  dense  forward  ratio",
        "2-20       1     40       22   1.82",
        "20-20     10    400      400   1.00",
        "20-1   dense     20       20   1.00",
        "total           460      442   1.04",
    ]


def test_result_is_frozen():
    count = sf.count_multiplications(chain(XOR, None))
    with pytest.raises(FrozenInstanceError):
        count.mode = "forward"
    with pytest.raises(FrozenInstanceError):
        count.layers[0].rank = 1


def test_bad_arguments():
    with pytest.raises(ValueError, match="mode: expected forward or step, got 'backward'"):
        sf.count_multiplications(chain(XOR, None), "backward")
    with pytest.raises(TypeError, match="net: expected a Network or another object with layers, got int"):
        sf.count_multiplications(3)
    with pytest.raises(ValueError, match="at least one layer"):
        sf.count_multiplications(Net([]))
    with pytest.raises(ValueError, match="rank of layer 1: expected an integer ≥ 1, got 0"):
        sf.count_multiplications(Net([Layer(2, 3, None), Layer(3, 2, 0)]))
    with pytest.raises(TypeError, match="n_in of layer 0: expected an integer, got float"):
        sf.count_multiplications(Net([Layer(2.0, 3, None)]))
    with pytest.raises(ValueError, match="n_out: expected an integer ≥ 1, got 0"):
        sf.break_even_rank(3, 0)
    with pytest.raises(TypeError, match="n_in: expected an integer, got bool"):
        sf.break_even_rank(True, 3)


def test_a_summary_tells_layers_and_data():
    net = sf.Network([13, 40, 30, 3], hidden=["relu", "tanh"], dtype="float64", seed=0)
    net.truncate(ranks=[None, 5])
    lines = [line.split() for line in net.summary().splitlines()]
    assert lines[0] == ["layer", "activation", "form", "parameters", "forward", "step"]
    assert lines[1] == ["13-40", "relu", "dense", "560", "520", "1,040"]
    assert lines[2] == ["40-30", "tanh", "rank", "5", "380", "350", "1,050"]
    assert lines[3] == ["30-3", "softmax", "dense", "93", "90", "270"]
    assert lines[4] == ["total", "1,033", "960", "2,360"] and net.parameters.size == 1033
    assert net.summary().endswith("\n13 inputs, 3 outputs, float64")
    net.origin = Origin(classes=("a", "b", "c"), feature_names=tuple(f"x{i}" for i in range(13)))
    names = ", ".join(f"x{i}" for i in range(13))
    assert net.summary().endswith(f"\n13 features, 3 classes, float64\nclasses a, b, c\nfeatures {names}")
    bit = sf.Network([2, 1], output="sigmoid", seed=0)
    bit.origin = Origin(classes=(False, True))
    assert bit.summary().endswith("\n2 inputs, 2 classes, float32\nclasses False, True")
    assert all(line == line.rstrip() for line in net.summary().splitlines())
