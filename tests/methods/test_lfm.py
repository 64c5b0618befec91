"""LFM: the hand-computed numbers of methods.md section 10, schedules and learned weights."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmbench.methods.lfm import agreement, contrast, fitted, gradients
from torch.nn.functional import cross_entropy

F64 = torch.float64


def logs(*rows):
    return torch.tensor(rows, dtype=F64).log()


def test_agreement_by_hand():
    p, q = logs([0.8, 0.2]), logs([0.4, 0.6])
    reverse, shannon = agreement({"a": p, "v": q}), agreement({"a": p, "v": q}, reverse=False)
    assert float(reverse) == pytest.approx(0.0928713, abs=1e-6)
    assert float(shannon) == pytest.approx(0.0863046, abs=1e-6)


@given(st.integers(0, 10_000), st.booleans(), st.floats(0.1, 30))
def test_agreement_is_the_plain_formula(seed, reverse, scale):
    rng = np.random.default_rng(seed)
    o = scale * rng.standard_normal((2, 3, 4))
    p, q = (np.exp(x - x.max(1, keepdims=True)) for x in o)
    p, q = (x / x.sum(1, keepdims=True) for x in (p, q))
    mid = (p + q) / 2

    def kl(x, y):
        return (x * (np.log(x) - np.log(y))).sum(1)

    plain = kl(mid, p) + kl(mid, q) if reverse else kl(p, mid) + kl(q, mid)
    logits = {"a": torch.tensor(o[0]), "v": torch.tensor(o[1])}
    assert float(agreement(logits, reverse)) == pytest.approx(plain.mean() / 2, rel=1e-9, abs=1e-12)


@given(st.integers(0, 10_000), st.booleans())
def test_agreement_is_zero_on_equal_predictions_and_symmetric(seed, reverse):
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 3, 4, generator=draw, dtype=F64)
    assert float(agreement({"a": x, "v": x + 3.0}, reverse)) == pytest.approx(0, abs=1e-12)
    one, other = agreement({"a": x, "v": y}, reverse), agreement({"a": y, "v": x}, reverse)
    torch.testing.assert_close(one, other)
    assert float(one) > 0


@given(st.integers(0, 10_000))
def test_jensen_shannon_is_bounded(seed):
    draw = torch.Generator().manual_seed(seed)
    x, y = 50 * torch.randn(2, 3, 4, generator=draw, dtype=F64)
    assert 0 <= float(agreement({"a": x, "v": y}, reverse=False)) <= math.log(2) + 1e-12


def test_underflowing_predictions_stay_finite():
    far = torch.tensor([[1e4, -1e4]])
    logits = {"a": far.clone().requires_grad_(), "v": (-far).requires_grad_()}
    loss = agreement(logits)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(o.grad).all() for o in logits.values())


def test_three_modalities_agree_in_pairs():
    draw = torch.Generator().manual_seed(0)
    o = dict(zip("avt", torch.randn(3, 2, 4, generator=draw, dtype=F64), strict=True))
    pairs = [("a", "v"), ("a", "t"), ("v", "t")]
    mean = sum(agreement({x: o[x], y: o[y]}) for x, y in pairs) / 3
    torch.testing.assert_close(agreement(o), mean)


def test_contrast_is_least_when_modalities_match():
    eye = torch.eye(4, dtype=F64)
    matched = contrast({"a": eye, "v": 3 * eye}, 0.1)
    shuffled = contrast({"a": eye, "v": eye.roll(1, 0)}, 0.1)
    assert float(matched) < 0.01 < float(shuffled)
    expected = -math.log(math.exp(10) / (math.exp(10) + 3))
    assert float(matched) == pytest.approx(expected, abs=1e-9)


def test_fitted_weights_by_hand():
    expected = {0: 0.2046, 10: 0.2478, 50: 0.4367, 100: 0.5392, 150: 0.8213, 199: 0.916}
    assert {e: round(fitted(e), 4) for e in expected} == pytest.approx(expected, abs=1e-4)


def test_fit_exceeds_one_and_the_guard_holds_it(make_bench):
    beyond = [e for e in range(200) if fitted(e) > 1]
    assert beyond == list(range(177, 189))
    for guard, largest in ((True, 1.0), (False, fitted(183))):
        bench = make_bench("lfm", epochs=200, guard=guard)
        weights = []
        for bench.trainer.epoch in range(200):
            weights.append(tuple(map(float, bench.method.weights())))
        assert max(k_cls for k_cls, _ in weights) == pytest.approx(largest, abs=1e-12)
        assert all(k_cls + k_con == pytest.approx(1) for k_cls, k_con in weights)


@pytest.mark.parametrize("epochs", [1, 2, 30, 100, 200])
def test_stretched_schedule_spans_the_run(epochs, make_bench):
    bench = make_bench("lfm", epochs=epochs)
    k_first = float(bench.method.weights()[0])
    bench.trainer.epoch = epochs - 1
    k_last, k_con = map(float, bench.method.weights())
    assert k_first == pytest.approx(fitted(0), abs=1e-6)
    assert k_last == pytest.approx(fitted(199 if epochs > 1 else 0), abs=1e-6)
    assert k_last + k_con == pytest.approx(1)


def test_heuristic_schedule_is_a_line(make_bench):
    bench = make_bench("lfm", weight="heuristic", epochs=3)
    seen = []
    for bench.trainer.epoch in range(3):
        seen.append(float(bench.method.weights()[0]))
    assert seen == pytest.approx([0.2, 0.575, 0.95])


def test_without_agreement_the_gradient_is_twice_the_averaged_one(make_bench, make_batch):
    bench, batch = make_bench("lfm", weight="heuristic", k_start=1.0, k_end=1.0), make_batch()
    parameters = list(bench.method.parameters())
    plain = cross_entropy(bench.method.predict(batch.inputs)["fused"], batch.label)
    expected = torch.autograd.grad(plain, parameters)
    bench.trainer.update = lambda *_: None
    bench.method.step(batch)
    for p, g in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, 2 * g)


def test_one_step_descends_the_held_out_loss(make_bench):
    """The slope is that of the loss after a plain step, by central differences."""
    bench = make_bench("lfm", weight="one_step")
    method, trainer = bench.method, bench.trainer
    method.on_fit_start()
    slope = float(method._one_step_slope())
    train, held = next(trainer.train_batches(tag="lfm")), next(iter(trainer.held_out_batches()))
    start = [p.detach().clone() for p in method.parameters()]

    def held_out_loss(k_con):
        losses = method.losses(train)
        total = (1 - k_con) * losses["cls"] + k_con * losses["con"]
        grads = torch.autograd.grad(total, list(method.parameters()))
        with torch.no_grad():
            for p, g in zip(method.parameters(), grads, strict=True):
                p -= trainer.lr * g
            value = float(method.losses(held)["cls"])
            for p, s in zip(method.parameters(), start, strict=True):
                p.copy_(s)
        return value

    # the gradient is linear in k_con, so only the loss's own curvature is left in the difference
    by_difference = (held_out_loss(0.5 + 1e-4) - held_out_loss(0.5 - 1e-4)) / 2e-4
    first_order = float(torch.tensor(by_difference))
    trainer.settings = trainer.settings.model_copy(update={"lr": 1e-5})
    small = float(method._one_step_slope())
    by_difference = (held_out_loss(1.0) - held_out_loss(0.0)) / 1.0
    assert small == pytest.approx(by_difference, rel=1e-3)
    assert np.sign(slope) == np.sign(first_order) or abs(slope) < 1e-3


def test_released_rule_is_the_hessian_times_the_gradient(make_bench):
    bench = make_bench("lfm", weight="learned_official", k_con=0.5)
    method, trainer = bench.method, bench.trainer
    method.on_fit_start()
    trainer.epoch = 20
    slope = float(method._official_slope())
    parameters = list(method.parameters())
    batch = next(iter(trainer.held_out_batches()))
    v = torch.autograd.grad(method.losses(batch)["cls"], parameters)

    def gradient(shift):
        with torch.no_grad():
            for p, d in zip(parameters, v, strict=True):
                p += shift * d
        k_cls, k_con = method.weights()
        losses = method.losses(batch)
        total = k_cls * losses["cls"] + k_con * losses["con"]
        out = torch.autograd.grad(total, parameters[:1])[0]
        with torch.no_grad():
            for p, d in zip(parameters, v, strict=True):
                p -= shift * d
        return out

    plain = ((gradient(1e-5) - gradient(-1e-5)) / 2e-5).mean()
    assert slope == pytest.approx(float(plain), rel=1e-4)
    method.on_epoch_start()
    assert float(method.k_con) == pytest.approx(0.5 - 0.5e-4 * slope, abs=1e-12)


@pytest.mark.parametrize("weight", ["learned_official", "one_step"])
def test_learned_weight_stays_in_its_bounds(weight, make_bench):
    bench = make_bench("lfm", weight=weight, lr_alpha=1e6)
    bench.method.on_fit_start()
    for bench.trainer.epoch in range(3):
        bench.method.on_epoch_start()
        k_cls, k_con = map(float, bench.method.weights())
        assert 0.05 <= k_con <= 0.95
        assert k_cls + k_con == pytest.approx(1)
    assert len(bench.trainer.index) < 40


def test_released_learning_rate_falls_early(make_bench):
    bench = make_bench("lfm", decay="before", epochs=10)
    rates = []
    for bench.trainer.epoch in range(10):
        bench.trainer.optimizers.set_lr(bench.trainer.lr)
        bench.method.on_epoch_start()
        rates.append(bench.trainer.optimizers.by_name["main"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.1] * 6 + [0.01] * 4)


def test_gradients_of_what_a_loss_does_not_reach_are_zero():
    used, unused = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    first, second = gradients((used**2).sum(), [used, unused])
    assert first.tolist() == [2, 2] and second.tolist() == [0, 0, 0]


@pytest.mark.parametrize("weight", ["one_step", "learned_official"])
def test_learned_weights_take_encoders_with_frozen_and_unused_parameters(make_bench, weight):
    bench = make_bench("lfm", weight=weight, epochs=3)
    encoder = bench.method.encoders["a"]
    encoder.pooler = torch.nn.Linear(2, 2).double()
    encoder.frozen = torch.nn.Parameter(torch.ones(1, dtype=F64), requires_grad=False)
    bench.method.on_fit_start()
    for bench.trainer.epoch in range(2):
        bench.method.on_epoch_start()
        bench.method.on_epoch_end(None)
    assert all(torch.isfinite(k) for k in bench.method.weights())
