"""Pictures out of videos, folders of frames and image files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mmbench.data.media import (
    UnreadableError,
    coloured,
    opened,
    pyav,
    resized,
    segments,
    whole,
)
from mmbench.native.source import Source


def image(source: Source, *, size: int, fit: str = "stretch") -> NDArray[np.generic]:
    """Return a picture of any mode in colour, [3, size, size] uint8.

    Args:
        source: an image file.
        size: height and width.
        fit: ``stretch`` does not keep the aspect; ``centre`` cuts the middle square out, resized
            bicubically, as CLIP does.
    """
    with Image.open(source.file) as picture:
        if fit == "stretch":
            return resized(picture, size).transpose(2, 0, 1)
        square = ImageOps.fit(coloured(picture), (size, size), Image.Resampling.BICUBIC)
        return np.asarray(square, dtype=np.uint8).transpose(2, 0, 1)


def frames(
    source: Source, *, count: int, size: int, side: str = "full", fewest: int = 1
) -> NDArray[np.generic]:
    """Return ``count`` of a clip's pictures at one per second, [3, count, size, size] uint8.

    One picture per second is what the published extraction keeps: those whose number is divisible
    by the frame rate, cut to an integer. A folder holds such pictures already: its ``*.jpg`` are
    ordered by the integer in their names. The middle one of ``count`` equal parts is taken.

    Args:
        source: a video, with a span in seconds if it is part of a longer one, or a folder.
        count: pictures wanted.
        size: their height and width; the aspect is not kept.
        side: of each picture, ``left``, ``right`` or ``full``.
        fewest: a clip with fewer pictures per second than this cannot be used.
    """
    path = Path(source.file)
    kept = _in_folder(path) if path.is_dir() else list(_per_second(source))
    if len(kept) < fewest:
        raise UnreadableError(f"it has {len(kept)} pictures at one a second; {fewest} are needed")
    chosen = [kept[k] for k in segments(len(kept), count)]
    small = [resized(_half(picture, side), size) for picture in chosen]
    return np.stack(small).transpose(3, 0, 1, 2)


def _in_folder(folder: Path) -> list[Image.Image]:
    def number(file: Path) -> int:
        digits = "".join(c for c in file.stem if c.isdigit())
        return int(digits) if digits else -1

    return [_whole(file) for file in sorted(folder.glob("*.jpg"), key=number)]


def _whole(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return coloured(picture)


def _per_second(source: Source) -> Iterator[Image.Image]:
    av = pyav()
    with opened(av, source.file) as container:
        if not container.streams.video:
            raise UnreadableError("it has no video stream")
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate
        step = max(1, int(rate)) if rate else 1
        number = 0
        for frame in _from(container, stream, source.begin):
            time = frame.time or 0.0
            if source.end and time >= source.end:
                break
            if time < source.begin - 1e-6:
                continue
            if number % step == 0:
                yield frame.to_image()
            number += 1


def _from(container: Any, stream: Any, begin: float) -> Iterator[Any]:  # Any: PyAV is an extra
    if begin:  # to the key picture before it
        container.seek(int(begin / stream.time_base), stream=stream)
    yield from whole(container, stream)


def _half(picture: Image.Image, side: str) -> Image.Image:
    if side == "full":
        return picture
    middle = picture.width // 2
    left, right = (0, middle) if side == "left" else (middle, picture.width)
    return picture.crop((left, 0, right, picture.height))


def span(source: Source, *, count: int, size: int, channels: int) -> NDArray[np.generic]:
    """Return the pictures ``begin`` to ``end`` of a video, [channels, count, size, size] uint8.

    Every picture is resized without keeping its aspect. Where the video or the span ends early,
    zeros follow.

    Args:
        source: a video with a span in frames.
        count: pictures kept, from the first of the span on.
        size: height and width.
        channels: 3, or 1 for a grey video.
    """
    clip = np.zeros((count, size, size, 3 if channels == 3 else 1), np.uint8)
    for place, picture in _numbered(source, count):
        small = picture.reformat(
            size, size, "rgb24" if channels == 3 else "gray", interpolation="BILINEAR"
        ).to_ndarray()
        clip[place] = small if channels == 3 else small[..., None]
    return clip.transpose(3, 0, 1, 2)


def _numbered(source: Source, count: int) -> Iterator[tuple[int, Any]]:  # Any: PyAV is an extra
    av = pyav()
    first, found = int(source.begin), 0
    last = min(first + count, int(source.end) or first + count)
    with opened(av, source.file) as container:
        if not container.streams.video:
            raise UnreadableError("it has no video stream")
        for number, frame in enumerate(whole(container, container.streams.video[0])):
            if number >= last:
                break
            if number >= first:
                found += 1
                yield number - first, frame
    if not found:
        raise UnreadableError(f"it ends before frame {first}, where the sample begins")
