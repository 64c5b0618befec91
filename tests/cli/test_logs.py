"""``mmbench logs``: the lines of one cell, and why it failed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmbench.cli.reading_logs import logs
from mmbench.errors import UserError
from mmbench.launch import lease as leases
from mmbench.launch.lease import Owner
from mmbench.record import Failure
from mmbench.store import RunDirectory, iter_records

RECORDS = Path(__file__).parents[2] / "results" / "records"


@pytest.fixture
def cell(tmp_path):
    """A cell that was tried twice, beside another whose name begins like it."""
    folder = tmp_path / "sweeps" / "20260101T000000Z-abcdef" / "logs"
    folder.mkdir(parents=True)
    (folder / "worker-h-1-1.log").write_text(
        "starting\n== d.m.s1.aa\nfirst\n== d.m.s10.bb\nother\n"
    )
    (folder / "worker-h-2-1.log").write_text("== d.m.s1.aa\none\ntwo\nthree\n")
    for name in ("d.m.s1.aa", "d.m.s10.bb"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    return RunDirectory(tmp_path / "runs" / "d.m.s1.aa")


def test_the_end_of_the_newest_attempt_is_shown(cell, tmp_path, capsys):
    logs("s1.", tmp_path, 2, follow=False)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("d.m.s1.aa: waiting; attempt 2; log: ")
    assert head.endswith("worker-h-2-1.log")
    assert lines == ["two", "three"]


def test_a_failed_cell_says_why(cell, tmp_path, capsys):
    done = next(r for r in iter_records(RECORDS) if r.status == "done")
    failure = Failure(kind="ValueError", message="no such step", traceback="Traceback: here")
    cell.write(done.model_copy(update={"status": "failed", "failure": failure}))
    logs("d.m.s1.", tmp_path, 40, follow=False)
    text = capsys.readouterr().out
    assert "three\n\nfailed-001.json: ValueError: no such step\nTraceback: here" in text


def test_a_failure_keeps_the_end_of_a_log_that_is_gone(cell, tmp_path, capsys):
    done = next(r for r in iter_records(RECORDS) if r.status == "done")
    failure = Failure(kind="WorkerDied", message="gone", traceback="", log="the last words")
    cell.write(done.model_copy(update={"status": "failed", "failure": failure}))
    for file in tmp_path.glob("sweeps/*/logs/*"):
        file.unlink()
    logs("d.m.s1.", tmp_path, 40, follow=False)
    text = capsys.readouterr().out
    assert "attempt 0; log: none in this folder" in text
    assert "the last words" in text


def test_workers_that_died_at_a_cell_are_told(cell, tmp_path, capsys):
    for number in (1, 2):
        owner = Owner(worker="w", host=f"n{number}", job=f"7_{number}", log="w.log")
        os.utime(leases.take(cell.path, number, owner).file, (1, 1))
    logs("d.m.s1.", tmp_path, 40, follow=False)
    text = capsys.readouterr().out
    assert "\n2 workers died at it (on n1, n2), with no checkpoint in between:\n" in text
    assert text.index("  n1 job 7_1, which") < text.index("  n2 job 7_2, which")
    assert f"mmbench retry d.m.s1.aa --results {tmp_path} forgives them" in text


@pytest.mark.parametrize(("name", "message"), [("d.m", "in the name of 2 cells"),
                                              ("d.q.s1", "no cell of")])  # fmt: skip
def test_a_name_that_does_not_tell_which_cell_is_an_error(cell, tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        logs(name, tmp_path, 40, follow=False)


def test_following_shows_what_is_added_until_the_attempt_ends(cell, tmp_path):
    lease = leases.take(cell.path, 1, Owner(worker="w"))
    (log,) = tmp_path.glob("sweeps/*/logs/worker-h-2-1.log")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "mmbench", "logs", "d.m.s1.", "-f", "-n", "1", "--results",
         str(tmp_path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "running" in process.stdout.readline()
    assert process.stdout.readline() == "three\n"
    with log.open("a") as handle:
        print("four", file=handle, flush=True)
        assert process.stdout.readline() == "four\n"
        print("five", file=handle)
    lease.finish("released")
    assert process.stdout.read() == "five\n"
    assert process.wait() == 0
