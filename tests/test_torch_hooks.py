# SPDX-License-Identifier: BSD-3-Clause
"""Hooks of others keep their layers as they are, and a schedule's own leave the model again."""

import copy
import gc
import pickle

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not there")
from torch import nn  # noqa: E402
from torch_training import Training, held, model, one_thread  # noqa: E402, F401

import svdfast as sf  # noqa: E402
from svdfast.torch import FactoredLinear, Schedule, recompose  # noqa: E402
from svdfast.torch.auto import Auto  # noqa: E402

STAYS = pytest.mark.filterwarnings("ignore:.* stays factored")


def trained(**settings):
    """The switch comes after step 2 of 20, the recomposition after step 15."""
    chosen = {"pretrain_fraction": 0.1, "recompose_fraction": 0.25, "force": True} | settings
    return Training(factoring=sf.Factoring(0.25, **chosen), n_steps=20)


def hooked(layer):
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    return calls


# ---- others' hooks


def test_a_factored_layer_with_hooks_stays_and_keeps_them():
    training = trained().steps(5)
    calls = hooked(training.net.first)
    training.steps(9)
    with pytest.warns(UserWarning, match="'first' stays factored: it has hooks") as told:
        training.steps(1)
    assert told[0].filename.endswith("torch_training.py")
    assert isinstance(training.net.first, FactoredLinear) and type(training.net.second) is nn.Linear
    assert training.schedule.events[-1].info["layers"] == ["second"]
    assert "it has hooks" in training.schedule.explain()
    n_before, losses = len(calls), training.losses[:]
    training.steps(5)  # and nothing is tried again
    assert len(calls) == n_before + 5 and training.losses[-1] < losses[5]
    assert [event.kind for event in training.schedule.events] == ["switch", "recompose"]
    assert held(training.optimizer) == {id(p) for p in training.net.parameters()}


@STAYS
def test_a_factored_layer_with_a_parametrization_stays():
    class Doubled(nn.Module):
        def forward(self, W):
            return 2 * W

    training = trained().steps(5)
    with torch.no_grad():
        training.net.first.W1 /= 2
    nn.utils.parametrize.register_parametrization(training.net.first, "W1", Doubled())
    before = training.net.first.W1.detach()
    training.schedule.finish()
    assert torch.equal(training.net.first.W1, before) and type(training.net.second) is nn.Linear
    assert "it stays factored" in training.schedule.explain()


@STAYS
def test_a_guard_takes_back_what_it_can():
    training = trained(guard=sf.Guard(0.1, "undo")).steps(2)
    hooked(training.net.first)
    training.schedule._recent.clear()
    training.schedule.step(10.0)
    event = training.schedule.events[-1]
    assert event.info["action"] == "undone" and event.info["layers"] == ["second"]
    assert training.schedule.phase == "factored"


def test_auto_takes_back_none_that_can_not_be():
    auto = Auto(100, 10, 90)
    auto.failed, auto.limit = True, 1.0
    back, info = auto.check(50, {}, 2.0, None, for_good=False)
    assert back == [] and info["action"] == "kept" and auto.check_step is None


@STAYS
def test_a_state_that_would_take_hooks_away_is_refused():
    state = trained().steps(9).schedule.state_dict()
    training = trained()
    hooked(training.net.second)
    parts = list(training.net.modules())
    with pytest.raises(ValueError, match=r"state: 'second'.*hooks"):
        training.schedule.load_state_dict(state)
    assert list(training.net.modules()) == parts and training.schedule.n_done == 0


# ---- the schedule's own


def own_hooks(net):
    return sum(len(part._forward_pre_hooks) for part in net.modules())


def watched(n_steps=500, steps=3):
    training = Training(factoring="auto", n_steps=n_steps).steps(steps)
    assert own_hooks(training.net) == 3
    return training


def test_hooks_are_gone_after_a_schedule_that_was_given_up():
    training = watched()
    training.schedule = None
    gc.collect()
    training.loss()
    assert own_hooks(training.net) == 0


def test_hooks_are_gone_after_finish():
    training = watched()
    training.schedule.finish()
    assert own_hooks(training.net) == 0
    training.steps(3)
    assert training.schedule.n_done == 6 and training.schedule.events == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_lose_the_hooks(copied):
    training = watched()
    net = copied(training.net)
    net(training.x)
    assert own_hooks(net) == 0 and own_hooks(training.net) == 3


def test_own_hooks_are_no_reason_to_leave_a_layer():
    training = watched()
    state = trained().steps(9).schedule.state_dict()
    other = Schedule(
        training.net, training.optimizer, n_steps=20, factoring=sf.Factoring(0.25, force=True)
    )
    other.load_state_dict(state)
    assert other.phase == "factored"


def test_a_state_that_does_not_fit_leaves_the_hooks():
    training = watched()
    state = watched().schedule.state_dict()
    looks = training.schedule._looks
    for broken in ({"ranks": {"third": 3}}, {"auto": {"look_step": 3}}):
        with pytest.raises(ValueError, match="state: expected"):
            training.schedule.load_state_dict(state | broken)
        assert own_hooks(training.net) == 3 and training.schedule._looks is looks
        assert training.schedule.n_done == 3
    training.schedule.load_state_dict(state)
    assert own_hooks(training.net) == 3


# ---- finish


def test_finish_makes_layers_dense_and_the_optimizer_holds_them():
    training = trained().steps(5)
    training.schedule.finish()
    assert training.schedule.phase == "dense" and type(training.net.first) is nn.Linear
    assert held(training.optimizer) == {id(p) for p in training.net.parameters()}
    assert [e.kind for e in training.schedule.events] == ["switch", "recompose"]
    training.steps(15)
    assert [e.kind for e in training.schedule.events] == ["switch", "recompose"]


def test_finish_leaves_factors_that_are_to_stay():
    training = trained(recompose=False, recompose_fraction=0.0).steps(5)
    training.schedule.finish()
    assert training.schedule.phase == "factored"
    recompose(training.net)


def test_finish_after_others_have_replaced_the_layers():
    training = trained().steps(5)
    recompose(training.net)
    training.schedule.finish()
    assert [e.kind for e in training.schedule.events] == ["switch"]
