"""Collect the records of a results folder: one file a cell, ``<results>/records/<cell>.json``.

A record is written once and never edited, so a second name of the same file (a hard link) serves:
it outlives the run directory, takes no room, and costs one operation. Where there are no links, and
for failures, which a retry renames, files are copied. One process at a time changes the folder.
"""

import errno
import gzip
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mmbench.errors import UserError
from mmbench.launch.lease import NO_LINKS
from mmbench.locking import alone
from mmbench.store import PACKED, PLAIN, cell_of, glance, read_record, record_files, speaking

COPIED = (*NO_LINKS, errno.EXDEV)  # the runs may lie on another file system
AT_ONCE = 1000  # records that are compressed before they are flushed to the disk together


@dataclass
class Collected:
    """What a call did.

    Attributes:
        files: the new ones.
        kept: how many cells were collected before.
        unreadable: the message of every record that cannot be read.
    """

    files: list[Path] = field(default_factory=list)
    kept: int = 0
    unreadable: list[str] = field(default_factory=list)


def collect(results: Path) -> Collected:
    """Collect the finished records, and the last failure of cells that only failed.

    Of what is there only a failure is ever replaced, by a later one or by what finished. A file
    has the time of its source, by which the next call knows it and reads neither. Damage in the
    middle of a record is not seen here.

    Raises:
        UserError: if ``results`` is no results folder.
        OSError: if the folder cannot be written; what was collected until then is whole.
    """
    with _changing(results) as target:
        there = _there(target)
        done = Collected()
        start = len(f"{results / 'runs'}/")
        for source, state in record_files(results / "runs", done.unreadable):
            cell = cell_of(source[start:].partition("/")[0])
            old, time = there.get(cell, (None, 0))
            if time == state.st_mtime_ns:
                done.kept += 1
                continue
            try:
                new = _take_present(source, state, f"{target}/{cell}", old)
            except UserError as err:
                done.unreadable.append(str(err))
                continue
            if new is None:
                done.kept += 1
            else:
                done.files.append(Path(new))
    return done


def compress(results: Path, unreadable: list[str]) -> list[Path]:
    """Put compressed files in the place of the plain ones of ``<results>/records``.

    The records in the run directories stay as they are.

    Args:
        results: the results folder.
        unreadable: gets the message of every record that cannot be read, which stays plain.

    Returns:
        The new files.

    Raises:
        UserError: if ``results`` is no results folder.
        OSError: if the folder cannot be written; no record is lost.
    """
    packed: list[Path] = []
    with _changing(results) as target:
        plain = [path for path, _ in _there(target).values() if path.endswith(PLAIN)]
        for at in range(0, len(plain), AT_ONCE):
            files = [Path(path) for path in sorted(plain)[at : at + AT_ONCE]]
            made = [(file, to) for file in files if (to := _packed(file, unreadable))]
            os.sync()  # once for all, before the plain ones go
            for file, _ in made:
                file.unlink()
            packed += [to for _, to in made]
    return packed


@contextmanager
def _changing(results: Path) -> Iterator[Path]:
    """Hold ``<results>/records`` alone, and clear away what a killed process left there."""
    target = results / "records"
    if not ((results / "runs").is_dir() or target.is_dir()):
        raise UserError(
            f"{results} is not a results folder: it has neither runs nor records; name another "
            "with --results DIR"
        )
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is not a folder; move it away, records are collected there")
    target.mkdir(exist_ok=True)
    with alone(target):
        for part in target.glob(".*.part"):
            part.unlink()
        yield target


def _there(target: Path) -> dict[str, tuple[str, int]]:
    """Return file and time of every cell that is collected; a finished one wins over a failure."""
    found: dict[str, tuple[str, int]] = {}
    with os.scandir(target) as entries:
        names = sorted(e.name for e in entries if e.name.endswith((PLAIN, PACKED)))
    for cell, group in itertools.groupby((n for n in names if not n.startswith(".")), cell_of):
        plain, *more = (f"{target}/{name}" for name in group)
        if more and not _finished(plain) and _finished(more[0]):
            os.unlink(plain)
            plain = more[0]
        found[cell] = (plain, os.stat(plain).st_mtime_ns)
    return found


def _take_present(source: str, state: os.stat_result, place: str, old: str | None) -> str | None:
    """Do as ``_take``, and look once more for a failure that a retry renames in this moment."""
    try:
        return _take(source, state, place, old)
    except FileNotFoundError:
        for again in speaking(os.path.dirname(source)):
            return _take(*again, place, old)
        return None


def _take(source: str, state: os.stat_result, place: str, old: str | None) -> str | None:
    """Collect one record; return its file, or None if what is there stays.

    Paths are text, as to make a hundred thousand of them takes longer than the rest.

    Args:
        source: the file.
        state: what stat says of it.
        place: the file to make, without its suffix.
        old: the file that is there for the cell.

    Raises:
        FileNotFoundError: if the source is gone.
        UserError: if it cannot be read.
    """
    status = _status(source)
    if old is not None and _finished(old):
        return None
    file = place + (PACKED if source.endswith(PACKED) else PLAIN)
    with _part(file) as part:
        if status == "failed" or not _linked(source, part):
            _written(part, Path(source).read_bytes(), state.st_mtime_ns)
            _flush(part)
    if old not in (None, file):
        os.unlink(old)
    return file


def _packed(file: Path, unreadable: list[str]) -> Path | None:
    """Make a compressed file of a plain one, which stays; None if it is not a record."""
    to = file.with_name(cell_of(file.name) + PACKED)
    try:
        read_record(file)
    except UserError as err:
        unreadable.append(str(err))
        return None
    with file.open("rb") as handle, _part(str(to)) as part:
        data = gzip.compress(handle.read(), 6, mtime=0)
        _written(part, data, os.fstat(handle.fileno()).st_mtime_ns)
    return to


def _status(file: str) -> str:
    """Return the status of a record.

    Raises:
        FileNotFoundError: if it is gone.
        UserError: if it cannot be read.
    """
    try:
        return glance(file) or read_record(Path(file)).status
    except PermissionError as err:
        raise UserError(f"{file} cannot be read: {err.strerror}") from err
    except UserError:
        os.stat(file)  # says if it is gone
        raise


def _finished(file: str) -> bool:
    """Say whether a collected record is there to stay; one that cannot be read is not."""
    try:
        return read_record(Path(file)).status != "failed"
    except UserError:
        return False


@contextmanager
def _part(file: str) -> Iterator[str]:
    """Yield a name beside ``file`` to make a file under, which then takes its place."""
    folder, name = os.path.split(file)
    part = f"{folder}/.{name}.part"
    try:
        yield part
        os.replace(part, file)
    except OSError as err:
        err.filename = err.filename or file  # a full disk does not say it
        raise
    finally:
        with suppress(FileNotFoundError):  # there still if the two are one file already
            os.unlink(part)


def _linked(source: str, part: str) -> bool:
    """Make ``part`` a second name of ``source``; False: there are no links here."""
    if os.path.islink(source):
        return False  # the second name would be one of the link's
    try:
        os.link(source, part)
    except OSError as err:
        if err.errno in COPIED:
            return False
        raise
    return True


def _written(part: str, data: bytes, time: int) -> None:
    """Write a file with the time of its source."""
    Path(part).write_bytes(data)
    os.utime(part, ns=(time, time))


def _flush(part: str) -> None:
    with open(part, "rb") as handle:
        os.fsync(handle.fileno())
