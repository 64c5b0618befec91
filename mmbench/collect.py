"""Collect the records of a results folder: one file a cell, ``<results>/records/<cell>.json``.

A record is written once and never edited, so that a second name of the same file (a hard link) is
as good as a copy: it outlives the run directory, takes no room, and costs one operation. Where the
file system has no links, files are copied.
"""

import errno
import gzip
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mmbench.errors import UserError
from mmbench.launch.lease import NO_LINKS
from mmbench.store import PACKED, PLAIN, cell_of, glance, read_record, record_files, write_atomic

COPIED = (*NO_LINKS, errno.EXDEV)  # the runs may lie on another file system


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

    Of what is there only a failure is ever replaced. A file has the time of its source, by which
    the next call knows it and reads neither. Damage in the middle of a record is not seen here.

    Raises:
        OSError: as the system says; what was collected until then is whole.
    """
    target = results / "records"
    target.mkdir(parents=True, exist_ok=True)
    there = _there(target)
    done = Collected()
    copies: dict[str, int] = {}
    start = len(f"{results / 'runs'}/")
    for source, state in record_files(results / "runs"):
        cell = cell_of(source[start:].partition("/")[0])
        file = f"{target}/{cell}{PACKED if source.endswith(PACKED) else PLAIN}"
        old, time = there.get(cell, (None, 0))
        if time == state.st_mtime_ns:
            done.kept += 1
            continue
        try:
            status = _status(source)
        except UserError as err:
            done.unreadable.append(str(err))
            continue
        if old is not None and (status == "failed" or _finished(Path(old))):
            os.utime(old, ns=(state.st_mtime_ns, state.st_mtime_ns))
            done.kept += 1
            continue
        if not _link(source, file):
            write_atomic(Path(file), Path(source).read_bytes(), sync=False)
            copies[file] = state.st_mtime_ns
        if old not in (None, file):
            Path(old).unlink()
        done.files.append(Path(file))
    _mark(copies)
    return done


def compress(records: Path, unreadable: list[str]) -> list[Path]:
    """Put compressed files in the place of the plain ones of ``<results>/records``.

    The records in the run directories stay as they are.

    Args:
        records: the folder.
        unreadable: gets the message of every record that cannot be read, which stays plain.

    Returns:
        The new files.

    Raises:
        OSError: as the system says; the plain files are all there still.
    """
    packed: dict[Path, Path] = {}
    for file in sorted(records.glob(f"[!.]*{PLAIN}")):
        try:
            read_record(file)
        except UserError as err:
            unreadable.append(str(err))
            continue
        packed[file] = records / f"{cell_of(file.name)}{PACKED}"
        write_atomic(packed[file], gzip.compress(file.read_bytes(), 6, mtime=0), sync=False)
    _mark({str(to): file.stat().st_mtime_ns for file, to in packed.items()})
    for file in packed:
        file.unlink()
    return list(packed.values())


def _there(target: Path) -> dict[str, tuple[str, int]]:
    """Return file and time of every cell that is collected."""
    with os.scandir(target) as entries:
        return {
            cell_of(entry.name): (entry.path, entry.stat().st_mtime_ns)
            for entry in entries
            if entry.name.endswith((PLAIN, PACKED)) and not entry.name.startswith(".")
        }


def _status(file: str) -> str:
    with suppress(OSError):
        if (seen := glance(file)) is not None:
            return seen
    return read_record(Path(file)).status


def _finished(file: Path) -> bool:
    """Say whether a collected record is there to stay; one that cannot be read is not."""
    try:
        return read_record(file).status != "failed"
    except UserError:
        return False


def _link(source: str, file: str) -> bool:
    """Make ``file`` a second name of ``source``, whatever it named; False: no links here."""
    try:
        os.link(source, file)
    except FileExistsError:
        part = f"{os.path.dirname(file)}/.{os.path.basename(file)}.{secrets.token_hex(4)}.part"
        try:
            os.link(source, part)
            os.replace(part, file)
        finally:
            with suppress(FileNotFoundError):  # replaced, or the two were one file already
                os.unlink(part)
    except OSError as err:
        if err.errno in COPIED:
            return False
        raise
    return True


def _mark(times: Mapping[str, int]) -> None:
    """Give copies the times of their sources, after they are on the disk: a time says whole."""
    if times:
        os.sync()  # once for all
    for file, time in times.items():
        os.utime(file, ns=(time, time))
