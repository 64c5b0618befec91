"""How far a long preparation is."""

import sys
import time

from rich import progress
from rich.console import Console

SAY_EVERY = 10.0  # seconds between lines when there is no terminal


class Progress:
    """A bar with the time left on a terminal, a line now and then elsewhere; on stderr.

    Where nothing is left to do there is no bar.

    Args:
        total: samples.
        done: how many of them were done before.
        what: is being done.
    """

    def __init__(self, total: int, done: int, what: str = "decoding") -> None:
        self.what = what
        self.total, self.done, self.first = total, done, done
        self.begun = self.said = time.monotonic()
        self.bar: progress.Progress | None = None
        if done < total and sys.stderr.isatty():
            self.bar = progress.Progress(
                progress.TextColumn(what), progress.BarColumn(), progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(), console=Console(stderr=True),
            )  # fmt: skip
            self.task = self.bar.add_task("", total=total, completed=done)

    def __enter__(self) -> "Progress":
        if self.first:
            print(f"{self.first} of {self.total} samples were decoded before", file=sys.stderr)
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, samples: int) -> None:
        """Count ``samples`` more as done."""
        self.done += samples
        now = time.monotonic()
        if self.bar:
            self.bar.advance(self.task, samples)
        elif now - self.said > SAY_EVERY:
            left = (now - self.begun) / (self.done - self.first) * (self.total - self.done)
            self.said = now
            print(f"{self.what}: {self.done} of {self.total}, {left:.0f} s left", file=sys.stderr)
