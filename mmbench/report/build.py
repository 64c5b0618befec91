"""From records to the tables of a study."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from mmbench.errors import UserError
from mmbench.folders import hindrance
from mmbench.hints import BEGIN, typed
from mmbench.report import leftovers, own_study, render
from mmbench.report.cost import cost_tables, taken_for
from mmbench.report.current import current
from mmbench.report.frame import absent_as_zero, tasks_of
from mmbench.report.imbalance import imbalance_tables
from mmbench.report.index import load_frame
from mmbench.report.overall import overall_tables
from mmbench.report.pooling import Pooled, pools, remarks
from mmbench.report.published import Number, load_published, published_tables
from mmbench.report.published_cost import published_costs
from mmbench.report.rows import Group, concerns, groups, members
from mmbench.report.scores import score_table
from mmbench.report.study import Study, as_typed, load_study, study_names
from mmbench.report.table import Table
from mmbench.report.titles import stem
from mmbench.report.wins import win_tables
from mmbench.store import write_atomic

SOURCES = ("auto", "runs", "records")


@dataclass(frozen=True)
class Built:
    """What a report did.

    Attributes:
        folder: the records that it read.
        left_out: which of them it does not show, in words.
        unreadable: what is wrong with each file that is no record.
        tables: number of tables by study.
        files: what it wrote.
        changed: studies whose tables were others before.
        removed: files of earlier reports that the records do not make.
        remarks: what was not pooled, and why, in words.
    """

    folder: Path
    left_out: list[str]
    unreadable: list[str]
    tables: dict[str, int] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    removed: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def report(
    results: Path,
    studies: Sequence[str],
    source: str,
    *,
    figures: bool = True,
    html: bool = False,
    document: Path | None = None,
    absent_class: str = "left-out",
    show: Callable[[str, Table], None] | None = None,
) -> Built:
    """Write the tables and figures of ``studies`` to ``<results>/tables`` and ``figures``.

    What an earlier report wrote there of them and this one does not make is removed.

    Args:
        results: the results folder.
        studies: names of studies; none: those that the records are about, and whatever else was
            run.
        source: ``runs``, ``records`` (reference records), or ``auto``: runs if there are any.
        figures: whether to draw them as well.
        html: whether to write ``<results>/report.html`` as well.
        document: a Markdown page to write with all tables and figures.
        absent_class: ``left-out`` or ``zero``: what MAP does with a class without a test sample.
        show: gets the name of each study with its main tables, in turn; none are kept, so that
            memory does not grow with their number.

    Raises:
        UserError: if there is no record, or none of a study asked for, a study of the user's own
            has a mistake, or the tables cannot be written.
    """
    asked = [load_study(name) for name in studies]
    loaded = load_results(results, source, _command(asked[0]) if asked else BEGIN)
    for study in asked:
        own_study.check(study, {*loaded.frame["method"]}, results / "tables")
    if absent_class == "zero":
        loaded = replace(loaded, frame=absent_as_zero(loaded.frame))
    built = Built(loaded.folder, loaded.left_out, loaded.unreadable)
    kept: dict[str, dict[str, list[Table]]] = {}  # the pages alone need them all at once
    # The sums are small: threads would wait for one another longer than the sums take.
    with threadpool_limits(1, user_api="blas"):
        for study in _with_records(asked, loaded) or _concerned(loaded):
            for kind, table in _study(study, loaded, results, figures, built):
                if show is not None and kind == "":
                    show(study.name, table)
                if html or document:
                    kept.setdefault(study.name, {}).setdefault(kind, []).append(table)
    if document:
        from mmbench.report.document import write_document

        built.files.append(write_document(document, kept, built.files, loaded.folder))
    if html:
        from mmbench.report.page import write_page

        built.files.append(write_page(results / "report.html", kept, built.files, loaded.files))
    scope = {study.name for study in asked} or set(study_names())
    made = built.tables.keys()
    built.removed.extend(
        leftovers.remove(
            results, built.files, tables=scope, changed=bool(built.changed),
            figures=scope if figures else built.changed | (scope - made),
        )
    )  # fmt: skip
    return built


def _study(
    study: Study, loaded: "Loaded", results: Path, figures: bool, built: Built
) -> Iterator[tuple[str, Table]]:
    """Write one study and yield its tables with their kind, as they are rendered."""
    formed = list(groups(study, loaded.frame, loaded.tasks))
    pooled = pools(study, formed)
    if not study.cost:
        built.remarks.extend(line for pool in pooled for line in remarks(pool))
    for kind, tables in kinds_of(study, formed, pooled, loaded):
        parts: dict[str, list[str]] = {suffix: [] for suffix in render.FORMS}
        for table in tables:
            for suffix, form in render.FORMS.items():
                parts[suffix].append(form.part(table))
            built.tables[study.name] = built.tables.get(study.name, 0) + 1
            yield kind, table
        if parts["md"]:
            _write(study.name, kind, parts, results / "tables", built)
    if figures:
        built.files.extend(_draw(study, formed, pooled, loaded, results / "figures"))


@dataclass(frozen=True)
class Loaded:
    """The records of a results folder.

    Attributes:
        frame: one row each.
        folder: where they are.
        published: the published numbers beside them.
        left_out: what is not shown, in words.
        unreadable: what is wrong with each file that is no record.
    """

    frame: pd.DataFrame
    folder: Path
    published: list[Number]
    left_out: list[str]
    unreadable: list[str]

    @property
    def reference(self) -> bool:
        """Whether these are the committed records."""
        return self.folder.name == "records"

    @cached_property
    def tasks(self) -> dict[str, dict[str, Any]]:  # Any: JSON values
        """Modalities and metrics of every dataset."""
        return tasks_of(self.frame)

    @cached_property
    def files(self) -> dict[str, Path]:
        """The file of every record, by the record's name."""
        places = zip(self.frame["record"], self.frame["file"], strict=True)
        return {str(record): self.folder / str(file) for record, file in places}


