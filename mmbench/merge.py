"""Bring what another results folder knows of cells into this one, and overwrite nothing.

Finished records come over, and failures of cells that this folder knows nothing of. Cells that are
not finished there stay there: their checkpoints and leases belong to the machines that made them.
Every folder or file is copied aside and then appears whole, under a name that was free.
"""

import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mmbench.errors import UserError
from mmbench.launch import lease as leases
from mmbench.locking import alone, try_lock
from mmbench.record import Record
from mmbench.reproduce import compare
from mmbench.store import PACKED, PLAIN, cell_of, in_use, read_record, write_atomic, write_new

ASIDE = ".merge"  # among the runs, whose file system may be another; hidden names are no runs
SHOWN = 5  # differing numbers of a cell that are told
BRINGS = ("cell.json", "record.json", "failed-*.json", "retried-*.json")


@dataclass(frozen=True)
class Conflict:
    """A cell that both folders have finished, differently.

    Attributes:
        ours, theirs: the two files.
        numbers: whether numbers differ, and not only times and machines.
        what: how they differ.
    """

    ours: Path
    theirs: Path
    numbers: bool
    what: tuple[str, ...]


@dataclass
class Merged:
    """What a merge did, or would do.

    Attributes:
        brought: files and folders that are new here.
        same: how many cells are the same in both, or known here alone as far as it matters.
        conflicts: cells whose two records differ; ours stay.
        unfinished: cells that are not finished there, and stay there.
        busy: cells that are finished there and run here now.
        unreadable: what could not be read; nothing of it was brought.
    """

    brought: list[Path] = field(default_factory=list)
    same: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def merge(results: Path, other: Path, dry_run: bool = False) -> Merged:
    """Merge the runs and collected records of ``other`` into ``results``.

    Args:
        results: the folder that grows; made if missing.
        other: the folder that is read only.
        dry_run: look, and write nothing.

    Raises:
        UserError: if ``other`` is no results folder or the same one, or another merge runs.
        OSError: if something cannot be written; what was brought until then is whole.
    """
    if not ((other / "runs").is_dir() or (other / "records").is_dir()):
        raise UserError(
            f"{other} is not a results folder: it has neither runs nor records; name the folder "
            "that holds them"
        )
    if results.exists() and results.samefile(other):
        raise UserError(f"{other} is the very folder to merge into; name another (--results DIR)")
    done = Merged()
    if dry_run:
        _runs(results, other, done, None)
        _records(results, other, done, dry_run)
        return done
    with _aside(results) as aside:
        _runs(results, other, done, aside)
    if (other / "records").is_dir():
        with alone(results / "records"):  # nobody collects meanwhile
            _records(results, other, done, dry_run)
    return done


@contextmanager
def _aside(results: Path) -> Iterator[Path]:
    """Yield an empty folder to copy into; what a killed merge left there goes away.

    Raises:
        UserError: if another merge holds it.
        OSError: as the system says.
    """
    aside = results / "runs" / ASIDE
    aside.mkdir(parents=True, exist_ok=True)
    with (aside / "lock").open("w") as lock:
        if not try_lock(lock):
            raise UserError(f"another merge into {results} is at work; wait until it has ended")
        for old in aside.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
        yield aside
        shutil.rmtree(aside, ignore_errors=True)  # still held: nobody else has begun in it


# ---------------------------------------------------------------------- run directories


def _runs(results: Path, other: Path, done: Merged, aside: Path | None) -> None:
    """Merge run directories; without ``aside``, only say what would be done."""
    if not (other / "runs").is_dir():
        return
    for name in sorted(os.listdir(other / "runs")):
        theirs, ours = other / "runs" / name, results / "runs" / name
        if name.startswith(".") or not theirs.is_dir():
            continue
        listed = leases.names(theirs)
        if "record.json" in listed:
            _finished(ours, theirs, done, aside)
        elif not any(each.startswith("failed-") for each in listed):
            done.unfinished.append(name)
        elif ours.exists():
            done.same += 1  # what this folder knows of the cell is as good
        else:
            _bring(ours, theirs, done, aside)


def _finished(ours: Path, theirs: Path, done: Merged, aside: Path | None) -> None:
    record = ours / "record.json"
    if record.exists():
        _same_or_conflict(record, theirs / "record.json", done)
    elif not ours.exists():
        _bring(ours, theirs, done, aside)
    elif _running(ours):
        done.busy.append(ours.name)
    else:
        _add_record(ours, theirs / "record.json", done, aside)


def _running(folder: Path) -> bool:
    return in_use(folder) or leases.live(folder, leases.names(folder)) is not None


