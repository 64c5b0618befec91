"""What frozen networks say of the samples: computed once, kept beside the prepared data.

``<cache>/<name>/features/<key>/`` holds ``<split>.npy``, float32 [N, width], and a manifest with
their hashes. The key is that of the prepared arrays, the modality, the network's weights and its
preprocessing, so that a change of any of them computes anew and nothing is reused by mistake.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mmbench.cell import digest, encoder_parts
from mmbench.data import integrity
from mmbench.data.loader import Loader
from mmbench.data.manifest import facts, flushed
from mmbench.data.progress import Progress
from mmbench.dataset import Modality, Prepared
from mmbench.errors import UserError
from mmbench.folders import hindrance
from mmbench.locking import alone
from mmbench.registry import ENCODERS

BATCH = 64  # fixed, so that the features do not depend on the cell's batch size
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frozen:
    """A network that is not trained, of which features are kept.

    Attributes:
        identity: what changes the features: weights and preprocessing; values that JSON holds.
        make: builds it: a module that maps [B, *shape] to [B, width], with ``width``.
    """

    identity: Sequence[Any]  # Any: JSON values
    make: Callable[[], nn.Module]


def frozen_of(modality: Modality, encoder: str) -> Frozen | None:
    """Return what an encoder wants computed of a modality, or None.

    Args:
        modality: of the dataset.
        encoder: as chosen, e.g. ``clip:adapter``.
    """
    name, variant = encoder_parts(encoder)
    find = getattr(ENCODERS.load(name), "frozen", None)
    found: Frozen | None = find(modality, variant) if find else None
    return found


def with_features(
    prepared: Prepared, encoders: Mapping[str, str], folder: Path, device: torch.device
) -> Prepared:
    """Put the features of frozen networks in the place of what these read.

    Such a modality becomes a vector, memory-mapped, without augmentation. Features that are not
    kept yet are computed; another process that wants the same waits.

    Args:
        prepared: the dataset.
        encoders: of every modality.
        folder: where features are kept.
        device: where they are computed.

    Raises:
        UserError: if weights are not there, or the folder cannot be written.
    """
    modalities, inputs, identities = [], {s: dict(a.inputs) for s, a in prepared.splits.items()}, {}
    for modality in prepared.task.modalities:
        frozen = frozen_of(modality, encoders[modality.name])
        if frozen is None:
            modalities.append(modality)
            continue
        key = digest([prepared.data_hash, modality.name, frozen.identity], 16)
        features = _ensure(folder / key, frozen, prepared, modality, device)
        for split, array in features.items():
            inputs[split][modality.name] = array
        modalities.append(Modality(modality.name, "vector", features["train"].shape[1:]))
        identities[modality.name] = key
    if not identities:
        return prepared
    return replace(
        prepared,
        task=replace(prepared.task, modalities=tuple(modalities)),
        splits={s: replace(a, inputs=inputs[s]) for s, a in prepared.splits.items()},
        data_hash=digest([prepared.data_hash, identities], 16),
        augmentations={m: a for m, a in prepared.augmentations.items() if m not in identities},
    )


def _ensure(
    target: Path, frozen: Frozen, prepared: Prepared, modality: Modality, device: torch.device
) -> dict[str, NDArray[np.generic]]:
    """Return the features of every split, memory-mapped; compute them if need be."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target):
            if not _whole(target):
                with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as name:
                    built = Path(name) / "built"
                    built.mkdir()
                    _compute(built, frozen, prepared, modality, device)
                    shutil.rmtree(target, ignore_errors=True)
                    built.replace(target)
    except OSError as err:
        raise UserError(
            f"cannot keep features in {target.parent}: {hindrance(target.parent, err)}, or choose "
            "another folder with --cache DIR (or MMBENCH_CACHE)"
        ) from err
    return {s: np.load(target / f"{s}.npy", mmap_mode="r") for s in prepared.splits}


def _whole(target: Path) -> bool:
    try:
        files = json.loads((target / "manifest.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    damage = integrity.damage(target, files)
    if damage:
        logger.warning("the features file %s; computing them again", damage)
    return damage is None


def _compute(
    folder: Path, frozen: Frozen, prepared: Prepared, modality: Modality, device: torch.device
) -> None:
    net = frozen.make().to(device, torch.float32).eval().requires_grad_(False)
    width = int(net.width)  # type: ignore[arg-type]  # what Frozen promises
    total = sum(map(len, prepared.splits.values()))
    with Progress(total, 0, f"features of {modality.name}") as progress, torch.no_grad():
        for split, arrays in prepared.splits.items():
            alone_ = replace(arrays, inputs={modality.name: arrays.inputs[modality.name]})
            loader = Loader(
                [alone_],
                device,
                torch.float32,
                BATCH,
                0,
                resident=False,
                modalities=prepared.task.modalities,
            )
            out = np.lib.format.open_memmap(
                folder / f"{split}.npy", "w+", np.float32, (len(arrays), width)
            )
            begin = 0
            for batch in loader.everything():
                z = net(batch.inputs[modality.name])
                out[begin : begin + len(z)] = z.float().cpu().numpy()
                begin += len(z)
                progress.advance(len(z))
            out.flush()
    manifest = {"modality": modality.name, "made_by": frozen.identity, "files": facts(folder)}
    with flushed(folder / "manifest.json") as handle:
        handle.write(json.dumps(manifest, indent=1).encode())
