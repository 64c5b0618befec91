"""The batch script that submitit writes for us, and how workers are counted and grouped."""

import subprocess

import pytest

from mmbench.errors import UserError
from mmbench.launch import slurm
from mmbench.launch.profile import read_profile


@pytest.fixture
def sweep(tmp_path):
    return tmp_path / "a folder's sweep"


def written(sweep, workers=3, **typed):
    profile = read_profile("", {"time": "2:00:00", **typed})
    return slurm.script(profile, profile.resources("any"), sweep, workers)


def test_the_script_asks_for_what_was_typed(sweep):
    text = written(
        sweep, partition="gpu", gpus=1, cpus=8, mem="32G", account="me", workers=7,
        slurm={"qos": "long", "exclusive": True},
    )  # fmt: skip
    for line in (
        "--array=0-6%7", "--partition=gpu", "--time=2:00:00", "--gpus-per-node=1",
        "--cpus-per-task=8", "--mem=32G", "--account=me", "--qos=long", "--exclusive",
        "--requeue", "--signal=B:USR1@120", "--open-mode=append",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text


def test_what_was_not_typed_is_not_asked_for(sweep):
    text = written(sweep)
    assert not {"partition", "gpus", "mem", "account", "wckey"} & {
        line.partition("--")[2].partition("=")[0].split("-per-")[0] for line in text.splitlines()
    }


def test_an_option_given_to_sbatch_replaces_ours(sweep):
    text = written(sweep, slurm={"job-name": "mine"})
    assert [line for line in text.splitlines() if "job-name" in line] == ["#SBATCH --job-name=mine"]


def test_setup_lines_come_before_the_worker_and_the_copy_of_the_code_is_used(sweep):
    text = written(sweep, setup=("module load cuda",))
    assert text.index("module load cuda") < text.index("exec ")
    assert "PYTHONSAFEPATH=1" in text
    assert "-m mmbench.launch.slurm_job --sweep" in text


def test_the_script_is_a_shell_script_whatever_the_folder_is_called(sweep):
    done = subprocess.run(["bash", "-n"], input=written(sweep), text=True, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("workers", "limit", "sizes"), [(3, 10, [3]), (10, 4, [4, 3, 3]), (1, 1, [1]), (4, 4, [4])]
)
def test_arrays_stay_below_the_limit(workers, limit, sizes):
    assert slurm.chunks(workers, limit) == sizes


def test_there_are_no_more_workers_than_cells_for_them():
    assert slurm.workers_for(cells=10, at_once=4, most=100) == 3
    assert slurm.workers_for(cells=1000, at_once=4, most=100) == 100


def test_data_sets_that_ask_for_the_same_share_their_workers():
    profile = read_profile(
        "", {"time": "60", "datasets": {"big": {"mem": "9G"}, "also": {"mem": "9G"}}}
    )
    found = slurm.groups(profile, ["small", "big", "also", "tiny"])
    assert list(found.values()) == [["small", "tiny"], ["big", "also"]]


def test_without_slurm_that_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"SLURM is not installed here .*, or without --cluster"):
        slurm.array_limit()


@pytest.mark.parametrize(
    ("text", "said"),
    [("sleep 9", "does not answer within"),
     ("echo 'scontrol: error: no\nscontrol: fatal: gone' >&2; exit 1", "does not answer: gone"),
     ("exit 1", "does not answer: no reason given")],
)  # fmt: skip
def test_a_slurm_that_does_not_answer_is_told(text, said, monkeypatch, tmp_path):
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{text}\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(slurm, "PATIENCE", 0.2)
    with pytest.raises(UserError, match=f"scontrol {said}"):
        slurm.array_limit()


def test_variables_of_the_job_around_are_hidden_while_submitting(monkeypatch):
    import os

    said = {"partition": "p", "time": "1", "additional_parameters": {"qos": "q"}}
    hidden = ("SLURM_JOB_ID", "SLURM_CPU_BIND", "SBATCH_PARTITION", "SBATCH_TIMELIMIT",
              "SBATCH_QOS", "CUDA_VISIBLE_DEVICES")  # fmt: skip
    kept = ("SLURM_CONF", "SBATCH_ACCOUNT", "HOME")
    for name in (*hidden, *kept):
        monkeypatch.setenv(name, "x")
    with slurm._outside_of_jobs(said):
        assert not set(hidden) & set(os.environ)
        assert set(kept) <= set(os.environ)
    assert set(hidden) <= set(os.environ)
