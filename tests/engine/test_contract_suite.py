"""The contract catches what it is for: each class here breaks one promise."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mmbench.contract.checks import CHECKS
from mmbench.contract.suite import run_all, run_one
from mmbench.contract.waiting import Waits, call_without_waiting
from mmbench.method import Method, MethodConfig, Needs
from mmbench.nets.heads import ConcatHead
from mmbench.registry import METHODS
from mmbench.settings import setting


class Sound(Method):
    """Keeps the contract."""

    name = "sound"

    def build(self):
        self.fusion_head = ConcatHead(self.names, self.width, self.classes)

    def predict(self, inputs):
        return {"fused": self.fusion_head(self.encode(inputs))}

    def loss(self, batch):
        return cross_entropy(self.predict(batch.inputs)["fused"], batch.label)

    def step(self, batch):
        loss = self.loss(batch)
        self.fit.backward(loss)
        self.fit.update()
        return {"loss": loss}


class NoRange(MethodConfig):
    strength: float = setting(1.0, "how much", source="ours")


class NoSource(MethodConfig):
    strength: float = 1.0


class Unbounded(Sound):
    Config = NoRange


class Unsourced(Sound):
    Config = NoSource


class Idle(Sound):
    def step(self, batch):
        return {"loss": self.loss(batch)}


class Uphill(Sound):
    def step(self, batch):
        loss = self.loss(batch)
        self.fit.backward(-loss)
        self.fit.update()
        return {"loss": loss}


class Numbers(Sound):
    def step(self, batch):
        return {**super().step(batch), "strength": 1.0}


class Unseeded(Sound):
    def step(self, batch):
        draw = torch.Generator().manual_seed(torch.seed() % 2**31)
        self.fusion_head.linear.bias.data += 1e-3 * torch.randn(self.classes, generator=draw)
        return super().step(batch)


class Neighbours(Sound):
    def predict(self, inputs):
        fused = super().predict(inputs)["fused"]
        return {"fused": fused - fused.mean(0)}


class Forgetful(Sound):
    def build(self):
        super().build()
        self.steps = 0

    def step(self, batch):
        self.steps += 1
        loss = self.loss(batch) * (1 + self.steps % 7)
        self.fit.backward(loss)
        self.fit.update()
        return {"loss": loss}


class Waiting(Sound):
    def step(self, batch):
        out = super().step(batch)
        return out if float(out["loss"]) > 0 else {}


class Overflowing(Sound):
    def build(self):
        super().build()
        self.register_buffer("score", torch.zeros(()))

    def step(self, batch):
        out = super().step(batch)
        if torch.is_autocast_enabled("cpu"):
            self.score += torch.tensor(float("inf"))
        return out


class Crashing(Sound):
    def step(self, batch):
        raise KeyError("audio")


CASES = [
    (Unbounded, "options", "give strength a range"),
    (Unsourced, "options", "say what strength means"),
    (Idle, "learns", "changed no parameter"),
    (Uphill, "learns", "did not fall"),
    (Numbers, "learns", "must return scalar tensors"),
    (Unseeded, "repeats", "two runs with one seed differ"),
    (Neighbours, "predicts alone", "when the batch is another"),
    (Forgetful, "resumes", "register_buffer"),
    (Waiting, "does not wait", "reading a tensor's value"),
    (Overflowing, "survives bf16", "not finite after training in bf16: score"),
    (Crashing, "learns", "KeyError at test_contract_suite.py"),
]


@pytest.mark.parametrize("check", CHECKS)
def test_sound_class_passes(check):
    assert run_one(Sound, check, 2).outcome == "pass"


@pytest.mark.parametrize(("cls", "check", "mend"), CASES)
def test_broken_class_is_caught_and_told_what_to_mend(cls, check, mend):
    result = run_one(cls, check, 2)
    assert result.outcome == "FAIL"
    assert mend in result.detail


def test_every_check_is_seen_failing():
    assert {check for _, check, _ in CASES} == set(CHECKS)


def test_refusals_are_stated_and_refusing_everything_fails():
    class Picky(Sound):
        name = "picky"
        needs = Needs(min_modalities=5)

    results = list(run_all(Picky))
    assert {r.outcome for r in results[:-1]} == {"refused"}
    assert "picky needs at least 5 modalities" in results[0].detail
    assert results[-1].outcome == "FAIL"


def test_options_that_cannot_be_constructed_are_one_failure():
    class Impossible(MethodConfig):
        strength: float = setting(-1.0, "how much", source="ours", ge=0)

    class Unbuildable(Sound):
        Config = Impossible

    (result,) = run_all(Unbuildable)
    assert result.outcome == "FAIL"
    assert "strength" in result.detail


X = torch.arange(6.0)


@pytest.mark.parametrize(
    "operation",
    [
        lambda: X.sum().item(),
        lambda: float(X[0]),
        lambda: bool(X[0] > 0),
        lambda: X.tolist(),
        lambda: X.numpy(),
        lambda: X.cpu(),
        lambda: X[X > 2],
        lambda: X.nonzero(),
        lambda: X.masked_select(X > 2),
        lambda: X.unique(),
        lambda: torch.equal(X, X),
        lambda: X.clone().index_put((X > 2,), torch.zeros(())),
    ],
)
def test_waiting_operations_are_noticed(operation):
    with pytest.raises(Waits):
        call_without_waiting(operation)


def test_work_that_stays_on_the_device_is_let_through():
    layer = nn.Linear(6, 2)

    def step():
        layer(torch.where(X > 2, X, 0.0)).square().mean().backward()
        return X.index_select(0, torch.tensor([1, 2]))

    assert call_without_waiting(step).shape == (2,)
    assert layer.weight.grad is not None


def test_registered_names_can_be_tested():
    assert all(r.outcome == "pass" for r in run_all(METHODS.load("concat")))
