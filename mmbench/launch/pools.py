"""Local pools announce themselves, so that other commands see what waits and can stop them.

``<results>/sweeps/local-HOST-PID/`` holds ``cells.json`` (the names of the run directories), a
``lock`` that the pool holds for as long as it lives, and ``cancelled`` once someone asks for that.
It is gone when the pool ends; what a killed one left is removed by the next.
"""

import fcntl
import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmbench.store import CANCELLED, in_use

LOOK_EVERY = 1.0  # seconds between two looks for the marker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalPool:
    """A pool that is at work.

    Attributes:
        path: its folder.
        cells: names of the run directories of all its cells.
    """

    path: Path
    cells: tuple[str, ...]

    @property
    def id(self) -> str:
        """What it is called."""
        return self.path.name

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to stop."""
        return (self.path / CANCELLED).exists()

    def cancel(self) -> None:
        """Ask it to stop after checkpoints, as Ctrl-C would.

        Raises:
            OSError: as the system says.
        """
        (self.path / CANCELLED).touch()


def _folders(results: Path) -> list[Path]:
    return sorted((results / "sweeps").glob("local-*"))


def at_work(results: Path) -> list[LocalPool]:
    """Return the pools that work on a results folder now, on whatever machine."""
    found = []
    for path in _folders(results):
        if not in_use(path):
            continue
        try:
            cells = json.loads((path / "cells.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it ended just now
            continue
        found.append(LocalPool(path, tuple(map(str, cells))))
    return found


@contextmanager
def announced(results: Path, cells: Sequence[str], stop: Callable[[], None]) -> Iterator[None]:
    """Let others see that this process works on ``cells``.

    Args:
        results: the results folder.
        cells: names of their run directories.
        stop: called once if someone asks the pool to stop.

    Where nothing can be written, the pool works unannounced; what that means is for others to say.
    """
    path = results / "sweeps" / f"local-{socket.gethostname()}-{os.getpid()}"
    try:
        for old in _folders(results):
            if not in_use(old):
                shutil.rmtree(old, ignore_errors=True)
        making = path.with_name(f".{path.name}")  # seen only once it is locked
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        lock = (making / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        (making / "cells.json").write_text(json.dumps(list(cells)), encoding="utf-8")
        making.rename(path)
    except OSError as err:
        log.warning(
            "cannot announce this run in %s (%s); mmbench cancel will not see it", path, err
        )
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(path, over, stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        shutil.rmtree(path, ignore_errors=True)
        lock.close()


def _watch(path: Path, over: threading.Event, stop: Callable[[], None]) -> None:
    while not over.wait(LOOK_EVERY):
        if (path / CANCELLED).exists():
            stop()
            return
