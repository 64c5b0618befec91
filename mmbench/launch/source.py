"""Where the pool gets its cells from: a list, or claims on a sweep that others work on too."""

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mmbench.cell import Cell
from mmbench.launch.lease import Lease
from mmbench.launch.strikes import death, write_failure
from mmbench.store import Store


@dataclass(frozen=True)
class Task:
    """A cell to run, and the lease that says so when others could run it too."""

    cell: Cell
    lease: Lease | None = None


class Source(Protocol):
    """What a pool asks of whoever gives out the cells."""

    def __len__(self) -> int:
        """Return how many cells may still come; no more workers than that are of use."""

    def take(self, log: Path) -> Task | None:
        """Return a cell to run, or None if there is none now; ``log``: what its worker writes."""

    def again(self) -> float | None:
        """Return after how many seconds ``take`` may have more; None: never."""

    def ended(self, task: Task, message: dict[str, Any]) -> None:  # Any: JSON values
        """Take note of how a cell ended: the worker's last message about it."""


class Listed:
    """Gives out a list of cells, in order; once more at the end those that others were running.

    Args:
        cells: the list.
        results: where the end of a cell whose worker died is recorded.
    """

    def __init__(self, cells: Iterable[Cell], results: Path) -> None:
        self.waiting = deque(cells)
        self.results = results
        self.logs: dict[str, Path] = {}
        self.tried: set[str] = set()

    def __len__(self) -> int:
        return len(self.waiting)

    def take(self, log: Path) -> Task | None:
        """Return the next cell."""
        if not self.waiting:
            return None
        cell = self.waiting.popleft()
        self.logs[cell.id] = log
        return Task(cell)

    def again(self) -> float | None:
        """Return None: what is not here now never comes."""

    def ended(self, task: Task, message: dict[str, Any]) -> None:  # Any: JSON values
        """Keep a cell for later that others are running; record the death of a worker."""
        cell = task.cell
        if message.get("again") == "busy" and cell.id not in self.tried:
            self.tried.add(cell.id)
            self.waiting.append(cell)
        if "died" in message:
            with suppress(OSError):  # a full disk
                directory = Store(self.results).directory(cell)
                log = str(self.logs[cell.id])
                write_failure(directory, cell, death(message["died"], log, cell.folder))
