"""A task small enough to train on in a moment, through the shared trainer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.data.loader import Loader
from mmbench.dataset import Modality, SplitArrays, Task
from mmbench.method import Batch, Method
from mmbench.nets.modes import evaluating
from mmbench.settings import TrainerSettings
from mmbench.training.seeding import forked
from mmbench.training.trainer import Hooks, Trainer

CLASSES, SAMPLES, BATCH, EPOCHS = 3, {"train": 96, "val": 30}, 16, 6
SIZES = (6, 5, 7, 4)  # inputs of the first, second ... modality


class ToyEncoder(nn.Module):
    """A layer with batch statistics, so that train and eval mode differ."""

    width = 8

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size, self.width), nn.BatchNorm1d(self.width), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, 8] of [B, size]."""
        out: Tensor = self.layers(x)
        return out


def toy_task(count: int) -> Task:
    """Return a task of ``count`` modalities (at most four)."""
    modalities = tuple(Modality(f"m{i + 1}", "vector", (SIZES[i],)) for i in range(count))
    return Task(modalities, tuple(str(c) for c in range(CLASSES)))


def toy_split(task: Task, split: str) -> SplitArrays:
    """Return class means plus noise, which grows from modality to modality."""
    rng = np.random.default_rng([SAMPLES[split], len(task.modalities)])
    means = np.random.default_rng(0)
    label = rng.permutation(np.arange(SAMPLES[split]) % CLASSES)
    inputs = {}
    for index, modality in enumerate(task.modalities):
        centre = 1.5 * means.standard_normal((CLASSES, *modality.shape))
        noise = rng.standard_normal((len(label), *modality.shape))
        inputs[modality.name] = centre[label] + (0.5 + 0.5 * index) * noise
    names = tuple(f"{split}{i}" for i in range(len(label)))
    return SplitArrays(inputs, label, names, names)


def toy_trainer(
    cls: type[Method],
    count: int,
    folder: Path,
    *,
    precision: Literal["fp32", "bf16", "fp64"] = "fp64",
    stop: Callable[[], bool] = lambda: False,
    options: Mapping[str, object] | None = None,
    epochs: int = EPOCHS,
    weight_decay: float = 1e-4,
) -> Trainer:
    """Return the shared trainer around a new method.

    Args:
        cls: the method.
        count: number of modalities.
        folder: where checkpoints go.
        precision: of training.
        stop: asked after every step.
        options: that differ from the method's defaults.
        epochs: how long.
        weight_decay: of the main optimiser.
    """
    task, config = toy_task(count), cls.Config(**(options or {}))
    with forked(0, "contract"):
        encoders = {m: ToyEncoder(SIZES[task.names.index(m)]) for m in cls.modalities(task, config)}
        method = cls(task, encoders, config)
    dtype = torch.float64 if precision == "fp64" else torch.float32
    loaders = {
        split: Loader([toy_split(task, split)], torch.device("cpu"), dtype, BATCH, 0)
        for split in SAMPLES
    }
    settings = TrainerSettings(
        epochs=epochs, batch_size=BATCH, lr=0.05, weight_decay=weight_decay, precision=precision
    )
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(method.to(dtype), loaders, "val", settings, 0, folder, hooks=Hooks(stop=stop))


def everything(trainer: Trainer) -> Batch:
    """Return the whole training split as one batch."""
    return trainer.loaders["train"].gather(torch.arange(len(trainer.loaders["train"])))


@torch.no_grad()
def predict(method: Method, batch: Batch) -> dict[str, Tensor]:
    """Return the logits in eval mode."""
    with evaluating(method):
        return method.predict(batch.inputs)
