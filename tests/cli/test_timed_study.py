"""A study of time says when what is finished was not run the way that is asked for now."""

import pytest
from typer.testing import CliRunner

from mmbench.cli.app import app


@pytest.fixture
def timed(tmp_path):
    def ran(*options):
        """Run the study and return what is printed."""
        words = ["run", "--study", "cost", "--datasets", "mfeat3", "--methods", "concat"]
        words += ["--seeds", "1", "--device", "cpu", "--set", "trainer.epochs=1", *options]
        folders = ["--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")]
        done = CliRunner().invoke(app, [*words, *folders])
        assert done.exit_code == 0, done.output
        return done.output

    return ran


def test_finished_cells_that_ran_another_way_are_told(timed):
    timed()
    again = timed()
    assert "another way" not in again
    assert "nothing to do; tables: mmbench report --study cost --results" in again
    said = timed("--threads", "2", "--memory-format", "channels_last")
    assert "note: 1 finished cell ran another way (" in said
    assert ", 1 thread) than this command would (" in said
    assert ", 2 threads, channels_last)" in said


def test_jobs_of_a_cluster_are_compared_by_what_is_known_of_them(timed):
    timed("--threads", "1")
    jobs = ("--device", "auto", "--cluster", "slurm", "--time", "60")
    said = timed(*jobs, "--cpus", "1")
    assert "another way" not in said
    assert "note: 1 finished cell ran on " in said
    assert "; whether the nodes have the same is not known here" in said
    for other, way in ((("--cpus", "2"), "cpu of a node, 2 threads"),
                       (("--gpus", "1"), "cuda of a node, 1 thread, channels_last")):  # fmt: skip
        said = timed(*jobs, *other)
        assert "note: 1 finished cell ran another way (" in said
        assert f", 1 thread) than this command would ({way})" in said
