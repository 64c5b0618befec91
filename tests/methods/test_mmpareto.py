"""MMPareto's solver, its rescaling, and the step."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from mmbench.methods.gradients import reached, take_gradients
from mmbench.methods.mmpareto import balance, combine, min_norm
from torch import nn
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


class Detached(nn.Module):
    """A head that lets no gradient into the encoder of ``a``."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, z):
        return self.head({**z, "a": z["a"].detach()} if isinstance(z, dict) else z.detach())


@pytest.mark.parametrize("reaching", ["multimodal", "unimodal"])
def test_encoder_that_one_loss_does_not_reach_follows_the_other(
    reaching, make_bench, make_batch, monkeypatch
):
    bench, batch = make_bench("mmpareto"), make_batch()
    method = bench.method
    fused, own = plain_losses(method, batch)
    parameters = list(method.encoders["a"].parameters())
    alone = torch.autograd.grad(fused if reaching == "multimodal" else own["a"], parameters)
    if reaching == "multimodal":
        method.heads["a"] = Detached(method.heads["a"])
    else:
        method.fusion_head = Detached(method.fusion_head)
    bench.trainer.optimizers.create("main", method.parameter_groups())
    log, found = recorded(bench, batch, monkeypatch)
    assert log["weight/a"] == 0.5
    for name, gradient in zip(("weight", "bias"), alone, strict=True):
        torch.testing.assert_close(found[f"encoders.a.layer.{name}"], 1.5 * gradient)


def test_parameters_reached_by_either_loss_get_a_zero_for_the_other():
    module = nn.ParameterDict({k: nn.Parameter(torch.ones(2)) for k in ("g", "u", "both", "none")})
    module["g"].grad, module["both"].grad = vector(1, 2).float(), vector(3, 4).float()
    first = take_gradients(module)
    assert all(p.grad is None for p in module.values())
    module["u"].grad, module["both"].grad = vector(5, 6).float(), vector(7, 8).float()
    names = {p: name for name, p in module.items()}
    rows = zip(*reached(module, first), strict=True)
    found = {names[p]: (g.tolist(), u.tolist()) for p, g, u in rows}
    assert found == {"g": ([1, 2], [0, 0]), "u": ([0, 0], [5, 6]), "both": ([3, 4], [7, 8])}


def test_frozen_encoder_stays_and_the_others_learn(make_bench, make_batch):
    bench = make_bench("mmpareto")
    bench.method.encoders["a"].requires_grad_(False)
    before = {n: p.clone() for n, p in bench.method.named_parameters()}
    log = bench.step(make_batch())
    assert "cos/a" not in log
    assert "cos/v" in log
    changed = {n for n, p in bench.method.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if not n.startswith("encoders.a.")}
