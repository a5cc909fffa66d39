# SPDX-License-Identifier: BSD-3-Clause
"""The four steps in a loop of the user's own: when they come, what they leave alone, and how a training goes on from a saved state."""

import copy
import io
import weakref

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not there")
from torch import nn  # noqa: E402
from torch_training import Training, data, held, model, one_thread  # noqa: E402, F401

import svdfast as sf  # noqa: E402
from svdfast.torch import (  # noqa: E402
    Event,
    FactoredLinear,
    Schedule,
    budget,
    exchange,
    factorize,
    looks,
    switch,
)  # fmt: skip
from svdfast.torch.auto import Auto, Choice  # noqa: E402
from svdfast.torch.clock import Clock  # noqa: E402
from svdfast.training.auto import LOST, LOST_OF_KERNEL  # noqa: E402

QUARTER = sf.Factoring(0.25, pretrain_fraction=0.1, force=True)


def quarter(**arguments):
    return sf.Factoring(0.25, **{"pretrain_fraction": 0.1, "force": True} | arguments)


def trained(**arguments):
    """Steps with a schedule of 20, recomposed at 15."""
    return Training(factoring=quarter(recompose_fraction=0.25), n_steps=20, **arguments)


# ---- when


def test_the_four_steps_come_when_factoring_says():
    training = trained()
    phases = []
    for _ in range(20):
        training.steps(1)
        phases.append(training.schedule.phase)
    assert phases == ["dense"] * 1 + ["factored"] * 13 + ["dense"] * 6
    assert [(e.kind, e.step) for e in training.schedule.events] == [
        ("switch", 2),
        ("recompose", 15),
    ]
    assert all(type(part) is not FactoredLinear for part in training.net.modules())
    assert type(training.net.first) is nn.Linear


def test_step_returns_what_happened():
    training = Training(factoring=quarter(), n_steps=10)
    told = []
    for _ in range(10):
        training.optimizer.zero_grad()
        training.loss().backward()
        training.optimizer.step()
        told.append(training.schedule.step())
    assert [i for i, event in enumerate(told) if event] == [0, 9]
    switch = told[0]
    assert isinstance(switch, Event) and switch.kind == "switch"
    assert switch.info["ranks"] == {"first": 10, "second": 12}
    assert all(dropped > 0 for dropped in switch.info["dropped"].values())
    assert told[9].kind == "recompose" and told[9].info["layers"] == ["first", "second"]


def test_factors_stay_where_recompose_is_false():
    training = Training(factoring=quarter(recompose=False), n_steps=10).steps(12)
    assert training.schedule.phase == "factored" and type(training.net.first) is FactoredLinear


@pytest.mark.parametrize("n_steps", [0, 1])
def test_too_short_for_factors(n_steps):
    training = Training(factoring=quarter(), n_steps=n_steps).steps(3)
    assert training.schedule.phase == "dense" and training.schedule.events == []


@pytest.mark.parametrize("factoring", [None, sf.Factoring(0.25, pretrain_fraction=1)])
def test_without_factoring_it_only_counts(factoring):
    training = Training(factoring=factoring, n_steps=10).steps(10)
    assert training.schedule.n_done == 10 and training.schedule.events == []


def test_at_full_rank_a_switch_changes_nothing():
    training = Training(
        factoring=sf.Factoring(1.0, pretrain_fraction=0.5, recompose_fraction=0.3, force=True),
        n_steps=20,
    )
    for _ in range(20):
        training.optimizer.zero_grad()
        training.loss().backward()
        training.optimizer.step()
        with torch.no_grad():
            before = training.loss()
            event = training.schedule.step()
            assert abs(training.loss() - before) < 1e-5, event


# ---- which


def test_ranks_by_rule_by_layer_and_what_is_left():
    training = Training(factoring=sf.Factoring([None, 7], pretrain_fraction=0.1), n_steps=10).steps(
        1
    )
    assert training.schedule.events[0].info["ranks"] == {"second": 7}
    training = Training(
        factoring=sf.Factoring("energy:0.9", pretrain_fraction=0.1, force=True), n_steps=10
    ).steps(1)
    assert set(training.schedule.events[0].info["ranks"]) == {"first", "second"}
    training = Training(factoring=0.25, n_steps=10).steps(1)
    (event,) = training.schedule.events
    assert event.kind == "ranks" and "bottleneck" in event.info["layers"]["first"]
    with pytest.raises(ValueError, match=r"ranks.*3 for 2"):
        Training(factoring=sf.Factoring([1, 2, 3]), n_steps=10)
    with pytest.raises(ValueError, match="ranks: expected at most 40 for 'first', got 41"):
        Training(factoring=sf.Factoring([41, 2]), n_steps=10)


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda net: net.first.requires_grad_(False), "frozen"),
        (lambda net: net.first.register_forward_hook(lambda *_: None), "hooks"),
        (lambda net: setattr(net, "first", nn.Sequential(net.first)), None),
    ],
)
def test_a_sequence_of_ranks_is_that_of_the_layers_at_the_start(change, why):
    training = Training(factoring=sf.Factoring([5, 7], pretrain_fraction=0.2), n_steps=10)
    change(training.net)
    training.steps(2)
    assert training.schedule.events[0].info["ranks"] == {"second": 7}
    lines = training.schedule.explain().splitlines()
    assert "dense" in lines[2] and (why or "no rank was given") in lines[2]


