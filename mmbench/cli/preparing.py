"""``prepare`` and ``verify``."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mmbench.cli.output import print_rows
from mmbench.dataset import Dataset
from mmbench.errors import UserError
from mmbench.registry import DATASETS, load_plugin
from mmbench.settings import default_cache, parse_value, validate


def _dataset(name: str, settings: Sequence[str], plugins: Sequence[str]) -> Dataset:
    for plugin in plugins:
        load_plugin(plugin)
    values = {}
    for item in settings:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--set wants KEY=VALUE; found {item!r}")
        values[key.removeprefix(f"{name}.").removeprefix("dataset.")] = parse_value(value)
    cls = DATASETS.load(name)
    dataset: Dataset = cls(validate(cls.Config, values, name))
    return dataset


def prepare(
    name: str,
    root: Path | None,
    rebuild: bool,
    settings: Sequence[str],
    cache: Path | None,
    plugins: Sequence[str],
) -> None:
    """Build the cache of one data set."""
    from mmbench.data import cache as data_cache

    dataset = _dataset(name, settings, plugins)
    where = data_cache.prepare(dataset, cache=cache or default_cache(), root=root, rebuild=rebuild)
    print(f"prepared {name} in {where}\ncheck it with: mmbench verify {name}")


def verify(
    name: str, settings: Sequence[str], cache: Path | None, plugins: Sequence[str], as_json: bool
) -> int:
    """Check the cache of one data set; return 0 if all is well, else 1."""
    from mmbench.data import cache as data_cache

    checks = data_cache.verify(_dataset(name, settings, plugins), cache=cache or default_cache())
    print_rows([asdict(check) for check in checks], as_json, "nothing to check")
    return 0 if all(check.ok for check in checks) else 1
