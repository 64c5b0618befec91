"""A cell's id depends on all that changes the result and on nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.cell import Cell, canonical, digest
from mmbench.settings import TrainerSettings

PLAIN = {
    "method": "m", "label": "m", "method_version": 1, "method_config": {"alpha": 0.5},
    "dataset": "d", "dataset_version": 1, "dataset_config": {}, "split_hash": "s",
    "encoders": {"a": "mlp"}, "trainer": {}, "seed": 0,
}  # fmt: skip
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def make(**changed):
    return Cell.model_validate({**PLAIN, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "n"}, {"method_version": 2}, {"method_config": {"alpha": 0.6}}, {"dataset": "e"},
        {"dataset_version": 2}, {"dataset_config": {"preset": "hard"}}, {"split_hash": "t"},
        {"encoders": {"a": "conv"}}, {"protocol": "published"}, {"fidelity": "released"},
        {"preset": "authors"}, {"trainer": {"epochs": 5}}, {"seed": 1},
    ],
    ids=lambda c: next(iter(c)),
)  # fmt: skip
def test_what_changes_the_result_changes_the_id(changed):
    assert make(**changed).id != make().id


@pytest.mark.parametrize(
    "changed",
    [{"label": "other"}, {"changed": {"method.alpha": 0.5}}, {"unaffected": ("authors",)}],
)
def test_what_is_only_shown_does_not(changed):
    assert make(**changed).id == make().id


def test_the_id_is_the_same_in_every_process_and_version():
    assert make().id == "af4db7989306"


def test_defaults_spelled_out_are_the_same_cell():
    assert make(trainer=TrainerSettings().model_dump(mode="json")).id == make().id


@given(st.dictionaries(st.text(), json_values))
def test_order_of_keys_does_not_matter(value):
    backwards = dict(reversed(list(value.items())))
    assert canonical(value) == canonical(backwards)
    assert digest(value) == digest(backwards)


def test_folder_is_readable_and_unique():
    assert make().folder == f"d.m.s0.{make().id}"


def test_nan_cannot_be_part_of_an_identity():
    with pytest.raises(ValueError, match="JSON"):
        digest({"x": float("nan")})
