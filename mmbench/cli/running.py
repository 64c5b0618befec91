"""``run``: an estimate, the pool or the queue, and a summary."""

import logging
import shlex
import signal
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from mmbench.cell import Cell
from mmbench.cli import plan, submitting
from mmbench.cli.asking import Options, asked_profile, make_cells, one_at_a_time
from mmbench.errors import UserError
from mmbench.hints import typed
from mmbench.settings import RunSettings, default_cache, validate
from mmbench.store import Store
from mmbench.wording import counted

if TYPE_CHECKING:
    from mmbench.launch.estimate import Estimate
    from mmbench.launch.local import Pool


def run(options: Options) -> int:
    """Run the command; return the exit code: 0 all done, 1 a cell failed, 130 interrupted."""
    if options.json and not options.dry_run:
        raise UserError("--json prints the plan of a run: add --dry-run, or leave it out")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("mmbench").setLevel(logging.INFO)
    settings = validate(
        RunSettings,
        {
            "device": options.device,
            "threads": options.threads,
            "gpus_per_cell": options.gpus_per_cell,
            "checkpoint_seconds": options.checkpoint_seconds,
            "memory_format": options.memory_format,
            "compile": options.compile,
        },
        "run",
    )
    profile = asked_profile(options)
    store = Store(options.results)
    if not options.dry_run:
        store.check_writable()
    cells = make_cells(options)
    if profile is not None:
        submitting.check_tables(profile)  # now that plug-ins and prepared tables are known
    states = {cell.id: store.state(cell) for cell in cells}
    damaged = [cell for cell in cells if states[cell.id] == "unreadable"]
    todo = [cell for cell in cells if states[cell.id] not in {"done", "refused"}]
    if options.dry_run and profile is not None:
        return submitting.show_scripts(todo, options, profile)
    if options.dry_run:
        plan.show(cells, states, _estimates(todo, options, settings), options)
        return 0
    finished = len(cells) - len(todo)
    if profile is not None:
        todo = submitting.without_killers(todo, store)
    given_up = len(cells) - finished - len(todo)
    print(
        f"{counted(len(cells), 'cell')}: {finished} finished already, "
        f"{f'{given_up} given up, ' if given_up else ''}{len(todo)} to run; "
        f"records go to {store.runs}"
    )
    plan.show_remarks(cells)
    if one_at_a_time(options):
        from mmbench.cli import timed

        timed.tell([c for c in cells if states[c.id] == "done"], options, settings, profile)
    for cell in damaged:
        kept = store.directory(cell).set_aside()
        print(f"the record of {cell.folder} cannot be read; kept as {kept}, running it again")
    if not todo:
        print(f"nothing to do; tables: {_report(options)}")
        return int(given_up > 0)
    if profile is not None:
        submitting.check(todo, options, profile)
    from mmbench.training.readiness import make_ready

    here = settings if profile is None else settings.model_copy(update={"device": "auto"})
    make_ready(todo, options.cache or default_cache(), here)
    for cell in todo:
        store.directory(cell).uncancel()
    if profile is not None:
        return submitting.submit(todo, options, settings, profile)
    return _run_pool(todo, options, settings)


def _run_pool(todo: Sequence[Cell], options: Options, settings: RunSettings) -> int:
    from mmbench.cli.progress import Progress
    from mmbench.launch.local import Pool, slots
    from mmbench.launch.pools import announced
    from mmbench.launch.source import Listed

    per_gpu = _per_gpu(todo, options, settings)
    places = slots(options.device, options.jobs, per_gpu, options.threads, options.gpus_per_cell)
    if one_at_a_time(options):
        places = places[:1]
    with Progress(len(todo)) as progress:
        pool = Pool(
            options.results,
            options.cache or default_cache(),
            settings,
            places,
            options.plugins,
            progress.see,
        )
        _stop_at_first_interrupt(pool)
        with announced(options.results, [cell.folder for cell in todo], pool.request_stop):
            outcome = pool.run(Listed(todo, options.results))
    print(progress.summary())
    for word, reasons in (("refused", outcome.refused), ("failed", outcome.failed)):
        for cell in todo:
            if cell.id in reasons:
                print(f"{word}: {cell.folder}: {reasons[cell.id].strip().splitlines()[-1]}")
    if outcome.interrupted:
        print("interrupted; run the same command to continue where it stopped")
        return 130
    store = Store(options.results)
    held = [c for c in todo if c.id in outcome.elsewhere and store.state(c) == "running"]
    for cell in held:
        print(f"running elsewhere: {cell.folder}; run the same command once that has ended")
    for cell in todo:
        if cell.id in outcome.cancelled:
            print(f"cancelled: {cell.folder}; run the same command to continue it")
    if outcome.failed:
        why = typed("mmbench show CELL", options.results)
        print(f"{why} says why; run the same command to try again")
        return 1
    if held or outcome.cancelled:
        return 1
    ended = "all cells done" if not outcome.refused else "nothing failed"
    print(f"{ended}; tables: {_report(options)}")
    return 0


def _report(options: Options) -> str:
    """Return the command that shows what was run."""
    study = f" --study {shlex.quote(options.study)}" if options.study else ""
    return typed(f"mmbench report{study}", options.results)


def _stop_at_first_interrupt(pool: "Pool") -> None:
    """Let Ctrl-C ask for a stop, and a second one interrupt."""

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pool.request_stop()

    signal.signal(signal.SIGINT, ask)


def _per_gpu(todo: Sequence[Cell], options: Options, settings: RunSettings) -> int:
    """Return how many cells share a GPU; with ``auto``, measure and say so."""
    from mmbench.launch.per_gpu import cells_at_once, free_memory, host_takes

    known = options.per_gpu.isdecimal() and int(options.per_gpu) >= 1
    if not known and options.per_gpu != "auto":
        raise UserError(f"--per-gpu is a number from 1 on, or auto; found {options.per_gpu!r}")
    if one_at_a_time(options):
        print("one cell at a time, whatever the device has room for: this study is about time")
        return 1
    if known:
        return int(options.per_gpu)
    if free_memory(options.device) is None:
        return 1
    guesses = _estimates(todo, options, settings)
    largest = max(guess.memory for guess in guesses.values())
    free = free_memory(options.device) or 0  # once more: a calibration leaves some of it in use
    limits = {
        "the number of cells": len(todo),
        "the GPU's memory": cells_at_once(free, largest, len(todo)),
        **host_takes(options.device),
    }
    limit = min(limits, key=limits.__getitem__)
    print(
        f"{counted(limits[limit], 'cell')} at once on each GPU: the largest needs "
        f"{largest / 2**30:.1f} GiB of {free / 2**30:.1f} GiB that are free; limited by {limit}"
    )
    return limits[limit]


def _estimates(
    todo: Sequence[Cell], options: Options, settings: RunSettings
) -> "dict[str, Estimate]":
    """Return what each cell takes, by id, with as many threads as a worker of this run has."""
    from mmbench.launch.estimate import estimates
    from mmbench.launch.local import slots

    per_gpu = int(options.per_gpu) if options.per_gpu.isdecimal() else 1
    places = slots(options.device, options.jobs, per_gpu, options.threads, options.gpus_per_cell)
    run = settings.model_copy(update={"threads": places[0].threads})
    return estimates(todo, Store(options.results), run, options.cache or default_cache())
