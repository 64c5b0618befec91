"""Running sums on the device: read once per epoch, so that no step waits."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmbench.training.device import finest

LOOK = 256  # steps whose losses are looked at together: on a GPU each look is ten small kernels
MUCH = 1024  # bytes that are not kept for the sake of one number in them


class Meter:
    """Means of what the steps log, and the first step whose loss was not finite.

    Args:
        device: where the sums live.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.dtype = finest(device)
        self.reset()

    def reset(self) -> None:
        """Forget everything; call at the start of an epoch."""
        self.sums: dict[str, Tensor] = {}  # but of those in `names`, which are in `row`
        self.counts: Counter[str] = Counter()
        self.names: tuple[str, ...] = ()
        self.row = torch.zeros(0, dtype=self.dtype, device=self.device)
        self.bad = torch.full((), -1, dtype=torch.int64, device=self.device)
        self.losses: list[Tensor] = []  # of the last steps, from `since` on
        self.since = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one value of each name."""
        if not values:
            return
        if self.names != tuple(values):
            self._take_up(tuple(values))
        here = [self._here(value.detach().reshape(())) for value in values.values()]
        self.row = self.row + torch.stack(here).to(self.dtype)
        self.counts.update(self.names)

    def _here(self, value: Tensor) -> Tensor:
        """Return ``value`` on the device, in single precision or in that of the sums."""
        if value.dtype != torch.float32:  # which can be raised together with the others
            value = value.to(self.dtype)
        if value.device.type == self.device.type:
            return value
        return value.to(self.device, non_blocking=True)

    def _take_up(self, names: tuple[str, ...]) -> None:
        """Go on with the sums of ``names`` in one row, since each step of a kind logs the same."""
        self._put_back()
        nothing = torch.zeros((), dtype=self.dtype, device=self.device)
        self.names = names
        self.row = torch.stack([self.sums.pop(name, nothing) for name in names])

    def _put_back(self) -> None:
        self.sums.update(zip(self.names, self.row.unbind(), strict=True))
        self.names, self.row = (), self.row[:0]

    def watch(self, loss: Tensor, step: int) -> None:
        """Remember ``step``, the one after the last, if ``loss`` is the first not finite."""
        if not self.losses:
            self.since = step
        loss = loss.detach().reshape(())
        # a view would keep what it is a view of
        self.losses.append(loss if loss.untyped_storage().nbytes() < MUCH else loss.clone())
        if len(self.losses) == LOOK:
            self._look()

    def _look(self) -> None:
        if not self.losses:
            return
        wrong = ~torch.isfinite(torch.stack(self.losses))
        first = self.since + wrong.to(torch.int64).argmax()
        self.bad = torch.where((self.bad < 0) & wrong.any(), first, self.bad)
        self.losses = []

    def first_bad(self) -> int:
        """Return the first step with a loss that is not finite, or -1. Waits for the device."""
        self._look()
        return int(self.bad.item())

    def means(self) -> dict[str, float]:
        """Return the mean of every name. Waits for the device."""
        self._put_back()
        if not self.sums:
            return {}
        totals = torch.stack([self.sums[name] for name in self.counts]).tolist()
        return {
            name: total / count
            for (name, count), total in zip(self.counts.items(), totals, strict=True)
        }

    def state(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint in the middle of an epoch."""
        self._put_back()
        self._look()
        return {"sums": dict(self.sums), "counts": dict(self.counts), "bad": self.bad}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.reset()
        self.sums = {k: v.to(self.device).reshape(()) for k, v in state["sums"].items()}
        self.counts.update(state["counts"])
        self.bad = state["bad"].to(self.device)
