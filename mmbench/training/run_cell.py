"""From a cell to its record: load the data, build the method, train, evaluate, write."""

import logging
import statistics
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmbench.cell import Cell
from mmbench.errors import Busy, MMBenchError, NonFiniteLoss, Refused, StopRequested, UserError
from mmbench.locking import try_lock
from mmbench.metrics import absent_classes
from mmbench.ranks.group import ALONE, Ranks
from mmbench.record import (
    Data,
    Failure,
    Imbalance,
    Memory,
    Metrics,
    Parameters,
    Record,
    Selection,
    Timing,
    now,
)
from mmbench.registry import METHODS
from mmbench.settings import RunSettings, validate
from mmbench.store import FULL, RunDirectory, Store, read_record
from mmbench.training import checkpoint
from mmbench.training.assembly import Parts, assemble, make_dataset
from mmbench.training.device import choose, peak_memory, reset_peak
from mmbench.training.environment import environment
from mmbench.training.evaluation import evaluate, scores
from mmbench.training.imbalance import measure
from mmbench.training.layout import kernels
from mmbench.training.trainer import Hooks, Trainer

LOCK_TRIES = 120  # 6 s: longer than a worker outlives its pool
SELECTION = {
    "validated": "epoch with the best validation metric; test read once, at the end",
    "published": "epoch with the best TEST metric, as most released code does",
}

