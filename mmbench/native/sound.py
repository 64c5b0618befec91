"""From a file's sound to the spectrograms of the published code (datasets.md section 1.0)."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmbench.native.source import Source
from mmbench.own.media import sound_of

FLOOR = 1e-7  # added to the magnitude before the logarithm
FFT = 512


def stft(source: Source, *, rate: int, seconds: float, hop: int) -> NDArray[np.generic]:
    """Return the log-magnitude spectrogram of a clip that is repeated to ``seconds``.

    The wave is clipped to [-1, 1]; 512-point Hann windows, zeros beyond the ends.

    Returns:
        [1, 257, 1 + samples // hop] float16.
    """
    wave = _tiled(sound_of(source.file, rate), round(rate * seconds))
    magnitude = _spectrogram(hop)(torch.from_numpy(wave))
    log: NDArray[np.float32] = np.log(magnitude.numpy() + FLOOR)
    return log[None].astype(np.float16)


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
def _spectrogram(hop: int) -> Callable[[torch.Tensor], Any]:  # Any: torchaudio carries no types
    from torchaudio.transforms import Spectrogram

    transform: Callable[[torch.Tensor], Any] = Spectrogram(
        n_fft=FFT, hop_length=hop, power=1.0, center=True, pad_mode="constant"
    )
    return transform


def _tiled(wave: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    repeated = np.tile(wave, -(-samples // len(wave)))[:samples]
    return np.clip(repeated, -1, 1).astype(np.float32)
