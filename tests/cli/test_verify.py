"""``mmbench verify`` as a person reads it, and as a program does."""

import json

import pytest
from typer.testing import CliRunner

from mmbench.cli.app import app


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """Return what it prints of a dataset whose source holds samples twice."""
    cache = str(tmp_path_factory.mktemp("cache"))
    assert CliRunner().invoke(app, ["prepare", "mfeat3", "--cache", cache]).exit_code == 0

    def verify(*more):
        done = CliRunner().invoke(app, ["verify", "mfeat3", "--cache", cache, *more])
        assert done.exit_code == 0, done.output
        return done.stdout

    return verify


def test_a_person_reads_what_is_well_and_what_is_only_told(verified):
    rows = [" ".join(line.split()) for line in verified("--results", "nowhere").splitlines()]
    assert rows[0] == "check result found"
    assert "hashes ok all files match" in rows
    (content,) = (row for row in rows if row.startswith("content train/test"))
    assert content.startswith("content train/test note 2 of 600 samples of test are in train too")
    (counts,) = (row for row in rows if row.startswith("counts"))
    assert counts.endswith(" samples in val, 600 samples in test") and "{" not in counts
    assert rows[-1].startswith("none of ") and rows[-1].endswith(" checks failed; 3 notes")
    assert not any("True" in row for row in rows)


def test_a_program_reads_as_before(verified):
    checks = {check["name"]: check for check in json.loads(verified("--json"))}
    assert set(checks["counts"]) == {"name", "ok", "detail", "note"}
    assert checks["counts"]["detail"].startswith("{'train': ")
    assert checks["content train/test"]["ok"] is True
