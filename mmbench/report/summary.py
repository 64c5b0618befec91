"""Mean, sample standard deviation, paired differences: small pure functions."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation (n - 1); None for a single value."""
    array = np.asarray(values, dtype=float)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def ranks(values: Sequence[float | None]) -> list[int | None]:
    """Return 0 for the largest value, 1 for the second largest distinct one, and so on."""
    distinct = sorted({v for v in values if v is not None}, reverse=True)
    return [None if v is None else distinct.index(v) for v in values]


def paired_difference(
    one: Mapping[int, float], two: Mapping[int, float]
) -> tuple[float, float | None, int]:
    """Return mean and half width of the 95 % t-interval of one - two over their shared seeds.

    Returns:
        (mean, half width or None with fewer than two shared seeds, number of shared seeds);
        the mean is NaN without any.
    """
    shared = sorted(set(one) & set(two))
    if not shared:
        return math.nan, None, 0
    differences = np.array([one[s] - two[s] for s in shared])
    mean, std = mean_std(differences.tolist())
    if std is None:
        return mean, None, 1
    half = stats.t.ppf(0.975, len(shared) - 1) * std / math.sqrt(len(shared))
    return mean, float(half), len(shared)
