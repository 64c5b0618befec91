"""Clips in CREMA-D's native layout: prepared, verified, trained on; stopped, broken, mislisted."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from mmbench.datasets import layouts
from typer.testing import CliRunner

from mmbench.cli.app import app
from mmbench.data import cache as data_cache
from mmbench.dataset import SPLITS
from mmbench.errors import UserError
from mmbench.native.source import Source
from mmbench.registry import DATASETS

SMALL = {"size": 32}
FLAGS = [word for k, v in SMALL.items() for word in ("--set", f"{k}={v}")]


def make(**options):
    cls = DATASETS.load("cremad")
    return cls(cls.Config(**{**SMALL, **options}))


def listed(root, **options):
    return make(**options).samples(root)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crema d ü")
    layouts.cremad(folder)
    return folder


@pytest.fixture
def names(tmp_path):
    """A root of empty files: enough for what only reads lists."""
    for folder, suffix in (("AudioWAV", "wav"), ("VideoFlash", "flv")):
        (tmp_path / folder).mkdir()
        for actor in range(1001, 1021):
            for emotion in layouts.EMOTIONS:
                (tmp_path / folder / f"{actor}_IEO_{emotion}_XX.{suffix}").touch()
    stems = sorted(p.stem for p in (tmp_path / "AudioWAV").iterdir())
    for name, chosen in (("train", stems[6:]), ("test", stems[:6])):
        text = "".join(f"{s},{s[9:12]}\r\n" for s in chosen)
        (tmp_path / f"{name}.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    return tmp_path


@pytest.fixture(scope="module")
def prepared(root, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    data_cache.prepare(make(), cache=cache, root=root)
    return cache


def test_prepared_verified_and_trained_on_from_the_command_line(root, prepared, tmp_path):
    type_ = CliRunner().invoke
    again = type_(app, ["prepare", "cremad", "--root", str(root), "--cache", str(prepared), *FLAGS])
    assert again.exit_code == 0, again.output
    verified = type_(app, ["verify", "cremad", "--cache", str(prepared), "--json", *FLAGS])
    failed = {check["name"] for check in json.loads(verified.output) if not check["ok"]}
    assert failed == {f"content {pair}" for pair in ("train/val", "train/test", "val/test")}
    assert verified.exit_code == 1  # the made-up clips of a class are alike
    details = {check["name"]: check["detail"] for check in json.loads(verified.output)}
    assert details["complete"] == "72 of 72 listed samples, 0 left out; 7442 were published"
    assert details["speakers train/val"] == "0 shared"
    # As in the published lists.
    assert details["speakers train/test"] == "5 shared, of 5 in train and 6 in test"
    run = [sys.executable, "-P", "-m", "mmbench", "run", "--methods", "concat", "--datasets",
           "cremad", "--cache", prepared, "--results", tmp_path, "--set", "trainer.epochs=1",
           "--encoder", "audio=conv",
           *[w for k, v in SMALL.items() for w in ("--set", f"cremad.{k}={v}")]]  # fmt: skip
    done = subprocess.run([*map(str, run)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("runs/cremad.concat.*/record.json")
    assert set(json.loads(file.read_text())["final"]["selected"]) == {"fused", "audio", "video"}


def test_arrays_are_what_the_task_says_and_pair_sound_with_picture(prepared):
    splits = data_cache.load(make(), cache=prepared).splits
    assert {s: len(a) for s, a in splits.items()} == {"train": 55, "val": 11, "test": 6}
    for arrays in splits.values():
        audio, video = arrays.inputs["audio"], arrays.inputs["video"]
        assert audio.dtype == np.float16 and audio.shape[1:] == (1, 257, 188)
        assert video.dtype == np.uint8 and video.shape[1:] == (3, 2, 32, 32)
        loudest = np.asarray(audio[:, 0], np.float32).mean(2).argmax(1)
        tone = np.round((loudest * 22050 / 512 - 300) / 300)
        np.testing.assert_array_equal(tone, arrays.label)
        for label, clip in zip(arrays.label, video, strict=True):
            down, along = divmod(int(label), 3)
            ninths = clip[0, 1, :30, :30].reshape(3, 10, 3, 10).mean((1, 3))
            assert np.unravel_index(ninths.argmax(), (3, 3)) == (down, along)


def test_frames_are_one_a_second_and_the_middle_of_equal_parts(root):
    from mmbench.native.pictures import frames

    clip = next((root / "VideoFlash").glob("*_NEU_XX.flv"))
    three = frames(Source(str(clip)), count=3, size=32)  # pictures 0, 29 and 58
    ground = three[0, :, 28, 28].astype(int)
    assert ground == pytest.approx([0, 58, 116], abs=14)
    two = frames(Source(str(clip)), count=2, size=32)
    np.testing.assert_array_equal(two, three[:, [0, 2]])
    five = frames(Source(str(clip)), count=5, size=32)  # too few: the last is repeated
    np.testing.assert_array_equal(five[:, 2:], three[:, [2, 2, 2]])


def test_extracted_frames_are_taken_in_the_order_of_their_numbers(tmp_path):
    from PIL import Image

    from mmbench.native.pictures import frames

    for number, grey in ((0, 10), (29, 100), (100, 200)):
        Image.new("RGB", (8, 8), (grey,) * 3).save(tmp_path / f"frame_{number}.jpg")
    clip = frames(Source(str(tmp_path)), count=3, size=8)
    assert clip[0, :, 4, 4].tolist() == pytest.approx([10, 100, 200], abs=3)


def test_validation_takes_whole_speakers_or_single_clips(names):
    by_actor = {s: {x.group for x in listed(names) if x.split == s} for s in SPLITS}
    assert not by_actor["train"] & by_actor["val"] and by_actor["val"]
    clips = listed(names, val="clip")
    assert sum(x.split == "val" for x in clips) == 12  # a tenth of 114, rounded up
    assert listed(names) == listed(names)


def test_split_by_actor_needs_no_list_and_shares_no_speaker(names):
    (names / "train.csv").unlink()
    found = listed(names, split="actor")
    groups = {s: {x.group for x in found if x.split == s} for s in SPLITS}
    assert [len(groups[s]) for s in SPLITS] == [16, 2, 2]
    assert not groups["train"] & groups["val"] | groups["val"] & groups["test"]


def test_a_setting_makes_another_cache(prepared):
    folders = {data_cache.cache_folder(make(**o), prepared)
               for o in ({}, {"audio": "stft20s"}, {"frames": 3}, {"split": "actor"})}  # fmt: skip
    assert len(folders) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1001_IEO_NEU_XX,HAP", "line 2: the label is HAP, the clip's name says NEU"),
        ("1001_IEO_NEU_XX,NUE", "unknown label 'NUE'; there are NEU, HAP"),
        ("clip,label", "line 2: 'clip' is not the name of a clip"),
    ],
)
def test_a_bad_line_is_named(names, line, message):
    (names / "test.csv").write_text(f"1001_IEO_HAP_XX,HAP\r\n{line}\r\n")
    with pytest.raises(UserError, match=message):
        listed(names)


def test_a_clip_in_two_lines_is_named_with_both(names, tmp_path):
    (names / "test.csv").write_text("1001_IEO_HAP_XX,HAP\r\n1002_IEO_NEU_XX,NEU\r\n")
    said = r"name '1002_IEO_NEU_XX' twice \(train.csv, line \d+ and test.csv, line 2\)"
    with pytest.raises(UserError, match=said):
        data_cache.prepare(make(), cache=tmp_path / "cache", root=names)


def test_a_wrong_root_says_what_is_there(names):
    with pytest.raises(UserError, match=r"no AudioWAV in .*\(found 1001_IEO_ANG_XX.wav, "):
        listed(names / "AudioWAV")
    (names / "test.csv").unlink()
    with pytest.raises(UserError, match=r"no list test.csv in .*--set split=actor"):
        listed(names)


def test_without_a_root_the_command_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--root DIR \(mmbench show cremad"):
        data_cache.prepare(make(), cache=tmp_path)


def test_missing_broken_and_pointer_files_are_named_or_left_out(tmp_path):
    stems = layouts.cremad(tmp_path, actors=4)
    (tmp_path / "AudioWAV" / f"{stems[0]}.wav").unlink()
    video = tmp_path / "VideoFlash"
    (video / f"{stems[1]}.flv").write_text("version https://git-lfs.github.com/spec/v1\n")
    (video / f"{stems[2]}.flv").write_bytes(b"")
    whole = (video / f"{stems[3]}.flv").read_bytes()
    (video / f"{stems[3]}.flv").write_bytes(whole[:40])
    cache = tmp_path / "cache"
    with pytest.raises(
        UserError,
        match=r"1 of 48 .* have no files:\n"
        rf"  {stems[0]} \(train.csv, line \d+\): there is no AudioWAV/{stems[0]}.wav",
    ):
        data_cache.prepare(make(), cache=cache, root=tmp_path)
    with pytest.raises(UserError, match=r"3 of 47 .* cannot be decoded") as caught:
        data_cache.prepare(make(missing="skip"), cache=cache, root=tmp_path)
    for number, what in ((1, "git-lfs pointer"), (2, "the file is empty"), (3, "video")):
        assert stems[number] in str(caught.value) and what in str(caught.value)
    skipping = make(missing="skip", unreadable="skip")
    data_cache.prepare(skipping, cache=cache, root=tmp_path)
    splits = data_cache.load(skipping, cache=cache).splits
    assert sum(map(len, splits.values())) == 44
    assert not set(stems[:4]) & {i for a in splits.values() for i in a.ids}


def test_a_killed_prepare_goes_on_where_it_stopped(tmp_path):
    layouts.cremad(tmp_path, actors=12)
    (tmp_path / "VideoFlash" / "1001_IEO_NEU_XX.flv").unlink()
    flags = [*FLAGS, "--set", "missing=skip", "--root", tmp_path, "--cache", tmp_path / "cache"]
    command = [sys.executable, "-P", "-m", "mmbench", "prepare", "cremad", *flags]
    first = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("cache/cremad/.progress-*/shards/[!.]*.npz")):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not list(tmp_path.glob("cache/cremad/*/manifest.json"))
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of 143 samples were decoded before" in done.stderr
    assert "1 of 144 samples of cremad have no files" in done.stderr


def test_show_says_what_to_get_and_where_to_put_it():
    shown = CliRunner().invoke(app, ["show", "cremad"]).output
    for part in ("Open Database License", "AudioWAV/1001_DFA_ANG_XX.wav", "6698", "3.0 GB"):
        assert part in shown
