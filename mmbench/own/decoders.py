"""From one value of a table, a file or a text, to the array that an encoder takes."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmbench.data.media import (
    UnreadableError,
    explained,
    opened,
    pyav,
    refuse_empty,
    resized,
    segments,
    sound_of,
    whole,
)
from mmbench.native.source import Source
from mmbench.native.text import tokens
from mmbench.own.table import IN_TABLE, OwnKind

if TYPE_CHECKING:
    from mmbench.own.dataset import OwnConfig

HOP = 0.01  # seconds from one spectrogram frame to the next
WINDOW = 0.025  # seconds in one spectrogram frame
FLOOR = 1e-6  # added to the power before the logarithm
NPY = b"\x93NUMPY"  # with which a .npy file begins


def audio(value: str, config: "OwnConfig") -> NDArray[np.generic]:
    """Return the log-mel spectrogram of a file's first audio stream, z-scored per clip.

    Channels are averaged, the sound is resampled to ``rate`` and cut, or padded with silence, to
    ``seconds``. A video's sound is read the same way.

    Returns:
        [1, mels, frames] float16.
    """
    import torch

    wave = sound_of(value, config.rate)
    wanted = round(config.seconds * config.rate)
    wave = np.pad(wave[:wanted], (0, max(0, wanted - len(wave))))
    mel = _mel(config.rate, config.mels)(torch.from_numpy(wave))
    log = np.log(mel.numpy() + FLOOR)
    spread = log.std()
    scored: NDArray[np.float32] = (log - log.mean()) / (spread if spread > 0 else 1.0)
    return scored[None].astype(np.float16)


@cache
def _mel(rate: int, mels: int) -> Any:  # Any: torchaudio carries no types
    from torchaudio.transforms import MelSpectrogram

    window = round(rate * WINDOW)
    fft = 1 << (window - 1).bit_length()
    return MelSpectrogram(rate, n_fft=fft, win_length=window, hop_length=round(rate * HOP),
                          n_mels=mels)  # fmt: skip


def frames_of(config: "OwnConfig") -> int:
    """Return how many spectrogram frames a clip gives."""
    return 1 + round(config.seconds * config.rate) // round(config.rate * HOP)


def image(value: str, config: "OwnConfig") -> NDArray[np.generic]:
    """Return a picture in colour, [3, image_size, image_size] uint8; its aspect is not kept."""
    from PIL import Image

    with Image.open(value) as picture:
        return resized(picture, config.image_size).transpose(2, 0, 1)


def video(value: str, config: "OwnConfig") -> NDArray[np.generic]:
    """Return ``frames`` pictures, [3, frames, image_size, image_size] uint8.

    The clip is cut into ``frames`` equal parts and the middle picture of each is taken; a clip
    with fewer pictures repeats its last.
    """
    av = pyav()
    with opened(av, value) as container:
        if not container.streams.video:
            raise UnreadableError("it has no video stream")
        # A header's count may be missing, or tell of what was cut off.
        total = sum(1 for _ in whole(container, container.streams.video[0]))
    wanted = segments(total, config.frames)
    size, kept = config.image_size, {}
    with opened(av, value) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                small = frame.reformat(size, size, "rgb24", interpolation="BILINEAR")
                kept[number] = small.to_ndarray()
            if number >= wanted[-1]:
                break
    clip = np.stack([kept[number] for number in wanted]).astype(np.uint8)
    return clip.transpose(3, 0, 1, 2)


def array(value: str, config: "OwnConfig") -> NDArray[np.generic]:
    """Return the numbers of a ``.npy`` file as float32; 2-d becomes [1, H, W]."""
    with open(value, "rb") as handle:
        if handle.read(len(NPY)) != NPY:
            raise UnreadableError("it is not what numpy.save writes of one array")
    x: NDArray[np.generic] = np.load(value, allow_pickle=False)
    if x.dtype.kind not in "fiub" or not 1 <= x.ndim <= 3 or not x.size:
        raise UnreadableError(
            f"it holds {x.dtype} of shape {x.shape}, not numbers in one to three dimensions"
        )
    with np.errstate(over="ignore"):  # told below
        numbers = x.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise UnreadableError("it holds NaN, infinity or numbers too large for float32")
    return numbers[None] if numbers.ndim == 2 else numbers


def number(value: str, config: "OwnConfig") -> NDArray[np.generic]:
    """Return the number itself, [1] float32."""
    return np.array([float(value)], np.float32)


def text(value: str, config: "OwnConfig") -> NDArray[np.generic]:
    """Return the numbers of the first ``words`` words or word pieces, [words] int32."""
    return tokens(Source(text=value), tokenizer=config.tokenizer, length=config.words)


DECODERS: dict[OwnKind, Callable[[str, "OwnConfig"], NDArray[np.generic]]] = {
    "audio": audio,
    "image": image,
    "video": video,
    "array": array,
    "number": number,
    "text": text,
}


def decode(kind: OwnKind, value: str, config: "OwnConfig") -> NDArray[np.generic]:
    """Decode one value.

    Raises:
        UnreadableError: if the file cannot be decoded; says why.
    """
    if kind not in IN_TABLE:
        refuse_empty(Path(value))
    with explained():
        return DECODERS[kind](value, config)
