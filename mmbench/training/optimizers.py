"""Named optimisers over named parameter groups, rebuilt from a checkpoint by name."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mmbench.method import ParameterGroup
from mmbench.settings import TrainerSettings

FUSED: tuple[str, ...] = (
    "cpu",
    "cuda",
)  # where torch has one kernel per step; a third of the time on the CPU


class Optimizers:
    """The optimisers of one run.

    Args:
        model: whose parameters they step.
        settings: kind, momentum and weight decay.
    """

    def __init__(self, model: nn.Module, settings: TrainerSettings) -> None:
        self.settings = settings
        self.by_name: dict[str, torch.optim.Optimizer] = {}
        self._parameters = dict(model.named_parameters())
        self._names = {id(p): name for name, p in self._parameters.items()}
        self._fused = all(p.device.type in FUSED for p in self._parameters.values())

    def create(
        self,
        name: str,
        groups: Iterable[ParameterGroup],
        weight_decay: float | None = None,
    ) -> None:
        """Create or replace the optimiser ``name``; ``weight_decay`` None takes the settings'."""
        decay = self.settings.weight_decay if weight_decay is None else weight_decay
        rows = [
            {
                "params": list(group.parameters),
                "name": group.name,
                "lr_scale": group.lr_scale,
                "weight_decay": decay,
                "lr": self.settings.lr * group.lr_scale,
            }
            for group in groups
        ]
        self.by_name[name] = self._make(rows)

    def set_lr(self, base: float) -> None:
        """Give every group its learning rate, ``base * lr_scale``."""
        for optimizer in self.by_name.values():
            for group in optimizer.param_groups:
                group["lr"] = base * group["lr_scale"]

    def scale(self, group_name: str, factor: float) -> None:
        """Set the factor of a group of the main optimiser."""
        for group in self.by_name["main"].param_groups:
            if group["name"] == group_name:
                group["lr"] = group["lr"] / group["lr_scale"] * factor
                group["lr_scale"] = factor
                return
        raise KeyError(f"the main optimiser has no parameter group {group_name!r}")

    def zero_grad(self) -> None:
        """Set all gradients to None, those of parameters without an optimiser as well.

        Unlike ``Module.zero_grad`` it does not walk the modules, which small steps notice.
        """
        for parameter in self._parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Any]:
        """Return what ``load`` needs: state dicts and the parameters' names."""
        return {
            name: {
                "names": [
                    [self._names[id(p)] for p in g["params"]] for g in optimizer.param_groups
                ],
                "state": optimizer.state_dict(),
            }
            for name, optimizer in self.by_name.items()
        }

    def load(self, state: dict[str, Any]) -> None:
        """Rebuild every optimiser."""
        self.by_name.clear()
        for name, saved in state.items():
            rows = [
                {**{k: v for k, v in group.items() if k != "params"},
                 "params": [self._parameters[p] for p in names]}
                for group, names in zip(saved["state"]["param_groups"], saved["names"], strict=True)
            ]  # fmt: skip
            self.by_name[name] = self._make(rows)
            self.by_name[name].load_state_dict(saved["state"])
            _lay_out(self.by_name[name])

    def _make(self, rows: list[dict[str, Any]]) -> torch.optim.Optimizer:
        settings = self.settings
        if settings.optimizer == "sgd":
            return torch.optim.SGD(
                rows, lr=settings.lr, momentum=settings.momentum, fused=self._fused or None
            )
        kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
        return kind(rows, lr=settings.lr, fused=self._fused or None)


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Lay out the state as the parameters are, which a run elsewhere may have had otherwise.

    Fused kernels pair the elements by where they lie in memory: a CPU's would take those of others
    and say nothing, a GPU's fails.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                laid_out = torch.empty_like(parameter, dtype=value.dtype, device=value.device)
                state[key] = laid_out.copy_(value)
