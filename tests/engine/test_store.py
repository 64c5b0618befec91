"""The state of a run directory, from files alone, whatever is in them."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmbench.data import cache as data_cache
from mmbench.errors import ClosedRecord
from mmbench.registry import DATASETS
from mmbench.settings import RunSettings
from mmbench.store import RunDirectory, Store, read_record, write_new
from mmbench.sweep import Request, expand
from mmbench.training.run_cell import run_cell

SETTINGS = {"trainer.epochs": 1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    data_cache.prepare(DATASETS.load("mfeat3")(), cache=folder)
    return folder


@pytest.fixture
def cells(cache):
    request = Request(methods=["concat", "sum"], datasets=["mfeat3"], seeds=[0], settings=SETTINGS)
    return expand(request, cache)


def mmbench(*arguments):
    return subprocess.run(
        [sys.executable, "-P", "-m", "mmbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_record_made_outside_of_a_git_checkout_can_be_read(cells, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("mmbench.training.environment.commit", lambda: (None, None))
    run = RunSettings(device="cpu", threads=1)
    record = run_cell(cells[0], results=tmp_path, cache=cache, run=run)
    assert record.environment.commit is None
    assert Store(tmp_path).state(cells[0]) == "done"
    assert read_record(Store(tmp_path).directory(cells[0]).record_file) == record


def test_a_run_is_running_while_its_lock_is_held(cells, tmp_path):
    store = Store(tmp_path)
    directory = store.create(cells[0])
    assert directory.state() == "waiting"
    with (directory.path / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        (directory.path / "failed-001.json").touch()  # an earlier attempt
        assert store.state(cells[0]) == "running"
    assert store.state(cells[0]) == "failed"
    (directory.path / "failed-001.json").unlink()
    (directory.path / "checkpoint-000000001").touch()
    assert store.state(cells[0]) == "interrupted"


def test_asking_for_the_state_does_not_stop_a_run_from_starting(cells, cache, tmp_path):
    directory = Store(tmp_path).create(cells[0])
    asker = subprocess.Popen(
        [sys.executable, "-P", "-c", ASKER, str(directory.path)], stdout=subprocess.PIPE
    )
    asker.stdout.readline()
    try:
        record = run_cell(cells[0], results=tmp_path, cache=cache, run=RunSettings(device="cpu"))
    finally:
        asker.kill()
        asker.wait()
    assert record.status == "done"


ASKER = """
import sys
from pathlib import Path
from mmbench.store import in_use
folder = Path(sys.argv[1])
(folder / "lock").touch()
print(flush=True)
while True:
    in_use(folder)
"""


@pytest.fixture
def damaged(cells, cache, tmp_path):
    """Return a results folder of two finished runs, the record of the first cut short."""
    for cell in cells:
        run_cell(cell, results=tmp_path, cache=cache, run=RunSettings(device="cpu"))
    file = Store(tmp_path).directory(cells[0]).record_file
    file.write_bytes(file.read_bytes()[:100])
    return tmp_path


def test_one_damaged_record_stops_no_command(damaged, cells, cache):
    assert Store(damaged).state(cells[0]) == "unreadable"
    shown = mmbench("status", "--results", damaged, "--json")
    assert shown.returncode == 1
    assert sorted(row["state"] for row in json.loads(shown.stdout)["cells"]) == [
        "done",
        "unreadable",
    ]
    for command in ("report", "collect"):
        done = mmbench(command, "--results", damaged)
        assert done.returncode == 1, command
        assert "left out:" in done.stderr and "record.json" in done.stderr
        assert "Traceback" not in done.stderr
    assert len(list((damaged / "records").iterdir())) == 1
    assert "sum" in (damaged / "tables" / "naive.md").read_text()


def test_a_damaged_record_is_set_aside_and_the_cell_runs_again(damaged, cells, cache):
    done = mmbench(
        "run", "--methods", "concat,sum", "--datasets", "mfeat3", "--set", "trainer.epochs=1",
        "--results", damaged, "--cache", cache, "--jobs", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cannot be read; kept as" in done.stdout
    directory = Store(damaged).directory(cells[0])
    assert directory.state() == "done"
    assert (directory.path / "unreadable-001.json").stat().st_size == 100


def test_a_newer_versions_record_is_left_where_it_is_and_nothing_runs(cells, cache, tmp_path):
    file = Store(tmp_path).create(cells[0]).record_file
    file.write_text('{"schema_version": 999}')
    done = mmbench(
        "run", "--methods", "concat,sum", "--datasets", "mfeat3", "--set", "trainer.epochs=1",
        "--results", tmp_path, "--cache", cache, "--jobs", "1",
    )  # fmt: skip
    assert done.returncode == 2
    assert f"{file} was written by a newer mmbench (record version 999" in done.stderr
    assert [f.name for f in tmp_path.glob("runs/*/*.json")] == ["cell.json", "record.json"]


@pytest.mark.parametrize(
    ("code", "told"), [(errno.EACCES, "get permission from its owner"), (errno.EIO, "error")]
)
def test_a_record_that_may_not_be_read_is_not_called_damaged_and_stays(
    code, told, tmp_path, monkeypatch
):
    directory = RunDirectory(tmp_path)
    directory.record_file.touch()

    def refused(file):
        raise OSError(code, os.strerror(code), str(file))

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert directory.state() == "unreadable"
    with pytest.raises(ClosedRecord, match=rf"record.json cannot be read: .*{told}$"):
        directory.set_aside()
    assert directory.record_file.exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_damaged_small_files_are_lived_with(text, cells, tmp_path):
    store = Store(tmp_path)
    directory = store.create(cells[0])
    for name in ("cell.json", "progress.json"):
        (directory.path / name).write_text(text)
    shown = mmbench("status", "--results", tmp_path, "--json")
    assert [row["state"] for row in json.loads(shown.stdout)["cells"]] == ["unreadable"]
    store.create(cells[0])
    assert RunDirectory(directory.path).facts("cell.json")["method"] == cells[0].method
    assert store.state(cells[0]) == "waiting"


def test_progress_is_read_back(tmp_path):
    directory = RunDirectory(Path(tmp_path))
    directory.write_progress(epoch=3, epochs=9)
    assert directory.facts("progress.json") == {"epoch": 3, "epochs": 9}


def test_a_lock_can_be_looked_at_where_the_file_server_asks_for_a_writable_file(
    cells, tmp_path, monkeypatch
):
    directory = Store(tmp_path).create(cells[0])
    honest = fcntl.flock

    def as_nfs(handle, operation):
        mode = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE
        if operation & fcntl.LOCK_EX and mode == os.O_RDONLY:
            raise OSError(errno.EBADF, "bad file descriptor")
        return honest(handle, operation)

    monkeypatch.setattr(fcntl, "flock", as_nfs)
    (directory.path / "lock").touch()
    (directory.path / "failed-001.json").touch()
    assert directory.state() == "failed"
    with (directory.path / "lock").open("w") as handle:
        honest(handle, fcntl.LOCK_EX)
        assert directory.state() == "running"


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_appears_whole_and_replaces_none_with_hard_links_or_without(
    links, tmp_path, monkeypatch
):
    def refused(*_):
        raise OSError(errno.EPERM, "not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    write_new(tmp_path / "x", b"one")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "x", b"two")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x", b"one")]