def load_results(results: Path, source: str, command: str = BEGIN) -> Loaded:
    """Read the records of a results folder.

    Args:
        results: the results folder.
        source: ``runs``, ``records`` (reference records), or ``auto``: runs if there are any.
        command: what to suggest if there is no record.

    Raises:
        UserError: for another source, or if there is no record.
    """
    if source not in SOURCES:
        raise UserError(f"--source is one of {', '.join(SOURCES)}; found {source!r}")
    folder = results / ("records" if source == "records" else "runs")
    unreadable: list[str] = []
    frame = load_frame(folder, unreadable)
    if frame.empty and source == "auto":
        folder = results / "records"
        frame = load_frame(folder, unreadable)
    if frame.empty:
        looked = f"{results / 'runs'} or {folder}" if source == "auto" else folder
        none = f"no record in {looked}; make some first, e.g. {typed(command, results)}"
        raise UserError("\n".join([*unreadable, none]))
    frame, left_out = current(frame)
    return Loaded(frame, folder, load_published(results / "published"), left_out, unreadable)


def kinds_of(
    study: Study, formed: Sequence[Group], pooled: Sequence[Pooled], loaded: Loaded
) -> Iterator[tuple[str, Iterator[Table]]]:
    """Yield the tables of a study by kind, which is also what is added to the name of the file.

    Each is made when it is asked for, and there may be none of a kind.
    """
    if study.cost:
        made: dict[str, Callable[[], Iterable[Table]]] = {
            "": lambda: cost_tables(study, formed, loaded.reference)
        }
    else:
        made = {
            "": lambda: (score_table(study, group, loaded.reference) for group in formed),
            "imbalance": lambda: imbalance_tables(study, loaded.frame, formed, loaded.reference),
            "statistics": lambda: overall_tables(pooled),
            "wins": lambda: win_tables(pooled),
        }
    cited = published_costs if study.cost else published_tables
    datasets = {group.dataset for group in formed}
    numbers = [n for n in loaded.published if loaded.reference or n.dataset in datasets]
    # Of a study that was not run they are all there is.
    made["published" if formed else ""] = lambda: cited(study, formed, numbers)
    for kind, make in made.items():
        yield kind, _distinct(make())