def test_a_sample_gives_the_truncation_that_keeps_outputs_best():
    x, _ = data()
    x = x * torch.logspace(0, -3, 40)  # few inputs count
    rises = []
    for sample in (None, [x]):
        training = Training(
            factoring=sf.Factoring([5, 5], pretrain_fraction=0.1), n_steps=10, sample=sample
        )
        with torch.no_grad():
            before = training.net.first(x)
            training.schedule.step()
            rises.append((training.net.first(x) - before).norm().item())
    assert training.schedule.events[0].info["ranks"] == {"first": 5, "second": 5}
    assert rises[1] < 0.5 * rises[0]


def test_weights_that_are_not_finite_are_refused_at_the_switch():
    training = trained().steps(1)
    with torch.no_grad():
        training.net.second.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'second'.*finite"):
        training.schedule.step()
    assert training.schedule.phase == "dense"


def test_frozen_layers_are_left():
    net = model()
    net.first.requires_grad_(False)
    weight = net.first.weight.clone()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    schedule = Schedule(net, optimizer, n_steps=10, factoring=QUARTER, skip=["output"])
    net(torch.randn(3, 40)).sum().backward()
    optimizer.step()
    event = schedule.step()
    assert list(event.info["ranks"]) == ["second"]
    assert "frozen" in event.info["layers"]["first"] and "frozen" in schedule.explain()
    assert type(net.first) is nn.Linear and torch.equal(net.first.weight, weight)


def test_explain_has_a_line_for_each_layer():
    training = trained().steps(3)
    lines = training.schedule.explain().splitlines()
    assert lines[0] == "step 3 of 20, factored"
    assert lines[1].split() == ["layer", "type", "weight", "rank", "why"]
    rows = {line.split()[0]: line.split()[1:4] for line in lines[2:]}
    assert rows == {
        "first": ["FactoredLinear", "60×40", "10"],
        "second": ["FactoredLinear", "50×60", "12"],
        "output": ["Linear", "5×50", "dense"],
    }


@pytest.mark.parametrize("n_steps", [0, 20])
@pytest.mark.parametrize("factoring", ["auto", QUARTER, None])
def test_explain_follows_the_model_and_says_why(factoring, n_steps):
    net = model()
    net.first.requires_grad_(False)
    net.last = nn.Linear(5, 40)
    factorize(net, ranks={"last": 2})
    schedule = Schedule(
        net,
        torch.optim.Adam(net.parameters()),
        n_steps=n_steps,
        factoring=factoring,
        skip=["output"],
    )
    for _ in range(3):
        lines = schedule.explain().splitlines()
        why = lines[1].index("why")
        rows = [line for line in lines[2:] if line.split()[0] in dict(net.named_children())]
        assert [row.split()[0] for row in rows] == ["first", "second", "output", "last"]
        assert all(row[why:].strip() for row in rows)
        net(torch.rand(3, 40)).sum().backward()
        schedule.step()


def test_explain_tells_afterwards_what_was_done():
    training = trained().steps(16)
    lines = training.schedule.explain().splitlines()
    assert lines[2].split() == "first Linear 60×40 dense rank 10 in steps 3–15".split()
    assert lines[3].endswith("dense  rank 12 in steps 3–15")
    other = trained().load(saved(training.state()))
    assert other.schedule.explain() == training.schedule.explain()
    undone = Training(factoring=quarter(guard=sf.Guard(0.1, "undo")), n_steps=50).steps(5)
    undone.schedule._recent.clear()
    undone.schedule.step(10.0)
    assert "rank 10 in steps 6–6, undone" in undone.schedule.explain()


def test_explain_before_a_look_does_not_take_its_own_hooks_for_someone_elses():
    training = Training(factoring="auto", n_steps=500).steps(3)
    assert "hooks" not in training.schedule.explain() and "first" in training.schedule.explain()
    assert not any("hooks" in why for why in training.schedule._switch.reasons.values())


def test_a_second_schedule_takes_over_and_leaves_layers_that_are_factored():
    training = trained().steps(20)
    again = Training(factoring=None)
    again.net, again.optimizer = training.net, training.optimizer
    again.schedule = Schedule(
        again.net, again.optimizer, n_steps=20, factoring=QUARTER, skip=["output"]
    )
    again.steps(20)
    assert [e.kind for e in again.schedule.events] == ["switch", "recompose"]
    # While the first one's layers are factored, a second one finds nothing, and the first goes on.
    first = trained().steps(5)
    second = Schedule(first.net, first.optimizer, n_steps=20, factoring=QUARTER, skip=["output"])
    for _ in range(15):
        first.steps(1)
        second.step()
    assert first.schedule.phase == "dense"
    assert [e.kind for e in second.events] == ["ranks"]


def test_layers_that_someone_else_has_replaced_are_left():
    from svdfast.torch import recompose

    training = trained().steps(5)
    recompose(training.net)
    for _ in range(15):
        assert training.schedule.step() is None
    assert training.schedule.phase == "dense"


