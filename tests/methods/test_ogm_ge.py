"""OGM-GE: the noise that OGM-GE adds, and its reproducibility."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmbench.methods.ogm_ge import enhance


def enhanced(gradient, k, draw):
    out = gradient.clone()
    enhance(out, k, draw)
    return out


def draws(gradient, k, count):
    draw = torch.Generator().manual_seed(0)
    return torch.stack([enhanced(gradient, k, draw) for _ in range(count)])


@pytest.mark.parametrize("k", [1.0, 0.3])
def test_noise_has_the_gradients_own_scale_and_no_mean(k):
    gradient = torch.randn(20, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = draws(gradient, torch.tensor(k, dtype=torch.float64), 2000) - k * gradient
    assert float(noise.std() / gradient.std()) == pytest.approx(1, abs=0.02)
    assert abs(float(noise.mean())) < 5 * float(gradient.std()) / noise.numel() ** 0.5


@given(
    size=st.integers(2, 40),
    k=st.floats(0, 1),
    scale=st.sampled_from([1.0, 0.25, 8.0]),
    seed=st.integers(0, 9),
)
def test_the_update_is_as_large_as_the_gradient_is(size, k, scale, seed):
    draw = torch.Generator().manual_seed(seed)
    gradient = torch.randn(size, generator=draw, dtype=torch.float64)

    def update(g):
        factor = torch.tensor(k, dtype=torch.float64)
        return enhanced(g, factor, torch.Generator().manual_seed(seed))

    # all of it scales with the gradient, but for the floor; a shift moves it by k times the shift
    assert torch.allclose(update(scale * gradient), scale * update(gradient), atol=1e-6)
    assert torch.allclose(update(gradient + 1), update(gradient) + k, atol=1e-9)


def test_a_single_element_gets_no_noise():
    gradient = torch.tensor([[2.0]])
    assert torch.equal(enhanced(gradient, torch.tensor(0.5), torch.Generator()), gradient / 2)


def test_zero_gradient_gets_only_the_floor():
    assert float(draws(torch.zeros(50, 50), torch.tensor(1.0), 4).abs().max()) < 1e-7


def test_both_encoders_get_noise_and_heads_none(make_bench, make_batch):
    noisy, plain, batch = make_bench("ogm-ge"), make_bench("ogm"), make_batch()
    logs = [bench.step(batch) for bench in (noisy, plain)]
    assert logs[0]["k/a"] == logs[1]["k/a"]
    others = dict(plain.method.named_parameters())
    for name, p in noisy.method.named_parameters():
        matrix = name.startswith("encoders") and name.endswith("weight")
        assert torch.equal(p, others[name]) is not matrix, name


def test_noise_differs_between_steps_and_not_between_runs(make_bench):
    def noise(bench):
        return torch.randn(4, generator=bench.trainer.generator("ge-noise"))

    first, second = make_bench("ogm-ge"), make_bench("ogm-ge")
    assert torch.equal(noise(first), noise(second))
    second.trainer.step += 1
    assert not torch.equal(noise(first), noise(second))
