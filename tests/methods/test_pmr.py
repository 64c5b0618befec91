"""PMR's prototypes, gates and losses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmbench.methods.pmr import FAR, entropy, gates, prototypical_loss, similarity
from torch import nn
from torch.nn.functional import cross_entropy

from mmbench.method import Batch

positive = st.floats(1e-3, 1e3)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def tensors(**values):
    return {m: torch.tensor(v, dtype=torch.float64) for m, v in values.items()}


def started(bench):
    bench.method.on_fit_start()
    return bench


def batches(monkeypatch, bench, *labels):
    """Make the trainer's pass over the training data yield these labels, with random inputs."""
    draw = torch.Generator().manual_seed(3)
    made = []
    for label in labels:
        label = torch.tensor(label)
        inputs = {
            m: torch.randn(len(label), e.layer.in_features, generator=draw, dtype=torch.float64)
            for m, e in bench.method.encoders.items()
        }
        made.append(Batch(inputs, label, torch.arange(len(label))))
    monkeypatch.setattr(bench.trainer, "train_batches", lambda **_: iter(made))
    return made


def test_worked_example_of_distances():
    sim = similarity(vector(0, 0)[None], torch.stack([vector(0, 0), vector(3, 4)]))
    assert sim[0].tolist() == pytest.approx([0, -5], abs=1e-5)
    assert float(sim.softmax(1)[0, 0]) == pytest.approx(0.9933071, abs=1e-5)


def test_worked_example_of_gates():
    q = tensors(a=1.3, v=0.9)
    assert {m: float(b) for m, b in gates(q, 2.0).items()} == {"a": 0.0, "v": 2.0}
    clip = gates(q, 1.0, "clip")
    assert float(clip["v"]) == pytest.approx(0.444444, abs=1e-6)
    assert float(clip["a"]) == 0


@given(st.dictionaries(st.sampled_from("avtx"), positive, min_size=2), st.floats(0, 5))
def test_gates_match_the_naive_form_in_any_order(values, alpha):
    for gate in ("hard", "clip"):
        found = gates(tensors(**values), alpha, gate)
        again = gates(tensors(**dict(reversed(values.items()))), alpha, gate)
        for m, own in values.items():
            others = [v for j, v in values.items() if j != m]
            rho = own * len(others) / sum(others)
            naive = alpha * (rho < 1) if gate == "hard" else alpha * min(max(1 / rho - 1, 0), 1)
            if abs(rho - 1) > 1e-9:
                assert float(found[m]) == pytest.approx(naive, abs=1e-6)
                assert float(again[m]) == pytest.approx(naive, abs=1e-6)


@given(positive, st.sampled_from(["hard", "clip"]))
def test_equal_modalities_get_no_extra_loss(q, gate):
    assert [float(b) for b in gates(tensors(a=q, v=q), 2.0, gate).values()] == [0.0, 0.0]


def test_duplicated_modality_gets_the_same_gate():
    found = gates(tensors(a=1.3, v=0.9, copy=0.9), 2.0, "clip")
    assert found["v"] == found["copy"]
    assert float(found["v"]) > 0


def test_scores_of_zero_stay_finite():
    for gate in ("hard", "clip"):
        found = gates(tensors(a=0.0, v=0.0), 2.0, gate)
        assert all(0 <= float(b) <= 2 for b in found.values())


def test_distance_matches_the_naive_form():
    draw = torch.Generator().manual_seed(0)
    z, c = (torch.randn(n, 3, generator=draw, dtype=torch.float64) for n in (4, 5))
    sim = similarity(z, c)
    for i in range(4):
        for k in range(5):
            assert float(sim[i, k]) == pytest.approx(-math.dist(z[i].tolist(), c[k].tolist()))


def test_zero_distance_has_a_finite_gradient_only_when_guarded():
    for floor, finite in ((1e-12, True), (0.0, False)):
        z = torch.ones(1, 2, requires_grad=True)
        prototypes = torch.stack([torch.ones(2), torch.zeros(2)])
        cross_entropy(similarity(z, prototypes, floor), torch.tensor([0])).backward()
        assert bool(z.grad.isfinite().all()) is finite


def test_class_without_prototype_is_left_out():
    sim = torch.tensor([[-1.0, -2.0, FAR], [-1.0, -3.0, FAR]], requires_grad=True)
    known = torch.tensor([True, True, False])
    loss = prototypical_loss(sim, torch.tensor([0, 2]), known)
    loss.backward()
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1)))
    assert float(sim.grad[1].abs().sum()) == 0
    assert sim.grad.isfinite().all()


