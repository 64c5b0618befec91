"""The index gives what the files give, and is renewed when they change."""

import json
import os
import subprocess
import sys

import pytest

from mmbench.report import index
from mmbench.report.index import load_frame
from mmbench.store import read_record


@pytest.fixture
def folder(template, make, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "WORTH", 2)
    for seed in range(4):
        write(tmp_path / "runs", seed, make(template, "concat", seed, 0.5 + seed / 10))
    return tmp_path / "runs"


def write(runs, name, record, file="record.json"):
    (runs / str(name)).mkdir(parents=True, exist_ok=True)
    (runs / str(name) / file).write_text(record.model_dump_json(exclude_none=True))


def scores(folder):
    return load_frame(folder, [])["selected/fused/accuracy"].tolist()


def reads(monkeypatch):
    seen = []
    read = index.read_record

    def watched(file, **options):
        seen.append(file.parent.name)
        return read(file, **options)

    monkeypatch.setattr(index, "read_record", watched)
    return seen


def test_index_gives_the_frame_that_the_files_give(folder):
    import pandas as pd

    first, second = load_frame(folder, []), load_frame(folder, [])
    pd.testing.assert_frame_equal(first, second, check_dtype=False, check_like=True)
    assert scores(folder) == pytest.approx([0.5, 0.6, 0.7, 0.8])


def test_only_what_is_new_or_has_changed_is_read(folder, template, make, monkeypatch):
    load_frame(folder, [])
    seen = reads(monkeypatch)
    assert scores(folder) == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert seen == []
    write(folder, 4, make(template, "concat", 4, 0.9))
    write(folder, 1, make(template, "concat", 1, 0.1))
    os.utime(folder / "1" / "record.json", ns=(1, 1))
    assert scores(folder) == pytest.approx([0.5, 0.1, 0.7, 0.8, 0.9])
    assert sorted(seen) == ["1", "4"]


def test_what_is_gone_leaves_the_index(folder):
    load_frame(folder, [])
    (folder / "0" / "record.json").unlink()
    assert scores(folder) == pytest.approx([0.6, 0.7, 0.8])


def test_a_finished_record_replaces_its_failure(folder, template, make):
    failed = make(template, "concat", 0, 0.0).model_copy(update={"status": "failed", "final": {}})
    write(folder, 9, failed, "failed-001.json")
    assert load_frame(folder, [])["status"].tolist().count("failed") == 1
    write(folder, 9, make(template, "concat", 9, 0.9))
    assert load_frame(folder, [])["status"].tolist().count("failed") == 0


@pytest.mark.parametrize("content", [b"", b"not a table", b"PAR1"])
def test_a_broken_index_is_made_again(folder, content):
    load_frame(folder, [])
    file = folder.parent / ".index" / "runs.parquet"
    file.write_bytes(content)
    assert scores(folder) == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert file.stat().st_size > 1000


def test_an_index_of_another_version_is_not_believed(folder, monkeypatch):
    load_frame(folder, [])
    monkeypatch.setattr(index, "_version", lambda: b"another")
    seen = reads(monkeypatch)
    load_frame(folder, [])
    assert len(seen) == 4


def test_without_an_index_every_file_is_read(folder, monkeypatch):
    monkeypatch.setattr(index, "_read", lambda file: None)
    monkeypatch.setattr(index, "_write", lambda whole, file: None)
    assert scores(folder) == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert not (folder.parent / ".index").exists()


def test_where_nothing_can_be_written_a_report_is_made_all_the_same(folder, caplog):
    (folder.parent / ".index").write_text("a file where the folder should be")
    assert scores(folder) == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert "could not be written" in caplog.text


def test_a_damaged_record_is_told_each_time_and_the_rest_is_read(folder):
    (folder / "2" / "record.json").write_text("{")
    for _ in range(2):
        told = []
        assert len(load_frame(folder, told)) == 3
        assert "is not a readable record" in told[0]


def test_a_record_that_cannot_be_looked_at_is_told_and_the_rest_is_read(folder):
    (folder / "gone.json").symlink_to("nowhere.json")
    told = []
    assert len(load_frame(folder, told)) == 4
    assert str(folder / "gone.json") in told[0]


def test_a_record_read_without_its_curve_is_the_same_otherwise(template, tmp_path):
    assert template.curve
    for name, text in (
        ("ours.json", json.dumps(template.model_dump(mode="json", exclude_none=True))),
        ("dense.json", template.model_dump_json()),
        ("uncut.json", template.model_copy(update={"selection": None}).model_dump_json()),
    ):
        (tmp_path / name).write_text(text)
        whole = read_record(tmp_path / name)
        cut = read_record(tmp_path / name, curve=False)
        assert cut == whole.model_copy(update={"curve": []})


def test_a_report_waits_for_no_library_it_does_not_need():
    code = (
        "import sys, mmbench.report.build;"
        "sys.exit(', '.join({'torch', 'scipy.stats', 'sklearn'} & {*sys.modules}) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
