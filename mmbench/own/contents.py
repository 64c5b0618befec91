"""What the files of a table hold, by hash: a change of any byte is noticed, a move is not."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from mmbench.data.manifest import sha256
from mmbench.data.progress import Progress
from mmbench.store import write_atomic

Stamp = list[int]  # size, time of change and inode: while they stay, so does the hash


def file_hashes(files: Sequence[str], kept: Path) -> dict[str, str]:
    """Return the SHA-256 of every file, 24 hex digits; empty where it cannot be read.

    Args:
        files: paths.
        kept: a file where hashes are remembered; they are taken anew only of what was touched.
    """
    known = _known(kept)
    found: dict[str, tuple[Stamp, str]] = {}
    for file in dict.fromkeys(files):
        stamp = _stamp(file)
        found[file] = (stamp, known[file][1] if known.get(file, ([], ""))[0] == stamp else "")
    todo = [file for file, (_, old) in found.items() if not old]
    with Progress(len(todo), 0, "hashing") as progress, ThreadPoolExecutor(_threads()) as pool:
        for file, now in zip(todo, pool.map(_hash, todo), strict=True):
            found[file] = (found[file][0], now)
            progress.advance(1)
    if todo:
        _remember(kept, found)
    return {file: now for file, (_, now) in found.items()}


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def _stamp(file: str) -> Stamp:
    try:
        facts = os.stat(file)
    except OSError:
        return []
    return [facts.st_size, facts.st_mtime_ns, facts.st_ino]


def _hash(file: str) -> str:
    try:
        return sha256(Path(file))[:24]
    except OSError:  # told with its line and column when it is decoded
        return ""


def _known(kept: Path) -> dict[str, tuple[Stamp, str]]:
    try:
        held = json.loads(kept.read_text(encoding="utf-8"))
        return {file: (stamp, now) for file, (stamp, now) in held.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(kept: Path, found: Mapping[str, tuple[Stamp, str]]) -> None:
    with suppress(OSError):  # a folder that only others may write: they are hashed each time
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, json.dumps(found).encode())
