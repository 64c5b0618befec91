"""``clean`` and ``status`` tell a run that is training from one that was stopped."""

import fcntl
import json
import shutil
import subprocess
import sys

from mmbench.cli.browse import clean


def mmbench(*arguments):
    return subprocess.run(
        [sys.executable, "-P", "-m", "mmbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def make(results, *names):
    cell = {"dataset": "d", "label": "m", "seed": 0}
    for name in names:
        folder = results / "runs" / name
        folder.mkdir(parents=True)
        (folder / "cell.json").write_text(json.dumps(cell))
        (folder / "lock").touch()


def test_a_run_in_training_is_kept_and_a_stopped_one_is_removed(tmp_path):
    make(tmp_path, "training", "stopped")
    with (tmp_path / "runs" / "training" / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # as the process that trains holds it
        told = mmbench("clean", "--unfinished", "--results", tmp_path, "--dry-run", "--json")
        done = mmbench("clean", "--unfinished", "--results", tmp_path)
    assert json.loads(told.stdout) == {
        "removed": [str(tmp_path / "runs" / "stopped")],
        "running": [str(tmp_path / "runs" / "training")],
    }
    assert done.returncode == 0, done.stderr
    assert "training: a process is running it" in done.stdout
    assert (tmp_path / "runs" / "training").is_dir()
    assert not (tmp_path / "runs" / "stopped").exists()


def test_a_run_that_begins_while_others_are_removed_is_kept(tmp_path, monkeypatch, capsys):
    make(tmp_path, "first", "second")
    remove = shutil.rmtree
    with (tmp_path / "runs" / "second" / "lock").open("w") as handle:

        def meanwhile(path):
            fcntl.flock(handle, fcntl.LOCK_EX)  # as a worker that takes the second cell
            remove(path)

        monkeypatch.setattr(shutil, "rmtree", meanwhile)
        clean(tmp_path, False, True, False, True)
    assert json.loads(capsys.readouterr().out) == {
        "removed": [str(tmp_path / "runs" / "first")],
        "running": [str(tmp_path / "runs" / "second")],
    }
    assert (tmp_path / "runs" / "second").is_dir()
