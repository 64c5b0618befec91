"""Where a number of a table comes from, computed again from its records."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mmbench.errors import UserError, nearest
from mmbench.report.build import load_results, tables_of
from mmbench.report.frame import row_of
from mmbench.report.rows import unmarked, untold
from mmbench.report.study import study_names
from mmbench.report.table import Entry, Source, Sources, Table
from mmbench.report.titles import KINDS, stem
from mmbench.store import read_record

TOLERANCE = 1e-9  # a table's CSV has all digits; what differs by more is another number


@dataclass(frozen=True)
class Explained:
    """One number of a table.

    Attributes:
        name: name of the table it stands in, which no other has.
        table: its heading.
        row: name of its row.
        column: heading of its column.
        shown: as the table shows it.
        value: computed again from the records read now, as a fraction.
        written: the value in the table's CSV file; None if it has none.
        own: the records it is the mean of.
        against: the records that each was set against, paired by seed.
        files: the file of every record.
        pairing: how: taken away, or divided by.
        scale: what the value is shown times.
        untold: options of the dataset that other records have otherwise without a word.
    """

    name: str
    table: str
    row: str
    column: str
    shown: str
    value: float
    written: float | None
    own: Sources
    against: Sources
    files: Mapping[str, Path]
    pairing: str = "difference"
    scale: float = 100.0
    untold: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool | None:
        """Whether the file holds the number that the records give; None if it holds none."""
        if self.written is None:
            return None
        return math.isclose(self.value, self.written, abs_tol=TOLERANCE)


def explain(target: str, source: str, results: Path | None = None) -> list[Explained]:
    """Explain every number of one row of a table on one dataset.

    Args:
        target: ``FILE:ROW:DATASET``, e.g. ``results/tables/STUDY.md:ROW:DATASET``; with another
            ``:COLUMN`` that column alone. A dataset with several tables (protocols, bundles,
            devices) gives the numbers of each; the name of a table, as its CSV file has it, or the
            words behind the colon of its heading say one of them.
        source: where the records are: ``auto``, ``runs`` or ``records``, as the table was made.
        results: the results folder that they are in, and FILE too if that is no path; None: the
            one with FILE.

    Raises:
        UserError: if the target names no table, row, dataset or column, or no number.
    """
    file, row, place, column = _parts(target)
    if results and not file.is_file():
        file = results / "tables" / file.name
    study, kind = _study_of(file)
    loaded = load_results(results or file.parent.parent, source)
    tables = tables_of(study, kind, loaded)
    found = [t for t in tables if place in (t.dataset, t.name, _title(t))]
    if not found:
        known = sorted({t.dataset for t in tables if t.dataset} | {t.name for t in tables})
        raise UserError(
            f"{file.name} has no dataset or table {place!r}{nearest(place, known)} "
            f"(there are {', '.join(known) or 'none'}){_hint(tables, place)}"
        )
    written = _written(file)
    numbers = [
        replace(number, untold=options)
        for t in found
        for options in [_untold(t.dataset, loaded.frame)]
        for number in _row(t, row, column, written, loaded.files)
    ]
    if not numbers:
        if kind and not any(
            entry.sources for t in found for _, entries in t.rows for entry in entries
        ):
            raise UserError(
                f"the numbers of {file.name} are not means of records: they are made from those of "
                f"{stem(study, '')}.md, which can be explained"
            )
        names = list(dict.fromkeys(name for t in found for name, _ in t.rows))
        meant = nearest(column, found[0].columns[1:]) if column else ""
        raise UserError(
            f"no number made from records stands in row {row!r}"
            f"{f' and column {column!r}' if column else ''} of {file.name} for {place} (rows: "
            f"{', '.join(names)}; columns: {', '.join(found[0].columns[1:])})"
            f"{nearest(row, names) or meant}"
        )
    return numbers


def _title(table: Table) -> str:
    return table.heading.partition(": ")[2]


def _untold(dataset: str, frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the options of a dataset that some of its records have otherwise without a word."""
    found = [keys for (name, _), keys in untold(frame).items() if name == dataset]
    return tuple(dict.fromkeys(key for keys in found for key in keys))


def _hint(tables: Sequence[Table], place: str) -> str:
    """Return what to say to someone who left out the dataset and named a column."""
    columns = {column for t in tables for column in t.columns[1:]}
    return f"; {place!r} is a column: say FILE:ROW:DATASET:{place}" if place in columns else ""


def _parts(target: str) -> tuple[Path, str, str, str]:
    words = target.split(":")
    if len(words) not in (3, 4):
        raise UserError(
            f"say FILE:ROW:DATASET or FILE:ROW:DATASET:COLUMN, with a file of results/tables; "
            f"found {target!r}"
        )
    return Path(words[0]).absolute(), words[1], words[2], words[3] if len(words) == 4 else ""


def _study_of(file: Path) -> tuple[str, str]:
    """Return study and kind of a table file: ``STUDY.md`` or ``STUDY-KIND.md``."""
    for kind in KINDS:
        study = file.stem.removesuffix(f"-{kind}") if kind else file.stem
        if study in study_names() and stem(study, kind) == file.stem:
            return study, kind
    raise UserError(
        f"{file.name} is no table of a study{nearest(file.stem, study_names())} "
        f"(studies: {', '.join(study_names())}; one of your own: --study FILE.toml)"
    )


def _row(
    table: Table,
    row: str,
    column: str,
    written: Mapping[tuple[str, str, str], float],
    files: Mapping[str, Path],
) -> list[Explained]:
    found = []
    for name, entries in table.rows:
        for title, entry in zip(table.columns[1:], entries, strict=True):
            asked = unmarked(name) == unmarked(row) and column in ("", title)
            if asked and entry.sources:
                value = _again(entry, files)
                found.append(
                    Explained(table.name, table.heading, name, title, entry.text, value,
                              written.get((table.name, name, title)), entry.sources,
                              entry.against, files, entry.pairing, entry.scale)
                )  # fmt: skip
    return found


def _again(entry: Entry, files: Mapping[str, Path]) -> float:
    """Compute a number from the records' own files, not from the index."""
    own = [_value(source, files) for source in entry.sources]
    against = [_value(source, files) for source in entry.against]
    if not against:
        return math.fsum(own) / len(own)
    pairs = zip(own, against, strict=True)
    return math.fsum(a / b if entry.pairing == "ratio" else a - b for a, b in pairs) / len(own)


def _value(source: Source, files: Mapping[str, Path]) -> float:
    return float(row_of(read_record(files[source.record], curve=False))[source.key])


def _written(file: Path) -> dict[tuple[str, str, str], float]:
    """Return the values in the table's CSV by name of the table, row and column."""
    values: dict[tuple[str, str, str], float] = {}
    try:
        with file.with_suffix(".csv").open(encoding="utf-8", newline="") as handle:
            for line in csv.DictReader(handle):
                if line["value"]:
                    values[line["table"], line["row"], line["column"]] = float(line["value"])
    except FileNotFoundError:
        return {}
    except (OSError, KeyError, ValueError) as err:
        raise UserError(
            f"{file.with_suffix('.csv')} is not a table of mmbench report; make it again"
        ) from err
    return values
