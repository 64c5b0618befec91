"""MMPareto's solver, its rescaling, and the step."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from mmbench.methods.mmpareto import balance, combine, min_norm
from torch.nn.functional import cross_entropy
from torchjd.aggregation import MGDAWeighting

from .recorded import recorded


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


vectors = st.tuples(*[st.lists(st.floats(-10, 10), min_size=4, max_size=4)] * 2).map(
    lambda pair: (vector(*pair[0]), vector(*pair[1]))
)


def solved(g, u):
    return float(balance([g], [u])[1])


def combined(g, u, weight, gamma, scope):
    """Return what ``combine`` makes of copies."""
    out = [t.clone() for t in g]
    combine(out, [t.clone() for t in u], weight, gamma, scope)
    return out


def plain_losses(method, batch):
    z = method.encode(batch.inputs)
    fused = cross_entropy(method.fusion_head(z), batch.label)
    return fused, {m: cross_entropy(method.heads[m](z[m]), batch.label) for m in method.names}


def test_worked_example():
    g, u = vector(1, 0), vector(-1, 2)
    _, weight = balance([g], [u])
    assert float(weight) == pytest.approx(0.75)
    (h,) = combined([g], [u], weight, 1.0, "tensor")
    torch.testing.assert_close(h, 2**0.5 * vector(1, 1))
    (final,) = combined([g], [u], weight, 1.5, "tensor")
    torch.testing.assert_close(final, 1.5 * 2**0.5 * vector(1, 1))


@given(vectors)
def test_interior_solution_is_orthogonal_to_the_segment_and_descends_both(pair):
    g, u = pair
    assume(float(g.norm()) > 1e-3 and float(u.norm()) > 1e-3)
    a = solved(g, u)
    point = a * g + (1 - a) * u
    assert float(point @ g) >= -1e-9
    assert float(point @ u) >= -1e-9
    if float(g @ u) <= 0:
        assert 0 <= a <= 1
        assert float(point @ (g - u)) == pytest.approx(0, abs=1e-9)


@given(vectors)
def test_solver_agrees_with_torchjd_in_conflict(pair):
    g, u = pair
    assume(float(g.norm()) > 1e-2 and float(u.norm()) > 1e-2 and float(g @ u) < -1e-6)
    j = torch.stack([g, u])
    oracle = MGDAWeighting(max_iters=1000)(j @ j.T)
    assert solved(g, u) == pytest.approx(float(oracle[0]), abs=1e-5)


@given(vectors, st.floats(1e-3, 1e3))
def test_exchanging_or_scaling_the_gradients(pair, factor):
    g, u = pair
    assume(float(g.norm()) > 1e-2 and float(u.norm()) > 1e-2)
    assert solved(g, u) == pytest.approx(1 - solved(u, g), abs=1e-9)
    if abs(float(g @ u)) > 1e-6:
        assert solved(factor * g, factor * u) == pytest.approx(solved(g, u), abs=1e-9)


def test_ends_of_the_segment_are_the_released_ones():
    assert float(min_norm(*vector(1, 2, 9))) == pytest.approx(0.999)
    assert float(min_norm(*vector(9, 2, 1))) == pytest.approx(0.001)


@pytest.mark.parametrize("zero", ["own", "other", "both"])
def test_vanishing_gradients_stay_finite_and_do_not_conflict(zero):
    g = [vector(0, 0) if zero != "other" else vector(1, -1)]
    u = [vector(0, 0) if zero != "own" else vector(1, -1)]
    _, weight = balance(g, u)
    assert float(weight) == 0.5
    (h,) = combined(g, u, weight, 1.5, "tensor")
    torch.testing.assert_close(h, 1.5 * (g[0] + u[0]))


def test_half_precision_of_the_step_does_not_reach_the_solver():
    draw = torch.Generator().manual_seed(0)
    g, u = ([torch.randn(999, generator=draw)] for _ in range(2))
    plain = balance(g, u)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(balance(g, u), plain, strict=True))


def test_opposite_gradients_cancel_without_nan():
    g, u = [vector(1, -2), vector(1)], [vector(-1, 2), vector(-1)]
    for scope in ("tensor", "encoder"):
        parts = combined(g, u, balance(g, u)[1], 1.5, scope)
        assert all(float(h.abs().max()) == 0 for h in parts)


@given(st.integers(0, 2**31 - 1))
def test_encoder_scope_descends_both_and_restores_the_whole_magnitude(seed):
    draw = torch.Generator().manual_seed(seed)
    g, u = ([torch.randn(n, generator=draw, dtype=torch.float64) for n in (3, 5)] for _ in range(2))
    weight = balance(g, u)[1]
    h = torch.cat(combined(g, u, weight, 1.0, "encoder"))
    flat_g, flat_u = torch.cat(g), torch.cat(u)
    assert float(h @ flat_g) >= -1e-9
    assert float(h @ flat_u) >= -1e-9
    assert float(h.norm()) >= float((flat_g + flat_u).norm()) - 1e-9


def test_agreement_is_gamma_times_the_summed_gradient(make_bench, make_batch, monkeypatch):
    for seed in range(20):
        bench, batch = make_bench("mmpareto", seed=seed), make_batch(seed=seed)
        fused, own = plain_losses(bench.method, batch)
        names, parameters = zip(*bench.method.named_parameters(), strict=True)
        summed = torch.autograd.grad(fused + sum(own.values()), parameters)
        log, found = recorded(bench, batch, monkeypatch)
        if min(log["cos/a"], log["cos/v"]) > 0:
            break
    else:
        pytest.fail("no seed without conflict")
    for name, plain in zip(names, summed, strict=True):
        gamma = 1.5 if name.startswith("encoders") else 1.0
        torch.testing.assert_close(found[name], gamma * plain)


@pytest.mark.parametrize("modalities", [("a", "v"), ("a", "v", "t")])
@pytest.mark.parametrize("seed", range(3))
def test_two_backwards_equal_one_for_every_loss(
    modalities, seed, make_bench, make_batch, monkeypatch
):
    bench = make_bench("mmpareto", modalities, seed=seed)
    batch = make_batch(modalities, seed=seed + 7)
    fused, own = plain_losses(bench.method, batch)
    expected = {}
    for m, encoder in bench.method.encoders.items():
        parameters = list(encoder.parameters())
        g = torch.autograd.grad(fused, parameters, retain_graph=True)
        u = torch.autograd.grad(own[m], parameters, retain_graph=True)
        flat_g, flat_u = (torch.cat([t.flatten() for t in part]) for part in (g, u))
        conflict = float(flat_g @ flat_u) <= 0
        v11, v12, v22 = flat_g @ flat_g, flat_g @ flat_u, flat_u @ flat_u
        a = (v22 - v12) / (v11 + v22 - 2 * v12) if conflict else 0.5
        for (name, _), gp, up in zip(encoder.named_parameters(), g, u, strict=True):
            h = 2 * a * gp + 2 * (1 - a) * up
            ratio = max(float((gp + up).norm() / h.norm()), 1.0)
            expected[f"encoders.{m}.{name}"] = 1.5 * h * ratio
    _, found = recorded(bench, batch, monkeypatch)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_parameter_that_one_loss_does_not_reach_counts_as_zero(make_bench, make_batch):
    bench, batch = make_bench("mmpareto"), make_batch()
    bench.method.encoders["a"].idle = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    bench.step(batch)
    assert torch.equal(bench.method.encoders["a"].idle, torch.ones(2, dtype=torch.float64))
