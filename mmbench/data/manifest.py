"""The files of one prepared dataset and the manifest that lists them with their hashes."""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mmbench.cell import digest
from mmbench.dataset import Dataset, SplitArrays
from mmbench.errors import UserError

SCHEMA = 1  # raise it when the manifest or a file changes meaning; older versions refuse newer
LIBRARIES = ("numpy", "scipy", "scikit-learn", "mlxtend", "espeakng-loader", "torch", "torchaudio",
             "av", "pillow", "transformers", "opencv-contrib-python-headless")  # fmt: skip
NEEDED = {"files", "counts", "split_hash", "data_hash"}


def write(
    dataset: Dataset,
    splits: Mapping[str, SplitArrays],
    folder: Path,
    notes: Mapping[str, Any],
    scratch: Path,
) -> None:
    """Write all files of a prepared dataset into ``folder``, the manifest last, and flush them.

    An array that is a file of ``scratch`` already is moved, not copied: large sets need the room.
    """
    for split, arrays in splits.items():
        for modality, array in {**arrays.inputs, "label": arrays.label}.items():
            _write_array(array, folder / f"{split}.{modality}.npy", scratch)
        text = json.dumps({"ids": arrays.ids, "groups": arrays.groups})
        with flushed(folder / f"{split}.json") as handle:
            handle.write(text.encode())
    files = facts(folder)
    manifest = {
        "schema": SCHEMA,
        "name": dataset.name,
        "version": dataset.version,
        "config": dataset.config.model_dump(mode="json"),
        "task": asdict(dataset.task),
        "libraries": {name: library_version(name) for name in LIBRARIES},
        "counts": {split: len(arrays) for split, arrays in splits.items()},
        "split_hash": split_hash(splits),
        "data_hash": data_hash(files),
        "notes": dict(notes),
        "files": files,
    }
    with flushed(folder / "manifest.json") as handle:
        handle.write(json.dumps(manifest, indent=1).encode())


def facts(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and hash of every file in a folder, as a manifest lists them."""
    return {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.iterdir())
    }


@contextmanager
def flushed(file: Path) -> Iterator[BinaryIO]:
    """Open a file to write; what was written is on the disk when this ends."""
    with file.open("wb") as handle:
        yield handle
        handle.flush()
        os.fsync(handle.fileno())


def _write_array(array: NDArray[np.generic], file: Path, scratch: Path) -> None:
    held = Path(str(getattr(array, "filename", None) or ""))  # of a memory map
    if held.parent == scratch and _is_all_of(array, held):
        assert isinstance(array, np.memmap)
        array.flush()
        held.replace(file)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        return
    with flushed(file) as handle:
        np.save(handle, np.ascontiguousarray(array), allow_pickle=False)


def _is_all_of(array: NDArray[np.generic], file: Path) -> bool:
    """Say whether a memory map is the file as a whole, as it stands there."""
    whole = np.load(file, mmap_mode="r", allow_pickle=False)
    same = (array.shape, array.dtype) == (whole.shape, whole.dtype)
    return bool(same and array.flags.c_contiguous and whole.flags.c_contiguous)


def split_hash(splits: Mapping[str, SplitArrays]) -> str:
    """Return the hash of which sample, with which label, is in which split: 16 hex digits."""
    return digest([[s, list(splits[s].ids), splits[s].label.tolist()] for s in sorted(splits)], 16)


def data_hash(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the hash of every file's hash, as the manifest lists them: 16 hex digits."""
    return digest([[name, files[name]["sha256"]] for name in sorted(files)], 16)


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@functools.cache  # which reads a file
def library_version(name: str) -> str:
    """Return the installed version of a library, or ``missing``."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def read(folder: Path, *, first: str, again: str) -> dict[str, Any]:
    """Read ``folder``'s manifest.

    Args:
        folder: a prepared dataset.
        first: the command that prepares it, for the message if it is not there.
        again: the command that builds it again, for the message if it is damaged.

    Raises:
        UserError: if it is missing, unreadable, incomplete or from a newer version.
    """
    file = folder / "manifest.json"
    again = f"build it again with: {again}"
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        newer = manifest["schema"] > SCHEMA
        lacking = sorted(NEEDED - set(manifest))
    except FileNotFoundError as err:
        raise UserError(f"{file} is missing: not prepared yet; type: {first}") from err
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UserError(f"cannot read {file} ({type(err).__name__}: {err}); {again}") from err
    if newer:
        raise UserError(
            f"the cache {folder} was written by a newer mmbench (schema {manifest['schema']}, "
            f"this one reads up to {SCHEMA}); update mmbench, or {again}"
        )
    if lacking:
        raise UserError(f"{file} lacks {', '.join(lacking)}; {again}")
    return manifest
