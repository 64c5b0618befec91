"""How unevenly the modalities count in the trained models of a study."""

from collections.abc import Mapping

import pandas as pd

from mmbench.report.rows import Group, Shown, groups, scores_of
from mmbench.report.scores import caption
from mmbench.report.study import Study
from mmbench.report.summary import mean_std
from mmbench.report.table import Entry, Table

NOTES = (
    "Share: average contribution of a modality to the accuracy of the fused prediction (Shapley "
    "value; an absent input is its training mean), in percentage points.",
    "Probe: accuracy of a logistic regression on the frozen encoder; in brackets its difference "
    "to the model trained on that modality alone, of the same seeds.",
)


def reached_tables(
    study: Study, frame: pd.DataFrame, tasks: Mapping[str, dict[str, object]], reference: bool
) -> list[Table]:
    """Return a table per data set, protocol, bundle and setting that has such records."""
    found = [_table(study, group, frame, reference) for group in groups(study, frame, tasks)]
    return [t for t in found if any(e.value is not None for _, row in t.rows for e in row)]


def _table(study: Study, group: Group, frame: pd.DataFrame, reference: bool) -> Table:
    alone = {m: _alone(frame, group, m) for m in group.modalities}
    rows = []
    for row in group.rows:
        shares = [_entry(_end(row, m, "shapley"), "{:+.1f}") for m in group.modalities]
        probes = [_probe(_end(row, m, "probe"), alone[m]) for m in group.modalities]
        rows.append((row.name, (*shares, *probes)))
    return Table(
        name=f"{study.name}-imbalance-{group.dataset}",
        heading=f"{study.title}, imbalance reached: {group.title}",
        columns=(
            "Method",
            *(f"{m} share" for m in group.modalities),
            *(f"{m} probe" for m in group.modalities),
        ),
        rows=tuple(rows),
        caption=caption(group, reference, "Test split, means"),
        bundle=group.bundle,
        notes=NOTES,
    )


def _end(row: Shown, modality: str, metric: str) -> dict[int, float]:
    return row.values(modality, metric, at="end")


def _alone(frame: pd.DataFrame, group: Group, modality: str) -> dict[int, float]:
    """Return the accuracy by seed of a model that has this modality only, of the same setting."""
    first = group.records.iloc[0]
    mine = frame[
        (frame["dataset"] == first["dataset"]) & (frame["protocol"] == first["protocol"])
        & (frame["place"] == first["place"]) & (frame["recipe"] == first["recipe"])
        & (frame["single"] == modality)
    ]  # fmt: skip
    return scores_of(mine).get(("selected", "fused", "accuracy"), {})


def _entry(scores: dict[int, float], form: str) -> Entry:
    if not scores:
        return Entry("")
    mean, std = mean_std(list(scores.values()))
    return Entry(form.format(100 * mean), value=mean, spread=std, seeds=len(scores))


def _probe(scores: dict[int, float], alone: dict[int, float]) -> Entry:
    entry = _entry(scores, "{:.1f}")
    shared = sorted(set(scores) & set(alone))
    if not shared:
        return entry
    gap = 100 * mean_std([scores[s] - alone[s] for s in shared])[0]
    return Entry(f"{entry.text} ({gap:+.1f})", value=entry.value, spread=entry.spread,
                 seeds=entry.seeds)  # fmt: skip
