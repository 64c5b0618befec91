"""Watching and steering a sweep that runs on a real SLURM: status, logs, cancel, retry, work."""

import contextlib
import json
import os
import signal
import subprocess
import sys


def sweep_of(grid):
    (sweep,) = (file.parent for file in grid.results.glob("sweeps/*/sweep.json"))
    return sweep


def by_hand(grid, sweep):
    """Run ``mmbench work`` on this machine, outside of SLURM, to its end."""
    with (sweep / "logs" / "by-hand").open("w") as log:
        return subprocess.run(
            [sys.executable, "-P", "-m", "mmbench", "work", str(sweep)],
            env=grid.environment, stdout=log, stderr=log, check=False, timeout=300,
        ).returncode  # fmt: skip


def test_status_has_slurms_word_beside_and_does_without_it(grid):
    grid.submit("--max-jobs", "2")
    folders = grid.wait_training(2)
    shown = grid.mmbench("status")
    assert shown.returncode == 0, shown.stderr
    assert "2 running, 1 waiting of 3 cells" in shown.stdout
    assert ": 2 RUNNING\n" in shown.stdout
    told = json.loads(grid.mmbench("status", "--json").stdout)
    assert {job["id"] for job in told["slurm"]["jobs"]} == {
        grid.owner_of(folder)["job"] for folder in folders
    }
    assert {job["node"] for job in told["slurm"]["jobs"]} <= {"n1", "n2", "n3"}
    grid.cluster.stop("slurmctld")
    shown = grid.mmbench("status")
    assert shown.returncode == 0, shown.stderr
    assert "2 running, 1 waiting of 3 cells" in shown.stdout
    assert "SLURM: squeue does not answer" in shown.stdout
    grid.cluster.start_controller()
    grid.ends_as_undisturbed()


def test_what_is_done_is_collected_while_others_run(grid):
    grid.submit()
    grid.wait_training(3)
    grid.hurry(seed=1)
    grid.wait(grid.records, "a record")
    assert "collected 1 record " in grid.mmbench("collect").stdout
    assert "1 done, 2 running of 3 cells" in grid.mmbench("status").stdout
    grid.ends_as_undisturbed()
    assert "collected 2 records" in grid.mmbench("collect").stdout


def test_a_cancelled_sweep_leaves_the_queue_and_goes_on_when_submitted_again(grid):
    whole_node = ("--cpus", "2", "--jobs", "1", "--threads", "1")
    grid.submit(*whole_node, "--slurm", "nodelist=n1")
    grid.wait_training()
    grid.wait(lambda: grid.cluster.jobs("PD"), "a job that waits")
    done = grid.mmbench("cancel", sweep_of(grid).name)
    assert done.returncode == 0, done.stderr
    grid.wait(lambda: not grid.cluster.jobs("PD,R,CG"), "the jobs to end")
    assert not grid.records()
    (kept,) = grid.results.glob("runs/*/lease-*.json")
    assert kept.name.endswith(".released.json")
    assert "1 interrupted, 2 cancelled of 3 cells" in grid.mmbench("status").stdout
    grid.submit()
    grid.ends_as_undisturbed()


def test_three_deaths_give_a_cell_up_and_the_rest_goes_on_until_it_is_retried(grid):
    grid.submit()
    (folder, *_) = grid.wait_training(3)
    for time in range(3):
        grid.wait(lambda: _trains(grid, folder), f"the cell to train, try {time + 1}")
        os.kill(grid.child_of(folder), signal.SIGKILL)
        grid.wait(lambda n=time + 1: len(list(folder.glob("failed-*.json"))) >= n, "its failure")
    grid.hurry()
    grid.wait(lambda: not grid.cluster.jobs("PD,R,CG"), "the jobs to end")
    assert len(grid.records()) == 2
    shown = grid.mmbench("status").stdout
    assert "2 done, 1 failed of 3 cells" in shown
    said = grid.mmbench("logs", folder.name).stdout
    assert "3 times: its worker was killed by SIGKILL" in said
    assert "begins on" in said
    last = json.loads(max(folder.glob("failed-*.json")).read_text())["failure"]
    assert last["final"]
    assert "begins on" in last["log"]
    assert by_hand(grid, sweep_of(grid)) == 1, "it stays given up"
    assert grid.mmbench("retry", "--failed").returncode == 0
    assert by_hand(grid, sweep_of(grid)) == 0
    retried = list(folder.glob("retried-*.json"))
    assert len(retried) == 4  # three deaths and the verdict
    for file in retried:
        file.unlink()  # of no interest to the comparison
    grid.ends_as_undisturbed()


