"""The rules of leases and strikes, without training."""

import errno
import json
import os
import random
import threading
import time
from dataclasses import asdict

import pytest

from mmbench.cli.steering import retry
from mmbench.errors import LeaseLost, UserError
from mmbench.launch import lease as leases
from mmbench.launch import strikes, sweepfolder
from mmbench.launch.claims import Claims
from mmbench.launch.lease import Lease, Owner
from mmbench.store import RunDirectory, read_record
from mmbench.training.run_cell import run_cell
from mmbench.training.trainer import Hooks

OLD = 3600  # seconds


def claims(sweep, worker="me", seconds=60.0):
    return Claims(sweep.folder, Owner(worker=worker, host="here", pid=os.getpid(), seconds=seconds))


def hold(folder, number=1, ago=0.0, **owner):
    """Put a lease there that was touched so many seconds ago."""
    folder.mkdir(parents=True, exist_ok=True)
    held = leases.take(folder, number, Owner(**{"worker": "other", "seconds": 60.0, **owner}))
    touched(held.file, ago)
    return held


def touched(file, ago):
    then = file.stat().st_mtime - ago
    os.utime(file, (then, then))


def take(source, tmp_path):
    return source.take(tmp_path / "log")


def test_a_held_cell_is_left_alone_and_a_stale_one_taken_over(make, tmp_path):
    sweep = make()
    (folder,) = sweep.directories()
    held = hold(folder)
    assert take(claims(sweep), tmp_path) is None
    touched(held.file, OLD)
    task = take(claims(sweep), tmp_path)
    assert task.lease.number == 2
    assert task.lease.owner.worker == "me"


def test_the_lease_time_is_what_its_owner_said(make, tmp_path):
    sweep = make()
    held = hold(sweep.directories()[0], seconds=7200.0, ago=OLD)
    assert take(claims(sweep, seconds=1.0), tmp_path) is None
    assert held.left(time.time()) > 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seconds": "soon"}', "\0" * 40])
def test_a_damaged_lease_is_judged_by_its_age_alone(make, tmp_path, text):
    sweep = make()
    (folder,) = sweep.directories()
    held = hold(folder)
    held.file.write_text(text)
    assert take(claims(sweep), tmp_path) is None
    touched(held.file, OLD)
    assert take(claims(sweep), tmp_path).lease.number == 2


@pytest.mark.parametrize("ago", [-OLD, -10 * 365 * 86400])
def test_a_lease_from_the_future_is_not_held_longer_than_its_time(make, ago):
    sweep = make()
    held = hold(sweep.directories()[0], ago=ago)
    assert 0 < held.left(time.time()) <= 60.0


def test_a_lease_from_the_future_whose_worker_is_gone_is_taken_over_after_its_time(make, tmp_path):
    sweep = make()
    held = hold(sweep.directories()[0], seconds=0.3, ago=-OLD)
    source = claims(sweep)
    assert take(source, tmp_path) is None
    assert held.age(time.time()) > -1  # it counts from now on
    touched(held.file, 0.4)
    assert take(source, tmp_path).lease.number == 2


