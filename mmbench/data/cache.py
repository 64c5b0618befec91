"""Prepared data: one folder per dataset and settings, with a hashed manifest.

``<cache>/<name>/<digest>/`` holds ``<split>.<modality>.npy``, ``<split>.label.npy``,
``<split>.json`` (ids and groups) and ``manifest.json``. It is built beside its place, in
``.progress-<digest>`` if it can be continued, flushed to the disk and renamed, so that what is
there is whole; of two processes that prepare at once, the slower one waits, or drops its copy.
"""

import errno
import json
import logging
import os
import shlex
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.cell import digest
from mmbench.data import integrity
from mmbench.data import manifest as manifests
from mmbench.dataset import SPLITS, Dataset, Prepared, SplitArrays
from mmbench.errors import MMBenchError, UserError
from mmbench.folders import hindrance
from mmbench.locking import alone
from mmbench.registry import DATASETS
from mmbench.settings import as_typed, default_cache, validate

FULL = {errno.ENOSPC, errno.EDQUOT}
OCCUPIED = {errno.ENOTEMPTY, errno.EEXIST}
logger = logging.getLogger(__name__)


def cache_folder(dataset: Dataset, cache: Path) -> Path:
    """Return where the prepared data of this dataset and config lies or would lie."""
    key = [dataset.name, dataset.version, dataset.config.model_dump(mode="json")]
    return cache / dataset.name / digest(key)


def features_folder(dataset: Dataset, cache: Path) -> Path:
    """Return where what frozen networks say of this dataset is kept."""
    return cache / dataset.name / "features"


def is_prepared(dataset: Dataset, cache: Path) -> bool:
    """Say whether the cache is there."""
    return (cache_folder(dataset, cache) / "manifest.json").is_file()


def command(dataset: Dataset, cache: Path, *flags: str, verb: str = "prepare") -> str:
    """Return the ``mmbench prepare`` line for this very config and cache, ready to paste.

    Args:
        dataset: with its config.
        cache: the folder of all caches.
        flags: put behind the name.
        verb: another command of mmbench that takes the same ``--set`` and ``--cache``.
    """
    words = ["mmbench", verb, dataset.name, *flags]
    if verb == "prepare" and dataset.rooted and not dataset.embedded:
        words += ["--root", "DIR"]
    return shlex.join(words + options(dataset, cache))


def options(dataset: Dataset, cache: Path, prefix: str = "") -> list[str]:
    """Return the words that say this dataset, its config behind ``prefix``, and this cache."""
    changed = dataset.config.model_dump(mode="json", exclude_defaults=True)
    known = dataset.name in DATASETS.names()
    plugin = DATASETS.entry(dataset.name).plugin if known else ""
    words = ["--plugin", plugin] if plugin else []
    words += [w for k, v in changed.items() for w in ("--set", f"{prefix}{k}={as_typed(v)}")]
    return words + (["--cache", str(cache)] if cache != default_cache() else [])


def others(dataset: Dataset, cache: Path) -> list[str]:
    """Return the other settings this dataset is prepared with, as ``run`` takes them."""
    found = []
    for file in sorted((cache / dataset.name).glob("*/manifest.json")):
        with suppress(OSError, ValueError, KeyError, TypeError, UserError):
            config = json.loads(file.read_text(encoding="utf-8"))["config"]
            other = type(dataset)(validate(type(dataset).Config, config, dataset.name))
            if cache_folder(other, cache) == file.parent != cache_folder(dataset, cache):
                words = options(other, default_cache(), f"{dataset.name}.")
                found.append(shlex.join(words) or "the defaults")
    return found


