"""AGM's attribution, pacing, clipping and state."""

import math
from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmbench.methods.agm import coefficients, leads, shapley, surprise
from torch import nn
from torch.nn.functional import cross_entropy

from .recorded import recorded

ORDERS = {2: ("a", "v"), 3: ("a", "v", "t")}


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def table(names, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        frozenset(s): torch.randn(3, 4, generator=draw, dtype=torch.float64)
        for r in range(1, len(names) + 1)
        for s in combinations(names, r)
    }


def padded_logits(method, inputs, subset):
    """Return f(S) by a whole forward on zeroed inputs."""
    kept = {m: x if m in subset else torch.zeros_like(x) for m, x in inputs.items()}
    return method.fusion_head(method.encode(kept))


@pytest.mark.parametrize("count", [2, 3])
def test_attributions_sum_to_the_whole(count):
    names = ORDERS[count]
    f = table(names)
    phi = shapley(f.__getitem__, names)
    torch.testing.assert_close(sum(phi.values()), f[frozenset(names)])


def test_two_modalities_match_the_written_form():
    f = {"".join(sorted(s)): v for s, v in table(("a", "v")).items()}
    phi = shapley(lambda s: f["".join(sorted(s))], ("a", "v"))
    torch.testing.assert_close(phi["a"], (f["av"] - f["v"] + f["a"]) / 2)


def test_three_modalities_match_the_written_form():
    f = {"".join(sorted(s)): v for s, v in table(("a", "v", "t")).items()}
    phi = shapley(lambda s: f["".join(sorted(s))], ("a", "v", "t"))
    expected = (f["atv"] - f["tv"]) / 3 + (f["av"] - f["v"] + f["at"] - f["t"]) / 6 + f["a"] / 3
    torch.testing.assert_close(phi["a"], expected)


@given(st.integers(0, 1000), st.sampled_from([2, 3, 4]))
def test_attribution_is_the_mean_gain_over_all_orders(seed, count):
    names = ("a", "v", "t", "x")[:count]
    f = {frozenset(): torch.zeros(3, 4, dtype=torch.float64), **table(names, seed)}
    phi = shapley(f.__getitem__, names)
    for m in names:
        gains = []
        for order in permutations(names):
            before = frozenset(order[: order.index(m)])
            gains.append(f[before | {m}] - f[before])
        torch.testing.assert_close(phi[m], torch.stack(gains).mean(0))


def test_worked_example():
    r = leads(vector(0.2, 1.0))
    assert r.tolist() == pytest.approx([2.225541, 0.449329], abs=1e-6)
    c = coefficients(r, torch.ones(2, dtype=torch.float64), 1.0, 10.0)
    assert c.tolist() == pytest.approx([0.293599, 1.734416], abs=1e-6)


@given(st.lists(st.floats(0, 15), min_size=2, max_size=4))
def test_leads_match_the_naive_form_and_equal_scores_lead_nowhere(n):
    found = leads(vector(*n))
    for m, own in enumerate(n):
        others = [v for j, v in enumerate(n) if j != m]
        # M / (M - 1) (mean - n_m) is the mean of the others minus n_m
        assert float(found[m].log()) == pytest.approx(sum(others) / len(others) - own, abs=1e-9)
    assert leads(vector(*[n[0]] * len(n))).tolist() == pytest.approx([1.0] * len(n))


def test_exponent_is_capped_above_and_guarded_on_both_sides():
    assert float(coefficients(vector(0), vector(50), 1.0, 10.0)) == pytest.approx(math.exp(10))
    assert float(coefficients(vector(0), vector(50), 2.5, 10.0, 20.0)) == pytest.approx(
        math.exp(20)
    )
    assert float(coefficients(vector(1e9), vector(1), 1.0, 10.0, 20.0)) == pytest.approx(
        math.exp(-20)
    )
    infinite = vector(math.inf)
    assert coefficients(infinite, infinite, 1.0, 10.0, 20.0).isfinite().all()


