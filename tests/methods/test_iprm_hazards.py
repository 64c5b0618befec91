"""IPRM where features and predictions are degenerate, and what it remembers."""

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmbench.methods.iprm import divergence, strength

from mmbench.method import Batch
from mmbench.nets.sphere import Arc, unit

DOUBLE = torch.float64
FEATURES = {
    "equal": ([3.0, 4.0], [3.0, 4.0]),
    "opposite": ([3.0, 4.0], [-3.0, -4.0]),
    "nearly equal": ([3.0, 4.0], [3.0, 4.0 + 1e-7]),
    "nearly opposite": ([3.0, 4.0], [-3.0, -4.0 - 1e-7]),
    "orthogonal": ([3.0, 4.0], [-4.0, 3.0]),
    "zero and not": ([0.0, 0.0], [3.0, 4.0]),
    "both zero": ([0.0, 0.0], [0.0, 0.0]),
    "tiny": ([1e-30, 0.0], [0.0, 1e-30]),
    "huge": ([1e8, 0.0], [0.0, 1e8]),
}


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE, torch.bfloat16])
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("case", FEATURES)
def test_mixture_and_gradient_are_finite_and_bounded(case, weight, dtype):
    a, b = (torch.tensor([row], dtype=dtype, requires_grad=True) for row in FEATURES[case])
    mixed = Arc(unit(a), unit(b)).at(torch.tensor(weight))
    mixed.sum().backward()
    assert mixed.norm() <= 1 + 1e-5
    assert a.grad.abs().max() <= 10
    assert b.grad.abs().max() <= 10


def test_equal_features_mix_to_themselves_where_the_released_code_gives_zero():
    u = unit(torch.tensor([[3.0, 4.0]], dtype=DOUBLE))
    torch.testing.assert_close(Arc(u, u).at(torch.tensor(0.3)), u)


def test_opposite_rows_are_counted_and_mix_on_the_line():
    u = unit(torch.tensor([[3.0, 4.0], [1.0, 0.0]], dtype=DOUBLE))
    v = torch.stack([-u[0], u[1].flip(0)])
    arc = Arc(u, v)
    assert arc.opposite().item() == 0.5
    torch.testing.assert_close(arc.at(torch.tensor(0.75))[0], 0.5 * u[0])


def test_interpolation_on_the_line_joins_the_sphere_without_a_jump():
    u = torch.tensor([[1.0, 0.0]], dtype=DOUBLE)
    both_sides = [
        Arc(u, torch.tensor([[torch.cos(t), torch.sin(t)]], dtype=DOUBLE)).at(torch.tensor(0.3))
        for t in torch.tensor([0.99e-4, 1.01e-4], dtype=DOUBLE)
    ]
    expected = 0.7e-4 * torch.tensor([0.99, 1.01])
    for mixed, angle in zip(both_sides, expected, strict=True):
        assert mixed[0, 1].item() == pytest.approx(angle.item(), rel=1e-4)


def test_gradient_flows_through_the_angle():
    u = unit(torch.tensor([[1.0, 0.2]], dtype=DOUBLE)).requires_grad_()
    v = unit(torch.tensor([[0.3, 1.0]], dtype=DOUBLE))
    assert torch.autograd.gradcheck(lambda x: Arc(unit(x), v).at(torch.tensor(0.3)), (u,))


@given(st.integers(0, 2**31 - 1), st.sampled_from([1, 2, 7]), st.integers(1, 5))
def test_weights_are_shares_and_equal_predictions_share_equally(seed, batch, classes):
    draw = torch.Generator().manual_seed(seed)
    a, b, mixed = (torch.randn(batch, classes, generator=draw) * 5 for _ in range(3))
    k_a, k_b = divergence(a, mixed), divergence(b, mixed)
    first, second = strength(k_a, k_b), strength(k_b, k_a)
    assert 0 <= first <= 1
    assert (first + second).item() == pytest.approx(1, abs=1e-6)
    same = divergence(mixed + 1.0, mixed), divergence(mixed - 1.0, mixed)
    assert all(k < 1e-5 for k in same)


