"""Before many cells start: are the weights there that they need, and the frozen features?"""

from collections.abc import Iterable
from pathlib import Path

from mmbench.cell import Cell, encoder_parts
from mmbench.data import cache as data_cache
from mmbench.data.features import frozen_of, with_features
from mmbench.nets.encoders import build_encoders
from mmbench.registry import ENCODERS
from mmbench.settings import RunSettings
from mmbench.training.assembly import make_dataset
from mmbench.training.device import choose


def make_ready(cells: Iterable[Cell], cache: Path, run: RunSettings) -> None:
    """Compute the frozen features of ``cells`` and load every pretrained encoder once.

    One message about weights that are missing is better than one per cell.

    Raises:
        UserError: if weights are not there or do not fit.
    """
    seen = set()
    for cell in cells:
        for_data = str([cell.dataset, cell.dataset_config, sorted(cell.encoders.items())])
        if for_data in seen or not any(map(reads_weights, cell.encoders.values())):
            continue
        seen.add(for_data)
        dataset = make_dataset(cell)
        for modality in dataset.task.modalities:
            encoder = cell.encoders[modality.name]
            if reads_weights(encoder) and frozen_of(modality, encoder) is None:
                build_encoders((modality,), {modality.name: encoder})
        prepared = data_cache.ensure(dataset, cache=cache)
        folder = data_cache.features_folder(dataset, cache)
        with_features(prepared, cell.encoders, folder, choose(run.device))


def reads_weights(encoder: str) -> bool:
    """Say whether an encoder may need pretrained weights, from its name as typed."""
    name, variant = encoder_parts(encoder)
    return bool(variant) or bool(getattr(ENCODERS.load(name), "pretrained", False))