def prepare(
    dataset: Dataset, *, cache: Path, root: Path | None = None, rebuild: bool = False
) -> Path:
    """Build the cache unless it is there; return its folder.

    Args:
        dataset: what to build.
        cache: the folder of all caches.
        root: folder with the native files, for datasets that need one.
        rebuild: build again even if it is there.

    Raises:
        UserError: if the root is not usable, the arrays do not fit the task, or the cache cannot
            be written. Nothing half-built is left behind.
    """
    target = cache_folder(dataset, cache)
    if root is not None:
        _check_root(root)
    scratch = target.parent / f".progress-{target.name}"
    if is_prepared(dataset, cache) and not rebuild and not scratch.exists():
        return target
    with _explained(dataset, target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not dataset.resumable:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".scratch-") as name:
                _make(dataset, root, Path(name), target, rebuild)
            return target
        with alone(scratch):
            scratch.mkdir(exist_ok=True)
            try:
                if rebuild or not is_prepared(dataset, cache):  # not made while this one waited
                    _make(dataset, root, scratch, target, rebuild)
            except BaseException:
                with suppress(OSError):  # it holds what the next one goes on with
                    scratch.rmdir()
                raise
            shutil.rmtree(scratch)
    return target


def _make(dataset: Dataset, root: Path | None, scratch: Path, target: Path, rebuild: bool) -> None:
    """Build the arrays, write them below ``scratch``, and rename."""
    work = scratch / ".building"
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    built = work / "built"
    built.mkdir(parents=True)
    try:
        splits = _build(dataset, root, scratch)
        _check(dataset, splits)
        notes = scratch / "notes.json"
        kept = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}
        manifests.write(dataset, splits, built, kept, scratch)
        _install(built, target, work, rebuild)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_root(root: Path) -> None:
    """Refuse a root that is not a folder which can be read."""
    unreadable = UserError(f"the data root {root} cannot be read; ask its owner for permission")
    try:
        is_folder, exists = root.is_dir(), root.exists()
    except PermissionError:  # a folder above it is closed
        raise unreadable from None
    if not is_folder:
        raise UserError(
            f"the data root {root} is not a folder (found {'a file' if exists else 'nothing'}); "
            "give the folder that holds the native files with --root DIR "
            "(mmbench show NAME prints what it must hold)"
        )
    if not os.access(root, os.R_OK | os.X_OK):
        raise unreadable


@contextmanager
def _explained(dataset: Dataset, parent: Path) -> Iterator[None]:
    """Turn a failure to write into advice."""
    try:
        yield
    except OSError as err:
        raise UserError(
            f"cannot write the cache of {dataset.name} in {parent}: {hindrance(parent, err)}, "
            "or choose another folder with --cache DIR (or MMBENCH_CACHE)"
        ) from err


def _build(dataset: Dataset, root: Path | None, scratch: Path) -> Mapping[str, SplitArrays]:
    try:
        return dataset.build(root, scratch)
    except OSError as err:
        if err.errno in FULL:
            raise
        advice = "reinstall mmbench" if dataset.embedded else f"check the files below {root}"
        raise UserError(f"cannot read the files of {dataset.name}: {err}; {advice}") from err
    except MMBenchError:
        raise
    except Exception as err:  # a mistake in the class, whoever wrote it
        place = traceback.extract_tb(err.__traceback__)[-1]
        raise UserError(
            f"{dataset.name}.build failed: {type(err).__name__}: {err} ({place.filename}, line "
            f"{place.lineno}); mend it"
        ) from err


