"""Who is above whom: wins, ties and losses of every row of a study against every other."""

from collections.abc import Iterable

import numpy as np

from mmbench.report.overall import pool_caption, pool_heading, pool_name
from mmbench.report.pooling import Pooled
from mmbench.report.statistics import wins_ties_losses
from mmbench.report.table import Entry, Table

MOST = 40  # rows; a larger matrix cannot be read


def win_tables(found: Iterable[Pooled]) -> list[Table]:
    """Return the matrix of each pool with two rows or more."""
    return [_matrix(pool) for pool in found if 1 < len(pool.scores) <= MOST]


def _matrix(pool: Pooled) -> Table:
    names = list(pool.scores)
    counts = {(a, b): _count(pool, a, b) for a in names for b in names if a != b}
    rows = [
        (
            f"{number}. {a}",
            tuple(Entry("/".join(map(str, counts[a, b])) if a != b else "") for b in names),
        )
        for number, a in enumerate(names, 1)
    ]
    return Table(
        name=pool_name(pool, "wins"),
        heading=pool_heading(pool, "wins/ties/losses over"),
        columns=("Method", *(f"{number}." for number in range(1, len(names) + 1))),
        rows=tuple(rows),
        caption=f"How often the row is above, level with and below the column (by its number) in "
        f"the primary metric; a pair is one seed on one dataset. {pool_caption(pool)}.",
        notes=(_conclusion(names, counts),),
        bundle=pool.beyond,
        protocol=pool.bundle[0],
    )


def _count(pool: Pooled, one: str, two: str) -> tuple[int, int, int]:
    pairs = zip(pool.scores[one], pool.scores[two], strict=True)
    return wins_ties_losses(
        [np.array([a[s] - b[s] for s in a.keys() & b.keys()]) for a, b in pairs]
    )


def _conclusion(names: list[str], counts: dict[tuple[str, str], tuple[int, int, int]]) -> str:
    """Say who is above all others more often than not; the size of a difference counts nothing."""
    ahead = [a for a in names if all(counts[a, b][0] > counts[a, b][2] for b in names if b != a)]
    words = (
        f"{ahead[0]} is above every other row more often than below it"
        if ahead
        else "no row is above every other more often than below it"
    )
    return f"What may be concluded: {words}; how far, and how surely, the other tables say."
