"""What several methods compute alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmbench.methods.arithmetic import against_others, at_least_fp32


@given(values=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=5), scale=st.floats(1e-2, 1e2))
def test_ratios_ignore_the_scale_and_one_modality_leads_or_all_tie(values, scale):
    names = "abcde"[: len(values)]
    scores = {m: torch.tensor(v, dtype=torch.float64) for m, v in zip(names, values, strict=True)}
    rho = against_others(scores)
    scaled = against_others({m: v * scale for m, v in scores.items()})
    for m in names:
        assert float(scaled[m]) == pytest.approx(float(rho[m]), rel=1e-9)
    best = max(scores, key=lambda m: float(scores[m]))
    assert float(rho[best]) >= 1 - 1e-12
    if len(names) == 2:
        assert float(rho["a"] * rho["b"]) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_weights_have_single_precision_or_finer(kind, wanted):
    assert at_least_fp32(torch.ones(2, dtype=kind)).dtype == wanted
