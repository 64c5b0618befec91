"""``status``: where everything stands, once or again and again."""

import json
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from mmbench.cli.output import clock, console, grid, printing
from mmbench.hints import BEGIN, interrupted, typed
from mmbench.launch import squeue
from mmbench.launch.squeue import Answer
from mmbench.launch.strikes import SAME
from mmbench.record import now
from mmbench.survey import Seen, Survey, SweepState, survey
from mmbench.wording import counted

ORDER = (
    "done", "refused", "running", "interrupted", "waiting", "failed", "cancelled", "unreadable",
)  # fmt: skip
# Lines of each state; waiting cells are listed only if workers died at them or nobody comes.
LISTED = {"running": 50, "failed": 20, "unreadable": 20, "interrupted": 10, "waiting": 20}
SWEEPS = 5  # that are over and told of all the same
ASK_AGAIN = 60.0  # seconds before a SLURM that was silent is asked again
PAUSES = 4  # pauses between two looks are at least so many looks long


def status(results: Path, as_json: bool, watch: bool, every: float) -> int:
    """Print how many cells are in each state, and those that run or went wrong.

    Args:
        results: the results folder.
        as_json: all cells, sweeps and jobs as one JSON object.
        watch: again and again until nobody has work to do; a line whenever something changed where
            the output is not a terminal.
        every: seconds between two looks.

    Returns:
        1 if a record or a sweep cannot be read, else 0.
    """
    if watch and not as_json:
        return _watch(results, every)
    seen = survey(results)
    told = _ask(seen)
    if as_json:
        print(json.dumps(_as_json(seen, told), indent=1))
    else:
        with printing() as shown:
            shown.print(_page(seen, told, results))
    return _code(seen)


def _code(seen: Survey) -> int:
    return int(bool(seen.damaged) or seen.counts["unreadable"] > 0)


def _ask(seen: Survey) -> Answer | None:
    """Return SLURM's word on the jobs of sweeps that are not over; None if there are none."""
    ids = [job for sweep in seen.sweeps if sweep.open for job in sweep.jobs]
    return squeue.ask(ids) if ids else None


def _watch(results: Path, every: float) -> int:
    told: Answer | None = None
    asked = float("-inf")
    last = ""
    with _Display() as show:
        while True:
            begun = time.monotonic()
            seen = survey(results)
            if told is None or not told.silence or begun - asked > ASK_AGAIN:
                told, asked = _ask(seen), begun
            line = _counts(seen.counts)
            show(_page(seen, told, results), f"{now()} {_line(seen)}" if line != last else "")
            last = line
            if not any(each.open for each in (*seen.sweeps, *seen.pools)):
                return _code(seen)
            taken = time.monotonic() - begun
            try:
                time.sleep(max(every, PAUSES * taken))
            except KeyboardInterrupt:
                return _code(seen)


class _Display:
    """Shows pages on a terminal, each over the last; elsewhere prints lines."""

    def __init__(self) -> None:
        terminal = sys.stdout.isatty()
        self.live = Live(console=console(), auto_refresh=False) if terminal else None

    def __enter__(self) -> Callable[[RenderableType, str], None]:
        if self.live:
            self.live.start()
        return self._show

    def _show(self, page: RenderableType, line: str) -> None:
        if self.live:
            self.live.update(page, refresh=True)
        elif line:
            print(line, flush=True)

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[state]} {state}" for state in ORDER if counts.get(state))


def _line(seen: Survey) -> str:
    total = len(seen.cells)
    return f"{_counts(seen.counts)} of {counted(total, 'cell')}" if total else "no runs"


def _page(seen: Survey, told: Answer | None, results: Path) -> Group:
    if not seen.cells and not seen.damaged:
        begin = typed(BEGIN, results)
        return Group(Text(f"no runs in {results}; start some, e.g. {begin}"))
    parts: list[RenderableType] = [Text(_line(seen))]
    over = [sweep.id for sweep in seen.sweeps if not sweep.open][:-SWEEPS]
    groups = [sweep for sweep in (*seen.pools, *seen.sweeps) if sweep.id not in over]
    parts += [Text(_sweep_line(sweep, told)) for sweep in groups]
    parts += [Text(line) for line in _idle_sweeps(groups, told, results)]
    if told and told.silence:
        parts.append(Text(f"SLURM: {told.silence}; what is shown is from files alone"))
    parts += [Text(line) for line in seen.damaged.values()]
    parts += _tables(seen, told, results)
    if alone := len(seen.left_alone):
        parts.append(Text(interrupted(alone)))
    if seen.counts["failed"]:
        logs, retry = typed("mmbench logs CELL", results), typed("mmbench retry --failed", results)
        parts.append(
            Text(
                f"failed: {logs} says why, {retry} forgives; the same mmbench run command tries "
                "again"
            )
        )
    if any(each.deaths for each in seen.cells.values()):
        parts.append(
            Text(
                f"workers died: {typed('mmbench logs CELL', results)} says where; at {SAME} deaths "
                "with no checkpoint in between a cell is marked failed, "
                f"{typed('mmbench retry CELL', results)} forgives them"
            )
        )
    closed = sum(bool(each.reason) for each in seen.cells.values())
    if seen.counts["unreadable"] > closed:
        parts.append(
            Text("unreadable: mmbench run sets the damaged record aside and runs the cell again")
        )
    if closed:
        parts.append(
            Text(
                f"{counted(closed, 'folder')} in {results / 'runs'} cannot be opened: get "
                "permission from the owner"
            )
        )
    return Group(*parts)


