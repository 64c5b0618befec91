"""What a cluster is asked for: a TOML file and what was typed, checked before anything runs."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from mmbench.errors import UserError, nearest
from mmbench.launch.lease import GRACE, LEAST
from mmbench.settings import Settings, setting, validate

TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
# What mmbench itself says to sbatch; changing it would break claiming, logs or requeueing.
OWNED = {
    "array": "--max-jobs", "time": "--time", "partition": "--partition", "account": "--account",
    "mem": "--mem", "cpus-per-task": "--cpus", "gpus": "--gpus", "gpus-per-node": "--gpus",
    "signal": "the profile's warn", "output": None, "error": None, "open-mode": None,
    "requeue": None, "no-requeue": None, "nodes": None, "ntasks": None, "ntasks-per-node": None,
    "wrap": None, "wait": None, "chdir": None, "export": None,
}  # fmt: skip
# Options of sbatch that may ask for GPUs, by what they are set to.
ASKING = ("gres", "tres-per-node", "tres-per-task", "tres-per-job")


def seconds_of(time: str) -> int:
    """Return the seconds of a SLURM time: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        ValueError: if it is none of these, or zero.
    """
    match = TIME.fullmatch(time.strip())
    if match is None:
        raise ValueError("a time limit such as 90 (minutes), 2:00:00 or 1-12:00:00 is wanted")
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if not total:
        raise ValueError("a time limit above zero is wanted")
    return total


class Resources(Settings):
    """What one job asks for; a table ``[datasets.NAME]`` may say it anew for a dataset."""

    partition: str | None = setting(
        None, "partition; none: the cluster's default", source="mmbench"
    )
    time: str | None = setting(None, "time limit: 90 (minutes), 2:00:00, 1-12", source="mmbench")
    gpus: int = setting(0, "GPUs of a job", source="mmbench", ge=0)
    cpus: int = setting(1, "CPU cores of a job", source="mmbench", ge=1)
    mem: str | None = setting(
        None, "memory of a job, e.g. 32G; none: the cluster's default", source="mmbench",
        pattern=r"^\d+[KMGT]?B?$",
    )  # fmt: skip

    @field_validator("time", mode="before")
    @classmethod
    def _limit(cls, value: Any) -> Any:  # Any: not validated yet
        """Take minutes as a number, as TOML and sbatch do; refuse what sbatch could not read."""
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str):
            seconds_of(value)
        return value

    @field_validator("partition", "account", check_fields=False)
    @classmethod
    def _one_word(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.@,+-]+", value):
            raise ValueError("a name without spaces is wanted")
        return value


class Profile(Resources):
    """How to submit to one cluster."""

    account: str | None = setting(None, "whom to charge", source="mmbench")
    max_jobs: int = setting(100, "jobs (workers) at most", source="mmbench", ge=1)
    warn: int = setting(
        120, "seconds before the time limit at which a job checkpoints and requeues itself; SLURM "
        "may be up to a minute early", source="mmbench", ge=1,
    )  # fmt: skip
    lease: float = setting(
        120.0, "seconds without a sign of life after which a cell is taken over", source="mmbench"
    )
    shared: bool = setting(
        False, "the nodes do see the results and cache folders, although the file system looks "
        "local to this machine", source="mmbench",
    )  # fmt: skip
    setup: tuple[str, ...] = setting((), "shell lines before the worker starts", source="mmbench")
    slurm: dict[str, str | int | bool] = Field(
        default_factory=dict,
        description="further options of sbatch",
        json_schema_extra={"source": "mmbench"},
    )
    datasets: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="other resources for a dataset",
        json_schema_extra={"source": "mmbench"},
    )

    @field_validator("lease")
    @classmethod
    def _outlives_grace(cls, value: float) -> float:
        if value < LEAST:
            raise ValueError(
                f"{LEAST:g} s or more are wanted: what trains goes on for {GRACE:g} s when its "
                "worker has died, and no other worker may take the cell before"
            )
        return value

    @field_validator("slurm")
    @classmethod
    def _free(cls, value: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        for key, given in value.items():
            plain = key.replace("_", "-")
            if not re.fullmatch(r"[a-z][a-z0-9-]*", plain):
                raise ValueError(f"{key!r} is no option of sbatch; write its long name without --")
            if plain in OWNED:
                instead = OWNED[plain]
                said = f"use {instead}" if instead else "mmbench sets it"
                raise ValueError(f"{key!r} cannot be given to sbatch here; {said}")
            if given is False or "\n" in str(given):
                raise ValueError(f"{key!r} wants a text of one line, a number or true")
        return value

    def resources(self, dataset: str) -> Resources:
        """Return what jobs for ``dataset`` ask for.

        Raises:
            UserError: if its table holds something unknown, there is no time limit, or GPUs are
                asked for in two ways.
        """
        common = self.model_dump(include=set(Resources.model_fields))
        own = self.datasets.get(dataset, {})
        wanted = validate(Resources, {**common, **own}, f"datasets.{dataset}" if own else "profile")
        twice = [key for key, value in self.slurm.items() if _asks_for_gpus(key, value)]
        if wanted.gpus and twice:
            raise UserError(
                f"GPUs are asked for twice: gpus is {wanted.gpus} (--gpus, or the profile), and "
                f"sbatch gets {twice[0]}={self.slurm[twice[0]]}; leave one of them out (with the "
                "second alone say --device cuda)"
            )
        if wanted.time is None:
            raise UserError(
                "no time limit; say how long a job may run, e.g. --time 2:00:00 (cells that need "
                "longer continue in the next job)"
            )
        if seconds_of(wanted.time) <= self.warn:
            raise UserError(
                f"the time limit {wanted.time} is not above the {self.warn} s in which a job is "
                "warned before it; ask for more time or set a shorter warn in the profile"
            )
        return wanted


def _asks_for_gpus(key: str, value: str | int | bool) -> bool:
    plain = key.replace("_", "-")
    return plain.startswith("gpus-per-") or (plain in ASKING and "gpu" in str(value))


def profiles_folder() -> Path:
    """Return where profiles are looked up by name: ``~/.config/mmbench/profiles``."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "mmbench" / "profiles"


def profile_file(profile: str) -> Path:
    """Return the file of a profile: a path, or a name in the profiles folder.

    Raises:
        UserError: if there is none of that name.
    """
    if profile.endswith(".toml") or "/" in profile:
        return Path(profile).expanduser()
    file = profiles_folder() / f"{profile}.toml"
    if not file.is_file():
        known = sorted(f.stem for f in profiles_folder().glob("*.toml"))
        raise UserError(
            f"there is no profile {profile!r} in {profiles_folder()}{nearest(profile, known)} "
            f"(there: {', '.join(known) or 'none'}); a path ending in .toml works as well"
        )
    return file


def read_profile(profile: str, typed: Mapping[str, Any]) -> Profile:
    """Return the profile, with what was typed above what the file says.

    Args:
        profile: a name or a file; empty: no file.
        typed: options by field; ``slurm`` is added to the file's.

    Raises:
        UserError: if the file cannot be read, or holds or lacks something.
    """
    held: dict[str, Any] = {}
    if profile:
        file = profile_file(profile)
        try:
            held = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
            raise UserError(f"cannot read the profile {file}: {err}") from err
    if held.pop("cluster", "slurm") != "slurm":
        raise UserError(f"the profile {profile} is for another cluster than slurm, the one known")
    slurm = held.get("slurm", {})
    both = {**slurm, **typed.get("slurm", {})} if isinstance(slurm, dict) else slurm
    return validate(Profile, {**held, **typed, "slurm": both}, "profile")
