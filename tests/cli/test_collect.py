"""``mmbench collect``: one file a cell, and only a failure is ever replaced."""

import errno
import gzip
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmbench import collect as collecting
from mmbench.cli import reporting
from mmbench.collect import collect, compress
from mmbench.errors import UserError
from mmbench.record import Failure
from mmbench.store import iter_records

REFERENCE = Path(__file__).parents[2] / "results" / "records"


@pytest.fixture(scope="module")
def done():
    return next(r for r in iter_records(REFERENCE) if r.status == "done")


@pytest.fixture
def failed(done):
    failure = Failure(kind="NonFiniteLoss", message="m", traceback="")
    return done.model_copy(update={"status": "failed", "failure": failure, "final": {}})


@pytest.fixture(params=["links", "copies"])
def way(request, monkeypatch):
    """Run a test on a file system with hard links, and on one without."""
    if request.param == "copies":

        def refuse(source, file):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "link", refuse)
    return request.param


def write(results, record, name="record.json"):
    """Put a record where a run leaves it: as a new file, never into an old one."""
    folder = results / "runs" / record.cell.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    text = json.dumps(record.model_dump(mode="json", exclude_none=True))
    (folder / name).write_text(text)
    return folder / name


def statuses(results):
    return [record.status for record in iter_records(results / "records")]


def statuses_after_collecting(results):
    collect(results)
    return statuses(results)


def test_failures_are_collected_and_replaced_by_what_finished(tmp_path, done, failed, way):
    write(tmp_path, failed, "failed-001.json")
    assert (len(collect(tmp_path).files), statuses(tmp_path)) == (1, ["failed"])
    assert (len(collect(tmp_path).files), statuses(tmp_path)) == (0, ["failed"])
    source = write(tmp_path, done)
    assert (len(collect(tmp_path).files), statuses(tmp_path)) == (1, ["done"])
    (collected,) = (tmp_path / "records").iterdir()
    assert collected.samefile(source) == (way == "links")
    write(tmp_path, done.model_copy(update={"remark": "another attempt"}))
    assert (len(collect(tmp_path).files), statuses(tmp_path)) == (0, ["done"])
    (record,) = iter_records(tmp_path / "records")
    assert record.remark == done.remark


def test_a_later_failure_replaces_an_earlier_one_and_no_file_of_a_run_is_touched(
    tmp_path, failed, way
):
    first = write(tmp_path, failed, "failed-001.json")
    before = first.stat()
    collect(tmp_path)
    later = failed.model_copy(update={"failure": Failure(kind="E", message="2", traceback="")})
    write(tmp_path, later, "failed-002.json")
    assert len(collect(tmp_path).files) == 1
    (record,) = iter_records(tmp_path / "records")
    assert record.failure.message == "2"
    assert (first.stat().st_mtime_ns, first.stat().st_nlink) == (before.st_mtime_ns, 1)


def test_runs_on_another_file_system_are_collected(tmp_path, done, failed):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=other) as runs:
        (tmp_path / "runs").symlink_to(runs)
        write(tmp_path, failed, "failed-001.json")
        assert statuses_after_collecting(tmp_path) == ["failed"]
        write(tmp_path, done)
        assert statuses_after_collecting(tmp_path) == ["done"]
        assert collect(tmp_path).kept == 1


def test_a_failure_that_a_retry_renames_meanwhile_is_no_error(tmp_path, failed, monkeypatch):
    file = write(tmp_path, failed, "failed-001.json")
    glance = collecting.glance

    def renamed(name):
        if file.exists():
            file.rename(file.with_name("retried-001.json"))
        return glance(name)

    monkeypatch.setattr(collecting, "glance", renamed)
    found = collect(tmp_path)
    assert (found.files, found.unreadable) == ([], [])


def test_a_record_that_is_a_symbolic_link_is_copied(tmp_path, done):
    file = write(tmp_path, done)
    file.rename(file.with_name("elsewhere.json"))
    file.symlink_to("elsewhere.json")
    (collected,) = collect(tmp_path).files
    assert not collected.is_symlink()
    assert statuses(tmp_path) == ["done"]


