"""``mmbench collect``: one file a cell, and only a failure is ever replaced."""

import errno
import gzip
import json
import os
from pathlib import Path

import pytest

from mmbench import collect as collecting
from mmbench.cli import reporting
from mmbench.collect import collect, compress
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
    assert collect(tmp_path).kept == 1
    assert len(read) == 1


def test_compressed_files_take_the_place_of_plain_ones(tmp_path, done, failed):
    source = write(tmp_path, failed, "failed-001.json")
    collect(tmp_path)
    (packed,) = compress(tmp_path / "records", [])
    assert list((tmp_path / "records").iterdir()) == [packed]
    assert gzip.decompress(packed.read_bytes()) == source.read_bytes()
    assert collect(tmp_path).kept == 1
    source = write(tmp_path, done)
    (plain,) = collect(tmp_path).files
    assert list((tmp_path / "records").iterdir()) == [plain]
    compress(tmp_path / "records", [])
    assert collect(tmp_path).kept == 1
    assert source.exists()
    assert statuses(tmp_path) == ["done"]


def test_a_record_counts_once_where_compressing_was_cut_off(tmp_path, done, monkeypatch):
    write(tmp_path, done)
    collect(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "sync", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            compress(tmp_path / "records", [])
    assert len(list((tmp_path / "records").iterdir())) == 2
    assert statuses(tmp_path) == ["done"]
    compress(tmp_path / "records", [])
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
    assert compress(tmp_path / "records", told) == []
    assert str(file) in told[0]
    assert file.exists()
