"""Reading media files: sound, pictures and videos, and what is wrong with damaged ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

DEEPEST = 65535  # brightness of 16 bits
LONGEST_WAV = 0x7FFF0000  # bytes; a header that says more means: unknown
POINTER = b"version https://git-lfs"  # with which git-lfs's note begins


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


def resized(picture: "Image.Image", size: int) -> NDArray[np.uint8]:
    """Return a picture of any mode in colour, [size, size, 3]; its aspect is not kept."""
    from PIL import Image

    small = coloured(picture).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.uint8)


def segments(total: int, parts: int) -> list[int]:
    """Return the middle of each of ``parts`` equal parts of 0..total-1; too few: repeat the last.

    Raises:
        UnreadableError: if there is none.
    """
    if not total:
        raise UnreadableError("it holds no picture")
    if total < parts:
        return [min(k, total - 1) for k in range(parts)]
    return [int((k + 0.5) * total / parts) for k in range(parts)]


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
