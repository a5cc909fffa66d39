# SPDX-License-Identifier: BSD-3-Clause
"""The callbacks in the real Trainers: the four steps come, and a training goes on from any of its checkpoints to the same weights."""

import importlib
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not there")
from torch import nn  # noqa: E402
from torch_training import data, model, one_thread  # noqa: E402, F401

import svdfast as sf  # noqa: E402

FACTORING = sf.Factoring(0.25, pretrain_fraction=0.2, recompose_fraction=0.25, force=True)
STEPS = 12
EVENTS = [("switch", 2), ("recompose", 9)]
# Others' packages warn of what is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def told(callback):
    return [(event.kind, event.step) for event in callback.schedule.events]


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# ---- transformers


@pytest.fixture
def hugging_face(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="transformers is not there")
    pytest.importorskip("accelerate", reason="accelerate is not there")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from svdfast.torch.trainer import SVDCallback

    def trainer(net=None, **arguments):
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=11,
            n_positions=16,
            n_embd=32,
            n_layer=2,
            n_head=2,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
            use_cache=False,
        )
        net = transformers.GPT2LMHeadModel(config) if net is None else net
        tokens = torch.randint(0, 11, (64, 16), generator=torch.Generator().manual_seed(1))
        rows = [{"input_ids": row, "labels": row} for row in tokens]
        settings = transformers.TrainingArguments(
            **{
                "output_dir": str(tmp_path), "max_steps": STEPS, "per_device_train_batch_size": 8, "save_steps": 1, "use_cpu": True,
                "report_to": "none", "disable_tqdm": True, "learning_rate": 1e-3, "logging_strategy": "no",
            } | arguments
        )  # fmt: skip
        callback = SVDCallback(FACTORING)
        return transformers.Trainer(
            net, settings, train_dataset=rows, eval_dataset=rows, callbacks=[callback]
        ), callback

    yield trainer
    logging.getLogger("transformers").handlers.clear()


def test_trainer_goes_through_the_four_steps(hugging_face):
    trainer, callback = hugging_face()
    before = trainer.model.state_dict().keys()
    trainer.train()
    assert told(callback) == EVENTS and trainer.model.state_dict().keys() == before
    ranks = callback.schedule.events[0].info["ranks"]
    assert "transformer.h.0.attn.c_attn" in ranks and "lm_head" not in ranks


@pytest.mark.parametrize("at", [1, 5, 10])
def test_trainer_resumes_in_each_phase(hugging_face, tmp_path, at):
    whole, _ = hugging_face()
    whole.train()
    other, callback = hugging_face()
    other.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert told(callback) == EVENTS
    same(other.model, whole.model)


def test_trainer_accumulates_gradients(hugging_face):
    trainer, callback = hugging_face(gradient_accumulation_steps=2, save_strategy="no")
    trainer.train()
    assert told(callback) == EVENTS and callback.schedule.n_done == STEPS


def test_trainer_ends_with_dense_layers_where_it_ends_early(hugging_face):
    import transformers

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 5

    trainer, callback = hugging_face(save_strategy="no")
    before = trainer.model.state_dict().keys()
    trainer.add_callback(Stop())
    trainer.train()
    assert told(callback) == [EVENTS[0], ("recompose", 5)]
    assert trainer.model.state_dict().keys() == before


def test_trainer_ends_with_dense_layers_where_it_goes_back_to_a_factored_checkpoint(
    hugging_face, tmp_path
):
    import transformers

    class Best(transformers.TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            state.best_model_checkpoint = str(tmp_path / "checkpoint-5")

    trainer, _ = hugging_face(eval_strategy="steps", eval_steps=1, load_best_model_at_end=True)
    before = trainer.model.state_dict().keys()
    trainer.add_callback(Best())
    trainer.train()
    assert trainer.model.state_dict().keys() == before
    saved = (tmp_path / "checkpoint-5" / "model.safetensors").read_bytes()
    state = pytest.importorskip("safetensors.torch").load(saved)
    name = "transformer.h.0.mlp.c_fc"
    W = trainer.model.get_submodule(name).weight
    torch.testing.assert_close(W, (state[f"{name}.W1"] @ state[f"{name}.W2"]).T)


def test_trainer_that_makes_callbacks_anew_is_refused(hugging_face, tmp_path):
    trainer, _ = hugging_face(max_steps=3)
    trainer.train()
    other, _ = hugging_face(restore_callback_states_from_checkpoint=True)
    with pytest.raises(ValueError, match="restore_callback_states_from_checkpoint"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


# ---- lightning


@pytest.fixture
def lightning(tmp_path):
    pl = pytest.importorskip("lightning.pytorch", reason="lightning is not there")
    from svdfast.torch.lightning import SVDCallback

    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model()

        def training_step(self, batch, index):
            x, y = batch
            return (self.net(x) - y).square().mean()

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)]

    def trainer(**arguments):
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        callback = SVDCallback(FACTORING, skip=["net.output"])
        saver = pl.callbacks.ModelCheckpoint(
            tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1
        )
        made = pl.Trainer(
            **{
                "max_steps": STEPS, "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
                "callbacks": [saver, callback], "default_root_dir": tmp_path,
            } | arguments
        )  # fmt: skip
        # All batches are the same: Lightning begins with the first one where it goes on within an epoch.
        x, y = data(96)
        batches = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(x.repeat(3, 1), y.repeat(3, 1)), 96
        )
        return made, Net(), batches, callback

    return trainer


