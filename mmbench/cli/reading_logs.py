"""``logs``: what a cell's worker wrote, and why it failed."""

import sys
import time
from pathlib import Path

from mmbench.errors import UserError
from mmbench.find import cell_names, find_cell
from mmbench.hints import typed
from mmbench.launch import log, strikes
from mmbench.launch.log import Section
from mmbench.store import RunDirectory, read_record

STATE_EVERY = 1.0  # seconds between two looks whether a followed cell still runs


def logs(name: str, results: Path, lines: int, follow: bool) -> None:
    """Print the end of the newest attempt at a cell, and the traceback if it failed.

    Args:
        name: of the cell, or an unambiguous part of it.
        results: the results folder.
        lines: how many.
        follow: go on with what is added, until the attempt ends.

    Raises:
        UserError: if there is no such cell, or it has not begun.
    """
    directory = RunDirectory(results / "runs" / find_cell(name, cell_names(results), results))
    attempts = log.sections(log.logs(results), directory.path.name)
    state = directory.state()
    if not attempts and not directory.path.is_dir():
        look = typed("mmbench status", results)
        raise UserError(f"{directory.path.name} has not begun yet ({look})")
    where = attempts[-1].file if attempts else "none in this folder"
    print(f"{directory.path.name}: {state}; attempt {len(attempts)}; log: {where}", flush=True)
    if attempts:
        _print(attempts[-1], lines, follow and state == "running", directory)
    if state == "failed":
        _print_failure(directory, told=bool(attempts))
    _print_deaths(directory, results)


def _print(section: Section, lines: int, follow: bool, directory: RunDirectory) -> None:
    try:
        text, at = section.tail(lines)
        sys.stdout.write(text)
        sys.stdout.flush()
        if follow:
            for line in section.follow(at, _Ended(directory)):
                sys.stdout.write(line)
                sys.stdout.flush()
    except OSError as err:
        raise UserError(f"cannot read the log {section.file}: {err.strerror or err}") from err
    except KeyboardInterrupt:
        pass  # how following is ended


class _Ended:
    """Says whether a cell runs no longer; looks once in a while, however often it is asked."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.looked = time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() - self.looked < STATE_EVERY:
            return False
        self.looked = time.monotonic()
        return self.directory.state() != "running"


def _print_failure(directory: RunDirectory, told: bool) -> None:
    """Print the last failure; its copy of the log only where the log itself is not there."""
    failures = directory.failures()
    if not failures:  # retried in the meantime
        return
    failure = read_record(failures[-1], curve=False).failure
    if failure is None:
        return
    print(f"\n{failures[-1].name}: {failure.kind}: {failure.message}")
    if failure.log and not told:
        print(failure.log)
    if failure.traceback:
        print(failure.traceback.rstrip())


def _print_deaths(directory: RunDirectory, results: Path) -> None:
    """Print where workers died at a cell that is not given up for that yet."""
    dead = strikes.deaths_at(directory.path)
    if not dead:
        return
    print(f"\n{strikes.told(dead)}, with no checkpoint in between:")
    for owner in (lease.owner for lease in reversed(dead) if lease.owner):
        what = f"job {owner.job}" if owner.job else f"process {owner.pid}"
        print(f"  {owner.host} {what}, which took it at {owner.taken}; log: {owner.log}")
    retry = typed(f"mmbench retry {directory.path.name}", results)
    print(f"at {strikes.SAME} such deaths it is marked failed; {retry} forgives them")
