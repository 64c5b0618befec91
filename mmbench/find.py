"""Find a cell of a results folder by a part of its name."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from mmbench.errors import UserError, nearest
from mmbench.hints import typed
from mmbench.launch.sweepfolder import open_sweep, sweeps

SHOWN = 5


def cell_names(results: Path) -> list[str]:
    """Return the names of all cells: of run directories, and of sweeps' cells not begun yet."""
    runs = results / "runs"
    found = {p.name for p in runs.iterdir() if not p.name.startswith(".")} if runs.is_dir() else ()
    names = dict.fromkeys(sorted(found))
    for path in sweeps(results):
        with suppress(UserError):  # a damaged one is for mmbench status to tell
            names |= dict.fromkeys(entry.folder for entry in open_sweep(path).entries)
    return list(names)


def matching(name: str, names: Iterable[str]) -> list[str]:
    """Return the names meant by ``name``: that very one, else what begins with it, or holds it."""
    known = list(names)
    if name in known:
        return [name]
    return [n for n in known if n.startswith(name)] or [n for n in known if name and name in n]


def find_cell(name: str, names: Sequence[str], results: Path) -> str:
    """Return the one cell that ``name`` begins, or is a part of.

    Raises:
        UserError: if there is none, or more than one.
    """
    found = matching(name, names)
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(
            f"no cell of {results} is called {name!r}{nearest(name, names)} "
            f"({typed('mmbench list runs', results)}, or --results DIR for another folder)"
        )
    shown = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
    raise UserError(f"{name!r} is in the name of {len(found)} cells: {shown}; give more of it")
