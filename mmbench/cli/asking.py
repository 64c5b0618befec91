"""What a run is asked to do: options and a file of settings, as cells and as a profile."""

import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mmbench import hints
from mmbench.cell import Cell, Fidelity, Preset, Protocol
from mmbench.cli.output import pairs
from mmbench.errors import UserError, nearest
from mmbench.launch.profile import Profile, read_profile
from mmbench.plugins import make_known
from mmbench.report import own_study
from mmbench.report.study import load_study
from mmbench.settings import default_cache, parse_value

DEFAULTS = {
    "methods": "",
    "datasets": "embedded",
    "seeds": "1",
    "protocol": "validated",
    "fidelity": "corrected",
    "preset": "common",
}
SEEDS = "3 = seeds 0, 1 and 2; 0,5 = these seeds; 0, = seed 0 alone"
CHOICES = {
    "protocol": get_args(Protocol),
    "fidelity": get_args(Fidelity),
    "preset": get_args(Preset),
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
    """Read ``3`` as seeds 0, 1, 2, and ``0,7`` (or ``7,``) as those seeds.

    Raises:
        UserError: if it is neither, or a seed is negative or named twice.
    """
    wanted = f"{SEEDS}; found {text!r}"
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError as err:
        raise UserError(f"--seeds wants whole numbers: {wanted}") from err
    seeds = numbers if "," in text else list(range(numbers[0] if numbers else 0))
    if not seeds or min(seeds) < 0:
        raise UserError(f"--seeds wants at least one seed, none negative: {wanted}")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds names a seed twice: {wanted}")
    return seeds


def make_cells(options: Options) -> list[Cell]:
    """Return the cells that the options ask for.

    Raises:
        UserError: for anything that cannot be run.
    """
    cache = options.cache or default_cache()
    make_known(options.plugins, cache)
    from_file, settings = read_config(options.config) if options.config else ({}, {})
    stated = {**from_file, **{k: v for k, v in options.given.items() if v}}
    study = load_study(options.study) if options.study else None
    if study is not None:
        own_study.check_rows(study)
    asked = {**DEFAULTS, **(study.defaults() if study else {}), **stated}
    for key, choices in CHOICES.items():
        if asked[key] not in choices:
            raise UserError(f"--{key} is one of {', '.join(choices)}; found {asked[key]!r}")
    if not asked["methods"]:
        names = hints.typed("mmbench list methods", plugins=options.plugins)
        raise UserError(f"say which methods to run, e.g. --methods all ({names})")
    typed = {k: parse_value(v) for k, v in pairs(options.set, "--set").items()}
    typed |= {f"encoder.{k}": v for k, v in pairs(options.encoder, "--encoder").items()}
    from mmbench.sweep import Request, expand, expand_study, in_turns, unprepared  # torch

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
    if "all" in request.datasets:
        for name, what in unprepared(request, cache).items():
            print(f"left out: {name} {what}", file=sys.stderr)
    if study is None:
        return expand(request, cache)
    cells = expand_study(request, study, cache)
    return in_turns(cells) if study.cost else cells


def one_at_a_time(options: Options) -> bool:
    """Say whether the study asked for is about time, which runs side by side would disturb."""
    return bool(options.study) and load_study(options.study).cost


def asked_profile(options: Options) -> Profile | None:
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
    if "slurm" in typed:
        typed["slurm"] = {k: parse_value(v) for k, v in pairs(typed["slurm"], "--slurm").items()}
    return read_profile(options.profile, typed)
