"""Commands that a message suggests, as they must be typed after the one that suggests them."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from mmbench.wording import counted

BEGIN = "mmbench run --methods all"  # where nothing was run
RESULTS = Path("results")  # the results folder unless --results says another


def interrupted(cells: int) -> str:
    """Return what to say of cells that were begun and that nobody is at work on."""
    were, them = ("was", "it") if cells == 1 else ("were", "them")
    return (
        f"{counted(cells, 'cell')} {were} interrupted, and nobody is at work on {them}: the same "
        f"mmbench run command continues {them}, or starts {them} again"
    )


def typed(command: str, results: Path = RESULTS, plugins: Sequence[str] = ()) -> str:
    """Return ``command`` with the results folder and the plug-ins that were given."""
    given = [] if results.absolute() == RESULTS.absolute() else ["--results", str(results)]
    for plugin in plugins:
        given += ["--plugin", plugin]
    return f"{command} {shlex.join(given)}" if given else command
