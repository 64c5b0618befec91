"""``show`` of runs: what was run, how it ended, what it reached."""

import json
from collections.abc import Sequence
from pathlib import Path

from mmbench.cli.output import clock, print_rows
from mmbench.hints import interrupted
from mmbench.record import Record
from mmbench.store import RunDirectory, read_record, speaking
from mmbench.survey import left_alone


def show_runs(runs: Sequence[RunDirectory], results: Path, as_json: bool) -> None:
    """Print runs one after the other, or a JSON list of their records.

    Args:
        runs: their directories; one without a record is told by its cell.
        results: the results folder that they are in.
        as_json: with everything that the files hold.
    """
    files = {run.path: _record_file(run) for run in runs}
    if as_json:
        told = [(file or path / "cell.json").read_text() for path, file in files.items()]
        print(json.dumps([json.loads(text) for text in told], indent=1))
        return
    alone = left_alone(results) if None in files.values() else []
    for run in runs:
        print(f"{run.path.name}: {run.state()}\nfolder: {run.path}")
        if file := files[run.path]:
            _print_record(read_record(file), len(run.failures()))
        elif run.path.name in alone:
            print(interrupted(1))
        print()


def _record_file(run: RunDirectory) -> Path | None:
    return next((Path(file) for file, _ in speaking(str(run.path))), None)


def _print_record(record: Record, failures: int) -> None:
    cell, where = record.cell, record.environment
    tree = {True: "", False: ", with changes", None: ""}[where.clean]
    print(f"method: {cell.label}, {cell.fidelity}, preset {cell.preset}")
    print(f"data: {cell.dataset}, protocol {cell.protocol}, seed {cell.seed}")
    for key, value in cell.changed.items():
        print(f"changed: {key} = {value}")
    print(f"made: {record.finished}, commit {where.commit or 'unknown'}{tree}")
    print(f"device: {where.hardware}, {cell.trainer.precision}")
    if record.remark:
        print(f"remark: {record.remark}")
    if record.reason:
        print(f"refused: {record.reason}")
    if record.timing and record.memory:
        time, memory = record.timing, record.memory
        print(
            f"time: {clock(time.total)}, an epoch {time.epoch_mean:.3f} ± {time.epoch_std:.3f} s, "
            f"{time.samples_per_second:.0f} samples/s\n"
            f"memory: {memory.peak_bytes / 2**20:.0f} MiB ({memory.kind})"
        )
    if record.selection:
        chosen = record.selection
        print(f"epoch: {chosen.epoch + 1} of {len(record.curve)}; {chosen.rule}\n")
        scores = [
            {"test, %": name, **{key: f"{100 * v:.2f}" for key, v in values.items()}}
            for name, values in record.final["selected"].items()
        ]
        print_rows(scores, False, "")
    if record.failure:
        failure = record.failure
        print(f"failed: {failure.message} ({failure.kind}; attempt {failures})")
        if failure.traceback:
            print(f"\n{failure.traceback.rstrip()}")
        if not failure.final:
            print("the same mmbench run command tries again")
