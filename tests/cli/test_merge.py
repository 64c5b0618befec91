"""``mmbench merge``: two results folders become one, and nothing is overwritten."""

import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mmbench.errors import UserError
from mmbench.launch import lease as leases
from mmbench.launch.lease import Owner
from mmbench.merge import merge
from mmbench.record import Failure
from mmbench.store import RunDirectory, Store, iter_records

RECORDS = Path(__file__).parents[2] / "results" / "records"


@pytest.fixture(scope="module")
def done():
    return next(r for r in iter_records(RECORDS) if r.status == "done")


@pytest.fixture
def folders(tmp_path):
    for name in ("ours", "theirs"):
        (tmp_path / name / "runs").mkdir(parents=True)
    return tmp_path / "ours", tmp_path / "theirs"


def finished(results, record, seed=0, **changed):
    cell = record.cell.model_copy(update={"seed": seed})
    directory = Store(results).create(cell)
    directory.write(record.model_copy(update={"cell": cell, **changed}))
    return directory


def other_numbers(record):
    final = json.loads(json.dumps(record.final))
    final["selected"]["fused"]["accuracy"] += 0.01
    return final


def tree(folder):
    """Return every file with its bytes and time."""
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in folder.rglob("*") if file.is_file()
    }  # fmt: skip


def test_what_is_not_here_comes_over_whole(folders, done):
    ours, theirs = folders
    finished(ours, done, 0)
    there = finished(theirs, done, 1)
    (there.path / "failed-001.json").write_bytes(there.record_file.read_bytes())
    (there.path / "lock").touch()
    before = tree(ours), tree(theirs)
    merged = merge(ours, theirs)
    assert [path.name for path in merged.brought] == [there.path.name]
    after = tree(ours)
    for name in ("cell.json", "record.json", "failed-001.json"):
        assert (
            after[f"runs/{there.path.name}/{name}"] == before[1][f"runs/{there.path.name}/{name}"]
        )
    assert f"runs/{there.path.name}/lock" not in after
    assert all(after[name] == value for name, value in before[0].items())
    assert tree(theirs) == before[1]
    again = merge(ours, theirs)
    assert (again.brought, again.same, again.conflicts) == ([], 1, [])


def test_a_record_under_the_name_of_another_cell_stays_there(folders, done):
    ours, theirs = folders
    there = finished(theirs, done, 1)
    there.path.rename(there.path.with_name("avdigits.other.s1.0123456789ab"))
    (theirs / "records").mkdir()
    packed = theirs / "records" / "avdigits.other.s2.0123456789ab.json"
    packed.write_text(done.model_dump_json())
    merged = merge(ours, theirs)
    assert merged.brought == []
    assert len(merged.unreadable) == 2
    assert "avdigits.other.s1.0123456789ab" in merged.unreadable[0]
    assert f"holds a record of {done.cell.dataset}." in merged.unreadable[0]
    assert str(packed) in merged.unreadable[1]


def test_identical_cells_are_ignored_and_different_ones_reported(folders, done):
    ours, theirs = folders
    for results in folders:
        finished(results, done, 0)
    finished(ours, done, 1)
    finished(theirs, done, 1, final=other_numbers(done))
    finished(ours, done, 2)
    finished(theirs, done, 2, started="2020-01-01T00:00:00+00:00")
    before = tree(ours)
    merged = merge(ours, theirs)
    assert (merged.brought, merged.same) == ([], 1)
    assert [conflict.numbers for conflict in merged.conflicts] == [True, False]
    assert merged.conflicts[0].what[0].startswith("1 numbers, by 0.01 at most")
    assert "accuracy of fused" in merged.conflicts[0].what[1]
    assert tree(ours) == before


def test_unfinished_cells_stay_there_and_running_ones_are_left_alone_here(folders, done):
    ours, theirs = folders
    cell = done.cell.model_copy(update={"seed": 5})
    waiting = Store(theirs).create(cell)
    there = finished(theirs, done, 1)
    here = RunDirectory(ours / "runs" / there.path.name)
    here.path.mkdir()
    lease = leases.take(here.path, 1, Owner(worker="w"))
    merged = merge(ours, theirs)
    assert merged.unfinished == [waiting.path.name]
    assert merged.busy == [there.path.name]
    assert not here.record_file.exists()
    lease.finish("released")
    (here.path / "checkpoint-000000003").touch()
    assert merge(ours, theirs).brought == [here.record_file]
    assert here.record_file.read_bytes() == there.record_file.read_bytes()
    assert here.state() == "done"
    assert not list(here.path.glob("checkpoint-*"))


