"""IPRM's mathematics: the hand-computed numbers, the guards, the variants."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from mmbench.methods.iprm import divergence, strength
from torch.nn.functional import cross_entropy, normalize

from mmbench.nets.sphere import Arc, unit

DOUBLE = torch.float64


def t(*values):
    return torch.tensor(values, dtype=DOUBLE)


def test_slerp_of_orthogonal_vectors_has_the_hand_computed_coefficients():
    mixed = Arc(t([1.0, 0.0]), t([0.0, 1.0])).at(t(0.25).squeeze())
    torch.testing.assert_close(mixed, t([0.3826834, 0.9238795]), atol=1e-6, rtol=0)


def test_slerp_at_sixty_degrees_has_equal_coefficients():
    u, v = t([1.0, 0.0]), t([0.5, 3**0.5 / 2])
    mixed = Arc(u, v).at(t(0.5).squeeze())
    torch.testing.assert_close(mixed, 0.5773503 * (u + v), atol=1e-6, rtol=0)


@given(st.integers(0, 2**31 - 1), st.floats(0, 1), st.integers(2, 16))
def test_slerp_stays_on_the_sphere(seed, weight, width):
    draw = torch.Generator().manual_seed(seed)
    u, v = (normalize(torch.randn(4, width, generator=draw, dtype=DOUBLE)) for _ in range(2))
    assume(not ((u * v).sum(1).abs() > 0.999).any())
    mixed = Arc(u, v).at(torch.tensor(weight, dtype=DOUBLE))
    torch.testing.assert_close(mixed.norm(dim=1), torch.ones(4, dtype=DOUBLE), atol=1e-6, rtol=0)


def test_slerp_returns_its_ends():
    u, v = t([1.0, 0.0]), t([0.6, 0.8])
    torch.testing.assert_close(Arc(u, v).at(t(1.0).squeeze()), u, atol=1e-9, rtol=0)
    torch.testing.assert_close(Arc(u, v).at(t(0.0).squeeze()), v, atol=1e-9, rtol=0)


@pytest.mark.parametrize("other", [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
def test_gradient_is_finite_for_equal_opposite_and_zero_features(other):
    z = t([1.0, 0.0]).requires_grad_()
    w = t(other).requires_grad_()
    mixed = Arc(unit(z), unit(w)).at(t(0.3).squeeze())
    mixed.sum().backward()
    assert torch.isfinite(mixed).all()
    assert torch.isfinite(z.grad).all()
    assert torch.isfinite(w.grad).all()


def test_divergences_and_weights_match_the_hand_computed_example():
    mixed = t([1.0, 0.0])
    k_a, k_v = divergence(t([2.0, 0.0]), mixed), divergence(t([0.0, 1.0]), mixed)
    assert k_a.item() == pytest.approx(0.0671308, abs=1e-6)
    assert k_v.item() == pytest.approx(0.4621172, abs=1e-6)
    omega = strength(k_a, k_v)
    assert omega.item() == pytest.approx(0.8731582, abs=1e-6)
    assert (0.8 * 0.5 + 0.2 * omega).item() == pytest.approx(0.5746316, abs=1e-6)


def test_identical_predictions_share_the_weight():
    assert strength(torch.zeros(()), torch.zeros(())).item() == 0.5


@pytest.mark.parametrize("modalities", [("a", "v"), ("a", "v", "t")])
def test_losses_compile_into_one_graph_that_agrees(modalities, make_bench, make_batch, monkeypatch):
    plain, fused = make_bench("iprm", modalities), make_bench("iprm", modalities)
    batch = make_batch(modalities)
    assert fused.method.compiles == ("_losses",)
    graph = torch.compile(fused.method._losses, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(fused.method, "_losses", graph)
    for _ in range(2):  # the second from the weights and lambdas that the first left
        assert fused.step(batch) == pytest.approx(plain.step(batch), rel=1e-9)


def test_step_follows_a_plain_version(make_bench, make_batch):
    bench, batch = make_bench("iprm"), make_batch()
    method = bench.method
    z = method.encode(batch.inputs)
    u = {m: x / x.norm(dim=1, keepdim=True) for m, x in z.items()}
    own = {m: method.heads[m](z[m]) for m in z}

    def plain_slerp(weight):
        theta = torch.acos((u["a"] * u["v"]).sum(1, keepdim=True))
        first, second = torch.sin(weight * theta), torch.sin((1 - weight) * theta)
        return (first * u["a"] + second * u["v"]) / torch.sin(theta)

    head = method.mix_heads["a__v"]
    mixed = head(plain_slerp(0.5)).softmax(1)
    k = {m: (o.softmax(1) * (o.softmax(1) / mixed).log()).sum(1).mean() for m, o in own.items()}
    omega = (k["v"] / (k["a"] + k["v"])).item()
    loss = cross_entropy(head(plain_slerp(omega)), batch.label)
    loss = loss + sum(cross_entropy(o, batch.label) for o in own.values())
    log = bench.step(batch)
    assert log["omega/a-v"] == pytest.approx(omega, abs=1e-9)
    assert log["loss"] == pytest.approx(loss.item(), abs=1e-8)
    assert method.lam.item() == pytest.approx(0.8 * 0.5 + 0.2 * omega, abs=1e-9)
    assert method.lam_used.item() == 0.5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"style": "single_cls"},
        {"mixup": "linear"},
        {"mixup": "linear", "linear_on": "raw"},
        {"ema": "off"},
        {"ema": "half"},
        {"ema_init": "omega0"},
        {"passes": "one"},
        {"passes": "one_raw"},
        {"omega": "inverse"},
        {"omega": "half"},
        {"pairing": "same_class"},
        {"pairing": "none"},
        {"pairing": "none", "probe": "paired"},
        {"style": "single_cls", "pair_draw": "python"},
        {"infer_lambda": "ema_next"},
        {"infer_lambda": "half"},
    ],
)
@pytest.mark.parametrize("modalities", [("a", "v"), ("a", "v", "t")])
def test_every_variant_trains_and_keeps_weights_in_range(
    options, modalities, make_bench, make_batch
):
    bench = make_bench("iprm", modalities, **options)
    losses = [bench.step(make_batch(modalities))["loss"] for _ in range(15)]
    assert losses[-1] < losses[0]
    for state in (bench.method.lam, bench.method.omega, bench.method.lam_used):
        assert ((state >= 0) & (state <= 1)).all()


def test_without_ema_lambda_is_the_last_omega(make_bench, make_batch):
    bench = make_bench("iprm", ema="off")
    log = bench.step(make_batch())
    assert bench.method.lam.item() == pytest.approx(log["omega/a-v"])


def test_inverse_swaps_the_weights(make_bench, make_batch):
    one, two = (make_bench("iprm", omega=o).step(make_batch()) for o in ("closer", "inverse"))
    assert one["omega/a-v"] == pytest.approx(1 - two["omega/a-v"])


def test_same_class_pairing_equals_paired_when_all_labels_differ(make_bench, make_batch):
    batch = make_batch(samples=4)
    batch.label.copy_(torch.arange(4))
    results = []
    for pairing in ("paired", "same_class"):
        bench = make_bench("iprm", pairing=pairing)
        bench.step(batch)
        results.append(torch.cat([p.detach().flatten() for p in bench.method.parameters()]))
    assert torch.equal(*results)


@pytest.mark.parametrize("ema_init", ["half", "omega0"])
def test_half_keeps_lambda_at_a_half(ema_init, make_bench, make_batch):
    bench = make_bench("iprm", ema="half", ema_init=ema_init)
    logs = [bench.step(make_batch(seed=seed)) for seed in range(3)]
    assert [log["lambda/a-v"] for log in logs] == [0.5] * 3
    assert any(log["omega/a-v"] != 0.5 for log in logs)
    assert bench.method.lam.item() == bench.method.lam_used.item() == 0.5


@pytest.mark.parametrize("linear_on", ["normalised", "raw"])
def test_linear_mixup_mixes_unit_or_raw_features(linear_on, make_bench, make_batch):
    method = make_bench("iprm", mixup="linear", linear_on=linear_on).method
    inputs = make_batch().inputs
    z = method.encode(inputs)
    mixed = {m: x if linear_on == "raw" else x / x.norm(dim=1, keepdim=True) for m, x in z.items()}
    half = method.mix_heads["a__v"](0.5 * mixed["a"] + 0.5 * mixed["v"])
    logits = method.predict(inputs)
    torch.testing.assert_close(logits["fused"], logits["a"] + logits["v"] + half)


@pytest.mark.parametrize(("probe", "same"), [("paired", True), ("as_mixed", False)])
def test_unpaired_samples_may_be_probed_as_pairs(probe, same, make_bench, make_batch):
    batch = make_batch()
    paired = make_bench("iprm").step(batch)
    found = make_bench("iprm", pairing="none", probe=probe).step(batch)
    for key in ("kl/a-v/a", "kl/a-v/v", "omega/a-v"):
        assert (found[key] == pytest.approx(paired[key], abs=1e-12)) is same, key
