"""Under ``released`` the authors' recorded trajectories are followed step by step."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmbench.method import Batch
from mmbench.registry import METHODS

FOLDER = Path(__file__).parent / "golden"
LOGS = {
    "lambda/a-v": "diag/lambda_a",
    "omega/a-v": "diag/omega_a",
    "kl/a-v/a": "diag/kl_a",
    "kl/a-v/v": "diag/kl_v",
}
PAIR_LOGS = {
    f"{name}/{p[0]}-{p[1]}": f"diag/{name}_{p}_first"
    for name in ("lambda", "omega")
    for p in ("av", "at", "vt")
}


def ours(key: str) -> str:
    """Translate a parameter name of the golden files to ours."""
    part, _, kind = key.partition(".")
    if part.startswith("enc_"):
        return f"encoders.{part[4:]}.layer.{kind}"
    if part == "head_fused":
        return f"fusion_head.linear.{kind}"
    if part == "head_shared":
        return f"shared_head.{kind}"
    if part.startswith("head_mix"):
        pair = part.removeprefix("head_mix").strip("_") or "av"
        return f"mix_heads.{pair[0]}__{pair[1]}.{kind}"
    return f"heads.{part[5:]}.{kind}"


@pytest.mark.parametrize(
    ("file", "method", "tolerance"),
    [
        ("concat", "concat", 1e-8),
        ("sum", "sum", 1e-8),
        ("naive_weight_trimodal", "weight", 1e-8),
        ("iprm_bimodal", "iprm", 1e-6),
        ("iprm_trimodal_tri_cls", "iprm", 1e-6),
    ],
)
def test_released_trajectory_is_followed(file, method, tolerance, make_bench, monkeypatch):
    with np.load(FOLDER / f"{file}.npz") as data:
        golden = {k: data[k] for k in data.files}
    hyper = json.loads(str(golden["hyper"]))
    modalities = tuple(m for m in "avt" if f"x_{m}" in golden)
    released = METHODS.load(method).released()
    bench = make_bench(method, modalities, lr=hyper["lr"], **released)
    parameters = dict(bench.method.named_parameters())
    names = {k[5:]: ours(k[5:]) for k in golden if k.startswith("init/")}
    assert set(names.values()) == set(parameters)
    with torch.no_grad():
        for theirs, mine in names.items():
            parameters[mine].copy_(torch.as_tensor(golden[f"init/{theirs}"]))
    gradients = {}
    update = bench.trainer.update

    def recording_update(optimizer="main"):
        for theirs, mine in names.items():
            grad = parameters[mine].grad
            gradients[theirs] = None if grad is None else grad.clone()
        update(optimizer)

    monkeypatch.setattr(bench.trainer, "update", recording_update)
    for step in range(5):
        inputs = {m: torch.as_tensor(golden[f"x_{m}"][step]) for m in modalities}
        log = bench.step(Batch(inputs, torch.as_tensor(golden["y"][step]), torch.arange(8)))
        assert log["loss"] == pytest.approx(float(golden["loss/total"][step]), abs=tolerance)
        for mine, theirs in {**LOGS, **PAIR_LOGS}.items():
            if mine in log and theirs in golden:
                assert log[mine] == pytest.approx(golden[theirs][step], abs=tolerance), mine
        for theirs, mine in names.items():
            expected = golden[f"grad/{theirs}"][step]
            if np.isnan(expected).all():
                assert gradients[theirs] is None
            else:
                np.testing.assert_allclose(gradients[theirs], expected, atol=tolerance, rtol=0)
            np.testing.assert_allclose(
                parameters[mine].detach(), golden[f"param/{theirs}"][step], atol=tolerance, rtol=0
            )
    inputs = {m: torch.as_tensor(golden[f"eval/x_{m}"]) for m in modalities}
    with torch.no_grad():
        predicted = bench.method.predict(inputs)
    if file != "sum":  # the released evaluation of sum fusion halves the bias: a bug, not followed
        for name, logits in predicted.items():
            np.testing.assert_allclose(
                logits, golden[f"eval/logits_{name}"], atol=tolerance, rtol=0, err_msg=name
            )
