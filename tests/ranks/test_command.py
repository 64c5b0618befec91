"""``mmbench run --gpus-per-cell 2`` on the CPU: two processes start, die, stop and continue."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmbench.errors import UserError
from mmbench.launch.local import python, slots
from mmbench.ranks.group import device_of

SETTINGS = ["--datasets", "mfeat3", "--methods", "concat", "--device", "cpu", "--threads", "1"]
SETTINGS += ["--set", "trainer.epochs=4", "--set", "trainer.precision=fp64", "--jobs", "1"]
RAISES = """
import os
from mmbench import Method, register_method
from mmbench.registry import METHODS

@register_method("raises-in-one")
class RaisesInOne(METHODS.load("concat")):
    def step(self, batch):
        if self.fit.step == 3 and os.environ["RANK"] == "1":
            raise ValueError("only in the second process")
        return super().step(batch)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def command(results, cache, *more):
    base = [sys.executable, "-P", "-m", "mmbench", "run", *SETTINGS, *more]
    return [*base, "--results", str(results), "--cache", str(cache)]


def run(results, cache, *more):
    return subprocess.run(
        command(results, cache, *more), capture_output=True, text=True, check=False
    )


def record(results):
    (file,) = results.glob("runs/*/record.json")
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def straight(cache, tmp_path_factory):
    """The record of one process that is never stopped."""
    results = tmp_path_factory.mktemp("straight")
    assert run(results, cache).returncode == 0
    return record(results)


def same(one, two):
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == pytest.approx(two, rel=1e-9) if isinstance(one, float) else one == two


def agree(found, straight):
    for kind in ("final", "selection", "imbalance"):
        assert same(found[kind], straight[kind])
    for row, other in zip(found["curve"], straight["curve"], strict=True):
        assert same(row | {"seconds": 0.0}, other | {"seconds": 0.0})


def newest(results):
    steps = [int(f.name.partition("-")[2]) for f in results.glob("runs/*/checkpoint-*")]
    return max(steps, default=0)


def reach(process, results, step):
    while newest(results) < step:
        assert process.poll() is None
        time.sleep(0.01)


def descendants(pid):
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return
    for child in map(int, text.split()):
        yield child
        yield from descendants(child)


def process_of(rank, pool):
    """Return the process id of one of those that train."""
    for pid in descendants(pool.pid):
        if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text():
            return pid
    raise AssertionError(f"no process has rank {rank}")


def started(results, cache, *more):
    return subprocess.Popen(
        command(results, cache, "--checkpoint-seconds", "0", *more),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_process_ends_the_cell_with_a_clear_failure_and_it_continues(
    cache, straight, tmp_path
):
    pool = started(tmp_path, cache, "--gpus-per-cell", "2")
    reach(pool, tmp_path, 5)
    os.kill(process_of(1, pool), signal.SIGKILL)
    out = pool.communicate()[0]
    assert pool.returncode == 1
    assert "its worker ended with code 1; see the end of" in out
    (log,) = (tmp_path / "runs" / ".logs").iterdir()
    assert "SIGKILL" in log.read_text()
    assert run(tmp_path, cache, "--gpus-per-cell", "2").returncode == 0
    found = record(tmp_path)
    assert found["environment"]["ranks"] == 2
    assert found["timing"]["resumed"] == 1
    agree(found, straight)


@pytest.mark.slow
def test_all_stop_at_one_step_and_one_process_can_continue(cache, straight, tmp_path):
    pool = started(tmp_path, cache, "--gpus-per-cell", "2")
    reach(pool, tmp_path, 5)
    pool.send_signal(signal.SIGINT)
    assert "interrupted" in pool.communicate()[0]
    assert pool.returncode == 130
    assert run(tmp_path, cache).returncode == 0
    found = record(tmp_path)
    assert found["environment"]["ranks"] == 1
    assert found["timing"]["resumed"] == 1
    agree(found, straight)


@pytest.mark.slow
def test_a_method_that_raises_in_one_process_fails_the_cell_alone(cache, tmp_path):
    plugin = tmp_path / "raising.py"
    plugin.write_text(RAISES)
    out = run(
        tmp_path, cache, "--methods", "raises-in-one,sum", "--plugin", str(plugin),
        "--gpus-per-cell", "2",
    )  # fmt: skip
    assert out.returncode == 1
    assert "1 done, 1 failed of 2 cells" in out.stdout
    (failure,) = tmp_path.glob("runs/*/failed-001.json")
    assert "only in the second process" in json.loads(failure.read_text())["failure"]["message"]


def test_torchrun_starts_several_processes():
    assert python(1) == [sys.executable, "-P"]
    assert python(3)[-5:] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"
    ]  # fmt: skip


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)


def test_a_slot_is_as_many_gpus_as_a_cell_takes(four_gpus):
    where = [slot.device for slot in slots("auto", None, 1, None, gpus_per_cell=2)]
    assert where == ["cuda:0,cuda:1", "cuda:2,cuda:3"]
    assert len(slots("cuda", None, 2, None, gpus_per_cell=3)) == 2
    assert device_of("cuda:2,cuda:3", 1) == "cuda:3"
    assert device_of("cuda", 1) == "cuda:1"
    assert device_of("cpu", 1) == "cpu"


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_too_few_gpus_are_an_error(device, four_gpus):
    with pytest.raises(UserError, match="--gpus-per-cell 5 needs as many GPUs"):
        slots(device, None, 1, None, gpus_per_cell=5)


@pytest.mark.parametrize(("device", "local"), [("cuda:0,cuda:1", 2), ("cuda:1", 0)])
def test_every_process_needs_its_own_gpu(device, local, four_gpus):
    with pytest.raises(UserError, match="every process of a cell needs its own"):
        device_of(device, local)


def test_cores_are_divided_between_the_processes_of_a_cell(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    places = slots("cpu", None, 1, None, gpus_per_cell=2)
    assert [(slot.device, slot.threads) for slot in places] == [("cpu", 1)] * 4
    assert slots("cpu", 1, 1, None, gpus_per_cell=2)[0].threads == 4
