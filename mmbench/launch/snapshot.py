"""A copy of the code that a sweep runs: editing it afterwards changes nothing in the queue."""

import importlib.metadata
import importlib.util
import json
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

import mmbench
from mmbench.errors import UserError
from mmbench.registry import REGISTRIES

# Parts of the package that a checkout keeps beside ``mmbench/``; in a wheel they lie inside.
BESIDE = ("methods", "datasets", "studies")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def take(code: Path, plugins: Sequence[str]) -> list[str]:
    """Copy mmbench and the user's own classes into ``code``, to be put on ``PYTHONPATH``.

    What is installed as a library is part of the environment and is not copied.

    Args:
        code: a folder that does not exist yet.
        plugins: the ``--plugin`` values.

    Returns:
        The ``--plugin`` values to use with the copy.

    Raises:
        UserError: if something cannot be copied.
    """
    from mmbench.training.environment import COMMIT_FILE, commit

    try:
        home = Path(mmbench.__file__).parent
        shutil.copytree(home, code / "mmbench", ignore=LEFT_OUT)
        for name in BESIDE:
            found = _locations(f"mmbench.{name}")
            if found and home not in found[0].parents:
                shutil.copytree(found[0], code / "mmbench" / name, ignore=LEFT_OUT)
        sha, clean = commit()
        (code / "mmbench" / COMMIT_FILE).write_text(json.dumps({"commit": sha, "clean": clean}))
        for name in sorted(_own_modules(plugins)):
            _copy_module(name, code)
        return [_copy_plugin(spec, code) for spec in plugins]
    except (OSError, shutil.Error) as err:
        raise UserError(
            f"cannot copy the code into {code}: {err}; make room or choose another folder with "
            "--results DIR"
        ) from err


def _is_file(spec: str) -> bool:
    return spec.endswith(".py") or "/" in spec


def _copy_plugin(spec: str, code: Path) -> str:
    if not _is_file(spec):
        return spec
    source = Path(spec).resolve()
    folder = code / "plugins" / str(len(list(code.glob("plugins/*"))))
    folder.mkdir(parents=True)
    return str(shutil.copy2(source, folder / source.name))


def _own_modules(plugins: Iterable[str]) -> set[str]:
    """Return the top-level modules of plug-ins, and what they imported from the working folder."""
    named = [spec for spec in plugins if not _is_file(spec)]
    for registry in REGISTRIES:
        named += [point.module for point in importlib.metadata.entry_points(group=registry.group)]
    here = Path.cwd().resolve()
    loaded = {name for name in list(sys.modules) if "." not in name and here in _around(name)}
    tops = {name.partition(".")[0] for name in named} | loaded
    tops -= {"mmbench", "__main__", *BESIDE}
    return {top for top in tops if any(not _installed(path) for path in _locations(top))}


def _locations(name: str) -> list[Path]:
    """Return the folders of a package, or the file of a module; nothing if it has neither."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: a module made by hand, without a spec
        return []
    if spec is None or not (spec.submodule_search_locations or spec.has_location):
        return []
    found = spec.submodule_search_locations or [str(spec.origin)]
    return [Path(path).resolve() for path in found]


def _around(name: str) -> set[Path]:
    return {parent for path in _locations(name) for parent in path.parents}


def _installed(path: Path) -> bool:
    standard = Path(sysconfig.get_paths()["stdlib"]).resolve()
    return standard in path.parents or bool({"site-packages", "dist-packages"} & {*path.parts})


def _copy_module(name: str, code: Path) -> None:
    for path in _locations(name):
        if path.is_dir():
            shutil.copytree(path, code / name, ignore=LEFT_OUT, dirs_exist_ok=True)
        else:
            shutil.copy2(path, code / path.name)
