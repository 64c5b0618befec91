"""``merge``: another results folder into this one."""

import json
from dataclasses import asdict
from pathlib import Path

from mmbench.errors import UserError
from mmbench.merge import Merged
from mmbench.merge import merge as merge_folders

SHOWN = 20


def merge(other: Path, results: Path, dry_run: bool, as_json: bool) -> int:
    """Merge and tell; return 1 if numbers differ or something cannot be read.

    Raises:
        UserError: see ``mmbench.merge.merge``; also if nothing can be written.
    """
    try:
        done = merge_folders(results, other, dry_run)
    except OSError as err:
        raise UserError(
            f"cannot merge {other} into {results}: {err.strerror or err} ({err.filename}); what "
            "was brought until then is whole; mend it and merge again"
        ) from err
    if as_json:
        print(json.dumps({**asdict(done), "dry_run": dry_run}, indent=1, default=str))
    else:
        _print(done, results, dry_run)
    return int(bool(done.unreadable) or any(each.numbers for each in done.conflicts))


def _print(done: Merged, results: Path, dry_run: bool) -> None:
    would = "would be brought" if dry_run else "brought"
    print(f"{len(done.brought)} {would} to {results}, {done.same} there already")
    for conflict in done.conflicts:
        word = "different" if conflict.numbers else "another run"
        print(f"{word}: {conflict.ours} (kept)\n     and {conflict.theirs}")
        for line in conflict.what:
            print(f"  {line}")
    _list("running here, so left alone; merge again later", done.busy)
    _list("not finished there, so left there", done.unfinished)
    for line in done.unreadable:
        print(f"left out: {line}")


def _list(title: str, names: list[str]) -> None:
    if names:
        more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        print(f"{len(names)} {title}: {', '.join([*names[:SHOWN], *more])}")
