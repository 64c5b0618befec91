"""What a study says over all its datasets: differences, tests and ranks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmbench.report import statistics
from mmbench.report.ceiling import ceiling
from mmbench.report.rows import Group, unmarked
from mmbench.report.scores import RULES
from mmbench.report.study import Study
from mmbench.report.table import Entry, Table
from mmbench.wording import counted

PAIRS = ("within datasets", "", "within datasets")
CHOSEN = (
    "{reference} is the best of {number} baselines on these same scores, by luck in part, so that "
    "every other row looks a little worse beside it: of rows below it nothing is concluded."
)
SEEDS = ("with all settings", " of seeds with all settings", "of the seeds' means over settings")

Scores = dict[str, list[dict[int, float]]]  # row -> per dataset, value by seed


@dataclass(frozen=True)
class Pooled:
    """The datasets of a study under one protocol and bundle.

    Attributes:
        study: name of the study.
        title: its title.
        bundle: protocol, fidelity and preset.
        datasets: their names, with what was changed around the methods.
        knob: the option that the study turns, if any, and its value on each dataset.
        scores: the primary metric of every row that has a score on every dataset.
        partial: rows that have not.
        baselines: rows among which the reference is chosen.
        other: rows trained for other epochs than the reference, which are left out.
        ceilings: what no classifier exceeds on each dataset; empty where it is not known.
    """

    study: str
    title: str
    bundle: tuple[str, str, str]
    datasets: tuple[str, ...]
    scores: Scores
    partial: tuple[str, ...]
    baselines: tuple[str, ...]
    knob: tuple[str, tuple[float, ...]] | None = None
    other: tuple[str, ...] = ()
    ceilings: tuple[float, ...] = ()

    @property
    def short(self) -> tuple[str, ...]:
        """What sets the datasets apart: their names, or the values of the knob."""
        if self.knob is None:
            return self.datasets
        return tuple(f"{self.knob[0]} = {value:g}" for value in self.knob[1])

    @property
    def place(self) -> str:
        """All datasets in words."""
        if self.knob is None:
            return ", ".join(self.datasets)
        names = dict.fromkeys(name.partition(" (")[0] for name in self.datasets)
        values = ", ".join(f"{value:g}" for value in self.knob[1])
        return f"{', '.join(names)} with {self.knob[0]} = {values}"

    @property
    def beyond(self) -> str:
        """What all rows share beyond the plain method and recipe, in words."""
        _, fidelity, preset = self.bundle
        words = ["released fidelity"] * (fidelity == "released")
        return ", ".join(words + ["authors' recipes"] * (preset == "authors"))

    def mean(self, row: str) -> float:
        """Return the mean over datasets of the mean over seeds."""
        return float(np.mean([np.mean(list(each.values())) for each in self.scores[row]]))

    @property
    def reference(self) -> str | None:
        """The baseline with the best mean, or None if none was run everywhere."""
        return max(self.baselines, key=self.mean, default=None)

    @property
    def chosen(self) -> bool:
        """Whether the reference is the best of several, chosen on the scores it is compared by."""
        return len(self.baselines) > 1

    def pairs(self, row: str) -> list[dict[int, float]]:
        """Return row minus reference by dataset and seed."""
        both = zip(self.scores[row], self.scores[str(self.reference)], strict=True)
        return [{s: a[s] - b[s] for s in sorted(a.keys() & b.keys())} for a, b in both]

    def differences(self, row: str) -> list[NDArray[np.float64]] | None:
        """Return what of row minus reference is independent; None without a common seed.

        That is every pair, by dataset; of the settings of a knob, every seed with all of them.
        """
        pairs = self.pairs(row)
        pairs = pairs if self.knob is None else [statistics.over_settings(pairs)]
        found = [np.array([*each.values()]) for each in pairs]
        return found if all(len(each) for each in found) else None

    @cached_property
    def comparisons(self) -> list[statistics.Comparison]:
        """Compare every row with the reference."""
        if self.reference is None:
            return []
        found = {row: self.differences(row) for row in self.scores if row != self.reference}
        return statistics.compare({k: v for k, v in found.items() if v is not None})

    @property
    def independent(self) -> int:
        """How many datasets there are; the settings of a knob are one."""
        return len(self.datasets) if self.knob is None else 1

    def ranks(self) -> NDArray[np.float64]:
        """Return the mean rank of each row of ``scores``."""
        means = [[np.mean(list(e.values())) for e in each] for each in self.scores.values()]
        return statistics.mean_ranks(np.array(means).T)


def pools(study: Study, groups: Iterable[Group]) -> list[Pooled]:
    """Gather the groups of a study by protocol, fidelity and preset."""
    by_bundle: dict[tuple[str, str, str], list[Group]] = {}
    stated = any(row.fidelity or row.preset for row in study.rows if not isinstance(row, str))
    for group in groups:
        own = (str(group.first("fidelity")), str(group.first("preset")))
        bundle = ("stated", "stated") if stated else own
        by_bundle.setdefault((group.protocol, *bundle), []).append(group)
    return [_pool(study, bundle, found) for bundle, found in by_bundle.items()]


def _pool(study: Study, bundle: tuple[str, str, str], groups: Sequence[Group]) -> Pooled:
    knob = _knob(study, groups)
    if knob is not None:
        name, turned = knob
        groups = [groups[i] for i in sorted(range(len(groups)), key=lambda i: turned[i])]
        knob = name, tuple(sorted(turned))
    found: Scores = {}
    methods: dict[str, str] = {}
    epochs: dict[str, list[tuple[float, ...]]] = {}
    for group in groups:
        for row in group.rows:
            name = unmarked(row.name)
            score = row.values("fused", str(group.task["primary"]))
            methods[name] = row.method
            if score:
                found.setdefault(name, []).append(score)
                epochs.setdefault(name, []).append(row.distinct("epochs"))
    whole = {row: each for row, each in found.items() if len(each) == len(groups)}
    best = [ceiling(group) for group in groups]
    pool = Pooled(
        study.name, study.title, bundle, tuple(group.place for group in groups), whole,
        tuple(name for name in methods if name not in whole),
        tuple(row for row in whole if methods[row] in study.baselines), knob,
        ceilings=() if None in best else tuple(map(float, filter(None, best))),
    )  # fmt: skip
    return _of_one_budget(pool, epochs)


def _of_one_budget(pool: Pooled, epochs: Mapping[str, Sequence[tuple[float, ...]]]) -> Pooled:
    """Return the pool without the rows that were trained for other epochs than the reference."""
    if pool.reference is None:
        return pool
    other = tuple(row for row in pool.scores if epochs[row] != epochs[pool.reference])
    return replace(
        pool,
        scores={row: score for row, score in pool.scores.items() if row not in other},
        baselines=tuple(row for row in pool.baselines if row not in other),
        other=other,
    )


def _knob(study: Study, groups: Sequence[Group]) -> tuple[str, tuple[float, ...]] | None:
    keys = [key.removeprefix("dataset.") for key in study.vary if key.startswith("dataset.")]
    values = [group.option(key) for key in keys for group in groups]
    numbers = tuple(float(v) for v in values if isinstance(v, int | float))
    return (keys[0], numbers) if keys and len(numbers) == len(groups) else None


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