def test_lightning_goes_through_the_four_steps(lightning):
    trainer, net, batches, callback = lightning()
    before = net.state_dict().keys()
    trainer.fit(net, batches)
    assert told(callback) == EVENTS and net.state_dict().keys() == before
    assert callback.schedule.events[0].info["ranks"] == {"net.first": 10, "net.second": 12}


@pytest.mark.parametrize("at", [1, 5, 10])
def test_lightning_resumes_in_each_phase(lightning, tmp_path, at):
    trainer, whole, batches, _ = lightning()
    trainer.fit(whole, batches)
    trainer, other, batches, callback = lightning()
    trainer.fit(other, batches, ckpt_path=str(tmp_path / f"step={at}.ckpt"))
    assert told(callback) == EVENTS
    same(other, whole)


def test_lightning_accumulates_gradients(lightning):
    trainer, net, batches, callback = lightning(accumulate_grad_batches=2)
    trainer.fit(net, batches)
    assert told(callback) == EVENTS and callback.schedule.n_done == STEPS


def test_lightning_needs_a_number_of_steps(lightning):
    trainer, net, batches, _ = lightning(max_steps=-1, max_time="00:00:00:05")
    with pytest.raises(ValueError, match=r"SVDCallback.*max_steps"):
        trainer.fit(net, batches)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_fits_again_and_counts_from_0(lightning, tmp_path, accumulate):
    trainer, net, batches, callback = lightning(accumulate_grad_batches=accumulate)
    trainer.fit(net, batches)
    trainer.fit_loop.epoch_loop.max_steps = 2 * STEPS
    trainer.fit(net, batches)
    assert told(callback) == EVENTS and callback.schedule.n_done == STEPS
    # From a checkpoint of the second training.
    again, other, batches, callback = lightning(
        max_steps=2 * STEPS, accumulate_grad_batches=accumulate
    )
    again.fit(other, batches, ckpt_path=str(tmp_path / f"step={STEPS + 5}.ckpt"))
    assert told(callback) == EVENTS and callback.schedule.n_done == STEPS
    same(other, net)


def test_lightning_ends_where_a_factored_layer_has_hooks(lightning):
    import lightning.pytorch as pl

    from svdfast.torch import FactoredLinear

    class Hook(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if trainer.global_step == 5:
                module.net.first.register_forward_hook(lambda *_: None)

    trainer, net, batches, callback = lightning()
    trainer.callbacks.append(Hook())
    trainer.fit(net, batches)
    assert told(callback) == EVENTS
    assert isinstance(net.net.first, FactoredLinear) and type(net.net.second) is nn.Linear


# ---- where they are not there


@pytest.mark.parametrize("name, package", [("trainer", "transformers"), ("lightning", "lightning")])
def test_a_package_that_is_not_there_is_named(name, package, tmp_path):
    code = f"""
import sys
sys.modules[{package!r}] = None
import svdfast.torch
try:
    svdfast.torch.{name}
except ImportError as error:
    assert error.name == {package!r} and 'svdfast[{package}]' in str(error), error
else:
    sys.exit("no error")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=120, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(sf.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("got", ["2.4.9", "1.9", "2.4.0.post0"])
def test_a_package_that_is_too_old_is_named(got):
    from svdfast.torch.callback import check_version

    with pytest.raises(ImportError, match=rf"lightning 2.5 or newer, got {got}") as told:
        check_version("lightning", "2.5", got)
    assert told.value.name == "lightning"
    for new in ("2.5.0.post0", "2.10.1", "3.0.dev0"):
        check_version("lightning", "2.5", new)


def test_other_names_are_no_callbacks():
    package = importlib.import_module("svdfast.torch")
    with pytest.raises(AttributeError, match="keras"):
        _ = package.keras
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(package.Schedule, type) and issubclass(package.FactoredLinear, nn.Module)
