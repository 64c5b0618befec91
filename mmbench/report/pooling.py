"""Which tables of a study are taken together, and what is compared over their datasets."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmbench.cell import canonical
from mmbench.report import statistics
from mmbench.report.ceiling import ceiling
from mmbench.report.rows import Group, unmarked
from mmbench.report.study import Study

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
        apart: what was trained with other settings, which is left out.
        lacking: of methods that have a score on some datasets only: the rows without one, by where.
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
    apart: tuple[str, ...] = ()
    lacking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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


def _pool(study: Study, bundle: tuple[str, str, str], found: Sequence[Group]) -> Pooled:
    kept = _once(found)
    groups = [found[i] for i in kept]
    apart = tuple(group.place for i, group in enumerate(found) if i not in kept)
    knob = _knob(study, groups)
    if knob is not None:
        name, turned = knob
        groups = [groups[i] for i in sorted(range(len(groups)), key=lambda i: turned[i])]
        knob = name, tuple(sorted(turned))
    scores: dict[str, dict[int, dict[int, float]]] = {}  # row -> place -> value by seed
    methods: dict[str, str] = {}
    epochs: dict[str, list[tuple[float, ...]]] = {}
    for number, group in enumerate(groups):
        for row in group.rows:
            name = unmarked(row.name)
            score = row.values("fused", str(group.task["primary"]))
            methods[name] = row.method
            if score:
                scores.setdefault(name, {})[number] = score
                epochs.setdefault(name, []).append(row.distinct("epochs"))
    whole = {row: [*each.values()] for row, each in scores.items() if len(each) == len(groups)}
    best = [ceiling(group) for group in groups]
    pool = Pooled(
        study.name, study.title, bundle, tuple(group.place for group in groups), whole,
        tuple(name for name in methods if name not in whole),
        tuple(row for row in whole if methods[row] in study.baselines), knob,
        ceilings=() if None in best else tuple(map(float, filter(None, best))), apart=apart,
        lacking=_lacking(groups, scores, methods),
    )  # fmt: skip
    return _of_one_budget(pool, epochs)


def _lacking(
    groups: Sequence[Group],
    scores: Mapping[str, Mapping[int, object]],
    methods: Mapping[str, str],
) -> dict[str, tuple[str, ...]]:
    """Return the rows that have a score in some groups, by those in which they have none.

    A method with rows of another name in each (one a modality) lacks nothing.
    """
    everywhere = set(range(len(groups)))
    found: dict[str, list[str]] = {}
    for row, each in scores.items():
        method = {i for name in scores if methods[name] == methods[row] for i in scores[name]}
        if method != everywhere:
            without = ", ".join(groups[i].place for i in sorted(everywhere - each.keys()))
            found.setdefault(without, []).append(row)
    return {where: tuple(rows) for where, rows in found.items()}


def _once(groups: Sequence[Group]) -> list[int]:
    """Return which groups are of one training, with no data twice: the usual one's, if any."""
    changed: list[dict[str, object]] = [json.loads(str(g.first("beside"))) for g in groups]
    trainings = [
        canonical({key: value for key, value in each.items() if key.startswith("trainer.")})
        for each in changed
    ]
    usual = min(trainings, key=lambda each: (len(json.loads(each)), -trainings.count(each)))
    first: dict[tuple[str, str], int] = {}
    for i in sorted(range(len(groups)), key=lambda i: (len(changed[i]), -len(groups[i].where))):
        if trainings[i] == usual:
            first.setdefault((groups[i].dataset, str(groups[i].first("data"))), i)
    return sorted(first.values())


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


def remarks(pool: Pooled) -> Iterator[str]:
    """Yield what a pool leaves out that was run, and why it gives no statistics."""
    study = f"{pool.study}, {pool.beyond}" if pool.beyond else pool.study
    if pool.apart:
        others = ", ".join(pool.apart)
        yield f"{study}: not pooled with {pool.place}: {others}, trained with other settings"
    if pool.reference is None:
        yield f"{study}: no statistics over {pool.place}: no baseline has a score on each"
    elif len(pool.scores) < 2:
        least = f"no row but {pool.reference} has a score, for the same epochs, on each"
        yield f"{study}: no statistics over {pool.place}: {least}"
    for where, rows in pool.lacking.items():
        yield f"{study}: not pooled, without a score on {where}: {', '.join(rows)}"
    if pool.other:
        others = ", ".join(pool.other)
        yield f"{study}: not pooled, trained for other epochs than {pool.reference}: {others}"
