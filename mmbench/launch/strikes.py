"""When a cell is given up: it ended three times for the same cause.

A cause is the kind and the message of a failure, numbers left out: they tell of sizes, times and
process ids. A worker whose machine is gone leaves no failure, only its lease; that counts as long
as no checkpoint was written since, for then it may be the cell that kills its workers.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.cell import Cell
from mmbench.launch.lease import Lease, step_of
from mmbench.launch.log import MARK
from mmbench.record import Failure, Record, now
from mmbench.store import RunDirectory

SAME = 3  # ends for the same cause
ALL = 9  # ends for any cause, as some causes never read the same twice
TAIL = 40  # lines of a log
TAIL_BYTES = 16_384
NUMBERS = re.compile(r"0x[0-9a-f]+|\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Past:
    """What became of a cell so far, since failures count.

    Attributes:
        failures: kind, message and traceback of each failed attempt.
        deaths: leases of workers that died at it, in a row, without a checkpoint in between.
        given_up: the last failure says that this is the end.
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
            hosts = ", ".join(sorted({d.owner.host for d in self.deaths if d.owner}))
            message = f"{len(self.deaths)} workers died at it (on {hosts or 'unknown machines'})"
            return Failure(kind="WorkerDied", message=message, traceback="")
        if last and len(self.failures) + len(self.deaths) >= ALL:
            return last.model_copy(update={"message": f"after {ALL} attempts: {last.message}"})
        return None


def past(directory: RunDirectory, listed: Iterable[str], leases: Sequence[Lease], since: float
         ) -> Past:  # fmt: skip
    """Read what became of a cell.

    Args:
        directory: its run directory.
        listed: the names in it.
        leases: its generations that have ended, oldest first.
        since: the file server's time from which on ends count.
    """
    listed = list(listed)
    failures = []
    given_up = False
    for name in sorted(name for name in listed if name.startswith("failed-")):
        file = directory.path / name
        failure, final = _failure(file) if _modified(file) >= since else (None, False)
        if failure:
            failures.append(failure)
            given_up = final
    step = step_of(listed)
    deaths: list[Lease] = []
    for lease in reversed(leases):
        if lease.end or _modified(lease.file) < since:
            break
        if lease.owner and lease.owner.step != step:
            break
        deaths.append(lease)
    return Past(failures, deaths, given_up)


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _failure(file: Path) -> tuple[Failure | None, bool]:
    """Read the failure of one attempt, and whether it was the last; nothing if it is damaged."""
    try:
        failure = Failure.model_validate(json.loads(file.read_bytes())["failure"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, False
    return failure, failure.final


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
