"""How many cells share one GPU: measured memory against what is free."""

from mmbench.training import device as devices

CONTEXT = 600 * 2**20  # bytes of a process on the GPU before its first tensor, libraries included
SHARE = 0.85  # of the free memory; the rest is for fragments and what others may start


def free_memory(device: str) -> int | None:
    """Return the free bytes of the GPU that has least of them; None where there is no GPU.

    What this process has used and no longer needs, as a calibration does, is given back before.

    Raises:
        UserError: if the device is not there.
    """
    import torch

    chosen = devices.choose(device)
    if chosen.type != "cuda":
        return None
    every = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return min(devices.free_memory(each) for each in ([chosen] if ":" in device else every))


def cells_at_once(free: int, largest: int, cells: int) -> int:
    """Return how many cells of ``largest`` bytes fit into ``free`` bytes at once, at least 1."""
    return max(1, min(cells, int(SHARE * free) // (largest + CONTEXT)))
