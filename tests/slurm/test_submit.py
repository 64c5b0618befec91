"""Submitting to a real SLURM: what it puts into the queue, and what it refuses."""

import json
import subprocess

import pytest


@pytest.fixture
def held(grid):
    """The grid's cells, submitted so that they wait in the queue."""

    def submit(*words, **environment):
        given = grid.profile(text="[slurm]\nhold = true")
        return grid.submit(*given, *words, **environment)

    return submit


def test_a_sweep_runs_to_its_end_without_the_submitter(grid):
    printed = grid.submit("--partition", "main", "--time", "5", "--max-jobs", "2")
    assert "3 cells, 2 jobs submitted" in printed
    grid.ends_as_undisturbed()
    (submitted,) = grid.results.glob("sweeps/*/jobs.jsonl")
    assert json.loads(submitted.read_text())["array"] == 2
    assert "nothing to do" in grid.run(*grid.profile()).stdout


def test_jobs_come_in_arrays_no_longer_than_the_cluster_allows(grid, held):
    held("--seeds", "6", "--max-jobs", "6")
    arrays = [job["task"].partition("_")[0] for job in grid.cluster.jobs("PD")]
    assert sorted(arrays.count(array) for array in set(arrays)) == [3, 3]


def test_the_dry_run_shows_the_script_and_submits_nothing(grid):
    done = grid.run(*grid.profile(), "--partition", "main", "--account", "me", "--dry-run")
    assert done.returncode == 0
    assert "#SBATCH --partition=main" in done.stdout
    assert "#SBATCH --account=me" in done.stdout
    assert not grid.cluster.jobs("PD,R")
    assert not list(grid.results.glob("sweeps/*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cluster", "slurm", "--time", "5", "--partition", "mian"), "here: away, main"),
        (("--cluster", "slurm", "--time", "9:00:00"), "SLURM refused the job"),
        (("--cluster", "slurm", "--time", "5", "--slurm", "qoz=x"), "unrecognized option"),
        (("--cluster", "slurm", "--time", "5", "--partition", "away"), "would run on elsewhere"),
    ],
)  # fmt: skip
def test_what_cannot_be_submitted_is_told_and_leaves_nothing_behind(grid, words, message):
    done = grid.run(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(grid.results.glob("sweeps/*"))
    assert not grid.cluster.jobs("PD,R")


def test_a_controller_that_is_away_is_told(grid):
    grid.cluster.stop("slurmctld")
    done = grid.run(*grid.profile())
    assert done.returncode == 2
    assert "sinfo does not answer" in done.stderr


def test_a_job_submitted_from_inside_a_job_knows_nothing_of_it(grid):
    file = grid.folder / "environment"
    given = grid.profile(text=f'setup = ["env > {file}.$SLURM_JOB_ID"]')
    words = subprocess.list2cmdline(grid.command(*given, "--max-jobs", "1"))
    grid.hurry()
    grid.cluster.environment |= {"TEST_HURRY": grid.environment["TEST_HURRY"]}
    printed = grid.cluster.command(
        "sbatch", "--parsable", "--job-name=outer", "--mem=100", f"--output={grid.folder}/outer",
        "--comment=outer", "--wrap", words,
    )  # fmt: skip
    grid.wait(lambda: len(grid.records()) == 3, "three records")
    (inner,) = grid.folder.glob("environment.*")
    found = dict(line.partition("=")[::2] for line in inner.read_text().splitlines())
    assert found["SLURM_JOB_NAME"] == "mmbench"
    assert found["SLURM_JOB_ID"] != printed.strip()
    assert "SLURM_MEM_PER_NODE" not in found
