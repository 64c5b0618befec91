"""Claims on the cells of a sweep that any number of workers share; see ``lease`` for the rules.

In which order they are tried, ``order`` says; ``heart`` keeps what is held.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mmbench.launch import lease as leases
from mmbench.launch import strikes
from mmbench.launch.heart import Heart
from mmbench.launch.lease import Lease, Owner
from mmbench.launch.order import Order
from mmbench.launch.source import Task
from mmbench.launch.strikes import Past
from mmbench.launch.sweepfolder import Entry, SweepFolder
from mmbench.record import Failure
from mmbench.store import CANCELLED, FULL, RunDirectory

FOR_ROOM = 3600.0  # seconds to wait for room on the disk

log = logging.getLogger(__name__)


class Claims:
    """A source of cells for the pool; use as a context manager, which keeps the leases alive.

    Args:
        sweep: whose cells.
        owner: who this process is; its ``seconds`` is the lease time.
        stop: called once when the sweep is cancelled.
    """

    def __init__(
        self, sweep: SweepFolder, owner: Owner, stop: Callable[[], None] = lambda: None
    ) -> None:
        self.sweep, self.owner = sweep, owner
        self.entries = sweep.entries
        self.order = Order(len(self.entries))
        self.heart = Heart(sweep, self.beat_seconds, stop)
        self.running: dict[Lease, int] = {}
        self.settled = 0  # finished, or given up
        self.given_up: dict[str, str] = {}  # folder -> reason
        self.since = sweep.since()
        self.retried = sweep.retried()
        self.worked = time.monotonic()  # when a cell was last taken or ended here
        self.longest = owner.seconds  # of all leases met
        self.no_room = False  # said, until a cell is taken again
        self.pause_until = 0.0  # no claims before

    def __enter__(self) -> Self:
        self.heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.heart.stop()
        for lease in self.running:  # none, unless an error ended the pool
            lease.finish("released")

    @property
    def beat_seconds(self) -> float:
        """Seconds between two touches of a lease."""
        return self.owner.seconds / leases.BEATS

    def __len__(self) -> int:
        return len(self.entries) - self.settled

    # ------------------------------------------------------------------ what the pool asks

    def take(self, log: Path) -> Task | None:
        """Claim a cell; None if there is none to be had now."""
        if time.monotonic() < self.pause_until or self.sweep.cancelled:
            return None
        owner = replace(self.owner, log=str(log))
        try:
            self._forgive()
            task = self.order.take(partial(self._claim, owner))
        except OSError as err:
            self._wait(f"cannot claim a cell: {err}", err.errno in FULL)
            return None
        if task:
            self.worked, self.no_room = time.monotonic(), False
        return task

    def again(self) -> float | None:
        """Return when to look again; None if all is done, or others do the rest."""
        patience = max(2 * self.longest, FOR_ROOM if self.no_room else 0.0)
        if not len(self) or self.sweep.cancelled or time.monotonic() - self.worked > patience:
            return None
        return self.beat_seconds

    def ended(self, task: Task, message: dict[str, Any]) -> None:  # Any: JSON values
        """Let go of a cell as its end demands."""
        assert task.lease is not None  # every claim has one
        index = self.running.pop(task.lease)
        self.heart.let_go(task.lease)
        self.worked = time.monotonic()
        kind, again = message["kind"], message.get("again")
        try:
            if kind in {"done", "refused"}:
                self._settle(task.lease.folder, leases.names(task.lease.folder))
            elif again == "lost":
                self.order.later(index, self.owner.seconds)
            elif kind == "failed" and not again:
                self._strike(task, index, message)
            else:
                task.lease.finish("released")
                if again == "busy":
                    self.order.later(index, self.beat_seconds)
                else:
                    self._retry(task.lease.folder, index)
        except OSError as err:
            self._wait(f"cannot write the end of {task.cell.folder}: {err}", err.errno in FULL)
            self.order.later(index, self.owner.seconds)
        if again == "full":
            self._wait(str(message["reason"]), True)

    # ------------------------------------------------------------------ claiming

    def _claim(self, owner: Owner, index: int, untouched: bool) -> Task | None:
        """Claim one cell; if it is not to be had, tell the order when to try it again.

        Args:
            owner: who claims.
            index: which.
            untouched: whether it may be one without a checkpoint.

        Raises:
            OSError: if the lease or the run directory cannot be written.
        """
        entry = self.entries[index]
        lease = self._lease(index, entry, owner, untouched)
        if lease is None:
            return None
        try:
            cell = self.sweep.cell(entry)
        except OSError:
            lease.finish("released")
            raise
        self.running[lease] = index
        self.heart.keep(lease)
        return Task(cell, lease)

    def _lease(self, index: int, entry: Entry, owner: Owner, untouched: bool) -> Lease | None:
        folder = self.sweep.runs / entry.folder
        listed = leases.names(folder)
        if "record.json" in listed:
            self._settle(folder, listed)
            return None
        if CANCELLED in listed:
            self._give_up(entry, "cancelled")
            return None
        if not listed:
            folder.mkdir(parents=True, exist_ok=True)
        past = leases.history(folder, listed)
        if past and (left := self._left(past[-1])) > 0:
            self.order.later(index, left)
            return None
        troubled = past or any(name.startswith("failed-") for name in listed)
        story = strikes.past(RunDirectory(folder), listed, past, self.since) if troubled else None
        if story and story.given_up:
            self._give_up(entry, story.failures[-1].message)
            return None
        verdict = story.verdict() if story else None
        step = leases.step_of(listed)
        if step < 0 and not untouched and not verdict:
            self.order.retry(index, begun=False)
            return None
        number = past[-1].number + 1 if past else 1
        taken = self._link(index, folder, number, replace(owner, step=step))
        if taken and story and verdict:
            self._bury(taken, entry, story, verdict)
            return None
        return taken

    def _left(self, newest: Lease) -> float:
        """Return for how many seconds its owner still holds a cell; not above 0: nobody does."""
        if newest.end:
            return 0.0
        there = leases.server_time(self.sweep.runs)
        left = newest.left(there)
        if left > 0:
            if newest.age(there) < -left:  # the server's clock was set back, or a copy kept it
                newest.beat()  # it counts from now on; who is alive does the same soon
            self.longest = max(self.longest, left)
        return left

    def _link(self, index: int, folder: Path, number: int, owner: Owner) -> Lease | None:
        """Take the next lease of a cell that was free when it was looked at."""
        taken = leases.take(folder, number, owner)
        if taken is None:
            self.order.later(index, self.owner.seconds)
            return None
        # Between looking and taking, its owner may have finished it and removed the leases.
        if (folder / "record.json").exists():
            self._settle(folder, leases.names(folder))
            return None
        return taken

    def _bury(self, taken: Lease, entry: Entry, story: Past, verdict: Failure) -> None:
        """Give up a cell whose last worker could not do it: it died.

        Raises:
            OSError: if that cannot be written; another worker will try.
        """
        try:
            cell = self.sweep.cell(entry)
        except OSError:
            taken.finish("released")
            raise
        strikes.bury(taken, cell, story, verdict)
        self._give_up(entry, verdict.message)

    # ------------------------------------------------------------------ ends

    def _strike(self, task: Task, index: int, message: dict[str, Any]) -> None:
        """Count a failure against the cell; give it up if it is the third of its kind."""
        assert task.lease is not None  # every claim has one
        directory, entry = RunDirectory(task.lease.folder), self.entries[index]
        owner = task.lease.owner
        end = strikes.tail(owner.log, entry.folder) if owner else ""
        if died := message.get("died"):
            failure = strikes.death(died, owner.log if owner else "", entry.folder)
            strikes.write_failure(directory, task.cell, failure)
        elif not message.get("recorded"):
            failure = Failure(kind="Failed", message=str(message["reason"]), traceback="", log=end)
            strikes.write_failure(directory, task.cell, failure)
        story = strikes.past(directory, leases.names(directory.path), [], self.since)
        verdict = story.verdict()
        if verdict:
            strikes.write_end(directory, task.cell, verdict, end)
        task.lease.finish("failed")
        if verdict:
            self._give_up(entry, verdict.message)
        else:
            self._retry(directory.path, index)

    def _settle(self, folder: Path, listed: Iterable[str]) -> None:
        """Be done with a cell that has a record."""
        leases.clear(folder, listed)
        self.settled += 1

    def _give_up(self, entry: Entry, reason: str) -> None:
        self.settled += 1
        self.given_up[entry.folder] = reason

    def _forgive(self) -> None:
        """Look again at what was given up, if someone asked for that."""
        retried = self.sweep.retried()
        if retried == self.retried:
            return
        self.retried = retried
        for index, entry in enumerate(self.entries):
            if self.given_up.pop(entry.folder, None) is not None:
                self.order.retry(index, begun=True)
                self.settled -= 1

    def _retry(self, folder: Path, index: int) -> None:
        self.order.retry(index, begun=leases.step_of(leases.names(folder)) >= 0)

    def _wait(self, reason: str, no_room: bool) -> None:
        self.no_room = no_room
        log.warning("%s; looking again in %.0f s", reason, self.beat_seconds)
        self.pause_until = time.monotonic() + self.beat_seconds
