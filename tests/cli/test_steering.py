"""``mmbench cancel`` and ``mmbench retry``: what they say to workers, and what they refuse."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmbench.cli.steering import cancel, retry
from mmbench.errors import UserError
from mmbench.launch import lease as leases
from mmbench.launch import squeue, sweepfolder
from mmbench.launch.claims import Claims
from mmbench.launch.lease import Owner
from mmbench.launch.slurm_command import NoAnswer
from mmbench.launch.sweepfolder import Facts
from mmbench.store import Store, iter_records
from mmbench.survey import survey

RECORDS = Path(__file__).parents[2] / "results" / "records"


@pytest.fixture(scope="module")
def done():
    return next(r for r in iter_records(RECORDS) if r.status == "done")


@pytest.fixture
def sweep(tmp_path, done):
    """A submitted sweep of three cells, of which the first is running."""
    cells = [done.cell.model_copy(update={"seed": seed}) for seed in range(3)]
    made = sweepfolder.create(tmp_path, cells, Facts(cache="unused"))
    (made.path / "jobs.jsonl").write_text('{"job": "7"}\n')
    leases.take(Store(tmp_path).create(cells[0]).path, 1, Owner(worker="w"))
    return made


@pytest.fixture
def scancel(monkeypatch):
    calls = []
    monkeypatch.setattr(
        squeue, "cancel", lambda ids, waiting_only: calls.append((list(ids), waiting_only))
    )
    return calls


def states(results):
    return [seen.state for seen in survey(results).cells.values()]


def test_a_sweep_is_marked_and_its_waiting_jobs_go(sweep, scancel, tmp_path, capsys):
    assert cancel([sweep.path.name[:12]], False, False, tmp_path) == 0
    assert sweep.cancelled
    assert scancel == [(["7"], True)]
    assert states(tmp_path) == ["running", "cancelled", "cancelled"]
    assert "1 running cells stop at the next step" in capsys.readouterr().out


def test_all_that_is_at_work_is_cancelled_and_running_jobs_if_asked(sweep, scancel, tmp_path):
    over = sweepfolder.create(tmp_path, [], Facts(cache="unused"))
    assert cancel([], True, True, tmp_path) == 0
    assert sweep.cancelled and not over.cancelled
    assert scancel == [(["7"], False)]


@pytest.mark.parametrize("name", ["cells.jsonl", "sweep.json"])
@pytest.mark.parametrize("everything", [True, False])
def test_a_sweep_that_cannot_be_read_is_told_and_marked_all_the_same(
    sweep, scancel, tmp_path, capsys, name, everything
):
    (sweep.path / name).write_text('{"fol')
    assert cancel([] if everything else [sweep.path.name], everything, False, tmp_path) == 1
    printed = capsys.readouterr()
    assert str(sweep.path) in printed.err
    assert "nothing is at work" not in printed.out
    assert sweep.cancelled
    assert scancel == [(["7"], True)]


def test_where_nothing_is_at_work_that_is_said(tmp_path, capsys):
    assert cancel([], True, False, tmp_path) == 0
    assert "nothing is at work" in capsys.readouterr().out


def test_the_mark_is_set_even_if_slurm_is_silent(sweep, tmp_path, capsys, monkeypatch):
    def silent(ids, waiting_only):
        raise NoAnswer("scancel does not answer")

    monkeypatch.setattr(squeue, "cancel", silent)
    assert cancel([sweep.path.name], False, False, tmp_path) == 0
    assert sweep.cancelled
    assert "once they see the mark" in capsys.readouterr().err


def test_one_cell_is_left_alone_until_it_is_retried(sweep, tmp_path, scancel, capsys):
    name = sweep.entries[1].folder
    cancel([name], False, False, tmp_path)
    assert not sweep.cancelled and not scancel
    assert states(tmp_path) == ["running", "cancelled", "waiting"]
    claims = Claims(sweep, Owner(worker="me"))
    assert claims.take(tmp_path / "log").cell.folder == sweep.entries[2].folder
    assert claims.take(tmp_path / "log") is None
    retry([name], False, tmp_path)
    assert sweep.path.name in capsys.readouterr().out
    assert claims.take(tmp_path / "log").cell.folder == name


def test_what_is_finished_is_not_cancelled(sweep, tmp_path, done, capsys):
    name = sweep.entries[1].folder
    Store(tmp_path).create(sweep.cell(sweep.entries[1])).write(done)
    cancel([name], False, False, tmp_path)
    assert "is done already" in capsys.readouterr().out
    assert states(tmp_path) == ["running", "done", "waiting"]


@pytest.mark.parametrize(
    ("names", "everything", "message"),
    [
        ([], False, "at work now: 2"),
        (["x"], True, "say what to cancel"),
        (["nonsense"], False, "no cell of"),
        ([".s"], False, "in the name of 3 cells"),
    ],
)
def test_what_to_cancel_must_be_said_and_known(sweep, tmp_path, names, everything, message):
    with pytest.raises(UserError, match=message):
        cancel(names, everything, False, tmp_path)
    assert not sweep.cancelled


@pytest.fixture
def failed(sweep, tmp_path, done):
    """The sweep with two failures of its second cell and one of its third."""
    for entry, times in zip(sweep.entries[1:], (2, 1), strict=True):
        directory = Store(tmp_path).create(sweep.cell(entry))
        for _ in range(times):
            directory.write(done.model_copy(update={"status": "failed"}))
    return sweep


def test_failures_are_kept_and_count_no_more(failed, tmp_path, capsys):
    assert retry([], True, tmp_path) == 0
    assert states(tmp_path) == ["running", "waiting", "waiting"]
    kept = sorted(
        file.name for file in tmp_path.glob("runs/*/*-00*.json") if "lease" not in file.name
    )
    assert kept == ["retried-001.json", "retried-001.json", "retried-002.json"]
    assert "2 cells put back" in capsys.readouterr().out
    assert retry([], True, tmp_path) == 0
    assert "is failed" in capsys.readouterr().out


def test_only_named_cells_are_retried(failed, tmp_path):
    retry([failed.entries[2].folder], False, tmp_path)
    assert states(tmp_path) == ["running", "failed", "waiting"]


@pytest.mark.parametrize(("names", "message"), [([], "say what to retry"), (["s0"], "is running")])
def test_what_to_retry_must_be_said_and_have_failed(failed, tmp_path, names, message):
    names = [failed.entries[0].folder] if names else []
    with pytest.raises(UserError, match=message):
        retry(names, False, tmp_path)


@pytest.fixture
def running(tmp_path):
    """Return a function that starts a run on this machine and waits for its first epoch."""
    processes = []

    def start(*words):
        command = [sys.executable, "-P", "-m", "mmbench", "run", "--datasets", "mfeat3"]
        command += ["--jobs", "1", "--results", str(tmp_path / "r"), "--cache", str(tmp_path / "c")]
        process = subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        while not list(tmp_path.glob("r/runs/*/progress.json")):
            assert process.poll() is None
            time.sleep(0.05)
        return process

    yield start
    for process in processes:
        process.kill()


def test_a_pool_on_this_machine_is_cancelled_like_ctrl_c(running, tmp_path):
    process = running("--methods", "concat", "--seeds", "2", "--set", "trainer.epochs=5000")
    assert cancel([f"local-{os.uname().nodename}"], False, False, tmp_path / "r") == 0
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "run the same command to continue" in out
    assert sorted(states(tmp_path / "r")) == ["interrupted"]


def test_a_cell_cancelled_before_its_turn_is_not_run_and_named(running, tmp_path):
    process = running("--methods", "concat,sum", "--set", "trainer.epochs=400")
    assert cancel(["mfeat3.sum"], False, False, tmp_path / "r") == 0
    assert cancel(["mfeat3.concat"], False, False, tmp_path / "r") == 0
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out.count("run the same command to continue it") == 2
    assert "all cells done" not in out
    assert states(tmp_path / "r") == ["cancelled", "cancelled"]


def test_a_damaged_sweep_is_named_and_the_others_are_told(failed, tmp_path, capsys):
    damaged = failed.path.with_name("20200101-000000-damaged")
    damaged.mkdir()
    (damaged / "sweep.json").write_text((failed.path / "sweep.json").read_text())
    (damaged / "cells.jsonl").write_text('{"fol')
    assert retry([], True, tmp_path) == 0
    printed = capsys.readouterr()
    assert f"Workers of {failed.path.name} take them next" in printed.out
    assert str(damaged) in printed.err
