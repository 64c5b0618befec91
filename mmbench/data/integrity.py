"""Is a prepared file the one that was written? By its hash, remembered while nothing touches it."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmbench.data.manifest import sha256
from mmbench.store import write_atomic

VERIFIED = "verified.json"


def damage(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what is wrong with the first damaged file, or None.

    A file is hashed when it is opened for the first time, and again whenever its size, time of
    change or inode is another than when its hash was right; ``mmbench verify`` hashes always.

    Args:
        folder: the prepared dataset.
        files: the manifest's facts, ``bytes`` and ``sha256`` per file name.
    """
    known = _known(folder)
    seen: dict[str, list[int]] = {}
    for name, facts in files.items():
        file = folder / name
        try:
            stat = file.stat()
        except OSError:
            return f"{file} is damaged (missing)"
        if stat.st_size != facts["bytes"]:
            return f"{file} is damaged ({stat.st_size} bytes instead of {facts['bytes']})"
        seen[name] = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        if known.get(name) != seen[name] and sha256(file) != facts["sha256"]:
            return f"{file} is damaged (its bytes are not those that were written)"
    if seen != known:
        _remember(folder, seen)
    return None


def _known(folder: Path) -> dict[str, list[int]]:
    try:
        known = json.loads((folder / VERIFIED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(folder: Path, seen: Mapping[str, list[int]]) -> None:
    with suppress(OSError):  # a cache that only others may write is hashed each time
        write_atomic(folder / VERIFIED, json.dumps(seen).encode())
