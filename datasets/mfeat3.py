"""Three views of 2,000 scanned handwritten digits: strong, weak and weakest (real, paired)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmbench.dataset import Dataset, DatasetConfig, DatasetInfo, Modality, SplitArrays, Task
from mmbench.errors import UserError
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
    noise: dict[str, float] = setting(
        {}, "per view: sigma of Gaussian noise added after standardising", source="mmbench"
    )
    missing: float = setting(
        0.0, "share of samples whose view is zeroed, per view", source="mmbench", ge=0, le=1
    )


@register_dataset("mfeat3")
class MFeat3(Dataset):
    """Three feature views of 2,000 handwritten digits (UCI Multiple Features); real, paired."""

    Config = MFeat3Config
    info = DatasetInfo(
        title="UCI Multiple Features: three views of the same 2,000 scanned digits",
        licence="CC BY 4.0 with attribution to R. Duin, as the UCI repository states (unverified)",
        source="ships with mmbench; rebuilt by tools/make_mfeat.py",
        real="all of it: features computed from scanned digits; the views are truly paired",
    )
    embedded = True
    trainer = {"epochs": 30}
    config: MFeat3Config

    @property
    def task(self) -> Task:
        """Ten digits from three vectors, the preset's views in order."""
        views = VIEWS[self.config.preset]
        return Task(tuple(Modality(v, "vector", (SIZES[v],)) for v in views), DIGITS)

    def build(self, root: Path | None, scratch: Path) -> Mapping[str, SplitArrays]:
        """Split 120 / 20 / 60 per class with ``default_rng(0)``; standardise by train."""
        views = VIEWS[self.config.preset]
        unknown = set(self.config.noise) - set(views)
        if unknown:
            raise UserError(
                f"mfeat3.noise names {', '.join(sorted(unknown))}; the views are {', '.join(views)}"
            )
        with np.load(FILE, allow_pickle=False) as data:
            label = data["label"].astype(np.int64)
            raw = {v: data[v].astype(np.float64) for v in views}
        rows = _split(label)
        standard = {v: _standardised(x, rows["train"]) for v, x in raw.items()}
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


def _standardised(x: NDArray[np.float64], train: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standardise by the training rows; a constant column keeps its scale."""
    mean, std = x[train].mean(0), x[train].std(0)
    standard: NDArray[np.float64] = (x - mean) / np.where(std > 0, std, 1.0)
    return standard
