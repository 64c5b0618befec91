"""From clips and pixels to the tensors of avdigits: log-mel spectrograms and noisy images.

Everything works on chunks of clips at once; a whole set takes about two seconds.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

Floats = NDArray[np.float64]
SAMPLES = 6400  # 0.8 s at 8 kHz
JITTER = 400  # the onset moves by up to 50 ms
FRAME, HOP, BANDS, FRAMES = 256, 200, 32, 31
ONSET = 0.02  # what lies below this share of the peak is silence before the word
FLOOR = 1e-6
CHUNK = 250  # clips at once: bounds the memory at about 100 MB


def waves(
    samples: NDArray[np.int16], lengths: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return clips at 8 kHz, trimmed at the onset, moved by the jitter, cut or padded.

    Args:
        samples: clips end to end at 22,050 Hz.
        lengths: samples per clip, [N].
        rng: draws the jitter, one number per clip.

    Returns:
        Waves [N, 6400] in units of full scale, and the mean power [N] of the spoken part alone:
        the reference of the SNR, so that the padding does not lower the noise of short words.
    """
    jitter = rng.integers(0, JITTER + 1, len(lengths))
    clips = np.split(samples, np.cumsum(lengths)[:-1])
    out, power = np.zeros((len(clips), SAMPLES)), np.zeros(len(clips))
    for begin in range(0, len(clips), CHUNK):
        part = clips[begin : begin + CHUNK]
        block = np.zeros((len(part), max(map(len, part))))
        for row, clip in zip(block, part, strict=True):
            row[: len(clip)] = clip / 32768.0
        loud = np.abs(slow := resample_poly(block, 160, 441, axis=1))
        onset = np.argmax(loud > ONSET * loud.max(1, keepdims=True), axis=1)
        for i, (row, start) in enumerate(zip(slow, onset, strict=True), start=begin):
            word = row[start : start + SAMPLES - jitter[i]]
            out[i, jitter[i] : jitter[i] + len(word)] = word
            power[i] = np.mean(word[: -(-len(part[i - begin]) * 160 // 441) - start] ** 2)
    return out, power


def noise_scale(power: Floats, snr: float) -> Floats:
    """Return sigma of the white noise that gives ``snr`` dB against ``power``, [N]."""
    sigma: Floats = np.sqrt(power / 10 ** (snr / 10))
    return sigma


def mel_power(x: Floats) -> Floats:
    """Return the mel power of waves [N, 6400]: Hann frames, 32 bands; [N, 32, 31]."""
    window = np.hanning(FRAME + 1)[:-1]
    index = np.arange(FRAMES)[:, None] * HOP + np.arange(FRAME)
    bank = mel_filters().T
    out = np.empty((len(x), BANDS, FRAMES))
    for begin in range(0, len(x), CHUNK):
        spectrum = np.abs(np.fft.rfft(x[begin : begin + CHUNK, index] * window)) ** 2
        out[begin : begin + CHUNK] = (spectrum @ bank).transpose(0, 2, 1)
    return out


def noisy_waves(x: Floats, power: Floats, snr: float, rng: np.random.Generator) -> Floats:
    """Add white noise to waves [N, 6400] at ``snr`` dB against ``power``, [N]."""
    out: Floats = x + noise_scale(power, snr)[:, None] * rng.standard_normal(x.shape)
    return out


def noisy_mel(mel: Floats, power: Floats, snr: float, rng: np.random.Generator) -> Floats:
    """Add the mel power of white noise to clean mel power, for clips whose wave is not at hand.

    The powers add on average; the cross term between speech and noise is left out, since it
    needs the phase.

    Args:
        mel: clean mel power, [N, 32, 31].
        power: as ``waves`` gives it, [N].
        snr: in dB.
        rng: draws the noise.
    """
    sigma = noise_scale(power, snr)
    return mel + mel_power(sigma[:, None] * rng.standard_normal((len(mel), SAMPLES)))


def spectrogram(mel: Floats) -> NDArray[np.float32]:
    """Return the logarithm of mel power, z-scored per clip; [N, 1, 32, 31]."""
    log = np.log(mel + FLOOR)
    mean, std = log.mean((1, 2), keepdims=True), log.std((1, 2), keepdims=True)
    out: NDArray[np.float32] = ((log - mean) / std)[:, None].astype(np.float32)
    return out


def mel_filters() -> Floats:
    """Return 32 triangles, evenly spaced in mel = 2595 log10(1 + f/700), 60-3900 Hz; [32, 129]."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (60.0, 3900.0))
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(FRAME, 1 / 8000)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rise, fall = (bins - left) / (centre - left), (right - bins) / (right - centre)
    out: Floats = np.clip(np.minimum(rise, fall), 0, None)
    return out


def pictures(
    pixels: NDArray[np.uint8], white: int, side: int, sigma: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return images in [0, 1], mean-pooled to ``side``, plus Gaussian noise; [N, 1, side, side].

    Args:
        pixels: [N, S, S], S a multiple of ``side``.
        white: the pixel value that becomes 1.
        side: side of the result.
        sigma: of the noise; values are not clipped afterwards.
        rng: draws the noise; called for sigma 0 too.
    """
    step = pixels.shape[1] // side
    x = pixels.reshape(-1, side, step, side, step).mean((2, 4)) / white
    noisy = x + sigma * rng.standard_normal(x.shape)
    out: NDArray[np.float32] = noisy[:, None].astype(np.float32)
    return out
