"""What the scripts of ``benchmarks/`` measure with: random data, trainers ready to step, counts."""

import random
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mmbench.data.loader import Loader, fits
from mmbench.dataset import Modality, SplitArrays, Task
from mmbench.method import Batch
from mmbench.nets.encoders import build_encoders
from mmbench.registry import METHODS
from mmbench.settings import RunSettings, TrainerSettings
from mmbench.testing.traffic import Traffic, Work
from mmbench.training.device import allow_tf32, synchronize
from mmbench.training.layout import arrange
from mmbench.training.seeding import forked
from mmbench.training.trainer import Hooks, Trainer

Each = TypeVar("Each")
# audio [C, H, W], visual [C, K, H, W], samples per step
CREMAD = ((1, 257, 1250), (3, 2, 224, 224), 64)
CREMAD_SAMPLES = 6698  # for training
SMALL = ((1, 65, 313), (3, 2, 56, 56), 8)  # a quarter of its sides
LATE = 4  # an epoch in which methods that add modalities one by one have all of them


def audiovisual(audio: tuple[int, ...], visual: tuple[int, ...], classes: int) -> Task:
    """Return a task of a spectrogram [C, H, W] and frames [C, K, H, W]."""
    modalities = (Modality("audio", "spectrogram", audio), Modality("visual", "frames", visual))
    return Task(modalities, tuple(map(str, range(classes))))


def in_turn(names: Sequence[Each], number: int) -> list[Each]:
    """Return the order of a round, drawn anew for each: a turn may feel the one before it."""
    return random.Random(number).sample(names, len(names))


def random_loader(
    task: Task,
    samples: int,
    batch: int,
    device: torch.device,
    dtype: str = "float32",
    augmentations: Mapping[str, str] | None = None,
) -> Loader:
    """Return a loader of normal noise, stored as ``dtype``, with random labels.

    Beyond 64 samples the noise repeats: what a step costs does not depend on it.
    """
    rng = np.random.default_rng(0)
    few = min(samples, 64)
    inputs = {}
    for m in task.modalities:
        noise = rng.standard_normal((few, *m.shape), dtype=np.float32).astype(dtype)
        inputs[m.name] = np.resize(noise, (samples, *m.shape))
    ids = tuple(map(str, range(samples)))
    arrays = SplitArrays(inputs, rng.integers(0, len(task.classes), samples), ids, ids)
    return Loader(
        [arrays], device, torch.float32, batch, 0,
        augmentations=augmentations, resident=fits([arrays], device, 0.9),
    )  # fmt: skip


def make_trainer(
    name: str,
    task: Task,
    loader: Loader,
    settings: TrainerSettings,
    folder: Path,
    run: RunSettings | None = None,
) -> Trainer:
    """Return a method with its default options on ResNet-18 encoders, ready to step."""
    cls = METHODS.load(name)
    config = cls.Config()
    chosen = {m.name: "resnet18" for m in task.modalities}
    with forked(0, "benchmark"):
        encoders = build_encoders(task.modalities, chosen)
        used = cls.modalities(task, config)
        method = cls(task, {m: encoders[m] for m in used}, config).to(loader.device)
    arrange(method, loader.device, run or RunSettings())
    allow_tf32(settings.precision)
    loaders = {"train": loader, "val": loader}
    hooks = Hooks(checkpoint_seconds=float("inf"))
    trainer = Trainer(method, loaders, "val", settings, 0, folder, hooks=hooks)
    method.fit = trainer
    method.train()
    trainer.optimizers.create("main", method.parameter_groups())
    return trainer


def operations(trainer: Trainer, batches: Iterable[Batch], first: int = LATE) -> list[int]:
    """Return the floating-point operations of a step of each batch, in epochs from ``first`` on."""
    found = []
    for offset, batch in enumerate(batches):
        trainer.epoch, trainer.step_in_epoch = first + offset, 0
        trainer.method.on_epoch_start()
        with FlopCounterMode(display=False) as counter:
            trainer.method.step(batch)
        trainer.step += 1
        found.append(int(counter.get_total_flops()))
    return found


@contextmanager
def without_values(
    name: str, task: Task, settings: TrainerSettings
) -> Iterator[tuple[Trainer, Batch]]:
    """Yield a trainer and a batch of tensors without values, whose shapes cost nothing.

    Steps are those that a CPU would take; on a GPU a ResNet's first layer takes some more
    arithmetic, for which it is quicker.
    """
    batch = settings.batch_size
    loader = random_loader(task, 2, batch, torch.device("cpu"))  # no step reads it
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(name, task, loader, settings, Path(folder))
    with FakeTensorMode(allow_non_fake_inputs=True):
        label, index = torch.zeros(batch, dtype=torch.int64), torch.arange(batch)
        inputs = {m.name: torch.zeros(batch, *m.shape) for m in task.modalities}
        yield trainer, Batch(inputs, label, index)


def step_flops(name: str, task: Task, settings: TrainerSettings, epochs: range) -> list[int]:
    """Return the floating-point operations of a step of a method in each of ``epochs``."""
    with without_values(name, task, settings) as (trainer, batch):
        return operations(trainer, [batch] * len(epochs), epochs[0])


def step_work(name: str, task: Task, settings: TrainerSettings) -> list[Work]:
    """Return what the operations of a step of a method on ResNets need at least."""
    with without_values(name, task, settings) as (trainer, batch):
        trainer.epoch, trainer.step_in_epoch = LATE, 0
        trainer.method.on_epoch_start()
        traffic = Traffic()
        with traffic:
            trainer.method.step(batch)
        return traffic.found


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Make an operation that waits for a GPU an error."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def steps_seconds(trainer: Trainer, epoch: int, *, may_wait: bool = True) -> float:
    """Train an epoch without what comes before and after its steps; return their seconds."""
    trainer.epoch, trainer.step_in_epoch = epoch, 0
    trainer.meter.reset()
    with trainer.autocast():
        trainer.method.on_epoch_start()
    synchronize(trainer.device)
    begun = time.perf_counter()
    with nullcontext() if may_wait else no_waiting(trainer.device):
        trainer.train_steps()
    synchronize(trainer.device)
    return time.perf_counter() - begun


def sample_flops(name: str, task: Task, encoders: Mapping[str, str]) -> float:
    """Return the operations of a training step of a method per sample, as if on the CPU."""
    batch = 2
    cls = METHODS.load(name)
    with torch.device("meta"):
        method = cls(task, build_encoders(task.modalities, encoders), cls.Config())
        inputs = {
            m.name: torch.zeros(batch, *m.shape, dtype=torch.int64 if m.kind == "text" else None)
            for m in task.modalities
        }
        with FlopCounterMode(display=False) as counter:
            method.predict(inputs)["fused"].sum().backward()
    return float(counter.get_total_flops()) / batch
