"""``prepare`` and ``verify``."""

import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbench.cli.output import pairs, print_rows
from mmbench.dataset import Dataset
from mmbench.errors import UserError
from mmbench.own.table import TABLES
from mmbench.plugins import make_known
from mmbench.registry import DATASETS, METHODS
from mmbench.scan import check_name
from mmbench.settings import default_cache, parse_value, validate
from mmbench.wording import counted

if TYPE_CHECKING:
    from mmbench.data.verify import Check

IN_JSON = ("name", "ok", "detail", "note")  # of a check


def is_table(name: str) -> bool:
    """Say whether ``name`` is a file of the user's own rather than a dataset's name."""
    return Path(name).suffix.lower() in TABLES


def _dataset(name: str, settings: Sequence[str], plugins: Sequence[str], cache: Path) -> Dataset:
    make_known(plugins, cache)
    cls = DATASETS.load(name)
    dataset: Dataset = cls(validate(cls.Config, _values(name, settings), name))
    return dataset


def _values(name: str, settings: Sequence[str]) -> dict[str, Any]:
    return {
        key.removeprefix(f"{name}.").removeprefix("dataset."): parse_value(value)
        for key, value in pairs(settings, "--set").items()
    }


def prepare(
    name: str,
    root: Path | None,
    rebuild: bool,
    settings: Sequence[str],
    cache: Path | None,
    plugins: Sequence[str],
) -> None:
    """Build the cache of one dataset."""
    from mmbench.data import cache as data_cache

    cache = cache or default_cache()
    dataset = _dataset(name, settings, plugins, cache)
    again = data_cache.is_prepared(dataset, cache) and not rebuild
    where = data_cache.prepare(dataset, cache=cache, root=root, rebuild=rebuild)
    if again:
        print(f"{name} was prepared before in {where}; after a change of its files or lists, "
              "prepare it again with --rebuild")  # fmt: skip
    else:
        print(f"prepared {name} in {where}")
    _say_next(dataset, cache)


def prepare_table(
    table: Path,
    name: str,
    columns: str,
    kinds: Sequence[str],
    rebuild: bool,
    settings: Sequence[str],
    cache: Path | None,
) -> None:
    """Make a dataset of the user's own table and build its cache.

    Raises:
        UserError: if the name is taken, or the table or its files cannot be used.
    """
    from mmbench.data import cache as data_cache
    from mmbench.data.leaks import leaks
    from mmbench.own import dataset as own
    from mmbench.own.table import read_table

    name = name or re.sub(r"[^A-Za-z0-9]+", "-", table.stem).strip("-")
    check_name(name, "--name")
    cache = cache or default_cache()
    for registry, what in ((DATASETS, "dataset"), (METHODS, "method")):
        if name in registry.names():
            raise UserError(f"{name} is a {what} of mmbench; give yours another with --name NAME")
    file = own.definition_file(name, cache)
    if file.is_file() and not rebuild:
        before = own.read_definition(file).table
        moved = not Path(before).is_file()
        if Path(before).resolve() != table.resolve() and not moved:
            raise UserError(
                f"{name} is already made from {before}; give this one another name with --name "
                "NAME, or replace it with --rebuild"
            )
    used = [column.strip() for column in columns.split(",") if column.strip()]
    read = read_table(table, columns=used, kinds=pairs(kinds, "--kind"))
    found = ", ".join(f"{m} ({kind})" for m, kind in read.kinds.items())
    rows = counted(len(read.rows), "row")
    print(f"{table.name}: {rows}, {len(read.classes)} classes; modalities: {found}",
          file=sys.stderr)  # fmt: skip
    cls = own.define(read, name, _values(name, settings), cache)
    dataset = cls()
    again = data_cache.is_prepared(dataset, cache) and not rebuild
    where = data_cache.prepare(dataset, cache=cache, rebuild=rebuild)
    own.save(cls.definition, cache)
    prepared = data_cache.load(dataset, cache=cache)
    counts = ", ".join(f"{len(arrays)} {split}" for split, arrays in prepared.splits.items())
    print(f"{f'{name} was prepared before' if again else f'prepared {name}'} in {where}")
    print(f"{len(prepared.task.classes)} classes; {counts}")
    for m in prepared.task.modalities:
        print(f"  {m.name}: {cls.definition.kinds[m.name]}, {' x '.join(map(str, m.shape))}")
    for (one, two), alike in leaks(prepared.task, prepared.splits).items():
        groups = set(prepared.splits[one].groups) & set(prepared.splits[two].groups)
        if read.grouped and groups:
            print(f"  {one} and {two} share {len(groups)} groups: see mmbench verify {name}")
        for each in alike:
            if each.leak:
                print(f"  {each.told(one, two)}: see mmbench verify {name}")
    _say_next(dataset, cache)


def _say_next(dataset: Dataset, cache: Path) -> None:
    """Print what to type now."""
    from mmbench.data import cache as data_cache

    options = shlex.join(data_cache.options(dataset, cache, f"{dataset.name}."))
    print(
        f"check it: {data_cache.command(dataset, cache, verb='verify')}\n"
        f"use it:   mmbench run --methods all --datasets {dataset.name} {options}".rstrip()
    )


def verify(
    name: str,
    settings: Sequence[str],
    cache: Path | None,
    results: Path,
    plugins: Sequence[str],
    as_json: bool,
) -> int:
    """Check the cache of one dataset; return 0 if all is well, else 1."""
    from mmbench.data import verify as prepared

    cache = cache or default_cache()
    dataset = _dataset(name, settings, plugins, cache)
    checks = prepared.verify(dataset, cache=cache, records=results / "records")
    failed = sum(not check.ok for check in checks)
    if as_json:
        print(json.dumps([{key: getattr(c, key) for key in IN_JSON} for c in checks], indent=1))
        return int(failed > 0)
    rows = [{"check": c.name, "result": _result(c), "found": c.words or c.detail} for c in checks]
    print_rows(rows, False, "nothing to check")
    advice = dict.fromkeys((check.ok, check.note) for check in checks if check.note)
    for ok, note in advice:
        print(f"{'note' if ok else 'to mend'}: {note}")
    notes = counted(sum(check.ok and check.told for check in checks), "note")
    print(f"{failed or 'none'} of {counted(len(checks), 'check')} failed; {notes}")
    return int(failed > 0)


def _result(check: "Check") -> str:
    return "FAIL" if not check.ok else "note" if check.told else "ok"
