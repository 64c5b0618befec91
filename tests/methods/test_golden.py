"""Under ``released`` the authors' recorded trajectories are followed, update by update.

Each file is trained by ``Trainer.train``: the loop, the optimisers, the hooks and the evaluation
are those of every run. Only the order of the batches is the file's.
"""

import numpy as np
import pytest
import torch
from mmbench.methods.mla import confidence

from .recorded import FOLDER, GUARDED, Case, Replay

OGM_SUM = {"fusion": "sum", "scope": "ndim>=2", "starts": 50}  # the file's run is not modulated
AGM_LOGS = {
    f"{ours}/{m}": f"{theirs}_{m}"
    for m in "av"
    for ours, theirs in (
        ("ratio", "ratio"), ("tau", "tau"), ("coefficient", "coeff"), ("scale", "applied_scale"),
        ("score", "score"),
    )
}  # fmt: skip
PAIRS = {
    f"{name}/{p[0]}-{p[1]}": f"{name}_{p}_first"
    for name in ("lambda", "omega")
    for p in ("av", "at", "vt")
}
IPRM_LOGS = {
    "lambda/a-v": "lambda_a", "omega/a-v": "omega_a", "kl/a-v/a": "kl_a", "kl/a-v/v": "kl_v",
}  # fmt: skip
CASES = [
    Case("concat", "concat"),
    Case("sum", "sum"),
    Case("sum", "ogm", OGM_SUM),
    Case("naive_weight_trimodal", "weight"),
    Case("ogm_concat_conv", "ogm", {"alpha": 0.8},
         {"ratio/v": "ratio_v", "k/a": "coeff_a", "k/v": "coeff_v"}),
    Case("pmr_concat", "pmr", {"alpha": 2.0, "momentum": 0.0},
         {"ratio/a": "rho", "beta/a": "beta_a", "beta/v": "beta_v"}),
    Case("agm_bimodal", "agm", {"alpha": 1.0}, AGM_LOGS),
    Case("mmpareto", "mmpareto", {"gamma": 1.5}, {"cos/a": "cos_a", "cos/v": "cos_v"}),
    Case("reconboost", "reconboost", {"hidden": 7}, epochs=5, visit=tuple(range(6))),
    Case("mla_released", "mla"),
    Case("lfm_fitted", "lfm", {"decay": "after"}, epochs=101, visit=(0, 100)),
    Case("iprm_bimodal", "iprm", {}, IPRM_LOGS, tolerance=GUARDED),
    Case("iprm_trimodal_tri_cls", "iprm", {}, PAIRS, tolerance=GUARDED),
]  # fmt: skip
BY_FILE = {case.file: case for case in CASES if case.method != "ogm" or case.file != "sum"}


@pytest.fixture
def replay(make_bench, monkeypatch):
    """Return a function that puts a method at the start of a file."""

    def start(file, **changed):
        case = BY_FILE[file] if isinstance(file, str) else file
        return Replay(case, make_bench, monkeypatch, **changed)

    return start


def test_every_file_is_followed():
    assert {case.file for case in CASES} == {path.stem for path in FOLDER.glob("*.npz")}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_released_trajectory_is_followed(case, replay):
    run = replay(case).run()
    run.check_updates()
    run.check_logs()
    predicted = run.predicted[-1]
    assert set(predicted) == {"fused", *run.modalities}
    for name, logits in predicted.items():
        if case.method == "sum" and name != "fused":
            # halved in the released evaluation, which is OGM's own: see the case of ogm
            logits = logits - run.parameters[f"heads.{name}.bias"] / 2
        key = f"eval/logits_{name}"
        run.check(logits, key if key in run.golden else f"{key}_fixed")


@pytest.mark.parametrize("file", ["ogm_concat_conv", "agm_bimodal", "mla_released"])
def test_gradients_before_they_are_changed_are_the_released_ones(file, replay):
    run = replay(file).run()
    for theirs, mine in run.names.items():
        for number, passes in enumerate(run.raw[:-1]):
            expected = torch.as_tensor(run.golden[f"raw_grad/{theirs}"][number])
            if not expected.isnan().all():
                torch.testing.assert_close(passes[-1][mine], expected, atol=1e-8, rtol=0)


