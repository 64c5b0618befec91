"""Four emotions from voice, face and words: acted and improvised conversations (real, paired).

Read from ``IEMOCAP_full_release``, which needs a signed licence. Labels come from the evaluation
files: neutral, angry, sad, and happy with excited; others are dropped (datasets.md section 1.4).

Splits. ``split=mla`` reads the two lists of Cecile-hi/Multimodal-Learning-with-Alternating-
Unimodal-Adaptation from the root; their train and test share all ten speakers, which ``verify``
says. Validation is carved from train, a whole speaker (``val=speaker``), or it is the utterances
that the lists leave, as in that repository (``val=rest``). ``split=random`` draws 60/20/20.
``split=session`` trains on sessions 1 to 3, validates on 4 and tests on 5: no speaker is shared.
Their numbers are not comparable.

Pictures come from ``faces/<utterance>/*.jpg`` if that is there, else from the conversation's video
between the utterance's first and last second. Deviation: mel energies are standardised by train
(``normalise=false``, as published, leaves them).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmbench.data.splitting import carve
from mmbench.data.words import WORDS
from mmbench.dataset import DatasetInfo, Modality, Task
from mmbench.errors import UserError
from mmbench.native.dataset import (
    NativeConfig,
    NativeDataset,
    Sample,
    read_lines,
    require,
    required_list,
)
from mmbench.native.pictures import frames
from mmbench.native.sound import fbank
from mmbench.native.source import Source
from mmbench.native.text import tokens
from mmbench.nets.pixels import IMAGENET_MEAN, IMAGENET_STD
from mmbench.registry import register_dataset
from mmbench.settings import setting

CLASSES = ("Angry", "Happy", "Neutral", "Sad")  # alphabetical, as MLA sorts them
LABELS = {"neu": "Neutral", "ang": "Angry", "sad": "Sad", "hap": "Happy", "exc": "Happy"}
HEAD = re.compile(r"^\[([\d.]+) - ([\d.]+)\]\t(\S+)\t(\w+)\t")
SPOKEN = re.compile(r"^(\S+) \[[\d.-]+\]: ?(.*)$")
UTTERANCE = re.compile(r"^Ses(\d\d)[FM]_.+_([FM])\d{3}$")
SIGN = " [split|sign] "
RATE, STEPS = 16000, 1024  # of the mel energies, datasets.md section 1.0
ROWS = 64  # standardised at once
Row = tuple[str, str, str]  # an utterance, where it is listed, if it is, and its split
TENTH = 0.1  # of train for validation
BY_SESSION = {"01": "train", "02": "train", "03": "train", "04": "val", "05": "test"}


class IemocapConfig(NativeConfig):
    """Options of iemocap."""

    split: Literal["mla", "random", "session"] = setting(
        "mla", "the published lists; 60/20/20; or by session, which shares no speaker",
        source="datasets.md section 1.4",
    )  # fmt: skip
    val: Literal["speaker", "rest"] = setting(
        "speaker", "split=mla: validation takes a speaker out of train, or what no list names",
        source="speaker: mmbench; rest: MLA",
    )  # fmt: skip
    frames: int = setting(1, "pictures per utterance", source="MLA: the middle one", ge=1, le=8)
    size: int = setting(256, "height and width of a picture", source="MLA", ge=16, le=512)
    speaker_crop: Literal["left", "right", "full"] = setting(
        "full", "half of the conversation's picture that is kept", source="datasets.md 1.4"
    )
    tokenizer: str = setting(
        WORDS, "words: hashed words, needs nothing; else a tokenizer below --weights",
        source="MLA: bert-base-uncased", min_length=1,
    )  # fmt: skip
    length: int = setting(64, "words or word pieces kept", source="datasets.md 1.4", ge=1, le=512)
    normalise: bool = setting(
        True, "mel energies to mean 0 and deviation 1 over train", source="datasets.md 1.4"
    )


@dataclass(frozen=True)
class Utterance:
    """What the evaluation and transcription files say of one utterance."""

    name: str
    emotion: str
    begin: float
    end: float
    text: str
    session: Path

    @property
    def dialog(self) -> str:
        """Name of the conversation."""
        return self.name.rpartition("_")[0]

    @property
    def speaker(self) -> str:
        """Session and sex, which name one of ten people."""
        found = UTTERANCE.match(self.name)
        return f"{found[1]}{found[2]}" if found else self.dialog


@register_dataset("iemocap")
class Iemocap(NativeDataset):
    """IEMOCAP: four emotions from voice, face and words; 5,531 utterances; needs a licence."""

    Config = IemocapConfig
    info = DatasetInfo(
        title="IEMOCAP: 5,531 utterances of ten speakers in four emotions",
        licence="restricted: signed request to USC SAIL, research only; nothing of it ships here",
        source="sail.usc.edu/iemocap after the request; the lists my_train_iemo.txt and "
        "my_test_iemo.txt from the MLA repository for split=mla",
        real="all of it: recorded conversations; voice, picture and transcript belong together",
        layout="""
  ROOT/Session{1..5}/dialog/EmoEvaluation/Ses01F_impro01.txt
  ROOT/Session{1..5}/dialog/transcriptions/Ses01F_impro01.txt
  ROOT/Session{1..5}/dialog/avi/DivX/Ses01F_impro01.avi
  ROOT/Session{1..5}/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav
  ROOT/faces/<utterance>/*.jpg                       optional, instead of the videos
  ROOT/my_train_iemo.txt  ROOT/my_test_iemo.txt      for split=mla""",
        counts="split=mla: train 3318 (a speaker of ten for validation), test 1107; val=rest: 1106 "
        "more for validation; all: Neutral 1708, Angry 1103, Sad 1084, Happy 1636",
        size="2.6 GB; as much again while preparing",
    )
    grouped_by = "speakers"
    published = 5531
    encoders = {"audio": "resnet18", "video": "resnet18", "text": "words"}
    config: IemocapConfig

    @property
    def task(self) -> Task:
        """Four emotions from mel energies, pictures and words."""
        c = self.config
        video = Modality(
            "video", "frames", (3, c.frames, c.size, c.size), IMAGENET_MEAN, IMAGENET_STD
        )
        text = Modality("text", "text", (c.length,), vocabulary=c.tokenizer)
        return Task((Modality("audio", "spectrogram", (1, STEPS, 128)), video, text), CLASSES)

    def augmentations(self) -> Mapping[str, str]:
        """Crop and mirror the pictures."""
        return {"video": "each.crop+each.flip"}

    def decoders(self) -> Mapping[str, "partial[NDArray[np.generic]]"]:
        """Mel energies, pictures at one a second, and the words."""
        c = self.config
        return {
            "audio": partial(fbank, rate=RATE, frames=STEPS),
            "video": partial(frames, count=c.frames, size=c.size, side=c.speaker_crop),
            "text": partial(tokens, tokenizer=c.tokenizer, length=c.length),
        }

    def samples(self, root: Path) -> Sequence[Sample]:
        """List the utterances with one of the four emotions."""
        sessions = sorted(p for p in root.glob("Session[1-5]") if p.is_dir())
        if not sessions:
            require(root, self.name, "Session1")
        found = {u.name: u for session in sessions for u in _utterances(session)}
        order = {name: number for number, name in enumerate(found)}
        rows = sorted(self._splits(root, found), key=lambda row: order[row[0]])
        return [
            Sample(name, CLASSES.index(LABELS[found[name].emotion]), found[name].speaker, where,
                   _sources(root, found[name]), place)
            for name, place, where in rows
        ]  # fmt: skip

    def _splits(self, root: Path, found: Mapping[str, Utterance]) -> list[Row]:
        """Return every utterance in use."""
        if self.config.split == "session":
            return [(name, "", BY_SESSION[name[3:5]]) for name in found]
        if self.config.split == "mla":
            return self._by_list(root, found)
        order = np.random.default_rng(0).permutation(sorted(found)).tolist()
        train, val = round(0.6 * len(order)), round(0.2 * len(order))
        return [
            (name, "", "train" if i < train else "val" if i < train + val else "test")
            for i, name in enumerate(order)
        ]

    def _by_list(self, root: Path, found: Mapping[str, Utterance]) -> list[Row]:
        listed: dict[str, list[tuple[str, str]]] = {}
        for split in ("train", "test"):
            file = required_list(
                root,
                [f"my_{split}_iemo.txt"],
                "split=mla reads it: get it from the MLA repository, or type --set split=session",
            )
            listed[split] = list(_list(file, found))
        lines = [*listed["train"], *listed["test"]]
        train = [name for name, _ in listed["train"]]
        if self.config.val == "rest":
            taken, rest = np.zeros(len(train), bool), found.keys() - {name for name, _ in lines}
        else:
            label = np.array([CLASSES.index(LABELS[found[name].emotion]) for name in train])
            speakers = [found[name].speaker for name in train]
            taken, rest = carve(label, speakers, TENTH, seed=0, classes=CLASSES), set()
        where = ["val" if out else "train" for out in taken] + ["test"] * len(listed["test"])
        named = [(*line, split) for line, split in zip(lines, where, strict=True)]
        return named + [(name, "", "val") for name in rest]

    def finish(
        self, inputs: Mapping[str, Mapping[str, NDArray[np.generic]]]
    ) -> Mapping[str, Any]:  # Any: JSON values
        """Standardise the mel energies by train, one mean and deviation for all of them."""
        if not self.config.normalise:
            return {}
        mean, std = _moments(inputs["train"]["audio"])
        for arrays in inputs.values():
            x = arrays["audio"]
            for i in range(0, len(x), ROWS):
                x[i : i + ROWS] = (x[i : i + ROWS].astype(np.float32) - mean) / std
        return {"standardised": {"audio": {"mean": mean, "std": std}}}


def _moments(x: NDArray[np.generic]) -> tuple[float, float]:
    """Return mean and deviation of all numbers of an array that may not fit in memory."""
    total = squares = 0.0
    for i in range(0, len(x), ROWS):
        part = x[i : i + ROWS].astype(np.float64)
        total += float(part.sum())
        squares += float(np.square(part).sum())
    mean = total / x.size
    return mean, max(0.0, squares / x.size - mean**2) ** 0.5 or 1.0


def _utterances(session: Path) -> Iterator[Utterance]:
    """Yield the utterances of a session that have one of the four emotions."""
    require(session, "iemocap", "dialog/EmoEvaluation", "dialog/transcriptions", "sentences/wav")
    for file in sorted((session / "dialog" / "EmoEvaluation").glob("Ses*.txt")):
        spoken = _transcript(session / "dialog" / "transcriptions" / file.name)
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            head = HEAD.match(line)
            if head and head[4] in LABELS:
                yield Utterance(
                    head[3], head[4], float(head[1]), float(head[2]), spoken.get(head[3], ""),
                    session,
                )  # fmt: skip


def _transcript(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise UserError(f"there is no transcript {file}; copy the release again, whole")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return {m[1]: m[2].strip() for m in map(SPOKEN.match, lines) if m}


def _list(file: Path, found: Mapping[str, Utterance]) -> Iterator[tuple[str, str]]:
    """Yield (utterance, place) of lines ``<utterance>.mp4 [split|sign] text [..] class``."""
    for number, line in read_lines(file):
        place, parts = f"{file}, line {number}", line.split(SIGN.strip())
        name, label = parts[0].strip().removesuffix(".mp4"), parts[-1].strip()
        if len(parts) != 3 or label not in CLASSES:
            raise UserError(
                f"{place}: not '<utterance>.mp4{SIGN}text{SIGN}class' with a class out of "
                f"{', '.join(CLASSES)}; found {line[:60]!r}"
            )
        if name not in found:
            raise UserError(
                f"{place}: {name} is not an utterance of the release with one of the four emotions;"
                " copy the release again, whole"
            )
        if LABELS[found[name].emotion] != label:
            raise UserError(
                f"{place}: the label is {label}, the evaluation file says {found[name].emotion}"
            )
        yield name, f"{file.name}, line {number}"


def _sources(root: Path, u: Utterance) -> dict[str, Source]:
    faces = root / "faces" / u.name
    film = u.session / "dialog" / "avi" / "DivX" / f"{u.dialog}.avi"
    video = Source(str(faces)) if faces.is_dir() else Source(str(film), begin=u.begin, end=u.end)
    wav = u.session / "sentences" / "wav" / u.dialog / f"{u.name}.wav"
    return {"audio": Source(str(wav)), "video": video, "text": Source(text=u.text)}