def test_a_cell_that_takes_its_jobs_along_is_given_up_across_submissions(grid):
    words = ("--seeds", "1", "--max-jobs", "1", "--checkpoint-seconds", "600")
    for number in (1, 2, 3):
        grid.submit(*words)
        grid.wait(lambda n=number: list(grid.results.glob(f"runs/*/lease-000{n}.json")), "a claim")
        (lease,) = grid.results.glob(f"runs/*/lease-000{number}.json")
        folder = lease.parent
        for process in (grid.owner_of(folder)["pid"], grid.child_of(folder)):
            os.kill(process, signal.SIGKILL)
        grid.wait(lambda: not grid.cluster.jobs("PD,R,CG"), "the job to end")
        os.utime(lease, (1, 1))
        if number < 3:
            shown = grid.mmbench("status").stdout
            assert f"{number} worker" in shown and "died at it" in shown
            assert "died at it (on " in grid.mmbench("logs", folder.name).stdout
    done = grid.run(*grid.profile(), *words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"given up: {folder.name}: 3 workers died at it" in done.stdout
    assert "1 failed of 1 cell" in grid.mmbench("status").stdout
    assert grid.mmbench("retry", "--failed").returncode == 0
    grid.hurry()
    grid.submit(*words)
    grid.wait(grid.records, "a record")


def _trains(grid, folder):
    """Say whether the holder of the newest lease has a process that trains this cell."""
    with contextlib.suppress(OSError, ValueError):
        if ".failed." not in grid.lease_of(folder).name:
            progress = json.loads((folder / "progress.json").read_text())
            return progress["pid"] == grid.child_of(folder)
    return False


def test_a_worker_by_hand_does_the_work_of_jobs_that_wait(grid):
    grid.submit(*grid.profile(text="[slurm]\nhold = true"))
    grid.hurry()
    assert by_hand(grid, sweep_of(grid)) == 0
    assert len(grid.records()) == 3
    grid.cluster.command("scontrol", "release", *[job["id"] for job in grid.cluster.jobs("PD")])
    grid.ends_as_undisturbed()


def test_two_processes_train_a_cell_and_lose_nothing_when_it_is_cancelled(grid):
    grid.submit("--cpus", "2", "--gpus-per-cell", "2", "--max-jobs", "2")
    (folder, *_) = grid.wait_training(2)
    grid.cluster.command("scancel", grid.owner_of(folder)["job"])
    grid.wait(lambda: list(folder.glob("lease-0001.released.json")), "the cell to be let go")
    grid.hurry()
    grid.wait(lambda: len(grid.records()) == 3, "three records")
    assert not list(grid.results.glob("runs/*/failed-*.json"))
    for file in grid.results.glob("runs/*/record.json"):
        record = json.loads(file.read_text())
        assert record["environment"]["ranks"] == 2
        assert record["environment"]["threads"] == 1
        other = grid.reference.records()[file.parent.name]
        assert record["selection"]["epoch"] == other["selection"]["epoch"]
        for row, same in zip(record["curve"], other["curve"], strict=True):
            assert abs(row["train"]["loss"] - same["train"]["loss"]) < 1e-5  # rounding
