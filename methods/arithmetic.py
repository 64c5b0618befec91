"""Arithmetic that several methods share: guarded ratios, and weights with enough digits.

Not a method itself.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

EPS = 1e-12  # below this a denominator counts as zero (methods.md section 0.8)
K = TypeVar("K")


def against_others(score: Mapping[K, Tensor]) -> dict[K, Tensor]:
    """Return rho_m = score_m / mean of the other scores, guarded against a zero denominator.

    Equal scores give exactly 1. For two modalities it is the papers' ratio; for more it is our
    extension.

    Args:
        score: non-negative scalar per modality, at least two.
    """
    rho = {}
    for m, own in score.items():
        others = torch.stack([s for k, s in score.items() if k != m]).mean()
        rho[m] = own / others.clamp_min(EPS)
    return rho


def at_least_fp32(t: Tensor) -> Tensor:
    """Return ``t`` in single precision, or as it is when it is finer: weights need the digits."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def true_class(logits: Tensor, label: Tensor) -> Tensor:
    """Return the summed probability of the true class, a scalar, from [B, C] and y [B]."""
    return at_least_fp32(logits).softmax(1).gather(1, label[:, None]).sum()
