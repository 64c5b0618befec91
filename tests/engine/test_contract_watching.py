"""What the contract's checks watch with: waits for the device, and what a method remembers."""

from collections import deque
from pathlib import Path

import pytest
import torch
from torch import nn

from mmbench.contract.snapshot import attributes, differing
from mmbench.contract.waiting import DEVICE, Waits, call_without_waiting, count_waits

X = torch.arange(6.0)


@pytest.mark.parametrize(
    "operation",
    [
        lambda: X.sum().item(),
        lambda: float(X[0]),
        lambda: bool(X[0] > 0),
        lambda: X.tolist(),
        lambda: X.numpy(),
        lambda: X.cpu(),
        lambda: X[X > 2],
        lambda: X.nonzero(),
        lambda: X.masked_select(X > 2),
        lambda: X.unique(),
        lambda: torch.equal(X, X),
        lambda: X.clone().index_put((X > 2,), torch.zeros(())),
        lambda: X.clone().__setitem__(0, True),
        lambda: X.clone().view(2, 3).__setitem__((0, 1), 2.0),
        lambda: torch.tensor(2.0, device=X.device),
        lambda: torch.as_tensor([1, 2], device=X.device),
    ],
)
def test_waiting_operations_are_noticed(operation):
    with pytest.raises(Waits):
        call_without_waiting(operation)


def test_work_that_stays_on_the_device_is_let_through():
    layer = nn.Linear(6, 2)

    def step():
        layer(torch.where(X > 2, X, 0.0)).square().mean().backward()
        kept = X.clone()
        kept[1:] = 2.0
        kept[0].fill_(True)
        kept[0] = X.sum()
        torch.full((), 2.0, device=X.device)
        return X.index_select(0, torch.tensor([1, 2]))

    assert call_without_waiting(step).shape == (2,)
    assert layer.weight.grad is not None


def test_waits_are_counted_but_for_those_of_some_folders():
    out, waits = count_waits(lambda: float(X.sum()) + float(X.max()))
    assert out == 20.0
    assert len(waits) == 2
    assert waits[0].startswith("test_contract_watching.py:")
    here = Path(__file__).parent
    assert count_waits(lambda: float(X.sum()), but_in=[here])[1] == []


def test_the_device_is_told_from_the_cpu_by_name_alone():
    assert call_without_waiting(lambda: X.device) == DEVICE
    assert X.device != DEVICE


VALUES = {
    "int": (1, 2), "float": (0.5, 0.25), "text": ("a", "b"), "switch": (True, False),
    "kind": (1, 1.0), "none": (None, 0), "list": ([1, [2.0]], [1, [3.0]]), "length": ([1], [1, 1]),
    "dict": ({"a": [1]}, {"a": [2]}), "tensor": (torch.zeros(2), torch.ones(2)),
    "in a dict": ({"a": torch.zeros(2)}, {"a": torch.zeros(3)}), "array": (X.numpy(), -X.numpy()),
    "queue": (deque([1]), deque([2])), "set": ({1}, {2}), "nested": ((1, "a"), (1, "b")),
}  # fmt: skip


@pytest.mark.parametrize("kind", VALUES)
def test_attributes_are_compared_by_value(kind):
    one, two, other = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    one.a, two.a, other.a = VALUES[kind][0], VALUES[kind][0], VALUES[kind][1]
    model = nn.ModuleDict({"layer": one})
    assert list(attributes(model)) == ["layer.in_features", "layer.out_features", "layer.a"]
    assert differing(attributes(one), attributes(two)) == []
    assert differing(attributes(one), attributes(other)) == ["a"]


def test_attributes_are_copies_without_what_is_not_plain():
    layer = nn.Linear(2, 2)
    layer.seen, layer.nan, layer.what = [1], float("nan"), object()
    before = attributes(layer)
    layer.seen.append(2)
    assert differing(before, attributes(layer)) == ["seen"]
    assert "what" not in before
