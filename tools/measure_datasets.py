"""Measure how strong each modality of the embedded datasets is, by logistic regression.

Writes the table in ``docs/datasets.md`` between its two markers.
Usage: python tools/measure_datasets.py [--write]
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mmbench.data import cache as data_cache
from mmbench.dataset import SplitArrays
from mmbench.registry import DATASETS

PAGE = Path(__file__).parents[1] / "docs" / "datasets.md"
BEGIN, END = "<!-- begin: tools/measure_datasets.py -->\n", "<!-- end -->"
CASES = (
    ("mfeat3", {"preset": "default"}),
    ("mfeat3", {"preset": "hard"}),
    ("mfeat3", {"preset": "saturated"}),
    ("avdigits", {"preset": "audio_strong"}),
    ("avdigits", {"preset": "balanced"}),
    ("avdigits", {"preset": "image_strong"}),
    ("avdigits", {"preset": "audio_strong", "audio_source": "mini"}),
)
# Inverse strength of the L2 penalty. datasets.md section 2.3 does not state its own. For avdigits
# 0.03 is what gives its three image columns (14 x 14 noisy pixels overfit at scikit-learn's 1.0:
# 0.54 instead of 0.62 at sigma 0.5); the audio and joint columns then follow untuned.
PENALTY = {"mfeat3": 1.0, "avdigits": 0.03}


def features(split: SplitArrays, modalities: Sequence[str]) -> NDArray[np.float64]:
    """Return [N, D]; spectrograms with neighbouring frames averaged, as in section 2.3."""
    parts = []
    for m in modalities:
        x = np.asarray(split.inputs[m], dtype=np.float64)
        if x.shape[1:] == (1, 32, 31):
            x = x[..., :30].reshape(len(x), 32, 15, 2).mean(-1)
        parts.append(x.reshape(len(x), -1))
    return np.concatenate(parts, axis=1)


def accuracy(splits: Mapping[str, SplitArrays], modalities: Sequence[str], penalty: float) -> float:
    """Return test accuracy of logistic regression on standardised features of train."""
    train, test = (features(splits[s], modalities) for s in ("train", "test"))
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(C=penalty, max_iter=1000)
    model.fit(scaler.transform(train), splits["train"].label)
    return float(model.score(scaler.transform(test), splits["test"].label))


def strengths(name: str, splits: Mapping[str, SplitArrays]) -> dict[str, float]:
    """Return the accuracy of every modality alone, and of all together as ``joint``."""
    names = list(splits["train"].inputs)
    single = {m: accuracy(splits, [m], PENALTY[name]) for m in names}
    return {**single, "joint": accuracy(splits, names, PENALTY[name])}


def table(cache: Path) -> str:
    """Return the Markdown table over all cases."""
    rows = [
        "| dataset | options | train / val / test | alone | all together |",
        "|:--|:--|--:|:--|--:|",
    ]
    for name, options in CASES:
        cls = DATASETS.load(name)
        splits = data_cache.ensure(cls(cls.Config(**options)), cache=cache).splits
        found = strengths(name, splits)
        sizes = " / ".join(str(len(splits[s])) for s in ("train", "val", "test"))
        joint = found.pop("joint")
        alone = ", ".join(f"{m} {value:.3f}" for m, value in found.items())
        words = ", ".join(f"{key}={value}" for key, value in options.items())
        rows.append(f"| {name} | {words} | {sizes} | {alone} | {joint:.3f} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = table(Path(folder))
    if "--write" in sys.argv[1:]:
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.split(END, 1)[1], encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