# ---- "auto"


def limits(**ranks):
    """Measured break-even ranks by layer, in place of the clock's."""

    def measured(layer, seen, seconds):
        assert seen.inputs[0].shape[-1] == layer.in_features
        return ranks["first" if layer.in_features == 40 else "second"]

    return measured


def measured(monkeypatch, limit):
    """In place of the clock's, and there is time for all looks."""
    monkeypatch.setattr(looks, "measured_break_even", limit)
    monkeypatch.setattr(budget, "LOOKING", 1e9)


def automatic(monkeypatch, n_steps=500, steps=60, first=40, second=40, clock=None, **arguments):
    measured(monkeypatch, limits(first=first, second=second))
    monkeypatch.setattr(Clock, "both", lambda self: clock)
    return Training(
        n_steps=n_steps, **{"factoring": "auto", "settings": {"lr": 3e-3}} | arguments
    ).steps(steps)


def mse(output, batch):
    return (output - batch[1]).square().mean()


def test_auto_truncates_where_little_is_lost_and_tells_what(monkeypatch):
    x, y = data()
    training = automatic(monkeypatch, sample=[(x[:256], y[:256]), (x[256:], y[256:])], loss=mse)
    (event,) = training.schedule.events
    assert event.step == 50  # a tenth of all
    for name in ("first", "second"):
        why = event.info["layers"][name]
        assert ("the truncation loses" in why) == (name in event.info.get("ranks", {})), why
        assert "learned" in why


