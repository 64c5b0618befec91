"""From a file's sound to the spectrograms of the published code (datasets.md section 1.0)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mmbench.data.media import sound_of
from mmbench.native.source import Source

FLOOR = 1e-7  # added to the magnitude before the logarithm
PresetName = Literal["stft3s", "stft20s", "stft10s_35k", "spec10s", "stft5s_16k", "fbank128"]
PadMode = Literal["constant", "reflect"]
PRESETS_SAY = (
    "stft3s, stft20s: 22050 Hz, repeated to 3 or 20 s; stft10s_35k: as AMSS and BSS; spec10s: as "
    "PMR; stft5s_16k: 5 s at 16000 Hz, as MLA; fbank128: 128 mel energies every 10 ms"
)


@dataclass(frozen=True)
class Preset:
    """One way from sound to spectrogram.

    Attributes:
        shape: [1, bins, steps], or [1, steps, bands] of mel energies.
        decoder: from a ``Source`` to a float16 array of that shape.
    """

    shape: tuple[int, int, int]
    decoder: "partial[NDArray[np.generic]]"


def preset(name: PresetName, pad_mode: PadMode) -> Preset:
    """Return the preset ``name``; ``pad_mode`` is what an STFT sees beyond the ends.

    librosa repeated the sound mirrored (``reflect``) and pads with zeros (``constant``) today.
    """
    if name == "fbank128":
        return Preset((1, 1024, 128), partial(fbank, rate=16000, frames=1024))
    if name == "spec10s":
        return Preset((1, 257, 1004), partial(spectrogram, rate=16000, seconds=10))
    rate, seconds, fft, hop, begin = {
        "stft3s": (22050, 3, 512, 353, 0.0),
        "stft20s": (22050, 20, 512, 353, 0.0),
        "stft10s_35k": (35400, 10, 512, 353, 0.0),
        # The released code draws five of ten seconds; the cache holds the middle ones.
        "stft5s_16k": (16000, 5, 256, 128, 2.5),
    }[name]
    decoder = partial(
        stft, rate=rate, seconds=seconds, fft=fft, hop=hop, begin=begin, pad_mode=pad_mode
    )
    return Preset((1, 1 + fft // 2, 1 + seconds * rate // hop), decoder)


def stft(
    source: Source,
    *,
    rate: int,
    seconds: float,
    hop: int,
    fft: int = 512,
    begin: float = 0.0,
    pad_mode: PadMode = "constant",
) -> NDArray[np.generic]:
    """Return the log-magnitude spectrogram of a clip that is repeated from its beginning on.

    The wave is clipped to [-1, 1]; periodic Hann windows of ``fft`` samples.

    Args:
        source: a file with sound.
        rate: in Hz, to which it is resampled.
        seconds: how much is kept.
        hop: samples from one window to the next.
        fft: samples of a window.
        begin: second of the repeated sound from which on it is kept.
        pad_mode: what is beyond the ends.

    Returns:
        [1, 1 + fft / 2, 1 + samples // hop] float16.
    """
    skipped = round(rate * begin)
    wave = _tiled(sound_of(source.file, rate), skipped + round(rate * seconds))[skipped:]
    magnitude = _spectrogram(fft, hop, pad_mode)(torch.from_numpy(wave))
    log: NDArray[np.float32] = np.log(magnitude.numpy() + FLOOR)
    return log[None].astype(np.float16)


def spectrogram(source: Source, *, rate: int, seconds: float) -> NDArray[np.generic]:
    """Return scipy's log-power spectrogram of a clip repeated to ``seconds``, z-scored per clip.

    Windows of 512 samples, 353 of them shared with the next; scipy's own window and scaling.

    Returns:
        [1, 257, 1 + (samples - 512) // 159] float16.
    """
    from scipy.signal import spectrogram as power

    wave = _tiled(sound_of(source.file, rate), round(rate * seconds))
    log = np.log(power(wave, rate, nperseg=512, noverlap=353)[2] + FLOOR)
    spread = float(log.std())
    scored: NDArray[np.float32] = (log - log.mean()) / (spread if spread > 0 else 1.0)
    return scored[None].astype(np.float16)


def fbank(source: Source, *, rate: int, frames: int) -> NDArray[np.generic]:
    """Return Kaldi's 128 log-mel energies every 10 ms, padded with zeros or cut to ``frames``.

    The mean of the wave is removed; 25 ms Hann windows, pre-emphasis 0.97, no dither.

    Returns:
        [1, frames, 128] float16.
    """
    from torchaudio.compliance import kaldi

    wave = sound_of(source.file, rate)
    wave = np.pad(wave - wave.mean(), (0, max(0, round(0.025 * rate) - len(wave))))
    energies = kaldi.fbank(
        torch.from_numpy(wave)[None], htk_compat=True, sample_frequency=rate, use_energy=False,
        window_type="hanning", num_mel_bins=128, dither=0.0, frame_shift=10,
    ).numpy()[:frames]  # fmt: skip
    padded = np.pad(energies, ((0, frames - len(energies)), (0, 0)))
    return padded[None].astype(np.float16)


@cache
def _spectrogram(
    fft: int, hop: int, pad_mode: str
) -> Callable[[torch.Tensor], Any]:  # Any: torchaudio carries no types
    from torchaudio.transforms import Spectrogram

    transform: Callable[[torch.Tensor], Any] = Spectrogram(
        n_fft=fft, hop_length=hop, power=1.0, center=True, pad_mode=pad_mode
    )
    return transform


def _tiled(wave: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    repeated = np.tile(wave, -(-samples // len(wave)))[:samples]
    return np.clip(repeated, -1, 1).astype(np.float32)
