"""The processes of one cell: who is who, the one sum that they share, and how they agree."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from mmbench.errors import UserError
from mmbench.settings import torchrun_place
from mmbench.training.device import choose

PATIENCE = timedelta(minutes=30)  # with a process that is late in the middle of training
FOREVER = timedelta(days=365)  # between two cells
GRACE = 15.0  # seconds in which processes that fail for the same reason do so


class Ranks:
    """The processes that train one cell together; alone by default, and then nothing is sent.

    All run the same program on the same random numbers and differ in the rows that they encode.
    The first, rank 0, alone writes files and speaks to whoever started it.

    Args:
        rank: of this process.
        size: how many there are.
        neighbours: how many of them share this machine.
        control: a group of the CPU's for what Python decides on; waiting there is no waiting for
            a GPU.
        grace: seconds to wait for the others to fail too.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        neighbours: int = 1,
        control: Any = None,  # Any: torch gives process groups no public type
        grace: float = GRACE,
    ) -> None:
        self.rank, self.size, self.neighbours = rank, size, neighbours
        self.control, self.grace = control, grace

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ranks":
        return self  # a copy of an encoder is split over the same processes

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks for all."""
        return self.rank == 0

    def shares(self, rows: int) -> tuple[int, ...]:
        """Return how many of ``rows`` rows each process takes: in order, at most one more."""
        least, more = divmod(rows, self.size)
        return tuple(least + (rank < more) for rank in range(self.size))

    def own(self, sizes: Sequence[int]) -> slice:
        """Return the rows of this process where rank r has ``sizes[r]`` of them."""
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def add(self, t: Tensor) -> Tensor:
        """Return the sum of ``t`` over all processes, in place; the same bits on each."""
        dist.all_reduce(t)
        return t

    def copy_first(self, t: Tensor) -> Tensor:
        """Return rank 0's ``t``, in place."""
        dist.broadcast(t, 0)
        return t

    def any(self, here: bool) -> bool:
        """Say whether ``here`` is true in any process; all get the same answer."""
        if self.size == 1:
            return here
        flag = torch.tensor([int(here)])
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.control)
        return bool(flag)

    def number(self, value: int) -> int:
        """Return rank 0's ``value``."""
        if self.size == 1:
            return value
        told = torch.tensor([value])
        dist.broadcast(told, 0, group=self.control)
        return int(told)

    def tell(self, text: str | None) -> None:
        """Hand ``text`` to all that ``hear``; called by rank 0."""
        if self.size == 1:
            return
        data = (text or "").encode()
        self.number(len(data) if text is not None else -1)
        if data:
            dist.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0, self.control)

    def hear(self) -> str | None:
        """Wait for what rank 0 tells."""
        length = self.number(0)
        if length < 0:
            return None
        data = torch.empty(length, dtype=torch.uint8)
        if length:
            dist.broadcast(data, 0, self.control)
        return bytes(data.tolist()).decode()

    def leave(self) -> None:
        """Part from the others for good: threads still at work at the end abort a process."""
        if self.size > 1:
            dist.destroy_process_group()

    def others(self) -> Literal["failed", "wait", "gone"]:
        """Say, in a process that failed, what the others do: a call in which all take part.

        Who meets the same error fails too. One that fails alone leaves the others waiting for it
        inside torch, where nothing helps but the end of their processes. So, unless all failed, end
        this one: torchrun then ends the rest.
        """
        if self.size == 1:
            return "failed"
        until = time.monotonic() + self.grace
        try:
            meeting = dist.all_reduce(torch.zeros(1), group=self.control, async_op=True)
            while not meeting.is_completed():
                if time.monotonic() > until:
                    return "wait"
                time.sleep(0.05)
            meeting.wait()
        except RuntimeError:
            return "gone"
        return "failed"


ALONE = Ranks()


def join(device: str) -> tuple[Ranks, str]:
    """Return the processes that torchrun started for this cell, and the device of this one.

    Args:
        device: as in ``RunSettings``, or one for each process of this machine, by commas.

    Raises:
        UserError: if a process has no device of its own.
    """
    place = torchrun_place()
    if place is None or place.size == 1:
        return ALONE, device
    mine = device_of(device, place.local)
    on_gpu = mine.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(mine)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    control = dist.new_group(backend="gloo", timeout=FOREVER)
    return Ranks(place.rank, place.size, place.neighbours, control), mine


def device_of(device: str, local: int) -> str:
    """Return the device of the process that is number ``local`` on this machine.

    Raises:
        UserError: if there are fewer devices than processes.
    """
    names = device.split(",")
    if len(names) > 1:
        mine = names[local] if local < len(names) else ""
    elif choose(device).type == "cuda":
        mine = f"cuda:{local}" if ":" not in device else ""
    else:
        mine = "" if choose(device).type == "mps" else "cpu"
    if not mine:
        raise UserError(f"device {device!r} is not enough: every process of a cell needs its own")
    return str(choose(mine))