def test_a_convolution_may_lose_more_than_a_linear_layer(monkeypatch):
    auto = Auto(1000, 100, 1000)
    auto.start = 1.0
    choices = [
        Choice("linear", [8]),
        Choice("kernel", [8], allowed=LOST_OF_KERNEL),
        Choice("bad kernel", [8], allowed=LOST_OF_KERNEL),
    ]
    loses = {"linear": 0.03, "kernel": 0.03, "bad kernel": 0.05}

    def rise(ranks):
        return max(loses[name] if rank else 1.0 for name, rank in ranks.items())

    assert auto.look(100, choices, 0.0, rise) == {"kernel": 8}

    # And the looks know which of a model's layers is one.
    monkeypatch.setattr("svdfast.torch.looks.measured_break_even", lambda *_, **__: 1000)
    net = nn.Sequential(nn.Conv2d(8, 32, 3), nn.Flatten(), nn.Linear(512, 64), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(net.parameters())
    schedule = Schedule(net, optimizer, n_steps=1000, factoring="auto", skip=["3"])
    net(torch.rand(4, 8, 6, 6))
    found = schedule._looks._choices({net[0]: "0", net[2]: "2"}, True)
    assert [choice.allowed for choice in found] == [LOST_OF_KERNEL, LOST]
    # One whose truncation was undone says so, not that it would be no faster.
    schedule._looks.auto.refused["0"], schedule._looks.auto.learned = 1000, 1.0
    schedule._looks.auto.look(100, found, None, None)
    assert [choice.why for choice in found] == ["a truncation was undone", "its factors are faster"]


class Around(nn.Module):
    """A hidden layer with a way around it, which gives the output all that it needs."""

    def __init__(self):
        super().__init__()
        self.inner, self.output = nn.Linear(200, 200), nn.Linear(200, 1)

    def forward(self, x):
        return self.output(x + self.share * self.inner(x))


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_a_layer_that_has_learned_little_stays_dense(monkeypatch, share):
    monkeypatch.setattr("svdfast.torch.looks.measured_break_even", lambda *_, **__: 1000)
    monkeypatch.setattr("svdfast.torch.budget.LOOKING", 1.0)
    torch.manual_seed(0)
    net = Around()
    net.share = share
    x = torch.randn(512, 200)
    y = x[:, :1] @ torch.ones(1, 1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    schedule = Schedule(net, optimizer, n_steps=1000, skip=["output"], sample=[(x, y)], loss=mse)
    for _ in range(100):
        optimizer.zero_grad()
        mse(net(x), (x, y)).backward()
        optimizer.step()
        schedule.step()
    (event,) = schedule.events
    why = event.info["layers"]["inner"]
    assert ("too early: without it only" in why) == (share < 1), why
    assert isinstance(net.inner, nn.Linear) or share == 1


def test_auto_gives_the_smallest_rank_that_loses_little(monkeypatch):
    x, y = data()
    training = automatic(monkeypatch, steps=49, sample=[(x, y)], loss=mse)
    # Weights of rank 5: truncation to 5 loses nothing, one to 10 neither.
    with torch.no_grad():
        for part in (training.net.first, training.net.second):
            U, s, V = torch.linalg.svd(part.weight, full_matrices=False)
            s[5:] = 0
            part.weight.copy_(U * s @ V)
    training.optimizer.param_groups[0]["lr"] = 0.0
    training.steps(1)
    assert training.schedule.events[0].info["ranks"] == {"first": 5, "second": 6}  # an eighth


def test_auto_leaves_layers_whose_factors_are_no_faster(monkeypatch):
    training = automatic(monkeypatch, first=9, second=0, steps=50)
    (event,) = training.schedule.events
    assert event.kind == "ranks" and training.schedule.phase == "dense"
    assert "break-even rank 9, measured" in event.info["layers"]["first"]
    assert "break-even rank 9, measured" in training.schedule.explain()
    assert not any(part._forward_pre_hooks for part in training.net.modules())


def test_auto_without_a_sample_takes_a_quarter_and_is_guarded_by_the_losses(monkeypatch):
    training = automatic(monkeypatch, second=9, steps=50)
    assert training.schedule.events[0].info["ranks"] == {"first": 10}
    # From here on the loss is bad: watched, then undone.
    for _ in range(40):
        training.schedule.step(10.0)
    kinds = [(e.kind, e.step, e.info.get("action")) for e in training.schedule.events]
    assert kinds == [("switch", 50, None), ("guard", 70, "watched"), ("guard", 90, "undone")]
    assert training.schedule.phase == "dense" and "undone" in training.schedule.explain()


def test_auto_without_losses_says_that_nothing_guards_it(monkeypatch):
    measured(monkeypatch, limits(first=40, second=40))
    training = Training(n_steps=50, factoring="auto").steps(10, tell=False)
    assert training.schedule.events[0].info["ranks"] == {"first": 10, "second": 12}
    assert "no losses are known" in training.schedule.explain()


def test_auto_keeps_a_good_truncation(monkeypatch):
    training = automatic(monkeypatch, second=9, steps=69, clock=(1.0, 0.5))
    training.schedule._recent.clear()
    training.schedule.step(0.0)
    assert [(e.kind, e.info.get("action")) for e in training.schedule.events] == [
        ("switch", None),
        ("guard", "kept"),
    ]


def timed(monkeypatch, dense, factored, now):
    """A training of "auto" with seconds of a dense step once, of a factored one, and of a dense one now; its guard's actions."""
    measured(monkeypatch, limits(first=40, second=40))
    monkeypatch.setattr(Clock, "both", lambda self: (dense, factored))
    monkeypatch.setattr(looks, "dense_step_now", lambda *_: now)
    training = Training(n_steps=500, factoring="auto")
    training.steps(50)
    for _ in range(400):
        training.schedule.step(0.0)
    return training, [e.info["action"] for e in training.schedule.events if e.kind == "guard"]


def test_auto_undoes_all_for_good_where_steps_are_no_faster(monkeypatch):
    training, actions = timed(monkeypatch, 1.0, 1.0, now=1.0)
    assert actions == ["watched", "undone"] and training.schedule.phase == "dense"
    assert not any(
        e.kind == "switch" for e in training.schedule.events[1:]
    )  # looked at again, and left


@pytest.mark.parametrize("now", [3.0, None])
def test_auto_undoes_nothing_where_other_work_slows_the_machine(monkeypatch, now):
    """Factored steps take longer than the dense ones once did, but dense ones would, too."""
    training, actions = timed(monkeypatch, 1.0, 2.0, now)
    assert set(actions) == {"kept"}
    assert any(e.kind == "switch" for e in training.schedule.events)


def test_auto_looks_again_and_goes_on_from_a_saved_state(monkeypatch):
    x, y = data()
    arguments = {"sample": [(x, y)], "loss": mse}
    whole = automatic(monkeypatch, n_steps=300, steps=0, **arguments)
    states = {}
    for at in range(0, 150, 25):
        states[at] = copy.deepcopy(whole.state())
        whole.steps(25)
    assert len(whole.schedule.events) > 1
    for at, state in states.items():
        other = automatic(monkeypatch, n_steps=300, steps=0, **arguments).load(saved(state))
        other.steps(150 - at)
        assert other.losses == whole.losses[at:], at
        assert [(e.kind, e.step) for e in other.schedule.events] == [
            (e.kind, e.step) for e in whole.schedule.events
        ]


def test_looks_leave_the_model_as_it_was(monkeypatch):
    """Its modes, hooks, gradients, statistics and torch's generator; and a sample that fails leaves it, too."""
    x, y = data()
    training = automatic(monkeypatch, steps=49, sample=[(x, y)], loss=mse)
    training.net.tanh = nn.Sequential(nn.BatchNorm1d(60), nn.Dropout())
    mean, state = training.net.tanh[0].running_mean.clone(), torch.get_rng_state()
    training.schedule.step(1.0)
    assert torch.equal(training.net.tanh[0].running_mean, mean) and torch.equal(
        torch.get_rng_state(), state
    )
    assert all(part.training for part in training.net.modules())

    training = automatic(monkeypatch, steps=49, sample=[(x, y)], loss=mse)
    parts, n, factored = list(training.net.modules()), [], []

    def broken(output, batch):
        n.append(1)
        if len(n) == 8:  # the sample is in six pieces, so a layer is truncated
            factored.extend(p for p in training.net.modules() if type(p) is FactoredLinear)
            raise ArithmeticError
        return mse(output, batch)

    training.schedule._sample._loss = broken
    with pytest.raises(ArithmeticError):
        training.schedule.step(1.0)
    assert len(factored) == 1 and list(training.net.modules()) == parts


def test_the_guard_of_given_ranks_goes_back_or_waits():
    for action, kinds in (("undo", ["undone"]), ("delay", ["delayed", "kept"])):
        factoring = quarter(guard=sf.Guard(0.1, action))
        training = Training(factoring=factoring, n_steps=50).steps(5)
        assert training.schedule.phase == "factored"
        training.schedule._recent.clear()
        training.schedule.step(10.0)
        assert training.schedule.phase == "dense"
        training.schedule._recent.clear()
        for _ in range(10):
            training.schedule.step(0.1)
        assert [e.info["action"] for e in training.schedule.events if e.kind == "guard"] == kinds
    training = Training(factoring=quarter(guard=sf.Guard(0.1, "undo")), n_steps=50)
    with pytest.raises(ValueError, match="guard"):
        training.steps(1, tell=False)


@pytest.mark.parametrize(
    "batch",
    [torch.ones(2, 40), (torch.ones(2, 40), torch.ones(2, 5)), {"input": torch.ones(2, 40)}],
    ids=["tensor", "tuple", "mapping"],
)
def test_batches_of_a_sample(batch):
    from svdfast.torch.sample import Sample

    seen = []
    net = model()
    net.forward = lambda input, _forward=nn.Sequential.forward: (
        seen.append(input) or _forward(net, input)
    )
    assert Sample([batch], lambda output, given: output.sum() * 0 + (given is batch)).loss(net) == 1
    assert torch.equal(seen[0], torch.ones(2, 40))
    assert Sample([batch], None).loss(net) is None


def test_a_loss_of_the_outputs_own():
    from types import SimpleNamespace

    from svdfast.torch.sample import Sample

    class Net(nn.Module):
        def forward(self, x, labels=None):
            return SimpleNamespace(loss=x.mean() if labels is None else labels.mean())

    assert Sample([{"x": torch.zeros(2), "labels": torch.ones(2)}], None).loss(Net()) == 1


# ---- what it leaves alone


@pytest.mark.parametrize("fails", ["truncate", "move_state"])
def test_an_interrupted_switch_leaves_model_and_optimizer(fails, monkeypatch):
    training = trained().steps(1)
    before = copy.deepcopy([training.net.state_dict(), training.optimizer.state_dict()])
    parts, ids = (
        list(training.net.modules()),
        [id(p) for g in training.optimizer.param_groups for p in g["params"]],
    )
    module = switch if fails == "truncate" else exchange
    real, calls = getattr(module, fails), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == (2 if fails == "truncate" else 1):
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, fails, failing)
    training.loss().backward()
    with pytest.raises(KeyboardInterrupt):
        training.schedule.step()
    assert list(training.net.modules()) == parts
    assert [id(p) for g in training.optimizer.param_groups for p in g["params"]] == ids
    after = [training.net.state_dict(), training.optimizer.state_dict()]
    assert all(torch.equal(after[0][name], before[0][name]) for name in before[0])
    for i, state in before[1]["state"].items():
        assert all(torch.equal(value, after[1]["state"][i][name]) for name, value in state.items())
    assert training.schedule.phase == "dense"
    training.optimizer.step()
    event = training.schedule.step()  # it is tried again
    assert event.kind == "switch" and event.step == 3 and training.schedule.phase == "factored"
    assert held(training.optimizer) == {id(p) for p in training.net.parameters()}
    assert training.steps(12).schedule.phase == "dense"


@pytest.mark.parametrize("auto", [False, True])
def test_what_fails_while_layers_are_swapped_is_undone_and_tried_again(auto, monkeypatch):
    if auto:
        training = automatic(monkeypatch, steps=49)
    else:
        training = trained().steps(1)
    state = copy.deepcopy(training.optimizer.state_dict())
    parts, schedule = list(training.net.modules()), training.schedule
    training.loss().backward()
    gradients = {p: p.grad.clone() for p in training.net.parameters()}
    real = exchange.swap

    def interrupted(*args):
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(exchange, "swap", interrupted)
    with pytest.raises(KeyboardInterrupt):
        schedule.step(0.1)
    assert list(training.net.modules()) == parts and schedule.phase == "dense"
    assert all(torch.equal(p.grad, gradient) for p, gradient in gradients.items())
    assert held(training.optimizer) == {id(p) for p in training.net.parameters()}
    after = training.optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    for i, own in state["state"].items():
        assert all(torch.equal(value, after["state"][i][name]) for name, value in own.items())
    assert schedule.events == []
    monkeypatch.setattr(exchange, "swap", real)
    assert schedule.step(0.1).kind == "switch" and schedule.phase == "factored"
    # And so the way back.
    made = list(training.net.modules())
    monkeypatch.setattr(exchange, "swap", interrupted)
    schedule.n_done = schedule._plan.recompose_step - 1
    schedule._looks = None
    with pytest.raises(KeyboardInterrupt):
        schedule.step(0.1)
    assert list(training.net.modules()) == made and schedule.phase == "factored"
    monkeypatch.setattr(exchange, "swap", real)
    assert schedule.step(0.1).kind == "recompose" and schedule.phase == "dense"


def test_torch_generators_are_left_alone_and_old_weights_are_freed():
    training = trained()
    old = weakref.ref(training.net.first.weight)
    state = torch.get_rng_state()
    training.steps(16)
    assert torch.equal(torch.get_rng_state(), state)
    import gc

    gc.collect()
    assert old() is None


def test_training_mode_and_biases_stay():
    training = trained()
    training.net.first.eval()
    bias = training.net.first.bias
    training.steps(3)
    assert not training.net.first.training and training.net.second.training
    assert training.net.first.bias is bias
    training.steps(13)
    assert not training.net.first.training and training.net.first.bias is bias


# ---- schedulers of the learning rate


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)


