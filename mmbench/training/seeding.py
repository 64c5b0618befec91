"""Seeds derived from named axes, so that two methods share a draw on purpose."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(*axes: object) -> int:
    """Return a 63-bit seed that depends on the named axes alone, e.g. (0, "order", 3)."""
    text = "/".join(str(axis) for axis in axes)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(device: torch.device, *axes: object) -> torch.Generator:
    """Return a fresh generator on ``device``, seeded by the axes."""
    made = torch.Generator(device=device)
    made.manual_seed(derive(*axes))
    return made


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # libraries that ignore explicit generators
    torch.manual_seed(seed)


@contextmanager
def forked(*axes: object) -> Iterator[None]:
    """Run the body under torch's global generator seeded by the axes, then restore it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(*axes))
        yield
