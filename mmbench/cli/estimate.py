"""Time and memory of cells, from past records of the same kind, else from a few steps."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmbench.cell import Cell
from mmbench.settings import RunSettings, default_cache
from mmbench.store import Store, iter_records

if TYPE_CHECKING:
    from mmbench.cli.running import Options

Estimate = tuple[float, int, str]  # seconds, bytes, what it is based on
Kind = tuple[str, str, str]


def _kind(cell: Cell) -> Kind:
    return (cell.dataset, cell.label, str(sorted(cell.encoders.items())))


def from_records(
    todo: Sequence[Cell], store: Store, device: str | None = None
) -> dict[str, Estimate]:
    """Return an estimate for every cell of a kind that has a record, by id.

    Args:
        todo: the cells.
        store: where to look for records.
        device: count only records of this kind of device (``cpu``, ``cuda``); None: all.
    """
    past: dict[Kind, list[tuple[float, int]]] = {}
    for record in iter_records(store.runs, unreadable=[]):
        if record.timing and record.memory and device in (None, record.environment.device):
            cell = record.cell
            each = record.timing.total / cell.trainer.epochs
            past.setdefault(_kind(cell), []).append((each, record.memory.peak_bytes))
    found: dict[str, Estimate] = {}
    for cell in todo:
        if runs := past.get(_kind(cell)):
            seconds = statistics.median(s for s, _ in runs) * cell.trainer.epochs
            found[cell.id] = (seconds, max(m for _, m in runs), f"{len(runs)} past runs")
    return found


def estimates(
    todo: Sequence[Cell], store: Store, options: "Options", run: RunSettings
) -> dict[str, Estimate]:
    """Return an estimate for every cell, by id; a kind without a record is tried for an epoch."""
    from mmbench.training.device import choose

    found = from_records(todo, store, choose(run.device).type)
    tried: dict[Kind, tuple[float, int]] = {}
    for cell in todo:
        if cell.id in found:
            continue
        kind = _kind(cell)
        if kind not in tried:
            tried[kind] = _calibrate(cell, options.cache or default_cache(), run)
        seconds, memory = tried[kind]
        found[cell.id] = (seconds * cell.trainer.epochs, memory, "a calibration of one epoch")
    return found


def _calibrate(cell: Cell, cache: Path, run: RunSettings) -> tuple[float, int]:
    """Run one epoch in a folder that is deleted afterwards; return seconds and peak bytes."""
    from mmbench.training.run_cell import run_cell

    short = cell.model_copy(update={"trainer": cell.trainer.model_copy(update={"epochs": 1})})
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        record = run_cell(short, results=Path(folder), cache=cache, run=run)
        elapsed = time.perf_counter() - begun
    return elapsed, record.memory.peak_bytes if record.memory else 0
