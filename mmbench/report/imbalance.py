"""How unevenly the modalities count in the trained models of a study."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from mmbench.report.frame import column
from mmbench.report.rows import Group, Shown
from mmbench.report.scores import caption, unrun
from mmbench.report.study import Study
from mmbench.report.summary import mean_std
from mmbench.report.table import Entry, Sources, Table, mean_entry
from mmbench.wording import counted

SETTING = ["dataset", "protocol", "place", "recipe"]  # what the two must share
NOTES = (
    "Share: average contribution of a modality to the accuracy of the fused prediction (Shapley "
    "value; an absent input is its training mean), in percentage points.",
    "Probe: accuracy of a logistic regression on the frozen encoder; in brackets its difference "
    "to the same probe of the model trained on that modality alone, of the same seeds.",
)


class Alone(NamedTuple):
    """What a model of one modality reached: its encoder's probe, and its own accuracy."""

    probe: float
    accuracy: float


Known = dict[tuple[str, ...], dict[int, Alone]]  # by setting and modality, then by seed


def imbalance_tables(
    study: Study, frame: pd.DataFrame, groups: Iterable[Group], reference: bool
) -> Iterator[Table]:
    """Yield a table per dataset, protocol, bundle and setting that has such records."""
    alone = _alone(frame)
    found = (_table(study, group, alone, reference) for group in groups)
    return (t for t in found if any(e.value is not None for _, row in t.rows for e in row))


def _table(study: Study, group: Group, known: Known, reference: bool) -> Table:
    setting = tuple(group.first(key) for key in SETTING)
    alone = {m: known.get((*setting, m), {}) for m in group.modalities}
    rows = []
    for row in group.rows:
        shares = [
            mean_entry(row.sources(m, "shapley", "end"), "{:+z.1f}") for m in group.modalities
        ]
        probes = [_probe(row.sources(m, "probe", "end"), alone[m]) for m in group.modalities]
        rows.append((row.name, (*shares, *probes)))
    return Table(
        name=f"{study.name}-imbalance-{group.slug}",
        heading=f"{study.title}, imbalance reached: {group.title}",
        columns=(
            "Method",
            *(f"{m} share" for m in group.modalities),
            *(f"{m} probe" for m in group.modalities),
        ),
        rows=tuple(rows),
        caption=caption(group, reference, "Test split, means"),
        bundle=group.bundle,
        dataset=group.dataset,
        protocol=group.protocol,
        notes=(*unrun(group), *NOTES, *_conclusion(group, alone)),
    )


def _conclusion(group: Group, alone: Mapping[str, Mapping[int, Alone]]) -> list[str]:
    """Say in one sentence under which rows the modalities count most and least unevenly.

    A model that is worse than the best of one modality makes too little of any for its shares to
    be worth a word.
    """
    single = [mean_std([a.accuracy for a in each.values()])[0] for each in alone.values() if each]
    gaps, below = {}, 0
    for row in group.rows:
        gap, reached = _gap(row, group.modalities), row.sources("fused", "accuracy")
        if gap is None or not reached:
            continue
        if mean_std(reached.values)[0] < max(single, default=0.0):
            below += 1
        else:
            gaps[row.name] = 100 * gap
    if len(gaps) < 2:
        return []
    most, least = max(gaps, key=lambda n: gaps[n]), min(gaps, key=lambda n: gaps[n])
    left = f" Left out: {counted(below, 'row')} below the best model of one modality."
    return [
        f"What may be concluded: on these seeds the shares lie furthest apart under {most} "
        f"({gaps[most]:.0f} % of their sum) and closest under {least} ({gaps[least]:.0f} %); no "
        f"test was made of it.{left if below else ''}"
    ]


def _gap(row: Shown, modalities: Sequence[str]) -> float | None:
    """Return how far a row's shares lie apart, as a part of their sum; None if that says nothing.

    In points a model that has learned little would look balanced.
    """
    found = [row.sources(m, "shapley", "end").values for m in modalities]
    if len(found) < 2 or not all(map(len, found)):
        return None
    shares = [mean_std(values)[0] for values in found]
    whole = math.fsum(shares)
    return (max(shares) - min(shares)) / whole if whole > 0 else None


def _alone(frame: pd.DataFrame) -> Known:
    """Return what the models of one modality reached."""
    found: Known = {}
    for modality, own in frame.groupby("single"):
        keys = [column(str(modality), "probe", "end"), column("fused", "accuracy")]
        if set(keys) <= {*own}:
            for *setting, seed, probe, accuracy in (
                own[[*SETTING, "seed", *keys]].dropna(subset=keys).itertuples(index=False)
            ):
                by_seed = found.setdefault((*setting, str(modality)), {})
                by_seed[int(seed)] = Alone(float(probe), float(accuracy))
    return found


def _probe(sources: Sources, alone: Mapping[int, Alone]) -> Entry:
    entry = mean_entry(sources, "{:.1f}")
    gaps = [value - alone[seed].probe for seed, value in sources.by_seed.items() if seed in alone]
    if not gaps:
        return entry
    return replace(entry, text=f"{entry.text} ({100 * mean_std(gaps)[0]:+z.1f})")
