"""Claims on the cells of a sweep that any number of workers share; see ``lease`` for the rules.

Every worker walks over the cells in their order, the longest first. It looks at each once; what is
finished it forgets, and what another holds it looks at again when that lease would run out. If that
cell has lost its worker, and has a checkpoint, it goes on before untouched cells begin; so does one
with a checkpoint that failed here, and one that someone forgave. After several cells in a row that
were not to be had, it takes larger and larger steps, so that a worker that joins late need not look
at all that is finished; what it stepped over it comes back to.
"""

import heapq
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mmbench.launch import lease as leases
from mmbench.launch import strikes
from mmbench.launch.lease import Lease, Owner
from mmbench.launch.source import Task
from mmbench.launch.strikes import Past
from mmbench.launch.sweepfolder import Entry, SweepFolder
from mmbench.record import Failure
from mmbench.store import CANCELLED, FULL, RunDirectory

WATCH = 5.0  # seconds between two looks for the marker ``cancelled``
FOR_ROOM = 3600.0  # seconds to wait for room on the disk
STRIDE = 1024  # the largest step,
PARTS = 32  # and the largest of a short list: its length by this, so as not to step over the rest
NEAR = 4  # looks at the first cells not seen, before the search goes on elsewhere

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
        self.sweep, self.owner, self.stop = sweep, owner, stop
        self.entries = sweep.entries
        self.seen = bytearray(len(self.entries))
        self.head = 0  # all before it are seen
        self.found = 0  # after the last miss before a free cell was found
        self.first: deque[int] = deque()  # to try before all others: begun here, or forgiven
        self.last: deque[int] = deque()  # to try again after all others: no checkpoint is lost
        self.held: list[tuple[float, int]] = []  # heap of when to look again (monotonic), index
        self.settled = 0  # finished, or given up
        self.given_up: dict[str, str] = {}  # folder -> reason
        self.since = sweep.since()
        self.retried = sweep.retried()
        self.running: dict[Lease, int] = {}
        self.lock = threading.Lock()  # of ``running``
        self.worked = time.monotonic()  # when a cell was last taken or ended here
        self.longest = owner.seconds  # of all leases met
        self.no_room = False  # said, until a cell is taken again
        self.pause_until = 0.0  # no claims before
        self._done = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._beating.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._beating.join()
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
            task = self._begun(owner) or self._fresh(owner) or self._again(owner)
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
        with self.lock:
            index = self.running.pop(task.lease)
        self.worked = time.monotonic()
        kind, again = message["kind"], message.get("again")
        try:
            if kind in {"done", "refused"}:
                self.settled += 1
                leases.clear(task.lease.folder, leases.names(task.lease.folder))
            elif again == "lost":
                self._look_later(index, self.owner.seconds)
            elif kind == "failed" and not again:
                self._strike(task, index, message)
            else:
                task.lease.finish("released")
                if again == "busy":
                    self._look_later(index, self.beat_seconds)
                else:
                    self._try_again(task.lease.folder, index)
        except OSError as err:
            self._wait(f"cannot write the end of {task.cell.folder}: {err}", err.errno in FULL)
            self._look_later(index, self.owner.seconds)
        if again == "full":
            self._wait(str(message["reason"]), True)

    # ------------------------------------------------------------------ claiming

    def _begun(self, owner: Owner) -> Task | None:
        """Claim a cell that was begun: forgiven, failed here, or one whose lease ran out.

        Of those that others held only those are looked at whose lease would be over by now.
        """
        for _ in range(len(self.first)):
            if task := self._claim(self.first.popleft(), owner):
                return task
        now = time.monotonic()
        while self.held and self.held[0][0] <= now:
            _, index = heapq.heappop(self.held)
            if task := self._claim(index, owner, untouched=False):
                return task
        return None

    def _fresh(self, owner: Owner) -> Task | None:
        """Claim a cell not seen yet, in growing steps over those that are not free.

        A few looks go to the first of them; without luck, the search goes on where the last one
        ended, and, when it comes to the end of the list, over all that was stepped over.
        """
        most = min(STRIDE, len(self.seen) // PARTS + 1)
        while (at := self._next(self.head)) < len(self.seen):
            self.head = after = at
            looks, stride = 0, 1
            while at < len(self.seen):
                self.seen[at] = 1
                if task := self._claim(at, owner):
                    if looks >= NEAR:
                        self.found = after
                    return task
                looks, after = looks + 1, at + 1
                if looks == NEAR and self.found > after:
                    after, stride = self.found, 1
                    at = self._next(after)
                else:
                    at = self._next(at + random.randint(1, stride))
                    stride = min(2 * stride, most)
            self.found = 0
        self.head = at
        return None

    def _next(self, at: int) -> int:
        """Return the first cell from ``at`` on that was not seen; their number if there is none."""
        found = self.seen.find(0, at)
        return found if found >= 0 else len(self.seen)

    def _again(self, owner: Owner) -> Task | None:
        """Claim a cell without a checkpoint that failed, or one that should be held for a while."""
        for _ in range(len(self.last)):
            if task := self._claim(self.last.popleft(), owner):
                return task
        for _ in range(len(self.held)):
            _, index = heapq.heappop(self.held)
            if task := self._claim(index, owner):
                return task
        return None

    def _claim(self, index: int, owner: Owner, untouched: bool = True) -> Task | None:
        """Claim one cell, or note why it is not to be had.

        Args:
            index: which.
            owner: who claims.
            untouched: whether it may be one without a checkpoint; else it is kept for later.

        Raises:
            OSError: if the lease or the run directory cannot be written.
        """
        entry = self.entries[index]
        lease = None
        try:
            lease = self._lease(index, entry, owner, untouched)
            if lease is None:
                return None
            cell = self.sweep.cell(entry)
        except OSError:
            self.last.appendleft(index)
            if lease:
                lease.finish("released")
            raise
        with self.lock:
            self.running[lease] = index
        return Task(cell, lease)

    def _lease(self, index: int, entry: Entry, owner: Owner, untouched: bool) -> Lease | None:
        folder = self.sweep.runs / entry.folder
        listed = leases.names(folder)
        if "record.json" in listed:
            self.settled += 1
            leases.clear(folder, listed)
            return None
        if CANCELLED in listed:
            self._give_up(entry, "cancelled")
            return None
        if not listed:
            folder.mkdir(parents=True, exist_ok=True)
        past = leases.history(folder, listed)
        newest = past[-1] if past else None
        if newest and not newest.end:
            there = leases.server_time(self.sweep.runs)
            left = newest.left(there)
            if left > 0:
                if newest.age(there) < -left:  # the server's clock was set back, or a copy kept it
                    newest.beat()  # it counts from now on; who is alive does the same soon
                self.longest = max(self.longest, left)
                self._look_later(index, left)
                return None
        troubled = past or any(name.startswith("failed-") for name in listed)
        story = strikes.past(RunDirectory(folder), listed, past, self.since) if troubled else None
        if story and story.given_up:
            self._give_up(entry, story.failures[-1].message)
            return None
        verdict = story.verdict() if story else None
        step = leases.step_of(listed)
        if step < 0 and not untouched and not verdict:
            self.last.append(index)
            return None
        number = newest.number + 1 if newest else 1
        taken = leases.take(folder, number, replace(owner, step=step))
        if taken is None:
            self._look_later(index, self.owner.seconds)
            return None
        # Between looking and taking, its owner may have finished it and removed the leases.
        if (folder / "record.json").exists():
            self.settled += 1
            leases.clear(folder, leases.names(folder))
            return None
        if story and verdict:
            self._bury(taken, entry, story, verdict)
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
            self._give_up(entry, verdict.message)
        else:
            self._try_again(directory.path, index)
        task.lease.finish("failed")

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
                self.first.append(index)
                self.settled -= 1

    def _try_again(self, folder: Path, index: int) -> None:
        begun = leases.step_of(leases.names(folder)) >= 0
        (self.first if begun else self.last).append(index)

    def _look_later(self, index: int, seconds: float) -> None:
        heapq.heappush(self.held, (time.monotonic() + seconds, index))

    def _wait(self, reason: str, no_room: bool) -> None:
        self.no_room = no_room
        log.warning("%s; looking again in %.0f s", reason, self.beat_seconds)
        self.pause_until = time.monotonic() + self.beat_seconds

    # ------------------------------------------------------------------ the heart

    def _beat(self) -> None:
        """Touch every held lease in time; look for the marker that cancels the sweep."""
        due = time.monotonic() + self.beat_seconds
        cancelled = False
        while not self._done.wait(min(WATCH, max(0.0, due - time.monotonic()))):
            if not cancelled and self.sweep.cancelled:
                cancelled = True
                self.stop()
            if time.monotonic() < due:
                continue
            due = time.monotonic() + self.beat_seconds
            with self.lock:
                held = list(self.running)
            for lease in held:
                try:
                    lease.beat()
                except OSError as err:
                    log.warning("cannot keep %s: %s", lease.file, err)
