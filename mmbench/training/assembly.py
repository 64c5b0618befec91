"""From a cell to what training needs: the data prepared, the method built, both on the device."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mmbench.cell import Cell
from mmbench.data import cache as data_cache
from mmbench.data.features import with_features
from mmbench.data.loader import Loader, fits
from mmbench.dataset import Dataset, Prepared, Task
from mmbench.errors import UserError
from mmbench.method import Method
from mmbench.nets.encoders import build_encoders, initialise
from mmbench.ranks.group import ALONE, Ranks
from mmbench.registry import DATASETS, METHODS
from mmbench.settings import RunSettings, validate
from mmbench.training.device import allow_tf32, choose
from mmbench.training.layout import arrange
from mmbench.training.seeding import forked


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
    allow_tf32(cell.trainer.precision)
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
            augmentations=prepared.augmentations if name == "train" else None,
            resident=resident,
            modalities=prepared.task.modalities,
            ranks=ranks,
        )
        for name in ("train", "val", "test")
    }
    return Parts(prepared, method, loaders, select)
