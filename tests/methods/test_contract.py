"""What every registered method must do, whatever it is."""

import copy

import pytest
import torch

from mmbench.dataset import Modality, Task
from mmbench.registry import METHODS

NAMES = METHODS.names()
MODALITIES = ("a", "v", "t", "x")


def flat(method):
    return torch.cat([p.detach().flatten() for p in method.parameters()])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_trains_or_refuses_with_a_reason(name, count, make_bench, make_batch):
    cls = METHODS.load(name)
    task = Task(tuple(Modality(m, "vector", (3,)) for m in MODALITIES[:count]), ("0", "1"))
    reason = cls.refuse(task, cls.Config())
    if reason is not None:
        assert name in reason
        return
    bench = make_bench(name, MODALITIES[:count])
    before = flat(bench.method)
    losses = [bench.step(make_batch(MODALITIES[:count]))["loss"] for _ in range(20)]
    assert not torch.equal(before, flat(bench.method))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_prediction_of_a_sample_ignores_the_rest_of_the_batch(name, make_bench, make_batch):
    method = make_bench(name).method.eval()
    batch = make_batch()
    with torch.no_grad():
        whole = method.predict(batch.inputs)
        one = method.predict({m: x[2:3] for m, x in batch.inputs.items()})
    assert "fused" in whole
    for key, logits in whole.items():
        torch.testing.assert_close(logits[2:3], one[key], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_gives_the_same_result(name, make_bench, make_batch):
    ends = []
    for _ in range(2):
        bench = make_bench(name)
        for seed in range(3):
            bench.step(make_batch(seed=seed))
        ends.append(flat(bench.method))
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", NAMES)
def test_save_load_and_continue_equals_never_stopping(name, make_bench, make_batch):
    straight = make_bench(name)
    for seed in range(4):
        straight.step(make_batch(seed=seed))
    first = make_bench(name)
    for seed in range(2):
        first.step(make_batch(seed=seed))
    saved = copy.deepcopy(first.trainer.state())
    second = make_bench(name, seed=1)
    second.trainer.seed = 0
    second.trainer.load(saved)
    for seed in range(2, 4):
        second.step(make_batch(seed=seed))
    assert torch.equal(flat(straight.method), flat(second.method))


@pytest.mark.parametrize("name", NAMES)
def test_batch_of_one_and_one_class_stay_finite(name, make_bench, make_batch):
    bench = make_bench(name, classes=2)
    batch = make_batch(samples=1, classes=2)
    assert all(torch.isfinite(torch.tensor(v)) for v in bench.step(batch).values())


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_meaning_and_a_source(name):
    for key, field in METHODS.load(name).Config.model_fields.items():
        assert field.description, key
        assert field.json_schema_extra["source"], key