@pytest.mark.parametrize(("floor", "expected"), [(1e-8, -math.log(1e-8)), (0.0, 50.0)])
def test_surprise_has_a_floor_on_the_probability(floor, expected):
    assert float(surprise(vector(0, 50)[None], torch.tensor([0]), floor)) == pytest.approx(expected)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_step_equals_whole_forwards_of_padded_inputs(
    count, fusion, make_bench, make_batch, monkeypatch
):
    names = ORDERS[count]
    bench = make_bench("agm", names, fusion=fusion, clip="off", seed=2)
    method = bench.method
    for seed in range(3):  # beyond the first step tau differs from 1
        bench.step(make_batch(names, seed=seed))
    batch = make_batch(names, seed=9)
    running = method.running.clone()
    phi = shapley(lambda s: padded_logits(method, batch.inputs, s), names)
    n = torch.stack([surprise(phi[m], batch.label, 1e-8) for m in names]).detach()
    tau = leads(running)
    c = torch.exp(torch.minimum(tau - leads(n), torch.tensor(10.0 if count == 2 else 7.0)))
    upstream = torch.autograd.grad(
        cross_entropy(sum(phi.values()), batch.label), list(phi.values()), retain_graph=True
    )
    parameters = dict(method.named_parameters())
    expected = torch.autograd.grad(
        list(phi.values()),
        list(parameters.values()),
        [k * g for k, g in zip(c, upstream, strict=True)],
    )
    log, found = recorded(bench, batch, monkeypatch)
    for m, k in zip(names, c, strict=True):
        assert log[f"scale/{m}"] == pytest.approx(float(k))
    for name, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"starts": 0.9}])
@pytest.mark.parametrize("mode", ["logit_hook", "encoder_scale"])
def test_without_modulation_it_is_the_baseline(fusion, options, mode, make_bench, make_batch):
    agm = make_bench("agm", fusion=fusion, clip="off", mode=mode, **options)
    baseline = make_bench(fusion)
    for seed in range(3):
        agm.step(make_batch(seed=seed))
        baseline.step(make_batch(seed=seed))
    for p, q in zip(agm.method.parameters(), baseline.method.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-12, rtol=0)


def test_running_scores_are_the_mean_of_all_past_scores(make_bench, make_batch):
    bench = make_bench("agm", starts=0.9)
    logs = [bench.step(make_batch(seed=seed)) for seed in range(5)]
    for index, m in enumerate("av"):
        mean = sum(log[f"score/{m}"] for log in logs) / 5
        assert float(bench.method.running[index]) == pytest.approx(mean)
    assert logs[0]["tau/a"] == 1.0
    gap = sum(log["score/v"] - log["score/a"] for log in logs[:4]) / 4
    assert logs[4]["tau/a"] == pytest.approx(math.exp(gap))


@pytest.mark.parametrize(("after", "stale"), [("reset", False), ("stale", True)])
def test_after_the_window_the_scale_is_reset_or_kept(after, stale, make_bench, make_batch):
    bench = make_bench("agm", after_window=after, ends=0.0)
    inside = bench.step(make_batch(seed=1))
    bench.trainer.epoch = 1
    outside = bench.step(make_batch(seed=2))
    assert inside["scale/a"] == inside["coefficient/a"] != 1.0
    assert outside["scale/a"] == (inside["scale/a"] if stale else 1.0)


def test_epochs_may_count_from_one_as_released(make_bench, make_batch):
    options = {"window_unit": "epochs", "starts": 1, "ends": 1}
    for first_epoch, active in ((0, False), (1, True)):
        log = make_bench("agm", first_epoch=first_epoch, **options).step(make_batch())
        assert (log["scale/a"] != 1.0) is active


def test_clipping_acts_when_a_head_weight_is_steep(make_bench, make_batch, monkeypatch):
    free, batch = make_bench("agm", clip="off"), make_batch()
    _, plain = recorded(free, batch, monkeypatch)
    steepest = float(plain["fusion_head.linear.weight"].abs().max())
    norm = torch.cat([g.flatten() for g in plain.values()]).norm()
    for at, clipped in ((0.5 * steepest, True), (1.01 * steepest, False)):
        log, found = recorded(make_bench("agm", clip_at=at), batch, monkeypatch)
        assert log["clipped"] == float(clipped)
        factor = min(at / (float(norm) + 1e-6), 1.0) if clipped else 1.0
        for name, gradient in plain.items():
            torch.testing.assert_close(found[name], factor * gradient)
            assert clipped or torch.equal(found[name], gradient)


def test_encoder_scale_scales_the_encoders_matrices(make_bench, make_batch, monkeypatch):
    bench, batch = make_bench("agm", mode="encoder_scale", clip="off"), make_batch()
    loss = cross_entropy(bench.method.predict(batch.inputs)["fused"], batch.label)
    names, parameters = zip(*bench.method.named_parameters(), strict=True)
    plain = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    log, found = recorded(bench, batch, monkeypatch)
    for name, gradient in found.items():
        matrix = name.startswith("encoders") and name.endswith("weight")
        factor = log[f"scale/{name.split('.')[1]}"] if matrix else 1.0
        torch.testing.assert_close(gradient, factor * plain[name])


def test_both_modes_nearly_agree_on_a_linear_head(make_bench, make_batch):
    first, second = (make_bench("agm", mode=mode) for mode in ("logit_hook", "encoder_scale"))
    logs = [bench.step(make_batch()) for bench in (first, second)]
    assert logs[0]["coefficient/a"] == pytest.approx(logs[1]["coefficient/a"])
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"])


