"""How sure a comparison is: resampling, tests, corrections and ranks, as pure functions.

A comparison is a list of strata, one per dataset, each an array of paired differences: method
minus reference, one value per seed that both have. The estimate is the mean over strata of the
mean over seeds, so that a dataset with more seeds does not count for more. What is flipped and
resampled must be independent: settings of one dataset are made one stratum first
(``over_settings``).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Differences = Sequence[NDArray[np.float64]]
Stacked = Sequence[NDArray[np.float64]]  # per dataset, [rivals, seeds]
EXACT_UP_TO = 16  # pairs: 2^16 sign patterns take milliseconds; above it they are drawn
AT_ONCE = 256  # draws that are made floats; of 32, so that drawing them apart draws the same
DRAWS = 10_000  # of resamples, and of sign patterns
TIE = 1e-9  # differences that are smaller come of rounding
FEW_DATASETS = 10  # more are needed: N > 10, says Demsar (JMLR 2006, section 3.2.2) of Friedman's


def stratified_mean(differences: Differences) -> float:
    """Return the mean over datasets of the mean over seeds."""
    return float(np.mean([each.mean() for each in differences]))


def over_settings(differences: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return each seed's mean over settings of one dataset, of the seeds that all settings have.

    Settings of a generator share data, order and initial weights for a seed, so that their
    differences move together. Flipping or resampling these means does so with a seed's settings
    jointly; taken one by one they would pass for many times as many pairs.

    Args:
        differences: per setting, by seed.
    """
    shared = set.intersection(*map(set, differences))
    return {seed: float(np.mean([each[seed] for each in differences])) for seed in sorted(shared)}


def bootstrap_interval(
    differences: Differences,
    generator: np.random.Generator,
    *,
    resamples: int = DRAWS,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of ``stratified_mean``, seeds resampled within datasets.

    Args:
        differences: per dataset, [seeds].
        generator: the source of randomness.
        resamples: how many.
        level: coverage aimed at. With three seeds the true coverage is lower (a percentile
            interval of n values is too narrow by about sqrt((n - 1) / n)).

    Raises:
        ValueError: if there is no dataset, or one without seeds.
    """
    if not differences or any(len(each) == 0 for each in differences):
        raise ValueError("a bootstrap needs at least one difference in every dataset")
    counts = _counts([len(each) for each in differences], generator, resamples)
    return _intervals([each[None] for each in differences], counts, level)[0]


def _counts(
    sizes: Sequence[int], generator: np.random.Generator, resamples: int
) -> NDArray[np.integer[Any]]:
    """Draw how often each resample takes each seed, [resamples, pairs], dataset by dataset."""
    counts = np.empty((resamples, sum(sizes)), np.min_scalar_type(max(sizes)))
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        picks = generator.integers(size, size=(resamples, size))
        picks += size * np.arange(resamples)[:, None]
        times = np.bincount(picks.ravel(), minlength=resamples * size)
        counts[:, end - size : end] = times.reshape(resamples, size)
    return counts


def _intervals(
    stacked: Stacked, counts: NDArray[np.integer[Any]], level: float
) -> list[tuple[float, float]]:
    """Return the interval of each rival; all of them see the same resamples."""
    weights = _weights(stacked)
    parts = range(0, len(counts), AT_ONCE)  # as floats all would fill the memory
    means = np.concatenate([counts[at : at + AT_ONCE].astype(float) @ weights.T for at in parts])
    tail = (1 - level) / 2
    return [(float(a), float(b)) for a, b in np.quantile(means, [tail, 1 - tail], axis=0).T]


def _weights(stacked: Stacked) -> NDArray[np.float64]:
    """Return what each pair adds to the stratified mean, [rivals, pairs]."""
    return np.concatenate([each / (each.shape[1] * len(stacked)) for each in stacked], axis=1)


def sign_flip_test(
    differences: Differences, generator: np.random.Generator, *, draws: int = DRAWS
) -> float:
    """Return the two-sided p-value of a paired permutation test of ``stratified_mean`` = 0.

    Under the null hypothesis each difference is as likely with the other sign. All patterns of
    signs are tried up to ``EXACT_UP_TO`` pairs (so n pairs cannot give less than 2 / 2^n); above,
    ``draws`` of them, with one added to both counts (Phipson and Smyth 2010).
    """
    signs = _signs(sum(map(len, differences)), generator, draws)
    return _p_values([each[None] for each in differences], signs)[0]


def _signs(pairs: int, generator: np.random.Generator, draws: int) -> Iterator[NDArray[np.float64]]:
    """Yield all patterns of signs, or ``draws`` of them if they are many: [some, pairs] each."""
    every = pairs <= EXACT_UP_TO
    number = 2**pairs if every else draws
    for at in range(0, number, AT_ONCE):
        some = min(AT_ONCE, number - at)
        signs = np.empty((some, pairs))
        if every:
            signs[:] = np.arange(at, at + some)[:, None] >> np.arange(pairs) & 1
        else:
            drawn = np.frombuffer(generator.bytes(-(-some * pairs // 8)), np.uint8)
            signs[:] = np.unpackbits(drawn, count=some * pairs).reshape(some, pairs)
        yield 2 * signs - 1


def _p_values(stacked: Stacked, signs: Iterable[NDArray[np.float64]]) -> list[float]:
    """Return the p-value of each rival; all of them see the same signs."""
    weights = _weights(stacked)
    # Rounding must not hide the observed pattern, nor part a sum of 0 from another.
    observed = np.abs(weights.sum(axis=1)) - 1e-12 * np.abs(weights).sum(axis=1)
    hits, number = np.zeros(len(weights), int), 0
    for some in signs:
        hits += (np.abs(some @ weights.T) >= observed).sum(axis=0)
        number += len(some)
    drawn = weights.shape[1] > EXACT_UP_TO
    return [(int(n) + drawn) / (number + drawn) for n in hits]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, (len(p_values) - rank) * p_values[i])
        adjusted[i] = min(1.0, running)
    return adjusted


def effect_size(differences: Differences) -> float | None:
    """Return d_z: the stratified mean over the pooled standard deviation within datasets.

    With one dataset this is Cohen's d for paired samples. None where no spread can be had.
    """
    degrees = sum(len(each) - 1 for each in differences)
    if degrees == 0:
        return None
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in differences)
    spread = math.sqrt(squares / degrees)
    return stratified_mean(differences) / spread if spread > 0 else None


def wins_ties_losses(differences: Differences) -> tuple[int, int, int]:
    """Count the pairs of runs in which the method is above, level with and below the reference."""
    pooled = np.concatenate(list(differences))
    wins, losses = int((pooled > TIE).sum()), int((pooled < -TIE).sum())
    return wins, len(pooled) - wins - losses, losses


def mean_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean rank of each method, 1 the best; ties share their mean rank.

    Args:
        scores: [datasets, methods], larger is better, none missing.
    """
    own, other = scores[:, :, None], scores[:, None, :]
    ranked = (other > own).sum(2) + ((other == own).sum(2) + 1) / 2
    means: NDArray[np.float64] = ranked.mean(axis=0)
    return means


def critical_difference(methods: int, datasets: int) -> float:
    """Return Nemenyi's critical difference of mean ranks at 5 % (Demsar, JMLR 2006, section 3.2.2).

    Raises:
        ValueError: with fewer than two methods or no dataset.
    """
    if methods < 2 or datasets < 1:
        raise ValueError(f"ranks need two methods and a dataset; found {methods} and {datasets}")
    from scipy.stats import studentized_range  # here: tables do without, and it takes a second

    q = studentized_range.ppf(0.95, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * datasets)))


