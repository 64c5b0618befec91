"""The synthetic set has the strengths it states, and each knob moves what it is for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmbench.datasets.synthetic import Synthetic, SyntheticConfig, carried_accuracy
from sklearn.linear_model import LogisticRegression

from mmbench.data import cache as data_cache
from mmbench.data.verify import verify

LARGE = {"train": 12_000, "val": 10, "test": 12_000, "features": 12}


def build(tmp_path, **options):
    dataset = Synthetic(SyntheticConfig(**options))
    return dataset, dataset.build(None, tmp_path)


def fitted(splits, m, train="train"):
    """Return the accuracy on test of a well-fitted classifier of one modality."""
    model = LogisticRegression(C=10.0, max_iter=500)
    model.fit(splits[train].inputs[m], splits[train].label)
    return model.score(splits["test"].inputs[m], splits["test"].label)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"imbalance": 0.8},
        {"classes": 3, "modalities": 3, "strength": 1.5},
        {"redundancy": 0.3},
        {"redundancy": 0.0, "modalities": 4, "strength": 4.0},
        {"noise": {"m1": 2.0}, "strengths": {"m2": 3.0}},
        {"label_noise": 0.3},
        {"speed": {"m1": 0.5}},
    ],
    ids=str,
)
def test_stated_accuracies_are_what_a_well_fitted_classifier_reaches(options, tmp_path):
    dataset, splits = build(tmp_path, **{**LARGE, **options})
    for m, stated in dataset.bayes_accuracy().items():
        assert fitted(splits, m) == pytest.approx(stated, abs=0.015), m


@given(st.floats(0.1, 6), st.integers(2, 30))
@settings(max_examples=15, deadline=None)
def test_integral_is_the_simulated_share(ratio, classes):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((40_000, classes))
    z[:, 0] += ratio
    assert carried_accuracy(ratio, classes) == pytest.approx((z.argmax(1) == 0).mean(), abs=0.012)


def test_two_classes_are_the_textbook_case():
    from scipy.stats import norm

    assert carried_accuracy(1.3, 2) == pytest.approx(norm.cdf(1.3 / 2**0.5), abs=1e-9)


def test_imbalance_parts_the_modalities_around_the_strength():
    def of(**options):
        return Synthetic(SyntheticConfig(**options)).strengths()

    assert of(modalities=3, strength=2.0, imbalance=0.5) == {"m1": 3.0, "m2": 2.0, "m3": 1.0}
    assert set(of(imbalance=0.0).values()) == {2.5}
    assert of(strengths={"m2": 9.0})["m2"] == 9.0


def test_redundancy_sets_how_many_modalities_carry_a_sample(tmp_path):
    for redundancy, expected in ((1.0, 3.0), (0.0, 1.0), (0.5, 2.0)):
        dataset, _ = build(tmp_path, modalities=3, redundancy=redundancy)
        carriers = dataset._carriers(np.random.default_rng(0), 20_000)
        assert carriers.sum(1).mean() == pytest.approx(expected, abs=0.03)
        assert carriers.any(1).all()


def test_unique_information_makes_fusion_worth_more(tmp_path):
    gains = []
    for redundancy in (1.0, 0.0):
        dataset, splits = build(tmp_path, **LARGE, redundancy=redundancy, strength=5.0, imbalance=0)
        joined = {
            s: np.concatenate([a.inputs[m] for m in dataset.names], 1) for s, a in splits.items()
        }
        model = LogisticRegression(max_iter=500).fit(joined["train"], splits["train"].label)
        both = model.score(joined["test"], splits["test"].label)
        gains.append(both - max(dataset.bayes_accuracy().values()))
    assert gains[1] > gains[0] + 0.2


@pytest.mark.parametrize(
    "options",
    [{}, {"imbalance": 0.8}, {"modalities": 3, "strength": 1.5}, {"noise": {"m1": 2.0}}],
    ids=str,
)
def test_no_classifier_of_all_modalities_is_above_the_best_accuracy_and_a_good_one_is_near_it(
    options, tmp_path
):
    dataset, splits = build(tmp_path, **{**LARGE, **options})
    noise = dataset.config.noise
    joined = {  # in units of the noise, which the best classifier weighs by
        s: np.concatenate([a.inputs[m] / noise.get(m, 1.0) for m in dataset.names], 1)
        for s, a in splits.items()
    }
    model = LogisticRegression(C=10.0, max_iter=500).fit(joined["train"], splits["train"].label)
    reached = model.score(joined["test"], splits["test"].label)
    assert reached == pytest.approx(dataset.best_accuracy(), abs=0.01)


def test_the_best_accuracy_rises_with_imbalance_and_is_not_known_of_unique_samples():
    def best(**options):
        return Synthetic(SyntheticConfig(**options)).best_accuracy()

    values = [best(imbalance=k) for k in (0.0, 0.2, 0.4, 0.6, 0.8)]
    assert values == sorted(values)
    assert best(modalities=1, imbalance=0.0) == carried_accuracy(2.5, 6)
    assert best(redundancy=0.5) is None


def test_speed_scales_inputs_and_nothing_else(tmp_path):
    plain = build(tmp_path)[1]["train"]
    slow = build(tmp_path, speed={"m2": 0.1})[1]["train"]
    np.testing.assert_allclose(slow.inputs["m2"], 0.1 * plain.inputs["m2"], rtol=1e-5)
    np.testing.assert_array_equal(slow.inputs["m1"], plain.inputs["m1"])
    np.testing.assert_array_equal(slow.label, plain.label)


def test_label_noise_spares_the_test_split(tmp_path):
    clean = build(tmp_path, **LARGE)[1]
    noisy = build(tmp_path, **LARGE, label_noise=0.3)[1]
    changed = {s: float((clean[s].label != noisy[s].label).mean()) for s in ("train", "test")}
    assert changed["train"] == pytest.approx(0.3, abs=0.02)
    assert changed["test"] == 0.0
    np.testing.assert_array_equal(clean["train"].inputs["m1"], noisy["train"].inputs["m1"])


def test_draws_differ_and_repeat(tmp_path):
    one, again, other = (build(tmp_path, draw=d)[1]["test"].inputs["m1"] for d in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_prepared_set_passes_its_checks_and_states_its_accuracies(tmp_path):
    dataset = Synthetic(SyntheticConfig())
    folder = data_cache.prepare(dataset, cache=tmp_path)
    assert all(check.ok for check in verify(dataset, cache=tmp_path))
    assert "bayes_accuracy" in (folder / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strengths": {"m3": 1.0}}, "strengths names m3; with modalities=2 there are m1, m2"),
        ({"speed": {"audio": 1.0}}, "speed names audio"),
        ({"classes": 40}, "features=32 has no room for 40 orthogonal classes"),
        ({"noise": {"m1": 0.0}}, "greater than 0"),
        ({"imbalance": 1.0}, "less than 1"),
    ],
)
def test_impossible_models_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SyntheticConfig(**options)
