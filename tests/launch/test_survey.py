"""One look at a results folder: every cell's state, who is at work, and what sweeps still have."""

import json
import os
from pathlib import Path

import pytest

from mmbench.launch import lease as leases
from mmbench.launch import sweepfolder
from mmbench.launch.lease import Owner
from mmbench.launch.pools import announced
from mmbench.launch.sweepfolder import Facts, cancel_sweep
from mmbench.store import RunDirectory, Store, iter_records
from mmbench.survey import left_alone, survey

RECORDS = Path(__file__).parents[2] / "results" / "records"


@pytest.fixture(scope="module")
def done():
    return next(r for r in iter_records(RECORDS) if r.status == "done")


@pytest.fixture
def cells(done):
    return [done.cell.model_copy(update={"seed": seed}) for seed in range(4)]


@pytest.fixture
def sweep(tmp_path, cells):
    def make():
        return sweepfolder.create(tmp_path, cells, Facts(cache="unused"))

    return make


def put(runs, name, *files):
    (runs / name).mkdir(parents=True)
    for file in files:
        (runs / name / file).write_text('{"dataset": "d", "label": "m", "seed": 1}')
    return RunDirectory(runs / name)


def test_every_state_is_told_as_the_run_directory_tells_it(tmp_path, done):
    runs = tmp_path / "runs"
    put(runs, "a-done").write(done)
    put(runs, "b-refused").write(done.model_copy(update={"status": "refused"}))
    whole = put(runs, "c-cut")
    whole.write(done)
    whole.record_file.write_bytes(whole.record_file.read_bytes()[:-9])
    put(runs, "d-empty").record_file.touch()
    put(runs, "e-zeros").record_file.write_bytes(b"\0" * 30_000)
    put(runs, "f-failed", "cell.json", "failed-001.json", "checkpoint-000000001")
    put(runs, "g-interrupted", "cell.json", "checkpoint-000000001", "lease-0001.released.json")
    put(runs, "h-waiting", "cell.json", "lock")
    put(runs, "i-cancelled", "cell.json", "cancelled", "failed-001.json")
    leases.take(put(runs, "j-running").path, 1, Owner(worker="w"))
    (runs / "not-a-run").touch()
    (runs / ".logs").mkdir()
    found = survey(tmp_path).cells
    assert {name: seen.state for name, seen in found.items()} == {
        "a-done": "done",
        "b-refused": "refused",
        "c-cut": "unreadable",
        "d-empty": "unreadable",
        "e-zeros": "unreadable",
        "f-failed": "failed",
        "g-interrupted": "interrupted",
        "h-waiting": "waiting",
        "i-cancelled": "cancelled",
        "j-running": "running",
    }
    assert all(seen.state == RunDirectory(runs / name).state() for name, seen in found.items())


def test_cells_that_nobody_goes_on_with_are_found_without_reading_records(
    tmp_path, done, cells, sweep, close
):
    runs = tmp_path / "runs"
    sweep()
    Store(tmp_path).create(cells[0])  # which the sweep's workers will take
    put(runs, "a-done").write(done)
    put(runs, "b-interrupted", "cell.json", "checkpoint-000000001")
    put(runs, "c-begun", "cell.json", "lock")
    put(runs, "d-of-a-pool", "cell.json", "checkpoint-000000001")
    put(runs, "e-backup", "notes.txt")
    leases.take(put(runs, "f-running").path, 1, Owner(worker="w"))
    close(put(runs, "g-closed", "cell.json").path)
    with announced(tmp_path, ["d-of-a-pool"], lambda: None):
        assert left_alone(tmp_path) == ["b-interrupted", "c-begun"]
        assert survey(tmp_path).left_alone == ["b-interrupted", "c-begun"]
    assert left_alone(tmp_path / "elsewhere") == []


def test_a_running_cell_says_where_it_is_and_how_long_it_takes(tmp_path, cells):
    directory = Store(tmp_path).create(cells[0])
    leases.take(directory.path, 1, Owner(worker="w", host="n1", pid=17, job="9_2"))
    directory.write_progress(epoch=1, epochs=5, seconds_per_epoch=60.0, host="old", pid=1)
    (seen,) = survey(tmp_path).cells.values()
    assert (seen.state, seen.where, seen.epoch, seen.epochs) == ("running", "n1 job 9_2", 2, 5)
    assert 120 < seen.left <= 180
    then = os.stat(directory.path / "progress.json").st_mtime - 3600
    os.utime(directory.path / "progress.json", (then, then))
    assert survey(tmp_path).cells[seen.name].left == 120  # never past the end of this epoch
    assert (seen.dataset, seen.label, seen.seed) == (cells[0].dataset, cells[0].label, 0)


