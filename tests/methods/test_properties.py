"""What methods must do under renaming, duplication and degenerate batches."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from mmbench.dataset import Modality, Task
from mmbench.method import Batch
from mmbench.registry import METHODS

# the order of modalities means something to mla and reconboost, and names the noise of ogm-ge
SYMMETRIC = ("agm", "concat", "ensemble", "iprm", "joint", "lfm", "mmpareto", "mslr", "ogm",
             "ogr-gb", "sum", "weight")  # fmt: skip
NAMES = ("a", "v", "t", "x")
few = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rename(key, swap):
    """Return the parameter's name after its modalities were renamed."""
    parts = [swap.get(part, part) for part in key.split(".")]
    return ".".join("__".join(swap.get(p, p) for p in part.split("__")) for part in parts)


def reorder(method, other):
    """Give ``other``, whose modalities are in another order, the weights of ``method``."""
    source = dict(method.named_parameters())
    with torch.no_grad():
        for key, parameter in other.named_parameters():
            if key == "fusion_head.linear.weight":
                blocks = dict(zip(method.names, source[key].split(method.width, 1), strict=True))
                parameter.copy_(torch.cat([blocks[m] for m in other.names], 1))
                continue
            flipped = ".".join("__".join(reversed(p.split("__"))) for p in key.split("."))
            parameter.copy_(source[key] if key in source else source[flipped])


@pytest.mark.parametrize("name", SYMMETRIC)
@pytest.mark.parametrize("order", [("v", "a"), ("t", "a", "v"), ("x", "t", "v", "a")])
def test_order_of_modalities_changes_nothing(name, order, make_bench, make_batch):
    given_order = tuple(m for m in NAMES if m in order)
    one, two = make_bench(name, given_order), make_bench(name, order)
    reorder(one.method, two.method)
    batch = make_batch(given_order)
    for _ in range(3):
        first, second = one.step(batch), two.step(batch)
        assert first["loss"] == pytest.approx(second["loss"], abs=1e-9)
    outputs = one.method.predict(batch.inputs), two.method.predict(batch.inputs)
    for key, logits in outputs[0].items():
        torch.testing.assert_close(logits, outputs[1][key], atol=1e-8, rtol=0)


@few
@given(seed=st.integers(0, 1000), samples=st.sampled_from([1, 2, 5]), classes=st.integers(1, 4))
@pytest.mark.parametrize("name", METHODS.names())
def test_any_batch_and_class_count_gives_finite_parameters(
    name, seed, samples, classes, make_bench, make_batch
):
    bench = make_bench(name, classes=classes, seed=seed)
    for _ in range(2):
        log = bench.step(make_batch(samples=samples, classes=classes, seed=seed))
        assert all(torch.isfinite(torch.tensor(v)) for v in log.values())
    assert all(torch.isfinite(p).all() for p in bench.method.parameters())
    if classes == 1:
        assert log["loss"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_a_modality_given_twice_keeps_its_copies_equal(name, make_bench, make_batch):
    bench = make_bench(name, ("a", "v"))
    method, batch = bench.method, make_batch()
    with torch.no_grad():
        method.encoders["v"] = type(method.encoders["a"])(6).double()
        for key, parameter in method.named_parameters():
            if key.startswith(("encoders.v", "heads.v")):
                parameter.copy_(method.get_parameter(rename(key, {"v": "a"})))
            elif key == "fusion_head.linear.weight":
                parameter[:, 8:] = parameter[:, :8]
    bench.trainer.optimizers._parameters = dict(method.named_parameters())
    bench.trainer.optimizers.create("main", method.parameter_groups())
    twice = Batch({"a": batch.inputs["a"], "v": batch.inputs["a"]}, batch.label, batch.index)
    for _ in range(3):
        bench.step(twice)
    for key, parameter in method.encoders["v"].named_parameters():
        copy = method.encoders["a"].get_parameter(key)
        torch.testing.assert_close(parameter, copy, atol=1e-9, rtol=0)
    out = method.predict(twice.inputs)
    torch.testing.assert_close(out["a"], out["v"], atol=1e-9, rtol=0)


def test_joint_adds_the_concat_loss_and_every_own_loss(make_bench, make_batch):
    names = ("a", "v", "t")
    bench, batch = make_bench("joint", names), make_batch(names)
    z = bench.method.encode(batch.inputs)
    linear = bench.method.fusion_head.linear
    losses = [cross_entropy(linear(torch.cat([z[m] for m in names], 1)), batch.label)]
    losses += [cross_entropy(bench.method.heads[m](z[m]), batch.label) for m in names]
    assert bench.step(batch)["loss"] == pytest.approx(sum(losses).item())


def test_each_member_of_an_ensemble_learns_as_if_alone(make_bench, make_batch):
    both = make_bench("ensemble")
    alone = {m: make_bench("unimodal", modality=m) for m in both.method.names}
    for m, bench in alone.items():
        bench.method.encoders[m].load_state_dict(both.method.encoders[m].state_dict())
        bench.method.heads[m].load_state_dict(both.method.heads[m].state_dict())
    for seed in range(4):
        batch = make_batch(seed=seed)
        both.step(batch)
        for bench in alone.values():
            bench.step(batch)
    for m, bench in alone.items():
        for key, parameter in bench.method.named_parameters():
            assert torch.equal(parameter, both.method.get_parameter(key)), (m, key)


def test_an_ensemble_averages_its_members_logits(make_bench, make_batch):
    names = ("a", "v", "t")
    out = make_bench("ensemble", names).method.predict(make_batch(names).inputs)
    torch.testing.assert_close(out["fused"], (out["a"] + out["v"] + out["t"]) / 3)


def test_gate_weighs_whole_features_and_learns(make_bench, make_batch):
    bench, batch = make_bench("weight", weight="learned_gate"), make_batch()
    before = [p.clone() for p in bench.method.gate.parameters()]
    _, w = bench.method._fuse(bench.method.encode(batch.inputs))
    assert w.shape == (2, 8, 1)
    torch.testing.assert_close(w.sum(0), torch.ones(8, 1, dtype=torch.float64))
    for _ in range(3):
        bench.step(batch)
    assert not torch.equal(before[0], next(bench.method.gate.parameters()))


def test_unimodal_is_one_cell_a_modality_and_names_the_nearest_for_a_slip():
    cls = METHODS.load("unimodal")
    task = Task(tuple(Modality(m, "vector", (3,)) for m in ("audio", "visual")), ("0", "1"))
    variants = cls.variants(task)
    assert [cls.label(cls.Config(**v)) for v in variants] == ["unimodal-audio", "unimodal-visual"]
    assert cls.modalities(task, cls.Config()) == ("audio",)
    assert cls.refuse(task, cls.Config(modality="visual")) is None
    assert "did you mean 'audio'" in cls.refuse(task, cls.Config(modality="audo"))


@pytest.mark.parametrize("name", SYMMETRIC)
def test_half_precision_keeps_loss_and_parameters_finite(name, make_bench, make_batch):
    bench, batch = make_bench(name), make_batch()
    bench.method.float()
    bench.trainer.optimizers.create("main", bench.method.parameter_groups())
    single = Batch({m: x.float() for m, x in batch.inputs.items()}, batch.label, batch.index)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.isfinite(torch.tensor(bench.step(single)["loss"]))
    assert all(torch.isfinite(p).all() for p in bench.method.parameters())
