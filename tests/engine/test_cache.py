"""The cache of prepared data: whole or absent, checked when read, and errors that help."""

import dataclasses
import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmbench.data import cache as data_cache
from mmbench.data import integrity, manifest
from mmbench.data.verify import verify
from mmbench.dataset import Dataset, DatasetConfig, DatasetInfo, Modality, SplitArrays, Task
from mmbench.errors import UserError
from mmbench.settings import parse_value, setting
from mmbench.store import iter_records

COUNTS = {"train": 8, "val": 4, "test": 4}


class TinyConfig(DatasetConfig):
    scale: float = setting(1.0, "factor", source="test")
    mode: str = setting("plain", "a word", source="test")
    noise: dict[str, float] = setting({}, "a table", source="test")


class Tiny(Dataset):
    """Sixteen samples of one vector; ``before`` runs inside build, ``change`` edits its result."""

    name = "tiny"
    Config = TinyConfig
    info = DatasetInfo(title="t", licence="t", source="t", real="t")
    embedded = True
    builds = 0

    def __init__(self, config=None, *, before=None, change=None):
        super().__init__(config)
        self.before, self.change = before, change

    @property
    def task(self):
        return Task((Modality("kar", "vector", (3,)),), ("a", "b"))

    def augmentations(self):
        return {"kar": "noise"}

    def build(self, root, scratch):
        self.builds += 1
        (scratch / "notes.json").write_text('{"source": "made up"}')
        if self.before:
            self.before()
        splits, start = {}, 0
        for split, n in COUNTS.items():
            x = np.arange(start, start + n)[:, None] * np.ones(3) * self.config.scale
            names = tuple(f"id-{i}" for i in range(start, start + n))
            label = np.arange(n) % 2
            splits[split] = SplitArrays({"kar": x.astype(np.float32)}, label, names, names)
            start += n
        if self.change:
            self.change(splits)
        return splits


class FromFiles(Tiny):
    name = "files"
    embedded = False


def replaced(split, **fields):
    """Return a change that replaces fields of one split."""

    def change(splits):
        splits[split] = dataclasses.replace(splits[split], **fields)

    return change


@pytest.fixture
def tiny(tmp_path):
    """A prepared dataset and its folder."""
    dataset = Tiny()
    return dataset, data_cache.prepare(dataset, cache=tmp_path)


def leftovers(cache, name="tiny"):
    return sorted(p.name for p in (cache / name).iterdir())


def failed(dataset, cache):
    return {c.name for c in verify(dataset, cache=cache) if not c.ok}


def test_what_was_built_comes_back_memory_mapped(tiny, tmp_path):
    dataset, folder = tiny
    prepared = data_cache.load(dataset, cache=tmp_path)
    train = prepared.splits["train"]
    assert isinstance(train.inputs["kar"], np.memmap) and not train.inputs["kar"].flags.writeable
    assert np.array_equal(train.inputs["kar"][:, 0], np.arange(8))
    assert train.label.tolist() == [0, 1] * 4
    assert train.ids == train.groups == tuple(f"id-{i}" for i in range(8))
    assert prepared.task == dataset.task and prepared.augmentations == {"kar": "noise"}
    assert leftovers(tmp_path) == [folder.name]


def test_the_manifest_says_what_is_there(tiny):
    dataset, folder = tiny
    facts = json.loads((folder / "manifest.json").read_text())
    assert facts["schema"] == manifest.SCHEMA and facts["counts"] == COUNTS
    assert facts["config"] == dataset.config.model_dump(mode="json")
    assert facts["task"]["modalities"][0]["name"] == "kar"
    assert facts["libraries"]["numpy"] == np.__version__
    assert facts["notes"] == {"source": "made up"}
    assert set(facts["files"]) == {p.name for p in folder.iterdir()} - {"manifest.json"}
    for name, file in facts["files"].items():
        assert file["bytes"] == (folder / name).stat().st_size


def test_preparing_again_builds_only_when_asked(tiny, tmp_path):
    dataset, folder = tiny
    assert data_cache.prepare(dataset, cache=tmp_path) == folder and dataset.builds == 1
    data_cache.ensure(dataset, cache=tmp_path)
    assert dataset.builds == 1
    data_cache.prepare(dataset, cache=tmp_path, rebuild=True)
    assert dataset.builds == 2 and leftovers(tmp_path) == [folder.name]


