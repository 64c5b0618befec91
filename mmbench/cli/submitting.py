"""``run --cluster slurm``: a sweep folder with a copy of the code, and workers in the queue."""

import json
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmbench.cell import Cell
from mmbench.cli.asking import Options, one_at_a_time
from mmbench.errors import UserError, nearest
from mmbench.folders import hindrance
from mmbench.hints import typed
from mmbench.launch import lease, slurm, snapshot, strikes
from mmbench.launch.estimate import from_records
from mmbench.launch.lease import Owner
from mmbench.launch.profile import Profile, Resources
from mmbench.launch.sweepfolder import Facts, SweepFolder, create
from mmbench.launch.visible import Needed, absolute, check_shared, interpreter
from mmbench.registry import DATASETS
from mmbench.settings import RunSettings, default_cache, weights_folder
from mmbench.store import Store, write_atomic
from mmbench.wording import counted

SHOWN = 20  # cells named that are given up


def workers(cells: int, share: float, wanted: Resources, options: Options, profile: Profile) -> int:
    """Return how many jobs to ask for.

    Args:
        cells: how many they have to do.
        share: of all cells of this command; ``max_jobs`` is for all.
        wanted: what one job has.
        options: ``jobs`` and ``per_gpu`` say how many cells it runs at once.
        profile: for ``max_jobs``.
    """
    if one_at_a_time(options):
        return 1
    most = max(1, round(profile.max_jobs * share))
    return slurm.workers_for(cells, at_once(wanted, options), most)


