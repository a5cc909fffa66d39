# SPDX-License-Identifier: BSD-3-Clause
"""The measured break-even rank: searched on a ladder, kept by shape, and without a trace in the layer."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not there")
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import pack_sequence  # noqa: E402
from torch_training import Alone  # noqa: E402

from svdfast.torch import FactoredLinear, factorize, timing, turns  # noqa: E402
from svdfast.torch.observe import Inputs, observe  # noqa: E402
from svdfast.torch.places import sides  # noqa: E402
from svdfast.torch.timing import ladder, measured_break_even  # noqa: E402


@pytest.fixture(autouse=True)
def fresh():
    torch.manual_seed(0)
    timing.forget()
    yield
    timing.forget()


def factored_linear(n_in, n_out, rank):
    W1, W2 = nn.Parameter(torch.randn(n_out, rank)), nn.Parameter(torch.randn(rank, n_in))
    return FactoredLinear(W1, W2, nn.Parameter(torch.zeros(n_out)))


def seen_by(layer, *args):
    return observe(Alone(layer), [args], {layer: "layer"}, gram=False)[layer]


@pytest.fixture
def clock(monkeypatch):
    """A measured ratio that a test chooses by rank; what was measured."""
    asked = []

    def install(ratio):
        def made(kind, layer, rank, device):
            asked.append(rank)
            return layer

        monkeypatch.setattr(timing, "_random", made)
        monkeypatch.setattr(timing, "_medians", lambda *_: (ratio(asked[-1]), 1.0))
        return asked

    return install


def test_the_ladder():
    assert ladder(1024, 1024, "cuda") == list(range(64, 512, 64))
    assert ladder(100, 100, "cpu") == [16, 32, 48]
    assert ladder(20, 10, "cpu") == ladder(1, 1, "cpu") == ladder(0, 5, "cpu") == ladder(20, 20, "cuda") == []


@pytest.mark.parametrize("limit", [0, 16, 17, 100, 240, 255, 10_000])
def test_the_search_finds_the_last_rank_that_is_worth_it(limit, clock):
    asked = clock(lambda rank: 0.79 if rank <= limit else 0.81)
    layer = nn.Linear(512, 512)
    found = measured_break_even(layer, seen_by(layer, torch.rand(4, 512)))
    assert found == max([0, *(rank for rank in ladder(512, 512, "cpu") if rank <= limit)])
    assert len(asked) <= 5


def test_times_are_kept_by_what_they_depend_on(clock):
    asked = clock(lambda rank: 0.5)
    layer = nn.Linear(64, 64)
    look = seen_by(layer, torch.rand(4, 64))
    assert measured_break_even(layer, look) == 16
    n = len(asked)
    assert n > 0
    assert measured_break_even(nn.Linear(64, 64), seen_by(nn.Linear(64, 64), torch.rand(4, 64))) == 16
    assert len(asked) == n
    for other, x in (
        (nn.Linear(64, 64), torch.rand(5, 64)),
        (nn.Linear(64, 64).double(), torch.rand(4, 64).double()),
        (nn.Linear(64, 96), torch.rand(4, 64)),
        (nn.Conv2d(8, 64, 3), torch.rand(4, 8, 8, 8)),
        (nn.Conv2d(8, 64, 3, stride=2), torch.rand(4, 8, 8, 8)),
        (nn.Conv2d(8, 64, 3, stride=2), torch.rand(4, 8, 8, 8).to(memory_format=torch.channels_last)),
        (nn.Linear(64, 64).requires_grad_(False), torch.rand(4, 64)),
    ):
        measured_break_even(other, seen_by(other, x))
        assert len(asked) > n
        n = len(asked)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        measured_break_even(layer, seen_by(layer, torch.rand(4, 64)))
    assert len(asked) > n


def test_what_the_clock_says_is_a_rung():
    """Which one depends on the machine and on what else it does."""
    layer = nn.Linear(256, 256)
    found = measured_break_even(layer, seen_by(layer, torch.rand(64, 256)))
    assert found in [0, *ladder(256, 256, "cpu")]


def test_both_forms_are_timed_as_the_whole_batch_and_nothing_changes(monkeypatch):
    layer = factored_linear(1024, 1024, 128)
    look = seen_by(layer, torch.rand(256, 1024))
    before, drawn = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    dense, factored = timing.both_forms(layer, look, seconds=0.0)
    assert 0 < factored and 0 < dense
    assert torch.equal(torch.get_rng_state(), drawn) and all(p.grad is None for p in layer.parameters())
    assert all(torch.equal(now, then) for now, then in zip(layer.state_dict().values(), before.values(), strict=True))
    # A pass of 64 of 256 rows is scaled.
    monkeypatch.setattr(timing, "_medians", lambda *_: (1.0, 2.0))
    assert timing.both_forms(layer, look) == (8.0, 4.0)


def test_the_dense_step_of_now(monkeypatch):
    layer = factored_linear(64, 64, 4)
    look = seen_by(layer, torch.rand(8, 64))
    assert turns.dense_step_now(1.0, {}, {"a": look}, 1, 0.1) is None
    assert turns.dense_step_now(1.0, {"a": layer}, {}, 1, 0.1) is None
    monkeypatch.setattr(turns, "both_forms", lambda layer, seen, seconds: (0.5, 0.2))
    # Two layers, each called three times in a step.
    assert turns.dense_step_now(4.0, {"a": layer, "b": layer}, {"a": look, "b": look}, 3, 0.1) == pytest.approx(4 + 6 * 0.3)


@pytest.mark.parametrize("make, args", [
    (lambda: nn.Linear(96, 96), (torch.rand(3, 5, 96),)),
    (lambda: nn.Conv2d(16, 64, 3, padding=1), (torch.rand(2, 16, 9, 9),)),
    (lambda: nn.Conv2d(16, 64, 3, padding=1), (torch.rand(16, 9, 9),)),
    (lambda: nn.Conv1d(16, 64, 3), (torch.rand(2, 16, 9),)),
    (lambda: nn.LSTM(64, 32, bidirectional=True), (torch.rand(5, 3, 64),)),
    (lambda: nn.GRU(64, 32, num_layers=2, dropout=0.5), (pack_sequence([torch.rand(n, 64) for n in (3, 5)], enforce_sorted=False),)),
    (lambda: nn.MultiheadAttention(64, 4, dropout=0.1), (torch.rand(5, 3, 64),) * 3),
    (lambda: nn.MultiheadAttention(64, 4), (torch.rand(5, 3, 64), torch.rand(6, 3, 64), torch.rand(6, 3, 64))),
])  # fmt: skip
def test_all_kinds_and_no_trace(make, args):
    layer = make()
    model = Alone(layer)
    look = seen_by(layer, *args)
    before = copy.deepcopy(layer.state_dict())
    random = torch.get_rng_state()
    with torch.no_grad():
        found = measured_break_even(layer, look)
    assert found in (0, *ladder(*sides(layer), "cpu"))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in layer.parameters()) and layer.training
    factorize(model, rank_fraction=0.1, force=True)
    n = len(timing._times)
    measured_break_even(model.layer, look)  # of a factored one as of the dense
    assert len(timing._times) == n


def test_nothing_to_measure():
    layer = nn.Linear(64, 64)
    assert measured_break_even(layer, seen_by(layer, torch.rand(0, 64))) == 0
    with pytest.raises(TypeError, match="layer: expected a layer that can be factored, got a ReLU"):
        measured_break_even(nn.ReLU(), seen_by(layer, torch.rand(2, 64)))


def test_a_large_batch_is_timed_by_a_part():
    layer = nn.Linear(512, 512)
    look = seen_by(layer, torch.empty(1, 1).expand(1, 512).expand(20_000, 512))
    (inputs,) = timing._inputs(timing.kind_of(layer), layer, look.inputs, torch.device("cpu"))
    assert 64 <= len(inputs) < 2000
    wide = nn.Linear(4096, 4096, device="meta")
    of_wide = Inputs((20_000, 4096), torch.float32, False)
    (inputs,) = timing._inputs(timing.kind_of(wide), wide, (of_wide,), torch.device("cpu"))
    assert len(inputs) == 64