def test_a_lease_is_judged_by_the_file_servers_clock(make, tmp_path, monkeypatch):
    """A machine whose own clock is off asks the server, by touching a file."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    sweep = make()
    held = hold(sweep.directories()[0])
    assert take(claims(sweep), tmp_path) is None
    touched(held.file, OLD)
    assert take(claims(sweep), tmp_path)


def test_a_taker_that_another_tidies_up_after_has_lost(make, monkeypatch):
    """The cell was claimed, finished and cleared while this taker was about to link its file."""
    (folder,) = make().directories()
    folder.mkdir()
    link = os.link

    def late(part, file):
        leases.clear(folder, leases.names(folder))
        link(part, file)

    monkeypatch.setattr(os, "link", late)
    assert leases.take(folder, 1, Owner(worker="late")) is None


@pytest.mark.parametrize("end", ["released", "failed"])
def test_an_ended_lease_is_taken_at_once(make, tmp_path, end):
    sweep = make()
    hold(sweep.directories()[0]).finish(end)
    assert take(claims(sweep), tmp_path).lease.number == 2


def test_only_one_of_many_takers_gets_a_cell(make, tmp_path):
    sweep = make(seeds=40)
    got, barrier = [], threading.Barrier(8)

    def work(name):
        source = claims(sweep, name)
        barrier.wait()
        while task := take(source, tmp_path):
            got.append(task.cell.folder)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(d.name for d in sweep.directories())


def test_a_lost_lease_is_noticed_by_a_higher_number_or_its_absence(make, tmp_path):
    (folder,) = make().directories()
    held = hold(folder)
    held.check()
    other = hold(folder, 2)
    with pytest.raises(LeaseLost):
        held.check()
    other.check()
    leases.clear(folder, leases.names(folder))
    with pytest.raises(LeaseLost):
        other.check()


def test_a_lost_lease_keeps_the_record_from_being_written(make, cache, tmp_path):
    sweep = make()
    (folder,) = sweep.directories()
    cell = sweep.folder.cell(sweep.folder.entries[0])
    held = hold(folder)
    hold(folder, 2)
    with pytest.raises(LeaseLost):
        run_cell(
            cell, results=sweep.folder.results, cache=cache, run=sweep.folder.facts.run,
            hooks=Hooks(before_record=held.check),
        )  # fmt: skip
    assert not (folder / "record.json").exists()


def test_a_record_is_never_replaced(make, cache):
    sweep = make()
    cell = sweep.folder.cell(sweep.folder.entries[0])
    run_cell(cell, results=sweep.folder.results, cache=cache, run=sweep.folder.facts.run)
    (record,) = sweep.records()
    with pytest.raises(FileExistsError):
        RunDirectory(sweep.directories()[0]).write(record)


def test_the_heart_keeps_a_lease_alive(make, tmp_path):
    sweep = make()
    with claims(sweep, seconds=0.3) as source:
        task = take(source, tmp_path)
        touched(task.lease.file, OLD)
        before = task.lease.file.stat().st_mtime
        while task.lease.file.stat().st_mtime == before:
            time.sleep(0.01)
        source.ended(task, {"kind": "interrupted"})
    assert [lease.end for lease in history(sweep)] == ["released"]


def history(sweep):
    (folder,) = sweep.directories()
    return leases.history(folder, leases.names(folder))


def test_a_worker_with_nothing_to_do_waits_twice_the_lease_time_and_ends(make, tmp_path):
    sweep = make()
    held = hold(sweep.directories()[0], seconds=0.2)
    source = claims(sweep, seconds=0.2)
    begun = time.monotonic()
    while (pause := source.again()) is not None:
        assert take(source, tmp_path) is None
        held.beat()
        time.sleep(pause)
    assert time.monotonic() - begun >= 0.4


def test_a_worker_waits_for_leases_longer_than_its_own(make, tmp_path):
    sweep = make()
    (folder,) = sweep.directories()
    hold(folder).file.write_text("damaged")
    source = claims(sweep, seconds=0.01)
    assert take(source, tmp_path) is None
    time.sleep(0.05)
    assert source.again() is not None


def test_a_waiting_worker_takes_over_what_becomes_stale(make, tmp_path):
    sweep = make()
    held = hold(sweep.directories()[0])
    source = claims(sweep, seconds=60.0)
    assert take(source, tmp_path) is None
    assert source.again() == 10.0
    touched(held.file, OLD)
    assert take(source, tmp_path)


def die(folder, number, step, log="", host="h1"):
    lease = hold(folder, number, step=step, log=log, host=host)
    touched(lease.file, 100)


def test_a_cell_at_which_three_workers_died_is_given_up_with_the_end_of_their_log(make, tmp_path):
    sweep = make()
    (folder,) = sweep.directories()
    log = tmp_path / "w.log"
    log.write_text(f"earlier\n== {folder.name}\nout of memory\n")
    for number in (1, 2, 3):
        die(folder, number, -1, str(log))
    source = claims(sweep)
    assert take(source, tmp_path) is None
    assert "3 workers died at it (on h1)" in source.given_up[folder.name]
    failure = read_record(folder / "failed-001.json").failure
    assert failure.final
    assert failure.log == "out of memory"
    assert take(claims(sweep), tmp_path) is None


@pytest.mark.parametrize("steps", [(-1, 10, 20), (-1, -1, 20)])
def test_deaths_with_progress_in_between_do_not_count(make, tmp_path, steps):
    sweep = make()
    (folder,) = sweep.directories()
    for number, step in enumerate(steps, 1):
        die(folder, number, step)
    (folder / "checkpoint-000000020").touch()
    assert take(claims(sweep), tmp_path).lease.owner.step == 20


@pytest.fixture
def submitted_again(make, tmp_path):
    """Return a function that submits a sweep's cells once more, as a sweep of its own."""

    def again(sweep):
        cells = [sweep.folder.cell(entry) for entry in sweep.folder.entries]
        made = sweepfolder.create(sweep.folder.results, cells, sweep.folder.facts)
        return Claims(made, Owner(worker="me"))

    return again