@given(st.integers(0, 2**31 - 1))
def test_the_closer_prediction_gets_the_larger_weight(seed):
    draw = torch.Generator().manual_seed(seed)
    k_a, k_b = torch.rand(2, generator=draw, dtype=DOUBLE)
    assert (strength(k_a, k_b) > 0.5) == (k_a < k_b)


def test_no_gradient_reaches_the_heads_through_the_weights(make_bench, make_batch, monkeypatch):
    bench, batch = make_bench("iprm"), make_batch()
    omega = bench.step(batch)["omega/a-v"]
    gradients = []
    for fixed in (False, True):
        again = make_bench("iprm")
        seen = {}
        monkeypatch.setattr(
            again.trainer,
            "update",
            lambda again=again, seen=seen: seen.update(
                {k: p.grad.clone() for k, p in again.method.named_parameters()}
            ),
        )
        if fixed:
            monkeypatch.setattr(
                again.method, "_omega", lambda *_: torch.tensor(omega, dtype=DOUBLE)
            )
        again.step(batch)
        gradients.append(seen)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-12, rtol=0)


@pytest.mark.parametrize("draw", ["generator", "python"])
def test_single_cls_moves_one_pair_a_step_and_draws_them_all(draw, make_bench, make_batch):
    names = ("a", "v", "t")
    bench = make_bench("iprm", names, style="single_cls", pair_draw=draw)
    drawn = set()
    for _ in range(30):
        before = bench.method.lam_used.clone(), bench.method.omega.clone()
        log = bench.step(make_batch(names))
        (pair,) = [k for k in log if k.startswith("omega/")]
        drawn.add(pair)
        changed = before[1] != bench.method.omega
        assert changed.sum() == 1
    assert drawn == {"omega/a-v", "omega/a-t", "omega/v-t"}
    assert list(bench.method.mix_heads) == ["all"]


def test_python_draws_continue_after_a_save_that_torch_reads_safely(make_bench, make_batch):
    names = ("a", "v", "t")
    options = {"style": "single_cls", "pair_draw": "python"}

    def pairs(bench, steps):
        logs = [bench.step(make_batch(names)) for _ in range(steps)]
        return [k for log in logs for k in log if k.startswith("omega/")]

    straight = make_bench("iprm", names, **options)
    straight.method.on_fit_start()
    whole = pairs(straight, 12)
    first = make_bench("iprm", names, **options)
    first.method.on_fit_start()
    begun = pairs(first, 5)
    buffer = io.BytesIO()
    torch.save(first.trainer.state(), buffer)
    buffer.seek(0)
    second = make_bench("iprm", names, **options)
    second.trainer.load(torch.load(buffer, weights_only=True))
    assert begun + pairs(second, 7) == whole


def test_an_untrained_model_predicts_with_equal_weights(make_bench, make_batch):
    inputs = make_batch().inputs
    outputs = [
        make_bench("iprm", infer_lambda=rule).method.predict(inputs)["fused"]
        for rule in ("ema_last", "ema_next", "half")
    ]
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[0], outputs[2])


def test_inference_rules_use_the_last_the_next_and_the_equal_weight(make_bench, make_batch):
    batch = make_batch()
    lambdas, outputs = {}, {}
    for rule in ("ema_last", "ema_next", "half"):
        method = (bench := make_bench("iprm", infer_lambda=rule)).method
        logs = [bench.step(batch) for _ in range(3)]
        lambdas[rule] = logs[-1]["lambda/a-v"]
        z = method.encode(batch.inputs)
        arc = Arc(unit(z["a"]), unit(z["v"]))
        following = 0.8 * logs[-1]["lambda/a-v"] + 0.2 * logs[-1]["omega/a-v"]
        weight = {"ema_last": logs[-1]["lambda/a-v"], "ema_next": following, "half": 0.5}[rule]
        mixed = method.mix_heads["a__v"](arc.at(torch.tensor(weight, dtype=DOUBLE)))
        outputs[rule] = method.predict(batch.inputs)
        expected = outputs[rule]["a"] + outputs[rule]["v"] + mixed
        torch.testing.assert_close(outputs[rule]["fused"], expected)
    assert lambdas["ema_last"] != 0.5