def _sweep_line(sweep: SweepState, told: Answer | None) -> str:
    line = f"{sweep.id}: {_counts(sweep.counts)}" + (" (cancelled)" if sweep.cancelled else "")
    if not sweep.jobs:
        return line
    line += f"; SLURM {', '.join(sweep.jobs)}"
    if told is None or told.silence:
        return line
    mine = [job for job in told.jobs if job.array in sweep.jobs]
    return f"{line}: {_jobs(mine) or 'not in the queue'}"


def _idle_sweeps(groups: Iterable[SweepState], told: Answer | None, results: Path) -> Iterator[str]:
    """Say of each sweep that has work, but neither workers nor jobs, how it goes on."""
    queued = {job.array for job in told.jobs} if told and not told.silence else None
    for sweep in groups:
        idle = sweep.open and not sweep.counts.get("running") and sweep.jobs
        if idle and queued is not None and not queued & set(sweep.jobs):
            yield (
                f"nobody is at work on {sweep.id}: type its run again, or "
                f"mmbench work {results / 'sweeps' / sweep.id}"
            )


def _jobs(jobs: Iterable[squeue.Job]) -> str:
    """Say how many jobs are in each state; waiting ones of an array are one line with a reason."""
    groups: dict[str, list[squeue.Job]] = {}
    for job in jobs:
        why = f" ({job.reason})" if job.reason not in ("None", "") else ""
        groups.setdefault(f"{job.state}{why}", []).append(job)
    return ", ".join(f"{sum(_size(j) for j in some)} {what}" for what, some in groups.items())


def _size(job: squeue.Job) -> int:
    """Return how many jobs a line of squeue stands for: ``17_[1,3-5%2]`` are four."""
    _, bracket, inside = job.id.partition("[")
    if not bracket:
        return 1
    total = 0
    for part in inside.partition("%")[0].rstrip("]").split(","):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last.isdigit() or not last)):
            return max(total, 1)  # squeue cuts very long lists short
        total += int(last or first) - int(first) + 1
    return total


def _tables(seen: Survey, told: Answer | None, results: Path) -> list[RenderableType]:
    parts: list[RenderableType] = []
    alone = set(seen.left_alone)
    asked = {job for sweep in seen.sweeps if sweep.open for job in sweep.jobs}
    slurm = bool(told and not told.silence)
    titles = ["cell", "state", "epoch", "left", "where", *(["SLURM"] if slurm else [])]
    rows: list[list[str]] = []
    more = []
    for state, most in LISTED.items():
        cells = [
            each
            for each in seen.cells.values()
            if each.state == state and (state != "waiting" or each.deaths or each.name in alone)
        ]
        rows += [
            [*_row(each), *([_job_of(each, told, asked)] if slurm else [])] for each in cells[:most]
        ]
        if len(cells) > most:
            more.append(f"{len(cells) - most} more {state}")
    if rows:
        parts.append(grid(titles, rows, console().width))
    if more:
        every = typed("mmbench list runs", results)
        parts.append(Text(f"and {', '.join(more)}: {every}"))
    return parts


def _row(seen: Seen) -> tuple[str, ...]:
    remarks = []
    if seen.failures > 1 and seen.state == "failed":
        remarks.append(f"{seen.failures} attempts")
    if seen.deaths:
        remarks.append(f"{counted(seen.deaths, 'worker')} died at it")
    if seen.reason:
        remarks.append(seen.reason)
    state = f"{seen.state} ({', '.join(remarks)})" if remarks else seen.state
    epoch = f"{seen.epoch}/{seen.epochs}" if seen.epochs is not None else ""
    left = clock(seen.left) if seen.left is not None else ""
    return seen.name, state, epoch, left, seen.where


def _job_of(seen: Seen, told: Answer | None, asked: Collection[str]) -> str:
    """Return SLURM's word on the job of a cell; ``asked`` are the ids that it was asked about."""
    if told is None or seen.job is None:
        return ""
    if job := told.by_id.get(seen.job):
        return f"{job.state}, {job.left} left"
    lost = seen.state == "running" and seen.job.partition("_")[0] in asked
    return "gone: free when its lease ends" if lost else ""


def _as_json(seen: Survey, told: Answer | None) -> dict[str, object]:
    def group(sweep: SweepState) -> dict[str, object]:
        return {**asdict(sweep), "counts": dict(sweep.counts), "open": sweep.open}

    return {
        "counts": dict(seen.counts),
        "cells": [asdict(cell) for cell in seen.cells.values()],
        "sweeps": [group(sweep) for sweep in seen.sweeps],
        "pools": [group(pool) for pool in seen.pools],
        "damaged": list(seen.damaged.values()),
        "slurm": None if told is None else {
            "silence": told.silence, "jobs": [asdict(job) for job in told.jobs],
        },
    }  # fmt: skip
