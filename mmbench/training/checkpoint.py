"""Checkpoints: everything a run needs to go on, checksummed, the last two kept."""

import hashlib
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmbench.errors import CorruptFile
from mmbench.store import write_atomic

MAGIC = b"mmbench-checkpoint-3\n"


def clone(value: Any) -> Any:  # Any: nested dicts, lists and tensors
    """Copy nested containers and their tensors, so that later steps do not change them."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: clone(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(clone(v) for v in value)
    return value


def rng_state(device: torch.device) -> dict[str, Any]:
    """Return the state of the global generators of the CPU and of ``device``."""
    version, words, gauss = random.getstate()
    name, keys, pos, has_gauss, cached = np.random.get_state()  # the global one
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.array(keys, dtype=np.int64)), pos, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore what ``rng_state`` returned, maybe of another GPU."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, pos, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), pos, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def of_step(folder: Path, step: int) -> Path:
    """Return the file of the checkpoint that was written after ``step`` steps."""
    return folder / f"checkpoint-{step:09d}"


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``checkpoint-<step>`` atomically and delete all but the last two.

    Raises:
        OSError: as the system says; the earlier checkpoints are untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    file = of_step(folder, step)
    write_atomic(file, MAGIC + hashlib.sha256(payload).digest() + payload)
    for old in sorted(folder.glob("checkpoint-*"))[:-2]:
        old.unlink(missing_ok=True)
    return file


def read(file: Path) -> dict[str, Any]:
    """Read one checkpoint.

    Raises:
        CorruptFile: if it is truncated, altered or of another version.
    """
    data = file.read_bytes()
    head = len(MAGIC) + 32
    if (
        data[: len(MAGIC)] != MAGIC
        or hashlib.sha256(data[head:]).digest() != data[len(MAGIC) : head]
    ):
        raise CorruptFile(f"the checkpoint {file} is truncated, altered or of another version")
    state: dict[str, Any] = torch.load(
        io.BytesIO(data[head:]), weights_only=True, map_location="cpu"
    )
    return state


def latest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest whole checkpoint and a message for each newer one that is not whole."""
    complaints: list[str] = []
    for file in sorted(folder.glob("checkpoint-*"), reverse=True):
        try:
            return read(file), [f"{each}; continuing from {file.name}" for each in complaints]
        except (CorruptFile, OSError) as err:
            complaints.append(str(err))
    return None, [f"{each}; there is no whole one, starting again" for each in complaints]


def discard(folder: Path) -> None:
    """Delete all checkpoints of a run, and what a killed process left of one."""
    for pattern in ("checkpoint-*", ".checkpoint-*.part"):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)
