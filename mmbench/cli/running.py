"""``run``: settings from file and options, cells, an estimate, the pool, a summary."""

import json
import logging
import signal
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from mmbench.cell import Cell
from mmbench.cli.output import clock, pairs, print_rows
from mmbench.errors import UserError, nearest
from mmbench.plugins import load_plugin
from mmbench.settings import RunSettings, default_cache, parse_value, validate
from mmbench.wording import counted

if TYPE_CHECKING:
    from mmbench.launch.local import Pool
    from mmbench.launch.profile import Profile
    from mmbench.report.study import Study
    from mmbench.sweep import Request

DEFAULTS = {
    "methods": "",
    "datasets": "embedded",
    "seeds": "1",
    "protocol": "validated",
    "fidelity": "corrected",
    "preset": "common",
}
CHOICES = {
    "protocol": ("validated", "published"),
    "fidelity": ("corrected", "released"),
    "preset": ("common", "authors"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was typed; an empty text in ``given``, None in ``resources`` means: not typed."""

    given: Mapping[str, str]
    study: str
    encoder: Sequence[str]
    set: Sequence[str]
    config: Path | None
    device: str
    jobs: int | None
    per_gpu: str
    threads: int | None
    gpus_per_cell: int
    checkpoint_seconds: float
    results: Path
    cache: Path | None
    plugins: Sequence[str]
    cluster: str
    profile: str
    resources: Mapping[str, Any]
    dry_run: bool
    json: bool
    memory_format: str = "auto"
    compile: bool = False


def read_config(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a TOML file into (run keys, dotted settings).

    Raises:
        UserError: if it cannot be read or holds an unknown top-level key.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise UserError(f"cannot read the config file {file}: {err}") from err
    keys: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            settings.update({f"{key}.{name}": v for name, v in value.items()})
        elif key in DEFAULTS:
            keys[key] = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            if key == "seeds" and isinstance(value, list) and len(value) == 1:
                keys[key] += ","
        else:
            raise UserError(
                f"unknown key {key!r} in {file}{nearest(key, DEFAULTS)} "
                f"(known: {', '.join(DEFAULTS)}, and tables such as [trainer])"
            )
    return keys, settings


def parse_seeds(text: str) -> list[int]:
    """Read ``3`` as seeds 0, 1, 2, and ``0,7`` (or ``7,``) as those seeds."""
    try:
        if "," in text:
            seeds = [int(part) for part in text.split(",") if part.strip()]
        else:
            seeds = list(range(int(text)))
    except ValueError as err:
        raise UserError(f"--seeds wants a count (3) or a list (0,1,7); found {text!r}") from err
    if not seeds or min(seeds) < 0:
        raise UserError(f"--seeds wants at least one seed, none negative; found {text!r}")
    return seeds


def make_cells(options: Options) -> list[Cell]:
    """Return the cells that the options ask for.

    Raises:
        UserError: for anything that cannot be run.
    """
    from mmbench.own.dataset import discover

    for plugin in options.plugins:
        load_plugin(plugin)
    cache = options.cache or default_cache()
    from_file, settings = read_config(options.config) if options.config else ({}, {})
    asked = {**DEFAULTS, **from_file, **{k: v for k, v in options.given.items() if v}}
    for key, choices in CHOICES.items():
        if asked[key] not in choices:
            raise UserError(f"--{key} is one of {', '.join(choices)}; found {asked[key]!r}")
    study = None
    if options.study:
        from mmbench.report.study import load_study

        study = load_study(options.study)
        stated = {**from_file, **{k: v for k, v in options.given.items() if v}}
        asked = {**DEFAULTS, **study.defaults(), **stated}
    if not asked["methods"]:
        raise UserError("say which methods to run, e.g. --methods all (mmbench list methods)")
    typed = {k: parse_value(v) for k, v in pairs(options.set, "--set").items()}
    typed |= {f"encoder.{k}": v for k, v in pairs(options.encoder, "--encoder").items()}
    from mmbench.sweep import Request, expand, unprepared

    request = Request(
        methods=[m.strip() for m in asked["methods"].split(",") if m.strip()],
        datasets=[d.strip() for d in asked["datasets"].split(",") if d.strip()],
        seeds=parse_seeds(asked["seeds"]),
        protocol=asked["protocol"],
        fidelity=asked["fidelity"],
        preset=asked["preset"],
        settings=typed,
        shared=settings,
    )
    discover(cache)
    if "all" in request.datasets:
        for name, what in unprepared(request, cache).items():
            print(f"left out: {name} {what}", file=sys.stderr)
    if study is None:
        return expand(request, cache)
    cells = expand_study(request, study, cache)
    return in_turns(cells) if study.cost else cells


def expand_study(request: "Request", study: "Study", cache: Path) -> list[Cell]:
    """Return the cells of a study's rows, without repeats.

    Args:
        request: its methods say which rows; its settings apply to all of them.
        study: the rows.
        cache: prepared data.
    """
    from mmbench.sweep import expand

    turns = [{key: value} for key, values in study.vary.items() for value in values] or [{}]
    cells: dict[str, Cell] = {}
    for turn, row in product(turns, study.listed):
        if row.method in request.methods:
            own = {f"method.{key}": value for key, value in row.set.items()}
            part = replace(
                request,
                methods=[row.method],
                settings=own,
                shared={**study.settings, **turn, **request.shared, **request.settings},
                fidelity=row.fidelity or request.fidelity,
                preset=row.preset or request.preset,
            )
            cells.update({cell.id: cell for cell in expand(part, cache)})
    return list(cells.values())


def in_turns(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells so that methods alternate and each seed begins with another one.

    A machine that grows slower or faster then does so for all of them alike.
    """
    rounds: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        rounds.setdefault((cell.dataset, cell.seed), []).append(cell)
    shifts: dict[str, int] = {}
    ordered = []
    for (dataset, _), part in sorted(rounds.items(), key=lambda item: item[0]):
        shift = shifts.get(dataset, 0) % len(part)
        shifts[dataset] = shifts.get(dataset, 0) + 1
        ordered += part[shift:] + part[:shift]
    return ordered


def one_at_a_time(options: Options) -> bool:
    """Say whether the study asked for is about time, which runs side by side would disturb."""
    from mmbench.report.study import load_study

    return bool(options.study) and load_study(options.study).cost


def asked_profile(options: Options) -> "Profile | None":
    """Return what to submit with, or None to run here.

    Raises:
        UserError: if an option for a cluster is given without one, or is wrong.
    """
    typed = {key: value for key, value in options.resources.items() if value is not None}
    if not options.cluster and not options.profile:
        if typed:
            raise UserError(
                f"--{next(iter(typed)).replace('_', '-')} is for a cluster; add --cluster slurm"
            )
        return None
    if options.cluster not in ("", "slurm"):
        raise UserError(f"--cluster is slurm, the one known; found {options.cluster!r}")
    from mmbench.launch.profile import read_profile

    if "slurm" in typed:
        typed["slurm"] = {k: parse_value(v) for k, v in pairs(typed["slurm"], "--slurm").items()}
    return read_profile(options.profile, typed)


def run(options: Options) -> int:
    """Run the command; return the exit code: 0 all done, 1 a cell failed, 130 interrupted."""
    from mmbench.cli import submitting
    from mmbench.store import Store

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
        from mmbench.cli.estimate import estimates

        _print_plan(cells, states, estimates(todo, store, options, settings), options.json)
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
    _print_remarks(cells)
    for cell in damaged:
        kept = store.directory(cell).set_aside()
        print(f"the record of {cell.folder} cannot be read; kept as {kept}, running it again")
    if not todo:
        print("nothing to do; tables: mmbench report")
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
    from mmbench.store import Store

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
        print("mmbench show CELL says why; run the same command to try again")
        return 1
    if held or outcome.cancelled:
        return 1
    ended = "all cells done" if not outcome.refused else "nothing failed"
    print(f"{ended}; tables: mmbench report")
    return 0


def _stop_at_first_interrupt(pool: "Pool") -> None:
    """Let Ctrl-C ask for a stop, and a second one interrupt."""

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pool.request_stop()

    signal.signal(signal.SIGINT, ask)


def _per_gpu(todo: Sequence[Cell], options: Options, settings: RunSettings) -> int:
    """Return how many cells share a GPU; with ``auto``, measure and say so."""
    from mmbench.launch.sharing import cells_at_once, free_memory, host_takes

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
    from mmbench.cli.estimate import estimates
    from mmbench.store import Store

    guesses = estimates(todo, Store(options.results), options, settings)
    largest = max(memory for _, memory, _ in guesses.values())
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


def _print_remarks(cells: Sequence[Cell]) -> None:
    from mmbench.sweep import remarks

    for remark in remarks(cells):
        print(f"note: {remark}")


def _print_plan(
    cells: Sequence[Cell],
    states: Mapping[str, str],
    guesses: Mapping[str, tuple[float, int, str]],
    as_json: bool,
) -> None:
    rows = []
    for cell in cells:
        seconds, memory, basis = guesses.get(cell.id, (None, None, None))
        rows.append(
            {
                "cell": cell.folder,
                "state": states[cell.id],
                "seconds": None if seconds is None else round(seconds, 1),
                "memory_mib": None if memory is None else round(memory / 2**20),
                "estimated_from": basis,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print_rows(rows, False, "no cells")
    _print_remarks(cells)
    total = sum(seconds for seconds, _, _ in guesses.values())
    print(
        f"{counted(len(cells), 'cell')}, {len(guesses)} to run, about {clock(total)} of one "
        "worker's time; nothing was run"
    )
