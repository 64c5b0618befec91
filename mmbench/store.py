"""Run directories and records: atomic writes, and a state that ``ls`` can show.

``<results>/runs/<cell folder>/`` holds ``cell.json``, ``progress.json`` while training,
``checkpoint-*`` until done, ``record.json`` once done or refused, ``failed-NNN.json`` for every
failed attempt (``retried-NNN.json`` once it was forgiven), and ``cancelled`` if someone said so.
``<results>/records/`` holds collected records: ``<cell folder>.json``, or ``.json.gz``.
"""

import errno
import fcntl
import gzip
import itertools
import json
import os
import re
import secrets
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic_core import from_json

from mmbench.cell import Cell
from mmbench.errors import ClosedRecord, NewerRecord, UserError
from mmbench.folders import hindrance
from mmbench.launch import lease
from mmbench.launch.lease import NO_LINKS
from mmbench.locking import try_lock
from mmbench.record import SCHEMA, Record

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk, quota, limit on a file's size
State = Literal[
    "done", "refused", "failed", "running", "interrupted", "waiting", "cancelled", "unreadable"
]
CANCELLED = "cancelled"  # marks a cell that workers leave alone until someone asks for it again
STATUS = re.compile(rb'"status": ?"(done|refused)", ?"started"')  # as a record is written
HEAD = 16_384  # bytes of a record that hold its status, after the cell
PLAIN, PACKED = ".json", ".json.gz"  # how a collected record's name ends


def write_atomic(file: Path, data: bytes) -> None:
    """Write ``data`` so that ``file`` holds the old bytes or the new, never a part.

    Raises:
        OSError: as the system says (full disk, no permission); nothing is left behind.
    """
    with _written(file, data) as part:
        part.replace(file)


def write_new(file: Path, data: bytes) -> None:
    """Write ``data`` to a file that is not there yet; it appears whole.

    Raises:
        FileExistsError: if it is there, and stays as it was.
        OSError: as the system says; nothing is left behind.
    """
    with _written(file, data) as part:
        try:
            os.link(part, file)
        except OSError as err:
            if err.errno not in NO_LINKS:
                raise
            file.open("xb").close()  # the name is ours, and for a moment empty
            part.replace(file)


def move_new(file: Path, to: Path) -> None:
    """Rename a file to a name that is not there yet.

    Raises:
        FileExistsError: if it is; both stay as they were.
        FileNotFoundError: if another process was faster.
    """
    try:
        os.link(file, to)
        file.unlink(missing_ok=True)
    except OSError as err:
        if err.errno not in NO_LINKS:
            raise
        if to.exists():
            raise FileExistsError(errno.EEXIST, "is there already", str(to)) from err
        file.rename(to)


@contextmanager
def _written(file: Path, data: bytes) -> Iterator[Path]:
    """Yield a file beside ``file`` that holds ``data``, and is gone afterwards."""
    # Not the process id: two machines that share the folder may have the same one.
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        yield part
    finally:
        part.unlink(missing_ok=True)


def read_record(file: Path, curve: bool = True) -> Record:
    """Read one record.

    Args:
        file: ``*.json`` or ``*.json.gz``.
        curve: whether to keep the epochs, which are most of it; tables do without.

    Raises:
        NewerRecord: if it was written by a newer version.
        ClosedRecord: if the system does not let it be read.
        UserError: if it is not a record.
    """
    try:
        data = file.read_bytes()
    except OSError as err:
        advice = "; get permission from its owner" if isinstance(err, PermissionError) else ""
        raise ClosedRecord(f"{file} cannot be read: {err.strerror}{advice}") from err
    try:
        text = gzip.decompress(data) if file.suffix == ".gz" else data
        # Three times as fast as json, and a report of many records does little else.
        raw = from_json(text if curve else _without_curve(text))
        version = raw.get("schema_version", 0)
        if version > SCHEMA:
            raise NewerRecord(
                f"{file} was written by a newer mmbench (record version {version}; this one reads "
                f"up to {SCHEMA}); update mmbench"
            )
        return Record.model_validate(raw if curve else {**raw, "curve": []})
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError, AttributeError) as err:
        raise UserError(
            f"{file} is not a readable record ({type(err).__name__}); move it away and run the "
            "cell again"
        ) from err