log = logging.getLogger(__name__)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the run directory's lock; it is released when the process ends, however it ends.

    Raises:
        Busy: if another process is running this cell.
        OSError: if files cannot be locked there.
    """
    with (folder / "lock").open("w") as handle:
        tries_left = LOCK_TRIES
        while not try_lock(handle):
            if not tries_left:
                raise Busy(f"another process is running {folder.name}; wait for it or stop it")
            tries_left -= 1
            time.sleep(0.05)  # whoever asks for the state holds the lock for a moment
        yield


def run_cell(
    cell: Cell,
    *,
    results: Path,
    cache: Path,
    run: RunSettings,
    hooks: Hooks | None = None,
    ranks: Ranks = ALONE,
) -> Record:
    """Run a cell to its record, continuing an interrupted run; a finished cell is just read.

    The other processes of ``ranks`` are told the cell, and must be waiting for it.

    Raises:
        StopRequested: if the hooks asked to stop; the cell can be continued.
        Busy: if another process holds the cell.
        LeaseLost: if the hooks say that the cell is another worker's now; nothing is written.
        OSError: if the results folder cannot be written.
    """
    directory = Store(results).create(cell)
    hooks = hooks or Hooks()
    with claimed(directory.path):
        if directory.record_file.exists():
            return read_record(directory.record_file)
        started = now()
        ranks.tell(cell.model_dump_json())
        try:
            record = _train(cell, directory, started, cache, run, hooks, ranks)
        except StopRequested:
            raise
        except Refused as err:
            record = _refused(cell, started, run, str(err))
        except (Exception, SystemExit) as err:
            if isinstance(err, SystemExit) and ranks.size > 1:
                raise  # the other processes of the cell are lost
            _end_unless_all_failed(ranks, cell, directory, started, run, err)
            if isinstance(err, OSError) and err.errno in FULL:
                raise  # there is no room for a record of it either
            if isinstance(err, NonFiniteLoss):
                checkpoint.discard(directory.path)  # continuing would end the same way
            record = _failed(cell, started, run, err)
        hooks.before_record()
        try:
            directory.write(record)
        except ValueError as err:  # not JSON
            directory.write(_failed(cell, started, run, err))
            raise
        except FileExistsError:  # another machine, whose lock is not seen here, was first
            return read_record(directory.record_file)
        if record.status != "failed":
            checkpoint.discard(directory.path)
            (directory.path / "lock").unlink(missing_ok=True)  # the record says it from now on
        (directory.path / "progress.json").unlink(missing_ok=True)
    return record


def follow_cell(cell: Cell, *, results: Path, cache: Path, run: RunSettings, ranks: Ranks) -> None:
    """Take part in a cell that the first process runs and writes about."""
    directory, started = Store(results).directory(cell), now()
    try:
        _train(cell, directory, started, cache, run, Hooks(), ranks)
    except (StopRequested, Refused):
        return
    except Exception as err:
        _end_unless_all_failed(ranks, cell, directory, started, run, err)


def _end_unless_all_failed(
    ranks: Ranks,
    cell: Cell,
    directory: RunDirectory,
    started: str,
    run: RunSettings,
    err: BaseException,
) -> None:
    """End this process if it failed alone, after recording why, or if the others are no more."""
    others = ranks.others()
    if others == "failed":
        return
    log.error("process %d of %d failed", ranks.rank, ranks.size, exc_info=err)
    if others == "wait" and not (isinstance(err, OSError) and err.errno in FULL):
        directory.write(_failed(cell, started, run, err))
    raise SystemExit(1)


def _train(
    cell: Cell,
    directory: RunDirectory,
    started: str,
    cache: Path,
    run: RunSettings,
    hooks: Hooks,
    ranks: Ranks,
) -> Record:
    begun = time.perf_counter()
    dataset = make_dataset(cell)
    cls = METHODS.load(cell.method)
    reason = cls.refuse(dataset.task, validate(cls.Config, cell.method_config, cell.method))
    if reason is not None:
        raise Refused(reason)
    reset_peak(choose(run.device))
    parts = assemble(cell, cache, run, ranks)
    seen = {name: parts.loaders[name] for name in ("train", parts.select)}
    trainer = Trainer(
        parts.method,
        seen,
        parts.select,
        cell.trainer,
        cell.seed,
        directory.path,
        hooks=hooks,
        ranks=ranks,
    )
    outside = parts.method.fit
    try:
        trainer.train()
    finally:
        # or the two hold each other, and data and weights stay in memory beside the next cell's
        parts.method.fit = outside
    memory = peak_memory(trainer.device)
    test = parts.loaders["test"]
    last = evaluate(parts.method, test, "on test, after the last epoch")
    parts.method.load_state_dict(trainer.best.state)
    hooks.trained(parts.method, test)
    imbalance, logits = measure(parts.method, parts.loaders["train"], test)
    selected = scores(parts.method, logits, test, f"on test, after epoch {trainer.best.epoch + 1}")
    final = {"selected": selected, "last": last}
    timing = _timing(trainer, trainer.earlier + time.perf_counter() - begun)
    first = trainer.started if trainer.resumed else started
    return _done(cell, run, parts, trainer, first, final, imbalance, timing, memory)


def _done(
    cell: Cell,
    run: RunSettings,
    parts: Parts,
    trainer: Trainer,
    started: str,
    final: dict[str, Metrics],
    imbalance: Imbalance,
    timing: Timing,
    memory: Memory,
) -> Record:
    parameters = list(parts.method.parameters())
    task = parts.prepared.task
    return Record(
        status="done",
        cell_id=cell.id,
        cell=cell,
        # now: assemble sets the number of threads
        environment=environment(trainer.device, run, kernels=kernels(parts.method)),
        started=started,
        finished=now(),
        data=Data(
            split_hash=parts.prepared.split_hash,
            data_hash=parts.prepared.data_hash,
            sizes={name: len(loader) for name, loader in parts.loaders.items()},
            absent={
                name: absent_classes(loader.label, len(task.classes))
                for name, loader in parts.loaders.items()
            },
        ),
        remark=parts.method.remark(task),
        curve=trainer.curve,
        selection=Selection(
            rule=SELECTION[cell.protocol],
            split=parts.select,  # type: ignore[arg-type]  # val or test
            metric=task.primary,
            epoch=trainer.best.epoch,
            value=trainer.best.value,
        ),
        final=final,
        imbalance=imbalance,
        timing=timing,
        memory=memory,
        parameters=Parameters(
            total=sum(p.numel() for p in parameters),
            trainable=sum(p.numel() for p in parameters if p.requires_grad),
        ),
        task={
            "modalities": list(task.names),
            "classes": len(task.classes),
            "metrics": list(task.metrics),
            "primary": task.primary,
        },
    )


def _timing(trainer: Trainer, total: float) -> Timing:
    seconds = [row.seconds for row in trainer.curve]
    steady = seconds[1:] or seconds
    mean = statistics.fmean(steady)
    return Timing(
        epoch_mean=mean,
        epoch_std=statistics.stdev(steady) if len(steady) > 1 else 0.0,
        samples_per_second=len(trainer.index) / mean,
        training=sum(seconds),
        total=total,
        resumed=trainer.resumed,
    )


def _refused(cell: Cell, started: str, run: RunSettings, reason: str) -> Record:
    return Record(
        cell_id=cell.id,
        cell=cell,
        status="refused",
        reason=reason,
        started=started,
        finished=now(),
        environment=environment(choose(run.device), run),
    )


def _failed(cell: Cell, started: str, run: RunSettings, err: BaseException) -> Record:
    text = "" if isinstance(err, MMBenchError) else traceback.format_exc()
    return Record(
        cell_id=cell.id,
        cell=cell,
        status="failed",
        started=started,
        finished=now(),
        environment=environment(choose("cpu" if isinstance(err, UserError) else run.device), run),
        failure=Failure(kind=type(err).__name__, message=str(err), traceback=text),
    )
