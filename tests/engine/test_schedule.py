"""Learning rates by epoch, optimisers by name, and what a step does on request."""

import pytest
import torch
from torch import nn

from mmbench.method import ParameterGroup
from mmbench.settings import TrainerSettings
from mmbench.training.optimizers import Optimizers
from mmbench.training.schedule import lr_at


def rates(epochs, **changed):
    settings = TrainerSettings(lr=0.1, epochs=epochs, **changed)
    return [lr_at(settings, epoch, epochs) for epoch in range(epochs)]


def test_step_is_torchs_stepped_after_each_epoch():
    parameter = nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(theirs, 7, 0.1)
    expected = []
    for _ in range(10):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()
    assert rates(10, lr_step=0.7) == pytest.approx(expected)


def test_cosine_is_torchs():
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 10)
    expected = []
    for _ in range(10):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()
    assert rates(10, schedule="cosine") == pytest.approx(expected)


def test_warm_up_rises_linearly_to_the_full_rate():
    found = rates(10, schedule="cosine", warmup=0.4)
    assert found[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert found == sorted(found[:4]) + sorted(found[4:], reverse=True)


def test_constant_stays():
    assert rates(3, schedule="constant") == [0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    ("kind", "cls"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_optimisers_continue_from_their_state_bitwise(kind, cls):
    def make():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizers = Optimizers(model, TrainerSettings(optimizer=kind, lr=0.1))
        groups = [ParameterGroup("w", [model.weight], 0.5), ParameterGroup("b", [model.bias])]
        optimizers.create("main", groups)
        return model, optimizers

    def step(model, optimizers):
        model(torch.ones(1, 3)).square().sum().backward()
        optimizers.by_name["main"].step()
        model.zero_grad()

    straight, again = make(), make()
    assert isinstance(straight[1].by_name["main"], cls)
    for _ in range(4):
        step(*straight)
    for _ in range(2):
        step(*again)
    saved = again[1].state()
    again[1].load(saved)
    for _ in range(2):
        step(*again)
    assert torch.equal(straight[0].weight, again[0].weight)
    assert [g["lr"] for g in again[1].by_name["main"].param_groups] == [0.05, 0.1]


def test_a_group_can_be_scaled_and_follows_the_schedule():
    model = nn.Linear(3, 2)
    optimizers = Optimizers(model, TrainerSettings(lr=0.1))
    optimizers.create("main", [ParameterGroup("w", [model.weight])])
    optimizers.create("second", [ParameterGroup("b", [model.bias])], weight_decay=0.0)
    optimizers.scale("w", 3.0)
    optimizers.set_lr(0.01)
    assert optimizers.by_name["main"].param_groups[0]["lr"] == pytest.approx(0.03)
    assert optimizers.by_name["second"].param_groups[0]["lr"] == pytest.approx(0.01)
    assert optimizers.by_name["second"].param_groups[0]["weight_decay"] == 0.0
    with pytest.raises(KeyError, match="no parameter group 'x'"):
        optimizers.scale("x", 1.0)


def test_gradients_are_clipped_on_request(tmp_path):
    from mmbench.contract.toy import toy_trainer
    from mmbench.registry import METHODS

    moved = {}
    for clip in (None, 1e-3):
        trainer = toy_trainer(METHODS.load("concat"), 2, tmp_path / str(clip))
        plain = {"clip_norm": clip, "momentum": 0.0, "weight_decay": 0.0}
        trainer.settings = trainer.settings.model_copy(update=plain)
        trainer.optimizers.settings = trainer.settings
        trainer.optimizers.create("main", trainer.method.parameter_groups())
        trainer.method.fit = trainer
        before = torch.cat([p.detach().flatten().clone() for p in trainer.method.parameters()])
        trainer.method.step(next(trainer.train_batches()))
        after = torch.cat([p.detach().flatten() for p in trainer.method.parameters()])
        moved[clip] = float((after - before).norm()) / trainer.settings.lr
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert moved[None] > 1e-2
