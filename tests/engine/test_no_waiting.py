"""What would make the processor wait for a GPU shows without one: on tensors that have no values.

On torch's ``meta`` device, asking for a value is an error, as are shapes that depend on values. An
operation on tensors of two devices would be a copy from or to the GPU, which waits too. What
``mmbench test`` asks of a method alone is asked here of a whole step: with optimiser and meter.
"""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmbench.method import Batch
from mmbench.registry import METHODS
from mmbench.settings import TrainerSettings
from mmbench.testing.speed import LATE, audiovisual, make_trainer

META = torch.device("meta")
TASK = audiovisual((1, 33, 33), (3, 2, 33, 33), 3)
BATCH = 8


class WithoutData:
    """A loader of which only the device and the size are asked."""

    device = META

    def __len__(self):
        return 2 * BATCH

    def steps(self, samples):
        return samples // BATCH


class OneDevice(TorchDispatchMode):
    """Refuses operations that have tensors on two devices."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        assert len({t.device for t in tensors}) < 2, f"{func} copies between devices"
        return out


def a_step(trainer, epoch):
    trainer.epoch, trainer.step_in_epoch = epoch, 0
    trainer.meter.reset()
    trainer.method.on_epoch_start()
    inputs = {m.name: torch.zeros(BATCH, *m.shape, device=META) for m in TASK.modalities}
    label = torch.zeros(BATCH, dtype=torch.int64, device=META)
    batch = Batch(inputs, label, torch.arange(BATCH, device=META))
    with OneDevice():
        logged = trainer.method.step(batch)
        trainer.meter.watch(logged["loss"], 0)
        trainer.meter.add(logged)
    trainer.step += 1
    return logged


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())

    def make(method):
        made = make_trainer(
            method, TASK, WithoutData(), TrainerSettings(batch_size=BATCH), tmp_path
        )
        made.device = torch.device("cpu")  # of its generators: meta has none
        return made

    return make


@pytest.mark.parametrize("method", METHODS.names())
def test_a_step_asks_the_device_for_no_value_and_copies_nothing_to_it(method, trainer):
    made = trainer(method)
    for epoch in (LATE, LATE + 1):
        logged = a_step(made, epoch)
        assert {value.device for value in logged.values()} == {META}


@pytest.mark.parametrize(
    ("waits", "said"),
    [
        (lambda loss: loss.item(), "meta"),
        (lambda loss: loss[loss > 0], "meta"),
        (lambda loss: loss + torch.tensor([1.0]).to(META), "copies between devices"),
        (lambda loss: "big" if loss > 1 else "small", "meta"),
    ],
)
def test_a_step_that_waits_is_found(waits, said, trainer):
    made = trainer("concat")
    update = made.update

    def wait_and_update():
        waits(torch.zeros(3, device=META).sum())
        update()

    made.update = wait_and_update
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError), match=said):
        a_step(made, LATE)
