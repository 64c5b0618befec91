"""A cell killed at any moment continues, and on the CPU ends bitwise as if never stopped."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmbench.data import cache as data_cache
from mmbench.record import now
from mmbench.registry import DATASETS
from mmbench.settings import RunSettings
from mmbench.sweep import Request, expand
from mmbench.training import checkpoint, run_cell

SETTINGS = ["--datasets", "mfeat3", "--set", "trainer.epochs=6", "--jobs", "1", "--threads", "1"]


LONG = ["--set", "trainer.epochs=300"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def command(results: Path, cache: Path, *more: str) -> list[str]:
    base = [sys.executable, "-P", "-m", "mmbench", "run", *SETTINGS]
    return [*base, "--results", str(results), "--cache", str(cache), *more]


def run(results, cache, *more):
    return subprocess.run(
        command(results, cache, *more), capture_output=True, text=True, check=False
    )


def record(results: Path) -> dict:
    (file,) = results.glob("runs/*/record.json")
    return json.loads(file.read_text())


def numbers(found: dict) -> list:
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in found["curve"]]
    return [rows, found["final"], found["selection"]]


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(p) for p in text.split()]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["concat", "iprm"])
def test_resume_after_kill_matches_uninterrupted_run(method, cache, tmp_path):
    more = ["--methods", method, "--checkpoint-seconds", "0"]
    assert run(tmp_path / "straight", cache, *more).returncode == 0
    straight = record(tmp_path / "straight")
    kills = 0
    for reach in (5, 30, 70, None):  # three kills, in different epochs; then to the end
        process = subprocess.Popen(
            command(tmp_path / "killed", cache, *more), stdout=subprocess.DEVNULL
        )
        while process.poll() is None:
            if reach is not None and newest(tmp_path / "killed") >= reach:
                kills += 1
                for child in children(process.pid):
                    os.kill(child, signal.SIGKILL)
                process.kill()
                process.wait()
            time.sleep(0.002)
    resumed = record(tmp_path / "killed")
    assert resumed["timing"]["resumed"] == kills == 3
    assert numbers(resumed) == numbers(straight)


def newest(results: Path) -> int:
    steps = [int(f.name.partition("-")[2]) for f in results.glob("runs/*/checkpoint-*")]
    return max(steps, default=0)


def test_finished_cells_are_skipped(cache, tmp_path):
    assert run(tmp_path, cache, "--methods", "concat").returncode == 0
    (file,) = tmp_path.glob("runs/*/record.json")
    before = file.stat().st_mtime_ns
    again = run(tmp_path, cache, "--methods", "concat")
    assert again.returncode == 0
    assert "1 finished already, 0 to run" in again.stdout
    assert file.stat().st_mtime_ns == before


def test_truncated_checkpoint_falls_back_to_the_one_before(cache, tmp_path):
    process = subprocess.Popen(
        command(tmp_path, cache, "--methods", "concat", "--checkpoint-seconds", "0"),
        stdout=subprocess.DEVNULL,
    )
    while newest(tmp_path) < 10:
        assert process.poll() is None
        time.sleep(0.005)
    for child in children(process.pid):
        os.kill(child, signal.SIGKILL)
    process.kill()
    process.wait()
    files = sorted(tmp_path.glob("runs/*/checkpoint-*"))
    files[-1].write_bytes(files[-1].read_bytes()[:100])
    done = run(tmp_path, cache, "--methods", "concat")
    assert done.returncode == 0
    assert f"{files[-1].name} is truncated" in done.stdout
    assert f"continuing from {files[-2].name}" in done.stdout
    assert record(tmp_path)["timing"]["resumed"] == 1


def test_nan_loss_fails_the_cell_with_epoch_and_step(cache, tmp_path):
    done = run(
        tmp_path, cache, "--methods", "concat,sum", "--set", "trainer.lr=1e30",
        "--set", "trainer.momentum=0",
    )  # fmt: skip
    assert done.returncode == 1
    assert "the loss is not finite at epoch 1, step" in done.stdout
    assert len(list(tmp_path.glob("runs/*/failed-001.json"))) == 2


def test_failing_cell_does_not_stop_the_rest(cache, tmp_path):
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        '"""Broken on purpose."""\n'
        "from mmbench import Method, register_method\n\n"
        '@register_method("broken")\n'
        "class Broken(Method):\n"
        '    """Broken on purpose."""\n'
        "    def step(self, batch):\n"
        "        raise ValueError('no step today')\n"
    )
    done = run(
        tmp_path, cache, "--methods", "broken,concat", "--plugin", str(plugin)
    )  # fmt: skip
    assert done.returncode == 1
    assert "1 done, 1 failed of 2 cells" in done.stdout
    (failed,) = tmp_path.glob("runs/*/failed-001.json")
    failure = json.loads(failed.read_text())["failure"]
    assert failure["kind"] == "ValueError"
    assert "no step today" in failure["traceback"]


def test_interrupt_stops_cleanly_and_says_how_to_continue(cache, tmp_path):
    process = subprocess.Popen(
        command(tmp_path, cache, "--methods", "concat", "--set", "trainer.epochs=5000"),
        stdout=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("runs/*/progress.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command to continue" in out
    assert "1 interrupted of 1 cell" in out
    assert list(tmp_path.glob("runs/*/checkpoint-*"))


SLOW = """
import time
from mmbench.methods.concat import Concat
from mmbench.registry import register_method


