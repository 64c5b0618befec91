"""How many cells share a GPU follows from measured memory."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.cli import running
from mmbench.launch.estimate import Estimate
from mmbench.launch.local import Pool, Slot
from mmbench.launch.per_gpu import CONTEXT, SHARE, cells_at_once, host_takes
from mmbench.settings import RunSettings

GIB = 2**30


@pytest.mark.parametrize(
    ("free", "largest", "cells", "count"),
    [(80 * GIB, 3 * GIB, 100, 18), (80 * GIB, 3 * GIB, 4, 4), (4 * GIB, 6 * GIB, 9, 1)],
)
def test_as_many_cells_as_the_memory_takes(free, largest, cells, count):
    assert cells_at_once(free, largest, cells) == count


@given(st.integers(0, 200 * GIB), st.integers(0, 100 * GIB), st.integers(1, 500))
def test_more_than_one_only_if_they_fit(free, largest, cells):
    count = cells_at_once(free, largest, cells)
    assert 1 <= count <= cells
    assert count == 1 or count * (largest + CONTEXT) <= SHARE * free


@pytest.mark.parametrize("value", ["0", "many", "-1", "1.5"])
def test_a_count_that_is_none_is_refused(value, tmp_path):
    command = [sys.executable, "-P", "-m", "mmbench", "run", "--methods", "concat"]
    command += ["--datasets", "mfeat3", "--results", str(tmp_path / "r"), "--per-gpu", value]
    done = subprocess.run(
        [*command, "--cache", str(tmp_path / "c")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--per-gpu is a number from 1 on, or auto" in done.stderr


ROOMY = {"the host's cores": 64, "the host's memory": 100}


def chosen(monkeypatch, tmp_path, host=ROOMY, **typed):
    """Return how many of 100 cells share a GPU, the largest needing 3 GiB of 80."""
    monkeypatch.setattr("mmbench.launch.per_gpu.free_memory", lambda device: 80 * GIB)
    monkeypatch.setattr("mmbench.launch.per_gpu.host_takes", lambda device: host)
    guesses = {str(n): Estimate(1.0, (n % 3 + 1) * GIB, "past runs") for n in range(100)}
    monkeypatch.setattr("mmbench.cli.running._estimates", lambda *args: guesses)
    options = {"per_gpu": "auto", "device": "cuda", "study": "", "results": tmp_path, **typed}
    return running._per_gpu([None] * 100, SimpleNamespace(**options), RunSettings())


def test_the_count_follows_the_largest_cell_and_is_told(monkeypatch, tmp_path, capsys):
    assert chosen(monkeypatch, tmp_path) == 18
    said = "18 cells at once on each GPU: the largest needs 3.0 GiB of 80.0 GiB that are free"
    assert f"{said}; limited by the GPU's memory\n" in capsys.readouterr().out


@pytest.mark.parametrize("limit", ROOMY)
def test_no_more_cells_share_a_gpu_than_the_host_bears(limit, monkeypatch, tmp_path, capsys):
    assert chosen(monkeypatch, tmp_path, host=ROOMY | {limit: 7}) == 7
    assert f"; limited by {limit}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gpus", "cores", "gib", "takes"),
    [(1, 16, 128, (16, 51)), (4, 16, 20, (4, 2)), (8, 4, 9, (1, 1))],
)
def test_the_gpus_divide_the_cores_and_memory_of_the_host(gpus, cores, gib, takes, monkeypatch):
    monkeypatch.setattr("mmbench.launch.per_gpu._gpus", lambda device: [None] * gpus)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(cores), raising=False)
    monkeypatch.setattr("mmbench.training.device.free_memory", lambda device: gib * GIB)
    assert tuple(host_takes("cuda").values()) == takes


@pytest.mark.parametrize("typed", ["auto", "4"])
def test_a_study_about_time_never_shares(typed, monkeypatch, tmp_path, capsys):
    assert chosen(monkeypatch, tmp_path, per_gpu=typed, study="cost") == 1
    assert "one cell at a time" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("devices", "fraction"),
    [(["cuda:0"], 0.6), (["cuda:0", "cuda:1"] * 3, 0.2), (["cpu"] * 3, 0.6)],
)
def test_workers_on_one_gpu_divide_the_memory_that_data_may_take(devices, fraction, tmp_path):
    places = [Slot(device, 1) for device in devices]
    pool = Pool(tmp_path, tmp_path, RunSettings(resident_fraction=0.6), places, [], print)
    for slot in places:
        assert pool.settings(slot).resident_fraction == pytest.approx(fraction)