def test_deaths_count_across_submissions(make, tmp_path, submitted_again):
    sweep = make()
    (folder,) = sweep.directories()
    for number in (1, 2, 3):
        die(folder, number, -1, host=f"h{number}")
        source = submitted_again(sweep)
        task = take(source, tmp_path)
        if number < 3:
            task.lease.file.unlink()
    assert task is None
    assert source.given_up == {folder.name: "3 workers died at it (on h1, h2, h3)"}


def test_a_cell_that_kills_workers_stays_given_up_until_it_is_retried(
    make, tmp_path, submitted_again
):
    sweep = make()
    (folder,) = sweep.directories()
    for number in (1, 2, 3):
        die(folder, number, -1)
    assert take(claims(sweep), tmp_path) is None
    touched(folder / "failed-001.json", OLD)
    source = submitted_again(sweep)
    assert take(source, tmp_path) is None
    assert list(source.given_up) == [folder.name]
    retry([], True, sweep.folder.results)
    assert take(submitted_again(sweep), tmp_path)


def test_other_failures_before_the_sweep_do_not_count(make, tmp_path, submitted_again):
    sweep = make()
    task = take(source := claims(sweep), tmp_path)
    for _ in range(3):
        source.ended(task, {"kind": "failed", "reason": "no such step"})
        task = take(source, tmp_path)
    assert task is None
    for file in sweep.folder.runs.glob("*/failed-*.json"):
        touched(file, OLD)
    assert take(submitted_again(sweep), tmp_path)


def test_deaths_are_forgiven_before_the_cell_is_given_up(make, tmp_path):
    sweep = make()
    (folder,) = sweep.directories()
    for number in (1, 2):
        die(folder, number, -1)
    assert len(strikes.deaths_at(folder)) == 2
    retry([folder.name], False, sweep.folder.results)
    assert strikes.deaths_at(folder) == []
    die(folder, 3, -1)
    assert take(claims(sweep), tmp_path).lease.number == 4


def test_a_lease_that_was_ended_meanwhile_is_no_death(make):
    (folder,) = make().directories()
    held = [hold(folder, number, step=-1) for number in (1, 2)]
    held[1].finish("released")
    assert strikes.deaths(held, -1) == []


def test_a_running_worker_hears_that_failures_are_forgiven(make, tmp_path):
    sweep = make()
    (folder,) = sweep.directories()
    for number in (1, 2, 3):
        die(folder, number, -1)
    source = claims(sweep)
    assert take(source, tmp_path) is None
    assert len(source) == 0
    retry([], True, sweep.folder.results)
    assert len(source) == 0
    assert take(source, tmp_path)
    assert not source.given_up


@pytest.fixture
def later(monkeypatch):
    """Return a function that lets an hour pass for this machine; files keep their times."""
    real = time.monotonic

    def pass_() -> None:
        monkeypatch.setattr(time, "monotonic", lambda: real() + OLD)

    return pass_


def next_seeds(source, tmp_path, number):
    return [take(source, tmp_path).cell.seed for _ in range(number)]


@pytest.mark.parametrize(
    ("file", "order"), [("checkpoint-000000007", [0, 2, 3]), ("cell.json", [2, 3, 0])]
)
def test_a_cell_that_lost_its_worker_goes_on_before_others_begin(
    make, tmp_path, later, file, order
):
    sweep = make(seeds=4)
    folder, *_ = sweep.directories()
    held = hold(folder)
    (folder / file).touch()
    source = claims(sweep)
    assert next_seeds(source, tmp_path, 1) == [1]
    touched(held.file, OLD)
    later()
    assert next_seeds(source, tmp_path, 3) == order


def test_what_others_hold_is_looked_at_again_only_when_that_lease_would_be_over(
    make, tmp_path, monkeypatch, later
):
    sweep = make(seeds=4)
    folder, *_ = sweep.directories()
    hold(folder)
    source = claims(sweep)
    looked = []
    names = leases.names
    monkeypatch.setattr(leases, "names", lambda path: looked.append(path) or names(path))
    assert next_seeds(source, tmp_path, 2) == [1, 2]
    assert looked.count(folder) == 1
    later()
    assert next_seeds(source, tmp_path, 1) == [3]
    assert looked.count(folder) == 2, "it is still held"


@pytest.mark.parametrize(("begun", "order"), [(True, [0, 1, 2]), (False, [1, 2, 0])])
def test_a_cell_that_failed_is_tried_again_first_if_it_has_a_checkpoint(
    make, tmp_path, begun, order
):
    source = claims(make(seeds=3))
    task = take(source, tmp_path)
    if begun:
        (task.lease.folder / "checkpoint-000000007").touch()
    source.ended(task, {"kind": "failed", "reason": "no such step"})
    assert next_seeds(source, tmp_path, 3) == order


