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
EPOCHS = 2  # of a calibration: the first is slower, so the time between their ends counts


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
    past: dict[Kind, list[tuple[float, float, int]]] = {}
    for record in iter_records(store.runs, unreadable=[]):
        if record.timing and record.memory and device in (None, record.environment.device):
            cell = record.cell
            # Settings' epochs, as a method may make more of one.
            each = record.timing.training / cell.trainer.epochs
            around = record.timing.total - record.timing.training
            past.setdefault(_kind(cell), []).append((around, each, record.memory.peak_bytes))
    found: dict[str, Estimate] = {}
    for cell in todo:
        if runs := past.get(_kind(cell)):
            seconds = statistics.median(a + e * cell.trainer.epochs for a, e, _ in runs)
            found[cell.id] = (seconds, max(m for *_, m in runs), f"{len(runs)} past runs")
    return found


def estimates(
    todo: Sequence[Cell], store: Store, options: "Options", run: RunSettings
) -> dict[str, Estimate]:
    """Return an estimate for every cell, by id; a kind without a record is tried for two epochs."""
    from mmbench.training.device import choose

    found = from_records(todo, store, choose(run.device).type)
    tried: dict[Kind, tuple[float, float, int, str]] = {}
    for cell in todo:
        if cell.id in found:
            continue
        kind = _kind(cell)
        if kind not in tried:
            tried[kind] = _calibrate(cell, options.cache or default_cache(), run)
        around, each, memory, basis = tried[kind]
        found[cell.id] = (around + each * cell.trainer.epochs, memory, basis)
    return found


def _calibrate(cell: Cell, cache: Path, run: RunSettings) -> tuple[float, float, int, str]:
    """Run two epochs in a folder that is deleted afterwards.

    Returns:
        The seconds around training, those that one epoch of the settings adds, peak bytes, and
        what to say of the estimate: that it failed or was refused, if so.
    """
    from mmbench.training.run_cell import run_cell
    from mmbench.training.trainer import Hooks

    short = cell.model_copy(update={"trainer": cell.trainer.model_copy(update={"epochs": EPOCHS})})
    ends: list[float] = []
    hooks = Hooks(progress=lambda values: ends.append(time.perf_counter()))
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        record = run_cell(short, results=Path(folder), cache=cache, run=run, hooks=hooks)
        whole = time.perf_counter() - begun
    basis = f"a calibration of {EPOCHS} epochs"
    if record.failure:
        basis = f"a calibration that failed: {record.failure.message}"
    elif record.status == "refused":
        basis = f"it will be refused: {record.reason}"
    memory = record.memory.peak_bytes if record.memory else 0
    if len(ends) < 2:  # refused, or failed
        return whole, 0.0, memory, basis
    trained = (ends[-1] - ends[0]) * len(ends) / (len(ends) - 1)
    # A method may make more epochs of one, so this counts those of the settings.
    return max(0.0, whole - trained), trained / EPOCHS, memory, basis