def test_mmpareto_meets_the_released_gradients_and_solutions(replay):
    run = replay("mmpareto").run()
    for theirs, mine in run.names.items():
        if theirs.startswith("enc_"):
            multimodal, unimodal = zip(*run.raw[:-1], strict=True)
            run.check([found[mine] for found in multimodal], f"raw_grad/fused/{theirs}")
            own = theirs[4]
            run.check([found[mine] for found in unimodal], f"raw_grad/{own}/{theirs}")
    for m in "av":
        weights = [[log[f"weight/{m}"], 1 - log[f"weight/{m}"]] for log in run.logs]
        run.check(weights, f"diag/weights_{m}")


@pytest.mark.parametrize("file", ["concat", "sum", "ogm_concat_conv", "naive_weight_trimodal"])
def test_unimodal_predictions_during_training_are_the_released_ones(file, replay):
    run = replay(file)
    run.run(lambda batch: (run.method.predict(batch.inputs), batch.label))
    for name in ("fused", *run.modalities):
        if f"diag/logits_{name}" in run.golden:
            run.check([logits[name] for logits, _ in run.seen], f"diag/logits_{name}")
        else:
            losses = [torch.nn.functional.cross_entropy(o[name], y) for o, y in run.seen]
            run.check(losses, f"loss/{name}")


def test_agm_attributes_the_released_logits(replay):
    run = replay("agm_bimodal")

    def padded(batch):
        kept = {"full": "av", "only_a": "a", "only_v": "v", "none": ""}
        return {
            name: run.method.fusion_head(
                run.method.encode({m: x * (m in names) for m, x in batch.inputs.items()})
            )
            for name, names in kept.items()
        }

    run.run(padded)
    for name in ("full", "only_a", "only_v", "none"):
        run.check([logits[name] for logits in run.seen], f"diag/logits_{name}")
    run.check(run.method.running, "diag/running_score_after_epoch")
    assert [log["clipped"] for log in run.logs] == [0.0] * 5
    assert not len(run.golden["diag/clipped_steps"])


def test_pmr_prototypes_and_distances_are_the_released_ones(replay):
    run = replay("pmr_concat")
    method = run.method
    run.run(lambda batch: (method.prototypes.clone(), method.similarities(
        method.encode(batch.inputs)), batch.label))  # fmt: skip
    (batch,) = run.trainer.loaders["val"].everything()
    for index, m in enumerate("av"):
        run.check([run.seen[0][0][index], method.prototypes[index]], f"diag/proto_{m}")
        run.check([sim[m] for _, sim, _ in run.seen], f"diag/sim_{m}")
        q = [sim[m].softmax(1).gather(1, y[:, None]).sum() for _, sim, y in run.seen]
        run.check(q, f"diag/q_{m}")
        run.check(method.similarities(method.encode(batch.inputs))[m], f"eval/sim_{m}")


def test_iprm_mixes_the_released_features(replay):
    run, mixed = replay("iprm_bimodal"), []
    handle = run.method.mix_heads["a__v"].register_forward_hook(
        lambda module, given, out: mixed.append(given[0].detach())
    )
    run.run(lambda batch: handle if len(mixed) < 10 else handle.remove())
    run.check(mixed[0:10:2], "diag/mix_feature_probe")
    run.check(mixed[1:10:2], "diag/mix_feature_learn")
    for name in ("lambda", "omega"):
        run.check([1 - log[f"{name}/a-v"] for log in run.logs], f"diag/{name}_v")


def test_iprm_divergences_of_every_pair_are_the_released_ones(replay):
    run = replay("iprm_trimodal_tri_cls").run()
    pairs = ("av", "at", "vt")
    run.check(
        [[[log[f"kl/{p[0]}-{p[1]}/{m}"] for m in p] for p in pairs] for log in run.logs], "diag/kl"
    )
    for name in ("lambda", "omega"):
        for p in pairs:
            second = [1 - log[f"{name}/{p[0]}-{p[1]}"] for log in run.logs]
            run.check(second, f"diag/{name}_{p}_second")


def test_mla_takes_the_modalities_in_turn_and_never_projects(replay):
    run = replay("mla_released")
    run.run(lambda batch: {m: z.mean(0) for m, z in run.method.encode(batch.inputs).items()})
    run.check([log[f"loss/{m}"] for log in run.logs for m in "av"], "loss/per_step")
    run.check([run.method.P] * 10, "diag/P_after_step")
    run.check([means[m] for means in run.seen for m in "av"], "diag/feature_mean")
    trained = [
        [m for m in "av" if found[f"encoders.{m}.layer.weight"] is not None]
        for found in run.gradients
    ]
    assert trained == [["av"[i]] for i in run.golden["diag/modality_of_step"]]


