"""MLA, LFM and ReconBoost under ``released`` follow the authors' recorded steps.

Their trajectories are not one optimiser step per batch and epoch, so each is replayed here by the
shared trainer's update, with the epoch, the batch and the order of the file.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmbench.method import Batch
from mmbench.registry import METHODS

FOLDER = Path(__file__).parent / "golden"


def ours(key):
    part, _, kind = key.partition(".")
    if part.startswith("enc_"):
        return f"encoders.{part[4:]}.layer.{kind}"
    if part == "head_shared":
        return f"head.{kind}"
    return f"heads.{part[5:]}.{kind}" if part.startswith("head_") else key


class Replay:
    """A method in the trainer, from a file's start, with every update recorded."""

    def __init__(self, file, method, make_bench, monkeypatch, **changed):
        with np.load(FOLDER / f"{file}.npz") as data:
            self.golden = {k: data[k] for k in data.files}
        released = {**METHODS.load(method).released(), **changed}
        lr = json.loads(str(self.golden["hyper"]))["lr"]
        self.bench = make_bench(method, lr=lr, **released)
        settings = self.bench.trainer.settings  # StepLR(70) never fires in the files
        self.bench.trainer.settings = settings.model_copy(update={"schedule": "constant"})
        self.parameters = dict(self.bench.method.named_parameters())
        self.names = {k[5:]: ours(k[5:]) for k in self.golden if k.startswith("init/")}
        assert set(self.names.values()) == set(self.parameters)
        with torch.no_grad():
            for theirs, mine in self.names.items():
                self.parameters[mine].copy_(torch.as_tensor(self.golden[f"init/{theirs}"]))
        self.gradients, self.ends = [], []
        update = self.bench.trainer.update

        def recording(optimizer="main"):
            self.gradients.append({k: p.grad for k, p in self.parameters.items()})
            update(optimizer)
            self.ends.append({k: p.detach().clone() for k, p in self.parameters.items()})

        monkeypatch.setattr(self.bench.trainer, "update", recording)

    def batch(self, prefix="", index=None):
        pick = slice(None) if index is None else index
        inputs = {m: torch.as_tensor(self.golden[f"{prefix}x_{m}"][pick]) for m in "av"}
        label = torch.as_tensor(self.golden[f"{prefix}y"][pick])
        return Batch(inputs, label, torch.arange(len(label)))

    def epoch(self, number):
        """Train one epoch of the file's five batches; return what each step logged."""
        trainer = self.bench.trainer
        trainer.epoch, trainer.step_in_epoch = number, 0
        self.bench.method.on_epoch_start()
        logs = []
        for index in range(5):
            logs.append(self.bench.step(self.batch(index=index)))
            trainer.step_in_epoch += 1
        return logs

    def check_updates(self):
        """Hold every update's gradients and parameters against the file."""
        assert len(self.ends) == len(self.golden["lr"])
        for step, (gradients, ends) in enumerate(zip(self.gradients, self.ends, strict=True)):
            for theirs, mine in self.names.items():
                check(ends[mine], self.golden[f"param/{theirs}"][step], f"{mine}, {step}")
                if self.golden[f"gradmask/{theirs}"][step]:
                    expected = self.golden[f"grad/{theirs}"][step]
                    check(gradients[mine], expected, f"gradient of {mine}, {step}")

    def worst(self):
        """Return the largest difference of a parameter after the last update."""
        return max(
            np.abs(self.ends[-1][mine].numpy() - self.golden[f"param/{theirs}"][-1]).max()
            for theirs, mine in self.names.items()
        )

    @torch.no_grad()
    def predict(self):
        return self.bench.method.predict(self.batch("eval/").inputs)


def check(actual, expected, what, atol=1e-8):
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=0, err_msg=what)


@pytest.fixture
def replay(make_bench, monkeypatch):
    return lambda file, method, **changed: Replay(file, method, make_bench, monkeypatch, **changed)


# ---------------------------------------------------------------------- MLA


def test_mla_follows_the_released_steps(replay):
    run = replay("mla_released", "mla")
    logs = run.epoch(0)
    run.check_updates()
    for index, log in enumerate(logs):
        for m in "av":
            check(log[f"loss/{m}"], run.golden[f"loss/{m}"][index], f"loss {m}, {index}")
    check(run.bench.method.P, run.golden["diag/P_after_step"][-1], "P")