def _without_curve(text: bytes) -> bytes:
    """Return a record's JSON without its epochs; all of it where it was not written as ours are.

    What is cut out is not read at all: that is quicker than to read it and throw it away.
    """
    end = text.rfind(b'"selection": {')
    start = text.rfind(b'"curve": [{"epoch": ', 0, max(0, end))
    return text[:start] + text[end:] if 0 < start < end else text


def iter_records(folder: Path, unreadable: list[str] | None = None) -> Iterator[Record]:
    """Yield the records of ``<results>/runs`` or ``<results>/records``, in name order.

    A cell with a finished record yields that; one that only failed yields its last failure.

    Args:
        folder: where they lie.
        unreadable: gets the message of every file that cannot be read; without it, the first
            such file is an error.

    Raises:
        UserError: see ``unreadable``.
    """
    for file, _ in record_files(folder, unreadable):
        try:
            yield read_record(Path(file))
        except UserError as err:
            if unreadable is None:
                raise
            unreadable.append(str(err))


def glance(file: str) -> Literal["done", "refused"] | None:
    """Return the status of a finished record from the two ends of its file, or None.

    That notices a file that was cut short, and not one that was altered in the middle.

    Raises:
        OSError: if the file cannot be opened.
    """
    handle = os.open(file, os.O_RDONLY)
    try:
        head = os.pread(handle, HEAD, 0)
        end = os.pread(handle, 2, max(0, os.fstat(handle).st_size - 2))
    finally:
        os.close(handle)
    found = STATUS.search(head)
    if found is None or not end.rstrip().endswith(b"}"):
        return None
    return "refused" if found[1] == b"refused" else "done"


def cell_of(name: str) -> str:
    """Return the cell's folder of a collected record's name."""
    return name.removesuffix(".gz").removesuffix(PLAIN)


