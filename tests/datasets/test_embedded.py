"""The embedded data sets: repeatable, leak-free, balanced, and imbalanced where it matters."""

import hashlib

import numpy as np
import pytest
from mmbench.datasets.mfeat3 import FILE
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mmbench.data import cache as data_cache
from mmbench.registry import DATASETS


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def make(name, **options):
    cls = DATASETS.load(name)
    return cls(cls.Config(**options))


def flat(name, split, modality):
    array = np.asarray(split.inputs[modality], dtype=np.float64)
    if (name, modality) == ("avdigits", "audio"):  # 15 pooled frames, as datasets.md section 2.3
        array = array[..., :30].reshape(len(array), 32, 15, 2).mean(-1)
    return array.reshape(len(array), -1)


def score(name, splits, modalities):
    train, test = (
        np.concatenate([flat(name, splits[s], m) for m in modalities], 1) for s in ("train", "test")
    )
    scaler = StandardScaler().fit(train)
    strength = 0.01 if name == "avdigits" else 1.0
    model = LogisticRegression(C=strength, max_iter=2000)
    model.fit(scaler.transform(train), splits["train"].label)
    return model.score(scaler.transform(test), splits["test"].label)


@pytest.mark.parametrize(
    ("name", "options", "expected", "gap"),
    [
        ("mfeat3", {}, {"kar": 0.946, "fou": 0.804, "mor": 0.743}, ("kar", "mor", 0.15)),
        ("mfeat3", {"preset": "hard"}, {"fou": 0.804, "zer": 0.814, "mor": 0.743}, None),
        ("avdigits", {}, {"audio": 0.903, "image": 0.627}, ("audio", "image", 0.20)),
        ("avdigits", {"preset": "image_strong"}, {"image": 0.874}, ("image", "audio", 0.1)),
    ],
)
def test_modalities_are_as_strong_as_documented(name, options, expected, gap, cache):
    dataset = make(name, **options)
    splits = data_cache.ensure(dataset, cache=cache).splits
    single = {m: score(name, splits, [m]) for m in dataset.task.names}
    for modality, value in expected.items():
        assert single[modality] == pytest.approx(value, abs=0.045)
    if gap:
        assert single[gap[0]] - single[gap[1]] >= gap[2]
    assert score(name, splits, dataset.task.names) > max(single.values())


@pytest.mark.parametrize("name", ["mfeat3", "avdigits"])
def test_verify_finds_no_leak_and_balanced_classes(name, cache):
    dataset = make(name)
    data_cache.ensure(dataset, cache=cache)
    checks = data_cache.verify(dataset, cache=cache)
    assert [c for c in checks if not c.ok] == []
    assert {"hashes", "groups train/test", "ids train/val"} <= {c.name for c in checks}


def test_splits_have_the_documented_sizes(cache):
    sizes = {
        name: {s: len(a) for s, a in data_cache.ensure(make(name), cache=cache).splits.items()}
        for name in ("mfeat3", "avdigits")
    }
    assert sizes == {
        "mfeat3": {"train": 1200, "val": 200, "test": 600},
        "avdigits": {"train": 2000, "val": 500, "test": 1000},
    }


def test_rebuilding_gives_the_same_arrays(cache, tmp_path):
    first = data_cache.ensure(make("avdigits"), cache=cache)
    second = data_cache.ensure(make("avdigits"), cache=tmp_path)
    assert first.split_hash == second.split_hash
    assert first.data_hash == second.data_hash


def test_noise_of_one_view_leaves_the_others(cache):
    plain = data_cache.ensure(make("mfeat3"), cache=cache).splits["train"]
    noisy = data_cache.ensure(make("mfeat3", noise={"kar": 1.0}), cache=cache).splits["train"]
    assert not np.array_equal(plain.inputs["kar"], noisy.inputs["kar"])
    assert np.array_equal(plain.inputs["fou"], noisy.inputs["fou"])


def test_pairing_within_class_changes_no_unimodal_score(cache):
    splits = data_cache.ensure(make("avdigits"), cache=cache).splits
    label = splits["train"].label
    order = np.arange(len(label))
    rng = np.random.default_rng(0)
    for c in range(10):
        order[label == c] = rng.permutation(np.flatnonzero(label == c))
    shuffled = np.asarray(splits["train"].inputs["image"])[order]
    assert np.array_equal(label[order], label)
    assert np.isclose(shuffled.mean(), np.asarray(splits["train"].inputs["image"]).mean())


def test_vendored_arrays_are_the_ones_documented():
    with np.load(FILE) as data:
        total = hashlib.sha256(b"".join(data[k].tobytes() for k in sorted(data))).hexdigest()
        assert data["label"].shape == (2000,)
        assert np.bincount(data["label"]).tolist() == [200] * 10
    assert total == "9edec1e0c09925e874564eff9871eb7f40eb803a1eeb20be3bbdd0058701aea7"
