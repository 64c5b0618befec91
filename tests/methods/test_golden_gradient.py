"""OGM, PMR, AGM and MMPareto under ``released`` follow the authors' recorded steps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmbench.method import Batch
from mmbench.registry import METHODS

FOLDER = Path(__file__).parent / "golden"
CASES = {
    "ogm_concat_conv": (
        "ogm",
        {"alpha": 0.8},
        {"ratio/v": "ratio_v", "k/a": "coeff_a", "k/v": "coeff_v"},
    ),
    "pmr_concat": (
        "pmr",
        {"alpha": 2.0, "momentum": 0.0},
        {"ratio/a": "rho", "beta/a": "beta_a", "beta/v": "beta_v"},
    ),
    "agm_bimodal": (
        "agm",
        {"alpha": 1.0},
        {
            f"{ours}/{m}": f"{theirs}_{m}"
            for m in "av"
            for ours, theirs in (
                ("ratio", "ratio"),
                ("tau", "tau"),
                ("coefficient", "coeff"),
                ("scale", "applied_scale"),
                ("score", "score"),
            )
        },
    ),
    "mmpareto": ("mmpareto", {"gamma": 1.5}, {"cos/a": "cos_a", "cos/v": "cos_v"}),
}
LOSSES = {"loss": "total", "loss/fused": "fused", "loss/a": "a", "loss/v": "v"}
PROTOTYPES = {"loss/prototype/a": "proto_a", "loss/prototype/v": "proto_v"}


class Convolution(nn.Module):
    """A 1x1 convolution and ReLU on vectors, so that the encoder has a 4-D kernel."""

    width = 8

    def __init__(self, size):
        super().__init__()
        self.layer = nn.Conv2d(size, self.width, 1)

    def forward(self, x):
        return self.layer(x[:, :, None, None]).relu().flatten(1)


def ours(key):
    part, _, kind = key.partition(".")
    if part.startswith("enc_"):
        return f"encoders.{part[4:]}.layer.{kind}"
    return f"fusion_head.linear.{kind}" if part == "head_fused" else f"heads.{part[5:]}.{kind}"


def batch_of(golden, prefix, step=None):
    pick = slice(None) if step is None else step
    inputs = {m: torch.as_tensor(golden[f"{prefix}x_{m}"][pick]) for m in "av"}
    label = torch.as_tensor(golden[f"{prefix}y"][pick])
    return Batch(inputs, label, torch.arange(len(label)))


@pytest.fixture
def replay(make_bench, monkeypatch):
    """Return a function that starts a method from a golden file's initial state."""

    def start(file, **changed):
        with np.load(FOLDER / f"{file}.npz") as data:
            golden = {k: data[k] for k in data.files}
        name, options, _ = CASES[file]
        if "conv" in file:
            monkeypatch.setitem(make_bench.__globals__, "Affine", Convolution)
        released = {**METHODS.load(name).released(), **options, **changed}
        hyper = json.loads(str(golden["hyper"]))
        bench = make_bench(name, lr=hyper["lr"], **released)
        parameters = dict(bench.method.named_parameters())
        names = {k[5:]: ours(k[5:]) for k in golden if k.startswith("init/")}
        assert set(names.values()) == set(parameters)
        with torch.no_grad():
            for theirs, mine in names.items():
                parameters[mine].copy_(torch.as_tensor(golden[f"init/{theirs}"]))
        if "proto/y" in golden:
            monkeypatch.setattr(
                bench.trainer,
                "train_batches",
                lambda **_: (batch_of(golden, "proto/", i) for i in range(10)),
            )
        return bench, golden, names

    return start


def record_gradients(bench, names, monkeypatch):
    parameters = dict(bench.method.named_parameters())
    gradients, update = {}, bench.trainer.update

    def recording(optimizer="main"):
        for theirs, mine in names.items():
            gradients[theirs] = parameters[mine].grad.clone()
        update(optimizer)

    monkeypatch.setattr(bench.trainer, "update", recording)
    return gradients


def check(actual, expected, what, atol=1e-8):
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=0, err_msg=what)


@pytest.mark.parametrize("file", CASES)
def test_released_trajectory_is_followed(file, replay, monkeypatch):
    bench, golden, names = replay(file)
    diagnostics = {k: f"diag/{v}" for k, v in CASES[file][2].items()}
    diagnostics |= {k: f"loss/{v}" for k, v in {**LOSSES, **PROTOTYPES}.items()}
    gradients = record_gradients(bench, names, monkeypatch)
    parameters = dict(bench.method.named_parameters())
    bench.method.on_fit_start()
    for step in range(5):
        log = bench.step(batch_of(golden, "", step))
        assert set(CASES[file][2]) <= set(log)
        for mine, theirs in diagnostics.items():
            if mine in log and theirs in golden:
                check(log[mine], golden[theirs][step], f"{mine} at step {step}")
        for theirs, mine in names.items():
            check(gradients[theirs], golden[f"grad/{theirs}"][step], f"grad {mine}, step {step}")
            check(parameters[mine].detach(), golden[f"param/{theirs}"][step], f"{mine}, {step}")
    with torch.no_grad():
        predicted = bench.method.predict(batch_of(golden, "eval/").inputs)
    assert set(predicted) == {"fused", "a", "v"}
    for name, logits in predicted.items():
        check(logits, golden[f"eval/logits_{name}"], f"evaluation, {name}", atol=1e-8)


def test_mmpareto_weights_are_the_released_solvers(replay):
    bench, golden, _ = replay("mmpareto")
    for step in range(5):
        log = bench.step(batch_of(golden, "", step))
        for m in "av":
            check(log[f"weight/{m}"], golden[f"diag/weights_{m}"][step, 0], f"{m} at step {step}")


def test_agm_running_scores_are_the_released_ones(replay):
    bench, golden, _ = replay("agm_bimodal")
    for step in range(5):
        bench.step(batch_of(golden, "", step))
    check(bench.method.running, golden["diag/running_score_after_epoch"][0], "running scores")


def test_pmr_prototypes_and_distances_are_the_released_ones(replay):
    bench, golden, _ = replay("pmr_concat")
    bench.method.on_fit_start()
    for index, m in enumerate("av"):
        check(bench.method.prototypes[index], golden[f"diag/proto_{m}"][0], f"before, {m}")
    for step in range(5):
        batch = batch_of(golden, "", step)
        with torch.no_grad():
            sim = bench.method.similarities(bench.method.encode(batch.inputs))
        for m in "av":
            check(sim[m], golden[f"diag/sim_{m}"][step], f"distances, {m}, step {step}")
        bench.step(batch)
    bench.method.on_epoch_end(None)
    for index, m in enumerate("av"):
        check(bench.method.prototypes[index], golden[f"diag/proto_{m}"][1], f"after, {m}")


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("ogm_concat_conv", {"ratio": "rho_minus_1"}),
        ("ogm_concat_conv", {"scope": "ndim>=2", "alpha": 0.1}),
        ("pmr_concat", {"gate": "clip"}),
        ("agm_bimodal", {"starts": 3}),
        ("mmpareto", {"norm_scope": "encoder"}),
        ("mmpareto", {"gamma": 1.0}),
    ],
)
def test_the_comparison_can_fail(file, changed, replay):
    bench, golden, names = replay(file, **changed)
    bench.method.on_fit_start()
    for step in range(5):
        bench.step(batch_of(golden, "", step))
    parameters = dict(bench.method.named_parameters())
    worst = max(
        np.abs(parameters[mine].detach().numpy() - golden[f"param/{theirs}"][-1]).max()
        for theirs, mine in names.items()
    )
    assert worst > 1e-5
