"""Cost is compared on one device, paired by seed, and what disturbed it is said."""

import pytest

from mmbench.report.cost import cost_tables
from mmbench.report.frame import tasks_of, to_frame
from mmbench.report.published import SECONDS, Number
from mmbench.report.published_cost import published_costs
from mmbench.report.rows import groups
from mmbench.report.study import Row, Study
from mmbench.sweep import in_turns

STUDY = Study(name="s", title="T", rows=("concat", "iprm"), baselines=("concat",), cost=True)


@pytest.fixture
def timed(template, make):
    def made(method, seed, seconds, minute, device="one", whole=9.0):
        record = make(template, method, seed, 0.5)
        timing = record.timing.model_copy(update={"epoch_mean": seconds, "total": whole})
        where = record.environment.model_copy(update={"device_name": device})
        return record.model_copy(update={
            "timing": timing, "environment": where,
            "started": f"2026-01-01T00:{minute:02}:00+00:00",
            "finished": f"2026-01-01T00:{minute:02}:59+00:00",
        })  # fmt: skip

    return made


def tables(records, study=STUDY):
    frame = to_frame(records)
    return list(cost_tables(study, groups(study, frame, tasks_of(frame)), reference=False))


def test_ratio_is_paired_by_seed(timed):
    records = [timed("concat", 0, 1.0, 0), timed("iprm", 0, 2.0, 1),
               timed("iprm", 1, 9.0, 2), timed("concat", 1, 3.0, 3)]  # fmt: skip
    (table,) = tables(records)
    row = dict(table.rows)["iprm"]
    assert row[0].value == pytest.approx(5.5)
    assert row[2].value == pytest.approx((2 + 3) / 2)
    assert [(s.seed, s.value) for s in row[2].sources] == [(0, 2.0), (1, 9.0)]
    assert [(s.seed, s.value) for s in row[2].against] == [(0, 1.0), (1, 3.0)]
    assert row[2].pairing == "ratio"
    assert not any("NOT COMPARABLE" in note for note in table.notes)


def test_what_a_method_does_outside_its_steps_counts_in_the_whole_run(timed):
    (table,) = tables(
        [timed("concat", 0, 1.0, 0, whole=10.0), timed("iprm", 0, 1.0, 1, whole=16.0)]
    )
    row = dict(zip(table.columns[1:], dict(table.rows)["iprm"], strict=True))
    assert row["Ratio"].value == 1.0
    assert (row["Run, s"].text, row["Run ratio"].value) == ("16.00", 1.6)
    assert "a whole run of iprm takes 1.60 times that of concat; 1 run of" in table.notes[-1]


def test_the_conclusion_on_several_rows_says_the_least_and_the_most(timed):
    study = STUDY.model_copy(update={"rows": (*STUDY.rows, Row(method="sum"))})
    (table,) = tables([timed("concat", 0, 1.0, 0, whole=10.0), timed("iprm", 0, 1.0, 1, whole=16.0),
                       timed("sum", 0, 1.0, 2, whole=11.0)], study)  # fmt: skip
    assert "a whole run takes from 1.10 (sum) to 1.60 times (iprm) that of" in table.notes[-1]


def test_rows_of_different_devices_stand_in_tables_of_their_own(timed):
    first, second = tables([
        timed("concat", 0, 1.0, 0), timed("iprm", 0, 2.0, 1),
        timed("concat", 0, 5.0, 2, "two"), timed("iprm", 0, 5.0, 3, "two"),
    ])  # fmt: skip
    assert [dict(t.rows)["iprm"][2].value for t in (first, second)] == pytest.approx([2.0, 1.0])
    assert "Device: one." in first.caption
    assert "Device: two." in second.caption
    assert [t.heading for t in (first, second)] == ["T: toy (one)", "T: toy (two)"]
    assert [t.name for t in (first, second)] == ["s-toy-one", "s-toy-two"]


