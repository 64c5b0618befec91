"""``list``, ``show`` and ``clean``."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmbench.cli.output import print_rows
from mmbench.errors import UserError, nearest
from mmbench.hints import typed
from mmbench.own.dataset import discover, own_table
from mmbench.plugins import load_plugin, make_known
from mmbench.registry import DATASETS, ENCODERS, METHODS, Registry
from mmbench.settings import default_cache
from mmbench.store import RunDirectory
from mmbench.survey import survey
from mmbench.wording import counted

KINDS: dict[str, Registry] = {"methods": METHODS, "datasets": DATASETS, "encoders": ENCODERS}


def list_things(what: str, results: Path, plugins: Sequence[str], as_json: bool) -> None:
    """Print the names of one kind."""
    if what == "runs":
        print_rows(_runs(results, as_json), as_json, f"no runs in {results}")
        return
    if what == "studies":
        from mmbench.report.study import load_study, study_names

        rows = [{"name": n, "summary": load_study(n).title} for n in study_names()]
        print_rows(rows, as_json, "no studies")
        return
    if what == "datasets":
        discover(default_cache())
    if what not in KINDS:
        choices = [*KINDS, "studies", "runs"]
        raise UserError(
            f"cannot list {what!r}{nearest(what, choices)} (there are {', '.join(choices)})"
        )
    for plugin in plugins:
        load_plugin(plugin)
    rows = [{"name": e.name, "summary": e.summary, "from": e.origin} for e in KINDS[what].entries()]
    print_rows(rows, as_json, f"no {what}")


def _directories(results: Path) -> list[RunDirectory]:
    folder = results / "runs"
    if not folder.is_dir():
        return []
    return [RunDirectory(p.parent) for p in sorted(folder.glob("*/cell.json"))]


def _runs(results: Path, whole: bool) -> list[dict[str, Any]]:
    """Return a row for each run; unless ``whole``, without what its name says already."""
    return [
        {
            "run": seen.name,
            **({"dataset": seen.dataset, "method": seen.label, "seed": seen.seed} if whole else {}),
            "state": seen.state,
            "epoch": f"{seen.epoch}/{seen.epochs}" if seen.epochs is not None else None,
        }
        for seen in survey(results).cells.values()
    ]


def show(name: str, results: Path, plugins: Sequence[str], as_json: bool) -> None:
    """Print what is known of one name."""
    make_known(plugins, default_cache())
    for registry in KINDS.values():
        if name in registry.names():
            _show_class(registry, name, as_json)
            return
    runs = [d for d in _directories(results) if name in d.path.name]
    if runs:
        from mmbench.cli.show_run import show_runs

        show_runs(runs, results, as_json)
        return
    known = [n for registry in KINDS.values() for n in registry.names()]
    raise UserError(
        f"nothing is called {name!r}{nearest(name, known)} "
        f"({typed('mmbench list methods|datasets|encoders|runs', results, plugins)} shows what "
        "there is)"
    )


def about(registry: Registry, name: str) -> dict[str, Any]:  # Any: JSON values
    """Return all that a class says of itself: docstring, data, options, differences, recipe."""
    import inspect

    from mmbench.settings import allowed

    entry, cls = registry.entry(name), registry.load(name)
    told = cls if registry is ENCODERS else inspect.getmodule(cls)
    options = [
        {
            "option": f"{name}.{key}",
            "default": field.default,
            "allowed": allowed(cls.Config, key),
            "meaning": field.description,
            "source": field.json_schema_extra.get("source")
            if isinstance(field.json_schema_extra, dict)
            else None,
        }
        for key, field in (cls.Config.model_fields.items() if hasattr(cls, "Config") else ())
    ]
    return {
        "name": name,
        "file": str(entry.file),
        "doc": inspect.getdoc(told) or "",
        "reference": getattr(cls, "reference", ""),
        "info": vars(cls.info) if hasattr(cls, "info") else {},
        "options": options,
        "deviations": [vars(d) for d in getattr(cls, "deviations", ())],
        "authors": dict(getattr(cls, "authors", {})),
    }


def _show_class(registry: Registry, name: str, as_json: bool) -> None:
    told = about(registry, name)
    if as_json:
        print(json.dumps(told, indent=1))
        return
    print(f"{name} ({registry.kind}, {told['file']})\n\n{told['doc']}\n")
    for key, value in told["info"].items():
        if value:
            print(f"{key}: {value}")
    if told["options"]:
        print("\nOptions (--set OPTION=VALUE):")
        print_rows(told["options"], False, "")
    if deviations := told["deviations"]:
        none = not any(row["option"] for row in deviations)
        switches = "switches none of them" if none else "switches the options"
        print(f"\nDifferences from the released code (--fidelity released {switches}):")
        print_rows([{**row, "option": row["option"] or "(told)"} for row in deviations], False, "")
    elif told["reference"]:
        print("\nReleased = corrected: --fidelity released changes nothing.")
    if told["authors"]:
        print("\nThe authors' recipe (--preset authors; what is unknown stays as in common):")
        for key, value in told["authors"].items():
            print(f"  {key} = {value}")


def clean(results: Path, failed: bool, unfinished: bool, dry_run: bool, as_json: bool) -> None:
    """Remove failed attempts, or interrupted and cancelled runs."""
    if not (failed or unfinished):
        raise UserError("say what to remove: --failed, --unfinished or both, or --data NAME")
    doomed: set[str] = {"failed"} if failed else set()
    if unfinished:
        doomed |= {"interrupted", "waiting", "cancelled"}
    gone: list[Path] = []
    kept: list[Path] = []
    for directory in _directories(results):
        state = directory.state()  # now: a worker may take a cell while others are removed
        if state == "running":
            kept.append(directory.path)
        elif state in doomed:
            gone.append(directory.path)
            if not dry_run:
                shutil.rmtree(directory.path)
    if as_json:
        print(json.dumps({"removed": [str(p) for p in gone], "running": [str(p) for p in kept]}))
        return
    for path in kept:
        print(f"kept {path}: a process is running it")
    for path in gone:
        print(f"{'would remove' if dry_run else 'removed'} {path}")
    print(
        f"{counted(len(gone), 'run')} {'would go' if dry_run else 'removed'}; "
        "finished runs are never touched"
    )


def clean_data(name: str, cache: Path | None, dry_run: bool, as_json: bool) -> None:
    """Remove what was prepared of one dataset; what it was prepared from stays.

    Raises:
        UserError: if nothing of that name is prepared.
    """
    from mmbench.data import removal

    cache = cache or default_cache()
    found = removal.made(name, cache)
    sizes = {entry: removal.size(entry) for entry in found}
    table = own_table(name, cache)
    if not dry_run:
        removal.remove(found)
    if as_json:
        print(json.dumps({"removed": [str(entry) for entry in found]}))
        return
    for entry, size in sizes.items():
        print(f"{'would remove' if dry_run else 'removed'} {entry} ({size / 2**20:.1f} MiB)")
    stays = f"the table {table} and its files" if table else "the files it was prepared from"
    print(
        f"{sum(sizes.values()) / 2**20:.1f} MiB of {name} {'would go' if dry_run else 'removed'}; "
        f"{stays}, runs and records stay"
    )