@pytest.mark.parametrize("inference", ["fixed", "dynamic_official"])
def test_mla_predicts_as_released(inference, replay):
    run = replay("mla_released", "mla", inference=inference)
    run.epoch(0)
    predicted = run.predict()
    check(predicted["fused"], run.golden[f"eval/logits_fused_{inference}"], inference)
    for m in "av":
        check(predicted[m], run.golden[f"eval/logits_{m}"], m)


# ---------------------------------------------------------------------- LFM


def test_lfm_follows_the_released_steps(replay):
    run = replay("lfm_fitted", "lfm", decay="after")
    logs = run.epoch(0) + run.epoch(100)
    run.check_updates()
    for step, log in enumerate(logs):
        for mine, theirs in {"loss": "total", "loss/cls": "cls", "loss/con": "con"}.items():
            check(log[mine], run.golden[f"loss/{theirs}"][step], f"{mine}, {step}")
        expected = run.golden["diag/k_cls_k_con_per_epoch"][step // 5]
        check([log["weight/cls"], log["weight/con"]], expected, f"weights, {step}")
    for name, logits in run.predict().items():
        check(logits, run.golden[f"eval/logits_{name}"], name)


def test_lfm_weights_are_the_released_table(replay):
    run = replay("lfm_fitted", "lfm")
    for epoch, expected in enumerate(run.golden["diag/k_table_0_199"]):
        run.bench.trainer.epoch = epoch
        check([float(k) for k in run.bench.method.weights()], expected, f"epoch {epoch}", 1e-12)


def test_lfm_learning_rate_falls_one_epoch_early_as_released(replay):
    run = replay("lfm_fitted", "lfm")
    trainer = run.bench.trainer
    recipe = {"epochs": 200, "lr": 0.01, "lr_step": 0.35, "schedule": "step"}
    trainer.settings = trainer.settings.model_copy(update=recipe)
    trainer.epochs = 200
    for epoch, expected in enumerate(run.golden["diag/official_lr_table_0_199"]):
        trainer.epoch = epoch
        trainer.optimizers.set_lr(trainer.lr)
        run.bench.method.on_epoch_start()
        actual = trainer.optimizers.by_name["main"].param_groups[0]["lr"]
        assert actual == pytest.approx(expected, rel=1e-9), epoch


# ---------------------------------------------------------------------- ReconBoost


def test_reconboost_follows_the_released_stages(replay):
    run = replay("reconboost", "reconboost", hidden=7)
    golden, logs, fused = run.golden, [], []
    for epoch in range(6):  # three stages of one epoch per phase
        logs += run.epoch(epoch)
        if epoch % 2:
            fused.append(run.predict()["fused"])
    run.check_updates()
    check(torch.stack(fused), golden["eval/logits_fused_after_stage"], "after each stage")
    for step, log in enumerate(logs):
        check(log["loss"], golden["loss/backward"][step], f"loss, {step}")
    for name, logits in run.predict().items():
        check(logits, golden[f"eval/logits_{name}"], name)


def test_reconboost_takes_the_recorded_turns(replay):
    run = replay("reconboost", "reconboost", hidden=7)
    for epoch in range(6):
        run.epoch(epoch)
    for step, gradients in enumerate(run.gradients):
        stage, phase = (
            run.golden["diag/stage_of_step"][step],
            run.golden["diag/phase_of_step"][step],
        )
        trained = {m for m in "av" if gradients[f"encoders.{m}.layer.weight"] is not None}
        present = "av"[run.golden["diag/modality_of_stage"][stage]]
        assert trained == ({present} if phase == 1 else set("av"[: stage + 1]))


@pytest.mark.parametrize(
    ("file", "method", "changed"),
    [
        ("mla_released", "mla", {"projection": "on"}),
        ("mla_released", "mla", {"projection": "on", "rls": "scalar"}),
        ("lfm_fitted", "lfm", {"con": "js"}),
        ("lfm_fitted", "lfm", {"con": "nce"}),
        ("lfm_fitted", "lfm", {"stretch": True}),
        ("reconboost", "reconboost", {"hidden": 7, "first_residual": "zero"}),
        ("reconboost", "reconboost", {"hidden": 7, "mcr": "on"}),
        ("reconboost", "reconboost", {"hidden": 7, "residual": "full"}),
    ],
)
def test_the_comparison_can_fail(file, method, changed, replay):
    run = replay(file, method, **{"decay": "after", **changed} if method == "lfm" else changed)
    run.bench.trainer.epochs = 101
    epochs = {"mla": [0], "lfm": [0, 100], "reconboost": range(6)}[method]
    for epoch in epochs:
        run.epoch(epoch)
    assert run.worst() > 1e-5
