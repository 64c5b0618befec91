"""``mmbench verify``: hashes, counts, class balance, leaks and finite values of prepared data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.data import manifest as manifests
from mmbench.data.cache import cache_folder, load, read_manifest
from mmbench.dataset import Dataset, SplitArrays

SHOWN = 5  # samples that were left out, named
AT_ONCE = 1 << 26  # bytes looked at together: bounds the memory


@dataclass(frozen=True)
class Check:
    """One thing that ``verify`` looked at."""

    name: str
    ok: bool
    detail: str


def verify(dataset: Dataset, *, cache: Path) -> list[Check]:
    """Check hashes, counts, class balance, leaks and finite values.

    Groups that occur in two splits are reported, not failed: some published splits share
    speakers by design.

    Raises:
        UserError: if it is not prepared, or the manifest cannot be used.
    """
    folder, manifest = cache_folder(dataset, cache), read_manifest(dataset, cache)
    bad = [
        name
        for name, facts in manifest["files"].items()
        if not (folder / name).is_file() or manifests.sha256(folder / name) != facts["sha256"]
    ]
    checks = [Check("hashes", not bad, f"differ: {', '.join(bad)}" if bad else "all files match")]
    if "source" in manifest.get("notes", {}):
        checks.append(Check("source", True, str(manifest["notes"]["source"])))
    if left_out := manifest.get("notes", {}).get("left_out"):
        found = f"{len(left_out)} samples could not be read: {'; '.join(left_out[:SHOWN])}"
        if len(left_out) > SHOWN:
            found += f"; the rest in {folder / 'manifest.json'}, notes, left_out"
        checks.append(Check("left out", True, found))
    if "listed" in manifest.get("notes", {}):
        checks.append(_complete(manifest))
    if bad:
        return checks
    splits = load(dataset, cache=cache).splits
    same = (manifests.split_hash(splits), manifests.data_hash(manifest["files"])) == (
        manifest["split_hash"],
        manifest["data_hash"],
    )
    checks.append(Check("identity", same, "split and data hash follow from the files"))
    counts = {s: len(a) for s, a in splits.items()}
    checks.append(Check("counts", counts == manifest["counts"], str(counts)))
    for split, arrays in splits.items():
        checks += _check_split(dataset, split, arrays)
    for one, two in combinations(splits, 2):
        shared = set(splits[one].ids) & set(splits[two].ids)
        checks.append(Check(f"ids {one}/{two}", not shared, f"{len(shared)} shared"))
        found = _shared(*((name, set(splits[name].groups)) for name in (one, two)))
        checks.append(Check(f"{dataset.grouped_by} {one}/{two}", True, found))
    return checks


def _complete(manifest: Mapping[str, Any]) -> Check:  # Any: JSON values
    """Hold what was listed against what is there and what was reported as left out."""
    notes = manifest["notes"]
    there, left_out = sum(manifest["counts"].values()), len(notes["left_out"])
    detail = f"{there} of {notes['listed']} listed samples, {left_out} left out"
    if notes.get("published"):
        detail += f"; {notes['published']} were published"
    return Check("complete", there + left_out == notes["listed"], detail)


def _shared(one: tuple[str, set[str]], two: tuple[str, set[str]]) -> str:
    shared = len(one[1] & two[1])
    if not shared:
        return "0 shared"
    return f"{shared} shared, of {len(one[1])} in {one[0]} and {len(two[1])} in {two[0]}"


def _check_split(dataset: Dataset, split: str, arrays: SplitArrays) -> list[Check]:
    per_class = np.bincount(arrays.label, minlength=len(dataset.task.classes))
    repeated = len(arrays.ids) - len(set(arrays.ids))
    infinite = [
        m
        for m, x in arrays.inputs.items()
        if x.dtype.kind == "f" and not all(np.isfinite(part).all() for part in _parts(x))
    ]
    found = f"NaN or infinity in {', '.join(infinite)}" if infinite else "no NaN or infinity"
    return [
        Check(f"classes {split}", bool(per_class.min() > 0), f"{per_class.tolist()} per class"),
        Check(f"unique ids {split}", not repeated, f"{repeated} repeated"),
        Check(f"finite {split}", not infinite, found),
    ]


def _parts(x: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
    rows = max(1, AT_ONCE * len(x) // max(1, x.nbytes))
    return (x[i : i + rows] for i in range(0, len(x), rows))
