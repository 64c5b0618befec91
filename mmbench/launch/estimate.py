"""Time and memory of cells, from past records of the same kind, else from a few steps."""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mmbench.cell import Cell
from mmbench.errors import StopRequested
from mmbench.settings import RunSettings
from mmbench.store import Store, iter_records

Kind = tuple[object, ...]
EPOCHS = 2  # of a calibration, if there is time for them
SECONDS = 2.0  # of training in a calibration; then its steps are counted up to whole epochs
STEPS = 4  # at least: the first is slower and does not count
FORWARD = 1 / 3  # of a training step: what a sample costs in an evaluation

log = logging.getLogger(__name__)


class Estimate(NamedTuple):
    """What a cell is expected to take.

    Attributes:
        seconds: of one worker's time.
        memory: bytes at the peak.
        basis: what it is based on.
        tried: whether something was trained for it, for a moment.
    """

    seconds: float
    memory: int
    basis: str
    tried: bool = False


class _Trial(NamedTuple):
    """What a cell of some kind took.

    Attributes:
        around: seconds before and after training.
        each: seconds of training that one epoch of the settings adds.
        memory: bytes at the peak.
        basis: what to say of an estimate made from it.
    """

    around: float
    each: float
    memory: int
    basis: str = ""

    def seconds(self, cell: Cell) -> float:
        """Return how long a cell of this kind takes."""
        return self.around + self.each * cell.trainer.epochs


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
    past: dict[Kind, list[_Trial]] = {}
    for record in iter_records(store.runs, unreadable=[]):
        if record.timing and record.memory and device in (None, record.environment.device):
            cell = record.cell
            # Settings' epochs, as a method may make more of one.
            each = record.timing.training / cell.trainer.epochs
            around = record.timing.total - record.timing.training
            trial = _Trial(around, each, record.memory.peak_bytes)
            past.setdefault(_kind(cell), []).append(trial)
    found: dict[str, Estimate] = {}
    for cell in todo:
        if runs := past.get(_kind(cell)):
            seconds = statistics.median(run.seconds(cell) for run in runs)
            memory = max(run.memory for run in runs)
            found[cell.id] = Estimate(seconds, memory, f"{len(runs)} past runs")
    return found


def estimates(
    todo: Sequence[Cell], store: Store, run: RunSettings, cache: Path
) -> dict[str, Estimate]:
    """Return an estimate for every cell, by id; a kind without a record is tried for a moment.

    Args:
        todo: the cells.
        store: where to look for records.
        run: settings of one worker, its threads included: more than cores are free are far slower.
        cache: the folder of prepared data.
    """
    from mmbench.training.device import choose

    found = from_records(todo, store, choose(run.device).type)
    tried: dict[Kind, _Trial] = {}
    for cell in todo:
        if cell.id in found:
            continue
        kind = _kind(cell)
        if kind not in tried:
            log.info("trying %s on %s for a moment: no record of it", cell.label, cell.dataset)
            tried[kind] = _calibrate(cell, cache, run)
        trial = tried[kind]
        found[cell.id] = Estimate(trial.seconds(cell), trial.memory, trial.basis, tried=True)
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


def _calibrate(cell: Cell, cache: Path, run: RunSettings) -> _Trial:
    """Run two epochs, or the steps that a moment has room for, in a folder that is deleted.

    The basis says so if that failed or was refused.
    """
    from mmbench.data.cache import ensure
    from mmbench.training.assembly import make_dataset
    from mmbench.training.device import choose, peak_memory, synchronize
    from mmbench.training.run_cell import run_cell
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
    return _Trial(around, clock.epoch(pass_), peak_memory(device).peak_bytes, basis)
