"""NVGesture and the sarcastic tweets in native layout: prepared, trained on, mistakes named."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmbench.datasets import layouts

from mmbench.data import cache as data_cache
from mmbench.data.loader import Loader
from mmbench.data.media import UnreadableError
from mmbench.data.verify import verify
from mmbench.errors import UserError
from mmbench.registry import DATASETS
from mmbench.testing.files import picture

SMALL = {
    "nvgesture": {"frames": 16, "window": 8, "size": 24},
    "sarcasm": {"size": 24, "length": 8},
}


def make(name, **options):
    cls = DATASETS.load(name)
    return cls(cls.Config(**{**SMALL[name], **options}))


def prepare(dataset, root, cache):
    data_cache.prepare(dataset, cache=cache, root=root)
    return data_cache.load(dataset, cache=cache)


def train(name, cache, results, *more):
    options = [w for k, v in SMALL[name].items() for w in ("--set", f"{name}.{k}={v}")]
    command = [sys.executable, "-P", "-m", "mmbench", "run", "--methods", "concat", "--datasets",
               name, "--cache", cache, "--results", results, "--set", "trainer.epochs=1",
               *options, *more]  # fmt: skip
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = results.glob(f"runs/{name}.concat.*/record.json")
    return json.loads(file.read_text())["final"]["selected"]


@pytest.fixture(scope="module")
def gestures(tmp_path_factory):
    root = tmp_path_factory.mktemp("nv")
    layouts.nvgesture(root)
    cache = tmp_path_factory.mktemp("cache")
    return root, cache, prepare(make("nvgesture"), root, cache)


@pytest.fixture(scope="module")
def tweets(tmp_path_factory):
    root = tmp_path_factory.mktemp("tweets")
    stay = layouts.sarcasm(root)
    cache = tmp_path_factory.mktemp("cache")
    return root, stay, cache, prepare(make("sarcasm"), root, cache)


def test_nvgesture_holds_out_whole_subjects_and_trains(gestures, tmp_path):
    _, cache, prepared = gestures
    assert {s: len(a) for s, a in prepared.splits.items()} == {"train": 25, "val": 25, "test": 25}
    assert all(len(set(a.groups)) == 1 for a in prepared.splits.values())
    checks = verify(make("nvgesture"), cache=cache)
    # The made-up clips of a class are alike.
    assert {c.name.split()[0] for c in checks if not c.ok} == {"content"}
    encoders = [w for m in ("rgb", "flow", "depth") for w in ("--encoder", f"{m}=conv3d")]
    assert set(train("nvgesture", cache, tmp_path, *encoders)) == {"fused", "rgb", "flow", "depth"}


def test_nvgesture_takes_the_listed_span_and_pads_behind(gestures):
    root, _, prepared = gestures
    rgb = prepared.splits["test"].inputs["rgb"]
    assert rgb.shape == (25, 3, 16, 24, 24)
    # Frame k of the video is 2k bright away from the square; the span begins at 4.
    ground = rgb[0, 0, :, 22, 22].astype(int)
    assert ground == pytest.approx([2 * (4 + k) for k in range(16)], abs=4)
    longer = make("nvgesture", frames=40).decoders()["depth"]
    clip = longer(make("nvgesture").samples(root)[0].sources["depth"])
    assert clip[0, :20].any((1, 2)).all() and not clip[0, 20:].any()


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """A square of speckles that moves three pixels a picture, six pictures."""
    import av

    from mmbench.native.source import Source

    file = tmp_path_factory.mktemp("moving") / "m.avi"
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 80, (48, 48), np.uint8).repeat(2, 0).repeat(2, 1)  # still, but seen
    speckle = rng.integers(0, 255, (16, 16), np.uint8).repeat(2, 0).repeat(2, 1)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("ffv1", rate=30, width=96, height=96, pix_fmt="gray")
        for k in range(6):
            shown = ground.copy()
            shown[32:64, 20 + 3 * k : 52 + 3 * k] = speckle
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, "gray")))
        container.mux(stream.encode(None))
    return Source(str(file))


@pytest.mark.parametrize("algorithm", ["dis", "farneback", "tvl1"])
def test_motion_is_none_in_still_places_and_seen_where_a_square_moves(algorithm, moving):
    from mmbench.native.flow import motion

    flow = motion(moving, count=8, size=96, algorithm=algorithm)
    assert flow.dtype == np.uint8 and flow.shape == (2, 8, 96, 96)
    pixels = flow.astype(float) / 127.5 * 20 - 20
    assert np.median(pixels[0, 1, 40:56, 32:48]) == pytest.approx(3, abs=0.5)
    assert np.median(np.abs(pixels[:, 1, :10])) < 0.5  # still
    assert np.abs(pixels[:, 6:]).max() < 0.1  # beyond the end


def test_motion_computed_before_is_read_by_the_line_of_its_list(gestures, tmp_path):
    from mmbench.native.flow import stored
    from mmbench.native.source import Source

    files = [s.sources["flow"].file for s in make("nvgesture", flow="npy").samples(gestures[0])]
    assert [f.rpartition("flow_data/")[2] for f in (files[0], files[50])] == [
        "train/0.npy",
        "test/0.npy",
    ]
    flow = np.zeros((48, 96, 2, 3), np.float32)
    flow[..., 0, :] = [8.0, 16.0, 90.0]
    np.save(tmp_path / "0.npy", flow)
    x = stored(Source(str(tmp_path / "0.npy")), count=5, size=48)
    assert x.shape == (2, 5, 48, 48) and x.dtype == np.uint8
    pixels = x.astype(float) / 127.5 * 20 - 20
    # Half as wide: half the motion; cut at 20 pixels; the last is repeated.
    assert pixels[0, :, 24, 24] == pytest.approx([4, 8, 20, 20, 20], abs=0.1)
    assert np.abs(pixels[1]).max() < 0.1
    np.save(tmp_path / "1.npy", flow[..., 0])
    with pytest.raises(UnreadableError, match=r"shape \(48, 96, 2\), not motion"):
        stored(Source(str(tmp_path / "1.npy")), count=5, size=48)


def test_streams_are_moved_and_cut_alike(gestures):
    prepared = gestures[2]
    arrays, same = prepared.splits["train"], prepared.augmentations
    task = prepared.task
    loader = Loader(
        [arrays], torch.device("cpu"), torch.float32, 4, 0,
        augmentations=same, modalities=task.modalities,
    )  # fmt: skip
    (batch, *_) = loader.training(torch.arange(8), 0)
    assert {m: x.shape[1:] for m, x in batch.inputs.items()} == {
        "rgb": (3, 8, 24, 24), "flow": (2, 8, 24, 24), "depth": (1, 8, 24, 24),
    }  # fmt: skip
    # Colour and depth show the same scene here: normalised alike they must stay alike.
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    colour = batch.inputs["rgb"] * std.view(3, 1, 1, 1) + mean.view(3, 1, 1, 1)
    torch.testing.assert_close(colour.mean(1), batch.inputs["depth"][:, 0], atol=0.06, rtol=0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("path:./Video_data/class_01/subject1_r0 color:sk_color:1:9 label:1", "line 1: not 'path"),
        ("path:./V/subject1_r0 depth:d:1:9 color:c:1:9 label:26", "unknown label 26; labels are 1"),
        ("path:./V/someone depth:d:1:9 color:c:1:9 label:2", "does not end in subject<N>_r<N>"),
    ],
)
def test_nvgesture_names_a_bad_line(tmp_path, line, message):
    (tmp_path / "nvgesture_train_correct_v2.lst").write_text(line)
    with pytest.raises(UserError, match=message):
        make("nvgesture").samples(tmp_path)


def test_sarcasm_drops_giveaways_takes_the_last_label_and_trains(tweets, tmp_path):
    _, stay, cache, prepared = tweets
    for split, name in (("train", "train"), ("val", "valid2"), ("test", "test2")):
        arrays = prepared.splits[split]
        assert list(arrays.ids) == stay[name]
        assert arrays.label.tolist() == [k % 2 for k in range(30)]  # the human label of line 1 too
    checks = verify(make("sarcasm"), cache=cache)
    # The made-up tweets of the three splits are alike.
    assert {c.name.split()[0] for c in checks if not c.ok} == {"content"}
    assert set(train("sarcasm", cache, tmp_path, "--encoder", "image=conv")) == {
        "fused", "image", "text",
    }  # fmt: skip


def test_sarcasm_keeps_the_place_of_grey_and_cmyk_pictures(tweets):
    pictures = tweets[3].splits["test"].inputs["image"]
    assert pictures.dtype == np.uint8 and pictures.shape == (30, 3, 24, 24)
    for k in range(6):  # colour, grey, CMYK
        place = slice(8 * (k % 2), 8 * (k % 2) + 8)
        assert pictures[k, :, place, place].mean() > 200 > 30 > pictures[k, :, 16:, 16:].mean()


def test_a_truncated_picture_is_named(tmp_path):
    stay = layouts.sarcasm(tmp_path)
    file = tmp_path / "dataset_image" / f"{stay['test2'][3]}.jpg"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(
        UserError,
        match=rf"1 of 90 .*cannot be decoded:\n  {file.stem} \(test2.txt, line 4\): image: ",
    ):
        data_cache.prepare(make("sarcasm"), cache=tmp_path / "cache", root=tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("['1', 'a', 2]", "line 1: unknown label 2; labels are 0 and 1"),
        ("['1', 'a', 0, 1]", "a list of 3 is wanted"),
        ("__import__('os')", "line 1: not a Python list"),
    ],
)
def test_sarcasm_names_a_bad_line(tweets, tmp_path, line, message):
    (tmp_path / "text").mkdir()
    (tmp_path / "images").mkdir()
    for name in ("train", "valid2", "test2"):
        (tmp_path / "text" / f"{name}.txt").write_text(line)
    with pytest.raises(UserError, match=message):
        make("sarcasm").samples(tmp_path)


def tweets_with(root, **lists):
    """Write lists of the tweets (id, text, label), without pictures."""
    (root / "text").mkdir()
    (root / "images").mkdir()
    usual = [("1", "so fine", 0), ("2", "fine", 1)]
    for split, name in (("train", "train"), ("val", "valid2"), ("test", "test2")):
        listed = lists.get(split, [(f"{split}{key}", *rest) for key, *rest in usual])
        lines = [repr([key, text, *[label] * (1 if split == "train" else 2)])
                 for key, text, label in listed]  # fmt: skip
        (root / "text" / f"{name}.txt").write_text("\n".join(lines))
        for key, _, _ in listed:
            picture(root / "images" / f"{key}.jpg", 0)
    return root


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"val": []}, "the split val of sarcasm is empty"),
        ({"train": [("1", "a", 0)]}, "no training sample of sarcasm is 'sarcastic'"),
        (
            {"train": [("1", "a", 0), ("2", "b", 1), ("1", "c", 1)]},
            r"name '1' twice \(train.txt, line 1 and train.txt, line 3\)",
        ),
        (
            {"test": [("1", "", 0), ("9", "b", 1)]},
            r"1 of 6 .* have no files:\n  1 \(test2.txt, line 1\): there is no text",
        ),
    ],
)
def test_lists_that_cannot_be_used_are_refused_before_decoding(lists, message, tmp_path):
    root, cache = tweets_with(tmp_path, **lists), tmp_path / "cache"
    with pytest.raises(UserError, match=message):
        data_cache.prepare(make("sarcasm"), cache=cache, root=root)
    assert not list(cache.glob("**/*.npz"))
    assert not list(cache.glob("sarcasm/*/shards"))


def test_a_split_of_which_nothing_is_left_is_refused(tmp_path):
    root = tweets_with(tmp_path)
    for name in ("test1", "test2"):
        (root / "images" / f"{name}.jpg").write_bytes(b"no picture")
    skipping = make("sarcasm", unreadable="skip")
    with pytest.raises(UserError, match="no sample of the split test of sarcasm can be used"):
        data_cache.prepare(skipping, cache=tmp_path / "cache", root=root)
    assert not data_cache.is_prepared(skipping, tmp_path / "cache")


def test_more_than_ten_samples_are_counted_and_all_written_to_a_file(tmp_path):
    many = [(f"t{k}", "so fine", k % 2) for k in range(30)]
    root = tweets_with(tmp_path, train=many)
    for key, _, _ in many[2:]:
        (root / "images" / f"{key}.jpg").unlink()
    with pytest.raises(UserError, match=r"(?s)28 of 34 .*and 18 more; all of them: \S+") as caught:
        data_cache.prepare(make("sarcasm"), cache=tmp_path / "cache", root=root)
    file = re.search(r"all of them: (\S+)", str(caught.value))[1]
    lines = Path(file).read_text().splitlines()
    assert len(lines) == 28 and lines[-1].startswith("t29 (train.txt, line 30): there is no ")


def test_a_tokenizer_that_is_not_there_is_named(tweets, tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"no folder .*no-such-bert.*--allow-download"):
        data_cache.prepare(make("sarcasm", tokenizer="no-such-bert"), cache=tmp_path / "c",
                           root=tweets[0])  # fmt: skip


def test_a_black_picture_is_none_that_is_missing(tmp_path):
    import av

    from mmbench.native.flow import motion
    from mmbench.native.source import Source

    rng = np.random.default_rng(0)
    still = rng.integers(20, 255, (24, 24), np.uint8).repeat(4, 0).repeat(4, 1)
    file = tmp_path / "m.avi"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("ffv1", rate=30, width=96, height=96, pix_fmt="gray")
        for k in range(4):
            shown = np.roll(still, 2 * k, 1) if k else np.zeros_like(still)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, "gray")))
        container.mux(stream.encode(None))
    pixels = motion(Source(str(file)), count=4, size=96, algorithm="dis") / 127.5 * 20 - 20
    assert np.median(pixels[0, 2, 20:-20, 20:-20]) == pytest.approx(2, abs=0.5)
    assert (pixels[:, 3] == pixels[:, 2]).all(), "the last place repeats the one before"
