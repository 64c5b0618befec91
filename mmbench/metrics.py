"""Accuracy, mean average precision and macro-F1 on the device (methods.md section 0.6)."""

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_average_precision,
    multiclass_f1_score,
)

from mmbench.training.device import finest


def accuracy(logits: Tensor, label: Tensor) -> Tensor:
    """Return the share of samples whose largest logit is the label's; logits [N, C]."""
    return (logits.argmax(1) == label).to(finest(label.device)).mean()


def mean_average_precision(logits: Tensor, label: Tensor) -> Tensor:
    """Return the mean over classes of the one-vs-rest average precision of the softmax.

    Classes without a positive are left out, as methods.md section 0.6 says; ``absent_classes``
    counts them. Counted as 0 instead, the mean is this one times the share of the classes that
    occur, which ``mmbench report --absent-class zero`` shows: no other epoch would be selected.
    """
    classes = logits.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of absent classes; we leave them out
        each = multiclass_average_precision(
            logits.to(finest(logits.device)).softmax(1), label, num_classes=classes, average=None
        )
    present = torch.bincount(label, minlength=classes) > 0
    return torch.as_tensor(each, device=logits.device)[present].mean()


def absent_classes(label: Tensor, classes: int) -> int:
    """Return how many of the classes 0 to ``classes`` - 1 have no sample; label [N]."""
    return classes - int((torch.bincount(label, minlength=classes) > 0).sum())


def macro_f1(logits: Tensor, label: Tensor) -> Tensor:
    """Return the unweighted mean over all C classes of F1 on argmax; 0/0 counts as 0."""
    classes = logits.shape[1]
    each = multiclass_f1_score(
        logits.argmax(1), label, num_classes=classes, average=None, zero_division=0
    )
    return each.to(finest(logits.device)).mean()


METRICS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "accuracy": accuracy,
    "map": mean_average_precision,
    "macro_f1": macro_f1,
}