def test_every_setting_and_version_has_its_own_folder(tmp_path, monkeypatch):
    folders = {
        data_cache.cache_folder(Tiny(TinyConfig(**options)), tmp_path)
        for options in ({}, {"scale": 2.0}, {"mode": "x"}, {"noise": {"kar": 1.0}})
    }
    monkeypatch.setattr(Tiny, "version", 2)
    folders.add(data_cache.cache_folder(Tiny(), tmp_path))
    assert len(folders) == 5


def test_the_split_hash_follows_ids_and_labels_but_not_features(tmp_path):
    def hashes(dataset, place):
        prepared = data_cache.ensure(dataset, cache=tmp_path / place)
        return prepared.split_hash, prepared.data_hash

    plain = hashes(Tiny(), "a")
    scaled = hashes(Tiny(TinyConfig(scale=2.0)), "b")
    relabelled = hashes(Tiny(change=replaced("val", label=np.array([1, 0, 1, 0]))), "c")
    renamed = hashes(Tiny(change=replaced("val", ids=("w", "x", "y", "z"))), "d")
    regrouped = hashes(Tiny(change=replaced("val", groups=("g",) * 4)), "e")
    assert plain[0] == scaled[0] == regrouped[0]
    assert len({plain[0], relabelled[0], renamed[0]}) == 3
    assert len({h[1] for h in (plain, scaled, relabelled, renamed, regrouped)}) == 5


@pytest.mark.parametrize("file", ["train.kar.npy", "val.label.npy", "test.json"])
def test_a_truncated_file_is_named_with_the_remedy(file, tiny, tmp_path):
    dataset, folder = tiny
    os.truncate(folder / file, 7)
    with pytest.raises(UserError, match=rf"{file} .*7 bytes.*mmbench prepare tiny --rebuild"):
        data_cache.load(dataset, cache=tmp_path)
    assert failed(dataset, tmp_path) == {"hashes"}
    data_cache.prepare(dataset, cache=tmp_path, rebuild=True)
    assert failed(dataset, tmp_path) == set()


def test_a_missing_file_is_named_with_the_remedy(tiny, tmp_path):
    dataset, folder = tiny
    (folder / "test.kar.npy").unlink()
    with pytest.raises(UserError, match=r"test.kar.npy .*missing.*mmbench prepare tiny --rebuild"):
        data_cache.load(dataset, cache=tmp_path)


def change_last_byte(file):
    with file.open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        handle.write(b"\x7f")


@pytest.mark.parametrize("opened_before", [False, True])
def test_a_byte_changed_in_place_is_named_with_the_remedy(opened_before, tiny, tmp_path):
    dataset, folder = tiny
    if opened_before:
        data_cache.load(dataset, cache=tmp_path)
    change_last_byte(folder / "train.kar.npy")
    with pytest.raises(UserError, match=r"train.kar.npy is damaged .its bytes.*--rebuild"):
        data_cache.load(dataset, cache=tmp_path)
    (check,) = (c for c in verify(dataset, cache=tmp_path) if not c.ok)
    assert check.name == "hashes" and "train.kar.npy" in check.detail


def test_a_file_that_nothing_touched_is_hashed_once(tiny, tmp_path, monkeypatch):
    dataset, folder = tiny
    hashed = []
    honest = manifest.sha256
    monkeypatch.setattr(integrity, "sha256", lambda file: hashed.append(file.name) or honest(file))
    data_cache.load(dataset, cache=tmp_path)
    assert sorted(hashed) == sorted(manifest.read(folder, first="", again="")["files"])
    hashed.clear()
    os.utime(folder / "val.kar.npy", ns=(0, 0))
    data_cache.load(dataset, cache=tmp_path)
    assert hashed == ["val.kar.npy"]


def test_verify_finds_a_change_that_kept_the_time(tiny, tmp_path):
    dataset, folder = tiny
    data_cache.load(dataset, cache=tmp_path)
    file = folder / "train.kar.npy"
    before = file.stat()
    change_last_byte(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert failed(dataset, tmp_path) == {"hashes"}


@pytest.mark.parametrize("text", ["", "[1]", '{"train.kar.npy": 7}'])
def test_a_damaged_memory_of_hashes_is_only_forgotten(text, tiny, tmp_path):
    dataset, folder = tiny
    (folder / integrity.VERIFIED).write_text(text)
    assert len(data_cache.load(dataset, cache=tmp_path).splits["train"]) == 8


def test_a_newer_manifest_is_refused(tiny, tmp_path):
    dataset, folder = tiny
    facts = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**facts, "schema": manifest.SCHEMA + 1}))
    for read in (data_cache.load, verify, data_cache.ensure):
        with pytest.raises(UserError, match=r"newer mmbench .schema 2.*update mmbench"):
            read(dataset, cache=tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "x"}', '{"schema": 1}', "\udc80"])
