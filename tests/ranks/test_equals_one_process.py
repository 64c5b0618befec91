"""Two processes with half of each batch do, step by step, what one does with all of it.

The file is also the program of the two processes, so that they are started once for all methods.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmbench.contract.options import variations
from mmbench.data.loader import Loader
from mmbench.dataset import Modality, SplitArrays, Task
from mmbench.ranks.group import ALONE, join
from mmbench.registry import METHODS
from mmbench.settings import TrainerSettings
from mmbench.training.evaluation import predictions
from mmbench.training.trainer import Trainer

SAMPLES = {"train": 19, "val": 9}  # batches of 8, 8, 3 and 8, 1: uneven, and fewer than two
SHAPES = {"frames": (2, 3, 4, 4), "image": (2, 6, 6), "vector": (5,)}
METHODS_ALL = METHODS.names()
CASES = [
    (name, count, fidelity)
    for name in METHODS_ALL
    for count in (2, 3)
    for fidelity in ("corrected", "released")
]
EXACT = 1e-10  # relative


class Tiny(nn.Module):
    """Everything that looks beyond its own row: batch statistics, folded frames, dropout."""

    width = 6

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        if kind == "vector":
            self.net = nn.Sequential(
                nn.Unflatten(1, (1, 1, 5)),
                nn.Conv2d(1, 8, (1, 5)),
                nn.Flatten(),
                nn.BatchNorm1d(8),
                nn.ReLU(),
                nn.Dropout(0.2),
                nn.Linear(8, 6),
            )
        else:
            self.net = nn.Sequential(
                nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.2),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6),
            )  # fmt: skip

    def forward(self, x):
        if self.kind != "frames":
            return self.net(x)
        frames = x.transpose(1, 2)
        return self.net(frames.flatten(0, 1)).view(*frames.shape[:2], -1).mean(1)


def task_of(count):
    kinds = list(SHAPES)[:count]
    return Task(tuple(Modality(k, k, SHAPES[k]) for k in kinds), ("a", "b", "c"))


def arrays(task, split):
    rng = np.random.default_rng(SAMPLES[split])
    label = rng.permutation(np.arange(SAMPLES[split]) % 3)
    inputs = {
        m.name: np.random.default_rng(0).standard_normal((3, *m.shape))[label]
        + rng.standard_normal((len(label), *m.shape))
        for m in task.modalities
    }
    names = tuple(f"{split}{i}" for i in range(len(label)))
    return SplitArrays(inputs, label, names, names)


def trained(name, count, options, ranks, folder, augment=None):
    """Return all that a run leaves behind, as numbers."""
    cls, task = METHODS.load(name), task_of(count)
    config = cls.Config(**options)
    torch.manual_seed(0)
    encoders = {
        m.name: Tiny(m.kind) for m in task.modalities if m.name in cls.modalities(task, config)
    }
    method = cls(task, encoders, config).double()
    loaders = {
        split: Loader(
            [arrays(task, split)], torch.device("cpu"), torch.float64, 8, 0,
            augmentations={"image": "shift+noise:0.1"} if split == "train" and count > 1 else None,
            ranks=ranks,
        )
        for split in SAMPLES
    }  # fmt: skip
    settings = TrainerSettings(epochs=2, batch_size=8, lr=0.05, precision="fp64")
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(method, loaders, "val", settings, 0, folder, ranks=ranks)
    trainer.train()
    rows = [
        {
            f"{part}/{k}": v
            for part in ("train", "gradient_norm")
            for k, v in getattr(row, part).items()
        }
        | {f"{p}/{k}": v for p, found in row.val.items() for k, v in found.items()}
        for row in trainer.curve
    ]
    return {
        "state": {k: v for k, v in method.state_dict().items() if isinstance(v, torch.Tensor)},
        "log": {f"{i}/{k}": torch.tensor(v) for i, row in enumerate(rows) for k, v in row.items()},
        "logits": predictions(method, loaders["val"]),
    }


def options_of(name, fidelity):
    return METHODS.load(name).released() if fidelity == "released" else {}


def asked(kind):
    """Return (key, method, modalities, options) of every training."""
    if kind == "methods":
        return [(f"{n}-{c}-{f}", n, c, options_of(n, f)) for n, c, f in CASES]
    return [
        (f"{n}-{given}", n, 2, dict(options))
        for n in METHODS_ALL
        for given, options in variations(METHODS.load(n))
    ]


def refused(name, count, options):
    cls = METHODS.load(name)
    try:
        return cls.refuse(task_of(count), cls.Config(**options)) is not None
    except ValueError:
        return True


def train_all(kind, ranks, folder):
    found = {}
    for key, name, count, options in asked(kind):
        if refused(name, count, options):
            continue
        try:
            found[key] = trained(name, count, options, ranks, folder / key)
        except Exception as err:  # told apart below: it must be the same in both
            err.add_note(f"in {key}")
            raise
    return found


def gap(one, two):
    """Return the largest difference, relative to the largest value of a tensor or to 1."""
    if one.numel() == 0:
        return 0.0
    assert one.shape == two.shape
    one, two = one.double(), two.double()
    assert torch.equal(one.isfinite(), two.isfinite())
    one, two = one.nan_to_num(), two.nan_to_num()
    return float((one - two).abs().max() / one.abs().max().clamp_min(1e-3))


def in_two(kind, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-P", __file__, kind, str(folder)],
            env={**os.environ, **place, "MASTER_PORT": str(port), "RANK": str(r),
                 "LOCAL_RANK": str(r)},
            stderr=subprocess.PIPE, text=True,
        )
        for r in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=500)[1] for process in started]
    assert [p.returncode for p in started] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"{r}.pt", weights_only=True) for r in range(2)]


def both(kind, folder):
    two = in_two(kind, folder)
    return train_all(kind, ALONE, folder / "one"), two


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return both("methods", tmp_path_factory.mktemp("ranks"))


def worst(one, two):
    assert one.keys() == two.keys()
    gaps = {}
    for part in one:
        assert one[part].keys() == two[part].keys()
        gaps |= {f"{part} {k}": gap(one[part][k], two[part][k]) for k in one[part]}
    name = max(gaps, key=gaps.get)
    return gaps[name], name


@pytest.mark.parametrize(("name", "count", "fidelity"), CASES)
def test_two_processes_equal_one(name, count, fidelity, runs):
    one, two = runs
    key = f"{name}-{count}-{fidelity}"
    if key not in one:
        pytest.skip(f"{name} refuses {count} modalities")
    for found in two:
        reached, where = worst(one[key], found[key])
        assert reached < EXACT, where


@pytest.mark.slow
def test_two_processes_equal_one_with_every_choice_of_every_option(tmp_path):
    one, two = both("choices", tmp_path)
    for key in one:
        for found in two:
            reached, where = worst(one[key], found[key])
            assert reached < EXACT, f"{key}: {where}"


def main(kind, folder):
    ranks, _ = join("cpu")
    torch.set_num_threads(1)
    found = train_all(kind, ranks, folder / str(ranks.rank))
    torch.save(found, folder / f"{ranks.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
