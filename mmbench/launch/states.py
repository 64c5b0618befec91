"""The state of every run of a results folder, fast enough for a hundred thousand of them.

One listing a run, and of a finished one the two ends of its record; the file server's clock is read
once. What training computed is not read: that is what a report does.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmbench.launch import lease as leases
from mmbench.launch.lease import Lease
from mmbench.store import RunDirectory, State


@dataclass(frozen=True)
class Seen:
    """What one look at a run directory tells.

    Attributes:
        directory: where it is.
        state: as ``RunDirectory.state`` says, but for a record that was altered in its middle.
        lease: who holds the cell; None: no worker of a sweep does.
    """

    directory: RunDirectory
    state: State
    lease: Lease | None = None


def scan(runs: Path) -> Iterator[Seen]:
    """Look at every run directory, in name order; there may be none."""
    if not runs.is_dir():
        return
    now_there = leases.server_time(runs)
    for name in sorted(os.listdir(runs)):
        if not name.startswith("."):
            seen = look(RunDirectory(runs / name), now_there)
            if seen:
                yield seen


def look(directory: RunDirectory, now_there: float) -> Seen | None:
    """Look at one run directory; None if it is none.

    Args:
        directory: where it should be.
        now_there: the file server's time, from ``lease.server_time``.
    """
    try:
        listed = os.listdir(directory.path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if "record.json" in listed:
        return Seen(directory, directory.recorded_state())
    lease = leases.latest(directory.path, listed)
    held = lease if lease and lease.left(now_there) > 0 else None
    return Seen(directory, directory.unfinished_state(listed, held is not None), held)
