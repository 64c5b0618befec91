"""Locks: one at a time, nothing left behind, and no lock is told from a lock that is held."""

import errno
import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmbench.cli.merging import merge
from mmbench.errors import Busy, UserError
from mmbench.locking import alone, try_lock
from mmbench.training import run_cell


@pytest.fixture
def without_locks(monkeypatch):
    """Be on a file system that has no locks."""

    def refused(handle, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)


def test_one_at_a_time_builds_a_folder_and_the_lock_goes_away(tmp_path):
    inside, most = 0, 0
    counting = threading.Lock()

    def build(_):
        nonlocal inside, most
        with alone(tmp_path / "built"):
            with counting:
                inside += 1
                most = max(most, inside)
            os.sched_yield()  # let the others come to the lock
            with counting:
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(build, range(40)))
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_folders_do_not_wait_for_each_other(tmp_path):
    with alone(tmp_path / "one"), alone(tmp_path / ".two"):
        assert sorted(f.name for f in tmp_path.iterdir()) == [".one.lock", ".two.lock"]


def test_a_file_is_locked_until_it_is_closed(tmp_path):
    with (tmp_path / "lock").open("w") as first:
        assert try_lock(first)
        with (tmp_path / "lock").open() as second:
            assert not try_lock(second, fcntl.LOCK_SH)
    with (tmp_path / "lock").open() as third, (tmp_path / "lock").open() as fourth:
        assert try_lock(third, fcntl.LOCK_SH)
        assert try_lock(fourth, fcntl.LOCK_SH)
        assert not try_lock(fourth)


def test_a_cell_that_another_process_runs_is_busy(tmp_path, monkeypatch):
    monkeypatch.setattr(run_cell, "LOCK_TRIES", 1)
    with (tmp_path / "lock").open("w") as held:
        assert try_lock(held)
        with pytest.raises(Busy, match="wait for it or stop it"), run_cell.claimed(tmp_path):
            pass


def test_where_there_are_no_locks_nobody_is_said_to_hold_one(without_locks, tmp_path):
    with pytest.raises(OSError, match=r"No locks available: .*lock"), run_cell.claimed(tmp_path):
        pass
    for folder in ("ours", "theirs"):
        (tmp_path / folder / "runs").mkdir(parents=True)
    with pytest.raises(UserError, match=r"No locks available .*lock"):
        merge(tmp_path / "theirs", tmp_path / "ours", False, False)
