"""Real media files, small: the tone's height and the square's place tell the class."""

import csv
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("cat", "dog", "owl")
WORDS = ("it purrs and sleeps", "it barks, and runs!", "it hoots at night")
COLUMNS = ("sound", "photo", "film", "told", "numbers")


def tone(
    path: Path,
    number: int,
    seconds: float = 0.5,
    rate: int = 22050,
    channels: int = 1,
    take: int = 0,
) -> Path:
    """Write a tone of 300 + 300 x ``number`` Hz, a little lower with every ``take``."""
    import av

    time = np.arange(round(seconds * rate)) / rate
    wave = (0.5 * np.sin(2 * np.pi * (300 + 300 * number - take / 9) * time) * 32767).astype(
        np.int16
    )
    layout = "mono" if channels == 1 else "stereo"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.repeat(wave, channels)[None], "s16", layout)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def pixels(number: int, brightness: int = 255) -> NDArray[np.uint8]:
    """Return a black picture, [24, 24, 3], with a square whose place is the class, 0 to 2."""
    x = np.zeros((24, 24, 3), np.uint8)
    x[8 * number : 8 * number + 8, 8 * number : 8 * number + 8] = brightness
    return x


def picture(path: Path, number: int, mode: str = "RGB", take: int = 0) -> Path:
    """Write a picture in any of Pillow's modes, a little darker with every ``take``."""
    Image.fromarray(pixels(number, 255 - take)).convert(mode).save(path)
    return path


def clip(path: Path, number: int, frames: int = 10, sound: bool = False, take: int = 0) -> Path:
    """Write a lossless video whose square grows brighter, so that its pictures can be told apart.

    Args:
        path: ending in ``.mkv`` or ``.avi``.
        number: the class.
        frames: pictures; the square of the k-th is 20 (k + 1) bright.
        sound: add a second of silence.
        take: how many levels its square is darker.
    """
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10, width=24, height=24, pix_fmt="bgr0")
        heard = container.add_stream("pcm_s16le", rate=22050, layout="mono") if sound else None
        for k in range(frames):
            shown = av.VideoFrame.from_ndarray(pixels(number, 20 * (k + 1) - take), "rgb24")
            container.mux(stream.encode(shown))
        container.mux(stream.encode(None))
        if heard:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 22050), np.int16), "s16", "mono")
            silence.sample_rate = 22050
            container.mux(heard.encode(silence))
            container.mux(heard.encode(None))
    return path


# How each container is written: codec and pixel format; codec and rate of its sound.
FILMS = {
    ".flv": (("flv", "yuv420p"), ("libmp3lame", 44100)),
    ".mp4": (("libx264", "yuv420p"), ("aac", 44100)),
    ".avi": (("mjpeg", "yuvj420p"), ("pcm_s16le", 48000)),
}


def film(
    path: Path,
    number: int,
    frames: int = 75,
    width: int = 96,
    height: int = 72,
    *,
    sound: bool = True,
    rate: Fraction = Fraction(30000, 1001),
) -> Path:
    """Write a video as published sets have it, its sound included.

    Args:
        path: ending in ``.flv``, ``.mp4`` or ``.avi``.
        number: the class: which ninth of the picture is bright, and the tone.
        frames: pictures; the ground of the k-th is 2k dark, so that they can be told apart.
        width: in pixels.
        height: in pixels.
        sound: with a tone of 300 + 300 x ``number`` Hz.
        rate: pictures per second.
    """
    import av

    (codec, layout), (voice, hertz) = FILMS[path.suffix]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(  # Any: PyAV types a union of all kinds of streams
            codec, rate=rate, width=width, height=height, pix_fmt=layout, bit_rate=400_000
        )
        heard: Any = container.add_stream(voice, rate=hertz, layout="mono") if sound else None
        down, along = divmod(number % 9, 3)
        rows = slice(down * height // 3, (down + 1) * height // 3)
        columns = slice(along * width // 3, (along + 1) * width // 3)
        for k in range(frames):
            shown = np.full((height, width, 3), min(2 * k, 160), np.uint8)
            shown[rows, columns] = 240
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, "rgb24")))
        container.mux(stream.encode(None))
        if heard is not None:
            time = np.arange(round(frames / rate * hertz)) / hertz
            wave = (0.5 * np.sin(2 * np.pi * (300 + 300 * number) * time) * 32767).astype(np.int16)
            spoken = av.AudioFrame.from_ndarray(wave[None], "s16", "mono")
            spoken.sample_rate = hertz
            resampler = av.AudioResampler(format=heard.codec_context.format, layout="mono",
                                          rate=hertz)  # fmt: skip
            fifo = av.AudioFifo()
            for part in [*resampler.resample(spoken), *resampler.resample(None)]:
                part.pts = None
                fifo.write(part)
            size = heard.codec_context.frame_size or 1024
            while (chunk := fifo.read(size, partial=True)) is not None:
                container.mux(heard.encode(chunk))
            container.mux(heard.encode(None))
    return path


def numbers(path: Path, values: NDArray[Any]) -> Path:
    """Write an array."""
    np.save(path, values)
    return path


def write_table(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    """Write rows as the suffix of ``path`` says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as handle:
            dialect = "excel-tab" if path.suffix == ".tsv" else "excel"
            writer = csv.DictWriter(handle, list(rows[0]), dialect=dialect)
            writer.writeheader()
            writer.writerows(rows)
    return path


def animals(
    folder: Path, samples: int = 60, columns: Sequence[str] = COLUMNS
) -> list[dict[str, str]]:
    """Write ``samples`` samples of up to five modalities; return the rows of their table."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(samples):
        c = i % len(CLASSES)
        makers = {  # no two of a class are alike, as in a recording
            "sound": lambda i=i, c=c: tone(folder / f"a {i}.wav", c, take=i),
            "photo": lambda i=i, c=c: picture(folder / f"bild-ü{i}.png", c, take=i // 3 % 64),
            "film": lambda i=i, c=c: clip(folder / f"v{i}.mkv", c, take=i // 3 % 20),
            "numbers": lambda i=i, c=c: numbers(folder / f"n{i}.npy", rng.normal(3 + c, 0.1, 5)),
        }
        made = {m: WORDS[c] if m == "told" else makers[m]().name for m in columns}
        rows.append({"label": CLASSES[c], **made})
    return rows
