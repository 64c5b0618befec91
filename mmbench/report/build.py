"""From records to the tables of a study."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mmbench.errors import UserError
from mmbench.record import Record
from mmbench.report import render
from mmbench.report.current import current
from mmbench.report.frame import tasks_of, to_frame
from mmbench.report.index import load_frame
from mmbench.report.overall import Pool, overall_tables, pools
from mmbench.report.published import load_published, published_tables
from mmbench.report.reached import reached_tables
from mmbench.report.rows import groups, is_row, varied
from mmbench.report.scores import score_table
from mmbench.report.study import Study, load_study, study_names
from mmbench.report.table import Table
from mmbench.store import write_atomic


@dataclass(frozen=True)
class Built:
    """What a report wrote: tables by study, files, what it left out, and what it could not read."""

    tables: dict[str, list[Table]]
    files: list[Path]
    left_out: list[str]
    unreadable: list[str]
    kinds: dict[str, dict[str, list[Table]]] = field(default_factory=dict)


def report(
    results: Path, studies: Sequence[str], source: str, *, figures: bool = True, html: bool = False
) -> Built:
    """Write the tables and figures of ``studies`` to ``<results>/tables`` and ``figures``.

    Args:
        results: the results folder.
        studies: names of studies; none: those that the records are about, and whatever else was
            run.
        source: ``runs``, ``records`` (reference records), or ``auto``: runs if there are any.
        figures: whether to draw them as well.
        html: whether to write ``<results>/report.html`` as well.

    Raises:
        UserError: if there is no record, or the tables cannot be written.
    """
    folder = results / ("records" if source == "records" else "runs")
    unreadable: list[str] = []
    frame = load_frame(folder, unreadable)
    if frame.empty and source == "auto":
        folder = results / "records"
        frame = load_frame(folder, unreadable)
    if frame.empty:
        none = f"no records in {results}; make some with: mmbench run --help"
        raise UserError("\n".join([*unreadable, none]))
    frame, left_out = current(frame)
    tasks = tasks_of(frame)
    numbers = load_published(results / "published")
    built = Built({}, [], left_out, unreadable)
    for study in _wanted(studies, frame):
        reference = folder.name == "records"
        formed = list(groups(study, frame, tasks))
        tables = [score_table(study, group, reference) for group in formed]
        built.tables[study.name] = tables
        pooled = pools(study, formed)
        more = {
            "imbalance": reached_tables(study, frame, formed, reference),
            "statistics": overall_tables(pooled),
            "published": published_tables(study, formed, numbers),
        }
        built.kinds[study.name] = {k: v for k, v in {"": tables, **more}.items() if v}
        for suffix, part in built.kinds[study.name].items():
            if part:
                name = "-".join([study.name, suffix]).rstrip("-")
                built.files.extend(_write(name, part, results / "tables"))
        if figures:
            built.files.extend(_draw(pooled, results / "figures"))
    if html:
        from mmbench.report.page import write_page

        files = {
            str(r): folder / str(f) for r, f in zip(frame["record"], frame["file"], strict=True)
        }
        built.files.append(write_page(results / "report.html", built.kinds, built.files, files))
    return built


def _draw(pooled: Sequence[Pool], folder: Path) -> list[Path]:
    from mmbench.report.figures import write_figures  # matplotlib takes a second to import

    return write_figures(pooled, folder)


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
        own = varied(study, frame)
        if any(is_row(own, row).any() for row in asked):
            shown.append(study)
            for row in study.rows:
                seen[own.index] |= is_row(own, row)
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
    frame = to_frame(records)
    return [score_table(study, group, reference) for group in groups(study, frame, tasks_of(frame))]
