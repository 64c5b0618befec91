"""How the command line prints: one table for a person, or JSON for a program."""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmbench.errors import UserError

UNWRAPPED = 100_000  # columns where there is no terminal: every row is one line, for grep
LEAST = 6  # columns that are left to a column whose words are cut


def console() -> Console:
    """Return the console on standard output; without a terminal, unwrapped and without colour."""
    return Console() if sys.stdout.isatty() else Console(width=UNWRAPPED, no_color=True)


@contextmanager
def printing() -> Iterator[Console]:
    """Yield a console, and print in the end; without a terminal, no line ends in spaces."""
    shown = console()
    with shown.capture() as held:
        yield shown
    text = held.get()
    sys.stdout.write(text if sys.stdout.isatty() else re.sub(" +$", "", text, flags=re.MULTILINE))


def grid(titles: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> Table:
    """Return a table that is no wider than ``room``; no word of its first column is cut."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title, width in zip(titles, _widths([titles, *rows], room), strict=True):
        table.add_column(title, width=width, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _widths(lines: Sequence[Sequence[str]], room: int) -> list[int]:
    """Return the width of each column: the widest are narrowed first, and words cut last."""
    columns = [*zip(*lines, strict=True)]
    widths = [max(map(cell_len, column)) for column in columns]
    words = [
        max(cell_len(w) for text in column for w in text.split() or [""]) for column in columns
    ]
    over = sum(widths) + 2 * (len(widths) - 1) - room
    while over > 0 and (wide := [i for i in range(len(widths)) if widths[i] > words[i]]):
        widths[max(wide, key=widths.__getitem__)] -= 1
        over -= 1
    for i in range(len(widths) - 1, 0, -1):
        less = min(max(over, 0), max(widths[i] - LEAST, 0))
        widths[i], over = widths[i] - less, over - less
    return widths


def print_rows(rows: Sequence[Mapping[str, Any]], as_json: bool, empty: str) -> None:
    """Print rows as a table or as JSON; ``empty`` is what to say when there are none."""
    if as_json:
        print(json.dumps(list(rows), indent=1))
        return
    if not rows:
        print(empty)
        return
    titles = [key.replace("_", " ") for key in rows[0]]
    texts = [["" if v is None else str(v) for v in row.values()] for row in rows]
    with printing() as shown:
        shown.print(grid(titles, texts, shown.width))


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