def at_once(wanted: Resources, options: Options) -> int:
    """Return how many cells one job runs at a time.

    Raises:
        UserError: if a job has too few GPUs for one cell, or some that no cell would use.
    """
    each = options.gpus_per_cell
    if 0 < wanted.gpus < each:
        raise UserError(
            f"--gpus-per-cell {each} needs jobs with as many GPUs; found --gpus {wanted.gpus}"
        )
    if idle := wanted.gpus % each:
        fewer = wanted.gpus - idle
        raise UserError(
            f"{idle} of {counted(wanted.gpus, 'GPU')} of each job would idle with --gpus-per-cell "
            f"{each}; ask for --gpus {fewer} or {fewer + each}"
        )
    if one_at_a_time(options):
        return 1
    if options.per_gpu == "auto" and not on_gpu(wanted, options):
        raise UserError(
            "--per-gpu auto is for GPUs, and these jobs ask for none; leave it out: without GPUs a "
            "job runs as many cells at once as it has --cpus, or as --jobs says"
        )
    if not on_gpu(wanted, options):
        return options.jobs or max(1, wanted.cpus // each)
    # Asked for with --slurm gres=..., their number is not known: count those of one cell.
    return (wanted.gpus or each) // each * per_gpu(options)


def on_gpu(wanted: Resources, options: Options) -> bool:
    """Say whether cells will run on GPUs; clusters may hand these out as other resources."""
    return bool(wanted.gpus) or options.device.startswith("cuda")


def per_gpu(options: Options) -> int:
    """Return how many cells share a GPU.

    Raises:
        UserError: if that is left to a measurement, which this machine cannot make for a node.
    """
    if one_at_a_time(options):
        return 1
    if not options.per_gpu.isdecimal():
        raise UserError(
            f"--per-gpu {options.per_gpu} is for runs on this machine; give a number with --cluster"
        )
    return max(1, int(options.per_gpu))


def show_scripts(todo: Sequence[Cell], options: Options, profile: Profile) -> int:
    """Print the batch script of every group of cells that ask for the same; submit nothing."""
    results = absolute(options.results)
    shown, titles = [], []
    for wanted, names in slurm.groups(profile, [cell.dataset for cell in todo]).items():
        cells = sum(cell.dataset in names for cell in todo)
        count = workers(cells, cells / len(todo), wanted, options, profile)
        text = slurm.script(profile, wanted, results / "sweeps" / "SWEEP", count)
        shown.append({"datasets": names, "cells": cells, "jobs": count, "script": text})
        titles.append(f"{counted(cells, 'cell')}, {counted(count, 'job')}")
    if options.json:
        print(json.dumps(shown, indent=1))
        return 0
    for title, group in zip(titles, shown, strict=True):
        print(f"{title}:\n{group['script']}")
    print("nothing was submitted; SWEEP stands for the folder that submitting makes")
    return 0


def check_tables(profile: Profile) -> None:
    """Refuse tables of a profile that are for no dataset: they would be ignored.

    Raises:
        UserError: with the nearest name.
    """
    known = DATASETS.names()
    for name in profile.datasets:
        if name not in known:
            raise UserError(
                f"the profile has a table [datasets.{name}], which is no dataset"
                f"{nearest(name, known)} (mmbench list datasets shows all {len(known)}; those of "
                "your own need their --cache or --plugin)"
            )


def check(todo: Sequence[Cell], options: Options, profile: Profile) -> None:
    """Refuse what cannot be submitted, before anything is prepared for it.

    Raises:
        UserError: if SLURM does not answer, something is missing or wrong in what jobs ask for, or
            the folders cannot be seen by the nodes.
    """
    folders = needed(todo, options)
    for wanted in slurm.groups(profile, [cell.dataset for cell in todo]):
        at_once(wanted, options)
        machines = slurm.hosts(wanted.partition)
        if not profile.shared:
            check_shared(folders, machines)


def needed(todo: Sequence[Cell], options: Options) -> list[Needed]:
    """Return the folders that jobs for ``todo`` read and write."""
    from mmbench.training.readiness import reads_weights

    folders = [
        Needed(absolute(options.results)),
        Needed(absolute(options.cache or default_cache())),
    ]
    encoders = {encoder for cell in todo for encoder in cell.encoders.values()}
    if any(map(reads_weights, encoders)):
        instead = "choose a folder on a shared file system (--weights, or MMBENCH_WEIGHTS)"
        folders.append(Needed(absolute(weights_folder()), "the pretrained weights", instead))
    return [*folders, *interpreter()]


def without_killers(todo: Sequence[Cell], store: Store) -> list[Cell]:
    """Return the cells that may be tried; name those that kill their workers, and give them up.

    Raises:
        UserError: if that cannot be written.
    """
    owner = Owner.this_process(f"{socket.gethostname()}-{secrets.token_hex(4)}", lease.SECONDS)
    kept, lost = [], []
    for cell in todo:
        try:
            failure = strikes.killer(store.directory(cell).path, cell, owner)
        except OSError as err:
            raise UserError(f"cannot write to {store.results}: {err.strerror or err}") from err
        if failure is None:
            kept.append(cell)
        else:
            lost.append(f"given up: {cell.folder}: {failure.message}")
    for line in [*lost[:SHOWN], *([f"and {len(lost) - SHOWN} more"] if lost[SHOWN:] else [])]:
        print(line)
    if lost:
        logs, retry = (typed(f"mmbench {verb} CELL", store.results) for verb in ("logs", "retry"))
        print(f"{logs} says how; {retry} lets a cell be tried again")
    return kept


def submit(todo: Sequence[Cell], options: Options, settings: RunSettings, profile: Profile) -> int:
    """Put workers for ``todo`` into the queue and return 0; they go on without this process.

    Raises:
        UserError: if SLURM refuses; what was submitted until then stays.
    """
    limit = slurm.array_limit()
    queued = 0
    for wanted, names in slurm.groups(profile, [cell.dataset for cell in todo]).items():
        cells = [cell for cell in todo if cell.dataset in names]
        count = workers(len(cells), len(cells) / len(todo), wanted, options, profile)
        sweep = make_sweep(cells, options, settings, wanted, profile)
        try:
            copied = snapshot.take(sweep.path / "code", options.plugins)
            sweep = told(sweep, plugins=tuple(copied))
            jobs, short = slurm.submit(profile, wanted, sweep.path, count, limit)
        except UserError as err:
            shutil.rmtree(sweep.path, ignore_errors=True)
            raise UserError(f"{err}; {queued or 'no'} cells were submitted") from err
        queued += len(cells)
        _tell(cells, jobs, count, short, sweep.path)
    watch, cancel = (
        typed(f"mmbench {words}", options.results) for words in ("status --watch", "cancel SWEEP")
    )
    print(f"{watch} shows how it goes; {cancel} ends it")
    return 0


def told(sweep: SweepFolder, plugins: tuple[str, ...]) -> SweepFolder:
    """Tell the workers where the copies of the plug-ins are."""
    facts = sweep.facts.model_copy(update={"plugins": plugins})
    write_atomic(sweep.path / "sweep.json", facts.model_dump_json(indent=1).encode())
    return replace(sweep, facts=facts)


def _tell(
    cells: Sequence[Cell], jobs: Sequence[slurm.Job], asked: int, short: str, sweep: Path
) -> None:
    accepted = sum(job.workers for job in jobs)
    ids = ", ".join(job.id for job in jobs)
    print(
        f"{counted(len(cells), 'cell')}, {counted(accepted, 'job')} submitted (SLURM: {ids}); "
        f"their folder: {sweep}"
    )
    if short:
        print(
            f"SLURM took {accepted} of {asked} jobs ({short}); those do all cells, only later",
            file=sys.stderr,
        )


def as_run(settings: RunSettings, wanted: Resources, options: Options) -> RunSettings:
    """Return ``settings`` as the workers of a job with ``wanted`` have them."""
    device = settings.device
    if device == "auto":  # a node without the GPU that was asked for is an error, not a slow CPU
        device = "cuda" if wanted.gpus else "cpu"
    processes = at_once(wanted, options) * settings.gpus_per_cell
    threads = settings.threads or max(1, wanted.cpus // processes)
    return settings.model_copy(update={"device": device, "threads": threads})


def make_sweep(
    cells: Sequence[Cell],
    options: Options,
    settings: RunSettings,
    wanted: Resources,
    profile: Profile,
) -> SweepFolder:
    """Make the folder that workers claim ``cells`` from.

    Raises:
        UserError: if it cannot be written.
    """
    weights = os.environ.get("MMBENCH_WEIGHTS")
    facts = Facts(
        command=tuple(sys.argv[1:]),
        run=as_run(settings, wanted, options),
        cache=str(absolute(options.cache or default_cache())),
        plugins=tuple(options.plugins),
        per_gpu=per_gpu(options) if on_gpu(wanted, options) else at_once(wanted, options),
        lease=profile.lease,
        weights=str(absolute(Path(weights))) if weights else None,
        resources={**wanted.model_dump(), "account": profile.account, "slurm": profile.slurm},
    )
    results = absolute(options.results)
    seconds = {id_: guess.seconds for id_, guess in from_records(cells, Store(results)).items()}
    try:
        return create(results, cells, facts, seconds)
    except OSError as err:
        why = hindrance(results / "sweeps", err)
        raise UserError(f"cannot write to {options.results}: {why}") from err
