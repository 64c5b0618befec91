"""Samples alike in two splits are a leak, unless as many are alike within one."""

import numpy as np
import pytest

from mmbench.data.leaks import leaks
from mmbench.dataset import Modality, SplitArrays, Task

TASK = Task((Modality("a", "vector", (3,)), Modality("b", "vector", (1,))), ("no", "yes"))


def split(name, a, b):
    rows = len(a)
    return SplitArrays(
        inputs={"a": np.asarray(a, np.float32), "b": np.asarray(b, np.float32).reshape(-1, 1)},
        label=np.zeros(rows, np.int64),
        ids=tuple(f"{name}-{i}" for i in range(rows)),
        groups=tuple(f"{name}-{i}" for i in range(rows)),
    )


@pytest.mark.parametrize(
    ("kinds", "leak"),
    [(40, True), (4, False)],  # rows that all differ within train; rows of few values
)
def test_rows_of_numbers_are_a_leak_where_they_do_not_repeat_by_chance(kinds, leak):
    values = np.arange(40) % kinds
    train = split("train", np.stack([values, values + 1, values + 2], 1), values)
    test = split("test", train.inputs["a"][:10], train.inputs["b"][:10])
    (whole, *_) = leaks(TASK, {"train": train, "test": test})["train", "test"]
    assert (whole.modality, whole.count, whole.of, whole.leak) == (None, 10, 10, leak)
