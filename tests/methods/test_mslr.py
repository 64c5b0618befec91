"""MSLR: methods.md section 3 - the ratio by hand, when it acts, and what it scales."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmbench.methods import mslr
from mmbench.methods.mslr import change
from torch.nn.functional import cross_entropy

from mmbench.registry import DATASETS, METHODS
from mmbench.sweep import Request, expand

MEMORY = [0.50, 0.52, 0.54, 0.56, 0.58]


def val(a, v):
    return {"fused": {"accuracy": 0.9}, "a": {"accuracy": a}, "v": {"accuracy": v}}


def adapt(bench, rows):
    for bench.trainer.epoch, (a, v) in enumerate(rows):
        bench.method.on_epoch_end(val(a, v))
    bench.trainer.epoch += 1


def test_factor_by_hand(make_bench):
    assert 0.9 * change(0.60, MEMORY) == pytest.approx(1.0, abs=1e-9)
    bench = make_bench("mslr", epochs=100, c={"a": 0.9})
    adapt(bench, [(acc, 0.5) for acc in [*MEMORY, 0.60]])
    assert bench.method.factors() == pytest.approx({"a": 1.0, "v": 1.0})


@given(st.floats(0, 1), st.lists(st.floats(0, 1), max_size=5))
def test_ratio_is_bounded_and_one_without_a_past(accuracy, memory):
    ratio = change(accuracy, memory)
    assert 0.1 <= ratio <= 10
    if sum(memory) == 0:
        assert ratio == 1


def test_ratio_compares_with_the_epochs_before_and_is_not_cumulative(make_bench):
    bench = make_bench("mslr", epochs=100, memory=2)
    adapt(bench, [(0.4, 0.5), (0.6, 0.5)])
    assert bench.method.ratio["a"] == 1.0  # the memory was not full before
    adapt(bench, [(0.8, 0.5)])
    assert bench.method.ratio["a"] == pytest.approx(0.8 / 0.5)
    adapt(bench, [(0.7, 0.5)])
    assert bench.method.ratio["a"] == pytest.approx(0.7 / 0.7)


def test_cumulative_multiplies_every_k_epochs(make_bench):
    bench = make_bench("mslr", epochs=100, strategy="cumulative", memory=2)
    seen = []
    for accuracy in (0.4, 0.6, 0.6, 0.9, 0.9):
        adapt(bench, [(accuracy, 0.5)])
        seen.append(bench.method.ratio["a"])
    assert seen == pytest.approx([1, 1.2, 1.2, 1.2 * 1.2, 1.2 * 1.2])


def test_plain_factors_reproduce_sum_fusion_bitwise(make_bench, make_batch):
    ours, theirs = make_bench("mslr", strategy="keep"), make_bench("sum")
    theirs.method.load_state_dict(
        {k: v for k, v in ours.method.state_dict().items() if "extra" not in k}, strict=False
    )
    for seed in range(4):
        ours.method.on_epoch_start()
        ours.step(make_batch(seed=seed))
        theirs.step(make_batch(seed=seed))
    expected = dict(theirs.method.named_parameters())
    for name, p in ours.method.named_parameters():
        assert torch.equal(p, expected[name]), name


@pytest.mark.parametrize("scaled", ["lr", "grad"])
def test_scaling_rate_or_gradient_is_one_plain_sgd_step(scaled, make_bench, make_batch):
    bench = make_bench("mslr", apply=scaled, c={"a": 0.5, "v": 2.0})
    plain = {"momentum": 0.0, "weight_decay": 0.0}
    bench.trainer.settings = bench.trainer.settings.model_copy(update=plain)
    bench.trainer.optimizers.settings = bench.trainer.settings
    bench.trainer.optimizers.create("main", bench.method.parameter_groups())
    before = {k: p.detach().clone() for k, p in bench.method.named_parameters()}
    gradients = {}
    kept = bench.trainer.update

    def update(optimizer="main"):
        gradients.update({k: p.grad.clone() for k, p in bench.method.named_parameters()})
        kept(optimizer)

    bench.trainer.update = update
    bench.method.on_epoch_start()
    bench.step(make_batch())
    for name, p in bench.method.named_parameters():
        factor = 0.5 if ".a." in name else 2.0
        if scaled == "grad":
            factor = 1.0  # it is in the recorded gradient
        torch.testing.assert_close(p.detach(), before[name] - 0.1 * factor * gradients[name])


def test_both_ways_of_scaling_agree_without_momentum_and_decay(make_bench, make_batch):
    ends = []
    for scaled in ("lr", "grad"):
        bench = make_bench("mslr", apply=scaled, c={"a": 0.5, "v": 2.0})
        plain = {"momentum": 0.0, "weight_decay": 0.0}
        bench.trainer.optimizers.settings = bench.trainer.settings.model_copy(update=plain)
        bench.trainer.optimizers.create("main", bench.method.parameter_groups())
        bench.method.on_epoch_start()
        bench.step(make_batch())
        ends.append(torch.cat([p.detach().flatten() for p in bench.method.parameters()]))
    torch.testing.assert_close(*ends)


def test_window_ends_the_scaling(make_bench):
    bench = make_bench("mslr", epochs=100, c={"a": 0.5}, window_unit="epochs", ends=20)
    factors = {}
    for bench.trainer.epoch in (0, 20, 21):
        factors[bench.trainer.epoch] = bench.method.factors()["a"]
    assert factors == {0: 0.5, 20: 0.5, 21: 1.0}


def test_released_accuracy_is_the_second_modalitys(make_bench):
    bench = make_bench("mslr", epochs=100, memory=1, accuracy="official")
    adapt(bench, [(0.2, 0.5), (0.9, 0.6)])
    assert bench.method.ratio == pytest.approx({"a": 1.2, "v": 1.2})


def test_without_validation_split_training_data_is_set_aside(make_bench):
    bench = make_bench("mslr", memory=1)
    bench.trainer.select = "test"
    bench.method.on_fit_start()
    held = set(bench.trainer.held.tolist())
    assert held
    assert not held & set(bench.trainer.index.tolist())
    for bench.trainer.epoch in range(2):
        bench.method.on_epoch_end(None)
    assert len(bench.method.memory["a"]) == 1
    batches = list(bench.trainer.held_out_batches())
    with torch.no_grad():
        hits = [bench.method.predict(b.inputs)["a"].argmax(1) == b.label for b in batches]
    assert bench.method.memory["a"][0] == pytest.approx(float(torch.cat(hits).double().mean()))


def test_pretraining_gives_each_modality_its_own_loss(make_bench, make_batch):
    bench, batch = make_bench("mslr", pretrain_epochs=1, c={"a": 0.5}), make_batch()
    bench.method.on_epoch_start()
    first = bench.step(batch)
    assert first["loss"] == pytest.approx(first["loss/a"] + first["loss/v"])
    assert first["factor/a"] == 1.0
    bench.trainer.epoch = 1
    bench.method.on_epoch_start()
    assert not bench.trainer.optimizers.by_name["main"].state  # momentum is forgotten
    second = bench.step(batch)
    assert second["loss"] == pytest.approx(second["loss/fused"])
    assert second["factor/a"] == 0.5


def test_factors_of_absent_modalities_are_refused(make_bench):
    task, cls = make_bench("mslr").method.task, METHODS.load("mslr")
    assert "names audio; the modalities are a, v" in cls.refuse(task, cls.Config(c={"audio": 1.0}))


def test_factors_must_be_positive():
    with pytest.raises(ValueError, match="greater than 0"):
        METHODS.load("mslr").Config(c={"a": 0.0})


def test_released_run_follows_a_plain_loop(make_bench):
    """Gradients scaled, both modalities by the second's accuracy, in a window, with momentum."""
    c, last, epochs = {"a": 0.9, "v": 1.1}, 4, 6
    options = {**METHODS.load("mslr").released(), "memory": 2, "ends": last, "c": c}
    bench = make_bench("mslr", epochs=epochs, **options)
    method, trainer = bench.method, bench.trainer
    trainer.settings = trainer.settings.model_copy(update={"schedule": "constant"})
    plain = {k: p.detach().clone().requires_grad_() for k, p in method.named_parameters()}
    trainer.train()

    def logits(m, x):
        z = (x @ plain[f"encoders.{m}.layer.weight"].T + plain[f"encoders.{m}.layer.bias"]).relu()
        return z @ plain[f"heads.{m}.weight"].T + plain[f"heads.{m}.bias"]

    optimizer = torch.optim.SGD(plain.values(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    ratio, memory, ratios = 1.0, [], []
    for epoch in range(epochs):
        ratios.append(ratio)
        for batch in trainer.loaders["train"].training(torch.arange(40), epoch):
            optimizer.zero_grad()
            fused = logits("a", batch.inputs["a"]) + logits("v", batch.inputs["v"])
            cross_entropy(fused, batch.label).backward()
            for name, p in plain.items():
                if epoch <= last:
                    p.grad *= c[name.split(".")[1]] * ratio
            optimizer.step()
        hits = [
            logits("v", b.inputs["v"]).argmax(1) == b.label
            for b in trainer.loaders["val"].everything()
        ]
        accuracy = float(torch.cat(hits).float().mean())
        if len(memory) == 2:
            ratio = accuracy / (sum(memory) / 2)
        memory = [*memory, accuracy][-2:]
    assert len(set(ratios[: last + 1])) > 1
    for name, p in method.named_parameters():
        torch.testing.assert_close(p, plain[name], atol=1e-8, rtol=0, msg=name)


def test_a_task_without_accuracy_is_judged_by_its_own_metric(make_bench):
    bench = make_bench("mslr", epochs=100)
    bench.method.task = replace(bench.method.task, metrics=("map",), primary="map")
    bench.method.on_epoch_end({"fused": {"map": 0.9}, "a": {"map": 0.4}, "v": {"map": 0.6}})
    assert bench.method.memory == {"a": [0.4], "v": [0.6]}


def test_the_scripts_factors_are_those_of_modalities_that_the_dataset_has():
    assert METHODS.load("mslr").recipe({}, "cremad")["c"] == {"audio": 0.9, "video": 1.1}
    assert "c" not in METHODS.load("mslr").recipe({}, "ksounds")
    for name, factors in mslr.SCRIPTS.items():
        cls = DATASETS.load(name)
        assert set(factors) == set(cls(cls.Config()).task.names)


def test_the_authors_preset_takes_the_factors_of_the_datasets_script(tmp_path, monkeypatch):
    names = DATASETS.load("mfeat3")(DATASETS.load("mfeat3").Config()).task.names
    monkeypatch.setitem(mslr.SCRIPTS, "mfeat3", {names[0]: 0.9})
    ask = {"methods": ["mslr"], "datasets": ["mfeat3"], "seeds": [0]}
    for more, factors in (
        ({"preset": "authors"}, {names[0]: 0.9}),
        ({"preset": "authors", "settings": {"mslr.c": {names[0]: 2.0}}}, {names[0]: 2.0}),
        ({}, {}),
    ):
        (cell,) = expand(Request(**ask, **more), tmp_path)
        assert cell.method_config["c"] == factors
