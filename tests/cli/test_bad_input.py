"""Every mistake of the user gets one clear message and exit code 2."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def mmbench(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-P", "-m", "mmbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **more,
    )


RUN = ["run", "--methods", "concat", "--datasets", "mfeat3"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    assert mmbench("prepare", "mfeat3", "--cache", folder).returncode == 0
    return folder


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "trainer.epoch=5"], "unknown setting 'trainer.epoch'; did you mean 'epochs'?"),
        (["--set", "trainer.epochs=0"], "'trainer.epochs' cannot be 0"),
        (["--set", "concat.alpha=1"], "unknown setting 'concat.alpha'"),
        (["--set", "iprm.alpha=0.5"], "'iprm.alpha' is for iprm, which is not in this run"),
        (
            ["--methods", "concat,iprm,ogm", "--set", "method.alpha=0.5"],
            "'method.alpha' addresses every method of the run, and concat has no option 'alpha'; "
            "set it by name: iprm.alpha and ogm.alpha",
        ),
        (
            ["--methods", "iprm,ogm", "--set", "method.alhpa=1"],
            "no option 'alhpa'; did you mean 'a",
        ),
        (["--set", "method.alpha=0.5"], "concat has no option 'alpha'; mmbench show NAME lists"),
        (["--set", "iprn.alpha=0.5"], "unknown setting 'iprn.alpha'"),
        (["--set", "epochs=3"], "unknown setting 'epochs'; did you mean 'trainer.epochs'?"),
        (["--set", "epoch=3"], "unknown setting 'epoch'; did you mean 'trainer.epochs'?"),
        (
            ["--methods", "concat,iprm,ogm", "--set", "alpha=1"],
            "unknown setting 'alpha'; did you mean 'iprm.alpha' or 'ogm.alpha'?",
        ),
        (
            ["--datasets", "synthetic", "--set", "noise=1"],
            "unknown setting 'noise'; did you mean 'synthetic.noise'?",
        ),
        (["--set", "trainer.epochs"], "--set wants KEY=VALUE"),
        (["--seeds", "-1"], "--seeds wants at least one seed, none negative: 3 = seeds 0, 1 and 2"),
        (["--seeds", "0"], "0, = seed 0 alone; found '0'"),
        (["--seeds", ""], "--seeds wants at least one seed"),
        (["--seeds", "0,-1"], "none negative"),
        (["--seeds", "a"], "--seeds wants whole numbers: 3 = seeds 0, 1 and 2; 0,5 = these seeds"),
        (["--seeds", "1,1"], "--seeds names a seed twice"),
        (["--json"], "--json prints the plan of a run: add --dry-run"),
        (["--protocol", "secret"], "--protocol is one of validated, published"),
        (["--device", "cuda:7"], "device 'cuda:7' is not there"),
        (["--encoder", "kar=mpl"], "unknown encoder 'mpl'; did you mean 'mlp'?"),
        (["--encoder", "kar=conv"], "encoder 'conv' takes image, spectrogram"),
        (["--encoder", "ear=mlp"], "no modality 'ear' to encode"),
        (["--config", "no.toml"], "cannot read the config file no.toml"),
        (["--plugin", "no.py"], "there is no plug-in file no.py"),
        (["--cluster", "slurm"], "no time limit; say how long a job may run"),
        (["--cluster", "slrum", "--time", "5"], "--cluster is slurm, the one known; found 'slrum'"),
        (["--max-jobs", "5"], "--max-jobs is for a cluster; add --cluster slurm"),
        (["--profile", "nowhere"], "there is no profile 'nowhere'"),
        (["--profile", "no.toml"], "cannot read the profile no.toml"),
        (["--cluster", "slurm", "--time", "soon"], "'profile.time' cannot be 'soon'"),
        (["--cluster", "slurm", "--time", "5", "--slurm", "array=1"], "use --max-jobs"),
    ],
)
def test_bad_setting_is_refused_before_anything_runs(more, message, cache, tmp_path):
    done = mmbench(*RUN, "--results", tmp_path, "--cache", cache, *more)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/*/cell.json"))


def test_unknown_method_suggests_the_nearest(cache, tmp_path):
    done = mmbench("run", "--methods", "concta", "--results", tmp_path, "--cache", cache)
    assert done.returncode == 2
    assert "unknown method 'concta'; did you mean 'concat'?" in done.stderr


def test_config_file_sets_and_command_line_wins(cache, tmp_path):
    config = tmp_path / "grid.toml"
    config.write_text(
        'methods = ["iprm"]\ndatasets = "mfeat3"\n[iprm]\nalpha = 0\n[trainer]\nlr = 1'
    )
    found = mmbench(
        "run", "--config", config, "--set", "trainer.lr=0.5", "--set", "trainer.epochs=1",
        "--cache", cache, "--results", tmp_path / "r",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    (cell,) = (tmp_path / "r").glob("runs/*/cell.json")
    text = cell.read_text()
    assert '"alpha": 0.0' in text
    assert '"lr": 0.5' in text


def test_a_config_file_may_hold_settings_of_methods_outside_the_run(cache, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text("[iprm]\nalpha = 0.5\n[avdigits]\nimage_source = 'mnist'\n")
    here = ["--results", tmp_path, "--cache", cache, "--config", config, "--dry-run"]
    done = mmbench(*RUN, *here)
    assert done.returncode == 0, done.stderr
    config.write_text("[iprm]\nalpha = 50\n")
    done = mmbench(*RUN, *here)
    assert done.returncode == 2
    assert "'iprm.alpha' cannot be 50" in done.stderr


def test_damaged_cache_file_is_named(tmp_path):
    assert mmbench("prepare", "mfeat3", "--cache", tmp_path).returncode == 0
    (file,) = tmp_path.glob("mfeat3/*/train.kar.npy")
    file.write_bytes(file.read_bytes()[:-10])
    done = mmbench(*RUN, "--results", tmp_path / "r", "--cache", tmp_path)
    assert done.returncode == 2
    assert "train.kar.npy is damaged" in done.stderr
    assert "mmbench prepare mfeat3 --rebuild" in done.stderr


def test_changed_cache_file_fails_verify(tmp_path):
    assert mmbench("prepare", "mfeat3", "--cache", tmp_path).returncode == 0
    assert mmbench("verify", "mfeat3", "--cache", tmp_path).returncode == 0
    (file,) = tmp_path.glob("mfeat3/*/train.kar.npy")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    done = mmbench("verify", "mfeat3", "--cache", tmp_path)
    assert done.returncode == 1
    assert "train.kar.npy" in done.stdout


def test_results_that_cannot_be_a_folder(cache, tmp_path):
    (tmp_path / "file").write_text("")
    done = mmbench(*RUN, "--results", tmp_path / "file", "--cache", cache)
    assert done.returncode == 2
    assert "is a file" in done.stderr


@pytest.mark.parametrize("command", [[*RUN, "--dry-run"], ["status"], ["list", "runs"], ["report"]])
def test_a_file_is_no_results_folder_for_any_command(command, tmp_path):
    (tmp_path / "file").write_text("")
    done = mmbench(*command, "--results", tmp_path / "file")
    assert done.returncode == 2
    assert f"--results wants a folder; {tmp_path / 'file'} is a file; name another" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (["prepare", "mfeat3", "--cache", "file"], "--cache wants a folder; file is a file"),
        ([*RUN, "--cache", "file/below"], "--cache wants a folder; file is a file"),
        ([*RUN, "--weights", "file"], "--weights wants a folder; file is a file"),
        ([*RUN, "--results", "loose"], "loose is a link that leads nowhere"),
        ([*RUN, "--results", "r", "--cache", "cache"], "r/runs is a file; move it away"),
        (["prepare", "mfeat3"], "cannot write the cache of mfeat3"),
        (["new-method", "mine", "--folder", "file"], "mine.py: file is a file; move it away"),
    ],
)
def test_a_file_in_the_place_of_a_folder_is_named(command, what, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loose").symlink_to("nowhere")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "runs").write_text("")
    env = {**os.environ, "MMBENCH_CACHE": str(tmp_path / "file")}
    done = mmbench(*command, cwd=tmp_path, env=env)
    assert done.returncode == 2, done.stdout + done.stderr
    assert what in done.stderr
    assert "is a file" in done.stderr or "leads nowhere" in done.stderr
    assert "Traceback" not in done.stderr and "File exists" not in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"\xff\xfe\x00", "not UTF-8"), (b"words", "has no markers such as")],
)
def test_a_readme_without_room_is_named_before_anything_is_written(content, message, tmp_path):
    if content is not None:
        (tmp_path / "README.md").write_bytes(content)
    records = Path(__file__).parents[2] / "results" / "records"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "records").symlink_to(records)
    done = mmbench("report", "--results", tmp_path / "results", "--readme", tmp_path / "README.md")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results" / "tables").exists()


def test_record_of_a_newer_version_is_refused(tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "x.json").write_text('{"schema_version": 999}')
    done = mmbench("report", "--results", tmp_path)
    assert done.returncode == 2
    assert "written by a newer mmbench" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        ("--help", "torch pydantic numpy"),  # what would cost it most of its 0.3 s
        *((f"list {what}", "torch") for what in ("methods", "datasets", "encoders", "runs")),
        ("status", "torch"),
    ],
)
def test_help_and_listing_import_nothing_heavy(arguments, heavy, tmp_path):
    code = (
        f"import sys\nsys.argv = ['mmbench', *{arguments.split()!r}]\n"
        "from mmbench.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        f"assert not {{*{heavy.split()!r}}} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_dry_run_estimates_and_runs_nothing(cache, tmp_path):
    done = mmbench(*RUN, "--results", tmp_path, "--cache", cache, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert '"estimated_from": "a short calibration"' in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "setting", "message"),
    [
        ("concat", "trainer.lr=1e9", "a calibration that failed: the loss is not finite at epoch"),
        ("mla", "mla.fixed_weights=[0.5,0.5]", "it will be refused: mla.fixed_weights has 2"),
    ],
)
def test_dry_run_says_what_a_calibration_met(method, setting, message, cache, tmp_path):
    done = mmbench(
        "run", "--methods", method, "--datasets", "mfeat3", "--results", tmp_path,
        "--cache", cache, "--dry-run", "--json", "--set", setting,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert message in done.stdout


@pytest.fixture
def full_disk(tmp_path):
    """Return a folder on a file system of 300 KiB, too small for a checkpoint."""
    folder = tmp_path / "full"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk_is_explained_and_nothing_finished_is_lost(cache, full_disk):
    run = [*RUN, "--set", "trainer.epochs=2", "--checkpoint-seconds", "0", "--cache", cache]
    run += ["--results", full_disk / "r"]
    stopped = mmbench(*run)
    assert stopped.returncode == 1
    assert "No space left on device; make room" in stopped.stdout
    subprocess.run(["mount", "-o", "remount,size=20M", full_disk], check=True)
    assert mmbench(*run).returncode == 0
    record = next((full_disk / "r" / "runs").glob("*/record.json")).read_bytes()
    subprocess.run(["mount", "-o", "remount,size=300k", full_disk], check=True)
    assert mmbench(*run, "--seeds", "2").returncode == 1
    assert next((full_disk / "r" / "runs").glob("*/record.json")).read_bytes() == record


def test_file_size_limit_is_explained(cache, tmp_path):
    """The same without a mount: the system refuses every file above 100 KiB."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 * 1024, 100 * 1024))

    run = [*RUN, "--checkpoint-seconds", "0", "--cache", cache, "--results", tmp_path / "r"]
    done = mmbench(*run, preexec_fn=limit)
    assert done.returncode == 1
    assert "File too large; make room" in done.stdout


