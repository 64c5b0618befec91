"""One look at a run directory says the same as the careful one."""

from pathlib import Path

import pytest

from mmbench.launch import lease as leases
from mmbench.launch.lease import Owner
from mmbench.launch.states import scan
from mmbench.store import RunDirectory, iter_records

RECORDS = Path(__file__).parents[2] / "results" / "records"


@pytest.fixture(scope="module")
def done():
    return next(r for r in iter_records(RECORDS) if r.status == "done")


def put(runs, name, *files):
    (runs / name).mkdir(parents=True)
    for file in files:
        (runs / name / file).touch()
    return RunDirectory(runs / name)


def test_every_state_is_told_as_the_run_directory_tells_it(tmp_path, done):
    runs = tmp_path / "runs"
    put(runs, "a-done").write(done)
    put(runs, "b-refused").write(done.model_copy(update={"status": "refused"}))
    whole = put(runs, "c-cut")
    whole.write(done)
    whole.record_file.write_bytes(whole.record_file.read_bytes()[:-9])
    put(runs, "d-empty", "record.json")
    put(runs, "e-zeros").record_file.write_bytes(b"\0" * 30_000)
    put(runs, "f-failed", "failed-001.json", "checkpoint-000000001")
    put(runs, "g-interrupted", "checkpoint-000000001", "lease-0001.released.json")
    put(runs, "h-waiting", "cell.json", "lock")
    leases.take(put(runs, "i-running").path, 1, Owner(worker="w"))
    (runs / "not-a-run").touch()
    (runs / ".logs").mkdir()
    found = {seen.directory.path.name: seen for seen in scan(runs)}
    assert {name: seen.state for name, seen in found.items()} == {
        "a-done": "done",
        "b-refused": "refused",
        "c-cut": "unreadable",
        "d-empty": "unreadable",
        "e-zeros": "unreadable",
        "f-failed": "failed",
        "g-interrupted": "interrupted",
        "h-waiting": "waiting",
        "i-running": "running",
    }
    assert all(seen.state == seen.directory.state() for seen in found.values())
    assert found["i-running"].lease.owner.worker == "w"


def test_there_may_be_no_runs(tmp_path):
    assert list(scan(tmp_path / "runs")) == []
