"""What evaluates a model leaves the mode of every part as it was."""

import pytest
import torch
from mmbench.methods.concat import Concat
from torch import nn

from mmbench.contract.toy import everything, predict, toy_trainer
from mmbench.nets.modes import evaluating
from mmbench.training.evaluation import predictions
from mmbench.training.imbalance import features, measure


class Merging(nn.Module):
    """Does more than to note its mode, as adapters do that merge their weights."""

    merged = False

    def train(self, mode=True):
        self.merged = not mode
        return super().train(mode)


def modes(module):
    return [part.training for part in module.modules()]


@pytest.mark.parametrize("whole", [True, False])
def test_every_part_gets_its_own_mode_back(whole):
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    net.train(whole)
    net[1][0].train(not whole)
    before = modes(net)
    with evaluating(net):
        assert not any(modes(net))
    assert modes(net) == before


def test_the_modes_come_back_after_an_error():
    net = nn.Dropout()
    with pytest.raises(ZeroDivisionError), evaluating(net):
        _ = 1 / 0
    assert net.training


def test_a_part_that_does_more_in_eval_mode_undoes_it():
    net = nn.Sequential(Merging())
    with evaluating(net):
        assert net[0].merged
    assert net[0].training
    assert not net[0].merged


@pytest.mark.parametrize(
    "look",
    [
        lambda method, loader, batch: predictions(method, loader),
        lambda method, loader, batch: features(method, loader),
        lambda method, loader, batch: measure(method, loader, loader),
        lambda method, loader, batch: predict(method, batch),
    ],
    ids=["predictions", "features", "imbalance", "contract"],
)
def test_a_part_that_a_method_keeps_in_eval_mode_stays_so(look, tmp_path):
    trainer = toy_trainer(Concat, 2, tmp_path)
    method = trainer.method.train()
    method.encoders["m1"].eval()
    before = modes(method)
    statistics = method.state_dict()["encoders.m1.layers.1.running_mean"].clone()
    look(method, trainer.loaders["val"], everything(trainer))
    assert modes(method) == before
    assert torch.equal(method.state_dict()["encoders.m1.layers.1.running_mean"], statistics)
