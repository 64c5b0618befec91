"""The naive methods' defining equations."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmbench.methods.weight import softmax_weights
from torch.nn.functional import cross_entropy


def test_concat_splits_sum_to_the_fused_logits(make_bench, make_batch):
    method = make_bench("concat", ("a", "v", "t")).method
    out = method.predict(make_batch(("a", "v", "t")).inputs)
    torch.testing.assert_close(out["a"] + out["v"] + out["t"], out["fused"])


@given(st.integers(0, 2**31 - 1), st.sampled_from([2, 3]))
def test_weights_sum_to_one_and_match_the_naive_form(seed, count):
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(count, 4, 6, generator=draw, dtype=torch.float64)
    w = softmax_weights(z)
    torch.testing.assert_close(w.sum(0), torch.ones(4, 6, dtype=torch.float64))
    share = z.softmax(-1)
    torch.testing.assert_close(w, share / share.sum(0))


def test_weights_stay_finite_for_huge_features():
    z = torch.tensor([[[1e4, 0.0, -1e4]], [[0.0, 1e4, -1e4]]])
    assert torch.isfinite(softmax_weights(z)).all()


def test_weight_of_equal_features_changes_nothing(make_bench):
    method = make_bench("weight").method
    z = torch.rand(5, 8, dtype=torch.float64)
    fused, _ = method._fuse({"a": z, "v": z})
    torch.testing.assert_close(fused, z)


def test_sum_gradient_is_a_unimodal_heads(make_bench, make_batch):
    bench, batch = make_bench("sum"), make_batch()
    logits = bench.method.predict(batch.inputs)["fused"]
    upstream = torch.autograd.grad(cross_entropy(logits, batch.label), logits)[0]
    z = bench.method.encode(batch.inputs)["a"]
    out = bench.method.predict(batch.inputs)["fused"]
    cross_entropy(out, batch.label).backward()
    torch.testing.assert_close(bench.method.heads["a"].weight.grad, upstream.T @ z)


@pytest.mark.parametrize("modality", ["a", "v"])
def test_unimodal_builds_one_encoder(modality, make_bench):
    method = make_bench("unimodal", modality=modality).method
    assert list(method.encoders) == [modality]
    assert method.label(method.config) == f"unimodal-{modality}"