def record_files(
    folder: Path, unreadable: list[str] | None = None
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files that hold the records of a folder, in name order, with what stat says.

    Of a cell's run directory that is the finished record, else its last failure. Paths are text:
    to make a hundred thousand of them takes longer than to look at the files.

    Args:
        folder: where they lie.
        unreadable: gets what cannot be looked at, as without permission.

    Raises:
        OSError: if something cannot be looked at and there is no list for it.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    names = {entry.name for entry in found}
    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.name.endswith(PACKED) and entry.name.removesuffix(".gz") in names:
            continue  # the plain one was about to be replaced by it
        try:
            if entry.name.endswith((PLAIN, PACKED)):
                yield entry.path, entry.stat()
            elif entry.is_dir():
                yield from speaking(entry.path)
        except OSError as err:
            if unreadable is None:
                raise
            unreadable.append(f"{entry.path} cannot be read: {err.strerror}")


def speaking(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the file that speaks for the cell of a run directory, if there is one."""
    done = f"{folder}/record.json"
    with suppress(FileNotFoundError):
        yield done, os.stat(done)
        return
    for _ in range(2):  # a retry may rename one in this moment
        with suppress(FileNotFoundError):
            names = os.listdir(folder)
            if failures := [n for n in names if n.startswith("failed-") and n.endswith(PLAIN)]:
                last = f"{folder}/{max(failures)}"
                yield last, os.stat(last)
            return


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one cell."""

    path: Path

    @property
    def record_file(self) -> Path:
        """The record of a done or refused cell."""
        return self.path / "record.json"

    def facts(self, name: str) -> dict[str, Any]:
        """Return what ``cell.json`` or ``progress.json`` holds; nothing if it cannot be read."""
        try:
            held = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return held if isinstance(held, dict) else {}

    def failures(self) -> list[Path]:
        """Return the records of failed attempts, oldest first."""
        return sorted(self.path.glob("failed-*.json"))

    @property
    def cancelled(self) -> bool:
        """Whether someone cancelled this cell, and nobody asked for it again since."""
        return (self.path / CANCELLED).exists()

    def cancel(self) -> None:
        """Ask whoever runs the cell to stop after a checkpoint, and all others to leave it alone.

        Raises:
            OSError: as the system says.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / CANCELLED).touch()

    def retry(self) -> None:
        """Make a failed or cancelled cell one that waits; its failures are kept, but count no more.

        Raises:
            OSError: as the system says.
        """
        numbers = itertools.count(len(list(self.path.glob("retried-*.json"))) + 1)
        for file in self.failures():
            for number in numbers:
                try:
                    move_new(file, self.path / f"retried-{number:03d}.json")
                except FileExistsError:
                    continue
                except FileNotFoundError:  # another process did it
                    pass
                break
        self.uncancel()

    def uncancel(self) -> None:
        """Let workers run the cell again."""
        (self.path / CANCELLED).unlink(missing_ok=True)

    def state(self) -> State:
        """Return the state, from files alone; a record that is no record is ``unreadable``."""
        if self.record_file.exists():
            try:
                status = read_record(self.record_file).status
            except UserError:
                return "unreadable"
            return "refused" if status == "refused" else "done"
        listed = lease.names(self.path)
        return self.unfinished_state(listed, lease.live(self.path, listed) is not None)

    def unfinished_state(self, listed: Sequence[str], leased: bool) -> State:
        """Return the state of a cell without a record.

        Args:
            listed: the names in the directory.
            leased: a worker holds its lease.
        """
        if leased or ("lock" in listed and in_use(self.path)):
            return "running"
        if CANCELLED in listed:
            return "cancelled"
        if any(name.startswith("failed-") for name in listed):
            return "failed"
        return "interrupted" if lease.step_of(listed) >= 0 else "waiting"

    def recorded_state(self) -> State:
        """Return the state of a cell with a record, from a glance at it."""
        try:
            return glance(str(self.record_file)) or self.state()
        except OSError:
            return "unreadable"

    def set_aside(self) -> Path:
        """Rename a record that is damaged, so that the cell can run again; nothing is lost.

        Raises:
            NewerRecord: if it is only for another version to read.
            ClosedRecord: if it may be whole.
        """
        try:
            read_record(self.record_file)
        except (NewerRecord, ClosedRecord):
            raise
        except UserError:
            pass
        kept = self.path / f"unreadable-{len(list(self.path.glob('unreadable-*'))) + 1:03d}.json"
        self.record_file.replace(kept)
        return kept

    def write(self, record: Record) -> Path:
        """Write a record: ``record.json``, or the next ``failed-NNN.json``.

        Raises:
            FileExistsError: if the cell has a record; it is never replaced.
            OSError: as the system says.
        """
        text = json.dumps(record.model_dump(mode="json", exclude_none=True), allow_nan=False)
        if record.status != "failed":
            write_new(self.record_file, text.encode())
            return self.record_file
        for number in itertools.count(len(self.failures()) + 1):
            file = self.path / f"failed-{number:03d}.json"
            with suppress(FileExistsError):
                write_new(file, text.encode())
                break
        return file

    def write_progress(self, **values: Any) -> None:  # Any: JSON values
        """Write the live state that ``mmbench status`` shows; best effort, not fsynced."""
        part = self.path / f".progress.{os.getpid()}"
        with suppress(OSError):
            part.write_text(json.dumps(values))
            part.replace(self.path / "progress.json")


class Store:
    """A results folder.

    Args:
        results: the folder; made when something is first written.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        self.runs = results / "runs"

    def check_writable(self) -> None:
        """Refuse early if nothing can be written here; make the folder if it is missing.

        Raises:
            UserError: if it cannot be made or written.
        """
        probe = self.runs / f".probe.{os.getpid()}"
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as err:
            raise UserError(
                f"cannot write to the results folder {self.results}: "
                f"{hindrance(self.runs, err)}, or choose another with --results DIR"
            ) from err

    def directory(self, cell: Cell) -> RunDirectory:
        """Return the run directory of ``cell``, which may not exist yet."""
        return RunDirectory(self.runs / cell.folder)

    def create(self, cell: Cell) -> RunDirectory:
        """Make the run directory of ``cell`` and write ``cell.json``, anew if it is damaged."""
        directory = self.directory(cell)
        directory.path.mkdir(parents=True, exist_ok=True)
        if not directory.facts("cell.json"):
            write_atomic(directory.path / "cell.json", cell.model_dump_json(indent=1).encode())
        return directory

    def state(self, cell: Cell) -> State:
        """Return the state of ``cell``."""
        return self.directory(cell).state()


def in_use(folder: Path) -> bool:
    """Say whether a process holds the lock of a run directory: it is training there now."""
    lock = folder / "lock"
    try:
        # NFS asks for a file that is open for writing where a lock excludes all others.
        mode, kind = ("r+", fcntl.LOCK_EX) if os.access(lock, os.W_OK) else ("r", fcntl.LOCK_SH)
        with lock.open(mode) as handle:
            return not try_lock(handle, kind)
    except FileNotFoundError:
        return False
    except OSError:  # nobody can tell
        return True