def test_a_command_that_may_not_write_says_so(cache, tmp_path):
    """Whatever the command: here the tables and the copies of the records."""
    results = tmp_path / "r"
    run = [*RUN, "--set", "trainer.epochs=1", "--cache", cache, "--results", results]
    assert mmbench(*run).returncode == 0
    mount = ["mount", "--bind", results, results]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a folder read-only, and permissions do not hold for root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", results], check=True)
        for command in (["report"], ["collect"], run[:-2]):
            done = mmbench(*command, "--results", results)
            assert done.returncode == 2, done.stderr
            assert "Read-only file system" in done.stderr
            assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", results], check=True)


@pytest.mark.parametrize("name", ["../elsewhere", "all"])
def test_a_name_that_none_can_have_is_refused_before_it_is_looked_up(name, tmp_path):
    table = tmp_path / "my.csv"
    table.write_text("label,numbers\n")
    made = tmp_path / "cache" / name / "own.json"
    made.parent.mkdir(parents=True)
    made.write_text("another's")
    done = mmbench("prepare", table, "--name", name, "--cache", tmp_path / "cache")
    assert done.returncode == 2
    assert f"--name cannot use the name {name!r}" in done.stderr


def test_missing_data_root_is_named(tmp_path):
    for root in (tmp_path / "nowhere", __file__):
        done = mmbench("prepare", "mfeat3", "--root", root, "--cache", tmp_path)
        assert done.returncode == 2
        assert str(root) in done.stderr


@pytest.mark.parametrize("closed", ["secret", "."])
def test_unreadable_data_root_is_named(closed, tmp_path, tmp_path_factory):
    cache, root = tmp_path_factory.mktemp("open"), tmp_path / "secret"
    cache.chmod(0o755)
    root.mkdir()
    prefix = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    if prefix and shutil.which("setpriv") is None:
        pytest.skip("root reads everything, and setpriv is not here to become somebody else")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    (tmp_path / closed).chmod(0o000)
    done = subprocess.run(
        [*prefix, sys.executable, "-P", "-m", "mmbench", "prepare", "mfeat3", "--root", root,
         "--cache", cache],
        capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    tmp_path.chmod(0o755)
    root.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert f"{root} cannot be read" in done.stderr


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
@pytest.mark.parametrize("content", [b"", b"{", b"\x1f\x8b\x08\x00broken", b"[]"])
def test_broken_record_is_named(name, content, tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / name).write_bytes(content)
    done = mmbench("report", "--results", tmp_path)
    assert done.returncode == 2
    assert f"{name} is not a readable record" in done.stderr
