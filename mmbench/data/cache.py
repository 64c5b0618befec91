"""Prepared data: one folder per data set and settings, with a hashed manifest.

``<cache>/<name>/<digest>/`` holds ``<split>.<modality>.npy``, ``<split>.label.npy``,
``<split>.json`` (ids and groups) and ``manifest.json``. It is built beside its place and renamed,
so that what is there is whole.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.cell import digest
from mmbench.dataset import SPLITS, Dataset, Prepared, SplitArrays
from mmbench.errors import UserError

SCHEMA = 1
LIBRARIES = ("numpy", "scipy", "scikit-learn", "mlxtend", "espeakng-loader")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Check:
    """One thing that ``verify`` looked at."""

    name: str
    ok: bool
    detail: str


def cache_folder(dataset: Dataset, cache: Path) -> Path:
    """Return where the prepared data of this data set and config lies or would lie."""
    key = [dataset.name, dataset.version, dataset.config.model_dump(mode="json")]
    return cache / dataset.name / digest(key)


def is_prepared(dataset: Dataset, cache: Path) -> bool:
    """Say whether the cache is there."""
    return (cache_folder(dataset, cache) / "manifest.json").is_file()


def prepare(
    dataset: Dataset, *, cache: Path, root: Path | None = None, rebuild: bool = False
) -> Path:
    """Build the cache unless it is there; return its folder.

    Raises:
        UserError: if the root is not usable, or the cache cannot be written.
    """
    target = cache_folder(dataset, cache)
    if is_prepared(dataset, cache) and not rebuild:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as name:
            work = Path(name)
            (work / "scratch").mkdir()
            splits = dataset.build(root, work / "scratch")
            built = work / "built"
            built.mkdir()
            _write(dataset, splits, built)
            if rebuild and target.exists():
                shutil.rmtree(target)
            try:
                built.replace(target)
            except OSError:
                if not is_prepared(dataset, cache):  # else another process was faster: use its copy
                    raise
    except OSError as err:
        raise UserError(
            f"cannot write the cache of {dataset.name} in {target.parent}: {err.strerror or err}; "
            "make room, or choose another folder with --cache DIR"
        ) from err
    return target


def _write(dataset: Dataset, splits: Mapping[str, SplitArrays], folder: Path) -> None:
    for split, arrays in splits.items():
        for modality, array in arrays.inputs.items():
            np.save(folder / f"{split}.{modality}.npy", np.ascontiguousarray(array))
        np.save(folder / f"{split}.label.npy", arrays.label)
        text = json.dumps({"ids": arrays.ids, "groups": arrays.groups})
        (folder / f"{split}.json").write_text(text, encoding="utf-8")
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.iterdir())
    }
    manifest = {
        "schema": SCHEMA,
        "name": dataset.name,
        "version": dataset.version,
        "config": dataset.config.model_dump(mode="json"),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "counts": {split: len(arrays) for split, arrays in splits.items()},
        "split_hash": split_hash(splits),
        "data_hash": digest([[name, f["sha256"]] for name, f in files.items()], 16),
        "files": files,
    }
    with (folder / "manifest.json").open("w", encoding="utf-8") as handle:
        json.dump(manifest, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())


def split_hash(splits: Mapping[str, SplitArrays]) -> str:
    """Return the hash of which sample, with which label, is in which split."""
    return digest([[s, list(splits[s].ids), splits[s].label.tolist()] for s in sorted(splits)], 16)


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _manifest(dataset: Dataset, folder: Path) -> dict[str, Any]:
    again = f"build it again with: mmbench prepare {dataset.name} --rebuild"
    try:
        manifest: dict[str, Any] = json.loads(
            (folder / "manifest.json").read_text(encoding="utf-8")
        )
        newer = manifest["schema"] > SCHEMA
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UserError(f"cannot read {folder / 'manifest.json'}: {err}; {again}") from err
    if newer:
        raise UserError(
            f"the cache {folder} was written by a newer mmbench (version {manifest['schema']}, "
            f"this one reads up to {SCHEMA}); update mmbench, or {again}"
        )
    return manifest


def load(dataset: Dataset, *, cache: Path) -> Prepared:
    """Open the cache, memory-mapped; sizes are checked, hashes are ``verify``'s.

    Raises:
        UserError: if a file is missing, truncated or from a newer version.
    """
    folder = cache_folder(dataset, cache)
    manifest = _manifest(dataset, folder)
    for name, facts in manifest["files"].items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else -1
        if size != facts["bytes"]:
            found = "missing" if size < 0 else f"{size} bytes instead of {facts['bytes']}"
            raise UserError(
                f"the cache file {file} is damaged ({found}); "
                f"build it again with: mmbench prepare {dataset.name} --rebuild"
            )
    try:
        splits = {split: _load_split(dataset, folder, split) for split in SPLITS}
    except (OSError, ValueError, KeyError) as err:
        raise UserError(
            f"the cache {folder} is damaged ({err}); "
            f"build it again with: mmbench prepare {dataset.name} --rebuild"
        ) from err
    return Prepared(
        dataset.task,
        splits,
        manifest["split_hash"],
        manifest["data_hash"],
        dataset.augmentations(),
    )


def _load_split(dataset: Dataset, folder: Path, split: str) -> SplitArrays:
    names = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
    inputs = {
        m: np.load(folder / f"{split}.{m}.npy", mmap_mode="r", allow_pickle=False)
        for m in dataset.task.names
    }
    label = np.load(folder / f"{split}.label.npy", allow_pickle=False)
    return SplitArrays(inputs, label, tuple(names["ids"]), tuple(names["groups"]))


def ensure(dataset: Dataset, *, cache: Path) -> Prepared:
    """Load the cache; an embedded data set is prepared first if need be.

    Raises:
        UserError: with the command to type, if a data set that needs files is not prepared.
    """
    if not is_prepared(dataset, cache):
        if not dataset.embedded:
            raise UserError(
                f"{dataset.name} is not prepared on this machine; "
                f"type: mmbench prepare {dataset.name} --root DIR"
            )
        logger.info("preparing %s (once)", dataset.name)
        prepare(dataset, cache=cache)
    return load(dataset, cache=cache)


def verify(dataset: Dataset, *, cache: Path) -> list[Check]:
    """Check hashes, counts, class balance, leaks and finite values."""
    folder = cache_folder(dataset, cache)
    manifest = _manifest(dataset, folder)
    bad = [
        name
        for name, facts in manifest["files"].items()
        if not (folder / name).is_file() or _sha256(folder / name) != facts["sha256"]
    ]
    checks = [Check("hashes", not bad, f"differ: {', '.join(bad)}" if bad else "all files match")]
    if bad:
        return checks
    splits = load(dataset, cache=cache).splits
    counts = {s: len(a) for s, a in splits.items()}
    checks.append(Check("counts", counts == manifest["counts"], str(counts)))
    classes = len(dataset.task.classes)
    for split, arrays in splits.items():
        per_class = np.bincount(arrays.label, minlength=classes)
        checks.append(
            Check(f"classes {split}", bool(per_class.min() > 0), f"{per_class.tolist()} per class")
        )
        finite = all(np.isfinite(a).all() for a in arrays.inputs.values())
        checks.append(Check(f"finite {split}", bool(finite), "no NaN or infinity"))
    for one, two in combinations(splits, 2):
        shared = set(splits[one].ids) & set(splits[two].ids)
        checks.append(Check(f"ids {one}/{two}", not shared, f"{len(shared)} shared"))
        groups = set(splits[one].groups) & set(splits[two].groups)
        checks.append(Check(f"groups {one}/{two}", not groups, f"{len(groups)} shared"))
    return checks
