"""Time and memory of cells, from past records of the same kind, else from a few steps."""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbench.cell import Cell
from mmbench.errors import StopRequested
from mmbench.settings import RunSettings, default_cache
from mmbench.store import Store, iter_records

if TYPE_CHECKING:
    from mmbench.cli.running import Options

Estimate = tuple[float, int, str]  # seconds, bytes, what it is based on
Kind = tuple[object, ...]
EPOCHS = 2  # of a calibration, if there is time for them
SECONDS = 2.0  # of training in a calibration; then its steps are counted up to whole epochs
STEPS = 4  # at least: the first is slower and does not count
FORWARD = 1 / 3  # of a training step: what a sample costs in an evaluation

log = logging.getLogger(__name__)


def _kind(cell: Cell) -> Kind:
    """Return what time and memory hang on, beside the number of epochs."""
    trainer = cell.trainer
    encoders = tuple(sorted(cell.encoders.items()))
    return (cell.dataset, cell.label, encoders, trainer.batch_size, trainer.precision)


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
    """Return an estimate for every cell, by id; a kind without a record is tried for a moment."""
    from mmbench.launch.local import slots
    from mmbench.training.device import choose

    found = from_records(todo, store, choose(run.device).type)
    # As many threads as a worker of this run would have: more than cores are free are far slower.
    per_gpu = int(options.per_gpu) if options.per_gpu.isdecimal() else 1
    places = slots(options.device, options.jobs, per_gpu, options.threads, options.gpus_per_cell)
    run = run.model_copy(update={"threads": places[0].threads})
    tried: dict[Kind, tuple[float, float, int, str]] = {}
    for cell in todo:
        if cell.id in found:
            continue
        kind = _kind(cell)
        if kind not in tried:
            log.info("trying %s on %s for a moment: no record of it", cell.label, cell.dataset)
            tried[kind] = _calibrate(cell, options.cache or default_cache(), run)
        around, each, memory, basis = tried[kind]
        found[cell.id] = (around + each * cell.trainer.epochs, memory, basis)
    return found


@dataclass
class _Clock:
    """Hooks of a calibration: notes when training begins, steps and passes end, and stops it."""

    passes: int = 0  # that training makes of ``EPOCHS``; a method may make more of one
    begun: float = 0.0
    wait: Callable[[], None] = lambda: None  # for the device
    steps: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def progress(self, values: Mapping[str, Any]) -> None:  # Any: JSON values
        """Note the begin of training or the end of a pass."""
        if "epochs" not in values:  # a warning
            return
        if not self.begun:
            self.passes, self.begun = values["epochs"], time.perf_counter()
        else:
            self.ends.append(time.perf_counter())

    def stop(self) -> bool:
        """Note the end of a step, and say whether this was long enough."""
        self.wait()
        self.steps.append(time.perf_counter())
        return len(self.steps) >= STEPS and self.steps[-1] - self.begun > SECONDS

    def epoch(self, steps: float) -> float:
        """Return the seconds that one epoch of the settings adds.

        Args:
            steps: of one pass, the evaluation at its end included; for a try that ended in the
                first pass.
        """
        if self.ends:
            each = (self.ends[-1] - self.begun) / len(self.ends)
        elif len(self.steps) > 1:
            each = steps * (self.steps[-1] - self.steps[0]) / (len(self.steps) - 1)
        else:  # refused, or failed at once
            each = 0.0
        return each * self.passes / EPOCHS


def _calibrate(cell: Cell, cache: Path, run: RunSettings) -> tuple[float, float, int, str]:
    """Run two epochs, or the steps that a moment has room for, in a folder that is deleted.

    Returns:
        The seconds around training, those that one epoch of the settings adds, peak bytes, and
        what to say of the estimate: that it failed or was refused, if so.
    """
    from mmbench.data.cache import ensure
    from mmbench.training.device import choose, peak_memory, synchronize
    from mmbench.training.run_cell import make_dataset, run_cell
    from mmbench.training.trainer import Hooks

    sizes = {
        n: len(each.label) for n, each in ensure(make_dataset(cell), cache=cache).splits.items()
    }
    if cell.protocol == "published":
        sizes = {"train": sizes["train"] + sizes["val"], "val": sizes["test"]}
    pass_ = (sizes["train"] + FORWARD * sizes["val"]) / cell.trainer.batch_size
    short = cell.model_copy(update={"trainer": cell.trainer.model_copy(update={"epochs": EPOCHS})})
    device = choose(run.device)
    clock = _Clock(wait=partial(synchronize, device))
    hooks = Hooks(progress=clock.progress, stop=clock.stop)
    with tempfile.TemporaryDirectory() as folder:
        started, basis = time.perf_counter(), "a short calibration"
        try:
            record = run_cell(short, results=Path(folder), cache=cache, run=run, hooks=hooks)
            after = (clock.ends or [time.perf_counter()])[-1]
            around = time.perf_counter() - after + max(0.0, clock.begun - started)
            if record.failure:
                basis = f"a calibration that failed: {record.failure.message}"
            elif record.status == "refused":
                basis = f"it will be refused: {record.reason}"
        except StopRequested:
            around = clock.begun - started  # the final evaluation is not known
    return around, clock.epoch(pass_), peak_memory(device).peak_bytes, basis
