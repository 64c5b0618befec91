"""Metrics on the device equal scikit-learn's, with the specification's choices at the edges."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from mmbench.metrics import METRICS, absent_classes
from mmbench.training.device import finest


def draw(seed, samples=60, classes=4, absent=()):
    rng = np.random.default_rng(seed)
    label = rng.choice([c for c in range(classes) if c not in absent], samples)
    return rng.standard_normal((samples, classes)), label


def score(name, logits, label):
    return float(METRICS[name](torch.tensor(logits), torch.tensor(label)))


@given(st.integers(0, 10_000))
def test_accuracy_is_the_share_of_hits(seed):
    logits, label = draw(seed)
    assert score("accuracy", logits, label) == pytest.approx((logits.argmax(1) == label).mean())


@given(st.integers(0, 10_000), st.sampled_from([(), (2,)]))
def test_map_is_the_mean_over_classes_that_occur(seed, absent):
    logits, label = draw(seed, absent=absent)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    plain = [average_precision_score(label == c, p[:, c]) for c in np.unique(label)]
    assert score("map", logits, label) == pytest.approx(np.mean(plain), abs=1e-12)


@given(st.integers(0, 10_000))
def test_map_takes_in_equal_scores_together(seed):
    logits, label = draw(seed)
    logits = np.round(logits)  # few different rows, so that many probabilities are equal
    p = torch.tensor(logits).softmax(1).numpy()
    plain = [average_precision_score(label == c, p[:, c]) for c in np.unique(label)]
    assert score("map", logits, label) == pytest.approx(np.mean(plain), abs=1e-12)


@pytest.mark.parametrize(("labels", "absent"), [([0, 1, 2, 3], 0), ([0, 0, 3], 2), ([1], 3)])
def test_absent_classes_are_counted(labels, absent):
    assert absent_classes(torch.tensor(labels), 4) == absent


@given(st.integers(0, 10_000))
def test_map_with_absent_classes_as_zero_is_a_share_of_map(seed):
    logits, label = draw(seed, absent=(2,))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    each = [average_precision_score(label == c, p[:, c]) if c != 2 else 0.0 for c in range(4)]
    absent = absent_classes(torch.tensor(label), 4)
    counted = score("map", logits, label) * (4 - absent) / 4
    assert absent == 1
    assert counted == pytest.approx(np.mean(each), abs=1e-12)


@given(st.integers(0, 10_000), st.sampled_from([(), (2,)]))
def test_macro_f1_counts_all_classes(seed, absent):
    logits, label = draw(seed, absent=absent)
    plain = f1_score(label, logits.argmax(1), average="macro", labels=range(4), zero_division=0)
    assert score("macro_f1", logits, label) == pytest.approx(plain, abs=1e-12)


def test_perfect_and_constant_predictions():
    label = np.arange(8) % 4
    perfect, constant = 5 * np.eye(4)[label], np.tile([1.0, 0, 0, 0], (8, 1))
    assert {score(name, perfect, label) for name in METRICS} == {1.0}
    assert score("accuracy", constant, label) == 0.25
    assert score("macro_f1", constant, label) == pytest.approx(0.1)  # F1 of one class is 0.4


def test_sums_are_as_fine_as_the_device_allows():
    assert finest(torch.device("cpu")) is torch.float64
    assert finest(torch.device("mps")) is torch.float32
