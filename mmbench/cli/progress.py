"""Live progress: bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mmbench.cell import Cell
from mmbench.cli.output import clock
from mmbench.wording import counted


class Progress:
    """Shows what the workers say.

    Args:
        total: number of cells to run.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.counts: Counter[str] = Counter()
        self.running: dict[str, tuple[Cell, dict[str, Any]]] = {}
        self.begun = time.monotonic()
        self.first: float | None = None  # when the first cell was begun: workers take a while
        self.before: dict[str, float] = {}  # share of each cell that an earlier run trained
        self.trained = 0.0  # in cells that have ended, not counting what was trained before
        self.live = Live(get_renderable=self._render) if sys.stdout.isatty() else None

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            self.live.stop()

    def see(self, cell: Cell | None, message: dict[str, Any]) -> None:
        """Take in one message."""
        kind = message["kind"]
        if kind == "stopping":
            self._say("stopping: writing checkpoints; Ctrl-C once more ends at once")
        if cell is None:
            return
        if "warning" in message:
            self._say(f"warning: {cell.folder}: {message['warning']}")
        elif kind == "started":
            self.running[cell.id] = (cell, {})
            self.first = time.monotonic() if self.first is None else self.first
        elif kind == "elsewhere":
            self.running.pop(cell.id, None)
            self.before.pop(cell.id, None)
            self._say(f"later: {message['reason']}")
        elif kind == "progress":
            self.running[cell.id] = (cell, message)
            self.before.setdefault(cell.id, _share(message))
        elif kind in {"done", "refused", "failed", "interrupted"}:
            _, last = self.running.pop(cell.id, (cell, {}))
            self.counts[kind] += 1
            share = 1.0 if kind == "done" else _share(last)
            self.trained += share - self.before.get(cell.id, 0.0)
            self._say(self._line(cell, kind, message, last))

    def summary(self) -> str:
        """Return one line: how many cells ended how, and how long it took."""
        words = ", ".join(f"{n} {kind}" for kind, n in sorted(self.counts.items())) or "none run"
        return f"{words} of {counted(self.total, 'cell')} in {clock(time.monotonic() - self.begun)}"

    def _line(self, cell: Cell, kind: str, message: dict[str, Any], last: dict[str, Any]) -> str:
        ended = sum(self.counts.values())
        scores = _scores(last)
        reason = (message.get("reason") or "").strip().splitlines()
        detail = reason[-1] if reason else scores
        return (
            f"[{ended}/{self.total}] {kind} {cell.dataset} {cell.label} seed {cell.seed} {detail}"
        )

    def _say(self, line: str) -> None:
        if self.live:
            self.live.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def _left(self) -> str:
        """Return what is left at the pace of the training so far; empty before there was any."""
        now = {id_: _share(live) for id_, (_, live) in list(self.running.items())}
        trained = self.trained + sum(
            share - self.before.get(id_, share) for id_, share in now.items()
        )
        if self.first is None or trained <= 0:
            return ""
        rest = self.total - sum(self.counts.values()) - sum(now.values())
        return f", about {clock((time.monotonic() - self.first) / trained * rest)} left"

    def _render(self) -> Group:
        ended = sum(self.counts.values())
        elapsed = time.monotonic() - self.begun
        # Above the table, which may be longer than the screen.
        total = Text(f"{ended}/{counted(self.total, 'cell')}, {clock(elapsed)}{self._left()}")
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("cell", "epoch", "accuracy", "left"):
            table.add_column(name)
        for cell, live in list(self.running.values()):  # copied: another thread draws
            epochs = live.get("epochs", cell.trainer.epochs)
            epoch = live.get("epoch", -1) + 1
            each = live.get("seconds_per_epoch")
            left = "?" if each is None else clock(each * (epochs - epoch))
            name = f"{cell.dataset} {cell.label} s{cell.seed}"
            table.add_row(name, f"{epoch}/{epochs}", _scores(live), left)
        if not (self.running or ended):
            return Group(total, Text("starting the workers"))
        return Group(total, table) if self.running else Group(total)


def _share(message: dict[str, Any]) -> float:
    """Return the share of a cell's epochs that have ended."""
    return (message["epoch"] + 1) / message["epochs"] if "epochs" in message else 0.0


def _scores(message: dict[str, Any]) -> str:
    """Return the scores of a message behind the split that they are of."""
    metrics = message.get("metrics", {})
    scores = " ".join(f"{name} {100 * value:.1f}" for name, value in metrics.items())
    return f"{message['split']} {scores}" if scores else ""
