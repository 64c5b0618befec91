"""Logs of workers: each runs one cell at a time and marks where that cell's lines begin.

A log is whatever a worker process writes, C libraries included. Finding a cell's lines means
looking for its mark in all logs of a results folder, so no cell needs a log file of its own.
"""

import mmap
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "== "  # begins a line that names the run directory whose lines follow
BLOCK = 1 << 16  # bytes read at once, from the end
LOOK_EVERY = 0.25  # seconds between two looks at a log that is followed
STAMP = len("2026-01-31T23:59:59Z")


def mark(folder: str) -> None:
    """Write to standard error that the lines of a cell follow, and when they began."""
    say(f"{MARK}{folder}", stamp=False)


def say(text: str, stamp: bool = True) -> None:
    """Write a line to standard error, with the time in UTC; a full disk is lived with."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime()) if stamp else ""
    with suppress(OSError, ValueError):
        print(f"{when}{text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Section:
    """The lines of one attempt at a cell.

    Attributes:
        file: the log.
        start: where the lines begin, in bytes.
        end: where they end; None: at the end of the file, which may grow.
    """

    file: Path
    start: int
    end: int | None

    @property
    def began(self) -> str:
        """When it began, as the first line says; empty if it does not."""
        with suppress(OSError), self.file.open("rb") as handle:
            handle.seek(self.start)
            return handle.read(STAMP).decode(errors="replace")
        return ""

    def tail(self, lines: int) -> tuple[str, int]:
        """Return the last lines, and the place in the file from where following goes on.

        Only the end is read, however long it is.

        Raises:
            OSError: if the file cannot be read.
        """
        with self.file.open("rb") as handle:
            end = self.end if self.end is not None else handle.seek(0, os.SEEK_END)
            at, data = end, b""
            while at > self.start and data.count(b"\n") <= lines:
                step = min(BLOCK, at - self.start)
                at -= step
                handle.seek(at)
                data = handle.read(step) + data
        kept = data.splitlines(keepends=True)[-lines:] if lines > 0 else []
        return b"".join(kept).decode(errors="replace"), end

    def follow(self, at: int, over: Callable[[], bool]) -> Iterator[str]:
        """Yield the lines added from ``at`` on, until another cell's mark, or until ``over()``.

        Raises:
            OSError: if the file cannot be read.
        """
        sign = MARK.encode()
        rest = b""
        with self.file.open("rb") as handle:
            handle.seek(at)
            while True:
                last_look = over()  # asked before reading, so that no line before it is missed
                *lines, rest = (rest + handle.read()).split(b"\n")
                for line in lines:
                    if line.startswith(sign):
                        return
                    yield line.decode(errors="replace") + "\n"
                if last_look:
                    if rest:
                        yield rest.decode(errors="replace")
                    return
                time.sleep(LOOK_EVERY)


def logs(results: Path) -> list[Path]:
    """Return the logs of all workers of a results folder."""
    return [
        *(results / "runs" / ".logs").glob("worker-*.log"),
        *(results / "sweeps").glob("*/logs/worker-*.log"),
    ]


def sections(files: Iterable[Path], folder: str) -> list[Section]:
    """Return all attempts at a cell that logs tell of, oldest first; unreadable logs tell none."""
    found: list[Section] = []
    for file in files:
        with suppress(OSError, ValueError):  # ValueError: an empty file cannot be mapped
            found += _sections(file, folder)
    return sorted(found, key=lambda section: section.began)


def _sections(file: Path, folder: str) -> Iterator[Section]:
    sign = f"{MARK}{folder}\n".encode()
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as text:
        at = text.find(sign)
        while at >= 0:
            start = at + len(sign)
            following = text.find(b"\n" + MARK.encode(), start - 1)
            if at == 0 or text[at - 1] == ord("\n"):
                yield Section(file, start, following + 1 if following >= 0 else None)
            at = text.find(sign, start)