def test_entropy_ignores_missing_classes():
    sim = torch.tensor([[-1.0, -1.0, FAR]], requires_grad=True)
    value = entropy(sim, torch.tensor([True, True, False]))
    value.backward()
    assert float(value) == pytest.approx(math.log(2))
    assert sim.grad.isfinite().all()


def test_prototypes_of_a_full_pass_are_the_class_means(make_bench):
    bench = started(make_bench("pmr", proto_fraction=1.0, momentum=0.0))
    data = list(bench.trainer.loaders["train"].everything())
    label = torch.cat([b.label for b in data])
    assert float(bench.method.counts.sum()) == len(label) == 40
    for index, m in enumerate("av"):
        with torch.no_grad():
            z = torch.cat([bench.method.encoders[m](b.inputs[m]) for b in data])
        for c in range(4):
            torch.testing.assert_close(
                bench.method.prototypes[index, c], z[label == c].mean(0), msg=f"{m}, {c}"
            )


@pytest.mark.parametrize(
    ("options", "samples"),
    [
        ({"proto_per_class": 0}, 8),
        ({"proto_per_class": 0, "proto_fraction": 0.5}, 16),
        ({"proto_per_class": 5}, 24),
        ({}, 40),
    ],
)
def test_pass_takes_the_share_or_enough_samples(options, samples, make_bench):
    bench = started(make_bench("pmr", **options))
    assert float(bench.method.counts.sum()) == samples


def test_momentum_starts_after_the_first_epoch(make_bench, monkeypatch):
    bench = make_bench("pmr", momentum=0.25)
    seen = []
    for epoch, labels in ((0, [0, 1, 2, 3]), (0, [3, 2, 1, 0]), (1, [1, 0, 3, 2])):
        (batch,) = batches(monkeypatch, bench, labels)
        with torch.no_grad():
            seen.append(bench.method.encoders["a"](batch.inputs["a"])[batch.label.argsort()])
        bench.trainer.epoch = epoch
        bench.method.on_epoch_end(None)
        expected = seen[-1] if epoch == 0 else 0.75 * seen[-1] + 0.25 * seen[-2]
        torch.testing.assert_close(bench.method.prototypes[0], expected)


def test_absent_class_keeps_its_old_prototype(make_bench, monkeypatch):
    bench = make_bench("pmr", momentum=0.5)
    batches(monkeypatch, bench, [0, 1, 1])
    bench.method.on_fit_start()
    before = bench.method.prototypes.clone()
    assert bench.method.known.tolist() == [True, True, False, False]
    bench.trainer.epoch = 1
    batches(monkeypatch, bench, [0, 2])
    bench.method.on_epoch_end(None)
    assert bench.method.known.tolist() == [True, True, True, False]
    assert torch.equal(bench.method.prototypes[:, 1], before[:, 1])
    assert not torch.equal(bench.method.prototypes[:, 0], before[:, 0])
    assert bench.method.prototypes.isfinite().all()


def test_unguarded_absent_class_is_nan_as_released(make_bench, monkeypatch):
    bench = make_bench("pmr", guard=False)
    batches(monkeypatch, bench, [0, 1])
    bench.method.on_fit_start()
    assert bench.method.prototypes[:, 2:].isnan().all()


def test_step_stays_finite_when_most_classes_have_no_prototype(make_bench, make_batch, monkeypatch):
    bench = make_bench("pmr", per_mu=0.1)
    batches(monkeypatch, bench, [1])
    bench.method.on_fit_start()
    for seed in range(5):
        assert all(math.isfinite(v) for v in bench.step(make_batch(seed=seed)).values())
    assert all(p.isfinite().all() for p in bench.method.parameters())


def test_sample_that_is_its_own_prototype_trains(make_bench, monkeypatch):
    bench = make_bench("pmr")
    (batch,) = batches(monkeypatch, bench, [0, 1, 2, 3])
    bench.method.on_fit_start()
    bench.step(batch)
    assert all(p.isfinite().all() for p in bench.method.parameters())


def test_pass_leaves_modes_and_random_numbers_alone(make_bench):
    bench = make_bench("pmr")
    bench.method.encoders["a"].add_module("drop", nn.Dropout())
    bench.method.encoders["a"].layer.eval()
    modes = [part.training for part in bench.method.modules()]
    state = torch.get_rng_state()
    during = []
    bench.method.encoders["a"].register_forward_hook(
        lambda module, args, out: during.append((module.drop.training, torch.is_grad_enabled()))
    )
    bench.method.on_fit_start()
    assert set(during) == {(False, False)}
    assert modes == [part.training for part in bench.method.modules()]
    assert torch.equal(state, torch.get_rng_state())


