"""A study of time says when what is finished was not run the way that is asked for now."""

import pytest
from typer.testing import CliRunner

from mmbench.cli.app import app


@pytest.fixture
def timed(tmp_path):
    def ran(*options):
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
