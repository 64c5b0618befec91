"""OGM's coefficients, what they touch, and what they leave alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmbench.methods.arithmetic import against_others, true_class
from mmbench.methods.ogm import coefficients
from torch.nn.functional import cross_entropy

from mmbench.errors import UserError
from mmbench.registry import METHODS

from .recorded import recorded

positive = st.floats(1e-6, 1e6)


def tensors(**values):
    return {m: torch.tensor(v, dtype=torch.float64) for m, v in values.items()}


def plain_gradients(method, batch):
    loss = cross_entropy(method.predict(batch.inputs)["fused"], batch.label)
    names, parameters = zip(*method.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize(("alpha", "expected"), [(0.8, 0.0402401), (0.1, 0.7618074)])
def test_worked_example(alpha, expected):
    rho = against_others(tensors(a=1.7, v=0.7))
    assert float(rho["a"]) == pytest.approx(2.428571, abs=1e-6)
    k = coefficients(rho, alpha)
    assert float(k["a"]) == pytest.approx(expected, abs=1e-6)
    assert float(k["v"]) == 1.0


def test_scores_match_the_naive_sum():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.tensor([0, 2, 1, 1, 0])
    naive = sum(
        math.exp(logits[i, y]) / sum(math.exp(v) for v in logits[i]) for i, y in enumerate(label)
    )
    assert float(true_class(logits, label)) == pytest.approx(naive)


@given(st.dictionaries(st.sampled_from("avtx"), positive, min_size=2), st.floats(0, 5))
def test_coefficients_match_the_naive_form_in_any_order(values, alpha):
    backwards = dict(reversed(values.items()))
    k = coefficients(against_others(tensors(**values)), alpha)
    again = coefficients(against_others(tensors(**backwards)), alpha)
    for m, s in values.items():
        others = [v for j, v in values.items() if j != m]
        rho = s * len(others) / sum(others)
        assert float(k[m]) == pytest.approx(float(again[m]), abs=1e-12)
        if abs(rho - 1) > 2e-6:
            expected = 1 - math.tanh(alpha * rho) if rho > 1 else 1.0
            assert float(k[m]) == pytest.approx(expected, abs=1e-9)


@given(positive, positive, st.floats(1e-3, 1e3))
def test_ratio_ignores_the_common_scale(a, v, factor):
    rho = against_others(tensors(a=a, v=v))
    scaled = against_others(tensors(a=a * factor, v=v * factor))
    assert float(rho["a"]) == pytest.approx(float(scaled["a"]), rel=1e-9)


@pytest.mark.parametrize("a", [0.0, 1.0])
def test_a_score_of_zero_stays_finite(a):
    k = coefficients(against_others(tensors(a=a, v=0.0)), 0.8)
    assert float(k["a"]) == (0.0 if a else 1.0)
    assert float(k["v"]) == 1.0


def test_tie_damps_nobody_by_default_and_the_first_as_released():
    rho = against_others(tensors(a=0.8, v=0.8))
    assert [float(k) for k in coefficients(rho, 0.8).values()] == [1.0, 1.0]
    official = coefficients(rho, 0.8, tie="official")
    assert float(official["a"]) == pytest.approx(1 - math.tanh(0.8))
    assert float(official["v"]) == 1.0


def test_ratio_minus_one_is_continuous_at_one():
    k = coefficients(tensors(a=1 + 1e-5, v=1 - 1e-5), 0.8, ratio="rho_minus_1")
    assert float(k["a"]) == pytest.approx(1.0, abs=1e-4)


def test_duplicated_modality_gets_the_same_factor():
    k = coefficients(against_others(tensors(a=1.7, v=0.7, copy=1.7)), 0.8)
    assert k["a"] == k["copy"]
    assert float(k["a"]) < 1 == float(k["v"])


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_only_encoder_matrices_are_scaled(fusion, make_bench, make_batch, monkeypatch):
    bench, batch = make_bench("ogm", fusion=fusion), make_batch()
    plain = plain_gradients(bench.method, batch)
    log, found = recorded(bench, batch, monkeypatch)
    assert min(log["k/a"], log["k/v"]) < 1
    for name, gradient in found.items():
        matrix = name.startswith("encoders") and name.endswith("weight")
        factor = log[f"k/{name.split('.')[1]}"] if matrix else 1.0
        torch.testing.assert_close(gradient, factor * plain[name])


@pytest.mark.parametrize("name", ["ogm", "ogm-ge"])
@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_outside_its_window_it_is_the_baseline_bitwise(name, fusion, make_bench, make_batch):
    modulated = make_bench(name, starts=0.9, ends=1.0, fusion=fusion)
    baseline = make_bench(fusion)
    for seed in range(3):
        log = modulated.step(make_batch(seed=seed))
        baseline.step(make_batch(seed=seed))
        assert log["k/a"] == log["k/v"] == 1.0
    pairs = zip(modulated.method.parameters(), baseline.method.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize(
    ("options", "epochs", "inside"),
    [
        ({}, 100, range(51)),
        ({"window_unit": "epochs", "ends": 50}, 200, range(51)),
        ({"starts": 0.25, "ends": 0.5}, 8, range(2, 5)),
        ({"starts": 0.7, "ends": 0.7}, 90, range(63, 64)),  # 0.7 * 90 is below 63 in floating point
    ],
)
def test_window_includes_both_ends(options, epochs, inside):
    config = METHODS.load("ogm").Config(**options)
    assert [e for e in range(epochs) if config.acts(e, epochs)] == list(inside)


@pytest.mark.parametrize("options", [{"ends": 50}, {"starts": 0.6}, {"alpha": -1}])
def test_senseless_options_are_refused(options):
    with pytest.raises(ValueError, match=r"ends|alpha"):
        METHODS.load("ogm").Config(**options)


def test_scope_that_matches_nothing_is_an_error(make_bench):
    with pytest.raises(UserError, match=r"conv4d.*'a'.*ndim>=2"):
        make_bench("ogm", scope="conv4d")


def test_identical_modalities_are_left_alone(make_bench, make_batch):
    bench, batch = make_bench("ogm"), make_batch()
    z = bench.method.encode(batch.inputs)["a"].detach()
    bench.method.fusion_head.linear.weight.data.fill_(0.1)
    split = bench.method.fusion_head.split({"a": z, "v": z})
    scores = {m: true_class(o, batch.label) for m, o in split.items()}
    k = coefficients(against_others(scores), 0.8)
    assert [float(v) for v in k.values()] == [1.0, 1.0]
