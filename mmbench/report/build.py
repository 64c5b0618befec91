"""From records to the tables of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mmbench.errors import UserError
from mmbench.record import Record
from mmbench.report import render
from mmbench.report.frame import to_frame
from mmbench.report.rows import Shown, found, is_row, shown_rows, unaffected
from mmbench.report.study import Row, Study, load_study, study_names
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
        studies: names of studies; none: those that the records are about, and whatever else was
            run.
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
    frame = to_frame(records)
    tasks = {r.cell.dataset: r.task for r in records if r.task}
    built = Built({}, [])
    for study in _wanted(studies, frame):
        tables = build_tables(study, frame, tasks, reference=folder.name == "records")
        built.tables[study.name] = tables
        if tables:
            built.files.extend(_write(study.name, tables, results / "tables"))
    return built


def _wanted(names: Sequence[str], frame: pd.DataFrame) -> list[Study]:
    """Return the studies asked for; if none is, those that the records are about.

    A study of options is shown once one of its options was run, and a study of what was found only
    if the others leave something out.
    """
    if names:
        return [load_study(name) for name in names]
    shown, seen = [], pd.Series(data=False, index=frame.index)
    every = [load_study(name) for name in study_names()]
    for study in every:
        if study.rows == "found":
            continue
        special = [row for row in study.rows if row.special]
        asked = special or study.rows
        if any(is_row(frame, row).any() for row in asked):
            shown.append(study)
            for row in study.rows:
                seen |= is_row(frame, row)
    return shown + [study for study in every if study.rows == "found" and not seen.all()]


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
    tasks = {r.cell.dataset: r.task for r in records if r.task}
    return build_tables(study, to_frame(records), tasks, reference)


def build_tables(
    study: Study, frame: pd.DataFrame, tasks: Mapping[str, dict[str, object]], reference: bool
) -> list[Table]:
    """Return the tables of ``build_study`` from a frame of records."""
    if study.rows == "found":
        study = study.model_copy(update={"rows": found(frame)})
    rows: tuple[Row, ...] = study.rows  # type: ignore[assignment]  # "found" was replaced
    frame = frame[pd.concat([is_row(frame, row) for row in rows], axis=1).any(axis=1)]
    stated = any(row.fidelity or row.preset for row in rows)
    keys = ["dataset", "protocol", "place"]
    keys += [] if stated else ["fidelity", "preset", "recipe"]
    tables = []
    for key, part in frame.groupby(keys, sort=True):
        dataset = str(key[0])
        if dataset in tasks:
            whole = part if stated else pd.concat([part, unaffected(frame, part)])
            tables.append(_table(study, shown_rows(rows, whole, tasks[dataset]), whole,
                                 tasks[dataset], reference))  # fmt: skip
    return tables


def _values(records: pd.DataFrame, prediction: str, metric: str) -> dict[int, float]:
    chosen = records[
        (records["at"] == "selected")
        & (records["prediction"] == prediction)
        & (records["metric"] == metric)
    ]
    return dict(zip(chosen["seed"].astype(int), chosen["value"].astype(float), strict=True))


def _table(
    study: Study,
    rows: Sequence[Shown],
    part: pd.DataFrame,
    task: Mapping[str, object],
    reference: bool,
) -> Table:
    metrics, modalities = list(task["metrics"]), list(task["modalities"])  # type: ignore[call-overload]  # lists of text
    main = metrics.index(str(task["primary"]))
    title = TITLES.get(metrics[main], metrics[main])
    grid = [[_values(row.records, "fused", m) for m in metrics] for row in rows]
    entries = [
        [_entry(row, values) for values in columns] for row, columns in zip(rows, grid, strict=True)
    ]
    for i in range(len(metrics)):
        placed = ranks([line[i].value for line in entries])
        for line, rank in zip(entries, placed, strict=True):
            line[i] = _styled(line[i], rank)
    best = _best_baseline(study, rows, [line[main].value for line in entries])
    filled = []
    for number, row in enumerate(rows):
        difference = Entry("")
        if best is not None:
            difference = _difference(grid[number][main], grid[best][main], number == best)
        own = [_entry(row, _values(row.records, m, metrics[main]), empty="") for m in modalities]
        filled.append((row.name, (*entries[number], difference, *own)))
    dataset = str(part["dataset"].iloc[0])
    return Table(
        name=f"{study.name}-{dataset}",
        heading=f"{study.title}: {dataset}",
        columns=(
            "Method",
            *(TITLES.get(m, m) for m in metrics),
            f"Δ {title}",
            *(f"{m} alone" for m in modalities),
        ),
        rows=tuple(filled),
        caption=_caption(study, part, reference),
        notes=_notes(rows, [columns[main] for columns in grid], best, title),
        breaks=_breaks(study, rows),
    )


def _best_baseline(
    study: Study, rows: Sequence[Shown], values: Sequence[float | None]
) -> int | None:
    rivals = [
        i for i, row in enumerate(rows) if row.method in study.baselines and values[i] is not None
    ]
    return max(rivals, key=lambda i: values[i] or 0.0, default=None)


def _breaks(study: Study, rows: Sequence[Shown]) -> tuple[int, ...]:
    """Return where the leading block of baselines ends."""
    first = next((i for i, row in enumerate(rows) if row.method not in study.baselines), 0)
    return (first,) if first > 0 else ()


def _entry(row: Shown, values: dict[int, float], empty: str = "") -> Entry:
    if values:
        mean, std = mean_std(list(values.values()))
        text = f"{100 * mean:.2f}" + (f" ± {100 * std:.2f}" if std is not None else "")
        return Entry(text, value=mean, spread=std, seeds=len(values))
    status = row.records["status"].tolist()
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


def _caption(study: Study, part: pd.DataFrame, reference: bool) -> str:
    first = part.iloc[0]
    dates = sorted(part["date"].unique())
    commits = sorted(
        f"{str(c)[:10]}{'' if clean is True else ' with uncommitted changes'}"
        for c, clean in {(r.commit, r.clean) for r in part.itertuples()}
    )
    seeds = part["seed"].nunique()
    bundle = ""
    if not any(row.fidelity or row.preset for row in study.rows if isinstance(row, Row)):
        bundle += "" if first["fidelity"] == "corrected" else ", released fidelity"
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
    rows: Sequence[Shown], scores: Sequence[dict[int, float]], best: int | None, title: str
) -> tuple[str, ...]:
    notes = [f"“... alone”: {title} of the trained model's prediction from that modality only."]
    for row in rows:
        absent = row.records[row.records["status"] != "done"]
        reasons = absent[["status", "reason"]].drop_duplicates()
        notes += [f"{row.name}: {r.status}: {r.reason}." for r in reasons.itertuples()]
    remarks = pd.concat([row.records["remark"] for row in rows]).dropna().unique()
    notes += [f"† {remark}." for remark in remarks]
    rivals = [i for i in range(len(rows)) if scores[i] and i != best]
    if best is not None and rivals:
        top = max(rivals, key=lambda i: mean_std(list(scores[i].values()))[0])
        names = rows[top].name, rows[best].name
        notes.append(_conclusion(*names, scores[top], scores[best], title))
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
