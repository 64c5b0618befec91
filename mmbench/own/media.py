"""From one file, or one text, to the array that an encoder takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import UserError
from mmbench.native.source import Source
from mmbench.native.text import tokens
from mmbench.own.table import OwnKind

if TYPE_CHECKING:
    from PIL import Image

    from mmbench.own.dataset import OwnConfig

HOP = 0.01  # seconds from one spectrogram frame to the next
WINDOW = 0.025  # seconds in one spectrogram frame
FLOOR = 1e-6  # added to the power before the logarithm
DEEPEST = 65535  # brightness of 16 bits
NPY = b"\x93NUMPY"  # with which a .npy file begins
LONGEST_WAV = 0x7FFF0000  # bytes; a header that says more means: unknown


class UnreadableError(Exception):
    """A file that cannot be decoded; its text says why."""


def pyav() -> Any:  # Any: PyAV is an extra, and may be missing
    """Return PyAV.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as err:
        raise UserError(
            "decoding audio and video needs PyAV: pip install 'mmbench[media]'"
        ) from err
    return av


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


def sound_of(value: str, rate: int) -> NDArray[np.float32]:
    """Return a file's first audio stream, [samples]: channels averaged, resampled to ``rate``.

    Raises:
        UnreadableError: if there is no audio stream, or nothing in it.
    """
    av = pyav()
    parts: list[NDArray[np.float32]] = []
    with opened(av, value) as container:
        if not container.streams.audio:
            raise UnreadableError("it has no audio stream")
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        for frame in whole(container, container.streams.audio[0]):
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    wave = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if not len(wave):
        raise UnreadableError("its audio stream is empty")
    return wave.astype(np.float32)


def image(value: str, config: "OwnConfig") -> NDArray[np.generic]:
    """Return a picture in colour, [3, image_size, image_size] uint8; its aspect is not kept."""
    from PIL import Image

    with Image.open(value) as picture:
        size = (config.image_size, config.image_size)
        small = coloured(picture).resize(size, Image.Resampling.BILINEAR)
        return np.asarray(small, dtype=np.uint8).transpose(2, 0, 1)


def coloured(picture: "Image.Image") -> "Image.Image":
    """Return a picture of any mode as RGB; grey ones of 16 bits keep their upper eight.

    Raises:
        UnreadableError: if its numbers are no brightness from 0 to 65535.
    """
    from PIL import Image

    if picture.mode == "P":
        return picture.convert("RGBA").convert("RGB")
    if picture.mode[0] not in "IF":
        return picture.convert("RGB")
    numbers = np.asarray(picture)
    if picture.mode == "F" or numbers.min() < 0 or numbers.max() > DEEPEST:
        raise UnreadableError(
            f"its numbers are {numbers.dtype} from {numbers.min():g} to {numbers.max():g}, not a "
            "brightness of 8 or 16 bits; save it as .npy instead"
        )
    return Image.fromarray((numbers >> 8).astype(np.uint8)).convert("RGB")


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
    if not total:
        raise UnreadableError("its video stream is empty")
    wanted = [
        int((k + 0.5) * total / config.frames) if total >= config.frames else min(k, total - 1)
        for k in range(config.frames)
    ]
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


def opened(av: Any, value: str) -> Any:  # Any: PyAV is an extra
    """Open a media file; its metadata may be in any encoding."""
    return av.open(value, metadata_errors="replace")


def whole(container: Any, stream: Any) -> Iterator[Any]:  # Any: as above
    """Yield what a stream holds, decoded.

    Raises:
        UnreadableError: if the file ends in the middle of a packet, of whichever stream.
    """
    # A sound that was written to a pipe has no length in its header: its end is where it ends.
    endless = container.format.name == "wav" and _streamed(container.name)
    for packet in container.demux():
        if packet.is_corrupt and not endless:
            raise UnreadableError("it is cut short: it ends in the middle of a packet")
        if packet.stream_index == stream.index:
            yield from packet.decode()


def _streamed(file: str) -> bool:
    with open(file, "rb") as handle:
        size = int.from_bytes(handle.read(8)[4:], "little")
    return not 0 < size < LONGEST_WAV


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


def text(value: str, config: "OwnConfig") -> NDArray[np.generic]:
    """Return the numbers of the first ``words`` words or word pieces, [words] int32."""
    return tokens(Source(text=value), tokenizer=config.tokenizer, length=config.words)


DECODERS: dict[OwnKind, Callable[[str, "OwnConfig"], NDArray[np.generic]]] = {
    "audio": audio,
    "image": image,
    "video": video,
    "array": array,
    "text": text,
}


def decode(kind: OwnKind, value: str, config: "OwnConfig") -> NDArray[np.generic]:
    """Decode one value.

    Raises:
        UnreadableError: if the file cannot be decoded; says why.
    """
    if kind != "text":
        refuse_empty(Path(value))
    with explained():
        return DECODERS[kind](value, config)


POINTER = b"version https://git-lfs"


def refuse_empty(file: Path) -> None:
    """Refuse a file without content, or with git-lfs's note of where the content is.

    Raises:
        UnreadableError: if it is one of the two, or cannot be opened.
    """
    try:
        with file.open("rb") as handle:
            begin = handle.read(len(POINTER))
    except OSError as err:
        raise UnreadableError(f"it cannot be opened: {err.strerror or err}") from err
    if not begin:
        raise UnreadableError("the file is empty")
    if begin == POINTER:
        raise UnreadableError("it is a git-lfs pointer, not the media: type git lfs pull there")


@contextmanager
def explained() -> Iterator[None]:
    """Turn whatever a decoder raises on a broken file into an UnreadableError."""
    try:
        yield
    except (UserError, UnreadableError):
        raise
    except Exception as err:  # libraries raise anything on broken bytes, struct.error included
        raise UnreadableError(f"{type(err).__name__}: {err}") from err
