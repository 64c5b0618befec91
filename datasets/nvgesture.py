"""Twenty-five hand gestures of a driver, in colour, motion and depth (real, paired).

The recordings and lists of Molchanov et al., CVPR 2016. A list line gives each sensor's first and
last picture. Motion is computed between successive colour pictures, cut at 20 pixels and kept in
bytes. Validation holds out whole subjects of the train list (datasets.md section 1.3).

Deviations from the published loaders: pictures are resized to ``size`` at once, and training moves
them by up to 16 pixels, repeating the border, instead of cropping 224 out of 256; all three streams
take the same window of 64 of 80 pictures; short clips are padded behind.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmbench.dataset import DatasetInfo, Modality, Task
from mmbench.errors import UserError
from mmbench.native.dataset import NativeConfig, NativeDataset, Sample, read_lines, required_list
from mmbench.native.flow import motion, stored
from mmbench.native.pictures import span
from mmbench.native.source import Source
from mmbench.nets.pixels import IMAGENET_MEAN, IMAGENET_STD
from mmbench.registry import register_dataset
from mmbench.settings import setting

CLASSES = tuple(f"class_{k:02d}" for k in range(1, 26))  # the data has no other names
LISTS = {
    split: [f"nvgesture_{split}_correct_cvpr2016_v2.lst", f"nvgesture_{split}_correct_v2.lst"]
    for split in ("train", "test")
}
SHARE = 0.15  # of train for validation, at least
SUBJECT = re.compile(r"(subject\d+)_r\d+$")


class NVGestureConfig(NativeConfig):
    """Options of nvgesture."""

    frames: int = setting(80, "pictures per clip", source="IPRM, AMSS, BSS", ge=8, le=80)
    window: int = setting(64, "pictures of a training clip", source="IPRM, AMSS, BSS", ge=8, le=80)
    size: int = setting(224, "height and width of a picture", source="IPRM", ge=16, le=256)
    flow: Literal["dis", "farneback", "tvl1", "npy"] = setting(
        "dis", "how motion is computed (tvl1 is slow), or npy: read from flow_data",
        source="dis: datasets.md section 1.3; npy: IPRM, AMSS, BSS",
    )  # fmt: skip


@register_dataset("nvgesture")
class NVGesture(NativeDataset):
    """NVGesture: 25 gestures in colour, motion and depth; 1,532 clips; needs files."""

    Config = NVGestureConfig
    info = DatasetInfo(
        title="NVGesture: 25 hand gestures of 20 subjects in a car simulator, colour and depth",
        licence="non-commercial research (unverified); nothing of it may be redistributed",
        source="NVIDIA Research's page of 'Online Detection and Classification of Dynamic Hand "
        "Gestures with Recurrent 3D CNNs' (CVPR 2016): nvGesture_v1.7z.001 ..., unpacked with 7z",
        real="colour and depth are recorded; motion is computed from the colour pictures",
        layout="""
  ROOT/nvgesture_train_correct_cvpr2016_v2.lst      1050 lines (also ..._correct_v2.lst)
  ROOT/nvgesture_test_correct_cvpr2016_v2.lst        482 lines
  ROOT/Video_data/class_01/subject13_r0/{sk_color,sk_depth}.avi
  ROOT/Video_data/flow_data/{train,test}/<line, from 0>.npy   for flow=npy: [H, W, 2, pictures]""",
        counts="train 1050 (whole subjects, at least 15 %, for validation), test 482",
        size="37 GB (4 GB with frames=32, size=112 and window=24); as much again while preparing",
    )
    grouped_by = "subjects"
    published = 1532
    trainer = {"batch_size": 4}
    encoders = {"rgb": "i3d", "flow": "i3d", "depth": "i3d"}
    config: NVGestureConfig

    @property
    def task(self) -> Task:
        """Twenty-five gestures from three streams."""
        c = self.config
        shape = (c.frames, c.size, c.size)
        rgb = Modality("rgb", "video", (3, *shape), IMAGENET_MEAN, IMAGENET_STD)
        flow = Modality("flow", "video", (2, *shape), (0.5, 0.5), (0.5, 0.5))  # to -1..1
        return Task((rgb, flow, Modality("depth", "video", (1, *shape))), CLASSES)

    def augmentations(self) -> Mapping[str, str]:
        """Move the pictures and choose a window, alike in all streams."""
        c = self.config
        same = f"together+window:{c.window}+move:{max(1, c.size // 14)}"  # 16 of 224
        return {"rgb": same, "flow": same, "depth": same}

    def decoders(self) -> Mapping[str, "partial[NDArray[np.generic]]"]:
        """The span of the list, in colour, as motion and as depth."""
        c = self.config
        return {
            "rgb": partial(span, count=c.frames, size=c.size, channels=3),
            "flow": partial(stored, count=c.frames, size=c.size)
            if c.flow == "npy"
            else partial(motion, count=c.frames, size=c.size, algorithm=c.flow),
            "depth": partial(span, count=c.frames, size=c.size, channels=1),
        }

    def samples(self, root: Path) -> Sequence[Sample]:
        """List the clips; whole subjects of train are for validation."""
        found = []
        for split, names in LISTS.items():
            file = required_list(
                root,
                names,
                "--root is the folder that holds it and Video_data (mmbench show nvgesture prints "
                "the tree)",
            )
            found += [
                self._with_flow(root, index, _sample(root, file, number, line, split))
                for index, (number, line) in enumerate(read_lines(file))
            ]
        held = _held_out([s.group for s in found if s.split == "train"])
        return [
            replace(s, split="val") if s.split == "train" and s.group in held else s for s in found
        ]

    def _with_flow(self, root: Path, index: int, sample: Sample) -> Sample:
        """Let motion be read from the file of that number, if it was computed before."""
        if self.config.flow != "npy":
            return sample
        file = root / "Video_data" / "flow_data" / sample.split / f"{index}.npy"
        return replace(sample, sources={**sample.sources, "flow": Source(str(file))})


def _held_out(groups: Sequence[str]) -> set[str]:
    """Return subjects, drawn with seed 0, until they have 15 % of the clips."""
    if len(set(groups)) < 2:
        raise UserError(f"the train list names {len(set(groups))} subject; at least two are needed")
    held: set[str] = set()
    for subject in np.random.default_rng(0).permutation(sorted(set(groups))).tolist():
        if sum(g in held for g in groups) >= SHARE * len(groups):
            break
        held.add(subject)
    return held


def _sample(root: Path, file: Path, number: int, line: str, split: str) -> Sample:
    place, fields = f"{file}, line {number}", {}
    for part in line.split(" "):
        key, _, value = part.partition(":")
        fields[key] = value
    try:
        path, label = fields["path"].removeprefix("./"), int(fields["label"]) - 1
        color, depth = (_stream(root / path, fields[key]) for key in ("color", "depth"))
    except (KeyError, ValueError) as err:
        raise UserError(
            f"{place}: not 'path:... depth:NAME:FIRST:LAST color:NAME:FIRST:LAST label:N' ({err}); "
            "restore the published list"
        ) from err
    if not 0 <= label < len(CLASSES):
        raise UserError(f"{place}: unknown label {label + 1}; labels are 1 to {len(CLASSES)}")
    subject = SUBJECT.search(path)
    if subject is None:
        raise UserError(f"{place}: {path} does not end in subject<N>_r<N>; restore the list")
    name = f"{path.removeprefix('Video_data/')}:{int(color.begin)}"
    streams = {"rgb": color, "flow": color, "depth": depth}
    return Sample(name, label, subject[1], split, streams, f"{file.name}, line {number}")


def _stream(folder: Path, field: str) -> Source:
    stem, first, last = field.split(":")
    return Source(str(folder / f"{stem}.avi"), begin=int(first), end=int(last))
