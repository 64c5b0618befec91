"""Where a results folder stands: every cell's state, the sweeps, and who is at work.

From files alone, with one look into each run directory; records are not read, but for a glance at
their two ends. Cells of a sweep that nobody has begun have no run directory yet and wait.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mmbench.cell import FOLDER
from mmbench.errors import UserError
from mmbench.launch import lease as leases
from mmbench.launch import pools, strikes
from mmbench.launch.sweepfolder import open_sweep, sweeps
from mmbench.store import RunDirectory, State

FINISHED = ("done", "refused")
UNFINISHED = ("interrupted", "waiting")


@dataclass(frozen=True)
class Seen:
    """What one look at a cell told.

    Attributes:
        name: of its run directory.
        dataset, label, seed: as in its name.
        state: as ``RunDirectory.state`` says.
        host, pid, job: where it runs; None: not known, or it does not run.
        epoch: epochs that have ended.
        epochs: how many there are; None: not known yet.
        left: seconds of training left, if it runs and an epoch has ended.
        failures: how many attempts failed.
        deaths: how many workers died at it in a row, without a checkpoint in between.
        reason: why its folder cannot be read; empty: it can.
    """

    name: str
    dataset: str | None
    label: str | None
    seed: int | None
    state: State
    host: str | None = None
    pid: int | None = None
    job: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    left: float | None = None
    failures: int = 0
    deaths: int = 0
    reason: str = ""

    @property
    def where(self) -> str:
        """Machine, and process or SLURM job."""
        what = f"job {self.job}" if self.job else f"process {self.pid}" if self.pid else ""
        return f"{self.host} {what}".strip() if self.host else ""


@dataclass(frozen=True)
class SweepState:
    """A sweep, or a pool on some machine, with its cells by state.

    Attributes:
        id: name of its folder.
        cancelled: its workers were asked to stop for good.
        counts: number of cells by state.
        jobs: ids of its SLURM jobs.
    """

    id: str
    cancelled: bool
    counts: Mapping[str, int]
    jobs: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether someone still has work to do; workers leave alone what they cannot read."""
        over = (*FINISHED, "cancelled", "unreadable")
        left = sum(n for state, n in self.counts.items() if state not in over)
        return bool(self.counts.get("running")) or (left > self.counts.get("failed", 0)
                                                    and not self.cancelled)  # fmt: skip


@dataclass(frozen=True)
class Survey:
    """All of it.

    Attributes:
        cells: by name.
        sweeps: oldest first.
        pools: local pools that are at work now.
        damaged: what could not be read of sweeps, by the name of their folder.
        taken: names of the cells of pools at work and of sweeps that were not cancelled.
    """

    cells: dict[str, Seen]
    sweeps: list[SweepState] = field(default_factory=list)
    pools: list[SweepState] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()

    @property
    def left_alone(self) -> list[str]:
        """Names of the cells that were begun and that nobody goes on with unless asked."""
        return [
            seen.name
            for seen in self.cells.values()
            if seen.state in UNFINISHED and seen.dataset and seen.name not in self.taken
        ]

    @property
    def counts(self) -> Counter[str]:
        """Number of cells by state."""
        return Counter(seen.state for seen in self.cells.values())


class _Group(NamedTuple):
    """A sweep or a pool before its cells are counted; ``cells`` are names of run directories."""

    id: str
    cancelled: bool
    cells: Sequence[str]
    jobs: tuple[str, ...] = ()
    local: bool = False


def survey(results: Path) -> Survey:
    """Look at a whole results folder."""
    runs = results / "runs"
    there = leases.server_time(runs) if runs.is_dir() else 0.0
    cells = {seen.name: seen for seen in _directories(runs, there)}
    damaged: dict[str, str] = {}
    groups = _groups(results, damaged)
    found = Survey(cells, damaged=damaged, taken=_taken(groups))
    # A cell that one sweep was cancelled for may wait in another: those that go on come first.
    for group in sorted(groups, key=lambda group: group.cancelled):
        counts: Counter[str] = Counter()
        for name in group.cells:
            if name not in cells:
                cells[name] = _not_begun(name, "cancelled" if group.cancelled else "waiting")
            counts[cells[name].state] += 1
        state = SweepState(group.id, group.cancelled, counts, group.jobs)
        (found.pools if group.local else found.sweeps).append(state)
    found.sweeps.sort(key=lambda each: each.id)
    return found


def left_alone(results: Path) -> list[str]:
    """Return ``Survey.left_alone``, without reading what has a record."""
    runs = results / "runs"
    if not runs.is_dir():
        return []
    begun = _directories(runs, leases.server_time(runs), finished=False)
    cells = {seen.name: seen for seen in begun}
    return Survey(cells, taken=_taken(_groups(results, {}) if cells else [])).left_alone


