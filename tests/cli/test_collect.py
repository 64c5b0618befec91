"""``mmbench collect``: one file a cell, and only a failure is ever replaced."""

import json

from mmbench.cli.reporting import collect
from mmbench.record import Failure
from mmbench.store import iter_records


def write(results, record, name="record.json"):
    folder = results / "runs" / record.cell.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(record.model_dump_json(exclude_none=True))


def test_failures_are_collected_and_replaced_by_what_finished(tmp_path, capsys):
    from pathlib import Path

    records = Path(__file__).parents[2] / "results" / "records"
    done = next(r for r in iter_records(records) if r.status == "done")
    failure = Failure(kind="NonFiniteLoss", message="m", traceback="")
    failed = done.model_copy(update={"status": "failed", "failure": failure, "final": {}})

    def collected():
        collect(tmp_path, as_json=True)
        copied = json.loads(capsys.readouterr().out)
        (record,) = iter_records(tmp_path / "records")
        return len(copied), record.status

    write(tmp_path, failed, "failed-001.json")
    assert collected() == (1, "failed")
    assert collected() == (0, "failed")
    write(tmp_path, done)
    assert collected() == (1, "done")
    write(tmp_path, done.model_copy(update={"remark": "another attempt"}))
    assert collected() == (0, "done")


def test_a_copy_is_not_read_again_until_its_source_changes(tmp_path, capsys, monkeypatch):
    from pathlib import Path

    from mmbench.cli import reporting

    records = Path(__file__).parents[2] / "results" / "records"
    done = next(r for r in iter_records(records) if r.status == "done")
    write(tmp_path, done)
    assert collect(tmp_path, as_json=True) == 0
    read = []
    monkeypatch.setattr(reporting, "read_record", lambda file: read.append(file) or done)
    assert collect(tmp_path, as_json=True) == 0
    assert read == []
    write(tmp_path, done)
    assert collect(tmp_path, as_json=True) == 0
    assert read