def one_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=20)


def plateau(optimizer):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)


@pytest.mark.parametrize("scheduler", [cosine, one_cycle, plateau])
def test_schedulers_run_across_the_switch(scheduler):
    rates = {}
    for factoring in (None, quarter(recompose_fraction=0.25)):
        training = Training(factoring=factoring, n_steps=20, scheduler=scheduler)
        rates[factoring] = []
        for _ in range(20):
            training.steps(1)
            training.scheduler.step(*([training.losses[-1]] if scheduler is plateau else []))
            rates[factoring].append(training.optimizer.param_groups[0]["lr"])
        assert training.losses[-1] < training.losses[0]
    dense, factored = rates.values()
    assert dense == factored and len(set(dense)) > 3


def test_the_rate_is_that_of_the_group_for_factors_too():
    training = trained(scheduler=cosine).steps(3)
    W1 = training.net.first.W1.detach().clone()
    training.optimizer.param_groups[0]["lr"] = 0.0
    training.steps(1)
    assert torch.equal(training.net.first.W1, W1)


# ---- saved and loaded


def saved(states):
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "nadam"])
@pytest.mark.parametrize("at", [0, 1, 2, 9, 14, 15, 19])
def test_a_training_goes_on_bit_for_bit(at, optimizer):
    whole = trained(optimizer=optimizer, scheduler=cosine)
    whole.steps(at)
    states = saved(whole.state())
    whole.steps(20 - at)
    other = trained(optimizer=optimizer, scheduler=cosine).load(states)
    assert other.schedule.n_done == at
    other.steps(20 - at)
    assert other.losses == whole.losses[at:]
    assert [(e.kind, e.step) for e in other.schedule.events] == [
        (e.kind, e.step) for e in whole.schedule.events
    ]
    ours, theirs = other.net.state_dict(), whole.net.state_dict()
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