def cliques(ranks: Sequence[float], width: float) -> list[tuple[int, ...]]:
    """Return the largest groups of methods whose mean ranks lie within ``width`` of one another.

    Returns:
        Groups of at least two positions in ``ranks``, from the best ranked on.
    """
    order = sorted(range(len(ranks)), key=lambda i: ranks[i])
    groups: list[tuple[int, ...]] = []
    for start, first in enumerate(order):
        group = tuple(i for i in order[start:] if ranks[i] - ranks[first] <= width)
        if len(group) > 1 and not any(set(group) <= set(known) for known in groups):
            groups.append(group)
    return groups


@dataclass(frozen=True)
class Comparison:
    """One method against the reference.

    Attributes:
        name: the method's row.
        mean: stratified mean of the differences.
        low: lower end of the 95 % bootstrap interval.
        high: upper end.
        p: of the sign-flip test.
        adjusted: after Holm's correction over all comparisons of the table.
        effect: d_z, or None.
        pairs: number of independent differences.
    """

    name: str
    mean: float
    low: float
    high: float
    p: float
    adjusted: float
    effect: float | None
    pairs: int


@lru_cache(maxsize=1)  # the draws are most of the time, and one study draws as the next does
def _drawn(sizes: tuple[int, ...], seed: int) -> NDArray[np.integer[Any]]:
    """Return the counts that all rivals with these pairs see."""
    return _counts(sizes, np.random.default_rng([seed, 2]), DRAWS)


def compare(rivals: dict[str, Differences], seed: int = 0) -> list[Comparison]:
    """Compare every rival with the reference its differences were taken to.

    Args:
        rivals: per name, the differences.
        seed: of the generator; the same for every rival, so that no row depends on the others.
    """
    alike: dict[tuple[int, ...], list[str]] = {}
    for name, each in rivals.items():
        alike.setdefault(tuple(map(len, each)), []).append(name)
    raw: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for sizes, names in alike.items():
        stacked = [np.stack(part) for part in zip(*(rivals[n] for n in names), strict=True)]
        p_values = _p_values(stacked, _signs(sum(sizes), np.random.default_rng([seed, 1]), DRAWS))
        found = _intervals(stacked, _drawn(sizes, seed), 0.95)
        raw |= dict(zip(names, p_values, strict=True))
        intervals |= dict(zip(names, found, strict=True))
    adjusted = dict(zip(rivals, holm([raw[name] for name in rivals]), strict=True))
    return [
        Comparison(
            name=name, mean=stratified_mean(each), low=intervals[name][0], high=intervals[name][1],
            p=raw[name], adjusted=adjusted[name], effect=effect_size(each),
            pairs=sum(map(len, each)),
        )
        for name, each in rivals.items()
    ]  # fmt: skip
