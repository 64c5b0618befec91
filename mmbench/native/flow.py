"""Motion between successive pictures of a video, in bytes."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.data.media import UnreadableError
from mmbench.errors import UserError
from mmbench.native.pictures import span
from mmbench.native.source import Source

REACH = 20.0  # pixels that count; the convention of I3D


def motion(source: Source, *, count: int, size: int, algorithm: str) -> NDArray[np.generic]:
    """Return the motion of a video's span, [2, count, size, size] uint8: 0 is -20 pixels, 255 +20.

    Motion from a picture to the next is at the place of the first; the last place repeats the one
    before. Where the video ends early there is none, which is 128.

    Args:
        source: a video with a span in frames.
        count: pictures.
        size: their height and width, in which motion is measured.
        algorithm: ``dis`` (medium preset), ``farneback`` or ``tvl1``.

    Raises:
        UserError: if OpenCV is not installed.
    """
    pictures = span(source, count=count, size=size, channels=1)[0]
    there = int(max(np.flatnonzero(pictures.any((1, 2))), default=-1)) + 1
    flow = np.zeros((count, size, size, 2), np.float32)
    between = _between(algorithm)
    for k in range(there - 1):
        flow[k] = between(pictures[k], pictures[k + 1])
    if there > 1:
        flow[there - 1] = flow[there - 2]
    return _in_bytes(flow).transpose(3, 0, 1, 2)


def stored(source: Source, *, count: int, size: int) -> NDArray[np.generic]:
    """Return motion that was computed before, in the same form as ``motion``.

    Args:
        source: a ``.npy`` file, [height, width, 2, pictures], in pixels of that size.
        count: pictures; what is missing at the end repeats the last.
        size: height and width, to which it is resized; pixels shrink with it.

    Raises:
        UnreadableError: if the file has another shape.
    """
    import torch
    from torch.nn.functional import interpolate

    held = np.load(Path(source.file), mmap_mode="r", allow_pickle=False)
    if held.ndim != 4 or held.shape[2] != 2 or not held.size or held.dtype.kind != "f":
        raise UnreadableError(
            f"it holds {held.dtype} of shape {held.shape}, not motion [height, width, 2, pictures]"
        )
    flow = torch.from_numpy(held[..., :count].astype(np.float32).transpose(3, 2, 0, 1))
    small = interpolate(flow, (size, size), mode="bilinear", align_corners=False, antialias=True)
    scale = np.array([size / held.shape[1], size / held.shape[0]], np.float32)
    pixels = small.numpy() * scale[:, None, None]
    repeated = pixels[np.minimum(np.arange(count), len(pixels) - 1)]
    return _in_bytes(repeated).transpose(1, 0, 2, 3)


def _in_bytes(flow: NDArray[np.float32]) -> NDArray[np.uint8]:
    scaled = (np.clip(flow, -REACH, REACH) + REACH) * (255 / (2 * REACH))
    return np.round(scaled).astype(np.uint8)


def _between(algorithm: str) -> Any:  # Any: OpenCV is an extra
    try:
        cv2: Any = import_module("cv2")  # Any: its type stubs lack some of this
    except ModuleNotFoundError as err:
        raise UserError("computing motion needs OpenCV: pip install 'mmbench[flow]'") from err
    cv2.setNumThreads(1)  # there is a process per core already
    if algorithm == "dis":
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return lambda a, b: dis.calc(a, b, None)
    if algorithm == "tvl1":
        tvl1 = cv2.optflow.DualTVL1OpticalFlow_create()
        return lambda a, b: tvl1.calc(a, b, None)
    return lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)
