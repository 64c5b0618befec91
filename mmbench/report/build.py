"""From records to the tables of a study."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mmbench.errors import UserError
from mmbench.record import Record
from mmbench.report import render
from mmbench.report.frame import to_frame
from mmbench.report.study import Study, load_study
from mmbench.report.summary import mean_std, paired_difference, ranks
from mmbench.report.table import Entry, Table
from mmbench.store import iter_records, write_atomic

TITLES = {"accuracy": "Accuracy", "map": "MAP", "macro_f1": "Macro-F1"}
RULES = {
    "validated": "epoch selected on validation, test read once at the end",
    "published": "EPOCH SELECTED ON TEST, as in most released code",
}


@dataclass(frozen=True)
class Built:
    """What a report wrote: tables by study, and files."""

    tables: dict[str, list[Table]]
    files: list[Path]


def report(results: Path, studies: Sequence[str], source: str) -> Built:
    """Build and write the tables of ``studies`` to ``<results>/tables``.

    Args:
        results: the results folder.
        studies: names of studies.
        source: ``runs``, ``records`` (reference records), or ``auto``: runs if there are any.

    Raises:
        UserError: if there is no record, or the tables cannot be written.
    """
    folder = results / ("records" if source == "records" else "runs")
    records = list(iter_records(folder))
    if not records and source == "auto":
        folder = results / "records"
        records = list(iter_records(folder))
    if not records:
        raise UserError(f"no records in {results}; make some with: mmbench run --help")
    built = Built({}, [])
    for name in studies:
        tables = build_study(load_study(name), records, reference=folder.name == "records")
        built.tables[name] = tables
        if tables:
            built.files.extend(_write(name, tables, results / "tables"))
    return built


def _write(name: str, tables: Sequence[Table], folder: Path) -> list[Path]:
    texts = {
        "md": render.markdown(tables),
        "tex": render.latex(tables),
        "csv": render.csv_text(tables),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            write_atomic(folder / f"{name}.{suffix}", text.encode())
    except OSError as err:
        raise UserError(f"cannot write the tables to {folder}: {err.strerror}") from err
    return [folder / f"{name}.{suffix}" for suffix in texts]


def build_study(study: Study, records: Sequence[Record], reference: bool) -> list[Table]:
    """Return one table per data set, protocol, bundle and setting; nothing is mixed."""
    frame = to_frame(r for r in records if r.cell.method in study.rows)
    tasks = {r.cell.dataset: r.task for r in records if r.task}
    keys = ["dataset", "protocol", "fidelity", "preset", "settings"]
    tables = []
    for key, part in frame.groupby(keys, sort=True):
        dataset = str(key[0])
        if dataset in tasks:
            tables.append(_table(study, part, tasks[dataset], reference))
    return tables


def _labels(study: Study, part: pd.DataFrame, modalities: Sequence[str]) -> list[str]:
    """Return the rows in the study's order; a method without any record gets one."""
    labels: list[str] = []
    for method in study.rows:
        found = part.loc[part["method"] == method, "label"].unique().tolist()
        order = {f"{method}-{m}": i for i, m in enumerate(modalities)}
        labels.extend(sorted(found, key=lambda x: (order.get(x, len(order)), x)) or [method])
    return labels


def _values(part: pd.DataFrame, label: str, prediction: str, metric: str) -> dict[int, float]:
    chosen = part[
        (part["label"] == label)
        & (part["at"] == "selected")
        & (part["prediction"] == prediction)
        & (part["metric"] == metric)
    ]
    return dict(zip(chosen["seed"].astype(int), chosen["value"].astype(float), strict=True))


def _table(study: Study, part: pd.DataFrame, task: dict[str, object], reference: bool) -> Table:
    metrics, modalities = list(task["metrics"]), list(task["modalities"])  # type: ignore[call-overload]  # lists of text
    primary = str(task["primary"])
    labels = _labels(study, part, modalities)
    columns = [("fused", m) for m in metrics]
    grid = {lab: [_values(part, lab, *column) for column in columns] for lab in labels}
    entries = {lab: [_entry(part, lab, values) for values in grid[lab]] for lab in labels}
    for i in range(len(columns)):
        placed = ranks([entries[lab][i].value for lab in labels])
        for lab, rank in zip(labels, placed, strict=True):
            entries[lab][i] = _styled(entries[lab][i], rank)
    main = metrics.index(primary)
    baselines = part.loc[part["method"].isin(study.baselines), "label"].unique().tolist()
    scored = [lab for lab in labels if entries[lab][main].value is not None]
    rivals = [lab for lab in scored if lab in baselines]
    best = max(rivals, key=lambda lab: entries[lab][main].value or 0.0, default=None)
    rows = []
    for lab in labels:
        difference = _difference(grid[lab][main], grid[best][main], lab == best) if best else None
        own = [_entry(part, lab, _values(part, lab, m, primary), empty="") for m in modalities]
        rows.append((lab, (*entries[lab], difference or Entry(""), *own)))
    dataset = str(part["dataset"].iloc[0])
    return Table(
        name=f"{study.name}-{dataset}",
        heading=f"{study.title}: {dataset}",
        columns=(
            "Method",
            *(TITLES.get(m, m) for m in metrics),
            f"Δ {TITLES.get(primary, primary)}",
            *(f"{m} alone" for m in modalities),
        ),
        rows=tuple(rows),
        caption=_caption(part, reference),
        notes=_notes(part, labels, grid, main, best, TITLES.get(primary, primary)),
    )


