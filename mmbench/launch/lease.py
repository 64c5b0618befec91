"""Leases: which worker a cell belongs to, on any file system that several machines share.

A cell is taken by making the next of ``lease-0001.json``, ``lease-0002.json``, ... in its run
directory. The file is linked into place, so that it appears whole and to one taker only. The newest
generation counts: an owner that was away for too long finds a higher one and stops. How a
generation ended shows in its name:

- ``lease-0001.json``: held; or, when nobody touched it for its ``seconds``, its worker died;
- ``lease-0001.released.json``: its worker was asked to stop and wrote a checkpoint;
- ``lease-0001.failed.json``: the attempt failed, and a ``failed-NNN.json`` says why.

The owner touches the file to keep it. Its age is the difference of two times that both come from
the file server, so the clocks of the machines need not agree. Ending a lease renames or removes a
file, which a full disk allows.
"""

import errno
import json
import os
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from mmbench.errors import LeaseLost
from mmbench.record import now

SECONDS = 120.0  # how long an untouched lease is honoured, unless the sweep says otherwise
BEATS = 6  # touches per lease time
GRACE = 5.0  # seconds that a process goes on without its worker, which touches the lease
LEAST = GRACE * BEATS / (BEATS - 1)  # of lease seconds: what is left of one when its worker dies
NAME = re.compile(r"lease-(\d{4,})(?:\.(released|failed))?\.json")
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)

End = Literal["released", "failed"]


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who holds a lease.

    Attributes:
        worker: unique name of the claiming process.
        host: its machine.
        pid: its process id there.
        job: its SLURM job, as ``17`` or ``17_3``.
        seconds: how long the lease is honoured when nobody touches it.
        taken: when, UTC, ISO 8601.
        log: what the process that runs the cell writes to.
        step: of the newest checkpoint at that time; -1: none.
    """

    worker: str = "?"
    host: str = "?"
    pid: int = 0
    job: str | None = None
    seconds: float = SECONDS
    taken: str = ""
    log: str = ""
    step: int = -1

    @classmethod
    def this_process(cls, worker: str, seconds: float, job: str | None = None) -> "Owner":
        """Return the owner that stands for this process."""
        host = socket.gethostname()
        return cls(worker=worker, host=host, pid=os.getpid(), job=job, seconds=seconds)


@dataclass(frozen=True)
class Lease:
    """One generation of the lease of a run directory.

    Attributes:
        folder: the run directory.
        number: the generation, from 1.
        end: how it ended; None: it is held, or its worker died.
    """

    folder: Path
    number: int
    end: End | None = None

    @property
    def file(self) -> Path:
        """Where it lies."""
        ended = f".{self.end}" if self.end else ""
        return self.folder / f"lease-{self.number:04d}{ended}.json"

    @cached_property
    def owner(self) -> Owner | None:
        """Who took it; None if the file is empty, damaged or gone: then its age alone counts."""
        try:
            held = json.loads(self.file.read_text(encoding="utf-8"))
            known = {key: held[key] for key in Owner.__dataclass_fields__ if key in held}
            owner = Owner(**known)
            return replace(owner, seconds=float(owner.seconds))
        except (OSError, ValueError, TypeError):
            return None

    def age(self, now_there: float) -> float:
        """Return the seconds since it was touched; infinite if it is gone.

        Args:
            now_there: the file server's time, from ``server_time``.
        """
        try:
            with self.file.open("rb") as handle:  # opening makes NFS ask the server again
                return now_there - os.fstat(handle.fileno()).st_mtime
        except OSError:
            return float("inf")

    def left(self, now_there: float) -> float:
        """Return for how many seconds it is still honoured; not above 0: it can be taken."""
        if self.end:
            return 0.0
        age = self.age(now_there)
        seconds = self.owner.seconds if self.owner else SECONDS
        return min(seconds, seconds - age)  # a time ahead of the server's is no longer lease

    def beat(self) -> None:
        """Keep it; one that is gone is not missed: the owner looks before it writes a record."""
        with suppress(FileNotFoundError):
            os.utime(self.file)

    def finish(self, end: End) -> None:
        """Let go of it; the next taker need not wait."""
        with suppress(FileNotFoundError):
            self.file.rename(replace(self, end=end).file)

    def check(self) -> None:
        """Make sure that the cell is still this owner's.

        Raises:
            LeaseLost: if another worker took it over, or it is finished.
        """
        newest = latest(self.folder, names(self.folder))
        if newest is None or newest.number != self.number:
            raise LeaseLost(f"another worker took over {self.folder.name}; this one lets go of it")


def names(folder: Path) -> list[str]:
    """Return the names in a run directory; none if there is no such folder."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def history(folder: Path, listed: Iterable[str]) -> list[Lease]:
    """Return all generations among the names ``listed`` of ``folder``, oldest first."""
    found: dict[int, Lease] = {}
    for name in listed:
        if match := NAME.fullmatch(name):
            number = int(match[1])
            end = match[2]
            found[number] = Lease(folder, number, end)  # type: ignore[arg-type]  # as in NAME
    return [found[number] for number in sorted(found)]


def latest(folder: Path, listed: Iterable[str]) -> Lease | None:
    """Return the generation that counts; None if there never was one, or the cell is finished."""
    past = history(folder, listed)
    return past[-1] if past else None


def step_of(listed: Iterable[str]) -> int:
    """Return the step of the newest checkpoint among names; -1: there is none."""
    steps = (name.partition("-")[2] for name in listed if name.startswith("checkpoint-"))
    return max((int(step) for step in steps if step.isdigit()), default=-1)


def take(folder: Path, number: int, owner: Owner) -> Lease | None:
    """Make generation ``number`` of a run directory ours; None if another was first.

    Raises:
        OSError: as the system says (no room, no permission); nothing was taken.
    """
    lease = Lease(folder, number)
    text = json.dumps({**asdict(owner), "taken": now()}).encode()
    part = folder / f".lease-{owner.worker}-{number}"
    try:
        part.write_bytes(text)
        os.link(part, lease.file)
    except (FileExistsError, FileNotFoundError):  # taken; or taken, finished and tidied up
        return None
    except OSError as err:
        if err.errno not in NO_LINKS:
            raise
        return _without_links(lease, text)
    finally:
        part.unlink(missing_ok=True)
    return lease


def _without_links(lease: Lease, text: bytes) -> Lease | None:
    """Take on a file system without hard links; a crash in between leaves an empty lease."""
    try:
        with lease.file.open("xb") as handle:
            handle.write(text)
    except FileExistsError:
        return None
    return lease


def live(folder: Path, listed: Iterable[str]) -> Lease | None:
    """Return the lease of a run directory if a worker holds it now."""
    newest = latest(folder, listed)
    if newest is None or newest.end:
        return None
    return newest if newest.left(server_time(folder.parent)) > 0 else None


def clear(folder: Path, listed: Iterable[str]) -> None:
    """Remove the leases of a finished cell, and what a killed taker left of one."""
    for name in listed:
        if NAME.fullmatch(name) or name.startswith(".lease-"):
            (folder / name).unlink(missing_ok=True)


def server_time(folder: Path) -> float:
    """Return the time of the file server that holds ``folder``, by touching ``.clock`` there.

    Who may only read there gets the time of this machine.
    """
    probe = folder / ".clock"
    try:
        try:
            os.utime(probe)
        except FileNotFoundError:
            probe.touch()
        return probe.stat().st_mtime
    except OSError:
        import time

        return time.time()
