"""A prepare that is killed at any moment leaves nothing that passes for whole, and is continued."""

import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from mmbench.testing.files import animals, write_table

# Ends itself, as kill -9 would, at the n-th call of a function that changes what is on the disk.
DYING = """
import os, signal, sys
from pathlib import Path
owner, name = {"replace": (Path, "replace"), "fsync": (os, "fsync")}[sys.argv[1]]
real, left = getattr(owner, name), [int(sys.argv[2])]
def dying(*arguments):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
setattr(owner, name, dying)
from mmbench.cli import main
sys.argv = ["mmbench", *sys.argv[3:]]
main()
"""


def run(*command):
    return subprocess.run(
        [sys.executable, "-P", *map(str, command)], capture_output=True, text=True, check=False
    )


def mmbench(*arguments):
    return run("-m", "mmbench", *arguments)


def hashes(cache):
    (file,) = (cache / "my").glob("*/manifest.json")
    return json.loads(file.read_text())["files"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    rows = animals(folder, samples=90, columns=("told", "numbers"))
    table = write_table(folder / "my.csv", rows)
    assert mmbench("prepare", table, "--cache", folder / "whole").returncode == 0
    return table, hashes(folder / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "count"),
    [("replace", 1), ("replace", 3), ("replace", 8), ("replace", 9), ("fsync", 2), ("fsync", 13)],
)  # while hashing; while arrays are moved; before and after the cache is in place; in the manifest
def test_killed_at_any_moment_it_is_continued_and_ends_the_same(what, count, table, tmp_path):
    file, whole = table
    cache = tmp_path / "cache"
    died = run("-c", DYING, what, count, "prepare", file, "--cache", cache)
    assert died.returncode == -signal.SIGKILL, died.stderr
    done = list(cache.glob("my/*/manifest.json"))
    assert all(json.loads(f.read_text())["files"] == whole for f in done)
    again = mmbench("prepare", file, "--cache", cache)
    assert again.returncode == 0, again.stderr
    assert hashes(cache) == whole
    (folder,) = (f for f in (cache / "my").iterdir() if f.is_dir())  # and nothing hidden beside it
    assert not folder.name.startswith(".")
    assert mmbench("verify", "my", "--cache", cache).returncode == 0


def test_arrays_written_anew_in_the_same_size_make_a_new_cache(tmp_path):
    rows = animals(tmp_path, samples=40, columns=("told", "numbers"))
    table = write_table(tmp_path / "my.csv", rows)
    assert mmbench("prepare", table, "--cache", tmp_path / "c").returncode == 0
    again = mmbench("prepare", table, "--cache", tmp_path / "c")
    assert "was prepared before" in again.stdout
    before = (tmp_path / "n0.npy").stat().st_size
    np.save(tmp_path / "n0.npy", np.full(5, 7.0))
    assert (tmp_path / "n0.npy").stat().st_size == before
    again = mmbench("prepare", table, "--cache", tmp_path / "c")
    assert again.returncode == 0 and "was prepared before" not in again.stdout
    assert len(list((tmp_path / "c" / "my").glob("*/manifest.json"))) == 2


def test_a_table_that_moved_with_its_files_is_the_same(tmp_path):
    rows = animals(tmp_path / "here", samples=40, columns=("told", "numbers"))
    write_table(tmp_path / "here" / "my.csv", rows)
    assert mmbench("prepare", tmp_path / "here/my.csv", "--cache", tmp_path / "c").returncode == 0
    (tmp_path / "here").rename(tmp_path / "there")
    moved = mmbench("prepare", tmp_path / "there/my.csv", "--cache", tmp_path / "c")
    assert moved.returncode == 0, moved.stderr
    assert "was prepared before" in moved.stdout


def test_verify_holds_the_rows_against_what_is_there(tmp_path):
    rows = animals(tmp_path, samples=40, columns=("told", "numbers"))
    (tmp_path / "n3.npy").write_bytes(b"no array")
    table = write_table(tmp_path / "my.csv", rows)
    flags = ["--cache", tmp_path / "c", "--set", "unreadable=skip"]
    assert mmbench("prepare", table, *flags).returncode == 0
    checks = json.loads(mmbench("verify", "my", "--cache", tmp_path / "c", "--json").stdout)
    details = {c["name"]: (c["ok"], c["detail"]) for c in checks}
    assert details["complete"] == (True, "39 of 40 listed samples, 1 left out")
    assert re.search(r"my.csv, line 5, column numbers: .*n3.npy", details["left out"][1])
    (file,) = (tmp_path / "c" / "my").glob("*/manifest.json")
    held = json.loads(file.read_text())
    held["notes"]["left_out"] = []
    file.write_text(json.dumps(held))
    assert mmbench("verify", "my", "--cache", tmp_path / "c").returncode == 1
