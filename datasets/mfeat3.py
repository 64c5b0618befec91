"""Three views of 2,000 scanned handwritten digits: strong, weak and weakest (real, paired)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mmbench.dataset import Dataset, DatasetConfig, DatasetInfo, Modality, SplitArrays, Task
from mmbench.registry import register_dataset
from mmbench.settings import setting

FILE = Path(__file__).parent / "data" / "mfeat.npz"
VIEWS = {
    "default": ("kar", "fou", "mor"),
    "hard": ("fou", "zer", "mor"),
    "saturated": ("pix", "fou", "mor"),
}
SIZES = {"kar": 64, "fou": 76, "mor": 6, "zer": 47, "pix": 240}
PER_CLASS = {"train": 120, "val": 20, "test": 60}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class MFeat3Config(DatasetConfig):
    """Options of mfeat3."""

    preset: Literal["default", "hard", "saturated"] = setting(
        "default", "which three views", source="datasets.md section 2.4"
    )
    noise: dict[str, Annotated[float, Field(ge=0)]] = setting(
        {}, "per view: sigma of Gaussian noise added after standardising", source="mmbench"
    )
    missing: float = setting(
        0.0, "share of samples whose view is zeroed, per view", source="mmbench", ge=0, le=1
    )

    @model_validator(mode="after")
    def _noise_names_views(self) -> "MFeat3Config":
        views = VIEWS[self.preset]
        unknown = sorted(set(self.noise) - set(views))
        if unknown:
            raise ValueError(
                f"noise names {', '.join(unknown)}, which preset={self.preset} does not have; "
                f"its views are {', '.join(views)}"
            )
        return self


@register_dataset("mfeat3")
class MFeat3(Dataset):
    """Three feature views of 2,000 handwritten digits (UCI Multiple Features); real, paired."""

    Config = MFeat3Config
    info = DatasetInfo(
        title="UCI Multiple Features: three views of the same 2,000 scanned digits",
        licence="CC BY 4.0 with attribution to R. Duin, as the UCI repository states (unverified)",
        source="ships with mmbench; rebuilt by tools/make_mfeat.py",
        real="all of it: features computed from scanned digits; the views are truly paired. Six "
        "digits are there twice: of the 600 test samples two are in train too, and one in val",
    )
    embedded = True
    repeats = 2
    trainer = {"epochs": 30}
    config: MFeat3Config

    @property
    def task(self) -> Task:
        """Ten digits from three vectors, the preset's views in order."""
        views = VIEWS[self.config.preset]
        return Task(tuple(Modality(v, "vector", (SIZES[v],)) for v in views), DIGITS)

    def build(self, root: Path | None, scratch: Path) -> Mapping[str, SplitArrays]:
        """Split 120 / 20 / 60 per class with ``default_rng(0)``; standardise by train.

        Mean and standard deviation of every column go into the manifest's notes.
        """
        views = VIEWS[self.config.preset]
        with np.load(FILE, allow_pickle=False) as data:
            label = data["label"].astype(np.int64)
            raw = {v: data[v].astype(np.float64) for v in views}
        rows = _split(label)
        moments = {v: _moments(x[rows["train"]]) for v, x in raw.items()}
        standard = {v: (x - moments[v][0]) / moments[v][1] for v, x in raw.items()}
        notes = {
            "source": f"vendored {FILE.name}, views {', '.join(views)}",
            "mean": {v: mean.tolist() for v, (mean, _) in moments.items()},
            "std": {v: std.tolist() for v, (_, std) in moments.items()},
        }
        (scratch / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
        return {
            split: SplitArrays(
                inputs={v: self._weakened(x[index], v, split) for v, x in standard.items()},
                label=label[index],
                ids=tuple(f"mfeat-{i:04d}" for i in index),
                groups=tuple(f"mfeat-{i:04d}" for i in index),
            )
            for split, index in rows.items()
        }

    def _weakened(self, x: NDArray[np.float64], view: str, split: str) -> NDArray[np.float32]:
        # One stream per split and view, drawn from in full: no option moves another's numbers.
        rng = np.random.default_rng([list(PER_CLASS).index(split), sorted(SIZES).index(view)])
        x = x + self.config.noise.get(view, 0.0) * rng.standard_normal(x.shape)
        kept = rng.random(len(x)) >= self.config.missing
        return (x * kept[:, None]).astype(np.float32)


def _split(label: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    parts: dict[str, list[NDArray[np.int64]]] = {split: [] for split in PER_CLASS}
    for digit in range(10):
        order = rng.permutation(np.flatnonzero(label == digit))
        begin = 0
        for split, count in PER_CLASS.items():
            parts[split].append(order[begin : begin + count])
            begin += count
    return {split: rng.permutation(np.concatenate(p)) for split, p in parts.items()}


def _moments(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each column; a constant column gets 1."""
    std = x.std(0)
    return x.mean(0), np.where(std > 0, std, 1.0)