def test_padded_passes_use_running_statistics_and_restore_modes(make_bench, make_batch):
    bench, batch = make_bench("agm"), make_batch()
    encoder = bench.method.encoders["a"]
    encoder.layer = nn.Sequential(encoder.layer, nn.BatchNorm1d(8).double())
    bench.trainer.optimizers.create("main", bench.method.parameter_groups())
    norm = encoder.layer[1]
    calls = []
    norm.register_forward_hook(lambda module, args, out: calls.append(module.training))
    bench.method.encoders["v"].eval()  # a frozen encoder stays in the mode it was in
    bench.step(batch)
    assert calls == [True, False]  # the padded passes are one
    assert int(norm.num_batches_tracked) == 1
    assert norm.training
    assert not bench.method.encoders["v"].training


def test_predictions_are_attributions_that_sum_to_the_fused_logits(make_bench, make_batch):
    names = ("a", "v", "t")
    method, batch = make_bench("agm", names).method.eval(), make_batch(names)
    out = method.predict(batch.inputs)
    torch.testing.assert_close(sum(out[m] for m in names), out["fused"])
    f = {
        frozenset(s): padded_logits(method, batch.inputs, s)
        for r in (1, 2, 3)
        for s in combinations(names, r)
    }
    for m, phi in shapley(f.__getitem__, names).items():
        torch.testing.assert_close(out[m], phi)


def test_split_head_predictions(make_bench, make_batch):
    method, batch = make_bench("agm", uni_pred="split_head").method, make_batch()
    split = method.fusion_head.split(method.encode(batch.inputs))
    torch.testing.assert_close(method.predict(batch.inputs)["a"], split["a"])


def test_state_travels_in_the_state_dict(make_bench, make_batch):
    first, second = make_bench("agm"), make_bench("agm")
    first.step(make_batch())
    second.method.load_state_dict(first.method.state_dict())
    assert int(second.method.steps) == 1
    for name in ("running", "scale"):
        assert torch.equal(getattr(first.method, name), getattr(second.method, name))


def test_a_batch_of_one_is_defined(make_bench, make_batch):
    log = make_bench("agm").step(make_batch(samples=1))
    assert all(math.isfinite(v) for v in log.values())


@pytest.mark.parametrize(("names", "least"), [(("a", "v"), 1e-8), (("a", "v", "t"), 0.0)])
def test_the_released_floor_is_that_of_the_script_for_so_many_modalities(names, least, make_bench):
    assert make_bench("agm", names, floor="script").method.floor == least
    assert make_bench("agm", names).method.floor == 1e-8


@pytest.mark.parametrize(("names", "clipped"), [(("a", "v"), True), (("a", "v", "t"), False)])
def test_the_threshold_of_clipping_is_that_of_the_script_for_so_many_modalities(
    names, clipped, make_bench
):
    method = make_bench("agm", names).method
    weight = method.fusion_head.linear.weight
    weight.grad = torch.full_like(weight, 3.0)  # above 1, below 5
    assert bool(method._clip()) is clipped
    assert float(weight.grad.norm()) == pytest.approx(1.0 if clipped else 3 * weight.numel() ** 0.5)


@pytest.mark.parametrize(
    ("names", "cap", "most"),
    [
        (("a", "v"), "auto", 10.0),
        (("a", "v", "t"), "auto", 7.0),
        (("a", "v"), 3.0, 3.0),
        (("a", "v"), "off", math.inf),
        (("a", "v", "t"), "off", math.inf),
    ],
)
def test_the_cap_is_that_of_the_script_for_so_many_modalities(
    names, cap, most, make_bench, make_batch
):
    bench = make_bench("agm", names, cap=cap, alpha=0.001)
    bench.method.running[1:] = 5.0  # the first was far ahead so far
    log = bench.step(make_batch(names))
    gap = log["tau/a"] - log["ratio/a"]
    assert gap > 20
    assert log["coefficient/a"] == pytest.approx(math.exp(0.001 * min(gap, most)))


@pytest.mark.parametrize(
    ("names", "floor", "bounded"),
    [
        (("a", "v"), "script", True),
        (("a", "v", "t"), "script", False),
        (("a", "v", "t"), 1e-8, True),
    ],
)
def test_scores_have_the_floor_of_the_script(names, floor, bounded, make_bench, make_batch):
    bench = make_bench("agm", names, floor=floor)
    with torch.no_grad():
        bench.method.fusion_head.linear.weight.mul_(1e4)  # sure, and often wrong
    log = bench.step(make_batch(names))
    assert all(log[f"score/{m}"] <= -math.log(1e-8) + 1e-9 for m in names) is bounded
