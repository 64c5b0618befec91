"""The contract catches what it is for: each class here breaks one promise."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from mmbench.contract.checks import CHECKS
from mmbench.contract.suite import run_all, run_one
from mmbench.errors import UserError
from mmbench.method import UNKNOWN, Deviation, Method, MethodConfig, Needs, of_trainer
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


class Careless(MethodConfig):
    strength: float = 1.0
    count: int = setting(1, "", source="")


class Untold(Sound):
    Config = Careless


class Choices(MethodConfig):
    mode: Literal["plain", "broken"] = setting("plain", "what to do", source="ours")
    inverse: bool = setting(False, "divide", source="ours")
    limit: float | None = setting(None, "most", source="ours", gt=0)
    start: float | None = setting(1.0, "first", source="ours", gt=0)
    far: Literal["no", "yes"] = setting("no", "refused", source="ours")


class Chosen(Sound):
    Config = Choices

    def build(self):
        super().build()
        self.register_buffer("share", torch.zeros(()))

    def on_fit_start(self):
        if self.config.far == "yes":
            raise UserError("far=yes needs another task")
        if self.config.start is None:
            raise KeyError("start")

    def step(self, batch):
        if self.config.mode == "broken":
            raise IndexError("no such row")
        if self.config.inverse:
            self.share += 1 / torch.zeros(())
        return super().step(batch)


class Unbounded(Sound):
    Config = NoRange


class Unsourced(Sound):
    Config = NoSource


class Misnamed(Sound):
    Config = Choices
    deviations = (Deviation("mod", "plain", "broken", "Why."),)
    authors = {"lr": 0.1, "limit": -1.0, "trainer.epoch": 3, "start": UNKNOWN}  # noqa: RUF012


class Idle(Sound):
    def step(self, batch):
        return {"loss": self.loss(batch)}


class Uphill(Sound):
    def step(self, batch):
        loss = self.loss(batch)
        self.fit.backward(-loss)
        self.fit.update()
        return {"loss": loss}


class FirstTwo(Sound):
    """Leaves all but the first two modalities out, without saying so."""

    def encode(self, inputs):
        return {
            m: z if i < 2 else torch.zeros_like(z)
            for i, (m, z) in enumerate(super().encode(inputs).items())
        }


class HeadAlone(Sound):
    def step(self, batch):
        loss = self.loss(batch)
        self.fit.backward(loss)
        self.encoders.zero_grad(set_to_none=True)
        self.fit.update()
        return {"loss": loss}


class HeldBack(HeadAlone):
    """Gradients of zero: weight decay alone would move the encoders."""

    def step(self, batch):
        loss = self.loss(batch)
        self.fit.backward(loss)
        self.encoders.zero_grad(set_to_none=False)
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


class Counting(Forgetful):
    """Counts without using the count, yet."""

    step = Sound.step

    def on_epoch_end(self, val):
        self.steps += 1


class Momentary(Forgetful):
    """What is lost at the stop is the same again at the end."""

    def on_epoch_start(self):
        self.steps = 0


class Remembering(Forgetful):
    def get_extra_state(self):
        return {"steps": self.steps}

    def set_extra_state(self, state):
        self.steps = state["steps"]


def waiting_by(wait):
    class ByThis(Sound):
        def step(self, batch):
            wait(batch.inputs["m1"], self)
            return super().step(batch)

    return ByThis


def hook_waiting(hook, times):
    class InHook(Sound):
        def again(self, *args):
            for _ in range(times):
                float(self.fusion_head.linear.bias.detach().sum())

    setattr(InHook, hook, InHook.again)
    return InHook


class Holding(Sound):
    """The trainer's own waits are not the method's."""

    def on_fit_start(self):
        self.fit.hold_out(0.2)
        with self.fit.sandbox():
            for batch in self.fit.train_batches():
                self.fit.backward(self.loss(batch))
        for batch in self.fit.held_out_batches():
            batch.label.to(self.fit.device)


class Moving(Sound):
    """Stays on the device, whatever it is called."""

    def step(self, batch):
        x = batch.inputs["m1"]
        device = self.fusion_head.linear.weight.device
        x.to(self.fit.device).to(device).to(x).to(torch.float32).to(device=x.device)
        torch.rand(3, generator=self.fit.generator("draw"), device=self.fit.device)
        torch.as_tensor(x, device=x.device)
        one_hot(batch.label, self.classes)
        torch.quantile(x, 0.5)
        twice = torch.full_like(batch.label, 2)
        torch.repeat_interleave(batch.label, twice, output_size=2 * len(twice))
        return super().step(batch)


class Undefined(Sound):
    """A loss that is NaN from the first step on."""

    def loss(self, batch):
        return super().loss(batch) * torch.zeros(()).log() * 0


class Diverging(Sound):
    """A loss that is NaN from the third step on, and for ever."""

    def build(self):
        super().build()
        self.register_buffer("steps", torch.zeros(()))

    def step(self, batch):
        self.steps += 1
        loss = self.loss(batch) * torch.where(self.steps > 2, float("nan"), 1.0)
        self.fit.backward(loss)
        self.fit.update()
        return {"loss": loss}


class Lossless(Sound):
    def step(self, batch):
        return {"total": super().step(batch)["loss"]}


class Wordless(Sound):
    def step(self, batch):
        super().step(batch)


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


class Misspelt(Sound):
    def step(self, batch):
        return self.stepp(batch)  # nn.Module raises this error, but the mistake is here


class Crashing(Sound):
    def step(self, batch):
        raise KeyError("audio")


class Unfused(Sound):
    def predict(self, inputs):
        return {"logits": super().predict(inputs)["fused"]}


class Promising(Sound):
    compiles = ("losses",)


class Squeezed(Sound):
    def predict(self, inputs):
        fused = super().predict(inputs)["fused"]
        return {"fused": fused, "m1": fused[:, 0]}


CASES = [
    (Unfused, "constructs", "with 'fused' among them"),
    (Squeezed, "constructs", "logits [96, 3] here, not 'm1' of shape [96]"),
    (Unbounded, "options", "give strength a range"),
    (Unsourced, "options", "say what strength means"),
    (Chosen, "choices", "with mode=broken: IndexError at test_contract_suite.py"),
    (Chosen, "choices", "with inverse=True: not finite after 2 epochs: share"),
    (Chosen, "choices", "with start=None: KeyError"),
    (Wordless, "steps", "step must return a dict of scalar tensors with 'loss'"),
    (Lossless, "steps", "step must return a dict of scalar tensors with 'loss'"),
    (Undefined, "steps", "the first step returned the loss nan; guard logarithms"),
    (Diverging, "learns", "the loss is not finite at epoch 1, step 3; guard logarithms"),
    (Idle, "steps", "changed no parameter"),
    (Promising, "steps", "compiles names 'losses', which is no method"),
    (Uphill, "learns", "did not fall"),
    (HeadAlone, "learns", "changed no parameter of the encoders of m1, m2: "),
    (HeldBack, "learns", "changed no parameter of the encoders of m1, m2: "),
    (Numbers, "steps", "must return scalar tensors"),
    (Unseeded, "repeats", "two runs with one seed differ"),
    (Neighbours, "predicts alone", "when the batch is another"),
    (Forgetful, "resumes", "self.steps is not what"),
    (Forgetful, "resumes", "; a continued run ends with other encoders.m1.layers.0.weight, "),
    (Forgetful, "resumes", "encoders.m1.layers.1.weight and 11 more"),
    (Counting, "resumes", "self.steps is not what"),
    (Counting, "resumes", "register_buffer(name, tensor), a plain value by returning it from get_"),
    (Momentary, "resumes", "self.steps is not what"),
    (Waiting, "does not wait", "at test_contract_suite.py"),
    (Waiting, "does not wait", "reading a tensor's value"),
    (hook_waiting("on_fit_start", 6), "does not wait", "on_fit_start waits for the device 6 times"),
    (hook_waiting("on_epoch_start", 6), "does not wait", "in an epoch of 6 batches, first at test"),
    (hook_waiting("on_epoch_end", 7), "does not wait", "on_epoch_end waits for the device 7 times"),
    (Overflowing, "survives bf16", "not finite after training in bf16: score"),
    (Misspelt, "steps", "AttributeError at test_contract_suite.py"),
    (Crashing, "steps", "KeyError at test_contract_suite.py"),
]


@pytest.mark.parametrize("check", CHECKS)
def test_sound_class_passes(check):
    assert run_one(Sound, check, 2).outcome == "pass"


@pytest.mark.parametrize(("count", "left_out"), [(3, "m3"), (4, "m3, m4")])
def test_encoders_that_never_change_are_named(count, left_out):
    assert run_one(FirstTwo, "learns", 2).outcome == "pass"
    result = run_one(FirstTwo, "learns", count)
    assert result.outcome == "FAIL"
    assert f"changed no parameter of the encoders of {left_out}: " in result.detail


def test_an_encoder_frozen_on_purpose_need_not_change():
    class Frozen(Sound):
        def build(self):
            super().build()
            self.encoders["m1"].requires_grad_(False)

    assert run_one(Frozen, "learns", 2).outcome == "pass"


def test_bundles_name_options_and_settings_of_the_trainer():
    result = run_one(Misnamed, "options", 2)
    assert result.outcome == "FAIL"
    told = result.detail.split("; ")
    assert "deviations: unknown setting 'method.mod'" in told
    assert "did you mean 'mode'? (known: mode, inverse, limit, start, far)" in told
    assert any(t.startswith("authors: unknown setting 'method.lr' (known: mode,") for t in told)
    assert any(t.startswith("authors: 'method.limit' cannot be -1.0") for t in told)
    assert "authors: unknown setting 'trainer.epoch'" in told
    assert any(t.startswith("did you mean 'epochs'? (known: epochs, ") for t in told)
    assert "start" not in result.detail.replace("limit, start, far", "")


def test_settings_that_the_trainer_does_not_have_are_refused_where_they_are_written():
    assert of_trainer(lr=0.1, epochs=UNKNOWN) == {"trainer.lr": 0.1, "trainer.epochs": UNKNOWN}
    with pytest.raises(UserError, match="no setting 'epoch'; did you mean 'epochs'"):
        of_trainer(epoch=3)


WAITS = {
    "to": lambda x, method: x.to("cpu"),
    "to a device": lambda x, method: x.to(torch.device("cpu")),
    "to device=": lambda x, method: x.to(device="cpu"),
    "to, and a dtype": lambda x, method: x.to("cpu", torch.float32),
    "as_tensor": lambda x, method: torch.as_tensor(x, device="cpu"),
    "module": lambda x, method: method.fusion_head.to("cpu"),
    "counts": lambda x, method: x.repeat_interleave(torch.ones(len(x), dtype=torch.int64), 0),
    "list": lambda x, method: torch.tensor([x[0, 0], x[0, 1]]),
    "array": lambda x, method: np.asarray(x),
    "inverse": lambda x, method: torch.linalg.inv(x.T @ x),
    "singular values": lambda x, method: torch.linalg.svd(x),
    "print": lambda x, method: f"{x[0, 0]:.2f}",
    "unknown classes": lambda x, method: one_hot(x.argmax(1)),
}


@pytest.mark.parametrize("name", WAITS)
def test_waiting_in_a_step_fails(name):
    result = run_one(waiting_by(WAITS[name]), "does not wait", 2)
    assert result.outcome == "FAIL"
    assert "step waits for the device at test_contract_suite.py:" in result.detail


HARMLESS = [Moving, Holding, *(hook_waiting(h, 5) for h in ("on_fit_start", "on_epoch_start"))]


@pytest.mark.parametrize("cls", HARMLESS)
def test_work_on_the_device_and_a_few_waits_in_a_hook_pass(cls):
    assert run_one(cls, "does not wait", 2).outcome == "pass"


def test_what_extra_state_keeps_is_not_lost():
    assert run_one(Remembering, "resumes", 2).outcome == "pass"


def test_a_choice_that_is_refused_is_stated():
    class Refusing(Chosen):
        def on_fit_start(self):
            if self.config.far == "yes":
                raise UserError("far=yes needs another task")

        step = Sound.step

    result = run_one(Refusing, "choices", 2)
    assert result.outcome == "pass"
    assert result.detail == "3 trained; far=yes is refused: far=yes needs another task"


def test_all_that_options_lack_is_told_at_once():
    detail = run_one(Untold, "options", 2).detail
    for offence in ("what strength means", "default of strength", "strength a range",
                    "what count means", "default of count", "count a range"):  # fmt: skip
        assert offence in detail


def test_an_unwritten_method_is_told_what_to_write():
    class Nothing(Method):
        name = "nothing"

    class NoPredict(Sound):
        predict = Method.predict

    details = [(r.outcome, r.detail.partition(":")[0]) for r in run_all(Nothing)]
    assert details == [("FAIL", "write step(self, batch)"), ("FAIL", "write predict(self, inputs)")]
    assert [r.detail[:13] for r in run_all(NoPredict)] == ["write predict"]
    assert [r.detail for r in run_all(nn.Linear)] == ["derive Linear from mmbench.method.Method"]


@pytest.mark.parametrize(("cls", "check", "mend"), CASES)
def test_broken_class_is_caught_and_told_what_to_mend(cls, check, mend):
    result = run_one(cls, check, 2)
    assert result.outcome == "FAIL"
    assert mend in result.detail


def test_every_check_is_seen_failing():
    assert {check for _, check, _ in CASES} == set(CHECKS)


@pytest.mark.parametrize("cls", [Undefined, Lossless])
def test_what_cannot_step_is_checked_no_further(cls):
    rows = list(run_all(cls))
    failed = [(row.check, row.modalities) for row in rows if row.outcome == "FAIL"]
    assert failed == [("steps", count) for count in (1, 2, 3, 4)]
    assert {row.check for row in rows} == {"constructs", "options", "steps"}


def test_a_loss_that_becomes_nan_is_told_once_for_each_number_of_modalities():
    rows = [row for row in run_all(Diverging) if row.modalities == 3 and row.outcome == "FAIL"]
    assert "at epoch 1, step 3" in rows[0].detail
    assert {row.detail for row in rows[1:]} == {"as in learns"}
    assert not any("trainer.lr" in row.detail or "verify" in row.detail for row in rows)


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


def test_registered_names_can_be_tested():
    assert all(r.outcome == "pass" for r in run_all(METHODS.load("concat")))
