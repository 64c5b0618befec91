"""Removing prepared data: all that mmbench made of a dataset in the cache, and nothing else."""

import re
import shutil
from pathlib import Path

from mmbench.errors import UserError, nearest
from mmbench.locking import try_lock

# The definition of an own table and the hashes of its files, caches, features, what a build left.
MADE = re.compile(r"own\.json|files\.json|[0-9a-f]{12}|features|\.(progress|scratch)-.+|\..+\.lock")
SIGN = re.compile(
    r"own\.json|[0-9a-f]{12}|\.progress-.+"
)  # one of these makes a folder a dataset's


def prepared_names(cache: Path) -> list[str]:
    """Return the datasets of which something lies in the cache, sorted."""
    if not cache.is_dir():
        return []
    return sorted(
        folder.name
        for folder in cache.iterdir()
        if folder.is_dir() and any(SIGN.fullmatch(entry.name) for entry in folder.iterdir())
    )


def made(name: str, cache: Path) -> list[Path]:
    """Return what there is to remove of a dataset.

    Raises:
        UserError: if nothing of that name is prepared, or a process is preparing it.
    """
    known = prepared_names(cache)
    if name not in known:
        raise UserError(
            f"nothing called {name!r} is prepared in {cache}{nearest(name, known)} "
            f"(there are {', '.join(known) or 'none'})"
        )
    found = sorted(entry for entry in (cache / name).iterdir() if MADE.fullmatch(entry.name))
    for lock in (entry for entry in found if entry.suffix == ".lock"):
        with lock.open("a") as handle:
            if not try_lock(handle):
                raise UserError(f"a process is preparing {name} ({lock}); wait until it has ended")
    return found


def size(entry: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    files = entry.rglob("*") if entry.is_dir() else [entry]
    return sum(file.lstat().st_size for file in files)


def remove(found: list[Path]) -> None:
    """Remove what ``made`` returned, and the folder around it once it is empty.

    Raises:
        UserError: if something cannot be removed.
    """
    try:
        for entry in found:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        folder = found[0].parent
        if not any(folder.iterdir()) and not folder.is_symlink():
            folder.rmdir()
    except OSError as err:
        raise UserError(f"cannot remove {err.filename}: {err.strerror}") from err
