"""Running sums on the device: read once per epoch, so that no step waits."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmbench.training.device import finest


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
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.bad = torch.full((), -1, dtype=torch.int64, device=self.device)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one value of each name."""
        for name, value in values.items():
            detached = value.detach().to(self.dtype)
            self.sums[name] = self.sums[name] + detached if name in self.sums else detached
            self.counts[name] = self.counts.get(name, 0) + 1

    def watch(self, loss: Tensor, step: int) -> None:
        """Remember ``step`` if ``loss`` is the first that is not finite."""
        fresh = (self.bad < 0) & ~torch.isfinite(loss.detach())
        self.bad = torch.where(fresh, torch.full_like(self.bad, step), self.bad)

    def first_bad(self) -> int:
        """Return the first step with a loss that is not finite, or -1. Waits for the device."""
        return int(self.bad.item())

    def means(self) -> dict[str, float]:
        """Return the mean of every name. Waits for the device."""
        if not self.sums:
            return {}
        totals = torch.stack([total.reshape(()) for total in self.sums.values()]).tolist()
        return {
            name: total / self.counts[name] for name, total in zip(self.sums, totals, strict=True)
        }

    def state(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint in the middle of an epoch."""
        return {"sums": dict(self.sums), "counts": dict(self.counts), "bad": self.bad}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.sums = {k: v.to(self.device) for k, v in state["sums"].items()}
        self.counts = dict(state["counts"])
        self.bad = state["bad"].to(self.device)
