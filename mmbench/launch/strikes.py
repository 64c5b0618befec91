"""When a cell is given up: it ended three times for the same cause.

A cause is the kind and the message of a failure, numbers left out: they tell of sizes, times and
process ids. Failures count from the last submission on, as typing a run again asks for another try.

A worker whose machine is gone leaves no failure, only its lease; that counts as long as no
checkpoint was written since, for then it may be the cell that kills its workers. Such deaths count
across submissions, until someone says ``retry``: each costs a whole job.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmbench.cell import Cell
from mmbench.launch import lease as leases
from mmbench.launch.lease import Lease, Owner
from mmbench.launch.log import MARK
from mmbench.record import Failure, Record, now
from mmbench.store import RunDirectory
from mmbench.wording import counted

SAME = 3  # ends for the same cause
ALL = 9  # ends for any cause, as some causes never read the same twice
KILLS = "KillsWorkers"  # the kind of failure of a cell at which whole workers died
TAIL = 40  # lines of a log
TAIL_BYTES = 16_384
NUMBERS = re.compile(r"0x[0-9a-f]+|\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Past:
    """What became of a cell so far, since failures count.

    Attributes:
        failures: kind, message and traceback of each failed attempt.
        deaths: leases of workers that died at it, in a row, without a checkpoint in between.
        given_up: a failure says that this is the end.
    """

    failures: Sequence[Failure]
    deaths: Sequence[Lease]
    given_up: bool

    def verdict(self) -> Failure | None:
        """Return the failure to give the cell up with, if it is time."""
        causes = Counter((f.kind, NUMBERS.sub("#", f.message)) for f in self.failures)
        last = self.failures[-1] if self.failures else None
        if last and causes[last.kind, NUMBERS.sub("#", last.message)] >= SAME:
            return last.model_copy(update={"message": f"{SAME} times: {last.message}"})
        if len(self.deaths) >= SAME:
            return Failure(kind=KILLS, message=told(self.deaths), traceback="")
        if last and len(self.failures) + len(self.deaths) >= ALL:
            return last.model_copy(update={"message": f"after {ALL} attempts: {last.message}"})
        return None


def past(directory: RunDirectory, listed: Iterable[str], ended: Sequence[Lease], since: float
         ) -> Past:  # fmt: skip
    """Read what became of a cell.

    Args:
        directory: its run directory.
        listed: the names in it.
        ended: its leases that nobody holds, oldest first.
        since: the file server's time from which on failures count; that a cell kills its workers
            counts whenever it was found.
    """
    listed = list(listed)
    failures = []
    given_up = False
    for name in sorted(name for name in listed if name.startswith("failed-")):
        file = directory.path / name
        failure = _failure(file)
        if failure and (_modified(file) >= since or (failure.final and failure.kind == KILLS)):
            failures.append(failure)
            given_up = given_up or failure.final
    return Past(failures, deaths(ended, leases.step_of(listed)), given_up)


def deaths(ended: Sequence[Lease], step: int) -> list[Lease]:
    """Return the leases of workers that died at a cell in a row without progress, newest first.

    Args:
        ended: leases that nobody holds, oldest first.
        step: of the newest checkpoint; -1: there is none.
    """
    found: list[Lease] = []
    for lease in reversed(ended):
        # One that is gone was ended, or the cell finished, since the folder was listed.
        if lease.end or not lease.file.exists():
            break
        if lease.owner and lease.owner.step != step:
            break
        found.append(lease)
    return found


def deaths_at(folder: Path) -> list[Lease]:
    """Return the same of a run directory as it is now."""
    listed = leases.names(folder)
    past = leases.history(folder, listed)
    if leases.live(folder, listed):
        past.pop()
    return deaths(past, leases.step_of(listed))


def told(dead: Sequence[Lease]) -> str:
    """Say how many workers died at a cell, and where."""
    hosts = ", ".join(sorted({lease.owner.host for lease in dead if lease.owner}))
    return f"{counted(len(dead), 'worker')} died at it (on {hosts or 'unknown machines'})"


def forgive(folder: Path) -> None:
    """Let the deaths at a cell count no more.

    Raises:
        OSError: as the system says.
    """
    if dead := deaths_at(folder):
        dead[0].finish("released")  # ends the row


def killer(folder: Path, cell: Cell, owner: Owner) -> Failure | None:
    """Return why a cell is given up that kills its workers; None: it may be tried.

    If it is time and nobody has done so yet, it is given up now, and a failure written.

    Args:
        folder: its run directory.
        cell: the cell.
        owner: who asks.

    Raises:
        OSError: as the system says.
    """
    listed = leases.names(folder)
    ended = leases.history(folder, listed)
    if "record.json" in listed or leases.live(folder, listed):
        return None
    story = past(RunDirectory(folder), listed, ended, float("inf"))
    if story.given_up:
        return story.failures[-1]
    verdict = story.verdict()
    if verdict is None:
        return None
    step = leases.step_of(listed)
    taken = leases.take(folder, ended[-1].number + 1, replace(owner, step=step))
    if taken is None:  # a worker was faster: it looks at the same
        return None
    bury(taken, cell, story, verdict)
    return verdict


def bury(taken: Lease, cell: Cell, story: Past, verdict: Failure) -> None:
    """Write the last failure of a cell whose last worker could not: it died.

    Args:
        taken: a lease on it; ended here.
        cell: the cell.
        story: what became of it.
        verdict: the failure to give it up with.

    Raises:
        OSError: if that cannot be written; another worker will try.
    """
    dead = story.deaths[0].owner if story.deaths else None
    end = tail(dead.log, taken.folder.name) if dead else ""
    try:
        write_end(RunDirectory(taken.folder), cell, verdict, end)
    except OSError:
        taken.finish("released")
        raise
    taken.finish("failed")


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _failure(file: Path) -> Failure | None:
    """Read the failure of one attempt; nothing if it is damaged."""
    try:
        return Failure.model_validate(json.loads(file.read_bytes())["failure"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def death(how: str, log: str, folder: str) -> Failure:
    """Return the failure of a cell whose worker died.

    Args:
        how: e.g. ``was killed by SIGKILL``.
        log: file that the worker wrote.
        folder: name of the cell's run directory.
    """
    return Failure(
        kind="WorkerDied", message=f"its worker {how}", traceback="", log=tail(log, folder)
    )


def write_failure(directory: RunDirectory, cell: Cell, failure: Failure) -> None:
    """Record an end that no training process could record itself.

    Raises:
        OSError: as the system says.
    """
    from mmbench.training.device import choose  # torch: not for those who only look
    from mmbench.training.environment import environment

    directory.path.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {"started": now(), "finished": now()}
    directory.write(
        Record(
            cell_id=cell.id,
            cell=cell,
            status="failed",
            environment=environment(choose("cpu")),
            failure=failure,
            **values,
        )
    )


def write_end(directory: RunDirectory, cell: Cell, verdict: Failure, end: str) -> None:
    """Record that a cell is given up.

    Args:
        directory: its run directory.
        cell: the cell.
        verdict: the failure to give it up with.
        end: the end of its log.

    Raises:
        OSError: as the system says.
    """
    write_failure(directory, cell, verdict.model_copy(update={"final": True, "log": end}))


def tail(log: str, folder: str) -> str:
    """Return the last lines of a worker's log, those of the cell in ``folder`` if they are marked.

    An unreadable log gives an empty text.
    """
    try:
        with open(log, "rb") as handle:
            handle.seek(0, 2)
            handle.seek(max(0, handle.tell() - TAIL_BYTES))
            text = handle.read().decode(errors="replace")
    except OSError:
        return ""
    _, marked, after = text.rpartition(f"{MARK}{folder}\n")
    return "\n".join((after if marked else text).splitlines()[-TAIL:])
