"""Decoding: what each kind of file becomes, and what is said of files that cannot be read."""

import struct

import numpy as np
import pytest
from PIL import Image

from mmbench.data.media import UnreadableError
from mmbench.own import decoders
from mmbench.own.dataset import OwnConfig
from mmbench.own.decoders import decode, frames_of
from mmbench.testing.files import clip, film, picture, pixels, tone

SMALL = OwnConfig(seconds=0.5, image_size=24, frames=4, words=6)


def test_sound_is_a_spectrogram_whose_peak_follows_the_tone(tmp_path):
    peaks = []
    for number in (0, 2, 5):
        x = decode("audio", str(tone(tmp_path / f"{number}.wav", number)), SMALL)
        assert x.shape == (1, 64, frames_of(SMALL)) and x.dtype == np.float16
        assert abs(float(x.astype(np.float32).mean())) < 1e-2
        peaks.append(int(x[0].mean(1).argmax()))
    assert peaks == sorted(peaks) and len(set(peaks)) == 3


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_rate_and_channels_of_the_file_do_not_matter(rate, channels, tmp_path):
    usual = decode("audio", str(tone(tmp_path / "a.wav", 1, rate=22050)), SMALL)
    other = decode("audio", str(tone(tmp_path / "b.wav", 1, rate=rate, channels=channels)), SMALL)
    peak = [int(x[0].mean(1).argmax()) for x in (usual, other)]
    assert abs(peak[0] - peak[1]) <= 1 and usual.shape == other.shape


@pytest.mark.parametrize("seconds", [0.05, 2.0])
def test_short_sound_is_padded_and_long_sound_is_cut(seconds, tmp_path):
    x = decode("audio", str(tone(tmp_path / "a.wav", 0, seconds=seconds)), SMALL)
    assert x.shape[2] == frames_of(SMALL) and np.isfinite(x).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "CMYK", "P", "1"])
def test_every_colour_mode_becomes_three_channels(mode, tmp_path):
    suffix = "tif" if mode == "CMYK" else "png"
    x = decode("image", str(picture(tmp_path / f"x.{suffix}", 1, mode)), SMALL)
    assert x.shape == (3, 24, 24) and x.dtype == np.uint8
    assert x[:, 12, 12].min() > 200 and x[:, 2, 2].max() < 50


def test_video_gives_the_middle_picture_of_each_part(tmp_path):
    x = decode("video", str(clip(tmp_path / "x.mkv", 1, frames=8)), SMALL)
    assert x.shape == (3, 4, 24, 24)
    assert x[0, :, 12, 12].tolist() == [20 * (k + 1) for k in (1, 3, 5, 7)]


def test_video_with_fewer_pictures_repeats_the_last(tmp_path):
    x = decode("video", str(clip(tmp_path / "x.mkv", 0, frames=2)), SMALL)
    assert x[0, :, 2, 2].tolist() == [20, 40, 40, 40]


def test_sound_of_a_video_is_read(tmp_path):
    x = decode("audio", str(clip(tmp_path / "x.mkv", 0, sound=True)), SMALL)
    assert x.shape == (1, 64, frames_of(SMALL))


def test_text_is_numbered_without_case_and_padded():
    x, y = (decode("text", t, SMALL) for t in ("It purrs, so", "it PURRS , so"))
    assert x.tolist() == y.tolist() and x.dtype == np.int32
    assert (x[:4] > 0).all() and (x[4:] == 0).all()
    assert len(set(x[:4].tolist())) == 4


def test_arrays_keep_their_numbers(tmp_path):
    np.save(tmp_path / "v.npy", np.arange(3))
    np.save(tmp_path / "m.npy", np.ones((4, 5)))
    assert decode("array", str(tmp_path / "v.npy"), SMALL).tolist() == [0, 1, 2]
    assert decode("array", str(tmp_path / "m.npy"), SMALL).shape == (1, 4, 5)


