"""``mmbench verify``: hashes, counts, class balance, leaks and finite values of prepared data."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.data import manifest as manifests
from mmbench.data.cache import cache_folder, load, read_manifest
from mmbench.data.leaks import leaks
from mmbench.dataset import Dataset, SplitArrays
from mmbench.errors import UserError
from mmbench.store import read_record, record_files
from mmbench.wording import counted

NONE = "0 shared"
SHOWN = 5  # samples that were left out, named
AT_ONCE = 1 << 26  # bytes looked at together: bounds the memory
LEAK = (
    "a model is tested on samples that it was trained on, or selected by: leave them out of one of "
    "the two splits, or let the splits be drawn with one group for what is the same"
)
OTHER = (
    "some records were trained on data with other bits than what is prepared here, as another "
    "processor or library computes them. Samples, splits and cell ids are the same, but a cell run "
    "here need not repeat such a record to the last bit; training on another processor moves "
    "scores too, whatever the data"
)


@dataclass(frozen=True)
class Check:
    """One thing that ``verify`` looked at.

    Attributes:
        note: what it means, and what to do about it.
        told: whether it found something that is no error, and that a person should know.
        words: what a person reads in place of ``detail``, where that is for a program.
    """

    name: str
    ok: bool
    detail: str
    note: str = ""
    told: bool = False
    words: str = ""


def verify(dataset: Dataset, *, cache: Path, records: Path | None = None) -> list[Check]:
    """Check hashes, counts, class balance, leaks and finite values.

    Groups that occur in two splits are reported, not failed: some published splits share
    speakers by design. So are texts and vectors that are alike in one modality, and data with
    other bits than that of the collected records.

    Args:
        dataset: with its config.
        cache: the folder of all caches.
        records: a folder of collected records.

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
        checks.append(Check("left out", True, found, told=True))
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
    if records is not None:
        checks += _against_records(dataset, manifest, records)
    counts = {s: len(a) for s, a in splits.items()}
    said = ", ".join(f"{counted(n, 'sample')} in {split}" for split, n in counts.items())
    checks.append(Check("counts", counts == manifest["counts"], str(counts), words=said))
    for split, arrays in splits.items():
        checks += _check_split(dataset, split, arrays)
    for (one, two), alike in leaks(dataset.task, splits).items():
        twice = sorted(set(splits[one].ids) & set(splits[two].ids))
        named = f"{len(twice)} shared" + (f", as {twice[0]!r}" if twice else "")
        checks.append(Check(f"ids {one}/{two}", not twice, named))
        leak = any(each.leak and each.count > dataset.repeats for each in alike)
        found = "; ".join(each.told(one, two) for each in alike) or NONE
        checks.append(
            Check(f"content {one}/{two}", not leak, found, LEAK if leak else "", bool(alike))
        )
        found = _shared(*((name, set(splits[name].groups)) for name in (one, two)))
        checks.append(Check(f"{dataset.grouped_by} {one}/{two}", True, found, told=found != NONE))
    return checks


def _against_records(
    dataset: Dataset, manifest: Mapping[str, Any], records: Path
) -> list[Check]:  # Any: JSON values
    """Hold the data hash against those of the collected records of this dataset, if any."""
    wanted = (dataset.version, dataset.config.model_dump(mode="json"), manifest["split_hash"])
    found: Counter[str] = Counter()
    for file, _ in record_files(records, []):
        if Path(file).name.startswith(f"{dataset.name}."):
            with suppress(UserError):  # mmbench report tells of what it cannot read
                record = read_record(Path(file), curve=False)
                cell = record.cell
                if wanted == (cell.dataset_version, cell.dataset_config, cell.split_hash):
                    found.update([record.data.data_hash] if record.data else [])
    mine, others = manifest["data_hash"], sum(found.values())
    if not others:
        return []
    other = "".join(f"; {n} of {key}" for key, n in found.most_common() if key != mine)
    detail = f"data hash {mine}: that of {found[mine]} of {others} records in {records}{other}"
    return [Check("records", True, detail, OTHER if other else "", bool(other))]


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
        return NONE
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
