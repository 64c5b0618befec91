"""``clean`` and ``status`` tell a run that is training from one that was stopped."""

import fcntl
import json
import subprocess
import sys


def mmbench(*arguments):
    return subprocess.run(
        [sys.executable, "-P", "-m", "mmbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_in_training_is_kept_and_a_stopped_one_is_removed(tmp_path):
    cell = {"dataset": "d", "label": "m", "seed": 0}
    for name in ("training", "stopped"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "cell.json").write_text(json.dumps(cell))
        (folder / "lock").touch()
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