def test_lambda_starts_from_the_first_omega_when_asked(make_bench, make_batch):
    bench = make_bench("iprm", ema_init="omega0")
    first, second = (bench.step(make_batch(seed=s)) for s in (0, 1))
    assert second["lambda/a-v"] == pytest.approx(first["omega/a-v"])
    expected = 0.8 * second["lambda/a-v"] + 0.2 * second["omega/a-v"]
    assert bench.method.lam.item() == pytest.approx(expected)


def test_raw_one_pass_learns_with_the_omega_of_the_step_before(make_bench, make_batch, monkeypatch):
    bench = make_bench("iprm", passes="one_raw")
    weights = []
    at = Arc.at
    monkeypatch.setattr(Arc, "at", lambda arc, w: weights.append(float(w)) or at(arc, w))
    logs = [bench.step(make_batch(seed=s)) for s in range(3)]
    learned = weights[1::2]
    assert learned[0] == 0.5
    assert learned[1:] == pytest.approx([log["omega/a-v"] for log in logs[:-1]])


def test_one_pass_calls_the_mix_head_once(make_bench, make_batch):
    calls = {}
    for passes in ("two", "one"):
        bench = make_bench("iprm", passes=passes)
        seen = []
        bench.method.mix_heads["a__v"].register_forward_hook(lambda *_, seen=seen: seen.append(1))
        bench.step(make_batch())
        calls[passes] = len(seen)
    assert calls == {"two": 2, "one": 1}


def test_partners_share_the_class_and_are_others_where_there_are_any(make_bench):
    method = make_bench("iprm", pairing="same_class").method
    label = torch.tensor([0, 1, 0, 2, 1, 0])
    for step in range(20):
        method.fit.step = step
        partner = method._partners(label)
        assert torch.equal(label[partner], label)
        assert partner[3] == 3
        assert all(partner[i] != i for i in (0, 1, 2, 4, 5))


def test_mixing_any_two_samples_weighs_their_labels(make_bench, make_batch, monkeypatch):
    batch = make_batch()
    bench = make_bench("iprm", pairing="none")
    partner = torch.arange(8).flip(0)
    monkeypatch.setattr(bench.method, "_partners", lambda label: partner)
    z = bench.method.encode(batch.inputs)
    arc = Arc(unit(z["a"]), unit(z["v"])[partner])
    log = bench.method.step(batch)
    fresh = make_bench("iprm", pairing="none").method
    head = fresh.mix_heads["a__v"]
    predicted = head(arc.at(log["omega/a-v"])).log_softmax(1)
    own, other = (
        -predicted.gather(1, y[:, None]).mean() for y in (batch.label, batch.label[partner])
    )
    omega = log["omega/a-v"]
    torch.testing.assert_close(log["loss/mix/a-v"], omega * own + (1 - omega) * other)


def test_a_dead_modality_keeps_everything_finite(make_bench, make_batch):
    batch = make_batch()
    inputs = {"a": batch.inputs["a"], "v": torch.full_like(batch.inputs["v"], -1e3)}
    bench = make_bench("iprm")
    with torch.no_grad():
        bench.method.encoders["v"].layer.weight.abs_()
    for _ in range(3):
        assert bench.step(Batch(inputs, batch.label, batch.index))["loss"] < 10
    assert all(torch.isfinite(p).all() for p in bench.method.parameters())
