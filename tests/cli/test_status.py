"""``mmbench status``: from files, with SLURM's word beside it when it has one."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mmbench.cli import unfinished, watching
from mmbench.errors import UserError
from mmbench.launch import lease as leases
from mmbench.launch import pools, squeue, sweepfolder
from mmbench.launch.lease import Owner
from mmbench.launch.squeue import Answer, Job
from mmbench.launch.sweepfolder import Facts
from mmbench.store import RunDirectory, Store, iter_records

RECORDS = Path(__file__).parents[2] / "results" / "records"


@pytest.fixture(scope="module")
def done():
    return next(r for r in iter_records(RECORDS) if r.status == "done")


@pytest.fixture
def sweep(tmp_path, done):
    """A submitted sweep of four cells; the first is running as job 7_0."""
    cells = [done.cell.model_copy(update={"seed": seed}) for seed in range(4)]
    made = sweepfolder.create(tmp_path, cells, Facts(cache="unused"))
    (made.path / "jobs.jsonl").write_text('{"job": "7"}\n')
    directory = Store(tmp_path).create(cells[0])
    leases.take(directory.path, 1, Owner(worker="w", host="n1", job="7_0"))
    directory.write_progress(epoch=0, epochs=5, seconds_per_epoch=600.0)
    return made


@pytest.fixture
def slurm(monkeypatch):
    """What SLURM is made to say; its own commands are tested in ``tests/slurm``."""
    said = Answer([
        Job("7_0", "RUNNING", "n1", "1:30:00", "None"),
        Job("7_[1,3-5%2]", "PENDING", "", "2:00:00", "Priority"),
        Job("8_1", "RUNNING", "n1", "1:00", "None"),
    ])  # fmt: skip
    asked = []
    monkeypatch.setattr(squeue, "ask", lambda ids: asked.append(list(ids)) or said)
    return asked


def shown(results, capsys, **options):
    code = watching.status(results, options.pop("json", False), options.pop("watch", False), 0.1)
    return code, capsys.readouterr().out


def test_cells_and_jobs_stand_side_by_side(sweep, slurm, tmp_path, capsys):
    code, text = shown(tmp_path, capsys)
    assert code == 0
    assert slurm == [["7"]]
    counts, line, _, row = text.splitlines()
    assert counts == "1 running, 3 waiting of 4 cells"
    assert line == (
        f"{sweep.path.name}: 1 running, 3 waiting; SLURM 7: 1 RUNNING, 4 PENDING (Priority)"
    )
    assert row.split() == [
        sweep.entries[0].folder, "running", "1/5", "40:00", "n1", "job", "7_0", "RUNNING,",
        "1:30:00", "left",
    ]  # fmt: skip


def test_a_silent_slurm_is_told_and_files_suffice(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, text = shown(tmp_path, capsys)
    assert code == 0
    assert "1 running, 3 waiting of 4 cells" in text
    assert "SLURM: SLURM is not installed here (no squeue); what is shown is from files" in text


def test_a_sweep_that_nobody_works_on_says_how_to_go_on(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(squeue, "ask", lambda ids: Answer([]))
    _, text = shown(tmp_path, capsys)
    assert "nobody is at work" not in text, "a cell is running"
    assert "job 7_0  gone: free when its lease ends" in text, "its job is not in the queue"
    for lease in tmp_path.glob("runs/*/lease-0001.json"):
        lease.rename(lease.with_name("lease-0001.released.json"))
    _, text = shown(tmp_path, capsys)
    assert "SLURM 7: not in the queue" in text
    assert f"mmbench work {sweep.path}" in text.replace("\n", "")


def test_slurm_is_not_asked_about_sweeps_that_are_over(sweep, slurm, tmp_path, done, capsys):
    for entry in sweep.entries:
        cell = sweep.cell(entry)
        Store(tmp_path).create(cell).write(done.model_copy(update={"cell": cell}))
    _, text = shown(tmp_path, capsys)
    assert slurm == []
    assert text.splitlines()[0] == "4 done of 4 cells"


def test_json_has_everything(sweep, slurm, tmp_path, capsys):
    _, text = shown(tmp_path, capsys, json=True)
    told = json.loads(text)
    assert told["counts"] == {"running": 1, "waiting": 3}
    assert [cell["job"] for cell in told["cells"]] == ["7_0", None, None, None]
    assert told["sweeps"][0]["jobs"] == ["7"]
    assert [job["id"] for job in told["slurm"]["jobs"]] == ["7_0", "7_[1,3-5%2]", "8_1"]


def test_what_failed_comes_with_what_to_type_next(sweep, slurm, tmp_path, done, capsys):
    directory = RunDirectory(tmp_path / "runs" / sweep.entries[1].folder)
    directory.path.mkdir()
    for _ in range(3):
        directory.write(done.model_copy(update={"status": "failed"}))
    _, text = shown(tmp_path, capsys)
    assert "failed (3 attempts)" in text
    here = f"--results {tmp_path}"
    said = f"mmbench logs CELL {here} says why, mmbench retry --failed {here} forgives"
    assert f"{said}; the same mmbench run command tries again" in " ".join(text.split())


def test_a_waiting_cell_at_which_workers_died_is_listed(sweep, slurm, tmp_path, capsys):
    folder = tmp_path / "runs" / sweep.entries[1].folder
    folder.mkdir()
    for number in (1, 2):
        lease = leases.take(folder, number, Owner(worker="w"))
        os.utime(lease.file, (1, 1))
    _, text = shown(tmp_path, capsys)
    assert "waiting (2 workers died at it)" in " ".join(text.split())
    assert f"mmbench logs CELL --results {tmp_path} says where" in " ".join(text.split())
    _, text = shown(tmp_path, capsys, json=True)
    assert [cell["deaths"] for cell in json.loads(text)["cells"]] == [0, 2, 0, 0]


@pytest.fixture
def stopped(tmp_path, done):
    """Two cells that a run on this machine had begun, one with a checkpoint; their names."""
    cells = [done.cell.model_copy(update={"seed": seed}) for seed in range(2)]
    folders = [Store(tmp_path).create(cell).path for cell in cells]
    (folders[0] / "checkpoint-7").touch()
    return [folder.name for folder in folders]


INTERRUPTED = (
    "2 cells were interrupted, and nobody is at work on them: "
    "the same mmbench run command continues"
)


def test_interrupted_cells_come_with_the_command_that_continues_them(stopped, tmp_path, capsys):
    _, text = shown(tmp_path, capsys)
    assert text.startswith("1 interrupted, 1 waiting of 2 cells")
    assert INTERRUPTED in " ".join(text.split())
    assert all(name in text for name in stopped)


def test_cells_that_a_pool_will_come_to_are_not_called_interrupted(stopped, tmp_path, capsys):
    with pools.announced(tmp_path, stopped, lambda: None):
        _, text = shown(tmp_path, capsys)
    assert "nobody is at work" not in text


def test_a_report_of_interrupted_cells_alone_says_how_to_go_on(stopped, tmp_path):
    with pytest.raises(UserError, match=INTERRUPTED), unfinished.told(tmp_path, "auto"):
        pytest.fail("there is nothing to report")


def test_a_report_of_other_records_says_that_the_runs_were_interrupted(stopped, tmp_path, capsys):
    (tmp_path / "records").mkdir()
    with unfinished.told(tmp_path, "auto"):
        pass
    said = capsys.readouterr().err
    assert INTERRUPTED in said and f"the tables are those of {tmp_path / 'records'}" in said
    with unfinished.told(tmp_path, "records"):
        pass
    assert capsys.readouterr().err == ""


def test_a_run_directory_that_may_not_be_read_hides_no_other(sweep, slurm, tmp_path, capsys, close):
    folder = tmp_path / "runs" / sweep.entries[1].folder
    folder.mkdir()
    close(folder)
    code, text = shown(tmp_path, capsys)
    assert code == 1
    assert text.startswith("1 running, 2 waiting, 1 unreadable of 4 cells")
    assert "unreadable (Permission denied)" in " ".join(text.split())
    assert "get permission from the owner" in " ".join(text.split())
    assert "sets the damaged record aside" not in text


def test_long_lists_are_cut_and_counted(tmp_path, done, capsys, monkeypatch):
    monkeypatch.setitem(watching.LISTED, "failed", 2)
    for seed in range(5):
        cell = done.cell.model_copy(update={"seed": seed})
        Store(tmp_path).create(cell).write(done.model_copy(update={"status": "failed"}))
    _, text = shown(tmp_path, capsys)
    assert sum(".s" in line for line in text.splitlines()) == 2
    assert "and 3 more failed" in text


def test_a_damaged_sweep_gives_exit_code_1(sweep, slurm, tmp_path, capsys):
    (sweep.path / "sweep.json").write_text("{")
    code, text = shown(tmp_path, capsys)
    assert code == 1
    assert "is not the folder of a sweep" in text


def test_an_empty_folder_says_how_to_begin(tmp_path, capsys):
    code, text = shown(tmp_path / "none", capsys)
    assert code == 0
    assert f"mmbench run --methods all --results {tmp_path / 'none'}" in " ".join(text.split())


def test_watching_prints_a_line_per_change_and_ends_with_the_sweep(sweep, tmp_path, done):
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "mmbench", "status", "--watch", "--every", "0.1",
         "--results", str(tmp_path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    stuck = threading.Timer(300, process.kill)
    stuck.start()
    assert process.stdout.readline().endswith(" 1 running, 3 waiting of 4 cells\n")
    for entry in sweep.entries:
        cell = sweep.cell(entry)
        Store(tmp_path).create(cell).write(done.model_copy(update={"cell": cell}))
    *_, last = process.stdout.read().splitlines()
    assert last.endswith(" 4 done of 4 cells")
    assert process.wait() == 0
    stuck.cancel()


@pytest.mark.parametrize(
    ("id_", "size"),
    [("17", 1), ("17_3", 1), ("17_[4-9]", 6), ("17_[1,3-5%2]", 4), ("17_[1-3,7-...]", 3)],
)
def test_waiting_jobs_of_an_array_are_counted(id_, size):
    assert watching._size(Job(id_, "PENDING", "", "", "")) == size
