"""``report`` and ``collect``: from records alone, without torch."""

import gzip
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmbench.cli.output import console
from mmbench.errors import UserError
from mmbench.store import read_record, record_files, write_atomic
from mmbench.wording import counted

if TYPE_CHECKING:
    from mmbench.report.table import Table

SOURCES = ("auto", "runs", "records")
PRINTED = 60  # tables; a terminal full of them helps nobody, and prints for longer than it takes
ABSENT = ("left-out", "zero")


def report(
    results: Path,
    studies: Sequence[str],
    source: str,
    readme: Path | None,
    as_json: bool,
    *,
    figures: bool,
    html: bool,
    document: Path | None,
    absent_class: str,
) -> int:
    """Write the tables of the studies and print them; return 1 if a record cannot be read."""
    from mmbench.report import build, render

    if source not in SOURCES:
        raise UserError(f"--source is one of {', '.join(SOURCES)}; found {source!r}")
    if absent_class not in ABSENT:
        raise UserError(f"--absent-class is one of {', '.join(ABSENT)}; found {absent_class!r}")
    room = render.markers(readme) if readme else set()
    kept: dict[str, list[Table]] = {}
    printed = silent = 0

    def show(name: str, table: "Table") -> None:
        nonlocal printed, silent
        if name in room:
            kept.setdefault(name, []).append(table)
        if as_json:
            return
        if not studies and printed == PRINTED:
            silent += 1
            return
        printed += 1
        render.print_table(table, console())

    built = build.report(
        results, list(studies), source, figures=figures, html=html, document=document,
        absent_class=absent_class, show=show,
    )  # fmt: skip
    if as_json:
        print(json.dumps([str(path) for path in built.files], indent=1))
        return _complain(built.unreadable)
    if silent:
        print(f"{silent} more tables are in the files below; --study NAME prints its own")
    for line in built.left_out:
        print(line)
    for path in built.files:
        print(f"wrote {path}")
    if readme is not None:
        render.update_readme(readme, kept)
        print(f"updated {readme}")
    return _complain(built.unreadable)


def _complain(unreadable: Sequence[str]) -> int:
    """Print what could not be read; return the exit code."""
    for line in unreadable:
        print(f"left out: {line}", file=sys.stderr)
    return 1 if unreadable else 0


def _finished(file: Path) -> bool:
    """Say whether a collected record is there to stay; one that cannot be read is not."""
    try:
        return read_record(file).status != "failed"
    except UserError:
        return False


def _copy(source: Path, file: Path) -> bool:
    """Copy a record; return False if ``file`` holds one that is there to stay.

    Raises:
        UserError: if it cannot be read.
    """
    record = read_record(source)
    if file.exists() and (record.status == "failed" or _finished(file)):
        return False
    write_atomic(file, gzip.compress(source.read_bytes(), 6, mtime=0), sync=False)
    return True


def collect(results: Path, as_json: bool) -> int:
    """Copy records to ``<results>/records``, one file a cell; only a failure is ever replaced.

    A copy bears the time of its source, so that the next call need not read either again.
    Returns 1 if one cannot be read, after all others were copied.
    """
    target = results / "records"
    target.mkdir(parents=True, exist_ok=True)
    copied, kept = [], 0
    unreadable: list[str] = []
    marks: dict[Path, int] = {}
    with os.scandir(target) as there:
        times = {entry.name: entry.stat().st_mtime_ns for entry in there}
    runs = results / "runs"
    for found, state in record_files(runs):
        source = Path(found)
        name = source.relative_to(runs).parts[0].removesuffix(".gz").removesuffix(".json")
        file = target / f"{name}.json.gz"
        if times.get(file.name) == state.st_mtime_ns:  # copied from this very file
            kept += 1
            continue
        try:
            fresh = _copy(source, file)
        except UserError as err:
            unreadable.append(str(err))
            continue
        marks[file] = state.st_mtime_ns
        kept += not fresh
        copied += [str(file)] if fresh else []
    if marks:
        os.sync()  # once for all, before a time says that a copy is whole
    for file, mark in marks.items():
        os.utime(file, ns=(mark, mark))
    if as_json:
        print(json.dumps(copied, indent=1))
    else:
        print(f"copied {counted(len(copied), 'record')} to {target}; {kept} there already")
    return _complain(unreadable)
