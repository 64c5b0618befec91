"""OGR-GB: methods.md section 2 - the weights by hand, and an estimate that leaves no trace."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmbench.methods.ogr_gb import CAP, blend
from torch import nn
from torch.nn.functional import cross_entropy

from mmbench.training.optimizers import Optimizers

F64 = torch.float64
gains = st.lists(st.floats(-2, 2), min_size=3, max_size=3)


def tensor(values):
    return torch.tensor(values, dtype=F64)


def test_weights_by_hand():
    w = blend(tensor([0.5, 0.2, 0.6]), tensor([0.25, 0.4, 0.3]))
    torch.testing.assert_close(w, tensor([0.502618, 0.078534, 0.418848]), atol=1e-6, rtol=0)


@given(gains, gains, st.sampled_from(["zero", "abs"]))
def test_weights_are_a_distribution_below_the_cap(gain, overfit, neg_gain):
    w = blend(tensor(gain), tensor(overfit), neg_gain)
    assert float(w.sum()) == pytest.approx(1, abs=1e-9)
    assert (w >= 0).all()
    assert float(w.max()) <= CAP + 1e-12


@given(
    st.lists(st.floats(0.1, 2), min_size=3, max_size=3),
    st.lists(st.floats(0.1, 2), min_size=3, max_size=3),
    st.floats(0.5, 20),
)
def test_scale_of_the_losses_does_not_matter(gain, overfit, scale):
    one = blend(tensor(gain), tensor(overfit))
    other = blend(scale * tensor(gain), scale * tensor(overfit))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_branches_that_lost_get_the_least_weight():
    w = blend(tensor([0.5, -0.2, 0.4]), tensor([0.5, 0.5, 0.5]))
    assert float(w[1] / w[0]) == pytest.approx(1e-3)
    w = blend(tensor([0.5, -0.2, 0.4]), tensor([0.5, 0.5, 0.5]), "abs")
    assert float(w[1] / w[0]) == pytest.approx(0.4)


@pytest.mark.parametrize("gain", [[-1.0, -1.0, -0.5], [0.0, 0.0, 0.0]])
def test_equal_weights_where_nothing_gained(gain):
    assert torch.equal(blend(tensor(gain), tensor([1.0, 2.0, 3.0])), tensor([1 / 3] * 3))


def test_dominant_branch_is_capped_and_the_rest_shared_in_proportion():
    w = blend(tensor([1.0, 1.0, 1.0]), tensor([0.001, 1.0, 2.0]))
    assert float(w[0]) == CAP
    assert float(w[1:].sum()) == pytest.approx(1 - CAP)


def test_blended_loss_with_all_weight_on_the_fused_branch_is_concat(make_bench, make_batch):
    ours, theirs = make_bench("ogr-gb"), make_bench("concat")
    theirs.method.load_state_dict(
        {k: v for k, v in ours.method.state_dict().items() if "head" not in k or "fusion" in k},
        strict=False,
    )
    with torch.no_grad():
        for name, p in ours.method.named_parameters():
            if name in dict(theirs.method.named_parameters()):
                dict(theirs.method.named_parameters())[name].copy_(p)
    ours.method.w.copy_(tensor([0.0, 0.0, 1.0]))
    for seed in range(3):
        ours.step(make_batch(seed=seed))
        theirs.step(make_batch(seed=seed))
    expected = dict(theirs.method.named_parameters())
    shared = [n for n, _ in ours.method.named_parameters() if n in expected]
    assert len(shared) == len(expected)
    for name, p in ours.method.named_parameters():
        if name in expected:
            torch.testing.assert_close(p, expected[name], atol=1e-12, rtol=0)


def test_blended_loss_is_the_weighted_sum(make_bench, make_batch):
    bench, batch = make_bench("ogr-gb"), make_batch()
    bench.method.w.copy_(tensor([0.2, 0.3, 0.5]))
    logits = bench.method.predict(batch.inputs)
    losses = {k: float(cross_entropy(o, batch.label)) for k, o in logits.items()}
    plain = 0.2 * losses["a"] + 0.3 * losses["v"] + 0.5 * losses["fused"]
    assert bench.step(batch)["loss"] == pytest.approx(plain)


def everything(bench):
    return copy.deepcopy(bench.trainer.state())


def equal(left, right):
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_an_estimate_leaves_no_trace_but_the_weights(mode, make_bench, make_batch):
    bench = make_bench("ogr-gb", mode=mode)
    encoder = bench.method.encoders["a"]
    encoder.layer = nn.Sequential(encoder.layer, nn.BatchNorm1d(8).double(), nn.Dropout(0.2))
    bench.trainer.optimizers = Optimizers(bench.method, bench.trainer.settings)
    bench.trainer.optimizers.create("main", bench.method.parameter_groups())
    for seed in range(3):  # so that there are momentum and batch statistics to disturb
        bench.step(make_batch(seed=seed))
    bench.trainer.hold_out(0.2)
    before = everything(bench)
    torch.manual_seed(7)
    expected_draw = torch.rand(3)
    torch.manual_seed(7)
    bench.method.estimate()
    assert torch.equal(torch.rand(3), expected_draw)
    after = everything(bench)
    for name in ("w", "evidence"):
        assert not torch.equal(before["model"].pop(name), after["model"].pop(name))
    for part in ("model", "optimizers", "counters", "meters"):
        assert equal(before[part], after[part]), part


def test_one_pass_for_all_unimodal_branches_is_exact(make_bench):
    def reached(branches):
        bench = make_bench("ogr-gb", est_unit="epochs", est_epochs=2)
        bench.method.on_fit_start()
        with bench.trainer.sandbox():
            bench.method._train_only(branches)
            return bench.method.measure()

    together = reached(("a", "v"))
    for index, m in enumerate("av"):
        assert torch.equal(together[:, index], reached((m,))[:, index])


def test_measurement_is_the_mean_over_samples(make_bench):
    bench = make_bench("ogr-gb", held_out=0.3)
    bench.trainer.hold_out(0.3)
    rows = bench.method.measure()
    for row, index in zip(rows, (bench.trainer.index, bench.trainer.held), strict=True):
        batch = bench.trainer.loaders["train"].gather(index)
        with torch.no_grad():
            logits = bench.method.predict(batch.inputs)
        plain = [float(cross_entropy(logits[k], batch.label)) for k in ("a", "v", "fused")]
        assert row.tolist() == pytest.approx(plain)


@pytest.mark.parametrize(("mode", "epochs_of_change"), [("offline", [-1]), ("online", [0, 2]),
                                                       ("joint", [2])])  # fmt: skip
def test_weights_change_when_the_mode_says_so(mode, epochs_of_change, make_bench, monkeypatch):
    bench = make_bench("ogr-gb", mode=mode, est_unit="epochs", est_epochs=2, epochs=4)
    changes, reweigh = [], bench.method._reweigh

    def recording(before, after):
        started = bool(bench.trainer.optimizers.by_name["main"].state) or bench.trainer.epoch > 0
        changes.append(bench.trainer.epoch if started or mode != "offline" else -1)
        reweigh(before, after)

    monkeypatch.setattr(bench.method, "_reweigh", recording)
    bench.trainer.train()
    assert changes == epochs_of_change
    rows = [[r.train[f"weight/{k}"] for k in ("a", "v", "fused")] for r in bench.trainer.curve]
    assert all(sum(row) == pytest.approx(1) for row in rows)
    assert (rows[0] == pytest.approx([1 / 3] * 3)) == (mode == "joint")


def test_held_out_data_is_never_trained_on(make_bench, monkeypatch):
    bench = make_bench("ogr-gb", est_unit="epochs", est_epochs=1)
    bench.method.on_fit_start()
    held = set(bench.trainer.held.tolist())
    assert len(held) >= 4
    trained = {int(i) for batch in bench.trainer.train_batches(augmented=True) for i in batch.index}
    assert not held & trained
    assert held | trained == set(range(40))


def test_estimate_longer_than_the_run_is_refused(make_bench):
    with pytest.raises(ValueError, match="no share of the run"):
        make_bench("ogr-gb", est_unit="fraction", est_epochs=10)


@pytest.mark.parametrize(
    ("options", "epochs", "length"),
    [
        ({}, 30, 30),
        ({"mode": "online"}, 30, 10),
        ({"mode": "joint"}, 4, 4),
        ({"est_epochs": 3}, 30, 3),
        ({"est_epochs": 300}, 30, 30),
        ({"est_unit": "fraction", "est_epochs": 0.1}, 30, 3),
    ],
)
def test_one_estimate_takes_the_whole_run_and_repeated_ones_ten_epochs(
    options, epochs, length, make_bench
):
    assert make_bench("ogr-gb", epochs=epochs, **options).method.period == length


def test_the_log_tells_what_the_weights_were_made_of(make_bench):
    bench = make_bench("ogr-gb", epochs=2)
    bench.trainer.train()
    train, branches = bench.trainer.curve[-1].train, ("a", "v", "fused")
    gain, overfit, weight = (
        tensor([train[f"{name}/{k}"] for k in branches]) for name in ("gain", "overfit", "weight")
    )
    assert (gain > 0).any()
    torch.testing.assert_close(blend(gain, overfit), weight)


def test_an_only_sample_of_its_class_stays_in_training(make_bench):
    bench = make_bench("concat")
    loader = bench.trainer.loaders["train"]
    loader.label[:] = 0
    loader.label[7] = 1
    bench.trainer.hold_out(0.2)
    assert 7 in bench.trainer.index.tolist()
    assert len(bench.trainer.held) == 8
