"""Thirty-one kinds of sounding action, heard and seen: ten-second video clips (real, paired).

Clips of Kinetics-400 whose class can be heard and seen, in the lists of GeWu-Lab/OGM-GE_CVPR2022
(``my_train.txt`` and ``my_test.txt``, lines ``name,seconds,label``), which are not shipped. Labels
are the lists' integers; their names follow from the alphabetical order of the Kinetics names, of
which two were checked and the others are inferred (datasets.md section 1.2).

Videos vanish from their site, so every laboratory has another part of the set: ``missing=skip``
takes what is there, keeps the names of the rest in the manifest, and changes the split hash.

Deviations from the published loaders: frames are ordered by number; each clip gives the middle
picture of ``frames`` equal parts in training too; crops are drawn from the resized picture.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from mmbench.data.splitting import carve
from mmbench.dataset import DatasetInfo, Modality, Task
from mmbench.errors import UserError
from mmbench.native.dataset import NativeConfig, NativeDataset, Sample, read_lines, required_list
from mmbench.native.pictures import frames
from mmbench.native.sound import PRESETS_SAY, PadMode, PresetName, preset
from mmbench.native.source import Source
from mmbench.nets.pixels import IMAGENET_MEAN, IMAGENET_STD
from mmbench.registry import register_dataset
from mmbench.settings import setting

CLASSES = (
    "blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball",
    "laughing", "mowing lawn", "playing accordion", "playing bagpipes", "playing bass guitar",
    "playing clarinet", "playing drums", "playing guitar", "playing harmonica", "playing keyboard",
    "playing organ", "playing piano", "playing saxophone", "playing trombone", "playing trumpet",
    "playing violin", "playing xylophone", "ripping paper", "shoveling snow", "shuffling cards",
    "singing", "stomping grapes", "tap dancing", "tapping guitar", "tapping pen", "tickling",
)  # fmt: skip
TRAIN_NAME = re.compile(r"^(.{11})_(\d{6})_(\d{6})$")
TEST_NAME = re.compile(r"^(.{11})_(\d+)$")
SECONDS = 10
MEAN, STD = -4.503877, 2 * 5.141276  # of the filter bank, OGM-GE
TENTH = 0.1  # of train for validation
LISTS = ("", "annotations/", "data/KineticSound/")


class KSoundsConfig(NativeConfig):
    """Options of ksounds."""

    audio: PresetName = setting(
        "fbank128", PRESETS_SAY, source="OGM-GE, MMPareto, BalanceMM; AMSS and BSS: stft10s_35k"
    )
    pad_mode: PadMode = setting(
        "constant", "what a spectrogram sees beyond the ends", source="librosa; reflect before 0.10"
    )
    frames: int = setting(3, "pictures per clip", source="OGM-GE", ge=1, le=16)
    fewest: int = setting(
        4, "clips with fewer pictures at one a second cannot be used", source="OGM-GE: more than 3",
        ge=1,
    )  # fmt: skip
    size: int = setting(224, "height and width of a picture", source="OGM-GE", ge=16, le=512)
    class_names: tuple[str, ...] = setting(
        (), "31 names to show instead of ours, in the order of the labels", source="mmbench"
    )
    clip_consistent: bool = setting(
        False, "crop and flip all pictures of a clip alike", source="OGM-GE: each by itself"
    )

    @field_validator("class_names")
    @classmethod
    def _all_of_them(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if names and len(set(names)) != len(CLASSES):
            raise ValueError(f"{len(CLASSES)} different names are wanted; found {len(set(names))}")
        return names


@register_dataset("ksounds")
class KSounds(NativeDataset):
    """Kinetics-Sounds: 31 actions from sound and picture; 17,396 clips listed; needs files."""

    Config = KSoundsConfig
    info = DatasetInfo(
        title="Kinetics-Sounds: ten-second clips of 31 actions that can be heard and seen",
        licence="annotation CC BY 4.0 (unverified); the clips stay under their uploaders' terms",
        source="clips: Kinetics-400 through github.com/cvdfoundation/kinetics-dataset; lists "
        "my_train.txt and my_test.txt: data/KineticSound of github.com/GeWu-Lab/OGM-GE_CVPR2022",
        real="all of it: recorded clips; sound and picture belong together",
        layout="""
  ROOT/my_train.txt  ROOT/my_test.txt               also in annotations/ or data/KineticSound/
  ROOT/{train,val,test}/<id>_<start>_<end>.mp4      flat, or in one folder per class
  or, extracted before: ROOT/train_wav/<name>.wav with ROOT/train_img/Image-01-FPS/<name>/*.jpg,
  and test_wav, test_img""",
        counts="train 14799 (about 1480 of it for validation), test 2597; fewer where videos are "
        "gone (--set missing=skip)",
        size="12.4 GB; as much again while preparing",
    )
    published = 17396
    grouped_by = "videos"
    encoders = {"audio": "resnet18", "video": "resnet18"}
    config: KSoundsConfig

    @property
    def task(self) -> Task:
        """Thirty-one actions from a spectrogram and ``frames`` pictures."""
        c = self.config
        moments = ((MEAN,), (STD,)) if c.audio == "fbank128" else ((), ())
        audio = Modality("audio", "spectrogram", preset(c.audio, c.pad_mode).shape, *moments)
        video = Modality(
            "video", "frames", (3, c.frames, c.size, c.size), IMAGENET_MEAN, IMAGENET_STD
        )
        return Task((audio, video), c.class_names or CLASSES)

    def augmentations(self) -> Mapping[str, str]:
        """Crop and flip the pictures, each by itself unless ``clip_consistent``."""
        return {"video": "crop+flip" if self.config.clip_consistent else "each.crop+each.flip"}

    def decoders(self) -> Mapping[str, "partial[NDArray[np.generic]]"]:
        """Sound as mel energies or a spectrogram, the clip as one picture a second."""
        c = self.config
        return {
            "audio": preset(c.audio, c.pad_mode).decoder,
            "video": partial(frames, count=c.frames, size=c.size, fewest=c.fewest),
        }

    def samples(self, root: Path) -> Sequence[Sample]:
        """List the clips; a tenth of train, whole videos, is for validation."""
        clips = _clips(root)
        listed = {}
        for name in ("train", "test"):
            file = required_list(
                root,
                [f"{folder}my_{name}.txt" for folder in LISTS],
                "get it from data/KineticSound of github.com/GeWu-Lab/OGM-GE_CVPR2022 and place "
                "it there",
            )
            listed[name] = [_line(file, number, line) for number, line in read_lines(file)]
        train = listed["train"]
        labels, videos = np.array([c for _, c, _ in train]), [n[:11] for n, _, _ in train]
        taken = carve(labels, videos, TENTH, seed=0, classes=CLASSES)
        where = ["val" if out else "train" for out in taken] + ["test"] * len(listed["test"])
        return [
            Sample(
                name, label, name[:11], split, _sources(root, name, split == "test", clips), place
            )
            for (name, label, place), split in zip([*train, *listed["test"]], where, strict=True)
        ]


def _clips(root: Path) -> dict[str, Path]:
    """Return the clips by name, from flat folders or one folder per class."""
    folders = [root / name for name in ("train", "val", "test") if (root / name).is_dir()]
    return {p.stem: p for folder in folders for p in sorted(folder.rglob("*.mp4"))}


def _line(file: Path, number: int, line: str) -> tuple[str, int, str]:
    """Return (name, label, place)."""
    parts = line.rsplit(",", 2)
    place = f"{file}, line {number}"
    if len(parts) != 3 or not parts[2].strip().isdigit():
        raise UserError(f"{place}: {line!r} is not name,seconds,label; restore the published list")
    name, label = parts[0].strip(), int(parts[2])
    if label >= len(CLASSES):
        raise UserError(f"{place}: unknown label {label}; labels are 0 to {len(CLASSES) - 1}")
    if not (TRAIN_NAME.match(name) or TEST_NAME.match(name)):
        raise UserError(
            f"{place}: {name!r} is neither <id>_<start>_<end> nor <id>_<start> with an id of 11 "
            "characters; restore the published list"
        )
    return name, label, f"{file.name}, line {number}"


def _sources(root: Path, name: str, test: bool, clips: Mapping[str, Path]) -> dict[str, Source]:
    """Return the clip as it was distributed, or its extracted sound and pictures."""
    part = "test" if test else "train"
    wav = root / f"{part}_wav" / f"{name}.wav"
    pictures = root / f"{part}_img" / "Image-01-FPS" / name
    if wav.is_file() and pictures.is_dir():
        return {"audio": Source(str(wav)), "video": Source(str(pictures))}
    full = _distributed(name)
    clip = clips.get(full) or clips.get(name) or root / part / f"{full}.mp4"
    return {"audio": Source(str(clip)), "video": Source(str(clip))}


def _distributed(name: str) -> str:
    """Return a clip's name as Kinetics has it: the test list gives the first second only."""
    short = TEST_NAME.match(name)
    if TRAIN_NAME.match(name) or short is None:
        return name
    start = int(short[2])
    return f"{short[1]}_{start:06d}_{start + SECONDS:06d}"
