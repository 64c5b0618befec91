"""What a run is said to take before it is begun."""

import time
from types import SimpleNamespace

import pytest

from mmbench.cli import running
from mmbench.launch import estimate
from mmbench.launch.estimate import _Clock, estimates
from mmbench.settings import RunSettings
from mmbench.store import Store
from mmbench.sweep import Request, expand
from mmbench.training.trainer import Trainer


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_the_time_of_an_epoch_is_the_time_between_ends_of_epochs():
    assert _Clock(passes=2, begun=100.0, ends=[112.0, 120.0]).epoch(steps=999) == 10.0


def test_a_method_that_makes_more_epochs_of_one_takes_their_time():
    assert _Clock(passes=6, begun=100.0, ends=[110.0]).epoch(steps=999) == 30.0


def test_a_try_that_ends_within_an_epoch_counts_steps_and_not_the_first():
    steps = [150.0, 151.0, 152.0, 154.0]
    assert _Clock(passes=2, begun=100.0, steps=steps).epoch(steps=30) == pytest.approx(40.0)


def test_what_does_not_train_takes_no_time():
    assert _Clock().epoch(steps=30) == 0.0


def test_what_memory_hangs_on_tells_kinds_of_cells_apart(cache):
    def kind(**settings):
        request = Request(methods=["concat"], datasets=["mfeat3"], seeds=[0], settings=settings)
        return estimate._kind(expand(request, cache)[0])

    assert kind() == kind(**{"trainer.epochs": 3})
    for key, value in {"batch_size": 8, "precision": "bf16"}.items():
        assert kind(**{f"trainer.{key}": value}) != kind()


@pytest.fixture
def cells(cache):
    """Two of the same kind, too long to be tried whole."""
    return expand(
        Request(
            methods=["concat"], datasets=["mfeat3"], seeds=[0, 1],
            settings={"trainer.epochs": 1000},
        ),
        cache,
    )  # fmt: skip


def test_a_long_cell_is_stopped_after_a_moment(monkeypatch, cells, cache, tmp_path):
    taken, step = [], Trainer.backward

    def slow(self, *args, **kwargs):
        taken.append(time.sleep(0.02))
        step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "backward", slow)
    monkeypatch.setattr(estimate, "SECONDS", 0.1)
    run = RunSettings(device="cpu", threads=1)
    guess, again = estimates(cells, Store(tmp_path), run, cache).values()
    assert estimate.STEPS <= len(taken) < 10  # of 2 epochs of 20 or so, and for one seed only
    assert guess.seconds > 1000 * 15 * 0.02
    assert guess.memory > 0
    assert again.seconds == guess.seconds
    assert not list(tmp_path.iterdir())


def test_a_try_has_the_threads_of_one_worker(monkeypatch, cells, cache, tmp_path):
    import torch

    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr("mmbench.launch.local.os.sched_getaffinity", lambda pid: set(range(6)))
    trial = estimate._Trial(0, 0, 0)
    monkeypatch.setattr(estimate, "_calibrate", lambda cell, cache, run: seen.append(run) or trial)
    options = SimpleNamespace(
        device="cpu", jobs=2, per_gpu="1", threads=None, gpus_per_cell=1, cache=cache,
        results=tmp_path,
    )  # fmt: skip
    running._estimates(cells, options, RunSettings(device="cpu"))
    assert [run.threads for run in seen] == [3]
    assert torch.get_num_threads() == before