def _distinct(tables: Iterable[Table]) -> Iterator[Table]:
    """Yield the tables with a number behind a name that an earlier one has.

    Recipes and encoders make no part of a name unless they were asked for, and seldom is there more
    than one of either.
    """
    times: dict[str, int] = {}
    for table in tables:
        times[table.name] = times.get(table.name, 0) + 1
        again = f"-{times[table.name]}" if times[table.name] > 1 else ""
        yield replace(table, name=table.name + again)


def tables_of(name: str, kind: str, loaded: Loaded) -> list[Table]:
    """Return the tables of one study and kind."""
    study = load_study(name)
    formed = list(groups(study, loaded.frame, loaded.tasks))
    made = kinds_of(study, formed, pools(study, formed), loaded)
    return [table for each, tables in made if each == kind for table in tables]


def _draw(
    study: Study, formed: Sequence[Group], pooled: Sequence[Pooled], loaded: Loaded, folder: Path
) -> list[Path]:
    # Here, because matplotlib takes a second to import.
    from mmbench.report.figures import write_cost, write_figures, write_strength

    if study.cost:
        return write_cost(study, formed, folder)
    plain = [group for group in formed if not group.bundle]
    drawn = write_figures(pooled, folder)
    return drawn + write_strength(study, plain, loaded.files, folder)


def _with_records(studies: Sequence[Study], loaded: Loaded) -> Sequence[Study]:
    """Return ``studies``.

    Raises:
        UserError: if there is no record of one.
    """
    for study in studies:
        if next(groups(study, loaded.frame, loaded.tasks), None) is None:
            results = loaded.folder.parent
            raise UserError(
                f"no record of the study {study.name} among the {len(loaded.frame)} in "
                f"{loaded.folder}; run it: {typed(_command(study), results)}"
                f"{'' if loaded.reference else _committed(results, study)}"
            )
    return studies


def _command(study: Study) -> str:
    """Return how to run a study; of one that shows whatever was found, something."""
    return BEGIN if study.rows == "found" else f"mmbench run --study {as_typed(study.name)}"


def _committed(results: Path, study: Study) -> str:
    """Return how to see the committed records of a study, if there are any."""
    try:
        held = load_results(results, "records")
    except UserError:
        return ""
    if next(groups(study, held.frame, held.tasks), None) is None:
        return ""
    return f", or show those of {held.folder}: --source records"


def _concerned(loaded: Loaded) -> list[Study]:
    """Return the studies that the records are about.

    A study of options is shown once one of its options was run, a study of cost once runs were
    taken as it wants them, and a study of what was found only if the others leave something out.
    With the committed records stand all published numbers.
    """
    frame = loaded.frame
    published = {number.study for number in loaded.published if loaded.reference}
    shown, seen = [], np.zeros(len(frame), bool)
    every = sorted(map(load_study, study_names()), key=lambda study: (study.order, study.name))
    for study in every:
        if study.rows == "found":
            continue
        about = concerns(study, frame)
        masks = [mask & about for mask in members(study.rows, frame)]
        special = [mask for row, mask in zip(study.rows, masks, strict=True) if row.special]
        run = any(mask.any() for mask in special or masks)
        if run and study.cost:
            run = taken_for(study, list(groups(study, frame, loaded.tasks)))
        if study.name in published or run:
            shown.append(study)
            seen |= np.logical_or.reduce(masks)
    return shown + [study for study in every if study.rows == "found" and not seen.all()]


def _write(
    study: str, kind: str, parts: Mapping[str, Sequence[str]], folder: Path, built: Built
) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, form in render.FORMS.items():
            file = folder / f"{stem(study, kind)}.{suffix}"
            head = form.head + (own_study.origin(study, folder) if suffix == "md" else "")
            text = (head + "".join(parts[suffix])).encode()
            if file.is_file() and file.read_bytes() != text:
                built.changed.add(study)
            write_atomic(file, text)
            built.files.append(file)
    except OSError as err:
        raise UserError(f"cannot write the tables to {folder}: {hindrance(folder, err)}") from err