def _groups(results: Path, damaged: dict[str, str]) -> list[_Group]:
    """Return all sweeps and the pools at work; ``damaged`` gets the sweeps that cannot be read."""
    groups: list[_Group] = []
    for path in sweeps(results):
        try:
            sweep = open_sweep(path)
            names = [entry.folder for entry in sweep.entries]
        except UserError as err:
            damaged[path.name] = str(err)
            continue
        groups.append(_Group(path.name, sweep.cancelled, names, job_ids(path)))
    at_work = pools.at_work(results)
    return groups + [_Group(p.id, p.cancelled, p.cells, local=True) for p in at_work]


def _taken(groups: Sequence[_Group]) -> frozenset[str]:
    return frozenset(name for group in groups if not group.cancelled for name in group.cells)


def job_ids(path: Path) -> tuple[str, ...]:
    """Return the ids of the SLURM jobs of the sweep in ``path``; a damaged line has none."""
    try:
        text = (path / "jobs.jsonl").read_text(encoding="utf-8")
    except OSError:
        return ()
    return tuple(dict.fromkeys(re.findall(r'"job": ?"(\d+)"', text)))


def _not_begun(name: str, state: State) -> Seen:
    return Seen(name, *_from_name(name), state)


def _from_name(name: str) -> tuple[str | None, str | None, int | None]:
    match = FOLDER.fullmatch(name)
    return (match["dataset"], match["label"], int(match["seed"])) if match else (None, None, None)


def _directories(runs: Path, there: float, finished: bool = True) -> Iterator[Seen]:
    """Look at all run directories, or at those without a record alone."""
    if not runs.is_dir():
        return
    for name in sorted(os.listdir(runs)):
        if name.startswith("."):
            continue
        try:
            listed = os.listdir(runs / name)
            if not finished and "record.json" in listed:
                continue
            seen = look(RunDirectory(runs / name), listed, there)
        except (NotADirectoryError, FileNotFoundError):
            continue
        except OSError as err:  # one folder that may not be read hides no other
            reason = err.strerror or str(err)
            seen = Seen(name, *_from_name(name), "unreadable", reason=reason)
        yield seen


def look(directory: RunDirectory, listed: list[str], there: float) -> Seen:
    """Look at one run directory.

    Args:
        directory: it.
        listed: the names in it.
        there: the time of the file server.
    """
    name = directory.path.name
    if "record.json" in listed:
        return Seen(name, *_identity(directory), directory.recorded_state())
    past = leases.history(directory.path, listed)
    held = past.pop() if past and past[-1].left(there) > 0 else None
    state = directory.unfinished_state(listed, held is not None)
    if state == "waiting" and not directory.facts("cell.json"):
        # Between making the directory and writing the cell; or damaged, if nobody is at it.
        state = "unreadable" if "cell.json" in listed else "waiting"
    live = directory.facts("progress.json") if "progress.json" in listed else {}
    failures = sum(each.startswith("failed-") for each in listed)
    shown = _shown(directory, live, state)
    if state == "running" and held and held.owner:
        shown |= {"host": held.owner.host, "pid": held.owner.pid, "job": held.owner.job}
    dead = len(strikes.deaths(past, leases.step_of(listed)))
    return Seen(name, *_identity(directory), state, failures=failures, deaths=dead, **shown)


def _identity(directory: RunDirectory) -> tuple[str | None, str | None, int | None]:
    found = _from_name(directory.path.name)
    if found[0] is not None:
        return found
    cell = directory.facts("cell.json")  # a folder that someone renamed
    return cell.get("dataset"), cell.get("label"), cell.get("seed")


def _shown(directory: RunDirectory, live: Mapping[str, Any], state: State) -> dict[str, Any]:
    """Return what ``progress.json`` tells of a cell that is not finished."""
    found: dict[str, Any] = {}
    epoch, epochs = live.get("epoch"), live.get("epochs")
    if isinstance(epoch, int) and isinstance(epochs, int):
        found |= {"epoch": epoch + 1, "epochs": epochs}
    if state != "running":
        return found
    found |= {key: live.get(key) for key in ("host", "pid", "job")}
    each = live.get("seconds_per_epoch")
    if isinstance(each, int | float) and "epochs" in found:
        # Counted down since the epoch ended, and never past the end of the one that runs now.
        with suppress(OSError):  # it has ended in this moment
            since = time.time() - (directory.path / "progress.json").stat().st_mtime
            gone = min(max(since, 0.0), each)
            found["left"] = max(0.0, each * (found["epochs"] - found["epoch"]) - gone)
    return found