def _entry(part: pd.DataFrame, label: str, values: dict[int, float], empty: str = "") -> Entry:
    if values:
        mean, std = mean_std(list(values.values()))
        text = f"{100 * mean:.2f}" + (f" ± {100 * std:.2f}" if std is not None else "")
        return Entry(text, value=mean, spread=std, seeds=len(values))
    status = part.loc[part["label"] == label, "status"].tolist()
    if "done" in status:
        return Entry(empty)
    return Entry(status[0] if status else "missing", "absent")


def _styled(entry: Entry, rank: int | None) -> Entry:
    style = {0: "best", 1: "second"}.get(-1 if rank is None else rank, entry.style)
    return Entry(entry.text, style, entry.value, entry.spread, entry.seeds)  # type: ignore[arg-type]  # a Style


def _difference(values: dict[int, float], to: dict[int, float], itself: bool) -> Entry:
    mean, half, shared = paired_difference(values, to)
    if itself or not shared:
        return Entry("baseline" if itself else "")
    text = f"{100 * mean:+.2f}" + (f" ± {100 * half:.2f}" if half is not None else "")
    return Entry(text, value=mean, spread=half, seeds=shared)


def _caption(part: pd.DataFrame, reference: bool) -> str:
    first = part.iloc[0]
    dates = sorted(part["date"].unique())
    commits = sorted(
        f"{str(c)[:10]}{'' if clean is True else ' with uncommitted changes'}"
        for c, clean in {(r.commit, r.clean) for r in part.itertuples()}
    )
    seeds = part["seed"].nunique()
    bundle = "" if first["fidelity"] == "corrected" else ", released fidelity"
    bundle += "" if first["preset"] == "common" else ", authors' recipes"
    return (
        f"Test metrics in percent, mean ± sample standard deviation over {seeds} "
        f"seed{'s' if seeds > 1 else ''}. Protocol {first['protocol']}: "
        f"{RULES[str(first['protocol'])]}{bundle}. Δ: paired difference to the best baseline, "
        f"± half of the 95 % t-interval. Device: {', '.join(sorted(part['device'].unique()))}. "
        f"Records of {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}, "
        f"commit {', '.join(commits)}{'; reference records' if reference else ''}."
    )


def _notes(
    part: pd.DataFrame,
    labels: Sequence[str],
    grid: dict[str, list[dict[int, float]]],
    main: int,
    best: str | None,
    title: str,
) -> tuple[str, ...]:
    notes = [f"“... alone”: {title} of the trained model's prediction from that modality only."]
    for lab in labels:
        mine = part[part["label"] == lab]
        reasons = mine.loc[mine["status"] != "done", ["status", "reason"]].drop_duplicates()
        notes += [f"{lab}: {row.status}: {row.reason}." for row in reasons.itertuples()]
        notes += [f"{remark}." for remark in mine["remark"].dropna().unique()]
    rivals = [lab for lab in labels if grid[lab][main] and lab != best]
    if best and rivals:
        top = max(rivals, key=lambda lab: mean_std(list(grid[lab][main].values()))[0])
        notes.append(_conclusion(top, best, grid[top][main], grid[best][main], title))
    return tuple(notes)


def _conclusion(
    top: str, best: str, one: dict[int, float], two: dict[int, float], title: str
) -> str:
    mean, half, shared = paired_difference(one, two)
    if half is None:
        return f"{top} against {best}: {shared} shared seed, so nothing can be concluded."
    words = f"{top} against {best}, the best baseline: {title} {100 * mean:+.2f} ± {100 * half:.2f}"
    if abs(mean) <= half:
        return f"{words} over {shared} seeds; the interval holds 0: no difference is shown."
    return (
        f"{words} over {shared} seeds; the interval does not hold 0 (one data set, no correction)."
    )
