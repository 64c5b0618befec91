"""How unevenly the modalities count in the trained models of a study."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pandas as pd

from mmbench.report.frame import column
from mmbench.report.rows import Group
from mmbench.report.scores import caption
from mmbench.report.study import Study
from mmbench.report.summary import mean_std
from mmbench.report.table import Entry, Sources, Table, mean_entry

SETTING = ["dataset", "protocol", "place", "recipe"]  # what the two must share
Alone = dict[tuple[str, ...], dict[int, float]]
NOTES = (
    "Share: average contribution of a modality to the accuracy of the fused prediction (Shapley "
    "value; an absent input is its training mean), in percentage points.",
    "Probe: accuracy of a logistic regression on the frozen encoder; in brackets its difference "
    "to the model trained on that modality alone, of the same seeds.",
)


def imbalance_tables(
    study: Study, frame: pd.DataFrame, groups: Iterable[Group], reference: bool
) -> Iterator[Table]:
    """Yield a table per dataset, protocol, bundle and setting that has such records."""
    alone = _alone(frame)
    found = (_table(study, group, alone, reference) for group in groups)
    return (t for t in found if any(e.value is not None for _, row in t.rows for e in row))


def _table(study: Study, group: Group, known: Alone, reference: bool) -> Table:
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
        notes=(*NOTES, *_conclusion(rows, len(group.modalities))),
    )


def _conclusion(rows: Sequence[tuple[str, tuple[Entry, ...]]], modalities: int) -> list[str]:
    """Say in one sentence under which rows the modalities count most and least unevenly."""
    gaps = {}
    for name, entries in rows:
        shares = [e.value for e in entries[:modalities] if e.value is not None]
        if len(shares) == modalities > 1:
            gaps[name] = 100 * (max(shares) - min(shares))
    if len(gaps) < 2:
        return []
    most, least = max(gaps, key=lambda n: gaps[n]), min(gaps, key=lambda n: gaps[n])
    return [
        f"What may be concluded: on these seeds the shares lie furthest apart under {most} "
        f"({gaps[most]:.1f} points) and closest under {least} ({gaps[least]:.1f}); no test was "
        "made of it."
    ]


def _alone(frame: pd.DataFrame) -> Alone:
    """Return the accuracy by seed of models of one modality, by setting and modality."""
    key = column("fused", "accuracy")
    found: Alone = {}
    if key in frame:
        single = frame[[*SETTING, "single", "seed", key]].dropna(subset=["single", key])
        for *setting, seed, value in single.itertuples(index=False):
            found.setdefault(tuple(setting), {})[int(seed)] = float(value)
    return found


def _probe(sources: Sources, alone: dict[int, float]) -> Entry:
    entry = mean_entry(sources, "{:.1f}")
    gaps = [value - alone[seed] for seed, value in sources.by_seed.items() if seed in alone]
    if not gaps:
        return entry
    return replace(entry, text=f"{entry.text} ({100 * mean_std(gaps)[0]:+z.1f})")