def _check(dataset: Dataset, splits: Mapping[str, SplitArrays]) -> None:
    """Refuse arrays that are not what the task says: a mistake of the dataset's author."""
    if not isinstance(splits, Mapping):
        raise UserError(f"{dataset.name}.build returned {type(splits).__name__}, not its splits")
    problems = [] if set(splits) == set(SPLITS) else [f"splits {sorted(splits)}, not {SPLITS}"]
    ids = Counter(name for arrays in splits.values() for name in arrays.ids)
    if repeated := [name for name, times in ids.items() if times > 1]:
        problems.append(f"ids are not unique over all splits: {len(repeated)}, as {repeated[0]!r}")
    shapes = {m.name: m.shape for m in dataset.task.modalities}
    for split, arrays in splits.items():
        label = np.asarray(arrays.label)
        if label.ndim != 1 or label.dtype.kind not in "iu":
            problems.append(f"{split}: labels are {label.dtype} {label.shape}, not integers (N,)")
            continue
        rows = len(label)
        if not rows:
            problems.append(f"{split}: no samples")
        if not len(arrays.ids) == len(arrays.groups) == rows:
            problems.append(f"{split}: ids, groups and labels differ in number")
        if set(arrays.inputs) != set(shapes):
            problems.append(f"{split}: modalities {sorted(arrays.inputs)}, not {sorted(shapes)}")
        for m, x in arrays.inputs.items():
            if m in shapes and x.shape != (rows, *shapes[m]):
                problems.append(f"{split}.{m}: shape {x.shape}, not {(rows, *shapes[m])}")
        if rows and not 0 <= label.min() <= label.max() < len(dataset.task.classes):
            problems.append(f"{split}: labels outside 0..{len(dataset.task.classes) - 1}")
    if problems:
        raise UserError(f"{dataset.name}.build does not keep to its task: {'; '.join(problems)}")


def _install(built: Path, target: Path, work: Path, rebuild: bool) -> None:
    """Rename ``built`` to ``target``; a complete copy that came there meanwhile wins."""
    if rebuild:
        _move_aside(target, work)
    while True:  # each turn another process has changed the place in between
        try:
            built.replace(target)
            return
        except OSError as err:
            if err.errno not in OCCUPIED:
                raise
        if (target / "manifest.json").is_file():  # another process was faster: use its copy
            return
        _move_aside(target, work)  # a folder without a manifest is not whole


def _move_aside(target: Path, work: Path) -> None:
    with suppress(FileNotFoundError):
        target.replace(tempfile.mkdtemp(dir=work))


def read_manifest(dataset: Dataset, cache: Path) -> dict[str, Any]:
    """Read the manifest; what is wrong with it comes with the command that mends it."""
    return manifests.read(
        cache_folder(dataset, cache),
        first=command(dataset, cache),
        again=command(dataset, cache, "--rebuild"),
    )


def load(dataset: Dataset, *, cache: Path) -> Prepared:
    """Open the cache, memory-mapped, after a check of every file against its hash.

    Raises:
        UserError: if a file is missing, truncated, altered or from a newer version; names the
            file and the command that builds it again.
    """
    folder, manifest = cache_folder(dataset, cache), read_manifest(dataset, cache)
    again = f"build it again with: {command(dataset, cache, '--rebuild')}"
    if damage := integrity.damage(folder, manifest["files"]):
        raise UserError(f"the cache file {damage}; {again}")
    try:
        splits = {split: _load_split(dataset, folder, split) for split in SPLITS}
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UserError(f"the cache {folder} is damaged ({err}); {again}") from err
    return Prepared(
        dataset.task,
        splits,
        manifest["split_hash"],
        manifest["data_hash"],
        dataset.augmentations(),
    )


def _load_split(dataset: Dataset, folder: Path, split: str) -> SplitArrays:
    names = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
    inputs = {m: _open(folder / f"{split}.{m}.npy") for m in dataset.task.names}
    label = np.load(folder / f"{split}.label.npy", allow_pickle=False)
    return SplitArrays(inputs, label, tuple(names["ids"]), tuple(names["groups"]))


def _open(file: Path) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as err:
        raise ValueError(f"{file.name}: {err}") from err
    return array


def ensure(dataset: Dataset, *, cache: Path) -> Prepared:
    """Load the cache; an embedded dataset is prepared first if need be.

    Raises:
        UserError: with the command to type, if a dataset that needs files is not prepared.
    """
    if not is_prepared(dataset, cache):
        if not dataset.embedded:
            known = others(dataset, cache)
            how = " with these options" if known else ""
            instead = f"; or take what is prepared: {'; '.join(known)}" if known else ""
            raise UserError(
                f"{dataset.name} is not prepared on this machine{how}; "
                f"type: {command(dataset, cache)}{instead}"
            )
        logger.info("preparing %s, once for all runs on this machine", dataset.name)
        prepare(dataset, cache=cache)
    return load(dataset, cache=cache)
