"""Where the pool gets its cells from: a list, or claims on a sweep that others work on too."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mmbench.cell import Cell
from mmbench.launch.lease import Lease


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
    """Gives out a list of cells, in order, once each."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.waiting = deque(cells)

    def __len__(self) -> int:
        return len(self.waiting)

    def take(self, log: Path) -> Task | None:
        """Return the next cell."""
        return Task(self.waiting.popleft()) if self.waiting else None

    def again(self) -> float | None:
        """Return None: what is not here now never comes."""

    def ended(self, task: Task, message: dict[str, Any]) -> None:  # Any: JSON values
        """Do nothing: the pool's outcome says it all."""
