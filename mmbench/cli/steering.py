"""``cancel`` and ``retry``: say to workers anywhere what to do, by marker files."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mmbench.errors import UserError
from mmbench.find import find_cell, matching
from mmbench.hints import typed
from mmbench.launch import squeue, strikes
from mmbench.launch.pools import LocalPool, at_work
from mmbench.launch.slurm_command import NoAnswer
from mmbench.launch.sweepfolder import cancel_sweep, open_sweep, sweeps
from mmbench.store import RunDirectory
from mmbench.survey import Seen, Survey, job_ids, survey
from mmbench.wording import counted

SHOWN = 20


def cancel(names: Sequence[str], everything: bool, at_once: bool, results: Path) -> int:
    """Stop sweeps, local pools or single cells at their next step, after a checkpoint.

    Args:
        names: of sweeps, of pools or of cells, or unambiguous parts of them.
        everything: all that is at work in the results folder.
        at_once: also end SLURM jobs that run, instead of letting them stop by themselves.
        results: the results folder.

    Returns:
        1 if a sweep cannot be read: it is marked all the same, as its workers may have read it.

    Raises:
        UserError: if nothing or something unknown is named, or a marker cannot be written.
    """
    seen = survey(results)
    active = [each.id for each in (*seen.pools, *seen.sweeps) if each.open and not each.cancelled]
    if everything == bool(names):
        raise UserError(
            "say what to cancel: names of sweeps or cells, or --all; "
            f"at work now: {', '.join(active) or 'nothing'}"
        )
    groups = [*(each.id for each in (*seen.pools, *seen.sweeps)), *seen.damaged]
    known_pools = {pool.id: pool for pool in at_work(results)}
    cells: list[str] = []
    chosen: list[str] = [*active, *seen.damaged]
    if not everything:
        chosen = []
        for name in names:
            found = matching(name, groups)
            if len(found) > 1:
                raise UserError(f"{name!r} is in the name of {', '.join(found)}; give more of it")
            if found:
                chosen += found
            else:
                cells.append(find_cell(name, list(seen.cells), results))
    try:
        for id_ in chosen:
            _cancel_group(id_, known_pools.get(id_), seen, results, at_once)
        for cell in cells:
            _cancel_cell(cell, seen, results)
    except OSError as err:
        raise UserError(f"cannot write to {results}: {err.strerror or err}") from err
    if not chosen and not cells:
        print(f"nothing is at work in {results}")
    return int(any(id_ in seen.damaged for id_ in chosen))


def _cancel_group(
    id_: str, pool: LocalPool | None, seen: Survey, results: Path, at_once: bool
) -> None:
    if pool is not None:
        pool.cancel()
        print(f"cancelled {id_}: it stops at the next step, after checkpoints")
        return
    state = next((sweep for sweep in seen.sweeps if sweep.id == id_), None)
    if id_ in seen.damaged:
        print(seen.damaged[id_], file=sys.stderr)
        running = "if it has workers, their cells"
    elif state is None:
        print(f"{id_} has ended already")
        return
    else:
        running = f"{state.counts.get('running', 0)} running cells"
    path = results / "sweeps" / id_
    cancel_sweep(path)
    print(f"cancelled {id_}: {running} stop at the next step, after checkpoints")
    if jobs := job_ids(path):
        try:
            squeue.cancel(jobs, waiting_only=not at_once)
            which = "all its jobs" if at_once else "its waiting jobs"
            print(f"SLURM cancels {which} ({', '.join(jobs)})")
        except NoAnswer as err:
            print(f"{err}; its jobs end by themselves once they see the mark", file=sys.stderr)


def _cancel_cell(name: str, seen: Survey, results: Path) -> None:
    state = seen.cells[name].state
    if state in ("done", "refused"):
        print(f"{name} is {state} already")
        return
    RunDirectory(results / "runs" / name).cancel()
    what = "stops at the next step, after a checkpoint" if state == "running" else "will not be run"
    retry = typed(f"mmbench retry {name}", results)
    print(f"cancelled {name}: it {what}; {retry}, or its run typed again, takes that back")


def retry(names: Sequence[str], failed: bool, results: Path) -> int:
    """Make failed and cancelled cells wait again; their failure records are kept, renamed.

    A cell may be named as well at which workers died; that is forgiven.

    Args:
        names: of cells, or unambiguous parts of them.
        failed: all failed ones (of ``names``, if there are any).
        results: the results folder.

    Raises:
        UserError: if nothing is named, or a named cell is neither failed nor cancelled.
    """
    if not names and not failed:
        raise UserError("say what to retry: --failed for all failed cells, or names of cells")
    seen = survey(results)
    known = list(seen.cells)
    asked = [find_cell(name, known, results) for name in names] if names else known
    chosen = [name for name in asked if _to_retry(seen.cells[name], failed)]
    if names and not failed and (rest := [name for name in asked if name not in chosen]):
        state = seen.cells[rest[0]].state
        raise UserError(f"{rest[0]} is {state}; only failed and cancelled cells can be retried")
    try:
        for name in chosen:
            RunDirectory(results / "runs" / name).retry()
            strikes.forgive(results / "runs" / name)
        helped = _tell_sweeps(set(chosen), results)
    except OSError as err:
        raise UserError(f"cannot write to {results}: {err.strerror or err}") from err
    for name in chosen[:SHOWN]:
        print(f"waiting again: {name}")
    if len(chosen) > SHOWN:
        print(f"and {len(chosen) - SHOWN} more")
    if not chosen:
        print(f"no cell of {results} is failed")
        return 0
    print(
        f"{counted(len(chosen), 'cell')} put back; failures are kept as "
        "retried-NNN.json. "
        + (f"Workers of {', '.join(helped)} take them next; " if helped else "")
        + f"without workers, type the run again, or mmbench work {results / 'sweeps' / 'ID'}"
    )
    return 0


def _to_retry(cell: Seen, failed: bool) -> bool:
    if failed:
        return cell.state == "failed"
    return cell.state in ("failed", "cancelled") or (cell.deaths > 0 and cell.state != "running")


def _tell_sweeps(cells: set[str], results: Path) -> list[str]:
    """Ask the workers of all sweeps that hold one of the cells to look again."""
    told = []
    for path in sweeps(results) if cells else []:
        try:
            sweep = open_sweep(path)
            entries = sweep.entries
        except UserError as err:
            print(err, file=sys.stderr)
            continue
        if not sweep.cancelled and any(entry.folder in cells for entry in entries):
            sweep.look_again()
            told.append(path.name)
    return told
