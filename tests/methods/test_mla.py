"""MLA: the hand-computed numbers of methods.md section 9, and what its projection promises."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmbench.methods.mla import confidence, forget
from torch.nn.functional import cross_entropy

from mmbench.registry import METHODS

F64 = torch.float64


def vector(*values):
    return torch.tensor(values, dtype=F64)


def test_update_of_the_projection_by_hand():
    r = vector(1, 2)
    p = forget(torch.eye(2, dtype=F64), r, 0.1)
    expected = torch.tensor([[0.8039216, -0.3921569], [-0.3921569, 0.2156863]], dtype=F64)
    torch.testing.assert_close(p, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(p @ r, vector(0.0196078, 0.0392157), atol=1e-6, rtol=0)


@given(st.integers(0, 10_000), st.floats(0.01, 1.0), st.integers(1, 6))
def test_projection_is_the_inverse_of_the_seen_directions(seed, a, count):
    draw = torch.Generator().manual_seed(seed)
    seen = torch.randn(count, 4, generator=draw, dtype=F64)
    p = torch.eye(4, dtype=F64)
    for r in seen:
        p = forget(p, r, a)
    plain = torch.linalg.inv(torch.eye(4, dtype=F64) + seen.T @ seen / a)
    torch.testing.assert_close(p, plain, atol=1e-8, rtol=1e-6)


@given(st.integers(0, 10_000), st.floats(0.01, 1.0))
def test_gradient_along_the_stored_direction_is_suppressed(seed, a):
    draw = torch.Generator().manual_seed(seed)
    r, grad = torch.randn(5, generator=draw, dtype=F64), torch.randn(3, 5, generator=draw).double()
    old = forget(torch.eye(5, dtype=F64), torch.randn(5, generator=draw, dtype=F64), a)
    new = forget(old, r, a)
    factor = a / (a + r @ old @ r)
    torch.testing.assert_close(grad @ new.T @ r, factor * (grad @ old @ r))


def test_released_division_is_elementwise():
    p, r = torch.eye(2, dtype=F64), vector(1, 2)
    q = r
    expected = p - torch.outer(q, q) / (0.1 + torch.outer(q, r))
    torch.testing.assert_close(forget(p, r, 0.1, "elementwise"), expected)
    assert not torch.allclose(expected, forget(p, r, 0.1))


def test_confidence_by_hand():
    logits = {"a": vector(0.9, 0.1).log()[None], "v": vector(0.5, 0.5).log()[None]}
    expected = vector(0.590991, 0.409009)
    torch.testing.assert_close(confidence(logits)[:, 0], expected, atol=1e-6, rtol=0)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert entropy == pytest.approx(0.325083, abs=1e-6)


def test_weights_sum_to_one_and_follow_the_entropy(make_bench, make_batch):
    method = make_bench("mla", ("a", "v", "t")).method
    logits = method.predict(make_batch(("a", "v", "t")).inputs)
    fused = logits.pop("fused")
    w = confidence(logits)
    torch.testing.assert_close(w.sum(0), torch.ones(8, dtype=F64))
    torch.testing.assert_close(fused, sum(w[i][:, None] * o for i, o in enumerate(logits.values())))


def test_stepping_a_modality_leaves_the_other_encoders_alone(make_bench, make_batch, monkeypatch):
    bench = make_bench("mla", ("a", "v", "t"))
    seen, update = [], bench.trainer.update

    def recording(optimizer="main"):
        before = {m: bench.method.encoders[m].layer.weight.clone() for m in "avt"}
        update(optimizer)
        after = {m: bench.method.encoders[m].layer.weight for m in "avt"}
        seen.append([m for m in "avt" if not torch.equal(before[m], after[m])])

    monkeypatch.setattr(bench.trainer, "update", recording)
    for seed in range(2):
        bench.step(make_batch(("a", "v", "t"), seed=seed))
    assert seen == [["a"], ["v"], ["t"]] * 2


def test_a_step_is_the_plain_equations(make_bench, make_batch):
    """Written out again: no projection at the first update, the updated P at the second."""
    bench = make_bench("mla", guard=False)
    method, batch = bench.method, make_batch()
    bench.trainer.step_in_epoch = 2
    w0, b0 = method.head.weight.detach().clone(), method.head.bias.detach().clone()
    z = {m: t.detach() for m, t in method.encode(batch.inputs).items()}
    bench.step(batch)

    def gradient(z, w, b):
        w, b = w.clone().requires_grad_(), b.clone().requires_grad_()
        return torch.autograd.grad(cross_entropy(z @ w.T + b, batch.label), [w, b])

    decay, lr = 1e-4, 0.1
    g_w, g_b = gradient(z["a"], w0, b0)
    m_w, m_b = g_w + decay * w0, g_b + decay * b0
    w1, b1 = w0 - lr * m_w, b0 - lr * m_b
    p = forget(torch.eye(8, dtype=F64), z["v"].mean(0), 0.1 ** (1 + 2 / 5))
    p = p / p.norm()
    g_w, g_b = gradient(z["v"], w1, b1)
    m_w, m_b = 0.9 * m_w + g_w @ p.T + decay * w1, 0.9 * m_b + g_b + decay * b1
    torch.testing.assert_close(method.head.weight.detach(), w1 - lr * m_w)
    torch.testing.assert_close(method.head.bias.detach(), b1 - lr * m_b)


def test_projection_that_is_no_longer_finite_starts_again(make_bench, make_batch):
    bench = make_bench("mla")
    bench.method.P.fill_(float("nan"))
    bench.trainer.step = 1
    log = bench.step(make_batch())
    assert torch.isfinite(bench.method.P).all()
    assert log["resets"] >= 1
    assert math.isfinite(bench.step(make_batch())["loss"])


def test_without_projection_the_head_gradient_is_kept(make_bench, make_batch):
    log = make_bench("mla", projection="off").step(make_batch())
    assert log["kept/a"] == log["kept/v"] == pytest.approx(1)
    log = make_bench("mla").step(make_batch())
    assert log["kept/a"] == pytest.approx(1)
    assert log["kept/v"] < 1


def test_head_learning_rate_has_its_own_factor(make_bench, make_batch):
    plain, doubled = make_bench("mla"), make_bench("mla", head_lr_mult=2.0)
    start = plain.method.head.bias.detach().clone()
    for bench in (plain, doubled):
        bench.trainer.update, kept = (lambda *_: None), bench.trainer.update
        bench.method.step(make_batch())
        bench.method.zero_grad()
        bench.trainer.update = kept
        cross_entropy(bench.method.head(torch.ones(1, 8, dtype=F64)), torch.tensor([0])).backward()
        bench.trainer.update()
    moved = [bench.method.head.bias.detach() - start for bench in (plain, doubled)]
    torch.testing.assert_close(moved[1], 2 * moved[0])


def test_fixed_weights_are_the_authors_and_can_be_given(make_bench, make_batch):
    modalities = ("a", "v", "t")
    method = make_bench("mla", modalities, inference="fixed").method
    logits = method.predict(make_batch(modalities).inputs)
    expected = 0.35 * logits["a"] + 0.25 * logits["v"] + 0.4 * logits["t"]
    torch.testing.assert_close(logits["fused"], expected)
    method = make_bench("mla", inference="fixed", fixed_weights=(1.0, 0.0)).method
    logits = method.predict(make_batch().inputs)
    assert torch.equal(logits["fused"], logits["a"])


def test_wrong_number_of_fixed_weights_is_refused(make_bench):
    method = make_bench("mla").method
    cls = METHODS.load("mla")
    assert "has 3 entries; the data has 2" in cls.refuse(
        method.task, cls.Config(fixed_weights=(0.2, 0.3, 0.5))
    )


def test_fixed_weights_that_weigh_nothing_are_refused():
    with pytest.raises(ValueError, match="all 0: give at least one modality a weight"):
        METHODS.load("mla").Config(fixed_weights=(0.0, 0.0))


@pytest.mark.parametrize("guard", [True, False])
def test_guard_keeps_the_projection_symmetric(guard, make_bench, make_batch):
    bench = make_bench("mla", guard=guard, rls="elementwise")
    for seed in range(2):  # the first update of the identity is symmetric by itself
        bench.step(make_batch(seed=seed))
    assert torch.equal(bench.method.P, bench.method.P.T) is guard
