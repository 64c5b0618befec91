"""Workers that share a sweep: every cell runs to its end once, whoever dies."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from mmbench.cli.steering import retry
from mmbench.launch import lease as leases
from mmbench.launch.lease import Owner
from mmbench.settings import RunSettings
from mmbench.store import read_record
from mmbench.testing.slurm import Unavailable, faketime, install

LONG = 100  # epochs: time enough to interfere


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(p) for p in text.split()]


def said(sweep, kind):
    """Return how often the claimers said this of each cell."""
    lines = [line for p in sweep.processes for line in p.log.read_text().splitlines()]
    return Counter(line.split()[2].rstrip(":") for line in lines if f" {kind} " in line)


def once(sweep):
    return Counter({d.name: 1 for d in sweep.directories()})


def wait_for_text(process, text, file=None):
    while text not in (file or process.log).read_text():
        assert process.poll() is None, process.log.read_text()
        time.sleep(0.02)


def kill_all(process):
    """End a claimer and its children, as a machine that fails would."""
    for pid in [process.pid, *children(process.pid)]:
        os.kill(pid, signal.SIGKILL)
    process.wait()


def age(sweep, seconds=3600):
    """Make all leases look as if nobody had touched them for so long."""
    for file in sweep.folder.runs.glob("*/lease-*.json"):
        then = file.stat().st_mtime - seconds
        os.utime(file, (then, then))


def names(sweep, pattern):
    return sorted(file.name for file in sweep.folder.runs.glob(f"*/{pattern}"))


def test_two_workers_share_the_cells_and_none_runs_twice(make):
    sweep = make(seeds=8)
    both = [sweep.start("--per-gpu", "2"), sweep.start()]
    assert [p.wait(timeout=300) for p in both] == [0, 0]
    assert said(sweep, "started") == said(sweep, "done") == once(sweep)
    assert all(d.joinpath("record.json").exists() for d in sweep.directories())
    assert not names(sweep, "lease-*")


def test_a_dead_workers_cell_is_continued_from_its_checkpoint_bit_for_bit(make, tmp_path):
    sweep = make(epochs=LONG)
    first = sweep.start()
    sweep.wait_for("*/checkpoint-*")
    kill_all(first)
    assert names(sweep, "lease-*") == ["lease-0001.json"]
    age(sweep)
    code, said_last = sweep.run()
    assert code == 0, said_last
    assert sweep.records()[0].timing.resumed == 1
    assert sweep.numbers() == sweep.undisturbed(tmp_path / "straight")


def test_a_killed_child_is_replaced_and_its_cell_continued_bit_for_bit(make, tmp_path):
    sweep = make(epochs=LONG)
    claimer = sweep.start()
    sweep.wait_for("*/checkpoint-*")
    (child,) = children(claimer.pid)
    os.kill(child, signal.SIGKILL)
    assert claimer.wait(timeout=300) == 0
    (failed,) = sweep.folder.runs.glob("*/failed-*.json")
    assert read_record(failed).failure.message == "its worker was killed by SIGKILL"
    assert sweep.records()[0].timing.resumed == 1
    assert sweep.numbers() == sweep.undisturbed(tmp_path / "straight")


def test_a_killed_claimer_takes_its_children_along_and_another_goes_on(make, tmp_path):
    sweep = make(epochs=LONG)
    first = sweep.start()
    sweep.wait_for("*/checkpoint-*")
    (child,) = children(first.pid)
    first.kill()
    first.wait()
    while Path(f"/proc/{child}").exists():
        time.sleep(0.02)
    assert not names(sweep, "record.json")
    age(sweep)
    assert sweep.run()[0] == 0
    assert sweep.numbers() == sweep.undisturbed(tmp_path / "straight")


@pytest.mark.parametrize("everyone", [False, True], ids=["claimer", "claimer-and-children"])
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_stops_with_a_checkpoint_and_lets_go_of_the_cell(make, number, everyone):
    sweep = make(epochs=5000, checkpoint_seconds=60.0)
    claimer = sweep.start()
    sweep.wait_for("*/progress.json")
    for pid in [claimer.pid, *(children(claimer.pid) if everyone else [])]:
        os.kill(pid, number)
    assert claimer.wait(timeout=60) == 75
    assert names(sweep, "lease-*") == ["lease-0001.released.json"]
    assert names(sweep, "checkpoint-*")
    assert not names(sweep, "failed-*") + names(sweep, "record.json")


def test_a_stop_while_the_child_still_starts_is_heard(make):
    sweep = make()
    claimer = sweep.start()
    wait_for_text(claimer, "takes cells")
    while not children(claimer.pid):
        time.sleep(0.01)
    for pid in [claimer.pid, *children(claimer.pid)]:
        os.kill(pid, signal.SIGTERM)
    assert claimer.wait(timeout=60) == 75


def test_a_cell_that_was_let_go_is_taken_at_once_and_ends_bit_for_bit_the_same(make, tmp_path):
    sweep = make(epochs=LONG)
    first = sweep.start()
    sweep.wait_for("*/checkpoint-*")
    first.send_signal(signal.SIGUSR1)
    assert first.wait(timeout=60) == 75
    assert sweep.run()[0] == 0
    assert sweep.numbers() == sweep.undisturbed(tmp_path / "straight")


def test_an_owner_whose_cell_was_taken_over_stops_without_a_record(make):
    sweep = make(epochs=5000, lease=6.0)
    claimer = sweep.start()
    (file,) = sweep.wait_for("*/progress.json")
    assert leases.take(file.parent, 2, Owner(worker="other", seconds=600.0))
    wait_for_text(claimer, "another worker took over")
    assert not names(sweep, "record.json") + names(sweep, "failed-*")
    assert names(sweep, "lease-*") == ["lease-0001.json", "lease-0002.json"]


def test_a_worker_leaves_the_last_cells_to_others_and_ends(make):
    sweep = make(lease=1.0)
    (folder,) = sweep.directories()
    folder.mkdir()
    other = leases.take(folder, 1, Owner(worker="other", seconds=1.0))
    claimer = sweep.start()
    while claimer.poll() is None:
        other.beat()
        time.sleep(0.05)
    assert claimer.returncode == 0
    assert "1 cells are with other workers" in claimer.log.read_text()
    assert len(list(sweep.folder.logs.glob("worker-*.log"))) == 1, "no process was started in vain"


def test_a_cancelled_sweep_stops_with_checkpoints_and_nothing_goes_on(make):
    sweep = make(seeds=2, epochs=5000)
    claimer = sweep.start()
    sweep.wait_for("*/progress.json")
    (sweep.folder.path / "cancelled").touch()
    assert claimer.wait(timeout=60) == 0
    assert "cancelled" in claimer.log.read_text()
    assert names(sweep, "lease-*") == ["lease-0001.released.json"]
    assert sweep.run()[0] == 0
    assert not names(sweep, "record.json")


def test_machines_whose_clocks_differ_leave_each_others_cells_alone(make, tmp_path):
    with suppress(Unavailable):
        install()
    library = faketime()
    if library is None:
        pytest.skip("libfaketime is not installed, and could not be")
    sweep = make(seeds=3, epochs=LONG)
    # Times of files stay real, as the file server's are.
    real = {"NO_FAKE_STAT": "1", "FAKE_UTIME": "1", "DONT_FAKE_MONOTONIC": "1"}
    skewed = {**os.environ, **real, "LD_PRELOAD": str(library)}
    ahead = sweep.start(env={**skewed, "FAKETIME": "+2h"})
    behind = sweep.start(env={**skewed, "FAKETIME": "-2h"})
    right = sweep.start()
    assert [p.wait(timeout=300) for p in (ahead, behind, right)] == [0, 0, 0]
    assert said(sweep, "started") == said(sweep, "done") == once(sweep)
    assert sweep.numbers() == sweep.undisturbed(tmp_path / "straight")


PLUGIN = """
import os, sys
from mmbench.methods.concat import Concat
from mmbench.registry import register_method


