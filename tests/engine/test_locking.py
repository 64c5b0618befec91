"""Building a folder: one at a time, and nothing is left of the lock."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from mmbench.data.locking import alone


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