def test_a_failure_comes_over_only_where_nothing_is_known(folders, done):
    ours, theirs = folders
    failure = Failure(kind="ValueError", message="m", traceback="")
    for seed in (0, 1):
        finished(theirs, done, seed, status="failed", failure=failure)
    finished(ours, done, 0)
    merged = merge(ours, theirs)
    assert (len(merged.brought), merged.same) == (1, 1)
    assert sorted(d.state() for d in map(RunDirectory, (ours / "runs").iterdir())) == [
        "done", "failed",
    ]  # fmt: skip


def test_what_cannot_be_read_is_told_and_nothing_of_it_comes(folders, done):
    ours, theirs = folders
    there = finished(theirs, done, 1)
    there.record_file.write_bytes(there.record_file.read_bytes()[:99])
    merged = merge(ours, theirs)
    assert len(merged.unreadable) == 1
    assert list((ours / "runs").iterdir()) == []


def test_collected_records_are_merged_as_they_are_collected(folders, done):
    ours, theirs = folders
    failed = done.model_copy(update={"status": "failed", "final": {}, "failure": Failure(
        kind="ValueError", message="m", traceback="")})  # fmt: skip

    def put(results, name, record):
        (results / "records").mkdir(exist_ok=True)
        stem = done.cell.folder.rpartition(".")[0]
        (results / "records" / f"{stem}.{name}.json.gz").write_bytes(
            gzip.compress(record.model_dump_json(exclude_none=True).encode())
        )

    both = {
        "new": (None, done),
        "failure": (failed, done),
        "kept": (done, failed),
        "same": (done, done),
    }
    for name, (here, there) in both.items():
        put(theirs, name, there)
        if here is not None:
            put(ours, name, here)
    merged = merge(ours, theirs)
    assert sorted(path.name.split(".")[-3] for path in merged.brought) == ["failure", "new"]
    assert [r.status for r in iter_records(ours / "records")] == ["done"] * 4


def test_a_compressed_and_a_plain_record_of_one_cell_are_one(folders, done):
    ours, theirs = folders
    failed = done.model_copy(update={"status": "failed", "final": {}, "failure": Failure(
        kind="ValueError", message="m", traceback="")})  # fmt: skip
    (ours / "records").mkdir()
    (theirs / "records").mkdir()

    def text(record):
        return record.model_dump_json(exclude_none=True).encode()

    name = f"{done.cell.folder}.json"
    (ours / "records" / name).write_bytes(text(failed))
    (theirs / "records" / f"{name}.gz").write_bytes(gzip.compress(text(done)))
    assert len(merge(ours, theirs).brought) == 1
    assert [file.name for file in (ours / "records").iterdir()] == [f"{name}.gz"]
    (theirs / "records" / f"{name}.gz").rename(theirs / "records" / name)
    (theirs / "records" / name).write_bytes(text(done))
    assert merge(ours, theirs).same == 1
    assert [r.status for r in iter_records(ours / "records")] == ["done"]


def test_what_a_killed_merge_left_is_cleared_away(folders, done):
    ours, theirs = folders
    there = finished(theirs, done, 1)
    (ours / "runs" / ".merge" / there.path.name).mkdir(parents=True)
    assert len(merge(ours, theirs).brought) == 1
    assert not (ours / "runs" / ".merge").exists()


def test_runs_that_are_a_link_to_another_file_system_can_be_merged_into(folders, done, tmp_path):
    ours, theirs = folders
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    finished(theirs, done, 1)
    with tempfile.TemporaryDirectory(dir=other) as runs:
        shutil.rmtree(ours / "runs")
        (ours / "runs").symlink_to(runs)
        assert len(merge(ours, theirs).brought) == 1


def test_other_folders_are_refused(folders, tmp_path):
    ours, _ = folders
    with pytest.raises(UserError, match="is not a results folder"):
        merge(ours, tmp_path)
    with pytest.raises(UserError, match="the very folder"):
        merge(ours, ours / "runs" / "..")


def command(*words):
    return subprocess.run(
        [sys.executable, "-P", "-m", "mmbench", "merge", *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_tells_what_differs_and_a_dry_run_writes_nothing(folders, done):
    ours, theirs = folders
    finished(ours, done, 1)
    finished(theirs, done, 1, final=other_numbers(done))
    finished(theirs, done, 2)
    before = tree(ours)
    dry = command(theirs, "--results", ours, "--dry-run")
    assert dry.returncode == 1
    assert "1 would be brought" in dry.stdout
    assert tree(ours) == before
    real = command(theirs, "--results", ours)
    assert real.returncode == 1
    assert "1 brought to" in real.stdout
    assert "different:" in real.stdout and "(kept)" in real.stdout
    assert command(ours.parent, "--results", ours).returncode == 2
