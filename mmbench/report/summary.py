"""Mean, sample standard deviation, paired differences: small pure functions."""

import math
from collections.abc import Mapping, Sequence
from functools import cache

from scipy import special


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation (n - 1); None for a single value."""
    mean = math.fsum(values) / len(values)  # tables take this of a handful, tens of thousands of
    if len(values) < 2:  # times: an array would cost more than the sum
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


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
    mean, std = mean_std([one[s] - two[s] for s in shared])
    if std is None:
        return mean, None, 1
    return mean, _t_quantile(len(shared) - 1) * std / math.sqrt(len(shared)), len(shared)


@cache
def _t_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t."""
    return float(special.stdtrit(degrees, 0.975))