def test_workers_that_died_are_counted_as_long_as_no_checkpoint_followed(tmp_path, cells):
    directory = Store(tmp_path).create(cells[0])
    for number in (1, 2):
        lease = leases.take(directory.path, number, Owner(worker=f"w{number}"))
        os.utime(lease.file, (1, 1))
    seen = survey(tmp_path).cells[directory.path.name]
    assert (seen.state, seen.deaths) == ("waiting", 2)
    leases.take(directory.path, 3, Owner(worker="w3"))
    seen = survey(tmp_path).cells[directory.path.name]
    assert (seen.state, seen.deaths) == ("running", 2)
    (directory.path / "checkpoint-000000007").touch()
    assert survey(tmp_path).cells[directory.path.name].deaths == 0


def test_cells_of_a_sweep_wait_before_they_have_a_folder(tmp_path, cells, sweep, done):
    made = sweep()
    Store(tmp_path).create(cells[0]).write(done)
    (made.path / "jobs.jsonl").write_text('{"job": "7"}\n{"job": "7"}\n{"jo\n{"job":"12"}\n')
    seen = survey(tmp_path)
    (state,) = seen.sweeps
    assert state.counts == {"done": 1, "waiting": 3} == seen.counts
    assert state.jobs == ("7", "12")
    assert state.open
    assert list(seen.cells) == [cell.folder for cell in cells]


def test_a_cancelled_sweeps_cells_wait_if_another_sweep_has_them(tmp_path, sweep):
    first = sweep()
    cancel_sweep(first.path)
    seen = survey(tmp_path)
    assert seen.counts == {"cancelled": 4}
    assert not seen.sweeps[0].open
    sweep()
    seen = survey(tmp_path)
    assert seen.counts == {"waiting": 4}
    assert [each.open for each in sorted(seen.sweeps, key=lambda s: s.cancelled)] == [True, False]


def test_a_sweep_is_over_once_only_failed_cells_are_left(tmp_path, cells, sweep, done):
    sweep()
    for cell in cells[:3]:
        Store(tmp_path).create(cell).write(done)
    failed = Store(tmp_path).create(cells[3])
    assert survey(tmp_path).sweeps[0].open
    failed.write(done.model_copy(update={"status": "failed"}))
    assert not survey(tmp_path).sweeps[0].open


def test_a_sweep_with_nothing_left_but_what_cannot_be_read_is_over(tmp_path, cells, sweep, done):
    sweep()
    for cell in cells[:3]:
        Store(tmp_path).create(cell).write(done)
    Store(tmp_path).create(cells[3]).record_file.touch()
    (state,) = survey(tmp_path).sweeps
    assert state.counts == {"done": 3, "unreadable": 1}
    assert not state.open, "no worker would take it"


def test_a_damaged_sweep_is_told_and_hides_no_other(tmp_path, sweep):
    (sweep().path / "sweep.json").write_text("{")
    (sweep().path / "cells.jsonl").write_text("{")
    sweep()
    seen = survey(tmp_path)
    assert len(seen.damaged) == 2
    assert [state.counts for state in seen.sweeps] == [{"waiting": 4}]


def test_a_pool_at_work_is_seen_with_what_it_has_still_to_do(tmp_path, cells, done):
    Store(tmp_path).create(cells[0]).write(done)
    with announced(tmp_path, [cell.folder for cell in cells], lambda: None):
        (pool,) = survey(tmp_path).pools
        assert pool.counts == {"done": 1, "waiting": 3}
    assert survey(tmp_path).pools == []
    assert survey(tmp_path).counts == {"done": 1}


def test_there_may_be_nothing(tmp_path):
    assert survey(tmp_path / "none").cells == {}


def test_a_renamed_run_directory_is_known_by_its_cell(tmp_path, cells):
    Store(tmp_path).create(cells[2]).path.rename(tmp_path / "runs" / "mine")
    (seen,) = survey(tmp_path).cells.values()
    assert (seen.label, seen.seed) == (cells[2].label, 2)
    assert json.loads((tmp_path / "runs" / "mine" / "cell.json").read_text())["seed"] == 2
