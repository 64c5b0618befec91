"""Accuracy, mean average precision and macro-F1 on the device (methods.md section 0.6)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

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
    scores, order = logits.to(finest(logits.device)).softmax(1).sort(0, descending=True)
    hits = one_hot(label, logits.shape[1], scores.dtype).gather(0, order)
    rank = torch.arange(1, len(label) + 1, device=label.device).unsqueeze(1)
    precision = (hits.cumsum(0) / rank).gather(0, _last_of_equals(scores))
    positives = hits.sum(0)
    each = (hits * precision).sum(0) / positives.clamp(min=1)
    return each.sum() / (positives > 0).sum()


def one_hot(label: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return [N, C] of 0 and 1; unlike torch's, it does not wait for the device."""
    return (label.unsqueeze(1) == torch.arange(classes, device=label.device)).to(dtype)


def _last_of_equals(scores: Tensor) -> Tensor:
    """Return for each row of ``scores`` [N, C], sorted in each column, the last row equal to it.

    A threshold takes in all samples of one score, so they share its precision.
    """
    last = torch.ones_like(scores, dtype=torch.bool)
    last[:-1] = scores[:-1] != scores[1:]
    row = torch.arange(len(scores), device=scores.device).unsqueeze(1).expand_as(scores)
    ends = torch.where(last, row, len(scores))
    return ends.flip(0).cummin(0).values.flip(0)


def absent_classes(label: Tensor, classes: int) -> int:
    """Return how many of the classes 0 to ``classes`` - 1 have no sample; label [N]."""
    return classes - int((torch.bincount(label, minlength=classes) > 0).sum())


def macro_f1(logits: Tensor, label: Tensor) -> Tensor:
    """Return the unweighted mean over all C classes of F1 on argmax; 0/0 counts as 0."""
    classes, dtype = logits.shape[1], finest(logits.device)
    told, true = one_hot(logits.argmax(1), classes, dtype), one_hot(label, classes, dtype)
    both = (told * true).sum(0)
    return (2 * both / (told.sum(0) + true.sum(0)).clamp(min=1)).mean()


METRICS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "accuracy": accuracy,
    "map": mean_average_precision,
    "macro_f1": macro_f1,
}
