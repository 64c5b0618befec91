"""Presets of sound: the published shapes, and each against a plain computation."""

import numpy as np
import pytest

from mmbench.native.sound import preset
from mmbench.native.source import Source
from mmbench.testing.files import tone

SHAPES = {  # datasets.md section 1.0
    "stft3s": (1, 257, 188),
    "stft20s": (1, 257, 1250),
    "stft10s_35k": (1, 257, 1003),
    "spec10s": (1, 257, 1004),
    "stft5s_16k": (1, 129, 626),
    "fbank128": (1, 1024, 128),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Source(str(tone(tmp_path_factory.mktemp("s") / "a.wav", 1, 2.5, rate=16000)))


@pytest.mark.parametrize("name", SHAPES)
def test_every_preset_has_the_published_shape(name, clip):
    found = preset(name, "constant")
    x = found.decoder(clip)
    assert found.shape == x.shape == SHAPES[name]
    assert x.dtype == np.float16 and np.isfinite(x).all()


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_an_stft_is_the_plain_one_of_the_repeated_sound(mode, tmp_path):
    source = Source(str(tone(tmp_path / "a.wav", 2, 1.0, rate=22050)))
    wave = 0.5 * np.sin(2 * np.pi * 900 * np.arange(22050) / 22050)
    repeated = np.tile((wave * 32767).astype(np.int16) / 32768, 3)
    padded = np.pad(repeated, 256, mode=mode)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    columns = [
        np.abs(np.fft.rfft(window * padded[k : k + 512]))
        for k in range(0, len(padded) - 511, 353)
    ]  # fmt: skip
    expected = np.log(np.stack(columns, 1) + 1e-7)
    x = preset("stft3s", mode).decoder(source)[0].astype(np.float64)
    heard = expected > -4  # below, half precision and float32 differ from double
    np.testing.assert_allclose(x[heard], expected[heard], atol=0.02)


def test_a_clip_of_ten_seconds_is_scored_and_the_middle_five_are_kept(clip):
    x = preset("spec10s", "constant").decoder(clip).astype(np.float64)
    assert x.mean() == pytest.approx(0, abs=0.01) and x.std() == pytest.approx(1, abs=0.01)
    y = preset("stft5s_16k", "constant").decoder(clip)[0].astype(np.float32)
    assert y.mean(1).argmax() == round(600 / 16000 * 256)
