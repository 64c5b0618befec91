"""What a report asks of a study of the user's own: rows that records can fill, files of its own."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from mmbench.errors import UserError, nearest
from mmbench.registry import METHODS
from mmbench.report.study import Row, Study, own_file
from mmbench.settings import validate

ORIGIN = re.compile(r"^<!-- of the study (.*) -->\n", re.MULTILINE)


def check(study: Study, recorded: Collection[str], tables: Path) -> None:
    """Refuse rows that no record can fill, and tables that are another study's of the same name.

    Args:
        study: any; those of mmbench are right.
        recorded: methods with a record. A plug-in is known here by no other means.
        tables: the folder of all tables.

    Raises:
        UserError: names the file, the row and the nearest name.
    """
    file = own_file(study.name)
    if file is None:
        return
    _check_place(file, tables / f"{study.name}.md")
    check_rows(study, recorded)


def check_rows(study: Study, recorded: Collection[str] = ()) -> None:
    """Refuse rows of a study of the user's own that no record can fill.

    Raises:
        UserError: names the file, the row and the nearest name.
    """
    file = own_file(study.name)
    if file is None:
        return
    for number, row in enumerate(() if study.rows == "found" else study.listed, 1):
        try:
            _check_row(row, recorded)
        except UserError as err:
            raise UserError(f"{file}, row {number} ({row.shown}): {err}") from err


def _check_row(row: Row, recorded: Collection[str]) -> None:
    known = {*METHODS.names(), *recorded}
    if row.method not in known:
        raise UserError(
            f"unknown method {row.method!r}{nearest(row.method, sorted(known))} (mmbench list "
            "methods shows those of mmbench; one of your own is known once it has a record)"
        )
    if row.set and row.method in METHODS.names():
        validate(METHODS.load(row.method).Config, row.set, "")


def _check_place(study: Path, table: Path) -> None:
    text = table.read_text(encoding="utf-8", errors="replace") if table.is_file() else ""
    held = ORIGIN.search(text)
    other = table.parent / held[1] if held else study
    if other.is_file() and not other.samefile(study):
        raise UserError(
            f"{table} is of another study of that name, {os.path.normpath(other)}, and {study} "
            "would take its place: rename one, or name another folder with --results"
        )


def origin(study: str, tables: Path) -> str:
    """Return the line of a Markdown file that says which study of the user's own it is of.

    Args:
        study: any; those of mmbench have none.
        tables: the folder that the study's file is named from.
    """
    file = own_file(study)
    if file is None:
        return ""
    place = Path(os.path.relpath(file.resolve(), tables.resolve())).as_posix()
    return f"<!-- of the study {place} -->\n"