def test_a_finished_packed_record_wins_over_a_plain_failure(tmp_path, done, failed):
    records = tmp_path / "records"
    records.mkdir()
    name = f"{done.cell.folder}.json"
    (records / name).write_text(failed.model_dump_json(exclude_none=True))
    (records / f"{name}.gz").write_bytes(gzip.compress(done.model_dump_json().encode()))
    assert compress(tmp_path, []) == []
    assert statuses(tmp_path) == ["done"]


def test_collecting_and_compressing_at_once_loses_nothing(tmp_path, done):
    seeds = range(30)
    for seed in seeds:
        cell = done.cell.model_copy(update={"seed": seed})
        write(tmp_path, done.model_copy(update={"cell": cell}))
    with ThreadPoolExecutor(4) as pool:
        works = [
            pool.submit(work)
            for _ in range(4)
            for work in (lambda: collect(tmp_path), lambda: compress(tmp_path, []))
        ]
        for each in works:
            each.result()
    assert len(statuses(tmp_path)) == len(seeds)
    assert not list((tmp_path / "records").glob(".*"))
    assert not list(tmp_path.glob(".*"))


def test_what_is_no_results_folder_is_refused_and_not_made(tmp_path):
    with pytest.raises(UserError, match="is not a results folder"):
        collect(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()
    (tmp_path / "runs").mkdir()
    (tmp_path / "records").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        collect(tmp_path)


def test_what_is_collected_outlives_the_run_directory(tmp_path, done, way):
    source = write(tmp_path, done)
    collect(tmp_path)
    source.unlink()
    assert statuses(tmp_path) == ["done"]
    assert collect(tmp_path).files == []


def test_what_is_collected_is_not_read_again_until_its_source_changes(
    tmp_path, done, monkeypatch, way
):
    write(tmp_path, done)
    collect(tmp_path)
    read = []
    monkeypatch.setattr(collecting, "glance", lambda file: read.append(file) or "done")
    assert collect(tmp_path).kept == 1
    assert read == []
    write(tmp_path, done)
    assert collect(tmp_path).kept == 1
    assert len(read) == 1


def test_compressed_files_take_the_place_of_plain_ones(tmp_path, done, failed):
    source = write(tmp_path, failed, "failed-001.json")
    collect(tmp_path)
    (packed,) = compress(tmp_path, [])
    assert list((tmp_path / "records").iterdir()) == [packed]
    assert gzip.decompress(packed.read_bytes()) == source.read_bytes()
    assert collect(tmp_path).kept == 1
    source = write(tmp_path, done)
    (plain,) = collect(tmp_path).files
    assert list((tmp_path / "records").iterdir()) == [plain]
    compress(tmp_path, [])
    assert collect(tmp_path).kept == 1
    assert source.exists()
    assert statuses(tmp_path) == ["done"]


def test_a_record_counts_once_where_compressing_was_cut_off(tmp_path, done, monkeypatch):
    write(tmp_path, done)
    collect(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "sync", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            compress(tmp_path, [])
    assert len(list((tmp_path / "records").iterdir())) == 2
    assert statuses(tmp_path) == ["done"]
    compress(tmp_path, [])
    assert len(list((tmp_path / "records").iterdir())) == 1


def test_what_cannot_be_read_is_told_and_the_rest_is_collected(tmp_path, done, capsys):
    write(tmp_path, done)
    other = done.cell.model_copy(update={"seed": done.cell.seed + 1})
    cut = write(tmp_path, done.model_copy(update={"cell": other}))
    cut.write_bytes(cut.read_bytes()[:5000])
    assert reporting.collect(tmp_path, compress=True, as_json=False) == 1
    told = capsys.readouterr()
    assert "collected 1 record in" in told.out and "compressed 1 record" in told.out
    assert "left out:" in told.err and str(cut) in told.err


def test_damage_in_the_middle_is_told_when_compressing_and_the_file_stays(tmp_path, done):
    source = write(tmp_path, done)
    text = source.read_bytes()
    middle = text.index(b'"selection"')
    source.write_bytes(text[:middle] + b"}" + text[middle + 1 :])
    (file,) = collect(tmp_path).files
    told = []
    assert compress(tmp_path, told) == []
    assert str(file) in told[0]
    assert file.exists()
