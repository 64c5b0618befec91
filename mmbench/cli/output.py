"""How the command line prints: one table for a person, or JSON for a program."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mmbench.errors import UserError


def console() -> Console:
    """Return the console on standard output; without a terminal, wide and without colour."""
    return Console() if sys.stdout.isatty() else Console(width=140, no_color=True)


def print_rows(rows: Sequence[Mapping[str, Any]], as_json: bool, empty: str) -> None:
    """Print rows as a table or as JSON; ``empty`` is what to say when there are none."""
    if as_json:
        print(json.dumps(list(rows), indent=1))
        return
    if not rows:
        print(empty)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for key in rows[0]:
        table.add_column(key.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("" if v is None else str(v) for v in row.values()))
    console().print(table)


def pairs(items: Sequence[str], option: str) -> dict[str, str]:
    """Read repeated ``KEY=VALUE`` options.

    Raises:
        UserError: if one is not of that form.
    """
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UserError(f"{option} wants KEY=VALUE; found {item!r}")
        found[key] = value
    return found


def clock(seconds: float) -> str:
    """Return seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
        if minutes >= 60
        else f"{minutes}:{rest:02d}"
    )
