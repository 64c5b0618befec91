"""From a cell to its record: load the data, build the method, train, evaluate, write."""

import logging
import statistics
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MethodType

import torch
from torch import Tensor, nn

from mmbench.cell import Cell
from mmbench.data import cache as data_cache
from mmbench.data.features import with_features
from mmbench.data.loader import Loader, fits
from mmbench.dataset import Dataset, Prepared, Task
from mmbench.errors import Busy, MMBenchError, NonFiniteLoss, Refused, StopRequested, UserError
from mmbench.locking import try_lock
from mmbench.method import Method
from mmbench.metrics import absent_classes
from mmbench.nets.encoders import build_encoders, initialise
from mmbench.nets.resnet import Residual
from mmbench.ranks.group import ALONE, Ranks
from mmbench.record import Data, Failure, Metrics, Parameters, Record, Selection, Timing, now
from mmbench.registry import DATASETS, METHODS
from mmbench.settings import RunSettings, validate
from mmbench.store import FULL, RunDirectory, Store, read_record
from mmbench.training import checkpoint
from mmbench.training.device import allow_tf32, choose, memory_format, peak_memory, reset_peak
from mmbench.training.environment import environment
from mmbench.training.evaluation import evaluate
from mmbench.training.imbalance import measure
from mmbench.training.seeding import forked
from mmbench.training.trainer import Hooks, Trainer

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by number of dimensions
RECOMPILES = 512  # sizes and modes of inputs for which a worker compiles an encoder's code
LOCK_TRIES = 120  # 6 s: longer than a worker outlives its pool
SELECTION = {
    "validated": "epoch with the best validation metric; test read once, at the end",
    "published": "epoch with the best TEST metric, as most released code does",
}

log = logging.getLogger(__name__)


def make_dataset(cell: Cell) -> Dataset:
    """Construct the cell's dataset with its config."""
    cls = DATASETS.load(cell.dataset)
    dataset: Dataset = cls(validate(cls.Config, cell.dataset_config, cell.dataset))
    return dataset


def make_method(cell: Cell, task: Task) -> Method:
    """Construct the method; the same seed gives the same initial encoders to every method."""
    cls = METHODS.load(cell.method)
    config = validate(cls.Config, cell.method_config, cell.method)
    used = set(cls.modalities(task, config))
    encoders: dict[str, nn.Module] = {}
    with forked(cell.seed, "encoders"):
        everything = build_encoders(task.modalities, cell.encoders)
        for name, encoder in everything.items():
            initialise(encoder, cell.trainer.init)
            if name in used:
                encoders[name] = encoder
    with forked(cell.seed, "heads"):
        method: Method = cls(task, encoders, config)
        for name, part in method.named_children():
            if name != "encoders":
                initialise(part, cell.trainer.init)
    return method


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


def _laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    """Return ``x`` so that a convolution with it gives ``layout``.

    What has one channel is both contiguous and channels_last, and a GPU takes it for the first.
    """
    x = x.contiguous(memory_format=layout)
    if x.shape[1] > 1 or not x.is_cuda:
        return x
    strides = (x.stride(0), 1, *x.stride()[2:])
    return x.as_strided(x.shape, strides)


def _residual(method: Method) -> Iterator[Residual]:
    return (module for module in method.modules() if isinstance(module, Residual))


def arrange(method: Method, device: torch.device, run: RunSettings) -> None:
    """Lay out and compile a method as ``run`` asks; the results differ by rounding only."""
    if memory_format(device, run.memory_format) == "channels_last":
        for each in (*method.parameters(), *method.buffers()):
            if layout := CHANNELS_LAST.get(each.ndim):
                each.data = _laid_out(each.data, layout)
        for net in _residual(method) if device.type == "cuda" else ():
            net.quicken(device)
    if run.compile:
        # One function serves every modality, batch size and mode; past torch's own limit of 8 kinds
        # it would go on uncompiled and say nothing. Each is compiled for its own sizes: with free
        # ones torch 2.11 fails at the second of two ResNets, on the CPU.
        torch._dynamo.config.recompile_limit = RECOMPILES
        torch._dynamo.config.accumulated_recompile_limit = RECOMPILES
        # A method may go backward twice through what another's cell compiled.
        torch._functorch.config.donated_buffer = False
        for encoder in method.encoders.values():
            encoder.compile(dynamic=False)
        for name in method.compiles:
            compiled = torch.compile(getattr(type(method), name), dynamic=False)
            vars(method)[name] = MethodType(compiled, method)


