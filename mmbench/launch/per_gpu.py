"""How many cells share one GPU: measured memory against what is free, and what the host bears."""

from typing import TYPE_CHECKING

from mmbench.launch.local import cores
from mmbench.training import device as devices

if TYPE_CHECKING:
    import torch

CONTEXT = 600 * 2**20  # bytes of a process on the GPU before its first tensor, libraries included
WORKER = 5 * 2**29  # bytes of host memory of a process with torch and CUDA; estimated, not measured
SHARE = 0.85  # of the free memory; the rest is for fragments and what others may start


def free_memory(device: str) -> int | None:
    """Return the free bytes of the GPU that has least of them; None where there is no GPU.

    What this process has used and no longer needs, as a calibration does, is given back before.

    Raises:
        UserError: if the device is not there.
    """
    return min(map(devices.free_memory, _gpus(device)), default=None)


def host_takes(device: str) -> dict[str, int]:
    """Return for how many cells on each GPU the host's cores and free memory are enough."""
    import torch

    count = len(_gpus(device))
    memory = devices.free_memory(torch.device("cpu"))
    return {
        "the host's cores": max(1, cores() // count),
        "the host's memory": max(1, memory // (WORKER * count)),
    }


def _gpus(device: str) -> "list[torch.device]":
    import torch

    chosen = devices.choose(device)
    if chosen.type != "cuda":
        return []
    every = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [chosen] if ":" in device else every


def cells_at_once(free: int, largest: int, cells: int) -> int:
    """Return how many cells of ``largest`` bytes fit into ``free`` bytes at once, at least 1."""
    return max(1, min(cells, int(SHARE * free) // (largest + CONTEXT)))
