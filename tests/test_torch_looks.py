# SPDX-License-Identifier: BSD-3-Clause
"""What the looks of "auto" may take: a share of the training, whatever sample is given, by the clock or counted."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not there")
from torch import nn  # noqa: E402
from torch_training import model, one_thread  # noqa: E402, F401

from svdfast.torch import Schedule, budget, factorize, looks, schedule, timing, watch  # noqa: E402
from svdfast.torch.batches import given, halves  # noqa: E402
from svdfast.torch.sample import Sample  # noqa: E402
from svdfast.torch.truncate import Decomposed, truncate  # noqa: E402
from svdfast.training.auto import LOOKING  # noqa: E402

ROWS = 32


def mse(output, batch):
    return (output - batch[1]).square().mean()


class Run:
    """A training whose time is that of the rows that the model sees: 1 for one forward, 3 for one of a step."""

    def __init__(self, monkeypatch, n_steps, rows, clock, n_batches=1, **settings):
        torch.manual_seed(0)
        self.now, self.looked = 0.0, 0
        self.net = model()
        self.net.tanh.register_forward_pre_hook(self.count)
        if clock:
            for module in (budget, looks, schedule, watch):
                monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)
            monkeypatch.setattr(looks, "measured_break_even", self.measured)
        else:
            monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        timing.forget()
        target = torch.randn(40, 5)
        batches = [torch.randn(rows, 40) for _ in range(n_batches)]
        sample = [(x, torch.tanh(x @ target / 6)) for x in batches]
        optimizer = torch.optim.Adam(self.net.parameters(), 3e-3)
        self.schedule = Schedule(
            self.net, optimizer, n_steps=n_steps, skip=["output"], sample=sample, loss=mse,
            **settings,
        )  # fmt: skip
        for _ in range(n_steps // 2):
            x = torch.randn(ROWS, 40)
            optimizer.zero_grad()
            (self.net(x) - torch.tanh(x @ target / 6)).square().mean().backward()
            optimizer.step()
            self.schedule.step()
        self.whole = 3 * ROWS * n_steps

    def count(self, part, args):
        if part.training:
            self.now += 3 * len(args[0])
        else:
            self.now += len(args[0])
            self.looked += len(args[0])

    def measured(self, layer, seen, seconds):
        assert seconds <= LOOKING * 3 * ROWS * self.schedule.n_steps
        self.now += seconds
        return 40


@pytest.mark.parametrize("clock", [True, False])
@pytest.mark.parametrize("n_batches", [1, 4])
@pytest.mark.parametrize("n_steps", [40, 200, 2000])
def test_looks_keep_to_their_share_whatever_the_sample(monkeypatch, n_steps, n_batches, clock):
    run = Run(monkeypatch, n_steps, rows=4096, n_batches=n_batches, clock=clock)
    assert run.looked <= LOOKING * run.whole
    assert len(run.schedule.events) >= 1
    if n_steps == 40:
        assert run.schedule.phase == "dense" and budget.TOO_LONG in run.schedule.explain()
    if n_steps == 2000:
        assert run.looked > 0.1 * LOOKING * run.whole  # it did look
        first = run.schedule.events[0]
        assert first.kind == "switch" and budget.TOO_LONG not in first.info["layers"].values()


def test_a_batch_that_can_not_be_parted_is_not_looked_at_where_it_takes_too_long(monkeypatch):
    monkeypatch.setattr("svdfast.torch.sample.halves", lambda batch: [(batch, 1.0)])
    run = Run(monkeypatch, 200, rows=4096, clock=True)
    assert run.looked == 0 and budget.TOO_LONG in run.schedule.explain()


def test_layers_stay_dense_where_to_measure_takes_too_long(monkeypatch):
    monkeypatch.setattr(looks, "least_work", lambda layer, seen: 1e15)
    run = Run(monkeypatch, 200, rows=16, clock=True)
    assert run.schedule.phase == "dense"
    assert run.schedule.explain().count(budget.TOO_LONG) == 2


def test_what_looks_took_is_saved(monkeypatch):
    run = Run(monkeypatch, 200, rows=512, clock=False)
    state = run.schedule.state_dict()
    assert state["auto"]["budget"]["counted"] > 0
    net = model()
    other = Schedule(net, torch.optim.Adam(net.parameters()), n_steps=200, skip=["output"])
    other.load_state_dict(state)
    assert other.state_dict()["auto"] == state["auto"]


def test_equal_layers_are_measured_once(monkeypatch):
    searched = []
    monkeypatch.setattr(timing, "_search", lambda *args: searched.append(1) or 16)
    timing.forget()
    net = nn.Sequential(*(nn.Linear(96, 96) for _ in range(5)), nn.Linear(96, 3))
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    plan = Schedule(net, optimizer, n_steps=10**6, skip=["5"])
    plan._looks.auto.look_step = 2
    for _ in range(2):
        net(torch.randn(8, 96)).square().mean().backward()
        plan.step()
    timing.forget()
    assert len(searched) == 1


# ---- what looks are made of


def test_pieces_are_halves_of_a_batch_and_their_mean_is_its_own():
    x, y = torch.randn(100, 40), torch.randn(100, 5)
    net, sample = model(), Sample([(x, y)], mse)
    assert [len(piece[0]) for piece in sample.pieces] == [25, 25, 50]
    whole = sample.loss(net)
    assert sample.loss(net, 3) == pytest.approx(whole, rel=1e-5)
    assert sample.loss(net, 1) == pytest.approx(Sample([(x[:25], y[:25])], mse).loss(net))
    assert sample.mean([1.0, 2.0, 4.0]) == (0.25 + 0.5 + 2)
    assert sample.sizes(net) == [1000, 1000, 2000]


@pytest.mark.parametrize(
    "batch",
    [
        (torch.ones(64, 3), torch.ones(32)),
        {"x": torch.ones(64, 3), "lengths": [1] * 64},
        torch.tensor(3.0),
        torch.ones(31, 3),
    ],
    ids=["sequences first", "lists", "scalar", "small"],
)
def test_what_can_not_be_parted_for_sure_stays_whole(batch):
    ((piece, share),) = halves(batch)
    assert piece is batch and share == 1


def test_a_mapping_is_parted_with_all_that_has_rows():
    parts = halves({"x": torch.arange(64), "scale": torch.tensor(2.0), "cache": None})
    assert [part["x"].tolist() for part, _ in parts] == [
        list(range(16)), list(range(16, 32)), list(range(32, 64)),
    ]  # fmt: skip
    assert all(part["scale"] == 2 and part["cache"] is None for part, _ in parts)


def test_a_tuple_is_given_by_one_rule_to_schedule_and_factorize():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(40, 30)

        def forward(self, x, mask=None):
            assert mask is None
            return self.hidden(x)

    x, y = torch.randn(50, 40), torch.randn(50, 3)
    assert len(given(Net(), (x, y))) == 1
    (done,) = factorize(Net(), rank_fraction=0.25, sample=[(x, y)])
    assert done.rank == 7


@pytest.mark.parametrize("method", ["exact", "randomized"])
@pytest.mark.parametrize("aware", [False, True])
def test_one_decomposition_gives_the_truncations_to_all_smaller_ranks(method, aware):
    torch.manual_seed(0)
    layer = nn.Linear(200, 160)
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(0, -2, 200))
    X = torch.randn(600, 200) * torch.logspace(0, -1, 200)
    gram = X.T @ X if aware else None
    whole = Decomposed(layer, "layer", 40, method, gram)
    for rank in (40, 20, 5):
        made, dropped = whole.truncate(rank)
        alone, alone_dropped = truncate(layer, "layer", rank, method, gram)
        assert made.rank == rank and dropped == pytest.approx(alone_dropped, rel=0.01)
        products = [one.W1.detach() @ one.W2.detach() for one in (made, alone)]
        errors = [((layer.weight.detach() - P) @ X.T).norm() for P in products]
        assert errors[0] <= 1.01 * errors[1]


def test_exact_is_exact_by_the_gram_matrix_too():
    W = torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    from svdfast.torch.truncate import factors

    W1, W2 = factors(W, 30, "exact")
    U, s, V = torch.linalg.svd(W.double(), full_matrices=False)
    torch.testing.assert_close((W1 @ W2).double(), U[:, :30] * s[:30] @ V[:30], rtol=0, atol=2e-5)
