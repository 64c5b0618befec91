"""A task of tiny linear encoders, trained through the shared trainer's own path."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from mmbench.data.loader import Loader
from mmbench.dataset import Modality, SplitArrays, Task
from mmbench.method import Batch
from mmbench.registry import METHODS
from mmbench.settings import TrainerSettings
from mmbench.training.trainer import Trainer

SIZES = {"a": 6, "v": 5, "t": 7, "x": 4}


class Affine(nn.Module):
    """One affine layer and ReLU."""

    width = 8

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(size, self.width)

    def forward(self, x):
        return self.layer(x).relu()


@dataclass
class Bench:
    """A method inside a real trainer, in float64, with momentum as in the golden files."""

    trainer: Trainer

    @property
    def method(self):
        return self.trainer.method

    def step(self, batch):
        log = self.method.step(batch)
        self.trainer.step += 1
        return {k: float(v.detach()) for k, v in log.items()}


def arrays(modalities, samples, classes, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, samples)
    means = {m: rng.standard_normal((classes, SIZES[m])) for m in modalities}
    inputs = {m: means[m][label] + rng.standard_normal((samples, SIZES[m])) for m in modalities}
    names = tuple(str(i) for i in range(samples))
    return SplitArrays(inputs, label, names, names)


@pytest.fixture
def make_bench(tmp_path):
    def make(name, modalities=("a", "v"), classes=4, lr=0.1, seed=0, epochs=2, **options):
        task = Task(
            tuple(Modality(m, "vector", (SIZES[m],)) for m in modalities),
            tuple(str(c) for c in range(classes)),
        )
        cls = METHODS.load(name)
        config = cls.Config(**options)
        torch.manual_seed(seed)
        encoders = {m: Affine(SIZES[m]) for m in cls.modalities(task, config)}
        method = cls(task, encoders, config).double()
        loaders = {
            split: Loader(
                [arrays(modalities, 40, classes, seed)], torch.device("cpu"), torch.float64, 8, seed
            )
            for split in ("train", "val")
        }
        settings = TrainerSettings(lr=lr, epochs=epochs, precision="fp64")
        trainer = Trainer(method, loaders, "val", settings, seed, tmp_path)
        method.fit = trainer
        trainer.optimizers.create("main", method.parameter_groups())
        return Bench(trainer)

    return make


@pytest.fixture
def make_batch():
    def make(modalities=("a", "v"), samples=8, classes=4, seed=0):
        data = arrays(modalities, samples, classes, seed)
        return Batch(
            {m: torch.as_tensor(x) for m, x in data.inputs.items()},
            torch.as_tensor(data.label),
            torch.arange(samples),
        )

    return make
