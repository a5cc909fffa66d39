# SPDX-License-Identifier: BSD-3-Clause
"""The progress bar of a training: steps, time left, phase, loss within an epoch, and a name."""

import re

import numpy as np
import pytest

import svdfast as sf
from svdfast.training import bar as bar_module
from svdfast.training.bar import Bar

pytest.importorskip("tqdm", reason="tqdm is not installed")


@pytest.fixture
def at_once(monkeypatch):
    """Each step is shown."""
    monkeypatch.setattr(bar_module, "_EVERY", 0.0)


def states(err):
    """What the bar has shown, one after the other."""
    return [state for state in re.split(r"[\r\n]+", err) if "|" in state]


def samples(n=40):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 6)), rng.integers(0, 3, n)


def trained(**settings):
    method = sf.Factoring([3, 4], pretrain_fraction=0.5, force=True)
    given = {"epochs": 4, "batch_size": 10, "factoring": method, "progress": True} | settings
    net = sf.Network([6, 16, 14, 3], dtype="float64", seed=0)
    return sf.train(net, *samples(), **given)


def test_steps_time_left_phase_and_loss(at_once, capsys):
    trained()
    shown = states(capsys.readouterr().err)
    assert any("0/16 [00:00<?" in state and "dense" in state for state in shown)
    assert any(re.search(r" 6/16 \[00:00<00:00, .*step/s, dense, loss \d", state) for state in shown)  # within the second epoch
    assert any(re.search(r" 11/16 .*factored, loss \d", state) for state in shown)
    assert not any("factored" in state for state in shown if re.search(r" [0-7]/16", state))


def test_an_epochs_loss_is_that_of_the_history(at_once, capsys):
    result = trained()
    shown = " ".join(states(capsys.readouterr().err))
    for row in result.history:
        assert f"{row['phase']}, loss {row['loss']:.4g}" in shown


def test_a_name(at_once, capsys):
    trained(progress="<first> net")
    assert all(state.strip().startswith("<first> net: ") for state in states(capsys.readouterr().err))


@pytest.mark.parametrize("progress", [False, ""])
def test_none(progress, capsys):
    trained(progress=progress)
    assert capsys.readouterr().err == ""


def test_the_loss_is_a_moving_mean_that_begins_again(at_once, capsys):
    bar = Bar(10, 0, "")
    bar.begin("dense")
    for loss in (1.0, 2.0):
        bar.step(loss)
    assert "dense, loss 1.1" in states(capsys.readouterr().err)[-1]
    bar.begin("factored")
    bar.step(5.0)
    assert "factored, loss 5" in states(capsys.readouterr().err)[-1]
    bar.step(float("nan"))
    assert "loss nan" in states(capsys.readouterr().err)[-1]
    bar.shorten(4)
    assert " 4/4 " in states(capsys.readouterr().err)[-1]
    bar.close()
    bar.close()


def test_a_bar_of_a_continued_training_begins_where_it_stopped(at_once, capsys, tmp_path):
    X, y = samples()
    path = tmp_path / "run.ckpt"
    net = sf.Network([6, 8, 3], seed=0)
    with pytest.raises(KeyboardInterrupt):
        sf.train(net, X, y, epochs=4, batch_size=10, checkpoint=path, callbacks=[interrupt])
    sf.resume(path, X, y, progress="again")
    shown = states(capsys.readouterr().err)
    assert re.search(r"again: +\d+%.* 8/16 ", shown[0])
    assert any(" 16/16 " in state for state in shown)


def interrupt(event):
    if event.kind == "epoch" and event.epoch == 3:
        raise KeyboardInterrupt
