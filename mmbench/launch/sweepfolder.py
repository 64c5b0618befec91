"""The folder of a sweep: what was asked for, and the cells, for workers on any machine.

``<results>/sweeps/<id>/`` holds ``sweep.json`` (see ``Facts``), ``cells.jsonl`` (a cell a line, the
longest first), ``logs/``, and, once someone asks for it, the marker files ``cancelled`` (workers
stop at the next step boundary) and ``retry`` (they look again at cells that were given up).
"""

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from mmbench.cell import Cell, digest
from mmbench.errors import UserError
from mmbench.launch import lease
from mmbench.record import now
from mmbench.settings import RunSettings, Settings


class Facts(Settings):
    """What a worker must know of a sweep, as in ``sweep.json``.

    Attributes:
        cells: how many; counted by ``create``.
        created: UTC, ISO 8601; set by ``create``.
        command: what was typed.
        run: settings of the machine; the number of threads is that of one cell.
        cache: the folder of prepared data.
        plugins: the user's ``--plugin`` values, as the workers find them.
        per_gpu: cells at once on a GPU; without a GPU, cells at once.
        lease: seconds for which a worker that says nothing is believed to be at work.
        weights: the folder of pretrained weights; None: the default one.
        resources: what the scheduler was asked for.
    """

    cells: int = 0
    created: str = Field(default_factory=now)
    command: tuple[str, ...] = ()
    run: RunSettings = RunSettings()
    cache: str
    plugins: tuple[str, ...] = ()
    per_gpu: int = Field(default=1, ge=1)
    lease: float = Field(default=lease.SECONDS, gt=0)
    weights: str | None = None
    resources: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of ``cells.jsonl``: the run directory's name, and where the line lies in bytes."""

    folder: str
    start: int
    length: int


@dataclass(frozen=True)
class SweepFolder:
    """A sweep on disk.

    Args:
        path: ``<results>/sweeps/<id>``.
        facts: what ``sweep.json`` says.
    """

    path: Path
    facts: Facts

    @property
    def results(self) -> Path:
        """The results folder that it belongs to."""
        return self.path.parent.parent

    @property
    def runs(self) -> Path:
        """Where its run directories are."""
        return self.results / "runs"

    @property
    def logs(self) -> Path:
        """Where its workers write."""
        return self.path / "logs"

    @property
    def cancelled(self) -> bool:
        """Whether its workers were asked to stop for good, as far as the file server answers."""
        with suppress(OSError):
            return (self.path / "cancelled").exists()
        return False

    def since(self) -> float:
        """Return the file server's time from which on failures count against a cell."""
        return (self.path / "sweep.json").stat().st_mtime

    def look_again(self) -> None:
        """Ask its workers to look again at cells that were given up."""
        (self.path / "retry").touch()

    def retried(self) -> float:
        """Return when they were last asked to, in the file server's time; 0: never.

        Raises:
            OSError: if the file server does not answer.
        """
        try:
            return (self.path / "retry").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    @cached_property
    def entries(self) -> list[Entry]:
        """The lines of ``cells.jsonl``, without reading the cells.

        Raises:
            UserError: if the file is missing or damaged.
        """
        try:
            return list(_entries((self.path / "cells.jsonl").read_bytes()))
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise UserError(
                f"the list of cells in {self.path} cannot be read ({err}); submit the sweep again: "
                "finished cells are kept"
            ) from err

    def cell(self, entry: Entry) -> Cell:
        """Read one cell.

        Raises:
            UserError: if it is not what its line was made from.
        """
        with (self.path / "cells.jsonl").open("rb") as handle:
            handle.seek(entry.start)
            line = handle.read(entry.length)
        cell = Cell.model_validate(json.loads(line)["cell"])
        if cell.folder != entry.folder:
            raise UserError(
                f"{entry.folder} in {self.path} is {cell.folder} to this mmbench; run the sweep's "
                "workers with the code that it was submitted with"
            )
        return cell


def _entries(data: bytes) -> Iterator[Entry]:
    start = 0
    for line in data.splitlines(keepends=True):
        yield Entry(str(json.loads(line)["folder"]), start, len(line))
        start += len(line)


def create(
    results: Path, cells: Sequence[Cell], facts: Facts, seconds: Mapping[str, float] | None = None
) -> SweepFolder:
    """Make the folder of a sweep; it appears whole.

    Args:
        results: the results folder; made if missing.
        cells: what to run.
        facts: what workers must know; ``cells`` and ``created`` are filled in.
        seconds: expected time of cells by id. The longest come first, those without an
            expectation before all others, as they may be long.

    Raises:
        OSError: as the system says.
    """
    expected = seconds or {}
    told = facts.model_copy(update={"cells": len(cells), "created": now()})
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = results / "sweeps" / f"{stamp}-{digest([stamp, secrets.token_hex(8)], 6)}"
    making = path.with_name(f".{path.name}")
    making.mkdir(parents=True)
    (results / "runs").mkdir(exist_ok=True)
    (making / "logs").mkdir()
    ordered = sorted(cells, key=lambda cell: -expected.get(cell.id, float("inf")))
    with (making / "cells.jsonl").open("w", encoding="utf-8") as handle:
        for cell in ordered:
            line = {"folder": cell.folder, "seconds": expected.get(cell.id)}
            handle.write(json.dumps({**line, "cell": cell.model_dump(mode="json")}) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    (making / "sweep.json").write_text(told.model_dump_json(indent=1), encoding="utf-8")
    making.rename(path)
    return SweepFolder(path, told)


def open_sweep(path: Path) -> SweepFolder:
    """Open the folder of a sweep.

    Raises:
        UserError: if it is none.
    """
    path = path.absolute()
    try:
        facts = Facts.model_validate_json((path / "sweep.json").read_bytes())
    except (OSError, ValueError) as err:
        raise UserError(
            f"{path} is not the folder of a sweep ({type(err).__name__}); they are in "
            "RESULTS/sweeps"
        ) from err
    return SweepFolder(path, facts)


def cancel_sweep(path: Path) -> None:
    """Ask the workers of the sweep in ``path`` to stop for good; what they have is kept.

    It need not be readable.

    Raises:
        OSError: as the system says.
    """
    (path / "cancelled").touch()


def sweeps(results: Path) -> list[Path]:
    """Return the folders of all sweeps, oldest first."""
    return sorted(file.parent for file in (results / "sweeps").glob("[0-9]*/sweep.json"))