def test_a_state_is_loaded_into_a_model_in_any_form():
    states = saved(trained().steps(9).state())
    dense = saved(trained().steps(17).state())
    for start in (0, 9, 17):
        training = trained().steps(start).load(states)
        assert training.schedule.phase == "factored" and type(training.net.first) is FactoredLinear
        assert held(training.optimizer) == {id(p) for p in training.net.parameters()}
        training.steps(11)
        training = trained().steps(start).load(dense)
        assert training.schedule.phase == "dense" and type(training.net.first) is nn.Linear
    # One that is factored to the same ranks, with an optimizer over the factors, is taken as it is.
    training = trained()
    factorize(training.net, ranks={"first": 10, "second": 12}, force=True)
    training.optimizer = torch.optim.Adam(training.net.parameters())
    training.schedule = Schedule(
        training.net,
        training.optimizer,
        n_steps=20,
        factoring=quarter(recompose_fraction=0.25),
        skip=["output"],
    )
    made = training.net.first
    training.load(states)
    assert training.net.first is made and training.schedule.phase == "factored"
    assert training.steps(11).schedule.phase == "dense"


def test_factors_are_not_numbers_until_the_model_is_loaded():
    states = trained().steps(9).state()
    training = trained()
    training.schedule.load_state_dict(states[0])
    assert not torch.isfinite(training.loss())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("ranks"), "expected what state_dict gave"),
        (lambda s: s["plan"].update(n_steps=7), "training of 20 steps, got one of 7"),
        (lambda s: s["ranks"].update(third=3), "layers of this model, got 'third'"),
        (lambda s: s["ranks"].update(first=41), "first.*from 1 to 40"),
        (lambda s: s.update(auto={}), "given ranks"),
        (lambda s: s["plan"].update(n_done="9"), "expected what state_dict gave, got .*n_done is '9'"),
        (lambda s: s["plan"].update(guard_step=[3]), "expected what state_dict gave, got .*guard_step"),
        (lambda s: s["plan"].update(recompose_step=float("nan")), "expected what state_dict gave, got .*recompose_step"),
        (lambda s: s.update(recent=["a"]), "expected what state_dict gave, got .*recent"),
        (lambda s: s.update(first=None), "expected what state_dict gave, got .*first"),
        (lambda s: s["notes"].update(first=3), "expected what state_dict gave, got .*notes"),
        (lambda s: s["scales"].update(first=None), "expected what state_dict gave, got .*scales"),
        (lambda s: s["events"].append(["switch", "9", {}]), "expected what state_dict gave, got .*step"),
        (lambda s: s["events"].append(["switch", 9]), "expected what state_dict gave"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    state = trained().steps(9).schedule.state_dict()
    change(state)
    training = trained()
    parts = list(training.net.modules())
    with pytest.raises(ValueError, match=message):
        training.schedule.load_state_dict(state)
    assert list(training.net.modules()) == parts and training.schedule.n_done == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("look_step", "9"), ("refused", {"first": 0.5}), ("lost", {3: 0.5}), ("limit", None), ("failed", 2), ("starts", ["a"]),
        ("n_pieces", -1), ("seconds", [-1.0]), ("budget", {}), ("budget", None),
    ],
)  # fmt: skip
def test_looks_that_can_not_be_change_nothing(name, value):
    first, again = (Schedule(net := model(), torch.optim.SGD(net.parameters(), lr=0.1), n_steps=20) for _ in range(2))
    state = first.state_dict()
    again.load_state_dict(state)
    state["auto"][name] = value
    state["plan"]["n_done"] = 5
    with pytest.raises(ValueError, match="state: expected what state_dict gave, got "):
        again.load_state_dict(state)
    assert again.n_done == 0


