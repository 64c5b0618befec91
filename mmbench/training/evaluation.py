"""Metrics of the fused and of each modality's prediction on one split."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmbench.data.loader import Loader
from mmbench.errors import NonFiniteLoss
from mmbench.method import Method
from mmbench.metrics import METRICS
from mmbench.nets.modes import evaluating
from mmbench.record import Metrics

FINITE = "finite"  # travels with the metrics, so that one wait is enough


@torch.no_grad()
def predictions(method: Method, loader: Loader) -> dict[str, Tensor]:
    """Return the logits [N, C] of every prediction, in the split's order, in eval mode."""
    parts: dict[str, list[Tensor]] = {}
    with evaluating(method):
        for batch in loader.everything():
            for name, logits in method.predict(batch.inputs).items():
                parts.setdefault(name, []).append(logits)
    return {name: torch.cat(logits) for name, logits in parts.items()}


def evaluate(method: Method, loader: Loader, when: str) -> Metrics:
    """Return the ``scores`` of a method's predictions on a split.

    Args:
        method: what predicts, in eval mode.
        loader: the split.
        when: what an error says of it, e.g. ``at the last epoch``.

    Raises:
        NonFiniteLoss: if a prediction has values that are not finite.
    """
    return scores(method, predictions(method, loader), loader, when)


@torch.no_grad()
def scores(method: Method, found: Mapping[str, Tensor], loader: Loader, when: str) -> Metrics:
    """Return ``metrics[prediction][metric]``; waits for the device once.

    Args:
        method: what predicted.
        found: the logits [N, C] of every prediction.
        loader: the split.
        when: what an error says of it, e.g. ``at the last epoch``.

    Raises:
        NonFiniteLoss: if a prediction has values that are not finite: its scores mean nothing.
    """
    label = loader.label.to(loader.device)
    values, keys = [], []
    for name, logits in found.items():
        keys.append((name, FINITE))
        values.append(torch.isfinite(logits).all().float())
        for metric in method.task.metrics:
            keys.append((name, metric))
            values.append(METRICS[metric](logits, label).float())
    out: Metrics = {}
    for (name, metric), value in zip(keys, torch.stack(values).tolist(), strict=True):
        out.setdefault(name, {})[metric] = value
    bad = [name for name, each in out.items() if not each.pop(FINITE)]
    if bad:
        raise NonFiniteLoss(
            f"predictions are not finite {when}: {', '.join(bad)}",
            "lower trainer.lr, or set trainer.clip_norm",
        )
    return out