def test_a_damaged_manifest_is_refused(text, tiny, tmp_path):
    dataset, folder = tiny
    (folder / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"manifest.json.*mmbench prepare tiny --rebuild"):
        data_cache.load(dataset, cache=tmp_path)


def test_an_edited_manifest_does_not_pass_verify(tiny, tmp_path):
    dataset, folder = tiny
    facts = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**facts, "split_hash": "0" * 16}))
    assert failed(dataset, tmp_path) == {"identity"}


def test_a_set_that_needs_files_tells_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"type: mmbench prepare files --root DIR$"):
        data_cache.ensure(FromFiles(), cache=tmp_path)
    with pytest.raises(UserError, match=r"type: mmbench prepare files --root DIR$"):
        verify(FromFiles(), cache=tmp_path)


def test_the_command_names_the_very_config_and_cache(tmp_path):
    config = TinyConfig(scale=0.5, mode="two words", noise={"kar": 1.5})
    words = shlex.split(data_cache.command(Tiny(config), tmp_path / "my cache", "--rebuild"))
    assert words[:4] == ["mmbench", "prepare", "tiny", "--rebuild"]
    assert words[-2:] == ["--cache", str(tmp_path / "my cache")]
    pairs = [w.partition("=") for w in words[5:-2:2]]
    assert TinyConfig(**{key: parse_value(value) for key, _, value in pairs}) == config


