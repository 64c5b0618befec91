"""What a person sees while cells run."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from mmbench.cli import progress
from mmbench.cli.progress import Progress


def cell(seed):
    trainer = SimpleNamespace(epochs=10)
    return SimpleNamespace(
        id=str(seed), folder=f"d.m.s{seed}", dataset="d", label="m", seed=seed, trainer=trainer
    )


def shown(live):
    console = Console(file=io.StringIO(), width=100)
    console.print(live._render())
    return console.file.getvalue()


@pytest.fixture
def two(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    live = Progress(2)
    return live, clock


def test_before_the_workers_are_there_it_says_so(two):
    live, clock = two
    clock.now = 65.0
    assert shown(live) == "0/2 cells, 1:05\nstarting the workers\n"


def test_a_running_cell_shows_epoch_scores_and_time_left(two):
    live, _ = two
    live.see(cell(0), {"kind": "started"})
    assert shown(live).splitlines()[2].split() == ["d", "m", "s0", "0/10", "?"]
    metrics = {"fused": 0.5, "audio": 0.25}
    live.see(
        cell(0),
        {"kind": "progress", "epoch": 3, "epochs": 10, "seconds_per_epoch": 2.0,
         "split": "val", "metrics": metrics},
    )  # fmt: skip
    row = shown(live).splitlines()[2].split()
    assert row == ["d", "m", "s0", "4/10", "val", "fused", "50.0", "audio", "25.0", "0:12"]


def test_the_time_left_of_all_follows_from_those_that_ended(two, capsys):
    live, clock = two
    live.see(cell(0), {"kind": "started"})
    clock.now = 30.0
    live.see(cell(0), {"kind": "done"})
    assert shown(live) == "1/2 cells, 0:30, about 0:30 left\n"
    assert capsys.readouterr().out.startswith("[1/2] done d m seed 0")


def epoch(number, epochs=10):
    return {"kind": "progress", "epoch": number, "epochs": epochs}


def test_the_time_left_of_all_is_told_once_an_epoch_has_ended(two):
    live, clock = two
    clock.now = 20.0  # the workers took so long to start
    live.see(cell(0), {"kind": "started"})
    live.see(cell(0), epoch(-1))
    clock.now = 25.0
    assert shown(live).startswith("0/2 cells, 0:25\n")
    live.see(cell(0), epoch(0))
    assert shown(live).startswith("0/2 cells, 0:25, about 1:35 left\n")  # 19 epochs of 5 s


def test_what_was_trained_before_or_refused_took_none_of_the_time(two):
    live, clock = two
    live.total = 3
    live.see(cell(0), {"kind": "started"})
    live.see(cell(0), {"kind": "refused", "reason": "no"})
    live.see(cell(1), {"kind": "started"})
    live.see(cell(1), epoch(7))
    clock.now = 10.0
    live.see(cell(1), epoch(8))
    assert shown(live).startswith("1/3 cells, 0:10, about 1:50 left\n")  # 11 epochs of 10 s
    live.see(cell(1), {"kind": "done"})
    assert shown(live) == "2/3 cells, 0:10, about 0:50 left\n"  # 2 epochs in those 10 s


def test_scores_stand_behind_the_split_that_selects_the_epoch(two, capsys):
    live, _ = two
    live.see(cell(0), {"kind": "started"})
    seen = {"kind": "progress", "epoch": 9, "epochs": 10, "seconds_per_epoch": 1.0}
    live.see(cell(0), {**seen, "split": "test", "metrics": {"fused": 0.5}})
    live.see(cell(0), {"kind": "done"})
    assert capsys.readouterr().out == "[1/2] done d m seed 0 test fused 50.0\n"
