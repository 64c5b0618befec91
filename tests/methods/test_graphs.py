"""What a step keeps in memory for its backward passes."""

import pytest
import torch

from mmbench.registry import METHODS
from mmbench.settings import TrainerSettings
from mmbench.testing.speed import LATE, audiovisual, make_trainer, random_loader


class Kept:
    """Counts the bytes that autograd holds, each storage once, parameters left out."""

    def __init__(self, method):
        self.parameters = {p.untyped_storage().data_ptr() for p in method.parameters()}
        self.holders, self.now, self.peak = {}, 0, 0

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        return Holder(self, storage.data_ptr(), storage.nbytes(), tensor)

    def count(self, address, size, change):
        if address in self.parameters:
            return
        before = self.holders.get(address, 0)
        self.holders[address] = before + change
        if before == 0 or self.holders[address] == 0:
            self.now += change * size
        self.peak = max(self.peak, self.now)


class Holder:
    """One tensor that is kept; counted until it goes."""

    def __init__(self, kept, address, size, tensor):
        self.kept, self.address, self.size, self.tensor = kept, address, size, tensor
        kept.count(address, size, 1)

    def __del__(self):
        self.kept.count(self.address, self.size, -1)


def kept_by(name, folder):
    """Return the peak of what a step keeps, and what is left after it."""
    task = audiovisual((1, 65, 65), (3, 1, 65, 65), 3)
    loader = random_loader(task, 8, 8, torch.device("cpu"))
    trainer = make_trainer(name, task, loader, TrainerSettings(batch_size=8), folder)
    trainer.epoch = LATE
    trainer.method.on_epoch_start()
    (batch,) = loader.everything()
    kept = Kept(trainer.method)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda holder: holder.tensor):
        log = trainer.method.step(batch)
    assert log
    return kept.peak, kept.now


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return kept_by("concat", tmp_path_factory.mktemp("concat"))[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS.names())
def test_a_step_holds_no_more_graphs_than_it_must(name, plain, tmp_path):
    # AGM's second: the pass in eval mode, one row larger than the batch of 8. Two backward passes,
    # as of MMPareto, share the graph of one forward pass.
    graphs = 1 + 9 / 8 if name == "agm" else 1
    peak, left = kept_by(name, tmp_path)
    assert peak <= 1.02 * graphs * plain
    assert left < plain / 100  # of the heads, held by what is logged