@pytest.mark.parametrize("inference", ["fixed", "dynamic_official"])
def test_mla_predicts_as_released(inference, replay):
    run = replay("mla_released", inference=inference).run()
    logits = run.predicted[-1]
    run.check(logits["fused"], f"eval/logits_fused_{inference}")
    weights = confidence({m: logits[m] for m in "av"}, axis=0)
    run.check(weights, "eval/dynamic_official_weights")


def test_lfm_weighs_its_losses_as_released(replay):
    run = replay("lfm_fitted").run()
    weights = [[log["weight/cls"], log["weight/con"]] for log in (run.logs[0], run.logs[5])]
    run.check(weights, "diag/k_cls_k_con_per_epoch")
    for epoch, expected in enumerate(run.golden["diag/k_table_0_199"]):
        run.trainer.epoch = epoch
        found = [float(k) for k in run.method.weights()]
        np.testing.assert_allclose(found, expected, atol=1e-12, rtol=0)


def test_lfm_learning_rate_falls_one_epoch_early_as_released(replay):
    run = replay("lfm_fitted", decay="before")
    trainer = run.trainer
    recipe = {"epochs": 200, "lr": 0.01, "lr_step": 0.35, "schedule": "step"}
    trainer.settings, trainer.epochs = trainer.settings.model_copy(update=recipe), 200
    for epoch, expected in enumerate(run.golden["diag/official_lr_table_0_199"]):
        trainer.epoch = epoch
        trainer.optimizers.set_lr(trainer.lr)
        run.method.on_epoch_start()
        actual = trainer.optimizers.by_name["main"].param_groups[0]["lr"]
        assert actual == pytest.approx(expected, rel=1e-9), epoch


def test_reconboost_takes_the_recorded_turns(replay):
    run = replay("reconboost").run()
    fused = [logits["fused"] for logits in run.predicted[1::2]]
    run.check(fused, "eval/logits_fused_after_stage")
    golden = run.golden
    for number, found in enumerate(run.gradients):
        stage, phase = golden["diag/stage_of_step"][number], golden["diag/phase_of_step"][number]
        trained = {m for m in "av" if found[f"encoders.{m}.layer.weight"] is not None}
        present = "av"[golden["diag/modality_of_stage"][stage]]
        assert trained == ({present} if phase == 1 else set("av"[: stage + 1]))


def test_reconboost_boosts_what_the_released_ensemble_says(replay):
    run = replay("reconboost")
    method = run.method

    def others(batch):
        stage, within = method.position
        if within:
            return None
        names = [m for m in method.members if m != "av"[stage % 2]]
        return method.boost_rate * sum(method.logits(m, batch.inputs) for m in names)

    run.run(others)
    phi = [found for found in run.seen if found is not None]
    for found, expected in zip(phi[5:], run.golden["diag/phi"][5:], strict=True):  # none before
        torch.testing.assert_close(found, torch.as_tensor(expected), atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("ogm_concat_conv", {"ratio": "rho_minus_1"}),
        ("ogm_concat_conv", {"scope": "ndim>=2", "alpha": 0.1}),
        ("pmr_concat", {"gate": "clip"}),
        ("agm_bimodal", {"starts": 3}),
        ("mmpareto", {"norm_scope": "encoder"}),
        ("mmpareto", {"gamma": 1.0}),
        ("mla_released", {"projection": "on"}),
        ("mla_released", {"projection": "on", "rls": "scalar"}),
        ("lfm_fitted", {"con": "js"}),
        ("lfm_fitted", {"con": "nce"}),
        ("lfm_fitted", {"stretch": True}),
        ("reconboost", {"first_residual": "zero"}),
        ("reconboost", {"mcr": "on"}),
        ("reconboost", {"residual": "full"}),
        ("iprm_bimodal", {"omega": "inverse"}),
        ("iprm_bimodal", {"ema_init": "omega0"}),
        ("iprm_trimodal_tri_cls", {"third_head": "own"}),
    ],
)
def test_the_comparison_can_fail(file, changed, replay):
    assert replay(file, **changed).run().worst() > 1e-5
