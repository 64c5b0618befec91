"""Acted emotions of 91 speakers, heard and seen: 7,442 short clips (real, paired).

Read from the published repository: the sound from ``AudioWAV``, pictures from ``VideoFlash`` (or
from ``Image-01-FPS/<clip>/*.jpg`` if frames were extracted before). The label is the acted emotion
in the file's name, not the crowd's vote (datasets.md section 1.1).

Splits. ``split=ogm`` reads the lists ``train.csv`` and ``test.csv`` of GeWu-Lab/OGM-GE_CVPR2022,
which are not shipped: place them in the root. Their train and test share all 91 speakers, which
``verify`` says. Validation is carved from train: whole speakers (``val=actor``), or one clip in
ten, stratified (``val=clip``: 6028 / 670 / 744). ``split=actor`` needs no list and shares no
speaker.

Deviations from the published loaders: frames are ordered by number, not by the file system; each
clip gives the middle picture of ``frames`` equal parts in training too, so that the cache holds
what is used; clips with too few pictures repeat the last instead of being dropped; crops are drawn
from the picture already resized to 224 x 224. IPRM and LFM repeat each clip to 20 s
(``audio=stft20s``): 6.6 times the compute and no new sound, so say which one a number is of.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmbench.data.splitting import carve
from mmbench.dataset import DatasetInfo, Modality, Task
from mmbench.errors import UserError, nearest
from mmbench.native.dataset import (
    NativeConfig,
    NativeDataset,
    Sample,
    read_lines,
    require,
    required_list,
)
from mmbench.native.pictures import frames
from mmbench.native.sound import PRESETS_SAY, PadMode, PresetName, preset
from mmbench.native.source import Source
from mmbench.nets.pixels import IMAGENET_MEAN, IMAGENET_STD
from mmbench.registry import register_dataset
from mmbench.settings import setting

NAME = re.compile(r"^(10\d\d)_([A-Z]{3})_(NEU|HAP|SAD|FEA|DIS|ANG)_(XX|LO|MD|HI)$")
EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")  # the order of the published label lists
LISTS = ("", "annotations/", "data/CREMAD/")  # where train.csv and test.csv are looked for
Row = tuple[str, str, str]  # a clip, where it is listed, if it is, and its split
TENTH = 0.1  # of train for validation; of the actors for validation, and for test


class CremadConfig(NativeConfig):
    """Options of cremad."""

    split: Literal["ogm", "actor"] = setting(
        "ogm", "ogm: the lists train.csv and test.csv; actor: no speaker in two splits",
        source="datasets.md section 1.1",
    )  # fmt: skip
    val: Literal["actor", "clip"] = setting(
        "actor", "split=ogm: validation takes whole speakers out of train, or single clips",
        source="actor: mmbench; clip: datasets.md section 1.1",
    )  # fmt: skip
    audio: PresetName = setting(
        "stft3s", PRESETS_SAY, source="OGM-GE, AGM, ReconBoost, AMSS; IPRM and LFM: stft20s"
    )
    pad_mode: PadMode = setting(
        "constant", "what a spectrogram sees beyond the ends", source="librosa; reflect before 0.10"
    )
    frames: int = setting(2, "pictures per clip", source="IPRM, MMPareto", ge=1, le=16)
    size: int = setting(224, "height and width of a picture", source="OGM-GE", ge=16, le=512)
    clip_consistent: bool = setting(
        False, "crop and flip all pictures of a clip alike", source="OGM-GE: each by itself"
    )


@register_dataset("cremad")
class Cremad(NativeDataset):
    """CREMA-D: six acted emotions from speech and face; 7,442 clips of 91 speakers; needs files."""

    Config = CremadConfig
    info = DatasetInfo(
        title="CREMA-D: 7,442 clips of 91 actors who speak 12 sentences in six emotions",
        licence="Open Database License 1.0, contents under the Database Contents License 1.0",
        source="git lfs clone of github.com/CheyneyComputerScience/CREMA-D; the lists train.csv "
        "and test.csv from data/CREMAD of github.com/GeWu-Lab/OGM-GE_CVPR2022",
        real="all of it: recorded actors; sound and picture belong to one clip",
        layout="""
  ROOT/AudioWAV/1001_DFA_ANG_XX.wav     7442 files
  ROOT/VideoFlash/1001_DFA_ANG_XX.flv   7442 files
  ROOT/train.csv  ROOT/test.csv         for split=ogm; also in annotations/ or data/CREMAD/""",
        counts="train 6698 (about a tenth of it for validation), test 744; split=actor: 73, 9 and "
        "9 of 91 speakers",
        size="3.0 GB (7.0 GB with audio=stft20s); as much again while preparing",
    )
    published = 7442
    grouped_by = "speakers"
    encoders = {"audio": "resnet18", "video": "resnet18"}
    config: CremadConfig

    @property
    def task(self) -> Task:
        """Six emotions from a spectrogram and ``frames`` pictures."""
        c = self.config
        video = Modality("video", "frames", (3, c.frames, c.size, c.size),
                         IMAGENET_MEAN, IMAGENET_STD)  # fmt: skip
        return Task(
            (Modality("audio", "spectrogram", preset(c.audio, c.pad_mode).shape), video), EMOTIONS
        )

    def augmentations(self) -> Mapping[str, str]:
        """Crop and flip the pictures, each by itself unless ``clip_consistent``."""
        return {"video": "crop+flip" if self.config.clip_consistent else "each.crop+each.flip"}

    def decoders(self) -> Mapping[str, "partial[NDArray[np.generic]]"]:
        """Sound as a log-magnitude spectrogram, the clip as one picture a second."""
        c = self.config
        return {
            "audio": preset(c.audio, c.pad_mode).decoder,
            "video": partial(frames, count=c.frames, size=c.size),
        }

    def samples(self, root: Path) -> Sequence[Sample]:
        """List the clips with their splits."""
        require(root, self.name, "AudioWAV")
        if not (root / "Image-01-FPS").is_dir():
            require(root, self.name, "VideoFlash")
        by_list = self.config.split == "ogm"
        return [
            Sample(
                stem,
                EMOTIONS.index(stem.split("_")[2]),
                stem.split("_")[0],
                where,
                {
                    "audio": Source(str(root / "AudioWAV" / f"{stem}.wav")),
                    "video": Source(str(_video(root, stem))),
                },
                place,
            )
            for stem, place, where in (self._by_list(root) if by_list else self._by_actor(root))
        ]

    def _by_list(self, root: Path) -> list[Row]:
        """Return the lines of the lists, with a part of train for validation."""
        listed: dict[str, list[tuple[str, str]]] = {}
        for name in ("train", "test"):
            file = required_list(
                root,
                [f"{folder}{name}.csv" for folder in LISTS],
                "split=ogm reads it: get it from data/CREMAD of "
                "github.com/GeWu-Lab/OGM-GE_CVPR2022, or type --set split=actor",
            )
            listed[name] = _read(file)
        train = [stem for stem, _ in listed["train"]]
        label = np.array([EMOTIONS.index(stem.split("_")[2]) for stem in train])
        actors = [stem.split("_")[0] for stem in train] if self.config.val == "actor" else None
        taken = carve(label, actors, TENTH, seed=0, classes=EMOTIONS)
        where = ["val" if out else "train" for out in taken] + ["test"] * len(listed["test"])
        lines = [*listed["train"], *listed["test"]]
        return [(*line, split) for line, split in zip(lines, where, strict=True)]

    def _by_actor(self, root: Path) -> list[Row]:
        """Draw 73, 9 and 9 of 91 actors with seed 0."""
        stems = sorted(p.stem for p in (root / "AudioWAV").glob("*.wav") if NAME.match(p.stem))
        actors = sorted({stem.split("_")[0] for stem in stems})
        if len(actors) < 3:
            raise UserError(
                f"split=actor needs three speakers; {root / 'AudioWAV'} holds {len(actors)}"
            )
        order = np.random.default_rng(0).permutation(actors).tolist()
        share = max(1, round(TENTH * len(order)))
        val, test = order[:share], order[share : 2 * share]
        home = dict.fromkeys(val, "val") | dict.fromkeys(test, "test")
        return [(stem, "", home.get(stem.split("_")[0], "train")) for stem in stems]


def _video(root: Path, stem: str) -> Path:
    extracted = root / "Image-01-FPS" / stem
    return extracted if extracted.is_dir() else root / "VideoFlash" / f"{stem}.flv"


def _read(file: Path) -> list[tuple[str, str]]:
    """Return (clip, place) of every line ``clip,emotion``."""
    stems = []
    for number, line in read_lines(file):
        stem, _, label = (part.strip() for part in line.partition(","))
        parts = NAME.match(stem)
        if parts is None:
            raise UserError(
                f"{file}, line {number}: {stem!r} is not the name of a clip, such as "
                "1001_DFA_ANG_XX; give one clip and its emotion a line, without a header"
            )
        if label not in EMOTIONS:
            raise UserError(
                f"{file}, line {number}: unknown label {label!r}{nearest(label, EMOTIONS)}; there "
                f"are {', '.join(EMOTIONS)}"
            )
        if label != parts[3]:
            raise UserError(
                f"{file}, line {number}: the label is {label}, the clip's name says {parts[3]}; "
                "restore the published list"
            )
        stems.append((stem, f"{file.name}, line {number}"))
    return stems