def test_a_forgiven_cell_comes_before_untouched_ones(make, tmp_path):
    sweep = make(seeds=3)
    folder, *_ = sweep.directories()
    RunDirectory(folder).cancel()
    source = claims(sweep)
    assert next_seeds(source, tmp_path, 1) == [1]
    retry([folder.name], False, sweep.folder.results)
    assert next_seeds(source, tmp_path, 2) == [0, 2]


def test_one_that_joins_late_looks_at_little_of_what_is_finished(make, tmp_path, monkeypatch):
    sweep = make()
    cell = sweep.folder.cell(sweep.folder.entries[0])
    cells = [cell.model_copy(update={"seed": seed}) for seed in range(600)]
    made = sweepfolder.create(tmp_path / "many", cells, sweep.folder.facts)
    for entry in made.entries[:540]:
        (made.runs / entry.folder).mkdir()
        (made.runs / entry.folder / "record.json").touch()
    looked = []
    names = leases.names
    monkeypatch.setattr(leases, "names", lambda path: looked.append(path) or names(path))
    random.seed(0)
    source = Claims(made, Owner(worker="me"))
    seeds = next_seeds(source, tmp_path, 40)
    assert min(seeds) >= 540
    assert len(looked) < 300, "as it goes on where it found the last"
    assert len(next_seeds(source, tmp_path, 20)) == 20
    assert take(source, tmp_path) is None
    assert len(source) == 60, "all it holds itself"


def test_the_longest_cells_come_first_and_unknown_ones_before_them(make, tmp_path):
    sweep = make(seeds=4)
    cells = [sweep.folder.cell(entry) for entry in sweep.folder.entries]
    seconds = {cells[0].id: 1.0, cells[2].id: 9.0, cells[3].id: 5.0}
    made = sweepfolder.create(tmp_path / "r", cells, sweep.folder.facts, seconds)
    again = sweepfolder.open_sweep(made.path)
    assert [again.cell(e).seed for e in again.entries] == [1, 2, 3, 0]
    source = Claims(again, Owner(worker="me"))
    assert [take(source, tmp_path).cell.seed for _ in cells] == [1, 2, 3, 0]


@pytest.mark.parametrize("name", ["sweep.json", "cells.jsonl"])
def test_a_damaged_sweep_folder_is_named(make, name):
    sweep = make()
    (sweep.folder.path / name).write_text("{")
    with pytest.raises(UserError, match="sweep"):
        _ = sweepfolder.open_sweep(sweep.folder.path).entries


def test_leases_are_readable_by_others(make):
    (folder,) = make().directories()
    held = hold(folder, worker="w", host="n1", job="17_3")
    told = json.loads(held.file.read_text())
    assert {k: told[k] for k in ("worker", "host", "job")} == {
        "worker": "w", "host": "n1", "job": "17_3"
    }  # fmt: skip
    assert set(told) == set(asdict(Owner()))
    assert Lease(folder, 1).owner == held.owner


def test_a_file_server_that_does_not_answer_stops_no_heart(make, tmp_path, monkeypatch):
    sweep = make()

    def stale(self):
        raise OSError(errno.ESTALE, "stale file handle")

    source = claims(sweep, seconds=0.6)
    with source:
        task = take(source, tmp_path)
        monkeypatch.setattr(type(task.lease.folder), "exists", stale)
        touched(task.lease.file, 0.5)
        before = task.lease.file.stat().st_mtime
        time.sleep(0.4)
        monkeypatch.undo()
        assert task.lease.file.stat().st_mtime > before, "it beats on"
        task.lease.finish("released")
        source.running.clear()


def test_a_lease_is_let_go_when_its_cell_cannot_be_read(make, tmp_path, monkeypatch):
    sweep = make()

    def unreadable(self, entry):
        raise OSError(errno.EIO, "input/output error")

    source = claims(sweep)
    monkeypatch.setattr(type(source.sweep), "cell", unreadable)
    assert take(source, tmp_path) is None
    assert source.running == {}
    monkeypatch.undo()
    source.pause_until = 0.0
    assert take(source, tmp_path).lease.number == 2


def test_a_finished_cell_whose_leases_cannot_be_removed_at_once_counts_once(
    make, tmp_path, monkeypatch
):
    source = claims(make(seeds=2))
    task = take(source, tmp_path)
    clear = leases.clear

    def read_only(folder, listed):
        monkeypatch.setattr(leases, "clear", clear)
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(leases, "clear", read_only)
    (task.lease.folder / "record.json").touch()
    source.ended(task, {"kind": "done"})
    source.pause_until = 0.0
    assert next_seeds(source, tmp_path, 1) == [1]
    assert take(source, tmp_path) is None
    assert len(source) == 1
