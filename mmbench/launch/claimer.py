"""Works on a sweep: claims cells and runs them, until none is left or it is asked to stop.

``mmbench work SWEEP`` or ``python -P -m mmbench.launch.claimer --sweep SWEEP [--per-gpu K]``.
SIGUSR1, SIGTERM and Ctrl-C stop every cell at its next step boundary, after a checkpoint, and let
go of it.
"""

import argparse
import logging
import secrets
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from mmbench.cell import Cell
from mmbench.errors import UserError
from mmbench.launch.claims import Claims
from mmbench.launch.lease import Owner
from mmbench.launch.local import ENDS, Pool, slots
from mmbench.launch.sweepfolder import SweepFolder, open_sweep
from mmbench.record import now
from mmbench.settings import set_weights, slurm_job
from mmbench.store import RunDirectory
from mmbench.wording import counted

DONE, GIVEN_UP, LEFT = 0, 1, 75
SHOWN = 20  # unreadable records named


def work(
    path: Path,
    per_gpu: int | None = None,
    warned: threading.Event | None = None,
    thorough: bool = True,
) -> int:
    """Claim and run cells of a sweep.

    Args:
        path: its folder.
        per_gpu: cells at once on a GPU, or in all without one; None: as the sweep says.
        warned: set when SIGUSR1 comes; if it is set already, nothing is begun.
        thorough: whether to glance at all records before saying that no cell is left, which
            opens every one of them: not for hundreds of jobs that end at the same time.

    Returns:
        0: nothing is left, others are at work on the rest, or the sweep was cancelled;
        1: the same, and a cell was given up or its record cannot be read;
        75: it was asked to stop, and work is left.

    Raises:
        UserError: if the folder is not that of a sweep, or a worker cannot start.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    sweep = open_sweep(path)
    facts = sweep.facts
    set_weights(Path(facts.weights) if facts.weights else None, False)
    at_once = per_gpu or facts.per_gpu
    run = facts.run
    places = slots(run.device, at_once, at_once, run.threads, run.gpus_per_cell)
    pool = Pool(sweep.results, Path(facts.cache), run, places, facts.plugins, _say, sweep.logs)
    worker = f"{socket.gethostname()}-{secrets.token_hex(4)}"
    owner = Owner.this_process(worker, facts.lease, slurm_job())
    warned = warned or threading.Event()
    _stop_on_signals(pool, warned)
    if warned.is_set():
        return LEFT
    _print(f"{worker} takes cells of {sweep.path}: {len(places)} at once")
    with Claims(sweep, owner, pool.request_stop) as claims:
        outcome = pool.run(claims)
        return _sum_up(sweep, claims, outcome.interrupted, thorough)


def _stop_on_signals(pool: Pool, warned: threading.Event) -> None:
    """Stop as asked; a second Ctrl-C ends the cells at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        pool.request_stop()
        if number == signal.SIGUSR1:
            warned.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _say(cell: Cell | None, message: dict[str, Any]) -> None:  # Any: JSON values
    """Print how cells begin and end."""
    kind = message["kind"]
    if cell is None:
        _print(f"{now()} {kind}: checkpoints are written at the next step")
    elif kind == "started" or kind in ENDS:
        reason = (message.get("reason") or "").strip().splitlines()
        _print(f"{now()} {kind} {cell.folder}{': ' + reason[-1] if reason else ''}")
    elif "warning" in message:
        _print(f"{now()} warning: {cell.folder}: {message['warning']}")


def _print(line: str) -> None:
    """Print at once; a full disk or a closed pipe must not end the cells."""
    with suppress(OSError):
        print(line, flush=True)


def _sum_up(sweep: SweepFolder, claims: Claims, stopped: bool, thorough: bool) -> int:
    """Say how it ended; return the exit code."""
    for folder, reason in claims.given_up.items():
        last = reason.strip().splitlines()[-1:] or [""]
        _print(f"given up: {folder}: {last[0]}")
    left = len(claims)
    if sweep.cancelled:
        _print("the sweep was cancelled")
        return DONE
    if left and (stopped or claims.no_room):
        _print(f"stopped; {left} cells are not finished")
        return LEFT
    damaged = _unreadable(sweep) if thorough else []
    for name in damaged[:SHOWN]:
        _print(f"unreadable: {name}: its record is damaged or may not be read")
    if damaged:
        _print(
            f"{counted(len(damaged), 'record')} cannot be read: mmbench run (the command that was "
            "typed) sets what is damaged aside and runs the cell again"
        )
    if left:
        _print(f"{left} cells are with other workers")
    elif not damaged:
        _print("no cell is left")
    return GIVEN_UP if claims.given_up or damaged else DONE


def _unreadable(sweep: SweepFolder) -> list[str]:
    """Return the run directories whose record is none, from a glance at each."""
    found = []
    for entry in sweep.entries:
        directory = RunDirectory(sweep.runs / entry.folder)
        with suppress(OSError):  # of a cell that others are at; theirs to tell
            if directory.record_file.exists() and directory.recorded_state() == "unreadable":
                found.append(entry.folder)
    return found


def main() -> None:
    """Run from the command line; a user's mistake leaves with exit code 2 and no traceback."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sweep", type=Path, required=True, help="RESULTS/sweeps/ID")
    parser.add_argument("--per-gpu", type=int, help="cells at once on a GPU, or here without one")
    given = parser.parse_args()
    if given.per_gpu is not None and given.per_gpu < 1:
        parser.error(f"--per-gpu wants a whole number from 1 on; found {given.per_gpu}")
    try:
        code = work(given.sweep, given.per_gpu)
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        code = 2
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.exit(code)


if __name__ == "__main__":
    main()
