"""In which order a worker tries the cells of a sweep that any number of workers share.

It walks over them in their order, the longest first. It tries each once; what another holds it
tries again when that lease would run out. If that cell has lost its worker, and has a checkpoint,
it goes on before untouched cells begin; so does one with a checkpoint that failed here, and one
that someone forgave. After several cells in a row that were not to be had, it takes larger and
larger steps, so that a worker that joins late need not look at all that is finished; what it
stepped over it comes back to.
"""

import heapq
import random
import time
from collections import deque
from collections.abc import Callable

from mmbench.launch.source import Task

STRIDE = 1024  # the largest step,
PARTS = 32  # and the largest of a short list: its length by this, so as not to step over the rest
NEAR = 4  # looks at the first cells not seen, before the search goes on elsewhere

# Claims the cell of an index; with False only one that was begun, any other it gives back.
Claim = Callable[[int, bool], Task | None]


class Order:
    """The cells of a sweep by index, and what is known of when to try which.

    Whoever claims gives back, by ``later`` or ``retry``, what was not to be had and may be so yet;
    nobody is asked to claim the rest again. What could not be looked at for an OSError is kept.

    Args:
        cells: how many there are.
    """

    def __init__(self, cells: int) -> None:
        self.seen = bytearray(cells)
        self.head = 0  # all before it are seen
        self.found = 0  # after the last miss before a free cell was found
        self.first: deque[int] = deque()  # to try before all others
        self.last: deque[int] = deque()  # to try again after all others: no checkpoint is lost
        self.held: list[tuple[float, int]] = []  # heap of when to try again (monotonic), index

    def later(self, index: int, seconds: float) -> None:
        """Try a cell that another holds after so many seconds, or when there is nothing else."""
        heapq.heappush(self.held, (time.monotonic() + seconds, index))

    def retry(self, index: int, begun: bool) -> None:
        """Try a cell before all others if it was begun, after them if it was not."""
        (self.first if begun else self.last).append(index)

    def take(self, claim: Claim) -> Task | None:
        """Return the first that ``claim`` can have; None: there is none now.

        Raises:
            OSError: as ``claim`` does.
        """
        return self._begun(claim) or self._fresh(claim) or self._rest(claim)

    def _begun(self, claim: Claim) -> Task | None:
        """Claim a cell that was begun: forgiven, failed here, or one whose lease ran out.

        Of those that others held only those are tried whose lease would be over by now.
        """
        for _ in range(len(self.first)):
            if task := self._try(self.first.popleft(), claim):
                return task
        now = time.monotonic()
        while self.held and self.held[0][0] <= now:
            if task := self._try(heapq.heappop(self.held)[1], claim, untouched=False):
                return task
        return None

    def _fresh(self, claim: Claim) -> Task | None:
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
                if task := self._try(at, claim):
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

    def _rest(self, claim: Claim) -> Task | None:
        """Claim a cell without a checkpoint that failed, or one that should be held for a while."""
        for _ in range(len(self.last)):
            if task := self._try(self.last.popleft(), claim):
                return task
        for _ in range(len(self.held)):
            if task := self._try(heapq.heappop(self.held)[1], claim):
                return task
        return None

    def _try(self, index: int, claim: Claim, untouched: bool = True) -> Task | None:
        try:
            return claim(index, untouched)
        except OSError:
            self.last.appendleft(index)
            raise