def test_a_state_of_given_ranks_is_none_of_auto():
    state = trained().schedule.state_dict()
    net = model()
    other = Schedule(net, torch.optim.SGD(net.parameters(), lr=0.1), n_steps=20, factoring="auto")
    with pytest.raises(ValueError, match='state: expected one of factoring="auto", got that of given ranks'):
        other.load_state_dict(state)


def test_a_loss_that_can_not_be_called_is_refused():
    net = model()
    with pytest.raises(TypeError, match="loss: expected a function of output and batch, got float"):
        Schedule(net, torch.optim.SGD(net.parameters(), lr=0.1), n_steps=20, sample=[torch.zeros(2, 40)], loss=0.5)


# ---- with what else trains


def test_autocast_and_grad_scaler():
    training = trained(optimizer="sgd")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(20):
        training.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = training.loss()
        scaler.scale(loss).backward()
        scaler.step(training.optimizer)
        scaler.update()
        with torch.autocast("cpu", dtype=torch.bfloat16):  # a loop may call it within, too
            event = training.schedule.step(loss)
        if event is not None and event.kind == "switch":
            assert training.net.first.W1.dtype == torch.float32
        training.losses.append(loss.item())
    assert [e.kind for e in training.schedule.events] == ["switch", "recompose"]
    assert training.losses[-1] < training.losses[0]


def test_a_switch_between_backward_passes_of_one_step_gives_the_gradient_of_both():
    """At full rank, where the gradient of the second half does not change by the switch."""
    factoring = sf.Factoring(1.0, pretrain_fraction=0.1, force=True)
    gradients = []
    for switched in (False, True):
        training = Training("sgd", factoring if switched else None, n_steps=20).steps(1)
        training.optimizer.zero_grad()
        training.loss().backward()
        training.schedule.step()
        training.loss().backward()
        gradients.append(training.net)
    dense, made = gradients
    for name in ("first", "second"):
        G, part = getattr(dense, name).weight.grad, getattr(made, name)
        torch.testing.assert_close(part.W1.grad, G @ part.W2.detach().T, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(part.W2.grad, part.W1.detach().T @ G, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_types(dtype):
    net = model(dtype=dtype)
    optimizer = torch.optim.AdamW(net.parameters())
    schedule = Schedule(
        net, optimizer, n_steps=20, factoring=quarter(recompose_fraction=0.25), skip=["output"]
    )
    x, y = (t.to(dtype) for t in data())
    for _ in range(20):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
        schedule.step()
    assert all(p.dtype == dtype and torch.isfinite(p).all() for p in net.parameters())
    assert len(schedule.events) == 2


@pytest.mark.parametrize("auto", [False, True])
def test_a_compiled_model_is_compiled_once_more_for_a_switch(auto, monkeypatch):
    import torch._dynamo as dynamo

    dynamo.reset()
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    training, factoring = trained(), quarter(recompose_fraction=0.25)
    compiled = torch.compile(training.net, backend=counting, fullgraph=True)
    if auto:
        factoring = sf.Factoring(recompose_fraction=0.25)
        measured(monkeypatch, lambda *args, **kwargs: 40)
    training.schedule = Schedule(
        compiled,
        training.optimizer,
        n_steps=20,
        factoring=factoring,
        skip=["output"],
        sample=[training.x],
    )
    counts = []
    for _ in range(20):
        training.optimizer.zero_grad()
        loss = (compiled(training.x) - training.y).square().mean()
        loss.backward()
        training.optimizer.step()
        training.schedule.step()
        counts.append(len(graphs))
    dynamo.reset()
    assert counts[1] == 1 and counts[13] <= 2 and counts[-1] <= 3
    assert [e.kind for e in training.schedule.events] == ["switch", "recompose"]


# ---- what it refuses


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"n_steps": -1}, ValueError, "n_steps"),
        ({"n_steps": 1.5}, TypeError, "n_steps"),
        ({"factoring": 2.0}, ValueError, "ranks"),
        ({"factoring": []}, TypeError, "factoring"),
        ({"factoring": sf.Factoring(0.25, product_decay=0.1)}, ValueError, "product_decay"),
        ({"factoring": sf.Factoring(0.25, split="left")}, ValueError, "split"),
        ({"factoring": sf.Factoring(0.25, learning_rate=[1.0])}, ValueError, "learning_rate"),
        ({"factoring": sf.Factoring(0.25, guard=sf.Guard(0.1))}, ValueError, "raise"),
        ({"skip": ["nowhere"]}, ValueError, "skip"),
        ({"skip": "output"}, TypeError, "skip"),
        ({"loss": lambda output, batch: 0}, ValueError, "loss"),
        ({"sample": []}, ValueError, "sample"),
        ({"sample": torch.zeros(3)}, TypeError, "sample"),
        ({"sample": [3]}, TypeError, "sample"),
        ({"optimizer": "adam"}, TypeError, "optimizer"),
        ({"optimizer": torch.optim.LBFGS(model().parameters())}, TypeError, "optimizer.*LBFGS"),
        ({"model": "model"}, TypeError, "model"),
    ],
)
def test_what_is_refused_names_the_argument(arguments, error, message):
    net = arguments.pop("model", None) or model()
    optimizer = arguments.pop("optimizer", None) or torch.optim.Adam(
        model().parameters() if net == "model" else net.parameters()
    )
    with pytest.raises(error, match=message):
        Schedule(net, optimizer, **{"n_steps": 10} | arguments)


