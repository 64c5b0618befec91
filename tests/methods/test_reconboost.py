"""ReconBoost: methods.md section 8 - its loss by hand, whose turn it is, and its budget."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmbench.methods.reconboost import boosting_loss
from torch import nn
from torch.nn.functional import cross_entropy

from mmbench.registry import METHODS

F64 = torch.float64
THREE = ("a", "v", "t")


@given(st.integers(0, 10_000), st.sampled_from(["target", "full"]))
def test_boosting_loss_is_the_plain_formula(seed, residual):
    rng = np.random.default_rng(seed)
    o, label = rng.standard_normal((5, 6)), rng.integers(0, 6, 5)
    p = rng.dirichlet(np.ones(6), 5)
    log_q = o - np.log(np.exp(o).sum(1, keepdims=True))
    plain = 0.0
    for i in range(5):
        for c in range(6):
            y = float(c == label[i])
            weight = y * (5 - p[i, c]) if residual == "target" else 5 * y - p[i, c]
            plain -= weight * log_q[i, c] / (5 * 6)
    actual = boosting_loss(
        torch.tensor(o), torch.tensor(p), torch.tensor(label), 5.0, 1.0, residual
    )
    assert float(actual) == pytest.approx(plain, rel=1e-12)


def test_weight_on_the_cross_entropy_by_hand():
    logits = torch.randn(1, 6, generator=torch.Generator().manual_seed(0), dtype=F64)
    p = torch.full((1, 6), 0.12, dtype=F64)
    p[0, 2] = 0.4
    label = torch.tensor([2])
    ratio = boosting_loss(logits, p, label, 5.0, 1.0) / cross_entropy(logits, label)
    assert float(ratio) == pytest.approx(0.766667, abs=1e-6)


def run_epochs(bench, batches, epochs):
    for number in epochs:
        bench.trainer.epoch = number
        bench.method.on_epoch_start()
        for batch in batches:
            bench.step(batch)


def snapshot(method):
    parts = {f"encoder {m}": method.encoders[m] for m in method.names} | {"head": method.head}
    state = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    return state | {"boost rate": {"b": method.boost_rate.detach().clone()}}


def changed(before, after):
    return {
        name
        for name in before
        if any(not torch.equal(before[name][k], after[name][k]) for k in before[name])
    }


def test_phases_train_what_they_should(make_bench, make_batch):
    bench, batch = make_bench("reconboost", THREE), make_batch(THREE)
    seen = []
    for epoch in range(8):
        before = snapshot(bench.method)
        run_epochs(bench, [batch], [epoch])
        seen.append(changed(before, snapshot(bench.method)))
    one, head, rate = "encoder {}".format, "head", "boost rate"
    assert seen[0] == {one("a"), head}
    assert seen[1] == {one("a"), head, rate}
    assert seen[2] == {one("v"), head}
    assert seen[3] == {one("a"), one("v"), head, rate}
    assert seen[4] == {one("t"), head}
    assert seen[5] == {one("a"), one("v"), one("t"), head, rate}
    assert seen[6] == {one("a"), head}


def gradient(bench, batch, stage=1):
    bench.trainer.epoch = 2 * stage
    bench.method.on_epoch_start()
    bench.trainer.update = lambda *_: None
    bench.method.step(batch)
    return [p.grad.clone() for p in bench.method.head.parameters()]


def test_released_agreement_term_has_no_gradient(make_bench, make_batch):
    batch = make_batch()
    off, noop, on = (
        gradient(make_bench("reconboost", alpha=alpha, mcr=mcr), batch)
        for alpha, mcr in ((0.0, "on"), (0.5, "official_noop"), (0.5, "on"))
    )
    assert all(torch.equal(x, y) for x, y in zip(off, noop, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(off, on, strict=True))


def test_rectification_is_sum_fusion_with_a_shared_head(make_bench, make_batch):
    bench, batch = make_bench("reconboost"), make_batch()
    bench.trainer.epoch = 3
    bench.method.on_epoch_start()
    method = bench.method
    fused = sum(method.head(z) for z in method.encode(batch.inputs).values())
    expected = torch.autograd.grad(
        cross_entropy(fused, batch.label), list(method.head.parameters())
    )
    bench.trainer.update = lambda *_: None
    method.step(batch)
    for p, g in zip(method.head.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize(
    ("modalities", "options", "epochs", "passes"),
    [
        (("a", "v"), {}, 100, 132),
        (THREE, {}, 100, 150),
        (("a", "v"), {"epochs_per_stage": 4, "correct_epoch": 4}, 100, 128),
        (("a", "v"), {"pretrain_epochs": 10}, 100, 130),
        (("a", "v"), {}, 1, 2),
    ],
)
def test_budget_counts_phase_one_as_a_share(modalities, options, epochs, passes, make_bench):
    method = make_bench("reconboost", modalities, **options).method
    assert method.passes(epochs) == passes


def test_prediction_is_the_boosted_sum_of_those_who_had_a_stage(make_bench, make_batch):
    bench, batch = make_bench("reconboost", THREE), make_batch(THREE)
    bench.trainer.epoch = 2  # the second modality's stage
    bench.method.on_epoch_start()
    with torch.no_grad():
        bench.method.boost_rate.fill_(0.7)
        logits = bench.method.predict(batch.inputs)
    torch.testing.assert_close(logits["fused"], 0.7 * (logits["a"] + logits["v"]))


def test_pretrained_modalities_keep_their_head_until_their_stage(make_bench, make_batch):
    bench, batch = make_bench("reconboost", pretrain_epochs=1), make_batch()
    method = bench.method
    run_epochs(bench, [batch], [0])
    before = copy.deepcopy(method.own.state_dict())
    run_epochs(bench, [batch], [1, 2])  # the first modality's stage
    z = method.encode(batch.inputs)
    logits = method.predict(batch.inputs)
    torch.testing.assert_close(logits["a"], method.head(z["a"]))
    torch.testing.assert_close(logits["v"], method.own["v"](z["v"]))
    torch.testing.assert_close(logits["fused"], method.boost_rate * (logits["a"] + logits["v"]))
    assert all(torch.equal(v, method.own.state_dict()[k]) for k, v in before.items())
    run_epochs(bench, [batch], [3])
    torch.testing.assert_close(
        method.predict(batch.inputs)["v"], method.head(method.encode(batch.inputs)["v"])
    )


def test_others_keep_their_batch_statistics_unless_released(make_bench, make_batch):
    moved = {}
    for mode in ("eval", "official_bn"):
        bench = make_bench("reconboost", others_bn=mode)
        norm = nn.BatchNorm1d(8).double()
        bench.method.encoders["a"].layer = nn.Sequential(bench.method.encoders["a"].layer, norm)
        bench.trainer.optimizers = type(bench.trainer.optimizers)(
            bench.method, bench.trainer.settings
        )
        bench.trainer.optimizers.create("main", bench.method.parameter_groups())
        bench.trainer.epoch = 2
        bench.method.on_epoch_start()
        bench.step(make_batch())
        moved[mode] = int(norm.num_batches_tracked)
    assert moved == {"eval": 0, "official_bn": 2}


def test_stages_continue_in_their_middle(make_bench, make_batch):
    def train(bench, epochs):
        run_epochs(bench, [make_batch(seed=s) for s in range(2)], epochs)

    straight = make_bench("reconboost")
    train(straight, range(4))
    first, second = make_bench("reconboost"), make_bench("reconboost", seed=1)
    train(first, range(3))
    second.trainer.load(copy.deepcopy(first.trainer.state()))
    assert second.method.begun == 2
    train(second, [3])
    for p, q in zip(straight.method.parameters(), second.method.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("factor", [0.1, 0.5])
def test_rate_drops_by_stage_and_decay_is_its_own(factor, make_bench):
    options = {} if factor == 0.1 else {"drop_factor": factor}
    bench = make_bench("reconboost", stages_per_drop=2, weight_decay=5e-4, **options)
    bench.trainer.settings = bench.trainer.settings.model_copy(update={"schedule": "constant"})
    rates = []
    for bench.trainer.epoch in range(10):
        bench.method.on_epoch_start()
        rates.append(bench.trainer.optimizers.by_name["main"].param_groups[0]["lr"])
    once, twice = 0.1 * factor, 0.1 * factor**2
    assert rates == pytest.approx([0.1] * 4 + [once] * 4 + [twice] * 2)
    assert bench.trainer.optimizers.by_name["main"].param_groups[0]["weight_decay"] == 5e-4


def test_released_bundle_names_every_quirk():
    assert METHODS.load("reconboost").released() == {
        "mcr": "official_noop",
        "others_bn": "official_bn",
        "first_residual": "one",
        "weight_decay": 5e-4,
    }


def test_second_phase_has_its_own_rate(make_bench):
    bench = make_bench("reconboost", correct_lr_mult=0.25)
    bench.trainer.settings = bench.trainer.settings.model_copy(update={"schedule": "constant"})
    rates = []
    for bench.trainer.epoch in range(4):
        bench.method.on_epoch_start()
        rates.append(bench.trainer.optimizers.by_name["main"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.025, 0.1, 0.025])