def test_a_cache_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write the cache of tiny .*--cache DIR"):
        data_cache.prepare(Tiny(), cache=tmp_path / "file")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_write_that_fails_leaves_nothing(code, tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(manifest.os, "fsync", fail)
    with pytest.raises(UserError, match=rf"{os.strerror(code)}.*make room"):
        data_cache.prepare(Tiny(), cache=tmp_path)
    assert leftovers(tmp_path) == []
    assert not data_cache.is_prepared(Tiny(), tmp_path)


def test_a_failed_rebuild_keeps_the_old_copy(tiny, tmp_path):
    _, folder = tiny

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data_cache.prepare(Tiny(before=interrupt), cache=tmp_path, rebuild=True)
    assert leftovers(tmp_path) == [folder.name]
    assert failed(Tiny(), tmp_path) == set()


def test_unreadable_source_files_are_not_blamed_on_the_cache(tmp_path):
    def missing():
        raise FileNotFoundError(errno.ENOENT, "No such file", "clip.wav")

    root = tmp_path / "native"
    root.mkdir()
    with pytest.raises(UserError, match=r"cannot read the files of files.*clip.wav") as caught:
        data_cache.prepare(FromFiles(before=missing), cache=tmp_path / "cache", root=root)
    assert f"below {root}" in str(caught.value)


def test_the_slower_of_two_drops_its_copy(tmp_path):
    faster = Tiny()
    slower = Tiny(before=lambda: data_cache.prepare(faster, cache=tmp_path))
    folder = data_cache.prepare(slower, cache=tmp_path)
    inode = (folder / "manifest.json").stat().st_ino
    assert (faster.builds, slower.builds) == (1, 1)
    assert leftovers(tmp_path) == [folder.name]
    assert failed(slower, tmp_path) == set()
    again = Tiny(before=lambda: data_cache.prepare(Tiny(), cache=tmp_path))
    data_cache.prepare(again, cache=tmp_path)
    assert (folder / "manifest.json").stat().st_ino == inode  # what was there stayed


def test_two_rebuilds_at_once_leave_one_whole_copy(tiny, tmp_path):
    _, folder = tiny
    other = Tiny()
    both = Tiny(before=lambda: data_cache.prepare(other, cache=tmp_path, rebuild=True))
    data_cache.prepare(both, cache=tmp_path, rebuild=True)
    assert leftovers(tmp_path) == [folder.name]
    assert failed(both, tmp_path) == set()


def test_a_folder_without_a_manifest_is_replaced(tmp_path):
    folder = data_cache.cache_folder(Tiny(), tmp_path)
    folder.mkdir(parents=True)
    (folder / "train.kar.npy").write_text("half")
    assert not data_cache.is_prepared(Tiny(), tmp_path)
    data_cache.ensure(Tiny(), cache=tmp_path)
    assert failed(Tiny(), tmp_path) == set() and leftovers(tmp_path) == [folder.name]


def test_processes_that_prepare_at_once_all_succeed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from mmbench.data import cache as c; from mmbench.registry import DATASETS\n"
        "cls = DATASETS.load('mfeat3'); here = Path(sys.argv[1])\n"
        "(here / f'ready-{sys.argv[2]}').touch()\n"
        "while len(list(here.glob('ready-*'))) < 2: time.sleep(0.001)\n"
        "for rebuild in (False, True, True, True):\n"
        "    c.prepare(cls(), cache=here / 'cache', rebuild=rebuild)\n"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    running = [
        subprocess.Popen([*command, str(i)], stderr=subprocess.PIPE, text=True) for i in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    assert len(leftovers(tmp_path / "cache", "mfeat3")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("val"), "splits"),
        (replaced("val", inputs={}), "val: modalities"),
        (replaced("val", inputs={"kar": np.zeros((4, 2))}), r"val.kar: shape \(4, 2\), not"),
        (replaced("val", label=np.array([0, 1, 2, 0])), r"val: labels outside 0\.\.1"),
        (replaced("val", ids=("a", "b")), "val: ids, groups and labels differ in number"),
        (replaced("val", ids=("id-0", "b", "c", "d")), "ids are not unique .*: 1, as 'id-0'"),
        (replaced("val", ids=("a", "a", "c", "d")), "ids are not unique over all splits"),
        (replaced("val", label=np.array([0.0, 1.0, 0.0, 1.0])), "val: labels are float64"),
        (replaced("val", label=np.array(["a", "b", "a", "b"])), "val: labels are <U1"),
        (replaced("val", inputs={"kar": np.zeros((0, 3))}, label=np.zeros(0, np.int64), ids=(),
                  groups=()), "val: no samples"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_the_task_are_refused(change, message, tmp_path):
    with pytest.raises(UserError, match=f"tiny.build does not keep to its task: .*{message}"):
        data_cache.prepare(Tiny(change=change), cache=tmp_path)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ids": ("id-0", "b", "c", "d")}, {"ids train/val"}),
        ({"ids": ("a", "a", "c", "d")}, {"unique ids val"}),
        ({"label": np.zeros(4, np.int64)}, {"classes val"}),
        ({"inputs": {"kar": np.full((4, 3), np.nan, np.float32)}}, {"finite val"}),
        ({"inputs": {"kar": np.full((4, 3), np.inf, np.float32)}}, {"finite val"}),
    ],
)
def test_verify_finds_leaks_gaps_and_numbers_that_are_none(fields, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(data_cache, "_check", lambda *_: None)  # as if it came from elsewhere
    dataset = Tiny(change=replaced("val", **fields))
    data_cache.prepare(dataset, cache=tmp_path)
    assert failed(dataset, tmp_path) == expected


def test_a_build_that_raises_or_returns_nothing_is_named_with_its_line(tmp_path):
    with pytest.raises(
        UserError, match=r"tiny.build failed: KeyError: 'x' \(.*test_cache.py, line"
    ):
        data_cache.prepare(Tiny(change=lambda s: s["x"]), cache=tmp_path)

    class Nothing(Tiny):
        def build(self, root, scratch):
            pass

    with pytest.raises(UserError, match=r"tiny\.build returned NoneType, not its splits"):
        data_cache.prepare(Nothing(), cache=tmp_path)
    assert leftovers(tmp_path) == []


def test_classes_are_named():
    with pytest.raises(UserError, match="classes are their names, a tuple of text; found 10"):
        Task((Modality("kar", "vector", (3,)),), classes=10)


def test_groups_in_two_splits_are_reported_not_failed(tmp_path):
    dataset = Tiny(change=replaced("val", groups=("id-0", "id-1", "x", "y")))
    data_cache.prepare(dataset, cache=tmp_path)
    checks = {c.name: c for c in verify(dataset, cache=tmp_path)}
    assert checks["groups train/val"].ok
    assert checks["groups train/val"].detail.startswith("2 shared, of ")
    assert checks["groups train/test"].detail == "0 shared"
    assert checks["source"].detail == "made up"


class Clips(Tiny):
    """Two modalities: pictures, and a number that repeats."""

    name = "clips"

    @property
    def task(self):
        return Task((Modality("photo", "image", (1, 2, 2)), Modality("age", "vector", (1,))),
                    ("a", "b"))  # fmt: skip

    def build(self, root, scratch):
        splits, start = {}, 0
        for split, n in COUNTS.items():
            photo = np.arange(start, start + 4 * n, dtype=np.float32).reshape(n, 1, 2, 2)
            inputs = {"photo": photo, "age": np.ones((n, 1), np.float32)}
            names = tuple(f"{split}-{i}" for i in range(n))
            splits[split] = SplitArrays(inputs, np.arange(n) % 2, names, names)
            start += 4 * n
        if self.change:
            self.change(splits)
        return splits


def content(change, cache, **options):
    dataset = Clips(change=change)
    for key, value in options.items():
        setattr(dataset, key, value)
    data_cache.prepare(dataset, cache=cache)
    return {c.name: c for c in verify(dataset, cache=cache)}["content train/test"]


def copied(splits):
    splits["test"].inputs["photo"][1:3] = splits["train"].inputs["photo"][[5, 2]]


def test_the_same_picture_in_two_splits_is_a_leak_though_its_row_is_another(tmp_path):
    def change(splits):
        copied(splits)
        splits["test"].inputs["age"][:] = np.arange(4, dtype=np.float32)[:, None] + 2

    found = content(change, tmp_path)
    assert not found.ok and "leave them out of one" in found.note
    assert found.detail == (
        "photo of 2 of 4 samples of test is in train too, as 'test-1', there 'train-5'"
    )


def test_the_same_row_in_two_splits_is_a_leak_unless_the_source_is_known_to_have_it_twice(tmp_path):
    found = content(copied, tmp_path)
    assert not found.ok
    assert found.detail == (
        "2 of 4 samples of test are in train too, as 'test-1', there 'train-5'; "
        "age of 4 of 4 samples of test is in train too, as 'test-0', there 'train-0'"
    )
    assert content(copied, tmp_path, repeats=2).ok
    assert not content(copied, tmp_path, repeats=1).ok


def test_numbers_that_repeat_by_chance_and_black_pictures_are_told_or_passed_over(tmp_path):
    def black(splits):
        splits["train"].inputs["photo"][0] = splits["test"].inputs["photo"][0] = 0
        splits["test"].inputs["age"][0] = 2

    found = content(black, tmp_path)
    assert found.ok and found.detail.startswith("age of 3 of 4") and "photo" not in found.detail


def test_data_with_other_bits_than_that_of_the_records_is_told_and_not_failed(tiny, tmp_path):
    dataset, folder = tiny
    held = json.loads((folder / "manifest.json").read_text())
    template = next(iter_records(Path(__file__).parents[2] / "results" / "records"))
    here = {
        "dataset": "tiny", "dataset_version": 1, "dataset_config": held["config"],
        "split_hash": held["split_hash"],
    }  # fmt: skip
    records = tmp_path / "records"
    records.mkdir()
    assert "records" not in {c.name for c in verify(dataset, cache=tmp_path, records=records)}
    for name, data_hash, other in (
        ("same", held["data_hash"], {}),
        ("bits", "0" * 16, {}),
        ("options", "1" * 16, {"dataset_config": {}}),
    ):
        cell = template.cell.model_copy(update={**here, **other})
        data = template.data.model_copy(update={"data_hash": data_hash})
        record = template.model_copy(update={"cell": cell, "data": data})
        (records / f"tiny.{name}.json").write_text(record.model_dump_json(exclude_none=True))
    found = {c.name: c for c in verify(dataset, cache=tmp_path, records=records)}["records"]
    assert found.ok and "need not repeat such a record" in found.note
    assert found.detail == (
        f"data hash {held['data_hash']}: that of 1 of 2 records in {records}; 1 of {'0' * 16}"
    )
    (records / "tiny.bits.json").unlink()
    found = {c.name: c for c in verify(dataset, cache=tmp_path, records=records)}["records"]
    assert found.note == "" and found.detail.endswith(f"that of 1 of 1 records in {records}")