@register_method("my-slow")
class Slow(Concat):
    def step(self, batch):
        time.sleep(120)
        return super().step(batch)
"""


def test_a_second_interrupt_does_not_wait_for_the_step(cache, tmp_path):
    plugin = tmp_path / "slow.py"
    plugin.write_text(SLOW)
    process = subprocess.Popen(
        command(tmp_path, cache, "--methods", "my-slow", "--plugin", str(plugin)),
        stdout=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("runs/*/cell.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    while "Ctrl-C once more ends at once" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "1 interrupted of 1 cell" in out


def test_the_time_of_a_continued_run_covers_all_its_sessions(cache, tmp_path):
    process = subprocess.Popen(command(tmp_path, cache, "--methods", "concat", *LONG))
    while not list(tmp_path.glob("runs/*/checkpoint-*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    (folder,) = tmp_path.glob("runs/mfeat3.*")
    state, _ = checkpoint.latest(folder)
    stopped = now()
    time.sleep(1.1)  # times are told to the second
    assert run(tmp_path, cache, "--methods", "concat", *LONG).returncode == 0
    found = record(tmp_path)
    assert found["started"] == state["started"] <= stopped < found["finished"]
    assert found["timing"]["total"] > state["total_seconds"] + found["timing"]["epoch_mean"]
    assert found["timing"]["resumed"] == 1


def test_a_run_has_finished_once_all_is_measured(cache, tmp_path, monkeypatch):
    data_cache.prepare(DATASETS.load("mfeat3")(), cache=cache)
    asked = Request(
        methods=["concat"], datasets=["mfeat3"], seeds=[0], settings={"trainer.epochs": 1}
    )
    minutes, measure, ended = itertools.count(), run_cell.measure, []

    def ticking():
        return f"2026-01-01T00:{next(minutes):02d}:00+00:00"

    def watched(*given):
        found = measure(*given)
        ended.append(ticking())
        return found

    monkeypatch.setattr(run_cell, "now", ticking)
    monkeypatch.setattr(run_cell, "measure", watched)
    (cell,) = expand(asked, cache)
    found = run_cell.run_cell(cell, results=tmp_path, cache=cache, run=RunSettings(device="cpu"))
    assert found.started < ended[0] < found.finished


def test_when_no_checkpoint_is_whole_that_is_said_and_the_run_starts_again(tmp_path):
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step:09d}").write_bytes(b"cut")
    state, complaints = checkpoint.latest(tmp_path)
    assert state is None
    assert [c.endswith("there is no whole one, starting again") for c in complaints] == [True] * 2
