"""What can befall a sweep on a cluster; afterwards the table is as if nothing had happened."""

import contextlib
import os
import shutil
import signal
import subprocess
import time

import pytest

from mmbench.launch import lease as leases
from mmbench.launch import snapshot
from mmbench.testing.slurm import NODES, faketime


def kill(*processes: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("how", [[], ["--signal=KILL", "--full"]], ids=["politely", "at once"])
def test_scancel_in_the_middle_of_an_epoch(grid, how):
    grid.submit("--max-jobs", "2")
    (folder, *_) = grid.wait_training()
    grid.cluster.command("scancel", *how, grid.owner_of(folder)["job"])
    grid.ends_as_undisturbed()


def test_the_time_limit_in_the_middle_of_an_epoch(grid):
    grid.submit(*grid.profile(warn=115), "--max-jobs", "1")
    (folder,) = grid.wait_training()
    job = grid.owner_of(folder)["job"]
    limit = ("scontrol", "update", f"JobId={job}")
    grid.cluster.command(*limit, f"TimeLimit={grid.cluster.minutes(job) + 2}")
    grid.wait(lambda: "back in the queue" in grid.log(), "the job to requeue itself")
    grid.cluster.command(*limit, "TimeLimit=30")
    assert "stopping: checkpoints are written" in grid.log()
    assert list(grid.results.glob("runs/*/checkpoint-*"))
    grid.ends_as_undisturbed()
    assert grid.log().count(f"job {job} on") == 2


def test_a_more_urgent_job_takes_the_place_of_all_workers(grid):
    grid.submit("--partition", "main")
    grid.wait_training(3)
    grid.cluster.command(
        "sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--time=1", "--wrap",
        "sleep 3", "--output=/dev/null",
    )  # fmt: skip
    grid.wait(lambda: grid.log().count("stopping") == 3, "the workers to stop")
    grid.ends_as_undisturbed()


def test_kill_9_of_the_process_that_trains(grid):
    grid.submit("--max-jobs", "1")
    (folder,) = grid.wait_training()
    kill(grid.child_of(folder))
    grid.wait(lambda: len(list(folder.glob("failed-*.json"))) == 1, "the death to be noted")
    (failed,) = folder.glob("failed-*.json")
    failed.unlink()  # of no interest to the comparison
    grid.ends_as_undisturbed()


def test_kill_9_of_a_worker_with_all_its_processes(grid):
    grid.submit("--max-jobs", "2")
    (folder, *_) = grid.wait_training()
    kill(grid.owner_of(folder)["pid"], grid.child_of(folder))
    grid.ends_as_undisturbed()


def test_a_lease_that_is_damaged(grid):
    grid.submit("--max-jobs", "2")
    (folder, *_) = grid.wait_training()
    processes = grid.owner_of(folder)["pid"], grid.child_of(folder)
    lease = grid.lease_of(folder)
    lease.write_bytes(b'{"worker": 3, \xff')
    kill(*processes)
    then = lease.stat().st_mtime - leases.SECONDS + grid.lease  # its end is near
    os.utime(lease, (then, then))
    grid.ends_as_undisturbed()


def test_a_node_whose_daemon_stops_and_starts_again(grid):
    grid.submit()
    (folder, *_) = grid.wait_training()
    job = grid.owner_of(folder)["job"]
    (node,) = {j["node"] for j in grid.cluster.jobs("R") if j["task"] == job}
    grid.cluster.stop(node)
    shown = ("sinfo", "-h", "-N", "-p", "main", "-n", node, "-o", "%t")
    grid.wait(lambda: "down" in grid.cluster.command(*shown), "the node to be given up", 90)
    grid.cluster.start_node(node)
    grid.ends_as_undisturbed()


def test_a_controller_that_is_restarted(grid):
    grid.submit("--max-jobs", "2")
    grid.wait_training()
    grid.cluster.stop("slurmctld")
    time.sleep(2)
    grid.cluster.start_controller()
    grid.ends_as_undisturbed()


def test_two_submitters_at_once(grid):
    given = grid.profile()
    both = [
        subprocess.Popen(grid.command(*given), env=grid.environment, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    assert len(list(grid.results.glob("sweeps/*/sweep.json"))) == 2
    grid.ends_as_undisturbed()


@pytest.fixture
def small_disk(grid):
    """A results folder with little room."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(grid.results)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    yield grid.results
    grid.cluster.clear()
    subprocess.run(["umount", "--lazy", str(grid.results)], check=True)


def test_a_full_quota(grid, small_disk):
    grid.submit("--max-jobs", "2")
    grid.wait_training()
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as handle:
        while handle.write(b"\0" * 4096):
            pass
    full = os.statvfs(small_disk)
    assert full.f_bavail == 0
    time.sleep(3 * grid.lease)
    assert len(grid.records()) == 0
    ballast.unlink()
    grid.ends_as_undisturbed()


def test_a_node_whose_clock_is_an_hour_ahead(grid):
    library = faketime()
    if library is None:
        pytest.skip("libfaketime is not installed, and could not be")
    skewed = (
        f"case $SLURMD_NODENAME in n1) export LD_PRELOAD={library} FAKETIME=+3600 "
        f"NO_FAKE_STAT=1 FAKE_UTIME=1 DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_FAKE_MONOTONIC=1;; esac"
    )
    given = grid.profile(text=f"setup = ['{skewed}', 'echo clock: $(date +%s)']")
    grid.submit(*given)
    folders = grid.wait_training(2)
    clocks = {line for line in grid.log().splitlines() if line.startswith("clock")}
    hours = {round(int(line.split()[1]) / 3600) for line in clocks}
    assert len(hours) == 2, clocks
    kill(grid.owner_of(folders[0])["pid"], grid.child_of(folders[0]))
    grid.ends_as_undisturbed()


def test_editing_the_code_after_submitting_changes_nothing(grid):
    tree = grid.folder / "tree"
    snapshot.take(tree, [])
    given = grid.profile(text="[slurm]\nhold = true")
    grid.submit(*given, PYTHONPATH=str(tree))
    for file in (grid.plugin, tree / "mmbench/methods/concat.py", tree / "mmbench/store.py"):
        file.write_text('raise RuntimeError("edited")\n')
    shutil.rmtree(tree / "mmbench" / "training")
    grid.cluster.command("scontrol", "release", *[job["id"] for job in grid.cluster.jobs("PD")])
    grid.ends_as_undisturbed()


def test_all_nodes_are_those_of_the_configuration(cluster):
    shown = cluster.command("sinfo", "-h", "-N", "-p", "main", "-o", "%N").split()
    assert tuple(sorted(shown)) == NODES
