"""Whom a dotted key of the settings addresses: the trainer, the encoders, or methods and datasets.

``PREFIX.NAME``, where the prefix is ``trainer``, ``encoder``, the name of a method or a dataset, or
``method`` or ``dataset`` for every one of a run.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from mmbench.errors import UserError, nearest
from mmbench.registry import DATASETS, METHODS
from mmbench.settings import Settings, TrainerSettings, validate


def inside_run(
    shared: Mapping[str, Any], methods: Sequence[str], datasets: Sequence[str]
) -> dict[str, Any]:
    """Return the settings without those of methods and datasets outside the run, checked.

    Raises:
        UserError: if one of those left out is unknown or out of range.
    """
    kept = dict(shared)
    outside: dict[tuple[Any, str], dict[str, Any]] = {}  # Any: a method's or dataset's class
    for key in shared:
        prefix = key.partition(".")[0]
        for registry, inside in ((METHODS, methods), (DATASETS, datasets)):
            if prefix in registry.names() and prefix not in inside:
                outside.setdefault((registry.load(prefix), prefix), {})[key] = kept.pop(key)
    for (cls, prefix), values in outside.items():
        validate(cls.Config, {k.partition(".")[2]: v for k, v in values.items()}, prefix)
    return kept


def check_for_every(settings: Mapping[str, Any], methods: Sequence[str]) -> None:
    """Refuse ``method.X`` where a method of the run has no X.

    Args:
        settings: those of ``method``, by name.
        methods: of the run.

    Raises:
        UserError: says what to type instead.
    """
    options = {name: METHODS.load(name).Config.model_fields for name in methods}
    for key in settings:
        have = [name for name in methods if key in options[name]]
        lack = [name for name in methods if name not in have]
        if not lack:
            continue
        if have:
            instead = "; set it by name: " + " and ".join(f"{name}.{key}" for name in have)
        else:
            instead = nearest(key, {option for fields in options.values() for option in fields})
        raise UserError(
            f"'method.{key}' addresses every method of the run, and {', '.join(lack)} "
            f"{'has' if len(lack) == 1 else 'have'} no option {key!r}"
            f"{instead or '; mmbench show NAME lists the options of a method'}"
        )


def split_settings(
    settings: Mapping[str, Any], methods: Sequence[str], datasets: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the settings by prefix, then by name.

    Raises:
        UserError: for a prefix that is unknown, or not in this run.
    """
    prefixes = ["trainer", "method", "dataset", "encoder", *methods, *datasets]
    found: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        prefix, _, name = key.partition(".")
        if name and prefix in {*METHODS.names(), *DATASETS.names()} - set(prefixes):
            raise UserError(
                f"the setting {key!r} is for {prefix}, which is not in this run; add it with "
                "--methods or --datasets, or leave the setting out"
            )
        if not name or prefix not in prefixes:
            meant = "" if name else _owned(key, methods, datasets)
            raise UserError(
                f"unknown setting {key!r}{meant or nearest(prefix, prefixes)}; a key is "
                "PREFIX.NAME with "
                f"PREFIX one of {', '.join(prefixes)}"
            )
        found.setdefault(prefix, {})[name] = value
    return found


def _owned(option: str, methods: Sequence[str], datasets: Sequence[str]) -> str:
    """Return ``"; did you mean 'x.option'?"`` for whatever of the run has it, or one like it."""
    owners: list[tuple[str, type[Settings]]] = [("trainer", TrainerSettings)]
    owners += [(name, METHODS.load(name).Config) for name in methods]
    owners += [(name, DATASETS.load(name).Config) for name in datasets]
    known = sorted({key for _, config in owners for key in config.model_fields})
    like = option if option in known else next(iter(get_close_matches(option, known, n=1)), None)
    keys = [f"'{name}.{like}'" for name, config in owners if like in config.model_fields]
    return f"; did you mean {' or '.join(keys)}?" if keys else ""
