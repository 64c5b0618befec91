"""Samples that cannot be used: named and counted, and then refused or left out."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mmbench.errors import UserError

SHOWN = 10  # named in a message; the rest are in a file


def refuse_or_tell(
    found: Sequence[str], count: str, *, skip: bool, advice: str, scratch: Path
) -> None:
    """Refuse the samples that cannot be used, unless the user said to leave them out.

    Args:
        found: a line per sample: which, and what is wrong.
        count: how many of how many are what.
        skip: leave them out, and only tell.
        advice: what to do about them.
        scratch: where all lines are written if there are more than a message should hold.

    Raises:
        UserError: unless ``skip``.
    """
    if not found:
        return
    told = "".join(f"\n  {line}" for line in found[:SHOWN])
    if len(found) > SHOWN:
        told += f"\n  and {len(found) - SHOWN} more"
    if skip:
        print(f"{count} and are left out:{told}", file=sys.stderr)
        return
    if len(found) > SHOWN:
        everything = scratch / "left-out.txt"
        everything.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
        told += f"; all of them: {everything}"
    raise UserError(f"{count}:{told}\n{advice}")
