"""``report`` and ``collect``: from records alone, without torch."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmbench import collect as collecting
from mmbench.cli.output import printing
from mmbench.errors import UserError
from mmbench.hints import typed
from mmbench.wording import counted

if TYPE_CHECKING:
    from mmbench.report.build import Built
    from mmbench.report.table import Table

PRINTED = 60  # tables; a terminal full of them helps nobody, and prints for longer than it takes
NAMED = 10  # removed tables and figures that are named
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
        with printing() as shown:
            render.print_table(table, shown)

    built = build.report(
        results, list(studies), source, figures=figures, html=html, document=document,
        absent_class=absent_class, show=show,
    )  # fmt: skip
    if as_json:
        print(json.dumps([str(path) for path in built.files], indent=1))
        return _complain(built.unreadable)
    if silent:
        print(f"{silent} more tables are in the files below; --study NAME prints its own")
    if not built.tables:
        why = typed("mmbench show CELL", results)
        print(f"no table: nothing in {built.folder} was trained to its end; {why} says why")
    for line in (*built.left_out, *built.remarks):
        print(line)
    _tell_written(built.files)
    if readme is not None:
        render.update_readme(readme, kept)
        print(f"updated {readme}")
    _tell_removed(built, results)
    return _complain(built.unreadable)


def _tell_written(files: Sequence[Path]) -> None:
    """Say in a line per folder how many files of each kind are in it."""
    for folder in dict.fromkeys(file.parent for file in files):
        inside = [file for file in files if file.parent == folder]
        kinds = Counter(file.suffix for file in inside)
        many = ", ".join(f"{number} {suffix}" for suffix, number in kinds.items())
        print(f"wrote {inside[0] if len(inside) == 1 else f'{folder}: {many}'}")


def _tell_removed(built: "Built", results: Path) -> None:
    """Say which files of earlier reports are gone, and how those of the committed records come."""
    if not built.removed:
        return
    names = list(dict.fromkeys(path.stem for path in built.removed))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    print(
        f"removed {counted(len(built.removed), 'file')} of earlier reports, which the records in "
        f"{built.folder} do not make: {', '.join(names[:NAMED])}{more}"
    )
    if built.folder.name != "records" and (results / "records").is_dir():
        again = typed("mmbench report --source records", results)
        print(f"to write those of {results / 'records'} again, in place of these: {again}")


def _complain(unreadable: Sequence[str]) -> int:
    """Print what could not be read; return the exit code."""
    for line in unreadable:
        print(f"left out: {line}", file=sys.stderr)
    return 1 if unreadable else 0


def collect(results: Path, compress: bool, as_json: bool) -> int:
    """Collect the records of a results folder; return 1 if one cannot be read."""
    target = results / "records"
    done = collecting.collect(results)
    packed = collecting.compress(results, done.unreadable) if compress else []
    if as_json:
        print(json.dumps([str(file) for file in packed or done.files], indent=1))
        return _complain(done.unreadable)
    print(f"collected {counted(len(done.files), 'record')} in {target}; {done.kept} there already")
    if compress:
        print(f"compressed {counted(len(packed), 'record')}")
    return _complain(done.unreadable)
