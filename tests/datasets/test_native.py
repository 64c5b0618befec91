"""The other sets in their native layouts: listed, prepared, and their mistakes named."""

import numpy as np
import pytest
from mmbench.datasets import layouts

from mmbench.data import cache as data_cache
from mmbench.data.verify import verify
from mmbench.dataset import SPLITS
from mmbench.errors import UserError
from mmbench.registry import DATASETS

SMALL = {"ksounds": {"size": 24}, "iemocap": {"size": 24, "split": "session"}}


def make(name, **options):
    cls = DATASETS.load(name)
    return cls(cls.Config(**{**SMALL[name], **options}))


def prepare(dataset, root, cache):
    """Return splits and checks, but for those of content: made-up clips of a class are alike."""
    data_cache.prepare(dataset, cache=cache, root=root)
    checks = [c for c in verify(dataset, cache=cache) if not c.name.startswith("content ")]
    return data_cache.load(dataset, cache=cache).splits, checks


def groups(splits):
    return {s: set(a.groups) for s, a in splits.items()}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    root = tmp_path_factory.mktemp("ks")
    layouts.ksounds(root)
    return root


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    root = tmp_path_factory.mktemp("iemo")
    return root, layouts.iemocap(root)


def test_ksounds_finds_clips_by_both_ways_of_naming_them(sounds, tmp_path):
    splits, checks = prepare(make("ksounds"), sounds, tmp_path)
    assert sum(map(len, splits.values())) == 93 and len(splits["test"]) == 31
    assert splits["test"].ids[1] == "-v01x000000_2"
    assert not groups(splits)["train"] & groups(splits)["val"]
    audio, video = (splits["test"].inputs[m] for m in ("audio", "video"))
    assert audio.shape == (31, 1, 1024, 128) and video.shape == (31, 3, 3, 24, 24)
    assert (np.asarray(audio[:, 0, 410:]) == 0).all()  # four seconds: the rest is padding
    assert {c.name for c in checks if not c.ok} <= {"classes val"}  # six clips for 31 classes


def test_ksounds_reads_sound_and_pictures_that_were_extracted_before(sounds, tmp_path):
    from mmbench.testing.files import picture, tone

    clip = next(s for s in make("ksounds").samples(sounds) if s.split == "test")
    for suffix in ("wav", "img"):
        (tmp_path / f"test_{suffix}").mkdir()
    folder = tmp_path / "test_img" / "Image-01-FPS" / clip.id
    folder.mkdir(parents=True)
    picture(folder / "00000.jpg", 1)
    tone(tmp_path / "test_wav" / f"{clip.id}.wav", 1)
    for name in ("my_train.txt", "my_test.txt"):
        (tmp_path / name).write_bytes((sounds / name).read_bytes())
    found = next(s for s in make("ksounds").samples(tmp_path) if s.id == clip.id)
    assert found.sources["video"].file == str(folder)
    assert found.sources["audio"].file.endswith(".wav")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("abcdefghijk_000001_000011,10,31", "line 1: unknown label 31; labels are 0 to 30"),
        ("abcdefghijk_000001_000011 3", "is not name,seconds,label"),
        ("short,10,3", "neither <id>_<start>_<end> nor"),
    ],
)
def test_ksounds_names_a_bad_line(tmp_path, line, message):
    (tmp_path / "my_train.txt").write_text(line)
    with pytest.raises(UserError, match=message):
        make("ksounds").samples(tmp_path)


def test_ksounds_leaves_out_what_is_gone_and_silent(tmp_path):
    from mmbench.testing.files import film

    layouts.ksounds(tmp_path)
    clips = sorted((tmp_path / "train").glob("*.mp4"))
    clips[0].unlink()
    film(clips[-1], 1, 100, 48, 36, sound=False)  # of another class
    skipping = make("ksounds", missing="skip", unreadable="skip")
    splits, checks = prepare(skipping, tmp_path, tmp_path / "cache")
    assert sum(map(len, splits.values())) == 91
    details = {c.name: c.detail for c in checks}
    assert clips[0].stem in details["left out"] and "no audio stream" in details["left out"]
    assert details["complete"].startswith("91 of 93 listed samples, 2 left out")


def test_iemocap_by_session_shares_no_speaker(talks, tmp_path):
    root, kept = talks
    splits, checks = prepare(make("iemocap"), root, tmp_path)
    assert {s: len(a) for s, a in splits.items()} == {"train": 30, "val": 10, "test": 10}
    assert sorted(i for a in splits.values() for i in a.ids) == sorted(kept)
    found = groups(splits)
    assert found["test"] == {"05F", "05M"} and not found["train"] & found["val"]
    assert all(c.ok for c in checks), checks
    audio = np.asarray(splits["train"].inputs["audio"], np.float64)
    assert audio.mean() == pytest.approx(0, abs=0.01) and audio.std() == pytest.approx(1, abs=0.01)
    assert splits["train"].inputs["video"].shape == (30, 3, 1, 24, 24)


def test_iemocap_cuts_pictures_at_the_time_of_the_utterance(talks):
    from mmbench.native.pictures import frames

    first, *_, last = sorted(make("iemocap").samples(talks[0]), key=lambda s: s.id)[:10]
    grey = [frames(s.sources["video"], count=1, size=24)[0, 0, 20, 20] for s in (first, last)]
    # Picture k is 2k bright, at 30 a second: 0.25 s is picture 8, and 5.25 s beyond the cut at 160.
    assert grey == pytest.approx([16, 160], abs=8)


def test_iemocap_reads_the_published_lists(talks, tmp_path):
    root, kept = talks
    samples = {s.id: s for s in make("iemocap").samples(root)}
    classes = make("iemocap").task.classes

    def line(name):
        return f"{name}.mp4 [split|sign] some words [split|sign] {classes[samples[name].label]}\n"

    link = tmp_path / "root"
    link.mkdir()
    for session in root.iterdir():
        (link / session.name).symlink_to(session)
    (link / "my_train_iemo.txt").write_text("".join(map(line, kept[:30])))
    (link / "my_test_iemo.txt").write_text("".join(map(line, kept[30:40])))
    found = make("iemocap", split="mla", val="rest").samples(link)
    assert {s: sum(x.split == s for x in found) for s in SPLITS} == {
        "train": 30, "val": 10, "test": 10,
    }  # fmt: skip
    found = make("iemocap", split="mla").samples(link)
    speakers = {s: {x.group for x in found if x.split == s} for s in SPLITS}
    assert len(speakers["val"]) == 1 and not speakers["train"] & speakers["val"]
    assert sum(x.split != "test" for x in found) == 30  # out of the train list, and no other
    (link / "my_test_iemo.txt").write_text(line(kept[0]))
    with pytest.raises(UserError, match=r"twice \(my_train_iemo.txt, line 1 and my_test"):
        prepare(make("iemocap", split="mla"), link, tmp_path / "cache")
    (link / "my_test_iemo.txt").write_text("Ses09F_x_F000.mp4 [split|sign] a [split|sign] Sad\n")
    with pytest.raises(UserError, match="line 1: Ses09F_x_F000 is not an utterance"):
        make("iemocap", split="mla").samples(link)


def test_iemocap_without_lists_or_sessions_says_what_to_do(talks, tmp_path):
    with pytest.raises(UserError, match=r"no list my_train_iemo.txt in .*split=session"):
        make("iemocap", split="mla").samples(talks[0])
    with pytest.raises(UserError, match=r"no Session1 in .*\(found nothing\)"):
        make("iemocap").samples(tmp_path)
