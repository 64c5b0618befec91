"""Shapley shares and probes of a trained model, against values worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mmbench.data.loader import Loader
from mmbench.dataset import Modality, SplitArrays, Task
from mmbench.method import Method, MethodConfig
from mmbench.registry import METHODS
from mmbench.settings import TrainerSettings
from mmbench.testing.speed import audiovisual, make_trainer, random_loader
from mmbench.training.evaluation import predictions
from mmbench.training.imbalance import measure, shapley, subsets


class Votes(Method):
    """Adds up the inputs themselves as logits: what each modality is worth is known."""

    def predict(self, inputs):
        z = self.encode(inputs)
        return {"fused": torch.stack(list(z.values())).sum(0), **z}


class Identity(nn.Module):
    width = 2

    def forward(self, x):
        return x


def loader(inputs, label, seed=0):
    label = np.asarray(label)
    names = tuple(map(str, range(len(label))))
    arrays = {m: np.asarray(x, dtype=np.float32) for m, x in inputs.items()}
    return Loader(
        [SplitArrays(arrays, label, names, names)], torch.device("cpu"), torch.float32, 4, seed
    )


def votes(names):
    task = Task(tuple(Modality(m, "vector", (2,)) for m in names), ("0", "1"))
    return Votes(task, {m: Identity() for m in names}, MethodConfig())


def test_subsets_go_from_none_to_all():
    assert subsets(["a", "v"]) == [(), ("a",), ("v",), ("a", "v")]


def test_shapley_of_two_by_hand():
    table = {(): 0.1, ("a",): 0.7, ("v",): 0.3, ("a", "v"): 0.8}
    shares = shapley(table.__getitem__, ("a", "v"))
    assert shares == pytest.approx({"a": 0.55, "v": 0.15})


@given(st.lists(st.floats(0, 1), min_size=16, max_size=16))
def test_shares_add_up_and_are_fair(values):
    names = ("a", "b", "c", "d")
    table = dict(zip(subsets(names), values, strict=True))
    shares = shapley(table.__getitem__, names)
    assert sum(shares.values()) == pytest.approx(table[names] - table[()])
    # a modality that never changes anything has no share
    dummy = {s: table[tuple(n for n in s if n != "d")] for s in table}
    assert shapley(dummy.__getitem__, names)["d"] == pytest.approx(0)
    # two that are interchangeable have the same share
    twins = {s: table[("a",) * (len({"a", "b"} & set(s)) > 0)] for s in table}
    fair = shapley(twins.__getitem__, names)
    assert fair["a"] == pytest.approx(fair["b"])


def test_useless_modality_has_no_share_and_a_poor_probe():
    rng = np.random.default_rng(0)
    label = np.arange(40) % 2
    strong = np.eye(2)[label] + 0.1 * rng.standard_normal((40, 2))
    noise = 0.01 * rng.standard_normal((40, 2))
    data = loader({"a": strong, "v": noise}, label)
    found, _ = measure(votes(("a", "v")), data, data)
    assert found.subsets["a"] == found.subsets["a+v"] == 1.0
    assert found.shapley["a"] == pytest.approx(1.0 - found.subsets[""], abs=0.15)
    assert abs(found.shapley["v"]) < 0.15
    assert sum(found.shapley.values()) == pytest.approx(
        found.subsets["a+v"] - found.subsets[""], abs=1e-6
    )
    assert found.probe["a"] == 1.0
    assert found.probe["v"] < 0.8


def test_absent_modality_is_the_training_mean():
    train = loader({"a": [[0, 2], [2, 0]], "v": [[5, 1], [5, 1]]}, [0, 1])
    test = loader({"a": [[0, 1], [1, 0], [0, 1]], "v": [[0, 0]] * 3}, [0, 1, 0])
    found, _ = measure(votes(("a", "v")), train, test)
    # v's mean votes for class 0 by four, whatever a says; a's mean is a tie, won by class 0
    assert found.subsets["a"] == pytest.approx(2 / 3)
    assert found.subsets[""] == pytest.approx(2 / 3)
    assert found.subsets["v"] == pytest.approx(2 / 3)
    assert found.subsets["a+v"] == pytest.approx(0.0)
    assert found.fill == "mean of the training inputs"


def test_many_modalities_are_probed_but_not_permuted():
    names = tuple("abcdef")
    label = np.arange(8) % 2
    data = loader({m: np.eye(2)[label] for m in names}, label)
    found, _ = measure(votes(names), data, data)
    assert found.shapley == {}
    assert found.probe == dict.fromkeys(names, 1.0)


def test_diverged_features_are_left_out_and_the_mode_is_kept():
    label = np.arange(8) % 2
    data = loader({"a": np.full((8, 2), np.inf), "v": np.eye(2)[label]}, label)
    method = votes(("a", "v")).train()
    assert set(measure(method, data, data)[0].probe) == {"v"}
    assert method.training


class Counting(Identity):
    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x):
        self.calls.append(len(x))
        return x


def test_encoders_see_each_test_batch_and_each_size_of_the_mean_once():
    label = np.arange(10) % 2
    data = loader({m: np.eye(2)[label] for m in "abc"}, label)
    method = votes(("a", "b", "c"))
    encoders = {m: Counting() for m in "abc"}
    method.encoders.update(encoders)
    measure(method, data, data)
    batches = [4, 4, 2]
    for m, encoder in encoders.items():
        assert sorted(encoder.calls) == sorted([*batches, 4, 2, *batches]), m
        assert method.encoders[m] is encoder


@pytest.mark.parametrize("names", ["av", "abcdef"])
def test_the_predictions_of_all_inputs_are_those_of_an_evaluation(names):
    label = np.arange(10) % 2
    data = loader({m: np.random.default_rng(ord(m)).random((10, 2)) for m in names}, label)
    method = votes(tuple(names))
    _, logits = measure(method, data, data)
    expected = predictions(method, data)
    assert logits.keys() == expected.keys()
    assert all(torch.equal(logits[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_predicts_as_in_an_evaluation(name, tmp_path):
    task = audiovisual((1, 9, 9), (3, 1, 9, 9), 3)
    data = random_loader(task, 6, 4, torch.device("cpu"))
    method = make_trainer(name, task, data, TrainerSettings(batch_size=4), tmp_path).method
    _, logits = measure(method, data, data)
    expected = predictions(method, data)
    assert logits.keys() == expected.keys()
    assert all(torch.equal(logits[key], expected[key]) for key in expected)


def test_predictions_are_right_of_a_method_that_changes_features_in_place():
    class Doubling(Votes):
        def predict(self, inputs):
            z = {m: x.mul_(2) for m, x in self.encode(inputs).items()}
            return {"fused": torch.stack(list(z.values())).sum(0), **z}

    class Copying(Identity):
        def forward(self, x):
            return x.clone()

    label = np.arange(8) % 2
    data = loader({m: np.random.default_rng(1).random((8, 2)) for m in "av"}, label)
    method = Doubling(votes(("a", "v")).task, {m: Copying() for m in "av"}, MethodConfig())
    expected = predictions(method, data)
    _, logits = measure(method, data, data)
    assert all(torch.equal(logits[name], expected[name]) for name in expected)


def test_encoders_are_back_in_place_after_a_prediction_that_fails():
    label = np.arange(8) % 2
    data = loader({m: np.eye(2)[label] for m in "av"}, label)
    method = votes(("a", "v"))
    before = dict(method.encoders.items())
    method.predict = None
    with pytest.raises(TypeError):
        measure(method, data, data)
    assert dict(method.encoders.items()) == before


def test_a_method_may_ask_its_encoders_for_more_than_features():
    class Asking(Votes):
        def predict(self, inputs):
            assert all(self.encoders[m].calls is not None for m in self.names)
            return super().predict({m: x.clone() for m, x in inputs.items()})  # nothing to recall

    label = np.arange(8) % 2
    data = loader({m: np.eye(2)[label] for m in "av"}, label)
    method = Asking(votes(("a", "v")).task, {m: Counting() for m in "av"}, MethodConfig())
    assert measure(method, data, data)[0].subsets["a+v"] == 1.0


@pytest.mark.parametrize("resident", [False, True])
def test_a_loader_of_two_splits_draws_from_both_as_if_they_were_one(resident):
    def split(values):
        names = tuple(map(str, values))
        inputs = {"a": np.array(values, np.float32)[:, None]}
        return SplitArrays(inputs, np.array(values), names, names)

    one = Loader([split([0, 1, 2]), split([3, 4])], torch.device("cpu"), torch.float32, 4, 0,
                 resident=resident)  # fmt: skip
    assert len(one) == 5
    for index in ([4, 0, 3], [2, 2], [3, 4], [0, 1, 2, 3, 4]):
        batch = one.gather(torch.tensor(index))
        assert batch.inputs["a"][:, 0].tolist() == index == batch.label.tolist()