def _bring(ours: Path, theirs: Path, done: Merged, aside: Path | None) -> None:
    """Copy a run directory that is not here, if all it holds can be read."""
    files = [file for pattern in BRINGS for file in sorted(theirs.glob(pattern))]
    for file in files:
        if file.name != "cell.json" and _read(file, done) is None:
            return
    if aside is not None:
        copy = aside / ours.name
        copy.mkdir()
        for file in files:
            _copy(file, copy / file.name)
        ours.parent.mkdir(exist_ok=True)
        try:
            copy.rename(ours)
        except OSError:
            if not ours.exists():
                raise
            shutil.rmtree(copy)  # a worker began the cell in this moment
            done.busy.append(ours.name)
            return
    done.brought.append(ours)


def _copy(file: Path, to: Path) -> None:
    shutil.copy2(file, to)  # with its time, by which indexes and collect know it
    with to.open("rb") as handle:
        os.fsync(handle.fileno())


def _add_record(ours: Path, theirs: Path, done: Merged, aside: Path | None) -> None:
    """Add a finished record to a cell that is not finished here; its failures stay."""
    if _read(theirs, done) is None:
        return
    if aside is not None:
        try:
            write_new(ours / "record.json", theirs.read_bytes())
        except FileExistsError:  # finished here in this moment
            _same_or_conflict(ours / "record.json", theirs, done)
            return
        for pattern in ("checkpoint-*", "progress.json", "cancelled"):
            for file in ours.glob(pattern):
                file.unlink(missing_ok=True)
    done.brought.append(ours / "record.json")


# ---------------------------------------------------------------------- collected records


def _records(results: Path, other: Path, done: Merged, dry_run: bool) -> None:
    """Merge collected records; as in collecting, a failure alone gives way, to what finished."""
    for theirs in sorted((other / "records").glob("*.json*")):
        if theirs.name.startswith(".") or not theirs.name.endswith((PLAIN, PACKED)):
            continue
        free = results / "records" / theirs.name
        names = (free, *(free.with_name(cell_of(free.name) + end) for end in (PLAIN, PACKED)))
        ours = next((name for name in names if name.exists()), free)
        write: Callable[[Path, bytes], None] = write_new
        record = _read(theirs, done) if not ours.exists() else None
        if ours.exists():
            if _content(ours) == _content(theirs):
                done.same += 1
                continue
            record, mine = _read(theirs, done), _read(ours, done)
            if record is None or mine is None:
                continue
            if mine.status != "failed" or record.status == "failed":
                _told(ours, theirs, mine, record, done)
                continue
            write = write_atomic
        if record is None:
            continue
        if not dry_run:
            free.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # someone collected it in this moment
                write(free, theirs.read_bytes())
            if ours != free:
                ours.unlink()
        done.brought.append(free)


# ---------------------------------------------------------------------- comparing


def _content(file: Path) -> object:
    """Return what a record's file says, however it is packed; its bytes if it is damaged."""
    data = file.read_bytes()
    try:
        return json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)
    except (OSError, EOFError, ValueError):
        return data


def _read(file: Path, done: Merged) -> Record | None:
    """Return a record, or None after noting that it is damaged or of another cell than it says."""
    try:
        record = read_record(file)
    except UserError as err:
        done.unreadable.append(str(err))
        return None
    said = file.parent.name if file.parent.parent.name == "runs" else file.name
    # Not the id: it follows from all settings, of which another version may have more.
    named = record.cell.folder.rpartition(".")[0] + "."
    if said.startswith(named):
        return record
    done.unreadable.append(
        f"{file} holds a record of {record.cell.folder}; give it the name of its cell, or remove it"
    )
    return None


def _same_or_conflict(ours: Path, theirs: Path, done: Merged) -> None:
    if ours.read_bytes() == theirs.read_bytes() or _content(ours) == _content(theirs):
        done.same += 1
        return
    mine, others = _read(ours, done), _read(theirs, done)
    if mine is not None and others is not None:
        _told(ours, theirs, mine, others, done)


def _told(ours: Path, theirs: Path, mine: Record, others: Record, done: Merged) -> None:
    """Note how two records of a cell differ."""
    if mine.status == others.status == "failed":
        done.same += 1  # two failures of one cell; ours says enough
        return
    found = compare(mine, others)
    refused = mine.status == others.status == "refused"
    if found.differing:
        more = len(found.differing) - SHOWN
        what = [f"{len(found.differing)} numbers, by {found.largest:.3g} at most"]
        what += [*found.differing[:SHOWN], *([f"and {more} more"] if more > 0 else [])]
    elif refused and mine.reason != others.reason:
        what = [f"refused for {mine.reason!r} here, for {others.reason!r} there"]
    else:
        what = ["two runs with the same numbers"]
    differ = bool(found.differing)
    done.conflicts.append(Conflict(ours, theirs, differ, (*what, *found.unlike)))