def test_prototypical_loss_reaches_its_own_encoder_alone(make_bench, make_batch):
    bench, batch = started(make_bench("pmr")), make_batch()
    method = bench.method
    sim = method.similarities(method.encode(batch.inputs))
    prototypical_loss(sim["a"], batch.label, method.known).backward()
    reached = {n for n, p in method.named_parameters() if p.grad is not None}
    assert reached == {"encoders.a.layer.weight", "encoders.a.layer.bias"}
    assert not method.prototypes.requires_grad
    assert method.prototypes.grad is None


def test_loss_is_the_defining_sum(make_bench, make_batch):
    bench, batch = started(make_bench("pmr", alpha=2.0)), make_batch()
    method = bench.method
    with torch.no_grad():
        z = method.encode(batch.inputs)
        pce, q = {}, {}
        for index, m in enumerate("av"):
            sim = torch.stack(
                [torch.stack([-(row - c).norm() for c in method.prototypes[index]]) for row in z[m]]
            )
            q[m] = sum(sim[i].softmax(0)[y] for i, y in enumerate(batch.label))
            pce[m] = sum(-sim[i].log_softmax(0)[y] for i, y in enumerate(batch.label)) / 8
        expected = cross_entropy(method.predict(batch.inputs)["fused"], batch.label)
        slow = min(q, key=lambda m: float(q[m]))
        expected = expected + 2.0 * pce[slow]
    log = bench.step(batch)
    assert log["loss"] == pytest.approx(float(expected), abs=1e-9)
    assert log[f"beta/{slow}"] == 2.0


def test_entropy_bonus_lowers_the_loss_early_only(make_bench, make_batch):
    batch = make_batch()
    options = {"per_mu": 0.5, "per_ends": 0.3}
    for epoch, differs in ((0, True), (1, False)):
        losses = []
        for chosen in ({}, options):
            bench = started(make_bench("pmr", **chosen))
            bench.trainer.epoch = epoch
            losses.append(bench.step(batch)["loss"])
        assert (losses[1] < losses[0]) is differs


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"starts": 0.6}])
def test_without_weight_or_outside_the_window_it_is_the_baseline(
    fusion, options, make_bench, make_batch
):
    pmr, baseline = started(make_bench("pmr", fusion=fusion, **options)), make_bench(fusion)
    for seed in range(3):
        pmr.step(make_batch(seed=seed))
        baseline.step(make_batch(seed=seed))
    pairs = zip(pmr.method.parameters(), baseline.method.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


def test_state_travels_in_the_state_dict(make_bench):
    first, second = started(make_bench("pmr")), make_bench("pmr")
    second.method.load_state_dict(first.method.state_dict())
    for name in ("prototypes", "counts", "known"):
        assert torch.equal(getattr(first.method, name), getattr(second.method, name))


@pytest.mark.parametrize("rare", [1, 5])
def test_every_class_gets_its_samples_as_far_as_there_are_any(rare, make_bench):
    bench = make_bench("pmr", proto_per_class=5, proto_fraction=0.01)
    label = bench.trainer.loaders["train"].label
    label[:] = torch.arange(len(label)) % 3
    label[:rare] = 3
    counts = started(bench).method.counts
    assert float(counts[3]) == rare
    assert float(counts.min()) >= min(rare, 5)
    if rare == 1:  # one class can never have five: everything was looked at
        assert float(counts.sum()) == len(label)


def test_entropy_bonus_is_for_the_leading_modality_alone(make_bench, make_batch):
    bench, batch = started(make_bench("pmr", alpha=0.0, per_mu=0.5)), make_batch()
    method = bench.method
    with torch.no_grad():
        sim = method.similarities(method.encode(batch.inputs))
        share = {m: s.softmax(1) for m, s in sim.items()}
        q = {m: sum(float(p[i, y]) for i, y in enumerate(batch.label)) for m, p in share.items()}
        leading = max(q, key=q.get)
        uncertainty = -(share[leading] * share[leading].log()).sum(1).mean()
    log = bench.step(batch)
    assert log["loss"] == pytest.approx(log["loss/fused"] - 0.5 * float(uncertainty))