@register_method("{name}")
class Bad(Concat):
    def step(self, batch):
        print("the last words", file=sys.stderr, flush=True)
        {act}
"""


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        ("raise ValueError(f'no step at {id(self)}')", "ValueError", "3 times: no step"),
        ("os.kill(os.getpid(), 9)", "WorkerDied", "3 times: its worker was killed by SIGKILL"),
    ],
    ids=["raises", "dies"],
)
def test_a_cell_that_fails_three_times_is_given_up_and_the_rest_goes_on(
    make, tmp_path, act, kind, message
):
    plugin = tmp_path / "bad.py"
    plugin.write_text(PLUGIN.format(name=f"bad-{kind.lower()}", act=act))
    sweep = make(methods=[f"bad-{kind.lower()}", "concat"], plugins=[plugin])
    code, text = sweep.run()
    assert code == 1, text
    assert "given up: " in text
    assert said(sweep, "done").total() == 1
    assert said(sweep, "failed").total() == 3
    *_, last = sorted(sweep.folder.runs.glob("*/failed-*.json"))
    failure = read_record(last).failure
    assert failure.final
    assert failure.kind == kind
    assert failure.message.startswith(message)
    assert "the last words" in failure.log
    before = len(names(sweep, "failed-*"))
    assert sweep.run()[0] == 1  # it is not tried again ...
    assert len(names(sweep, "failed-*")) == before
    retry([], True, sweep.folder.results)
    assert sweep.run()[0] == 1  # ... until someone asks for it
    assert len(names(sweep, "failed-*")) == len(names(sweep, "retried-*")) == before


def test_a_cell_that_takes_its_whole_job_along_is_given_up_by_the_fourth_worker(make, tmp_path):
    plugin = tmp_path / "bad.py"
    both = "os.kill(os.getppid(), 9); os.kill(os.getpid(), 9)"
    plugin.write_text(PLUGIN.format(name="bad-both", act=both))
    sweep = make(methods=["bad-both"], plugins=[plugin])
    for number in (1, 2, 3):
        assert sweep.run()[0] == -signal.SIGKILL
        assert names(sweep, "lease-*")[-1] == f"lease-000{number}.json"
        assert not names(sweep, "failed-*")
        age(sweep)
    code, text = sweep.run()
    assert code == 1
    assert "3 workers died at it" in text
    (failed,) = sweep.folder.runs.glob("*/failed-*.json")
    assert "the last words" in read_record(failed).failure.log


def test_a_record_that_cannot_be_read_is_told_and_is_not_finished_work(make):
    sweep = make(seeds=2)
    assert sweep.run() == (0, sweep.processes[-1].log.read_text())
    folder, *_ = sweep.directories()
    (folder / "record.json").write_bytes(b"")
    code, text = sweep.run()
    assert code == 1
    assert f"unreadable: {folder.name}" in text
    assert "1 record cannot be read: mmbench run" in text
    assert "no cell is left" not in text


def limit(pids, size):
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_loses_nothing_and_work_goes_on_when_there_is_room(make, tmp_path):
    sweep = make(epochs=LONG, lease=6.0)
    claimer = sweep.start()
    sweep.wait_for("*/checkpoint-*")
    limit(children(claimer.pid), 4096)  # no checkpoint and no record fits
    wait_for_text(claimer, "make room")
    assert names(sweep, "lease-*") == ["lease-0001.released.json"]
    limit(children(claimer.pid), resource.RLIM_INFINITY)
    assert claimer.wait(timeout=300) == 0
    assert sweep.records()[0].timing.resumed >= 1
    assert not names(sweep, "failed-*")
    assert sweep.numbers() == sweep.undisturbed(tmp_path / "straight")


def test_a_disk_too_full_for_a_lease_is_waited_for(make):
    sweep = make(lease=6.0)
    (sweep.folder.path / "room").touch()
    claimer = sweep.start()
    limit([claimer.pid], 0)
    while not children(claimer.pid):
        time.sleep(0.01)
    # What it prints cannot be written either; that it goes on shows that it waited.
    time.sleep(0.1)
    limit([claimer.pid, *children(claimer.pid)], resource.RLIM_INFINITY)
    assert claimer.wait(timeout=120) == 0
    assert said(sweep, "done") == once(sweep)


def test_a_worker_that_is_stopped_as_a_cell_comes_says_so(make, tmp_path):
    sweep = make()
    cell = sweep.folder.cell(sweep.folder.entries[0])
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "mmbench.launch.worker", "--results", str(tmp_path / "r"),
         "--cache", str(tmp_path / "c"), "--settings", RunSettings().model_dump_json()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert json.loads(process.stdout.readline())["kind"] == "ready"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        order = {"do": "run", "cell": cell.model_dump(mode="json"), "lease": None}
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == {"id": cell.id, "kind": "interrupted"}
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
    assert not (tmp_path / "r").exists()
