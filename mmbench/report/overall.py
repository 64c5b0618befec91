"""What a study says over all its datasets: differences, tests and ranks."""

from collections.abc import Iterable, Sequence

import numpy as np

from mmbench.report import statistics
from mmbench.report.pooling import Pooled
from mmbench.report.scores import RULES
from mmbench.report.table import Entry, Table
from mmbench.wording import counted

PAIRS = ("within datasets", "", "within datasets")
CHOSEN = (
    "{reference} is the best of {number} baselines on these same scores, by luck in part, so that "
    "every other row looks a little worse beside it: of rows below it nothing is concluded."
)
SEEDS = ("with all settings", " of seeds with all settings", "of the seeds' means over settings")


def overall_tables(found: Iterable[Pooled]) -> list[Table]:
    """Return one table per pool in which something can be compared."""
    return [_table(pool) for pool in found if len(pool.scores) > 1 and pool.reference]


def _table(pool: Pooled) -> Table:
    compared = {c.name: c for c in pool.comparisons}
    ranks = dict(zip(pool.scores, pool.ranks(), strict=True))
    rows = []
    for row in pool.scores:
        cells = [_percent(pool.mean(row)), Entry(f"{ranks[row]:.2f}", value=float(ranks[row]))]
        wins = [_wins(pool, row) if row in compared else Entry("")]
        itself = row == pool.reference
        rows.append((row, (*cells, *_compared(compared.get(row), itself), *wins)))
    units = PAIRS if pool.knob is None else SEEDS
    columns = ("Method", "mean", "mean rank", "Δ", "95 % interval", "p", "p (Holm)", "effect d_z",
               "wins/ties/losses")  # fmt: skip
    return Table(
        name=pool_name(pool, "statistics"),
        heading=pool_heading(pool, "over"),
        columns=columns,
        rows=tuple(rows),
        caption=(
            "Primary metric in percent, mean over datasets of the mean over seeds. "
            f"{pool_caption(pool)}. Δ: paired difference to {pool.reference}, the "
            f"baseline with the best mean; interval: percentile bootstrap of seeds {units[0]}; "
            f"p: paired sign-flip permutation test{units[1]}, two-sided, then Holm's correction "
            f"over the rows; d_z: Δ over the standard deviation of the differences {units[2]}."
        ),
        notes=_notes(pool, list(compared.values())),
        bundle=pool.beyond,
        protocol=pool.bundle[0],
    )


def pool_heading(pool: Pooled, what: str) -> str:
    """Return the study, what is told of it, and over what."""
    place = f"{pool.title}: {what} {pool.place}"
    return f"{place}, {pool.beyond}" if pool.beyond else place


def pool_name(pool: Pooled, kind: str) -> str:
    """Return the name of a pool's table: the kind, and what sets the pool apart."""
    plain = ("validated", "corrected", "common", "stated")
    return "-".join([pool.study, kind, *(word for word in pool.bundle if word not in plain)])


def pool_caption(pool: Pooled) -> str:
    """Return the protocol of a pool and how it selects, and the bundle, in words."""
    protocol = pool.bundle[0]
    return ", ".join(filter(None, [f"Protocol {protocol}: {RULES[protocol]}", pool.beyond]))


def _percent(value: float, sign: str = "") -> Entry:
    return Entry(f"{100 * value:{sign}z.2f}", value=value)


def _compared(found: statistics.Comparison | None, itself: bool) -> list[Entry]:
    if found is None:
        return [Entry("reference" if itself else "no common seed", "absent"), *[Entry("")] * 4]
    effect = "" if found.effect is None else f"{found.effect:.2f}"
    return [
        _percent(found.mean, "+"),
        Entry(f"{100 * found.low:+z.2f} to {100 * found.high:+z.2f}"),
        _p(found.p),
        _p(found.adjusted),
        Entry(effect, value=found.effect),
    ]


def _wins(pool: Pooled, row: str) -> Entry:
    each = [np.array([*pairs.values()]) for pairs in pool.pairs(row)]
    return Entry("/".join(map(str, statistics.wins_ties_losses(each))))


def _p(value: float) -> Entry:
    return Entry(f"{value:.3f}" if value >= 0.0005 else "<0.001", value=value)


def _notes(pool: Pooled, compared: Sequence[statistics.Comparison]) -> tuple[str, ...]:
    notes = []
    if pool.apart:
        notes.append(f"Left out, trained with other settings: {', '.join(pool.apart)}.")
    if pool.partial:
        notes.append(f"Left out, without a score on every dataset: {', '.join(pool.partial)}.")
    if pool.other:
        notes.append(
            f"Left out, trained for other epochs than {pool.reference}: {', '.join(pool.other)}."
        )
    if pool.independent <= statistics.FEW_DATASETS:
        notes.append(
            f"Mean ranks over {counted(pool.independent, 'dataset')} mean little: more than "
            f"{statistics.FEW_DATASETS} are needed for the critical difference to be trusted."
        )
    if pool.knob is not None:
        notes.append(
            f"All are one dataset with another {pool.knob[0]}, and a seed has the same labels, "
            "order and initial weights in all of them, so it counts as one pair. What holds over "
            "them need not hold for other datasets."
        )
    if pool.knob is not None and pool.ceilings:
        best = ", ".join(f"{100 * value:.1f}" for value in pool.ceilings)
        notes.append(
            f"No classifier of all modalities exceeds {best} (Bayes accuracy at these settings): "
            "the nearer a row is to it, the less is left to gain."
        )
    if pool.chosen:
        notes.append(CHOSEN.format(reference=pool.reference, number=len(pool.baselines)))
    return (*notes, conclusion(compared, str(pool.reference), pool.chosen))


def conclusion(
    compared: Sequence[statistics.Comparison], reference: str, chosen: bool = False
) -> str:
    """Say in one sentence what the comparisons show at the 5 % level.

    Args:
        compared: the rows.
        reference: what they are compared with.
        chosen: whether it was chosen as the best on the same scores, which moves all rows down:
            then none is said to be below it.
    """
    if not compared:
        return "No method shares a seed with the reference, so nothing can be concluded."
    above = [c.name for c in compared if c.adjusted < 0.05 and c.mean > 0]
    below = [c.name for c in compared if c.adjusted < 0.05 and c.mean < 0 and not chosen]
    if above or below:
        words = [f"{', '.join(n)} {w} {reference}" for n, w in ((above, "above"), (below, "below"))
                 if n]  # fmt: skip
        return (
            f"What may be concluded, at 5 % after correction: {'; '.join(words)}; for the other "
            "methods no difference is shown, which is not evidence of equality."
        )
    least = min(len(compared) * 2.0 ** (1 - c.pairs) for c in compared)
    floor = f"; with so few pairs and {len(compared)} comparisons none could reach it" * (
        least >= 0.05
    )
    none = f"no row is above {reference}" if chosen else f"no difference to {reference}"
    return f"What may be concluded: {none} at 5 % after correction{floor}."
