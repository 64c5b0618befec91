"""Carving a split: stratified by class, and whole groups when samples share a speaker or source."""

import math
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import UserError

TOLERANCE = 0.01  # of a share
MOST_PARTS = 20  # that groups are divided into


def carve(
    label: NDArray[np.int64],
    groups: Sequence[str] | None,
    share: float,
    seed: int,
    classes: Sequence[str] = (),
) -> NDArray[np.bool_]:
    """Choose about ``share`` of the samples, every class in its proportion.

    Args:
        label: [N].
        groups: N keys; a group is taken whole or not at all. None: samples are independent.
        share: of the samples, between 0 and 0.5. With groups it is met as nearly as their number
            and sizes let it be; at least one is taken.
        seed: of the draw.
        classes: their names, for the message.

    Returns:
        [N], True where the sample is taken.

    Raises:
        UserError: if a class or the groups are too few to be shared out.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit  # slow

    taken = np.zeros(len(label), dtype=bool)
    nothing = np.zeros(len(label))
    try:
        if groups is None:
            kinds = len(set(label.tolist()))  # one of each at least
            size = share if math.ceil(share * len(label)) >= kinds else kinds
            draw = StratifiedShuffleSplit(n_splits=1, test_size=size, random_state=seed)
            taken[next(draw.split(nothing, label))[1]] = True
        else:
            most = int(np.bincount(label).max())  # more parts than that cannot be stratified
            parts, folds = _folds(share, min(len(set(groups)), most))
            fold = StratifiedGroupKFold(n_splits=parts, shuffle=True, random_state=seed)
            for _, part in islice(fold.split(nothing, label, groups), folds):
                taken[part] = True
    except ValueError as err:
        raise UserError(
            f"cannot take {share:.0%} of {len(label)} samples out of train, stratified: "
            f"{_too_few(label, groups, classes) or err}; give more samples, or a column 'split'"
        ) from err
    return taken


def _folds(share: float, most: int) -> tuple[int, int]:
    """Return into how many parts to divide, at most ``most``, and how many of them come nearest.

    One part of 1 / share, unless several of another number come nearer by a hundredth.
    """
    one = min(round(1 / share), most)
    if abs(1 / one - share) < TOLERANCE:
        return one, 1
    pairs = [(n, max(1, round(share * n))) for n in range(2, min(most, MOST_PARTS) + 1)]
    return min(pairs or [(one, 1)], key=lambda pair: abs(pair[1] / pair[0] - share))


def _too_few(label: NDArray[np.int64], groups: Sequence[str] | None, classes: Sequence[str]) -> str:
    """Return which class, or the groups, are too few; empty if neither is."""
    if groups is not None and len(set(groups)) < 2:
        return f"they are of {len(set(groups))} group"
    rare = {int(c): int(n) for c, n in zip(*np.unique(label, return_counts=True), strict=True)}
    rarest = min(rare, key=lambda c: rare[c], default=None)
    if rarest is None or rare[rarest] > 1:
        return ""
    return f"only 1 is of class {classes[rarest] if classes else rarest!r}"
