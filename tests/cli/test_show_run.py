"""``show`` of a run tells how it ended, to a person and to a program."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbench.cell import Cell
from mmbench.cli.app import app
from mmbench.record import Environment, Failure, Memory, Record, Selection, Timing
from mmbench.settings import TrainerSettings
from mmbench.store import Store

CELL = Cell(
    method="m", label="m", method_version=1, method_config={}, dataset="d", dataset_version=1,
    dataset_config={}, split_hash="0", encoders={}, protocol="validated", fidelity="corrected",
    preset="common", trainer=TrainerSettings(), seed=0, changed={"trainer.epochs": 5},
)  # fmt: skip
BASE = {
    "cell_id": CELL.id,
    "cell": CELL,
    "started": "2026-01-01T00:00:00+00:00",
    "finished": "2026-01-01T00:01:00+00:00",
    "environment": Environment(
        mmbench="0", python="3", libraries={}, commit="abc", clean=False, platform="p",
        device="cpu", device_name="a processor", threads=1,
    ),
}  # fmt: skip
DONE = Record(
    status="done",
    selection=Selection(rule="the best", split="val", metric="accuracy", epoch=1, value=0.5),
    final={"selected": {"fused": {"accuracy": 0.5}, "audio": {"accuracy": 0.25}}},
    timing=Timing(
        epoch_mean=1.5, epoch_std=0.1, samples_per_second=10, training=3, total=61, resumed=0
    ),
    memory=Memory(peak_bytes=2**21, kind="resident"),
    **BASE,
)
FAILED = Record(
    status="failed",
    failure=Failure(kind="ValueError", message="no step today", traceback="Traceback: line 7"),
    **BASE,
)


def show(results: Path, *more: str) -> str:
    return CliRunner().invoke(app, ["show", CELL.folder, "--results", str(results), *more]).output


@pytest.mark.parametrize(
    ("record", "lines"),
    [
        (
            DONE,
            ["changed: trainer.epochs = 5", "commit abc, with changes", "time: 1:01", "2 MiB",
             "fused 50.00", "audio 25.00"],
        ),
        (
            FAILED,
            ["failed: no step today (ValueError; attempt 1)", "Traceback: line 7",
             "the same mmbench run command tries again"],
        ),
    ],
)  # fmt: skip
def test_a_person_reads_how_it_ended(record, lines, tmp_path):
    Store(tmp_path).create(CELL).write(record)
    told = " ".join(show(tmp_path).split())
    for line in (f"{CELL.folder}: {record.status}", *lines):
        assert line in told


def test_an_interrupted_run_comes_with_the_command_that_continues_it(tmp_path):
    (Store(tmp_path).create(CELL).path / "checkpoint-3").touch()
    told = show(tmp_path)
    assert f"{CELL.folder}: interrupted" in told
    assert "and nobody is at work on it: the same mmbench run command continues" in told


def test_a_program_reads_the_records(tmp_path):
    directory = Store(tmp_path).create(CELL)
    assert json.loads(show(tmp_path, "--json")) == [CELL.model_dump(mode="json")]
    directory.write(DONE)
    (told,) = json.loads(show(tmp_path, "--json"))
    assert Record.model_validate(told) == DONE