def broken(folder):
    """Return (kind, file, what the message must say) of files that cannot be used."""
    whole = tone(folder / "whole.wav", 0)
    photo = picture(folder / "whole.png", 0)
    np.save(folder / "names.npy", np.array(["a"]))
    np.save(folder / "nan.npy", np.array([1.0, np.nan]))
    np.save(folder / "deep.npy", np.zeros((1, 1, 1, 1)))
    np.save(folder / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "huge.npy", np.array([1.0, 1e300]))
    with (folder / "several.npy").open("wb") as handle:
        np.savez(handle, a=np.zeros(3))
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("not a sound")
    (folder / "cut.wav").write_bytes(whole.read_bytes()[:20])
    (folder / "cut.png").write_bytes(photo.read_bytes()[:60])
    (folder / "cut.npy").write_bytes((folder / "nan.npy").read_bytes()[:-4])
    film = clip(folder / "film.mkv", 0)
    return [
        ("audio", "empty.wav", "empty"),
        ("audio", "text.wav", "Invalid data"),
        ("audio", "cut.wav", "Error"),
        ("audio", film.name, "no audio stream"),
        ("video", "whole.wav", "no video stream"),
        ("image", "cut.png", "Error"),
        ("image", "text.wav", "cannot identify"),
        ("array", "names.npy", "not numbers"),
        ("array", "nan.npy", "NaN"),
        ("array", "deep.npy", "one to three dimensions"),
        ("array", "object.npy", "Object arrays cannot be loaded"),
        ("array", "cut.npy", "Error"),
        ("array", "text.wav", "not what numpy.save writes"),
        ("array", "several.npy", "not what numpy.save writes"),
        ("array", "huge.npy", "too large for float32"),
        ("array", ".", "cannot be opened: Is a directory"),
        ("image", ".", "cannot be opened: Is a directory"),
    ]


@pytest.mark.parametrize("name", ["a.wav", "a.mp4", "a.avi"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_that_is_cut_short_is_not_used(name, share, tmp_path):
    kind = "audio" if name == "a.wav" else "video"
    file = tone(tmp_path / name, 0) if kind == "audio" else film(tmp_path / name, 0, 30)
    decode(kind, str(file), SMALL)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole)) | 1])  # odd: no whole 16-bit sample
    with pytest.raises(UnreadableError):
        decode(kind, str(file), SMALL)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_sound_written_to_a_pipe_is_whole_where_it_ends(size, tmp_path):
    file = tone(tmp_path / "a.wav", 1)
    usual = decode("audio", str(file), SMALL)
    written = bytearray(file.read_bytes())
    place = written.index(b"data") + 4
    written[4:8] = written[place : place + 4] = size.to_bytes(4, "little")
    file.write_bytes(written)
    np.testing.assert_array_equal(decode("audio", str(file), SMALL), usual)


def test_grey_of_sixteen_bits_keeps_its_shades_and_other_numbers_are_refused(tmp_path):
    deep = (np.arange(24 * 24).reshape(24, 24) * 100).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    x = decode("image", str(tmp_path / "deep.png"), SMALL)
    np.testing.assert_array_equal(x[1], deep >> 8)
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UnreadableError, match=r"float32 from 0 to 57500, .*\.npy"):
        decode("image", str(tmp_path / "float.tif"), SMALL)


def test_whatever_a_decoder_raises_is_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def fail(value, config):
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setitem(decoders.DECODERS, "image", fail)
    with pytest.raises(UnreadableError, match="error: unpack requires"):
        decode("image", str(picture(tmp_path / "a.png", 0)), SMALL)


def test_unreadable_files_say_why(tmp_path):
    for kind, name, reason in broken(tmp_path):
        with pytest.raises(UnreadableError, match=reason) as caught:
            decode(kind, str(tmp_path / name), SMALL)
        assert str(caught.value), (kind, name)


def test_a_picture_is_not_stretched_beyond_its_content(tmp_path):
    Image.fromarray(pixels(2)).resize((48, 12)).save(tmp_path / "wide.png")
    x = decode("image", str(tmp_path / "wide.png"), SMALL)
    assert x[:, 20, 20].min() > 200 and x[:, 4, 4].max() < 50
