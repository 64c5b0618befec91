"""A method sees of its trainer what the contract names, and never the test split."""

import copy
import pickle

import pytest
import torch
from mmbench.methods.concat import Concat

from mmbench.contract.toy import SIZES, ToyEncoder, toy_task, toy_trainer
from mmbench.data import cache as data_cache
from mmbench.method import FIT_NAMES
from mmbench.registry import DATASETS
from mmbench.settings import RunSettings
from mmbench.store import read_record
from mmbench.sweep import Request, expand
from mmbench.training import run_cell as module
from mmbench.training.trainer import Trainer


@pytest.fixture
def method(tmp_path):
    trainer = toy_trainer(Concat, 2, tmp_path)
    trainer.train()
    return trainer.method


@pytest.mark.parametrize(("unsaved", "checkpoints"), [(2.9, 0), (3.1, 3)])
def test_epochs_end_in_a_checkpoint_once_three_seconds_would_be_lost(
    unsaved, checkpoints, tmp_path, monkeypatch
):
    saved = []
    monkeypatch.setattr(Trainer, "_unsaved", property(lambda self: unsaved))
    monkeypatch.setattr(Trainer, "_save", lambda self: saved.append(self.epoch))
    trainer = toy_trainer(Concat, 2, tmp_path)
    trainer.epochs = 3
    trainer.train()
    assert len(saved) == checkpoints


def untrained():
    task = toy_task(2)
    encoders = {m: ToyEncoder(SIZES[i]) for i, m in enumerate(task.names)}
    return Concat(task, encoders, Concat.Config())


@pytest.mark.parametrize("name", ["loaders", "best", "curve", "select", "hooks", "state"])
def test_what_the_contract_does_not_name_is_not_there(name, method):
    with pytest.raises(AttributeError, match=rf"fit has no '{name}'; it offers backward, device"):
        getattr(method.fit, name)


def test_what_the_contract_names_is_there(method):
    assert {"backward", "update", "epoch", "seed", "lr", "validates"} <= FIT_NAMES
    for name in FIT_NAMES:
        assert getattr(method.fit, name) is not None


def test_a_method_cannot_turn_the_trainers_counters(method):
    with pytest.raises(AttributeError, match="keep it on the method itself"):
        method.fit.epoch = 0


def test_what_is_not_trained_has_no_trainer():
    with pytest.raises(RuntimeError, match=r"is not being trained: 'fit\.seed' is only there"):
        _ = untrained().fit.seed


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_method_can_be_copied_before_it_is_trained(copied):
    method = untrained()
    twin = copied(method)
    weights = twin.state_dict()
    assert all(torch.equal(weights[name], t) for name, t in method.state_dict().items())
    with pytest.raises(RuntimeError, match="is not being trained"):
        _ = twin.fit.seed


@pytest.mark.parametrize(("protocol", "other"), [("validated", "val"), ("published", "test")])
def test_the_trainer_holds_only_train_and_the_selecting_split(
    protocol, other, tmp_path, monkeypatch
):
    data_cache.prepare(DATASETS.load("mfeat3")(), cache=tmp_path)
    (cell,) = expand(
        Request(methods=["concat"], datasets=["mfeat3"], seeds=[0], protocol=protocol,
                settings={"trainer.epochs": 1}),
        tmp_path,
    )  # fmt: skip
    seen = []
    honest = module.Trainer

    def watched(method, loaders, *rest, **named):
        seen.append(set(loaders))
        return honest(method, loaders, *rest, **named)

    monkeypatch.setattr(module, "Trainer", watched)
    module.run_cell(cell, results=tmp_path, cache=tmp_path, run=RunSettings(device="cpu"))
    assert seen == [{"train", other}]
    (file,) = tmp_path.glob("runs/*/record.json")
    assert set(read_record(file).data.sizes) == {"train", "val", "test"}
    assert read_record(file).data.absent == {"train": 0, "val": 0, "test": 0}