@dataclass(frozen=True)
class Parts:
    """What training needs, ready on the device."""

    prepared: Prepared
    method: Method
    loaders: Mapping[str, Loader]
    select: str


def assemble(cell: Cell, cache: Path, run: RunSettings, ranks: Ranks = ALONE) -> Parts:
    """Load the data and build the method on the device.

    Raises:
        UserError: if the data is not prepared or is not what the cell was made from.
    """
    device = choose(run.device)
    if run.threads:
        torch.set_num_threads(run.threads)
    dataset = make_dataset(cell)
    prepared = data_cache.ensure(dataset, cache=cache)
    if prepared.split_hash != cell.split_hash:
        raise UserError(
            f"the prepared {cell.dataset} has split {prepared.split_hash}, but the cell was made "
            f"from {cell.split_hash}; run the sweep again, or mmbench prepare {cell.dataset} "
            "--rebuild"
        )
    features = data_cache.features_folder(dataset, cache)
    prepared = with_features(prepared, cell.encoders, features, device)
    dtype = torch.float64 if cell.trainer.precision == "fp64" else torch.float32
    allow_tf32(cell.trainer.precision == "tf32")
    method = make_method(cell, prepared.task).to(device, dtype)
    arrange(method, device, run)
    parts = {name: [arrays] for name, arrays in prepared.splits.items()}
    select = "val"
    if cell.protocol == "published":
        parts["train"] += parts["val"]  # the official training list
        select = "test"
    # Judged together, as all stay. On the CPU the processes of one machine share its memory.
    share = run.resident_fraction / (ranks.neighbours if device.type == "cpu" else 1)
    resident = fits([each for listed in parts.values() for each in listed], device, share)
    loaders = {
        name: Loader(
            parts[name],
            device,
            dtype,
            cell.trainer.batch_size,
            cell.seed,
            prepared.augmentations if name == "train" else None,
            resident,
            prepared.task.modalities,
            ranks,
        )
        for name in ("train", "val", "test")
    }
    return Parts(prepared, method, loaders, select)


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
    device = parts.loaders["train"].device
    seen = {name: parts.loaders[name] for name in ("train", parts.select)}
    trainer = Trainer(
        parts.method, seen, parts.select, cell.trainer, cell.seed, directory.path, hooks, ranks
    )
    outside = parts.method.fit
    try:
        trainer.train()
    finally:
        # or the two hold each other, and data and weights stay in memory beside the next cell's
        parts.method.fit = outside
    memory = peak_memory(device)
    final = _final(trainer, parts)  # leaves the method at the selected epoch
    hooks.trained(parts.method, parts.loaders["test"])
    imbalance = measure(parts.method, parts.loaders["train"], parts.loaders["test"])
    total = trainer.earlier + time.perf_counter() - begun
    parameters = list(parts.method.parameters())
    task = parts.prepared.task
    return Record(
        status="done",
        cell_id=cell.id,
        cell=cell,
        environment=environment(  # now: assemble sets the number of threads
            device, run, kernels=any(net.kernels for net in _residual(parts.method))
        ),
        started=trainer.started if trainer.resumed else started,
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
        remark=cls.remark(task),
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
        timing=_timing(trainer, len(trainer.index), total),
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


def _final(trainer: Trainer, parts: Parts) -> dict[str, Metrics]:
    """Read the test split: at the last epoch, and at the selected one."""
    test = parts.loaders["test"]
    last = evaluate(parts.method, test, "on test, after the last epoch")
    parts.method.load_state_dict(trainer.best.state)
    when = f"on test, after epoch {trainer.best.epoch}"
    return {"selected": evaluate(parts.method, test, when), "last": last}


def _timing(trainer: Trainer, samples: int, total: float) -> Timing:
    seconds = [row.seconds for row in trainer.curve]
    steady = seconds[1:] or seconds
    mean = statistics.fmean(steady)
    return Timing(
        epoch_mean=mean,
        epoch_std=statistics.stdev(steady) if len(steady) > 1 else 0.0,
        samples_per_second=samples / mean,
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