def test_runs_that_overlapped_are_said_not_to_compare(timed):
    (table,) = tables([timed("concat", 0, 1.0, 0), timed("iprm", 0, 2.0, 0)])
    assert any("NOT COMPARABLE: of 2 runs 2 overlapped" in note for note in table.notes)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"compiled": True}, "compiled"),
        ({"memory_format": "channels_last"}, "channels_last"),
        ({"kernels": True}, "own kernels"),
        ({"threads": 7}, "7 threads"),
    ],
)
def test_runs_of_another_way_of_using_the_device_stand_in_a_table_of_their_own(
    timed, changed, words
):
    records = [timed("concat", 0, 1.0, 0), timed("iprm", 0, 2.0, 1)]
    other = timed("concat", 0, 5.0, 2)
    there = other.environment.model_copy(update=changed)
    found = tables([*records, other.model_copy(update={"environment": there})])
    assert sorted(dict(t.rows)["concat"][0].value for t in found) == [1.0, 5.0]
    assert [words in t.caption for t in found].count(True) == 1
    assert [words in t.heading for t in found].count(True) == 1
    assert not any("(one" in t.heading for t in found)  # the same device
    assert tables(records)[0].heading == "T: toy"  # where there is one way, it goes without saying


def test_a_run_that_was_continued_is_said_not_to_compare(timed):
    again = timed("iprm", 0, 2.0, 1)
    again = again.model_copy(update={"timing": again.timing.model_copy(update={"resumed": 2})})
    (table,) = tables([timed("concat", 0, 1.0, 0), again])
    assert any("of 2 runs 1 were interrupted and continued" in note for note in table.notes)
    assert not any("may be concluded" in note for note in table.notes)


def test_methods_take_turns_and_begin_each_seed_with_another(template):
    cells = [template.cell.model_copy(update={"label": m, "method": m, "seed": s})
             for m in ("a", "b", "c") for s in (0, 1)]  # fmt: skip
    assert [(c.seed, c.method) for c in in_turns(cells)] == [
        (0, "a"), (0, "b"), (0, "c"), (1, "b"), (1, "c"), (1, "a")
    ]  # fmt: skip


CITED = [Number("s", "toy", m, "fused", SECONDS, v, "a-paper", 0.5)
         for m, v in (("concat", 50.0), ("iprm", 60.0))]  # fmt: skip
CITED.append(Number("s", "toy", "iprm", "fused", "accuracy", 84.0, "a-paper"))


def test_published_seconds_stand_beside_ours_and_compare_as_ratios(timed):
    frame = to_frame([timed("concat", 0, 1.0, 0), timed("iprm", 0, 2.0, 1)])
    (table,) = published_costs(STUDY, groups(STUDY, frame, tasks_of(frame)), CITED)
    row = dict(zip(table.columns[1:], dict(table.rows)["iprm"], strict=True))
    assert {name: e.text for name, e in row.items()} == {
        "s/epoch, published": "60.00 ± 0.50", "s/epoch, ours": "2.000",
        "Ratio, published": "1.20", "Ratio, ours": "2.00", "Ratio, ours − published": "+0.80",
        "Accuracy, published": "84.00", "Accuracy, ours": "50.00",
        "Accuracy, ours − published": "-34.00",
    }  # fmt: skip
    assert {name for name, e in row.items() if e.style == "cited"} == {
        "s/epoch, published", "Ratio, published", "Accuracy, published"
    }  # fmt: skip


def test_published_seconds_without_ours_stand_alone():
    (table,) = published_costs(STUDY, [], CITED)
    assert [e.text for e in dict(table.rows)["concat"]] == [
        "50.00 ± 0.50", "missing", "1.00", "missing", "", "", "missing", ""
    ]  # fmt: skip
    assert "nothing was run on this dataset" in table.caption


def test_a_method_that_was_refused_says_why_beside_those_that_were_timed(timed):
    refused = timed("iprm", 0, 2.0, 1).model_copy(update={
        "status": "refused", "reason": "needs two", "timing": None, "memory": None, "final": {},
    })  # fmt: skip
    (table,) = tables([timed("concat", 0, 1.0, 0), refused])
    assert dict(table.rows)["iprm"][0].text == "refused"
    assert "iprm: refused: needs two." in table.notes


def test_times_of_another_version_of_the_code_are_not_set_against_each_other(timed):
    later = timed("iprm", 0, 2.0, 1)
    there = later.environment.model_copy(update={"commit": "0" * 40})
    (table,) = tables([timed("concat", 0, 1.0, 0), later.model_copy(update={"environment": there})])
    row = dict(zip(table.columns[1:], dict(table.rows)["iprm"], strict=True))
    assert row["s/epoch"].value == 2.0
    assert [row[name].text for name in ("Ratio", "Run ratio")] == ["other code", "other code"]
    assert any(note.startswith("other code: ") for note in table.notes)
    assert not any("may be concluded" in note for note in table.notes)
