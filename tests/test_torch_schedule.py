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
from svdfast.torch import Event, FactoredLinear, Schedule, factorize  # noqa: E402
from svdfast.torch import schedule as module  # noqa: E402

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
    assert [(e.kind, e.step) for e in training.schedule.events] == [("switch", 2), ("recompose", 15)]
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
    training = Training(factoring=sf.Factoring(1.0, pretrain_fraction=0.5, recompose_fraction=0.3, force=True), n_steps=20)
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
    training = Training(factoring=sf.Factoring([None, 7], pretrain_fraction=0.1), n_steps=10).steps(1)
    assert training.schedule.events[0].info["ranks"] == {"second": 7}
    training = Training(factoring=sf.Factoring("energy:0.9", pretrain_fraction=0.1, force=True), n_steps=10).steps(1)
    assert set(training.schedule.events[0].info["ranks"]) == {"first", "second"}
    training = Training(factoring=0.25, n_steps=10).steps(1)
    (event,) = training.schedule.events
    assert event.kind == "ranks" and "bottleneck" in event.info["layers"]["first"]
    with pytest.raises(ValueError, match="ranks.*3 for 2"):
        Training(factoring=sf.Factoring([1, 2, 3]), n_steps=10)


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
    assert rows == {"first": ["FactoredLinear", "60×40", "10"], "second": ["FactoredLinear", "50×60", "12"]}


def test_a_second_schedule_takes_over_and_leaves_layers_that_are_factored():
    training = trained().steps(20)
    again = Training(factoring=None)
    again.net, again.optimizer = training.net, training.optimizer
    again.schedule = Schedule(again.net, again.optimizer, n_steps=20, factoring=QUARTER, skip=["output"])
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
    assert training.schedule.step() is None and training.schedule.phase == "dense"


# ---- what it leaves alone


@pytest.mark.parametrize("fails", ["cut", "move_state"])
def test_an_interrupted_switch_leaves_model_and_optimizer(fails, monkeypatch):
    training = trained().steps(1)
    before = copy.deepcopy([training.net.state_dict(), training.optimizer.state_dict()])
    parts, ids = list(training.net.modules()), [id(p) for g in training.optimizer.param_groups for p in g["params"]]
    real, calls = getattr(module, fails), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == (2 if fails == "cut" else 1):
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
    assert [(e.kind, e.step) for e in other.schedule.events] == [(e.kind, e.step) for e in whole.schedule.events]
    ours, theirs = other.net.state_dict(), whole.net.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


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
        training.net, training.optimizer, n_steps=20, factoring=quarter(recompose_fraction=0.25), skip=["output"]
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
    for switch in (False, True):
        training = Training("sgd", factoring if switch else None, n_steps=20).steps(1)
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
    schedule = Schedule(net, optimizer, n_steps=20, factoring=quarter(recompose_fraction=0.25), skip=["output"])
    x, y = (t.to(dtype) for t in data())
    for _ in range(20):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
        schedule.step()
    assert all(p.dtype == dtype and torch.isfinite(p).all() for p in net.parameters())
    assert len(schedule.events) == 2


def test_a_compiled_model_is_compiled_once_more_for_a_switch():
    import torch._dynamo as dynamo

    dynamo.reset()
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    training = trained()
    compiled = torch.compile(training.net, backend=counting, fullgraph=True)
    training.schedule = Schedule(
        compiled, training.optimizer, n_steps=20, factoring=quarter(recompose_fraction=0.25), skip=["output"]
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
        ({"factoring": sf.Factoring(0.25, learning_rate=2.0)}, ValueError, "learning_rate"),
        ({"factoring": sf.Factoring(0.25, guard=sf.Guard(0.1))}, ValueError, "raise"),
        ({"skip": ["nowhere"]}, ValueError, "skip"),
        ({"skip": "output"}, TypeError, "skip"),
        ({"loss": lambda output, batch: 0}, ValueError, "loss"),
        ({"sample": []}, ValueError, "sample"),
        ({"sample": torch.zeros(3)}, TypeError, "sample"),
        ({"sample": [3]}, TypeError, "sample"),
        ({"optimizer": "adam"}, TypeError, "optimizer"),
        ({"model": "model"}, TypeError, "model"),
    ],
)
def test_what_is_refused_names_the_argument(arguments, error, message):
    net = arguments.pop("model", None) or model()
    optimizer = arguments.pop("optimizer", None) or torch.optim.Adam(model().parameters() if net == "model" else net.parameters())
    with pytest.raises(error, match=message):
        Schedule(net, optimizer, **{"n_steps": 10} | arguments)


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
