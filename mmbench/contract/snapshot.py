"""What a method remembers: its tensors, and the plain Python values beside them."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.method import Method

TORCHS_OWN = frozenset(vars(nn.Module()))  # the attributes that every module has


def state(method: Method) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers."""
    tensors = [*method.named_parameters(), *method.named_buffers()]
    return {name: t.detach().clone() for name, t in tensors}


def attributes(method: Method) -> dict[str, Any]:  # Any: plain values
    """Return copies of the attributes that hold plain values, of the method and its modules.

    Plain are numbers, texts, None, tensors and arrays outside parameters and buffers, and lists,
    tuples, deques, sets and dicts of those; anything else is left out.
    """
    found = {}
    for prefix, module in method.named_modules():
        for key, value in vars(module).items():
            if key not in TORCHS_OWN and _plain(value):
                found[f"{prefix}.{key}" if prefix else key] = _copied(value)
    return found


def differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values are not equal to the last bit; NaN equals NaN."""
    keys = dict.fromkeys([*left, *right])
    return [k for k in keys if k not in left or k not in right or not _equal(left[k], right[k])]


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_plain(v) for v in (*value, *value.values()))
    if isinstance(value, list | tuple | deque | set | frozenset):
        return all(_plain(v) for v in value)
    return value is None or isinstance(value, int | float | complex | str | Tensor | np.ndarray)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    if isinstance(value, list | tuple | deque):
        return [type(value), *(_copied(v) for v in value)]
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray | set) else value


def _equal(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, Tensor):
        return left.shape == right.shape and torch.allclose(
            left.double(), right.double(), atol=0, rtol=0, equal_nan=True
        )
    if isinstance(left, np.ndarray):
        return np.array_equal(left, right, equal_nan=left.dtype.kind in "fc")
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    return bool(left == right)
