"""Removing prepared data: all that mmbench made of a dataset in the cache, and nothing else."""

import re
import shutil
from pathlib import Path

from mmbench.errors import UserError, nearest
from mmbench.locking import try_lock

BUILT = re.compile(r"[0-9a-f]{12}")  # a cache; with a manifest in it, as a date is such a name too
# The definition of an own table and the hashes of its files; what a build left or holds.
NAMED = re.compile(r"own\.json|files\.json|\.(progress|scratch)-.+|\..+\.lock")
SIGNS = re.compile(r"own\.json|\.progress-.+")  # one of these or a cache: the folder is a dataset's


def _is_cache(entry: Path) -> bool:
    return bool(BUILT.fullmatch(entry.name)) and (entry / "manifest.json").is_file()


def _is_features(entry: Path) -> bool:
    """Say whether a folder holds nothing but what frozen networks said of a dataset."""
    if entry.name != "features" or not entry.is_dir():
        return False
    return all(
        each.name.startswith(".") or (each / "manifest.json").is_file() for each in entry.iterdir()
    )


def prepared_names(cache: Path) -> list[str]:
    """Return the datasets of which something lies in the cache, sorted."""
    if not cache.is_dir():
        return []
    return sorted(
        folder.name
        for folder in cache.iterdir()
        if folder.is_dir()
        and any(SIGNS.fullmatch(entry.name) or _is_cache(entry) for entry in folder.iterdir())
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
    found = sorted(
        entry
        for entry in (cache / name).iterdir()
        if NAMED.fullmatch(entry.name) or _is_cache(entry) or _is_features(entry)
    )
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