@pytest.mark.parametrize("loss", [torch.ones(3), torch.ones(3, 1), torch.ones(0), "much"])
def test_a_loss_that_is_no_number_is_refused_and_counts_no_step(loss):
    training = trained()
    with pytest.raises(ValueError, match=r"loss|much"):
        training.schedule.step(loss)
    assert training.schedule.n_done == 0
    training.schedule.step(torch.ones(1))


def test_models_whose_parameters_are_not_whole_are_refused():
    class FullyShardedDataParallel(nn.Module):  # by its name, as it can't be made without processes
        def __init__(self, module):
            super().__init__()
            self.module = module

    net = model()
    with pytest.raises(TypeError, match="FullyShardedDataParallel"):
        Schedule(FullyShardedDataParallel(net), torch.optim.Adam(net.parameters()), n_steps=10)
    engine = type("DeepSpeedEngine", (nn.Module,), {})()
    engine.module = net
    with pytest.raises(TypeError, match="DeepSpeed"):
        Schedule(engine, torch.optim.Adam(net.parameters()), n_steps=10)


# ---- what models and loops do that a schedule can't see


class Loops(nn.Module):
    """Holds its layers a second time, outside of its modules."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 1)
        self.layers = [self.a, self.b]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.out(x)


def stepped(net, schedule, optimizer, n=1):
    for _ in range(n):
        optimizer.zero_grad()
        net(torch.rand(8, 40)).square().mean().backward()
        optimizer.step()
        schedule.step()


def three(n_hidden=2):
    parts = [part for _ in range(n_hidden) for part in (nn.Linear(40, 40), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(40, 1))


def test_a_layer_that_the_model_holds_elsewhere_is_not_trained_silently():
    net = Loops()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    schedule = Schedule(net, optimizer, n_steps=20, factoring=QUARTER, skip=["out"])
    with pytest.raises(RuntimeError, match="a Linear was called that a Schedule has replaced"):
        stepped(net, schedule, optimizer, 5)


def test_a_layer_whose_weight_another_optimizer_holds_is_left():
    net = three()
    net[2].requires_grad_(False)
    optimizer = torch.optim.SGD([*net[0].parameters(), *net[4].parameters()], 0.1)
    schedule = Schedule(net, optimizer, n_steps=20, factoring=QUARTER, skip=["4"])
    net[2].requires_grad_(True)
    stepped(net, schedule, optimizer, 5)
    assert isinstance(net[0], FactoredLinear) and type(net[2]) is nn.Linear
    assert "the optimizer does not hold its weight" in schedule.explain()


def test_a_resume_leaves_layers_that_were_factored_before():
    def build():
        net = three()
        factorize(net, ranks={"0": 7})
        optimizer = torch.optim.Adam(net.parameters())
        return net, optimizer, Schedule(net, optimizer, n_steps=20, factoring=QUARTER, skip=["4"])

    net, optimizer, schedule = build()
    stepped(net, schedule, optimizer, 5)
    again = build()
    for part, whole in zip((again[2], again[0], again[1]), (schedule, net, optimizer), strict=True):
        part.load_state_dict(whole.state_dict())
    assert again[0][0].rank == 7 and again[0][2].rank == 10


def test_a_layer_with_buffers_is_left():
    net = three()
    net[0].register_buffer("mask", torch.ones(40, 40))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    schedule = Schedule(net, optimizer, n_steps=20, factoring=QUARTER, skip=["4"])
    stepped(net, schedule, optimizer, 20)
    assert "mask" in net[0]._buffers and "it has buffers: mask" in schedule.explain()


def test_numbers_beyond_floats_are_refused():
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="n_steps: expected an integer from 0 to"):
        Schedule(model, optimizer, n_steps=10**400)
    schedule = Schedule(model, optimizer, n_steps=10, factoring=None)
    with pytest.raises(ValueError, match="loss: expected a number"):
        schedule.step(10**400)
    assert schedule.n_done == 0
