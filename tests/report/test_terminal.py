"""What ``mmbench report`` prints beside its tables: little, and what matters last."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from mmbench.cli.app import app
from mmbench.errors import UserError
from mmbench.store import Store


@pytest.fixture
def results(template, make, tmp_path):
    for method, value in (("concat", 0.5), ("iprm", 0.7)):
        folder = tmp_path / "runs" / method
        folder.mkdir(parents=True)
        record = make(template, method, 0, value)
        (folder / "record.json").write_text(record.model_dump_json(exclude_none=True))
    return tmp_path


def report(results, *more):
    done = CliRunner().invoke(app, ["report", "--results", str(results), *more])
    assert done.exit_code == 0, done.output
    return done.output


def test_files_are_counted_by_folder_and_removed_ones_told_last(results):
    report(results, "--study", "cost", "--no-figures")
    lines = report(results, "--html").splitlines()
    tables, figures = results / "tables", results / "figures"
    wrote = [line for line in lines if line.startswith("wrote ")]
    many = len(list(tables.glob("*.md"))), len(list(figures.glob("*.svg")))
    assert wrote == [
        f"wrote {tables}: {many[0]} .md, {many[0]} .tex, {many[0]} .csv",
        f"wrote {figures}: {many[1]} .svg, {many[1]} .pdf",
        f"wrote {results / 'report.html'}",
    ]
    assert lines[-1].startswith("removed 3 files of earlier reports") and "cost" in lines[-1]


def test_json_names_every_file(results):
    files = json.loads(report(results, "--json", "--no-figures"))
    assert {*files} == {str(file) for file in results.glob("tables/*")}


@pytest.mark.parametrize("folder", ["tables", "figures"])
def test_a_file_in_the_place_of_an_output_folder_is_named(folder, results):
    (results / folder).write_text("mine")
    done = CliRunner().invoke(app, ["report", "--results", str(results)])
    assert isinstance(done.exception, UserError)
    said = str(done.exception)
    assert f"cannot write the {folder}" in said
    assert "is a file; move it away" in said
    assert (results / folder).read_text() == "mine"


def test_a_report_says_which_cells_were_interrupted(results, template, make):
    cell = make(template, "iprm", 1, 0.5).cell
    (Store(results).create(cell).path / "checkpoint-7").touch()
    said = report(results, "--no-figures")
    assert "note: 1 cell was interrupted" in said and f"({cell.folder})" in said
    shutil.rmtree(results / "runs" / "concat")
    shutil.rmtree(results / "runs" / "iprm")
    alone = CliRunner().invoke(app, ["report", "--results", str(results)])
    assert isinstance(alone.exception, UserError)
    assert "1 cell was interrupted" in str(alone.exception)
    wrong = CliRunner().invoke(app, ["report", "--results", str(results), "--source", "bogus"])
    assert "--source is one of auto, runs, records; found 'bogus'" in str(wrong.exception)


def test_a_report_of_refusals_alone_says_why_it_has_no_table(results, template, make):
    for folder in (results / "runs").iterdir():
        shutil.rmtree(folder)
    record = make(template, "ogm", 0, 0.5)
    kept = {"cell_id", "cell", "environment", "started", "finished", "schema_version"}
    refused = record.model_dump(include=kept) | {"status": "refused", "reason": "of two alone"}
    Store(results).create(record.cell).write(type(record)(**refused))
    assert "no table: nothing in" in report(results)
