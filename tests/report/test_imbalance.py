"""The imbalance that training reached, as a table beside the scores."""

import pytest

from mmbench.record import Imbalance
from mmbench.report.frame import to_frame
from mmbench.report.imbalance import imbalance_tables
from mmbench.report.rows import groups
from mmbench.report.study import Study

STUDY = Study(
    name="s", title="T", rows=("unimodal", "concat", "iprm", "sum"), baselines=("unimodal",)
)
TASK = {"modalities": ["audio", "image"], "metrics": ["accuracy"], "primary": "accuracy"}


def tables(records):
    frame = to_frame(records)
    found = groups(STUDY, frame, {"toy": TASK})
    return list(imbalance_tables(STUDY, frame, found, reference=False))


@pytest.fixture
def made(template, make):
    def made(method, label, seed, value, probe, shapley):
        record = make(template, method, seed, value, label=label)
        imbalance = Imbalance(probe=probe, shapley=shapley)
        return record.model_copy(update={"imbalance": imbalance, "task": TASK})

    return made


@pytest.fixture
def records(made):
    return [
        made("unimodal", "unimodal-image", 0, 0.6, {"image": 0.7}, {"image": 0.5}),
        made("unimodal", "unimodal-image", 1, 0.7, {"image": 0.8}, {"image": 0.6}),
        made(
            "concat", "concat", 0, 0.8, {"audio": 0.9, "image": 0.3}, {"audio": 0.7, "image": 0.0}
        ),
        made(
            "concat", "concat", 1, 0.8, {"audio": 0.9, "image": 0.5}, {"audio": 0.6, "image": 0.1}
        ),
    ]


def test_a_probe_is_set_against_the_probe_of_the_model_trained_alone(records):
    (table,) = tables(records)
    assert table.columns == ("Method", "audio share", "image share", "audio probe", "image probe")
    rows = {name: [e.text for e in entries] for name, entries in table.rows}
    assert rows["concat"] == ["+65.0", "+5.0", "90.0", "40.0 (-35.0)"]
    assert rows["unimodal-image"] == ["", "+55.0", "", "75.0 (+0.0)"]


def test_shares_are_compared_as_parts_of_their_sum(made):
    records = [
        made("concat", "concat", 0, 0.9, {}, {"audio": 0.6, "image": 0.2}),
        made("iprm", "iprm", 0, 0.9, {}, {"audio": 0.1, "image": 0.0}),  # closer, in points
    ]
    (table,) = tables(records)
    assert "furthest apart under iprm (100 % of their sum)" in table.notes[-1]
    assert "closest under concat (50 %)" in table.notes[-1]


def test_a_model_worse_than_the_best_of_one_modality_is_called_neither(made):
    even = {"audio": 0.1, "image": 0.1}
    records = [
        made("unimodal", "unimodal-image", 0, 0.6, {"image": 0.8}, {"image": 0.5}),
        made("concat", "concat", 0, 0.9, {}, {"audio": 0.6, "image": 0.2}),
        made("iprm", "iprm", 0, 0.7, {}, {"audio": 0.4, "image": 0.2}),
        made("sum", "sum", 0, 0.2, {}, even),
    ]
    (table,) = tables(records)
    assert "closest under iprm (33 %)" in table.notes[-1]
    assert "1 row below the best model of one modality" in table.notes[-1]


def test_records_without_it_give_no_table(template, make):
    record = make(template, "concat", 0, 0.5).model_copy(update={"imbalance": Imbalance()})
    assert tables([record]) == []
