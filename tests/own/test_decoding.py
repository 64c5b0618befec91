"""Shards: what is kept of a stopped decoding, and what is done about shards that were harmed."""

import shutil
from functools import partial

import pytest

from mmbench.data.decoding import decode_all
from mmbench.own import dataset as own
from mmbench.own.decoders import decode
from mmbench.own.table import Row

CONFIG = own.OwnConfig(words=3)
DECODE = partial(own._decode, {"told": "text"}, CONFIG, {"told": (3,)})


def row(word):
    return Row("t.csv, line 1", word, "cat", "", "", {"told": word})


def decoded(words, folder):
    """Return the array of every word, by decoding them all."""
    found = decode_all([row(w) for w in words], words, DECODE, folder)
    arrays = {}
    for index, held in found:
        arrays |= dict(zip(index.tolist(), held["told"].tolist(), strict=True))
    return [arrays[i] for i in range(len(words))]


def expected(words):
    return [decode("text", w, CONFIG).tolist() for w in words]


def stamps(folder):
    return {f.name: f.stat().st_mtime_ns for f in folder.glob("*.npz")}


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """Words of four shards, and the folder where they were decoded."""
    folder, words = tmp_path_factory.mktemp("shards"), [f"word{i}" for i in range(200)]
    assert decoded(words, folder) == expected(words)
    assert len(stamps(folder)) == 4
    return words, folder


@pytest.fixture
def folder(before, tmp_path):
    return shutil.copytree(before[1], tmp_path / "shards")


def test_a_list_that_lost_a_line_keeps_every_sample_with_its_own_arrays(before, folder):
    words, was = before[0][1:], stamps(folder)
    assert decoded(words, folder) == expected(words)
    now = stamps(folder)
    assert sum(now[name] != was.get(name) for name in now) == 1  # the shard that held the line


def test_harmed_shards_are_decoded_again_and_the_others_kept(before, folder):
    words, was = before[0], stamps(folder)
    flipped, cut, gone, kept = (folder / name for name in sorted(was))
    whole = flipped.read_bytes()
    middle = len(whole) // 2
    flipped.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    cut.write_bytes(cut.read_bytes()[:middle])
    gone.unlink()
    assert decoded(words, folder) == expected(words)
    now = stamps(folder)
    assert [name for name in now if now[name] == was[name]] == [kept.name]
